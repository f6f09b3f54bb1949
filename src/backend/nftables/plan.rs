//! How to get from what is in the kernel to what is wanted, in bounded atomic steps.
//!
//! Everything about one frontend changes in one step, so that no packet sees half of it. Chains
//! come before what leads to them; those nobody needs any more stay until the proxy is idle, and go
//! in a transaction of their own (kernels before 6.2 may still count what an earlier step let go). Pure; `Applied` is only
//! valid while every step was carried out, which is the caller's promise. Tests: `proptests`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::affinity;
use super::elements::{self, Element, Gives, Key};
use super::layout::{Kind, STANDBY, Set, TABLE, Treatment, table_comment, timeout_chain};
use super::rules::{FixedChain, fixed_chains, timeout_rules, treatment_rules};
use crate::backend::Options;
use crate::backend::counted::Counted;
use crate::backend::program::{Frontend, Program, Target, without_nested};
use crate::backend::ruleset::Wants;
use crate::kernel::{ElementFact, NftBatch, Socket};
use crate::model::{Family, Protocol, ServicePortName};
use crate::netlink::nft::Batch;

/// Elements that one step changes, about: what the kernel takes in some 50 ms.
const STEP: usize = 20_000;
/// Bytes of a batch that an element takes at most, comment included, about.
const ELEMENT_BYTES: usize = 256;
/// Bytes of a batch that the table itself takes, about.
const SKELETON_BYTES: usize = 64 << 10;

/// Endpoint counts whose chains are made with the table. A rule that looks into a map makes the
/// kernel walk the map once (`nf_tables_bind_set`), which costs 50 ms where it holds 500,000
/// endpoints and nothing while it is empty; so the usual counts do not wait until they come up.
/// A fixed range: the same cluster gives the same table, whatever its history, and a person who
/// lists the table reads past all of these chains.
const COMMON_COUNTS: std::ops::RangeInclusive<u16> = 1..=32;

/// What is in the kernel, of one family.
#[derive(Debug)]
pub struct Applied {
    pub(super) family: Family,
    table: &'static str,
    /// Whether the table is there; else it is built first.
    built: bool,
    pub(super) programs: BTreeMap<Frontend, Arc<Program>>,
    pub(super) treatments: Counted<Treatment>,
    pub(super) timeouts: Counted<u32>,
    pub(super) shared: Counted<(Set, Key)>,
    service_cidrs: Option<Vec<IpNet>>,
    node_port_cidrs: Option<Vec<IpNet>>,
    health_check_ports: BTreeSet<u16>,
    /// The options the rules were written for.
    options: Option<Options>,
}

impl Applied {
    /// A table that is not there.
    pub fn absent(family: Family) -> Applied {
        Applied::of(family, TABLE)
    }

    /// The table that stands in while ours is replaced, not there yet.
    pub fn absent_standby(family: Family) -> Applied {
        Applied::of(family, STANDBY)
    }

    fn of(family: Family, table: &'static str) -> Applied {
        Applied {
            family,
            table,
            built: false,
            programs: BTreeMap::new(),
            treatments: Counted::default(),
            timeouts: Counted::default(),
            shared: Counted::default(),
            service_cidrs: None,
            node_port_cidrs: None,
            health_check_ports: BTreeSet::new(),
            options: None,
        }
    }

    /// What is in the kernel for a frontend.
    pub fn program(&self, frontend: &Frontend) -> Option<&Arc<Program>> {
        self.programs.get(frontend)
    }

    /// The transaction that removes chains nobody needs any more, callers before callees.
    /// `None` if there are none.
    pub fn idle_chains(&self) -> Option<NftBatch> {
        let mut batch = Batch::new(self.family, self.table);
        let (treatments, timeouts) = (&self.treatments.idle, &self.timeouts.idle);
        treatments.iter().for_each(|t| treatment_element(*t).delete(&mut batch));
        timeouts.iter().for_each(|s| timeout_element(*s).delete(&mut batch));
        let mut callers_first: Vec<_> = treatments.iter().collect();
        callers_first.sort_by_key(|t| std::cmp::Reverse((t.kind, t.sticky)));
        callers_first.iter().for_each(|t| batch.delete_chain(&t.chain()));
        timeouts.iter().for_each(|s| batch.delete_chain(&timeout_chain(*s)));
        (!batch.is_empty()).then(|| batch.finish())
    }

    /// Says that the transaction of [`Applied::idle_chains`] was carried out.
    pub fn forget_idle_chains(&mut self) {
        self.treatments.idle.clear();
        self.timeouts.idle.clear();
    }

    /// Whether an address is known to be that of a pod on this node.
    pub(super) fn is_pod(&self, address: IpAddr) -> bool {
        let detector = self.options.as_ref().map(|options| &options.detector);
        let cidr = detector.and_then(|detector| detector.cidr(Family::of(address)));
        cidr.is_some_and(|cidr| cidr.contains(&address))
    }
}

/// A step being put together.
#[derive(Default)]
struct Step {
    chains: Vec<(String, Vec<crate::netlink::expr::Rule>)>,
    rewritten: Vec<(Set, Vec<Element>)>,
    removed: Vec<Element>,
    added: Vec<(Element, Option<Arc<ServicePortName>>)>,
}

impl Step {
    fn len(&self) -> usize {
        self.removed.len() + self.added.len() + self.chains.len()
    }
}

/// The steps from what is applied to what is wanted.
pub struct Plan<'a> {
    applied: &'a mut Applied,
    ruleset: &'a dyn Wants,
    options: &'a Options,
    todo: std::collections::btree_set::IntoIter<Frontend>,
    stage: Stage,
    step: usize,
    hooks_in_last: bool,
    /// Base chains that are still to be made.
    unhooked: Vec<FixedChain>,
    remembered: Vec<ElementFact>,
    /// Whether the plan took away endpoints that clients may be remembered with.
    pub forgets_clients: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Frontends,
    Done,
}

impl<'a> Plan<'a> {
    /// A plan that brings the frontends `changed` up to date; all of them where there is no table.
    pub fn new(
        applied: &'a mut Applied,
        (ruleset, options): (&'a dyn Wants, &'a Options),
        changed: BTreeSet<Frontend>,
    ) -> Plan<'a> {
        let mut todo = changed;
        if !applied.built {
            todo = ruleset.frontends();
        }
        let todo = todo.into_iter();
        let stage = Stage::Begin;
        Plan {
            applied,
            ruleset,
            options,
            todo,
            stage,
            step: STEP,
            hooks_in_last: false,
            unhooked: Vec::new(),
            remembered: Vec::new(),
            forgets_clients: false,
        }
    }

    /// Carries remembered clients over into a table that is built.
    pub fn carry_over(&mut self, remembered: Vec<ElementFact>) {
        self.remembered = remembered;
    }

    /// Keeps transactions below so many bytes.
    pub fn limit_to(&mut self, bytes: usize) {
        self.step = STEP.min(bytes.saturating_sub(SKELETON_BYTES) / ELEMENT_BYTES).max(1);
    }

    /// Hooks a table that is built in only when it is complete: while another one stands in, the
    /// guards of half a table would do harm.
    pub fn hook_in_last(&mut self) {
        self.hooks_in_last = true;
    }

    /// Puts everything into one transaction, so that the table is complete or not there.
    pub fn at_once(&mut self) {
        self.step = usize::MAX;
    }

    /// The next transaction, or that there is nothing left to do. Each must have been carried out
    /// before the next is asked for.
    pub fn next_batch(&mut self) -> Option<NftBatch> {
        loop {
            let batch = match self.stage {
                Stage::Begin => self.first_step(),
                Stage::Frontends => self.further_step(),
                Stage::Done => return None,
            };
            if !batch.is_empty() {
                return Some(batch.finish());
            }
        }
    }

    fn batch(&self) -> Batch<'static> {
        Batch::new(self.applied.family, self.applied.table)
    }

    /// The table itself, sets that are written as a whole, and the first frontends.
    fn first_step(&mut self) -> Batch<'static> {
        let mut batch = self.batch();
        let builds = !self.applied.built;
        if builds {
            self.skeleton(&mut batch);
        } else if self.applied.options.as_ref() != Some(self.options) {
            self.rewrite_rules(&mut batch);
            self.forgets_clients = true;
        }
        self.applied.options = Some(self.options.clone());
        let mut step = Step::default();
        self.whole_sets(&mut step);
        self.health_check_ports(&mut step);
        if builds {
            self.common_counts(&mut step);
        }
        self.fill(&mut step);
        self.applied.built = true;
        write(&mut batch, step);
        self.conclude(&mut batch);
        batch
    }

    fn further_step(&mut self) -> Batch<'static> {
        let mut step = Step::default();
        self.fill(&mut step);
        let mut batch = self.batch();
        write(&mut batch, step);
        self.conclude(&mut batch);
        batch
    }

    /// Carried clients come with the last step: who may stay is known only then.
    fn conclude(&mut self, batch: &mut Batch<'_>) {
        if self.stage == Stage::Done {
            let remembered = std::mem::take(&mut self.remembered);
            affinity::carry_over(self.applied, &remembered, batch);
            add_chains(batch, &std::mem::take(&mut self.unhooked));
        }
    }

    /// Table, sets, and the chains that are always there, with their rules.
    fn skeleton(&mut self, batch: &mut Batch<'_>) {
        batch.add_table(&table_comment());
        for set in Set::ALL {
            batch.add_set(&set.spec());
        }
        let chains = fixed_chains(self.applied.family, self.options);
        let later = |chain: &FixedChain| self.hooks_in_last && chain.hook.is_some();
        let (later, now): (Vec<_>, Vec<_>) = chains.into_iter().partition(later);
        add_chains(batch, &now);
        self.unhooked = later;
    }

    /// The chains of usual endpoint counts, while the maps are empty.
    fn common_counts(&mut self, step: &mut Step) {
        for count in COMMON_COUNTS {
            let treatment = Treatment { kind: Kind::Pick, sticky: false, node_port: false, count };
            self.need_treatment(treatment, step);
        }
    }

    /// Options may have changed since these chains were written.
    fn rewrite_rules(&self, batch: &mut Batch<'_>) {
        let family = self.applied.family;
        let mut rewrite = |name: &str, rules: Vec<crate::netlink::expr::Rule>| {
            batch.flush_chain(name);
            rules.iter().for_each(|rule| batch.add_rule(name, rule));
        };
        for chain in fixed_chains(family, self.options) {
            rewrite(chain.name, chain.rules);
        }
        for treatment in self.applied.treatments.present() {
            let rules = treatment_rules(family, self.options, *treatment);
            rewrite(&treatment.chain(), rules);
        }
        for seconds in self.applied.timeouts.present() {
            rewrite(&timeout_chain(*seconds), timeout_rules(family, *seconds));
        }
    }

    fn whole_sets(&mut self, step: &mut Step) {
        let family = self.applied.family;
        let of_family = |list: &[IpNet]| {
            without_nested(list.iter().copied().filter(|net| Family::of(net.addr()) == family))
        };
        let cidrs = of_family(self.ruleset.service_cidrs());
        if self.applied.service_cidrs.as_ref() != Some(&cidrs) {
            let elements = elements::ranges(Set::ServiceCidrs, &cidrs);
            step.rewritten.push((Set::ServiceCidrs, elements));
            self.applied.service_cidrs = Some(cidrs);
        }
        let cidrs = of_family(self.options.node_port_cidrs(family).unwrap_or(&[]));
        if self.applied.node_port_cidrs.as_ref() != Some(&cidrs) {
            let elements = elements::ranges(Set::NodePortAddresses, &cidrs);
            step.rewritten.push((Set::NodePortAddresses, elements));
            self.applied.node_port_cidrs = Some(cidrs);
        }
    }

    fn health_check_ports(&mut self, step: &mut Step) {
        let wanted: BTreeSet<u16> = self.ruleset.health_check_ports().into_keys().collect();
        if wanted == self.applied.health_check_ports {
            return;
        }
        let key = |port: &u16| (Set::HealthCheckPorts, Key::lone_port(*port));
        for port in wanted.difference(&self.applied.health_check_ports) {
            if self.applied.shared.need(key(port)) {
                let (set, key) = key(port);
                step.added.push((Element::new(set, key, Gives::Nothing), None));
            }
        }
        for port in self.applied.health_check_ports.difference(&wanted) {
            self.applied.shared.release(key(port));
        }
        self.applied.health_check_ports = wanted;
    }

    /// Puts frontends into the step until it is full or all are done; after the last one, what
    /// nobody needs any more goes.
    fn fill(&mut self, step: &mut Step) {
        self.stage = Stage::Frontends;
        while step.len() < self.step {
            let Some(frontend) = self.todo.next() else {
                self.remove_idle(step);
                self.stage = Stage::Done;
                return;
            };
            self.bring(&frontend, step);
        }
    }

    /// Brings one frontend up to date.
    fn bring(&mut self, frontend: &Frontend, step: &mut Step) {
        let new = self.ruleset.program(frontend);
        let old = self.applied.programs.get(frontend).cloned();
        if old == new {
            return;
        }
        let family = self.applied.family;
        let before = old.as_ref().map(|p| elements::of_frontend(frontend, p)).unwrap_or_default();
        let after = new.as_ref().map(|p| elements::of_frontend(frontend, p)).unwrap_or_default();
        if let Some(program) = &new {
            self.need(frontend, program, step);
        }
        let origins = (old.as_ref().map(|p| &p.origin), new.as_ref().map(|p| &p.origin));
        difference(&before, &after, origins, step);
        self.forgets_clients |= match (old.as_deref(), new.as_deref()) {
            (Some(old), new) if old.sticky.is_some() => forgets_clients(old, new),
            (_, Some(new)) if new.sticky.is_some() => self.hides_sticky_node_port(frontend),
            _ => false,
        };
        if let Some(program) = &old {
            self.release(frontend, program);
        }
        debug_assert!(frontend.address.is_none_or(|a| Family::of(a) == family));
        match new {
            Some(program) => self.applied.programs.insert(*frontend, program),
            None => self.applied.programs.remove(frontend),
        };
    }

    /// Whether clients may be remembered for this address by a node port of the same number.
    fn hides_sticky_node_port(&self, frontend: &Frontend) -> bool {
        let node_port = Frontend { address: None, ..*frontend };
        let known = self.applied.program(&node_port);
        frontend.address.is_some() && known.is_some_and(|program| program.sticky.is_some())
    }

    fn need(&mut self, frontend: &Frontend, program: &Program, step: &mut Step) {
        let family = self.applied.family;
        for treatment in needed_treatments(frontend, program) {
            self.need_treatment(treatment, step);
        }
        if let Some(seconds) = program.sticky
            && self.applied.timeouts.need(seconds)
        {
            step.chains.push((timeout_chain(seconds), timeout_rules(family, seconds)));
            step.added.push((timeout_element(seconds), None));
        }
        for (set, key) in shared_keys(frontend, program) {
            if self.applied.shared.need((set, key)) {
                // No name: who needed it first may not be who needs it last.
                step.added.push((Element::new(set, key, Gives::Nothing), None));
            }
        }
    }

    fn need_treatment(&mut self, treatment: Treatment, step: &mut Step) {
        if self.applied.treatments.need(treatment) {
            let rules = treatment_rules(self.applied.family, self.options, treatment);
            step.chains.push((treatment.chain(), rules));
            step.added.push((treatment_element(treatment), None));
        }
    }

    fn release(&mut self, frontend: &Frontend, program: &Program) {
        for treatment in needed_treatments(frontend, program) {
            self.applied.treatments.release(treatment);
        }
        if let Some(seconds) = program.sticky {
            self.applied.timeouts.release(seconds);
        }
        for key in shared_keys(frontend, program) {
            self.applied.shared.release(key);
        }
    }

    fn remove_idle(&mut self, step: &mut Step) {
        for (set, key) in std::mem::take(&mut self.applied.shared.idle) {
            step.removed.push(Element::new(set, key, Gives::Nothing));
        }
    }
}

fn treatment_element(treatment: Treatment) -> Element {
    let key = Key::empty().number(treatment.number());
    Element::new(treatment.map(), key, Gives::Treatment(treatment))
}

fn timeout_element(seconds: u32) -> Element {
    Element::new(Set::StickyTimeouts, Key::empty().number(seconds), Gives::Timeout(seconds))
}

/// The treatments a frontend needs, and those their chains go on to: callees first.
fn needed_treatments(frontend: &Frontend, program: &Program) -> Vec<Treatment> {
    elements::treatments(frontend, program).flat_map(Treatment::with_dependencies).collect()
}

/// Elements of sets that several frontends share.
fn shared_keys(frontend: &Frontend, program: &Program) -> BTreeSet<(Set, Key)> {
    let hairpin = |protocol: Protocol, socket: Socket| {
        (Set::Hairpin, elements::hairpin_key(protocol, socket))
    };
    let mut keys: BTreeSet<_> = program
        .all_targets()
        .filter(|target| target.local)
        .map(|target| hairpin(frontend.protocol, target.socket))
        .collect();
    if let Some(address) = frontend.address.filter(|_| program.cluster_ip) {
        keys.insert((Set::ClusterIps, Key::empty().address(address)));
    }
    keys
}

/// What turns the elements `before` into those `after`; both sorted. Elements that say the name
/// of another Service port than they should are written anew.
fn difference(
    before: &[Element],
    after: &[Element],
    (old, new): (Option<&Arc<ServicePortName>>, Option<&Arc<ServicePortName>>),
    step: &mut Step,
) {
    let renamed = old != new;
    let (mut b, mut a) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (b.peek(), a.peek()) {
            (Some(x), Some(y)) if x == y && !(renamed && names_its_service(x)) => {
                b.next();
                a.next();
            }
            (Some(x), Some(y)) if x <= y => step.removed.extend(b.next()),
            (_, Some(_)) => step.added.extend(a.next().map(|e| (*e, new.cloned()))),
            (Some(_), None) => step.removed.extend(b.next()),
            (None, None) => return,
        }
    }
}

/// Whether clients of a frontend with session affinity may be remembered with an endpoint they
/// can no longer have.
fn forgets_clients(old: &Program, new: Option<&Program>) -> bool {
    // Both are sorted.
    let lost = |old: &[Target], new: &[Target]| old.iter().any(|t| new.binary_search(t).is_err());
    new.is_none_or(|new| {
        new.sticky.is_none()
            || new.role != old.role
            || lost(&old.targets, &new.targets)
            || lost(&old.local, &new.local)
    })
}

fn add_chains(batch: &mut Batch<'_>, chains: &[FixedChain]) {
    for chain in chains {
        batch.add_chain(chain.name, chain.hook);
    }
    for chain in chains {
        chain.rules.iter().for_each(|rule| batch.add_rule(chain.name, rule));
    }
}

/// Writes a step: chains, then whole sets, then removals, then additions, set by set.
fn write(batch: &mut Batch<'_>, mut step: Step) {
    step.chains.iter().for_each(|(name, _)| batch.add_chain(name, None));
    for (name, rules) in &step.chains {
        rules.iter().for_each(|rule| batch.add_rule(name, rule));
    }
    for (set, elements) in &step.rewritten {
        batch.flush_set(set.name());
        elements.iter().for_each(|element| element.add(batch, ""));
    }
    step.removed.sort_by_key(|element| element.set);
    step.removed.iter().for_each(|element| element.delete(batch));
    step.added.sort_by_key(|(element, _)| element.set);
    let mut named: Option<(Arc<ServicePortName>, String)> = None;
    for (element, origin) in &step.added {
        element.add(batch, comment(element, origin.as_ref(), &mut named));
    }
}

/// The Service port an element is for, said where a person looks: not on every endpoint.
fn comment<'n>(
    element: &Element,
    origin: Option<&Arc<ServicePortName>>,
    named: &'n mut Option<(Arc<ServicePortName>, String)>,
) -> &'n str {
    let Some(origin) = origin.filter(|_| names_its_service(element)) else { return "" };
    if named.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, origin)) {
        *named = Some((origin.clone(), origin.to_string()));
    }
    named.as_ref().map_or("", |(_, text)| text)
}

/// Endpoints are many: only the first of a frontend carries the name.
fn names_its_service(element: &Element) -> bool {
    match element.set {
        Set::Endpoints
        | Set::LocalEndpoints
        | Set::NodePortEndpoints
        | Set::NodePortLocalEndpoints => element.key.as_bytes().ends_with(&[0; 4]),
        _ => true,
    }
}
