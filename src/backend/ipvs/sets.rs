//! The ipsets of ipvs mode, by the reference's names and types (`pkg/proxy/ipvs/ipset.go`), and two
//! of our own. Rules ask them, so that a change of a Service changes no rule.
//! It must never know Services. Tests: below.

use crate::kernel::{IpsetSpec, IpsetType};
use crate::model::{Family, Protocol};

/// A set. Where entries of several sets come or go together, those of the earlier one come first
/// and go last: who may use an address is known before others are kept from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Endpoints of this node, each with its own address as the client's: hairpin connections.
    LoopBack,
    /// Cluster IPs with ports.
    ClusterIp,
    /// External IPs with ports, policy Cluster.
    ExternalIp,
    /// External IPs with ports, policy Local.
    ExternalIpLocal,
    /// Load balancer IPs with ports.
    LoadBalancer,
    /// Those of them with policy Local.
    LoadBalancerLocal,
    /// Load balancer IPs with ports and who may use them: themselves.
    LoadBalancerSourceIp,
    /// Load balancer IPs with ports and who may use them.
    LoadBalancerSourceCidr,
    /// Load balancer IPs with ports that not everybody may use.
    LoadBalancerFw,
    /// Node ports.
    NodePortTcp,
    /// Node ports with policy Local.
    NodePortLocalTcp,
    /// Node ports.
    NodePortUdp,
    /// Node ports with policy Local.
    NodePortLocalUdp,
    /// Node ports with the node's addresses.
    NodePortSctp,
    /// Those of them with policy Local.
    NodePortLocalSctp,
    /// Health check node ports.
    HealthCheckNodePort,
    /// Every address on the device.
    IpvsIps,
    /// Addresses with ports of policy Local for which this node has no endpoint: only its own pods
    /// and processes may use them. Ours.
    NoLocal,
    /// Addresses with ports that nobody may use for want of endpoints on this node. Ours.
    Unserved,
}

const NAMES: [(Set, &str, &str); 19] = [
    (Set::LoopBack, "KUBE-LOOP-BACK", "KUBE-6-LOOP-BACK"),
    (Set::ClusterIp, "KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP"),
    (Set::ExternalIp, "KUBE-EXTERNAL-IP", "KUBE-6-EXTERNAL-IP"),
    (Set::ExternalIpLocal, "KUBE-EXTERNAL-IP-LOCAL", "KUBE-6-EXTERNAL-IP-LOCAL"),
    (Set::LoadBalancer, "KUBE-LOAD-BALANCER", "KUBE-6-LOAD-BALANCER"),
    (Set::LoadBalancerLocal, "KUBE-LOAD-BALANCER-LOCAL", "KUBE-6-LOAD-BALANCER-LOCAL"),
    (Set::LoadBalancerSourceIp, "KUBE-LOAD-BALANCER-SOURCE-IP", "KUBE-6-LOAD-BALANCER-SOURCE-IP"),
    (
        Set::LoadBalancerSourceCidr,
        "KUBE-LOAD-BALANCER-SOURCE-CIDR",
        "KUBE-6-LOAD-BALANCER-SOURCE-CID",
    ),
    (Set::LoadBalancerFw, "KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW"),
    (Set::NodePortTcp, "KUBE-NODE-PORT-TCP", "KUBE-6-NODE-PORT-TCP"),
    (Set::NodePortLocalTcp, "KUBE-NODE-PORT-LOCAL-TCP", "KUBE-6-NODE-PORT-LOCAL-TCP"),
    (Set::NodePortUdp, "KUBE-NODE-PORT-UDP", "KUBE-6-NODE-PORT-UDP"),
    (Set::NodePortLocalUdp, "KUBE-NODE-PORT-LOCAL-UDP", "KUBE-6-NODE-PORT-LOCAL-UDP"),
    (Set::NodePortSctp, "KUBE-NODE-PORT-SCTP-HASH", "KUBE-6-NODE-PORT-SCTP-HASH"),
    (Set::NodePortLocalSctp, "KUBE-NODE-PORT-LOCAL-SCTP-HASH", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"),
    (Set::HealthCheckNodePort, "KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-6-HEALTH-CHECK-NODE-PORT"),
    (Set::IpvsIps, "KUBE-IPVS-IPS", "KUBE-6-IPVS-IPS"),
    (Set::NoLocal, "KUBE-IPVS-NO-LOCAL", "KUBE-6-IPVS-NO-LOCAL"),
    (Set::Unserved, "KUBE-IPVS-UNSERVED", "KUBE-6-IPVS-UNSERVED"),
];

/// The most entries a set takes. The reference leaves it at 65,536, which 6,554 Services of ten
/// ports exceed; the kernel takes memory for the entries there are.
const MOST: u32 = 1 << 20;

impl Set {
    /// All sets.
    pub fn all() -> impl Iterator<Item = Set> {
        NAMES.iter().map(|(set, ..)| *set)
    }

    /// Its name. Those of IPv6 are cut at 31 letters, as the reference cuts them.
    pub fn name(self, family: Family) -> &'static str {
        let names = NAMES.iter().find(|(set, ..)| *set == self);
        let (_, four, six) = names.expect("every set has a line, held by a test");
        match family {
            Family::V4 => four,
            Family::V6 => six,
        }
    }

    /// The name under which its next content is put together.
    pub fn next_name(self, family: Family) -> String {
        let prefix = match family {
            Family::V4 => "KUBE",
            Family::V6 => "KUBE-6",
        };
        format!("{prefix}-NEXT-{}", self as u8)
    }

    /// Its type.
    pub fn kind(self) -> IpsetType {
        match self {
            Set::LoopBack | Set::LoadBalancerSourceIp => IpsetType::HashIpPortIp,
            Set::LoadBalancerSourceCidr => IpsetType::HashIpPortNet,
            Set::NodePortTcp
            | Set::NodePortLocalTcp
            | Set::NodePortUdp
            | Set::NodePortLocalUdp
            | Set::HealthCheckNodePort => IpsetType::BitmapPort,
            Set::IpvsIps => IpsetType::HashIp,
            _ => IpsetType::HashIpPort,
        }
    }

    /// How it is made.
    pub fn spec(self, family: Family) -> IpsetSpec {
        let kind = self.kind();
        let bitmap = kind == IpsetType::BitmapPort;
        IpsetSpec {
            name: self.name(family).to_owned(),
            family: if bitmap { Family::V4 } else { family },
            most: if bitmap { 0 } else { MOST },
            kind,
        }
    }

    /// Whether an entry spares packets from being masqueraded, so that it must not be there before
    /// all endpoints are on this node.
    pub fn spares(self) -> bool {
        matches!(
            self,
            Set::LoadBalancerLocal
                | Set::NodePortLocalTcp
                | Set::NodePortLocalUdp
                | Set::NodePortLocalSctp
        )
    }

    /// The set of node ports of a protocol, and of those with policy Local.
    pub fn of_node_ports(protocol: Protocol) -> (Set, Set) {
        match protocol {
            Protocol::Tcp => (Set::NodePortTcp, Set::NodePortLocalTcp),
            Protocol::Udp => (Set::NodePortUdp, Set::NodePortLocalUdp),
            Protocol::Sctp => (Set::NodePortSctp, Set::NodePortLocalSctp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::LONGEST_IPSET_NAME;

    #[test]
    fn every_set_has_its_names() {
        for (place, (set, four, six)) in NAMES.iter().enumerate() {
            assert_eq!(*set as usize, place, "{set:?}");
            let long = four.replacen("KUBE-", "KUBE-6-", 1);
            assert_eq!(*six, &long[..long.len().min(LONGEST_IPSET_NAME)]);
            assert!(four.len() <= LONGEST_IPSET_NAME);
        }
        assert_eq!(Set::all().count(), Set::Unserved as usize + 1);
        let next: std::collections::BTreeSet<String> =
            Set::all().map(|set| set.next_name(Family::V6)).collect();
        assert_eq!(next.len(), Set::all().count());
    }
}
