//! Rules of iptables as nf_tables carries them: the tool's own bytes must do with every packet what its text does, and
//! structs that are broken are refused at their byte.

mod support;

use proptest::prelude::*;
use sim::{Errno, Host, Packet, XtFamily, XtRestore};
use std::time::Duration;
use support::{Node, captured, node, tcp, udp};

const TEXT: &str = include_str!("fixtures/xtables/node.rules");
/// What iptables-nft-restore 1.8.9 sent for it (fixtures/xtables/capture.sh).
const BYTES: &str = include_str!("fixtures/xtables/node.hex");

fn by_text() -> Node {
    let mut node = node();
    let lines = TEXT.lines().filter(|line| !line.contains("multiport"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let how = XtRestore { noflush: true, counters: false };
    let done = node.host.iptables_restore(XtFamily::V4, &text, how);
    done.unwrap_or_else(|error| panic!("{error}"));
    node
}

fn by_bytes() -> Node {
    let mut node = node();
    for batch in captured(BYTES) {
        node.host.nft_batch(&batch).unwrap_or_else(|error| panic!("{error}"));
    }
    node
}

/// Addresses and ports that the rules know, and some that they do not.
const DESTINATIONS: [&str; 10] = [
    "10.96.0.1:80",
    "10.96.0.2:53",
    "10.96.0.3:80",
    "10.96.0.9:80",
    "192.168.1.10:30080",
    "192.168.1.10:8088",
    "127.0.0.1:30080",
    "10.1.0.7:80",
    "8.8.8.8:53",
    "203.0.113.5:80",
];
const SOURCES: [&str; 5] =
    ["10.1.0.5:1000", "10.1.0.7:1001", "192.168.1.77:1002", "192.168.1.10:1003", "127.0.0.1:1004"];

/// A packet that arrives over a link or is sent from here.
fn packet(node: &Node, (from, to, kind): (usize, usize, usize)) -> Packet {
    let (source, destination) = (SOURCES[from], DESTINATIONS[to]);
    let packet = if kind % 2 == 0 { tcp(source, destination) } else { udp(source, destination) };
    match source {
        _ if source.starts_with("10.1.") => packet.arriving(node.cni0),
        "192.168.1.77:1002" => packet.arriving(node.eth0),
        _ => packet,
    }
}

/// What becomes of it, without the names of rules: they are counted differently.
fn fates(host: &mut Host, packet: &Packet) -> Vec<String> {
    let outcomes = host.outcomes(packet);
    let mut all: Vec<String> = outcomes
        .iter()
        .map(|(chance, outcome)| {
            let fate = format!("{:?}", outcome.fate);
            let fate = fate.split("Place").next().unwrap_or_default().to_owned();
            format!("{chance:?} {fate} {:?} {:?} {:?}", outcome.packet, outcome.dnat, outcome.snat)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn the_tools_bytes_do_what_its_text_does_with_every_single_packet() {
    let (mut text, mut bytes) = (by_text(), by_bytes());
    let mut kinds = std::collections::BTreeSet::new();
    for from in 0..SOURCES.len() {
        for to in 0..DESTINATIONS.len() {
            for kind in 0..2 {
                let packet = packet(&text, (from, to, kind));
                let wanted = fates(&mut text.host, &packet);
                assert_eq!(fates(&mut bytes.host, &packet), wanted, "{packet:?}");
                kinds.insert(wanted);
            }
        }
    }
    assert!(kinds.len() > 20, "the packets are of many kinds: {}", kinds.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Clients that are remembered, connections that go on, lists that forget.
    #[test]
    fn histories_of_packets_are_the_same_both_ways(
        steps in prop::collection::vec(
            (0..SOURCES.len(), 0..DESTINATIONS.len(), 0..2usize, 0..4000u64), 1..40)
    ) {
        let (mut text, mut bytes) = (by_text(), by_bytes());
        for (from, to, kind, seconds) in steps {
            let packet = packet(&text, (from, to, kind));
            for node in [&mut text, &mut bytes] {
                let by = node.host.now() + Duration::from_secs(seconds);
                node.host.set_now(by);
            }
            prop_assert_eq!(fates(&mut bytes.host, &packet), fates(&mut text.host, &packet));
            let one = text.host.send(&packet).outcome;
            let two = bytes.host.send(&packet).outcome;
            prop_assert_eq!(&one.packet, &two.packet);
            for list in ["KUBE-SEP-DDDDDDDDDDDDDDDD", "KUBE-SEP-EEEEEEEEEEEEEEEE"] {
                prop_assert_eq!(text.host.recent(list), bytes.host.recent(list));
            }
        }
    }

    /// Whatever is changed in the tool's bytes, they are taken or refused at a byte within them.
    #[test]
    fn broken_bytes_never_end_the_simulator(
        (batch, at, value) in (0..3usize, any::<prop::sample::Index>(), any::<u8>())
    ) {
        let mut batches = captured(BYTES);
        let batch = batch.min(batches.len() - 1);
        let at = at.index(batches[batch].len());
        batches[batch][at] = value;
        let mut host = node().host;
        for (number, bytes) in batches.iter().enumerate() {
            let done = host.nft_batch(bytes);
            if let Err(error) = done {
                prop_assert!(number >= batch, "{}", error);
                prop_assert!(error.offset <= bytes.len(), "{}", error);
                break;
            }
        }
    }
}

#[test]
fn an_extension_that_is_not_modelled_is_named() {
    let mut batches = captured(BYTES);
    let wanted = b"addrtype\0";
    let batch = batches.iter_mut().find(|batch| batch.windows(9).any(|w| w == wanted));
    let batch = batch.expect("the rules ask addrtype");
    let at = batch.windows(9).position(|w| w == wanted).expect("found above");
    batch[at..at + 8].copy_from_slice(b"hashlimt");
    let mut host = node().host;
    let error = batches
        .iter()
        .find_map(|batch| host.nft_batch(batch).err())
        .expect("there is no such extension");
    assert_eq!((error.errno, error.offset), (Errno::ENOENT, at), "{error}");
    assert!(error.detail.contains("hashlimt"), "{error}");
}
