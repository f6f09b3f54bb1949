//! Where does a packet go on this node, and why: a survey of the node becomes a simulated host, a
//! question becomes a packet, what the host makes of it becomes words.
//!
//! ```text
//! Survey ─load─▶ World ─ask─▶ Answer ─text | json | mermaid─▶ words
//! ```
//!
//! It must never read a kernel, a clock or a file: who does hands it values. What the simulator
//! has no model of is a `Gap` at its place, and an answer that passes one says so.
//! Tests: `tests.rs`, and the lab's scenarios `trace` and `check`.

pub mod answer;
mod compare;
mod desired;
mod diagram;
pub mod dump;
mod iptables;
mod load;
mod names;
mod owners;
mod replay;
pub mod stand_in;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
mod turns;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod turns_tests;
mod words;

pub use answer::{Answer, Doubt, Ending, Kind, Question, ask, endpoint_of, packet as packet_of};
pub use compare::{Difference, differences};
pub use desired::{desired, with_rules};
pub use diagram::{mermaid, mermaid_of_both};
pub use load::{Gap, Maker, Whereabouts, World, load};
pub use names::{Directory, End, NoSuch, Wish, parse};
pub use owners::port_of;
pub use words::{Colour, text};
