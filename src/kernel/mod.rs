//! The seam: everything this program asks of Linux goes through one trait of three verbs.
//!
//! Two hearts: `real` (netlink sockets) and `simulated` (the `sim` crate). Decorators: `record`,
//! `fault`. Callers see values only; no file descriptor, no errno, no clock leaves this room.
//! Tests: `simulated` here and in `proptests`, `real` in `netlab`.

mod capability;
mod error;
mod facts;
pub mod fault;
pub mod real;
pub mod record;
pub mod simulated;
pub mod survey;

pub use capability::{Capabilities, Capability};
pub use error::{Error, ErrorKind};
pub use facts::{ChainFact, ElementFact, Facts, FlowFact, SetFact, TableFact};

use std::net::IpAddr;

use crate::model::{Family, Protocol};

/// Everything this program asks of Linux.
pub trait Kernel {
    /// Makes a change: all of it or nothing, where the facility is atomic; else the error says how
    /// far it came.
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error>;

    /// Reads what is there.
    fn read(&mut self, query: &Query) -> Result<Facts, Error>;

    /// What this kernel can do, probed once at start.
    fn capabilities(&self) -> &Capabilities;
}

impl<K: Kernel + ?Sized> Kernel for Box<K> {
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error> {
        (**self).apply(transaction)
    }
    fn read(&mut self, query: &Query) -> Result<Facts, Error> {
        (**self).read(query)
    }
    fn capabilities(&self) -> &Capabilities {
        (**self).capabilities()
    }
}

/// A change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// One atomic nf_tables batch.
    Nft(NftBatch),
    /// Forget these conntrack entries. One that is gone already counts as done.
    ForgetFlows(Vec<FlowFact>),
    /// Write a sysctl: path below `/proc/sys` with slashes, and its value.
    Sysctl(String, String),
}

/// The bytes of one nf_tables batch: `NFNL_MSG_BATCH_BEGIN`, messages, `NFNL_MSG_BATCH_END`.
#[derive(Clone, PartialEq, Eq)]
pub struct NftBatch {
    /// Netlink messages, exactly as the kernel takes them.
    pub bytes: Vec<u8>,
    /// How many objects it adds, changes or removes (a set element counts as one).
    pub operations: usize,
}

impl std::fmt::Debug for NftBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NftBatch({} operations, {} bytes)", self.operations, self.bytes.len())
    }
}

/// What became of a transaction that was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Objects changed.
    pub operations: usize,
}

/// How much of a table is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether it is there, and its comment.
    Head,
    /// All of it. The time grows with the square of a set's size.
    Whole,
}

/// A question to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// A table of nf_tables; answered by `Facts::Table`.
    Table(Family, String, Depth),
    /// The elements of one set; answered by `Facts::Elements`.
    Elements(Family, String, String),
    /// Conntrack entries of one family and protocol, destination-NATed or not;
    /// answered by `Facts::Flows`.
    Flows(Family, Protocol),
    /// A sysctl: path below `/proc/sys` with slashes; answered by `Facts::Text`.
    Sysctl(String),
    /// Addresses of this host's links; answered by `Facts::Addresses`.
    Addresses,
}

/// An address and a port, as conntrack and nftables pair them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Socket {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            IpAddr::V4(a) => write!(f, "{a}:{}", self.port),
            IpAddr::V6(a) => write!(f, "[{a}]:{}", self.port),
        }
    }
}
