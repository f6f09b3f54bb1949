//! `--verify`: what is about to be written is put into a kernel in memory first and held against
//! the promises there (`sync::examine` has the order of things).
//!
//! The node in memory is a stand-in: this node's addresses, a link to its pods, one to everything
//! else, and no rule of anybody else's. What others do to packets `check` finds.
//! It must never know how rules are written. Tests: `tests.rs`.

mod index;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::check::{Came, These, ask_some, node};
use crate::kernel::simulated::Simulated;
use crate::kernel::{Error, Facts, Kernel, Query, is_relay_address};
use crate::model::{NamespacedName, Service};
use crate::promise::{Frontend, Promises};
use crate::sync::examine::{Broken, Examiner, Extent, Known};
use crate::trace::{World, load, stand_in};
use crate::track::{Changes, Cluster};
use index::Index;

/// Of Services that did not change, so many are looked at with a change, the next ones each time.
const OTHERS: usize = 4;
/// Of Services that change at once a sample has so many at most, spread evenly.
const MOST_CHANGED: usize = 500;

/// What one look came to, to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Services looked at.
    pub services: usize,
    /// Packets asked.
    pub packets: usize,
    /// Packets of which it could not be told what becomes of them.
    pub unknown: usize,
    /// Services whose promise would be broken.
    pub broken: usize,
    /// Whether the kernel in memory would not take a transaction.
    pub refused: bool,
    /// How long it took.
    pub took: Duration,
}

/// Who is told of looks.
pub type Tell = Box<dyn FnMut(&Looked) + Send>;
/// Who keeps what led to a broken promise.
pub type Keep = Box<dyn FnMut(Known<'_>, &[Broken]) + Send>;

/// Holds everything against the promises before it is written.
pub struct Verifier {
    extent: Extent,
    /// The node in memory; its host stands in `kernel` while nobody looks.
    world: World,
    kernel: Simulated,
    pods: [Option<(IpAddr, String)>; 2],
    index: Index,
    /// The last of the others that was looked at.
    last: Option<NamespacedName>,
    /// Services that are not programmed as they are.
    held: BTreeSet<NamespacedName>,
    tell: Tell,
    keep: Keep,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("extent", &self.extent).finish_non_exhaustive()
    }
}

impl Verifier {
    /// One that looks at so much.
    pub fn new(extent: Extent, tell: Tell, keep: Keep) -> Verifier {
        Verifier {
            extent,
            world: load(crate::kernel::survey::Survey::default()),
            kernel: Simulated::bare(),
            pods: [None, None],
            index: Index::default(),
            last: None,
            held: BTreeSet::new(),
            tell,
            keep,
        }
    }

    /// Which Services are looked at after these changes.
    fn chosen(&mut self, cluster: &Cluster, changes: &Changes) -> BTreeSet<NamespacedName> {
        let held = &self.held;
        let names = |service: &Service| service.name.clone();
        let mut chosen: BTreeSet<NamespacedName> = match self.extent {
            Extent::Off => BTreeSet::new(),
            Extent::Full => cluster.services().map(names).collect(),
            Extent::Sample => {
                let step = changes.services.len().div_ceil(MOST_CHANGED).max(1);
                changes.services.iter().step_by(step).cloned().collect()
            }
        };
        if self.extent == Extent::Sample {
            let from = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let others: Vec<NamespacedName> =
                self.index.services((from, Bound::Unbounded)).take(OTHERS).cloned().collect();
            // At the end it begins anew.
            self.last = others.last().filter(|_| others.len() == OTHERS).cloned();
            chosen.extend(others);
        }
        chosen.retain(|name| !held.contains(name));
        chosen
    }

    fn look(&mut self, known: Known<'_>, chosen: &BTreeSet<NamespacedName>, gone: &Gone) -> Came {
        let Known { cluster, options } = known;
        // Who shares an address or a node port with them may be who is promised it.
        let mut names = self.index.sharing(chosen);
        names.extend(gone.iter().flat_map(|(_, frontend)| self.index.at(frontend)).cloned());
        let services = names.iter().filter_map(|name| cluster.service(name)).collect();
        std::mem::swap(&mut self.world.host, &mut *self.kernel.host());
        let node = node(options, &self.world);
        let promises = Promises::among(cluster, &node, services);
        let these = These { services: chosen, gone, pods: &self.pods };
        let came = ask_some(&mut self.world, &promises, these);
        std::mem::swap(&mut self.world.host, &mut *self.kernel.host());
        came
    }
}

/// Frontends that Services had and have no more.
type Gone = [(NamespacedName, Frontend)];

impl Examiner for Verifier {
    fn begin(&mut self, kernel: &mut dyn Kernel, known: Known<'_>) {
        let Known { cluster, options } = known;
        self.index = Index::default();
        cluster.services().for_each(|service| drop(self.index.set(&service.name, Some(service))));
        let mut addresses = match kernel.read(&Query::Addresses) {
            Ok(Facts::Addresses(addresses)) => addresses,
            // The Node object's have to do.
            _ => Vec::new(),
        };
        // Those that ipvs mode gave the node, and where it carries connections itself.
        addresses.retain(|a| !self.index.has_address(a) && !is_relay_address(*a));
        let survey = stand_in::stand_in(options, cluster.node(), &addresses);
        self.pods = stand_in::pods(options, cluster.node());
        self.world = load(survey);
        let own = self.world.lend_host();
        // One Service's scheduler may not keep all others from being looked at.
        self.kernel = own.with_capabilities(kernel.capabilities().clone()).with_schedulers_alike();
    }

    fn shadow(&mut self) -> &mut dyn Kernel {
        &mut self.kernel
    }

    fn examine(&mut self, known: Known<'_>, changes: &Changes) -> Vec<Broken> {
        let begun = Instant::now();
        let mut gone = Vec::new();
        for name in &changes.services {
            self.held.remove(name);
            let left = self.index.set(name, known.cluster.service(name));
            gone.extend(left.into_iter().map(|frontend| (name.clone(), frontend)));
        }
        gone.truncate(MOST_CHANGED);
        let chosen = self.chosen(known.cluster, changes);
        let came = self.look(known, &chosen, &gone);
        (self.tell)(&Looked {
            services: chosen.len(),
            packets: came.packets,
            unknown: came.unknown,
            broken: came.broken.len(),
            refused: false,
            took: begun.elapsed(),
        });
        came.broken.into_iter().map(|(service, example)| Broken { service, example }).collect()
    }

    fn held_back(&mut self, services: &[NamespacedName]) {
        self.held.extend(services.iter().cloned());
    }

    fn found(&mut self, known: Known<'_>, broken: &[Broken]) {
        (self.keep)(known, broken);
    }

    fn refused(&mut self, error: &Error) {
        tracing::warn!(
            %error,
            "--verify: the kernel in memory does not take what is to be written; nothing is looked \
             at until everything is written anew"
        );
        (self.tell)(&Looked { refused: true, ..Looked::default() });
    }
}
