//! How translations choose: addresses of a range, earlier mappings, ports. What Linux 6.18 chose is in tests/fixtures/spread.list
//! (tests/fixtures/spread.py asks it); the rest follows net/netfilter/nf_nat_core.c.

mod support;

use sim::conntrack::State;
use sim::packet::flags;
use sim::{Fate, Packet};
use std::net::IpAddr;
use support::bytes::{Batch, be32, expr};
use support::{Node, ip, node, tcp, udp};

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A node that gives packets of one family sources of a range of addresses and ports, with flags.
fn snat(addresses: (IpAddr, IpAddr), ports: Option<(u16, u16)>, flags: u32) -> Node {
    let mut node = node();
    let family = if addresses.0.is_ipv4() { 2u8 } else { 10 };
    let mut rule = vec![expr::meta(15, 1), expr::cmp(1, 0, &[family])];
    rule.extend([
        expr::immediate(1, &octets(addresses.0)),
        expr::immediate(2, &octets(addresses.1)),
    ]);
    let mut nat = vec![be32(1, 0), be32(2, family.into()), be32(3, 1), be32(4, 2)];
    if let Some((low, high)) = ports {
        rule.extend([
            expr::immediate(3, &low.to_be_bytes()),
            expr::immediate(4, &high.to_be_bytes()),
        ]);
        nat.extend([be32(5, 3), be32(6, 4)]);
    }
    nat.push(be32(7, flags));
    rule.push(expr::expr("nat", &nat));
    let mut batch = Batch::default();
    batch.table("t").base("t", "p", ("nat", 4, 100)).rule("t", "p", &rule);
    node.host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    node
}

fn one(address: &str, ports: Option<(u16, u16)>) -> Node {
    snat((ip(address), ip(address)), ports, 0)
}

#[test]
fn addresses_of_a_range_are_spread_as_linux_spreads_them() {
    let mut count = 0;
    for line in include_str!("fixtures/spread.list").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (src, dst, expected) = (ip(words[1]), ip(words[2]), ip(words[3]));
        let range = match src {
            IpAddr::V4(_) => (ip("172.16.0.10"), ip("172.16.1.99")),
            IpAddr::V6(_) => (ip("fd00:99::10"), ip("fd00:99::1:ffff")),
        };
        let mut node = snat(range, None, if words[0] == "persistent" { 8 } else { 0 });
        let packet = Packet::udp((src, 5100).into(), (dst, 9).into()).arriving(node.cni0);
        let outcome = node.host.fate(&packet);
        assert_eq!(outcome.packet.src, expected, "{line}: {outcome}");
        count += 1;
    }
    assert!(count >= 80, "only {count} lines");
}

#[test]
fn a_source_keeps_the_mapping_it_has() {
    let mut node = one("172.16.0.1", Some((2000, 3000)));
    let send = |node: &mut Node, dst: &str| {
        node.host.fate(&udp("10.1.0.5:40000", dst).arriving(node.cni0)).packet.sport()
    };
    let first = send(&mut node, "192.168.1.7:53");
    assert!((2000..=3000).contains(&first));
    for last in 11..40 {
        assert_eq!(
            send(&mut node, &format!("192.168.1.{last}:53")),
            first,
            "to every destination the same"
        );
    }
}

#[test]
fn when_no_port_is_left_the_packet_is_dropped() {
    let mut node = one("172.16.0.1", Some((2000, 2003)));
    let mut send = |source: u16| {
        let packet = udp(&format!("10.1.0.5:{source}"), "192.168.1.7:53").arriving(node.cni0);
        let outcome = node.host.fate(&packet);
        (outcome.fate, outcome.packet.sport())
    };
    let mut ports: Vec<u16> = (1..=4).map(|source| send(source).1).collect();
    ports.sort_unstable();
    assert_eq!(ports, [2000, 2001, 2002, 2003]);
    assert!(matches!(send(5).0, Fate::Unconfirmed(sim::Hook::Postrouting)));
}

#[test]
fn a_closed_connection_gives_its_port_away() {
    let mut node = one("172.16.0.1", Some((2000, 2001)));
    let cni0 = node.cni0;
    for source in [1, 2] {
        let syn = tcp(&format!("10.1.0.5:{source}"), "192.168.1.7:80").arriving(cni0);
        let there = node.host.fate(&syn).packet;
        node.host.fate(&there.answer().arriving(node.eth0));
        node.host.fate(&syn.clone().with_flags(flags::ACK));
    }
    let third = tcp("10.1.0.5:3", "192.168.1.7:80").arriving(cni0);
    assert!(matches!(node.host.fate(&third).fate, Fate::Unconfirmed(_)), "both ports are in use");
    node.host.fate(&tcp("10.1.0.5:1", "192.168.1.7:80").with_flags(flags::RST).arriving(cni0));
    assert!(node.host.connections().iter().any(|conn| conn.state == State::Close));
    assert!(matches!(node.host.fate(&third).fate, Fate::Forwarded(_)));
    assert_eq!(node.host.connections().len(), 2);
}

#[test]
fn identifiers_of_echoes_come_back() {
    let mut node = one("172.16.0.1", None);
    let cni0 = node.cni0;
    let ask = |source: &str| Packet::echo(ip(source), ip("192.168.1.7"), 7).arriving(cni0);
    for source in ["10.1.0.5", "10.1.0.6"] {
        let there = node.host.fate(&ask(source)).packet;
        let back = node.host.fate(&there.answer().arriving(node.eth0)).packet;
        assert_eq!(
            (back.dst, back),
            (
                ip(source),
                Packet { ttl: 63, entry: sim::Entry::Link(node.eth0), ..ask(source).answer() }
            )
        );
    }
}
