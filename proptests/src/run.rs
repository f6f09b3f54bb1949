//! Runs vectors: each state is brought into a kernel, each flow's fate is held against what is
//! expected, and the oracle against both. Says in full what failed. Knows no kernel itself.
//! Tests: `tests/vectors.rs`.

use std::fmt;
use std::fmt::Write as _;

use crate::cluster::Cluster;
use crate::differences::{Difference, Situation, applying};
use crate::fate::{Promise, Seen};
use crate::oracle::promise;
use crate::vectors::{Flow, State};

/// How many flows came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// As expected.
    pub passed: usize,
    /// Not as expected.
    pub failed: usize,
    /// Not asked.
    pub skipped: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What a flow must come to in the mode that is run.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// The flow.
    pub flow: &'a Flow,
    /// Its fate.
    pub promise: Promise,
    /// Why the fate is not the vector's, if it is not.
    pub difference: Option<&'static Difference>,
}

/// What a kernel made of a state.
#[derive(Clone, Debug)]
pub struct Answers {
    /// One for each flow, in order.
    pub seen: Vec<Seen>,
    /// The rules that were in the kernel.
    pub ruleset: String,
}

/// A kernel that can be asked.
pub trait Heart {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// Brings the state in and sends the packets.
    fn answers(&mut self, state: &State, expected: &[Expected]) -> Result<Answers, String>;
}

/// What the flows of a state must come to.
pub fn expected<'a>(state: &'a State, cluster: &Cluster) -> Vec<Expected<'a>> {
    let setup = &state.setup;
    state
        .flows
        .iter()
        .map(|flow| {
            let (packet, claimed) = (&flow.packet, &flow.claimed);
            let found = applying(&Situation { cluster, setup, packet, claimed })
                .filter(|(_, instead)| instead != claimed);
            let difference = found.as_ref().map(|(difference, _)| *difference);
            let promise = found.map_or_else(|| claimed.clone(), |(_, instead)| instead);
            Expected { flow, promise, difference }
        })
        .collect()
}

/// Runs one state and writes what there is to say about it.
pub fn run(state: &State, heart: &mut dyn Heart, out: &mut String) -> Tally {
    let cluster = state.cluster();
    let expected = expected(state, &cluster);
    let answers = match heart.answers(state, &expected) {
        Ok(answers) => answers,
        Err(why) => {
            let _ = writeln!(out, "FAILED {} {}: {why}", state.place, state.name);
            return Tally { failed: expected.len(), ..Tally::default() };
        }
    };
    let mut tally = Tally::default();
    for (expected, seen) in expected.iter().zip(&answers.seen) {
        if let Some(difference) = expected.difference {
            let (flow, name, why) = (&expected.flow.name, difference.name, difference.reason);
            let promise = &expected.promise;
            let _ = writeln!(
                out,
                "differs {} {}: {flow}: {promise} [{name}: {why}]",
                state.place, state.name
            );
        }
        let says = promise(&cluster, &state.setup, &expected.flow.packet);
        let kept = if says == expected.promise {
            seen.keeps(&says)
        } else {
            Err(format!("expected: {}; the oracle says: {says}", expected.promise))
        };
        match kept {
            Ok(()) => tally.passed += 1,
            Err(why) => {
                tally.failed += 1;
                failure(state, expected, seen, &why, out);
            }
        }
    }
    if tally.failed > 0 {
        world(state, heart.name(), &answers.ruleset, out);
    }
    tally
}

fn failure(state: &State, expected: &Expected, seen: &Seen, why: &str, out: &mut String) {
    let flow = expected.flow;
    let _ =
        writeln!(out, "FAILED {} {}: {}\n  {}", state.place, state.name, flow.name, flow.packet);
    let _ = writeln!(out, "  {why}\n  the vector says: {}", flow.claimed);
    for (outcome, probability) in &seen.outcomes {
        let _ = writeln!(out, "  seen with probability {probability:.4}: {outcome}");
    }
    let _ = writeln!(out, "  journey:\n{}", seen.journey);
}

fn world(state: &State, kernel: &str, ruleset: &str, out: &mut String) {
    let _ = writeln!(out, "  world of {} {}: {:?}", state.place, state.name, state.setup);
    for object in state.services.iter().chain(&state.slices) {
        let _ = writeln!(out, "  {object}");
    }
    let file = state.place.rsplit_once(':').map_or("FILE", |(file, _)| file);
    let _ = writeln!(out, "  rules:\n{ruleset}");
    let _ = writeln!(
        out,
        "  replay: cargo run --release -p proptests -- vectors --mode nftables --kernel {kernel} {file}"
    );
}
