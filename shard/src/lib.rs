//! The shard: tables, rules, admission and clocks as one state machine.
//!
//! Owns the model's rows and who may change them when. Time, randomness and bytes are arguments:
//! there is no socket, clock or thread here, so that the same messages give the same rows, and a
//! simulation can drive the very engine that serves. Leaves moving bytes to `transport` and the
//! loop to `server`.
//!
//! Invariant: a message that is refused, or that must wait, has changed no row and no clock.
#![forbid(unsafe_code)]

mod admission;
mod answer;
pub mod chain;
mod change;
mod cursor;
mod decode;
mod engine;
mod hot;
mod job;
mod known_keys;
mod merge;
mod read;
mod room;
pub mod rule;
mod table;
mod tables;
mod tally;
mod words;

pub use admission::WINDOW_SEQUENCES;
pub use answer::Outbox;
pub use engine::{Mutation, Outcome, Shard, ShardSpec};
pub use hot::{HOT_KEYS_MAX, HotKey};
pub use job::WORKERS_MAX;
pub use room::Room;
pub use table::Upkeep;
pub use tables::TABLES_MAX;
pub use tally::{KINDS_MAX, Tally};
