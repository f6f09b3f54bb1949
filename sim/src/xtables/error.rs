//! Why a text for iptables-restore was refused: line, column, and what was expected.
//! It must never know what rules mean. Tests: tests/xtables_texts.rs.

use std::fmt;

/// What sort of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum XtErrorKind {
    /// The text does not say anything the tool understands.
    Syntax,
    /// A chain, table, set or rule it names is not there.
    Absent,
    /// A chain is already there.
    Exists,
    /// A chain is jumped to, or holds rules.
    Busy,
    /// Chains that jump in circles or too deep.
    Loop,
    /// The tool or the kernel refuses this rule in this place.
    Invalid,
    /// Linux may well take it; the simulator has no model of it.
    NotModelled,
}

/// Why a text was refused. Tables committed before it stay changed; the table it is about does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtError {
    /// The sort of refusal.
    pub kind: XtErrorKind,
    /// Line of the text, from 1.
    pub line: usize,
    /// Column of the line in characters, from 1.
    pub column: usize,
    /// What was found there and what was expected.
    pub detail: String,
}

impl fmt::Display for XtError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}, column {}: {}", self.line, self.column, self.detail)
    }
}

impl std::error::Error for XtError {}

/// A refusal before its line is known.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) kind: XtErrorKind,
    pub(super) column: usize,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn new(kind: XtErrorKind, column: usize, detail: impl Into<String>) -> Self {
        Refusal { kind, column, detail: detail.into() }
    }

    pub(super) fn syntax(column: usize, detail: impl Into<String>) -> Self {
        Refusal::new(XtErrorKind::Syntax, column, detail)
    }

    pub(super) fn invalid(column: usize, detail: impl Into<String>) -> Self {
        Refusal::new(XtErrorKind::Invalid, column, detail)
    }

    /// Something the simulator has no model of, quoted.
    pub(super) fn unmodelled(column: usize, what: impl fmt::Display) -> Self {
        Refusal::new(XtErrorKind::NotModelled, column, format!("not modelled: {what}"))
    }

    pub(super) fn at(self, line: usize) -> XtError {
        XtError { kind: self.kind, line, column: self.column, detail: self.detail }
    }
}

/// What parsing gives.
pub(super) type Taken<T> = Result<T, Refusal>;
