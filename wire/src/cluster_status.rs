//! The state of a cluster as its coordinator tells it to people and their scripts.
//!
//! Owns the types. Asking for it is left to `control`.

use serde::{Deserialize, Serialize};

use crate::checkpointing::{CheckpointStatus, RestoreStatus};
use crate::ids::{Epoch, ShardId};
use crate::jobs::JobStatus;
use crate::placement::{Chain, Member};

/// The whole state, for people and their scripts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The newest epoch; 0 before the first placement.
    pub epoch: Epoch,
    /// Shards of the cluster.
    pub shards: u16,
    /// Replicas that each shard shall have.
    pub replicas: u8,
    /// Servers that must have applied for the first placement.
    pub servers_min: usize,
    /// Since when this coordinator leads, in ms.
    pub up_ms: u64,
    /// In which term it leads; 0: it is the only one.
    #[serde(default)]
    pub term: u64,
    /// Where the coordinator that leads is reached; none: it is the only one, or nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Who watches.
    pub watchers: usize,
    /// For how long the store has not taken an epoch that is to be recorded, in ms; no server is
    /// replaced before it does.
    pub store_waits_ms: Option<u64>,
    /// What the store said last, if it failed.
    pub store_error: Option<String>,
    /// All servers.
    pub servers: Vec<ServerStatus>,
    /// Shards that are not as they shall be.
    pub troubled: Vec<ChainStatus>,
    /// Who holds each shard, in the order of their numbers.
    #[serde(default)]
    pub chains: Vec<Chain>,
    /// The newest epochs, the newest first.
    pub history: Vec<EpochCause>,
    /// What epochs were for since this coordinator began.
    #[serde(default)]
    pub epochs: EpochCounts,
    /// What the store has done since.
    #[serde(default)]
    pub store: StoreCounts,
    /// Its checkpoints; none: it has no place for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointStatus>,
    /// From what it was restored, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// Training jobs of several hosts: those that go on, and the newest that have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobStatus>,
}

/// Epochs by what they changed; one that changed several things counts for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochCounts {
    /// The first placement.
    pub first: u64,
    /// A server came.
    pub joined: u64,
    /// A server left, as it wanted.
    pub left: u64,
    /// A server was found to be gone.
    pub gone: u64,
    /// A replica was filled.
    pub filled: u64,
    /// Filling one began.
    pub fill_begun: u64,
    /// A replica was dropped whose server is still there.
    pub dropped: u64,
    /// Nobody holds a shard any more.
    pub lost: u64,
}

/// What a store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCounts {
    /// Epochs that it has taken.
    pub appends: u64,
    /// How long that took, all together, failures included, in microseconds.
    pub append_us: u64,
    /// How long the last one took.
    pub last_append_us: u64,
    /// Attempts that failed.
    pub failures: u64,
}

/// A server, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its number, names and memory.
    pub member: Member,
    /// Its cores.
    pub cores: u16,
    /// How it is.
    pub state: ServerState,
    /// Since its last beat, in ms.
    pub beat_ago_ms: u64,
    /// Mean time between its beats, in ms.
    pub beat_gap_ms: f64,
    /// The silence after which it is suspected, in ms.
    pub suspected_after_ms: f64,
    /// The epoch that it acts on.
    pub epoch: Epoch,
    /// Shards that it answers workers for.
    pub heads: usize,
    /// Shards that it holds, those included.
    pub replicas: usize,
    /// Shards that it is being filled with.
    pub filling: usize,
    /// What it holds and does; none: it has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkStatus>,
}

/// What a server holds and does, for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// What peers make it hold, in bytes.
    pub held_bytes: u64,
    /// Rows of all replicas.
    pub rows: u64,
    /// Keys of pushes applied at its heads, a second, lately; none: it has just begun.
    pub keys_pushed_per_s: Option<f64>,
    /// Keys whose values were given out, a second, lately; none: it has just begun.
    pub keys_pulled_per_s: Option<f64>,
    /// Of what is pulled from one of its shards, the part of that one's hottest key; 0: none is
    /// hot.
    pub hottest_ratio: f64,
}

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// It has applied, and is in no placement yet.
    Applied,
    /// It beats.
    Fit,
    /// It beats and gives its shards away.
    Leaving,
    /// The coordinator began a moment ago and has not heard it yet.
    Expected,
    /// It is silent or not there. Only shards that nobody else holds are still its own.
    Away,
    /// It is gone for good.
    Lost,
}

/// A chain that is not as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// Whose.
    pub shard: ShardId,
    /// Who holds it.
    pub chain: Chain,
    /// What is wrong.
    pub state: ChainState,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainState {
    /// A replica is being filled: how far it is, in rows, if the tail has said so.
    Filling {
        /// Rows that were sent, and rows that the shard holds, about.
        rows: Option<(u64, u64)>,
    },
    /// It has fewer replicas than it shall have, and nobody to fill.
    Short,
    /// Everybody who holds it is away.
    Away,
    /// Everybody who held it is gone.
    Lost,
}

/// An epoch and why it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochCause {
    /// Its number.
    pub epoch: Epoch,
    /// Why, for people.
    pub cause: String,
    /// How long ago, in ms; none if an earlier coordinator made it.
    pub ago_ms: Option<u64>,
}
