//! Paths to answers: discovery, lists in pages, single objects, Events written. Watches are only
//! described here; `watching` carries them out. Knows no sockets. Tests: with the server.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::faults::{Asked, Fault};
use super::http::Request;
use super::selector::Selector;
use super::store::{Resource, Snapshot, Stored};
use super::{Manners, Shared};

/// How many unfinished lists in pages are kept.
const PAGES: usize = 64;

/// What a request is about.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) asked: Asked,
    pub(super) resource: Option<Resource>,
    namespace: String,
    name: String,
}

/// A watch that is to be carried out.
pub(super) struct Watch {
    pub(super) resource: Resource,
    pub(super) namespace: String,
    pub(super) selector: Selector,
    /// Version after which changes are told; nothing: the present state first.
    pub(super) from: Option<u64>,
    /// Whether the present state ends with a marked bookmark.
    pub(super) marks_end: bool,
    pub(super) bookmarks: bool,
    /// Whether it is told in protobuf.
    pub(super) protobuf: bool,
    pub(super) seconds: u64,
}

impl Watch {
    /// Whether an object is watched.
    pub(super) fn wants(&self, object: &Stored) -> bool {
        let (namespace, name) = &object.name;
        (self.namespace.is_empty() || self.namespace == *namespace)
            && self.selector.selects(namespace, name, &object.labels)
    }
}

/// An answer.
pub(super) enum Answer {
    Whole(u16, String),
    Watch(Watch),
}

impl Target {
    /// Reads the path: `/api/v1/[namespaces/NS/]PLURAL[/NAME]`.
    pub(super) fn of(request: &Request, manners: &Manners) -> Target {
        let words: Vec<&str> = request.path.split('/').filter(|w| !w.is_empty()).collect();
        let (group, rest) = match words.as_slice() {
            ["api", "v1", rest @ ..] => ("v1".to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => (String::new(), &[][..]),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let plural = rest.first().copied().unwrap_or_default();
        let name = rest.get(1).copied().unwrap_or_default();
        let resource = Resource::ALL.into_iter().find(|r| {
            let (_, own, version) = r.names();
            own == plural && version == group && !manners.lacks.contains(r)
        });
        let asked = if request.method != "GET" {
            Asked::Write
        } else if request.flag("watch") {
            Asked::Watch
        } else if name.is_empty() && !plural.is_empty() {
            Asked::List
        } else {
            Asked::Get
        };
        Target { asked, resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// A `Status` object of a failure.
pub(super) fn status(code: u16, reason: &str, message: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
    .to_string()
}

/// Answers a request.
pub(super) fn answer(
    shared: &Shared,
    request: &Request,
    target: &Target,
    fault: Option<&Fault>,
) -> Answer {
    if target.asked == Asked::Write {
        return write(shared, request);
    }
    let Some(resource) = target.resource else {
        return discovery(shared, &request.path);
    };
    if !target.name.is_empty() {
        let found = shared.store.get(resource, &(target.namespace.clone(), target.name.clone()));
        return match found {
            Some(object) => Answer::Whole(200, object.whole(resource)),
            None => missing(&format!("{} {:?} not found", resource.names().1, target.name)),
        };
    }
    let selector =
        Selector::parse(request.parameter("labelSelector"), request.parameter("fieldSelector"));
    match selector {
        Err(why) => Answer::Whole(400, status(400, "BadRequest", &why)),
        Ok(selector) if target.asked == Asked::Watch => {
            watch(shared, request, (resource, &target.namespace, selector))
        }
        Ok(selector) => {
            let wanted = |object: &Stored| {
                let (namespace, name) = &object.name;
                (target.namespace.is_empty() || target.namespace == *namespace)
                    && selector.selects(namespace, name, &object.labels)
            };
            list(shared, request, (resource, &wanted), fault)
        }
    }
}

fn missing(message: &str) -> Answer {
    Answer::Whole(404, status(404, "NotFound", message))
}

fn write(shared: &Shared, request: &Request) -> Answer {
    let events = request.path.split('/').any(|word| word == "events");
    match serde_json::from_slice::<Value>(&request.body) {
        Ok(object) if events => {
            let body = object.to_string();
            shared.written.lock().unwrap_or_else(|e| e.into_inner()).push(object);
            Answer::Whole(201, body)
        }
        Ok(_) => missing("only events can be written here"),
        Err(error) => Answer::Whole(400, status(400, "BadRequest", &error.to_string())),
    }
}

fn discovery(shared: &Shared, path: &str) -> Answer {
    let resources = |group: &str| -> Vec<Value> {
        let served = Resource::ALL.into_iter().filter(|r| !shared.manners.lacks.contains(r));
        served
            .filter(|r| r.names().2 == group)
            .map(|r| {
                let (kind, plural, _) = r.names();
                json!({"name": plural, "singularName": kind.to_lowercase(), "kind": kind,
                    "namespaced": r.namespaced(), "verbs": ["get", "list", "watch"]})
            })
            .collect()
    };
    let body = match path.trim_end_matches('/') {
        "/version" => json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2",
            "platform": "linux/amd64"}),
        "/healthz" | "/livez" | "/readyz" => json!("ok"),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => {
            let group = |name: &str| {
                let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
                json!({"name": name, "versions": [version], "preferredVersion": version})
            };
            let names = ["discovery.k8s.io", "networking.k8s.io", "events.k8s.io"];
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": names.map(group)})
        }
        path => {
            let group = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"));
            let group = group.unwrap_or_default();
            let known = ["v1", "discovery.k8s.io/v1", "networking.k8s.io/v1", "events.k8s.io/v1"];
            if !known.contains(&group) {
                return missing("the server could not find the requested resource");
            }
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group,
                "resources": resources(group)})
        }
    };
    Answer::Whole(200, body.to_string())
}

/// Reads a version; an unset one and 0 mean "any".
fn version(text: &str) -> Result<Option<u64>, Answer> {
    match text {
        "" | "0" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let message = format!("invalid resource version {text:?}");
            Answer::Whole(400, status(400, "BadRequest", &message))
        }),
    }
}

fn watch(
    shared: &Shared,
    request: &Request,
    (resource, namespace, selector): (Resource, &str, Selector),
) -> Answer {
    let from = match version(request.parameter("resourceVersion")) {
        Ok(from) => from,
        Err(answer) => return answer,
    };
    let streams = request.flag("sendInitialEvents");
    if streams && !shared.manners.streams_lists {
        let message =
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Answer::Whole(422, status(422, "Invalid", message));
    }
    let now = shared.store.version();
    if from.is_some_and(|from| from > now) {
        let message = format!("Too large resource version: {}, current: {now}", from.unwrap_or(0));
        return Answer::Whole(504, status(504, "Timeout", &message));
    }
    Answer::Watch(Watch {
        resource,
        namespace: namespace.to_owned(),
        selector,
        from: if streams { None } else { from },
        marks_end: streams,
        bookmarks: request.flag("allowWatchBookmarks"),
        protobuf: request.protobuf && shared.manners.protobuf,
        seconds: request.parameter("timeoutSeconds").parse().unwrap_or(1800),
    })
}

fn list(
    shared: &Shared,
    request: &Request,
    (resource, wanted): (Resource, &dyn Fn(&Stored) -> bool),
    fault: Option<&Fault>,
) -> Answer {
    let limit = request.parameter("limit").parse().ok().filter(|l| *l > 0).unwrap_or(usize::MAX);
    let token = request.parameter("continue");
    let (snapshot, from) = if token.is_empty() {
        let stale = fault == Some(&Fault::Stale);
        let old = shared.remembered(resource).filter(|_| stale);
        (Arc::new(old.unwrap_or_else(|| shared.store.snapshot(resource))), 0)
    } else {
        match page(shared, token) {
            Some(page) => page,
            None => {
                let message = "The provided continue parameter is too old";
                return Answer::Whole(410, status(410, "Expired", message));
            }
        }
    };
    let mut picked = snapshot.objects.iter().enumerate().skip(from).filter(|(_, o)| wanted(o));
    let items: Vec<&Arc<Stored>> = picked.by_ref().take(limit).map(|(_, o)| o).collect();
    let rest = picked.next().map(|(at, _)| (at, picked.count() + 1));
    let mut metadata = json!({"resourceVersion": snapshot.version.to_string()});
    if let Some((at, left)) = rest {
        metadata["continue"] = keep(shared, &snapshot, at).into();
        metadata["remainingItemCount"] = left.into();
    }
    let (kind, _, group) = resource.names();
    let size: usize = items.iter().map(|o| o.bare.len() + 1).sum();
    let mut body = String::with_capacity(size + 256);
    let _ = write!(
        body,
        "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{group}\",\"metadata\":{metadata},\"items\":["
    );
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            body.push(',');
        }
        body.push_str(&item.bare);
    }
    body.push_str("]}");
    Answer::Whole(200, body)
}

/// Keeps a snapshot for the next page; the token names it and the place in it.
fn keep(shared: &Shared, snapshot: &Arc<Snapshot>, at: usize) -> String {
    let number = shared.next_page.fetch_add(1, Ordering::Relaxed);
    let mut pages = shared.pages.lock().unwrap_or_else(|e| e.into_inner());
    pages.insert(number, snapshot.clone());
    if pages.len() > PAGES {
        pages.pop_first();
    }
    format!("{number}.{at}")
}

fn page(shared: &Shared, token: &str) -> Option<(Arc<Snapshot>, usize)> {
    let (number, at) = token.split_once('.')?;
    let mut pages = shared.pages.lock().unwrap_or_else(|e| e.into_inner());
    let snapshot = pages.remove(&number.parse().ok()?)?;
    // As in etcd: a page of a state that was compacted cannot be read any more.
    (snapshot.version >= shared.store.compacted()).then_some((snapshot, at.parse().ok()?))
}
