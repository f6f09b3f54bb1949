//! `kube-proxy dump` in one file: it answers anywhere as the node did, also with other addresses in
//! the places of the node's. Tests: it is all test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::faults::tool;
use super::trace::run;
use super::{Bench, Scenario, Stop, Verdict, scenario};
use crate::guest;
use crate::namespace::Namespace;
use crate::probe::Probe;
use crate::proxy::{has_nft, nft};
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("dump-answers-anywhere", dumped),
    scenario("dump-anonymised-answers-as-before", anonymised),
];

/// A dump answers as the node did, in a namespace that has nothing; one that is cut is refused.
fn dumped(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(
        "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself",
    )?)?;
    let flows = connect(&setting);
    let file = setting.scratch.path().join("node.dump");
    let named = file.display().to_string();
    let mut arguments = vec!["dump".to_owned(), format!("--to={named}")];
    arguments.extend(setting.start(&[]).arguments());
    let (code, out, error) = run(&setting.lab.node, setting.binary(), &arguments)?;
    if code != 0 {
        return Err(format!("dump ended with {code}: {out}{error}").into());
    }
    let elsewhere = Namespace::new("elsewhere")?;
    let mut both = |question: &[String]| -> Result<String, Stop> {
        let from = [question.to_vec(), vec![format!("--from={named}")]].concat();
        let (_, there, _) = run(&elsewhere, setting.binary(), &from)?;
        let live = [question.to_vec(), setting.start(&[]).arguments()].concat();
        let (_, here, error) = run(&setting.lab.node, setting.binary(), &live)?;
        match here == there && !here.is_empty() {
            true => Ok(there),
            false => Err(format!("live:\n{here}{error}\nfrom the dump:\n{there}").into()),
        }
    };
    if flows {
        let of_a_flow = ["trace", "203.0.113.10:5353", "10.96.0.53:53", "--proto=udp"];
        let said = both(&of_a_flow.map(str::to_owned))?;
        if !said.contains("src=10.244.1.21") || said.contains("10.244.2.22") {
            return Err(format!("its connection is not heeded:\n{said}").into());
        }
    }
    let question = ["trace", "outside", "svc/default/web:http", "--output=json"].map(str::to_owned);
    let there = both(&question)?;
    let from = [question.to_vec(), vec![format!("--from={named}")]].concat();
    let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let packed = setting.scratch.path().join("node.dump.gz").display().to_string();
    let mut arguments = vec!["dump".to_owned(), format!("--to={packed}")];
    arguments.extend(setting.start(&[]).arguments());
    run(&setting.lab.node, setting.binary(), &arguments)?;
    let from_packed = [question.to_vec(), vec![format!("--from={packed}")]].concat();
    let (_, unpacked, error) = run(&elsewhere, setting.binary(), &from_packed)?;
    if unpacked != there {
        return Err(format!("from the packed dump:\n{unpacked}{error}").into());
    }
    std::fs::write(&file, &text[..text.len() / 2]).map_err(|e| e.to_string())?;
    let (code, out, error) = run(&elsewhere, setting.binary(), &from)?;
    if code != 2 || !out.is_empty() || !error.contains("cut short") {
        return Err(format!("half a dump: exit code {code}: {out}{error}").into());
    }
    Ok(format!("{} KiB", text.len() / 1024))
}

/// Makes a connection to one of two endpoints; whether that could be done here.
fn connect(setting: &Setting) -> bool {
    let entry = "-I -p udp -s 203.0.113.10 -d 10.96.0.53 --sport 5353 --dport 53 -g 10.244.1.21:5353 \
                 -t 600 -u SEEN_REPLY";
    // IPVS goes by connections of its own; and a guest is so slow that seconds pass between two questions.
    let fit = crate::proxy::mode() != crate::proxy::Mode::Ipvs && !guest::is_inside();
    fit && tool(setting, "conntrack", entry).is_ok()
}

/// Rules of somebody else, with addresses in every form that nft keeps them in.
const FOREIGN: &str = "\
table inet fw {
  set nets { type ipv4_addr; flags interval; elements = { 10.244.0.0/16, 172.18.9.1-172.18.9.7 } }
  set pairs { type ipv4_addr . inet_service; elements = { 10.244.1.11 . 81, 10.96.0.10 . 9 } }
  set spans { type ipv4_addr . inet_service; flags interval; elements = { 10.244.0.0/17 . 90-99 } }
  map other { type ipv4_addr : ipv4_addr; elements = { 10.96.77.1 : 10.244.1.11 } }
  map ways { type ipv4_addr : verdict; elements = { 10.96.77.2 : jump at_10.96.77.2 } }
  chain at_10.96.77.2 { counter comment \"from 10.96.77.2\"; }
  chain pre { type nat hook prerouting priority -110; dnat ip to ip daddr map @other; }
  chain ward { type filter hook forward priority 5;
    ip saddr 198.18.0.0/15 ip daddr @nets counter;
    ip saddr 10.244.0.0/16 tcp dport 9 drop;
    ip daddr 10.244.1.1-10.244.1.3 counter;
    ip daddr . tcp dport @pairs drop;
    ip daddr . tcp dport @spans drop;
    ip daddr vmap @ways;
    ct original ip daddr 10.96.0.99 drop;
  }
}
";

/// Two files and an empty namespace to ask them in.
struct Pair {
    elsewhere: Namespace,
    files: [String; 2],
}

impl Pair {
    /// What both say, with addresses as numbers in the order in which they come first.
    fn ask(&self, setting: &Setting, words: &[&str]) -> Result<[(i32, String); 2], String> {
        let ask = |file: &String| {
            let mut arguments: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            arguments.push(format!("--from={file}"));
            arguments.extend(["--output=json".to_owned()]);
            let (code, out, error) = run(&self.elsewhere, setting.binary(), &arguments)?;
            Ok::<_, String>((code, numbered(&format!("{out}{error}").replace(file, "FILE"))))
        };
        Ok([ask(&self.files[0])?, ask(&self.files[1])?])
    }
}

/// With `--anonymise` no address of the node is told, and everything is answered as before.
fn anonymised(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    setting.wait_for(&Probe::parse(
        "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself",
    )?)?;
    // The guest has no nf_tables for IPv4.
    if has_nft() && guest::lacks().is_none() {
        let file = setting.scratch.path().join("fw.nft");
        std::fs::write(&file, FOREIGN).map_err(|e| e.to_string())?;
        nft(&setting.lab, &["-f", &file.display().to_string()])?;
    }
    let named = |name: &str| setting.scratch.path().join(name).display().to_string();
    let files = [named("node.dump"), named("report.dump")];
    let mut arguments = vec!["dump".to_owned(), format!("--to={}", files[0])];
    arguments.extend(setting.start(&[]).arguments());
    let (code, out, error) = run(&setting.lab.node, setting.binary(), &arguments)?;
    if code != 0 {
        return Err(format!("dump ended with {code}: {out}{error}").into());
    }
    let pair = Pair { elsewhere: Namespace::new("elsewhere")?, files };
    let arguments = [
        "dump".to_owned(),
        format!("--from={}", pair.files[0]),
        "--anonymise".to_owned(),
        format!("--to={}", pair.files[1]),
    ];
    let (code, out, error) = run(&pair.elsewhere, setting.binary(), &arguments)?;
    if code != 0 || !error.is_empty() {
        return Err(format!("dump --anonymise ended with {code}: {out}{error}").into());
    }
    let gone = nothing_told(&pair)?;
    let questions: [&[&str]; 7] = [
        &["trace", "outside", "svc/default/web:http"],
        &["trace", "pod/default/web-1", "svc/default/web:http"],
        &["trace", "node", "svc/default/web:http"],
        &["trace", "outside", "node:30080"],
        &["trace", "pod/kube-system/dns-1", "svc/kube-system/kube-dns:dns", "--steps"],
        &["trace", "outside", "svc/default/web:http", "--compare"],
        &["check"],
    ];
    for question in questions {
        let [was, is] = pair.ask(&setting, question)?;
        if was != is {
            return Err(format!(
                "{question:?}, {} then {}:\n{}",
                was.0,
                is.0,
                changed(&was.1, &is.1)
            )
            .into());
        }
    }
    Ok(format!("{gone} addresses gone, {} answers as before", questions.len()))
}

/// Holds all addresses of the first file against the second, as texts and as bytes.
fn nothing_told(pair: &Pair) -> Result<usize, Stop> {
    let read = |file: &String| std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"));
    let (before, after) = (read(&pair.files[0])?, read(&pair.files[1])?);
    let all: BTreeSet<IpAddr> = tokens(&before).filter_map(|(_, a)| a).filter(is_told).collect();
    let still: BTreeSet<IpAddr> = tokens(&after).filter_map(|(_, a)| a).collect();
    let bytes = |address: &IpAddr| -> String {
        match address {
            IpAddr::V4(v4) => v4.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
            IpAddr::V6(v6) => v6.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    };
    let told = all.iter().filter(|a| still.contains(*a) || after.contains(&bytes(a)));
    let told: Vec<String> = told.map(IpAddr::to_string).collect();
    match (told.is_empty(), all.len()) {
        (false, _) => Err(format!("it still tells {}", told.join(", ")).into()),
        (true, ..10) => Err(format!("only {} addresses in the dump: {all:?}", all.len()).into()),
        (true, count) => Ok(count),
    }
}

/// Addresses without a meaning of their own; those for documentation are nobody's.
fn is_told(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            !matches!(octets, [0 | 127 | 224.., ..] | [169, 254, ..])
                && !matches!(octets, [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _])
        }
        IpAddr::V6(v6) => {
            let first = v6.segments();
            // "kube-pr": userspace mode's own.
            !matches!(first, [0 | 0xfe80.., ..] | [0x2001, 0xdb8, ..] | [0xfd6b, 0x7562, ..])
        }
    }
}

/// The text in pieces, with the addresses that some of them are.
fn tokens(text: &str) -> impl Iterator<Item = (&str, Option<IpAddr>)> {
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':');
    text.split_inclusive(move |c: char| !within(c)).flat_map(move |piece| {
        let word = piece.trim_end_matches(move |c: char| !within(c));
        // A port or the end of a sentence may stand behind it.
        let v4 = word.split(':').next().map(|w| w.trim_end_matches('.'));
        let address = word.trim_end_matches([':', '.']).parse().ok();
        let found = address.map(|a| (word, a)).or_else(|| {
            let v4 = v4?;
            v4.parse().ok().map(|a| (v4, a))
        });
        let (head, address) = match found {
            Some((_, address @ IpAddr::V4(_))) => (v4.unwrap_or(word), Some(address)),
            Some((word, address)) => (word.trim_end_matches([':', '.']), Some(address)),
            None => ("", None),
        };
        [(head, address), (&piece[head.len()..], None)]
    })
}

/// The text with addresses as numbers in the order in which they come first, and without the letters
/// of chains of endpoints, which are made of addresses.
fn numbered(text: &str) -> String {
    const CHAIN: &str = "KUBE-SEP-";
    let mut parts = text.split(CHAIN);
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| {
        part.trim_start_matches(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit())
    });
    let text = rest.fold(first, |text, part| text + CHAIN + part);
    let mut numbers: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let pieces = tokens(&text).map(|(piece, address)| match address {
        Some(address) => {
            let next = numbers.len();
            format!("@{}", numbers.entry(address).or_insert(next))
        }
        None => piece.to_owned(),
    });
    pieces.collect()
}

/// The first lines that only one of them has.
fn changed(was: &str, is: &str) -> String {
    let only = |of: &str, sign: char, other: &str| -> String {
        let other: BTreeSet<&str> = other.lines().collect();
        let lines = of.lines().filter(|line| !other.contains(line)).take(5);
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    only(was, '-', is) + &only(is, '+', was)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_numbers() {
        let text = "tcp 10.0.0.1:80 → [fd00::1]:53, 10.0.0.1. fd00::2/64: no 1.2.3 10.0.0.2/8";
        assert_eq!(numbered(text), "tcp @0:80 → [@1]:53, @0. @2/64: no 1.2.3 @3/8");
    }
}
