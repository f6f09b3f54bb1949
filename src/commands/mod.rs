//! Questions about this node or a dump, answered once: reads what is there, asks `trace` or
//! `check`, and gives words and an exit code. It wires and decides nothing about packets.
//!
//! Exit codes: 0 all is well, 1 it is not, 2 it cannot be told. Tests: `tests.rs`, `netlab`.

mod check;
mod dump;
mod names;
mod objects;
mod progress;
mod replay;
mod supposed;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod trace;

use std::path::Path;
use std::sync::Arc;

use crate::cli::ask::{Asked, Command, Place};
use crate::kernel::real::survey::{Flows, survey};
use crate::kernel::survey::Survey;
use crate::model::{Event, Pod};
use crate::sync::Options;
use crate::trace::dump::{self as format, Dump};
use crate::trace::stand_in::stand_in;
use objects::Known;
use progress::Progress;

/// What is said, and the exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For the standard output.
    pub out: String,
    /// For the standard error output.
    pub error: String,
    /// The exit code.
    pub code: u8,
}

/// All is well.
const WELL: u8 = 0;
/// It is not as it should be.
const WRONG: u8 = 1;
/// It cannot be told.
const UNKNOWN: u8 = 2;

/// What is known before the question is asked.
struct Scene {
    survey: Survey,
    events: Vec<Event>,
    pods: Vec<Pod>,
    /// Why pods are not known, where they are not.
    podless: Option<String>,
    options: Options,
    /// Whether there are objects: a source was named, or the dump has some.
    has_objects: bool,
}

/// Answers a question.
pub fn answer(asked: &Asked) -> Said {
    let mut progress = Progress::start();
    let said = match &asked.command {
        Command::Trace(wish) => scene(asked, Flows::None, &mut progress)
            .and_then(|scene| trace::trace(asked, wish, scene)),
        Command::Check { what_if } => scene(asked, Flows::All, &mut progress)
            .and_then(|scene| check::check(asked, what_if, scene, &mut progress)),
        Command::Dump { to, addresses } => scene(asked, Flows::All, &mut progress)
            .and_then(|scene| dump::write(to.as_deref(), *addresses, scene, &mut progress)),
        Command::Names { of } => known(asked, &mut progress).map(|known| names::named(*of, &known)),
        Command::Replay { file, until, trace } => {
            replay::replay(asked, (file, *until, trace.as_ref()), &mut progress)
        }
    };
    progress.end();
    said.unwrap_or_else(|why| Said {
        error: format!("kube-proxy: {why}\n"),
        code: UNKNOWN,
        ..Said::default()
    })
}

/// A value for programs.
fn json(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| e.to_string())
}

/// Reads the objects alone, from a dump if one is named.
fn known(asked: &Asked, progress: &mut Progress) -> Result<Known, String> {
    let (known, node) = match &asked.node {
        Place::Dump(file) => {
            let dump = read_dump(file)?;
            let node = node_of(&dump, asked);
            (Known::of_dump(dump.events, dump.pods), node)
        }
        Place::Here | Place::StandIn => (Known::default(), asked.settings.node_name.clone()),
    };
    objects::read(asked, (known, &node), progress)
}

/// The node that a dump is of: not the one where it is read.
fn node_of(dump: &Dump, asked: &Asked) -> Arc<str> {
    let told = dump.options.as_ref().map(|options| &options.node_name);
    told.unwrap_or(&asked.settings.node_name).clone()
}

/// Reads all that is known.
fn scene(asked: &Asked, flows: Flows, progress: &mut Progress) -> Result<Scene, String> {
    let own = &asked.settings.node_name;
    let (survey, known, dumped, node) = match &asked.node {
        Place::Dump(file) => {
            progress.tell(&format!("reading {}", file.display()));
            let dump = read_dump(file)?;
            let node = node_of(&dump, asked);
            let known = Known::of_dump(dump.events, dump.pods);
            let known = objects::read(asked, (known, &node), progress)?;
            (Some(dump.survey), known, dump.options, node)
        }
        Place::Here => {
            let (found, known) = live(asked, flows, progress)?;
            (Some(found), known, None, own.clone())
        }
        Place::StandIn => {
            let known = objects::read(asked, (Known::default(), own), progress)?;
            (None, known, None, own.clone())
        }
    };
    let mut tracker = crate::track::Tracker::new(node);
    known.events.iter().cloned().for_each(|event| tracker.feed(event));
    let asked_for = || {
        let (options, _) = asked.settings.proxy_options(tracker.cluster().node());
        let steering = survey.as_ref().map(Survey::steering).unwrap_or_default();
        Options { steering, ..options }
    };
    let options = dumped.unwrap_or_else(asked_for);
    let has_objects = !known.events.is_empty();
    let node = tracker.cluster().node();
    let survey = match (survey, node) {
        (Some(found), _) => found,
        (None, Some(node)) => stand_in(&options, Some(node), &[]),
        (None, None) => {
            let name = &asked.settings.node_name;
            return Err(format!(
                "--stand-in: the objects have no Node {name}; give its name with --hostname-override"
            ));
        }
    };
    let Known { events, pods, podless } = known;
    Ok(Scene { survey, events, pods, podless, options, has_objects })
}

/// Reads this node, and the objects meanwhile: each takes seconds where there is much.
fn live(asked: &Asked, flows: Flows, progress: &mut Progress) -> Result<(Survey, Known), String> {
    std::thread::scope(|scope| {
        let mut silent = Progress::silent();
        let reading = scope.spawn(move || {
            objects::read(asked, (Known::default(), &asked.settings.node_name), &mut silent)
        });
        let mut tell = |what: &str| progress.tell(&format!("reading objects, and {what}"));
        let found = survey(flows, &mut tell).map_err(|e| {
            format!("this node cannot be read: {e}; run it as root on the node, or name a dump with --from, or \
                 ask a --stand-in what would be")
        })?;
        progress.tell("reading objects");
        let known = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((found, known))
    })
}

fn read_dump(file: &Path) -> Result<Dump, String> {
    let text = text_of(file, "dump").map_err(|e| format!("--from {e}"))?;
    format::read(&text).map_err(|e| format!("--from {}: {e}", file.display()))
}

/// The text of a file, unpacked if gzip packed it.
fn text_of(file: &Path, kind: &str) -> Result<String, String> {
    let name = file.display();
    let bytes = std::fs::read(file).map_err(|e| format!("{name}: {e}"))?;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        unpacked(&bytes).map_err(|e| format!("{name}: {e}; the file is damaged, or cut short"))?
    } else {
        bytes
    };
    String::from_utf8(bytes).map_err(|_| format!("{name}: no text; this is no {kind}"))
}

/// What gzip has packed. A dump of a big node is some hundred MiB; more is no dump.
fn unpacked(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    const MOST: u64 = 4 << 30;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(flate2::read::GzDecoder::new(packed), MOST),
        &mut bytes,
    )?;
    Ok(bytes)
}
