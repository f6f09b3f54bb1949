//! A Service of the API into ours: what counts, what is defaulted, what is left out.
//! Follows `pkg/proxy/serviceport.go` and `pkg/api/v1/service/util.go` of the reference.
//! It must never know endpoints. Tests: `tests.rs`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::check::{Check, name, plain, shown, special, version};
use super::{Decoder, Told};
use crate::api::lenient::Scalar;
use crate::api::{objects, parse};
use crate::model::{Event, Family, Kind, Service, ServicePort, TrafficPolicy};

/// The API's default for `timeoutSeconds`: three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// The API's largest `timeoutSeconds`: a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(super) fn decode(raw: objects::Service, decoder: &mut Decoder) -> Told {
    let version = version(&raw.meta);
    let name = match name(Kind::Service, &raw.meta, raw.wrong, decoder) {
        Ok(name) => name,
        Err(check) => return Told { events: decoder.conclude(check, None), version },
    };
    let mut check = Check::new(Kind::Service, name.clone());
    let event = match service(&raw, &mut check, decoder) {
        Some(service) => Event::Service(Box::new(service)),
        None => Event::ServiceGone(name),
    };
    Told { events: decoder.conclude(check, Some(event)), version }
}

/// None if the Service is none of the proxy's business: another proxy's, headless, ExternalName.
fn service(raw: &objects::Service, check: &mut Check, decoder: &mut Decoder) -> Option<Service> {
    let labels = &raw.meta.labels;
    let spec = &raw.spec;
    if labels.proxy_name.0 || labels.headless.0 || plain(&spec.service_type) == "ExternalName" {
        return None;
    }
    check.object(labels.wrong, format_args!("metadata.labels"));
    check.object(spec.wrong, format_args!("spec"));
    let cluster_ips = cluster_ips(spec, check)?;
    let exposure = exposure(spec, check);
    let external_policy = match policy(&spec.external_policy, "spec.externalTrafficPolicy", check) {
        TrafficPolicy::Local if exposure != Exposure::Inside => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    };
    Some(Service {
        name: check.name(),
        created: created(&raw.meta, check),
        cluster_ips,
        external_ips: external_ips(spec, check),
        load_balancer_ips: load_balancer_ips(&raw.status, check),
        source_ranges: source_ranges(spec, check),
        external_policy,
        internal_policy: policy(&spec.internal_policy, "spec.internalTrafficPolicy", check),
        affinity: affinity(spec, check),
        health_check_node_port: health_check_node_port(spec, (exposure, external_policy), check),
        externally_accessible: exposure != Exposure::Inside,
        ipvs_scheduler: ipvs_scheduler(&raw.meta, check, decoder),
        proxy_protocol: proxy_protocol(&raw.meta, check, decoder),
        forget_tcp_flows: forget_tcp_flows(&raw.meta, check),
        ports: ports(spec, check, decoder),
    })
}

/// `metadata.creationTimestamp` in seconds; the far future if it has none, so that it never wins
/// against a Service that has one.
fn created(meta: &objects::Meta, check: &mut Check) -> i64 {
    let field = format_args!("metadata.creationTimestamp");
    let Some(text) = check.text(&meta.created, field) else { return i64::MAX };
    let Some((seconds, _)) = parse::timestamp(text) else {
        let text = shown(text);
        check.wrong(field, format_args!("{text} is not an RFC 3339 time; taken as unknown"));
        return i64::MAX;
    };
    seconds
}

/// The annotation that says how ipvs mode chooses endpoints. What it means is judged there: in
/// other modes nobody asks.
fn ipvs_scheduler(
    meta: &objects::Meta,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Option<Arc<str>> {
    check.object(meta.annotations.wrong, format_args!("metadata.annotations"));
    let field = format_args!("metadata.annotations[kube-proxy.io/ipvs-scheduler]");
    let text = check.text(&meta.annotations.ipvs_scheduler, field)?.trim();
    (!text.is_empty()).then(|| decoder.intern(text))
}

/// The annotation that says whether userspace mode tells endpoints of their client. What it means
/// is judged there: in other modes the endpoint sees its client.
fn proxy_protocol(
    meta: &objects::Meta,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Option<Arc<str>> {
    let field = format_args!("metadata.annotations[kube-proxy.io/proxy-protocol]");
    let text = check.text(&meta.annotations.proxy_protocol, field)?.trim();
    (!text.is_empty()).then(|| decoder.intern(text))
}

/// The annotation that says whether TCP connections to endpoints that are gone are forgotten.
fn forget_tcp_flows(meta: &objects::Meta, check: &mut Check) -> bool {
    let field = format_args!("metadata.annotations[kube-proxy.io/forget-tcp-flows]");
    match check.text(&meta.annotations.forget_tcp_flows, field).map(str::trim) {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(other) => {
            let text = shown(other);
            check.wrong(field, format_args!("{text} is neither true nor false; taken as false"));
            false
        }
    }
}

/// `clusterIPs` where there are any, else `clusterIP`; none if headless or without a usable one.
/// The first of each family counts (`GetClusterIPByFamily` of `pkg/proxy/util/utils.go`).
fn cluster_ips(spec: &objects::ServiceSpec, check: &mut Check) -> Option<Vec<IpAddr>> {
    if plain(&spec.cluster_ip) == "None" {
        return None;
    }
    let many = check.list(&spec.cluster_ips, format_args!("spec.clusterIPs"));
    let mut found: Vec<IpAddr> = Vec::new();
    let mut add = |address: Option<IpAddr>| {
        let Some(address) = address.map(parse::canonical) else { return };
        if !found.iter().any(|known| Family::of(*known) == Family::of(address)) {
            found.push(address);
        }
    };
    if many.is_empty() {
        add(check.address(&spec.cluster_ip, format_args!("spec.clusterIP")));
    }
    for (i, value) in many.iter().enumerate().filter(|(_, value)| plain(value) != "None") {
        add(check.address(value, format_args!("spec.clusterIPs[{i}]")));
    }
    (!found.is_empty()).then_some(found)
}

/// How a Service can be reached from outside the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exposure {
    /// Not at all.
    Inside,
    /// By node ports or external IPs.
    Outside,
    /// By a load balancer too.
    LoadBalancer,
}

/// The raw `externalIPs` count, even if all are malformed, as in the reference.
fn exposure(spec: &objects::ServiceSpec, check: &mut Check) -> Exposure {
    let field = format_args!("spec.type");
    match check.text(&spec.service_type, field).unwrap_or_default() {
        "LoadBalancer" => return Exposure::LoadBalancer,
        "NodePort" => return Exposure::Outside,
        "" | "ClusterIP" => {}
        other => {
            let other = shown(other);
            check.wrong(field, format_args!("{other} is no type of Service; taken as ClusterIP"));
        }
    }
    if spec.external_ips.items.is_empty() { Exposure::Inside } else { Exposure::Outside }
}

fn policy(value: &Scalar, field: &str, check: &mut Check) -> TrafficPolicy {
    match check.text(value, format_args!("{field}")).unwrap_or_default() {
        "" | "Cluster" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        other => {
            let message = format!("{} is not Cluster or Local; taken as Cluster", shown(other));
            check.wrong(format_args!("{field}"), format_args!("{message}"));
            TrafficPolicy::Cluster
        }
    }
}

fn external_ips(spec: &objects::ServiceSpec, check: &mut Check) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let values = check.list(&spec.external_ips, format_args!("spec.externalIPs"));
    for (i, value) in values.iter().enumerate() {
        let field = format_args!("spec.externalIPs[{i}]");
        let Some(address) = check.address(value, field).map(parse::canonical) else { continue };
        if let Some(why) = special(address) {
            check.wrong(field, format_args!("{address} {why}; left out"));
        } else if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Only IPs that the node itself answers for: `ipMode` nil or VIP. Hostnames are not read.
fn load_balancer_ips(status: &objects::ServiceStatus, check: &mut Check) -> Vec<IpAddr> {
    let mut found = Vec::new();
    check.object(status.wrong, format_args!("status"));
    check.object(status.load_balancer.wrong, format_args!("status.loadBalancer"));
    let at = format_args!("status.loadBalancer.ingress");
    for (i, ingress) in check.list(&status.load_balancer.ingress, at).iter().enumerate() {
        check.object(ingress.wrong, format_args!("{at}[{i}]"));
        let address =
            check.address(&ingress.ip, format_args!("{at}[{i}].ip")).map(parse::canonical);
        let field = format_args!("{at}[{i}].ipMode");
        let is_vip = match check.text(&ingress.ip_mode, field) {
            None | Some("VIP") => true,
            Some("Proxy") => false,
            Some(other) => {
                let message = format!("{} is not VIP or Proxy; the IP is left out", shown(other));
                check.wrong(field, format_args!("{message}"));
                false
            }
        };
        found.extend(address.filter(|a| is_vip && !found.contains(a)));
    }
    found
}

/// Spaces are trimmed. If ranges are given but not one can be read, nobody is let in: leaving the
/// list empty would let everybody in, which is the opposite of what was asked.
fn source_ranges(spec: &objects::ServiceSpec, check: &mut Check) -> Vec<IpNet> {
    let mut found = Vec::new();
    let at = format_args!("spec.loadBalancerSourceRanges");
    let values = check.list(&spec.source_ranges, at);
    for (i, value) in values.iter().enumerate() {
        let Some(cidr) = check.cidr(value, format_args!("{at}[{i}]")) else { continue };
        if !found.contains(&cidr) {
            found.push(cidr);
        }
    }
    if found.is_empty() && (!values.is_empty() || spec.source_ranges.wrong.is_some()) {
        check.wrong(at, format_args!("no range is usable; no source at all is let in"));
        return nobody();
    }
    found
}

/// Ranges that no packet from another host has its source in.
fn nobody() -> Vec<IpNet> {
    let v4 = Ipv4Net::new(std::net::Ipv4Addr::UNSPECIFIED, 32).map(IpNet::V4);
    let v6 = Ipv6Net::new(std::net::Ipv6Addr::UNSPECIFIED, 128).map(IpNet::V6);
    v4.into_iter().chain(v6).collect()
}

fn affinity(spec: &objects::ServiceSpec, check: &mut Check) -> Option<u32> {
    let field = format_args!("spec.sessionAffinity");
    match check.text(&spec.affinity, field).unwrap_or_default() {
        "" | "None" => return None,
        "ClientIP" => {}
        other => {
            let other = shown(other);
            check.wrong(field, format_args!("{other} is not None or ClientIP; taken as None"));
            return None;
        }
    }
    let config = &spec.affinity_config;
    check.object(config.wrong, format_args!("spec.sessionAffinityConfig"));
    check.object(config.client_ip.wrong, format_args!("spec.sessionAffinityConfig.clientIP"));
    let field = format_args!("spec.sessionAffinityConfig.clientIP.timeoutSeconds");
    match check.number(&config.client_ip.timeout, field) {
        None => Some(DEFAULT_AFFINITY_SECONDS),
        Some(seconds @ 1..=MAX_AFFINITY_SECONDS) => Some(seconds as u32),
        Some(seconds) => {
            let instead = DEFAULT_AFFINITY_SECONDS;
            check.wrong(field, format_args!("{seconds} is not 1 to 86400; taken as {instead}"));
            Some(instead)
        }
    }
}

/// Counts only with type LoadBalancer and external policy Local.
fn health_check_node_port(
    spec: &objects::ServiceSpec,
    reach: (Exposure, TrafficPolicy),
    check: &mut Check,
) -> Option<u16> {
    if reach != (Exposure::LoadBalancer, TrafficPolicy::Local) {
        return None;
    }
    check.port(&spec.health_check_node_port, format_args!("spec.healthCheckNodePort"))
}

fn ports(
    spec: &objects::ServiceSpec,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Vec<ServicePort> {
    let raw = check.list(&spec.ports, format_args!("spec.ports"));
    let mut found: Vec<ServicePort> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.iter().enumerate() {
        if let Some(mut port) = port(i, raw, check, decoder)
            && distinct(i, &mut port, &found, check)
        {
            found.push(port);
        }
    }
    found
}

fn port(
    i: usize,
    raw: &objects::ServicePort,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Option<ServicePort> {
    let at = format_args!("spec.ports[{i}]");
    if raw.wrong.is_some() {
        check.object(raw.wrong, at);
        return None;
    }
    let name = check.port_name(&raw.name, format_args!("{at}.name"))?;
    let protocol = check.protocol(&raw.protocol, format_args!("{at}.protocol"))?;
    let field = format_args!("{at}.port");
    let port = check.port(&raw.port, field);
    if matches!(raw.port, Scalar::Absent | Scalar::Whole(0)) {
        check.wrong(field, format_args!("there is none; the port is left out"));
    }
    let node_port = check.port(&raw.node_port, format_args!("{at}.nodePort"));
    Some(ServicePort { name: decoder.intern(name), protocol, port: port?, node_port })
}

/// Whether a port clashes with none before it. The first one stays, so that the outcome depends on
/// nothing but the object; a node port that is taken is only taken away.
fn distinct(i: usize, port: &mut ServicePort, before: &[ServicePort], check: &mut Check) -> bool {
    let at = format_args!("spec.ports[{i}]");
    if before.iter().any(|other| other.name == port.name) {
        let name = shown(&port.name);
        check.wrong(
            format_args!("{at}.name"),
            format_args!("{name} is there twice; the later port is left out"),
        );
        return false;
    }
    let same_protocol = || before.iter().filter(|other| other.protocol == port.protocol);
    if same_protocol().any(|other| other.port == port.port) {
        let (number, protocol) = (port.port, port.protocol);
        let message =
            format_args!("{protocol} {number} is there twice; the later port is left out");
        check.wrong(format_args!("{at}.port"), message);
        return false;
    }
    let taken = port.node_port.filter(|n| same_protocol().any(|other| other.node_port == Some(*n)));
    if let Some(number) = taken {
        let protocol = port.protocol;
        let message = format_args!("{protocol} {number} is there twice; the later one is left out");
        check.wrong(format_args!("{at}.nodePort"), message);
        port.node_port = None;
    }
    true
}
