//! `mark` and `connmark`. Facts from xt_mark.c, xt_connmark.c, libxt_mark.c.
//! It must never change a mark; the targets do. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, Look, missing};
use crate::xtables::error::Taken;
use crate::xtables::words::{Opt, print_not};
use std::fmt::Write as _;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    not: bool,
    value: u32,
    mask: u32,
}

fn option(wanted: &mut Option<Wanted>, opt: &mut Opt<'_>) -> Taken<Known> {
    if opt.name != "mark" {
        return Ok(Known::No);
    }
    let (value, mask) = opt.masked()?;
    *wanted = Some(Wanted { not: opt.not, value, mask });
    Ok(Known::Yes)
}

fn print(wanted: Option<Wanted>, out: &mut String) {
    let Wanted { not, value, mask } = wanted.unwrap_or_default();
    print_not(out, not);
    let _ = write!(out, " --mark {value:#x}");
    if mask != u32::MAX {
        let _ = write!(out, "/{mask:#x}");
    }
}

fn fits(wanted: Option<Wanted>, mark: u32) -> bool {
    wanted.is_some_and(|Wanted { not, value, mask }| (mark & mask == value) != not)
}

/// `-m mark`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Mark(Option<Wanted>);

impl Mark {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        option(&mut self.0, opt)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        self.0.map(drop).ok_or_else(|| missing(context, "mark: option \"--mark\""))
    }

    pub(super) fn print(&self, out: &mut String) {
        print(self.0, out);
    }

    #[inline]
    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        fits(self.0, look.skb.packet.mark)
    }
}

/// `-m connmark`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Connmark(Option<Wanted>);

impl Connmark {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        option(&mut self.0, opt)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        self.0.map(drop).ok_or_else(|| missing(context, "connmark: option \"--mark\""))
    }

    pub(super) fn print(&self, out: &mut String) {
        print(self.0, out);
    }

    /// A packet without a connection never fits, inverted or not.
    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        let conn = look.skb.ct.and_then(|ct| look.env.tracker.get(ct.id));
        conn.is_some_and(|conn| fits(self.0, conn.mark))
    }
}
