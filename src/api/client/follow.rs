//! Carries out the list-and-watch of one kind: asks what `api::watch` says, decodes what comes,
//! sends Events on.
//!
//! It must never decide what to ask next. Tests: `tests.rs`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::connect::Connection;
use super::explain;
use super::{Patience, WatchState};
use crate::api::Decoder;
use crate::api::form::{self, Bookmark, Form, Status};
use crate::api::watch::{Ask, Outcome, Position};
use crate::model::{Event, Kind};

/// How much of an error's body is read.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// Why a streamed list is given up.
const ENDLESS: &str = "the API server does not say where a streamed list ends; asking for pages";

/// The list-and-watch of one kind.
pub(super) struct Follower {
    kind: Kind,
    connection: Connection,
    node_name: Arc<str>,
    patience: Patience,
    decoder: Decoder,
    position: Position,
    state: Arc<WatchState>,
    /// Whether a streamed list is being read that has not come to its end.
    streaming: bool,
    /// The failure last logged, until things go well again.
    trouble: String,
}

/// How a request ended, and in words why.
type Ending = (Outcome, String);

impl Follower {
    pub(super) fn new(
        kind: Kind,
        connection: Connection,
        node_name: Arc<str>,
        patience: Patience,
    ) -> Follower {
        let decoder = Decoder::new(node_name.clone());
        let position = Position::start(patience.absent_pause, patience.stream_lists);
        let (state, trouble) = (Arc::default(), String::new());
        let streaming = false;
        Follower {
            kind,
            connection,
            node_name,
            patience,
            decoder,
            position,
            state,
            streaming,
            trouble,
        }
    }

    pub(super) fn state(&self) -> Arc<WatchState> {
        self.state.clone()
    }

    /// Follows the kind until nobody takes the Events any more.
    pub(super) async fn run(mut self, events: mpsc::Sender<Event>) {
        tokio::select! {
            () = self.follow(&events) => {}
            () = events.closed() => {}
        }
    }

    async fn follow(&mut self, events: &mpsc::Sender<Event>) {
        loop {
            let (outcome, why) = match self.position.ask().clone() {
                Ask::List { token, limit } => self.list(token.as_deref(), limit, events).await,
                Ask::Stream => {
                    self.streaming = true;
                    let path = self.stream_path();
                    let ended = self.watch((&path, self.patience.watch_time), events).await;
                    self.end_of_stream(ended)
                }
                Ask::Watch { version } => {
                    self.streaming = false;
                    let stands = self.patience.watch_time.mul_f64(1.0 + chance());
                    let path = self.watch_path(&version, stands);
                    self.watch((&path, stands), events).await
                }
            }
            .unwrap_or_else(|ending| ending);
            self.log(&outcome, why);
            let pause = self.position.advance(outcome, chance());
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    /// Says each trouble once, and once that it is over.
    fn log(&mut self, outcome: &Outcome, why: String) {
        let kind = self.kind.as_str();
        match outcome {
            Outcome::NoStream => return tracing::debug!("{kind}: lists in pages: {why}"),
            Outcome::Page { .. } | Outcome::WatchEnded => {
                if !std::mem::take(&mut self.trouble).is_empty() {
                    tracing::info!("{kind}: the API server answers again");
                }
                return;
            }
            Outcome::WatchCut | Outcome::Expired => tracing::debug!("{kind}: {why}"),
            Outcome::Absent if self.trouble != why => tracing::info!("{kind}: {why}"),
            _ if self.trouble != why => tracing::warn!("{kind}: {why}; trying again"),
            _ => {}
        }
        self.state.set_failed();
        self.trouble = why;
    }

    /// Reads one page of the list.
    async fn list(
        &mut self,
        token: Option<&str>,
        limit: Option<u32>,
        events: &mpsc::Sender<Event>,
    ) -> Result<Ending, Ending> {
        let (form, mut body) = match self.ask(&self.list_path(token, limit)).await {
            Err((Outcome::Absent, why)) => {
                self.nothing_there(events).await;
                return Err((Outcome::Absent, why));
            }
            other => other?,
        };
        if token.is_none() {
            self.tell(vec![Event::ListStarted(self.kind)], events).await;
        }
        let mut cutter = form.list();
        while let Some(chunk) = self.chunk(&mut body, self.patience.list_silence).await? {
            let mut chunk = &chunk[..];
            while let Some(item) = cutter.next(&mut chunk).map_err(too_long)? {
                let told = form.told(self.kind, &item, &mut self.decoder).map_err(garbage)?;
                self.tell(told.events, events).await;
            }
        }
        let end = cutter.end().map_err(garbage)?;
        let Some(version) = end.version else {
            return Err((Outcome::Garbage, "a list without a resourceVersion".into()));
        };
        if end.token.is_none() {
            self.tell(vec![Event::ListEnded(self.kind)], events).await;
            self.state.set_listed();
        }
        Ok((Outcome::Page { version, token: end.token }, String::new()))
    }

    /// A streamed list that ended before its end was said is no watch that went well.
    fn end_of_stream(&self, ended: Result<Ending, Ending>) -> Result<Ending, Ending> {
        match ended {
            Ok((_, why)) if self.streaming => Err((Outcome::Unreachable, why)),
            Err((Outcome::Refused { code, .. }, why))
                if self.streaming && Position::refuses_stream(code) =>
            {
                Err((Outcome::NoStream, why))
            }
            other => other,
        }
    }

    /// Hears what happens until the watch ends, one way or another.
    async fn watch(
        &mut self,
        (path, stands): (&str, Duration),
        events: &mpsc::Sender<Event>,
    ) -> Result<Ending, Ending> {
        let (form, mut body) = match self.ask(path).await {
            Err((Outcome::Absent, why)) if self.streaming => {
                self.nothing_there(events).await;
                return Err((Outcome::Absent, why));
            }
            other => other?,
        };
        if self.streaming {
            self.tell(vec![Event::ListStarted(self.kind)], events).await;
        }
        let (began, mut told_any) = (Instant::now(), false);
        let deadline = began + stands + self.patience.watch_silence / 2;
        let mut cutter = form.watch();
        let mut why = "the watch ended".to_owned();
        while Instant::now() < deadline {
            let silence = match self.streaming {
                true => self.patience.list_silence,
                false => self.patience.watch_silence,
            };
            if self.streaming && began.elapsed() > 2 * silence {
                return Err((Outcome::NoStream, ENDLESS.into()));
            }
            let chunk = match self.chunk(&mut body, silence).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(_) if self.streaming && told_any => {
                    return Err((Outcome::NoStream, ENDLESS.into()));
                }
                Err((_, broken)) => {
                    why = broken;
                    break;
                }
            };
            let mut chunk = &chunk[..];
            while let Some(frame) = cutter.next(&mut chunk).map_err(too_long)? {
                self.frame((form, &frame), events).await?;
                told_any = true;
            }
        }
        if cutter.is_midway() {
            why.push_str(", in the middle of a frame");
        }
        let outcome = match began.elapsed() >= self.patience.watch_proof {
            true => Outcome::WatchEnded,
            false if told_any => Outcome::WatchCut,
            false => Outcome::WatchBarren,
        };
        Ok((outcome, format!("{}: {why}", self.connection.url())))
    }

    /// Takes in one frame of a watch.
    async fn frame(
        &mut self,
        (form, frame): (&dyn Form, &[u8]),
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Ending> {
        let (change, object) = form.frame(frame).map_err(garbage)?;
        let (kind, decoder) = (self.kind, &mut self.decoder);
        let told = match &*change {
            "ADDED" | "MODIFIED" => form.framed(kind, &object, decoder),
            "DELETED" => form.gone(kind, &object, decoder),
            "BOOKMARK" => {
                let bookmark = form.bookmark(&object).map_err(garbage)?;
                return self.bookmark(bookmark, events).await;
            }
            "ERROR" => return Err(watch_error(form.status(&object))),
            other => Err(format!("{other:?} in a watch")),
        };
        let told = told.map_err(garbage)?;
        self.tell(told.events, events).await;
        // Only now: what was not passed on is asked for again.
        self.position.reached(told.version.as_deref().unwrap_or_default());
        Ok(())
    }

    async fn bookmark(
        &mut self,
        bookmark: Bookmark,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Ending> {
        let version = bookmark.version.as_deref().unwrap_or_default();
        if self.streaming {
            if !bookmark.ends_list {
                return Err((Outcome::NoStream, ENDLESS.into()));
            }
            self.tell(vec![Event::ListEnded(self.kind)], events).await;
            self.state.set_listed();
            self.streaming = false;
            self.position.streamed(version);
            return Ok(());
        }
        if self.position.is_ahead_of(version) {
            let why = format!("the API server was set back to version {version}; listing anew");
            return Err((Outcome::Expired, why));
        }
        self.position.reached(version);
        Ok(())
    }

    /// An API that is absent is as good as an empty list.
    async fn nothing_there(&self, events: &mpsc::Sender<Event>) {
        let empty = vec![Event::ListStarted(self.kind), Event::ListEnded(self.kind)];
        self.tell(empty, events).await;
        self.state.set_listed();
    }

    async fn tell(&self, news: Vec<Event>, events: &mpsc::Sender<Event>) {
        for event in news {
            // Fails only if nobody listens: then `run` ends in a moment.
            let _ = events.send(event).await;
        }
    }

    /// Sends a request and gives form and body of a good answer.
    async fn ask(&self, path: &str) -> Result<(&'static dyn Form, Body), Ending> {
        let (url, longest) = (self.connection.url(), self.patience.answer);
        self.connection.turn().await;
        let response = match timeout(longest, self.connection.send(self.connection.get(path))).await
        {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err((Outcome::Unreachable, error.to_string())),
            Err(_) => {
                let error = explain::no_answer(url, longest);
                return Err((Outcome::Unreachable, error.to_string()));
            }
        };
        self.state.set_contact();
        let status = response.status();
        let form = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let form = form::of(form.unwrap_or_default());
        if status.is_success() {
            return Ok((form, response.into_body()));
        }
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let header = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let said = form.status(&self.error_body(response.into_body()).await);
        let why = explain::status(url, status, &said.message);
        let code = status.as_u16();
        let outcome = match code {
            410 => Outcome::Expired,
            403 | 404 if self.is_dispensable(code) => Outcome::Absent,
            _ => Outcome::Refused { code, retry_after: header.or(said.retry_after) },
        };
        Err((outcome, why.to_string()))
    }

    /// ServiceCIDRs are younger than the other kinds, and older roles do not let them be read.
    /// Once they were read, a missing right is taken for a mishap rather than for their end.
    fn is_dispensable(&self, code: u16) -> bool {
        self.kind == Kind::ServiceCidr && (code == 404 || !self.state.synced())
    }

    async fn error_body(&self, mut body: Body) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = self.chunk(&mut body, Duration::from_secs(5)).await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ERROR_BODY {
                break;
            }
        }
        bytes
    }

    /// The next bytes of an answer; none at its end.
    async fn chunk(
        &self,
        body: &mut Body,
        silence: Duration,
    ) -> Result<Option<impl std::ops::Deref<Target = [u8]> + use<>>, Ending> {
        let url = self.connection.url();
        loop {
            let frame = match timeout(silence, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    let why = format!("API server {url}: broken off: {}", explain::deepest(&error));
                    return Err((Outcome::Unreachable, why));
                }
                Err(_) => {
                    let why = explain::no_answer(url, silence).to_string();
                    return Err((Outcome::Unreachable, why));
                }
            };
            self.state.set_contact();
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The path of the kind with the reference's selectors (`cmd/kube-proxy/app/server.go`).
    fn path(&self) -> String {
        match self.kind {
            Kind::Service => "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name".into(),
            Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless".into(),
            Kind::Node => format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", escaped(&self.node_name)),
            // It takes no selector, but the query has to begin somehow.
            Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs?pretty=false".into(),
        }
    }

    fn list_path(&self, token: Option<&str>, limit: Option<u32>) -> String {
        let mut path = self.path();
        if let Some(limit) = limit {
            path.push_str(&format!("&limit={limit}"));
        }
        if let Some(token) = token {
            path.push_str(&format!("&continue={}", escaped(token)));
        }
        path
    }

    /// A watch that begins with all there is, as of now, and says when that was all.
    fn stream_path(&self) -> String {
        let seconds = self.patience.watch_time.as_secs().max(1);
        format!(
            "{}&watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
             &resourceVersionMatch=NotOlderThan&timeoutSeconds={seconds}",
            self.path()
        )
    }

    fn watch_path(&self, version: &str, stands: Duration) -> String {
        let (path, version, seconds) = (self.path(), escaped(version), stands.as_secs().max(1));
        format!(
            "{path}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}"
        )
    }
}

/// An ERROR in a watch.
fn watch_error(status: Status) -> Ending {
    let (code, reason) = (status.code, &*status.reason);
    let why = format!("watch: {code} {reason}: {}", status.message);
    if code == 410 || reason == "Expired" || reason == "Gone" {
        return (Outcome::Expired, why);
    }
    (Outcome::Refused { code, retry_after: status.retry_after }, why)
}

fn garbage(why: String) -> Ending {
    (Outcome::Garbage, why)
}

fn too_long(_: crate::api::split::TooLong) -> Ending {
    (Outcome::Garbage, "the API server's answer has an object without end".into())
}

/// A text with everything but letters, digits and `-._~` escaped, for a URL's query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Evenly spread from 0 to 1. Each `RandomState` has keys of its own, which is chance enough to
/// keep nodes from coming all at once.
fn chance() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}
