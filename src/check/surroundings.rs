//! What is around the rules and can spoil them: forwarding, bridges, conntrack entries of
//! endpoints that are gone; `duplicates` has addresses that two have.
//!
//! It must never look at a rule. Tests: `surroundings_tests.rs`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Finding, Sort, duplicates, serves};
use crate::kernel::Socket;
use crate::kernel::survey::{ConnectionFact, LinkFact};
use crate::model::{Family, Protocol};
use crate::promise::{Packet, Promises};
use crate::topology::serving;
use crate::trace::World;
use crate::track::Cluster;

/// `IPS_DST_NAT` and `IPS_SEEN_REPLY`.
const DST_NAT: u32 = 1 << 5;

/// Looks around.
pub(super) fn look(
    world: &World,
    (promises, cluster): (&Promises<'_>, &Cluster),
    findings: &mut Vec<Finding>,
) {
    if !serves(cluster) {
        return;
    }
    forwarding(world, findings);
    bridges(world, promises, findings);
    connections(world, promises, (cluster, findings));
    duplicates::look(world, (promises, cluster), findings);
}

pub(super) fn finding(sort: Sort, cause: String) -> Finding {
    Finding { sort, cause, frontends: 0, service: None, example: None }
}

fn sysctl<'w>(world: &'w World, path: &str) -> Option<&'w str> {
    world.survey.sysctls.get(path).map(String::as_str)
}

/// Forwarding is asked by packets too; this says it also where no packet was forwarded.
fn forwarding(world: &World, findings: &mut Vec<Finding>) {
    let known = findings.iter().any(|f| f.sort == Sort::Setting && f.cause.contains("ip_forward"));
    if sysctl(world, "net/ipv4/ip_forward") == Some("0") && !known {
        let cause = "net.ipv4.ip_forward is 0: this node forwards nothing to pods";
        findings.push(finding(Sort::Setting, cause.to_owned()));
    }
}

/// The links by which endpoints of this node are reached in a family.
fn pod_links(world: &World, promises: &Promises<'_>, family: Family) -> BTreeSet<u32> {
    let claims = promises.claims(family).values();
    let endpoints = claims.flat_map(|claim| claim.reach.cluster.iter().chain(&claim.reach.local));
    let local: BTreeSet<IpAddr> = endpoints.filter(|e| e.local).map(|e| e.socket.address).collect();
    local.iter().filter_map(|address| Some(world.host.route_to(*address)?.link)).collect()
}

/// Bridges with endpoints on them: a pod must be able to reach itself, and packets between two
/// pods of one bridge must pass the rules.
fn bridges(world: &World, promises: &Promises<'_>, findings: &mut Vec<Finding>) {
    let links = &world.survey.links;
    let used = Family::ALL.map(|family| pod_links(world, promises, family));
    for bridge in links.iter().filter(|link| used.iter().any(|used| used.contains(&link.index))) {
        let ports: Vec<&LinkFact> =
            links.iter().filter(|l| l.bridge == Some(bridge.index)).collect();
        if ports.is_empty() {
            continue;
        }
        let off: Vec<&str> =
            ports.iter().filter(|p| p.hairpin == Some(false)).map(|p| &*p.name).collect();
        if !off.is_empty() && !bridge.promiscuous {
            let cause = format!(
                "hairpin_mode is off on {} of bridge {}: pods behind it cannot reach themselves through a Service; \
                 set it, or the bridge promiscuous",
                off.join(", "),
                bridge.name
            );
            findings.push(finding(Sort::Bridge, cause));
        }
        for family in Family::ALL.into_iter().filter(|f| used[f.index()].contains(&bridge.index)) {
            let setting = match family {
                Family::V4 => "bridge-nf-call-iptables",
                Family::V6 => "bridge-nf-call-ip6tables",
            };
            if sysctl(world, &format!("net/bridge/{setting}")) == Some("1") {
                continue;
            }
            let cause = format!(
                "answers of {family} between two pods of bridge {} do not pass the rules: load br_netfilter and set \
                 net.bridge.{setting}=1",
                bridge.name
            );
            findings.push(finding(Sort::Bridge, cause));
        }
    }
}

/// UDP connections that go on to endpoints that are gone, or past the Service.
fn connections(
    world: &World,
    promises: &Promises<'_>,
    (cluster, findings): (&Cluster, &mut Vec<Finding>),
) {
    let udp = world.survey.flows.iter().filter(|flow| flow.protocol == Protocol::Udp.number());
    for flow in udp {
        let Some((service, why)) = stale(promises, cluster, flow) else { continue };
        let [from, to] = flow.original;
        let socket = |(address, port)| Socket { address, port };
        findings.push(Finding {
            sort: Sort::StaleConnection,
            cause: format!(
                "the conntrack entry udp {} → {} {why}; `conntrack -D -p udp -s {} --sport {} -d {} --dport {}` forgets it",
                socket(from), socket(to), from.0, from.1, to.0, to.1
            ),
            frontends: 1,
            service: Some(service),
            example: None,
        });
    }
}

/// Whose a connection is and what is wrong with it.
fn stale(
    promises: &Promises<'_>,
    cluster: &Cluster,
    flow: &ConnectionFact,
) -> Option<(String, String)> {
    let [from, to] = flow.original;
    let packet = Packet {
        protocol: Protocol::Udp,
        source: from.0,
        destination: to.0,
        port: to.1,
        link: None,
    };
    let claim = promises.claim_of(&packet)?;
    let family = Family::of(to.0);
    let alive = serving(cluster, claim.service, claim.port, family);
    let endpoint = Socket { address: flow.reply[0].0, port: flow.reply[0].1 };
    let why = if flow.status & DST_NAT == 0 {
        (!alive.is_empty())
            .then(|| "goes past the Service: it began when that had no endpoint".to_owned())
    } else {
        (!alive.contains(&endpoint))
            .then(|| format!("goes on to {endpoint}, which is no endpoint any more"))
    };
    Some((claim.service.port_name(claim.port).to_string(), why?))
}
