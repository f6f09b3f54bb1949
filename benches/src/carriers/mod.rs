//! Userspace mode beside HAProxy and nginx (datagrams beside nginx only): the same clients, the same pod, the same namespaces, one after another in each
//! round, so that what disturbs one disturbs all. Judged from outside. Tests: by running `carriers`.

pub mod ground;
pub mod load;
pub mod programs;
pub mod udp;

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::figures::{Figures, Runs};
use crate::meter::{self, Span};
use crate::report::{Row, table, write};
use ground::Ground;
use programs::{Carrier, Program};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Rounds.
    pub runs: usize,
    /// How long each load lasts.
    pub time: Duration,
    /// Connections that ask now and then.
    pub open: usize,
    /// Connections that do nothing.
    pub idle: usize,
    /// How long to wait before each round for the machine to calm down.
    pub patience: Duration,
}

/// Raises the limit of descriptors as far as it goes; where that is not far enough, fewer connections are idle: each
/// takes two, of the carrier and of this program, which is clients and pod.
fn with_descriptors(wish: &mut Wish) -> Result<(), String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| e.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|e| e.to_string())?;
    let room = usize::try_from(hard).unwrap_or(usize::MAX) / 5 * 2;
    if wish.idle > room {
        eprintln!("{hard} descriptors: {room} idle connections instead of {}", wish.idle);
        wish.idle = room;
    }
    Ok(())
}

/// Runs everything; results by the names of the carriers. What cannot be had is less in the wish afterwards.
pub fn run(wish: &mut Wish) -> Result<BTreeMap<String, Runs>, String> {
    netlab::privilege::obtain()?;
    netlab::scratch::clean_on_signals()?;
    with_descriptors(wish)?;
    let ground = Ground::new()?;
    ground.pod.spawn(|| {
        runtime()?.block_on(async {
            let listener = load::listen(ground::pod()).map_err(|e| e.to_string())?;
            load::serve(listener).await;
            Ok::<_, String>(())
        })
    });
    ground.pod.spawn(|| {
        let socket = std::net::UdpSocket::bind(ground::pod()).map_err(|e| e.to_string())?;
        udp::answer(&socket).map_err(|e| e.to_string())
    });
    let mut results: BTreeMap<String, Runs> = BTreeMap::new();
    for round in 1..=wish.runs {
        let load = meter::calm(wish.patience);
        for carrier in Carrier::ALL {
            let mut figures =
                one(carrier, &ground, wish).map_err(|why| format!("{}: {why}", carrier.name()))?;
            figures.put("load_before", load);
            eprintln!("run {round}: {}: {}", carrier.name(), figures.to_line());
            results.entry(carrier.name().to_owned()).or_default().push(figures);
        }
    }
    Ok(results)
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())
}

/// One life of a carrier.
fn one(carrier: Carrier, ground: &Ground, wish: &Wish) -> Result<Figures, String> {
    let program = carrier.start(ground, wish.idle + wish.idle / 10)?;
    let measured = ground.client.run(|| {
        let mut figures = runtime()?.block_on(measure(carrier, program.as_ref(), wish))?;
        datagrams(carrier, wish, &mut figures)?;
        Ok::<_, String>(figures)
    });
    let words = || program.as_ref().map(Program::last_words).unwrap_or_default();
    measured.map_err(|why| format!("{why}\n{}", words()))
}

/// Datagrams in bulk, by whom carries them.
fn datagrams(carrier: Carrier, wish: &Wish, figures: &mut Figures) -> Result<(), String> {
    if carrier == Carrier::Haproxy {
        return Ok(());
    }
    let ways = [("alone_per_s", udp::Sends::Alone), ("together_per_s", udp::Sends::Together)];
    for (figure, sends) in ways {
        udp::carry(carrier.target(), wish.time / 10, sends)?;
        figures.put(figure, udp::carry(carrier.target(), wish.time, sends)?);
    }
    Ok(())
}

async fn measure(
    carrier: Carrier,
    program: Option<&Program>,
    wish: &Wish,
) -> Result<Figures, String> {
    let to = carrier.target();
    let mut figures = Figures::default();
    load::until_open(to).await?;
    if let Some(program) = program {
        // First: what other loads leave behind would take in some of it.
        let before = program.memory();
        let streams = load::open(to, wish.idle).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let more = program.memory().saturating_sub(before);
        figures.put("resident_kib", before as f64);
        figures.put("idle_bytes", more as f64 * 1024.0 / streams.len().max(1) as f64);
    }
    // What was closed is gone everywhere.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Caches and pools fill.
    load::short(to, wish.time / 10).await;
    let (rate, failed) = load::short(to, wish.time).await;
    figures.put("short_per_s", rate);
    figures.put("short_failed", failed as f64);
    figures.put("bulk_bits_per_s", load::bulk(to, wish.time).await?);
    let streams = load::open(to, wish.open).await?;
    let took = load::questions(streams, wish.time).await?;
    let spans: Vec<Span> = took.into_iter().map(|wall| Span { wall, ..Span::default() }).collect();
    figures.spans("question", &spans);
    Ok(figures)
}

/// A figure that is compared, in which way, and how it is shown.
struct Compared {
    what: &'static str,
    figure: &'static str,
    more_is_better: bool,
    unit: (f64, &'static str),
}

const COMPARED: [Compared; 6] = [
    Compared {
        what: "short connections",
        figure: "short_per_s",
        more_is_better: true,
        unit: (1.0, "/s"),
    },
    Compared {
        what: "bulk",
        figure: "bulk_bits_per_s",
        more_is_better: true,
        unit: (1e9, "Gbit/s"),
    },
    Compared {
        what: "p99 of a question",
        figure: "question_p99_us",
        more_is_better: false,
        unit: (1.0, "µs"),
    },
    Compared {
        what: "memory of an idle connection",
        figure: "idle_bytes",
        more_is_better: false,
        unit: (1.0, "bytes"),
    },
    Compared {
        what: "datagrams, each a packet",
        figure: "alone_per_s",
        more_is_better: true,
        unit: (1e3, "thousand/s"),
    },
    Compared {
        what: "datagrams, a burst a packet",
        figure: "together_per_s",
        more_is_better: true,
        unit: (1e3, "thousand/s"),
    },
];

/// Prints and keeps the results.
pub fn report(wish: &Wish, results: &BTreeMap<String, Runs>) -> Result<(), String> {
    let mut rows = Vec::new();
    for compared in &COMPARED {
        let of = |carrier: Carrier| results.get(carrier.name())?.median(compared.figure);
        for carrier in Carrier::ALL {
            let Some(value) = of(carrier) else { continue };
            let what = format!("{}: {}", compared.what, carrier.name());
            rows.push(Row::plain(what, value / compared.unit.0, compared.unit.1));
        }
        for peer in [Carrier::Haproxy, Carrier::Nginx] {
            let (Some(ours), Some(theirs)) = (of(Carrier::Ours), of(peer)) else { continue };
            let ratio = if compared.more_is_better { ours / theirs } else { theirs / ours };
            rows.push(Row {
                what: format!("{}: ours beside {}", compared.what, peer.name()),
                value: format!("{ratio:.2}× as good"),
                goal: if peer == Carrier::Haproxy { "≥ 1".to_owned() } else { String::new() },
                met: (peer == Carrier::Haproxy).then_some(ratio >= 1.0),
            });
        }
    }
    let title = format!(
        "Connections carried: {} ask, {} idle, medians of {}",
        wish.open, wish.idle, wish.runs
    );
    let table = table(&title, &rows);
    println!("{table}");
    let folder = write("carriers", results, &[table])?;
    println!("written to {}", folder.display());
    Ok(())
}
