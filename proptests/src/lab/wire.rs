//! Packets as bytes: builds the first packet of a connection with right checksums and recognises
//! it, or a refusal of it, wherever it turns up. A 32-bit tag travels where NAT never looks (TCP
//! sequence number, UDP data, SCTP initiate tag). Knows no socket and no cluster. Tests: below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_proxy::kernel::Socket;
use kube_proxy::model::Protocol;

use crate::fate::Packet;

/// What a captured packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// One of ours, with the addresses it has here.
    Plain {
        /// Its tag.
        tag: u32,
        /// Source.
        source: Socket,
        /// Destination.
        dest: Socket,
    },
    /// An ICMP error, reset or abort that answers one of ours.
    Refusal {
        /// Tag of the packet that was refused.
        tag: u32,
    },
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The bytes of `packet` from its IP header on.
pub fn build(packet: &Packet, sport: u16, tag: u32) -> Vec<u8> {
    let mut transport = match packet.protocol {
        Protocol::Tcp => tcp_syn(sport, packet.port, tag),
        Protocol::Udp => udp(sport, packet.port, tag),
        Protocol::Sctp => sctp_init(sport, packet.port, tag),
    };
    checksum_in(&mut transport, packet);
    let mut bytes = ip_header(packet, transport.len());
    bytes.extend_from_slice(&transport);
    bytes
}

fn tcp_syn(sport: u16, dport: u16, tag: u32) -> Vec<u8> {
    let mut bytes = ports(sport, dport);
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

fn udp(sport: u16, dport: u16, tag: u32) -> Vec<u8> {
    let mut bytes = ports(sport, dport);
    bytes.extend([0, 12, 0, 0]);
    bytes.extend(tag.to_be_bytes());
    bytes
}

fn sctp_init(sport: u16, dport: u16, tag: u32) -> Vec<u8> {
    let mut bytes = ports(sport, dport);
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes
}

fn ports(sport: u16, dport: u16) -> Vec<u8> {
    [sport.to_be_bytes(), dport.to_be_bytes()].concat()
}

fn checksum_in(transport: &mut [u8], packet: &Packet) {
    let at = match packet.protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Sctp => {
            let sum = crc32c(transport);
            transport[8..12].copy_from_slice(&sum.to_le_bytes());
            return;
        }
    };
    let mut covered = match (packet.source, packet.dest) {
        (IpAddr::V4(s), IpAddr::V4(d)) => [s.octets(), d.octets()].concat(),
        (s, d) => [octets(s), octets(d)].concat(),
    };
    covered.extend((transport.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, packet.protocol.number()]);
    covered.extend_from_slice(transport);
    let sum = match internet_checksum(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

fn ip_header(packet: &Packet, payload: usize) -> Vec<u8> {
    let number = packet.protocol.number();
    match (packet.source, packet.dest) {
        (IpAddr::V4(source), IpAddr::V4(dest)) => {
            let mut bytes = vec![0x45, 0];
            bytes.extend(((20 + payload) as u16).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(dest.octets());
            let sum = internet_checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes
        }
        (source, dest) => {
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend((payload as u16).to_be_bytes());
            bytes.extend([number, 64]);
            bytes.extend(octets(source));
            bytes.extend(octets(dest));
            bytes
        }
    }
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c as SCTP uses it (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// What a captured packet is, if it has to do with ours.
pub fn recognise(bytes: &[u8]) -> Option<Sighting> {
    let header = Header::read(bytes)?;
    let body = bytes.get(header.len..)?;
    let quoted = match (header.protocol, body.first()?) {
        (ICMP, 3) | (ICMPV6, 1) => body.get(8..)?,
        (ICMP | ICMPV6, _) => return None,
        _ => return transport(&header, body),
    };
    let inner = Header::read(quoted)?;
    match transport(&inner, quoted.get(inner.len..)?)? {
        Sighting::Plain { tag, .. } => Some(Sighting::Refusal { tag }),
        Sighting::Refusal { .. } => None,
    }
}

/// What a packet without its IP header is: what an IPv6 raw socket gives.
pub fn recognise_body(
    protocol: Protocol,
    source: IpAddr,
    dest: IpAddr,
    body: &[u8],
) -> Option<Sighting> {
    transport(&Header { len: 0, protocol: protocol.number(), source, dest }, body)
}

struct Header {
    len: usize,
    protocol: u8,
    source: IpAddr,
    dest: IpAddr,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Header> {
        if bytes.first()? >> 4 == 4 {
            let head: &[u8; 20] = bytes.get(..20)?.try_into().ok()?;
            return Some(Header {
                len: usize::from(head[0] & 15) * 4,
                protocol: head[9],
                source: Ipv4Addr::new(head[12], head[13], head[14], head[15]).into(),
                dest: Ipv4Addr::new(head[16], head[17], head[18], head[19]).into(),
            });
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        Some(Header { len: 40, protocol: *bytes.get(6)?, source: address(8)?, dest: address(24)? })
    }
}

fn transport(header: &Header, body: &[u8]) -> Option<Sighting> {
    let short = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let tag = match Protocol::from_number(header.protocol)? {
        // An ICMP error quotes at least 8 bytes, which may end before the flags.
        Protocol::Tcp => match body.get(13).map_or(0x02, |flags| flags & 0x06) {
            0x02 => long(4)?,
            0x04 => return Some(Sighting::Refusal { tag: long(8)?.wrapping_sub(1) }),
            _ => return None,
        },
        Protocol::Udp => long(8)?,
        Protocol::Sctp => match body.get(12)? {
            1 => long(16)?,
            6 => return Some(Sighting::Refusal { tag: long(4)? }),
            _ => return None,
        },
    };
    Some(Sighting::Plain {
        tag,
        source: Socket { address: header.source, port: short(0)? },
        dest: Socket { address: header.dest, port: short(2)? },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fate::Entry;

    fn packet(protocol: Protocol, source: &str, dest: &str) -> Packet {
        let (source, dest) = (source.parse().unwrap(), dest.parse().unwrap());
        Packet { entry: Entry::Node, source, protocol, dest, port: 80 }
    }

    #[test]
    fn the_check_values_of_the_checksums() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(internet_checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
    }

    #[test]
    fn a_packet_is_recognised_in_both_families() {
        for protocol in Protocol::ALL {
            for (source, dest) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
                let packet = packet(protocol, source, dest);
                let bytes = build(&packet, 20_000, 77);
                let source = Socket { address: packet.source, port: 20_000 };
                let dest = packet.target();
                assert_eq!(recognise(&bytes), Some(Sighting::Plain { tag: 77, source, dest }));
                for cut in 0..bytes.len() {
                    recognise(&bytes[..cut]);
                }
            }
        }
    }

    #[test]
    fn an_icmp_error_is_recognised_by_what_it_quotes() {
        let inner = build(&packet(Protocol::Udp, "10.0.0.1", "10.0.0.2"), 20_000, 78);
        let mut bytes = ip_header(&packet(Protocol::Udp, "10.0.0.9", "10.0.0.1"), 8 + inner.len());
        bytes[9] = ICMP;
        bytes.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        bytes.extend(inner);
        assert_eq!(recognise(&bytes), Some(Sighting::Refusal { tag: 78 }));
    }
}
