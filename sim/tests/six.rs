//! IPv6, and the expressions of tests/fixtures/six.nft as nft sends them.

mod support;

use sim::{Fate, Host, Packet, RejectWith};
use std::time::Duration;
use support::{Node, captured, ip, node, tcp};

fn load() -> Node {
    let mut node = node();
    let batches = captured(include_str!("fixtures/six.hex"));
    batches
        .iter()
        .for_each(|batch| node.host.nft_batch(batch).unwrap_or_else(|error| panic!("{error}")));
    node
}

fn rule(outcome: &sim::Outcome) -> Option<u64> {
    match &outcome.fate {
        Fate::Dropped(place) | Fate::Rejected(_, place) => place.rule,
        _ => None,
    }
}

#[test]
fn a_cluster_ip_of_ipv6_has_two_endpoints_and_is_masqueraded() {
    let mut node = load();
    let packet = tcp("[fd00:2::7]:4000", "[fd00:96::1]:80").arriving(node.eth0);
    let outcomes = node.host.outcomes(&packet);
    assert_eq!(outcomes.len(), 2);
    for (_, outcome) in &outcomes {
        assert!(matches!(outcome.fate, Fate::Forwarded(hop) if hop.link == node.cni0), "{outcome}");
        assert_eq!(outcome.packet.src, ip("fd00:10::1"));
        assert!(outcome.accepted);
    }
    let there = node.host.fate(&packet);
    let back = node.host.fate(&there.packet.answer().arriving(node.cni0));
    assert_eq!((back.packet.src, back.packet.dst), (ip("fd00:96::1"), ip("fd00:2::7")), "{back}");
}

#[test]
fn a_reset_answers_where_a_reset_is_asked_for() {
    let mut node = load();
    let outcome = node.host.fate(&tcp("[fd00:2::7]:4000", "[fd00:1::10]:23").arriving(node.eth0));
    assert!(matches!(outcome.fate, Fate::Rejected(RejectWith::TcpReset, _)), "{outcome}");
}

#[test]
fn fib_knows_local_addresses_and_return_paths() {
    let mut node = load();
    let at =
        |host: &mut Host, src: &str, dst: &str, link: u32| host.fate(&tcp(src, dst).arriving(link));
    let (eth0, cni0) = (node.eth0, node.cni0);
    assert_eq!(
        at(&mut node.host, "192.168.1.7:4000", "192.168.1.10:22", eth0).fate,
        Fate::Delivered
    );
    assert_eq!(
        at(&mut node.host, "192.168.1.7:4000", "192.168.1.10:10010", eth0).fate,
        Fate::Delivered
    );
    let wrong_link = at(&mut node.host, "192.168.1.7:4000", "192.168.1.10:80", cni0);
    assert!(matches!(wrong_link.fate, Fate::Dropped(_)), "{wrong_link}");
}

#[test]
fn a_limit_lets_three_pass_and_fills_again_with_time() {
    let mut node = load();
    let mut send = |port: u16, wait: u64| {
        node.host.advance(Duration::from_millis(wait));
        let packet = Packet::udp(
            format!("192.168.1.7:{port}").parse().expect("literal"),
            "192.168.1.10:99".parse().expect("literal"),
        );
        node.host.fate(&packet.arriving(node.eth0)).fate == Fate::Delivered
    };
    let passed: Vec<bool> = [(1, 0), (2, 0), (3, 0), (4, 0), (5, 500), (6, 100)]
        .map(|(port, wait)| send(port, wait))
        .to_vec();
    assert_eq!(passed, [true, true, true, false, true, false]);
}

#[test]
fn incremental_numbers_alternate() {
    let mut node = load();
    let mut send = |port: u16| {
        // UDP has no `tcp dport`, so the hash rule does not match and the counting one decides.
        let packet = Packet::udp(
            format!("192.168.1.7:{port}").parse().expect("literal"),
            "10.1.0.9:99".parse().expect("literal"),
        );
        node.host.fate(&packet.arriving(node.eth0))
    };
    let fates: Vec<Option<u64>> = (1..5).map(|port| rule(&send(port))).collect();
    assert_eq!((fates[0], fates[2]), (fates[0], fates[0]));
    assert!(fates[0].is_some() != fates[1].is_some() && fates[1] == fates[3], "{fates:?}");
}
