//! The forms in which Go's pflag takes flags, which clap's parser does not all have: `--name=value`,
//! `--name value`, a bare boolean that never takes the next word, `-v=4`, `-v4`, `-v 4`, and
//! underscores for dashes. Words come out as flags with their values' text; values are not judged.
//! Tests: `cli::tests`.

use std::ffi::OsString;

use crate::config::Problem;
use crate::config::flags::{self, Flag};

/// A command line taken apart.
#[derive(Debug, Default)]
pub(super) struct Spelled {
    /// Flags with their values, in order.
    pub(super) flags: Vec<(&'static Flag, String)>,
    /// Words that are no flags, for a command that takes some.
    pub(super) words: Vec<String>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

impl Spelled {
    /// Of a command that takes no words, each is a problem.
    pub(super) fn refuse_words(&mut self) {
        for word in std::mem::take(&mut self.words) {
            let sentence = "is not a flag, and kube-proxy takes no other arguments";
            self.problems.push(Problem::said(format!("{word:?}"), sentence));
        }
    }
}

/// Takes a command line apart.
pub(super) fn spell(words: impl Iterator<Item = OsString>) -> Spelled {
    let mut spelled = Spelled::default();
    let mut words =
        words.map(|word| word.into_string().map_err(|word| word.to_string_lossy().into_owned()));
    while let Some(word) = words.next() {
        match word {
            Ok(word) => {
                let mut next = || words.next().map(|word| word.unwrap_or_else(|lossy| lossy));
                spelled.take(&word, &mut next);
            }
            Err(lossy) => {
                spelled.problems.push(Problem::new("command line", &lossy, "text in UTF-8"))
            }
        }
    }
    spelled
}

impl Spelled {
    fn take(&mut self, word: &str, next: &mut dyn FnMut() -> Option<String>) {
        if word == "--" {
            while let Some(word) = next() {
                self.stray(&word);
            }
        } else if let Some(long) = word.strip_prefix("--") {
            self.long(long, next);
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            self.short(short, next);
        } else if !word.is_empty() {
            // An empty word is what an unset variable in a script leaves; the reference passes it over.
            self.stray(word);
        }
    }

    fn stray(&mut self, word: &str) {
        self.words.push(word.to_owned());
    }

    /// `name=value`, `name value` or a bare boolean.
    fn long(&mut self, text: &str, next: &mut dyn FnMut() -> Option<String>) {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let name = name.replace('_', "-");
        match flags::find(&name) {
            Some(flag) => self.push(flag, value, next),
            None => self.problems.push(Problem::said(format!("--{name}"), unknown(&name))),
        }
    }

    /// Letters, the last of which may have a value: `v4`, `v=4`, `v` and the next word.
    fn short(&mut self, text: &str, next: &mut dyn FnMut() -> Option<String>) {
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            let Some(flag) = flags::find_short(letter) else {
                let place = format!("-{text}");
                return self
                    .problems
                    .push(Problem::said(place, format!("unknown letter {letter:?}; see --help")));
            };
            let value = rest.strip_prefix('=').or(Some(rest).filter(|rest| !rest.is_empty()));
            if flag.value.is_some() || rest.starts_with('=') {
                return self.push(flag, value.map(str::to_owned), next);
            }
            self.push(flag, None, next);
        }
    }

    fn push(
        &mut self,
        flag: &'static Flag,
        value: Option<String>,
        next: &mut dyn FnMut() -> Option<String>,
    ) {
        let value = match (value, flag.value) {
            (Some(value), _) => value,
            (None, None) => "true".to_owned(),
            (None, Some(shape)) => match next() {
                Some(value) => value,
                None => {
                    let sentence = format!("needs a value: {shape}");
                    return self.problems.push(Problem::said(format!("--{}", flag.name), sentence));
                }
            },
        };
        self.flags.push((flag, value));
    }
}

/// What to say of an unknown flag: the nearest known one, if any is near.
fn unknown(name: &str) -> String {
    let near = |flag: &&Flag| (distance(name, flag.name), flag.name);
    let nearest = flags::all().map(|flag| near(&flag)).min();
    match nearest {
        Some((distance, nearest)) if name.len() > 2 && distance <= 1 + name.len() / 5 => {
            format!("unknown flag; is --{nearest} meant?")
        }
        _ => "unknown flag; see --help".to_owned(),
    }
}

/// How many letters must change to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
