//! A netfilter netlink socket for `twin`: sends a batch and reads the first errno, lists and forgets
//! connections. It answers with the kernel's own numbers. No unsafe: `nix` only. Tests: `super::tests`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use kube_proxy::netlink::read::{Attributes, Message, Messages, u16_be, u32_be};
use kube_proxy::netlink::write::{Head, Writer};
use kube_proxy::netlink::{ACK, DUMP, NLMSG_DONE, NLMSG_ERROR, REQUEST, SUBSYS_CTNETLINK};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use sim::packet::protocol;

use super::entry::{Entry, text};

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> Result<Netlink, String> {
        let open = || -> Result<OwnedFd, Errno> {
            let protocol = SockProtocol::NetlinkNetFilter;
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
            setsockopt(&socket, sockopt::SndBufForce, &(16 << 20))?;
            Ok(socket)
        };
        let socket = open().map_err(|e| format!("netlink socket: {e}"))?;
        Ok(Netlink { socket, buffer: vec![0; 64 << 10] })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), String> {
        let to = NetlinkAddr::new(0, 0);
        match sendto(self.socket.as_raw_fd(), bytes, &to, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("netlink send: {e}")),
        }
    }

    /// The errnos of a batch, in order; none if it was taken. All is there when the send returns.
    pub(super) fn batch(&mut self, bytes: &[u8]) -> Result<Vec<i32>, String> {
        self.send(bytes)?;
        let mut all: Vec<i32> = Vec::new();
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    for message in Messages::new(&self.buffer[..len]) {
                        let errno = errno_of(&message);
                        if errno != 0 && !all.contains(&errno) {
                            all.push(errno);
                        }
                    }
                }
                Err(Errno::EAGAIN) => return Ok(all),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(format!("netlink receive: {e}")),
            }
        }
    }

    /// All connections, as text.
    pub(super) fn connections(&mut self) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        for family in [2, 10] {
            self.send(&request(1, DUMP, family))?;
            'dump: loop {
                let len = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())
                    .map_err(|e| format!("netlink receive: {e}"))?;
                for message in Messages::new(&self.buffer[..len]) {
                    match message.kind {
                        NLMSG_DONE => break 'dump,
                        NLMSG_ERROR => {
                            return Err(format!("list connections: {}", errno_of(&message)));
                        }
                        _ => found.extend(connection(&message.attributes())),
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Forgets all connections.
    pub(super) fn forget(&mut self) -> Result<(), String> {
        for family in [2, 10] {
            if let Some(errno) = self.batch(&request(2, ACK, family))?.first() {
                return Err(format!("forget connections: {}", Errno::from_raw(*errno)));
            }
        }
        Ok(())
    }
}

fn request(kind: u16, flags: u16, family: u8) -> Vec<u8> {
    let mut w = Writer::new();
    let kind = SUBSYS_CTNETLINK | kind;
    let head = Head { kind, flags: REQUEST | flags, sequence: 1, family, resource: 0 };
    let open = w.open_message(head);
    w.close_message(open);
    w.into_bytes()
}

/// The errno of an error message; zero for an acknowledgement or anything else.
fn errno_of(message: &Message<'_>) -> i32 {
    if message.kind != NLMSG_ERROR {
        return 0;
    }
    let bytes: Option<[u8; 4]> = message.body.get(..4).and_then(|b| b.try_into().ok());
    bytes.map_or(0, |b| -i32::from_ne_bytes(b))
}

fn connection(attributes: &Attributes<'_>) -> Option<String> {
    let number = |at| attributes.get(at).and_then(u32_be).unwrap_or(0);
    let (number_of, original) = tuple(attributes.get(1)?)?;
    let (_, reply) = tuple(attributes.get(2)?)?;
    let state = |at: u16| {
        Attributes::new(Attributes::new(attributes.get(4)?).get(at)?).get(1)?.first().copied()
    };
    const TCP: [&str; 10] = [
        "NONE",
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT",
        "CLOSE_WAIT",
        "LAST_ACK",
        "TIME_WAIT",
        "CLOSE",
        "SYN_SENT2",
    ];
    const SCTP: [&str; 9] = [
        "NONE",
        "CLOSE",
        "COOKIE_WAIT",
        "COOKIE_ECHOED",
        "ESTABLISHED",
        "SHUTDOWN_SENT",
        "SHUTDOWN_SENT",
        "SHUTDOWN_SENT",
        "HEARTBEAT_SENT",
    ];
    let state = match number_of {
        protocol::TCP => state(1).and_then(|s| TCP.get(usize::from(s))).copied(),
        protocol::SCTP => state(3).and_then(|s| SCTP.get(usize::from(s))).copied(),
        _ => None,
    };
    Some(text(&Entry {
        protocol: number_of,
        state: state.unwrap_or("-").to_owned(),
        original,
        reply,
        mark: number(8),
        status: number(3),
        timeout: u64::from(number(7)),
    }))
}

fn tuple(bytes: &[u8]) -> Option<(u8, String)> {
    let tuple = Attributes::new(bytes);
    let ip = Attributes::new(tuple.get(1)?);
    let proto = Attributes::new(tuple.get(2)?);
    let address = |four, six| -> Option<IpAddr> {
        match ip.get(four) {
            Some(bytes) => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            None => Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(six)?).ok()?)),
        }
    };
    let number = *proto.get(1)?.first()?;
    let icmp = |id: u16| {
        let byte = |at| Some(*proto.get(at)?.first()?);
        Some((u16_be(proto.get(id)?)?, u16::from_be_bytes([byte(id + 1)?, byte(id + 2)?])))
    };
    let (sport, dport) = match number {
        protocol::ICMP => icmp(4)?,
        protocol::ICMPV6 => icmp(7)?,
        _ => {
            (proto.get(2).and_then(u16_be).unwrap_or(0), proto.get(3).and_then(u16_be).unwrap_or(0))
        }
    };
    let (src, dst) =
        (SocketAddr::new(address(1, 3)?, sport), SocketAddr::new(address(2, 4)?, dport));
    Some((number, format!("{src} > {dst}")))
}
