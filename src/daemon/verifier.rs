//! `--verify` as the settings want it: who looks, what is counted, where dumps go.
//! It must never judge a packet. Tests: `netlab` (`verify-…`).

use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::kernel::real::survey::{Flows, survey};
use crate::serve::{Metrics, VerifiedFigures};
use crate::sync::Proxy;
use crate::sync::examine::{Broken, Extent, Known};
use crate::trace::dump::{Dump, write};
use crate::verify::{Looked, Verifier};

/// Dumps that one process writes: what breaks one promise may break them all.
const MOST_DUMPS: usize = 3;

/// The proxy with everything looked at, if that is wanted.
pub(super) fn verified(proxy: Proxy, settings: &Settings, metrics: Metrics) -> Proxy {
    let extent = settings.verify;
    if extent == Extent::Off {
        return proxy;
    }
    let tell = Box::new(move |looked: &Looked| {
        let Looked { services, packets, unknown, broken, refused, took } = *looked;
        let kept = packets.saturating_sub(unknown + broken);
        let figures = VerifiedFigures { services, kept, unknown, broken, refused, took };
        metrics.verified(extent.as_str(), &figures);
        tracing::debug!(services, packets, unknown, broken, ?took, "verified");
    });
    let folder = settings.verify_dumps.clone();
    let mut dumps = 0;
    let keep = Box::new(move |known: Known<'_>, broken: &[Broken]| {
        let services = broken.len();
        tracing::error!(services, "--verify: what was to be written would break promises");
        let Some(folder) = folder.as_deref().filter(|_| dumps < MOST_DUMPS) else { return };
        dumps += 1;
        match dump(folder, dumps, known) {
            Ok(file) => tracing::error!("--verify: what led to it is in {}", file.display()),
            Err(why) => tracing::warn!("--verify-dumps: {why}; no dump was written"),
        }
    });
    proxy.examined_by(Box::new(Verifier::new(extent, tell, keep)))
}

/// The node as it is and the objects as they were to be programmed.
fn dump(folder: &Path, number: usize, known: Known<'_>) -> Result<PathBuf, String> {
    let survey = survey(Flows::None, &mut |_| {}).map_err(|e| e.to_string())?;
    let text = write(&Dump {
        survey,
        options: Some(known.options.clone()),
        events: known.cluster.events(),
        pods: Vec::new(),
    });
    let file = folder.join(format!("kube-proxy-{}-{number}.dump", std::process::id()));
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(file)
}
