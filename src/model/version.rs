//! Which Kubernetes this is like, and which release of ours it is. Tests: `cli` and `serve`.

/// The minor version of the Kubernetes whose flags, file and metrics these are.
pub const KUBERNETES_MINOR: u32 = 36;

/// The version as the reference's version strings say it (`--version`, `kubernetes_build_info`): that
/// Kubernetes, and our own version behind a plus.
pub const GIT_VERSION: &str = concat!("v1.36.0+rust.", env!("CARGO_PKG_VERSION"));
