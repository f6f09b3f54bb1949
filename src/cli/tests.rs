//! Every flag by its good and bad values, the forms flags are written in, actions, help, version.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::config::{DetectLocal, KernelChoice, LogFormat, Source, flags};
use crate::model::NodePortAddresses;

fn parse(line: &str) -> Result<Action, Usage> {
    // A word may be given in single quotes, for the sake of empty ones.
    let words =
        line.split(' ').filter(|w| !w.is_empty()).map(|w| OsString::from(w.replace('\'', "")));
    parse_words(words, "Node-A.example ")
}

fn settings(line: &str) -> Settings {
    match parse(line) {
        Ok(Action::Run(settings)) => *settings,
        other => panic!("{line}: {other:?}"),
    }
}

fn problems(line: &str) -> Vec<String> {
    match parse(line) {
        Err(usage) => usage.problems.iter().map(Problem::to_string).collect(),
        Ok(action) => panic!("{line}: {action:?}"),
    }
}

/// The only problem of a line.
fn problem(line: &str) -> String {
    let mut all = problems(line);
    assert_eq!(all.len(), 1, "{line}: {all:?}");
    all.remove(0)
}

#[test]
fn bare_command_has_the_defaults() {
    let s = settings("");
    assert_eq!(&*s.node_name, "node-a.example");
    assert_eq!(s.mode.as_str(), "iptables");
    assert_eq!(s.kernel, KernelChoice::Real);
    assert_eq!(s.source, Source::ApiServer { kubeconfig: None, master: None });
    assert_eq!((s.client.qps, s.client.burst), (5.0, 10));
    assert_eq!(s.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(s.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(s.sync_period, Duration::from_secs(30));
    assert_eq!(s.min_sync_period, Duration::from_secs(1));
    assert_eq!(s.config_sync_period, Duration::from_secs(900));
    assert_eq!((s.masquerade_bit, s.masquerade_all), (14, false));
    assert_eq!(s.detect_local, DetectLocal::ClusterCidr(vec![]));
    assert_eq!(s.node_port_addresses, NodePortAddresses::Cidrs(vec![]));
    assert_eq!(s.oom_score_adj, -999);
    assert_eq!((s.conntrack.max_per_core, s.conntrack.min), (Some(32768), 131_072));
    assert_eq!(s.conntrack.tcp_established_timeout, Some(Duration::from_secs(86400)));
    assert_eq!(s.conntrack.tcp_close_wait_timeout, Some(Duration::from_secs(3600)));
    assert_eq!((s.conntrack.udp_timeout, s.conntrack.udp_stream_timeout), (None, None));
    assert_eq!(s.userspace.udp_idle_timeout, Duration::from_millis(250));
    assert_eq!((s.ipvs.scheduler.as_str(), s.ipvs.strict_arp), ("rr", false));
    assert!(s.localhost_node_ports);
    assert_eq!(s.logging.format, LogFormat::Text);
    assert_eq!(s.warnings, Vec::<String>::new());
}

#[test]
fn flags_take_every_form_of_pflag() {
    for line in [
        "--cluster-cidr=10.0.0.0/8 --masquerade-all",
        "--cluster-cidr 10.0.0.0/8 --masquerade-all=true",
        "--cluster_cidr=10.0.0.0/8 --masquerade_all=1",
        "--cluster_cidr 10.0.0.0/8 --masquerade-all=T",
        "--cluster-cidr=x --cluster-cidr=10.0.0.0/8 --masquerade-all=false --masquerade-all",
        "'' --cluster-cidr=10.0.0.0/8 --masquerade-all=TRUE",
    ] {
        let s = settings(line);
        assert_eq!(
            s.detect_local,
            DetectLocal::ClusterCidr(vec!["10.0.0.0/8".parse().unwrap()]),
            "{line}"
        );
        assert!(s.masquerade_all, "{line}");
    }
    for line in [
        "--masquerade-all=false",
        "--masquerade-all=f",
        "--masquerade-all=0",
        "--masquerade-all --masquerade-all=F",
    ] {
        assert!(!settings(line).masquerade_all, "{line}");
    }
    for line in ["-v4", "-v=4", "-v 4", "--v=4", "--v 4", "-v 1 -v4"] {
        assert_eq!(settings(line).logging.verbosity, 4, "{line}");
    }
    // A value may begin with dashes; a boolean never takes the next word.
    assert_eq!(settings("--oom-score-adj -5").oom_score_adj, -5);
    assert_eq!(
        problem("--masquerade-all false"),
        r#""false": is not a flag, and kube-proxy takes no other arguments"#
    );
}

#[test]
fn words_that_are_no_flags_are_told() {
    assert_eq!(
        problem("--cluster-cdir=x"),
        "--cluster-cdir: unknown flag; is --cluster-cidr meant?"
    );
    assert_eq!(problem("--zzz"), "--zzz: unknown flag; see --help");
    assert_eq!(problem("-x"), "-x: unknown letter 'x'; see --help");
    assert_eq!(problem("--master"), "--master: needs a value: URL");
    assert_eq!(problems("run -- --cleanup").len(), 2);
    assert_eq!(problem("--=x"), "--: unknown flag; see --help");
}

#[test]
fn all_problems_are_told_at_once() {
    let told = problems(
        "--bogus --cluster-cidr=10.0.0.0/99 --oom-score-adj=2000 --iptables-sync-period=abc stray --proxy-mode=userspaces",
    );
    assert_eq!(
        told,
        [
            "--bogus: unknown flag; see --help",
            r#""stray": is not a flag, and kube-proxy takes no other arguments"#,
            r#"--iptables-sync-period "abc": must be a duration such as 30s, 1h2m3.5s or 250ms (units ns, us, ms, s, m, h)"#,
            r#"--proxy-mode "userspaces": must be one of iptables, ipvs, nftables, userspace"#,
            r#"--cluster-cidr "10.0.0.0/99": must be one CIDR, or two of different families, such as 10.100.0.0/16,fde4:8dba:82e1::/48"#,
            r#"--oom-score-adj "2000": must be from -1000 to 1000"#,
        ]
    );
    let usage = parse("--bogus -x").unwrap_err();
    assert_eq!(usage.to_string().lines().count(), 2);
}

#[test]
fn control_characters_do_not_break_the_line() {
    let words = ["--cluster-cidr=a\nb\u{1b}[31m", "--\n"].map(OsString::from);
    let usage = parse_words(words.into_iter(), "n").unwrap_err();
    assert!(
        usage.problems[1].to_string().starts_with(r#"--cluster-cidr "a\nb\u{1b}[31m": must be"#)
    );
    let long = format!("--cluster-cidr={}", "9".repeat(10_000));
    let usage = parse_words([OsString::from(long)].into_iter(), "n").unwrap_err();
    assert!(usage.to_string().len() < 400);
}

/// Of every flag with a value: a value that is good and one that is not. A flag that takes any text
/// has no bad one.
const VALUES: &[(&str, &str, Option<&str>)] = &[
    ("azure-container-registry-config", "/x", None),
    ("bind-address", "::1", Some("localhost")),
    ("bind-address-hard-fail", "true", Some("yes")),
    ("boot-id-file", "/x,/y", None),
    ("cleanup", "false", Some("maybe")),
    ("cluster-cidr", "10.0.0.0/8,fd00::/8", Some("10.0.0.0/8,11.0.0.0/8")),
    ("config", "''", Some("/nonexistent/file")),
    ("config-sync-period", "1m", Some("0s")),
    ("conntrack-max-per-core", "0", Some("-1")),
    ("conntrack-min", "0x10", Some("1.5")),
    ("conntrack-tcp-be-liberal", "t", Some("2")),
    ("conntrack-tcp-timeout-close-wait", "0", Some("-1s")),
    ("conntrack-tcp-timeout-established", "0s", Some("1")),
    ("conntrack-udp-timeout", "30s", Some("-30s")),
    ("conntrack-udp-timeout-stream", "5m", Some("5x")),
    ("detect-local-mode", "NodeCIDR", Some("nodecidr")),
    ("feature-gates", "AllAlpha=false,NFTablesProxyMode=true", Some("NoSuchGate=true")),
    ("healthz-bind-address", "[::]:10256", Some("10256")),
    ("healthz-port", "0", Some("x")),
    ("help", "false", Some("x")),
    ("hostname-override", "node-b", Some("\u{a0}")),
    ("init-only", "false", Some("x")),
    ("iptables-localhost-nodeports", "false", Some("no")),
    ("iptables-masquerade-bit", "31", Some("32")),
    ("iptables-min-sync-period", "0s", Some("31s")),
    ("iptables-sync-period", "1h2m3.5s", Some("0s")),
    ("ipvs-exclude-cidrs", "10.0.0.0/8", Some("10.0.0.0")),
    ("ipvs-local-fallback", "true", Some("on")),
    ("ipvs-min-sync-period", "5s", Some("5")),
    ("ipvs-scheduler", "mh", Some("sh:mh-port")),
    ("ipvs-strict-arp", "true", Some("on")),
    ("ipvs-sync-period", "30s", Some("s")),
    ("ipvs-tcp-timeout", "1m", Some("1d")),
    ("ipvs-tcpfin-timeout", "1m", Some("min")),
    ("ipvs-udp-timeout", "1m", Some("''")),
    ("kernel", "simulated", Some("windows")),
    ("kube-api-burst", "100", Some("-1")),
    ("kube-api-content-type", "application/json", Some("text/plain")),
    ("kube-api-qps", "0.5", Some("NaN")),
    ("kubeconfig", "/etc/k", None),
    ("log-flush-frequency", "1s", Some("-1s")),
    ("log-json-info-buffer-size", "1Mi", Some("big")),
    ("log-json-split-stream", "true", Some("x")),
    ("log-text-info-buffer-size", "512k", Some("-1")),
    ("log-text-split-stream", "true", Some("x")),
    ("logging-format", "json", Some("xml")),
    ("machine-id-file", "/x", None),
    ("manifests", "/m", Some("''")),
    ("masquerade-all", "1", Some("2")),
    ("master", "https://10.0.0.1:6443", Some("ftp://10.0.0.1")),
    ("metrics-bind-address", "0.0.0.0", Some("0.0.0.0:99999")),
    ("metrics-port", "0", Some("0x")),
    ("nodeport-addresses", "10.0.0.0/8,fd00::/8", Some("primary,10.0.0.0/8")),
    ("oom-score-adj", "-1000", Some("1001")),
    ("pod-bridge-interface", "cni0", Some("cni/0")),
    ("pod-interface-name-prefix", "veth", Some("longer-than-names")),
    ("profiling", "true", Some("x")),
    ("proxy-mode", "nftables", Some("kernelspace")),
    ("proxy-port-range", "300+10", Some("9-8")),
    ("record", "/var/log/record", None),
    ("record-megabytes", "8", Some("0")),
    ("show-hidden-metrics-for-version", "1.35", Some("1.34")),
    ("udp-timeout", "1s", Some("0s")),
    ("userspace-drain-timeout", "0s", Some("-1s")),
    ("userspace-max-connections", "10000", Some("-1")),
    ("userspace-max-connections-per-service", "100", Some("many")),
    ("v", "10", Some("-1")),
    ("verify", "sample", Some("some")),
    ("verify-dumps", "/var/log", None),
    ("version", "false", Some("long")),
    ("vmodule", "sync=4,api*=6", Some("sync")),
    ("write-config-to", "''", None),
];

/// What makes a flag's value count, where it does not always.
fn where_it_counts(name: &str) -> &'static str {
    match name {
        "pod-bridge-interface" => "--detect-local-mode=BridgeInterface",
        "pod-interface-name-prefix" => "--detect-local-mode=InterfaceNamePrefix",
        name if name.starts_with("ipvs-") => "--proxy-mode=ipvs",
        _ => "",
    }
}

#[test]
fn every_flag_takes_its_good_value_and_refuses_its_bad_one() {
    for (name, good, bad) in VALUES {
        let counts = where_it_counts(name);
        if let Err(usage) = parse(&format!("{counts} --{name}={good}")) {
            panic!("--{name}={good}: {usage}");
        }
        if let Some(bad) = bad {
            let told = problem(&format!("{counts} --{name}={bad}"));
            assert!(told.starts_with(&format!("--{name} ")), "{told}");
            assert!(told.contains(&format!("{:?}", bad.replace('\'', ""))), "{told}");
        }
    }
    let mut tried: Vec<&str> = VALUES.iter().map(|(name, ..)| *name).collect();
    let mut known: Vec<&str> = flags::all().map(|flag| flag.name).collect();
    tried.sort_unstable();
    known.sort_unstable();
    assert_eq!(tried, known, "a flag without a value to try, or the other way round");
}

#[test]
fn a_password_in_an_address_is_not_repeated() {
    let told = problem("--master=https://user:secret@");
    assert!(told.starts_with(r#"--master "https://***@": must be"#), "{told}");
}

/// The defaults that the help shows: given as a value, each must change nothing in any mode.
#[test]
fn the_help_shows_the_defaults_that_count() {
    // A sentence, no value.
    const WORDS: [&str; 1] = ["nodeport-addresses"];
    let bare = |line: &str| {
        let written = serde_json::Map::new();
        Settings { flags: Vec::new(), written, warnings: Vec::new(), ..settings(line) }
    };
    for mode in ["", "--proxy-mode=nftables", "--proxy-mode=ipvs", "--proxy-mode=userspace"] {
        let shown = flags::all().filter(|flag| !flag.default.is_empty());
        for flag in shown.filter(|flag| !WORDS.contains(&flag.name)) {
            if flag.name != "proxy-mode" || mode.is_empty() {
                let line = format!("{mode} --{}={}", flag.name, flag.default);
                assert_eq!(bare(&line), bare(mode), "{line}");
            }
        }
    }
    assert!(!help::text().contains("does not have"), "every mode is here");
}

#[test]
fn what_nothing_goes_by_is_said_once() {
    assert_eq!(
        settings("--config-sync-period=15m --show-hidden-metrics-for-version=1.35").warnings,
        [
            "--config-sync-period has no effect: what did not change is not handed on again, and watches list anew by themselves",
            "--show-hidden-metrics-for-version has no effect: no metric is hidden",
        ]
    );
    assert!(settings("--show-hidden-metrics-for-version=''").warnings.is_empty());
}

#[test]
fn every_flag_of_the_source_document_is_known() {
    let named = [
        "azure-container-registry-config",
        "bind-address",
        "bind-address-hard-fail",
        "cleanup",
        "cluster-cidr",
        "config",
        "config-sync-period",
        "conntrack-max-per-core",
        "conntrack-min",
        "conntrack-tcp-timeout-close-wait",
        "conntrack-tcp-timeout-established",
        "detect-local-mode",
        "feature-gates",
        "healthz-bind-address",
        "help",
        "hostname-override",
        "iptables-masquerade-bit",
        "iptables-min-sync-period",
        "iptables-sync-period",
        "ipvs-exclude-cidrs",
        "ipvs-min-sync-period",
        "ipvs-scheduler",
        "ipvs-strict-arp",
        "ipvs-sync-period",
        "ipvs-tcp-timeout",
        "ipvs-tcpfin-timeout",
        "ipvs-udp-timeout",
        "kube-api-burst",
        "kube-api-content-type",
        "kube-api-qps",
        "kubeconfig",
        "log-flush-frequency",
        "masquerade-all",
        "master",
        "metrics-bind-address",
        "nodeport-addresses",
        "oom-score-adj",
        "profiling",
        "proxy-mode",
        "proxy-port-range",
        "show-hidden-metrics-for-version",
        "udp-timeout",
        "version",
        "write-config-to",
    ];
    assert_eq!(named.len(), 44);
    for name in named {
        assert!(flags::find(name).is_some(), "{name}");
    }
}

#[test]
fn lists_add_up_and_scalars_do_not() {
    let s = settings("--nodeport-addresses=10.0.0.0/8 --nodeport-addresses 11.0.0.0/8,fd00::/8");
    let cidrs = ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"].map(|c| c.parse().unwrap()).to_vec();
    assert_eq!(s.node_port_addresses, NodePortAddresses::Cidrs(cidrs));
    assert_eq!(
        settings("--nodeport-addresses primary").node_port_addresses,
        NodePortAddresses::Primary
    );
    let s = settings("--feature-gates=AllAlpha=true --feature-gates AllBeta=false,AllAlpha=false");
    assert_eq!(
        s.feature_gates.into_iter().collect::<Vec<_>>(),
        [("AllAlpha".into(), false), ("AllBeta".into(), false)]
    );
    let s = settings("--vmodule=a=1,b=2 --vmodule=c=3");
    assert_eq!(s.logging.vmodule, [("c".to_owned(), 3)]);
    assert_eq!(problems("--nodeport-addresses=10.0.0.0/8,primary,x").len(), 2);
}

#[test]
fn local_detection_has_four_modes() {
    let bridge = settings("--detect-local-mode=BridgeInterface --pod-bridge-interface=cni0");
    assert_eq!(bridge.detect_local, DetectLocal::BridgeInterface("cni0".into()));
    let prefix =
        settings("--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=veth");
    assert_eq!(prefix.detect_local, DetectLocal::InterfaceNamePrefix("veth".into()));
    assert!(
        problem("--detect-local-mode=BridgeInterface").starts_with(r#"--pod-bridge-interface "":"#)
    );
    let slash = "--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=a/b";
    assert!(problem(slash).starts_with(r#"--pod-interface-name-prefix "a/b":"#));
    // CIDRs are not looked at where they don't count, as in the reference.
    assert_eq!(
        settings("--detect-local-mode=NodeCIDR --cluster-cidr=x").detect_local,
        DetectLocal::NodeCidr
    );
}

#[test]
fn servers_can_be_off() {
    let s = settings("--healthz-bind-address= --metrics-bind-address ''");
    assert_eq!((s.healthz, s.metrics), (None, None));
    let s = settings("--healthz-port=0 --metrics-bind-address=::1 --metrics-port=9");
    assert_eq!((s.healthz, s.metrics), (None, Some("[::1]:9".parse().unwrap())));
    assert_eq!(s.warnings.len(), 2);
    let s = settings("--healthz-bind-address=::");
    assert_eq!(s.healthz, Some("[::]:10256".parse().unwrap()));
}

#[test]
fn flags_of_other_modes_warn() {
    let s = settings(
        "--proxy-mode=nftables --iptables-masquerade-bit=15 --ipvs-scheduler=sh --udp-timeout=1s --boot-id-file=/x --iptables-sync-period=20s",
    );
    assert_eq!(
        s.warnings,
        [
            "--iptables-masquerade-bit has no effect in nftables mode",
            "--ipvs-scheduler has no effect in nftables mode",
            "--udp-timeout has no effect in nftables mode",
            "--boot-id-file has no effect: it was cAdvisor's, and nothing reads it",
        ]
    );
    assert_eq!((s.masquerade_bit, s.sync_period), (14, Duration::from_secs(20)));
}

#[test]
fn other_modes_are_one_clear_line() {
    assert_eq!(
        problem("--proxy-mode=userspaces"),
        r#"--proxy-mode "userspaces": must be one of iptables, ipvs, nftables, userspace"#
    );
    assert_eq!(
        problem("--proxy-mode=kernelspace"),
        r#"--proxy-mode "kernelspace": it is for Windows only; here is iptables, ipvs, nftables, userspace"#
    );
    assert_eq!(
        problem("--proxy-mode=NFTables"),
        r#"--proxy-mode "NFTables": must be one of iptables, ipvs, nftables, userspace"#
    );
    assert_eq!(settings("--proxy-mode ''").mode.as_str(), "iptables");
    assert!(matches!(parse("--cleanup --proxy-mode=ipvs"), Ok(Action::Cleanup(_))));
}

#[test]
fn the_source_is_manifests_or_a_server() {
    assert_eq!(settings("--manifests m").source, Source::Manifests("m".into()));
    let s = settings("--kubeconfig=/k --master=https://m");
    assert_eq!(
        s.source,
        Source::ApiServer { kubeconfig: Some("/k".into()), master: Some("https://m".into()) }
    );
    assert_eq!(
        problem("--manifests m --master=https://m"),
        "--manifests: takes the place of the API server: leave out --kubeconfig and --master"
    );
}

#[test]
fn the_node_name_is_lower_case_and_trimmed() {
    let words = [OsString::from("--hostname-override= Node-B ")];
    let Ok(Action::Run(s)) = parse_words(words.into_iter(), "x") else { panic!() };
    assert_eq!(&*s.node_name, "node-b");
    let blank =
        parse_words([OsString::from("--hostname-override=  ")].into_iter(), "x").unwrap_err();
    assert_eq!(blank.to_string(), r#"--hostname-override "  ": must be a name that is not blank"#);
    let nameless = parse_words([].into_iter(), "").unwrap_err();
    assert!(nameless.to_string().starts_with(r#"--hostname-override "":"#));
}

#[test]
fn actions_are_told_apart() {
    assert!(matches!(parse("--init-only"), Ok(Action::InitOnly(_))));
    assert!(matches!(parse("--cleanup"), Ok(Action::Cleanup(_))));
    assert!(
        matches!(parse("--write-config-to=/x --cleanup"), Ok(Action::WriteConfig(path, _)) if path.as_os_str() == "/x")
    );
    assert!(matches!(parse("--bogus --help"), Ok(Action::Help(_))));
    assert!(matches!(parse("-h"), Ok(Action::Help(_))));
    let version = format!("Kubernetes v1.36.0+rust.{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(parse("--version --bogus"), Ok(Action::Version(version)));
    assert!(
        matches!(parse("--version=raw"), Ok(Action::Version(text)) if text.contains("modes: iptables, ipvs, nftables, userspace"))
    );
    assert!(matches!(parse("--version=false --help=false"), Ok(Action::Run(_))));
}

#[test]
fn help_names_every_flag_under_a_heading() {
    let help = help::text();
    for flag in flags::all() {
        let name = if flag.name == "v" { "-v".to_owned() } else { format!("--{}", flag.name) };
        assert!(help.contains(&name), "{name}");
    }
    for (command, _) in super::ask::Name::ALL {
        assert!(help.contains(&format!("\n  kube-proxy {command} ")), "{command}");
    }
    for group in flags::GROUPS {
        assert!(help.contains(&format!("{}:", group.heading)));
        assert!(group.flags.is_sorted_by_key(|flag| flag.name), "{}", group.heading);
    }
    assert!(help.lines().all(|line| line.chars().count() <= 140), "a long line");
}

#[test]
fn completions_and_a_man_page_are_printed() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        match super::parse(["kube-proxy", "completion", shell]) {
            Ok(Action::Help(script)) => assert!(script.contains("nodeport-addresses"), "{shell}"),
            other => panic!("{shell}: {other:?}"),
        }
    }
    match super::parse(["kube-proxy", "man"]) {
        Ok(Action::Help(page)) => {
            assert!(page.contains(".TH kube-proxy 8"), "{page}");
            assert!(page.contains("nodeport\\-addresses"), "{page}");
            for question in ["trace FROM TO", "check", "dump", "replay FILE [FROM TO]", "names"] {
                assert!(page.contains(&format!("\n.SS kube\\-proxy {question}\n")), "{question}");
            }
            assert!(page.contains("\n\\fB\\-\\-what\\-if\\fR \\fICHANGE\\fR\n"), "{page}");
            assert!(page.contains("check \\-\\-from node\\-1.dump"), "{page}");
        }
        other => panic!("{other:?}"),
    }
    for words in [&["completion"][..], &["completion", "csh"], &["completion", "bash", "zsh"]] {
        let line = super::parse([&["kube-proxy"], words].concat()).unwrap_err().to_string();
        assert!(line.contains("one of bash, elvish, fish"), "{line}");
    }
}
