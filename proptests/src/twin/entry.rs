//! Entries of conntrack and connections of IPVS as text, the same from both kernels.
//! Knows neither kernel. Tests: below, `super::tests`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sim::conntrack::status;
use sim::packet::protocol;

/// What is compared of a connection.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) protocol: u8,
    pub(super) state: String,
    pub(super) original: String,
    pub(super) reply: String,
    pub(super) mark: u32,
    pub(super) status: u32,
    pub(super) timeout: u64,
}

/// The entry as text; its timeout rounded up to ten seconds, since a run takes time.
pub(super) fn text(entry: &Entry) -> String {
    let protocol = match entry.protocol {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::SCTP => "sctp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmp6",
        _ => "other",
    };
    let Entry { state, original, reply, mark, .. } = entry;
    let timeout = entry.timeout.div_ceil(10) * 10;
    let mut text =
        format!("{protocol} {state} {original} reply {reply} mark {mark:#x} timeout {timeout}");
    let named = [
        (status::SEEN_REPLY, " replied"),
        (status::ASSURED, " assured"),
        (status::SRC_NAT, " snat"),
        (status::DST_NAT, " dnat"),
    ];
    for (_, name) in named.iter().filter(|(bit, _)| entry.status & bit != 0) {
        text.push_str(name);
    }
    text
}

/// What is compared of a connection of IPVS, or of the template of a client that stays.
#[derive(Debug, PartialEq)]
pub(super) struct IpvsEntry {
    pub(super) protocol: u8,
    pub(super) client: SocketAddr,
    pub(super) virt: SocketAddr,
    pub(super) real: SocketAddr,
    pub(super) state: String,
}

/// All of them on one line, in an order of their own.
pub(super) fn ipvs(entries: impl Iterator<Item = IpvsEntry>) -> String {
    let mut lines: Vec<String> = entries
        .map(|IpvsEntry { protocol, client, virt, real, state }| {
            let name = match protocol {
                protocol::TCP => "tcp",
                protocol::UDP => "udp",
                protocol::SCTP => "sctp",
                _ => "other",
            };
            format!("{name} {client} > {virt} > {real} {state}")
        })
        .collect();
    lines.sort();
    if lines.is_empty() { "none".to_owned() } else { lines.join("; ") }
}

/// A line of `/proc/net/ip_vs_conn` (`ip_vs_conn_seq_show`): addresses and ports in hexadecimal digits.
pub(super) fn ipvs_line(line: &str) -> Option<IpvsEntry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, from, from_port, to, to_port, real, real_port, state, ..] = words[..] else {
        return None;
    };
    let protocol = match name {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        "SCTP" => protocol::SCTP,
        "IP" => 0,
        _ => return None,
    };
    let end = |address: &str, port: &str| {
        let four = || u32::from_str_radix(address, 16).ok().map(|n| Ipv4Addr::from(n).into());
        let address: IpAddr = address.parse().ok().or_else(four)?;
        Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
    };
    Some(IpvsEntry {
        protocol,
        client: end(from, from_port)?,
        virt: end(to, to_port)?,
        real: end(real, real_port)?,
        state: state.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_linux_is_read() {
        let line = "UDP 0A000002 A411 0A600001 0035 0A01000D 0035 UDP              299";
        let entries = ["Pro FromIP", line].into_iter().filter_map(ipvs_line);
        assert_eq!(ipvs(entries), "udp 10.0.0.2:42001 > 10.96.0.1:53 > 10.1.0.13:53 UDP");
    }
}
