//! From what was found in the kernel to what is known of it: what an earlier process or the
//! reference left is gone on with, and nobody else's virtual servers are touched.
//!
//! A virtual server is ours if its address is on the device, if one of our sets has its address and
//! port, or if it is at an address of this node with a port that our set of node ports has. Sets get
//! their entries before a server is made and lose them after it is deleted, so this holds whenever
//! the process ends. What lies in the excluded CIDRs is never deleted but by who made it, and only
//! gone on with where our sets have it. Tests: `sync::ipvs_tests`, `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::DEVICE;
use super::plan::{Applied, Server};
use super::sets::Set;
use super::wanted::Node;
use crate::backend::Options;
use crate::backend::counted::Counted;
use crate::kernel::{
    Destination, DestinationFact, IpsetEntry, IpsetFact, IpsetOperation, IpsetType, LinkFact,
    LinkOperation, Socket, VirtualServer, VirtualServerFact,
};
use crate::model::{Family, Protocol};

/// What was found in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Virtual servers of the family.
    pub servers: Vec<VirtualServerFact>,
    /// Sets, at least those with our names.
    pub sets: Vec<IpsetFact>,
    /// All links.
    pub links: Vec<LinkFact>,
}

impl Found {
    /// Addresses of a family on links other than the device, that others can ask for.
    pub fn node_addresses(&self, family: Family) -> BTreeSet<IpAddr> {
        node_addresses(&self.links, family)
    }

    /// Our sets that are there, and those of our names that have another type.
    pub(super) fn own_sets(&self, family: Family) -> impl Iterator<Item = (Set, &IpsetFact)> {
        let named = move |name: &str| Set::all().find(|set| set.name(family) == name);
        self.sets.iter().filter_map(move |fact| Some((named(&fact.spec.name)?, fact)))
    }

    pub(super) fn entries(&self, family: Family) -> BTreeSet<(Set, IpsetEntry)> {
        let of = |(set, fact): (Set, &IpsetFact)| -> Vec<(Set, IpsetEntry)> {
            fact.entries.iter().map(|entry| (set, *entry)).collect()
        };
        self.own_sets(family).flat_map(of).collect()
    }

    /// Addresses of a family on the device.
    pub(super) fn bound(&self, family: Family) -> BTreeSet<IpAddr> {
        let device = self.links.iter().filter(|link| link.name == DEVICE);
        let addresses = device.flat_map(|link| &link.addresses);
        let whole = addresses.filter(|(address, prefix)| {
            Family::of(*address) == family && *prefix == family.address_bits()
        });
        whole.map(|(address, _)| *address).collect()
    }

    /// Virtual servers that we, an earlier process of ours or the reference made.
    pub fn ours(&self, family: Family, options: &Options) -> BTreeSet<VirtualServer> {
        let bound = self.bound(family);
        let known = self.known(family);
        let servers = self.servers.iter().map(|fact| fact.server);
        servers
            .filter(|server| server.family() == family && !options.ipvs.excludes(server))
            .filter(|server| bound.contains(&server.socket.address) || known.contains(server))
            .collect()
    }

    /// Virtual servers that our sets have.
    fn known(&self, family: Family) -> BTreeSet<VirtualServer> {
        let (entries, nodes) = (self.entries(family), self.node_addresses(family));
        let servers = self.servers.iter().map(|fact| fact.server);
        servers.filter(|server| is_known(server, &entries, &nodes)).collect()
    }

    /// Our sets that cannot be gone on with: of a type that somebody else gave them.
    pub fn strange_sets(&self, family: Family) -> Vec<String> {
        let strange = |(set, fact): &(Set, &IpsetFact)| {
            let wanted = set.spec(family);
            let bitmap = wanted.kind == IpsetType::BitmapPort;
            fact.spec.kind != wanted.kind || !bitmap && fact.spec.family != wanted.family
        };
        let told =
            |(_, fact): (Set, &IpsetFact)| format!("{} ({})", fact.spec.name, fact.spec.kind);
        self.own_sets(family).filter(strange).map(told).collect()
    }

    /// Takes away the family's addresses of the device; the device itself where no other is left.
    pub fn unbinding(&self, family: Family) -> Vec<LinkOperation> {
        let Some(device) = self.links.iter().find(|link| link.name == DEVICE) else {
            return Vec::new();
        };
        let of_family = |address: &IpAddr| Family::of(*address) == family;
        let automatic = |address: &IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let addresses = device.addresses.iter().map(|(address, _)| *address);
        let (own, others): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses.filter(|address| !automatic(address)).partition(of_family);
        if others.is_empty() {
            return vec![LinkOperation::Delete(DEVICE.to_owned())];
        }
        let unbind = |address| LinkOperation::DeleteAddress(DEVICE.to_owned(), address);
        own.into_iter().map(unbind).collect()
    }

    /// Destroys our sets; for when no rule asks them any more.
    pub fn removal(&self, family: Family) -> Vec<IpsetOperation> {
        let sets = self.own_set_names(family);
        let mut operations: Vec<IpsetOperation> = sets.map(IpsetOperation::Destroy).collect();
        operations.extend(self.unfinished_sets(family));
        operations
    }

    /// The names of our sets.
    pub fn own_set_names(&self, family: Family) -> impl Iterator<Item = String> {
        self.own_sets(family).map(|(_, fact)| fact.spec.name.clone())
    }

    /// Sets that were being filled when an earlier process ended.
    pub fn unfinished_sets(&self, family: Family) -> Vec<IpsetOperation> {
        let ours: BTreeSet<String> = Set::all().map(|set| set.next_name(family)).collect();
        let names = self.sets.iter().map(|fact| &fact.spec.name);
        names.filter(|name| ours.contains(*name)).cloned().map(IpsetOperation::Destroy).collect()
    }

    /// What is known of the kernel, having found this; `made` are servers that this process made.
    pub fn adopt(
        self,
        (family, options): (Family, &Options),
        made: &BTreeSet<VirtualServer>,
    ) -> Applied {
        let ours = self.ours(family, options);
        let known = self.known(family);
        let adopted = |fact: &VirtualServerFact| {
            let at = &fact.server;
            let made = made.contains(at);
            let left_alone = options.ipvs.excludes(at) && !known.contains(at) && !made;
            Server { left_alone, ..server(fact, made || ours.contains(at)) }
        };
        let node =
            Node { family, addresses: self.node_addresses(family), lacking: BTreeSet::new() };
        let mut applied = Applied::empty(node);
        applied.no_device = self.links.iter().all(|link| link.name != DEVICE);
        applied.addresses = Counted::found(self.bound(family));
        let mut entries = self.entries(family);
        for (set, fact) in self.own_sets(family) {
            applied.missing.remove(&set);
            let bitmap = set.kind() == IpsetType::BitmapPort;
            if !bitmap && fact.spec.most != set.spec(family).most {
                applied.outdated.insert(set);
            }
        }
        entries.retain(|(set, _)| !applied.outdated.contains(set));
        applied.entries = Counted::found(entries);
        applied.servers = self
            .servers
            .iter()
            .filter(|fact| fact.server.family() == family)
            .map(|fact| (fact.server, adopted(fact)))
            .collect::<BTreeMap<_, _>>();
        applied
    }
}

/// Addresses of a family on links other than the device, that others can ask for.
pub fn node_addresses(links: &[LinkFact], family: Family) -> BTreeSet<IpAddr> {
    let asked_for = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    let others = links.iter().filter(|link| link.name != DEVICE);
    let addresses = others.flat_map(|link| link.addresses.iter().map(|(address, _)| *address));
    addresses.filter(|address| Family::of(*address) == family).filter(asked_for).collect()
}

fn is_known(
    server: &VirtualServer,
    entries: &BTreeSet<(Set, IpsetEntry)>,
    nodes: &BTreeSet<IpAddr>,
) -> bool {
    let VirtualServer { protocol, socket } = *server;
    let pair = IpsetEntry::IpPort(protocol, socket);
    let exact = [
        Set::ClusterIp,
        Set::ExternalIp,
        Set::ExternalIpLocal,
        Set::LoadBalancer,
        Set::NodePortSctp,
    ];
    let (node_ports, _) = Set::of_node_ports(protocol);
    let node_port = protocol != Protocol::Sctp
        && nodes.contains(&socket.address)
        && entries.contains(&(node_ports, IpsetEntry::Port(socket.port)));
    node_port || exact.iter().any(|set| entries.contains(&(*set, pair)))
}

/// A virtual server as it was found.
fn server(fact: &VirtualServerFact, ours: bool) -> Server {
    let (destinations, direct) = destinations(&fact.destinations);
    Server {
        scheduling: fact.scheduling,
        destinations,
        direct,
        entries: Vec::new(),
        address: None,
        ours,
        left_alone: false,
    }
}

/// Destinations that are masqueraded to, sorted, and those that are not, which are never ours.
pub(super) fn destinations(found: &[DestinationFact]) -> (Vec<Destination>, Vec<Socket>) {
    let (through, direct): (Vec<DestinationFact>, Vec<DestinationFact>) =
        found.iter().partition(|destination| destination.masquerades);
    let mut through: Vec<Destination> = through.iter().map(|d| d.destination).collect();
    through.sort_unstable();
    (through, direct.iter().map(|d| d.destination.socket).collect())
}
