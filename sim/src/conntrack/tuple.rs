//! A connection's tuple: one direction's addresses and ports, the key of the connection table.
//! Facts from include/net/netfilter/nf_conntrack_tuple.h. It must never know rules or routes. Tests: tests/conntrack.rs.

use crate::packet::{Packet, Transport, protocol};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// One direction of a connection. For ICMP the source port is the identifier and the destination port is type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Transport protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// The tuple of a packet.
    pub(crate) fn of(packet: &Packet) -> Tuple {
        let (sport, dport) = match packet.transport {
            Transport::Icmp { kind, code, id, .. } => (id, u16::from_be_bytes([kind, code])),
            _ => packet.ports().unwrap_or((0, 0)),
        };
        Tuple { src: packet.src, dst: packet.dst, sport, dport, protocol: packet.protocol() }
    }

    /// The tuple of the opposite direction.
    pub(crate) fn inverse(self) -> Tuple {
        let (sport, dport) = match self.protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                let [kind, code] = self.dport.to_be_bytes();
                (self.sport, u16::from_be_bytes([answering(self.protocol, kind), code]))
            }
            _ => (self.dport, self.sport),
        };
        Tuple { src: self.dst, dst: self.src, sport, dport, protocol: self.protocol }
    }
}

/// The ICMP type that answers a type (nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c).
fn answering(protocol: u8, kind: u8) -> u8 {
    match (protocol, kind) {
        (protocol::ICMP, 8) => 0,
        (protocol::ICMP, 0) => 8,
        (protocol::ICMP, 13 | 15 | 17) => kind + 1,
        (protocol::ICMP, 14 | 16 | 18) => kind - 1,
        (protocol::ICMPV6, 128) => 129,
        (protocol::ICMPV6, 129) => 128,
        _ => kind,
    }
}

impl Hash for Tuple {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                state.write_u64(u64::from(u32::from(src)) << 32 | u64::from(u32::from(dst)))
            }
            (src, dst) => {
                for half in [src, dst] {
                    if let IpAddr::V6(v6) = half {
                        let bits = u128::from(v6);
                        state.write_u64(bits as u64);
                        state.write_u64((bits >> 64) as u64);
                    }
                }
            }
        }
        state.write_u64(
            u64::from(self.sport) << 32 | u64::from(self.dport) << 8 | u64::from(self.protocol),
        );
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "src={} dst={} sport={} dport={}", self.src, self.dst, self.sport, self.dport)
    }
}
