//! New connections a second through the table that the proxy itself made of 10,000 Services, on one
//! core of the simulated kernel.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use benches::cluster::{Cluster, Mix, Shape, cluster_ip, feed};
use benches::meter::measure;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kube_proxy::kernel::simulated::Simulated;
use kube_proxy::model::Family;
use kube_proxy::sync::Proxy;
use sim::Packet;

const SERVICES: usize = 10_000;
/// Connections of one measured round.
const ROUND: u32 = 10_000;

/// A node: eth0 with a default route, cni0 where pods live.
fn node() -> (sim::Host, u32, u32) {
    let mut host = sim::Host::new(1);
    let address = |text: &str| text.parse::<IpAddr>().expect("a constant address");
    let eth0 = host.add_link("eth0");
    let cni0 = host.add_link("cni0");
    host.add_address(eth0, address("172.18.0.1"), 16);
    host.add_address(cni0, address("11.255.0.1"), 16);
    host.add_route((address("0.0.0.0"), 0), Some(address("172.18.0.254")), eth0);
    host.sysctls_mut().nf_conntrack_max = usize::MAX;
    (host, eth0, cni0)
}

fn programmed() -> (Simulated, u32, u32) {
    let (host, eth0, cni0) = node();
    let kernel = Simulated::new(host);
    let families = vec![Family::V4];
    let shape = Shape { services: SERVICES, endpoints: 10, families, mix: Mix::Plain };
    let cluster = Cluster::new(shape);
    let mut proxy = Proxy::new(Box::new(kernel.clone()), cluster.options());
    feed(&mut proxy, &cluster);
    proxy.sync().expect("the simulator takes what Linux takes");
    (kernel, eth0, cni0)
}

fn packets(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulator, 10,000 Services");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::from(ROUND)));
    let (kernel, eth0, cni0) = programmed();
    let sources = [
        ("new connections from pods", Ipv4Addr::new(11, 255, 0, 5), cni0),
        ("new connections from outside, masqueraded", Ipv4Addr::new(172, 20, 0, 5), eth0),
    ];
    for (name, source, link) in sources {
        let mut sent = 0u32;
        let mut round = || {
            let mut host = kernel.host();
            host.forget_connections(|_| true);
            let send = |_| {
                sent += 1;
                let client = Ipv4Addr::from(u32::from(source) + sent / 60_000 % 256);
                let client = SocketAddr::new(client.into(), (sent % 60_000) as u16 + 1024);
                let service = cluster_ip(sent as usize % SERVICES, Family::V4);
                let packet = Packet::tcp(client, SocketAddr::new(service, 80)).arriving(link);
                let outcome = black_box(host.fate(&packet));
                assert!(outcome.dnat.is_some(), "every packet is translated");
            };
            // One core's time, whatever else runs on the machine.
            measure(|| (0..ROUND).for_each(send)).1.cpu
        };
        group.bench_function(name, |b| b.iter_custom(|rounds| (0..rounds).map(|_| round()).sum()));
    }
    group.finish();
}

criterion_group!(benches, packets);
criterion_main!(benches);
