//! Changes that others made in the kernel, as far as it tells of them: which table, which chains,
//! and whose process it was. Values only; who minds them is for the modes to say.
//! Tests: with `real` (in the lab) and in `sync`.

use std::collections::BTreeSet;
use std::fmt;

use super::Error;
use crate::model::Family;

/// A process that changed something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its number, as the kernel's first process namespace counts.
    pub id: u32,
    /// Its name, at most 15 bytes of it.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.id)
    }
}

/// A table that somebody else changed, and which of its chains and sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Touched {
    /// The table's family.
    pub family: Family,
    /// Its name; that of iptables' nf_tables flavour is the iptables table's.
    pub table: String,
    /// The chain or set; empty for the table itself.
    pub object: String,
}

/// One transaction of somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// What it touched.
    pub touched: BTreeSet<Touched>,
    /// Whose it was, if the kernel says.
    pub process: Option<Process>,
    /// Whether more may have been touched than is known: the kernel told faster than was heard.
    pub more: bool,
}

/// Who waits for changes by others.
pub trait Lookout: Send {
    /// Waits for the next transaction of somebody else.
    fn next(&mut self) -> Result<Foreign, Error>;
}
