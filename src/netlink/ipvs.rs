//! The IPVS family of generic netlink: operations become bytes, answers become facts
//! (`include/uapi/linux/ip_vs.h`, `net/netfilter/ipvs/ip_vs_ctl.c`, `include/uapi/linux/genetlink.h`).
//! It knows no socket and no Service. Tests: below, `kernel::simulated`, and in the lab's guest.

use std::net::IpAddr;

use super::read::{Attributes, Message, text, u16_be, u16_ne, u32_be, u32_ne, u64_ne};
use super::write::{GenericHead, Writer};
use super::{ACK, DUMP, REQUEST};
use crate::kernel::ipvs::{IpvsStats, ONE_PACKET, SCHEDULER_FLAG_1};
use crate::kernel::ipvs::{SCHEDULER_FLAG_2, SCHEDULER_FLAG_3};
use crate::kernel::{
    Destination, DestinationFact, IpvsOperation, IpvsTimeouts, Persistence, Scheduler, Scheduling,
    Socket, VirtualServer, VirtualServerFact,
};
use crate::model::{Family, Protocol};

/// The family's name, which `nlctrl` has a number for.
pub const NAME: &str = "IPVS";
/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL: u16 = 0x10;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `IP_VS_SVC_F_PERSISTENT`.
const PERSISTENT: u32 = 0x1;
/// The flags an operation decides about.
const DECIDED: u32 =
    PERSISTENT | ONE_PACKET | SCHEDULER_FLAG_1 | SCHEDULER_FLAG_2 | SCHEDULER_FLAG_3;

/// `IPVS_CMD_*`.
mod command {
    pub(super) const NEW_SERVICE: u8 = 1;
    pub(super) const SET_SERVICE: u8 = 2;
    pub(super) const DEL_SERVICE: u8 = 3;
    pub(super) const GET_SERVICE: u8 = 4;
    pub(super) const NEW_DEST: u8 = 5;
    pub(super) const SET_DEST: u8 = 6;
    pub(super) const DEL_DEST: u8 = 7;
    pub(super) const GET_DEST: u8 = 8;
    pub(super) const SET_CONFIG: u8 = 12;
    pub(super) const GET_CONFIG: u8 = 13;
}

/// What asks `nlctrl` for the number of the family.
pub fn ask_family(sequence: u32) -> Vec<u8> {
    let head =
        GenericHead { kind: CONTROL, flags: REQUEST | ACK, sequence, command: 3, version: 1 };
    message(head, |w| w.text(2, NAME))
}

/// The number of the family, from the answer.
pub fn family_number(answer: &Message<'_>) -> Option<u16> {
    Attributes::after(answer.body, 4).get(1).and_then(u16_ne)
}

/// The message of one operation; `family` is the family's number.
pub fn operation(operation: &IpvsOperation, (family, flags, sequence): (u16, u16, u32)) -> Vec<u8> {
    use IpvsOperation::*;
    let number = match operation {
        AddServer(..) => command::NEW_SERVICE,
        EditServer(..) => command::SET_SERVICE,
        DeleteServer(_) => command::DEL_SERVICE,
        AddDestination(..) => command::NEW_DEST,
        EditDestination(..) => command::SET_DEST,
        DeleteDestination(..) => command::DEL_DEST,
        SetTimeouts(_) => command::SET_CONFIG,
    };
    let flags = REQUEST | flags;
    let head = GenericHead { kind: family, flags, sequence, command: number, version: 1 };
    message(head, |w| match operation {
        AddServer(server, how) | EditServer(server, how) => write_server(w, server, Some(how)),
        DeleteServer(server) => write_server(w, server, None),
        AddDestination(server, to) | EditDestination(server, to) => {
            write_server(w, server, None);
            write_destination(w, to.socket, Some(to.weight));
        }
        DeleteDestination(server, to) => {
            write_server(w, server, None);
            write_destination(w, *to, None);
        }
        SetTimeouts(times) => write_timeouts(w, times),
    })
}

/// What lists all virtual servers.
pub fn list_servers((family, sequence): (u16, u32)) -> Vec<u8> {
    let head = GenericHead {
        kind: family,
        flags: REQUEST | DUMP,
        sequence,
        command: command::GET_SERVICE,
        version: 1,
    };
    message(head, |_| {})
}

/// What lists the destinations of a virtual server.
pub fn list_destinations(server: &VirtualServer, (family, sequence): (u16, u32)) -> Vec<u8> {
    let head = GenericHead {
        kind: family,
        flags: REQUEST | DUMP,
        sequence,
        command: command::GET_DEST,
        version: 1,
    };
    message(head, |w| write_server(w, server, None))
}

/// What asks for the timeouts.
pub fn ask_timeouts((family, sequence): (u16, u32)) -> Vec<u8> {
    let head = GenericHead {
        kind: family,
        flags: REQUEST | ACK,
        sequence,
        command: command::GET_CONFIG,
        version: 1,
    };
    message(head, |_| {})
}

fn message(head: GenericHead, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    let open = w.open_generic(head);
    body(&mut w);
    w.close_message(open);
    w.into_bytes()
}

fn af(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// `IPVS_CMD_ATTR_SERVICE`; without `how` only what identifies it.
fn write_server(w: &mut Writer, server: &VirtualServer, how: Option<&Scheduling>) {
    w.nest(1, |w| {
        w.ne16(1, af(server.family()));
        w.ne16(2, server.protocol.number().into());
        write_socket(w, (3, 4), server.socket);
        let Some(how) = how else { return };
        w.text(6, how.scheduler.name());
        let persistent = if how.persistence.is_some() { PERSISTENT } else { 0 };
        let flags = how.flags & DECIDED & !PERSISTENT | persistent;
        w.parts(7, &[&flags.to_ne_bytes(), &DECIDED.to_ne_bytes()]);
        w.ne32(8, how.persistence.map_or(0, |p| p.seconds));
        let longest = server.family().address_bits();
        let prefix = how.persistence.map_or(longest, |p| p.prefix.min(longest));
        match server.family() {
            Family::V4 => w.be32(9, u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)),
            Family::V6 => w.ne32(9, prefix.into()),
        }
    });
}

/// `IPVS_CMD_ATTR_DEST`; without a weight only what identifies it.
fn write_destination(w: &mut Writer, socket: Socket, weight: Option<u32>) {
    w.nest(2, |w| {
        write_socket(w, (1, 2), socket);
        w.ne16(11, af(Family::of(socket.address)));
        let Some(weight) = weight else { return };
        // Masquerading, that weight, no thresholds.
        for (attribute, value) in [(3, 0), (4, weight), (5, 0), (6, 0)] {
            w.ne32(attribute, value);
        }
    });
}

fn write_socket(w: &mut Writer, (address, port): (u16, u16), socket: Socket) {
    match socket.address {
        IpAddr::V4(a) => w.parts(address, &[&a.octets(), &[0; 12]]),
        IpAddr::V6(a) => w.bytes(address, &a.octets()),
    }
    w.bytes(port, &socket.port.to_be_bytes());
}

fn write_timeouts(w: &mut Writer, times: &IpvsTimeouts) {
    w.ne32(4, times.tcp);
    w.ne32(5, times.tcp_fin);
    w.ne32(6, times.udp);
}

/// A virtual server of a listing, without its destinations; `None` for one that a firewall mark
/// identifies, or a protocol no Service has.
pub fn server(answer: &Message<'_>) -> Option<VirtualServerFact> {
    let service = Attributes::new(Attributes::after(answer.body, 4).get(1)?);
    let number = u8::try_from(u16_ne(service.get(2)?)?).ok()?;
    let family = u16_ne(service.get(1)?)?;
    let socket = read_socket(family, (service.get(3)?, service.get(4)?))?;
    let server = VirtualServer { protocol: Protocol::from_number(number)?, socket };
    let flags = service.get(7).and_then(u32_ne)? & DECIDED;
    let persistence = (flags & PERSISTENT != 0).then(|| Persistence {
        seconds: service.get(8).and_then(u32_ne).unwrap_or(0),
        prefix: read_prefix(family, service.get(9).unwrap_or(&[])),
    });
    let scheduling = Scheduling {
        scheduler: Scheduler::named(&text(service.get(6)?))?,
        flags: flags & !PERSISTENT,
        persistence,
    };
    let stats = read_stats(&service);
    Some(VirtualServerFact { server, scheduling, stats, destinations: Vec::new() })
}

/// A destination of a listing.
pub fn destination(answer: &Message<'_>, server: &VirtualServer) -> Option<DestinationFact> {
    let dest = Attributes::new(Attributes::after(answer.body, 4).get(2)?);
    let number = |attribute| dest.get(attribute).and_then(u32_ne).unwrap_or(0);
    // Kernels before 3.18 do not say the family.
    let family = dest.get(11).and_then(u16_ne).unwrap_or(af(server.family()));
    let socket = read_socket(family, (dest.get(1)?, dest.get(2)?))?;
    Some(DestinationFact {
        destination: Destination { socket, weight: number(4) },
        masquerades: number(3) & 7 == 0,
        active: number(7),
        inactive: number(8),
        persistent: number(9),
        stats: read_stats(&dest),
    })
}

/// The timeouts, from the answer.
pub fn timeouts(answer: &Message<'_>) -> Option<IpvsTimeouts> {
    let config = Attributes::after(answer.body, 4);
    let seconds = |attribute| config.get(attribute).and_then(u32_ne);
    Some(IpvsTimeouts { tcp: seconds(4)?, tcp_fin: seconds(5)?, udp: seconds(6)? })
}

fn read_socket(family: u16, (address, port): (&[u8], &[u8])) -> Option<Socket> {
    let address = match family {
        AF_INET => IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?),
        AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(address.get(..16)?).ok()?),
        _ => return None,
    };
    Some(Socket { address, port: u16_be(port)? })
}

fn read_prefix(family: u16, mask: &[u8]) -> u8 {
    match family {
        AF_INET => u32_be(mask).map_or(32, |mask| mask.leading_ones() as u8),
        _ => u32_ne(mask).map_or(128, |length| length.min(128) as u8),
    }
}

/// Counters: of 64 bits since Linux 4.1, before that of 32.
fn read_stats(object: &Attributes<'_>) -> IpvsStats {
    let wide = object.get(12).map(Attributes::new);
    let narrow = object.get(10).map(Attributes::new);
    let count = |n| match (&wide, &narrow) {
        (Some(wide), _) => wide.get(n).and_then(u64_ne).unwrap_or(0),
        (None, Some(narrow)) => {
            let bytes = narrow.get(n).unwrap_or(&[]);
            u64_ne(bytes).or_else(|| u32_ne(bytes).map(u64::from)).unwrap_or(0)
        }
        (None, None) => 0,
    };
    IpvsStats {
        connections: count(1),
        in_packets: count(2),
        out_packets: count(3),
        in_bytes: count(4),
        out_bytes: count(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::read::Messages;

    fn socket(address: &str, port: u16) -> Socket {
        Socket { address: address.parse().expect("a literal"), port }
    }

    /// What an operation says, read back as if it were an answer: the attributes are the same ones.
    #[test]
    fn what_an_operation_says_is_read_back() {
        for (address, prefix) in [("10.96.0.1", 24), ("fd96::1", 56)] {
            let server = VirtualServer { protocol: Protocol::Sctp, socket: socket(address, 9) };
            let scheduling = Scheduling {
                scheduler: Scheduler::named("mh").expect("a name"),
                flags: SCHEDULER_FLAG_2,
                persistence: Some(Persistence { seconds: 10800, prefix }),
            };
            let asked = IpvsOperation::AddServer(server, scheduling);
            let bytes = operation(&asked, (28, 0, 7));
            let message = Messages::new(&bytes).next().expect("one message");
            assert_eq!((message.kind, message.sequence), (28, 7));
            let fact = super::server(&message).expect("a server");
            assert_eq!((fact.server, fact.scheduling), (server, scheduling));
            let to = Destination { socket: socket(address, 10), weight: 3 };
            let bytes = operation(&IpvsOperation::AddDestination(server, to), (28, 0, 8));
            let message = Messages::new(&bytes).next().expect("one message");
            let fact = destination(&message, &server).expect("a destination");
            assert_eq!((fact.destination, fact.masquerades), (to, true));
        }
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_gives_nothing_and_no_panic() {
        let server = VirtualServer { protocol: Protocol::Tcp, socket: socket("10.96.0.1", 80) };
        let scheduling = Scheduling { scheduler: Scheduler::RR, flags: 0, persistence: None };
        let bytes = operation(&IpvsOperation::AddServer(server, scheduling), (28, 0, 7));
        let message = Messages::new(&bytes).next().expect("one message");
        for end in 0..message.body.len() {
            let cut = Message { body: &message.body[..end], ..message };
            assert_eq!(super::server(&cut), None, "{end}");
            assert_eq!((destination(&cut, &server), timeouts(&cut)), (None, None));
        }
    }
}
