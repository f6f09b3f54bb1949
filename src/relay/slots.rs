//! Places for connections, named by numbers that are not used again at once: an event for a
//! connection that has ended must not be taken for one of its successor's. Tests: below.

use slab::Slab;

/// The name of a place: index and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// As 62 bits.
    pub(super) fn number(self) -> u64 {
        u64::from(self.index) << 30 | u64::from(self.generation)
    }

    /// From the 62 bits.
    pub(super) fn from_number(number: u64) -> Slot {
        Slot { index: (number >> 30) as u32, generation: (number & GENERATIONS) as u32 }
    }
}

/// Generations come again after so many.
const GENERATIONS: u64 = (1 << 30) - 1;

/// Things in places.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slab: Slab<(u32, T)>,
    next: u32,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Slots { slab: Slab::new(), next: 0 }
    }

    /// Puts in what is made from the name of its place.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(Slot) -> T) -> Slot {
        self.next = (self.next + 1) & GENERATIONS as u32;
        let entry = self.slab.vacant_entry();
        let slot = Slot { index: entry.key() as u32, generation: self.next };
        entry.insert((self.next, make(slot)));
        slot
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let (generation, thing) = self.slab.get_mut(slot.index as usize)?;
        (*generation == slot.generation).then_some(thing)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        self.get_mut(slot)?;
        Some(self.slab.remove(slot.index as usize).1)
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// The names of all.
    pub(super) fn names(&self) -> Vec<Slot> {
        let name = |(index, (generation, _)): (usize, &(u32, T))| Slot {
            index: index as u32,
            generation: *generation,
        };
        self.slab.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outlives_its_thing_and_finds_no_other() {
        let mut slots = Slots::new();
        let first = slots.insert_with(|_| "first");
        assert_eq!(Slot::from_number(first.number()), first);
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert_with(|_| "second");
        assert_eq!(second.index, first.index);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
        assert_eq!((slots.len(), slots.names()), (1, vec![second]));
    }
}
