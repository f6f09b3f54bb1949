//! rtnetlink, as far as dummy devices and addresses need it
//! (`include/uapi/linux/rtnetlink.h`, `if_link.h`, `if_addr.h`).
//! It knows no socket; links are known by index here. Tests: below, and in the lab's guest.

use std::net::IpAddr;

use super::read::{Attributes, Message, text, u32_ne};
use super::write::Writer;
use super::{ACK, CREATE, DUMP, EXCL, REQUEST};
use crate::kernel::LinkFact;
use crate::model::Family;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
/// Length of `struct ifinfomsg`.
const LINK_HEAD: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEAD: usize = 8;
const NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
/// `IFA_F_NODAD`: the address is ours alone, nobody is to be asked.
const NO_DAD: u32 = 0x2;

/// `RT_SCOPE_HOST`: IPv4 does not choose it as a source for other hosts.
const SCOPE_HOST: u8 = 254;
/// `IFA_CACHEINFO`.
const CACHE_INFO: u16 = 6;

/// `struct ifa_cacheinfo` of an address that is preferred for no time and valid for ever: RFC 6724
/// chooses it as a source only where there is no other (rule 3).
fn deprecated() -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    out
}

/// Makes a dummy device.
pub fn add_dummy(name: &str, sequence: u32) -> Vec<u8> {
    message((NEW_LINK, ACK | CREATE | EXCL), sequence, |w| {
        w.raw(&[0; LINK_HEAD]);
        w.text(NAME, name);
        w.nest(LINK_INFO, |w| w.bytes(INFO_KIND, b"dummy"));
    })
}

/// Deletes a device.
pub fn delete(name: &str, sequence: u32) -> Vec<u8> {
    message((DELETE_LINK, ACK), sequence, |w| {
        w.raw(&[0; LINK_HEAD]);
        w.text(NAME, name);
    })
}

/// What becomes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is added.
    Add,
    /// It is added, and not chosen as a source.
    AddHidden,
    /// It is taken away.
    Delete,
}

/// Adds or takes away an address as /32 or /128 at the link of an index.
pub fn change_address(change: Change, (index, address): (u32, IpAddr), sequence: u32) -> Vec<u8> {
    let kind = match change {
        Change::Add | Change::AddHidden => (NEW_ADDRESS, ACK | CREATE | EXCL),
        Change::Delete => (DELETE_ADDRESS, ACK),
    };
    let family = Family::of(address);
    message(kind, sequence, |w| {
        let scope = if change == Change::AddHidden { SCOPE_HOST } else { 0 };
        w.raw(&[super::nfproto(family), family.address_bits(), 0, scope]);
        w.raw(&index.to_ne_bytes());
        match address {
            IpAddr::V4(a) => {
                w.bytes(LOCAL, &a.octets());
                w.bytes(ADDRESS, &a.octets());
            }
            IpAddr::V6(a) => {
                w.bytes(LOCAL, &a.octets());
                w.ne32(ADDRESS_FLAGS, NO_DAD);
                if change == Change::AddHidden {
                    w.bytes(CACHE_INFO, &deprecated());
                }
            }
        }
    })
}

/// What asks for the link of a name.
pub fn ask_link(name: &str, sequence: u32) -> Vec<u8> {
    message((GET_LINK, ACK), sequence, |w| {
        w.raw(&[0; LINK_HEAD]);
        w.text(NAME, name);
    })
}

/// What lists all links.
pub fn list_links(sequence: u32) -> Vec<u8> {
    message((GET_LINK, DUMP), sequence, |w| w.raw(&[0; LINK_HEAD]))
}

/// What lists all addresses.
pub fn list_addresses(sequence: u32) -> Vec<u8> {
    message((GET_ADDRESS, DUMP), sequence, |w| w.raw(&[0; ADDRESS_HEAD]))
}

fn message((kind, flags): (u16, u16), sequence: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    let open = w.open_plain((kind, REQUEST | flags, sequence));
    body(&mut w);
    w.close_message(open);
    w.into_bytes()
}

/// A link of a listing with its index, without addresses.
pub fn link(answer: &Message<'_>) -> Option<(u32, LinkFact)> {
    if answer.kind != NEW_LINK {
        return None;
    }
    let index = answer.body.get(4..).and_then(u32_ne)?;
    let attributes = Attributes::after(answer.body, LINK_HEAD);
    let kind = attributes.get(LINK_INFO).and_then(|b| Attributes::new(b).get(INFO_KIND));
    let name = text(attributes.get(NAME)?);
    Some((index, LinkFact { name, kind: kind.map(text).unwrap_or_default(), addresses: vec![] }))
}

/// An address of a listing with its link's index and its prefix length.
pub fn address(answer: &Message<'_>) -> Option<(u32, IpAddr, u8)> {
    if answer.kind != NEW_ADDRESS {
        return None;
    }
    let head = answer.body.get(..ADDRESS_HEAD)?;
    let attributes = Attributes::after(answer.body, ADDRESS_HEAD);
    let bytes = attributes.get(LOCAL).or_else(|| attributes.get(ADDRESS))?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some((u32_ne(&head[4..])?, address, head[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::read::Messages;

    #[test]
    fn an_address_is_read_back_as_it_was_written() {
        for wanted in ["10.96.0.1", "fd96::1"] {
            let wanted: IpAddr = wanted.parse().expect("a literal");
            let bytes = change_address(Change::Add, (7, wanted), 1);
            let message = Messages::new(&bytes).next().expect("one message");
            assert_eq!(address(&message), Some((7, wanted, Family::of(wanted).address_bits())));
            for end in 0..message.body.len() {
                let cut = address(&Message { body: &message.body[..end], ..message });
                assert!(cut.is_none_or(|(_, found, _)| found == wanted));
            }
        }
    }

    #[test]
    fn a_dummy_device_is_read_back_as_it_was_written() {
        let bytes = add_dummy("kube-ipvs0", 1);
        let message = Messages::new(&bytes).next().expect("one message");
        let (index, fact) = link(&message).expect("a link");
        assert_eq!((index, &*fact.name, &*fact.kind), (0, "kube-ipvs0", "dummy"));
    }
}
