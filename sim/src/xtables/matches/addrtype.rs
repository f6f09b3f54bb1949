//! `addrtype`: what an address is to this host. Facts from xt_addrtype.c, libxt_addrtype.c.
//! It must never know routes' next hops. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::{Context, EVERYWHERE, Known, Look};
use crate::xtables::error::{Refusal, Taken};
use crate::xtables::words::{Opt, print_not};
use std::fmt::Write as _;
use std::net::IpAddr;

/// The types by bit number (linux/netfilter/xt_addrtype.h), which is RTN_* of linux/rtnetlink.h.
pub(crate) const ADDRESS_TYPES: [&str; 12] = [
    "UNSPEC",
    "UNICAST",
    "LOCAL",
    "BROADCAST",
    "ANYCAST",
    "MULTICAST",
    "BLACKHOLE",
    "UNREACHABLE",
    "PROHIBIT",
    "THROW",
    "NAT",
    "XRESOLVE",
];
const UNICAST: u16 = 1 << 1;
const LOCAL: u16 = 1 << 2;
const MULTICAST: u16 = 1 << 5;
const UNREACHABLE: u16 = 1 << 7;

/// `-m addrtype`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::xtables) struct Addrtype {
    source: Option<(bool, u16)>,
    destination: Option<(bool, u16)>,
    by_in_link: bool,
    by_out_link: bool,
}

fn types(opt: &mut Opt<'_>) -> Taken<(bool, u16)> {
    let word = opt.value()?;
    let mut bits = 0;
    for name in word.text.split(',') {
        let found = ADDRESS_TYPES.iter().position(|known| known.eq_ignore_ascii_case(name));
        match found {
            Some(bit @ (1..=3 | 5 | 7)) => bits |= 1 << bit,
            Some(_) => {
                return Err(Refusal::unmodelled(word.column, format!("address type `{name}'")));
            }
            None => {
                return Err(Refusal::syntax(word.column, format!("addrtype: bad type \"{name}\"")));
            }
        }
    }
    Ok((opt.not, bits))
}

impl Addrtype {
    pub(super) fn option(&mut self, opt: &mut Opt<'_>) -> Taken<Known> {
        match opt.name {
            "src-type" => self.source = Some(types(opt)?),
            "dst-type" => self.destination = Some(types(opt)?),
            "limit-iface-in" => {
                opt.plain()?;
                self.by_in_link = true;
            }
            "limit-iface-out" => {
                opt.plain()?;
                self.by_out_link = true;
            }
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    pub(super) fn check(&self, context: &Context<'_>) -> Taken<()> {
        if self.source.is_none() && self.destination.is_none() {
            return Err(Refusal::syntax(
                context.column,
                "addrtype: you must specify --src-type or --dst-type",
            ));
        }
        if self.by_in_link && self.by_out_link {
            let detail = "addrtype: option \"--limit-iface-in\" cannot be used together with \"--limit-iface-out\".";
            return Err(Refusal::syntax(context.column, detail));
        }
        Ok(())
    }

    /// A link must be known where it is asked for.
    pub(super) fn hooks(&self) -> u8 {
        match (self.by_in_link, self.by_out_link) {
            (true, _) => 0b00111,
            (_, true) => 0b11100,
            _ => EVERYWHERE,
        }
    }

    pub(super) fn print(&self, out: &mut String) {
        for (wanted, option) in [(self.source, "--src-type"), (self.destination, "--dst-type")] {
            let Some((not, bits)) = wanted else { continue };
            print_not(out, not);
            let names: Vec<&str> =
                (0..12).filter(|bit| bits & 1 << bit != 0).map(|bit| ADDRESS_TYPES[bit]).collect();
            let _ = write!(out, " {option} {}", names.join(","));
        }
        out.push_str(if self.by_in_link { " --limit-iface-in" } else { "" });
        out.push_str(if self.by_out_link { " --limit-iface-out" } else { "" });
    }

    #[inline]
    pub(super) fn fits<S>(&self, look: &Look<'_, '_, S>) -> bool {
        let link = match (self.by_in_link, self.by_out_link) {
            (true, _) => look.skb.in_link,
            (_, true) => look.skb.out.map(|hop| hop.link),
            _ => None,
        };
        let is = |address: IpAddr, bits: u16| {
            let found = 1u16.checked_shl(look.env.net.address_type(address, link)).unwrap_or(0);
            if address.is_ipv4() { bits & found != 0 } else { is_of_six(address, bits, found) }
        };
        let packet = &look.skb.packet;
        self.source.is_none_or(|(not, bits)| is(packet.src, bits) != not)
            && self.destination.is_none_or(|(not, bits)| is(packet.dst, bits) != not)
    }
}

/// IPv6 looks at the address itself first, and at routes only for LOCAL and UNREACHABLE (match_type6).
fn is_of_six(address: IpAddr, bits: u16, found: u16) -> bool {
    if bits & MULTICAST != 0 && !address.is_multicast()
        || bits & UNICAST != 0 && address.is_multicast()
    {
        return false;
    }
    bits & (LOCAL | UNREACHABLE) == 0 || bits & found & (LOCAL | UNREACHABLE) != 0
}
