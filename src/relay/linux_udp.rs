//! Linux's UDP sockets: `recvmmsg`, `sendmmsg`, epoll. It knows no endpoint list.
//! Tests: `threads_tests.rs`, `netlab`.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::datagrams::{AT_ONCE, Batch, Datagrams, LARGEST};
use super::linux::{Opened, Watch};
use super::sockets::{Happened, Token, Trouble};

/// Bytes of datagrams that may wait at a socket, if the kernel lets us.
const WAITING: usize = 4 << 20;

/// UDP sockets of the network namespace of the thread that uses them.
pub(super) struct LinuxUdp {
    watch: Watch,
    /// The kernel writes the addresses' lengths into them, so that each family has its own.
    four: MultiHeaders<SockaddrStorage>,
    six: MultiHeaders<SockaddrStorage>,
    /// For what is sent, with whom each goes to.
    sent: MultiHeaders<SockaddrStorage>,
    to: Vec<Option<SockaddrStorage>>,
}

/// A socket, and whose family's headers it takes.
#[derive(Debug)]
pub(super) struct Udp {
    socket: OwnedFd,
    family: AddressFamily,
}

impl LinuxUdp {
    /// Watches with what was opened for it.
    pub(super) fn new(opened: Opened) -> LinuxUdp {
        let headers = || MultiHeaders::preallocate(AT_ONCE, None);
        let (four, six, sent) = (headers(), headers(), headers());
        LinuxUdp { watch: Watch::new(opened), four, six, sent, to: Vec::with_capacity(AT_ONCE) }
    }
}

impl Udp {
    fn new(family: AddressFamily) -> Result<Udp, Trouble> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        Ok(Udp { socket, family })
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

fn trouble(errno: nix::errno::Errno) -> Trouble {
    Trouble::from(rustix::io::Errno::from_raw_os_error(errno as i32))
}

impl LinuxUdp {
    fn take(&mut self, from: &Udp, batch: &mut Batch) -> Result<(), Trouble> {
        let headers =
            if from.family == AddressFamily::INET { &mut self.four } else { &mut self.six };
        let Batch { bytes, datagrams } = batch;
        datagrams.clear();
        let mut chunks = bytes.chunks_mut(LARGEST);
        let mut rooms: [[IoSliceMut<'_>; 1]; AT_ONCE] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = recvmmsg(from.socket.as_raw_fd(), headers, rooms.iter_mut(), flags, None)
            .map_err(trouble)?;
        for (index, message) in received.enumerate() {
            let start = index * LARGEST;
            let from = message.address.as_ref().and_then(socket_address);
            datagrams.push((from, start..start + message.bytes));
        }
        Ok(())
    }

    fn send(
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
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fd = over.socket.as_raw_fd();
        let sent = sendmmsg(fd, &mut self.sent, rooms.iter(), &self.to, [], flags);
        Ok(sent.map_err(trouble)?.count())
    }
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
