//! Pages about the process itself on the metrics port: `/configz`, `/flagz`, `/statusz`,
//! `/debug/flags/v`, under the reference's paths (`k8s.io/component-base`: `configz`, `zpages`).
//! It is handed text and a way to set the log level; it knows neither flags nor logging.
//! Tests: `tests.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use super::answer::{header_of, plain};
use super::clock::unix_date;

/// Sets the log level while the process runs; gives the sentence to answer, or what is wrong.
pub type SetVerbosity = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// What the pages say.
#[derive(Clone)]
pub struct Pages {
    /// The configuration in force, JSON.
    pub configuration: Arc<std::sync::Mutex<String>>,
    /// Flags with their values, by name; `None`: the page is switched off.
    pub flags: Option<Vec<(String, String)>>,
    /// Whether `/statusz` is served.
    pub status: Shown,
    /// Whether `/debug` is served.
    pub debug: Shown,
    /// When the process started.
    pub started: SystemTime,
    /// Sets the log level.
    pub set_verbosity: SetVerbosity,
}

/// Whether a page is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is.
    Yes,
    /// It is switched off, and answers 404.
    No,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("debug", &self.debug).finish_non_exhaustive()
    }
}

impl Pages {
    /// Pages of a process that was asked for nothing.
    pub fn empty(started: SystemTime) -> Pages {
        Pages {
            configuration: Arc::default(),
            flags: Some(Vec::new()),
            status: Shown::Yes,
            debug: Shown::No,
            started,
            set_verbosity: Arc::new(|_| Err("the log level cannot be set here".into())),
        }
    }
}

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no \
    formatting compatibility guarantees and is for debugging purposes only.";

/// The paths.
pub(super) fn router(pages: Pages) -> Router {
    let configuration = pages.configuration.clone();
    let configz = async move || {
        let text = configuration.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        ([(header::CONTENT_TYPE, "application/json")], text)
    };
    let mut router = Router::new().route("/configz", any(configz));
    if let Some(flags) = pages.flags.clone() {
        router = router.route(
            "/flagz",
            any(async move |headers: HeaderMap| for_people(&headers, || flagz(&flags))),
        );
    }
    if pages.status == Shown::Yes {
        let started = pages.started;
        router = router.route(
            "/statusz",
            any(async move |headers: HeaderMap| {
                for_people(&headers, || statusz(started, SystemTime::now()))
            }),
        );
    }
    if pages.debug == Shown::Yes {
        router = router.merge(debug_flags(pages.set_verbosity));
    }
    router
}

/// A page for people only, as text; one who takes no text gets 406, as from the reference.
fn for_people(headers: &HeaderMap, page: impl FnOnce() -> String) -> Response {
    let accept = header_of(headers, &header::ACCEPT);
    let takes = |range: &str| {
        matches!(
            range.split(';').next().unwrap_or_default().trim(),
            "*/*" | "text/*" | "text/plain"
        )
    };
    if accept.is_empty() || accept.split(',').any(takes) {
        plain(StatusCode::OK, page())
    } else {
        plain(StatusCode::NOT_ACCEPTABLE, "media type not acceptable, must be: text/plain")
    }
}

fn flagz(flags: &[(String, String)]) -> String {
    let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    format!("\nkube-proxy flagz\n{WARNING}\n\n{lines}")
}

fn statusz(started: SystemTime, now: SystemTime) -> String {
    let up = now.duration_since(started).unwrap_or_default().as_secs();
    format!(
        "\nkube-proxy statusz\n{WARNING}\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\n\
         Binary version: {}\nEmulation version: 1.{}\n\
         Paths: /configz /debug /flagz /healthz /metrics /proxyMode /statusz\n",
        unix_date(started),
        up / 3600,
        up / 60 % 60,
        up % 60,
        crate::model::GIT_VERSION,
        crate::model::KUBERNETES_MINOR,
    )
}

/// `PUT /debug/flags/v` with a level as its body.
fn debug_flags(set: SetVerbosity) -> Router {
    let put = async move |method: Method, body: String| match method {
        Method::PUT => match set(body.trim()) {
            Ok(said) => plain(StatusCode::OK, said),
            Err(wrong) => plain(StatusCode::BAD_REQUEST, wrong),
        },
        // The reference's own answer to other methods.
        _ => plain(StatusCode::NOT_ACCEPTABLE, "unsupported http method: PUT a level, such as 4"),
    };
    let index = async || {
        plain(StatusCode::OK, "/debug/flags/v: PUT a level to set how much is logged\n")
            .into_response()
    };
    Router::new()
        .route("/debug/flags", any(index))
        .route("/debug/flags/", any(index))
        .route("/debug/flags/v", any(put))
}
