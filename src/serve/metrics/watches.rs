//! How the watches of the API server fare, asked for when somebody looks: a silent watch tells
//! nothing by itself. It knows no client. Tests: `tests` beside this.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{GaugeVec, IntCounterVec};

use super::maker::Maker;
use crate::model::Kind;

/// How the watch of one kind fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchFigures {
    /// The kind.
    pub kind: Kind,
    /// For how long the server has said nothing, bookmarks counted; `None`: it never said a thing.
    pub silent: Option<Duration>,
    /// Full lists read so far.
    pub lists: u64,
    /// Requests that failed so far.
    pub failures: u64,
}

/// Tells how every watch fares now.
pub type Watching = Box<dyn Fn() -> Vec<WatchFigures> + Send + Sync>;

/// Metrics of the watches; all silent where there is no API server.
#[derive(Clone)]
pub(super) struct Watches {
    staleness: GaugeVec,
    lists: IntCounterVec,
    failures: IntCounterVec,
    watching: Arc<OnceLock<Watching>>,
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").finish_non_exhaustive()
    }
}

impl Watches {
    pub(super) fn new(maker: &Maker<'_>) -> Watches {
        Watches {
            staleness: maker.seconds_by(
                "api_staleness_seconds",
                "How long the API server has said nothing on a watch, bookmarks counted",
                "kind",
            ),
            lists: maker.counters_by("api_lists_total", "Full lists read", &["kind"]),
            failures: maker.counters_by("api_failures_total", "Requests that failed", &["kind"]),
            watching: Arc::default(),
        }
    }

    /// From now on asks this; only the first counts.
    pub(super) fn ask(&self, watching: Watching) {
        let _ = self.watching.set(watching);
    }

    /// Brings the figures up to now.
    pub(super) fn refresh(&self) {
        let Some(watching) = self.watching.get() else { return };
        for figures in watching() {
            let kind = [figures.kind.as_str()];
            if let Some(silent) = figures.silent {
                self.staleness.with_label_values(&kind).set(silent.as_secs_f64());
            }
            for (counter, count) in
                [(&self.lists, figures.lists), (&self.failures, figures.failures)]
            {
                let counter = counter.with_label_values(&kind);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }
}
