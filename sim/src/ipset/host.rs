//! The verbs of a host for its sets. It must never know how text is read. Tests: tests/ipset.rs.

use super::restore::Existing;
use super::{Direction, IpsetError};
use crate::facilities::Facilities;
use crate::host::Host;
use crate::packet::Packet;

impl Host {
    /// What `ipset restore` does with this text: commands line by line, up to the first that is refused.
    pub fn ipset_restore(&mut self, text: &str) -> Result<(), IpsetError> {
        self.restore_sets(text, Existing::Refuse)
    }

    /// What `ipset -exist restore` does: what is there already, or is not there to be deleted, counts as done.
    pub fn ipset_restore_exist(&mut self, text: &str) -> Result<(), IpsetError> {
        self.restore_sets(text, Existing::Tolerate)
    }

    /// All sets, as `ipset save` prints them.
    pub fn ipset_save(&self) -> String {
        self.facilities().ipsets.save(None, self.nanos())
    }

    /// One set as `ipset save NAME` prints it; nothing when there is none of the name.
    pub fn ipset_save_one(&self, name: &str) -> Option<String> {
        let text = self.facilities().ipsets.save(Some(name), self.nanos());
        Some(text).filter(|text| !text.is_empty())
    }

    /// The names of all sets, in their own order.
    pub fn ipset_names(&self) -> Vec<String> {
        self.facilities().ipsets.names()
    }

    /// Is the packet in the set, its dimensions taken from these ends?
    pub fn ipset_matches(&self, name: &str, packet: &Packet, dimensions: &[Direction]) -> bool {
        self.facilities().ipsets.matches(name, packet, dimensions, self.nanos())
    }

    fn restore_sets(&mut self, text: &str, existing: Existing) -> Result<(), IpsetError> {
        let now = self.nanos();
        let Facilities { ipsets, xtables, .. } = self.facilities_mut();
        ipsets.refer(|name| xtables.asks_set(name));
        ipsets.restore(text, existing, now)
    }
}
