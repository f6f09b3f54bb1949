//! `rpfilter`: would an answer leave by the link the packet came in by? Facts from ipt_rpfilter.c, ip6t_rpfilter.c.
//! It must never know rules. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, Look};
use crate::net::{Decision, LOOPBACK};
use crate::xtables::XtTable;
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::Opt;

/// `-m rpfilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Rpfilter {
    loose: bool,
    valid_mark: bool,
    accept_local: bool,
    invert: bool,
}

impl Rpfilter {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let flag = match opt.name {
            "loose" => &mut self.loose,
            "validmark" => &mut self.valid_mark,
            "accept-local" => &mut self.accept_local,
            "invert" => &mut self.invert,
            _ => return Ok(Known::No),
        };
        *flag = true;
        opt.plain().map(|()| Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if !matches!(context.table, XtTable::Raw | XtTable::Mangle) {
            return Err(Refusal::invalid(
                context.column,
                "rpfilter: only valid in the tables raw and mangle, in PREROUTING",
            ));
        }
        Ok(())
    }

    pub(super) fn print(&self, out: &mut String) {
        let flags = [
            (self.loose, " --loose"),
            (self.valid_mark, " --validmark"),
            (self.accept_local, " --accept-local"),
            (self.invert, " --invert"),
        ];
        flags.iter().filter(|(set, _)| *set).for_each(|(_, option)| out.push_str(option));
    }

    /// Routes by mark do not exist here, so `--validmark` changes nothing.
    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        let (source, link) = (look.skb.packet.src, look.skb.in_link);
        let reached = match look.env.net.route(source) {
            _ if link == Some(LOOPBACK) => true,
            Decision::Via(hop) => self.loose || Some(hop.link) == link,
            Decision::Local => self.accept_local,
            _ => false,
        };
        reached != self.invert
    }
}
