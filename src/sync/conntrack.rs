//! Which flows the kernel must forget: those that go on to an endpoint that does not answer any
//! more, or that slipped past a Service before it had endpoints. UDP, and SCTP, whose clients come
//! back with the ports they had. TCP flows end by themselves, but may take long to: they are
//! forgotten where the Service asks for it.
//!
//! Pure: flows in, flows out; it must never talk to a kernel or keep anything between calls.
//! After `pkg/proxy/conntrack/cleanup.go`, without its faults (lines 50 and 51 of
//! upstream-behaviour.md). Tests: below.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::backend::program::Frontend;
use crate::kernel::{FlowFact, FlowsTo, Socket};
use crate::model::{Family, NamespacedName, Protocol, Service, ServicePort};
use crate::topology;
use crate::track::Cluster;

/// Whether flows of a protocol are looked after, through a Service that has this to say of TCP.
pub fn is_looked_after(protocol: Protocol, forget_tcp_flows: bool) -> bool {
    protocol != Protocol::Tcp || forget_tcp_flows
}

/// Questions to the kernel that are asked one by one.
const QUESTIONS: usize = 8;

/// Where Service ports are reached, and the endpoints that answer there. Only ever looked
/// up, so that the order of hash maps cannot show.
#[derive(Clone, Debug, Default)]
pub struct Frontends {
    /// Cluster, external and load balancer addresses; the number is an index of `serving`.
    sockets: HashMap<(Protocol, Socket), usize>,
    node_ports: HashMap<(Family, Protocol, u16), usize>,
    /// Addresses that take NodePort traffic, where they are known.
    node_addresses: Option<HashSet<IpAddr>>,
    /// Sorted.
    serving: Vec<Vec<Socket>>,
}

impl Frontends {
    /// The frontends, of protocols that are looked after, of some of a cluster's Services, in these families. Of Services that
    /// claim the same address and port all must be given, or none.
    ///
    /// `node_addresses` are the node's own addresses that take NodePort traffic. `None` if they
    /// could not be read: then only flows that were destination-NATed count as NodePort traffic.
    pub fn of<'n>(
        cluster: &Cluster,
        services: impl Iterator<Item = &'n NamespacedName>,
        families: &[Family],
        node_addresses: Option<&[IpAddr]>,
    ) -> Frontends {
        let mut frontends = Frontends {
            node_addresses: node_addresses.map(|list| list.iter().copied().collect()),
            ..Frontends::default()
        };
        let known = services.filter_map(|name| cluster.service(name));
        let mut services: Vec<&Service> = known.collect();
        // Of two that claim one address and port the older one has it, so it is put in first.
        services.sort_by_key(|s| (s.created, &s.name));
        services.dedup_by_key(|s| &s.name);
        for service in services {
            for port in looked_after(service) {
                for family in families.iter().filter(|f| service.cluster_ip(**f).is_some()) {
                    let serving = topology::serving(cluster, service, port, *family);
                    frontends.serving.push(serving.into_iter().collect());
                    frontends.claim(service, port, *family);
                }
            }
        }
        frontends
    }

    /// Whether no flow can be stale, so that there is no need to list them.
    pub fn is_empty(&self) -> bool {
        self.serving.is_empty()
    }

    /// Puts in the addresses of the Service port whose endpoints were put in last.
    fn claim(&mut self, service: &Service, port: &ServicePort, family: Family) {
        let index = self.serving.len() - 1;
        let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
        for address in addresses.into_iter().flatten().filter(|a| Family::of(**a) == family) {
            let socket = Socket { address: *address, port: port.port };
            self.sockets.entry((port.protocol, socket)).or_insert(index);
        }
        if let Some(node_port) = port.node_port {
            self.node_ports.entry((family, port.protocol, node_port)).or_insert(index);
        }
    }

    /// Frontends that nobody has any more: no flow may go on through them.
    pub fn without<'f>(mut self, gone: impl Iterator<Item = &'f (Family, Frontend)>) -> Frontends {
        let index = self.serving.len();
        for (family, frontend) in gone {
            let (protocol, port) = (frontend.protocol, frontend.port);
            match frontend.address {
                Some(address) => {
                    let socket = Socket { address, port };
                    self.sockets.entry((protocol, socket)).or_insert(index);
                }
                None => {
                    self.node_ports.entry((*family, protocol, port)).or_insert(index);
                }
            }
        }
        self.serving.push(Vec::new());
        self
    }

    /// Puts in the local sockets by which this process itself answers for frontends: flows that go
    /// to one of them, and through the Service port that it is for, go on.
    pub fn answered(&mut self, family: Family, local: &[(Frontend, Socket)]) {
        for (frontend, socket) in local {
            let (protocol, port) = (frontend.protocol, frontend.port);
            let index = match frontend.address {
                Some(address) => self.sockets.get(&(protocol, Socket { address, port })),
                None => self.node_ports.get(&(family, protocol, port)),
            };
            if let Some(serving) = index.and_then(|index| self.serving.get_mut(*index))
                && let Err(place) = serving.binary_search(socket)
            {
                serving.insert(place, *socket);
            }
        }
    }

    /// What to ask the kernel for to hear of every flow of a family and protocol that may be stale:
    /// each question makes it look at its whole table, so there are few, or one for all.
    pub fn questions(&self, family: Family, protocol: Protocol) -> Vec<FlowsTo> {
        let sockets = self
            .sockets
            .keys()
            .filter(|(p, socket)| *p == protocol && Family::of(socket.address) == family);
        let ports = self.node_ports.keys().filter(|(f, p, _)| *f == family && *p == protocol);
        let mut questions: Vec<FlowsTo> = sockets
            .map(|(_, socket)| FlowsTo::Socket(*socket))
            .chain(ports.map(|(_, _, port)| FlowsTo::Port(*port)))
            .take(QUESTIONS + 1)
            .collect();
        if questions.len() > QUESTIONS {
            return vec![FlowsTo::Any];
        }
        questions.sort_unstable();
        questions
    }

    /// The endpoints that answer for a flow's destination; `None` if that is no frontend.
    fn serving(&self, flow: &FlowFact) -> Option<&[Socket]> {
        let by_node_port = || {
            let family = Family::of(flow.destination.address);
            let key = (family, flow.protocol, flow.destination.port);
            self.node_ports.get(&key).filter(|_| self.is_on_node(flow))
        };
        let index = self.sockets.get(&(flow.protocol, flow.destination)).or_else(by_node_port)?;
        self.serving.get(*index).map(Vec::as_slice)
    }

    /// Whether a flow to a node port's number is one to a node port: others may use that number
    /// on other hosts, and on addresses of this one that take no NodePort traffic.
    fn is_on_node(&self, flow: &FlowFact) -> bool {
        match &self.node_addresses {
            Some(addresses) => addresses.contains(&flow.destination.address),
            None => flow.endpoint != flow.destination,
        }
    }
}

/// The ports of a Service whose flows are looked after.
fn looked_after(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.ports.iter();
    ports.filter(|port| is_looked_after(port.protocol, service.forget_tcp_flows))
}

/// The flows to forget, in the order given.
pub fn stale(frontends: &Frontends, flows: &[FlowFact]) -> Vec<FlowFact> {
    flows.iter().filter(|flow| is_stale(frontends, flow)).cloned().collect()
}

fn is_stale(frontends: &Frontends, flow: &FlowFact) -> bool {
    let Some(serving) = frontends.serving(flow) else {
        return false;
    };
    if flow.endpoint == flow.destination {
        // Not translated, so it began before there were endpoints, and keeps missing them.
        // Without endpoints there is nothing better to give it.
        return !serving.is_empty();
    }
    serving.binary_search(&flow.endpoint).is_err()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Conditions, Endpoint, EndpointSlice, Event, SlicePort, TrafficPolicy};
    use crate::track::Tracker;

    fn socket(text: &str) -> Socket {
        let socket: std::net::SocketAddr = text.parse().unwrap();
        Socket { address: socket.ip(), port: socket.port() }
    }

    fn service(name: &str, address: &str, created: i64) -> Service {
        let port =
            |protocol, port, node_port| ServicePort { name: "p".into(), protocol, port, node_port };
        Service {
            name: NamespacedName::new("ns", name),
            created,
            cluster_ips: vec![address.parse().unwrap()],
            external_ips: vec!["198.51.100.1".parse().unwrap()],
            load_balancer_ips: vec!["198.51.100.2".parse().unwrap()],
            source_ranges: Vec::new(),
            external_policy: TrafficPolicy::Local,
            internal_policy: TrafficPolicy::Cluster,
            affinity: None,
            health_check_node_port: None,
            externally_accessible: true,
            ipvs_scheduler: None,
            proxy_protocol: None,
            forget_tcp_flows: false,
            ports: vec![port(Protocol::Udp, 53, Some(30053)), port(Protocol::Tcp, 80, Some(30080))],
        }
    }

    /// Endpoints as `address=flags`: S serving, T terminating.
    fn slice(service: &str, endpoints: &str) -> EndpointSlice {
        let endpoint = |text: &str| {
            let (address, flags) = text.split_once('=').unwrap();
            let (serving, terminating) = (flags.contains('S'), flags.contains('T'));
            Endpoint {
                address: address.parse().unwrap(),
                conditions: Conditions { ready: serving && !terminating, serving, terminating },
                node: None,
                hints: None,
            }
        };
        let port = |protocol| SlicePort { name: "p".into(), protocol, port: 5353 };
        EndpointSlice {
            name: NamespacedName::new("ns", format!("{service}-1")),
            service: NamespacedName::new("ns", service),
            family: if endpoints.contains("::") { Family::V6 } else { Family::V4 },
            ports: vec![port(Protocol::Udp), port(Protocol::Tcp)],
            endpoints: endpoints.split_whitespace().map(endpoint).collect(),
            trigger_time: None,
        }
    }

    fn cluster(objects: Vec<(Service, EndpointSlice)>) -> Cluster {
        let mut tracker = Tracker::new("me".into());
        for (service, slice) in objects {
            tracker.feed(Event::Service(Box::new(service)));
            tracker.feed(Event::Slice(Box::new(slice)));
        }
        tracker.cluster().clone()
    }

    fn dns(endpoints: &str) -> Cluster {
        cluster(vec![(service("dns", "10.0.0.10", 0), slice("dns", endpoints))])
    }

    fn flow(destination: &str, endpoint: &str) -> FlowFact {
        FlowFact {
            family: Family::of(socket(destination).address),
            protocol: Protocol::Udp,
            source: socket("192.0.2.9:40000"),
            destination: socket(destination),
            endpoint: socket(endpoint),
        }
    }

    fn of_all(cluster: &Cluster, families: &[Family], addresses: Option<&[IpAddr]>) -> Frontends {
        Frontends::of(cluster, cluster.services().map(|s| &s.name), families, addresses)
    }

    fn is_forgotten(cluster: &Cluster, addresses: Option<&[IpAddr]>, flow: FlowFact) -> bool {
        let frontends = of_all(cluster, &Family::ALL, addresses);
        stale(&frontends, std::slice::from_ref(&flow)) == [flow]
    }

    #[test]
    fn which_flows_are_forgotten() {
        let node: Option<&[IpAddr]> = Some(&["192.0.2.1".parse().unwrap()]);
        // what, endpoints, the flow's destination and who answers, whether it is forgotten
        #[rustfmt::skip]
        let cases: &[(&str, &str, &str, &str, bool)] = &[
            ("to one that serves",               "10.1.0.1=S", "10.0.0.10:53", "10.1.0.1:5353", false),
            ("to one that is gone",              "10.1.0.1=S", "10.0.0.10:53", "10.1.0.2:5353", true),
            ("to a port that is gone",           "10.1.0.1=S", "10.0.0.10:53", "10.1.0.1:53", true),
            ("50: to a serving terminating one", "10.1.0.1=ST 10.1.0.2=S", "10.0.0.10:53", "10.1.0.1:5353", false),
            ("50: to one that serves no more",   "10.1.0.1=T 10.1.0.2=S", "10.0.0.10:53", "10.1.0.1:5353", true),
            ("50: nothing serves",               "", "10.0.0.10:53", "10.1.0.1:5353", true),
            ("50: none serves",                  "10.1.0.1=T", "10.0.0.10:53", "10.1.0.1:5353", true),
            ("external IP",                      "10.1.0.1=S", "198.51.100.1:53", "10.1.0.2:5353", true),
            ("load balancer IP",                 "10.1.0.1=S", "198.51.100.2:53", "10.1.0.2:5353", true),
            ("external IP, serving",             "10.1.0.1=S", "198.51.100.1:53", "10.1.0.1:5353", false),
            ("another port of the address",      "10.1.0.1=S", "10.0.0.10:54", "10.1.0.2:5353", false),
            ("the TCP port's number",            "10.1.0.1=S", "10.0.0.10:80", "10.1.0.2:5353", false),
            ("another address",                  "10.1.0.1=S", "10.0.0.11:53", "10.1.0.2:5353", false),
            ("not translated",                   "10.1.0.1=S", "10.0.0.10:53", "10.0.0.10:53", true),
            ("not translated, nothing serves",   "", "10.0.0.10:53", "10.0.0.10:53", false),
            ("straight to an endpoint",          "10.1.0.1=S", "10.1.0.1:5353", "10.1.0.1:5353", false),
            ("51: node port",                    "10.1.0.1=S", "192.0.2.1:30053", "10.1.0.2:5353", true),
            ("51: node port, serving",           "10.1.0.1=S", "192.0.2.1:30053", "10.1.0.1:5353", false),
            ("51: node port, not translated",    "10.1.0.1=S", "192.0.2.1:30053", "192.0.2.1:30053", true),
            ("51: its number on another host",   "10.1.0.1=S", "203.0.113.5:30053", "203.0.113.5:30053", false),
            ("51: the same, translated",         "10.1.0.1=S", "203.0.113.5:30053", "10.9.0.9:30053", false),
            ("51: the TCP node port's number",   "10.1.0.1=S", "192.0.2.1:30080", "10.1.0.2:5353", false),
            ("51: node port's number, cluster IP", "10.1.0.1=S", "10.0.0.10:30053", "10.1.0.2:5353", false),
        ];
        for (what, endpoints, destination, endpoint, expected) in cases {
            let flow = flow(destination, endpoint);
            assert_eq!(is_forgotten(&dns(endpoints), node, flow), *expected, "{what}");
        }
    }

    #[test]
    fn without_node_addresses_only_translated_flows_are_node_port_traffic() {
        let cluster = dns("10.1.0.1=S");
        assert!(is_forgotten(&cluster, None, flow("192.0.2.1:30053", "10.1.0.2:5353")));
        assert!(!is_forgotten(&cluster, None, flow("192.0.2.1:30053", "10.1.0.1:5353")));
        assert!(!is_forgotten(&cluster, None, flow("203.0.113.5:30053", "203.0.113.5:30053")));
    }

    #[test]
    fn flows_through_a_frontend_that_is_gone_are_forgotten() {
        let frontend = |address: Option<&str>, port| Frontend {
            address: address.map(|a| a.parse().unwrap()),
            protocol: Protocol::Udp,
            port,
        };
        let gone = [
            (Family::V4, frontend(Some("10.0.0.77"), 53)),
            (Family::V4, frontend(None, 30077)),
            // Somebody has this one again.
            (Family::V4, frontend(Some("10.0.0.10"), 53)),
        ];
        let node: &[IpAddr] = &["192.0.2.1".parse().unwrap()];
        let frontends = of_all(&dns("10.1.0.1=S"), &Family::ALL, Some(node)).without(gone.iter());
        let is_stale = |to, endpoint| !stale(&frontends, &[flow(to, endpoint)]).is_empty();
        assert!(is_stale("10.0.0.77:53", "10.1.0.1:5353"));
        assert!(is_stale("192.0.2.1:30077", "10.1.0.1:5353"));
        assert!(!is_stale("10.0.0.77:53", "10.0.0.77:53"), "not translated: not ours");
        assert!(!is_stale("203.0.113.5:30077", "10.1.0.1:5353"), "another host's");
        assert!(!is_stale("10.0.0.10:53", "10.1.0.1:5353"));
        let asked = frontends.questions(Family::V4, Protocol::Udp);
        assert_eq!(asked.len(), 6, "{asked:?}");
        assert_eq!(frontends.questions(Family::V6, Protocol::Udp), []);
        assert_eq!(frontends.questions(Family::V4, Protocol::Sctp), []);
    }

    #[test]
    fn flows_to_a_local_socket_go_on_while_it_is_open_for_their_service() {
        let other = (service("other", "10.0.0.20", 1), slice("other", "10.1.0.2=S"));
        let dns = (service("dns", "10.0.0.10", 0), slice("dns", "10.1.0.1=S"));
        let cluster = cluster(vec![dns, other]);
        let frontend = |address: Option<&str>, port| Frontend {
            address: address.map(|a| a.parse().unwrap()),
            protocol: Protocol::Udp,
            port,
        };
        let local = [
            (frontend(Some("10.0.0.10"), 53), socket("169.254.107.112:40000")),
            (frontend(Some("10.0.0.20"), 53), socket("169.254.107.112:40001")),
            (frontend(Some("10.0.0.99"), 53), socket("169.254.107.112:40002")),
            (frontend(None, 30053), socket("169.254.107.112:40003")),
        ];
        let node: &[IpAddr] = &["192.0.2.1".parse().unwrap()];
        let mut frontends = of_all(&cluster, &Family::ALL, Some(node));
        frontends.answered(Family::V4, &local);
        let is_stale = |to, endpoint| !stale(&frontends, &[flow(to, endpoint)]).is_empty();
        assert!(!is_stale("10.0.0.10:53", "169.254.107.112:40000"));
        assert!(!is_stale("192.0.2.1:30053", "169.254.107.112:40003"));
        assert!(is_stale("10.0.0.10:53", "169.254.107.112:40001"), "another Service's");
        assert!(is_stale("10.0.0.10:53", "169.254.107.112:40009"), "not open");
        assert!(!is_stale("10.0.0.10:53", "10.1.0.1:5353"), "another mode left it: it is served");
    }

    #[test]
    fn other_protocols_are_left_alone() {
        let tcp = FlowFact { protocol: Protocol::Tcp, ..flow("10.0.0.10:53", "10.1.0.2:5353") };
        assert!(!is_forgotten(&dns("10.1.0.1=S"), None, tcp));
    }

    #[test]
    fn families_are_kept_apart() {
        let six = || (service("six", "fd00::10", 0), slice("six", "fd01::1=S"));
        let stale_flow = || flow("[fd00::10]:53", "[fd01::2]:5353");
        assert!(is_forgotten(&cluster(vec![six()]), None, stale_flow()));
        let kept = flow("[fd00::10]:53", "[fd01::1]:5353");
        assert!(!is_forgotten(&cluster(vec![six()]), None, kept));
        // It has no IPv4 cluster IP, so its IPv4 addresses are not programmed.
        let four = flow("198.51.100.1:53", "10.1.0.2:5353");
        assert!(!is_forgotten(&cluster(vec![six()]), None, four));
        let frontends = of_all(&cluster(vec![six()]), &[Family::V4], None);
        assert!(frontends.is_empty());
        assert_eq!(stale(&frontends, &[stale_flow()]), []);
    }

    #[test]
    fn the_older_service_has_a_contested_address() {
        let young = (service("a", "10.0.0.1", 2), slice("a", "10.1.0.1=S"));
        let old = (service("b", "10.0.0.2", 1), slice("b", "10.1.0.2=S"));
        let cluster = cluster(vec![young, old]);
        assert!(is_forgotten(&cluster, None, flow("198.51.100.1:53", "10.1.0.1:5353")));
        assert!(!is_forgotten(&cluster, None, flow("198.51.100.1:53", "10.1.0.2:5353")));
        assert!(!is_forgotten(&cluster, None, flow("10.0.0.1:53", "10.1.0.1:5353")));
    }

    #[test]
    fn half_a_million_flows_are_sifted_in_order() {
        let address = |i: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a02_0000 + i));
        let flows: Vec<FlowFact> = (0..500_000)
            .map(|i| FlowFact {
                source: Socket { address: address(i), port: 1 },
                ..flow(
                    "10.0.0.10:53",
                    if i % 1000 == 0 { "10.1.0.9:5353" } else { "10.1.0.1:5353" },
                )
            })
            .collect();
        let frontends = of_all(&dns("10.1.0.1=S"), &Family::ALL, None);
        let stale = stale(&frontends, &flows);
        assert_eq!(stale.len(), 500);
        assert!(stale.is_sorted_by_key(|f| f.source.address));
    }
}
