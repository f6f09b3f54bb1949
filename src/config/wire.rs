//! The configuration file's own shape: `KubeProxyConfiguration`, `kubeproxy.config.k8s.io/v1alpha1`
//! of Kubernetes v1.36, every field optional. Flags and file meet here.
//! Nothing is judged here: `defaults` fills it, `validate` turns it into `Settings`. Each field's
//! name stands once, in `visit`, for reading (`file`) and writing (`write`) alike.
//! Tests: `config::tests`.

use std::collections::BTreeMap;

use super::forms::GoDuration;

/// `apiVersion` of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// `kind` of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// Goes over every field of a `Wire`, to read or to write it.
pub trait Visitor {
    /// A field with a value.
    fn field<T: Value>(&mut self, name: &'static str, slot: &mut Option<T>);
    /// A field with fields of its own.
    fn section(&mut self, name: &'static str, visit: &mut dyn FnMut(&mut Self));
}

/// A value a field can have. The conversion is with JSON's values, as the file's YAML means them.
pub trait Value: Sized {
    /// Reads it; an error says what is allowed.
    fn read(value: &serde_json::Value) -> Result<Self, String>;
    /// Writes it.
    fn write(&self) -> serde_json::Value;
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Wire {
    pub bind_address: Option<String>,
    pub bind_address_hard_fail: Option<bool>,
    pub client_connection: ClientConnection,
    pub cluster_cidr: Option<String>,
    pub config_sync_period: Option<GoDuration>,
    pub conntrack: Conntrack,
    pub detect_local: DetectLocal,
    pub detect_local_mode: Option<String>,
    pub enable_profiling: Option<bool>,
    pub feature_gates: Option<BTreeMap<String, bool>>,
    pub healthz_bind_address: Option<String>,
    pub hostname_override: Option<String>,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub logging: Logging,
    pub metrics_bind_address: Option<String>,
    pub mode: Option<String>,
    pub nftables: Nftables,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub port_range: Option<String>,
    pub show_hidden_metrics_for_version: Option<String>,
    /// Userspace mode's; v1.36 has dropped it from the file, we read and write it where it is set.
    pub udp_idle_timeout: Option<GoDuration>,
    /// Not of the reference's file: userspace mode's own.
    pub userspace: Userspace,
    pub windows_run_as_service: Option<bool>,
    pub winkernel: Winkernel,
}

/// `userspace`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Userspace {
    /// How long open connections may go on after SIGTERM.
    pub drain_timeout: Option<GoDuration>,
    /// Connections and UDP flows carried at once; 0 is as many as descriptors allow.
    pub max_connections: Option<i32>,
    /// The same of one Service port; 0 is without a limit of its own.
    pub max_connections_per_service: Option<i32>,
}

/// `clientConnection`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct ClientConnection {
    pub accept_content_types: Option<String>,
    pub burst: Option<i32>,
    pub content_type: Option<String>,
    pub kubeconfig: Option<String>,
    pub qps: Option<f32>,
}

/// `conntrack`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_be_liberal: Option<bool>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub udp_stream_timeout: Option<GoDuration>,
    pub udp_timeout: Option<GoDuration>,
}

/// `detectLocal`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct DetectLocal {
    pub bridge_interface: Option<String>,
    pub interface_name_prefix: Option<String>,
}

/// `iptables`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Iptables {
    pub localhost_node_ports: Option<bool>,
    pub masquerade_all: Option<bool>,
    pub masquerade_bit: Option<i32>,
    pub min_sync_period: Option<GoDuration>,
    pub sync_period: Option<GoDuration>,
}

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Ipvs {
    pub exclude_cidrs: Option<Vec<String>>,
    /// Ours: Kubernetes has no such field.
    pub local_fallback: Option<bool>,
    pub min_sync_period: Option<GoDuration>,
    pub scheduler: Option<String>,
    pub strict_arp: Option<bool>,
    pub sync_period: Option<GoDuration>,
    pub tcp_fin_timeout: Option<GoDuration>,
    pub tcp_timeout: Option<GoDuration>,
    pub udp_timeout: Option<GoDuration>,
}

/// `nftables`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Nftables {
    pub masquerade_all: Option<bool>,
    pub masquerade_bit: Option<i32>,
    pub min_sync_period: Option<GoDuration>,
    pub sync_period: Option<GoDuration>,
}

/// `winkernel`: read, so that one file may serve all nodes, and left alone.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Winkernel {
    pub enable_dsr: Option<bool>,
    pub forward_health_check_vip: Option<bool>,
    pub network_name: Option<String>,
    pub root_hns_endpoint_name: Option<String>,
    pub source_vip: Option<String>,
}

/// `logging` (component-base `logs/api/v1`).
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct Logging {
    pub flush_frequency: Option<FlushFrequency>,
    pub format: Option<String>,
    pub json: OutputRouting,
    pub text: OutputRouting,
    pub verbosity: Option<u32>,
    pub vmodule: Option<Vec<VmoduleItem>>,
}

/// `logging.options.text` and `.json`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the file's, documented by Kubernetes")]
pub struct OutputRouting {
    pub info_buffer_size: Option<Quantity>,
    pub split_stream: Option<bool>,
}

/// `logging.flushFrequency`: a duration, or a number of nanoseconds, which is how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushFrequency(
    /// The duration.
    pub GoDuration,
);

/// A size such as `512Ki`, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(
    /// Its text.
    pub String,
);

/// One of `logging.vmodule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmoduleItem {
    /// A source file's name without `.rs`, with `*` and `?`.
    pub file_pattern: String,
    /// The verbosity for those files.
    pub verbosity: u32,
}

impl Wire {
    /// Every field, in the order of the file as the reference writes it.
    pub fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("bindAddress", &mut self.bind_address);
        v.field("bindAddressHardFail", &mut self.bind_address_hard_fail);
        v.section("clientConnection", &mut |v| self.client_connection.visit(v));
        v.field("clusterCIDR", &mut self.cluster_cidr);
        v.field("configSyncPeriod", &mut self.config_sync_period);
        v.section("conntrack", &mut |v| self.conntrack.visit(v));
        v.section("detectLocal", &mut |v| {
            v.field("bridgeInterface", &mut self.detect_local.bridge_interface);
            v.field("interfaceNamePrefix", &mut self.detect_local.interface_name_prefix);
        });
        v.field("detectLocalMode", &mut self.detect_local_mode);
        v.field("enableProfiling", &mut self.enable_profiling);
        v.field("featureGates", &mut self.feature_gates);
        v.field("healthzBindAddress", &mut self.healthz_bind_address);
        v.field("hostnameOverride", &mut self.hostname_override);
        v.section("iptables", &mut |v| self.iptables.visit(v));
        v.section("ipvs", &mut |v| self.ipvs.visit(v));
        v.section("logging", &mut |v| self.logging.visit(v));
        v.field("metricsBindAddress", &mut self.metrics_bind_address);
        v.field("mode", &mut self.mode);
        v.section("nftables", &mut |v| self.nftables.visit(v));
        v.field("nodePortAddresses", &mut self.node_port_addresses);
        v.field("oomScoreAdj", &mut self.oom_score_adj);
        v.field("portRange", &mut self.port_range);
        v.field("showHiddenMetricsForVersion", &mut self.show_hidden_metrics_for_version);
        v.field("udpIdleTimeout", &mut self.udp_idle_timeout);
        v.section("userspace", &mut |v| self.userspace.visit(v));
        v.field("windowsRunAsService", &mut self.windows_run_as_service);
        v.section("winkernel", &mut |v| self.winkernel.visit(v));
    }
}

impl ClientConnection {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("acceptContentTypes", &mut self.accept_content_types);
        v.field("burst", &mut self.burst);
        v.field("contentType", &mut self.content_type);
        v.field("kubeconfig", &mut self.kubeconfig);
        v.field("qps", &mut self.qps);
    }
}

impl Conntrack {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("maxPerCore", &mut self.max_per_core);
        v.field("min", &mut self.min);
        v.field("tcpBeLiberal", &mut self.tcp_be_liberal);
        v.field("tcpCloseWaitTimeout", &mut self.tcp_close_wait_timeout);
        v.field("tcpEstablishedTimeout", &mut self.tcp_established_timeout);
        v.field("udpStreamTimeout", &mut self.udp_stream_timeout);
        v.field("udpTimeout", &mut self.udp_timeout);
    }
}

impl Iptables {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("localhostNodePorts", &mut self.localhost_node_ports);
        v.field("masqueradeAll", &mut self.masquerade_all);
        v.field("masqueradeBit", &mut self.masquerade_bit);
        v.field("minSyncPeriod", &mut self.min_sync_period);
        v.field("syncPeriod", &mut self.sync_period);
    }
}

impl Ipvs {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("excludeCIDRs", &mut self.exclude_cidrs);
        v.field("localFallback", &mut self.local_fallback);
        v.field("minSyncPeriod", &mut self.min_sync_period);
        v.field("scheduler", &mut self.scheduler);
        v.field("strictARP", &mut self.strict_arp);
        v.field("syncPeriod", &mut self.sync_period);
        v.field("tcpFinTimeout", &mut self.tcp_fin_timeout);
        v.field("tcpTimeout", &mut self.tcp_timeout);
        v.field("udpTimeout", &mut self.udp_timeout);
    }
}

impl Nftables {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("masqueradeAll", &mut self.masquerade_all);
        v.field("masqueradeBit", &mut self.masquerade_bit);
        v.field("minSyncPeriod", &mut self.min_sync_period);
        v.field("syncPeriod", &mut self.sync_period);
    }
}

impl Userspace {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("drainTimeout", &mut self.drain_timeout);
        v.field("maxConnections", &mut self.max_connections);
        v.field("maxConnectionsPerService", &mut self.max_connections_per_service);
    }
}

impl Winkernel {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("enableDSR", &mut self.enable_dsr);
        v.field("forwardHealthCheckVip", &mut self.forward_health_check_vip);
        v.field("networkName", &mut self.network_name);
        v.field("rootHnsEndpointName", &mut self.root_hns_endpoint_name);
        v.field("sourceVip", &mut self.source_vip);
    }
}

impl Logging {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("flushFrequency", &mut self.flush_frequency);
        v.field("format", &mut self.format);
        v.section("options", &mut |v| {
            v.section("json", &mut |v| self.json.visit(v));
            v.section("text", &mut |v| self.text.visit(v));
        });
        v.field("verbosity", &mut self.verbosity);
        v.field("vmodule", &mut self.vmodule);
    }
}

impl OutputRouting {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        v.field("infoBufferSize", &mut self.info_buffer_size);
        v.field("splitStream", &mut self.split_stream);
    }
}
