//! The words of links and addresses at the seam: dummy devices and what stands on them.
//! Values only. Tests: `netlink::link`, the hearts.

use std::fmt;
use std::net::IpAddr;

/// One change. They are tried in order, each whatever became of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkOperation {
    /// A new dummy device, down, as kube-proxy leaves `kube-ipvs0`: local addresses need no more.
    /// One that is there is `Exists`.
    AddDummy(String),
    /// Deletes a device with its addresses.
    Delete(String),
    /// Adds an address as /32 or /128 to a device, without duplicate address detection. One of IPv6
    /// is local only some milliseconds later, when a worker of the kernel's has been at it.
    AddAddress(String, IpAddr),
    /// The same, as an address that nothing is sent from unless it is asked for by name: of scope
    /// host for IPv4, deprecated for IPv6.
    AddHiddenAddress(String, IpAddr),
    /// Takes an address from a device.
    DeleteAddress(String, IpAddr),
}

impl fmt::Display for LinkOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkOperation::AddDummy(link) => write!(f, "add dummy device {link}"),
            LinkOperation::Delete(link) => write!(f, "delete device {link}"),
            LinkOperation::AddAddress(link, address)
            | LinkOperation::AddHiddenAddress(link, address) => {
                write!(f, "add address {address} to {link}")
            }
            LinkOperation::DeleteAddress(link, address) => {
                write!(f, "delete address {address} of {link}")
            }
        }
    }
}

/// A device as it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkFact {
    /// Its name.
    pub name: String,
    /// Its kind as `ip link` says it: `dummy`, `veth`; empty for hardware and loopback.
    pub kind: String,
    /// Its addresses with their prefix lengths, in the kernel's order.
    pub addresses: Vec<(IpAddr, u8)>,
}
