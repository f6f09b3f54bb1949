//! Ranges of concatenations: elements whose every field is a range, found by trying each shape of prefixes there is.
//! Answers as net/netfilter/nft_set_pipapo.c does (the first inserted wins where elements overlap).
//! It must never know rules or packets. Tests: tests/sets.rs.

use super::key::Key;
use super::set::{Clash, Element, Spot};
use crate::hash::FastMap;
use std::collections::BTreeMap;

/// Elements with a range in each field.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    fields: Vec<usize>,
    entries: BTreeMap<u64, Element>,
    places: FastMap<(Key, Key), u64>,
    next: u64,
    /// By mask: masked key → entries, oldest first.
    shapes: BTreeMap<Key, FastMap<Key, Vec<u64>>>,
    /// Entries with a range that is no prefix.
    uneven: Vec<u64>,
}

impl Ranges {
    pub(crate) fn new(fields: &[u32]) -> Self {
        Ranges {
            fields: fields.iter().map(|length| *length as usize).collect(),
            ..Ranges::default()
        }
    }

    pub(crate) fn find(&self, key: &[u8], now: u64) -> Option<&Element> {
        let mut best: Option<u64> = None;
        let mut masked = [0u8; 64];
        let length = key.len().min(64);
        let live = |number: &&u64| self.entries.get(number).is_some_and(|entry| entry.alive(now));
        for (mask, by_key) in &self.shapes {
            for (slot, (byte, keep)) in masked.iter_mut().zip(key.iter().zip(mask.iter())) {
                *slot = byte & keep;
            }
            if let Some(number) =
                by_key.get(&masked[..length]).and_then(|numbers| numbers.iter().find(live))
            {
                best = Some(best.map_or(*number, |known| known.min(*number)));
            }
        }
        let uneven =
            self.uneven.iter().filter(live).find(|number| {
                self.entries.get(number).is_some_and(|entry| self.holds(entry, key))
            });
        let number = match (best, uneven) {
            (Some(one), Some(two)) => one.min(*two),
            (one, two) => one.or(two.copied())?,
        };
        self.entries.get(&number)
    }

    fn holds(&self, entry: &Element, key: &[u8]) -> bool {
        let end = entry.key_end.as_ref().unwrap_or(&entry.key);
        self.spans().all(|(from, to)| {
            match (key.get(from..to), entry.key.get(from..to), end.get(from..to)) {
                (Some(field), Some(low), Some(high)) => low <= field && field <= high,
                _ => false,
            }
        })
    }

    /// Start and end of each field, without its padding.
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        self.fields.iter().scan(0, |offset, length| {
            let from = *offset;
            *offset += length.next_multiple_of(4);
            Some((from, from + length))
        })
    }

    pub(crate) fn clash(&self, element: &Element, now: u64) -> Option<Clash<'_>> {
        let same = self
            .places
            .get(&place(&element.key, element.key_end.as_ref()))
            .and_then(|number| self.entries.get(number));
        if let Some(known) = same.filter(|known| known.alive(now)) {
            return Some(Clash::Same(known));
        }
        let end = element.key_end.as_ref().unwrap_or(&element.key);
        (self.find(&element.key, now).is_some() || self.find(end, now).is_some())
            .then_some(Clash::Overlap)
    }

    pub(crate) fn insert(&mut self, element: Element) -> Option<Element> {
        let replaced = self.remove(&element.spot());
        let number = self.next;
        self.next += 1;
        match self.mask_of(&element) {
            Some(mask) => {
                let by_key = self.shapes.entry(Key::new(&mask)).or_default();
                by_key.entry(element.key.clone()).or_default().push(number);
            }
            None => self.uneven.push(number),
        }
        self.places.insert(place(&element.key, element.key_end.as_ref()), number);
        self.entries.insert(number, element);
        replaced
    }

    pub(crate) fn remove(&mut self, spot: &Spot) -> Option<Element> {
        let number = self.places.remove(&place(&spot.key, spot.key_end.as_ref()))?;
        let element = self.entries.remove(&number)?;
        match self.mask_of(&element) {
            Some(mask) => self.forget_shape(&mask, &element.key, number),
            None => self.uneven.retain(|known| *known != number),
        }
        Some(element)
    }

    fn forget_shape(&mut self, mask: &[u8], key: &Key, number: u64) {
        let Some(by_key) = self.shapes.get_mut(&Key::new(mask)) else { return };
        if let Some(numbers) = by_key.get_mut(key) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                by_key.remove(key);
            }
        }
        if by_key.is_empty() {
            self.shapes.remove(&Key::new(mask));
        }
    }

    pub(crate) fn at(&self, spot: &Spot) -> Option<&Element> {
        self.entries.get(self.places.get(&place(&spot.key, spot.key_end.as_ref()))?)
    }

    pub(crate) fn at_mut(&mut self, spot: &Spot) -> Option<&mut Element> {
        self.entries.get_mut(self.places.get(&place(&spot.key, spot.key_end.as_ref()))?)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Element> {
        self.entries.values()
    }

    /// The mask of an element whose every field is a prefix.
    fn mask_of(&self, element: &Element) -> Option<Vec<u8>> {
        let end = element.key_end.as_ref().unwrap_or(&element.key);
        let mut mask = vec![0xff; element.key.len()];
        for (from, to) in self.spans() {
            let (low, high) = (element.key.get(from..to)?, end.get(from..to)?);
            write_prefix(mask.get_mut(from..to)?, low, high)?;
        }
        Some(mask)
    }
}

fn place(key: &Key, end: Option<&Key>) -> (Key, Key) {
    (key.clone(), end.unwrap_or(key).clone())
}

/// Writes the mask of `low..=high` when that is a prefix.
fn write_prefix(mask: &mut [u8], low: &[u8], high: &[u8]) -> Option<()> {
    let mut open = false;
    for (slot, (first, last)) in mask.iter_mut().zip(low.iter().zip(high)) {
        let differing = first ^ last;
        if open {
            if (*first, *last) != (0, 0xff) {
                return None;
            }
            *slot = 0;
        } else if differing != 0 {
            if !(differing.wrapping_add(1)).is_power_of_two() && differing != 0xff
                || first & differing != 0
            {
                return None;
            }
            *slot = !differing;
            open = true;
        }
    }
    Some(())
}
