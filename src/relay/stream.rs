//! One TCP connection through the relay: a client, an endpoint, and a pipe each way.
//!
//! Bytes go by `splice(2)` from socket to pipe to socket. A side that ends is told on to the other
//! (half-close), one that resets resets the other, one that does not read stops the other from
//! being read. A pipe is held only while it holds bytes. It must never choose an endpoint or read
//! a clock. Tests: `tests.rs`.

use super::counters::Counters;
use super::sockets::{Happened, Interest, Sockets, Token, Trouble};

/// Rounds of reading and writing one stream gets before the others have their turn: 16 pipes full.
const ROUNDS: u32 = 16;

/// One end of a connection.
pub(super) struct End<S: Sockets> {
    socket: S::Socket,
    token: Token,
    readable: bool,
    writable: bool,
    /// Whether room to write is watched for.
    watches_write: bool,
}

impl<S: Sockets> End<S> {
    /// An accepted end: there is room to write until a write says otherwise.
    pub(super) fn accepted(socket: S::Socket, token: Token) -> Self {
        End { socket, token, readable: false, writable: true, watches_write: false }
    }

    /// An end that is being dialled.
    pub(super) fn dialled(socket: S::Socket, token: Token) -> Self {
        End { socket, token, readable: false, writable: false, watches_write: true }
    }

    pub(super) fn socket(&self) -> &S::Socket {
        &self.socket
    }

    pub(super) fn into_socket(self) -> S::Socket {
        self.socket
    }

    fn note(&mut self, happened: &Happened) {
        // What is broken says so when it is read.
        self.readable |= happened.readable || happened.broken;
        self.writable |= happened.writable || happened.broken;
    }

    fn wait_for_room(&mut self, sockets: &mut S) {
        self.writable = false;
        if !self.watches_write {
            self.watches_write = true;
            sockets.rewatch(&self.socket, self.token, Interest::ReadWrite);
        }
    }
}

/// Bytes on their way from one end to the other.
struct Direction<S: Sockets> {
    pipe: Option<S::Pipe>,
    held: usize,
    /// Nothing more comes.
    ended: bool,
    /// The end was told on.
    finished: bool,
}

impl<S: Sockets> Direction<S> {
    fn new() -> Self {
        Direction { pipe: None, held: 0, ended: false, finished: false }
    }
}

/// Pipes that hold nothing, for the next who needs one.
pub(super) struct Pipes<S: Sockets> {
    idle: Vec<S::Pipe>,
    most: usize,
}

impl<S: Sockets> Pipes<S> {
    /// Keeps at most so many.
    pub(super) fn new(most: usize) -> Self {
        Pipes { idle: Vec::new(), most }
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

    fn take(&mut self, sockets: &mut S) -> Result<S::Pipe, Trouble> {
        self.idle.pop().map_or_else(|| sockets.pipe(), Ok)
    }

    fn give(&mut self, pipe: S::Pipe) {
        if self.idle.len() < self.most {
            self.idle.push(pipe);
        }
    }
}

/// What a stream is after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for an event.
    Waits,
    /// It had its share and has more to do.
    Again,
    /// It waits for a pipe: descriptors have run out.
    Starves,
    /// Both sides have ended.
    Done,
    /// One side broke off.
    Broken,
}

/// A connection whose endpoint has answered.
pub(super) struct Stream<S: Sockets> {
    client: End<S>,
    server: End<S>,
    up: Direction<S>,
    down: Direction<S>,
    /// Whether it stands in the queue of those with more to do.
    pub(super) queued: bool,
}

impl<S: Sockets> Stream<S> {
    pub(super) fn new(client: End<S>, server: End<S>) -> Self {
        // What came in while the endpoint was dialled, or with its answer, told its event then.
        let client = End { readable: true, ..client };
        let server = End { readable: true, writable: true, ..server };
        let (up, down) = (Direction::new(), Direction::new());
        Stream { client, server, up, down, queued: false }
    }

    /// Takes in what happened at the client's end or else at the endpoint's.
    pub(super) fn note(&mut self, at_client: bool, happened: &Happened) {
        let end = if at_client { &mut self.client } else { &mut self.server };
        end.note(happened);
    }

    /// Moves bytes both ways, as far as they go.
    pub(super) fn turn(
        &mut self,
        sockets: &mut S,
        pipes: &mut Pipes<S>,
        counters: &Counters,
    ) -> Turn {
        let mut up = Pump { sockets, pipes, from: &mut self.client, to: &mut self.server };
        let (first, moved) = up.pump(&mut self.up);
        counters.sent_up(moved);
        if first == Turn::Broken {
            return first;
        }
        let mut down = Pump { sockets, pipes, from: &mut self.server, to: &mut self.client };
        let (second, moved) = down.pump(&mut self.down);
        counters.sent_down(moved);
        match (first, second) {
            (_, Turn::Broken) => Turn::Broken,
            (Turn::Done, Turn::Done) => Turn::Done,
            (Turn::Again, _) | (_, Turn::Again) => Turn::Again,
            (Turn::Starves, _) | (_, Turn::Starves) => Turn::Starves,
            _ => Turn::Waits,
        }
    }

    /// Ends it in good order.
    pub(super) fn close(self, sockets: &mut S, pipes: &mut Pipes<S>) {
        for direction in [self.up, self.down] {
            direction.pipe.into_iter().for_each(|pipe| pipes.give(pipe));
        }
        sockets.close(self.client.socket);
        sockets.close(self.server.socket);
    }

    /// Breaks it off on both sides. Pipes that hold bytes are not used again.
    pub(super) fn reset(self, sockets: &mut S) {
        sockets.reset(self.client.socket);
        sockets.reset(self.server.socket);
    }
}

/// One direction at work.
struct Pump<'a, S: Sockets> {
    sockets: &'a mut S,
    pipes: &'a mut Pipes<S>,
    from: &'a mut End<S>,
    to: &'a mut End<S>,
}

impl<S: Sockets> Pump<'_, S> {
    /// Gives what became of it, and how many bytes went out.
    fn pump(&mut self, direction: &mut Direction<S>) -> (Turn, u64) {
        let mut moved = 0;
        for _ in 0..ROUNDS {
            if let Some(turn) = self.write(direction, &mut moved).or_else(|| self.read(direction)) {
                self.put_back(direction);
                return (turn, moved);
            }
        }
        self.put_back(direction);
        (Turn::Again, moved)
    }

    /// Writes what the pipe holds; `None` where it holds nothing any more.
    fn write(&mut self, direction: &mut Direction<S>, moved: &mut u64) -> Option<Turn> {
        while let (Some(pipe), true) = (&direction.pipe, direction.held > 0) {
            if !self.to.writable {
                return Some(Turn::Waits);
            }
            match self.sockets.empty(pipe, &self.to.socket, direction.held) {
                Ok(count) => {
                    direction.held -= count.min(direction.held);
                    *moved += count as u64;
                }
                Err(Trouble::NotNow) => self.to.wait_for_room(self.sockets),
                Err(_) => return Some(Turn::Broken),
            }
        }
        if direction.ended && !direction.finished {
            direction.finished = true;
            if self.sockets.finish(&self.to.socket).is_err() {
                return Some(Turn::Broken);
            }
        }
        direction.finished.then_some(Turn::Done)
    }

    /// Reads into the empty pipe; `None` where it has something to write now.
    fn read(&mut self, direction: &mut Direction<S>) -> Option<Turn> {
        if !self.from.readable {
            return Some(Turn::Waits);
        }
        let pipe = match direction.pipe.take() {
            Some(pipe) => pipe,
            None => match self.pipes.take(self.sockets) {
                Ok(pipe) => pipe,
                Err(_) => return Some(Turn::Starves),
            },
        };
        let filled = self.sockets.fill(&self.from.socket, &pipe);
        direction.pipe = Some(pipe);
        match filled {
            Ok(0) => direction.ended = true,
            Ok(count) => direction.held = count,
            Err(Trouble::NotNow) => {
                self.from.readable = false;
                return Some(Turn::Waits);
            }
            Err(_) => return Some(Turn::Broken),
        }
        None
    }

    /// An idle connection holds no pipe.
    fn put_back(&mut self, direction: &mut Direction<S>) {
        if direction.held == 0 {
            direction.pipe.take().into_iter().for_each(|pipe| self.pipes.give(pipe));
        }
    }
}
