//! Sets as `ipset save` prints them: what a program reads back. Elements stand in their own order; the hash's seed and the size of its
//! buckets are left out. It must never change a set. Tests: tests/ipset.rs.

use super::Ipsets;
use super::element::protocol_name;
use super::set::{Beside, Key, Kind, Set};
use crate::conntrack::SECOND;
use std::fmt::Write;
use std::net::IpAddr;

impl Ipsets {
    /// All sets, or the one of a name, as text for `ipset restore`.
    pub(crate) fn save(&self, only: Option<&str>, now: u64) -> String {
        let mut text = String::new();
        for set in self.places.iter().flatten() {
            if only.is_none_or(|name| set.name == name) {
                print_set(&mut text, set, now);
            }
        }
        text
    }
}

fn print_set(text: &mut String, set: &Set, now: u64) {
    let _ = write!(text, "create {} {}", set.name, set.kind.name());
    if set.kind == Kind::BitmapPort {
        let _ = write!(text, " range {}-{}", set.range.0, set.range.1);
    } else {
        let family = if set.ipv6 { "inet6" } else { "inet" };
        let _ = write!(text, " family {family} hashsize {} maxelem {}", set.hashsize, set.maxelem);
    }
    if let Some(seconds) = set.timeout {
        let _ = write!(text, " timeout {seconds}");
    }
    let flags =
        [(set.counters, " counters"), (set.comment, " comment"), (set.forceadd, " forceadd")];
    flags.iter().filter(|(on, _)| *on).for_each(|(_, word)| text.push_str(word));
    text.push('\n');
    for (key, beside) in set.entries(now) {
        let _ = write!(text, "add {} {}", set.name, element(set.kind, key));
        print_beside(text, set, beside, now);
        text.push('\n');
    }
}

fn print_beside(text: &mut String, set: &Set, beside: &Beside, now: u64) {
    if set.timeout.is_some() {
        let left = beside.expires.map_or(0, |expires| expires.saturating_sub(now).div_ceil(SECOND));
        let _ = write!(text, " timeout {left}");
    }
    if beside.nomatch {
        text.push_str(" nomatch");
    }
    if set.counters {
        let _ = write!(text, " packets {} bytes {}", beside.packets, beside.bytes);
    }
    if let Some(comment) = &beside.comment {
        let _ = write!(text, " comment \"{comment}\"");
    }
}

fn element(kind: Kind, key: &Key) -> String {
    let mut parts = Vec::new();
    parts.extend(key.first.map(network));
    parts.extend(key.port.map(|(protocol, port)| match (kind, protocol) {
        (Kind::BitmapPort, _) => port.to_string(),
        (_, 1 | 58) => format!("{}:{}", protocol_name(protocol), icmp(protocol, port)),
        _ => format!("{}:{port}", protocol_name(protocol)),
    }));
    parts.extend(key.last.map(network));
    parts.join(",")
}

fn network((address, length): (IpAddr, u8)) -> String {
    match (address, length) {
        (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => address.to_string(),
        _ => format!("{address}/{length}"),
    }
}

fn icmp(protocol: u8, port: u16) -> String {
    let [kind, code] = port.to_be_bytes();
    match (protocol, kind, code) {
        (1, 8, 0) | (58, 128, 0) => "echo-request".into(),
        (1, 0, 0) | (58, 129, 0) => "echo-reply".into(),
        _ => format!("{kind}/{code}"),
    }
}
