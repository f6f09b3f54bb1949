//! The lab's addresses: who is where, in both families. The manifests in `examples/` and
//! `netlab/scenarios/` use the same plan. Nothing here is ever seen outside our own namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Name of the node on which kube-proxy runs.
pub const NODE: &str = "node-1";
/// Name of the other node.
pub const NODE_2: &str = "node-2";
/// Pod CIDRs of the cluster, as `--cluster-cidr` takes them.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:10:244::/48";

/// A network between the router and one namespace.
pub struct Net {
    /// The namespace's own addresses, IPv4 and IPv6; prefixes are /24 and /64.
    pub own: [&'static str; 2],
    /// The router's addresses.
    pub router: [&'static str; 2],
}

/// The client's network.
pub const OUTSIDE_NET: Net =
    Net { own: ["203.0.113.10", "2001:db8:113::10"], router: ["203.0.113.1", "2001:db8:113::1"] };
/// The node's network.
pub const NODE_NET: Net =
    Net { own: ["172.18.1.2", "fd00:172:18:1::2"], router: ["172.18.1.1", "fd00:172:18:1::1"] };
/// The other node's network.
pub const NODE_2_NET: Net =
    Net { own: ["172.18.2.2", "fd00:172:18:2::2"], router: ["172.18.2.1", "fd00:172:18:2::1"] };
/// Second addresses of the client, outside of every allowed source range.
pub const STRANGER: [&str; 2] = ["203.0.113.99", "2001:db8:113::99"];

/// What the router sends to the node: its pods, cluster IPs, load balancer and external IPs.
pub const TO_NODE: [&str; 6] = [
    "10.244.1.0/24",
    "10.96.0.0/16",
    "198.51.100.0/24",
    "fd00:10:244:1::/64",
    "fd00:10:96::/112",
    "2001:db8:198::/64",
];
/// What the router sends to the other node: its pods.
pub const TO_NODE_2: [&str; 2] = ["10.244.2.0/24", "fd00:10:244:2::/64"];

/// An address of the plan.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("the plan's addresses are well-formed")
}

/// A prefix of the plan.
pub fn prefix(text: &str) -> (IpAddr, u8) {
    let (base, length) = text.split_once('/').expect("the plan's prefixes have a slash");
    (ip(base), length.parse().expect("the plan's prefix lengths are numbers"))
}

/// Prefix length of a single address.
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `0.0.0.0` or `::`, in the family of an address.
pub fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether an address is one of the two nodes'.
pub fn is_node_address(address: IpAddr) -> bool {
    NODE_NET.own.iter().chain(&NODE_2_NET.own).any(|own| ip(own) == address)
}
