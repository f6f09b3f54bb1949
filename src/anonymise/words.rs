//! Addresses within texts: rules of iptables, comments, names. Tests: below.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Pass;
use crate::backend::xtables::chain::{Chain, Kind};

/// The text with the addresses that `pass` gives for those in it.
pub(super) fn rename(text: &str, pass: &mut dyn Pass) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(next) = rest.chars().next() {
        let taken = match begins(before, next) {
            true => take(rest, pass, &mut out),
            false => chain(rest, pass, &mut out),
        };
        let taken = if taken == 0 {
            out.push(next);
            next.len_utf8()
        } else {
            taken
        };
        before = rest[..taken].chars().next_back();
        rest = &rest[taken..];
    }
    out
}

/// Whether an address may begin here, and not in the middle of a word or a number.
fn begins(before: Option<char>, next: char) -> bool {
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.');
    (next.is_ascii_hexdigit() || next == ':') && !before.is_some_and(within)
}

/// Takes the name of an endpoint's chain: its letters are a hash that the address is part of.
fn chain(text: &str, pass: &mut dyn Pass, out: &mut String) -> usize {
    let prefix = Kind::Endpoint.prefix();
    let Some(rest) = text.strip_prefix(prefix) else { return 0 };
    let letters = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let name = &text[..prefix.len() + letters];
    match Chain::hashed(name) {
        Some(_) => out.push_str(&pass.chain(name)),
        None => out.push_str(name),
    }
    name.len()
}

/// Takes the address that the text begins with; gives how long it was, 0 for none.
fn take(text: &str, pass: &mut dyn Pass, out: &mut String) -> usize {
    let of = |wanted: fn(char) -> bool| {
        let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
        &text[..end]
    };
    let six = of(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'));
    let six = six.trim_end_matches('.');
    let alone = |run: &str| !text[run.len()..].starts_with(|c: char| c.is_ascii_alphanumeric());
    if let Some((run, v6)) = longest::<Ipv6Addr>(six).filter(|(run, _)| alone(run)) {
        let prefix = prefix(&text[run.len()..], 128);
        let other = match v6.to_ipv4_mapped() {
            Some(v4) => format!("::ffff:{}", pass.address(v4.into(), None)),
            None => pass.address(v6.into(), prefix).to_string(),
        };
        out.push_str(&other);
        return run.len();
    }
    let four = of(|c| c.is_ascii_digit() || c == '.').trim_end_matches('.');
    if let Ok(v4) = four.parse::<Ipv4Addr>() {
        let prefix = prefix(&text[four.len()..], 32);
        out.push_str(&pass.address(v4.into(), prefix).to_string());
        return four.len();
    }
    // As names of nodes and pods have it.
    let dashed = of(|c| c.is_ascii_digit() || c == '-').trim_end_matches('-');
    if let Ok(v4) = dashed.replace('-', ".").parse::<Ipv4Addr>() {
        out.push_str(&pass.hint(v4.into()).to_string().replace('.', "-"));
        return dashed.len();
    }
    0
}

/// The longest address of a run that may have colons behind it.
fn longest<A: std::str::FromStr>(run: &str) -> Option<(&str, A)> {
    let parsed = |run: &'_ str| run.parse().ok();
    parsed(run).map(|address| (run, address)).or_else(|| {
        let shorter = run.strip_suffix(':')?;
        parsed(shorter).map(|address| (shorter, address))
    })
}

/// The length behind a slash.
fn prefix(rest: &str, most: u8) -> Option<u8> {
    let digits = rest.strip_prefix('/')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|length| *length <= most)
}

/// What every text of JSON below a value becomes, keys as well.
pub(super) fn rename_json(value: &mut serde_json::Value, pass: &mut dyn Pass) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = rename(text, pass),
        Value::Array(list) => list.iter_mut().for_each(|value| rename_json(value, pass)),
        Value::Object(map) => {
            let renamed = std::mem::take(map).into_iter().map(|(key, mut value)| {
                rename_json(&mut value, pass);
                (rename(&key, pass), value)
            });
            *map = renamed.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Every address becomes one of a documentation range; prefixes are noted.
    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Pass for Seen {
        fn address(&mut self, address: IpAddr, prefix: Option<u8>) -> IpAddr {
            let prefix = prefix.map(|length| format!("/{length}")).unwrap_or_default();
            self.0.push(format!("{address}{prefix}"));
            match address {
                IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            }
        }

        fn hint(&mut self, _: IpAddr) -> IpAddr {
            Ipv4Addr::new(192, 0, 2, 9).into()
        }

        fn chain(&mut self, name: &str) -> String {
            self.0.push(name.to_owned());
            "KUBE-SEP-OTHER".to_owned()
        }
    }

    fn renamed(text: &str) -> (String, String) {
        let mut seen = Seen::default();
        let text = rename(text, &mut seen);
        (text, seen.0.join(" "))
    }

    #[test]
    fn addresses_are_found_wherever_rules_and_names_have_them() {
        let cases = [
            ("-d 10.96.0.1/32 -j DNAT --to-destination 10.0.0.7:53", "10.96.0.1/32 10.0.0.7"),
            ("--to-destination [fd00::7]:53 -s fd00::/64", "fd00::7 fd00::/64"),
            ("-m iprange --src-range 10.0.0.1-10.0.0.9", "10.0.0.1 10.0.0.9"),
            ("add KUBE-LOOP-BACK 10.0.0.7,tcp:80,10.0.0.7", "10.0.0.7 10.0.0.7"),
            ("add KUBE-6-CLUSTER-IP fd00::1,tcp:80", "fd00::1"),
            ("endpoint-X-ns/name/tcp/p__10.1.2.3/80", "10.1.2.3"),
            ("to 10.0.0.7.", "10.0.0.7"),
            ("at fd00::7: refused", "fd00::7"),
            (":KUBE-SEP-RS4RBKLTHTF2IUXJ - [0:0]", "KUBE-SEP-RS4RBKLTHTF2IUXJ"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
        ];
        for (text, wanted) in cases {
            let (text, seen) = renamed(text);
            assert_eq!(seen, wanted);
            assert!(!text.contains("10.") && !text.contains("fd00"), "{text}");
        }
        assert_eq!(renamed("ip-10-0-0-7.ec2.internal").0, "ip-192-0-2-9.ec2.internal");
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in
            ["[12:3405] v1.2.3 12:30:45", "sim::nft KUBE-SVC-ABCD é", "02:42:ac:11:00:02", ""]
        {
            assert_eq!(renamed(text), (text.to_owned(), String::new()));
        }
    }
}
