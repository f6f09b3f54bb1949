//! Connections that the proxy carries itself (userspace mode), asked for when somebody looks.
//!
//! A collector of its own: each look makes the series anew from what there is, so that Services that
//! are gone leave none behind. The number of series is bounded; who came first keeps a name, and what
//! is counted under a name never falls. It knows no socket. Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

/// Service ports with series of their own; the figures of all further ones are added up.
const MOST: usize = 1000;
/// What stands for those in the place of a name.
const OTHERS: (&str, &str) = ("others", "");

/// What was carried for a Service port. Figures only grow, but for `open`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CarriedFigures {
    /// `namespace/name:port`; empty for the figures of all there ever were, which have no bytes.
    pub service: String,
    /// The protocol.
    pub protocol: String,
    /// Connections and UDP flows that are open.
    pub open: u64,
    /// Connections and UDP flows that began.
    pub accepted: u64,
    /// Dials of endpoints that failed.
    pub failed_dials: u64,
    /// Further endpoints tried after a failed dial.
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

/// Tells what was carried for every Service port. One may come several times.
pub type Carrying = Box<dyn Fn() -> Vec<CarriedFigures> + Send + Sync>;

/// Metrics of carried connections; none where nobody tells.
#[derive(Clone)]
pub(super) struct Carried {
    carrying: Arc<OnceLock<Carrying>>,
    names: Arc<Mutex<Names>>,
}

/// A Service port and its protocol.
type Name = (String, String);

/// Who has series of their own, and what they showed last.
#[derive(Default)]
struct Names {
    own: BTreeMap<Name, Steady>,
    others: BTreeSet<Name>,
    of_others: Steady,
}

/// Counts that do not fall where some of what they are made of is gone.
#[derive(Clone, Copy, Default)]
struct Steady {
    gone: [u64; 7],
    last: [u64; 7],
}

impl Steady {
    fn counts(&mut self, now: [u64; 7]) -> [u64; 7] {
        for (gone, (last, now)) in self.gone.iter_mut().zip(self.last.iter().zip(now)) {
            *gone += last.saturating_sub(now);
        }
        self.last = now;
        std::array::from_fn(|n| self.gone[n] + now[n])
    }
}

/// What one name stands for now.
#[derive(Clone, Copy, Default)]
struct Sum {
    open: u64,
    counts: [u64; 7],
}

impl Sum {
    fn add(&mut self, open: u64, counts: [u64; 7]) {
        self.open += open;
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

/// What is counted: as many as there are `COUNTERS`, and bytes both ways.
fn counts(f: &CarriedFigures) -> [u64; 7] {
    let CarriedFigures { accepted, failed_dials, retries, turned_away, unserved, .. } = *f;
    [accepted, failed_dials, retries, turned_away, unserved, f.bytes_up, f.bytes_down]
}

/// Counters by name, their help, and what one of them is among all.
const COUNTERS: [(&str, &str, &str); 5] = [
    ("connections_total", "Connections and UDP flows begun", "connection"),
    ("failed_dials_total", "Dials of endpoints that failed", "failed_dial"),
    ("retries_total", "Further endpoints tried after a failed dial", "retry"),
    ("turned_away_total", "Connections and UDP flows beyond a limit", "turned_away"),
    ("unserved_total", "Connections that no endpoint answered", "unserved"),
];

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

/// The series of one look.
struct Series {
    open: IntGaugeVec,
    counters: Vec<IntCounterVec>,
    bytes: IntCounterVec,
    all: IntCounterVec,
}

impl Series {
    fn new() -> Series {
        let opts = |name: &str, help: &str| {
            Opts::new(format!("userspace_{name}"), help).namespace("kubeproxy")
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(opts(name, help), labels).expect("names and labels are valid")
        };
        let labels = ["service", "protocol"];
        let open = opts("connections_open", "Connections and UDP flows that are carried now");
        let bytes = "Bytes carried to endpoints (up) and to clients (down)";
        let all =
            "What happened to connections and UDP flows of all Services, those that are gone too";
        Series {
            open: IntGaugeVec::new(open, &labels).expect("names and labels are valid"),
            counters: COUNTERS.iter().map(|(name, help, _)| counter(name, help, &labels)).collect(),
            bytes: counter("bytes_total", bytes, &["service", "protocol", "direction"]),
            all: counter("events_total", all, &["event"]),
        }
    }

    fn add(&self, (service, protocol): (&str, &str), open: u64, counts: [u64; 7]) {
        let labels = [service, protocol];
        self.open.with_label_values(&labels).add(open as i64);
        for (counter, count) in self.counters.iter().zip(counts) {
            counter.with_label_values(&labels).inc_by(count);
        }
        let [.., up, down] = counts;
        for (direction, bytes) in [("up", up), ("down", down)] {
            self.bytes.with_label_values(&[service, protocol, direction]).inc_by(bytes);
        }
    }

    fn add_all(&self, figures: &CarriedFigures) {
        for ((.., event), count) in COUNTERS.iter().zip(counts(figures)) {
            self.all.with_label_values(&[*event]).inc_by(count);
        }
    }

    fn every(&self) -> Vec<&dyn Collector> {
        let counters = self.counters.iter().map(|counter| counter as &dyn Collector);
        let others: [&dyn Collector; 3] = [&self.open, &self.bytes, &self.all];
        others.into_iter().chain(counters).collect()
    }
}

impl Names {
    /// Who is new gets a name as long as there are some; who has none keeps to the others, so that
    /// what they are counted under does not fall.
    fn meet(&mut self, told: &BTreeMap<Name, Sum>) {
        self.own.retain(|name, _| told.contains_key(name));
        self.others.retain(|name| told.contains_key(name));
        for name in told.keys() {
            if self.own.contains_key(name) || self.others.contains(name) {
                continue;
            }
            if self.own.len() < MOST {
                self.own.insert(name.clone(), Steady::default());
            } else {
                self.others.insert(name.clone());
            }
        }
    }
}

impl Carried {
    pub(super) fn new() -> Carried {
        Carried { carrying: Arc::default(), names: Arc::default() }
    }

    /// From now on asks this; only the first counts.
    pub(super) fn ask(&self, carrying: Carrying) {
        let _ = self.carrying.set(carrying);
    }
}

impl Collector for Carried {
    fn desc(&self) -> Vec<&Desc> {
        static TEMPLATE: OnceLock<Series> = OnceLock::new();
        TEMPLATE.get_or_init(Series::new).every().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = Series::new();
        let told = self.carrying.get().map(|carrying| carrying()).unwrap_or_default();
        let mut by_name: BTreeMap<Name, Sum> = BTreeMap::new();
        for figures in &told {
            if figures.service.is_empty() {
                series.add_all(figures);
                continue;
            }
            let name = (figures.service.clone(), figures.protocol.clone());
            by_name.entry(name).or_default().add(figures.open, counts(figures));
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.meet(&by_name);
        let mut others = Sum::default();
        for (name, sum) in &by_name {
            match names.own.get_mut(name) {
                Some(own) => series.add((&name.0, &name.1), sum.open, own.counts(sum.counts)),
                None => others.add(sum.open, sum.counts),
            }
        }
        let counts = names.of_others.counts(others.counts);
        if !names.others.is_empty() || counts != [0; 7] {
            series.add(OTHERS, others.open, counts);
        }
        series.every().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn figures(service: &str, accepted: u64) -> CarriedFigures {
        let (service, protocol) = (service.to_owned(), "TCP".to_owned());
        CarriedFigures { service, protocol, open: 1, accepted, bytes_up: 10, ..Default::default() }
    }

    fn text(told: Vec<CarriedFigures>) -> String {
        texts(vec![told]).remove(0)
    }

    /// What is shown when one after another is told.
    fn texts(told: Vec<Vec<CarriedFigures>>) -> Vec<String> {
        let carried = Carried::new();
        let now = Arc::new(Mutex::new(Vec::new()));
        let looked = now.clone();
        carried.ask(Box::new(move || looked.lock().unwrap().clone()));
        let registry = prometheus::Registry::new();
        registry.register(Box::new(carried)).unwrap();
        let encoder = prometheus::TextEncoder::new();
        let show = |told| {
            *now.lock().unwrap() = told;
            encoder.encode_to_string(&registry.gather()).unwrap()
        };
        told.into_iter().map(show).collect()
    }

    fn connections(text: &str, service: &str) -> Option<u64> {
        let own = |l: &&str| {
            l.starts_with("kubeproxy_userspace_connections_total{")
                && l.contains(&format!("service=\"{service}\""))
        };
        text.lines().find(own)?.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn who_came_first_keeps_its_name_and_no_count_falls() {
        let many = |count: usize| (0..count).map(|n| figures(&format!("ns/{n:05}"), 2)).collect();
        let full: Vec<CarriedFigures> = many(MOST + 2);
        // One early in the alphabet comes, one with a name goes, one without goes.
        let early = [vec![figures("a/first", 7)], full.clone()].concat();
        let fewer = early.iter().filter(|f| f.service != "ns/00003").cloned().collect();
        let least = early.iter().filter(|f| f.service != "ns/01001").cloned().collect();
        let shown = texts(vec![full, early, fewer, least]);
        let others: Vec<_> = shown.iter().map(|text| connections(text, "others")).collect();
        assert_eq!(others, [4, 11, 11, 11].map(Some));
        let last = shown.iter().map(|text| connections(text, "ns/00999"));
        assert!(last.eq([Some(2); 4]), "{others:?}");
    }

    #[test]
    fn one_of_several_ports_of_a_service_may_go() {
        let both = vec![figures("ns/a:p", 3), figures("ns/a:p", 5)];
        let shown = texts(vec![both, vec![figures("ns/a:p", 4)], vec![figures("ns/a:p", 9)]]);
        let counted: Vec<_> = shown.iter().map(|text| connections(text, "ns/a:p")).collect();
        assert_eq!(counted, [8, 8, 13].map(Some));
    }

    #[test]
    fn all_there_ever_were_are_counted_beside_the_names() {
        let all = CarriedFigures { accepted: 12, unserved: 1, ..CarriedFigures::default() };
        let text = text(vec![figures("ns/a:p", 3), all]);
        for line in [
            "kubeproxy_userspace_events_total{event=\"connection\"} 12",
            "kubeproxy_userspace_events_total{event=\"unserved\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn figures_of_one_port_are_added_up() {
        let text = text(vec![figures("ns/a:p", 3), figures("ns/b:p", 5), figures("ns/a:p", 4)]);
        for line in [
            "kubeproxy_userspace_connections_total{protocol=\"TCP\",service=\"ns/a:p\"} 7",
            "kubeproxy_userspace_connections_open{protocol=\"TCP\",service=\"ns/b:p\"} 1",
            "kubeproxy_userspace_bytes_total{direction=\"up\",protocol=\"TCP\",service=\"ns/a:p\"} 20",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn there_are_never_more_series_than_the_limit_and_nothing_is_left_out() {
        let text = text((0..MOST as u64 + 50).map(|n| figures(&format!("ns/{n:05}"), 2)).collect());
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| l.starts_with("kubeproxy_userspace_connections_total"))
            .collect();
        assert_eq!(lines.len(), MOST + 1);
        assert!(lines.contains(
            &"kubeproxy_userspace_connections_total{protocol=\"\",service=\"others\"} 100"
        ));
    }

    #[test]
    fn who_tells_nothing_shows_nothing() {
        assert_eq!(text(Vec::new()), "");
    }
}
