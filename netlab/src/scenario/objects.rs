//! Objects that are wrong or disagree: one bad apple, two Services for one address, flows that
//! outlive their endpoint.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, Scenario, Verdict, eventually, scenario, told};
use crate::client::{answer_of, ask_udp_again};
use crate::probe::Probe;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("conflict-older-wins", conflict),
    scenario("bad-objects-harm-nobody", bad),
    scenario("udp-flow-moves-on", udp_moves),
];

const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";

/// A Service with an external IP, and its slice with one pod of the examples.
pub(super) fn claimant(name: &str, created: &str, (number, pod): (u8, &str)) -> [Value; 2] {
    let address = format!("10.96.1.{number}");
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "externalIPs": ["198.51.100.77"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [crate::scale::endpoint(pod, &format!("10.244.1.1{}", &pod[4..]), "node-1")],
    });
    [service, slice]
}

/// The older Service has the later name and is told of later, and still wins.
fn conflict(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let young = claimant("a-young", "2026-05-05T00:00:00Z", (1, "web-1"));
    let old = claimant("z-old", "2026-01-01T00:00:00Z", (2, "web-2"));
    let verdict = fight(&mut setting, (&young, &old));
    told(&setting, verdict)
}

fn fight(setting: &mut Setting, (young, old): (&[Value; 2], &[Value; 2])) -> Verdict {
    let is_young = Probe::parse("tcp from outside to 198.51.100.77:80 reaches web-1 as any")?;
    let is_old = Probe::parse("tcp from outside to 198.51.100.77:80 reaches web-2 as any")?;
    put(setting, young)?;
    setting.start_proxy()?;
    setting.wait_for(&is_young)?;
    for _ in 0..2 {
        put(setting, old)?;
        setting.wait_for(&is_old)?;
        // Neither a change of the younger nor a restart turns it around.
        put(setting, young)?;
        setting.edit("Service", "a-young", |s| s["metadata"]["labels"] = json!({"x": "y"}))?;
        setting.wait_for(&is_old)?;
        setting.proxy = None;
        setting.start_proxy()?;
        setting.wait_for(&is_old)?;
        setting.wait_for(&Probe::parse("tcp from dns-1 to 10.96.1.1:80 reaches web-1 as any")?)?;
        setting.manifests.remove("Service", "z-old");
        setting.publish()?;
        setting.wait_for(&is_young)?;
    }
    Ok(String::new())
}

fn put(setting: &mut Setting, objects: &[Value]) -> Result<(), String> {
    for object in objects {
        setting.manifests.put(object.clone());
    }
    setting.publish()
}

/// Objects that are wrong in one field each, and what must not become of the others.
fn bad(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let service = |name: &str, spec: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    let port = json!({"name": "http", "protocol": "TCP", "port": 80});
    let mut wrong = vec![
        service(
            "bad-address",
            json!({"clusterIP": "10.96.0.999", "clusterIPs": ["10.96.0.999"], "ports": [port]}),
        ),
        service(
            "bad-port",
            json!({"clusterIP": "10.96.2.2", "clusterIPs": ["10.96.2.2"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 70000}]}),
        ),
        service(
            "bad-protocol",
            json!({"clusterIP": "10.96.2.3", "clusterIPs": ["10.96.2.3"],
            "ports": [{"name": "http", "protocol": "QUIC", "port": 80}]}),
        ),
        service(
            "bad-ranges",
            json!({"type": "LoadBalancer", "clusterIP": "10.96.2.4",
            "clusterIPs": ["10.96.2.4"], "ports": [port],
            "loadBalancerSourceRanges": ["10.0.0.0/99", "nonsense"]}),
        ),
        service("bad-shape", json!({"clusterIP": 42, "ports": "none"})),
        json!({"apiVersion": "v9", "kind": "Nonsense", "metadata": {"name": "x"}}),
        json!({"apiVersion": "v1", "kind": "Service"}),
    ];
    wrong.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "bad-slice", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.1.999"]}, {"addresses": []}, {"addresses": "x"}]}));
    let text: Vec<String> = wrong.iter().map(|o| format!("{o:#}\n")).collect();
    setting.write_file("a-bad.yaml", &text.join("---\n"))?;
    setting.write_file("b-bad.yaml", "this: is: not: yaml\n\t{[")?;
    setting.write_file("c-bad.json", "{\"kind\": \"Service\", ")?;
    setting.start_proxy()?;
    let verdict = setting.wait_for(&Probe::parse(WEB)?).and_then(|_| {
        let last = "tcp from outside to 198.51.100.10:80 reaches web-1 web-2 web-3 as node";
        setting.wait_for(&Probe::parse(last)?)
    });
    // Packets may be through before the log is written.
    let unsaid = || {
        let said = setting.proxy.as_ref().map(|p| p.process.said()).unwrap_or_default();
        let missing =
            ["bad-address", "bad-port", "bad-slice"].into_iter().find(|n| !said.contains(n));
        missing.map(|name| format!("nothing was said of {name}"))
    };
    let verdict = verdict
        .map_err(super::Stop::Failed)
        .and_then(|_| eventually(unsaid))
        .map(|()| String::new());
    told(&setting, verdict)
}

/// A UDP client that never changes its port must not go on talking to an endpoint that left.
fn udp_moves(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    let dns = "udp from web-1 to 10.96.0.53:53 reaches dns-1 dns-2 as itself";
    setting.wait_for(&Probe::parse(dns)?)?;
    let from = setting.lab.place("web-1").ok_or("no web-1")?.clone();
    let socket = from
        .run(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .map_err(|e| format!("UDP socket: {e}"))?;
    socket.connect("10.96.0.53:53").map_err(|e| format!("UDP socket: {e}"))?;
    let patience = Duration::from_secs(1);
    let ask = || {
        let (line, own) = ask_udp_again(&socket, patience).ok()?;
        answer_of(&line, own).map(|a| a.pod)
    };
    let first = ask().ok_or("no answer to the first datagram")?;
    setting.edit("EndpointSlice", "dns-ipv4", |slice| {
        if let Some(endpoints) = slice["endpoints"].as_array_mut() {
            endpoints.retain(|e| e["targetRef"]["name"] != first.as_str());
        }
    })?;
    let verdict = eventually(|| match ask() {
        Some(pod) if pod != first => None,
        other => Some(format!("{first} has left, and the flow still reaches {other:?}")),
    });
    told(&setting, verdict.map(|()| String::new()))
}
