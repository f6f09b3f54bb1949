//! This node, and how it tells local traffic from the rest. Values only. Tests: with their users.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Family, NamespacedName};

/// What is read of this node's Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Addresses in the order of preference: InternalIP, then ExternalIP, as in the object.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`; an empty one counts as none.
    pub zone: Option<Arc<str>>,
    /// Whether it has the taint `ToBeDeletedByClusterAutoscaler`.
    pub to_be_deleted: bool,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

impl Node {
    /// The first address of a family.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(*a) == family)
    }
}

/// A pod by name, for questions of people; the rules know only addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// How traffic of this node's own pods is told from the rest (`--detect-local-mode`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalDetector {
    /// Not at all: nothing is known to be local.
    #[default]
    None,
    /// By source address: modes ClusterCIDR and NodeCIDR; the first CIDR of each family counts.
    Cidrs(Vec<IpNet>),
    /// By the bridge it came in over: mode BridgeInterface.
    Bridge(String),
    /// By the first letters of the interface it came in over: mode InterfaceNamePrefix.
    InterfacePrefix(String),
}

impl LocalDetector {
    /// The CIDR that counts in a family, for the modes that go by CIDR.
    pub fn cidr(&self, family: Family) -> Option<IpNet> {
        match self {
            LocalDetector::Cidrs(cidrs) => {
                cidrs.iter().copied().find(|c| Family::of(c.addr()) == family)
            }
            _ => None,
        }
    }
}

/// Which of the node's addresses take NodePort traffic (`--nodeport-addresses`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePortAddresses {
    /// The word `primary`: the Node object's first address of each family.
    #[default]
    Primary,
    /// Local addresses inside these CIDRs; a family without a CIDR takes all of its addresses
    /// (`pkg/proxy/util/nodeport_addresses.go`). Empty: all.
    Cidrs(Vec<IpNet>),
}
