//! The kernel's listing of nf_tables, made again in the simulator. A rule with something that is
//! not modelled is cut before it and ends in a drop that stands for "cannot be told"; a set that
//! is not modelled is left out, so that rules that ask it are cut there.
//!
//! It must never change what a rule means. Tests: `tests.rs`, and the lab.

use std::collections::{BTreeMap, BTreeSet};

use super::load::{Gap, Maker, World};
use crate::kernel::survey::NftObject;
use crate::netlink::expr::{Rule, Verdict};
use crate::netlink::nft::message;
use crate::netlink::read::{Attributes, text, u32_be};
use crate::netlink::write::{Head, Writer};
use crate::netlink::{APPEND, CREATE, REQUEST, SUBSYS_NFTABLES};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFT_TABLE_F_DORMANT`, `NFT_CHAIN_BASE`.
const DORMANT: u32 = 1;
const BASE: u32 = 1;
/// `NFT_SET_ANONYMOUS | NFT_SET_CONSTANT`: made again under its name, it is a set like others.
const OF_A_RULE: u32 = 0x1 | 0x2;
/// `NFT_SET_EXPR`: its elements count, or do more.
const EXPRESSIONS: u32 = 0x100;
/// What is kept of each object: the rest is what the kernel adds by itself.
const TABLE: &[u16] = &[1, 6];
const CHAIN: &[u16] = &[1, 3, 4, 5, 7, 12];
const SET: &[u16] = &[1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13];
const ELEMENT: &[u16] = &[1, 2, 3, 4, 5, 6, 10];
const RULE: &[u16] = &[1, 2, 7];
/// Bytes of elements in one message: an attribute holds less than 64 KiB.
const MESSAGE: usize = 60_000;

/// A table by family and name.
type Table = (u8, String);
/// A message: kind, family, attributes.
type Part = (u16, u8, Vec<u8>);

/// Makes all objects again, but for the tables that are loaded as texts of iptables.
pub(super) fn replay(world: &mut World, objects: &[NftObject], texts: &BTreeSet<Table>) {
    let of =
        |kind: u16| objects.iter().filter(move |o| o.kind == kind && !texts.contains(&table_of(o)));
    let foreign = |o: &&NftObject| !matches!(o.family, 1 | 2 | 10);
    unmodelled_families(world, of(message::NEW_CHAIN).filter(foreign));
    for table in of(message::NEW_TABLE).filter(|o| !foreign(o)) {
        let part = (message::NEW_TABLE, table.family, flagged(table, TABLE, (2, DORMANT)));
        let made = attempt(&mut world.host, &[part]);
        refused(world, table, made);
    }
    for chain in of(message::NEW_CHAIN).filter(|o| !foreign(o)) {
        let part = (message::NEW_CHAIN, chain.family, flagged(chain, CHAIN, (10, BASE)));
        let made = attempt(&mut world.host, &[part]);
        refused(world, chain, made);
    }
    let mut elements: BTreeMap<(Table, String), Vec<&NftObject>> = BTreeMap::new();
    for list in of(message::NEW_ELEMENT) {
        elements.entry((table_of(list), word(list, 2))).or_default().push(list);
    }
    for (number, set) in (0u32..).zip(of(message::NEW_SET).filter(|o| !foreign(o))) {
        let lists = elements.remove(&(table_of(set), word(set, 2))).unwrap_or_default();
        let parts = set_parts(set, number, &lists);
        let Err(error) = attempt(&mut world.host, &parts) else { continue };
        // Whoever asks it is cut there, and says so.
        let what = format!("set {} of {}", word(set, 2), table_name(set.family, &word(set, 1)));
        world.absent_sets.push(Gap { what, why: error.detail });
    }
    let mut rules: BTreeMap<Table, Vec<&NftObject>> = BTreeMap::new();
    for rule in of(message::NEW_RULE).filter(|o| !foreign(o)) {
        rules.entry(table_of(rule)).or_default().push(rule);
    }
    rules.values().for_each(|rules| replay_rules(world, rules));
}

/// Chains of families that the simulator has none of, such as netdev and bridge.
fn unmodelled_families<'a>(world: &mut World, chains: impl Iterator<Item = &'a NftObject>) {
    for chain in chains.filter(|chain| attribute(chain, 4).is_some()) {
        let what =
            format!("chain {} of {}", word(chain, 3), table_name(chain.family, &word(chain, 1)));
        world.gap(what, "packets pass it outside of the hooks that are modelled");
    }
}

fn refused(world: &mut World, object: &NftObject, made: Result<(), sim::NftError>) {
    if let Err(error) = made {
        let what = format!(
            "chain or table {} of {}",
            word(object, 3),
            table_name(object.family, &word(object, 1))
        );
        world.gap(what, error.detail);
    }
}

/// A set with its elements.
fn set_parts(set: &NftObject, number: u32, lists: &[&NftObject]) -> Vec<Part> {
    let flags = attribute(set, 3).and_then(u32_be).unwrap_or(0) & !OF_A_RULE;
    let counting = only_counters(attribute(set, 17), attribute(set, 18));
    let mut w = Writer::new();
    keep(&mut w, &set.attributes, SET);
    w.be32(3, if counting { flags & !EXPRESSIONS } else { flags });
    w.be32(10, number);
    if !counting {
        // Left in, so that it is refused by name.
        keep(&mut w, &set.attributes, &[17, 18]);
    }
    let mut parts = vec![(message::NEW_SET, set.family, w.into_bytes())];
    let elements = lists.iter().filter_map(|list| attribute(list, 3)).flat_map(Attributes::new);
    let mut elements = elements.map(|(_, element)| element).peekable();
    while elements.peek().is_some() {
        let mut w = Writer::new();
        keep(&mut w, &set.attributes, &[1, 2]);
        w.nest(3, |w| {
            while w.len() < MESSAGE
                && let Some(element) = elements.next()
            {
                let counting = only_counters(
                    Attributes::new(element).get(7),
                    Attributes::new(element).get(11),
                );
                w.nest(1, |w| {
                    keep(w, element, ELEMENT);
                    if !counting {
                        keep(w, element, &[7, 9, 11]);
                    }
                });
            }
        });
        parts.push((message::NEW_ELEMENT, set.family, w.into_bytes()));
    }
    parts
}

/// Whether expressions only count; then they decide nothing.
fn only_counters(one: Option<&[u8]>, several: Option<&[u8]>) -> bool {
    let name = |e: &[u8]| Attributes::new(e).get(1).map(text).unwrap_or_default();
    let counts = |e: &[u8]| matches!(&*name(e), "counter" | "last");
    one.is_none_or(counts)
        && several.is_none_or(|list| Attributes::new(list).all(|(_, e)| counts(e)))
}

/// The rules of one table: all at once if they are all modelled, else one by one.
fn replay_rules(world: &mut World, rules: &[&NftObject]) {
    let whole: Vec<Part> = rules.iter().map(|rule| rule_part(rule, expressions(rule))).collect();
    let mut gaps: BTreeMap<usize, String> = BTreeMap::new();
    if attempt(&mut world.host, &whole).is_err() {
        for (place, part) in whole.iter().enumerate() {
            if let Err(error) = attempt(&mut world.host, std::slice::from_ref(part)) {
                cut(world, rules[place]);
                gaps.insert(place, reason(world, error));
            }
        }
    }
    name_rules(world, rules, &gaps);
}

/// Why a rule was cut: where it asks a set that is left out, why that was.
fn reason(world: &World, error: sim::NftError) -> String {
    let asked = |gap: &&Gap| {
        let name = gap.what.split(' ').nth(1).unwrap_or_default();
        error.errno == sim::Errno::ENOENT && error.detail.contains(&format!("\"{name}\""))
    };
    let absent = world.absent_sets.iter().find(asked);
    absent.map_or(error.detail.clone(), |gap| format!("{}: {}", gap.what, gap.why))
}

/// As much of a rule as is modelled, with a drop behind it that stands for the rest.
fn cut(world: &mut World, rule: &NftObject) {
    let all: Vec<&[u8]> = expressions(rule);
    let drop = Rule::new().verdict(Verdict::Drop);
    let drop: Vec<&[u8]> = Attributes::new(drop.expressions()).map(|(_, e)| e).collect();
    for length in (0..all.len()).rev() {
        let list: Vec<&[u8]> = all[..length].iter().chain(&drop).copied().collect();
        if attempt(&mut world.host, &[rule_part(rule, list)]).is_ok() {
            return;
        }
    }
}

fn expressions(rule: &NftObject) -> Vec<&[u8]> {
    let list = attribute(rule, 4).unwrap_or(&[]);
    Attributes::new(list).map(|(_, expression)| expression).collect()
}

fn rule_part(rule: &NftObject, expressions: Vec<&[u8]>) -> Part {
    let mut w = Writer::new();
    keep(&mut w, &rule.attributes, RULE);
    w.nest(4, |w| expressions.iter().for_each(|expression| w.nest(1, |w| w.raw(expression))));
    (message::NEW_RULE, rule.family, w.into_bytes())
}

/// Notes which rule of the node each rule of the simulator stands for: both are in order.
fn name_rules(world: &mut World, rules: &[&NftObject], gaps: &BTreeMap<usize, String>) {
    let Some(first) = rules.first() else { return };
    let (family, table) = table_of(first);
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    let mut makers = Vec::new();
    {
        let nft = world.host.nft();
        let Some(view) = sim_family(family).and_then(|family| nft.table(family, &table)) else {
            return;
        };
        for (place, rule) in rules.iter().enumerate() {
            let chain = word(rule, 2);
            let next = at.entry(chain.clone()).or_default();
            let made = view.chain(&chain).and_then(|chain| chain.rules().get(*next).copied());
            *next += 1;
            let Some(made) = made else { continue };
            let handle = attribute(rule, 3).and_then(crate::netlink::read::u64_be).unwrap_or(0);
            let maker = Maker {
                table: table_name(family, &table),
                chain: chain.clone(),
                rule: format!("handle {handle}"),
                comment: made.comment().unwrap_or_default(),
                gap: gaps.get(&place).cloned(),
            };
            makers.push(((short_name(family, &table), chain, made.handle()), maker));
        }
    }
    world.makers.extend(makers);
}

/// `nft table inet firewall`.
fn table_name(family: u8, table: &str) -> String {
    format!("nft table {}", short_name(family, table))
}

/// `inet firewall`.
fn short_name(family: u8, table: &str) -> String {
    let family = match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    };
    format!("{family} {table}")
}

fn sim_family(number: u8) -> Option<sim::Family> {
    match number {
        1 => Some(sim::Family::Inet),
        2 => Some(sim::Family::Ip),
        10 => Some(sim::Family::Ip6),
        _ => None,
    }
}

fn table_of(object: &NftObject) -> Table {
    (object.family, word(object, 1))
}

fn attribute(object: &NftObject, number: u16) -> Option<&[u8]> {
    Attributes::new(&object.attributes).get(number)
}

fn word(object: &NftObject, number: u16) -> String {
    attribute(object, number).map(text).unwrap_or_default()
}

/// Writes the wanted attributes as they are.
fn keep(w: &mut Writer, attributes: &[u8], wanted: &[u16]) {
    let all = Attributes::new(attributes).filter(|(number, _)| wanted.contains(number));
    all.for_each(|(number, value)| w.bytes(number, value));
}

/// The same with those flags that are kept.
fn flagged(object: &NftObject, wanted: &[u16], (number, mask): (u16, u32)) -> Vec<u8> {
    let mut w = Writer::new();
    keep(&mut w, &object.attributes, wanted);
    w.be32(number, attribute(object, number).and_then(u32_be).unwrap_or(0) & mask);
    w.into_bytes()
}

/// One batch; all of it or nothing.
fn attempt(host: &mut sim::Host, parts: &[Part]) -> Result<(), sim::NftError> {
    let mut w = Writer::new();
    let mut put = |kind: u16, flags: u16, family: u8, attributes: &[u8]| {
        let resource = if kind == BATCH_BEGIN || kind == BATCH_END { 10 } else { 0 };
        let open =
            w.open_message(Head { kind, flags: REQUEST | flags, sequence: 0, family, resource });
        w.raw(attributes);
        w.close_message(open);
    };
    put(BATCH_BEGIN, 0, 0, &[]);
    for (kind, family, attributes) in parts {
        let append = if *kind == message::NEW_RULE { APPEND } else { 0 };
        put(SUBSYS_NFTABLES | kind, CREATE | append, *family, attributes);
    }
    put(BATCH_END, 0, 0, &[]);
    host.nft_batch(w.as_bytes())
}
