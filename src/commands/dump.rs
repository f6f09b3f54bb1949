//! `kube-proxy dump`: all that is known, into one file. Tests: `netlab`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use super::progress::Progress;
use super::{Said, Scene, UNKNOWN, WELL};
use crate::anonymise::{Anonymous, anonymise};
use crate::cli::ask::Addresses;
use crate::trace::dump::{self, Dump};

/// Writes the dump to a file, or gives it to be said.
pub(super) fn write(
    to: Option<&Path>,
    addresses: Addresses,
    scene: Scene,
    progress: &mut Progress,
) -> Result<Said, String> {
    let lacks = &scene.survey.lacks;
    let lacks = lacks.iter().map(|l| format!("not in the dump: {}: {}\n", l.what, l.why));
    let mut error: String = lacks.collect();
    let code = if error.is_empty() { WELL } else { UNKNOWN };
    // Names of pods decide about no packet: without them a dump is whole.
    error.extend(scene.podless.iter().map(|why| format!("not in the dump: pods: {why}\n")));
    let mut dump = Dump {
        survey: scene.survey,
        options: Some(scene.options),
        events: scene.events,
        pods: scene.pods,
    };
    if addresses == Addresses::Anonymous {
        progress.tell("putting other addresses in their places");
        let other = other(&dump)?;
        if other.kept > 0 {
            let sentence = "addresses lie so close to others that they had to stay";
            error.push_str(&format!("anonymised, but for {}: these {sentence}\n", other.kept));
        }
        dump = other.dump;
    }
    let text = dump::write(&dump);
    let Some(file) = to else { return Ok(Said { out: text, error, code }) };
    let wrong = |e: std::io::Error| format!("--to {}: {e}", file.display());
    // Under another name first, so that nobody finds half of it.
    let part = file.with_extension("part");
    let compressed = file.extension().is_some_and(|ending| ending == "gz");
    let lines = text.lines().count();
    let bytes = if compressed { packed(&text).map_err(wrong)? } else { text.into_bytes() };
    std::fs::write(&part, &bytes).and_then(|()| std::fs::rename(&part, file)).map_err(wrong)?;
    let out = format!("{}: {lines} lines, {} bytes\n", file.display(), bytes.len());
    Ok(Said { out, error, code })
}

fn other(dump: &Dump) -> Result<Anonymous, String> {
    // Each `RandomState` has keys of its own, from the system: nobody can draw the same again.
    let seed = RandomState::new().build_hasher().finish();
    anonymise(dump, seed).map_err(|e| format!("the dump cannot be anonymised: {e}"))
}

/// A text as gzip packs it.
fn packed(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, text.as_bytes())?;
    encoder.finish()
}
