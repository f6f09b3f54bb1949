//! The ground both kernels lay: links, addresses and routes of the node, and what a case adds.
//! Knows neither kernel. Tests: `super::tests`.

use std::net::IpAddr;

use super::rule::Words;

/// The node's links; behind each lies a world of its own.
pub(super) const LINKS: &[&str] = &["l0", "l1", "l2"];

/// The node's addresses. Behind link N the neighbour is 198.18.N.2 and fd5a:N::2.
pub(super) const ADDRESSES: &[&str] = &[
    "address l0 198.18.0.1/24",
    "address l1 198.18.1.1/24",
    "address l2 198.18.2.1/24",
    "address l0 fd5a:0::1/64",
    "address l1 fd5a:1::1/64",
    "address l2 fd5a:2::1/64",
    "address lo 192.0.2.1/32",
    "address lo 2001:db8::1/128",
];

/// The node's routes: clients behind l0, endpoints behind l1 and l2, everything else behind l0.
pub(super) const ROUTES: &[&str] = &[
    "route 203.0.113.0/24 via 198.18.0.2 l0",
    "route 10.1.0.0/16 via 198.18.1.2 l1",
    "route 10.2.0.0/16 via 198.18.2.2 l2",
    "route 0.0.0.0/0 via 198.18.0.2 l0",
    "route 2600::/32 via fd5a:0::2 l0",
    "route fd10:1::/32 via fd5a:1::2 l1",
    "route fd10:2::/32 via fd5a:2::2 l2",
    "route ::/0 via fd5a:0::2 l0",
];

/// One line of the ground.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    /// An address and its prefix on a link.
    Address(String, IpAddr, u8),
    /// A network, its prefix, a gateway and a link.
    Route(IpAddr, u8, IpAddr, String),
    /// A sysctl by its short name.
    Sysctl(String, u32),
}

impl Line {
    /// Reads a line.
    pub(super) fn read(text: &str) -> Result<Line, String> {
        let wrong = || format!("\"{text}\" is no line of the ground");
        let network = |word: &str| -> Result<(IpAddr, u8), String> {
            let (address, prefix) = word.split_once('/').ok_or_else(wrong)?;
            Ok((address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?))
        };
        let mut words = Words::new(text);
        match words.need("a line")? {
            "address" => {
                let link = words.need("a link")?.to_owned();
                let (address, prefix) = network(words.need("an address")?)?;
                Ok(Line::Address(link, address, prefix))
            }
            "route" => {
                let (address, prefix) = network(words.need("a network")?)?;
                words.take("via");
                let gateway = words.need("a gateway")?.parse().map_err(|_| wrong())?;
                Ok(Line::Route(address, prefix, gateway, words.need("a link")?.to_owned()))
            }
            "sysctl" => {
                let name = words.need("a name")?.to_owned();
                Ok(Line::Sysctl(name, super::field::number(words.need("a value")?)?))
            }
            _ => Err(wrong()),
        }
    }
}
