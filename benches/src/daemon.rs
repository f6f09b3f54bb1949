//! The real binary on an API server with a large cluster: how long until the first client is
//! served, how large it is then, how soon a client sees a change, and how few syncs a burst takes.
//! It is judged from outside, but for the count of syncs, which only its log tells. Tests: by running it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::Chance;
use crate::figures::{Figures, Runs};
use crate::meter::{self, Span};
use crate::node::{Endpoint, Node};
use crate::objects;
use crate::report::{Row, table, write};

/// The environment variable that names another kube-proxy to be measured beside ours.
pub const PEER: &str = "PEER";
/// Before each change; the shortest time between syncs is a second.
const IDLE: Duration = Duration::from_millis(1500);
/// Changes of a burst.
const BURST: usize = 200;
/// How long a first sync may take: the reference needs most of a minute.
const FIRST: Duration = Duration::from_secs(300);
/// How long a change may take.
const CHANGE: Duration = Duration::from_secs(60);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How many Services.
    pub services: usize,
    /// Endpoints of each, case by case; latency is measured in the first one.
    pub endpoints: Vec<usize>,
    /// Runs of each case.
    pub runs: usize,
    /// Changes seen by a client, in each run.
    pub changes: usize,
    /// How long to wait for other work on this machine to end.
    pub patience: Duration,
    /// What both are given as `--proxy-mode`.
    pub mode: String,
    /// Which iptables both find on the node (`nft` or `legacy`); `None`: the machine's.
    pub iptables: Option<String>,
}

/// A binary and what it is called in the results.
pub(crate) struct Candidate {
    /// Its name.
    pub(crate) name: &'static str,
    /// The program.
    pub(crate) binary: PathBuf,
    /// Flags of its own.
    pub(crate) flags: Vec<String>,
    /// Whether its metrics tell how many flows it has forgotten.
    pub(crate) counts_forgotten: bool,
}

/// Ours, and the peer if one is given.
pub(crate) fn candidates(mode: &str) -> Result<Vec<Candidate>, String> {
    let mode = format!("--proxy-mode={mode}");
    let ours = Candidate {
        name: "ours",
        binary: netlab::proxy::find()?,
        flags: vec![mode.clone()],
        counts_forgotten: true,
    };
    let peer = std::env::var_os(PEER).map(|binary| Candidate {
        name: "peer",
        binary: binary.into(),
        // The lab's API server speaks JSON only; conntrack's sysctls are none of a namespace's.
        flags: ["--kube-api-content-type=application/json", "--conntrack-max-per-core=0", &mode]
            .map(str::to_owned)
            .to_vec(),
        counts_forgotten: false,
    });
    Ok(std::iter::once(ours).chain(peer).collect())
}

/// Runs everything; results by the names of the cases.
pub fn run(wish: &Wish) -> Result<BTreeMap<String, Runs>, String> {
    netlab::privilege::obtain()?;
    netlab::scratch::clean_on_signals()?;
    let candidates = candidates(&wish.mode)?;
    let mut results: BTreeMap<String, Runs> = BTreeMap::new();
    for round in 1..=wish.runs {
        for candidate in &candidates {
            for (case, endpoints) in wish.endpoints.iter().enumerate() {
                let load = meter::calm(wish.patience);
                let changes = if case == 0 { wish.changes } else { 0 };
                let shape = (wish.services, *endpoints);
                let mut figures = one((wish, candidate), shape, changes)?;
                figures.put("load_before", load);
                let name = format!("{} {}x{endpoints}", candidate.name, wish.services);
                eprintln!("run {round}: {name}: {}", figures.to_line());
                results.entry(name).or_default().push(figures);
            }
        }
    }
    Ok(results)
}

/// One life of a kube-proxy.
fn one(
    (wish, candidate): (&Wish, &Candidate),
    (services, endpoints): (usize, usize),
    changes: usize,
) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let objects = objects::all(services, endpoints);
    let mut node = Node::new(&objects, services)?;
    drop(objects);
    if let Some(flavour) = &wish.iptables {
        node.use_iptables(flavour)?;
    }
    let id = node.start(Path::new(&candidate.binary), &candidate.flags)?;
    let first = node.wait_for(Endpoint::Open, FIRST)?;
    figures.put("start_to_client_ms", first.as_secs_f64() * 1000.0);
    // Bookmarks, housekeeping and whatever else comes late.
    std::thread::sleep(Duration::from_secs(3));
    figures.put("start_cpu_ms", meter::worked(id).as_secs_f64() * 1000.0);
    figures.memory("synced", meter::memory(id));
    if changes > 0 {
        let written = meter::written(id);
        figures.spans("client_sees", &latencies(&mut node, changes)?);
        let written = meter::written(id).saturating_sub(written);
        figures.put("written_bytes_a_change", written as f64 / changes as f64);
        burst(&node, (services, endpoints), &mut figures)?;
        figures.put("all_cpu_ms", meter::worked(id).as_secs_f64() * 1000.0);
        figures.memory("changed", meter::memory(id));
    }
    Ok(figures)
}

/// From the change of the object in the API server to the first connection that shows it.
fn latencies(node: &mut Node, count: usize) -> Result<Vec<Span>, String> {
    let mut chance = Chance::new(0x9e37_79b9_7f4a_7c15);
    let mut spans = Vec::with_capacity(count);
    for number in 0..count {
        // Not in step with anything that ticks.
        let jitter = Duration::from_micros(chance.below(200_000) as u64);
        std::thread::sleep(IDLE + jitter);
        let endpoint = if number % 2 == 0 { Endpoint::Closed } else { Endpoint::Open };
        let began = std::time::Instant::now();
        node.give(endpoint)?;
        node.wait_for(endpoint, CHANGE)?;
        spans.push(Span { wall: began.elapsed(), ..Span::default() });
    }
    Ok(spans)
}

/// Changes of many Services at once: how many syncs they take.
fn burst(
    node: &Node,
    (services, endpoints): (usize, usize),
    figures: &mut Figures,
) -> Result<(), String> {
    std::thread::sleep(IDLE);
    let syncs = |node: &Node| node.said().lines().filter(|l| l.contains("synced")).count();
    let before = syncs(node);
    let step = (services / BURST).max(1);
    let slices: Vec<_> = (0..services)
        .step_by(step)
        .take(BURST)
        .map(|n| objects::slice(n, &objects::addresses(n, endpoints - 1)))
        .collect();
    let began = std::time::Instant::now();
    for slice in &slices {
        node.shared.store.set(slice)?;
    }
    figures.put("burst_changes", slices.len() as f64);
    figures.put("burst_written_ms", began.elapsed().as_secs_f64() * 1000.0);
    std::thread::sleep(Duration::from_secs(4));
    figures.put("burst_syncs", (syncs(node) - before) as f64);
    Ok(())
}

/// Prints and keeps the results.
pub fn report(wish: &Wish, results: &BTreeMap<String, Runs>) -> Result<(), String> {
    let mut tables = Vec::new();
    for name in ["ours", "peer"] {
        let case =
            |endpoints: &usize| results.get(&format!("{name} {}x{endpoints}", wish.services));
        let cases: Vec<(usize, &Runs)> =
            wish.endpoints.iter().filter_map(|e| Some((*e, case(e)?))).collect();
        if !cases.is_empty() {
            let (mode, services) = (&wish.mode, wish.services);
            let title = format!("{name}, {mode} mode: {services} Services, API server as input");
            tables.push(table(&title, &rows(wish, &cases)));
        }
    }
    tables.iter().for_each(|table| println!("{table}"));
    let folder = write(&file_name(wish), results, &tables)?;
    println!("written to {}", folder.display());
    Ok(())
}

/// Each mode has a file of its own.
fn file_name(wish: &Wish) -> String {
    match wish.mode.as_str() {
        "nftables" => "daemon".to_owned(),
        mode => {
            let flavour = wish.iptables.as_ref().map(|flavour| format!("-{flavour}"));
            format!("daemon-{mode}{}-{}", flavour.unwrap_or_default(), wish.services)
        }
    }
}

fn rows(wish: &Wish, cases: &[(usize, &Runs)]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mib = |kib: f64| kib / 1024.0;
    for (endpoints, runs) in cases {
        let figure = |name: &str| runs.median(name).unwrap_or(f64::NAN);
        let start = figure("start_to_client_ms");
        rows.push(Row::plain(format!("×{endpoints}: start to first client"), start, "ms"));
        let (resident, what) = (mib(figure("synced_rss_kib")), format!("×{endpoints}: resident"));
        rows.push(match (wish.services, endpoints) {
            (10_000, 10) => Row::most(what, resident, (60.0, "MiB")),
            _ => Row::plain(what, resident, "MiB"),
        });
        let peak = mib(figure("synced_peak_kib"));
        rows.push(Row::plain(format!("×{endpoints}: resident at most"), peak, "MiB"));
        if runs.median("client_sees_p50_us").is_some() {
            let ms = |name: &str| figure(name) / 1000.0;
            let p50 = ms("client_sees_p50_us");
            let what = "API change to client, p50";
            rows.push(match wish.mode.as_str() {
                "nftables" => Row::most(what, p50, (20.0, "ms")),
                _ => Row::plain(what, p50, "ms"),
            });
            rows.push(Row::plain("… p99", ms("client_sees_p99_us"), "ms"));
            let written = figure("written_bytes_a_change");
            rows.push(Row::plain("bytes written to pipes and files a change", written, "bytes"));
            let syncs = figure("burst_syncs");
            rows.push(Row::plain("syncs for a burst of 200 changes", syncs, ""));
            let (changed, peak) = (mib(figure("changed_rss_kib")), mib(figure("changed_peak_kib")));
            rows.push(Row::plain("resident after all changes", changed, "MiB"));
            rows.push(Row::plain("… at most", peak, "MiB"));
        }
    }
    if let [(few, a), (many, b), ..] = cases
        && let (Some(a), Some(b)) = (a.median("synced_rss_kib"), b.median("synced_rss_kib"))
    {
        let more = (many - few) * wish.services;
        let bytes = (b - a) * 1024.0 / more as f64;
        rows.push(Row::most("each further endpoint", bytes, (250.0, "bytes")));
    }
    rows
}
