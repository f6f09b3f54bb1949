//! Generic netlink requests of the IPVS family: attributes, what the kernel's policy lets through, and the commands.
//! Facts from include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c (ip_vs_genl_*) and net/netlink/genetlink.c.
//! It must never know how services choose or packets travel; answers are written by `reply`. Tests: tests/ipvs_wire.rs.

use super::reply;
use super::service::{Destination, IpvsError, Scheduler, Service, ServiceKey, flags};
use super::table::Ipvs;
use crate::nft::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The number of the IPVS family on this host; on Linux it differs from boot to boot.
pub(super) const FAMILY: u16 = 0x1c;
const CONTROL: u16 = 0x10;
const HEADER: usize = 20;
pub(super) const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Timeouts above this are refused (INT_MAX / HZ, HZ being 250).
const MOST_SECONDS: u32 = i32::MAX as u32 / 250;

/// Commands (IPVS_CMD_*).
pub(super) mod command {
    pub(in crate::ipvs) const NEW_SERVICE: u8 = 1;
    pub(in crate::ipvs) const SET_SERVICE: u8 = 2;
    pub(in crate::ipvs) const DEL_SERVICE: u8 = 3;
    pub(in crate::ipvs) const GET_SERVICE: u8 = 4;
    pub(in crate::ipvs) const NEW_DEST: u8 = 5;
    pub(in crate::ipvs) const SET_DEST: u8 = 6;
    pub(in crate::ipvs) const DEL_DEST: u8 = 7;
    pub(in crate::ipvs) const GET_DEST: u8 = 8;
    pub(in crate::ipvs) const SET_CONFIG: u8 = 12;
    pub(in crate::ipvs) const GET_CONFIG: u8 = 13;
    pub(in crate::ipvs) const GET_INFO: u8 = 15;
    pub(in crate::ipvs) const ZERO: u8 = 16;
    pub(in crate::ipvs) const FLUSH: u8 = 17;
}

/// Attributes by number, with their offset in the message; of two with one number the last counts.
struct Attrs<'a> {
    found: [Option<(usize, &'a [u8])>; 16],
    at: usize,
}

impl<'a> Attrs<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Result<Attrs<'a>, IpvsError> {
        let mut attrs = Attrs { found: [None; 16], at };
        let mut next = 0;
        while bytes.len() - next >= 4 {
            let length = usize::from(u16::from_ne_bytes([bytes[next], bytes[next + 1]]));
            let kind = u16::from_ne_bytes([bytes[next + 2], bytes[next + 3]]) & 0x3fff;
            if length < 4 || next + length > bytes.len() {
                return Err(IpvsError::invalid(
                    at + next,
                    format!("an attribute of {length} bytes where {} are left", bytes.len() - next),
                ));
            }
            if let Some(slot) = attrs.found.get_mut(usize::from(kind)) {
                *slot = Some((at + next + 4, &bytes[next + 4..next + length]));
            }
            next = (next + length).next_multiple_of(4).min(bytes.len());
        }
        Ok(attrs)
    }

    fn get(&self, kind: usize, what: &str) -> Result<(usize, &'a [u8]), IpvsError> {
        self.found[kind].ok_or_else(|| {
            IpvsError::invalid(self.at, format!("attribute {kind}, {what}, expected"))
        })
    }

    /// A value of a fixed size; a longer one is cut, as the kernel's policy does with a warning.
    fn fixed<const N: usize>(&self, kind: usize, what: &str) -> Result<[u8; N], IpvsError> {
        let (at, bytes) = self.get(kind, what)?;
        let wrong = || {
            IpvsError::invalid(at, format!("{what} of {N} bytes expected, found {}", bytes.len()))
        };
        bytes.first_chunk::<N>().copied().ok_or_else(wrong)
    }

    fn u16(&self, kind: usize, what: &str) -> Result<u16, IpvsError> {
        self.fixed(kind, what).map(u16::from_ne_bytes)
    }

    fn u32(&self, kind: usize, what: &str) -> Result<u32, IpvsError> {
        self.fixed(kind, what).map(u32::from_ne_bytes)
    }

    fn be16(&self, kind: usize, what: &str) -> Result<u16, IpvsError> {
        self.fixed(kind, what).map(u16::from_be_bytes)
    }

    /// Bytes up to a length, the rest zero.
    fn padded<const N: usize>(&self, kind: usize, what: &str) -> Result<[u8; N], IpvsError> {
        let (at, bytes) = self.get(kind, what)?;
        let mut padded = [0; N];
        let target = padded.get_mut(..bytes.len());
        target
            .ok_or_else(|| {
                IpvsError::invalid(
                    at,
                    format!("{what} of at most {N} bytes expected, found {}", bytes.len()),
                )
            })?
            .copy_from_slice(bytes);
        Ok(padded)
    }

    fn text(&self, kind: usize, what: &str) -> Result<&'a str, IpvsError> {
        let (at, bytes) = self.get(kind, what)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        if text.len() > 15 || text.len() == bytes.len() {
            return Err(IpvsError::invalid(
                at,
                format!("{what} of at most 15 bytes and a zero expected"),
            ));
        }
        std::str::from_utf8(text)
            .map_err(|_| IpvsError::invalid(at, format!("{what} in UTF-8 expected")))
    }

    fn nested(&self, kind: usize, what: &str) -> Result<Attrs<'a>, IpvsError> {
        let (at, bytes) = self.get(kind, what)?;
        Attrs::read(bytes, at)
    }

    fn has(&self, kind: usize) -> bool {
        self.found[kind].is_some()
    }
}

/// Splits what was written into messages; bytes that are none end it.
pub(super) fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some(length) =
        bytes.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length) as usize)
    {
        if length < 16 || length > bytes.len() {
            break;
        }
        messages.push(&bytes[..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    messages
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_ne_bytes([two[0], two[1]]))
}

pub(super) fn is_control(message: &[u8]) -> bool {
    u16_at(message, 4) == CONTROL
}

/// Answers `nlctrl` GETFAMILY.
pub(super) fn family(message: &[u8]) -> Result<Vec<u8>, IpvsError> {
    let attrs = Attrs::read(message.get(HEADER..).unwrap_or_default(), HEADER)?;
    if message.get(16) != Some(&3) || u16_at(message, 6) & DUMP == DUMP {
        return Err(IpvsError::not_modelled("nlctrl commands other than GETFAMILY of one family"));
    }
    let (at, name) = attrs.get(2, "a family's name")?;
    if name.strip_suffix(&[0]).unwrap_or(name) != b"IPVS" {
        return Err(IpvsError {
            errno: Errno::ENOENT,
            offset: at,
            detail: "no family of this name".into(),
        });
    }
    Ok(reply::family(message))
}

/// Adds what ends the answer: an error, or the acknowledgment that was asked for.
pub(super) fn finish(message: &[u8], answer: Result<Vec<u8>, IpvsError>) -> Vec<u8> {
    let (mut bytes, errno) = match answer {
        Ok(bytes) => (bytes, 0),
        Err(error) => (Vec::new(), error.errno as i32),
    };
    let dumped = errno == 0 && u16_at(message, 6) & DUMP == DUMP;
    if errno != 0 || u16_at(message, 6) & ACK != 0 && !dumped {
        bytes.extend(reply::error(message, errno));
    }
    bytes
}

/// Runs one request.
pub(super) fn request(ipvs: &mut Ipvs, message: &[u8]) -> Result<Vec<u8>, IpvsError> {
    let length =
        message.first_chunk::<4>().map_or(0, |length| u32::from_ne_bytes(*length) as usize);
    if length < HEADER || length > message.len() {
        return Err(IpvsError::invalid(
            0,
            format!(
                "a message of at least {HEADER} bytes expected, found {} of {length}",
                message.len()
            ),
        ));
    }
    if u16_at(message, 4) != FAMILY {
        return Err(IpvsError {
            errno: Errno::ENOENT,
            offset: 4,
            detail: format!("family {FAMILY:#x} expected"),
        });
    }
    let attrs = Attrs::read(&message[HEADER..length], HEADER)?;
    let dump = u16_at(message, 6) & DUMP == DUMP;
    match (message[16], dump) {
        (command::GET_SERVICE, true) => Ok(reply::services(ipvs, message)),
        (command::GET_DEST, true) => Ok(reply::destinations(ipvs, message, key(&attrs)?.key)),
        (command::GET_SERVICE, false) => {
            let wanted = key(&attrs)?;
            let service = ipvs.services.get(&wanted.key).ok_or_else(|| no_service(&wanted.key))?;
            Ok(reply::service(message, 0, service))
        }
        (command::GET_CONFIG, false) => Ok(reply::config(ipvs, message)),
        (command::GET_INFO, false) => Ok(reply::version(message)),
        (_, true) => Err(unknown(message[16])),
        (_, false) => change(ipvs, message[16], &attrs).map(|()| Vec::new()),
    }
}

fn unknown(command: u8) -> IpvsError {
    IpvsError::not_modelled(format!("IPVS command {command}"))
}

fn no_service(key: &ServiceKey) -> IpvsError {
    IpvsError::new(Errno::ESRCH, format!("there is no service {key:?}"))
}

fn change(ipvs: &mut Ipvs, command: u8, attrs: &Attrs<'_>) -> Result<(), IpvsError> {
    use command::{
        DEL_DEST, DEL_SERVICE, FLUSH, NEW_DEST, NEW_SERVICE, SET_CONFIG, SET_DEST, SET_SERVICE,
        ZERO,
    };
    match command {
        FLUSH => {
            ipvs.flush();
            return Ok(());
        }
        SET_CONFIG => return configure(ipvs, attrs),
        ZERO if !attrs.has(1) => return ipvs.zero(None),
        NEW_SERVICE | SET_SERVICE | DEL_SERVICE | NEW_DEST | SET_DEST | DEL_DEST | ZERO => {}
        other => return Err(unknown(other)),
    }
    let named = key(attrs)?;
    let known = ipvs.services.get(&named.key).map(|one| one.service.flags);
    if matches!(command, NEW_SERVICE | SET_SERVICE) {
        let service = named.service(known.unwrap_or(0))?;
        return match (command, known) {
            (NEW_SERVICE, _) => ipvs.add_service(service),
            (_, None) => Err(no_service(&named.key)),
            (_, Some(_)) => ipvs.edit_service(service),
        };
    }
    known.ok_or_else(|| no_service(&named.key))?;
    match command {
        DEL_SERVICE => ipvs.delete_service(&named.key),
        ZERO => ipvs.zero(Some(&named.key)),
        DEL_DEST => {
            let (address, port, _) = destination_key(attrs, &named.key)?;
            ipvs.delete_destination(&named.key, address, port)
        }
        NEW_DEST => ipvs.add_destination(&named.key, destination(attrs, &named.key)?),
        _ => ipvs.edit_destination(&named.key, destination(attrs, &named.key)?),
    }
}

/// A service as the request names it, and what else it says.
struct Named<'a> {
    key: ServiceKey,
    attrs: Attrs<'a>,
}

fn key<'a>(attrs: &Attrs<'a>) -> Result<Named<'a>, IpvsError> {
    let attrs = attrs.nested(1, "a service")?;
    let family = attrs.u16(1, "the address family")?;
    let address_of = |attrs: &Attrs<'_>| -> Result<ServiceKey, IpvsError> {
        let protocol = attrs.u16(2, "the protocol")? as u8;
        let bytes = attrs.padded(3, "an address")?;
        let port = attrs.be16(4, "a port")?;
        Ok(ServiceKey::new(protocol, address(bytes, family)?, port))
    };
    if !attrs.has(5) {
        let key = address_of(&attrs)?;
        return Ok(Named { key, attrs });
    }
    let key = match (attrs.u32(5, "a mark")?, address([0; 16], family)?) {
        // The kernel knows a service by its address when the mark is zero, and takes TCP for it.
        (0, any) => ServiceKey::new(6, any, 0),
        (mark, any) => ServiceKey::Mark { ipv6: any.is_ipv6(), mark },
    };
    Ok(Named { key, attrs })
}

fn address(bytes: [u8; 16], family: u16) -> Result<IpAddr, IpvsError> {
    match family {
        AF_INET => Ok(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        AF_INET6 => Ok(Ipv6Addr::from(bytes).into()),
        _ => Err(IpvsError::new(Errno::EAFNOSUPPORT, format!("address family {family}"))),
    }
}

impl Named<'_> {
    fn service(&self, known: u32) -> Result<Service, IpvsError> {
        let attrs = &self.attrs;
        let name = attrs.text(6, "a scheduler's name")?;
        let bits: [u8; 8] = attrs.padded(7, "flags and mask")?;
        let timeout = attrs.u32(8, "a timeout")?;
        let mask: [u8; 4] = attrs.fixed(9, "a netmask")?;
        let word =
            |at: usize| u32::from_ne_bytes([bits[at], bits[at + 1], bits[at + 2], bits[at + 3]]);
        let set = (known & !word(4) | word(0) & word(4)) & !flags::HASHED;
        if attrs.has(11) {
            return Err(IpvsError::not_modelled("persistence engines"));
        }
        if set & !0x1f != 0 {
            return Err(IpvsError::not_modelled(format!("service flags {set:#x}")));
        }
        // For IPv4 the mask stands in network order, for IPv6 a prefix length in the machine's.
        let netmask =
            if self.key.is_ipv6() { u32::from_ne_bytes(mask) } else { u32::from_be_bytes(mask) };
        Ok(Service {
            key: self.key,
            scheduler: Scheduler::named(name)?,
            flags: set,
            timeout,
            netmask,
        })
    }
}

fn destination_key<'a>(
    attrs: &Attrs<'a>,
    key: &ServiceKey,
) -> Result<(IpAddr, u16, Attrs<'a>), IpvsError> {
    let attrs = attrs.nested(2, "a destination")?;
    let bytes = attrs.padded(1, "an address")?;
    let port = attrs.be16(2, "a port")?;
    let own = if key.is_ipv6() { AF_INET6 } else { AF_INET };
    let family = if attrs.has(11) { attrs.u16(11, "the address family")? } else { 0 };
    let address = address(bytes, if family == 0 { own } else { family })?;
    Ok((address, port, attrs))
}

fn destination(attrs: &Attrs<'_>, key: &ServiceKey) -> Result<Destination, IpvsError> {
    let (address, port, attrs) = destination_key(attrs, key)?;
    let method = attrs.u32(3, "a forwarding method")? & 7;
    let weight = attrs.u32(4, "a weight")? as i32;
    let upper = attrs.u32(5, "an upper threshold")?;
    let lower = attrs.u32(6, "a lower threshold")?;
    if method != 0 {
        let names = ["masquerade", "local node", "tunnel", "direct route", "bypass"];
        let name = names.get(method as usize).unwrap_or(&"unknown");
        return Err(IpvsError::not_modelled(format!("forwarding method {method} ({name})")));
    }
    Ok(Destination { address, port, weight, upper, lower })
}

fn configure(ipvs: &mut Ipvs, attrs: &Attrs<'_>) -> Result<(), IpvsError> {
    let timeout = |kind: usize, what: &str| -> Result<Option<Duration>, IpvsError> {
        if !attrs.has(kind) {
            return Ok(None);
        }
        let seconds = attrs.u32(kind, what)?;
        if seconds > MOST_SECONDS {
            return Err(IpvsError::invalid(attrs.at, format!("{what} of {seconds} seconds")));
        }
        Ok(Some(Duration::from_secs(seconds.into())).filter(|duration| !duration.is_zero()))
    };
    let tcp = timeout(4, "the timeout of TCP")?;
    let tcp_fin = timeout(5, "the timeout after FIN")?;
    let udp = timeout(6, "the timeout of UDP")?;
    let known = &mut ipvs.timeouts;
    known.tcp = tcp.unwrap_or(known.tcp);
    known.tcp_fin = tcp_fin.unwrap_or(known.tcp_fin);
    known.udp = udp.unwrap_or(known.udp);
    Ok(())
}
