//! What is in a simulated host's tables, as lines that can be held against another host's. Knows no
//! cluster and no proxy. Tests: used by `history`.

use std::collections::{BTreeMap, BTreeSet};

/// What is in a host's tables, a line an object, comments included, without what does not matter
/// (handles, order).
pub fn content(host: &sim::Host) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for table in host.nft().tables() {
        let place = format!("{:?} {}", table.family(), table.name());
        lines.insert(format!("{place} # {:?}", table.comment()));
        for chain in table.chains() {
            let base = chain.base();
            lines.insert(format!("{place} chain {} {base:?}", chain.name()));
            let unordered = UNORDERED.contains(&chain.name()) && table.name() != "kube-proxy";
            let mut last = false;
            for (index, rule) in chain.rules().iter().enumerate() {
                let (bytes, comment) = (rule.expressions(), rule.comment());
                last |= bytes.windows(LAST.len()).any(|words| words == LAST.as_bytes());
                let at = match (unordered, last) {
                    (false, _) => index.to_string(),
                    (true, false) => String::new(),
                    (true, true) => "last".to_owned(),
                };
                lines.insert(format!(
                    "{place} chain {} {at} {bytes:02x?} {comment:?}",
                    chain.name()
                ));
            }
        }
        for set in table.sets() {
            lines.insert(format!("{place} set {} {:?}", set.name(), set.definition()));
            for element in set.elements() {
                let (key, end) = (element.key(), element.key_end());
                let interval_end = element.is_interval_end();
                lines.insert(format!(
                    "{place} {} {key:02x?} {end:02x?} {interval_end} {} {:?}",
                    set.name(),
                    element.describe(),
                    element.comment(),
                ));
            }
        }
    }
    lines.extend(xtables_content(host));
    lines.extend(ipvs_content(host));
    lines
}

/// Virtual servers, sets and the device's addresses, a line an object.
fn ipvs_content(host: &sim::Host) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for service in host.ipvs_services() {
        lines.insert(format!("{service:?}"));
        let to = host.ipvs_destinations(&service.key);
        lines.extend(to.iter().map(|to| format!("{:?} to {to:?}", service.key)));
    }
    lines.extend(host.ipset_save().lines().map(str::to_owned));
    for link in host.links().iter().filter(|link| &*link.name == "kube-ipvs0") {
        lines.extend(link.addresses.iter().map(|address| format!("{} {address:?}", link.name)));
    }
    lines
}

/// Chains of iptables whose lines may be in any order, but for those that must be the last ones.
const UNORDERED: [&str; 4] =
    ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"];

/// What the comment of those says.
const LAST: &str = "must be the last rule";

/// The tables of iptables, a line a chain or rule, with the place of each rule where it counts.
fn xtables_content(host: &sim::Host) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for (family, table) in [sim::XtFamily::V4, sim::XtFamily::V6]
        .into_iter()
        .flat_map(|family| sim::XtTable::ALL.map(|table| (family, table)))
    {
        let text = host.iptables_save(family, table);
        let place = format!("{family:?} {}", table.name());
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        let mut is_last: BTreeMap<&str, bool> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with([':', '-'])) {
            let Some(rule) = line.strip_prefix("-A ") else {
                lines.insert(format!("{place} {}", line.split(' ').next().unwrap_or_default()));
                continue;
            };
            let chain = rule.split(' ').next().unwrap_or_default();
            let count = index.entry(chain).or_default();
            let last = is_last.entry(chain).or_default();
            *count += 1;
            *last |= rule.contains(LAST);
            let at = match (UNORDERED.contains(&chain), *last) {
                (false, _) => count.to_string(),
                (true, false) => String::new(),
                (true, true) => "last".to_owned(),
            };
            lines.insert(format!("{place} {at} {rule}"));
        }
    }
    lines
}
