//! Checkpoints: where they lie, their format, writing, publishing, checking and reading.
//!
//! Owns the store (a directory or an object store), the format of a part and of the manifest, and
//! which checkpoints are kept. What a part's messages say is left to who records and replays them:
//! here they are opaque. `docs/checkpoints.md` tells the format and what is guaranteed.
//!
//! Invariant: a checkpoint is whole and checked, or it is not there. Its manifest is written last,
//! once everything that it names is on stable storage, and only where there is none yet.
#![forbid(unsafe_code)]

mod backend;
mod block;
mod check;
mod error;
mod layout;
mod manifest;
mod part;
mod part_reader;
mod part_writer;
mod piece;
mod retain;
pub mod simulated;
mod store;
mod sum;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::{Options, StoreOption};
pub use block::{BLOCK_BYTES, BLOCK_HEAD_BYTES, Block, Messages};
pub use check::{Checkpoint, Depth, Found, NewestError, PassedOver};
pub use error::{Broken, RetainError, StoreError, WriteError};
pub use layout::CheckpointNumber;
pub use manifest::{Cluster, ClusterId, Content, FORMAT, LINE_MAX, Manifest, PartEntry, TableNote};
pub use part_reader::PartReader;
pub use part_writer::{PartEnd, PartPlan, PartWriter, yield_to_others};
pub use retain::{KEEP_MIN, Removed};
pub use store::{Listed, State, Store};
pub use sum::Sum;
pub use writer::{Facts, Writer};
