//! What tests of the relay's TCP play on: one thread's worker on simulated sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::pool::{Announce, Group, Limits, Pool, Serving, Shared};
use super::share::Loads;
use super::simulated::{Handle, Manner, Net};
use super::sockets::Sockets;
use super::worker::{Command, Worker};

pub(super) const PORT: u16 = 40_000;

pub(super) fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n], 8080))
}

pub(super) fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1000 + n))
}

/// A relay's thread and its network.
pub(super) struct Stage {
    pub(super) net: Net,
    pub(super) worker: Worker<Net>,
    pub(super) pool: Arc<Pool>,
    pub(super) shared: Arc<Shared>,
    pub(super) now: Duration,
    /// How many clients went from one thread to another.
    pub(super) moved: usize,
}

impl Stage {
    pub(super) fn new(seed: u64, endpoints: u8, announce: Announce) -> Stage {
        Stage::limited(
            seed,
            endpoints,
            (announce, Limits { all: 100, each: 50, descriptors: 4096 }),
        )
    }

    pub(super) fn limited(
        seed: u64,
        endpoints: u8,
        (announce, limits): (Announce, Limits),
    ) -> Stage {
        let net = Net::new(seed);
        let shared = Arc::new(Shared::new(limits));
        let endpoints: Arc<[SocketAddr]> = (1..=endpoints).map(endpoint).collect();
        endpoints.iter().for_each(|at| net.endpoint(*at, Manner::Answers));
        let serving = Serving { endpoints, affinity: None, announce };
        let pool =
            Arc::new(Pool::new(("a".to_owned(), Group::default()), shared.clone(), &serving));
        let mut worker = Worker::new(net.clone(), shared.clone(), Loads::new(2).desk(0));
        worker.obey(Command::Listen(7, PORT, pool.clone()), Duration::ZERO);
        Stage { net, worker, pool, shared, now: Duration::from_secs(1), moved: 0 }
    }

    /// Turns until nothing happens any more at this moment.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the relay does not come to rest");
            let mut happened = Vec::new();
            self.net.clone().wait(&mut happened, None).expect("memory does not fail");
            if happened.is_empty() && self.worker.patience(self.now) != Some(Duration::ZERO) {
                return;
            }
            self.worker.turn(&happened, self.now);
            // This one stands in for the other thread, too.
            for (_, client) in self.worker.take_given() {
                self.moved += 1;
                self.worker.obey(Command::Have(client), self.now);
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        if time >= Duration::from_millis(5) {
            self.net.depart();
        }
        self.settle();
    }

    /// A client with its connection to an endpoint.
    pub(super) fn connection(&mut self, n: u16) -> (Handle, Handle) {
        let handle = self.net.client(client(n), PORT);
        self.settle();
        let reached = self.net.reached();
        (handle, reached.last().expect("an endpoint answers").1)
    }

    /// Sends all of it while the other side reads; gives what arrived.
    pub(super) fn carry(&mut self, from: Handle, to: Handle, bytes: &[u8]) -> Vec<u8> {
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..100_000 {
            if sent == bytes.len() && got.len() >= bytes.len() {
                break;
            }
            if sent < bytes.len() {
                sent += self.net.send(from, &bytes[sent..]);
            }
            self.settle();
            got.extend(self.net.take(to).0);
            self.settle();
        }
        got
    }
}
