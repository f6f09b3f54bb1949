//! The command line of the measurements: `real`, `daemon`, `flows`, `modes`, `carriers`, and what they start themselves. No logic.

use std::process::ExitCode;
use std::time::Duration;

use benches::modes::{self, Way};
use benches::real::{Case, What};
use benches::{carriers, daemon, flows, real};
use clap::{Parser, Subcommand};
use netlab::process::{Rights, become_guarded};

/// How fast and how big kube-proxy is, on this machine's real kernel. Needs root.
#[derive(Parser)]
#[command(name = "benches")]
struct Arguments {
    #[command(subcommand)]
    what: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Program clusters of N Services through the library.
    Real {
        /// Numbers of Services.
        #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 50_000])]
        services: Vec<usize>,
        /// Runs of each case.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Changes of each kind in a run.
        #[arg(long, default_value_t = 400)]
        changes: usize,
        /// Seconds to wait before each round for the machine to calm down.
        #[arg(long, default_value_t = 0)]
        patience: u64,
    },
    /// Run the real binary on an API server; PEER=/path measures another one beside it.
    Daemon {
        /// How many Services.
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// Endpoints of each; latency is measured with the first number.
        #[arg(long, value_delimiter = ',', default_values_t = [10, 20])]
        endpoints: Vec<usize>,
        /// Runs of each case.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Changes that a client waits for, in each run.
        #[arg(long, default_value_t = 50)]
        changes: usize,
        /// Seconds to wait before each case for the machine to calm down.
        #[arg(long, default_value_t = 0)]
        patience: u64,
        /// What both are given as `--proxy-mode`.
        #[arg(long, default_value = "nftables")]
        mode: String,
        /// Which iptables both find: `nft` or `legacy`.
        #[arg(long, value_parser = ["nft", "legacy"])]
        iptables: Option<String>,
    },
    /// Run the real binary beside a full conntrack table; PEER=/path measures another one as well.
    Flows {
        /// How many Services.
        #[arg(long, default_value_t = 1_000)]
        services: usize,
        /// Entries of the table.
        #[arg(long, default_value_t = 500_000)]
        entries: usize,
        /// Changes of each kind in a run.
        #[arg(long, default_value_t = 30)]
        changes: usize,
        /// Runs of each case.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// What all are given as `--proxy-mode`.
        #[arg(long, default_value = "iptables")]
        mode: String,
    },
    /// Program clusters of N Services through the library in other modes.
    Modes {
        /// How packets are programmed.
        #[arg(
            long = "mode",
            value_delimiter = ',',
            value_enum,
            default_value = "iptables-nft,iptables-netlink,iptables-legacy"
        )]
        ways: Vec<Way>,
        /// Numbers of Services.
        #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
        services: Vec<usize>,
        /// Runs of each case.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Changes in a run.
        #[arg(long, default_value_t = 10)]
        changes: usize,
    },
    /// Userspace mode beside HAProxy and nginx (Debian: haproxy, nginx, libnginx-mod-stream).
    Carriers {
        /// Rounds.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Seconds that each load lasts.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Connections that ask now and then.
        #[arg(long, default_value_t = 1_000)]
        open: usize,
        /// Connections that do nothing.
        #[arg(long, default_value_t = 10_000)]
        idle: usize,
        /// Seconds to wait before each round for the machine to calm down.
        #[arg(long, default_value_t = 0)]
        patience: u64,
    },
    /// One run of one case of `modes`, in this process.
    #[command(hide = true)]
    ModeCase {
        /// How packets are programmed.
        #[arg(value_enum)]
        way: Way,
        /// How many Services.
        services: usize,
        /// How many changes.
        changes: usize,
    },
    /// One run of one case, in this process.
    #[command(hide = true)]
    Case {
        /// What is done.
        what: String,
        /// How many Services.
        services: usize,
        /// Endpoints of each.
        endpoints: usize,
        /// Changes of each kind.
        changes: usize,
    },
    /// Become a program that ends when we do.
    #[command(hide = true)]
    Guard {
        /// Path of the namespace to enter.
        namespace: String,
        /// The program and its arguments.
        #[arg(last = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("benches: {why}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<(), String> {
    match command {
        Command::Real { services, runs, changes, patience } => {
            let patience = Duration::from_secs(patience);
            real::report(&real::run(&real::Wish { services, runs, changes, patience })?)
        }
        Command::Daemon { services, endpoints, runs, changes, patience, mode, iptables } => {
            let patience = Duration::from_secs(patience);
            let wish =
                daemon::Wish { services, endpoints, runs, changes, patience, mode, iptables };
            daemon::report(&wish, &daemon::run(&wish)?)
        }
        Command::Flows { services, entries, changes, runs, mode } => {
            let wish = flows::Wish { services, entries, changes, runs, mode };
            flows::report(&wish, &flows::run(&wish)?)
        }
        Command::Modes { ways, services, runs, changes } => {
            modes::report(&modes::run(&modes::Wish { ways, services, runs, changes })?)
        }
        Command::Carriers { runs, seconds, open, idle, patience } => {
            let (time, patience) = (Duration::from_secs(seconds), Duration::from_secs(patience));
            let mut wish = carriers::Wish { runs, time, open, idle, patience };
            let results = carriers::run(&mut wish)?;
            carriers::report(&wish, &results)
        }
        Command::ModeCase { way, services, changes } => {
            println!("{}", modes::play(way, services, changes)?.to_line());
            Ok(())
        }
        Command::Case { what, services, endpoints, changes } => {
            let known = What::ALL.into_iter().find(|known| known.as_str() == what);
            let what = known.ok_or_else(|| format!("no case is called {what:?}"))?;
            let case = Case { what, services, endpoints, changes };
            println!("{}", real::play(&case)?.to_line());
            Ok(())
        }
        Command::Guard { namespace, program } => {
            Err(format!("guard: {}", become_guarded(&namespace, Rights::Ours, &program)))
        }
    }
}
