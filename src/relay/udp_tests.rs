//! The relay's UDP against sockets in memory: flows are kept as long as they are used, end with
//! their endpoint, and a refusal sends a client elsewhere.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::datagrams::{AT_ONCE, Batch, Datagrams};
use super::pool::{Announce, Group, Limits, Pool, Serving, Shared};
use super::sockets::{Happened, Token, Trouble};
use super::udp::{Command, UdpWorker};

type Queue = VecDeque<(SocketAddr, Vec<u8>)>;

#[derive(Debug, Default)]
struct World {
    to_listener: Queue,
    answers: BTreeMap<u32, VecDeque<Vec<u8>>>,
    upstreams: BTreeMap<u32, (SocketAddr, Token)>,
    refusing: BTreeSet<SocketAddr>,
    /// What arrived at endpoints: endpoint, socket, bytes.
    arrived: Vec<(SocketAddr, u32, Vec<u8>)>,
    answered: Vec<(SocketAddr, Vec<u8>)>,
    listener: Option<Token>,
    /// Nothing can be watched.
    blind: bool,
    /// How often a listener was asked for datagrams.
    asked: u32,
    next: u32,
}

#[derive(Clone, Debug, Default)]
struct Net(Rc<RefCell<World>>);

fn put(batch: &mut Batch, from: SocketAddr, bytes: &[u8]) {
    let start = batch.datagrams.last().map_or(0, |(_, at)| at.end);
    batch.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    batch.datagrams.push((Some(from), start..start + bytes.len()));
}

impl Datagrams for Net {
    type Listener = ();
    type Upstream = u32;

    fn connect(&mut self, to: SocketAddr) -> Result<u32, Trouble> {
        let mut world = self.0.borrow_mut();
        world.next += 1;
        let name = world.next;
        world.upstreams.insert(name, (to, 0));
        Ok(name)
    }

    fn watch_listener(&mut self, (): &(), token: Token) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        if world.blind {
            return Err(Trouble::Exhausted);
        }
        world.listener = Some(token);
        Ok(())
    }

    fn unwatch_listener(&mut self, (): &()) {
        self.0.borrow_mut().listener = None;
    }

    fn watch(&mut self, upstream: &u32, token: Token) -> Result<(), Trouble> {
        self.0.borrow_mut().upstreams.get_mut(upstream).unwrap().1 = token;
        Ok(())
    }

    fn receive(&mut self, (): &(), batch: &mut Batch) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.asked += 1;
        batch.datagrams.clear();
        while let Some((from, bytes)) =
            world.to_listener.pop_front_if(|_| batch.datagrams.len() < AT_ONCE)
        {
            put(batch, from, &bytes);
        }
        batch.is_full = batch.datagrams.len() >= AT_ONCE;
        if batch.datagrams.is_empty() { Err(Trouble::NotNow) } else { Ok(()) }
    }

    fn answers(&mut self, upstream: &u32, batch: &mut Batch) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        let from = world.upstreams[upstream].0;
        if world.refusing.contains(&from) {
            return Err(Trouble::Refused);
        }
        batch.datagrams.clear();
        for bytes in world.answers.remove(upstream).unwrap_or_default() {
            put(batch, from, &bytes);
        }
        batch.is_full = batch.datagrams.len() >= AT_ONCE;
        if batch.datagrams.is_empty() { Err(Trouble::NotNow) } else { Ok(()) }
    }

    fn forward(
        &mut self,
        upstream: &u32,
        batch: &Batch,
        which: Range<usize>,
    ) -> Result<usize, Trouble> {
        let mut world = self.0.borrow_mut();
        let to = world.upstreams[upstream].0;
        if world.refusing.contains(&to) {
            return Err(Trouble::Refused);
        }
        for (_, at) in &batch.datagrams[which.clone()] {
            let bytes = batch.bytes[at.clone()].to_vec();
            world.arrived.push((to, *upstream, bytes));
        }
        Ok(which.len())
    }

    fn answer(&mut self, (): &(), batch: &Batch, to: SocketAddr) {
        for (_, at) in &batch.datagrams {
            self.0.borrow_mut().answered.push((to, batch.bytes[at.clone()].to_vec()));
        }
    }

    fn close(&mut self, upstream: u32) {
        self.0.borrow_mut().upstreams.remove(&upstream);
    }

    fn wait(&mut self, happened: &mut Vec<Happened>, _: Option<Duration>) -> Result<(), Trouble> {
        let world = self.0.borrow();
        let told = |token| Happened { token, readable: true, ..Happened::default() };
        if !world.to_listener.is_empty() {
            happened.extend(world.listener.map(told));
        }
        let wants = |name: &u32, to: &SocketAddr| {
            world.answers.contains_key(name) || world.refusing.contains(to)
        };
        let tokens = world.upstreams.iter().filter(|(name, (to, _))| wants(name, to));
        happened.extend(tokens.map(|(_, (_, token))| told(*token)));
        Ok(())
    }
}

struct Stage {
    net: Net,
    worker: UdpWorker<Net>,
    pool: Arc<Pool>,
    now: Duration,
}

const TIMEOUT: Duration = Duration::from_millis(250);

fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n], 53))
}

fn client(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 999))
}

fn serving(endpoints: impl IntoIterator<Item = u8>) -> Serving {
    let endpoints = endpoints.into_iter().map(endpoint).collect();
    Serving { endpoints, affinity: None, announce: Announce::Nothing }
}

impl Stage {
    fn new(endpoints: u8, each: u64) -> Stage {
        let shared = Arc::new(Shared::new(Limits { all: 100, each, descriptors: 4096 }));
        let pool = Arc::new(Pool::new(
            ("a".to_owned(), Group::default()),
            shared,
            &serving(1..=endpoints),
        ));
        let net = Net::default();
        let mut worker = UdpWorker::new(net.clone(), TIMEOUT);
        worker.obey(Command::Listen(1, (), pool.clone()));
        Stage { net, worker, pool, now: Duration::from_secs(1) }
    }

    fn send(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.net.0.borrow_mut().to_listener.push_back((from, bytes.to_vec()));
        self.turn();
    }

    fn turn(&mut self) {
        let mut happened = Vec::new();
        self.net.wait(&mut happened, None).unwrap();
        self.worker.turn(&happened, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    fn arrived(&self) -> Vec<(SocketAddr, u32, Vec<u8>)> {
        self.net.0.borrow().arrived.clone()
    }
}

#[test]
fn a_client_keeps_its_endpoint_and_gets_its_answers() {
    let mut stage = Stage::new(2, 50);
    for _ in 0..3 {
        stage.send(client(1), b"question");
    }
    stage.send(client(2), b"other");
    let to: Vec<_> = stage.arrived().into_iter().map(|(to, socket, _)| (to, socket)).collect();
    assert_eq!(to, [(endpoint(1), 1), (endpoint(1), 1), (endpoint(1), 1), (endpoint(2), 2)]);
    stage.net.0.borrow_mut().answers.insert(2, [b"yes".to_vec()].into());
    stage.turn();
    assert_eq!(stage.net.0.borrow().answered, [(client(2), b"yes".to_vec())]);
    assert_eq!(stage.pool.counters.figures().bytes_up, 29);
}

#[test]
fn a_flow_lives_for_its_timeout_after_its_last_datagram() {
    let mut stage = Stage::new(1, 50);
    stage.send(client(1), b"a");
    stage.pass(TIMEOUT / 2);
    stage.send(client(1), b"b");
    stage.pass(TIMEOUT * 3 / 4);
    assert_eq!(stage.worker.open(), 1);
    stage.pass(TIMEOUT / 4);
    assert_eq!((stage.worker.open(), stage.pool.counters.figures().open), (0, 0));
    assert!(stage.net.0.borrow().upstreams.is_empty());
    assert_eq!(stage.worker.patience(stage.now), None);
}

#[test]
fn a_flow_ends_with_its_endpoint_and_its_listener() {
    let mut stage = Stage::new(2, 50);
    stage.send(client(1), b"a");
    stage.send(client(2), b"b");
    stage.pool.serve(&serving([2]));
    stage.worker.obey(Command::Changed(1));
    assert_eq!(stage.worker.open(), 1);
    stage.send(client(1), b"c");
    assert_eq!(stage.arrived().last().unwrap().0, endpoint(2));
    stage.worker.obey(Command::Unlisten(1));
    assert_eq!(stage.worker.open(), 0);
    assert!(stage.net.0.borrow().listener.is_none());
}

#[test]
fn what_one_endpoint_refuses_another_gets() {
    let mut stage = Stage::new(2, 50);
    stage.net.0.borrow_mut().refusing.insert(endpoint(1));
    stage.send(client(1), b"a");
    assert_eq!(stage.arrived().len(), 1);
    assert_eq!(stage.arrived()[0].0, endpoint(2));
    assert_eq!(stage.pool.counters.figures().failed_dials, 1);
}

#[test]
fn limits_hold_for_flows_too() {
    let mut stage = Stage::new(1, 2);
    for n in 0..5 {
        stage.send(client(n), b"a");
    }
    assert_eq!((stage.worker.open(), stage.pool.counters.figures().turned_away), (2, 3));
}

#[test]
fn many_datagrams_of_several_clients_arrive_in_order() {
    let mut stage = Stage::new(1, 50);
    for n in 0..100u8 {
        stage.net.0.borrow_mut().to_listener.push_back((client(n % 3), vec![n]));
    }
    stage.turn();
    let arrived = stage.arrived();
    assert_eq!(arrived.len(), 100);
    for n in 0..3 {
        let socket = arrived.iter().find(|(_, _, bytes)| bytes[0] == n).unwrap().1;
        let own: Vec<u8> = arrived.iter().filter(|a| a.1 == socket).map(|a| a.2[0]).collect();
        assert!(own.is_sorted() && own.iter().all(|m| m % 3 == n));
    }
}

#[test]
fn a_batch_that_is_not_full_is_the_last() {
    let mut stage = Stage::new(1, 50);
    for count in [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1] {
        stage.net.0.borrow_mut().asked = 0;
        let from = |n: usize| (client(1), vec![n as u8]);
        stage.net.0.borrow_mut().to_listener.extend((0..count).map(from));
        stage.turn();
        let asked = stage.net.0.borrow().asked;
        assert_eq!(asked, if count < AT_ONCE { 1 } else { 2 }, "{count}");
    }
    assert_eq!(stage.arrived().len(), 3 * AT_ONCE + 1);
}

#[test]
fn a_listener_that_could_not_be_watched_is_watched_later() {
    let mut stage = Stage::new(1, 50);
    stage.worker.obey(Command::Unlisten(1));
    stage.net.0.borrow_mut().blind = true;
    stage.worker.obey(Command::Listen(2, (), stage.pool.clone()));
    assert_eq!(stage.worker.patience(stage.now), Some(Duration::ZERO));
    stage.turn();
    stage.net.0.borrow_mut().blind = false;
    assert_eq!(stage.worker.patience(stage.now), Some(Duration::from_millis(50)));
    stage.pass(Duration::from_millis(50));
    stage.send(client(1), b"a");
    assert_eq!(stage.arrived().len(), 1);
}
