//! Reads a text for iptables-restore line by line and changes tables by it, each `COMMIT` as a whole.
//! Where the two flavours of the tool differ, the stricter one is followed. Facts from iptables/iptables-restore.c, xshared.c.
//! It must never know packets. Tests: tests/xtables_texts.rs.

use super::error::{Refusal, Taken, XtErrorKind};
use super::objects::Sets;
use super::rule::{Rule, Setting, parse};
use super::table::Table;
use super::verify::verify;
use super::words::{Word, Words};
use super::{XtError, XtFamily, XtRestore, XtTable, Xtables};

/// The tool's buffer for a line.
const LONGEST_LINE: usize = 10_239;

/// A text on its way in.
pub(super) struct Restore<'x> {
    pub(super) xtables: &'x mut Xtables,
    pub(super) family: XtFamily,
    pub(super) how: XtRestore,
    pub(super) sets: &'x dyn Sets,
}

impl Restore<'_> {
    /// Takes a text. Tables committed before an error stay changed, as with the tool.
    pub(super) fn run(&mut self, text: &str) -> Result<(), XtError> {
        let mut open = None;
        let mut last = 0;
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n').peekable();
        while let Some(line) = lines.next() {
            last += 1;
            // The legacy flavour does not know a `COMMIT` without a newline behind it.
            let cut = line == "COMMIT" && lines.peek().is_none() && !text.ends_with('\n');
            let taken = match cut {
                true => {
                    Err(Refusal::syntax(7, "Bad argument `COMMIT': expected a newline behind it"))
                }
                false => self.line(line, &mut open),
            };
            if let Err(refusal) = taken {
                self.abandon(open);
                return Err(refusal.at(last));
            }
        }
        if open.is_some() {
            self.abandon(open);
            return Err(
                Refusal::syntax(1, format!("COMMIT expected at line {}", last + 1)).at(last + 1)
            );
        }
        Ok(())
    }

    fn abandon(&mut self, open: Option<XtTable>) {
        let table = open.and_then(|open| self.xtables.table_mut(self.family, open));
        table.into_iter().for_each(Table::take_back);
    }

    fn line(&mut self, line: &str, open: &mut Option<XtTable>) -> Taken<()> {
        if line.len() > LONGEST_LINE {
            return Err(Refusal::syntax(1, format!("a line of more than {LONGEST_LINE} bytes")));
        }
        match (line, *open) {
            ("", _) => Ok(()),
            (line, _) if line.starts_with('#') => Ok(()),
            ("COMMIT", Some(table)) => {
                *open = None;
                self.commit(table)
            }
            (line, None) => match line.strip_prefix('*') {
                Some(rest) => {
                    *open = Some(self.open(rest)?);
                    Ok(())
                }
                None => Err(Refusal::syntax(
                    1,
                    format!("expected `*table' or a comment, found `{line}'"),
                )),
            },
            (line, Some(table)) => match line.strip_prefix(':') {
                Some(rest) => self.chain(rest, table),
                None => self.command(line, table),
            },
        }
    }

    fn open(&mut self, rest: &str) -> Taken<XtTable> {
        let name = rest.split([' ', '\t']).next().unwrap_or_default();
        let table = match (XtTable::named(name), name) {
            (Some(table), _) => table,
            (None, "security") => return Err(Refusal::unmodelled(2, "table `security'")),
            (None, _) => {
                return Err(Refusal::new(
                    XtErrorKind::Absent,
                    2,
                    format!("unable to initialize table '{name}'"),
                ));
            }
        };
        let opened = self.xtables.table_or_new(self.family, table);
        if !self.how.noflush {
            opened.clear();
        }
        Ok(table)
    }

    fn table(&mut self, table: XtTable) -> &mut Table {
        self.xtables.table_or_new(self.family, table)
    }

    fn commit(&mut self, table: XtTable) -> Taken<()> {
        let opened = self.table(table);
        if let Err(refusal) = verify(opened) {
            opened.take_back();
            return Err(refusal);
        }
        let moved = opened.keep();
        self.xtables.follow((self.family, table), moved);
        Ok(())
    }

    /// `:CHAIN POLICY [packets:bytes]`
    fn chain(&mut self, rest: &str, table: XtTable) -> Taken<()> {
        let noflush = self.how.noflush;
        let counted = self.how.counters;
        let mut words = Words::split(rest, 2)?;
        let name = words
            .next()
            .ok_or_else(|| Refusal::syntax(2, "chain name invalid: expected a name"))?;
        let missing =
            |words: &Words| Refusal::syntax(words.end(), "policy invalid: expected a policy or -");
        let policy = words.next().ok_or_else(|| missing(&words))?;
        let counters = words.next();
        let opened = self.table(table);
        if !opened.has(&name.text) {
            opened.create(&name)?;
        } else if opened
            .find(&name)
            .is_ok_and(|slot| opened.chain(slot).is_some_and(|chain| chain.base.is_none()))
        {
            if !noflush {
                return Err(Refusal::new(
                    XtErrorKind::Exists,
                    name.column,
                    format!("error creating chain '{}':File exists", name.text),
                ));
            }
            let slot = opened.find(&name)?;
            opened.flush(slot);
        }
        if policy.text == "-" {
            return Ok(());
        }
        let counters = match (counted, counters) {
            (false, _) => None,
            (true, Some(word)) => Some(counters_of(&word)?),
            (true, None) => {
                return Err(Refusal::syntax(
                    words.end(),
                    format!("invalid policy counters for chain '{}'", name.text),
                ));
            }
        };
        set_policy(opened, (&name, &policy), counters)
    }

    /// A line of a rule or of a command about chains.
    fn command(&mut self, line: &str, table: XtTable) -> Taken<()> {
        let (line, first, counters) = match line.strip_prefix('[') {
            None => (line, 1, None),
            Some(rest) => {
                let (numbers, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| Refusal::syntax(1, "need ] behind [packets:bytes"))?;
                let word = Word { text: format!("[{numbers}]"), column: 1 };
                (rest, numbers.chars().count() + 3, Some(counters_of(&word)?))
            }
        };
        let counters = counters.filter(|_| self.how.counters);
        let mut words = Words::split(line, first)?;
        let verb = words.next().ok_or_else(|| Refusal::syntax(first, "no command specified"))?;
        match verb.text.as_str() {
            "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" | "-R" | "--replace"
            | "-C" | "--check" => self.rule((&verb, counters), words, table),
            _ => self.about_chains(&verb, words, table),
        }
    }

    fn about_chains(&mut self, verb: &Word, mut words: Words, table: XtTable) -> Taken<()> {
        let opened = self.table(table);
        let optional = words.peek().is_some();
        match verb.text.as_str() {
            "-N" | "--new-chain" => opened.create(&words.value(verb)?)?,
            "-X" | "--delete-chain" if optional => opened.delete(&words.value(verb)?)?,
            "-X" | "--delete-chain" => opened.delete_all(verb.column)?,
            "-F" | "--flush" if optional => {
                let slot = opened.find(&words.value(verb)?)?;
                opened.flush(slot);
            }
            "-F" | "--flush" => opened.slots().into_iter().for_each(|slot| opened.flush(slot)),
            "-Z" | "--zero" if optional => {
                let slot = opened.find(&words.value(verb)?)?;
                let only = words.next().map(|word| place(&word)).transpose()?;
                opened.zero(slot, only);
            }
            "-Z" | "--zero" => opened.slots().into_iter().for_each(|slot| opened.zero(slot, None)),
            "-P" | "--policy" => {
                let (name, policy) = (words.value(verb)?, words.value(verb)?);
                set_policy(opened, (&name, &policy), None)?;
            }
            "-E" | "--rename-chain" => {
                let (from, to) = (words.value(verb)?, words.value(verb)?);
                opened.rename(&from, &to)?;
            }
            "-L" | "--list" | "-S" | "--list-rules" => return Err(verb.unmodelled("")),
            text if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
                return Err(verb.unmodelled(""));
            }
            text if text.starts_with('-') => {
                return Err(Refusal::syntax(
                    verb.column,
                    format!("no command specified: expected one, found `{text}'"),
                ));
            }
            text => {
                return Err(Refusal::syntax(
                    verb.column,
                    format!("Bad argument `{text}': expected a command or COMMIT"),
                ));
            }
        }
        words.finish()
    }

    fn rule(
        &mut self,
        verb: (&Word, Option<(u64, u64)>),
        mut words: Words,
        table: XtTable,
    ) -> Taken<()> {
        let (verb, counters) = verb;
        let chain = words.value(verb)?;
        let short = short_of(&verb.text);
        let numbered = words.peek().is_some_and(|word| {
            word.text.bytes().all(|byte| byte.is_ascii_digit()) && !word.text.is_empty()
        });
        let number = if numbered && short != "-A" && short != "-C" { words.next() } else { None };
        let at = number.as_ref().map(place).transpose()?;
        let slot = self.table(table).find(&chain)?;
        let length = self.table(table).chain(slot).map_or(0, |chain| chain.rules.len());
        let too_big = |what: &str| {
            let column = number.as_ref().map_or(chain.column, |word| word.column);
            Refusal::new(
                XtErrorKind::Absent,
                column,
                format!("Index of {what} too big: the chain holds {length} rules"),
            )
        };
        if let ("-D", Some(at)) = (short, at) {
            words.finish()?;
            if at >= length {
                return Err(too_big("deletion"));
            }
            self.table(table).remove(slot, at);
            return Ok(());
        }
        let setting = Setting {
            family: self.family,
            table,
            sets: self.sets,
            accounts: &self.xtables.accounts,
        };
        let written = parse(&mut words, setting)?;
        let opened = self.table(table);
        let counters = written.counters.or(counters).unwrap_or_default();
        let single = written.specs.len() == 1;
        for mut spec in written.specs {
            unlike_links(&chain, &spec.head)?;
            opened.resolve(&mut spec, written.target_column)?;
            let absent = || {
                let detail = "Bad rule (does a matching rule exist in that chain?).";
                Refusal::new(XtErrorKind::Absent, chain.column, detail)
            };
            match (short, at) {
                ("-A", _) => opened.insert(slot, None, Rule::new(spec, counters)),
                ("-I", at) if at.unwrap_or(0) > length => return Err(too_big("insertion")),
                ("-I", at) => opened.insert(slot, at.or(Some(0)), Rule::new(spec, counters)),
                ("-R", None) => {
                    return Err(Refusal::syntax(verb.column, "-R requires a rule number"));
                }
                ("-R", Some(_)) if !single => {
                    return Err(Refusal::syntax(
                        verb.column,
                        "Replacement rule does not specify a unique address",
                    ));
                }
                ("-R", Some(at)) if at >= length => return Err(too_big("replacement")),
                ("-R", Some(at)) => {
                    opened.remove(slot, at);
                    opened.insert(slot, Some(at), Rule::new(spec, counters));
                }
                ("-D", _) => {
                    let at = opened.place_of(slot, &spec).ok_or_else(absent)?;
                    opened.remove(slot, at);
                }
                _ => drop(opened.place_of(slot, &spec).ok_or_else(absent)?),
            }
        }
        Ok(())
    }
}

/// A command about rules by its short name.
fn short_of(verb: &str) -> &str {
    match verb {
        "--append" => "-A",
        "--insert" => "-I",
        "--delete" => "-D",
        "--replace" => "-R",
        "--check" => "-C",
        short => short,
    }
}

/// A rule's number, as a place from 0.
fn place(word: &Word) -> Taken<usize> {
    let number: usize = word.text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
        Refusal::syntax(word.column, format!("Invalid rule number `{}'", word.text))
    })?;
    Ok(number - 1)
}

/// `[packets:bytes]`
fn counters_of(word: &Word) -> Taken<(u64, u64)> {
    let inner = word.text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let numbers = inner.and_then(|text| text.split_once(':'));
    let numbers = numbers.and_then(|(packets, bytes)| packets.parse().ok().zip(bytes.parse().ok()));
    numbers.ok_or_else(|| word.refuse("[packets:bytes], both numbers"))
}

fn set_policy(table: &mut Table, words: (&Word, &Word), counters: Option<(u64, u64)>) -> Taken<()> {
    let (name, policy) = words;
    let slot = table.find(name)?;
    if table.chain(slot).is_none_or(|chain| chain.base.is_none()) {
        return Err(Refusal::invalid(
            policy.column,
            format!(
                "Can't set policy `{}' on `{}': Bad built-in chain name",
                policy.text, name.text
            ),
        ));
    }
    let accepts = match policy.text.as_str() {
        "ACCEPT" => true,
        "DROP" => false,
        "QUEUE" => return Err(policy.unmodelled("policy ")),
        _ => {
            return Err(Refusal::invalid(
                policy.column,
                format!("Can't set policy `{}' on `{}': Bad policy name", policy.text, name.text),
            ));
        }
    };
    table.set_policy(slot, accepts, counters);
    Ok(())
}

/// Some links are not known at some hooks; the tool knows that by the names of chains.
fn unlike_links(chain: &Word, head: &super::head::Head) -> Taken<()> {
    let refuse = |option: &str| {
        Err(Refusal::syntax(chain.column, format!("Can't use {option} with {}", chain.text)))
    };
    match chain.text.as_str() {
        "OUTPUT" | "POSTROUTING" if head.in_link.is_some() => refuse("-i"),
        "INPUT" | "PREROUTING" if head.out_link.is_some() => refuse("-o"),
        _ => Ok(()),
    }
}
