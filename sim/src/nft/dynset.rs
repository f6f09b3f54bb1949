//! What rules do to sets: add, update and delete elements. Facts from nft_dynset.c and nft_set_hash.c.
//! In a dry run each change is noted in the store's journal. It must never know packets. Tests: tests/six.rs, tests/nft_files.rs.

use super::change::Undo;
use super::expr::{Dynset, DynsetOp, Reg};
use super::key::Key;
use super::set::{Datum, Element, Spot};
use super::store::{Store, Table};

/// A dynset expression that has read its registers.
pub(crate) struct Update {
    op: DynsetOp,
    set: u32,
    key: Key,
    datum: Datum,
    timeout: u64,
}

impl Update {
    pub(crate) fn read(dynset: &Dynset, table: &Table, registers: &[u8; 64]) -> Option<Update> {
        let set = table.sets.get(dynset.set)?;
        let bytes = |reg: Reg, length: u32| {
            registers.get(usize::from(reg.0)..usize::from(reg.0) + length as usize)
        };
        let datum = match dynset.data {
            Some(reg) => Datum::Value(Key::new(bytes(reg, set.definition.data_len)?)),
            None => Datum::None,
        };
        let timeout = if dynset.timeout == 0 {
            set.definition.timeout.saturating_mul(1_000_000)
        } else {
            dynset.timeout
        };
        Some(Update {
            op: dynset.op,
            set: dynset.set,
            key: Key::new(bytes(dynset.key, set.definition.key_len)?),
            datum,
            timeout,
        })
    }
}

impl Store {
    /// Does it; false when the set is full. An element that is there keeps its data, and its time when only added.
    pub(crate) fn update(&mut self, table: u32, update: Update, now: u64) -> bool {
        let mut undo = Vec::new();
        let done = match self.tables.get_mut(table) {
            Some(held) => perform(held, table, update, now, &mut undo),
            None => false,
        };
        if let Some(journal) = &mut self.journal {
            journal.append(&mut undo);
        }
        done
    }

    /// From now on what rules do to sets is noted.
    pub(crate) fn begin_dry(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// Takes back what was noted.
    pub(crate) fn end_dry(&mut self) {
        let journal = self.journal.take().unwrap_or_default();
        journal.into_iter().rev().for_each(|undo| undo.apply(self));
    }
}

fn perform(held: &mut Table, table: u32, update: Update, now: u64, undo: &mut Vec<Undo>) -> bool {
    let slot = update.set;
    let spot = Spot { key: update.key.clone(), key_end: None, interval_end: false };
    let Some(set) = held.sets.get_mut(slot) else { return false };
    if update.op == DynsetOp::Delete {
        if let Some(element) = set.remove(&spot) {
            undo.push(Undo::ElementRemoved(table, slot, Box::new(element)));
        }
        return true;
    }
    if let Some(known) = set.at_mut(&spot).filter(|known| known.alive(now)) {
        if update.op == DynsetOp::Update && known.timeout != 0 {
            undo.push(Undo::Lifetime(table, slot, spot, (known.timeout, known.expires)));
            known.expires = now.saturating_add(update.timeout);
        }
        return true;
    }
    if set.full() {
        let gone = set.collect_expired(now);
        undo.extend(
            gone.into_iter().map(|element| Undo::ElementRemoved(table, slot, Box::new(element))),
        );
        if set.full() {
            return false;
        }
    }
    let expires = if update.timeout == 0 { u64::MAX } else { now.saturating_add(update.timeout) };
    let element = Element {
        key: update.key,
        key_end: None,
        interval_end: false,
        datum: update.datum,
        userdata: None,
        timeout: update.timeout,
        expires,
    };
    if let Some(replaced) = set.insert(element) {
        undo.push(Undo::ElementRemoved(table, slot, Box::new(replaced)));
    }
    undo.push(Undo::ElementAdded(table, slot, spot));
    true
}
