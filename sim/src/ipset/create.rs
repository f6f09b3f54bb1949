//! The options of `create` and what may stand beside an element, as words. It must never know what a set holds.
//! Facts from ipset 7.17 (tests/fixtures/ipset) and include/uapi/linux/netfilter/ipset/ip_set.h. Tests: tests/ipset.rs.

use super::element::number;
use super::error::Refused;
use super::set::{Beside, Kind, Set};

const MOST_SECONDS: u64 = 2_147_483;
const LONGEST_NAME: usize = 31;
const LONGEST_COMMENT: usize = 255;
/// Types the kernel has and the simulator has not.
const OTHER_TYPES: [&str; 9] = [
    "bitmap:ip",
    "bitmap:ip,mac",
    "hash:mac",
    "hash:ip,mac",
    "hash:ip,mark",
    "hash:net,port",
    "hash:net,net",
    "hash:net,iface",
    "list:set",
];

/// Words of a line, with the option that is being read.
type Words<'w, 't> = &'w mut dyn Iterator<Item = &'t str>;

/// A name no longer than the kernel takes.
pub(super) fn name(text: &str) -> Result<&str, Refused> {
    if text.len() > LONGEST_NAME {
        return Err(Refused::syntax(format_args!(
            "setname '{text}' is longer than {LONGEST_NAME} characters"
        )));
    }
    Ok(text)
}

/// A new set from its name, its type and its options.
pub(super) fn set(named: &str, type_name: &str, words: Words<'_, '_>) -> Result<Set, Refused> {
    let named = name(named)?;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == type_name) else {
        return Err(if OTHER_TYPES.contains(&type_name) {
            Refused::not_modelled(format_args!("set type {type_name}"))
        } else {
            Refused::syntax(format_args!("typename '{type_name}' is unknown"))
        });
    };
    let mut set = Set::new(named, kind);
    let mut ranged = false;
    while let Some(word) = words.next() {
        ranged |= word == "range";
        option(&mut set, word, words)?;
    }
    if kind == Kind::BitmapPort && !ranged {
        return Err(Refused::usage("Mandatory option `range' is missing"));
    }
    Ok(set)
}

fn option(set: &mut Set, word: &str, words: Words<'_, '_>) -> Result<(), Refused> {
    let hash = set.kind != Kind::BitmapPort;
    match word {
        "timeout" => set.timeout = Some(number(argument(word, words)?, 0, MOST_SECONDS)? as u32),
        "counters" => set.counters = true,
        "comment" => set.comment = true,
        "range" if !hash => set.range = range(argument(word, words)?)?,
        "forceadd" if hash => set.forceadd = true,
        "family" if hash => set.ipv6 = family(argument(word, words)?)?,
        "maxelem" if hash => {
            set.maxelem = number(argument(word, words)?, 0, u64::from(u32::MAX))? as u32;
        }
        "hashsize" if hash => {
            let wanted = number(argument(word, words)?, 0, u64::from(u32::MAX))?;
            set.hashsize = wanted.clamp(64, 1 << 31).next_power_of_two() as u32;
        }
        // Written by ipset itself; they do not change what a packet meets.
        "bucketsize" if hash => drop(number(argument(word, words)?, 1, 255)?),
        "initval" if hash => drop(argument(word, words)?),
        "netmask" | "bitmask" | "markmask" | "skbinfo" | "wildcard" if hash => {
            return Err(Refused::not_modelled(format_args!("option {word}")));
        }
        _ => return Err(unknown(word)),
    }
    Ok(())
}

fn argument<'t>(word: &str, words: Words<'_, 't>) -> Result<&'t str, Refused> {
    let missing = || Refused::usage(format_args!("Missing mandatory argument of option `{word}'"));
    words.next().ok_or_else(missing)
}

fn unknown(word: &str) -> Refused {
    Refused::usage(format_args!("Unknown argument: `{word}'"))
}

fn family(text: &str) -> Result<bool, Refused> {
    match text {
        "inet" | "ipv4" | "-4" => Ok(false),
        "inet6" | "ipv6" | "-6" => Ok(true),
        _ => Err(Refused::syntax(format_args!("unknown inet family {text}"))),
    }
}

fn range(text: &str) -> Result<(u16, u16), Refused> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (number(from, 0, 65_535)? as u16, number(to, 0, 65_535)? as u16);
    Ok((from.min(to), from.max(to)))
}

/// What a line says beside an element.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    timeout: Option<u32>,
    packets: Option<u64>,
    bytes: Option<u64>,
    comment: Option<String>,
    nomatch: bool,
}

/// Reads what stands after an element of `add`.
pub(super) fn extras(kind: Kind, words: Words<'_, '_>) -> Result<Extras, Refused> {
    let mut extras = Extras::default();
    while let Some(word) = words.next() {
        match word {
            "timeout" => {
                extras.timeout = Some(number(argument(word, words)?, 0, MOST_SECONDS)? as u32);
            }
            "packets" => extras.packets = Some(number(argument(word, words)?, 0, u64::MAX)?),
            "bytes" => extras.bytes = Some(number(argument(word, words)?, 0, u64::MAX)?),
            "comment" => extras.comment = Some(comment(argument(word, words)?)?),
            "nomatch" if kind.has_networks() => extras.nomatch = true,
            "skbmark" | "skbprio" | "skbqueue" => {
                return Err(Refused::not_modelled(format_args!("option {word}")));
            }
            _ => return Err(unknown(word)),
        }
    }
    Ok(extras)
}

/// Reads what stands after an element of `del` or `test`.
pub(super) fn no_extras(kind: Kind, words: Words<'_, '_>) -> Result<(), Refused> {
    for word in words {
        if word != "nomatch" || !kind.has_networks() {
            return Err(unknown(word));
        }
    }
    Ok(())
}

fn comment(text: &str) -> Result<String, Refused> {
    if text.len() > LONGEST_COMMENT || text.contains('"') {
        return Err(Refused::syntax(format_args!(
            "Comment is longer than the maximum allowed {LONGEST_COMMENT} characters"
        )));
    }
    Ok(text.to_owned())
}

impl Extras {
    /// What will stand beside an element of this set.
    pub(super) fn beside(&self, set: &Set, now: u64) -> Result<Beside, Refused> {
        let lacks = [
            (self.timeout.is_some() && set.timeout.is_none(), "Timeout", "timeout"),
            (
                (self.packets.is_some() || self.bytes.is_some()) && !set.counters,
                "Packet/byte counters",
                "counter",
            ),
            (self.comment.is_some() && !set.comment, "Comment", "comment"),
        ];
        if let Some((_, what, support)) = lacks.iter().find(|(lacks, ..)| *lacks) {
            let message =
                format!("{what} cannot be used: set was created without {support} support");
            return Err(Refused::element(&message));
        }
        Ok(Beside {
            expires: set.expiry(self.timeout, now),
            nomatch: self.nomatch,
            packets: self.packets.unwrap_or(0),
            bytes: self.bytes.unwrap_or(0),
            comment: self.comment.clone(),
        })
    }
}
