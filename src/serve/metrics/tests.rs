//! Names, labels and figures of the metrics, in both formats.

use super::*;
use crate::model::NamespacedName;

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|l| l.starts_with(start)).unwrap_or("none")
}

/// Names of the reference in every mode (`pkg/proxy/metrics/metrics.go`, `RegisterMetrics`).
const OF_EVERY_MODE: &[&str] = &[
    "network_programming_duration_seconds histogram",
    "sync_proxy_rules_duration_seconds histogram",
    "sync_proxy_rules_endpoint_changes_pending gauge",
    "sync_proxy_rules_endpoint_changes_total counter",
    "sync_proxy_rules_last_queued_timestamp_seconds gauge",
    "sync_proxy_rules_last_timestamp_seconds gauge",
    "sync_proxy_rules_service_changes_pending gauge",
    "sync_proxy_rules_service_changes_total counter",
];
const OF_RULES: &[&str] = &[
    "sync_full_proxy_rules_duration_seconds histogram",
    "sync_partial_proxy_rules_duration_seconds histogram",
];
const OF_THREE: &[&str] = &[
    "conntrack_reconciler_deleted_entries_total counter",
    "conntrack_reconciler_sync_duration_seconds histogram",
    "sync_proxy_rules_no_local_endpoints_total gauge",
];
/// The reference's userspace mode had none of them: ours looks for stale UDP flows as well.
const OF_CONNTRACK: &[&str] = &[
    "conntrack_reconciler_deleted_entries_total counter",
    "conntrack_reconciler_sync_duration_seconds histogram",
];
const OF_NFTABLES: &[&str] = &[
    "sync_proxy_rules_nftables_cleanup_failures_total counter",
    "sync_proxy_rules_nftables_sync_failures_total counter",
];
const OF_RESTORE: &[&str] = &["sync_proxy_rules_iptables_restore_failures_total counter"];
const OF_IPTABLES: &[&str] = &[
    "sync_proxy_rules_iptables_last gauge",
    "sync_proxy_rules_iptables_partial_restore_failures_total counter",
    "sync_proxy_rules_iptables_total gauge",
];
const OURS: &[&str] = &[
    "address_conflicts gauge",
    "drift_repairs_total counter",
    "generation_lag_seconds gauge",
    "generation_programmed gauge",
    "generation_seen gauge",
    "notices gauge",
    "verified_services_total counter",
    "verify_refusals_total counter",
    "verify_violations_total counter",
];

#[test]
fn each_mode_has_the_names_of_the_reference_and_ours() {
    let modes: [(Mode, &[&[&str]]); 4] = [
        (Mode::Nftables, &[OF_RULES, OF_THREE, OF_NFTABLES]),
        (Mode::Iptables, &[OF_RULES, OF_THREE, OF_RESTORE, OF_IPTABLES]),
        (Mode::Ipvs, &[OF_THREE, OF_RESTORE]),
        (Mode::Userspace, &[OF_CONNTRACK, OF_NFTABLES]),
    ];
    for (mode, groups) in modes {
        let text = Metrics::new(mode, &[Family::V4]).text();
        let mut names: Vec<&str> =
            text.lines().filter_map(|l| l.strip_prefix("# TYPE kubeproxy_")).collect();
        names.sort_unstable();
        let all = [groups, &[OF_EVERY_MODE, OURS]].concat();
        let mut expected: Vec<&str> = all.into_iter().flatten().copied().collect();
        expected.sort_unstable();
        assert_eq!(names, expected, "{mode:?}");
    }
}

#[test]
fn buckets_and_labels_are_those_of_the_reference() {
    let metrics = Metrics::new(Mode::Iptables, &[Family::V4]);
    metrics.rules((Family::V4, "nat"), 7, 3);
    let text = metrics.text();
    let buckets = |name: &str| {
        let start = format!("kubeproxy_{name}_bucket{{ip_family=\"IPv4\",le=\"");
        let bounds = text.lines().filter_map(|l| l.strip_prefix(start.as_str())?.split('"').next());
        bounds.collect::<Vec<_>>()
    };
    let programming = buckets("network_programming_duration_seconds");
    assert_eq!((programming.len(), &programming[..4]), (82, &["0", "0.25", "0.5", "1"][..]));
    assert_eq!(programming[79..], ["270", "300", "+Inf"]);
    let sync = buckets("sync_full_proxy_rules_duration_seconds");
    assert_eq!((sync.len(), sync[0], sync[14]), (16, "0.001", "16.384"));
    let rules = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"} 7";
    assert_eq!(line(&text, &rules[..rules.len() - 2]), rules);
    assert!(line(&text, "kubernetes_build_info{").contains("minor=\"36\""));
}

#[test]
fn open_metrics_is_what_it_should_be() {
    let metrics = Metrics::new(Mode::Nftables, &[Family::V4]);
    metrics.probed(Probe::Livez, "200");
    metrics.kernel_asked("nft", Duration::from_millis(2), Some("busy"));
    let text = metrics.text_in(Format::OpenMetrics);
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(line(&text, "# TYPE kubeproxy_proxy_livez"), "# TYPE kubeproxy_proxy_livez counter");
    assert_eq!(
        line(&text, "kubeproxy_proxy_livez_total"),
        "kubeproxy_proxy_livez_total{code=\"200\"} 1.0"
    );
    let errors = "kubeproxy_kernel_errors_total{kind=\"busy\",operation=\"nft\"} 1.0";
    assert_eq!(line(&text, "kubeproxy_kernel_errors"), errors);
    let bucket = "kubeproxy_kernel_duration_seconds_bucket{operation=\"nft\",le=\"+Inf\"} 1";
    assert_eq!(line(&text, &bucket[..bucket.len() - 2]), bucket);
    // A gauge keeps a name that ends like a counter's.
    let gauge = "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge";
    assert_eq!(line(&text, gauge), gauge);
    assert_eq!(text.matches("# EOF").count(), 1);
}

#[test]
fn the_format_is_the_one_asked_for() {
    for (accept, format) in [
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", Format::OpenMetrics),
        ("text/plain, application/openmetrics-text;q=0.5", Format::Prometheus),
        ("application/openmetrics-text;q=0", Format::Prometheus),
    ] {
        assert_eq!(Format::accepted(accept), format, "{accept}");
    }
}

#[test]
fn figures_are_told() {
    let metrics = Metrics::new(Mode::Nftables, &Family::ALL);
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
    metrics.sync_took(SyncKind::Partial, Duration::from_millis(3));
    metrics.synced(now, &[].into());
    metrics.sync_failed(SyncKind::Full, &[].into());
    metrics.cleanup_failed();
    let trigger = |at| Trigger { family: Family::V4, at };
    metrics.programmed(&[trigger(100_000_000_000), trigger(200_000_000_000)], now);
    metrics.without_local_endpoints(Family::V4, LocalPolicy::External, 2);
    metrics.flows_searched(Family::V4, Duration::from_millis(1));
    metrics.flows_forgotten(Family::V4, 7);
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
fn failed_syncs_count_in_every_mode() {
    let failures = |mode, kind| {
        let metrics = Metrics::new(mode, &[Family::V4]);
        metrics.sync_failed(kind, &[].into());
        let text = metrics.text();
        let ones = text.lines().filter_map(|l| l.strip_suffix("{ip_family=\"IPv4\"} 1"));
        let start = "kubeproxy_sync_proxy_rules_";
        ones.filter_map(|l| l.strip_prefix(start).map(str::to_owned)).collect::<Vec<_>>()
    };
    let restore = "iptables_restore_failures_total";
    let partial = "iptables_partial_restore_failures_total";
    assert_eq!(failures(Mode::Iptables, SyncKind::Full), [restore]);
    assert_eq!(failures(Mode::Iptables, SyncKind::Partial), [partial, restore]);
    assert_eq!(failures(Mode::Ipvs, SyncKind::Partial), [restore]);
    for mode in [Mode::Nftables, Mode::Userspace] {
        assert_eq!(failures(mode, SyncKind::Partial), ["nftables_sync_failures_total"]);
    }
}

#[test]
fn what_fails_for_one_family_counts_for_that_one() {
    let metrics = Metrics::new(Mode::Nftables, &Family::ALL);
    let now = UNIX_EPOCH + Duration::from_secs(100);
    metrics.seen(&Event::ServiceGone(NamespacedName::new("a", "b")));
    let failed = [Family::V6].into();
    metrics.sync_failed(SyncKind::Partial, &failed);
    metrics.synced(now, &failed);
    let text = metrics.text();
    for (name, v4, v6) in
        [("nftables_sync_failures_total", 0, 1), ("last_timestamp_seconds", 100, 0)]
    {
        for (family, value) in [("IPv4", v4), ("IPv6", v6)] {
            let start = format!("kubeproxy_sync_proxy_rules_{name}{{ip_family=\"{family}\"}} ");
            assert_eq!(line(&text, &start), format!("{start}{value}"));
        }
    }
    let pending = "kubeproxy_sync_proxy_rules_service_changes_pending ";
    assert_eq!(line(&text, pending), format!("{pending}1"));
}

#[test]
fn waits_for_the_lock_are_told_where_there_is_one() {
    for (mode, told) in [
        (Mode::Iptables, true),
        (Mode::Ipvs, true),
        (Mode::Nftables, false),
        (Mode::Userspace, false),
    ] {
        let metrics = Metrics::new(mode, &[Family::V4]);
        metrics.lock_waited(Duration::ZERO);
        metrics.lock_waited(Duration::from_millis(20));
        let one = "kubeproxy_lock_wait_seconds_count{lock=\"xtables\"} 1\n";
        assert_eq!(metrics.text().contains(one), told, "{mode:?}");
    }
}

#[test]
fn line_91_buckets_of_the_programming_latency() {
    let buckets = programming_buckets();
    assert_eq!(buckets.len(), 81);
    // `merge` in `pkg/proxy/metrics/metrics.go` begins with a slice of one zero.
    assert_eq!((buckets[0], buckets[1], buckets[80]), (0.0, 0.25, 300.0));
    assert!(buckets.is_sorted());
}

#[test]
fn watches_are_asked_when_somebody_looks() {
    let metrics = Metrics::new(Mode::Nftables, &[Family::V4]);
    assert!(!metrics.text().contains("api_staleness_seconds{"));
    let asked = std::sync::atomic::AtomicU64::new(0);
    metrics.watch_by(Box::new(move || {
        let lists = 1 + asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let silent = Some(Duration::from_millis(1500));
        let service =
            WatchFigures { kind: crate::model::Kind::Service, silent, lists, failures: 7 };
        let kind = crate::model::Kind::ServiceCidr;
        vec![service, WatchFigures { kind, silent: None, lists: 0, failures: 0 }]
    }));
    metrics.text();
    let text = metrics.text();
    for expected in [
        "kubeproxy_api_staleness_seconds{kind=\"Service\"} 1.5",
        "kubeproxy_api_lists_total{kind=\"Service\"} 2",
        "kubeproxy_api_failures_total{kind=\"Service\"} 7",
        "kubeproxy_api_lists_total{kind=\"ServiceCIDR\"} 0",
    ] {
        assert!(text.contains(&format!("{expected}\n")), "{expected}: {text}");
    }
    assert!(!text.contains("api_staleness_seconds{kind=\"ServiceCIDR\"}"));
}

#[test]
fn requests_and_gates_are_told_under_the_names_of_client_go() {
    let metrics = Metrics::new(Mode::Nftables, &[Family::V4]);
    metrics.features(&[("ComponentFlagz", "ALPHA", false)]);
    let (method, host) = ("GET", "10.0.0.1:6443");
    let took = Some(Duration::from_millis(30));
    metrics.requested(&Requested { method, host, status: Some(200), took });
    metrics.requested(&Requested { method, host, status: None, took: None });
    let text = metrics.text();
    for expected in [
        "rest_client_requests_total{code=\"200\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
        "rest_client_requests_total{code=\"<error>\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
        "rest_client_request_duration_seconds_bucket{host=\"10.0.0.1:6443\",verb=\"GET\",le=\"0.1\"} 1",
        "rest_client_request_duration_seconds_count{host=\"10.0.0.1:6443\",verb=\"GET\"} 1",
        "kubernetes_feature_enabled{name=\"ComponentFlagz\",stage=\"ALPHA\"} 0",
    ] {
        assert!(text.contains(&format!("{expected}\n")), "{expected}: {text}");
    }
}

/// Names of metrics that a text uses, without the endings that a histogram's samples have.
fn names_in(text: &str) -> std::collections::BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let ours =
        |w: &&str| ["kubeproxy_", "process_", "kubernetes_"].iter().any(|p| w.starts_with(p));
    let bare = |w: &str| {
        let endings = ["_bucket", "_sum", "_count"];
        endings.iter().find_map(|e| w.strip_suffix(e)).unwrap_or(w).to_owned()
    };
    text.split(word).filter(ours).map(bare).collect()
}

#[test]
fn dashboard_and_alerts_use_metrics_that_exist() {
    let mut known = std::collections::BTreeSet::new();
    for mode in [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace] {
        let metrics = Metrics::new(mode, &Family::ALL);
        metrics.probed(Probe::Livez, "200");
        metrics.probed(Probe::Healthz, "200");
        metrics.kernel_asked("nft", Duration::from_millis(1), Some("busy"));
        metrics.watch_by(Box::new(|| {
            let silent = Some(Duration::ZERO);
            vec![WatchFigures { kind: crate::model::Kind::Service, silent, lists: 0, failures: 0 }]
        }));
        let text = metrics.text();
        let types = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next());
        known.extend(types.map(str::to_owned));
    }
    for text in [
        include_str!("../../../deploy/monitoring/alerts.yaml"),
        include_str!("../../../deploy/monitoring/dashboard.json"),
    ] {
        let used = names_in(text);
        assert!(used.len() > 5, "{used:?}");
        let unknown: Vec<&String> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "no such metric: {unknown:?}");
    }
}
