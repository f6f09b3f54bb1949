//! The API's objects, with only the fields a service proxy reads, as they came.
//!
//! Nothing is checked or defaulted here: `decode` does that. Which fields are read, and which on
//! purpose are not, follows the reference (`pkg/proxy/serviceport.go`, `endpointslicecache.go`).
//! Tests: in `decode`.

use super::lenient::{List, Present, Scalar, lenient_object};

lenient_object! {
    /// `metadata` of any object.
    Meta {
        name: Scalar = "name",
        namespace: Scalar = "namespace",
        resource_version: Scalar = "resourceVersion",
        created: Scalar = "creationTimestamp",
        deleted: Scalar = "deletionTimestamp",
        labels: Labels = "labels",
        annotations: Annotations = "annotations",
    }
}

lenient_object! {
    /// The labels that count.
    Labels {
        proxy_name: Present = "service.kubernetes.io/service-proxy-name",
        headless: Present = "service.kubernetes.io/headless",
        service: Scalar = "kubernetes.io/service-name",
        zone: Scalar = "topology.kubernetes.io/zone",
    }
}

lenient_object! {
    /// The annotations that count.
    Annotations {
        ipvs_scheduler: Scalar = "kube-proxy.io/ipvs-scheduler",
        proxy_protocol: Scalar = "kube-proxy.io/proxy-protocol",
        forget_tcp_flows: Scalar = "kube-proxy.io/forget-tcp-flows",
        trigger_time: Scalar = "endpoints.kubernetes.io/last-change-trigger-time",
        initial_end: Scalar = "k8s.io/initial-events-end",
    }
}

lenient_object! {
    /// Any object, as far as its name. What a deletion is read as.
    AnyObject { meta: Meta = "metadata", }
}

lenient_object! {
    /// `v1` Service.
    Service {
        meta: Meta = "metadata",
        spec: ServiceSpec = "spec",
        status: ServiceStatus = "status",
    }
}

lenient_object! {
    /// `spec` of a Service.
    ServiceSpec {
        service_type: Scalar = "type",
        cluster_ip: Scalar = "clusterIP",
        cluster_ips: List<Scalar> = "clusterIPs",
        external_ips: List<Scalar> = "externalIPs",
        source_ranges: List<Scalar> = "loadBalancerSourceRanges",
        external_policy: Scalar = "externalTrafficPolicy",
        internal_policy: Scalar = "internalTrafficPolicy",
        affinity: Scalar = "sessionAffinity",
        affinity_config: AffinityConfig = "sessionAffinityConfig",
        health_check_node_port: Scalar = "healthCheckNodePort",
        ports: List<ServicePort> = "ports",
    }
}

lenient_object! {
    /// `sessionAffinityConfig`.
    AffinityConfig { client_ip: ClientIp = "clientIP", }
}

lenient_object! {
    /// `sessionAffinityConfig.clientIP`.
    ClientIp { timeout: Scalar = "timeoutSeconds", }
}

lenient_object! {
    /// One port of a Service.
    ServicePort {
        name: Scalar = "name",
        protocol: Scalar = "protocol",
        port: Scalar = "port",
        node_port: Scalar = "nodePort",
    }
}

lenient_object! {
    /// `status` of a Service.
    ServiceStatus { load_balancer: LoadBalancer = "loadBalancer", }
}

lenient_object! {
    /// `status.loadBalancer`.
    LoadBalancer { ingress: List<Ingress> = "ingress", }
}

lenient_object! {
    /// One `status.loadBalancer.ingress`.
    Ingress { ip: Scalar = "ip", ip_mode: Scalar = "ipMode", }
}

lenient_object! {
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice {
        meta: Meta = "metadata",
        address_type: Scalar = "addressType",
        ports: List<SlicePort> = "ports",
        endpoints: List<Endpoint> = "endpoints",
    }
}

lenient_object! {
    /// One port of a slice.
    SlicePort { name: Scalar = "name", protocol: Scalar = "protocol", port: Scalar = "port", }
}

lenient_object! {
    /// One endpoint of a slice.
    Endpoint {
        addresses: List<Scalar> = "addresses",
        conditions: Conditions = "conditions",
        node: Scalar = "nodeName",
        hints: Hints = "hints",
    }
}

lenient_object! {
    /// `endpoints[].conditions`.
    Conditions { ready: Scalar = "ready", serving: Scalar = "serving", terminating: Scalar = "terminating", }
}

lenient_object! {
    /// `endpoints[].hints`.
    Hints { zones: List<Named> = "forZones", nodes: List<Named> = "forNodes", }
}

lenient_object! {
    /// Anything that is an object with a name.
    Named { name: Scalar = "name", }
}

lenient_object! {
    /// `v1` Node.
    Node { meta: Meta = "metadata", spec: NodeSpec = "spec", status: NodeStatus = "status", }
}

lenient_object! {
    /// `spec` of a Node.
    NodeSpec { pod_cidr: Scalar = "podCIDR", pod_cidrs: List<Scalar> = "podCIDRs", taints: List<Taint> = "taints", }
}

lenient_object! {
    /// One taint of a Node.
    Taint { key: Scalar = "key", }
}

lenient_object! {
    /// `status` of a Node.
    NodeStatus { addresses: List<NodeAddress> = "addresses", }
}

lenient_object! {
    /// One address of a Node.
    NodeAddress { address_type: Scalar = "type", address: Scalar = "address", }
}

lenient_object! {
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr { meta: Meta = "metadata", spec: ServiceCidrSpec = "spec", }
}

lenient_object! {
    /// `spec` of a ServiceCIDR.
    ServiceCidrSpec { cidrs: List<Scalar> = "cidrs", }
}
