//! The matches of rules (`-m …`): each is parsed, checked, printed and tried in its own file, one form for all.
//! What a match needs of the host comes in `Look`. It must never know targets or chains.
//! Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

pub(super) mod addrtype;
mod conntrack;
mod icmp;
mod limit;
mod mark;
mod multiport;
mod objects;
mod physdev;
mod ports;
pub(super) mod recent;
mod rpfilter;
mod statistic;

use super::error::{Refusal, Taken};
use super::head::Head;
use super::objects::{Accounts, Sets};
use super::words::{Opt, Word, print_string};
use super::{XtFamily, XtTable};
use crate::journey::Sink;
use crate::packet::protocol;
use crate::skb::{Env, Skb};
use recent::Recents;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Does a part know an option?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
}

/// Where a rule is to stand, for a part to check itself by.
pub(super) struct Context<'c> {
    pub(super) family: XtFamily,
    pub(super) table: XtTable,
    pub(super) head: &'c Head,
    pub(super) sets: &'c dyn Sets,
    pub(super) accounts: &'c Accounts,
    /// Where the part is named.
    pub(super) column: usize,
}

/// A packet at a rule, and what of the host its matches look at.
pub(super) struct Look<'l, 'h, S> {
    pub(super) env: &'l mut Env<'h, S>,
    pub(super) skb: &'l mut Skb,
    pub(super) recents: &'l mut Recents,
    pub(super) accounts: &'l Accounts,
    pub(super) sets: &'l dyn Sets,
}

/// What a match remembers from packet to packet.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) one: AtomicU64,
    pub(super) two: AtomicU64,
}

/// All hooks, as bits by number.
pub(super) const EVERYWHERE: u8 = 0b11111;

/// A match with its options.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Match {
    Comment(objects::Comment),
    Mark(mark::Mark),
    Connmark(mark::Connmark),
    Conntrack(Box<conntrack::Conntrack>),
    State(conntrack::StateMatch),
    Addrtype(addrtype::Addrtype),
    Statistic(statistic::Statistic),
    Recent(recent::Recent),
    Set(objects::SetMatch),
    Multiport(multiport::Multiport),
    Ports(ports::Ports),
    Icmp(icmp::Icmp),
    Physdev(physdev::Physdev),
    Limit(limit::Limit),
    Nfacct(objects::Nfacct),
    Rpfilter(rpfilter::Rpfilter),
}

macro_rules! each {
    ($this:expr, $part:ident => $result:expr) => {
        match $this {
            Match::Comment($part) => $result,
            Match::Mark($part) => $result,
            Match::Connmark($part) => $result,
            Match::Conntrack($part) => $result,
            Match::State($part) => $result,
            Match::Addrtype($part) => $result,
            Match::Statistic($part) => $result,
            Match::Recent($part) => $result,
            Match::Set($part) => $result,
            Match::Multiport($part) => $result,
            Match::Ports($part) => $result,
            Match::Icmp($part) => $result,
            Match::Physdev($part) => $result,
            Match::Limit($part) => $result,
            Match::Nfacct($part) => $result,
            Match::Rpfilter($part) => $result,
        }
    };
}

impl Match {
    /// A match by its name, without options.
    pub(super) fn named(word: &Word, family: XtFamily) -> Taken<Match> {
        Ok(match (word.text.as_str(), family) {
            ("comment", _) => Match::Comment(Default::default()),
            ("mark", _) => Match::Mark(Default::default()),
            ("connmark", _) => Match::Connmark(Default::default()),
            ("conntrack", _) => Match::Conntrack(Default::default()),
            ("state", _) => Match::State(Default::default()),
            ("addrtype", _) => Match::Addrtype(Default::default()),
            ("statistic", _) => Match::Statistic(Default::default()),
            ("recent", _) => Match::Recent(Default::default()),
            ("set", _) => Match::Set(Default::default()),
            ("multiport", _) => Match::Multiport(Default::default()),
            ("tcp", _) => Match::Ports(ports::Ports::new(protocol::TCP)),
            ("udp", _) => Match::Ports(ports::Ports::new(protocol::UDP)),
            ("sctp", _) => Match::Ports(ports::Ports::new(protocol::SCTP)),
            ("icmp", XtFamily::V4) | ("icmp6" | "icmpv6" | "ipv6-icmp", XtFamily::V6) => {
                Match::Icmp(icmp::Icmp::new(family))
            }
            ("physdev", _) => Match::Physdev(Default::default()),
            ("limit", _) => Match::Limit(Default::default()),
            ("nfacct", _) => Match::Nfacct(Default::default()),
            ("rpfilter", _) => Match::Rpfilter(Default::default()),
            _ => return Err(word.unmodelled("-m ")),
        })
    }

    /// The match a protocol brings without `-m`.
    pub(super) fn of_protocol(head: &Head, family: XtFamily) -> Option<Match> {
        match (head.protocol?.1, family) {
            (number @ (protocol::TCP | protocol::UDP | protocol::SCTP), _) => {
                Some(Match::Ports(ports::Ports::new(number)))
            }
            (protocol::ICMP, XtFamily::V4) | (protocol::ICMPV6, XtFamily::V6) => {
                Some(Match::Icmp(icmp::Icmp::new(family)))
            }
            _ => None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Match::Comment(_) => "comment",
            Match::Mark(_) => "mark",
            Match::Connmark(_) => "connmark",
            Match::Conntrack(_) => "conntrack",
            Match::State(_) => "state",
            Match::Addrtype(_) => "addrtype",
            Match::Statistic(_) => "statistic",
            Match::Recent(_) => "recent",
            Match::Set(_) => "set",
            Match::Multiport(_) => "multiport",
            Match::Ports(ports) => ports.name(),
            Match::Icmp(icmp) => icmp.name(),
            Match::Physdev(_) => "physdev",
            Match::Limit(_) => "limit",
            Match::Nfacct(_) => "nfacct",
            Match::Rpfilter(_) => "rpfilter",
        }
    }

    /// Takes an option, if it is one of this match.
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        each!(self, part => part.option(opt))
    }

    /// All options are there: is the match complete, and may it stand here?
    pub(super) fn check(&mut self, context: &Context<'_>) -> Taken<()> {
        each!(self, part => part.check(context))
    }

    pub(super) fn print(&self, out: &mut String) {
        out.push_str(" -m ");
        out.push_str(self.name());
        each!(self, part => part.print(out));
    }

    #[inline]
    pub(super) fn fits<S: Sink>(&self, look: &mut Look<'_, '_, S>, state: &State) -> bool {
        match self {
            Match::Comment(_) => true,
            Match::Mark(part) => part.fits(look),
            Match::Connmark(part) => part.fits(look),
            Match::Conntrack(part) => part.fits(look),
            Match::State(part) => part.fits(look),
            Match::Addrtype(part) => part.fits(look),
            Match::Statistic(part) => part.fits(look, state),
            Match::Recent(part) => part.fits(look),
            Match::Set(part) => part.fits(look),
            Match::Multiport(part) => part.fits(&look.skb.packet),
            Match::Ports(part) => part.fits(&look.skb.packet),
            Match::Icmp(part) => part.fits(&look.skb.packet),
            Match::Physdev(part) => part.fits(),
            Match::Limit(part) => part.fits(look, state),
            Match::Nfacct(part) => part.fits(look),
            Match::Rpfilter(part) => part.fits(look),
        }
    }

    /// Does it remember something between packets?
    pub(super) fn remembers(&self) -> bool {
        matches!(self, Match::Statistic(_) | Match::Limit(_))
    }

    /// The hooks at which the kernel takes it (checkentry), as bits.
    pub(super) fn hooks(&self) -> u8 {
        match self {
            Match::Addrtype(part) => part.hooks(),
            Match::Physdev(part) => part.hooks(),
            Match::Rpfilter(_) => 1,
            _ => EVERYWHERE,
        }
    }

    /// Does it attach connection tracking?
    pub(super) fn tracks(&self) -> bool {
        matches!(self, Match::Conntrack(_) | Match::State(_) | Match::Connmark(_))
    }
}

/// An option that must be there is missing.
pub(super) fn missing(context: &Context<'_>, what: &str) -> Refusal {
    Refusal::syntax(context.column, format!("{what} must be specified"))
}

impl objects::Comment {
    fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        if opt.name != "comment" {
            return Ok(Known::No);
        }
        let word = opt.plain_value()?;
        if word.text.len() > 255 {
            return Err(Refusal::unmodelled(word.column, "a comment of more than 255 bytes"));
        }
        self.text = Some(Arc::from(word.text));
        Ok(Known::Yes)
    }

    fn check(&self, context: &Context<'_>) -> Taken<()> {
        self.text
            .is_some()
            .then_some(())
            .ok_or_else(|| missing(context, "comment: option \"--comment\""))
    }

    fn print(&self, out: &mut String) {
        out.push_str(" --comment");
        print_string(out, self.text.as_deref().unwrap_or_default());
    }
}
