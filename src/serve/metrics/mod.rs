//! What is counted and timed, under the reference's names (`pkg/proxy/metrics/metrics.go`),
//! since dashboards and alerts depend on them. Sync and main feed it; the metrics port prints it.
//! Reads no clock. Tests: `tests` beside this.

mod accounts;
mod carried;
mod client;
mod maker;
#[cfg(test)]
mod tests;
mod text;
mod verified;
mod watches;

pub(super) use text::Format;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::{Lag, Probe, process};
use crate::model::{Event, Family, GIT_VERSION, KUBERNETES_MINOR, Mode, Notice, Reason};
use crate::track::Trigger;
pub use accounts::{AccountFigures, Accounting};
pub use carried::{CarriedFigures, Carrying};
pub use client::Requested;
use maker::{Maker, programming_buckets};
pub use verified::VerifiedFigures;
pub use watches::{WatchFigures, Watching};

/// Every metric of the proxy. Clones share the same figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    mode: Mode,
    sync: HistogramVec,
    full_sync: HistogramVec,
    partial_sync: HistogramVec,
    last_sync: GaugeVec,
    last_queued: GaugeVec,
    programming: HistogramVec,
    endpoints: Changes,
    services: Changes,
    no_local_endpoints: IntGaugeVec,
    failures: Failures,
    rules: IntGaugeVec,
    rules_written: IntGaugeVec,
    conntrack: HistogramVec,
    conntrack_deleted: IntCounterVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
    own: Own,
    watches: watches::Watches,
    requests: client::Requests,
    carried: carried::Carried,
    accounts: accounts::Accounts,
    verified: verified::Verified,
}

/// What failed, each under the name of its mode.
#[derive(Clone, Debug)]
struct Failures {
    sync: IntCounterVec,
    cleanup: IntCounterVec,
    restore: IntCounterVec,
    partial_restore: IntCounterVec,
}

/// Metrics that the reference has not; in every mode.
#[derive(Clone, Debug)]
struct Own {
    notices: IntGaugeVec,
    conflicts: IntGauge,
    seen: IntGauge,
    programmed: IntGauge,
    waiting: Gauge,
    kernel: HistogramVec,
    kernel_errors: IntCounterVec,
    drift: IntCounter,
    lock: HistogramVec,
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
    /// All at zero, for a proxy that programs these families in this mode. Which metrics a mode
    /// has is the reference's choice (`RegisterMetrics`); those of our own are in every mode.
    pub fn new(mode: Mode, families: &[Family]) -> Metrics {
        let maker = Maker { registry: Registry::new(), families, mode };
        let rules = maker.of(&[Mode::Nftables, Mode::Iptables]);
        let modern = maker.of(&[Mode::Nftables, Mode::Iptables, Mode::Ipvs]);
        let iptables = maker.of(&[Mode::Iptables]);
        maker.build(&build_labels(&KUBERNETES_MINOR.to_string()));
        let metrics = Metrics {
            families: families.to_vec(),
            mode,
            sync: maker.durations("sync_proxy_rules_duration_seconds", "Seconds a sync took"),
            full_sync: rules.durations(
                "sync_full_proxy_rules_duration_seconds",
                "Seconds a sync of everything took",
            ),
            partial_sync: rules.durations(
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
            no_local_endpoints: modern.gauges(
                "sync_proxy_rules_no_local_endpoints_total",
                "Services of policy Local whose endpoints are elsewhere",
                &["ip_family", "traffic_policy"],
            ),
            failures: Failures::new(&maker),
            rules: iptables.gauges(
                "sync_proxy_rules_iptables_total",
                "Rules of iptables that are ours",
                &["table", "ip_family"],
            ),
            rules_written: iptables.gauges(
                "sync_proxy_rules_iptables_last",
                "Rules of iptables that the last sync wrote",
                &["table", "ip_family"],
            ),
            conntrack: maker.durations(
                "conntrack_reconciler_sync_duration_seconds",
                "Seconds a search for stale flows took",
            ),
            conntrack_deleted: maker
                .counters("conntrack_reconciler_deleted_entries_total", "Stale flows forgotten"),
            healthz: maker.codes("proxy_healthz_total", "Answers of /healthz by status"),
            livez: maker.codes("proxy_livez_total", "Answers of /livez by status"),
            own: Own::new(&maker),
            watches: watches::Watches::new(&maker),
            requests: client::Requests::new(&maker),
            carried: maker.of(&[Mode::Userspace]).own(carried::Carried::new()),
            accounts: iptables.own(accounts::Accounts::new()),
            verified: verified::Verified::new(&maker),
            registry: maker.registry.clone(),
        };
        metrics.show_zeros();
        metrics
    }

    fn show_zeros(&self) {
        self.noticed([]);
        for family in &self.families {
            self.without_local_endpoints(*family, LocalPolicy::Internal, 0);
            self.without_local_endpoints(*family, LocalPolicy::External, 0);
            for table in ["filter", "nat"] {
                self.rules.with_label_values(&[table, label(*family)]).set(0);
                self.rules_written.with_label_values(&[table, label(*family)]).set(0);
            }
        }
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

    /// A sync has ended, well or not.
    pub fn sync_took(&self, kind: SyncKind, took: Duration) {
        let of_kind = match kind {
            SyncKind::Full => &self.full_sync,
            SyncKind::Partial => &self.partial_sync,
        };
        for family in self.families.iter().copied().map(label) {
            self.sync.with_label_values(&[family]).observe(took.as_secs_f64());
            of_kind.with_label_values(&[family]).observe(took.as_secs_f64());
        }
    }

    /// A sync succeeded for all families but these; if for all, no change is pending.
    pub fn synced(&self, now: SystemTime, failed: &BTreeSet<Family>) {
        for family in self.families.iter().filter(|family| !failed.contains(family)) {
            self.last_sync.with_label_values(&[label(*family)]).set(seconds(now));
        }
        if failed.is_empty() {
            self.endpoints.pending.set(0);
            self.services.pending.set(0);
        }
    }

    /// A sync of this kind failed for these families, or before it came to any; counted where the
    /// mode's failures are.
    pub fn sync_failed(&self, kind: SyncKind, failed: &BTreeSet<Family>) {
        let counter = match self.mode {
            Mode::Iptables | Mode::Ipvs => &self.failures.restore,
            Mode::Nftables | Mode::Userspace => &self.failures.sync,
        };
        // One of what changed counts under both names, as in the reference.
        let partial = (kind == SyncKind::Partial).then_some(&self.failures.partial_restore);
        let concerned = |family: &Family| failed.is_empty() || failed.contains(family);
        for family in self.families.iter().copied().filter(concerned).map(label) {
            counter.with_label_values(&[family]).inc();
            partial.iter().for_each(|counter| counter.with_label_values(&[family]).inc());
        }
    }

    /// How many rules of a table of iptables are ours, and how many the last sync wrote.
    pub fn rules(&self, (family, table): (Family, &str), all: usize, written: usize) {
        self.rules.with_label_values(&[table, label(family)]).set(all as i64);
        self.rules_written.with_label_values(&[table, label(family)]).set(written as i64);
    }

    /// The kernel was asked to do something, or something was read from it.
    pub fn kernel_asked(&self, operation: &str, took: Duration, error: Option<&str>) {
        self.own.kernel.with_label_values(&[operation]).observe(took.as_secs_f64());
        if let Some(kind) = error {
            self.own.kernel_errors.with_label_values(&[operation, kind]).inc();
        }
    }

    /// Rules were found changed by somebody else this many times since the start.
    pub fn drifted(&self, times: u64) {
        self.own.drift.inc_by(times.saturating_sub(self.own.drift.get()));
    }

    /// A sync waited so long for other programs that change iptables' rules.
    pub fn lock_waited(&self, waited: Duration) {
        let of_iptables = matches!(self.mode, Mode::Iptables | Mode::Ipvs);
        if of_iptables && !waited.is_zero() {
            self.own.lock.with_label_values(&["xtables"]).observe(waited.as_secs_f64());
        }
    }

    /// Asks this how the watches of the API server fare, whenever somebody looks.
    pub fn watch_by(&self, watching: Watching) {
        self.watches.ask(watching);
    }

    /// A request to the API server has ended.
    pub fn requested(&self, requested: &Requested<'_>) {
        self.requests.ended(requested);
    }

    /// The feature gates that concern a proxy: name, stage, and whether each is on. Once.
    pub fn features(&self, gates: &[(&str, &str, bool)]) {
        let registry = self.registry.clone();
        Maker { registry, families: &self.families, mode: self.mode }.features(gates);
    }

    /// Asks this what the proxy carries itself, whenever somebody looks.
    pub fn carried_by(&self, carrying: Carrying) {
        self.carried.ask(carrying);
    }

    /// Asks this what the kernel counts for rules of iptables, whenever somebody looks.
    pub fn accounts_by(&self, accounting: Accounting) {
        self.accounts.ask(accounting);
    }

    /// `--verify` looked at what was about to be written.
    pub fn verified(&self, extent: &str, figures: &VerifiedFigures) {
        self.verified.looked(extent, figures);
    }

    /// How far what is programmed is behind what was seen.
    pub(super) fn lag(&self, lag: &Lag) {
        self.own.seen.set(lag.seen as i64);
        self.own.programmed.set(lag.programmed as i64);
        self.own.waiting.set(lag.waited.as_secs_f64());
    }

    /// Leftovers could not be removed.
    pub fn cleanup_failed(&self) {
        for family in &self.families {
            self.failures.cleanup.with_label_values(&[label(*family)]).inc();
        }
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

    /// Stale conntrack entries of a family have been looked for.
    pub fn flows_searched(&self, family: Family, took: Duration) {
        self.conntrack.with_label_values(&[label(family)]).observe(took.as_secs_f64());
    }

    /// Stale conntrack entries of a family have been forgotten.
    pub fn flows_forgotten(&self, family: Family, flows: usize) {
        self.conntrack_deleted.with_label_values(&[label(family)]).inc_by(flows as u64);
    }

    /// Counts what is wrong with objects now.
    pub fn noticed<'a>(&self, notices: impl IntoIterator<Item = &'a Notice>) {
        let mut counts = [0; Reason::ALL.len()];
        for notice in notices {
            counts[notice.reason as usize] += 1;
        }
        for (reason, count) in Reason::ALL.into_iter().zip(counts) {
            self.own.notices.with_label_values(&[reason.as_str()]).set(count);
        }
        self.own.conflicts.set(counts[Reason::AddressConflict as usize]);
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
        self.text_in(Format::Prometheus)
    }

    /// All figures in a text format.
    pub fn text_in(&self, format: Format) -> String {
        self.watches.refresh();
        let mut families = self.registry.gather();
        families.extend(process::gather());
        text::encode(&families, format)
    }
}

impl Failures {
    fn new(maker: &Maker<'_>) -> Failures {
        // userspace mode, which the reference has no more, leads packets by nftables' rules.
        let nftables = maker.of(&[Mode::Nftables, Mode::Userspace]);
        let iptables = maker.of(&[Mode::Iptables]);
        let restoring = maker.of(&[Mode::Iptables, Mode::Ipvs]);
        Failures {
            sync: nftables
                .counters("sync_proxy_rules_nftables_sync_failures_total", "Syncs that failed"),
            cleanup: nftables.counters(
                "sync_proxy_rules_nftables_cleanup_failures_total",
                "Removals of leftovers that failed",
            ),
            restore: restoring.counters(
                "sync_proxy_rules_iptables_restore_failures_total",
                "Syncs that iptables-restore refused",
            ),
            partial_restore: iptables.counters(
                "sync_proxy_rules_iptables_partial_restore_failures_total",
                "Syncs of what changed that iptables-restore refused",
            ),
        }
    }
}

impl Own {
    fn new(maker: &Maker<'_>) -> Own {
        Own {
            notices: maker.gauges("notices", "What cannot be programmed as asked", &["reason"]),
            conflicts: maker
                .gauge("address_conflicts", "Addresses and ports that an older Service has"),
            seen: maker.gauge("generation_seen", "Number of the newest change that was seen"),
            programmed: maker
                .gauge("generation_programmed", "Number of the newest change that is programmed"),
            waiting: maker.seconds(
                "generation_lag_seconds",
                "How long the oldest change that is not programmed has waited",
            ),
            kernel: maker.durations_by(
                "kernel_duration_seconds",
                "Seconds the kernel took, its locks included",
                "operation",
            ),
            kernel_errors: maker.counters_by(
                "kernel_errors_total",
                "What the kernel refused",
                &["operation", "kind"],
            ),
            lock: maker.durations_by(
                "lock_wait_seconds",
                "Seconds a sync waited for another program's lock",
                "lock",
            ),
            drift: maker.counter(
                "drift_repairs_total",
                "Times that rules of ours were found changed by somebody else, and made anew",
            ),
        }
    }
}

/// What `kubernetes_build_info` says; what Go alone has is empty.
fn build_labels(minor: &str) -> [(&'static str, &str); 9] {
    [
        ("build_date", ""),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", GIT_VERSION),
        ("go_version", ""),
        ("major", "1"),
        ("minor", minor),
        ("platform", super::PLATFORM),
    ]
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
