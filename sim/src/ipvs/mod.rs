//! IPVS: virtual services, their destinations, schedulers, connections, and the hooks at which packets meet them.
//! Asked by generic netlink (`wire`) or by typed verbs (`host`); `table` holds services, `schedule`, `locality` and `hashing` choose, `conn`
//! holds connections, `state` moves them, `hook` handles packets. Facts from net/netfilter/ipvs, and from Linux 6.1 in a User
//! Mode Linux guest, whose answers stand in tests/fixtures/ipvs. It must never know rules. Tests: tests/ipvs.rs, tests/ipvs_wire.rs.
//!
//! Not as Linux: what `locality` says; the states of SCTP are fewer; rates are zero; a trashed destination without connections is gone at once.

mod conn;
mod hashing;
mod hook;
mod host;
mod locality;
mod reply;
mod schedule;
mod service;
mod state;
mod table;
mod wire;

pub use conn::IpvsConnection;
pub use service::{
    Destination, IpvsError, IpvsStats, IpvsSysctls, IpvsTimeouts, Scheduler, Service, ServiceKey,
    flags,
};
pub use state::IpvsState;
pub(crate) use table::Ipvs;
