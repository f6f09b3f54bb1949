//! Failures of the API server in one line: what, where, what to do.
//!
//! It must never decide what happens next. Tests: `tests.rs`.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::StatusCode;

use crate::model::masked;

/// Why the API server cannot be used. Its text says what, where and what to do, and no password
/// that stands in an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    text: String,
    passing: bool,
}

impl Error {
    /// One that waiting does not cure.
    pub(super) fn new(text: String) -> Error {
        Error { text: masked(&text), passing: false }
    }

    fn passing(text: String) -> Error {
        Error { text: masked(&text), passing: true }
    }

    /// Whether it will stay until somebody changes something: a refused certificate, missing
    /// credentials. A server that is only away may come back.
    pub fn is_final(&self) -> bool {
        !self.passing
    }
}

/// No connection, or one that failed.
pub(super) fn transport(url: &str, error: &(dyn StdError + 'static)) -> Error {
    let text = deepest(error);
    if let Some(kind) = io_kind(error) {
        if kind == io::ErrorKind::ConnectionRefused {
            let todo =
                "is it running, and is its address right (--master, or the kubeconfig's server)?";
            return Error::passing(format!("API server {url}: connection refused; {todo}"));
        }
        if kind == io::ErrorKind::TimedOut {
            let todo = "is it reachable from this node?";
            return Error::passing(format!("API server {url}: no connection in time; {todo}"));
        }
    }
    let lower = text.to_lowercase();
    // Before names: what is said of a certificate's names speaks of DNS as well.
    if ["certificate", "handshake", "tls", "alert", "corrupt message"]
        .iter()
        .any(|w| lower.contains(w))
    {
        let todo =
            "check https or http in its address, and certificate-authority in the kubeconfig";
        return Error::new(format!("API server {url}: TLS failed: {text}; {todo}"));
    }
    if lower.contains("dns") || lower.contains("lookup address") {
        let todo = "check the host's name and this node's resolver";
        return Error::passing(format!("API server {url}: {text}; {todo}"));
    }
    if ["token", "auth", "exec"].iter().any(|word| lower.contains(word)) {
        return Error::new(format!("API server {url}: {text}; check the user in the kubeconfig"));
    }
    // A TLS server that is spoken to without TLS hangs up without a word.
    let todo = if url.starts_with("http:") { "; should its address begin with https?" } else { "" };
    Error::passing(format!("API server {url}: {text}{todo}"))
}

/// An answer that says no; `detail` is what the server said about it, if anything.
pub(super) fn status(url: &str, status: StatusCode, detail: &str) -> Error {
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    let text = format!("API server {url}: {code} {reason}{detail}");
    match code {
        401 => Error::new(format!("{text}; give valid credentials (--kubeconfig)")),
        403 => Error::new(format!("{text}; give this user the rights of system:node-proxier")),
        404 => Error::new(format!("{text}; is this the address of a Kubernetes API server?")),
        _ => Error::passing(text),
    }
}

/// Silence.
pub(super) fn no_answer(url: &str, longest: Duration) -> Error {
    let seconds = longest.as_secs_f32();
    Error::passing(format!("API server {url}: no answer within {seconds} s"))
}

/// An error with its causes, each said once, in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    one_line(&text)
}

/// The first cause of all: the layers above it say only that something failed.
pub(super) fn deepest(error: &dyn StdError) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    one_line(&deepest.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}
