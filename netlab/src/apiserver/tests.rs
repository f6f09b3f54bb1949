//! Tests of the lab's API server over real sockets on loopback, by a client as simple as can be.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::faults::{Asked, Fault, Rule};
use super::store::Resource;
use super::{ApiServer, Manners, Shared, bulk};

fn server() -> (ApiServer, Arc<Shared>) {
    let shared = Shared::new(Manners::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (ApiServer::start(listener, shared.clone()).unwrap(), shared)
}

fn open(server: &ApiServer, method: &str, target: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    BufReader::new(stream)
}

fn head(reader: &mut BufReader<TcpStream>) -> (u16, Vec<String>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let code = lines.first().map_or(0, |l| l.split(' ').nth(1).unwrap().parse().unwrap());
    (code, lines)
}

fn get(server: &ApiServer, target: &str) -> (u16, Value) {
    let mut reader = open(server, "GET", target, "");
    let (code, lines) = head(&mut reader);
    let length = lines.iter().find_map(|l| l.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |l| l.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The next event of a watch; nothing at its end.
fn next(reader: &mut BufReader<TcpStream>, held: &mut String) -> Option<Value> {
    while !held.contains('\n') {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        if size == 0 {
            return None;
        }
        held.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
    }
    let (line, rest) = held.split_once('\n').unwrap();
    let event = serde_json::from_str(line).unwrap_or(json!({"type": "GARBAGE"}));
    *held = rest.to_owned();
    Some(event)
}

fn service(name: &str, labels: &Value) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}})
}

#[test]
fn lists_come_in_pages_of_one_state() {
    let (server, shared) = server();
    for name in ["a", "b", "c"] {
        shared.store.set(&service(name, &json!({}))).unwrap();
    }
    let (code, first) = get(&server, "/api/v1/services?limit=2");
    assert_eq!((code, &first["kind"]), (200, &json!("ServiceList")));
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    shared.store.set(&service("d", &json!({}))).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = get(&server, &format!("/api/v1/services?limit=2&continue={token}"));
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    let (code, _) = get(&server, "/api/v1/services?continue=77.1");
    assert_eq!(code, 410);
}

#[test]
fn a_watch_sees_objects_enter_and_leave_its_selection() {
    let (server, shared) = server();
    let from = shared.store.version();
    let target = format!("/api/v1/services?watch=1&resourceVersion={from}&labelSelector=%21hidden");
    let mut watch = open(&server, "GET", &target, "");
    assert_eq!(head(&mut watch).0, 200);
    let hidden = service("a", &json!({"hidden": "yes"}));
    shared.store.set(&service("a", &json!({}))).unwrap();
    shared.store.set(&hidden).unwrap();
    shared.store.set(&service("a", &json!({}))).unwrap();
    shared.store.delete(Resource::Services, "default", "a");
    let mut held = String::new();
    let kinds: Vec<String> =
        (0..4).map(|_| next(&mut watch, &mut held).unwrap()["type"].to_string()).collect();
    assert_eq!(kinds, ["\"ADDED\"", "\"DELETED\"", "\"ADDED\"", "\"DELETED\""]);
    shared.faults.order(|o| o.garbage += 1);
    assert_eq!(next(&mut watch, &mut held).unwrap()["type"], "GARBAGE");
    shared.faults.order(|o| o.cut += 1);
    while next(&mut watch, &mut held).is_some() {}
}

#[test]
fn a_streamed_list_ends_with_a_marked_bookmark() {
    let (server, shared) = server();
    shared.store.set(&service("a", &json!({}))).unwrap();
    let target = "/api/v1/services?watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
                  &resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let mut watch = open(&server, "GET", target, "");
    head(&mut watch);
    let mut held = String::new();
    assert_eq!(next(&mut watch, &mut held).unwrap()["type"], "ADDED");
    let mark = next(&mut watch, &mut held).unwrap();
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(next(&mut watch, &mut held), None, "timeoutSeconds ends it");
}

#[test]
fn an_old_version_is_gone() {
    let (server, shared) = server();
    let old = shared.store.version();
    shared.store.set(&service("a", &json!({}))).unwrap();
    shared.store.compact();
    let target = format!("/api/v1/services?watch=1&resourceVersion={old}");
    let mut watch = open(&server, "GET", &target, "");
    head(&mut watch);
    let event = next(&mut watch, &mut String::new()).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[test]
fn faults_are_used_up() {
    let (server, shared) = server();
    let resource = Some(Resource::Services);
    let fault = Fault::Status(429, Some(1));
    shared.faults.spoil(Rule { asked: Some(Asked::List), resource, fault, times: 2 });
    assert_eq!(get(&server, "/api/v1/nodes").0, 200);
    assert_eq!(get(&server, "/api/v1/services").0, 429);
    assert_eq!(get(&server, "/api/v1/services").0, 429);
    assert_eq!(get(&server, "/api/v1/services").0, 200);
    shared.faults.spoil_next(1, Fault::Drop);
    let mut reader = open(&server, "GET", "/api/v1/services", "");
    assert_eq!(reader.read_line(&mut String::new()).unwrap_or(0), 0);
}

#[test]
fn events_are_recorded_and_stale_lists_are_old() {
    let (server, shared) = server();
    let mut reader =
        open(&server, "POST", "/apis/events.k8s.io/v1/namespaces/x/events", "{\"a\":1}");
    assert_eq!(head(&mut reader).0, 201);
    assert_eq!(shared.written(), [json!({"a": 1})]);
    shared.remember();
    shared.store.set(&service("new", &json!({}))).unwrap();
    shared.faults.spoil_next(1, Fault::Stale);
    assert_eq!(get(&server, "/api/v1/services").1["items"], json!([]));
    assert_eq!(get(&server, "/api/v1/services").1["items"].as_array().unwrap().len(), 1);
}

#[test]
fn one_object_and_what_is_not_served() {
    let (server, shared) = server();
    shared.store.set(&bulk::node()).unwrap();
    assert_eq!(get(&server, "/api/v1/nodes/node-1").1["kind"], "Node");
    assert_eq!(get(&server, "/api/v1/nodes/other").0, 404);
    assert_eq!(get(&server, "/apis/networking.k8s.io/v1").1["resources"][0]["kind"], "ServiceCIDR");
    assert_eq!(get(&server, "/apis/nonsense/v9/things").0, 404);
    let by_name = "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1";
    assert_eq!(get(&server, by_name).1["items"].as_array().unwrap().len(), 1);
}

#[test]
fn ten_thousand_services_are_listed_at_once() {
    let (server, shared) = server();
    let objects: Vec<Value> = bulk::cluster(10_000, 10).collect();
    shared.store.set_all(&objects).unwrap();
    let began = Instant::now();
    let (_, list) = get(&server, "/apis/discovery.k8s.io/v1/endpointslices");
    assert_eq!(list["items"].as_array().unwrap().len(), 10_000);
    println!("10,000 slices listed and parsed in {:?}", began.elapsed());
}
