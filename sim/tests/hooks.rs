//! The order of hooks and what NAT and tracking do at them. Each fact was seen on Linux 6.18 in a network namespace
//! with the rulesets of tests/fixtures (hooks.nft, loopback.nft), which nft sent and which are replayed here.

mod support;

use sim::{Family, Fate, Host};
use std::collections::BTreeMap;
use support::{Node, captured, ip, node, tcp, udp};

fn load(text: &str) -> Node {
    let mut node = node();
    captured(text)
        .iter()
        .for_each(|batch| node.host.nft_batch(batch).unwrap_or_else(|error| panic!("{error}")));
    node
}

/// The packets each commented counter counted.
fn counted(host: &Host, family: Family, table: &str) -> BTreeMap<String, u64> {
    let table = host.nft().table(family, table).expect("the table was loaded");
    let rules = table.chains().into_iter().flat_map(|chain| chain.rules());
    rules.filter_map(|rule| Some((rule.comment()?, rule.counters().first()?.0))).collect()
}

#[test]
fn of_equal_priorities_the_later_runs_first_and_nat_runs_at_its_own() {
    let mut node = load(include_str!("fixtures/hooks.hex"));
    node.host.emit(&udp("192.168.1.10:5000", "192.168.1.2:7"));
    let counted = counted(&node.host, Family::Ip, "hooks");
    let expected = [
        ("early: after nat", 1),
        ("early: before nat", 0),
        ("late: after nat", 0),
        ("late: before nat", 1),
        ("n1 after n2", 1),
        ("n2", 1),
        ("raw: not tracked yet", 1),
        ("tracked at -200", 1),
    ];
    assert_eq!(counted, expected.map(|(comment, count)| (comment.to_owned(), count)).into());
}

#[test]
fn a_local_packet_comes_back_in_by_lo_with_its_connection() {
    let mut node = load(include_str!("fixtures/loopback.hex"));
    let journey = node.host.send(&tcp("192.168.1.10:4000", "10.99.0.1:80"));
    assert_eq!(journey.outcome.fate, Fate::Delivered, "{journey}");
    let counted = counted(&node.host, Family::Ip, "loopback");
    let expected = [
        ("nat input", 0),
        ("nat postrouting", 1),
        ("nat prerouting", 0),
        ("output after dnat sees lo", 0),
        ("output after dnat still sees eth0", 1),
        ("prerouting again: new, translated, marked", 1),
    ];
    assert_eq!(
        counted,
        expected.map(|(comment, count)| (comment.to_owned(), count)).into(),
        "{journey}"
    );
}

#[test]
fn redirect_of_a_local_packet_goes_to_loopback_and_keeps_the_source() {
    let mut node = load(include_str!("fixtures/loopback.hex"));
    let outcome = node.host.emit(&tcp("192.168.1.10:4000", "192.168.1.2:81"));
    assert_eq!((outcome.packet.dst, outcome.packet.dport()), (ip("127.0.0.1"), 9), "{outcome}");
    assert_eq!(outcome.packet.src, ip("192.168.1.10"));
}

#[test]
fn masquerade_on_lo_takes_an_address_of_another_link() {
    let mut node = load(include_str!("fixtures/loopback.hex"));
    let outcome = node.host.emit(&tcp("127.0.0.1:5000", "127.0.0.1:9"));
    assert_eq!(outcome.packet.src, ip("192.168.1.10"), "{outcome}");
}

#[test]
fn without_a_rule_that_needs_it_nothing_is_tracked() {
    let mut node = node();
    let outcome = node.host.emit(&udp("192.168.1.10:5000", "192.168.1.2:7"));
    assert_eq!(outcome.after, None);
    assert!(node.host.connections().is_empty());
}
