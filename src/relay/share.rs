//! How threads share connections: the kernel wakes whichever thread it likes for a client, most often the
//! same, and one that has many more than another gives it those that come. It must never know a socket.
//! Tests: below, `tests.rs`, `threads_tests.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many more than another a thread may have of connections that end soon: to wake another thread costs
/// about as much as they do.
const SLACK_OF_SHORT: usize = 32;
/// Of connections that stay: those that came one after the other often ask one after the other, and two
/// threads answer sooner than one.
const SLACK: usize = 1;
/// After so many connections it is judged whether they end soon.
const JUDGED: usize = 64;

/// Whether connections end soon, by those that came lately.
#[derive(Debug, Default)]
pub(super) struct Lives {
    begun: usize,
    open_then: usize,
    are_short: bool,
}

impl Lives {
    /// One more came, which makes so many that are open.
    pub(super) fn begins(&mut self, open: usize) {
        self.begun += 1;
        if self.begun == JUDGED {
            let stayed = open.saturating_sub(self.open_then);
            *self = Lives { begun: 0, open_then: open, are_short: stayed * 2 < JUDGED };
        }
    }

    fn slack(&self) -> usize {
        if self.are_short { SLACK_OF_SHORT } else { SLACK }
    }
}

/// How many connections each thread has.
#[derive(Clone, Debug)]
pub(super) struct Loads(Arc<[AtomicUsize]>);

/// One thread's place among all.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    number: usize,
    loads: Loads,
}

impl Loads {
    /// Of so many threads that have none yet.
    pub(super) fn new(threads: usize) -> Loads {
        Loads((0..threads).map(|_| AtomicUsize::new(0)).collect())
    }

    /// The place of one of them.
    pub(super) fn desk(&self, number: usize) -> Desk {
        Desk { number, loads: self.clone() }
    }

    /// How many threads there are.
    pub(super) fn threads(&self) -> usize {
        self.0.len()
    }

    /// As each thread said last.
    #[cfg(test)]
    pub(super) fn told(&self) -> Vec<usize> {
        self.0.iter().map(|load| load.load(Ordering::Relaxed)).collect()
    }
}

impl Desk {
    /// Says how many connections this thread has.
    pub(super) fn tell(&self, own: usize) {
        if let Some(load) = self.loads.0.get(self.number) {
            load.store(own, Ordering::Relaxed);
        }
    }

    /// Who is to have the next connection, if not this thread, which has so many and knows how long they
    /// live; it counts there from now on.
    pub(super) fn next(&self, own: usize, lives: &Lives) -> Option<usize> {
        let others = self.loads.0.iter().enumerate().filter(|(number, _)| *number != self.number);
        let loads = others.map(|(number, load)| (load.load(Ordering::Relaxed), number));
        let (least, number) = loads.min()?;
        if own <= least + lives.slack() {
            return None;
        }
        self.loads.0.get(number)?.fetch_add(1, Ordering::Relaxed);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_gives_to_who_has_least() {
        let loads = Loads::new(3);
        let desk = loads.desk(0);
        let stay = Lives::default();
        assert_eq!(desk.next(1, &stay), None);
        assert_eq!(desk.next(2, &stay), Some(1));
        assert_eq!(desk.next(2, &stay), Some(2), "the first has one more by now");
        loads.desk(1).tell(1600);
        loads.desk(2).tell(3200);
        assert_eq!(desk.next(1601, &stay), None);
        assert_eq!(desk.next(1602, &stay), Some(1));
        assert_eq!(Loads::new(1).desk(0).next(10_000, &stay), None, "there is nobody else");
    }

    #[test]
    fn connections_that_end_soon_stay_where_they_came() {
        let (loads, mut lives) = (Loads::new(2), Lives::default());
        let desk = loads.desk(0);
        let mut come = |opens: fn(usize) -> usize| {
            (1..=JUDGED).for_each(|n| lives.begins(opens(n)));
            desk.next(20, &lives).is_none()
        };
        assert!(come(|_| 20), "they come and go");
        assert!(!come(|n| 20 + n), "they stay");
        assert!(!come(|n| 20 + JUDGED + n / 2 + 1), "every second one stays");
        assert!(come(|n| 20 + JUDGED + JUDGED / 2 + n / 4), "every fourth one");
    }
}
