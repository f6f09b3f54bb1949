//! Where kube-proxy's tables are not as it would write them: rules and elements that are missing,
//! too many or other. Rules are compared by what they do, not byte by byte: the kernel lists them
//! in words of its own.
//!
//! It must never know which mode or Service they are of. Tests: `tests.rs`.

use std::collections::BTreeMap;

use sim::nft::read::{Data, SetView, TableView};

use crate::model::Family;
use crate::netlink::read::{Attributes, text};

/// Something that is not as it would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drift {
    /// What, with its place.
    pub(super) words: String,
    /// The Service port it is of, as its comment says.
    pub(super) service: Option<String>,
}

/// A rule: what it does, and its comment.
type Shape = (String, String);
/// An element: its data, all of it in words, and its comment.
type Listed = (Vec<u8>, String, Option<String>);

/// How many of one set are named one by one.
pub(super) const MOST: usize = 5;
const TABLE: &str = "kube-proxy";

/// Compares our tables in two hosts.
pub(super) fn compare(live: &sim::Host, wanted: &sim::Host) -> Vec<Drift> {
    let mut found = Vec::new();
    for (family, name) in [(sim::Family::Ip, "ip"), (sim::Family::Ip6, "ip6")] {
        let tables = (live.nft().table(family, TABLE), wanted.nft().table(family, TABLE));
        let lone = |words: String| Drift { words, service: None };
        match tables {
            (None, None) => {}
            (None, Some(_)) => found.push(lone(format!(
                "table {name} {TABLE} is not there: is kube-proxy running, in nftables mode?"
            ))),
            (Some(_), None) => {
                found.push(lone(format!("table {name} {TABLE} is there and not wanted")))
            }
            (Some(live), Some(wanted)) => tables_differ(name, (&live, &wanted), &mut found),
        }
    }
    found
}

fn tables_differ(
    family: &str,
    (live, wanted): (&TableView<'_>, &TableView<'_>),
    found: &mut Vec<Drift>,
) {
    let place = |what: String| format!("table {family} {TABLE}, {what}");
    for chain in wanted.chains() {
        let shapes = |table: &TableView<'_>| -> Option<Vec<Shape>> {
            let rules = table.chain(chain.name())?.rules();
            Some(
                rules
                    .iter()
                    .map(|r| (shape(r.expressions()), r.comment().unwrap_or_default()))
                    .collect(),
            )
        };
        // Chains that nothing leads to any more stay for a while, and others come when they are needed.
        let (Some(there), Some(here)) = (shapes(live), shapes(wanted)) else {
            if chain.base().is_some() || chain.uses() > 0 && !spare(chain.name()) {
                let words = place(format!("chain {} is missing", chain.name()));
                found.push(Drift { words, service: None });
            }
            continue;
        };
        chains_differ(&place(format!("chain {}", chain.name())), (&there, &here), found);
    }
    for set in wanted.sets() {
        // Rules write remembered clients by themselves.
        if set.definition().has(sim::nft::set_flags::EVAL) {
            continue;
        }
        match live.set(set.name()) {
            Some(there) => {
                sets_differ(&place(format!("set {}", set.name())), (&there, &set), found)
            }
            None => found.push(Drift {
                words: place(format!("set {} is missing", set.name())),
                service: None,
            }),
        }
    }
}

/// Chains that are made with the table, whether or not anybody needs them.
fn spare(name: &str) -> bool {
    name.rsplit('-').next().is_some_and(|last| last.parse::<u16>().is_ok_and(|count| count <= 32))
}

fn chains_differ(place: &str, (live, wanted): (&[Shape], &[Shape]), found: &mut Vec<Drift>) {
    if live.iter().map(|r| &r.0).eq(wanted.iter().map(|r| &r.0)) {
        return;
    }
    let named = |(shape, comment): &Shape| {
        if comment.is_empty() { format!("rule `{shape}`") } else { format!("rule \"{comment}\"") }
    };
    let mut rest: Vec<&Shape> = live.iter().collect();
    let before = found.len();
    for rule in wanted {
        match rest.iter().position(|there| there.0 == rule.0) {
            Some(at) => drop(rest.remove(at)),
            None => found.push(Drift {
                words: format!("{place}: {} is missing", named(rule)),
                service: None,
            }),
        }
    }
    for rule in rest {
        found.push(Drift {
            words: format!("{place}: {} was added by somebody", named(rule)),
            service: None,
        });
    }
    if found.len() == before {
        found.push(Drift {
            words: format!("{place}: its rules are in another order"),
            service: None,
        });
    }
}

fn sets_differ(place: &str, (live, wanted): (&SetView<'_>, &SetView<'_>), found: &mut Vec<Drift>) {
    let listed = |set: &SetView<'_>| -> BTreeMap<(Vec<u8>, bool), Listed> {
        let one = |e: &sim::nft::read::ElementView<'_>| {
            let data = match e.data() {
                Data::Value(bytes) => bytes.to_vec(),
                Data::Verdict { code, chain } => {
                    format!("{code} {}", chain.unwrap_or_default()).into_bytes()
                }
                Data::None => e.key_end().map(<[u8]>::to_vec).unwrap_or_default(),
            };
            ((e.key().to_vec(), e.is_interval_end()), (data, e.describe(), e.comment()))
        };
        set.elements().iter().map(one).collect()
    };
    let (there, here) = (listed(live), listed(wanted));
    let mut all = Vec::new();
    for (key, (data, words, comment)) in &here {
        let what = match there.get(key) {
            Some((same, ..)) if same == data || both_to_relay(same, data) => continue,
            Some((_, other, _)) => format!("element {words} is {other}"),
            None => format!("element {words} is missing"),
        };
        all.push(Drift { words: format!("{place}: {what}"), service: comment.clone() });
    }
    for (key, (_, words, comment)) in there.iter().filter(|(key, _)| !here.contains_key(*key)) {
        let _ = key;
        all.push(Drift {
            words: format!("{place}: element {words} is too many"),
            service: comment.clone(),
        });
    }
    let count = all.len();
    found.extend(all.into_iter().take(MOST));
    if count > MOST {
        found.push(Drift {
            words: format!("{place}: and {} further elements", count - MOST),
            service: None,
        });
    }
}

/// Whether both lead to the process that carries connections itself: which port it got is chance.
fn both_to_relay(one: &[u8], other: &[u8]) -> bool {
    let relays = Family::ALL.map(crate::kernel::relay_address);
    let leads = |data: &[u8]| {
        relays.iter().any(|relay| match relay {
            std::net::IpAddr::V4(v4) => data.starts_with(&v4.octets()),
            std::net::IpAddr::V6(v6) => data.starts_with(&v6.octets()),
        })
    };
    leads(one) && leads(other)
}

/// What a rule does: names of its expressions with the attributes that decide.
fn shape(expressions: &[u8]) -> String {
    let one = |expression: &[u8]| {
        let expression = Attributes::new(expression);
        let name = expression.get(1).map(text).unwrap_or_default();
        let body = Attributes::new(expression.get(2).unwrap_or(&[]));
        let kept: String =
            deciding(&name).iter().filter_map(|n| Some(value(&name, *n, body.get(*n)?))).collect();
        format!("{name}{kept}")
    };
    let parts: Vec<String> = Attributes::new(expressions)
        .map(|(_, expression)| one(expression))
        .filter(|part| part != "counter")
        .collect();
    parts.join(" ")
}

/// Attributes that decide what an expression does; registers do not.
fn deciding(name: &str) -> &'static [u16] {
    match name {
        "payload" => &[2, 3, 4],
        "meta" | "rt" => &[2],
        "ct" => &[2, 3],
        "cmp" => &[2, 3],
        "bitwise" => &[4, 5],
        "lookup" => &[1, 5],
        "numgen" => &[2, 3, 4],
        "fib" => &[2, 3],
        "immediate" => &[2],
        "nat" => &[1, 2],
        "masq" => &[1],
        "reject" => &[1, 2],
        "dynset" => &[1, 3, 6],
        _ => &[],
    }
}

/// An attribute in words; one that is zero may as well be absent.
fn value(name: &str, number: u16, bytes: &[u8]) -> String {
    let named = matches!((name, number), ("lookup" | "dynset", 1));
    if named {
        return format!(" @{}", text(bytes));
    }
    if name == "immediate" {
        let data = Attributes::new(bytes);
        let verdict = data.get(2).map(Attributes::new);
        let code = verdict.as_ref().and_then(|v| v.get(1)).map(hex).unwrap_or_default();
        let chain = verdict.and_then(|v| v.get(2)).map(text).unwrap_or_default();
        return format!(" {code}{chain}{}", data.get(1).map(hex).unwrap_or_default());
    }
    let nested = matches!((name, number), ("cmp", 3) | ("bitwise", 4 | 5));
    let bytes = if nested { Attributes::new(bytes).get(1).unwrap_or(bytes) } else { bytes };
    if !nested && bytes.iter().all(|b| *b == 0) {
        String::new()
    } else {
        format!(" {number}:{}", hex(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
