//! The command line of the lab: `demo`, `test`, and what they need. No logic.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use netlab::demo::{Kernel, Wish, Words};
use netlab::process::{Rights, become_guarded};
use netlab::{demo, guest, proxy, scenario};
use proptests::twin::fuzz::Wish as Trial;

/// The lab of kube-proxy: real packets through real rules, in namespaces of its own.
#[derive(Parser)]
#[command(name = "netlab")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Show every kind of Service at work.
    Demo {
        /// Folder of Kubernetes manifests.
        #[arg(long)]
        examples: Option<PathBuf>,
        /// Print everything.
        #[arg(long)]
        verbose: bool,
        /// Run on the simulated kernel, whatever this machine can do.
        #[arg(long)]
        simulated: bool,
    },
    /// Run all scenarios, or those whose names contain one of these words.
    Test {
        /// Words.
        names: Vec<String>,
        /// The proxy mode that scenarios run in, where they do not choose one. Without it nftables
        /// mode, and what there is for ipvs mode after it: on this kernel, or else in a guest.
        #[arg(long, value_enum)]
        mode: Option<proxy::Mode>,
        /// Only list the scenarios' names.
        #[arg(long)]
        list: bool,
    },
    /// Cases of rules and packets on the real kernel, held against what is expected and against the
    /// simulated kernel.
    Kernel {
        /// Words: only cases whose names contain one of them.
        names: Vec<String>,
        /// Keep what the real kernel answers in `netlab/recorded`, of files all of whose cases were run.
        #[arg(long)]
        record: bool,
    },
    /// Random rules and packets on both kernels; a difference is made small and kept as a file.
    Fuzz {
        /// Where chance begins.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Packets to try at least.
        #[arg(long, default_value_t = 2000)]
        packets: usize,
        /// Seconds after which no new case is begun.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Packets of a case.
        #[arg(long, default_value_t = 150)]
        each: usize,
        /// Differences after which it ends.
        #[arg(long, default_value_t = 1)]
        differences: usize,
    },
    /// Run a command in a guest: another kernel (User Mode Linux) with IPVS, dummy devices and SCTP, on
    /// this machine's files, which it cannot change; /run and /dev/shm are its own.
    Guest {
        /// Seconds after which it is ended.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Its memory in MiB.
        #[arg(long, default_value_t = 1024)]
        memory: u32,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Be the guest's first process.
    #[command(hide = true)]
    GuestInit {
        /// Folder with what to do.
        scratch: PathBuf,
        /// What User Mode Linux adds to every command line; without meaning here.
        #[arg(trailing_var_arg = true)]
        _added: Vec<String>,
    },
    /// Start a guest that ends with us.
    #[command(hide = true)]
    GuestKeep {
        /// Be the first process of its namespaces.
        #[arg(long)]
        first: bool,
        /// The program and its arguments.
        #[arg(last = true)]
        program: Vec<String>,
    },
    /// Become a program that ends when we do.
    #[command(hide = true)]
    Guard {
        /// Path of the namespace to enter.
        namespace: String,
        /// Give up the right to change its network.
        #[arg(long)]
        no_net_admin: bool,
        /// The program and its arguments.
        #[arg(last = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().what {
        What::Demo { examples, verbose, simulated } => demo::run(&Wish {
            examples: examples.unwrap_or_else(|| proxy::workspace().join("examples")),
            words: if verbose { Words::All } else { Words::Few },
            kernel: if simulated { Kernel::Simulated } else { Kernel::Best },
        }),
        What::Test { names, mode, list } => {
            proxy::choose_mode(mode.unwrap_or_default());
            match (list, mode) {
                (true, _) => scenario::list(&names),
                (false, None) => scenario::run_all_modes(&names),
                (false, Some(_)) => scenario::run(&names),
            }
        }
        What::Kernel { names, record } => netlab::twin::kernel(&names, record.into()),
        What::Fuzz { seed, packets, seconds, each, differences } => {
            let time = std::time::Duration::from_secs(seconds);
            netlab::twin::fuzz(&Trial { seed, packets, time, each, differences })
        }
        What::Guest { seconds, memory, command } => {
            let patience = std::time::Duration::from_secs(seconds);
            guest::run(&guest::Order { patience, memory, ..guest::Order::new(command) })
        }
        What::GuestInit { scratch, .. } => {
            eprintln!("netlab guest: {}", guest::inside::run(&scratch));
            ExitCode::from(127)
        }
        What::GuestKeep { first, program } => {
            let keep = if first { guest::keep::first } else { guest::keep::outer };
            keep(&program).map_or_else(
                |why| {
                    println!("netlab guest: {why}");
                    ExitCode::from(127)
                },
                ExitCode::from,
            )
        }
        What::Guard { namespace, no_net_admin, program } => {
            let rights = if no_net_admin { Rights::NoNetAdmin } else { Rights::Ours };
            eprintln!("netlab guard: {}", become_guarded(&namespace, rights, &program));
            ExitCode::from(127)
        }
    }
}
