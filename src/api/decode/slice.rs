//! An EndpointSlice of the API into ours. Follows `pkg/proxy/endpointslicecache.go`.
//! It must never know Services. Tests: `tests.rs`.

use std::net::IpAddr;
use std::sync::Arc;

use super::check::{Check, is_name, name, shown, special, version};
use super::{Decoder, Told};
use crate::api::lenient::{List, Scalar};
use crate::api::{objects, parse};
use crate::model::{
    Conditions, Endpoint, EndpointSlice, Event, Family, Hints, Kind, NamespacedName, SlicePort,
};

pub(super) fn decode(raw: objects::EndpointSlice, decoder: &mut Decoder) -> Told {
    let version = version(&raw.meta);
    let name = match name(Kind::EndpointSlice, &raw.meta, raw.wrong, decoder) {
        Ok(name) => name,
        Err(check) => return Told { events: decoder.conclude(check, None), version },
    };
    let mut check = Check::new(Kind::EndpointSlice, name.clone());
    let event = match slice(&raw, &mut check, decoder) {
        Some(slice) => Event::Slice(Box::new(slice)),
        None => Event::SliceGone(name),
    };
    Told { events: decoder.conclude(check, Some(event)), version }
}

/// None if the slice is of no Service, of a headless one, or of names instead of addresses.
fn slice(
    raw: &objects::EndpointSlice,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Option<EndpointSlice> {
    let labels = &raw.meta.labels;
    check.object(labels.wrong, format_args!("metadata.labels"));
    if labels.headless.0 {
        return None;
    }
    let service = service(&labels.service, check, decoder)?;
    let family = family(&raw.address_type, check)?;
    Some(EndpointSlice {
        name: check.name(),
        service,
        family,
        ports: ports(&raw.ports, check, decoder),
        endpoints: endpoints(raw, family, check, decoder),
        trigger_time: trigger_time(&raw.meta, check),
    })
}

fn service(value: &Scalar, check: &mut Check, decoder: &mut Decoder) -> Option<NamespacedName> {
    let field = "metadata.labels[kubernetes.io/service-name]";
    let text = check.text(value, format_args!("{field}")).filter(|text| !text.is_empty())?;
    if !is_name(text) {
        check.useless(field, format_args!("{} is no name; the slice is left out", shown(text)));
        return None;
    }
    Some(NamespacedName { namespace: check.name().namespace, name: decoder.intern(text) })
}

fn family(value: &Scalar, check: &mut Check) -> Option<Family> {
    let text = check.text(value, format_args!("addressType"));
    match text {
        Some("IPv4") => Some(Family::V4),
        Some("IPv6") => Some(Family::V6),
        // Names are for other consumers than proxies: no complaint.
        Some("FQDN") => None,
        other => {
            let other = shown(other.unwrap_or_default());
            let message = format_args!("{other} is not IPv4 or IPv6; the slice is left out");
            check.useless("addressType", message);
            None
        }
    }
}

/// Ports without a number mean "any port" and are of no use to a proxy: no complaint. An absent
/// name is the API server's default, the empty one.
fn ports(
    raw: &List<objects::SlicePort>,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Vec<SlicePort> {
    let raw = check.list(raw, format_args!("ports"));
    let mut found: Vec<SlicePort> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.iter().enumerate() {
        let at = format_args!("ports[{i}]");
        check.object(raw.wrong, at);
        let name = check.port_name(&raw.name, format_args!("{at}.name"));
        let protocol = check.protocol(&raw.protocol, format_args!("{at}.protocol"));
        let port = check.port(&raw.port, format_args!("{at}.port"));
        let (Some(name), Some(protocol), Some(port)) = (name, protocol, port) else { continue };
        let port = SlicePort { name: decoder.intern(name), protocol, port };
        if !found.contains(&port) {
            found.push(port);
        }
    }
    found.shrink_to_fit();
    found
}

fn endpoints(
    raw: &objects::EndpointSlice,
    family: Family,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Box<[Endpoint]> {
    let raw = check.list(&raw.endpoints, format_args!("endpoints"));
    let mut found = Vec::with_capacity(raw.len());
    for (i, raw) in raw.iter().enumerate() {
        let at = format_args!("endpoints[{i}]");
        if raw.wrong.is_some() {
            check.object(raw.wrong, at);
            continue;
        }
        let Some(address) = endpoint_address(&raw.addresses, i, family, check) else { continue };
        let conditions = conditions(&raw.conditions, i, check);
        let node = check.text(&raw.node, format_args!("{at}.nodeName"));
        let node = node.filter(|node| !node.is_empty()).map(|node| decoder.intern(node));
        let hints = hints(&raw.hints, i, check, decoder);
        found.push(Endpoint { address, conditions, node, hints });
    }
    found.into_boxed_slice()
}

/// The first address: the API says consumers must ignore the others.
fn endpoint_address(
    addresses: &List<Scalar>,
    i: usize,
    family: Family,
    check: &mut Check,
) -> Option<IpAddr> {
    let at = format_args!("endpoints[{i}].addresses");
    let field = format_args!("{at}[0]");
    let Some(first) = check.list(addresses, at).first() else {
        check.wrong(at, format_args!("there is none; the endpoint is left out"));
        return None;
    };
    let address = check.address(first, field)?;
    if Family::of(address) != family {
        check.wrong(field, format_args!("{address} is not {family}; the endpoint is left out"));
        return None;
    }
    let mapped = parse::canonical(address) != address;
    let why = special(address).or(mapped.then_some("is an IPv4-mapped address"));
    if let Some(why) = why {
        check.wrong(field, format_args!("{address} {why}; the endpoint is left out"));
        return None;
    }
    Some(address)
}

/// Absent ones as the API says: ready, serving, not terminating. `serving` is not taken from
/// `ready` (`endpointslicecache.go`).
fn conditions(raw: &objects::Conditions, i: usize, check: &mut Check) -> Conditions {
    let at = format_args!("endpoints[{i}].conditions");
    check.object(raw.wrong, at);
    Conditions {
        ready: check.flag(&raw.ready, format_args!("{at}.ready")).unwrap_or(true),
        serving: check.flag(&raw.serving, format_args!("{at}.serving")).unwrap_or(true),
        terminating: check
            .flag(&raw.terminating, format_args!("{at}.terminating"))
            .unwrap_or(false),
    }
}

fn hints(
    raw: &objects::Hints,
    i: usize,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Option<Arc<Hints>> {
    let at = format!("endpoints[{i}].hints");
    check.object(raw.wrong, format_args!("{at}"));
    let zones = names(&raw.zones, &format!("{at}.forZones"), check, decoder);
    let nodes = names(&raw.nodes, &format!("{at}.forNodes"), check, decoder);
    (!zones.is_empty() || !nodes.is_empty()).then(|| decoder.share_hints(Hints { zones, nodes }))
}

fn names(
    raw: &List<objects::Named>,
    at: &str,
    check: &mut Check,
    decoder: &mut Decoder,
) -> Vec<Arc<str>> {
    let raw = check.list(raw, format_args!("{at}"));
    let mut found = Vec::with_capacity(raw.len());
    for (i, raw) in raw.iter().enumerate() {
        check.object(raw.wrong, format_args!("{at}[{i}]"));
        let name = check.text(&raw.name, format_args!("{at}[{i}].name"));
        found.extend(name.filter(|name| !name.is_empty()).map(|name| decoder.intern(name)));
    }
    found
}

fn trigger_time(meta: &objects::Meta, check: &mut Check) -> Option<i64> {
    let field = "metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]";
    check.object(meta.annotations.wrong, format_args!("metadata.annotations"));
    let text = check.text(&meta.annotations.trigger_time, format_args!("{field}"))?;
    let time = parse::timestamp_nanos(text);
    if time.is_none() {
        let message = format!("{} is not an RFC 3339 time; left out", shown(text));
        check.wrong(format_args!("{field}"), format_args!("{message}"));
    }
    time
}
