//! Conntrack entries with all that the simulator can take on
//! (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`). Tests: `netlab`.

use std::net::IpAddr;

use super::Survey;
use super::links::ip;
use crate::kernel::real::conntrack::{TUPLE_ORIGINAL, write_tuple};
use crate::kernel::real::socket::Netlink;
use crate::kernel::survey::ConnectionFact;
use crate::kernel::{Error, ErrorKind, FlowFact};
use crate::netlink::read::{Attributes, u16_be, u32_be};
use crate::netlink::write::{Head, Writer};
use crate::netlink::{ACK, DUMP, REQUEST, SUBSYS_CTNETLINK, nfproto};

const GET: u16 = 1;

pub(super) fn read(netfilter: &mut Netlink, found: &mut Survey) -> Result<(), Error> {
    let mut w = Writer::new();
    let open = w.open_message(Head {
        kind: SUBSYS_CTNETLINK | GET,
        flags: REQUEST | DUMP,
        sequence: netfilter.next_sequence(),
        family: 0,
        resource: 0,
    });
    w.close_message(open);
    let listed = netfilter.ask(("list conntrack entries", w.as_bytes()), |out, message| {
        out.extend(connection(&message.attributes()));
    })?;
    found.flows = listed;
    found.flows.sort();
    Ok(())
}

/// The entry that a packet belongs to, if there is one.
pub(super) fn read_one(
    netfilter: &mut Netlink,
    packet: &FlowFact,
) -> Result<Option<ConnectionFact>, Error> {
    let mut w = Writer::new();
    let open = w.open_message(Head {
        kind: SUBSYS_CTNETLINK | GET,
        flags: REQUEST | ACK,
        sequence: netfilter.next_sequence(),
        family: nfproto(packet.family),
        resource: 0,
    });
    // Of either direction: both are found in one table (`ctnetlink_get_conntrack`).
    w.nest(TUPLE_ORIGINAL, |w| write_tuple(w, packet));
    w.close_message(open);
    let found = netfilter.ask(("find a conntrack entry", w.as_bytes()), |out, message| {
        out.extend(connection(&message.attributes()));
    });
    match found {
        Ok(found) => Ok(found.into_iter().next()),
        Err(error) if error.kind == ErrorKind::Absent => Ok(None),
        Err(error) => Err(error),
    }
}

fn connection(attributes: &Attributes<'_>) -> Option<ConnectionFact> {
    let (protocol, original) = tuple(attributes.get(1)?)?;
    let (_, reply) = tuple(attributes.get(2)?)?;
    let number = |n| attributes.get(n).and_then(u32_be).unwrap_or(0);
    let tcp = attributes.get(4).and_then(|proto| Attributes::new(proto).get(1));
    let state = tcp.and_then(|tcp| Attributes::new(tcp).get(1)?.first().copied());
    Some(ConnectionFact {
        protocol,
        original,
        reply,
        status: number(3),
        mark: number(8),
        timeout: number(7),
        state: state.unwrap_or(0),
    })
}

fn tuple(bytes: &[u8]) -> Option<(u8, [(IpAddr, u16); 2])> {
    let tuple = Attributes::new(bytes);
    let addresses = Attributes::new(tuple.get(1)?);
    let proto = Attributes::new(tuple.get(2)?);
    let address = |v4, v6| addresses.get(v4).or_else(|| addresses.get(v6)).and_then(ip);
    let port = |n| proto.get(n).and_then(u16_be);
    Some((*proto.get(1)?.first()?, [(address(1, 3)?, port(2)?), (address(2, 4)?, port(3)?)]))
}
