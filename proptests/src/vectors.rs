//! Files of packet-flow vectors: one cluster state a line, with packets and fates. Read strictly:
//! a key that is not known is an error with its place. Knows no proxy and no kernel.
//! Format: `vectors/README.md`. Tests: below and `tests/vectors.rs`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use kube_proxy::kernel::Socket;
use kube_proxy::model::{Family, LocalDetector, NodePortAddresses, Protocol};

use crate::cluster::{Cluster, Mode, Setup, Steering};
use crate::fate::{Masquerade, Packet, Promise};
use crate::oracle::entry;
use crate::world::Objects;

/// Name of the interface on which vectors' packets arrive: they name none.
pub const ARRIVAL: &str = "src0";

/// One line: a state and its flows.
#[derive(Clone, Debug)]
pub struct State {
    /// File and line.
    pub place: String,
    /// Which state it is.
    pub name: String,
    /// The node.
    pub setup: Setup,
    /// Service objects.
    pub services: Vec<Value>,
    /// EndpointSlice objects.
    pub slices: Vec<Value>,
    /// The packets.
    pub flows: Vec<Flow>,
}

/// One packet and what the vector says of it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its name.
    pub name: String,
    /// The packet.
    pub packet: Packet,
    /// The fate by the rules of iptables mode.
    pub claimed: Promise,
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(
    /// Place and reason in one line.
    pub String,
);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

impl State {
    /// The objects.
    pub fn objects(&self) -> Objects {
        let (services, slices) = (self.services.clone(), self.slices.clone());
        Objects { services, slices, service_cidrs: Vec::new() }
    }

    /// The objects as the oracle reads them.
    pub fn cluster(&self) -> Cluster {
        Cluster::read(&self.services, &self.slices, &[])
    }
}

/// Reads a whole file; `file` is its name, for messages.
pub fn read(file: &str, content: &str, mode: Mode) -> Result<Vec<State>, Unreadable> {
    content
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let place = format!("{file}:{}", number + 1);
            let value: Value = serde_json::from_str(line)
                .map_err(|e| Unreadable(format!("{place}: not JSON: {e}")))?;
            state(&place, &value, mode)
        })
        .collect()
}

/// An object of which every key must be known, and the words to say where it is.
struct Strict<'a> {
    place: String,
    object: &'a Map<String, Value>,
}

impl<'a> Strict<'a> {
    fn new(place: String, value: &'a Value, known: &[&str]) -> Result<Self, Unreadable> {
        let object = value
            .as_object()
            .ok_or_else(|| Unreadable(format!("{place}: an object is wanted here")))?;
        let known: BTreeSet<&str> = known.iter().copied().collect();
        match object.keys().find(|k| !known.contains(k.as_str())) {
            Some(key) => Err(Unreadable(format!("{place}: unknown key {key:?}"))),
            None => Ok(Strict { place, object }),
        }
    }

    fn bad(&self, key: &str, wanted: &str) -> Unreadable {
        let found = self.object.get(key).unwrap_or(&Value::Null);
        Unreadable(format!("{}: key {key:?} must be {wanted}, not {found}", self.place))
    }

    fn get(&self, key: &str) -> &'a Value {
        self.object.get(key).unwrap_or(&Value::Null)
    }

    fn text(&self, key: &str) -> Result<&'a str, Unreadable> {
        self.get(key).as_str().ok_or_else(|| self.bad(key, "a text"))
    }

    fn flag(&self, key: &str) -> Result<bool, Unreadable> {
        match self.get(key) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.bad(key, "true or false")),
        }
    }

    fn list(&self, key: &str) -> Result<&'a [Value], Unreadable> {
        match self.get(key) {
            Value::Null => Ok(&[]),
            Value::Array(list) => Ok(list),
            _ => Err(self.bad(key, "a list")),
        }
    }

    /// A list of texts, each of which parses.
    fn parsed<T: std::str::FromStr>(&self, key: &str, what: &str) -> Result<Vec<T>, Unreadable> {
        self.list(key)?
            .iter()
            .map(|v| v.as_str().and_then(|t| t.parse().ok()).ok_or_else(|| self.bad(key, what)))
            .collect()
    }

    fn address(&self, key: &str) -> Result<IpAddr, Unreadable> {
        self.text(key)?.parse().map_err(|_| self.bad(key, "an IP address"))
    }
}

fn state(place: &str, value: &Value, mode: Mode) -> Result<State, Unreadable> {
    let known = ["name", "node", "config", "services", "endpointSlices", "flows"];
    let line = Strict::new(place.to_owned(), value, &known)?;
    let name = line.text("name")?.to_owned();
    let setup = setup(place, &line, mode)?;
    let (services, slices) = (line.list("services")?, line.list("endpointSlices")?);
    let cluster = Cluster::read(services, slices, &[]);
    let flows = line
        .list("flows")?
        .iter()
        .enumerate()
        .map(|(i, f)| flow(format!("{place}: flows[{i}]"), f, (&cluster, &setup)))
        .collect::<Result<_, _>>()?;
    Ok(State {
        place: place.to_owned(),
        name,
        setup,
        services: services.to_vec(),
        slices: slices.to_vec(),
        flows,
    })
}

fn setup(place: &str, line: &Strict, mode: Mode) -> Result<Setup, Unreadable> {
    let known =
        ["ipFamily", "clusterCIDR", "masqueradeAll", "localhostNodePorts", "nodePortAddresses"];
    let config = Strict::new(format!("{place}: config"), line.get("config"), &known)?;
    let known = ["name", "addresses", "topologyLabels"];
    let node = Strict::new(format!("{place}: node"), line.get("node"), &known)?;
    Ok(Setup {
        mode,
        steering: Steering::Nftables,
        families: families(&config)?,
        node_name: node.text("name")?.to_owned(),
        addresses: node.parsed("addresses", "a list of IP addresses")?,
        zone: zone(&node)?,
        detector: detector(&config)?,
        masquerade_all: config.flag("masqueradeAll")?,
        localhost_node_ports: config.flag("localhostNodePorts")?,
        node_port_addresses: NodePortAddresses::Cidrs(
            config.parsed("nodePortAddresses", "a list of CIDRs")?,
        ),
        masquerade_bit: 14,
    })
}

fn families(config: &Strict) -> Result<Vec<Family>, Unreadable> {
    match config.text("ipFamily")? {
        "IPv4" => Ok(vec![Family::V4]),
        "IPv6" => Ok(vec![Family::V6]),
        _ => Err(config.bad("ipFamily", "IPv4 or IPv6")),
    }
}

fn zone(node: &Strict) -> Result<String, Unreadable> {
    match node.get("topologyLabels") {
        Value::Null => Ok(String::new()),
        Value::Object(labels) => {
            let zone = labels.get("topology.kubernetes.io/zone");
            Ok(zone.and_then(Value::as_str).unwrap_or_default().to_owned())
        }
        _ => Err(node.bad("topologyLabels", "an object")),
    }
}

fn detector(config: &Strict) -> Result<LocalDetector, Unreadable> {
    let wanted = "a CIDR, several with commas, or null";
    match config.get("clusterCIDR") {
        Value::Null => Ok(LocalDetector::None),
        Value::String(text) if text.is_empty() => Ok(LocalDetector::None),
        Value::String(text) => {
            let cidrs: Result<Vec<IpNet>, _> = text.split(',').map(|c| c.trim().parse()).collect();
            cidrs.map(LocalDetector::Cidrs).map_err(|_| config.bad("clusterCIDR", wanted))
        }
        _ => Err(config.bad("clusterCIDR", wanted)),
    }
}

fn flow(
    place: String,
    value: &Value,
    (cluster, setup): (&Cluster, &Setup),
) -> Result<Flow, Unreadable> {
    let known = ["name", "source", "protocol", "dest", "port", "fate", "endpoints", "masquerade"];
    let flow = Strict::new(place, value, &known)?;
    let (source, dest) = (flow.address("source")?, flow.address("dest")?);
    if source.is_ipv4() != dest.is_ipv4() {
        return Err(flow.bad("dest", "of the source's family"));
    }
    let protocol = Protocol::ALL
        .into_iter()
        .find(|p| flow.get("protocol").as_str() == Some(&p.to_string()))
        .ok_or_else(|| flow.bad("protocol", "TCP, UDP or SCTP"))?;
    let port = flow
        .get("port")
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .ok_or_else(|| flow.bad("port", "a port number"))?;
    let entry = entry(cluster, setup, source, ARRIVAL);
    Ok(Flow {
        name: flow.text("name")?.to_owned(),
        packet: Packet { entry, source, protocol, dest, port },
        claimed: claimed(&flow)?,
    })
}

fn claimed(flow: &Strict) -> Result<Promise, Unreadable> {
    let fate = flow.text("fate")?;
    if fate != "dnat" {
        if !flow.get("endpoints").is_null() {
            return Err(flow.bad("endpoints", "absent unless the fate is dnat"));
        }
        return match fate {
            "reject" => Ok(Promise::Reject),
            "drop" => Ok(Promise::Drop),
            "accept" => Ok(Promise::Accept),
            "untouched" => Ok(Promise::Untouched),
            _ => Err(flow.bad("fate", "dnat, reject, drop, accept or untouched")),
        };
    }
    let masquerade = if flow.flag("masquerade")? { Masquerade::Yes } else { Masquerade::No };
    let endpoints: Vec<std::net::SocketAddr> =
        flow.parsed("endpoints", "a list of address:port")?;
    if endpoints.is_empty() {
        return Err(flow.bad("endpoints", "a list of at least one address:port"));
    }
    let sockets = endpoints.iter().map(|e| Socket { address: e.ip(), port: e.port() });
    Ok(Promise::dnat(sockets, masquerade))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fate::Entry;

    const LINE: &str = r#"{"name":"n","node":{"name":"a","addresses":["192.168.0.2"],"topologyLabels":{}},
        "config":{"ipFamily":"IPv4","clusterCIDR":null,"masqueradeAll":false,"nodePortAddresses":[]},
        "services":[],"endpointSlices":[],"flows":[{"name":"f","source":"10.0.0.1","protocol":"TCP",
        "dest":"10.0.0.2","port":80,"fate":"untouched"}]}"#;

    fn try_read(from: &str, to: &str) -> Result<Vec<State>, Unreadable> {
        read("x.jsonl", &LINE.replace(from, to).replace('\n', " "), Mode::Nftables)
    }

    #[test]
    fn a_line_is_read() {
        let states = try_read("", "").unwrap();
        assert_eq!(states[0].flows[0].claimed, Promise::Untouched);
        assert_eq!(states[0].flows[0].packet.entry, Entry::Link(ARRIVAL.into()));
    }

    #[test]
    fn unknown_keys_are_named_with_their_place() {
        for (from, to, says) in [
            ("\"flows\":", "\"flow\":", "x.jsonl:1: unknown key \"flow\""),
            ("\"masqueradeAll\"", "\"masqAll\"", "x.jsonl:1: config: unknown key \"masqAll\""),
            ("\"topologyLabels\"", "\"labels\"", "x.jsonl:1: node: unknown key \"labels\""),
            ("\"dest\"", "\"to\"", "x.jsonl:1: flows[0]: unknown key \"to\""),
        ] {
            assert_eq!(try_read(from, to).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn bad_values_are_named() {
        let message = try_read("\"untouched\"", "\"lost\"").unwrap_err().to_string();
        assert!(message.starts_with("x.jsonl:1: flows[0]: key \"fate\" must be"), "{message}");
        assert!(try_read("\"IPv4\"", "\"IPv5\"").is_err());
        assert!(try_read("10.0.0.2", "fd00::1").is_err());
    }
}
