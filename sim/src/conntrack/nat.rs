//! Address translation: choosing a connection's translated tuple, and rewriting packets by it.
//! Facts from net/netfilter/nf_nat_core.c. It must never know rules; who asks for a translation gives a `Range`.
//! Tests: tests/hooks.rs, tests/conntrack.rs, tests/nat.rs.

use super::{Conn, State, Tracker, Tuple, status};
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
/// With so few attempts left, a closed TCP connection gives its port away (nf_nat_used_tuple_harder).
const HARDER: u32 = MAX_ATTEMPTS / 4;

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
        let chosen = self.unique(id, current, (range, manip), env);
        self.last_bound += 1;
        let bound = self.last_bound;
        let Some(conn) = self.get_mut(id) else { return true };
        if manip == Manip::Source {
            conn.bound = bound;
        }
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

    /// The translated tuple (get_unique_tuple).
    fn unique(
        &mut self,
        id: u32,
        current: Tuple,
        wanted: (&Range, Manip),
        env: (&mut Chance, u64),
    ) -> Tuple {
        let ((range, manip), (chance, now)) = (wanted, env);
        let random = range.flags & range_flags::ANY_RANDOM != 0;
        if manip == Manip::Source && !random {
            let mapped = match in_range(&current, range) {
                true => Some(current),
                false => self.mapped_before(&current, range),
            };
            if let Some(tuple) = mapped.filter(|tuple| !self.taken(&tuple.inverse(), id, now)) {
                return tuple;
            }
        }
        let mut tuple = current;
        if let Some((first, last)) = range.addresses {
            let end = if manip == Manip::Source { &mut tuple.src } else { &mut tuple.dst };
            let persistent = range.flags & range_flags::PERSISTENT != 0;
            *end = pick((first, last), &current, (manip, persistent));
        }
        if !random {
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

    /// What the youngest connection of the same source end is translated to, if the range holds it (find_appropriate_src).
    fn mapped_before(&self, current: &Tuple, range: &Range) -> Option<Tuple> {
        let held = self.by_source.get(&(current.src, current.sport, current.protocol))?;
        let youngest_first = held.iter().rev().filter_map(|id| self.get(*id));
        youngest_first
            .map(|conn| conn.reply.inverse())
            .map(|mapped| Tuple { src: mapped.src, sport: mapped.sport, ..*current })
            .find(|tuple| in_range(tuple, range))
    }

    /// Tries ports until the tuple is free (nf_nat_l4proto_unique_tuple).
    fn free_port(
        &mut self,
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
            for left in (1..=attempts).rev() {
                let port = (low + offset % size) as u16;
                if manip == Manip::Source {
                    tuple.sport = port
                } else {
                    tuple.dport = port
                }
                if !self.taken_harder(&tuple.inverse(), id, (now, left)) {
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

    /// Is the tuple in use? A TCP connection that is over, and whose source was translated, gives way when little else is left.
    fn taken_harder(&mut self, tuple: &Tuple, own: u32, at: (u64, u32)) -> bool {
        let (now, left) = at;
        if !self.taken(tuple, own, now) {
            return false;
        }
        let opening = self.get(own).is_some_and(|conn| conn.state == State::SynSent);
        let Some(&(holder, reply)) = self.index.get(tuple).filter(|_| left <= HARDER && opening)
        else {
            return true;
        };
        let over = |conn: &Conn| {
            matches!(conn.state, State::TimeWait | State::Close) && conn.has(status::SRC_NAT)
        };
        if !reply || !self.get(holder).is_some_and(over) {
            return true;
        }
        self.kill(holder);
        self.release(holder);
        false
    }
}

fn in_range(tuple: &Tuple, range: &Range) -> bool {
    let address = range.addresses.is_none_or(|(low, high)| (low..=high).contains(&tuple.src));
    let ports = range.flags & range_flags::PROTO_SPECIFIED == 0
        || in_ports(tuple, Manip::Source, range.ports);
    address && ports
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

/// An address of the range: the only one, or one that follows from the connection's ends (find_best_ips_proto).
/// With `persistent` it follows from the source alone.
fn pick(
    (first, last): (IpAddr, IpAddr),
    tuple: &Tuple,
    (manip, persistent): (Manip, bool),
) -> IpAddr {
    let words = |address: IpAddr| -> [u8; 16] {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            IpAddr::V6(v6) => v6.octets(),
        }
    };
    if first == last || first.is_ipv4() != last.is_ipv4() {
        return first;
    }
    let word = |bytes: &[u8; 16], at: usize| -> [u8; 4] {
        std::array::from_fn(|index| bytes[at * 4 + index])
    };
    let most = if first.is_ipv4() { 0 } else { 3 };
    let last_word = u32::from_ne_bytes(word(&words(tuple.dst), most));
    let seed = if persistent { 0 } else { last_word };
    let mut hash = crate::nft::jhash(&words(tuple.src), seed);
    let (low, high) = (words(first), words(last));
    let (mut chosen, mut full) = ([0u8; 16], false);
    for at in 0..=most {
        let (from, to) = (u32::from_be_bytes(word(&low, at)), u32::from_be_bytes(word(&high, at)));
        let (from, width) =
            if full { (0, u32::MAX) } else { (from, to.wrapping_sub(from).wrapping_add(1)) };
        let scaled = ((u64::from(hash) * u64::from(width)) >> 32) as u32;
        let here = from.wrapping_add(scaled);
        chosen[at * 4..at * 4 + 4].copy_from_slice(&here.to_be_bytes());
        full |= here != to;
        if !persistent {
            // Linux chooses in place: of a destination, this word is the chosen one already.
            let dest = if manip == Manip::Destination { chosen } else { words(tuple.dst) };
            hash ^= u32::from_ne_bytes(word(&dest, at));
        }
    }
    match first {
        IpAddr::V4(_) => Ipv4Addr::from(word(&chosen, 0)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(chosen).into(),
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
    let before = (packet.src, packet.dst, packet.identity());
    if packet.is_icmp_error() {
        match manip {
            Manip::Source => packet.src = target.src,
            Manip::Destination => packet.dst = target.dst,
        }
        if let Transport::Icmp { inner: Some(inner), .. } = &mut packet.transport {
            // What an error quotes went the other way, so its other end is rewritten.
            let other = if manip == Manip::Source { Manip::Destination } else { Manip::Source };
            rewrite(inner, *conn.tuple(!reply), other);
        }
    } else {
        rewrite(packet, target, manip);
    }
    before != (packet.src, packet.dst, packet.identity())
}

/// One end of a packet becomes what the tuple says (nf_nat_manip_pkt); an ICMP identifier whichever end it is.
fn rewrite(packet: &mut Packet, to: Tuple, manip: Manip) {
    match (&packet.transport, manip) {
        (Transport::Icmp { .. }, Manip::Destination) => {
            packet.dst = to.dst;
            packet.set_source(packet.src, to.sport);
        }
        (_, Manip::Source) => packet.set_source(to.src, to.sport),
        (_, Manip::Destination) => packet.set_destination(to.dst, to.dport),
    }
}
