//! `REJECT`. Facts from ipt_REJECT.c, ip6t_REJECT.c, libipt_REJECT.c, libip6t_REJECT.c.
//! It must never make the answer; the fate says which it would be. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use crate::nft::RejectWith;
use crate::packet::protocol;
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::matches::{Context, Known};
use crate::xtables::words::Opt;
use crate::xtables::{XtFamily, XtTable};
use std::fmt::Write as _;

type Kind = (&'static str, &'static str, RejectWith);

const KINDS: [Kind; 8] = [
    ("icmp-net-unreachable", "net-unreach", RejectWith::Unreachable(0)),
    ("icmp-host-unreachable", "host-unreach", RejectWith::Unreachable(1)),
    ("icmp-proto-unreachable", "proto-unreach", RejectWith::Unreachable(2)),
    ("icmp-port-unreachable", "port-unreach", RejectWith::Unreachable(3)),
    ("icmp-net-prohibited", "net-prohib", RejectWith::Unreachable(9)),
    ("icmp-host-prohibited", "host-prohib", RejectWith::Unreachable(10)),
    ("tcp-reset", "tcp-rst", RejectWith::TcpReset),
    ("icmp-admin-prohibited", "admin-prohib", RejectWith::Unreachable(13)),
];

const KINDS6: [Kind; 7] = [
    ("icmp6-no-route", "no-route", RejectWith::Unreachable(0)),
    ("icmp6-adm-prohibited", "adm-prohibited", RejectWith::Unreachable(1)),
    ("icmp6-addr-unreachable", "addr-unreach", RejectWith::Unreachable(3)),
    ("icmp6-port-unreachable", "port-unreach", RejectWith::Unreachable(4)),
    ("tcp-reset", "tcp-reset", RejectWith::TcpReset),
    ("icmp6-policy-fail", "policy-fail", RejectWith::Unreachable(5)),
    ("icmp6-reject-route", "reject-route", RejectWith::Unreachable(6)),
];

/// `-j REJECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct Reject {
    family: XtFamily,
    pub(super) with: RejectWith,
}

impl Reject {
    pub(super) fn new(family: XtFamily) -> Self {
        Reject { family, with: RejectWith::Unreachable(if family == XtFamily::V4 { 3 } else { 4 }) }
    }

    fn kinds(&self) -> &'static [Kind] {
        if self.family == XtFamily::V4 { &KINDS } else { &KINDS6 }
    }

    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        if opt.name != "reject-with" {
            return Ok(Known::No);
        }
        let word = opt.plain_value()?;
        let wanted = word.text.to_ascii_lowercase();
        // A beginning of a name is enough for the tool.
        let begins = |name: &str| !wanted.is_empty() && name.starts_with(&wanted);
        let found = self.kinds().iter().find(|(name, alias, _)| begins(name) || begins(alias));
        self.with = found
            .map(|(.., with)| *with)
            .ok_or_else(|| word.refuse("a reject type such as tcp-reset"))?;
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if context.table != XtTable::Filter {
            return Err(Refusal::invalid(context.column, "REJECT: only valid in the table filter"));
        }
        if self.with == RejectWith::TcpReset && !context.head.is_protocol(&[protocol::TCP]) {
            return Err(Refusal::invalid(context.column, "REJECT: TCP_RESET invalid for non-tcp"));
        }
        Ok(())
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        let name =
            self.kinds().iter().find(|(.., with)| *with == self.with).map_or("", |(name, ..)| name);
        write!(out, " -j REJECT --reject-with {name}")
    }
}
