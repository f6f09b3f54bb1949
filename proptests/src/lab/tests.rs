//! The ground itself, with rules written by hand for `nft`: every fate is told from the others.
//! Runs only with `NETLAB=required`: it needs root.

use std::collections::BTreeSet;

use super::*;
use kube_proxy::kernel::Socket;
use kube_proxy::model::Protocol;

const RULES: &str = r#"
table inet t {
  chain pre { type nat hook prerouting priority -100; jump nat; }
  chain out { type nat hook output priority -100; jump nat; }
  chain nat {
    meta l4proto { tcp, udp, sctp } th dport 80 meta nfproto ipv4 dnat ip to 10.1.0.1:8080
    meta l4proto { tcp, udp, sctp } th dport 80 meta nfproto ipv6 dnat ip6 to [fd10::1]:8080
    th dport 81 meta nfproto ipv4 meta mark set 1 dnat ip to numgen inc mod 2 map { 0 : 10.1.0.1, 1 : 10.1.0.2 }
    meta l4proto { tcp, udp, sctp } th dport 84 meta nfproto ipv4 dnat ip to 192.168.0.2:8080
  }
  chain f { type filter hook forward priority 0; jump check; }
  chain i { type filter hook input priority 0; jump check; }
  chain o { type filter hook output priority 0; jump check; }
  chain check {
    th dport 82 reject
    th dport 83 drop
  }
  chain post { type nat hook postrouting priority 100; meta mark 1 masquerade fully-random; }
}
"#;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet(entry: Entry, source: &str, dest: &str, port: u16) -> Packet {
    let (source, dest) = (address(source), address(dest));
    Packet { entry, source, protocol: Protocol::Tcp, dest, port }
}

fn fates(seen: &Seen) -> BTreeSet<Outcome> {
    seen.outcomes.iter().map(|(o, _)| o.clone()).collect()
}

fn to(text: &str, masquerade: Option<bool>) -> Outcome {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    Outcome::Dnat { endpoint: Socket { address: socket.ip(), port: socket.port() }, masquerade }
}

#[test]
fn every_fate_is_told_from_the_others_on_the_real_kernel() {
    let setup = Setup {
        addresses: vec![address("192.168.0.2"), address("2001:db8::1")],
        ..Setup::default()
    };
    let endpoints = ["10.1.0.1", "10.1.0.2", "fd10::1"].map(address);
    let sources = ["203.0.113.2", "2600::1"].map(address);
    if std::env::var("NETLAB").as_deref() != Ok("required") {
        println!("skipped: needs root and namespaces; NETLAB=required turns it on");
        return;
    }
    let mut ground = Ground::new(&setup, &endpoints, &sources).unwrap();
    ground.node.command("nft -f -", RULES).unwrap();
    let (link, node) = (Entry::Link(ARRIVAL.into()), Entry::Node);
    let mut packets = Vec::new();
    let mut wanted = Vec::new();
    let mut case = |packet: &Packet, outcomes: &[Outcome]| {
        for protocol in Protocol::ALL {
            packets.push(Packet { protocol, ..packet.clone() });
            wanted.push(outcomes.iter().cloned().collect::<BTreeSet<_>>());
        }
    };
    for (entry, four, six) in
        [(&link, "203.0.113.2", "2600::1"), (&node, "192.168.0.2", "2001:db8::1")]
    {
        let ask = |dest: &str, port| packet(entry.clone(), four, dest, port);
        case(&ask("1.2.3.4", 80), &[to("10.1.0.1:8080", Some(false))]);
        case(&ask("1.2.3.4", 81), &[to("10.1.0.1:81", Some(true)), to("10.1.0.2:81", Some(true))]);
        case(&ask("1.2.3.4", 82), &[Outcome::Reject]);
        case(&ask("1.2.3.4", 83), &[Outcome::Drop]);
        case(&ask("1.2.3.4", 84), &[to("192.168.0.2:8080", None)]);
        case(&ask("1.2.3.4", 85), &[Outcome::Untouched]);
        case(&ask("192.168.0.2", 80), &[to("10.1.0.1:8080", Some(false))]);
        case(&ask("192.168.0.2", 82), &[Outcome::Reject]);
        case(&ask("192.168.0.2", 83), &[Outcome::Drop]);
        case(&ask("192.168.0.2", 85), &[Outcome::Untouched]);
        let ask = |dest: &str, port| packet(entry.clone(), six, dest, port);
        case(&ask("fd99::1", 80), &[to("[fd10::1]:8080", Some(false))]);
        case(&ask("fd99::1", 82), &[Outcome::Reject]);
        case(&ask("fd99::1", 85), &[Outcome::Untouched]);
        case(&ask("2001:db8::1", 82), &[Outcome::Reject]);
        case(&ask("2001:db8::1", 83), &[Outcome::Drop]);
        case(&ask("2001:db8::1", 85), &[Outcome::Untouched]);
    }
    case(&packet(node.clone(), "127.0.0.1", "127.0.0.1", 85), &[Outcome::Untouched]);
    case(&packet(node, "::1", "::1", 85), &[Outcome::Untouched]);
    let seen = ground.ask(&packets, |i, seen| fates(seen) != wanted[i]).unwrap();
    for ((packet, seen), wanted) in packets.iter().zip(&seen).zip(&wanted) {
        assert_eq!(fates(seen), *wanted, "{packet}\n{}", seen.journey);
    }
}
