//! The lab: the same questions put to a real kernel, in network namespaces of our own.
//!
//! `namespace`, `links`, `lab` build the world; `echo`, `client`, `sctp` talk in it; `process` runs
//! the real kube-proxy; `probe` is the language of questions with their expected answers;
//! `apiserver` is an API server small enough to be broken on purpose. `demo` and `scenario` use
//! them all. Nothing here knows rules or maps: everything is judged from outside, by packets.

pub mod client;
pub mod echo;
pub mod lab;
pub mod links;
pub mod manifests;
pub mod namespace;
pub mod plan;
pub mod sctp;
