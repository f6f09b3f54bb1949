//! A packet as the simulator sees it: addresses, one transport header, a mark, and where it enters the host.
//! It also renders itself as header bytes, because nft `payload` loads bytes. It must never know rules or connections.
//! Tests: below.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// IANA protocol numbers the simulator understands.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP header flags.
pub mod flags {
    /// Last data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets a connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
}

/// Where a packet enters the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// A process on this host sends it: it starts at the output hook.
    Local,
    /// It arrives on the link with this index: it starts at prerouting.
    Link(u32),
}

/// The transport part of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A TCP segment with its flags (see [`flags`]).
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Flag bits.
        flags: u8,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// An SCTP packet, known by the type of its first chunk (1 is INIT).
    Sctp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// First chunk's type (RFC 9260, section 3.2).
        chunk: u8,
    },
    /// ICMP or ICMPv6 (by the family of the addresses); errors carry the packet they complain about.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// Echo identifier.
        id: u16,
        /// The packet an error message quotes.
        inner: Option<Box<Packet>>,
    },
    /// Anything else, by protocol number.
    Other(u8),
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Transport header.
    pub transport: Transport,
    /// The firewall mark; zero on a packet that arrives on a link.
    pub mark: u32,
    /// The queueing priority; rules may read and set it.
    pub priority: u32,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Bytes after the transport header.
    pub payload: u16,
    /// TCP: its sequence number lies outside of the window its connection allows (a late retransmission, a blind reset).
    pub out_of_window: bool,
    /// Where it enters.
    pub entry: Entry,
}

impl Packet {
    /// A TCP SYN sent by this host.
    pub fn tcp(src: SocketAddr, dst: SocketAddr) -> Self {
        let transport = Transport::Tcp { sport: src.port(), dport: dst.port(), flags: flags::SYN };
        Self::new(src.ip(), dst.ip(), transport)
    }

    /// A UDP datagram sent by this host.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        let transport = Transport::Udp { sport: src.port(), dport: dst.port() };
        Self::new(src.ip(), dst.ip(), transport)
    }

    /// An SCTP INIT sent by this host.
    pub fn sctp(src: SocketAddr, dst: SocketAddr) -> Self {
        let transport = Transport::Sctp { sport: src.port(), dport: dst.port(), chunk: 1 };
        Self::new(src.ip(), dst.ip(), transport)
    }

    /// An echo request sent by this host.
    pub fn echo(src: IpAddr, dst: IpAddr, id: u16) -> Self {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        Self::new(src, dst, Transport::Icmp { kind, code: 0, id, inner: None })
    }

    /// Any packet sent by this host.
    pub fn new(src: IpAddr, dst: IpAddr, transport: Transport) -> Self {
        Packet {
            src,
            dst,
            transport,
            mark: 0,
            priority: 0,
            ttl: 64,
            payload: 0,
            out_of_window: false,
            entry: Entry::Local,
        }
    }

    /// The same packet, arriving on a link.
    #[must_use]
    pub fn arriving(mut self, link: u32) -> Self {
        self.entry = Entry::Link(link);
        self
    }

    /// The same packet, sent by this host.
    #[must_use]
    pub fn sent_here(mut self) -> Self {
        self.entry = Entry::Local;
        self
    }

    /// The same TCP packet with other flags; other packets stay as they are.
    #[must_use]
    pub fn with_flags(mut self, wanted: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = wanted;
        }
        self
    }

    /// The same packet with a mark.
    #[must_use]
    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// What the receiver of this packet answers first: SYN-ACK, datagram back, INIT-ACK, echo reply. The mark is gone.
    #[must_use]
    pub fn answer(&self) -> Self {
        let transport = match self.transport {
            Transport::Tcp { sport, dport, flags: sent } => {
                let back =
                    if sent & flags::SYN != 0 { flags::SYN | flags::ACK } else { flags::ACK };
                Transport::Tcp { sport: dport, dport: sport, flags: back }
            }
            Transport::Udp { sport, dport } => Transport::Udp { sport: dport, dport: sport },
            Transport::Sctp { sport, dport, chunk } => Transport::Sctp {
                sport: dport,
                dport: sport,
                chunk: if chunk == 1 { 2 } else { chunk },
            },
            Transport::Icmp { kind, code, id, .. } => {
                let kind = match kind {
                    8 => 0,
                    128 => 129,
                    other => other,
                };
                Transport::Icmp { kind, code, id, inner: None }
            }
            Transport::Other(number) => Transport::Other(number),
        };
        Packet { mark: 0, priority: 0, ttl: 64, ..Self::new(self.dst, self.src, transport) }
    }

    /// IANA number of the transport protocol.
    #[inline]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp { .. } => protocol::UDP,
            Transport::Sctp { .. } => protocol::SCTP,
            Transport::Icmp { .. } if self.dst.is_ipv6() => protocol::ICMPV6,
            Transport::Icmp { .. } => protocol::ICMP,
            Transport::Other(number) => number,
        }
    }

    /// Source and destination port, for the protocols that have them.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp { sport, dport, .. }
            | Transport::Udp { sport, dport }
            | Transport::Sctp { sport, dport, .. } => Some((sport, dport)),
            _ => None,
        }
    }

    /// Ports, or an ICMP identifier: what translation may change beside addresses.
    pub(crate) fn identity(&self) -> (u16, u16) {
        match self.transport {
            Transport::Icmp { id, .. } => (id, 0),
            _ => self.ports().unwrap_or((0, 0)),
        }
    }

    /// The same TCP packet with a sequence number outside of its connection's window.
    #[must_use]
    pub fn outside_of_the_window(mut self) -> Self {
        self.out_of_window = true;
        self
    }

    /// Source port; zero where the protocol has none.
    pub fn sport(&self) -> u16 {
        self.ports().map_or(0, |(sport, _)| sport)
    }

    /// Destination port; zero where the protocol has none.
    pub fn dport(&self) -> u16 {
        self.ports().map_or(0, |(_, dport)| dport)
    }

    pub(crate) fn set_source(&mut self, address: IpAddr, port: u16) {
        self.src = address;
        match &mut self.transport {
            Transport::Tcp { sport, .. }
            | Transport::Udp { sport, .. }
            | Transport::Sctp { sport, .. } => *sport = port,
            Transport::Icmp { id, .. } => *id = port,
            Transport::Other(_) => {}
        }
    }

    pub(crate) fn set_destination(&mut self, address: IpAddr, port: u16) {
        self.dst = address;
        match &mut self.transport {
            Transport::Tcp { dport, .. }
            | Transport::Udp { dport, .. }
            | Transport::Sctp { dport, .. } => *dport = port,
            Transport::Icmp { .. } | Transport::Other(_) => {}
        }
    }

    /// Is this an ICMP error, which belongs to the connection it quotes?
    pub(crate) fn is_icmp_error(&self) -> bool {
        match self.transport {
            Transport::Icmp { kind, .. } if self.dst.is_ipv4() => {
                matches!(kind, 3 | 4 | 5 | 11 | 12)
            }
            Transport::Icmp { kind, .. } => kind < 128,
            _ => false,
        }
    }

    /// Length in bytes, network header included.
    pub(crate) fn length(&self) -> u32 {
        let network = if self.dst.is_ipv4() { 20 } else { 40 };
        network + self.transport_length() as u32 + u32::from(self.payload)
    }

    fn transport_length(&self) -> usize {
        match self.transport {
            Transport::Tcp { .. } => 20,
            Transport::Udp { .. } | Transport::Icmp { .. } => 8,
            Transport::Sctp { .. } => 16,
            Transport::Other(_) => 0,
        }
    }

    /// The header bytes, as nft `payload` would load them. Checksums are zero.
    pub(crate) fn headers(&self) -> Headers {
        let mut headers = Headers {
            network: [0; 40],
            network_len: 0,
            transport: [0; 20],
            transport_len: self.transport_length(),
        };
        self.write_network(&mut headers);
        self.write_transport(&mut headers.transport);
        headers
    }

    fn write_network(&self, headers: &mut Headers) {
        let bytes = &mut headers.network;
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                headers.network_len = 20;
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&(self.length() as u16).to_be_bytes());
                bytes[8] = self.ttl;
                bytes[9] = self.protocol();
                bytes[12..16].copy_from_slice(&src.octets());
                bytes[16..20].copy_from_slice(&dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                headers.network_len = 40;
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&((self.length() - 40) as u16).to_be_bytes());
                bytes[6] = self.protocol();
                bytes[7] = self.ttl;
                bytes[8..24].copy_from_slice(&src.octets());
                bytes[24..40].copy_from_slice(&dst.octets());
            }
            _ => {}
        }
    }

    fn write_transport(&self, bytes: &mut [u8; 20]) {
        if let Some((sport, dport)) = self.ports() {
            bytes[0..2].copy_from_slice(&sport.to_be_bytes());
            bytes[2..4].copy_from_slice(&dport.to_be_bytes());
        }
        match self.transport {
            Transport::Tcp { flags, .. } => {
                bytes[12] = 5 << 4;
                bytes[13] = flags;
            }
            Transport::Udp { .. } => {
                bytes[4..6].copy_from_slice(&self.payload.saturating_add(8).to_be_bytes())
            }
            Transport::Sctp { chunk, .. } => bytes[12] = chunk,
            Transport::Icmp { kind, code, id, .. } => {
                bytes[0] = kind;
                bytes[1] = code;
                bytes[4..6].copy_from_slice(&id.to_be_bytes());
            }
            Transport::Other(_) => {}
        }
    }
}

/// Header bytes of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    network: [u8; 40],
    network_len: usize,
    transport: [u8; 20],
    transport_len: usize,
}

impl Headers {
    #[inline]
    pub(crate) fn network(&self) -> &[u8] {
        &self.network[..self.network_len]
    }

    #[inline]
    pub(crate) fn transport(&self) -> &[u8] {
        &self.transport[..self.transport_len]
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.transport {
            Transport::Tcp { flags: bits, .. } => {
                return write!(
                    out,
                    "tcp {} → {} [{}]{}",
                    self.end(self.src, self.sport()),
                    self.end(self.dst, self.dport()),
                    FlagNames(*bits),
                    Marked(self.mark)
                );
            }
            Transport::Udp { .. } => "udp",
            Transport::Sctp { .. } => "sctp",
            Transport::Icmp { kind, code, id, .. } => {
                return write!(
                    out,
                    "icmp {}/{code} id {id} {} → {}{}",
                    kind,
                    self.src,
                    self.dst,
                    Marked(self.mark)
                );
            }
            Transport::Other(number) => {
                return write!(
                    out,
                    "protocol {number} {} → {}{}",
                    self.src,
                    self.dst,
                    Marked(self.mark)
                );
            }
        };
        write!(
            out,
            "{name} {} → {}{}",
            self.end(self.src, self.sport()),
            self.end(self.dst, self.dport()),
            Marked(self.mark)
        )
    }
}

impl Packet {
    fn end(&self, address: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(address, port)
    }
}

struct Marked(u32);

impl fmt::Display for Marked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(out, " mark {:#x}", self.0) }
    }
}

struct FlagNames(u8);

impl fmt::Display for FlagNames {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (flags::SYN, "S"),
            (flags::ACK, "A"),
            (flags::FIN, "F"),
            (flags::RST, "R"),
            (flags::PSH, "P"),
        ];
        named
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .try_for_each(|(_, letter)| out.write_str(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_where_linux_has_them() {
        let packet = Packet::tcp(
            "10.0.0.1:1000".parse().expect("literal"),
            "10.0.0.2:80".parse().expect("literal"),
        );
        let headers = packet.headers();
        assert_eq!(&headers.network()[12..20], &[10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(headers.network()[9], 6);
        assert_eq!(&headers.transport()[..4], &[0x03, 0xe8, 0, 80]);
        assert_eq!(packet.to_string(), "tcp 10.0.0.1:1000 → 10.0.0.2:80 [S]");
    }
}
