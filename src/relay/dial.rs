//! From an accepted client to a connected endpoint: one that does not answer is given up for the
//! next, with growing patience. It must never carry a byte of the client's. Tests: `tests.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use super::pool::Pool;
use super::proxy_protocol::header;
use super::sockets::{Interest, Sockets, Token, Trouble};
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
            peer,
            server: None,
            endpoint: None,
            deadline: Duration::ZERO,
            waits: 0,
            silent: Vec::new(),
            refusing: Vec::new(),
        }
    }

    /// Begins the next dial; gives which patience it has and until when. `None`: nobody is left to
    /// be dialled. Without a descriptor for the endpoint's side the client keeps its own and waits
    /// one patience as if the endpoint were silent, which is then not held against the endpoint.
    pub(super) fn dial(
        &mut self,
        sockets: &mut S,
        pool: &Pool,
        token: Token,
        now: Duration,
    ) -> Option<(usize, Duration)> {
        let patience = *PATIENCE.get(self.waits)?;
        while let Some(endpoint) = self.next(pool, now) {
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
                    self.deadline = now + patience;
                    return Some((self.waits, self.deadline));
                }
                // Not the endpoint's fault: no other can be dialled either.
                Err(Trouble::Exhausted) => {
                    pool.say_exhausted(now);
                    self.endpoint = None;
                    self.deadline = now + patience;
                    return Some((self.waits, self.deadline));
                }
                Err(trouble) => self.failed(sockets, (pool, trouble), now),
            }
        }
        None
    }

    fn next(&mut self, pool: &Pool, now: Duration) -> Option<SocketAddr> {
        let mut tried: Vec<SocketAddr> = self.refusing.clone();
        tried.extend(&self.silent);
        let client = self.peer.ip();
        if let Some(endpoint) = pool.choose(client, &tried, now) {
            return Some(endpoint);
        }
        // All were asked: those that were silent get more patience.
        self.silent.clear();
        pool.choose(client, &self.refusing, now)
    }

    /// How the dial ended; `None` if it goes on.
    pub(super) fn answered(&mut self, sockets: &mut S) -> Option<Result<(), Trouble>> {
        match sockets.outcome(self.server.as_ref()?) {
            Err(Trouble::NotNow) => None,
            ended => Some(ended),
        }
    }

    /// The dial failed; `NotNow` says that it took too long.
    pub(super) fn failed(&mut self, sockets: &mut S, (pool, why): (&Pool, Trouble), now: Duration) {
        self.server.take().into_iter().for_each(|socket| sockets.reset(socket));
        let Some(endpoint) = self.endpoint.take() else {
            // Nobody was dialled for want of a descriptor.
            self.waits += 1;
            return;
        };
        pool.failed(self.peer.ip(), endpoint, now);
        if why == Trouble::NotNow {
            self.waits += 1;
            self.silent.push(endpoint);
        } else {
            self.refusing.push(endpoint);
        }
    }

    /// The dial succeeded: tells the endpoint who its client is, where that is wanted. The client
    /// alone comes back where the endpoint is gone already.
    pub(super) fn connected(
        self,
        sockets: &mut S,
        pool: &Pool,
        (token, now): (Token, Duration),
    ) -> Result<(End<S>, End<S>), S::Socket> {
        let (Some(server), Some(endpoint)) = (self.server, self.endpoint) else {
            return Err(self.client.into_socket());
        };
        pool.worked(self.peer.ip(), endpoint, now);
        if pool.announces() {
            let asked = sockets.asked(self.client.socket()).unwrap_or(endpoint);
            let header = header(self.peer, asked);
            // The connection is new and its buffer empty: a part of the header is as bad as none.
            if sockets.write(&server, &header) != Ok(header.len()) {
                sockets.reset(server);
                return Err(self.client.into_socket());
            }
        }
        Ok((self.client, End::dialled(server, token)))
    }

    /// Breaks off on both sides.
    pub(super) fn break_off(self, sockets: &mut S) {
        sockets.reset(self.client.into_socket());
        self.server.into_iter().for_each(|socket| sockets.reset(socket));
    }
}
