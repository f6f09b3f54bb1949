//! Carries out the list-and-watch of one kind: asks what `api::watch` says, decodes what comes,
//! sends Events on.
//!
//! It must never decide what to ask next. Tests: `tests.rs`.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Connection, get};
use super::explain;
use super::{Patience, WatchState};
use crate::api::Decoder;
use crate::api::decode::{self, Told};
use crate::api::lenient::{Scalar, lenient_object};
use crate::api::objects::AnyObject;
use crate::api::split::{LineSplitter, ListSplitter};
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

lenient_object! {
    /// A list without its items.
    ListRest { meta: ListMeta = "metadata", }
}

lenient_object! {
    /// `metadata` of a list.
    ListMeta { version: Scalar = "resourceVersion", token: Scalar = "continue", }
}

lenient_object! {
    /// `v1` Status: what an error looks like.
    Status { code: Scalar = "code", reason: Scalar = "reason", message: Scalar = "message", details: StatusDetails = "details", }
}

lenient_object! {
    /// `details` of a Status.
    StatusDetails { retry_after: Scalar = "retryAfterSeconds", }
}

/// One line of a watch.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    change: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Follower {
    pub(super) fn new(
        kind: Kind,
        connection: Connection,
        node_name: Arc<str>,
        patience: Patience,
    ) -> Follower {
        let decoder = Decoder::new(node_name.clone());
        let position = Position::start(patience.absent_pause);
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
            Outcome::WatchCut | Outcome::Expired | Outcome::NoStream => {
                tracing::debug!("{kind}: {why}")
            }
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
        let mut body = match self.ask(&self.list_path(token, limit)).await {
            Err((Outcome::Absent, why)) => {
                self.nothing_there(events).await;
                return Err((Outcome::Absent, why));
            }
            other => other?,
        };
        if token.is_none() {
            self.tell(vec![Event::ListStarted(self.kind)], events).await;
        }
        let mut splitter = ListSplitter::default();
        while let Some(chunk) = self.chunk(&mut body, self.patience.list_silence).await? {
            let mut chunk = &chunk[..];
            while let Some(item) = splitter.next_item(&mut chunk).map_err(too_long)? {
                let mut from = serde_json::Deserializer::from_slice(&item);
                let told =
                    decode::told(self.kind, &mut from, &mut self.decoder).map_err(no_json)?;
                self.tell(told.events, events).await;
            }
        }
        let rest: ListRest = serde_json::from_slice(&splitter.into_rest()).map_err(no_json)?;
        let Some(version) = text(&rest.meta.version) else {
            return Err((Outcome::Garbage, "a list without a resourceVersion".into()));
        };
        let token = text(&rest.meta.token);
        if token.is_none() {
            self.tell(vec![Event::ListEnded(self.kind)], events).await;
            self.state.set_listed();
        }
        Ok((Outcome::Page { version: version.into(), token: token.map(Into::into) }, String::new()))
    }

    /// A streamed list that ended before its end was said is no watch that went well.
    fn end_of_stream(&self, ended: Result<Ending, Ending>) -> Result<Ending, Ending> {
        match ended {
            Ok((_, why)) if self.streaming => Err((Outcome::Unreachable, why)),
            Err((Outcome::Refused { code, .. }, why)) if Position::refuses_stream(code) => {
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
        let mut body = match self.ask(path).await {
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
        let mut splitter = LineSplitter::default();
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
            while let Some(line) = splitter.next_line(&mut chunk).map_err(too_long)? {
                if !line.trim_ascii().is_empty() {
                    self.line(&line, events).await?;
                    told_any = true;
                }
            }
        }
        if splitter.is_midway() {
            why.push_str(", in the middle of a line");
        }
        let outcome = match began.elapsed() >= self.patience.watch_proof {
            true => Outcome::WatchEnded,
            false if told_any => Outcome::WatchCut,
            false => Outcome::WatchBarren,
        };
        Ok((outcome, format!("{}: {why}", self.connection.url())))
    }

    /// Takes in one line of a watch.
    async fn line(&mut self, line: &[u8], events: &mpsc::Sender<Event>) -> Result<(), Ending> {
        let frame: Frame = serde_json::from_slice(line).map_err(no_json)?;
        let mut from = serde_json::Deserializer::from_str(frame.object.get());
        let mut ends_list = false;
        let told = match &*frame.change {
            "ADDED" | "MODIFIED" => decode::told(self.kind, &mut from, &mut self.decoder),
            "DELETED" => decode::gone(self.kind, &mut from, &mut self.decoder),
            "BOOKMARK" => AnyObject::deserialize(&mut from).map(|object| {
                ends_list = text(&object.meta.annotations.initial_end) == Some("true");
                let version = text(&object.meta.resource_version).map(Into::into);
                Told { events: Vec::new(), version }
            }),
            "ERROR" => return Err(watch_error(frame.object)),
            other => return Err((Outcome::Garbage, format!("{other:?} in a watch"))),
        }
        .map_err(no_json)?;
        self.tell(told.events, events).await;
        let version = told.version.as_deref().unwrap_or_default();
        if self.streaming && frame.change == "BOOKMARK" {
            if !ends_list {
                return Err((Outcome::NoStream, ENDLESS.into()));
            }
            self.tell(vec![Event::ListEnded(self.kind)], events).await;
            self.state.set_listed();
            self.streaming = false;
            self.position.streamed(version);
            return Ok(());
        }
        if frame.change == "BOOKMARK" && self.position.is_ahead_of(version) {
            let why = format!("the API server was set back to version {version}; listing anew");
            return Err((Outcome::Expired, why));
        }
        // Only now: what was not passed on is asked for again.
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

    /// Sends a request and gives the body of a good answer.
    async fn ask(&self, path: &str) -> Result<Body, Ending> {
        let (url, longest) = (self.connection.url(), self.patience.answer);
        self.connection.turn().await;
        let response = match timeout(longest, self.connection.send(get(path))).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err((Outcome::Unreachable, error.to_string())),
            Err(_) => {
                let error = explain::no_answer(url, longest);
                return Err((Outcome::Unreachable, error.to_string()));
            }
        };
        self.state.set_contact();
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let header = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let said = self.error_body(response.into_body()).await;
        let why = explain::status(url, status, text(&said.message).unwrap_or_default());
        let code = status.as_u16();
        let outcome = match code {
            410 => Outcome::Expired,
            403 | 404 if self.is_dispensable(code) => Outcome::Absent,
            _ => Outcome::Refused { code, retry_after: header.or(retry_after(&said)) },
        };
        Err((outcome, why.to_string()))
    }

    /// ServiceCIDRs are younger than the other kinds, and older roles do not let them be read.
    /// Once they were read, a missing right is taken for a mishap rather than for their end.
    fn is_dispensable(&self, code: u16) -> bool {
        self.kind == Kind::ServiceCidr && (code == 404 || !self.state.synced())
    }

    async fn error_body(&self, mut body: Body) -> Status {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = self.chunk(&mut body, Duration::from_secs(5)).await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ERROR_BODY {
                break;
            }
        }
        serde_json::from_slice(&bytes).unwrap_or_default()
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

/// An ERROR in a watch: its object is a Status.
fn watch_error(object: &RawValue) -> Ending {
    let status: Status = serde_json::from_str(object.get()).unwrap_or_default();
    let code = match status.code {
        Scalar::Whole(code) => u16::try_from(code).unwrap_or_default(),
        _ => 0,
    };
    let reason = text(&status.reason).unwrap_or_default();
    let why = format!("watch: {code} {reason}: {}", text(&status.message).unwrap_or_default());
    if code == 410 || reason == "Expired" || reason == "Gone" {
        return (Outcome::Expired, why);
    }
    (Outcome::Refused { code, retry_after: retry_after(&status) }, why)
}

fn retry_after(status: &Status) -> Option<Duration> {
    match status.details.retry_after {
        Scalar::Whole(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        _ => None,
    }
}

fn text(value: &Scalar) -> Option<&str> {
    if let Scalar::Text(text) = value { Some(&**text).filter(|t| !t.is_empty()) } else { None }
}

fn no_json(error: serde_json::Error) -> Ending {
    (Outcome::Garbage, format!("the API server's answer is no JSON: {error}"))
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
