//! From the API's objects and a node's setup to a proxy that has been told of them, on whichever
//! kernel it is given. Goes the way the binary goes: decode, feed, sync.
//! Must never decide what is right. Tests: `tests/`.

use kube_proxy::api::decode::{self, Decoder};
use kube_proxy::kernel::Kernel;
use kube_proxy::model::{Event, Kind};
use kube_proxy::sync::{Options, Proxy};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Setup};

/// The API's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// `v1` Services.
    pub services: Vec<Value>,
    /// `discovery.k8s.io/v1` EndpointSlices.
    pub slices: Vec<Value>,
    /// `networking.k8s.io/v1` ServiceCIDRs.
    pub service_cidrs: Vec<Value>,
}

impl Objects {
    /// As the oracle reads them.
    pub fn cluster(&self) -> Cluster {
        Cluster::read(&self.services, &self.slices, &self.service_cidrs)
    }
}

/// Everything a proxy is told at its start, in the order the lists come in.
pub fn events(setup: &Setup, objects: &Objects, decoder: &mut Decoder) -> Vec<Event> {
    let nodes = [node(setup)];
    let lists: [(Kind, &[Value]); 4] = [
        (Kind::Service, &objects.services),
        (Kind::EndpointSlice, &objects.slices),
        (Kind::Node, &nodes),
        (Kind::ServiceCidr, &objects.service_cidrs),
    ];
    let mut events = Vec::new();
    for (kind, list) in lists {
        events.push(Event::ListStarted(kind));
        events.extend(list.iter().flat_map(|object| told(kind, object, decoder)));
        events.push(Event::ListEnded(kind));
    }
    events
}

/// What one object comes to.
pub fn told(kind: Kind, object: &Value, decoder: &mut Decoder) -> Vec<Event> {
    match kind {
        Kind::Service => decode::service(object, decoder),
        Kind::EndpointSlice => decode::endpoint_slice(object, decoder),
        Kind::Node => decode::node(object, decoder),
        Kind::ServiceCidr => decode::service_cidr(object, decoder),
    }
}

/// The Node object of a setup.
pub fn node(setup: &Setup) -> Value {
    let addresses: Vec<Value> =
        setup.addresses.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": setup.node_name,
            "labels": {"topology.kubernetes.io/zone": setup.zone},
        },
        "status": {"addresses": addresses},
    })
}

/// The proxy's options of a setup.
pub fn options(setup: &Setup) -> Options {
    Options {
        node_name: setup.node_name.as_str().into(),
        mode: setup.mode,
        steering: setup.steering,
        masquerade_bit: setup.masquerade_bit,
        masquerade_all: setup.masquerade_all,
        detector: setup.detector.clone(),
        node_port_addresses: setup.node_port_addresses.clone(),
        ipvs: kube_proxy::sync::IpvsOptions::default(),
        localhost_node_ports: setup.localhost_node_ports,
        families: setup.families.clone(),
        ..Options::default()
    }
}

/// A proxy on `kernel` that knows everything and has synced once.
pub fn synced(
    kernel: Box<dyn Kernel + Send>,
    setup: &Setup,
    objects: &Objects,
) -> Result<Proxy, String> {
    let mut proxy = Proxy::new(kernel, options(setup));
    let mut decoder = Decoder::new(setup.node_name.as_str());
    events(setup, objects, &mut decoder).into_iter().for_each(|event| proxy.feed(event));
    if !proxy.ready() {
        return Err("the proxy is not ready after every list has ended".to_owned());
    }
    proxy.sync().map_err(|e| format!("sync: {e}"))?;
    Ok(proxy)
}

impl std::fmt::Display for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut all = self.services.iter().chain(&self.slices).chain(&self.service_cidrs);
        all.try_for_each(|object| writeln!(f, "  {object}"))
    }
}
