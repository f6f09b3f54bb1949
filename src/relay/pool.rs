//! One listening port's endpoints and settings, shared by the threads that accept there.
//! It must never know how packets come to the port. Tests: `balance`, `tests.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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
    /// Connections and UDP flows of one group of listening ports.
    pub each: u64,
    /// Descriptors for listening ports, connections and their pipes.
    pub descriptors: u64,
}

impl Limits {
    /// Connections for which so many descriptors do, if no reader is slow.
    pub fn fitting(descriptors: u64) -> u64 {
        (descriptors - descriptors / SHARE_FOR_PIPES) / 2
    }
}

/// One in so many descriptors is kept for pipes of slow readers.
const SHARE_FOR_PIPES: u64 = 16;

/// What all threads and all listening ports share.
#[derive(Debug)]
pub struct Shared {
    /// How much is carried at once.
    pub limits: Limits,
    /// Figures of all listening ports.
    pub counters: Counters,
    /// Pipes that hold bytes whose reader is slow.
    held: AtomicU64,
    listeners: AtomicU64,
    exhausted: Complaint,
    no_port: Complaint,
}

impl Shared {
    /// Nothing is carried yet.
    pub fn new(limits: Limits) -> Shared {
        Shared {
            limits,
            counters: Counters::default(),
            held: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            exhausted: Complaint::default(),
            no_port: Complaint::default(),
        }
    }

    /// Descriptors that are left: a connection takes two, and so does a pipe.
    pub(super) fn left(&self) -> u64 {
        let pairs = self.counters.open() + self.held.load(Relaxed);
        let used = self.listeners.load(Relaxed) + 2 * pairs;
        self.limits.descriptors.saturating_sub(used)
    }

    fn has_room(&self) -> bool {
        let kept = self.limits.descriptors / SHARE_FOR_PIPES;
        self.counters.open() < self.limits.all && self.left() >= kept + 2
    }

    pub(super) fn has_room_for_a_pipe(&self) -> bool {
        self.left() >= 2
    }

    pub(super) fn holds_a_pipe(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    pub(super) fn lets_go_of_a_pipe(&self) {
        self.held.fetch_sub(1, Relaxed);
    }

    /// Whether there may be one more listening port. Half of the descriptors are for who comes in by
    /// them; and those that nobody counts here must never be used up.
    pub(super) fn has_room_for_a_port(&self) -> bool {
        self.listeners.load(Relaxed) < self.limits.descriptors / 2
    }

    /// One more listening port.
    pub(super) fn listens(&self) {
        self.listeners.fetch_add(1, Relaxed);
    }

    /// One less.
    pub(super) fn listens_no_more(&self) {
        self.listeners.fetch_sub(1, Relaxed);
    }
}

/// Listening ports that share a limit, such as those of one Service port.
#[derive(Clone, Debug, Default)]
pub struct Group(pub(super) Arc<AtomicU64>);

/// One listening port.
#[derive(Debug)]
pub struct Pool {
    /// What its log lines call it.
    name: String,
    group: Group,
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
        self.0.group.0.fetch_sub(1, Relaxed);
        self.0.shared.counters.closed();
    }
}

impl Pool {
    /// A port of this name and group that serves this.
    pub fn new((name, group): (String, Group), shared: Arc<Shared>, serving: &Serving) -> Pool {
        let pool = Pool {
            name,
            group,
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
        if !self.shared.has_room() || self.group.0.load(Relaxed) >= limits.each {
            counters.turned_away();
            self.counters.turned_away();
            self.say_full(now);
            return None;
        }
        counters.opened();
        self.counters.opened();
        self.group.0.fetch_add(1, Relaxed);
        Some(Place(self.clone()))
    }

    fn say_full(&self, now: Duration) {
        let Some(times) = self.full.comes_up(now) else { return };
        let Limits { all, each, .. } = self.shared.limits;
        let (open, in_all) = (self.group.0.load(Relaxed), self.shared.counters.open());
        tracing::warn!(
            service = self.name,
            open,
            each,
            in_all,
            all,
            times,
            "as many connections are open as may be: further ones are reset \
             (--userspace-max-connections, --userspace-max-connections-per-service, RLIMIT_NOFILE)"
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

    /// Every local port towards an endpoint is in use.
    pub(super) fn say_no_port(&self, endpoint: SocketAddr, now: Duration) {
        let Some(times) = self.shared.no_port.comes_up(now) else { return };
        tracing::warn!(
            service = self.name,
            %endpoint,
            times,
            "no local port is free towards an endpoint: others are tried, or clients wait \
             (net.ipv4.ip_local_port_range, net.ipv4.tcp_tw_reuse=1)"
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
