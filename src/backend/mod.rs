//! From what may be reached to what the kernel is told. What every mode needs stands here:
//! `program` says what one frontend wants, `ruleset` who wins a frontend. Below, one folder a mode,
//! siblings unknown to each other. Pure: no socket, no clock, no file.
//! Tests: in each folder and in `proptests`.

pub mod counted;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
pub mod options;
pub mod program;
pub mod ruleset;
pub mod userspace;
pub mod xtables;

pub use options::Options;
