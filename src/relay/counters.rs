//! What the relay counts, for metrics. Figures only grow, but for those that say how many are
//! open now. It must never decide anything. Tests: `tests.rs`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Figures of one listening port, or of all of them together.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    failed_dials: AtomicU64,
    retries: AtomicU64,
    turned_away: AtomicU64,
    unserved: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// The figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections and UDP flows that began.
    pub accepted: u64,
    /// Connections and UDP flows that are open.
    pub open: u64,
    /// Dials of endpoints that failed.
    pub failed_dials: u64,
    /// Further endpoints that were tried after a failed dial.
    pub retries: u64,
    /// Connections and UDP flows that a limit turned away.
    pub turned_away: u64,
    /// Connections that no endpoint answered.
    pub unserved: u64,
    /// Bytes from clients to endpoints.
    pub bytes_up: u64,
    /// Bytes from endpoints to clients.
    pub bytes_down: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, more: Figures) {
        self.accepted += more.accepted;
        self.open += more.open;
        self.failed_dials += more.failed_dials;
        self.retries += more.retries;
        self.turned_away += more.turned_away;
        self.unserved += more.unserved;
        self.bytes_up += more.bytes_up;
        self.bytes_down += more.bytes_down;
    }
}

impl Counters {
    /// The figures now.
    pub fn figures(&self) -> Figures {
        Figures {
            accepted: self.accepted.load(Relaxed),
            open: self.open.load(Relaxed),
            failed_dials: self.failed_dials.load(Relaxed),
            retries: self.retries.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            unserved: self.unserved.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
        }
    }

    pub(super) fn opened(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// How many are open.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    pub(super) fn dial_failed(&self) {
        self.failed_dials.fetch_add(1, Relaxed);
    }

    pub(super) fn tried_again(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    pub(super) fn unserved(&self) {
        self.unserved.fetch_add(1, Relaxed);
    }

    pub(super) fn sent_up(&self, bytes: u64) {
        if bytes > 0 {
            self.bytes_up.fetch_add(bytes, Relaxed);
        }
    }

    pub(super) fn sent_down(&self, bytes: u64) {
        if bytes > 0 {
            self.bytes_down.fetch_add(bytes, Relaxed);
        }
    }
}
