//! nftables mode: maps, not chains.
//!
//! `program` says what one frontend wants, `ruleset` who wins a frontend, `elements` what that is
//! in the table's maps, `rules` what the fixed chains do, `plan` how to get from what is there to
//! what is wanted, `affinity` which clients are remembered and which to forget.
//! Pure: values in, netlink bytes out. Tests: in each file; `proptests`; `netlab`.

pub mod affinity;
pub mod elements;
pub mod layout;
pub mod plan;
pub mod program;
pub mod rules;
pub mod ruleset;

use ipnet::IpNet;

use crate::kernel::NftBatch;
use crate::model::{Family, LocalDetector};
use crate::netlink::nft::Batch;

/// The transaction that takes the table away, which must be there.
pub fn removal(family: Family) -> NftBatch {
    let mut batch = Batch::new(family, layout::TABLE);
    batch.delete_table();
    batch.finish()
}

/// What the node's configuration says about the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The fwmark bit, 0 to 31, that says a packet is to be masqueraded.
    pub masquerade_bit: u8,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// How local pods are told from the rest.
    pub detector: LocalDetector,
    /// CIDRs of node addresses that take node port traffic, by family; `None`: all of them.
    pub node_port_addresses: [Option<Vec<IpNet>>; 2],
}

impl Options {
    /// The mark with the masquerade bit set.
    pub fn masquerade_mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }

    /// CIDRs of node addresses that take node port traffic; `None`: all of them.
    pub fn node_port_cidrs(&self, family: Family) -> Option<&[IpNet]> {
        self.node_port_addresses[family.index()].as_deref()
    }
}
