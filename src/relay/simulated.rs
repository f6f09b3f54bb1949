//! Sockets in memory, for tests with a seed: endpoints that refuse, keep silent, reset in the
//! middle or answer after the client has left; reads and writes of any length.
//!
//! Every socket is one side of a link; a link has two buffers with an end and a limit. What a test
//! does as a client or an endpoint it does by `Net`'s methods. Tests: `tests.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::sockets::{Happened, Interest, Sockets, Token, Trouble};

/// Bytes a socket's buffer takes.
const ROOM: usize = 64;

/// How an endpoint meets a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It answers.
    Answers,
    /// It refuses.
    Refuses,
    /// It never says anything.
    Silent,
}

/// A socket: a link, and which side of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle {
    link: usize,
    side: usize,
}

/// Bytes under way to one side.
#[derive(Debug, Default)]
struct Buffer {
    bytes: VecDeque<u8>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Link {
    /// What side 0 and side 1 can read.
    to: [Buffer; 2],
    reset: bool,
    open: [bool; 2],
    dialled: Option<Result<(), Trouble>>,
    from: Option<SocketAddr>,
}

#[derive(Debug, Default)]
struct World {
    links: Vec<Link>,
    waiting: BTreeMap<u16, VecDeque<Handle>>,
    manners: BTreeMap<SocketAddr, Manner>,
    greetings: BTreeMap<SocketAddr, Vec<u8>>,
    /// Connections that reached an endpoint, in order.
    reached: Vec<(SocketAddr, Handle)>,
    watched: BTreeMap<Handle, (Token, Interest)>,
    listeners: BTreeMap<u16, Token>,
    happened: BTreeMap<Token, Happened>,
    pipes: usize,
    /// Sockets that may still be made; `None` is without limit.
    descriptors: Option<usize>,
    chance: u64,
}

/// The network as a test holds it.
#[derive(Clone, Debug)]
pub(super) struct Net(Rc<RefCell<World>>);

/// A pipe with its bytes.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
}

impl World {
    fn chance(&mut self, most: usize) -> usize {
        // xorshift64 (Marsaglia 2003).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance % most as u64) as usize
    }

    fn tell(&mut self, handle: Handle, what: impl Fn(&mut Happened)) {
        if let Some((token, _)) = self.watched.get(&handle) {
            let event = self.happened.entry(*token).or_default();
            event.token = *token;
            what(event);
        }
    }

    fn read(&mut self, at: Handle, most: usize) -> Result<Vec<u8>, Trouble> {
        let link = &self.links[at.link];
        if link.reset {
            return Err(Trouble::Reset);
        }
        let buffer = &link.to[at.side];
        if buffer.bytes.is_empty() {
            return if buffer.ended { Ok(Vec::new()) } else { Err(Trouble::NotNow) };
        }
        let count = 1 + self.chance(buffer_len(&self.links[at.link], at.side).min(most));
        let bytes: Vec<u8> = self.links[at.link].to[at.side].bytes.drain(..count).collect();
        self.tell(other(at), |event| event.writable = true);
        Ok(bytes)
    }

    fn write(&mut self, at: Handle, bytes: &[u8]) -> Result<usize, Trouble> {
        let peer = other(at);
        let link = &self.links[at.link];
        if link.reset || !link.open[peer.side] {
            return Err(Trouble::Reset);
        }
        let room = ROOM.saturating_sub(link.to[peer.side].bytes.len());
        if room == 0 {
            return Err(Trouble::NotNow);
        }
        let count = 1 + self.chance(room.min(bytes.len()));
        self.links[at.link].to[peer.side].bytes.extend(&bytes[..count]);
        self.tell(peer, |event| event.readable = true);
        Ok(count)
    }

    fn finish(&mut self, at: Handle) {
        let peer = other(at);
        self.links[at.link].to[peer.side].ended = true;
        self.tell(peer, |event| event.readable = true);
    }

    fn reset(&mut self, at: Handle) {
        self.links[at.link].reset = true;
        self.links[at.link].open[at.side] = false;
        self.watched.remove(&at);
        self.tell(other(at), |event| event.broken = true);
    }

    fn close(&mut self, at: Handle) {
        self.finish(at);
        self.links[at.link].open[at.side] = false;
        self.watched.remove(&at);
    }
}

fn buffer_len(link: &Link, side: usize) -> usize {
    link.to[side].bytes.len()
}

fn other(handle: Handle) -> Handle {
    Handle { side: 1 - handle.side, ..handle }
}

impl Net {
    /// A network whose chance follows from a seed, other than 0.
    pub(super) fn new(seed: u64) -> Net {
        Net(Rc::new(RefCell::new(World { chance: seed, ..World::default() })))
    }

    /// How an endpoint meets dials from now on. Unknown ones are silent.
    pub(super) fn endpoint(&self, at: SocketAddr, manner: Manner) {
        self.0.borrow_mut().manners.insert(at, manner);
    }

    /// What an endpoint says as soon as it answers.
    pub(super) fn greeting(&self, at: SocketAddr, bytes: &[u8]) {
        self.0.borrow_mut().greetings.insert(at, bytes.to_vec());
    }

    /// How many more sockets and pipes can be made.
    pub(super) fn leave_descriptors(&self, count: Option<usize>) {
        self.0.borrow_mut().descriptors = count;
    }

    /// A client connects to a local port.
    pub(super) fn client(&self, from: SocketAddr, port: u16) -> Handle {
        let mut world = self.0.borrow_mut();
        let link = world.links.len();
        world.links.push(Link { open: [true; 2], from: Some(from), ..Link::default() });
        world.waiting.entry(port).or_default().push_back(Handle { link, side: 1 });
        Handle { link, side: 0 }
    }

    /// The connections that have reached an endpoint, as the endpoint's sockets.
    pub(super) fn reached(&self) -> Vec<(SocketAddr, Handle)> {
        self.0.borrow().reached.clone()
    }

    /// Writes as much as there is room for.
    pub(super) fn send(&self, at: Handle, bytes: &[u8]) -> usize {
        self.0.borrow_mut().write(at, bytes).unwrap_or(0)
    }

    /// Everything that can be read now; and whether the end or a reset was seen.
    pub(super) fn take(&self, at: Handle) -> (Vec<u8>, Option<Trouble>, bool) {
        let mut out = Vec::new();
        loop {
            match self.0.borrow_mut().read(at, usize::MAX) {
                Ok(bytes) if bytes.is_empty() => return (out, None, true),
                Ok(bytes) => out.extend(bytes),
                Err(Trouble::NotNow) => return (out, None, false),
                Err(trouble) => return (out, Some(trouble), false),
            }
        }
    }

    /// Says that no more will be sent.
    pub(super) fn finish(&self, at: Handle) {
        self.0.borrow_mut().finish(at);
    }

    /// Breaks off.
    pub(super) fn reset(&self, at: Handle) {
        self.0.borrow_mut().reset(at);
    }

    /// Sockets of the relay's that are open.
    pub(super) fn open_sockets(&self) -> usize {
        self.0.borrow().watched.len()
    }

    /// Pipes that exist.
    pub(super) fn pipes(&self) -> usize {
        self.0.borrow().pipes
    }

    /// Ports that are watched.
    pub(super) fn listening(&self) -> BTreeSet<u16> {
        self.0.borrow().listeners.keys().copied().collect()
    }

    fn spend(&self) -> Result<(), Trouble> {
        match &mut self.0.borrow_mut().descriptors {
            Some(0) => Err(Trouble::Exhausted),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Sockets for Net {
    type Listener = u16;
    type Socket = Handle;
    type Pipe = Pipe;

    fn accept(&mut self, listener: &u16) -> Result<(Handle, SocketAddr), Trouble> {
        if self.0.borrow().waiting.get(listener).is_none_or(VecDeque::is_empty) {
            return Err(Trouble::NotNow);
        }
        self.spend()?;
        let mut world = self.0.borrow_mut();
        let handle = world.waiting.get_mut(listener).and_then(VecDeque::pop_front);
        let handle = handle.ok_or(Trouble::NotNow)?;
        let from = world.links[handle.link].from.ok_or(Trouble::NotNow)?;
        Ok((handle, from))
    }

    fn asked(&mut self, _socket: &Handle) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 96, 0, 1], 80)))
    }

    fn connect(&mut self, to: SocketAddr) -> Result<Handle, Trouble> {
        self.spend()?;
        let mut world = self.0.borrow_mut();
        let manner = world.manners.get(&to).copied().unwrap_or(Manner::Silent);
        let link = world.links.len();
        let dialled = match manner {
            Manner::Answers => Some(Ok(())),
            Manner::Refuses => Some(Err(Trouble::Refused)),
            Manner::Silent => None,
        };
        let mut new = Link { open: [true; 2], dialled, ..Link::default() };
        new.to[0].bytes.extend(world.greetings.get(&to).into_iter().flatten());
        world.links.push(new);
        if manner == Manner::Answers {
            world.reached.push((to, Handle { link, side: 1 }));
        }
        Ok(Handle { link, side: 0 })
    }

    fn outcome(&mut self, socket: &Handle) -> Result<(), Trouble> {
        self.0.borrow().links[socket.link].dialled.unwrap_or(Err(Trouble::NotNow))
    }

    fn watch_listener(&mut self, listener: &u16, token: Token) -> Result<(), Trouble> {
        self.0.borrow_mut().listeners.insert(*listener, token);
        Ok(())
    }

    fn unwatch_listener(&mut self, listener: &u16) {
        self.0.borrow_mut().listeners.remove(listener);
    }

    fn watch(&mut self, socket: &Handle, token: Token, what: Interest) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.watched.insert(*socket, (token, what));
        let link = &world.links[socket.link];
        let (dialled, reset) = (link.dialled, link.reset);
        let readable = !link.to[socket.side].bytes.is_empty() || link.to[socket.side].ended;
        world.tell(*socket, |event| {
            event.readable |= readable;
            event.writable |= dialled == Some(Ok(()));
            event.broken |= reset || matches!(dialled, Some(Err(_)));
        });
        Ok(())
    }

    fn rewatch(&mut self, socket: &Handle, token: Token, what: Interest) {
        self.0.borrow_mut().watched.insert(*socket, (token, what));
    }

    fn pipe(&mut self) -> Result<Pipe, Trouble> {
        self.spend()?;
        self.0.borrow_mut().pipes += 1;
        Ok(Pipe::default())
    }

    fn fill(&mut self, from: &Handle, pipe: &Pipe) -> Result<usize, Trouble> {
        assert!(pipe.bytes.borrow().is_empty(), "only an empty pipe is filled");
        let bytes = self.0.borrow_mut().read(*from, 32)?;
        pipe.bytes.borrow_mut().extend(&bytes);
        Ok(bytes.len())
    }

    fn empty(&mut self, pipe: &Pipe, to: &Handle, held: usize) -> Result<usize, Trouble> {
        let mut held_bytes = pipe.bytes.borrow_mut();
        assert_eq!(held_bytes.len(), held, "the pipe holds what was said");
        let bytes: Vec<u8> = held_bytes.iter().copied().collect();
        let count = self.0.borrow_mut().write(*to, &bytes)?;
        held_bytes.drain(..count);
        Ok(count)
    }

    fn write(&mut self, to: &Handle, bytes: &[u8]) -> Result<usize, Trouble> {
        let mut world = self.0.borrow_mut();
        let peer = other(*to);
        world.links[to.link].to[peer.side].bytes.extend(bytes);
        Ok(bytes.len())
    }

    fn finish(&mut self, socket: &Handle) -> Result<(), Trouble> {
        self.0.borrow_mut().finish(*socket);
        Ok(())
    }

    fn close(&mut self, socket: Handle) {
        self.0.borrow_mut().close(socket);
    }

    fn reset(&mut self, socket: Handle) {
        self.0.borrow_mut().reset(socket);
    }

    fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        _patience: Option<Duration>,
    ) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        happened.extend(std::mem::take(&mut world.happened).into_values());
        let waiting: Vec<Token> = world
            .listeners
            .iter()
            .filter(|(port, _)| world.waiting.get(*port).is_some_and(|queue| !queue.is_empty()))
            .map(|(_, token)| *token)
            .collect();
        let told = |token| Happened { token, readable: true, ..Happened::default() };
        happened.extend(waiting.into_iter().map(told));
        Ok(())
    }
}
