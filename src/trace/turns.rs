//! IPVS in a world: virtual servers as the kernel listed them, and every destination that one may
//! choose next. Where the listing decides it, the simulator does; where it is somebody's turn, each
//! is as likely as turns have it; where something decides that no listing says, all that may be are
//! answered, and what is not known is said.
//!
//! It must never know Services. Tests: `turns_tests.rs`, and the lab's guest.

use std::collections::BTreeSet;

use sim::{Journey, Outcomes, Packet, Probability};

use super::load::{Gap, World};
use crate::kernel::ipvs::SCHEDULER_FLAG_2;
use crate::kernel::simulated::Simulated;
use crate::kernel::survey::{ConnectionFact, ServerFact, Survey};
use crate::kernel::{
    Destination, Error, Facts, IpvsOperation, Kernel, Persistence, Query, Scheduler, Scheduling,
    Socket, Transaction, VirtualServer,
};
use crate::model::Protocol;

/// States of TCP in which a connection is over (`enum tcp_conntrack`): TIME_WAIT, CLOSE.
const OVER: [u8; 2] = [7, 8];
/// Whether weight 0 ends what is remembered.
const FORGETS: &str = "net/ipv4/vs/expire_quiescent_template";

/// Makes the virtual servers of a survey.
pub(super) fn load(world: &mut World, survey: &Survey) {
    for fact in &survey.virtual_servers {
        let Some((server, operations)) = operations(fact) else {
            let (address, port) = fact.at;
            let what = format!("virtual server {}", Socket { address, port });
            world.gap(what, "its protocol, scheduler or way of forwarding has no model");
            continue;
        };
        if let Err(error) =
            with_kernel(world, |kernel| kernel.apply(&Transaction::Ipvs(operations)))
        {
            world.gap(error.operation.clone(), error.source.clone());
            continue;
        }
        let key = key(&server);
        for told in &fact.destinations {
            let counts = told.connections.unwrap_or_default();
            world.host.ipvs_set_counts(&key, told.at, counts);
        }
    }
}

fn key(server: &VirtualServer) -> sim::ipvs::ServiceKey {
    let Socket { address, port } = server.socket;
    sim::ipvs::ServiceKey::new(server.protocol.number(), address, port)
}

/// What makes a virtual server again; none where something of it has no model.
fn operations(fact: &ServerFact) -> Option<(VirtualServer, Vec<IpvsOperation>)> {
    let (server, how) = (server(fact)?, scheduling(fact)?);
    let mut operations = vec![IpvsOperation::AddServer(server, how)];
    // Linux lists the last that was added first; of equals, and in hashes, their order counts.
    for told in fact.destinations.iter().rev() {
        let to = Destination { socket: socket(told.at), weight: told.weight };
        operations.push(IpvsOperation::AddDestination(server, to));
    }
    fact.destinations.iter().all(|told| told.masquerades).then_some((server, operations))
}

fn server(fact: &ServerFact) -> Option<VirtualServer> {
    let protocol = Protocol::from_number(fact.protocol)?;
    Some(VirtualServer { protocol, socket: socket(fact.at) })
}

fn scheduling(fact: &ServerFact) -> Option<Scheduling> {
    let persistence = fact.persistence.map(|(seconds, prefix)| Persistence { seconds, prefix });
    let scheduler = Scheduler::named(&fact.scheduler)?;
    Some(Scheduling { scheduler, flags: fact.flags, persistence })
}

fn socket((address, port): (std::net::IpAddr, u16)) -> Socket {
    Socket { address, port }
}

/// Lends the world's host to the seam.
fn with_kernel<T>(world: &mut World, work: impl FnOnce(&mut Simulated) -> T) -> T {
    let host = std::mem::replace(&mut world.host, sim::Host::new(1));
    let mut kernel = Simulated::new(host);
    let done = work(&mut kernel);
    world.host = kernel.into_host().expect("nobody else was given a clone");
    done
}

/// Destinations that may be next, each with its part; nobody: the host decides as it is.
type Parts = Vec<(Socket, u64)>;

/// What is known of a choice beside what the host itself decides.
#[derive(Default)]
struct Choice {
    parts: Parts,
    /// What it depends on that is not known.
    unsure: Option<&'static str>,
}

impl Choice {
    fn sure(parts: Parts) -> Choice {
        Choice { parts, unsure: None }
    }
}

impl World {
    /// Every outcome of a packet of anybody of its kind, each with its probability: where a client
    /// may be remembered or ports count, what becomes of this very one.
    pub fn outcomes(&mut self, packet: &Packet) -> Outcomes {
        let parts = self.asked(packet).map(|fact| (turns(fact), fact.clone()));
        match parts {
            Some((parts, fact)) => self.each(packet, (&fact, parts), sim::Host::outcomes),
            None => self.host.outcomes(packet),
        }
    }

    /// As [`World::outcomes`], each with the steps that lead there; and whatever may be where more
    /// counts than is known, which is noted (`unsure`).
    pub fn journeys(&mut self, packet: &Packet) -> Vec<(Probability, Journey)> {
        self.unsure.clear();
        let Some(fact) = self.asked(packet).cloned() else { return self.host.journeys(packet) };
        let choice = self.choice(&fact, packet);
        let what = format!("the choice of virtual server {}", socket(fact.at));
        let why = choice.unsure.map(str::to_owned);
        self.unsure.extend(why.map(|why| Gap { what, why }));
        self.each(packet, (&fact, choice.parts), sim::Host::journeys)
    }

    /// The virtual server that a packet asks for.
    fn asked(&self, packet: &Packet) -> Option<&ServerFact> {
        let pair = (packet.protocol(), (packet.dst, packet.dport()));
        self.survey.virtual_servers.iter().find(|fact| (fact.protocol, fact.at) == pair)
    }

    /// Who may be next, as far as it is known.
    fn choice(&mut self, fact: &ServerFact, packet: &Packet) -> Choice {
        if let Some(bound) = self.survey.flows.iter().find_map(|flow| bound(flow, fact, packet)) {
            return Choice::sure(vec![(bound, 1)]);
        }
        let any = Choice { parts: by_weight(fact), unsure: None };
        let scheduled = match unknown(fact, self.port_given) {
            // The host draws lots itself, by how busy each is.
            None if fact.scheduler == "twos" => Choice::default(),
            None => Choice::sure(turns(fact)),
            unsure => Choice { unsure, ..any },
        };
        match self.remembered(fact, packet) {
            Remembered::At(to) => Choice::sure(vec![(to, 1)]),
            Remembered::Nowhere => scheduled,
            Remembered::Perhaps(somewhere) => {
                let mut parts = scheduled.parts;
                if parts.is_empty() {
                    parts.extend(self.picks(packet).into_iter().map(|to| (to, 1)));
                }
                let more = |to: &Socket| parts.iter().all(|(known, _)| known != to);
                let more: Vec<Socket> = somewhere.into_iter().filter(more).collect();
                parts.extend(more.into_iter().map(|to| (to, 1)));
                let why = "a client that was here before stays with its destination, and who was is \
                           not known";
                Choice { parts, unsure: Some(scheduled.unsure.unwrap_or(why)) }
            }
        }
    }

    /// Where the host itself would send it.
    fn picks(&mut self, packet: &Packet) -> BTreeSet<Socket> {
        let outcomes = self.host.outcomes(packet);
        outcomes.iter().filter_map(|(_, outcome)| super::endpoint_of(packet, outcome)).collect()
    }

    /// The destination that a client stays with.
    fn remembered(&self, fact: &ServerFact, packet: &Packet) -> Remembered {
        let Some((_, prefix)) = fact.persistence else { return Remembered::Nowhere };
        let forgets = self.survey.sysctls.get(FORGETS).is_none_or(|value| value != "0");
        let holds = |to: (std::net::IpAddr, u16)| {
            let known = fact.destinations.iter().find(|told| told.at == to);
            known.is_some_and(|told| told.weight > 0 || !forgets)
        };
        if let Some(known) = &fact.remembered {
            let same = |client: std::net::IpAddr| {
                ipnet::IpNet::new(packet.src, prefix).is_ok_and(|net| net.trunc().addr() == client)
            };
            let found = known.iter().find(|(client, to)| same(*client) && holds(*to));
            return found.map_or(Remembered::Nowhere, |(_, to)| Remembered::At(socket(*to)));
        }
        let perhaps = fact.destinations.iter().filter(|told| {
            holds(told.at) && told.connections.is_none_or(|(_, _, persistent)| persistent > 0)
        });
        let perhaps: Vec<Socket> = perhaps.map(|told| socket(told.at)).collect();
        match perhaps.is_empty() {
            true => Remembered::Nowhere,
            false => Remembered::Perhaps(perhaps),
        }
    }

    /// Asks once for each of those that may be chosen; for nobody, as things are.
    fn each<T>(
        &mut self,
        packet: &Packet,
        (fact, parts): (&ServerFact, Parts),
        ask: impl Fn(&mut sim::Host, &Packet) -> Vec<(Probability, T)>,
    ) -> Vec<(Probability, T)> {
        let (Some(server), Some(how)) = (server(fact), scheduling(fact)) else {
            return ask(&mut self.host, packet);
        };
        if parts.is_empty() || self.host.ipvs_stats(&key(&server)).is_none() {
            return ask(&mut self.host, packet);
        }
        let edit = |at: &Socket, weight| {
            IpvsOperation::EditDestination(server, Destination { socket: *at, weight })
        };
        let all: Vec<(Socket, u32)> =
            fact.destinations.iter().map(|told| (socket(told.at), told.weight)).collect();
        let whole: u64 = parts.iter().map(|(_, part)| part).sum();
        // Whatever the scheduler, and whoever is remembered: it is his turn.
        let plain = Scheduling { scheduler: Scheduler::RR, flags: 0, persistence: None };
        let mut found = Vec::new();
        for (chosen, share) in parts {
            let weight = |at: &Socket| u32::from(*at == chosen);
            let mut forced = vec![IpvsOperation::EditServer(server, plain)];
            forced.extend(all.iter().map(|(at, _)| edit(at, weight(at))));
            self.change(forced);
            let asked = ask(&mut self.host, packet).into_iter();
            found
                .extend(asked.map(|(probability, told)| (part(probability, (share, whole)), told)));
        }
        let mut back: Vec<IpvsOperation> =
            all.iter().map(|(at, weight)| edit(at, *weight)).collect();
        back.push(IpvsOperation::EditServer(server, how));
        self.change(back);
        found
    }

    fn change(&mut self, operations: Vec<IpvsOperation>) {
        let done = with_kernel(self, |kernel| kernel.apply(&Transaction::Ipvs(operations)));
        debug_assert!(done.is_ok(), "servers and destinations were listed a moment ago: {done:?}");
    }

    /// Lists what the host has now: after it was programmed anew. Of connections and of clients is
    /// known what was known before.
    pub(super) fn list_virtual_servers(&mut self) -> Result<(), Error> {
        let before = std::mem::take(&mut self.survey.virtual_servers);
        let mut servers = Vec::new();
        for family in crate::model::Family::ALL {
            let listed = with_kernel(self, |kernel| kernel.read(&Query::VirtualServers(family)))?;
            if let Facts::VirtualServers(found) = listed {
                servers.extend(found.iter().map(ServerFact::from));
            }
        }
        for fact in &mut servers {
            let old = before.iter().find(|old| (old.protocol, old.at) == (fact.protocol, fact.at));
            fact.remembered = old.and_then(|old| old.remembered.clone());
            for told in &mut fact.destinations {
                let known = old.and_then(|old| old.destinations.iter().find(|d| d.at == told.at));
                told.connections = match (old, known) {
                    // Nobody said how busy anything is.
                    (None, _) => None,
                    (Some(_), Some(known)) => known.connections,
                    (Some(_), None) => Some((0, 0, 0)),
                };
            }
        }
        servers.sort();
        self.survey.virtual_servers = servers;
        Ok(())
    }
}

/// Whether a client stays with a destination.
enum Remembered {
    At(Socket),
    Nowhere,
    Perhaps(Vec<Socket>),
}

/// The destination of a connection that there is already, if it is the packet's.
fn bound(flow: &ConnectionFact, fact: &ServerFact, packet: &Packet) -> Option<Socket> {
    let own = [(packet.src, packet.sport()), (packet.dst, packet.dport())];
    let same = (flow.protocol, flow.original) == (packet.protocol(), own);
    let goes_on = flow.protocol != Protocol::Tcp.number() || !OVER.contains(&flow.state);
    let to = flow.reply[0];
    let known = fact.destinations.iter().any(|told| told.at == to);
    (same && goes_on && known).then(|| socket(to))
}

/// Destinations that take new connections, each as likely as its weight.
fn by_weight(fact: &ServerFact) -> Parts {
    let able = fact.destinations.iter().filter(|told| told.weight > 0);
    able.map(|told| (socket(told.at), u64::from(told.weight))).collect()
}

/// Whose turn it may be, where they take turns; nobody: the host decides.
fn turns(fact: &ServerFact) -> Parts {
    let able = by_weight(fact);
    match fact.scheduler.as_str() {
        _ if able.len() < 2 => Parts::new(),
        "rr" => able.into_iter().map(|(to, _)| (to, 1)).collect(),
        "wrr" | "twos" => able,
        _ => Parts::new(),
    }
}

/// What a scheduler goes by that is not known; none: it is, or it is only whose turn it is.
fn unknown(fact: &ServerFact, port_given: bool) -> Option<&'static str> {
    const BUSY: &str = "it goes by how busy the destinations are, which is not known";
    const KEPT: &str = "its address keeps to a destination, and no listing says to which";
    const PORT: &str = "it goes by the client's port, which was not given";
    const ZERO: &str = "of a destination without weight it counts the last weight it had, which no \
                        listing says";
    if fact.destinations.iter().filter(|told| told.weight > 0).count() < 2 {
        return None;
    }
    let busy = fact.destinations.iter().any(|told| told.connections.is_none()).then_some(BUSY);
    let by_port = (fact.flags & SCHEDULER_FLAG_2 != 0 && !port_given).then_some(PORT);
    match fact.scheduler.as_str() {
        "lc" | "wlc" | "sed" | "nq" | "ovf" | "twos" => busy,
        "lblc" | "lblcr" => Some(KEPT),
        "sh" => by_port,
        "mh" if fact.destinations.iter().any(|told| told.weight == 0) => by_port.or(Some(ZERO)),
        "mh" => by_port,
        _ => None,
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
