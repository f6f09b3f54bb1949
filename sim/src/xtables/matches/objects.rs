//! Matches about things that stand beside rules: `comment`, `set`, `nfacct`.
//! It must never know what a set holds; `Sets` is asked. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, Look, missing};
use crate::xtables::error::{Refusal, Taken, XtErrorKind};
use crate::xtables::objects::{Side, add};
use crate::xtables::words::{Opt, print_not};
use std::fmt::Write as _;
use std::sync::Arc;

/// `-m comment`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Comment {
    pub(in crate::xtables) text: Option<Arc<str>>,
}

/// `-m set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct SetMatch {
    not: bool,
    set: Option<Arc<str>>,
    sides: Vec<Side>,
}

impl SetMatch {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "match-set" => {}
            "return-nomatch" | "update-counters" | "update-subcounters" | "packets-eq"
            | "packets-lt" | "packets-gt" | "bytes-eq" | "bytes-lt" | "bytes-gt" => {
                return Err(opt.word.unmodelled("-m set "));
            }
            _ => return Ok(Known::No),
        }
        let set = opt.value()?;
        let flags = opt.words.value(opt.word)?;
        let one = |flag: &str| match flag {
            "src" => Ok(Side::Source),
            "dst" => Ok(Side::Destination),
            _ => Err(flags.refuse("src and dst, divided by commas")),
        };
        self.sides = flags.text.split(',').map(one).collect::<Taken<_>>()?;
        if self.sides.len() > 6 {
            return Err(flags.refuse("up to six times src or dst"));
        }
        (self.set, self.not) = (Some(Arc::from(set.text)), opt.not);
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        let set =
            self.set.as_deref().ok_or_else(|| missing(context, "set: option \"--match-set\""))?;
        if context.sets.exists(set) {
            return Ok(());
        }
        Err(Refusal::new(XtErrorKind::Absent, context.column, format!("Set {set} doesn't exist.")))
    }

    /// The set the rule holds on to.
    pub(in crate::xtables) fn set(&self) -> Option<&Arc<str>> {
        self.set.as_ref()
    }

    pub(super) fn print(&self, out: &mut String) {
        print_not(out, self.not);
        let sides: Vec<&str> = self
            .sides
            .iter()
            .map(|side| if *side == Side::Source { "src" } else { "dst" })
            .collect();
        let _ = write!(
            out,
            " --match-set {} {}",
            self.set.as_deref().unwrap_or_default(),
            sides.join(",")
        );
    }

    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        let links = (look.skb.in_link, look.skb.out.map(|hop| hop.link));
        let Some(set) = self.set.as_deref() else { return false };
        look.sets.holds(set, &self.sides, (&look.skb.packet, links), look.env.now) != self.not
    }
}

/// `-m nfacct`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Nfacct {
    name: Option<Arc<str>>,
}

impl Nfacct {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        if opt.name != "nfacct-name" {
            return Ok(Known::No);
        }
        let word = opt.plain_value()?;
        if word.text.is_empty() || word.text.len() > 31 {
            return Err(word.refuse("a name of 1 to 31 bytes"));
        }
        self.name = Some(Arc::from(word.text));
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        let name = self
            .name
            .as_deref()
            .ok_or_else(|| missing(context, "nfacct: option \"--nfacct-name\""))?;
        if context.accounts.contains_key(name) {
            return Ok(());
        }
        Err(Refusal::new(
            XtErrorKind::Absent,
            context.column,
            format!("xt_nfacct: accounting object `{name}' does not exist"),
        ))
    }

    pub(super) fn print(&self, out: &mut String) {
        let _ = write!(out, " --nfacct-name {}", self.name.as_deref().unwrap_or_default());
    }

    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        let account = self.name.as_deref().and_then(|name| look.accounts.get(name));
        if let Some(counters) = account.filter(|_| !look.env.dry) {
            add(counters, look.skb.packet.length());
        }
        true
    }
}
