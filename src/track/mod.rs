//! Events in, the cluster and what changed in it out. One event costs O(log n + its own size).
//!
//! It must never know a kernel, a proxy mode, a clock or the API server's words, and reading it
//! changes nothing. Marks are precise: what changes no packet's fate marks nothing.
//! Tests: `tests.rs` beside this.

mod cluster;
mod triggers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use cluster::Cluster;
pub use triggers::Trigger;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{EndpointSlice, Event, Kind, NamespacedName, Node, Notice};
use cluster::node_key;
use triggers::Triggers;

/// What changed since the last `take_changes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services whose own object or slices changed, come or gone; also names of Services that do
    /// not exist but have slices.
    pub services: BTreeSet<NamespacedName>,
    /// The node's zone changed: which endpoints any Service may use has to be chosen anew.
    pub everything: bool,
    /// The node's addresses or pod CIDRs changed.
    pub node: bool,
    /// The CIDRs of all ServiceCIDR objects together changed.
    pub service_cidrs: bool,
    /// Notices came, changed or went.
    pub notices: bool,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

/// Follows the cluster by its events.
#[derive(Debug)]
pub struct Tracker {
    cluster: Cluster,
    changes: Changes,
    triggers: Triggers,
    /// Per kind, in the order of `Kind::ALL`.
    lists: [List; 4],
}

/// Where the full lists of one kind stand.
#[derive(Debug, Default)]
struct List {
    /// A full list has ended once.
    ended_once: bool,
    /// While a list runs: what was known before it and has not been told of yet.
    untold: Option<BTreeSet<NamespacedName>>,
}

impl Tracker {
    /// A tracker that knows nothing yet, for the node of this name.
    pub fn new(node_name: Arc<str>) -> Tracker {
        Tracker {
            cluster: Cluster::new(node_name),
            changes: Changes::default(),
            triggers: Triggers::default(),
            lists: Default::default(),
        }
    }

    /// Only trigger times after this one (nanoseconds since 1970) count for the network
    /// programming latency: what happened before the process started is not its delay.
    pub fn count_triggers_after(&mut self, start: i64) {
        self.triggers.count_after(start);
    }

    /// Takes in one event.
    pub fn feed(&mut self, event: Event) {
        match event {
            Event::Service(service) => {
                let name = service.name.clone();
                self.told(Kind::Service, &name);
                self.set_service(name, Some(service));
            }
            Event::ServiceGone(name) => {
                self.told(Kind::Service, &name);
                self.set_service(name, None);
            }
            Event::Slice(slice) => {
                self.told(Kind::EndpointSlice, &slice.name);
                self.set_slice(*slice);
            }
            Event::SliceGone(name) => {
                self.told(Kind::EndpointSlice, &name);
                self.remove_slice(&name);
            }
            Event::Node(node) => self.set_node(*node),
            Event::NodeGone => {
                let name = node_key(self.cluster.node_name());
                self.told(Kind::Node, &name);
                self.cluster.set_node_gone();
            }
            Event::ServiceCidr(name, cidrs) => {
                self.told(Kind::ServiceCidr, &name);
                self.changes.service_cidrs |= self.cluster.set_cidrs(&name, cidrs);
            }
            Event::ServiceCidrGone(name) => {
                self.told(Kind::ServiceCidr, &name);
                self.changes.service_cidrs |= self.cluster.set_cidrs(&name, Vec::new());
            }
            Event::Notices(kind, name, notices) => self.set_notices(kind, name, notices),
            Event::ListStarted(kind) => self.start_list(kind),
            Event::ListEnded(kind) => self.end_list(kind),
        }
    }

    /// Whether every kind has been listed in full once: before that nothing may be programmed.
    pub fn ready(&self) -> bool {
        self.lists.iter().all(|l| l.ended_once)
    }

    /// What changed since this was last asked, and forgets it.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether `take_changes` would bring anything.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The cluster as last told.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What triggered the changes of a Service's endpoints that wait to be programmed.
    pub fn trigger_times(&self, service: &NamespacedName) -> &[Trigger] {
        self.triggers.of(service)
    }

    /// The same, forgetting them: to be called once the Service has been programmed.
    pub fn take_trigger_times(&mut self, service: &NamespacedName) -> Vec<Trigger> {
        self.triggers.take(service)
    }

    /// The triggers of all Services, forgetting them: after everything was programmed.
    pub fn take_all_trigger_times(&mut self) -> Vec<Trigger> {
        self.triggers.take_all()
    }

    fn list(&mut self, kind: Kind) -> &mut List {
        &mut self.lists[kind as usize]
    }

    /// An object has been told of, so the list that runs has not left it out.
    fn told(&mut self, kind: Kind, name: &NamespacedName) {
        if let Some(untold) = &mut self.list(kind).untold {
            untold.remove(name);
        }
    }

    fn set_service(&mut self, name: NamespacedName, service: Option<Box<crate::model::Service>>) {
        if self.cluster.set_service(&name, service) {
            self.changes.services.insert(name);
        }
    }

    fn set_slice(&mut self, mut slice: EndpointSlice) {
        // The order of endpoints and ports means nothing, and controllers change it.
        slice.endpoints.sort_by_key(|e| e.address);
        slice.ports.sort();
        slice.ports.shrink_to_fit();
        let old = self.cluster.slice(&slice.name).cloned();
        if let Some(old) = &old {
            if same_endpoints(old, &slice) {
                return self.set_slice_trigger(old, slice);
            }
            if old.service != slice.service {
                self.changes.services.insert(old.service.clone());
            }
        }
        self.changes.services.insert(slice.service.clone());
        let before = old.and_then(|o| o.trigger_time);
        if let Some(time) = slice.trigger_time.filter(|t| before != Some(*t)) {
            self.triggers.add(&slice.service, Trigger { family: slice.family, at: time });
        }
        self.cluster.insert_slice(slice);
    }

    /// A slice came again with other metadata at most. Its trigger counts only towards a change
    /// that waits already: else there is nothing to program, and its time would be taken for
    /// the delay of whatever comes next.
    fn set_slice_trigger(&mut self, old: &EndpointSlice, new: EndpointSlice) {
        let Some(time) = new.trigger_time.filter(|t| old.trigger_time != Some(*t)) else {
            return;
        };
        let service = &new.service;
        if self.changes.services.contains(service) || !self.triggers.of(service).is_empty() {
            self.triggers.add(service, Trigger { family: new.family, at: time });
        }
        self.cluster.insert_slice(new);
    }

    fn remove_slice(&mut self, name: &NamespacedName) {
        if let Some(slice) = self.cluster.remove_slice(name) {
            // The annotation speaks of the last change before the removal.
            self.triggers.take(&slice.service);
            self.changes.services.insert(slice.service.clone());
        }
    }

    fn set_node(&mut self, node: Node) {
        if *node.name != *self.cluster.node_name() {
            return;
        }
        self.told(Kind::Node, &node_key(&node.name));
        let unseen = Node::default();
        let old = self.cluster.node().unwrap_or(&unseen);
        self.changes.everything |= zone(old) != zone(&node);
        self.changes.node |= old.addresses != node.addresses || old.pod_cidrs != node.pod_cidrs;
        self.cluster.set_node(node);
    }

    fn set_notices(&mut self, kind: Kind, name: NamespacedName, notices: Vec<Notice>) {
        self.told(kind, &name);
        self.changes.notices |= self.cluster.set_notices(kind, &name, notices);
    }

    /// A list begins, or begins again after one that was broken off.
    fn start_list(&mut self, kind: Kind) {
        let untold = self.cluster.names(kind);
        self.list(kind).untold = Some(untold);
    }

    fn end_list(&mut self, kind: Kind) {
        self.list(kind).ended_once = true;
        let untold = self.list(kind).untold.take().unwrap_or_default();
        for name in untold {
            self.set_notices(kind, name.clone(), Vec::new());
            match kind {
                Kind::Service => self.set_service(name, None),
                Kind::EndpointSlice => self.remove_slice(&name),
                Kind::ServiceCidr => {
                    self.changes.service_cidrs |= self.cluster.set_cidrs(&name, Vec::new());
                }
                Kind::Node if *name.name == *self.cluster.node_name() => {
                    self.cluster.set_node_gone();
                }
                Kind::Node => {}
            }
        }
        if kind == Kind::Node && self.cluster.node().is_none() {
            self.cluster.set_node_gone();
        }
    }
}

/// Whether two states of a slice are the same but for its trigger time.
fn same_endpoints(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    a.service == b.service
        && a.family == b.family
        && a.ports == b.ports
        && a.endpoints == b.endpoints
}

/// The zone, where an empty one is none.
fn zone(node: &Node) -> Option<&str> {
    node.zone.as_deref().filter(|z| !z.is_empty())
}
