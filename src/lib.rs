//! The Kubernetes service proxy as a library.
//!
//! The river of data, one room a station (see README.md for the map):
//!
//! ```text
//! api ─Event─▶ track ─Cluster─▶ topology ─Reach─▶ backend ─Plan─▶ kernel (real | simulated)
//! ```
//!
//! `sync` decides when and in what order; `kernel` is the only seam towards Linux.

pub mod anonymise;
pub mod api;
pub mod backend;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod kernel;
pub mod logging;
pub mod model;
pub mod netlink;
pub mod promise;
pub mod record;
pub mod relay;
pub mod serve;
pub mod sync;
pub mod topology;
pub mod trace;
pub mod track;
pub mod verify;
