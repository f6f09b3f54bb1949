//! userspace mode: packets to a Service are led to a port of this process, which carries the
//! connection on to an endpoint.
//!
//! Every frontend's program becomes one whose only target is that port; what is refused, dropped,
//! allowed by source or led by policy stays as it was, so that the rules are those of nftables mode.
//! Pure: values in, values out. It must never know a set or a socket. Tests: below, `proptests`.

use std::sync::Arc;
use std::time::Duration;

use super::program::{Program, Role, Target, Unserved};
pub use crate::kernel::relay_address;
use crate::kernel::{NftBatch, RelayAnnounce, RelayKey, RelayServing, Socket};
use crate::model::{Family, Protocol, TrafficPolicy};
use crate::netlink::expr::{Compare, Rule, Verdict};
use crate::netlink::nft::{Batch, ChainKind, Hook};
use crate::netlink::set::Field;

/// The listening ports that a program's connections come in by, with what each serves.
pub fn ports_of(program: &Program, family: Family) -> Vec<(RelayKey, RelayServing)> {
    let lists =
        [(program.targets_policy, &program.targets), (TrafficPolicy::Local, &program.local)];
    lists
        .into_iter()
        .filter(|(_, targets)| !targets.is_empty() && program.origin.protocol != Protocol::Sctp)
        .map(|(policy, targets)| {
            let key = RelayKey { family, origin: program.origin.clone(), policy };
            let serving = RelayServing {
                address: relay_address(family),
                endpoints: targets.iter().map(|target| target.socket).collect(),
                affinity: program.sticky.map(|seconds| Duration::from_secs(seconds.into())),
                announce: announce(program).unwrap_or_default(),
            };
            (key, serving)
        })
        .collect()
}

/// The program that leads packets to the ports instead of to the endpoints. Without a port for
/// them, as SCTP is, connections are refused.
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
        port_of(&key)
            .map(|port| Target { socket: socket(port), local: false })
            .into_iter()
            .collect()
    };
    let targets = led(program.targets_policy, &program.targets);
    let local = led(TrafficPolicy::Local, &program.local);
    let used = if program.role == Role::Local { &local } else { &targets };
    let unserved = match program.unserved {
        _ if program.origin.protocol == Protocol::Sctp => Some(Unserved::Reject),
        None if used.is_empty() => Some(Unserved::Reject),
        unserved => unserved,
    };
    Program { targets, local, unserved, sticky: None, ..program.clone() }
}

/// Whether endpoints are told of their client; `None` where the annotation says what nobody knows.
pub fn announce(program: &Program) -> Option<RelayAnnounce> {
    match program.proxy_protocol.as_deref() {
        Some("v2") => Some(RelayAnnounce::ProxyV2),
        None | Some("none") => Some(RelayAnnounce::Nothing),
        Some(_) => None,
    }
}

/// The table that keeps everybody from the ports whom no rule led there.
pub const GUARD: &str = "kube-proxy-guard";

/// The transaction that makes the guard, whether or not there is one.
pub fn guard(family: Family) -> NftBatch {
    const INPUT: u32 = 1;
    const RAW: i32 = -300;
    let relay = (Compare::Equal, relay_address(family).into());
    let to_relay = || Rule::new().address_in(family, Field::Address, relay);
    let mut batch = Batch::new(family, GUARD);
    batch.add_table("kube-proxy: its local ports are for led connections only");
    batch.add_chain("led", Some(Hook { kind: ChainKind::Filter, number: INPUT, priority: RAW }));
    batch.flush_chain("led");
    batch.add_rule("led", &to_relay().status_dnat().verdict(Verdict::Accept));
    batch.add_rule("led", &to_relay().verdict(Verdict::Drop));
    batch.finish()
}
