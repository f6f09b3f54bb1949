//! What the rest of the program sees of flags and file: one immutable value, everything judged.
//! It knows no flag and no field of the file. Tests: `config::tests`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Family, LocalDetector, Mode, Node, NodePortAddresses, Steering};
use crate::sync;
use crate::sync::examine::Extent;
pub use crate::sync::sysctls::Conntrack;

/// Everything the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How packets are programmed.
    pub mode: Mode,
    /// Which kernel is programmed.
    pub kernel: KernelChoice,
    /// The file for a record of what is told, done and answered; `None`: there is none.
    pub record: Option<PathBuf>,
    /// How many bytes the record has at most.
    pub record_bytes: u64,
    /// How much is looked at before it is written.
    pub verify: Extent,
    /// The folder for dumps of what would have broken a promise; `None`: none is kept.
    pub verify_dumps: Option<PathBuf>,
    /// This node's name.
    pub node_name: Arc<str>,
    /// Where the cluster's state comes from.
    pub source: Source,
    /// How the API server is spoken to.
    pub client: Client,
    /// How often the reference hands on what did not change. Nothing here does.
    pub config_sync_period: Duration,
    /// Overrides the node's primary address; unspecified (`0.0.0.0`, `::`) means the Node's.
    pub bind_address: IpAddr,
    /// Whether a port that cannot be bound ends the process.
    pub bind_address_hard_fail: bool,
    /// Where healthz listens; `None` is off.
    pub healthz: Option<SocketAddr>,
    /// Where metrics listen; `None` is off.
    pub metrics: Option<SocketAddr>,
    /// Whether profiles are served beside the metrics.
    pub profiling: bool,
    /// Whether metrics hidden since the previous minor version were asked for. None is hidden.
    pub show_hidden_metrics: bool,
    /// Longest gap between housekeeping rounds, and how soon a failed sync is tried again.
    pub sync_period: Duration,
    /// Shortest gap between syncs after changes.
    pub min_sync_period: Duration,
    /// The fwmark bit of packets that need SNAT, 0 to 31.
    pub masquerade_bit: u8,
    /// Whether everything sent to a cluster IP gets SNAT.
    pub masquerade_all: bool,
    /// How local traffic is told from the rest.
    pub detect_local: DetectLocal,
    /// Which of the node's addresses take NodePort traffic.
    pub node_port_addresses: NodePortAddresses,
    /// Whether 127.0.0.1 takes NodePort traffic (iptables mode, IPv4).
    pub localhost_node_ports: bool,
    /// What only ipvs mode heeds.
    pub ipvs: Ipvs,
    /// What only userspace mode heeds.
    pub userspace: Userspace,
    /// What is set of conntrack.
    pub conntrack: Conntrack,
    /// The process' `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Feature gates that were set.
    pub feature_gates: BTreeMap<String, bool>,
    /// What is logged, and how.
    pub logging: Logging,
    /// The configuration file as it was read; a change of it ends the process.
    pub config_file: Option<ConfigFile>,
    /// Flags as they were given, in order.
    pub flags: Vec<(&'static str, String)>,
    /// Everything that was asked, as the configuration file would say it.
    pub written: serde_json::Map<String, serde_json::Value>,
    /// What was asked and has no effect, or is out of date: one line each, to be logged once.
    pub warnings: Vec<String>,
}

/// Which kernel is programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// This machine's.
    #[default]
    Real,
    /// One in memory, which needs no privileges and moves no packets of this machine.
    Simulated,
}

/// Where the cluster's state comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files in a folder.
    Manifests(PathBuf),
    /// The API server.
    ApiServer {
        /// Path of a kubeconfig; without it and without `master`, in-cluster credentials.
        kubeconfig: Option<PathBuf>,
        /// The server's address, over the kubeconfig's.
        master: Option<String>,
    },
}

/// How the API server is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Content type asked for; `application/vnd.kubernetes.protobuf` falls back to JSON where the
    /// client can't speak it.
    pub content_type: String,
    /// The `Accept` header, if not made from the content type.
    pub accept_content_types: Option<String>,
    /// Requests a second; negative is without limit.
    pub qps: f32,
    /// Requests at once above that.
    pub burst: u32,
}

/// How traffic of this node's own pods is told from the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By these source CIDRs, at most one a family.
    ClusterCidr(Vec<IpNet>),
    /// By the Node's pod CIDRs.
    NodeCidr,
    /// By the bridge it comes in over.
    BridgeInterface(String),
    /// By the first letters of the interface it comes in over.
    InterfaceNamePrefix(String),
}

/// What only ipvs mode heeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipvs {
    /// How endpoints are chosen: `mh`, `sh:sh-port`.
    pub scheduler: String,
    /// Virtual servers with addresses in these are never touched.
    pub exclude_cidrs: Vec<IpNet>,
    /// Whether `arp_ignore` and `arp_announce` are set.
    pub strict_arp: bool,
    /// Timeout of idle TCP connections; `None` leaves the kernel's.
    pub tcp_timeout: Option<Duration>,
    /// Timeout of TCP connections after a FIN; `None` leaves the kernel's.
    pub tcp_fin_timeout: Option<Duration>,
    /// Timeout of UDP flows; `None` leaves the kernel's.
    pub udp_timeout: Option<Duration>,
    /// Whether traffic of policy Local without endpoints on this node goes to other nodes', as with
    /// the reference, instead of being dropped.
    pub local_fallback: bool,
}

impl Ipvs {
    /// What the proxy is to do of it.
    pub fn options(&self) -> sync::IpvsOptions {
        let seconds = |timeout: Option<Duration>| {
            // The kernel counts whole seconds, and 0 would leave its value.
            timeout.map_or(0, |t| u32::try_from(t.as_secs()).unwrap_or(u32::MAX).max(1))
        };
        sync::IpvsOptions {
            // It was read once already, when settings were judged.
            choice: sync::Choice::read(&self.scheduler).unwrap_or(sync::ROUND_ROBIN),
            excluded: self.exclude_cidrs.clone(),
            local_without_endpoints: if self.local_fallback {
                sync::LocalWithoutEndpoints::Elsewhere
            } else {
                sync::LocalWithoutEndpoints::Drop
            },
            strict_arp: self.strict_arp,
            timeouts: sync::IpvsTimeouts {
                tcp: seconds(self.tcp_timeout),
                tcp_fin: seconds(self.tcp_fin_timeout),
                udp: seconds(self.udp_timeout),
            },
        }
    }
}

/// What only userspace mode heeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Userspace {
    /// The ports it listens on; `None` is any free one.
    pub port_range: Option<RangeInclusive<u16>>,
    /// How long an idle UDP flow is kept.
    pub udp_idle_timeout: Duration,
    /// How long open connections may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Connections and UDP flows carried at once; `None` is as many as descriptors allow.
    pub most_connections: Option<u64>,
    /// The same of one Service port; `None` is without a limit of its own.
    pub most_of_each: Option<u64>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The lines' format.
    pub format: LogFormat,
    /// klog's level: 0 is the least, 10 about the most.
    pub verbosity: u32,
    /// Levels of their own for files: pattern of the file's name, level.
    pub vmodule: Vec<(String, u32)>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// klog's.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its path.
    pub path: PathBuf,
    /// Its bytes.
    pub content: Arc<[u8]>,
}

impl Userspace {
    /// How connections are carried.
    fn relay(&self) -> sync::RelaySettings {
        sync::RelaySettings {
            ports: self.port_range.clone(),
            udp_timeout: self.udp_idle_timeout,
            most_connections: self.most_connections,
            most_of_each: self.most_of_each,
            drain: self.drain_timeout,
        }
    }
}

impl Settings {
    /// What the proxy on this node is to do, with a warning if local traffic can't be told from the
    /// rest. `node` is the Node as it is known at start. Both families are asked for, and nf_tables;
    /// which of them the kernel has is for the caller to say.
    pub fn proxy_options(&self, node: Option<&Node>) -> (sync::Options, Option<String>) {
        let (detector, warning) = self.local_detector(node);
        let options = sync::Options {
            node_name: self.node_name.clone(),
            mode: self.mode,
            masquerade_bit: self.masquerade_bit,
            masquerade_all: self.masquerade_all,
            detector,
            node_port_addresses: self.resolved_node_port_addresses(node),
            ipvs: self.ipvs.options(),
            localhost_node_ports: self.localhost_node_ports,
            relay: self.userspace.relay(),
            steering: Steering::Nftables,
            families: Family::ALL.to_vec(),
        };
        (options, warning)
    }

    /// The family that counts as the node's first: that of the bind address if one is given, else
    /// that of the Node's first address, else IPv4 (upstream-behaviour.md 87).
    pub fn primary_family(&self, node: Option<&Node>) -> Family {
        let given = Some(self.bind_address).filter(|address| !address.is_unspecified());
        let address = given.or_else(|| node?.addresses.first().copied());
        address.map_or(Family::V4, Family::of)
    }

    /// How local traffic is told from the rest on this node, with a warning if it cannot be.
    /// Only the first CIDR of each family counts (upstream-behaviour.md 88).
    pub fn local_detector(&self, node: Option<&Node>) -> (LocalDetector, Option<String>) {
        let (cidrs, lack) = match &self.detect_local {
            DetectLocal::BridgeInterface(name) => {
                return (LocalDetector::Bridge(name.clone()), None);
            }
            DetectLocal::InterfaceNamePrefix(prefix) => {
                return (LocalDetector::InterfacePrefix(prefix.clone()), None);
            }
            DetectLocal::ClusterCidr(cidrs) => (
                first_of_each(cidrs),
                "detect-local-mode ClusterCIDR, but --cluster-cidr has no CIDR",
            ),
            DetectLocal::NodeCidr => {
                let cidrs = node.map_or(&[][..], |node| &node.pod_cidrs);
                (
                    first_of_each(cidrs),
                    "detect-local-mode NodeCIDR, but the Node has no spec.podCIDRs",
                )
            }
        };
        let primary = self.primary_family(node);
        let warning = if cidrs.iter().any(|cidr| Family::of(cidr.addr()) == primary) {
            None
        } else {
            Some(format!(
                "{lack} of the primary family {primary}: no {primary} traffic counts as local"
            ))
        };
        let detector =
            if cidrs.is_empty() { LocalDetector::None } else { LocalDetector::Cidrs(cidrs) };
        (detector, warning)
    }

    /// The node port addresses, with `primary` resolved where the bind address overrides the
    /// Node's (upstream-behaviour.md 65, 87).
    pub fn resolved_node_port_addresses(&self, node: Option<&Node>) -> NodePortAddresses {
        let bound = self.bind_address;
        if self.node_port_addresses != NodePortAddresses::Primary || bound.is_unspecified() {
            return self.node_port_addresses.clone();
        }
        let other = match Family::of(bound) {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        let addresses = [Some(bound), node.and_then(|node| node.primary(other))];
        let usable = addresses.into_iter().flatten().filter(|address| !address.is_loopback());
        NodePortAddresses::Cidrs(usable.map(IpNet::from).collect())
    }
}

/// The first CIDR of each family, in the order given.
fn first_of_each(cidrs: &[IpNet]) -> Vec<IpNet> {
    let first = |family| cidrs.iter().position(|cidr| Family::of(cidr.addr()) == family);
    let mut positions: Vec<usize> = Family::ALL.into_iter().filter_map(first).collect();
    positions.sort_unstable();
    positions.into_iter().map(|i| cidrs[i]).collect()
}
