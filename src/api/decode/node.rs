//! This node's Node object, and ServiceCIDRs.
//! It must never know other nodes: their objects are passed over. Tests: `tests.rs`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::check::{Check, name, plain, version};
use super::{Decoder, Told};
use crate::api::lenient::{List, Scalar};
use crate::api::{objects, parse};
use crate::model::{Event, Kind, Node};

/// The taint the cluster autoscaler puts on a node it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

pub(super) fn decode_node(raw: objects::Node, decoder: &mut Decoder) -> Told {
    let version = version(&raw.meta);
    let name = match name(Kind::Node, &raw.meta, raw.wrong, decoder) {
        Ok(name) if name.name == decoder.node_name => name,
        Ok(_) => return Told { events: Vec::new(), version },
        Err(check) => return Told { events: decoder.conclude(check, None), version },
    };
    let mut check = Check::new(Kind::Node, name);
    let node = node(&raw, &mut check, decoder);
    Told { events: decoder.conclude(check, Some(Event::Node(Box::new(node)))), version }
}

fn node(raw: &objects::Node, check: &mut Check, decoder: &mut Decoder) -> Node {
    check.object(raw.spec.wrong, format_args!("spec"));
    check.object(raw.status.wrong, format_args!("status"));
    check.object(raw.meta.labels.wrong, format_args!("metadata.labels"));
    let zone = check
        .text(&raw.meta.labels.zone, format_args!("metadata.labels[topology.kubernetes.io/zone]"));
    let taints = check.list(&raw.spec.taints, format_args!("spec.taints"));
    for (i, taint) in taints.iter().enumerate() {
        check.object(taint.wrong, format_args!("spec.taints[{i}]"));
    }
    Node {
        name: check.name().name,
        addresses: addresses(&raw.status, check),
        pod_cidrs: pod_cidrs(&raw.spec, check),
        zone: zone.filter(|zone| !zone.is_empty()).map(|zone| decoder.intern(zone)),
        to_be_deleted: taints.iter().any(|taint| plain(&taint.key) == TO_BE_DELETED),
        deleting: raw.meta.deleted != Scalar::Absent,
    }
}

/// InternalIPs first, then ExternalIPs (`GetNodeHostIPs` of `pkg/util/node`).
fn addresses(status: &objects::NodeStatus, check: &mut Check) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let raw = check.list(&status.addresses, format_args!("status.addresses"));
    for (i, raw) in raw.iter().enumerate() {
        check.object(raw.wrong, format_args!("status.addresses[{i}]"));
    }
    for wanted in ["InternalIP", "ExternalIP"] {
        for (i, raw) in raw.iter().enumerate().filter(|(_, r)| plain(&r.address_type) == wanted) {
            let field = format_args!("status.addresses[{i}].address");
            let address = check.address(&raw.address, field).map(parse::canonical);
            found.extend(address.filter(|address| !found.contains(address)));
        }
    }
    found
}

fn pod_cidrs(spec: &objects::NodeSpec, check: &mut Check) -> Vec<IpNet> {
    let many = cidrs(&spec.pod_cidrs, "spec.podCIDRs", check);
    if !spec.pod_cidrs.items.is_empty() || spec.pod_cidr == Scalar::Absent {
        return many;
    }
    check.cidr(&spec.pod_cidr, format_args!("spec.podCIDR")).into_iter().collect()
}

fn cidrs(raw: &List<Scalar>, at: &str, check: &mut Check) -> Vec<IpNet> {
    let raw = check.list(raw, format_args!("{at}"));
    let mut found = Vec::with_capacity(raw.len());
    for (i, value) in raw.iter().enumerate() {
        let cidr = check.cidr(value, format_args!("{at}[{i}]"));
        found.extend(cidr.filter(|cidr| !found.contains(cidr)));
    }
    found
}

pub(super) fn decode_cidr(raw: objects::ServiceCidr, decoder: &mut Decoder) -> Told {
    let version = version(&raw.meta);
    let name = match name(Kind::ServiceCidr, &raw.meta, raw.wrong, decoder) {
        Ok(name) => name,
        Err(check) => return Told { events: decoder.conclude(check, None), version },
    };
    let mut check = Check::new(Kind::ServiceCidr, name.clone());
    check.object(raw.spec.wrong, format_args!("spec"));
    let cidrs = cidrs(&raw.spec.cidrs, "spec.cidrs", &mut check);
    let event = Event::ServiceCidr(name, cidrs);
    Told { events: decoder.conclude(check, Some(event)), version }
}
