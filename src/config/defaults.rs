//! What holds where nothing is said, as in the reference's v1.36 (upstream-behaviour.md 65, 90).
//! A zero or an empty string in the file counts as nothing said, as the reference has it; a flag's
//! zero is a zero, since flags are laid over these. Tests: `config::tests`.

use super::forms::GoDuration;
use super::wire::{FlushFrequency, Quantity, Wire};
use crate::model::Mode;

/// Port of healthz where an address alone is given.
pub const HEALTHZ_PORT: u16 = 10256;
/// Port of metrics where an address alone is given.
pub const METRICS_PORT: u16 = 10249;
/// How long an idle UDP flow is kept in userspace mode.
pub const UDP_IDLE_TIMEOUT: GoDuration = GoDuration::milliseconds(250);
/// How long open connections may go on after SIGTERM in userspace mode.
pub const DRAIN_TIMEOUT: GoDuration = GoDuration::seconds(10);
/// The mode where none is named.
pub const MODE: Mode = Mode::Iptables;

/// A `Wire` with every default.
pub fn defaults() -> Wire {
    let mut wire = Wire::default();
    fill(&mut wire);
    wire
}

/// Fills what a file left out.
pub fn fill(wire: &mut Wire) {
    fill_process(wire);
    fill_modes(wire);
    fill_linux(wire);
}

fn fill_process(wire: &mut Wire) {
    text(&mut wire.bind_address, "0.0.0.0");
    let v6 = wire.bind_address.as_deref().is_some_and(|address| address.contains(':'));
    let (everywhere, loopback) = if v6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
    text(&mut wire.healthz_bind_address, &format!("{everywhere}:{HEALTHZ_PORT}"));
    text(&mut wire.metrics_bind_address, &format!("{loopback}:{METRICS_PORT}"));
    wire.bind_address_hard_fail.get_or_insert_default();
    wire.enable_profiling.get_or_insert_default();
    wire.show_hidden_metrics_for_version.get_or_insert_default();
    wire.hostname_override.get_or_insert_default();
    wire.feature_gates.get_or_insert_default();
    duration(&mut wire.config_sync_period, GoDuration::seconds(15 * 60));
    let client = &mut wire.client_connection;
    client.kubeconfig.get_or_insert_default();
    client.accept_content_types.get_or_insert_default();
    text(&mut client.content_type, "application/vnd.kubernetes.protobuf");
    client.qps = client.qps.filter(|qps| *qps != 0.0).or(Some(5.0));
    client.burst = client.burst.filter(|burst| *burst != 0).or(Some(10));
    let logging = &mut wire.logging;
    text(&mut logging.format, "text");
    let flush = logging.flush_frequency.filter(|flush| flush.0.0 != 0);
    logging.flush_frequency = flush.or(Some(FlushFrequency(GoDuration::seconds(5))));
    logging.verbosity.get_or_insert_default();
    for routing in [&mut logging.json, &mut logging.text] {
        routing.info_buffer_size.get_or_insert_with(|| Quantity("0".into()));
    }
}

fn fill_modes(wire: &mut Wire) {
    text(&mut wire.mode, MODE.as_str());
    text(&mut wire.detect_local_mode, "ClusterCIDR");
    wire.detect_local.bridge_interface.get_or_insert_default();
    wire.detect_local.interface_name_prefix.get_or_insert_default();
    wire.cluster_cidr.get_or_insert_default();
    wire.node_port_addresses.get_or_insert_default();
    wire.port_range.get_or_insert_default();
    let (sync, min_sync) = (GoDuration::seconds(30), GoDuration::seconds(1));
    let iptables = &mut wire.iptables;
    iptables.localhost_node_ports.get_or_insert(true);
    iptables.masquerade_all.get_or_insert_default();
    iptables.masquerade_bit.get_or_insert(14);
    duration(&mut iptables.sync_period, sync);
    duration(&mut iptables.min_sync_period, min_sync);
    let nftables = &mut wire.nftables;
    nftables.masquerade_all.get_or_insert_default();
    nftables.masquerade_bit.get_or_insert(14);
    duration(&mut nftables.sync_period, sync);
    duration(&mut nftables.min_sync_period, min_sync);
    let ipvs = &mut wire.ipvs;
    duration(&mut ipvs.sync_period, sync);
    duration(&mut ipvs.min_sync_period, min_sync);
    ipvs.scheduler.get_or_insert_default();
    ipvs.exclude_cidrs.get_or_insert_default();
    ipvs.strict_arp.get_or_insert_default();
    ipvs.tcp_timeout.get_or_insert_default();
    ipvs.tcp_fin_timeout.get_or_insert_default();
    ipvs.udp_timeout.get_or_insert_default();
}

fn fill_linux(wire: &mut Wire) {
    wire.oom_score_adj.get_or_insert(-999);
    let conntrack = &mut wire.conntrack;
    conntrack.max_per_core.get_or_insert(32 * 1024);
    conntrack.min.get_or_insert(128 * 1024);
    conntrack.tcp_be_liberal.get_or_insert_default();
    conntrack.tcp_established_timeout.get_or_insert(GoDuration::seconds(24 * 3600));
    conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::seconds(3600));
    conntrack.udp_timeout.get_or_insert_default();
    conntrack.udp_stream_timeout.get_or_insert_default();
    let windows = &mut wire.winkernel;
    windows.enable_dsr.get_or_insert_default();
    windows.forward_health_check_vip.get_or_insert_default();
    windows.network_name.get_or_insert_default();
    windows.root_hns_endpoint_name.get_or_insert_default();
    windows.source_vip.get_or_insert_default();
}

fn text(slot: &mut Option<String>, default: &str) {
    if slot.as_deref().unwrap_or_default().is_empty() {
        *slot = Some(default.to_owned());
    }
}

fn duration(slot: &mut Option<GoDuration>, default: GoDuration) {
    if slot.unwrap_or_default() == GoDuration::default() {
        *slot = Some(default);
    }
}
