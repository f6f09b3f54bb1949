//! How long connections live in each state: the nf_conntrack_*_timeout_* sysctls, in seconds, with Linux's defaults.
//! Facts from net/netfilter/nf_conntrack_proto_{tcp,udp,sctp,icmp,generic}.c; the defaults were read in /proc/sys of Linux 6.18.
//! It must never know packets. Tests: tests/sysctls.rs.

use super::state::{SECOND, State};

/// One sysctl: what follows `net.netfilter.nf_conntrack_`.
const NAMES: [(&str, u32); 22] = [
    ("tcp_timeout_syn_sent", 120),
    ("tcp_timeout_syn_recv", 60),
    ("tcp_timeout_established", 432_000),
    ("tcp_timeout_fin_wait", 120),
    ("tcp_timeout_close_wait", 60),
    ("tcp_timeout_last_ack", 30),
    ("tcp_timeout_time_wait", 120),
    ("tcp_timeout_close", 10),
    ("tcp_timeout_unacknowledged", 300),
    ("udp_timeout", 30),
    ("udp_timeout_stream", 120),
    ("sctp_timeout_closed", 10),
    ("sctp_timeout_cookie_wait", 3),
    ("sctp_timeout_cookie_echoed", 3),
    ("sctp_timeout_established", 210),
    ("sctp_timeout_shutdown_sent", 3),
    ("sctp_timeout_shutdown_recd", 3),
    ("sctp_timeout_shutdown_ack_sent", 3),
    ("sctp_timeout_heartbeat_sent", 30),
    ("icmp_timeout", 30),
    ("icmpv6_timeout", 30),
    ("generic_timeout", 600),
];

/// The timeouts of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timers([u32; NAMES.len()]);

impl Default for Timers {
    fn default() -> Self {
        Timers(NAMES.map(|(_, seconds)| seconds))
    }
}

impl Timers {
    /// Seconds of a timeout, by its name after `nf_conntrack_`.
    pub fn get(&self, name: &str) -> Option<u32> {
        NAMES.iter().position(|(known, _)| *known == name).map(|slot| self.0[slot])
    }

    /// Sets a timeout in seconds; false: there is none of this name.
    pub fn set(&mut self, name: &str, seconds: u32) -> bool {
        let slot = NAMES.iter().position(|(known, _)| *known == name);
        slot.map(|slot| self.0[slot] = seconds).is_some()
    }

    fn nanos(&self, slot: usize) -> u64 {
        u64::from(self.0[slot]) * SECOND
    }

    pub(super) fn tcp(&self, state: State) -> u64 {
        self.nanos(match state {
            State::SynRecv => 1,
            State::Established => 2,
            State::FinWait => 3,
            State::CloseWait => 4,
            State::LastAck => 5,
            State::TimeWait => 6,
            State::Close => 7,
            _ => 0,
        })
    }

    /// A connection picked up in its middle, of which no answer was seen.
    pub(super) fn unacknowledged(&self) -> u64 {
        self.nanos(8)
    }

    pub(super) fn udp(&self) -> u64 {
        self.nanos(9)
    }

    pub(super) fn udp_stream(&self) -> u64 {
        self.nanos(10)
    }

    pub(super) fn sctp(&self, state: State) -> u64 {
        self.nanos(match state {
            State::CookieWait => 12,
            State::CookieEchoed => 13,
            State::Established => 14,
            State::ShutdownSent => 15,
            State::ShutdownReceived => 16,
            State::ShutdownAckSent => 17,
            State::HeartbeatSent => 18,
            _ => 11,
        })
    }

    pub(super) fn icmp(&self, ipv6: bool) -> u64 {
        self.nanos(if ipv6 { 20 } else { 19 })
    }

    pub(super) fn generic(&self) -> u64 {
        self.nanos(21)
    }
}
