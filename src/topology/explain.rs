//! Why an endpoint is chosen or not, in words for people. Never used to choose: it looks at what
//! `reach` chose and finds the reason. Tests: in `topology`.

use std::fmt;
use std::sync::Arc;

use super::{Backend, Candidate, Reach, Topology, candidates, reach};
use crate::kernel::Socket;
use crate::model::{Family, Service, ServicePort};
use crate::track::Cluster;

/// What became of one mention of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is ready and gets new traffic.
    Chosen(Scope),
    /// It is terminating and gets new traffic, since nothing is ready.
    LastResort(Scope),
    /// Another mention of the same address and port, in this or another slice, counts.
    Duplicate,
    /// Neither ready nor terminating, so never used.
    NotReady,
    /// Terminating and no longer serving.
    NotServing,
    /// Terminating, while there are ready ones.
    Terminating,
    /// The Service allows only endpoints on this node; it runs on the named one, if any.
    OtherNode(Option<Arc<str>>),
    /// It is hinted for these nodes, and others are for this one.
    HintedForNodes(Vec<Arc<str>>),
    /// It is hinted for these zones, and others are for this node's.
    HintedForZones(Vec<Arc<str>>),
}

/// The traffic an endpoint is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of policy Cluster only.
    Cluster,
    /// Of policy Local only.
    Local,
    /// Of both policies.
    Both,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Cluster => "cluster traffic",
            Scope::Local => "node-local traffic",
            Scope::Both => "cluster and node-local traffic",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Chosen(scope) => write!(f, "chosen for {scope}"),
            Verdict::LastResort(scope) => {
                write!(f, "chosen for {scope}: terminating, but nothing is ready")
            }
            Verdict::Duplicate => f.write_str("a duplicate: told of better elsewhere"),
            Verdict::NotReady => f.write_str("not ready"),
            Verdict::NotServing => f.write_str("terminating and no longer serving"),
            Verdict::Terminating => f.write_str("terminating, while others are ready"),
            Verdict::OtherNode(Some(node)) => write!(f, "not on this node but on {node}"),
            Verdict::OtherNode(None) => f.write_str("not on this node"),
            Verdict::HintedForNodes(nodes) => write!(f, "hinted for node {}", nodes.join(", ")),
            Verdict::HintedForZones(zones) => write!(f, "hinted for zone {}", zones.join(", ")),
        }
    }
}

/// Every mention of an endpoint of this port with what became of it, sorted by address and port.
pub fn explain(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<(Socket, Verdict)> {
    let chosen = reach(cluster, service, port, family);
    let all = candidates(cluster, service, port, family);
    let mut unique = all.clone();
    unique.dedup_by_key(|c| c.backend.socket);
    let case = Case { service, topology: Topology::of(cluster, &unique), chosen };
    let mut verdicts: Vec<(Socket, Verdict)> = Vec::with_capacity(all.len());
    for candidate in &all {
        let socket = candidate.backend.socket;
        let again = verdicts.last().is_some_and(|(last, _)| *last == socket);
        verdicts.push((socket, if again { Verdict::Duplicate } else { case.verdict(candidate) }));
    }
    verdicts
}

/// What a verdict is found from.
struct Case<'a> {
    service: &'a Service,
    topology: Topology<'a>,
    chosen: Reach,
}

impl Case<'_> {
    fn verdict(&self, candidate: &Candidate<'_>) -> Verdict {
        let backend = candidate.backend;
        match self.scope(&backend) {
            Some(scope) if backend.ready => Verdict::Chosen(scope),
            Some(scope) => Verdict::LastResort(scope),
            None => self.reason(candidate),
        }
    }

    fn scope(&self, backend: &Backend) -> Option<Scope> {
        let among = |list: &[Backend]| list.binary_search(backend).is_ok();
        match (among(&self.chosen.cluster), among(&self.chosen.local)) {
            (true, true) => Some(Scope::Both),
            (true, false) => Some(Scope::Cluster),
            (false, true) => Some(Scope::Local),
            (false, false) => None,
        }
    }

    /// Why one that was not chosen was not: its own state first, then what others are like.
    fn reason(&self, candidate: &Candidate<'_>) -> Verdict {
        let backend = &candidate.backend;
        let hints = candidate.hints.cloned().unwrap_or_default();
        if !backend.ready && !backend.terminating {
            Verdict::NotReady
        } else if !backend.ready && !backend.serving {
            Verdict::NotServing
        } else if !self.service.uses_cluster_endpoints() && !backend.local {
            Verdict::OtherNode(candidate.node.cloned())
        } else if !backend.ready {
            Verdict::Terminating
        } else if let Topology::Node(_) = self.topology {
            Verdict::HintedForNodes(hints.nodes)
        } else {
            Verdict::HintedForZones(hints.zones)
        }
    }
}
