//! Sets and maps: definition, elements, and the three ways to find one (hash, intervals, ranges of concatenations).
//! Facts from net/netfilter/nft_set_{hash,rbtree,pipapo}.c. It must never know rules or packets.
//! Tests: tests/sets.rs.

use super::key::Key;
use super::ranges::Ranges;
use crate::hash::FastMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Set flags (linux/netfilter/nf_tables.h).
#[expect(missing_docs, reason = "the names are Linux's own")]
pub mod set_flags {
    pub const ANONYMOUS: u32 = 0x1;
    pub const CONSTANT: u32 = 0x2;
    pub const INTERVAL: u32 = 0x4;
    pub const MAP: u32 = 0x8;
    pub const TIMEOUT: u32 = 0x10;
    pub const EVAL: u32 = 0x20;
    pub const OBJECT: u32 = 0x40;
    pub const CONCAT: u32 = 0x80;
}

/// Data type of verdict maps.
pub const DATA_VERDICT: u32 = 0xffff_ff00;

/// What a set was declared to be.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SetDefinition {
    /// Bits of [`set_flags`].
    pub flags: u32,
    /// The user's type of the key; not looked at but for printing.
    pub key_type: u32,
    /// Bytes of the key.
    pub key_len: u32,
    /// The user's type of the data, or [`DATA_VERDICT`].
    pub data_type: u32,
    /// Bytes of the data.
    pub data_len: u32,
    /// Bytes of each field of a concatenation, before padding to 4.
    pub fields: Vec<u32>,
    /// The most elements, zero for no limit.
    pub size: u32,
    /// Timeout of elements that name none, in milliseconds, zero for none.
    pub timeout: u64,
    /// How often expired elements are collected, in milliseconds.
    pub gc_interval: u32,
    /// Memory or performance.
    pub policy: u32,
}

impl SetDefinition {
    /// Has all of these flags?
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    pub(crate) fn is_verdict_map(&self) -> bool {
        self.has(set_flags::MAP) && self.data_type == DATA_VERDICT
    }
}

/// A verdict: what a rule or a verdict map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Continue,
    Break,
    Return,
    Jump(u32),
    Goto(u32),
}

impl Verdict {
    pub(crate) fn target(self) -> Option<u32> {
        match self {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datum {
    None,
    Value(Key),
    Verdict(Verdict),
}

/// An element of a set or map.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) key: Key,
    pub(crate) key_end: Option<Key>,
    pub(crate) interval_end: bool,
    pub(crate) datum: Datum,
    pub(crate) userdata: Option<Box<[u8]>>,
    /// Nanoseconds, zero for never.
    pub(crate) timeout: u64,
    /// Moment of the clock, `u64::MAX` for never.
    pub(crate) expires: u64,
}

/// Where an element stands in its set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) key: Key,
    pub(crate) key_end: Option<Key>,
    pub(crate) interval_end: bool,
}

impl Element {
    pub(crate) fn spot(&self) -> Spot {
        Spot {
            key: self.key.clone(),
            key_end: self.key_end.clone(),
            interval_end: self.interval_end,
        }
    }

    #[inline]
    pub(crate) fn alive(&self, now: u64) -> bool {
        self.expires > now
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Elements {
    Hash(FastMap<Key, Element>),
    /// Ordered by key; at the same key an end stands before a start.
    Intervals(BTreeMap<(Key, bool), Element>),
    Ranges(Ranges),
}

/// A set or map.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) name: Arc<str>,
    pub(crate) handle: u64,
    pub(crate) definition: SetDefinition,
    pub(crate) userdata: Option<Box<[u8]>>,
    /// Number within the batch that made it (NFTA_SET_ID).
    pub(crate) batch_id: Option<u32>,
    /// How many rule expressions use it.
    pub(crate) uses: u32,
    /// How many elements jump to each chain.
    pub(crate) targets: FastMap<u32, u32>,
    pub(crate) elements: Elements,
}

/// What stands in the way of a new element.
pub(crate) enum Clash<'a> {
    Same(&'a Element),
    Overlap,
}

impl Elements {
    pub(crate) fn for_definition(definition: &SetDefinition) -> Elements {
        if !definition.has(set_flags::INTERVAL) {
            Elements::Hash(FastMap::default())
        } else if definition.fields.len() > 1 {
            Elements::Ranges(Ranges::new(&definition.fields))
        } else {
            Elements::Intervals(BTreeMap::new())
        }
    }
}

impl Set {
    /// The element a key finds.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], now: u64) -> Option<&Element> {
        let found = match &self.elements {
            Elements::Hash(map) => map.get(key),
            Elements::Intervals(map) => {
                // A start at the key itself sorts after an end there, and covers the key.
                let (_, last) = map.range(..=(Key::new(key), true)).next_back()?;
                (!last.interval_end).then_some(last)
            }
            Elements::Ranges(ranges) => ranges.find(key, now),
        }?;
        found.alive(now).then_some(found)
    }

    /// The very element a spot names.
    pub(crate) fn at(&self, spot: &Spot) -> Option<&Element> {
        match &self.elements {
            Elements::Hash(map) => map.get(&spot.key),
            Elements::Intervals(map) => map.get(&(spot.key.clone(), !spot.interval_end)),
            Elements::Ranges(ranges) => ranges.at(spot),
        }
    }

    pub(crate) fn at_mut(&mut self, spot: &Spot) -> Option<&mut Element> {
        match &mut self.elements {
            Elements::Hash(map) => map.get_mut(&spot.key),
            Elements::Intervals(map) => map.get_mut(&(spot.key.clone(), !spot.interval_end)),
            Elements::Ranges(ranges) => ranges.at_mut(spot),
        }
    }

    /// What an element would collide with. Expired elements are in nobody's way.
    pub(crate) fn clash(&self, element: &Element, now: u64) -> Option<Clash<'_>> {
        match &self.elements {
            Elements::Hash(map) => {
                map.get(&element.key).filter(|known| known.alive(now)).map(Clash::Same)
            }
            Elements::Intervals(map) => {
                let place = (element.key.clone(), !element.interval_end);
                match map.get(&place).filter(|known| known.alive(now)) {
                    Some(known) => Some(Clash::Same(known)),
                    None => inside_closed(map, element).then_some(Clash::Overlap),
                }
            }
            Elements::Ranges(ranges) => ranges.clash(element, now),
        }
    }

    /// Puts an element in, and returns the expired one it replaced.
    pub(crate) fn insert(&mut self, element: Element) -> Option<Element> {
        let target =
            if let Datum::Verdict(verdict) = element.datum { verdict.target() } else { None };
        if let Some(chain) = target {
            *self.targets.entry(chain).or_default() += 1;
        }
        let replaced = match &mut self.elements {
            Elements::Hash(map) => map.insert(element.key.clone(), element),
            Elements::Intervals(map) => {
                map.insert((element.key.clone(), !element.interval_end), element)
            }
            Elements::Ranges(ranges) => ranges.insert(element),
        };
        if let Some(element) = &replaced {
            self.forget_target(element);
        }
        replaced
    }

    pub(crate) fn remove(&mut self, spot: &Spot) -> Option<Element> {
        let removed = match &mut self.elements {
            Elements::Hash(map) => map.remove(&spot.key),
            Elements::Intervals(map) => map.remove(&(spot.key.clone(), !spot.interval_end)),
            Elements::Ranges(ranges) => ranges.remove(spot),
        }?;
        self.forget_target(&removed);
        Some(removed)
    }

    fn forget_target(&mut self, element: &Element) {
        let Datum::Verdict(verdict) = element.datum else { return };
        let Some(chain) = verdict.target() else { return };
        if let Some(count) = self.targets.get_mut(&chain) {
            *count -= 1;
            if *count == 0 {
                self.targets.remove(&chain);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.elements {
            Elements::Hash(map) => map.len(),
            Elements::Intervals(map) => map.len(),
            Elements::Ranges(ranges) => ranges.len(),
        }
    }

    pub(crate) fn full(&self) -> bool {
        self.definition.size != 0 && self.len() >= self.definition.size as usize
    }

    /// Takes all elements out at once.
    pub(crate) fn take_all(&mut self) -> (Elements, FastMap<u32, u32>) {
        let empty = Elements::for_definition(&self.definition);
        (std::mem::replace(&mut self.elements, empty), std::mem::take(&mut self.targets))
    }

    /// All elements, by key.
    pub(crate) fn sorted(&self) -> Vec<&Element> {
        let mut all: Vec<&Element> = match &self.elements {
            Elements::Hash(map) => map.values().collect(),
            Elements::Intervals(map) => map.values().collect(),
            Elements::Ranges(ranges) => ranges.all().collect(),
        };
        all.sort_by(|a, b| {
            (&a.key, &a.key_end, !a.interval_end).cmp(&(&b.key, &b.key_end, !b.interval_end))
        });
        all
    }

    /// Drops what has expired, so that a full set may take more.
    pub(crate) fn collect_expired(&mut self, now: u64) -> Vec<Element> {
        let expired: Vec<Spot> = self
            .sorted()
            .into_iter()
            .filter(|element| !element.alive(now))
            .map(Element::spot)
            .collect();
        expired.iter().filter_map(|spot| self.remove(spot)).collect()
    }
}

/// A boundary strictly inside an interval that already has both ends.
fn inside_closed(map: &BTreeMap<(Key, bool), Element>, element: &Element) -> bool {
    let place = (element.key.clone(), !element.interval_end);
    let before = map.range(..place.clone()).next_back().map(|(_, known)| known.interval_end);
    let after = map.range(place..).next().map(|(_, known)| known.interval_end);
    before == Some(false) && after == Some(true)
}
