//! `limit`: a bucket of packets that fills with time. Facts from xt_limit.c, libxt_limit.c.
//! The kernel's clock ticks in jiffies, this one in nanoseconds. It must never know what passes.
//! Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, Look, State};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::{Opt, Word};
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

/// Parts of a second in which the kernel counts a packet's cost (XT_LIMIT_SCALE).
const SCALE: u32 = 10_000;
const NANOS: u64 = 1_000_000_000 / SCALE as u64;
const UNITS: [(&str, &str, u32); 4] =
    [("day", "day", 86_400), ("hour", "hour", 3600), ("minute", "min", 60), ("second", "sec", 1)];
const BURST: u32 = 5;

/// `-m limit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct Limit {
    /// What a packet costs, in parts of a second.
    cost: u32,
    burst: u32,
}

impl Default for Limit {
    /// 3 an hour, the tool's own.
    fn default() -> Self {
        Limit { cost: SCALE * 3600 / 3, burst: BURST }
    }
}

fn rate(word: &Word) -> Taken<u32> {
    let wrong = || {
        Refusal::syntax(
            word.column,
            format!("bad rate \"{}\": expected n/second, n/minute, n/hour or n/day", word.text),
        )
    };
    let (count, unit) = word.text.split_once('/').unwrap_or((&word.text, "second"));
    let of_unit = |name: &str| !unit.is_empty() && name.starts_with(&unit.to_ascii_lowercase());
    let seconds = UNITS
        .iter()
        .rev()
        .find(|(name, ..)| of_unit(name))
        .map(|(.., seconds)| *seconds)
        .ok_or_else(wrong)?;
    let count: u32 = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
    match SCALE * seconds / count {
        0 => Err(Refusal::syntax(word.column, format!("Rate too fast \"{}\"", word.text))),
        cost => Ok(cost),
    }
}

impl Limit {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "limit" => self.cost = rate(&opt.plain_value()?)?,
            "limit-burst" => self.burst = opt.plain_value()?.number(10_000)?,
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        match self.cost.checked_mul(self.burst) {
            Some(1..) => Ok(()),
            _ => Err(Refusal::invalid(
                context.column,
                format!("limit: a burst of {} is zero or overflows, try lower", self.burst),
            )),
        }
    }

    pub(super) fn print(&self, out: &mut String) {
        let fits = |seconds: u32| {
            self.cost <= SCALE * seconds
                && SCALE * seconds / self.cost >= SCALE * seconds % self.cost
        };
        let smaller = UNITS[1..].iter().position(|(.., seconds)| !fits(*seconds)).unwrap_or(3);
        let (_, unit, seconds) = UNITS[smaller];
        let _ = write!(out, " --limit {}/{unit}", SCALE * seconds / self.cost);
        if self.burst != BURST {
            let _ = write!(out, " --limit-burst {}", self.burst);
        }
    }

    /// The state holds when a packet last came (zero: none yet) and what was left of the bucket then.
    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>, state: &State) -> bool {
        let cost = u64::from(self.cost) * NANOS;
        let full = cost * u64::from(self.burst);
        let filled = match state.one.load(Relaxed) {
            0 => full,
            last => {
                state.two.load(Relaxed).saturating_add(look.env.now.saturating_sub(last)).min(full)
            }
        };
        let left = filled.checked_sub(cost);
        if !look.env.dry {
            state.one.store(look.env.now, Relaxed);
            state.two.store(left.unwrap_or(filled), Relaxed);
        }
        left.is_some()
    }
}
