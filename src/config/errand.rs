//! What flags ask that no configuration file can: what to do at all, and with which world.
//! Tests: `config::tests`.

use std::path::PathBuf;

use super::settings::KernelChoice;
use crate::sync::examine::Extent;

/// What flags ask beside the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errand {
    /// `--cleanup`.
    pub cleanup: bool,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--help`.
    pub help: bool,
    /// `--init-only`.
    pub init_only: bool,
    /// `--kernel`.
    pub kernel: KernelChoice,
    /// `--manifests`.
    pub manifests: Option<PathBuf>,
    /// `--master`.
    pub master: Option<String>,
    /// `--record`.
    pub record: Option<PathBuf>,
    /// `--record-megabytes`.
    pub record_megabytes: Option<u32>,
    /// `--verify`.
    pub verify: Extent,
    /// `--verify-dumps`.
    pub verify_dumps: Option<PathBuf>,
    /// `--version`.
    pub version: Option<VersionForm>,
    /// `--write-config-to`.
    pub write_config_to: Option<PathBuf>,
}

/// How much `--version` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionForm {
    /// One line.
    Short,
    /// All that is known of the build.
    Raw,
}

impl Errand {
    /// Whether a mode's rules will be made, so that the build must have the mode.
    pub fn programs(&self) -> bool {
        !self.cleanup && self.write_config_to.is_none()
    }
}
