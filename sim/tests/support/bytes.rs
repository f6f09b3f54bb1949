//! Encodes netlink batches by hand.

/// An attribute with these bytes.
pub fn attr(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((body.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

pub fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attr(kind | 0x8000, &parts.concat())
}

pub fn text(kind: u16, name: &str) -> Vec<u8> {
    attr(kind, format!("{name}\0").as_bytes())
}

pub fn be32(kind: u16, value: u32) -> Vec<u8> {
    attr(kind, &value.to_be_bytes())
}

pub fn be64(kind: u16, value: u64) -> Vec<u8> {
    attr(kind, &value.to_be_bytes())
}

/// NFTA_DATA_VALUE in an attribute.
pub fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nest(kind, &[attr(1, bytes)])
}

/// NFTA_DATA_VERDICT in an attribute.
pub fn verdict(kind: u16, code: i32, chain: Option<&str>) -> Vec<u8> {
    let mut parts = vec![be32(1, code as u32)];
    parts.extend(chain.map(|chain| text(2, chain)));
    nest(kind, &[nest(2, &parts)])
}

pub const CREATE: u16 = 0x400;
pub const EXCL: u16 = 0x200;
pub const APPEND: u16 = 0x800;
pub const REPLACE: u16 = 0x100;

pub const INET: u8 = 1;

pub mod msg {
    pub const NEWTABLE: u16 = 0;
    pub const DELTABLE: u16 = 2;
    pub const NEWCHAIN: u16 = 3;
    pub const DELCHAIN: u16 = 5;
    pub const NEWRULE: u16 = 6;
    pub const DELRULE: u16 = 8;
    pub const NEWSET: u16 = 9;
    pub const DELSET: u16 = 11;
    pub const NEWSETELEM: u16 = 12;
    pub const DELSETELEM: u16 = 14;
    pub const DESTROYTABLE: u16 = 26;
    pub const DESTROYSETELEM: u16 = 30;
}

/// A batch being written.
pub struct Batch {
    bytes: Vec<u8>,
    seq: u32,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Batch { bytes: Vec::new(), seq: 0 };
        batch.message(16, 1, 0, &[0, 0, 0, 10]);
        batch
    }
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, seq: u32, body: &[u8]) {
        self.bytes.extend((body.len() as u32 + 16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(seq.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
    }

    /// An nf_tables message of family inet.
    pub fn put(&mut self, kind: u16, flags: u16, parts: &[Vec<u8>]) -> &mut Self {
        self.seq += 1;
        let mut body = vec![INET, 0, 0, 0];
        body.extend(parts.concat());
        self.message(10 << 8 | kind, 1 | flags, self.seq, &body);
        self
    }

    pub fn table(&mut self, name: &str) -> &mut Self {
        self.put(msg::NEWTABLE, CREATE, &[text(1, name), be32(2, 0)])
    }

    pub fn chain(&mut self, table: &str, name: &str) -> &mut Self {
        self.put(msg::NEWCHAIN, CREATE, &[text(1, table), text(3, name)])
    }

    /// A base chain: (type, hook, priority).
    pub fn base(&mut self, table: &str, name: &str, at: (&str, u32, i32)) -> &mut Self {
        let hook = nest(4, &[be32(1, at.1), be32(2, at.2 as u32)]);
        self.put(
            msg::NEWCHAIN,
            CREATE,
            &[text(1, table), text(3, name), hook, be32(5, 1), text(7, at.0)],
        )
    }

    pub fn rule(&mut self, table: &str, chain: &str, exprs: &[Vec<u8>]) -> &mut Self {
        self.put(msg::NEWRULE, CREATE | APPEND, &[text(1, table), text(2, chain), nest(4, exprs)])
    }

    /// A set or map: flags, (key length, data type and length), and further attributes.
    pub fn set(
        &mut self,
        at: (&str, &str),
        flags: u32,
        lens: (u32, Option<(u32, u32)>),
        more: &[Vec<u8>],
    ) -> &mut Self {
        let mut parts = vec![
            text(1, at.0),
            text(2, at.1),
            be32(3, flags),
            be32(4, 0),
            be32(5, lens.0),
            be32(10, self.seq + 1),
        ];
        if let Some((kind, length)) = lens.1 {
            parts.push(be32(6, kind));
            parts.push(be32(7, length));
        }
        parts.extend_from_slice(more);
        self.put(msg::NEWSET, CREATE, &parts)
    }

    pub fn elements(
        &mut self,
        at: (&str, &str),
        kind: u16,
        flags: u16,
        elements: &[Vec<u8>],
    ) -> &mut Self {
        self.put(kind, flags, &[text(1, at.0), text(2, at.1), nest(3, elements)])
    }

    pub fn end(&self) -> Vec<u8> {
        let mut whole = Batch { bytes: self.bytes.clone(), seq: self.seq };
        whole.message(17, 1, self.seq + 1, &[0, 0, 0, 10]);
        whole.bytes
    }
}

/// An element: key and further attributes.
pub fn element(key: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
    nest(1, &[vec![value(1, key)], more.to_vec()].concat())
}

/// Expressions.
pub mod expr {
    use super::{attr, be32, nest, text, value};

    pub fn expr(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
        nest(1, &[text(1, name), nest(2, parts)])
    }

    pub fn payload(base: u32, offset: u32, len: u32, dreg: u32) -> Vec<u8> {
        expr("payload", &[be32(1, dreg), be32(2, base), be32(3, offset), be32(4, len)])
    }

    pub fn meta(key: u32, dreg: u32) -> Vec<u8> {
        expr("meta", &[be32(1, dreg), be32(2, key)])
    }

    pub fn set_mark(sreg: u32) -> Vec<u8> {
        expr("meta", &[be32(2, 3), be32(3, sreg)])
    }

    pub fn ct(key: u32, direction: Option<u8>, dreg: u32) -> Vec<u8> {
        let mut parts = vec![be32(1, dreg), be32(2, key)];
        parts.extend(direction.map(|direction| attr(3, &[direction])));
        expr("ct", &parts)
    }

    pub fn cmp(sreg: u32, op: u32, bytes: &[u8]) -> Vec<u8> {
        expr("cmp", &[be32(1, sreg), be32(2, op), value(3, bytes)])
    }

    pub fn bitwise(sreg: u32, dreg: u32, mask: &[u8], xor: &[u8]) -> Vec<u8> {
        expr(
            "bitwise",
            &[
                be32(1, sreg),
                be32(2, dreg),
                be32(3, mask.len() as u32),
                value(4, mask),
                value(5, xor),
            ],
        )
    }

    pub fn lookup(set: &str, sreg: u32, dreg: Option<u32>) -> Vec<u8> {
        let mut parts = vec![text(1, set), be32(2, sreg)];
        parts.extend(dreg.map(|dreg| be32(3, dreg)));
        expr("lookup", &parts)
    }

    pub fn immediate(dreg: u32, bytes: &[u8]) -> Vec<u8> {
        expr("immediate", &[be32(1, dreg), value(2, bytes)])
    }

    pub fn verdict(code: i32, chain: Option<&str>) -> Vec<u8> {
        expr("immediate", &[be32(1, 0), super::verdict(2, code, chain)])
    }

    pub fn numgen_random(modulus: u32, dreg: u32) -> Vec<u8> {
        expr("numgen", &[be32(1, dreg), be32(2, modulus), be32(3, 1), be32(4, 0)])
    }

    /// The symmetric hash of the packet's ends.
    pub fn symhash(modulus: u32, offset: u32, dreg: u32) -> Vec<u8> {
        expr("hash", &[be32(2, dreg), be32(4, modulus), be32(6, offset), be32(7, 1)])
    }

    /// dnat for IPv4 from an address and a port register.
    pub fn dnat4(address: u32, port: u32) -> Vec<u8> {
        expr("nat", &[be32(1, 1), be32(2, 2), be32(3, address), be32(5, port)])
    }

    pub fn masquerade(flags: u32) -> Vec<u8> {
        expr("masq", &[be32(1, flags)])
    }
}
