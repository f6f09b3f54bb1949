//! Elements as text: addresses, networks, ranges, protocols and ports, each type's form, spread into what the set will hold.
//! The words of refusals are those of ipset 7.17. It must never know what a set holds. Tests: tests/ipset.rs.

use super::error::Refused;
use super::set::{Key, Kind};
use crate::net::masked;
use std::net::{IpAddr, Ipv4Addr};

/// The most elements one line may stand for (IPSET_MAX_RANGE of the kernel is 2^20).
const MOST: u64 = 1 << 20;

/// Protocols by the names of /etc/protocols that ipset reads and prints.
const PROTOCOLS: [(&str, u8); 7] = [
    ("tcp", 6),
    ("udp", 17),
    ("sctp", 132),
    ("udplite", 136),
    ("icmp", 1),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
];

pub(super) fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Everything the text stands for, in the order in which it is added.
pub(super) fn parse(text: &str, kind: Kind, ipv6: bool) -> Result<Vec<Key>, Refused> {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > kind.dimensions() {
        let words = ["none", "one", "two"];
        return Err(Refused::syntax(format_args!(
            "{} elem separators in {text}, but settype {} supports {}.",
            ["No", "One", "Two", "Three"].get(parts.len() - 1).unwrap_or(&"Many"),
            kind.name(),
            words.get(kind.dimensions() - 1).unwrap_or(&"none"),
        )));
    }
    if parts.len() < kind.dimensions() {
        let which = if parts.len() == 1 { "Second" } else { "Third" };
        return Err(Refused::syntax(format_args!("{which} element is missing from {text}.")));
    }
    if kind == Kind::BitmapPort {
        let (_, from, to) = ports(parts[0])?;
        let key = |port| Key { first: None, port: Some((0, port)), last: None };
        return Ok((from..=to).map(key).collect());
    }
    let firsts = match kind {
        Kind::HashNet => vec![network(parts[0], ipv6)?],
        _ => addresses(parts[0], ipv6)?,
    };
    let ports = parts.get(1).map(|part| ports(part)).transpose()?;
    let last = match (kind, parts.get(2)) {
        (Kind::HashIpPortNet, Some(part)) => Some(network(part, ipv6)?),
        (_, Some(part)) => Some(single(part, ipv6)?),
        (_, None) => None,
    };
    spread(&firsts, ports, last)
}

fn spread(
    firsts: &[(IpAddr, u8)],
    ports: Option<(u8, u16, u16)>,
    last: Option<(IpAddr, u8)>,
) -> Result<Vec<Key>, Refused> {
    let Some((protocol, from, to)) = ports else {
        return Ok(firsts
            .iter()
            .map(|&first| Key { first: Some(first), port: None, last })
            .collect());
    };
    if firsts.len() as u64 * u64::from(to - from + 1) > MOST {
        return Err(too_many());
    }
    let key = |first, port| Key { first: Some(first), port: Some((protocol, port)), last };
    Ok(firsts.iter().flat_map(|&first| (from..=to).map(move |port| key(first, port))).collect())
}

fn too_many() -> Refused {
    Refused::element("Kernel error received: Numerical result out of range")
}

fn address(text: &str, ipv6: bool) -> Result<IpAddr, Refused> {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let parsed: Option<IpAddr> = text.parse().ok();
    parsed.filter(|address| address.is_ipv6() == ipv6).ok_or_else(|| {
        Refused::syntax(format_args!("cannot parse {text}: resolving to {family} address failed"))
    })
}

fn width(ipv6: bool) -> u8 {
    if ipv6 { 128 } else { 32 }
}

fn single(text: &str, ipv6: bool) -> Result<(IpAddr, u8), Refused> {
    if text.contains(['/', '-']) {
        let what = format!("plain IP address must be supplied: {text}");
        return Err(if ipv6 { Refused::syntax(what) } else { Refused::not_modelled(what) });
    }
    Ok((address(text, ipv6)?, width(ipv6)))
}

fn network(text: &str, ipv6: bool) -> Result<(IpAddr, u8), Refused> {
    if text.contains('-') {
        return Err(Refused::not_modelled(format_args!(
            "a range where a network is stored: {text}"
        )));
    }
    let Some((network, length)) = text.split_once('/') else { return single(text, ipv6) };
    let length = number(length, 0, u64::from(width(ipv6)))? as u8;
    Ok((masked(address(network, ipv6)?, length), length))
}

/// An address, or (IPv4) all addresses of a network or range.
fn addresses(text: &str, ipv6: bool) -> Result<Vec<(IpAddr, u8)>, Refused> {
    let (from, to) = if let Some((from, to)) = text.split_once('-').filter(|_| !ipv6) {
        (address(from, false)?, address(to, false)?)
    } else if text.contains('/') && !ipv6 {
        let (first, length) = network(text, false)?;
        let last = u32_of(first) | u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        (first, Ipv4Addr::from(last).into())
    } else {
        return Ok(vec![single(text, ipv6)?]);
    };
    let (low, high) = (u32_of(from).min(u32_of(to)), u32_of(from).max(u32_of(to)));
    if u64::from(high - low) >= MOST {
        return Err(too_many());
    }
    Ok((low..=high).map(|bits| (Ipv4Addr::from(bits).into(), 32)).collect())
}

fn u32_of(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(_) => 0,
    }
}

/// Protocol, first and last port; TCP where no protocol is named.
fn ports(text: &str) -> Result<(u8, u16, u16), Refused> {
    let (protocol, rest) = match text.split_once(':') {
        Some((name, rest)) => (protocol_number(name)?, rest),
        None => (6, text),
    };
    if matches!(protocol, 1 | 58) {
        let port = icmp(protocol, rest)?;
        return Ok((protocol, port, port));
    }
    let (from, to) = rest.split_once('-').unwrap_or((rest, rest));
    let (from, to) = (number(from, 0, 65_535)? as u16, number(to, 0, 65_535)? as u16);
    Ok((protocol, from.min(to), from.max(to)))
}

fn protocol_number(name: &str) -> Result<u8, Refused> {
    if let Some((_, number)) = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
    {
        return Ok(*number);
    }
    name.parse().map_err(|_| Refused::syntax(format_args!("cannot parse '{name}' as a protocol")))
}

fn icmp(protocol: u8, text: &str) -> Result<u16, Refused> {
    let (request, reply) = if protocol == 1 { (8, 0) } else { (128, 129) };
    let (kind, code) = match text {
        "echo-request" | "ping" => (request, 0),
        "echo-reply" | "pong" => (reply, 0),
        _ => {
            let (kind, code) = text.split_once('/').ok_or_else(|| {
                Refused::not_modelled(format_args!("names of ICMP types: {text}"))
            })?;
            (number(kind, 0, 255)? as u8, number(code, 0, 255)? as u8)
        }
    };
    Ok(u16::from_be_bytes([kind, code]))
}

/// A decimal number in bounds.
pub(super) fn number(text: &str, low: u64, high: u64) -> Result<u64, Refused> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = text.parse::<u64>().ok().filter(|_| digits);
    let value = match parsed {
        Some(value) => value,
        None if digits => u64::MAX,
        None => return Err(Refused::syntax(format_args!("'{text}' is invalid as number"))),
    };
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(Refused::syntax(format_args!("'{text}' is out of range {low}-{high}")))
}
