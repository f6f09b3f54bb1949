//! The words of connections that this process carries itself, at the seam. Values only.
//! Tests: `relay`, the hearts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::Socket;
use crate::model::{Family, ServicePortName, TrafficPolicy};

/// Names a listening port: whose connections come in there, and to which of its endpoints they go.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct RelayKey {
    /// The family of clients and endpoints.
    pub family: Family,
    /// The Service port.
    pub origin: Arc<ServicePortName>,
    /// Whether its endpoints are all of the cluster's or those of this node.
    pub policy: TrafficPolicy,
}

impl fmt::Display for RelayKey {
    /// `namespace/name:port (IPv4)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.origin, self.family)
    }
}

/// What a listening port is for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RelayServing {
    /// The local address it listens at.
    pub address: IpAddr,
    /// Where its connections go.
    pub endpoints: Arc<[Socket]>,
    /// How long a client stays with an endpoint.
    pub affinity: Option<Duration>,
    /// Whether TCP endpoints are told of the client.
    pub announce: RelayAnnounce,
}

/// Whether endpoints are told who their client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RelayAnnounce {
    /// They see this node.
    #[default]
    Nothing,
    /// By the PROXY protocol, version 2.
    ProxyV2,
}

/// What the relay is started with; it holds until the process ends.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RelaySettings {
    /// Local ports to listen at; `None` is any free one.
    pub ports: Option<RangeInclusive<u16>>,
    /// How long a UDP flow is kept after its last datagram.
    pub udp_timeout: Duration,
    /// Connections and UDP flows in all; `None`: what descriptors allow.
    pub most_connections: Option<u64>,
    /// Connections and UDP flows of one Service port, over its families; `None`: no limit of its own.
    pub most_of_each: Option<u64>,
    /// How long open connections may go on when the process is to end.
    pub drain: Duration,
}

impl Default for RelaySettings {
    /// The reference's defaults.
    fn default() -> Self {
        RelaySettings {
            ports: None,
            udp_timeout: Duration::from_millis(250),
            most_connections: None,
            most_of_each: None,
            drain: Duration::from_secs(10),
        }
    }
}

/// One change. They are tried in order, each whatever became of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayOperation {
    /// Starts the relay, if it has not been started.
    Start(RelaySettings),
    /// Serves a port from now on, and opens it if it is not open. Where none can be had, the
    /// answer to `Query::RelayPorts` says why.
    Serve(RelayKey, RelayServing),
    /// Listens there no more. Open TCP connections go on.
    Stop(RelayKey),
    /// Accepts no more, and waits so long for open TCP connections to end before they are broken
    /// off.
    Drain(Duration),
}

/// A listening port that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RelayFact {
    /// Its name.
    pub key: RelayKey,
    /// The port, or why there is none.
    pub port: Result<u16, String>,
}

/// The chain of iptables that drops what was not led there, where rules of iptables lead packets.
pub const RELAY_CHAIN: &str = "KUBE-PROXY-GUARD";

/// The address that a family's ports are bound to, on the loopback interface. Nobody else has it:
/// link-local and unique local addresses are no Service's and no pod's, and a rule drops what
/// was not led there by ours.
pub fn relay_address(family: Family) -> IpAddr {
    match family {
        // The last two octets are "kp".
        Family::V4 => Ipv4Addr::new(169, 254, 107, 112).into(),
        // "kube-pr" in RFC 4193's range.
        Family::V6 => Ipv6Addr::new(0xfd6b, 0x7562, 0x652d, 0x7072, 0, 0, 0, 1).into(),
    }
}

/// Whether it is one of them.
pub fn is_relay_address(address: IpAddr) -> bool {
    relay_address(Family::of(address)) == address
}
