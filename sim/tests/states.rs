//! The states of TCP and SCTP connections after random packets: what Linux 6.18 held, replayed (tests/fixtures/states.py asks it).

mod support;

use sim::conntrack::status;
use sim::{Host, LOOPBACK, Packet, Step, Transport};
use support::bytes::{Batch, expr};
use support::ip;

/// A host on whose loopback link both ends are, with a rule that needs tracking.
fn host() -> Host {
    let mut host = Host::new(1);
    host.add_address(LOOPBACK, ip("10.9.0.1"), 32);
    host.add_address(LOOPBACK, ip("10.9.0.2"), 32);
    host.sysctls_mut().nf_conntrack_tcp_be_liberal = true;
    let mut batch = Batch::default();
    batch.table("t").base("t", "out", ("filter", 3, 0)).rule("t", "out", &[expr::ct(0, None, 1)]);
    host.nft_batch(&batch.end()).unwrap_or_else(|error| panic!("{error}"));
    host
}

fn packet(protocol: &str, way: &str, what: u8) -> Packet {
    let (src, dst, sport, dport) = match way {
        "o" => (ip("10.9.0.1"), ip("10.9.0.2"), 2000, 80),
        _ => (ip("10.9.0.2"), ip("10.9.0.1"), 80, 2000),
    };
    let transport = match protocol {
        "tcp" => Transport::Tcp { sport, dport, flags: what },
        _ => Transport::Sctp { sport, dport, chunk: what },
    };
    let packet = Packet::new(src, dst, transport);
    // states.py numbers all packets alike: its SYN/ACK acknowledges no SYN.
    if (protocol, what) == ("tcp", 18) { packet.outside_of_the_window() } else { packet }
}

/// What the simulator holds after a packet, in the words of states.list.
fn after(host: &mut Host, packet: &Packet) -> String {
    let journey = host.send(packet);
    let invalid =
        journey.steps.iter().any(|step| matches!(step, Step::Conntrack(what) if what == "invalid"));
    let held = host.connections().first().map_or("-".to_owned(), |conn| {
        let name = if conn.state.name() == "CLOSE" && conn.original.protocol == 132 {
            "CLOSED"
        } else {
            conn.state.name()
        };
        format!("{name}{}", if conn.status & status::ASSURED != 0 { "+" } else { "" })
    });
    format!("{}{held}", if invalid { "!" } else { "" })
}

#[test]
fn states_are_linux_s_after_every_packet() {
    let mut different = Vec::new();
    for line in include_str!("fixtures/states.list").lines() {
        let mut host = host();
        let (protocol, rest) = line.split_once(' ').expect("a protocol and packets");
        for (number, word) in rest.split(' ').enumerate() {
            let (sent, expected) = word.split_once('=').expect("a packet and a state");
            let (way, what) = sent.split_at(1);
            let found = after(&mut host, &packet(protocol, way, what.parse().expect("a number")));
            if found != expected {
                different.push(format!("packet {number} of: {line}\n    found {found}"));
                break;
            }
        }
    }
    assert!(different.is_empty(), "{} lines:\n{}", different.len(), different.join("\n"));
}
