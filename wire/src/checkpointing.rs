//! Control messages about checkpoints: who records what, how far it is, what people see of it.
//!
//! Owns the messages. How a checkpoint lies in its store is left to `checkpoint`, deciding when one
//! is taken to the coordinator.
//!
//! Invariant: what a server says of its recordings and loads names the checkpoint and the attempt,
//! so that it may be said again, and late.

use serde::{Deserialize, Serialize};

use crate::ids::{Clock, ShardId};

/// Failures that a status lists.
pub const STORE_FAILURES_SHOWN_MAX: usize = 8;

/// The order to record a shard, for a server that holds it and has nobody behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordOrder {
    /// The checkpoint's number. An order of a later one ends the recording of an earlier one.
    pub number: u64,
    /// The cluster's own number.
    pub cluster_id: u64,
    /// Which shard.
    pub shard: ShardId,
    /// How many attempts at this part there were before.
    pub attempt: u32,
    /// The store: a directory that all servers share, or a URL.
    pub place: String,
    /// What the server may write for all its shards, in MiB/s; none: as fast as it goes while no
    /// worker asks for anything, and slowly while one does.
    pub rate_mib_s: Option<u32>,
    /// How long the whole may take, in ms; then it is given up.
    pub limit_ms: u64,
    /// Changes since this checkpoint are enough, for who has recorded it; none: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Whether changes since this one may be wanted later.
    #[serde(default)]
    pub is_base: bool,
}

/// Where the state of a cluster comes from that did not begin empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredFrom {
    /// The store.
    pub place: String,
    /// The checkpoint's number.
    pub number: u64,
}

/// What a server does between a shard and the store of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Which shard.
    pub shard: ShardId,
    /// Which checkpoint.
    pub number: u64,
    /// By the order; 0 of a load.
    pub attempt: u32,
    /// How far it is.
    pub state: StoreState,
}

/// How far a recording or a load is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreState {
    /// It has begun.
    Recording {
        /// Bytes until now.
        bytes: u64,
    },
    /// The shard waits for its cut, or is recorded as it was there.
    Marked {
        /// The slowest worker's clock on this shard when its recording was ordered.
        clock: Clock,
        /// Bytes until now.
        bytes: u64,
    },
    /// The part is on stable storage.
    Recorded(RecordedPart),
    /// There is no part; another attempt may be made.
    NotRecorded {
        /// Why, in a line.
        reason: String,
    },
    /// The shard is being made of its part.
    Loading,
    /// It is there.
    Loaded,
    /// It cannot be: the server has nothing of this shard.
    NotLoaded {
        /// Why, in a line.
        reason: String,
    },
}

/// A part of a checkpoint, as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPart {
    /// Its object's name in the folder of the checkpoint.
    pub object: String,
    /// Its length.
    pub bytes: u64,
    /// Its blocks.
    pub blocks: u64,
    /// Its messages.
    pub messages: u64,
    /// Root over its sums, in hexadecimal digits.
    pub root: String,
    /// Rows of the shard at its end.
    pub rows: u64,
    /// Operations that the shard had applied at its end.
    pub position: u64,
    /// By table: its name and the name of its rule.
    pub tables: Vec<(String, String)>,
    /// The checkpoint since which it has the changes; none: it has everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// The order of its rows, if it is known: see `ShardSpec` of the crate `shard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What people see of a cluster's checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointStatus {
    /// The store.
    pub place: String,
    /// The newest one that is whole.
    pub last: Option<CheckpointTaken>,
    /// The one that is being taken.
    pub under_way: Option<CheckpointUnderWay>,
    /// How many this coordinator has begun and brought to an end, well or not.
    pub ended: u64,
    /// Why the last of those failed, if it did.
    pub failure: Option<String>,
}

/// A checkpoint that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointTaken {
    /// Its number.
    pub number: u64,
    /// Bytes of its parts.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// The clock at which all shards are cut; none: each one where it stood.
    pub clock: Option<Clock>,
    /// Since it was published, in ms.
    pub ago_ms: u64,
    /// How long it took, in ms; none if an earlier coordinator took it.
    pub took_ms: Option<u64>,
}

/// A checkpoint that is being taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointUnderWay {
    /// Its number, once it has one.
    pub number: Option<u64>,
    /// Parts that have all rows.
    pub parts_marked: usize,
    /// Parts that are on stable storage.
    pub parts_done: usize,
    /// Parts that there will be.
    pub parts: usize,
    /// Bytes until now.
    pub bytes: u64,
    /// Since it was begun, in ms.
    pub since_ms: u64,
}

/// What people see of a cluster that did not begin empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreStatus {
    /// From where.
    pub from: RestoredFrom,
    /// Replicas that are still being made.
    pub loading: usize,
    /// Replicas that could not be made, a line each, at most [`STORE_FAILURES_SHOWN_MAX`].
    pub failed: Vec<String>,
}
