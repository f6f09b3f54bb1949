//! `multiport`: up to 15 ports or ranges. Facts from xt_multiport.c, libxt_multiport.c.
//! It must never know connections. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::ports::port;
use super::{Context, Known, missing};
use crate::packet::Packet;
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::{Opt, print_not};
use std::fmt::Write as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
}

/// `-m multiport`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Multiport {
    side: Option<Side>,
    not: bool,
    ranges: Vec<(u16, u16)>,
}

impl Multiport {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let side = match opt.name {
            "source-ports" => Side::Source,
            "destination-ports" => Side::Destination,
            "ports" => Side::Either,
            _ => return Ok(Known::No),
        };
        if self.side.is_some() {
            return Err(Refusal::syntax(opt.word.column, "multiport can only have one option"));
        }
        let word = opt.value()?;
        let mut slots = 0;
        for text in word.text.split(',') {
            let (low, high) = match text.split_once(':') {
                Some((low, high)) => (port(low, &word)?, port(high, &word)?),
                None => port(text, &word).map(|port| (port, port))?,
            };
            slots += if text.contains(':') { 2 } else { 1 };
            if slots > 15 {
                return Err(Refusal::syntax(
                    word.column,
                    "too many ports specified: expected up to 15, a range counting twice",
                ));
            }
            if low > high || text.contains(':') && low == high {
                return Err(Refusal::syntax(word.column, "invalid portrange specified"));
            }
            self.ranges.push((low, high));
        }
        (self.side, self.not) = (Some(side), opt.not);
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        self.side.ok_or_else(|| missing(context, "multiport: --sports, --dports or --ports"))?;
        if context.head.is_protocol(&[6, 17, 33, 132, 136]) {
            return Ok(());
        }
        Err(Refusal::invalid(
            context.column,
            "multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'",
        ))
    }

    pub(super) fn print(&self, out: &mut String) {
        print_not(out, self.not);
        out.push_str(match self.side {
            Some(Side::Source) => " --sports ",
            Some(Side::Destination) => " --dports ",
            _ => " --ports ",
        });
        for (number, (low, high)) in self.ranges.iter().enumerate() {
            out.push_str(if number == 0 { "" } else { "," });
            let _ = if low == high { write!(out, "{low}") } else { write!(out, "{low}:{high}") };
        }
    }

    #[inline]
    pub(super) fn fits(&self, packet: &Packet) -> bool {
        let Some((source, destination)) = packet.ports() else { return false };
        let within =
            |port: u16| self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&port));
        let found = match self.side {
            Some(Side::Source) => within(source),
            Some(Side::Destination) => within(destination),
            _ => within(source) || within(destination),
        };
        found != self.not
    }
}
