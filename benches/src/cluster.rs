//! Clusters of N Services with M endpoints each, as events of our own words: what the tracker gets
//! from the API's decoder, strings shared as the decoder shares them.
//! Knows no kernel and no clock. Tests: below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use kube_proxy::model::{
    Conditions, Endpoint, EndpointSlice, Event, Family, Kind, NamespacedName, Node, Protocol,
    Service, ServicePort, SlicePort, TrafficPolicy,
};
use kube_proxy::sync::{Options, Proxy};

/// First cluster IP: 10.96.32.0. There is room for 57,344 Services.
const CLUSTER_IPS: u32 = 0x0a60_2000;
/// First endpoint address: 11.0.0.0.
const ENDPOINTS: u32 = 0x0b00_0000;
/// Endpoint addresses set aside for each Service, so that new ones never meet those of others.
pub const ROOM: usize = 64;
/// Nodes that the endpoints run on; this node is the first.
const NODES: usize = 500;

/// What Services are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// TCP, without session affinity.
    Plain,
    /// Of ten Services one has session affinity and another one is UDP.
    Mixed,
}

/// The shape of a cluster.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many Services.
    pub services: usize,
    /// Endpoints of each, at most [`ROOM`].
    pub endpoints: usize,
    /// Families of each Service.
    pub families: Vec<Family>,
    /// What the Services are like.
    pub mix: Mix,
}

/// A cluster whose objects are made when they are asked for.
#[derive(Debug)]
pub struct Cluster {
    /// Its shape.
    pub shape: Shape,
    names: Vec<NamespacedName>,
    nodes: Vec<Arc<str>>,
    port: Arc<str>,
}

impl Cluster {
    /// A cluster of this shape.
    pub fn new(shape: Shape) -> Cluster {
        let namespaces: Vec<Arc<str>> = (0..50).map(|n| format!("namespace-{n}").into()).collect();
        let name = |n: usize| NamespacedName {
            namespace: namespaces[n % namespaces.len()].clone(),
            name: format!("service-{n}").into(),
        };
        Cluster {
            names: (0..shape.services).map(name).collect(),
            nodes: (0..NODES).map(|n| format!("node-{n}.cluster.internal").into()).collect(),
            port: "http".into(),
            shape,
        }
    }

    /// Options of a proxy on the first node.
    pub fn options(&self) -> Options {
        let cidr = "11.0.0.0/8".parse().expect("a constant CIDR");
        Options {
            node_name: self.nodes[0].clone(),
            detector: kube_proxy::model::LocalDetector::Cidrs(vec![cidr]),
            families: self.shape.families.clone(),
            ..Options::default()
        }
    }

    /// Everything, from the first list's start to the last one's end.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        let services = (0..self.shape.services).map(|n| self.service(n));
        let numbers =
            (0..self.shape.services).flat_map(|n| self.shape.families.iter().map(move |f| (n, *f)));
        let slices = numbers.map(|(n, family)| self.slice(n, family, 0..self.shape.endpoints));
        let node = Node {
            name: self.nodes[0].clone(),
            addresses: vec![
                Ipv4Addr::new(172, 18, 0, 1).into(),
                Ipv6Addr::new(0xfd00, 0x172, 0, 0, 0, 0, 0, 1).into(),
            ],
            ..Node::default()
        };
        list(Kind::Service, services)
            .chain(list(Kind::EndpointSlice, slices))
            .chain(list(Kind::Node, std::iter::once(Event::Node(Box::new(node)))))
            .chain(list(Kind::ServiceCidr, std::iter::empty()))
    }

    /// The n-th Service.
    pub fn service(&self, number: usize) -> Event {
        let ip = |family: &Family| cluster_ip(number, *family);
        let protocol = if self.is_udp(number) { Protocol::Udp } else { Protocol::Tcp };
        let port = ServicePort { name: self.port.clone(), protocol, port: 80, node_port: None };
        Event::Service(Box::new(Service {
            name: self.names[number].clone(),
            created: 1_767_225_600,
            cluster_ips: self.shape.families.iter().map(ip).collect(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Cluster,
            affinity: self.is_sticky(number).then_some(10_800),
            health_check_node_port: None,
            externally_accessible: false,
            ipvs_scheduler: None,
            proxy_protocol: None,
            forget_tcp_flows: false,
            ports: vec![port],
        }))
    }

    /// The slice of the n-th Service in one family, with those of its [`ROOM`] endpoints.
    pub fn slice(
        &self,
        number: usize,
        family: Family,
        chosen: impl Iterator<Item = usize>,
    ) -> Event {
        let service = self.names[number].clone();
        let protocol = if self.is_udp(number) { Protocol::Udp } else { Protocol::Tcp };
        let endpoint = |n: usize| Endpoint {
            address: endpoint(number, n, family),
            conditions: Conditions::default(),
            node: Some(self.nodes[(number + n) % self.nodes.len()].clone()),
            hints: None,
        };
        Event::Slice(Box::new(EndpointSlice {
            name: NamespacedName {
                namespace: service.namespace.clone(),
                name: format!("{}-{family}", service.name).into(),
            },
            service,
            family,
            ports: vec![SlicePort { name: self.port.clone(), protocol, port: 8080 }],
            endpoints: chosen.map(endpoint).collect::<Vec<_>>().into(),
            trigger_time: None,
        }))
    }

    /// Whether the n-th Service has session affinity.
    pub fn is_sticky(&self, number: usize) -> bool {
        self.shape.mix == Mix::Mixed && number % 10 == 1
    }

    /// Whether the n-th Service is UDP.
    pub fn is_udp(&self, number: usize) -> bool {
        self.shape.mix == Mix::Mixed && number % 10 == 5
    }
}

/// Cluster IP of the n-th Service.
pub fn cluster_ip(number: usize, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(CLUSTER_IPS + number as u32).into(),
        Family::V6 => {
            let base = u128::from(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0));
            Ipv6Addr::from(base + number as u128 + 1).into()
        }
    }
}

/// Address of one of the endpoints of the n-th Service.
pub fn endpoint(service: usize, number: usize, family: Family) -> IpAddr {
    let offset = service * ROOM + number;
    match family {
        Family::V4 => Ipv4Addr::from(ENDPOINTS + offset as u32).into(),
        Family::V6 => {
            let base = u128::from(Ipv6Addr::new(0xfd00, 0x11, 0, 0, 0, 0, 0, 0));
            Ipv6Addr::from(base + offset as u128).into()
        }
    }
}

fn list(kind: Kind, objects: impl Iterator<Item = Event>) -> impl Iterator<Item = Event> {
    let start = std::iter::once(Event::ListStarted(kind));
    start.chain(objects).chain(std::iter::once(Event::ListEnded(kind)))
}

/// Tells a proxy of everything.
pub fn feed(proxy: &mut Proxy, cluster: &Cluster) {
    cluster.events().for_each(|event| proxy.feed(event));
}

/// Numbers that look random and are the same every time (xorshift).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed other than 0.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Sink;

    #[test]
    fn everything_is_programmed_and_then_nothing() {
        let families = Family::ALL.to_vec();
        let shape = Shape { services: 30, endpoints: 3, families, mix: Mix::Mixed };
        let cluster = Cluster::new(shape);
        let mut proxy = Proxy::new(Box::new(Sink::default()), cluster.options());
        feed(&mut proxy, &cluster);
        let report = proxy.sync().expect("a sink takes everything");
        assert_eq!(report.services, 30);
        assert!(report.operations > 2 * 30 * 4);
        assert_eq!(proxy.sync().expect("a sink takes everything").transactions, 0);
    }
}
