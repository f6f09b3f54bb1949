//! How fast the simulator is: new connections a second through 10,000 services, and what batches cost.
//! `cargo run --release -p sim --example speed`

#[path = "../tests/support/mod.rs"]
mod support;

use sim::Packet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;
use support::bytes::Batch;
use support::planned;

/// Time this thread ran, which other work on the machine does not stretch as it does the clock's.
fn ran() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

const SERVICES: u32 = 10_000;

fn main() {
    let mut node = support::node();
    node.host.sysctls_mut().nf_conntrack_max = usize::MAX;
    let skeleton = planned::skeleton(10).end();
    node.host.nft_batch(&skeleton).unwrap_or_else(|error| panic!("{error}"));
    let mut all = Batch::default();
    planned::elements(&mut all, 0..SERVICES, 10);
    let bytes = all.end();
    let start = Instant::now();
    node.host.nft_batch(&bytes).unwrap_or_else(|error| panic!("{error}"));
    println!("batch of {} elements, {} bytes: {:?}", SERVICES * 11, bytes.len(), start.elapsed());

    let mut one = Batch::default();
    planned::elements(&mut one, SERVICES..SERVICES + 1, 1);
    let bytes = one.end();
    let start = Instant::now();
    node.host.nft_batch(&bytes).unwrap_or_else(|error| panic!("{error}"));
    println!("batch of 2 elements: {:?}", start.elapsed());

    for (what, source) in
        [("from pods", [10, 1, 0, 5]), ("from outside, masqueraded", [172, 20, 0, 5])]
    {
        let count = 500_000u32;
        let (start, began) = (Instant::now(), ran());
        let mut ended = 0u64;
        for n in 0..count {
            let service = IpAddr::V4(Ipv4Addr::from(planned::service(n % SERVICES)));
            let client = u32::from_be_bytes(source) + n / 60_000;
            let client = SocketAddr::new(Ipv4Addr::from(client).into(), (n % 60_000) as u16 + 1024);
            let packet = Packet::tcp(client, SocketAddr::new(service, 80))
                .arriving(if source[0] == 10 { node.cni0 } else { node.eth0 });
            let outcome = node.host.fate(&packet);
            ended += u64::from(outcome.dnat.is_some());
        }
        let (took, ran) = (start.elapsed(), ran() - began);
        assert_eq!(ended, u64::from(count), "every packet is translated");
        println!(
            "new connections {what}: {:.0} a second of this thread's time ({ran:.2} s; {took:?} on the clock for {count})",
            f64::from(count) / ran
        );
    }
}
