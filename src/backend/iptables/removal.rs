//! Takes everything away that kube-proxy ever makes in iptables, of this version or another, and
//! nothing else. Kubelet's chain stays where there is a kubelet; so do chains of ours that somebody else's rule jumps to, but
//! empty. It must never know what the chains were for. Tests: `tests.rs`, `netlab`.

use std::collections::BTreeSet;

use super::chain::{self, Chain, Kind, Table};
use super::dump::Dump;
use super::pen::{Pen, Text};
use super::shape::GUARD_COMMENT;

/// Chains that go together: the tool searches their names for each line.
const CHAINS_AT_ONCE: usize = 1000;

/// Chains of kubelet in mangle (KEP-3178).
const KUBELETS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// Chains with a name of their own, by table; those that others jump to come last.
const OURS: &[(Table, &[Chain])] = &[
    (
        Table::Filter,
        &[
            chain::SERVICES,
            chain::EXTERNAL_SERVICES,
            chain::NODE_PORTS,
            chain::PROXY_FIREWALL,
            chain::FORWARD,
            chain::CANARY,
        ],
    ),
    (Table::Nat, &[chain::SERVICES, chain::NODE_PORTS, chain::POSTROUTING, chain::CANARY]),
    (Table::Mangle, &[chain::RELAY_GUARD, chain::CANARY]),
];

/// Kinds in the order in which they jump to each other.
const DOWNWARDS: [Kind; 5] =
    [Kind::Firewall, Kind::External, Kind::Cluster, Kind::Local, Kind::Endpoint];

/// The chains of iptables mode that always have the same names.
pub fn chains() -> BTreeSet<(Table, String)> {
    let fixed =
        OURS.iter().flat_map(|(table, chains)| chains.iter().map(|c| (*table, c.to_string())));
    fixed
        .chain([
            (Table::Nat, chain::MARK_MASQ.to_string()),
            (Table::Filter, chain::KUBELET_FIREWALL.to_string()),
        ])
        .collect()
}

/// Writes the way from a dump to one without us, but for chains that are `kept`.
pub fn remove(dump: &Dump<'_>, kept: &BTreeSet<(Table, String)>, pen: &mut Text) {
    for (table, fixed) in OURS {
        let mut chains: Vec<String> = fixed.iter().map(Chain::to_string).collect();
        if *table == Table::Nat {
            let names: Vec<&str> = dump.chains(Table::Nat).map(|(name, _)| name).collect();
            for kind in DOWNWARDS {
                let own = names.iter().filter(|name| Kind::of(name) == Some(kind));
                chains.extend(own.map(|name| (*name).to_owned()));
            }
            chains.push(chain::MARK_MASQ.to_string());
        }
        if *table == Table::Filter && is_guard_ours(dump) {
            chains.push(chain::KUBELET_FIREWALL.to_string());
        }
        chains.retain(|chain| {
            dump.rules(*table, chain).is_some() && !kept.contains(&(*table, chain.clone()))
        });
        take_away(dump, (*table, &chains), pen);
    }
}

/// The same for the one chain that iptables mode does not have when userspace mode leads its packets.
pub fn remove_guard(dump: &Dump<'_>, pen: &mut Text) {
    let chains = vec![chain::RELAY_GUARD.to_string()];
    if dump.rules(Table::Mangle, &chains[0]).is_some() {
        take_away(dump, (Table::Mangle, &chains), pen);
    }
}

fn take_away(dump: &Dump<'_>, (table, chains): (Table, &[String]), pen: &mut Text) {
    let ours: BTreeSet<&str> = chains.iter().map(String::as_str).collect();
    let foreign = unlink(dump, table, &ours, pen);
    for (index, chain) in chains.iter().enumerate() {
        pen.chain(table, chain);
        if !foreign.contains(chain.as_str()) {
            pen.remove(table, chain);
        }
        if index % CHAINS_AT_ONCE == 0 {
            pen.boundary(table);
        }
    }
}

/// Whether kubelet's firewall chain was made by us: there is nothing of a kubelet in mangle, and
/// nothing in the chain but the one rule that both write.
fn is_guard_ours(dump: &Dump<'_>) -> bool {
    let mut mangle = dump.chains(Table::Mangle).map(|(name, _)| name);
    let has_kubelet = mangle.any(|name| KUBELETS.contains(&name));
    let rules = dump.rules(Table::Filter, &chain::KUBELET_FIREWALL.to_string());
    !has_kubelet && rules.unwrap_or_default().iter().all(|rule| rule.contains(GUARD_COMMENT))
}

/// Takes the jumps out of the built-in chains; gives our chains that foreign ones jump to.
fn unlink<'a>(
    dump: &Dump<'_>,
    table: Table,
    ours: &BTreeSet<&'a str>,
    pen: &mut Text,
) -> BTreeSet<&'a str> {
    let mut foreign = BTreeSet::new();
    for (name, rules) in dump.chains(table).filter(|(name, _)| !ours.contains(name)) {
        let built_in = !name.contains('-') && name.chars().all(|c| c.is_ascii_uppercase());
        for rule in rules {
            let Some(target) = ours.get(target(rule)) else { continue };
            match built_in {
                true => pen.delete_text(table, name, rule),
                false => drop(foreign.insert(*target)),
            }
        }
    }
    foreign
}

/// The chain that a rule jumps to, as iptables-save prints it: the word behind the last `-j` or `-g`.
fn target(rule: &str) -> &str {
    let words = || rule.split(' ');
    let jump = words().zip(words().skip(1)).filter(|(word, _)| matches!(*word, "-j" | "-g"));
    jump.last().map_or("", |(_, target)| target)
}
