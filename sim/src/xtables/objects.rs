//! What rules refer to and do not hold: sets (another facility's), and accounting objects with their counters.
//! It must never know how a set finds what it holds. Tests: tests/xtables_packets.rs.

use crate::packet::Packet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Packets and bytes.
pub(super) type Counters = [AtomicU64; 2];

/// Accounting objects by name (nfnetlink_acct).
pub(super) type Accounts = BTreeMap<Arc<str>, Counters>;

/// Counts a packet of this many bytes.
pub(super) fn add(counters: &Counters, length: u32) {
    for (counter, more) in counters.iter().zip([1, u64::from(length)]) {
        counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
    }
}

/// Which end of a packet a dimension of a set looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `src`
    Source,
    /// `dst`
    Destination,
}

/// The sets `-m set` may ask (ipset).
pub(crate) trait Sets {
    /// Is there a set of this name?
    fn exists(&self, set: &str) -> bool;

    /// Does the set hold the packet, whose dimensions are taken from these sides? With the packet come the links it came in by
    /// and goes out by, and the time now. A set of another family, or with more dimensions than sides, holds nothing.
    fn holds(
        &self,
        set: &str,
        sides: &[Side],
        packet: (&Packet, (Option<u32>, Option<u32>)),
        now: u64,
    ) -> bool;
}
