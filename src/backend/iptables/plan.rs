//! The way from what is there to what is wanted: from what iptables-save printed, or from what was
//! written before. Chains that are already right are not touched, those that nobody needs go in the
//! same transaction. It writes with a pen and believes nothing until it is told that it was done.
//! It must never read a kernel. Tests: `tests.rs`, `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::chain::{self, Chain, Kind, Table};
use super::dump::Dump;
use super::lines::{self, Line, SHARED};
use super::own;
use super::pen::{Finger, Pen};
use super::rule::Rule;
use super::shape::{Jump, LARGE, Shape};
use crate::backend::program::{Frontend, Program};
use crate::backend::ruleset::Wants;
use crate::model::{Family, ServicePortName};

/// New Service ports that come in together: larger parts cost the tool more, and each part costs
/// the kernel a walk over all chains.
const PORTS_AT_ONCE: usize = 100;
/// Lines that come in together, where a shared chain is new.
const LINES_AT_ONCE: usize = 1000;

type Had = Vec<(Frontend, Arc<Program>)>;

/// What is in the kernel, as far as it is ours.
#[derive(Clone, Debug)]
pub struct Applied {
    shape: Shape,
    had: BTreeMap<Frontend, Arc<Program>>,
    owners: BTreeMap<Arc<ServicePortName>, BTreeSet<Frontend>>,
    endpoints: usize,
    health: BTreeSet<(String, u16)>,
    /// Rules of each table that are there for frontends.
    rules: [usize; 3],
}

/// A change that was written with a pen, to be believed once the kernel has it.
#[derive(Debug)]
pub struct Change {
    shape: Shape,
    frontends: BTreeMap<Frontend, Option<Arc<Program>>>,
    endpoints: usize,
    health: BTreeSet<(String, u16)>,
    rules: [usize; 3],
}

impl Applied {
    /// Writes what it takes to get from a dump to what is wanted; gives what is there then.
    pub fn adopt(wants: &dyn Wants, shape: Shape, dump: &Dump<'_>, pen: &mut dyn Pen) -> Applied {
        let mut wanted = Applied {
            shape,
            had: BTreeMap::new(),
            owners: BTreeMap::new(),
            endpoints: 0,
            health: health_checks(wants),
            rules: [0; 3],
        };
        for frontend in wants.frontends() {
            wanted.put(frontend, wants.program(&frontend));
        }
        wanted.endpoints = wanted.owners.keys().map(|o| own::endpoints(&wanted.had_by(o))).sum();
        wanted.shape.large = wanted.endpoints > LARGE;
        wanted.rules = Adoption { wanted: &wanted, dump, pen, rules: [0; 3] }.write();
        wanted
    }

    /// Writes what it takes to get to what is wanted, where nothing but these frontends changed.
    pub fn change(
        &self,
        (wants, mut shape): (&dyn Wants, Shape),
        changed: BTreeSet<Frontend>,
        pen: &mut dyn Pen,
    ) -> Change {
        let mut frontends = self.differing(wants, changed);
        let endpoints = self.endpoints_after(&frontends);
        shape.large = endpoints > LARGE;
        if shape != self.shape {
            let mut all = wants.frontends();
            all.extend(self.had.keys());
            frontends = all_of(wants, all);
        }
        let health = health_checks(wants);
        let mut change = Change { shape, frontends, endpoints, health, rules: self.rules };
        change.rules = Difference { old: self, new: &change, pen, rules: self.rules }.write();
        change
    }

    /// The change is in the kernel.
    pub fn take(&mut self, change: Change) {
        for (frontend, program) in change.frontends {
            self.put(frontend, program);
        }
        self.shape = change.shape;
        self.endpoints = change.endpoints;
        self.health = change.health;
        self.rules = change.rules;
    }

    /// How many rules of each table are ours.
    pub fn rules(&self) -> impl Iterator<Item = (Table, usize)> {
        let mut rules = self.rules;
        let fixed = self.shape.fixed();
        fixed.iter().for_each(|(table, _, some)| rules[*table as usize] += some.len());
        self.shape.jumps().into_iter().for_each(|jump| rules[jump.table as usize] += 1);
        rules[Table::Nat as usize] += self.shape.tail().len();
        rules[Table::Filter as usize] += usize::from(self.shape.guard().is_some());
        Table::ALL.into_iter().zip(rules)
    }

    /// Where a dump is not as it was written, if anywhere.
    pub fn drift(&self, dump: &Dump<'_>) -> Option<String> {
        let mut finger = Finger::default();
        Adoption { wanted: self, dump, pen: &mut finger, rules: [0; 3] }.write();
        let (first, count) = finger.finish()?;
        Some(format!("chain {first} is not as it was written ({count} chains and rules differ)"))
    }

    /// What rules depend on.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// About how many rules there are: to know what it costs to look at them all.
    pub fn size(&self) -> usize {
        3 * self.endpoints + 2 * self.had.len()
    }

    fn put(&mut self, frontend: Frontend, program: Option<Arc<Program>>) {
        if let Some(old) = self.had.remove(&frontend) {
            let empty = self.owners.get_mut(&old.origin).is_some_and(|frontends| {
                frontends.remove(&frontend);
                frontends.is_empty()
            });
            if empty {
                self.owners.remove(&old.origin);
            }
        }
        if let Some(program) = program {
            self.owners.entry(program.origin.clone()).or_default().insert(frontend);
            self.had.insert(frontend, program);
        }
    }

    fn had_by(&self, owner: &Arc<ServicePortName>) -> Had {
        let frontends = self.owners.get(owner).into_iter().flatten();
        frontends.filter_map(|f| self.had.get(f).map(|p| (*f, p.clone()))).collect()
    }

    /// Those of the frontends that are to be other than they are.
    fn differing(
        &self,
        wants: &dyn Wants,
        changed: BTreeSet<Frontend>,
    ) -> BTreeMap<Frontend, Option<Arc<Program>>> {
        let mut frontends = all_of(wants, changed);
        frontends.retain(|frontend, program| self.had.get(frontend) != program.as_ref());
        frontends
    }

    /// Service ports that have or will have one of these frontends.
    fn concerned(
        &self,
        frontends: &BTreeMap<Frontend, Option<Arc<Program>>>,
    ) -> BTreeSet<Arc<ServicePortName>> {
        let before = frontends.keys().filter_map(|frontend| self.had.get(frontend));
        let after = frontends.values().flatten();
        before.chain(after).map(|program| program.origin.clone()).collect()
    }

    /// What a Service port will have.
    fn had_after(
        &self,
        owner: &Arc<ServicePortName>,
        frontends: &BTreeMap<Frontend, Option<Arc<Program>>>,
    ) -> Had {
        let kept = self.had_by(owner).into_iter().filter(|(f, _)| !frontends.contains_key(f));
        let new = frontends.iter().filter_map(|(f, program)| {
            program.as_ref().filter(|p| p.origin == *owner).map(|p| (*f, p.clone()))
        });
        let mut all: Had = kept.chain(new).collect();
        all.sort_by_key(|(frontend, _)| *frontend);
        all
    }

    fn endpoints_after(&self, frontends: &BTreeMap<Frontend, Option<Arc<Program>>>) -> usize {
        self.concerned(frontends).iter().fold(self.endpoints, |sum, owner| {
            let before = own::endpoints(&self.had_by(owner));
            (sum + own::endpoints(&self.had_after(owner, frontends))).saturating_sub(before)
        })
    }

    fn shared(&self) -> BTreeMap<(Table, Chain), Vec<Rule>> {
        let lines = self.had.iter().flat_map(|(f, p)| lines::lines(f, p, &self.shape));
        by_chain(lines.chain(health_lines(&self.health)))
    }
}

fn all_of(
    wants: &dyn Wants,
    frontends: BTreeSet<Frontend>,
) -> BTreeMap<Frontend, Option<Arc<Program>>> {
    frontends.into_iter().map(|frontend| (frontend, wants.program(&frontend))).collect()
}

fn by_chain(lines: impl Iterator<Item = Line>) -> BTreeMap<(Table, Chain), Vec<Rule>> {
    let mut by_chain: BTreeMap<(Table, Chain), Vec<Rule>> = BTreeMap::new();
    for (table, chain, rule) in lines {
        by_chain.entry((table, chain)).or_default().push(rule);
    }
    by_chain
}

/// Health check node ports, one for each port of the Service, as the reference has it.
fn health_checks(wants: &dyn Wants) -> BTreeSet<(String, u16)> {
    let mut all = BTreeSet::new();
    for (number, service) in wants.health_check_ports() {
        let programs = wants.claimed(service).iter().filter_map(|f| wants.program(f));
        let own = programs.filter(|program| program.origin.service == *service);
        let before = all.len();
        all.extend(own.map(|program| (program.origin.to_string(), number)));
        if all.len() == before {
            all.insert((service.to_string(), number));
        }
    }
    all
}

fn health_lines(health: &BTreeSet<(String, u16)>) -> impl Iterator<Item = Line> {
    health.iter().map(|(port, number)| lines::health_check(port, *number))
}

fn write_whole(pen: &mut dyn Pen, (table, chain): (Table, Chain), rules: &[Rule]) {
    pen.chain(table, &chain);
    rules.iter().for_each(|rule| pen.append(table, chain, rule));
}

/// From a dump to what is wanted.
struct Adoption<'a> {
    wanted: &'a Applied,
    dump: &'a Dump<'a>,
    pen: &'a mut dyn Pen,
    rules: [usize; 3],
}

impl Adoption<'_> {
    /// Gives how many rules of each table frontends have.
    fn write(mut self) -> [usize; 3] {
        let family = self.wanted.shape.family;
        for (table, chain, rules) in self.wanted.shape.fixed() {
            self.exactly((table, chain), &rules);
        }
        let known = self.own();
        self.shared();
        self.kubelets();
        self.stale(&known);
        self.wanted.shape.jumps().iter().for_each(|jump| hook((self.dump, family), jump, self.pen));
        self.rules
    }

    fn there(&self, (table, chain): (Table, Chain)) -> Option<&[&str]> {
        self.dump.rules(table, &chain.to_string())
    }

    fn exactly(&mut self, place: (Table, Chain), rules: &[Rule]) {
        exactly((self.dump, self.wanted.shape.family), (place, rules), self.pen);
    }

    /// Lines of shared chains may be in any order, but what is for node ports comes last.
    fn shared(&mut self) {
        let family = self.wanted.shape.family;
        let mut wanted = self.wanted.shared();
        let tail = self.wanted.shape.tail();
        for place in SHARED {
            let mut rules = wanted.remove(&place).unwrap_or_default();
            self.rules[place.0 as usize] += rules.len();
            let tail: &[Rule] = if is_tailed(place) { &tail } else { &[] };
            let right = self.there(place).is_some_and(|there| {
                let Some(split) = there.len().checked_sub(tail.len()) else { return false };
                let (head, end) = there.split_at(split);
                let words = |rule| self.dump.words(rule, family);
                let mut texts: Vec<String> = rules.iter().map(words).collect();
                let mut head = head.to_vec();
                texts.sort();
                head.sort_unstable();
                texts == head && end.iter().zip(tail).all(|(t, rule)| words(rule) == *t)
            });
            if !right {
                rules.extend_from_slice(tail);
                self.shared_chain(place, &rules);
            }
        }
    }

    /// A chain that is not there yet may come in piece by piece.
    fn shared_chain(&mut self, place: (Table, Chain), rules: &[Rule]) {
        if self.there(place).is_some() {
            return write_whole(self.pen, place, rules);
        }
        self.pen.chain(place.0, &place.1);
        for some in rules.chunks(LINES_AT_ONCE) {
            some.iter().for_each(|rule| self.pen.append(place.0, place.1, rule));
            self.pen.boundary(place.0);
        }
    }

    /// Kubelet's chain keeps what it has; it only must have our rule.
    fn kubelets(&mut self) {
        let place = (Table::Filter, chain::KUBELET_FIREWALL);
        let there = self.there(place);
        let guard = self.wanted.shape.guard();
        let text = guard.as_ref().map(|rule| self.dump.words(rule, self.wanted.shape.family));
        let lacking = text.is_some_and(|text| !there.is_some_and(|r| r.contains(&text.as_str())));
        if there.is_none() {
            self.pen.chain(place.0, &place.1);
        }
        guard.iter().filter(|_| lacking).for_each(|rule| self.pen.append(place.0, place.1, rule));
    }

    /// The chains of Service ports; first those that no packet can come to, since all are new.
    fn own(&mut self) -> BTreeSet<Chain> {
        let mut known = BTreeSet::new();
        let mut partly_there = Vec::new();
        let mut written = 0;
        for owner in self.wanted.owners.keys() {
            let chains = own::chains(owner, &self.wanted.had_by(owner), &self.wanted.shape);
            known.extend(chains.iter().map(|(chain, _)| *chain));
            self.rules[Table::Nat as usize] += chains.iter().map(|(_, r)| r.len()).sum::<usize>();
            if chains.iter().any(|(chain, _)| self.there((Table::Nat, *chain)).is_some()) {
                partly_there.push(owner);
                continue;
            }
            chains.iter().for_each(|(c, rules)| write_whole(self.pen, (Table::Nat, *c), rules));
            written += 1;
            if written % PORTS_AT_ONCE == 0 {
                self.pen.boundary(Table::Nat);
            }
        }
        self.pen.boundary(Table::Nat);
        for owner in partly_there {
            let had = self.wanted.had_by(owner);
            for (chain, rules) in own::chains(owner, &had, &self.wanted.shape) {
                self.exactly((Table::Nat, chain), &rules);
            }
        }
        known
    }

    fn stale(&mut self, known: &BTreeSet<Chain>) {
        for (name, _) in self.dump.chains(Table::Nat) {
            let wanted = Chain::hashed(name).is_some_and(|chain| known.contains(&chain));
            if Kind::of(name).is_some() && !wanted {
                self.pen.chain(Table::Nat, &name);
                self.pen.remove(Table::Nat, &name);
            }
        }
    }
}

/// A dump, and of which family it is.
type Of<'a> = (&'a Dump<'a>, Family);

/// The chain has these rules and no others.
fn exactly((dump, family): Of<'_>, (place, rules): ((Table, Chain), &[Rule]), pen: &mut dyn Pen) {
    let there = dump.rules(place.0, &place.1.to_string());
    let right = there.is_some_and(|there| {
        let alike = |(text, rule): (&&str, &Rule)| dump.words(rule, family) == **text;
        there.len() == rules.len() && there.iter().zip(rules).all(alike)
    });
    if !right {
        write_whole(pen, place, rules);
    }
}

/// The built-in chain has the jump, wherever in it.
fn hook((dump, family): Of<'_>, jump: &Jump, pen: &mut dyn Pen) {
    let words = dump.words(&jump.rule, family);
    let there = dump.rules(jump.table, &jump.from.to_string());
    if !there.is_some_and(|rules| rules.contains(&&*words)) {
        pen.insert(jump.table, jump.from, &jump.rule);
    }
}

/// Sees to it that strangers are kept from this process's ports, before there are any; the rest of
/// the rules follows.
pub fn guard(shape: &Shape, dump: &Dump<'_>, pen: &mut dyn Pen) {
    let Some((table, chain, rules)) = shape.relay_guard() else { return };
    let of = (dump, shape.family);
    exactly(of, ((table, chain), &rules), pen);
    shape.jumps().iter().filter(|jump| jump.table == table).for_each(|jump| hook(of, jump, pen));
}

fn is_tailed(place: (Table, Chain)) -> bool {
    place == (Table::Nat, chain::SERVICES)
}

/// From what was written before to what is wanted.
struct Difference<'a> {
    old: &'a Applied,
    new: &'a Change,
    pen: &'a mut dyn Pen,
    rules: [usize; 3],
}

impl Difference<'_> {
    /// Gives how many rules of each table frontends have then.
    fn write(mut self) -> [usize; 3] {
        let (old, new) = (&self.old.shape, &self.new.shape);
        if old != new {
            let before = old.fixed();
            let differing = new.fixed().into_iter().filter(|whole| !before.contains(whole));
            differing.for_each(|(t, chain, rules)| write_whole(self.pen, (t, chain), &rules));
            let guard = new.guard().filter(|_| old.guard().is_none());
            let place = (Table::Filter, chain::KUBELET_FIREWALL);
            guard.iter().for_each(|rule| self.pen.append(place.0, place.1, rule));
        }
        let owners = self.old.concerned(&self.new.frontends);
        let (there, new): (Vec<_>, Vec<_>) =
            owners.iter().partition(|owner| self.old.owners.contains_key(*owner));
        for some in new.chunks(PORTS_AT_ONCE) {
            some.iter().for_each(|owner| self.own(owner));
            self.pen.boundary(Table::Nat);
        }
        there.into_iter().for_each(|owner| self.own(owner));
        self.shared();
        self.rules
    }

    fn count(&mut self, table: Table, (gone, come): (usize, usize)) {
        let rules = &mut self.rules[table as usize];
        *rules = (*rules + come).saturating_sub(gone);
    }

    fn own(&mut self, owner: &Arc<ServicePortName>) {
        let (before, after) =
            (self.old.had_by(owner), self.old.had_after(owner, &self.new.frontends));
        let there = own::chains(owner, &before, &self.old.shape);
        let mut there: BTreeMap<Chain, Vec<Rule>> = there.into_iter().collect();
        let wanted = own::chains(owner, &after, &self.new.shape);
        let come = wanted.iter().map(|(_, rules)| rules.len()).sum();
        self.count(Table::Nat, (there.values().map(Vec::len).sum(), come));
        for (chain, rules) in wanted {
            if there.remove(&chain).as_ref() != Some(&rules) {
                write_whole(self.pen, (Table::Nat, chain), &rules);
            }
        }
        for chain in there.keys() {
            self.pen.chain(Table::Nat, chain);
            self.pen.remove(Table::Nat, chain);
        }
    }

    fn shared(&mut self) {
        let frontends = &self.new.frontends;
        let before = frontends.keys().filter_map(|f| self.old.had.get(f).map(|p| (f, p)));
        let gone = before.flat_map(|(f, p)| lines::lines(f, p, &self.old.shape));
        let (ended, begun) =
            (&self.old.health - &self.new.health, &self.new.health - &self.old.health);
        let gone = gone.chain(health_lines(&ended));
        let after = frontends.iter().filter_map(|(f, p)| p.as_ref().map(|p| (f, p)));
        let come = after.flat_map(|(f, p)| lines::lines(f, p, &self.new.shape));
        let come = come.chain(health_lines(&begun));
        let (mut gone, mut come) = (by_chain(gone), by_chain(come));
        let (old_tail, new_tail) = (self.old.shape.tail(), self.new.shape.tail());
        let mut anew = BTreeSet::new();
        for place in SHARED {
            let mut gone = gone.remove(&place).unwrap_or_default();
            let mut come = come.remove(&place).unwrap_or_default();
            self.count(place.0, (gone.len(), come.len()));
            cancel(&mut gone, &mut come);
            let tail_moves = is_tailed(place) && old_tail != new_tail;
            let lines = (gone.len(), come.len());
            if tail_moves || self.pen.prefers_whole(lines, self.old.had.len()) {
                anew.insert(place);
                continue;
            }
            gone.iter().for_each(|rule| self.pen.delete(place.0, place.1, rule));
            come.iter().for_each(|rule| self.pen.insert(place.0, place.1, rule));
        }
        if !anew.is_empty() {
            self.anew(&anew);
        }
    }

    fn anew(&mut self, places: &BTreeSet<(Table, Chain)>) {
        let frontends = &self.new.frontends;
        let kept = self.old.had.iter().filter(|(f, _)| !frontends.contains_key(f));
        let new = frontends.iter().filter_map(|(f, p)| p.as_ref().map(|p| (f, p)));
        let all: BTreeMap<&Frontend, &Arc<Program>> = kept.chain(new).collect();
        let lines = all.into_iter().flat_map(|(f, p)| lines::lines(f, p, &self.new.shape));
        let mut wanted = by_chain(lines.chain(health_lines(&self.new.health)));
        for place in places {
            let mut rules = wanted.remove(place).unwrap_or_default();
            if is_tailed(*place) {
                rules.extend(self.new.shape.tail());
            }
            write_whole(self.pen, *place, &rules);
        }
    }
}

/// Lines that would go and come again stay.
fn cancel(gone: &mut Vec<Rule>, come: &mut Vec<Rule>) {
    gone.retain(|rule| match come.iter().position(|other| other == rule) {
        Some(at) => {
            come.swap_remove(at);
            false
        }
        None => true,
    });
}
