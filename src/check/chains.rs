//! Where kube-proxy's chains of iptables and its virtual servers are not as it would make them.
//! Rules are compared by their text, without what only says how it is done: how source ports are
//! drawn, and what is counted.
//!
//! It must never know Services. Tests: `tests.rs`, and the lab.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::drift::{Drift, MOST};
use crate::kernel::survey::ServerFact;
use crate::kernel::{Socket, is_relay_address};
use crate::trace::port_of;

/// Rules by chain.
type Chains<'a> = BTreeMap<&'a str, Vec<Cow<'a, str>>>;

/// Compares our chains in two hosts.
pub(super) fn compare(live: &sim::Host, wanted: &sim::Host) -> Vec<Drift> {
    let mut found = Vec::new();
    for (family, tool) in [(sim::XtFamily::V4, "iptables"), (sim::XtFamily::V6, "ip6tables")] {
        for table in sim::XtTable::ALL {
            let place = format!("{tool} table {}", table.name());
            let texts = [live, wanted].map(|host| host.iptables_save(family, table));
            let [live, wanted] = [&texts[0], &texts[1]].map(|text| ours(text));
            tables_differ(&place, (&live, &wanted), &mut found);
        }
    }
    found
}

/// Our chains, and of the built-in ones the rules that lead to them.
fn ours(text: &str) -> Chains<'_> {
    let mut chains = Chains::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            chains.entry(name).or_default();
        }
        let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        if chain.starts_with("KUBE-") || rule.contains("-j KUBE-") {
            chains.entry(chain).or_default().push(plain(rule));
        }
    }
    chains
}

/// A rule without what only says how it is done.
fn plain(rule: &str) -> Cow<'_, str> {
    let rule = match rule.contains(" --random-fully") {
        true => Cow::Owned(rule.replace(" --random-fully", "")),
        false => Cow::Borrowed(rule),
    };
    let rule = match rule.split_once("-m nfacct --nfacct-name ") {
        Some((before, after)) => {
            let rest = after.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before}{rest}").into()
        }
        None => rule,
    };
    match rule.split_once(LEADS) {
        Some((before, to)) if is_relay(to) => format!("{before}{LEADS}kube-proxy").into(),
        _ => rule,
    }
}

const LEADS: &str = "--to-destination ";

/// Whether that is a port of the process that carries connections itself: which one is chance.
fn is_relay(socket: &str) -> bool {
    let socket = socket.parse::<std::net::SocketAddr>();
    socket.is_ok_and(|socket| is_relay_address(socket.ip()))
}

fn tables_differ(place: &str, (live, wanted): (&Chains<'_>, &Chains<'_>), found: &mut Vec<Drift>) {
    let none = Vec::new();
    let mut all = Vec::new();
    for (chain, rules) in wanted {
        if !live.contains_key(chain) && !rules.is_empty() {
            let service = rules.iter().find_map(|rule| port(rule));
            all.push(Drift { words: format!("{place}: chain {chain} is missing"), service });
            continue;
        }
        let there = live.get(chain).unwrap_or(&none);
        if there != rules && !is_same_choice(there, rules) {
            chains_differ(&format!("{place}, chain {chain}"), (there, rules), &mut all);
        }
    }
    let count = all.len();
    found.extend(all.into_iter().take(MOST));
    if count > MOST {
        let words = format!("{place}: and {} further differences", count - MOST);
        found.push(Drift { words, service: None });
    }
}

/// Whether two chains choose among the same endpoints with the same chances: which endpoint comes first
/// decides nothing. Rules that are no choice stand where they stood.
fn is_same_choice(live: &[Cow<'_, str>], wanted: &[Cow<'_, str>]) -> bool {
    /// How a rule chooses: the probability, or that it remembers; the rest of it.
    fn choice(rule: &str) -> (Option<&str>, String) {
        const CHANCE: &str = " -m statistic --mode random --probability ";
        match rule.split_once(CHANCE) {
            Some((before, after)) => {
                let (chance, after) = after.split_once(' ').unwrap_or((after, ""));
                (Some(chance), format!("{before} {after}"))
            }
            None => (rule.contains(" -m recent ").then_some(""), rule.to_owned()),
        }
    }
    let halves = |rules: &[Cow<'_, str>]| {
        let mut rest: Vec<String> = rules.iter().map(|rule| choice(rule).1).collect();
        rest.sort();
        rest
    };
    let last = live.len().saturating_sub(1);
    let in_place = |(place, (live, wanted)): (usize, (&Cow<'_, str>, &Cow<'_, str>))| {
        let (a, b) = (choice(live).0, choice(wanted).0);
        a == b && (a.is_some() || live == wanted || place == last)
    };
    live.len() == wanted.len()
        && live.iter().zip(wanted).enumerate().all(in_place)
        && halves(live) == halves(wanted)
}

fn chains_differ(
    place: &str,
    (live, wanted): (&[Cow<'_, str>], &[Cow<'_, str>]),
    found: &mut Vec<Drift>,
) {
    let mut rest: Vec<&str> = live.iter().map(|rule| &**rule).collect();
    let before = found.len();
    let mut tell = |rule: &str, what: &str| {
        let words = format!("{place}: rule `{rule}` {what}");
        found.push(Drift { words, service: port(rule) });
    };
    for rule in wanted {
        match rest.iter().position(|there| there == rule) {
            Some(at) => {
                rest.remove(at);
            }
            None => tell(rule, "is missing"),
        }
    }
    rest.into_iter().for_each(|rule| tell(rule, "was added by somebody"));
    if found.len() == before {
        let words = format!("{place}: its rules are in another order");
        found.push(Drift { words, service: None });
    }
}

/// The Service port that a rule's comment names.
fn port(rule: &str) -> Option<String> {
    let comment = rule.split("--comment \"").nth(1)?.split('"').next()?;
    port_of(comment).map(str::to_owned)
}

/// Compares virtual servers and their destinations.
pub(super) fn servers(live: &[ServerFact], wanted: &[ServerFact]) -> Vec<Drift> {
    let by_key = |list: &'_ [ServerFact]| -> BTreeMap<_, ServerFact> {
        list.iter().map(|one| ((one.protocol, one.at), sorted(one))).collect()
    };
    let (there, here) = (by_key(live), by_key(wanted));
    let mut all = Vec::new();
    for (key, server) in &here {
        let (address, port) = key.1;
        let place = format!("virtual server {}", Socket { address, port });
        let what = match there.get(key) {
            None => "is missing".to_owned(),
            Some(found) if found == server => continue,
            Some(found) => differs(found, server),
        };
        all.push(Drift { words: format!("{place} {what}"), service: None });
    }
    let count = all.len();
    all.truncate(MOST);
    if count > MOST {
        let words = format!("and {} further virtual servers", count - MOST);
        all.push(Drift { words, service: None });
    }
    all
}

fn sorted(server: &ServerFact) -> ServerFact {
    let mut server = server.clone();
    // One of weight 0 only keeps the connections it has.
    server.destinations.retain(|to| to.weight > 0);
    server.destinations.sort();
    server
}

fn differs(live: &ServerFact, wanted: &ServerFact) -> String {
    let lacks = wanted.destinations.iter().find(|to| !live.destinations.contains(to));
    let extra = live.destinations.iter().find(|to| !wanted.destinations.contains(to));
    let socket = |at: (std::net::IpAddr, u16)| Socket { address: at.0, port: at.1 };
    match (lacks, extra) {
        (Some(to), _) => format!("lacks the destination {} of weight {}", socket(to.at), to.weight),
        (None, Some(to)) => format!("has the destination {}, which is too many", socket(to.at)),
        (None, None) => "has another scheduler, other flags or other persistence".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(live: &[&str], wanted: &[&str]) -> bool {
        let rules = |rules: &[&str]| -> Vec<Cow<'static, str>> {
            rules.iter().map(|rule| Cow::Owned((*rule).to_owned())).collect()
        };
        is_same_choice(&rules(live), &rules(wanted))
    }

    #[test]
    fn the_order_of_endpoints_is_no_difference_and_chances_are() {
        const HALF: &str = " -m statistic --mode random --probability 0.5";
        let mark = "-j KUBE-MARK-MASQ";
        let (a, b) = (format!("{HALF} -j A"), format!("{HALF} -j B"));
        assert!(is_same(&[mark, &a, " -j B"], &[mark, &b, " -j A"]));
        assert!(!is_same(&[mark, &a, " -j B"], &[mark, &b, " -j B"]), "A is lost");
        assert!(!is_same(&[&a, mark, " -j B"], &[mark, &a, " -j B"]), "marked too late");
        let (sticky, clients) =
            (" -m recent --rcheck --name A -j A", " -m recent --rcheck --name B -j B");
        assert!(is_same(&[sticky, clients, &a, " -j B"], &[clients, sticky, &b, " -j A"]));
        let other = a.replace("0.5", "0.9");
        assert!(!is_same(&[&other, " -j B"], &[&b, " -j A"]));
    }
}
