//! Every vector, held against the oracle (in the mode it was taken from and in ours) and against
//! the proxy on the simulated kernel.
#![allow(clippy::unwrap_used, reason = "a test may say so")]

use proptests::cluster::{Mode, Steering};
use proptests::differences::{Situation, applying};
use proptests::lab::RealHeart;
use proptests::oracle::promise;
use proptests::run::{Heart, Tally, run};
use proptests::sim_heart::SimHeart;
use proptests::vectors::{State, read};

const FILE: &str = include_str!("../vectors/flows.jsonl");

fn states(mode: Mode) -> Vec<State> {
    read("proptests/vectors/flows.jsonl", FILE, mode).unwrap()
}

#[test]
fn the_oracle_agrees_with_the_vectors_in_the_mode_they_were_taken_from() {
    for state in states(Mode::Iptables) {
        let cluster = state.cluster();
        for flow in &state.flows {
            let says = promise(&cluster, &state.setup, &flow.packet);
            assert_eq!(says, flow.claimed, "{}: {}, flow {}", state.place, state.name, flow.name);
        }
    }
}

#[test]
fn the_oracle_agrees_in_nftables_mode_but_for_the_named_differences() {
    let mut named = 0;
    for state in states(Mode::Nftables) {
        let cluster = state.cluster();
        for flow in &state.flows {
            let (setup, packet, claimed) = (&state.setup, &flow.packet, &flow.claimed);
            let difference = applying(&Situation { cluster: &cluster, setup, packet, claimed });
            let expected = difference.as_ref().map_or(claimed, |(_, instead)| instead);
            let says = promise(&cluster, setup, packet);
            assert_eq!(says, *expected, "{}: {}, flow {}", state.place, state.name, flow.name);
            named += usize::from(difference.is_some_and(|(_, instead)| instead != *claimed));
        }
    }
    assert_eq!(named, 6, "flows whose fate differs in nftables mode");
}

fn all_hold(mode: Mode, heart: &mut dyn Heart) {
    hold((mode, Steering::Nftables), heart);
}

fn hold((mode, steering): (Mode, Steering), heart: &mut dyn Heart) {
    let mut tally = Tally::default();
    let mut said = String::new();
    for mut state in states(mode) {
        state.setup.steering = steering;
        tally += run(&state, heart, &mut said);
    }
    assert_eq!((tally.failed, tally.skipped), (0, 0), "{said}");
    assert_eq!(tally.passed, 108);
}

#[test]
fn every_vector_holds_on_the_simulated_kernel() {
    all_hold(Mode::Nftables, &mut SimHeart);
}

#[test]
fn every_vector_holds_in_iptables_mode_on_the_simulated_kernel() {
    all_hold(Mode::Iptables, &mut SimHeart);
}

#[test]
fn every_vector_holds_in_userspace_mode_on_the_simulated_kernel() {
    all_hold(Mode::Userspace, &mut SimHeart);
}

#[test]
fn every_vector_holds_in_userspace_mode_by_rules_of_iptables() {
    hold((Mode::Userspace, Steering::Iptables), &mut SimHeart);
}

#[test]
fn every_vector_holds_in_ipvs_mode_on_the_simulated_kernel() {
    all_hold(Mode::Ipvs, &mut SimHeart);
}

#[test]
fn every_vector_holds_on_the_real_kernel() {
    if std::env::var("NETLAB").as_deref() != Ok("required") {
        println!("skipped: needs root and namespaces; NETLAB=required turns it on");
        return;
    }
    if let Some(why) = RealHeart::obstacle(Mode::Nftables) {
        panic!("the real kernel cannot be asked: {why}");
    }
    all_hold(Mode::Nftables, &mut RealHeart::default());
}
