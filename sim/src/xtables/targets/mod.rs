//! The targets of rules (`-j …`): verdicts, jumps, marks, translations, rejects, logs; one form for all.
//! It must never know matches or what a chain holds. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

mod log;
mod mark;
mod nat;
mod reject;

use super::error::{Refusal, Taken};
use super::matches::{Context, EVERYWHERE, Known, Match};
use super::words::{Opt, Word};
use super::{XtFamily, XtTable};
use crate::journey::{Sink, Step};
use crate::nft::RejectWith;
use crate::skb::{Env, Skb};
use std::fmt::Write as _;
use std::sync::Arc;

/// A target with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// None: the rule only counts.
    Nothing,
    Accept,
    Drop,
    Return,
    /// To a chain, to come back; the slot is filled when the rule enters its table.
    Jump(Arc<str>, u32),
    /// To a chain, not to come back here.
    Goto(Arc<str>, u32),
    Mark(mark::MarkTarget),
    Connmark(mark::ConnmarkTarget),
    Nat(nat::NatTarget),
    Reject(reject::Reject),
    Log(log::Log),
    Nflog(log::Nflog),
    Tcpmss(log::Tcpmss),
}

/// What a target makes of a packet.
pub(crate) enum Act {
    /// The next rule.
    Continue,
    Accept,
    Drop,
    Return,
    Jump(u32),
    Goto(u32),
    Reject(RejectWith),
}

const MODELLED: &[&str] = &[
    "MARK",
    "CONNMARK",
    "SNAT",
    "DNAT",
    "MASQUERADE",
    "REDIRECT",
    "REJECT",
    "LOG",
    "NFLOG",
    "TCPMSS",
];

const UNMODELLED: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNSECMARK",
    "CT",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "NETMAP",
    "NFQUEUE",
    "NOTRACK",
    "QUEUE",
    "RATEEST",
    "SECMARK",
    "SET",
    "SNPT",
    "SYNPROXY",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
];

/// Verdicts, which no chain may be called by.
pub(super) const VERDICTS: &[&str] = &["ACCEPT", "DROP", "RETURN", "QUEUE"];

impl Target {
    /// A target by its name. Nothing: it is none, so it must be a chain.
    pub(super) fn named(word: &Word, family: XtFamily) -> Taken<Option<Target>> {
        Ok(Some(match word.text.as_str() {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "MARK" => Target::Mark(Default::default()),
            "CONNMARK" => Target::Connmark(Default::default()),
            "SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT" => {
                Target::Nat(nat::NatTarget::named(&word.text))
            }
            "REJECT" => Target::Reject(reject::Reject::new(family)),
            "LOG" => Target::Log(Default::default()),
            "NFLOG" => Target::Nflog(Default::default()),
            "TCPMSS" => Target::Tcpmss(Default::default()),
            name if UNMODELLED.contains(&name) => return Err(word.unmodelled("-j ")),
            _ => return Ok(None),
        }))
    }

    /// Is it the name of a target with options?
    pub(super) fn is_extension(name: &str) -> bool {
        MODELLED.contains(&name) || UNMODELLED.contains(&name)
    }

    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match self {
            Target::Mark(part) => part.option(opt),
            Target::Connmark(part) => part.option(opt),
            Target::Nat(part) => part.option(opt),
            Target::Reject(part) => part.option(opt),
            Target::Log(part) => part.option(opt),
            Target::Nflog(part) => part.option(opt),
            Target::Tcpmss(part) => part.option(opt),
            _ => Ok(Known::No),
        }
    }

    /// Is the target complete, and may it stand in this rule?
    pub(super) fn check(&self, context: &Context<'_>, matches: &[Match]) -> Taken<()> {
        match self {
            Target::Drop if context.table == XtTable::Nat => {
                let detail = "The \"nat\" table is not intended for filtering, the use of DROP is therefore inhibited.";
                Err(Refusal::invalid(context.column, detail))
            }
            Target::Mark(part) => part.check(context),
            Target::Connmark(part) => part.check(context),
            Target::Nat(part) => part.check(context),
            Target::Reject(part) => part.check(context),
            Target::Tcpmss(part) => part.check(context, matches),
            _ => Ok(()),
        }
    }

    pub(super) fn print(&self, out: &mut String) {
        let _ = match self {
            Target::Nothing => Ok(()),
            Target::Accept => write!(out, " -j ACCEPT"),
            Target::Drop => write!(out, " -j DROP"),
            Target::Return => write!(out, " -j RETURN"),
            Target::Jump(name, _) => write!(out, " -j {name}"),
            Target::Goto(name, _) => write!(out, " -g {name}"),
            Target::Mark(part) => part.print(out),
            Target::Connmark(part) => part.print(out),
            Target::Nat(part) => part.print(out),
            Target::Reject(part) => part.print(out),
            Target::Log(part) => part.print(out),
            Target::Nflog(part) => part.print(out),
            Target::Tcpmss(part) => part.print(out),
        };
    }

    /// Does what the target does.
    pub(super) fn act<S: Sink>(&self, env: &mut Env<'_, S>, skb: &mut Skb) -> Act {
        match self {
            Target::Nothing | Target::Tcpmss(_) => Act::Continue,
            Target::Accept => Act::Accept,
            Target::Drop => Act::Drop,
            Target::Return => Act::Return,
            Target::Jump(_, slot) => Act::Jump(*slot),
            Target::Goto(_, slot) => Act::Goto(*slot),
            Target::Mark(part) => part.act(skb),
            Target::Connmark(part) => part.act(env, skb),
            Target::Nat(part) => part.act(env, skb),
            Target::Reject(part) => Act::Reject(part.with),
            Target::Log(part) => part.act(env),
            Target::Nflog(part) => part.act(env),
        }
    }

    /// The hooks at which the kernel takes it, as bits.
    pub(super) fn hooks(&self) -> u8 {
        match self {
            Target::Nat(part) => part.hooks(),
            Target::Reject(_) => 0b01110,
            Target::Tcpmss(part) => part.hooks(),
            _ => EVERYWHERE,
        }
    }

    /// Does it attach connection tracking?
    pub(super) fn tracks(&self) -> bool {
        matches!(self, Target::Nat(_) | Target::Connmark(_))
    }

    /// The chain it leads to.
    pub(super) fn chain(&self) -> Option<(&Arc<str>, u32)> {
        match self {
            Target::Jump(name, slot) | Target::Goto(name, slot) => Some((name, *slot)),
            _ => None,
        }
    }

    /// Tells it the slot of its chain.
    pub(super) fn resolve(&mut self, found: u32) {
        if let Target::Jump(_, slot) | Target::Goto(_, slot) = self {
            *slot = found;
        }
    }

    /// How the journey calls it.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        self.print(&mut text);
        match text.trim_start().trim_start_matches("-j ") {
            "" => "continue".into(),
            text => text.into(),
        }
    }
}

/// Notes a translation that was decided.
fn note_nat<S: Sink>(env: &mut Env<'_, S>, id: u32, name: &str) {
    let tracker = &env.tracker;
    env.sink.note(|| {
        let reply = tracker.get(id).map(|conn| conn.reply.to_string()).unwrap_or_default();
        Step::Nat(format!("{name}: answers will be {reply}"))
    });
}
