//! ipset over netfilter's netlink: operations become messages, listings become facts
//! (`include/uapi/linux/netfilter/ipset/ip_set.h`, `net/netfilter/ipset/ip_set_core.c`).
//! It knows no socket and no Service. Tests: below, and against ipset(8) in the lab.

use std::net::IpAddr;

use ipnet::IpNet;

use super::read::{Attributes, Message, text, u16_be, u32_be};
use super::write::{Head, Writer};
use super::{ACK, REQUEST, SUBSYS_IPSET, nfproto};
use crate::kernel::{
    ErrorKind, IpsetEntry, IpsetFact, IpsetOperation, IpsetSpec, IpsetType, Socket,
};
use crate::model::{Family, Protocol};

/// The oldest protocol Linux still speaks, and enough: 7 adds questions by index.
const PROTOCOL: u8 = 6;
/// `NLA_F_NET_BYTEORDER`, without which ipset takes no number and no address.
const NET: u16 = 0x4000;
/// `NLM_F_EXCL` left out: what is there counts as done.
const TOLERANT: u16 = 0;
/// Entries of one message: some 80 bytes each, far below the 64 KiB of an attribute and of the
/// answer that quotes them.
const AT_ONCE: usize = 400;
/// `IPSET_FLAG_LIST_SETNAME`: only names.
const ONLY_NAMES: u32 = 1 << 1;

/// `IPSET_CMD_*`.
mod command {
    pub(super) const CREATE: u16 = 2;
    pub(super) const DESTROY: u16 = 3;
    pub(super) const FLUSH: u16 = 4;
    pub(super) const SWAP: u16 = 6;
    pub(super) const LIST: u16 = 7;
    pub(super) const ADD: u16 = 9;
    pub(super) const DEL: u16 = 10;
    pub(super) const TYPE: u16 = 13;
}

/// `IPSET_ATTR_*` of a command.
mod attribute {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const SETNAME: u16 = 2;
    pub(super) const TYPENAME: u16 = 3;
    pub(super) const SETNAME2: u16 = 3;
    pub(super) const REVISION: u16 = 4;
    pub(super) const FAMILY: u16 = 5;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const DATA: u16 = 7;
    pub(super) const ADT: u16 = 8;
    pub(super) const LINENO: u16 = 9;
}

/// `IPSET_ATTR_*` inside of `DATA`.
mod field {
    pub(super) const IP: u16 = 1;
    pub(super) const PORT: u16 = 4;
    pub(super) const PORT_TO: u16 = 5;
    pub(super) const PROTO: u16 = 7;
    pub(super) const MAXELEM: u16 = 19;
    pub(super) const IP2: u16 = 20;
    pub(super) const CIDR2: u16 = 21;
}

/// The revision asked for: of Linux 3.18, and later ones still have it.
fn revision(kind: &IpsetType) -> u8 {
    match kind {
        IpsetType::BitmapPort => 3,
        IpsetType::HashIp => 4,
        IpsetType::HashIpPort | IpsetType::HashIpPortIp => 5,
        IpsetType::HashIpPortNet => 7,
        IpsetType::Other(_) => 0,
    }
}

/// The family in messages about sets of a type.
fn family_of(kind: &IpsetType, family: Family) -> u8 {
    if *kind == IpsetType::BitmapPort { 0 } else { nfproto(family) }
}

/// The messages of an operation, each to be sent on its own; sequence numbers come from `next`.
pub fn operation(operation: &IpsetOperation, mut next: impl FnMut() -> u32) -> Vec<Vec<u8>> {
    let (number, one, two) = match operation {
        IpsetOperation::Create(spec) => return vec![create(spec, next())],
        IpsetOperation::Add(set, entries) => {
            return entries
                .chunks(AT_ONCE)
                .map(|some| change(command::ADD, (set, some), next()))
                .collect();
        }
        IpsetOperation::Delete(set, entries) => {
            return entries
                .chunks(AT_ONCE)
                .map(|some| change(command::DEL, (set, some), next()))
                .collect();
        }
        IpsetOperation::Destroy(set) => (command::DESTROY, set, None),
        IpsetOperation::Flush(set) => (command::FLUSH, set, None),
        IpsetOperation::Swap(one, two) => (command::SWAP, one, Some(two)),
    };
    let body = |w: &mut Writer| {
        w.text(attribute::SETNAME, one);
        two.iter().for_each(|two| w.text(attribute::SETNAME2, two));
    };
    vec![message((number, ACK), next(), body)]
}

fn message((number, flags): (u16, u16), sequence: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    let open = w.open_message(Head {
        kind: SUBSYS_IPSET | number,
        flags: REQUEST | TOLERANT | flags,
        sequence,
        family: nfproto(Family::V4),
        resource: 0,
    });
    w.bytes(attribute::PROTOCOL, &[PROTOCOL]);
    body(&mut w);
    w.close_message(open);
    w.into_bytes()
}

fn create(spec: &IpsetSpec, sequence: u32) -> Vec<u8> {
    message((command::CREATE, ACK), sequence, |w| {
        w.text(attribute::SETNAME, &spec.name);
        w.text(attribute::TYPENAME, spec.kind.name());
        w.bytes(attribute::REVISION, &[revision(&spec.kind)]);
        w.bytes(attribute::FAMILY, &[family_of(&spec.kind, spec.family)]);
        w.nest(attribute::DATA, |w| match spec.kind {
            IpsetType::BitmapPort => {
                w.bytes(field::PORT | NET, &0u16.to_be_bytes());
                w.bytes(field::PORT_TO | NET, &u16::MAX.to_be_bytes());
            }
            _ => w.be32(field::MAXELEM | NET, spec.most),
        });
    })
}

/// Adds or deletes entries; each has a line number, which an error comes back with.
fn change(number: u16, (set, entries): (&str, &[IpsetEntry]), sequence: u32) -> Vec<u8> {
    message((number, ACK), sequence, |w| {
        w.text(attribute::SETNAME, set);
        w.be32(attribute::LINENO | NET, 0);
        w.nest(attribute::ADT, |w| {
            for (line, entry) in (1u32..).zip(entries) {
                w.nest(attribute::DATA, |w| {
                    write_entry(w, entry);
                    w.be32(attribute::LINENO | NET, line);
                });
            }
        });
    })
}

fn write_entry(w: &mut Writer, entry: &IpsetEntry) {
    match entry {
        IpsetEntry::Port(port) => w.bytes(field::PORT | NET, &port.to_be_bytes()),
        IpsetEntry::Ip(address) => write_address(w, field::IP, *address),
        IpsetEntry::IpPort(protocol, at) => write_socket(w, *protocol, *at),
        IpsetEntry::IpPortIp(protocol, at, second) => {
            write_socket(w, *protocol, *at);
            write_address(w, field::IP2, *second);
        }
        IpsetEntry::IpPortNet(protocol, at, net) => {
            write_socket(w, *protocol, *at);
            write_address(w, field::IP2, net.network());
            w.bytes(field::CIDR2, &[net.prefix_len()]);
        }
    }
}

fn write_socket(w: &mut Writer, protocol: Protocol, at: Socket) {
    write_address(w, field::IP, at.address);
    w.bytes(field::PORT | NET, &at.port.to_be_bytes());
    w.bytes(field::PROTO, &[protocol.number()]);
}

fn write_address(w: &mut Writer, attribute: u16, address: IpAddr) {
    w.nest(attribute, |w| match address {
        IpAddr::V4(a) => w.bytes(1 | NET, &a.octets()),
        IpAddr::V6(a) => w.bytes(2 | NET, &a.octets()),
    });
}

/// Which entry an error is about: the line number in the message that it quotes.
pub fn refused_entry(error: &Message<'_>) -> Option<usize> {
    let quoted = error.body.get(4 + super::HEADER_LEN + super::NFGEN_LEN..)?;
    let line = Attributes::new(quoted).get(attribute::LINENO).and_then(u32_be)? as usize;
    line.checked_sub(1)
}

/// What lists the names of all sets.
pub fn list_names(sequence: u32) -> Vec<u8> {
    message((command::LIST, 0), sequence, |w| w.be32(attribute::FLAGS | NET, ONLY_NAMES))
}

/// What lists a set.
pub fn list(set: &str, sequence: u32) -> Vec<u8> {
    message((command::LIST, 0), sequence, |w| w.text(attribute::SETNAME, set))
}

/// What asks whether a type is there; loads its module.
pub fn ask_type(kind: &IpsetType, sequence: u32) -> Vec<u8> {
    message((command::TYPE, ACK), sequence, |w| {
        w.text(attribute::TYPENAME, kind.name());
        w.bytes(attribute::FAMILY, &[family_of(kind, Family::V4)]);
    })
}

/// The name of a set, from a message of a listing.
pub fn name(answer: &Message<'_>) -> Option<String> {
    answer.attributes().get(attribute::SETNAME).map(text)
}

/// Takes a message of a set's listing: the first has its head, each has entries.
pub fn listed(so_far: &mut Option<IpsetFact>, answer: &Message<'_>) {
    let attributes = answer.attributes();
    if let Some(kind) = attributes.get(attribute::TYPENAME) {
        *so_far = head(&attributes, &text(kind));
    }
    let (Some(fact), Some(entries)) = (so_far.as_mut(), attributes.get(attribute::ADT)) else {
        return;
    };
    let kind = fact.spec.kind.clone();
    let read = Attributes::new(entries).filter_map(|(_, bytes)| entry(&kind, bytes));
    fact.entries.extend(read);
}

fn head(attributes: &Attributes<'_>, kind: &str) -> Option<IpsetFact> {
    let name = attributes.get(attribute::SETNAME).map(text)?;
    let data = Attributes::new(attributes.get(attribute::DATA).unwrap_or(&[]));
    let number = |n| data.get(n).and_then(u32_be).unwrap_or(0);
    let port = |n| data.get(n).and_then(u16_be);
    let kind = match IpsetType::named(kind) {
        IpsetType::BitmapPort
            if (port(field::PORT), port(field::PORT_TO)) != (Some(0), Some(u16::MAX)) =>
        {
            IpsetType::Other("bitmap:port of another range".to_owned())
        }
        kind => kind,
    };
    let ipv6 = attributes.get(attribute::FAMILY).and_then(<[u8]>::first) == Some(&10);
    let family = if ipv6 { Family::V6 } else { Family::V4 };
    let spec = IpsetSpec { name, kind, family, most: number(field::MAXELEM) };
    Some(IpsetFact { spec, entries: Vec::new() })
}

fn entry(kind: &IpsetType, bytes: &[u8]) -> Option<IpsetEntry> {
    let data = Attributes::new(bytes);
    let address = |n| address_of(data.get(n)?);
    let port = data.get(field::PORT).and_then(u16_be);
    let protocol = || Protocol::from_number(*data.get(field::PROTO)?.first()?);
    let socket = || Some(Socket { address: address(field::IP)?, port: port? });
    Some(match kind {
        IpsetType::BitmapPort => IpsetEntry::Port(port?),
        IpsetType::HashIp => IpsetEntry::Ip(address(field::IP)?),
        IpsetType::HashIpPort => IpsetEntry::IpPort(protocol()?, socket()?),
        IpsetType::HashIpPortIp => {
            IpsetEntry::IpPortIp(protocol()?, socket()?, address(field::IP2)?)
        }
        IpsetType::HashIpPortNet => {
            let second = address(field::IP2)?;
            let all = Family::of(second).address_bits();
            let prefix = data.get(field::CIDR2).and_then(|b| b.first().copied()).unwrap_or(all);
            IpsetEntry::IpPortNet(protocol()?, socket()?, IpNet::new(second, prefix).ok()?)
        }
        IpsetType::Other(_) => return None,
    })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let address = Attributes::new(bytes);
    match (address.get(1), address.get(2)) {
        (Some(v4), _) => Some(IpAddr::from(<[u8; 4]>::try_from(v4).ok()?)),
        (_, Some(v6)) => Some(IpAddr::from(<[u8; 16]>::try_from(v6).ok()?)),
        _ => None,
    }
}

/// What ipset's own error numbers mean (`enum ipset_errno`, and those of types from 4352).
pub fn refusal(errno: i32) -> Option<(ErrorKind, &'static str)> {
    Some(match errno {
        4097 => (ErrorKind::Invalid, "not ipset's protocol"),
        4098 => (ErrorKind::Unsupported, "no such type of set in this kernel"),
        4099 => (ErrorKind::Broken, "there are as many sets as there can be"),
        4100 => (ErrorKind::Busy, "the set is in use"),
        4101 => (ErrorKind::Absent, "there is no second set"),
        4102 => (ErrorKind::Invalid, "the two sets differ in type or family"),
        4103 => (ErrorKind::Exists, "the entry is there already, or is not there"),
        4104 => (ErrorKind::Invalid, "no valid prefix length"),
        4106 => (ErrorKind::Invalid, "the set is of another family"),
        4107 => (ErrorKind::Invalid, "the set has no timeouts"),
        4108 => (ErrorKind::Busy, "the set is referred to"),
        4109 | 4110 => (ErrorKind::Invalid, "an address of the other family"),
        4352 => (ErrorKind::Broken, "the set is full"),
        4353 => (ErrorKind::Invalid, "the entry is outside of the set's range"),
        4354 | 4355 => (ErrorKind::Invalid, "no protocol that the set takes"),
        4096.. => (ErrorKind::Invalid, "refused by the set's type"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::read::Messages;

    fn at(address: &str) -> Socket {
        Socket { address: address.parse().expect("a literal"), port: 80 }
    }

    fn entries() -> Vec<(IpsetType, IpsetEntry)> {
        let (v4, v6) = (at("10.96.0.1"), at("fd96::1"));
        let net = "10.0.0.0/8".parse().expect("a literal");
        vec![
            (IpsetType::BitmapPort, IpsetEntry::Port(30000)),
            (IpsetType::HashIp, IpsetEntry::Ip(v6.address)),
            (IpsetType::HashIpPort, IpsetEntry::IpPort(Protocol::Udp, v6)),
            (IpsetType::HashIpPortIp, IpsetEntry::IpPortIp(Protocol::Sctp, v4, v4.address)),
            (IpsetType::HashIpPortNet, IpsetEntry::IpPortNet(Protocol::Tcp, v4, net)),
        ]
    }

    #[test]
    fn entries_are_read_back_as_they_were_written() {
        for (kind, wanted) in entries() {
            let mut w = Writer::new();
            write_entry(&mut w, &wanted);
            assert_eq!(entry(&kind, w.as_bytes()), Some(wanted), "{kind}");
            for end in 0..w.len() {
                let _ = entry(&kind, &w.as_bytes()[..end]);
            }
        }
    }

    #[test]
    fn a_long_list_is_cut_into_messages() {
        let many: Vec<_> = (0..1000).map(IpsetEntry::Port).collect();
        let mut sequence = 0;
        let messages = operation(&IpsetOperation::Add("S".to_owned(), many), || {
            sequence += 1;
            sequence
        });
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().all(|m| Messages::new(m).count() == 1 && m.len() < 48 << 10));
    }

    #[test]
    fn numbers_of_ipset_have_kinds() {
        assert_eq!(refusal(4100).map(|r| r.0), Some(ErrorKind::Busy));
        assert_eq!(refusal(2), None);
        assert!(refusal(5000).is_some());
    }
}
