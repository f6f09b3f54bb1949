//! The expressions rules are made of, as values. Decoding is in `decode`, what they do is in `nft::eval`.
//! Numbers are those of linux/netfilter/nf_tables.h. It must never know packets or connections.
//! Tests: tests/six.rs, tests/nft_files.rs.

mod compat;
pub(crate) mod decode;
mod statements;

pub(crate) use statements::bucket;

use super::key::Key;
use super::set::Verdict;
use crate::xtables::part::{Part, RecentList};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A register: an offset into the 64 bytes that NFT_REG_1..4 and NFT_REG32_00..15 share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub(crate) u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Network,
    Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Length,
    Protocol,
    Priority,
    Mark,
    Iif,
    Oif,
    IifName,
    OifName,
    NfProto,
    L4Proto,
    PacketType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    Differs,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CtKey {
    State,
    Direction,
    Status,
    Mark,
    L3Protocol,
    Protocol,
    Src,
    Dst,
    SrcIp,
    DstIp,
    SrcIp6,
    DstIp6,
    ProtoSrc,
    ProtoDst,
}

/// Where a lookup puts what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    Nowhere,
    Register(Reg),
    Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) set: u32,
    pub(crate) sreg: Reg,
    pub(crate) into: Into,
    pub(crate) inverted: bool,
}

#[derive(Debug)]
pub(crate) struct Numgen {
    pub(crate) dreg: Reg,
    pub(crate) modulus: u32,
    pub(crate) offset: u32,
    /// The counter of an incremental generator; nothing for a random one.
    pub(crate) counter: Option<AtomicU32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash {
    /// Nothing: symmetric, over the packet's own ends.
    pub(crate) source: Option<(Reg, u8)>,
    pub(crate) dreg: Reg,
    pub(crate) modulus: u32,
    pub(crate) seed: u32,
    pub(crate) offset: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NatKind {
    Source,
    Destination,
    Masquerade,
    Redirect,
}

/// `snat`, `dnat`, `masquerade` and `redirect`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nat {
    pub(crate) kind: NatKind,
    /// The family it is for; nothing: both.
    pub(crate) ipv6: Option<bool>,
    pub(crate) addresses: Option<(Reg, Reg)>,
    pub(crate) ports: Option<(Reg, Reg)>,
    pub(crate) flags: u32,
}

/// What a reject answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectWith {
    /// An ICMP (or ICMPv6) destination unreachable message with this code.
    Unreachable(u8),
    /// The code Linux chooses by family: 0 no route, 1 port, 2 host, 3 administratively prohibited.
    UnreachableX(u8),
    /// A TCP reset.
    TcpReset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FibResult {
    Oif,
    OifName,
    AddressType,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fib {
    pub(crate) dreg: Reg,
    pub(crate) result: FibResult,
    pub(crate) flags: u32,
}

/// Flags of `fib`.
pub(crate) mod fib_flags {
    pub(crate) const SADDR: u32 = 1;
    pub(crate) const DADDR: u32 = 2;
    pub(crate) const MARK: u32 = 4;
    pub(crate) const IIF: u32 = 8;
    pub(crate) const OIF: u32 = 16;
    pub(crate) const PRESENT: u32 = 32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DynsetOp {
    Add,
    Update,
    Delete,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Dynset {
    pub(crate) set: u32,
    pub(crate) op: DynsetOp,
    pub(crate) key: Reg,
    pub(crate) data: Option<Reg>,
    /// Nanoseconds; zero for the set's own.
    pub(crate) timeout: u64,
    pub(crate) inverted: bool,
}

/// A token bucket (nft_limit.c): `nanos` per unit, `tokens` left since `last`.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) rate: u64,
    pub(crate) nanos: u64,
    pub(crate) burst: u32,
    pub(crate) bytes: bool,
    pub(crate) inverted: bool,
    pub(crate) tokens: AtomicU64,
    pub(crate) last: AtomicU64,
}

/// An expression.
#[derive(Debug)]
pub(crate) enum Expr {
    Payload { base: Base, offset: u16, length: u8, dreg: Reg },
    Meta { key: Meta, dreg: Reg },
    MetaSetMark { sreg: Reg },
    MetaSetPriority { sreg: Reg },
    Cmp { sreg: Reg, order: Order, value: Key },
    Bitwise { sreg: Reg, dreg: Reg, mask: Key, xor: Key },
    Range { sreg: Reg, inside: Inside, low: Key, high: Key },
    Byteorder { sreg: Reg, dreg: Reg, length: u8, size: u8 },
    Lookup(Lookup),
    Value { dreg: Reg, value: Key },
    Verdict(Verdict),
    Numgen(Numgen),
    Hash(Hash),
    Nat(Nat),
    Reject(RejectWith),
    Fib(Fib),
    Ct { key: CtKey, reply: Option<Way>, dreg: Reg },
    CtSetMark { sreg: Reg },
    Dynset(Dynset),
    Counter { packets: AtomicU64, bytes: AtomicU64 },
    Limit(Limit),
    Log { prefix: Box<str> },
    XtMatch(Box<Part>),
    XtTarget(Box<Part>),
}

/// Does a range match inside or outside?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Yes,
    No,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Original,
    Reply,
}

impl Expr {
    /// The set it uses.
    pub(crate) fn set(&self) -> Option<u32> {
        match self {
            Expr::Lookup(lookup) => Some(lookup.set),
            Expr::Dynset(dynset) => Some(dynset.set),
            _ => None,
        }
    }

    /// The list of recent addresses it names.
    pub(crate) fn recent_list(&self) -> Option<RecentList> {
        match self {
            Expr::XtMatch(part) => part.list(),
            _ => None,
        }
    }

    /// Does it make the kernel track connections?
    pub(crate) fn needs_tracking(&self) -> bool {
        match self {
            Expr::Ct { .. } | Expr::CtSetMark { .. } | Expr::Nat(_) => true,
            Expr::XtMatch(part) | Expr::XtTarget(part) => part.tracks(),
            _ => false,
        }
    }

    /// The chain it leads to by itself.
    pub(crate) fn target(&self) -> Option<u32> {
        match self {
            Expr::Verdict(verdict) => verdict.target(),
            _ => None,
        }
    }
}
