//! Malformed objects, more than ten thousand of them, among good ones that change meanwhile: every
//! good Service works in the end, and memory does not grow from round to round.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::served::listener;
use super::{Bench, Scenario, Verdict, eventually, scenario, told};
use crate::apiserver::{ApiServer, Manners, Shared};
use crate::client::Outcome;
use crate::load::{PATIENCE, ask};
use crate::manifests::Transport;
use crate::scale::endpoint;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("soak-of-malformed-objects", |bench| play(bench, Manners::default())),
    scenario("soak-of-malformed-objects-in-json", |bench| {
        play(bench, Manners { protobuf: false, ..Manners::default() })
    }),
];

/// Rounds, malformed objects in each, and good Services.
const ROUNDS: usize = 12;
const BAD: usize = 900;
const GOOD: usize = 40;
/// Rounds after which memory has what it needs, and by how much it may be more at the end, in KiB.
const SETTLED: usize = 4;
const MORE: u64 = 4096;

fn play(bench: &Bench, manners: Manners) -> Verdict {
    let mut setting = bench.examples()?;
    let shared = Shared::new(manners);
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start(listener(&setting, 6443)?, shared.clone())?;
    setting.start_proxy_on(&server.url(), &["--v=0"])?;
    let verdict = rounds(&mut setting, &shared);
    told(&setting, verdict)
}

fn rounds(setting: &mut Setting, shared: &Arc<Shared>) -> Verdict {
    let began = Instant::now();
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        for number in 0..BAD {
            shared.store.set(&malformed(round * BAD + number, number))?;
            if number % (BAD / GOOD) == 0 {
                shared.store.set_all(&good(number / (BAD / GOOD), round))?;
            }
        }
        for number in 0..GOOD {
            reaches(setting, number, round)?;
        }
        memory.push(resident(setting)?);
    }
    let (settled, last) = (memory[SETTLED], memory[ROUNDS - 1]);
    if last > settled + MORE {
        return Err(format!("memory grows: KiB after each round {memory:?}").into());
    }
    let took = began.elapsed().as_secs();
    let count = ROUNDS * BAD;
    Ok(format!("{count} malformed objects in {took} s; {settled} KiB, {last} KiB in the end"))
}

fn cluster_ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 2, number as u8 + 1)
}

/// The pod of a good Service in a round.
fn pod(number: usize, round: usize) -> (String, String) {
    let which = (number + round) % 2 + 1;
    (format!("web-{which}"), format!("10.244.1.1{which}"))
}

/// A Service that is as it should be, and its slice.
fn good(number: usize, round: usize) -> [Value; 2] {
    let (name, address) = (format!("good-{number}"), cluster_ip(number));
    let (pod, at) = pod(number, round);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    });
    [service, slice(&name, json!([endpoint(&pod, &at, "node-1")]))]
}

fn slice(service: &str, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}

/// Values that some field of an object must not have.
fn poison(seed: usize) -> Value {
    let values = [
        json!(null),
        json!(-1),
        json!(0),
        json!(70_000),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("10.96.0.300"),
        json!("::ffff:10.96.0.1"),
        json!("0.0.0.0"),
        json!("127.0.0.1"),
        json!("224.0.0.1"),
        json!("x".repeat(5000)),
        json!("\u{0}\u{1}\u{fffd}\n"),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({"a": {"b": []}}),
        json!(true),
    ];
    values[seed % values.len()].clone()
}

/// A Service or a slice one of whose fields has a value that it must not have.
fn malformed(seed: usize, number: usize) -> Value {
    const OF_SERVICE: [&str; 14] = [
        "/spec/clusterIP",
        "/spec/clusterIPs",
        "/spec/ports",
        "/spec/ports/0",
        "/spec/ports/0/port",
        "/spec/ports/0/protocol",
        "/spec/ports/0/nodePort",
        "/spec/type",
        "/spec/externalIPs",
        "/spec/sessionAffinity",
        "/spec/internalTrafficPolicy",
        "/spec",
        "/status",
        "/spec/loadBalancerSourceRanges",
    ];
    const OF_SLICE: [&str; 9] = [
        "/addressType",
        "/ports",
        "/ports/0",
        "/ports/0/port",
        "/endpoints",
        "/endpoints/0",
        "/endpoints/0/addresses",
        "/endpoints/0/conditions",
        "/endpoints/0/nodeName",
    ];
    let name = format!("bad-{number}");
    if number.is_multiple_of(2) {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service", "status": {},
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.3.1", "clusterIPs": ["10.96.3.1"],
                "externalIPs": [], "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "loadBalancerSourceRanges": [],
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 0}]},
        });
        put(&mut object, OF_SERVICE[seed / 2 % OF_SERVICE.len()], seed);
        return object;
    }
    let mut object = slice(&name, json!([endpoint("web-1", "10.244.1.11", "node-1")]));
    // Half of them speak of a good Service, which they must not hurt.
    if number % 4 == 1 {
        let service = format!("good-{}", number % GOOD);
        object["metadata"]["labels"]["kubernetes.io/service-name"] = service.into();
        // What of it can be read must be nothing: no endpoint has a usable address.
        object["endpoints"] = json!([{"addresses": [poison(seed)], "conditions": {"ready": true}}]);
        return object;
    }
    put(&mut object, OF_SLICE[seed / 2 % OF_SLICE.len()], seed);
    object
}

fn put(object: &mut Value, pointer: &str, seed: usize) {
    if let Some(place) = object.pointer_mut(pointer) {
        *place = poison(seed);
    }
}

/// Waits until a good Service is answered by the pod of this round, and only by it.
fn reaches(setting: &Setting, number: usize, round: usize) -> Result<(), super::Stop> {
    let from = setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let to = (cluster_ip(number), 80).into();
    let (wanted, _) = pod(number, round);
    eventually(|| {
        (0..4).find_map(|_| match from.run(|| ask(Transport::Tcp, to, PATIENCE)) {
            Outcome::Answered(answer) if answer.pod == wanted => None,
            other => Some(format!("{to}, which is {wanted}: {other:?}")),
        })
    })
}

/// Resident memory of kube-proxy, in KiB.
fn resident(setting: &Setting) -> Result<u64, String> {
    let id = setting.proxy.as_ref().ok_or("it is not running")?.process.id();
    let status =
        std::fs::read_to_string(format!("/proc/{id}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| "the kernel says nothing of its memory".to_owned())
}
