//! IPVS: its choices, connections and hooks. What is said of Linux was seen on 6.1.176 in a User Mode Linux guest; the answers stand
//! in tests/fixtures/ipvs/answers.txt, and are looked up there.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it says")]

mod support;

use sim::ipvs::{Destination, IpvsState, Scheduler, Service, ServiceKey, flags};
use sim::packet::flags::{ACK, FIN, RST, SYN};
use sim::{Fate, Host, Packet, RejectWith};
use std::time::Duration;
use support::bytes::{Batch, expr};
use support::ip;

const ANSWERS: &str = include_str!("fixtures/ipvs/answers.txt");

/// What the guest answered to the line that begins so.
fn answered(line: &str) -> &'static str {
    let found = ANSWERS.lines().find_map(|one| one.strip_prefix(line));
    found.unwrap_or_else(|| panic!("no line {line:?}")).trim()
}

struct Node {
    host: Host,
    client: u32,
    server: u32,
}

/// The guest's network: clients behind 10.0.0.1, servers 10.1.0.11 and on behind 10.1.0.1, the virtual address on a dummy.
fn node() -> Node {
    let mut host = Host::new(1);
    let client = host.add_link("c0");
    let server = host.add_link("s0");
    let dummy = host.add_link("kube-ipvs0");
    for (link, address, prefix) in [
        (client, "10.0.0.1", 24),
        (server, "10.1.0.1", 24),
        (dummy, "10.96.0.1", 32),
        (client, "fd00::1", 64),
        (server, "fd01::1", 64),
        (dummy, "fd96::1", 128),
    ] {
        host.add_address(link, ip(address), prefix);
    }
    Node { host, client, server }
}

fn key(protocol: u8, port: u16) -> ServiceKey {
    ServiceKey::new(protocol, ip("10.96.0.1"), port)
}

fn dest(last: usize, port: u16) -> Destination {
    Destination::new(ip(&format!("10.1.0.{last}")), port)
}

/// The node with a service (UDP 53 or TCP 80) and destinations 11, 12 … of these weights.
fn with(protocol: u8, service: impl FnOnce(Service) -> Service, weights: &[i32]) -> Node {
    let mut node = node();
    let port = if protocol == 17 { 53 } else { 80 };
    let key = key(protocol, port);
    node.host.ipvs_add_service(service(Service::new(key, Scheduler::Rr))).unwrap();
    for (index, weight) in weights.iter().enumerate() {
        node.host.ipvs_add_destination(&key, dest(11 + index, port).weighing(*weight)).unwrap();
    }
    node
}

fn by(scheduler: Scheduler, bits: u32) -> impl FnOnce(Service) -> Service {
    move |service| Service { scheduler, flags: bits, ..service }
}

impl Node {
    fn packet(&mut self, packet: Packet) -> sim::Outcome {
        self.host.receive(&packet, self.client)
    }

    fn udp(&mut self, source: &str) -> Option<String> {
        let packet = Packet::udp(source.parse().unwrap(), "10.96.0.1:53".parse().unwrap());
        let outcome = self.packet(packet);
        let text = outcome.packet.dst.to_string();
        matches!(outcome.fate, Fate::Forwarded(_))
            .then(|| text.rsplit(['.', ':']).next().unwrap_or("").to_owned())
    }

    /// The choices for so many new ports of one client.
    fn flows(&mut self, from: u16, count: u16) -> String {
        let all = (from..from + count).filter_map(|port| self.udp(&format!("10.0.0.2:{port}")));
        all.collect::<Vec<_>>().join(" ")
    }

    /// The choices for clients 10.0.0.2 and on.
    fn sources(&mut self, count: u16, port: u16) -> String {
        let all = (2..2 + count).filter_map(|last| self.udp(&format!("10.0.0.{last}:{port}")));
        all.collect::<Vec<_>>().join(" ")
    }

    fn tcp(&mut self, port: u16, bits: u8) -> sim::Outcome {
        let client = format!("10.0.0.2:{port}").parse().unwrap();
        self.packet(Packet::tcp(client, "10.96.0.1:80".parse().unwrap()).with_flags(bits))
    }

    /// A segment of the server a request went to.
    fn back(&mut self, request: &sim::Outcome, bits: u8) -> sim::Outcome {
        self.host.receive(&request.packet.answer().with_flags(bits), self.server)
    }

    fn state(&self, port: u16) -> IpvsState {
        let all = self.host.ipvs_connections();
        all.iter().find(|conn| conn.client.1 == port).expect("the connection is there").state
    }
}

#[test]
fn schedulers_that_go_round_choose_as_linux_does() {
    let cases = [
        (Scheduler::Rr, vec![1, 1, 1], 7, "rr weights=[1, 1, 1] :"),
        (Scheduler::Rr, vec![1, 0, 1], 6, "rr weights=[1, 0, 1] :"),
        (Scheduler::Wrr, vec![3, 2, 1], 14, "wrr weights=[3, 2, 1] :"),
        (Scheduler::Wrr, vec![4, 2], 8, "wrr weights=[4, 2] :"),
        (Scheduler::Wrr, vec![5, 0, 3], 10, "wrr weights=[5, 0, 3] :"),
        (Scheduler::Lc, vec![3, 2, 1], 13, "lc weights=[3, 2, 1] :"),
        (Scheduler::Wlc, vec![3, 2, 1], 13, "wlc weights=[3, 2, 1] :"),
        (Scheduler::Sed, vec![3, 2, 1], 13, "sed weights=[3, 2, 1] :"),
        (Scheduler::Nq, vec![3, 2, 1], 13, "nq weights=[3, 2, 1] :"),
    ];
    for (scheduler, weights, count, line) in cases {
        let mut node = with(17, by(scheduler, 0), &weights);
        assert_eq!(node.flows(1000, count), answered(line), "{line}");
    }
}

#[test]
fn rounds_go_on_when_destinations_change() {
    let key = key(17, 53);
    let mut node = with(17, by(Scheduler::Wrr, 0), &[3, 2, 1]);
    let mut seen = node.flows(1000, 4);
    node.host.ipvs_edit_destination(&key, dest(11, 53)).unwrap();
    seen = format!("{seen} {}", node.flows(2000, 8));
    assert_eq!(seen, answered("wrr 321, 4 flows, 11 to weight 1, 8 more:"));
    let mut node = with(17, by(Scheduler::Rr, 0), &[1, 1, 1]);
    let mut seen = node.flows(1000, 1);
    node.host.ipvs_delete_destination(&key, ip("10.1.0.13"), 53).unwrap();
    seen = format!("{seen} {}", node.flows(2000, 4));
    assert_eq!(seen, answered("rr, 1 flow, its dest deleted, 4 more:"));
    for (scheduler, weights, added, count, line) in [
        (Scheduler::Rr, [1, 1], 1, 4, "rr of 2, 1 flow, third added, 4 more:"),
        (Scheduler::Wrr, [2, 2], 4, 6, "wrr 22, 1 flow, third of 4 added, 6 more:"),
    ] {
        let mut node = with(17, by(scheduler, 0), &weights);
        let mut seen = node.flows(1000, 1);
        node.host.ipvs_add_destination(&key, dest(13, 53).weighing(added)).unwrap();
        seen = format!("{seen} {}", node.flows(2000, count));
        assert_eq!(seen, answered(line), "{line}");
    }
}

#[test]
fn schedulers_that_count_active_connections_choose_as_linux_does() {
    for (scheduler, line) in [(Scheduler::Sed, "sed [3,2,1]:"), (Scheduler::Nq, "nq [3,2,1]:")] {
        let mut node = with(6, by(scheduler, 0), &[3, 2, 1]);
        let mut seen = Vec::new();
        for port in 8000..8013 {
            let outcome = node.tcp(port, SYN);
            seen.push(outcome.packet.dst.to_string()[7..].to_owned());
        }
        assert_eq!(seen.join(" "), answered(line), "{line}");
    }
}

#[test]
fn hashes_choose_as_linux_does() {
    let (fallback, port) = (flags::FALLBACK, flags::PORT);
    let cases = [
        (Scheduler::Sh, vec![1, 1, 1], 0, "sh [1, 1, 1] :"),
        (Scheduler::Sh, vec![1, 2, 3], 0, "sh [1, 2, 3] :"),
        (Scheduler::Sh, vec![1, 0, 1], 0, "sh [1, 0, 1] :"),
        (Scheduler::Sh, vec![1, 0, 1], fallback, "sh [1, 0, 1] -b sh-fallback:"),
        (Scheduler::Sh, vec![1, 1, 1], port, "sh [1, 1, 1] -b sh-port:"),
        (Scheduler::Dh, vec![1, 1, 1], 0, "dh [1, 1, 1] :"),
        (Scheduler::Mh, vec![1, 1, 1], 0, "mh [1, 1, 1] :"),
        (Scheduler::Mh, vec![1, 2, 3], 0, "mh [1, 2, 3] :"),
        (Scheduler::Mh, vec![100, 200, 300], 0, "mh [100, 200, 300] :"),
        (Scheduler::Mh, vec![1, 1, 1], port, "mh [1, 1, 1] -b mh-port:"),
    ];
    for (scheduler, weights, bits, line) in cases {
        let mut node = with(17, by(scheduler, bits), &weights);
        let expected = answered(line).split(" |").next().unwrap_or("");
        assert_eq!(node.sources(32, 1000), expected, "{line}");
    }
    for source in [1001, 1002, 2000] {
        let mut node = with(17, by(Scheduler::Mh, port), &[1, 1, 1]);
        assert_eq!(node.sources(8, source), answered(&format!("mh-port source port {source}:")));
    }
}

#[test]
fn maglev_keeps_its_table_for_weight_zero_and_makes_it_anew_without_a_destination() {
    let key = key(17, 53);
    for (bits, line) in
        [(0, "mh 111, 12 to 0 :"), (flags::FALLBACK, "mh 111, 12 to 0 -b mh-fallback:")]
    {
        let mut node = with(17, by(Scheduler::Mh, bits), &[1, 1, 1]);
        node.host.ipvs_edit_destination(&key, dest(12, 53).weighing(0)).unwrap();
        assert_eq!(
            node.sources(32, 1000),
            answered(line).split(" |").next().unwrap_or(""),
            "{line}"
        );
    }
    let mut node = with(17, by(Scheduler::Mh, 0), &[1, 1, 1]);
    node.host.ipvs_delete_destination(&key, ip("10.1.0.12"), 53).unwrap();
    assert_eq!(node.sources(32, 1000), answered("mh 111, 12 deleted:"));
}

#[test]
fn hashes_of_ipv6_choose_as_linux_does() {
    for (scheduler, line) in [(Scheduler::Sh, "sh v6 111:"), (Scheduler::Mh, "mh v6 111:")] {
        let mut node = node();
        let key = ServiceKey::new(17, ip("fd96::1"), 53);
        node.host.ipvs_add_service(Service::new(key, scheduler)).unwrap();
        for last in ["b", "c", "d"] {
            node.host
                .ipvs_add_destination(&key, Destination::new(ip(&format!("fd01::{last}")), 53))
                .unwrap();
        }
        let mut seen = Vec::new();
        for last in 2..18 {
            let source = format!("[fd00::{last:x}]:1000").parse().unwrap();
            let outcome = node.packet(Packet::udp(source, "[fd96::1]:53".parse().unwrap()));
            seen.push(outcome.packet.dst.to_string().rsplit(':').next().unwrap_or("").to_owned());
        }
        assert_eq!(seen.join(" "), answered(line), "{line}");
    }
}

#[test]
fn a_destination_over_its_threshold_takes_no_more() {
    let mut node = with(17, by(Scheduler::Rr, 0), &[1, 1]);
    let bounded = Destination { upper: 2, lower: 1, ..dest(12, 53) };
    node.host.ipvs_edit_destination(&key(17, 53), bounded).unwrap();
    assert_eq!(node.flows(1000, 8), answered("rr, 12 has upper 2 lower 1:"));
    node.host.advance(Duration::from_secs(301));
    assert_eq!(node.flows(2000, 2), "12 11");
}

#[test]
fn nobody_to_choose_is_port_unreachable() {
    assert_eq!(answered("weight 0 udp:"), "Connection refused");
    for weights in [&[][..], &[0]] {
        let mut node = with(17, by(Scheduler::Rr, 0), weights);
        let outcome = node.packet(support::udp("10.0.0.2:5", "10.96.0.1:53"));
        assert!(
            matches!(outcome.fate, Fate::Rejected(RejectWith::UnreachableX(1), _)),
            "{outcome}"
        );
    }
    let mut node = with(17, by(Scheduler::Rr, 0), &[1]);
    let other = node.packet(support::udp("10.0.0.2:5", "10.96.0.1:54"));
    assert_eq!(other.fate, Fate::Delivered, "no service: it is the host's own");
}

#[test]
fn tcp_connections_move_live_and_expire() {
    let mut node = with(6, by(Scheduler::Rr, 0), &[1, 1]);
    let key = key(6, 80);
    let counts = |node: &Node, last: usize| {
        node.host.ipvs_counts(&key, ip(&format!("10.1.0.{last}")), 80).unwrap()
    };
    let request = node.tcp(5000, SYN);
    assert_eq!(request.packet.dst, ip("10.1.0.12"));
    assert_eq!(request.packet.src, ip("10.0.0.2"), "the source is untouched");
    assert_eq!((node.state(5000), counts(&node, 12)), (IpvsState::SynRecv, (1, 0, 0)));
    let answer = node.back(&request, SYN | ACK);
    assert_eq!((answer.packet.src, answer.packet.sport()), (ip("10.96.0.1"), 80), "{answer}");
    assert!(matches!(answer.fate, Fate::Forwarded(hop) if hop.link == node.client));
    node.tcp(5000, ACK);
    assert_eq!((node.state(5000), counts(&node, 12)), (IpvsState::Established, (1, 0, 0)));
    node.tcp(5000, FIN | ACK);
    assert_eq!((node.state(5000), counts(&node, 12)), (IpvsState::CloseWait, (0, 1, 0)));
    node.back(&request, FIN | ACK);
    assert_eq!(node.state(5000), IpvsState::TimeWait);
    let second = node.tcp(5001, SYN);
    node.back(&second, SYN | ACK);
    node.tcp(5001, ACK);
    node.back(&second, FIN | ACK);
    assert_eq!(node.state(5001), IpvsState::FinWait);
    node.tcp(5001, FIN | ACK);
    assert_eq!(node.state(5001), IpvsState::TimeWait);
    let refused = node.tcp(5002, SYN);
    node.back(&refused, RST | ACK);
    assert_eq!(node.state(5002), IpvsState::Close);
    node.host.advance(Duration::from_secs(11));
    assert_eq!(node.host.ipvs_connections().len(), 2);
    node.host.advance(Duration::from_secs(110));
    assert!(node.host.ipvs_connections().is_empty());
    assert_eq!((counts(&node, 11), counts(&node, 12)), ((0, 0, 0), (0, 0, 0)));
    assert!(matches!(node.tcp(5009, ACK).fate, Fate::Delivered), "no SYN, no connection");
}

#[test]
fn timeouts_follow_the_settings() {
    let mut node = with(17, by(Scheduler::Rr, 0), &[1]);
    node.host.ipvs_timeouts_mut().udp = Duration::from_secs(7);
    node.flows(1, 1);
    assert_eq!(node.host.ipvs_connections()[0].timeout, Duration::from_secs(7));
    node.host.advance(Duration::from_secs(7));
    assert!(node.host.ipvs_connections().is_empty());
}

#[test]
fn a_closed_port_that_comes_again_is_scheduled_anew_if_it_may() {
    for (mode, second) in [(0, "10.1.0.12"), (1, "10.1.0.11")] {
        let mut node = with(6, by(Scheduler::Rr, 0), &[1, 1]);
        node.host.ipvs_sysctls_mut().conn_reuse_mode = mode;
        let first = node.tcp(6000, SYN);
        node.back(&first, SYN | ACK);
        node.tcp(6000, ACK);
        node.tcp(6000, RST);
        assert_eq!(node.state(6000), IpvsState::Close);
        assert_eq!(node.tcp(6000, SYN).packet.dst, ip(second), "conn_reuse_mode {mode}");
    }
}

#[test]
fn a_persistent_client_stays_until_its_time_is_over() {
    let mut node = with(17, |service| service.persistent(100), &[1, 1, 1]);
    assert_eq!(node.flows(42_100, 3), "13 13 13");
    assert_eq!(node.udp("10.0.0.3:900").as_deref(), Some("12"));
    let all = node.host.ipvs_connections();
    assert_eq!(all.len(), 6);
    let template = all.iter().find(|conn| conn.client == (ip("10.0.0.2"), 0)).unwrap();
    assert_eq!(
        (template.timeout.as_secs(), template.real.1, template.state.name()),
        (100, 53, "NONE")
    );
    let persistent = node.host.ipvs_counts(&key(17, 53), ip("10.1.0.13"), 53).unwrap();
    assert_eq!(persistent, (0, 3, 1));
    node.host.advance(Duration::from_secs(101));
    let template =
        node.host.ipvs_connections().into_iter().find(|conn| conn.client.1 == 0).unwrap();
    assert_eq!(template.timeout.as_secs(), 59, "with its connections alive it gets a minute more");
    node.host.advance(Duration::from_secs(400));
    assert!(node.host.ipvs_connections().is_empty());
    assert_eq!(node.udp("10.0.0.2:1").as_deref(), Some("11"));
}

#[test]
fn persistence_looks_at_the_clients_network() {
    let network = |service: Service| Service { netmask: 0xffff_ff00, ..service.persistent(100) };
    let mut node = with(17, network, &[1, 1, 1]);
    assert_eq!(node.sources(3, 100), "13 13 13");
}

#[test]
fn weight_zero_ends_persistence_only_where_it_is_told_to() {
    for (quiescent, expected) in [(false, "13"), (true, "12")] {
        let mut node = with(17, |service| service.persistent(100), &[1, 1, 1]);
        node.host.ipvs_sysctls_mut().expire_quiescent_template = quiescent;
        node.udp("10.0.0.2:100");
        node.host.ipvs_edit_destination(&key(17, 53), dest(13, 53).weighing(0)).unwrap();
        assert_eq!(node.udp("10.0.0.2:101").as_deref(), Some(expected));
        assert_eq!(node.udp("10.0.0.2:100").as_deref(), Some("13"), "its connection goes on");
        let stale =
            node.host.ipvs_connections().iter().filter(|conn| conn.virt.1 == 65_535).count();
        assert_eq!(stale, usize::from(quiescent));
    }
}

#[test]
fn connections_of_a_removed_destination_wait_in_the_trash() {
    let key = key(17, 53);
    let mut node = with(17, by(Scheduler::Rr, 0), &[1, 1]);
    assert_eq!(node.flows(1000, 4), "12 11 12 11");
    node.host.ipvs_delete_destination(&key, ip("10.1.0.12"), 53).unwrap();
    assert!(matches!(
        node.packet(support::udp("10.0.0.2:1000", "10.96.0.1:53")).fate,
        Fate::Dropped(_)
    ));
    assert_eq!(node.host.ipvs_connections().len(), 4);
    node.host.ipvs_add_destination(&key, dest(12, 53)).unwrap();
    assert_eq!(node.host.ipvs_counts(&key, ip("10.1.0.12"), 53), Some((0, 2, 0)));
    assert_eq!(node.udp("10.0.0.2:1000").as_deref(), Some("12"));
    node.host.ipvs_sysctls_mut().expire_nodest_conn = true;
    node.host.ipvs_delete_destination(&key, ip("10.1.0.12"), 53).unwrap();
    assert_eq!(node.host.ipvs_connections().len(), 2);
    assert_eq!(node.udp("10.0.0.2:1000").as_deref(), Some("11"));
}

#[test]
fn one_packet_services_forget_each_packet() {
    let mut node = with(17, by(Scheduler::Rr, flags::ONE_PACKET), &[1, 1, 1]);
    let all: Vec<_> = (0..3).filter_map(|_| node.udp("10.0.0.2:77")).collect();
    assert_eq!(all, ["13", "12", "11"]);
    assert!(node.host.ipvs_connections().is_empty());
}

#[test]
fn marked_packets_find_the_service_of_their_mark() {
    let mut node = node();
    let key = ServiceKey::Mark { ipv6: false, mark: 7 };
    node.host.ipvs_add_service(Service::new(key, Scheduler::Rr)).unwrap();
    node.host.ipvs_add_destination(&key, dest(11, 0)).unwrap();
    let outcome = node.packet(support::udp("10.0.0.2:5", "10.96.0.1:99").marked(7));
    assert_eq!((outcome.packet.dst, outcome.packet.dport()), (ip("10.1.0.11"), 99), "{outcome}");
}

/// Masquerades everything to 10.1.0.0/24 after routing.
fn masquerade(host: &mut Host) {
    let mut batch = Batch::default();
    batch.table("m").base("m", "post", ("nat", 4, 100));
    let to_servers = [
        expr::payload(1, 16, 4, 1),
        expr::bitwise(1, 1, &[255, 255, 255, 0], &[0; 4]),
        expr::cmp(1, 0, &[10, 1, 0, 0]),
        expr::masquerade(0),
    ];
    batch.rule("m", "post", &to_servers);
    host.nft_batch(&batch.end()).unwrap();
}

#[test]
fn only_with_conntrack_is_a_request_masqueraded_and_its_answer_comes_back() {
    for (conntrack, source) in [(false, "10.0.0.2"), (true, "10.1.0.1")] {
        let mut node = with(6, by(Scheduler::Rr, 0), &[1]);
        masquerade(&mut node.host);
        node.host.ipvs_sysctls_mut().conntrack = conntrack;
        let request = node.tcp(7000, SYN);
        assert_eq!(request.packet.src, ip(source), "{request}");
        assert_eq!(request.dnat, None, "connection tracking knows of no translated destination");
        let answer = node.back(&request, SYN | ACK);
        assert_eq!(
            (answer.packet.src, answer.packet.dst),
            (ip("10.96.0.1"), ip("10.0.0.2")),
            "{answer}"
        );
        assert_eq!(node.host.connections().len(), usize::from(conntrack));
        if conntrack {
            let known = &node.host.connections()[0];
            assert_eq!((known.original.dst, known.reply.src), (ip("10.96.0.1"), ip("10.1.0.11")));
            node.tcp(7000, ACK);
            node.tcp(7000, RST);
            node.host.advance(Duration::from_secs(11));
            assert!(node.host.connections().is_empty(), "it goes with the connection of IPVS");
        }
    }
}

#[test]
fn a_process_of_the_host_reaches_the_service_from_the_virtual_address() {
    let mut node = with(6, by(Scheduler::Rr, 0), &[1]);
    let packet = support::tcp("10.96.0.1:5000", "10.96.0.1:80");
    let outcome = node.host.emit(&packet);
    assert!(matches!(outcome.fate, Fate::Sent(hop) if hop.link == node.server), "{outcome}");
    assert_eq!(outcome.packet.src, ip("10.96.0.1"), "somebody must masquerade it");
    let answer = node.back(&outcome, SYN | ACK);
    assert_eq!((&answer.fate, answer.packet.src), (&Fate::Delivered, ip("10.96.0.1")), "{answer}");
    let loopback = node.host.emit(&support::tcp("127.0.0.1:5", "10.96.0.1:80"));
    assert!(matches!(loopback.fate, Fate::Dropped(_)), "{loopback}");
}

#[test]
fn a_destination_on_the_host_itself_is_delivered_and_answers_as_the_service() {
    let mut node = node();
    let key = key(6, 80);
    node.host.ipvs_add_service(Service::new(key, Scheduler::Rr)).unwrap();
    node.host.ipvs_add_destination(&key, Destination::new(ip("10.0.0.1"), 8080)).unwrap();
    let request = node.tcp(5000, SYN);
    assert_eq!((&request.fate, request.packet.dport()), (&Fate::Delivered, 8080), "{request}");
    let answer = node.host.emit(&request.packet.answer());
    assert_eq!((answer.packet.src, answer.packet.sport()), (ip("10.96.0.1"), 80), "{answer}");
}

#[test]
fn a_virtual_address_that_is_not_local_is_only_forwarded() {
    let mut node = with(6, by(Scheduler::Rr, 0), &[1]);
    let dummy = node.host.link("kube-ipvs0").unwrap().index;
    node.host.remove_address(dummy, ip("10.96.0.1"));
    node.host.add_route((ip("0.0.0.0"), 0), Some(ip("10.0.0.254")), node.client);
    assert_eq!(node.tcp(5000, SYN).packet.dst, ip("10.96.0.1"));
}

#[test]
fn icmp_errors_follow_their_connection() {
    let mut node = with(17, by(Scheduler::Rr, 0), &[1]);
    let request = node.packet(support::udp("10.0.0.2:5", "10.96.0.1:53"));
    let unreachable = |quoted: Packet, from: &str, to: &str| {
        let transport =
            sim::Transport::Icmp { kind: 3, code: 3, id: 0, inner: Some(Box::new(quoted)) };
        Packet::new(ip(from), ip(to), transport)
    };
    let error = unreachable(request.packet.clone(), "10.1.0.11", "10.0.0.2");
    let seen = node.host.receive(&error, node.server);
    assert_eq!(seen.packet.src, ip("10.96.0.1"), "{seen}");
    let sim::Transport::Icmp { inner: Some(inner), .. } = &seen.packet.transport else { panic!() };
    assert_eq!(inner.dst, ip("10.96.0.1"));
    let answer = support::udp("10.96.0.1:53", "10.0.0.2:5");
    let seen = node.packet(unreachable(answer, "10.0.0.2", "10.96.0.1"));
    assert_eq!(seen.packet.dst, ip("10.1.0.11"), "{seen}");
}

#[test]
fn sctp_associations_open_and_close() {
    let mut node = node();
    let key = key(132, 80);
    node.host.ipvs_add_service(Service::new(key, Scheduler::Rr)).unwrap();
    node.host.ipvs_add_destination(&key, dest(11, 80)).unwrap();
    let init = Packet::sctp("10.0.0.2:5".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
    let chunk = |packet: &Packet, chunk: u8| {
        let transport =
            sim::Transport::Sctp { sport: packet.sport(), dport: packet.dport(), chunk };
        Packet { transport, ..packet.clone() }
    };
    let request = node.packet(init.clone());
    assert_eq!(request.packet.dst, ip("10.1.0.11"));
    let back = request.packet.answer();
    node.host.receive(&chunk(&back, 2), node.server);
    node.packet(chunk(&init, 10));
    node.host.receive(&chunk(&back, 11), node.server);
    assert_eq!(node.state(5), IpvsState::Established);
    node.packet(chunk(&init, 6));
    assert_eq!(node.state(5), IpvsState::Close);
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let mut node = with(17, |service| service.persistent(100), &[1, 1, 1]);
    node.udp("10.0.0.3:1");
    let before = (node.host.ipvs_connections(), node.host.ipvs_stats(&key(17, 53)));
    let packet = support::udp("10.0.0.2:5", "10.96.0.1:53").arriving(node.client);
    let outcomes = node.host.outcomes(&packet);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].1.packet.dst, ip("10.1.0.12"));
    assert_eq!((node.host.ipvs_connections(), node.host.ipvs_stats(&key(17, 53))), before);
    assert_eq!(node.udp("10.0.0.2:5").as_deref(), Some("12"));
}

impl Node {
    /// Where so many new connections of TCP go, each of which stays; nobody: a dash.
    fn stays(&mut self, count: u16) -> String {
        let one = |port| {
            let outcome = self.tcp(port, SYN);
            let text = outcome.packet.dst.to_string();
            match outcome.fate {
                Fate::Forwarded(_) => text.rsplit('.').next().unwrap_or("").to_owned(),
                _ => "-".to_owned(),
            }
        };
        (8000..8000 + count).map(one).collect::<Vec<_>>().join(" ")
    }
}

/// ip_vs_fo.c and ip_vs_ovf.c: a destination is full when it has more active connections than it weighs.
#[test]
fn the_largest_weight_is_asked_until_it_is_full() {
    let mut node = with(6, by(Scheduler::Fo, 0), &[1, 3, 2]);
    assert_eq!(node.stays(6), "12 12 12 12 12 12");
    node.host.ipvs_edit_destination(&key(6, 80), dest(12, 80).weighing(0)).unwrap();
    assert_eq!(node.tcp(1, SYN).packet.dst, ip("10.1.0.13"));
    let mut node = with(6, by(Scheduler::Ovf, 0), &[1, 3, 2]);
    assert_eq!(node.stays(10), "12 12 12 12 13 13 13 11 11 -");
}

/// ip_vs_lblc.c and ip_vs_lblcr.c: another is taken when one has more active connections than it weighs and the other less than
/// half of its weight.
#[test]
fn an_address_keeps_to_its_destination_while_that_bears_it() {
    let mut node = with(6, by(Scheduler::Lblc, 0), &[1, 1]);
    assert_eq!(node.stays(6), "12 12 11 11 11 11");
    node.host.ipvs_delete_destination(&key(6, 80), ip("10.1.0.11"), 80).unwrap();
    assert_eq!(node.tcp(1, SYN).packet.dst, ip("10.1.0.12"), "the one that was kept to is gone");
    let mut node = with(6, by(Scheduler::Lblcr, 0), &[1, 1]);
    assert_eq!(node.stays(7), "12 12 11 11 11 12 11");
    // In a day without a change the most loaded leaves; the connections have ended by then.
    let packet = Packet::tcp("10.0.0.2:9".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
    let before = format!("{:?}", node.host.ipvs_connections());
    node.host.outcomes(&packet.arriving(node.client));
    assert_eq!(format!("{:?}", node.host.ipvs_connections()), before, "a dry run keeps nothing");
}

#[test]
fn of_two_by_chance_the_less_loaded_is_chosen() {
    let mut node = with(6, by(Scheduler::Twos, 0), &[1, 1]);
    assert!(node.host.ipvs_set_counts(&key(6, 80), (ip("10.1.0.11"), 80), (9, 0, 0)));
    assert_eq!(node.host.ipvs_counts(&key(6, 80), ip("10.1.0.11"), 80), Some((9, 0, 0)));
    let packet = Packet::tcp("10.0.0.2:9".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
    let outcomes = node.host.outcomes(&packet.arriving(node.client));
    let mut seen: Vec<String> =
        outcomes.iter().map(|(chance, one)| format!("{chance} {}", one.packet.dst)).collect();
    seen.sort();
    // The kernel draws of one more than all weigh, which falls to the first: 12, the last added.
    assert_eq!(seen, ["1/9 10.1.0.11", "8/9 10.1.0.12"]);
}
