//! `physdev`: ports of a bridge. There are no bridges here, so only what was inverted fits. Facts from xt_physdev.c, libxt_physdev.c.
//! It must never know packets. Tests: tests/xtables_texts.rs.

use super::{Context, EVERYWHERE, Known, missing};
use crate::xtables::error::Taken;
use crate::xtables::head::LinkName;
use crate::xtables::words::{Opt, print_not};

/// `-m physdev`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Physdev {
    in_port: Option<LinkName>,
    out_port: Option<LinkName>,
    /// Inverted or not: came in by a port, leaves by a port, was bridged.
    is_in: Option<bool>,
    is_out: Option<bool>,
    is_bridged: Option<bool>,
}

impl Physdev {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "physdev-in" => self.in_port = LinkName::parse(&opt.value()?, opt.not)?,
            "physdev-out" => self.out_port = LinkName::parse(&opt.value()?, opt.not)?,
            "physdev-is-in" => self.is_in = Some(opt.not),
            "physdev-is-out" => self.is_out = Some(opt.not),
            "physdev-is-bridged" => self.is_bridged = Some(opt.not),
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if *self == Physdev::default() {
            return Err(missing(context, "PHYSDEV: no physdev option"));
        }
        Ok(())
    }

    /// The outgoing port is known only to bridged packets (physdev_mt_check).
    pub(super) fn hooks(&self) -> u8 {
        let asks_out = self.out_port.is_some() || self.is_out.is_some();
        if asks_out && self.is_bridged != Some(false) { 0b10111 } else { EVERYWHERE }
    }

    pub(super) fn print(&self, out: &mut String) {
        let flag = |out: &mut String, not: Option<bool>, option: &str| {
            let Some(not) = not else { return };
            print_not(out, not);
            out.push_str(option);
        };
        flag(out, self.is_in, " --physdev-is-in");
        self.in_port.iter().for_each(|port| port.print(out, "--physdev-in"));
        flag(out, self.is_out, " --physdev-is-out");
        self.out_port.iter().for_each(|port| port.print(out, "--physdev-out"));
        flag(out, self.is_bridged, " --physdev-is-bridged");
    }

    pub(super) fn fits(&self) -> bool {
        let ports = [&self.in_port, &self.out_port];
        [self.is_in, self.is_out, self.is_bridged].iter().flatten().all(|not| *not)
            && ports.into_iter().flatten().all(|port| port.not)
    }
}
