//! Holds what becomes of packets against what is promised, and finds the cause of a difference in
//! the packet's own journey.
//!
//! It must never know how rules are written. Tests: `tests.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use sim::{Fate, Outcomes, Step};

use super::classes::{Clients, clients};
use super::drift::Drift;
use super::{ByCause, Finding, Report, Sort, martian};
use crate::kernel::Socket;
use crate::model::{Family, Protocol};
use crate::promise::{Claim, Face, Frontend, Packet, Promise, Promises};
use crate::trace::{Answer, Doubt, Ending, Kind, Question, World, ask, endpoint_of, packet_of};

/// What holding a packet against its promise came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as promised.
    Kept,
    /// It is not, in these words.
    Broken(String),
    /// It cannot be told.
    Unknown,
}

/// Causes found so far.
pub(super) struct Causes {
    found: ByCause,
    drift: Vec<Drift>,
}

impl Causes {
    pub(super) fn new(drift: Vec<Drift>) -> Causes {
        let mut found = ByCause::new();
        for drift in &drift {
            let finding = Finding {
                sort: Sort::Drift,
                cause: drift.words.clone(),
                frontends: 0,
                service: drift.service.clone(),
                example: None,
            };
            found.insert((Sort::Drift, drift.words.clone()), finding);
        }
        Causes { found, drift }
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.found.into_values().collect()
    }

    /// Adds one packet's trouble to the finding of its cause.
    fn add(&mut self, (sort, cause): (Sort, String), service: Option<String>, example: String) {
        let finding = self.found.entry((sort, cause.clone())).or_insert_with(|| Finding {
            sort,
            cause,
            frontends: 0,
            service: None,
            example: None,
        });
        finding.frontends += 1;
        finding.service = finding.service.take().or(service);
        finding.example.get_or_insert(example);
    }
}

/// Asks every frontend from every kind of client.
pub(super) fn all(
    world: &mut World,
    promises: &Promises<'_>,
    (report, causes): (&mut Report, &mut Causes),
    progress: &mut dyn FnMut(usize, usize),
) {
    let total: usize = Family::ALL.iter().map(|family| promises.claims(*family).len()).sum();
    for family in Family::ALL {
        let clients = clients(world, promises, promises.detector(), family);
        for (frontend, claim) in promises.claims(family) {
            let mut packets = clients.packets(world, frontend, claim);
            packets.extend(beside(world, promises, (&clients, family), (frontend, claim)));
            let name = claim.service.port_name(claim.port).to_string();
            let mut troubles: BTreeMap<(Sort, String), String> = BTreeMap::new();
            for packet in &packets {
                report.packets += 1;
                if let Some((cause, example)) = one(world, promises, packet, (report, causes)) {
                    troubles.entry(cause).or_insert(example);
                }
            }
            for (cause, example) in troubles {
                causes.add(cause, Some(name.clone()), example);
            }
            report.frontends += 1;
            if report.frontends.is_multiple_of(64) {
                progress(report.frontends, total);
            }
        }
    }
}

/// A packet to a cluster IP at a port that it does not have.
pub(super) fn beside(
    world: &World,
    promises: &Promises<'_>,
    (clients, family): (&Clients, Family),
    (frontend, claim): (&Frontend, &Claim<'_>),
) -> Option<Packet> {
    let claims = promises.claims(family);
    let taken = |port| claims.contains_key(&(frontend.0, Protocol::Tcp, port));
    if claim.face == Face::Cluster { clients.beside(world, frontend, taken) } else { None }
}

/// Holds what becomes of a packet against its promise.
pub(super) fn ask_one(world: &mut World, promises: &Promises<'_>, packet: &Packet) -> Verdict {
    let promise = promises.of(packet);
    let sticky = promises.claim_of(packet).is_some_and(|claim| claim.service.affinity.is_some());
    let sent = packet_of(world, &question(packet));
    world.aim_at(&sent);
    let outcomes = world.outcomes(&sent);
    judge(world, (&sent, &outcomes), (&promise, sticky || promises.take_turns()))
}

type Trouble = ((Sort, String), String);

fn one(
    world: &mut World,
    promises: &Promises<'_>,
    packet: &Packet,
    (report, causes): (&mut Report, &Causes),
) -> Option<Trouble> {
    let verdict = ask_one(world, promises, packet);
    if verdict == Verdict::Kept {
        return None;
    }
    let answer = ask(world, &question(packet));
    if verdict == Verdict::Unknown {
        report.gaps.extend(answer.gaps);
        return None;
    }
    let Verdict::Broken(words) = verdict else { return None };
    let cause = cause(world, (&answer, &promises.of(packet)), causes);
    Some((cause, format!("{} {}: {words}", answer.packet, entered(packet))))
}

pub(super) fn entered(packet: &Packet) -> String {
    packet.link.as_ref().map_or_else(|| "from this node".to_owned(), |link| format!("by {link}"))
}

fn question(packet: &Packet) -> Question {
    Question {
        protocol: packet.protocol,
        source: SocketAddr::new(packet.source, 0),
        destination: SocketAddr::new(packet.destination, packet.port),
        link: packet.link.clone(),
        because: "one of its kind".to_owned(),
    }
}

/// A question in the words of promises.
pub(super) fn asked(question: &Question) -> Packet {
    Packet {
        protocol: question.protocol,
        source: question.source.ip(),
        destination: question.destination.ip(),
        port: question.destination.port(),
        link: question.link.clone(),
    }
}

/// Holds outcomes against a promise; of a sticky Service a client may have its endpoint already, and
/// where endpoints take turns it is one's turn.
pub fn judge(
    world: &World,
    (sent, outcomes): (&sim::Packet, &Outcomes),
    (promise, settled): (&Promise, bool),
) -> Verdict {
    let mut shares: BTreeMap<Socket, f64> = BTreeMap::new();
    for (probability, outcome) in outcomes {
        if world.is_unknown(outcome) {
            return Verdict::Unknown;
        }
        let through = matches!(outcome.fate, Fate::Delivered | Fate::Forwarded(_) | Fate::Sent(_));
        let endpoint = endpoint_of(sent, outcome).filter(|_| through);
        let relayed = endpoint.is_some_and(|endpoint| world.is_relay(endpoint.address));
        let kept = match (promise, endpoint, &outcome.fate) {
            // The relay chooses among them itself.
            (Promise::Endpoints(promised), Some(_), Fate::Delivered) if relayed => {
                let share = probability.as_f64() / promised.len() as f64;
                promised.keys().for_each(|to| *shares.entry(*to).or_default() += share);
                true
            }
            (Promise::Endpoints(promised), Some(endpoint), fate) => {
                *shares.entry(endpoint).or_default() += probability.as_f64();
                let masquerade = outcome.snat.is_some();
                // An endpoint in the node's own network never passes postrouting; and what the
                // node itself sends has its address anyway.
                let unseen =
                    *fate == Fate::Delivered || matches!(outcome.packet.entry, sim::Entry::Local);
                promised.get(&endpoint).is_some_and(|p| unseen || *p == masquerade)
            }
            (Promise::Reject, None, Fate::Rejected(..))
            | (Promise::Drop, None, Fate::Dropped(_)) => true,
            // No route is told to the sender as a reject is.
            (Promise::Accept, None, Fate::Delivered) => true,
            (Promise::Untouched, None, Fate::Dropped(_) | Fate::Rejected(..)) => false,
            (Promise::Untouched, None, _) => true,
            _ => false,
        };
        if !kept {
            return Verdict::Broken(format!("promised {}; {outcome}", words(promise)));
        }
    }
    match promise {
        Promise::Endpoints(promised) => spread(promised, &shares, settled),
        _ => Verdict::Kept,
    }
}

/// Each endpoint has its equal share.
fn spread(
    promised: &BTreeMap<Socket, bool>,
    shares: &BTreeMap<Socket, f64>,
    settled: bool,
) -> Verdict {
    if settled && shares.len() == 1 {
        return Verdict::Kept;
    }
    if let Some(missing) = promised.keys().find(|endpoint| !shares.contains_key(endpoint)) {
        return Verdict::Broken(format!(
            "promised {missing} among {} endpoints; it is never reached",
            promised.len()
        ));
    }
    let fair = 1.0 / promised.len() as f64;
    match shares.iter().find(|(_, share)| (**share - fair).abs() > 1e-3 * fair) {
        Some((endpoint, share)) => {
            Verdict::Broken(format!("{endpoint} has a share of {share:.4} instead of {fair:.4}"))
        }
        None => Verdict::Kept,
    }
}

fn words(promise: &Promise) -> String {
    match promise {
        Promise::Endpoints(endpoints) => {
            let one = |(socket, masquerade): (&Socket, &bool)| {
                format!("{socket}{}", if *masquerade { " masqueraded" } else { "" })
            };
            let shown: Vec<String> = endpoints.iter().take(3).map(one).collect();
            let more = if endpoints.len() > 3 { ", …" } else { "" };
            format!("one of {} endpoints ({}{more})", endpoints.len(), shown.join(", "))
        }
        Promise::Reject => "a refusal".to_owned(),
        Promise::Drop => "a drop".to_owned(),
        Promise::Accept => "to be let in".to_owned(),
        Promise::Untouched => "to be left alone".to_owned(),
    }
}

/// Why a packet's way is not as promised.
fn cause(world: &World, (answer, promise): (&Answer, &Promise), causes: &Causes) -> (Sort, String) {
    for ending in &answer.endings {
        if let Some(found) = of_ending(world, ending, promise) {
            return found;
        }
    }
    // Where our own rules are not as we would write them, that is it.
    match causes.drift.iter().find(|d| d.service == answer.service).or(causes.drift.first()) {
        Some(drift) => (Sort::Drift, drift.words.clone()),
        None => (Sort::Other, "no rule, setting or route is known to be the cause".to_owned()),
    }
}

fn of_ending(world: &World, ending: &Ending, promise: &Promise) -> Option<(Sort, String)> {
    let served = matches!(promise, Promise::Endpoints(_));
    if let Some(by) = ending.by.as_ref().filter(|by| !by.ours && ending.fate != Kind::Unknown) {
        let comment =
            if by.comment.is_empty() { String::new() } else { format!(" \"{}\"", by.comment) };
        let verb = if ending.fate == Kind::Dropped { "drops" } else { "refuses" };
        let cause = format!(
            "{}, chain {}, {}{comment} {verb} packets to Services",
            by.table, by.chain, by.rule
        );
        return Some((Sort::ForeignRule, cause));
    }
    match &ending.journey.outcome.fate {
        Fate::Martian => {
            let cause = martian::cause(world, &ending.journey.outcome.packet);
            return Some((Sort::Setting, cause));
        }
        Fate::NotForwarded => {
            let cause = "this node does not forward: set net.ipv4.ip_forward=1 (net.ipv6.conf.all.forwarding=1)";
            return Some((Sort::Setting, cause.to_owned()));
        }
        Fate::NoRoute if served => {
            let to = ending.journey.outcome.packet.dst;
            return Some((Sort::NoRoute, format!("this node has no route to {to}")));
        }
        _ => {}
    }
    let Promise::Endpoints(promised) = promise else { return None };
    let wanted = ending.endpoint.and_then(|endpoint| promised.get(&endpoint))?;
    if *wanted && ending.masquerade.to.is_none() {
        return clobbered(ending).map(|cause| (Sort::MissingMasquerade, cause));
    }
    let ours = ["kube-proxy", "KUBE-"].iter().any(|word| ending.masquerade.why.contains(word));
    if !*wanted && ending.masquerade.to.is_some() && !ours {
        let cause = format!(
            "a source is masqueraded that must be seen as it is: {}",
            ending.masquerade.why
        );
        return Some((Sort::ForeignRule, cause));
    }
    None
}

/// Who took the mark away that kube-proxy gave.
fn clobbered(ending: &Ending) -> Option<String> {
    let (mut table, mut chain, mut comment) = (String::new(), String::new(), String::new());
    let mut marked = 0;
    for step in &ending.journey.steps {
        match step {
            Step::Chain { table: at, .. } => table.clone_from(at),
            Step::Rule { chain: at, comment: said, handle } => {
                chain.clone_from(at);
                comment = said.clone().unwrap_or_else(|| format!("rule {handle}"));
            }
            Step::Marked(mark) if table.ends_with(" kube-proxy") || chain.starts_with("KUBE-") => {
                marked = *mark;
            }
            Step::Marked(mark) if marked != 0 && mark & marked != marked => {
                return Some(format!(
                    "table {table}, chain {chain} ({comment}) takes away the mark {marked:#x} by which kube-proxy \
                     masquerades: let it change its own bits only, or choose another bit"
                ));
            }
            _ => {}
        }
    }
    None
}

impl Doubt {
    /// The doubt that a gap leaves.
    pub(super) fn of(gap: &crate::trace::Gap) -> Doubt {
        Doubt { what: gap.what.clone(), why: gap.why.clone() }
    }
}
