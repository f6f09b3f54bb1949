//! What every rule may ask of a packet without a match: addresses, links, protocol. Parsed, printed, tried.
//! Facts from iptables/xshared.c and ip_packet_match (net/ipv4/netfilter/ip_tables.c).
//! It must never know matches, targets or chains. Tests: tests/xtables_texts.rs, tests/xtables_packets.rs.

use super::XtFamily;
use super::error::{Refusal, Taken};
use super::words::{Word, print_not};
use crate::packet::Packet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A network, possibly inverted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) not: bool,
    pub(super) address: IpAddr,
    pub(super) mask: IpAddr,
}

impl Network {
    pub(super) fn parse(text: &str, at: &Word, family: XtFamily) -> Taken<Network> {
        let (address, mask) =
            text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
        let wrong = || {
            Refusal::syntax(
                at.column,
                format!("host/network `{text}' not found: expected an {} address", family.name()),
            )
        };
        let short = address.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && !address.is_empty();
        let address: IpAddr = match address.parse() {
            Ok(address) => address,
            Err(_) if short => return Err(at.unmodelled("an address of inet_aton ")),
            Err(_) => return Err(wrong()),
        };
        if address.is_ipv6() != (family == XtFamily::V6) {
            return Err(wrong());
        }
        let wrong = || {
            Refusal::syntax(
                at.column,
                format!("invalid mask `{}' specified", mask.unwrap_or_default()),
            )
        };
        let mask = match mask {
            None => prefix_mask(family, if family == XtFamily::V6 { 128 } else { 32 }),
            Some(mask) => match mask.parse::<u8>() {
                Ok(bits) => prefix_mask(family, bits),
                Err(_) => {
                    mask.parse::<IpAddr>().ok().filter(|mask| mask.is_ipv6() == address.is_ipv6())
                }
            },
        };
        let mask = mask.ok_or_else(wrong)?;
        Ok(Network { not: false, address: and(address, mask), mask })
    }

    #[inline]
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let inside = match (address, self.address, self.mask) {
            (IpAddr::V4(one), IpAddr::V4(two), IpAddr::V4(mask)) => {
                u32::from(one) & u32::from(mask) == u32::from(two)
            }
            (IpAddr::V6(one), IpAddr::V6(two), IpAddr::V6(mask)) => {
                u128::from(one) & u128::from(mask) == u128::from(two)
            }
            _ => false,
        };
        inside != self.not
    }

    fn is_all(&self) -> bool {
        self.mask.is_unspecified()
    }

    /// The prefix length, where the mask is one.
    pub(super) fn prefix(&self) -> Option<u32> {
        let (ones, zeros) = match self.mask {
            IpAddr::V4(mask) => (u32::from(mask).leading_ones(), u32::from(mask).trailing_zeros()),
            IpAddr::V6(mask) => {
                (u128::from(mask).leading_ones(), u128::from(mask).trailing_zeros())
            }
        };
        (ones + zeros == if self.mask.is_ipv4() { 32 } else { 128 }).then_some(ones)
    }

    pub(super) fn print(&self, out: &mut String, option: &str) {
        print_not(out, self.not);
        let _ = match self.prefix() {
            Some(prefix) => write!(out, " {option} {}/{prefix}", self.address),
            None => write!(out, " {option} {}/{}", self.address, self.mask),
        };
    }
}

/// The mask of a prefix length.
pub(super) fn prefix_mask(family: XtFamily, bits: u8) -> Option<IpAddr> {
    match (family, bits) {
        (XtFamily::V4, 0..=32) => {
            Some(Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into())
        }
        (XtFamily::V6, 0..=128) => {
            Some(Ipv6Addr::from(u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into())
        }
        _ => None,
    }
}

/// The bits of an address that a mask keeps.
pub(super) fn and(address: IpAddr, mask: IpAddr) -> IpAddr {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            Ipv4Addr::from(u32::from(address) & u32::from(mask)).into()
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            Ipv6Addr::from(u128::from(address) & u128::from(mask)).into()
        }
        _ => address,
    }
}

/// A link's name or, with a `+` behind it, the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkName {
    pub(super) not: bool,
    pub(super) name: Arc<str>,
}

impl LinkName {
    /// Nothing: `+` alone is any link.
    pub(super) fn parse(word: &Word, not: bool) -> Taken<Option<LinkName>> {
        match word.text.as_str() {
            "" => Err(Refusal::syntax(word.column, "Empty interface is likely to be undesired")),
            "+" if not => Err(Refusal::unmodelled(word.column, "`! … +', a link that is none")),
            "+" => Ok(None),
            name if name.len() > 15 => Err(Refusal::syntax(
                word.column,
                format!("interface name `{name}' must be shorter than IFNAMSIZ (15)"),
            )),
            name => Ok(Some(LinkName { not, name: name.into() })),
        }
    }

    #[inline]
    fn is(&self, name: &str) -> bool {
        let same = match self.name.strip_suffix('+') {
            Some(beginning) => name.starts_with(beginning),
            None => *self.name == *name,
        };
        same != self.not
    }

    pub(super) fn print(&self, out: &mut String, option: &str) {
        print_not(out, self.not);
        let _ = write!(out, " {option} {}", self.name);
    }
}

/// The names of /etc/protocols that are modelled.
const PROTOCOLS: &[(u8, &str)] = &[
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipencap"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (41, "ipv6"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (58, "icmpv6"),
    (89, "ospf"),
    (103, "pim"),
    (112, "vrrp"),
    (132, "sctp"),
    (136, "udplite"),
];

/// A protocol by number or name; zero is any.
pub(super) fn protocol(word: &Word) -> Taken<u8> {
    let text = word.text.to_ascii_lowercase();
    if matches!(text.as_str(), "all" | "ip" | "0") {
        return Ok(0);
    }
    let known = |number: u8| PROTOCOLS.iter().any(|(known, _)| *known == number);
    let named = PROTOCOLS.iter().find(|(_, name)| *name == text).map(|(number, _)| *number);
    match named.or_else(|| text.parse().ok()) {
        Some(number) if known(number) => Ok(number),
        Some(_) => Err(word.unmodelled("-p ")),
        None => Err(Refusal::syntax(
            word.column,
            format!("unknown protocol \"{}\" specified", word.text),
        )),
    }
}

/// The name of a protocol number.
pub(super) fn protocol_name(number: u8) -> &'static str {
    PROTOCOLS.iter().find(|(known, _)| *known == number).map_or("all", |(_, name)| name)
}

/// A rule's own conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) source: Option<Network>,
    pub(super) destination: Option<Network>,
    pub(super) in_link: Option<LinkName>,
    pub(super) out_link: Option<LinkName>,
    /// (inverted, number).
    pub(super) protocol: Option<(bool, u8)>,
}

impl Head {
    /// Does the packet fit, with the names of its links (empty: none)?
    #[inline]
    pub(super) fn fits(&self, packet: &Packet, links: (&str, &str)) -> bool {
        self.protocol.is_none_or(|(not, number)| (packet.protocol() == number) != not)
            && self.destination.as_ref().is_none_or(|network| network.holds(packet.dst))
            && self.source.as_ref().is_none_or(|network| network.holds(packet.src))
            && self.in_link.as_ref().is_none_or(|link| link.is(links.0))
            && self.out_link.as_ref().is_none_or(|link| link.is(links.1))
    }

    pub(super) fn print(&self, out: &mut String) {
        let networks = [(&self.source, "-s"), (&self.destination, "-d")];
        networks.into_iter().for_each(|(network, option)| {
            network.iter().for_each(|network| network.print(out, option))
        });
        let links = [(&self.in_link, "-i"), (&self.out_link, "-o")];
        links
            .into_iter()
            .for_each(|(link, option)| link.iter().for_each(|link| link.print(out, option)));
        if let Some((not, number)) = self.protocol {
            print_not(out, not);
            let _ = write!(out, " -p {}", protocol_name(number));
        }
    }

    /// Is it this protocol and no other?
    pub(super) fn is_protocol(&self, wanted: &[u8]) -> bool {
        self.protocol.is_some_and(|(not, number)| !not && wanted.contains(&number))
    }
}

/// The networks of `-s` or `-d`: a list makes a rule each. Nothing: every address.
pub(super) fn networks(word: &Word, not: bool, family: XtFamily) -> Taken<Vec<Option<Network>>> {
    let list: Vec<&str> = word.text.split(',').collect();
    if not && list.len() > 1 {
        return Err(Refusal::syntax(
            word.column,
            "! not allowed with multiple source or destination IP addresses",
        ));
    }
    let one = |text: &&str| {
        let network = Network { not, ..Network::parse(text, word, family)? };
        match (network.is_all(), not) {
            (true, true) => {
                Err(Refusal::unmodelled(word.column, format!("`! {text}', which is no address")))
            }
            (true, false) => Ok(None),
            (false, _) => Ok(Some(network)),
        }
    };
    list.iter().map(one).collect()
}
