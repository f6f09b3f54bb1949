//! The simulated kernel as something that can be asked. Tests: `tests/vectors.rs`.

use kube_proxy::kernel::{RelayServing, Socket};

use crate::cluster::{Mode, Setup};
use crate::fate::{Outcome, Packet, Promise, Seen};
use crate::host::{Marks, ask, ask_in_turns, journey, ruleset};
use crate::run::{Answers, Heart};
use crate::stage::Stage;
use crate::world::{Objects, synced};

/// The simulated kernel; each state gets a host of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimHeart;

/// Asks as the mode chooses endpoints: by chance, or in turns.
fn ask_as(
    setup: &Setup,
    host: &mut sim::Host,
    (packet, promise): (&Packet, &Promise),
    marks: Marks,
) -> Result<Seen, String> {
    if setup.mode != Mode::Ipvs {
        return ask(host, packet, marks);
    }
    let turns = match promise {
        Promise::Dnat(endpoints) => endpoints.len(),
        _ => 2,
    };
    ask_in_turns(host, packet, (marks, turns))
}

impl Heart for SimHeart {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn answers(
        &mut self,
        setup: &Setup,
        objects: &Objects,
        asked: &[(&Packet, &Promise)],
    ) -> Result<Answers, String> {
        let stage = Stage::new(setup, usize::MAX);
        let proxy = synced(Box::new(stage.clone()), setup, objects)?;
        let marks = Marks::foreign(setup);
        let seen = asked
            .iter()
            .map(|(packet, promise)| {
                stage.host(|host| {
                    let mut seen = ask_as(setup, host, (packet, promise), Marks::none(setup))?;
                    // Whatever other marks there are stay as they are, and change nothing.
                    let marked = ask_as(setup, host, (packet, promise), marks)?;
                    if marked.outcomes != seen.outcomes {
                        return Err(format!("{packet}: another's mark changes its fate"));
                    }
                    let served = |at| stage.relayed(packet.protocol, at);
                    seen.outcomes = carried_on(served, seen.outcomes);
                    if seen.keeps(promise).is_err() {
                        seen.journey = journey(host, packet);
                    }
                    Ok(seen)
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        drop(proxy);
        Ok(Answers { seen, ruleset: stage.host(|host| ruleset(host)) })
    }
}

/// Connections that come in at a port of the proxy itself go on to each of its endpoints alike,
/// from this node.
pub(crate) fn carried_on(
    served: impl Fn(Socket) -> Option<RelayServing>,
    outcomes: Vec<(Outcome, f64)>,
) -> Vec<(Outcome, f64)> {
    let on = |(outcome, probability): (Outcome, f64)| {
        let Outcome::Dnat { endpoint: at, .. } = outcome else {
            return vec![(outcome, probability)];
        };
        let Some(serving) = served(at) else {
            return vec![(outcome, probability)];
        };
        let share = probability / serving.endpoints.len().max(1) as f64;
        let dnat =
            |endpoint: &Socket| Outcome::Dnat { endpoint: *endpoint, masquerade: Some(true) };
        serving.endpoints.iter().map(|endpoint| (dnat(endpoint), share)).collect()
    };
    outcomes.into_iter().flat_map(on).collect()
}
