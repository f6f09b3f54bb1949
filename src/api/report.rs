//! Sends Notices to the API server as Warning Events of `events.k8s.io/v1`, each once when it
//! appears, and one Event that the proxy has started.
//!
//! It never holds anybody up: what a bounded queue cannot take is left out, what came lately is
//! not said again, and the rate is limited as client-go's spam filter does. Without an API server
//! Notices are only logged, elsewhere. It must never decide what is worth a Notice. Tests: below.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, StatusCode, header};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::client::Connection;
use super::parse;
use crate::model::{Kind, Notice};

/// Notices that may wait to be sent.
const QUEUE: usize = 256;
/// Longest text of an Event, in bytes (`pkg/apis/core/validation/events.go`).
const MAX_NOTE: usize = 1024;
/// Attempts at sending one Event.
const ATTEMPTS: u32 = 4;

/// How much is said.
#[derive(Clone, Debug)]
pub struct Restraint {
    /// Events that may go out at once.
    pub burst: u32,
    /// Time in which one more may.
    pub every: Duration,
    /// The same Notice is not said again within this time.
    pub again: Duration,
    /// Pause after a failed attempt; a server that forbids Events is left alone 100 times longer.
    pub retry: Duration,
}

impl Default for Restraint {
    fn default() -> Self {
        Restraint {
            burst: 25,
            every: Duration::from_secs(10),
            again: Duration::from_secs(900),
            retry: Duration::from_secs(3),
        }
    }
}

/// Tells the API server about Notices.
#[derive(Debug)]
pub struct Reporter {
    known: BTreeSet<Notice>,
    queue: mpsc::Sender<News>,
}

/// What there is to tell.
#[derive(Debug)]
enum News {
    /// The proxy has started.
    Started,
    /// Something cannot be done as it was asked for.
    Notice(Notice),
}

impl Reporter {
    /// A reporter on the node of this name. Its task ends when the reporter is dropped.
    pub fn start(
        connection: &Connection,
        node_name: impl Into<Arc<str>>,
        restraint: Restraint,
    ) -> Reporter {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let sender = Sender {
            connection: connection.clone(),
            node_name: node_name.into(),
            allowance: Allowance::new(&restraint, Instant::now()),
            said: BTreeMap::new(),
            restraint,
        };
        tokio::spawn(sender.run(waiting));
        Reporter { known: BTreeSet::new(), queue }
    }

    /// Takes in all Notices that hold now. Those that did not hold before are sent, in a while;
    /// this never waits.
    pub fn report<'a>(&mut self, now: impl IntoIterator<Item = &'a Notice>) {
        let now: BTreeSet<Notice> = now.into_iter().cloned().collect();
        for notice in now.difference(&self.known) {
            // A full queue: the log has it, and the metric counts it.
            let _ = self.queue.try_send(News::Notice(notice.clone()));
        }
        self.known = now;
    }

    /// Says that the proxy has started, when called: once, as it is used up.
    pub fn starting(&self) -> impl FnOnce() + Send + use<> {
        let queue = self.queue.clone();
        // A full queue: the log has it.
        move || drop(queue.try_send(News::Started))
    }
}

/// The other end of the queue.
struct Sender {
    connection: Connection,
    node_name: Arc<str>,
    restraint: Restraint,
    allowance: Allowance,
    said: BTreeMap<Notice, Instant>,
}

impl Sender {
    async fn run(mut self, mut waiting: mpsc::Receiver<News>) {
        while let Some(news) = waiting.recv().await {
            let event = match news {
                News::Started => started(&self.node_name, SystemTime::now()),
                News::Notice(notice) => self.fresh(notice),
            };
            if let Some((namespace, event)) = event {
                sleep(self.allowance.take(Instant::now())).await;
                self.send(&namespace, &event).await;
            }
        }
    }

    /// The Event for a Notice, unless the same was said lately.
    fn fresh(&mut self, notice: Notice) -> Option<(String, Value)> {
        let now = Instant::now();
        let again = self.restraint.again;
        self.said.retain(|_, when| now.duration_since(*when) < again);
        if self.said.len() >= QUEUE || self.said.contains_key(&notice) {
            return None;
        }
        let event = event(&notice, &self.node_name, SystemTime::now());
        self.said.insert(notice, now);
        event
    }

    async fn send(&self, namespace: &str, event: &Value) {
        let retry = self.restraint.retry;
        for attempt in 1..=ATTEMPTS {
            match self.post(namespace, event).await {
                Some(status) if status.is_success() || status == StatusCode::CONFLICT => return,
                Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                    let url = self.connection.url();
                    tracing::warn!(
                        "API server {url}: may not create Events; give this user the rights of system:node-proxier"
                    );
                    return sleep(retry * 100).await;
                }
                Some(status) if status.is_client_error() && status.as_u16() != 429 => {
                    return tracing::debug!("an Event was refused: {status}");
                }
                _ => sleep(retry * attempt).await,
            }
        }
    }

    async fn post(&self, namespace: &str, event: &Value) -> Option<StatusCode> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let body = Body::from(event.to_string().into_bytes());
        let request = request.body(body).expect("a namespace is a name, which needs no escapes");
        self.connection.turn().await;
        let answer = timeout(Duration::from_secs(10), self.connection.send(request)).await;
        Some(answer.ok()?.ok()?.status())
    }
}

/// How many Events may go out now: a bucket that fills with time.
#[derive(Debug)]
struct Allowance {
    burst: u32,
    every: Duration,
    /// When the bucket would be full again.
    full_at: Instant,
}

impl Allowance {
    fn new(restraint: &Restraint, now: Instant) -> Allowance {
        Allowance { burst: restraint.burst.max(1), every: restraint.every, full_at: now }
    }

    /// Takes one; how long to wait before using it.
    fn take(&mut self, now: Instant) -> Duration {
        self.full_at = self.full_at.max(now) + self.every;
        self.full_at.duration_since(now).saturating_sub(self.every * self.burst)
    }
}

/// The namespace and text of the Event for a Notice; none if its object is none of the API's, a
/// file for one.
fn event(notice: &Notice, node_name: &str, now: SystemTime) -> Option<(String, Value)> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == notice.kind)?;
    let (object, namespace) = (&*notice.object.name, &*notice.object.namespace);
    let cluster_wide = matches!(kind, Kind::Node | Kind::ServiceCidr);
    if !is_api_name(object) || (namespace.is_empty() != cluster_wide) {
        return None;
    }
    let note = match notice.field.is_empty() {
        true => notice.message.clone(),
        false => format!("{}: {}", notice.field, notice.message),
    };
    let mut regarding =
        json!({"apiVersion": api_version(kind), "kind": notice.kind, "name": object});
    if !cluster_wide {
        if !is_api_name(namespace) {
            return None;
        }
        regarding["namespace"] = json!(namespace);
    } else if kind == Kind::Node {
        regarding["uid"] = json!(object);
    }
    let said =
        Said { of_type: "Warning", reason: notice.reason.as_str(), action: "Program", note: &note };
    Some(written(&regarding, &said, (node_name, now)))
}

/// The Event that the reference begins with (`birthCry`, `cmd/kube-proxy/app/server.go`). By the
/// Node's name as its uid it is found with those of the kubelet.
fn started(node_name: &str, now: SystemTime) -> Option<(String, Value)> {
    let regarding =
        json!({"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": node_name});
    let said = Said { of_type: "Normal", reason: "Starting", action: "StartKubeProxy", note: "" };
    is_api_name(node_name).then(|| written(&regarding, &said, (node_name, now)))
}

/// What an Event says of its object.
struct Said<'a> {
    of_type: &'a str,
    reason: &'a str,
    action: &'a str,
    note: &'a str,
}

/// An Event with the namespace it goes to: its object's, or the one for objects without.
fn written(
    regarding: &Value,
    said: &Said<'_>,
    (node_name, now): (&str, SystemTime),
) -> (String, Value) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let text = |name: &str| regarding.get(name).and_then(Value::as_str);
    let namespace = text("namespace").unwrap_or("default").to_owned();
    let object = cut(text("name").unwrap_or_default(), 200);
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{object}.{:x}", since.as_nanos())},
        "eventTime": parse::rfc3339_micros(since),
        "type": said.of_type,
        "reason": said.reason,
        "action": said.action,
        "note": cut(said.note, MAX_NOTE),
        "regarding": regarding,
        "reportingController": "kube-proxy",
        "reportingInstance": cut(node_name, 128),
    });
    (namespace, event)
}

fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::Service | Kind::Node => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::ServiceCidr => "networking.k8s.io/v1",
    }
}

/// Whether the API server could have stored an object of this name.
fn is_api_name(name: &str) -> bool {
    let ends = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(ends)
        && bytes.last().is_some_and(ends)
        && bytes.iter().all(|b| ends(b) || *b == b'-' || *b == b'.')
}

/// At most so many bytes of a text, in whole characters.
fn cut(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::client::fake::{Fake, Reply};
    use crate::api::client::{Server, connect};
    use crate::api::pace::Pace;
    use crate::model::{NamespacedName, Reason};

    fn notice(name: &str) -> Notice {
        Notice {
            kind: "Service",
            object: NamespacedName::new("ns", name),
            field: "spec.externalIPs[0]".into(),
            reason: Reason::InvalidField,
            message: "\"x\" is not an IP address; left out".into(),
        }
    }

    fn restraint() -> Restraint {
        let short = Duration::from_millis(10);
        Restraint { burst: 1000, every: short, again: Duration::from_secs(60), retry: short }
    }

    async fn reporter(fake: &Fake, restraint: Restraint) -> Reporter {
        let server = Server {
            kubeconfig: None,
            master: Some(fake.url()),
            pace: Pace { qps: -1.0, burst: 0 },
            ..Server::default()
        };
        Reporter::start(&connect(&server).await.unwrap(), "node-1", restraint)
    }

    async fn bodies(fake: &Fake, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let asked = fake.asked.lock().unwrap().clone();
            if asked.len() >= count {
                assert!(
                    asked
                        .iter()
                        .all(|a| a.0.starts_with("POST /apis/events.k8s.io/v1/namespaces/"))
                );
                return asked.iter().map(|a| serde_json::from_str(&a.1).unwrap()).collect();
            }
            assert!(Instant::now() < deadline, "{asked:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_notice_becomes_one_event() {
        let fake = Fake::start(|_, _| Reply(201, "", vec![])).await;
        let mut reporter = reporter(&fake, restraint()).await;
        let (a, b) = (notice("a"), notice("b"));
        reporter.report([&a]);
        reporter.report([&a]);
        reporter.report([]);
        reporter.report([&a, &b]);
        let bodies = bodies(&fake, 2).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(fake.asked("").len(), 2);
        let event = &bodies[0];
        assert_eq!(event["note"], "spec.externalIPs[0]: \"x\" is not an IP address; left out");
        assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("InvalidField")));
        let regarding =
            json!({"apiVersion": "v1", "kind": "Service", "namespace": "ns", "name": "a"});
        assert_eq!(event["regarding"], regarding);
        assert_eq!(event["metadata"]["namespace"], "ns");
        assert!(event["metadata"]["name"].as_str().unwrap().starts_with("a."));
        let time = event["eventTime"].as_str().unwrap();
        assert!(time.len() == 27 && parse::timestamp(time).is_some(), "{time}");
        assert_eq!(bodies[1]["regarding"]["name"], "b");
    }

    #[tokio::test]
    async fn a_start_is_told_once_on_the_node() {
        let fake = Fake::start(|_, _| Reply(201, "", vec![])).await;
        let reporter = reporter(&fake, restraint()).await;
        reporter.starting()();
        let bodies = bodies(&fake, 1).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(fake.asked(""), ["POST /apis/events.k8s.io/v1/namespaces/default/events"]);
        let event = &bodies[0];
        for (field, value) in [
            ("type", "Normal"),
            ("reason", "Starting"),
            ("action", "StartKubeProxy"),
            ("note", ""),
            ("reportingController", "kube-proxy"),
            ("reportingInstance", "node-1"),
        ] {
            assert_eq!(event[field], value, "{field}");
        }
        let regarding =
            json!({"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"});
        assert_eq!(event["regarding"], regarding);
        assert_eq!(started("no name", SystemTime::now()), None);
    }

    #[tokio::test]
    async fn a_server_that_is_busy_is_asked_again_and_one_that_forbids_is_not() {
        let fake = Fake::start(|n, _| Reply([503, 429, 201, 403, 201][n], "", vec![])).await;
        let mut reporter = reporter(&fake, restraint()).await;
        let (a, b) = (notice("a"), notice("b"));
        reporter.report([&a, &b]);
        bodies(&fake, 4).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(fake.asked("").len(), 4);
    }

    #[tokio::test]
    async fn nobody_is_held_up_by_a_server_that_hangs() {
        let fake =
            Fake::start(|_, _| Reply(200, "", vec![crate::api::client::fake::Step::Hang])).await;
        let mut reporter = reporter(&fake, restraint()).await;
        let many: Vec<Notice> = (0..2000).map(|n| notice(&format!("s{n}"))).collect();
        let began = Instant::now();
        reporter.report(&many);
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn the_rate_is_limited() {
        let now = Instant::now();
        let restraint =
            Restraint { burst: 3, every: Duration::from_secs(10), ..Restraint::default() };
        let mut allowance = Allowance::new(&restraint, now);
        let waits: Vec<u64> = (0..5).map(|_| allowance.take(now).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 10, 20]);
        let later = now + Duration::from_secs(1000);
        assert_eq!(allowance.take(later), Duration::ZERO);
    }

    #[test]
    fn only_objects_of_the_api_have_events() {
        let of = |kind: &'static str, namespace: &str, name: &str| {
            let object = NamespacedName::new(namespace, name);
            let notice = Notice { kind, object, message: "é".repeat(2000), ..notice("a") };
            event(&notice, "n", SystemTime::now())
        };
        let (namespace, node) = of("Node", "", "n1").unwrap();
        assert_eq!((namespace.as_str(), node["regarding"].get("namespace")), ("default", None));
        assert_eq!(node["regarding"]["uid"], "n1");
        assert!(node["note"].as_str().unwrap().len() <= MAX_NOTE);
        assert!(of("Manifest", "", "a.yaml").is_none());
        assert!(of("Service", "", "a").is_none());
        for bad in ["", "A", "a/b", "-a", "a b", "é"] {
            assert!(
                of("Service", "ns", bad).is_none() && of("Service", bad, "a").is_none(),
                "{bad:?}"
            );
        }
    }
}
