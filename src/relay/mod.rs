//! Connections carried by the proxy itself: userspace mode's sockets.
//!
//! Each listening port has a `pool` of endpoints; `balance` chooses one, `dial` gets an answer from
//! one, `stream` carries the bytes by `splice(2)`, `worker` is one thread's share of it all. `Relay` is
//! the handle that a kernel's heart holds. It must never know a Service, a rule or a cluster.
//! Tests: `tests.rs`, `fault_tests.rs`, `seeded_tests.rs` and `udp_tests.rs` on simulated sockets,
//! `threads_tests.rs` and `netlab` on real ones.

mod balance;
mod board;
mod complaints;
mod counters;
mod datagrams;
mod dial;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fault_tests;
mod linux;
mod linux_udp;
mod pipes;
mod pool;
mod ports;
mod proxy_protocol;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod seeded_tests;
mod segments;
mod share;
mod side;
#[cfg(test)]
mod simulated;
mod slots;
mod sockets;
#[cfg(test)]
mod stage;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod threads;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod threads_tests;
mod udp;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod udp_tests;
mod worker;

pub use balance::Balancer;
pub use board::Board;
pub use counters::{Counters, Figures};
pub use pool::{Announce, Group, Limits, Pool, Serving, Shared};
pub use ports::Ports;
pub use sockets::Trouble;
pub use threads::{Relay, Settings, Transport};
