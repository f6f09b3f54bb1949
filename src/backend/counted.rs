//! Things that several frontends share: in the kernel as long as somebody needs them.
//! It counts and knows nothing of what is counted. Tests: below, and with the modes.

use std::collections::{BTreeMap, BTreeSet};

/// Things several frontends share, present in the kernel as long as somebody needs them.
#[derive(Debug)]
pub struct Counted<K> {
    needs: BTreeMap<K, u32>,
    /// In the kernel, needed by nobody.
    pub idle: BTreeSet<K>,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Counted { needs: BTreeMap::new(), idle: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Counted<K> {
    /// Things that were found in the kernel, and of which nobody knows yet who needs them.
    pub fn found(there: impl IntoIterator<Item = K>) -> Counted<K> {
        Counted { needs: BTreeMap::new(), idle: there.into_iter().collect() }
    }

    /// Somebody more needs it; whether it has to be made.
    pub fn need(&mut self, thing: K) -> bool {
        let needs = self.needs.entry(thing).or_insert(0);
        *needs += 1;
        *needs == 1 && !self.idle.remove(&thing)
    }

    /// Somebody less needs it.
    pub fn release(&mut self, thing: K) {
        let Some(needs) = self.needs.get_mut(&thing) else { return };
        *needs -= 1;
        if *needs == 0 {
            self.needs.remove(&thing);
            self.idle.insert(thing);
        }
    }

    /// Everything that is in the kernel.
    pub fn present(&self) -> impl Iterator<Item = &K> {
        self.needs.keys().chain(&self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_not_made_and_goes_when_nobody_wants_it() {
        let mut counted = Counted::found([1, 2]);
        assert!(!counted.need(1), "it is there");
        assert!(counted.need(3), "it is not");
        assert!(!counted.need(3));
        counted.release(3);
        assert_eq!(counted.idle, BTreeSet::from([2]));
        counted.release(3);
        assert_eq!(counted.idle, BTreeSet::from([2, 3]));
        assert!(!counted.need(3), "it is there still");
    }
}
