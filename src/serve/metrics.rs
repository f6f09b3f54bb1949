//! What is counted and timed, under the reference's names (`pkg/proxy/metrics/metrics.go`),
//! since dashboards and alerts depend on them. Sync and main feed it; the metrics port prints it.
//! Reads no clock. Tests: below.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, exponential_buckets, linear_buckets,
};

use super::{Probe, process};
use crate::model::{Event, Family, Notice, Reason};
use crate::track::Trigger;

/// Every metric of the proxy. Clones share the same figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    sync: HistogramVec,
    full_sync: HistogramVec,
    partial_sync: HistogramVec,
    last_sync: GaugeVec,
    last_queued: GaugeVec,
    programming: HistogramVec,
    endpoints: Changes,
    services: Changes,
    no_local_endpoints: IntGaugeVec,
    sync_failures: IntCounterVec,
    cleanup_failures: IntCounterVec,
    conntrack: HistogramVec,
    conntrack_deleted: IntCounterVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
    notices: IntGaugeVec,
    conflicts: IntGauge,
}

/// Changes of one kind of object.
#[derive(Clone, Debug)]
struct Changes {
    pending: IntGauge,
    total: IntCounter,
}

/// How much of the kernel's tables a sync compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Everything.
    Full,
    /// Only what had changed.
    Partial,
}

/// Which traffic policy of a Service is Local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalPolicy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

impl Metrics {
    /// All at zero, for a proxy that programs these families.
    pub fn new(families: &[Family]) -> Metrics {
        let maker = Maker { registry: Registry::new(), families };
        let metrics = Metrics {
            families: families.to_vec(),
            sync: maker.durations("sync_proxy_rules_duration_seconds", "Seconds a sync took"),
            full_sync: maker.durations(
                "sync_full_proxy_rules_duration_seconds",
                "Seconds a sync of everything took",
            ),
            partial_sync: maker.durations(
                "sync_partial_proxy_rules_duration_seconds",
                "Seconds a sync of what changed took",
            ),
            last_sync: maker
                .times("sync_proxy_rules_last_timestamp_seconds", "When a sync last succeeded"),
            last_queued: maker.times(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a sync was last asked for",
            ),
            programming: maker.histograms(
                "network_programming_duration_seconds",
                "Seconds from a change to its rules",
                programming_buckets(),
            ),
            endpoints: maker.changes("endpoint", "Endpoint"),
            services: maker.changes("service", "Service"),
            no_local_endpoints: maker.gauges(
                "sync_proxy_rules_no_local_endpoints_total",
                "Services of policy Local whose endpoints are elsewhere",
                &["ip_family", "traffic_policy"],
            ),
            sync_failures: maker
                .counters("sync_proxy_rules_nftables_sync_failures_total", "Syncs that failed"),
            cleanup_failures: maker.counters(
                "sync_proxy_rules_nftables_cleanup_failures_total",
                "Removals of leftovers that failed",
            ),
            conntrack: maker.durations(
                "conntrack_reconciler_sync_duration_seconds",
                "Seconds a search for stale flows took",
            ),
            conntrack_deleted: maker
                .counters("conntrack_reconciler_deleted_entries_total", "Stale flows forgotten"),
            healthz: maker.codes("proxy_healthz_total", "Answers of /healthz by status"),
            livez: maker.codes("proxy_livez_total", "Answers of /livez by status"),
            notices: maker.gauges("notices", "What cannot be programmed as asked", &["reason"]),
            conflicts: maker
                .gauge("address_conflicts", "Addresses and ports that an older Service has"),
            registry: maker.registry,
        };
        metrics.noticed([]);
        for family in families {
            metrics.without_local_endpoints(*family, LocalPolicy::Internal, 0);
            metrics.without_local_endpoints(*family, LocalPolicy::External, 0);
        }
        metrics
    }

    /// An event came in.
    pub fn seen(&self, event: &Event) {
        let changes = match event {
            Event::Service(_) | Event::ServiceGone(_) => &self.services,
            Event::Slice(_) | Event::SliceGone(_) => &self.endpoints,
            _ => return,
        };
        changes.total.inc();
        changes.pending.inc();
    }

    /// A sync was asked for.
    pub fn queued(&self, now: SystemTime) {
        for family in &self.families {
            self.last_queued.with_label_values(&[label(*family)]).set(seconds(now));
        }
    }

    /// A sync succeeded, so that no change is pending.
    pub fn synced(&self, kind: SyncKind, took: Duration, now: SystemTime) {
        let of_kind = match kind {
            SyncKind::Full => &self.full_sync,
            SyncKind::Partial => &self.partial_sync,
        };
        for family in self.families.iter().copied().map(label) {
            self.sync.with_label_values(&[family]).observe(took.as_secs_f64());
            of_kind.with_label_values(&[family]).observe(took.as_secs_f64());
            self.last_sync.with_label_values(&[family]).set(seconds(now));
        }
        self.endpoints.pending.set(0);
        self.services.pending.set(0);
    }

    /// A sync failed.
    pub fn sync_failed(&self) {
        for family in &self.families {
            self.sync_failures.with_label_values(&[label(*family)]).inc();
        }
    }

    /// Leftovers could not be removed.
    pub fn cleanup_failed(&self, family: Family) {
        self.cleanup_failures.with_label_values(&[label(family)]).inc();
    }

    /// Changes with these triggers have been programmed.
    pub fn programmed(&self, triggers: &[Trigger], now: SystemTime) {
        for trigger in triggers {
            // Another machine's clock wrote it, which may be ahead of ours.
            let latency = (seconds(now) - trigger.at as f64 / 1e9).max(0.0);
            self.programming.with_label_values(&[label(trigger.family)]).observe(latency);
        }
    }

    /// How many Services with a Local policy have endpoints, but none on this node.
    pub fn without_local_endpoints(&self, family: Family, policy: LocalPolicy, services: usize) {
        let policy = match policy {
            LocalPolicy::Internal => "internal",
            LocalPolicy::External => "external",
        };
        let gauge = self.no_local_endpoints.with_label_values(&[label(family), policy]);
        gauge.set(services as i64);
    }

    /// Stale conntrack entries of a family have been looked for and forgotten.
    pub fn flows_forgotten(&self, family: Family, flows: usize, took: Duration) {
        self.conntrack.with_label_values(&[label(family)]).observe(took.as_secs_f64());
        self.conntrack_deleted.with_label_values(&[label(family)]).inc_by(flows as u64);
    }

    /// Counts what is wrong with objects now.
    pub fn noticed<'a>(&self, notices: impl IntoIterator<Item = &'a Notice>) {
        let mut counts = [0; Reason::ALL.len()];
        for notice in notices {
            counts[notice.reason as usize] += 1;
        }
        for (reason, count) in Reason::ALL.into_iter().zip(counts) {
            self.notices.with_label_values(&[reason.as_str()]).set(count);
        }
        self.conflicts.set(counts[Reason::AddressConflict as usize]);
    }

    /// A health path was answered.
    pub(super) fn probed(&self, probe: Probe, code: &str) {
        let counter = match probe {
            Probe::Healthz => &self.healthz,
            Probe::Livez => &self.livez,
        };
        counter.with_label_values(&[code]).inc();
    }

    /// All figures in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut families = self.registry.gather();
        families.extend(process::gather());
        let mut text = Vec::new();
        // Fails only if writing does, and a Vec takes anything.
        let _ = TextEncoder::new().encode(&families, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// `ip_family` as the API spells it.
fn label(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// 0.25 and 0.5 s, each second to 59, each five to 115, each thirty to 300.
fn programming_buckets() -> Vec<f64> {
    let parts = [(0.25, 0.25, 2), (1.0, 1.0, 59), (60.0, 5.0, 12), (120.0, 30.0, 7)];
    let buckets = parts.map(|(start, width, count)| linear_buckets(start, width, count));
    buckets.into_iter().flat_map(|part| part.expect("width and count are positive")).collect()
}

/// Makes metrics, registers them and shows each at zero from the start.
struct Maker<'a> {
    registry: Registry,
    families: &'a [Family],
}

impl Maker<'_> {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("kubeproxy")
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("names and labels of metrics are valid");
        let own = Box::new(metric.clone());
        self.registry.register(own).expect("names of metrics are unique");
        metric
    }

    fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>) -> HistogramVec {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets);
        let histograms = self.add(HistogramVec::new(opts, &["ip_family"]));
        for family in self.families {
            let _: Histogram = histograms.with_label_values(&[label(*family)]);
        }
        histograms
    }

    fn durations(&self, name: &str, help: &str) -> HistogramVec {
        let buckets = exponential_buckets(0.001, 2.0, 15).expect("start and factor are positive");
        self.histograms(name, help, buckets)
    }

    fn times(&self, name: &str, help: &str) -> GaugeVec {
        let times = self.add(GaugeVec::new(Self::opts(name, help), &["ip_family"]));
        for family in self.families {
            times.with_label_values(&[label(*family)]).set(0.0);
        }
        times
    }

    fn counters(&self, name: &str, help: &str) -> IntCounterVec {
        let counters = self.add(IntCounterVec::new(Self::opts(name, help), &["ip_family"]));
        for family in self.families {
            counters.with_label_values(&[label(*family)]).inc_by(0);
        }
        counters
    }

    fn codes(&self, name: &str, help: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(Self::opts(name, help), &["code"]))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn changes(&self, lower: &str, upper: &str) -> Changes {
        let total = format!("sync_proxy_rules_{lower}_changes_total");
        let help = format!("{upper} changes seen");
        let pending = format!("sync_proxy_rules_{lower}_changes_pending");
        Changes {
            pending: self.gauge(&pending, &format!("{upper} changes that no sync has programmed")),
            total: self.add(IntCounter::with_opts(Self::opts(&total, &help))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NamespacedName;

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines().find(|l| l.starts_with(start)).unwrap_or("none")
    }

    #[test]
    fn names_are_those_of_the_reference() {
        let text = Metrics::new(&[Family::V4]).text();
        let names: Vec<&str> =
            text.lines().filter_map(|l| l.strip_prefix("# TYPE kubeproxy_")).collect();
        expect_test::expect![[r#"
            address_conflicts gauge
            conntrack_reconciler_deleted_entries_total counter
            conntrack_reconciler_sync_duration_seconds histogram
            network_programming_duration_seconds histogram
            notices gauge
            sync_full_proxy_rules_duration_seconds histogram
            sync_partial_proxy_rules_duration_seconds histogram
            sync_proxy_rules_duration_seconds histogram
            sync_proxy_rules_endpoint_changes_pending gauge
            sync_proxy_rules_endpoint_changes_total counter
            sync_proxy_rules_last_queued_timestamp_seconds gauge
            sync_proxy_rules_last_timestamp_seconds gauge
            sync_proxy_rules_nftables_cleanup_failures_total counter
            sync_proxy_rules_nftables_sync_failures_total counter
            sync_proxy_rules_no_local_endpoints_total gauge
            sync_proxy_rules_service_changes_pending gauge
            sync_proxy_rules_service_changes_total counter"#]]
        .assert_eq(&names.join("\n"));
    }

    #[test]
    fn figures_are_told() {
        let metrics = Metrics::new(&Family::ALL);
        let name = NamespacedName::new("a", "b");
        let now = UNIX_EPOCH + Duration::from_millis(100_500);
        metrics.seen(&Event::ServiceGone(name.clone()));
        metrics.seen(&Event::SliceGone(name.clone()));
        metrics.seen(&Event::NodeGone);
        metrics.queued(now);
        let text = metrics.text();
        assert_eq!(
            line(&text, "kubeproxy_sync_proxy_rules_service_changes_pending"),
            "kubeproxy_sync_proxy_rules_service_changes_pending 1"
        );
        metrics.synced(SyncKind::Partial, Duration::from_millis(3), now);
        metrics.sync_failed();
        metrics.cleanup_failed(Family::V6);
        let trigger = |at| Trigger { family: Family::V4, at };
        metrics.programmed(&[trigger(100_000_000_000), trigger(200_000_000_000)], now);
        metrics.without_local_endpoints(Family::V4, LocalPolicy::External, 2);
        metrics.flows_forgotten(Family::V4, 7, Duration::from_millis(1));
        metrics.probed(Probe::Livez, "503");
        let notice = Notice {
            kind: "Service",
            object: name,
            field: String::new(),
            reason: Reason::AddressConflict,
            message: String::new(),
        };
        metrics.noticed([&notice, &notice]);
        let text = metrics.text();
        let expected = [
            "sync_proxy_rules_service_changes_pending 0",
            "sync_proxy_rules_service_changes_total 1",
            "sync_proxy_rules_endpoint_changes_total 1",
            "sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv6\"} 100.5",
            "sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 100.5",
            "sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
            "sync_proxy_rules_nftables_cleanup_failures_total{ip_family=\"IPv6\"} 1",
            "network_programming_duration_seconds_sum{ip_family=\"IPv4\"} 0.5",
            "network_programming_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 2",
            "conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 7",
            "proxy_livez_total{code=\"503\"} 1",
            "notices{reason=\"AddressConflict\"} 2",
            "notices{reason=\"InvalidField\"} 0",
            "address_conflicts 2",
        ];
        for expected in expected.map(|e| format!("kubeproxy_{e}")) {
            let start = expected.rsplit_once(' ').map_or("", |(start, _)| start);
            assert_eq!(line(&text, &format!("{start} ")), expected);
        }
    }

    #[test]
    fn line_91_buckets_of_the_programming_latency() {
        let buckets = programming_buckets();
        assert_eq!(buckets.len(), 80);
        assert_eq!((buckets[0], buckets[79]), (0.25, 300.0));
        assert!(buckets.is_sorted());
    }
}
