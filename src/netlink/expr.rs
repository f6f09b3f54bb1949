//! The expressions of nf_tables rules, written as the kernel takes them.
//!
//! A `Rule` is a list of expressions over a register file of 16 words of 4 bytes. Callers say at
//! which word a value goes; registers are numbered as nft numbers them, so that it can list what
//! it did not write. Knows nothing of Services. Tests: in `sim`, and by `nft list` in the lab.

use super::octets;
use super::set::Field;
use super::write::Writer;
use crate::model::Family;

/// A rule's expressions.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    expressions: Writer,
    /// The rule's comment, shown by `nft list`.
    pub comment: Option<&'static str>,
    /// For a rule of iptables: the protocol it is for, 0 for all (`NFTA_RULE_COMPAT`).
    pub compat: Option<u8>,
}

/// Comparison operators (`NFT_CMP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// Verdicts of rules and of verdict maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Let it pass this base chain.
    Accept,
    /// Drop it.
    Drop,
    /// Go on in a chain and come back.
    Jump(&'a str),
    /// Go on in a chain and come back where this one would have.
    Goto(&'a str),
    /// Go back to the calling chain.
    Return,
}

/// The word at which a register number points, as nft would write it: the 16-byte registers where
/// the word is aligned to them, else the 4-byte ones (`enum nft_registers`).
fn register(word: usize) -> u32 {
    let word = word as u32;
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}

const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;

const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_PROTO_DST: u32 = 12;
const CT_DST_IP: u32 = 20;
const CT_DST_IP6: u32 = 22;
/// `IPS_DST_NAT`.
const STATUS_DST_NAT: u32 = 0x20;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const STATE_NEW: u32 = 0x8;
/// `RTN_LOCAL`.
const ROUTE_LOCAL: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 0x10;

impl Rule {
    /// A rule without expressions: it matches everything and does nothing.
    pub fn new() -> Rule {
        Rule::default()
    }

    /// The expressions, as the value of `NFTA_RULE_EXPRESSIONS`.
    pub fn expressions(&self) -> &[u8] {
        self.expressions.as_bytes()
    }

    /// With a comment.
    pub fn comment(mut self, comment: &'static str) -> Rule {
        self.comment = Some(comment);
        self
    }

    pub(super) fn expression(mut self, name: &str, body: impl FnOnce(&mut Writer)) -> Rule {
        self.expressions.nest(ELEMENT, |w| {
            w.text(NAME, name);
            w.nest(DATA, body);
        });
        self
    }

    /// Loads fields one behind the other from word 0; a random index needs [`Rule::index`].
    pub fn key(self, family: Family, fields: &[Field]) -> Rule {
        let mut rule = self;
        let mut word = 0;
        for field in fields {
            rule = rule.load(family, *field, word);
            word += field.padded_len(family) / 4;
        }
        rule
    }

    /// Loads one field at a word.
    pub fn load(self, family: Family, field: Field, word: usize) -> Rule {
        let address_len = family.address_len() as u32;
        let source = match family {
            Family::V4 => 12,
            Family::V6 => 8,
        };
        match field {
            Field::SourceAddress => self.payload(1, (source, address_len), word),
            Field::Address => self.payload(1, (source + address_len, address_len), word),
            Field::Port => self.payload(2, (2, 2), word),
            Field::Protocol => self.meta(META_L4PROTO, word),
            Field::Number => self.meta(META_PRIORITY, word),
            Field::OriginalAddress => match family {
                Family::V4 => self.ct_original(CT_DST_IP, word),
                Family::V6 => self.ct_original(CT_DST_IP6, word),
            },
            Field::OriginalPort => self.ct_original(CT_PROTO_DST, word),
            Field::Index => self.index(1, word),
        }
    }

    /// Bytes of a header: base 1 network, 2 transport.
    pub(super) fn payload(self, base: u32, (offset, len): (u32, u32), word: usize) -> Rule {
        self.expression("payload", |w| {
            w.be32(1, register(word));
            w.be32(2, base);
            w.be32(3, offset);
            w.be32(4, len);
        })
    }

    fn meta(self, key: u32, word: usize) -> Rule {
        self.expression("meta", |w| {
            w.be32(2, key);
            w.be32(1, register(word));
        })
    }

    /// The name of the link it came in over.
    pub(super) fn input_link(self) -> Rule {
        self.meta(META_IIFNAME, 0)
    }

    /// The packet's mark.
    pub(super) fn packet_mark(self) -> Rule {
        self.meta(META_MARK, 0)
    }

    fn ct_original(self, key: u32, word: usize) -> Rule {
        self.expression("ct", |w| {
            w.be32(2, key);
            w.be32(1, register(word));
            w.bytes(3, &[0]);
        })
    }

    fn ct(self, key: u32) -> Rule {
        self.expression("ct", |w| {
            w.be32(2, key);
            w.be32(1, register(0));
        })
    }

    /// A random number below `modulus`, each as likely as the other.
    pub fn index(self, modulus: u32, word: usize) -> Rule {
        self.expression("numgen", |w| {
            w.be32(1, register(word));
            w.be32(2, modulus);
            w.be32(3, 1);
            w.be32(4, 0);
        })
    }

    pub(super) fn bitwise(self, mask: &[u8], xor: &[u8]) -> Rule {
        self.expression("bitwise", |w| {
            w.be32(1, register(0));
            w.be32(2, register(0));
            w.be32(3, mask.len() as u32);
            w.nest(4, |w| w.bytes(1, mask));
            w.nest(5, |w| w.bytes(1, xor));
        })
    }

    pub(super) fn compare(self, how: Compare, value: &[u8]) -> Rule {
        self.expression("cmp", |w| {
            w.be32(1, register(0));
            w.be32(2, how as u32);
            w.nest(3, |w| w.bytes(1, value));
        })
    }

    /// Matches if some of `bits` are set in word 0.
    fn any_bit(self, bits: u32) -> Rule {
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]).compare(Compare::NotEqual, &[0; 4])
    }

    /// `ct state new`.
    pub fn state_new(self) -> Rule {
        self.ct(CT_STATE).any_bit(STATE_NEW)
    }

    /// `ct status dnat`.
    pub fn status_dnat(self) -> Rule {
        self.ct(CT_STATUS).any_bit(STATUS_DST_NAT)
    }

    /// Compares an address with a CIDR.
    pub fn address_in(
        self,
        family: Family,
        field: Field,
        (how, cidr): (Compare, ipnet::IpNet),
    ) -> Rule {
        let rule = self.load(family, field, 0);
        let network = octets(cidr.network());
        if cidr.prefix_len() == family.address_bits() {
            return rule.compare(how, &network);
        }
        let zero = vec![0; network.len()];
        rule.bitwise(&octets(cidr.netmask()), &zero).compare(how, &network)
    }

    /// Compares the name of the interface it came in over; `prefix*` compares the first letters.
    pub fn input_interface(self, how: Compare, name: &str) -> Rule {
        let rule = self.meta(META_IIFNAME, 0);
        if let Some(prefix) = name.strip_suffix('*') {
            return rule.compare(how, prefix.as_bytes());
        }
        let mut padded = [0; 16];
        let len = name.len().min(15);
        padded[..len].copy_from_slice(&name.as_bytes()[..len]);
        rule.compare(how, &padded)
    }

    /// `fib daddr type local` or `fib saddr type local`.
    pub fn address_is_local(self, field: Field) -> Rule {
        const SADDR: u32 = 1;
        const DADDR: u32 = 2;
        const RESULT_ADDRTYPE: u32 = 3;
        let flags = if field == Field::SourceAddress { SADDR } else { DADDR };
        self.expression("fib", |w| {
            w.be32(3, flags);
            w.be32(2, RESULT_ADDRTYPE);
            w.be32(1, register(0));
        })
        .compare(Compare::Equal, &ROUTE_LOCAL.to_ne_bytes())
    }

    /// Compares the transport protocol.
    pub fn protocol_is(self, number: u8) -> Rule {
        self.meta(META_L4PROTO, 0).compare(Compare::Equal, &[number])
    }

    /// `meta mark & bit == bit`.
    pub fn mark_has(self, bit: u32) -> Rule {
        self.meta(META_MARK, 0)
            .bitwise(&bit.to_ne_bytes(), &[0; 4])
            .compare(Compare::Equal, &bit.to_ne_bytes())
    }

    /// `meta mark set meta mark | bit`.
    pub fn set_mark(self, bit: u32) -> Rule {
        self.meta(META_MARK, 0)
            .bitwise(&(!bit).to_ne_bytes(), &bit.to_ne_bytes())
            .store(META_MARK, 0)
    }

    /// `meta mark set meta mark ^ bit`: takes a bit that is known to be set away.
    pub fn flip_mark(self, bit: u32) -> Rule {
        self.meta(META_MARK, 0)
            .bitwise(&u32::MAX.to_ne_bytes(), &bit.to_ne_bytes())
            .store(META_MARK, 0)
    }

    fn store(self, key: u32, word: usize) -> Rule {
        self.expression("meta", |w| {
            w.be32(2, key);
            w.be32(3, register(word));
        })
    }

    /// Goes on only if the key at word 0 is in the set.
    pub fn is_in(self, set: &str) -> Rule {
        self.expression("lookup", |w| {
            w.text(1, set);
            w.be32(2, register(0));
            w.be32(4, 0);
        })
    }

    /// Goes on only if the key at word 0 is not in the set.
    pub fn is_not_in(self, set: &str) -> Rule {
        const INVERTED: u32 = 1;
        self.expression("lookup", |w| {
            w.text(1, set);
            w.be32(2, register(0));
            w.be32(4, 0);
            w.be32(5, INVERTED);
        })
    }

    /// Puts what the map has for the key at word 0 at word 0; goes on only if it has something.
    pub fn map(self, map: &str) -> Rule {
        self.expression("lookup", |w| {
            w.text(1, map);
            w.be32(2, register(0));
            w.be32(3, register(0));
            w.be32(4, 0);
        })
    }

    /// Does what `verdicts` says for the number that `numbers` has for the key at word 0; goes on
    /// to the next rule, with nothing changed, if it has none.
    ///
    /// The number passes through the packet's priority, which is put back before the rule ends:
    /// the kernel needs no such detour, but nft 1.0.6 aborts (`netlink_parse_concat_expr`) when it
    /// lists a look-up of what another look-up found.
    pub fn dispatch(self, numbers: &str, verdicts: &str) -> Rule {
        const SAVED: usize = 15;
        self.meta(META_PRIORITY, SAVED)
            .map(numbers)
            .store(META_PRIORITY, 0)
            .meta(META_PRIORITY, 0)
            .store(META_PRIORITY, SAVED)
            .verdict_map(verdicts)
    }

    /// Does what the verdict map says for the key at word 0.
    fn verdict_map(self, map: &str) -> Rule {
        self.expression("lookup", |w| {
            w.text(1, map);
            w.be32(2, register(0));
            w.be32(3, 0);
            w.be32(4, 0);
        })
    }

    /// A fixed verdict.
    pub fn verdict(self, verdict: Verdict<'_>) -> Rule {
        self.expression("immediate", |w| {
            w.be32(1, 0);
            w.nest(2, |w| write_verdict(w, verdict));
        })
    }

    /// `dnat` to the address at word 0 and the port behind it.
    pub fn dnat(self, family: Family) -> Rule {
        self.expression("nat", |w| {
            w.be32(1, 1);
            w.be32(2, u32::from(super::nfproto(family)));
            w.be32(3, register(0));
            w.be32(5, register(family.address_len() / 4));
        })
    }

    /// `masquerade fully-random`.
    pub fn masquerade(self) -> Rule {
        self.expression("masq", |w| w.be32(1, RANDOM_FULLY))
    }

    /// `reject`: ICMP or ICMPv6 port unreachable.
    pub fn reject(self, family: Family) -> Rule {
        let port_unreachable: u8 = match family {
            Family::V4 => 3,
            Family::V6 => 4,
        };
        self.expression("reject", |w| {
            w.be32(1, 0);
            w.bytes(2, &[port_unreachable]);
        })
    }

    /// Writes key (from word 0) and value (from word `value`) into a dynamic map for some seconds.
    pub fn update(self, map: &str, value: usize, seconds: u32) -> Rule {
        const UPDATE: u32 = 1;
        self.expression("dynset", |w| {
            w.be32(4, register(0));
            w.be32(5, register(value));
            w.be32(3, UPDATE);
            w.be64(6, u64::from(seconds) * 1000);
            w.text(1, map);
            w.be32(2, 0);
        })
    }
}

/// Writes `NFTA_DATA_VERDICT`.
pub(super) fn write_verdict(w: &mut Writer, verdict: Verdict<'_>) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3i32 as u32, Some(chain)),
        Verdict::Goto(chain) => (-4i32 as u32, Some(chain)),
        Verdict::Return => (-5i32 as u32, None),
    };
    w.nest(2, |w| {
        w.be32(1, code);
        if let Some(chain) = chain {
            w.text(2, chain);
        }
    });
}
