//! One run of the proxy on the real kernel, step by step, each measured.
//! Knows what is done to a proxy, not what the proxy does. Tests: by running it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{
    Capabilities, Error, Facts, FlowsTo, Kernel, Query, Receipt, Transaction,
};
use kube_proxy::model::{Event, Family, Protocol};
use kube_proxy::sync::{Proxy, Report};

use super::Case;
use crate::cluster::{Chance, Cluster, ROOM, Shape};
use crate::figures::Figures;
use crate::meter::{Span, measure, memory};

/// Linux, with the moment at which it had last committed something.
struct Stamped {
    inner: Real,
    committed: Committed,
}

type Committed = Arc<Mutex<Instant>>;

impl Kernel for Stamped {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.inner.apply(transaction);
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        outcome
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.inner.read(query)
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

/// Objects made before they are told of: making them is not what is measured.
const CHUNK: usize = 1000;

/// Runs a case.
pub(super) fn run(case: &Case, shape: &Shape) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let cluster = Cluster::new(shape.clone());
    figures.memory("before", memory("self"));
    let committed = Arc::new(Mutex::new(Instant::now()));
    let mut proxy = start(&cluster, &committed, &mut figures, "first")?;
    figures.memory("synced", memory("self"));
    let (again, span) = measure(|| proxy.sync());
    figures.span("second_sync", span);
    figures.put("second_sync_transactions", of(again)?.transactions as f64);
    if case.changes > 0 {
        changes((&mut proxy, committed.clone()), &cluster, case.changes, &mut figures)?;
        figures.memory("changed", memory("self"));
    }
    drop(proxy);
    start(&cluster, &committed, &mut figures, "restart")?;
    Ok(figures)
}

/// From an open kernel to everything programmed.
fn start(
    cluster: &Cluster,
    committed: &Committed,
    figures: &mut Figures,
    name: &str,
) -> Result<Proxy, String> {
    let (kernel, opened) = measure(Real::open);
    let inner = kernel.map_err(|e| e.to_string())?;
    let kernel = Box::new(Stamped { inner, committed: committed.clone() });
    figures.span(&format!("{name}_open"), opened);
    let mut proxy = Proxy::new(kernel, cluster.options());
    let fed = feed(&mut proxy, cluster);
    let (report, synced) = measure(|| proxy.sync());
    let report = of(report)?;
    figures.span(&format!("{name}_feed"), fed);
    figures.span(&format!("{name}_sync"), synced);
    let mut all = fed;
    all += synced;
    figures.span(&format!("{name}_all"), all);
    figures.put(format!("{name}_transactions"), report.transactions as f64);
    figures.put(format!("{name}_operations"), report.operations as f64);
    figures.put(format!("{name}_bytes"), report.bytes as f64);
    Ok(proxy)
}

fn of(outcome: Result<Report, kube_proxy::kernel::Error>) -> Result<Report, String> {
    outcome.map_err(|e| e.to_string())
}

fn feed(proxy: &mut Proxy, cluster: &Cluster) -> Span {
    let mut total = Span::default();
    let mut events = cluster.events();
    loop {
        let chunk: Vec<Event> = events.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            return total;
        }
        total += measure(|| chunk.into_iter().for_each(|event| proxy.feed(event))).1;
    }
}

/// Changes of every kind, each from the event to the commit.
fn changes(
    (proxy, committed): (&mut Proxy, Committed),
    cluster: &Cluster,
    count: usize,
    figures: &mut Figures,
) -> Result<(), String> {
    let plain = |n: usize| !cluster.is_sticky(n) && !cluster.is_udp(n);
    let chance = Chance::new(0x2545_f491_4f6c_dd1d);
    let mut changes = Changes { proxy, committed, cluster, chance };
    figures.spans("endpoint", &changes.remove_and_add(count, plain)?);
    figures.spans("replaced", &changes.replace(count, plain)?);
    if (0..cluster.shape.services).any(|n| cluster.is_sticky(n)) {
        figures.spans("sticky", &changes.remove_and_add(count, |n| cluster.is_sticky(n))?);
        figures.spans("udp", &changes.remove_and_add(count, |n| cluster.is_udp(n))?);
    }
    let udp = Query::Flows(Family::V4, Protocol::Udp, FlowsTo::Any);
    let list = |_| measure(|| changes.proxy.kernel().read(&udp)).1;
    figures.spans("list_flows", &(0..20).map(list).collect::<Vec<_>>());
    // Counts of endpoints that no Service had before: chains are made for them.
    figures.spans("new_count", &changes.grow(plain, 21..31)?);
    figures.spans("new_large_count", &changes.grow(plain, 40..45)?);
    Ok(())
}

struct Changes<'a> {
    proxy: &'a mut Proxy,
    committed: Committed,
    cluster: &'a Cluster,
    chance: Chance,
}

impl Changes<'_> {
    /// Random Services lose a random endpoint, and get it back.
    fn remove_and_add(
        &mut self,
        count: usize,
        fits: impl Fn(usize) -> bool,
    ) -> Result<Vec<Span>, String> {
        let endpoints = self.cluster.shape.endpoints;
        let mut spans = Vec::with_capacity(count);
        while spans.len() < count {
            let (number, gone) = (self.random(&fits), self.chance.below(endpoints));
            spans.push(self.change(number, (0..endpoints).filter(|n| *n != gone))?);
            spans.push(self.change(number, 0..endpoints)?);
        }
        Ok(spans)
    }

    /// Random Services get a new endpoint in the place of a random one.
    fn replace(&mut self, count: usize, fits: impl Fn(usize) -> bool) -> Result<Vec<Span>, String> {
        let endpoints = self.cluster.shape.endpoints;
        let mut spans = Vec::with_capacity(count);
        while spans.len() < count {
            let (number, gone) = (self.random(&fits), self.chance.below(endpoints));
            spans.push(self.change(number, (0..=endpoints).filter(|n| *n != gone))?);
            self.change(number, 0..endpoints)?;
        }
        Ok(spans)
    }

    /// One Service after the other gets one of these counts of endpoints.
    fn grow(
        &mut self,
        fits: impl Fn(usize) -> bool,
        counts: Range<usize>,
    ) -> Result<Vec<Span>, String> {
        debug_assert!(counts.end <= ROOM);
        let numbers = (0..self.cluster.shape.services).filter(|n| fits(*n));
        numbers.zip(counts).map(|(number, count)| self.change(number, 0..count)).collect()
    }

    fn random(&mut self, fits: impl Fn(usize) -> bool) -> usize {
        loop {
            let number = self.chance.below(self.cluster.shape.services);
            if fits(number) {
                return number;
            }
        }
    }

    fn change(
        &mut self,
        number: usize,
        endpoints: impl Iterator<Item = usize> + Clone,
    ) -> Result<Span, String> {
        let slice = |family: &Family| self.cluster.slice(number, *family, endpoints.clone());
        let events: Vec<Event> = self.cluster.shape.families.iter().map(slice).collect();
        let ((report, began), whole) = measure(|| {
            let began = Instant::now();
            events.into_iter().for_each(|event| self.proxy.feed(event));
            (self.proxy.sync(), began)
        });
        let committed = *self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        match of(report)?.operations {
            0 => Err(format!("a change of service {number} did nothing")),
            // What comes after the commit (stale flows) delays no packet.
            _ => Ok(Span { wall: committed.saturating_duration_since(began), ..whole }),
        }
    }
}
