//! Keys, data, verdicts and comments in words, for journeys; and the Jenkins hash.
//! Types are the user's own numbers (nft's datatypes, six bits a field). It must never decide anything.
//! Tests: below and tests/journeys.rs.

use super::set::{Datum, SetDefinition, Verdict};
use super::store::Table;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The comment in userdata: a list of type, length, value; text ends with a zero.
pub(crate) fn comment(userdata: Option<&[u8]>, kind: u8) -> Option<String> {
    let mut rest = userdata?;
    while let [found, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *found == kind {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = &tail[usize::from(*length)..];
    }
    None
}

pub(crate) fn verdict(table: &Table, verdict: Verdict) -> String {
    let name = |slot: u32| table.chains.get(slot).map_or("?", |chain| &chain.name).to_owned();
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Continue => "continue".into(),
        Verdict::Break => "break".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(chain) => format!("jump {}", name(chain)),
        Verdict::Goto(chain) => format!("goto {}", name(chain)),
    }
}

pub(crate) fn key(definition: &SetDefinition, bytes: &[u8]) -> String {
    fields(definition.key_type, bytes)
}

pub(crate) fn datum(table: &Table, definition: &SetDefinition, datum: &Datum) -> String {
    match datum {
        Datum::None => "in the set".into(),
        Datum::Value(value) => fields(definition.data_type, value),
        Datum::Verdict(found) => verdict(table, *found),
    }
}

/// Prints the fields a type names; what it does not name is printed as bytes.
fn fields(kind: u32, bytes: &[u8]) -> String {
    let mut kinds = Vec::new();
    let mut left = kind;
    while left != 0 {
        kinds.push(left & 0x3f);
        left >>= 6;
    }
    let mut rest = bytes;
    let mut words = Vec::new();
    for kind in kinds.into_iter().rev() {
        let length = if kind == 8 || kind == 41 { 16 } else { 4 };
        let (field, tail) = rest.split_at(length.min(rest.len()));
        words.push(field_text(kind, field));
        rest = tail;
    }
    if !rest.is_empty() {
        words.push(rest.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    words.join(" . ")
}

fn field_text(kind: u32, field: &[u8]) -> String {
    let word = || u32::from_ne_bytes(field.try_into().unwrap_or([0; 4]));
    match (kind, field) {
        (7, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (8, bytes) if bytes.len() == 16 => {
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or([0; 16])).to_string()
        }
        (12, [protocol, ..]) => match protocol {
            1 => "icmp".into(),
            6 => "tcp".into(),
            17 => "udp".into(),
            58 => "icmpv6".into(),
            132 => "sctp".into(),
            other => other.to_string(),
        },
        (13, [high, low, ..]) => u16::from_be_bytes([*high, *low]).to_string(),
        (19, bytes) if bytes.len() == 4 => format!("{:#x}", word()),
        (4, bytes) if bytes.len() == 4 => word().to_string(),
        (41, bytes) => String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned(),
        (_, bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Bob Jenkins' lookup3 over bytes, as include/linux/jhash.h has it.
pub(crate) fn jhash(bytes: &[u8], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |part: &[u8], at: usize| {
        let byte = |index: usize| u32::from(part.get(at + index).copied().unwrap_or(0));
        byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
    };
    let mut rest = bytes;
    while rest.len() > 12 {
        a = a.wrapping_add(word(rest, 0));
        b = b.wrapping_add(word(rest, 4));
        c = c.wrapping_add(word(rest, 8));
        for roll in [4, 6, 8, 16, 19, 4] {
            // One step of the mix: subtract, fold in, add; then the three change places.
            a = a.wrapping_sub(c) ^ c.rotate_left(roll);
            c = c.wrapping_add(b);
            (a, b, c) = (b, c, a);
        }
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return c;
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 4));
    c = c.wrapping_add(word(rest, 8));
    for (turn, roll) in [14, 11, 25, 16, 4, 14, 24].into_iter().enumerate() {
        match turn % 3 {
            0 => c = (c ^ b).wrapping_sub(b.rotate_left(roll)),
            1 => a = (a ^ c).wrapping_sub(c.rotate_left(roll)),
            _ => b = (b ^ a).wrapping_sub(a.rotate_left(roll)),
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_found_behind_other_entries() {
        assert_eq!(comment(Some(&[1, 1, 9, 0, 3, b'h', b'i', 0]), 0).as_deref(), Some("hi"));
        assert_eq!(comment(Some(&[0, 9, 1]), 0), None);
    }

    /// What Linux 6.18 gave for `jhash … mod 65536` over ip daddr, daddr . udp dport, saddr . daddr . dport . protocol.
    #[test]
    fn jenkins_agrees_with_the_kernel() {
        let scaled = |bytes: &[u8], seed: u32| (u64::from(jhash(bytes, seed)) * 65536) >> 32;
        assert_eq!(scaled(&[10, 9, 0, 1], 0xdead_beef), 0xa463);
        assert_eq!(scaled(&[10, 9, 0, 1, 0, 7, 0, 0], 5), 0x3a69);
        assert_eq!(scaled(&[10, 9, 0, 1, 10, 9, 0, 1, 0, 7, 0, 0, 17, 0, 0, 0], 5), 0x5083);
    }
}
