//! Decodes the matching expressions of a rule: loads, comparisons, lookups, verdicts. Statements are in `statements`.
//! It must never change a table; the batch does. Whatever it does not know it refuses by name.
//! Tests: tests/six.rs, tests/batch.rs.

use super::{Base, CtKey, Expr, Inside, Into, Lookup, Meta, Order, Reg, Way};
use crate::nft::error::{Errno, Refusal, Taken};
use crate::nft::key::Key;
use crate::nft::set::{Set, Verdict, set_flags};
use crate::nft::store::Table;
use crate::nft::wire::Span;
use std::sync::atomic::AtomicU64;

/// Decodes one rule. It remembers which registers hold something, as nft_parse_register_load checks since Linux 6.11.
pub(crate) struct Decoder<'t> {
    pub(crate) table: &'t Table,
    /// The protocol of NFTA_RULE_COMPAT, which iptables' extensions ask for.
    pub(super) protocol: Option<u8>,
    filled: u16,
}

impl<'t> Decoder<'t> {
    pub(crate) fn new(table: &'t Table, protocol: Option<u8>) -> Self {
        Decoder { table, protocol, filled: 0 }
    }

    /// The expressions in an NFTA_RULE_EXPRESSIONS attribute.
    pub(crate) fn rule(&mut self, list: Span<'_>) -> Taken<Vec<Expr>> {
        let mut exprs = Vec::new();
        for item in list.list() {
            let (_, body) = item?;
            let attrs = body.attrs::<3>("an expression")?;
            let name = attrs.need(1, "NFTA_EXPR_NAME")?;
            let body = attrs.get(2).unwrap_or(Span { bytes: &[], at: body.at });
            exprs.push(self.expr(name, body)?);
            if exprs.len() > 128 {
                return Err(Refusal::invalid(
                    list.at,
                    "at most 128 expressions in a rule (NFT_RULE_MAXEXPRS)",
                ));
            }
        }
        Ok(exprs)
    }

    fn expr(&mut self, name: Span<'_>, body: Span<'_>) -> Taken<Expr> {
        match name.name()? {
            "payload" => self.payload(body),
            "meta" => self.meta(body),
            "cmp" => self.cmp(body),
            "bitwise" => self.bitwise(body),
            "range" => self.range(body),
            "byteorder" => self.byteorder(body),
            "lookup" => self.lookup(body),
            "immediate" => self.immediate(body),
            "ct" => self.ct(body),
            "fib" => self.fib(body),
            "numgen" => self.numgen(body),
            "hash" => self.hash(body),
            "nat" => self.nat(body),
            "masq" => self.masquerade(body),
            "redir" => self.redirect(body),
            "reject" => self.reject(body),
            "dynset" => self.dynset(body),
            "limit" => self.limit(body),
            "counter" => counter(body),
            "log" => log(body),
            "match" => self.compat_match(body),
            "target" => self.compat_target(body),
            other => Err(Refusal::unmodelled(name.at, format!("the expression \"{other}\""))),
        }
    }

    fn offset(number: Span<'_>, length: usize) -> Taken<Reg> {
        let offset = match number.be32()? {
            register @ 1..=4 => (register - 1) * 16,
            register @ 8..=23 => (register - 8) * 4,
            register => {
                return Err(Refusal::invalid(
                    number.at,
                    format!("a data register expected, found {register}"),
                ));
            }
        };
        if length == 0 {
            return Err(Refusal::invalid(number.at, "a register of no bytes"));
        }
        if offset as usize + length > 64 {
            return Err(Refusal::new(
                Errno::ERANGE,
                number.at,
                format!("{length} bytes do not fit behind register offset {offset}"),
            ));
        }
        Ok(Reg(offset as u8))
    }

    fn words(reg: Reg, length: usize) -> u16 {
        let count = length.div_ceil(4) as u32;
        (((1u32 << count) - 1) << (reg.0 / 4)) as u16
    }

    /// A register to read.
    pub(super) fn load(&self, number: Span<'_>, length: usize) -> Taken<Reg> {
        let reg = Self::offset(number, length)?;
        let words = Self::words(reg, length);
        if self.filled & words != words {
            return Err(Refusal::new(
                Errno::ENODATA,
                number.at,
                format!("{length} bytes read at register offset {} before they are written", reg.0),
            ));
        }
        Ok(reg)
    }

    /// A register to write.
    pub(super) fn store(&mut self, number: Span<'_>, length: usize) -> Taken<Reg> {
        let reg = Self::offset(number, length)?;
        self.filled |= Self::words(reg, length);
        Ok(reg)
    }

    fn payload(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<9>("payload")?;
        attrs.refuse(&[(5, "payload writes (NFTA_PAYLOAD_SREG)")])?;
        let base_span = attrs.need(2, "NFTA_PAYLOAD_BASE")?;
        let base = match base_span.be32()? {
            1 => Base::Network,
            2 => Base::Transport,
            0 => {
                return Err(Refusal::unmodelled(
                    base_span.at,
                    "payload loads of the link layer header",
                ));
            }
            other => {
                return Err(Refusal::unmodelled(base_span.at, format!("payload base {other}")));
            }
        };
        let offset = attrs.need(3, "NFTA_PAYLOAD_OFFSET")?.be32()?;
        let length_span = attrs.need(4, "NFTA_PAYLOAD_LEN")?;
        let length = length_span.be32()?;
        if length == 0 || length > 64 || offset > 255 {
            return Err(Refusal::new(
                Errno::ERANGE,
                length_span.at,
                format!("payload of {length} bytes at {offset}"),
            ));
        }
        let dreg = self.store(attrs.need(1, "NFTA_PAYLOAD_DREG")?, length as usize)?;
        Ok(Expr::Payload { base, offset: offset as u16, length: length as u8, dreg })
    }

    fn meta(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<4>("meta")?;
        let key_span = attrs.need(2, "NFTA_META_KEY")?;
        let (key, length) = match key_span.be32()? {
            0 => (Meta::Length, 4),
            1 => (Meta::Protocol, 2),
            2 => (Meta::Priority, 4),
            3 => (Meta::Mark, 4),
            4 => (Meta::Iif, 4),
            5 => (Meta::Oif, 4),
            6 => (Meta::IifName, 16),
            7 => (Meta::OifName, 16),
            15 => (Meta::NfProto, 1),
            16 => (Meta::L4Proto, 1),
            19 => (Meta::PacketType, 1),
            other => return Err(Refusal::unmodelled(key_span.at, format!("meta key {other}"))),
        };
        match (attrs.get(1), attrs.get(3)) {
            (Some(dreg), None) => Ok(Expr::Meta { key, dreg: self.store(dreg, length)? }),
            (None, Some(sreg)) if key == Meta::Priority => {
                Ok(Expr::MetaSetPriority { sreg: self.load(sreg, 4)? })
            }
            (None, Some(sreg)) if key == Meta::Mark => {
                Ok(Expr::MetaSetMark { sreg: self.load(sreg, 4)? })
            }
            (None, Some(sreg)) => {
                Err(Refusal::unmodelled(sreg.at, format!("setting meta {key:?}")))
            }
            _ => Err(Refusal::invalid(
                attrs.at(),
                "meta needs either NFTA_META_DREG or NFTA_META_SREG",
            )),
        }
    }

    fn cmp(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<4>("cmp")?;
        let value = value(attrs.need(3, "NFTA_CMP_DATA")?)?;
        let sreg = self.load(attrs.need(1, "NFTA_CMP_SREG")?, value.bytes.len())?;
        let op = attrs.need(2, "NFTA_CMP_OP")?;
        let order = match op.be32()? {
            0 => Order::Equal,
            1 => Order::Differs,
            2 => Order::Less,
            3 => Order::LessOrEqual,
            4 => Order::Greater,
            5 => Order::GreaterOrEqual,
            other => return Err(Refusal::invalid(op.at, format!("cmp has no operator {other}"))),
        };
        Ok(Expr::Cmp { sreg, order, value: Key::new(value.bytes) })
    }

    fn bitwise(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<9>("bitwise")?;
        if let Some(op) = attrs.get(6).filter(|op| !matches!(op.be32(), Ok(0))) {
            return Err(Refusal::unmodelled(op.at, "bitwise operations but mask and xor"));
        }
        attrs.refuse(&[(7, "NFTA_BITWISE_DATA"), (8, "NFTA_BITWISE_SREG2")])?;
        let length = attrs.need(3, "NFTA_BITWISE_LEN")?.be32()? as usize;
        let mask = value(attrs.need(4, "NFTA_BITWISE_MASK")?)?;
        let xor = value(attrs.need(5, "NFTA_BITWISE_XOR")?)?;
        if mask.bytes.len() != length || xor.bytes.len() != length {
            return Err(Refusal::invalid(
                mask.at,
                format!("mask and xor of {length} bytes expected"),
            ));
        }
        let sreg = self.load(attrs.need(1, "NFTA_BITWISE_SREG")?, length)?;
        let dreg = self.store(attrs.need(2, "NFTA_BITWISE_DREG")?, length)?;
        Ok(Expr::Bitwise { sreg, dreg, mask: Key::new(mask.bytes), xor: Key::new(xor.bytes) })
    }

    fn range(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<5>("range")?;
        let low = value(attrs.need(3, "NFTA_RANGE_FROM_DATA")?)?;
        let high = value(attrs.need(4, "NFTA_RANGE_TO_DATA")?)?;
        if low.bytes.len() != high.bytes.len() {
            return Err(Refusal::invalid(
                high.at,
                "both ends of a range with the same length expected",
            ));
        }
        let op = attrs.need(2, "NFTA_RANGE_OP")?;
        let inside = match op.be32()? {
            0 => Inside::Yes,
            1 => Inside::No,
            other => return Err(Refusal::invalid(op.at, format!("range has no operator {other}"))),
        };
        let sreg = self.load(attrs.need(1, "NFTA_RANGE_SREG")?, low.bytes.len())?;
        Ok(Expr::Range { sreg, inside, low: Key::new(low.bytes), high: Key::new(high.bytes) })
    }

    fn byteorder(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<6>("byteorder")?;
        let length = attrs.need(4, "NFTA_BYTEORDER_LEN")?.be32()?;
        let size_span = attrs.need(5, "NFTA_BYTEORDER_SIZE")?;
        let size = size_span.be32()?;
        let op = attrs.need(3, "NFTA_BYTEORDER_OP")?;
        if !matches!(size, 2 | 4 | 8) || op.be32()? > 1 || length > 64 {
            return Err(Refusal::invalid(
                size_span.at,
                format!("byteorder of {length} bytes by {size}"),
            ));
        }
        let sreg = self.load(attrs.need(1, "NFTA_BYTEORDER_SREG")?, length as usize)?;
        let dreg = self.store(attrs.need(2, "NFTA_BYTEORDER_DREG")?, length as usize)?;
        Ok(Expr::Byteorder { sreg, dreg, length: length as u8, size: size as u8 })
    }

    /// The set that a name or a number within the batch means.
    pub(super) fn set(&self, name: Span<'_>, id: Option<Span<'_>>) -> Taken<(u32, &'t Set)> {
        let wanted = name.name()?;
        let by_id = id.map(Span::be32).transpose()?;
        let slot = self.table.set_named(wanted).or_else(|| {
            let mut sets = self.table.sets.iter();
            sets.find(|(_, set)| by_id.is_some() && set.batch_id == by_id).map(|(slot, _)| slot)
        });
        let found = slot.and_then(|slot| Some((slot, self.table.sets.get(slot)?)));
        found.ok_or_else(|| {
            Refusal::absent(name.at, format!("set \"{wanted}\" in table \"{}\"", self.table.name))
        })
    }

    fn lookup(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<6>("lookup")?;
        let name = attrs.need(1, "NFTA_LOOKUP_SET")?;
        let (slot, set) = self.set(name, attrs.get(4))?;
        let flags = attrs.be32(5)?.unwrap_or(0);
        if flags > 1 {
            return Err(Refusal::invalid(attrs.at(), format!("lookup flags {flags:#x}")));
        }
        let sreg =
            self.load(attrs.need(2, "NFTA_LOOKUP_SREG")?, set.definition.key_len as usize)?;
        let is_map = set.definition.has(set_flags::MAP);
        let into = match attrs.get(3) {
            Some(dreg) if !is_map || flags == 1 => {
                return Err(Refusal::invalid(
                    dreg.at,
                    format!("set \"{}\" gives no data", set.name),
                ));
            }
            Some(dreg) if set.definition.is_verdict_map() => match dreg.be32()? {
                0 => Into::Verdict,
                _ => {
                    return Err(Refusal::invalid(
                        dreg.at,
                        "the verdict register expected for a verdict map",
                    ));
                }
            },
            Some(dreg) => Into::Register(self.store(dreg, set.definition.data_len as usize)?),
            None if is_map => {
                return Err(Refusal::invalid(
                    attrs.at(),
                    format!("map \"{}\" needs NFTA_LOOKUP_DREG", set.name),
                ));
            }
            None => Into::Nowhere,
        };
        Ok(Expr::Lookup(Lookup { set: slot, sreg, into, inverted: flags == 1 }))
    }

    fn immediate(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<3>("immediate")?;
        let dreg = attrs.need(1, "NFTA_IMMEDIATE_DREG")?;
        let data = attrs.need(2, "NFTA_IMMEDIATE_DATA")?;
        if dreg.be32()? == 0 {
            return Ok(Expr::Verdict(verdict(self.table, data)?));
        }
        let value = value(data)?;
        Ok(Expr::Value { dreg: self.store(dreg, value.bytes.len())?, value: Key::new(value.bytes) })
    }

    fn ct(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<5>("ct")?;
        let key_span = attrs.need(2, "NFTA_CT_KEY")?;
        let address = if self.table.family == crate::nft::Family::Ip { 4 } else { 16 };
        let (key, length) = match key_span.be32()? {
            0 => (CtKey::State, 4),
            1 => (CtKey::Direction, 1),
            2 => (CtKey::Status, 4),
            3 => (CtKey::Mark, 4),
            7 => (CtKey::L3Protocol, 1),
            8 => (CtKey::Src, address),
            9 => (CtKey::Dst, address),
            10 => (CtKey::Protocol, 1),
            11 => (CtKey::ProtoSrc, 2),
            12 => (CtKey::ProtoDst, 2),
            19 => (CtKey::SrcIp, 4),
            20 => (CtKey::DstIp, 4),
            21 => (CtKey::SrcIp6, 16),
            22 => (CtKey::DstIp6, 16),
            other => return Err(Refusal::unmodelled(key_span.at, format!("ct key {other}"))),
        };
        if let Some(sreg) = attrs.get(4) {
            return match key {
                CtKey::Mark => Ok(Expr::CtSetMark { sreg: self.load(sreg, 4)? }),
                _ => Err(Refusal::unmodelled(sreg.at, format!("setting ct {key:?}"))),
            };
        }
        let reply = match attrs.get(3).map(|span| (span, span.u8())) {
            None => None,
            Some((_, Ok(0))) => Some(Way::Original),
            Some((_, Ok(1))) => Some(Way::Reply),
            Some((span, _)) => return Err(Refusal::invalid(span.at, "direction 0 or 1 expected")),
        };
        let directed = matches!(
            key,
            CtKey::Src
                | CtKey::Dst
                | CtKey::SrcIp
                | CtKey::DstIp
                | CtKey::SrcIp6
                | CtKey::DstIp6
                | CtKey::ProtoSrc
                | CtKey::ProtoDst
        );
        let either = matches!(key, CtKey::Protocol | CtKey::L3Protocol);
        if directed && reply.is_none() || reply.is_some() && !directed && !either {
            return Err(Refusal::invalid(
                attrs.at(),
                format!("ct {key:?} and NFTA_CT_DIRECTION do not go together so"),
            ));
        }
        Ok(Expr::Ct { key, reply, dreg: self.store(attrs.need(1, "NFTA_CT_DREG")?, length)? })
    }
}

/// The bytes of an attribute that holds NFTA_DATA_VALUE.
pub(crate) fn value(data: Span<'_>) -> Taken<Span<'_>> {
    let attrs = data.attrs::<3>("data")?;
    let value = attrs.need(1, "NFTA_DATA_VALUE")?;
    if value.bytes.is_empty() || value.bytes.len() > 64 {
        return Err(Refusal::invalid(
            value.at,
            format!("1 to 64 bytes of data expected, found {}", value.bytes.len()),
        ));
    }
    Ok(value)
}

/// The verdict in an attribute that holds NFTA_DATA_VERDICT.
pub(crate) fn verdict(table: &Table, data: Span<'_>) -> Taken<Verdict> {
    let body = data.attrs::<3>("data")?.need(2, "NFTA_DATA_VERDICT")?;
    let attrs = body.attrs::<4>("a verdict")?;
    attrs.refuse(&[(3, "chains without a name (NFTA_VERDICT_CHAIN_ID)")])?;
    let code = attrs.need(1, "NFTA_VERDICT_CODE")?;
    let chain = || -> Taken<u32> {
        let span = attrs.need(2, "NFTA_VERDICT_CHAIN")?;
        let name = span.name()?;
        let slot = table.chain_named(name).ok_or_else(|| {
            Refusal::absent(span.at, format!("chain \"{name}\" in table \"{}\"", table.name))
        })?;
        match table.chains.get(slot).is_some_and(|chain| chain.base.is_some()) {
            true => Err(Refusal::new(
                Errno::EOPNOTSUPP,
                span.at,
                format!("chain \"{name}\" is a base chain, nothing jumps there"),
            )),
            false => Ok(slot),
        }
    };
    match code.be32()? as i32 {
        0 => Ok(Verdict::Drop),
        1 => Ok(Verdict::Accept),
        -1 => Ok(Verdict::Continue),
        -2 => Ok(Verdict::Break),
        -3 => Ok(Verdict::Jump(chain()?)),
        -4 => Ok(Verdict::Goto(chain()?)),
        -5 => Ok(Verdict::Return),
        3 => Err(Refusal::unmodelled(code.at, "queueing to user space (verdict 3)")),
        other => Err(Refusal::invalid(code.at, format!("no verdict {other}"))),
    }
}

fn counter(body: Span<'_>) -> Taken<Expr> {
    let attrs = body.attrs::<4>("counter")?;
    let start = |kind| -> Taken<AtomicU64> { Ok(AtomicU64::new(attrs.be64(kind)?.unwrap_or(0))) };
    Ok(Expr::Counter { bytes: start(1)?, packets: start(2)? })
}

fn log(body: Span<'_>) -> Taken<Expr> {
    let attrs = body.attrs::<7>("log")?;
    let prefix = attrs.get(2).map(Span::name).transpose()?.unwrap_or("");
    Ok(Expr::Log { prefix: prefix.into() })
}
