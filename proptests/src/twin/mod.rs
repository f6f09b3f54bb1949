//! One text, two kernels: rules, packets and what becomes of them, asked of Linux and of the
//! simulator with the same bytes. `case` reads the text, `ruleset`, `rule`
//! and `word` write the bytes,
//! `linux` and `simulated` run it, `answer` compares; `generate` and `fuzz` make cases from a seed.
//! Knows nothing of Kubernetes. Tests: `tests/recorded.rs`, `netlab kernel`, `netlab fuzz`.

pub mod answer;
mod bell;
pub mod case;
mod entry;
pub mod field;
pub mod fuzz;
mod generate;
mod generate_rare;
mod generate_xt;
mod ground;
mod hush;
pub mod linux;
mod netlink;
mod ready;
pub mod recorded;
mod rule;
pub mod ruleset;
pub mod simulated;
mod sockets;
mod spread;
pub mod tools;
pub mod wire;
mod word;
