//! What each kind of Service costs in each mode, to the rule and the byte: what coming, one endpoint
//! more, and going send to the kernel, beside a Service that is there already. A change that makes any of
//! it dearer has to say so here. Against the simulated kernel.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::tests::{NODE, feed, options, proxy_with, service, simulated, slice};
use super::*;
use crate::model::{Event, Mode, NamespacedName};

/// What there is beside.
const OTHER: &str = "10.96.0.99";
/// The Service's cluster IP.
const OWN: &str = "10.96.0.1";

/// A kind of Service: what it is called here, what its spec has more, and how many endpoints it has.
const KINDS: &[(&str, &str, usize)] = &[
    ("cluster IP, no endpoint", "", 0),
    ("cluster IP, 1 endpoint", "", 1),
    ("cluster IP, 10 endpoints", "", 10),
    ("… session affinity", ", sessionAffinity: ClientIP", 10),
    ("… internal policy Local", ", internalTrafficPolicy: Local", 10),
    ("… an external IP", ", externalIPs: [203.0.113.9]", 10),
    ("node port, 10 endpoints", NODE_PORT, 10),
    ("… policy Local", NODE_PORT_LOCAL, 10),
    ("load balancer, 10 endpoints", BALANCER, 10),
    ("… two source ranges", BALANCER_RANGES, 10),
];
const NODE_PORT: &str = ", type: NodePort";
const NODE_PORT_LOCAL: &str = ", type: NodePort, externalTrafficPolicy: Local";
const BALANCER: &str = ", type: LoadBalancer";
const BALANCER_RANGES: &str =
    ", type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24, 198.51.100.0/24]";

/// The Service with its slice, every second endpoint of which is on this node.
fn objects(more: &str, endpoints: usize) -> String {
    let mut text = service("web", OWN, more);
    if more.contains("type:") {
        text = text.replace("protocol: TCP}", "protocol: TCP, nodePort: 30080}");
    }
    if more.contains("LoadBalancer") {
        text.push_str("status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}\n");
    }
    let addresses: Vec<String> = (1..=endpoints).map(|n| format!("10.1.0.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut slice = slice("web", "TCP", &addresses);
    for address in addresses.iter().step_by(2) {
        let there = format!("[{address}], nodeName: there");
        slice = slice.replace(&there, &format!("[{address}], nodeName: {NODE}"));
    }
    text + &slice
}

fn gone() -> [Event; 2] {
    [
        Event::ServiceGone(NamespacedName::new("ns", "web")),
        Event::SliceGone(NamespacedName::new("ns", "web-1")),
    ]
}

/// What a sync did: rules that there are more or less in iptables mode, objects of the kernel that it
/// changed, bytes where it is told in bytes.
fn did(proxy: &mut Proxy, rules: &mut usize) -> String {
    let report = proxy.sync().unwrap();
    let mut said = format!("{} changes", report.operations);
    if report.bytes > 0 {
        write!(said, ", {} bytes", report.bytes).unwrap();
    }
    if !report.rules.is_empty() {
        let now = report.rules.values().map(|(all, _)| all).sum();
        write!(said, ", {:+} rules", now as i64 - *rules as i64).unwrap();
        *rules = now;
    }
    said
}

fn budgets(mode: Mode) -> String {
    let mut table = String::new();
    for (kind, more, endpoints) in KINDS {
        let options = Options { mode, families: vec![Family::V4], ..options() };
        let base = service("base", OTHER, "") + &slice("base", "TCP", &["10.1.1.1"]);
        let mut proxy = proxy_with(options, Box::new(simulated()), &base);
        let first = proxy.sync().unwrap();
        let mut rules = first.rules.values().map(|(all, _)| all).sum();
        proxy.sync().unwrap();
        writeln!(table, "{kind}").unwrap();
        feed(&mut proxy, &objects(more, *endpoints));
        writeln!(table, "    comes: {}", did(&mut proxy, &mut rules)).unwrap();
        feed(&mut proxy, &objects(more, endpoints + 1));
        writeln!(table, "    one endpoint more: {}", did(&mut proxy, &mut rules)).unwrap();
        gone().into_iter().for_each(|event| proxy.feed(event));
        writeln!(table, "    goes: {}", did(&mut proxy, &mut rules)).unwrap();
        assert_eq!(proxy.sync().map(|report| report.transactions), Ok(0), "{kind}");
    }
    table
}

fn check(mode: Mode, expected: &Expect) {
    expected.assert_eq(&budgets(mode));
}

#[test]
fn of_nftables_mode() {
    check(
        Mode::Nftables,
        &expect![[r#"
        cluster IP, no endpoint
            comes: 2 changes, 216 bytes
            one endpoint more: 4 changes, 432 bytes
            goes: 4 changes, 356 bytes
        cluster IP, 1 endpoint
            comes: 4 changes, 416 bytes
            one endpoint more: 7 changes, 960 bytes
            goes: 5 changes, 384 bytes
        cluster IP, 10 endpoints
            comes: 21 changes, 1556 bytes
            one endpoint more: 8 changes, 1040 bytes
            goes: 19 changes, 776 bytes
        … session affinity
            comes: 29 changes, 2932 bytes
            one endpoint more: 12 changes, 1732 bytes
            goes: 20 changes, 852 bytes
        … internal policy Local
            comes: 16 changes, 1336 bytes
            one endpoint more: 8 changes, 1040 bytes
            goes: 14 changes, 636 bytes
        … an external IP
            comes: 36 changes, 2476 bytes
            one endpoint more: 15 changes, 1572 bytes
            goes: 31 changes, 1108 bytes
        node port, 10 endpoints
            comes: 40 changes, 3504 bytes
            one endpoint more: 19 changes, 2688 bytes
            goes: 31 changes, 1180 bytes
        … policy Local
            comes: 48 changes, 5604 bytes
            one endpoint more: 24 changes, 4696 bytes
            goes: 38 changes, 1480 bytes
        load balancer, 10 endpoints
            comes: 55 changes, 4424 bytes
            one endpoint more: 26 changes, 3220 bytes
            goes: 43 changes, 1512 bytes
        … two source ranges
            comes: 58 changes, 4720 bytes
            one endpoint more: 26 changes, 3220 bytes
            goes: 46 changes, 1760 bytes
    "#]],
    );
}

#[test]
fn of_iptables_mode() {
    check(
        Mode::Iptables,
        &expect![[r#"
            cluster IP, no endpoint
                comes: 1 changes, 166 bytes, +1 rules
                one endpoint more: 8 changes, 830 bytes, +4 rules
                goes: 5 changes, 268 bytes, -5 rules
            cluster IP, 1 endpoint
                comes: 7 changes, 664 bytes, +5 rules
                one endpoint more: 7 changes, 696 bytes, +3 rules
                goes: 7 changes, 332 bytes, -8 rules
            cluster IP, 10 endpoints
                comes: 43 changes, 4258 bytes, +32 rules
                one endpoint more: 16 changes, 2140 bytes, +3 rules
                goes: 25 changes, 908 bytes, -35 rules
            … session affinity
                comes: 53 changes, 7209 bytes, +42 rules
                one endpoint more: 27 changes, 4567 bytes, +4 rules
                goes: 25 changes, 908 bytes, -46 rules
            … internal policy Local
                comes: 23 changes, 2260 bytes, +17 rules
                one endpoint more: 11 changes, 1339 bytes, +3 rules
                goes: 15 changes, 588 bytes, -20 rules
            … an external IP
                comes: 47 changes, 4604 bytes, +35 rules
                one endpoint more: 16 changes, 2140 bytes, +3 rules
                goes: 28 changes, 1103 bytes, -38 rules
            node port, 10 endpoints
                comes: 48 changes, 4751 bytes, +36 rules
                one endpoint more: 16 changes, 2140 bytes, +3 rules
                goes: 29 changes, 1250 bytes, -39 rules
            … policy Local
                comes: 56 changes, 5869 bytes, +43 rules
                one endpoint more: 23 changes, 3081 bytes, +4 rules
                goes: 31 changes, 1314 bytes, -47 rules
            load balancer, 10 endpoints
                comes: 49 changes, 4886 bytes, +37 rules
                one endpoint more: 16 changes, 2140 bytes, +3 rules
                goes: 30 changes, 1385 bytes, -40 rules
            … two source ranges
                comes: 54 changes, 5442 bytes, +41 rules
                one endpoint more: 16 changes, 2140 bytes, +3 rules
                goes: 33 changes, 1614 bytes, -44 rules
        "#]],
    );
}

#[test]
fn of_ipvs_mode() {
    check(
        Mode::Ipvs,
        &expect![[r#"
            cluster IP, no endpoint
                comes: 4 changes
                one endpoint more: 2 changes
                goes: 5 changes
            cluster IP, 1 endpoint
                comes: 6 changes
                one endpoint more: 1 changes
                goes: 5 changes
            cluster IP, 10 endpoints
                comes: 19 changes
                one endpoint more: 2 changes
                goes: 10 changes
            … session affinity
                comes: 19 changes
                one endpoint more: 2 changes
                goes: 10 changes
            … internal policy Local
                comes: 14 changes
                one endpoint more: 2 changes
                goes: 10 changes
            … an external IP
                comes: 33 changes
                one endpoint more: 3 changes
                goes: 14 changes
            node port, 10 endpoints
                comes: 32 changes
                one endpoint more: 3 changes
                goes: 13 changes
            … policy Local
                comes: 28 changes
                one endpoint more: 3 changes
                goes: 14 changes
            load balancer, 10 endpoints
                comes: 46 changes
                one endpoint more: 4 changes
                goes: 17 changes
            … two source ranges
                comes: 49 changes
                one endpoint more: 4 changes
                goes: 20 changes
        "#]],
    );
}
