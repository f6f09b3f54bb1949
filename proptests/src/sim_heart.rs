//! The simulated kernel as something that can be asked. Tests: `tests/vectors.rs`.

use crate::cluster::Setup;
use crate::fate::{Packet, Promise};
use crate::host::{Marks, ask, journey, ruleset};
use crate::run::{Answers, Heart};
use crate::stage::Stage;
use crate::world::{Objects, synced};

/// The simulated kernel; each state gets a host of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimHeart;

/// A mark that somebody else might use: every bit but the one that is ours.
pub fn foreign_mark(setup: &Setup) -> u32 {
    !(1 << setup.masquerade_bit)
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
        let marks = Marks { before: foreign_mark(setup) };
        let seen = asked
            .iter()
            .map(|(packet, promise)| {
                stage.host(|host| {
                    let mut seen = ask(host, packet, Marks::default())?;
                    // Whatever other marks there are stay as they are, and change nothing.
                    let marked = ask(host, packet, marks)?;
                    if marked.outcomes != seen.outcomes {
                        return Err(format!("{packet}: another's mark changes its fate"));
                    }
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
