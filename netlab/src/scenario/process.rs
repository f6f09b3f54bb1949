//! kube-proxy as a process: signals, restarts, refusals, cleanup.

use super::{Bench, Scenario, Verdict, scenario};

/// Scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[scenario("scale-under-load", scale)];

fn scale(bench: &Bench) -> Verdict {
    let mut setting = bench.examples()?;
    setting.start_proxy()?;
    let rows = crate::scale::grow_and_shrink(&mut setting)
        .map_err(|why| format!("{why}\n{}", setting.last_words()))?;
    match rows.iter().find(|r| r.wrong.is_some()) {
        Some(_) => Err(crate::table::print(&rows).into()),
        None => Ok(rows[2].reached.clone()),
    }
}
