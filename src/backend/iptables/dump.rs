//! What iptables-save printed, or what netlink told, as far as it concerns us: chains whose names
//! begin with `KUBE-`, and what built-in chains have. Words are compared, not understood.
//! Tests: below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::chain::Table;
use super::compat::{self, fingerprint};
use super::rule::Rule;
use crate::kernel::RuleFact;
use crate::model::Family;

/// What rules are told in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tongue {
    /// Words of iptables-save.
    #[default]
    Text,
    /// Fingerprints of their expressions.
    Netlink,
}

/// The chains of one family, borrowed from the text.
#[derive(Debug, Default)]
pub struct Dump<'a> {
    tongue: Tongue,
    tables: BTreeMap<Table, BTreeMap<&'a str, Vec<&'a str>>>,
}

impl<'a> Dump<'a> {
    /// Reads a text; tables that we have nothing in are passed over.
    pub fn read(text: &'a str) -> Dump<'a> {
        let mut dump = Dump::default();
        let mut table = None;
        // Rules of one chain follow each other.
        let mut last: Option<(&str, &mut Vec<&str>)> = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::named(name.trim());
                last = None;
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next().unwrap_or_default();
                last = None;
                dump.tables.entry(table).or_default().entry(name).or_default();
            } else if let Some((name, rule)) = rule_of(line) {
                match &mut last {
                    Some((known, rules)) if *known == name => rules.push(rule),
                    _ => {
                        let chains = dump.tables.entry(table).or_default();
                        let rules = chains.entry(name).or_default();
                        rules.push(rule);
                        last = Some((name, rules));
                    }
                }
            }
        }
        dump
    }

    /// Reads what a [`Listing`] has.
    pub fn heard(listing: &'a Listing) -> Dump<'a> {
        Dump { tongue: Tongue::Netlink, ..Dump::read(&listing.0) }
    }

    /// What a rule is called here if it is as wanted.
    pub fn words(&self, rule: &Rule, family: Family) -> String {
        match self.tongue {
            Tongue::Text => rule.text(family),
            // What cannot be written is not there either.
            Tongue::Netlink => compat::encode(rule, family)
                .map(|rule| format!(" {}", fingerprint(rule.expressions())))
                .unwrap_or_default(),
        }
    }

    /// The rules of a chain, each with a space before it; `None` if there is no such chain.
    pub fn rules(&self, table: Table, chain: &str) -> Option<&[&'a str]> {
        self.tables.get(&table)?.get(chain).map(Vec::as_slice)
    }

    /// The chains of a table, with their rules.
    pub fn chains(&self, table: Table) -> impl Iterator<Item = (&'a str, &[&'a str])> {
        let all = self.tables.get(&table).into_iter().flatten();
        all.map(|(name, rules)| (*name, rules.as_slice()))
    }
}

/// What netlink told of a family's tables: chains, and fingerprints of their rules.
#[derive(Debug, Default)]
pub struct Listing(String);

impl Listing {
    /// What follows is of this table.
    pub fn table(&mut self, table: Table) {
        let _ = writeln!(self.0, "*{}", table.name());
    }

    /// A chain with its rules, in their order.
    pub fn chain(&mut self, name: &str, rules: &[RuleFact]) {
        let _ = writeln!(self.0, ":{name} - [0:0]");
        for rule in rules {
            let _ = writeln!(self.0, "-A {name} {}", fingerprint(&rule.expressions));
        }
    }
}

/// `-A CHAIN rule`: the chain, and the rule with the space before it.
fn rule_of(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("-A ")?;
    let end = rest.find(' ').unwrap_or(rest.len());
    Some((&rest[..end], rest[end..].trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        let text = "# made by somebody\n*raw\n:X - [0:0]\nCOMMIT\n*nat\n:PREROUTING ACCEPT [1:2]\n\
                    :KUBE-A - [0:0]\n-A PREROUTING -j KUBE-A\n-A KUBE-A -d 10.0.0.1/32 -j DROP\n\
                    -A KUBE-A\nCOMMIT\n";
        let dump = Dump::read(text);
        assert_eq!(dump.rules(Table::Nat, "KUBE-A"), Some(&[" -d 10.0.0.1/32 -j DROP", ""][..]));
        assert_eq!(dump.rules(Table::Nat, "KUBE-B"), None);
        assert_eq!(dump.rules(Table::Filter, "KUBE-A"), None);
        let names: Vec<&str> = dump.chains(Table::Nat).map(|(name, _)| name).collect();
        assert_eq!(names, ["KUBE-A", "PREROUTING"]);
    }
}
