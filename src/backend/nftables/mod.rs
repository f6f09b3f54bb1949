//! nftables mode: maps, not chains.
//!
//! `elements` says what a frontend's program is in the table's maps, `rules` what the fixed chains
//! do, `plan` how to get from what is there to what is wanted, `affinity` which clients are
//! remembered and which to forget.
//! Pure: values in, netlink bytes out. Tests: in each file; `proptests`; `netlab`.

pub mod affinity;
pub mod elements;
pub mod layout;
pub mod plan;
pub mod rules;

use crate::kernel::NftBatch;
use crate::model::Family;
use crate::netlink::nft::Batch;

/// The transaction that takes a table away, which must be there.
pub fn removal(family: Family, table: &str) -> NftBatch {
    let mut batch = Batch::new(family, table);
    batch.delete_table();
    batch.finish()
}
