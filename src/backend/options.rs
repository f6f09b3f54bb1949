//! What the node's configuration says about the rules of one mode; values only.
//! Tests: with the modes.

use ipnet::IpNet;

use super::ipvs::choice::{Choice, ROUND_ROBIN};
use crate::kernel::{IpvsTimeouts, RelaySettings, VirtualServer};
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
    /// What only ipvs mode heeds.
    pub ipvs: IpvsOptions,
    /// How userspace mode carries connections.
    pub relay: RelaySettings,
}

/// What the node's configuration says about ipvs mode.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IpvsOptions {
    /// How virtual servers choose, where their Service does not say.
    pub choice: Choice,
    /// Virtual servers with addresses in these are not removed unless this process made them, and
    /// not changed unless our sets say that we did.
    pub excluded: Vec<IpNet>,
    /// What becomes of traffic of policy Local without endpoints on this node.
    pub local_without_endpoints: LocalWithoutEndpoints,
    /// Whether the node is to answer ARP for the addresses of an interface only, and to ask from
    /// them only (`arp_ignore` 1, `arp_announce` 2).
    pub strict_arp: bool,
    /// For how long connections are remembered; 0 leaves the kernel's value.
    pub timeouts: IpvsTimeouts,
}

impl Default for IpvsOptions {
    fn default() -> Self {
        IpvsOptions {
            choice: ROUND_ROBIN,
            excluded: Vec::new(),
            local_without_endpoints: LocalWithoutEndpoints::default(),
            strict_arp: false,
            timeouts: IpvsTimeouts::default(),
        }
    }
}

impl IpvsOptions {
    /// Whether a virtual server lies in the excluded CIDRs.
    pub fn excludes(&self, server: &VirtualServer) -> bool {
        self.excluded.iter().any(|cidr| cidr.contains(&server.socket.address))
    }
}

/// What becomes of traffic of policy Local without endpoints on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LocalWithoutEndpoints {
    /// It is dropped, as in every other mode.
    #[default]
    Drop,
    /// It goes to endpoints of other nodes, as in the reference's ipvs mode, from which answers to
    /// clients outside do not find back.
    Elsewhere,
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
