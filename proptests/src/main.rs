//! `proptests`: puts files of packet-flow vectors to the proxy, on the simulated or the real kernel.
//! No logic of its own. Tests: `tests/vectors.rs`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use proptests::cluster::Mode;
use proptests::lab::RealHeart;
use proptests::run::{Heart, Tally, run};
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
        /// The proxy mode.
        #[arg(long, value_enum)]
        mode: ModeWord,
        /// The kernel that is asked.
        #[arg(long, value_enum, default_value = "sim")]
        kernel: KernelWord,
        /// Files, one cluster state a line.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeWord {
    Nftables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KernelWord {
    Sim,
    Real,
}

fn main() -> ExitCode {
    let Command::Vectors { mode, kernel, files } = Arguments::parse().command;
    let mode = match mode {
        ModeWord::Nftables => Mode::Nftables,
    };
    match vectors(mode, kernel, &files) {
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

fn vectors(mode: Mode, kernel: KernelWord, files: &[PathBuf]) -> Result<Tally, String> {
    let mut states = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let content = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
        states.extend(read(&name, &content, mode).map_err(|e| e.to_string())?);
    }
    let mut heart: Box<dyn Heart> = match kernel {
        KernelWord::Real => Box::new(RealHeart),
        KernelWord::Sim => Box::new(RealHeart),
    };
    if let Some(why) = RealHeart::obstacle().filter(|_| kernel == KernelWord::Real) {
        if std::env::var("NETLAB").is_ok_and(|v| v == "required") {
            return Err(format!("the real kernel cannot be asked: {why}"));
        }
        println!("skipped: the real kernel cannot be asked: {why}");
        let skipped = states.iter().map(|s| s.flows.len()).sum();
        return Ok(Tally { skipped, ..Tally::default() });
    }
    let mut tally = Tally::default();
    for state in &states {
        let mut said = String::new();
        tally += run(state, heart.as_mut(), &mut said);
        print!("{said}");
    }
    Ok(tally)
}
