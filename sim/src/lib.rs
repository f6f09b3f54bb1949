//! A Linux node's packet path in memory.

mod chance;
pub mod conntrack;
mod hash;
mod host;
mod journey;
mod net;
pub mod nft;
pub mod packet;
mod path;

pub use chance::Probability;
pub use conntrack::Connection;
pub use host::Host;
pub use journey::{Fate, Journey, Outcome, Outcomes, Step};
pub use net::{Hop, LOOPBACK, Link, Sysctls};
pub use nft::eval::Place;
pub use nft::{Errno, Family, Hook, NftError, RejectWith};
pub use packet::{Entry, Packet, Transport};
