//! How fast and how big the proxy is, by numbers that can be compared from day to day.
//!
//! `cluster` makes clusters of N Services, `meter` measures, `figures` keeps what was measured and
//! writes it down with `machine`'s description. `real` programs the real kernel in nftables mode, `modes` in the other
//! ones, `flows` beside a full conntrack table, `daemon` runs the real binary on an API server; `carriers` sets userspace mode beside HAProxy and nginx; `benches/*.rs` are criterion's, on the simulated kernel.
//! Nothing here asserts a time: who reads the numbers judges them.

pub mod carriers;
pub mod cluster;
pub mod crowd;
pub mod daemon;
pub mod figures;
pub mod flows;
pub mod machine;
pub mod meter;
pub mod modes;
pub mod node;
pub mod objects;
pub mod real;
pub mod report;
pub mod sink;
