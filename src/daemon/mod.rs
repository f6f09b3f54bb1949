//! The process: settings become a world (kernel, source of events, servers), the world is run
//! until a signal, and what ends it becomes one line and an exit code.
//!
//! The only room that knows all others; it wires and decides nothing about packets.
//! Tests: `netlab` (every way to start and to end).

mod hearts;
mod journey;
mod live;
mod local;
mod lookout;
mod observe;
mod ready;
mod record;
mod source;
mod verifier;

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::Action;
use crate::commands;
use crate::config::{DetectLocal, Settings};
use crate::kernel::meter::{Dealing, Meter};
use crate::kernel::{Kernel, RelayKey};
use crate::logging::Handle;
use crate::model::{Mode, Node, Steering};
use crate::relay::{Board, Figures};
use crate::serve::{self, Shown};
use crate::sync::flows::Forgetter;
use crate::sync::run::{Gone, Loop, Pace, Request, Until, Wait};
use crate::sync::{self, Options, Proxy};
use hearts::{AnyKernel, Means, every_kernel, means, open_kernel, open_with_board};
use observe::Witness;

/// Events that may wait between the source and the sync loop.
const EVENTS: usize = 8192;
/// How long the sync loop may take to end after a signal; a transaction that is under way is
/// atomic, so that nothing is half done if it is not waited for.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long to wait for this node's object.
const WAIT_FOR_NODE: Duration = Duration::from_secs(30);
/// How long to wait for the Node's pod CIDRs, where local traffic is told by them: somebody has to
/// hand them out first (`pkg/proxy/node.go`).
const WAIT_FOR_POD_CIDRS: Duration = Duration::from_secs(5 * 60);
/// Requests to the sync loop that may wait.
const REQUESTS: usize = 64;

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
        Action::InitOnly(settings) => init(&settings),
        Action::Run(settings) => run(*settings),
    }
}

fn cleanup(settings: &Settings) -> Result<(), Failure> {
    start_logging(settings);
    let failed = |e| Failure::new(format_args!("--cleanup: {e}; nothing more was removed"));
    let mut removed = 0;
    let mut kernels = every_kernel(settings)?;
    for kernel in &mut kernels {
        removed +=
            sync::cleanup::cleanup(&mut **kernel, &settings.ipvs.exclude_cidrs).map_err(failed)?;
    }
    tracing::info!(removed, "cleaned up");
    // Sets are the same for every flavour.
    let left = match kernels.first_mut() {
        Some(kernel) => sync::cleanup::sets_left(&mut **kernel).map_err(failed)?,
        None => Vec::new(),
    };
    match left.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(format_args!(
            "--cleanup: rules that are not ours ask the ipsets {}; delete those rules and run it again",
            left.join(", ")
        ))),
    }
}

/// Sets what needs more rights than the proxy itself: sysctls.
fn init(settings: &Settings) -> Result<(), Failure> {
    start_logging(settings);
    let mut kernel = open_kernel(settings)?;
    let means = means(settings, &*kernel)?;
    let options = resolve(Arc::new(settings.clone()), means)(None);
    sync::prepare_node(&mut *kernel, &options)
        .map_err(|e| Failure::new(format_args!("--init-only: {e}")))?;
    let unset = sync::sysctls::set(&mut *kernel, &settings.conntrack);
    let lines: Vec<String> = unset.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format_args!("--init-only: {}", lines.join("; "))))
    }
}

fn start_logging(settings: &Settings) -> Option<Handle> {
    let handle = crate::logging::start(&settings.logging).ok()?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Some(handle)
}

fn run(settings: Settings) -> Result<(), Failure> {
    let logging = start_logging(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format_args!("cannot start: {e}")))?;
    // Before anything that takes time, as iptables' tools do: who is told to end ends well.
    let signalled = {
        let _within = runtime.enter();
        signals()?
    };
    let (mut kernel, board) = open_with_board(&settings)?;
    let (version, mode) = (crate::model::GIT_VERSION, settings.mode.as_str());
    tracing::info!(version, mode, node = &*settings.node_name, "starting");
    let means = means(&settings, &*kernel)?;
    let rules = settings.mode.rules(means.steering);
    if means.steering == Steering::Iptables {
        tracing::info!("rules of iptables lead packets to the ports of userspace mode");
    }
    kernel.capabilities().lines(rules).iter().for_each(|line| tracing::warn!("{line}"));
    set_oom_score(settings.oom_score_adj);
    let unset = sync::sysctls::set(&mut *kernel, &settings.conntrack);
    unset.iter().for_each(|unset| tracing::warn!("{unset}"));
    let ended =
        runtime.block_on(live(Arc::new(settings), logging, (kernel, board), (means, signalled)));
    // Dropped, it would wait for what still runs on threads of its own: a look-up of a name, or a
    // program that is to give credentials.
    runtime.shutdown_background();
    ended
}

fn set_oom_score(score: i32) {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if now == Some(score) {
        return;
    }
    match (std::fs::write(FILE, score.to_string()), now) {
        (Ok(()), _) => {}
        // The kubelet protects a node's critical pods with -997; two points less change nothing.
        (Err(error), Some(now)) if now < 0 => {
            tracing::info!(score, now, %error, "oom_score_adj stays as it is");
        }
        (Err(error), _) => tracing::warn!(score, %error, "cannot set oom_score_adj"),
    }
}

/// Runs the world until something ends it.
async fn live(
    settings: Arc<Settings>,
    logging: Option<Handle>,
    (mut kernel, board): (AnyKernel, Option<Board<RelayKey>>),
    (means, signalled): (Means, impl Future<Output = &'static str>),
) -> Result<(), Failure> {
    let farewell = FAREWELL + draining(&settings);
    let (requests, asked) = mpsc::channel(REQUESTS);
    let sources = sources(&settings, logging.clone(), (&means, &requests));
    board.iter().cloned().for_each(|board| sources.metrics.carried_by(carrying(board)));
    let (sender, events) = mpsc::channel(EVENTS);
    if settings.mode == Mode::Iptables {
        tell_counted(&mut *kernel, &sources.metrics);
    }
    let source = source::start(&settings, sender, sources.metrics.clone()).await?;
    let witness = Witness::new(&sources, source.reporter);
    let (stop, stopped) = watch::channel(false);
    let foreign = lookout::start(&mut *kernel);
    let forgetter = forgetter(&mut *kernel, sources.metrics.clone());
    let resolve_options = resolve(settings.clone(), means.clone());
    let (kernel, recorder) = record::recorded(kernel, &settings)?;
    let proxy = Proxy::new(metered(kernel, sources.metrics.clone()), resolve_options(None));
    let proxy = recorder.into_iter().fold(proxy, Proxy::recorded_by);
    let proxy = verifier::verified(proxy, &settings, sources.metrics.clone());
    let pace = pace(&settings, source.wait_for_node.then(|| wait(&settings)));
    let the_loop = Loop::new(proxy, (events, witness), Box::new(resolve_options), pace);
    let the_loop = foreign.into_iter().fold(the_loop, Loop::hear);
    let the_loop = forgetter.into_iter().fold(the_loop, Loop::forgetting);
    let mut done = spawn(the_loop.answering(asked), stopped)?;
    let health = sources.health.clone();
    let shown = sources.pages.configuration.clone();
    let live = live::Live { requests, health: health.clone(), logging, means, pace, shown };
    let outcome = tokio::select! {
        name = signalled => {
            tracing::info!(signal = name, "ending; the rules stay in place");
            Ok(())
        }
        gone = &mut done => Err(ended(&settings, gone.unwrap_or(Gone::Stopped))),
        failure = source.failure => Err(failure),
        error = serve::run(ports(&settings), sources) => Err(Failure::new(error)),
        failure = live::follow(live, settings.clone()) => Err(failure),
        failure = fallen(board) => Err(failure),
        () = ready::tell(health) => Ok(()),
    };
    ready::stopping();
    let _ = stop.send(true);
    if outcome.is_ok() {
        let again = signals()?;
        tokio::select! {
            _ = tokio::time::timeout(farewell, done) => {}
            name = again => tracing::info!(signal = name, "ending at once"),
        }
    }
    outcome
}

/// Resolves when a thread that carries connections has ended by itself: nobody accepts in its place.
async fn fallen(board: Option<Board<RelayKey>>) -> Failure {
    let Some(board) = board else { return std::future::pending().await };
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(thread) = board.fallen() {
            return Failure::new(format_args!(
                "the thread {thread} that carries connections ended by itself; this is a bug"
            ));
        }
    }
}

/// What the proxy carries itself, in the words of the metrics.
fn carrying(board: Board<RelayKey>) -> serve::Carrying {
    let told = |service: String, protocol: String, figures: Figures| serve::CarriedFigures {
        service,
        protocol,
        open: figures.open,
        accepted: figures.accepted,
        failed_dials: figures.failed_dials,
        retries: figures.retries,
        turned_away: figures.turned_away,
        unserved: figures.unserved,
        bytes_up: figures.bytes_up,
        bytes_down: figures.bytes_down,
    };
    let of_port = move |(key, figures): (RelayKey, Figures)| {
        told(key.origin.to_string(), key.origin.protocol.to_string(), figures)
    };
    let of_all = move |figures: Figures| told(String::new(), String::new(), figures);
    Box::new(move || {
        let each = board.figures().into_iter().map(of_port);
        each.chain(board.in_all().map(of_all)).collect()
    })
}

/// Has the metrics tell what the kernel counts for rules of iptables.
fn tell_counted(kernel: &mut dyn Kernel, metrics: &serve::Metrics) {
    let aside = kernel.aside().unwrap_or_else(|error| {
        tracing::warn!(%error, "no metrics of dropped and localhost packets");
        None
    });
    let Some(aside) = aside.map(Mutex::new) else { return };
    metrics.accounts_by(Box::new(move || {
        let mut kernel = aside.lock().unwrap_or_else(PoisonError::into_inner);
        let [invalid_dropped, localhost_accepted] = sync::counted_packets(&mut **kernel);
        serve::AccountFigures { invalid_dropped, localhost_accepted }
    }));
}

/// What the servers tell.
fn sources(
    settings: &Arc<Settings>,
    logging: Option<Handle>,
    (means, requests): (&Means, &mpsc::Sender<Request>),
) -> serve::Sources {
    let health = serve::Health::new(2 * settings.sync_period);
    let mode = settings.mode.as_str();
    let requests = requests.clone();
    let ask: serve::board::Ask = Arc::new(move |question| {
        let look = Request::Look(Box::new(|proxy| question(proxy.cluster())));
        requests.try_send(look).is_ok()
    });
    let (own, own_means) = (settings.clone(), means.clone());
    let judge: serve::board::Judge = Arc::new(move |asked, objects| {
        let node = objects.iter().find_map(|event| match event {
            crate::model::Event::Node(node) => Some(&**node),
            _ => None,
        });
        let (options, _) = own.proxy_options(node);
        journey::judge(own_means.fit(options), asked, objects)
    });
    let families = &means.families;
    let metrics = serve::Metrics::new(settings.mode, families);
    metrics.features(&crate::config::gates::told(&settings.feature_gates));
    let board = serve::Board::new(health.clone(), (mode, families.clone()), ask, judge);
    serve::Sources {
        checks: serve::HealthChecks::new(health.clone()),
        metrics,
        health,
        proxy_mode: mode,
        pages: pages(settings, logging),
        board: Some(board),
    }
}

fn pages(settings: &Settings, logging: Option<Handle>) -> serve::Pages {
    let on = |gate: &str| crate::config::gates::is_on(&settings.feature_gates, gate);
    let set_verbosity: serve::SetVerbosity = Arc::new(move |level| {
        let wrong = || format!("{level:?} is no log level: give a whole number of 0 or more");
        let level: u32 = level.parse().map_err(|_| wrong())?;
        let handle = logging.as_ref().ok_or("logging was not set up here")?;
        handle.set_verbosity(level);
        Ok(format!("successfully set klog.logging.verbosity to {level}"))
    });
    let shown = |yes| if yes { Shown::Yes } else { Shown::No };
    serve::Pages {
        configuration: Arc::new(Mutex::new(live::configz(settings))),
        flags: on("ComponentFlagz").then(|| crate::config::live::flag_values(settings)),
        status: shown(on("ComponentStatusz")),
        debug: shown(settings.profiling),
        started: SystemTime::now(),
        set_verbosity,
    }
}

/// The kernel with its time taken.
fn metered(kernel: AnyKernel, metrics: serve::Metrics) -> AnyKernel {
    let tell = Box::new(move |dealing: Dealing| {
        let kind = dealing.outcome.err().map(crate::kernel::ErrorKind::as_str);
        metrics.kernel_asked(dealing.operation, dealing.took, kind);
        match (dealing.operation, dealing.family, dealing.outcome) {
            ("read-flows", Some(family), Ok(_)) => metrics.flows_searched(family, dealing.took),
            ("forget-flows", Some(family), Ok(flows)) => metrics.flows_forgotten(family, flows),
            _ => {}
        }
    });
    Box::new(Meter::new(kernel, tell))
}

/// Who forgets stale flows while the loop goes on; `None`, with a warning, where the loop has to wait.
fn forgetter(kernel: &mut dyn Kernel, metrics: serve::Metrics) -> Option<Forgetter> {
    let warn = |error: &dyn fmt::Display| {
        tracing::warn!(%error, "stale flows are looked for between two syncs");
    };
    let aside = kernel.aside().unwrap_or_else(|error| {
        warn(&error);
        None
    });
    Forgetter::start(metered(aside?, metrics)).inspect_err(|error| warn(error)).ok()
}

fn pace(settings: &Settings, wait_for_node: Option<Wait>) -> Pace {
    Pace {
        min_sync_period: settings.min_sync_period,
        sync_period: settings.sync_period,
        wait_for_node,
    }
}

/// What is waited for at the start.
fn wait(settings: &Settings) -> Wait {
    match settings.detect_local {
        DetectLocal::NodeCidr => Wait { patience: WAIT_FOR_POD_CIDRS, until: Until::PodCidrs },
        _ => Wait { patience: WAIT_FOR_NODE, until: Until::Object },
    }
}

/// The options of the proxy, given this node's object.
fn resolve(settings: Arc<Settings>, means: Means) -> impl Fn(Option<&Node>) -> Options + Send {
    let warned = Mutex::new(None);
    move |node| {
        let (options, warning) = settings.proxy_options(node);
        let mut warned = warned.lock().unwrap_or_else(PoisonError::into_inner);
        if node.is_some() && *warned != warning {
            warning.iter().for_each(|warning| tracing::warn!("{warning}"));
            *warned = warning;
        }
        means.fit(options)
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

/// How long connections that this process carries may go on after a signal.
fn draining(settings: &Settings) -> Duration {
    match settings.mode {
        Mode::Userspace => settings.userspace.drain_timeout,
        _ => Duration::ZERO,
    }
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
        Gone::NoPodCidrs => Failure::new(format_args!(
            "the Node \"{}\" has no spec.podCIDRs after {} s, and --detect-local-mode NodeCIDR \
             goes by them; nothing was programmed; see who should hand them out",
            settings.node_name,
            WAIT_FOR_POD_CIDRS.as_secs()
        )),
        Gone::NoSource => Failure::new("nothing tells about the cluster any more; ending"),
        Gone::Stopped => Failure::new("the sync loop ended by itself; this is a bug"),
    }
}
