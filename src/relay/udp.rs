//! The relay's UDP: each client has a socket of its own towards its endpoint, kept as long as
//! datagrams come and go, and then for `--udp-timeout`.
//!
//! It must never block but in `wait`, nor keep a datagram. Time comes from the caller.
//! Tests: `udp_tests.rs`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::datagrams::{Batch, Datagrams};
use super::pool::{Place, Pool};
use super::slots::{Slot, Slots};
use super::sockets::{Happened, Token, Trouble};

/// Batches taken from one socket before others have their turn.
const ROUNDS: usize = 8;
/// How long a listener that could not be watched waits until that is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// What the thread is told by another.
pub(super) enum Command<D: Datagrams> {
    /// Take datagrams for this pool.
    Listen(u64, D::Listener, Arc<Pool>),
    /// Take none there any more.
    Unlisten(u64),
    /// The pool has other endpoints: flows to those that are gone end.
    Changed(u64),
    /// End.
    Stop,
}

struct Listening<D: Datagrams> {
    listener: D::Listener,
    pool: Arc<Pool>,
    /// Only ever looked up, so that the order of the hash map cannot show.
    clients: HashMap<SocketAddr, Slot>,
}

struct Flow<D: Datagrams> {
    upstream: D::Upstream,
    place: Place,
    listening: Slot,
    client: SocketAddr,
    endpoint: SocketAddr,
    last: Duration,
}

/// All UDP flows of one thread.
pub(super) struct UdpWorker<D: Datagrams> {
    sockets: D,
    timeout: Duration,
    listeners: Slots<Listening<D>>,
    by_id: BTreeMap<u64, Slot>,
    flows: Slots<Flow<D>>,
    /// When each flow is to be looked at: it may have been used since.
    ends: VecDeque<(Duration, Slot)>,
    batch: Batch,
    /// Listeners that could not be watched, and when that is tried again.
    unwatched: Vec<Slot>,
    again: Option<Duration>,
    stopped: bool,
}

fn listener_token(slot: Slot) -> Token {
    slot.number() << 2 | 2
}

impl<D: Datagrams> UdpWorker<D> {
    /// Flows are kept for `timeout` after their last datagram.
    pub(super) fn new(sockets: D, timeout: Duration) -> UdpWorker<D> {
        UdpWorker {
            sockets,
            timeout,
            listeners: Slots::new(),
            by_id: BTreeMap::new(),
            flows: Slots::new(),
            ends: VecDeque::new(),
            batch: Batch::new(),
            unwatched: Vec::new(),
            again: None,
            stopped: false,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stopped
    }

    /// The sockets.
    pub(super) fn sockets(&mut self) -> &mut D {
        &mut self.sockets
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.flows.len()
    }

    /// How long it may wait for events; `None`: for ever.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        let first = self.ends.front().map(|(end, _)| *end);
        Some(first.into_iter().chain(self.again).min()?.saturating_sub(now))
    }

    /// Does what another thread says.
    pub(super) fn obey(&mut self, command: Command<D>) {
        match command {
            Command::Listen(id, listener, pool) => self.listen(id, listener, pool),
            Command::Unlisten(id) => self.unlisten(id),
            Command::Changed(id) => {
                let Some(slot) = self.by_id.get(&id).copied() else { return };
                let Some(listening) = self.listeners.get_mut(slot) else { return };
                let endpoints = listening.pool.endpoints();
                self.end_flows_of(slot, |endpoint| !endpoints.contains(endpoint));
            }
            Command::Stop => self.stopped = true,
        }
    }

    fn listen(&mut self, id: u64, listener: D::Listener, pool: Arc<Pool>) {
        let new = Listening { listener: listener.clone(), pool, clients: HashMap::new() };
        let slot = self.listeners.insert_with(|_| new);
        self.by_id.insert(id, slot);
        self.watch(slot, Duration::ZERO);
    }

    /// Watches a listener. Without memory for one more watch, or beyond fs.epoll.max_user_watches,
    /// it is tried again.
    fn watch(&mut self, slot: Slot, again: Duration) {
        let Some(listening) = self.listeners.get_mut(slot) else { return };
        if self.sockets.watch_listener(&listening.listener, listener_token(slot)).is_err() {
            self.unwatched.push(slot);
            self.again.get_or_insert(again);
        }
    }

    fn watch_again(&mut self, now: Duration) {
        if self.again.is_none_or(|again| now < again) {
            return;
        }
        self.again = None;
        for slot in std::mem::take(&mut self.unwatched) {
            if let Some(listening) = self.listeners.get_mut(slot) {
                listening.pool.say_exhausted(now);
                self.watch(slot, now + PAUSE);
            }
        }
    }

    fn unlisten(&mut self, id: u64) {
        let Some(slot) = self.by_id.remove(&id) else { return };
        self.end_flows_of(slot, |_| true);
        if let Some(listening) = self.listeners.remove(slot) {
            self.sockets.unwatch_listener(&listening.listener);
        }
    }

    fn end_flows_of(&mut self, listening: Slot, which: impl Fn(&SocketAddr) -> bool) {
        let Some(found) = self.listeners.get_mut(listening) else { return };
        let slots: Vec<Slot> = found.clients.values().copied().collect();
        for slot in slots {
            if self.flows.get_mut(slot).is_some_and(|flow| which(&flow.endpoint)) {
                self.end(slot);
            }
        }
    }

    /// Takes in what happened, and ends what has been idle too long.
    pub(super) fn turn(&mut self, happened: &[Happened], now: Duration) {
        for event in happened {
            let slot = Slot::from_number(event.token >> 2);
            match event.token & 3 {
                2 => self.hear_clients(slot, now),
                0 => self.hear_endpoint(slot, now),
                _ => {}
            }
        }
        while let Some((_, slot)) = self.ends.pop_front_if(|(end, _)| *end <= now) {
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            let end = flow.last + self.timeout;
            if end <= now { self.end(slot) } else { self.ends.push_back((end, slot)) }
        }
        self.watch_again(now);
    }

    fn hear_clients(&mut self, listening: Slot, now: Duration) {
        for _ in 0..ROUNDS {
            let Some(Listening { listener, .. }) = self.listeners.get_mut(listening) else {
                return;
            };
            if self.sockets.receive(listener, &mut self.batch).is_err() {
                return;
            }
            let batch = std::mem::replace(&mut self.batch, Batch::empty());
            for (from, run) in batch.runs() {
                if let Some(client) = from {
                    self.forward(listening, client, (&batch, run), now);
                }
            }
            self.batch = batch;
            if !self.batch.is_full {
                return;
            }
        }
    }

    /// Sends a client's datagrams on. An endpoint that refuses them is given up for another, once.
    fn forward(
        &mut self,
        listening: Slot,
        client: SocketAddr,
        (batch, mut run): (&Batch, Range<usize>),
        now: Duration,
    ) {
        for _ in 0..2 {
            let Some(slot) = self.flow(listening, client, now) else { return };
            let Some(flow) = self.flows.get_mut(slot) else { return };
            flow.last = now;
            match self.sockets.forward(&flow.upstream, batch, run.clone()) {
                Ok(count) => {
                    let sent = &batch.datagrams[run.start..run.start + count.min(run.len())];
                    let bytes: usize = sent.iter().map(|(_, at)| at.len()).sum();
                    flow.place.pool().counters.sent_up(bytes as u64);
                    run.start += count;
                    if run.is_empty() {
                        return;
                    }
                }
                // No room: they are lost, as datagrams are.
                Err(Trouble::NotNow | Trouble::Exhausted) => return,
                Err(_) => self.failed(slot, now),
            }
        }
    }

    /// The client's flow, made if there is none.
    fn flow(&mut self, listening: Slot, client: SocketAddr, now: Duration) -> Option<Slot> {
        let found = self.listeners.get_mut(listening)?;
        if let Some(slot) = found.clients.get(&client) {
            return Some(*slot);
        }
        let pool = found.pool.clone();
        let place = pool.enter(now)?;
        let endpoint = pool.choose(client.ip(), &[], now)?;
        let upstream = match self.sockets.connect(endpoint) {
            Ok(upstream) => upstream,
            Err(Trouble::Exhausted) => {
                pool.say_exhausted(now);
                return None;
            }
            Err(_) => return None,
        };
        let flow = Flow { upstream, place, listening, client, endpoint, last: now };
        let slot = self.flows.insert_with(|_| flow);
        let watched = self.flows.get_mut(slot).map(|flow| (slot.number() << 2, &flow.upstream));
        if watched.is_some_and(|(token, up)| self.sockets.watch(up, token).is_err()) {
            self.end(slot);
            return None;
        }
        pool.worked(client.ip(), endpoint, now);
        self.listeners.get_mut(listening)?.clients.insert(client, slot);
        self.ends.push_back((now + self.timeout, slot));
        Some(slot)
    }

    fn hear_endpoint(&mut self, slot: Slot, now: Duration) {
        for _ in 0..ROUNDS {
            let Some(flow) = self.flows.get_mut(slot) else { return };
            match self.sockets.answers(&flow.upstream, &mut self.batch) {
                Ok(()) => {}
                Err(Trouble::NotNow | Trouble::Exhausted) => return,
                Err(_) => return self.failed(slot, now),
            }
            flow.last = now;
            let bytes: usize = self.batch.datagrams.iter().map(|(_, at)| at.len()).sum();
            flow.place.pool().counters.sent_down(bytes as u64);
            if let Some(listening) = self.listeners.get_mut(flow.listening) {
                self.sockets.answer(&listening.listener, &self.batch, flow.client);
            }
            if !self.batch.is_full {
                return;
            }
        }
    }

    /// The endpoint refuses datagrams: the client's next ones go elsewhere.
    fn failed(&mut self, slot: Slot, now: Duration) {
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.place.pool().failed(flow.client.ip(), flow.endpoint, now);
        }
        self.end(slot);
    }

    fn end(&mut self, slot: Slot) {
        let Some(flow) = self.flows.remove(slot) else { return };
        if let Some(listening) = self.listeners.get_mut(flow.listening) {
            listening.clients.remove(&flow.client);
        }
        self.sockets.close(flow.upstream);
    }
}
