//! The same clusters as objects of the API, dressed as a real API server hands them out: owners,
//! managed fields, target references. What the proxy does not read is most of what it is sent.
//! Knows no kernel. Tests: below.

use serde_json::{Value, json};

use kube_proxy::model::Family;

use crate::cluster::{self, cluster_ip};

/// Name of the node on which the proxy runs.
pub const NODE: &str = netlab::plan::NODE;
/// Namespace of all objects.
pub const NAMESPACE: &str = "load";
/// Nodes that the endpoints run on.
const NODES: usize = 500;

/// The n-th Service.
pub fn service(number: usize) -> Value {
    let (name, ip) = (format!("service-{number}"), cluster_ip(number, Family::V4).to_string());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": uid(1, number),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": name, "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": name},
            "managedFields": managed("helm", &["f:spec", "f:ports", "f:selector", "f:type"]),
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None", "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The slice of the n-th Service.
pub fn slice(number: usize, addresses: &[String]) -> Value {
    let name = format!("service-{number}");
    let endpoints: Vec<Value> = addresses.iter().enumerate().map(endpoint(number)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-x7k2p"), "namespace": NAMESPACE, "uid": uid(2, number),
            "generateName": format!("{name}-"), "generation": 12,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "app": name, "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "uid": uid(1, number),
                "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": managed("kube-controller-manager", &["f:endpoints", "f:ports"]),
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}

/// The same Service or slice over UDP.
pub fn over_udp(mut object: Value) -> Value {
    let ports = if object["kind"] == "Service" { "/spec/ports" } else { "/ports" };
    object.pointer_mut(ports).and_then(Value::as_array_mut).into_iter().flatten().for_each(
        |port| {
            port["protocol"] = json!("UDP");
        },
    );
    object
}

/// Addresses of so many endpoints of the n-th Service.
pub fn addresses(number: usize, count: usize) -> Vec<String> {
    (0..count).map(|n| cluster::endpoint(number, n, Family::V4).to_string()).collect()
}

/// The node.
pub fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "spec": {"podCIDR": "11.0.0.0/24", "podCIDRs": ["11.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.9"}]},
    })
}

/// So many Services with so many endpoints each, and the node.
pub fn all(services: usize, endpoints: usize) -> Vec<Value> {
    let mut out = Vec::with_capacity(2 * services + 1);
    for number in 0..services {
        out.push(service(number));
        out.push(slice(number, &addresses(number, endpoints)));
    }
    out.push(node());
    out
}

fn endpoint(service: usize) -> impl Fn((usize, &String)) -> Value {
    move |(number, address)| {
        json!({
            "addresses": [address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}.cluster.internal", (service + number) % NODES),
            "zone": "zone-a",
            "targetRef": {
                "kind": "Pod", "namespace": NAMESPACE, "uid": uid(3, service * 100 + number),
                "name": format!("service-{service}-6d4cf56db6-{number:05}"),
            },
        })
    }
}

fn uid(kind: usize, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn managed(manager: &str, fields: &[&str]) -> Value {
    let fields: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({".": {}}))).collect();
    json!([{
        "manager": manager, "operation": "Update", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_as_large_as_real_ones() {
        let [ten, twenty] = [10, 20].map(|n| slice(7, &addresses(7, n)).to_string().len());
        assert!((250..450).contains(&((twenty - ten) / 10)), "{ten} and {twenty} bytes");
        assert_eq!(all(3, 2).len(), 7);
    }
}
