//! What the relay asks of sockets: one trait with two hearts, Linux (`linux`) and memory
//! (`simulated`), so that refused dials, half-closes and races run in tests with a seed.
//!
//! Nothing here blocks but `wait`. It must never know an endpoint list or a Service.
//! Tests: both hearts run `tests.rs`.

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
    /// The connection is broken, or a dial failed.
    pub broken: bool,
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
    /// Begins a dial; an event says when it has ended.
    fn connect(&mut self, to: SocketAddr) -> Result<Self::Socket, Trouble>;
    /// How a dial ended that an event was told of.
    fn outcome(&mut self, socket: &Self::Socket) -> Result<(), Trouble>;
    /// Watches a listener.
    fn watch_listener(&mut self, listener: &Self::Listener, token: Token) -> Result<(), Trouble>;
    /// Stops watching a listener.
    fn unwatch_listener(&mut self, listener: &Self::Listener);
    /// Watches a connection, until it is closed.
    fn watch(&mut self, socket: &Self::Socket, token: Token, what: Interest)
    -> Result<(), Trouble>;
    /// Watches a connection for something else.
    fn rewatch(&mut self, socket: &Self::Socket, token: Token, what: Interest);
    /// A new pipe.
    fn pipe(&mut self) -> Result<Self::Pipe, Trouble>;
    /// Moves what can be read into an empty pipe; 0 is the end.
    fn fill(&mut self, from: &Self::Socket, pipe: &Self::Pipe) -> Result<usize, Trouble>;
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
