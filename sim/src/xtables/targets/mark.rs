//! `MARK` and `CONNMARK`. Facts from xt_mark.c, xt_connmark.c, libxt_MARK.c, libxt_CONNMARK.c.
//! It must never look at anything but marks. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::Act;
use crate::skb::{Env, Skb};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::matches::{Context, Known};
use crate::xtables::words::Opt;
use std::fmt::Write as _;

/// `(mark & !mask) ^ value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    value: u32,
    mask: u32,
}

impl Change {
    fn of(self, mark: u32) -> u32 {
        (mark & !self.mask) ^ self.value
    }
}

/// What one of the five options asks for. Nothing: it is none of them.
fn change(opt: &mut Opt<'_>) -> Taken<Option<Change>> {
    if !matches!(opt.name, "set-mark" | "set-xmark" | "or-mark" | "and-mark" | "xor-mark") {
        return Ok(None);
    }
    opt.plain()?;
    if let "set-mark" | "set-xmark" = opt.name {
        let (value, mask) = opt.masked()?;
        let mask = if opt.name == "set-mark" { value | mask } else { mask };
        return Ok(Some(Change { value, mask }));
    }
    let value = opt.value()?.number(u32::MAX)?;
    Ok(Some(match opt.name {
        "or-mark" => Change { value, mask: value },
        "and-mark" => Change { value: 0, mask: !value },
        _ => Change { value, mask: 0 },
    }))
}

fn only_one(opt: &Opt<'_>, known: bool) -> Taken<()> {
    if known {
        let detail =
            format!("option \"{}\" cannot be used together with another one", opt.word.text);
        return Err(Refusal::syntax(opt.word.column, detail));
    }
    Ok(())
}

/// `-j MARK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct MarkTarget(Option<Change>);

impl MarkTarget {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let Some(change) = change(opt)? else { return Ok(Known::No) };
        only_one(opt, self.0.is_some())?;
        self.0 = Some(change);
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        let detail = "MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required";
        self.0.map(drop).ok_or_else(|| Refusal::syntax(context.column, detail))
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        let Change { value, mask } = self.0.unwrap_or(Change { value: 0, mask: 0 });
        write!(out, " -j MARK --set-xmark 0x{value:x}/0x{mask:x}")
    }

    pub(super) fn act(&self, skb: &mut Skb) -> Act {
        skb.packet.mark = self.0.map_or(skb.packet.mark, |change| change.of(skb.packet.mark));
        Act::Continue
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set(Change),
    Save,
    Restore,
}

/// `-j CONNMARK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct ConnmarkTarget {
    operation: Option<Operation>,
    nf_mask: Option<u32>,
    ct_mask: Option<u32>,
}

impl ConnmarkTarget {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let operation = match opt.name {
            "save-mark" => Operation::Save,
            "restore-mark" => Operation::Restore,
            "mask" | "nfmask" | "ctmask" => {
                let mask = Some(opt.plain_value()?.number(u32::MAX)?);
                self.nf_mask = if opt.name == "ctmask" { self.nf_mask } else { mask };
                self.ct_mask = if opt.name == "nfmask" { self.ct_mask } else { mask };
                return Ok(Known::Yes);
            }
            _ => match change(opt)? {
                Some(change) => Operation::Set(change),
                None => return Ok(Known::No),
            },
        };
        opt.plain()?;
        only_one(opt, self.operation.is_some())?;
        self.operation = Some(operation);
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        match self.operation {
            None => Err(Refusal::syntax(context.column, "CONNMARK target: No operation specified")),
            Some(Operation::Set(_)) if self.nf_mask.is_some() || self.ct_mask.is_some() => {
                Err(Refusal::syntax(
                    context.column,
                    "CONNMARK: masks go with --save-mark and --restore-mark",
                ))
            }
            Some(_) => Ok(()),
        }
    }

    fn masks(&self) -> (u32, u32) {
        (self.nf_mask.unwrap_or(u32::MAX), self.ct_mask.unwrap_or(u32::MAX))
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        let (nf, ct) = self.masks();
        match self.operation {
            Some(Operation::Set(Change { value, mask })) => {
                write!(out, " -j CONNMARK --set-xmark 0x{value:x}/0x{mask:x}")
            }
            Some(Operation::Save) => {
                write!(out, " -j CONNMARK --save-mark --nfmask 0x{nf:x} --ctmask 0x{ct:x}")
            }
            _ => write!(out, " -j CONNMARK --restore-mark --nfmask 0x{nf:x} --ctmask 0x{ct:x}"),
        }
    }

    pub(super) fn act<S>(&self, env: &mut Env<'_, S>, skb: &mut Skb) -> Act {
        let (nf, ct) = self.masks();
        let Some(conn) = skb.ct.and_then(|ct| env.tracker.get_mut(ct.id)) else {
            return Act::Continue;
        };
        match self.operation {
            Some(Operation::Set(change)) => conn.mark = change.of(conn.mark),
            Some(Operation::Save) => conn.mark = (conn.mark & !ct) ^ (skb.packet.mark & nf),
            Some(Operation::Restore) => {
                skb.packet.mark = (skb.packet.mark & !nf) ^ (conn.mark & ct)
            }
            None => {}
        }
        Act::Continue
    }
}
