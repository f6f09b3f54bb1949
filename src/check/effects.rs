//! What a change would do for whom: to every kind of client what is promised as things are, and as
//! they would be.
//!
//! It must never look at a rule: what other programs do to packets stays as it is.
//! Tests: `what_if_tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::Case;
use super::classes::{OUTSIDE, is_link_local, is_nobody};
use super::contrast::{Contrast, Side, contrast};
use crate::kernel::Socket;
use crate::model::{Event, Family, Protocol};
use crate::promise::{Claim, Face, Frontend, Node, Packet, Promise, Promises};
use crate::sync::Options;
use crate::topology::local_ready;
use crate::trace::{World, stand_in};
use crate::track::Cluster;

/// What a change does to one frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// The Service port.
    pub service: String,
    /// Its frontend.
    pub frontend: String,
    /// What is other whoever asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// What is other for whom.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<Concerned>,
}

/// Clients for whom the same is other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Concerned {
    /// Who, such as `pods of this node`.
    pub who: Vec<String>,
    /// What it is and what it would be.
    #[serde(flatten)]
    pub contrast: Contrast,
}

/// Of a load balancer's source ranges so many are asked from.
const MOST_RANGES: usize = 3;
/// Of so many addresses in a row one is nobody's yet.
const MOST_TRIED: usize = 256;

/// What is different for whom between two cases, on the node of a world.
pub fn effects(world: &World, before: &Case<'_>, after: &Case<'_>) -> Vec<Effect> {
    let trackers = [before.tracker(), after.tracker()];
    let nodes = [super::node(before.options, world), super::node(after.options, world)];
    let promises = [0, 1].map(|at: usize| Promises::new(trackers[at].cluster(), &nodes[at]));
    let view = View {
        world,
        options: before.options,
        clusters: [trackers[0].cluster(), trackers[1].cluster()],
        nodes: &nodes,
        promises: &promises,
        places: places(before.events.iter().chain(after.events)),
    };
    Family::ALL.into_iter().flat_map(|family| view.of_family(family)).collect()
}

/// The nodes that endpoints run on.
fn places<'e>(events: impl Iterator<Item = &'e Event>) -> BTreeMap<IpAddr, Arc<str>> {
    let slices = events.filter_map(|event| match event {
        Event::Slice(slice) => Some(slice),
        _ => None,
    });
    let endpoints = slices.flat_map(|slice| slice.endpoints.iter());
    endpoints.filter_map(|endpoint| Some((endpoint.address, endpoint.node.clone()?))).collect()
}

/// Both cases; of each pair the first is how things are.
struct View<'a> {
    world: &'a World,
    options: &'a Options,
    clusters: [&'a Cluster; 2],
    nodes: &'a [Node; 2],
    promises: &'a [Promises<'a>; 2],
    places: BTreeMap<IpAddr, Arc<str>>,
}

/// One who asks.
#[derive(Clone)]
struct Client {
    who: String,
    source: IpAddr,
    link: Option<String>,
}

/// Where node ports or an address are asked, with words where there are several such places.
struct Place {
    address: IpAddr,
    words: String,
}

type Claims<'c> = [Option<&'c Claim<'c>>; 2];

impl View<'_> {
    fn of_family(&self, family: Family) -> Vec<Effect> {
        let [before, after] = self.promises;
        let keys: BTreeSet<&Frontend> =
            before.claims(family).keys().chain(after.claims(family).keys()).collect();
        let pods = self.pods(family);
        let places = self.node_port_places(family);
        let mut found: Vec<Effect> =
            keys.into_iter().filter_map(|key| self.effect((family, key), &pods, &places)).collect();
        found.extend(self.beside(family, &pods));
        found
    }

    fn claims<'c>(&'c self, family: Family, key: &Frontend) -> Claims<'c> {
        self.promises.each_ref().map(|promises| promises.claims(family).get(key))
    }

    fn effect(
        &self,
        (family, key): (Family, &Frontend),
        pods: &[(IpAddr, String)],
        node_ports: &[Place],
    ) -> Option<Effect> {
        let claims = self.claims(family, key);
        let (address, protocol, port) = *key;
        let own = address.map(|address| vec![Place { address, words: String::new() }]);
        let mut clients: Vec<Concerned> = Vec::new();
        for place in own.as_deref().unwrap_or(node_ports) {
            let at = (protocol, place.address, port);
            for client in self.clients((family, place.address), claims, pods) {
                let who = format!("{}{}", client.who, place.words);
                add(&mut clients, who, self.differs(at, &client));
            }
        }
        let words = self.of_claims(address, claims);
        let claim = claims[1].or(claims[0])?;
        let at = address.map_or_else(
            || format!("node port {port}"),
            |address| Socket { address, port }.to_string(),
        );
        (!words.is_empty() || !clients.is_empty()).then(|| Effect {
            service: claim.service.port_name(claim.port).to_string(),
            frontend: format!("{at} {protocol}"),
            words,
            clients,
        })
    }

    /// What is other for a client that sends there, if anything is.
    fn differs(
        &self,
        (protocol, destination, port): (Protocol, IpAddr, u16),
        client: &Client,
    ) -> Option<Contrast> {
        let Client { source, link, .. } = client.clone();
        let packet = Packet { protocol, source, destination, port, link };
        let sides = [0, 1].map(|at: usize| {
            let promises = &self.promises[at];
            let claim = promises.claim_of(&packet);
            let mut promise = promises.of(&packet);
            // What this node sends has its address, masqueraded or not.
            if let (None, Promise::Endpoints(endpoints)) = (&packet.link, &mut promise) {
                endpoints.values_mut().for_each(|masqueraded| *masqueraded = false);
            }
            Side { promise, claim, mode: self.nodes[at].mode }
        });
        contrast(&sides, |socket| match self.places.get(&socket.address) {
            Some(node) => format!("{socket} on {node}"),
            None => socket.to_string(),
        })
    }

    /// What of a frontend is other whoever asks.
    fn of_claims(&self, address: Option<IpAddr>, claims: Claims<'_>) -> Vec<String> {
        let [was, is] = claims;
        let (Some(was), Some(is)) = (was, is) else {
            let there = |claim: Option<&Claim<'_>>| claim.map_or("not there", |_| "there");
            return vec![format!("now {}, then {}", there(was), there(is))];
        };
        let mut words = Vec::new();
        let names = [was, is].map(|claim| claim.service.port_name(claim.port));
        if names[0] != names[1] {
            words.push(format!("now of {}, then of {}", names[0], names[1]));
        }
        let [old, new] = [was.service.affinity, is.service.affinity];
        if old != new {
            let said = |seconds: Option<u32>| match seconds {
                None => "not at all".to_owned(),
                Some(seconds) => format!("for {seconds} s"),
            };
            words.push(format!("clients remembered now {}, then {}", said(old), said(new)));
        }
        let ranges = [was, is].map(|claim| open_to(address, claim));
        if ranges[0] != ranges[1] {
            words.push(format!("open now to {}, then to {}", ranges[0], ranges[1]));
        }
        words.extend(self.health([was, is]));
        words
    }

    /// What its health check node port tells load balancers.
    fn health(&self, claims: [&Claim<'_>; 2]) -> Option<String> {
        let [was, is] = claims;
        let port = was.service.health_check_node_port?;
        if was.face != Face::External || is.service.health_check_node_port != Some(port) {
            return None;
        }
        let here = [0, 1].map(|at: usize| {
            let counts = Family::ALL.map(|f| local_ready(self.clusters[at], claims[at].service, f));
            counts.into_iter().max().unwrap_or_default()
        });
        let said = |count: usize| match count {
            0 => "none here, and load balancers pass this node by".to_owned(),
            count => format!("{count} here"),
        };
        (here[0] != here[1]).then(|| {
            let [was, is] = here.map(said);
            format!("health check node port {port} tells of endpoints now {was}, then {is}")
        })
    }

    /// Those of a kind who ask at an address of a Service, or of this node.
    fn clients(
        &self,
        (family, to): (Family, IpAddr),
        claims: Claims<'_>,
        pods: &[(IpAddr, String)],
    ) -> Vec<Client> {
        let client = |who: &str, source, link| Client { who: who.to_owned(), source, link };
        // Nobody else reaches those.
        if to.is_loopback() {
            return vec![client("this node", to, None)];
        }
        let there: Vec<&Claim<'_>> = claims.into_iter().flatten().collect();
        let is_endpoint = |address: &IpAddr| {
            let all = there.iter().flat_map(|c| c.reach.cluster.iter().chain(&c.reach.local));
            all.map(|backend| backend.socket.address).any(|known| known == *address)
        };
        let pod = pods.iter().find(|pod| !is_endpoint(&pod.0)).or(pods.first());
        let itself = pods.iter().find(|pod| is_endpoint(&pod.0));
        let ranges = || {
            let fenced = there.iter().filter(|c| c.service.load_balancer_ips.contains(&to));
            let all = fenced.flat_map(|claim| &claim.service.source_ranges);
            all.filter(|range| range.prefix_len() > 0 && Family::of(range.addr()) == family)
        };
        let texts = OUTSIDE[family.index()].iter().filter_map(|text| text.parse().ok());
        let free = |a: &IpAddr| !self.world.host.is_local(*a) && !ranges().any(|r| r.contains(a));
        let outside = texts.clone().find(free).or_else(|| texts.clone().next());
        let link = outside.map(|address| self.link_of(address, ""));
        let narrow: BTreeSet<_> = ranges().collect();
        let ranged = narrow.into_iter().take(MOST_RANGES).filter_map(|range| {
            let usable = |a: &IpAddr| !is_nobody(*a) && !self.world.host.is_local(*a);
            let source = range.hosts().take(MOST_TRIED).find(usable)?;
            Some(client(&format!("sources in {range}"), source, link.clone()))
        });
        let pod_client =
            |who: &str, pod: &(IpAddr, String)| client(who, pod.0, Some(pod.1.clone()));
        let mut all: Vec<Client> = Vec::new();
        all.extend(pod.map(|pod| pod_client("pods of this node", pod)));
        all.extend(itself.map(|pod| pod_client("a pod that reaches itself", pod)));
        all.extend(self.own_source(to).map(|source| client("this node", source, None)));
        all.extend(outside.map(|source| client("outside", source, link.clone())));
        all.extend(ranged);
        all
    }

    /// The source of what this node sends to an address.
    fn own_source(&self, to: IpAddr) -> Option<IpAddr> {
        if self.world.host.is_local(to) && self.nodes[0].addresses.contains(&to) {
            return Some(to);
        }
        let usable = |a: &&IpAddr| Family::of(**a) == Family::of(to) && !is_nobody(**a);
        let own = self.nodes[0].addresses.iter().find(usable);
        self.world.host.source_for(to).or(own.copied())
    }

    /// The link by which packets of an address come in.
    fn link_of(&self, address: IpAddr, otherwise: &str) -> String {
        let hop = self.world.host.route_to(address);
        hop.map_or(otherwise, |hop| self.world.link_name(hop.link)).to_owned()
    }

    /// Pods of this node, those that are known to be some first; if there is none, one that could be.
    fn pods(&self, family: Family) -> Vec<(IpAddr, String)> {
        let reached = self.promises.iter().flat_map(|promises| promises.claims(family).values());
        let endpoints =
            reached.flat_map(|claim| claim.reach.cluster.iter().chain(&claim.reach.local));
        let local: BTreeSet<IpAddr> = endpoints
            .filter(|backend| backend.local && !self.world.host.is_local(backend.socket.address))
            .map(|backend| backend.socket.address)
            .collect();
        let detector = &self.options.detector;
        let cidr = detector.cidr(family);
        let inside = |address: &IpAddr| cidr.is_none_or(|cidr| cidr.contains(address));
        let (inside, others): (Vec<_>, Vec<_>) = local.iter().copied().partition(inside);
        let made_up = stand_in::pods(self.options, self.clusters[0].node());
        let link = stand_in::pod_link(detector);
        let free = |a: &IpAddr| !local.contains(a) && !self.world.host.is_local(*a);
        let made_up = made_up[family.index()].clone().or_else(|| {
            let address = cidr?.hosts().take(MOST_TRIED).find(free)?;
            Some((address, link.clone()))
        });
        let known = inside.into_iter().chain(others);
        known.map(|address| (address, self.link_of(address, &link))).chain(made_up).collect()
    }

    /// Addresses of this node where node ports are asked: one of each kind.
    fn node_port_places(&self, family: Family) -> Vec<Place> {
        let loopback: IpAddr = match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let own = self.nodes.iter().flat_map(|node| &node.addresses).copied();
        let own =
            own.filter(|a| Family::of(*a) == family && !a.is_loopback() && !is_link_local(*a));
        let takes = |a: IpAddr| self.promises.each_ref().map(|p| p.takes_node_ports(a));
        let mut kinds: BTreeMap<[bool; 2], IpAddr> = BTreeMap::new();
        for address in own {
            kinds.entry(takes(address)).or_insert(address);
        }
        let several = kinds.len() > 1;
        let places = kinds.into_values().map(|address| Place {
            address,
            words: if several { format!(" at {address}") } else { String::new() },
        });
        let words = format!(" at {loopback}");
        places.chain([Place { address: loopback, words }]).collect()
    }

    /// What becomes of packets to cluster IPs at ports that they do not have: the same for all of
    /// them, so that one stands for all.
    fn beside(&self, family: Family, pods: &[(IpAddr, String)]) -> Option<Effect> {
        let claims = self.promises.each_ref().map(|promises| promises.claims(family));
        let both = |key: &&Frontend| claims[1].contains_key(*key);
        let of_cluster = |key: &&Frontend| claims[0][*key].face == Face::Cluster;
        let (address, ..) = claims[0].keys().filter(both).find(of_cluster)?;
        let address = (*address)?;
        let taken = |port: u16| {
            let key = (Some(address), Protocol::Tcp, port);
            claims.iter().any(|claims| claims.contains_key(&key))
        };
        let port = (1..=u16::MAX).rev().find(|port| !taken(*port))?;
        let mut clients = Vec::new();
        for client in self.clients((family, address), [None, None], pods) {
            let differs = self.differs((Protocol::Tcp, address, port), &client);
            add(&mut clients, client.who, differs);
        }
        (!clients.is_empty()).then(|| Effect {
            service: "every Service".to_owned(),
            frontend: format!("ports that a cluster IP does not have, such as {address} {port}"),
            words: Vec::new(),
            clients,
        })
    }
}

/// Whom a load balancer's address lets in.
fn open_to(address: Option<IpAddr>, claim: &Claim<'_>) -> String {
    let fenced = address.filter(|ip| claim.service.load_balancer_ips.contains(ip));
    let of_family = |range: &&IpNet| fenced.map(Family::of) == Some(Family::of(range.addr()));
    let ranges = claim.service.source_ranges.iter().filter(of_family);
    let ranges: Vec<String> = ranges.map(ToString::to_string).collect();
    if ranges.is_empty() { "everybody".to_owned() } else { ranges.join(", ") }
}

/// Puts a client to those for whom the same is other.
fn add(all: &mut Vec<Concerned>, who: String, contrast: Option<Contrast>) {
    let Some(contrast) = contrast else { return };
    match all.iter_mut().find(|known| known.contrast == contrast) {
        Some(known) => known.who.push(who),
        None => all.push(Concerned { who: vec![who], contrast }),
    }
}
