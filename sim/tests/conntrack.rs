//! Connections: states, timeouts, errors, strays, a full table.

mod support;

use sim::conntrack::{State, status};
use sim::packet::flags;
use sim::{Fate, Packet, Transport};
use std::time::Duration;
use support::{ip, services, tcp, udp};

#[test]
fn connections_live_and_die() {
    let mut node = services();
    let syn = tcp("10.1.0.2:40000", "10.96.0.1:443").arriving(node.cni0);
    let there = node.host.fate(&syn);
    let back = there.packet.answer().arriving(node.cni0);
    let state = |host: &sim::Host| {
        host.connections().first().map(|conn| (conn.state, conn.status & status::ASSURED != 0))
    };
    assert_eq!(state(&node.host), Some((State::SynSent, false)));
    node.host.fate(&back);
    assert_eq!(state(&node.host), Some((State::SynRecv, false)));
    node.host.fate(&syn.clone().with_flags(flags::ACK));
    assert_eq!(state(&node.host), Some((State::Established, true)));
    node.host.advance(Duration::from_secs(86_400));
    assert_eq!(
        node.host.fate(&syn.clone().with_flags(flags::ACK)).packet.dst,
        there.packet.dst,
        "the endpoint stays"
    );
    node.host.fate(&back.clone().with_flags(flags::RST));
    assert_eq!(state(&node.host), Some((State::Close, true)));
    node.host.advance(Duration::from_secs(11));
    assert!(node.host.connections().is_empty());
    node.host.fate(&udp("10.1.0.2:40000", "10.96.0.10:53").arriving(node.cni0));
    node.host.advance(Duration::from_secs(29));
    assert_eq!(node.host.connections().len(), 1);
    assert_eq!(node.host.forget_connections(|conn| conn.original.dst == ip("10.96.0.10")), 1);
    let sctp = Packet::sctp(
        "10.1.0.2:5".parse().expect("literal"),
        "10.1.0.3:6".parse().expect("literal"),
    )
    .arriving(node.cni0);
    assert_eq!(node.host.fate(&sctp).after.map(|conn| conn.state), Some(State::Close));
}

#[test]
fn an_icmp_error_is_translated_with_its_connection() {
    let mut node = services();
    let there = node.host.fate(&udp("10.1.0.2:40000", "10.96.0.10:53").arriving(node.cni0));
    let quoted = Some(Box::new(there.packet.clone()));
    let error = Packet::new(
        there.packet.dst,
        ip("10.1.0.2"),
        Transport::Icmp { kind: 3, code: 3, id: 0, inner: quoted },
    );
    let outcome = node.host.fate(&error.arriving(node.cni0));
    assert_eq!(
        (outcome.packet.src, outcome.packet.dst),
        (ip("10.96.0.10"), ip("10.1.0.2")),
        "{outcome}"
    );
    let Transport::Icmp { inner: Some(inner), .. } = outcome.packet.transport else {
        panic!("still an error")
    };
    assert_eq!((inner.dst, inner.dport()), (ip("10.96.0.10"), 53), "{inner}");
}

#[test]
fn a_stray_packet_is_picked_up_or_invalid() {
    let mut node = services();
    let stray =
        tcp("192.168.1.7:40000", "192.168.1.10:99").with_flags(flags::ACK).arriving(node.eth0);
    assert_eq!(node.host.fate(&stray).fate, Fate::Delivered);
    node.host.forget_connections(|_| true);
    node.host.sysctls_mut().nf_conntrack_tcp_loose = false;
    let outcome = node.host.fate(&stray);
    assert!(
        matches!(&outcome.fate, Fate::Dropped(place) if &*place.chain == "filter_in"),
        "ct state invalid drop: {outcome}"
    );
}

#[test]
fn a_full_table_takes_no_more() {
    let mut node = services();
    node.host.sysctls_mut().nf_conntrack_max = 1;
    let send = |port: u16| udp(&format!("10.1.0.2:{port}"), "10.96.0.10:53").arriving(3);
    assert!(matches!(node.host.fate(&send(1)).fate, Fate::Forwarded(_)));
    assert!(matches!(node.host.fate(&send(2)).fate, Fate::Unconfirmed(_)));
    assert_eq!(node.host.connections().len(), 1);
}

#[test]
fn a_masqueraded_port_that_is_taken_is_exchanged() {
    let mut node = services();
    let mut ports = std::collections::BTreeSet::new();
    for client in 1..=200 {
        let outcome = node
            .host
            .fate(&tcp(&format!("192.168.1.{client}:40000"), "10.96.0.1:443").arriving(node.eth0));
        if client != 10 {
            let (address, port) = outcome.snat.expect("the mark asks for it");
            assert_eq!(address, ip("10.1.0.1"));
            assert!(port >= 1024 && ports.insert((outcome.packet.dst, port)), "port {port} twice");
        }
    }
}
