//! Answers of the kernel, as values. They say what is there, never what should be.
//! Tests: with the hearts that make them.

use std::net::IpAddr;

use super::{
    Capability, DestinationFact, IpsetFact, IpvsTimeouts, LinkFact, RelayFact, Socket,
    VirtualServerFact,
};
use crate::model::{Family, Protocol};

/// The answer to a `Query`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Facts {
    /// The table, or that there is none.
    Table(Option<TableFact>),
    /// Elements of a set.
    Elements(Vec<ElementFact>),
    /// Conntrack entries.
    Flows(Vec<FlowFact>),
    /// The text of a sysctl, without its newline, or of tables.
    Text(String),
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// Virtual servers.
    VirtualServers(Vec<VirtualServerFact>),
    /// Destinations of a virtual server, in no particular order.
    Destinations(Vec<DestinationFact>),
    /// Timeouts of IPVS.
    IpvsTimeouts(IpvsTimeouts),
    /// Sets of ipset.
    Ipsets(Vec<IpsetFact>),
    /// Links.
    Links(Vec<LinkFact>),
    /// Ports of connections that this process carries.
    RelayPorts(Vec<RelayFact>),
    /// What is lacking, with what the kernel said.
    Lacks(Vec<(Capability, String)>),
    /// A number.
    Number(u64),
    /// Rules, in their order within a chain.
    Rules(Vec<RuleFact>),
}

/// A rule of an nf_tables chain.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RuleFact {
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number for it, its own within the table for as long as it is there.
    pub handle: u64,
    /// Its expressions, as the kernel lists them.
    pub expressions: Box<[u8]>,
}

/// A table as it is in the kernel; asked for its head, without chains and sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableFact {
    /// The table's comment, empty if none.
    pub comment: String,
    /// Its chains, by name.
    pub chains: Vec<ChainFact>,
    /// Its named sets and maps, by name; anonymous ones are left out.
    pub sets: Vec<SetFact>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChainFact {
    /// Its name.
    pub name: String,
    /// Hook number and priority, for base chains.
    pub hook: Option<(u32, i32)>,
}

/// A named set or map with its elements.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SetFact {
    /// Its name.
    pub name: String,
    /// `NFT_SET_*` flags.
    pub flags: u32,
    /// Length of a key in bytes.
    pub key_len: u32,
    /// Length of a value in bytes; 0 for sets and verdict maps.
    pub data_len: u32,
    /// The elements, in no particular order.
    pub elements: Vec<ElementFact>,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ElementFact {
    /// The key as the kernel keeps it: each field padded to 4 bytes.
    pub key: Vec<u8>,
    /// The last key of an interval.
    pub key_end: Option<Vec<u8>>,
    /// Value of a map element, or of a verdict its chain's name in bytes.
    pub data: Vec<u8>,
    /// The comment, empty if none.
    pub comment: String,
    /// In sets with timeouts, milliseconds after which it goes, and how many are left of them.
    pub expires: Option<(u64, u64)>,
}

/// A conntrack entry. One that was not destination-NATed has its destination as its endpoint.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct FlowFact {
    /// IP family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source of the original direction.
    pub source: Socket,
    /// Destination of the original direction: the address the client asked for.
    pub destination: Socket,
    /// Source of the reply direction: the endpoint that answers; the same as `destination` where
    /// no address was translated.
    pub endpoint: Socket,
}
