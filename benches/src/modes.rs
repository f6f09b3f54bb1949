//! The other modes on the real kernel, driven through the library: how long everything and one
//! endpoint take, how much of that is the kernel's (and the tool's, where rules go through
//! iptables-restore), how many bytes are sent; beside the same transactions carried out once more
//! with nothing else to do. In ipvs mode it runs where there is IPVS: `netlab guest` has it.
//!
//! Each run of each case is a process and a network namespace of its own. Tests: by running it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;

use kube_proxy::kernel::meter::{Dealing, Meter};
use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{
    Capabilities, Error, Facts, Kernel, Query, Receipt, Transaction, XtablesFlavour,
};
use kube_proxy::model::{Family, Mode};
use kube_proxy::sync::{Options, Proxy};

use crate::cluster::{Chance, Cluster, Mix, Shape, feed};
use crate::figures::{Figures, Runs};
use crate::meter::{self, Span, measure};
use crate::real;
use crate::report::{Row, table};

/// How packets are programmed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Way {
    /// iptables mode by `iptables-nft-restore`.
    IptablesNft,
    /// iptables mode, the same rules over netlink.
    IptablesNetlink,
    /// iptables mode by `iptables-legacy-restore`.
    IptablesLegacy,
    /// ipvs mode.
    Ipvs,
    /// nftables mode, for comparison.
    Nftables,
}

impl Way {
    /// Its name on the command line.
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn mode(self) -> Mode {
        match self {
            Way::Ipvs => Mode::Ipvs,
            Way::Nftables => Mode::Nftables,
            _ => Mode::Iptables,
        }
    }

    /// Who is to write iptables' rules (`src/kernel/real/compat.rs`).
    fn writer(self) -> &'static str {
        if self == Way::IptablesNetlink { "netlink" } else { "tool" }
    }

    fn open(self) -> Result<Real, String> {
        let real = Real::open().map_err(|e| e.to_string())?;
        let real = match self {
            Way::IptablesNft | Way::IptablesNetlink => real.with_xtables(Some(XtablesFlavour::Nft)),
            Way::IptablesLegacy => real.with_xtables(Some(XtablesFlavour::Legacy)),
            Way::Ipvs => real.with_xtables(None),
            Way::Nftables => real,
        };
        match real.capabilities().lines(self.mode()).first() {
            Some(lack) => Err(format!("{}: {lack}", self.name())),
            None => Ok(real),
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The ways.
    pub ways: Vec<Way>,
    /// Numbers of Services, of 10 endpoints each.
    pub services: Vec<usize>,
    /// Runs of each case.
    pub runs: usize,
    /// Changes in a run.
    pub changes: usize,
}

/// What was said to the kernel, and how long its answers took.
#[derive(Default)]
struct Seen {
    took: Duration,
    count: usize,
    bytes: usize,
    /// The transactions themselves, where they are kept.
    kept: Vec<Transaction>,
}

impl Seen {
    fn take(&mut self) -> Seen {
        std::mem::take(self)
    }

    fn note(&mut self, transaction: &Transaction, keeps: bool) {
        self.count += 1;
        self.bytes += match transaction {
            Transaction::Nft(batch) => batch.bytes.len(),
            Transaction::Xtables(text) => text.text.len(),
            _ => 0,
        };
        if keeps {
            self.kept.push(transaction.clone());
        }
    }
}

/// Linux, timed; what it was told is counted, and kept where it is to be said once more.
struct Watched {
    inner: Meter<Real>,
    seen: Shared,
    keeps: bool,
}

type Shared = Arc<Mutex<Seen>>;

fn seen(shared: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    fn new(inner: Real, shared: &Shared, keeps: bool) -> Watched {
        let clock = shared.clone();
        let tell = Box::new(move |dealing: Dealing| seen(&clock).took += dealing.took);
        Watched { inner: Meter::new(inner, tell), seen: shared.clone(), keeps }
    }
}

impl Kernel for Watched {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let outcome = self.inner.apply(transaction);
        seen(&self.seen).note(transaction, self.keeps);
        outcome
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.inner.read(query)
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

/// Runs every case; results by way and number of Services.
pub fn run(wish: &Wish) -> Result<BTreeMap<(usize, Way), Runs>, String> {
    let mut results: BTreeMap<(usize, Way), Runs> = BTreeMap::new();
    for round in 1..=wish.runs {
        for services in &wish.services {
            for way in &wish.ways {
                let figures = in_child(*way, *services, wish.changes)?;
                eprintln!("run {round}: {}: {}", case_name(*services, *way), figures.to_line());
                results.entry((*services, *way)).or_default().push(figures);
                std::thread::sleep(Duration::from_millis(300 + *services as u64 / 10));
            }
        }
    }
    Ok(results)
}

fn in_child(way: Way, services: usize, changes: usize) -> Result<Figures, String> {
    let mut own = real::own_binary()?;
    own.env("KUBE_PROXY_IPTABLES_WRITER", way.writer()).args([
        "mode-case",
        &way.name(),
        &services.to_string(),
        &changes.to_string(),
    ]);
    real::figures_of(own, &case_name(services, way))
}

fn case_name(services: usize, way: Way) -> String {
    format!("{} {services}x10", way.name())
}

/// What a child does: runs a case in a new network namespace. Must be called before any thread is
/// started.
pub fn play(way: Way, services: usize, changes: usize) -> Result<Figures, String> {
    real::enter_new_namespace()?;
    bring_up_loopback()?;
    let families = vec![Family::V4];
    let cluster = Cluster::new(Shape { services, endpoints: 10, families, mix: Mix::Plain });
    let mut figures = Figures::default();
    let shared = Shared::default();
    // Of IPVS what goes before and after depends on what is there: nothing to be said once more.
    let again = way.mode() != Mode::Ipvs;
    let kernel = Watched::new(way.open()?, &shared, again);
    let options = Options { mode: way.mode(), ..cluster.options() };
    figures.memory("before", meter::memory("self"));
    let mut proxy = Proxy::new(Box::new(kernel), options);
    let (outcome, all) = measure(|| {
        feed(&mut proxy, &cluster);
        proxy.sync()
    });
    outcome.map_err(|e| e.to_string())?;
    let first = seen(&shared).take();
    figures.span("first_all", all);
    figures.put("first_kernel_ms", first.took.as_secs_f64() * 1000.0);
    figures.put("first_ours_ms", all.wall.saturating_sub(first.took).as_secs_f64() * 1000.0);
    figures.put("first_bytes", first.bytes as f64);
    if !again {
        // Elsewhere it would be that of what is kept, too.
        figures.memory("synced", meter::memory("self"));
    }
    let (second, span) = measure(|| proxy.sync());
    second.map_err(|e| e.to_string())?;
    figures.span("second_sync", span);
    figures.put("second_sync_transactions", seen(&shared).take().count as f64);
    let later = change((&mut proxy, &shared), &cluster, changes, &mut figures)?;
    drop(proxy);
    if again {
        bare(way, (first.kept, later), &mut figures)?;
    }
    Ok(figures)
}

/// Before the first address is there, IPVS takes every destination for a broadcast
/// (`__inet_dev_addr_type`).
fn bring_up_loopback() -> Result<(), String> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ip link set lo up: {status}")),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// Random Services lose a random endpoint, and get it back. Gives what was said to the kernel.
fn change(
    (proxy, shared): (&mut Proxy, &Shared),
    cluster: &Cluster,
    count: usize,
    figures: &mut Figures,
) -> Result<Vec<Vec<Transaction>>, String> {
    let mut chance = Chance::new(0x2545_f491_4f6c_dd1d);
    let (mut all, mut kernel, mut ours, mut bytes) = (vec![], vec![], vec![], vec![]);
    let mut said = Vec::new();
    while all.len() < count {
        let (number, gone) = (chance.below(cluster.shape.services), chance.below(10));
        for without in [Some(gone), None] {
            let chosen = (0..10).filter(|n| Some(*n) != without);
            let event = cluster.slice(number, Family::V4, chosen);
            let (outcome, span) = measure(|| {
                proxy.feed(event);
                proxy.sync()
            });
            outcome.map_err(|e| e.to_string())?;
            let seen = seen(shared).take();
            all.push(span);
            kernel.push(Span { wall: seen.took, ..Span::default() });
            ours.push(Span { wall: span.wall.saturating_sub(seen.took), ..Span::default() });
            bytes.push(seen.bytes as f64);
            said.push(seen.kept);
        }
    }
    figures.spans("change", &all);
    figures.spans("change_kernel", &kernel);
    figures.spans("change_ours", &ours);
    bytes.sort_by(f64::total_cmp);
    figures.put("change_bytes", meter::quantile(&bytes, 50.0));
    Ok(said)
}

/// The same transactions once more, in another namespace, with nothing else to do.
fn bare(
    way: Way,
    (first, changes): (Vec<Transaction>, Vec<Vec<Transaction>>),
    figures: &mut Figures,
) -> Result<(), String> {
    real::enter_new_namespace()?;
    // The namespace that was left is taken apart meanwhile.
    std::thread::sleep(Duration::from_secs(2));
    let mut kernel = way.open()?;
    let mut again = |all: &[Transaction]| {
        let (outcome, span) = measure(|| all.iter().try_for_each(|t| kernel.apply(t).map(|_| ())));
        outcome.map(|()| span).map_err(|e| format!("the same once more: {e}"))
    };
    figures.span("bare_first", again(&first)?);
    let spans: Result<Vec<Span>, String> = changes.iter().map(|all| again(all)).collect();
    figures.spans("bare_change", &spans?);
    Ok(())
}

/// Prints and keeps the results.
pub fn report(results: &BTreeMap<(usize, Way), Runs>) -> Result<(), String> {
    let of = |((services, way), runs): (&(usize, Way), &Runs)| {
        table(&format!("{} mode, {services} Services × 10 endpoints", way.name()), &rows(runs))
    };
    let tables: Vec<String> = results.iter().map(of).collect();
    tables.iter().for_each(|table| println!("{table}"));
    let name = |(services, way): &(usize, Way)| case_name(*services, *way);
    let named = results.iter().map(|(case, runs)| (name(case), runs.clone())).collect();
    let ways: BTreeSet<String> = results.keys().map(|(_, way)| way.name()).collect();
    let ways: Vec<String> = ways.into_iter().collect();
    let sizes: BTreeSet<usize> = results.keys().map(|(n, _)| *n).collect();
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    let name = format!("modes-{}-{}", ways.join("+"), sizes.join("+"));
    match crate::report::write(&name, &named, &tables) {
        Ok(folder) => println!("written to {}", folder.display()),
        // A guest's files are this machine's, which it cannot change.
        Err(why) => println!("not kept ({why})"),
    }
    Ok(())
}

/// What is shown: in which words, which figure, the divisor that brings it to its unit.
const SHOWN: &[(&str, &str, f64, &str)] = &[
    ("everything: feed, compile, render, commit", "first_all_ms", 1.0, "ms"),
    ("… of it the kernel and its tool", "first_kernel_ms", 1.0, "ms"),
    ("… of it our own", "first_ours_ms", 1.0, "ms"),
    ("… bytes", "first_bytes", 1.0, ""),
    ("the same transactions alone", "bare_first_ms", 1.0, "ms"),
    ("a second sync: transactions", "second_sync_transactions", 1.0, ""),
    ("one endpoint less or more: p50", "change_p50_us", 1000.0, "ms"),
    ("… p99", "change_p99_us", 1000.0, "ms"),
    ("… of it the kernel and its tool, p50", "change_kernel_p50_us", 1000.0, "ms"),
    ("… of it our own, p50", "change_ours_p50_us", 1000.0, "ms"),
    ("… of it our own, p99", "change_ours_p99_us", 1000.0, "ms"),
    ("… bytes, p50", "change_bytes", 1.0, ""),
    ("the same transactions alone, p50", "bare_change_p50_us", 1000.0, "ms"),
    ("resident after the first sync (library only)", "synced_rss_kib", 1024.0, "MiB"),
];

/// Ratios with the most they may be.
const RATIOS: &[(&str, &str, &str, f64)] = &[
    ("everything against the same alone", "first_all_ms", "bare_first_ms", 1.3),
    ("one endpoint against the same alone", "change_p50_us", "bare_change_p50_us", 1.2),
];

fn rows(runs: &Runs) -> Vec<Row> {
    let shown = SHOWN.iter().filter_map(|(words, name, divisor, unit)| {
        Some(Row::plain(*words, runs.median(name)? / divisor, unit))
    });
    let ratios = RATIOS.iter().filter_map(|(words, one, other, most)| {
        let ratio = runs.median(one)? / runs.median(other)?;
        Some(Row::most(*words, ratio, (*most, "×")))
    });
    shown.chain(ratios).collect()
}
