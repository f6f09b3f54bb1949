//! Clusters of N Services with M endpoints each, for loads and benchmarks. Their addresses are in
//! the lab's service range, above those of the examples, and endpoints are nowhere. Tests: below.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::plan;

/// First cluster IP of the bulk: 10.96.32.0. There is room for 57,344 Services.
const FIRST: u32 = 0x0a60_2000;
/// First endpoint address: 11.0.0.0, outside of every range of the plan.
const ENDPOINTS: u32 = 0x0b00_0000;

/// Cluster IP of the n-th Service.
pub fn cluster_ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + number as u32)
}

/// The Service and the EndpointSlice of one number.
pub fn service(number: usize, endpoints: usize) -> [Value; 2] {
    let name = format!("bulk-{number}");
    let address = cluster_ip(number).to_string();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "bulk",
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]},
    });
    let first = ENDPOINTS + (number * endpoints) as u32;
    let ready: Vec<Value> = (0..endpoints)
        .map(|n| {
            let address = Ipv4Addr::from(first + n as u32).to_string();
            let node = if n % 2 == 0 { plan::NODE } else { plan::NODE_2 };
            json!({"addresses": [address], "nodeName": node,
                "conditions": {"ready": true, "serving": true, "terminating": false}})
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-x"), "namespace": "bulk",
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": ready,
    });
    [service, slice]
}

/// The node of the plan.
pub fn node() -> Value {
    let address = |family: &str| json!({"type": "InternalIP", "address": family});
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": plan::NODE},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
        "status": {"addresses": plan::NODE_NET.own.map(address)},
    })
}

/// So many Services with so many endpoints each, and the node.
pub fn cluster(services: usize, endpoints: usize) -> impl Iterator<Item = Value> {
    let all = (0..services).flat_map(move |number| service(number, endpoints));
    all.chain(std::iter::once_with(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_meet() {
        assert_eq!(cluster_ip(57_343), Ipv4Addr::new(10, 96, 255, 255));
        assert_eq!(cluster(3, 2).count(), 7);
    }
}
