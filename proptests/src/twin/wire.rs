//! Packets of the simulator as bytes, with right checksums, and back. What the simulator does not
//! know of (sequence numbers, tags) stands in `Numbers`. Knows no socket. Tests: below, `super::tests`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sim::packet::{Packet, Transport, protocol};

/// Numbers of a packet that NAT never looks at; they tell one packet from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// TCP sequence number, SCTP initiate tag, or the data of UDP and echo.
    pub sequence: u32,
    /// TCP acknowledgement number or SCTP verification tag.
    pub answer: u32,
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The packet.
    pub packet: Packet,
    /// Its numbers.
    pub numbers: Numbers,
    /// Of an ICMP error, the packet it quotes.
    pub quoted: Option<Box<Heard>>,
}

/// The bytes of a packet from its IP header on.
pub fn build(packet: &Packet, numbers: Numbers) -> Vec<u8> {
    let mut transport = transport(packet, numbers);
    let mut bytes = ip_header(packet, transport.len());
    checksum_in(&mut transport, packet);
    bytes.extend_from_slice(&transport);
    bytes
}

fn transport(packet: &Packet, numbers: Numbers) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ports = |bytes: &mut Vec<u8>, sport: u16, dport: u16| {
        bytes.extend(sport.to_be_bytes());
        bytes.extend(dport.to_be_bytes());
    };
    match packet.transport {
        Transport::Tcp { sport, dport, flags } => {
            ports(&mut bytes, sport, dport);
            bytes.extend(numbers.sequence.to_be_bytes());
            bytes.extend(numbers.answer.to_be_bytes());
            bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Transport::Udp { sport, dport } => {
            ports(&mut bytes, sport, dport);
            bytes.extend([0, 12, 0, 0]);
            bytes.extend(numbers.sequence.to_be_bytes());
        }
        Transport::Sctp { sport, dport, chunk } => {
            ports(&mut bytes, sport, dport);
            bytes.extend(numbers.answer.to_be_bytes());
            bytes.extend([0, 0, 0, 0, chunk, 0]);
            let body: &[u8] = if chunk < 3 { &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1] } else { &[] };
            bytes.extend((8 + body.len() as u16).to_be_bytes());
            bytes.extend(numbers.sequence.to_be_bytes());
            bytes.extend(body);
        }
        Transport::Icmp { kind, code, id, .. } => {
            bytes.extend([kind, code, 0, 0]);
            bytes.extend(id.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(numbers.sequence.to_be_bytes());
        }
        Transport::Other(_) => bytes.extend(numbers.sequence.to_be_bytes()),
    }
    bytes
}

/// Bytes behind the transport header that `build` adds, as the simulator counts them.
pub fn payload(packet: &Packet) -> u16 {
    match packet.transport {
        Transport::Tcp { .. } => 0,
        Transport::Sctp { chunk, .. } if chunk < 3 => 16,
        _ => 4,
    }
}

fn checksum_in(transport: &mut [u8], packet: &Packet) {
    let at = match packet.protocol() {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        protocol::SCTP => {
            let sum = crc32c(transport);
            transport[8..12].copy_from_slice(&sum.to_le_bytes());
            return;
        }
        _ => return,
    };
    let mut covered = Vec::new();
    if packet.protocol() != protocol::ICMP {
        covered.extend(octets(packet.src));
        covered.extend(octets(packet.dst));
        covered.extend((transport.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, packet.protocol()]);
    }
    covered.extend_from_slice(transport);
    let sum = match internet_checksum(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn ip_header(packet: &Packet, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if packet.dst.is_ipv4() {
        bytes.extend([0x45, 0]);
        bytes.extend(((20 + payload) as u16).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, packet.ttl, packet.protocol(), 0, 0]);
    } else {
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend((payload as u16).to_be_bytes());
        bytes.extend([packet.protocol(), packet.ttl]);
    }
    bytes.extend(octets(packet.src));
    bytes.extend(octets(packet.dst));
    if packet.dst.is_ipv4() {
        let sum = internet_checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// RFC 1071.
pub(crate) fn internet_checksum(bytes: &[u8]) -> u16 {
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
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// Reads a packet from its IP header on.
pub fn read(bytes: &[u8]) -> Option<Heard> {
    if bytes.first()? >> 4 == 4 {
        let head: &[u8; 20] = bytes.get(..20)?.try_into().ok()?;
        let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
        let body = bytes.get(usize::from(head[0] & 15) * 4..)?;
        return read_body((address(12).into(), address(16).into()), (head[9], head[8]), body);
    }
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    read_body((address(8)?, address(24)?), (bytes[6], bytes[7]), bytes.get(40..)?)
}

/// Reads what follows the IP header, of which source, destination, protocol and TTL are known.
pub fn read_body(ends: (IpAddr, IpAddr), (number, ttl): (u8, u8), body: &[u8]) -> Option<Heard> {
    let short = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let (mut sequence, mut answer, mut quoted) = (0, 0, None);
    let transport = match number {
        protocol::TCP => {
            sequence = long(4)?;
            answer = long(8).unwrap_or(0);
            let flags = body.get(13).copied().unwrap_or(0);
            Transport::Tcp { sport: short(0)?, dport: short(2)?, flags }
        }
        protocol::UDP => {
            sequence = long(8).unwrap_or(0);
            Transport::Udp { sport: short(0)?, dport: short(2)? }
        }
        protocol::SCTP => {
            answer = long(4)?;
            sequence = long(16).unwrap_or(0);
            let chunk = body.get(12).copied().unwrap_or(0);
            Transport::Sctp { sport: short(0)?, dport: short(2)?, chunk }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let kind = *body.first()?;
            let error = if number == protocol::ICMP {
                matches!(kind, 3 | 4 | 5 | 11 | 12)
            } else {
                kind < 128
            };
            if error {
                quoted = read(body.get(8..)?).map(Box::new);
            } else {
                sequence = long(8).unwrap_or(0);
            }
            Transport::Icmp { kind, code: *body.get(1)?, id: short(4)?, inner: None }
        }
        other => Transport::Other(other),
    };
    let packet = Packet { ttl, ..Packet::new(ends.0, ends.1, transport) };
    Some(Heard { packet, numbers: Numbers { sequence, answer }, quoted })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_back() {
        for (src, dst) in [("10.0.0.1:7", "10.0.0.2:80"), ("[fd00::1]:7", "[fd00::2]:80")] {
            let ends: [std::net::SocketAddr; 2] = [src, dst].map(|end| end.parse().unwrap());
            let [src, dst] = ends;
            let echo = Packet::echo(src.ip(), dst.ip(), 9);
            let all = [Packet::tcp(src, dst), Packet::udp(src, dst), Packet::sctp(src, dst), echo];
            for packet in all {
                let numbers = Numbers { sequence: 77, answer: 0 };
                let bytes = build(&packet, numbers);
                assert_eq!(read(&bytes), Some(Heard { packet, numbers, quoted: None }));
                for cut in 0..bytes.len() {
                    read(&bytes[..cut]);
                }
            }
        }
    }

    #[test]
    fn the_check_values_of_the_checksums() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(internet_checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
    }
}
