//! `--record` as the settings want it: which file, whose clock.
//! Tests: `netlab` (`record-is-played-again`).

use std::time::{SystemTime, UNIX_EPOCH};

use super::Failure;
use super::hearts::AnyKernel;
use crate::config::Settings;
use crate::record::ring::Ring;
use crate::record::{Listener, Recorder, Shared};
use crate::sync::scribe::Scribe;

/// The kernel, and who writes down what the proxy does, if that is wanted.
pub(super) fn recorded(
    kernel: AnyKernel,
    settings: &Settings,
) -> Result<(AnyKernel, Option<Box<dyn Scribe>>), Failure> {
    let Some(path) = &settings.record else { return Ok((kernel, None)) };
    let ring = Ring::open(path, settings.record_bytes)
        .map_err(|e| Failure::new(format_args!("--record {e}")))?;
    let ring = Shared::new(ring);
    let mut kernel: AnyKernel = Box::new(Listener::new(kernel, ring.clone()));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let of = (host, release.trim().to_owned());
    let recorder = Recorder::new(ring, Box::new(now), of, &mut *kernel);
    Ok((kernel, Some(Box::new(recorder))))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
