//! Two packets of one flow at the same moment. What Linux 6.18 did is in tests/fixtures/clash.list (tests/fixtures/clash.py asks it).

mod support;

use sim::packet::{Transport, flags};
use sim::{Fate, Hook, Host, Outcome, Packet};
use std::net::SocketAddr;
use support::bytes::{Batch, be32, expr};
use support::ip;

/// Where the script's queue holds the first packet: iptables' table mangle.
const HELD: (Hook, i32) = (Hook::Postrouting, -150);
const CLIENT: &str = "10.0.0.2:4000";

struct Node {
    host: Host,
    client: u32,
    server: u32,
}

/// The script's node with rules of a name.
fn node(rules: &str) -> Node {
    let mut host = Host::new(1);
    let (client, server) = (host.add_link("c"), host.add_link("s"));
    host.add_address(client, ip("10.0.0.1"), 24);
    host.add_address(server, ip("10.1.0.1"), 24);
    let mut batch = Batch::default();
    batch.table("t").base("t", "held", ("filter", 0, -150));
    batch.rule("t", "held", &[expr::ct(0, None, 1), expr::cmp(1, 1, &[0; 4])]);
    if ["plain", "one", "turns"].contains(&rules) {
        batch.base("t", "pre", ("nat", 0, -100));
    }
    if rules == "masquerade" {
        batch.base("t", "post", ("nat", 4, 100)).rule("t", "post", &[expr::masquerade(0)]);
    }
    let to_first = [dest("10.9.0.1"), vec![expr::immediate(1, &[10, 1, 0, 2]), dnat()]].concat();
    let turn = |number: u8, last: u8| {
        let lot = vec![incremental(2), expr::cmp(1, 0, &[number, 0, 0, 0])];
        [dest("10.9.0.1"), lot, vec![expr::immediate(1, &[10, 1, 0, last]), dnat()]].concat()
    };
    match rules {
        "one" => drop(batch.rule("t", "pre", &to_first)),
        // Each rule counts for itself: the second sees every other packet of the first's rest.
        "turns" => drop(batch.rule("t", "pre", &turn(0, 2)).rule("t", "pre", &{
            [dest("10.9.0.1"), vec![expr::immediate(1, &[10, 1, 0, 3]), dnat()]].concat()
        })),
        _ => {}
    }
    host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    Node { host, client, server }
}

fn dest(address: &str) -> Vec<Vec<u8>> {
    let std::net::IpAddr::V4(v4) = ip(address) else { return Vec::new() };
    vec![expr::payload(1, 16, 4, 1), expr::cmp(1, 0, &v4.octets())]
}

fn incremental(modulus: u32) -> Vec<u8> {
    expr::expr("numgen", &[be32(1, 1), be32(2, modulus), be32(3, 0), be32(4, 0)])
}

fn dnat() -> Vec<u8> {
    expr::expr("nat", &[be32(1, 1), be32(2, 2), be32(3, 1)])
}

fn packet(protocol: &str, to: SocketAddr) -> Packet {
    let from: SocketAddr = CLIENT.parse().expect("a literal");
    match protocol {
        "udp" => Packet::udp(from, to),
        "tcp" => Packet::tcp(from, to),
        _ => Packet::echo(from.ip(), to.ip(), from.port()),
    }
}

/// Where it came out, in the script's words.
fn came_out(outcome: &Outcome) -> String {
    let packet = &outcome.packet;
    match outcome.fate {
        Fate::Forwarded(_) => {
            let ports = match packet.transport {
                Transport::Icmp { .. } => (4000, 4000),
                _ => (packet.sport(), packet.dport()),
            };
            format!("{}:{}>{}:{}", packet.src, ports.0, packet.dst, ports.1)
        }
        _ => "lost".to_owned(),
    }
}

#[test]
fn a_packet_that_is_overtaken_ends_as_on_linux() {
    for line in include_str!("fixtures/clash.list").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [protocol, rules, ..] = words[..] else { panic!("{line}") };
        let mut node = node(rules);
        let target = if ["one", "turns"].contains(&rules) { "10.9.0.1:53" } else { "10.1.0.2:53" };
        let sent = packet(protocol, target.parse().expect("a literal")).arriving(node.client);
        let (first, second) = node.host.overtaken(&sent, HELD, std::slice::from_ref(&sent));
        let listed: Vec<String> = node
            .host
            .connections()
            .iter()
            .map(|c| {
                format!("{}/{}/{}/{}", c.original.src, c.original.dst, c.reply.src, c.reply.dst)
            })
            .collect();
        let mut said = vec![came_out(&first.outcome), came_out(&second[0]), listed.join("+")];
        for _ in 0..2 {
            said.push(match first.outcome.fate {
                Fate::Forwarded(_) if protocol != "tcp" => {
                    let answer = first.outcome.packet.answer().arriving(node.server);
                    came_out(&node.host.fate(&answer))
                }
                _ => "-".to_owned(),
            });
        }
        assert_eq!(said, words[2..], "{line}\n{first}");
    }
}

#[test]
fn the_slower_one_is_answered_for_a_second_and_no_longer() {
    let mut node = node("turns");
    let sent = packet("udp", "10.9.0.1:53".parse().expect("a literal")).arriving(node.client);
    let (first, _) = node.host.overtaken(&sent, HELD, std::slice::from_ref(&sent));
    let answer = first.outcome.packet.answer().arriving(node.server);
    node.host.advance(std::time::Duration::from_millis(900));
    assert_eq!(came_out(&node.host.fate(&answer)), "10.9.0.1:53>10.0.0.2:4000");
    node.host.advance(std::time::Duration::from_millis(200));
    assert_eq!(came_out(&node.host.fate(&answer)), "10.1.0.2:53>10.0.0.2:4000");
}

#[test]
fn who_does_not_get_there_is_not_overtaken() {
    let mut node = node("none");
    let sent = packet("udp", "10.1.0.2:53".parse().expect("a literal")).arriving(node.client);
    let (_, second) = node.host.overtaken(&sent, (Hook::Output, 0), std::slice::from_ref(&sent));
    assert_eq!(second.len(), 0);
    let reset = packet("tcp", "10.1.0.2:53".parse().expect("a literal")).with_flags(flags::RST);
    let (journey, second) =
        node.host.overtaken(&reset.arriving(node.client), HELD, &[sent.clone(), sent.clone()]);
    assert_eq!(second.len(), 2, "{journey}");
    assert!(journey.to_string().contains("overtaken by"), "{journey}");
}
