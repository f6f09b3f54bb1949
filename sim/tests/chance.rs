//! Chance: seeds, and every outcome without side effects.

mod support;

use sim::Fate;
use support::bytes::{Batch, expr};
use support::{Node, node, node_of, services, tcp, udp};

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut node = services();
        (0..50)
            .map(|port| {
                node.host.fate(
                    &tcp(&format!("192.168.1.77:{}", 40000 + port), "10.96.0.1:443")
                        .arriving(node.eth0),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn asking_for_outcomes_changes_nothing() {
    let (mut asked, mut unasked) = (services(), services());
    for port in 0..20 {
        let packet = tcp(
            &format!("10.1.0.2:{}", 40000 + port),
            if port % 2 == 0 { "10.96.0.30:80" } else { "10.96.0.1:443" },
        )
        .arriving(asked.cni0);
        asked.host.outcomes(&packet);
        asked.host.outcomes(&packet.answer());
        assert_eq!(asked.host.fate(&packet), unasked.host.fate(&packet));
        assert_eq!(asked.host.connections(), unasked.host.connections());
    }
}

/// `fully-random`, as linux/netfilter/nf_nat.h numbers it.
const RANDOM_FULLY: u32 = 1 << 4;

/// A node of this seed whose connections throw lots of a thousand, so many, and are masqueraded with flags.
fn drawing(seed: u64, lots: usize, flags: u32) -> Node {
    let mut node = node_of(seed);
    let mut rule: Vec<Vec<u8>> = (0..lots).map(|_| expr::numgen_random(1000, 1)).collect();
    rule.push(expr::masquerade(flags));
    let mut batch = Batch::default();
    batch.table("t").base("t", "p", ("nat", 4, 100)).rule("t", "p", &rule);
    node.host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    node
}

#[test]
fn fully_random_ports_differ_by_seed_and_are_the_same_for_the_same() {
    let ports = |seed: u64| {
        let mut node = drawing(seed, 0, RANDOM_FULLY);
        let one = |port: u16| {
            let packet = udp(&format!("10.1.0.2:{port}"), "192.168.1.77:53").arriving(node.cni0);
            node.host.fate(&packet).packet.sport()
        };
        (40_000..40_050).map(one).collect::<Vec<u16>>()
    };
    assert_eq!(ports(1), ports(1));
    let (one, two) = (ports(1), ports(2));
    let same = one.iter().zip(&two).filter(|(one, two)| one == two).count();
    assert!(same < 5, "{same} of 50 ports are the same with another seed");
    assert!(one.iter().all(|port| *port >= 1024));
}

#[test]
fn what_has_too_many_outcomes_says_how_much_is_unexplored() {
    let mut node = drawing(1, 3, 0);
    let packet = udp("10.1.0.2:40000", "192.168.1.77:53").arriving(node.cni0);
    let outcomes = node.host.outcomes(&packet);
    let all: f64 = outcomes.iter().map(|(probability, _)| probability.as_f64()).sum();
    assert!((all - 1.0).abs() < 1e-9, "{all}");
    let unexplored: Vec<f64> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.fate == Fate::Unexplored)
        .map(|(probability, _)| probability.as_f64())
        .collect();
    // A billion ways, of which a million were walked.
    assert!(matches!(unexplored[..], [left] if left > 0.99), "{unexplored:?}");
}

#[test]
fn the_symmetric_hash_is_the_same_in_both_directions_and_spreads() {
    let mut node = node();
    let mut batch = Batch::default();
    let mark = [expr::symhash(4, 8, 1), expr::set_mark(1)];
    batch.table("t").base("t", "p", ("filter", 0, 0)).rule("t", "p", &mark);
    node.host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    let mut seen = std::collections::BTreeMap::new();
    for port in 40_000..40_100 {
        let there = udp(&format!("10.1.0.2:{port}"), "192.168.1.77:53").arriving(node.cni0);
        let mark = node.host.fate(&there).packet.mark;
        let back = there.answer().arriving(node.eth0);
        assert_eq!(node.host.fate(&back).packet.mark, mark, "port {port}");
        *seen.entry(mark.swap_bytes()).or_insert(0) += 1;
    }
    let marks: Vec<u32> = seen.keys().map(|mark| mark.swap_bytes()).collect();
    assert_eq!(marks.len(), 4, "{seen:?}");
    assert!(marks.iter().all(|mark| (8..12).contains(mark)), "{marks:?}");
}
