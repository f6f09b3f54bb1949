//! Starts from a table that is in the kernel already: left by an earlier process, by another
//! layout, or by the reference. What is right is left alone; nothing is taken on trust.
//! Tests: `proptests` (restart), `netlab` (restart under traffic).

use std::collections::{BTreeMap, BTreeSet};

use super::Options;
use super::elements::{self, Element, Gives, Key};
use super::layout::{Kind, Set, Treatment, table_comment, timeout_chain};
use super::plan::{Applied, Start};
use super::rules::fixed_chains;
use crate::kernel::{ElementFact, SetFact, TableFact};
use crate::model::Family;

/// What is known to be applied, given what the kernel has in the table's place.
pub fn adopt(family: Family, options: &Options, table: Option<&TableFact>) -> Applied {
    let Some(table) = table else { return Applied::new(family, Start::Absent) };
    ours(family, options, table).unwrap_or_else(|| Applied::new(family, Start::Foreign))
}

/// The table's content, if it is of our layout in every part that rules rely on.
fn ours(family: Family, options: &Options, table: &TableFact) -> Option<Applied> {
    let mut applied = Applied::new(family, Start::Ours);
    if table.comment != table_comment() {
        return None;
    }
    let chains = chains_of(family, options, table)?;
    applied.foreign_chains = chains.foreign;
    let sets: BTreeMap<Set, &SetFact> =
        table.sets.iter().filter_map(|s| Some((Set::by_name(&s.name)?, s))).collect();
    if sets.len() != table.sets.len() || !sets.iter().all(|(s, f)| same_shape(family, *s, f)) {
        return None;
    }
    let elements_in = |set: Set| sets.get(&set).map_or(&[][..], |s| &s.elements);
    let mut treatments = BTreeSet::new();
    for map in [Set::Treatments, Set::TreatmentsWithin] {
        treatments.extend(dispatched(elements_in(map), |n| {
            let treatment = Treatment::from_number(n).filter(|t| t.map() == map)?;
            Some((treatment, treatment.chain()))
        })?);
    }
    let timeouts: BTreeSet<u32> =
        dispatched(elements_in(Set::StickyTimeouts), |n| Some((n, timeout_chain(n))))?;
    // A chain that nothing leads to, or a number that leads nowhere: not as we left it.
    if treatments != chains.treatments || timeouts != chains.timeouts {
        return None;
    }
    applied.treatments.idle = treatments;
    applied.timeouts.idle = timeouts;
    for (set, fact) in &sets {
        keep(&mut applied, *set, fact)?;
    }
    applied.found.values_mut().for_each(|elements| elements.sort_unstable());
    Some(applied)
}

/// The chains of a table, told apart.
#[derive(Default)]
struct Chains {
    treatments: BTreeSet<Treatment>,
    timeouts: BTreeSet<u32>,
    foreign: Vec<String>,
}

/// Tells chains apart; `None` if a base chain is not where ours are.
fn chains_of(family: Family, options: &Options, table: &TableFact) -> Option<Chains> {
    let fixed: BTreeMap<_, _> =
        fixed_chains(family, options).into_iter().map(|c| (c.name, c.hook)).collect();
    let mut chains = Chains::default();
    for chain in &table.chains {
        if let Some(hook) = fixed.get(chain.name.as_str()) {
            if hook.map(|h| (h.number, h.priority)) != chain.hook {
                return None;
            }
        } else if chain.hook.is_some() {
            return None;
        } else if let Some(treatment) = treatment_of_chain(&chain.name) {
            chains.treatments.insert(treatment);
        } else if let Some(seconds) = timeout_of_chain(&chain.name) {
            chains.timeouts.insert(seconds);
        } else {
            chains.foreign.push(chain.name.clone());
        }
    }
    Some(chains)
}

fn treatment_of_chain(name: &str) -> Option<Treatment> {
    let (head, count) = name.rsplit_once('-')?;
    let count = count.parse().ok()?;
    [Kind::Pick, Kind::Internal, Kind::External, Kind::Local]
        .into_iter()
        .flat_map(|kind| [(kind, false), (kind, true)])
        .flat_map(|(kind, sticky)| [(kind, sticky, false), (kind, sticky, true)])
        .map(|(kind, sticky, node_port)| Treatment { kind, sticky, node_port, count })
        .find(|treatment| {
            treatment.chain().strip_suffix(&format!("-{count}")) == Some(head)
                && treatment.chain() == name
        })
}

fn timeout_of_chain(name: &str) -> Option<u32> {
    let seconds = name.strip_prefix("remember-")?.strip_suffix('s')?.parse().ok()?;
    (timeout_chain(seconds) == name).then_some(seconds)
}

fn same_shape(family: Family, set: Set, fact: &SetFact) -> bool {
    let spec = set.spec();
    fact.flags == spec.flags()
        && fact.key_len == spec.key_len(family)
        && fact.data_len == spec.data_len(family)
}

/// The keys of a verdict map whose elements lead where their keys say; `None` if one does not.
fn dispatched<T: Ord>(
    elements: &[ElementFact],
    read: impl Fn(u32) -> Option<(T, String)>,
) -> Option<BTreeSet<T>> {
    elements
        .iter()
        .map(|element| {
            let number = u32::from_ne_bytes(element.key.as_slice().try_into().ok()?);
            let (thing, chain) = read(number)?;
            (chain.as_bytes() == element.data).then_some(thing)
        })
        .collect()
}

/// Remembers what a set holds; `None` if it holds what ours never does.
fn keep(applied: &mut Applied, set: Set, fact: &SetFact) -> Option<()> {
    for element in &fact.elements {
        let key = Key::from_bytes(&element.key)?;
        match set {
            // Written as a whole at every start, or by rules, or looked at already.
            Set::ServiceCidrs
            | Set::NodePortAddresses
            | Set::Affinity
            | Set::Treatments
            | Set::TreatmentsWithin
            | Set::StickyTimeouts => {}
            Set::Hairpin | Set::ClusterIps | Set::HealthCheckPorts => {
                applied.shared.idle.insert((set, key));
            }
            _ => {
                let frontend = elements::frontend_of(applied.family, set, &element.key)?;
                let element = read_element(set, element)?;
                applied.found.entry(frontend).or_default().push(element);
            }
        }
    }
    Some(())
}

fn read_element(set: Set, fact: &ElementFact) -> Option<Element> {
    let gives = match set {
        Set::Services
        | Set::NodePorts
        | Set::ServicesWithin
        | Set::NodePortsWithin
        | Set::Sticky
        | Set::StickyNodePorts => {
            Gives::Number(u32::from_ne_bytes(fact.data.as_slice().try_into().ok()?))
        }
        _ if fact.data.is_empty() => Gives::Nothing,
        _ => Gives::Bytes(Key::from_bytes(&fact.data)?),
    };
    let key_end = match &fact.key_end {
        Some(end) => Some(Key::from_bytes(end)?),
        None => None,
    };
    Some(Element { set, key: Key::from_bytes(&fact.key)?, key_end, gives })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_known_by_their_names() {
        for name in ["pick-3", "node-port-external-sticky-12", "local-0"] {
            assert_eq!(treatment_of_chain(name).map(Treatment::chain).as_deref(), Some(name));
        }
        for name in ["pick-03", "pick-", "others-3", "pick-99999"] {
            assert_eq!(treatment_of_chain(name), None, "{name}");
        }
        assert_eq!(timeout_of_chain("remember-10800s"), Some(10_800));
        assert_eq!(timeout_of_chain("remember-clients"), None);
    }
}
