//! Address translation: choosing a connection's translated tuple, and rewriting packets by it.
//! Facts from net/netfilter/nf_nat_core.c. It must never know rules; who asks for a translation gives a `Range`.
//! Not modelled: spreading over an address range as Linux hashes it, and reuse of another connection's mapping.
//! Tests: tests/hooks.rs, tests/conntrack.rs.

use super::{Conn, Tracker, Tuple, status};
use crate::chance::Chance;
use crate::packet::{Packet, Transport, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which end is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manip {
    Source,
    Destination,
}

/// Flags of a range (linux/netfilter/nf_nat.h).
pub(crate) mod range_flags {
    pub(crate) const MAP_IPS: u32 = 1;
    pub(crate) const PROTO_SPECIFIED: u32 = 2;
    pub(crate) const PROTO_RANDOM: u32 = 4;
    pub(crate) const PERSISTENT: u32 = 8;
    pub(crate) const PROTO_RANDOM_FULLY: u32 = 16;
    pub(crate) const ANY_RANDOM: u32 = PROTO_RANDOM | PROTO_RANDOM_FULLY;
}

/// What a translation may choose from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) flags: u32,
    pub(crate) addresses: Option<(IpAddr, IpAddr)>,
    pub(crate) ports: (u16, u16),
}

const MAX_ATTEMPTS: u32 = 128;

impl Tracker {
    /// Decides the translation of one end of a new connection (nf_nat_setup_info). False: the packet must be dropped.
    pub(crate) fn bind(
        &mut self,
        id: u32,
        range: &Range,
        manip: Manip,
        env: (&mut Chance, u64),
    ) -> bool {
        let Some(conn) = self.get(id) else { return true };
        let done = match manip {
            Manip::Source => status::SRC_NAT_DONE,
            Manip::Destination => status::DST_NAT_DONE,
        };
        if conn.has(done) {
            return false;
        }
        if conn.has(status::CONFIRMED) {
            return true;
        }
        let current = conn.reply.inverse();
        let chosen = self.unique(id, current, range, manip, env);
        let Some(conn) = self.get_mut(id) else { return true };
        if chosen != current {
            conn.reply = chosen.inverse();
            conn.status |= if manip == Manip::Source { status::SRC_NAT } else { status::DST_NAT };
        }
        conn.status |= done;
        true
    }

    /// Keeps the end as it is, but for a source port another connection holds (nf_nat_alloc_null_binding).
    pub(crate) fn bind_null(&mut self, id: u32, manip: Manip, env: (&mut Chance, u64)) -> bool {
        let Some(conn) = self.get(id) else { return true };
        let address = if manip == Manip::Source { conn.reply.dst } else { conn.reply.src };
        let range = Range {
            flags: range_flags::MAP_IPS,
            addresses: Some((address, address)),
            ports: (0, 0),
        };
        self.bind(id, &range, manip, env)
    }

    fn unique(
        &self,
        id: u32,
        current: Tuple,
        range: &Range,
        manip: Manip,
        env: (&mut Chance, u64),
    ) -> Tuple {
        let (chance, now) = env;
        let mut tuple = current;
        if let Some((first, last)) = range.addresses {
            let end = if manip == Manip::Source { &mut tuple.src } else { &mut tuple.dst };
            *end = pick(first, last, &current);
        }
        if range.flags & range_flags::ANY_RANDOM == 0 {
            let free = || !self.taken(&tuple.inverse(), id, now);
            let fits = if range.flags & range_flags::PROTO_SPECIFIED != 0 {
                in_ports(&tuple, manip, range.ports) && (range.ports.0 == range.ports.1 || free())
            } else {
                free()
            };
            if fits {
                return tuple;
            }
        }
        self.free_port(id, tuple, (range, manip), (chance, now))
    }

    /// Tries ports until the tuple is free (nf_nat_l4proto_unique_tuple).
    fn free_port(
        &self,
        id: u32,
        mut tuple: Tuple,
        wanted: (&Range, Manip),
        env: (&mut Chance, u64),
    ) -> Tuple {
        let ((range, manip), (chance, now)) = (wanted, env);
        let has_ports = matches!(tuple.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let is_icmp = matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6);
        let specified = range.flags & range_flags::PROTO_SPECIFIED != 0;
        if !(has_ports || is_icmp && manip == Manip::Source)
            || !specified && manip == Manip::Destination
        {
            return tuple;
        }
        let (low, size) = match (specified, is_icmp) {
            (true, _) => (
                u32::from(range.ports.0.min(range.ports.1)),
                u32::from(range.ports.0.abs_diff(range.ports.1)) + 1,
            ),
            (false, true) => (0, 65_536),
            (false, false) => source_ports(tuple.sport),
        };
        let random = manip == Manip::Source || range.flags & range_flags::ANY_RANDOM != 0;
        let mut offset = if random { chance.any() % 65_536 } else { 0 };
        let mut attempts = size.min(MAX_ATTEMPTS);
        loop {
            for _ in 0..attempts {
                let port = (low + offset % size) as u16;
                if manip == Manip::Source {
                    tuple.sport = port
                } else {
                    tuple.dport = port
                }
                if !self.taken(&tuple.inverse(), id, now) {
                    return tuple;
                }
                offset = offset.wrapping_add(1);
            }
            if attempts >= size || attempts < 16 {
                return tuple;
            }
            attempts /= 2;
            offset = chance.any() % 65_536;
        }
    }
}

/// Ports a source port may be exchanged for: privileged ones stay privileged.
fn source_ports(port: u16) -> (u32, u32) {
    match port {
        0..512 => (1, 511),
        512..1024 => (600, 424),
        _ => (1024, 64_512),
    }
}

fn in_ports(tuple: &Tuple, manip: Manip, ports: (u16, u16)) -> bool {
    let port = if manip == Manip::Source { tuple.sport } else { tuple.dport };
    (ports.0..=ports.1).contains(&port)
}

/// An address of the range: the only one, or one that follows from the connection's ends.
fn pick(first: IpAddr, last: IpAddr, tuple: &Tuple) -> IpAddr {
    let spread = |low: u128, high: u128, seed: u128| {
        low + seed % (high.saturating_sub(low).saturating_add(1)).max(1)
    };
    match (first, last, tuple.src, tuple.dst) {
        _ if first == last => first,
        (IpAddr::V4(low), IpAddr::V4(high), IpAddr::V4(src), IpAddr::V4(dst)) => {
            let seed = u128::from(u32::from(src) ^ u32::from(dst));
            Ipv4Addr::from(spread(u32::from(low).into(), u32::from(high).into(), seed) as u32)
                .into()
        }
        (IpAddr::V6(low), IpAddr::V6(high), IpAddr::V6(src), IpAddr::V6(dst)) => {
            Ipv6Addr::from(spread(low.into(), high.into(), u128::from(src) ^ u128::from(dst)))
                .into()
        }
        _ => first,
    }
}

/// Rewrites one end of a packet as its connection says (nf_nat_packet). True when the packet changed.
pub(crate) fn translate(packet: &mut Packet, conn: &Conn, reply: bool, manip: Manip) -> bool {
    let wanted = match (manip, reply) {
        (Manip::Source, false) | (Manip::Destination, true) => status::SRC_NAT,
        (Manip::Destination, false) | (Manip::Source, true) => status::DST_NAT,
    };
    if !conn.has(wanted) {
        return false;
    }
    let target = conn.tuple(!reply).inverse();
    let quotes = packet.is_icmp_error();
    if let Transport::Icmp { inner: Some(inner), .. } = &mut packet.transport
        && quotes
    {
        // What an error quotes went the other way, so its other end is rewritten.
        match manip {
            Manip::Source => inner.set_destination(target.src, target.sport),
            Manip::Destination => inner.set_source(target.dst, target.dport),
        }
    }
    let before = (packet.src, packet.dst, packet.ports());
    match manip {
        Manip::Source if quotes => packet.src = target.src,
        Manip::Destination if quotes => packet.dst = target.dst,
        Manip::Source => packet.set_source(target.src, target.sport),
        Manip::Destination => packet.set_destination(target.dst, target.dport),
    }
    before != (packet.src, packet.dst, packet.ports())
}
