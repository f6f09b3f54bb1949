//! How often the API server may be asked: a bucket of tokens, as client-go's
//! (`util/flowcontrol`, `golang.org/x/time/rate`). Pure: the time is an argument. Tests: below.

use std::time::Duration;

/// `--kube-api-qps` and `--kube-api-burst`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Requests a second in the long run; negative: no limit.
    pub qps: f32,
    /// Requests that may come at once.
    pub burst: u32,
}

impl Default for Pace {
    /// client-go's defaults, which stand for 0 as well.
    fn default() -> Self {
        Pace { qps: 5.0, burst: 10 }
    }
}

/// The bucket.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    qps: f64,
    burst: f64,
    tokens: f64,
    filled: Duration,
}

impl Bucket {
    /// A full bucket; `None` where there is no limit.
    pub(crate) fn new(pace: Pace) -> Option<Bucket> {
        let default = Pace::default();
        let qps = if pace.qps == 0.0 { default.qps } else { pace.qps };
        let burst = if pace.burst == 0 { default.burst } else { pace.burst };
        let (qps, burst) = (f64::from(qps), f64::from(burst));
        (qps > 0.0).then_some(Bucket { qps, burst, tokens: burst, filled: Duration::ZERO })
    }

    /// Takes a token; how long to wait until it is there.
    pub(crate) fn take(&mut self, now: Duration) -> Duration {
        let since = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * self.qps).min(self.burst) - 1.0;
        self.filled = self.filled.max(now);
        Duration::try_from_secs_f64((-self.tokens / self.qps).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn waits(bucket: &mut Bucket, now: u64, times: usize) -> Vec<u128> {
        (0..times).map(|_| bucket.take(Duration::from_millis(now)).as_millis()).collect()
    }

    #[test]
    fn a_burst_is_let_through_and_then_so_many_a_second() {
        let mut bucket = Bucket::new(Pace { qps: 5.0, burst: 3 }).unwrap();
        assert_eq!(waits(&mut bucket, 0, 5), [0, 0, 0, 200, 400]);
        // A second later two of the five are paid for that were promised before.
        assert_eq!(waits(&mut bucket, 1000, 4), [0, 0, 0, 200]);
        assert_eq!(waits(&mut bucket, 60_000, 4), [0, 0, 0, 200]);
    }

    #[test]
    fn nothing_said_is_the_default_and_negative_is_no_limit() {
        assert!(Bucket::new(Pace { qps: -1.0, burst: 1 }).is_none());
        let mut bucket = Bucket::new(Pace { qps: 0.0, burst: 0 }).unwrap();
        assert_eq!(waits(&mut bucket, 0, 11)[9..], [0, 200]);
    }
}
