//! Commands of the language of `twin` that change tables, written as one netlink batch.
//! `table`, `chain`, `set`, `element`, `rule`, and their removal. Knows no packet.
//! Tests: `super::tests`.

use std::collections::BTreeMap;

use kube_proxy::netlink::write::{Head, Writer};
use kube_proxy::netlink::{APPEND, CREATE, EXCL, REQUEST, SUBSYS_NFTABLES};

use super::field::{Kind, number};
use super::rule::{Words, encode, type_of, write_verdict};

/// The types of a set.
#[derive(Clone, Debug, Default)]
pub(super) struct SetType {
    pub(super) key: Vec<Kind>,
    pub(super) data: Vec<Kind>,
    pub(super) verdicts: bool,
}

/// The sets that are known, and those without a name that a rule just asked for.
#[derive(Debug, Default)]
pub(super) struct Sets {
    known: BTreeMap<(String, String), (SetType, bool)>,
    table: String,
    fresh: Vec<(String, u32, SetType, String)>,
    next: u32,
}

impl Sets {
    /// The types of what a map gives.
    pub(super) fn data_of(&self, set: &str) -> Option<&[Kind]> {
        let key = (self.table.clone(), set.to_owned());
        self.known.get(&key).map(|(kind, _)| kind.data.as_slice())
    }

    /// A set that is made for one rule: its name and its number in the batch.
    pub(super) fn without_name(
        &mut self,
        kinds: &[Kind],
        elements: &str,
        verdicts: bool,
    ) -> Result<(String, u32), String> {
        self.next += 1;
        let (name, id) = ("__set%d".to_owned(), self.next);
        self.fresh.push((name.clone(), id, type_of(kinds, verdicts), elements.to_owned()));
        Ok((name, id))
    }
}

const ANONYMOUS: u32 = 1;
const CONSTANT: u32 = 2;
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const TIMEOUT: u32 = 16;
const EVAL: u32 = 32;
const CONCAT: u32 = 128;

/// Writes batches. It remembers the sets' types from batch to batch.
#[derive(Debug, Default)]
pub struct Batches {
    sets: Sets,
    writer: Writer,
    sequence: u32,
}

impl Batches {
    /// One batch of these commands.
    pub fn batch(&mut self, commands: &[&str]) -> Result<Vec<u8>, String> {
        self.writer = Writer::new();
        self.sequence = 0;
        self.boundary(0x10);
        for command in commands {
            self.command(command).map_err(|why| format!("{command}: {why}"))?;
        }
        self.boundary(0x11);
        Ok(std::mem::take(&mut self.writer).into_bytes())
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

    fn message(&mut self, (kind, flags): (u16, u16), family: u8, body: &Writer) {
        self.sequence += 1;
        let head = Head {
            kind: SUBSYS_NFTABLES | kind,
            flags: REQUEST | flags,
            sequence: self.sequence,
            family,
            resource: 0,
        };
        let open = self.writer.open_message(head);
        self.writer.raw(body.as_bytes());
        self.writer.close_message(open);
    }

    /// `VERB [again] FAMILY TABLE …`; `again` asks for EEXIST where the object is there.
    fn command(&mut self, text: &str) -> Result<(), String> {
        let mut words = Words::new(text);
        let verb = words.need("a command")?;
        let create = CREATE | if words.take("exclusive") { EXCL } else { 0 };
        let family = match words.need("a family")? {
            "ip" => 2,
            "ip6" => 10,
            "inet" => 1,
            other => return Err(format!("no family \"{other}\"")),
        };
        let table = words.need("a table")?;
        self.sets.table = format!("{family} {table}");
        let mut body = Writer::new();
        body.text(1, table);
        match verb {
            "table" => {
                body.be32(2, 0);
                self.message((0, create), family, &body);
            }
            "delete-table" => self.message((2, 0), family, &body),
            "chain" => {
                chain(&mut body, &mut words)?;
                self.message((3, create), family, &body);
            }
            "delete-chain" => {
                body.text(3, words.need("a chain")?);
                self.message((5, 0), family, &body);
            }
            "rule" | "insert" => {
                let flags = if verb == "rule" { create | APPEND } else { create };
                self.rule((family, flags), body, &mut words)?;
            }
            "flush" => {
                body.text(2, words.need("a chain")?);
                self.message((8, 0), family, &body);
            }
            "set" => self.set((family, create), body, &mut words)?,
            "delete-set" => {
                body.text(2, words.need("a set")?);
                self.message((11, 0), family, &body);
            }
            "element" => self.elements((family, (12, create)), &mut words)?,
            "delete-element" => self.elements((family, (14, 0)), &mut words)?,
            other => return Err(format!("no command \"{other}\"")),
        }
        Ok(())
    }

    fn rule(
        &mut self,
        (family, flags): (u8, u16),
        mut body: Writer,
        words: &mut Words<'_>,
    ) -> Result<(), String> {
        body.text(2, words.need("a chain")?);
        let expressions = encode(&rest(words), &mut self.sets)?;
        for (name, id, kind, elements) in std::mem::take(&mut self.sets.fresh) {
            self.without_name(family, (&name, id), (&kind, &elements))?;
        }
        body.nest(4, |w| w.raw(&expressions));
        self.message((6, flags), family, &body);
        Ok(())
    }

    fn without_name(
        &mut self,
        family: u8,
        (name, id): (&str, u32),
        (kind, elements): (&SetType, &str),
    ) -> Result<(), String> {
        let table = self.sets.table.split_once(' ').map(|(_, table)| table.to_owned());
        let table = table.unwrap_or_default();
        let interval = elements.split_whitespace().any(|w| w.contains('-'));
        let mut flags = ANONYMOUS | CONSTANT;
        flags |= if interval { INTERVAL } else { 0 };
        flags |= if interval && kind.key.len() > 1 { CONCAT } else { 0 };
        flags |= if kind.verdicts { MAP } else { 0 };
        let mut body = Writer::new();
        body.text(1, &table);
        body.text(2, name);
        body.be32(10, id);
        definition(&mut body, kind, flags);
        self.message((9, CREATE), family, &body);
        let mut body = Writer::new();
        body.text(1, &table);
        body.text(2, name);
        body.be32(4, id);
        let open = body.open(3);
        for element in elements.split(',').filter(|e| !e.trim().is_empty()) {
            element_of(&mut body, kind, interval, element)?;
        }
        body.close(open);
        self.message((12, CREATE), family, &body);
        Ok(())
    }

    /// `set FAMILY TABLE NAME TYPE [. TYPE]… [: verdict | TYPE…] [interval] [dynamic] [timeout S]
    /// [size N]`.
    fn set(
        &mut self,
        (family, flags): (u8, u16),
        mut body: Writer,
        words: &mut Words<'_>,
    ) -> Result<(), String> {
        let name = words.need("a name")?.to_owned();
        let mut kind = SetType { key: types(words)?, ..SetType::default() };
        if words.take(":") {
            kind.verdicts = words.take("verdict");
            if !kind.verdicts {
                kind.data = types(words)?;
            }
        }
        let mut bits = if kind.verdicts || !kind.data.is_empty() { MAP } else { 0 };
        let (mut timeout, mut size) = (None, None);
        while let Some(word) = words.next() {
            match word {
                "interval" if kind.key.len() > 1 => bits |= INTERVAL | CONCAT,
                "interval" => bits |= INTERVAL,
                "dynamic" => bits |= EVAL,
                "constant" => bits |= CONSTANT,
                "timeouts" => bits |= TIMEOUT,
                "timeout" => {
                    bits |= TIMEOUT;
                    timeout = Some(number(words.need("seconds")?)?);
                }
                "size" => size = Some(number(words.need("a size")?)?),
                other => return Err(format!("no property \"{other}\" of sets")),
            }
        }
        self.sets.next += 1;
        body.text(2, &name);
        body.be32(10, self.sets.next);
        definition_sized(&mut body, &kind, (bits, size));
        if let Some(seconds) = timeout {
            body.be64(11, u64::from(seconds) * 1000);
        }
        let key = (self.sets.table.clone(), name);
        self.sets.known.insert(key, (kind, bits & INTERVAL != 0));
        self.message((9, flags), family, &body);
        Ok(())
    }

    fn elements(
        &mut self,
        (family, kind): (u8, (u16, u16)),
        words: &mut Words<'_>,
    ) -> Result<(), String> {
        let name = words.need("a set")?;
        let known = self.sets.known.get(&(self.sets.table.clone(), name.to_owned()));
        let (set, interval) = known.cloned().ok_or("the set was not declared here")?;
        let mut body = Writer::new();
        body.text(1, self.sets.table.split_once(' ').map_or("", |(_, table)| table));
        body.text(2, name);
        let open = body.open(3);
        for element in rest(words).split(',') {
            element_of(&mut body, &set, interval, element)?;
        }
        body.close(open);
        self.message(kind, family, &body);
        Ok(())
    }
}

fn rest(words: &mut Words<'_>) -> String {
    std::iter::from_fn(|| words.next()).collect::<Vec<_>>().join(" ")
}

fn types(words: &mut Words<'_>) -> Result<Vec<Kind>, String> {
    let mut kinds = vec![Kind::named(words.need("a type")?)?];
    while words.take(".") {
        kinds.push(Kind::named(words.need("a type")?)?);
    }
    Ok(kinds)
}

/// `NAME` or `NAME filter|nat HOOK PRIORITY [accept|drop]`.
fn chain(body: &mut Writer, words: &mut Words<'_>) -> Result<(), String> {
    body.text(3, words.need("a name")?);
    let Some(kind) = words.next() else { return Ok(()) };
    let hook = match words.need("a hook")? {
        "prerouting" => 0,
        "input" => 1,
        "forward" => 2,
        "output" => 3,
        "postrouting" => 4,
        other => return Err(format!("no hook \"{other}\"")),
    };
    let priority: i32 = words.need("a priority")?.parse().map_err(|_| "a priority expected")?;
    body.nest(4, |w| {
        w.be32(1, hook);
        w.be32(2, priority as u32);
    });
    match words.next() {
        Some("drop") => body.be32(5, 0),
        Some("accept") | None => body.be32(5, 1),
        Some(other) => return Err(format!("no policy \"{other}\"")),
    }
    body.text(7, kind);
    Ok(())
}

fn definition(body: &mut Writer, kind: &SetType, flags: u32) {
    definition_sized(body, kind, (flags, None));
}

fn definition_sized(body: &mut Writer, kind: &SetType, (flags, size): (u32, Option<u32>)) {
    let type_number = |kinds: &[Kind]| kinds.iter().fold(0, |n, k| n << 6 | k.number());
    body.be32(3, flags);
    body.be32(4, type_number(&kind.key));
    body.be32(5, length(&kind.key));
    if kind.verdicts {
        body.be32(6, 0xffff_ff00);
        body.be32(7, 16);
    } else if !kind.data.is_empty() {
        body.be32(6, type_number(&kind.data));
        body.be32(7, length(&kind.data));
    }
    if flags & CONCAT != 0 || size.is_some() {
        body.nest(9, |w| {
            if let Some(size) = size {
                w.be32(1, size);
            }
            if flags & CONCAT != 0 {
                w.nest(2, |w| {
                    kind.key.iter().for_each(|k| w.nest(1, |w| w.be32(1, k.length() as u32)));
                });
            }
        });
    }
}

fn length(kinds: &[Kind]) -> u32 {
    match kinds {
        [one] => one.length() as u32,
        several => several.iter().map(|k| k.length().next_multiple_of(4) as u32).sum(),
    }
}

/// `KEY [timeout S] [: VALUE]`; a key's fields may be ranges `LOW-HIGH` in interval sets.
fn element_of(w: &mut Writer, set: &SetType, interval: bool, text: &str) -> Result<(), String> {
    let (key, value) = text.split_once(" : ").map_or((text, None), |(k, v)| (k, Some(v)));
    let (key, timeout) = match key.split_once(" timeout ") {
        Some((key, seconds)) => (key, Some(number(seconds.trim())?)),
        None => (key, None),
    };
    let low = values(&set.key, key, 0)?;
    let high = values(&set.key, key, 1)?;
    let open = w.open(1);
    w.nest(1, |w| w.bytes(1, &low));
    if interval && set.key.len() > 1 {
        w.nest(10, |w| w.bytes(1, &high));
    }
    if let Some(value) = value {
        let data = w.open(2);
        if set.verdicts {
            write_verdict(w, &mut Words::new(value))?;
        } else {
            w.bytes(1, &values(&set.data, value, 0)?);
        }
        w.close(data);
    }
    if let Some(seconds) = timeout {
        w.be64(4, u64::from(seconds) * 1000);
    }
    w.close(open);
    if interval && set.key.len() == 1 {
        interval_end(w, high);
    }
    Ok(())
}

/// Plain intervals end where the next begins; the last address or port has no next.
fn interval_end(w: &mut Writer, mut end: Vec<u8>) {
    for byte in end.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    if end.iter().all(|byte| *byte == 0) {
        return;
    }
    let open = w.open(1);
    w.be32(3, 1);
    w.nest(1, |w| w.bytes(1, &end));
    w.close(open);
}

/// The bytes of a key or value; `which` end of its ranges.
fn values(kinds: &[Kind], text: &str, which: usize) -> Result<Vec<u8>, String> {
    let parts: Vec<&str> = text.split(" . ").map(str::trim).collect();
    if parts.len() != kinds.len() {
        return Err(format!("{} fields expected in \"{text}\"", kinds.len()));
    }
    let mut bytes = Vec::new();
    for (kind, part) in kinds.iter().zip(parts) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        bytes.extend(kind.value(if which == 0 { low } else { high })?);
        if kinds.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    Ok(bytes)
}
