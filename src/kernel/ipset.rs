//! The words of ipset at the seam: sets, entries, and what can be done to them. Values in the terms of
//! ipset(8); no byte of netlink. Only the types kube-proxy uses can be made; others are named.
//! Tests: `netlink::ipset`, the hearts.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Socket;
use crate::model::{Family, Protocol};

/// The longest name of a set (`IPSET_MAXNAMELEN` with its closing zero).
pub const LONGEST_IPSET_NAME: usize = 31;

/// The type of a set.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum IpsetType {
    /// `bitmap:port`, ports 0 to 65535, whatever the protocol.
    BitmapPort,
    /// `hash:ip`.
    HashIp,
    /// `hash:ip,port`.
    HashIpPort,
    /// `hash:ip,port,ip`.
    HashIpPortIp,
    /// `hash:ip,port,net`; the net's prefix is at least 1.
    HashIpPortNet,
    /// One we never make, by its name: somebody else's.
    Other(String),
}

impl IpsetType {
    /// The types that can be made.
    pub const MADE: [IpsetType; 5] = [
        IpsetType::BitmapPort,
        IpsetType::HashIp,
        IpsetType::HashIpPort,
        IpsetType::HashIpPortIp,
        IpsetType::HashIpPortNet,
    ];

    /// Its name in ipset(8).
    pub fn name(&self) -> &str {
        match self {
            IpsetType::BitmapPort => "bitmap:port",
            IpsetType::HashIp => "hash:ip",
            IpsetType::HashIpPort => "hash:ip,port",
            IpsetType::HashIpPortIp => "hash:ip,port,ip",
            IpsetType::HashIpPortNet => "hash:ip,port,net",
            IpsetType::Other(name) => name,
        }
    }

    /// The type of a name.
    pub fn named(name: &str) -> IpsetType {
        let other = || IpsetType::Other(name.to_owned());
        IpsetType::MADE.into_iter().find(|kind| kind.name() == name).unwrap_or_else(other)
    }
}

impl fmt::Display for IpsetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set without its entries.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct IpsetSpec {
    /// Its name, up to 31 bytes.
    pub name: String,
    /// Its type.
    pub kind: IpsetType,
    /// Its family. `bitmap:port` has none: `V4` is said of it.
    pub family: Family,
    /// The most entries it takes (`maxelem`); without meaning for `bitmap:port`.
    pub most: u32,
}

impl IpsetSpec {
    /// The line by which ipset(8) makes it.
    pub fn create_text(&self) -> String {
        let IpsetSpec { name, kind, family, most } = self;
        match (kind, family) {
            (IpsetType::BitmapPort, _) => format!("create {name} {kind} range 0-65535\n"),
            (_, Family::V4) => format!("create {name} {kind} family inet maxelem {most}\n"),
            (_, Family::V6) => format!("create {name} {kind} family inet6 maxelem {most}\n"),
        }
    }
}

/// An entry, of the type of its set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum IpsetEntry {
    /// Of `bitmap:port`.
    Port(u16),
    /// Of `hash:ip`.
    Ip(IpAddr),
    /// Of `hash:ip,port`.
    IpPort(Protocol, Socket),
    /// Of `hash:ip,port,ip`.
    IpPortIp(Protocol, Socket, IpAddr),
    /// Of `hash:ip,port,net`.
    IpPortNet(Protocol, Socket, IpNet),
}

impl fmt::Display for IpsetEntry {
    /// As ipset(8) writes it: `10.96.0.1,tcp:80,10.0.0.0/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |protocol: Protocol, at: Socket| {
            format!("{},{}:{}", at.address, protocol.lower(), at.port)
        };
        match self {
            IpsetEntry::Port(port) => write!(f, "{port}"),
            IpsetEntry::Ip(address) => write!(f, "{address}"),
            IpsetEntry::IpPort(protocol, at) => f.write_str(&pair(*protocol, *at)),
            IpsetEntry::IpPortIp(protocol, at, ip) => {
                write!(f, "{},{ip}", pair(*protocol, *at))
            }
            IpsetEntry::IpPortNet(protocol, at, net) => {
                write!(f, "{},{net}", pair(*protocol, *at))
            }
        }
    }
}

/// One change. They are carried out in order, up to the first that is refused; what came before it
/// stays. To replace a set's content at once: fill a set of another name, `Swap` the two, `Destroy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpsetOperation {
    /// A new set. One that is there with the same type and size counts as made and keeps its entries,
    /// even where its family is another (Linux does not look at that; read it first); one that
    /// differs is refused as `Exists`.
    Create(IpsetSpec),
    /// Deletes a set; `Busy` if a rule asks it. One that is not there is `Absent`.
    Destroy(String),
    /// Deletes all entries of a set.
    Flush(String),
    /// Exchanges the content of two sets of one type and family; rules go on asking by name.
    Swap(String, String),
    /// Adds entries; those that are there already count as added.
    Add(String, Vec<IpsetEntry>),
    /// Deletes entries; those that are not there count as deleted.
    Delete(String, Vec<IpsetEntry>),
}

impl fmt::Display for IpsetOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IpsetOperation::Create(set) => write!(f, "ipset create {} {}", set.name, set.kind),
            IpsetOperation::Destroy(set) => write!(f, "ipset destroy {set}"),
            IpsetOperation::Flush(set) => write!(f, "ipset flush {set}"),
            IpsetOperation::Swap(one, two) => write!(f, "ipset swap {one} {two}"),
            IpsetOperation::Add(set, _) => write!(f, "ipset add {set}"),
            IpsetOperation::Delete(set, _) => write!(f, "ipset del {set}"),
        }
    }
}

/// A set as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IpsetFact {
    /// What it was made as.
    pub spec: IpsetSpec,
    /// Its entries, in no particular order; empty for a type of others.
    pub entries: Vec<IpsetEntry>,
}

impl IpsetFact {
    /// The lines that `ipset save` prints of it.
    pub fn save_text(&self) -> String {
        let name = &self.spec.name;
        let entries = self.entries.iter().map(|entry| format!("add {name} {entry}\n"));
        std::iter::once(self.spec.create_text()).chain(entries).collect()
    }
}
