//! Which endpoints of a Service port may be reached from this node, and why the others may not.
//!
//! Pure, and the same answer for the same cluster whatever order it was told in. It must never
//! know a proxy mode: what a backend does with an empty list (reject, drop) is its own affair.
//! Rules: `pkg/proxy/topology.go` and `endpointslicecache.go`. Tests: `tests.rs` beside this,
//! by lines of upstream-behaviour.md.

mod explain;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use explain::{Scope, Verdict, explain};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::kernel::Socket;
use crate::model::{Family, Hints, Service, ServicePort};
use crate::track::Cluster;

/// The endpoints of one Service port in one family that may be reached from this node.
/// Lists are sorted by address and port, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// For traffic of policy Cluster; empty if the Service has none.
    pub cluster: Vec<Backend>,
    /// For traffic of policy Local; empty if the Service has none.
    pub local: Vec<Backend>,
    /// Whether the whole cluster has any usable endpoint for the port. Without, traffic is
    /// rejected; with one, but none on this node, Local traffic is dropped.
    pub any: bool,
}

/// An endpoint of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Where it listens.
    pub socket: Socket,
    /// Whether it runs on this node.
    pub local: bool,
    /// May receive new traffic.
    pub ready: bool,
    /// Answers, whether or not it is terminating.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
}

impl Backend {
    /// Good enough where nothing is ready: it still answers, though it is being deleted.
    fn last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

/// Chooses the endpoints of a Service port in one family.
pub fn reach(cluster: &Cluster, service: &Service, port: &ServicePort, family: Family) -> Reach {
    let mut candidates = candidates(cluster, service, port, family);
    candidates.dedup_by_key(|c| c.backend.socket);
    let mut reach = Reach {
        any: candidates.iter().any(|c| c.backend.ready || c.backend.last_resort()),
        ..Reach::default()
    };
    if service.uses_cluster_endpoints() {
        let topology = Topology::of(cluster, &candidates);
        reach.cluster = ready_or_last_resort(&candidates, |c| topology.allows(c), |_| true);
    }
    if service.uses_local_endpoints() {
        reach.local = ready_or_last_resort(&candidates, is_local, is_local);
    }
    reach
}

/// All endpoints of a Service port that answer, whatever the policies and the topology say: a
/// flow that goes to one of them works.
pub fn serving(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> BTreeSet<Socket> {
    let mut candidates = candidates(cluster, service, port, family);
    candidates.dedup_by_key(|c| c.backend.socket);
    candidates.iter().filter(|c| c.backend.serving).map(|c| c.backend.socket).collect()
}

/// How many endpoints of a Service run ready on this node, each address counted once however
/// many ports it has: the count that its health check node port answers with
/// (`pkg/proxy/endpointschangetracker.go`).
pub fn local_ready(cluster: &Cluster, service: &Service, family: Family) -> usize {
    let ready: BTreeSet<IpAddr> = cluster
        .slices(&service.name)
        .filter(|s| s.family == family && !s.ports.is_empty())
        .flat_map(|s| s.endpoints.iter())
        .filter(|e| e.conditions.ready && is_here(cluster, e.node.as_ref()))
        .map(|e| e.address)
        .collect();
    ready.len()
}

/// An endpoint as one slice tells of it.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    backend: Backend,
    hints: Option<&'a Hints>,
    node: Option<&'a Arc<str>>,
}

/// Every mention of an endpoint for this port, sorted by address and port. Of several mentions of
/// one endpoint the one to believe comes first, so that the rest can be dropped.
fn candidates<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for slice in cluster.slices(&service.name).filter(|s| s.family == family) {
        let ports = slice.ports.iter();
        for matching in ports.filter(|p| p.name == port.name && p.protocol == port.protocol) {
            let endpoints = slice.endpoints.iter().filter(|e| Family::of(e.address) == family);
            found.extend(endpoints.map(|endpoint| Candidate {
                backend: Backend {
                    socket: Socket { address: endpoint.address, port: matching.port },
                    local: is_here(cluster, endpoint.node.as_ref()),
                    ready: endpoint.conditions.ready,
                    serving: endpoint.conditions.serving,
                    terminating: endpoint.conditions.terminating,
                },
                hints: endpoint.hints.as_deref(),
                node: endpoint.node.as_ref(),
            }));
        }
    }
    // The reference lets one that is not terminating win and else whichever its hash map yields.
    // The sort is stable: what is left undecided, the slices' names decide.
    found.sort_by_key(|c| {
        let b = &c.backend;
        (b.socket, b.terminating, !b.ready, !b.serving, !b.local)
    });
    found
}

fn is_here(cluster: &Cluster, node: Option<&Arc<str>>) -> bool {
    node.is_some_and(|n| !n.is_empty() && **n == *cluster.node_name())
}

fn is_local(candidate: &Candidate<'_>) -> bool {
    candidate.backend.local
}

/// The ready ones that pass the first test; if there are none, those of the second that still
/// answer while they terminate. Others are never used.
fn ready_or_last_resort(
    candidates: &[Candidate<'_>],
    may_ready: impl Fn(&Candidate<'_>) -> bool,
    may_last: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<Backend> {
    let ready = candidates.iter().filter(|c| c.backend.ready && may_ready(c));
    let chosen: Vec<Backend> = ready.map(|c| c.backend).collect();
    if !chosen.is_empty() {
        return chosen;
    }
    let last = candidates.iter().filter(|c| c.backend.last_resort() && may_last(c));
    last.map(|c| c.backend).collect()
}

/// Which hints count for a Service port on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology<'a> {
    /// None: every ready endpoint is as good as any other.
    Anywhere,
    /// Endpoints hinted for this node only.
    Node(&'a str),
    /// Endpoints hinted for this zone only.
    Zone(&'a str),
}

impl<'a> Topology<'a> {
    /// Hints of one kind count if every ready endpoint has some and one of them names us: a
    /// half-told topology would leave zones without endpoints.
    fn of(cluster: &'a Cluster, candidates: &[Candidate<'_>]) -> Topology<'a> {
        let node = cluster.node_name();
        let zone = cluster.node().and_then(|n| n.zone.as_deref()).unwrap_or_default();
        if hinted_for(node, candidates, |h| &h.nodes) {
            Topology::Node(node)
        } else if hinted_for(zone, candidates, |h| &h.zones) {
            Topology::Zone(zone)
        } else {
            Topology::Anywhere
        }
    }

    fn allows(&self, candidate: &Candidate<'_>) -> bool {
        let names = |list: fn(&Hints) -> &[Arc<str>], us: &str| {
            candidate.hints.is_some_and(|h| list(h).iter().any(|name| **name == *us))
        };
        match self {
            Topology::Anywhere => true,
            Topology::Node(node) => names(|h| &h.nodes, node),
            Topology::Zone(zone) => names(|h| &h.zones, zone),
        }
    }
}

fn hinted_for(us: &str, candidates: &[Candidate<'_>], list: fn(&Hints) -> &[Arc<str>]) -> bool {
    let mut named = false;
    for candidate in candidates.iter().filter(|c| c.backend.ready) {
        let hints = candidate.hints.map_or(&[][..], list);
        if hints.is_empty() {
            return false;
        }
        named |= hints.iter().any(|name| **name == *us);
    }
    named && !us.is_empty()
}
