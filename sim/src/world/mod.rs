//! Several hosts, joined by links, with sockets that listen: a connection goes there and back across them.
//! `carry` takes a packet from host to host, `talk` holds a conversation.
//! It must never look into a host: what a host does is what `Host` says. Tests: tests/world.rs.

mod carry;
mod talk;

use crate::host::Host;
use crate::journey::Journey;
use crate::packet::{Packet, protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use talk::{Conversation, Ending, Flow, Served};

/// Names a host of a world: by default the first.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(usize);

/// A host that is asked of a world it is not of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    id: HostId,
    members: usize,
}

impl fmt::Display for Stranger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "host {} is not of this world, which has {}", self.id.0, self.members)
    }
}

impl std::error::Error for Stranger {}

/// A link of a host.
type Port = (HostId, u32);

/// A socket that waits for packets.
#[derive(Clone, Debug)]
struct Listener {
    protocol: u8,
    at: SocketAddr,
    name: Arc<str>,
}

struct Member {
    name: Arc<str>,
    host: Host,
    listeners: Vec<Listener>,
}

/// Where a packet went after a host was done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the host of this name.
    Host(Arc<str>),
    /// It was delivered to the socket of this name.
    Socket(Arc<str>),
    /// It was delivered, and no socket there waits for it.
    NoSocket,
    /// It was delivered to the end of a conversation that is open, or answered by the host itself.
    Known,
    /// Nobody on the link has the address it was sent to.
    NoNeighbour,
    /// It left by a link that leads nowhere.
    Away,
    /// Its time to live ended on a host that it had come through before: it went in circles.
    Looped,
    /// It ended on the host; the journey says how.
    Ended,
}

/// A packet's way through one host.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Name of the host.
    pub host: Arc<str>,
    /// What it went through there.
    pub journey: Journey,
    /// Where it went then.
    pub next: Next,
}

/// Hosts and what joins them.
#[derive(Default)]
pub struct World {
    members: Vec<Member>,
    segments: Vec<Vec<Port>>,
    last_port: u16,
}

impl World {
    /// Nothing yet.
    pub fn new() -> Self {
        World::default()
    }

    /// Takes a host in.
    pub fn add(&mut self, name: &str, host: Host) -> HostId {
        self.members.push(Member { name: name.into(), host, listeners: Vec::new() });
        HostId(self.members.len() - 1)
    }

    /// A host, to read.
    pub fn host(&self, id: HostId) -> Result<&Host, Stranger> {
        Ok(&self.member(id)?.host)
    }

    /// A host, to change.
    pub fn host_mut(&mut self, id: HostId) -> Result<&mut Host, Stranger> {
        Ok(&mut self.member_mut(id)?.host)
    }

    /// The name of a host.
    pub fn name(&self, id: HostId) -> Result<&Arc<str>, Stranger> {
        Ok(&self.member(id)?.name)
    }

    fn member(&self, id: HostId) -> Result<&Member, Stranger> {
        self.members.get(id.0).ok_or(Stranger { id, members: self.members.len() })
    }

    fn member_mut(&mut self, id: HostId) -> Result<&mut Member, Stranger> {
        let members = self.members.len();
        self.members.get_mut(id.0).ok_or(Stranger { id, members })
    }

    /// Joins links as a veth pair (two of them) or a bridge. A link that is not there, or is joined already, is refused.
    pub fn join(&mut self, ports: &[(HostId, u32)]) -> Result<(), String> {
        for (place, (id, link)) in ports.iter().enumerate() {
            let member = self.member(*id).map_err(|stranger| format!("join: {stranger}"))?;
            if !member.host.links().iter().any(|known| known.index == *link) {
                return Err(format!("join: host {} has no link {link}", member.name));
            }
            let joined = self.segments.iter().flatten().chain(&ports[..place]);
            if joined.into_iter().any(|port| port == &(*id, *link)) {
                return Err(format!("join: link {link} of host {} is joined already", member.name));
            }
        }
        self.segments.push(ports.to_vec());
        Ok(())
    }

    /// Opens a socket that waits: TCP, UDP or SCTP by IANA number, at an address and port; the unspecified address means every one,
    /// that of IPv6 those of IPv4 too.
    pub fn listen(&mut self, id: HostId, at: (u8, SocketAddr), name: &str) -> Result<(), Stranger> {
        let listener = Listener { protocol: at.0, at: at.1, name: name.into() };
        self.member_mut(id)?.listeners.push(listener);
        Ok(())
    }

    /// Closes every socket of a name on a host.
    pub fn close(&mut self, id: HostId, name: &str) -> Result<(), Stranger> {
        self.member_mut(id)?.listeners.retain(|listener| &*listener.name != name);
        Ok(())
    }

    /// Moves every host's clock on.
    pub fn advance(&mut self, by: Duration) {
        self.members.iter_mut().for_each(|member| member.host.advance(by));
    }

    /// The socket a delivered packet belongs to: one at its address rather than one at every address.
    fn listener(&self, at: HostId, packet: &Packet) -> Option<&Arc<str>> {
        let here = SocketAddr::new(packet.dst, packet.dport());
        let fits = |listener: &&Listener| {
            listener.protocol == packet.protocol() && listener.at.port() == here.port()
        };
        let listeners = &self.member(at).ok()?.listeners;
        let waiting = || listeners.iter().filter(fits);
        let exact = waiting().find(|listener| listener.at.ip() == here.ip());
        let any = |wanted: IpAddr| waiting().find(move |listener| listener.at.ip() == wanted);
        let own = || {
            any(match here.ip() {
                IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            })
        };
        let both = || any(std::net::Ipv6Addr::UNSPECIFIED.into());
        exact.or_else(own).or_else(both).map(|listener| &listener.name)
    }

    /// A port no conversation had before.
    fn fresh_port(&mut self) -> u16 {
        self.last_port = self.last_port.checked_add(1).unwrap_or(0).max(32_768);
        self.last_port
    }
}

/// Has the protocol ports that sockets wait at?
fn has_sockets(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}
