//! A table: chains and their rules, changed in a transaction that is kept or taken back as a whole.
//! A change costs what it touches, never what the table holds. It must never know words or packets.
//! Tests: tests/xtables_texts.rs.

use super::XtTable;
use super::error::{Refusal, Taken, XtErrorKind};
use super::objects::Counters;
use super::places::{LONG, Places};
use super::rule::{Rule, Spec};
use super::targets::{Target, VERDICTS};
use super::words::Word;
use crate::hash::FastMap;
use crate::nft::Hook;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// A chain.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) name: Arc<str>,
    /// Built in: its hook, and whether what reaches its end is accepted.
    pub(super) base: Option<(Hook, bool)>,
    /// Of packets that reached its end; user's chains have none.
    pub(super) counters: Arc<Counters>,
    pub(super) rules: Vec<Arc<Rule>>,
    /// Made when a packet first needs it, gone with a change.
    places: OnceLock<Places>,
}

impl Chain {
    /// The next rule from this one on that a packet to a destination is to be shown.
    #[inline]
    pub(super) fn skip(&self, from: usize, destination: IpAddr) -> usize {
        if self.rules.len() < LONG {
            return from;
        }
        let places = self.places.get_or_init(|| Places::of(&self.rules));
        places.next(from, destination).unwrap_or(self.rules.len())
    }
}

/// How to take a transaction back, and what to tell others once it is kept.
#[derive(Debug, Default)]
struct Undo {
    before: FastMap<u32, Option<Arc<Chain>>>,
    /// Chains whose number of jumps to them moved, and by how much.
    uses: Vec<(u32, bool)>,
    freed: Vec<u32>,
    taken: Vec<u32>,
    /// Rules that came (true) and went.
    moved: Vec<(Arc<Spec>, bool)>,
}

/// A table of one family.
#[derive(Debug)]
pub(super) struct Table {
    chains: Vec<Option<Arc<Chain>>>,
    names: BTreeMap<Arc<str>, u32>,
    /// Jumps that lead to each chain.
    uses: Vec<u32>,
    free: Vec<u32>,
    undo: Undo,
}

fn no_chain(column: usize, name: &str) -> Refusal {
    Refusal::new(
        XtErrorKind::Absent,
        column,
        format!("No chain/target/match by that name: `{name}'"),
    )
}

impl Table {
    pub(super) fn new(table: XtTable) -> Self {
        let base = |hook: &Hook| {
            let name: Arc<str> = hook.name().to_ascii_uppercase().into();
            Arc::new(Chain {
                name,
                base: Some((*hook, true)),
                counters: Arc::default(),
                rules: Vec::new(),
                places: OnceLock::new(),
            })
        };
        let chains: Vec<_> = table.hooks().iter().map(base).collect();
        let names =
            chains.iter().zip(0..).map(|(chain, slot)| (chain.name.clone(), slot)).collect();
        let uses = vec![0; chains.len()];
        Table {
            chains: chains.into_iter().map(Some).collect(),
            names,
            uses,
            free: Vec::new(),
            undo: Undo::default(),
        }
    }

    #[inline]
    pub(super) fn chain(&self, slot: u32) -> Option<&Chain> {
        self.chains.get(slot as usize)?.as_deref()
    }

    /// The built-in chains by slot.
    pub(super) fn built_in(&self) -> impl Iterator<Item = (u32, Hook)> {
        let base = |(slot, chain): (usize, &Option<Arc<Chain>>)| {
            Some((slot as u32, chain.as_ref()?.base?.0))
        };
        self.chains.iter().take(5).enumerate().filter_map(base)
    }

    /// Chains as iptables-save orders them: built-in ones by hook, then the others by name.
    pub(super) fn ordered(&self) -> impl Iterator<Item = &Chain> {
        let built_in = self.built_in().filter_map(|(slot, _)| self.chain(slot));
        let others = self
            .names
            .values()
            .filter_map(|slot| self.chain(*slot))
            .filter(|chain| chain.base.is_none());
        built_in.chain(others)
    }

    /// The slot of a chain.
    pub(super) fn find(&self, name: &Word) -> Taken<u32> {
        self.names.get(name.text.as_str()).copied().ok_or_else(|| no_chain(name.column, &name.text))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn remember(&mut self, slot: u32) {
        let before = self.chains.get(slot as usize).cloned().flatten();
        self.undo.before.entry(slot).or_insert(before);
    }

    fn edit(&mut self, slot: u32, change: impl FnOnce(&mut Chain)) {
        self.remember(slot);
        if let Some(Some(chain)) = self.chains.get_mut(slot as usize) {
            let chain = Arc::make_mut(chain);
            chain.places = OnceLock::new();
            change(chain);
        }
    }

    fn came(&mut self, rule: &Rule) {
        self.moved(rule, true);
    }

    fn moved(&mut self, rule: &Rule, came: bool) {
        if let Some((_, slot)) = rule.spec.target.chain() {
            self.count_use(slot, came);
            self.undo.uses.push((slot, came));
        }
        self.undo.moved.push((rule.spec.clone(), came));
    }

    fn count_use(&mut self, slot: u32, more: bool) {
        if let Some(uses) = self.uses.get_mut(slot as usize) {
            *uses = if more { *uses + 1 } else { uses.saturating_sub(1) };
        }
    }

    /// Makes a chain.
    pub(super) fn create(&mut self, name: &Word) -> Taken<()> {
        let text = name.text.as_str();
        let refuse = |kind, detail: String| Err(Refusal::new(kind, name.column, detail));
        match text {
            _ if self.has(text) => {
                return refuse(XtErrorKind::Exists, format!("Chain already exists: `{text}'"));
            }
            _ if text.len() > 28 => {
                let detail = format!("chain name `{text}' too long (must be under 29 chars)");
                return refuse(XtErrorKind::Syntax, detail);
            }
            _ if text.is_empty()
                || text.starts_with(['-', '!'])
                || text.contains(char::is_whitespace) =>
            {
                let detail = format!(
                    "chain name `{text}' not allowed: expected no `-' or `!' before it and no spaces in it"
                );
                return refuse(XtErrorKind::Syntax, detail);
            }
            _ if VERDICTS.contains(&text) => {
                return refuse(
                    XtErrorKind::Invalid,
                    format!("chain name `{text}' may not clash with target name"),
                );
            }
            _ if Target::is_extension(text) => {
                return Err(Refusal::unmodelled(
                    name.column,
                    format!("a chain called as the target `{text}'"),
                ));
            }
            _ => {}
        }
        let slot = self.free.pop().unwrap_or(self.chains.len() as u32);
        self.undo.taken.push(slot);
        self.remember(slot);
        let chain = Arc::new(Chain {
            name: text.into(),
            base: None,
            counters: Arc::default(),
            rules: Vec::new(),
            places: OnceLock::new(),
        });
        self.names.insert(chain.name.clone(), slot);
        match self.chains.get_mut(slot as usize) {
            Some(place) => *place = Some(chain),
            None => {
                self.chains.push(Some(chain));
                self.uses.push(0);
            }
        }
        Ok(())
    }

    /// Removes a chain, which must be empty and not jumped to.
    pub(super) fn delete(&mut self, name: &Word) -> Taken<()> {
        let slot = self.find(name)?;
        let Some(chain) = self.chain(slot).filter(|chain| chain.base.is_none()) else {
            return Err(Refusal::new(
                XtErrorKind::Invalid,
                name.column,
                format!("`{}' is built in", name.text),
            ));
        };
        let uses = self.uses.get(slot as usize).copied().unwrap_or(0);
        if uses > 0 || !chain.rules.is_empty() {
            let why =
                if uses > 0 { format!("{uses} jumps lead to it") } else { "it holds rules".into() };
            return Err(Refusal::new(
                XtErrorKind::Busy,
                name.column,
                format!("chain `{}' is in use: {why}", name.text),
            ));
        }
        self.forget(slot);
        Ok(())
    }

    fn forget(&mut self, slot: u32) {
        self.remember(slot);
        let chain = self.chains.get_mut(slot as usize).and_then(Option::take);
        if let Some(chain) = chain {
            self.names.remove(&chain.name);
        }
        self.undo.freed.push(slot);
    }

    /// Removes every chain that is not built in; the first that cannot go is the error.
    pub(super) fn delete_all(&mut self, column: usize) -> Taken<()> {
        let names: Vec<Arc<str>> = self
            .ordered()
            .filter(|chain| chain.base.is_none())
            .map(|chain| chain.name.clone())
            .collect();
        names.iter().try_for_each(|name| self.delete(&Word { text: name.to_string(), column }))
    }

    /// Removes a chain's rules.
    pub(super) fn flush(&mut self, slot: u32) {
        let Some(rules) = self.chain(slot).map(|chain| chain.rules.clone()) else { return };
        rules.iter().for_each(|rule| self.moved(rule, false));
        if !rules.is_empty() {
            self.edit(slot, |chain| chain.rules.clear());
        }
    }

    /// Every slot that holds a chain.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.names.values().copied().collect()
    }

    /// Removes all rules, and all chains that are not built in.
    pub(super) fn clear(&mut self) {
        let slots = self.slots();
        slots.iter().for_each(|slot| self.flush(*slot));
        let others = slots
            .into_iter()
            .filter(|slot| self.chain(*slot).is_some_and(|chain| chain.base.is_none()));
        others.collect::<Vec<_>>().into_iter().for_each(|slot| self.forget(slot));
    }

    pub(super) fn rename(&mut self, from: &Word, to: &Word) -> Taken<()> {
        let slot = self.find(from)?;
        if self.uses.get(slot as usize).is_some_and(|uses| *uses > 0) {
            return Err(Refusal::unmodelled(from.column, "renaming a chain that is jumped to"));
        }
        let rules =
            self.chain(slot).filter(|chain| chain.base.is_none()).map(|chain| chain.rules.clone());
        let rules = rules.ok_or_else(|| no_chain(from.column, &from.text))?;
        self.create(to)?;
        let new = self.find(to)?;
        self.edit(new, |chain| chain.rules = rules);
        self.edit(slot, |chain| chain.rules.clear());
        self.delete(from)
    }

    /// Sets the policy, and its counters if there are any.
    pub(super) fn set_policy(&mut self, slot: u32, accepts: bool, counters: Option<(u64, u64)>) {
        self.edit(slot, |chain| {
            chain.base = chain.base.map(|(hook, _)| (hook, accepts));
            chain.counters = counters.map_or(chain.counters.clone(), |(packets, bytes)| {
                Arc::new([packets.into(), bytes.into()])
            });
        });
    }

    /// Counters of a chain, or of one of its rules, back to zero.
    pub(super) fn zero(&mut self, slot: u32, only: Option<usize>) {
        self.edit(slot, |chain| {
            for (_, rule) in chain
                .rules
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| only.is_none_or(|only| only == *index))
            {
                *rule = Arc::new(rule.zeroed());
            }
            if only.is_none() {
                chain.counters = Arc::default();
            }
        });
    }

    /// A rule's target is told where its chain is.
    pub(super) fn resolve(&self, spec: &mut Spec, column: usize) -> Taken<()> {
        let Some((name, _)) = spec.target.chain() else { return Ok(()) };
        let slot = self.names.get(name).copied().ok_or_else(|| {
            let detail = format!(
                "Chain '{name}' does not exist: expected a target or a chain of this table"
            );
            Refusal::new(XtErrorKind::Absent, column, detail)
        })?;
        if self.chain(slot).is_some_and(|chain| chain.base.is_some()) {
            return Err(Refusal::invalid(
                column,
                format!("a rule cannot jump to the built-in chain `{name}'"),
            ));
        }
        spec.target.resolve(slot);
        Ok(())
    }

    /// Puts a rule at a place, from 0; nothing: at the end.
    pub(super) fn insert(&mut self, slot: u32, place: Option<usize>, rule: Rule) {
        self.came(&rule);
        self.edit(slot, |chain| {
            let place = place.unwrap_or(chain.rules.len()).min(chain.rules.len());
            chain.rules.insert(place, Arc::new(rule));
        });
    }

    /// Takes the rule at a place out.
    pub(super) fn remove(&mut self, slot: u32, place: usize) {
        let Some(rule) = self.chain(slot).and_then(|chain| chain.rules.get(place)).cloned() else {
            return;
        };
        self.moved(&rule, false);
        self.edit(slot, |chain| drop(chain.rules.remove(place)));
    }

    /// The place of the first rule that says this.
    pub(super) fn place_of(&self, slot: u32, spec: &Spec) -> Option<usize> {
        self.chain(slot)?.rules.iter().position(|rule| *rule.spec == *spec)
    }

    /// Keeps what was changed. Gives the rules that came (true) and went.
    pub(super) fn keep(&mut self) -> Vec<(Arc<Spec>, bool)> {
        let undo = std::mem::take(&mut self.undo);
        self.free.extend(undo.freed);
        undo.moved
    }

    /// Takes back what was changed since the last `keep`.
    pub(super) fn take_back(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        for slot in undo.before.keys() {
            let now = self.chains.get(*slot as usize).cloned().flatten();
            if let Some(chain) = now {
                self.names.remove(&chain.name);
            }
        }
        for (slot, before) in undo.before {
            if let Some(chain) = &before {
                self.names.insert(chain.name.clone(), slot);
            }
            self.chains[slot as usize] = before;
        }
        undo.uses.into_iter().for_each(|(slot, came)| self.count_use(slot, !came));
        self.free.extend(undo.taken);
    }
}
