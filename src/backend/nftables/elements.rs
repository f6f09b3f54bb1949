//! A frontend's program as elements of the table's sets, and sets that are written as a whole.
//!
//! The same function gives the elements to add and those to remove, so that what was applied need
//! not be kept element by element. Tests: below, `proptests`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::layout::{Kind, Set, Treatment, timeout_chain};
use crate::backend::program::{Frontend, Program, Role, Target, Unserved};
use crate::kernel::Socket;
use crate::model::{Family, Protocol};
use crate::netlink::expr::Verdict;
use crate::netlink::nft::{Batch, ElementValue};

/// The longest key: a frontend and a client, both IPv6.
const LONGEST_KEY: usize = 40;

/// A key: fields one behind the other, each padded to 4 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    bytes: [u8; LONGEST_KEY],
    len: u8,
}

impl Key {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// From bytes the kernel gave; `None` if they are longer than any key of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        if bytes.len() > LONGEST_KEY {
            return None;
        }
        let padded = Key::empty().raw(bytes);
        Some(Key { len: bytes.len() as u8, ..padded })
    }

    /// No field yet.
    pub fn empty() -> Key {
        Key { bytes: [0; LONGEST_KEY], len: 0 }
    }

    fn raw(mut self, bytes: &[u8]) -> Key {
        let at = usize::from(self.len);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len().next_multiple_of(4) as u8;
        self
    }

    /// With an address behind.
    pub fn address(self, address: IpAddr) -> Key {
        match address {
            IpAddr::V4(a) => self.raw(&a.octets()),
            IpAddr::V6(a) => self.raw(&a.octets()),
        }
    }

    /// With a protocol behind.
    pub fn protocol(self, protocol: Protocol) -> Key {
        self.raw(&[protocol.number()])
    }

    /// With a port behind.
    pub fn port(self, port: u16) -> Key {
        self.raw(&port.to_be_bytes())
    }

    /// A port alone, which is not padded.
    pub fn lone_port(port: u16) -> Key {
        Key { len: 2, ..Key::empty().port(port) }
    }

    /// With a number in the order of the host behind.
    pub fn number(self, number: u32) -> Key {
        self.raw(&number.to_ne_bytes())
    }

    /// With a frontend behind.
    pub fn frontend(self, frontend: &Frontend) -> Key {
        let key = match frontend.address {
            Some(address) => self.address(address),
            None => self,
        };
        key.protocol(frontend.protocol).port(frontend.port)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What an element gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gives {
    /// Nothing: it is of a set.
    Nothing,
    /// A number in the order of the host.
    Number(u32),
    /// Address and port, packed as in a key.
    Bytes(Key),
    /// Goes on in the chain of this treatment.
    Treatment(Treatment),
    /// Goes on in the chain that remembers a client for so many seconds.
    Timeout(u32),
    /// Closes a range.
    IntervalEnd,
}

/// An element of one of our sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The set it is of.
    pub set: Set,
    /// Its key.
    pub key: Key,
    /// The last key of a range.
    pub key_end: Option<Key>,
    /// What it gives.
    pub gives: Gives,
}

impl Element {
    /// An element that is no range.
    pub fn new(set: Set, key: Key, gives: Gives) -> Element {
        Element { set, key, key_end: None, gives }
    }

    /// Writes it into a batch as one to add.
    pub fn add(&self, batch: &mut Batch<'_>, comment: &str) {
        self.with(comment, |element| batch.add_element(self.set.name(), element));
    }

    /// Writes it into a batch as one to remove.
    pub fn delete(&self, batch: &mut Batch<'_>) {
        let bare = Element { gives: Gives::Nothing, ..*self };
        bare.with("", |element| batch.delete_element(self.set.name(), element));
    }

    fn with(&self, comment: &str, write: impl FnOnce(&crate::netlink::nft::Element<'_>)) {
        let (number, chain);
        let value = match &self.gives {
            Gives::Nothing => ElementValue::Nothing,
            Gives::IntervalEnd => ElementValue::IntervalEnd,
            Gives::Bytes(bytes) => ElementValue::Bytes(bytes.as_bytes()),
            Gives::Number(n) => {
                number = n.to_ne_bytes();
                ElementValue::Bytes(&number)
            }
            Gives::Treatment(treatment) => {
                chain = treatment.chain();
                ElementValue::Verdict(Verdict::Goto(&chain))
            }
            Gives::Timeout(seconds) => {
                chain = timeout_chain(*seconds);
                ElementValue::Verdict(Verdict::Goto(&chain))
            }
        };
        let key_end = self.key_end.as_ref().map(Key::as_bytes);
        let key = self.key.as_bytes();
        let expires = None;
        write(&crate::netlink::nft::Element { key, key_end, value, comment, expires });
    }
}

/// The treatments a program's frontend is looked up with.
pub fn treatments(frontend: &Frontend, program: &Program) -> impl Iterator<Item = Treatment> {
    let treatment = |kind, targets: &[Target]| Treatment {
        kind,
        sticky: program.sticky.is_some(),
        node_port: frontend.address.is_none(),
        count: targets.len() as u16,
    };
    let some = |kind, targets: &[Target]| (!targets.is_empty()).then(|| treatment(kind, targets));
    let (first, second) = match program.role {
        Role::Internal => (some(Kind::Internal, &program.targets), None),
        Role::External => (some(Kind::External, &program.targets), None),
        Role::Local => {
            let within = some(Kind::Pick, &program.targets);
            let any = within.is_some() || !program.local.is_empty();
            (any.then(|| treatment(Kind::Local, &program.local)), within)
        }
    };
    first.into_iter().chain(second)
}

/// All elements of a frontend, in the order of sets and keys.
pub fn of_frontend(frontend: &Frontend, program: &Program) -> Vec<Element> {
    let sets = Sets::of(frontend);
    let key = Key::empty().frontend(frontend);
    let mut out = Vec::with_capacity(program.targets.len() + program.local.len() + 2);
    for treatment in treatments(frontend, program) {
        let set = match (program.role, treatment.kind) {
            (Role::Local, Kind::Pick) => sets.within,
            _ => sets.services,
        };
        out.push(Element::new(set, key, Gives::Number(treatment.number())));
    }
    push_targets(&mut out, (sets.endpoints, key), &program.targets);
    push_targets(&mut out, (sets.local_endpoints, key), &program.local);
    if let Some(seconds) = program.sticky.filter(|_| program.all_targets().next().is_some()) {
        out.push(Element::new(sets.sticky, key, Gives::Number(seconds)));
    }
    match program.unserved {
        Some(Unserved::Reject) => out.push(Element::new(sets.reject, key, Gives::Nothing)),
        Some(Unserved::Drop) => out.push(Element::new(sets.drop, key, Gives::Nothing)),
        None => {}
    }
    if let (Some(sources), Some(_)) = (&program.sources, frontend.address) {
        out.push(Element::new(Set::Firewall, key, Gives::Nothing));
        out.extend(sources.iter().map(|range| allowed(key, *range)));
    }
    out.sort_unstable();
    out
}

/// The sets of frontends with an address, or of node ports.
struct Sets {
    services: Set,
    within: Set,
    endpoints: Set,
    local_endpoints: Set,
    sticky: Set,
    reject: Set,
    drop: Set,
}

impl Sets {
    fn of(frontend: &Frontend) -> Sets {
        if frontend.address.is_some() {
            return Sets {
                services: Set::Services,
                within: Set::ServicesWithin,
                endpoints: Set::Endpoints,
                local_endpoints: Set::LocalEndpoints,
                sticky: Set::Sticky,
                reject: Set::Reject,
                drop: Set::Drop,
            };
        }
        Sets {
            services: Set::NodePorts,
            within: Set::NodePortsWithin,
            endpoints: Set::NodePortEndpoints,
            local_endpoints: Set::NodePortLocalEndpoints,
            sticky: Set::StickyNodePorts,
            reject: Set::NodePortReject,
            drop: Set::NodePortDrop,
        }
    }
}

fn push_targets(out: &mut Vec<Element>, (set, key): (Set, Key), targets: &[Target]) {
    out.extend((0u32..).zip(targets).map(|(index, target)| {
        Element::new(set, key.number(index), Gives::Bytes(socket_bytes(&target.socket)))
    }));
}

/// Address and port as a map's value.
pub fn socket_bytes(socket: &Socket) -> Key {
    Key::empty().address(socket.address).port(socket.port)
}

fn allowed(key: Key, range: IpNet) -> Element {
    Element {
        set: Set::FirewallAllowed,
        key: key.address(range.network()),
        key_end: Some(key.address(range.broadcast())),
        gives: Gives::Nothing,
    }
}

/// The key of a connection of an endpoint to itself.
pub fn hairpin_key(protocol: Protocol, socket: Socket) -> Key {
    Key::empty()
        .address(socket.address)
        .address(socket.address)
        .protocol(protocol)
        .port(socket.port)
}

/// A plain interval set's elements: where each range begins, and where it no longer is.
pub fn ranges(set: Set, ranges: &[IpNet]) -> Vec<Element> {
    let mut out = Vec::new();
    for range in ranges {
        out.push(Element::new(set, Key::empty().address(range.network()), Gives::Nothing));
        if let Some(end) = after(range.broadcast()) {
            // Adjacent ranges: the next one's beginning closes this one as well.
            let end = Element::new(set, Key::empty().address(end), Gives::IntervalEnd);
            out.push(end);
        }
    }
    out
}

/// The next address, if there is one.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => Some(IpAddr::V4(u32::from(a).checked_add(1)?.into())),
        IpAddr::V6(a) => Some(IpAddr::V6(u128::from(a).checked_add(1)?.into())),
    }
}

/// The frontend that a key of one of a frontend's sets begins with.
pub fn frontend_of(family: Family, set: Set, key: &[u8]) -> Option<Frontend> {
    let (address, rest) = if set.of_frontend()? {
        let (address, rest) = key.split_at_checked(family.address_len())?;
        (Some(address_of(address)?), rest)
    } else {
        (None, key)
    };
    let protocol = Protocol::from_number(*rest.first()?)?;
    let port = u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?);
    Some(Frontend { address, protocol, port })
}

/// An address from its bytes.
pub fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontend_comes_back_from_its_keys() {
        for address in [None, Some("10.0.0.1"), Some("fd00::1")] {
            let address = address.map(|a| a.parse().expect("an address"));
            let family = address.map_or(Family::V4, Family::of);
            let frontend = Frontend { address, protocol: Protocol::Sctp, port: 0x1234 };
            let set = if address.is_some() { Set::Endpoints } else { Set::NodePortEndpoints };
            let key = Key::empty().frontend(&frontend).number(7);
            assert_eq!(frontend_of(family, set, key.as_bytes()), Some(frontend));
        }
        assert_eq!(frontend_of(Family::V4, Set::Endpoints, &[1, 2, 3]), None);
    }
}
