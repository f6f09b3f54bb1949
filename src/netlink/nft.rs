//! Builds one atomic nf_tables batch: tables, chains, rules, sets and their elements.
//!
//! Element messages are filled up to just below 64 KiB, the most a netlink attribute can hold.
//! Knows nothing of Services. Numbers: `include/uapi/linux/netfilter/nf_tables.h`.
//! Tests: below; in `sim`; in the lab.

use super::expr::{Rule, Verdict, write_verdict};
use super::set::SetSpec;
use super::write::{Head, Open, Writer};
use super::{APPEND, CREATE, HEADER_LEN, NFGEN_LEN, REQUEST, SUBSYS_NFTABLES, nfproto};
use crate::kernel::NftBatch;
use crate::model::Family;

/// Message numbers of nf_tables.
pub mod message {
    /// `NFT_MSG_NEWTABLE`.
    pub const NEW_TABLE: u16 = 0;
    /// `NFT_MSG_GETTABLE`.
    pub const GET_TABLE: u16 = 1;
    /// `NFT_MSG_DELTABLE`.
    pub const DELETE_TABLE: u16 = 2;
    /// `NFT_MSG_NEWCHAIN`.
    pub const NEW_CHAIN: u16 = 3;
    /// `NFT_MSG_GETCHAIN`.
    pub const GET_CHAIN: u16 = 4;
    /// `NFT_MSG_DELCHAIN`.
    pub const DELETE_CHAIN: u16 = 5;
    /// `NFT_MSG_NEWRULE`.
    pub const NEW_RULE: u16 = 6;
    /// `NFT_MSG_GETRULE`.
    pub const GET_RULE: u16 = 7;
    /// `NFT_MSG_DELRULE`.
    pub const DELETE_RULE: u16 = 8;
    /// `NFT_MSG_NEWSET`.
    pub const NEW_SET: u16 = 9;
    /// `NFT_MSG_GETSET`.
    pub const GET_SET: u16 = 10;
    /// `NFT_MSG_NEWSETELEM`.
    pub const NEW_ELEMENT: u16 = 12;
    /// `NFT_MSG_GETSETELEM`.
    pub const GET_ELEMENT: u16 = 13;
    /// `NFT_MSG_DELSETELEM`.
    pub const DELETE_ELEMENT: u16 = 14;
}

/// `NFNL_MSG_BATCH_BEGIN` and `_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Where a message of elements is closed: below 64 KiB with room for one more element.
const ELEMENTS_FULL: usize = 60 * 1024;

/// Kind of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// `type filter`.
    Filter,
    /// `type nat`.
    Nat,
}

impl ChainKind {
    fn word(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        }
    }
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Kind of chain.
    pub kind: ChainKind,
    /// `NF_INET_*` number: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub number: u32,
    /// Priority: lower ones come first.
    pub priority: i32,
}

/// An element of a set or map.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// The key, each field padded to 4 bytes.
    pub key: &'a [u8],
    /// The last key of a range in a concatenated interval set.
    pub key_end: Option<&'a [u8]>,
    /// The value.
    pub value: ElementValue<'a>,
    /// The comment, empty for none.
    pub comment: &'a str,
    /// In sets with timeouts, milliseconds after which it goes, and how many are left of them.
    pub expires: Option<(u64, u64)>,
}

/// What an element of a map gives.
#[derive(Clone, Copy, Debug)]
pub enum ElementValue<'a> {
    /// Nothing: it is of a set.
    Nothing,
    /// Bytes.
    Bytes(&'a [u8]),
    /// A verdict.
    Verdict(Verdict<'a>),
    /// Nothing, and it closes a range of a plain interval set (`NFT_SET_ELEM_INTERVAL_END`).
    IntervalEnd,
}

/// A batch being written. All of it takes effect at once, or none.
#[derive(Debug)]
pub struct Batch<'t> {
    writer: Writer,
    family: Family,
    table: &'t str,
    sequence: u32,
    operations: usize,
    elements: Option<OpenElements>,
}

/// An element message that can take more elements of the same set.
#[derive(Debug)]
struct OpenElements {
    set: &'static str,
    kind: u16,
    message: Open,
    list: Open,
    start: usize,
}

impl<'t> Batch<'t> {
    /// An empty batch for one table.
    pub fn new(family: Family, table: &'t str) -> Batch<'t> {
        let mut batch = Batch {
            writer: Writer::new(),
            family,
            table,
            sequence: 0,
            operations: 0,
            elements: None,
        };
        batch.boundary(BATCH_BEGIN);
        batch
    }

    /// Messages without beginning and end, for [`Batch::joined`]; their numbers begin at `sequence`.
    pub fn part(family: Family, table: &'t str, sequence: u32) -> Batch<'t> {
        Batch { writer: Writer::new(), family, table, sequence, operations: 0, elements: None }
    }

    /// One batch of parts, in their order.
    pub fn joined(parts: impl IntoIterator<Item = Batch<'t>>) -> NftBatch {
        let mut whole = Batch::part(Family::V4, "", 0);
        whole.boundary(BATCH_BEGIN);
        for mut part in parts {
            part.close_elements();
            whole.operations += part.operations;
            whole.writer.raw(part.writer.as_bytes());
        }
        whole.finish()
    }

    /// What follows is about another table of the family.
    pub fn turn_to(&mut self, table: &'t str) {
        self.close_elements();
        self.table = table;
    }

    /// Whether anything was put in.
    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.writer.len()
    }

    /// The finished batch.
    pub fn finish(mut self) -> NftBatch {
        self.close_elements();
        self.boundary(BATCH_END);
        NftBatch { bytes: self.writer.into_bytes(), operations: self.operations }
    }

    fn boundary(&mut self, kind: u16) {
        self.sequence += 1;
        let head = Head {
            kind,
            flags: REQUEST,
            sequence: self.sequence,
            family: 0,
            resource: SUBSYS_NFTABLES >> 8,
        };
        let open = self.writer.open_message(head);
        self.writer.close_message(open);
    }

    fn open_message(&mut self, kind: u16, flags: u16) -> Open {
        self.sequence += 1;
        let head = Head {
            kind: SUBSYS_NFTABLES | kind,
            flags: REQUEST | flags,
            sequence: self.sequence,
            family: nfproto(self.family),
            resource: 0,
        };
        self.writer.open_message(head)
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        self.close_elements();
        let open = self.open_message(kind, flags);
        self.writer.text(1, self.table);
        body(&mut self.writer);
        self.writer.close_message(open);
        self.operations += 1;
    }

    /// Makes the table if it is not there. Its comment is set only when it is made.
    pub fn add_table(&mut self, comment: &str) {
        const USERDATA: u16 = 6;
        self.message(message::NEW_TABLE, CREATE, |w| {
            w.be32(2, 0);
            w.bytes(USERDATA, &comment_data(comment));
        });
    }

    /// Makes a table without a comment if it is not there, as iptables does.
    pub fn add_plain_table(&mut self) {
        self.message(message::NEW_TABLE, CREATE, |w| w.be32(2, 0));
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self) {
        self.message(message::DELETE_TABLE, 0, |_| {});
    }

    /// Makes a chain if it is not there; a base chain where a hook is given.
    pub fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.message(message::NEW_CHAIN, CREATE, |w| {
            w.text(3, name);
            let Some(hook) = hook else { return };
            write_hook(w, hook);
            w.be32(5, 1);
            w.text(7, hook.kind.word());
        });
    }

    /// Makes a base chain if it is not there, accepting what no rule decides; one that is there
    /// keeps its policy.
    pub fn ensure_base_chain(&mut self, name: &str, hook: Hook) {
        self.message(message::NEW_CHAIN, CREATE, |w| {
            w.text(3, name);
            write_hook(w, hook);
            w.text(7, hook.kind.word());
        });
    }

    /// Removes a chain with its rules; it must not be jumped to any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.message(message::DELETE_CHAIN, 0, |w| w.text(3, name));
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.message(message::DELETE_RULE, 0, |w| w.text(2, name));
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) {
        self.rule(APPEND, (chain, None), rule);
    }

    /// Adds a rule at the beginning of a chain, or right before the rule of a handle.
    pub fn insert_rule(&mut self, (chain, before): (&str, Option<u64>), rule: &Rule) {
        self.rule(0, (chain, before), rule);
    }

    fn rule(&mut self, flags: u16, (chain, beside): (&str, Option<u64>), rule: &Rule) {
        const EXPRESSIONS: u16 = 4;
        const COMPAT: u16 = 5;
        const POSITION: u16 = 6;
        const USERDATA: u16 = 7;
        self.message(message::NEW_RULE, CREATE | flags, |w| {
            w.text(2, chain);
            w.nest(EXPRESSIONS, |w| w.raw(rule.expressions()));
            if let Some(protocol) = rule.compat {
                w.nest(COMPAT, |w| {
                    w.be32(1, u32::from(protocol));
                    w.be32(2, 0);
                });
            }
            if let Some(handle) = beside {
                w.be64(POSITION, handle);
            }
            if let Some(comment) = rule.comment {
                w.bytes(USERDATA, &comment_data(comment));
            }
        });
    }

    /// Removes the rule of a handle.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.message(message::DELETE_RULE, 0, |w| {
            w.text(2, chain);
            w.be64(3, handle);
        });
    }

    /// Makes a set or map if it is not there.
    pub fn add_set(&mut self, spec: &SetSpec) {
        let (family, id) = (self.family, self.sequence);
        self.message(message::NEW_SET, CREATE, |w| {
            w.text(2, spec.name);
            w.be32(10, id);
            spec.write(w, family);
        });
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, set: &str) {
        self.message(message::DELETE_ELEMENT, 0, |w| w.text(2, set));
    }

    /// Adds an element. One that is there with the same value already is left alone; one with
    /// another value must be removed before.
    pub fn add_element(&mut self, set: &'static str, element: &Element<'_>) {
        self.element(message::NEW_ELEMENT, set, element);
    }

    /// Removes an element.
    pub fn delete_element(&mut self, set: &'static str, element: &Element<'_>) {
        self.element(message::DELETE_ELEMENT, set, element);
    }

    fn element(&mut self, kind: u16, set: &'static str, element: &Element<'_>) {
        let fits = self.elements.as_ref().is_some_and(|open| {
            open.set == set && open.kind == kind && self.writer.len() - open.start < ELEMENTS_FULL
        });
        if !fits {
            self.close_elements();
            self.open_elements(kind, set);
        }
        write_element(&mut self.writer, element);
        self.operations += 1;
    }

    fn open_elements(&mut self, kind: u16, set: &'static str) {
        let start = self.writer.len();
        let flags = if kind == message::NEW_ELEMENT { CREATE } else { 0 };
        let message = self.open_message(kind, flags);
        self.writer.text(2, set);
        self.writer.text(1, self.table);
        let list = self.writer.open(3);
        self.elements = Some(OpenElements { set, kind, message, list, start });
    }

    fn close_elements(&mut self) {
        if let Some(open) = self.elements.take() {
            self.writer.close(open.list);
            self.writer.close_message(open.message);
        }
    }
}

/// The batch, for this generation of the ruleset only: after a change that somebody made meanwhile
/// the kernel refuses it (ERESTART; `NFNL_BATCH_GENID`). 0 stands for any generation.
pub fn guarded(mut batch: NftBatch, generation: u32) -> NftBatch {
    const GENERATION: u16 = 1;
    let mut w = Writer::new();
    w.be32(GENERATION, generation);
    let attribute = w.into_bytes();
    let open = HEADER_LEN + NFGEN_LEN;
    let length = (open + attribute.len()) as u32;
    batch.bytes[..4].copy_from_slice(&length.to_ne_bytes());
    batch.bytes.splice(open..open, attribute);
    batch
}

/// User data with a comment: one TLV of type 0 with a closing zero (libnftnl `udata`).
/// Longer than 128 bytes is cut, as nft itself refuses longer ones.
fn comment_data(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(126);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![0, (end + 1) as u8];
    data.extend_from_slice(&comment.as_bytes()[..end]);
    data.push(0);
    data
}

fn write_hook(w: &mut Writer, hook: Hook) {
    w.nest(4, |w| {
        w.be32(1, hook.number);
        w.be32(2, hook.priority as u32);
    });
}

fn write_element(w: &mut Writer, element: &Element<'_>) {
    const KEY: u16 = 1;
    const VALUE: u16 = 2;
    const FLAGS: u16 = 3;
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    const USERDATA: u16 = 6;
    const KEY_END: u16 = 10;
    const INTERVAL_END: u32 = 1;
    let open = w.open(1);
    if matches!(element.value, ElementValue::IntervalEnd) {
        w.be32(FLAGS, INTERVAL_END);
    }
    w.nest(KEY, |w| w.bytes(1, element.key));
    if let Some(end) = element.key_end {
        w.nest(KEY_END, |w| w.bytes(1, end));
    }
    match element.value {
        ElementValue::Bytes(bytes) => w.nest(VALUE, |w| w.bytes(1, bytes)),
        ElementValue::Verdict(verdict) => w.nest(VALUE, |w| write_verdict(w, verdict)),
        ElementValue::Nothing | ElementValue::IntervalEnd => {}
    }
    if let Some((timeout, left)) = element.expires {
        w.be64(TIMEOUT, timeout);
        w.be64(EXPIRATION, left);
    }
    if !element.comment.is_empty() {
        w.bytes(USERDATA, &comment_data(element.comment));
    }
    w.close(open);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::read::Messages;

    #[test]
    fn elements_of_one_set_share_messages_below_64_kib() {
        let mut batch = Batch::new(Family::V4, "t");
        for i in 0..10_000u32 {
            let key = i.to_be_bytes();
            let element = Element {
                key: &key,
                key_end: None,
                value: ElementValue::Nothing,
                comment: "",
                expires: None,
            };
            batch.add_element("s", &element);
        }
        let batch = batch.finish();
        assert_eq!(batch.operations, 10_000);
        let messages: Vec<_> = Messages::new(&batch.bytes).collect();
        assert!(messages.len() > 3 && messages.len() < 10, "{} messages", messages.len());
        assert!(messages.iter().all(|m| m.body.len() < 65_536));
    }

    #[test]
    fn long_comments_are_cut_at_a_character() {
        let data = comment_data(&"é".repeat(100));
        assert_eq!(data.len(), 2 + 126 + 1);
        assert!(std::str::from_utf8(&data[2..data.len() - 1]).is_ok());
    }
}
