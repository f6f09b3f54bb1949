//! `kube-proxy check`: the live state, or a dump's, against what the objects promise.
//! Tests: `netlab`.

use super::{Progress, Said, Scene, UNKNOWN, WELL, WRONG, json};
use crate::check::{Case, Change, Effect, Report, check as run, effects};
use crate::cli::ask::{Asked, Output};
use crate::kernel::Error;
use crate::kernel::survey::Survey;
use crate::trace::{World, desired, load};

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
    (world, before): (&crate::trace::World, &Case<'_>),
) -> Result<Said, String> {
    let mut events = before.events.to_vec();
    let mut options = before.options.clone();
    for text in what_if {
        let change = Change::parse(text)?;
        if !change.apply(&mut events, &mut options) {
            return Err(format!("--what-if {text}: there is nothing that it would change"));
        }
    }
    let found = effects(world, before, &Case { events: &events, options: &options });
    let out = match asked.output {
        Output::Json => json(&found)?,
        _ => words(&found),
    };
    let code = if found.is_empty() { WELL } else { WRONG };
    Ok(Said { out, code, ..Said::default() })
}

fn words(effects: &[Effect]) -> String {
    let lines = effects.iter().map(|e| format!("{} ({}): {}\n", e.service, e.frontend, e.words));
    let all: String = lines.collect();
    if all.is_empty() { "nothing would change on this node\n".to_owned() } else { all }
}
