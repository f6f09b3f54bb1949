//! The small reversible changes batches are made of, and the log that takes them back.
//! Each keeps the counts of uses right, forwards and backwards. It must never know messages. Tests: tests/batch.rs.

use super::set::{Datum, Element, Elements, Set, Spot};
use super::store::{Chain, Rule, Store, Table};
use crate::hash::FastMap;

/// How to take one change back. Numbers are slots: table first, then chain or set.
pub(crate) enum Undo {
    Table(u32, Option<Box<Table>>),
    TableFields(u32, bool, Option<Box<[u8]>>),
    Chain(u32, u32, Option<Box<Chain>>),
    ChainFields(u32, u32, Option<bool>, Option<Box<[u8]>>),
    RuleAdded(u32, u32, usize),
    RuleRemoved(u32, u32, usize, Box<Rule>),
    Set(u32, u32, Option<Box<Set>>),
    ElementAdded(u32, u32, Spot),
    ElementRemoved(u32, u32, Box<Element>),
    Emptied(u32, u32, Elements, FastMap<u32, u32>),
    Lifetime(u32, u32, Spot, (u64, u64)),
}

impl Undo {
    pub(crate) fn apply(self, store: &mut Store) {
        match self {
            Undo::Table(slot, before) => match before {
                Some(table) => store.tables.put(slot, *table),
                None => drop(store.tables.take(slot)),
            },
            Undo::TableFields(slot, dormant, userdata) => {
                if let Some(table) = store.tables.get_mut(slot) {
                    (table.dormant, table.userdata) = (dormant, userdata);
                }
            }
            Undo::Chain(table, ..)
            | Undo::ChainFields(table, ..)
            | Undo::RuleAdded(table, ..)
            | Undo::RuleRemoved(table, ..)
            | Undo::Set(table, ..)
            | Undo::ElementAdded(table, ..)
            | Undo::ElementRemoved(table, ..)
            | Undo::Emptied(table, ..)
            | Undo::Lifetime(table, ..) => {
                if let Some(table) = store.tables.get_mut(table) {
                    self.apply_within(table);
                }
            }
        }
    }

    fn apply_within(self, table: &mut Table) {
        match self {
            Undo::Chain(_, slot, Some(chain)) => table.put_chain(slot, *chain),
            Undo::Chain(_, slot, None) => drop(table.take_chain(slot)),
            Undo::ChainFields(_, slot, policy, userdata) => {
                if let Some(chain) = table.chains.get_mut(slot) {
                    chain.userdata = userdata;
                    if let (Some(base), Some(accepts)) = (&mut chain.base, policy) {
                        base.policy_accepts = accepts;
                    }
                }
            }
            Undo::RuleAdded(_, chain, index) => drop(table.take_rule(chain, index)),
            Undo::RuleRemoved(_, chain, index, rule) => table.put_rule(chain, index, *rule),
            Undo::Set(_, slot, Some(set)) => table.put_set(slot, *set),
            Undo::Set(_, slot, None) => drop(table.take_set(slot)),
            Undo::ElementAdded(_, set, spot) => drop(table.take_element(set, &spot)),
            Undo::ElementRemoved(_, set, element) => drop(table.put_element(set, *element)),
            Undo::Emptied(_, slot, elements, targets) => table.refill(slot, elements, targets),
            Undo::Lifetime(_, set, spot, (timeout, expires)) => {
                if let Some(element) = table.sets.get_mut(set).and_then(|set| set.at_mut(&spot)) {
                    (element.timeout, element.expires) = (timeout, expires);
                }
            }
            Undo::Table(..) | Undo::TableFields(..) => {}
        }
    }
}

/// Adds to or takes from a count.
#[derive(Clone, Copy)]
enum Count {
    Up,
    Down,
}

impl Count {
    fn apply(self, uses: &mut u32, by: u32) {
        *uses = match self {
            Count::Up => uses.saturating_add(by),
            Count::Down => uses.saturating_sub(by),
        };
    }
}

impl Table {
    pub(crate) fn put_chain(&mut self, slot: u32, chain: Chain) {
        self.chain_names.insert(chain.name.clone(), slot);
        self.chains.put(slot, chain);
    }

    pub(crate) fn take_chain(&mut self, slot: u32) -> Option<Chain> {
        let chain = self.chains.take(slot)?;
        self.chain_names.remove(&chain.name);
        Some(chain)
    }

    pub(crate) fn put_rule(&mut self, chain: u32, index: usize, rule: Rule) {
        self.count_rule(&rule, Count::Up);
        if let Some(chain) = self.chains.get_mut(chain) {
            let index = index.min(chain.rules.len());
            chain.rules.insert(index, rule);
        }
    }

    pub(crate) fn take_rule(&mut self, chain: u32, index: usize) -> Option<Rule> {
        let rules = &mut self.chains.get_mut(chain)?.rules;
        let rule = (index < rules.len()).then(|| rules.remove(index))?;
        self.count_rule(&rule, Count::Down);
        Some(rule)
    }

    fn count_rule(&mut self, rule: &Rule, count: Count) {
        for expr in &rule.exprs {
            count.apply(&mut self.trackers, u32::from(expr.needs_tracking()));
            if let Some(chain) = expr.target().and_then(|slot| self.chains.get_mut(slot)) {
                count.apply(&mut chain.uses, 1);
            }
            if let Some(set) = expr.set().and_then(|slot| self.sets.get_mut(slot)) {
                count.apply(&mut set.uses, 1);
            }
        }
    }

    fn count_targets(&mut self, targets: &FastMap<u32, u32>, count: Count) {
        for (chain, by) in targets {
            if let Some(chain) = self.chains.get_mut(*chain) {
                count.apply(&mut chain.uses, *by);
            }
        }
    }

    fn count_element(&mut self, element: &Element, count: Count) {
        let Datum::Verdict(verdict) = element.datum else { return };
        if let Some(chain) = verdict.target().and_then(|slot| self.chains.get_mut(slot)) {
            count.apply(&mut chain.uses, 1);
        }
    }

    pub(crate) fn put_set(&mut self, slot: u32, set: Set) {
        self.count_targets(&set.targets, Count::Up);
        self.set_names.insert(set.name.clone(), slot);
        self.sets.put(slot, set);
    }

    pub(crate) fn take_set(&mut self, slot: u32) -> Option<Set> {
        let set = self.sets.take(slot)?;
        self.set_names.remove(&set.name);
        self.count_targets(&set.targets, Count::Down);
        Some(set)
    }

    /// Puts an element in; what it replaced had expired.
    pub(crate) fn put_element(&mut self, set: u32, element: Element) -> Option<Element> {
        self.count_element(&element, Count::Up);
        let replaced = self.sets.get_mut(set)?.insert(element)?;
        self.count_element(&replaced, Count::Down);
        Some(replaced)
    }

    pub(crate) fn take_element(&mut self, set: u32, spot: &Spot) -> Option<Element> {
        let element = self.sets.get_mut(set)?.remove(spot)?;
        self.count_element(&element, Count::Down);
        Some(element)
    }

    pub(crate) fn empty_set(&mut self, slot: u32) -> Option<(Elements, FastMap<u32, u32>)> {
        let (elements, targets) = self.sets.get_mut(slot)?.take_all();
        self.count_targets(&targets, Count::Down);
        Some((elements, targets))
    }

    fn refill(&mut self, slot: u32, elements: Elements, targets: FastMap<u32, u32>) {
        self.count_targets(&targets, Count::Up);
        if let Some(set) = self.sets.get_mut(slot) {
            (set.elements, set.targets) = (elements, targets);
        }
    }
}
