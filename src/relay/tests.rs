//! The relay against simulated sockets: dials that fail, half-closes, resets, limits, descriptors
//! that run out. Under any order of events: `seeded_tests.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use super::dial::PATIENCE;
use super::pool::{Announce, Limits};
use super::simulated::Manner;
use super::sockets::Trouble;
use super::stage::{PORT, Stage, client, endpoint};
use super::worker::Command;

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
    // It is looked at for the first time when a dial has taken long.
    stage.pass(PATIENCE[0]);
    assert_eq!((stage.worker.open(), stage.net.open_sockets()), (0, 0));
    stage.pass(Duration::from_secs(10));
    assert_eq!(stage.shared.counters.figures().open, 0);
}

#[test]
fn limits_turn_away_by_a_reset_and_give_places_back() {
    let limits = Limits { all: 3, each: 2, descriptors: 4096 };
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
    stage.worker.obey(Command::Drain, stage.now);
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
    stage.worker.obey(Command::Stop, stage.now);
    assert!(stage.worker.is_finished());
    assert_eq!(stage.net.take(here).1, Some(Trouble::Reset));
}

#[test]
fn a_client_whom_another_thread_is_to_have_is_carried_there() {
    let mut stage = Stage::new(11, 2, Announce::Nothing);
    let all: Vec<_> = (0..6).map(|n| stage.connection(n)).collect();
    assert!(stage.moved > 1, "{}", stage.moved);
    for (client, server) in all {
        assert_eq!(stage.carry(client, server, b"there"), b"there");
        assert_eq!(stage.carry(server, client, b"back"), b"back");
    }
}
