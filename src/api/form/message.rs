//! The API's messages, with only the fields a service proxy reads; prost steps over the others.
//! Numbers are those of `generated.proto` in `k8s.io/api` and `k8s.io/apimachinery`, which never
//! change. It must never judge what is read. Tests: `convert.rs`, and the lab's API server, which
//! has an encoder of its own.

use prost::Message;

/// `runtime.Unknown`: what stands behind the four bytes `k8s\0`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Unknown {
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) raw: Vec<u8>,
}

/// `meta/v1` WatchEvent, without an envelope.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchEvent {
    #[prost(string, tag = "1")]
    pub(crate) change: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) object: Option<RawExtension>,
}

/// `runtime.RawExtension`: here an object in its envelope.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawExtension {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) raw: Vec<u8>,
}

/// `meta/v1` ListMeta.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListMeta {
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(string, tag = "3")]
    pub(crate) token: String,
}

/// `meta/v1` ObjectMeta.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ObjectMeta {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
    #[prost(string, tag = "6")]
    pub(crate) resource_version: String,
    #[prost(message, optional, tag = "8")]
    pub(crate) created: Option<Time>,
    #[prost(message, optional, tag = "9")]
    pub(crate) deleted: Option<Time>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) labels: Vec<Entry>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) annotations: Vec<Entry>,
}

/// `meta/v1` Time.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Time {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
}

/// An entry of a map of strings.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// Any object, as far as its metadata.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnyObject {
    #[prost(message, optional, tag = "1")]
    pub(crate) meta: Option<ObjectMeta>,
}

/// `v1` Service.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Service {
    #[prost(message, optional, tag = "1")]
    pub(crate) meta: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub(crate) spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    pub(crate) status: Option<ServiceStatus>,
}

/// `spec` of a Service.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    pub(crate) ports: Vec<ServicePort>,
    #[prost(string, tag = "3")]
    pub(crate) cluster_ip: String,
    #[prost(string, tag = "4")]
    pub(crate) service_type: String,
    #[prost(string, repeated, tag = "5")]
    pub(crate) external_ips: Vec<String>,
    #[prost(string, tag = "7")]
    pub(crate) affinity: String,
    #[prost(string, repeated, tag = "9")]
    pub(crate) source_ranges: Vec<String>,
    #[prost(string, tag = "11")]
    pub(crate) external_policy: String,
    #[prost(int32, tag = "12")]
    pub(crate) health_check_node_port: i32,
    #[prost(message, optional, tag = "14")]
    pub(crate) affinity_config: Option<AffinityConfig>,
    #[prost(string, repeated, tag = "18")]
    pub(crate) cluster_ips: Vec<String>,
    #[prost(string, tag = "22")]
    pub(crate) internal_policy: String,
}

/// One port of a Service.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServicePort {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) protocol: String,
    #[prost(int32, tag = "3")]
    pub(crate) port: i32,
    #[prost(int32, tag = "5")]
    pub(crate) node_port: i32,
}

/// `sessionAffinityConfig`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AffinityConfig {
    #[prost(message, optional, tag = "1")]
    pub(crate) client_ip: Option<ClientIp>,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClientIp {
    #[prost(int32, optional, tag = "1")]
    pub(crate) timeout: Option<i32>,
}

/// `status` of a Service.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    pub(crate) load_balancer: Option<LoadBalancer>,
}

/// `status.loadBalancer`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LoadBalancer {
    #[prost(message, repeated, tag = "1")]
    pub(crate) ingress: Vec<Ingress>,
}

/// One `status.loadBalancer.ingress`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ingress {
    #[prost(string, tag = "1")]
    pub(crate) ip: String,
    #[prost(string, optional, tag = "3")]
    pub(crate) ip_mode: Option<String>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    pub(crate) meta: Option<ObjectMeta>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) ports: Vec<SlicePort>,
    #[prost(string, tag = "4")]
    pub(crate) address_type: String,
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Endpoint {
    #[prost(string, repeated, tag = "1")]
    pub(crate) addresses: Vec<String>,
    #[prost(message, optional, tag = "2")]
    pub(crate) conditions: Option<Conditions>,
    #[prost(string, optional, tag = "6")]
    pub(crate) node: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) hints: Option<Hints>,
}

/// `endpoints[].conditions`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Conditions {
    #[prost(bool, optional, tag = "1")]
    pub(crate) ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(crate) serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) terminating: Option<bool>,
}

/// `endpoints[].hints`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hints {
    #[prost(message, repeated, tag = "1")]
    pub(crate) zones: Vec<Named>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) nodes: Vec<Named>,
}

/// `ForZone`, `ForNode`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Named {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// One port of a slice.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SlicePort {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) port: Option<i32>,
}

/// `v1` Node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(message, optional, tag = "1")]
    pub(crate) meta: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub(crate) spec: Option<NodeSpec>,
    #[prost(message, optional, tag = "3")]
    pub(crate) status: Option<NodeStatus>,
}

/// `spec` of a Node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeSpec {
    #[prost(string, tag = "1")]
    pub(crate) pod_cidr: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) taints: Vec<Taint>,
    #[prost(string, repeated, tag = "7")]
    pub(crate) pod_cidrs: Vec<String>,
}

/// One taint of a Node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Taint {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
}

/// `status` of a Node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeStatus {
    #[prost(message, repeated, tag = "5")]
    pub(crate) addresses: Vec<NodeAddress>,
}

/// One address of a Node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeAddress {
    #[prost(string, tag = "1")]
    pub(crate) address_type: String,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
}

/// `networking.k8s.io/v1` ServiceCIDR.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceCidr {
    #[prost(message, optional, tag = "1")]
    pub(crate) meta: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub(crate) spec: Option<ServiceCidrSpec>,
}

/// `spec` of a ServiceCIDR.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceCidrSpec {
    #[prost(string, repeated, tag = "1")]
    pub(crate) cidrs: Vec<String>,
}

/// `v1` Status: what an error looks like.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(string, tag = "3")]
    pub(crate) message: String,
    #[prost(string, tag = "4")]
    pub(crate) reason: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) details: Option<StatusDetails>,
    #[prost(int32, tag = "6")]
    pub(crate) code: i32,
}

/// `details` of a Status.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusDetails {
    #[prost(int32, tag = "5")]
    pub(crate) retry_after: i32,
}
