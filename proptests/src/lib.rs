//! Things true of every cluster, held against an oracle.
//!
//! `oracle` says what the Kubernetes API promises for a packet and looks at no ruleset; `world`
//! runs the proxy on the simulated kernel, `lab` on the real one; `fate` holds what was seen
//! against what was promised. `vectors` and `differences` do this for the files of packet flows,
//! `generate` for clusters nobody thought of.

pub mod check;
pub mod cluster;
pub mod content;
pub mod coverage;
pub mod differences;
pub mod explore;
pub mod fate;
pub mod generate;
pub mod history;
pub mod host;
pub mod lab;
pub mod memory;
pub mod oracle;
pub mod own_promise;
pub mod packets;
pub mod play;
pub mod run;
pub mod sim_heart;
pub mod stage;
pub mod twin;
pub mod vectors;
pub mod world;
