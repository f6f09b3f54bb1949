//! When the changes that wait to be programmed were triggered, for the network programming
//! latency. Knows no clock: times are annotations of slices. Tests: in `track`.

use std::collections::BTreeMap;

use crate::model::{Family, NamespacedName};

/// What set off a change of endpoints, by a slice's annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Family of the slice: each has its own latency.
    pub family: Family,
    /// When, in nanoseconds since 1970.
    pub at: i64,
}

/// Enough to see a delay by; a node that cannot program for hours must not fill its memory.
const MOST_PER_SERVICE: usize = 100;

/// Pending triggers.
#[derive(Debug, Default)]
pub(super) struct Triggers {
    after: Option<i64>,
    pending: BTreeMap<NamespacedName, Vec<Trigger>>,
}

impl Triggers {
    pub(super) fn count_after(&mut self, start: i64) {
        self.after = Some(start);
    }

    pub(super) fn add(&mut self, service: &NamespacedName, trigger: Trigger) {
        if self.after.is_some_and(|start| trigger.at <= start) {
            return;
        }
        let times = self.pending.entry(service.clone()).or_default();
        // The oldest are kept: they show the longest delay.
        if times.len() < MOST_PER_SERVICE {
            times.push(trigger);
        }
    }

    pub(super) fn of(&self, service: &NamespacedName) -> &[Trigger] {
        self.pending.get(service).map_or(&[], Vec::as_slice)
    }

    pub(super) fn take(&mut self, service: &NamespacedName) -> Vec<Trigger> {
        self.pending.remove(service).unwrap_or_default()
    }

    pub(super) fn take_all(&mut self) -> Vec<Trigger> {
        std::mem::take(&mut self.pending).into_values().flatten().collect()
    }
}
