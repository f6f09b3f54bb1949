//! What loads, comparisons, lookups, generators and counters do.
//! Facts from nft_{payload,meta,cmp,bitwise,range,byteorder,lookup,numgen,hash,fib,ct,limit,counter}.c of net/netfilter.
//! It must never change a connection but for its mark. Tests: tests/six.rs, tests/nft_files.rs.

use super::eval::Flow;
use super::expr::{
    self, Base, CtKey, Expr, Fib, FibResult, Inside, Limit, Lookup, Meta, Numgen, Order, Reg, Way,
    fib_flags,
};
use super::print;
use super::set::Datum;
use super::store::Table;
use crate::conntrack::Standing;
use crate::journey::{Sink, Step};
use crate::net::Decision;
use crate::skb::{Env, Skb};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

type Registers = [u8; 64];

#[inline]
fn read(registers: &Registers, reg: Reg, length: usize) -> &[u8] {
    registers.get(usize::from(reg.0)..usize::from(reg.0) + length).unwrap_or(&[])
}

/// Writes bytes and zeroes what is left of their last word.
#[inline]
fn write(registers: &mut Registers, reg: Reg, bytes: &[u8]) {
    let from = usize::from(reg.0);
    let padded = bytes.len().next_multiple_of(4);
    if let Some(target) = registers.get_mut(from..from + padded) {
        target[..bytes.len()].copy_from_slice(bytes);
        target[bytes.len()..].fill(0);
    }
}

fn write_word(registers: &mut Registers, reg: Reg, word: u32) {
    write(registers, reg, &word.to_ne_bytes());
}

fn matches(yes: bool) -> Flow {
    if yes { Flow::Next } else { Flow::Break }
}

/// Expressions between registers and the packet.
pub(super) fn load<S: Sink>(
    expr: &Expr,
    registers: &mut Registers,
    env: &mut Env<'_, S>,
    skb: &mut Skb,
) -> Flow {
    match expr {
        Expr::Payload { base, offset, length, dreg } => {
            let header = if *base == Base::Network {
                skb.headers.network()
            } else {
                skb.headers.transport()
            };
            match header.get(usize::from(*offset)..usize::from(*offset) + usize::from(*length)) {
                Some(bytes) => write(registers, *dreg, bytes),
                None => return Flow::Break,
            }
        }
        Expr::Meta { key, dreg } => meta(*key, *dreg, registers, (env, skb)),
        Expr::MetaSetMark { sreg } => {
            let mark = word(registers, *sreg);
            skb.packet.mark = mark;
            env.sink.note(|| Step::Marked(mark));
        }
        Expr::MetaSetPriority { sreg } => skb.packet.priority = word(registers, *sreg),
        Expr::Cmp { sreg, order, value } => {
            return compare(read(registers, *sreg, value.len()), *order, value);
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => bitwise(registers, (*sreg, *dreg), mask, xor),
        Expr::Range { sreg, inside, low, high } => {
            let value = read(registers, *sreg, low.len());
            return matches((&**low <= value && value <= &**high) == (*inside == Inside::Yes));
        }
        Expr::Byteorder { sreg, dreg, length, size } => {
            byteorder(registers, (*sreg, *dreg), usize::from(*length), usize::from(*size))
        }
        Expr::Value { dreg, value } => write(registers, *dreg, value),
        Expr::Numgen(numgen) => write_word(registers, numgen.dreg, generate(numgen, env)),
        Expr::Hash(hash) => write_word(registers, hash.dreg, hashed(hash, registers, skb)),
        Expr::Fib(fib) => self::fib(fib, registers, env, skb),
        Expr::Ct { key, reply, dreg } => {
            return connection((*key, *reply, *dreg), registers, env, skb);
        }
        Expr::CtSetMark { sreg } => {
            let mark = word(registers, *sreg);
            if let Some(conn) = skb.ct.and_then(|ct| env.tracker.get_mut(ct.id)) {
                conn.mark = mark;
            }
        }
        _ => {}
    }
    Flow::Next
}

fn word(registers: &Registers, reg: Reg) -> u32 {
    u32::from_ne_bytes(read(registers, reg, 4).try_into().unwrap_or([0; 4]))
}

fn meta<S: Sink>(key: Meta, dreg: Reg, registers: &mut Registers, with: (&Env<'_, S>, &Skb)) {
    let (env, skb) = with;
    let ipv6 = skb.packet.dst.is_ipv6();
    let name = |link: Option<u32>| {
        let mut bytes = [0; 16];
        let name = link.and_then(|index| env.net.link(index)).map_or("", |link| &link.name);
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        bytes
    };
    let out = skb.out.map(|hop| hop.link);
    match key {
        Meta::Length => write_word(registers, dreg, skb.packet.length()),
        Meta::Protocol => {
            write(registers, dreg, &if ipv6 { 0x86ddu16 } else { 0x0800 }.to_be_bytes())
        }
        Meta::Priority => write_word(registers, dreg, skb.packet.priority),
        Meta::Mark => write_word(registers, dreg, skb.packet.mark),
        Meta::Iif => write_word(registers, dreg, skb.in_link.unwrap_or(0)),
        Meta::Oif => write_word(registers, dreg, out.unwrap_or(0)),
        Meta::IifName => write(registers, dreg, &name(skb.in_link)),
        Meta::OifName => write(registers, dreg, &name(out)),
        Meta::NfProto => write(registers, dreg, &[if ipv6 { 10 } else { 2 }]),
        Meta::L4Proto => write(registers, dreg, &[skb.packet.protocol()]),
        Meta::PacketType => {
            write(registers, dreg, &[if skb.packet.dst.is_multicast() { 2 } else { 0 }])
        }
    }
}

fn compare(value: &[u8], order: Order, wanted: &[u8]) -> Flow {
    matches(match order {
        Order::Equal => value == wanted,
        Order::Differs => value != wanted,
        Order::Less => value < wanted,
        Order::LessOrEqual => value <= wanted,
        Order::Greater => value > wanted,
        Order::GreaterOrEqual => value >= wanted,
    })
}

fn bitwise(registers: &mut Registers, regs: (Reg, Reg), mask: &[u8], xor: &[u8]) {
    let mut result = [0; 64];
    let length = mask.len().min(64);
    let source = read(registers, regs.0, length);
    for (slot, (byte, (keep, flip))) in
        result.iter_mut().zip(source.iter().zip(mask.iter().zip(xor)))
    {
        *slot = byte & keep ^ flip;
    }
    write(registers, regs.1, &result[..length]);
}

/// Swaps the bytes of each whole number between host and network order, which is the same both ways.
/// (nft 1.0.6 asks for a length of 1 by 2 for `ct original proto-dst 80`; the kernel then does nothing.)
fn byteorder(registers: &mut Registers, regs: (Reg, Reg), length: usize, size: usize) {
    let mut result = [0; 64];
    let length = length.min(64) / size.max(1) * size;
    result[..length].copy_from_slice(read(registers, regs.0, length));
    if cfg!(target_endian = "little") {
        result[..length].chunks_exact_mut(size.max(1)).for_each(<[u8]>::reverse);
    }
    write(registers, regs.1, &result[..length]);
}

fn generate<S>(numgen: &Numgen, env: &mut Env<'_, S>) -> u32 {
    let Some(counter) = &numgen.counter else {
        return numgen.offset.wrapping_add(env.chance.below(numgen.modulus));
    };
    let number = match counter.load(Relaxed) {
        last if last.wrapping_add(1) >= numgen.modulus => 0,
        last => last + 1,
    };
    if !env.dry {
        counter.store(number, Relaxed);
    }
    numgen.offset.wrapping_add(number)
}

fn hashed(hash: &expr::Hash, registers: &Registers, skb: &Skb) -> u32 {
    let full = match hash.source {
        Some((reg, length)) => {
            super::print::jhash(read(registers, reg, usize::from(length)), hash.seed)
        }
        None => symmetric(skb),
    };
    hash.offset.wrapping_add(((u64::from(full) * u64::from(hash.modulus)) >> 32) as u32)
}

/// The same for both directions. Linux keys its own with a random number, so only that is the same.
fn symmetric(skb: &Skb) -> u32 {
    let packet = &skb.packet;
    let mut ends = [(packet.src, packet.sport()), (packet.dst, packet.dport())];
    ends.sort();
    let mut bytes = Vec::with_capacity(40);
    for (address, port) in ends {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
        bytes.extend(port.to_be_bytes());
    }
    super::print::jhash(&bytes, u32::from(packet.protocol()))
}

fn fib<S: Sink>(fib: &Fib, registers: &mut Registers, env: &Env<'_, S>, skb: &Skb) {
    let address = if fib.flags & fib_flags::SADDR != 0 { skb.packet.src } else { skb.packet.dst };
    let link = if fib.flags & fib_flags::IIF != 0 {
        skb.in_link
    } else if fib.flags & fib_flags::OIF != 0 {
        skb.out.map(|hop| hop.link)
    } else {
        None
    };
    if fib.result == FibResult::AddressType {
        return write_word(registers, fib.dreg, env.net.address_type(address, link));
    }
    let found = match env.net.route(address) {
        Decision::Via(hop) if link.is_none_or(|link| link == hop.link) => hop.link,
        _ if skb.in_link == Some(crate::net::LOOPBACK) => crate::net::LOOPBACK,
        _ => 0,
    };
    match fib.result {
        _ if fib.flags & fib_flags::PRESENT != 0 => {
            write(registers, fib.dreg, &[u8::from(found != 0)])
        }
        FibResult::OifName => {
            let mut bytes = [0; 16];
            let name = env.net.link(found).map_or("", |link| &link.name);
            let length = name.len().min(15);
            bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
            write(registers, fib.dreg, &bytes);
        }
        _ => write_word(registers, fib.dreg, found),
    }
}

fn connection<S: Sink>(
    what: (CtKey, Option<Way>, Reg),
    registers: &mut Registers,
    env: &Env<'_, S>,
    skb: &Skb,
) -> Flow {
    let (key, way, dreg) = what;
    let found = skb.ct.and_then(|ct| Some((ct, env.tracker.get(ct.id)?)));
    let Some((ct, conn)) = found else {
        if key != CtKey::State {
            return Flow::Break;
        }
        write_word(registers, dreg, if skb.untracked { 64 } else { 1 });
        return Flow::Next;
    };
    let tuple = conn.tuple(way == Some(Way::Reply));
    match key {
        CtKey::State => write_word(
            registers,
            dreg,
            match ct.standing {
                Standing::Established => 2,
                Standing::Related => 4,
                Standing::New => 8,
            },
        ),
        CtKey::Direction => write(registers, dreg, &[u8::from(ct.reply)]),
        CtKey::Status => write_word(registers, dreg, conn.status),
        CtKey::Mark => write_word(registers, dreg, conn.mark),
        CtKey::L3Protocol => write(registers, dreg, &[if tuple.src.is_ipv4() { 2 } else { 10 }]),
        CtKey::Protocol => write(registers, dreg, &[tuple.protocol]),
        CtKey::ProtoSrc => write(registers, dreg, &tuple.sport.to_be_bytes()),
        CtKey::ProtoDst => write(registers, dreg, &tuple.dport.to_be_bytes()),
        CtKey::Src | CtKey::SrcIp | CtKey::SrcIp6 => {
            return address(tuple.src, key, dreg, registers);
        }
        CtKey::Dst | CtKey::DstIp | CtKey::DstIp6 => {
            return address(tuple.dst, key, dreg, registers);
        }
    }
    Flow::Next
}

fn address(address: IpAddr, key: CtKey, dreg: Reg, registers: &mut Registers) -> Flow {
    match (address, key) {
        (IpAddr::V4(_), CtKey::SrcIp6 | CtKey::DstIp6)
        | (IpAddr::V6(_), CtKey::SrcIp | CtKey::DstIp) => return Flow::Break,
        (IpAddr::V4(v4), _) => write(registers, dreg, &v4.octets()),
        (IpAddr::V6(v6), _) => write(registers, dreg, &v6.octets()),
    }
    Flow::Next
}

/// Looks a key up in a set or map.
pub(super) fn lookup<S: Sink>(
    lookup: &Lookup,
    at: (&Table, &mut Registers),
    env: &mut Env<'_, S>,
) -> Flow {
    let (table, registers) = at;
    let Some(set) = table.sets.get(lookup.set) else { return Flow::Break };
    let found = set.find(read(registers, lookup.sreg, set.definition.key_len as usize), env.now);
    env.sink.note(|| Step::Lookup {
        set: set.name.to_string(),
        key: print::key(
            &set.definition,
            read(registers, lookup.sreg, set.definition.key_len as usize),
        ),
        found: found.map(|element| print::datum(table, &set.definition, &element.datum)),
        comment: found.and_then(|element| print::comment(element.userdata.as_deref(), 0)),
    });
    if found.is_some() == lookup.inverted {
        return Flow::Break;
    }
    match (found.map(|element| &element.datum), lookup.into) {
        (Some(Datum::Verdict(verdict)), expr::Into::Verdict) => Flow::Verdict(*verdict),
        (Some(Datum::Value(value)), expr::Into::Register(dreg)) => {
            write(registers, dreg, value);
            Flow::Next
        }
        _ => Flow::Next,
    }
}

/// Counters, limits and logs.
pub(super) fn count<S: Sink>(expr: &Expr, env: &mut Env<'_, S>, skb: &Skb) -> Flow {
    match expr {
        Expr::Counter { packets, bytes } if !env.dry => {
            packets.store(packets.load(Relaxed).wrapping_add(1), Relaxed);
            bytes.store(bytes.load(Relaxed).wrapping_add(u64::from(skb.packet.length())), Relaxed);
            Flow::Next
        }
        Expr::Limit(limit) => matches(limit_over(limit, env, skb) == limit.inverted),
        Expr::Log { prefix } => {
            env.sink.note(|| Step::Log(prefix.to_string()));
            Flow::Next
        }
        _ => Flow::Next,
    }
}

fn limit_over<S>(limit: &Limit, env: &Env<'_, S>, skb: &Skb) -> bool {
    let most = expr::bucket(limit.rate, limit.nanos, (limit.burst, limit.bytes));
    let units = if limit.bytes { u64::from(skb.packet.length()) } else { 1 };
    let cost =
        u64::try_from(u128::from(units) * u128::from(limit.nanos) / u128::from(limit.rate.max(1)))
            .unwrap_or(u64::MAX);
    let passed = env.now.saturating_sub(limit.last.load(Relaxed));
    let tokens = limit.tokens.load(Relaxed).saturating_add(passed).min(most);
    let left = tokens.checked_sub(cost);
    if !env.dry {
        limit.last.store(env.now, Relaxed);
        limit.tokens.store(left.unwrap_or(tokens), Relaxed);
    }
    left.is_none()
}
