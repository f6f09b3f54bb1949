//! What the status page shows of the cluster, as values: made while the sync loop waits, so it is
//! little and plain. It knows no HTML and no mode. Tests: `tests`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::form::Asked;
use crate::model::{Event, Family, Kind, NamespacedName, Service, ServicePort, TrafficPolicy};
use crate::topology::{self, Verdict};
use crate::track::Cluster;

/// Services on one page.
pub(super) const PAGE: usize = 100;

/// A page of Services.
#[derive(Debug, Default)]
pub(super) struct List {
    /// This node's name.
    pub(super) node: String,
    /// This node's addresses, pod CIDRs and zone in words.
    pub(super) node_says: String,
    /// Services there are.
    pub(super) total: usize,
    /// Services that match the search.
    pub(super) matching: usize,
    /// The page's number, from 1.
    pub(super) number: usize,
    /// Those on this page.
    pub(super) rows: Vec<Row>,
}

/// A Service in the list.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: NamespacedName,
    /// Every address it has.
    pub(super) addresses: Vec<IpAddr>,
    /// Its ports in words.
    pub(super) ports: Vec<String>,
    /// Endpoints that get new traffic, of all that are told of; by address and port.
    pub(super) chosen: usize,
    pub(super) endpoints: usize,
}

/// A Service with everything.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) row: Row,
    /// What it is like, as pairs of words.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) ports: Vec<Port>,
}

/// A port of a Service with its endpoints.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) title: String,
    pub(super) endpoints: Vec<Endpoint>,
}

/// An endpoint in words.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) socket: String,
    pub(super) node: String,
    pub(super) state: &'static str,
    pub(super) chosen: bool,
    pub(super) why: String,
}

/// A page of the Services whose name, address or port has the searched text in it.
pub(super) fn list(
    cluster: &Cluster,
    families: &[Family],
    (search, number): (&str, usize),
) -> List {
    let matching: Vec<&Service> =
        cluster.services().filter(|service| matches(service, search)).collect();
    let number = number.min(matching.len().div_ceil(PAGE).max(1));
    let page = matching.iter().skip((number - 1) * PAGE).take(PAGE);
    List {
        node: cluster.node_name().to_owned(),
        node_says: node_says(cluster),
        total: cluster.services().count(),
        matching: matching.len(),
        number,
        rows: page.map(|service| row(cluster, families, service)).collect(),
    }
}

fn node_says(cluster: &Cluster) -> String {
    let Some(node) = cluster.node() else { return "no Node object was seen".into() };
    let words = |list: Vec<String>| if list.is_empty() { "none".into() } else { list.join(", ") };
    let addresses = words(node.addresses.iter().map(ToString::to_string).collect());
    let cidrs = words(node.pod_cidrs.iter().map(ToString::to_string).collect());
    let zone = node.zone.as_deref().unwrap_or("none");
    format!("addresses {addresses}; pod CIDRs {cidrs}; zone {zone}")
}

fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let all = service.cluster_ips.iter().chain(&service.external_ips);
    all.chain(&service.load_balancer_ips).copied()
}

fn matches(service: &Service, search: &str) -> bool {
    let ports = || service.ports.iter().flat_map(|p| [Some(p.port), p.node_port]).flatten();
    search.is_empty()
        || service.name.to_string().contains(search)
        || addresses(service).any(|ip| ip.to_string().contains(search))
        || ports().any(|port| port.to_string() == search)
}

fn row(cluster: &Cluster, families: &[Family], service: &Service) -> Row {
    let mut all = BTreeSet::new();
    let mut chosen = BTreeSet::new();
    for (port, family) in pairs(families, service) {
        for (socket, verdict) in topology::explain(cluster, service, port, family) {
            all.insert(socket);
            if is_chosen(&verdict) {
                chosen.insert(socket);
            }
        }
    }
    Row {
        name: service.name.clone(),
        addresses: addresses(service).collect(),
        ports: service.ports.iter().map(port_words).collect(),
        chosen: chosen.len(),
        endpoints: all.len(),
    }
}

/// Ports with each family that the Service is programmed in.
fn pairs<'a>(
    families: &'a [Family],
    service: &'a Service,
) -> impl Iterator<Item = (&'a ServicePort, Family)> {
    let families = families.iter().copied().filter(|f| service.cluster_ip(*f).is_some());
    families.flat_map(|family| service.ports.iter().map(move |port| (port, family)))
}

fn is_chosen(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Chosen(_) | Verdict::LastResort(_))
}

fn port_words(port: &ServicePort) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!("{} ", port.name) };
    let node = port.node_port.map_or(String::new(), |node| format!(" (node port {node})"));
    format!("{name}{}/{}{node}", port.port, port.protocol)
}

/// One Service, if it exists.
pub(super) fn one(cluster: &Cluster, families: &[Family], name: &NamespacedName) -> Option<Detail> {
    let service = cluster.service(name)?;
    let ports = pairs(families, service).map(|(port, family)| Port {
        title: format!("{} {family}", port_words(port)),
        endpoints: endpoints(cluster, service, port, family),
    });
    Some(Detail {
        row: row(cluster, families, service),
        facts: facts(service),
        ports: ports.collect(),
    })
}

fn facts(service: &Service) -> Vec<(&'static str, String)> {
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let policy = |policy| match policy {
        TrafficPolicy::Cluster => "Cluster".to_owned(),
        TrafficPolicy::Local => "Local".to_owned(),
    };
    let ranges = service.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    let affinity = service.affinity.map_or(String::new(), |s| format!("ClientIP, {s} s"));
    let check = service.health_check_node_port.map_or(String::new(), |port| port.to_string());
    let all = [
        ("cluster IPs", list(&service.cluster_ips)),
        ("external IPs", list(&service.external_ips)),
        ("load balancer IPs", list(&service.load_balancer_ips)),
        ("source ranges", ranges.join(", ")),
        ("internalTrafficPolicy", policy(service.internal_policy)),
        ("externalTrafficPolicy", policy(service.external_policy)),
        ("session affinity", affinity),
        ("health check node port", check),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn endpoints(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<Endpoint> {
    let verdicts = topology::explain(cluster, service, port, family);
    let told = verdicts.into_iter().map(|(socket, verdict)| {
        let mentions = cluster.slices(&service.name).flat_map(|slice| slice.endpoints.iter());
        let mention = mentions.into_iter().find(|e| e.address == socket.address);
        let conditions = mention.map(|e| e.conditions).unwrap_or_default();
        Endpoint {
            socket: socket.to_string(),
            node: mention.and_then(|e| e.node.as_deref()).unwrap_or("").to_owned(),
            state: match (conditions.terminating, conditions.ready, conditions.serving) {
                (true, _, true) => "terminating, serving",
                (true, _, false) => "terminating",
                (false, true, _) => "ready",
                (false, false, _) => "not ready",
            },
            chosen: is_chosen(&verdict),
            why: verdict.to_string(),
        }
    });
    told.collect()
}

/// The objects that can decide a packet's fate: those Services that have its address or port, with
/// their slices, this node and the ServiceCIDRs; a full list of each kind.
pub(super) fn objects_for(cluster: &Cluster, asked: &Asked) -> Vec<Event> {
    let concerned = |service: &&Service| {
        addresses(service).any(|ip| ip == asked.destination)
            || service.ports.iter().any(|p| p.node_port == Some(asked.port))
            || service.health_check_node_port == Some(asked.port)
    };
    let mut events: Vec<Event> = Kind::ALL.into_iter().map(Event::ListStarted).collect();
    for service in cluster.services().filter(concerned) {
        events.push(Event::Service(Box::new(service.clone())));
        let slices = cluster.slices(&service.name).cloned();
        events.extend(slices.map(|slice| Event::Slice(Box::new(slice))));
    }
    events.extend(cluster.node().cloned().map(|node| Event::Node(Box::new(node))));
    let cidrs = cluster.service_cidrs();
    events.push(Event::ServiceCidr(NamespacedName::new("", "all"), cidrs));
    events.extend(Kind::ALL.into_iter().map(Event::ListEnded));
    events
}
