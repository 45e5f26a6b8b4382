//! The client side of the parameter server: split by shard, tickets, exactly-once pushes, retry.
//!
//! Owns the [`Session`]: the imperative interface under the learner runtime. Leaves moving bytes
//! to `transport`, their layout to `wire`, and what a push means to the shard's rule.
//!
//! Invariant: a request keeps its number and its content until it is answered, so that it may be
//! sent again at any time and the shard applies it once.
//!
//! One step of a worker:
//!
//! ```no_run
//! # use std::{rc::Rc, time::Duration};
//! # use gradwire_worker::{Session, TableId, Then, WorkerError};
//! fn step(session: &mut Session, table: TableId, keys: &[u64]) -> Result<(), WorkerError> {
//!     let deadline = session.now() + Duration::from_secs(60);
//!     let split = session.split(keys)?; // By shard; serves the pull and the push.
//!     let ticket = session.pull(table, &split, 8)?; // Several may be under way.
//!     let values = session.wait_pull(ticket, deadline)?; // `[keys, 8]`, often in place.
//!     let mut deltas = session.deltas_buffer(values.len());
//!     let gradients = Rc::get_mut(&mut deltas).expect("a fresh buffer is nobody else's");
//!     gradients.copy_from_slice(&values);
//!     session.recycle(values);
//!     session.push(table, &split, deltas, 8, Then::Tick)?; // Finishes the clock as well.
//!     session.wait_pushes(8, deadline) // At most 8 messages stay unanswered.
//! }
//! ```
#![forbid(unsafe_code)]

mod call;
mod cluster;
mod codec;
mod connect;
mod counts;
mod error;
mod fits;
mod kept;
mod link;
mod lives;
mod merge;
mod port;
mod pull;
mod replicas;
mod request;
mod routes;
mod rows;
mod send;
mod session;
mod split;
mod turn;
mod watch;

pub use call::ScanPage;
pub use cluster::{ClusterError, ClusterSpec, connect_cluster};
pub use codec::{CodecChoice, CodecError, KeyCodec, Selection, TableCodec, ValueCodec};
pub use connect::{ConnectError, ConnectSpec, Dial, Place, PlaceError, Servers, connect};
pub use counts::Counts;
pub use error::{Asked, Awaited, WorkerError};
pub use merge::Merger;
pub use pull::{PullTicket, Values};
pub use replicas::{Reading, RouteTo};
pub use routes::{CHAIN_GIVE_UP_MIN, Route, Routes};
pub use session::{Session, SessionSpec, Then, Timeouts};
pub use split::Split;
pub use watch::{Watch, WatchError};
pub use wire::{
    Acknowledge, Clock, Epoch, Expiry, Incarnation, JobId, Join, KeyAdmission, Refusal, RowLife,
    ScanCursor, ShardId, Staleness, TableId, TableSize, TableSpec, Time, WorkerId,
};
