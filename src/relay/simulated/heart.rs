//! What the relay asks of its sockets, in memory. What others do there: `simulated`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::sockets::{Filled, Happened, Interest, Sockets, Token, Trouble};
use super::{Handle, Link, Manner, Net, Pipe};

/// Bytes that are moved into a pipe at once.
const MOST: usize = 32;

impl Sockets for Net {
    type Listener = u16;
    type Socket = Handle;
    type Pipe = Pipe;

    fn accept(&mut self, listener: &u16) -> Result<(Handle, SocketAddr), Trouble> {
        self.called("accept");
        if self.0.borrow().waiting.get(listener).is_none_or(VecDeque::is_empty) {
            return Err(Trouble::NotNow);
        }
        self.spend(1)?;
        let mut world = self.0.borrow_mut();
        let handle = world.waiting.get_mut(listener).and_then(VecDeque::pop_front);
        let handle = handle.ok_or(Trouble::NotNow)?;
        let from = world.links[handle.link].from.ok_or(Trouble::NotNow)?;
        world.held.insert(handle, None);
        Ok((handle, from))
    }

    fn asked(&mut self, _socket: &Handle) -> Option<SocketAddr> {
        self.called("asked");
        Some(SocketAddr::from(([10, 96, 0, 1], 80)))
    }

    fn connect(&mut self, to: SocketAddr) -> Result<Handle, Trouble> {
        self.called("connect");
        self.spend(1)?;
        let mut world = self.0.borrow_mut();
        match world.ports.get_mut(&to) {
            Some(0) => return Err(Trouble::NoPort),
            Some(left) => *left -= 1,
            None => {}
        }
        let manner = world.manners.get(&to).copied().unwrap_or(Manner::Silent);
        let link = world.links.len();
        let dialled = match manner {
            Manner::Answers | Manner::Breaks => Some(Ok(())),
            Manner::Refuses => Some(Err(Trouble::Refused)),
            Manner::Silent => None,
        };
        let mut new = Link { open: [true; 2], dialled, ..Link::default() };
        let greeting = world.greetings.get(&to).into_iter().flatten().copied().collect();
        new.to[0].packets.push_back(greeting);
        new.to[0].packets.retain(|packet: &VecDeque<u8>| !packet.is_empty());
        world.links.push(new);
        world.held.insert(Handle { link, side: 0 }, None);
        match manner {
            Manner::Answers => world.reached.push((to, Handle { link, side: 1 })),
            Manner::Breaks if world.chance(2) == 0 => world.die(link, 0),
            Manner::Breaks => drop(world.brittle.insert(link)),
            _ => {}
        }
        Ok(Handle { link, side: 0 })
    }

    fn outcome(&mut self, socket: &Handle) -> Result<(), Trouble> {
        self.called("outcome");
        let link = &mut self.0.borrow_mut().links[socket.link];
        let broke = link.error[socket.side].take().map_or(Ok(()), Err);
        link.dialled.unwrap_or(Err(Trouble::NotNow)).and(broke)
    }

    fn hurry(&mut self, socket: &Handle) {
        self.called("hurry");
        self.0.borrow_mut().hurried.insert(*socket);
    }

    fn keep_alive(&mut self, socket: &Handle) {
        self.called("keep alive");
        self.0.borrow_mut().kept_alive.insert(*socket);
    }

    fn watch_listener(&mut self, listener: &u16, token: Token) -> Result<(), Trouble> {
        self.0.borrow_mut().listeners.insert(*listener, token);
        Ok(())
    }

    fn unwatch_listener(&mut self, listener: &u16) {
        self.0.borrow_mut().listeners.remove(listener);
    }

    fn watch(&mut self, socket: &Handle, token: Token, what: Interest) -> Result<(), Trouble> {
        self.rewatch(socket, token, what);
        Ok(())
    }

    fn rewatch(&mut self, socket: &Handle, token: Token, what: Interest) {
        self.called("watch");
        let mut world = self.0.borrow_mut();
        world.held.insert(*socket, Some((token, what)));
        world.ready.insert(*socket);
    }

    fn pipe(&mut self) -> Result<Pipe, Trouble> {
        self.called("pipe");
        self.spend(2)?;
        let mut world = self.0.borrow_mut();
        world.pipes.set(world.pipes.get() + 1);
        let places = 1 + world.chance(12);
        Ok(Pipe { bytes: RefCell::default(), places, pipes: world.pipes.clone() })
    }

    fn fill(&mut self, from: &Handle, pipe: &Pipe, most: usize) -> Result<Filled, Trouble> {
        self.called("fill");
        assert!(pipe.bytes.borrow().is_empty(), "only an empty pipe is filled");
        let mut world = self.0.borrow_mut();
        let asked = most.min(MOST);
        let mut bytes = world.read(*from, asked)?;
        // As Linux does it: packet after packet, until places, bytes asked for or packets end.
        for _ in 1..pipe.places {
            let more = asked - bytes.len();
            if more > 0 && world.links[from.link].to[from.side].len() > 0 {
                bytes.extend(world.read(*from, more)?);
            }
        }
        let count = bytes.len();
        *pipe.bytes.borrow_mut() = bytes;
        Ok(Filled::of(count, pipe.places, asked))
    }

    fn empty(&mut self, pipe: &Pipe, to: &Handle, held: usize) -> Result<usize, Trouble> {
        self.called("empty");
        let mut held_bytes = pipe.bytes.borrow_mut();
        assert_eq!(held_bytes.len(), held, "the pipe holds what was said");
        let bytes: Vec<u8> = held_bytes.iter().copied().collect();
        let count = self.0.borrow_mut().relay_writes(*to, &bytes)?;
        held_bytes.drain(..count);
        Ok(count)
    }

    fn write(&mut self, to: &Handle, bytes: &[u8]) -> Result<usize, Trouble> {
        self.called("write");
        let mut world = self.0.borrow_mut();
        let mut count = 0;
        while count < bytes.len() {
            world.written.remove(to);
            count += world.relay_writes(*to, &bytes[count..])?;
        }
        Ok(count)
    }

    fn finish(&mut self, socket: &Handle) -> Result<(), Trouble> {
        self.called("finish");
        self.0.borrow_mut().finish(*socket);
        Ok(())
    }

    fn close(&mut self, socket: Handle) {
        self.called("close");
        self.0.borrow_mut().close(socket);
    }

    fn reset(&mut self, socket: Handle) {
        self.called("reset");
        self.0.borrow_mut().reset(socket);
    }

    fn wait(
        &mut self,
        happened: &mut Vec<Happened>,
        _patience: Option<Duration>,
    ) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        let ready = std::mem::take(&mut world.ready);
        happened.extend(ready.into_iter().filter_map(|handle| world.state(handle)));
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
