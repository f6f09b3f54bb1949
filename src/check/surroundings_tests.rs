//! What is around the rules: settings, bridges, connections, addresses that two have. Each fault is
//! put into a survey by hand, and what looks like one and is none as well.

use super::tests::{checked, checked_for, finding};
use super::*;
use crate::api::{Decoder, decode_text};
use crate::kernel::survey::{ConnectionFact, LinkFact, RouteFact, Survey};
use crate::trace::load;
use crate::trace::tests::{events, survey};

#[test]
fn stale_connections_and_bridges_are_found() {
    let mut survey = survey();
    survey.flows.push(ConnectionFact {
        protocol: 6,
        original: [("1.1.1.1".parse().unwrap(), 9), ("10.96.0.10".parse().unwrap(), 80)],
        reply: [("10.9.9.9".parse().unwrap(), 80), ("1.1.1.1".parse().unwrap(), 9)],
        status: 1 << 5,
        mark: 0,
        timeout: 9,
        state: 3,
    });
    assert!(checked(survey.clone()).findings.is_empty(), "TCP ends by itself");
    survey.links[2].name = "cni0".into();
    let port = LinkFact {
        index: 6,
        name: "veth1".into(),
        bridge: Some(5),
        hairpin: Some(false),
        ..LinkFact::default()
    };
    survey.links.push(port);
    let found = checked(survey.clone()).findings;
    let causes: Vec<&str> = found.iter().map(|f| f.cause.as_str()).collect();
    assert!(
        causes.iter().any(|c| c.contains("hairpin_mode is off on veth1 of bridge cni0")),
        "{causes:?}"
    );
    assert!(causes.iter().any(|c| c.contains("br_netfilter")), "{causes:?}");
    survey.links[2].promiscuous = true;
    survey.sysctls.insert("net/bridge/bridge-nf-call-iptables".into(), "1".into());
    assert!(checked(survey).findings.is_empty());
}

fn link(index: u32, name: &str, addresses: &[(&str, u8)]) -> LinkFact {
    let addresses = addresses.iter().map(|(text, prefix)| (text.parse().unwrap(), *prefix));
    let (name, addresses) = (name.to_owned(), addresses.collect());
    LinkFact { index, name, addresses, up: true, ..LinkFact::default() }
}

/// The causes of a sort.
fn causes(report: &Report, sort: Sort) -> Vec<&str> {
    report.findings.iter().filter(|f| f.sort == sort).map(|f| f.cause.as_str()).collect()
}

/// A node whose way to the outside is another link than the one that has its address.
fn two_ways(settings: &[(&str, &str)]) -> Survey {
    let mut survey = survey();
    survey.links.push(link(6, "eth1", &[("192.168.7.2", 24)]));
    let gateway = Some("192.168.7.1".parse().unwrap());
    survey.routes[0] = RouteFact { gateway, link: 6, ..survey.routes[0].clone() };
    for (path, value) in settings {
        survey.sysctls.insert(format!("net/ipv4/conf/{path}"), (*value).to_owned());
    }
    survey
}

#[test]
fn a_filter_of_sources_is_named_with_link_and_value() {
    let found = finding(two_ways(&[("eth0/rp_filter", "1"), ("all/rp_filter", "0")]));
    assert_eq!(found.sort, Sort::Setting);
    let words = "packets from eth0 are not taken, since the way back to their source is by eth1: \
                 net.ipv4.conf.eth0.rp_filter is 1 (strict)";
    assert!(found.cause.starts_with(words), "{found:?}");
    assert!(found.example.unwrap().contains("→ 172.18.1.2:30080 by eth0"));
    // The greater of the two counts.
    let found = finding(two_ways(&[("eth0/rp_filter", "0"), ("all/rp_filter", "1")]));
    assert!(found.cause.contains("net.ipv4.conf.all.rp_filter is 1 (strict)"), "{found:?}");
    for loose in ["2", "0"] {
        let report = checked(two_ways(&[("eth0/rp_filter", loose)]));
        assert!(report.findings.is_empty(), "rp_filter {loose}: {report}");
    }
    // Loose asks for any way back.
    let mut lost = two_ways(&[("eth0/rp_filter", "2")]);
    lost.routes.remove(0);
    let world = load(lost);
    let packet =
        sim::Packet::tcp("203.0.113.9:1".parse().unwrap(), "172.18.1.2:2".parse().unwrap());
    let cause = martian::cause(&world, &packet.arriving(2));
    assert!(cause.contains("no way back") && cause.contains("eth0.rp_filter is 2"), "{cause}");
}

#[test]
fn own_and_loopback_addresses_from_a_link_are_named() {
    let cause = |from: &str, to: &str| {
        let packet = sim::Packet::tcp(from.parse().unwrap(), to.parse().unwrap());
        martian::cause(&load(two_ways(&[("eth0/accept_local", "0")])), &packet.arriving(2))
    };
    let own = cause("172.18.1.2:1", "10.96.0.10:80");
    assert!(own.contains("net.ipv4.conf.eth0.accept_local is 0"), "{own}");
    let loopback = cause("203.0.113.9:1", "127.0.0.1:80");
    assert!(loopback.contains("eth0.route_localnet is not known"), "{loopback}");
}

#[test]
fn an_address_that_two_links_have_is_found_where_it_is_a_fault() {
    let with = |links: &[LinkFact]| {
        let mut survey = survey();
        survey.links.extend(links.iter().cloned());
        checked(survey)
    };
    // Every pod's link has the same address as its gateway, and some have the node's own.
    let alone = [
        link(6, "veth6", &[("10.244.1.1", 32), ("fd00:1::1", 128)]),
        link(7, "veth7", &[("10.244.1.1", 32), ("fd00:1::1", 128), ("172.18.1.2", 32)]),
    ];
    let report = with(&alone);
    assert!(report.findings.is_empty(), "{report}");
    let twice = [link(6, "br6", &[("10.9.0.1", 24)]), link(7, "br7", &[("10.9.0.1", 24)])];
    let report = with(&twice);
    assert_eq!(
        causes(&report, Sort::DuplicateAddress),
        ["10.9.0.1/24 is on br6 and on br7"],
        "{report}"
    );
    // A link that is down has no routes.
    let [one, two] = twice;
    let report = with(&[one, LinkFact { up: false, ..two }]);
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn a_cluster_ip_that_a_link_has_is_found() {
    let with = |link: LinkFact| {
        let mut survey = survey();
        survey.links.push(link);
        checked(survey)
    };
    let report = with(link(6, "eth1", &[("10.96.0.10", 24)]));
    let found = causes(&report, Sort::DuplicateAddress);
    let words = "10.96.0.10, the cluster IP of default/web, is an address of link eth1";
    assert!(found.len() == 1 && found[0].starts_with(words), "{report}");
    // Caches of DNS have their Service's address on a link of their own.
    let cache = LinkFact { kind: "dummy".into(), ..link(6, "cache", &[("10.96.0.11", 32)]) };
    let report = with(cache);
    assert!(causes(&report, Sort::DuplicateAddress).is_empty(), "{report}");
    let left = LinkFact { kind: "dummy".into(), ..link(6, "kube-ipvs0", &[("10.96.0.11", 32)]) };
    let report = with(left);
    let found = causes(&report, Sort::DuplicateAddress);
    assert!(found.len() == 1 && found[0].contains("not ipvs mode"), "{report}");
}

#[test]
fn two_endpoints_of_one_address_are_found() {
    let with = |endpoints: &str| {
        let text = format!(
            "{{kind: EndpointSlice, metadata: {{name: o, namespace: other, labels: {{kubernetes.io/service-name: web}}}}, \
             addressType: IPv4, ports: [{{port: 80}}], endpoints: [{endpoints}]}}"
        );
        let mut all = events();
        let end = all.iter().position(|event| matches!(event, Event::ListEnded(_))).unwrap();
        all.splice(end..end, decode_text(&text, &mut Decoder::new("node-1")));
        let report = checked_for(&all, survey());
        causes(&report, Sort::DuplicateAddress).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // The one of default/web runs on node-2.
    let found = with("{addresses: [10.244.2.12], nodeName: node-3}");
    assert_eq!(
        found,
        [
            "endpoint 10.244.2.12 runs on node-2 (of default/web) and on node-3 (of other/web): two pods have one address"
        ]
    );
    let found = with("{addresses: [172.18.1.2], nodeName: node-3}");
    assert!(
        found.len() == 1 && found[0].contains("is an address of this node (node-1)"),
        "{found:?}"
    );
    for fine in [
        // The same pod once more, one in its node's own network, one that is gone, one of nowhere.
        "{addresses: [10.244.2.12], nodeName: node-2}",
        "{addresses: [172.18.1.2], nodeName: node-1}",
        "{addresses: [10.244.2.12], nodeName: node-3, conditions: {ready: false, serving: false, terminating: true}}",
        "{addresses: [10.244.2.12]}",
    ] {
        assert_eq!(with(fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_bridge_is_judged_in_each_family_that_it_carries() {
    let objects = "\
kind: Service
metadata: {name: six, namespace: default}
spec: {clusterIP: 'fd00:96::10', ports: [{port: 80}]}
---
kind: EndpointSlice
metadata: {name: six-1, namespace: default, labels: {kubernetes.io/service-name: six}}
addressType: IPv6
ports: [{port: 80}]
endpoints: [{addresses: ['fd00:1::11'], nodeName: node-1}]
";
    let mut all = events();
    let end = all.iter().position(|event| matches!(event, Event::ListEnded(_))).unwrap();
    all.splice(end..end, decode_text(objects, &mut Decoder::new("node-1")));
    let mut survey = survey();
    let port = LinkFact { bridge: Some(5), hairpin: Some(true), ..link(6, "veth1", &[]) };
    survey.links.push(port);
    survey.sysctls.insert("net/bridge/bridge-nf-call-iptables".into(), "1".into());
    survey.sysctls.insert("net/bridge/bridge-nf-call-ip6tables".into(), "0".into());
    let none = checked_for(&all, survey.clone());
    assert!(causes(&none, Sort::Bridge).is_empty(), "no pod of IPv6 is on it: {none}");
    survey.routes.push(RouteFact {
        network: ("fd00:1::11".parse().unwrap(), 128),
        gateway: None,
        link: 5,
        metric: 0,
    });
    let report = checked_for(&all, survey.clone());
    let found = causes(&report, Sort::Bridge);
    assert!(found.len() == 1 && found[0].contains("bridge-nf-call-ip6tables=1"), "{report}");
    survey.sysctls.insert("net/bridge/bridge-nf-call-ip6tables".into(), "1".into());
    let well = checked_for(&all, survey);
    assert!(causes(&well, Sort::Bridge).is_empty(), "{well}");
}
