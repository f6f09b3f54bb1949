//! The other modes on the real kernel, driven through the library: how long everything and one
//! endpoint take, how much of that is the kernel's (and the tool's, where rules go through
//! iptables-restore), how many bytes are sent; beside the same transactions carried out once more
//! with nothing else to do. In ipvs mode it runs where there is IPVS: `netlab guest` has it.
//!
//! Each run of each case is a process and a network namespace of its own. Tests: by running it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube_proxy::kernel::real::Real;
use kube_proxy::kernel::{
    Capabilities, Error, Facts, Kernel, Query, Receipt, Transaction, XtablesFlavour,
};
use kube_proxy::model::{Family, Mode};
use kube_proxy::sync::{Options, Proxy};

use crate::cluster::{Chance, Cluster, Mix, Shape, feed};
use crate::figures::{Figures, Runs};
use crate::meter::{self, Span, measure};
use crate::report::{Row, table};

/// How packets are programmed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
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
    pub fn as_str(self) -> &'static str {
        match self {
            Way::IptablesNft => "iptables-nft",
            Way::IptablesNetlink => "iptables-netlink",
            Way::IptablesLegacy => "iptables-legacy",
            Way::Ipvs => "ipvs",
            Way::Nftables => "nftables",
        }
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
            Some(lack) => Err(format!("{}: {lack}", self.as_str())),
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
    transactions: Vec<Transaction>,
}

impl Seen {
    fn take(&mut self) -> Seen {
        std::mem::take(self)
    }

    fn bytes(&self) -> usize {
        let of = |transaction: &Transaction| match transaction {
            Transaction::Nft(batch) => batch.bytes.len(),
            Transaction::Xtables(text) => text.text.len(),
            _ => 0,
        };
        self.transactions.iter().map(of).sum()
    }
}

/// Linux, watched.
struct Watched {
    inner: Real,
    seen: Arc<Mutex<Seen>>,
}

impl Watched {
    fn timed<T>(&mut self, call: impl FnOnce(&mut Real) -> T) -> T {
        let began = Instant::now();
        let answer = call(&mut self.inner);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).took += began.elapsed();
        answer
    }
}

impl Kernel for Watched {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        let copy = transaction.clone();
        let outcome = self.timed(|kernel| kernel.apply(transaction));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).transactions.push(copy);
        outcome
    }

    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        self.timed(|kernel| kernel.read(query))
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
                eprintln!("run {round}: {} {services}x10: {}", way.as_str(), figures.to_line());
                results.entry((*services, *way)).or_default().push(figures);
                std::thread::sleep(Duration::from_millis(300 + *services as u64 / 10));
            }
        }
    }
    Ok(results)
}

fn in_child(way: Way, services: usize, changes: usize) -> Result<Figures, String> {
    let own = std::env::current_exe().map_err(|e| format!("our own binary: {e}"))?;
    let output = Command::new(own)
        .env("KUBE_PROXY_IPTABLES_WRITER", way.writer())
        .args(["mode-case", way.as_str(), &services.to_string(), &changes.to_string()])
        .output()
        .map_err(|e| format!("{}: {e}", way.as_str()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} {services}: {}\n{errors}", way.as_str(), output.status));
    }
    Figures::from_line(String::from_utf8_lossy(&output.stdout).trim())
}

/// What a child does: runs a case in a new network namespace. Must be called before any thread is
/// started.
pub fn play(way: Way, services: usize, changes: usize) -> Result<Figures, String> {
    crate::real::enter_new_namespace()?;
    bring_up_loopback()?;
    let families = vec![Family::V4];
    let cluster = Cluster::new(Shape { services, endpoints: 10, families, mix: Mix::Plain });
    let mut figures = Figures::default();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let kernel = Watched { inner: way.open()?, seen: seen.clone() };
    let options = Options { mode: way.mode(), ..cluster.options() };
    figures.memory("before", meter::memory("self"));
    let mut proxy = Proxy::new(Box::new(kernel), options);
    let (outcome, all) = measure(|| {
        feed(&mut proxy, &cluster);
        proxy.sync()
    });
    outcome.map_err(|e| e.to_string())?;
    let first = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    figures.span("first_all", all);
    figures.put("first_kernel_ms", first.took.as_secs_f64() * 1000.0);
    figures.put("first_ours_ms", all.wall.saturating_sub(first.took).as_secs_f64() * 1000.0);
    figures.put("first_bytes", first.bytes() as f64);
    figures.memory("synced", meter::memory("self"));
    let (second, span) = measure(|| proxy.sync());
    second.map_err(|e| e.to_string())?;
    figures.span("second_sync", span);
    let said = seen.lock().unwrap_or_else(PoisonError::into_inner).take().transactions.len();
    figures.put("second_sync_transactions", said as f64);
    let later = change((&mut proxy, &seen), &cluster, changes, &mut figures)?;
    drop(proxy);
    if way.mode() != Mode::Ipvs {
        // Of IPVS what goes before and after depends on what is there.
        bare(way, (first.transactions, later), &mut figures)?;
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
    (proxy, seen): (&mut Proxy, &Arc<Mutex<Seen>>),
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
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
            all.push(span);
            kernel.push(Span { wall: seen.took, ..Span::default() });
            ours.push(Span { wall: span.wall.saturating_sub(seen.took), ..Span::default() });
            bytes.push(seen.bytes() as f64);
            said.push(seen.transactions);
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
    crate::real::enter_new_namespace()?;
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
        table(&format!("{} mode, {services} Services × 10 endpoints", way.as_str()), &rows(runs))
    };
    let tables: Vec<String> = results.iter().map(of).collect();
    tables.iter().for_each(|table| println!("{table}"));
    let name = |(services, way): &(usize, Way)| format!("{} {services}x10", way.as_str());
    let named = results.iter().map(|(case, runs)| (name(case), runs.clone())).collect();
    let ways: std::collections::BTreeSet<&str> =
        results.keys().map(|(_, way)| way.as_str()).collect();
    let ways: Vec<&str> = ways.into_iter().collect();
    let sizes: std::collections::BTreeSet<usize> = results.keys().map(|(n, _)| *n).collect();
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    let name = format!("modes-{}-{}", ways.join("+"), sizes.join("+"));
    match crate::report::write(&name, &named, &tables) {
        Ok(folder) => println!("written to {}", folder.display()),
        // A guest's files are this machine's, which it cannot change.
        Err(why) => println!("not kept ({why})"),
    }
    Ok(())
}

fn rows(runs: &Runs) -> Vec<Row> {
    let get = |name: &str| runs.median(name);
    let mut rows = Vec::new();
    let mut plain = |words: &str, value: Option<f64>, unit: &str| {
        rows.extend(value.map(|value| Row::plain(words, value, unit)));
    };
    plain("everything: feed, compile, render, commit", get("first_all_ms"), "ms");
    plain("… of it the kernel and its tool", get("first_kernel_ms"), "ms");
    plain("… of it our own", get("first_ours_ms"), "ms");
    plain("… bytes", get("first_bytes"), "");
    plain("the same transactions alone", get("bare_first_ms"), "ms");
    plain("a second sync: transactions", get("second_sync_transactions"), "");
    let ms = |name: &str| Some(get(name)? / 1000.0);
    plain("one endpoint less or more: p50", ms("change_p50_us"), "ms");
    plain("… p99", ms("change_p99_us"), "ms");
    plain("… of it the kernel and its tool, p50", ms("change_kernel_p50_us"), "ms");
    plain("… of it our own, p50", ms("change_ours_p50_us"), "ms");
    plain("… of it our own, p99", ms("change_ours_p99_us"), "ms");
    plain("… bytes, p50", get("change_bytes"), "");
    plain("the same transactions alone, p50", ms("bare_change_p50_us"), "ms");
    let mib = |name: &str| Some(get(name)? / 1024.0);
    plain("resident after the first sync (library only)", mib("synced_rss_kib"), "MiB");
    let ratio = |one: &str, other: &str| Some(get(one)? / get(other)?);
    if let Some(ratio) = ratio("first_all_ms", "bare_first_ms") {
        rows.push(Row::most("everything against the same alone", ratio, (1.3, "×")));
    }
    if let Some(ratio) = ratio("change_p50_us", "bare_change_p50_us") {
        rows.push(Row::most("one endpoint against the same alone", ratio, (1.2, "×")));
    }
    rows
}
