//! `kube-proxy check`: the live state, or a dump's, against what the objects promise.
//! Tests: `netlab`.

use super::supposed::Supposed;
use super::{Progress, Said, Scene, UNKNOWN, WELL, WRONG, json};
use crate::check::{Case, Change, Report, check as run, effects};
use crate::cli::ask::{Asked, Output};
use crate::kernel::Error;
use crate::kernel::survey::Survey;
use crate::trace::{Doubt, World, desired, load};

pub(super) fn check(
    asked: &Asked,
    what_if: &[String],
    scene: Scene,
    progress: &mut Progress,
) -> Result<Said, String> {
    if !scene.has_objects {
        return Err("check needs to know what is promised: --manifests DIR, --kubeconfig FILE, or a dump with objects".to_owned());
    }
    if asked.output == Output::Mermaid {
        return Err("--output mermaid is for trace; check has text and json".to_owned());
    }
    let survey = scene.survey;
    let case = Case { events: &scene.events, options: &scene.options };
    progress.tell("comparing");
    if !what_if.is_empty() {
        return suppose(asked, what_if, (&load(survey), &case));
    }
    let (mut world, wanted) = worlds(survey, &case);
    let mut tell = |done, all| progress.count("frontends", (done, all));
    let report = run(&mut world, (&case, wanted), &mut tell);
    let code = match (report.findings.is_empty(), report.gaps.is_empty()) {
        (false, _) => WRONG,
        (true, false) => UNKNOWN,
        (true, true) => WELL,
    };
    Ok(Said { out: printed(asked, &report)?, code, ..Said::default() })
}

/// The node as it is, and as kube-proxy would make it.
fn worlds(survey: Survey, case: &Case<'_>) -> (World, Result<World, Error>) {
    let own = survey.clone();
    std::thread::scope(|scope| {
        let wanted = scope.spawn(move || desired(own, case.events, case.options));
        let world = load(survey);
        let wanted = wanted.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (world, wanted)
    })
}

fn printed(asked: &Asked, report: &Report) -> Result<String, String> {
    match asked.output {
        Output::Json => json(report),
        _ => Ok(report.to_string()),
    }
}

/// What changes would do, without any of them being made.
fn suppose(
    asked: &Asked,
    what_if: &[String],
    (world, before): (&World, &Case<'_>),
) -> Result<Said, String> {
    let mut events = before.events.to_vec();
    let mut options = before.options.clone();
    let mut assumed = Vec::new();
    for text in what_if {
        let change = Change::parse(text)?;
        assumed.extend(change.assumes(&options));
        if !change.apply(&mut events, &mut options) {
            return Err(format!("--what-if {text}: there is nothing that it would change"));
        }
    }
    let effects = effects(world, before, &Case { events: &events, options: &options });
    let supposed = Supposed { effects, assumed, gaps: nodeless(before) };
    let out = match asked.output {
        Output::Json => json(&supposed)?,
        _ => supposed.to_string(),
    };
    let code = match (supposed.effects.is_empty(), supposed.gaps.is_empty()) {
        (false, _) => WRONG,
        (true, false) => UNKNOWN,
        (true, true) => WELL,
    };
    Ok(Said { out, code, ..Said::default() })
}

/// Which endpoints are this node's own nobody can tell who does not know the node. What of rules has
/// no model is no doubt here: promises alone are compared.
fn nodeless(case: &Case<'_>) -> Vec<Doubt> {
    if case.tracker().cluster().node().is_some() {
        return Vec::new();
    }
    let what = format!("Node {}", case.options.node_name);
    let why = "it is not among the objects (is --hostname-override right?): endpoints of this node \
               and its addresses may be taken for others";
    vec![Doubt { what, why: why.to_owned() }]
}
