//! Applies a netlink batch to the tables: all of it or nothing.
//! Reads messages and hands each to its object's file (`tables`, `rules`, `sets`); keeps the log that takes all back.
//! Facts from net/netfilter/nfnetlink.c and nf_tables_api.c. It must never look at packets.
//! Tests: tests/batch.rs.

use super::change::Undo;
use super::error::{Errno, NftError, Refusal, Taken};
use super::store::{Family, Store, Table};
use super::verify;
use super::wire::Span;
use std::collections::BTreeSet;

const HEADER: usize = 16;
const GENERIC: usize = 4;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;

/// Flags of a message (linux/netlink.h).
pub(crate) mod message_flags {
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const NONREC: u16 = 0x100;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// Does the absence of what is to be deleted matter?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    Refused,
    Fine,
}

/// A message of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) flags: u16,
    pub(crate) family: u8,
    pub(crate) body: Span<'a>,
    kind: u16,
    seq: u32,
    at: usize,
}

impl Message<'_> {
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn family(&self) -> Taken<Family> {
        Family::from_number(self.family).ok_or_else(|| {
            Refusal::new(
                Errno::EAFNOSUPPORT,
                self.at + HEADER,
                format!("the simulator does not model tables of family {}", self.family),
            )
        })
    }
}

/// A batch being applied.
pub(crate) struct Batch<'s> {
    pub(crate) store: &'s mut Store,
    pub(crate) now: u64,
    undo: Vec<Undo>,
    /// Tables whose jumps or base chains changed.
    reshaped: BTreeSet<u32>,
    /// Base chains came or went.
    reattached: bool,
    /// Sets and rules that carry a number only this batch knows.
    pub(crate) numbered_sets: Vec<(u32, u32)>,
    pub(crate) numbered_rules: Vec<(u32, u32)>,
}

/// Applies a batch.
pub(crate) fn apply(store: &mut Store, bytes: &[u8], now: u64) -> Result<(), NftError> {
    let mut batch = Batch {
        store,
        now,
        undo: Vec::new(),
        reshaped: BTreeSet::new(),
        reattached: false,
        numbered_sets: Vec::new(),
        numbered_rules: Vec::new(),
    };
    match batch.run(bytes) {
        Ok(()) => {
            batch.commit();
            Ok(())
        }
        Err(error) => {
            batch.abort();
            Err(error)
        }
    }
}

impl Batch<'_> {
    fn run(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        let mut rest = Span { bytes, at: 0 };
        let first = next(&mut rest)?;
        self.begin(&first).map_err(|refusal| first.error(refusal))?;
        let mut last = first;
        loop {
            let message = next(&mut rest)?;
            if message.kind == BATCH_END {
                break;
            }
            self.message(&message).map_err(|refusal| message.error(refusal))?;
            last = message;
        }
        if !rest.bytes.is_empty() {
            return Err(
                last.error(Refusal::invalid(rest.at, "nothing expected behind NFNL_MSG_BATCH_END"))
            );
        }
        self.verify(&last).map_err(|refusal| last.error(refusal))
    }

    fn begin(&self, message: &Message<'_>) -> Taken<()> {
        if message.kind != BATCH_BEGIN {
            return Err(Refusal::invalid(
                message.at,
                format!("NFNL_MSG_BATCH_BEGIN expected, found type {:#x}", message.kind),
            ));
        }
        let attrs = message.body.attrs::<2>("a batch")?;
        match attrs.get(1).map(Span::be32).transpose()? {
            // Zero is any (nf_tables_valid_genid).
            Some(wanted) if wanted != 0 && wanted != self.store.generation => Err(Refusal::new(
                Errno::ERESTART,
                attrs.at(),
                format!("generation {wanted} expected, now {}", self.store.generation),
            )),
            _ => Ok(()),
        }
    }

    fn message(&mut self, message: &Message<'_>) -> Taken<()> {
        if message.kind >> 8 != SUBSYSTEM {
            return Err(Refusal::invalid(
                message.at,
                format!(
                    "a message of subsystem nf_tables expected, found type {:#x}",
                    message.kind
                ),
            ));
        }
        match message.kind & 0xff {
            0 => self.new_table(message),
            2 => self.delete_table(message, Absence::Refused),
            3 => self.new_chain(message),
            5 => self.delete_chain(message, Absence::Refused),
            6 => self.new_rule(message),
            8 => self.delete_rule(message, Absence::Refused),
            9 => self.new_set(message),
            11 => self.delete_set(message, Absence::Refused),
            12 => self.new_elements(message),
            14 => self.delete_elements(message, Absence::Refused),
            26 => self.delete_table(message, Absence::Fine),
            27 => self.delete_chain(message, Absence::Fine),
            28 => self.delete_rule(message, Absence::Fine),
            29 => self.delete_set(message, Absence::Fine),
            30 => self.delete_elements(message, Absence::Fine),
            _ => Err(Refusal::unmodelled(message.at, format!("the message {}", message.name()))),
        }
    }

    /// Notes how to take a change back.
    #[inline]
    pub(crate) fn log(&mut self, undo: Undo) {
        self.undo.push(undo);
    }

    /// The table's jumps changed: they are checked at the end.
    pub(crate) fn reshape(&mut self, table: u32) {
        self.reshaped.insert(table);
    }

    /// Base chains changed: hooks are ordered anew at the end.
    pub(crate) fn reattach(&mut self) {
        self.reattached = true;
    }

    /// The slot of the table a message names.
    pub(crate) fn table(&self, message: &Message<'_>, name: Span<'_>) -> Taken<u32> {
        let (family, wanted) = (message.family()?, name.name()?);
        let found = self.store.find(family, wanted);
        found.ok_or_else(|| {
            Refusal::absent(name.at, format!("table \"{wanted}\" of family {}", family.name()))
        })
    }

    /// The table in a slot that was just found.
    pub(crate) fn at(&mut self, slot: u32) -> &mut Table {
        self.store.tables.get_mut(slot).expect("the slot was found in this message")
    }

    fn verify(&mut self, last: &Message<'_>) -> Taken<()> {
        for (table, set) in &self.numbered_sets {
            let set = self.store.tables.get(*table).and_then(|table| table.sets.get(*set));
            if let Some(set) = set
                .filter(|set| set.definition.has(super::set::set_flags::ANONYMOUS) && set.uses == 0)
            {
                return Err(Refusal::invalid(
                    last.at,
                    format!("anonymous set \"{}\" is used by no rule", set.name),
                ));
            }
        }
        for slot in &self.reshaped {
            let Some(table) = self.store.tables.get(*slot) else { continue };
            verify::check(table).map_err(|(errno, detail)| Refusal::new(errno, last.at, detail))?;
        }
        Ok(())
    }

    fn commit(self) {
        for (table, set) in self.numbered_sets {
            if let Some(set) =
                self.store.tables.get_mut(table).and_then(|table| table.sets.get_mut(set))
            {
                set.batch_id = None;
            }
        }
        for (table, chain) in self.numbered_rules {
            let chain =
                self.store.tables.get_mut(table).and_then(|table| table.chains.get_mut(chain));
            chain
                .into_iter()
                .flat_map(|chain| &mut chain.rules)
                .for_each(|rule| rule.batch_id = None);
        }
        if !self.undo.is_empty() {
            self.store.generation = self.store.generation.wrapping_add(1).max(1);
        }
        self.store.reattached |= self.reattached;
    }

    fn abort(self) {
        for undo in self.undo.into_iter().rev() {
            undo.apply(self.store);
        }
    }
}

/// Takes the next message off the batch.
fn next<'a>(rest: &mut Span<'a>) -> Result<Message<'a>, NftError> {
    let Span { bytes, at } = *rest;
    let broken = |detail: String| NftError {
        errno: Errno::EINVAL,
        seq: 0,
        message: "BATCH",
        offset: at,
        detail,
    };
    let word = |from: usize| -> [u8; 4] {
        std::array::from_fn(|index| bytes.get(from + index).copied().unwrap_or(0))
    };
    if bytes.len() < HEADER + GENERIC {
        return Err(broken(format!(
            "a message or NFNL_MSG_BATCH_END expected, {} bytes left",
            bytes.len()
        )));
    }
    let length = u32::from_ne_bytes(word(0)) as usize;
    if length < HEADER + GENERIC || length > bytes.len() {
        return Err(broken(format!("a message says {length} bytes, {} are there", bytes.len())));
    }
    let [low, high, flag_low, flag_high] = word(4);
    let message = Message {
        kind: u16::from_ne_bytes([low, high]),
        flags: u16::from_ne_bytes([flag_low, flag_high]),
        seq: u32::from_ne_bytes(word(8)),
        family: bytes[HEADER],
        body: Span { bytes: &bytes[HEADER + GENERIC..length], at: at + HEADER + GENERIC },
        at,
    };
    let step = length.next_multiple_of(4);
    *rest = Span { bytes: bytes.get(step..).unwrap_or(&[]), at: at + step };
    Ok(message)
}

impl Message<'_> {
    fn name(&self) -> &'static str {
        const NAMES: [&str; 34] = [
            "NEWTABLE",
            "GETTABLE",
            "DELTABLE",
            "NEWCHAIN",
            "GETCHAIN",
            "DELCHAIN",
            "NEWRULE",
            "GETRULE",
            "DELRULE",
            "NEWSET",
            "GETSET",
            "DELSET",
            "NEWSETELEM",
            "GETSETELEM",
            "DELSETELEM",
            "NEWGEN",
            "GETGEN",
            "TRACE",
            "NEWOBJ",
            "GETOBJ",
            "DELOBJ",
            "GETOBJ_RESET",
            "NEWFLOWTABLE",
            "GETFLOWTABLE",
            "DELFLOWTABLE",
            "GETRULE_RESET",
            "DESTROYTABLE",
            "DESTROYCHAIN",
            "DESTROYRULE",
            "DESTROYSET",
            "DESTROYSETELEM",
            "DESTROYOBJ",
            "DESTROYFLOWTABLE",
            "GETSETELEM_RESET",
        ];
        match self.kind {
            BATCH_BEGIN => "BATCH_BEGIN",
            BATCH_END => "BATCH_END",
            kind if kind >> 8 == SUBSYSTEM => {
                NAMES.get(usize::from(kind & 0xff)).copied().unwrap_or("an unknown message")
            }
            _ => "a foreign message",
        }
    }

    fn error(&self, refusal: Refusal) -> NftError {
        NftError {
            errno: refusal.errno,
            seq: self.seq,
            message: self.name(),
            offset: refusal.offset,
            detail: refusal.detail,
        }
    }
}
