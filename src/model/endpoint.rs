//! EndpointSlices as the proxy sees them. Kept small: a cluster has hundreds of thousands.
//! Tests: with their users.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Family, NamespacedName, Protocol};

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name of the slice itself.
    pub name: NamespacedName,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: NamespacedName,
    /// `addressType`.
    pub family: Family,
    /// Ports with a name and a number other than 0.
    pub ports: Vec<SlicePort>,
    /// Endpoints with a valid first address of the slice's family.
    pub endpoints: Box<[Endpoint]>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in nanoseconds since 1970.
    pub trigger_time: Option<i64>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    /// The Service port's name this is for; empty for an unnamed one.
    pub name: Arc<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the endpoint; never 0.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses[0]`: the only one a proxy may use.
    pub address: IpAddr,
    /// Ready, serving, terminating; absent ones already defaulted.
    pub conditions: Conditions,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// Topology hints, if any; shared, since whole zones of endpoints have the same.
    pub hints: Option<Arc<Hints>>,
}

/// An endpoint's conditions, with nil read as the API says: ready, serving, not terminating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// May receive new traffic.
    pub ready: bool,
    /// Answers, whether or not it is terminating.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions { ready: true, serving: true, terminating: false }
    }
}

/// `endpoints[].hints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes[].name`.
    pub nodes: Vec<Arc<str>>,
}
