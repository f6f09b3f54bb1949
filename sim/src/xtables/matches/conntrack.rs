//! `conntrack` and `state`: what is known of the packet's connection. Facts from xt_conntrack.c, libxt_conntrack.c.
//! It must never change a connection. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known, Look};
use crate::conntrack::{Conn, SECOND, Standing, status};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::head::{Network, protocol};
use crate::xtables::words::{Opt, Word, print_not};
use std::fmt::Write as _;

/// States in the order in which iptables-save names them.
const STATES: [(&str, u8); 7] = [
    ("INVALID", 1),
    ("NEW", 8),
    ("RELATED", 4),
    ("ESTABLISHED", 2),
    ("UNTRACKED", 64),
    ("SNAT", 16),
    ("DNAT", 32),
];

/// Bits of a connection's status by name.
const STATUSES: [(&str, u32); 4] =
    [("EXPECTED", 1), ("SEEN_REPLY", 2), ("ASSURED", 4), ("CONFIRMED", 8)];

/// `-m conntrack`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Conntrack {
    states: Option<(bool, u8)>,
    protocol: Option<(bool, u8)>,
    /// Original source and destination, reply source and destination.
    addresses: [Option<(Network, String)>; 4],
    /// (inverted, low, high), in the order of the addresses.
    ports: [Option<(bool, u16, u16)>; 4],
    statuses: Option<(bool, u32)>,
    expires: Option<(bool, u32, u32)>,
    reply: Option<bool>,
}

const ADDRESSES: [&str; 4] = ["ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"];
const PORTS: [&str; 4] = ["ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport"];

fn states(word: &Word, known: &[(&str, u8)]) -> Taken<u8> {
    let one = |name: &str| {
        let found = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found
            .map(|(_, bit)| *bit)
            .ok_or_else(|| Refusal::syntax(word.column, format!("Bad ctstate \"{name}\"")))
    };
    word.text.split(',').try_fold(0, |bits, name| Ok(bits | one(name)?))
}

fn print_states(out: &mut String, bits: u8) {
    let names: Vec<&str> =
        STATES.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
    let _ = write!(out, " {}", names.join(","));
}

/// `n` or `n:m`.
fn span(word: &Word, most: u32) -> Taken<(u32, u32)> {
    let end = |text: &str| crate::xtables::words::number(text).filter(|number| *number <= most);
    let (low, high) = word.text.split_once(':').unwrap_or((&word.text, &word.text));
    end(low)
        .zip(end(high))
        .filter(|(low, high)| low <= high)
        .ok_or_else(|| word.refuse(&format!("n or n:m, up to {most}")))
}

impl Conntrack {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        let slot = |names: [&str; 4], name: &str| names.iter().position(|known| *known == name);
        if let Some(slot) = slot(ADDRESSES, opt.name) {
            let word = opt.value()?;
            let family = if word.text.contains(':') {
                crate::xtables::XtFamily::V6
            } else {
                crate::xtables::XtFamily::V4
            };
            let network = Network { not: opt.not, ..Network::parse(&word.text, &word, family)? };
            let prefix =
                network.prefix().ok_or_else(|| word.unmodelled("a mask with holes in "))?;
            // The tool prints the address as it was written, host bits and all.
            let address =
                word.text.split('/').next().unwrap_or_default().parse::<std::net::IpAddr>();
            let address = address.map_err(|_| word.refuse("an address"))?;
            let full = if network.address.is_ipv4() { 32 } else { 128 };
            let text =
                if prefix == full { address.to_string() } else { format!("{address}/{prefix}") };
            self.addresses[slot] = Some((network, text));
            return Ok(Known::Yes);
        }
        if let Some(slot) = slot(PORTS, opt.name) {
            let (low, high) = span(&opt.value()?, 65_535)?;
            self.ports[slot] = Some((opt.not, low as u16, high as u16));
            return Ok(Known::Yes);
        }
        self.plain_option(opt)
    }

    fn plain_option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "ctstate" => self.states = Some((opt.not, states(&opt.value()?, &STATES)?)),
            "ctproto" => self.protocol = Some((opt.not, protocol(&opt.value()?)?)),
            "ctstatus" => {
                let word = opt.value()?;
                let one = |name: &str| match STATUSES
                    .iter()
                    .find(|(known, _)| known.eq_ignore_ascii_case(name))
                {
                    Some((_, bit)) => Ok(*bit),
                    None if name.eq_ignore_ascii_case("NONE") => Ok(0),
                    None => Err(Refusal::syntax(word.column, format!("Bad ctstatus \"{name}\""))),
                };
                let bits = word
                    .text
                    .split(',')
                    .try_fold(0, |bits, name| Ok::<u32, Refusal>(bits | one(name)?))?;
                self.statuses = Some((opt.not, bits));
            }
            "ctexpire" => {
                let (low, high) = span(&opt.value()?, u32::MAX)?;
                self.expires = Some((opt.not, low, high));
            }
            "ctdir" => {
                let word = opt.plain_value()?;
                self.reply = match word.text.to_ascii_uppercase().as_str() {
                    "ORIGINAL" => Some(false),
                    "REPLY" => Some(true),
                    _ => return Err(word.refuse("ORIGINAL or REPLY")),
                };
            }
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if *self == Conntrack::default() {
            return Err(Refusal::syntax(
                context.column,
                "conntrack: At least one option is required",
            ));
        }
        let other = |(network, _): &(Network, String)| {
            network.address.is_ipv6() != (context.family == crate::xtables::XtFamily::V6)
        };
        if self.addresses.iter().flatten().any(other) {
            return Err(Refusal::syntax(
                context.column,
                format!("conntrack: expected addresses of {}", context.family.name()),
            ));
        }
        if self.protocol.is_some_and(|(_, number)| number == 0) {
            return Err(Refusal::syntax(
                context.column,
                "conntrack: rule would never match protocol",
            ));
        }
        Ok(())
    }

    pub(super) fn print(&self, out: &mut String) {
        if let Some((not, bits)) = self.states {
            print_not(out, not);
            out.push_str(" --ctstate");
            print_states(out, bits);
        }
        if let Some((not, number)) = self.protocol {
            print_not(out, not);
            let _ = write!(out, " --ctproto {number}");
        }
        for (option, address) in ADDRESSES.iter().zip(&self.addresses) {
            let Some((network, text)) = address else { continue };
            print_not(out, network.not);
            let _ = write!(out, " --{option} {text}");
        }
        for (option, ports) in PORTS.iter().zip(&self.ports) {
            let Some((not, low, high)) = ports else { continue };
            print_not(out, *not);
            let _ = if low == high {
                write!(out, " --{option} {low}")
            } else {
                write!(out, " --{option} {low}:{high}")
            };
        }
        self.print_rest(out);
    }

    fn print_rest(&self, out: &mut String) {
        if let Some((not, bits)) = self.statuses {
            print_not(out, not);
            let names: Vec<&str> =
                STATUSES.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
            let _ = write!(
                out,
                " --ctstatus {}",
                if names.is_empty() { "NONE".into() } else { names.join(",") }
            );
        }
        if let Some((not, low, high)) = self.expires {
            print_not(out, not);
            let _ = if low == high {
                write!(out, " --ctexpire {low}")
            } else {
                write!(out, " --ctexpire {low}:{high}")
            };
        }
        if let Some(reply) = self.reply {
            out.push_str(if reply { " --ctdir REPLY" } else { " --ctdir ORIGINAL" });
        }
    }

    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        if self.states.is_some_and(|(not, bits)| (bits & standing(look) != 0) == not) {
            return false;
        }
        let Some((ct, conn)) = look.skb.ct.and_then(|ct| Some((ct, look.env.tracker.get(ct.id)?)))
        else {
            return self.states.is_some();
        };
        // Until it is confirmed its timeout counts from the machine's start, and is over (nf_ct_expires).
        let left = match conn.has(status::CONFIRMED) {
            true => conn.expires.saturating_sub(look.env.now) / SECOND,
            false => 0,
        };
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        self.reply.is_none_or(|reply| reply == ct.reply)
            && self.protocol.is_none_or(|(not, number)| (conn.original.protocol == number) != not)
            && self.fits_ends(conn)
            && self.statuses.is_none_or(|(not, bits)| (conn.status & bits != 0) != not)
            && self.expires.is_none_or(|(not, low, high)| (low..=high).contains(&left) != not)
    }

    fn fits_ends(&self, conn: &Conn) -> bool {
        let (one, two) = (&conn.original, &conn.reply);
        let addresses = self.addresses.iter().zip([one.src, one.dst, two.src, two.dst]);
        let ports = self.ports.iter().zip([one.sport, one.dport, two.sport, two.dport]);
        addresses.into_iter().all(|(wanted, address)| {
            wanted.as_ref().is_none_or(|(network, _)| network.holds(address))
        }) && ports.into_iter().all(|(wanted, port)| {
            wanted.is_none_or(|(not, low, high)| (low..=high).contains(&port) != not)
        })
    }
}

/// The packet's state as bits of `STATES`.
fn standing<S>(look: &Look<'_, '_, S>) -> u8 {
    let Some((ct, conn)) = look.skb.ct.and_then(|ct| Some((ct, look.env.tracker.get(ct.id)?)))
    else {
        return 1;
    };
    let bit = match ct.standing {
        Standing::Established => 2,
        Standing::Related => 4,
        Standing::New => 8,
    };
    bit | if conn.has(status::SRC_NAT) { 16 } else { 0 }
        | if conn.has(status::DST_NAT) { 32 } else { 0 }
}

/// `-m state`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct StateMatch(Option<(bool, u8)>);

impl StateMatch {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        if opt.name != "state" {
            return Ok(Known::No);
        }
        self.0 = Some((opt.not, states(&opt.value()?, &STATES[..5])?));
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        self.0.map(drop).ok_or_else(|| super::missing(context, "state: option \"--state\""))
    }

    pub(super) fn print(&self, out: &mut String) {
        let (not, bits) = self.0.unwrap_or_default();
        print_not(out, not);
        out.push_str(" --state");
        print_states(out, bits);
    }

    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        self.0.is_some_and(|(not, bits)| (bits & standing(look) != 0) != not)
    }
}
