//! A question to a world, and what it answers: every ending with its probability, who brought it
//! about and why, as values that can be printed or given to a program.
//!
//! It must never know how they are printed. Tests: `tests.rs`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use sim::{Entry, Fate, Journey, Packet, Step};

use super::load::{Gap, World};
use super::owners;
use crate::kernel::Socket;
use crate::model::Protocol;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who sends it; a port of 0 stands for any that has no connection yet.
    pub source: SocketAddr,
    /// For whom it is.
    pub destination: SocketAddr,
    /// Name of the link it comes in by; none: this node sends it.
    pub link: Option<String>,
    /// Why it comes in there, in words.
    pub because: String,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The packet, as in `tcp 10.0.0.1:40000 → 10.96.0.1:80`.
    pub packet: String,
    /// Where it begins.
    pub enters: String,
    /// The Service port it is for, as the rules name it.
    pub service: Option<String>,
    /// The connection it belongs to already.
    pub connection: Option<String>,
    /// Every ending, likeliest first.
    pub endings: Vec<Ending>,
    /// What cannot be told, with the reason; an answer without any is certain.
    pub gaps: Vec<Doubt>,
}

/// One ending.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ending {
    /// How likely it is, exactly, such as `1/3`.
    pub probability: String,
    /// The same as a number.
    pub share: f64,
    /// What becomes of the packet.
    pub fate: Kind,
    /// The same in words, such as `forwarded by pod1 to 10.244.1.10`.
    pub words: String,
    /// Where its destination was changed to.
    pub endpoint: Option<Socket>,
    /// Where kube-proxy itself carries the connection on to, if it takes it (userspace mode) and
    /// that is known; it makes that connection from an address of this node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub carried_to: Vec<Socket>,
    /// For whom it is at its end.
    pub arrives: Socket,
    /// What its source was changed to, and why; or why not.
    pub masquerade: Masquerade,
    /// The rule that ended it.
    pub by: Option<By>,
    /// What happened on the way that matters, one line each.
    pub way: Vec<String>,
    /// Every step of the simulator.
    #[serde(skip)]
    pub journey: Journey,
}

/// What becomes of a packet, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It reaches a process of this node.
    Delivered,
    /// It leaves by a link.
    Forwarded,
    /// Its sender is told that nobody is there.
    Rejected,
    /// It vanishes.
    Dropped,
    /// Nothing can be said beyond a rule that has no model.
    Unknown,
}

/// Whether the source was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Masquerade {
    /// The new source.
    pub to: Option<Socket>,
    /// Why, or why not.
    pub why: String,
}

/// Whose rule did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct By {
    /// Whether it is a rule of this program.
    pub ours: bool,
    /// Such as `nft table inet firewall`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Such as `handle 4`, or `policy`.
    pub rule: String,
    /// Its comment.
    pub comment: String,
}

/// Something that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Doubt {
    /// What, with its place.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The port that stands for "any": ephemeral, and long past what kernels hand out first.
const ANY_PORT: u16 = 61_234;

/// Asks a world.
pub fn ask(world: &mut World, question: &Question) -> Answer {
    let packet = packet(world, question);
    let link = match packet.entry {
        Entry::Local => None,
        Entry::Link(index) => Some(index),
    };
    world.aim(link);
    world.port_given = question.source.port() != 0;
    let journeys = world.journeys(&packet);
    let mut gaps: BTreeSet<Doubt> = world.gaps.iter().chain(&world.unsure).map(doubt).collect();
    let endings: Vec<Ending> = journeys
        .into_iter()
        .map(|(p, journey)| ending(world, (p, &packet), journey, &mut gaps))
        .collect();
    let first = endings.first().map(|ending| &ending.journey);
    Answer {
        packet: shown(question, &packet),
        enters: match &question.link {
            Some(link) => format!("by {link}: {}", question.because),
            None => "this node sends it".to_owned(),
        },
        service: first.and_then(|j| service(j).or_else(|| owners::service(j))),
        connection: first.and_then(|j| j.outcome.before.as_ref()).map(ToString::to_string),
        endings,
        gaps: gaps.into_iter().collect(),
    }
}

impl Answer {
    /// What two answers that mean the same for a client have in common: fate, endpoint, share, and
    /// whether the source was changed.
    pub fn comes_to(&self) -> Vec<(Kind, Option<Socket>, String, bool)> {
        let one =
            |e: &Ending| (e.fate, e.endpoint, e.probability.clone(), e.masquerade.to.is_some());
        let mut all: Vec<_> = self.endings.iter().map(one).collect();
        all.sort();
        all
    }

    /// Whether nothing is in doubt.
    pub fn is_certain(&self) -> bool {
        self.gaps.is_empty()
    }
}

fn doubt(gap: &Gap) -> Doubt {
    Doubt { what: gap.what.clone(), why: gap.why.clone() }
}

/// The packet of a question.
pub fn packet(world: &World, question: &Question) -> Packet {
    let any = |port: u16| if port == 0 { ANY_PORT } else { port };
    let source = SocketAddr::new(question.source.ip(), any(question.source.port()));
    let packet = match question.protocol {
        Protocol::Tcp => Packet::tcp(source, question.destination),
        Protocol::Udp => Packet::udp(source, question.destination),
        Protocol::Sctp => Packet::sctp(source, question.destination),
    };
    let link = question.link.as_deref().and_then(|name| world.host.link(name));
    link.map_or_else(|| packet.clone().sent_here(), |link| packet.clone().arriving(link.index))
}

/// Where a packet's destination was changed to. IPVS leaves no mark of it on a connection of the
/// node's own, so that the packet itself has to say it.
pub fn endpoint_of(asked: &Packet, outcome: &sim::Outcome) -> Option<Socket> {
    let now = (outcome.packet.dst, outcome.packet.dport());
    let changed = Some(now).filter(|now| *now != (asked.dst, asked.dport()));
    outcome.dnat.or(changed).map(|(address, port)| Socket { address, port })
}

fn shown(question: &Question, packet: &Packet) -> String {
    let source = match question.source.port() {
        0 => packet.src.to_string(),
        _ => question.source.to_string(),
    };
    let protocol = question.protocol.to_string().to_lowercase();
    format!("{protocol} {source} → {}", question.destination)
}

fn ending(
    world: &World,
    (probability, packet): (sim::Probability, &Packet),
    journey: Journey,
    gaps: &mut BTreeSet<Doubt>,
) -> Ending {
    let outcome = &journey.outcome;
    let by = by(world, &journey);
    let gap = by.as_ref().and_then(|(_, gap)| gap.clone());
    let kind = match (&gap, &outcome.fate) {
        (Some((what, why)), _) => {
            gaps.insert(Doubt { what: what.clone(), why: why.clone() });
            Kind::Unknown
        }
        (None, Fate::Unmodelled(why)) => {
            gaps.insert(Doubt { what: "the packet".to_owned(), why: (*why).to_owned() });
            Kind::Unknown
        }
        (None, Fate::Unexplored) => {
            let why = "there are more ways than are walked".to_owned();
            gaps.insert(Doubt { what: "rare endings".to_owned(), why });
            Kind::Unknown
        }
        (None, Fate::Delivered) => Kind::Delivered,
        (None, Fate::Forwarded(_) | Fate::Sent(_)) => Kind::Forwarded,
        (None, Fate::Rejected(..) | Fate::NoRoute) => Kind::Rejected,
        (None, _) => Kind::Dropped,
    };
    let socket = |(address, port)| Socket { address, port };
    Ending {
        probability: probability.to_string(),
        share: probability.as_f64(),
        fate: kind,
        words: words(world, (kind, &outcome.fate), outcome.packet.dst),
        endpoint: endpoint_of(packet, outcome),
        carried_to: Vec::new(),
        arrives: socket((outcome.packet.dst, outcome.packet.dport())),
        masquerade: masquerade(&journey),
        by: by.map(|(by, _)| by),
        way: way(&journey),
        journey,
    }
}

fn words(world: &World, (kind, fate): (Kind, &Fate), to: IpAddr) -> String {
    let hop = |hop: &sim::Hop| {
        let link = world.link_name(hop.link);
        if hop.next == to {
            format!("{link} to {to}")
        } else {
            format!("{link} to {to} by way of {}", hop.next)
        }
    };
    match (kind, fate) {
        (Kind::Unknown, _) => "cannot be told beyond this rule".to_owned(),
        (_, Fate::Delivered) if world.is_relay(to) => {
            "taken by kube-proxy itself, which carries the connection on".to_owned()
        }
        (_, Fate::Delivered) => "delivered to a process of this node, if one listens".to_owned(),
        (_, Fate::Forwarded(at)) => format!("forwarded by {}", hop(at)),
        (_, Fate::Sent(at)) => format!("sent by {}", hop(at)),
        (_, Fate::Rejected(sim::RejectWith::TcpReset, _)) => "refused with a TCP reset".to_owned(),
        (_, Fate::Rejected(..)) => "refused with an ICMP error".to_owned(),
        (_, Fate::Dropped(_)) => "dropped".to_owned(),
        (_, Fate::NoRoute) => format!("refused: no route to {to}"),
        (_, Fate::Martian) => {
            "dropped before it is routed: a packet with this source is not taken from this link \
             (rp_filter, accept_local, route_localnet)"
                .to_owned()
        }
        (_, Fate::NotForwarded) => "dropped: this node does not forward (ip_forward)".to_owned(),
        (_, other) => other.to_string(),
    }
}

type Unknown = (String, String);

/// Who ended it, and what of that is unknown.
fn by(world: &World, journey: &Journey) -> Option<(By, Option<Unknown>)> {
    let place = match &journey.outcome.fate {
        Fate::Dropped(place) | Fate::Rejected(_, place) => place,
        _ => return None,
    };
    // What IPVS refuses it refuses for us: its servers are ours, as far as it can be told.
    if &*place.table == "ipvs" {
        let rule = place.chain.to_string();
        let (table, comment) = ("IPVS".to_owned(), String::new());
        return Some((
            By { ours: true, table, chain: "virtual server".to_owned(), rule, comment },
            None,
        ));
    }
    let table = journey.steps.iter().rev().find_map(|step| match step {
        Step::Chain { table, .. } => Some(table.clone()),
        _ => None,
    })?;
    let maker = place.rule.and_then(|rule| world.maker(&table, &place.chain, rule));
    let ours = owners::is_ours(&table, &place.chain);
    let by = match maker {
        Some(maker) => By {
            ours,
            table: maker.table.clone(),
            chain: maker.chain.clone(),
            rule: maker.rule.clone(),
            comment: maker.comment.clone(),
        },
        None => By {
            ours,
            table: if place.table.is_empty() {
                "connection tracking".to_owned()
            } else {
                table_words(&table)
            },
            chain: place.chain.to_string(),
            rule: place.rule.map_or_else(|| "policy".to_owned(), |rule| format!("handle {rule}")),
            comment: String::new(),
        },
    };
    let unknown = maker.and_then(|maker| {
        let what = format!("{}, chain {}, {}", maker.table, maker.chain, maker.rule);
        Some((what, maker.gap.clone()?))
    });
    Some((by, unknown))
}

/// `nft table ip kube-proxy` or `iptables table nat`.
fn table_words(table: &str) -> String {
    match table.split_once(' ') {
        Some((tool @ ("iptables" | "ip6tables"), name)) => format!("{tool} table {name}"),
        _ => format!("nft table {table}"),
    }
}

/// The Service port, from the comment of the first element of ours that was found.
fn service(journey: &Journey) -> Option<String> {
    let mut ours = false;
    journey.steps.iter().find_map(|step| match step {
        Step::Chain { table, .. } => {
            ours = table.ends_with(" kube-proxy");
            None
        }
        Step::Lookup { comment: Some(comment), found: Some(_), .. } if ours => {
            Some(comment.clone())
        }
        _ => None,
    })
}

/// Whether the source was changed, by what rule, for what reason.
fn masquerade(journey: &Journey) -> Masquerade {
    let to = journey.outcome.snat.map(|(address, port)| Socket { address, port });
    if to.is_none() {
        let why = match journey.outcome.dnat {
            Some(_) => "no rule asks for it",
            None => "",
        };
        return Masquerade { to, why: why.to_owned() };
    }
    let mut chain = (String::new(), None);
    let (mut rule, mut marked) = (None, None);
    for step in &journey.steps {
        match step {
            Step::Chain { table, .. } => chain.0.clone_from(table),
            Step::Rule { chain: name, comment, .. } => {
                chain.1 = Some(format!("chain {name}"));
                rule = comment.clone();
            }
            Step::Marked(mark) if *mark != 0 => {
                marked = chain.1.clone().map(|at| (chain.0.clone(), at, *mark))
            }
            Step::Nat(what) if is_source(what) => break,
            _ => {}
        }
    }
    let at = format!("{}, {}", table_words(&chain.0), chain.1.unwrap_or_default());
    if let Some(why) = owners::marked_because(journey) {
        return Masquerade { to, why: format!("{why}; by {at}") };
    }
    let why = match (rule.filter(|comment| !comment.is_empty()), marked) {
        (Some(comment), _) => format!("{comment} ({at})"),
        (None, Some((table, by, mark))) => {
            format!("{} ({}, {by}, gave it mark {mark:#x})", reason(&by), table_words(&table))
        }
        (None, None) => at,
    };
    Masquerade { to, why }
}

fn is_source(what: &str) -> bool {
    ["Source", "Masquerade", "SNAT", "MASQUERADE"].iter().any(|word| what.starts_with(word))
}

/// Why a chain of ours marks a packet, by the chain's name.
fn reason(chain: &str) -> &'static str {
    if chain.contains("internal") || chain.contains("masq-cluster") {
        "its source is not known to be a pod of this cluster, and the pod's answer must come back through this node"
    } else if chain.contains("external") {
        "it came to an address of the outside, and the pod's answer must come back through this node"
    } else if chain.contains("local") {
        "this node sent it"
    } else {
        "it was marked for it"
    }
}

/// What happened on the way that matters.
fn way(journey: &Journey) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = String::new();
    for step in &journey.steps {
        match step {
            Step::Hook(hook) => at = hook.name().to_owned(),
            Step::Chain { table, chain, .. } => {
                at = format!(
                    "{at_hook} {table} {chain}",
                    at_hook = at.split(' ').next().unwrap_or_default()
                )
            }
            Step::Lookup { set, key, found: Some(found), comment } => {
                let comment = comment.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
                lines.push(format!("{at}: {set} {{ {key} }} gives {found}{comment}"));
            }
            Step::Marked(mark) => lines.push(format!("{at}: mark {mark:#x}")),
            Step::Nat(what) => lines.push(format!("{at}: {what}")),
            Step::Rewritten(what) => lines.push(format!("{at}: now {what}")),
            Step::Conntrack(what) => lines.push(format!("{at}: connection tracking: {what}")),
            Step::Route(what) => lines.push(format!("route: {what}")),
            Step::Log(prefix) => lines.push(format!("{at}: logged as {prefix:?}")),
            _ => {}
        }
    }
    lines
}
