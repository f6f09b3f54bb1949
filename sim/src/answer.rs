//! What a host answers by itself: ICMP errors and TCP resets, for packets that were rejected, expired or have no way on.
//! Facts from nf_reject_ipv4.c, nf_reject_ipv6.c, nft_reject.c, net/ipv4/icmp.c and net/ipv6/icmp.c.
//! It must never know rules or who listens. Tests: tests/world.rs.

use crate::journey::Fate;
use crate::nft::RejectWith;
use crate::packet::{Packet, Transport, flags};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a destination is unreachable, in the words both families have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Route,
    Host,
    Port,
    Protocol,
}

/// The answer to a packet that came to this end, if any. `local`: the destination is this host's own.
pub(crate) fn to(fate: &Fate, packet: &Packet, local: bool) -> Option<Packet> {
    match fate {
        Fate::Rejected(RejectWith::TcpReset, _) => reset(packet),
        Fate::Rejected(RejectWith::Unreachable(code), _) => {
            error(packet, (if packet.src.is_ipv4() { 3 } else { 1 }, *code), local)
        }
        Fate::Rejected(RejectWith::UnreachableX(code), _) => {
            let codes = if packet.src.is_ipv4() { [0, 3, 1, 13] } else { [0, 4, 3, 1] };
            let kind = if packet.src.is_ipv4() { 3 } else { 1 };
            error(packet, (kind, codes[usize::from(*code).min(3)]), local)
        }
        Fate::Expired => error(packet, (if packet.src.is_ipv4() { 11 } else { 3 }, 0), local),
        Fate::NoRoute if packet.entry != crate::Entry::Local => {
            unreachable(packet, Unreachable::Route, local)
        }
        _ => None,
    }
}

/// A "destination unreachable" message.
pub(crate) fn unreachable(packet: &Packet, why: Unreachable, local: bool) -> Option<Packet> {
    let message = match (packet.src.is_ipv4(), why) {
        (true, Unreachable::Route) => (3, 0),
        (true, Unreachable::Host) => (3, 1),
        (true, Unreachable::Protocol) => (3, 2),
        (true, Unreachable::Port) => (3, 3),
        (false, Unreachable::Route) => (1, 0),
        (false, Unreachable::Host) => (1, 3),
        (false, Unreachable::Protocol) => (4, 1),
        (false, Unreachable::Port) => (1, 4),
    };
    error(packet, message, local)
}

/// An ICMP error with (type, code). Its source is the packet's destination where that is local, else it follows from the route.
fn error(packet: &Packet, message: (u8, u8), local: bool) -> Option<Packet> {
    let group = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified(),
    };
    if packet.is_icmp_error() || group(packet.src) || packet.dst.is_multicast() {
        return None;
    }
    let any: IpAddr = match packet.src {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let inner = Some(Box::new(Packet { mark: 0, priority: 0, ..packet.clone() }));
    let transport = Transport::Icmp { kind: message.0, code: message.1, id: 0, inner };
    Some(Packet::new(if local { packet.dst } else { any }, packet.src, transport))
}

/// A TCP reset, but never to a reset.
pub(crate) fn reset(packet: &Packet) -> Option<Packet> {
    let Transport::Tcp { sport, dport, flags: sent } = packet.transport else { return None };
    if sent & flags::RST != 0 {
        return None;
    }
    let flags = if sent & flags::ACK != 0 { flags::RST } else { flags::RST | flags::ACK };
    let transport = Transport::Tcp { sport: dport, dport: sport, flags };
    Some(Packet::new(packet.dst, packet.src, transport))
}
