//! What the relay says aloud: that a limit is reached, or that descriptors have run out. Each at
//! most once in ten seconds, with how often it happened meanwhile, since it happens to every client
//! then. Time comes from the caller. It must never decide anything. Tests: below.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The shortest time between two lines about the same thing.
const CALM: Duration = Duration::from_secs(10);

/// One kind of complaint: when it was last said, and how often it came up since.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    /// Milliseconds; 0: never.
    said: AtomicU64,
    since: AtomicU64,
}

impl Complaint {
    /// It came up once more. If it is to be said now, gives how often it came up since it was last.
    pub(super) fn comes_up(&self, now: Duration) -> Option<u64> {
        self.since.fetch_add(1, Relaxed);
        // The first moment counts as one millisecond: 0 is for never.
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
        let said = self.said.load(Relaxed);
        let calm = said != 0 && now < said.saturating_add(CALM.as_millis() as u64);
        // Of several threads only one says it.
        if calm || self.said.compare_exchange(said, now, Relaxed, Relaxed).is_err() {
            return None;
        }
        Some(self.since.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_and_then_seldom_with_how_often_it_came_up() {
        let complaint = Complaint::default();
        let at = |millis| complaint.comes_up(Duration::from_millis(millis));
        assert_eq!(at(0), Some(1));
        assert_eq!((at(5), at(9_999), at(10_000)), (None, None, None));
        assert_eq!(at(10_001), Some(4));
        assert_eq!(at(10_002), None);
    }
}
