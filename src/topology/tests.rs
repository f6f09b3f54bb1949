//! Tables of clusters and what may be reached. Endpoints are written
//! `octet:flags@node#zone,zone%node,node`: flags R ready, S serving, T terminating, - none;
//! several slices are parted by `|`. This node is `me`. Numbers are lines of
//! upstream-behaviour.md.

use super::*;
use crate::model::{
    Conditions, Endpoint, EndpointSlice, Event, NamespacedName, Node, Protocol, SlicePort,
    TrafficPolicy,
};
use crate::track::Tracker;

fn names(text: Option<&str>) -> Vec<Arc<str>> {
    text.map(|t| t.split(',').map(Into::into).collect()).unwrap_or_default()
}

fn endpoint(text: &str) -> Endpoint {
    let (text, nodes) = text.split_once('%').map_or((text, None), |(a, b)| (a, Some(b)));
    let (text, zones) = text.split_once('#').map_or((text, None), |(a, b)| (a, Some(b)));
    let (text, node) = text.split_once('@').map_or((text, None), |(a, b)| (a, Some(b)));
    let (octet, flags) = text.split_once(':').unwrap();
    let hinted = nodes.is_some() || zones.is_some();
    Endpoint {
        address: format!("10.1.0.{octet}").parse().unwrap(),
        conditions: Conditions {
            ready: flags.contains('R'),
            serving: flags.contains('S') || flags.contains('R'),
            terminating: flags.contains('T'),
        },
        node: node.map(Into::into),
        hints: hinted.then(|| Arc::new(Hints { zones: names(zones), nodes: names(nodes) })),
    }
}

fn slice(index: usize, endpoints: &str) -> EndpointSlice {
    EndpointSlice {
        name: NamespacedName::new("ns", format!("web-{index}")),
        service: NamespacedName::new("ns", "web"),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.split_whitespace().map(endpoint).collect(),
        trigger_time: None,
    }
}

/// Two letters: internal and external policy, each `C` or `L`; `-` for not reachable from outside.
fn service(policies: &str) -> Service {
    let policy = |c| if c == 'L' { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let letters: Vec<char> = policies.chars().collect();
    Service {
        name: NamespacedName::new("ns", "web"),
        created: 0,
        cluster_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        external_policy: policy(letters[1]),
        internal_policy: policy(letters[0]),
        affinity: None,
        health_check_node_port: None,
        externally_accessible: letters[1] != '-',
        ipvs_scheduler: None,
        proxy_protocol: None,
        forget_tcp_flows: false,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
    }
}

fn cluster_of(zone: &str, slices: Vec<EndpointSlice>) -> Cluster {
    let mut tracker = Tracker::new("me".into());
    let zone = (!zone.is_empty()).then(|| zone.into());
    tracker.feed(Event::Node(Box::new(Node { name: "me".into(), zone, ..Node::default() })));
    for slice in slices {
        tracker.feed(Event::Slice(Box::new(slice)));
    }
    tracker.cluster().clone()
}

fn cluster(zone: &str, slices: &str) -> Cluster {
    cluster_of(zone, slices.split('|').enumerate().map(|(i, text)| slice(i, text)).collect())
}

fn octets(backends: &[Backend]) -> String {
    let octet = |b: &Backend| b.socket.address.to_string().rsplit('.').next().unwrap().to_owned();
    backends.iter().map(octet).collect::<Vec<_>>().join(" ")
}

fn reached(cluster: &Cluster, policies: &str) -> (String, String, bool) {
    let service = service(policies);
    let reach = reach(cluster, &service, &service.ports[0], Family::V4);
    (octets(&reach.cluster), octets(&reach.local), reach.any)
}

#[test]
fn what_may_be_reached() {
    // upstream line, policies, zone, slices → cluster list, local list, any
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str, &str, &str, bool)] = &[
        ("no endpoints",                           "C-", "", "", "", "", false),
        ("sorted over slices",                     "C-", "", "3:R 1:R | 2:R", "1 2 3", "", true),
        ("5: external Local without outside",      "C-", "", "1:R@me", "1", "", true),
        ("11: ready and terminating is ready",     "C-", "", "1:RT 2:ST", "1", "", true),
        ("13: not terminating beats terminating",  "C-", "", "1:ST 2:R | 1:R", "1 2", "", true),
        ("13: the same the other way round",       "C-", "", "1:R | 1:ST 2:R", "1 2", "", true),
        ("13: beats even a terminating ready one", "C-", "", "1:RT 2:R | 1:S", "2", "", true),
        ("13: of two ready beats not ready",       "C-", "", "1:- | 1:R", "1", "", true),
        ("13: of two equals the local one",        "LC", "", "1:R@you | 1:R@me", "1", "1", true),
        ("13: of two equals the first slice's",    "C-", "a", "1:R#a | 1:R#b 2:R#b", "1", "", true),
        ("13: once in one slice",                  "C-", "", "1:R 1:R", "1", "", true),
        ("15: ready only",                         "C-", "", "1:R 2:ST 3:- 4:S", "1", "", true),
        ("15: serving terminating as last resort", "C-", "", "2:ST 3:- 4:S 5:T", "2", "", true),
        ("15: last resort ignores topology",       "C-", "a", "1:ST#a 2:ST#b 3:ST", "1 2 3", "", true),
        ("15: not ready ones never",               "C-", "", "1:- 2:S 3:T", "", "", false),
        ("15: local falls back on its own",        "CL", "", "1:R@you 2:ST@me", "1", "2", true),
        ("15: local prefers its ready ones",       "CL", "", "1:R@you 2:ST@me 3:R@me", "1 3", "3", true),
        ("15: both fall back",                     "CL", "", "1:ST@you 2:ST@me", "1 2", "2", true),
        ("16: any, of the whole cluster",          "L-", "", "1:R@you", "", "", true),
        ("16: any counts the last resort",         "L-", "", "1:ST@you", "", "", true),
        ("16: any does not count not ready",       "L-", "", "1:S@you 2:T@me", "", "", false),
        ("16: local only",                         "L-", "", "1:R@you 2:R@me 3:R", "", "2", true),
        ("17: zone hints",                         "C-", "a", "1:R#a 2:R#b 3:R#a,b", "1 3", "", true),
        ("17: one ready one without hints",        "C-", "a", "1:R#a 2:R", "1 2", "", true),
        ("17: one not ready one without hints",    "C-", "a", "1:R#a 2:R#b 3:-", "1", "", true),
        ("17: one terminating one without hints",  "C-", "a", "1:R#a 2:R#b 3:ST", "1", "", true),
        ("17: none matches",                       "C-", "c", "1:R#a 2:R#b", "1 2", "", true),
        ("17: only a not ready one matches",       "C-", "c", "1:R#a 2:-#c", "1", "", true),
        ("17: no zone",                            "C-", "", "1:R#a 2:R#b", "1 2", "", true),
        ("17: zone \"\" never matches",            "C-", "", "1:R# 2:R#b", "1 2", "", true),
        ("17: node hints",                         "C-", "a", "1:R%me 2:R%you", "1", "", true),
        ("17: node hints before zone hints",       "C-", "a", "1:R#b%me 2:R#a%you", "1", "", true),
        ("17: no node matches, zones do",          "C-", "a", "1:R#b%you 2:R#a%you", "2", "", true),
        ("17: one without node hint, zones do",    "C-", "a", "1:R#a%me 2:R#b", "1", "", true),
        ("17: no node and no zone matches",        "C-", "c", "1:R#b%you 2:R#a%you", "1 2", "", true),
        ("18: Local ignores hints",                "CL", "a", "1:R@me#b 2:R@you#a", "2", "1", true),
        ("18: Local only ignores hints",           "L-", "a", "1:R@me#b 2:R@you#a", "", "1", true),
        ("27: cluster list for external Local",    "LL", "", "1:R@you 2:R@me", "1 2", "2", true),
        ("inside Local, outside Cluster",          "LC", "", "1:R@you 2:R@me", "1 2", "2", true),
        ("inside Cluster, outside Cluster",        "CC", "", "1:R@you 2:R@me", "1 2", "", true),
        ("a nodeName of \"\" is nowhere",          "L-", "", "1:R@", "", "", true),
    ];
    for (what, policies, zone, slices, in_cluster, local, any) in cases {
        let got = reached(&cluster(zone, slices), policies);
        assert_eq!(got, ((*in_cluster).into(), (*local).into(), *any), "{what}: {slices}");
    }
}

#[test]
fn line_13_and_19_order_of_telling_does_not_matter() {
    let slices = [slice(0, "2:ST@me 1:R#a"), slice(1, "1:R#b 2:R@you"), slice(2, "2:S@me 3:R#b")];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let told = orders.map(|order| {
        let cluster = cluster_of("a", order.map(|i| slices[i].clone()).to_vec());
        let service = service("LC");
        reach(&cluster, &service, &service.ports[0], Family::V4)
    });
    assert!(told.iter().all(|reach| *reach == told[0]), "{told:?}");
}

#[test]
fn ports_match_by_name_and_protocol() {
    let port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
    let mut slice = slice(0, "1:R");
    slice.ports = vec![
        port("http", Protocol::Tcp, 8080),
        port("http", Protocol::Udp, 53),
        port("metrics", Protocol::Tcp, 9090),
        port("", Protocol::Tcp, 1),
    ];
    let cluster = cluster_of("", vec![slice]);
    let cases = [
        ("http", Protocol::Tcp, Some(8080)),
        ("http", Protocol::Udp, Some(53)),
        ("http", Protocol::Sctp, None),
        ("metrics", Protocol::Tcp, Some(9090)),
        ("", Protocol::Tcp, Some(1)),
        ("other", Protocol::Tcp, None),
    ];
    for (name, protocol, expected) in cases {
        let port = ServicePort { name: name.into(), protocol, port: 80, node_port: None };
        let reach = reach(&cluster, &service("C-"), &port, Family::V4);
        assert_eq!(reach.cluster.first().map(|b| b.socket.port), expected, "{name} {protocol}");
    }
}

#[test]
fn slices_may_have_different_numbers_for_one_port() {
    let mut other = slice(1, "1:R 2:R");
    other.ports[0].port = 8081;
    let cluster = cluster_of("", vec![slice(0, "1:R"), other]);
    let service = service("C-");
    let reach = reach(&cluster, &service, &service.ports[0], Family::V4);
    let sockets: Vec<String> = reach.cluster.iter().map(|b| b.socket.to_string()).collect();
    assert_eq!(sockets, ["10.1.0.1:8080", "10.1.0.1:8081", "10.1.0.2:8081"]);
}

#[test]
fn line_1_and_10_families_do_not_mix() {
    let mut six = slice(1, "");
    six.family = Family::V6;
    let address = |text: &str| Endpoint { address: text.parse().unwrap(), ..endpoint("1:R") };
    six.endpoints = vec![address("fd01::1"), address("10.1.0.9")].into();
    let cluster = cluster_of("", vec![slice(0, "1:R"), six]);
    let service = service("C-");
    let sockets = |family| {
        let reach = reach(&cluster, &service, &service.ports[0], family);
        reach.cluster.iter().map(|b| b.socket.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(sockets(Family::V4), ["10.1.0.1:8080"]);
    assert_eq!(sockets(Family::V6), ["[fd01::1]:8080"]);
}

#[test]
fn line_22_local_ready_endpoints_are_counted_by_address() {
    let mut metrics = slice(1, "1:R@me 5:R@me");
    metrics.ports[0] = SlicePort { name: "m".into(), protocol: Protocol::Udp, port: 9 };
    let portless = EndpointSlice { ports: Vec::new(), ..slice(2, "6:R@me") };
    let first = slice(0, "1:R@me 2:R@you 3:ST@me 4:-@me");
    let cluster = cluster_of("", vec![first, metrics, portless]);
    assert_eq!(local_ready(&cluster, &service("CL"), Family::V4), 2);
    assert_eq!(local_ready(&cluster, &service("CL"), Family::V6), 0);
}

#[test]
fn line_50_serving_counts_what_still_answers() {
    let cluster = cluster("a", "1:R#a 2:ST 3:S 4:T 5:R#b | 2:-");
    let service = service("C-");
    let serving = serving(&cluster, &service, &service.ports[0], Family::V4);
    let sockets: Vec<String> = serving.iter().map(ToString::to_string).collect();
    assert_eq!(sockets, ["10.1.0.1:8080", "10.1.0.3:8080", "10.1.0.5:8080"]);
}

#[test]
fn each_endpoint_has_a_verdict() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("C-", "", "1:R 2:- 3:T 4:ST", &["chosen for cluster traffic", "not ready", "terminating and no longer serving", "terminating, while others are ready"]),
        ("C-", "", "1:ST 2:S", &["chosen for cluster traffic: terminating, but nothing is ready", "not ready"]),
        ("C-", "", "1:ST 2:R | 1:R", &["chosen for cluster traffic", "a duplicate: told of better elsewhere", "chosen for cluster traffic"]),
        ("CL", "", "1:R@me 2:R@you", &["chosen for cluster and node-local traffic", "chosen for cluster traffic"]),
        ("CL", "", "1:ST@me 2:R@you", &["chosen for node-local traffic: terminating, but nothing is ready", "chosen for cluster traffic"]),
        ("L-", "", "1:R@me 2:R@you 3:R", &["chosen for node-local traffic", "not on this node but on you", "not on this node"]),
        ("L-", "", "1:R@me 2:ST@me", &["chosen for node-local traffic", "terminating, while others are ready"]),
        ("CL", "a", "1:R@me#b 2:R@you#a", &["chosen for node-local traffic", "chosen for cluster traffic"]),
        ("C-", "a", "1:R#a 2:R#b,c", &["chosen for cluster traffic", "hinted for zone b, c"]),
        ("C-", "a", "1:R%me 2:R%you", &["chosen for cluster traffic", "hinted for node you"]),
    ];
    for (policies, zone, slices, expected) in cases {
        let service = service(policies);
        let cluster = cluster(zone, slices);
        let verdicts = explain(&cluster, &service, &service.ports[0], Family::V4);
        let words: Vec<String> = verdicts.iter().map(|(_, v)| v.to_string()).collect();
        assert_eq!(words, *expected, "{policies} {slices}");
    }
}

#[test]
fn verdicts_and_lists_agree() {
    let states = ["R@me", "R@you#a", "ST@me#b", "S@you", "T@me", "R@me#a%me", "R@you#b%you"];
    for (i, a) in states.iter().enumerate() {
        for b in states {
            let text = format!("1:{a} 2:{b} 3:{} | 1:{b}", states[(i + 3) % states.len()]);
            for policies in ["C-", "L-", "CC", "CL", "LC", "LL"] {
                let cluster = cluster("a", &text);
                let service = service(policies);
                let reach = reach(&cluster, &service, &service.ports[0], Family::V4);
                let chosen: BTreeSet<Socket> =
                    reach.cluster.iter().chain(&reach.local).map(|b| b.socket).collect();
                let verdicts = explain(&cluster, &service, &service.ports[0], Family::V4);
                let said = verdicts.into_iter().filter_map(|(socket, verdict)| {
                    let chosen = matches!(verdict, Verdict::Chosen(_) | Verdict::LastResort(_));
                    chosen.then_some(socket)
                });
                assert_eq!(said.collect::<BTreeSet<_>>(), chosen, "{policies} {text}");
            }
        }
    }
}
