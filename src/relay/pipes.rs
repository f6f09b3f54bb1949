//! Pipes of one thread: those that hold nothing, for the next who needs one, and how many are held
//! by bytes whose reader is slow. It must never move a byte. Tests: `tests.rs`.

use std::sync::Arc;

use super::pool::Shared;
use super::sockets::{Sockets, Trouble};

/// Bytes a pipe holds: what one turn moves at most.
pub(super) const PIPE_BYTES: usize = 256 << 10;
/// Bytes that go into a pipe at most while many others are held.
const LITTLE: usize = 16 << 10;
/// How many are many: with these, a thread's slow readers keep 64 MiB of the kernel's memory.
const MANY: u64 = 256;

/// Pipes of one thread.
pub(super) struct Pipes<S: Sockets> {
    idle: Vec<S::Pipe>,
    most: usize,
    held: u64,
    shared: Arc<Shared>,
}

impl<S: Sockets> Pipes<S> {
    /// Keeps at most so many that hold nothing.
    pub(super) fn new(most: usize, shared: Arc<Shared>) -> Self {
        Pipes { idle: Vec::new(), most, held: 0, shared }
    }

    /// Makes some ahead, so that traffic goes on when descriptors have run out.
    pub(super) fn prepare(&mut self, sockets: &mut S, count: usize) {
        while self.idle.len() < count.min(self.most) {
            match sockets.pipe() {
                Ok(pipe) => self.idle.push(pipe),
                Err(_) => return,
            }
        }
    }

    /// Lets go of all but so many.
    pub(super) fn shrink(&mut self, count: usize) {
        self.idle.truncate(count);
        self.idle.shrink_to(count);
    }

    /// An empty one. None is made while slow readers hold as many as descriptors allow.
    pub(super) fn take(&mut self, sockets: &mut S) -> Result<S::Pipe, Trouble> {
        match self.idle.pop() {
            Some(pipe) => Ok(pipe),
            None if self.shared.has_room_for_a_pipe() => sockets.pipe(),
            None => Err(Trouble::Exhausted),
        }
    }

    /// Takes an empty one back.
    pub(super) fn give(&mut self, pipe: S::Pipe) {
        if self.idle.len() < self.most {
            self.idle.push(pipe);
        }
    }

    /// How much may be put into one now.
    pub(super) fn share(&self) -> usize {
        if self.held < MANY { PIPE_BYTES } else { LITTLE }
    }

    /// One stays with a connection whose reader is slow.
    pub(super) fn holds(&mut self) {
        self.held += 1;
        self.shared.holds_a_pipe();
    }

    /// That one is empty again, or gone.
    pub(super) fn lets_go(&mut self) {
        self.held -= 1;
        self.shared.lets_go_of_a_pipe();
    }
}
