//! What the simulator's tests share: batches captured from nft, a small encoder, and a node with pods.
//! The encoder is written by hand from linux/netfilter/nf_tables.h, and must never use the simulator's decoder.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod bytes;
pub mod planned;

use sim::{Host, Packet};

/// The bytes nft sent, from tests/fixtures (captured by tests/fixtures/capture.sh).
pub fn captured(text: &str) -> Vec<Vec<u8>> {
    let batch = |block: &str| {
        let digits: Vec<u8> = block.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |byte: u8| (byte as char).to_digit(16).expect("filtered above") as u8;
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    };
    text.split("\n\n").filter(|block| !block.trim().is_empty()).map(batch).collect()
}

/// A node: eth0 192.168.1.10/24 with a default route, cni0 10.1.0.1/24 where pods live.
pub struct Node {
    pub host: Host,
    pub eth0: u32,
    pub cni0: u32,
}

pub fn node() -> Node {
    node_of(1)
}

/// The node with chance of a seed.
pub fn node_of(seed: u64) -> Node {
    let mut host = Host::new(seed);
    let eth0 = host.add_link("eth0");
    let cni0 = host.add_link("cni0");
    host.add_address(eth0, ip("192.168.1.10"), 24);
    host.add_address(cni0, ip("10.1.0.1"), 16);
    host.add_address(eth0, ip("fd00:1::10"), 64);
    host.add_address(cni0, ip("fd00:10::1"), 64);
    host.add_route((ip("0.0.0.0"), 0), Some(ip("192.168.1.1")), eth0);
    host.add_route((ip("::"), 0), Some(ip("fd00:1::1")), eth0);
    Node { host, eth0, cni0 }
}

/// The node with the rules of tests/fixtures/services.nft.
pub fn services() -> Node {
    let mut node = node();
    for batch in captured(include_str!("../fixtures/services.hex")) {
        node.host
            .nft_batch(&batch)
            .unwrap_or_else(|error| panic!("what nft sent is refused: {error}"));
    }
    node
}

pub fn ip(text: &str) -> std::net::IpAddr {
    text.parse().expect("a literal address")
}

pub fn tcp(src: &str, dst: &str) -> Packet {
    Packet::tcp(src.parse().expect("a literal"), dst.parse().expect("a literal"))
}

pub fn udp(src: &str, dst: &str) -> Packet {
    Packet::udp(src.parse().expect("a literal"), dst.parse().expect("a literal"))
}
