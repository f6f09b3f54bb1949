//! One thing that is wrong with what the user asked for, and where they asked for it.
//! All problems are collected and told together, one line each: place, value, what is allowed.
//! Tests: `config::tests`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::flags;

/// One line of what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `--flag`, or `FILE:LINE: field`.
    pub place: String,
    /// What stood there; empty if nothing did, or if it adds nothing.
    pub value: String,
    /// What is allowed, in words that follow "must be", or a whole sentence.
    pub allowed: String,
}

/// Values longer than this are cut: the line should stay a line.
const LONGEST_VALUE: usize = 120;

impl Problem {
    /// A problem with a value.
    pub fn new(place: impl Into<String>, value: &str, allowed: impl fmt::Display) -> Problem {
        let allowed = format!("must be {allowed}");
        Problem { place: place.into(), value: quoted(value), allowed }
    }

    /// A problem told in a sentence of its own.
    pub fn said(place: impl Into<String>, sentence: impl Into<String>) -> Problem {
        Problem { place: place.into(), value: String::new(), allowed: sentence.into() }
    }
}

/// The text in quotes, with control characters escaped, so that it can't break the line.
fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(LONGEST_VALUE).collect();
    if cut.len() < text.len() {
        cut.push('\u{2026}');
    }
    format!("{cut:?}")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if !self.value.is_empty() {
            write!(f, " {}", self.value)?;
        }
        write!(f, ": {}", self.allowed)
    }
}

/// Where the values of a `Wire` were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flags,
    /// In a file: its path, and the line of each field that stands in it.
    File(PathBuf, BTreeMap<String, u64>),
}

impl Origin {
    /// The place of a field, as the user knows it: its flag, or its line in the file.
    pub fn place(&self, field: &str) -> String {
        let flag = flags::feeding(field).map(|flag| format!("--{}", flag.name));
        match self {
            Origin::Flags => flag.unwrap_or_else(|| field.to_owned()),
            Origin::File(path, lines) => match (lines.get(field), flag) {
                (Some(line), _) => format!("{}:{line}: {field}", path.display()),
                (None, Some(flag)) if flags::counts_beside_file(field) => flag,
                (None, _) => format!("{}: {field}", path.display()),
            },
        }
    }
}
