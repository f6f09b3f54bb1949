//! Sockets in memory, for tests with a seed: endpoints that refuse, keep silent, reset in the
//! middle or answer after the client has left; reads and writes of any length.
//!
//! Every socket is one side of a link; a link has two buffers with an end and a limit. What a test
//! does as a client or an endpoint it does by `Net`'s methods. Tests: `tests.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use super::sockets::{Happened, Interest, Token, Trouble};

mod heart;

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
    /// It answers, and breaks off before anything can be written to it.
    Breaks,
}

/// A socket: a link, and which side of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle {
    link: usize,
    side: usize,
}

/// Bytes under way to one side, in packets.
#[derive(Debug, Default)]
struct Buffer {
    packets: VecDeque<VecDeque<u8>>,
    ended: bool,
    /// The last so many bytes have not left the sender yet.
    unsent: usize,
}

impl Buffer {
    fn len(&self) -> usize {
        self.packets.iter().map(VecDeque::len).sum()
    }

    /// Takes from the first packet.
    fn take(&mut self, most: usize) -> VecDeque<u8> {
        let Some(first) = self.packets.front_mut() else { return VecDeque::new() };
        let rest = first.split_off(most.min(first.len()));
        let taken = std::mem::replace(first, rest);
        self.packets.pop_front_if(|packet| packet.is_empty());
        self.unsent = self.unsent.min(self.len());
        taken
    }

    /// What has not left never does.
    fn lose_unsent(&mut self) {
        for _ in 0..std::mem::take(&mut self.unsent) {
            self.packets.back_mut().and_then(VecDeque::pop_back);
            self.packets.pop_back_if(|packet| packet.is_empty());
        }
    }
}

#[derive(Debug, Default)]
struct Link {
    /// What side 0 and side 1 can read.
    to: [Buffer; 2],
    /// It was reset.
    dead: bool,
    /// What the next call of a side is told, once.
    error: [Option<Trouble>; 2],
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
    /// The relay's sockets, each with how it was watched last.
    held: BTreeMap<Handle, Option<(Token, Interest)>>,
    /// Watched sockets at which something happened since they were last told of.
    ready: BTreeSet<Handle>,
    listeners: BTreeMap<u16, Token>,
    pipes: Rc<Cell<usize>>,
    /// Descriptors that there may be; `None` is without limit.
    descriptors: Option<usize>,
    /// Local ports that are left towards an endpoint.
    ports: BTreeMap<SocketAddr, usize>,
    /// Dialled sockets that were written to, and those that are in a hurry.
    written: BTreeSet<Handle>,
    hurried: BTreeSet<Handle>,
    kept_alive: BTreeSet<Handle>,
    /// Links whose endpoint breaks off when it is written to.
    brittle: BTreeSet<usize>,
    /// What the relay asked of its sockets, but for waits.
    calls: Vec<&'static str>,
    chance: u64,
}

/// The network as a test holds it.
#[derive(Clone, Debug)]
pub(super) struct Net(Rc<RefCell<World>>);

/// A pipe with its bytes, of which so many packets have room.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    places: usize,
    pipes: Rc<Cell<usize>>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pipes.set(self.pipes.get() - 1);
    }
}

impl World {
    fn chance(&mut self, most: usize) -> usize {
        // xorshift64 (Marsaglia 2003).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance % most as u64) as usize
    }

    /// Something happened there. As epoll does it: who is told when it waits next, of all that is
    /// then so; and not again before something more happens.
    fn happens(&mut self, handle: Handle) {
        if self.held.get(&handle).is_some_and(Option::is_some) {
            self.ready.insert(handle);
        }
    }

    /// What is so at a socket, as poll(2) would have it.
    fn state(&self, at: Handle) -> Option<Happened> {
        let (token, interest) = (*self.held.get(&at)?)?;
        let link = &self.links[at.link];
        let own = &link.to[at.side];
        let failed = matches!(link.dialled, Some(Err(_)));
        let pending = at.side == 0 && link.from.is_none() && link.dialled.is_none();
        let room = self.room(at) > 0 || link.dead;
        let ending = own.ended || link.dead || failed;
        let broken = link.dead || failed || (own.ended && link.to[1 - at.side].ended);
        let readable = ending || own.len() > 0;
        let writable = interest == Interest::ReadWrite && (room || failed);
        let something = !pending && (readable || writable || broken);
        something.then_some(Happened { token, readable, writable, ending, broken })
    }

    fn room(&self, from: Handle) -> usize {
        ROOM.saturating_sub(self.links[from.link].to[1 - from.side].len())
    }

    /// What was received before a reset can still be read; then the error is told once, unless a
    /// write was told of it; and then it looks like an end (`tcp_splice_read` of Linux).
    fn read(&mut self, at: Handle, most: usize) -> Result<VecDeque<u8>, Trouble> {
        let link = &mut self.links[at.link];
        if link.to[at.side].len() > 0 {
            let taken = link.to[at.side].take(most);
            self.happens(other(at));
            return Ok(taken);
        }
        if let Some(error) = link.error[at.side].take() {
            return Err(error);
        }
        if link.dead || link.to[at.side].ended { Ok(VecDeque::new()) } else { Err(Trouble::NotNow) }
    }

    fn write(&mut self, at: Handle, bytes: &[u8]) -> Result<usize, Trouble> {
        let peer = other(at);
        let room = self.room(at);
        let link = &mut self.links[at.link];
        if link.dead {
            return Err(link.error[at.side].take().unwrap_or(Trouble::Reset));
        }
        if room == 0 {
            return Err(Trouble::NotNow);
        }
        let count = 1 + self.chance(room.min(bytes.len()));
        if !self.links[at.link].open[peer.side] {
            // It is answered by a reset.
            self.die(at.link, at.side);
            return Ok(count);
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            // Packets of any length, many of a byte; now and then one that joins the last.
            let length = if self.chance(2) == 0 { 1 } else { 1 + self.chance(rest.len()) };
            let joins = self.chance(5) == 0;
            let to = &mut self.links[at.link].to[peer.side];
            match to.packets.back_mut().filter(|_| joins) {
                Some(last) => last.extend(&rest[..length]),
                None => to.packets.push_back(rest[..length].iter().copied().collect()),
            }
            rest = &rest[length..];
        }
        self.links[at.link].to[peer.side].unsent += count;
        self.happens(peer);
        Ok(count)
    }

    /// The relay writes.
    fn relay_writes(&mut self, at: Handle, bytes: &[u8]) -> Result<usize, Trouble> {
        let dialled = self.links[at.link].from.is_none();
        let waits = dialled && self.written.contains(&at) && !self.hurried.contains(&at);
        assert!(!waits, "a second write waits until the first is acknowledged (Nagle)");
        self.written.insert(at);
        if self.brittle.remove(&at.link) {
            self.die(at.link, at.side);
        }
        self.write(at, bytes)
    }

    fn finish(&mut self, at: Handle) {
        let peer = other(at);
        self.links[at.link].to[peer.side].ended = true;
        self.happens(peer);
        // With both ends it hangs up.
        self.happens(at);
    }

    /// It was reset, of which a side is told.
    fn die(&mut self, link: usize, told: usize) {
        self.links[link].dead = true;
        self.links[link].error[told] = Some(Trouble::Reset);
        self.happens(Handle { link, side: told });
    }

    fn let_go(&mut self, at: Handle) {
        self.links[at.link].open[at.side] = false;
        self.held.remove(&at);
        self.ready.remove(&at);
        self.written.remove(&at);
    }

    fn reset(&mut self, at: Handle) {
        self.let_go(at);
        if !self.links[at.link].dead {
            self.links[at.link].to[1 - at.side].lose_unsent();
            self.die(at.link, 1 - at.side);
        }
    }

    /// Where something was not read, the other side is told so by a reset.
    fn close(&mut self, at: Handle) {
        if self.links[at.link].to[at.side].len() > 0 {
            let peer = 1 - at.side;
            self.let_go(at);
            return self.die(at.link, peer);
        }
        self.finish(at);
        self.let_go(at);
    }
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

    /// How many more descriptors there may be than now.
    pub(super) fn leave_descriptors(&self, count: Option<usize>) {
        let used = self.descriptors();
        self.0.borrow_mut().descriptors = count.map(|count| used + count);
    }

    /// Descriptors that the relay has.
    pub(super) fn descriptors(&self) -> usize {
        let world = self.0.borrow();
        world.held.len() + 2 * world.pipes.get()
    }

    /// How many more dials of an endpoint find a local port.
    pub(super) fn leave_ports(&self, to: SocketAddr, count: Option<usize>) {
        let mut world = self.0.borrow_mut();
        match count {
            Some(count) => world.ports.insert(to, count),
            None => world.ports.remove(&to),
        };
    }

    /// Bytes that were written have left; a reset cannot take them back.
    pub(super) fn depart(&self) {
        let mut world = self.0.borrow_mut();
        world.links.iter_mut().flat_map(|link| &mut link.to).for_each(|to| to.unsent = 0);
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
            let read = self.0.borrow_mut().read(at, usize::MAX);
            match read {
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

    /// Ends it, whether or not everything was read.
    pub(super) fn close(&self, at: Handle) {
        self.0.borrow_mut().close(at);
    }

    /// Sockets of the relay's that are open.
    pub(super) fn open_sockets(&self) -> usize {
        self.0.borrow().held.len()
    }

    /// Sockets whose other side is asked whether it is still there.
    pub(super) fn kept_alive(&self) -> usize {
        self.0.borrow().kept_alive.len()
    }

    /// Ports that are watched.
    pub(super) fn listening(&self) -> BTreeSet<u16> {
        self.0.borrow().listeners.keys().copied().collect()
    }

    /// What the relay asked of its sockets since this was asked last.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.borrow_mut().calls)
    }

    fn called(&self, what: &'static str) {
        self.0.borrow_mut().calls.push(what);
    }

    fn spend(&self, count: usize) -> Result<(), Trouble> {
        let most = self.0.borrow().descriptors;
        match most.is_none_or(|most| self.descriptors() + count <= most) {
            true => Ok(()),
            false => Err(Trouble::Exhausted),
        }
    }
}
