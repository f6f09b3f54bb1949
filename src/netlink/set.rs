//! What sets and maps are made of: the fields of their keys and values, their definition, and the
//! user data that lets `nft list` print them with the names of the fields.
//!
//! Knows nothing of Services. Type numbers are those of nft (`include/datatype.h` of nftables);
//! user data is written as `src/netlink.c` there reads it. Tests: below, and by `nft list` in the lab.

use super::write::Writer;
use crate::model::Family;

/// One field of a key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Source address of the packet.
    SourceAddress,
    /// Destination address of the packet.
    Address,
    /// Transport protocol number.
    Protocol,
    /// Destination port.
    Port,
    /// A random number below the rule's modulus.
    Index,
    /// A 32-bit number, shown as nft shows packet priorities: two numbers of 16 bits.
    Number,
    /// Destination address the client asked for, from conntrack.
    OriginalAddress,
    /// Destination port the client asked for, from conntrack.
    OriginalPort,
}

impl Field {
    /// nft's number of the field's type.
    fn type_number(self, family: Family) -> u32 {
        match (self, family) {
            (Field::SourceAddress | Field::Address | Field::OriginalAddress, Family::V4) => 7,
            (Field::SourceAddress | Field::Address | Field::OriginalAddress, Family::V6) => 8,
            (Field::Protocol, _) => 12,
            (Field::Port | Field::OriginalPort, _) => 13,
            (Field::Index, _) => 4,
            (Field::Number, _) => 23,
        }
    }

    /// Bytes it takes in a register file or key: its length padded to 4.
    pub fn padded_len(self, family: Family) -> usize {
        match self {
            Field::SourceAddress | Field::Address | Field::OriginalAddress => family.address_len(),
            _ => 4,
        }
    }

    /// Bytes it takes where it stands alone.
    pub fn lone_len(self, family: Family) -> usize {
        match self {
            Field::Protocol => 1,
            Field::Port | Field::OriginalPort => 2,
            other => other.padded_len(family),
        }
    }

    /// Whether nft keeps it in the byte order of the host.
    fn host_order(self) -> bool {
        matches!(self, Field::Index | Field::Number)
    }

    /// The expression's user data: nft's number of the expression and its own attributes.
    fn typeof_expression(self, family: Family) -> (u32, Vec<(u8, u32)>) {
        const PAYLOAD: u32 = 7;
        const META: u32 = 9;
        const CT: u32 = 11;
        const NUMGEN: u32 = 23;
        match (self, family) {
            (Field::SourceAddress, Family::V4) => (PAYLOAD, vec![(0, 12), (1, 11)]),
            (Field::SourceAddress, Family::V6) => (PAYLOAD, vec![(0, 13), (1, 8)]),
            (Field::Address, Family::V4) => (PAYLOAD, vec![(0, 12), (1, 12)]),
            (Field::Address, Family::V6) => (PAYLOAD, vec![(0, 13), (1, 9)]),
            (Field::Protocol, _) => (META, vec![(0, 16)]),
            (Field::Port, _) => (PAYLOAD, vec![(0, 11), (1, 2)]),
            (Field::Index, _) => (NUMGEN, vec![(0, 1), (1, 65535), (2, 0)]),
            (Field::Number, _) => (META, vec![(0, 2)]),
            (Field::OriginalAddress | Field::OriginalPort, _) => (CT, vec![(0, 8), (1, 0)]),
        }
    }
}

/// What a map gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is a set.
    Nothing,
    /// A verdict.
    Verdict,
    /// A value of these fields.
    Fields(&'static [Field]),
}

/// The definition of a named set or map.
#[derive(Clone, Copy, Debug)]
pub struct SetSpec {
    /// Its name in the table.
    pub name: &'static str,
    /// Fields of a key.
    pub key: &'static [Field],
    /// What it gives.
    pub value: Value,
    /// Whether keys may be ranges.
    pub interval: bool,
    /// For a set that rules write to: seconds an entry lives, and how many it may hold.
    pub dynamic: Option<(u32, u32)>,
}

/// `NFT_SET_*` of `nf_tables.h`.
mod flag {
    pub(super) const INTERVAL: u32 = 0x4;
    pub(super) const MAP: u32 = 0x8;
    pub(super) const TIMEOUT: u32 = 0x10;
    pub(super) const EVAL: u32 = 0x20;
    pub(super) const CONCAT: u32 = 0x80;
}

/// `NFT_DATA_VERDICT`: the type number of a verdict.
const VERDICT: u32 = 0xffff_ff00;
/// Bits of one type number in the number of a concatenated type (`TYPE_BITS` of nftables).
const TYPE_BITS: u32 = 6;

impl SetSpec {
    /// A set or map without ranges that only this program writes.
    pub const fn plain(name: &'static str, key: &'static [Field], value: Value) -> SetSpec {
        SetSpec { name, key, value, interval: false, dynamic: None }
    }

    /// `NFT_SET_*` flags.
    pub fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.interval {
            flags |= flag::INTERVAL;
            if self.key.len() > 1 {
                flags |= flag::CONCAT;
            }
        }
        if self.value != Value::Nothing {
            flags |= flag::MAP;
        }
        if self.dynamic.is_some() {
            flags |= flag::TIMEOUT | flag::EVAL;
        }
        flags
    }

    /// Length of a key in bytes.
    pub fn key_len(&self, family: Family) -> u32 {
        bytes_of(self.key, family)
    }

    /// Length of a value in bytes; 0 for sets and for maps of verdicts.
    pub fn data_len(&self, family: Family) -> u32 {
        match self.value {
            Value::Fields(fields) => bytes_of(fields, family),
            _ => 0,
        }
    }

    /// Writes the attributes of `NFT_MSG_NEWSET` after table and name.
    pub(super) fn write(&self, w: &mut Writer, family: Family) {
        const FLAGS: u16 = 3;
        const KEY_TYPE: u16 = 4;
        const KEY_LEN: u16 = 5;
        const DATA_TYPE: u16 = 6;
        const DATA_LEN: u16 = 7;
        const DESC: u16 = 9;
        const TIMEOUT: u16 = 11;
        const USERDATA: u16 = 13;
        w.be32(FLAGS, self.flags());
        w.be32(KEY_TYPE, type_number(self.key, family));
        w.be32(KEY_LEN, self.key_len(family));
        match self.value {
            Value::Nothing => {}
            Value::Verdict => {
                w.be32(DATA_TYPE, VERDICT);
                w.be32(DATA_LEN, 16);
            }
            Value::Fields(fields) => {
                w.be32(DATA_TYPE, type_number(fields, family));
                w.be32(DATA_LEN, self.data_len(family));
            }
        }
        self.write_description(w, family, DESC);
        if let Some((seconds, _)) = self.dynamic {
            w.be64(TIMEOUT, u64::from(seconds) * 1000);
        }
        w.bytes(USERDATA, &self.user_data(family));
    }

    /// `NFTA_SET_DESC`: the size of a dynamic set, the field lengths of a concatenated interval.
    fn write_description(&self, w: &mut Writer, family: Family, attribute: u16) {
        const SIZE: u16 = 1;
        const CONCAT: u16 = 2;
        if let Some((_, size)) = self.dynamic {
            w.nest(attribute, |w| w.be32(SIZE, size));
        } else if self.flags() & flag::CONCAT != 0 {
            w.nest(attribute, |w| {
                w.nest(CONCAT, |w| {
                    for field in self.key {
                        // NFTA_LIST_ELEM { NFTA_SET_FIELD_LEN }
                        w.nest(1, |w| w.be32(1, field.lone_len(family) as u32));
                    }
                });
            });
        }
    }

    /// The user data by which nft prints `typeof` and reads values in the right byte order.
    fn user_data(&self, family: Family) -> Vec<u8> {
        const KEY_BYTE_ORDER: u8 = 0;
        const DATA_BYTE_ORDER: u8 = 1;
        const KEY_TYPEOF: u8 = 3;
        const DATA_TYPEOF: u8 = 4;
        let mut out = Vec::new();
        tlv(&mut out, KEY_BYTE_ORDER, &byte_order(self.key).to_ne_bytes());
        if let Value::Fields(fields) = self.value {
            tlv(&mut out, DATA_BYTE_ORDER, &byte_order(fields).to_ne_bytes());
        }
        // Only a key with a random number has no plain type that nft would take back.
        if self.key.contains(&Field::Index) {
            tlv(&mut out, KEY_TYPEOF, &typeof_fields(self.key, family));
            if let Value::Fields(fields) = self.value {
                tlv(&mut out, DATA_TYPEOF, &typeof_fields(fields, family));
            }
        }
        out
    }
}

/// Length of a key or value: only fields of a concatenation are padded.
fn bytes_of(fields: &[Field], family: Family) -> u32 {
    match fields {
        [one] => one.lone_len(family) as u32,
        several => several.iter().map(|f| f.padded_len(family) as u32).sum(),
    }
}

fn type_number(fields: &[Field], family: Family) -> u32 {
    fields.iter().fold(0, |number, f| (number << TYPE_BITS) | f.type_number(family))
}

/// nft's `enum byteorder`: 0 for concatenations, 1 host, 2 network.
fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [one] if one.host_order() => 1,
        [_] => 2,
        _ => 0,
    }
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let len = u8::try_from(value.len()).expect("our user data is far below 256 bytes");
    out.extend_from_slice(&[kind, len]);
    out.extend_from_slice(value);
}

/// `EXPR_CONCAT` of all the fields, or the one field's expression.
fn typeof_fields(fields: &[Field], family: Family) -> Vec<u8> {
    const CONCAT: u32 = 13;
    if let [one] = fields {
        return typeof_field(*one, family);
    }
    let mut parts = Vec::new();
    for (i, field) in (0u8..).zip(fields) {
        tlv(&mut parts, i, &typeof_field(*field, family));
    }
    let mut out = Vec::new();
    tlv(&mut out, 0, &CONCAT.to_ne_bytes());
    tlv(&mut out, 1, &parts);
    out
}

fn typeof_field(field: Field, family: Family) -> Vec<u8> {
    let (number, attributes) = field.typeof_expression(family);
    let mut inner = Vec::new();
    for (kind, value) in attributes {
        tlv(&mut inner, kind, &value.to_ne_bytes());
    }
    let mut out = Vec::new();
    tlv(&mut out, 0, &number.to_ne_bytes());
    tlv(&mut out, 1, &inner);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port, Field::Index];
    const ENDPOINT: &[Field] = &[Field::Address, Field::Port];

    #[test]
    fn lengths_and_types_are_those_nft_makes() {
        // Read back from the kernel after `nft -f` of the same declaration (nft 1.0.6).
        let map = SetSpec::plain("endpoints", KEY, Value::Fields(ENDPOINT));
        assert_eq!(map.key_len(Family::V4), 16);
        assert_eq!(map.key_len(Family::V6), 28);
        assert_eq!(map.data_len(Family::V6), 20);
        assert_eq!(type_number(KEY, Family::V4), 0x001c_c344);
        assert_eq!(type_number(KEY, Family::V6), 0x0020_c344);
        assert_eq!(type_number(ENDPOINT, Family::V4), 0x1cd);
        assert_eq!(map.flags(), 8);
    }

    #[test]
    fn typeof_user_data_is_what_nft_writes() {
        let map = SetSpec::plain("endpoints", KEY, Value::Fields(ENDPOINT));
        let hex: String = map.user_data(Family::V4).iter().map(|b| format!("{b:02x}")).collect();
        let wanted = "000400000000010400000000036000040d00000001580014000407000000010c00040c000000\
            01040c000000010e00040900000001060004100000000214000407000000010c00040b0000000104020000\
            00031a00041700000001120004010000000104ffff0000020400000000043400040d000000012c00140004\
            07000000010c00040c00000001040c0000000114000407000000010c00040b000000010402000000";
        assert_eq!(hex, wanted);
    }
}
