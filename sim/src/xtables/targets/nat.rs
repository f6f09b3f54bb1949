//! `SNAT`, `DNAT`, `MASQUERADE`, `REDIRECT`: a range, and the packet's connection bound to it.
//! Facts from xt_nat.c, xt_MASQUERADE.c, xt_REDIRECT.c, libxt_NAT.c. It must never rewrite a packet; the NAT core does.
//! Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Act, note_nat};
use crate::conntrack::Standing;
use crate::conntrack::nat::{Manip, Range, range_flags};
use crate::journey::Sink;
use crate::nft::expr::NatKind;
use crate::nft::translate::chosen;
use crate::skb::{Env, Skb};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::matches::{Context, Known};
use crate::xtables::words::{Opt, Word};
use crate::xtables::{XtFamily, XtTable};
use std::fmt::Write as _;
use std::net::IpAddr;

/// A target that translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct NatTarget {
    kind: NatKind,
    addresses: Option<(IpAddr, IpAddr)>,
    ports: Option<(u16, u16)>,
    random: bool,
    random_fully: bool,
    persistent: bool,
    /// A destination or source was given.
    given: bool,
}

fn ports(text: &str, word: &Word) -> Taken<(u16, u16)> {
    if text.contains('/') {
        return Err(Refusal::unmodelled(word.column, format!("shifted ports `{text}'")));
    }
    let one = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits { text.parse().ok() } else { None };
        port.ok_or_else(|| Refusal::syntax(word.column, format!("Port `{text}' not valid")))
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (one(low)?, one(high)?) {
        (low, high) if low > high => {
            Err(Refusal::syntax(word.column, format!("Port range `{high}' funky")))
        }
        range => Ok(range),
    }
}

fn addresses(text: &str, word: &Word) -> Taken<Option<(IpAddr, IpAddr)>> {
    if text.is_empty() {
        return Ok(None);
    }
    let one = |text: &str| {
        text.parse().map_err(|_| Refusal::syntax(word.column, format!("Bad IP address \"{text}\"")))
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Ok(Some((one(low)?, one(high)?)))
}

/// Prints `low` or `low-high`.
fn print_range<T: PartialEq + std::fmt::Display>(
    out: &mut String,
    range: (T, T),
) -> std::fmt::Result {
    let (low, high) = range;
    if low == high { write!(out, "{low}") } else { write!(out, "{low}-{high}") }
}

impl NatTarget {
    pub(super) fn named(name: &str) -> Self {
        let kind = match name {
            "SNAT" => NatKind::Source,
            "DNAT" => NatKind::Destination,
            "MASQUERADE" => NatKind::Masquerade,
            _ => NatKind::Redirect,
        };
        let (random, random_fully, persistent) = (false, false, false);
        NatTarget {
            kind,
            addresses: None,
            ports: None,
            random,
            random_fully,
            persistent,
            given: false,
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            NatKind::Source => "SNAT",
            NatKind::Destination => "DNAT",
            NatKind::Masquerade => "MASQUERADE",
            NatKind::Redirect => "REDIRECT",
        }
    }

    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let by_address = matches!(self.kind, NatKind::Source | NatKind::Destination);
        match (opt.name, self.kind) {
            ("to-source", NatKind::Source) | ("to-destination", NatKind::Destination) => {
                let word = opt.plain_value()?;
                self.end(&word)?;
                self.given = true;
            }
            ("to-ports", NatKind::Masquerade | NatKind::Redirect) => {
                let word = opt.plain_value()?;
                self.ports = Some(ports(&word.text, &word)?);
            }
            ("random", _) => self.random = true,
            ("random-fully", NatKind::Source | NatKind::Masquerade) => self.random_fully = true,
            ("persistent", _) if by_address => self.persistent = true,
            _ => return Ok(Known::No),
        }
        opt.plain().map(|()| Known::Yes)
    }

    /// `address[-address][:port[-port]]`; IPv6 addresses with ports stand in brackets.
    fn end(&mut self, word: &Word) -> Taken<()> {
        let text = word.text.as_str();
        let colons = text.bytes().filter(|byte| *byte == b':').count();
        let (address, port) = match text.strip_prefix('[').map(|text| text.split_once(']')) {
            Some(Some((address, ""))) => (address, None),
            Some(Some((address, rest))) => (
                address,
                Some(rest.strip_prefix(':').ok_or_else(|| word.refuse("`[address]:port'"))?),
            ),
            Some(None) => return Err(word.refuse("a `]' behind the address")),
            None if colons == 1 => {
                text.split_once(':').map_or((text, None), |(address, port)| (address, Some(port)))
            }
            None => (text, None),
        };
        self.addresses = addresses(address, word)?;
        self.ports = port.map(|port| ports(port, word)).transpose()?;
        Ok(())
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if context.table != XtTable::Nat {
            return Err(Refusal::invalid(
                context.column,
                format!("{}: only valid in the table nat", self.name()),
            ));
        }
        let option = match self.kind {
            NatKind::Source => "--to-source",
            _ => "--to-destination",
        };
        if matches!(self.kind, NatKind::Source | NatKind::Destination) && !self.given {
            let detail = format!("{}: option \"{option}\" must be specified", self.name());
            return Err(Refusal::syntax(context.column, detail));
        }
        let other = |address: IpAddr| address.is_ipv6() != (context.family == XtFamily::V6);
        if let Some((low, high)) = self.addresses.filter(|(low, high)| other(*low) || other(*high))
        {
            let detail = format!("Bad IP address \"{}\"", if other(low) { low } else { high });
            return Err(Refusal::syntax(context.column, detail));
        }
        if self.ports.is_some() && !context.head.is_protocol(&[6, 17, 33, 132]) {
            return Err(Refusal::syntax(
                context.column,
                "Need TCP, UDP, SCTP or DCCP with port specification",
            ));
        }
        Ok(())
    }

    /// Destinations are translated where packets come in or start, sources where they leave or end.
    pub(super) fn hooks(&self) -> u8 {
        match self.kind {
            NatKind::Source => 0b10010,
            NatKind::Masquerade => 0b10000,
            NatKind::Destination | NatKind::Redirect => 0b01001,
        }
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        write!(out, " -j {}", self.name())?;
        match (self.kind, self.ports) {
            (NatKind::Source, _) => self.print_end(out, "--to-source")?,
            (NatKind::Destination, _) => self.print_end(out, "--to-destination")?,
            (_, Some(ports)) => {
                out.push_str(" --to-ports ");
                print_range(out, ports)?;
            }
            (_, None) => {}
        }
        let flags = [
            (self.random, " --random"),
            (self.random_fully, " --random-fully"),
            (self.persistent, " --persistent"),
        ];
        flags.iter().filter(|(set, _)| *set).for_each(|(_, flag)| out.push_str(flag));
        Ok(())
    }

    fn print_end(&self, out: &mut String, option: &str) -> std::fmt::Result {
        let bracketed =
            self.ports.is_some() && self.addresses.is_some_and(|(low, _)| low.is_ipv6());
        write!(out, " {option} {}", if bracketed { "[" } else { "" })?;
        self.addresses.map_or(Ok(()), |range| print_range(out, range))?;
        out.push_str(if bracketed { "]" } else { "" });
        let Some(ports) = self.ports else { return Ok(()) };
        out.push(':');
        print_range(out, ports)
    }

    fn flags(&self, addressed: bool) -> u32 {
        let flags = [
            (addressed, range_flags::MAP_IPS),
            (self.ports.is_some(), range_flags::PROTO_SPECIFIED),
            (self.random, range_flags::PROTO_RANDOM),
            (self.random_fully, range_flags::PROTO_RANDOM_FULLY),
            (self.persistent, range_flags::PERSISTENT),
        ];
        flags.iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit)
    }

    pub(super) fn act<S: Sink>(&self, env: &mut Env<'_, S>, skb: &mut Skb) -> Act {
        let Some(ct) = skb.ct.filter(|ct| ct.standing != Standing::Established) else {
            return Act::Accept;
        };
        let manip = match self.kind {
            NatKind::Source | NatKind::Masquerade => Manip::Source,
            NatKind::Destination | NatKind::Redirect => Manip::Destination,
        };
        let addresses = match self.kind {
            NatKind::Masquerade if skb.packet.src.is_unspecified() => return Act::Accept,
            NatKind::Masquerade | NatKind::Redirect => match chosen(self.kind, env, skb) {
                Some(address) => Some((address, address)),
                None => return Act::Drop,
            },
            _ => self.addresses,
        };
        let link = skb.out.map(|hop| hop.link);
        if self.kind == NatKind::Masquerade
            && let Some(conn) = env.tracker.get_mut(ct.id)
        {
            conn.masquerade_link = link;
        }
        let range = Range {
            flags: self.flags(addresses.is_some()),
            addresses,
            ports: self.ports.unwrap_or((0, 0)),
        };
        let bound = env.tracker.bind(ct.id, &range, manip, (env.chance, env.now));
        note_nat(env, ct.id, self.name());
        if bound { Act::Accept } else { Act::Drop }
    }
}
