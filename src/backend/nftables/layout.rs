//! The words of our nf_tables table: sets and maps, chains, and the numbers that say how a packet
//! is treated. Everything that grows with the cluster is an element of one of these sets.
//!
//! Knows the table's shape, not what is in it. Tests: below; `nft list` in the lab.

use crate::model::Family;
use crate::netlink::set::{Field, SetSpec, Value};

/// Name of the table, in family ip and in family ip6; the reference's own name.
pub const TABLE: &str = "kube-proxy";

/// Name of the table that stands in while the other is replaced. A packet under way when a table
/// goes may find its rules of before and its maps empty already: rules are those of the moment at
/// which a hook is entered, elements those of the moment at which they are looked up
/// (`nft_do_chain`, `nft_set_elem_active`; deleting a map makes its elements inactive at the commit,
/// `nft_map_deactivate`). It would miss, and meet the guard of cluster IPs. With two tables each
/// hook has a complete one at every moment.
pub const STANDBY: &str = "kube-proxy-standby";

/// The version of this layout. Remembered clients are taken over from a table with the same one.
pub const LAYOUT: u32 = 1;

/// The table's comment.
pub fn table_comment() -> String {
    format!("Kubernetes Services; kube-proxy (Rust), layout {LAYOUT}")
}

use Field::{Address, Index, Number, OriginalAddress, OriginalPort, Port, Protocol, SourceAddress};

/// Address, protocol and port that clients ask for.
pub const FRONTEND: &[Field] = &[Address, Protocol, Port];
/// Protocol and port that clients ask for on any address of the node.
pub const NODE_PORT: &[Field] = &[Protocol, Port];
/// A frontend with the number of one of its endpoints.
pub const FRONTEND_INDEX: &[Field] = &[Address, Protocol, Port, Index];
/// A node port with the number of one of its endpoints.
pub const NODE_PORT_INDEX: &[Field] = &[Protocol, Port, Index];
/// A client and what it asked for.
pub const CLIENT_FRONTEND: &[Field] = &[SourceAddress, Address, Protocol, Port];
/// A frontend and a client.
pub const FRONTEND_CLIENT: &[Field] = &[Address, Protocol, Port, SourceAddress];
/// What the client asked for, read from conntrack after the destination was changed.
pub const ORIGINAL_FRONTEND: &[Field] = &[OriginalAddress, Protocol, OriginalPort];
/// The same on any address of the node.
pub const ORIGINAL_NODE_PORT: &[Field] = &[Protocol, OriginalPort];
/// Where a packet is sent.
pub const ENDPOINT: &[Field] = &[Address, Port];

const NUMBER: Value = Value::Fields(&[Number]);
const TARGET: Value = Value::Fields(ENDPOINT);
/// Clients that are remembered, at most, for session affinity (all Services together): as many as
/// the kernel lists in a second. It takes time with the square of them (0.15 s for 50,000, 2.1 s
/// for 200,000), and they are listed when an endpoint of a Service with affinity goes.
const AFFINITY_SIZE: u32 = 1 << 17;
/// Seconds an affinity entry lives where its Service says nothing else: the API's default.
const AFFINITY_TIMEOUT: u32 = 10_800;

/// Each set and map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Address · protocol · port → how it is treated.
    Services,
    /// Protocol · port → how it is treated, on node addresses.
    NodePorts,
    /// External policy Local: how pods and the node itself are treated.
    ServicesWithin,
    /// The same for node ports.
    NodePortsWithin,
    /// Frontend · number → endpoint.
    Endpoints,
    /// Node port · number → endpoint.
    NodePortEndpoints,
    /// Frontend · number → endpoint of this node.
    LocalEndpoints,
    /// Node port · number → endpoint of this node.
    NodePortLocalEndpoints,
    /// Client · frontend → the endpoint it had last. Written by rules.
    Affinity,
    /// Frontends with session affinity → seconds.
    Sticky,
    /// Node ports with session affinity → seconds.
    StickyNodePorts,
    /// Frontends that only some sources may use.
    Firewall,
    /// Frontend · source that may use it.
    FirewallAllowed,
    /// Frontends without any endpoint.
    Reject,
    /// Frontends whose policy leaves them no endpoint on this node.
    Drop,
    /// Node ports without any endpoint.
    NodePortReject,
    /// Node ports whose policy leaves them no endpoint on this node.
    NodePortDrop,
    /// Connections of an endpoint of this node to itself.
    Hairpin,
    /// Every cluster IP.
    ClusterIps,
    /// Ranges from which cluster IPs are allocated.
    ServiceCidrs,
    /// Health check node ports.
    HealthCheckPorts,
    /// Node addresses that take node port traffic.
    NodePortAddresses,
    /// How to treat → the chain that does it.
    Treatments,
    /// The same for what pods and the node itself look up from within a treatment's chain: a map
    /// may not lead to a chain that looks into the same map.
    TreatmentsWithin,
    /// Seconds of affinity → the chain that remembers a client that long.
    StickyTimeouts,
}

impl Set {
    /// All of them, in the order in which they are made.
    pub const ALL: [Set; 25] = [
        Set::Services,
        Set::NodePorts,
        Set::ServicesWithin,
        Set::NodePortsWithin,
        Set::Endpoints,
        Set::NodePortEndpoints,
        Set::LocalEndpoints,
        Set::NodePortLocalEndpoints,
        Set::Affinity,
        Set::Sticky,
        Set::StickyNodePorts,
        Set::Firewall,
        Set::FirewallAllowed,
        Set::Reject,
        Set::Drop,
        Set::NodePortReject,
        Set::NodePortDrop,
        Set::Hairpin,
        Set::ClusterIps,
        Set::ServiceCidrs,
        Set::HealthCheckPorts,
        Set::NodePortAddresses,
        Set::Treatments,
        Set::TreatmentsWithin,
        Set::StickyTimeouts,
    ];

    /// Its definition.
    pub const fn spec(self) -> SetSpec {
        let plain = SetSpec::plain;
        match self {
            Set::Services => plain("services", FRONTEND, NUMBER),
            Set::NodePorts => plain("node-ports", NODE_PORT, NUMBER),
            Set::ServicesWithin => plain("services-within", FRONTEND, NUMBER),
            Set::NodePortsWithin => plain("node-ports-within", NODE_PORT, NUMBER),
            Set::Endpoints => plain("endpoints", FRONTEND_INDEX, TARGET),
            Set::NodePortEndpoints => plain("node-port-endpoints", NODE_PORT_INDEX, TARGET),
            Set::LocalEndpoints => plain("local-endpoints", FRONTEND_INDEX, TARGET),
            Set::NodePortLocalEndpoints => {
                plain("node-port-local-endpoints", NODE_PORT_INDEX, TARGET)
            }
            Set::Affinity => SetSpec {
                dynamic: Some((AFFINITY_TIMEOUT, AFFINITY_SIZE)),
                ..plain("affinity", CLIENT_FRONTEND, TARGET)
            },
            Set::Sticky => plain("sticky", FRONTEND, NUMBER),
            Set::StickyNodePorts => plain("sticky-node-ports", NODE_PORT, NUMBER),
            Set::Firewall => plain("firewall", FRONTEND, Value::Nothing),
            Set::FirewallAllowed => SetSpec {
                interval: true,
                ..plain("firewall-allowed", FRONTEND_CLIENT, Value::Nothing)
            },
            Set::Reject => plain("no-endpoints-reject", FRONTEND, Value::Nothing),
            Set::Drop => plain("no-endpoints-drop", FRONTEND, Value::Nothing),
            Set::NodePortReject => {
                plain("no-endpoints-node-ports-reject", NODE_PORT, Value::Nothing)
            }
            Set::NodePortDrop => plain("no-endpoints-node-ports-drop", NODE_PORT, Value::Nothing),
            Set::Hairpin => plain("hairpin", CLIENT_FRONTEND, Value::Nothing),
            Set::ClusterIps => plain("cluster-ips", &[Address], Value::Nothing),
            Set::ServiceCidrs => {
                SetSpec { interval: true, ..plain("service-cidrs", &[Address], Value::Nothing) }
            }
            Set::HealthCheckPorts => plain("health-check-ports", &[Port], Value::Nothing),
            Set::NodePortAddresses => SetSpec {
                interval: true,
                ..plain("node-port-addresses", &[Address], Value::Nothing)
            },
            Set::Treatments => plain("treatments", &[Number], Value::Verdict),
            Set::TreatmentsWithin => plain("treatments-within", &[Number], Value::Verdict),
            Set::StickyTimeouts => plain("sticky-timeouts", &[Number], Value::Verdict),
        }
    }

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// The set with this name.
    pub fn by_name(name: &str) -> Option<Set> {
        Set::ALL.into_iter().find(|set| set.name() == name)
    }

    /// Whether its keys begin with a frontend (`Some(true)`: with its address; `Some(false)`: a
    /// node port), so that each element belongs to one frontend.
    pub fn of_frontend(self) -> Option<bool> {
        match self {
            Set::Services
            | Set::ServicesWithin
            | Set::Endpoints
            | Set::LocalEndpoints
            | Set::Sticky
            | Set::Firewall
            | Set::FirewallAllowed
            | Set::Reject
            | Set::Drop => Some(true),
            Set::NodePorts
            | Set::NodePortsWithin
            | Set::NodePortEndpoints
            | Set::NodePortLocalEndpoints
            | Set::StickyNodePorts
            | Set::NodePortReject
            | Set::NodePortDrop => Some(false),
            _ => None,
        }
    }
}

/// How a new connection to a frontend is treated before an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// As it is.
    Pick,
    /// Traffic to a cluster IP: marked for masquerading if its source is not known to be local.
    Internal,
    /// Traffic from outside with policy Cluster: always marked for masquerading.
    External,
    /// Traffic from outside with policy Local: pods and the node itself may use every endpoint,
    /// others only those of this node, and keep their source address.
    Local,
}

/// A treatment: one shared chain, whatever the number of Services that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Treatment {
    /// What happens before an endpoint is picked.
    pub kind: Kind,
    /// Whether a client goes where it went before.
    pub sticky: bool,
    /// Whether endpoints are looked up by node port rather than by address.
    pub node_port: bool,
    /// How many endpoints there are to pick from.
    pub count: u16,
}

impl Treatment {
    /// The number that stands for it in the maps. nft shows it in two halves: node port, sticky
    /// and kind, a hexadecimal digit each, and the count, in hexadecimal as well.
    pub fn number(self) -> u32 {
        u32::from(self.node_port) << 24
            | u32::from(self.sticky) << 20
            | (self.kind as u32) << 16
            | u32::from(self.count)
    }

    /// The treatment a number stands for.
    pub fn from_number(number: u32) -> Option<Treatment> {
        let kind = match number >> 16 & 0xf {
            0 => Kind::Pick,
            1 => Kind::Internal,
            2 => Kind::External,
            3 => Kind::Local,
            _ => return None,
        };
        let treatment = Treatment {
            kind,
            sticky: number & 1 << 20 != 0,
            node_port: number & 1 << 24 != 0,
            count: number as u16,
        };
        (treatment.number() == number).then_some(treatment)
    }

    /// The map in which its number is looked up.
    pub fn map(self) -> Set {
        match self.kind {
            Kind::Pick => Set::TreatmentsWithin,
            Kind::Internal | Kind::External | Kind::Local => Set::Treatments,
        }
    }

    /// The name of its chain, such as `node-port-external-sticky-3`.
    pub fn chain(self) -> String {
        let place = if self.node_port { "node-port-" } else { "" };
        let sticky = if self.sticky { "-sticky" } else { "" };
        let kind = match self.kind {
            Kind::Pick => "pick",
            Kind::Internal => "internal",
            Kind::External => "external",
            Kind::Local => "local",
        };
        format!("{place}{kind}{sticky}-{}", self.count)
    }

    /// It and the treatments whose chains its own chain goes on to, the last one first.
    pub fn with_dependencies(self) -> Vec<Treatment> {
        let mut chain = vec![self];
        match self.kind {
            Kind::Internal | Kind::External => {
                let next = Treatment { kind: Kind::Pick, ..self };
                chain.splice(0..0, next.with_dependencies());
            }
            Kind::Pick if self.sticky => chain.insert(0, Treatment { sticky: false, ..self }),
            Kind::Pick | Kind::Local => {}
        }
        chain
    }
}

/// The chain that remembers a client for so many seconds.
pub fn timeout_chain(seconds: u32) -> String {
    format!("remember-{seconds}s")
}

/// The longest prefix of a key of `set` that names a frontend, in bytes.
pub fn frontend_len(family: Family, addressed: bool) -> usize {
    let fields = if addressed { FRONTEND } else { NODE_PORT };
    fields.iter().map(|f| f.padded_len(family)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_found_by_its_name() {
        for set in Set::ALL {
            assert_eq!(Set::by_name(set.name()), Some(set));
        }
    }

    #[test]
    fn numbers_and_treatments_are_one_to_one() {
        for kind in [Kind::Pick, Kind::Internal, Kind::External, Kind::Local] {
            for (sticky, node_port) in [(false, false), (false, true), (true, false), (true, true)]
            {
                let treatment = Treatment { kind, sticky, node_port, count: 3 };
                assert_eq!(Treatment::from_number(treatment.number()), Some(treatment));
            }
        }
        assert_eq!(Treatment::from_number(0x8000_0001), None);
    }

    #[test]
    fn a_treatment_comes_after_what_it_goes_on_to() {
        let treatment = Treatment { kind: Kind::External, sticky: true, node_port: true, count: 3 };
        let chains: Vec<_> =
            treatment.with_dependencies().into_iter().map(Treatment::chain).collect();
        assert_eq!(
            chains,
            ["node-port-pick-3", "node-port-pick-sticky-3", "node-port-external-sticky-3"]
        );
    }
}
