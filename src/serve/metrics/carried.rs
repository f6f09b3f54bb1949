//! Connections that the proxy carries itself (userspace mode), asked for when somebody looks.
//!
//! A collector of its own: each look makes the series anew from what there is, so that Services that
//! are gone leave none behind. The number of series is bounded. It knows no socket. Tests: below.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

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
    /// `namespace/name:port`.
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
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

/// Takes one figure out of all.
type Reading = fn(&CarriedFigures) -> u64;

/// The series of one look.
struct Series {
    open: IntGaugeVec,
    counters: [(IntCounterVec, Reading); 5],
    bytes: IntCounterVec,
}

impl Series {
    fn new() -> Series {
        let opts = |name: &str, help: &str| {
            Opts::new(format!("userspace_{name}"), help).namespace("kubeproxy")
        };
        let labels = ["service", "protocol"];
        let counter = |name: &str, help: &str| {
            IntCounterVec::new(opts(name, help), &labels).expect("names and labels are valid")
        };
        let open = opts("connections_open", "Connections and UDP flows that are carried now");
        let bytes = opts("bytes_total", "Bytes carried to endpoints (up) and to clients (down)");
        let of = |figure: fn(&CarriedFigures) -> u64| figure;
        Series {
            open: IntGaugeVec::new(open, &labels).expect("names and labels are valid"),
            counters: [
                (
                    counter("connections_total", "Connections and UDP flows begun"),
                    of(|f| f.accepted),
                ),
                (
                    counter("failed_dials_total", "Dials of endpoints that failed"),
                    of(|f| f.failed_dials),
                ),
                (
                    counter("retries_total", "Further endpoints tried after a failed dial"),
                    of(|f| f.retries),
                ),
                (
                    counter("turned_away_total", "Connections and UDP flows beyond a limit"),
                    of(|f| f.turned_away),
                ),
                (
                    counter("unserved_total", "Connections that no endpoint answered"),
                    of(|f| f.unserved),
                ),
            ],
            bytes: IntCounterVec::new(bytes, &["service", "protocol", "direction"])
                .expect("names and labels are valid"),
        }
    }

    fn add(&self, (service, protocol): (&str, &str), figures: &CarriedFigures) {
        let labels = [service, protocol];
        self.open.with_label_values(&labels).add(figures.open as i64);
        for (counter, figure) in &self.counters {
            counter.with_label_values(&labels).inc_by(figure(figures));
        }
        for (direction, bytes) in [("up", figures.bytes_up), ("down", figures.bytes_down)] {
            self.bytes.with_label_values(&[service, protocol, direction]).inc_by(bytes);
        }
    }

    fn all(&self) -> Vec<&dyn Collector> {
        let counters = self.counters.iter().map(|(counter, _)| counter as &dyn Collector);
        let others: [&dyn Collector; 2] = [&self.open, &self.bytes];
        others.into_iter().chain(counters).collect()
    }
}

impl Carried {
    pub(super) fn new() -> Carried {
        Carried { carrying: Arc::default() }
    }

    /// From now on asks this; only the first counts.
    pub(super) fn ask(&self, carrying: Carrying) {
        let _ = self.carrying.set(carrying);
    }
}

impl Collector for Carried {
    fn desc(&self) -> Vec<&Desc> {
        static TEMPLATE: OnceLock<Series> = OnceLock::new();
        TEMPLATE.get_or_init(Series::new).all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = Series::new();
        let told = self.carrying.get().map(|carrying| carrying()).unwrap_or_default();
        let name = |figures: &CarriedFigures| (figures.service.clone(), figures.protocol.clone());
        let names: BTreeSet<_> = told.iter().map(name).collect();
        let first_other = names.into_iter().nth(MOST);
        for figures in &told {
            let own = first_other.as_ref().is_none_or(|other| name(figures) < *other);
            let name =
                if own { (figures.service.as_str(), figures.protocol.as_str()) } else { OTHERS };
            series.add(name, figures);
        }
        series.all().into_iter().flat_map(Collector::collect).collect()
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
        let carried = Carried::new();
        carried.ask(Box::new(move || told.clone()));
        let registry = prometheus::Registry::new();
        registry.register(Box::new(carried)).unwrap();
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
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
