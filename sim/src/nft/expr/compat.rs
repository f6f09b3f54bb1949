//! Decodes the expressions `match` and `target`, which carry the structs of iptables' extensions (net/netfilter/nft_compat.c):
//! a struct becomes the words that iptables would print for it, and they are read as any rule's words. Layouts are those of
//! include/uapi/linux/netfilter/xt_*.h on a 64-bit machine. What is not modelled is refused at its byte.
//! It must never know what a part does. Tests: tests/compat.rs.

use super::Expr;
use super::decode::Decoder;
use crate::nft::Family;
use crate::nft::error::{Errno, Refusal, Taken};
use crate::nft::wire::Span;
use crate::xtables::part::{NoPart, Part};
use crate::xtables::{ADDRESS_TYPES, XtFamily, XtTable};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A struct's bytes, in the machine's order.
#[derive(Clone, Copy)]
struct Struct<'a> {
    span: Span<'a>,
}

impl<'a> Struct<'a> {
    /// A struct of this length, padded as XT_ALIGN does.
    fn new(span: Span<'a>, length: usize) -> Taken<Struct<'a>> {
        let length = length.next_multiple_of(8);
        if span.bytes.len() == length {
            return Ok(Struct { span });
        }
        let detail = format!("a struct of {length} bytes expected, found {}", span.bytes.len());
        Err(Refusal::invalid(span.at, detail))
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.span.bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
        bytes.expect("fields lie within the length that was checked")
    }

    fn u8(&self, at: usize) -> u8 {
        self.part::<1>(at)[0]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.part(at))
    }

    fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.part(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.part(at))
    }

    /// Refuses anything but these values.
    fn only<T: PartialEq + std::fmt::Display>(
        &self,
        at: usize,
        value: T,
        known: (&[T], &str),
    ) -> Taken<T> {
        if known.0.contains(&value) {
            return Ok(value);
        }
        Err(Refusal::unmodelled(self.span.at + at, format!("{} {value}", known.1)))
    }

    fn zeros(&self, from: usize, to: usize) -> Taken<()> {
        let odd = self.span.bytes.iter().take(to).skip(from).position(|byte| *byte != 0);
        odd.map_or(Ok(()), |odd| {
            Err(Refusal::unmodelled(self.span.at + from + odd, "this field of the struct"))
        })
    }

    /// A string in a field that ends with a zero.
    fn text(&self, at: usize, room: usize) -> Taken<&'a str> {
        let field = self.span.bytes.get(at..at + room).unwrap_or_default();
        let end = field.iter().position(|byte| *byte == 0);
        let text = end.and_then(|end| std::str::from_utf8(&field[..end]).ok());
        text.ok_or_else(|| {
            Refusal::invalid(self.span.at + at, "a string in UTF-8 with an ending zero expected")
        })
    }

    fn address(&self, at: usize, family: XtFamily) -> IpAddr {
        match family {
            XtFamily::V4 => Ipv4Addr::from(self.part::<4>(at)).into(),
            XtFamily::V6 => Ipv6Addr::from(self.part::<16>(at)).into(),
        }
    }
}

impl Decoder<'_> {
    pub(super) fn compat_match(&mut self, body: Span<'_>) -> Taken<Expr> {
        self.compat(body, words_of_match).map(|part| Expr::XtMatch(Box::new(part)))
    }

    pub(super) fn compat_target(&mut self, body: Span<'_>) -> Taken<Expr> {
        self.compat(body, words_of_target).map(|part| Expr::XtTarget(Box::new(part)))
    }

    fn compat(&mut self, body: Span<'_>, words: Words) -> Taken<Part> {
        let attrs = body.attrs::<4>("an xtables extension")?;
        let name = attrs.need(1, "its name")?;
        let revision = attrs.need(2, "its revision")?.be32()?;
        let info = attrs.need(3, "its struct")?;
        let family = match self.table.family {
            Family::Ip => XtFamily::V4,
            Family::Ip6 => XtFamily::V6,
            Family::Inet => {
                return Err(Refusal::unmodelled(name.at, "xtables extensions in inet tables"));
            }
        };
        let words = words((name.name()?, revision), info, family)?.ok_or_else(|| {
            let what = format!("the extension {:?} of revision {revision}", name.name().ok());
            Refusal::new(Errno::ENOENT, name.at, format!("the simulator does not model {what}"))
        })?;
        let table = XtTable::named(&self.table.name).unwrap_or(XtTable::Filter);
        let protocol = self.protocol.map_or(String::new(), |number| format!("-p {number} "));
        Part::read(&format!("{protocol}{words}"), family, table).map_err(|why| match why {
            NoPart::Unmodelled(what) => Refusal::unmodelled(info.at, what),
            NoPart::Refused(why) => Refusal::invalid(info.at, why),
        })
    }
}

/// The words of an extension of a name and revision. Nothing: there is none.
type Words = fn((&str, u32), Span<'_>, XtFamily) -> Taken<Option<String>>;

fn words_of_match(which: (&str, u32), info: Span<'_>, family: XtFamily) -> Taken<Option<String>> {
    let words = match which {
        ("comment", 0) => comment(Struct::new(info, 256)?)?,
        ("conntrack", 3) => conntrack(Struct::new(info, 162)?)?,
        ("addrtype", 1) => addrtype(Struct::new(info, 8)?),
        ("statistic", 0) => statistic(Struct::new(info, 24)?)?,
        ("recent", 1) => recent(Struct::new(info, 228)?, family)?,
        ("tcp", 0) => tcp(Struct::new(info, 12)?)?,
        ("udp", 0) => udp(Struct::new(info, 10)?)?,
        ("sctp", 0) => sctp(Struct::new(info, 292)?)?,
        // It fits every packet. What it counts is not kept here: MODEL.md says so.
        ("nfacct", 0) => {
            Struct::new(info, 40)?.text(0, 32)?;
            return Ok(Some("-m comment --comment nfacct".to_owned()));
        }
        _ => return Ok(None),
    };
    Ok(Some(format!("-m {} {words}", which.0)))
}

fn words_of_target(which: (&str, u32), info: Span<'_>, family: XtFamily) -> Taken<Option<String>> {
    let words = match (which, family) {
        (("MARK", 2), _) => {
            let info = Struct::new(info, 8)?;
            format!("--set-xmark {:#x}/{:#x}", info.u32(0), info.u32(4))
        }
        (("REJECT", 0), _) => reject(Struct::new(info, 4)?, family)?,
        (("MASQUERADE", 0), XtFamily::V4) => {
            let info = Struct::new(info, 20)?;
            info.only(0, info.u32(0), (&[1], "a number of ranges"))?;
            info.zeros(8, 20)?;
            masquerade(info, 4)?
        }
        (("MASQUERADE", 0), XtFamily::V6) => {
            let info = Struct::new(info, 40)?;
            info.zeros(4, 40)?;
            masquerade(info, 0)?
        }
        (("DNAT", 2), _) => dnat(Struct::new(info, 44)?, family)?,
        _ => return Ok(None),
    };
    Ok(Some(format!("-j {} {words}", which.0)))
}

fn comment(info: Struct<'_>) -> Taken<String> {
    let text = info.text(0, 256)?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("--comment \"{escaped}\""))
}

fn not(inverted: bool) -> &'static str {
    if inverted { "! " } else { "" }
}

fn conntrack(info: Struct<'_>) -> Taken<String> {
    const STATE: u16 = 1;
    const STATES: [(&str, u16); 7] = [
        ("INVALID", 1),
        ("NEW", 8),
        ("RELATED", 4),
        ("ESTABLISHED", 2),
        ("SNAT", 1 << 6),
        ("DNAT", 1 << 7),
        ("UNTRACKED", 1 << 8),
    ];
    info.zeros(0, 146)?;
    info.only(146, info.u16(146), (&[STATE], "conntrack flags"))?;
    let inverted = info.only(148, info.u16(148), (&[0, STATE], "inverted conntrack flags"))?;
    info.zeros(152, 162)?;
    let bits = info.u16(150);
    let known: u16 = STATES.iter().map(|(_, bit)| bit).sum();
    if bits == 0 || bits & !known != 0 {
        return Err(Refusal::unmodelled(info.span.at + 150, format!("states {bits:#x}")));
    }
    let names: Vec<&str> =
        STATES.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
    Ok(format!("{}--ctstate {}", not(inverted == STATE), names.join(",")))
}

fn addrtype(info: Struct<'_>) -> String {
    let flags = info.u32(4);
    let mut out = String::new();
    for (at, option, inverted) in [(0, "--src-type", 1), (2, "--dst-type", 2)] {
        let bits = info.u16(at);
        let names: Vec<&str> = (0..16)
            .filter(|bit| bits & (1 << bit) != 0)
            .map(|bit| ADDRESS_TYPES.get(bit).copied().unwrap_or("unknown"))
            .collect();
        if !names.is_empty() {
            let _ = write!(out, "{}{option} {} ", not(flags & inverted != 0), names.join(","));
        }
    }
    for (bit, option) in [(4, "--limit-iface-in "), (8, "--limit-iface-out ")] {
        if flags & bit != 0 {
            out.push_str(option);
        }
    }
    out
}

fn statistic(info: Struct<'_>) -> Taken<String> {
    let inverted = info.only(2, info.u16(2), (&[0, 1], "statistic flags"))? == 1;
    Ok(match info.only(0, info.u16(0), (&[0, 1], "the statistic mode"))? {
        0 => {
            let share = f64::from(info.u32(4)) / f64::from(1u32 << 31);
            format!("--mode random {}--probability {share:.17}", not(inverted))
        }
        _ => {
            let every = info.u32(4).saturating_add(1);
            format!("--mode nth {}--every {every} --packet {}", not(inverted), info.u32(8))
        }
    })
}

fn recent(info: Struct<'_>, family: XtFamily) -> Taken<String> {
    const ACTIONS: [(u8, &str); 4] = [(1, "rcheck"), (2, "set"), (4, "update"), (8, "remove")];
    let (seconds, hits, flags) = (info.u32(0), info.u32(4), info.u8(8));
    let inverted = info.only(9, info.u8(9), (&[0, 1], "inversion"))? == 1;
    let name = info.text(10, 200)?;
    let end = match info.only(210, info.u8(210), (&[0, 1], "side"))? {
        0 => "--rsource",
        _ => "--rdest",
    };
    let mask = info.address(212, family);
    let action = ACTIONS.iter().find(|(bit, _)| flags & 0xf == *bit).map(|(_, name)| *name);
    let refused = || Refusal::invalid(info.span.at + 8, format!("recent flags {flags:#x}"));
    let action = action.filter(|_| flags & 0xc0 == 0).ok_or_else(refused)?;
    let mut out = format!("{}--{action} ", not(inverted));
    for (value, option) in [(seconds, "--seconds"), (hits, "--hitcount")] {
        if value != 0 {
            let _ = write!(out, "{option} {value} ");
        }
    }
    for (bit, option) in [(0x10, "--rttl "), (0x20, "--reap ")] {
        if flags & bit != 0 {
            out.push_str(option);
        }
    }
    let _ = write!(out, "--name \"{name}\" --mask {mask} {end}");
    Ok(out)
}

/// `--sport` and `--dport` where they are not all ports.
fn ports(info: Struct<'_>, inverted: u8) -> String {
    let mut out = String::new();
    for (at, option, bit) in [(0, "--sport", 1), (4, "--dport", 2)] {
        let (low, high) = (info.u16(at), info.u16(at + 2));
        let invert = inverted & bit != 0;
        if (low, high) != (0, u16::MAX) || invert {
            let _ = write!(out, "{}{option} {low}:{high} ", not(invert));
        }
    }
    out
}

fn tcp(info: Struct<'_>) -> Taken<String> {
    info.zeros(8, 11)?;
    let inverted = info.only(11, info.u8(11), (&[0, 1, 2, 3], "inverted TCP fields"))?;
    Ok(ports(info, inverted))
}

fn udp(info: Struct<'_>) -> Taken<String> {
    let inverted = info.only(8, info.u8(8), (&[0, 1, 2, 3], "inverted UDP fields"))?;
    Ok(ports(info, inverted))
}

/// struct xt_sctp_info has destination ports first, and flags that say which fields count.
fn sctp(info: Struct<'_>) -> Taken<String> {
    info.zeros(8, 268)?;
    info.zeros(280, 284)?;
    let flags = info.only(284, info.u32(284), (&[0, 1, 2, 3], "SCTP fields"))?;
    let inverted = info.only(288, info.u32(288), (&[0, 1, 2, 3], "inverted SCTP fields"))?;
    let mut out = String::new();
    for (at, option, bit) in [(4, "--sport", 1), (0, "--dport", 2)] {
        if flags & bit != 0 {
            let (low, high) = (info.u16(at), info.u16(at + 2));
            let _ = write!(out, "{}{option} {low}:{high} ", not(inverted & bit != 0));
        }
    }
    Ok(out)
}

fn reject(info: Struct<'_>, family: XtFamily) -> Taken<String> {
    // enum ipt_reject_with and enum ip6t_reject_with; the missing one is the echo reply.
    let (names, prefix): (&[&str], _) = match family {
        XtFamily::V4 => (
            &[
                "icmp-net-unreachable",
                "icmp-host-unreachable",
                "icmp-proto-unreachable",
                "icmp-port-unreachable",
                "",
                "icmp-net-prohibited",
                "icmp-host-prohibited",
                "tcp-reset",
                "icmp-admin-prohibited",
            ],
            "REJECT",
        ),
        XtFamily::V6 => (
            &[
                "icmp6-no-route",
                "icmp6-adm-prohibited",
                "",
                "icmp6-addr-unreachable",
                "icmp6-port-unreachable",
                "",
                "tcp-reset",
                "icmp6-policy-fail",
                "icmp6-reject-route",
            ],
            "REJECT6",
        ),
    };
    let with = info.u32(0);
    match names.get(with as usize).filter(|name| !name.is_empty()) {
        Some(name) => Ok(format!("--reject-with {name}")),
        None => Err(Refusal::invalid(info.span.at, format!("{prefix} with {with}"))),
    }
}

fn masquerade(info: Struct<'_>, flags: usize) -> Taken<String> {
    Ok(match info.only(flags, info.u32(flags), (&[0, 4, 16], "masquerade flags"))? {
        0 => String::new(),
        4 => "--random".to_owned(),
        _ => "--random-fully".to_owned(),
    })
}

fn dnat(info: Struct<'_>, family: XtFamily) -> Taken<String> {
    let flags = info.only(0, info.u32(0), (&[1, 3], "DNAT flags"))?;
    info.zeros(40, 42)?;
    let (low, high) = (info.address(4, family), info.address(20, family));
    let text = |address: IpAddr| match (address, flags) {
        (IpAddr::V6(a), 3) => format!("[{a}]"),
        (address, _) => address.to_string(),
    };
    let mut out = format!("--to-destination {}", text(low));
    if high != low {
        let _ = write!(out, "-{}", text(high));
    }
    if flags == 3 {
        let _ = write!(out, ":{}", info.be16(36));
        if info.be16(38) != info.be16(36) {
            let _ = write!(out, "-{}", info.be16(38));
        }
    }
    Ok(out)
}
