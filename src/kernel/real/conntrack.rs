//! Lists and forgets conntrack entries over ctnetlink
//! (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
//! Knows tuples, not Services. Tests: `netlab`.

use std::net::IpAddr;

use super::socket::Netlink;
use crate::kernel::{Error, ErrorKind, FlowFact, FlowsTo, Receipt, Socket};
use crate::model::{Family, Protocol};
use crate::netlink::read::{Attributes, u16_be};
use crate::netlink::write::{Head, Writer};
use crate::netlink::{ACK, DUMP, REQUEST, SUBSYS_CTNETLINK, nfproto};

const GET: u16 = 1;
const DELETE: u16 = 2;
const GET_STATS: u16 = 5;
pub(super) const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// `CTA_FILTER`, and the bits of `CTA_FILTER_ORIG_FLAGS` (`net/netfilter/nf_conntrack_netlink.c`).
const FILTER: u16 = 25;
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

/// Whether conntrack answers at all: asks for its counters, which costs the same however many
/// entries there are.
pub(super) fn probe(netfilter: &mut Netlink) -> Result<(), Error> {
    let mut w = Writer::new();
    let open = w.open_message(head(netfilter, (GET_STATS, ACK), Family::V4));
    w.close_message(open);
    netfilter.ask::<()>(("ask conntrack for its counters", w.as_bytes()), |_, _| {}).map(|_| ())
}

/// The entries of a family and protocol. The kernel is asked for these only (`CTA_FILTER`, Linux
/// 5.8), so that the others cost a look each and no bytes; an older one gives all of them.
pub(super) fn flows(
    netfilter: &mut Netlink,
    (family, protocol): (Family, Protocol),
    to: FlowsTo,
) -> Result<Vec<FlowFact>, Error> {
    let head = head(netfilter, (GET, DUMP), family);
    let mut w = Writer::new();
    let open = w.open_message(head);
    write_filter(&mut w, (family, protocol), to);
    w.close_message(open);
    netfilter.ask(("list conntrack entries", w.as_bytes()), |out, message| {
        let flow = flow(family, &message.attributes());
        out.extend(flow.filter(|flow| flow.protocol == protocol && to.takes(&flow.destination)));
    })
}

/// What the original direction must be like, and which fields of it count.
fn write_filter(w: &mut Writer, (family, protocol): (Family, Protocol), to: FlowsTo) {
    let (address, port) = match to {
        FlowsTo::Any => (None, None),
        FlowsTo::Socket(socket) => (Some(socket.address), Some(socket.port)),
        FlowsTo::Port(port) => (None, Some(port)),
    };
    let (_, destination) = addresses_of(family);
    w.nest(TUPLE_ORIGINAL, |w| {
        if let Some(address) = address {
            w.nest(TUPLE_IP, |w| write_address(w, destination, address));
        }
        w.nest(TUPLE_PROTO, |w| {
            w.bytes(1, &[protocol.number()]);
            if let Some(port) = port {
                w.bytes(3, &port.to_be_bytes());
            }
        });
    });
    let counts = FILTER_PROTOCOL
        | if address.is_some() { FILTER_DESTINATION } else { 0 }
        | if port.is_some() { FILTER_DESTINATION_PORT } else { 0 };
    w.nest(FILTER, |w| w.bytes(1, &counts.to_ne_bytes()));
}

/// Forgets entries; one that is gone already counts as done.
pub(super) fn forget(netfilter: &mut Netlink, flows: &[FlowFact]) -> Result<Receipt, Error> {
    let mut failed = None;
    let mut operations = 0;
    for flow in flows {
        let mut w = Writer::new();
        let open = w.open_message(head(netfilter, (DELETE, ACK), flow.family));
        w.nest(TUPLE_ORIGINAL, |w| write_tuple(w, flow));
        w.close_message(open);
        let what =
            format!("forget the {} flow {} to {}", flow.protocol, flow.source, flow.destination);
        match netfilter.ask::<()>((&what, w.as_bytes()), |_, _| {}) {
            Ok(_) => operations += 1,
            Err(e) if e.kind == ErrorKind::Absent => {}
            Err(e) => failed = Some(e),
        }
    }
    failed.map_or(Ok(Receipt::of(operations)), Err)
}

fn head(netfilter: &mut Netlink, (number, flags): (u16, u16), family: Family) -> Head {
    Head {
        kind: SUBSYS_CTNETLINK | number,
        flags: REQUEST | flags,
        sequence: netfilter.next_sequence(),
        family: nfproto(family),
        resource: 0,
    }
}

fn flow(family: Family, attributes: &Attributes<'_>) -> Option<FlowFact> {
    let (protocol, source, destination) = tuple(family, attributes.get(TUPLE_ORIGINAL)?)?;
    let (_, endpoint, _) = tuple(family, attributes.get(TUPLE_REPLY)?)?;
    Some(FlowFact { family, protocol, source, destination, endpoint })
}

fn tuple(family: Family, bytes: &[u8]) -> Option<(Protocol, Socket, Socket)> {
    let tuple = Attributes::new(bytes);
    let ip = Attributes::new(tuple.get(TUPLE_IP)?);
    let proto = Attributes::new(tuple.get(TUPLE_PROTO)?);
    let protocol = Protocol::from_number(*proto.get(1)?.first()?)?;
    let (from, to) = addresses_of(family);
    let socket = |address, port| {
        Some(Socket { address: address_of(ip.get(address)?)?, port: u16_be(proto.get(port)?)? })
    };
    Some((protocol, socket(from, 2)?, socket(to, 3)?))
}

/// `CTA_IP_*` numbers of source and destination.
fn addresses_of(family: Family) -> (u16, u16) {
    match family {
        Family::V4 => (1, 2),
        Family::V6 => (3, 4),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn write_address(w: &mut Writer, attribute: u16, address: IpAddr) {
    match address {
        IpAddr::V4(a) => w.bytes(attribute, &a.octets()),
        IpAddr::V6(a) => w.bytes(attribute, &a.octets()),
    }
}

pub(super) fn write_tuple(w: &mut Writer, flow: &FlowFact) {
    let (from, to) = addresses_of(flow.family);
    w.nest(TUPLE_IP, |w| {
        for (attribute, address) in [(from, flow.source.address), (to, flow.destination.address)] {
            write_address(w, attribute, address);
        }
    });
    w.nest(TUPLE_PROTO, |w| {
        w.bytes(1, &[flow.protocol.number()]);
        w.bytes(2, &flow.source.port.to_be_bytes());
        w.bytes(3, &flow.destination.port.to_be_bytes());
    });
}
