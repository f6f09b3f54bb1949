//! Linux's IPVS over generic netlink: many operations in one send, listings with destinations.
//! Knows no Service and keeps nothing but the socket and the family's number. Tests: the lab's guest.

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::socket::{Netlink, errno_error};
use crate::kernel::{
    DestinationFact, Error, IpvsOperation, IpvsTimeouts, Receipt, VirtualServer, VirtualServerFact,
};
use crate::model::Family;
use crate::netlink::ipvs as wire;

/// Operations of one send: some 200 bytes each, and what they are refused with fits the socket's
/// buffer even in a user namespace.
const AT_ONCE: usize = 400;

/// The generic netlink socket of IPVS.
#[derive(Debug)]
pub(super) struct Ipvs {
    socket: Netlink,
    family: u16,
}

impl Ipvs {
    /// Opens the socket in the calling thread's network namespace. Linux loads `ip_vs` when it is
    /// asked for the family, if it may.
    pub(super) fn open() -> Result<Ipvs, Error> {
        let mut socket = Netlink::open((SockProtocol::NetlinkGeneric, "generic"))?;
        let request = wire::ask_family(socket.next_sequence());
        let what = "ask for the generic netlink family IPVS";
        let numbers = socket.ask((what, &request), |out, message| {
            out.extend(wire::family_number(message));
        })?;
        let family = numbers.first().copied();
        family.map(|family| Ipvs { socket, family }).ok_or_else(|| errno_error(what, Errno::ENOENT))
    }

    /// Tries each operation.
    pub(super) fn apply(&mut self, operations: &[IpvsOperation]) -> Result<Receipt, Error> {
        let (mut first, mut refused) = (None, 0);
        for some in operations.chunks(AT_ONCE) {
            for (index, errno) in self.send(some)? {
                refused += 1;
                first.get_or_insert_with(|| {
                    let what = some.get(index).map(ToString::to_string).unwrap_or_default();
                    errno_error(&what, Errno::from_raw(errno))
                });
            }
        }
        crate::kernel::summary(operations.len(), (first, refused))
    }

    /// Sends some; what was refused comes back by its place.
    fn send(&mut self, some: &[IpvsOperation]) -> Result<Vec<(usize, i32)>, Error> {
        let mut bytes = Vec::with_capacity(some.len() * 200);
        let first = self.socket.next_sequence();
        for (index, operation) in some.iter().enumerate() {
            let sequence = if index == 0 { first } else { self.socket.next_sequence() };
            bytes.extend(wire::operation(operation, (self.family, 0, sequence)));
        }
        let mut refused = Vec::new();
        self.socket.each(("change IPVS", &bytes), |errno, message| {
            refused.push((message.sequence.wrapping_sub(first) as usize, errno));
        })?;
        Ok(refused)
    }

    /// The virtual servers of a family, each with its destinations.
    pub(super) fn servers(&mut self, family: Family) -> Result<Vec<VirtualServerFact>, Error> {
        let mut servers = self.servers_alone(family)?;
        for fact in &mut servers {
            fact.destinations = self.destinations(&fact.server)?;
        }
        Ok(servers)
    }

    /// The same without their destinations.
    pub(super) fn servers_alone(
        &mut self,
        family: Family,
    ) -> Result<Vec<VirtualServerFact>, Error> {
        let request = wire::list_servers((self.family, self.socket.next_sequence()));
        self.socket.ask(("list virtual servers", &request), |out, message| {
            out.extend(wire::server(message).filter(|fact| fact.server.family() == family));
        })
    }

    /// The destinations of a virtual server; none if it is not there.
    pub(super) fn destinations(
        &mut self,
        server: &VirtualServer,
    ) -> Result<Vec<DestinationFact>, Error> {
        let request = wire::list_destinations(server, (self.family, self.socket.next_sequence()));
        let what = format!("list the destinations of {server}");
        self.socket.ask((&what, &request), |out, message| {
            out.extend(wire::destination(message, server));
        })
    }

    /// The timeouts.
    pub(super) fn timeouts(&mut self) -> Result<IpvsTimeouts, Error> {
        const WHAT: &str = "ask for the timeouts of IPVS";
        let request = wire::ask_timeouts((self.family, self.socket.next_sequence()));
        let found = self.socket.ask((WHAT, &request), |out, message| {
            out.extend(wire::timeouts(message));
        })?;
        found.first().copied().ok_or_else(|| errno_error(WHAT, Errno::ENOMSG))
    }
}
