//! When the next sync is due. Pure: the time is an argument.
//!
//! A first change is not made to wait, a burst is put together: between the end of one sync and
//! the beginning of the next lies at least the minimum period, and after an error the retry
//! grows from a tenth of a second to the sync period (the reference waits the whole sync period,
//! `pkg/proxy/runner/bounded_frequency_runner.go`). Tests: below.

use std::time::Duration;

/// The first wait after an error.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// When the next sync is due. Times are since any fixed moment.
#[derive(Clone, Debug)]
pub struct Schedule {
    min_period: Duration,
    sync_period: Duration,
    wanted_since: Option<Duration>,
    last_end: Option<Duration>,
    failures: u32,
}

impl Schedule {
    /// A schedule with the shortest gap between syncs and the longest wait for a retry.
    pub fn new(min_period: Duration, sync_period: Duration) -> Schedule {
        Schedule { min_period, sync_period, wanted_since: None, last_end: None, failures: 0 }
    }

    /// Goes by other periods from now on.
    pub fn set_periods(&mut self, min_period: Duration, sync_period: Duration) {
        (self.min_period, self.sync_period) = (min_period, sync_period);
    }

    /// Something has changed, or is to be done at a moment that comes.
    pub fn want(&mut self, at: Duration) {
        self.wanted_since = Some(self.wanted_since.map_or(at, |earlier| earlier.min(at)));
    }

    /// When the next sync is due; `None`: not before something changes.
    pub fn due(&self) -> Option<Duration> {
        let wanted = self.wanted_since?;
        let Some(end) = self.last_end else { return Some(wanted) };
        let gap = if self.failures == 0 { self.min_period } else { self.retry() };
        Some(wanted.max(end + gap))
    }

    fn retry(&self) -> Duration {
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(16).saturating_sub(1));
        doubled.min(self.sync_period)
    }

    /// A sync has begun.
    pub fn begin(&mut self) {
        self.wanted_since = None;
    }

    /// A sync has ended well.
    pub fn succeeded(&mut self, now: Duration) {
        self.last_end = Some(now);
        self.failures = 0;
    }

    /// A sync has failed: another is wanted.
    pub fn failed(&mut self, now: Duration) {
        self.last_end = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.want(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_change_does_not_wait_and_a_burst_does() {
        let mut schedule = Schedule::new(ms(1000), ms(30_000));
        assert_eq!(schedule.due(), None);
        schedule.want(ms(5));
        assert_eq!(schedule.due(), Some(ms(5)));
        schedule.begin();
        schedule.succeeded(ms(10));
        assert_eq!(schedule.due(), None);
        schedule.want(ms(20));
        schedule.want(ms(30));
        assert_eq!(schedule.due(), Some(ms(1010)));
        schedule.begin();
        schedule.succeeded(ms(1011));
        schedule.want(ms(9000));
        assert_eq!(schedule.due(), Some(ms(9000)));
    }

    #[test]
    fn what_is_for_later_does_not_hold_up_what_is_for_now() {
        let mut schedule = Schedule::new(ms(0), ms(30_000));
        schedule.want(ms(1000));
        schedule.want(ms(5));
        assert_eq!(schedule.due(), Some(ms(5)));
    }

    #[test]
    fn retries_come_soon_and_then_less_often() {
        let mut schedule = Schedule::new(ms(1000), ms(30_000));
        schedule.want(ms(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            schedule.begin();
            schedule.failed(ms(0));
            waits.push(schedule.due().expect("a retry is wanted").as_millis());
        }
        assert_eq!(&waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits.last(), Some(&30_000));
    }
}
