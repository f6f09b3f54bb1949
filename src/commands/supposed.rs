//! What changes would do for whom, for people: frontends for which the same is other stand together.
//! It must never leave a change out. Tests: `tests.rs`.

use std::fmt;

use serde::Serialize;

use crate::check::Effect;
use crate::trace::Doubt;

/// The answer.
#[derive(Serialize)]
pub(super) struct Supposed {
    pub(super) effects: Vec<Effect>,
    /// What was taken for granted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) assumed: Vec<String>,
    /// What cannot be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Vec<Doubt>,
}

/// Of frontends for which the same is other so many are named.
const NAMED: usize = 3;

impl fmt::Display for Supposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for alike in alike(&self.effects) {
            for (number, effect) in alike.iter().take(NAMED).enumerate() {
                let last = number + 1 == alike.len().min(NAMED);
                let more = match alike.len().saturating_sub(NAMED) {
                    more if more > 0 && last => format!(", and {more} more frontends"),
                    _ => String::new(),
                };
                writeln!(f, "{} ({}){more}", effect.service, effect.frontend)?;
            }
            let Some(first) = alike.first() else { continue };
            first.words.iter().try_for_each(|words| writeln!(f, "    {words}"))?;
            for concerned in &first.clients {
                writeln!(f, "    for {}: {}", concerned.who.join(", "), concerned.contrast.words)?;
            }
        }
        self.assumed.iter().try_for_each(|words| writeln!(f, "supposed: {words}"))?;
        for gap in &self.gaps {
            writeln!(f, "not known: {}: {}", gap.what, gap.why)?;
        }
        match self.effects.len() {
            0 => writeln!(f, "nothing would change on this node"),
            1 => writeln!(f, "1 frontend would change on this node"),
            several => writeln!(f, "{several} frontends would change on this node"),
        }
    }
}

/// Effects that differ in nothing but their frontend, in the order of the first of each.
fn alike(effects: &[Effect]) -> Vec<Vec<&Effect>> {
    let mut places = std::collections::BTreeMap::new();
    let mut groups: Vec<Vec<&Effect>> = Vec::new();
    for effect in effects {
        let clients = effect.clients.iter().map(|c| (&c.who, &c.contrast.words));
        let like = (&effect.words, clients.collect::<Vec<_>>());
        let place = *places.entry(like).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(effect),
            None => groups.push(vec![effect]),
        }
    }
    groups
}
