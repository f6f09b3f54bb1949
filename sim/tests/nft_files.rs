//! What nft itself sends for tests/fixtures/*.nft, replayed.

mod support;

use sim::{Family, Fate, Hop, RejectWith};
use support::{ip, services, tcp, udp};

#[test]
fn the_service_table_is_read_back() {
    let node = services();
    let table = node.host.nft().table(Family::Inet, "simfix").expect("the table was made");
    assert_eq!(table.comment().as_deref(), Some("what the simulator is fed"));
    let services = table.set("services").expect("the map was made");
    let described: Vec<String> =
        services.elements().iter().map(|element| element.describe()).collect();
    assert_eq!(
        described,
        [
            "10.96.0.1 . tcp . 443 : goto n3",
            "10.96.0.10 . udp . 53 : goto n2",
            "10.96.0.20 . tcp . 80 : goto n1",
            "10.96.0.30 . tcp . 80 : goto aff2"
        ]
    );
    assert_eq!(services.elements()[0].comment().as_deref(), Some("default/kubernetes:https"));
    assert_eq!(
        table.chain("pre").expect("it was made").base().expect("a base chain").priority,
        -100
    );
}

/// tests/fixtures/services.list is what `nft -a list ruleset` printed after the same batch.
#[test]
fn handles_are_the_kernels() {
    let node = services();
    let table = node.host.nft().table(Family::Inet, "simfix").expect("the table was made");
    let mut named = Vec::new();
    let mut rules = Vec::new();
    for line in include_str!("fixtures/services.list").lines() {
        let Some((text, handle)) = line.split_once("# handle ") else { continue };
        let handle: u64 = handle.parse().expect("a number");
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["table", ..] => assert_eq!(table.handle(), handle),
            ["chain" | "map" | "set", name, "{"] => named.push((name, handle)),
            _ => rules.push(handle),
        }
    }
    let chains = table.chains().into_iter().map(|chain| (chain.name(), chain.handle()));
    let sets = table
        .sets()
        .into_iter()
        .filter(|set| !set.name().starts_with("__"))
        .map(|set| (set.name(), set.handle()));
    let mut ours: Vec<_> = chains.chain(sets).collect();
    ours.sort();
    named.sort();
    assert_eq!(ours, named);
    let ours: Vec<u64> = table
        .chains()
        .iter()
        .flat_map(|chain| chain.rules().into_iter().map(|rule| rule.handle()).collect::<Vec<_>>())
        .collect();
    assert_eq!(ours, rules);
}

#[test]
fn a_cluster_ip_reaches_each_of_three_endpoints_with_one_third() {
    let mut node = services();
    let packet = tcp("192.168.1.77:40000", "10.96.0.1:443").arriving(node.eth0);
    let outcomes = node.host.outcomes(&packet);
    println!("{}", node.host.send(&packet));
    assert_eq!(outcomes.len(), 3);
    for (probability, outcome) in outcomes {
        assert_eq!(probability, sim::Probability::new(1, 3));
        assert_eq!(outcome.snat.map(|(address, _)| address), Some(ip("10.1.0.1")), "{outcome}");
        assert_eq!(outcome.packet.mark, 0);
    }
}

#[test]
fn a_reply_is_translated_back() {
    let mut node = services();
    let out = node.host.fate(&tcp("10.1.0.2:40000", "10.96.0.20:80").arriving(node.cni0));
    // The source range of this service has 10.1.0.2 not in it.
    assert!(matches!(out.fate, Fate::Dropped(_)), "{out}");
    let out = node.host.fate(&udp("10.1.0.2:40000", "10.96.0.10:53").arriving(node.cni0));
    assert_eq!(out.fate, Fate::Forwarded(Hop { link: node.cni0, next: out.packet.dst }), "{out}");
    assert_eq!(out.packet.dport(), 5353);
    let back = node.host.fate(&out.packet.answer().arriving(node.cni0));
    assert_eq!((back.packet.src, back.packet.sport()), (ip("10.96.0.10"), 53), "{back}");
    assert_eq!((back.packet.dst, back.packet.dport()), (ip("10.1.0.2"), 40000), "{back}");
}

#[test]
fn a_service_without_endpoints_rejects() {
    let mut node = services();
    let journey = node.host.send(&tcp("10.1.0.2:40000", "10.96.0.40:80").arriving(node.cni0));
    assert!(
        matches!(&journey.outcome.fate, Fate::Rejected(RejectWith::UnreachableX(1), place) if &*place.chain == "noep"),
        "{journey}"
    );
}

#[test]
fn affinity_keeps_the_endpoint_for_its_time() {
    let mut node = services();
    let first = node.host.fate(&tcp("10.1.0.2:40000", "10.96.0.30:80").arriving(node.cni0));
    let table = node.host.nft().table(Family::Inet, "simfix").expect("it was made");
    assert_eq!(table.set("affinity").expect("it was made").elements().len(), 1, "{first}");
    let again = node.host.outcomes(&tcp("10.1.0.2:40001", "10.96.0.30:80").arriving(node.cni0));
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1.packet.dst, first.packet.dst);
    node.host.advance(std::time::Duration::from_secs(3 * 3600 + 1));
    assert_eq!(
        node.host.outcomes(&tcp("10.1.0.2:40002", "10.96.0.30:80").arriving(node.cni0)).len(),
        2
    );
}
