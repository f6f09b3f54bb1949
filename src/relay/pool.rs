//! One listening port's endpoints and settings, shared by the threads that accept there.
//! It must never know how packets come to the port. Tests: `balance`, `tests.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::balance::Balancer;
use super::complaints::Complaint;
use super::counters::Counters;

/// What a listening port is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Where its connections go.
    pub endpoints: Arc<[SocketAddr]>,
    /// How long a client stays with an endpoint.
    pub affinity: Option<Duration>,
    /// Whether endpoints are told of the client by a header in front of what it sends.
    pub announce: Announce,
}

/// Whether endpoints are told who their client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announce {
    /// They see this node.
    #[default]
    Nothing,
    /// By the PROXY protocol, version 2 (HAProxy's `doc/proxy-protocol.txt`).
    ProxyV2,
}

/// How much is carried at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections and UDP flows in all.
    pub all: u64,
    /// Connections and UDP flows of one listening port.
    pub each: u64,
}

/// What all threads and all listening ports share.
#[derive(Debug)]
pub struct Shared {
    /// How much is carried at once.
    pub limits: Limits,
    /// Figures of all listening ports.
    pub counters: Counters,
    exhausted: Complaint,
}

impl Shared {
    /// Nothing is carried yet.
    pub fn new(limits: Limits) -> Shared {
        Shared { limits, counters: Counters::default(), exhausted: Complaint::default() }
    }
}

/// One listening port.
#[derive(Debug)]
pub struct Pool {
    /// What its log lines call it.
    name: String,
    balancer: Mutex<Balancer>,
    full: Complaint,
    announces: AtomicBool,
    /// Its figures.
    pub counters: Counters,
    shared: Arc<Shared>,
}

/// A place within the limits; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Pool>);

impl Place {
    pub(super) fn pool(&self) -> &Pool {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counters.closed();
        self.0.shared.counters.closed();
    }
}

impl Pool {
    /// A port of this name that serves this.
    pub fn new(name: String, shared: Arc<Shared>, serving: &Serving) -> Pool {
        let pool = Pool {
            name,
            full: Complaint::default(),
            balancer: Mutex::new(Balancer::default()),
            announces: AtomicBool::new(false),
            counters: Counters::default(),
            shared,
        };
        pool.serve(serving);
        pool
    }

    /// From now on serves this. Connections that are there go on.
    pub fn serve(&self, serving: &Serving) {
        self.balancer().set(serving.endpoints.clone(), serving.affinity);
        self.announces.store(serving.announce == Announce::ProxyV2, Relaxed);
    }

    /// Where its connections go.
    pub fn endpoints(&self) -> Arc<[SocketAddr]> {
        self.balancer().endpoints().clone()
    }

    pub(super) fn announces(&self) -> bool {
        self.announces.load(Relaxed)
    }

    /// A place for one more connection, unless a limit is reached.
    pub(super) fn enter(self: &Arc<Pool>, now: Duration) -> Option<Place> {
        let Shared { limits, counters, .. } = &*self.shared;
        // Two threads may pass the limit by one each: it is a bound on memory, not a promise.
        if counters.open() >= limits.all || self.counters.open() >= limits.each {
            counters.turned_away();
            self.counters.turned_away();
            self.say_full(now);
            return None;
        }
        counters.opened();
        self.counters.opened();
        Some(Place(self.clone()))
    }

    fn say_full(&self, now: Duration) {
        let Some(times) = self.full.comes_up(now) else { return };
        let Limits { all, each } = self.shared.limits;
        let (open, in_all) = (self.counters.open(), self.shared.counters.open());
        tracing::warn!(
            service = self.name,
            open,
            each,
            in_all,
            all,
            times,
            "as many connections are open as may be: further ones are reset \
             (--userspace-max-connections, --userspace-max-connections-per-service)"
        );
    }

    /// There was no descriptor or memory for a socket.
    pub(super) fn say_exhausted(&self, now: Duration) {
        let Some(times) = self.shared.exhausted.comes_up(now) else { return };
        let in_all = self.shared.counters.open();
        tracing::warn!(
            service = self.name,
            in_all,
            times,
            "no descriptor or memory for one more socket: clients wait until there is \
             (RLIMIT_NOFILE, net.ipv4.tcp_mem, --userspace-max-connections)"
        );
    }

    pub(super) fn choose(
        &self,
        client: IpAddr,
        tried: &[SocketAddr],
        now: Duration,
    ) -> Option<SocketAddr> {
        self.balancer().choose(client, tried, now)
    }

    pub(super) fn worked(&self, client: IpAddr, endpoint: SocketAddr, now: Duration) {
        self.balancer().worked(client, endpoint, now);
    }

    pub(super) fn failed(&self, client: IpAddr, endpoint: SocketAddr, now: Duration) {
        self.counters.dial_failed();
        self.shared.counters.dial_failed();
        self.balancer().failed(client, endpoint, now);
    }

    pub(super) fn tried_again(&self) {
        self.counters.tried_again();
        self.shared.counters.tried_again();
    }

    pub(super) fn unserved(&self) {
        self.counters.unserved();
        self.shared.counters.unserved();
    }

    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        // A balancer is whole after every call, so that a panic elsewhere leaves it usable.
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
