//! The process: settings become a world (kernel, source of events, servers), the world is run
//! until a signal, and what ends it becomes one line and an exit code.
//!
//! The only room that knows all others; it wires and decides nothing about packets.
//! Tests: `netlab` (every way to start and to end).

mod observe;
mod source;

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::Action;
use crate::commands;
use crate::config::{self, KernelChoice, Settings};
use crate::kernel::real::Real;
use crate::kernel::simulated::Simulated;
use crate::kernel::{Capability, Kernel};
use crate::model::{Family, Node};
use crate::serve;
use crate::sync::run::{Gone, Loop, Pace};
use crate::sync::{self, Options, Proxy};
use observe::Witness;

/// Events that may wait between the source and the sync loop.
const EVENTS: usize = 8192;
/// How long the sync loop may take to end after a signal; a transaction that is under way is
/// atomic, so that nothing is half done if it is not waited for.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long to wait for this node's object (`pkg/proxy/node.go`).
const WAIT_FOR_NODE: Duration = Duration::from_secs(30);

/// Why the process ends with an error: one line that says what, where and what to do.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    fn new(line: impl fmt::Display) -> Failure {
        Failure(line.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Does what the command line asks for; returns the exit code when it is done or when a signal came.
pub fn act(action: Action) -> Result<u8, Failure> {
    match action {
        Action::Ask(asked) => Ok(say(&commands::answer(&asked))),
        other => work(other).map(|()| 0),
    }
}

/// Says what a question came to. Whoever reads it may stop reading (`| head`).
fn say(said: &commands::Said) -> u8 {
    let _ = std::io::stderr().write_all(said.error.as_bytes());
    let _ = std::io::stdout().write_all(said.out.as_bytes());
    said.code
}

fn work(action: Action) -> Result<(), Failure> {
    match action {
        // Answered above.
        Action::Ask(_) => Ok(()),
        Action::Help(text) | Action::Version(text) => {
            println!("{}", text.trim_end());
            Ok(())
        }
        Action::WriteConfig(path, text) => std::fs::write(&path, text).map_err(|e| {
            Failure::new(format_args!(
                "--write-config-to {}: {e}; name a writable file",
                path.display()
            ))
        }),
        Action::Cleanup(settings) => cleanup(&settings),
        // Nothing in nftables mode needs more than CAP_NET_ADMIN, so that to start is enough.
        Action::InitOnly(settings) => open_kernel(&settings).map(|_| ()),
        Action::Run(settings) => run(*settings),
    }
}

fn cleanup(settings: &Settings) -> Result<(), Failure> {
    start_logging(settings);
    let mut kernel = open_kernel(settings)?;
    let removed = sync::cleanup::cleanup(&mut *kernel)
        .map_err(|e| Failure::new(format_args!("--cleanup: {e}; nothing more was removed")))?;
    tracing::info!(tables = removed, "cleaned up");
    Ok(())
}

fn start_logging(settings: &Settings) {
    if crate::logging::start(&settings.logging).is_ok() {
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
}

/// Opens the kernel and refuses one that lacks what the mode cannot do without.
fn open_kernel(settings: &Settings) -> Result<Box<dyn Kernel + Send>, Failure> {
    let kernel: Box<dyn Kernel + Send> = match settings.kernel {
        KernelChoice::Simulated => Box::new(Simulated::new(sim::Host::new(1))),
        KernelChoice::Real => Box::new(Real::open().map_err(|e| {
            Failure::new(format_args!(
                "kernel: {e}; nftables mode needs netfilter's netlink socket"
            ))
        })?),
    };
    let capabilities = kernel.capabilities();
    let vital = |(lack, _): &&(Capability, String)| {
        !matches!(lack, Capability::Ipv6 | Capability::Conntrack)
    };
    if let Some((lack, said)) = capabilities.lacks.iter().find(vital) {
        let remedy = lack.remedy();
        return Err(Failure::new(format_args!("kernel: {remedy} (the kernel said: {said})")));
    }
    Ok(kernel)
}

fn run(settings: Settings) -> Result<(), Failure> {
    start_logging(&settings);
    let kernel = open_kernel(&settings)?;
    kernel.capabilities().lines().iter().for_each(|line| tracing::warn!("{line}"));
    let families = families(&settings, &*kernel)?;
    set_oom_score(settings.oom_score_adj);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format_args!("cannot start: {e}")))?;
    runtime.block_on(live(Arc::new(settings), kernel, families))
}

/// The families to program: a secondary one that the kernel lacks is left out, a primary one that
/// it lacks is an error (`cmd/kube-proxy/app/server_linux.go`).
fn families(settings: &Settings, kernel: &dyn Kernel) -> Result<Vec<Family>, Failure> {
    if kernel.capabilities().has(Capability::Ipv6) {
        return Ok(Family::ALL.to_vec());
    }
    if settings.primary_family(None) == Family::V6 {
        let line = "kernel: --bind-address is IPv6, but this host has no IPv6; \
                    enable it or choose an IPv4 address";
        return Err(Failure::new(line));
    }
    Ok(vec![Family::V4])
}

fn set_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(score, %error, "cannot set oom_score_adj");
    }
}

/// Runs the world until something ends it.
async fn live(
    settings: Arc<Settings>,
    kernel: Box<dyn Kernel + Send>,
    families: Vec<Family>,
) -> Result<(), Failure> {
    let signals = signals()?;
    let health = serve::Health::new(2 * settings.sync_period);
    let sources = serve::Sources {
        checks: serve::HealthChecks::new(health.clone()),
        metrics: serve::Metrics::new(&families),
        health,
        proxy_mode: settings.mode.as_str(),
    };
    let (sender, events) = mpsc::channel(EVENTS);
    let source = source::start(&settings, sender).await?;
    let witness = Witness::new(&sources, source.reporter);
    let (stop, stopped) = watch::channel(false);
    let options = options(settings.clone(), families);
    let proxy = Proxy::new(kernel, options(None));
    let pace = Pace {
        min_sync_period: settings.min_sync_period,
        sync_period: settings.sync_period,
        wait_for_node: source.wait_for_node.then_some(WAIT_FOR_NODE),
    };
    let the_loop = Loop::new(proxy, (events, witness), Box::new(options), pace);
    let mut done = spawn(the_loop, stopped)?;
    let outcome = tokio::select! {
        name = signals => {
            tracing::info!(signal = name, "ending; the rules stay in place");
            Ok(())
        }
        gone = &mut done => Err(ended(&settings, gone.unwrap_or(Gone::Stopped))),
        failure = source.failure => Err(failure),
        error = serve::run(ports(&settings), sources) => Err(Failure::new(error)),
        failure = config_changed(&settings) => Err(failure),
    };
    let _ = stop.send(true);
    if outcome.is_ok() {
        let _ = tokio::time::timeout(FAREWELL, done).await;
    }
    outcome
}

/// The options of the proxy, given this node's object.
fn options(
    settings: Arc<Settings>,
    families: Vec<Family>,
) -> impl Fn(Option<&Node>) -> Options + Send {
    let warned = std::sync::Mutex::new(None);
    move |node| {
        let (options, warning) = settings.proxy_options(node);
        let mut warned = warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if node.is_some() && *warned != warning {
            warning.iter().for_each(|warning| tracing::warn!("{warning}"));
            *warned = warning;
        }
        Options { families: families.clone(), ..options }
    }
}

fn ports(settings: &Settings) -> serve::Ports {
    serve::Ports {
        healthz: settings.healthz,
        metrics: settings.metrics,
        on_bind_failure: if settings.bind_address_hard_fail {
            serve::OnBindFailure::Fail
        } else {
            serve::OnBindFailure::Retry
        },
    }
}

/// Starts the loop on a thread and a runtime of its own: it waits for the kernel.
fn spawn(
    the_loop: Loop<Witness>,
    stopped: watch::Receiver<bool>,
) -> Result<tokio::sync::oneshot::Receiver<Gone>, Failure> {
    let (done, gone) = tokio::sync::oneshot::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        if let Ok(runtime) = runtime {
            let _ = done.send(runtime.block_on(the_loop.run(stopped)));
        }
    };
    std::thread::Builder::new()
        .name("sync".to_owned())
        .spawn(body)
        .map_err(|e| Failure::new(format_args!("cannot start a thread: {e}")))?;
    Ok(gone)
}

/// Resolves with the signal's name when one comes that ends the process.
fn signals() -> Result<impl Future<Output = &'static str>, Failure> {
    let failed = |e| Failure::new(format_args!("cannot wait for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

fn ended(settings: &Settings, gone: Gone) -> Failure {
    match gone {
        Gone::NoNode => Failure::new(format_args!(
            "the API server has no Node \"{}\"; nothing was programmed; check --hostname-override",
            settings.node_name
        )),
        Gone::NoSource => Failure::new("nothing tells about the cluster any more; ending"),
        Gone::Stopped => Failure::new("the sync loop ended by itself; this is a bug"),
    }
}

/// A configuration that changed is read by a restart, as with the reference.
async fn config_changed(settings: &Settings) -> Failure {
    let Some(file) = &settings.config_file else { return std::future::pending().await };
    match config::watch::changed(file).await {
        Ok(()) => Failure::new(format_args!(
            "--config {} has changed; ending so that it is read anew",
            file.path.display()
        )),
        Err(error) => {
            tracing::warn!(%error, "the configuration file is not watched");
            std::future::pending().await
        }
    }
}
