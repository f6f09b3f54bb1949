//! What the relay asks of sockets: one trait with two hearts, Linux (`linux`) and memory
//! (`simulated`), so that refused dials, half-closes and races run in tests with a seed.
//!
//! Nothing here blocks but `wait`. It must never know an endpoint list or a Service.
//! Tests: `tests.rs` in memory; Linux's heart in `linux`, `threads_tests.rs` and `netlab`.

use std::net::SocketAddr;
use std::time::Duration;

/// Why a call on a socket did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nothing to read, no room to write, nobody to accept, or the dial goes on: try again when
    /// an event says so (EAGAIN, EINPROGRESS).
    NotNow,
    /// The other side refuses (ECONNREFUSED).
    Refused,
    /// The other side reset the connection (ECONNRESET, EPIPE).
    Reset,
    /// No descriptor or memory is left (EMFILE, ENFILE, ENOBUFS, ENOMEM).
    Exhausted,
    /// Every local port towards this address is in use, or was a moment ago (EADDRNOTAVAIL).
    NoPort,
    /// Anything else, by its errno.
    Other(i32),
}

/// Which socket an event belongs to: chosen by the caller of `watch`.
pub(super) type Token = u64;

/// What happened to a watched socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Happened {
    /// Whose socket.
    pub token: Token,
    /// There may be something to read, or an end to be read.
    pub readable: bool,
    /// There may be room to write, or a dial has ended.
    pub writable: bool,
    /// Nothing comes any more behind what can be read: an end, or a break.
    pub ending: bool,
    /// The connection is broken, or a dial failed; or both sides have ended.
    pub broken: bool,
}

/// What a pipe was filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// So many bytes; 0 is the end.
    pub count: usize,
    /// Whether nothing more could be read then. What comes later has an event of its own, and so has
    /// an end: but one that was told of before may stand behind these bytes.
    pub drained: bool,
}

impl Filled {
    /// So many bytes went into an empty pipe of so many places when so many were asked for.
    ///
    /// Each place holds a part of one packet, a byte at least: with fewer bytes than places there
    /// was room for more, and only an empty socket (or an end) stops the kernel there. With more,
    /// small packets may have used up all places, so that nothing is known.
    pub(super) fn of(count: usize, places: usize, asked: usize) -> Filled {
        Filled { count, drained: count < places && count < asked }
    }
}

/// What is to be told of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// As long as somebody waits to be accepted, or datagrams wait; of several threads that watch
    /// one listener only one is told.
    Waiting,
    /// Each time something more can be read.
    Read,
    /// Each time something more can be read or written.
    ReadWrite,
}

/// Streams and the pipes between them.
pub(super) trait Sockets {
    /// A listening socket; clones are the same socket.
    type Listener: Clone + Send;
    /// A connected socket.
    type Socket;
    /// A pipe of the kernel, through which bytes go from one socket to another without a copy.
    type Pipe;

    /// Takes the next connection, and says who made it.
    fn accept(&mut self, listener: &Self::Listener) -> Result<(Self::Socket, SocketAddr), Trouble>;
    /// The address that a client asked for before it was led here, as far as it is known.
    fn asked(&mut self, socket: &Self::Socket) -> Option<SocketAddr>;
    /// Begins a dial; an event says when it has ended. Its first write goes at once, further ones
    /// may wait for more to come until `hurry`.
    fn connect(&mut self, to: SocketAddr) -> Result<Self::Socket, Trouble>;
    /// How a dial ended of which an event told more than that there is room to write.
    fn outcome(&mut self, socket: &Self::Socket) -> Result<(), Trouble>;
    /// From now on bytes go as they come to a dialled socket.
    fn hurry(&mut self, socket: &Self::Socket);
    /// Asks a dialled socket's other side now and then whether it is still there; accepted ones do.
    fn keep_alive(&mut self, socket: &Self::Socket);
    /// Watches a listener.
    fn watch_listener(&mut self, listener: &Self::Listener, token: Token) -> Result<(), Trouble>;
    /// Stops watching a listener.
    fn unwatch_listener(&mut self, listener: &Self::Listener);
    /// Watches a connection, until it is closed. What it has to tell already it tells once.
    fn watch(&mut self, socket: &Self::Socket, token: Token, what: Interest)
    -> Result<(), Trouble>;
    /// Watches a connection for something else.
    fn rewatch(&mut self, socket: &Self::Socket, token: Token, what: Interest);
    /// A new pipe.
    fn pipe(&mut self) -> Result<Self::Pipe, Trouble>;
    /// Moves what can be read into an empty pipe, at most so many bytes.
    fn fill(
        &mut self,
        from: &Self::Socket,
        pipe: &Self::Pipe,
        most: usize,
    ) -> Result<Filled, Trouble>;
    /// Moves so many bytes, or fewer, out of a pipe.
    fn empty(
        &mut self,
        pipe: &Self::Pipe,
        to: &Self::Socket,
        held: usize,
    ) -> Result<usize, Trouble>;
    /// Writes bytes of our own; how many went.
    fn write(&mut self, to: &Self::Socket, bytes: &[u8]) -> Result<usize, Trouble>;
    /// Says that nothing more will be written.
    fn finish(&mut self, socket: &Self::Socket) -> Result<(), Trouble>;
    /// Closes a connection in good order.
    fn close(&mut self, socket: Self::Socket);
    /// Closes a connection by a reset: the other side must not take what it got for all there is.
    fn reset(&mut self, socket: Self::Socket);
    /// Waits for events, at most so long; without a limit for `None`.
    fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        patience: Option<Duration>,
    ) -> Result<(), Trouble>;
}
