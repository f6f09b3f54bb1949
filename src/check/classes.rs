//! The kinds of clients a frontend is asked from: a pod of this node, the endpoint itself, the
//! node, somebody outside, and for source ranges one inside and one not.
//!
//! It must never know what is promised. Tests: `tests.rs`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::IPVS_DEVICE;
use crate::model::{Family, LocalDetector, Protocol};
use crate::promise::{Claim, Face, Frontend, Packet, Promises};
use crate::trace::World;

/// Clients that stand for all of their kind, in one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    /// Pods of this node: address and link.
    pods: Vec<(IpAddr, String)>,
    /// Somebody outside.
    outside: Option<(IpAddr, String)>,
    /// The node's addresses that take node ports.
    node_ports: Vec<IpAddr>,
}

/// Of so many addresses in a row one is not the node's.
const MOST_OWN: usize = 256;

/// Addresses that stand for somebody outside.
pub(super) const OUTSIDE: [[&str; 2]; 2] =
    [["203.0.113.77", "198.51.100.77"], ["2001:db8:ffff::77", "2001:db8:fffe::77"]];

/// Who can ask, in a family.
pub(super) fn clients(
    world: &World,
    promises: &Promises<'_>,
    detector: &LocalDetector,
    family: Family,
) -> Clients {
    let link_of = |address: IpAddr| {
        let hop = world.host.route_to(address)?;
        Some((address, world.link_name(hop.link).to_owned()))
    };
    let local: BTreeSet<IpAddr> = promises
        .claims(family)
        .values()
        .flat_map(|claim| claim.reach.cluster.iter().chain(&claim.reach.local))
        .filter(|backend| backend.local)
        .map(|backend| backend.socket.address)
        .filter(|address| !world.host.is_local(*address))
        .collect();
    // One that is of the pods' CIDR and one that is not, where there are both.
    let cidr = detector.cidr(family);
    let inside = |address: &&IpAddr| cidr.is_none_or(|cidr| cidr.contains(*address));
    let of_each = [local.iter().find(inside), local.iter().find(|a| !inside(a))];
    let outside = OUTSIDE[family.index()].iter().filter_map(|text| text.parse().ok());
    // Where kube-proxy itself takes connections, and Services' addresses that ipvs mode gave the
    // node, are no addresses of the node.
    let links = world.host.links().iter().filter(|link| &*link.name != IPVS_DEVICE);
    let addresses = links.flat_map(|link| link.addresses.iter().map(|a| a.0));
    let addresses = addresses.filter(|address| !world.is_relay(*address));
    let own = |a: &IpAddr| Family::of(*a) == family && !a.is_loopback() && !is_link_local(*a);
    let (taken, others): (Vec<_>, Vec<_>) =
        addresses.filter(own).partition(|address| promises.takes_node_ports(*address));
    Clients {
        pods: of_each.into_iter().flatten().filter_map(|a| link_of(*a)).collect(),
        outside: outside.filter(|a| !world.host.is_local(*a)).find_map(link_of),
        node_ports: taken.into_iter().take(2).chain(others.into_iter().take(1)).collect(),
    }
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

/// Whether nobody outside has such an address.
pub(super) fn is_nobody(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_loopback() || address.is_multicast()
}

impl Clients {
    /// The packets to one frontend.
    pub(super) fn packets(
        &self,
        world: &World,
        frontend: &Frontend,
        claim: &Claim<'_>,
    ) -> Vec<Packet> {
        let (address, protocol, port) = *frontend;
        let destinations = match address {
            Some(address) => vec![address],
            None => self.node_ports.clone(),
        };
        let mut packets = Vec::new();
        for destination in destinations {
            let packet = |source: IpAddr, link: Option<&str>| Packet {
                protocol,
                source,
                destination,
                port,
                link: link.map(str::to_owned),
            };
            packets.extend(self.pods.iter().map(|(a, link)| packet(*a, Some(link))));
            // To an address of the node it comes in by the link that has it: there rp_filter counts.
            let held =
                world.survey.links.iter().find(|l| l.addresses.iter().any(|a| a.0 == destination));
            let held =
                held.filter(|link| claim.face == Face::NodePort && link.up).map(|link| &link.name);
            packets.extend(
                self.outside.iter().map(|(a, link)| packet(*a, Some(held.unwrap_or(link)))),
            );
            let own = world.host.source_for(destination).filter(|_| claim.face != Face::NodePort);
            packets.extend(
                own.or(Some(destination).filter(|_| claim.face == Face::NodePort))
                    .map(|a| packet(a, None)),
            );
            packets.extend(itself(world, claim).map(|(a, link)| packet(a, Some(&link))));
            packets.extend(
                self.ranged(world, claim, destination)
                    .map(|a| packet(a, self.outside.as_ref().map(|(_, link)| link.as_str()))),
            );
        }
        packets.sort_by(|a, b| {
            (a.destination, a.source, &a.link).cmp(&(b.destination, b.source, &b.link))
        });
        packets.dedup();
        packets
    }

    /// A pod that asks where there is none else.
    pub(super) fn or_pods(&mut self, pod: &Option<(IpAddr, String)>) {
        if self.pods.is_empty() {
            self.pods.extend(pod.clone());
        }
    }

    /// Packets to an address that is no Service's any more.
    pub(super) fn to(&self, world: &World, (address, protocol, port): &Frontend) -> Vec<Packet> {
        let Some(destination) = *address else { return Vec::new() };
        let packet = |source: IpAddr, link: Option<&String>| Packet {
            protocol: *protocol,
            source,
            destination,
            port: *port,
            link: link.cloned(),
        };
        let own = world.host.source_for(destination).map(|source| packet(source, None));
        let others = self.pods.iter().chain(&self.outside);
        others.map(|(source, link)| packet(*source, Some(link))).chain(own).collect()
    }

    /// A source inside of each kind of range of a load balancer.
    fn ranged(
        &self,
        world: &World,
        claim: &Claim<'_>,
        destination: IpAddr,
    ) -> impl Iterator<Item = IpAddr> {
        let family = Family::of(destination);
        let ranges: &[IpNet] = match claim.service.load_balancer_ips.contains(&destination) {
            true => &claim.service.source_ranges,
            false => &[],
        };
        let usable = self.outside.is_some();
        // A range of everybody has somebody outside in it anyway.
        let narrow = |range: &&IpNet| range.prefix_len() > 0 && Family::of(range.addr()) == family;
        let first = ranges.iter().filter(|_| usable).find(narrow);
        // Nobody outside has an address of the node's.
        let stranger = |address: &IpAddr| !is_nobody(*address) && !world.host.is_local(*address);
        first.and_then(|range| range.hosts().take(MOST_OWN).find(stranger)).into_iter()
    }

    /// A packet to a cluster IP at a port that it does not have.
    pub(super) fn beside(
        &self,
        world: &World,
        frontend: &Frontend,
        taken: impl Fn(u16) -> bool,
    ) -> Option<Packet> {
        let port = (1..=u16::MAX).rev().find(|port| !taken(*port))?;
        let destination = frontend.0?;
        let source = world.host.source_for(destination)?;
        Some(Packet { protocol: Protocol::Tcp, source, destination, port, link: None })
    }
}

/// An endpoint of this node as a client of its own Service.
fn itself(world: &World, claim: &Claim<'_>) -> Option<(IpAddr, String)> {
    let endpoints = claim.reach.cluster.iter().chain(&claim.reach.local);
    let mut local = endpoints.filter(|e| e.local && !world.host.is_local(e.socket.address));
    let address = local.next()?.socket.address;
    let hop = world.host.route_to(address)?;
    Some((address, world.link_name(hop.link).to_owned()))
}
