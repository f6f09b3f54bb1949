//! `icmp` and `icmp6`: types and codes. Facts from icmp_match (ip_tables.c, ip6_tables.c) and libxt_icmp.h.
//! It must never know connections. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, missing};
use crate::packet::{Packet, Transport, protocol};
use crate::xtables::XtFamily;
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::{Opt, Word, print_not};
use std::fmt::Write as _;

const ANY: u8 = 255;

const NAMES: &[(&str, u8, Option<u8>)] = &[
    ("any", ANY, None),
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("parameter-problem", 12, None),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
];

const NAMES6: &[(&str, u8, Option<u8>)] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("parameter-problem", 4, None),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

/// `-m icmp`, `-m icmp6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct Icmp {
    family: XtFamily,
    /// (inverted, type, code).
    wanted: Option<(bool, u8, Option<u8>)>,
}

impl Icmp {
    pub(super) fn new(family: XtFamily) -> Self {
        Icmp { family, wanted: None }
    }

    pub(super) fn name(&self) -> &'static str {
        if self.family == XtFamily::V4 { "icmp" } else { "icmp6" }
    }

    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        if opt.name != if self.family == XtFamily::V4 { "icmp-type" } else { "icmpv6-type" } {
            return Ok(Known::No);
        }
        let word = opt.value()?;
        let (kind, code) = self.kind(&word)?;
        self.wanted = Some((opt.not, kind, code));
        Ok(Known::Yes)
    }

    fn kind(&self, word: &Word) -> Taken<(u8, Option<u8>)> {
        let names = if self.family == XtFamily::V4 { NAMES } else { NAMES6 };
        if let Some((_, kind, code)) =
            names.iter().find(|(name, ..)| *name == word.text.to_ascii_lowercase())
        {
            return Ok((*kind, *code));
        }
        let unknown = || {
            Refusal::syntax(
                word.column,
                format!("Unknown ICMP type `{}': expected a type, type/code or a name", word.text),
            )
        };
        let (kind, code) = word
            .text
            .split_once('/')
            .map_or((word.text.as_str(), None), |(kind, code)| (kind, Some(code)));
        let code = code.map(|code| code.parse().map_err(|_| unknown())).transpose()?;
        Ok((kind.parse().map_err(|_| unknown())?, code))
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        let number = if self.family == XtFamily::V4 { protocol::ICMP } else { protocol::ICMPV6 };
        if !context.head.is_protocol(&[number]) {
            return Err(Refusal::invalid(
                context.column,
                format!("{} match needs its protocol by -p", self.name()),
            ));
        }
        self.wanted.map(drop).ok_or_else(|| missing(context, "icmp: option \"--icmp-type\""))
    }

    pub(super) fn print(&self, out: &mut String) {
        let Some((not, kind, code)) = self.wanted else { return };
        print_not(out, not);
        out.push_str(if self.family == XtFamily::V4 { " --icmp-type " } else { " --icmpv6-type " });
        let _ = match (kind, code) {
            (ANY, _) if self.family == XtFamily::V4 => write!(out, "any"),
            (kind, Some(code)) => write!(out, "{kind}/{code}"),
            (kind, None) => write!(out, "{kind}"),
        };
    }

    pub(super) fn fits(&self, packet: &Packet) -> bool {
        let Transport::Icmp { kind, code, .. } = packet.transport else { return false };
        let Some((not, wanted, wanted_code)) = self.wanted else { return false };
        let any = self.family == XtFamily::V4 && wanted == ANY;
        (any || kind == wanted && wanted_code.is_none_or(|wanted| wanted == code)) != not
    }
}
