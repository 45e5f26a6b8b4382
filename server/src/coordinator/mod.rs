//! The coordinator: who is in the cluster, and which servers hold which shard.
//!
//! Owns membership and placement. Holding rows, copying them and answering workers is left to the
//! servers, which need no coordinator for it: while it is away, only membership stands still.
//!
//! How it is cut: `service` has the sockets, the clock and the store, and hands events to
//! `machine`, which is pure. The machine asks `census` who is there (each by a `detector`),
//! `gossip` what servers say about chains, and `assign` who shall hold what; `conduct` has
//! checkpoints taken, by `checkpointer`, and `restoring` knows what a cluster began from.
//!
//! Invariant: whoever is told of a placement is told of one that the store holds; the store takes
//! one writer.

mod assign;
mod cause;
mod census;
mod checkpointer;
mod conduct;
mod connection;
mod detector;
mod event;
mod first;
mod gateway;
mod gossip;
mod helpers;
mod ledger;
mod machine;
mod orders;
mod restoring;
mod service;
mod spec;
mod store;
mod store_etcd;
mod store_redb;
#[cfg(test)]
mod tests;
mod view;

pub use assign::{FILLS_MAX_PER_SERVER, Spread};
pub use census::{GRACE, LOST_AFTER, Probe};
pub use checkpointer::{CheckpointSpec, Hands, Parts, StoreNews, StoreTask};
pub use conduct::{
    CHECKPOINT_ATTEMPTS_MAX, CHECKPOINT_MAX, CUT_PATIENCE, PART_ATTEMPTS_MAX, PART_PATIENCE,
};
pub use detector::{BEAT_EVERY, PATIENCE_MAX, PATIENCE_MIN};
pub use event::{Action, ConnectionId, Defect, Event};
pub use gossip::LINK_PATIENCE;
pub use helpers::{APPEND_AGAIN_AFTER, PROBE_MAX};
pub use machine::Machine;
pub use service::{CONNECTIONS_MAX, CoordinateError, Coordinator, Stored, TICK_EVERY};
pub use spec::{ClusterSpec, SpecError};
pub use store::{Entry, HISTORY_MAX, Store, StoreError};
pub use store_etcd::EtcdStore;
pub use store_redb::{RedbStore, STORE_FILE};
