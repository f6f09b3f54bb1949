//! Puts states and packets to a kernel and holds their fates against what is expected: vectors with
//! their named differences, generated cases with the oracle. Says in full what failed. Knows no
//! kernel itself. Tests: `tests/vectors.rs`.

use std::fmt;
use std::fmt::Write as _;

use crate::cluster::{Cluster, Setup};
use crate::differences::{Difference, Situation, applying};
use crate::fate::{Packet, Promise, Seen};
use crate::generate::Case;
use crate::oracle::promise;
use crate::vectors::{Flow, State};
use crate::world::Objects;

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

/// What a vector's flow must come to in the mode that is run.
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
    /// One for each packet, in order.
    pub seen: Vec<Seen>,
    /// The rules that were in the kernel.
    pub ruleset: String,
}

/// A kernel that can be asked.
pub trait Heart {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// Brings the objects in with a proxy and sends the packets. The promises only say what is
    /// worth asking a second time.
    fn answers(
        &mut self,
        setup: &Setup,
        objects: &Objects,
        asked: &[(&Packet, &Promise)],
    ) -> Result<Answers, String>;
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

/// Runs one state of a file and writes what there is to say about it.
pub fn run(state: &State, heart: &mut dyn Heart, out: &mut String) -> Tally {
    let objects = state.objects();
    let cluster = objects.cluster();
    let expected = expected(state, &cluster);
    let asked: Vec<_> = expected.iter().map(|e| (&e.flow.packet, &e.promise)).collect();
    let answers = match heart.answers(&state.setup, &objects, &asked) {
        Ok(answers) => answers,
        Err(why) => {
            let _ = writeln!(out, "FAILED {} {}: {why}", state.place, state.name);
            return Tally { failed: expected.len(), ..Tally::default() };
        }
    };
    let mut tally = Tally::default();
    for (expected, seen) in expected.iter().zip(&answers.seen) {
        say_difference(state, expected, out);
        let says = promise(&cluster, &state.setup, &expected.flow.packet);
        let kept = if says == expected.promise {
            seen.keeps(&says)
        } else {
            Err(format!("expected: {}; the oracle says: {says}", expected.promise))
        };
        let Err(why) = kept else {
            tally.passed += 1;
            continue;
        };
        tally.failed += 1;
        let (place, name, flow) = (&state.place, &state.name, expected.flow);
        let _ = writeln!(out, "FAILED {place} {name}: {}", flow.name);
        let _ = writeln!(out, "  the vector says: {}", flow.claimed);
        failure(&flow.packet, seen, &why, out);
    }
    if tally.failed > 0 {
        world(&state.setup, &objects, &answers.ruleset, out);
        let file = state.place.rsplit_once(':').map_or("FILE", |(file, _)| file);
        let (kernel, mode) = (heart.name(), state.setup.word());
        let _ = writeln!(
            out,
            "  replay: cargo run --release -p proptests -- vectors --mode {mode} --kernel {kernel} {file}"
        );
    }
    tally
}

fn say_difference(state: &State, expected: &Expected, out: &mut String) {
    let Some(Difference { name, reason, .. }) = expected.difference else { return };
    let _ = writeln!(
        out,
        "differs {} {}: {}: {} [{name}: {reason}]",
        state.place, state.name, expected.flow.name, expected.promise
    );
}

/// Holds packets' fates against the oracle and writes what there is to say about them.
pub fn judge(case: &Case, packets: &[Packet], heart: &mut dyn Heart, out: &mut String) -> Tally {
    let Case { setup, objects } = case;
    let cluster = objects.cluster();
    let promises: Vec<Promise> = packets.iter().map(|p| promise(&cluster, setup, p)).collect();
    let asked: Vec<_> = packets.iter().zip(&promises).collect();
    let answers = match heart.answers(setup, objects, &asked) {
        Ok(answers) => answers,
        Err(why) => {
            let _ = writeln!(out, "FAILED: {why}");
            world(setup, objects, "(none)", out);
            return Tally { failed: packets.len(), ..Tally::default() };
        }
    };
    let mut tally = Tally::default();
    for ((packet, promise), seen) in asked.iter().zip(&answers.seen) {
        match seen.keeps(promise) {
            Ok(()) => tally.passed += 1,
            Err(why) => {
                tally.failed += 1;
                failure(packet, seen, &why, out);
            }
        }
    }
    if tally.failed > 0 {
        world(setup, objects, &answers.ruleset, out);
    }
    tally
}

fn failure(packet: &Packet, seen: &Seen, why: &str, out: &mut String) {
    let _ = writeln!(out, "  {packet}\n  {why}");
    for (outcome, probability) in &seen.outcomes {
        let _ = writeln!(out, "  seen with probability {probability:.4}: {outcome}");
    }
    let _ = writeln!(out, "  journey:\n{}", seen.journey);
}

fn world(setup: &Setup, objects: &Objects, ruleset: &str, out: &mut String) {
    let _ = writeln!(out, "  world: {setup:?}\n{objects}");
    let _ = writeln!(out, "  rules:\n{ruleset}");
}
