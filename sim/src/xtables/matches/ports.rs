//! `tcp`, `udp` and `sctp`: port ranges and TCP flags. Facts from xt_tcpudp.c, xt_sctp.c, libxt_tcp.c.
//! It must never know connections. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, Known};
use crate::packet::{Packet, Transport, protocol};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::{Opt, Word, print_not};
use std::fmt::Write as _;

/// The flags in the order in which iptables-save names them.
const FLAGS: [(&str, u8); 6] =
    [("FIN", 1), ("SYN", 2), ("RST", 4), ("PSH", 8), ("ACK", 16), ("URG", 32)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    not: bool,
    low: u16,
    high: u16,
}

/// `-m tcp`, `-m udp`, `-m sctp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct Ports {
    protocol: u8,
    source: Option<Range>,
    destination: Option<Range>,
    /// (inverted, looked at, set).
    flags: Option<(bool, u8, u8)>,
}

/// A port of one number; names are refused.
pub(super) fn port(text: &str, word: &Word) -> Taken<u16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::unmodelled(word.column, format!("port `{text}' by name")));
    }
    text.parse().map_err(|_| {
        Refusal::syntax(word.column, format!("invalid port/service `{text}' specified"))
    })
}

/// `n`, `n:m`, `:m` or `n:`.
fn range(opt: &mut Opt<'_>) -> Taken<Range> {
    let word = opt.value()?;
    let end = |text: &str, otherwise: u16| {
        if text.is_empty() { Ok(otherwise) } else { port(text, &word) }
    };
    let (low, high) = match word.text.split_once(':') {
        Some((low, high)) => (end(low, 0)?, end(high, u16::MAX)?),
        None => port(&word.text, &word).map(|port| (port, port))?,
    };
    if low > high {
        return Err(Refusal::syntax(word.column, "invalid portrange (min > max)"));
    }
    Ok(Range { not: opt.not, low, high })
}

fn flags(word: &Word) -> Taken<u8> {
    let one = |name: &str| {
        match name.to_ascii_uppercase().as_str() {
        "ALL" => Ok(0x3f),
        "NONE" => Ok(0),
        name => FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit).ok_or_else(|| {
            Refusal::syntax(word.column, format!("Unknown TCP flag `{name}': expected SYN, ACK, FIN, RST, URG, PSH, ALL or NONE"))
        }),
    }
    };
    word.text.split(',').try_fold(0, |bits, name| Ok(bits | one(name)?))
}

fn print_flags(out: &mut String, bits: u8) {
    let names: Vec<&str> =
        FLAGS.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
    let _ = write!(out, " {}", if names.is_empty() { "NONE".into() } else { names.join(",") });
}

impl Ports {
    pub(super) fn new(protocol: u8) -> Self {
        Ports { protocol, source: None, destination: None, flags: None }
    }

    pub(super) fn name(&self) -> &'static str {
        match self.protocol {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            _ => "sctp",
        }
    }

    /// Does it want a SYN? (TCPMSS asks for that.)
    pub(in crate::xtables) fn wants_syn(&self) -> bool {
        self.flags.is_some_and(|(not, _, set)| !not && set & 2 != 0)
    }

    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "source-port" => self.source = Some(range(opt)?),
            "destination-port" => self.destination = Some(range(opt)?),
            "syn" if self.protocol == protocol::TCP => self.flags = Some((opt.not, 0x17, 2)),
            "tcp-flags" if self.protocol == protocol::TCP => {
                let looked_at = flags(&opt.value()?)?;
                let missing =
                    |_| Refusal::syntax(opt.word.column, "--tcp-flags requires two args.");
                self.flags = Some((
                    opt.not,
                    looked_at,
                    flags(&opt.words.value(opt.word).map_err(missing)?)?,
                ));
            }
            "tcp-option" | "chunk-types" => return Err(opt.word.unmodelled("")),
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if context.head.is_protocol(&[self.protocol]) {
            return Ok(());
        }
        let name = self.name();
        Err(Refusal::invalid(
            context.column,
            format!("{} match requires '-p {name}'", name.to_ascii_uppercase()),
        ))
    }

    pub(super) fn print(&self, out: &mut String) {
        for (range, option) in [(self.source, "--sport"), (self.destination, "--dport")] {
            // A range of all ports is printed only where it is inverted, as libxt_tcp does.
            let Some(Range { not, low, high }) =
                range.filter(|range| range.not || (range.low, range.high) != (0, u16::MAX))
            else {
                continue;
            };
            print_not(out, not);
            let _ = if low == high {
                write!(out, " {option} {low}")
            } else {
                write!(out, " {option} {low}:{high}")
            };
        }
        if let Some((not, looked_at, set)) = self.flags.filter(|(_, looked_at, _)| *looked_at != 0)
        {
            print_not(out, not);
            out.push_str(" --tcp-flags");
            print_flags(out, looked_at);
            print_flags(out, set);
        }
    }

    #[inline]
    pub(super) fn fits(&self, packet: &Packet) -> bool {
        let Some((source, destination)) =
            packet.ports().filter(|_| packet.protocol() == self.protocol)
        else {
            return false;
        };
        let within = |range: Option<Range>, port: u16| {
            range.is_none_or(|range| (range.low..=range.high).contains(&port) != range.not)
        };
        let flagged = match (&packet.transport, self.flags) {
            (Transport::Tcp { flags, .. }, Some((not, looked_at, set))) => {
                (flags & looked_at == set) != not
            }
            _ => true,
        };
        within(self.source, source) && within(self.destination, destination) && flagged
    }
}
