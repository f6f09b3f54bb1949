//! `proptests`: puts files of packet-flow vectors to the proxy, on the simulated or the real kernel.
//! No logic of its own. Tests: `tests/vectors.rs`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use kube_proxy::kernel::XtablesFlavour as Flavour;

use proptests::cluster::{WAYS, Way};
use proptests::explore::numbered;
use proptests::lab::RealHeart;
use proptests::run::{Heart, Tally, judge, run};
use proptests::sim_heart::SimHeart;
use proptests::vectors::read;

/// Things true of every cluster.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs files of packet-flow vectors and closes with `N passed, N failed, N skipped`.
    Vectors {
        /// The proxy mode; `userspace-iptables` is userspace mode by rules of iptables.
        #[arg(long, value_parser = way)]
        mode: Way,
        /// The kernel that is asked.
        #[arg(long, value_enum, default_value = "sim")]
        kernel: KernelWord,
        /// Which iptables the real kernel is asked with; else the one that the proxy finds.
        #[arg(long, value_enum)]
        iptables: Option<FlavourWord>,
        /// Files, one cluster state a line.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Makes clusters and packets from a seed and holds their fates against the oracle.
    Explore {
        /// The proxy mode; `userspace-iptables` is userspace mode by rules of iptables.
        #[arg(long, value_parser = way, default_value = "nftables")]
        mode: Way,
        /// The kernel that is asked.
        #[arg(long, value_enum, default_value = "sim")]
        kernel: KernelWord,
        /// Which iptables the real kernel is asked with; else the one that the proxy finds.
        #[arg(long, value_enum)]
        iptables: Option<FlavourWord>,
        /// Where chance begins.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The first case.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// How many cases.
        #[arg(long, default_value_t = 100)]
        cases: u64,
        /// Packets sent into each case, at most.
        #[arg(long, default_value_t = 200)]
        packets: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KernelWord {
    Sim,
    Real,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FlavourWord {
    Legacy,
    Nft,
}

/// A kernel to be asked, and with which iptables.
#[derive(Clone, Copy, Debug)]
struct Asked {
    kernel: KernelWord,
    flavour: Option<Flavour>,
}

impl Asked {
    fn new(kernel: KernelWord, flavour: Option<FlavourWord>) -> Asked {
        let flavour = flavour.map(|word| match word {
            FlavourWord::Legacy => Flavour::Legacy,
            FlavourWord::Nft => Flavour::Nft,
        });
        Asked { kernel, flavour }
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Vectors { mode, kernel, iptables, files } => {
            vectors(mode, Asked::new(kernel, iptables), &files)
        }
        Command::Explore { mode, kernel, iptables, seed, first, cases, packets } => {
            let numbers = first..first.saturating_add(cases);
            explore((mode, Asked::new(kernel, iptables)), seed, numbers, packets)
        }
    };
    match outcome {
        Ok(tally) => {
            println!("{tally}");
            if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("proptests: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The way of a name.
fn way(name: &str) -> Result<Way, String> {
    let named = WAYS.iter().find(|(known, _)| *known == name).map(|(_, way)| *way);
    named.ok_or_else(|| {
        let built: Vec<&str> = WAYS.iter().map(|(known, _)| *known).collect();
        format!("no such mode; there are: {}", built.join(", "))
    })
}

/// The kernel of a word, or why it cannot be asked here.
fn heart((mode, steering): Way, asked: Asked) -> Result<Box<dyn Heart>, String> {
    match asked.kernel {
        KernelWord::Sim => Ok(Box::new(SimHeart)),
        KernelWord::Real => match RealHeart::obstacle(mode.rules(steering)) {
            None => Ok(Box::new(RealHeart { flavour: asked.flavour })),
            Some(why) => Err(format!("the real kernel cannot be asked: {why}")),
        },
    }
}

fn vectors(way: Way, asked: Asked, files: &[PathBuf]) -> Result<Tally, String> {
    let mut states = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let content = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
        states.extend(read(&name, &content, way.0).map_err(|e| e.to_string())?);
    }
    states.iter_mut().for_each(|state| state.setup.steering = way.1);
    let mut heart = match heart(way, asked) {
        Ok(heart) => heart,
        Err(why) if std::env::var("NETLAB").as_deref() == Ok("required") => return Err(why),
        Err(why) => {
            println!("skipped: {why}");
            let skipped = states.iter().map(|s| s.flows.len()).sum();
            return Ok(Tally { skipped, ..Tally::default() });
        }
    };
    let mut tally = Tally::default();
    for state in &states {
        let mut said = String::new();
        tally += run(state, heart.as_mut(), &mut said);
        print!("{said}");
    }
    Ok(tally)
}

fn explore(
    (way, asked): (Way, Asked),
    seed: u64,
    numbers: std::ops::Range<u64>,
    most: usize,
) -> Result<Tally, String> {
    let mut heart = heart(way, asked)?;
    let mut tally = Tally::default();
    for number in numbers {
        let (case, packets) = numbered((way, seed), number, most)?;
        let mut said = String::new();
        let outcome = judge(&case, &packets, heart.as_mut(), &mut said);
        if outcome.failed > 0 {
            println!("FAILED case {number} of seed {seed}\n{said}");
            println!(
                "  replay: cargo run --release -p proptests -- explore --mode {} --kernel {} --seed {seed} --first {number} --cases 1 --packets {most}",
                case.setup.word(),
                heart.name()
            );
        }
        tally += outcome;
    }
    Ok(tally)
}
