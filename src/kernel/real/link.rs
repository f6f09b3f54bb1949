//! Linux's links and addresses over rtnetlink: many changes in one send, listings.
//! Knows no Service and keeps nothing but the socket. Tests: the lab's guest.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::socket::{Netlink, errno_error};
use crate::kernel::{Error, ErrorKind, LinkFact, LinkOperation, Receipt};
use crate::netlink::link::{self as wire, Change};

/// Changes of one send: some 50 bytes each, and what they are refused with fits the socket's buffer.
const AT_ONCE: usize = 400;

/// Tries each operation.
pub(super) fn apply(route: &mut Netlink, operations: &[LinkOperation]) -> Result<Receipt, Error> {
    let (mut first, mut refused) = (None, 0);
    let mut note = |operation: &LinkOperation, errno| {
        refused += 1;
        first.get_or_insert_with(|| errno_error(&operation.to_string(), errno));
    };
    let mut rest = operations;
    while !rest.is_empty() {
        // Indices are looked up once a send: after a device was made or deleted they are others.
        let about_links = rest.iter().take_while(|o| !is_about_address(o)).count();
        let about_addresses = rest.iter().take_while(|o| is_about_address(o)).count();
        let (some, later) = rest.split_at(about_links.max(about_addresses).min(AT_ONCE));
        for (index, errno) in send(route, some)? {
            some.get(index).into_iter().for_each(|operation| note(operation, errno));
        }
        rest = later;
    }
    crate::kernel::summary(operations.len(), (first, refused))
}

fn is_about_address(operation: &LinkOperation) -> bool {
    matches!(
        operation,
        LinkOperation::AddAddress(..)
            | LinkOperation::AddHiddenAddress(..)
            | LinkOperation::DeleteAddress(..)
    )
}

/// Sends some; what was refused comes back by its place.
fn send(route: &mut Netlink, some: &[LinkOperation]) -> Result<Vec<(usize, Errno)>, Error> {
    let mut indices = BTreeMap::new();
    let (mut bytes, mut refused, mut places) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (place, operation) in some.iter().enumerate() {
        let about = match operation {
            LinkOperation::AddDummy(_) | LinkOperation::Delete(_) => 0,
            LinkOperation::AddAddress(link, _)
            | LinkOperation::AddHiddenAddress(link, _)
            | LinkOperation::DeleteAddress(link, _) => index(route, &mut indices, link)?,
        };
        let sequence = route.next_sequence();
        places.insert(sequence, place);
        match message(operation, about, sequence) {
            Some(message) => bytes.extend(message),
            None => refused.push((place, Errno::ENODEV)),
        }
    }
    route.each(("change links", &bytes), |errno, message| {
        let place = places.get(&message.sequence).copied().unwrap_or(some.len());
        refused.push((place, Errno::from_raw(errno)));
    })?;
    Ok(refused)
}

/// The message of an operation about the link of this index; `None` where there is no such link.
fn message(operation: &LinkOperation, index: u32, sequence: u32) -> Option<Vec<u8>> {
    let change = |change, address: &std::net::IpAddr| {
        (index != 0).then(|| wire::change_address(change, (index, *address), sequence))
    };
    match operation {
        LinkOperation::AddDummy(link) => Some(wire::add_dummy(link, sequence)),
        LinkOperation::Delete(link) => Some(wire::delete(link, sequence)),
        LinkOperation::AddAddress(_, address) => change(Change::Add, address),
        LinkOperation::AddHiddenAddress(_, address) => change(Change::AddHidden, address),
        LinkOperation::DeleteAddress(_, address) => change(Change::Delete, address),
    }
}

/// The index of a link, 0 where there is none. Asked over the same socket: the thread that calls may
/// have another network namespace by now.
fn index(route: &mut Netlink, known: &mut BTreeMap<String, u32>, link: &str) -> Result<u32, Error> {
    if let Some(index) = known.get(link) {
        return Ok(*index);
    }
    let request = wire::ask_link(link, route.next_sequence());
    let found = route.ask(("ask for a link", &request), |out, message| {
        out.extend(wire::link(message).map(|(index, _)| index));
    });
    let index = match found {
        Ok(found) => found.first().copied().unwrap_or(0),
        Err(e) if e.kind == ErrorKind::Absent => 0,
        Err(e) => return Err(e),
    };
    known.insert(link.to_owned(), index);
    Ok(index)
}

/// All links with their addresses.
pub(super) fn links(route: &mut Netlink) -> Result<Vec<LinkFact>, Error> {
    let request = wire::list_links(route.next_sequence());
    let links = route.ask(("list links", &request), |out, message| {
        out.extend(wire::link(message));
    })?;
    let request = wire::list_addresses(route.next_sequence());
    let addresses = route.ask(("list addresses", &request), |out, message| {
        out.extend(wire::address(message));
    })?;
    let mut by_index: BTreeMap<u32, LinkFact> = links.into_iter().collect();
    for (index, address, prefix) in addresses {
        if let Some(link) = by_index.get_mut(&index) {
            link.addresses.push((address, prefix));
        }
    }
    Ok(by_index.into_values().collect())
}
