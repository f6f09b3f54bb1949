//! From an accepted client to a connected endpoint: one that does not answer is given up for the
//! next, with growing patience. It must never carry a byte of the client's. Tests: `tests.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use super::pool::Pool;
use super::proxy_protocol::header;
use super::sockets::{Happened, Interest, Sockets, Token, Trouble};
use super::stream::End;

/// How long an endpoint has to answer, dial after dial
/// (`EndpointDialTimeouts` in `pkg/proxy/userspace/proxysocket.go` of Kubernetes 1.25).
pub(super) const PATIENCE: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];

/// A client whose endpoint is being dialled.
pub(super) struct Dialing<S: Sockets> {
    /// The client.
    pub(super) client: End<S>,
    /// Whether the client is watched: not before a dial takes long. Most do not, and what it says
    /// meanwhile would only wake us for nothing.
    watched: bool,
    peer: SocketAddr,
    server: Option<S::Socket>,
    endpoint: Option<SocketAddr>,
    /// Until when the dial that is under way may take.
    pub(super) deadline: Duration,
    /// How often patience has ended.
    waits: usize,
    /// Endpoints that did not answer in this round.
    silent: Vec<SocketAddr>,
    /// Endpoints that refuse: they are not asked twice.
    refusing: Vec<SocketAddr>,
}

impl<S: Sockets> Dialing<S> {
    pub(super) fn new(client: End<S>, peer: SocketAddr) -> Self {
        Dialing {
            client,
            watched: false,
            peer,
            server: None,
            endpoint: None,
            deadline: Duration::ZERO,
            waits: 0,
            silent: Vec::new(),
            refusing: Vec::new(),
        }
    }

    /// Watches the client, if it is not watched yet.
    pub(super) fn watch_client(&mut self, sockets: &mut S) -> Result<(), Trouble> {
        if !self.watched {
            sockets.watch(self.client.socket(), self.client.token(), Interest::Read)?;
            self.watched = true;
        }
        Ok(())
    }

    /// Begins the next dial; gives which patience it has and until when. `None`: nobody is left to
    /// be dialled. Without a descriptor for the endpoint's side, or a local port towards any
    /// endpoint, the client waits one patience as if the endpoint were silent, which is then not
    /// held against it.
    pub(super) fn dial(
        &mut self,
        sockets: &mut S,
        pool: &Pool,
        token: Token,
        now: Duration,
    ) -> Option<(usize, Duration)> {
        let patience = *PATIENCE.get(self.waits)?;
        self.deadline = now + patience;
        // Endpoints towards which no local port is free.
        let mut crowded = Vec::new();
        while let Some(endpoint) = self.next(pool, &crowded, now) {
            if self.waits > 0 || !self.refusing.is_empty() {
                pool.tried_again();
            }
            self.endpoint = Some(endpoint);
            let begun = sockets.connect(endpoint).and_then(|socket| {
                sockets.watch(&socket, token, Interest::ReadWrite)?;
                Ok(socket)
            });
            match begun {
                Ok(socket) => {
                    self.server = Some(socket);
                    return Some((self.waits, self.deadline));
                }
                // Not the endpoint's fault: no other can be dialled either.
                Err(Trouble::Exhausted) => {
                    pool.say_exhausted(now);
                    self.endpoint = None;
                    return Some((self.waits, self.deadline));
                }
                // Nor is this, but ports are counted by endpoint.
                Err(Trouble::NoPort) => {
                    pool.say_no_port(endpoint, now);
                    self.endpoint = None;
                    crowded.push(endpoint);
                }
                Err(trouble) => self.failed(sockets, (pool, trouble), now),
            }
        }
        // Ports come free by and by.
        (!crowded.is_empty()).then_some((self.waits, self.deadline))
    }

    fn next(&mut self, pool: &Pool, crowded: &[SocketAddr], now: Duration) -> Option<SocketAddr> {
        let client = self.peer.ip();
        let mut tried = [&*self.refusing, crowded, &*self.silent].concat();
        if let Some(endpoint) = pool.choose(client, &tried, now) {
            return Some(endpoint);
        }
        // All were asked: those that were silent get more patience.
        tried.truncate(self.refusing.len() + crowded.len());
        self.silent.clear();
        pool.choose(client, &tried, now)
    }

    /// How the dial ended of which that happened; `None` if it goes on. An endpoint that is to be
    /// told of its client must have taken that as well.
    pub(super) fn answered(
        &mut self,
        sockets: &mut S,
        (pool, event): (&Pool, &Happened),
    ) -> Option<Result<(), Trouble>> {
        let server = self.server.as_ref()?;
        // Room to write and nothing wrong is an answer; what else was told of has to be asked for.
        let outcome = match event.writable && !event.broken {
            true => Ok(()),
            false => sockets.outcome(server),
        };
        match outcome {
            Err(Trouble::NotNow) => return None,
            Ok(()) if pool.announces() => {}
            ended => return Some(ended),
        }
        let endpoint = self.endpoint?;
        let asked = sockets.asked(self.client.socket()).unwrap_or(endpoint);
        let header = header(self.peer, asked);
        // The connection is new and its buffer empty: a part of the header is as bad as none.
        Some(match sockets.write(server, &header) {
            Ok(count) if count == header.len() => Ok(()),
            Err(Trouble::Exhausted) => Err(Trouble::Exhausted),
            _ => Err(Trouble::Reset),
        })
    }

    /// The dial failed; `NotNow` says that it took too long.
    pub(super) fn failed(&mut self, sockets: &mut S, (pool, why): (&Pool, Trouble), now: Duration) {
        self.server.take().into_iter().for_each(|socket| sockets.reset(socket));
        let Some(endpoint) = self.endpoint.take() else {
            // Nobody was dialled for want of a descriptor or a port.
            self.waits += 1;
            return;
        };
        match why {
            // Not the endpoint's fault.
            Trouble::Exhausted | Trouble::NoPort => return self.waits += 1,
            Trouble::NotNow => {
                self.waits += 1;
                self.silent.push(endpoint);
            }
            _ => self.refusing.push(endpoint),
        }
        pool.failed(self.peer.ip(), endpoint, now);
    }

    /// The dial succeeded, with this event. The client alone comes back where nobody was dialled,
    /// or where there is no memory to watch it.
    pub(super) fn connected(
        mut self,
        sockets: &mut S,
        (pool, event): (&Pool, &Happened),
        now: Duration,
    ) -> Result<(End<S>, End<S>), S::Socket> {
        let watched = self.watch_client(sockets);
        let (Some(server), Some(endpoint)) = (self.server, self.endpoint) else {
            return Err(self.client.into_socket());
        };
        pool.worked(self.peer.ip(), endpoint, now);
        if watched.is_err() {
            sockets.reset(server);
            return Err(self.client.into_socket());
        }
        let wrote = pool.announces().then_some(now);
        Ok((self.client, End::dialled((server, event.token), event, wrote)))
    }

    /// Breaks off on both sides.
    pub(super) fn break_off(self, sockets: &mut S) {
        sockets.reset(self.client.into_socket());
        self.server.into_iter().for_each(|socket| sockets.reset(socket));
    }
}
