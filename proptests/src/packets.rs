//! Packets worth sending into a cluster: every class of source to every address a Service has or
//! could have, on ports that are taken and ports that are not. Knows no proxy.
//! Tests: with the properties.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube_proxy::model::{Family, Protocol};

use crate::cluster::{Cluster, Setup};
use crate::fate::Packet;
use crate::oracle::entry;
use crate::vectors::ARRIVAL;

/// Sources: a pod, pods that are endpoints, outsiders in and out of source ranges, another node, a
/// load balancer, this node, its loopback.
const SOURCES: [&str; 16] = [
    "10.0.0.2",
    "10.180.0.1",
    "10.180.1.1",
    "203.0.113.2",
    "203.0.113.130",
    "192.168.0.9",
    "1.2.3.4",
    "192.168.0.2",
    "192.168.1.2",
    "127.0.0.1",
    "fd00:10::2",
    "fd00:10:180::1",
    "2600:5200::1",
    "2600:1234::1",
    "2001:db8::1",
    "::1",
];

/// Addresses no Service of ours has.
const ELSEWHERE: [&str; 4] = ["172.30.0.99", "8.8.8.8", "fd00:172:30::99", "2600:8888::8"];

/// Every packet worth sending.
pub fn all(setup: &Setup, cluster: &Cluster) -> Vec<Packet> {
    let mut packets = Vec::new();
    for (dest, protocol, port) in targets(setup, cluster) {
        for source in SOURCES.iter().filter_map(|s| s.parse::<IpAddr>().ok()) {
            let own = setup.is_own(source);
            let same_family = Family::of(source) == Family::of(dest);
            // Linux sends nothing from a loopback address to another host, not even after DNAT
            // (EINVAL), and takes nothing for one from a link.
            let lost =
                (source.is_loopback() && !dest.is_loopback()) || (dest.is_loopback() && !own);
            if !same_family || lost {
                continue;
            }
            let entry = entry(cluster, setup, source, ARRIVAL);
            packets.push(Packet { entry, source, protocol, dest, port });
        }
    }
    packets
}

fn targets(setup: &Setup, cluster: &Cluster) -> BTreeSet<(IpAddr, Protocol, u16)> {
    let mut own: Vec<IpAddr> = setup.addresses.clone();
    own.extend(["127.0.0.1", "::1"].iter().filter_map(|a| a.parse::<IpAddr>().ok()));
    let mut targets = BTreeSet::new();
    for service in &cluster.services {
        let addresses = || {
            service
                .cluster_ips
                .iter()
                .chain(&service.external_ips)
                .chain(&service.load_balancer_ips)
                .copied()
        };
        for port in &service.ports {
            targets.extend(addresses().map(|a| (a, port.protocol, port.port)));
            let node_port = Some(port.node_port).filter(|p| *p != 0);
            targets
                .extend(node_port.iter().flat_map(|p| own.iter().map(|a| (*a, port.protocol, *p))));
        }
        targets.extend(addresses().map(|a| (a, Protocol::Udp, 9999)));
        targets.extend(addresses().map(|a| (a, Protocol::Tcp, 443)));
        if service.health_port != 0 {
            targets.extend(own.iter().map(|a| (*a, Protocol::Tcp, service.health_port)));
        }
    }
    targets.extend(own.iter().map(|a| (*a, Protocol::Tcp, 9999)));
    targets.extend(ELSEWHERE.iter().filter_map(|a| a.parse().ok()).map(|a| (a, Protocol::Tcp, 80)));
    targets
}
