//! userspace mode: packets to a Service are led to a port of this process, which carries the
//! connection on to an endpoint.
//!
//! Every frontend's program becomes one whose only target is that port; what is refused, dropped,
//! allowed by source or led by policy stays as it was, so that the rules are those of nftables mode.
//! Pure: values in, values out. It must never know a set or a socket. Tests: below, `proptests`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::program::{Program, Role, Target, Unserved};
use crate::kernel::{RelayAnnounce, RelayKey, RelayServing, Socket};
use crate::model::{Family, TrafficPolicy};

/// The address that a family's ports are bound to, on the loopback interface. Nobody else has it:
/// link-local and unique local addresses are no Service's and no pod's, and a rule drops what
/// was not led there by ours.
pub fn relay_address(family: Family) -> IpAddr {
    match family {
        // The last two octets are "kp".
        Family::V4 => Ipv4Addr::new(169, 254, 107, 112).into(),
        // "kube-pr" in RFC 4193's range.
        Family::V6 => Ipv6Addr::new(0xfd6b, 0x7562, 0x652d, 0x7072, 0, 0, 0, 1).into(),
    }
}

/// The listening ports that a program's connections come in by, with what each serves.
pub fn ports_of(program: &Program, family: Family) -> Vec<(RelayKey, RelayServing)> {
    let lists = [(program.policy, &program.targets), (TrafficPolicy::Local, &program.local)];
    lists
        .into_iter()
        .filter(|(_, targets)| !targets.is_empty())
        .map(|(policy, targets)| {
            let key = RelayKey { family, origin: program.origin.clone(), policy };
            let serving = RelayServing {
                address: relay_address(family),
                endpoints: targets.iter().map(|target| target.socket).collect(),
                affinity: program.sticky.map(|seconds| Duration::from_secs(seconds.into())),
                announce: program.announce,
            };
            (key, serving)
        })
        .collect()
}

/// The program that leads packets to the ports instead of to the endpoints. Without a port for
/// them, connections are refused.
pub fn led_to_ports(
    program: &Program,
    family: Family,
    port_of: impl Fn(&RelayKey) -> Option<u16>,
) -> Program {
    let led = |policy, targets: &Arc<[Target]>| -> Arc<[Target]> {
        if targets.is_empty() {
            return targets.clone();
        }
        let key = RelayKey { family, origin: program.origin.clone(), policy };
        let socket = |port| Socket { address: relay_address(family), port };
        port_of(&key).map(|port| Target { socket: socket(port), local: false }).into_iter().collect()
    };
    let targets = led(program.policy, &program.targets);
    let local = led(TrafficPolicy::Local, &program.local);
    let used = if program.role == Role::Local { &local } else { &targets };
    let unserved = program.unserved.or(used.is_empty().then_some(Unserved::Reject));
    Program { targets, local, unserved, sticky: None, ..program.clone() }
}

/// Whether endpoints are told of their client, by the value of the Service's annotation.
pub fn announce(value: &str) -> Option<RelayAnnounce> {
    match value {
        "v2" => Some(RelayAnnounce::ProxyV2),
        "" | "none" => Some(RelayAnnounce::Nothing),
        _ => None,
    }
}
