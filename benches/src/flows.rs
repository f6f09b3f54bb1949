//! A conntrack table with half a million entries beside a proxy at work: whether looking for stale flows
//! among them holds up other changes, and how long they live. PEER=/path measures another kube-proxy
//! on the same table in the same run. Tests: by running `flows`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use kube_proxy::model::Family;
use netlab::page::fetch;

use crate::cluster::cluster_ip;
use crate::crowd::{Flow, Room};
use crate::daemon::{Candidate, candidates};
use crate::figures::{Figures, Runs};
use crate::meter::Span;
use crate::node::{Endpoint, Node};
use crate::objects;
use crate::report::{Row, table};

/// Endpoints of the Service that has UDP flows.
const ENDPOINTS: usize = 10;
/// Its flows to the endpoint that leaves.
const STALE: usize = 1_000;
/// Where the metrics are, in the node.
const METRICS: &str = "127.0.0.1:10249";
/// How long the first client may have to wait.
const FIRST: Duration = Duration::from_secs(120);
/// How long a change may take.
const CHANGE: Duration = Duration::from_secs(60);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How many Services.
    pub services: usize,
    /// Entries of the full table.
    pub entries: usize,
    /// Changes of each kind in a run.
    pub changes: usize,
    /// Runs of each case.
    pub runs: usize,
    /// What all are given as `--proxy-mode`.
    pub mode: String,
}

/// Runs everything; results by the names of the cases.
pub fn run(wish: &Wish) -> Result<BTreeMap<String, Runs>, String> {
    netlab::privilege::obtain()?;
    netlab::scratch::clean_on_signals()?;
    let _room = Room::for_entries(wish.entries)?;
    let mut results: BTreeMap<String, Runs> = BTreeMap::new();
    for round in 1..=wish.runs {
        for candidate in candidates(&wish.mode)? {
            for entries in [0, wish.entries] {
                let figures = one(wish, &candidate, entries)?;
                let name = format!("{} {entries}", candidate.name);
                eprintln!("run {round}: {name}: {}", figures.to_line());
                results.entry(name).or_default().push(figures);
            }
        }
    }
    Ok(results)
}

/// One life of a kube-proxy beside a table of this size.
fn one(wish: &Wish, candidate: &Candidate, entries: usize) -> Result<Figures, String> {
    let mut figures = Figures::default();
    // Behind the Service that is asked.
    let udp = wish.services + 1;
    let mut node = Node::new(&objects::all(wish.services, 1), wish.services)?;
    let all = objects::addresses(udp, ENDPOINTS);
    node.shared.store.set(&objects::over_udp(objects::service(udp)))?;
    node.shared.store.set(&objects::over_udp(objects::slice(udp, &all)))?;
    node.fill((0..entries).map(foreign))?;
    let mut flags = candidate.flags.clone();
    if candidate.counts_forgotten {
        flags.push(format!("--metrics-bind-address={METRICS}"));
    }
    // Else the second of two changes waits for a second, and so little would be seen.
    flags.push("--iptables-min-sync-period=0s".to_owned());
    node.start(Path::new(&candidate.binary), &flags)?;
    node.wait_for(Endpoint::Open, FIRST)?;
    std::thread::sleep(Duration::from_secs(2));
    let (mut seen, mut forgotten) = (Vec::new(), Vec::new());
    for number in 0..wish.changes {
        // An endpoint leaves with its flows; the next change comes on its heels.
        let leaving: IpAddr = all[0].parse().map_err(|e| format!("{}: {e}", all[0]))?;
        node.fill((0..STALE).map(|n| served(udp, leaving, n)))?;
        let before = if candidate.counts_forgotten { deleted(&node)? } else { 0.0 };
        let began = Instant::now();
        node.shared.store.set(&objects::over_udp(objects::slice(udp, &all[1..])))?;
        let endpoint = if number % 2 == 0 { Endpoint::Closed } else { Endpoint::Open };
        node.give(endpoint)?;
        let wall = node.wait_for(endpoint, CHANGE)?;
        seen.push(Span { wall, ..Span::default() });
        if candidate.counts_forgotten {
            while deleted(&node)? < before + STALE as f64 {
                if began.elapsed() > CHANGE {
                    return Err(format!("flows are not forgotten after {CHANGE:?}"));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            forgotten.push(Span { wall: began.elapsed(), ..Span::default() });
        }
        node.shared.store.set(&objects::over_udp(objects::slice(udp, &all)))?;
        // Longer than the least time between two syncs of either.
        std::thread::sleep(Duration::from_millis(1500));
    }
    figures.spans("client_sees", &seen);
    if !forgotten.is_empty() {
        figures.spans("forgotten", &forgotten);
    }
    Ok(figures)
}

/// A flow that has nothing to do with Services.
fn foreign(number: usize) -> Flow {
    let client = Ipv4Addr::from(0x6440_0000 + (number / 50_000) as u32);
    let server = Ipv4Addr::new(100, 100, 0, 1);
    let port = 1024 + (number % 50_000) as u16;
    Flow { client: (client, port), asked: (server, 443), answers: (server, 443) }
}

/// A flow of the n-th Service that goes on to an endpoint.
fn served(service: usize, endpoint: IpAddr, number: usize) -> Flow {
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let client = Ipv4Addr::new(100, 127, 0, 1);
    Flow {
        client: (client, 1024 + number as u16),
        asked: (v4(cluster_ip(service, Family::V4)), 80),
        answers: (v4(endpoint), 8080),
    }
}

/// How many flows the proxy says to have forgotten.
fn deleted(node: &Node) -> Result<f64, String> {
    const NAME: &str = "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"}";
    let metrics: SocketAddr = METRICS.parse().map_err(|e| format!("{METRICS}: {e}"))?;
    let page = node.run(|| fetch(metrics, "/metrics"))?;
    Ok(page.figure(NAME).and_then(|figure| figure.parse().ok()).unwrap_or(0.0))
}

/// Prints and keeps the results.
pub fn report(wish: &Wish, results: &BTreeMap<String, Runs>) -> Result<(), String> {
    let mut tables = Vec::new();
    for name in ["ours", "peer"] {
        let mut rows = Vec::new();
        for entries in [0, wish.entries] {
            let Some(runs) = results.get(&format!("{name} {entries}")) else { continue };
            let of = [
                ("client_sees_p50_us", "a change on the heels of one with stale flows, p50"),
                ("client_sees_p99_us", "… p99"),
                ("forgotten_p50_us", "1,000 stale flows forgotten, p50"),
                ("forgotten_p99_us", "… p99"),
            ];
            let known = of.iter().filter_map(|(key, what)| Some((runs.median(key)?, what)));
            rows.extend(
                known.map(|(us, what)| Row::plain(format!("{entries}: {what}"), us / 1000.0, "ms")),
            );
        }
        if !rows.is_empty() {
            tables.push(table(&format!("{name}, {} mode, entries of conntrack", wish.mode), &rows));
        }
    }
    tables.iter().for_each(|table| println!("{table}"));
    let folder = crate::report::write(&format!("flows-{}", wish.mode), results, &tables)?;
    println!("written to {}", folder.display());
    Ok(())
}
