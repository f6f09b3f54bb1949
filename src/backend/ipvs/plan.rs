//! How to get from what is in the kernel to what is wanted, in an order in which no packet meets
//! half of it: sets first, then servers with their destinations, then new addresses (an address
//! answers only when all behind it is there), then what is not needed any more, the other way round.
//! Pure; `Applied` is only valid while every step was carried out, which is the caller's promise.
//! Tests: below, `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::DEVICE;
use super::sets::Set;
use super::wanted::{Node, Wanted, asked_scheduler};
use crate::backend::Options;
use crate::backend::counted::Counted;
use crate::backend::program::Frontend;
use crate::backend::ruleset::Ruleset;
use crate::kernel::{
    Destination, IpsetEntry, IpsetOperation, IpvsOperation, LinkOperation, Scheduler, Scheduling,
    Socket, VirtualServer,
};
use crate::model::{Family, Notice, Protocol};

/// The weight of an endpoint. Weights from hints of the cluster are left open in the design.
const WEIGHT: u32 = 1;

/// A virtual server as it is in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) scheduling: Scheduling,
    /// Sorted by address and port.
    pub(super) destinations: Vec<Destination>,
    /// Destinations that are not masqueraded to: somebody else's, never wanted.
    pub(super) direct: Vec<Socket>,
    pub(super) entries: Vec<(Set, IpsetEntry)>,
    pub(super) address: Option<IpAddr>,
    /// Whether it may be deleted when no Service wants it.
    pub(super) ours: bool,
    /// Somebody else's in the excluded CIDRs: not to be touched even if a Service wants it.
    pub(super) left_alone: bool,
}

/// What is in the kernel, of one family.
#[derive(Debug)]
pub struct Applied {
    pub(super) servers: BTreeMap<VirtualServer, Server>,
    pub(super) entries: Counted<(Set, IpsetEntry)>,
    pub(super) addresses: Counted<IpAddr>,
    /// Sets to be made, and those to be exchanged for a new one because they were made otherwise.
    pub(super) missing: BTreeSet<Set>,
    pub(super) outdated: BTreeSet<Set>,
    /// Whether the device is to be made.
    pub(super) no_device: bool,
    pub(super) node: Node,
    health_check_ports: BTreeSet<u16>,
    /// The options all of this was made for; `None`: everything has to be looked at.
    options: Option<Options>,
    /// Servers with destinations of weight 0 that wait for their connections to end.
    pub leaving: BTreeSet<VirtualServer>,
    notices: BTreeMap<VirtualServer, Vec<Notice>>,
}

/// What is to be done, in this order. Each part must have been carried out before the next begins.
#[derive(Debug, Default)]
pub struct Steps {
    /// Sets that are made, entries that come.
    pub sets: Vec<IpsetOperation>,
    /// Virtual servers and destinations.
    pub servers: Vec<IpvsOperation>,
    /// The device and its addresses.
    pub links: Vec<LinkOperation>,
    /// Entries that go, and those that may only come now.
    pub last_sets: Vec<IpsetOperation>,
    /// Virtual servers of which destinations have begun to leave.
    pub leaving: BTreeSet<VirtualServer>,
}

impl Applied {
    /// Nothing is there but links with their addresses.
    pub(super) fn empty(node: Node) -> Applied {
        Applied {
            servers: BTreeMap::new(),
            entries: Counted::default(),
            addresses: Counted::default(),
            missing: Set::all().collect(),
            outdated: BTreeSet::new(),
            no_device: true,
            node,
            health_check_ports: BTreeSet::new(),
            options: None,
            leaving: BTreeSet::new(),
            notices: BTreeMap::new(),
        }
    }

    /// What could not be done as Services asked.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.values().flatten()
    }

    /// Virtual servers that are ours.
    pub fn made(&self) -> BTreeSet<VirtualServer> {
        let ours = self.servers.iter().filter(|(_, server)| server.ours);
        ours.map(|(at, _)| *at).collect()
    }

    /// Whether the links other than the device have these addresses.
    pub fn knows_addresses(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        self.node.addresses == *addresses
    }

    /// Says what addresses the links other than the device have now.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.node.addresses != addresses {
            self.node.addresses = addresses;
            self.options = None;
        }
    }

    /// Schedulers that Services ask for, of frontends that will be looked at.
    pub fn asked_schedulers(
        &self,
        (ruleset, options): (&Ruleset, &Options),
        changed: &BTreeSet<Frontend>,
    ) -> BTreeSet<Scheduler> {
        let all = self.options.as_ref() != Some(options);
        let every = ruleset.frontends().filter(|_| all);
        let frontends = every.chain(changed);
        frontends.filter_map(|frontend| asked_scheduler(&*ruleset.program(frontend)?)).collect()
    }

    /// Says that the kernel lacks a scheduler.
    pub fn lacks(&mut self, scheduler: Scheduler) {
        self.node.lacking.insert(scheduler);
    }

    /// What brings these frontends up to date; all of them where that has to be.
    pub fn plan(
        &mut self,
        (ruleset, options): (&Ruleset, &Options),
        changed: BTreeSet<Frontend>,
    ) -> Steps {
        let all = self.options.as_ref() != Some(options);
        let todo: BTreeSet<VirtualServer> = if all {
            let wanted = ruleset.frontends().flat_map(|f| self.node.servers(f, options));
            wanted.chain(self.servers.keys().copied()).collect()
        } else {
            changed.iter().flat_map(|f| self.node.servers(f, options)).collect()
        };
        let mut plan = Plan::new(self);
        for server in todo {
            let wanted = plan.applied.node.wanted(&server, (ruleset, options));
            plan.bring(server, wanted);
        }
        plan.health_check_ports(ruleset.health_check_ports().into_keys().collect());
        let steps = plan.finish();
        self.options = Some(options.clone());
        steps
    }

    /// Operations that delete destinations whose connections are gone. `left` says which
    /// destinations of a server have any.
    pub fn finish_leaving(
        &mut self,
        server: VirtualServer,
        left: &BTreeSet<Socket>,
    ) -> Vec<IpvsOperation> {
        let mut gone = Vec::new();
        if let Some(known) = self.servers.get_mut(&server) {
            known.destinations.retain(|destination| {
                let stays = destination.weight > 0 || left.contains(&destination.socket);
                if !stays {
                    gone.push(IpvsOperation::DeleteDestination(server, destination.socket));
                }
                stays
            });
        }
        let waits = self.servers.get(&server).is_some_and(Server::has_leaving);
        if !waits {
            self.leaving.remove(&server);
        }
        gone
    }
}

impl Server {
    fn has_leaving(&self) -> bool {
        self.destinations.iter().any(|destination| destination.weight == 0)
    }
}

/// Steps being put together.
struct Plan<'a> {
    applied: &'a mut Applied,
    first: BTreeMap<Set, Vec<IpsetEntry>>,
    late: BTreeMap<Set, Vec<IpsetEntry>>,
    grown: Vec<IpvsOperation>,
    shrunk: Vec<IpvsOperation>,
    bound: Vec<IpAddr>,
    leaving: BTreeSet<VirtualServer>,
}

impl<'a> Plan<'a> {
    fn new(applied: &'a mut Applied) -> Plan<'a> {
        Plan {
            applied,
            first: BTreeMap::new(),
            late: BTreeMap::new(),
            grown: Vec::new(),
            shrunk: Vec::new(),
            bound: Vec::new(),
            leaving: BTreeSet::new(),
        }
    }

    /// Brings one virtual server up to date.
    fn bring(&mut self, server: VirtualServer, wanted: Option<Wanted>) {
        let known = self.applied.servers.remove(&server);
        let mut notices = Vec::new();
        match (&known, &wanted) {
            (Some(known), Some(wanted)) if known.left_alone => {
                notices.push(wanted.left_alone(&server));
            }
            (_, Some(wanted)) => notices.clone_from(&wanted.notices),
            (_, None) => {}
        }
        match notices.is_empty() {
            true => drop(self.applied.notices.remove(&server)),
            false => drop(self.applied.notices.insert(server, notices)),
        }
        match (known, wanted) {
            (None, None) => {}
            (None, Some(wanted)) => self.add(server, wanted),
            (Some(known), Some(_)) if known.left_alone => {
                self.applied.servers.insert(server, known);
            }
            (Some(known), Some(wanted)) => self.change(server, known, wanted),
            (Some(known), None) => self.remove(server, &known),
        }
    }

    fn add(&mut self, server: VirtualServer, wanted: Wanted) {
        self.grown.push(IpvsOperation::AddServer(server, wanted.scheduling));
        self.need_entries(&[], &wanted.entries, Appearance::New);
        self.need_address(None, wanted.address);
        let destinations: Vec<Destination> = wanted.destinations.iter().map(endpoint).collect();
        let add = |to: &Destination| IpvsOperation::AddDestination(server, *to);
        self.grown.extend(destinations.iter().map(add));
        let added = Server {
            scheduling: wanted.scheduling,
            destinations,
            direct: Vec::new(),
            entries: wanted.entries,
            address: wanted.address,
            ours: true,
            left_alone: false,
        };
        self.applied.servers.insert(server, added);
    }

    fn change(&mut self, server: VirtualServer, mut known: Server, wanted: Wanted) {
        if known.scheduling != wanted.scheduling {
            self.grown.push(IpvsOperation::EditServer(server, wanted.scheduling));
            known.scheduling = wanted.scheduling;
        }
        self.need_entries(&known.entries, &wanted.entries, Appearance::Known);
        self.need_address(known.address, wanted.address);
        let direct = std::mem::take(&mut known.direct);
        let delete = |socket| IpvsOperation::DeleteDestination(server, socket);
        self.grown.extend(direct.into_iter().map(delete));
        self.destinations(server, &mut known, &wanted);
        (known.entries, known.address) = (wanted.entries, wanted.address);
        // Its address and our sets have it from now on.
        known.ours = true;
        self.applied.servers.insert(server, known);
    }

    fn remove(&mut self, server: VirtualServer, known: &Server) {
        self.applied.leaving.remove(&server);
        self.need_entries(&known.entries, &[], Appearance::Known);
        self.need_address(known.address, None);
        if known.ours {
            self.shrunk.push(IpvsOperation::DeleteServer(server));
        }
    }

    /// Destinations that come, come back, begin to leave or go.
    fn destinations(&mut self, server: VirtualServer, known: &mut Server, wanted: &Wanted) {
        let new: BTreeSet<Socket> = wanted.destinations.iter().copied().collect();
        let mut kept = Vec::with_capacity(new.len());
        let mut there = BTreeSet::new();
        let mut room = wanted.choice.most_destinations().saturating_sub(new.len());
        // Only TCP says when a connection is over.
        let graceful = server.protocol == Protocol::Tcp && !wanted.choice.stumbles();
        for old in &known.destinations {
            if new.contains(&old.socket) {
                there.insert(old.socket);
                if old.weight != WEIGHT {
                    let to = endpoint(&old.socket);
                    self.grown.push(IpvsOperation::EditDestination(server, to));
                }
                kept.push(endpoint(&old.socket));
            } else if graceful && room > 0 {
                room -= 1;
                let to = Destination { weight: 0, ..*old };
                if old.weight != 0 {
                    self.shrunk.push(IpvsOperation::EditDestination(server, to));
                }
                kept.push(to);
            } else {
                self.shrunk.push(IpvsOperation::DeleteDestination(server, old.socket));
            }
        }
        for socket in new.difference(&there) {
            self.grown.push(IpvsOperation::AddDestination(server, endpoint(socket)));
            kept.push(endpoint(socket));
        }
        kept.sort_unstable();
        known.destinations = kept;
        if known.has_leaving() {
            self.leaving.insert(server);
            self.applied.leaving.insert(server);
        } else {
            self.applied.leaving.remove(&server);
        }
    }

    fn need_entries(
        &mut self,
        old: &[(Set, IpsetEntry)],
        new: &[(Set, IpsetEntry)],
        server: Appearance,
    ) {
        for entry in new.iter().filter(|entry| !old.contains(entry)) {
            if !self.applied.entries.need(*entry) {
                continue;
            }
            let (set, entry) = *entry;
            let exchanged = self.applied.outdated.contains(&set);
            let late = set.spares() && server == Appearance::Known && !exchanged;
            let list = if late { &mut self.late } else { &mut self.first };
            list.entry(set).or_default().push(entry);
        }
        for entry in old.iter().filter(|entry| !new.contains(entry)) {
            self.applied.entries.release(*entry);
        }
    }

    fn need_address(&mut self, old: Option<IpAddr>, new: Option<IpAddr>) {
        if old == new {
            return;
        }
        if let Some(address) = new
            && self.applied.addresses.need(address)
        {
            self.bound.push(address);
        }
        if let Some(address) = old {
            self.applied.addresses.release(address);
        }
    }

    fn health_check_ports(&mut self, wanted: BTreeSet<u16>) {
        let entries = |ports: &BTreeSet<u16>| -> Vec<(Set, IpsetEntry)> {
            ports.iter().map(|port| (Set::HealthCheckNodePort, IpsetEntry::Port(*port))).collect()
        };
        let known = std::mem::replace(&mut self.applied.health_check_ports, wanted.clone());
        if known != wanted {
            self.need_entries(&entries(&known), &entries(&wanted), Appearance::New);
        }
    }

    /// What nobody needs any more goes, and everything comes into its order.
    fn finish(mut self) -> Steps {
        let family = self.applied.node.family;
        let idle = std::mem::take(&mut self.applied.entries.idle);
        let mut gone: BTreeMap<Set, Vec<IpsetEntry>> = BTreeMap::new();
        for (set, entry) in idle.iter().filter(|(set, _)| !self.applied.outdated.contains(set)) {
            gone.entry(*set).or_default().push(*entry);
        }
        let mut steps = Steps { leaving: self.leaving, ..Steps::default() };
        let missing = std::mem::take(&mut self.applied.missing);
        steps.sets.extend(missing.iter().map(|set| IpsetOperation::Create(set.spec(family))));
        for set in std::mem::take(&mut self.applied.outdated) {
            exchange(set, family, self.first.remove(&set), &mut steps.sets);
        }
        let delete =
            |set: Set, entries| IpsetOperation::Delete(set.name(family).to_owned(), entries);
        let add = |set: Set, entries| IpsetOperation::Add(set.name(family).to_owned(), entries);
        steps.sets.extend(self.first.into_iter().map(|(set, entries)| add(set, entries)));
        for (set, entries) in gone.into_iter().rev() {
            let list = if set.spares() { &mut steps.sets } else { &mut steps.last_sets };
            list.push(delete(set, entries));
        }
        steps.last_sets.extend(self.late.into_iter().map(|(set, entries)| add(set, entries)));
        steps.servers = self.grown;
        steps.servers.append(&mut self.shrunk);
        if std::mem::take(&mut self.applied.no_device) {
            steps.links.push(LinkOperation::AddDummy(DEVICE.to_owned()));
        }
        // Hidden: else the kernel masquerades connections to a link without an address of its own,
        // as that of a pod, behind a Service's IPv6 address (RFC 6724, rule 8: the longest prefix).
        let bind = |address| LinkOperation::AddHiddenAddress(DEVICE.to_owned(), address);
        steps.links.extend(self.bound.into_iter().map(bind));
        let idle = std::mem::take(&mut self.applied.addresses.idle);
        let unbind = |address| LinkOperation::DeleteAddress(DEVICE.to_owned(), address);
        steps.links.extend(idle.into_iter().map(unbind));
        steps
    }
}

/// Whether a virtual server has answered before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Appearance {
    New,
    Known,
}

fn endpoint(socket: &Socket) -> Destination {
    Destination { socket: *socket, weight: WEIGHT }
}

/// Puts a new set in the place of one that was made with other options, at once.
fn exchange(
    set: Set,
    family: Family,
    entries: Option<Vec<IpsetEntry>>,
    out: &mut Vec<IpsetOperation>,
) {
    let next = set.next_name(family);
    out.push(IpsetOperation::Create(crate::kernel::IpsetSpec {
        name: next.clone(),
        ..set.spec(family)
    }));
    out.extend(entries.map(|entries| IpsetOperation::Add(next.clone(), entries)));
    out.push(IpsetOperation::Swap(set.name(family).to_owned(), next.clone()));
    out.push(IpsetOperation::Destroy(next));
}
