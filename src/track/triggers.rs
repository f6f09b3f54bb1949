//! When the changes that wait to be programmed were triggered, for the network programming
//! latency. Knows no clock: times are annotations of slices. Tests: in `track`.

use std::collections::BTreeMap;

use crate::model::NamespacedName;

/// Enough to see a delay by; a node that cannot program for hours must not fill its memory.
const MOST_PER_SERVICE: usize = 100;

/// Pending trigger times, in nanoseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Triggers {
    after: Option<i64>,
    pending: BTreeMap<NamespacedName, Vec<i64>>,
}

impl Triggers {
    pub(super) fn count_after(&mut self, start: i64) {
        self.after = Some(start);
    }

    pub(super) fn add(&mut self, service: &NamespacedName, time: i64) {
        if self.after.is_some_and(|start| time <= start) {
            return;
        }
        let times = self.pending.entry(service.clone()).or_default();
        // The oldest are kept: they show the longest delay.
        if times.len() < MOST_PER_SERVICE {
            times.push(time);
        }
    }

    pub(super) fn of(&self, service: &NamespacedName) -> &[i64] {
        self.pending.get(service).map_or(&[], Vec::as_slice)
    }

    pub(super) fn take(&mut self, service: &NamespacedName) -> Vec<i64> {
        self.pending.remove(service).unwrap_or_default()
    }

    pub(super) fn take_all(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.pending).into_values().flatten().collect()
    }
}
