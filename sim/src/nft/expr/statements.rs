//! Decodes the statements and generators of a rule: NAT, reject, dynset, limit, fib, numgen, hash.
//! It must never change a table. Where they may stand is checked in `nft::verify`. Tests: tests/six.rs, tests/nft_files.rs.

use super::decode::Decoder;
use super::{
    Dynset, DynsetOp, Expr, Fib, FibResult, Hash, Limit, Nat, NatKind, Numgen, Reg, RejectWith,
    fib_flags,
};
use crate::conntrack::nat::range_flags;
use crate::nft::Family;
use crate::nft::error::{Errno, Refusal, Taken};
use crate::nft::set::set_flags;
use crate::nft::wire::{Attrs, Span};
use std::sync::atomic::{AtomicU32, AtomicU64};

const NAT_FLAGS: u32 = range_flags::MAP_IPS
    | range_flags::PROTO_SPECIFIED
    | range_flags::ANY_RANDOM
    | range_flags::PERSISTENT;

impl Decoder<'_> {
    pub(super) fn fib(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<4>("fib")?;
        let flags_span = attrs.need(3, "NFTA_FIB_FLAGS")?;
        let flags = flags_span.be32()?;
        let ends = flags & (fib_flags::SADDR | fib_flags::DADDR);
        let links = flags & (fib_flags::IIF | fib_flags::OIF);
        if flags > 63 || !matches!(ends, 1 | 2) || links == fib_flags::IIF | fib_flags::OIF {
            return Err(Refusal::invalid(flags_span.at, format!("fib flags {flags:#x}")));
        }
        let result_span = attrs.need(2, "NFTA_FIB_RESULT")?;
        let present = flags & fib_flags::PRESENT != 0;
        let (result, length) = match result_span.be32()? {
            1 => (FibResult::Oif, if present { 1 } else { 4 }),
            2 => (FibResult::OifName, if present { 1 } else { 16 }),
            3 if !present => (FibResult::AddressType, 4),
            other => return Err(Refusal::invalid(result_span.at, format!("fib result {other}"))),
        };
        if flags & fib_flags::MARK != 0 {
            return Err(Refusal::unmodelled(flags_span.at, "fib lookups by mark"));
        }
        Ok(Expr::Fib(Fib {
            dreg: self.store(attrs.need(1, "NFTA_FIB_DREG")?, length)?,
            result,
            flags,
        }))
    }

    pub(super) fn numgen(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<5>("numgen")?;
        let (modulus, offset) = modulus(&attrs, 2, 4)?;
        let kind = attrs.need(3, "NFTA_NG_TYPE")?;
        let counter = match kind.be32()? {
            0 => Some(AtomicU32::new(modulus - 1)),
            1 => None,
            other => {
                return Err(Refusal::new(
                    Errno::EINVAL,
                    kind.at,
                    format!("no number generator {other}"),
                ));
            }
        };
        let dreg = self.store(attrs.need(1, "NFTA_NG_DREG")?, 4)?;
        Ok(Expr::Numgen(Numgen { dreg, modulus, offset, counter }))
    }

    pub(super) fn hash(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<10>("hash")?;
        attrs.refuse(&[(8, "NFTA_HASH_SET_NAME"), (9, "NFTA_HASH_SET_ID")])?;
        let (modulus, offset) = modulus(&attrs, 4, 6)?;
        let source = match attrs.be32(7)?.unwrap_or(0) {
            0 => {
                let length = attrs.need(3, "NFTA_HASH_LEN")?;
                let bytes = length.be32()?;
                if bytes == 0 || bytes > 64 {
                    return Err(Refusal::new(
                        Errno::ERANGE,
                        length.at,
                        format!("hash over {bytes} bytes"),
                    ));
                }
                Some((self.load(attrs.need(1, "NFTA_HASH_SREG")?, bytes as usize)?, bytes as u8))
            }
            1 => None,
            other => {
                return Err(Refusal::new(
                    Errno::EINVAL,
                    attrs.at(),
                    format!("no hash of type {other}"),
                ));
            }
        };
        let dreg = self.store(attrs.need(2, "NFTA_HASH_DREG")?, 4)?;
        Ok(Expr::Hash(Hash { source, dreg, modulus, seed: attrs.be32(5)?.unwrap_or(0), offset }))
    }

    pub(super) fn nat(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<8>("nat")?;
        let kind_span = attrs.need(1, "NFTA_NAT_TYPE")?;
        let kind = match kind_span.be32()? {
            0 => NatKind::Source,
            1 => NatKind::Destination,
            other => return Err(Refusal::invalid(kind_span.at, format!("no NAT of type {other}"))),
        };
        let family_span = attrs.need(2, "NFTA_NAT_FAMILY")?;
        let ipv6 = match (family_span.be32()?, self.table.family) {
            (2, Family::Ip | Family::Inet) => Some(false),
            (10, Family::Ip6 | Family::Inet) => Some(true),
            (1, Family::Inet) if attrs.get(3).is_none() => None,
            (other, family) => {
                return Err(Refusal::new(
                    Errno::EOPNOTSUPP,
                    family_span.at,
                    format!("NAT of family {other} in a table of family {}", family.name()),
                ));
            }
        };
        let address_len = if ipv6 == Some(true) { 16 } else { 4 };
        let addresses = self.ends(&attrs, (3, 4), address_len)?;
        let ports = self.ends(&attrs, (5, 6), 2)?;
        Ok(Expr::Nat(Nat { kind, ipv6, addresses, ports, flags: flags(&attrs, 7)? }))
    }

    pub(super) fn masquerade(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<4>("masq")?;
        let ports = self.ends(&attrs, (2, 3), 2)?;
        Ok(Expr::Nat(Nat {
            kind: NatKind::Masquerade,
            ipv6: None,
            addresses: None,
            ports,
            flags: flags(&attrs, 1)?,
        }))
    }

    pub(super) fn redirect(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<4>("redir")?;
        let ports = self.ends(&attrs, (1, 2), 2)?;
        Ok(Expr::Nat(Nat {
            kind: NatKind::Redirect,
            ipv6: None,
            addresses: None,
            ports,
            flags: flags(&attrs, 3)?,
        }))
    }

    /// The registers of a range's two ends; the second is the first where it is left out.
    fn ends<const N: usize>(
        &self,
        attrs: &Attrs<'_, N>,
        kinds: (usize, usize),
        length: usize,
    ) -> Taken<Option<(Reg, Reg)>> {
        let Some(low) = attrs.get(kinds.0) else { return Ok(None) };
        let low = self.load(low, length)?;
        let high = attrs.get(kinds.1).map(|span| self.load(span, length)).transpose()?;
        Ok(Some((low, high.unwrap_or(low))))
    }

    pub(super) fn reject(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<3>("reject")?;
        let kind = attrs.need(1, "NFTA_REJECT_TYPE")?;
        let code = attrs.get(2).map(Span::u8).transpose()?;
        let need_code = || {
            code.ok_or_else(|| Refusal::invalid(attrs.at(), "reject needs NFTA_REJECT_ICMP_CODE"))
        };
        let with = match kind.be32()? {
            0 => RejectWith::Unreachable(need_code()?),
            1 => RejectWith::TcpReset,
            2 if self.table.family == Family::Inet => match need_code()? {
                code @ 0..=3 => RejectWith::UnreachableX(code),
                code => return Err(Refusal::invalid(kind.at, format!("no icmpx code {code}"))),
            },
            other => {
                return Err(Refusal::invalid(
                    kind.at,
                    format!("no reject of type {other} in family {}", self.table.family.name()),
                ));
            }
        };
        Ok(Expr::Reject(with))
    }

    pub(super) fn dynset(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<11>("dynset")?;
        attrs.refuse(&[
            (7, "expressions in dynset (NFTA_DYNSET_EXPR)"),
            (10, "expressions in dynset (NFTA_DYNSET_EXPRESSIONS)"),
        ])?;
        let name = attrs.need(1, "NFTA_DYNSET_SET_NAME")?;
        let (slot, set) = self.set(name, attrs.get(2))?;
        let definition = &set.definition;
        // Without a size Linux makes a table that grows, and that rules may write to.
        let fixed =
            definition.size != 0 && definition.flags & (set_flags::EVAL | set_flags::TIMEOUT) == 0;
        if definition.has(set_flags::INTERVAL) || fixed {
            return Err(Refusal::new(
                Errno::EOPNOTSUPP,
                name.at,
                format!("set \"{}\" cannot be updated from rules", set.name),
            ));
        }
        if definition.has(set_flags::CONSTANT) {
            return Err(Refusal::new(
                Errno::EBUSY,
                name.at,
                format!("set \"{}\" is constant", set.name),
            ));
        }
        let op_span = attrs.need(3, "NFTA_DYNSET_OP")?;
        let op = match op_span.be32()? {
            0 => DynsetOp::Add,
            1 => DynsetOp::Update,
            2 => DynsetOp::Delete,
            other => {
                return Err(Refusal::new(
                    Errno::EOPNOTSUPP,
                    op_span.at,
                    format!("no dynset operation {other}"),
                ));
            }
        };
        let timeout = attrs.be64(6)?.unwrap_or(0).saturating_mul(1_000_000);
        if timeout != 0 && !definition.has(set_flags::TIMEOUT) {
            return Err(Refusal::new(
                Errno::EOPNOTSUPP,
                name.at,
                format!("set \"{}\" has no timeouts", set.name),
            ));
        }
        let is_map = definition.has(set_flags::MAP);
        let data = match attrs.get(5) {
            Some(sreg) if !is_map || definition.is_verdict_map() => {
                return Err(Refusal::new(
                    Errno::EOPNOTSUPP,
                    sreg.at,
                    format!("set \"{}\" takes no data", set.name),
                ));
            }
            Some(sreg) => Some(self.load(sreg, definition.data_len as usize)?),
            None if is_map => {
                return Err(Refusal::invalid(
                    name.at,
                    format!("map \"{}\" needs NFTA_DYNSET_SREG_DATA", set.name),
                ));
            }
            None => None,
        };
        let flags = attrs.be32(9)?.unwrap_or(0);
        if flags & !1 != 0 {
            return Err(Refusal::unmodelled(attrs.at(), format!("dynset flags {flags:#x}")));
        }
        let key = self.load(attrs.need(4, "NFTA_DYNSET_SREG_KEY")?, definition.key_len as usize)?;
        Ok(Expr::Dynset(Dynset { set: slot, op, key, data, timeout, inverted: flags == 1 }))
    }

    pub(super) fn limit(&mut self, body: Span<'_>) -> Taken<Expr> {
        let attrs = body.attrs::<7>("limit")?;
        let rate_span = attrs.need(1, "NFTA_LIMIT_RATE")?;
        let rate = rate_span.be64()?;
        let unit = attrs.need(2, "NFTA_LIMIT_UNIT")?.be64()?;
        let bytes = attrs.be32(4)?.unwrap_or(0) == 1;
        let burst = match attrs.be32(3)?.unwrap_or(0) {
            0 if !bytes => 5,
            burst => burst,
        };
        let nanos = unit.checked_mul(1_000_000_000).filter(|nanos| *nanos != 0 && rate != 0);
        let nanos = nanos.ok_or_else(|| {
            Refusal::invalid(rate_span.at, format!("limit of {rate} in {unit} seconds"))
        })?;
        let full = bucket(rate, nanos, (burst, bytes));
        let inverted = attrs.be32(5)?.unwrap_or(0) & 1 != 0;
        Ok(Expr::Limit(Limit {
            rate,
            nanos,
            burst,
            bytes,
            inverted,
            tokens: AtomicU64::new(full),
            last: AtomicU64::new(0),
        }))
    }
}

/// The most nanoseconds a bucket holds (nft_limit_init).
pub(crate) fn bucket(rate: u64, nanos: u64, burst: (u32, bool)) -> u64 {
    let units = if burst.1 { u128::from(rate) + u128::from(burst.0) } else { u128::from(burst.0) };
    u64::try_from(units * u128::from(nanos) / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}

fn modulus<const N: usize>(
    attrs: &Attrs<'_, N>,
    kind: usize,
    offset_kind: usize,
) -> Taken<(u32, u32)> {
    let span = attrs.need(kind, "a modulus")?;
    let modulus = span.be32()?;
    let offset = attrs.be32(offset_kind)?.unwrap_or(0);
    if modulus == 0 {
        return Err(Refusal::new(Errno::ERANGE, span.at, "a modulus of at least 1 expected"));
    }
    if offset.checked_add(modulus - 1).is_none() {
        return Err(Refusal::new(
            Errno::EOVERFLOW,
            span.at,
            format!("offset {offset} and modulus {modulus} overflow"),
        ));
    }
    Ok((modulus, offset))
}

fn flags<const N: usize>(attrs: &Attrs<'_, N>, kind: usize) -> Taken<u32> {
    let Some(span) = attrs.get(kind) else { return Ok(0) };
    let flags = span.be32()?;
    if flags & !NAT_FLAGS != 0 {
        return Err(Refusal::unmodelled(span.at, format!("NAT flags {:#x}", flags & !NAT_FLAGS)));
    }
    Ok(flags)
}
