//! The lab: the same questions put to a real kernel, in network namespaces of our own.
//!
//! `namespace`, `links`, `lab` build the world; `echo`, `client`, `sctp`, `page`, `connect_proxy` talk in it; `process` and
//! `proxy` run the real kube-proxy; `probe` is the language of questions with their expected
//! answers; `apiserver` is an API server small enough to be broken on purpose. `demo` and
//! `scenario` use them all. Nothing here knows rules or maps: all is judged from outside, by packets.

pub mod apiserver;
pub mod client;
pub mod connect_proxy;
pub mod demo;
pub mod echo;
pub mod guest;
pub mod lab;
pub mod links;
pub mod load;
pub mod manifests;
pub mod namespace;
pub mod page;
pub mod plan;
pub mod privilege;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod scale;
pub mod scenario;
pub mod scratch;
pub mod sctp;
pub mod setting;
pub mod simulated;
pub mod table;
pub mod twin;
