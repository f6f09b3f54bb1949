//! Flags about parts of Linux: IPVS, conntrack; and those of userspace mode.
//! Tests: `config::tests`.

use super::{Flag, boolean, duration, int32, list, text};

pub(super) const IPVS: &[Flag] = &[
    Flag::value(
        "ipvs-exclude-cidrs",
        "CIDR,...",
        "Virtual servers with addresses in these are never touched",
        |g, v| list(&mut g.wire.ipvs.exclude_cidrs, v),
    )
    .feeds(&["ipvs.excludeCIDRs"]),
    Flag::switch(
        "ipvs-local-fallback",
        "Send traffic of policy Local without endpoints on this node to those of other nodes instead of dropping it",
        |g, v| boolean(&mut g.wire.ipvs.local_fallback, v),
    )
    .default("false")
    .feeds(&["ipvs.localFallback"]),
    Flag::value(
        "ipvs-min-sync-period",
        "DURATION",
        "Shortest gap between syncs after changes; 0 is none",
        |g, v| duration(&mut g.ipvs_periods[1], v),
    )
    .default("1s")
    .feeds(&["ipvs.minSyncPeriod"]),
    Flag::value(
        "ipvs-scheduler",
        "NAME",
        "How endpoints are chosen: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, mh or another of the kernel's",
        |g, v| text(&mut g.wire.ipvs.scheduler, v),
    )
    .default("rr")
    .feeds(&["ipvs.scheduler"]),
    Flag::switch(
        "ipvs-strict-arp",
        "Set arp_ignore to 1 and arp_announce to 2",
        |g, v| boolean(&mut g.wire.ipvs.strict_arp, v),
    )
    .default("false")
    .feeds(&["ipvs.strictARP"]),
    Flag::value(
        "ipvs-sync-period",
        "DURATION",
        "Longest gap between housekeeping rounds, and how soon a failed sync is tried again; greater than 0",
        |g, v| duration(&mut g.ipvs_periods[0], v),
    )
    .default("30s")
    .feeds(&["ipvs.syncPeriod"]),
    Flag::value(
        "ipvs-tcp-timeout",
        "DURATION",
        "Timeout of idle TCP connections; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.ipvs.tcp_timeout, v),
    )
    .default("0s")
    .feeds(&["ipvs.tcpTimeout"]),
    Flag::value(
        "ipvs-tcpfin-timeout",
        "DURATION",
        "Timeout of TCP connections after a FIN; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.ipvs.tcp_fin_timeout, v),
    )
    .default("0s")
    .feeds(&["ipvs.tcpFinTimeout"]),
    Flag::value(
        "ipvs-udp-timeout",
        "DURATION",
        "Timeout of UDP flows; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.ipvs.udp_timeout, v),
    )
    .default("0s")
    .feeds(&["ipvs.udpTimeout"]),
];

pub(super) const USERSPACE: &[Flag] = &[
    Flag::value(
        "proxy-port-range",
        "RANGE",
        "Ports to listen on: begin-end, one port, or begin+offset; 0 is any free port",
        |g, v| text(&mut g.wire.port_range, v),
    )
    .default("0-0")
    .feeds(&["portRange"]),
    Flag::value(
        "udp-timeout",
        "DURATION",
        "How long an idle UDP flow is kept; greater than 0",
        |g, v| duration(&mut g.wire.udp_idle_timeout, v),
    )
    .default("250ms")
    .feeds(&["udpIdleTimeout"]),
    Flag::value(
        "userspace-drain-timeout",
        "DURATION",
        "How long open connections may go on after SIGTERM; 0 breaks them off",
        |g, v| duration(&mut g.wire.userspace.drain_timeout, v),
    )
    .default("10s")
    .feeds(&["userspace.drainTimeout"]),
    Flag::value(
        "userspace-max-connections",
        "NUMBER",
        "Connections and UDP flows carried at once; 0 is as many as descriptors allow",
        |g, v| int32(&mut g.wire.userspace.max_connections, v),
    )
    .default("0")
    .feeds(&["userspace.maxConnections"]),
    Flag::value(
        "userspace-max-connections-per-service",
        "NUMBER",
        "Connections and UDP flows of one Service port carried at once; 0 is without a limit of its own",
        |g, v| int32(&mut g.wire.userspace.max_connections_per_service, v),
    )
    .default("0")
    .feeds(&["userspace.maxConnectionsPerService"]),
];

pub(super) const CONNTRACK: &[Flag] = &[
    Flag::value(
        "conntrack-max-per-core",
        "NUMBER",
        "Entries to track for each CPU; 0 leaves the limit alone",
        |g, v| int32(&mut g.wire.conntrack.max_per_core, v),
    )
    .default("32768")
    .feeds(&["conntrack.maxPerCore"]),
    Flag::value(
        "conntrack-min",
        "NUMBER",
        "At least as many entries in all; heeded unless --conntrack-max-per-core is 0",
        |g, v| int32(&mut g.wire.conntrack.min, v),
    )
    .default("131072")
    .feeds(&["conntrack.min"]),
    Flag::switch(
        "conntrack-tcp-be-liberal",
        "Let TCP packets out of window through (nf_conntrack_tcp_be_liberal)",
        |g, v| boolean(&mut g.wire.conntrack.tcp_be_liberal, v),
    )
    .default("false")
    .feeds(&["conntrack.tcpBeLiberal"]),
    Flag::value(
        "conntrack-tcp-timeout-close-wait",
        "DURATION",
        "Timeout of TCP connections in CLOSE_WAIT; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.conntrack.tcp_close_wait_timeout, v),
    )
    .default("1h0m0s")
    .feeds(&["conntrack.tcpCloseWaitTimeout"]),
    Flag::value(
        "conntrack-tcp-timeout-established",
        "DURATION",
        "Timeout of idle established TCP connections; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.conntrack.tcp_established_timeout, v),
    )
    .default("24h0m0s")
    .feeds(&["conntrack.tcpEstablishedTimeout"]),
    Flag::value(
        "conntrack-udp-timeout",
        "DURATION",
        "Timeout of UDP flows without a reply; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.conntrack.udp_timeout, v),
    )
    .default("0s")
    .feeds(&["conntrack.udpTimeout"]),
    Flag::value(
        "conntrack-udp-timeout-stream",
        "DURATION",
        "Timeout of UDP flows with replies; 0 leaves the kernel's",
        |g, v| duration(&mut g.wire.conntrack.udp_stream_timeout, v),
    )
    .default("0s")
    .feeds(&["conntrack.udpStreamTimeout"]),
];
