//! Which remembered clients have to be forgotten: those whose endpoint they can no longer have.
//!
//! The kernel writes these entries, so they are read when an endpoint of a Service with session
//! affinity goes and when a table is replaced, at no other time. Pure. Tests: below, `proptests`, `netlab`.

use std::net::IpAddr;

use super::elements::{Element, Gives, Key, address_of};
use super::layout::{Set, TABLE};
use super::plan::Applied;
use super::program::{Frontend, Program};
use crate::kernel::{ElementFact, NftBatch, Socket};
use crate::model::{Family, Protocol};
use crate::netlink::nft::{Batch, ElementValue};

/// The transaction that forgets clients remembered with an endpoint their Service no longer has
/// for them; `None` if there is none.
pub fn forget(applied: &Applied, entries: &[ElementFact]) -> Option<NftBatch> {
    let family = applied.family;
    let mut batch = Batch::new(family, TABLE);
    for entry in entries {
        let Some(key) = Key::from_bytes(&entry.key) else { continue };
        if read(family, entry).is_some_and(|entry| is_stale(applied, &entry)) {
            Element::new(Set::Affinity, key, Gives::Nothing).delete(&mut batch);
        }
    }
    (!batch.is_empty()).then(|| batch.finish())
}

/// Writes remembered clients that may stay into a table that takes the place of another.
pub(super) fn carry_over(applied: &Applied, entries: &[ElementFact], batch: &mut Batch<'_>) {
    let stays = |entry: &&ElementFact| {
        read(applied.family, entry).is_some_and(|entry| !is_stale(applied, &entry))
    };
    for entry in entries.iter().filter(stays) {
        let element = crate::netlink::nft::Element {
            key: &entry.key,
            key_end: None,
            value: ElementValue::Bytes(&entry.data),
            comment: "",
            expires: entry.expires,
        };
        batch.add_element(Set::Affinity.name(), &element);
    }
}

/// A remembered client.
struct Entry {
    address: IpAddr,
    protocol: Protocol,
    port: u16,
    endpoint: Socket,
}

fn read(family: Family, entry: &ElementFact) -> Option<Entry> {
    let len = family.address_len();
    let (_client, rest) = entry.key.split_at_checked(len)?;
    let (address, rest) = rest.split_at_checked(len)?;
    let (endpoint, endpoint_port) = entry.data.split_at_checked(len)?;
    Some(Entry {
        address: address_of(address)?,
        protocol: Protocol::from_number(*rest.first()?)?,
        port: port_of(rest.get(4..6)?),
        endpoint: Socket { address: address_of(endpoint)?, port: port_of(endpoint_port.get(..2)?) },
    })
}

fn port_of(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |port, byte| port << 8 | u16::from(*byte))
}

fn is_stale(applied: &Applied, entry: &Entry) -> bool {
    let (protocol, port) = (entry.protocol, entry.port);
    let program = [Some(entry.address), None]
        .into_iter()
        .find_map(|address| applied.program(&Frontend { address, protocol, port }));
    let still_there = |program: &Program| {
        program.sticky.is_some() && program.all_targets().any(|t| t.socket == entry.endpoint)
    };
    !program.is_some_and(|program| still_there(program))
}
