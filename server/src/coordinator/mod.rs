//! The coordinator: who is in the cluster, and which servers hold which shard.
//!
//! Owns membership and placement. Holding rows, copying them and answering workers is left to the
//! servers, which need no coordinator for it: while it is away, only membership stands still.
//!
//! How it is cut: `service` starts it, `rounds` has the sockets and the clock and, while this
//! coordinator leads, hands events to `machine`, which is pure; `lead` has what works for it, and
//! `standby` what is said while another one leads. `elector` finds out who does, by `contest`.
//! The machine asks `census` who is there (each by a `detector`), `gossip` what servers say about
//! chains, and `assign` who shall hold what; `conduct` has checkpoints taken, by `checkpointer`,
//! and `restoring` knows what a cluster began from. `jobs` deals batches to the hosts of training
//! jobs.
//!
//! Invariant: whoever is told of a placement is told of one that the store holds; the store takes
//! one writer.

mod assign;
mod cause;
mod census;
mod checkpointer;
mod claims;
mod claims_etcd;
mod conduct;
mod connection;
mod contest;
mod detector;
mod elector;
mod event;
mod first;
mod gateway;
mod gossip;
mod helpers;
mod jobs;
mod lead;
mod ledger;
mod links;
mod machine;
mod orders;
mod restoring;
mod rounds;
mod service;
mod spec;
mod standby;
mod store;
mod store_etcd;
mod store_redb;
#[cfg(test)]
mod tests;
mod view;
mod work;

pub use assign::{FILLS_MAX_PER_SERVER, Move, Spread};
pub use census::{GRACE, LOST_AFTER, Probe};
pub use checkpointer::{CheckpointSpec, Hands, Parts, StoreNews, StoreTask};
pub use claims::{Claim, Claims};
pub use claims_etcd::EtcdClaims;
pub use conduct::{
    CHECKPOINT_ATTEMPTS_MAX, CHECKPOINT_MAX, CUT_PATIENCE, PART_ATTEMPTS_MAX, PART_PATIENCE,
};
pub use contest::{LET_GO_AFTER, RENEW_EVERY, SURE_FOR, TAKE_OVER_AFTER};
pub use detector::{BEAT_EVERY, PATIENCE_MAX, PATIENCE_MIN};
pub use event::{Action, ConnectionId, Defect, Event};
pub use gossip::LINK_PATIENCE;
pub use helpers::{APPEND_AGAIN_AFTER, PROBE_MAX};
pub use jobs::{HOST_PATIENCE, JobRecord, JobWrite};
pub use machine::Machine;
pub use rounds::{CONNECTIONS_MAX, TICK_EVERY};
pub use service::{CoordinateError, Coordinator, Duty, Stored};
pub use spec::{ClusterSpec, SpecError};
pub use store::{Entry, HISTORY_MAX, Orders, Store, StoreError};
pub use store_etcd::EtcdStore;
pub use store_redb::{RedbStore, STORE_FILE};
