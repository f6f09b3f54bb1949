//! What ipset says when it refuses: the kind a program tests for, the line, and the words of ipset 7.17.
//! It must never know sets. Tests: tests/ipset.rs, against tests/fixtures/ipset/answers.txt.

use std::fmt;

/// What was wrong, as far as a program acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpsetErrorKind {
    /// There is no set of the name.
    NoSet,
    /// A set or element is there already.
    Exists,
    /// The element is not in the set.
    Absent,
    /// A rule holds the set.
    InUse,
    /// The set holds as many elements as it may.
    Full,
    /// The kernel takes no such element or option.
    Invalid,
    /// The text is not what ipset reads.
    Syntax,
    /// ipset takes it, the simulator does not.
    NotModelled,
}

/// Why a line of the text was refused. The lines before it took effect, but for additions still gathered when a line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsetError {
    /// The line, from 1.
    pub line: usize,
    /// What was wrong.
    pub kind: IpsetErrorKind,
    /// The words of ipset.
    pub message: String,
    /// ipset names no line when it does not know a word of it.
    pub(super) placed: bool,
}

impl fmt::Display for IpsetError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.placed {
            write!(out, "Error in line {}: ", self.line)?;
        }
        out.write_str(&self.message)
    }
}

impl std::error::Error for IpsetError {}

/// A refusal before the line is known.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    kind: IpsetErrorKind,
    message: String,
    placed: bool,
}

use IpsetErrorKind::{Absent, Exists, Full, InUse, Invalid, NoSet, NotModelled, Syntax};

impl Refused {
    pub(super) fn at(self, line: usize) -> IpsetError {
        IpsetError { line, kind: self.kind, message: self.message, placed: self.placed }
    }

    pub(super) fn is(&self, kind: IpsetErrorKind) -> bool {
        self.kind == kind
    }

    fn new(kind: IpsetErrorKind, message: impl Into<String>) -> Self {
        Refused { kind, message: message.into(), placed: true }
    }

    /// A word or form that ipset does not read.
    pub(super) fn syntax(message: impl fmt::Display) -> Self {
        Self::new(Syntax, format!("Syntax error: {message}"))
    }

    /// A word that is not known at all: ipset says it without the line.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Refused {
            kind: Syntax,
            message: format!("{message}\nTry `ipset help' for more information."),
            placed: false,
        }
    }

    pub(super) fn not_modelled(what: impl fmt::Display) -> Self {
        Self::new(NotModelled, format!("not modelled: {what}"))
    }

    pub(super) fn no_set() -> Self {
        Self::new(NoSet, "The set with the given name does not exist")
    }

    pub(super) fn no_second_set() -> Self {
        Self::new(NoSet, "Sets cannot be swapped: the second set does not exist")
    }

    pub(super) fn set_exists() -> Self {
        Self::new(Exists, "Set cannot be created: set with the same name already exists")
    }

    pub(super) fn element_exists() -> Self {
        Self::new(Exists, "Element cannot be added to the set: it's already added")
    }

    pub(super) fn element_absent() -> Self {
        Self::new(Absent, "Element cannot be deleted from the set: it's not added")
    }

    pub(super) fn in_use() -> Self {
        Self::new(InUse, "Set cannot be destroyed: it is in use by a kernel component")
    }

    pub(super) fn rename_in_use() -> Self {
        Self::new(InUse, "Set cannot be renamed: it is in use by another system")
    }

    pub(super) fn rename_taken() -> Self {
        Self::new(Exists, "Set cannot be renamed: a set with the new name already exists")
    }

    pub(super) fn swap_mismatch() -> Self {
        Self::new(Invalid, "The sets cannot be swapped: their type does not match")
    }

    pub(super) fn full() -> Self {
        Self::new(Full, "Hash is full, cannot add more elements")
    }

    /// The kernel's refusals of an element.
    pub(super) fn element(message: &str) -> Self {
        Self::new(Invalid, message)
    }
}
