//! What comes from an API server that behaves well and is seen elsewhere than in an endpoint's
//! coming and going: conflicts told back, the node's zone, ranges of cluster IPs, TLS with a token.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::faults::tool;
use super::objects::claimant;
use super::{Bench, Scenario, Verdict, eventually, scenario, told, unharmed};
use crate::apiserver::store::Resource;
use crate::apiserver::{ApiServer, Manners, Shared, tls};
use crate::client::Outcome;
use crate::load::{Load, ask};
use crate::manifests::Transport;
use crate::page::fetch;
use crate::plan;
use crate::probe::Probe;
use crate::proxy::{Input, KubeProxy, Start};
use crate::scale::endpoint;
use crate::setting::Setting;

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("conflict-is-told", |bench| play(bench, conflict)),
    scenario("zone-moves-traffic", |bench| play(bench, zone)),
    scenario("node-moves-and-leaves", |bench| play(bench, node_moves)),
    scenario("service-cidr-comes-and-goes", |bench| play(bench, service_cidr)),
    scenario("api-over-tls-with-token", over_tls),
];

/// Where the metrics are, in the node.
const METRICS: &str = "127.0.0.1:10249";
const HEALTHZ: &str = "127.0.0.1:10256";
const WEB: &str = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-2 web-3 as itself";

/// The examples, in an API server.
struct Served {
    setting: Setting,
    shared: Arc<Shared>,
    server: ApiServer,
}

fn play(bench: &Bench, act: fn(&mut Served) -> Verdict) -> Verdict {
    let setting = bench.examples()?;
    let shared = Shared::new(Manners::default());
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start(listener(&setting, 6443)?, shared.clone())?;
    let mut served = Served { setting, shared, server };
    let verdict = act(&mut served);
    told(&served.setting, verdict)
}

/// A listener in the node, where kube-proxy looks for its API server.
pub(super) fn listener(setting: &Setting, port: u16) -> Result<TcpListener, String> {
    let bind = || TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port));
    setting.lab.node.run(bind).map_err(|e| format!("API server: {e}"))
}

impl Served {
    fn start(&mut self, flags: &[&str]) -> Result<(), String> {
        self.setting.start_proxy_on(&self.server.url(), flags)
    }

    fn set(&self, objects: &[Value]) -> Result<(), String> {
        self.shared.store.set_all(objects)
    }

    fn wait_for(&mut self, probe: &str) -> Result<(), String> {
        self.setting.wait_for(&Probe::parse(probe)?).map(|_| ())
    }

    /// What is missing until a metric has this figure.
    fn metric_is_not(&self, name: &str, wanted: &str) -> Option<String> {
        let metrics: SocketAddr = METRICS.parse().expect("well-formed");
        match self.setting.lab.node.run(|| fetch(metrics, "/metrics")) {
            Err(why) => Some(why),
            Ok(page) if page.figure(name) == Some(wanted) => None,
            Ok(page) => Some(format!("{name} is {:?}, not {wanted}", page.figure(name))),
        }
    }

    /// Waits until the metrics count so many conflicts.
    fn conflicts_are(&self, wanted: &str) -> Result<(), super::Stop> {
        eventually(|| {
            self.metric_is_not("kubeproxy_address_conflicts", wanted).or_else(|| {
                self.metric_is_not("kubeproxy_notices{reason=\"AddressConflict\"}", wanted)
            })
        })
    }

    /// Waits until `/healthz` answers with this status.
    fn healthz_is(&self, wanted: u16) -> Result<(), super::Stop> {
        let at: SocketAddr = HEALTHZ.parse().expect("well-formed");
        eventually(|| match self.setting.lab.node.run(|| fetch(at, "/healthz")) {
            Err(why) => Some(why),
            Ok(page) if page.status == wanted => None,
            Ok(page) => Some(format!("/healthz answers {}, not {wanted}", page.status)),
        })
    }

    /// The Events about conflicts that were written.
    fn conflict_events(&self) -> Vec<Value> {
        let mut events = self.shared.written();
        events.retain(|e| e["reason"] == "AddressConflict");
        events
    }
}

/// The younger of two Services that claim one address is told of it, once, and the metrics count
/// it for as long as it lasts.
fn conflict(served: &mut Served) -> Verdict {
    let young = claimant("a-young", "2026-05-05T00:00:00Z", (1, "web-1"));
    let old = claimant("z-old", "2026-01-01T00:00:00Z", (2, "web-2"));
    served.set(&young)?;
    served.start(&[&format!("--metrics-bind-address={METRICS}")])?;
    served.wait_for("tcp from outside to 198.51.100.77:80 reaches web-1 as any")?;
    served.conflicts_are("0")?;
    for _ in 0..2 {
        served.set(&old)?;
        served.wait_for("tcp from outside to 198.51.100.77:80 reaches web-2 as any")?;
        served.conflicts_are("1")?;
        served.shared.store.delete(Resource::Services, "default", "z-old");
        served.wait_for("tcp from outside to 198.51.100.77:80 reaches web-1 as any")?;
        served.conflicts_are("0")?;
    }
    eventually(|| served.conflict_events().is_empty().then(|| "no Event was written".to_owned()))?;
    let events = served.conflict_events();
    // Said once: the second time is within minutes of the first.
    let [event] = &events[..] else { return Err(format!("not one Event: {events:?}").into()) };
    let regarding =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "a-young"});
    let note = event["note"].as_str().unwrap_or_default();
    let right = event["regarding"] == regarding
        && event["type"] == "Warning"
        && event["metadata"]["namespace"] == "default"
        && event["reportingInstance"] == plan::NODE
        && note.contains("198.51.100.77")
        && note.contains("z-old");
    if right { Ok(note.to_owned()) } else { Err(format!("not as it must be: {event}").into()) }
}

/// A Service with a pod in each zone, hinted for that zone only.
fn hinted() -> [Value; 2] {
    let pod = |(name, address, node): (&str, &str, &str), zone: &str| {
        let mut pod = endpoint(name, address, node);
        pod["zone"] = zone.into();
        pod["hints"] = json!({"forZones": [{"name": zone}]});
        pod
    };
    let [mut service, mut slice] = claimant("zoned", "2026-05-05T00:00:00Z", (3, "web-1"));
    service["spec"]["externalIPs"] = json!([]);
    slice["endpoints"] = json!([
        pod(("web-1", "10.244.1.11", "node-1"), "zone-a"),
        pod(("web-3", "10.244.2.13", "node-2"), "zone-b"),
    ]);
    [service, slice]
}

/// The node's zone label changes while everything runs: traffic follows, and none is lost.
fn zone(served: &mut Served) -> Verdict {
    served.set(&hinted())?;
    served.start(&[])?;
    served.wait_for("tcp from dns-1 to 10.96.1.3:80 reaches web-1 as itself")?;
    // A pod of this node: what answers a pod of the other one from there never comes back through us.
    let from = served.setting.lab.place("web-2").ok_or("no web-2")?.clone();
    let to = "10.96.1.3:80".parse().expect("well-formed");
    let load = Load::start(&from, Transport::Tcp, to, Duration::from_millis(3));
    let verdict = travel(served);
    let attempts = load.stop();
    verdict.and_then(|_| unharmed(&attempts, &[]))
}

fn travel(served: &mut Served) -> Verdict {
    let known = served.setting.manifests.get("Node", plan::NODE).ok_or("no node")?.clone();
    // A zone that no endpoint is hinted for, and none at all, mean everywhere.
    let steps = [
        (json!("zone-b"), "web-3"),
        (json!("zone-c"), "web-1 web-3"),
        (json!("zone-a"), "web-1"),
        (Value::Null, "web-1 web-3"),
        (json!("zone-b"), "web-3"),
    ];
    for (zone, pods) in steps {
        let mut node = known.clone();
        let labels = node["metadata"]["labels"].as_object_mut().ok_or("a node without labels")?;
        labels.remove("topology.kubernetes.io/zone");
        if !zone.is_null() {
            labels.insert("topology.kubernetes.io/zone".to_owned(), zone);
        }
        served.set(&[node])?;
        served.wait_for(&format!("tcp from dns-1 to 10.96.1.3:80 reaches {pods} as itself"))?;
    }
    Ok(String::new())
}

/// The node gets another address while everything runs: node ports go with it. When it is to leave,
/// load balancers are told.
fn node_moves(served: &mut Served) -> Verdict {
    served
        .start(&["--nodeport-addresses=primary", &format!("--healthz-bind-address={HEALTHZ}")])?;
    served.wait_for("tcp from outside to 172.18.1.2:30080 reaches web-1 web-2 web-3 as node")?;
    served.healthz_is(200)?;
    tool(&served.setting, "ip", "address add 172.18.1.9/24 dev eth0")?;
    let mut node = served.setting.manifests.get("Node", plan::NODE).ok_or("no node")?.clone();
    node["status"]["addresses"][0]["address"] = "172.18.1.9".into();
    served.set(&[node.clone()])?;
    served.wait_for("tcp from outside to 172.18.1.9:30080 reaches web-1 web-2 web-3 as node")?;
    served.wait_for("tcp from outside to 172.18.1.2:30080 is refused")?;
    let whole = node.clone();
    let taint = json!({"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"});
    node["spec"]["taints"] = json!([taint]);
    served.set(&[node])?;
    served.healthz_is(503)?;
    served.set(&[whole])?;
    served.healthz_is(200)?;
    served.shared.store.delete(Resource::Nodes, "", plan::NODE);
    served.healthz_is(503)?;
    // It carries what still comes.
    served.wait_for("tcp from outside to 172.18.1.9:30080 reaches web-1 web-2 web-3 as node")?;
    Ok(String::new())
}

/// An address of a range is dropped as soon as the range is known, and goes on into the network as
/// soon as it is not: there two routers send it back and forth until one says so.
fn service_cidr(served: &mut Served) -> Verdict {
    let range = served.setting.manifests.get("ServiceCIDR", "kubernetes").ok_or("no range")?;
    let range = range.clone();
    served.shared.store.delete(Resource::ServiceCidrs, "", "kubernetes");
    served.start(&[])?;
    served.wait_for(WEB)?;
    let from = served.setting.lab.place("dns-1").ok_or("no dns-1")?.clone();
    let to = "10.96.200.1:80".parse().expect("well-formed");
    let patience = Duration::from_millis(300);
    let silent = || from.run(|| ask(Transport::Tcp, to, patience)) == Outcome::Silence;
    let mut took = Vec::new();
    for _ in 0..2 {
        eventually(|| silent().then(|| format!("{to} is dropped, and is in no range")))?;
        let began = Instant::now();
        served.set(std::slice::from_ref(&range))?;
        let mut first = began;
        eventually(|| {
            first = Instant::now();
            (!silent()).then(|| format!("{to} is not dropped, and is in a range"))
        })?;
        took.push(first.duration_since(began));
        served.wait_for("tcp from dns-1 to 10.96.0.10:81 is refused")?;
        served.wait_for(WEB)?;
        served.shared.store.delete(Resource::ServiceCidrs, "", "kubernetes");
    }
    eventually(|| silent().then(|| format!("{to} is dropped, and is in no range")))?;
    let longest = took.into_iter().max().unwrap_or_default();
    Ok(format!("dropped at most {} ms after the object came", longest.as_millis()))
}

/// A kubeconfig with a CA and a token: lists, watches and Events go through TLS.
fn over_tls(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    let token = Some("netlab-token".to_owned());
    let shared = Shared::new(Manners { token, ..Manners::default() });
    shared.store.set_all(setting.manifests.objects())?;
    let server = ApiServer::start_tls(listener(&setting, 6443)?, shared.clone())?;
    let file = kubeconfig(&setting, (&server.url(), tls::CA, "netlab-token"))?;
    let start = Start { input: file, ..setting.start(&[]) };
    setting.proxy = Some(KubeProxy::start(&setting.lab, &start)?);
    let verdict = through_tls(&mut setting, &shared);
    told(&setting, verdict)
}

fn through_tls(setting: &mut Setting, shared: &Shared) -> Verdict {
    setting.wait_for(&Probe::parse(WEB)?)?;
    let mut slice = setting.manifests.get("EndpointSlice", "web-ipv4").ok_or("no slice")?.clone();
    let pods = slice["endpoints"].as_array_mut().ok_or("no endpoints")?;
    pods.retain(|e| e["targetRef"]["name"] != "web-2");
    shared.store.set(&slice)?;
    let fewer = "tcp from dns-1 to 10.96.0.10:80 reaches web-1 web-3 as itself";
    setting.wait_for(&Probe::parse(fewer)?)?;
    for object in claimant("a-young", "2026-05-05T00:00:00Z", (1, "web-1")) {
        shared.store.set(&object)?;
    }
    shared.store.set(&claimant("z-old", "2026-01-01T00:00:00Z", (2, "web-2"))[0])?;
    for reason in ["Starting", "AddressConflict"] {
        let told = || shared.written().iter().any(|event| event["reason"] == reason);
        eventually(|| (!told()).then(|| format!("no Event {reason} was written")))?;
    }
    let paths: BTreeSet<String> = shared.requests().into_iter().map(|r| r.line).collect();
    Ok(format!("{} different requests", paths.len()))
}

/// Writes a kubeconfig for a server, with the CA to trust and the token to show.
pub(super) fn kubeconfig(
    setting: &Setting,
    (url, ca, token): (&str, &str, &str),
) -> Result<Input, String> {
    let folder = setting.scratch.path();
    let (ca_file, file) = (folder.join("ca.pem"), folder.join("kubeconfig"));
    let text = tls::kubeconfig(url, &ca_file.display().to_string(), token).to_string();
    for (path, text) in [(&ca_file, ca), (&file, text.as_str())] {
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(Input::Kubeconfig(file))
}
