//! The configuration file: defaults as text, strict and lenient reading, problems with their lines,
//! flags beside it, hostile text; and what settings make of a Node.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::model::{Family, LocalDetector, Node, NodePortAddresses};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Reads a file's text with the head put before it.
fn read_text(text: &str) -> Result<File, Vec<String>> {
    let all = format!("{HEAD}{text}");
    read(Path::new("f"), &all).map_err(|all| all.iter().map(Problem::to_string).collect())
}

/// What a file and flags come to.
fn load_text(text: &str, args: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("kube-proxy-config-{}-{n}", std::process::id()));
    std::fs::write(&path, format!("{HEAD}{text}")).unwrap();
    let mut flags = vec![(flags::find("config").unwrap(), path.display().to_string())];
    flags
        .extend(args.iter().map(|(name, value)| (flags::find(name).unwrap(), (*value).to_owned())));
    let loaded = load(&flags, "host");
    std::fs::remove_file(&path).unwrap();
    let shown = path.display().to_string();
    loaded
        .map_err(|all| all.iter().map(|problem| problem.to_string().replace(&shown, "f")).collect())
}

fn settings(text: &str, args: &[(&str, &str)]) -> Settings {
    load_text(text, args).unwrap().settings
}

#[test]
#[expect(clippy::too_many_lines, reason = "a whole file, as it is written")]
fn the_defaults_as_a_file() {
    let text = load(&[], "host").unwrap().text;
    expect![[r#"
        apiVersion: kubeproxy.config.k8s.io/v1alpha1
        bindAddress: 0.0.0.0
        bindAddressHardFail: false
        clientConnection:
          acceptContentTypes: ""
          burst: 10
          contentType: application/vnd.kubernetes.protobuf
          kubeconfig: ""
          qps: 5
        clusterCIDR: ""
        configSyncPeriod: 15m0s
        conntrack:
          maxPerCore: 32768
          min: 131072
          tcpBeLiberal: false
          tcpCloseWaitTimeout: 1h0m0s
          tcpEstablishedTimeout: 24h0m0s
          udpStreamTimeout: 0s
          udpTimeout: 0s
        detectLocal:
          bridgeInterface: ""
          interfaceNamePrefix: ""
        detectLocalMode: ClusterCIDR
        enableProfiling: false
        featureGates: {}
        healthzBindAddress: "0.0.0.0:10256"
        hostnameOverride: ""
        iptables:
          localhostNodePorts: true
          masqueradeAll: false
          masqueradeBit: 14
          minSyncPeriod: 1s
          syncPeriod: 30s
        ipvs:
          excludeCIDRs: []
          minSyncPeriod: 1s
          scheduler: ""
          strictARP: false
          syncPeriod: 30s
          tcpFinTimeout: 0s
          tcpTimeout: 0s
          udpTimeout: 0s
        kind: KubeProxyConfiguration
        logging:
          flushFrequency: 5000000000
          format: text
          options:
            json:
              infoBufferSize: "0"
            text:
              infoBufferSize: "0"
          verbosity: 0
        metricsBindAddress: "127.0.0.1:10249"
        mode: iptables
        nftables:
          masqueradeAll: false
          masqueradeBit: 14
          minSyncPeriod: 1s
          syncPeriod: 30s
        nodePortAddresses: []
        oomScoreAdj: -999
        portRange: ""
        showHiddenMetricsForVersion: ""
        winkernel:
          enableDSR: false
          forwardHealthCheckVip: false
          networkName: ""
          rootHnsEndpointName: ""
          sourceVip: ""
    "#]]
    .assert_eq(&text);
}

#[test]
fn what_is_written_reads_back_the_same() {
    let flags = [
        ("cluster-cidr", "10.0.0.0/8,fd00::/8"),
        ("feature-gates", "AllAlpha=true"),
        ("nodeport-addresses", "10.0.0.0/8"),
        ("vmodule", "a*=3"),
        ("kube-api-qps", "0.1"),
        ("udp-timeout", "1s"),
        ("log-text-info-buffer-size", "1Mi"),
        ("hostname-override", "true"),
        ("kubeconfig", "/tmp/a b: # \"c\"\u{e9}"),
    ];
    let flags: Vec<_> =
        flags.map(|(name, value)| (flags::find(name).unwrap(), value.to_owned())).into();
    let text = load(&flags, "host").unwrap().text;
    let mut file = read(Path::new("f"), &text).unwrap();
    assert_eq!(file.warnings, Vec::<String>::new());
    defaults::fill(&mut file.wire);
    assert_eq!(write(&file.wire), text);
    assert_eq!(file.wire.hostname_override.as_deref(), Some("true"));
    assert_eq!(file.wire.client_connection.kubeconfig.as_deref(), Some("/tmp/a b: # \"c\"\u{e9}"));
    assert_eq!(file.wire.client_connection.qps, Some(0.1));
}

#[test]
fn a_file_of_kubeadm_is_understood() {
    let text = r#"
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
"#;
    let s = settings(text, &[]);
    assert_eq!(s.warnings, Vec::<String>::new());
    let defaults = load(&[], "host").unwrap().settings;
    let source = Source::ApiServer {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        master: None,
    };
    let detect_local = DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]);
    let (config_file, flags, written) = (s.config_file.clone(), s.flags.clone(), s.written.clone());
    assert_eq!(s, Settings { source, detect_local, config_file, flags, written, ..defaults });
}

#[test]
fn json_is_read_too() {
    let text = r#"{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "oomScoreAdj": -5}"#;
    assert_eq!(read(Path::new("f"), text).unwrap().wire.oom_score_adj, Some(-5));
}

#[test]
fn unknown_and_repeated_fields_are_read_leniently_with_a_warning() {
    let file = read_text("clusterCidr: x\niptables:\n  snatNodeInternalIP: true\n  syncPeriod: 5s\noomScoreAdj: 1\noomScoreAdj: 2\n").unwrap();
    assert_eq!(
        file.warnings,
        [
            "f: read leniently, since read strictly it has errors: unknown field clusterCidr on line 3, unknown field iptables.snatNodeInternalIP on line 5, field oomScoreAdj given again on line 8"
        ]
    );
    assert_eq!(file.wire.iptables.sync_period, Some(forms::GoDuration::seconds(5)));
    assert_eq!(file.wire.oom_score_adj, Some(2));
}

#[test]
fn malformed_fields_are_told_at_once_with_their_lines() {
    let told = read_text("oomScoreAdj: many\niptables: 5\nipvs:\n  syncPeriod: 30\n  strictARP: \"true\"\nclusterCIDR: 10\nnodePortAddresses: x\nfeatureGates: {A: 1}\nlogging: {verbosity: -1, flushFrequency: soon, vmodule: [a]}\n").unwrap_err();
    expect![[r#"
        f:8: clusterCIDR "10": must be a string; put it in quotes
        f:10: featureGates "{\"A\":1}": must be true or false, without quotes
        f:4: iptables "5": must be a map of fields
        f:7: ipvs.strictARP "true": must be true or false, without quotes
        f:6: ipvs.syncPeriod "30": must be a duration as a string, such as 30s
        f:11: logging.flushFrequency "soon": must be a duration such as 30s, 1h2m3.5s or 250ms (units ns, us, ms, s, m, h), or a number of nanoseconds
        f:11: logging.verbosity "-1": must be a whole number from 0 to 4294967295, without quotes
        f:11: logging.vmodule "[\"a\"]": must be a list of {filePattern: NAME, verbosity: NUMBER}
        f:9: nodePortAddresses "x": must be a list
        f:3: oomScoreAdj "many": must be a whole number from -2147483648 to 2147483647, without quotes"#]].assert_eq(&told.join("\n"));
}

#[test]
fn values_that_are_not_allowed_are_told_at_once_with_their_lines() {
    let text = "mode: userspaces\nclusterCIDR: 10.0.0.0/8,11.0.0.0/8\noomScoreAdj: 5000\niptables:\n  masqueradeBit: 32\nnftables:\n  masqueradeBit: -1\n  syncPeriod: -1s\nconntrack:\n  min: -1\nfeatureGates:\n  NFTablesProxyMode: false\nlogging:\n  format: xml\n";
    let told = load_text(text, &[("v", "x"), ("hostname-override", " ")]).unwrap_err();
    expect![[r#"
        --v "x": must be a whole number of 0 or more
        --hostname-override " ": must be a name that is not blank
        f:3: mode "userspaces": must be one of iptables, ipvs, nftables, userspace
        f:7: iptables.masqueradeBit "32": must be from 0 to 31
        f:4: clusterCIDR "10.0.0.0/8,11.0.0.0/8": must be one CIDR, or two of different families, such as 10.100.0.0/16,fde4:8dba:82e1::/48
        f:12: conntrack.min "-1": must be 0 or more
        f:5: oomScoreAdj "5000": must be from -1000 to 1000
        f:13: featureGates "NFTablesProxyMode=false": the gate is locked to true
        f:16: logging.format "xml": must be text or json"#]].assert_eq(&told.join("\n"));
}

#[test]
fn what_is_no_configuration_is_one_clear_line() {
    let told = |text: &str| {
        let all = read(Path::new("f"), text).unwrap_err();
        all.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
    };
    expect![[r#"
        f: must be one KubeProxyConfiguration object of kubeproxy.config.k8s.io/v1alpha1
        f: must be one KubeProxyConfiguration object of kubeproxy.config.k8s.io/v1alpha1
        f: not valid YAML: unclosed bracket '[' at line 1, column 4
        f:2: apiVersion "v1": must be kubeproxy.config.k8s.io/v1alpha1
        f:1: kind "Pod": must be KubeProxyConfiguration
        f: not valid YAML: multiple YAML documents detected
        f: must be one KubeProxyConfiguration object of kubeproxy.config.k8s.io/v1alpha1
        f: apiVersion "": must be kubeproxy.config.k8s.io/v1alpha1
        f: kind "": must be KubeProxyConfiguration
        f: not valid YAML: unexpected character: `\u{0}' at line 1, column 1"#]]
    .assert_eq(
        &[
            "",
            "[]",
            "a: [",
            "kind: Pod\napiVersion: v1",
            "a: 1\n---\nb: 2",
            "- x",
            "{1: 2}",
            "\u{0}",
        ]
        .map(told)
        .join("\n"),
    );
    let missing =
        load(&[(flags::find("config").unwrap(), "/nonexistent/f".into())], "h").unwrap_err();
    assert_eq!(
        missing[0].to_string(),
        r#"--config "/nonexistent/f": must be a file that can be read: No such file or directory (os error 2)"#
    );
}

#[test]
fn beside_a_file_only_some_flags_count() {
    let text = "clusterCIDR: 10.0.0.0/8\nhostnameOverride: of-file\nlogging:\n  verbosity: 1\n  vmodule:\n  - {filePattern: a, verbosity: 1}\n";
    let s = settings(
        text,
        &[
            ("cluster-cidr", "11.0.0.0/8"),
            ("hostname-override", "Of-Flag"),
            ("v", "6"),
            ("vmodule", "a=9"),
            ("master", "https://m"),
        ],
    );
    assert_eq!(s.detect_local, DetectLocal::ClusterCidr(vec!["10.0.0.0/8".parse().unwrap()]));
    assert_eq!(&*s.node_name, "of-flag");
    assert_eq!(s.logging.verbosity, 6);
    assert_eq!(s.logging.vmodule, [("a".to_owned(), 9), ("a".to_owned(), 1)]);
    assert_eq!(s.source, Source::ApiServer { kubeconfig: None, master: Some("https://m".into()) });
    assert_eq!(s.warnings, ["--cluster-cidr has no effect beside --config"]);
    let s = settings(text, &[]);
    assert_eq!((&*s.node_name, s.logging.verbosity), ("of-file", 1));
    assert!(s.config_file.is_some_and(|file| file.content.ends_with(b"verbosity: 1}\n")));
    // A malformed flag is told even where it would not count.
    assert_eq!(load_text(text, &[("config-sync-period", "x")]).unwrap_err().len(), 1);
}

#[test]
fn each_mode_has_its_own_section_in_the_file() {
    let text = "mode: nftables\niptables: {masqueradeAll: true, masqueradeBit: 1, syncPeriod: 1m}\nnftables: {masqueradeBit: 2, syncPeriod: 2m, minSyncPeriod: 3s}\n";
    let s = settings(text, &[]);
    assert_eq!((s.masquerade_all, s.masquerade_bit), (false, 2));
    assert_eq!(
        (s.sync_period, s.min_sync_period),
        (Duration::from_secs(120), Duration::from_secs(3))
    );
}

#[test]
fn a_default_follows_the_bind_address_of_the_file() {
    let s = settings("bindAddress: \"fd00::1\"\n", &[]);
    assert_eq!(s.healthz, Some("[::]:10256".parse().unwrap()));
    assert_eq!(s.metrics, Some("[::1]:10249".parse().unwrap()));
}

fn with(args: &[(&str, &str)]) -> Settings {
    let flags: Vec<_> = args
        .iter()
        .map(|(name, value)| (flags::find(name).unwrap(), (*value).to_owned()))
        .collect();
    load(&flags, "host").unwrap().settings
}

fn node(addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    Node {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pod_cidrs: pod_cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        ..Node::default()
    }
}

#[test]
fn the_local_detector_follows_the_mode() {
    let v4 = node(&["192.0.2.1", "2001:db8::1"], &["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"]);
    let s = with(&[("cluster-cidr", "fd00::/8,10.0.0.0/8")]);
    let cidrs = vec!["fd00::/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    assert_eq!(s.local_detector(Some(&v4)), (LocalDetector::Cidrs(cidrs), None));

    let (detector, warning) = with(&[]).local_detector(Some(&v4));
    assert_eq!(detector, LocalDetector::None);
    assert_eq!(
        warning.unwrap(),
        "detect-local-mode ClusterCIDR, but --cluster-cidr has no CIDR of the primary family IPv4: no IPv4 traffic counts as local"
    );

    let s = with(&[("detect-local-mode", "NodeCIDR")]);
    let first = vec!["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()];
    assert_eq!(s.local_detector(Some(&v4)), (LocalDetector::Cidrs(first), None));
    assert_eq!(s.local_detector(None).0, LocalDetector::None);
    assert!(s.local_detector(None).1.is_some());

    // Only the other family's CIDR: it counts, and the lack of the primary one is told.
    let v6 = node(&["2001:db8::1"], &["10.1.0.0/24"]);
    let (detector, warning) = s.local_detector(Some(&v6));
    assert_eq!(detector, LocalDetector::Cidrs(vec!["10.1.0.0/24".parse().unwrap()]));
    assert!(warning.unwrap().contains("primary family IPv6"));

    let bridge = with(&[("detect-local-mode", "BridgeInterface"), ("pod-bridge-interface", "br0")]);
    assert_eq!(bridge.local_detector(None), (LocalDetector::Bridge("br0".into()), None));
}

#[test]
fn the_bind_address_overrides_the_nodes() {
    let n = node(&["192.0.2.1", "2001:db8::1"], &[]);
    assert_eq!(with(&[]).primary_family(Some(&n)), Family::V4);
    assert_eq!(with(&[]).primary_family(Some(&node(&["::2", "192.0.2.1"], &[]))), Family::V6);
    assert_eq!(with(&[("bind-address", "::")]).primary_family(Some(&n)), Family::V4);
    let nftables = ("proxy-mode", "nftables");
    let primary = with(&[nftables]).resolved_node_port_addresses(Some(&n));
    assert_eq!(primary, NodePortAddresses::Primary);
    let bound = with(&[nftables, ("bind-address", "2001:db8::9")]);
    assert_eq!(bound.primary_family(Some(&n)), Family::V6);
    let cidrs = ["2001:db8::9/128", "192.0.2.1/32"].map(|c| c.parse().unwrap()).to_vec();
    assert_eq!(bound.resolved_node_port_addresses(Some(&n)), NodePortAddresses::Cidrs(cidrs));
    let loopback = with(&[nftables, ("bind-address", "127.0.0.1")]);
    assert_eq!(loopback.resolved_node_port_addresses(None), NodePortAddresses::Cidrs(vec![]));
}

#[test]
fn the_proxy_gets_what_was_asked_for() {
    let n = node(&["192.0.2.1"], &["10.1.0.0/24"]);
    let s = with(&[
        ("detect-local-mode", "NodeCIDR"),
        ("masquerade-all", "true"),
        ("nodeport-addresses", "10.0.0.0/8"),
    ]);
    let (options, warning) = s.proxy_options(Some(&n));
    assert_eq!(warning, None);
    assert_eq!(
        (&*options.node_name, options.masquerade_bit, options.masquerade_all),
        ("host", 14, true)
    );
    assert_eq!(options.detector, LocalDetector::Cidrs(vec!["10.1.0.0/24".parse().unwrap()]));
    assert_eq!(
        options.node_port_addresses,
        NodePortAddresses::Cidrs(vec!["10.0.0.0/8".parse().unwrap()])
    );
    assert_eq!(options.families, Family::ALL);
    assert!(with(&[]).proxy_options(None).1.is_some());
}

#[test]
fn hostile_yaml_is_an_error() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_map = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    let bomb = (0..30).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        format!("{text}a{}: &a{} [{}]\n", i + 1, i + 1, vec![format!("*a{i}"); 9].join(","))
    });
    let cycle = "a: &a [*a]\n".to_owned();
    let merge = "a: &a {<<: *a}\n".to_owned();
    for text in [
        deep,
        deep_map,
        bomb,
        cycle,
        merge,
        "a: !!binary x".into(),
        "? [a]\n: b".into(),
        "&".into(),
    ] {
        // Any answer will do that comes, and soon.
        let _ = read(Path::new("f"), &text);
    }
}

/// Texts that look somewhat like a configuration.
fn yaml() -> impl Strategy<Value = String> {
    let names = [
        "mode",
        "iptables",
        "syncPeriod",
        "logging",
        "vmodule",
        "featureGates",
        "kind",
        "<<",
        "oomScoreAdj",
    ];
    let values = [
        "1",
        "30s",
        "\"x\"",
        "[a, {b: c}]",
        "{}",
        "null",
        "&a",
        "*a",
        "!!str 1",
        "|\n  x",
        "1e999",
        "0x7fffffffffffffffff",
        "~",
        "''",
    ];
    let line =
        (0..4usize, prop::sample::select(names.to_vec()), prop::sample::select(values.to_vec()));
    prop::collection::vec(line, 0..12).prop_map(|lines| {
        let line = |(indent, name, value): (usize, &str, &str)| {
            format!("{}{name}: {value}\n", "  ".repeat(indent))
        };
        format!("{HEAD}{}", lines.into_iter().map(line).collect::<String>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_reading_panic(text in "\\PC*", like in yaml()) {
        for text in [text, like] {
            if let Ok(file) = read(&PathBuf::from("f"), &text) {
                let mut wire = file.wire;
                defaults::fill(&mut wire);
                let _ = validate::validate(&wire, &file.origin, &Errand::default(), "h");
                let _ = write(&wire);
            }
        }
    }

    #[test]
    fn no_flag_value_makes_loading_panic(value in "\\PC{0,12}", which in 0..flags::all().count()) {
        let flag = flags::all().nth(which).unwrap();
        if flag.name != "config" {
            let _ = load(&[(flag, value)], "h");
        }
    }

    #[test]
    fn durations_print_as_what_they_were(nanoseconds: i64) {
        let duration = forms::GoDuration(nanoseconds);
        prop_assert_eq!(forms::GoDuration::parse(&duration.to_string()), Ok(duration));
    }
}

/// Every field of the file, by path.
#[derive(Default)]
struct Paths {
    at: Vec<&'static str>,
    all: Vec<String>,
}

impl wire::Visitor for Paths {
    fn field<T: wire::Value>(&mut self, name: &'static str, _: &mut Option<T>) {
        self.all.push([&self.at[..], &[name]].concat().join("."));
    }

    fn section(&mut self, name: &'static str, visit: &mut dyn FnMut(&mut Self)) {
        self.at.push(name);
        visit(self);
        self.at.pop();
    }
}

/// A file in which one field has this value, written as YAML.
fn file_with(path: &str, value: &str) -> String {
    let nested =
        path.rsplit('.').fold(value.to_owned(), |inner, name| format!("{{{name}: {inner}}}"));
    let outer = nested.trim_start_matches('{').strip_suffix('}').unwrap().to_owned();
    format!("{outer}\n")
}

#[test]
fn every_field_refuses_a_value_of_another_kind() {
    let mut paths = Paths::default();
    wire::Wire::default().visit(&mut paths);
    assert!(paths.all.len() > 60, "{}", paths.all.len());
    for path in &paths.all {
        let problems = load_text(&file_with(path, "{x: {y: 1}}"), &[]).unwrap_err();
        assert!(problems.iter().any(|p| p.contains(&format!("{path} "))), "{path}: {problems:?}");
    }
}

#[test]
fn every_field_with_a_limit_refuses_what_is_beyond() {
    for (path, value) in [
        ("bindAddress", "1.2.3"),
        ("clientConnection.burst", "-1"),
        ("clientConnection.contentType", "text/xml"),
        ("clusterCIDR", "10.0.0.0/33"),
        ("clusterCIDR", "'10.0.0.0/8,11.0.0.0/8'"),
        ("configSyncPeriod", "-1s"),
        ("conntrack.maxPerCore", "-1"),
        ("conntrack.min", "-1"),
        ("conntrack.tcpCloseWaitTimeout", "-1s"),
        ("conntrack.tcpEstablishedTimeout", "-1s"),
        ("conntrack.udpStreamTimeout", "-1s"),
        ("conntrack.udpTimeout", "-1s"),
        ("detectLocalMode", "Somehow"),
        ("featureGates", "{Nonsense: true}"),
        ("healthzBindAddress", "'1.2.3.4:99999'"),
        ("iptables.masqueradeBit", "32"),
        ("iptables.minSyncPeriod", "-1s"),
        ("iptables.minSyncPeriod", "31s"),
        ("iptables.syncPeriod", "-1s"),
        ("logging.flushFrequency", "-1s"),
        ("logging.format", "xml"),
        ("metricsBindAddress", "'here:1'"),
        ("mode", "magic"),
        ("nodePortAddresses", "[10.0.0.1]"),
        ("nodePortAddresses", "[primary, 10.0.0.0/8]"),
        ("oomScoreAdj", "1001"),
        ("portRange", "'9-1'"),
        ("showHiddenMetricsForVersion", "'1.30'"),
        ("udpIdleTimeout", "-1s"),
        ("userspace.drainTimeout", "-1s"),
        ("userspace.maxConnections", "-1"),
        ("userspace.maxConnectionsPerService", "-1"),
        ("clientConnection.qps", "1e39"),
        ("logging.verbosity", "-1"),
        ("logging.vmodule", "[{filePattern: 'a,b', verbosity: 1}]"),
    ] {
        refuses("", (path, value));
    }
    for (first, path, value) in [
        ("mode: ipvs", "ipvs.scheduler", "'sh:mh-port'"),
        ("mode: ipvs", "ipvs.excludeCIDRs", "[10.0.0.0]"),
        ("mode: ipvs", "ipvs.syncPeriod", "-1s"),
        ("mode: ipvs", "ipvs.minSyncPeriod", "-1s"),
        ("mode: ipvs", "ipvs.minSyncPeriod", "31s"),
        ("mode: ipvs", "ipvs.tcpTimeout", "-1s"),
        ("mode: ipvs", "ipvs.tcpFinTimeout", "-1s"),
        ("mode: ipvs", "ipvs.udpTimeout", "-1s"),
        ("mode: ipvs", "iptables.masqueradeBit", "-1"),
        ("mode: nftables", "nftables.masqueradeBit", "-1"),
        ("mode: nftables", "nftables.syncPeriod", "-1s"),
        ("mode: nftables", "nftables.minSyncPeriod", "-1s"),
        ("mode: nftables", "nftables.minSyncPeriod", "31s"),
        ("mode: nftables", "iptables.masqueradeBit", "32"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface", "''"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface", "a/b"),
        ("detectLocalMode: InterfaceNamePrefix", "detectLocal.interfaceNamePrefix", "''"),
        (
            "detectLocalMode: InterfaceNamePrefix",
            "detectLocal.interfaceNamePrefix",
            "longer-than-names",
        ),
    ] {
        refuses(first, (path, value));
    }
    let text = "logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}\n";
    let told = load_text(text, &[]).unwrap_err();
    assert!(told[0].contains("is heeded with the text format only"), "{told:?}");
}

/// A file of this line and this field is refused for the field.
fn refuses(first: &str, (path, value): (&str, &str)) {
    let text = format!("{first}\n{}", file_with(path, value));
    let problems = load_text(&text, &[]).unwrap_err();
    assert!(problems.iter().any(|p| p.contains(path)), "{path}: {value}: {problems:?}");
}

#[test]
fn a_section_of_another_mode_is_not_judged() {
    for text in [
        "nftables: {masqueradeBit: 99, syncPeriod: -1s}\n",
        "mode: nftables\niptables: {syncPeriod: -1s}\nipvs: {scheduler: 'sh:mh-port'}\n",
        "mode: ipvs\niptables: {syncPeriod: -1s}\nnftables: {masqueradeBit: -1}\n",
    ] {
        assert!(load_text(text, &[]).is_ok(), "{text}");
    }
}

#[test]
fn fields_that_nothing_goes_by_are_said_once() {
    let text = "configSyncPeriod: 1m\nshowHiddenMetricsForVersion: '1.35'\n";
    let told = settings(text, &[]).warnings;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("configSyncPeriod has no effect"), "{told:?}");
    assert!(told[1].contains("showHiddenMetricsForVersion has no effect"), "{told:?}");
    // As kubeadm writes it.
    assert!(settings("configSyncPeriod: 0s\n", &[]).warnings.is_empty());
}

/// What is built and rolled out where nothing more is said must be able to do what the default is.
#[test]
fn the_image_of_the_default_has_what_the_default_mode_calls() {
    let recipe = include_str!("../../deploy/Containerfile");
    let (_, last) = recipe.rsplit_once("\nFROM ").unwrap();
    assert_eq!(defaults::MODE, Mode::Iptables);
    assert!(last.lines().next().unwrap().ends_with(" AS with-iptables"), "{last}");
    assert!(last.contains(" iptables ") && last.contains(" ipset "), "{last}");
    assert!(recipe.contains("FROM scratch AS static"));
    let sets = [
        include_str!("../../deploy/base/daemonset.yaml"),
        include_str!("../../deploy/kube-proxy.yaml"),
    ];
    for set in sets {
        assert_eq!(set.matches("add: [NET_ADMIN]\n").count(), 1, "{set}");
        assert!(set.contains("drop: [ALL]"));
    }
}
