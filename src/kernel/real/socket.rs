//! A netlink socket: sends a batch or a request, reads answers.
//! Knows message framing and errno, not what the messages mean. Tests: `netlab`.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, sendto, setsockopt, socket, sockopt,
};

use super::lookout::{Ear, Missed, generation};
use crate::kernel::{Error, ErrorKind};
use crate::netlink::read::{Attributes, Message, Messages, text};
use crate::netlink::write::{Head, Writer};
use crate::netlink::{ACK, DUMP, NLMSG_DONE, NLMSG_ERROR, REQUEST, SUBSYS_NFTABLES};

/// The send buffer asked for: room for the largest step of a plan several times over.
const SEND_BUFFER: usize = 256 << 20;
/// The receive buffer asked for: dumps come in pieces, errors of a batch all at once.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Largest datagram the kernel puts together for a dump, doubled.
const DATAGRAM: usize = 64 << 10;
/// The largest transaction of ours that the kernel may tell us of: some hundred elements.
const HEARD_WITH_EASE: usize = 32 << 10;
/// `NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = 16;
/// How often a dump that was interrupted by a change is asked for again.
const DUMP_TRIES: usize = 20;
/// `NLM_F_DUMP_INTR`: the table changed while it was listed.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A netlink socket of one family.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    /// The most bytes one send may have.
    pub(super) largest: usize,
    /// Who hears of changes, to be closed while large ones of our own are made.
    pub(super) ear: Option<Ear>,
}

/// An errno with the operation it belongs to.
pub(super) fn errno_error(operation: &str, errno: Errno) -> Error {
    let kind = Error::kind_of_errno(errno as i32);
    Error::new(kind, operation, format!("{} ({errno:?})", errno.desc()))
}

impl Netlink {
    /// Opens one in the calling thread's network namespace; `name` is the family's for people.
    pub(super) fn open((family, name): (SockProtocol, &str)) -> Result<Netlink, Error> {
        let what = format!("open a {name} netlink socket");
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, family)
            .map_err(|e| errno_error(&what, e))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(|e| errno_error(&what, e))?;
        // The kernel answers within the system call that asks; this is only against a hang.
        let patience = nix::sys::time::TimeVal::new(30, 0);
        let _ = setsockopt(&socket, sockopt::ReceiveTimeout, &patience);
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        let largest = match setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER) {
            Ok(()) => SEND_BUFFER,
            // Not in the initial user namespace: as much as net.core.wmem_max lets us.
            Err(_) => {
                let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
                nix::sys::socket::getsockopt(&socket, sockopt::SndBuf).unwrap_or(64 << 10) - 64
            }
        };
        Ok(Netlink { socket, buffer: vec![0; DATAGRAM], sequence: 0, largest, ear: None })
    }

    /// A sequence number for a request.
    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1) | 1 << 30;
        self.sequence
    }

    /// The number by which the kernel tells our transactions from others'.
    pub(super) fn port(&self) -> u32 {
        getsockname::<NetlinkAddr>(self.socket.as_raw_fd()).map_or(0, |own| own.pid())
    }

    /// A request of rtnetlink for a list of both families. A head of one byte, the family, is
    /// enough for every list (`struct rtgenmsg`).
    pub(super) fn route_request(&mut self, kind: u16) -> Vec<u8> {
        let mut w = Writer::new();
        let flags = REQUEST | DUMP;
        let sequence = self.next_sequence();
        let open = w.open_message(Head { kind, flags, sequence, family: 0, resource: 0 });
        w.close_message(open);
        w.into_bytes()
    }

    fn send(&mut self, what: &str, bytes: &[u8]) -> Result<(), Error> {
        loop {
            let to = NetlinkAddr::new(0, 0);
            match sendto(self.socket.as_raw_fd(), bytes, &to, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(errno_error(&format!("{what}, {} bytes", bytes.len()), e)),
            }
        }
    }

    /// One datagram; `None` where there is none and none is to be waited for.
    fn receive(&mut self, flags: MsgFlags) -> Result<Option<usize>, Error> {
        loop {
            let fd = self.socket.as_raw_fd();
            match recv(fd, &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => {
                    let source = format!("a datagram of {len} bytes");
                    return Err(Error::new(ErrorKind::Broken, "read from netlink", source));
                }
                Ok(len) => return Ok(Some(len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if flags.contains(MsgFlags::MSG_DONTWAIT) => return Ok(None),
                Err(e) => return Err(errno_error("read from netlink", e)),
            }
        }
    }

    /// Carries out a batch: the kernel works through it inside the system call, so that errors
    /// are there when it returns, and silence means that all of it took effect.
    pub(super) fn batch(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(ear) = self.ear.clone().filter(|_| bytes.len() > HEARD_WITH_EASE) else {
            return self.carry_out(bytes);
        };
        let before = self.generation().ok();
        ear.close();
        let outcome = self.carry_out(bytes);
        let after = self.generation().ok();
        let own = u32::from(outcome.is_ok());
        let alone = before.zip(after).is_some_and(|(b, a)| a.wrapping_sub(b) == own);
        ear.listen(if alone { Missed::Nothing } else { Missed::Something });
        outcome
    }

    /// The number of the ruleset's generation, which each transaction raises by one.
    pub(super) fn generation(&mut self) -> Result<u32, Error> {
        let mut w = Writer::new();
        let open = w.open_message(Head {
            kind: SUBSYS_NFTABLES | GET_GENERATION,
            flags: REQUEST | ACK,
            sequence: self.next_sequence(),
            family: 0,
            resource: 0,
        });
        w.close_message(open);
        let what = ("ask for nf_tables' generation", w.as_bytes());
        let told = self.ask(what, |out, message| out.extend(generation(message)))?;
        let silent = || Error::new(ErrorKind::Broken, "ask for nf_tables' generation", "no answer");
        told.into_iter().next().ok_or_else(silent)
    }

    fn carry_out(&mut self, bytes: &[u8]) -> Result<(), Error> {
        while self.receive(MsgFlags::MSG_DONTWAIT)?.is_some() {
            // An answer nobody waited for any more.
        }
        self.send("nf_tables batch", bytes)?;
        let mut first = None;
        while let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            for message in Messages::new(&self.buffer[..len]) {
                if let Some(errno) = error_of(&message) {
                    first.get_or_insert_with(|| batch_error(bytes, &message, errno));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Sends messages that are no batch: each is carried out whatever becomes of the others. What
    /// was refused comes back, in order, and is given to `refused` with its message.
    pub(super) fn each(
        &mut self,
        (what, messages): (&str, &[u8]),
        mut refused: impl FnMut(i32, &Message<'_>),
    ) -> Result<(), Error> {
        while self.receive(MsgFlags::MSG_DONTWAIT)?.is_some() {
            // An answer nobody waited for any more.
        }
        if messages.is_empty() {
            return Ok(());
        }
        self.send(what, messages)?;
        while let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            for message in Messages::new(&self.buffer[..len]) {
                if let Some(errno) = raw_error_of(&message) {
                    refused(errno, &message);
                }
            }
        }
        Ok(())
    }

    /// Sends a request and gives every answer to `take`; a dump that a change interrupted begins
    /// anew, after `restart`.
    pub(super) fn ask<T>(
        &mut self,
        (what, request): (&str, &[u8]),
        mut take: impl FnMut(&mut Vec<T>, &Message<'_>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_TRIES {
            self.send(what, request)?;
            let sequence = Messages::new(request).next().map(|message| message.sequence);
            if let Some(answers) = self.answers((what, sequence), &mut take)? {
                return Ok(answers);
            }
        }
        Err(Error::new(ErrorKind::Busy, what, "it changed again and again while it was listed"))
    }

    fn answers<T>(
        &mut self,
        (what, sequence): (&str, Option<u32>),
        take: &mut impl FnMut(&mut Vec<T>, &Message<'_>),
    ) -> Result<Option<Vec<T>>, Error> {
        let mut out = Vec::new();
        let mut interrupted = false;
        loop {
            let len = self.receive(MsgFlags::empty())?.unwrap_or(0);
            // Rests of an answer that was given up half-way have another number.
            let ours = |message: &Message<'_>| Some(message.sequence) == sequence;
            for message in Messages::new(&self.buffer[..len]).filter(ours) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match (message.kind, error_of(&message)) {
                    (NLMSG_ERROR, Some(Errno::EINTR)) => interrupted = true,
                    (NLMSG_ERROR, Some(errno)) => return Err(errno_error(what, errno)),
                    (NLMSG_DONE | NLMSG_ERROR, _) => {
                        return Ok((!interrupted).then_some(out));
                    }
                    _ => take(&mut out, &message),
                }
            }
        }
    }
}

/// The errno of an error message; `None` for an acknowledgement and for other messages.
fn error_of(message: &Message<'_>) -> Option<Errno> {
    raw_error_of(message).map(Errno::from_raw)
}

/// The number of an error message, which may be one that only its subsystem knows.
fn raw_error_of(message: &Message<'_>) -> Option<i32> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let errno = i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    (errno != 0).then(|| errno.saturating_neg())
}

/// Says which message of a batch the kernel refused, and on which object.
fn batch_error(batch: &[u8], error: &Message<'_>, errno: Errno) -> Error {
    let refused = Messages::new(batch).find(|m| m.sequence == error.sequence);
    let operation = match refused {
        Some(message) => format!("nf_tables {}", describe(&message)),
        None => "nf_tables batch".to_owned(),
    };
    errno_error(&operation, errno)
}

/// A message in words: what it does to which table, chain or set.
fn describe(message: &Message<'_>) -> String {
    const NAMES: [&str; 15] = [
        "NEWTABLE",
        "GETTABLE",
        "DELTABLE",
        "NEWCHAIN",
        "GETCHAIN",
        "DELCHAIN",
        "NEWRULE",
        "GETRULE",
        "DELRULE",
        "NEWSET",
        "GETSET",
        "DELSET",
        "NEWSETELEM",
        "GETSETELEM",
        "DELSETELEM",
    ];
    let number = usize::from(message.kind & 0xff);
    let attributes: Attributes<'_> = message.attributes();
    let word = |n: u16| attributes.get(n).map(text).unwrap_or_default();
    let object = match number {
        3 | 5 => word(3),
        6..=14 => word(2),
        _ => String::new(),
    };
    let name = NAMES.get(number).copied().unwrap_or("batch");
    format!("{name}, table {} {object}", word(1)).trim_end().to_owned()
}
