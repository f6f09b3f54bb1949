//! Tables and chains by the reference's names. Tools and people look for them, and a node that is
//! taken over has them already: names and hashes must never change.
//! Knows names only. Source: `pkg/proxy/iptables/proxier.go`. Tests: below.

use std::fmt;

use data_encoding::BASE32;
use sha2::{Digest, Sha256};

use crate::model::ServicePortName;

/// A table that kube-proxy has chains in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Lets pass, drops and refuses.
    Filter,
    /// Translates addresses.
    Nat,
    /// Has only the canary: who flushes it flushes the others too.
    Mangle,
}

impl Table {
    /// All, in the order in which they are written.
    pub const ALL: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];

    /// Its name, as in `*nat`.
    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
            Table::Mangle => "mangle",
        }
    }

    /// The table of a name.
    pub fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// A chain by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// A chain that is always there, such as `KUBE-SERVICES` or `PREROUTING`.
    Fixed(&'static str),
    /// A chain of a Service port or of one of its endpoints.
    Of(Kind, Name),
}

impl Chain {
    /// The chain of a Service port or endpoint that has this name, if one can have it.
    pub fn hashed(name: &str) -> Option<Chain> {
        let kind = Kind::of(name)?;
        let letters = name.strip_prefix(kind.prefix())?.as_bytes();
        Some(Chain::Of(kind, Name(letters.try_into().ok()?)))
    }
}

/// Cluster IPs, external IPs and load balancer IPs in nat; refused cluster IPs in filter.
pub const SERVICES: Chain = Chain::Fixed("KUBE-SERVICES");
/// Refused external addresses and node ports, in filter.
pub const EXTERNAL_SERVICES: Chain = Chain::Fixed("KUBE-EXTERNAL-SERVICES");
/// Node ports in nat, health check node ports in filter.
pub const NODE_PORTS: Chain = Chain::Fixed("KUBE-NODEPORTS");
/// Lets pass what kube-proxy forwards.
pub const FORWARD: Chain = Chain::Fixed("KUBE-FORWARD");
/// Drops what load balancer source ranges keep out.
pub const PROXY_FIREWALL: Chain = Chain::Fixed("KUBE-PROXY-FIREWALL");
/// Masquerades what is marked.
pub const POSTROUTING: Chain = Chain::Fixed("KUBE-POSTROUTING");
/// Marks for masquerading.
pub const MARK_MASQ: Chain = Chain::Fixed("KUBE-MARK-MASQ");
/// Is gone when somebody flushed the table.
pub const CANARY: Chain = Chain::Fixed("KUBE-PROXY-CANARY");
/// Keeps strangers from the ports of this process that packets are led to, in mangle.
pub const RELAY_GUARD: Chain = Chain::Fixed(crate::kernel::RELAY_CHAIN);
/// Kubelet's chain, of which kube-proxy sees to one rule and takes nothing away.
pub const KUBELET_FIREWALL: Chain = Chain::Fixed("KUBE-FIREWALL");

/// What a chain of a Service port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// External traffic, before policies.
    External,
    /// Load balancer source ranges.
    Firewall,
    /// One endpoint.
    Endpoint,
    /// All endpoints: policy Cluster.
    Cluster,
    /// Endpoints of this node: policy Local.
    Local,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 5] =
        [Kind::External, Kind::Firewall, Kind::Endpoint, Kind::Cluster, Kind::Local];

    /// What its chains' names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::External => "KUBE-EXT-",
            Kind::Firewall => "KUBE-FW-",
            Kind::Endpoint => "KUBE-SEP-",
            Kind::Cluster => "KUBE-SVC-",
            Kind::Local => "KUBE-SVL-",
        }
    }

    /// Whether a chain of this name is of some kind: ours, whoever wrote it.
    pub fn of(chain: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| chain.starts_with(kind.prefix()))
    }
}

/// The second half of a chain's name: 16 letters of a base32 SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; 16]);

impl Name {
    /// The name for these texts, one behind the other.
    pub fn of(parts: &[&str]) -> Name {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        let mut letters = [0; 16];
        // 10 bytes are 16 letters.
        BASE32.encode_mut(&hash.finalize()[..10], &mut letters);
        Name(letters)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Fixed(name) => f.write_str(name),
            Chain::Of(kind, name) => write!(f, "{}{}", kind.prefix(), name.as_str()),
        }
    }
}

/// A Service port's texts that its chains' names are made of.
#[derive(Clone, Debug)]
pub struct Names {
    port: String,
    protocol: &'static str,
}

impl Names {
    /// The names of a Service port.
    pub fn new(port: &ServicePortName) -> Names {
        Names { port: port.to_string(), protocol: port.protocol.lower() }
    }

    /// The Service port, as `namespace/name:port`.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// The name that all its chains share, those of endpoints excepted.
    pub fn own(&self) -> Name {
        Name::of(&[&self.port, self.protocol])
    }

    /// The chain of an endpoint, given as `address:port`.
    pub fn endpoint(&self, socket: &str) -> Chain {
        Chain::Of(Kind::Endpoint, Name::of(&[&self.port, self.protocol, socket]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NamespacedName, Protocol};

    #[test]
    fn names_are_those_of_the_reference() {
        // From pkg/proxy/iptables/proxier_test.go: ns2/svc2:p80 and its endpoint.
        let service = NamespacedName::new("ns2", "svc2");
        let port = ServicePortName { service, port: "p80".into(), protocol: Protocol::Tcp };
        let names = Names::new(&port);
        let own = names.own();
        assert_eq!(Chain::Of(Kind::Cluster, own).to_string(), "KUBE-SVC-GNZBNJ2PO5MGZ6GT");
        assert_eq!(Chain::Of(Kind::External, own).to_string(), "KUBE-EXT-GNZBNJ2PO5MGZ6GT");
        let endpoint = names.endpoint("10.180.0.2:80").to_string();
        assert_eq!(endpoint, "KUBE-SEP-RS4RBKLTHTF2IUXJ");
        assert_eq!(Chain::hashed(&endpoint), Some(names.endpoint("10.180.0.2:80")));
        assert_eq!(Chain::hashed("KUBE-SEP-SHORT"), None);
        assert_eq!(Kind::of("KUBE-SERVICES"), None);
    }
}
