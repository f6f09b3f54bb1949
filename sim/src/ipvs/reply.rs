//! Answers of the IPVS family, byte for byte as Linux 6.1 writes them. Facts from ip_vs_ctl.c (ip_vs_genl_fill_*).
//! It must never read a request but for its header. Tests: tests/ipvs_wire.rs, against tests/fixtures/ipvs/answers.txt.

use super::service::{IpvsStats, ServiceKey};
use super::table::{Ipvs, Real, Virtual};
use super::wire::{FAMILY, command};
use std::net::IpAddr;

const MULTI: u16 = 2;
/// Headers before the attributes of a service or destination.
const BEFORE: usize = 24;
/// IP_VS_VERSION_CODE 1.2.1, and the rows of the connection table.
const VERSION: u32 = 0x0001_0201;
const ROWS: u32 = 4096;

fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn u32(kind: u16, value: u32) -> Vec<u8> {
    attr(kind, &value.to_ne_bytes())
}

fn u16(kind: u16, value: u16) -> Vec<u8> {
    attr(kind, &value.to_ne_bytes())
}

/// A message that answers a request: its sequence number and sender are kept.
fn message(request: &[u8], kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 16);
    bytes.extend((body.len() as u32 + 16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(request.get(8..16).unwrap_or(&[0; 8]));
    bytes.extend(body);
    bytes
}

fn answer(request: &[u8], flags: u16, command: u8, body: &[u8]) -> Vec<u8> {
    message(request, FAMILY, flags, &[&[command, 1, 0, 0], body].concat())
}

fn done(request: &[u8]) -> Vec<u8> {
    message(request, 3, MULTI, &[0; 4])
}

/// NLMSG_ERROR with the request; 0 acknowledges.
pub(super) fn error(request: &[u8], errno: i32) -> Vec<u8> {
    let quoted = if errno == 0 { request.get(..16).unwrap_or(request) } else { request };
    message(request, 2, 0, &[&(-errno).to_ne_bytes(), quoted].concat())
}

/// CTRL_CMD_NEWFAMILY.
pub(super) fn family(request: &[u8]) -> Vec<u8> {
    let parts = [attr(2, b"IPVS\0"), u16(1, FAMILY), u32(3, 1), u32(4, 0), u32(5, 6)];
    message(request, 0x10, 0, &[vec![1, 2, 0, 0], parts.concat()].concat())
}

pub(super) fn config(ipvs: &Ipvs, request: &[u8]) -> Vec<u8> {
    let seconds =
        |duration: std::time::Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let times = &ipvs.timeouts;
    let parts =
        [u32(4, seconds(times.tcp)), u32(5, seconds(times.tcp_fin)), u32(6, seconds(times.udp))];
    answer(request, 0, command::SET_CONFIG, &parts.concat())
}

pub(super) fn version(request: &[u8]) -> Vec<u8> {
    answer(request, 0, 14, &[u32(1, VERSION), u32(2, ROWS)].concat())
}

pub(super) fn services(ipvs: &Ipvs, request: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        ipvs.services.values().flat_map(|one| service(request, MULTI, one)).collect();
    bytes.extend(done(request));
    bytes
}

pub(super) fn service(request: &[u8], flags: u16, one: &Virtual) -> Vec<u8> {
    let mut parts = Vec::new();
    parts.extend(u16(1, family_of(one.service.key.is_ipv6())));
    match one.service.key {
        ServiceKey::Mark { mark, .. } => parts.extend(u32(5, mark)),
        ServiceKey::Address { protocol, address, port } => {
            parts.extend(u16(2, protocol.into()));
            parts.extend(attr(3, &padded(address)));
            parts.extend(attr(4, &port.to_be_bytes()));
        }
    }
    parts.extend(attr(6, &[one.service.scheduler.name().as_bytes(), &[0]].concat()));
    parts.extend(attr(7, &[one.service.flags.to_ne_bytes(), [0xff; 4]].concat()));
    parts.extend(u32(8, one.service.timeout));
    let mask = one.service.netmask;
    parts.extend(attr(
        9,
        &if one.service.key.is_ipv6() { mask.to_ne_bytes() } else { mask.to_be_bytes() },
    ));
    let at = BEFORE + parts.len();
    parts.extend(statistics(at, &one.stats));
    answer(request, flags, command::NEW_SERVICE, &attr(1, &parts))
}

/// The destinations of a service, the last added first; none when there is no such service.
pub(super) fn destinations(ipvs: &Ipvs, request: &[u8], key: ServiceKey) -> Vec<u8> {
    let dests = ipvs.services.get(&key).map(|one| one.dests.as_slice()).unwrap_or_default();
    let reals = dests.iter().filter_map(|&id| ipvs.real(id));
    let mut bytes: Vec<u8> = reals.flat_map(|real| destination(request, real)).collect();
    bytes.extend(done(request));
    bytes
}

fn destination(request: &[u8], real: &Real) -> Vec<u8> {
    let parts = [
        attr(1, &padded(real.address)),
        attr(2, &real.port.to_be_bytes()),
        u32(3, 0),
        u32(4, real.weight as u32),
        attr(13, &[0]),
        attr(14, &[0; 2]),
        u16(15, 0),
        u32(5, real.upper),
        u32(6, real.lower),
        u32(7, real.active),
        u32(8, real.inactive),
        u32(9, real.persistent),
        u16(11, family_of(real.address.is_ipv6())),
    ];
    let mut parts = parts.concat();
    let at = BEFORE + parts.len();
    parts.extend(statistics(at, &real.stats));
    answer(request, MULTI, command::NEW_DEST, &attr(2, &parts))
}

fn family_of(ipv6: bool) -> u16 {
    if ipv6 { 10 } else { 2 }
}

fn padded(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// Counts in both forms: words with bytes in double words, then all in double words; rates are zero. `at` is where they will
/// stand in the message.
fn statistics(at: usize, stats: &IpvsStats) -> Vec<u8> {
    let mut narrow = Vec::new();
    narrow.extend(u32(1, stats.connections as u32));
    narrow.extend(u32(2, stats.in_packets as u32));
    narrow.extend(u32(3, stats.out_packets as u32));
    double(&mut narrow, at + 4, (4, stats.in_bytes));
    double(&mut narrow, at + 4, (5, stats.out_bytes));
    (6..=10).for_each(|rate| narrow.extend(u32(rate, 0)));
    let mut both = attr(10, &narrow);
    let mut wide = Vec::new();
    let counts =
        [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes];
    for one in (1..).zip(counts.into_iter().chain([0; 5])) {
        double(&mut wide, at + both.len() + 4, one);
    }
    both.extend(attr(12, &wide));
    both
}

/// A double word stands at a multiple of eight; where it would not, an empty attribute goes before it (nla_put_64bit).
fn double(parts: &mut Vec<u8>, base: usize, one: (u16, u64)) {
    if (base + parts.len()).is_multiple_of(8) {
        parts.extend(attr(11, &[]));
    }
    parts.extend(attr(one.0, &one.1.to_ne_bytes()));
}
