//! One set: its type, what stands in it, adding, deleting, and the question whether a packet is in it.
//! Facts from net/netfilter/ipset/ip_set_hash_gen.h, ip_set_getport.c, ip_set_bitmap_port.c. It must never know text.
//! Tests: tests/ipset.rs.

use super::Direction;
use super::error::Refused;
use crate::conntrack::SECOND;
use crate::hash::FastMap;
use crate::net::masked;
use crate::packet::{Packet, Transport, protocol};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The types that are modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    HashIp,
    HashNet,
    HashIpPort,
    HashIpPortIp,
    HashIpPortNet,
    BitmapPort,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] = [
        Kind::HashIp,
        Kind::HashNet,
        Kind::HashIpPort,
        Kind::HashIpPortIp,
        Kind::HashIpPortNet,
        Kind::BitmapPort,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::HashIp => "hash:ip",
            Kind::HashNet => "hash:net",
            Kind::HashIpPort => "hash:ip,port",
            Kind::HashIpPortIp => "hash:ip,port,ip",
            Kind::HashIpPortNet => "hash:ip,port,net",
            Kind::BitmapPort => "bitmap:port",
        }
    }

    pub(super) fn dimensions(self) -> usize {
        match self {
            Kind::HashIp | Kind::HashNet | Kind::BitmapPort => 1,
            Kind::HashIpPort => 2,
            Kind::HashIpPortIp | Kind::HashIpPortNet => 3,
        }
    }

    pub(super) fn has_networks(self) -> bool {
        matches!(self, Kind::HashNet | Kind::HashIpPortNet)
    }
}

/// What is in a set; a host has the full prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) first: Option<(IpAddr, u8)>,
    /// Protocol and port.
    pub(super) port: Option<(u8, u16)>,
    pub(super) last: Option<(IpAddr, u8)>,
}

/// What stands beside an element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    /// When it goes; nothing: never.
    pub(super) expires: Option<u64>,
    pub(super) nomatch: bool,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) comment: Option<String>,
}

/// A set.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) ipv6: bool,
    pub(super) hashsize: u32,
    pub(super) maxelem: u32,
    /// Seconds an element lives; nothing: the set has no timeouts, zero: as long as the set.
    pub(super) timeout: Option<u32>,
    pub(super) counters: bool,
    pub(super) comment: bool,
    pub(super) forceadd: bool,
    pub(super) range: (u16, u16),
    pub(super) references: u32,
    entries: FastMap<Key, Beside>,
    /// Prefix lengths in use, the longest first.
    prefixes: BTreeMap<Reverse<u8>, usize>,
}

impl Set {
    pub(super) fn new(name: &str, kind: Kind) -> Set {
        Set {
            name: name.to_owned(),
            kind,
            ipv6: false,
            hashsize: 1024,
            maxelem: 65_536,
            timeout: None,
            counters: false,
            comment: false,
            forceadd: false,
            range: (0, 0),
            references: 0,
            entries: FastMap::default(),
            prefixes: BTreeMap::new(),
        }
    }

    /// Would `create -exist` take the one for the other? (hash_same_set: neither the family nor the
    /// size of the hash counts.)
    pub(super) fn is_like(&self, other: &Set) -> bool {
        self.kind == other.kind
            && self.maxelem == other.maxelem
            && self.timeout == other.timeout
            && self.range == other.range
            && (self.counters, self.comment, self.forceadd)
                == (other.counters, other.comment, other.forceadd)
    }

    pub(super) fn entries(&self, now: u64) -> Vec<(&Key, &Beside)> {
        let live = |beside: &Beside| beside.expires.is_none_or(|expires| expires > now);
        let mut all: Vec<_> = self.entries.iter().filter(|(_, beside)| live(beside)).collect();
        all.sort_by_key(|(key, _)| **key);
        all
    }

    /// Adds an element; one that is there is an error, or (tolerant) gets what now stands beside it.
    pub(super) fn add(
        &mut self,
        key: Key,
        beside: Beside,
        tolerant: bool,
        now: u64,
    ) -> Result<(), Refused> {
        self.check(&key)?;
        if self.live(&key, now).is_some() {
            if !tolerant {
                return Err(Refused::element_exists());
            }
            self.entries.insert(key, beside);
            return Ok(());
        }
        self.remove(&key);
        if self.kind != Kind::BitmapPort && self.entries.len() >= self.maxelem as usize {
            self.make_room(now)?;
        }
        if let Some(length) = self.length(&key) {
            *self.prefixes.entry(Reverse(length)).or_default() += 1;
        }
        self.entries.insert(key, beside);
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &Key, tolerant: bool, now: u64) -> Result<(), Refused> {
        self.check(key)?;
        let there = self.live(key, now).is_some();
        self.remove(key);
        if there || tolerant { Ok(()) } else { Err(Refused::element_absent()) }
    }

    pub(super) fn flush(&mut self) {
        self.entries.clear();
        self.prefixes.clear();
    }

    /// What the kernel refuses whatever the set holds.
    fn check(&self, key: &Key) -> Result<(), Refused> {
        if self.kind == Kind::BitmapPort {
            let inside =
                key.port.is_some_and(|(_, port)| (self.range.0..=self.range.1).contains(&port));
            return if inside {
                Ok(())
            } else {
                Err(Refused::element("Element is out of the range of the set"))
            };
        }
        if self.length(key) == Some(0) {
            return Err(Refused::element(
                "The value of the CIDR parameter of the IP address is invalid",
            ));
        }
        if self.kind == Kind::HashIp && key.first.is_some_and(|(ip, _)| ip.is_unspecified()) {
            return Err(Refused::element(
                "Null-valued element, cannot be stored in a hash type of set",
            ));
        }
        Ok(())
    }

    /// The set is full: what has expired goes; with `forceadd` any other.
    fn make_room(&mut self, now: u64) -> Result<(), Refused> {
        let expired = |beside: &Beside| beside.expires.is_some_and(|expires| expires <= now);
        let mut gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, beside)| expired(beside))
            .map(|(key, _)| *key)
            .collect();
        if gone.is_empty() && self.forceadd {
            gone.extend(self.entries.keys().min().copied());
        }
        gone.iter().for_each(|key| self.remove(key));
        if gone.is_empty() { Err(Refused::full()) } else { Ok(()) }
    }

    fn remove(&mut self, key: &Key) {
        if self.entries.remove(key).is_none() {
            return;
        }
        let Some(length) = self.length(key) else { return };
        if let Some(count) = self.prefixes.get_mut(&Reverse(length)) {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&Reverse(length));
            }
        }
    }

    fn length(&self, key: &Key) -> Option<u8> {
        match self.kind {
            Kind::HashNet => key.first.map(|(_, length)| length),
            Kind::HashIpPortNet => key.last.map(|(_, length)| length),
            _ => None,
        }
    }

    fn live(&self, key: &Key, now: u64) -> Option<&Beside> {
        let live = |beside: &&Beside| beside.expires.is_none_or(|expires| expires > now);
        self.entries.get(key).filter(live)
    }

    /// Is the packet in the set?
    pub(super) fn matches(&self, packet: &Packet, dimensions: &[Direction], now: u64) -> bool {
        if dimensions.len() < self.kind.dimensions() {
            return false;
        }
        if self.kind == Kind::BitmapPort {
            let counts = matches!(packet.protocol(), protocol::TCP | protocol::UDP);
            let port = port(packet, dimensions[0]);
            return counts && self.has(Key { first: None, port: Some((0, port)), last: None }, now);
        }
        if self.ipv6 != packet.dst.is_ipv6() {
            return false;
        }
        let full = if self.ipv6 { 128 } else { 32 };
        let mut key =
            Key { first: Some((end(packet, dimensions[0]), full)), port: None, last: None };
        if let Some(direction) = dimensions.get(1).filter(|_| self.kind.dimensions() > 1) {
            key.port = Some((packet.protocol(), port(packet, *direction)));
        }
        if let Some(direction) = dimensions.get(2).filter(|_| self.kind.dimensions() > 2) {
            key.last = Some((end(packet, *direction), full));
        }
        if self.kind.has_networks() { self.longest(key, now) } else { self.has(key, now) }
    }

    fn has(&self, key: Key, now: u64) -> bool {
        self.live(&key, now).is_some()
    }

    /// The longest network that holds the address decides, and may decide against (`nomatch`).
    fn longest(&self, mut key: Key, now: u64) -> bool {
        let (on_last, address) = match (key.first, key.last) {
            (_, Some((address, _))) => (true, address),
            (Some((address, _)), None) => (false, address),
            (None, None) => return false,
        };
        for Reverse(length) in self.prefixes.keys() {
            let network = Some((masked(address, *length), *length));
            if on_last {
                key.last = network;
            } else {
                key.first = network;
            }
            if let Some(beside) = self.live(&key, now) {
                return !beside.nomatch;
            }
        }
        false
    }

    /// When an element added now goes, by its own timeout or the set's.
    pub(super) fn expiry(&self, own: Option<u32>, now: u64) -> Option<u64> {
        let seconds = own.or(self.timeout).filter(|seconds| *seconds > 0)?;
        Some(now.saturating_add(u64::from(seconds) * SECOND))
    }
}

fn end(packet: &Packet, direction: Direction) -> IpAddr {
    match direction {
        Direction::Src => packet.src,
        Direction::Dst => packet.dst,
    }
}

/// The port, or ICMP's type and code in its place.
fn port(packet: &Packet, direction: Direction) -> u16 {
    match (&packet.transport, direction) {
        (Transport::Icmp { kind, code, .. }, _) => u16::from_be_bytes([*kind, *code]),
        (_, Direction::Src) => packet.sport(),
        (_, Direction::Dst) => packet.dport(),
    }
}
