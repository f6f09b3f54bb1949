//! Fields of packets, connections and keys in the language of `twin`: their names, how a rule loads
//! them, how their values are written. Knows expressions of nf_tables, no rule and no packet.
//! Tests: `super::tests`.

use std::net::IpAddr;

use kube_proxy::netlink::write::Writer;

/// How a value of a type is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address of IPv4.
    Ip4,
    /// An address of IPv6.
    Ip6,
    /// A number of so many bytes in network order.
    Net(usize),
    /// A number of four bytes in the order of the host.
    Host,
    /// The name of a link.
    Name,
}

impl Kind {
    /// The type of a key's or value's field by its name.
    pub fn named(name: &str) -> Result<Kind, String> {
        Ok(match name {
            "ip4" => Kind::Ip4,
            "ip6" => Kind::Ip6,
            "port" => Kind::Net(2),
            "proto" | "byte" => Kind::Net(1),
            "mark" | "num" => Kind::Host,
            "ifname" => Kind::Name,
            _ => return Err(format!("no type \"{name}\"")),
        })
    }

    /// nft's number of the type (`include/datatype.h` of nftables); the kernel does not read it.
    pub fn number(self) -> u32 {
        match self {
            Kind::Ip4 => 7,
            Kind::Ip6 => 8,
            Kind::Net(2) => 13,
            Kind::Net(_) => 12,
            Kind::Host => 19,
            Kind::Name => 41,
        }
    }

    /// Bytes of a value that stands alone.
    pub fn length(self) -> usize {
        match self {
            Kind::Ip4 | Kind::Host => 4,
            Kind::Ip6 | Kind::Name => 16,
            Kind::Net(len) => len,
        }
    }

    /// A value of this type.
    pub fn value(self, text: &str) -> Result<Vec<u8>, String> {
        let wrong = || format!("\"{text}\" is no value of {self:?}");
        match self {
            Kind::Ip4 | Kind::Ip6 => match text.parse().map_err(|_| wrong())? {
                IpAddr::V4(a) if self == Kind::Ip4 => Ok(a.octets().to_vec()),
                IpAddr::V6(a) if self == Kind::Ip6 => Ok(a.octets().to_vec()),
                _ => Err(wrong()),
            },
            Kind::Net(len) => Ok(number(text)?.to_be_bytes()[4 - len..].to_vec()),
            Kind::Host => Ok(number(text)?.to_ne_bytes().to_vec()),
            Kind::Name => {
                let mut bytes = vec![0; 16];
                let name = text.as_bytes();
                bytes
                    .get_mut(..name.len().min(15))
                    .ok_or_else(wrong)?
                    .copy_from_slice(name.get(..name.len().min(15)).ok_or_else(wrong)?);
                Ok(bytes)
            }
        }
    }
}

/// Numbers, and the words for some: protocols, bits of `ct state` and `ct status`, families.
pub fn number(text: &str) -> Result<u32, String> {
    const WORDS: &[(&str, u32)] = &[
        ("icmp", 1),
        ("tcp", 6),
        ("udp", 17),
        ("icmp6", 58),
        ("sctp", 132),
        ("ipv4", 2),
        ("ipv6", 10),
        ("invalid", 1),
        ("established", 2),
        ("related", 4),
        ("new", 8),
        ("untracked", 64),
        ("seen-reply", 2),
        ("assured", 4),
        ("confirmed", 8),
        ("snat", 16),
        ("dnat", 32),
        ("unicast", 1),
        ("local", 2),
        ("broadcast", 3),
        ("multicast", 5),
    ];
    if text.contains('|') {
        return text.split('|').try_fold(0, |sum, part| Ok(sum | number(part)?));
    }
    if let Some((_, value)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let read = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    read.map_err(|_| format!("\"{text}\" is no number"))
}

/// The number of the register that begins at a word.
pub fn register(word: usize) -> u32 {
    8 + word as u32
}

/// Loads a field at a word of the registers: `NFTA_EXPR_NAME`, its data and the value's type.
pub fn load(name: &str, word: usize) -> Result<(&'static str, Writer, Kind), String> {
    let (expression, numbers, kind): (_, Vec<(u16, u32)>, _) = match name {
        "saddr4" => ("payload", payload(1, 12, 4), Kind::Ip4),
        "daddr4" => ("payload", payload(1, 16, 4), Kind::Ip4),
        "saddr6" => ("payload", payload(1, 8, 16), Kind::Ip6),
        "daddr6" => ("payload", payload(1, 24, 16), Kind::Ip6),
        "ttl4" => ("payload", payload(1, 8, 1), Kind::Net(1)),
        "length4" => ("payload", payload(1, 2, 2), Kind::Net(2)),
        "sport" => ("payload", payload(2, 0, 2), Kind::Net(2)),
        "dport" => ("payload", payload(2, 2, 2), Kind::Net(2)),
        "flags" => ("payload", payload(2, 13, 1), Kind::Net(1)),
        "icmp.type" => ("payload", payload(2, 0, 1), Kind::Net(1)),
        "length" => ("meta", vec![(2, 0)], Kind::Host),
        "priority" => ("meta", vec![(2, 2)], Kind::Host),
        "mark" => ("meta", vec![(2, 3)], Kind::Host),
        "iifname" => ("meta", vec![(2, 6)], Kind::Name),
        "oifname" => ("meta", vec![(2, 7)], Kind::Name),
        "nfproto" => ("meta", vec![(2, 15)], Kind::Net(1)),
        "proto" => ("meta", vec![(2, 16)], Kind::Net(1)),
        "pkttype" => ("meta", vec![(2, 19)], Kind::Net(1)),
        "ct.state" => ("ct", vec![(2, 0)], Kind::Host),
        "ct.direction" => ("ct", vec![(2, 1)], Kind::Net(1)),
        "ct.status" => ("ct", vec![(2, 2)], Kind::Host),
        "ct.mark" => ("ct", vec![(2, 3)], Kind::Host),
        "fib.saddr.type" => ("fib", vec![(3, 1), (2, 3)], Kind::Host),
        "fib.daddr.type" => ("fib", vec![(3, 2), (2, 3)], Kind::Host),
        "fib.daddr.iif.type" => ("fib", vec![(3, 2 | 8), (2, 3)], Kind::Host),
        "fib.saddr.iif.oif" => ("fib", vec![(3, 1 | 8), (2, 1)], Kind::Host),
        _ => return generated(name, word),
    };
    Ok((expression, with_register(&numbers, 1, word), kind))
}

/// Fields with a parameter in their names, and those of a connection's directions.
fn generated(name: &str, word: usize) -> Result<(&'static str, Writer, Kind), String> {
    if let Some((how, modulus)) = name.strip_prefix("numgen.").and_then(|n| n.split_once('/')) {
        let how = u32::from(how == "random");
        let numbers = [(2, number(modulus)?), (3, how), (4, 0)];
        return Ok(("numgen", with_register(&numbers, 1, word), Kind::Host));
    }
    let (direction, key) = match name.split_once('.') {
        Some(("orig", key)) => (0, key),
        Some(("back", key)) => (1, key),
        _ => return Err(format!("no field \"{name}\"")),
    };
    let (number, kind) = match key {
        "saddr4" => (19, Kind::Ip4),
        "daddr4" => (20, Kind::Ip4),
        "saddr6" => (21, Kind::Ip6),
        "daddr6" => (22, Kind::Ip6),
        "sport" => (11, Kind::Net(2)),
        "dport" => (12, Kind::Net(2)),
        "proto" => (10, Kind::Net(1)),
        _ => return Err(format!("no field \"{name}\"")),
    };
    let mut writer = with_register(&[(2, number)], 1, word);
    writer.bytes(3, &[direction]);
    Ok(("ct", writer, kind))
}

fn payload(base: u32, offset: u32, len: u32) -> Vec<(u16, u32)> {
    vec![(2, base), (3, offset), (4, len)]
}

fn with_register(numbers: &[(u16, u32)], attribute: u16, word: usize) -> Writer {
    let mut writer = Writer::new();
    writer.be32(attribute, register(word));
    numbers.iter().for_each(|(number, value)| writer.be32(*number, *value));
    writer
}
