//! The client side of the parameter server: split by shard, tickets, exactly-once pushes, retry.
//!
//! Owns the [`Session`]: the imperative interface under the learner runtime. Leaves moving bytes
//! to `transport`, their layout to `wire`, and what a push means to the shard's rule.
//!
//! Invariant: a request keeps its number and its content until it is answered, so that it may be
//! sent again at any time and the shard applies it once.
#![forbid(unsafe_code)]

mod call;
mod connect;
mod error;
mod link;
mod merge;
mod port;
mod pull;
mod request;
mod rows;
mod session;
mod split;
mod turn;

pub use call::ScanPage;
pub use connect::{ConnectError, ConnectSpec, Place, PlaceError, connect, ring_bytes};
pub use error::{Asked, Awaited, WorkerError};
pub use merge::Merger;
pub use pull::{PullTicket, Values};
pub use session::{Counts, Session, SessionSpec, Then, Timeouts};
pub use split::Split;
pub use wire::{
    Clock, Epoch, Incarnation, JobId, Join, ScanCursor, ShardId, Staleness, TableId, TableSize,
    TableSpec, Time, WorkerId,
};
