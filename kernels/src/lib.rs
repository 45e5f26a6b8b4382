//! Arithmetic on slices: optimizers, codecs, reductions, probing, hashing, checksums.
//!
//! Owns what happens to numbers in memory and which instructions do it. Where rows lie, who may
//! touch them and when is left to `shard`; this crate reads no clock, file, socket or setting.
//!
//! Invariant: for finite input every level of [`Isa`] returns the bits of the scalar reference, so
//! replicas on different processors agree and replay is a comparison of bytes.

pub mod adagrad;
pub mod adam;
pub mod adamw;
pub mod codec;
mod columns;
pub mod copy;
pub mod crc32c;
pub mod ftrl;
pub mod ftrl_compact;
pub mod ftrl_group;
pub mod half;
pub mod hash;
mod isa;
mod lanes;
pub mod lines;
pub mod logistic;
pub mod momentum;
#[cfg(test)]
mod oracle;
pub mod order;
pub mod plain;
pub mod probe;
pub mod rmsprop;
pub mod rows;
pub mod scan;
pub mod sgd;
pub mod stream;
pub mod sum;

pub use isa::{Isa, Level, UnknownLevel};
pub use lanes::prefetch;
pub use rows::MISSING;
