//! nf_tables: the tables of a host, changed by netlink batches, read back as values, and run over packets.
//! Decoding (`wire`, `batch`, `tables`, `rules`, `sets`, `expr`), standing (`store`, `set`), running (`eval`).
//! It must never know Kubernetes, nor how packets travel between hooks (that is `path`).
//! Tests: tests/batch.rs, tests/sets.rs, tests/six.rs, tests/nft_files.rs.

mod batch;
mod change;
mod dynset;
mod error;
pub(crate) mod eval;
pub(crate) mod expr;
mod key;
mod matching;
mod print;
mod ranges;
pub mod read;
mod rules;
mod set;
mod sets;
mod store;
mod tables;
pub(crate) mod translate;
mod verify;
mod wire;

pub(crate) use batch::apply;
pub use error::{Errno, NftError};
pub use expr::RejectWith;
pub(crate) use print::jhash;
pub use set::{DATA_VERDICT, SetDefinition, set_flags};
pub(crate) use store::Store;
pub use store::{BaseChain, ChainType, Family, Hook};
