//! One thread's share of the relay's TCP: accepts, dials, and gives each connection its turns.
//!
//! Never blocks but in `wait`; a slow client costs its two sockets and no thread. What happens to
//! one connection it leaves to `dial` and `stream`. Time comes from the caller. Tests: `tests.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::dial::{Dialing, PATIENCE};
use super::pipes::Pipes;
use super::pool::{Place, Pool, Shared};
use super::share::{Desk, Lives};
use super::side::{Side, owner, token};
use super::slots::{Slot, Slots};
use super::sockets::{Happened, Sockets, Trouble};
use super::stream::{End, GRACE, Stream, Turn};

/// Connections taken from one listener before others have their turn.
const ACCEPTS: usize = 64;
/// Idle pipes kept: a connection needs one while it has its turn, and longer only where its reader
/// is slow.
const IDLE_PIPES: usize = 64;
/// Pipes made ahead, so that open connections go on when descriptors run out.
const FIRST_PIPES: usize = 32;
/// How long nobody is accepted, and who starves waits, after descriptors have run out.
const PAUSE: Duration = Duration::from_millis(50);
/// How often endpoints' sockets are looked through for those that are not kept alive yet.
const LOOK: Duration = Duration::from_secs(15);

/// What a thread is told by another.
pub(super) enum Command<S: Sockets> {
    /// Accept for this pool.
    Listen(u64, S::Listener, Arc<Pool>),
    /// Accept there no more. Open connections go on.
    Unlisten(u64),
    /// Accept nowhere, and end when all connections have ended.
    Drain,
    /// End now; what is open is broken off.
    Stop,
    /// Have this client, whom another thread accepted.
    Have(Client<S>),
}

/// A client that was accepted.
pub(super) struct Client<S: Sockets> {
    socket: S::Socket,
    peer: SocketAddr,
    pool: Arc<Pool>,
}

/// Where connections are accepted.
struct Listening<S: Sockets> {
    listener: S::Listener,
    pool: Arc<Pool>,
    paused: bool,
    /// How many to accept before the event tells again that somebody waits.
    batch: usize,
}

/// A connection and its place within the limits.
struct Entry<S: Sockets> {
    place: Place,
    state: State<S>,
}

enum State<S: Sockets> {
    Dialing(Box<Dialing<S>>),
    Carried(Stream<S>),
    /// One side broke off; the other is reset when what was just sent to it has left.
    Leaving(S::Socket, Side),
    /// While the one becomes the other.
    Between,
}

/// One thread's connections.
pub(super) struct Worker<S: Sockets> {
    /// The sockets.
    pub(super) sockets: S,
    listeners: Slots<Listening<S>>,
    by_id: BTreeMap<u64, Slot>,
    entries: Slots<Entry<S>>,
    pipes: Pipes<S>,
    /// Dials under way, by how patient they are: in each the first ends first.
    dials: [VecDeque<(Duration, Slot)>; PATIENCE.len()],
    /// Who leaves, and when.
    leaving: VecDeque<(Duration, Slot)>,
    /// When connections are looked through, if there are some that are not kept alive yet.
    look: Option<Duration>,
    again: VecDeque<Slot>,
    starving: Vec<Slot>,
    paused_until: Option<Duration>,
    draining: bool,
    stopped: bool,
    desk: Desk,
    lives: Lives,
    /// Clients whom other threads are to have.
    given: Vec<(usize, Client<S>)>,
}

impl<S: Sockets> Worker<S> {
    pub(super) fn new(mut sockets: S, shared: Arc<Shared>, desk: Desk) -> Worker<S> {
        let mut pipes = Pipes::new(IDLE_PIPES, shared);
        pipes.prepare(&mut sockets, FIRST_PIPES);
        Worker {
            sockets,
            listeners: Slots::new(),
            by_id: BTreeMap::new(),
            entries: Slots::new(),
            pipes,
            dials: Default::default(),
            leaving: VecDeque::new(),
            look: None,
            again: VecDeque::new(),
            starving: Vec::new(),
            paused_until: None,
            draining: false,
            stopped: false,
            desk,
            lives: Lives::default(),
            given: Vec::new(),
        }
    }

    /// Clients whom other threads are to have, with their numbers.
    pub(super) fn take_given(&mut self) -> Vec<(usize, Client<S>)> {
        std::mem::take(&mut self.given)
    }

    /// Whether there is nothing left to do for it, ever.
    pub(super) fn is_finished(&self) -> bool {
        self.stopped || (self.draining && self.entries.len() == 0)
    }

    /// Connections it has.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.entries.len()
    }

    /// How long it may wait for events; `None`: for ever.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let queues = self.dials.iter().chain([&self.leaving]);
        let ends = queues.filter_map(VecDeque::front).map(|(end, _)| *end);
        let first = ends.chain(self.paused_until).chain(self.look).min()?;
        Some(first.saturating_sub(now))
    }

    /// Does what another thread says.
    pub(super) fn obey(&mut self, command: Command<S>, now: Duration) {
        match command {
            Command::Listen(id, listener, pool) => self.listen(id, listener, pool),
            Command::Unlisten(id) => self.unlisten(id),
            Command::Have(client) => self.begin(client, now),
            Command::Drain => {
                self.draining = true;
                let ids: Vec<u64> = self.by_id.keys().copied().collect();
                ids.into_iter().for_each(|id| self.unlisten(id));
            }
            Command::Stop => {
                self.stopped = true;
                for slot in self.entries.names() {
                    self.break_off(slot);
                }
            }
        }
    }

    fn listen(&mut self, id: u64, listener: S::Listener, pool: Arc<Pool>) {
        if self.draining {
            return;
        }
        let slot = self.listeners.insert_with(|_| Listening {
            listener: listener.clone(),
            pool,
            paused: false,
            batch: 1,
        });
        self.by_id.insert(id, slot);
        // Without memory for one more watch it is tried again with those that pause.
        if self.sockets.watch_listener(&listener, token(slot, Side::Listener)).is_err() {
            self.pause(slot, Duration::ZERO);
        }
    }

    fn unlisten(&mut self, id: u64) {
        let listening = self.by_id.remove(&id).and_then(|slot| self.listeners.remove(slot));
        if let Some(listening) = listening {
            self.sockets.unwatch_listener(&listening.listener);
        }
    }

    /// Takes in what happened, and does what follows from it and from the time.
    pub(super) fn turn(&mut self, happened: &[Happened], now: Duration) {
        for event in happened {
            match owner(event.token) {
                Some((slot, Side::Listener)) => self.accept(slot, now),
                Some((slot, side)) => self.happened(slot, side, event, now),
                None => {}
            }
        }
        for _ in 0..self.again.len() {
            let Some(slot) = self.again.pop_front() else { break };
            self.carry(slot, now);
        }
        self.end_of_patience(now);
        self.end_of_pause(now);
        self.end_of_leave(now);
        self.keep_alive(now);
        self.forget_dials();
        self.desk.tell(self.entries.len());
        // What a rush of clients needed is given back when the last of them has left, and what went
        // with connections that broke is made up for.
        if self.entries.len() == 0 {
            self.pipes.shrink(FIRST_PIPES);
            self.pipes.prepare(&mut self.sockets, FIRST_PIPES);
        }
    }

    /// Accepts as many as waited the last times. To find out that nobody waits any more is a call
    /// as well: events tell as long as somebody does.
    fn accept(&mut self, slot: Slot, now: Duration) {
        let Some(Listening { batch, .. }) = self.listeners.get_mut(slot) else { return };
        let most = *batch;
        for count in 0..most {
            let Some(listening) = self.listeners.get_mut(slot) else { return };
            let pool = listening.pool.clone();
            match self.sockets.accept(&listening.listener) {
                Ok((socket, peer)) => {
                    let client = Client { socket, peer, pool };
                    match self.desk.next(self.entries.len(), &self.lives) {
                        Some(number) => self.given.push((number, client)),
                        None => self.begin(client, now),
                    }
                }
                Err(Trouble::NotNow) => return listening.batch = count.max(1),
                Err(Trouble::Exhausted) => {
                    pool.say_exhausted(now);
                    return self.pause(slot, now);
                }
                // The client left before it was its turn: the next one.
                Err(_) => {}
            }
        }
        if let Some(listening) = self.listeners.get_mut(slot) {
            listening.batch = (most * 2).min(ACCEPTS);
        }
    }

    fn begin(&mut self, Client { socket, peer, pool }: Client<S>, now: Duration) {
        let Some(place) = pool.enter(now) else { return self.sockets.reset(socket) };
        let slot = self.entries.insert_with(|slot| {
            let client = End::accepted(socket, token(slot, Side::Client));
            Entry { place, state: State::Dialing(Box::new(Dialing::new(client, peer))) }
        });
        self.lives.begins(self.entries.len());
        self.dial(slot, now);
    }

    /// Dials the next endpoint, or gives up.
    fn dial(&mut self, slot: Slot, now: Duration) {
        let Some(Entry { place, state: State::Dialing(dialing) }) = self.entries.get_mut(slot)
        else {
            return;
        };
        let server = token(slot, Side::Server);
        match dialing.dial(&mut self.sockets, place.pool(), server, now) {
            Some((level, deadline)) => self.dials[level].push_back((deadline, slot)),
            None => {
                place.pool().unserved();
                self.break_off(slot);
            }
        }
    }

    fn happened(&mut self, slot: Slot, side: Side, event: &Happened, now: Duration) {
        let at_client = side == Side::Client;
        let Some(entry) = self.entries.get_mut(slot) else { return };
        match &mut entry.state {
            State::Carried(stream) => {
                if stream.note(at_client, event) && !stream.queued {
                    self.carry(slot, now);
                }
            }
            // It gave up waiting.
            State::Dialing(_) if at_client && event.broken => self.break_off(slot),
            State::Dialing(dialing) if at_client => {
                dialing.client.note(event);
            }
            State::Dialing(dialing) => {
                let pool = entry.place.pool();
                match dialing.answered(&mut self.sockets, (pool, event)) {
                    Some(Ok(())) => self.connected(slot, event, now),
                    Some(Err(trouble)) => {
                        dialing.failed(&mut self.sockets, (pool, trouble), now);
                        self.dial(slot, now);
                    }
                    None => {}
                }
            }
            State::Leaving(_, left) if *left == side && (event.ending || event.broken) => {
                self.break_off(slot);
            }
            State::Leaving(..) | State::Between => {}
        }
    }

    /// The endpoint answered: from now on bytes are carried.
    fn connected(&mut self, slot: Slot, event: &Happened, now: Duration) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        let pool = entry.place.pool();
        let State::Dialing(dialing) = std::mem::replace(&mut entry.state, State::Between) else {
            return;
        };
        match dialing.connected(&mut self.sockets, (pool, event), now) {
            Ok((client, server)) => {
                entry.state = State::Carried(Stream::new(client, server));
                self.look.get_or_insert(now + LOOK);
                self.carry(slot, now);
            }
            Err(client) => {
                pool.unserved();
                self.sockets.reset(client);
                self.entries.remove(slot);
            }
        }
    }

    fn carry(&mut self, slot: Slot, now: Duration) {
        let Some(Entry { place, state: State::Carried(stream) }) = self.entries.get_mut(slot)
        else {
            return;
        };
        stream.queued = false;
        let with = (&mut self.sockets, &mut self.pipes);
        match stream.turn(with, &place.pool().counters, now) {
            Turn::Waits => {}
            Turn::Again => {
                stream.queued = true;
                self.again.push_back(slot);
            }
            Turn::Starves => {
                stream.queued = true;
                self.starving.push(slot);
                self.paused_until.get_or_insert(Duration::ZERO);
            }
            Turn::Done => {
                if let Some(Entry { state: State::Carried(stream), .. }) = self.entries.remove(slot)
                {
                    stream.close(&mut self.sockets, &mut self.pipes);
                }
            }
            Turn::ClientBroke => self.part(slot, Side::Client, now),
            Turn::ServerBroke => self.part(slot, Side::Server, now),
            Turn::Broken => self.break_off(slot),
        }
    }

    /// One side broke off: so does the other, when it has got what was sent to it before.
    fn part(&mut self, slot: Slot, broke: Side, now: Duration) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        let with = (&mut self.sockets, &mut self.pipes);
        let left = match std::mem::replace(&mut entry.state, State::Between) {
            State::Carried(stream) => stream.part(with, broke == Side::Client, now),
            _ => None,
        };
        match left {
            Some(socket) => {
                let side = if broke == Side::Client { Side::Server } else { Side::Client };
                entry.state = State::Leaving(socket, side);
                self.leaving.push_back((now + GRACE, slot));
            }
            None => self.break_off(slot),
        }
    }

    fn break_off(&mut self, slot: Slot) {
        match self.entries.remove(slot).map(|entry| entry.state) {
            Some(State::Dialing(dialing)) => dialing.break_off(&mut self.sockets),
            Some(State::Carried(stream)) => stream.reset(&mut self.sockets, &mut self.pipes),
            Some(State::Leaving(socket, _)) => self.sockets.reset(socket),
            Some(State::Between) | None => {}
        }
    }

    /// Dials that nobody answered in time.
    fn end_of_patience(&mut self, now: Duration) {
        for level in 0..self.dials.len() {
            while let Some((_, slot)) = self.dials[level].pop_front_if(|(end, _)| *end <= now) {
                let Some(Entry { place, state: State::Dialing(dialing) }) =
                    self.entries.get_mut(slot)
                else {
                    continue;
                };
                if dialing.deadline > now {
                    continue;
                }
                // A client that leaves while it waits is to be seen.
                let watched = dialing.watch_client(&mut self.sockets);
                let why = (place.pool(), Trouble::NotNow);
                dialing.failed(&mut self.sockets, why, now);
                match watched {
                    Ok(()) => self.dial(slot, now),
                    Err(_) => self.break_off(slot),
                }
            }
        }
    }

    /// Dials that have ended need nobody to wake up for them.
    fn forget_dials(&mut self) {
        for queue in &mut self.dials {
            let entries = &mut self.entries;
            let mut ended = |end: Duration, slot: Slot| match entries.get_mut(slot) {
                Some(Entry { state: State::Dialing(dialing), .. }) => dialing.deadline != end,
                _ => true,
            };
            while queue.pop_front_if(|(end, slot)| ended(*end, *slot)).is_some() {}
        }
    }

    fn end_of_leave(&mut self, now: Duration) {
        while let Some((_, slot)) = self.leaving.pop_front_if(|(end, _)| *end <= now) {
            self.break_off(slot);
        }
    }

    /// Connections that have lasted a while have their endpoints asked whether they are still there.
    fn keep_alive(&mut self, now: Duration) {
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        self.look = None;
        for slot in self.entries.names() {
            if let Some(Entry { state: State::Carried(stream), .. }) = self.entries.get_mut(slot) {
                stream.keep_alive(&mut self.sockets);
            }
        }
    }

    /// Nobody is accepted there for a while.
    fn pause(&mut self, slot: Slot, now: Duration) {
        if let Some(listening) = self.listeners.get_mut(slot)
            && !listening.paused
        {
            listening.paused = true;
            self.sockets.unwatch_listener(&listening.listener);
            self.paused_until.get_or_insert(now + PAUSE);
        }
    }

    fn end_of_pause(&mut self, now: Duration) {
        match self.paused_until {
            // Somebody began to starve in this turn.
            Some(Duration::ZERO) => self.paused_until = Some(now + PAUSE),
            Some(until) if until <= now => {
                self.paused_until = None;
                self.go_on(now);
            }
            _ => {}
        }
    }

    fn go_on(&mut self, now: Duration) {
        for slot in self.listeners.names() {
            let Some(listening) = self.listeners.get_mut(slot).filter(|l| l.paused) else {
                continue;
            };
            listening.paused = false;
            let listener = listening.listener.clone();
            if self.sockets.watch_listener(&listener, token(slot, Side::Listener)).is_err() {
                self.pause(slot, now);
            }
        }
        for slot in std::mem::take(&mut self.starving) {
            self.carry(slot, now);
        }
        if self.paused_until == Some(Duration::ZERO) {
            self.paused_until = Some(now + PAUSE);
        }
    }
}
