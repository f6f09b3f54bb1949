//! IPVS in a world: virtual servers as the kernel listed them, and every destination that one may
//! choose next. A server takes turns among its destinations; whose turn it is no listing says, so
//! that each is as likely as its weight.
//!
//! It must never know Services. Tests: `modes_tests.rs`, and the lab's guest.

use sim::{Journey, Outcomes, Packet, Probability};

use super::load::World;
use crate::kernel::simulated::Simulated;
use crate::kernel::survey::{ServerFact, Survey};
use crate::kernel::{
    Destination, Error, Facts, IpvsOperation, Kernel, Persistence, Query, Scheduler, Scheduling,
    Socket, Transaction, VirtualServer,
};
use crate::model::Protocol;

/// Schedulers that take turns; others choose by who asks or by how busy destinations are.
const TURNS: [&str; 2] = ["rr", "wrr"];

/// Makes the virtual servers of a survey.
pub(super) fn load(world: &mut World, survey: &Survey) {
    for fact in &survey.virtual_servers {
        let Some(operations) = operations(fact) else {
            let (address, port) = fact.at;
            let what = format!("virtual server {}", Socket { address, port });
            world.gap(what, "its protocol, scheduler or way of forwarding has no model");
            continue;
        };
        if let Err(error) =
            with_kernel(world, |kernel| kernel.apply(&Transaction::Ipvs(operations)))
        {
            world.gap(error.operation.clone(), error.source.clone());
        }
    }
}

/// What makes a virtual server again; none where something of it has no model.
fn operations(fact: &ServerFact) -> Option<Vec<IpvsOperation>> {
    let socket = |(address, port)| Socket { address, port };
    let server =
        VirtualServer { protocol: Protocol::from_number(fact.protocol)?, socket: socket(fact.at) };
    let persistence = fact.persistence.map(|(seconds, prefix)| Persistence { seconds, prefix });
    let scheduler = Scheduler::named(&fact.scheduler)?;
    let how = Scheduling { scheduler, flags: fact.flags, persistence };
    let mut operations = vec![IpvsOperation::AddServer(server, how)];
    for told in &fact.destinations {
        let to = Destination { socket: socket(told.at), weight: told.weight };
        operations.push(IpvsOperation::AddDestination(server, to));
    }
    fact.destinations.iter().all(|told| told.masquerades).then_some(operations)
}

/// Lends the world's host to the seam.
fn with_kernel<T>(world: &mut World, work: impl FnOnce(&mut Simulated) -> T) -> T {
    let host = std::mem::replace(&mut world.host, sim::Host::new(1));
    let mut kernel = Simulated::new(host);
    let done = work(&mut kernel);
    world.host = kernel.into_host().expect("nobody else was given a clone");
    done
}

/// A virtual server that takes turns, with the destinations that can have the next one.
type Turns = (VirtualServer, Vec<Destination>);

impl World {
    /// Every outcome of a packet, each with its probability.
    pub fn outcomes(&mut self, packet: &Packet) -> Outcomes {
        self.each_turn(packet, sim::Host::outcomes)
    }

    /// As [`World::outcomes`], each with the steps that lead there.
    pub fn journeys(&mut self, packet: &Packet) -> Vec<(Probability, Journey)> {
        self.each_turn(packet, sim::Host::journeys)
    }

    fn each_turn<T>(
        &mut self,
        packet: &Packet,
        ask: impl Fn(&mut sim::Host, &Packet) -> Vec<(Probability, T)>,
    ) -> Vec<(Probability, T)> {
        let Some((server, all)) = self.turns(packet) else { return ask(&mut self.host, packet) };
        let whole: u64 = all.iter().map(|to| u64::from(to.weight)).sum();
        let mut found = Vec::new();
        for chosen in &all {
            let only = |to: &Destination| {
                let weight = if to == chosen { to.weight } else { 0 };
                IpvsOperation::EditDestination(server, Destination { weight, ..*to })
            };
            self.set_weights(all.iter().map(only).collect());
            let share = (u64::from(chosen.weight), whole);
            let asked = ask(&mut self.host, packet).into_iter();
            found.extend(asked.map(|(probability, told)| (part(probability, share), told)));
        }
        let back = |to: &Destination| IpvsOperation::EditDestination(server, *to);
        self.set_weights(all.iter().map(back).collect());
        found
    }

    fn set_weights(&mut self, operations: Vec<IpvsOperation>) {
        let done = with_kernel(self, |kernel| kernel.apply(&Transaction::Ipvs(operations)));
        debug_assert!(done.is_ok(), "destinations were listed a moment ago");
    }

    fn turns(&mut self, packet: &Packet) -> Option<Turns> {
        if self.survey.virtual_servers.is_empty() {
            return None;
        }
        let socket = Socket { address: packet.dst, port: packet.dport() };
        let protocol = Protocol::from_number(packet.protocol())?;
        let pair = (protocol.number(), (socket.address, socket.port));
        let known = self.survey.virtual_servers.iter().find(|s| (s.protocol, s.at) == pair)?;
        if !TURNS.contains(&known.scheduler.as_str()) {
            return None;
        }
        let all = known.destinations.iter().filter(|to| to.weight > 0).map(|to| Destination {
            socket: Socket { address: to.at.0, port: to.at.1 },
            weight: to.weight,
        });
        let all: Vec<Destination> = all.collect();
        (all.len() > 1).then_some((VirtualServer { protocol, socket }, all))
    }

    /// Lists what the host has now: after it was programmed anew.
    pub(super) fn list_virtual_servers(&mut self) -> Result<(), Error> {
        let mut servers = Vec::new();
        for family in crate::model::Family::ALL {
            let listed = with_kernel(self, |kernel| kernel.read(&Query::VirtualServers(family)))?;
            if let Facts::VirtualServers(found) = listed {
                servers.extend(found.iter().map(ServerFact::from));
            }
        }
        servers.sort();
        self.survey.virtual_servers = servers;
        Ok(())
    }
}

/// So many of so many of a probability.
fn part(probability: Probability, (of, whole): (u64, u64)) -> Probability {
    match probability {
        Probability::ONE => Probability::new(of, whole),
        other => {
            // Rare: a choice of a rule's before IPVS was asked.
            let share = other.as_f64() * of as f64 / whole as f64;
            Probability::new((share * 1e12).round() as u64, 1_000_000_000_000)
        }
    }
}
