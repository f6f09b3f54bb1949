//! Several hosts: pods on links or a bridge of a node, and a client outside. Connections go there and back, or end as the kernel's
//! sources say they end (net/ipv4/icmp.c, nf_reject_ipv4.c, tcp_ipv4.c, udp.c); not yet asked of a running kernel.

mod support;

use sim::conntrack::status;
use sim::packet::{flags, protocol};
use sim::world::{Ending, HostId, Leg, Next, World};
use sim::{Fate, Host, Packet};
use std::net::SocketAddr;
use support::bytes::{Batch, expr};
use support::{captured, ip, node, udp};

/// What every host in these tests is.
const OURS: &str = "a host of this world";

struct Cluster {
    world: World,
    node: HostId,
    outside: HostId,
    pods: Vec<HostId>,
}

#[derive(Clone, Copy, PartialEq)]
enum Pods {
    /// Each has a link of its own to the node, which routes between them.
    Routed,
    /// All are on the node's bridge, whose packets the node's hooks do not see.
    Bridged,
}

/// Pods 10.1.0.2 … 10.1.0.7 with sockets at 6443, 5353 and 8080.
fn cluster(rules: &[Vec<u8>], pods: Pods) -> Cluster {
    let mut made = node();
    rules
        .iter()
        .for_each(|batch| made.host.nft_batch(batch).unwrap_or_else(|error| panic!("{error}")));
    let (eth0, cni0) = (made.eth0, made.cni0);
    let mut c = Cluster {
        world: World::new(),
        node: HostId::default(),
        outside: HostId::default(),
        pods: Vec::new(),
    };
    c.node = c.world.add("node", made.host);
    let mut bridge = vec![(c.node, cni0)];
    for number in 2..=7 {
        let (pod, link) = add_pod(&mut c.world, number, pods);
        if pods == Pods::Bridged {
            bridge.push((pod, link));
        } else {
            let host = c.world.host_mut(c.node).expect(OURS);
            let veth = host.add_link(&format!("veth{number}"));
            host.add_route((ip(&format!("10.1.0.{number}")), 32), None, veth);
            host.add_route((ip(&format!("fd00:10::{number}")), 128), None, veth);
            c.world.join(&[(c.node, veth), (pod, link)]).expect("new links");
        }
        c.pods.push(pod);
    }
    c.world.join(&bridge).expect("new links");
    let mut host = Host::new(99);
    let link = host.add_link("eth0");
    host.add_address(link, ip("192.168.1.1"), 24);
    host.add_route((ip("10.0.0.0"), 8), Some(ip("192.168.1.10")), link);
    c.outside = c.world.add("outside", host);
    c.world.join(&[(c.node, eth0), (c.outside, link)]).expect("new links");
    c
}

fn add_pod(world: &mut World, number: u64, pods: Pods) -> (HostId, u32) {
    let mut host = Host::new(number);
    let link = host.add_link("eth0");
    let (four, six) = if pods == Pods::Bridged { (16, 64) } else { (32, 128) };
    host.add_address(link, ip(&format!("10.1.0.{number}")), four);
    host.add_address(link, ip(&format!("fd00:10::{number}")), six);
    host.add_route((ip("0.0.0.0"), 0), Some(ip("10.1.0.1")), link);
    host.add_route((ip("::"), 0), Some(ip("fd00:10::1")), link);
    let pod = world.add(&format!("pod{number}"), host);
    let sockets =
        [(protocol::TCP, 6443), (protocol::UDP, 5353), (protocol::TCP, 8080), (protocol::SCTP, 9)];
    for (number, port) in sockets {
        world.listen(pod, (number, at(&format!("[::]:{port}"))), "server").expect(OURS);
    }
    (pod, link)
}

fn services() -> Cluster {
    cluster(&captured(include_str!("fixtures/services.hex")), Pods::Routed)
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("a literal")
}

const ANY: &str = "0.0.0.0:0";

#[test]
fn a_connection_goes_there_and_back_across_hosts() {
    let mut c = services();
    let talk = c.world.connect(c.outside, at(ANY), at("10.96.0.1:443"), protocol::TCP).expect(OURS);
    assert_eq!(talk.end, Ending::Fine, "{talk}");
    let served = talk.served.clone().expect("a pod serves it");
    assert_eq!(served.flow.local.port(), 6443);
    assert_eq!(served.flow.remote.ip(), ip("192.168.1.10"), "masqueraded: {talk}");
    let conns = c.world.host(c.node).expect(OURS).connections();
    assert!(conns.len() == 1 && conns[0].state == sim::conntrack::State::TimeWait, "{conns:?}");
    let first = &talk.legs[..3];
    assert_eq!(
        first.iter().map(|leg| &*leg.host).collect::<Vec<_>>(),
        ["outside", "node", &*served.host]
    );
    assert_eq!(
        first.iter().map(|leg| leg.journey.outcome.packet.ttl).collect::<Vec<_>>(),
        [64, 63, 63]
    );
    assert_eq!(first[2].next, Next::Socket("server".into()));
    assert!(talk.to_string().contains("served by server on pod"), "{talk}");
}

#[test]
fn udp_sctp_and_echoes_are_answered() {
    let mut c = services();
    for (dst, number) in [
        ("10.96.0.10:53", protocol::UDP),
        ("10.1.0.3:9", protocol::SCTP),
        ("10.1.0.3:0", protocol::ICMP),
    ] {
        let talk = c.world.connect(c.pods[5], at(ANY), at(dst), number).expect(OURS);
        assert_eq!(talk.end, Ending::Fine, "{talk}");
        assert!(talk.served.is_some(), "{talk}");
    }
    let six = c
        .world
        .connect(c.pods[0], at("[::]:0"), at("[fd00:10::3]:6443"), protocol::TCP)
        .expect(OURS);
    assert_eq!(six.end, Ending::Fine, "{six}");
}

#[test]
fn rejects_and_closed_ports_are_answered_to_the_address_that_was_asked() {
    let mut c = services();
    let talk = c.world.connect(c.outside, at(ANY), at("10.96.0.40:80"), protocol::TCP).expect(OURS);
    assert_eq!(
        talk.end,
        Ending::Unreachable { kind: 3, code: 3, from: ip("192.168.1.10") },
        "{talk}"
    );
    c.world.close(c.pods[3], "server").expect(OURS);
    c.world.close(c.pods[4], "server").expect(OURS);
    let talk = c.world.connect(c.pods[0], at(ANY), at("10.96.0.10:53"), protocol::UDP).expect(OURS);
    assert_eq!(
        talk.end,
        Ending::Unreachable { kind: 3, code: 3, from: ip("10.96.0.10") },
        "translated back: {talk}"
    );
    let talk = c.world.connect(c.pods[0], at(ANY), at("10.1.0.3:1"), protocol::TCP).expect(OURS);
    assert_eq!(talk.end, Ending::Reset, "{talk}");
    let talk = c.world.connect(c.pods[0], at(ANY), at("10.1.0.3:1"), protocol::SCTP).expect(OURS);
    assert_eq!(talk.end, Ending::Reset, "{talk}");
    let talk =
        c.world.connect(c.pods[0], at("[::]:0"), at("[fd00:10::3]:1"), protocol::UDP).expect(OURS);
    assert_eq!(
        talk.end,
        Ending::Unreachable { kind: 1, code: 4, from: ip("fd00:10::3") },
        "{talk}"
    );
    let talk = c.world.connect(c.outside, at(ANY), at("10.96.0.50:80"), protocol::TCP).expect(OURS);
    assert!(
        matches!(talk.end, Ending::Silent(leg) if matches!(talk.legs[leg].journey.outcome.fate, Fate::Dropped(_))),
        "{talk}"
    );
}

#[test]
fn no_route_no_neighbour_and_no_time_left_are_answered() {
    let mut c = cluster(&[], Pods::Routed);
    let talk = c.world.connect(c.pods[0], at(ANY), at("10.1.9.9:80"), protocol::TCP).expect(OURS);
    assert_eq!(
        talk.end,
        Ending::Unreachable { kind: 3, code: 1, from: ip("192.168.1.10") },
        "{talk}"
    );
    let talk = c.world.connect(c.outside, at(ANY), at("10.1.9.9:80"), protocol::TCP).expect(OURS);
    assert_eq!(
        talk.end,
        Ending::Unreachable { kind: 3, code: 1, from: ip("192.168.1.10") },
        "{talk}"
    );
    let legs = c
        .world
        .send(c.outside, &Packet { ttl: 1, ..udp("192.168.1.1:5", "10.1.0.3:5353") })
        .expect(OURS);
    let told = &legs.last().expect("an answer").journey.outcome.packet;
    assert_eq!(told.to_string(), "icmp 11/0 id 0 192.168.1.10 → 192.168.1.1");
    // outside → node → outside …: 192.0.2/24 goes in circles.
    let link = c.world.host(c.outside).expect(OURS).links()[1].index;
    c.world.host_mut(c.outside).expect(OURS).add_route(
        (ip("192.0.2.0"), 24),
        Some(ip("192.168.1.10")),
        link,
    );
    let legs = c.world.send(c.pods[0], &udp("10.1.0.2:5", "192.0.2.1:9")).expect(OURS);
    assert!(
        (64..70).contains(&legs.len()),
        "the loop ends by the time to live: {} legs",
        legs.len()
    );
    let looped = |legs: &[Leg]| -> Vec<Fate> {
        let looped = legs.iter().filter(|leg| leg.next == Next::Looped);
        looped.map(|leg| leg.journey.outcome.fate.clone()).collect()
    };
    assert_eq!(looped(&legs), [Fate::Expired]);
    // One whose time ends on the straight way does not go in circles.
    let legs = c
        .world
        .send(c.outside, &Packet { ttl: 1, ..udp("192.168.1.1:5", "10.1.0.3:5353") })
        .expect(OURS);
    assert!(legs.iter().any(|leg| leg.journey.outcome.fate == Fate::Expired));
    assert_eq!(looped(&legs), []);
}

#[test]
fn a_client_resets_what_comes_from_an_address_it_did_not_ask() {
    let mut c = cluster(&captured(include_str!("fixtures/services.hex")), Pods::Bridged);
    // The endpoint is on the client's own bridge: its answer does not pass the node's hooks, where it would be translated back.
    let talk = c.world.open(c.pods[5], at(ANY), at("10.96.0.1:443"), protocol::TCP).expect(OURS);
    assert_eq!(talk.end, Ending::Reset, "{talk}");
    assert!(
        talk.legs.iter().any(|leg| &*leg.host == "pod7" && leg.next == Next::NoSocket),
        "{talk}"
    );
}

#[test]
fn a_stale_udp_entry_is_a_blackhole_until_it_is_forgotten() {
    let mut tracked = Batch::default();
    tracked.table("t").base("t", "b", ("filter", 0, 0)).base("t", "n", ("nat", 0, -100)).rule(
        "t",
        "b",
        &[expr::ct(0, None, 1)],
    );
    let mut c = cluster(&[tracked.end()], Pods::Routed);
    let client = at("192.168.1.1:40000");
    let asked = |c: &mut Cluster| {
        c.world.connect(c.outside, client, at("10.96.0.10:53"), protocol::UDP).expect(OURS)
    };
    let before = asked(&mut c);
    assert!(before.served.is_none(), "{before}");
    for batch in captured(include_str!("fixtures/services.hex")) {
        c.world
            .host_mut(c.node)
            .expect(OURS)
            .nft_batch(&batch)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    for _ in 0..10 {
        c.world.advance(std::time::Duration::from_secs(20));
        let stale = asked(&mut c);
        assert!(stale.served.is_none(), "each packet keeps the old entry alive: {stale}");
    }
    let gone = c.world.host_mut(c.node).expect(OURS).forget_connections(|conn| {
        conn.original.dst == ip("10.96.0.10") && conn.status & status::DST_NAT == 0
    });
    assert_eq!(gone, 1);
    let fresh = asked(&mut c);
    assert_eq!(fresh.end, Ending::Fine, "{fresh}");
}

#[test]
fn a_segment_outside_of_the_window_is_invalid_unless_liberal() {
    let mut c = cluster(
        &{
            let mut drop = Batch::default();
            let state = [
                expr::ct(0, None, 1),
                expr::bitwise(1, 1, &1u32.to_ne_bytes(), &[0; 4]),
                expr::cmp(1, 1, &[0; 4]),
            ];
            drop.table("t").base("t", "f", ("filter", 2, 0)).rule(
                "t",
                "f",
                &[state.to_vec(), vec![expr::verdict(0, None)]].concat(),
            );
            [drop.end()]
        },
        Pods::Routed,
    );
    let mut talk =
        c.world.open(c.outside, at(ANY), at("10.1.0.3:8080"), protocol::TCP).expect(OURS);
    c.world.talk(&mut talk);
    assert_eq!(talk.end, Ending::Fine, "{talk}");
    let late = Packet::tcp(talk.client.local, talk.client.remote)
        .with_flags(flags::ACK)
        .outside_of_the_window();
    let end = |c: &mut Cluster| {
        c.world.send(c.outside, &late).expect(OURS)[1].journey.outcome.fate.clone()
    };
    assert!(matches!(end(&mut c), Fate::Dropped(_)), "it is invalid, which the rule drops");
    c.world.host_mut(c.node).expect(OURS).sysctls_mut().nf_conntrack_tcp_be_liberal = true;
    assert!(matches!(end(&mut c), Fate::Forwarded(_)), "liberal");
}

#[test]
fn links_are_joined_once() {
    let mut c = cluster(&[], Pods::Routed);
    let again = c.world.join(&[(c.node, 2), (c.pods[0], 2)]).expect_err("joined already");
    assert!(again.contains("joined already"), "{again}");
    assert!(c.world.join(&[(c.node, 99)]).expect_err("no such link").contains("no link 99"));
}

#[test]
fn a_host_of_another_world_is_refused() {
    let mut other = World::new();
    let far = (0..20).map(|number| other.add("far", Host::new(number))).last().expect("twenty");
    let mut c = cluster(&[], Pods::Routed);
    let packet = udp("10.1.0.2:5", "10.1.0.3:5353");
    let talk = c.world.connect(far, at(ANY), at("10.1.0.3:6443"), protocol::TCP);
    let refused = [
        c.world.host(far).map(drop),
        c.world.host_mut(far).map(drop),
        c.world.name(far).map(drop),
        c.world.listen(far, (protocol::TCP, at("[::]:1")), "server"),
        c.world.close(far, "server"),
        c.world.send(far, &packet).map(drop),
        talk.map(drop),
    ];
    for answer in refused {
        assert_eq!(
            answer.expect_err("far").to_string(),
            "host 19 is not of this world, which has 8"
        );
    }
    let mut talk =
        c.world.open(c.pods[0], at(ANY), at("10.1.0.3:6443"), protocol::TCP).expect(OURS);
    talk.client.host = far;
    c.world.talk(&mut talk);
    assert!(matches!(talk.end, Ending::Silent(_)), "{:?}", talk.end);
}
