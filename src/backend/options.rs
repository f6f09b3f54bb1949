//! What the node's configuration says about the rules of one mode; values only.
//! Tests: with the modes.

use ipnet::IpNet;

use crate::model::{Family, LocalDetector};

/// What the node's configuration says about the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The fwmark bit, 0 to 31, that says a packet is to be masqueraded.
    pub masquerade_bit: u8,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// How local pods are told from the rest.
    pub detector: LocalDetector,
    /// CIDRs of node addresses that take node port traffic, by family; `None`: all of them.
    pub node_port_addresses: [Option<Vec<IpNet>>; 2],
    /// Whether node ports are wanted on loopback addresses (IPv4 and iptables mode only).
    pub localhost_node_ports: bool,
}

impl Options {
    /// The mark with the masquerade bit set.
    pub fn masquerade_mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }

    /// CIDRs of node addresses that take node port traffic; `None`: all of them.
    pub fn node_port_cidrs(&self, family: Family) -> Option<&[IpNet]> {
        self.node_port_addresses[family.index()].as_deref()
    }
}
