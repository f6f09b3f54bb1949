//! The role in `deploy` against the requests that are really made: nothing lacks, nothing is too much.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::fake::{Asked, Fake, Reply, Step};
use super::client::{Connection, Patience, Server, Watches, connect};
use super::pace::Pace;
use super::report::{Reporter, Restraint};
use crate::model::Kind;

/// A right: API group, resource, verb.
type Right = [String; 3];

fn right(parts: [&str; 3]) -> Right {
    parts.map(str::to_owned)
}

/// What a request needs (`k8s.io/apiserver/pkg/endpoints/request`).
fn needed(asked: &Asked) -> Right {
    let (method, address) = asked.0.split_once(' ').unwrap();
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = match parts[..] {
        ["api", "v1", ref rest @ ..] => ("", rest),
        ["apis", group, _, ref rest @ ..] => (group, rest),
        _ => panic!("{path}"),
    };
    let rest = if rest[0] == "namespaces" && rest.len() > 2 { &rest[2..] } else { rest };
    let verb = match (method, rest.len()) {
        ("GET", 1) if query.contains("watch=true") => "watch",
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        other => panic!("{other:?}"),
    };
    right([group, rest[0], verb])
}

/// What a manifest's only ClusterRole grants.
fn granted(manifest: &str) -> BTreeSet<Right> {
    let documents: Vec<Value> = manifest
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect();
    let roles: Vec<&Value> = documents.iter().filter(|d| d["kind"] == "ClusterRole").collect();
    let [role] = roles[..] else { panic!("{} roles", roles.len()) };
    let words = |rule: &Value, name: &str| {
        let list = rule[name].as_array().unwrap().clone();
        list.into_iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    all.insert([group.clone(), resource.clone(), verb]);
                }
            }
        }
    }
    all
}

/// Lists are empty, watches stand still, Events are taken.
fn answer(asked: &Asked) -> Reply {
    if asked.0.starts_with("POST ") {
        return Reply(201, "", vec![]);
    }
    if asked.0.contains("watch=true") {
        return Reply(200, "", vec![Step::Hang]);
    }
    let list = json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []});
    Reply::text(list.to_string())
}

async fn connected(fake: &Fake) -> Connection {
    let pace = Pace { qps: -1.0, burst: 0 };
    let server = Server { master: Some(fake.url()), pace, ..Server::default() };
    connect(&server).await.unwrap()
}

#[tokio::test]
async fn the_role_grants_what_is_asked_for_and_nothing_else() {
    let fake = Fake::start(|_, asked| answer(asked)).await;
    let connection = connected(&fake).await;
    connection.check(Duration::from_secs(5)).await.unwrap();
    let reporter = Reporter::start(&connection, "node-1", Restraint::default());
    reporter.starting()();
    let (sender, mut events) = mpsc::channel(64);
    let _watches = Watches::start(&connection, "node-1", &sender, &Patience::default());
    let wanted = 2 * Kind::ALL.len() + 1;
    let rights = || fake.asked.lock().unwrap().iter().map(needed).collect::<BTreeSet<Right>>();
    let enough = async {
        while rights().len() < wanted {
            let _ = tokio::time::timeout(Duration::from_millis(10), events.recv()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), enough).await.unwrap();
    for manifest in
        [include_str!("../../deploy/base/rbac.yaml"), include_str!("../../deploy/kube-proxy.yaml")]
    {
        assert_eq!(granted(manifest), rights());
    }
}
