//! What of ipvs mode's own is not in the kernel as it was left: every virtual server, every entry of our
//! sets, every address on the device; and the destinations of one server, since each costs a question
//! of its own. Neither IPVS nor ipset tells anybody when others change it. Weight 0 is ours where a
//! destination leaves. Servers that are not ours are not looked at. Pure. Tests: `sync::ipvs_tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::DEVICE;
use super::adopt::{Found, destinations};
use super::plan::{Applied, Server};
use super::sets::Set;
use crate::kernel::{
    Destination, DestinationFact, IpsetEntry, Socket, VirtualServer, VirtualServerFact,
};

/// What was found to differ: the first of it in words, the rest counted.
#[derive(Default)]
struct Differences {
    first: Option<String>,
    count: usize,
}

impl Differences {
    fn note(&mut self, said: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(said);
    }

    fn told(self) -> Option<String> {
        match self.count {
            0 | 1 => self.first,
            count => self.first.map(|first| format!("{first} ({} more like it)", count - 1)),
        }
    }
}

impl Applied {
    /// What is other than it was left, in words; `None` if all is as it was.
    pub fn drift(&self, found: &Found) -> Option<String> {
        let mut other = Differences::default();
        self.addresses_differ(found, &mut other);
        self.sets_differ(found, &mut other);
        let there: BTreeMap<VirtualServer, &VirtualServerFact> =
            found.servers.iter().map(|fact| (fact.server, fact)).collect();
        for (at, known) in &self.servers {
            match there.get(at) {
                None => other.note(|| format!("virtual server {at} is gone")),
                Some(_) if known.left_alone => {}
                Some(fact) => scheduling_differs(known, fact, &mut other),
            }
        }
        other.told()
    }

    /// The virtual servers whose destinations are ours to look at.
    pub fn looked_at(&self) -> impl Iterator<Item = VirtualServer> {
        self.servers.iter().filter(|(_, known)| !known.left_alone).map(|(at, _)| *at)
    }

    /// What of a virtual server's destinations is other than it was left; none of one that nobody
    /// wants any more.
    pub fn destinations_drift(
        &self,
        at: VirtualServer,
        found: &[DestinationFact],
    ) -> Option<String> {
        let mut other = Differences::default();
        destinations_differ((at, self.servers.get(&at)?), found, &mut other);
        other.told()
    }

    fn addresses_differ(&self, found: &Found, other: &mut Differences) {
        let Some(device) = found.links.iter().find(|link| link.name == DEVICE) else {
            return other.note(|| format!("the device {DEVICE} is gone"));
        };
        let there: BTreeSet<IpAddr> = device.addresses.iter().map(|(ip, _)| *ip).collect();
        let known: BTreeSet<IpAddr> = self.addresses.present().copied().collect();
        for lost in known.difference(&there) {
            other.note(|| format!("{DEVICE} has lost {lost}"));
        }
        for strange in found.bound(self.node.family).difference(&known) {
            other.note(|| format!("{DEVICE} has got {strange}, which no Service has"));
        }
    }

    fn sets_differ(&self, found: &Found, other: &mut Differences) {
        let family = self.node.family;
        let made: BTreeSet<Set> = found.own_sets(family).map(|(set, _)| set).collect();
        for gone in Set::all().filter(|set| !made.contains(set)) {
            other.note(|| format!("ipset {} is gone", gone.name(family)));
        }
        for strange in found.strange_sets(family) {
            other.note(|| format!("ipset {strange} is of a type that is not ours"));
        }
        let there = found.entries(family);
        let known: BTreeSet<(Set, IpsetEntry)> = self.entries.present().copied().collect();
        for (set, entry) in known.difference(&there).filter(|(set, _)| made.contains(set)) {
            other.note(|| format!("ipset {} has lost {entry}", set.name(family)));
        }
        for (set, entry) in there.difference(&known) {
            other.note(|| format!("ipset {} has got {entry}", set.name(family)));
        }
    }
}

fn scheduling_differs(known: &Server, fact: &VirtualServerFact, other: &mut Differences) {
    let at = fact.server;
    if fact.scheduling != known.scheduling {
        let (is, was) = (fact.scheduling.scheduler, known.scheduling.scheduler);
        other.note(|| match is == was {
            true => format!("virtual server {at} has other flags or another persistence"),
            false => format!("virtual server {at} chooses by {is} instead of {was}"),
        });
    }
}

fn destinations_differ(
    (at, known): (VirtualServer, &Server),
    found: &[DestinationFact],
    other: &mut Differences,
) {
    let (there, direct) = destinations(found);
    for strange in &direct {
        other.note(|| format!("virtual server {at} does not masquerade to {strange}"));
    }
    if there == known.destinations {
        return;
    }
    let by_socket = |all: &[Destination]| -> BTreeMap<Socket, u32> {
        all.iter().map(|to| (to.socket, to.weight)).collect()
    };
    let (is, was) = (by_socket(&there), by_socket(&known.destinations));
    for (socket, weight) in &was {
        match is.get(socket) {
            None => other.note(|| format!("virtual server {at} has lost {socket}")),
            Some(now) if now != weight => {
                other.note(|| {
                    format!("virtual server {at} gives {socket} weight {now} instead of {weight}")
                });
            }
            Some(_) => {}
        }
    }
    for strange in is.keys().filter(|socket| !was.contains_key(socket)) {
        other.note(|| format!("virtual server {at} has got {strange}"));
    }
}
