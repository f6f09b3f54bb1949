//! Flags about traffic: the mode, what is local, what takes node ports, what gets SNAT.
//! Tests: `config::tests`.

use super::{Flag, boolean, duration, int32, list, text};

pub(super) const TRAFFIC: &[Flag] = &[
    Flag::value(
        "bind-address",
        "IP",
        "Overrides the node's primary IP, and by its family says which family is primary; 0.0.0.0 or :: takes it from the Node. Nothing is bound to it",
        |g, v| address(&mut g.wire.bind_address, v),
    )
    .default("0.0.0.0")
    .feeds(&["bindAddress"]),
    Flag::value(
        "cluster-cidr",
        "CIDR[,CIDR]",
        "The pods' CIDR, or one of each family: with --detect-local-mode=ClusterCIDR sources inside are local",
        |g, v| text(&mut g.wire.cluster_cidr, v),
    )
    .feeds(&["clusterCIDR"]),
    Flag::value(
        "detect-local-mode",
        "MODE",
        "How traffic of this node's pods is told from the rest: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
        |g, v| text(&mut g.wire.detect_local_mode, v),
    )
    .default("ClusterCIDR")
    .feeds(&["detectLocalMode"]),
    Flag::switch(
        "masquerade-all",
        "SNAT everything sent to a cluster IP",
        |g, v| boolean(&mut g.masquerade_all, v),
    )
    .default("false")
    .feeds(&["iptables.masqueradeAll", "nftables.masqueradeAll"]),
    Flag::value(
        "nodeport-addresses",
        "CIDR,...|primary",
        "Node addresses that take NodePort traffic: those inside these CIDRs, or with the single word primary the Node's first of each family. May be repeated",
        |g, v| list(&mut g.wire.node_port_addresses, v),
    )
    .default("primary in nftables mode, else all")
    .feeds(&["nodePortAddresses"]),
    Flag::value(
        "pod-bridge-interface",
        "NAME",
        "With --detect-local-mode=BridgeInterface: traffic that comes in over this bridge is local",
        |g, v| text(&mut g.wire.detect_local.bridge_interface, v),
    )
    .feeds(&["detectLocal.bridgeInterface"]),
    Flag::value(
        "pod-interface-name-prefix",
        "PREFIX",
        "With --detect-local-mode=InterfaceNamePrefix: traffic that comes in over interfaces whose names begin so is local",
        |g, v| text(&mut g.wire.detect_local.interface_name_prefix, v),
    )
    .feeds(&["detectLocal.interfaceNamePrefix"]),
    Flag::value(
        "proxy-mode",
        "MODE",
        "How packets are programmed: iptables, ipvs, nftables or userspace",
        |g, v| text(&mut g.wire.mode, v),
    )
    .default("iptables")
    .feeds(&["mode"]),
];

pub(super) const RULES: &[Flag] = &[
    Flag::switch(
        "iptables-localhost-nodeports",
        "iptables mode, IPv4: whether 127.0.0.1 takes NodePort traffic",
        |g, v| boolean(&mut g.wire.iptables.localhost_node_ports, v),
    )
    .default("true")
    .feeds(&["iptables.localhostNodePorts"]),
    Flag::value(
        "iptables-masquerade-bit",
        "0..31",
        "iptables and ipvs modes: the fwmark bit of packets that need SNAT; nftables mode takes nftables.masqueradeBit of the --config file",
        |g, v| int32(&mut g.wire.iptables.masquerade_bit, v),
    )
    .default("14")
    .feeds(&["iptables.masqueradeBit"]),
    Flag::value(
        "iptables-min-sync-period",
        "DURATION",
        "All modes but ipvs: shortest gap between syncs after changes; 0 is none",
        |g, v| duration(&mut g.rules_periods[1], v),
    )
    .default("1s")
    .feeds(&["iptables.minSyncPeriod", "nftables.minSyncPeriod"]),
    Flag::value(
        "iptables-sync-period",
        "DURATION",
        "All modes but ipvs: longest gap between housekeeping rounds, and how soon a failed sync is tried again; greater than 0",
        |g, v| duration(&mut g.rules_periods[0], v),
    )
    .default("30s")
    .feeds(&["iptables.syncPeriod", "nftables.syncPeriod"]),
];

/// Puts an address; an empty one leaves the default, as in the reference.
fn address(slot: &mut Option<String>, value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { text(slot, value) }
}
