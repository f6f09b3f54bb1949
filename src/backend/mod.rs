//! From what may be reached to what the kernel is told: one folder a mode, siblings unknown to
//! each other. Pure: no socket, no clock, no file. Tests: in each folder and in `proptests`.

pub mod nftables;
