//! What one frontend wants: an address, protocol and port, and what becomes of packets to it.
//!
//! Knows policies and endpoints, no set and no rule. One frontend is the unit in which things
//! change: its elements are replaced together, in one transaction. Tests: below, `proptests`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::kernel::Socket;
use crate::model::{Family, Protocol, Service, ServicePort, ServicePortName, TrafficPolicy};
use crate::topology::{Reach, reach};
use crate::track::Cluster;

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address; `None`: any address of the node that takes node port traffic.
    pub address: Option<IpAddr>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// An endpoint as a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Address and port.
    pub socket: Socket,
    /// Whether it runs on this node.
    pub local: bool,
}

/// Who a frontend is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A cluster IP.
    Internal,
    /// An external address or node port with policy Cluster.
    External,
    /// An external address or node port with policy Local.
    Local,
}

/// As what a Service has a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// A cluster IP.
    ClusterIp,
    /// An external IP, whether or not it is a load balancer IP as well.
    ExternalIp,
    /// A load balancer IP.
    LoadBalancerIp,
    /// A port on the node's own addresses.
    NodePort,
}

/// What happens to connections that have no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// They are refused: there is no endpoint anywhere.
    Reject,
    /// They are dropped: there are endpoints, but policy Local leaves none on this node.
    Drop,
}

/// What becomes of packets to one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The Service port it is for.
    pub origin: Arc<ServicePortName>,
    /// When the Service was made; the older one wins a frontend that two claim.
    pub created: i64,
    /// Who it is for.
    pub role: Role,
    /// As what the Service has the frontend.
    pub face: Face,
    /// Which endpoints traffic from outside the node may use.
    pub policy: TrafficPolicy,
    /// Whether the frontend's address is a cluster IP.
    pub cluster_ip: bool,
    /// Seconds a client is remembered, for session affinity.
    pub sticky: Option<u32>,
    /// Whether `targets` are all of the cluster's or those of this node.
    pub targets_policy: TrafficPolicy,
    /// Endpoints, sorted; with role Local those that pods and the node itself may use.
    pub targets: Arc<[Target]>,
    /// How many endpoints there are beyond the most that a frontend can have.
    pub left_out: usize,
    /// With role Local, the endpoints of this node that everybody else may use.
    pub local: Arc<[Target]>,
    /// With a policy Local that leaves no endpoint, those of other nodes: for a mode that is told to
    /// go there all the same.
    pub elsewhere: Arc<[Target]>,
    /// What happens to connections that find no endpoint.
    pub unserved: Option<Unserved>,
    /// The only sources that may use it, none inside another; `None`: all may.
    pub sources: Option<Arc<[IpNet]>>,
    /// How ipvs mode is asked to choose an endpoint; `None`: as for every Service.
    pub ipvs_scheduler: Option<Arc<str>>,
    /// How userspace mode is asked to tell endpoints of their client; `None`: not at all.
    pub proxy_protocol: Option<Arc<str>>,
    /// Whether TCP connections to endpoints that are gone are to be forgotten.
    pub forget_tcp_flows: bool,
}

impl Program {
    /// What claims are ordered by: the least one wins.
    pub fn precedence(&self) -> (i64, &ServicePortName) {
        (self.created, &self.origin)
    }

    /// Every target, those of this node perhaps twice.
    pub fn all_targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().chain(self.local.iter())
    }
}

/// The most endpoints one frontend can have: the count is 16 bits of a treatment.
pub const MOST_TARGETS: usize = 65_535;

/// Everything one Service wants in one family, in the order of precedence: of two frontends with
/// the same key the first counts.
pub fn compile(cluster: &Cluster, service: &Service, family: Family) -> Vec<(Frontend, Program)> {
    let Some(cluster_ip) = service.cluster_ip(family) else { return Vec::new() };
    let mut out = Vec::new();
    for port in &service.ports {
        let reach = reach(cluster, service, port, family);
        let compiled = Port::new(service, port, &reach);
        out.push((compiled.at(Some(cluster_ip)), compiled.internal()));
        let external = compiled.external();
        for ip in of_family(&service.load_balancer_ips, family) {
            let sources = allowed_sources(cluster, service, ip);
            let also_external = service.external_ips.contains(&ip);
            let face = if also_external { Face::ExternalIp } else { Face::LoadBalancerIp };
            out.push((compiled.at(Some(ip)), Program { sources, face, ..external.clone() }));
        }
        for ip in of_family(&service.external_ips, family) {
            out.push((compiled.at(Some(ip)), external.clone()));
        }
        if let Some(node_port) = port.node_port {
            let frontend = Frontend { address: None, protocol: port.protocol, port: node_port };
            out.push((frontend, Program { face: Face::NodePort, ..external.clone() }));
        }
    }
    out
}

fn of_family(ips: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> {
    ips.iter().copied().filter(move |ip| Family::of(*ip) == family)
}

/// One Service port with its endpoints, from which each of its frontends is made.
struct Port<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    origin: Arc<ServicePortName>,
    any: bool,
    left_out: usize,
    cluster: Arc<[Target]>,
    local: Arc<[Target]>,
}

impl<'a> Port<'a> {
    fn new(service: &'a Service, port: &'a ServicePort, reach: &Reach) -> Port<'a> {
        let targets = |list: &[crate::topology::Backend]| -> Arc<[Target]> {
            list.iter()
                .take(MOST_TARGETS)
                .map(|b| Target { socket: b.socket, local: b.local })
                .collect()
        };
        Port {
            service,
            port,
            origin: Arc::new(service.port_name(port)),
            any: reach.any,
            left_out: reach.cluster.len().max(reach.local.len()).saturating_sub(MOST_TARGETS),
            cluster: targets(&reach.cluster),
            local: targets(&reach.local),
        }
    }

    fn at(&self, address: Option<IpAddr>) -> Frontend {
        Frontend { address, protocol: self.port.protocol, port: self.port.port }
    }

    fn internal(&self) -> Program {
        let local = self.service.internal_policy == TrafficPolicy::Local;
        let targets = if local { &self.local } else { &self.cluster };
        let program = self.program(Role::Internal, targets.clone());
        let elsewhere = match self.unserved(targets) {
            Some(Unserved::Drop) => self.cluster.clone(),
            _ => Arc::new([]),
        };
        Program {
            cluster_ip: true,
            face: Face::ClusterIp,
            policy: self.service.internal_policy,
            targets_policy: self.service.internal_policy,
            elsewhere,
            unserved: self.unserved(targets),
            ..program
        }
    }

    fn external(&self) -> Program {
        match self.service.external_policy {
            TrafficPolicy::Cluster => {
                let program = self.program(Role::External, self.cluster.clone());
                Program { unserved: self.unserved(&self.cluster), ..program }
            }
            TrafficPolicy::Local => {
                let program = self.program(Role::Local, self.cluster.clone());
                let unserved = self.unserved(&self.local);
                Program { local: self.local.clone(), unserved, ..program }
            }
        }
    }

    fn unserved(&self, targets: &[Target]) -> Option<Unserved> {
        match (targets.is_empty(), self.any) {
            (false, _) => None,
            (true, true) => Some(Unserved::Drop),
            (true, false) => Some(Unserved::Reject),
        }
    }

    /// What an external address wants, until more is said.
    fn program(&self, role: Role, targets: Arc<[Target]>) -> Program {
        Program {
            origin: self.origin.clone(),
            created: self.service.created,
            role,
            face: Face::ExternalIp,
            policy: self.service.external_policy,
            cluster_ip: false,
            sticky: self.service.affinity,
            targets_policy: TrafficPolicy::Cluster,
            targets,
            left_out: self.left_out,
            local: Arc::new([]),
            elsewhere: Arc::new([]),
            unserved: None,
            sources: None,
            ipvs_scheduler: self.service.ipvs_scheduler.clone(),
            proxy_protocol: self.service.proxy_protocol.clone(),
            forget_tcp_flows: self.service.forget_tcp_flows,
        }
    }
}

/// Who may use a load balancer IP. A range that takes in everything, or ranges of the other family
/// only, restrict nobody (`pkg/proxy/serviceport.go`). Where the node itself is allowed, so is the
/// load balancer IP: the node may have it as its own address and send from it.
fn allowed_sources(cluster: &Cluster, service: &Service, ip: IpAddr) -> Option<Arc<[IpNet]>> {
    let family = Family::of(ip);
    let ranges: Vec<IpNet> = service
        .source_ranges
        .iter()
        .filter(|range| Family::of(range.addr()) == family)
        .map(IpNet::trunc)
        .collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    let node = cluster.node().and_then(|node| node.primary(family));
    let node_allowed = node.is_some_and(|node| ranges.iter().any(|range| range.contains(&node)));
    let own: Vec<IpNet> = of_family(&service.load_balancer_ips, family)
        .filter(|_| node_allowed)
        .map(IpNet::from)
        .collect();
    Some(without_nested(ranges.into_iter().chain(own)).into())
}

/// Sorted, without ranges that lie inside another: the kernel refuses ranges that overlap.
pub fn without_nested(ranges: impl IntoIterator<Item = IpNet>) -> Vec<IpNet> {
    let mut sorted: Vec<IpNet> = ranges.into_iter().map(|range| range.trunc()).collect();
    // A wider range sorts before those inside it.
    sorted.sort_by_key(|range| (range.addr(), range.prefix_len()));
    let mut kept: Vec<IpNet> = Vec::with_capacity(sorted.len());
    for range in sorted {
        if !kept.last().is_some_and(|last| last.contains(&range)) {
            kept.push(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_ranges_are_left_out() {
        let ranges = ["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "192.168.0.1/24", "9.0.0.0/8"];
        let kept = without_nested(ranges.iter().map(|r| r.parse().expect("a CIDR")));
        let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["9.0.0.0/8", "10.0.0.0/8", "192.168.0.0/24"]);
    }
}
