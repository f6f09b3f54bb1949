//! Whether this proxy keeps up with the cluster, as told by whoever programs the kernel.
//! A value with a lock; it reads no clock: times are arguments. Rules:
//! `pkg/proxy/healthcheck/proxy_health.go` (lines 79 and 80 of upstream-behaviour.md).
//! Tests: below.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::clock::go_time;
use crate::track::Cluster;

/// Shared by the sync loop, which tells it what happens, and the servers, which ask.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

/// Which of the two health paths is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`: whether load balancers may send traffic to this node.
    Healthz,
    /// `/livez`: whether this process works.
    Livez,
}

/// What a health path answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200, else 503.
    pub ok: bool,
    /// The body, JSON.
    pub body: String,
}

/// How far what is programmed is behind what was seen. Generations number the times that something
/// new was there to program, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// The newest generation that was seen.
    pub seen: u64,
    /// The newest generation that is in the kernel.
    pub programmed: u64,
    /// How long the oldest change that is not programmed has waited.
    pub waited: Duration,
}

#[derive(Debug)]
struct State {
    timeout: Duration,
    seen: u64,
    /// What the sync now running, or the last one, began with.
    begun: u64,
    programmed: u64,
    /// When the oldest change came that no sync has begun to program.
    waiting: Option<Instant>,
    /// The same of the changes that the sync now running programs.
    running: Option<Instant>,
    last_updated: Option<SystemTime>,
    node_eligible: bool,
}

impl Health {
    /// Healthy until a change waits for `timeout`; the reference takes twice the sync period.
    pub fn new(timeout: Duration) -> Health {
        let state = State {
            timeout,
            seen: 0,
            begun: 0,
            programmed: 0,
            waiting: None,
            running: None,
            last_updated: None,
            node_eligible: true,
        };
        Health { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change came that must be programmed. Not to be told before every kind was listed once:
    /// a proxy that waits for the API server at its start is healthy.
    pub fn queued(&self, now: Instant) {
        let mut state = self.state();
        state.seen += 1;
        state.waiting.get_or_insert(now);
    }

    /// A sync begins, with all changes that were queued.
    pub fn sync_started(&self) {
        let mut state = self.state();
        state.running = earliest(state.running, state.waiting);
        state.waiting = None;
        state.begun = state.seen;
    }

    /// The sync has programmed what it began with; what was queued meanwhile waits on.
    pub fn sync_succeeded(&self, now: SystemTime) {
        let mut state = self.state();
        state.running = None;
        state.programmed = state.begun;
        state.last_updated = Some(now);
    }

    /// The sync failed: its changes wait on, since they came.
    pub fn sync_failed(&self) {
        let mut state = self.state();
        state.waiting = earliest(state.running, state.waiting);
        state.running = None;
    }

    /// Takes in whether load balancers may use this node.
    pub fn follow_node(&self, cluster: &Cluster) {
        self.state().node_eligible = cluster.node_eligible();
    }

    /// Judges by another limit from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
    }

    /// How far what is programmed is behind.
    pub fn lag(&self, now: Instant) -> Lag {
        let state = self.state();
        let oldest = earliest(state.running, state.waiting);
        let waited = oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Lag { seen: state.seen, programmed: state.programmed, waited }
    }

    /// When a sync last succeeded.
    pub fn last_updated(&self) -> Option<SystemTime> {
        self.state().last_updated
    }

    /// Whether load balancers may use this node.
    pub fn is_node_eligible(&self) -> bool {
        self.state().node_eligible
    }

    /// Whether no change has waited too long. Says nothing of the node.
    pub fn is_healthy(&self, now: Instant) -> bool {
        let state = self.state();
        let oldest = earliest(state.running, state.waiting);
        oldest.is_none_or(|since| now.saturating_duration_since(since) < state.timeout)
    }

    /// The answer to a probe. `now` and `wall` are the same moment on two clocks: the first never
    /// jumps, the second is for people.
    pub fn answer(&self, probe: Probe, now: Instant, wall: SystemTime) -> Answer {
        let healthy = self.is_healthy(now);
        let (eligible, last) = {
            let state = self.state();
            (state.node_eligible, state.last_updated)
        };
        let ok = healthy && (eligible || probe == Probe::Livez);
        // As long as all is well this says "now", since a proxy without work is not behind.
        let updated = go_time(if ok { Some(wall) } else { last });
        let current = go_time(Some(wall));
        let times = format!("\"lastUpdated\": \"{updated}\",\"currentTime\": \"{current}\"");
        let body = match probe {
            Probe::Healthz => format!("{{{times}, \"nodeEligible\": {eligible}}}"),
            Probe::Livez => format!("{{{times}}}"),
        };
        Answer { ok, body }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Kind};
    use crate::track::Tracker;
    use std::time::UNIX_EPOCH;

    /// Steps: q queued, b begun, s succeeded, f failed, each a second after the one before;
    /// then whether it is healthy 60 seconds after the first step, and the second after.
    #[test]
    fn line_79_a_change_must_not_wait_a_minute() {
        let cases = [
            ("", true, true),
            ("q", false, false),
            ("qb", false, false),
            ("qbs", true, true),
            ("qbf", false, false),
            ("qbfbs", true, true),
            ("qqbs", true, true),
            ("qbfq", false, false),
            ("qbqs", true, true),
            ("bq", true, false),
            ("bsbf", true, true),
        ];
        for (steps, at_60, at_61) in cases {
            let health = Health::new(Duration::from_secs(60));
            let start = Instant::now();
            for (i, step) in steps.chars().enumerate() {
                match step {
                    'q' => health.queued(start + Duration::from_secs(i as u64)),
                    'b' => health.sync_started(),
                    's' => health.sync_succeeded(UNIX_EPOCH),
                    _ => health.sync_failed(),
                }
            }
            let after = |seconds| health.is_healthy(start + Duration::from_secs(seconds));
            assert!(after(59), "{steps}: not late yet");
            assert_eq!((after(60), after(61)), (at_60, at_61), "{steps}");
        }
    }

    #[test]
    fn a_change_during_a_sync_waits_on() {
        let health = Health::new(Duration::from_secs(60));
        let start = Instant::now();
        health.queued(start);
        health.sync_started();
        health.queued(start + Duration::from_secs(30));
        health.sync_succeeded(UNIX_EPOCH);
        assert!(health.is_healthy(start + Duration::from_secs(89)));
        assert!(!health.is_healthy(start + Duration::from_secs(90)));
    }

    #[test]
    fn generations_are_told() {
        let health = Health::new(Duration::from_secs(60));
        let start = Instant::now();
        let after = |seconds| health.lag(start + Duration::from_secs(seconds));
        assert_eq!(after(5), Lag::default());
        health.queued(start);
        health.sync_started();
        health.queued(start + Duration::from_secs(2));
        assert_eq!(after(5), Lag { seen: 2, programmed: 0, waited: Duration::from_secs(5) });
        health.sync_succeeded(UNIX_EPOCH);
        assert_eq!(after(5), Lag { seen: 2, programmed: 1, waited: Duration::from_secs(3) });
        health.sync_started();
        health.sync_failed();
        assert_eq!(after(9).programmed, 1);
        health.sync_started();
        health.sync_succeeded(UNIX_EPOCH);
        assert_eq!(after(9), Lag { seen: 2, programmed: 2, waited: Duration::ZERO });
    }

    #[test]
    fn line_80_answers() {
        let health = Health::new(Duration::from_secs(60));
        let (start, wall) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(100));
        let json = |updated: &str, eligible: &str| {
            format!(
                "{{\"lastUpdated\": \"{updated} +0000 UTC\",\"currentTime\": \"1970-01-01 00:01:40 +0000 UTC\"{eligible}}}"
            )
        };
        let ask = |probe, seconds| {
            let answer = health.answer(probe, start + Duration::from_secs(seconds), wall);
            (answer.ok, answer.body)
        };
        let now = "1970-01-01 00:01:40";
        assert_eq!(ask(Probe::Healthz, 0), (true, json(now, ", \"nodeEligible\": true")));
        assert_eq!(ask(Probe::Livez, 0), (true, json(now, "")));

        let mut tracker = Tracker::new("me".into());
        tracker.feed(Event::ListEnded(Kind::Node));
        health.follow_node(tracker.cluster());
        let never = "0001-01-01 00:00:00";
        assert_eq!(ask(Probe::Healthz, 0), (false, json(never, ", \"nodeEligible\": false")));
        assert_eq!(ask(Probe::Livez, 0), (true, json(now, "")));

        health.sync_succeeded(UNIX_EPOCH + Duration::from_secs(7));
        health.queued(start);
        assert_eq!(ask(Probe::Livez, 60), (false, json("1970-01-01 00:00:07", "")));
    }
}
