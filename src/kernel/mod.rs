//! The seam: everything this program asks of Linux goes through one trait: apply, read, and hear
//! what others do.
//!
//! Two hearts: `real` (netlink sockets) and `simulated` (the `sim` crate). Decorators: `record`,
//! `fault`, `meter`. Callers see values only; no file descriptor, no errno, no clock leaves this room.
//! Tests: `simulated` here and in `proptests`, `real` in `netlab`.

mod capability;
pub mod drift;
mod error;
mod facts;
pub mod fault;
mod ipset;
pub mod ipvs;
mod link;
pub mod meter;
pub mod real;
pub mod record;
mod relay;
pub mod simulated;
pub mod survey;

pub use capability::{Capabilities, Capability, XtablesFlavour, XtablesWriter};
pub use error::{Error, ErrorKind};
pub use facts::{ChainFact, ElementFact, Facts, FlowFact, RuleFact, SetFact, TableFact};
pub use ipset::{IpsetEntry, IpsetFact, IpsetOperation, IpsetSpec, IpsetType, LONGEST_IPSET_NAME};
pub use ipvs::{
    Destination, DestinationFact, IpvsOperation, IpvsTimeouts, Persistence, Scheduler, Scheduling,
    VirtualServer, VirtualServerFact,
};
pub use link::{LinkFact, LinkOperation};
pub use relay::{RELAY_CHAIN, is_relay_address, relay_address};
pub use relay::{RelayAnnounce, RelayFact, RelayKey, RelayOperation, RelayServing, RelaySettings};

use std::net::IpAddr;

use crate::model::{Family, Protocol};
use drift::Lookout;

/// The dummy device that holds Services' addresses in ipvs mode.
pub const IPVS_DEVICE: &str = "kube-ipvs0";

/// Everything this program asks of Linux.
pub trait Kernel {
    /// Makes a change: all of it or nothing, where the facility is atomic; else the error says how
    /// far it came.
    fn apply(&mut self, transaction: &Transaction) -> Result<Receipt, Error>;

    /// Reads what is there.
    fn read(&mut self, query: &Query) -> Result<Facts, Error>;

    /// What this kernel can do, probed once at start.
    fn capabilities(&self) -> &Capabilities;

    /// Somebody who hears of changes that others make from now on; `None` where nobody can.
    fn lookout(&mut self) -> Result<Option<Box<dyn Lookout>>, Error> {
        Ok(None)
    }

    /// A way of its own to the same kernel, for what takes long and is done on another thread;
    /// `None` where there is none.
    fn aside(&mut self) -> Result<Option<Box<dyn Kernel + Send>>, Error> {
        Ok(None)
    }
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
    fn lookout(&mut self) -> Result<Option<Box<dyn Lookout>>, Error> {
        (**self).lookout()
    }
    fn aside(&mut self) -> Result<Option<Box<dyn Kernel + Send>>, Error> {
        (**self).aside()
    }
}

/// A change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// One atomic nf_tables batch.
    Nft(NftBatch),
    /// Forget these conntrack entries. One that is gone already counts as done.
    ForgetFlows(Vec<FlowFact>),
    /// Text for iptables-restore, which changes what it names and nothing else (`--noflush`); each
    /// table as a whole.
    Xtables(XtablesText),
    /// Make a counter of this name that rules can refer to (nfacct); one that is there stays.
    Account(&'static str),
    /// Write a sysctl: path below `/proc/sys` with slashes, and its value.
    Sysctl(String, String),
    /// Changes to IPVS, each tried in order whatever became of the one before. The error is that of
    /// the first that was refused, and says how many were.
    Ipvs(Vec<IpvsOperation>),
    /// Changes to ipsets, in order, up to the first that is refused.
    Ipset(Vec<IpsetOperation>),
    /// Changes to links and addresses, each tried in order whatever became of the one before. The
    /// error is that of the first that was refused, and says how many were.
    Links(Vec<LinkOperation>),
    /// Changes to the connections that this process carries itself, each tried in order whatever
    /// became of the one before.
    Relay(Vec<RelayOperation>),
    /// Give conntrack's hash table so many buckets: a module parameter, and no sysctl.
    ConntrackBuckets(u32),
}

impl Transaction {
    /// What it asks for, in one lower-case word, as metrics have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Transaction::Nft(_) => "nft",
            Transaction::ForgetFlows(_) => "forget-flows",
            Transaction::Xtables(_) => "iptables-restore",
            Transaction::Account(_) => "nfacct",
            Transaction::Sysctl(..) => "sysctl",
            Transaction::Ipvs(_) => "ipvs",
            Transaction::Ipset(_) => "ipset",
            Transaction::Links(_) => "links",
            Transaction::Relay(_) => "relay",
            Transaction::ConntrackBuckets(_) => "conntrack-buckets",
        }
    }
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

/// Text for iptables-restore or ip6tables-restore.
#[derive(Clone, PartialEq, Eq)]
pub struct XtablesText {
    /// Which of the two.
    pub family: Family,
    /// Tables, each from `*name` to `COMMIT`.
    pub text: String,
    /// How many chains and rules it makes or takes away.
    pub operations: usize,
}

impl std::fmt::Debug for XtablesText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let XtablesText { family, text, operations } = self;
        write!(f, "XtablesText({family}, {operations} operations, {} bytes)", text.len())
    }
}

/// What became of a transaction that was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// Objects changed.
    pub operations: usize,
    /// How long it waited until another program was done (the xtables lock).
    pub waited: std::time::Duration,
}

impl Receipt {
    /// So many objects were changed, at once.
    pub fn of(operations: usize) -> Receipt {
        Receipt { operations, ..Receipt::default() }
    }
}

/// How much of a table is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Depth {
    /// Whether it is there, and its comment.
    Head,
    /// The same and its chains.
    Chains,
    /// All of it. The time grows with the square of a set's size.
    Whole,
}

/// A question to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Query {
    /// A table of nf_tables; answered by `Facts::Table`.
    Table(Family, String, Depth),
    /// The elements of one set; answered by `Facts::Elements`.
    Elements(Family, String, String),
    /// The tables filter, nat and mangle of one family, as iptables-save prints them, without
    /// counters; answered by `Facts::Text`.
    Xtables(Family),
    /// The rules of a table, of one chain if it is named; answered by `Facts::Rules`.
    Rules(Family, String, Option<String>),
    /// Conntrack entries of one family and protocol, destination-NATed or not;
    /// answered by `Facts::Flows`.
    Flows(Family, Protocol, FlowsTo),
    /// A sysctl: path below `/proc/sys` with slashes; answered by `Facts::Text`.
    Sysctl(String),
    /// Addresses of this host's links; answered by `Facts::Addresses`.
    Addresses,
    /// Virtual servers of a family with their destinations; answered by `Facts::VirtualServers`.
    VirtualServers(Family),
    /// The same without their destinations, each of which costs a question of its own.
    VirtualServersAlone(Family),
    /// Destinations of one virtual server, none if there is no such server; answered by
    /// `Facts::Destinations`.
    Destinations(VirtualServer),
    /// Timeouts of IPVS; answered by `Facts::IpvsTimeouts`.
    IpvsTimeouts,
    /// Sets whose names begin so, with their entries; answered by `Facts::Ipsets`, by name.
    Ipsets(String),
    /// All links with their addresses; answered by `Facts::Links`.
    Links,
    /// These ports of connections that this process carries; answered by `Facts::RelayPorts`, with
    /// those that were asked for, whether or not they could be had.
    RelayPorts(Vec<RelayKey>),
    /// Which of these features are lacking, found out by doing it, out of everybody's sight;
    /// answered by `Facts::Lacks`. May load kernel modules. For what only some modes need: what
    /// all need stands in `capabilities`.
    Lacks(Vec<Capability>),
    /// How many CPUs the machine has, whatever this process may use of them; answered by
    /// `Facts::Number`.
    Cpus,
    /// The number of nf_tables' generation, which every transaction of anybody raises by one;
    /// answered by `Facts::Number`.
    Generation,
    /// The buckets of conntrack's hash table; answered by `Facts::Number`.
    ConntrackBuckets,
    /// How many packets the counter of this name has counted (nfacct); answered by
    /// `Facts::Number`, with the error `Absent` where there is none.
    Account(String),
}

/// Which conntrack entries are asked for, by what the client asked for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum FlowsTo {
    /// All.
    Any,
    /// Those to an address and port.
    Socket(Socket),
    /// Those to a port of any address.
    Port(u16),
}

impl FlowsTo {
    /// Whether a flow to this destination is asked for.
    pub fn takes(self, destination: &Socket) -> bool {
        match self {
            FlowsTo::Any => true,
            FlowsTo::Socket(socket) => socket == *destination,
            FlowsTo::Port(port) => port == destination.port,
        }
    }
}

/// An address and a port, as conntrack and nftables pair them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
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

/// What became of operations that were each tried: the first refusal, and how many there were.
fn summary(tried: usize, (first, refused): (Option<Error>, usize)) -> Result<Receipt, Error> {
    match first {
        None => Ok(Receipt::of(tried)),
        Some(error) if refused == 1 => Err(error),
        Some(error) => {
            let source = format!("{}; {refused} of {tried} changes were refused", error.source);
            Err(Error { source, ..error })
        }
    }
}
