//! `/debug/pprof` on the metrics port, with `--profiling`: CPU profiles that `go tool pprof` reads,
//! and for what only Go's runtime has, a page that says so.
//! It knows nothing of the proxy. Tests: `proto` and `tests.rs`.

mod proto;

use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use super::answer::{gzip, plain};
use proto::Sampled;

/// How long a profile is taken where nothing is said; Go's default.
const SECONDS: u64 = 30;
/// The longest that may be asked for.
const MOST_SECONDS: u64 = 600;

/// Profiles that only Go's runtime keeps.
const ABSENT: [(&str, &str); 7] = [
    ("allocs", "Rust's allocator keeps no record of allocations"),
    ("block", "threads that block are not recorded; see /proc/PID/task/*/stack"),
    ("goroutine", "there are no goroutines; threads are in /proc/PID/task"),
    ("heap", "Rust's allocator keeps no record; see process_resident_memory_bytes in /metrics"),
    ("mutex", "contention of locks is not recorded"),
    ("threadcreate", "who started a thread is not recorded; threads are in /proc/PID/task"),
    ("trace", "there is no execution trace; take a CPU profile, or use perf"),
];

/// The paths.
pub(super) fn router() -> Router {
    let mut router = Router::new()
        .route("/debug/pprof", any(index))
        .route("/debug/pprof/", any(index))
        .route("/debug/pprof/cmdline", any(command_line))
        .route("/debug/pprof/profile", any(profile))
        .route("/debug/pprof/symbol", any(symbol));
    for (name, why) in ABSENT {
        let page =
            async move || plain(StatusCode::NOT_IMPLEMENTED, format!("no {name} profile: {why}\n"));
        router = router.route(&format!("/debug/pprof/{name}"), any(page));
    }
    router
}

async fn index() -> Response {
    let absent: String =
        ABSENT.iter().map(|(name, why)| format!("  {name}: not here: {why}\n")).collect();
    let here = if cfg!(feature = "profiling") {
        "  profile?seconds=30: CPU profile; go tool pprof http://ADDRESS/debug/pprof/profile"
    } else {
        "  profile: this build was made without its feature `profiling`"
    };
    plain(StatusCode::OK, format!("/debug/pprof/\n\n{here}\n  cmdline: the command line\n{absent}"))
}

/// The words of the command line with a NUL between them, as Go has it.
async fn command_line() -> Response {
    let words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    plain(StatusCode::OK, words.join("\0"))
}

/// No address is known here: profiles come with their names in them. Go answers in this form.
async fn symbol() -> Response {
    plain(StatusCode::OK, "num_symbols: 0\n")
}

async fn profile(RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "seconds");
    let seconds = match asked.map(|(_, value)| value.parse::<u64>()) {
        None => SECONDS,
        Some(Ok(seconds)) if (1..=MOST_SECONDS).contains(&seconds) => seconds,
        Some(_) => {
            let sentence = format!("seconds must be a whole number from 1 to {MOST_SECONDS}\n");
            return plain(StatusCode::BAD_REQUEST, sentence);
        }
    };
    match sample(Duration::from_secs(seconds)).await {
        Ok(sampled) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
            ];
            (headers, gzip(&proto::encode(&sampled))).into_response()
        }
        Err(why) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("no profile: {why}\n")),
    }
}

/// How often a second every thread that runs is looked at. Go's 100 would beat in time with timers.
#[cfg(feature = "profiling")]
const FREQUENCY: i32 = 99;

#[cfg(feature = "profiling")]
async fn sample(span: Duration) -> Result<Sampled, String> {
    // A second profile at the same time is refused by the sampler: it has one timer a process.
    let sampler = pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        // Unwinding out of these may meet their locks (the crate's own advice).
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(|error| format!("{error}; perhaps another one is being taken"))?;
    tokio::time::sleep(span).await;
    let resolve = move || sampler.report().build().map_err(|error| error.to_string());
    let report = tokio::task::spawn_blocking(resolve).await.map_err(|e| e.to_string())??;
    Ok(Sampled {
        stacks: report.data.iter().map(|(frames, count)| stack(frames, *count)).collect(),
        span,
        period: Duration::from_secs(1) / FREQUENCY.unsigned_abs(),
    })
}

#[cfg(not(feature = "profiling"))]
async fn sample(_span: Duration) -> Result<Sampled, String> {
    Err("this build was made without its feature `profiling`".into())
}

#[cfg(feature = "profiling")]
fn stack(frames: &pprof::Frames, count: isize) -> proto::Stack {
    let symbol = |symbol: &pprof::Symbol| proto::Symbol {
        name: symbol.name(),
        mangled: symbol.sys_name().into_owned(),
        file: symbol.filename().into_owned(),
        line: u64::from(symbol.lineno()),
    };
    proto::Stack {
        symbols: frames.frames.iter().flatten().map(symbol).collect(),
        thread: frames.thread_name_or_id(),
        count: count.unsigned_abs() as u64,
    }
}
