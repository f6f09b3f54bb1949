//! What goes wrong around the relay, one thing after another, and what a connection costs.

use std::time::Duration;

use super::pool::{Announce, Limits, Serving};
use super::simulated::Manner;
use super::sockets::{Filled, Sockets, Trouble};
use super::stage::{PORT, Stage, client, endpoint};
use super::stream::GRACE;

#[test]
fn a_short_connection_costs_no_call_that_does_nothing() {
    let mut stage = Stage::new(1, 1, Announce::Nothing);
    let here = stage.net.client(client(1), PORT);
    stage.net.send(here, b"q");
    stage.net.calls();
    stage.settle();
    let there = stage.net.reached()[0].1;
    assert_eq!(stage.net.take(there).0, b"q");
    stage.net.send(there, b"a");
    stage.settle();
    assert_eq!(stage.net.take(here).0, b"a");
    stage.net.finish(here);
    stage.settle();
    stage.net.finish(there);
    stage.settle();
    let begins = ["accept", "connect", "watch", "watch", "fill", "empty"];
    let ends = ["fill", "empty", "fill", "finish", "fill", "close", "close"];
    assert_eq!(stage.net.calls(), [&begins[..], &ends[..]].concat());
    assert_eq!(stage.worker.open(), 0);
}

#[test]
fn a_client_that_speaks_while_its_endpoint_is_dialled_wakes_nobody() {
    let mut stage = Stage::new(1, 1, Announce::Nothing);
    stage.net.endpoint(endpoint(1), Manner::Silent);
    let here = stage.net.client(client(1), PORT);
    stage.settle();
    stage.net.send(here, b"hello?");
    let mut happened = Vec::new();
    stage.net.clone().wait(&mut happened, None).unwrap();
    assert_eq!(happened, []);
}

#[test]
fn a_dial_that_has_ended_wakes_nobody() {
    let mut stage = Stage::new(1, 1, Announce::Nothing);
    stage.connection(1);
    assert!(stage.worker.patience(stage.now).unwrap() > Duration::from_secs(10));
}

#[test]
fn many_who_wait_are_accepted_together() {
    let mut stage = Stage::new(1, 1, Announce::Nothing);
    for n in 0..40 {
        stage.net.client(client(n), PORT);
    }
    stage.settle();
    assert_eq!(stage.worker.open(), 40);
    let accepts = stage.net.calls().into_iter().filter(|call| *call == "accept").count();
    assert!(accepts <= 42, "{accepts} for 40");
}

#[test]
fn a_short_read_says_that_a_socket_is_empty_only_where_places_were_left() {
    let drained = |count, places, asked| Filled::of(count, places, asked).drained;
    assert!(drained(3, 4, 100) && drained(0, 1, 100));
    assert!(!drained(4, 4, 100), "four packets of a byte may have filled it");
    assert!(!drained(3, 4, 3), "no more was asked for");
    assert!(!drained(1, 0, 100), "nothing is known of the pipe");
}

#[test]
fn without_a_local_port_another_endpoint_is_tried_and_none_is_blamed() {
    let mut stage = Stage::new(5, 2, Announce::Nothing);
    stage.net.leave_ports(endpoint(1), Some(0));
    for n in 0..3 {
        stage.connection(n);
    }
    let reached: Vec<_> = stage.net.reached().into_iter().map(|(at, _)| at).collect();
    assert_eq!(reached, [endpoint(2); 3]);
    let figures = stage.pool.counters.figures();
    assert_eq!((figures.failed_dials, figures.retries), (0, 0));
    stage.net.leave_ports(endpoint(1), None);
    stage.connection(4);
    assert_eq!(stage.net.reached().last().unwrap().0, endpoint(1));
}

#[test]
fn without_any_local_port_a_client_waits_for_one_and_not_for_ever() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.net.leave_ports(endpoint(1), Some(0));
    let waits = stage.net.client(client(1), PORT);
    stage.settle();
    assert_eq!(stage.net.take(waits), (Vec::new(), None, false));
    stage.net.leave_ports(endpoint(1), Some(1));
    stage.pass(Duration::from_millis(250));
    assert_eq!(stage.net.reached().len(), 1);
    let gives_up = stage.net.client(client(2), PORT);
    stage.settle();
    for patience in [250, 500, 1000, 2000] {
        assert_eq!(stage.net.take(gives_up).1, None);
        stage.pass(Duration::from_millis(patience));
    }
    assert_eq!(stage.net.take(gives_up).1, Some(Trouble::Reset));
    assert_eq!(stage.pool.counters.figures().failed_dials, 0);
}

#[test]
fn an_answer_outlives_the_upload_that_it_refuses() {
    for seed in 1..50 {
        let mut stage = Stage::new(seed, 1, Announce::Nothing);
        let (here, there) = stage.connection(1);
        while stage.net.send(here, &[7; 50]) > 0 {
            stage.settle();
        }
        stage.net.send(there, b"413");
        stage.net.close(there);
        stage.settle();
        stage.net.send(here, &[7; 50]);
        stage.settle();
        stage.pass(GRACE);
        let (answer, trouble, _) = stage.net.take(here);
        assert!(!answer.is_empty() && b"413".starts_with(&answer[..]), "{answer:?}");
        assert_eq!(trouble, Some(Trouble::Reset), "it must not look complete");
        assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
    }
}

#[test]
fn what_a_client_said_before_it_broke_off_arrives() {
    for seed in 1..50 {
        let mut stage = Stage::new(seed, 1, Announce::Nothing);
        let (here, there) = stage.connection(1);
        let count = stage.net.send(here, b"last will");
        stage.net.depart();
        stage.net.send(there, b"an answer that nobody waits for");
        stage.net.reset(here);
        stage.settle();
        stage.pass(GRACE);
        let (got, trouble, _) = stage.net.take(there);
        assert_eq!((&got[..], trouble), (&b"last will"[..count], Some(Trouble::Reset)));
        assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
    }
}

#[test]
fn who_leaves_within_its_grace_is_gone_at_once() {
    let mut stage = Stage::new(3, 1, Announce::Nothing);
    let (here, there) = stage.connection(1);
    stage.net.send(there, b"half of it");
    stage.net.depart();
    stage.net.reset(there);
    stage.settle();
    assert_eq!((stage.worker.open(), stage.net.open_sockets()), (1, 1));
    stage.net.reset(here);
    stage.settle();
    assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
    stage.pass(GRACE);
}

#[test]
fn clients_that_do_not_read_hold_a_pipe_each_and_keep_nobody_from_being_served() {
    const COUNT: usize = 40;
    let limits = Limits { all: 100, each: 100, descriptors: 4096 };
    let mut stage = Stage::limited(5, 1, (Announce::Nothing, limits));
    let before = stage.net.descriptors();
    let mut stalled = Vec::new();
    for n in 0..COUNT {
        let (here, there) = stage.connection(n as u16);
        while stage.net.send(there, &[1; 50]) > 0 {
            stage.settle();
        }
        stalled.push(here);
    }
    // A socket each way, and at most one pipe for what finds no room.
    assert!(stage.net.descriptors() <= before + 4 * COUNT, "{}", stage.net.descriptors());
    let (here, there) = stage.connection(99);
    assert_eq!(stage.carry(here, there, &[9; 500]), [9; 500]);
    stalled.iter().for_each(|here| stage.net.reset(*here));
    stage.net.reset(here);
    stage.settle();
    stage.pass(GRACE);
    assert_eq!((stage.worker.open(), stage.net.descriptors()), (0, before));
}

#[test]
fn pipes_of_slow_readers_count_towards_the_limit_of_descriptors() {
    // Four for each; one in sixteen is kept for pipes.
    let limits = Limits { all: 100, each: 100, descriptors: 20 };
    let mut stage = Stage::limited(5, 1, (Announce::Nothing, limits));
    let mut open = Vec::new();
    for n in 0..5 {
        let (here, there) = stage.connection(n);
        while stage.net.send(there, &[1; 50]) > 0 {
            stage.settle();
        }
        open.push((here, there));
    }
    let turned_away = stage.net.client(client(9), PORT);
    stage.settle();
    assert_eq!(stage.net.take(turned_away).1, Some(Trouble::Reset));
    for (here, _) in &open[..2] {
        while !stage.net.take(*here).0.is_empty() {
            stage.settle();
        }
    }
    let (here, there) = open[0];
    stage.connection(10);
    assert_eq!(stage.carry(here, there, b"and on"), b"and on");
}

#[test]
fn endpoints_of_connections_that_last_are_asked_whether_they_are_there() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    stage.connection(1);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.net.kept_alive(), 0);
    stage.connection(2);
    stage.pass(Duration::from_secs(15));
    assert_eq!(stage.net.kept_alive(), 2);
    assert_eq!(stage.worker.patience(stage.now), None);
    stage.connection(3);
    stage.pass(Duration::from_secs(15));
    let calls = stage.net.calls().into_iter().filter(|call| *call == "keep alive").count();
    assert_eq!((stage.net.kept_alive(), calls), (3, 3));
}

#[test]
fn where_the_header_finds_nobody_another_endpoint_gets_the_client() {
    for seed in 1..20 {
        let mut stage = Stage::new(seed, 2, Announce::ProxyV2);
        stage.net.endpoint(endpoint(1), Manner::Breaks);
        let (here, there) = stage.connection(1);
        assert_eq!(stage.net.reached()[0].0, endpoint(2));
        assert_eq!(stage.carry(here, there, b"hello").len(), 28 + 5);
        assert_eq!(stage.pool.counters.figures().failed_dials, 1);
    }
}

#[test]
fn connections_of_an_endpoint_that_is_gone_may_finish() {
    let mut stage = Stage::new(5, 2, Announce::Nothing);
    let (here, there) = stage.connection(1);
    let endpoints = [endpoint(2)].into();
    stage.pool.serve(&Serving { endpoints, affinity: None, announce: Announce::Nothing });
    stage.connection(2);
    assert_eq!(stage.net.reached().last().unwrap().0, endpoint(2));
    assert_eq!(stage.carry(here, there, b"go on"), b"go on");
    assert_eq!(stage.carry(there, here, b"I do"), b"I do");
    stage.net.finish(here);
    stage.net.finish(there);
    stage.settle();
    assert_eq!((stage.net.take(here).2, stage.net.take(there).2), (true, true));
}

#[test]
fn a_limit_holds_for_all_ports_of_a_group() {
    use super::pool::{Group, Pool};
    use std::sync::Arc;
    let limits = Limits { all: 100, each: 2, descriptors: 4096 };
    let stage = Stage::limited(5, 1, (Announce::Nothing, limits));
    let serving = Serving { endpoints: [].into(), affinity: None, announce: Announce::Nothing };
    let group = Group::default();
    let pool = |name: &str, group: &Group| {
        Arc::new(Pool::new((name.to_owned(), group.clone()), stage.shared.clone(), &serving))
    };
    let (four, six) = (pool("four", &group), pool("six", &group));
    let places = [four.enter(stage.now), six.enter(stage.now)];
    assert!(places.iter().all(Option::is_some));
    assert!(four.enter(stage.now).is_none() && six.enter(stage.now).is_none());
    assert!(pool("another", &Group::default()).enter(stage.now).is_some());
    drop(places);
    assert!(six.enter(stage.now).is_some());
}

#[test]
fn who_breaks_off_after_its_end_is_not_waited_for() {
    let mut stage = Stage::new(5, 1, Announce::Nothing);
    let (here, there) = stage.connection(1);
    stage.net.finish(here);
    stage.settle();
    stage.net.reset(here);
    stage.settle();
    assert_eq!(stage.net.take(there).1, Some(Trouble::Reset));
    assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
}
