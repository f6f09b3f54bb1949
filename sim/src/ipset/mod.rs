//! ipset: named sets of addresses, ports and networks, changed by the text `ipset restore` reads, asked by rules about packets.
//! Reading text (`restore`, `create`, `element`), standing (`set`), printing (`print`). Facts from net/netfilter/ipset and from
//! ipset 7.17, whose answers stand in tests/fixtures/ipset. It must never know rules or hooks. Tests: tests/ipset.rs.
//!
//! Not as Linux: `hashsize` never grows, elements are printed in their own order, counters do not count packets.

mod create;
mod element;
mod error;
mod host;
mod print;
mod restore;
mod set;

pub use error::{IpsetError, IpsetErrorKind};

use crate::packet::Packet;
use crate::xtables::{Sets, Side};
use error::Refused;
use set::Set;

/// Which end of a packet a dimension of a set is compared with (`src`, `dst` of xt_set and of nft).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Source address or port.
    Src,
    /// Destination address or port.
    Dst,
}

/// The sets of one host. A rule holds the place of a set, not its name: `swap` exchanges what stands there.
#[derive(Debug, Default)]
pub(crate) struct Ipsets {
    places: Vec<Option<Set>>,
}

impl Ipsets {
    /// Is the packet in the set? A set of another family, or of more dimensions than were given, never matches, nor does
    /// one that is not there; to a rule that may not be, for it holds the set.
    pub(crate) fn matches(
        &self,
        name: &str,
        packet: &Packet,
        dimensions: &[Direction],
        now: u64,
    ) -> bool {
        self.find(name)
            .and_then(|place| self.places[place].as_ref())
            .is_some_and(|set| set.matches(packet, dimensions, now))
    }

    /// How many dimensions the set has (`hash:ip,port`: two), or nothing when there is none of the name.
    pub(crate) fn dimensions(&self, name: &str) -> Option<usize> {
        let set = self.places[self.find(name)?].as_ref()?;
        Some(set.kind.dimensions())
    }

    /// Which sets rules ask now, by name: those cannot be destroyed or renamed. To be said before a text is applied.
    pub(crate) fn refer(&mut self, asked: impl Fn(&str) -> bool) {
        for set in self.places.iter_mut().flatten() {
            set.references = u32::from(asked(&set.name));
        }
    }

    /// Names in the order `ipset save` prints them.
    pub(crate) fn names(&self) -> Vec<String> {
        self.places.iter().flatten().map(|set| set.name.clone()).collect()
    }
}

impl Ipsets {
    fn find(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.as_ref().is_some_and(|set| set.name == name))
    }

    fn get(&mut self, name: &str) -> Result<&mut Set, Refused> {
        let place = self.find(name).ok_or_else(Refused::no_set)?;
        self.places[place].as_mut().ok_or_else(Refused::no_set)
    }

    fn create(&mut self, set: Set, tolerant: bool) -> Result<(), Refused> {
        if let Some(known) = self.find(&set.name).and_then(|place| self.places[place].as_ref()) {
            let same = tolerant && known.is_like(&set);
            return if same { Ok(()) } else { Err(Refused::set_exists()) };
        }
        match self.places.iter().position(Option::is_none) {
            Some(free) => self.places[free] = Some(set),
            None => self.places.push(Some(set)),
        }
        Ok(())
    }

    fn destroy(&mut self, name: &str) -> Result<(), Refused> {
        if self.get(name)?.references > 0 {
            return Err(Refused::in_use());
        }
        if let Some(place) = self.find(name) {
            self.places[place] = None;
        }
        Ok(())
    }

    fn destroy_all(&mut self) -> Result<(), Refused> {
        if self.places.iter().flatten().any(|set| set.references > 0) {
            return Err(Refused::in_use());
        }
        self.places.clear();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Refused> {
        let taken = self.find(to).is_some();
        let set = self.get(from)?;
        if set.references > 0 {
            return Err(Refused::rename_in_use());
        }
        if taken {
            return Err(Refused::rename_taken());
        }
        to.clone_into(&mut set.name);
        Ok(())
    }

    /// The names, and the rules that hold them, stay where they are.
    fn swap(&mut self, one: &str, two: &str) -> Result<(), Refused> {
        let first = self.find(one).ok_or_else(Refused::no_set)?;
        let second = self.find(two).ok_or_else(Refused::no_second_set)?;
        if first == second {
            return Ok(());
        }
        let (low, high) = (first.min(second), first.max(second));
        let (head, tail) = self.places.split_at_mut(high);
        let (Some(one), Some(two)) = (head[low].as_mut(), tail[0].as_mut()) else {
            return Err(Refused::no_set());
        };
        if one.kind != two.kind || one.ipv6 != two.ipv6 {
            return Err(Refused::swap_mismatch());
        }
        std::mem::swap(one, two);
        std::mem::swap(&mut one.name, &mut two.name);
        std::mem::swap(&mut one.references, &mut two.references);
        Ok(())
    }
}

/// What `-m set` asks. No kind of set looks at links.
impl Sets for Ipsets {
    fn exists(&self, set: &str) -> bool {
        self.dimensions(set).is_some()
    }

    fn holds(
        &self,
        set: &str,
        sides: &[Side],
        (packet, _): (&Packet, (Option<u32>, Option<u32>)),
        now: u64,
    ) -> bool {
        let mut dimensions = [Direction::Src; 6];
        for (dimension, side) in dimensions.iter_mut().zip(sides) {
            if *side == Side::Destination {
                *dimension = Direction::Dst;
            }
        }
        self.matches(set, packet, &dimensions[..sides.len().min(6)], now)
    }
}

#[cfg(test)]
mod tests {
    use super::restore::Existing;
    use super::*;

    #[test]
    fn a_set_that_rules_ask_is_not_destroyed_or_renamed_but_swapped() {
        let mut sets = Ipsets::default();
        let mut restore = |text: &str| {
            sets.refer(|name| name == "A");
            sets.restore(text, Existing::Refuse, 1).map_err(|error| error.kind)
        };
        assert_eq!(restore("create A hash:ip\ncreate B hash:ip\nadd B 10.0.0.1"), Ok(()));
        assert_eq!(restore("destroy A"), Err(IpsetErrorKind::InUse));
        assert_eq!(restore("destroy"), Err(IpsetErrorKind::InUse));
        assert_eq!(restore("rename A C"), Err(IpsetErrorKind::InUse));
        assert_eq!(restore("swap A B\ndestroy B\ncreate B hash:ip"), Ok(()));
        let packet = Packet::udp(
            "10.0.0.1:1".parse().expect("a literal"),
            "10.0.0.2:1".parse().expect("a literal"),
        );
        assert!(sets.matches("A", &packet, &[Direction::Src], 1), "it has what B had");
        assert_eq!(sets.dimensions("A"), Some(1));
    }
}
