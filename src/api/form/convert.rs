//! Messages into the objects that `decode` judges, the same that JSON is read into.
//!
//! Go writes out every field that is no pointer, so that an empty string or a zero stands for an
//! absent field. It must never judge. Tests: below.

use super::message as pb;
use crate::api::lenient::{List, Present, Scalar};
use crate::api::{objects, parse};

fn text(text: String) -> Scalar {
    if text.is_empty() { Scalar::Absent } else { Scalar::Text(text.into()) }
}

fn pointed(text: Option<String>) -> Scalar {
    text.map_or(Scalar::Absent, |text| Scalar::Text(text.into()))
}

fn number(number: i32) -> Scalar {
    if number == 0 { Scalar::Absent } else { Scalar::Whole(number.into()) }
}

fn flag(flag: Option<bool>) -> Scalar {
    flag.map_or(Scalar::Absent, Scalar::Flag)
}

fn list<T, U>(items: Vec<T>, one: impl Fn(T) -> U) -> List<U> {
    List { items: items.into_iter().map(one).collect(), wrong: None }
}

fn texts(items: Vec<String>) -> List<Scalar> {
    list(items, |item| Scalar::Text(item.into()))
}

fn time(time: Option<pb::Time>) -> Scalar {
    let seconds = time.and_then(|time| u64::try_from(time.seconds).ok()).filter(|s| *s > 0);
    let since = seconds.map(std::time::Duration::from_secs);
    since.map_or(Scalar::Absent, |since| Scalar::Text(parse::rfc3339_micros(since).into()))
}

impl From<pb::ObjectMeta> for objects::Meta {
    fn from(meta: pb::ObjectMeta) -> Self {
        objects::Meta {
            name: text(meta.name),
            namespace: text(meta.namespace),
            resource_version: text(meta.resource_version),
            created: time(meta.created),
            deleted: time(meta.deleted),
            labels: labels(meta.labels),
            annotations: annotations(meta.annotations),
            wrong: None,
        }
    }
}

fn labels(entries: Vec<pb::Entry>) -> objects::Labels {
    let mut labels = objects::Labels::default();
    for entry in entries {
        match &*entry.key {
            "service.kubernetes.io/service-proxy-name" => labels.proxy_name = Present(true),
            "service.kubernetes.io/headless" => labels.headless = Present(true),
            "kubernetes.io/service-name" => labels.service = Scalar::Text(entry.value.into()),
            "topology.kubernetes.io/zone" => labels.zone = Scalar::Text(entry.value.into()),
            _ => {}
        }
    }
    labels
}

fn annotations(entries: Vec<pb::Entry>) -> objects::Annotations {
    let mut annotations = objects::Annotations::default();
    for entry in entries {
        let value = Scalar::Text(entry.value.into());
        match &*entry.key {
            "endpoints.kubernetes.io/last-change-trigger-time" => annotations.trigger_time = value,
            "k8s.io/initial-events-end" => annotations.initial_end = value,
            _ => {}
        }
    }
    annotations
}

fn meta(meta: Option<pb::ObjectMeta>) -> objects::Meta {
    meta.map(Into::into).unwrap_or_default()
}

impl From<pb::AnyObject> for objects::AnyObject {
    fn from(object: pb::AnyObject) -> Self {
        objects::AnyObject { meta: meta(object.meta), wrong: None }
    }
}

impl From<pb::Service> for objects::Service {
    fn from(service: pb::Service) -> Self {
        let status = service.status.and_then(|status| status.load_balancer);
        let ingress = status.map(|balancer| balancer.ingress).unwrap_or_default();
        let ingress = list(ingress, |ingress| objects::Ingress {
            ip: text(ingress.ip),
            ip_mode: pointed(ingress.ip_mode),
            wrong: None,
        });
        let load_balancer = objects::LoadBalancer { ingress, wrong: None };
        objects::Service {
            meta: meta(service.meta),
            spec: service.spec.map(Into::into).unwrap_or_default(),
            status: objects::ServiceStatus { load_balancer, wrong: None },
            wrong: None,
        }
    }
}

impl From<pb::ServiceSpec> for objects::ServiceSpec {
    fn from(spec: pb::ServiceSpec) -> Self {
        let timeout = spec.affinity_config.and_then(|config| config.client_ip?.timeout);
        let timeout = timeout.map_or(Scalar::Absent, |seconds| Scalar::Whole(seconds.into()));
        let client_ip = objects::ClientIp { timeout, wrong: None };
        objects::ServiceSpec {
            service_type: text(spec.service_type),
            cluster_ip: text(spec.cluster_ip),
            cluster_ips: texts(spec.cluster_ips),
            external_ips: texts(spec.external_ips),
            source_ranges: texts(spec.source_ranges),
            external_policy: text(spec.external_policy),
            internal_policy: text(spec.internal_policy),
            affinity: text(spec.affinity),
            affinity_config: objects::AffinityConfig { client_ip, wrong: None },
            health_check_node_port: number(spec.health_check_node_port),
            ports: list(spec.ports, |port| objects::ServicePort {
                name: text(port.name),
                protocol: text(port.protocol),
                port: number(port.port),
                node_port: number(port.node_port),
                wrong: None,
            }),
            wrong: None,
        }
    }
}

impl From<pb::EndpointSlice> for objects::EndpointSlice {
    fn from(slice: pb::EndpointSlice) -> Self {
        objects::EndpointSlice {
            meta: meta(slice.meta),
            address_type: text(slice.address_type),
            ports: list(slice.ports, |port| objects::SlicePort {
                name: pointed(port.name),
                protocol: pointed(port.protocol),
                port: port.port.map_or(Scalar::Absent, |port| Scalar::Whole(port.into())),
                wrong: None,
            }),
            endpoints: list(slice.endpoints, Into::into),
            wrong: None,
        }
    }
}

impl From<pb::Endpoint> for objects::Endpoint {
    fn from(endpoint: pb::Endpoint) -> Self {
        let conditions = endpoint.conditions.unwrap_or_default();
        let hints = endpoint.hints.unwrap_or_default();
        let named = |named: pb::Named| objects::Named { name: text(named.name), wrong: None };
        objects::Endpoint {
            addresses: texts(endpoint.addresses),
            conditions: objects::Conditions {
                ready: flag(conditions.ready),
                serving: flag(conditions.serving),
                terminating: flag(conditions.terminating),
                wrong: None,
            },
            node: pointed(endpoint.node),
            hints: objects::Hints {
                zones: list(hints.zones, named),
                nodes: list(hints.nodes, named),
                wrong: None,
            },
            wrong: None,
        }
    }
}

impl From<pb::Node> for objects::Node {
    fn from(node: pb::Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        objects::Node {
            meta: meta(node.meta),
            spec: objects::NodeSpec {
                pod_cidr: text(spec.pod_cidr),
                pod_cidrs: texts(spec.pod_cidrs),
                taints: list(spec.taints, |t| objects::Taint { key: text(t.key), wrong: None }),
                wrong: None,
            },
            status: objects::NodeStatus {
                addresses: list(status.addresses, |address| objects::NodeAddress {
                    address_type: text(address.address_type),
                    address: text(address.address),
                    wrong: None,
                }),
                wrong: None,
            },
            wrong: None,
        }
    }
}

impl From<pb::ServiceCidr> for objects::ServiceCidr {
    fn from(cidr: pb::ServiceCidr) -> Self {
        let cidrs = texts(cidr.spec.unwrap_or_default().cidrs);
        let spec = objects::ServiceCidrSpec { cidrs, wrong: None };
        objects::ServiceCidr { meta: meta(cidr.meta), spec, wrong: None }
    }
}
