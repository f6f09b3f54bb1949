//! A single match or target, as nf_tables carries it (net/netfilter/nft_compat.c): read from the words that iptables would
//! use for it, tried on packets of nf_tables' chains. It must never know how nf_tables writes it.
//! Tests: tests/compat.rs.

use super::error::{Refusal, XtErrorKind};
use super::matches::recent::Wanted;
use super::matches::{Look, State};
use super::objects::{Accounts, Side};
use super::rule::{Setting, Spec, parse};
use super::targets::{Act, Target};
use super::words::Words;
use super::{Sets, XtFamily, XtTable, Xtables};
use crate::journey::Sink;
use crate::packet::Packet;
use crate::skb::{Env, Skb};

/// A match or a target, with what it remembers.
#[derive(Debug)]
pub(crate) struct Part {
    spec: Spec,
    states: Box<[State]>,
}

/// Why words are none.
pub(crate) enum NoPart {
    /// Linux may well take it; the simulator has no model of it.
    Unmodelled(String),
    /// Linux refuses it.
    Refused(String),
}

impl From<Refusal> for NoPart {
    fn from(refusal: Refusal) -> NoPart {
        match refusal.kind {
            XtErrorKind::NotModelled => NoPart::Unmodelled(refusal.detail),
            _ => NoPart::Refused(refusal.detail),
        }
    }
}

/// A part can ask no set: which there are is not known where rules of nf_tables are read.
struct NoSets;

impl Sets for NoSets {
    fn exists(&self, _: &str) -> bool {
        false
    }

    fn holds(&self, _: &str, _: &[Side], _: (&Packet, (Option<u32>, Option<u32>)), _: u64) -> bool {
        false
    }
}

/// What a target makes of a packet.
pub(crate) use super::targets::Act as PartAct;

impl Part {
    /// Reads `-m NAME …` or `-j NAME …`, perhaps behind a `-p PROTOCOL`.
    pub(crate) fn read(line: &str, family: XtFamily, table: XtTable) -> Result<Part, NoPart> {
        let accounts = Accounts::new();
        let setting = Setting { family, table, sets: &NoSets, accounts: &accounts };
        let written = parse(&mut Words::split(line, 1)?, setting)?;
        let spec = written.specs.into_iter().next();
        let spec = spec.ok_or_else(|| NoPart::Refused("no part at all".into()))?;
        let states = spec.matches.iter().map(|_| State::default()).collect();
        Ok(Part { spec, states })
    }

    /// The hooks at which the kernel takes it, as bits.
    pub(crate) fn hooks(&self) -> u8 {
        self.spec.hooks()
    }

    /// Does it translate addresses?
    pub(crate) fn translates(&self) -> bool {
        matches!(self.spec.target, Target::Nat(_))
    }

    /// Does it attach connection tracking?
    pub(crate) fn tracks(&self) -> bool {
        self.spec.tracks()
    }

    /// The list of recent addresses it holds on to.
    pub(crate) fn list(&self) -> Option<RecentList> {
        self.spec.lists().next().map(RecentList)
    }

    /// As iptables-save prints it.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        self.spec.matches.iter().for_each(|one| one.print(&mut text));
        self.spec.target.print(&mut text);
        text.trim_start().to_owned()
    }
}

/// A list of recent addresses that a rule names.
pub(crate) struct RecentList(Wanted);

impl Xtables {
    /// Does the match fit?
    pub(crate) fn fits<S: Sink>(
        &mut self,
        part: &Part,
        sets: &dyn Sets,
        on: (&mut Env<'_, S>, &mut Skb),
    ) -> bool {
        let (env, skb) = on;
        let mut look =
            Look { env, skb, recents: &mut self.recents, accounts: &self.accounts, sets };
        let states = part.states.iter();
        part.spec.matches.iter().zip(states).all(|(one, state)| one.fits(&mut look, state))
    }

    /// Rules of nf_tables were changed: these lists are the ones that they name now.
    pub(crate) fn follow_parts(&mut self, lists: &[RecentList]) {
        let wanted: Vec<&Wanted> = lists.iter().map(|list| &list.0).collect();
        self.recents.hold_only(&wanted);
    }
}

/// Does what a target does.
pub(crate) fn act<S: Sink>(part: &Part, env: &mut Env<'_, S>, skb: &mut Skb) -> Act {
    part.spec.target.act(env, skb)
}
