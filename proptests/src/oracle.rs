//! The oracle: what the Kubernetes API promises for the first packet of a connection, worked out
//! from the objects alone. Must never look at a ruleset, nor use topology, track or backend.
//! `#n` cites line n of the project's notes on what the reference (Kubernetes v1.36.2) does.
//! Tests: `tests/`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use kube_proxy::kernel::Socket;
use kube_proxy::model::{Family, LocalDetector, NodePortAddresses, Protocol};

use crate::cluster::{Cluster, Endpoint, Mode, Port, Service, Setup};
use crate::fate::{Entry, Packet, Promise};

/// What must become of `packet`.
pub fn promise(cluster: &Cluster, setup: &Setup, packet: &Packet) -> Promise {
    if !setup.families.contains(&packet.family()) {
        return Promise::Untouched;
    }
    let question = Question { cluster, setup, packet };
    let fate = question.fate();
    let translated = matches!(fate, Promise::Dnat(_));
    if !translated && question.meets_loopback_guard() { Promise::Drop } else { fate }
}

/// As what an address and port belongs to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Cluster IP.
    Cluster,
    /// External IP or load balancer IP.
    External,
    /// A port on the node's own addresses.
    NodePort,
}

/// Who a packet is for.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// As what.
    pub face: Face,
    /// The Service.
    pub service: &'a Service,
    /// Its port.
    pub port: &'a Port,
}

/// One question to the oracle.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// The node.
    pub setup: &'a Setup,
    /// The packet.
    pub packet: &'a Packet,
}

/// Endpoints a Service port may use: for all traffic, for traffic that must stay on the node, and
/// whether there are any anywhere.
#[derive(Clone, Debug, Default)]
pub struct Choice<'a> {
    /// Endpoints of policy Cluster.
    pub cluster: Vec<(Socket, &'a Endpoint)>,
    /// Endpoints of policy Local.
    pub local: Vec<(Socket, &'a Endpoint)>,
    /// Whether anything could ever answer; decides between drop and reject (#26).
    pub any: bool,
}

impl<'a> Question<'a> {
    fn fate(&self) -> Promise {
        if let Some(claim) = self.claim() {
            return self.served(&claim);
        }
        if self.health_check() {
            return Promise::Accept;
        }
        self.guard()
    }

    /// Where node ports on loopback addresses are possible, strangers are kept out of 127.0.0.0/8
    /// (#43).
    fn meets_loopback_guard(&self) -> bool {
        let possible = self.takes_node_ports(Ipv4Addr::LOCALHOST.into());
        let (from, to) = (self.packet.source, self.packet.dest);
        possible && to.is_ipv4() && to.is_loopback() && !from.is_loopback()
    }

    /// The Service port the packet is for. The most senior claimant of an address and port has it
    /// for itself; an address is looked at before the node ports (#56).
    pub fn claim(&self) -> Option<Claim<'a>> {
        self.address_claim().or_else(|| self.node_port_claim())
    }

    fn ports(&self) -> impl Iterator<Item = (&'a Service, &'a Port)> {
        let family = self.packet.family();
        self.cluster
            .services
            .iter()
            .filter(move |s| s.cluster_ips.iter().any(|ip| Family::of(*ip) == family))
            .flat_map(|s| s.ports.iter().map(move |p| (s, p)))
            .filter(|(_, p)| p.protocol == self.packet.protocol)
    }

    fn address_claim(&self) -> Option<Claim<'a>> {
        let dest = self.packet.dest;
        self.ports().filter(|(_, p)| p.port == self.packet.port).find_map(|(service, port)| {
            let face = if cluster_ip(service, self.packet.family()) == Some(dest) {
                Face::Cluster
            } else if service.external_ips.contains(&dest)
                || service.load_balancer_ips.contains(&dest)
            {
                Face::External
            } else {
                return None;
            };
            Some(Claim { face, service, port })
        })
    }

    fn node_port_claim(&self) -> Option<Claim<'a>> {
        if !self.setup.is_own(self.packet.dest) {
            return None;
        }
        let (service, port) = self.ports().find(|(_, p)| p.node_port == self.packet.port)?;
        let claim = Claim { face: Face::NodePort, service, port };
        // In iptables mode a node port without endpoints is refused on every local address,
        // whatever the node port addresses are (#30).
        let choice = self.choice(&claim);
        let unserved =
            !choice.any || !self.carries() || (service.external_local && choice.local.is_empty());
        let refused_anywhere = self.setup.rules() == Mode::Iptables && unserved;
        (refused_anywhere || self.takes_node_ports(self.packet.dest)).then_some(claim)
    }

    /// Whether a local address takes NodePort traffic (#57, #65).
    pub fn takes_node_ports(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            let possible = self.setup.mode == Mode::Iptables
                && self.setup.localhost_node_ports
                && address.is_ipv4();
            if !possible {
                return false;
            }
        }
        let family = Family::of(address);
        match &self.setup.node_port_addresses {
            NodePortAddresses::Primary => self.setup.primary(family) == Some(address),
            NodePortAddresses::Cidrs(cidrs) => {
                let mut own = cidrs.iter().filter(|c| Family::of(c.addr()) == family).peekable();
                own.peek().is_none() || own.any(|c| c.contains(&address))
            }
        }
    }

    /// In userspace mode the proxy itself carries connections, and SCTP's it cannot.
    fn carries(&self) -> bool {
        self.setup.mode != Mode::Userspace || self.packet.protocol != Protocol::Sctp
    }

    fn served(&self, claim: &Claim<'a>) -> Promise {
        let choice = self.choice(claim);
        if self.fenced_off(claim, &choice) {
            return Promise::Drop;
        }
        if !choice.any || !self.carries() {
            return self.refused(claim, Promise::Reject);
        }
        if claim.face == Face::NodePort && !self.takes_node_ports(self.packet.dest) {
            return Promise::Drop;
        }
        let (endpoints, masquerade) = match claim.face {
            Face::Cluster => self.inside(claim, &choice),
            Face::External | Face::NodePort => self.outside(claim, &choice),
        };
        if endpoints.is_empty() {
            return Promise::Drop;
        }
        Promise::Dnat(
            endpoints
                .iter()
                .map(|(socket, endpoint)| {
                    // A connection that the node itself makes comes from the node.
                    let hidden = self.setup.mode == Mode::Userspace;
                    (*socket, hidden || masquerade || self.hairpin(endpoint))
                })
                .collect(),
        )
    }

    /// In iptables mode nobody asks at the node's own output whether an external address has
    /// endpoints (#25).
    fn refused(&self, claim: &Claim, fate: Promise) -> Promise {
        let leaves = self.packet.entry == Entry::Node && !self.setup.is_own(self.packet.dest);
        if self.setup.rules() == Mode::Iptables && claim.face == Face::External && leaves {
            return Promise::Untouched;
        }
        fate
    }

    /// Traffic to a cluster IP (#33).
    fn inside<'c>(&self, claim: &Claim, choice: &'c Choice<'a>) -> Chosen<'c, 'a> {
        let list = if claim.service.internal_local { &choice.local } else { &choice.cluster };
        let stranger = self.detects() && !self.source_is_local_pod();
        (list, self.setup.masquerade_all || stranger)
    }

    /// Traffic to an external address or node port (#27, #28).
    fn outside<'c>(&self, claim: &Claim, choice: &'c Choice<'a>) -> Chosen<'c, 'a> {
        if !claim.service.external_local {
            return (&choice.cluster, true);
        }
        // In ipvs mode a virtual server has one list for everybody (#71).
        if self.setup.mode == Mode::Ipvs && !choice.local.is_empty() {
            return (&choice.local, false);
        }
        if self.detects() && self.source_is_local_pod() {
            return (&choice.cluster, false);
        }
        if self.setup.is_own(self.packet.source) || self.is_bound(self.packet.source) {
            return (&choice.cluster, true);
        }
        (&choice.local, false)
    }

    fn detects(&self) -> bool {
        match &self.setup.detector {
            LocalDetector::None => false,
            LocalDetector::Cidrs(_) => self.local_cidr().is_some(),
            LocalDetector::Bridge(_) | LocalDetector::InterfacePrefix(_) => true,
        }
    }

    /// Only the first CIDR of each family counts (#88).
    fn local_cidr(&self) -> Option<IpNet> {
        let LocalDetector::Cidrs(cidrs) = &self.setup.detector else { return None };
        cidrs.iter().copied().find(|c| Family::of(c.addr()) == self.packet.family())
    }

    fn source_is_local_pod(&self) -> bool {
        let interface = match &self.packet.entry {
            Entry::Node => "",
            Entry::Link(name) => name,
        };
        match &self.setup.detector {
            LocalDetector::None => false,
            LocalDetector::Cidrs(_) => {
                self.local_cidr().is_some_and(|c| c.contains(&self.packet.source))
            }
            LocalDetector::Bridge(bridge) => interface == bridge,
            LocalDetector::InterfacePrefix(prefix) => {
                !interface.is_empty() && interface.starts_with(prefix.as_str())
            }
        }
    }

    /// A pod that reaches itself through a Service must not see its own address (#34, #59).
    fn hairpin(&self, endpoint: &Endpoint) -> bool {
        let counts = self.setup.rules() == Mode::Iptables || endpoint.node == self.setup.node_name;
        counts && endpoint.address == self.packet.source
    }

    /// Whether load balancer source ranges keep the packet out (#7, #29, #63).
    fn fenced_off(&self, claim: &Claim, choice: &Choice) -> bool {
        let service = claim.service;
        if claim.face == Face::NodePort || !service.load_balancer_ips.contains(&self.packet.dest) {
            return false;
        }
        let open =
            !choice.any || !self.carries() || service.external_ips.contains(&self.packet.dest);
        if self.setup.rules() == Mode::Iptables && open {
            return false;
        }
        let family = self.packet.family();
        let ranges: Vec<&IpNet> =
            service.source_ranges.iter().filter(|r| Family::of(r.addr()) == family).collect();
        if ranges.is_empty() || ranges.iter().any(|r| r.prefix_len() == 0) {
            return false;
        }
        let covers = |a: IpAddr| ranges.iter().any(|r| r.contains(&a));
        let node_may = self.setup.primary(family).is_some_and(covers);
        let own_answer = node_may && service.load_balancer_ips.contains(&self.packet.source);
        !(covers(self.packet.source) || own_answer)
    }

    /// The endpoints of a Service port (#13, #15 to #18).
    pub fn choice(&self, claim: &Claim) -> Choice<'a> {
        let all = self.endpoints(claim);
        let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<(Socket, &'a Endpoint)> {
            all.iter().filter(|(_, e)| wanted(e)).map(|(s, e)| (*s, *e)).collect()
        };
        let leaving = |e: &Endpoint| e.serving && e.terminating;
        let here = |e: &Endpoint| e.node == self.setup.node_name;
        let ready: Vec<&Endpoint> = all.values().copied().filter(|e| e.ready).collect();
        let hint = self.hint(&ready);
        let mut cluster = pick(&|e| e.ready && self.suits(e, hint));
        if cluster.is_empty() {
            cluster = pick(&leaving);
        }
        let mut local = pick(&|e| here(e) && e.ready);
        if local.is_empty() {
            local = pick(&|e| here(e) && leaving(e));
        }
        let any = all.values().any(|e| e.ready || leaving(e));
        Choice { cluster, local, any }
    }

    /// How many endpoints of a Service port are ready, wherever they are.
    pub fn ready(&self, claim: &Claim) -> usize {
        self.endpoints(claim).values().filter(|e| e.ready).count()
    }

    /// Endpoints of the port by socket. Of several mentions of one the most hopeful counts: not
    /// terminating, then ready, then serving; else the first by its slice's name (#13 leaves this
    /// to a hash map).
    fn endpoints(&self, claim: &Claim) -> BTreeMap<Socket, &'a Endpoint> {
        let (_, namespace, name) = &claim.service.seniority;
        let mut found: BTreeMap<Socket, &'a Endpoint> = BTreeMap::new();
        for endpoint in &self.cluster.endpoints {
            let ours = endpoint.service.0 == *namespace && endpoint.service.1 == *name;
            if !ours || Family::of(endpoint.address) != self.packet.family() {
                continue;
            }
            for (port_name, protocol, port) in &endpoint.ports {
                if *port_name != claim.port.name || *protocol != claim.port.protocol {
                    continue;
                }
                let socket = Socket { address: endpoint.address, port: *port };
                let worth = |e: &Endpoint| (!e.terminating, e.ready, e.serving);
                if found.get(&socket).is_none_or(|known| worth(endpoint) > worth(known)) {
                    found.insert(socket, endpoint);
                }
            }
        }
        found
    }

    /// Hints count only if every ready endpoint has one and one of them is for us (#17).
    fn hint(&self, ready: &[&Endpoint]) -> Hint {
        let (node, zone) = (&self.setup.node_name, &self.setup.zone);
        let by_node = ready.iter().all(|e| !e.nodes.is_empty())
            && ready.iter().any(|e| e.nodes.contains(node));
        let by_zone = !zone.is_empty()
            && ready.iter().all(|e| !e.zones.is_empty())
            && ready.iter().any(|e| e.zones.contains(zone));
        match (by_node, by_zone) {
            (true, _) => Hint::Node,
            (false, true) => Hint::Zone,
            (false, false) => Hint::None,
        }
    }

    fn suits(&self, endpoint: &Endpoint, hint: Hint) -> bool {
        match hint {
            Hint::None => true,
            Hint::Node => endpoint.nodes.contains(&self.setup.node_name),
            Hint::Zone => endpoint.zones.contains(&self.setup.zone),
        }
    }

    /// Whether it is a health check of a load balancer (#32).
    fn health_check(&self) -> bool {
        self.packet.protocol == Protocol::Tcp
            && self.setup.is_own(self.packet.dest)
            && self.cluster.services.iter().any(|s| {
                s.health_port == self.packet.port
                    && s.health_port != 0
                    && cluster_ip(s, self.packet.family()).is_some()
            })
    }

    /// The cluster-IP guard: nothing that is not a Service's port leaves the node for an address
    /// that is a Service's or could become one (#57).
    fn guard(&self) -> Promise {
        let dest = self.packet.dest;
        if self.is_bound(dest) {
            return Promise::Reject;
        }
        let passes_guard = self.packet.entry == Entry::Node || !self.setup.is_own(dest);
        if self.setup.rules() != Mode::Nftables || !passes_guard {
            return Promise::Untouched;
        }
        let family = self.packet.family();
        if self.cluster.services.iter().any(|s| cluster_ip(s, family) == Some(dest)) {
            return Promise::Reject;
        }
        if self.cluster.service_cidrs.iter().any(|c| c.contains(&dest)) {
            return Promise::Drop;
        }
        Promise::Untouched
    }
}

impl Question<'_> {
    /// Whether ipvs mode gives the node a Service's address (#69): nothing of the node is to be
    /// reached there (#77).
    pub fn is_bound(&self, address: IpAddr) -> bool {
        is_bound(self.cluster, self.setup, address)
    }
}

/// See [`Question::is_bound`].
pub fn is_bound(cluster: &Cluster, setup: &Setup, address: IpAddr) -> bool {
    let family = Family::of(address);
    let proxied = |s: &&Service| cluster_ip(s, family).is_some() && !s.ports.is_empty();
    setup.mode == Mode::Ipvs
        && setup.families.contains(&family)
        && cluster.services.iter().filter(proxied).any(|s| {
            let outside =
                s.external_ips.contains(&address) || s.load_balancer_ips.contains(&address);
            cluster_ip(s, family) == Some(address) || outside && !setup.is_own(address)
        })
}

/// How a packet from this address gets onto the node: one of the node's own it sends itself. A
/// packet that came from outside with such a source Linux does not take.
pub fn entry(cluster: &Cluster, setup: &Setup, source: IpAddr, link: &str) -> Entry {
    if setup.is_own(source) || is_bound(cluster, setup, source) {
        return Entry::Node;
    }
    Entry::Link(link.to_owned())
}

type Chosen<'c, 'a> = (&'c [(Socket, &'a Endpoint)], bool);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    None,
    Node,
    Zone,
}

fn cluster_ip(service: &Service, family: Family) -> Option<IpAddr> {
    service.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
}
