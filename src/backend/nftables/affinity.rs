//! Which remembered clients have to be forgotten: those whose endpoint they can no longer have.
//!
//! The kernel writes these entries, so they are read when an endpoint of a Service with session
//! affinity goes, once more when house is kept after that, and when a table is replaced, at no
//! other time. Pure. Tests: `sync`, `netlab`.

use std::net::IpAddr;

use super::elements::{Element, Gives, Key, address_of};
use super::layout::{Set, TABLE};
use super::plan::Applied;
use crate::backend::program::{Frontend, Program, Role, Target};
use crate::kernel::{ElementFact, NftBatch, Socket};
use crate::model::{Family, Protocol};
use crate::netlink::nft::{Batch, ElementValue};

/// The remembered clients that their Service would not send to that endpoint any more.
pub fn stale(applied: &Applied, entries: &[ElementFact]) -> Vec<Key> {
    let is_stale = |entry: &&ElementFact| {
        read(applied.family, entry).is_some_and(|entry| is_stale(applied, &entry))
    };
    entries.iter().filter(is_stale).filter_map(|entry| Key::from_bytes(&entry.key)).collect()
}

/// The transaction that forgets these clients; all of them must still be there.
pub fn forget(family: Family, clients: &[Key]) -> NftBatch {
    let mut batch = Batch::new(family, TABLE);
    for client in clients {
        Element::new(Set::Affinity, *client, Gives::Nothing).delete(&mut batch);
    }
    batch.finish()
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
            expires: entry.expires.map(within_timeout),
        };
        batch.add_element(Set::Affinity.name(), &element);
    }
}

/// An entry keeps the timeout it was made with, but each update gives it as long as its Service
/// says now, so that it may have more time left than its timeout. To write that the kernel refuses
/// (ERANGE, `nft_add_set_elem`), and the whole transaction with it.
fn within_timeout((timeout, left): (u64, u64)) -> (u64, u64) {
    (timeout.max(left), left)
}

/// A remembered client.
struct Entry {
    client: IpAddr,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
    endpoint: Socket,
}

fn read(family: Family, entry: &ElementFact) -> Option<Entry> {
    let len = family.address_len();
    let (client, rest) = entry.key.split_at_checked(len)?;
    let (address, rest) = rest.split_at_checked(len)?;
    let (endpoint, endpoint_port) = entry.data.split_at_checked(len)?;
    Some(Entry {
        client: address_of(client)?,
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
    !program.is_some_and(|program| may_stay(applied, program, entry))
}

/// Whether the frontend's rules could send this client to that endpoint today. With policy Local
/// only pods and the node itself may go to another node's endpoint: who does so from outside gets
/// its answers from an address it did not ask. Where pods are not told by their addresses their
/// entries go too, which costs them the endpoint they had and nothing else.
fn may_stay(applied: &Applied, program: &Program, entry: &Entry) -> bool {
    let among =
        |targets: &[Target]| targets.binary_search_by_key(&entry.endpoint, |t| t.socket).is_ok();
    program.sticky.is_some()
        && match program.role {
            Role::Internal | Role::External => among(&program.targets),
            Role::Local => {
                among(&program.local) || (applied.is_pod(entry.client) && among(&program.targets))
            }
        }
}
