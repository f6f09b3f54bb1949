//! One TCP connection through the relay: a client, an endpoint, and a pipe each way.
//!
//! Bytes go by `splice(2)` from socket to pipe to socket. A side that ends is told on to the other
//! (half-close), one that breaks off breaks off the other, once what it said before has been passed
//! on; one that does not read stops the other from being read. A pipe is held only while it holds
//! bytes. It must never choose an endpoint or read a clock. Tests: `tests.rs`.

use std::time::Duration;

use super::counters::Counters;
use super::pipes::Pipes;
use super::sockets::{Happened, Interest, Sockets, Token, Trouble};

/// Rounds of reading and writing one stream gets before the others have their turn: 16 pipes full.
const ROUNDS: u32 = 16;
/// How long bytes have to leave this host before a reset, which would take them back.
pub(super) const GRACE: Duration = Duration::from_millis(250);

/// One end of a connection.
pub(super) struct End<S: Sockets> {
    socket: S::Socket,
    token: Token,
    /// Whether there may be something to read. Events tell each change once, so that it must not be
    /// set to false but when the socket has been seen empty.
    readable: bool,
    writable: bool,
    /// An end or a break was told of: it is read on until it is found, as nobody tells of it again.
    ending: bool,
    /// It broke off, or both sides of it have ended.
    broken: bool,
    /// Whether room to write is watched for.
    watches_write: bool,
    /// Whether bytes go as they come, and wait for no further ones.
    hurried: bool,
    /// When bytes were last written to it.
    wrote: Option<Duration>,
}

impl<S: Sockets> End<S> {
    /// An accepted end: there is room to write until a write says otherwise, and there may be
    /// something to read.
    pub(super) fn accepted(socket: S::Socket, token: Token) -> Self {
        End {
            socket,
            token,
            readable: true,
            writable: true,
            ending: false,
            broken: false,
            watches_write: false,
            hurried: true,
            wrote: None,
        }
    }

    /// An end whose dial has succeeded, of which that event told, and to which something was
    /// written already or not.
    pub(super) fn dialled(
        (socket, token): (S::Socket, Token),
        event: &Happened,
        wrote: Option<Duration>,
    ) -> Self {
        let Happened { readable, ending, .. } = *event;
        End {
            socket,
            token,
            readable,
            writable: true,
            ending,
            broken: false,
            watches_write: true,
            hurried: false,
            wrote,
        }
    }

    pub(super) fn socket(&self) -> &S::Socket {
        &self.socket
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn into_socket(self) -> S::Socket {
        self.socket
    }

    /// Takes in what happened; whether it changes anything.
    pub(super) fn note(&mut self, happened: &Happened) -> bool {
        let Happened { readable, ending, broken, .. } = *happened;
        let room = !self.writable && (happened.writable || broken);
        // What is broken says so when it is read.
        self.readable |= readable || ending || broken;
        self.ending |= ending || broken;
        self.broken |= broken;
        self.writable |= room;
        readable || ending || broken || room
    }

    fn wait_for_room(&mut self, sockets: &mut S) {
        self.writable = false;
        if !self.watches_write {
            self.watches_write = true;
            sockets.rewatch(&self.socket, self.token, Interest::ReadWrite);
        }
    }

    /// Whether bytes went there so lately that a reset might take them back.
    fn may_still_send(&self, now: Duration) -> bool {
        self.wrote.is_some_and(|wrote| now < wrote + GRACE)
    }
}

/// Bytes on their way from one end to the other.
struct Direction<S: Sockets> {
    pipe: Option<S::Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// Whether the pipe counts as one that a slow reader holds.
    counted: bool,
    /// Nothing more comes.
    ended: bool,
    /// The end was told on.
    finished: bool,
    /// Whom it goes to takes nothing any more.
    severed: bool,
}

impl<S: Sockets> Direction<S> {
    fn new() -> Self {
        Direction {
            pipe: None,
            held: 0,
            counted: false,
            ended: false,
            finished: false,
            severed: false,
        }
    }

    /// Gives the pipe back if it is empty; one that holds bytes is held, or is lost with `all`.
    fn put_back(&mut self, pipes: &mut Pipes<S>, all: bool) {
        let empty = self.held == 0;
        if empty {
            self.pipe.take().into_iter().for_each(|pipe| pipes.give(pipe));
        }
        let holds = !empty && !all;
        match (self.counted, holds) {
            (false, true) => pipes.holds(),
            (true, false) => pipes.lets_go(),
            _ => {}
        }
        self.counted = holds;
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
    /// The client's side broke off.
    ClientBroke,
    /// The endpoint's side broke off.
    ServerBroke,
    /// Both did, or there is no memory to go on.
    Broken,
}

/// What a direction is after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Waits,
    Again,
    Starves,
    /// Its end was told on.
    Done,
    /// Nothing can be written any more where it goes to.
    Severed,
    /// Where it comes from broke off.
    Broke,
    /// There is no memory to go on.
    Lost,
}

/// A connection whose endpoint has answered.
pub(super) struct Stream<S: Sockets> {
    client: End<S>,
    server: End<S>,
    up: Direction<S>,
    down: Direction<S>,
    /// Whether it stands in the queue of those with more to do.
    pub(super) queued: bool,
    /// Whether its endpoint is asked now and then if it is still there.
    kept_alive: bool,
}

impl<S: Sockets> Stream<S> {
    pub(super) fn new(client: End<S>, server: End<S>) -> Self {
        let (up, down) = (Direction::new(), Direction::new());
        Stream { client, server, up, down, queued: false, kept_alive: false }
    }

    /// Takes in what happened at the client's end or else at the endpoint's; whether there is
    /// something to do for it.
    pub(super) fn note(&mut self, at_client: bool, happened: &Happened) -> bool {
        let end = if at_client { &mut self.client } else { &mut self.server };
        end.note(happened)
    }

    /// Has the endpoint asked now and then if it is still there. Connections that end soon are
    /// spared the calls.
    pub(super) fn keep_alive(&mut self, sockets: &mut S) {
        if !std::mem::replace(&mut self.kept_alive, true) {
            sockets.keep_alive(&self.server.socket);
        }
    }

    /// Moves bytes both ways, as far as they go.
    pub(super) fn turn(
        &mut self,
        (sockets, pipes): (&mut S, &mut Pipes<S>),
        counters: &Counters,
        now: Duration,
    ) -> Turn {
        let (client, server) = (&mut self.client, &mut self.server);
        let mut up = Pump { sockets, pipes, from: client, to: server, back: &self.down, now };
        let (first, moved) = up.pump(&mut self.up);
        counters.sent_up(moved);
        let severed = self.down.severed;
        let (client, server) = (&mut self.client, &mut self.server);
        let mut down = Pump { sockets, pipes, from: server, to: client, back: &self.up, now };
        let (second, moved) = match first {
            // There is nobody left to pass anything on to.
            Way::Broke | Way::Lost => (Way::Waits, 0),
            _ => down.pump(&mut self.down),
        };
        counters.sent_down(moved);
        match together(first, second) {
            // What the client said before it broke off is still to be read.
            Turn::Waits if self.down.severed && !severed => Turn::Again,
            turn => turn,
        }
    }

    /// Ends it in good order.
    pub(super) fn close(mut self, sockets: &mut S, pipes: &mut Pipes<S>) {
        self.put_back(pipes);
        sockets.close(self.client.socket);
        sockets.close(self.server.socket);
    }

    /// Breaks it off on both sides.
    pub(super) fn reset(mut self, sockets: &mut S, pipes: &mut Pipes<S>) {
        self.put_back(pipes);
        sockets.reset(self.client.socket);
        sockets.reset(self.server.socket);
    }

    /// Breaks it off on the side that broke, and on the other too unless bytes went there a moment
    /// ago: then it comes back, to be reset when they have left.
    pub(super) fn part(
        mut self,
        (sockets, pipes): (&mut S, &mut Pipes<S>),
        client_broke: bool,
        now: Duration,
    ) -> Option<S::Socket> {
        self.put_back(pipes);
        let (broken, other) =
            if client_broke { (self.client, self.server) } else { (self.server, self.client) };
        sockets.reset(broken.socket);
        if other.may_still_send(now) {
            return Some(other.socket);
        }
        sockets.reset(other.socket);
        None
    }

    /// Pipes that hold bytes are not used again.
    fn put_back(&mut self, pipes: &mut Pipes<S>) {
        self.up.put_back(pipes, true);
        self.down.put_back(pipes, true);
    }
}

/// What a stream is whose ways are that.
fn together(up: Way, down: Way) -> Turn {
    match (up, down) {
        (Way::Lost, _) | (_, Way::Lost) | (Way::Severed, Way::Severed) => Turn::Broken,
        (Way::Broke, _) | (Way::Done, Way::Severed) => Turn::ClientBroke,
        (_, Way::Broke) | (Way::Severed, Way::Done) => Turn::ServerBroke,
        (Way::Done, Way::Done) => Turn::Done,
        (Way::Again, _) | (_, Way::Again) => Turn::Again,
        (Way::Starves, _) | (_, Way::Starves) => Turn::Starves,
        _ => Turn::Waits,
    }
}

/// One direction at work.
struct Pump<'a, S: Sockets> {
    sockets: &'a mut S,
    pipes: &'a mut Pipes<S>,
    from: &'a mut End<S>,
    to: &'a mut End<S>,
    /// The other direction.
    back: &'a Direction<S>,
    now: Duration,
}

impl<S: Sockets> Pump<'_, S> {
    /// Gives what became of it, and how many bytes went out.
    fn pump(&mut self, direction: &mut Direction<S>) -> (Way, u64) {
        let mut moved = 0;
        if direction.severed {
            return (Way::Severed, moved);
        }
        for _ in 0..ROUNDS {
            if let Some(way) = self.write(direction, &mut moved).or_else(|| self.read(direction)) {
                direction.put_back(self.pipes, false);
                return (way, moved);
            }
        }
        direction.put_back(self.pipes, false);
        (Way::Again, moved)
    }

    /// Writes what the pipe holds; `None` where it holds nothing any more.
    fn write(&mut self, direction: &mut Direction<S>, moved: &mut u64) -> Option<Way> {
        while let (Some(pipe), true) = (&direction.pipe, direction.held > 0) {
            if !self.to.writable {
                return Some(Way::Waits);
            }
            // The first write finds nothing under way that it would have to wait for.
            if self.to.wrote.is_some() && !std::mem::replace(&mut self.to.hurried, true) {
                self.sockets.hurry(&self.to.socket);
            }
            match self.sockets.empty(pipe, &self.to.socket, direction.held) {
                Ok(count) => {
                    direction.held -= count.min(direction.held);
                    *moved += count as u64;
                    self.to.wrote = Some(self.now);
                }
                Err(Trouble::NotNow) => self.to.wait_for_room(self.sockets),
                Err(Trouble::Exhausted) => return Some(Way::Lost),
                Err(_) => return Some(self.sever(direction)),
            }
        }
        if direction.ended && !direction.finished {
            // It did not end but broke: the other way could not be written to.
            if self.back.severed {
                return Some(Way::Broke);
            }
            direction.finished = true;
            // Where the other way is done as well, both sockets are closed now, which says the same.
            if !self.back.finished && self.sockets.finish(&self.to.socket).is_err() {
                return Some(Way::Lost);
            }
        }
        if !direction.finished {
            return None;
        }
        // Where we have not said the end of the other way yet, it is not that both have ended.
        Some(if self.from.broken && !self.back.finished { Way::Broke } else { Way::Done })
    }

    /// Nothing can be written any more; but what the other side said before it broke off can still
    /// be read, such as why it did.
    fn sever(&mut self, direction: &mut Direction<S>) -> Way {
        direction.severed = true;
        // What it holds goes nowhere.
        direction.pipe = None;
        direction.held = 0;
        self.to.readable = true;
        self.to.ending = true;
        Way::Severed
    }

    /// Reads into the empty pipe; `None` where it has something to write now.
    fn read(&mut self, direction: &mut Direction<S>) -> Option<Way> {
        // What cannot be written would only keep a pipe.
        if !self.from.readable || !self.to.writable {
            return Some(Way::Waits);
        }
        let pipe = match direction.pipe.take() {
            Some(pipe) => pipe,
            None => match self.pipes.take(self.sockets) {
                Ok(pipe) => pipe,
                Err(_) => return Some(Way::Starves),
            },
        };
        let filled = self.sockets.fill(&self.from.socket, &pipe, self.pipes.share());
        direction.pipe = Some(pipe);
        match filled {
            Ok(filled) => {
                direction.held = filled.count;
                direction.ended = filled.count == 0;
                // An end that was told of is still to be read; of another one an event will tell.
                self.from.readable = self.from.ending || !filled.drained;
            }
            Err(Trouble::NotNow) => {
                self.from.readable = false;
                return Some(Way::Waits);
            }
            Err(_) => return Some(Way::Broke),
        }
        None
    }
}
