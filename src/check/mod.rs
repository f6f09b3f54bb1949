//! Does the kernel do what the API promises? Every frontend and every kind of client is asked of
//! the simulated live state and held against the promise; what differs is a finding with its
//! cause and a packet that shows it.
//!
//! It must never repair anything, nor look at a rule to know what is right (`promise` knows).
//! Tests: `tests.rs`, and the lab's scenarios.

mod chains;
mod classes;
mod contrast;
mod drift;
mod duplicates;
mod effects;
mod judge;
mod martian;
mod services;
mod set_field;
mod surroundings;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod surroundings_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod what_if;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod what_if_tests;

pub use contrast::Contrast;
pub use effects::{Concerned, Effect, effects};
pub use judge::{Verdict, judge};
pub use services::{Came, These, ask_some};
pub use set_field::{FIELDS, SetField};
pub use what_if::Change;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::kernel::Error;
use crate::model::{Event, Mode};
use crate::promise::{Node, Promise, Promises};
use crate::sync::Options;
use crate::trace::{Answer, Doubt, Question, World};
use crate::track::{Cluster, Tracker};

/// What sort of trouble a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// A rule, chain or element of kube-proxy's is not as it would write it.
    Drift,
    /// A rule of somebody else's ends or changes packets that are promised otherwise.
    ForeignRule,
    /// A source that has to be masqueraded is not.
    MissingMasquerade,
    /// A setting of the node stops packets.
    Setting,
    /// There is no way to an endpoint.
    NoRoute,
    /// A connection goes on to an endpoint that is gone, or past the Service.
    StaleConnection,
    /// A bridge that keeps a pod from reaching itself, or packets from the rules.
    Bridge,
    /// Two claim one address.
    DuplicateAddress,
    /// Something else than was promised, for no cause that is known here.
    Other,
}

/// Something that is not as promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort it is.
    pub sort: Sort,
    /// What causes it, by name, and what to do.
    pub cause: String,
    /// How many frontends it concerns; 0 where that is not counted.
    pub frontends: usize,
    /// One of the Service ports it concerns.
    pub service: Option<String>,
    /// A packet that shows it, with what was promised and what happens.
    pub example: Option<String>,
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Frontends that were looked at.
    pub frontends: usize,
    /// Packets that were asked.
    pub packets: usize,
    /// What is not as promised.
    pub findings: Vec<Finding>,
    /// What cannot be told.
    pub gaps: BTreeSet<Doubt>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let sort = serde_json::to_string(&finding.sort).unwrap_or_default();
            writeln!(f, "{}: {}", sort.trim_matches('"'), finding.cause)?;
            let more = finding.frontends.saturating_sub(1);
            match (&finding.service, more) {
                (Some(service), 0) => writeln!(f, "    of {service}")?,
                (Some(service), more) => {
                    writeln!(f, "    of {service} and {more} further frontends")?
                }
                (None, _) => {}
            }
            finding.example.iter().try_for_each(|example| writeln!(f, "    {example}"))?;
        }
        for gap in &self.gaps {
            writeln!(f, "not known: {}: {}", gap.what, gap.why)?;
        }
        let verdict = match (self.findings.len(), self.gaps.len()) {
            (0, 0) => "the kernel does what the API promises".to_owned(),
            (0, _) => "nothing wrong was found, but not everything can be told".to_owned(),
            (1, _) => "1 finding".to_owned(),
            (findings, _) => format!("{findings} findings"),
        };
        writeln!(f, "{} frontends, {} packets: {verdict}", self.frontends, self.packets)
    }
}

/// What is checked.
#[derive(Debug)]
pub struct Case<'a> {
    /// The objects, as Events of full lists.
    pub events: &'a [Event],
    /// How the proxy is set up.
    pub options: &'a Options,
}

impl Case<'_> {
    /// What is known of the cluster.
    pub fn tracker(&self) -> Tracker {
        let mut tracker = Tracker::new(self.options.node_name.clone());
        self.events.iter().cloned().for_each(|event| tracker.feed(event));
        tracker
    }
}

/// The node, as promises need to know it.
pub fn node(options: &Options, world: &World) -> Node {
    Node {
        mode: options.mode,
        rules: options.mode.rules(options.steering),
        families: options.families.clone(),
        addresses: world
            .host
            .links()
            .iter()
            // Addresses that ipvs mode gave the node are Services', and no node's.
            .filter(|link| &*link.name != crate::kernel::IPVS_DEVICE)
            .flat_map(|l| l.addresses.iter().map(|a| a.0))
            .filter(|address| !world.is_relay(*address))
            .collect(),
        detector: options.detector.clone(),
        masquerade_all: options.masquerade_all,
        node_port_addresses: options.node_port_addresses.clone(),
        localhost_node_ports: options.localhost_node_ports && options.mode == Mode::Iptables,
    }
}

/// Checks a live world against `wanted`, the one that kube-proxy would make (`desired`), or why that is not
/// known. `progress` is told how many frontends of how many are done.
pub fn check(
    world: &mut World,
    (case, wanted): (&Case<'_>, Result<World, Error>),
    progress: &mut dyn FnMut(usize, usize),
) -> Report {
    let tracker = case.tracker();
    let cluster = tracker.cluster();
    let node = node(case.options, world);
    let promises = Promises::new(cluster, &node);
    let mut report = Report::default();
    report.gaps.extend(world.gaps.iter().map(Doubt::of));
    let drift = drifted(world, wanted, &mut report);
    let mut causes = judge::Causes::new(drift);
    judge::all(world, &promises, (&mut report, &mut causes), progress);
    report.findings.extend(causes.into_findings());
    surroundings::look(world, (&promises, cluster), &mut report.findings);
    report
}

/// What of our tables is not as we would write it.
fn drifted(world: &World, wanted: Result<World, Error>, report: &mut Report) -> Vec<drift::Drift> {
    match wanted {
        Ok(wanted) => [
            drift::compare(&world.host, &wanted.host),
            chains::compare(&world.host, &wanted.host),
            chains::servers(&world.survey.virtual_servers, &wanted.survey.virtual_servers),
        ]
        .concat(),
        Err(error) => {
            let what = "what kube-proxy would write".to_owned();
            report.gaps.insert(Doubt { what, why: error.to_string() });
            Vec::new()
        }
    }
}

/// Says of endings at which kube-proxy itself takes the connection to where it may carry it on, and
/// of connections that IPVS took which Service port they are for: rules do not name these.
pub fn complete(answer: &mut Answer, (world, question): (&World, &Question), case: &Case<'_>) {
    let tracker = case.tracker();
    let node = node(case.options, world);
    let promises = Promises::new(tracker.cluster(), &node);
    let packet = judge::asked(question);
    let translated = answer.endings.iter().any(|ending| ending.endpoint.is_some());
    if answer.service.is_none() && translated {
        let claim = promises.claim_of(&packet);
        answer.service = claim.map(|claim| claim.service.port_name(claim.port).to_string());
    }
    let Promise::Endpoints(promised) = promises.of(&packet) else { return };
    for ending in &mut answer.endings {
        if ending.endpoint.is_some_and(|endpoint| world.is_relay(endpoint.address)) {
            ending.carried_to = promised.keys().copied().collect();
        }
    }
}

/// Findings of one cause, put together.
pub(crate) type ByCause = BTreeMap<(Sort, String), Finding>;

/// Whether any Service is there to be served.
pub(crate) fn serves(cluster: &Cluster) -> bool {
    cluster.services().next().is_some()
}
