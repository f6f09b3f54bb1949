//! Links and their addresses, over rtnetlink (`include/uapi/linux/if_link.h`, `if_addr.h`).
//! Tests: `netlab`.

use std::net::IpAddr;

use super::Survey;
use crate::kernel::Error;
use crate::kernel::real::socket::Netlink;
use crate::kernel::survey::LinkFact;
use crate::netlink::read::{Attributes, Message, text, u32_ne};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// Length of `struct ifinfomsg` and of `struct ifaddrmsg`.
const LINK_HEAD: usize = 16;
const ADDRESS_HEAD: usize = 8;
/// `IFF_UP` and `IFF_PROMISC`.
const UP: u32 = 1;
const PROMISCUOUS: u32 = 0x100;
/// `IFA_F_SECONDARY`.
const SECONDARY: u8 = 0x01;
/// `IFA_F_DEPRECATED`.
const DEPRECATED: u8 = 0x20;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;

pub(super) fn read(route: &mut Netlink, found: &mut Survey) -> Result<(), Error> {
    let request = route.route_request(GET_LINK);
    let mut links = route.ask(("list links", &request), |out: &mut Vec<LinkFact>, message| {
        out.extend(link(message));
    })?;
    links.sort_by_key(|link| link.index);
    let request = route.route_request(GET_ADDRESS);
    let addresses = route.ask(("list addresses", &request), |out, message| {
        out.extend(address(message));
    })?;
    let (secondary, primary): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|(_, (flags, _), _)| flags & SECONDARY != 0);
    for (index, (flags, scope), address) in primary.into_iter().chain(secondary) {
        if let Some(link) = links.iter_mut().find(|link| link.index == index) {
            link.addresses.push(address);
            let hidden = flags & DEPRECATED != 0 || address.0.is_ipv4() && scope == SCOPE_HOST;
            link.hidden.extend(hidden.then_some(address.0));
        }
    }
    found.links = links;
    Ok(())
}

fn link(message: &Message<'_>) -> Option<LinkFact> {
    if message.kind != NEW_LINK {
        return None;
    }
    let attributes = Attributes::new(message.body.get(LINK_HEAD..)?);
    let kind = attributes.get(18).map(Attributes::new);
    let port = kind.as_ref().and_then(|kind| kind.get(5)).map(Attributes::new);
    let own_kind = kind.as_ref().and_then(|kind| kind.get(1)).map(text).unwrap_or_default();
    let of_bridge =
        kind.as_ref().and_then(|kind| kind.get(4)).map(text).as_deref() == Some("bridge");
    Some(LinkFact {
        index: u32_ne(message.body.get(4..)?)?,
        name: attributes.get(3).map(text)?,
        kind: own_kind,
        up: u32_ne(message.body.get(8..)?)? & UP != 0,
        promiscuous: u32_ne(message.body.get(8..)?)? & PROMISCUOUS != 0,
        bridge: attributes.get(10).and_then(u32_ne).filter(|_| of_bridge),
        hairpin: port
            .and_then(|port| port.get(4)?.first().copied())
            .filter(|_| of_bridge)
            .map(|mode| mode != 0),
        addresses: Vec::new(),
        hidden: Vec::new(),
    })
}

/// An address: its link, flags and scope, and itself.
type Listed = (u32, (u8, u8), (IpAddr, u8));

fn address(message: &Message<'_>) -> Option<Listed> {
    if message.kind != NEW_ADDRESS {
        return None;
    }
    let attributes = Attributes::new(message.body.get(ADDRESS_HEAD..)?);
    // Of a link with a peer the local address is ours (IFA_LOCAL), not IFA_ADDRESS.
    let bytes = attributes.get(2).or_else(|| attributes.get(1))?;
    let index = u32_ne(message.body.get(4..)?)?;
    let flags = (*message.body.get(2)?, *message.body.get(3)?);
    Some((index, flags, (ip(bytes)?, *message.body.get(1)?)))
}

/// An address by its length.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}
