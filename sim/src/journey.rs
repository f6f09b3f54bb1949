//! What a packet went through and what became of it: steps, fates, outcomes, and their printing.
//! A sink takes the steps; the silent one costs nothing. It must never decide anything. Tests: tests/journeys.rs.

use crate::chance::Probability;
use crate::conntrack::Connection;
use crate::net::Hop;
use crate::nft::{Hook, RejectWith};
use crate::packet::Packet;
use crate::skb::Place;
use std::fmt;
use std::net::IpAddr;

/// One thing that happened to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It reached a hook.
    Hook(Hook),
    /// It entered a base chain.
    Chain {
        /// Name of the table.
        table: String,
        /// Name of the chain.
        chain: String,
        /// Priority of the chain.
        priority: i32,
    },
    /// A rule was tried.
    Rule {
        /// Name of the chain.
        chain: String,
        /// Handle of the rule.
        handle: u64,
        /// The rule's comment.
        comment: Option<String>,
    },
    /// The rule did not match.
    NoMatch,
    /// A rule or policy gave a verdict, or did something.
    Verdict(String),
    /// A set or map was asked.
    Lookup {
        /// Name of the set.
        set: String,
        /// The key in words.
        key: String,
        /// What was found, in words; nothing for a miss.
        found: Option<String>,
        /// The element's comment.
        comment: Option<String>,
    },
    /// A rule gave the packet this mark.
    Marked(u32),
    /// A translation was decided.
    Nat(String),
    /// The packet was rewritten.
    Rewritten(String),
    /// Connection tracking looked.
    Conntrack(String),
    /// A routing decision.
    Route(String),
    /// A rule logged the packet with this prefix.
    Log(String),
    /// This packet overtook it here; its steps follow, up to the hook's name again.
    Overtaken(String),
}

/// Takes steps, or not.
pub(crate) trait Sink {
    /// Whether steps are taken: what is not told need not be walked if it does nothing.
    const TELLS: bool;
    fn note(&mut self, make: impl FnOnce() -> Step);
}

/// Makes no step.
pub(crate) struct Silent;

impl Sink for Silent {
    const TELLS: bool = false;
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Step) {}
}

impl Sink for Vec<Step> {
    const TELLS: bool = true;
    fn note(&mut self, make: impl FnOnce() -> Step) {
        self.push(make());
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It reached this host's sockets.
    Delivered,
    /// It went through this host and left.
    Forwarded(Hop),
    /// This host made it and it left.
    Sent(Hop),
    /// A rule answered with an ICMP error or a TCP reset.
    Rejected(RejectWith, Place),
    /// A rule or policy dropped it.
    Dropped(Place),
    /// There is no route to its destination.
    NoRoute,
    /// Its source or destination may not come from that link (martian, rp_filter).
    Martian,
    /// Forwarding is off.
    NotForwarded,
    /// Its time to live ended here.
    Expired,
    /// Connection tracking could not enter it: the table is full, or another connection has its tuple.
    Unconfirmed(Hook),
    /// It is no packet, or goes where the simulator has no model (multicast).
    Unmodelled(&'static str),
    /// Exhaustive mode gave up with this much chance left.
    Unexplored,
}

/// What became of a packet, and how it looked then.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Outcome {
    /// What became of it.
    pub fate: Fate,
    /// The packet as it left, arrived or died.
    pub packet: Packet,
    /// Where its connection's destination is translated to.
    pub dnat: Option<(IpAddr, u16)>,
    /// What its connection's source is translated to.
    pub snat: Option<(IpAddr, u16)>,
    /// Its connection before, if it had one.
    pub before: Option<Connection>,
    /// Its connection after.
    pub after: Option<Connection>,
    /// A rule said accept.
    pub accepted: bool,
}

/// An outcome with every step that led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journey {
    /// The packet as it began.
    pub packet: Packet,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// What became of it.
    pub outcome: Outcome,
}

/// Every outcome a packet can have, each with its probability.
pub type Outcomes = Vec<(Probability, Outcome)>;

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.hook.name(), self.table, self.chain)?;
        match self.rule {
            Some(handle) => write!(out, " rule {handle}"),
            None => out.write_str(" policy"),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Delivered => out.write_str("delivered here"),
            Fate::Forwarded(hop) => write!(out, "forwarded by link {} to {}", hop.link, hop.next),
            Fate::Sent(hop) => write!(out, "sent by link {} to {}", hop.link, hop.next),
            Fate::Rejected(with, place) => write!(out, "rejected with {with:?} at {place}"),
            Fate::Dropped(place) => write!(out, "dropped at {place}"),
            Fate::NoRoute => out.write_str("no route"),
            Fate::Martian => out.write_str("martian: not taken from that link"),
            Fate::NotForwarded => out.write_str("not forwarded: forwarding is off"),
            Fate::Expired => out.write_str("time to live exceeded"),
            Fate::Unconfirmed(hook) => {
                write!(out, "not taken by connection tracking at {}", hook.name())
            }
            Fate::Unmodelled(what) => write!(out, "not modelled: {what}"),
            Fate::Unexplored => out.write_str("not explored"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.fate, self.packet)?;
        if let Some((address, port)) = self.dnat {
            write!(out, ", dnat to {}", std::net::SocketAddr::new(address, port))?;
        }
        if let Some((address, port)) = self.snat {
            write!(out, ", snat to {}", std::net::SocketAddr::new(address, port))?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Hook(hook) => write!(out, "{}", hook.name()),
            Step::Chain { table, chain, priority } => {
                write!(out, "  {table} {chain} (priority {priority})")
            }
            Step::Rule { chain, handle, comment } => {
                write!(out, "    {chain} rule {handle}")?;
                comment.as_ref().map_or(Ok(()), |comment| write!(out, " \"{comment}\""))
            }
            Step::NoMatch => out.write_str(": no match"),
            Step::Verdict(verdict) => write!(out, ": {verdict}"),
            Step::Lookup { set, key, found, comment } => {
                write!(out, "      {set} {{ {key} }} → {}", found.as_deref().unwrap_or("miss"))?;
                comment.as_ref().map_or(Ok(()), |comment| write!(out, " \"{comment}\""))
            }
            Step::Marked(mark) => write!(out, "      mark {mark:#x}"),
            Step::Nat(what) => write!(out, "      {what}"),
            Step::Rewritten(what) => write!(out, "    rewritten: {what}"),
            Step::Conntrack(what) => write!(out, "  connection: {what}"),
            Step::Route(what) => write!(out, "route: {what}"),
            Step::Log(prefix) => write!(out, "      log \"{prefix}\""),
            Step::Overtaken(by) => write!(out, "overtaken by {by}"),
        }
    }
}

impl fmt::Display for Journey {
    /// One line a step; what a rule came to stands on the rule's own line, its lookups below.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.packet)?;
        let mut below = String::new();
        let mut open = false;
        for step in &self.steps {
            match step {
                Step::NoMatch | Step::Verdict(_) if open => {
                    writeln!(out, "{step}")?;
                    out.write_str(&below)?;
                    below.clear();
                    open = false;
                }
                Step::Verdict(verdict) => writeln!(out, "    {verdict}")?,
                Step::NoMatch => {}
                Step::Lookup { .. } | Step::Marked(_) | Step::Nat(_) | Step::Log(_) if open => {
                    below.push_str(&format!("{step}\n"))
                }
                Step::Rule { .. } => {
                    write!(out, "{step}")?;
                    open = true;
                }
                _ => writeln!(out, "{step}")?,
            }
        }
        write!(out, "⇒ {}", self.outcome)
    }
}
