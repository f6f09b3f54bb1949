//! What would become of a packet on this node: the rules that this proxy wants, put into a
//! simulated host with this node's addresses, and the packet sent through it. Nothing of the real
//! kernel is read or written. Tests: below.

use std::net::SocketAddr;

use crate::kernel::Socket;
use crate::kernel::simulated::Simulated;
use crate::model::{Event, Protocol};
use crate::serve::board::{Asked, Entry, Judged};
use crate::sync::{Options, Proxy};
use crate::trace::load;
use crate::trace::stand_in::{OUTSIDE, pod_link, stand_in};

/// Source port of every packet that is asked about.
const SPORT: u16 = 40_000;

/// Judges a packet on a node that knows these objects and programs by these options.
pub(super) fn judge(
    options: Options,
    asked: &Asked,
    objects: Vec<Event>,
) -> Result<Judged, String> {
    let node = objects.iter().find_map(|event| match event {
        Event::Node(node) => Some((**node).clone()),
        _ => None,
    });
    let kernel = Simulated::new(load(stand_in(&options, node.as_ref(), &[])).host);
    let mut proxy = Proxy::new(Box::new(kernel.clone()), options.clone());
    objects.into_iter().for_each(|event| proxy.feed(event));
    proxy.sync().map_err(|error| format!("the simulated kernel refused the rules: {error}"))?;
    let mut host = kernel.host();
    let packet = packet(&host, &options, asked)?;
    let outcomes = host.outcomes(&packet);
    let fates = outcomes.iter().flat_map(|(chance, outcome)| {
        let carried = carried_to(&kernel, asked, outcome);
        let words = words(outcome, asked);
        let share = chance.as_f64() * 100.0 / carried.len().max(1) as f64;
        let share = format!("{share:.1} %");
        let on = |to| (share.clone(), format!("{words}, carried on by kube-proxy to {to}"));
        if carried.is_empty() {
            return vec![(share, words)];
        }
        carried.into_iter().map(on).collect()
    });
    let fates = fates.collect();
    Ok(Judged { fates, journey: host.send(&packet).to_string() })
}

fn packet(host: &sim::Host, options: &Options, asked: &Asked) -> Result<sim::Packet, String> {
    let source = SocketAddr::new(asked.source, SPORT);
    let destination = SocketAddr::new(asked.destination, asked.port);
    let packet = match asked.protocol {
        Protocol::Tcp => sim::Packet::tcp(source, destination),
        Protocol::Udp => sim::Packet::udp(source, destination),
        Protocol::Sctp => sim::Packet::sctp(source, destination),
    };
    let link = match asked.entry {
        Entry::Node if host.is_local(asked.source) => return Ok(packet),
        Entry::Node => return Err(format!("source: {} is no address of this node", asked.source)),
        Entry::Pod => pod_link(&options.detector),
        Entry::Outside => OUTSIDE.to_owned(),
    };
    let link = host.link(&link).ok_or("the simulated node lacks a link; this is a bug")?;
    Ok(packet.arriving(link.index))
}

/// Where the proxy itself would carry the connection on to: endpoints take turns.
fn carried_to(kernel: &Simulated, asked: &Asked, outcome: &sim::Outcome) -> Vec<Socket> {
    let at = Socket { address: outcome.packet.dst, port: outcome.packet.dport() };
    let serving = match outcome.fate {
        sim::Fate::Delivered => kernel.relayed(asked.protocol, at),
        _ => None,
    };
    serving.map(|serving| serving.endpoints.to_vec()).unwrap_or_default()
}

fn words(outcome: &sim::Outcome, asked: &Asked) -> String {
    let mut text = outcome.fate.to_string();
    let to = SocketAddr::new(outcome.packet.dst, outcome.packet.dport());
    if to != SocketAddr::new(asked.destination, asked.port) {
        text.push_str(&format!(", now to {to}"));
    }
    match outcome.snat {
        Some((address, _)) if address != asked.source => {
            text.push_str(&format!(", masqueraded as {address}"));
        }
        _ => {}
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{
        Conditions, Endpoint, EndpointSlice, Family, Kind, LocalDetector, Mode, NamespacedName,
        Node, NodePortAddresses, Service, ServicePort, SlicePort, TrafficPolicy,
    };

    fn objects() -> Vec<Event> {
        let name = NamespacedName::new("default", "web");
        let port = ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
        };
        let service = Service {
            name: name.clone(),
            created: 0,
            cluster_ips: vec!["10.96.0.10".parse().unwrap()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Cluster,
            affinity: None,
            health_check_node_port: None,
            externally_accessible: true,
            ipvs_scheduler: None,
            proxy_protocol: None,
            forget_tcp_flows: false,
            ports: vec![port],
        };
        let endpoint = |address: &str| Endpoint {
            address: address.parse().unwrap(),
            conditions: Conditions::default(),
            node: None,
            hints: None,
        };
        let slice = EndpointSlice {
            name: name.clone(),
            service: name,
            family: Family::V4,
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: Box::new([endpoint("10.1.0.1"), endpoint("10.1.0.2")]),
            trigger_time: None,
        };
        let node = Node {
            name: "me".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
            ..Node::default()
        };
        let mut all = vec![
            Event::Service(Box::new(service)),
            Event::Slice(Box::new(slice)),
            Event::Node(Box::new(node)),
        ];
        all.extend(Kind::ALL.into_iter().map(Event::ListEnded));
        all
    }

    fn fates(entry: Entry, source: &str, to: (&str, u16)) -> Vec<String> {
        fates_in(Mode::Nftables, (entry, source), to)
    }

    fn fates_in(
        mode: Mode,
        (entry, source): (Entry, &str),
        (destination, port): (&str, u16),
    ) -> Vec<String> {
        let options = Options {
            mode,
            node_name: "me".into(),
            detector: LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]),
            node_port_addresses: NodePortAddresses::Primary,
            ..Options::default()
        };
        let asked = Asked {
            entry,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
        };
        let judged = judge(options, &asked, objects()).unwrap();
        assert!(!judged.journey.is_empty());
        let mut fates: Vec<String> =
            judged.fates.into_iter().map(|(chance, fate)| format!("{chance}: {fate}")).collect();
        fates.sort();
        fates
    }

    #[test]
    fn a_pod_reaches_either_endpoint_as_itself() {
        let all = fates(Entry::Pod, "10.244.0.2", ("10.96.0.10", 80));
        assert_eq!(all.len(), 2, "{all:?}");
        for (fate, endpoint) in all.iter().zip(["10.1.0.1:8080", "10.1.0.2:8080"]) {
            assert!(fate.starts_with("50.0 %"), "{fate}");
            assert!(fate.ends_with(&format!(", now to {endpoint}")), "{fate}");
        }
    }

    #[test]
    fn a_stranger_at_a_node_port_is_masqueraded() {
        let all = fates(Entry::Outside, "203.0.113.7", ("192.0.2.1", 30080));
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all.iter().all(|fate| fate.contains("masqueraded as 192.0.2.1")), "{all:?}");
    }

    #[test]
    fn what_the_proxy_carries_itself_is_told_to_its_end() {
        let all = fates_in(Mode::Userspace, (Entry::Pod, "10.244.0.2"), ("10.96.0.10", 80));
        assert_eq!(all.len(), 2, "{all:?}");
        for (fate, endpoint) in all.iter().zip(["10.1.0.1:8080", "10.1.0.2:8080"]) {
            assert!(fate.starts_with("50.0 %"), "{fate}");
            assert!(fate.ends_with(&format!("carried on by kube-proxy to {endpoint}")), "{fate}");
        }
    }

    #[test]
    fn a_wrong_port_is_refused() {
        let all = fates(Entry::Node, "192.0.2.1", ("10.96.0.10", 81));
        assert!(all.len() == 1 && all[0].to_lowercase().contains("reject"), "{all:?}");
    }
}
