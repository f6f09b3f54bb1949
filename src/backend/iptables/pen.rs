//! What a plan writes with. One pen writes text for iptables-restore; another may write netlink.
//! It must never know why a rule is there. Tests: with `plan`.

use std::fmt::{self, Write as _};

use super::chain::{Chain, Table};
use super::rule::Rule;
use crate::model::Family;

/// Takes down a change to one family's tables. Within a table the order is: chains are made, then
/// rules come and go in the order they are told, then chains are removed.
pub trait Pen {
    /// Makes a chain, or empties it if it is there.
    fn chain(&mut self, table: Table, chain: &dyn fmt::Display);
    /// A rule behind all others.
    fn append(&mut self, table: Table, chain: Chain, rule: &Rule);
    /// A rule before all others.
    fn insert(&mut self, table: Table, chain: Chain, rule: &Rule);
    /// The rule goes.
    fn delete(&mut self, table: Table, chain: Chain, rule: &Rule);
    /// The chain, empty by now, goes.
    fn remove(&mut self, table: Table, chain: &dyn fmt::Display);
}

/// Writes text for `iptables-restore --noflush`.
#[derive(Debug)]
pub struct Text {
    family: Family,
    sheets: [Sheet; 3],
    operations: usize,
}

#[derive(Debug, Default)]
struct Sheet {
    chains: String,
    rules: String,
    removals: String,
}

impl Text {
    /// An empty one.
    pub fn new(family: Family) -> Text {
        Text { family, sheets: Default::default(), operations: 0 }
    }

    /// Whose tables it changes.
    pub fn family(&self) -> Family {
        self.family
    }

    /// How many chains and rules it makes or takes away.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// The text; empty if there is nothing to change.
    pub fn finish(self) -> String {
        let length: usize = self.sheets.iter().map(Sheet::len).sum();
        let mut out = String::with_capacity(length + 64);
        for (table, sheet) in Table::ALL.into_iter().zip(&self.sheets) {
            if sheet.len() == 0 {
                continue;
            }
            for part in ["*", table.name(), "\n", &sheet.chains, &sheet.rules, &sheet.removals] {
                out.push_str(part);
            }
            out.push_str("COMMIT\n");
        }
        out
    }

    fn rule(&mut self, table: Table, (verb, chain): (&str, Chain), rule: &Rule) {
        let rules = &mut self.sheets[table as usize].rules;
        // A String takes everything.
        let _ = write!(rules, "{verb} {chain}");
        rule.write(self.family, rules);
        rules.push('\n');
        self.operations += 1;
    }
}

impl Sheet {
    fn len(&self) -> usize {
        self.chains.len() + self.rules.len() + self.removals.len()
    }
}

impl Pen for Text {
    fn chain(&mut self, table: Table, chain: &dyn fmt::Display) {
        let _ = writeln!(self.sheets[table as usize].chains, ":{chain} - [0:0]");
        self.operations += 1;
    }

    fn append(&mut self, table: Table, chain: Chain, rule: &Rule) {
        self.rule(table, ("-A", chain), rule);
    }

    fn insert(&mut self, table: Table, chain: Chain, rule: &Rule) {
        self.rule(table, ("-I", chain), rule);
    }

    fn delete(&mut self, table: Table, chain: Chain, rule: &Rule) {
        self.rule(table, ("-D", chain), rule);
    }

    fn remove(&mut self, table: Table, chain: &dyn fmt::Display) {
        let _ = writeln!(self.sheets[table as usize].removals, "-X {chain}");
        self.operations += 1;
    }
}

/// Writes nothing; keeps the first thing that was to be written, and counts.
#[derive(Debug, Default)]
pub struct Finger {
    first: Option<String>,
    count: usize,
}

impl Finger {
    /// What is first to be written and how many things are, if there are any.
    pub fn finish(self) -> Option<(String, usize)> {
        self.first.map(|first| (first, self.count))
    }

    fn point(&mut self, table: Table, chain: &dyn fmt::Display) {
        self.first.get_or_insert_with(|| format!("{chain} in {}", table.name()));
        self.count += 1;
    }
}

impl Pen for Finger {
    fn chain(&mut self, table: Table, chain: &dyn fmt::Display) {
        self.point(table, chain);
    }

    fn append(&mut self, table: Table, chain: Chain, _: &Rule) {
        self.point(table, &chain);
    }

    fn insert(&mut self, table: Table, chain: Chain, _: &Rule) {
        self.point(table, &chain);
    }

    fn delete(&mut self, table: Table, chain: Chain, _: &Rule) {
        self.point(table, &chain);
    }

    fn remove(&mut self, table: Table, chain: &dyn fmt::Display) {
        self.point(table, chain);
    }
}
