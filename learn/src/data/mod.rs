//! Data sources: files of examples, read once front to back, delivered as batches.
//!
//! Owns everything from a path to a [`Csr`] whose keys are unique and sorted: unpacking, cutting
//! into batches, parsing, hashing, drawing the hold-out. What is learned from a batch is left to
//! the learners.
//!
//! Invariant: one thread reads, several parse, and batches are delivered in the source's order;
//! what a batch holds depends on the specification alone, never on threads or timing.

mod claim;
mod csr;
mod dedupe;
mod delimited;
mod error;
mod feed;
mod generate;
mod hash;
mod input;
mod label;
mod layout;
mod libsvm;
mod lines;
mod marks;
mod number;
mod parse;
mod plan;
mod selection;
mod source;
mod spec;
mod splits;
mod table;
mod text;
mod vw;

pub use claim::{Claim, ClaimSplit, Delivered};
pub use csr::{Csr, Intercept};
pub use error::{DataError, Found, Reason, RowError, Spot};
pub use hash::{INTERCEPT_KEY, KEY_MAX, feature_key};
pub use parse::parse_block;
pub use source::{Progress, Source};
pub use spec::{
    BATCH_ROWS_DEFAULT, BATCH_ROWS_MAX, BadRows, ColumnSpec, Draw, Format, LabelRule, Labels,
    PARSERS_MAX, Part, SourceSpec,
};
pub use splits::{
    SPLIT_BATCH_BITS, SPLIT_BATCHES_LEAST, SPLIT_BYTES_MAX, SPLIT_BYTES_MIN, SPLITS_PER_WORKER,
    Splits, split_batch, split_of,
};

#[cfg(test)]
mod tests;
