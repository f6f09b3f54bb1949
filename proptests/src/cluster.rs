//! The API's objects as the oracle reads them: its own small parse of the JSON, field by field from
//! the API reference. Must never use `kube_proxy`'s decoder, tracker or topology: a mistake there
//! has to show as a difference. Tests: with the oracle.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde_json::Value;

use kube_proxy::model::{Family, LocalDetector, NodePortAddresses, Protocol};

/// Whose rules of behaviour hold, where proxy modes differ. The vectors were taken from iptables mode.
pub use kube_proxy::model::{Mode, Steering};

/// A mode, and whose rules lead packets in it.
pub type Way = (Mode, Steering);

/// All ways with the words for them.
pub const WAYS: [(&str, Way); 5] = [
    ("iptables", (Mode::Iptables, Steering::Nftables)),
    ("ipvs", (Mode::Ipvs, Steering::Nftables)),
    ("nftables", (Mode::Nftables, Steering::Nftables)),
    ("userspace", (Mode::Userspace, Steering::Nftables)),
    ("userspace-iptables", (Mode::Userspace, Steering::Iptables)),
];

/// The node and how its proxy was set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Proxy mode.
    pub mode: Mode,
    /// Whose rules lead packets in userspace mode.
    pub steering: Steering,
    /// Families that are proxied.
    pub families: Vec<Family>,
    /// This node's name.
    pub node_name: String,
    /// The Node object's addresses; the host has them too.
    pub addresses: Vec<IpAddr>,
    /// The node's zone, empty for none.
    pub zone: String,
    /// How local pods are told from the rest.
    pub detector: LocalDetector,
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    /// NodePorts on loopback addresses (iptables mode and IPv4 only).
    pub localhost_node_ports: bool,
    /// Which local addresses take NodePort traffic.
    pub node_port_addresses: NodePortAddresses,
    /// The mark's bit.
    pub masquerade_bit: u8,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            mode: Mode::Nftables,
            steering: Steering::Nftables,
            families: Family::ALL.to_vec(),
            node_name: "test-node".into(),
            addresses: vec![[192, 168, 0, 2].into()],
            zone: String::new(),
            detector: LocalDetector::None,
            masquerade_all: false,
            localhost_node_ports: false,
            node_port_addresses: NodePortAddresses::Cidrs(Vec::new()),
            masquerade_bit: 14,
        }
    }
}

impl Setup {
    /// The word for its mode and whose rules lead packets in it.
    pub fn word(&self) -> &'static str {
        let way = (self.mode, self.steering);
        WAYS.iter().find(|(_, known)| *known == way).map_or(self.mode.as_str(), |(word, _)| word)
    }

    /// The mode whose kind of rules packets meet.
    pub fn rules(&self) -> Mode {
        self.mode.rules(self.steering)
    }

    /// Whether the host has this address.
    pub fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// The node's first address of a family.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(*a) == family)
    }
}

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name, empty for none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the Service's addresses.
    pub port: u16,
    /// Its number on the node's addresses; 0 for none.
    pub node_port: u16,
}

/// A Service that has something to proxy.
#[derive(Clone, Debug)]
pub struct Service {
    /// Age, then namespace and name: the smallest wins a conflict.
    pub seniority: (i64, String, String),
    /// Cluster IPs, external IPs and load balancer IPs, each of both families.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` that are virtual IPs.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// `externalTrafficPolicy: Local`, where it counts.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `healthCheckNodePort`, where it counts; else 0.
    pub health_port: u16,
    /// The ports.
    pub ports: Vec<Port>,
}

/// One endpoint address with the ports of its slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Namespace and name of the Service.
    pub service: (String, String),
    /// Its address.
    pub address: IpAddr,
    /// Ports of the slice: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
    /// `nodeName`, empty for none.
    pub node: String,
    /// Conditions, defaulted.
    pub ready: bool,
    /// See `ready`.
    pub serving: bool,
    /// See `ready`.
    pub terminating: bool,
    /// `hints.forZones`.
    pub zones: Vec<String>,
    /// `hints.forNodes`.
    pub nodes: Vec<String>,
}

/// A cluster as the oracle reads it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Services, most senior first.
    pub services: Vec<Service>,
    /// Endpoints in the order of their slices' names.
    pub endpoints: Vec<Endpoint>,
    /// CIDRs of ServiceCIDR objects.
    pub service_cidrs: Vec<IpNet>,
}

impl Cluster {
    /// Reads Services and EndpointSlices (and ServiceCIDRs) as the API server sends them.
    pub fn read(services: &[Value], slices: &[Value], service_cidrs: &[Value]) -> Cluster {
        let mut cluster = Cluster {
            services: services.iter().filter_map(service).collect(),
            endpoints: Vec::new(),
            service_cidrs: service_cidrs
                .iter()
                .flat_map(|c| texts(&c["spec"]["cidrs"]))
                .filter_map(|c| c.parse().ok())
                .collect(),
        };
        cluster.services.sort_by(|a, b| a.seniority.cmp(&b.seniority));
        let mut ordered: Vec<&Value> = slices.iter().collect();
        ordered.sort_by_key(|s| text(&s["metadata"]["name"]));
        cluster.endpoints = ordered.into_iter().flat_map(slice).collect();
        cluster
    }
}

fn service(object: &Value) -> Option<Service> {
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    if !meta["labels"]["service.kubernetes.io/service-proxy-name"].is_null()
        || !meta["labels"]["service.kubernetes.io/headless"].is_null()
        || spec["type"] == "ExternalName"
    {
        return None;
    }
    let mut cluster_ips = addresses(&spec["clusterIPs"]);
    if cluster_ips.is_empty() {
        cluster_ips.extend(address(&spec["clusterIP"]));
    }
    if cluster_ips.is_empty() {
        return None;
    }
    let external_ips = addresses(&spec["externalIPs"]);
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    let from_outside = kind == "NodePort" || kind == "LoadBalancer" || !external_ips.is_empty();
    let external_local = from_outside && spec["externalTrafficPolicy"] == "Local";
    let counts = kind == "LoadBalancer" && external_local;
    Some(Service {
        seniority: (
            meta["creationTimestamp"].as_str().and_then(seconds).unwrap_or(i64::MAX),
            text(&meta["namespace"]),
            text(&meta["name"]),
        ),
        cluster_ips,
        external_ips,
        load_balancer_ips: array(&object["status"]["loadBalancer"]["ingress"])
            .iter()
            .filter(|i| i["ipMode"].is_null() || i["ipMode"] == "VIP")
            .filter_map(|i| address(&i["ip"]))
            .collect(),
        source_ranges: texts(&spec["loadBalancerSourceRanges"])
            .filter_map(|r| r.trim().parse::<IpNet>().ok())
            .map(|r| r.trunc())
            .collect(),
        external_local,
        internal_local: spec["internalTrafficPolicy"] == "Local",
        health_port: if counts { number(&spec["healthCheckNodePort"]) } else { 0 },
        ports: array(&spec["ports"]).iter().filter_map(port).collect(),
    })
}

fn port(value: &Value) -> Option<Port> {
    let port = number(&value["port"]);
    (port != 0).then_some(Port {
        name: text(&value["name"]),
        protocol: protocol(&value["protocol"])?,
        port,
        node_port: number(&value["nodePort"]),
    })
}

fn slice(object: &Value) -> Vec<Endpoint> {
    let service = text(&object["metadata"]["labels"]["kubernetes.io/service-name"]);
    let family = match object["addressType"].as_str() {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        _ => return Vec::new(),
    };
    let headless = &object["metadata"]["labels"]["service.kubernetes.io/headless"];
    if service.is_empty() || !headless.is_null() {
        return Vec::new();
    }
    let owner = (text(&object["metadata"]["namespace"]), service);
    let ports: Vec<_> = array(&object["ports"])
        .iter()
        .filter(|p| !p["name"].is_null() && number(&p["port"]) != 0)
        .filter_map(|p| Some((text(&p["name"]), protocol(&p["protocol"])?, number(&p["port"]))))
        .collect();
    array(&object["endpoints"])
        .iter()
        .filter_map(|e| endpoint(e, &owner, &ports))
        .filter(|e| Family::of(e.address) == family)
        .collect()
}

fn endpoint(
    value: &Value,
    owner: &(String, String),
    ports: &[(String, Protocol, u16)],
) -> Option<Endpoint> {
    let condition = |name: &str, absent| value["conditions"][name].as_bool().unwrap_or(absent);
    let names = |field: &str| {
        array(&value["hints"][field]).iter().map(|h| text(&h["name"])).collect::<Vec<_>>()
    };
    Some(Endpoint {
        service: owner.clone(),
        address: address(value["addresses"].get(0)?)?,
        ports: ports.to_vec(),
        node: text(&value["nodeName"]),
        ready: condition("ready", true),
        serving: condition("serving", true),
        terminating: condition("terminating", false),
        zones: names("forZones"),
        nodes: names("forNodes"),
    })
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    array(value).iter().filter_map(Value::as_str)
}

fn number(value: &Value) -> u16 {
    value.as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

fn protocol(value: &Value) -> Option<Protocol> {
    match value.as_str() {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn addresses(value: &Value) -> Vec<IpAddr> {
    array(value).iter().filter_map(address).collect()
}

/// An address as old API objects may have it: IPv4 numbers with leading zeros are decimal.
fn address(value: &Value) -> Option<IpAddr> {
    let text = value.as_str()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let parts: Vec<u8> = text.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(parts).ok()?).into())
}

/// Seconds since 1970 of an RFC 3339 time in UTC without fractions, as the API server writes it.
fn seconds(time: &str) -> Option<i64> {
    let numbers: Vec<i64> = time
        .strip_suffix('Z')?
        .split(['-', 'T', ':'])
        .map(|p| p.parse().ok())
        .collect::<Option<_>>()?;
    let [year, month, day, hour, minute, second] = <[i64; 6]>::try_from(numbers).ok()?;
    // Days from civil, by the shifted year that begins in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_old_addresses_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2024-03-01T12:00:01Z"), Some(1_709_294_401));
        assert_eq!(seconds("yesterday"), None);
        assert_eq!(address(&"010.0.0.08".into()), Some([10, 0, 0, 8].into()));
        assert_eq!(address(&"None".into()), None);
    }
}
