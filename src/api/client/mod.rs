//! The API server as a source of Events: how to reach it, and one list-and-watch a kind.
//!
//! `access` finds address and credentials, `connect` sends with them, `follow` carries out what `api::watch` decides,
//! `explain` turns failures into one line. Objects are decoded as their bytes come in and not
//! kept. It must never know what becomes of an Event. Tests: `tests.rs`.

mod access;
mod connect;
mod explain;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod fake;
mod follow;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use connect::{Connection, Requested, Server, Tell, connect};
pub use explain::Error;

use crate::model::{Event, Kind};

/// How patient the watches are, and whether they ask for streamed lists.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Longest wait for the beginning of an answer.
    pub answer: Duration,
    /// Longest silence in the middle of a list.
    pub list_silence: Duration,
    /// Longest silence in a watch, bookmarks counted (a server sends one a minute): a connection
    /// may be dead without either end being told.
    pub watch_silence: Duration,
    /// Shortest time a watch is asked to stand; the longest is twice that. Spread at random, so
    /// that not all nodes come back at one moment.
    pub watch_time: Duration,
    /// A watch that stood for this long was a good one, even if it told nothing.
    pub watch_proof: Duration,
    /// How long an API that is absent is left alone.
    pub absent_pause: Duration,
    /// Whether lists are asked for as streams first (the feature gate `WatchListClient`).
    pub stream_lists: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            answer: Duration::from_secs(60),
            list_silence: Duration::from_secs(30),
            watch_silence: Duration::from_secs(150),
            watch_time: Duration::from_secs(300),
            watch_proof: Duration::from_secs(1),
            absent_pause: Duration::from_secs(600),
            stream_lists: true,
        }
    }
}

/// How the list-and-watch of one kind fares. Read by health checks and metrics at any time.
#[derive(Debug, Default)]
pub struct WatchState {
    synced: AtomicBool,
    /// Milliseconds since 1970; 0 is never.
    last_contact: AtomicI64,
    lists: AtomicU64,
    failures: AtomicU64,
}

impl WatchState {
    /// Whether a full list has been read once.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// When the server last said anything, a bookmark for one.
    pub fn last_contact(&self) -> Option<SystemTime> {
        let millis = u64::try_from(self.last_contact.load(Ordering::Relaxed)).ok()?;
        (millis > 0).then(|| UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// Full lists read so far: more than one means that watches were broken off for good.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    /// Requests that failed so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn set_listed(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.synced.store(true, Ordering::Relaxed);
    }

    fn set_failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn set_contact(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        self.last_contact.store(millis, Ordering::Relaxed);
    }
}

/// The running watches of all kinds. They end when this is dropped, or when nobody takes their
/// Events any more.
#[derive(Debug)]
pub struct Watches {
    states: Vec<(Kind, Arc<WatchState>)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watches {
    /// Starts one watch a kind; Events of each come in order, those of different kinds mixed.
    pub fn start(
        connection: &Connection,
        node_name: impl Into<Arc<str>>,
        events: &mpsc::Sender<Event>,
        patience: &Patience,
    ) -> Watches {
        let node_name = node_name.into();
        let mut watches = Watches { states: Vec::new(), tasks: Vec::new() };
        for kind in Kind::ALL {
            let follower = follow::Follower::new(
                kind,
                connection.clone(),
                node_name.clone(),
                patience.clone(),
            );
            watches.states.push((kind, follower.state()));
            watches.tasks.push(tokio::spawn(follower.run(events.clone())));
        }
        watches
    }

    /// How the watch of each kind fares.
    pub fn states(&self) -> &[(Kind, Arc<WatchState>)] {
        &self.states
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
