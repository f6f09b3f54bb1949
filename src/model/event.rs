//! Events: what the API server or the manifests say has become of one object.
//! The only way in for cluster state. Tests: in `track`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{EndpointSlice, NamespacedName, Node, Notice, Service};

/// The watched kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node: only this one.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// Every watched kind.
    pub const ALL: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];

    /// The kind as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
        }
    }
}

/// One piece of news about the cluster.
///
/// A full list is told as `ListStarted`, one event an object, `ListEnded`; objects not told of in
/// between are gone at `ListEnded`, and until then nothing is taken away. Nothing is programmed
/// before every kind's first `ListEnded`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A Service exists and looks like this. Also told for Services that are not programmed any
    /// more as `ServiceGone`.
    Service(Box<Service>),
    /// A Service is gone, or is none of the proxy's business any more.
    ServiceGone(NamespacedName),
    /// A slice exists and looks like this.
    Slice(Box<EndpointSlice>),
    /// A slice is gone, or no longer of any Service.
    SliceGone(NamespacedName),
    /// This node looks like this.
    Node(Box<Node>),
    /// This node's object is gone.
    NodeGone,
    /// A ServiceCIDR object has these CIDRs.
    ServiceCidr(NamespacedName, Vec<IpNet>),
    /// A ServiceCIDR object is gone.
    ServiceCidrGone(NamespacedName),
    /// What is wrong with one object now; an empty list takes earlier ones back. Told beside the
    /// object's own event, before it. Never written to a dump.
    #[serde(skip)]
    Notices(Kind, NamespacedName, Vec<Notice>),
    /// A full list of a kind begins.
    ListStarted(Kind),
    /// A full list of a kind is complete.
    ListEnded(Kind),
}
