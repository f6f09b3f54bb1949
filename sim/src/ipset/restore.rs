//! The text of `ipset restore`: commands line by line. Like ipset it gathers additions (or deletions) of one set into one message,
//! which goes to the kernel before the next other command: a line that cannot be read takes the gathered ones with it, and
//! `-exist` counts from the message's first line. It must never know how sets hold elements. Tests: tests/ipset.rs.

use super::create::{self, Extras};
use super::error::{IpsetError, IpsetErrorKind, Refused};
use super::set::Key;
use super::{Ipsets, element};
use std::iter::Peekable;
use std::str::Chars;

/// Does an element or set that is there already, or is not there, count as done?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Refuse,
    Tolerate,
}

/// Lines for one set that go to the kernel together.
#[derive(Default)]
struct Message {
    set: String,
    deletes: bool,
    tolerant: bool,
    lines: Vec<(usize, Vec<Key>, Extras)>,
}

impl Ipsets {
    /// Applies a text. What stood before the line that is refused stays.
    pub(crate) fn restore(
        &mut self,
        text: &str,
        existing: Existing,
        now: u64,
    ) -> Result<(), IpsetError> {
        let mut message = Message::default();
        for (index, line) in text.lines().enumerate() {
            let words = split(line).map_err(|refused| refused.at(index + 1))?;
            let tolerant = existing == Existing::Tolerate
                || words.iter().any(|word| matches!(&**word, "-exist" | "-!"));
            let words: Vec<&str> = words
                .iter()
                .map(|word| &**word)
                .filter(|word| !matches!(*word, "-exist" | "-!"))
                .collect();
            if words.is_empty() || words[0].starts_with('#') {
                continue;
            }
            let line = Line { number: index + 1, tolerant, now };
            self.command(&words, line, &mut message)?;
        }
        self.deliver(&mut message, now)
    }

    fn command(
        &mut self,
        words: &[&str],
        line: Line,
        message: &mut Message,
    ) -> Result<(), IpsetError> {
        let deletes = match words[0] {
            "add" | "a" | "-A" | "--add" => false,
            "del" | "d" | "-D" | "--del" => true,
            _ => {
                let parsed = read(words).map_err(|refused| refused.at(line.number))?;
                self.deliver(message, line.now)?;
                return self.run(parsed, line.tolerant).map_err(|refused| refused.at(line.number));
            }
        };
        let gathered = self.gather(words, deletes).map_err(|refused| refused.at(line.number))?;
        if message.set != words[1] || message.deletes != deletes {
            self.deliver(message, line.now)?;
            *message = Message {
                set: words[1].to_owned(),
                deletes,
                tolerant: line.tolerant,
                lines: Vec::new(),
            };
        }
        if message.lines.is_empty() {
            message.tolerant = line.tolerant;
        }
        message.lines.push((line.number, gathered.0, gathered.1));
        Ok(())
    }

    /// Reads an addition or deletion; the set must be there, for its type says how.
    fn gather(&mut self, words: &[&str], deletes: bool) -> Result<(Vec<Key>, Extras), Refused> {
        let named = argument(words, 1, "")?;
        let text = argument(words, 2, "second ")?;
        let set = self.get(create::name(named)?)?;
        let keys = element::parse(text, set.kind, set.ipv6)?;
        let mut rest = words[3..].iter().copied();
        if deletes {
            create::no_extras(set.kind, &mut rest)?;
            return Ok((keys, Extras::default()));
        }
        Ok((keys, create::extras(set.kind, &mut rest)?))
    }

    fn deliver(&mut self, message: &mut Message, now: u64) -> Result<(), IpsetError> {
        let Message { set, deletes, tolerant, lines } = std::mem::take(message);
        for (number, keys, extras) in lines {
            let done = self.change(&set, (deletes, tolerant), (&keys, &extras), now);
            done.map_err(|refused| refused.at(number))?;
        }
        Ok(())
    }

    fn change(
        &mut self,
        set: &str,
        how: (bool, bool),
        what: (&[Key], &Extras),
        now: u64,
    ) -> Result<(), Refused> {
        let set = self.get(set)?;
        let beside = what.1.beside(set, now)?;
        for key in what.0 {
            match how {
                (true, tolerant) => set.delete(key, tolerant, now)?,
                (false, tolerant) => set.add(*key, beside.clone(), tolerant, now)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, command: Command<'_>, tolerant: bool) -> Result<(), Refused> {
        let done = match command {
            Command::Create(set) => self.create(*set, tolerant),
            Command::Destroy(Some(name)) => self.destroy(name),
            Command::Destroy(None) => self.destroy_all(),
            Command::Flush(Some(name)) => {
                self.get(name)?.flush();
                Ok(())
            }
            Command::Flush(None) => {
                self.places.iter_mut().flatten().for_each(super::set::Set::flush);
                Ok(())
            }
            Command::Rename(from, to) => self.rename(from, to),
            Command::Swap(one, two) => self.swap(one, two),
            Command::Commit => Ok(()),
        };
        match done {
            Err(refused) if tolerant && refused.is(IpsetErrorKind::NoSet) => Ok(()),
            done => done,
        }
    }
}

/// Where a command stands.
#[derive(Clone, Copy)]
struct Line {
    number: usize,
    tolerant: bool,
    now: u64,
}

enum Command<'t> {
    Create(Box<super::set::Set>),
    Destroy(Option<&'t str>),
    Flush(Option<&'t str>),
    Rename(&'t str, &'t str),
    Swap(&'t str, &'t str),
    Commit,
}

fn read<'t>(words: &[&'t str]) -> Result<Command<'t>, Refused> {
    let two = || {
        let (one, two) = (argument(words, 1, "")?, argument(words, 2, "second ")?);
        Ok::<_, Refused>((create::name(one)?, create::name(two)?))
    };
    let one = words.get(1).map(|word| create::name(word)).transpose()?;
    let (command, used) = match words[0] {
        "create" | "n" | "-N" | "--create" => {
            let (named, kind) = (argument(words, 1, "")?, argument(words, 2, "second ")?);
            let set = create::set(named, kind, &mut words[3..].iter().copied())?;
            return Ok(Command::Create(Box::new(set)));
        }
        "destroy" | "x" | "-X" | "--destroy" => (Command::Destroy(one), 2),
        "flush" | "f" | "-F" | "--flush" => (Command::Flush(one), 2),
        "rename" | "e" | "-E" | "--rename" => {
            let (from, to) = two()?;
            (Command::Rename(from, to), 3)
        }
        "swap" | "w" | "-W" | "--swap" => {
            let (one, two) = two()?;
            (Command::Swap(one, two), 3)
        }
        "COMMIT" => (Command::Commit, 1),
        "test" | "t" | "-T" | "list" | "l" | "-L" | "save" | "s" | "-S" => {
            return Err(Refused::not_modelled(format_args!("{} in a restored text", words[0])));
        }
        other => {
            return Err(Refused::usage(format_args!(
                "No command specified: unknown argument {other}"
            )));
        }
    };
    match words.get(used) {
        Some(extra) => Err(Refused::usage(format_args!("Unknown argument {extra}"))),
        None => Ok(command),
    }
}

fn argument<'t>(words: &[&'t str], index: usize, which: &str) -> Result<&'t str, Refused> {
    let command = match words[0] {
        "n" | "-N" | "--create" => "create",
        "a" | "-A" | "--add" => "add",
        "d" | "-D" | "--del" => "del",
        other => other,
    };
    words.get(index).copied().ok_or_else(|| {
        Refused::usage(format_args!("Missing {which}mandatory argument to command {command}"))
    })
}

/// Splits a line into words; quotes hold spaces.
fn split(line: &str) -> Result<Vec<String>, Refused> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    while let Some(next) = rest.peek() {
        if next.is_whitespace() {
            rest.next();
        } else {
            words.push(word(&mut rest)?);
        }
    }
    Ok(words)
}

fn word(rest: &mut Peekable<Chars<'_>>) -> Result<String, Refused> {
    let mut word = String::new();
    let mut quoted = false;
    while let Some(&next) = rest.peek() {
        if next.is_whitespace() && !quoted {
            break;
        }
        rest.next();
        if next == '"' {
            quoted = !quoted;
        } else {
            word.push(next);
        }
    }
    if quoted { Err(Refused::syntax("missing close quote")) } else { Ok(word) }
}
