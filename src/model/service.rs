//! A Service as the proxy sees it: only fields that change where packets go.
//! Fields are already checked and normalised by `api::decode`. Tests: with their users.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Family, NamespacedName, Protocol, ServicePortName};

/// Which endpoints a kind of traffic may reach.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// A Service with something to program: never headless, never ExternalName.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `metadata.creationTimestamp` in seconds since 1970; `i64::MAX` where the object has none.
    /// The older of two Services that claim one address and port wins.
    pub created: i64,
    /// Cluster IPs, at most one a family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs` of both families.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` nil or `VIP`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` of both families, as written (spaces trimmed).
    pub source_ranges: Vec<IpNet>,
    /// `externalTrafficPolicy`; `Local` only where the Service is reachable from outside
    /// (NodePort, LoadBalancer, or ClusterIP with externalIPs: `pkg/api/v1/service/util.go`).
    pub external_policy: TrafficPolicy,
    /// `internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity: Option<u32>,
    /// `healthCheckNodePort`, only for type LoadBalancer with external policy Local.
    pub health_check_node_port: Option<u16>,
    /// Whether anything outside the cluster can reach it (type or externalIPs).
    pub externally_accessible: bool,
    /// Annotation `kube-proxy.io/ipvs-scheduler`: how ipvs mode chooses endpoints for it, as
    /// written; `None`: as for every Service.
    pub ipvs_scheduler: Option<Arc<str>>,
    /// Annotation `kube-proxy.io/proxy-protocol`: how userspace mode tells endpoints of their client,
    /// as written; `None`: not at all.
    pub proxy_protocol: Option<Arc<str>>,
    /// Annotation `kube-proxy.io/forget-tcp-flows`: whether TCP connections to an endpoint that is
    /// gone are forgotten as UDP flows are, so that their clients hear of it at the next packet.
    pub forget_tcp_flows: bool,
    /// The ports, in the order of the object.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name; empty if it is the only one.
    pub name: Arc<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the cluster, external and load balancer addresses.
    pub port: u16,
    /// Port on the node's own addresses.
    pub node_port: Option<u16>,
}

impl Service {
    /// The cluster IP of one family. A Service without one is not programmed in that family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// The name of one of its ports.
    pub fn port_name(&self, port: &ServicePort) -> ServicePortName {
        ServicePortName {
            service: self.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
        }
    }

    /// Whether some traffic may use any endpoint of the cluster
    /// (`UsesClusterEndpoints` of `pkg/proxy/serviceport.go`).
    pub fn uses_cluster_endpoints(&self) -> bool {
        // Even with external policy Local, pods and the node itself are short-circuited.
        self.internal_policy == TrafficPolicy::Cluster || self.externally_accessible
    }

    /// Whether some traffic may use only endpoints of this node.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local
            || (self.externally_accessible && self.external_policy == TrafficPolicy::Local)
    }
}
