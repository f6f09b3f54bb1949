//! The pen that writes netlink: the same chains and rules as the text, in tables that iptables-nft
//! knows as its own, without its process. All of it is one transaction; chains that are not there
//! yet, to which nothing leads, may be written before in steps, so that no step is too large.
//! It must never know why a rule is there. Tests: below; what the rules are, against the tool: `benches/tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::chain::{Chain, Table};
use super::compat::{encode, fingerprint};
use super::dump::Dump;
use super::pen::Pen;
use super::rule::Rule;
use crate::kernel::{NftBatch, RuleFact};
use crate::model::Family;
use crate::netlink::expr::Rule as Expressions;
pub use crate::netlink::nft::guarded;
use crate::netlink::nft::{Batch, ChainKind, Hook};

/// About as many bytes go to the kernel at once.
const STEP: usize = 16 << 20;
/// Where the sequence numbers of parts begin, far enough apart.
const CHAINS: u32 = 1;
const LATE: u32 = 1 << 28;
const REMOVALS: u32 = 1 << 29;
const HEAD: u32 = 1 << 30;

/// Built-in chains with their hooks, as iptables-nft makes them.
const BUILT_IN: &[(Table, &str, Hook)] = &[
    (Table::Filter, "INPUT", hook(ChainKind::Filter, 1, 0)),
    (Table::Filter, "FORWARD", hook(ChainKind::Filter, 2, 0)),
    (Table::Filter, "OUTPUT", hook(ChainKind::Filter, 3, 0)),
    (Table::Nat, "PREROUTING", hook(ChainKind::Nat, 0, -100)),
    (Table::Nat, "INPUT", hook(ChainKind::Nat, 1, 100)),
    (Table::Nat, "OUTPUT", hook(ChainKind::Nat, 3, -100)),
    (Table::Nat, "POSTROUTING", hook(ChainKind::Nat, 4, 100)),
    (Table::Mangle, "INPUT", hook(ChainKind::Filter, 1, -150)),
];

const fn hook(kind: ChainKind, number: u32, priority: i32) -> Hook {
    Hook { kind, number, priority }
}

/// A change being written as netlink.
#[derive(Debug)]
pub struct Wire<'a> {
    family: Family,
    /// What is there. `None`: any chain may be there and be in use.
    there: Option<&'a Dump<'a>>,
    tables: BTreeSet<Table>,
    built_in: BTreeSet<(Table, &'static str)>,
    chains: Batch<'static>,
    early: Vec<Batch<'static>>,
    late: Batch<'static>,
    removals: Batch<'static>,
    deletions: Vec<(Table, Chain, String)>,
    unwritable: Option<String>,
}

/// Why there is nothing to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A rule that is to go is not there.
    Missing(String),
    /// A rule that has no form in netlink; without it all would be wrong.
    Unwritable(String),
}

impl<'a> Wire<'a> {
    /// An empty one. With a dump of what is there, chains that are not in it are written in steps.
    pub fn new(family: Family, there: Option<&'a Dump<'a>>) -> Wire<'a> {
        let part = |sequence| Batch::part(family, "", sequence);
        Wire {
            family,
            there,
            tables: BTreeSet::new(),
            built_in: BTreeSet::new(),
            chains: part(CHAINS),
            early: Vec::new(),
            late: part(LATE),
            removals: part(REMOVALS),
            deletions: Vec::new(),
            unwritable: None,
        }
    }

    /// Chains whose rules must be listed, so that those that are to go can be named by handle.
    pub fn to_be_listed(&self) -> BTreeSet<(Table, String)> {
        self.deletions.iter().map(|(table, chain, _)| (*table, chain.to_string())).collect()
    }

    /// The transactions, to be carried out one after the other; none if there is nothing to change.
    pub fn finish(mut self, listed: &[(Table, RuleFact)]) -> Result<Vec<NftBatch>, Trouble> {
        if let Some(rule) = self.unwritable.take() {
            return Err(Trouble::Unwritable(rule));
        }
        self.name_deletions(listed)?;
        let mut head = Batch::part(self.family, "", HEAD);
        for table in &self.tables {
            head.turn_to(table.name());
            head.add_plain_table();
        }
        for (table, name, hook) in BUILT_IN {
            if self.built_in.contains(&(*table, *name)) {
                head.turn_to(table.name());
                head.ensure_base_chain(name, *hook);
            }
        }
        let mut parts = vec![head, self.chains];
        let mut out = Vec::new();
        for early in self.early {
            let bytes: usize = parts.iter().map(Batch::len).sum();
            if bytes + early.len() > STEP && bytes > 0 {
                out.push(Batch::joined(std::mem::take(&mut parts)));
            }
            parts.push(early);
        }
        parts.extend([self.late, self.removals]);
        if parts.iter().any(|part| !part.is_empty()) {
            out.push(Batch::joined(parts));
        }
        Ok(out)
    }

    /// Turns rules that are to go into deletions by handle; of rules that are there twice, the first.
    fn name_deletions(&mut self, listed: &[(Table, RuleFact)]) -> Result<(), Trouble> {
        let mut there: BTreeMap<(Table, String, String), Vec<u64>> = BTreeMap::new();
        for (table, rule) in listed.iter().rev().filter(|_| !self.deletions.is_empty()) {
            let place = (*table, rule.chain.clone(), fingerprint(&rule.expressions));
            there.entry(place).or_default().push(rule.handle);
        }
        for (table, chain, wanted) in &self.deletions {
            let name = chain.to_string();
            let place = (*table, name.clone(), wanted.clone());
            let Some(handle) = there.get_mut(&place).and_then(Vec::pop) else {
                return Err(Trouble::Missing(format!("a rule of {name} in {}", table.name())));
            };
            self.late.turn_to(table.name());
            self.late.delete_rule(&name, handle);
        }
        Ok(())
    }

    /// The rule as netlink has it; one that has no form there spoils the whole change.
    fn encoded(&mut self, rule: &Rule) -> Option<Expressions> {
        let encoded = encode(rule, self.family);
        if encoded.is_none() {
            self.unwritable.get_or_insert_with(|| rule.text(self.family));
        }
        encoded
    }

    fn is_new(&self, table: Table, chain: &dyn fmt::Display) -> bool {
        self.there.is_some_and(|dump| dump.rules(table, &chain.to_string()).is_none())
    }

    /// Where rules of a chain go.
    fn sheet(&mut self, table: Table, chain: &Chain) -> &mut Batch<'static> {
        let sheet = if self.is_new(table, chain) && !self.is_built_in(table, chain) {
            self.early_sheet()
        } else {
            &mut self.late
        };
        sheet.turn_to(table.name());
        sheet
    }

    fn early_sheet(&mut self) -> &mut Batch<'static> {
        if self.early.last().is_none_or(|sheet| sheet.len() >= STEP / 4) {
            let sequence = (self.early.len() as u32 + 1) << 20;
            self.early.push(Batch::part(self.family, "", sequence));
        }
        self.early.last_mut().expect("one was pushed if there was none")
    }

    fn is_built_in(&mut self, table: Table, chain: &Chain) -> bool {
        let Chain::Fixed(name) = chain else { return false };
        let found = BUILT_IN.iter().any(|(t, known, _)| *t == table && known == name);
        if found {
            self.built_in.insert((table, name));
        }
        found
    }
}

/// Whether a chain of a table may have something of ours.
pub fn concerns(table: Table, chain: &str) -> bool {
    chain.starts_with("KUBE-") || BUILT_IN.iter().any(|(t, name, _)| *t == table && *name == chain)
}

impl Pen for Wire<'_> {
    fn chain(&mut self, table: Table, chain: &dyn fmt::Display) {
        self.tables.insert(table);
        let name = chain.to_string();
        self.chains.turn_to(table.name());
        self.chains.add_chain(&name, None);
        if !self.is_new(table, chain) {
            self.late.turn_to(table.name());
            self.late.flush_chain(&name);
        }
    }

    fn append(&mut self, table: Table, chain: Chain, rule: &Rule) {
        self.tables.insert(table);
        let Some(rule) = self.encoded(rule) else { return };
        self.sheet(table, &chain).add_rule(&chain.to_string(), &rule);
    }

    fn insert(&mut self, table: Table, chain: Chain, rule: &Rule) {
        self.tables.insert(table);
        let Some(rule) = self.encoded(rule) else { return };
        self.sheet(table, &chain).insert_rule((&chain.to_string(), None), &rule);
    }

    fn delete(&mut self, table: Table, chain: Chain, rule: &Rule) {
        let Some(rule) = self.encoded(rule) else { return };
        self.deletions.push((table, chain, fingerprint(rule.expressions())));
    }

    fn remove(&mut self, table: Table, chain: &dyn fmt::Display) {
        self.removals.turn_to(table.name());
        self.removals.delete_chain(&chain.to_string());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::chain;
    use super::super::rule::{Match, Target, Test};
    use super::*;
    use crate::kernel::simulated::Simulated;
    use crate::kernel::{Facts, Kernel as _, Query, Transaction};

    const PRE: Chain = Chain::Fixed("PREROUTING");

    fn local() -> Rule {
        Rule::commented("local").with(Match::SourceIsLocal).jump(chain::MARK_MASQ)
    }

    fn write(pen: &mut dyn Pen) {
        // The chain that is jumped to may be told later than the jump.
        pen.chain(Table::Nat, &chain::SERVICES);
        pen.append(Table::Nat, chain::SERVICES, &local());
        pen.chain(Table::Nat, &chain::MARK_MASQ);
        let mark = Target::Mark { value: 0x4000, mask: 0x4000 };
        pen.append(Table::Nat, chain::MARK_MASQ, &Rule::default().then(mark));
        pen.insert(Table::Nat, PRE, &Rule::default().jump(chain::SERVICES));
    }

    fn apply(kernel: &mut Simulated, wire: Wire<'_>) -> Result<usize, Trouble> {
        let mut listed = Vec::new();
        for (table, chain) in wire.to_be_listed() {
            let query = Query::Rules(Family::V4, table.name().to_owned(), Some(chain));
            let Facts::Rules(rules) = kernel.read(&query).unwrap() else { continue };
            listed.extend(rules.into_iter().map(|rule| (table, rule)));
        }
        let batches = wire.finish(&listed)?;
        let count = batches.len();
        for batch in batches {
            kernel.apply(&Transaction::Nft(batch)).unwrap();
        }
        Ok(count)
    }

    fn rules(kernel: &mut Simulated, chain: &str) -> usize {
        let query = Query::Rules(Family::V4, "nat".to_owned(), Some(chain.to_owned()));
        match kernel.read(&query).unwrap() {
            Facts::Rules(rules) => rules.len(),
            _ => 0,
        }
    }

    #[test]
    fn what_is_written_is_there_and_can_be_named_to_go() {
        let mut kernel = Simulated::new(sim::Host::new(1));
        let nothing = Dump::default();
        let mut wire = Wire::new(Family::V4, Some(&nothing));
        write(&mut wire);
        assert_eq!(apply(&mut kernel, wire), Ok(1));
        assert_eq!(rules(&mut kernel, "KUBE-SERVICES"), 1);
        assert_eq!(rules(&mut kernel, "PREROUTING"), 1);
        // Once more over what is there: chains are emptied first.
        let mut wire = Wire::new(Family::V4, None);
        write(&mut wire);
        assert_eq!(apply(&mut kernel, wire), Ok(1));
        assert_eq!(rules(&mut kernel, "KUBE-SERVICES"), 1);
        let mut wire = Wire::new(Family::V4, None);
        wire.delete(Table::Nat, chain::SERVICES, &local());
        assert_eq!(apply(&mut kernel, wire), Ok(1));
        assert_eq!(rules(&mut kernel, "KUBE-SERVICES"), 0);
    }

    #[test]
    fn a_rule_that_is_not_there_is_named() {
        let mut kernel = Simulated::new(sim::Host::new(1));
        let mut wire = Wire::new(Family::V4, None);
        wire.delete(Table::Nat, chain::SERVICES, &local());
        let missing = apply(&mut kernel, wire).unwrap_err();
        assert_eq!(missing, Trouble::Missing("a rule of KUBE-SERVICES in nat".to_owned()));
    }

    #[test]
    fn a_rule_that_cannot_be_written_spoils_the_change() {
        let mut wire = Wire::new(Family::V4, None);
        let set = Match::Set(Test::is("KUBE-CLUSTER-IP"), "dst,dst");
        wire.append(Table::Nat, chain::SERVICES, &Rule::default().with(set).jump(chain::MARK_MASQ));
        assert!(matches!(wire.finish(&[]), Err(Trouble::Unwritable(_))));
    }

    #[test]
    fn nothing_to_change_is_no_transaction() {
        assert_eq!(Wire::new(Family::V4, None).finish(&[]).unwrap().len(), 0);
    }
}
