//! The structs of iptables' matches and targets as bytes, which nf_tables carries in its
//! expressions `match` and `target` (`net/netfilter/nft_compat.c`).
//!
//! Knows nothing of chains or Services. Structs are those of `include/uapi/linux/netfilter/xt_*.h`
//! on a 64-bit machine, in the machine's byte order, padded to 8 bytes as `XT_ALIGN` does; unused
//! fields as iptables 1.8.9 leaves them. Tests: below (lengths), and `benches/tests/iptables_compat.rs` against the tool.

use crate::kernel::Socket;
use crate::model::Family;
use std::net::IpAddr;

/// A match or target by name, with its struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Name, as after `-m` or `-j`.
    pub name: &'static str,
    /// Which version of the struct.
    pub revision: u32,
    /// The struct.
    pub bytes: Vec<u8>,
}

/// Whether something is to be so or not so (`!`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// It is to be so.
    Is,
    /// It is not to be so.
    IsNot,
}

/// Bits of `xt_conntrack`'s state mask (`XT_CONNTRACK_STATE_*`).
pub mod state {
    /// INVALID.
    pub const INVALID: u16 = 1;
    /// ESTABLISHED.
    pub const ESTABLISHED: u16 = 1 << 1;
    /// RELATED.
    pub const RELATED: u16 = 1 << 2;
    /// NEW.
    pub const NEW: u16 = 1 << 3;
    /// DNAT.
    pub const DNAT: u16 = 1 << 7;
}

/// Room in `struct xt_comment_info`, the closing zero counted.
const COMMENT: usize = 256;
/// Room for a list's name in `struct xt_recent_mtinfo_v1`.
const RECENT_NAME: usize = 200;
/// Room for an object's name in `struct xt_nfacct_match_info`.
const NFACCT_NAME: usize = 32;
/// `RTN_LOCAL` as a bit.
const LOCAL: u16 = 1 << 2;

/// The fields of a struct, one behind the other.
struct Fields(Vec<u8>);

impl Fields {
    fn new() -> Fields {
        Fields(Vec::new())
    }

    fn u8(mut self, value: u8) -> Fields {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Fields {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Fields {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn raw(mut self, value: &[u8]) -> Fields {
        self.0.extend_from_slice(value);
        self
    }

    fn zeros(mut self, count: usize) -> Fields {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// A string in a field of `room` bytes; what does not fit with a closing zero is cut.
    fn text(self, value: &str, room: usize) -> Fields {
        let mut end = value.len().min(room - 1);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.raw(&value.as_bytes()[..end]).zeros(room - end)
    }

    fn of(self, name: &'static str, revision: u32) -> Extension {
        let len = self.0.len().next_multiple_of(8);
        let missing = len - self.0.len();
        Extension { name, revision, bytes: self.zeros(missing).0 }
    }
}

/// `-m comment`: at most 255 bytes, what is longer is cut.
pub fn comment(text: &str) -> Extension {
    Fields::new().text(text, COMMENT).of("comment", 0)
}

/// `-m conntrack --ctstate`: bits of [`state`].
pub fn conntrack_state(bits: u16, sense: Sense) -> Extension {
    const STATE: u16 = 1;
    // Four addresses with masks, two expiry bounds, a protocol, four ports.
    let before = 8 * 16 + 8 + 2 + 8;
    Fields::new()
        .zeros(before)
        .u16(STATE)
        .u16(if sense == Sense::IsNot { STATE } else { 0 })
        .u16(bits)
        .zeros(2 + 8)
        .of("conntrack", 3)
}

/// `-m addrtype --src-type LOCAL`.
pub fn source_is_local() -> Extension {
    Fields::new().u16(LOCAL).u16(0).u32(0).of("addrtype", 1)
}

/// `-m addrtype --dst-type LOCAL`.
pub fn destination_is_local() -> Extension {
    Fields::new().u16(0).u16(LOCAL).u32(0).of("addrtype", 1)
}

/// `-m statistic --mode random`: the share in units of 2^-31.
pub fn random(share: u32) -> Extension {
    // `nth.count` lies behind and gets what `nth.every` (the same word as the share) has.
    Fields::new().u16(0).u16(0).u32(share).u32(0).u32(share).zeros(8).of("statistic", 0)
}

/// `-m recent --rsource`, as far as kube-proxy uses it.
fn recent(list: &str, (seconds, check_set): (u32, u8), family: Family) -> Extension {
    let mask = family.address_len();
    Fields::new()
        .u32(seconds)
        .u32(0)
        .u8(check_set)
        .u8(0)
        .text(list, RECENT_NAME)
        // side: XT_RECENT_SOURCE, and a byte up to the mask's boundary
        .zeros(2)
        .raw(&[0xff; 16][..mask])
        .zeros(16 - mask)
        .of("recent", 1)
}

/// `-m recent --set`.
pub fn recent_set(list: &str, family: Family) -> Extension {
    const SET: u8 = 1 << 1;
    recent(list, (0, SET), family)
}

/// `-m recent --rcheck --seconds N --reap`.
pub fn recent_check(list: &str, seconds: u32, family: Family) -> Extension {
    const CHECK: u8 = 1 << 0;
    const REAP: u8 = 1 << 5;
    recent(list, (seconds, CHECK | REAP), family)
}

/// `-m tcp` or `-m udp` without a port.
pub fn any_port(name: &'static str) -> Extension {
    Fields::new().u16(0).u16(u16::MAX).u16(0).u16(u16::MAX).zeros(8).of(name, 0)
}

/// `-m sctp`, perhaps with one destination port.
pub fn sctp(port: Option<u16>) -> Extension {
    const DESTINATION_PORTS: u32 = 2;
    let (low, flags) = port.map_or((0, 0), |port| (port, DESTINATION_PORTS));
    let unused_chunk = [0xff, 0, 0];
    Fields::new()
        .u16(low)
        .u16(low)
        .zeros(4 + 256 + 4)
        .raw(&[unused_chunk; 4].concat())
        .u32(0)
        .u32(flags)
        .u32(0)
        .of("sctp", 0)
}

/// `-m nfacct`: counts in the object of this name, which must be there.
pub fn nfacct(object: &str) -> Extension {
    Fields::new().text(object, NFACCT_NAME).zeros(8).of("nfacct", 0)
}

/// `-j MARK --set-xmark value/mask`.
pub fn set_mark(value: u32, mask: u32) -> Extension {
    Fields::new().u32(value).u32(mask).of("MARK", 2)
}

/// `-j REJECT` with port unreachable (`IPT_ICMP_PORT_UNREACHABLE`, `IP6T_ICMP6_PORT_UNREACH`).
pub fn reject(family: Family) -> Extension {
    let with = match family {
        Family::V4 => 3,
        Family::V6 => 4,
    };
    Fields::new().u32(with).of("REJECT", 0)
}

/// Flags of a NAT range (`NF_NAT_RANGE_*`).
pub mod nat {
    /// The source port is chosen at random, always.
    pub const RANDOM_FULLY: u32 = 1 << 4;
    pub(super) const ADDRESSES: u32 = 1;
    pub(super) const PORTS: u32 = 1 << 1;
}

/// `-j MASQUERADE` with flags of [`nat`].
pub fn masquerade(family: Family, flags: u32) -> Extension {
    match family {
        // struct nf_nat_ipv4_multi_range_compat
        Family::V4 => Fields::new().u32(1).u32(flags).zeros(12).of("MASQUERADE", 0),
        // struct nf_nat_range
        Family::V6 => Fields::new().u32(flags).zeros(36).of("MASQUERADE", 0),
    }
}

/// `-j DNAT --to-destination` one address and port (`struct nf_nat_range2`).
pub fn dnat(to: Socket) -> Extension {
    let mut address = [0; 16];
    match to.address {
        IpAddr::V4(a) => address[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => address.copy_from_slice(&a.octets()),
    }
    let port = to.port.to_be_bytes();
    Fields::new()
        .u32(nat::ADDRESSES | nat::PORTS)
        .raw(&address)
        .raw(&address)
        .raw(&port)
        .raw(&port)
        .zeros(2)
        .of("DNAT", 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths as `XT_ALIGN` makes them, from what iptables 1.8.9 sends on x86_64.
    #[test]
    fn structs_are_as_long_as_the_kernel_has_them() {
        let to = Socket { address: IpAddr::from([10, 1, 0, 1]), port: 8080 };
        let lengths = [
            (comment("x"), 256),
            (conntrack_state(state::NEW, Sense::Is), 168),
            (source_is_local(), 8),
            (destination_is_local(), 8),
            (random(1), 24),
            (recent_set("x", Family::V4), 232),
            (recent_check("x", 1, Family::V6), 232),
            (any_port("tcp"), 16),
            (sctp(Some(1)), 296),
            (nfacct("x"), 40),
            (set_mark(1, 1), 8),
            (reject(Family::V4), 8),
            (masquerade(Family::V4, 0), 24),
            (masquerade(Family::V6, 0), 40),
            (dnat(to), 48),
        ];
        for (extension, len) in lengths {
            assert_eq!(extension.bytes.len(), len, "{}", extension.name);
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_character() {
        let long = comment(&"é".repeat(200)).bytes;
        assert_eq!(long.len(), 256);
        assert_eq!(&long[252..], ["é".as_bytes(), &[0, 0]].concat());
    }
}
