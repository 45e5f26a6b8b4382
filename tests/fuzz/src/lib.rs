//! Decoders, readers and the shard, fed with bytes that nobody should send.
//!
//! Owns the inputs: good ones, and what a seed makes of them. A target feeds them to the code
//! under test and panics where a promise is broken; the code itself must not panic at all.
//!
//! Invariant: the inputs of a campaign follow from its target, its seed and its number of runs.
#![forbid(unsafe_code)]

mod campaign;
mod mutate;
mod random;
mod targets;

pub use campaign::{Alone, Budget, Campaign, Crash, Survived};
pub use targets::NAMES;
