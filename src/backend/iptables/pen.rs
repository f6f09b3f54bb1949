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
    /// What was written of this table so far may come in before the rest: no packet can see it yet,
    /// or each part of it is right by itself.
    fn boundary(&mut self, _table: Table) {}
    /// Whether a chain of about so many lines, of which some go and others come, is better written
    /// whole than changed line by line.
    fn prefers_whole(&self, (gone, come): (usize, usize), lines: usize) -> bool {
        gone + come > FEW && gone + come > lines / ONE_IN
    }
}

/// Of a chain, lines are put in and taken out one by one as long as they are at most one of so many.
/// Of 10,000 lines the legacy flavour (iptables 1.8.9) takes out 5,000 in 0.2 s and writes all in 0.23 s.
const ONE_IN: usize = 2;
/// Fewer lines than this are always put in and taken out one by one.
const FEW: usize = 16;
/// The nf_tables flavour searches the chain for each line that goes: of 10,000 lines it takes out 100 in
/// 0.95 s, 1,000 in 8 s, and writes all in 1.1 s; of other chains both are shorter alike. Lines that come
/// cost it 0.05 ms each.
const MOST_SEARCHES: usize = 100;

/// How a long text is best given to the tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// A table at once: the legacy flavour reads and writes all of it at each `COMMIT`.
    #[default]
    One,
    /// In parts, where boundaries are: the nf_tables flavour keeps the names of a part in a list that
    /// it searches for each line (`nft_cache_level_set`).
    Many,
}

/// Writes text for `iptables-restore --noflush`.
#[derive(Debug)]
pub struct Text {
    family: Family,
    blocks: Blocks,
    sheets: [Vec<Sheet>; 3],
    operations: usize,
    rules: [usize; 3],
}

#[derive(Debug, Default)]
struct Sheet {
    chains: String,
    rules: String,
    removals: String,
}

impl Text {
    /// An empty one.
    pub fn new(family: Family, blocks: Blocks) -> Text {
        let sheets = Table::ALL.map(|_| vec![Sheet::default()]);
        Text { family, blocks, sheets, operations: 0, rules: [0; 3] }
    }

    /// Whose tables it changes.
    pub fn family(&self) -> Family {
        self.family
    }

    /// How many chains and rules it makes or takes away.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// How many rules it writes in each table.
    pub fn rules(&self) -> impl Iterator<Item = (Table, usize)> {
        Table::ALL.into_iter().zip(self.rules)
    }

    /// The text; empty if there is nothing to change.
    pub fn finish(self) -> String {
        let length: usize = self.sheets.iter().flatten().map(Sheet::len).sum();
        let mut out = String::with_capacity(length + 64);
        let sheets = Table::ALL.into_iter().zip(&self.sheets);
        let sheets = sheets.flat_map(|(table, sheets)| sheets.iter().map(move |s| (table, s)));
        for (table, sheet) in sheets.filter(|(_, sheet)| sheet.len() > 0) {
            for part in ["*", table.name(), "\n"] {
                out.push_str(part);
            }
            self.declare(&sheet.chains, &mut out);
            for part in [&sheet.rules, &sheet.removals, "COMMIT\n"] {
                out.push_str(part);
            }
        }
        out
    }

    /// The legacy tool keeps chains in the order of their names and looks for the place of each
    /// (`iptc_insert_chain`): 10,000 Services × 10 take it 6.7 s if they come in that order, else 10.4 s.
    fn declare(&self, chains: &str, out: &mut String) {
        match self.blocks {
            Blocks::One => {
                let mut lines: Vec<&str> = chains.split_inclusive('\n').collect();
                lines.sort_unstable();
                lines.iter().for_each(|line| out.push_str(line));
            }
            Blocks::Many => out.push_str(chains),
        }
    }

    /// A rule goes that is written as iptables-save printed it, with the space before it.
    pub fn delete_text(&mut self, table: Table, chain: &str, rule: &str) {
        let _ = writeln!(self.sheet(table).rules, "-D {chain}{rule}");
        self.operations += 1;
    }

    fn sheet(&mut self, table: Table) -> &mut Sheet {
        let sheets = &mut self.sheets[table as usize];
        sheets.last_mut().expect("each table begins with a sheet, and none is taken away")
    }

    fn rule(&mut self, table: Table, (verb, chain): (&str, Chain), rule: &Rule) {
        let family = self.family;
        let rules = &mut self.sheet(table).rules;
        // A String takes everything.
        let _ = write!(rules, "{verb} {chain}");
        rule.write(family, rules);
        rules.push('\n');
        self.operations += 1;
        self.rules[table as usize] += usize::from(verb != "-D");
    }
}

impl Sheet {
    fn len(&self) -> usize {
        self.chains.len() + self.rules.len() + self.removals.len()
    }
}

impl Pen for Text {
    fn chain(&mut self, table: Table, chain: &dyn fmt::Display) {
        let _ = writeln!(self.sheet(table).chains, ":{chain} - [0:0]");
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
        let _ = writeln!(self.sheet(table).removals, "-X {chain}");
        self.operations += 1;
    }

    fn boundary(&mut self, table: Table) {
        if self.blocks == Blocks::Many && self.sheet(table).len() > 0 {
            self.sheets[table as usize].push(Sheet::default());
        }
    }

    fn prefers_whole(&self, (gone, come): (usize, usize), lines: usize) -> bool {
        let searches = self.blocks == Blocks::Many && gone > MOST_SEARCHES;
        searches || (gone + come > FEW && gone + come > lines / ONE_IN)
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
