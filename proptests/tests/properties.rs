//! Things true of every cluster. The seed is printed; `PROPTESTS_SEED` and `PROPTESTS_CASES` choose
//! others, for as long as one likes.
#![allow(clippy::unwrap_used, reason = "a test may say so")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use kube_proxy::sync::examine::Extent as Verify;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use proptests::cluster::{Cluster, Mode, Setup, Steering};
use proptests::coverage::Coverage;
use proptests::differences::{DIFFERENCES, Situation, applying};
use proptests::explore::chance;
use proptests::fate::{Packet, Promise};
use proptests::generate::{Case, case};
use proptests::history::{History, Weather, history, history_over_netlink};
use proptests::memory::{live, memory};
use proptests::oracle::promise;
use proptests::packets;
use proptests::play::play;
use proptests::run::judge;
use proptests::sim_heart::SimHeart;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Holds a property against so many values; what breaks it is made as small as can be.
fn holds<S: Strategy>(
    name: &str,
    cases: u64,
    strategy: S,
    property: impl Fn(&S::Value) -> Result<(), String>,
) where
    S::Value: Debug,
{
    let seed = number("PROPTESTS_SEED", 1);
    let cases = number("PROPTESTS_CASES", cases);
    println!("{name}: seed {seed}, {cases} cases");
    let config = Config {
        cases: u32::try_from(cases).unwrap_or(u32::MAX),
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, chance(seed, 0));
    let outcome = runner.run(&strategy, |value| property(&value).map_err(TestCaseError::fail));
    let why = match outcome {
        Ok(()) => return,
        Err(TestError::Fail(why, _)) => why.to_string(),
        Err(TestError::Abort(why)) => format!("aborted: {why}"),
    };
    panic!(
        "{name} does not hold (seed {seed}):\n{why}\nreplay: PROPTESTS_SEED={seed} PROPTESTS_CASES={cases} cargo test -p proptests --test properties {name}"
    );
}

#[test]
fn every_packet_meets_its_promise() {
    let name = "every_packet_meets_its_promise";
    packets_meet_their_promises(name, (Mode::Nftables, Steering::Nftables), (300, 600));
}

#[test]
fn every_packet_meets_its_promise_in_iptables_mode() {
    let name = "every_packet_meets_its_promise_in_iptables_mode";
    packets_meet_their_promises(name, (Mode::Iptables, Steering::Nftables), (300, 600));
}

#[test]
fn every_packet_meets_its_promise_in_ipvs_mode() {
    let name = "every_packet_meets_its_promise_in_ipvs_mode";
    packets_meet_their_promises(name, (Mode::Ipvs, Steering::Nftables), (150, 300));
}

#[test]
fn every_packet_meets_its_promise_in_userspace_mode() {
    let name = "every_packet_meets_its_promise_in_userspace_mode";
    packets_meet_their_promises(name, (Mode::Userspace, Steering::Nftables), (150, 300));
}

#[test]
fn every_packet_meets_its_promise_in_userspace_mode_by_rules_of_iptables() {
    let name = "every_packet_meets_its_promise_in_userspace_mode_by_rules_of_iptables";
    packets_meet_their_promises(name, (Mode::Userspace, Steering::Iptables), (150, 300));
}

/// The states that the rules of a mode reach; the counts stand in a file beside the build's output.
fn packets_meet_their_promises(
    name: &str,
    (mode, steering): (Mode, Steering),
    (cases, most): (u64, usize),
) {
    let coverage = RefCell::new(Coverage::default());
    let asked = RefCell::new(0);
    let any = (case(), proptest::bool::ANY).prop_map(move |(mut case, local)| {
        case.setup.mode = mode;
        case.setup.steering = steering;
        case.setup.localhost_node_ports = local && mode == Mode::Iptables;
        case
    });
    holds(name, cases, any, |case| {
        let cluster = case.objects.cluster();
        let all = packets::all(&case.setup, &cluster);
        let step = all.len().div_ceil(most).max(1);
        let packets: Vec<_> = all.into_iter().step_by(step).collect();
        coverage.borrow_mut().case(case, &cluster);
        for packet in &packets {
            let fate = promise(&cluster, &case.setup, packet);
            coverage.borrow_mut().packet(&cluster, &case.setup, packet, &fate);
        }
        *asked.borrow_mut() += packets.len();
        let mut said = String::new();
        let tally = judge(case, &packets, &mut SimHeart, &mut said);
        if tally.failed == 0 { Ok(()) } else { Err(said) }
    });
    let reached = format!(
        "{} packets, every outcome of each; reached:\n{}",
        asked.borrow(),
        coverage.borrow()
    );
    println!("{reached}");
    let by = if mode.rules(steering) == Mode::Iptables && mode != Mode::Iptables {
        "-by-iptables"
    } else {
        ""
    };
    let file = format!("{}/coverage-{}{by}.txt", env!("CARGO_TARGET_TMPDIR"), mode.as_str());
    std::fs::write(file, reached).unwrap();
    // What a mode does not do, by the differences that are named.
    let not_done: &[&str] = match mode {
        Mode::Nftables => &[],
        Mode::Iptables => &["guard rejects"],
        Mode::Ipvs => &["guard drops"],
        // It hides every client, local pods too.
        Mode::Userspace if steering == Steering::Iptables => {
            &["local pod short-circuit", "guard rejects", "guard drops"]
        }
        Mode::Userspace => &["local pod short-circuit"],
    };
    let mut missing = coverage.borrow().missing();
    missing.retain(|what| !not_done.contains(what));
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

#[test]
fn any_history_ends_as_one_sync_from_nothing() {
    let name = "any_history_ends_as_one_sync_from_nothing";
    holds(name, 400, history(Mode::Nftables, Weather::Fair), play);
}

#[test]
fn any_history_in_iptables_mode_ends_as_one_sync_from_nothing() {
    let name = "any_history_in_iptables_mode_ends_as_one_sync_from_nothing";
    holds(name, 400, history(Mode::Iptables, Weather::Fair), play);
}

#[test]
fn any_history_of_iptables_over_netlink_ends_as_one_sync_from_nothing() {
    let name = "any_history_of_iptables_over_netlink_ends_as_one_sync_from_nothing";
    holds(name, 200, history_over_netlink(Weather::Fair), play);
}

#[test]
fn a_failing_kernel_with_iptables_over_netlink_converges_and_harms_nobody() {
    let name = "a_failing_kernel_with_iptables_over_netlink_converges_and_harms_nobody";
    holds(name, 200, history_over_netlink(Weather::Foul), play);
}

#[test]
fn a_failing_kernel_in_iptables_mode_converges_and_harms_nobody() {
    let name = "a_failing_kernel_in_iptables_mode_converges_and_harms_nobody";
    holds(name, 400, history(Mode::Iptables, Weather::Foul), play);
}

#[test]
fn a_proxy_that_looks_before_it_writes_ends_the_same_and_finds_nothing_wrong() {
    let name = "a_proxy_that_looks_before_it_writes_ends_the_same_and_finds_nothing_wrong";
    for (mode, weather) in [
        (Mode::Nftables, Weather::Fair),
        (Mode::Nftables, Weather::Foul),
        (Mode::Iptables, Weather::Fair),
        (Mode::Iptables, Weather::Foul),
        (Mode::Ipvs, Weather::Fair),
        (Mode::Userspace, Weather::Fair),
    ] {
        for verify in [Verify::Sample, Verify::Full] {
            let looking = history(mode, weather).prop_map(move |h| History { verify, ..h });
            holds(name, 60, looking, play);
        }
    }
    let looking = by_iptables(Weather::Fair).prop_map(|h| History { verify: Verify::Full, ..h });
    holds(name, 60, looking, play);
}

#[test]
fn any_history_of_ipvs_mode_ends_as_one_sync_from_nothing() {
    let name = "any_history_of_ipvs_mode_ends_as_one_sync_from_nothing";
    holds(name, 200, history(Mode::Ipvs, Weather::Fair), play);
}

#[test]
fn a_failing_kernel_converges_in_ipvs_mode_and_harms_nobody() {
    let name = "a_failing_kernel_converges_in_ipvs_mode_and_harms_nobody";
    holds(name, 200, history(Mode::Ipvs, Weather::Foul), play);
}

#[test]
fn any_history_of_userspace_mode_ends_as_one_sync_from_nothing() {
    let name = "any_history_of_userspace_mode_ends_as_one_sync_from_nothing";
    holds(name, 100, history(Mode::Userspace, Weather::Fair), play);
}

#[test]
fn a_failing_kernel_converges_in_userspace_mode_and_harms_nobody() {
    let name = "a_failing_kernel_converges_in_userspace_mode_and_harms_nobody";
    holds(name, 200, history(Mode::Userspace, Weather::Foul), play);
}

fn by_iptables(weather: Weather) -> impl Strategy<Value = History> {
    history(Mode::Userspace, weather).prop_map(|history| {
        let setup = Setup { steering: Steering::Iptables, ..history.setup };
        History { setup, ..history }
    })
}

#[test]
fn any_history_of_userspace_mode_by_rules_of_iptables_ends_as_one_sync_from_nothing() {
    let name = "any_history_of_userspace_mode_by_rules_of_iptables_ends_as_one_sync_from_nothing";
    holds(name, 100, by_iptables(Weather::Fair), play);
}

#[test]
fn a_failing_kernel_converges_in_userspace_mode_by_rules_of_iptables() {
    let name = "a_failing_kernel_converges_in_userspace_mode_by_rules_of_iptables";
    holds(name, 200, by_iptables(Weather::Foul), play);
}

#[test]
fn a_failing_kernel_converges_and_harms_nobody() {
    let name = "a_failing_kernel_converges_and_harms_nobody";
    holds(name, 400, history(Mode::Nftables, Weather::Foul), play);
}

/// What a vector would say: by the rules of iptables mode, with one bit for all endpoints.
#[test]
fn affinity_holds_for_its_time_and_no_longer() {
    for mode in Mode::ALL {
        let name = format!("affinity_holds_for_its_time_and_no_longer ({mode:?})");
        holds(&name, 150, memory(mode), live);
    }
}

fn as_a_vector_says(cluster: &Cluster, setup: &Setup, packet: &Packet) -> Promise {
    let iptables = Setup { mode: Mode::Iptables, ..setup.clone() };
    match promise(cluster, &iptables, packet) {
        Promise::Dnat(endpoints) => {
            let any = endpoints.values().any(|masquerade| *masquerade);
            Promise::Dnat(endpoints.into_keys().map(|socket| (socket, any)).collect())
        }
        other => other,
    }
}

#[test]
fn the_named_differences_explain_every_difference() {
    let applied: RefCell<BTreeMap<&str, usize>> = RefCell::default();
    let modes = proptest::sample::select(vec![
        (Mode::Ipvs, Steering::Nftables),
        (Mode::Nftables, Steering::Nftables),
        (Mode::Userspace, Steering::Nftables),
        (Mode::Userspace, Steering::Iptables),
    ]);
    let with_localhost = (case(), proptest::bool::ANY, modes);
    holds(
        "the_named_differences_explain_every_difference",
        600,
        with_localhost,
        |(case, local, (mode, steering))| {
            let cluster = case.objects.cluster();
            let node = case.setup.clone();
            let (mode, steering) = (*mode, *steering);
            let setup = Setup { localhost_node_ports: *local, mode, steering, ..node };
            for packet in &packets::all(&setup, &cluster) {
                let claimed = &as_a_vector_says(&cluster, &setup, packet);
                let situation = Situation { cluster: &cluster, setup: &setup, packet, claimed };
                let difference = applying(&situation).filter(|(_, instead)| instead != claimed);
                if let Some((difference, _)) = &difference {
                    *applied.borrow_mut().entry(difference.name).or_default() += 1;
                }
                let expected = difference.map_or_else(|| claimed.clone(), |(_, instead)| instead);
                let says = promise(&cluster, &setup, packet);
                if says != expected {
                    return Err(format!(
                        "{packet}: a vector says {claimed}; named: {expected}; oracle: {says}\n{setup:?}\n{}",
                        case.objects
                    ));
                }
            }
            Ok(())
        },
    );
    println!("differences applied: {:#?}", applied.borrow());
    let unused: Vec<&str> =
        DIFFERENCES.iter().map(|d| d.name).filter(|n| !applied.borrow().contains_key(n)).collect();
    assert!(unused.is_empty(), "never applied: {unused:?}");
}

/// The promises by which `kube-proxy check` and `--verify` judge are held against the oracle, which
/// shares no code with them.
#[test]
fn the_proxy_s_own_promises_are_the_oracle_s() {
    holds("the_proxy_s_own_promises_are_the_oracle_s", 256, case(), |case| {
        let ways = Mode::ALL.map(|mode| (mode, Steering::Nftables));
        let by_iptables = (Mode::Userspace, Steering::Iptables);
        ways.into_iter().chain([by_iptables]).try_for_each(|way| own_promises_fit(case, way))
    });
}

fn own_promises_fit(case: &Case, (mode, steering): (Mode, Steering)) -> Result<(), String> {
    let cluster = case.objects.cluster();
    let localhost_node_ports =
        mode == Mode::Iptables && case.setup.masquerade_bit.is_multiple_of(2);
    let setup = Setup { mode, steering, localhost_node_ports, ..case.setup.clone() };
    let packets = packets::all(&setup, &cluster);
    let own = proptests::own_promise::of(&setup, &case.objects, &packets);
    for (packet, own) in packets.iter().zip(own) {
        let wanted = promise(&cluster, &setup, packet);
        if own != wanted {
            let mode = mode.as_str();
            return Err(format!("{mode}: {packet}: the oracle says {wanted}, the proxy {own}"));
        }
    }
    Ok(())
}
