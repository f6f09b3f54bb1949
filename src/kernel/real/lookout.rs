//! Hears of others' changes to nf_tables: the multicast group `NFNLGRP_NFTABLES`.
//!
//! The kernel tells of our own transactions as well, element by element, which costs it as much as
//! carrying them out; so the group is left while a large one is under way, and the generation's
//! number says whether anybody else came in between. Tests: `netlab` (`drift-…`).

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, setsockopt, socket, sockopt,
};

use super::socket::errno_error;
use crate::kernel::drift::{Foreign, Lookout, Process, Touched};
use crate::kernel::{Error, ErrorKind};
use crate::model::Family;
use crate::netlink::nft::message;
use crate::netlink::read::{Message, Messages, text, u32_be, u32_ne};
use crate::netlink::{HEADER_LEN, NFGEN_LEN, SUBSYS_NFTABLES};

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// `NFT_MSG_NEWGEN`: the end of a transaction.
const NEW_GENERATION: u16 = 15;
/// Room for what is told while nobody listens.
const BUFFER: usize = 8 << 20;
/// The kernel puts news together up to this size.
const DATAGRAM: usize = 64 << 10;

/// A socket in the group, whose ear can be closed for a while.
#[derive(Clone, Debug)]
pub(super) struct Ear {
    socket: Arc<OwnedFd>,
    port: u32,
    missed: Arc<AtomicBool>,
    /// Processes that write for us, and since when they have ended.
    writers: Arc<Mutex<BTreeMap<u32, Option<Instant>>>>,
}

/// How long after its end what a process of ours did may still be heard; numbers are used again.
const ECHO: Duration = Duration::from_secs(5);

impl Ear {
    pub(super) fn open() -> Result<Ear, Error> {
        const WHAT: &str = "listen for changes of nf_tables";
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(|e| errno_error(WHAT, e))?;
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER);
        }
        let glance = nix::sys::time::TimeVal::new(0, 500_000);
        setsockopt(&socket, sockopt::ReceiveTimeout, &glance).map_err(|e| errno_error(WHAT, e))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).map_err(|e| errno_error(WHAT, e))?;
        let own: NetlinkAddr = getsockname(socket.as_raw_fd()).map_err(|e| errno_error(WHAT, e))?;
        Ok(Ear {
            socket: Arc::new(socket),
            port: own.pid(),
            missed: Arc::default(),
            writers: Arc::default(),
        })
    }

    /// From now on what this process does is our own doing; it has not begun yet.
    pub(super) fn employ(&self, process: u32) {
        self.writers().insert(process, None);
    }

    /// The process has ended.
    pub(super) fn dismiss(&self, process: u32) {
        self.writers().insert(process, Some(Instant::now()));
    }

    /// Whether a process writes for us, or did a moment ago.
    fn is_ours(&self, process: u32) -> bool {
        let mut writers = self.writers();
        writers.retain(|_, ended| ended.is_none_or(|ended| ended.elapsed() < ECHO));
        writers.contains_key(&process)
    }

    fn writers(&self) -> MutexGuard<'_, BTreeMap<u32, Option<Instant>>> {
        self.writers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Hears nothing until [`Ear::listen`].
    pub(super) fn close(&self) {
        let _ = bind(self.socket.as_raw_fd(), &NetlinkAddr::new(self.port, 0));
    }

    /// Hears again. Whether somebody may have come in between is the caller's to know.
    pub(super) fn listen(&self, missed: Missed) {
        if missed == Missed::Something {
            self.missed.store(true, Ordering::Relaxed);
        }
        let _ = bind(self.socket.as_raw_fd(), &NetlinkAddr::new(self.port, GROUP));
    }
}

/// Whether something was said while nobody listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    Nothing,
    Something,
}

/// The real lookout.
pub(super) struct Netlink {
    ear: Ear,
    /// The netlink port from which our own transactions come.
    own: u32,
    buffer: Vec<u8>,
    heard: Vec<u8>,
    /// What unfinished transactions have touched so far, by the port they come from.
    open: BTreeMap<u32, Foreign>,
}

impl Netlink {
    pub(super) fn new(ear: Ear, own: u32) -> Netlink {
        let (buffer, heard) = (vec![0; DATAGRAM], Vec::new());
        Netlink { ear, own, buffer, heard, open: BTreeMap::new() }
    }

    /// Takes in one datagram; gives the transactions that it ends.
    fn receive(&mut self) -> Result<Option<Foreign>, Error> {
        match recv(self.ear.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(len) => self.heard.extend_from_slice(&self.buffer[..len]),
            // Time and again, to see whether something was missed.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENOBUFS) => {
                return Ok(Some(Foreign { more: true, ..Foreign::default() }));
            }
            Err(e) => return Err(errno_error("hear of changes of nf_tables", e)),
        }
        Ok(None)
    }

    /// Works off what was heard, up to the end of a transaction of somebody else.
    fn work_off(&mut self) -> Option<Foreign> {
        while let Some(message) = Messages::new(&self.heard).next() {
            let len = (HEADER_LEN + message.body.len()).next_multiple_of(4).min(self.heard.len());
            let port = u32_ne(&self.heard[12..]).unwrap_or_default();
            // A netlink port bears the number of its process as that one's own namespace counts,
            // which is ours too; the number in the message is that of the first namespace.
            let ours = port == self.own || self.ear.is_ours(port);
            let ended = if ours { None } else { take(&mut self.open, port, &message) };
            self.heard.drain(..len);
            let by_us = |who: &Process| self.ear.is_ours(who.id);
            if ended.as_ref().is_some_and(|ended| !ended.process.as_ref().is_some_and(by_us)) {
                return ended;
            }
        }
        self.heard.clear();
        None
    }
}

impl Lookout for Netlink {
    fn next(&mut self) -> Result<Foreign, Error> {
        loop {
            if self.ear.missed.swap(false, Ordering::Relaxed) {
                return Ok(Foreign { more: true, ..Foreign::default() });
            }
            if let Some(foreign) = self.work_off() {
                return Ok(foreign);
            }
            if let Some(lost) = self.receive()? {
                return Ok(lost);
            }
        }
    }
}

/// Takes in one message of somebody else.
fn take(open: &mut BTreeMap<u32, Foreign>, port: u32, message: &Message<'_>) -> Option<Foreign> {
    if message.kind & 0xff00 != SUBSYS_NFTABLES {
        return None;
    }
    let kind = message.kind & 0xff;
    if kind == NEW_GENERATION {
        let mut foreign = open.remove(&port).unwrap_or_default();
        foreign.process = process(message);
        return (!foreign.touched.is_empty()).then_some(foreign);
    }
    let family = match message.body.first() {
        Some(2) => Family::V4,
        Some(10) => Family::V6,
        _ => return None,
    };
    let attributes = message.attributes();
    let table = attributes.get(1).map(text)?;
    let name = match kind {
        message::NEW_TABLE | message::DELETE_TABLE => None,
        message::NEW_CHAIN | message::DELETE_CHAIN => attributes.get(3),
        _ => attributes.get(2),
    };
    let object = name.map(text).unwrap_or_default();
    open.entry(port).or_default().touched.insert(Touched { family, table, object });
    None
}

fn process(message: &Message<'_>) -> Option<Process> {
    let attributes = message.attributes();
    let (id, name) = (u32_be(attributes.get(2)?)?, attributes.get(3).map(text)?);
    Some(Process { id, name })
}

/// The number of the present generation, from the answer to `NFT_MSG_GETGEN`.
pub(super) fn generation(message: &Message<'_>) -> Option<u32> {
    debug_assert!(message.body.len() >= NFGEN_LEN);
    message.attributes().get(1).and_then(u32_be)
}

/// What is said where the group cannot be listened to.
pub(super) fn deaf(error: Error) -> Error {
    let source = format!("{}; changes by others are noticed at housekeeping only", error.source);
    Error::new(ErrorKind::Unsupported, error.operation, source)
}
