//! `LOG` and `NFLOG`, which leave a step in the journey, and `TCPMSS`, which changes what is not modelled.
//! Facts from libxt_LOG.c, libxt_NFLOG.c, libxt_TCPMSS.c. It must never change a packet.
//! Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::Act;
use crate::journey::{Sink, Step};
use crate::packet::protocol;
use crate::skb::Env;
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::matches::{Context, EVERYWHERE, Known, Match};
use crate::xtables::words::{Opt, Word, print_string};
use std::fmt::Write as _;

const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"];
const FLAGS: [&str; 5] =
    ["log-tcp-sequence", "log-tcp-options", "log-ip-options", "log-uid", "log-macdecode"];

/// At least one byte; the tool cuts at `most`.
fn prefix(word: Word, most: usize) -> Taken<String> {
    if word.text.is_empty() {
        return Err(Refusal::syntax(
            word.column,
            "Argument must have a minimum length of 1 characters",
        ));
    }
    let mut text = word.text;
    while text.len() > most {
        text.pop();
    }
    Ok(text)
}

/// `-j LOG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xtables) struct Log {
    prefix: String,
    level: usize,
    flags: [bool; 5],
}

impl Default for Log {
    fn default() -> Self {
        Log { prefix: String::new(), level: 4, flags: [false; 5] }
    }
}

impl Log {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "log-prefix" => self.prefix = prefix(opt.plain_value()?, 29)?,
            "log-level" => {
                let word = opt.plain_value()?;
                let named = LEVELS.iter().position(|name| *name == word.text.to_ascii_lowercase());
                let level = named.or_else(|| word.text.parse().ok()).filter(|level| *level < 8);
                self.level = level.ok_or_else(|| word.refuse("a log level from 0 to 7"))?;
            }
            name => {
                let Some(flag) = FLAGS.iter().position(|known| *known == name) else {
                    return Ok(Known::No);
                };
                opt.plain()?;
                self.flags[flag] = true;
            }
        }
        Ok(Known::Yes)
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(" -j LOG");
        if !self.prefix.is_empty() {
            out.push_str(" --log-prefix");
            print_string(out, &self.prefix);
        }
        if self.level != 4 {
            write!(out, " --log-level {}", self.level)?;
        }
        FLAGS
            .iter()
            .zip(self.flags)
            .filter(|(_, set)| *set)
            .try_for_each(|(flag, _)| write!(out, " --{flag}"))
    }

    pub(super) fn act<S: Sink>(&self, env: &mut Env<'_, S>) -> Act {
        env.sink.note(|| Step::Log(self.prefix.clone()));
        Act::Continue
    }
}

/// `-j NFLOG`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Nflog {
    prefix: String,
    group: u32,
    size: Option<u32>,
    threshold: Option<u32>,
}

impl Nflog {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "nflog-prefix" => self.prefix = prefix(opt.plain_value()?, 63)?,
            "nflog-group" => self.group = opt.plain_value()?.number(65_535)?,
            "nflog-size" => self.size = Some(opt.plain_value()?.number(u32::MAX)?),
            "nflog-threshold" => self.threshold = Some(opt.plain_value()?.number(65_535)?),
            // The flavours differ: one forgets it.
            "nflog-range" => return Err(opt.word.unmodelled("")),
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(" -j NFLOG");
        if !self.prefix.is_empty() {
            out.push_str(" --nflog-prefix");
            print_string(out, &self.prefix);
        }
        if self.group != 0 {
            write!(out, " --nflog-group {}", self.group)?;
        }
        if let Some(size) = self.size {
            write!(out, " --nflog-size {size}")?;
        }
        let threshold = self.threshold.filter(|threshold| *threshold != 1);
        threshold.map_or(Ok(()), |threshold| write!(out, " --nflog-threshold {threshold}"))
    }

    pub(super) fn act<S: Sink>(&self, env: &mut Env<'_, S>) -> Act {
        env.sink.note(|| Step::Log(format!("group {}: {}", self.group, self.prefix)));
        Act::Continue
    }
}

/// `-j TCPMSS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Tcpmss {
    clamp: bool,
    size: Option<u32>,
}

impl Tcpmss {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "set-mss" => self.size = Some(opt.plain_value()?.number(65_495)?),
            "clamp-mss-to-pmtu" => {
                opt.plain()?;
                self.clamp = true;
            }
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>, matches: &[Match]) -> Taken<()> {
        if self.clamp == self.size.is_some() {
            let detail = "TCPMSS: expected one of --set-mss and --clamp-mss-to-pmtu";
            return Err(Refusal::syntax(context.column, detail));
        }
        let syn = |one: &Match| matches!(one, Match::Ports(ports) if ports.wants_syn());
        if !context.head.is_protocol(&[protocol::TCP]) || !matches.iter().any(syn) {
            return Err(Refusal::invalid(context.column, "TCPMSS: Only works on TCP SYN packets"));
        }
        Ok(())
    }

    pub(super) fn hooks(&self) -> u8 {
        if self.clamp { 0b11100 } else { EVERYWHERE }
    }

    pub(super) fn print(&self, out: &mut String) -> std::fmt::Result {
        match self.size {
            Some(size) => write!(out, " -j TCPMSS --set-mss {size}"),
            None => write!(out, " -j TCPMSS --clamp-mss-to-pmtu"),
        }
    }
}
