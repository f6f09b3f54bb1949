//! Reading tables back: everything a program that adopts what it finds would read from a dump, in a fixed order.
//! It must never change anything. Tests: tests/nft_files.rs.

use super::print;
use super::set::{Datum, Element, Set, SetDefinition, Verdict};
use super::store::{BaseChain, Chain, Family, Rule, Store, Table};
use std::time::Duration;

/// All tables of a host.
#[derive(Clone, Copy)]
pub struct Nft<'h> {
    store: &'h Store,
    now: u64,
}

/// A table.
#[derive(Clone, Copy)]
pub struct TableView<'h> {
    table: &'h Table,
    now: u64,
}

/// A chain.
#[derive(Clone, Copy)]
pub struct ChainView<'h> {
    chain: &'h Chain,
}

/// A rule.
#[derive(Clone, Copy)]
pub struct RuleView<'h> {
    rule: &'h Rule,
}

/// A set or map.
#[derive(Clone, Copy)]
pub struct SetView<'h> {
    table: &'h Table,
    set: &'h Set,
    now: u64,
}

/// An element of a set or map.
#[derive(Clone, Copy)]
pub struct ElementView<'h> {
    table: &'h Table,
    set: &'h Set,
    element: &'h Element,
    now: u64,
}

/// What an element maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'h> {
    /// Nothing: the element of a set, or the end of an interval.
    None,
    /// Bytes.
    Value(&'h [u8]),
    /// A verdict.
    Verdict {
        /// NF_ACCEPT (1), NF_DROP (0), NFT_JUMP (-3), NFT_GOTO (-4), …
        code: i32,
        /// The chain of a jump or goto.
        chain: Option<&'h str>,
    },
}

impl<'h> Nft<'h> {
    pub(crate) fn new(store: &'h Store, now: u64) -> Self {
        Nft { store, now }
    }

    /// The generation's number, which every transaction raises by one.
    pub fn generation(self) -> u32 {
        self.store.generation
    }

    /// All tables, by family and name.
    pub fn tables(self) -> Vec<TableView<'h>> {
        let mut all: Vec<_> =
            self.store.tables.iter().map(|(_, table)| TableView { table, now: self.now }).collect();
        all.sort_by(|one, two| (one.family(), one.name()).cmp(&(two.family(), two.name())));
        all
    }

    /// One table.
    pub fn table(self, family: Family, name: &str) -> Option<TableView<'h>> {
        let table = self.store.tables.get(self.store.find(family, name)?)?;
        Some(TableView { table, now: self.now })
    }
}

impl<'h> TableView<'h> {
    /// Its family.
    pub fn family(&self) -> Family {
        self.table.family
    }

    /// Its name.
    pub fn name(&self) -> &'h str {
        &self.table.name
    }

    /// Its handle.
    pub fn handle(&self) -> u64 {
        self.table.handle
    }

    /// The user's own bytes.
    pub fn userdata(&self) -> Option<&'h [u8]> {
        self.table.userdata.as_deref()
    }

    /// The comment in the user's bytes.
    pub fn comment(&self) -> Option<String> {
        print::comment(self.userdata(), 0)
    }

    /// Its chains, by handle.
    pub fn chains(&self) -> Vec<ChainView<'h>> {
        let mut all: Vec<_> =
            self.table.chains.iter().map(|(_, chain)| ChainView { chain }).collect();
        all.sort_by_key(ChainView::handle);
        all
    }

    /// One chain.
    pub fn chain(&self, name: &str) -> Option<ChainView<'h>> {
        Some(ChainView { chain: self.table.chains.get(self.table.chain_named(name)?)? })
    }

    /// Its sets and maps, by handle.
    pub fn sets(&self) -> Vec<SetView<'h>> {
        let mut all: Vec<_> = self
            .table
            .sets
            .iter()
            .map(|(_, set)| SetView { table: self.table, set, now: self.now })
            .collect();
        all.sort_by_key(SetView::handle);
        all
    }

    /// One set or map.
    pub fn set(&self, name: &str) -> Option<SetView<'h>> {
        let set = self.table.sets.get(self.table.set_named(name)?)?;
        Some(SetView { table: self.table, set, now: self.now })
    }
}

impl<'h> ChainView<'h> {
    /// Its name.
    pub fn name(&self) -> &'h str {
        &self.chain.name
    }

    /// Its handle.
    pub fn handle(&self) -> u64 {
        self.chain.handle
    }

    /// How it is attached, if it is a base chain.
    pub fn base(&self) -> Option<BaseChain> {
        self.chain.base
    }

    /// How many jumps and verdict elements lead to it.
    pub fn uses(&self) -> u32 {
        self.chain.uses
    }

    /// The user's own bytes.
    pub fn userdata(&self) -> Option<&'h [u8]> {
        self.chain.userdata.as_deref()
    }

    /// The comment in the user's bytes.
    pub fn comment(&self) -> Option<String> {
        print::comment(self.userdata(), 0)
    }

    /// Its rules, in order.
    pub fn rules(&self) -> Vec<RuleView<'h>> {
        self.chain.rules.iter().map(|rule| RuleView { rule }).collect()
    }
}

impl<'h> RuleView<'h> {
    /// Its handle.
    pub fn handle(&self) -> u64 {
        self.rule.handle
    }

    /// Its expressions as they came: the content of NFTA_RULE_EXPRESSIONS.
    pub fn expressions(&self) -> &'h [u8] {
        &self.rule.raw
    }

    /// The user's own bytes.
    pub fn userdata(&self) -> Option<&'h [u8]> {
        self.rule.userdata.as_deref()
    }

    /// The comment in the user's bytes.
    pub fn comment(&self) -> Option<String> {
        print::comment(self.userdata(), 0)
    }

    /// Packets and bytes its counters have counted, in order.
    pub fn counters(&self) -> Vec<(u64, u64)> {
        use std::sync::atomic::Ordering::Relaxed;
        let counter = |expr: &super::expr::Expr| match expr {
            super::expr::Expr::Counter { packets, bytes } => {
                Some((packets.load(Relaxed), bytes.load(Relaxed)))
            }
            _ => None,
        };
        self.rule.exprs.iter().filter_map(counter).collect()
    }
}

impl<'h> SetView<'h> {
    /// Its name.
    pub fn name(&self) -> &'h str {
        &self.set.name
    }

    /// Its handle.
    pub fn handle(&self) -> u64 {
        self.set.handle
    }

    /// What it was declared to be.
    pub fn definition(&self) -> &'h SetDefinition {
        &self.set.definition
    }

    /// The user's own bytes.
    pub fn userdata(&self) -> Option<&'h [u8]> {
        self.set.userdata.as_deref()
    }

    /// The comment in the user's bytes (type 7, NFTNL_UDATA_SET_COMMENT).
    pub fn comment(&self) -> Option<String> {
        print::comment(self.userdata(), 7)
    }

    /// Its elements that have not expired, by key.
    pub fn elements(&self) -> Vec<ElementView<'h>> {
        let live = self.set.sorted().into_iter().filter(|element| element.alive(self.now));
        live.map(|element| ElementView { table: self.table, set: self.set, element, now: self.now })
            .collect()
    }

    /// The element a key finds, as a lookup would.
    pub fn find(&self, key: &[u8]) -> Option<ElementView<'h>> {
        let element = self.set.find(key, self.now)?;
        Some(ElementView { table: self.table, set: self.set, element, now: self.now })
    }

    /// How many elements it holds, expired ones included until they are collected.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Has it no elements?
    pub fn is_empty(&self) -> bool {
        self.set.len() == 0
    }
}

impl<'h> ElementView<'h> {
    /// Its key.
    pub fn key(&self) -> &'h [u8] {
        &self.element.key
    }

    /// The end of its range, in sets of ranges.
    pub fn key_end(&self) -> Option<&'h [u8]> {
        self.element.key_end.as_deref()
    }

    /// Is it the end of an interval (the first key behind it)?
    pub fn is_interval_end(&self) -> bool {
        self.element.interval_end
    }

    /// What it maps to.
    pub fn data(&self) -> Data<'h> {
        match &self.element.datum {
            Datum::None => Data::None,
            Datum::Value(value) => Data::Value(value),
            Datum::Verdict(verdict) => {
                let code = match verdict {
                    Verdict::Drop => 0,
                    Verdict::Accept => 1,
                    Verdict::Continue => -1,
                    Verdict::Break => -2,
                    Verdict::Jump(_) => -3,
                    Verdict::Goto(_) => -4,
                    Verdict::Return => -5,
                };
                let chain = verdict
                    .target()
                    .and_then(|slot| self.table.chains.get(slot))
                    .map(|chain| &*chain.name);
                Data::Verdict { code, chain }
            }
        }
    }

    /// The user's own bytes.
    pub fn userdata(&self) -> Option<&'h [u8]> {
        self.element.userdata.as_deref()
    }

    /// The comment in the user's bytes.
    pub fn comment(&self) -> Option<String> {
        print::comment(self.userdata(), 0)
    }

    /// How long it lives from its start, if not for ever.
    pub fn timeout(&self) -> Option<Duration> {
        (self.element.timeout != 0).then(|| Duration::from_nanos(self.element.timeout))
    }

    /// How long it still lives, if not for ever.
    pub fn expires(&self) -> Option<Duration> {
        (self.element.expires != u64::MAX)
            .then(|| Duration::from_nanos(self.element.expires.saturating_sub(self.now)))
    }

    /// Key and data in words.
    pub fn describe(&self) -> String {
        let definition = &self.set.definition;
        format!(
            "{} : {}",
            print::key(definition, self.key()),
            print::datum(self.table, definition, &self.element.datum)
        )
    }
}
