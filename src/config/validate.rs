//! A filled `Wire` into `Settings`, or everything that is wrong with it at once.
//! What is allowed is the reference's v1.36 (`pkg/proxy/apis/config/validation`), save where a value
//! would only fail later. Tests: `config::tests`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::defaults;
use super::errand::Errand;
use super::forms::{self, GoDuration};
use super::gates;
use super::problem::{Origin, Problem};
use super::settings::{
    Client, Conntrack, DetectLocal, Ipvs, LogFormat, Logging, Settings, Source, Userspace,
};
use super::wire::{self, Wire};
use crate::model::{Family, KUBERNETES_MINOR, Mode, NodePortAddresses, without_user};
use crate::sync::Choice;

/// Judges a filled `Wire`. `errand` says what flags ask beside the file, `hostname` is the machine's.
pub(super) fn validate(
    wire: &Wire,
    origin: &Origin,
    errand: &Errand,
    hostname: &str,
) -> Result<Settings, Vec<Problem>> {
    let mut check = Check { origin, problems: Vec::new() };
    let mode = check.mode(text(&wire.mode));
    let (sync_period, min_sync_period) = check.sync_periods(wire, mode);
    let settings = Settings {
        mode,
        kernel: errand.kernel,
        record: errand.record.clone(),
        record_bytes: u64::from(errand.record_megabytes.unwrap_or(64)) << 20,
        verify: errand.verify,
        verify_dumps: errand.verify_dumps.clone(),
        node_name: check.node_name(text(&wire.hostname_override), hostname),
        source: check.source(wire, errand),
        client: check.client(&wire.client_connection),
        config_sync_period: check.positive("configSyncPeriod", wire.config_sync_period),
        bind_address: check.address("bindAddress", text(&wire.bind_address)),
        bind_address_hard_fail: wire.bind_address_hard_fail.unwrap_or_default(),
        healthz: check.socket(
            "healthzBindAddress",
            &wire.healthz_bind_address,
            defaults::HEALTHZ_PORT,
        ),
        metrics: check.socket(
            "metricsBindAddress",
            &wire.metrics_bind_address,
            defaults::METRICS_PORT,
        ),
        profiling: wire.enable_profiling.unwrap_or_default(),
        show_hidden_metrics: check.hidden_metrics(text(&wire.show_hidden_metrics_for_version)),
        sync_period,
        min_sync_period,
        masquerade_bit: check.masquerade_bit(wire, mode),
        masquerade_all: masquerade_all(wire, mode),
        detect_local: check.detect_local(wire),
        node_port_addresses: check.node_port_addresses(wire, mode),
        localhost_node_ports: wire.iptables.localhost_node_ports.unwrap_or(true),
        ipvs: check.ipvs_of_mode(&wire.ipvs, mode),
        userspace: check.userspace(wire),
        conntrack: check.conntrack(&wire.conntrack),
        oom_score_adj: check.within("oomScoreAdj", wire.oom_score_adj, -1000, 1000),
        feature_gates: check.feature_gates(wire),
        logging: check.logging(&wire.logging),
        config_file: None,
        flags: Vec::new(),
        written: serde_json::Map::new(),
        warnings: Vec::new(),
    };
    if check.problems.is_empty() { Ok(settings) } else { Err(check.problems) }
}

fn text(slot: &Option<String>) -> &str {
    slot.as_deref().unwrap_or_default()
}

fn masquerade_all(wire: &Wire, mode: Mode) -> bool {
    let slot = match mode {
        Mode::Nftables => wire.nftables.masquerade_all,
        _ => wire.iptables.masquerade_all,
    };
    slot.unwrap_or_default()
}

/// Judges fields; what is wrong is noted and something harmless returned, so that all is judged.
struct Check<'a> {
    origin: &'a Origin,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn wrong(&mut self, field: &str, value: &str, allowed: impl std::fmt::Display) {
        self.problems.push(Problem::new(self.origin.place(field), value, allowed));
    }

    fn said(&mut self, field: &str, value: &str, sentence: String) {
        let mut problem = Problem::new(self.origin.place(field), value, "");
        problem.allowed = sentence;
        self.problems.push(problem);
    }

    fn mode(&mut self, name: &str) -> Mode {
        let all = || Mode::ALL.map(Mode::as_str).join(", ");
        match Mode::ALL.into_iter().find(|mode| mode.as_str() == name) {
            Some(mode) => return mode,
            None if name.is_empty() => {}
            None if name == "kernelspace" => {
                self.said("mode", name, format!("it is for Windows only; here is {}", all()));
            }
            None => self.said("mode", name, format!("must be one of {}", all())),
        }
        defaults::MODE
    }

    fn node_name(&mut self, given: &str, hostname: &str) -> Arc<str> {
        let name = if given.is_empty() { hostname } else { given }.trim().to_lowercase();
        if name.is_empty() {
            self.wrong(
                "hostnameOverride",
                given,
                "this node's name (the machine has no hostname either)",
            );
        }
        name.into()
    }

    fn source(&mut self, wire: &Wire, errand: &Errand) -> Source {
        let kubeconfig =
            Some(text(&wire.client_connection.kubeconfig)).filter(|path| !path.is_empty());
        if let Some(master) = &errand.master
            && let Err(allowed) = forms::server(master)
        {
            self.problems.push(Problem::new("--master", &without_user(master), allowed));
        }
        match &errand.manifests {
            None => Source::ApiServer {
                kubeconfig: kubeconfig.map(PathBuf::from),
                master: errand.master.clone(),
            },
            Some(folder) => {
                if kubeconfig.is_some() || errand.master.is_some() {
                    let sentence =
                        "takes the place of the API server: leave out --kubeconfig and --master";
                    self.problems.push(Problem::said("--manifests", sentence));
                }
                Source::Manifests(folder.clone())
            }
        }
    }

    fn client(&mut self, client: &wire::ClientConnection) -> Client {
        let content_type = text(&client.content_type);
        let known = ["application/vnd.kubernetes.protobuf", "application/json"];
        if !known.contains(&content_type) {
            self.wrong("clientConnection.contentType", content_type, known.join(" or "));
        }
        let accept = Some(text(&client.accept_content_types)).filter(|types| !types.is_empty());
        let burst = client.burst.unwrap_or_default();
        Client {
            content_type: content_type.to_owned(),
            accept_content_types: accept.map(str::to_owned),
            qps: client.qps.filter(|qps| *qps != 0.0).unwrap_or(5.0),
            burst: self.within("clientConnection.burst", Some(burst), 0, i32::MAX).unsigned_abs(),
        }
    }

    fn within(&mut self, field: &str, value: Option<i32>, least: i32, most: i32) -> i32 {
        let value = value.unwrap_or_default();
        if (least..=most).contains(&value) {
            return value;
        }
        let allowed = match most {
            i32::MAX => format!("{least} or more"),
            _ => format!("from {least} to {most}"),
        };
        self.wrong(field, &value.to_string(), allowed);
        least
    }

    /// A duration above 0.
    fn positive(&mut self, field: &str, value: Option<GoDuration>) -> Duration {
        let value = value.unwrap_or_default();
        if value <= GoDuration::default() {
            self.wrong(field, &value.to_string(), "a duration greater than 0, such as 30s");
        }
        value.to_std().unwrap_or_default()
    }

    /// A duration of 0 or more.
    fn not_negative(&mut self, field: &str, value: Option<GoDuration>) -> Duration {
        let value = value.unwrap_or_default();
        value.to_std().unwrap_or_else(|| {
            self.wrong(field, &value.to_string(), "a duration of 0 or more");
            Duration::ZERO
        })
    }

    /// A duration whose 0 means that the kernel's own stays.
    fn unless_zero(&mut self, field: &str, value: Option<GoDuration>) -> Option<Duration> {
        Some(self.not_negative(field, value)).filter(|duration| !duration.is_zero())
    }

    fn sync_periods(&mut self, wire: &Wire, mode: Mode) -> (Duration, Duration) {
        let (section, sync, min) = match mode {
            Mode::Nftables => {
                ("nftables", wire.nftables.sync_period, wire.nftables.min_sync_period)
            }
            Mode::Ipvs => ("ipvs", wire.ipvs.sync_period, wire.ipvs.min_sync_period),
            _ => ("iptables", wire.iptables.sync_period, wire.iptables.min_sync_period),
        };
        let field = format!("{section}.minSyncPeriod");
        let before = self.problems.len();
        let sync_period = self.positive(&format!("{section}.syncPeriod"), sync);
        let min_sync_period = self.not_negative(&field, min);
        if self.problems.len() == before && min_sync_period > sync_period {
            let longest = sync.unwrap_or_default();
            let value = min.unwrap_or_default().to_string();
            self.wrong(&field, &value, format!("at most the sync period, which is {longest}"));
        }
        (sync_period, min_sync_period)
    }

    fn address(&mut self, field: &str, value: &str) -> IpAddr {
        forms::address(value).unwrap_or_else(|allowed| {
            self.wrong(field, value, allowed);
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        })
    }

    /// Where a server listens; an empty address is off.
    fn socket(&mut self, field: &str, value: &Option<String>, port: u16) -> Option<SocketAddr> {
        let value = text(value);
        if value.is_empty() {
            return None;
        }
        forms::socket(value, port).map_err(|allowed| self.wrong(field, value, allowed)).ok()
    }

    fn hidden_metrics(&mut self, version: &str) -> bool {
        let previous = format!("1.{}", KUBERNETES_MINOR - 1);
        if !version.is_empty() && version != previous {
            let allowed =
                format!("{previous}, or left out: only the previous minor version counts");
            self.wrong("showHiddenMetricsForVersion", version, allowed);
        }
        !version.is_empty()
    }

    /// The bit of iptables' section is judged in every mode, that of nftables' where it counts, as in
    /// the reference.
    fn masquerade_bit(&mut self, wire: &Wire, mode: Mode) -> u8 {
        let mut bit = self.within("iptables.masqueradeBit", wire.iptables.masquerade_bit, 0, 31);
        if mode == Mode::Nftables {
            bit = self.within("nftables.masqueradeBit", wire.nftables.masquerade_bit, 0, 31);
        }
        u8::try_from(bit).expect("within 0 to 31")
    }

    fn detect_local(&mut self, wire: &Wire) -> DetectLocal {
        let mode = text(&wire.detect_local_mode);
        let name = |slot: &Option<String>| text(slot).to_owned();
        match mode {
            "" | "ClusterCIDR" => return DetectLocal::ClusterCidr(self.cluster_cidrs(wire)),
            "NodeCIDR" => return DetectLocal::NodeCidr,
            "BridgeInterface" => {
                let field = "detectLocal.bridgeInterface";
                let bridge = self.interface(field, name(&wire.detect_local.bridge_interface));
                return DetectLocal::BridgeInterface(bridge);
            }
            "InterfaceNamePrefix" => {
                let field = "detectLocal.interfaceNamePrefix";
                let prefix = self.interface(field, name(&wire.detect_local.interface_name_prefix));
                return DetectLocal::InterfaceNamePrefix(prefix);
            }
            _ => {}
        }
        let allowed = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
        self.wrong("detectLocalMode", mode, allowed);
        DetectLocal::NodeCidr
    }

    /// The name of an interface, or its first letters: the kernel has 15 bytes for one.
    fn interface(&mut self, field: &str, name: String) -> String {
        let fits = (1..=15).contains(&name.len());
        if !fits || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            self.wrong(
                field,
                &name,
                "an interface's name, or its beginning: 1 to 15 characters, no space or slash",
            );
        }
        name
    }

    fn cluster_cidrs(&mut self, wire: &Wire) -> Vec<IpNet> {
        let value = text(&wire.cluster_cidr);
        if value.is_empty() {
            return Vec::new();
        }
        let cidrs: Result<Vec<IpNet>, _> = value.split(',').map(forms::cidr).collect();
        let families =
            |cidrs: &[IpNet]| cidrs.iter().map(|c| Family::of(c.addr())).collect::<Vec<_>>();
        match cidrs {
            Ok(cidrs) if cidrs.len() == 1 => return cidrs,
            Ok(cidrs) if matches!(families(&cidrs)[..], [a, b] if a != b) => return cidrs,
            _ => {}
        }
        let allowed =
            "one CIDR, or two of different families, such as 10.100.0.0/16,fde4:8dba:82e1::/48";
        self.wrong("clusterCIDR", value, allowed);
        Vec::new()
    }

    fn node_port_addresses(&mut self, wire: &Wire, mode: Mode) -> NodePortAddresses {
        const FIELD: &str = "nodePortAddresses";
        let given = wire.node_port_addresses.as_deref().unwrap_or_default();
        if given.is_empty() && mode == Mode::Nftables || given == ["primary"] {
            return NodePortAddresses::Primary;
        }
        let mut cidrs = Vec::new();
        for item in given {
            match forms::cidr(item) {
                Ok(cidr) => cidrs.push(cidr),
                Err(_) if item == "primary" => {
                    self.wrong(FIELD, &given.join(","), "either CIDRs or the single word primary");
                }
                Err(allowed) => {
                    self.wrong(FIELD, item, format!("{allowed}, or the single word primary"))
                }
            }
        }
        NodePortAddresses::Cidrs(cidrs)
    }

    /// Judged only where it counts, as in the reference.
    fn ipvs_of_mode(&mut self, ipvs: &wire::Ipvs, mode: Mode) -> Ipvs {
        let before = self.problems.len();
        let settings = self.ipvs(ipvs);
        if mode != Mode::Ipvs {
            self.problems.truncate(before);
        }
        settings
    }

    fn ipvs(&mut self, ipvs: &wire::Ipvs) -> Ipvs {
        let mut exclude_cidrs = Vec::new();
        for item in ipvs.exclude_cidrs.as_deref().unwrap_or_default() {
            match forms::cidr(item) {
                Ok(cidr) => exclude_cidrs.push(cidr),
                Err(allowed) => self.wrong("ipvs.excludeCIDRs", item, allowed),
            }
        }
        let scheduler = Some(text(&ipvs.scheduler)).filter(|name| !name.is_empty()).unwrap_or("rr");
        if Choice::read(scheduler).is_err() {
            self.wrong(
                "ipvs.scheduler",
                scheduler,
                "a scheduler of the kernel, such as rr, wrr, lc, sh or mh, with flags if need be, such as sh:sh-port",
            );
        }
        Ipvs {
            scheduler: scheduler.to_owned(),
            exclude_cidrs,
            strict_arp: ipvs.strict_arp.unwrap_or_default(),
            tcp_timeout: self.unless_zero("ipvs.tcpTimeout", ipvs.tcp_timeout),
            tcp_fin_timeout: self.unless_zero("ipvs.tcpFinTimeout", ipvs.tcp_fin_timeout),
            udp_timeout: self.unless_zero("ipvs.udpTimeout", ipvs.udp_timeout),
            local_fallback: ipvs.local_fallback.unwrap_or_default(),
        }
    }

    fn userspace(&mut self, wire: &Wire) -> Userspace {
        let range = text(&wire.port_range);
        let port_range = forms::port_range(range).unwrap_or_else(|allowed| {
            self.wrong("portRange", range, allowed);
            None
        });
        let timeout = wire.udp_idle_timeout.or(Some(defaults::UDP_IDLE_TIMEOUT));
        let own = &wire.userspace;
        let drain = own.drain_timeout.or(Some(defaults::DRAIN_TIMEOUT));
        Userspace {
            port_range,
            udp_idle_timeout: self.positive("udpIdleTimeout", timeout),
            drain_timeout: self.not_negative("userspace.drainTimeout", drain),
            most_connections: self.limit("userspace.maxConnections", own.max_connections),
            most_of_each: self
                .limit("userspace.maxConnectionsPerService", own.max_connections_per_service),
        }
    }

    /// A number of which 0 is none.
    fn limit(&mut self, field: &'static str, value: Option<i32>) -> Option<u64> {
        let most = self.within(field, value.or(Some(0)), 0, i32::MAX).unsigned_abs();
        Some(u64::from(most)).filter(|most| *most > 0)
    }

    fn conntrack(&mut self, conntrack: &wire::Conntrack) -> Conntrack {
        let max =
            self.within("conntrack.maxPerCore", conntrack.max_per_core, 0, i32::MAX).unsigned_abs();
        let established = conntrack.tcp_established_timeout;
        let close_wait = conntrack.tcp_close_wait_timeout;
        Conntrack {
            max_per_core: Some(max).filter(|max| *max > 0),
            min: self.within("conntrack.min", conntrack.min, 0, i32::MAX).unsigned_abs(),
            tcp_established_timeout: self
                .unless_zero("conntrack.tcpEstablishedTimeout", established),
            tcp_close_wait_timeout: self.unless_zero("conntrack.tcpCloseWaitTimeout", close_wait),
            tcp_be_liberal: conntrack.tcp_be_liberal.unwrap_or_default(),
            udp_timeout: self.unless_zero("conntrack.udpTimeout", conntrack.udp_timeout),
            udp_stream_timeout: self
                .unless_zero("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
        }
    }

    fn feature_gates(&mut self, wire: &Wire) -> std::collections::BTreeMap<String, bool> {
        let given = wire.feature_gates.clone().unwrap_or_default();
        for (name, on) in &given {
            if let Err(sentence) = gates::check(name, *on) {
                self.said("featureGates", &format!("{name}={on}"), sentence);
            }
        }
        given
    }

    fn logging(&mut self, logging: &wire::Logging) -> Logging {
        let format = match text(&logging.format) {
            "json" => LogFormat::Json,
            "text" => LogFormat::Text,
            other => {
                self.wrong("logging.format", other, "text or json");
                LogFormat::Text
            }
        };
        let given = logging.vmodule.as_deref().unwrap_or_default();
        let mut vmodule = Vec::new();
        for item in given {
            let pattern = &item.file_pattern;
            if pattern.is_empty() || pattern.contains([',', '=']) {
                self.wrong("logging.vmodule", pattern, "a file's name or a pattern with * and ?");
            }
            vmodule.push((pattern.clone(), item.verbosity));
        }
        if format == LogFormat::Json && !vmodule.is_empty() {
            self.said(
                "logging.vmodule",
                &vmodule[0].0,
                "is heeded with the text format only".into(),
            );
        }
        let flush = logging.flush_frequency.map(|flush| flush.0);
        self.not_negative("logging.flushFrequency", flush);
        Logging { format, verbosity: logging.verbosity.unwrap_or_default(), vmodule }
    }
}
