//! The cluster as last told, as plain ordered maps. Readers get references; only the tracker
//! writes. It knows no kernel, no clock and no proxy mode.
//! Small on purpose: a slice is held once, in two indexes of one pointer each.
//! Tests: in `track`.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{EndpointSlice, Event, Kind, NamespacedName, Node, Notice, Service};

/// What is known of the cluster, ordered by name wherever there is an order to choose.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    node_name: Arc<str>,
    node: Option<Node>,
    node_gone: bool,
    entries: BTreeMap<NamespacedName, Entry>,
    slices: BTreeSet<ByName>,
    cidrs: BTreeMap<NamespacedName, Vec<IpNet>>,
    /// How many times each CIDR is named: two ServiceCIDRs may name the same one.
    cidr_uses: BTreeMap<IpNet, usize>,
    notices: BTreeMap<(Kind, NamespacedName), Vec<Notice>>,
}

/// A Service's name with what exists under it: the Service, slices for it, or both.
#[derive(Clone, Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    /// Ordered by the slices' names. A list and no map: nearly always there is one.
    slices: Vec<Arc<EndpointSlice>>,
}

impl Cluster {
    pub(super) fn new(node_name: Arc<str>) -> Cluster {
        Cluster { node_name, ..Cluster::default() }
    }

    /// One Service, if it exists and has something to program.
    pub fn service(&self, name: &NamespacedName) -> Option<&Service> {
        self.entries.get(name)?.service.as_deref()
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|e| e.service.as_deref())
    }

    /// The slices that name a Service, by the slices' names; also for one that does not exist.
    pub fn slices(&self, service: &NamespacedName) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.entries.get(service).map_or(&[][..], |e| &e.slices);
        slices.iter().map(|s| &**s)
    }

    /// This node's object as last seen. Kept when the object goes, since packets still come.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// This node's name: endpoints with this `nodeName` are local.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Whether this node's object was there once and is not any more, or a full list of Nodes
    /// came without it.
    pub fn node_gone(&self) -> bool {
        self.node_gone
    }

    /// Whether load balancers may send new traffic to this node: its object has not gone, is not
    /// being deleted and is not tainted by the cluster autoscaler
    /// (`pkg/proxy/healthcheck/proxy_health.go`). True until the object has been heard of.
    pub fn node_eligible(&self) -> bool {
        let leaving = self.node.as_ref().is_some_and(|n| n.to_be_deleted || n.deleting);
        !self.node_gone && !leaving
    }

    /// Everything that is known, told again as full lists of each kind; without Notices.
    pub fn events(&self) -> Vec<Event> {
        let services = self.services().map(|s| Event::Service(Box::new(s.clone())));
        let slices = self.slices.iter().map(|s| Event::Slice(Box::new((*s.0).clone())));
        let gone = self.node_gone.then_some(Event::NodeGone);
        let node = self.node.iter().map(|node| Event::Node(Box::new(node.clone()))).chain(gone);
        let cidrs = self.cidrs.iter();
        let cidrs = cidrs.map(|(name, cidrs)| Event::ServiceCidr(name.clone(), cidrs.clone()));
        let listed = |kind: Kind, objects: Vec<Event>| {
            let started = std::iter::once(Event::ListStarted(kind));
            started.chain(objects).chain([Event::ListEnded(kind)])
        };
        let all = listed(Kind::Service, services.collect())
            .chain(listed(Kind::EndpointSlice, slices.collect()))
            .chain(listed(Kind::Node, node.collect()))
            .chain(listed(Kind::ServiceCidr, cidrs.collect()));
        all.collect()
    }

    /// The CIDRs of all ServiceCIDR objects, sorted, each once.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        self.cidr_uses.keys().copied().collect()
    }

    /// What is wrong with objects now, by kind and name of the object.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.values().flatten()
    }

    /// Names of every object of a kind that is known, or has notices.
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<NamespacedName> {
        let noticed = self.notices.keys().filter(|(k, _)| *k == kind).map(|(_, name)| name);
        let mut names: BTreeSet<NamespacedName> = noticed.cloned().collect();
        match kind {
            Kind::Service => names.extend(self.services().map(|s| s.name.clone())),
            Kind::EndpointSlice => names.extend(self.slices.iter().map(|s| s.0.name.clone())),
            Kind::ServiceCidr => names.extend(self.cidrs.keys().cloned()),
            Kind::Node => names.extend(self.node.iter().map(|n| node_key(&n.name))),
        }
        names
    }

    /// Puts a Service in or takes it out; says whether that changed anything.
    pub(super) fn set_service(
        &mut self,
        name: &NamespacedName,
        service: Option<Box<Service>>,
    ) -> bool {
        match self.entries.get_mut(name) {
            Some(entry) if entry.service == service => return false,
            Some(entry) => entry.service = service,
            None if service.is_none() => return false,
            None => {
                self.entries.insert(name.clone(), Entry { service, slices: Vec::new() });
            }
        }
        self.drop_if_empty(name);
        true
    }

    /// One slice, by its own name.
    pub(super) fn slice(&self, name: &NamespacedName) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(name).map(|s| &s.0)
    }

    /// Puts a slice in, in the place of the one of the same name.
    pub(super) fn insert_slice(&mut self, slice: EndpointSlice) {
        self.remove_slice(&slice.name);
        let slice = Arc::new(slice);
        let group = &mut self.entries.entry(slice.service.clone()).or_default().slices;
        let place = group.partition_point(|s| s.name < slice.name);
        if group.is_empty() {
            group.reserve_exact(1);
        }
        group.insert(place, slice.clone());
        self.slices.insert(ByName(slice));
    }

    /// Takes a slice out and returns it.
    pub(super) fn remove_slice(&mut self, name: &NamespacedName) -> Option<Arc<EndpointSlice>> {
        let slice = self.slices.take(name)?.0;
        if let Some(entry) = self.entries.get_mut(&slice.service)
            && let Ok(place) = entry.slices.binary_search_by(|s| s.name.cmp(name))
        {
            entry.slices.remove(place);
        }
        self.drop_if_empty(&slice.service);
        Some(slice)
    }

    fn drop_if_empty(&mut self, name: &NamespacedName) {
        let empty =
            self.entries.get(name).is_some_and(|e| e.service.is_none() && e.slices.is_empty());
        if empty {
            self.entries.remove(name);
        }
    }

    pub(super) fn set_node(&mut self, node: Node) {
        self.node = Some(node);
        self.node_gone = false;
    }

    pub(super) fn set_node_gone(&mut self) {
        self.node_gone = true;
    }

    /// Says what CIDRs a ServiceCIDR object has; says whether the CIDRs of all changed.
    pub(super) fn set_cidrs(&mut self, name: &NamespacedName, cidrs: Vec<IpNet>) -> bool {
        let cidrs: Vec<IpNet> = cidrs.iter().map(IpNet::trunc).collect();
        let mut changed = false;
        for cidr in &cidrs {
            let uses = self.cidr_uses.entry(*cidr).or_default();
            *uses += 1;
            changed |= *uses == 1;
        }
        let old = if cidrs.is_empty() {
            self.cidrs.remove(name)
        } else {
            self.cidrs.insert(name.clone(), cidrs)
        };
        for cidr in old.unwrap_or_default() {
            changed |= self.release_cidr(cidr);
        }
        changed
    }

    fn release_cidr(&mut self, cidr: IpNet) -> bool {
        let uses = self.cidr_uses.get_mut(&cidr).expect("every CIDR of an object is counted");
        *uses -= 1;
        let unused = *uses == 0;
        if unused {
            self.cidr_uses.remove(&cidr);
        }
        unused
    }

    /// Says what is wrong with an object now; says whether that is news.
    pub(super) fn set_notices(
        &mut self,
        kind: Kind,
        name: &NamespacedName,
        notices: Vec<Notice>,
    ) -> bool {
        let key = (kind, name.clone());
        if notices.is_empty() {
            return self.notices.remove(&key).is_some();
        }
        self.notices.insert(key, notices.clone()).as_ref() != Some(&notices)
    }
}

/// The name a Node goes by among namespaced ones.
pub(super) fn node_key(name: &str) -> NamespacedName {
    NamespacedName::new("", name)
}

/// A slice, ordered and looked up by its own name: the name inside is the key.
#[derive(Clone, Debug)]
struct ByName(Arc<EndpointSlice>);

impl Borrow<NamespacedName> for ByName {
    fn borrow(&self) -> &NamespacedName {
        &self.0.name
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ByName {}
