//! Messages about tables and chains. Facts from nf_tables_{new,del}{table,chain} of net/netfilter/nf_tables_api.c.
//! It must never look at packets. Tests: tests/batch.rs.

use super::batch::{Absence, Batch, Message, message_flags};
use super::change::Undo;
use super::error::{Errno, Refusal, Taken};
use super::store::{BaseChain, Chain, ChainType, Family, Hook, Slots, Table};
use super::wire::{Attrs, Span};
use crate::hash::FastMap;

const DORMANT: u32 = 1;

/// Refuses what exists when the message wants to be the first.
pub(crate) fn refuse_existing(message: &Message<'_>, what: &str) -> Taken<()> {
    if message.has(message_flags::EXCL) {
        return Err(Refusal::new(Errno::EEXIST, message.at(), format!("{what} exists")));
    }
    if message.has(message_flags::REPLACE) {
        return Err(Refusal::new(
            Errno::EOPNOTSUPP,
            message.at(),
            format!("{what} exists and cannot be replaced"),
        ));
    }
    Ok(())
}

pub(crate) fn boxed(span: Option<Span<'_>>) -> Option<Box<[u8]>> {
    span.map(|span| span.bytes.into())
}

impl Batch<'_> {
    pub(crate) fn new_table(&mut self, message: &Message<'_>) -> Taken<()> {
        let attrs = message.body.attrs::<8>("a table")?;
        attrs.refuse(&[(7, "owned tables (NFTA_TABLE_OWNER)")])?;
        let (family, name) = (message.family()?, attrs.need(1, "NFTA_TABLE_NAME")?.name()?);
        let flags = attrs.be32(2)?.unwrap_or(0);
        if flags & !DORMANT != 0 {
            return Err(Refusal::unmodelled(attrs.at(), format!("table flags {flags:#x}")));
        }
        let dormant = flags & DORMANT != 0;
        if let Some(slot) = self.store.find(family, name) {
            refuse_existing(message, "the table")?;
            let table = self.at(slot);
            if attrs.get(2).is_some() && table.dormant != dormant {
                let undo = Undo::TableFields(slot, table.dormant, table.userdata.clone());
                table.dormant = dormant;
                self.log(undo);
                self.reattach();
            }
            return Ok(());
        }
        self.store.last_table_handle += 1;
        let table = Table {
            family,
            name: name.into(),
            handle: self.store.last_table_handle,
            dormant,
            userdata: boxed(attrs.get(6)),
            chains: Slots::default(),
            sets: Slots::default(),
            chain_names: FastMap::default(),
            set_names: FastMap::default(),
            last_handle: 0,
            trackers: 0,
        };
        let slot = self.store.tables.vacant();
        self.store.tables.put(slot, table);
        self.log(Undo::Table(slot, None));
        Ok(())
    }

    pub(crate) fn delete_table(&mut self, message: &Message<'_>, absence: Absence) -> Taken<()> {
        let attrs = message.body.attrs::<8>("a table")?;
        let handle = attrs.be64(4)?;
        let slot = match (attrs.get(1), handle) {
            (None, None) => return self.flush_all(message),
            (_, Some(handle)) => self
                .store
                .tables
                .iter()
                .find(|(_, table)| table.handle == handle)
                .map(|(slot, _)| slot),
            (Some(name), None) => self.store.find(message.family()?, name.name()?),
        };
        match slot {
            Some(slot) => {
                let table = self.at(slot);
                let used =
                    table.chains.iter().next().is_some() || table.sets.iter().next().is_some();
                if message.has(message_flags::NONREC) && used {
                    return Err(Refusal::new(Errno::EBUSY, message.at(), "the table is not empty"));
                }
                self.remove_table(slot);
                Ok(())
            }
            None if absence == Absence::Fine => Ok(()),
            None => Err(Refusal::absent(attrs.at(), "such table")),
        }
    }

    /// Without a name every table of the family goes, or every table.
    fn flush_all(&mut self, message: &Message<'_>) -> Taken<()> {
        let family = if message.family == 0 { None } else { Some(message.family()?) };
        let meant = |table: &Table| family.is_none_or(|family| table.family == family);
        let slots: Vec<u32> = self
            .store
            .tables
            .iter()
            .filter(|(_, table)| meant(table))
            .map(|(slot, _)| slot)
            .collect();
        slots.into_iter().for_each(|slot| self.remove_table(slot));
        Ok(())
    }

    fn remove_table(&mut self, slot: u32) {
        if let Some(table) = self.store.tables.take(slot) {
            self.log(Undo::Table(slot, Some(Box::new(table))));
            self.reattach();
        }
    }

    pub(crate) fn new_chain(&mut self, message: &Message<'_>) -> Taken<()> {
        let attrs = message.body.attrs::<13>("a chain")?;
        attrs.refuse(&[(8, "counters of chains (NFTA_CHAIN_COUNTERS)")])?;
        if attrs.be32(10)?.unwrap_or(0) & !1 != 0 {
            return Err(Refusal::unmodelled(attrs.at(), "chain flags (offload, binding)"));
        }
        let table = self.table(message, attrs.need(1, "NFTA_CHAIN_TABLE")?)?;
        let name = attrs.need(3, "NFTA_CHAIN_NAME")?.name()?;
        let family = self.at(table).family;
        let base = base_chain(&attrs, family)?;
        let policy = policy(&attrs)?;
        if let Some(slot) = self.at(table).chain_named(name) {
            refuse_existing(message, "the chain")?;
            return self.update_chain((table, slot), (base, policy), message);
        }
        if policy.is_some() && base.is_none() {
            return Err(Refusal::new(
                Errno::EOPNOTSUPP,
                attrs.at(),
                "a policy is for base chains only",
            ));
        }
        self.store.last_attached += 1;
        let attached = self.store.last_attached;
        let held = self.at(table);
        let base = base.map(|base| BaseChain { policy_accepts: policy.unwrap_or(true), ..base });
        let chain = Chain {
            name: name.into(),
            handle: held.next_handle(),
            base,
            attached,
            rules: Vec::new(),
            uses: 0,
            userdata: boxed(attrs.get(12)),
        };
        let slot = held.chains.vacant();
        held.put_chain(slot, chain);
        self.log(Undo::Chain(table, slot, None));
        if base.is_some() {
            self.reattach();
        }
        Ok(())
    }

    fn update_chain(
        &mut self,
        at: (u32, u32),
        wanted: (Option<BaseChain>, Option<bool>),
        message: &Message<'_>,
    ) -> Taken<()> {
        let (base, policy) = wanted;
        let chain = self.at(at.0).chains.get_mut(at.1).expect("the slot was found by name");
        if policy.is_some() && chain.base.is_none() {
            return Err(Refusal::new(
                Errno::EOPNOTSUPP,
                message.at(),
                "a policy is for base chains only",
            ));
        }
        match (base, chain.base) {
            (Some(new), Some(old)) if (new.hook, new.priority) != (old.hook, old.priority) => {
                return Err(Refusal::new(
                    Errno::EOPNOTSUPP,
                    message.at(),
                    "the chain exists at another hook or priority",
                ));
            }
            (Some(new), Some(old)) if new.chain_type == old.chain_type => {}
            (None, _) => {}
            _ => {
                return Err(Refusal::new(
                    Errno::EEXIST,
                    message.at(),
                    "the chain exists with another type",
                ));
            }
        }
        match (policy, chain.base.as_mut()) {
            (Some(accepts), Some(held)) if held.policy_accepts != accepts => {
                let before = std::mem::replace(&mut held.policy_accepts, accepts);
                let undo = Undo::ChainFields(at.0, at.1, Some(before), chain.userdata.clone());
                self.log(undo);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn delete_chain(&mut self, message: &Message<'_>, absence: Absence) -> Taken<()> {
        let attrs = message.body.attrs::<13>("a chain")?;
        attrs.refuse(&[(4, "deleting a device of a chain (NFTA_CHAIN_HOOK)")])?;
        let found = self
            .table(message, attrs.need(1, "NFTA_CHAIN_TABLE")?)
            .and_then(|table| Ok((table, self.chain_of(table, &attrs)?)));
        let (table, slot) = match found {
            Err(refusal) if refusal.errno == Errno::ENOENT && absence == Absence::Fine => {
                return Ok(());
            }
            found => found?,
        };
        let chain = self.at(table).chains.get(slot).expect("the slot was found by name");
        let busy = chain.uses > 0 || message.has(message_flags::NONREC) && !chain.rules.is_empty();
        let (name, rules, base) = (chain.name.clone(), chain.rules.len(), chain.base.is_some());
        // A chain may jump to itself by its own rules, so they go first.
        (0..rules).rev().for_each(|index| self.remove_rule((table, slot), index));
        let chain = self.at(table).chains.get(slot).expect("only its rules were removed");
        if busy && (chain.uses > 0 || message.has(message_flags::NONREC)) {
            return Err(Refusal::new(
                Errno::EBUSY,
                attrs.at(),
                format!("chain \"{name}\" is in use"),
            ));
        }
        if let Some(chain) = self.at(table).take_chain(slot) {
            self.log(Undo::Chain(table, slot, Some(Box::new(chain))));
        }
        if base {
            self.reattach();
        }
        Ok(())
    }

    fn chain_of(&mut self, table: u32, attrs: &Attrs<'_, 13>) -> Taken<u32> {
        let held = self.at(table);
        let found = match (attrs.be64(2)?, attrs.get(3)) {
            (Some(handle), _) => {
                held.chains.iter().find(|(_, chain)| chain.handle == handle).map(|(slot, _)| slot)
            }
            (None, Some(name)) => held.chain_named(name.name()?),
            (None, None) => {
                return Err(Refusal::invalid(attrs.at(), "a chain's name or handle expected"));
            }
        };
        found.ok_or_else(|| {
            Refusal::absent(attrs.at(), format!("such chain in table \"{}\"", held.name))
        })
    }
}

fn policy(attrs: &Attrs<'_, 13>) -> Taken<Option<bool>> {
    match attrs.be32(5)? {
        None => Ok(None),
        Some(0) => Ok(Some(false)),
        Some(1) => Ok(Some(true)),
        Some(other) => Err(Refusal::invalid(attrs.at(), format!("no policy {other}"))),
    }
}

fn base_chain(attrs: &Attrs<'_, 13>, family: Family) -> Taken<Option<BaseChain>> {
    let Some(span) = attrs.get(4) else { return Ok(None) };
    let hook_attrs = span.attrs::<5>("a hook")?;
    hook_attrs.refuse(&[
        (3, "chains of a device (NFTA_HOOK_DEV)"),
        (4, "chains of devices (NFTA_HOOK_DEVS)"),
    ])?;
    let number = hook_attrs.need(1, "NFTA_HOOK_HOOKNUM")?;
    let hook = match Hook::ALL.get(number.be32()? as usize) {
        Some(hook) => *hook,
        None => {
            return Err(Refusal::unmodelled(
                number.at,
                format!("hook {} of family {}", number.be32()?, family.name()),
            ));
        }
    };
    let priority = hook_attrs.need(2, "NFTA_HOOK_PRIORITY")?.be32()? as i32;
    let type_span = attrs.get(7);
    let chain_type = match type_span.map(Span::name).transpose()? {
        None | Some("filter") => ChainType::Filter,
        Some("nat") => ChainType::Nat,
        Some("route") => ChainType::Route,
        Some(other) => return Err(Refusal::absent(span.at, format!("chain type \"{other}\""))),
    };
    let fits = match chain_type {
        ChainType::Filter => true,
        ChainType::Nat => hook != Hook::Forward && priority > -200,
        ChainType::Route => hook == Hook::Output,
    };
    match fits {
        true => Ok(Some(BaseChain { hook, priority, chain_type, policy_accepts: true })),
        false => Err(Refusal::new(
            Errno::EOPNOTSUPP,
            span.at,
            format!("no {chain_type:?} chain at {} with priority {priority}", hook.name()),
        )),
    }
}
