//! What the Kubernetes API promises for the first packet of a connection, worked out from the
//! objects. `check` and `--verify` hold the kernel against it.
//!
//! It must never know a ruleset or a mode's rules (`backend`): what judges rules may not be made
//! of them. Which endpoints count it takes from `topology`, the one place that says so; that this
//! is right, and all the rest of it, is held against an oracle that shares no code with it
//! (`proptests/src/oracle.rs`). Tests: `proptests/tests/promises.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::Socket;
use crate::model::{
    Family, LocalDetector, Mode, NodePortAddresses, Protocol, Service, ServicePort,
    ServicePortName, TrafficPolicy,
};
use crate::topology::{Backend, Reach, reach};
use crate::track::Cluster;

/// The node, as far as promises depend on it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Proxy mode: a few promises differ.
    pub mode: Mode,
    /// The mode whose kind of rules packets meet: another one's in userspace mode.
    pub rules: Mode,
    /// The families that are proxied.
    pub families: Vec<Family>,
    /// The addresses the node has.
    pub addresses: BTreeSet<IpAddr>,
    /// How local pods are told from the rest.
    pub detector: LocalDetector,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// Which of the node's addresses take node port traffic.
    pub node_port_addresses: NodePortAddresses,
    /// Whether loopback addresses do (iptables mode, IPv4).
    pub localhost_node_ports: bool,
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who sends it.
    pub source: IpAddr,
    /// For whom it is.
    pub destination: IpAddr,
    /// The port.
    pub port: u16,
    /// The link it comes in by; none: the node sends it.
    pub link: Option<String>,
}

/// What is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It reaches one of these endpoints, each as likely as the other; with whether its source is
    /// to be masqueraded.
    Endpoints(BTreeMap<Socket, bool>),
    /// Its sender is told that nobody is there.
    Reject,
    /// It vanishes.
    Drop,
    /// It is let in: a health check node port.
    Accept,
    /// It is none of the proxy's business.
    Untouched,
}

/// As what an address and port belongs to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Face {
    /// Cluster IP.
    Cluster,
    /// External IP or load balancer IP.
    External,
    /// A port on the node's own addresses.
    NodePort,
}

/// An address and port that belongs to a Service.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// As what.
    pub face: Face,
    /// The Service.
    pub service: &'a Service,
    /// Its port.
    pub port: &'a ServicePort,
    /// The endpoints that may be reached.
    pub reach: Reach,
}

/// Address (none: a node port), protocol and port.
pub type Frontend = (Option<IpAddr>, Protocol, u16);

/// All promises of a cluster on a node.
#[derive(Debug)]
pub struct Promises<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    claims: [BTreeMap<Frontend, Claim<'a>>; 2],
    losers: Vec<(Frontend, ServicePortName, ServicePortName)>,
    cluster_ips: BTreeSet<IpAddr>,
    /// Addresses of Services that have ports.
    bound: BTreeSet<IpAddr>,
    health_ports: [BTreeSet<u16>; 2],
    service_cidrs: Vec<IpNet>,
}

impl<'a> Promises<'a> {
    /// Works out who has which frontend: of several claimants the oldest, by name among equals.
    pub fn new(cluster: &'a Cluster, node: &'a Node) -> Promises<'a> {
        Promises::among(cluster, node, cluster.services().collect())
    }

    /// The same as if there were only some of the Services. It is right for those of them whose
    /// addresses and node ports no other Service has.
    pub fn among(
        cluster: &'a Cluster,
        node: &'a Node,
        mut services: Vec<&'a Service>,
    ) -> Promises<'a> {
        let mut promises = Promises {
            cluster,
            node,
            claims: [BTreeMap::new(), BTreeMap::new()],
            losers: Vec::new(),
            cluster_ips: services.iter().flat_map(|s| s.cluster_ips.iter().copied()).collect(),
            bound: BTreeSet::new(),
            health_ports: [BTreeSet::new(), BTreeSet::new()],
            service_cidrs: cluster.service_cidrs(),
        };
        services.sort_by_key(|service| (service.created, &service.name));
        for service in services {
            for family in Family::ALL.into_iter().filter(|f| service.cluster_ip(*f).is_some()) {
                let of_family =
                    |ip: &&IpAddr| Family::of(**ip) == family && !service.ports.is_empty();
                let outside = service.external_ips.iter().chain(&service.load_balancer_ips);
                promises.bound.extend(service.cluster_ip(family).filter(|ip| of_family(&ip)));
                promises.bound.extend(outside.filter(of_family));
                promises.health_ports[family.index()].extend(service.health_check_node_port);
                service.ports.iter().for_each(|port| promises.claim(service, port, family));
            }
        }
        promises
    }

    fn claim(&mut self, service: &'a Service, port: &'a ServicePort, family: Family) {
        let reach = reach(self.cluster, service, port, family);
        let own =
            |list: &'a [IpAddr]| list.iter().copied().filter(move |ip| Family::of(*ip) == family);
        let cluster =
            service.cluster_ip(family).into_iter().map(|ip| (Face::Cluster, Some(ip), port.port));
        let external = own(&service.external_ips).chain(own(&service.load_balancer_ips));
        let external = external.map(|ip| (Face::External, Some(ip), port.port));
        let node_port = port.node_port.into_iter().map(|number| (Face::NodePort, None, number));
        for (face, address, number) in cluster.chain(external).chain(node_port) {
            let frontend = (address, port.protocol, number);
            let claim = Claim { face, service, port, reach: reach.clone() };
            if let Some(winner) = self.claims[family.index()].get(&frontend) {
                let names = (winner.service.port_name(winner.port), service.port_name(port));
                if names.0 != names.1 {
                    self.losers.push((frontend, names.0, names.1));
                }
                continue;
            }
            self.claims[family.index()].insert(frontend, claim);
        }
    }

    /// Every frontend of a family, with who has it.
    pub fn claims(&self, family: Family) -> &BTreeMap<Frontend, Claim<'a>> {
        &self.claims[family.index()]
    }

    /// Frontends that several claim: who has it, and who does not.
    pub fn conflicts(&self) -> &[(Frontend, ServicePortName, ServicePortName)] {
        &self.losers
    }

    /// How local pods are told from the rest.
    pub fn detector(&self) -> &LocalDetector {
        &self.node.detector
    }

    /// Whether each packet has one endpoint that is chosen by what was before it, so that others are
    /// not seen from it: IPVS' schedulers take turns.
    pub fn take_turns(&self) -> bool {
        self.node.mode == Mode::Ipvs
    }

    /// Every health check node port of a family.
    pub fn health_ports(&self, family: Family) -> &BTreeSet<u16> {
        &self.health_ports[family.index()]
    }

    /// What must become of a packet.
    pub fn of(&self, packet: &Packet) -> Promise {
        if !self.node.families.contains(&Family::of(packet.destination)) {
            return Promise::Untouched;
        }
        let promise = self.without_loopback_guard(packet);
        let translated = matches!(promise, Promise::Endpoints(_));
        if !translated && self.meets_loopback_guard(packet) { Promise::Drop } else { promise }
    }

    /// Where node ports on loopback addresses are possible, strangers are kept out of 127.0.0.0/8.
    fn meets_loopback_guard(&self, packet: &Packet) -> bool {
        let (from, to) = (packet.source, packet.destination);
        let asked = to.is_ipv4() && to.is_loopback() && !from.is_loopback();
        asked && self.takes_node_ports(std::net::Ipv4Addr::LOCALHOST.into())
    }

    fn without_loopback_guard(&self, packet: &Packet) -> Promise {
        let family = Family::of(packet.destination);
        if let Some(claim) = self.claim_of(packet) {
            return self.served(packet, claim);
        }
        let health = packet.protocol == Protocol::Tcp
            && self.is_own(packet.destination)
            && self.health_ports[family.index()].contains(&packet.port);
        if health { Promise::Accept } else { self.guard(packet) }
    }

    /// Who has the packet's frontend: an address comes before node ports.
    pub fn claim_of(&self, packet: &Packet) -> Option<&Claim<'a>> {
        let family = Family::of(packet.destination);
        let claims = &self.claims[family.index()];
        if let Some(claim) = claims.get(&(Some(packet.destination), packet.protocol, packet.port)) {
            return Some(claim);
        }
        let claim = claims.get(&(None, packet.protocol, packet.port))?;
        // In iptables mode a node port without endpoints, or without those that its policy asks
        // for, is refused on every local address.
        let fenced = claim.service.external_policy == TrafficPolicy::Local;
        let none = !claim.reach.any || !self.carries(packet.protocol);
        let unserved = none || fenced && claim.reach.local.is_empty();
        let anywhere = self.node.rules == Mode::Iptables && unserved;
        let taken = anywhere || self.takes_node_ports(packet.destination);
        (self.is_own(packet.destination) && taken).then_some(claim)
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.node.addresses.contains(&address)
    }

    /// Whether an address of the node takes node port traffic.
    pub fn takes_node_ports(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        if address.is_loopback()
            && !(self.node.rules == Mode::Iptables
                && self.node.localhost_node_ports
                && family == Family::V4)
        {
            return false;
        }
        match &self.node.node_port_addresses {
            NodePortAddresses::Primary => {
                let primary = self.primary(family).filter(|ip| !ip.is_loopback());
                primary.is_none_or(|primary| primary == address)
            }
            NodePortAddresses::Cidrs(cidrs) => {
                let mut own = cidrs.iter().filter(|c| Family::of(c.addr()) == family).peekable();
                own.peek().is_none() || own.any(|cidr| cidr.contains(&address))
            }
        }
    }

    fn primary(&self, family: Family) -> Option<IpAddr> {
        self.cluster.node()?.primary(family)
    }

    /// In userspace mode the proxy itself carries connections, and SCTP's it cannot.
    fn carries(&self, protocol: Protocol) -> bool {
        self.node.mode != Mode::Userspace || protocol != Protocol::Sctp
    }

    fn served(&self, packet: &Packet, claim: &Claim<'a>) -> Promise {
        if self.fenced_off(packet, claim) {
            return Promise::Drop;
        }
        if !claim.reach.any || !self.carries(packet.protocol) {
            return self.refused(packet, claim);
        }
        if claim.face == Face::NodePort && !self.takes_node_ports(packet.destination) {
            return Promise::Drop;
        }
        let (endpoints, masquerade) = match claim.face {
            Face::Cluster => self.inside(packet, claim),
            Face::External | Face::NodePort => self.outside(packet, claim),
        };
        if endpoints.is_empty() {
            return Promise::Drop;
        }
        let hairpin = |endpoint: &Backend| {
            let counts = self.node.rules == Mode::Iptables || endpoint.local;
            counts && endpoint.socket.address == packet.source
        };
        // A connection that the node itself makes comes from the node.
        let hidden = self.node.mode == Mode::Userspace;
        let promised = |e: &Backend| (e.socket, hidden || masquerade || hairpin(e));
        Promise::Endpoints(endpoints.iter().map(promised).collect())
    }

    /// In iptables mode nobody asks at the node's own output whether an external address has
    /// endpoints.
    fn refused(&self, packet: &Packet, claim: &Claim<'a>) -> Promise {
        let leaves = packet.link.is_none() && !self.is_own(packet.destination);
        if self.node.rules == Mode::Iptables && claim.face == Face::External && leaves {
            return Promise::Untouched;
        }
        Promise::Reject
    }

    /// Traffic to a cluster IP.
    fn inside<'c>(&self, packet: &Packet, claim: &'c Claim<'a>) -> (&'c [Backend], bool) {
        let list = match claim.service.internal_policy {
            TrafficPolicy::Cluster => &claim.reach.cluster,
            TrafficPolicy::Local => &claim.reach.local,
        };
        let stranger = self.detects(packet) && !self.is_local_pod(packet);
        (list, self.node.masquerade_all || stranger)
    }

    /// Traffic to an external address or node port.
    fn outside<'c>(&self, packet: &Packet, claim: &'c Claim<'a>) -> (&'c [Backend], bool) {
        let reach = &claim.reach;
        if claim.service.external_policy == TrafficPolicy::Cluster {
            return (&reach.cluster, true);
        }
        // In ipvs mode a virtual server has one list for everybody.
        if self.node.mode == Mode::Ipvs && !reach.local.is_empty() {
            return (&reach.local, false);
        }
        // Pods and the node itself are short-circuited to the whole cluster.
        if self.detects(packet) && self.is_local_pod(packet) {
            return (&reach.cluster, false);
        }
        if self.is_own(packet.source) || self.is_bound(packet.source) {
            return (&reach.cluster, true);
        }
        (&reach.local, false)
    }

    /// Whether local pods can be told from the rest at all.
    fn detects(&self, packet: &Packet) -> bool {
        match &self.node.detector {
            LocalDetector::None => false,
            LocalDetector::Cidrs(_) => self.node.detector.cidr(Family::of(packet.source)).is_some(),
            LocalDetector::Bridge(_) | LocalDetector::InterfacePrefix(_) => true,
        }
    }

    fn is_local_pod(&self, packet: &Packet) -> bool {
        let link = packet.link.as_deref().unwrap_or_default();
        match &self.node.detector {
            LocalDetector::None => false,
            LocalDetector::Cidrs(_) => {
                let cidr = self.node.detector.cidr(Family::of(packet.source));
                cidr.is_some_and(|cidr| cidr.contains(&packet.source))
            }
            LocalDetector::Bridge(bridge) => link == bridge,
            LocalDetector::InterfacePrefix(prefix) => {
                !link.is_empty() && link.starts_with(prefix.as_str())
            }
        }
    }

    /// Whether load balancer source ranges keep the packet out.
    fn fenced_off(&self, packet: &Packet, claim: &Claim<'a>) -> bool {
        let service = claim.service;
        let to = packet.destination;
        if claim.face == Face::NodePort || !service.load_balancer_ips.contains(&to) {
            return false;
        }
        let none = !claim.reach.any || !self.carries(packet.protocol);
        let open = none || service.external_ips.contains(&to);
        if self.node.rules == Mode::Iptables && open {
            return false;
        }
        let family = Family::of(to);
        let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
        let ranges: Vec<&IpNet> = service.source_ranges.iter().filter(of_family).collect();
        if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
            return false;
        }
        let covers = |address: IpAddr| ranges.iter().any(|range| range.contains(&address));
        let own = self.primary(family).is_some_and(covers)
            && service.load_balancer_ips.contains(&packet.source);
        !(covers(packet.source) || own)
    }

    /// Whether ipvs mode gives the node a Service's address: nothing of the node is to be reached
    /// there.
    fn is_bound(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        self.node.mode == Mode::Ipvs
            && self.node.families.contains(&family)
            && self.bound.contains(&address)
            && (!self.is_own(address) || self.cluster_ips.contains(&address))
    }

    /// Nothing that is no Service's port leaves the node for an address that is a Service's, or
    /// could become one (rules of nftables mode).
    fn guard(&self, packet: &Packet) -> Promise {
        let to = packet.destination;
        if self.is_bound(to) {
            return Promise::Reject;
        }
        let passes = packet.link.is_none() || !self.is_own(to);
        if self.node.rules != Mode::Nftables || !passes {
            return Promise::Untouched;
        }
        if self.cluster_ips.contains(&to) {
            return Promise::Reject;
        }
        if self.service_cidrs.iter().any(|cidr| cidr.contains(&to)) {
            return Promise::Drop;
        }
        Promise::Untouched
    }
}
