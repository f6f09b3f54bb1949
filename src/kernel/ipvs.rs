//! The words of IPVS at the seam: virtual servers, their destinations, how they choose, and what can
//! be done to them. Values in the terms of `include/uapi/linux/ip_vs.h`; no byte of netlink.
//! Forwarding is by masquerading only, as kube-proxy needs it. Tests: below, `netlink::ipvs`, the hearts.

use std::fmt;

use super::Socket;
use crate::model::{Family, Protocol};

/// The longest name of a scheduler (`IP_VS_SCHEDNAME_MAXLEN` with its closing zero).
const LONGEST_NAME: usize = 15;

/// What clients ask for: the identity of a virtual server. Its family is its address's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct VirtualServer {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub socket: Socket,
}

impl VirtualServer {
    /// The IP family of its address.
    pub fn family(&self) -> Family {
        Family::of(self.socket.address)
    }
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.socket)
    }
}

/// The name of a scheduler: `rr`, `mh`, … Any name a module can have, known to us or not.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Scheduler([u8; LONGEST_NAME]);

impl Scheduler {
    /// Round robin, the reference's default.
    pub const RR: Scheduler = Scheduler(*b"rr\0\0\0\0\0\0\0\0\0\0\0\0\0");
    /// The schedulers Linux has (`net/netfilter/ipvs`), by name.
    pub const KNOWN: [&str; 14] = [
        "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh",
        "twos",
    ];

    /// A scheduler by its name: 1 to 15 bytes of lower-case letters, digits, `_` and `-`.
    pub fn named(name: &str) -> Option<Scheduler> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let mut bytes = [0; LONGEST_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        (!name.is_empty() && name.bytes().all(fits)).then_some(Scheduler(bytes))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `IP_VS_SVC_F_ONEPACKET`: each UDP packet is scheduled on its own.
pub const ONE_PACKET: u32 = 0x4;
/// `IP_VS_SVC_F_SCHED1`: `sh-fallback`, `mh-fallback`: a destination of weight 0 is stepped over.
pub const SCHEDULER_FLAG_1: u32 = 0x8;
/// `IP_VS_SVC_F_SCHED2`: `sh-port`, `mh-port`: the client's port counts too.
pub const SCHEDULER_FLAG_2: u32 = 0x10;
/// `IP_VS_SVC_F_SCHED3`: free.
pub const SCHEDULER_FLAG_3: u32 = 0x20;

/// How a virtual server chooses a destination.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Scheduling {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// `ONE_PACKET` and `SCHEDULER_FLAG_*`, together. Persistence is said below.
    pub flags: u32,
    /// Whether a client stays with the destination it had.
    pub persistence: Option<Persistence>,
}

/// How a client stays with its destination.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Persistence {
    /// For how many seconds after its last connection.
    pub seconds: u32,
    /// How many leading bits of its address make a client: 32 or 128 for each on its own. Linux
    /// takes 1 to 32 for IPv4, 1 to 128 for IPv6.
    pub prefix: u8,
}

/// A destination of a virtual server; reached by masquerading.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Destination {
    /// Address and port.
    pub socket: Socket,
    /// Its share of new connections; 0: none, while those it has go on.
    pub weight: u32,
}

/// For how long connections are remembered, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IpvsTimeouts {
    /// Of established TCP; 0 in an operation: leave it.
    pub tcp: u32,
    /// Of TCP after a FIN; 0 in an operation: leave it.
    pub tcp_fin: u32,
    /// Of UDP; 0 in an operation: leave it.
    pub udp: u32,
}

/// One change. `Add…` of what is there fails as `Exists`; `Edit…`, `Delete…` of what is not, as `Absent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvsOperation {
    /// A new virtual server.
    AddServer(VirtualServer, Scheduling),
    /// Another scheduler, other flags, other persistence; destinations and connections stay.
    EditServer(VirtualServer, Scheduling),
    /// Deletes a virtual server with its destinations. Its connections stay in the table.
    DeleteServer(VirtualServer),
    /// A new destination.
    AddDestination(VirtualServer, Destination),
    /// Another weight.
    EditDestination(VirtualServer, Destination),
    /// Deletes a destination at once; packets of its connections are dropped.
    DeleteDestination(VirtualServer, Socket),
    /// Timeouts of this network namespace.
    SetTimeouts(IpvsTimeouts),
}

impl fmt::Display for IpvsOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use IpvsOperation::*;
        match self {
            AddServer(server, how) => {
                write!(f, "add virtual server {server}, scheduler {}", how.scheduler)
            }
            EditServer(server, how) => {
                write!(f, "edit virtual server {server}, scheduler {}", how.scheduler)
            }
            DeleteServer(server) => write!(f, "delete virtual server {server}"),
            AddDestination(server, to) => write!(f, "add destination {} of {server}", to.socket),
            EditDestination(server, to) => {
                write!(f, "edit destination {} of {server}", to.socket)
            }
            DeleteDestination(server, to) => write!(f, "delete destination {to} of {server}"),
            SetTimeouts(_) => f.write_str("set the timeouts of IPVS"),
        }
    }
}

/// A virtual server as it is in the kernel. Those known by a firewall mark are never listed: no
/// kube-proxy makes them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VirtualServerFact {
    /// What it is known by.
    pub server: VirtualServer,
    /// How it chooses.
    pub scheduling: Scheduling,
    /// What it has counted.
    pub stats: IpvsStats,
    /// Its destinations, in no particular order.
    pub destinations: Vec<DestinationFact>,
}

/// A destination as it is in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DestinationFact {
    /// What it is known by, and its weight.
    pub destination: Destination,
    /// Whether packets are masqueraded to it, as ours are.
    pub masquerades: bool,
    /// Connections that are established.
    pub active: u32,
    /// Connections in every other state, UDP included.
    pub inactive: u32,
    /// Clients that stay with it.
    pub persistent: u32,
    /// What it has counted.
    pub stats: IpvsStats,
}

/// Counters since the object was made. Linux sums them up every two seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IpvsStats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets of clients.
    pub in_packets: u64,
    /// Packets of destinations.
    pub out_packets: u64,
    /// Bytes of clients.
    pub in_bytes: u64,
    /// Bytes of destinations.
    pub out_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_schedulers_fit_or_are_none() {
        for name in Scheduler::KNOWN {
            assert_eq!(Scheduler::named(name).map(|s| s.name().to_owned()), Some(name.to_owned()));
        }
        assert_eq!(Scheduler::named("rr"), Some(Scheduler::RR));
        assert_eq!(Scheduler::named("fifteen_letters").map(|s| s.name().len()), Some(15));
        for bad in ["", "sixteen__letters", "rr ", "RR", "../../x", "rr\0"] {
            assert_eq!(Scheduler::named(bad), None, "{bad:?}");
        }
    }
}
