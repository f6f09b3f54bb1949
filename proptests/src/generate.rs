//! Clusters nobody thought of. Every value comes from a small pool, so that Services collide,
//! endpoints recur and packets hit; rare states are rare only by choice. Knows the API's objects,
//! no proxy. What was reached is counted by `coverage`. Tests: with the properties.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use kube_proxy::model::{Family, LocalDetector, NodePortAddresses};

use crate::cluster::{Mode, Setup, Steering};
use crate::world::Objects;

/// This node's name.
pub const NODE: &str = "test-node";

/// A node and a cluster.
#[derive(Clone, Debug)]
pub struct Case {
    /// The node.
    pub setup: Setup,
    /// The objects.
    pub objects: Objects,
}

/// Any case.
pub fn case() -> impl Strategy<Value = Case> {
    (setup(), objects()).prop_map(|(setup, objects)| Case { setup, objects })
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().expect("a constant address")).collect()
}

fn cidrs(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().expect("a constant CIDR")).collect()
}

/// Any node.
pub fn setup() -> impl Strategy<Value = Setup> {
    let families = prop_oneof![
        6 => Just(Family::ALL.to_vec()),
        1 => Just(vec![Family::V4]),
        1 => Just(vec![Family::V6]),
    ];
    let detector = prop_oneof![
        Just(LocalDetector::None),
        Just(LocalDetector::Cidrs(cidrs(&["10.0.0.0/8", "fd00:10::/32"]))),
        Just(LocalDetector::Cidrs(cidrs(&["10.0.0.0/8", "203.0.113.0/24"]))),
        Just(LocalDetector::Bridge("src0".into())),
        Just(LocalDetector::Bridge("cni0".into())),
        Just(LocalDetector::InterfacePrefix("sr".into())),
        Just(LocalDetector::InterfacePrefix("cali".into())),
    ];
    let node_ports = prop_oneof![
        3 => Just(NodePortAddresses::Cidrs(Vec::new())),
        1 => Just(NodePortAddresses::Primary),
        1 => Just(NodePortAddresses::Cidrs(cidrs(&["192.168.0.0/24"]))),
        1 => Just(NodePortAddresses::Cidrs(cidrs(&["192.168.1.0/24", "2001:db8::/64"]))),
        1 => Just(NodePortAddresses::Cidrs(cidrs(&["0.0.0.0/0", "::/0"]))),
        1 => Just(NodePortAddresses::Cidrs(cidrs(&["127.0.0.0/8"]))),
    ];
    let bits = prop_oneof![4 => Just(14u8), 1 => Just(0u8), 1 => Just(31u8)];
    (families, detector, prop::bool::weighted(0.2), node_ports, select(vec!["", "a", "b"]), bits)
        .prop_map(|(families, detector, masquerade_all, node_port_addresses, zone, bit)| Setup {
            mode: Mode::Nftables,
            steering: Steering::Nftables,
            families,
            node_name: NODE.into(),
            addresses: addresses(&["192.168.0.2", "192.168.1.2", "2001:db8::1", "2001:db8:1::2"]),
            zone: zone.into(),
            detector,
            masquerade_all,
            localhost_node_ports: false,
            node_port_addresses,
            masquerade_bit: bit,
        })
}

/// Any set of objects.
pub fn objects() -> impl Strategy<Value = Objects> {
    let services = (0..5usize).prop_flat_map(|count| (0..=count).map(service).collect::<Vec<_>>());
    let slices = vec((0..5usize).prop_flat_map(slice), 0..12);
    (services, slices, service_cidrs()).prop_map(|(services, mut slices, service_cidrs)| {
        for (index, slice) in slices.iter_mut().enumerate() {
            slice["metadata"]["name"] = json!(format!("slice-{index}"));
        }
        Objects { services, slices, service_cidrs }
    })
}

fn service_cidrs() -> impl Strategy<Value = Vec<Value>> {
    let one = subsequence(
        vec!["172.30.0.0/16", "172.30.0.0/24", "fd00:172:30::/112", "fd00:172:30::/64"],
        1..=3,
    );
    vec(one, 0..3).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(i, cidrs)| {
                json!({"metadata": {"name": format!("cidr-{i}")}, "spec": {"cidrs": cidrs}})
            })
            .collect()
    })
}

/// The name of the Service with a number, and of its namespace.
pub fn name(number: usize) -> (&'static str, String) {
    (if number == 3 { "ns2" } else { "ns1" }, format!("svc{number}"))
}

const EXTERNAL: [&str; 8] = [
    "192.168.99.11",
    "192.168.1.2",
    "1.2.3.4",
    "172.30.0.1",
    "172.30.0.3",
    "2001:db8:1::2",
    "2600:1234::1",
    "2001:db8:99::11",
];
const INGRESS: [&str; 5] = ["1.2.3.4", "5.6.7.8", "192.168.1.2", "2600:1234::1", "2600:1234::2"];
const RANGES: [&str; 9] = [
    "203.0.113.0/25",
    "203.0.113.0/24",
    " 10.0.0.0/8",
    "192.168.0.0/24",
    "192.168.0.2/32",
    "0.0.0.0/0",
    "2600:5200::/32",
    "2001:db8::/64",
    "::/0",
];

/// Names, protocols and numbers of Service ports; a Service has some of these.
const PORTS: [(&str, &str, u16); 5] = [
    ("http", "TCP", 80),
    ("https", "TCP", 443),
    ("dns", "UDP", 53),
    ("dns-tcp", "TCP", 53),
    ("sctp", "SCTP", 53),
];

fn policy() -> impl Strategy<Value = Option<&'static str>> {
    option::weighted(0.7, select(vec!["Cluster", "Local"]))
}

/// Any state of the Service with a number.
pub fn service(number: usize) -> BoxedStrategy<Value> {
    let kind = prop_oneof![
        4 => Just("ClusterIP"),
        4 => Just("NodePort"),
        8 => Just("LoadBalancer"),
        1 => Just("ExternalName"),
        1 => Just("headless"),
        1 => Just("other-proxy"),
    ];
    let ports = prop_oneof![
        4 => subsequence(PORTS.to_vec(), 1..=3),
        1 => Just(vec![("", "TCP", 80)]),
    ];
    let node_ports = vec(select(vec![0u16, 30001, 30002, 30003]), 3);
    let ips = select(vec![[true, true], [true, true], [true, false], [false, true]]);
    let external = prop_oneof![
        2 => Just(Vec::new()),
        1 => subsequence(EXTERNAL.to_vec(), 0..=3),
    ];
    let ingress = vec((select(INGRESS.to_vec()), mode()), 0..3);
    let ranges = prop_oneof![
        2 => Just(Vec::new()),
        1 => subsequence(RANGES.to_vec(), 1..=3),
    ];
    let policies = (policy(), policy());
    let age = option::weighted(0.8, select(vec!["2020-01-01T00:00:00Z", "2024-02-29T12:00:00Z"]));
    let sticky = option::weighted(0.2, select(vec![1u32, 10_800, 86_400]));
    let health = select(vec![30_100u16, 30_101]);
    let parts = (kind, (ports, node_ports), ips, (external, ingress, ranges), policies);
    (parts, age, sticky, health)
        .prop_map(move |((kind, ports, ips, outside, policies), age, sticky, health)| {
            let mut object = bare_service(number, kind, ips);
            let spec = &mut object["spec"];
            spec["ports"] = service_ports(kind, &ports.0, &ports.1);
            let own = spec["clusterIPs"].clone();
            let foreign: Vec<&str> = outside.0.iter().copied().filter(|e| !has(&own, e)).collect();
            spec["externalIPs"] = json!(foreign);
            spec["loadBalancerSourceRanges"] = json!(outside.2);
            spec["externalTrafficPolicy"] = json!(policies.0);
            spec["internalTrafficPolicy"] = json!(policies.1);
            if let Some(seconds) = sticky {
                spec["sessionAffinity"] = json!("ClientIP");
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
            }
            if kind == "LoadBalancer" {
                let ingress: Vec<Value> =
                    outside.1.iter().map(|(ip, mode)| json!({"ip": ip, "ipMode": mode})).collect();
                object["status"] = json!({"loadBalancer": {"ingress": ingress}});
                if policies.0 == Some("Local") {
                    object["spec"]["healthCheckNodePort"] = json!(health);
                }
            }
            object["metadata"]["creationTimestamp"] = json!(age);
            object
        })
        .boxed()
}

fn mode() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![2 => Just(None), 1 => Just(Some("VIP")), 1 => Just(Some("Proxy"))]
}

fn has(list: &Value, text: &str) -> bool {
    list.as_array().is_some_and(|l| l.iter().any(|v| v == text))
}

fn bare_service(number: usize, kind: &str, [four, six]: [bool; 2]) -> Value {
    let (namespace, name) = name(number);
    let kind_word = match kind {
        "headless" | "other-proxy" => "ClusterIP",
        kind => kind,
    };
    let mut ips = Vec::new();
    if four {
        ips.push(format!("172.30.0.{}", number + 1));
    }
    if six {
        ips.push(format!("fd00:172:30::{}", number + 1));
    }
    if number == 1 {
        ips.reverse();
    }
    if kind == "headless" {
        ips = vec!["None".to_owned()];
    }
    let mut object = json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"type": kind_word, "clusterIP": ips[0], "clusterIPs": ips},
    });
    match kind {
        "other-proxy" => {
            object["metadata"]["labels"] =
                json!({"service.kubernetes.io/service-proxy-name": "another"});
        }
        "ExternalName" => {
            object["spec"]["clusterIP"] = json!("");
            object["spec"]["clusterIPs"] = json!([]);
            object["spec"]["externalName"] = json!("example.org");
        }
        _ => {}
    }
    object
}

fn service_ports(kind: &str, ports: &[(&str, &str, u16)], node_ports: &[u16]) -> Value {
    let mut taken: Vec<(&str, u16)> = Vec::new();
    let mut list = Vec::new();
    for ((name, protocol, port), node_port) in ports.iter().zip(node_ports) {
        let mut value = json!({"name": name, "protocol": protocol, "port": port});
        let free = !taken.contains(&(protocol, *node_port));
        let wanted = kind == "NodePort" || kind == "LoadBalancer";
        if wanted && free && *node_port != 0 {
            value["nodePort"] = json!(node_port);
            taken.push((protocol, *node_port));
        }
        list.push(value);
    }
    Value::Array(list)
}

/// Any slice of the Service with a number; its own name is to be filled in.
pub fn slice(number: usize) -> BoxedStrategy<Value> {
    let family = select(vec![Family::V4, Family::V4, Family::V6]);
    let ports = prop_oneof![
        12 => subsequence(PORTS.to_vec(), 3..=5),
        3 => Just(vec![("", "TCP", 80)]),
        1 => Just(Vec::new()),
    ];
    let target = prop_oneof![
        12 => select(vec![80u16, 8080, 8081]).prop_map(Some),
        1 => Just(Some(0)),
        1 => Just(None),
    ];
    let numbers = vec(target, 5);
    let renamed = prop::bool::weighted(0.1);
    (family, ports, numbers, renamed)
        .prop_flat_map(move |(family, ports, numbers, renamed)| {
            vec(endpoint(family), 0..5).prop_map(move |endpoints| {
                let (namespace, service) = name(number);
                let ports: Vec<Value> = ports
                    .iter()
                    .zip(&numbers)
                    .map(|((name, protocol, _), number)| {
                        let name = if renamed { "renamed" } else { name };
                        json!({"name": name, "protocol": protocol, "port": number})
                    })
                    .collect();
                json!({
                    "kind": "EndpointSlice",
                    "apiVersion": "discovery.k8s.io/v1",
                    "metadata": {
                        "namespace": namespace,
                        "name": "",
                        "labels": {"kubernetes.io/service-name": service},
                    },
                    "addressType": family.to_string(),
                    "ports": ports,
                    "endpoints": endpoints,
                })
            })
        })
        .boxed()
}

fn endpoint(family: Family) -> impl Strategy<Value = Value> {
    let pool = match family {
        Family::V4 => vec![
            "10.180.0.1",
            "10.180.0.2",
            "10.180.0.3",
            "10.180.1.1",
            "010.180.1.2",
            "192.168.0.2",
            "fd00:10::99",
        ],
        Family::V6 => vec![
            "fd00:10:180::1",
            "fd00:10:180::2",
            "fd00:10:180:1::1",
            "fd00:10:180:1::2",
            "2001:db8::1",
            "10.180.0.1",
        ],
    };
    let conditions = select(vec![
        json!({}),
        json!({"ready": true}),
        json!({"ready": true, "serving": true, "terminating": false}),
        json!({"ready": false, "serving": true, "terminating": true}),
        json!({"ready": false, "serving": false, "terminating": true}),
        json!({"ready": false}),
        json!({"ready": false, "serving": false}),
        json!({"ready": true, "serving": true, "terminating": true}),
    ]);
    let zones = option::weighted(0.5, subsequence(vec!["a", "b", "c"], 1..=2));
    let nodes = option::weighted(0.4, subsequence(vec![NODE, "node2"], 1..=2));
    (select(pool), conditions, zones, nodes).prop_map(|(address, conditions, zones, nodes)| {
        let hints = |names: Option<Vec<&str>>| -> Vec<Value> {
            names.unwrap_or_default().iter().map(|n| json!({"name": n})).collect()
        };
        let node = node_of(address);
        let mut value = json!({
            "addresses": [address, "10.180.9.9"],
            "conditions": conditions,
            "nodeName": node,
        });
        let (zones, nodes) = (hints(zones), hints(nodes));
        if !zones.is_empty() || !nodes.is_empty() {
            value["hints"] = json!({"forZones": zones, "forNodes": nodes});
        }
        value
    })
}

/// An address is on one node, whatever slice it is in; of some it is not said.
fn node_of(address: &str) -> Option<&'static str> {
    match address {
        "10.180.0.3" => None,
        "10.180.1.1" | "010.180.1.2" | "fd00:10:180:1::1" | "fd00:10:180:1::2" => Some("node2"),
        _ => Some(NODE),
    }
}
