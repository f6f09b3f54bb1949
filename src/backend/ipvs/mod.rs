//! ipvs mode: a virtual server for every address and port, on addresses of the device `kube-ipvs0`,
//! with the reference's ipsets and a few rules of iptables beside them. Pure: what is in the kernel
//! comes in as facts, what is to change goes out as operations. It must never know another mode.
//! Order, and how ours are told from others': `plan`, `adopt`. Tests: in the files and in `proptests`.

pub mod adopt;
pub mod choice;
mod drift;
pub mod plan;
pub mod rules;
pub mod sets;
pub mod wanted;

/// The dummy device that has the Services' addresses, so that packets to them are for this host.
pub const DEVICE: &str = crate::kernel::IPVS_DEVICE;
