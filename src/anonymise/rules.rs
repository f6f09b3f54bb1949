//! Addresses within objects of nf_tables. The kernel keeps them as bytes without a type, so each rule
//! is walked with a tag on every byte of its registers: which byte of an address it holds. Types of
//! sets are told by their key and data types, as nft numbers them.
//!
//! Names and comments are texts and go through `words`. What the old extensions of iptables keep has
//! no form that is known here and is blanked; the simulator has no model of it either.
//! Tests: `tests.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Pass;
use super::words::rename;
use crate::kernel::survey::NftObject;
use crate::netlink::nft::message;
use crate::netlink::octets;
use crate::netlink::read::{Attributes, text, u32_be};
use crate::netlink::write::Writer;

/// Which byte of an address a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    /// Bytes of the address: 4 or 16.
    length: u8,
    index: u8,
}

type Tags = Vec<Option<Tag>>;

/// Types of a set's key and data.
#[derive(Clone, Debug, Default)]
struct SetTypes {
    key: Tags,
    data: Tags,
}

/// A set by the family and the name of its table, and its own name.
type SetName = (u8, String, String);

/// What sets hold, by where they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets(BTreeMap<SetName, SetTypes>);

/// Bytes of the register file.
const REGISTERS: usize = 64;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// `TYPE_BITS` of nftables, and its numbers of address types.
const TYPE_BITS: u32 = 6;
const IPADDR: u32 = 7;
const IP6ADDR: u32 = 8;

impl Sets {
    pub(super) fn of(objects: &[NftObject]) -> Sets {
        let sets = objects.iter().filter(|object| object.kind == message::NEW_SET);
        Sets(
            sets.map(|set| {
                let number = |n| Attributes::new(&set.attributes).get(n).and_then(u32_be);
                let tags = |kind, length| {
                    let length = number(length).unwrap_or(0) as usize;
                    number(kind).map(|kind| set_tags(kind, length)).unwrap_or_default()
                };
                (set_name(set, 2), SetTypes { key: tags(4, 5), data: tags(6, 7) })
            })
            .collect(),
        )
    }

    /// The object with the addresses that `pass` gives.
    pub(super) fn rename(&self, object: &NftObject, pass: &mut dyn Pass) -> NftObject {
        let mut w = Writer::new();
        for (number, value) in Attributes::new(&object.attributes) {
            match (object.kind, number) {
                (message::NEW_ELEMENT, 3) => {
                    let name = set_name(object, 2);
                    let types = self.0.get(&name).cloned().unwrap_or_default();
                    intervals(value, &types.key, pass);
                    w.nest(number, |w| elements(value, &types, pass, w));
                }
                (message::NEW_RULE, 4) => {
                    let mut walk = Walk::new(object, self);
                    w.nest(number, |w| walk.rule(value, pass, w));
                }
                // The names of tables, chains and sets; of a base chain, hook and type are no names.
                (_, 1) | (message::NEW_CHAIN, 3) => words(number, value, pass, &mut w),
                (message::NEW_SET | message::NEW_ELEMENT | message::NEW_RULE, 2) => {
                    words(number, value, pass, &mut w);
                }
                (message::NEW_RULE, 7)
                | (message::NEW_SET, 13)
                | (message::NEW_CHAIN, 12)
                | (message::NEW_TABLE, 6) => user_data(number, value, pass, &mut w),
                _ => w.bytes(number, value),
            }
        }
        NftObject { kind: object.kind, family: object.family, attributes: w.into_bytes() }
    }
}

fn set_name(object: &NftObject, name: u16) -> SetName {
    let word = |n| Attributes::new(&object.attributes).get(n).map(text).unwrap_or_default();
    (object.family, word(1), word(name))
}

/// The tags of a type of nft, which may be several types put together, the last one lowest.
fn set_tags(kind: u32, length: usize) -> Tags {
    let mut kinds = Vec::new();
    let mut rest = kind;
    while rest > 0 {
        kinds.push(rest & ((1 << TYPE_BITS) - 1));
        rest >>= TYPE_BITS;
    }
    let mut tags = Tags::new();
    for kind in kinds.iter().rev() {
        match *kind {
            IPADDR => tags.extend(address_tags(4)),
            IP6ADDR => tags.extend(address_tags(16)),
            // Ether addresses, times and cgroups; ct labels and names of interfaces.
            9 | 18 | 43 | 46 => tags.extend([None; 8]),
            30 | 41 => tags.extend([None; 16]),
            _ => tags.extend([None; 4]),
        }
    }
    tags.resize(length.max(tags.len()), None);
    tags
}

fn address_tags(length: u8) -> impl Iterator<Item = Option<Tag>> {
    (0..length).map(move |index| Some(Tag { length, index }))
}

fn words(number: u16, value: &[u8], pass: &mut dyn Pass, w: &mut Writer) {
    w.text(number, &rename(&text(value), pass));
}

/// User data is a list of type, length and value; those that end with a zero are texts.
fn user_data(number: u16, value: &[u8], pass: &mut dyn Pass, w: &mut Writer) {
    let mut out = Vec::new();
    let mut rest = value;
    while let [kind, length, more @ ..] = rest {
        let Some((value, behind)) = more.split_at_checked(usize::from(*length)) else { break };
        let words = value.strip_suffix(&[0]).and_then(|v| std::str::from_utf8(v).ok());
        let words = words.filter(|words| !words.chars().any(char::is_control));
        let renamed = words.map(|words| [rename(words, pass).as_bytes(), &[0]].concat());
        let value = renamed.unwrap_or_else(|| value.to_vec());
        out.extend([*kind, value.len() as u8]);
        out.extend(value);
        rest = behind;
    }
    out.extend(rest);
    w.bytes(number, &out);
}

/// The bytes with other addresses where tags say that there are some. `mask` says which bits of
/// them count.
fn data(bytes: &[u8], tags: &[Option<Tag>], mask: &[u8], pass: &mut dyn Pass) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let Some(Some(Tag { length, index: 0 })) = tags.get(at) else {
            at += 1;
            continue;
        };
        let same = |i: &usize| {
            tags.get(at + i).copied().flatten() == Some(Tag { length: *length, index: *i as u8 })
        };
        let held = (0..usize::from(*length).min(bytes.len() - at)).take_while(same).count();
        let ones = |i: usize| mask.get(at + i).map_or(8, |byte| byte.leading_ones() as u8);
        let full = (0..held).take_while(|i| ones(*i) == 8).count();
        let prefix = 8 * full as u8 + if full < held { ones(full) } else { 0 };
        let Some(address) = address(&bytes[at..at + held], *length) else { break };
        let whole = prefix == 8 * length;
        let other = pass.address(address, (!whole).then_some(prefix));
        out[at..at + held].copy_from_slice(&octets(other)[..held]);
        at += held;
    }
    out
}

/// An address of its first bytes.
fn address(bytes: &[u8], length: u8) -> Option<IpAddr> {
    let mut all = [0; 16];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    match length {
        4 => <[u8; 4]>::try_from(&all[..4]).ok().map(IpAddr::from),
        _ => Some(IpAddr::from(all)),
    }
}

/// `NFTA_DATA_VALUE`, or the verdict with the name of its chain.
fn value_or_verdict(
    value: &[u8],
    (tags, mask): (&[Option<Tag>], &[u8]),
    pass: &mut dyn Pass,
    w: &mut Writer,
) {
    for (number, value) in Attributes::new(value) {
        match number {
            1 => w.bytes(number, &data(value, tags, mask, pass)),
            2 => w.nest(number, |w| verdict(value, pass, w)),
            _ => w.bytes(number, value),
        }
    }
}

fn elements(list: &[u8], types: &SetTypes, pass: &mut dyn Pass, w: &mut Writer) {
    for (number, element) in Attributes::new(list) {
        w.nest(number, |w| {
            for (number, value) in Attributes::new(element) {
                match number {
                    1 | 10 => {
                        w.nest(number, |w| value_or_verdict(value, (&types.key, &[]), pass, w));
                    }
                    2 => w.nest(number, |w| value_or_verdict(value, (&types.data, &[]), pass, w)),
                    6 => user_data(number, value, pass, w),
                    _ => w.bytes(number, value),
                }
            }
        });
    }
}

/// Tells `pass` of the networks that intervals of one address are.
fn intervals(list: &[u8], key: &[Option<Tag>], pass: &mut dyn Pass) {
    let Some(Some(Tag { length, index: 0 })) = key.first() else { return };
    let mut ends: Vec<(Vec<u8>, bool)> = Vec::new();
    for (_, element) in Attributes::new(list) {
        let value = |n| {
            let value = Attributes::new(Attributes::new(element).get(n)?).get(1)?;
            value.get(..usize::from(*length)).map(<[u8]>::to_vec)
        };
        let flags = Attributes::new(element).get(3).and_then(u32_be).unwrap_or(0);
        if let (Some(first), Some(last)) = (value(1), value(10)) {
            network((&first, &last), false, *length, pass);
        } else if let Some(at) = value(1) {
            ends.push((at, flags & INTERVAL_END != 0));
        }
    }
    ends.sort();
    for pair in ends.windows(2) {
        if let [(first, false), (behind, true)] = pair {
            network((first, behind), true, *length, pass);
        }
    }
}

/// Tells `pass` of an interval, if it is a network.
fn network((first, last): (&[u8], &[u8]), excluded: bool, length: u8, pass: &mut dyn Pass) {
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |n, byte| n << 8 | u128::from(*byte));
    let size = number(last).checked_sub(number(first)).map(|n| n + u128::from(!excluded));
    let Some(size) = size.filter(|size| size.is_power_of_two()) else { return };
    let prefix = 8 * length - size.trailing_zeros() as u8;
    if number(first) & (size - 1) == 0
        && let Some(address) = address(first, length)
    {
        pass.address(address, Some(prefix));
    }
}

/// A walk through the expressions of a rule.
struct Walk<'a> {
    family: u8,
    table: String,
    sets: &'a Sets,
    tags: [Option<Tag>; REGISTERS],
    mask: [u8; REGISTERS],
}

impl<'a> Walk<'a> {
    fn new(rule: &NftObject, sets: &'a Sets) -> Walk<'a> {
        let (family, table, _) = set_name(rule, 2);
        Walk { family, table, sets, tags: [None; REGISTERS], mask: [0xff; REGISTERS] }
    }

    fn rule(&mut self, list: &[u8], pass: &mut dyn Pass, w: &mut Writer) {
        let all: Vec<(u16, &[u8])> = Attributes::new(list).collect();
        for (place, (number, expression)) in all.iter().enumerate() {
            let behind: Vec<&[u8]> = all[place + 1..].iter().map(|(_, e)| *e).collect();
            w.nest(*number, |w| {
                let name = named(expression);
                for (number, value) in Attributes::new(expression) {
                    match number {
                        2 => w.nest(number, |w| self.expression((&name, value), &behind, pass, w)),
                        _ => w.bytes(number, value),
                    }
                }
            });
        }
    }

    fn expression(
        &mut self,
        (name, body): (&str, &[u8]),
        behind: &[&[u8]],
        pass: &mut dyn Pass,
        w: &mut Writer,
    ) {
        let get = |n: u16| Attributes::new(body).get(n).and_then(u32_be);
        let at = |n: u16| get(n).and_then(register);
        // Which attributes hold data, and what is in them.
        let (held, tags, mask): (&[u16], &[Option<Tag>], &[u8]) = match name {
            "cmp" => (&[3], self.from(at(1)), &self.mask[at(1).unwrap_or(0)..]),
            "range" => (&[3, 4], self.from(at(1)), &[]),
            "bitwise" => (&[5], self.from(at(1)), &[]),
            "immediate" => {
                self.set(at(1), &wanted(self.family, at(1), behind));
                (&[2], self.from(at(1)), &[])
            }
            _ => (&[], &[], &[]),
        };
        for (number, value) in Attributes::new(body) {
            match (name, number) {
                (_, number) if held.contains(&number) => {
                    w.nest(number, |w| value_or_verdict(value, (tags, mask), pass, w));
                }
                ("match" | "target", 3) => w.bytes(number, &vec![0; value.len()]),
                ("lookup" | "dynset", 1) | ("log", 2) => words(number, value, pass, w),
                _ => w.bytes(number, value),
            }
        }
        self.run(name, body);
    }

    fn from(&self, at: Option<usize>) -> &[Option<Tag>] {
        at.and_then(|at| self.tags.get(at..)).unwrap_or(&[])
    }

    fn set(&mut self, at: Option<usize>, tags: &[Option<Tag>]) {
        let Some(at) = at else { return };
        for (place, tag) in (at..REGISTERS).zip(tags) {
            (self.tags[place], self.mask[place]) = (*tag, 0xff);
        }
    }

    /// What an expression leaves in the registers.
    fn run(&mut self, name: &str, body: &[u8]) {
        let get = |n: u16| Attributes::new(body).get(n).and_then(u32_be);
        let at = |n: u16| get(n).and_then(register);
        let length = |n: u16| get(n).unwrap_or(0) as usize;
        match name {
            "payload" => {
                let tags = (get(2) == Some(1)).then(|| header(self.family, length(3), length(4)));
                self.set(at(1), &tags.unwrap_or_else(|| vec![None; length(4).min(REGISTERS)]));
            }
            "ct" => {
                // NFT_CT_SRC, NFT_CT_DST, and those that name the family.
                let length = match (get(2), self.family) {
                    (Some(8 | 9), 2) | (Some(19 | 20), _) => 4,
                    (Some(8 | 9), 10) | (Some(21 | 22), _) => 16,
                    _ => 0,
                };
                let tags: Tags = address_tags(length).collect();
                self.set(at(1), if length == 0 { &[None; 4] } else { &tags });
            }
            "rt" => {
                let length = match get(2) {
                    Some(1) => 4,
                    Some(2) => 16,
                    _ => 0,
                };
                self.set(at(1), &address_tags(length).collect::<Tags>());
            }
            "lookup" => {
                let set = Attributes::new(body).get(1).map(text).unwrap_or_default();
                let types = self.sets.0.get(&(self.family, self.table.clone(), set));
                let data = types.map(|types| types.data.clone()).unwrap_or_default();
                self.set(at(3), &data);
            }
            "bitwise" => {
                let tags = self.from(at(1)).get(..length(3)).unwrap_or(&[]).to_vec();
                self.set(at(2), &tags);
                let mask = Attributes::new(body).get(4).and_then(|m| Attributes::new(m).get(1));
                let to = at(2).unwrap_or(REGISTERS);
                for (place, byte) in (to..REGISTERS).zip(mask.unwrap_or(&[])) {
                    self.mask[place] = *byte;
                }
            }
            "meta" | "fib" | "numgen" | "hash" | "exthdr" | "socket" | "osf" => {
                self.set(at(1), &[None; 4]);
            }
            _ => {}
        }
    }
}

fn named(expression: &[u8]) -> String {
    Attributes::new(expression).get(1).map(text).unwrap_or_default()
}

fn verdict(value: &[u8], pass: &mut dyn Pass, w: &mut Writer) {
    for (number, value) in Attributes::new(value) {
        match number {
            2 => words(number, value, pass, w),
            _ => w.bytes(number, value),
        }
    }
}

/// The byte of the register file at which a register begins (`enum nft_registers`).
fn register(number: u32) -> Option<usize> {
    match number {
        1..=4 => Some(16 * (number as usize - 1)),
        8..=23 => Some(4 * (number as usize - 8)),
        _ => None,
    }
}

/// Bytes of a network header. In families that have both, what is as long as an address decides.
fn header(family: u8, offset: usize, length: usize) -> Tags {
    let (first, size): (usize, u8) = match family {
        2 => (12, 4),
        10 => (8, 16),
        // ARP: sender and target.
        3 if matches!(offset, 14 | 24) => (offset, 4),
        3 => return vec![None; length.min(REGISTERS)],
        _ if matches!(offset, 12 | 16) && length <= 8 => (12, 4),
        _ => (8, 16),
    };
    let addresses = if family == 3 { 1 } else { 2 };
    let tag = |at: usize| {
        let index = at.checked_sub(first)?;
        let within = index < addresses * usize::from(size);
        within.then(|| Tag { length: size, index: (index % usize::from(size)) as u8 })
    };
    (offset..offset + length.min(REGISTERS)).map(tag).collect()
}

/// What a constant is, by who takes it.
fn wanted(family: u8, at: Option<usize>, behind: &[&[u8]]) -> Tags {
    for expression in behind {
        let body = Attributes::new(expression).get(2).unwrap_or(&[]);
        let get = |n: u16| Attributes::new(body).get(n).and_then(u32_be);
        let takes = |n: u16| get(n).and_then(register) == at && at.is_some();
        let length =
            |named: Option<u32>| if named.unwrap_or(u32::from(family)) == 10 { 16 } else { 4 };
        match named(expression).as_str() {
            "nat" if takes(3) || takes(4) => return address_tags(length(get(2))).collect(),
            "tproxy" if takes(2) => return address_tags(length(get(1))).collect(),
            "dup" if takes(1) => return address_tags(length(None)).collect(),
            "fwd" if takes(2) => return address_tags(length(get(3))).collect(),
            "payload" if takes(5) && get(2) == Some(1) => {
                let at = |n| get(n).unwrap_or(0) as usize;
                return header(family, at(3), at(4));
            }
            _ => {}
        }
    }
    vec![None; 16]
}
