//! The relay against simulated sockets: dials that fail, half-closes, resets, limits, descriptors
//! that run out, under any order of events that a seed makes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::dial::PATIENCE;
use super::pool::{Announce, Limits, Pool, Serving, Shared};
use super::simulated::{Handle, Manner, Net};
use super::sockets::{Sockets, Trouble};
use super::worker::{Command, Worker};

const PORT: u16 = 40_000;

fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n], 8080))
}

fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1000 + n))
}

struct Stage {
    net: Net,
    worker: Worker<Net>,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    now: Duration,
}

impl Stage {
    fn new(seed: u64, endpoints: u8, announce: Announce) -> Stage {
        Stage::limited(seed, endpoints, (announce, Limits { all: 100, each: 50 }))
    }

    fn limited(seed: u64, endpoints: u8, (announce, limits): (Announce, Limits)) -> Stage {
        let net = Net::new(seed);
        let shared = Arc::new(Shared::new(limits));
        let endpoints: Arc<[SocketAddr]> = (1..=endpoints).map(endpoint).collect();
        endpoints.iter().for_each(|at| net.endpoint(*at, Manner::Answers));
        let serving = Serving { endpoints, affinity: None, announce };
        let pool = Arc::new(Pool::new("a".to_owned(), shared.clone(), &serving));
        let mut worker = Worker::new(net.clone());
        worker.obey(Command::Listen(7, PORT, pool.clone()));
        Stage { net, worker, pool, shared, now: Duration::from_secs(1) }
    }

    /// Turns until nothing happens any more at this moment.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut happened = Vec::new();
            self.net.clone().wait(&mut happened, None).expect("memory does not fail");
            if happened.is_empty() && self.worker.patience(self.now) != Some(Duration::ZERO) {
                return;
            }
            self.worker.turn(&happened, self.now);
        }
        panic!("the relay does not come to rest");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    /// A client with its connection to an endpoint.
    fn connection(&mut self, n: u16) -> (Handle, Handle) {
        let handle = self.net.client(client(n), PORT);
        self.settle();
        let reached = self.net.reached();
        (handle, reached.last().expect("an endpoint answers").1)
    }

    /// Sends all of it while the other side reads; gives what arrived.
    fn carry(&mut self, from: Handle, to: Handle, bytes: &[u8]) -> Vec<u8> {
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

#[test]
fn connections_go_round_and_carry_both_ways() {
    let mut stage = Stage::new(3, 3, Announce::Nothing);
    let mut to = Vec::new();
    for n in 0..6 {
        let (here, there) = stage.connection(n);
        to.push(stage.net.reached().last().expect("one more").0);
        let question: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(stage.carry(here, there, &question), question);
        assert_eq!(stage.carry(there, here, b"answer"), b"answer");
    }
    let round: Vec<SocketAddr> = [1, 2, 3, 1, 2, 3].map(endpoint).into();
    assert_eq!(to, round);
    assert_eq!(stage.pool.counters.figures().bytes_up, 6000);
    assert_eq!(stage.pool.counters.figures().bytes_down, 36);
}

#[test]
fn what_an_endpoint_says_with_its_answer_arrives() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.net.greeting(endpoint(1), b"220 ready");
    let (here, _) = stage.connection(1);
    assert_eq!(stage.net.take(here).0, b"220 ready");
}

#[test]
fn half_closes_are_told_on_and_the_other_way_stays_open() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    let (here, there) = stage.connection(1);
    assert_eq!(stage.carry(here, there, b"all there is"), b"all there is");
    stage.net.finish(here);
    stage.settle();
    assert_eq!(stage.net.take(there), (Vec::new(), None, true));
    assert_eq!(stage.carry(there, here, b"and the answer"), b"and the answer");
    assert_eq!(stage.worker.open(), 1);
    stage.net.finish(there);
    stage.settle();
    assert!(stage.net.take(here).2);
    assert_eq!((stage.worker.open(), stage.shared.counters.figures().open), (0, 0));
}

#[test]
fn a_reset_is_a_reset_on_the_other_side() {
    for from_client in [true, false] {
        let mut stage = Stage::new(5, 1, Announce::Nothing);
        let (here, there) = stage.connection(1);
        let (breaks, sees) = if from_client { (here, there) } else { (there, here) };
        stage.net.reset(breaks);
        stage.settle();
        assert_eq!(stage.net.take(sees).1, Some(Trouble::Reset));
        assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
    }
}

#[test]
fn who_does_not_read_stops_the_other_from_being_read() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    let (here, _) = stage.connection(1);
    let mut sent = 0;
    for _ in 0..1000 {
        sent += stage.net.send(here, &[0; 1000]);
        stage.settle();
    }
    assert!(sent < 500, "{sent} bytes were taken although nobody reads them");
}

#[test]
fn an_endpoint_that_refuses_is_passed_over_at_once_and_for_a_while() {
    let mut stage = Stage::new(5, 3, Announce::Nothing);
    stage.net.endpoint(endpoint(1), Manner::Refuses);
    for n in 0..4 {
        stage.connection(n);
    }
    let reached: Vec<_> = stage.net.reached().into_iter().map(|(at, _)| at).collect();
    assert_eq!(reached, [2, 3, 2, 3].map(endpoint));
    let figures = stage.pool.counters.figures();
    assert_eq!((figures.failed_dials, figures.retries), (1, 1));
}

#[test]
fn an_endpoint_that_keeps_silent_is_given_up_with_growing_patience() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.net.endpoint(endpoint(1), Manner::Silent);
    let here = stage.net.client(client(1), PORT);
    stage.settle();
    for patience in PATIENCE {
        assert_eq!(stage.net.take(here).1, None);
        stage.pass(patience - Duration::from_millis(1));
        assert_eq!(stage.worker.open(), 1);
        stage.pass(Duration::from_millis(1));
    }
    assert_eq!(stage.net.take(here).1, Some(Trouble::Reset));
    let figures = stage.pool.counters.figures();
    assert_eq!((figures.failed_dials, figures.retries, figures.unserved), (4, 3, 1));
    assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
}

#[test]
fn a_silent_endpoint_costs_a_quarter_of_a_second_where_another_answers() {
    let mut stage = Stage::new(5, 2, Announce::Nothing);
    stage.net.endpoint(endpoint(1), Manner::Silent);
    stage.net.client(client(1), PORT);
    stage.settle();
    assert!(stage.net.reached().is_empty());
    stage.pass(PATIENCE[0]);
    assert_eq!(stage.net.reached()[0].0, endpoint(2));
}

#[test]
fn a_client_that_leaves_while_its_endpoint_is_dialled_leaves_nothing_behind() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.net.endpoint(endpoint(1), Manner::Silent);
    let here = stage.net.client(client(1), PORT);
    stage.settle();
    stage.net.reset(here);
    stage.settle();
    assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
    stage.pass(Duration::from_secs(10));
    assert_eq!(stage.shared.counters.figures().open, 0);
}

#[test]
fn limits_turn_away_by_a_reset_and_give_places_back() {
    let limits = Limits { all: 3, each: 2 };
    let mut stage = Stage::limited(5, 1, (Announce::Nothing, limits));
    let (first, _) = stage.connection(1);
    stage.connection(2);
    let third = stage.net.client(client(3), PORT);
    stage.settle();
    assert_eq!(stage.net.take(third).1, Some(Trouble::Reset));
    assert_eq!(stage.pool.counters.figures().turned_away, 1);
    stage.net.reset(first);
    stage.settle();
    stage.connection(4);
    assert_eq!(stage.pool.counters.figures().open, 2);
}

#[test]
fn without_descriptors_nobody_is_accepted_for_a_while_and_open_connections_go_on() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    let (here, there) = stage.connection(1);
    stage.net.leave_descriptors(Some(0));
    let waits = stage.net.client(client(2), PORT);
    stage.settle();
    assert!(stage.net.listening().is_empty());
    assert_eq!(stage.carry(here, there, b"still"), b"still");
    assert_eq!(stage.net.take(waits), (Vec::new(), None, false));
    stage.net.leave_descriptors(None);
    stage.pass(Duration::from_millis(50));
    assert_eq!(stage.net.reached().len(), 2);
}

#[test]
fn who_got_the_last_descriptor_waits_for_one_more_and_no_endpoint_is_blamed() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.net.leave_descriptors(Some(1));
    let waits = stage.net.client(client(1), PORT);
    stage.settle();
    assert_eq!(stage.net.take(waits), (Vec::new(), None, false));
    stage.net.leave_descriptors(None);
    stage.pass(Duration::from_millis(250));
    assert_eq!(stage.net.reached().len(), 1);
    assert_eq!(stage.pool.counters.figures().failed_dials, 0);
}

#[test]
fn who_got_the_last_descriptor_does_not_wait_for_ever() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.net.leave_descriptors(Some(1));
    let gives_up = stage.net.client(client(1), PORT);
    for patience in [250, 500, 1000, 2000] {
        stage.settle();
        assert_eq!(stage.net.take(gives_up).1, None);
        stage.pass(Duration::from_millis(patience));
    }
    assert_eq!(stage.net.take(gives_up).1, Some(Trouble::Reset));
    assert_eq!(stage.pool.counters.figures().unserved, 1);
}

#[test]
fn the_endpoint_is_told_of_its_client_where_that_is_asked_for() {
    let mut stage = Stage::new(5, 1, Announce::ProxyV2);
    let (here, there) = stage.connection(1);
    assert_eq!(stage.carry(here, there, b"hello").len(), 28 + 5);
}

#[test]
fn draining_accepts_no_more_and_ends_with_the_last_connection() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    let (here, there) = stage.connection(1);
    stage.worker.obey(Command::Drain);
    assert!(stage.net.listening().is_empty());
    assert!(!stage.worker.is_finished());
    assert_eq!(stage.carry(here, there, b"last words"), b"last words");
    stage.net.finish(here);
    stage.net.finish(there);
    stage.settle();
    assert!(stage.worker.is_finished());
}

#[test]
fn stopping_breaks_off_what_is_open() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    let (here, _) = stage.connection(1);
    stage.worker.obey(Command::Stop);
    assert!(stage.worker.is_finished());
    assert_eq!(stage.net.take(here).1, Some(Trouble::Reset));
}

/// One thing a test does.
#[derive(Clone, Debug)]
enum Act {
    Connect,
    Send(usize, bool, u8),
    Read(usize, bool),
    Finish(usize, bool),
    Reset(usize, bool),
    Manner(u8, u8),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Connect),
        6 => (0..8usize, any::<bool>(), 1..200u8).prop_map(|(n, c, l)| Act::Send(n, c, l)),
        6 => (0..8usize, any::<bool>()).prop_map(|(n, c)| Act::Read(n, c)),
        2 => (0..8usize, any::<bool>()).prop_map(|(n, c)| Act::Finish(n, c)),
        1 => (0..8usize, any::<bool>()).prop_map(|(n, c)| Act::Reset(n, c)),
        1 => (1..4u8, 0..3u8).prop_map(|(n, m)| Act::Manner(n, m)),
        2 => (0..700u64).prop_map(Act::Pass),
    ]
}

proptest! {
    /// What arrives is a beginning of what was sent, in order, whatever happens; and when all have
    /// left, nothing is left of them.
    #[test]
    fn nothing_is_lost_doubled_or_leaked(seed in 1..u64::MAX, acts in prop::collection::vec(act(), 1..120)) {
        let mut stage = Stage::new(seed, 3, Announce::Nothing);
        let mut clients = Vec::new();
        let mut sent: Vec<[Vec<u8>; 2]> = Vec::new();
        let mut got: Vec<[Vec<u8>; 2]> = Vec::new();
        for act in acts {
            // Each client's endpoint is found by the first byte it sends: its own number.
            match act {
                Act::Connect if clients.len() < 8 => {
                    let here = stage.net.client(client(clients.len() as u16), PORT);
                    clients.push((here, None));
                    sent.push(Default::default());
                    got.push(Default::default());
                    let before = stage.net.reached().len();
                    stage.settle();
                    let reached = stage.net.reached();
                    if reached.len() == before + 1 {
                        clients.last_mut().expect("pushed above").1 = Some(reached[before].1);
                    }
                }
                Act::Send(n, up, count) if n < clients.len() => {
                    let from = if up { Some(clients[n].0) } else { clients[n].1 };
                    let bytes = vec![count; usize::from(count)];
                    if let (Some(from), true) = (from, clients[n].1.is_some()) {
                        let count = stage.net.send(from, &bytes);
                        sent[n][usize::from(up)].extend(&bytes[..count]);
                    }
                }
                Act::Read(n, up) if n < clients.len() => {
                    let at = if up { clients[n].1 } else { Some(clients[n].0) };
                    if let Some(at) = at {
                        got[n][usize::from(up)].extend(stage.net.take(at).0);
                    }
                }
                Act::Finish(n, at_client) if n < clients.len() => {
                    let at = if at_client { Some(clients[n].0) } else { clients[n].1 };
                    at.into_iter().for_each(|at| stage.net.finish(at));
                }
                Act::Reset(n, at_client) if n < clients.len() => {
                    let at = if at_client { Some(clients[n].0) } else { clients[n].1 };
                    at.into_iter().for_each(|at| stage.net.reset(at));
                }
                Act::Manner(n, manner) => {
                    let manner = [Manner::Answers, Manner::Refuses, Manner::Silent][usize::from(manner)];
                    stage.net.endpoint(endpoint(n), manner);
                }
                Act::Pass(millis) => stage.pass(Duration::from_millis(millis)),
                _ => {}
            }
            stage.settle();
            for (sent, got) in sent.iter().zip(&got) {
                for way in 0..2 {
                    prop_assert!(sent[way].starts_with(&got[way]));
                }
            }
        }
        for (here, there) in clients {
            stage.net.reset(here);
            there.into_iter().for_each(|there| stage.net.reset(there));
        }
        for (_, there) in stage.net.reached() {
            stage.net.reset(there);
        }
        stage.pass(Duration::from_secs(60));
        prop_assert_eq!(stage.worker.open(), 0);
        prop_assert_eq!(stage.net.open_sockets(), 0);
        prop_assert_eq!(stage.shared.counters.figures().open, 0);
        prop_assert!(stage.net.pipes() < 256);
    }
}
