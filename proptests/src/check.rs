//! `check_flow(cluster text, packet, expected fate)`: one line of a readable table.
//! The cluster is shorthand, one object a line. Knows no rule. Tests: `tests/flows.rs`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

use kube_proxy::kernel::Socket;
use kube_proxy::model::{Family, LocalDetector, NodePortAddresses, Protocol};

use crate::cluster::Setup;
use crate::fate::{Entry, Masquerade, Packet, Promise};
use crate::generate::Case;
use crate::oracle::promise;
use crate::run::judge;
use crate::sim_heart::SimHeart;
use crate::vectors::ARRIVAL;
use crate::world::Objects;

/// Holds a packet's fate against what is expected, in the oracle and on the simulated kernel.
///
/// * `cluster`: one object a line. `node KEY=VALUE…` (`pods=CIDR`, `zone=`, `nodeports=CIDR`,
///   `masquerade-all=true`), `service NAME KEY=VALUE…` (`ip=`, `port=80/TCP`, `nodeport=`,
///   `external=`, `lb=`, `from=CIDR`, `etp=Local`, `itp=Local`, `created=`, `health=`),
///   `endpoint SERVICE ADDRESS:PORT [here] [unready] [leaving] [zone=Z] [node=N]`, `cidr CIDR`.
///   Keys may come several times.
/// * `packet`: `SOURCE -> ADDRESS:PORT/PROTOCOL`.
/// * `fate`: `reject`, `drop`, `accept`, `untouched`, or `ADDRESS:PORT…` with ` masqueraded` behind.
///
/// # Panics
///
/// If the fate is another, with the world it came about in.
#[track_caller]
pub fn check_flow(cluster: &str, packet: &str, fate: &str) {
    let checked = check(cluster, packet, fate);
    if let Err(why) = checked {
        panic!("{packet} => {fate}\n{why}\nin\n{cluster}");
    }
}

fn check(cluster: &str, packet: &str, fate: &str) -> Result<(), String> {
    let (setup, objects) = read_cluster(cluster)?;
    let packet = read_packet(packet, &setup)?;
    let expected = read_fate(fate)?;
    let says = promise(&objects.cluster(), &setup, &packet);
    if says != expected {
        return Err(format!("the oracle says: {says}"));
    }
    let mut said = String::new();
    let tally = judge(&Case { setup, objects }, &[packet], &mut SimHeart, &mut said);
    if tally.failed == 0 { Ok(()) } else { Err(said) }
}

/// The words behind the first of a line: `key=value`, or a bare word.
struct Words<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Words<'a> {
    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| *k == key).map(|(_, v)| *v)
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|(k, _)| *k == word)
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<Vec<T>, String> {
        self.all(key).map(|v| v.parse().map_err(|_| format!("{key}={v} is none"))).collect()
    }
}

fn read_cluster(text: &str) -> Result<(Setup, Objects), String> {
    let mut setup = Setup {
        addresses: vec![[192, 168, 0, 2].into(), "2001:db8::1".parse().map_err(|_| "constant")?],
        ..Setup::default()
    };
    let mut objects = Objects::default();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let words = Words(words.map(|w| w.split_once('=').unwrap_or((w, ""))).collect());
        match kind {
            "node" => node(&mut setup, &words)?,
            "service" => objects.services.push(service(&words)?),
            "endpoint" => {
                let number = objects.slices.len();
                objects.slices.push(endpoint(&words, number, &setup)?);
            }
            "cidr" => {
                let cidrs: Vec<&str> = words.0.iter().map(|(k, _)| *k).collect();
                let name = format!("cidr-{}", objects.service_cidrs.len());
                objects
                    .service_cidrs
                    .push(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}}));
            }
            other => return Err(format!("unknown object {other:?}")),
        }
    }
    Ok((setup, objects))
}

fn node(setup: &mut Setup, words: &Words) -> Result<(), String> {
    let pods: Vec<IpNet> = words.parsed("pods")?;
    if !pods.is_empty() {
        setup.detector = LocalDetector::Cidrs(pods);
    }
    setup.zone = words.all("zone").next().unwrap_or_default().to_owned();
    setup.node_port_addresses = NodePortAddresses::Cidrs(words.parsed("nodeports")?);
    setup.masquerade_all = words.all("masquerade-all").any(|v| v == "true");
    setup.addresses.extend(words.parsed::<IpAddr>("address")?);
    Ok(())
}

fn name<'a>(words: &Words<'a>) -> Result<&'a str, String> {
    words.0.first().map(|(name, _)| *name).ok_or_else(|| "a name is missing".to_owned())
}

fn service(words: &Words) -> Result<Value, String> {
    let ips: Vec<&str> = words.all("ip").collect();
    let lbs: Vec<Value> = words.all("lb").map(|ip| json!({"ip": ip})).collect();
    let node_ports: Vec<u16> = words.parsed("nodeport")?;
    let mut ports = Vec::new();
    for (index, port) in words.all("port").enumerate() {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
        let number: u16 = number.parse().map_err(|_| format!("port={port} is none"))?;
        let name = format!("p{number}-{}", protocol.to_lowercase());
        let mut value = json!({"name": name, "port": number, "protocol": protocol});
        if let Some(node_port) = node_ports.get(index) {
            value["nodePort"] = json!(node_port);
        }
        ports.push(value);
    }
    let kind = match (lbs.is_empty(), node_ports.is_empty()) {
        (false, _) => "LoadBalancer",
        (true, false) => "NodePort",
        (true, true) => "ClusterIP",
    };
    let first = |key: &str| words.all(key).next();
    let health: Option<u16> = words.parsed("health")?.first().copied();
    Ok(json!({
        "metadata": {
            "namespace": "default", "name": name(words)?, "creationTimestamp": first("created"),
        },
        "spec": {
            "type": kind, "clusterIP": ips.first(), "clusterIPs": ips, "ports": ports,
            "externalIPs": words.all("external").collect::<Vec<_>>(),
            "loadBalancerSourceRanges": words.all("from").collect::<Vec<_>>(),
            "externalTrafficPolicy": first("etp"), "internalTrafficPolicy": first("itp"),
            "healthCheckNodePort": health,
        },
        "status": {"loadBalancer": {"ingress": lbs}},
    }))
}

fn endpoint(words: &Words, number: usize, setup: &Setup) -> Result<Value, String> {
    let (socket, _) = words.0.get(1).ok_or("an endpoint needs ADDRESS:PORT")?;
    let socket: SocketAddr = socket.parse().map_err(|_| format!("{socket} is no socket"))?;
    let hints = |key: &str| words.all(key).map(|n| json!({"name": n})).collect::<Vec<_>>();
    let names: Vec<&str> = words.all("for").collect();
    let ports: Vec<Value> = names
        .iter()
        .map(|n| {
            let protocol = n.rsplit_once('-').map_or("TCP".to_owned(), |(_, p)| p.to_uppercase());
            json!({"name": n, "port": socket.port(), "protocol": protocol})
        })
        .collect();
    let default = [json!({"name": "p80-tcp", "port": socket.port(), "protocol": "TCP"})];
    let ready = !words.has("unready") && !words.has("leaving");
    Ok(json!({
        "metadata": {
            "namespace": "default", "name": format!("slice-{number}"),
            "labels": {"kubernetes.io/service-name": name(words)?},
        },
        "addressType": if socket.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": if ports.is_empty() { default.to_vec() } else { ports },
        "endpoints": [{
            "addresses": [socket.ip()],
            "nodeName": if words.has("here") { setup.node_name.as_str() } else { "elsewhere" },
            "conditions": {
                "ready": ready, "serving": !words.has("unready"),
                "terminating": words.has("leaving"),
            },
            "hints": {"forZones": hints("zone"), "forNodes": hints("node")},
        }],
    }))
}

fn read_packet(text: &str, setup: &Setup) -> Result<Packet, String> {
    let bad = || format!("{text:?} is no packet: SOURCE -> ADDRESS:PORT/PROTOCOL");
    let (source, rest) = text.split_once(" -> ").ok_or_else(bad)?;
    let (target, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
    let target: SocketAddr = target.trim().parse().map_err(|_| bad())?;
    let source: IpAddr = source.trim().parse().map_err(|_| bad())?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.to_string() == protocol).ok_or_else(bad)?;
    if Family::of(source) != Family::of(target.ip()) {
        return Err(bad());
    }
    let entry = if setup.is_own(source) { Entry::Node } else { Entry::Link(ARRIVAL.to_owned()) };
    Ok(Packet { entry, source, protocol, dest: target.ip(), port: target.port() })
}

fn read_fate(text: &str) -> Result<Promise, String> {
    match text {
        "reject" => return Ok(Promise::Reject),
        "drop" => return Ok(Promise::Drop),
        "accept" => return Ok(Promise::Accept),
        "untouched" => return Ok(Promise::Untouched),
        _ => {}
    }
    let (sockets, masquerade) = match text.strip_suffix(" masqueraded") {
        Some(sockets) => (sockets, Masquerade::Yes),
        None => (text, Masquerade::No),
    };
    let sockets: Vec<Socket> = sockets
        .split_whitespace()
        .map(|s| s.parse::<SocketAddr>().map_err(|_| format!("{s} is no fate")))
        .map(|s| s.map(|s| Socket { address: s.ip(), port: s.port() }))
        .collect::<Result<_, _>>()?;
    Ok(Promise::dnat(sockets, masquerade))
}
