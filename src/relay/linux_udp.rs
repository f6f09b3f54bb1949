//! Linux's UDP sockets: `recvmmsg`, `sendmmsg`, `sendmsg` of several datagrams as one packet, epoll. It
//! knows no endpoint list.
//! Tests: `threads_tests.rs`, `netlab`.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage,
    getsockopt, recvmmsg, sendmmsg, sendmsg, setsockopt,
};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::datagrams::{AT_ONCE, Batch, Datagrams, LARGEST};
use super::linux::{Opened, Watch};
use super::segments::{alike, cut};
use super::sockets::{Happened, Token, Trouble};

/// Bytes of datagrams that may wait at a socket, if the kernel lets us.
const WAITING: usize = 4 << 20;

/// Packets that are asked for where few may wait.
const FEW: usize = 4;

/// UDP sockets of the network namespace of the thread that uses them.
pub(super) struct LinuxUdp {
    watch: Watch,
    /// How many packets are asked for next.
    ask: usize,
    /// For what is sent, with whom each goes to.
    sent: MultiHeaders<SockaddrStorage>,
    to: Vec<Option<SockaddrStorage>>,
}

/// Whether this kernel takes several datagrams as one packet, to cut it up as late as it can, and is to;
/// asked once. Before Linux 4.18 it would send them as one datagram.
fn goes_together() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let wanted = std::env::var(SEGMENTS).map_or(true, |said| said != "off");
        let knows = |socket: OwnedFd| getsockopt(&socket, UdpGsoSegment).is_ok();
        wanted && datagram_socket(AddressFamily::INET).is_ok_and(knows)
    })
}

fn datagram_socket(family: AddressFamily) -> Result<OwnedFd, Trouble> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::DGRAM, flags, None)?)
}

/// `off`: each datagram goes through the kernel alone.
const SEGMENTS: &str = "KUBE_PROXY_UDP_SEGMENTS";

/// A socket.
#[derive(Debug)]
pub(super) struct Udp {
    socket: OwnedFd,
    /// Datagrams longer than this do not go together with others: the path, the device or the kernel
    /// does not let them.
    longest: AtomicUsize,
}

impl LinuxUdp {
    /// Watches with what was opened for it.
    pub(super) fn new(opened: Opened) -> LinuxUdp {
        LinuxUdp {
            watch: Watch::new(opened),
            ask: FEW,
            sent: MultiHeaders::preallocate(AT_ONCE, None),
            to: Vec::with_capacity(AT_ONCE),
        }
    }
}

impl Udp {
    fn new(family: AddressFamily) -> Result<Udp, Trouble> {
        let socket = datagram_socket(family)?;
        let together = goes_together();
        if together {
            // What was sent together may come together; before Linux 5.0 it does not.
            let _ = setsockopt(&socket, UdpGroSegment, &true);
        }
        Ok(Udp { socket, longest: AtomicUsize::new(if together { LARGEST } else { 0 }) })
    }

    /// The socket itself.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.socket
    }
}

fn family_of(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A socket that takes datagrams at this address, whether or not this host has it yet; port 0
/// takes any free one.
pub(super) fn listen(at: SocketAddr) -> Result<Arc<Udp>, Trouble> {
    let udp = Udp::new(family_of(at))?;
    match at {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&udp.socket, true)?,
        SocketAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&udp.socket, true)?;
            sockopt::set_ipv6_freebind(&udp.socket, true)?;
        }
    }
    // Beyond net.core.rmem_max only with CAP_NET_ADMIN; the kernel's default does as well.
    let _ = sockopt::set_socket_recv_buffer_size_force(&udp.socket, WAITING);
    bind(&udp.socket, &at)?;
    Ok(Arc::new(udp))
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let four = storage.as_sockaddr_in().map(|a| SocketAddr::V4(SocketAddrV4::from(*a)));
    four.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6(SocketAddrV6::from(*a))))
}

fn trouble(errno: Errno) -> Trouble {
    Trouble::from(rustix::io::Errno::from_raw_os_error(errno as i32))
}

impl LinuxUdp {
    fn take(&mut self, from: &Udp, batch: &mut Batch) -> Result<(), Trouble> {
        let Batch { bytes, datagrams, is_full } = batch;
        datagrams.clear();
        let mut chunks = bytes.chunks_mut(LARGEST);
        let mut rooms: [[IoSliceMut<'_>; 1]; AT_ONCE] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        // New ones each time: the kernel writes lengths into them, of addresses and of what it tells
        // beside, and nobody sets them back.
        let asked = std::mem::replace(&mut self.ask, FEW);
        let beside = nix::cmsg_space!(i32);
        let mut headers: MultiHeaders<SockaddrStorage> =
            MultiHeaders::preallocate(asked, Some(beside));
        let (fd, flags) = (from.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received =
            recvmmsg(fd, &mut headers, rooms.iter_mut(), flags, None).map_err(trouble)?;
        let mut count = 0;
        for message in received {
            let start = count * LARGEST;
            let from = message.address.as_ref().and_then(socket_address);
            let all = cut(start..start + message.bytes, together(&message));
            datagrams.extend(all.map(|at| (from, at)));
            count += 1;
        }
        *is_full = count == asked;
        if *is_full {
            self.ask = AT_ONCE;
        }
        Ok(())
    }

    /// Sends some of a batch; how many went. An error is told when it comes first.
    fn send(
        &mut self,
        over: &Udp,
        (batch, which): (&Batch, Range<usize>),
        to: Option<SocketAddr>,
    ) -> Result<usize, Trouble> {
        let mut rest = which.clone();
        while !rest.is_empty() {
            let longest = over.longest.load(Ordering::Relaxed);
            let count = alike(batch, rest.clone(), longest);
            let went = if count > 1 {
                let some = rest.start..rest.start + count;
                send_together(over, (batch, some), to)
            } else {
                let alone = alone(batch, rest.clone(), longest);
                self.send_alone(over, (batch, rest.start..rest.start + alone), to)
            };
            match went {
                Ok(count) => rest.start += count,
                Err(trouble) if rest.start == which.start => return Err(trouble),
                Err(_) => break,
            }
        }
        Ok(rest.start - which.start)
    }

    fn send_alone(
        &mut self,
        over: &Udp,
        (batch, which): (&Batch, Range<usize>),
        to: Option<SocketAddr>,
    ) -> Result<usize, Trouble> {
        let mut bytes =
            batch.datagrams[which.clone()].iter().map(|(_, at)| &batch.bytes[at.clone()]);
        let rooms: [[IoSlice<'_>; 1]; AT_ONCE] =
            std::array::from_fn(|_| [IoSlice::new(bytes.next().unwrap_or_default())]);
        // As many are sent as there are addresses.
        self.to.clear();
        self.to.resize(which.len().min(AT_ONCE), to.map(SockaddrStorage::from));
        let fd = over.socket.as_raw_fd();
        let sent = sendmmsg(fd, &mut self.sent, rooms.iter(), &self.to, [], NOW);
        Ok(sent.map_err(trouble)?.count())
    }
}

/// Sends datagrams as one packet; how many went: none, if they are to go alone.
fn send_together(
    over: &Udp,
    (batch, which): (&Batch, Range<usize>),
    to: Option<SocketAddr>,
) -> Result<usize, Trouble> {
    let datagrams = &batch.datagrams[which];
    let each = datagrams.first().map_or(0, |(_, at)| at.len());
    let bytes = datagrams.iter().map(|(_, at)| IoSlice::new(&batch.bytes[at.clone()]));
    let bytes: Vec<IoSlice<'_>> = bytes.collect();
    let length = u16::try_from(each).unwrap_or_default();
    let by_length = [ControlMessage::UdpGsoSegments(&length)];
    let to = to.map(SockaddrStorage::from);
    match sendmsg(over.socket.as_raw_fd(), &bytes, &by_length, NOW, to.as_ref()) {
        Ok(_) => Ok(datagrams.len()),
        // Longer than what the path takes, or a device without checksums or with IPsec.
        Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO) => {
            over.longest.fetch_min(each.saturating_sub(1), Ordering::Relaxed);
            Ok(0)
        }
        Err(errno) => Err(trouble(errno)),
    }
}

const NOW: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// The length of datagrams that came as one; 0 for one that came alone.
fn together(message: &RecvMsg<'_, '_, SockaddrStorage>) -> usize {
    let told = message.cmsgs().into_iter().flatten();
    let length = |told| match told {
        ControlMessageOwned::UdpGroSegments(length) => usize::try_from(length).ok(),
        _ => None,
    };
    told.filter_map(length).next().unwrap_or(0)
}

/// How many datagrams from the beginning of a range go alone, until some can go together.
fn alone(batch: &Batch, range: Range<usize>, longest: usize) -> usize {
    let most = range.len().min(AT_ONCE);
    let goes = |count: &usize| alike(batch, range.start + count..range.end, longest) > 1;
    (1..most).find(goes).unwrap_or(most)
}

impl Datagrams for LinuxUdp {
    type Listener = Arc<Udp>;
    type Upstream = Udp;

    fn connect(&mut self, to: SocketAddr) -> Result<Udp, Trouble> {
        let udp = Udp::new(family_of(to))?;
        connect(&udp.socket, &to)?;
        Ok(udp)
    }

    fn watch_listener(&mut self, listener: &Arc<Udp>, token: Token) -> Result<(), Trouble> {
        self.watch(listener, token)
    }

    fn unwatch_listener(&mut self, listener: &Arc<Udp>) {
        // It may not be watched: then there is nothing to undo.
        let _ = epoll::delete(self.watch.epoll(), &listener.socket);
    }

    fn watch(&mut self, upstream: &Udp, token: Token) -> Result<(), Trouble> {
        let data = EventData::new_u64(token);
        Ok(epoll::add(self.watch.epoll(), &upstream.socket, data, EventFlags::IN)?)
    }

    fn receive(&mut self, listener: &Arc<Udp>, batch: &mut Batch) -> Result<(), Trouble> {
        self.take(listener, batch)
    }

    fn answers(&mut self, upstream: &Udp, batch: &mut Batch) -> Result<(), Trouble> {
        self.take(upstream, batch)
    }

    fn forward(
        &mut self,
        upstream: &Udp,
        batch: &Batch,
        which: Range<usize>,
    ) -> Result<usize, Trouble> {
        self.send(upstream, (batch, which), None)
    }

    fn answer(&mut self, listener: &Arc<Udp>, batch: &Batch, to: SocketAddr) {
        // What finds no room is lost, as on any link.
        let _ = self.send(listener, (batch, 0..batch.datagrams.len()), Some(to));
    }

    fn close(&mut self, upstream: Udp) {
        drop(upstream);
    }

    fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        patience: Option<Duration>,
    ) -> Result<(), Trouble> {
        self.watch.wait(happened, patience)
    }
}
