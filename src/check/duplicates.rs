//! Addresses that two have: Services, links, endpoints. What nodes have on purpose is no finding.
//!
//! It must never look at a rule. Tests: `surroundings_tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::classes::is_link_local;
use super::surroundings::finding;
use super::{Finding, Sort};
use crate::kernel::IPVS_DEVICE;
use crate::kernel::survey::LinkFact;
use crate::model::ServicePortName;
use crate::promise::Promises;
use crate::trace::World;
use crate::track::Cluster;

/// Looks for all of them.
pub(super) fn look(
    world: &World,
    (promises, cluster): (&Promises<'_>, &Cluster),
    findings: &mut Vec<Finding>,
) {
    claimed_twice(promises, findings);
    on_two_links(world, findings);
    on_a_link(world, (promises, cluster), findings);
    of_two_endpoints(world, cluster, findings);
}

fn of_service(service: &ServicePortName, cause: String) -> Finding {
    Finding { service: Some(service.to_string()), ..finding(Sort::DuplicateAddress, cause) }
}

/// Frontends that two Services claim.
fn claimed_twice(promises: &Promises<'_>, findings: &mut Vec<Finding>) {
    for ((address, protocol, port), winner, loser) in promises.conflicts() {
        let at = address.map_or_else(|| "node port".to_owned(), |address| address.to_string());
        let cause = format!(
            "{at} {protocol} {port} is claimed by {winner} and by {loser}; the older one has it"
        );
        findings.push(of_service(loser, cause));
    }
}

/// Links with addresses, without those that are down: their routes are not there.
fn addresses(world: &World) -> impl Iterator<Item = (&LinkFact, IpAddr, u8)> {
    let up = world.survey.links.iter().filter(|link| link.up);
    up.flat_map(|link| {
        link.addresses.iter().map(move |(address, prefix)| (link, *address, *prefix))
    })
}

/// Addresses that two links have with the network behind them: answers leave by either. An address
/// alone (`/32`, `/128`) makes no such route. Network plugins give every pod's link the same one
/// as its gateway (ptp), or lend it the node's own (unnumbered).
fn on_two_links(world: &World, findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (link, address, prefix) in addresses(world) {
        let alone = prefix == if address.is_ipv4() { 32 } else { 128 };
        if alone || address.is_loopback() || is_link_local(address) {
            continue;
        }
        if let Some(other) = seen.insert(address, &link.name) {
            let cause = format!("{address}/{prefix} is on {other} and on {}", link.name);
            findings.push(finding(Sort::DuplicateAddress, cause));
        }
    }
}

/// Cluster IPs that a link has: they were handed out twice, or left by ipvs mode. External addresses
/// are often a node's own, and caches of DNS have that of their Service on a dummy link of theirs.
fn on_a_link(
    world: &World,
    (promises, cluster): (&Promises<'_>, &Cluster),
    findings: &mut Vec<Finding>,
) {
    let services = cluster.services();
    let of_services = services.flat_map(|s| s.cluster_ips.iter().map(move |ip| (*ip, s)));
    let by_address: BTreeMap<IpAddr, _> = of_services.collect();
    let mut left: BTreeSet<IpAddr> = BTreeSet::new();
    for (link, address, _) in addresses(world) {
        let Some(service) = by_address.get(&address) else { continue };
        let ipvs = &*link.name == IPVS_DEVICE;
        if ipvs && !promises.take_turns() {
            left.insert(address);
        }
        if ipvs || link.kind == "dummy" {
            continue;
        }
        let cause = format!(
            "{address}, the cluster IP of {}, is an address of link {} as well: give one of them another",
            service.name, link.name
        );
        let name = service.ports.first().map(|port| service.port_name(port).to_string());
        findings.push(Finding { service: name, ..finding(Sort::DuplicateAddress, cause) });
    }
    if let Some(first) = left.first() {
        let cause = format!(
            "link {IPVS_DEVICE} has {} cluster IPs, such as {first}, though this is not ipvs mode: `ip link delete {IPVS_DEVICE}`",
            left.len()
        );
        findings.push(finding(Sort::DuplicateAddress, cause));
    }
}

/// Endpoints of one address on two nodes, and endpoints of another node with an address of this one.
/// Pods in their node's own network have its address, and so do all others of that node. Endpoints
/// that answer no more are none: another pod may have their address by now.
fn of_two_endpoints(world: &World, cluster: &Cluster, findings: &mut Vec<Finding>) {
    let own: BTreeSet<IpAddr> = addresses(world)
        .filter(|(link, ..)| &*link.name != IPVS_DEVICE)
        .map(|(_, address, _)| address)
        .collect();
    let mut seen: BTreeMap<IpAddr, (&str, &crate::model::NamespacedName)> = BTreeMap::new();
    let mut told: BTreeSet<IpAddr> = BTreeSet::new();
    let slices = cluster.services().flat_map(|service| cluster.slices(&service.name));
    for slice in slices {
        let usable = |e: &&crate::model::Endpoint| e.conditions.ready || e.conditions.serving;
        for endpoint in slice.endpoints.iter().filter(usable) {
            let (address, Some(node)) = (endpoint.address, endpoint.node.as_deref()) else {
                continue;
            };
            let (other, first) = *seen.entry(address).or_insert((node, &slice.service));
            if other != node && told.insert(address) {
                let cause = format!(
                    "endpoint {address} runs on {other} (of {first}) and on {node} (of {}): two pods have one address",
                    slice.service
                );
                findings.push(finding(Sort::DuplicateAddress, cause));
            }
            if node != cluster.node_name() && own.contains(&address) && told.insert(address) {
                let cause = format!(
                    "endpoint {address} of {} runs on {node}, and is an address of this node ({})",
                    slice.service,
                    cluster.node_name()
                );
                findings.push(finding(Sort::DuplicateAddress, cause));
            }
        }
    }
}
