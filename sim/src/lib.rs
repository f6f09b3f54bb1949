//! A Linux node's packet path in memory: it takes the bytes the kernel would take, and says what becomes of a packet.
//!
//! ```
//! use sim::{Fate, Host, Packet};
//!
//! let mut host = Host::new(1);
//! let eth0 = host.add_link("eth0");
//! host.add_address(eth0, "192.0.2.1".parse()?, 24);
//! let packet = Packet::tcp("192.0.2.9:1000".parse()?, "192.0.2.1:22".parse()?);
//! assert_eq!(host.receive(&packet, eth0).fate, Fate::Delivered);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! [`Host::nft_batch`] takes a netlink batch; [`Host::fate`] says what becomes of a packet, [`Host::send`] says it with every step,
//! [`Host::outcomes`] says everything that can become of it with the probability of each, and changes nothing.
//! [`Host::iptables_restore`] takes a text for iptables-restore, [`Host::iptables_save`] prints one.
//!
//! The crate knows nothing of Kubernetes, has no dependencies, reads no clock, and panics on no input. Its files: `host` (the verbs),
//! `path` (the netfilter diagram), `nft` (tables and rules), `conntrack` (connections and NAT), `net` (links and routes), `packet`, `chance`,
//! `journey` (what comes back).
//!
#![doc = include_str!("../MODEL.md")]

mod answer;
mod chance;
pub mod conntrack;
mod facilities;
mod hash;
mod hooks;
mod host;
pub mod ipset;
pub mod ipvs;
mod journey;
mod net;
pub mod nft;
pub mod packet;
mod path;
mod skb;
mod source;
mod sysctls;
pub mod world;
mod xtables;

pub use chance::Probability;
pub use conntrack::Connection;
pub use host::Host;
pub use ipset::{Direction, IpsetError};
pub use journey::{Fate, Journey, Outcome, Outcomes, Step};
pub use net::{Hop, LOOPBACK, Link};
pub use nft::{Errno, Family, Hook, NftError, RejectWith};
pub use packet::{Entry, Packet, Transport};
pub use skb::Place;
pub use sysctls::Sysctls;
pub use world::World;
pub use xtables::{XtCounters, XtError, XtErrorKind, XtFamily, XtRestore, XtTable};
