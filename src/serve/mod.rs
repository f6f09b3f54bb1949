//! What this process tells over HTTP: its health, its metrics, and the health of Services on
//! their health check node ports. Servers only read shared values (`Health`, `Metrics`,
//! `HealthChecks`) that the sync loop feeds; they must never reach into the sync or the kernel.
//!
//! `run` is all of it, one future: on a runtime of its own thread it answers while a sync blocks. Tests: `tests.rs` beside this, over loopback.

mod answer;
pub mod board;
mod clock;
mod health;
mod metrics;
mod node_ports;
mod process;
mod profile;
mod zpages;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use board::Board;
pub use health::{Answer, Health, Lag, Probe};
pub use metrics::{
    AccountFigures, Accounting, CarriedFigures, Carrying, LocalPolicy, Metrics, Requested,
    SyncKind, VerifiedFigures, WatchFigures, Watching,
};
pub use node_ports::HealthChecks;
pub use zpages::{Pages, SetVerbosity, Shown};

use std::future::pending;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

/// Where it runs, in Go's words.
const PLATFORM: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "linux/amd64",
    b"aarch64" => "linux/arm64",
    _ => "linux/other",
};

/// How long after a failure to bind it is tried again.
pub const RETRY: Duration = Duration::from_secs(5);

/// What becomes of a server whose address cannot be bound (`bindAddressHardFail`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBindFailure {
    /// It is tried again every 5 seconds, and logged.
    #[default]
    Retry,
    /// It is an error that ends the process.
    Fail,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Of `/healthz` and `/livez`; `None` is off.
    pub healthz: Option<SocketAddr>,
    /// Of `/metrics`; `None` is off.
    pub metrics: Option<SocketAddr>,
    /// What becomes of those two if they cannot be bound.
    pub on_bind_failure: OnBindFailure,
}

/// What is told.
#[derive(Clone, Debug)]
pub struct Sources {
    /// For the healthz port.
    pub health: Health,
    /// For the metrics port.
    pub metrics: Metrics,
    /// For health check node ports.
    pub checks: HealthChecks,
    /// The mode as `--proxy-mode` spells it.
    pub proxy_mode: &'static str,
    /// Pages about the process.
    pub pages: Pages,
    /// The status page; `None`: there is none.
    pub board: Option<Board>,
}

/// Serves everything for ever. Returns only if a port cannot be bound and that is to be an error.
pub async fn run(ports: Ports, sources: Sources) -> io::Error {
    let on_failure = ports.on_bind_failure;
    let health_paths = healthz(sources.health.clone(), sources.metrics.clone());
    let metrics_paths = metrics(&sources);
    tokio::select! {
        error = serve_if("healthz", ports.healthz, on_failure, health_paths) => error,
        error = serve_if("metrics", ports.metrics, on_failure, metrics_paths) => error,
        () = sources.checks.run() => io::Error::other("health check node ports ended"),
    }
}

async fn serve_if(
    name: &str,
    address: Option<SocketAddr>,
    on_failure: OnBindFailure,
    paths: Router,
) -> io::Error {
    match address {
        Some(address) => serve(name, address, on_failure, paths).await,
        None => pending().await,
    }
}

/// The paths of the healthz port: `/healthz` and `/livez`.
pub fn healthz(health: Health, metrics: Metrics) -> Router {
    let path = |probe| {
        let (health, metrics) = (health.clone(), metrics.clone());
        any(async move || {
            let answer = health.answer(probe, Instant::now(), SystemTime::now());
            metrics.probed(probe, if answer.ok { "200" } else { "503" });
            json(answer.ok, answer.body)
        })
    };
    Router::new().route("/healthz", path(Probe::Healthz)).route("/livez", path(Probe::Livez))
}

/// The paths of the metrics port: `/metrics`, `/proxyMode`, a `/healthz` of its own, which is `ok`
/// as long as the process is, pages about the process, profiles where asked for, the status page.
pub fn metrics(sources: &Sources) -> Router {
    let (metrics, health) = (sources.metrics.clone(), sources.health.clone());
    let text = async move |asked: HeaderMap| {
        let format = metrics::Format::accepted(answer::header_of(&asked, &header::ACCEPT));
        metrics.lag(&health.lag(Instant::now()));
        answer::text(&asked, format.content_type(), metrics.text_in(format))
    };
    let mode = sources.proxy_mode;
    let mut router = Router::new()
        .route("/metrics", any(text))
        .route("/healthz", any(async || plain("ok")))
        .route("/proxyMode", any(async move || plain(mode)))
        .merge(zpages::router(sources.pages.clone()));
    if sources.pages.debug == Shown::Yes {
        router = router.merge(profile::router());
    }
    match &sources.board {
        Some(board) => router.merge(board::router(board.clone())),
        None => router,
    }
}

/// Serves these paths at an address for ever. Returns only if it cannot be bound and that is to
/// be an error; `name` is the server's, for messages.
pub async fn serve(
    name: &str,
    address: SocketAddr,
    on_failure: OnBindFailure,
    paths: Router,
) -> io::Error {
    loop {
        let error = match bind_for_all(address) {
            Ok(listener) => match axum::serve(listener, paths.clone()).await {
                Err(error) => error,
                Ok(()) => io::Error::other("the server ended"),
            },
            Err(error) => error,
        };
        let text = format!("cannot serve {name} on {address}: {error}");
        if on_failure == OnBindFailure::Fail {
            let advice = "free the port or choose another address";
            return io::Error::new(error.kind(), format!("{text}; {advice}"));
        }
        tracing::error!("{text}; trying again in {} s", RETRY.as_secs());
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens at an address; at an unspecified one of either family for both families, where the
/// host has both, as Go does.
fn bind_for_all(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    match TcpSocket::new_v6().and_then(|s| listen(s, everywhere, Families::Both)) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => bind(address),
        bound => bound,
    }
}

/// Listens at an address, in its own family only.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    listen(socket, address, Families::Own)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    Own,
    Both,
}

fn listen(socket: TcpSocket, address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &(families == Families::Own))?;
    }
    // So that a restart can have the port while old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

fn plain(text: &'static str) -> Response {
    answer::plain(StatusCode::OK, text)
}

fn json(ok: bool, body: String) -> Response {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let form = "application/json";
    let headers = [(header::CONTENT_TYPE, form), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body).into_response()
}
