//! The expressions of rules as iptables-nft writes them: `match`, `target`, `counter`, and the native
//! ones in exactly the form in which it recognises them when it lists rules.
//!
//! Knows nothing of chains or Services. Source: iptables 1.8.9, `iptables/nft-shared.c` and `nft.c`.
//! Tests: `benches/tests/iptables_compat.rs`, against the tool.

use ipnet::IpNet;

use super::expr::{Compare, Rule};
use super::octets;
use super::read::Attributes;
use super::xt::Extension;
use crate::model::Family;

/// Which address of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

impl Rule {
    /// Asks an iptables match.
    pub fn xt_match(self, extension: &Extension) -> Rule {
        self.extension("match", extension)
    }

    /// Ends in an iptables target.
    pub fn xt_target(self, extension: &Extension) -> Rule {
        self.extension("target", extension)
    }

    fn extension(self, kind: &str, extension: &Extension) -> Rule {
        self.expression(kind, |w| {
            w.text(1, extension.name);
            w.be32(2, extension.revision);
            w.bytes(3, &extension.bytes);
        })
    }

    /// Counts packets and bytes, from zero.
    pub fn counter(self) -> Rule {
        self.expression("counter", |w| {
            w.be64(1, 0);
            w.be64(2, 0);
        })
    }

    /// `-i`: a name with its closing zero, or, with a `+` at its end, the letters before it.
    pub fn link(self, how: Compare, name: &str) -> Rule {
        let letters = match name.strip_suffix('+') {
            Some(prefix) => prefix.as_bytes().to_vec(),
            None => [name.as_bytes(), &[0]].concat(),
        };
        self.input_link().compare(how, &letters)
    }

    /// `-s` or `-d`: masks of whole bytes compare only those, others the whole address.
    pub fn network(self, (family, end): (Family, End), how: Compare, net: IpNet) -> Rule {
        let len = family.address_len();
        let first = match family {
            Family::V4 => 12,
            Family::V6 => 8,
        };
        let offset = first + if end == End::Source { 0 } else { len };
        let address = octets(net.network());
        let bits = usize::from(net.prefix_len());
        let load = |rule: Rule, len: usize| rule.payload(NETWORK, (offset as u32, len as u32), 0);
        if bits > 0 && bits.is_multiple_of(8) {
            return load(self, bits / 8).compare(how, &address[..bits / 8]);
        }
        load(self, len).bitwise(&octets(net.netmask()), &vec![0; len]).compare(how, &address)
    }

    /// `-m tcp` or `-m udp` with `--dport`.
    pub fn destination_port(self, port: u16) -> Rule {
        self.payload(TRANSPORT, (2, 2), 0).compare(Compare::Equal, &port.to_be_bytes())
    }

    /// `-m mark --mark value/mask`.
    pub fn mark(self, how: Compare, (value, mask): (u32, u32)) -> Rule {
        let rule = self.packet_mark();
        let rule = match mask {
            u32::MAX => rule,
            mask => rule.bitwise(&mask.to_ne_bytes(), &[0; 4]),
        };
        rule.compare(how, &value.to_ne_bytes())
    }
}

/// What of a rule's expressions says what it does, in one form for what is sent and for what the
/// kernel lists: attributes in the order of their numbers, nothing that has a default, no counts.
pub fn essence(expressions: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(expressions.len());
    for (_, expression) in Attributes::new(expressions) {
        let expression = Attributes::new(expression);
        let name = expression.get(1).unwrap_or_default();
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        put(&mut out, name);
        let body = Attributes::new(expression.get(2).unwrap_or_default());
        for number in attributes_of(name) {
            let value = body.get(*number).unwrap_or_default();
            match holds_attributes(name, *number) {
                true => put_all(&mut out, value),
                false => put(&mut out, value),
            }
        }
    }
    out
}

fn put(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    out.extend_from_slice(value);
}

/// Attributes within attributes, which the kernel marks as such where it likes: a value, or a
/// verdict with its chain.
fn put_all(out: &mut Vec<u8>, nest: &[u8]) {
    const VERDICT: u16 = 2;
    for (number, value) in Attributes::new(nest) {
        out.push(number as u8);
        match number {
            VERDICT => Attributes::new(value).for_each(|(_, part)| put(out, part)),
            _ => put(out, value),
        }
    }
}

fn holds_attributes(name: &[u8], number: u16) -> bool {
    matches!((name, number), (b"cmp", 3) | (b"bitwise", 4 | 5) | (b"immediate", 2))
}

/// The attributes of an expression that say what it does.
fn attributes_of(name: &[u8]) -> &'static [u16] {
    match name {
        b"counter" => &[],
        b"match" | b"target" => &[1, 2, 3],
        b"payload" => &[1, 2, 3, 4],
        b"meta" => &[1, 2, 3],
        b"cmp" => &[1, 2, 3],
        b"bitwise" => &[1, 2, 3, 4, 5],
        b"immediate" => &[1, 2],
        _ => &[1, 2, 3, 4, 5, 6, 7, 8],
    }
}
