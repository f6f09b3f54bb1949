//! What is in a simulated host's tables, a line an object, so that two hosts can be held against each
//! other. It must never decide what should be there. Tests: the properties.

use std::collections::BTreeSet;

/// Virtual servers, sets, the device's addresses and rules of iptables, a line an object.
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
    for family in [sim::XtFamily::V4, sim::XtFamily::V6] {
        for table in [sim::XtTable::Filter, sim::XtTable::Nat, sim::XtTable::Mangle] {
            let text = host.iptables_save(family, table);
            let rules = text.lines().filter(|line| !line.starts_with('#')).enumerate();
            lines.extend(rules.map(|(n, line)| format!("{family:?} {table:?} {n} {line}")));
        }
    }
    lines
}

/// What is in a host's tables, a line an object, comments included, without what does not matter
/// (handles, order).
pub fn content(host: &sim::Host) -> BTreeSet<String> {
    let mut lines = ipvs_content(host);
    for table in host.nft().tables() {
        let place = format!("{:?} {}", table.family(), table.name());
        lines.insert(format!("{place} # {:?}", table.comment()));
        for chain in table.chains() {
            let base = chain.base();
            lines.insert(format!("{place} chain {} {base:?}", chain.name()));
            for (index, rule) in chain.rules().iter().enumerate() {
                let (bytes, comment) = (rule.expressions(), rule.comment());
                lines.insert(format!(
                    "{place} chain {} {index} {bytes:02x?} {comment:?}",
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
    lines
}
