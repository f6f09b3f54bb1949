//! A node that stands in for a real one: its addresses, a link to its pods, and one to everything
//! else. What becomes of a packet on it, rules alone decide. Tests: with those who use it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::kernel::survey::{LinkFact, RouteFact, Survey};
use crate::model::{Family, LocalDetector, Mode, Node};
use crate::sync::Options;

/// The link to everything that is no pod of the node.
pub const OUTSIDE: &str = "outside0";
const OUTSIDE_INDEX: u32 = 2;
const PODS_INDEX: u32 = 3;

/// Such a node, with a Node object's addresses and those that are named beside.
pub fn stand_in(options: &Options, node: Option<&Node>, addresses: &[IpAddr]) -> Survey {
    let own: BTreeSet<IpAddr> =
        node.iter().flat_map(|node| &node.addresses).chain(addresses).copied().collect();
    let own = own.into_iter().filter(|address| !address.is_loopback());
    let outside = own.map(|address| (address, if address.is_ipv4() { 24 } else { 64 })).collect();
    let cidrs = node.iter().flat_map(|node| &node.pod_cidrs);
    let pods = cidrs.filter_map(|cidr| Some((cidr.hosts().next()?, cidr.prefix_len()))).collect();
    let loopback = vec![(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let default = |address| RouteFact {
        network: (address, 0),
        gateway: None,
        link: OUTSIDE_INDEX,
        metric: 0,
    };
    let mut survey = Survey {
        host: options.node_name.to_string(),
        links: vec![
            link(1, "lo", loopback),
            link(OUTSIDE_INDEX, OUTSIDE, outside),
            link(PODS_INDEX, &pod_link(&options.detector), pods),
        ],
        routes: all.map(default).into(),
        ..Survey::default()
    };
    if options.mode == Mode::Iptables && options.localhost_node_ports {
        survey.sysctls.insert("net/ipv4/conf/all/route_localnet".to_owned(), "1".to_owned());
    }
    survey
}

/// A link that is up.
pub(super) fn link(index: u32, name: &str, addresses: Vec<(IpAddr, u8)>) -> LinkFact {
    LinkFact { index, name: name.to_owned(), up: true, addresses, ..LinkFact::default() }
}

/// The link that pods' packets come in over, named as the way to tell local traffic wants it.
pub fn pod_link(detector: &LocalDetector) -> String {
    match detector {
        LocalDetector::Bridge(name) => name.clone(),
        LocalDetector::InterfacePrefix(prefix) => format!("{prefix}0").chars().take(15).collect(),
        LocalDetector::None | LocalDetector::Cidrs(_) => "pods0".to_owned(),
    }
}

/// Pods of such a node, one of each family, though nobody told of any.
pub fn pods(options: &Options, node: Option<&Node>) -> [Option<(IpAddr, String)>; 2] {
    Family::ALL.map(|family| {
        let own = node.iter().flat_map(|node| &node.pod_cidrs);
        let mut of_family = own.filter(|cidr| Family::of(cidr.addr()) == family);
        Some((of_family.next()?.hosts().nth(1)?, pod_link(&options.detector)))
    })
}
