//! Linux's sockets, without a copy through this process: `accept4`, `splice`, epoll.
//! It knows no endpoint list. Tests: `threads_tests.rs`, `netlab`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, connect, send,
    shutdown, socket_with, sockopt,
};
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

use super::pipes::PIPE_BYTES;
use super::sockets::{Filled, Happened, Interest, Sockets, Token, Trouble};

/// How long a connection is silent before the other side is asked whether it is still there, and
/// between two questions: Go's default, which the reference had. After nine it is broken.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After so few bytes it is asked whether more wait.
const SHORT: usize = 16 << 10;
/// Connections that may wait to be accepted at one port; `net.core.somaxconn` may be less.
const BACKLOG: i32 = 4096;
/// Events taken at once.
const EVENTS: usize = 512;
/// The event of being woken by another thread.
pub(super) const WOKEN: Token = u64::MAX;

/// Sockets that are watched, and the bell that ends a wait.
pub(super) struct Watch {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
    events: Vec<epoll::Event>,
}

/// Sockets of the network namespace of the thread that uses them.
pub(super) struct Linux {
    watch: Watch,
}

/// A pipe: where bytes go in, and where they come out.
#[derive(Debug)]
pub(super) struct Pipe {
    write: OwnedFd,
    read: OwnedFd,
    /// Parts of packets that it has room for.
    places: usize,
}

/// Wakes a thread that waits.
#[derive(Clone, Debug)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Wakes it; if it is awake, its next wait ends at once.
    pub(super) fn ring(&self) {
        // It fails only where the bell has rung 2^64 times and nobody heard it.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        match errno {
            Errno::AGAIN | Errno::INPROGRESS | Errno::INTR => Trouble::NotNow,
            Errno::CONNREFUSED => Trouble::Refused,
            Errno::CONNRESET | Errno::PIPE => Trouble::Reset,
            Errno::ADDRNOTAVAIL => Trouble::NoPort,
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Trouble::Exhausted,
            other => Trouble::Other(other.raw_os_error()),
        }
    }
}

/// What is opened where a thread is started, for `Watch`, which cannot change threads.
#[derive(Debug)]
pub(super) struct Opened {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
}

impl Opened {
    /// Opens it, with its bell.
    pub(super) fn open() -> Result<(Opened, Bell), Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &bell, EventData::new_u64(WOKEN), EventFlags::IN)?;
        Ok((Opened { epoll, bell: bell.clone() }, Bell(bell)))
    }
}

impl Watch {
    pub(super) fn new(opened: Opened) -> Watch {
        let Opened { epoll, bell } = opened;
        Watch { epoll, bell, events: Vec::with_capacity(EVENTS) }
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    pub(super) fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        patience: Option<Duration>,
    ) -> Result<(), Trouble> {
        let limit = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        });
        self.events.clear();
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, buffer, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &self.events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token == WOKEN {
                let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
            }
            happened.push(Happened {
                token,
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                writable: flags.contains(EventFlags::OUT),
                ending: flags.intersects(EventFlags::RDHUP | EventFlags::ERR | EventFlags::HUP),
                broken: flags.intersects(EventFlags::ERR | EventFlags::HUP),
            });
        }
        Ok(())
    }
}

impl Linux {
    /// Watches with what was opened for it.
    pub(super) fn new(opened: Opened) -> Linux {
        Linux { watch: Watch::new(opened) }
    }
}

/// A socket that listens at this address, whether or not this host has the address yet; port 0
/// takes any free one.
pub(super) fn listen(at: SocketAddr) -> Result<Arc<OwnedFd>, Errno> {
    let socket = stream_socket(at)?;
    match at {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    // A restart must get the port although connections of the last one are still being ended.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Inherited by what is accepted: bytes go on as they came, nothing waits for more of them.
    sockopt::set_tcp_nodelay(&socket, true)?;
    keep_alive(&socket)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Arc::new(socket))
}

/// The port a socket is bound to.
pub(super) fn port_of(socket: &OwnedFd) -> Result<u16, Errno> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    Ok(address.port())
}

fn stream_socket(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, SocketType::STREAM, flags, None)
}

/// A side that vanished without a word must not keep its connection for ever.
fn keep_alive(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE)?;
    sockopt::set_socket_keepalive(socket, true)
}

fn flags(interest: Interest) -> EventFlags {
    let read = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    match interest {
        Interest::Waiting => EventFlags::IN | EventFlags::EXCLUSIVE,
        Interest::Read => read,
        Interest::ReadWrite => read | EventFlags::OUT,
    }
}

impl Sockets for Linux {
    type Listener = Arc<OwnedFd>;
    type Socket = OwnedFd;
    type Pipe = Pipe;

    fn accept(&mut self, listener: &Self::Listener) -> Result<(OwnedFd, SocketAddr), Trouble> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, from) = acceptfrom_with(listener, flags)?;
        let from = from.ok_or(Errno::NOTCONN)?;
        Ok((socket, SocketAddr::try_from(from)?))
    }

    fn asked(&mut self, socket: &OwnedFd) -> Option<SocketAddr> {
        let four = || sockopt::ip_original_dst(socket).map(SocketAddr::V4);
        let six = || sockopt::ipv6_original_dst(socket).map(SocketAddr::V6);
        four().or_else(|_| six()).ok()
    }

    fn connect(&mut self, to: SocketAddr) -> Result<OwnedFd, Trouble> {
        let socket = stream_socket(to)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(errno) => Err(errno.into()),
        }
    }

    fn outcome(&mut self, socket: &OwnedFd) -> Result<(), Trouble> {
        Ok(sockopt::socket_error(socket)??)
    }

    fn hurry(&mut self, socket: &OwnedFd) {
        // No error is known on a TCP socket; bytes would only go later.
        let _ = sockopt::set_tcp_nodelay(socket, true);
    }

    fn keep_alive(&mut self, socket: &OwnedFd) {
        // No error is known on a TCP socket; it would only be noticed later that the other is gone.
        let _ = keep_alive(socket);
    }

    fn watch_listener(&mut self, listener: &Self::Listener, token: Token) -> Result<(), Trouble> {
        let data = EventData::new_u64(token);
        Ok(epoll::add(self.watch.epoll(), listener, data, flags(Interest::Waiting))?)
    }

    fn unwatch_listener(&mut self, listener: &Self::Listener) {
        // It may not be watched: then there is nothing to undo.
        let _ = epoll::delete(self.watch.epoll(), listener);
    }

    fn watch(&mut self, socket: &OwnedFd, token: Token, what: Interest) -> Result<(), Trouble> {
        Ok(epoll::add(self.watch.epoll(), socket, EventData::new_u64(token), flags(what))?)
    }

    fn rewatch(&mut self, socket: &OwnedFd, token: Token, what: Interest) {
        // A watched socket can be watched for something else: no error is known (epoll_ctl(2)).
        let _ = epoll::modify(self.watch.epoll(), socket, EventData::new_u64(token), flags(what));
    }

    fn pipe(&mut self) -> Result<Pipe, Trouble> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused beyond a user's share (fs.pipe-user-pages-soft): then it is a smaller one.
        let size = fcntl_setpipe_size(&write, PIPE_BYTES).or_else(|_| fcntl_getpipe_size(&write));
        // Of unknown size nothing can be said of what is left in a socket: no place is one of those.
        let places = size.map_or(0, |bytes| bytes / rustix::param::page_size());
        Ok(Pipe { write, read, places })
    }

    fn fill(&mut self, from: &OwnedFd, pipe: &Pipe, most: usize) -> Result<Filled, Trouble> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = splice(from, None, &pipe.write, None, most, flags)?;
        let filled = Filled::of(count, pipe.places, most);
        // To ask costs a third of what it costs to try, and an answer is seldom longer than this.
        let asks = !filled.drained && count <= SHORT.min(most);
        let drained = filled.drained || asks && ioctl_fionread(from) == Ok(0);
        Ok(Filled { drained, ..filled })
    }

    fn empty(&mut self, pipe: &Pipe, to: &OwnedFd, held: usize) -> Result<usize, Trouble> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(splice(&pipe.read, None, to, None, held, flags)?)
    }

    fn write(&mut self, to: &OwnedFd, bytes: &[u8]) -> Result<usize, Trouble> {
        Ok(send(to, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    fn finish(&mut self, socket: &OwnedFd) -> Result<(), Trouble> {
        match shutdown(socket, Shutdown::Write) {
            // It has ended on both sides already.
            Err(Errno::NOTCONN) => Ok(()),
            done => Ok(done?),
        }
    }

    fn close(&mut self, socket: OwnedFd) {
        drop(socket);
    }

    fn reset(&mut self, socket: OwnedFd) {
        // With no time to linger, close(2) sends a reset (tcp(7)); where it fails, a FIN goes.
        let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        drop(socket);
    }

    fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        patience: Option<Duration>,
    ) -> Result<(), Trouble> {
        self.watch.wait(happened, patience)
    }
}
