//! The status page for people, at `/` of the metrics port: Services, their endpoints and why each
//! is chosen or not, when they last changed, Notices, and what would become of a packet.
//! It reads the cluster through a question that the sync loop answers between two syncs, and has
//! packets judged by a function it is handed; it reaches into neither. Tests: `tests` beside this.

mod form;
mod page;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use super::{Health, answer};
use crate::model::{Event, Family, NamespacedName, Notice};
use crate::track::{Changes, Cluster};
pub use form::{Asked, Entry};

/// How long an answer of the sync loop is waited for: it may be in a long transaction.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something to be looked up in the cluster.
pub type Question = Box<dyn FnOnce(&Cluster) + Send>;
/// Has a question answered by whoever owns the cluster; false if nobody does any more.
pub type Ask = Arc<dyn Fn(Question) -> bool + Send + Sync>;
/// Judges a packet on a node that knows these objects. Takes its time; run where that is no harm.
pub type Judge = Arc<dyn Fn(&Asked, Vec<Event>) -> Result<Judged, String> + Send + Sync>;

/// What became of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Every fate it can have, with its probability.
    pub fates: Vec<(String, String)>,
    /// One way it can take, step by step.
    pub journey: String,
}

/// When a Service was last programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Programmed {
    /// When its rules were in.
    pub at: SystemTime,
    /// How long that took from when the change came.
    pub latency: Duration,
}

/// What the page shows beside the cluster. Clones share it.
#[derive(Clone)]
pub struct Board {
    shared: Arc<Mutex<State>>,
    health: Health,
    mode: &'static str,
    families: Vec<Family>,
    ask: Ask,
    judge: Judge,
}

#[derive(Default)]
struct State {
    programmed: BTreeMap<NamespacedName, Programmed>,
    notices: BTreeSet<Notice>,
    /// Why the last sync failed, if it did.
    failure: Option<String>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Board {
    /// An empty one for a proxy that programs these families in this mode.
    pub fn new(
        health: Health,
        (mode, families): (&'static str, Vec<Family>),
        ask: Ask,
        judge: Judge,
    ) -> Board {
        Board { shared: Arc::default(), health, mode, families, ask, judge }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These changes are programmed.
    pub fn programmed(&self, cluster: &Cluster, changes: &Changes, how: Programmed) {
        let mut state = self.state();
        state.failure = None;
        for name in &changes.services {
            if cluster.service(name).is_some() {
                state.programmed.insert(name.clone(), how);
            } else {
                state.programmed.remove(name);
            }
        }
    }

    /// A sync failed.
    pub fn failed(&self, why: String) {
        self.state().failure = Some(why);
    }

    /// These Notices hold now.
    pub fn noticed(&self, notices: &BTreeSet<Notice>) {
        self.state().notices.clone_from(notices);
    }

    /// Looks something up in the cluster; `None` if the sync loop does not answer in time.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cluster) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let question = Box::new(move |cluster: &Cluster| drop(tell.send(look(cluster))));
        if !(self.ask)(question) {
            return None;
        }
        tokio::time::timeout(PATIENCE, told).await.ok()?.ok()
    }
}

/// The paths: `/`, `/service` and `/packet`.
pub(super) fn router(board: Board) -> Router {
    let (services, service, packet) = (board.clone(), board.clone(), board);
    let overview = async move |headers: HeaderMap, RawQuery(query): RawQuery| {
        html(&headers, overview(&services, &form::fields(query)).await)
    };
    let one = async move |headers: HeaderMap, RawQuery(query): RawQuery| {
        html(&headers, one_service(&service, &form::fields(query)).await)
    };
    let journey = async move |headers: HeaderMap, RawQuery(query): RawQuery| {
        html(&headers, packet_page(&packet, &form::fields(query)).await)
    };
    Router::new()
        .route("/", get(overview))
        .route("/service", get(one))
        .route("/packet", get(journey))
}

/// A page with its status.
type Page = (StatusCode, maud::Markup);

fn html(asked: &HeaderMap, (status, page): Page) -> Response {
    let body = answer::text(asked, "text/html; charset=utf-8", page.into_string());
    let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; \
                  base-uri 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

fn busy() -> Page {
    let text = "The sync loop did not answer within 5 seconds: it is in a long transaction with \
                the kernel. Reload in a moment; /healthz says whether it is stuck.";
    (StatusCode::SERVICE_UNAVAILABLE, page::error("busy", text))
}

async fn overview(board: &Board, fields: &form::Fields) -> Page {
    let (search, number) = (fields.text("q").to_owned(), fields.number("page"));
    let families = board.families.clone();
    let looked = board.look(move |cluster| view::list(cluster, &families, (&search, number))).await;
    let Some(list) = looked else { return busy() };
    let state = board.state();
    let head = page::Head {
        mode: board.mode,
        healthy: board.health.is_healthy(Instant::now()),
        lag: board.health.lag(Instant::now()),
        eligible: board.health.is_node_eligible(),
        last_updated: board.health.last_updated(),
        failure: state.failure.as_deref(),
        notices: &state.notices,
        programmed: &state.programmed,
        now: SystemTime::now(),
    };
    (StatusCode::OK, page::overview(&list, &head, fields.text("q")))
}

async fn one_service(board: &Board, fields: &form::Fields) -> Page {
    let name = NamespacedName::new(fields.text("namespace"), fields.text("name"));
    let (wanted, families) = (name.clone(), board.families.clone());
    let looked = board.look(move |cluster| view::one(cluster, &families, &wanted)).await;
    let Some(found) = looked else { return busy() };
    let state = board.state();
    match found {
        Some(service) => {
            let last = state.programmed.get(&name);
            let notices: Vec<&Notice> = state.notices.iter().filter(|n| n.object == name).collect();
            (StatusCode::OK, page::service(&service, (last, SystemTime::now()), &notices))
        }
        None => {
            let text = format!("There is no Service {name} that a proxy programs.");
            (StatusCode::NOT_FOUND, page::error("no such Service", &text))
        }
    }
}

async fn packet_page(board: &Board, fields: &form::Fields) -> Page {
    let node = board.look(|cluster| cluster.node().cloned()).await.flatten();
    if fields.is_empty() {
        return (StatusCode::OK, page::packet(fields, node.as_ref(), None));
    }
    let judged = match form::read(fields, node.as_ref()) {
        Ok(asked) => judge(board, asked).await,
        Err(why) => Err(why),
    };
    let status = if judged.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    (status, page::packet(fields, node.as_ref(), Some(&judged)))
}

/// The judging is done on a thread of its own: neither the sync nor another page waits for it.
async fn judge(board: &Board, asked: Asked) -> Result<Judged, String> {
    let (wanted, judge) = (asked.clone(), board.judge.clone());
    let looked = board.look(move |cluster| view::objects_for(cluster, &wanted)).await;
    let objects = looked.ok_or("the sync loop did not answer within 5 seconds")?;
    let work = tokio::task::spawn_blocking(move || judge(&asked, objects));
    work.await.map_err(|_| "the simulator broke down; this is a bug".to_owned())?
}
