//! Which of a host's addresses of IPv6 a packet gets as its source: the rules of RFC 6724 in the order of Linux.
//! Facts from net/ipv6/addrconf.c (ipv6_get_saddr_eval, ipv6_dev_get_saddr) and net/ipv6/addrlabel.c.
//! It must never know routes. Tests: below, netlab/scenarios/kernel/sources.txt.

use crate::net::Link;
use std::net::{IpAddr, Ipv6Addr};

/// What speaks for a source: it is the destination; its scope; it is not deprecated; it is of the link; its label; how much of the prefix is common.
type Score = (bool, i32, bool, bool, bool, u32);

/// The source a packet leaving by `link` towards `destination` gets.
pub(crate) fn choose(links: &[Link], link: u32, destination: Ipv6Addr) -> Option<Ipv6Addr> {
    let mut best: Option<(Score, Ipv6Addr)> = None;
    for owner in links {
        // An address that was added later stands before the older ones.
        for (address, prefix) in owner.addresses.iter().rev() {
            let IpAddr::V6(address) = *address else { continue };
            let preferred = !owner.hidden.contains(&address.into());
            let found = score((address, *prefix), (preferred, owner.index == link), destination);
            if best.is_none_or(|(known, _)| found > known) {
                best = Some((found, address));
            }
        }
    }
    best.map(|(_, address)| address)
}

fn score(
    (address, prefix): (Ipv6Addr, u8),
    (preferred, of_link): (bool, bool),
    destination: Ipv6Addr,
) -> Score {
    let (own, wanted) = (scope(address), scope(destination));
    // The smallest scope that reaches; what does not reach comes behind all that do.
    let scope = if own >= wanted { -own } else { own - 128 };
    let common = (u128::from(address) ^ u128::from(destination)).leading_zeros();
    (
        address == destination,
        scope,
        preferred,
        of_link,
        label(address) == label(destination),
        common.min(u32::from(prefix)),
    )
}

/// `ipv6_addr_src_scope`: link-local (also ::1) 2, site-local 5, global 14; of groups their own.
fn scope(address: Ipv6Addr) -> i32 {
    let first = address.segments()[0];
    if address.is_multicast() {
        i32::from(first & 0xf)
    } else if address.is_loopback() || first & 0xffc0 == 0xfe80 {
        2
    } else if first & 0xffc0 == 0xfec0 {
        5
    } else {
        14
    }
}

/// The default policy table (ip6addrlbl_init_table), longest prefix first.
const LABELS: [(u128, u32, u32); 9] = [
    (1, 128, 0),
    (0xffff << 32, 96, 4),
    (0, 96, 3),
    (0x2001_0000 << 96, 32, 6),
    (0x2001_0010 << 96, 28, 7),
    (0x2002 << 112, 16, 2),
    (0x3ffe << 112, 16, 12),
    (0xfec0 << 112, 10, 11),
    (0xfc00 << 112, 7, 5),
];

fn label(address: Ipv6Addr) -> u32 {
    let bits = u128::from(address);
    let fits = |(network, prefix, _): &&(u128, u32, u32)| (bits ^ network) >> (128 - prefix) == 0;
    LABELS.iter().find(fits).map_or(1, |(.., label)| *label)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chosen(destination: &str) -> String {
        let link = |index, addresses: &[&str]| Link {
            index,
            name: "".into(),
            kind: "",
            addresses: addresses.iter().map(|a| (a.parse().unwrap(), 64)).collect(),
            hidden: vec!["fd00:1::8".parse().unwrap()],
        };
        let links =
            [link(1, &["::1"]), link(2, &["fe80::2", "fd00::2", "2001:db8::2", "fd00:1::8"])];
        choose(&links, 2, destination.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn sources_are_chosen_by_scope_label_and_prefix() {
        assert_eq!(chosen("fe80::9"), "fe80::2");
        assert_eq!(chosen("fd00:1::9"), "fd00::2");
        assert_eq!(chosen("2600::9"), "2001:db8::2");
        assert_eq!(chosen("::1"), "::1");
        assert_eq!(chosen("fd00::2"), "fd00::2");
        // A deprecated one only where it is asked for itself.
        assert_eq!(chosen("fd00:1::8"), "fd00:1::8");
    }
}
