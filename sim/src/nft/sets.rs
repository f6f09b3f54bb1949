//! Messages about sets and their elements. Facts from nf_tables_newset, nft_add_set_elem and nft_del_setelem of
//! net/netfilter/nf_tables_api.c. It must never look at packets. Tests: tests/batch.rs, tests/sets.rs.

use super::batch::{Absence, Batch, Message, message_flags};
use super::change::Undo;
use super::error::{Errno, Refusal, Taken};
use super::expr::decode::{value, verdict};
use super::key::Key;
use super::set::{
    Clash, DATA_VERDICT, Datum, Element, Elements, Set, SetDefinition, Spot, set_flags,
};
use super::store::Table;
use super::tables::{boxed, refuse_existing};
use super::wire::{Attrs, Span};
use crate::hash::FastMap;

const INTERVAL_END: u32 = 1;
const MODELLED: u32 = 0xff & !set_flags::OBJECT;
const MILLISECOND: u64 = 1_000_000;

impl Batch<'_> {
    pub(crate) fn new_set(&mut self, message: &Message<'_>) -> Taken<()> {
        let attrs = message.body.attrs::<19>("a set")?;
        attrs.refuse(&[
            (15, "maps of objects (NFTA_SET_OBJ_TYPE)"),
            (17, "expressions in sets (NFTA_SET_EXPR)"),
            (18, "expressions in sets (NFTA_SET_EXPRESSIONS)"),
        ])?;
        let table = self.table(message, attrs.need(1, "NFTA_SET_TABLE")?)?;
        let name = attrs.need(2, "NFTA_SET_NAME")?.name()?;
        let id = attrs.need(10, "NFTA_SET_ID")?.be32()?;
        let definition = definition(&attrs)?;
        if let Some(slot) = self.at(table).set_named(name) {
            refuse_existing(message, "the set")?;
            let known =
                &self.at(table).sets.get(slot).expect("the slot was found by name").definition;
            return match same_set(known, &definition) {
                true => Ok(()),
                false => Err(Refusal::new(
                    Errno::EEXIST,
                    message.at(),
                    format!("set \"{name}\" exists with another definition"),
                )),
            };
        }
        if !message.has(message_flags::CREATE) {
            return Err(Refusal::absent(
                message.at(),
                format!("set \"{name}\", and NLM_F_CREATE is not set"),
            ));
        }
        let held = self.at(table);
        let set = Set {
            name: free_name(held, name).into(),
            handle: held.next_handle(),
            elements: Elements::for_definition(&definition),
            definition,
            userdata: boxed(attrs.get(13)),
            batch_id: Some(id),
            uses: 0,
            targets: FastMap::default(),
        };
        let slot = held.sets.vacant();
        held.put_set(slot, set);
        self.log(Undo::Set(table, slot, None));
        self.numbered_sets.push((table, slot));
        Ok(())
    }

    pub(crate) fn delete_set(&mut self, message: &Message<'_>, absence: Absence) -> Taken<()> {
        let attrs = message.body.attrs::<19>("a set")?;
        let found = self
            .table(message, attrs.need(1, "NFTA_SET_TABLE")?)
            .and_then(|table| Ok((table, self.set_of(table, &attrs)?)));
        let (table, slot) = match found {
            Err(refusal) if refusal.errno == Errno::ENOENT && absence == Absence::Fine => {
                return Ok(());
            }
            found => found?,
        };
        let set = self.at(table).sets.get(slot).expect("the slot was found by name");
        if set.uses > 0 || message.has(message_flags::NONREC) && set.len() > 0 {
            return Err(Refusal::new(
                Errno::EBUSY,
                attrs.at(),
                format!("set \"{}\" is in use", set.name),
            ));
        }
        if let Some(set) = self.at(table).take_set(slot) {
            self.log(Undo::Set(table, slot, Some(Box::new(set))));
        }
        Ok(())
    }

    fn set_of(&mut self, table: u32, attrs: &Attrs<'_, 19>) -> Taken<u32> {
        let held = self.at(table);
        let found = match (attrs.be64(16)?, attrs.get(2)) {
            (Some(handle), _) => {
                held.sets.iter().find(|(_, set)| set.handle == handle).map(|(slot, _)| slot)
            }
            (None, Some(name)) => held.set_named(name.name()?),
            (None, None) => {
                return Err(Refusal::invalid(attrs.at(), "a set's name or handle expected"));
            }
        };
        found.ok_or_else(|| {
            Refusal::absent(attrs.at(), format!("such set in table \"{}\"", held.name))
        })
    }

    /// Table and set of a list of elements, and the list.
    fn element_list<'a>(&mut self, message: &Message<'a>) -> Taken<(u32, u32, Option<Span<'a>>)> {
        let attrs = message.body.attrs::<5>("a list of elements")?;
        let table = self.table(message, attrs.need(1, "NFTA_SET_ELEM_LIST_TABLE")?)?;
        let name = attrs.need(2, "NFTA_SET_ELEM_LIST_SET")?;
        let (wanted, id) = (name.name()?, attrs.be32(4)?);
        let held = self.at(table);
        let by_id = || {
            held.sets
                .iter()
                .find(|(_, set)| id.is_some() && set.batch_id == id)
                .map(|(slot, _)| slot)
        };
        let slot = held.set_named(wanted).or_else(by_id);
        let slot = slot.ok_or_else(|| {
            Refusal::absent(name.at, format!("set \"{wanted}\" in table \"{}\"", held.name))
        })?;
        Ok((table, slot, attrs.get(3)))
    }

    pub(crate) fn new_elements(&mut self, message: &Message<'_>) -> Taken<()> {
        let (table, slot, list) = self.element_list(message)?;
        let list = list.ok_or_else(|| {
            Refusal::invalid(message.at(), "NFTA_SET_ELEM_LIST_ELEMENTS expected")
        })?;
        let set = self.at(table).sets.get(slot).expect("the slot was found by name");
        if set.uses > 0 && set.definition.flags & (set_flags::CONSTANT | set_flags::ANONYMOUS) != 0
        {
            return Err(Refusal::new(
                Errno::EBUSY,
                message.at(),
                format!("set \"{}\" is constant and in use", set.name),
            ));
        }
        for item in list.list() {
            let (_, body) = item?;
            self.add_element((table, slot), body, message)?;
        }
        Ok(())
    }

    fn add_element(&mut self, at: (u32, u32), body: Span<'_>, message: &Message<'_>) -> Taken<()> {
        let now = self.now;
        let held = self.at(at.0);
        let set = held.sets.get(at.1).expect("the slot was found by name");
        let element = element(held, set, body, now)?;
        match set.clash(&element, now) {
            Some(Clash::Same(known)) => {
                if known.datum != element.datum || message.has(message_flags::EXCL) {
                    return Err(Refusal::new(
                        Errno::EEXIST,
                        body.at,
                        format!("element {:?} exists in \"{}\"", element.key, set.name),
                    ));
                }
                if known.timeout != element.timeout || element.timeout != 0 {
                    self.renew(at, &element);
                }
                return Ok(());
            }
            Some(Clash::Overlap) => {
                return Err(Refusal::new(
                    Errno::EEXIST,
                    body.at,
                    format!("element {:?} overlaps another in \"{}\"", element.key, set.name),
                ));
            }
            None => {}
        }
        if set.full() {
            self.make_room(at, body)?;
        }
        let target =
            if let Datum::Verdict(verdict) = element.datum { verdict.target() } else { None };
        let held = self.at(at.0);
        let new_edge = target.is_some_and(|target| {
            held.sets.get(at.1).is_some_and(|set| !set.targets.contains_key(&target))
        });
        let spot = element.spot();
        let replaced = held.put_element(at.1, element);
        if let Some(replaced) = replaced {
            // Taken back in reverse: first the new one goes, then the expired one returns.
            self.log(Undo::ElementRemoved(at.0, at.1, Box::new(replaced)));
        }
        self.log(Undo::ElementAdded(at.0, at.1, spot));
        if new_edge {
            self.reshape(at.0);
        }
        Ok(())
    }

    /// The element is there already: only its lifetime starts anew.
    fn renew(&mut self, at: (u32, u32), element: &Element) {
        let spot = element.spot();
        let held = self.at(at.0);
        let Some(known) = held.sets.get_mut(at.1).and_then(|set| set.at_mut(&spot)) else { return };
        let before = (known.timeout, known.expires);
        (known.timeout, known.expires) = (element.timeout, element.expires);
        self.log(Undo::Lifetime(at.0, at.1, spot, before));
    }

    fn make_room(&mut self, at: (u32, u32), body: Span<'_>) -> Taken<()> {
        let now = self.now;
        let set = self.at(at.0).sets.get_mut(at.1).expect("the slot was found by name");
        let expired: Vec<Spot> = set
            .sorted()
            .into_iter()
            .filter(|element| !element.alive(now))
            .map(Element::spot)
            .collect();
        if expired.is_empty() {
            return Err(Refusal::new(
                Errno::ENFILE,
                body.at,
                format!("set \"{}\" holds {} elements and no more", set.name, set.definition.size),
            ));
        }
        for spot in expired {
            self.remove_element(at, &spot);
        }
        Ok(())
    }

    fn remove_element(&mut self, at: (u32, u32), spot: &Spot) {
        if let Some(element) = self.at(at.0).take_element(at.1, spot) {
            self.log(Undo::ElementRemoved(at.0, at.1, Box::new(element)));
        }
    }

    pub(crate) fn delete_elements(&mut self, message: &Message<'_>, absence: Absence) -> Taken<()> {
        let (table, slot, list) = match self.element_list(message) {
            Err(refusal) if refusal.errno == Errno::ENOENT && absence == Absence::Fine => {
                return Ok(());
            }
            found => found?,
        };
        let set = self.at(table).sets.get(slot).expect("the slot was found by name");
        if set.definition.has(set_flags::ANONYMOUS) {
            return Err(Refusal::new(
                Errno::EOPNOTSUPP,
                message.at(),
                "anonymous sets cannot be changed",
            ));
        }
        if set.uses > 0 && set.definition.has(set_flags::CONSTANT) {
            return Err(Refusal::new(
                Errno::EBUSY,
                message.at(),
                format!("set \"{}\" is constant and in use", set.name),
            ));
        }
        let Some(list) = list else {
            if let Some((elements, targets)) = self.at(table).empty_set(slot) {
                self.log(Undo::Emptied(table, slot, elements, targets));
            }
            return Ok(());
        };
        for item in list.list() {
            let (_, body) = item?;
            self.delete_element((table, slot), body, absence)?;
        }
        Ok(())
    }

    fn delete_element(&mut self, at: (u32, u32), body: Span<'_>, absence: Absence) -> Taken<()> {
        let now = self.now;
        let set = self.at(at.0).sets.get(at.1).expect("the slot was found by name");
        let attrs = body.attrs::<12>("an element")?;
        let spot = spot(set, &attrs)?;
        if set.at(&spot).is_some_and(|element| element.alive(now)) {
            self.remove_element(at, &spot);
            return Ok(());
        }
        match absence {
            Absence::Fine => Ok(()),
            Absence::Refused => {
                Err(Refusal::absent(body.at, format!("element {:?} in \"{}\"", spot.key, set.name)))
            }
        }
    }
}

/// Anonymous sets are named by the kernel: `__set%d` gets the first free number.
fn free_name(table: &Table, name: &str) -> String {
    let Some((before, after)) = name.split_once("%d") else { return name.to_owned() };
    let candidates = (0u32..).map(|number| format!("{before}{number}{after}"));
    candidates
        .into_iter()
        .find(|name| table.set_named(name).is_none())
        .unwrap_or_else(|| name.to_owned())
}

fn same_set(known: &SetDefinition, new: &SetDefinition) -> bool {
    let shape = |one: &SetDefinition| {
        (
            one.flags,
            one.key_type,
            one.key_len,
            one.data_type,
            one.data_len,
            one.timeout,
            one.gc_interval,
            one.size,
        )
    };
    shape(known) == shape(new) && known.fields == new.fields
}

fn definition(attrs: &Attrs<'_, 19>) -> Taken<SetDefinition> {
    let flags = attrs.be32(3)?.unwrap_or(0);
    if flags & !MODELLED != 0 {
        return Err(Refusal::unmodelled(attrs.at(), format!("set flags {:#x}", flags & !MODELLED)));
    }
    let invalid = |what: String| Err(Refusal::invalid(attrs.at(), what));
    let key_len = attrs.need(5, "NFTA_SET_KEY_LEN")?.be32()?;
    if key_len == 0 || key_len > 64 {
        return invalid(format!("a key of 1 to 64 bytes expected, not {key_len}"));
    }
    let (fields, size) = described(attrs, flags, key_len)?;
    let is_map = flags & set_flags::MAP != 0;
    let data_type = attrs.be32(6)?;
    let data_len = match (data_type, is_map) {
        (Some(_), false) => return invalid("a data type needs the flag NFT_SET_MAP".into()),
        (None, true) => return invalid("a map needs NFTA_SET_DATA_TYPE".into()),
        (Some(DATA_VERDICT), true) => 16,
        (Some(_), true) => attrs.need(7, "NFTA_SET_DATA_LEN")?.be32()?,
        (None, false) => 0,
    };
    if data_len > 64 || is_map && data_len == 0 {
        return invalid(format!("data of 1 to 64 bytes expected, not {data_len}"));
    }
    let timeout = attrs.be64(11)?.unwrap_or(0);
    if attrs.get(11).is_some() && flags & set_flags::TIMEOUT == 0 {
        return invalid("a timeout needs the flag NFT_SET_TIMEOUT".into());
    }
    Ok(SetDefinition {
        flags,
        key_type: attrs.be32(4)?.unwrap_or(0),
        key_len,
        data_type: data_type.unwrap_or(0),
        data_len,
        fields,
        size,
        timeout,
        gc_interval: attrs.be32(12)?.unwrap_or(0),
        policy: attrs.be32(8)?.unwrap_or(0),
    })
}

/// Fields of the key and most elements, from NFTA_SET_DESC.
fn described(attrs: &Attrs<'_, 19>, flags: u32, key_len: u32) -> Taken<(Vec<u32>, u32)> {
    let Some(desc) = attrs.get(9) else {
        return match flags & set_flags::CONCAT {
            0 => Ok((Vec::new(), 0)),
            _ => Err(Refusal::invalid(attrs.at(), "NFT_SET_CONCAT needs NFTA_SET_DESC_CONCAT")),
        };
    };
    let desc_attrs = desc.attrs::<3>("a set's description")?;
    let mut fields = Vec::new();
    for item in desc_attrs.get(2).into_iter().flat_map(Span::list) {
        let (_, body) = item?;
        let length = body.attrs::<2>("a field")?.need(1, "NFTA_SET_FIELD_LEN")?;
        match length.be32()? {
            bytes @ 1..=64 => fields.push(bytes),
            bytes => return Err(Refusal::invalid(length.at, format!("a field of {bytes} bytes"))),
        }
    }
    let words: u32 = fields.iter().map(|bytes| bytes.div_ceil(4)).sum();
    if !fields.is_empty() && words != key_len.div_ceil(4) {
        return Err(Refusal::invalid(
            desc.at,
            format!("fields of {} bytes do not make a key of {key_len}", words * 4),
        ));
    }
    if (fields.len() > 1) != (flags & set_flags::CONCAT != 0) {
        return Err(Refusal::invalid(desc.at, "NFT_SET_CONCAT and several fields go together"));
    }
    Ok((fields, desc_attrs.be32(1)?.unwrap_or(0)))
}

fn key_of(set: &Set, span: Span<'_>) -> Taken<Key> {
    let bytes = value(span)?;
    if bytes.bytes.len() != set.definition.key_len as usize {
        return Err(Refusal::invalid(
            bytes.at,
            format!(
                "a key of {} bytes expected for \"{}\", found {}",
                set.definition.key_len,
                set.name,
                bytes.bytes.len()
            ),
        ));
    }
    Ok(Key::new(bytes.bytes))
}

fn spot(set: &Set, attrs: &Attrs<'_, 12>) -> Taken<Spot> {
    let definition = &set.definition;
    let flags = attrs.be32(3)?.unwrap_or(0);
    if flags & !INTERVAL_END != 0 {
        return Err(Refusal::unmodelled(
            attrs.at(),
            format!("element flags {flags:#x} (catch-all elements)"),
        ));
    }
    let interval_end = flags & INTERVAL_END != 0;
    let ranges = definition.has(set_flags::CONCAT | set_flags::INTERVAL);
    if interval_end && (!definition.has(set_flags::INTERVAL) || ranges) {
        return Err(Refusal::invalid(
            attrs.at(),
            format!("interval ends do not fit set \"{}\"", set.name),
        ));
    }
    let key = key_of(set, attrs.need(1, "NFTA_SET_ELEM_KEY")?)?;
    let key_end = match attrs.get(10) {
        Some(span) if !ranges => {
            return Err(Refusal::invalid(
                span.at,
                format!("NFTA_SET_ELEM_KEY_END does not fit set \"{}\"", set.name),
            ));
        }
        Some(span) => Some(key_of(set, span)?),
        None => None,
    };
    Ok(Spot { key, key_end, interval_end })
}

fn element(table: &Table, set: &Set, body: Span<'_>, now: u64) -> Taken<Element> {
    let attrs = body.attrs::<12>("an element")?;
    attrs.refuse(&[
        (7, "expressions in elements (NFTA_SET_ELEM_EXPR)"),
        (9, "objects in elements (NFTA_SET_ELEM_OBJREF)"),
        (11, "expressions in elements (NFTA_SET_ELEM_EXPRESSIONS)"),
    ])?;
    let Spot { key, key_end, interval_end } = spot(set, &attrs)?;
    let definition = &set.definition;
    let datum = match attrs.get(2) {
        Some(span) if interval_end || !definition.has(set_flags::MAP) => {
            return Err(Refusal::invalid(span.at, format!("no data expected in \"{}\"", set.name)));
        }
        None if interval_end || !definition.has(set_flags::MAP) => Datum::None,
        None => {
            return Err(Refusal::invalid(
                body.at,
                format!("NFTA_SET_ELEM_DATA expected in map \"{}\"", set.name),
            ));
        }
        Some(span) if definition.is_verdict_map() => Datum::Verdict(verdict(table, span)?),
        Some(span) => {
            let bytes = value(span)?;
            if bytes.bytes.len() != definition.data_len as usize {
                return Err(Refusal::invalid(
                    bytes.at,
                    format!(
                        "data of {} bytes expected for \"{}\", found {}",
                        definition.data_len,
                        set.name,
                        bytes.bytes.len()
                    ),
                ));
            }
            Datum::Value(Key::new(bytes.bytes))
        }
    };
    let (timeout, expires) = lifetime(definition, &attrs, now)?;
    Ok(Element {
        key,
        key_end,
        interval_end,
        datum,
        userdata: boxed(attrs.get(6)),
        timeout,
        expires,
    })
}

fn lifetime(definition: &SetDefinition, attrs: &Attrs<'_, 12>, now: u64) -> Taken<(u64, u64)> {
    if !definition.has(set_flags::TIMEOUT) {
        return match attrs.get(4).or(attrs.get(5)) {
            Some(span) => Err(Refusal::invalid(span.at, "the set has no timeouts")),
            None => Ok((0, u64::MAX)),
        };
    }
    let timeout = attrs.be64(4)?.unwrap_or(definition.timeout).saturating_mul(MILLISECOND);
    let left = match attrs.get(5) {
        Some(span) => {
            let left = span.be64()?.saturating_mul(MILLISECOND);
            if left > timeout {
                return Err(Refusal::new(
                    Errno::ERANGE,
                    span.at,
                    "an expiration beyond the timeout",
                ));
            }
            left
        }
        None => timeout,
    };
    Ok((timeout, if timeout == 0 { u64::MAX } else { now.saturating_add(left) }))
}
