//! iptables mode: the reference's chains. Pure: text comes in (what iptables-save printed), text
//! goes out (what iptables-restore takes). It must never know another mode.
//! Tests: in the files and in `proptests`.

pub mod compat;
pub mod dump;
mod lines;
mod own;
pub mod pen;
pub mod plan;
pub mod removal;
pub mod shape;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod wire;
pub use super::xtables::{chain, rule};
