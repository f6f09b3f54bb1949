//! The schedulers that hash: source and destination hashing by a table of 256, Maglev by a table of 4093.
//! Facts from ip_vs_sh.c, ip_vs_dh.c, ip_vs_mh.c (CONFIG_IP_VS_MH_TAB_INDEX=12) and siphash.c; checked against Linux 6.1.
//! It must never know connections. Tests: tests/ipvs.rs.

use super::table::{DestId, Real};
use std::net::IpAddr;

/// Slots of the tables of `sh` and `dh`.
const SMALL: usize = 256;
/// Slots of the table of `mh`, a prime.
const PRIME: u32 = 4093;
/// Bits a weight may take up in Maglev's table before it is shifted.
const WEIGHT_BITS: u32 = 6;
const FIRST_KEY: u64 = 2_654_435_761;
const SECOND_KEY: u64 = 2_654_446_892;

/// Which destination stands at each slot.
pub(super) type Slots = Vec<Option<DestId>>;

/// The address as one word: IPv6 folded by exclusive or.
fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// hash_32 of linux/hash.h to eight bits.
fn golden(value: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> 24
}

/// A slot of `sh` or `dh` (`offset` moves on where the one found is unavailable).
pub(super) fn small_slot(address: IpAddr, port: u16, offset: u32) -> usize {
    let hash = golden(fold(address).wrapping_add(u32::from(port)));
    (offset.wrapping_add(hash) % SMALL as u32) as usize
}

/// A slot of `mh`.
pub(super) fn maglev_slot(address: IpAddr, port: u16, offset: u32) -> usize {
    (hash(address, port, offset, FIRST_KEY) % PRIME) as usize
}

fn hash(address: IpAddr, port: u16, offset: u32, key: u64) -> u32 {
    let value = offset.wrapping_add(u32::from(port)).wrapping_add(fold(address));
    siphash13(value, key)
}

/// SipHash-1-3 of one 32-bit word under a key of two equal halves, cut to 32 bits (hsiphash on 64-bit machines).
fn siphash13(word: u32, key: u64) -> u32 {
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    let block = 4u64 << 56 | u64::from(word);
    v[3] ^= block;
    round(&mut v);
    v[0] ^= block;
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// The table of `sh`: destinations in order, each as often in a row as it weighs.
pub(super) fn source_table(dests: &[(DestId, Real)]) -> Slots {
    filled(dests, |real| real.weight)
}

/// The table of `dh`: destinations in order.
pub(super) fn destination_table(dests: &[(DestId, Real)]) -> Slots {
    filled(dests, |_| 1)
}

fn filled(dests: &[(DestId, Real)], weight: impl Fn(&Real) -> i32) -> Slots {
    let mut slots = vec![None; SMALL];
    let (mut at, mut count) = (0, 0);
    for slot in &mut slots {
        let Some((id, real)) = dests.get(at) else { break };
        *slot = Some(*id);
        count += 1;
        if count >= weight(real) {
            at = (at + 1) % dests.len();
            count = 0;
        }
    }
    slots
}

struct Preference {
    id: DestId,
    at: u32,
    skip: u32,
    turns: u32,
}

/// Maglev's table. A destination counts with the last weight it had that was not zero.
pub(super) fn maglev_table(dests: &[(DestId, Real)]) -> Slots {
    let mut slots = vec![None; PRIME as usize];
    let weights = || dests.iter().map(|(_, real)| real.last_weight.max(0) as u32);
    let divisor = weights().fold(0, gcd);
    if divisor == 0 {
        return slots;
    }
    let most = weights().max().unwrap_or(0) / divisor;
    let shift = (32 - most.leading_zeros()).saturating_sub(WEIGHT_BITS);
    let preference = |(id, real): &(DestId, Real)| {
        let weight = real.last_weight.max(0) as u32;
        Preference {
            id: *id,
            at: hash(real.address, real.port, 0, FIRST_KEY) % PRIME,
            skip: hash(real.address, real.port, 0, SECOND_KEY) % (PRIME - 1) + 1,
            turns: ((weight / divisor) >> shift).max(u32::from(weight != 0)),
        }
    };
    let mut preferences: Vec<Preference> =
        dests.iter().map(preference).filter(|one| one.turns > 0).collect();
    let mut left = PRIME;
    while left > 0 {
        for one in &mut preferences {
            for _ in 0..one.turns.min(left) {
                while slots[one.at as usize].is_some() {
                    one.at = (one.at + one.skip) % PRIME;
                }
                slots[one.at as usize] = Some(one.id);
                left -= 1;
            }
        }
    }
    slots
}

pub(super) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
