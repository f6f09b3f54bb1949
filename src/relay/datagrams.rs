//! What the relay asks of UDP sockets: datagrams by the batch. Two hearts, as for `sockets`:
//! Linux (`linux_udp`) and memory (in `udp_tests.rs`). It must never know an endpoint list.
//! Tests: `udp_tests.rs`.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::sockets::{Happened, Token, Trouble};

/// Packets that one system call receives at most; each is a datagram, or several that came as one.
pub(super) const AT_ONCE: usize = 32;
/// Bytes of the largest datagram.
pub(super) const LARGEST: usize = 65_535;

/// Datagrams that were received together. One batch serves a thread for its life.
#[derive(Debug)]
pub(super) struct Batch {
    /// Room for `AT_ONCE` packets.
    pub(super) bytes: Vec<u8>,
    /// Who sent each, where that was asked for, and where its bytes stand.
    pub(super) datagrams: Vec<(Option<SocketAddr>, Range<usize>)>,
    /// Whether as much was received as was asked for, so that more may wait. Who waits is told of as
    /// long as he does, so that nothing is missed where it is not asked.
    pub(super) is_full: bool,
}

impl Batch {
    pub(super) fn new() -> Batch {
        let datagrams = Vec::with_capacity(AT_ONCE);
        Batch { bytes: vec![0; AT_ONCE * LARGEST], datagrams, is_full: false }
    }

    /// One without room, to stand in while the thread's own is read.
    pub(super) fn empty() -> Batch {
        Batch { bytes: Vec::new(), datagrams: Vec::new(), is_full: false }
    }

    /// Runs of datagrams by the same sender, in the order of arrival.
    pub(super) fn runs(&self) -> Vec<(Option<SocketAddr>, Range<usize>)> {
        let mut runs: Vec<(Option<SocketAddr>, Range<usize>)> = Vec::new();
        for (index, (from, _)) in self.datagrams.iter().enumerate() {
            match runs.last_mut() {
                Some((last, run)) if last == from => run.end = index + 1,
                _ => runs.push((*from, index..index + 1)),
            }
        }
        runs
    }
}

/// UDP sockets that never block but in `wait`.
pub(super) trait Datagrams {
    /// A bound socket that takes datagrams of anybody; clones are the same socket.
    type Listener: Clone + Send;
    /// A socket that is connected to one endpoint.
    type Upstream;

    /// A new socket towards an endpoint.
    fn connect(&mut self, to: SocketAddr) -> Result<Self::Upstream, Trouble>;
    /// Tells of datagrams that wait at a listener, as long as they do.
    fn watch_listener(&mut self, listener: &Self::Listener, token: Token) -> Result<(), Trouble>;
    /// Stops that.
    fn unwatch_listener(&mut self, listener: &Self::Listener);
    /// Tells of datagrams that wait at a connected socket, as long as they do.
    fn watch(&mut self, upstream: &Self::Upstream, token: Token) -> Result<(), Trouble>;
    /// Receives what clients sent.
    fn receive(&mut self, listener: &Self::Listener, batch: &mut Batch) -> Result<(), Trouble>;
    /// Receives what an endpoint sent.
    fn answers(&mut self, upstream: &Self::Upstream, batch: &mut Batch) -> Result<(), Trouble>;
    /// Sends some of a batch to the endpoint; how many went.
    fn forward(
        &mut self,
        upstream: &Self::Upstream,
        batch: &Batch,
        which: Range<usize>,
    ) -> Result<usize, Trouble>;
    /// Sends all of a batch to a client; what finds no room is lost, as datagrams are.
    fn answer(&mut self, listener: &Self::Listener, batch: &Batch, to: SocketAddr);
    /// Closes a socket.
    fn close(&mut self, upstream: Self::Upstream);
    /// Waits for events, at most so long; without a limit for `None`.
    fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        patience: Option<Duration>,
    ) -> Result<(), Trouble>;
}
