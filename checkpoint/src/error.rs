//! Why a store fails, why a checkpoint is broken, why one cannot be written.
//!
//! Owns the errors and their sentences. Each names its object, and the byte where that is known.

use std::fmt;
use std::time::Duration;

use wire::ShardId;

use crate::block::BLOCK_BYTES_MAX;
use crate::layout::CheckpointNumber;
use crate::manifest::{ClusterId, FORMAT};
use crate::retain::KEEP_MIN;
use crate::sum::Sum;

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The place is no directory and no URL of a store.
    Place {
        /// As it was given.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// This gradwire was built without stores of this kind.
    NotBuilt {
        /// As it was given.
        place: String,
        /// The feature to build with.
        feature: &'static str,
    },
    /// The disk or the store said no. What was written is not to be trusted.
    Failed {
        /// The object, with its place.
        object: String,
        /// What was asked for.
        doing: &'static str,
        /// How many bytes had gone well, for reads and writes.
        offset: Option<u64>,
        /// Its words.
        why: String,
    },
    /// There is no room left. Nothing that was there before was touched.
    Full {
        /// The object, with its place.
        object: String,
        /// How many bytes had gone well.
        offset: u64,
    },
    /// No answer in time. Whether it happened is not known.
    TimedOut {
        /// The object, with its place.
        object: String,
        /// What was asked for.
        doing: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// There is no such object.
    Absent {
        /// The object, with its place.
        object: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Place { place, why } => write!(f, "'{place}' is no store: {why}"),
            StoreError::NotBuilt { place, feature } => {
                write!(f, "'{place}': this gradwire was built without the feature `{feature}`")
            }
            StoreError::Failed { object, doing, offset: Some(offset), why } => {
                write!(f, "{object}: {doing} at byte {offset}: {why}")
            }
            StoreError::Failed { object, doing, offset: None, why } => {
                write!(f, "{object}: {doing}: {why}")
            }
            StoreError::Full { object, offset } => {
                write!(f, "{object}: no space left after {offset} bytes")
            }
            StoreError::TimedOut { object, doing, limit } => {
                write!(f, "{object}: {doing}: no answer in {limit:?}")
            }
            StoreError::Absent { object } => write!(f, "{object}: not found"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why a checkpoint cannot be used. Nothing of it was handed out beyond the blocks before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The store could not be read there.
    Store(StoreError),
    /// It has no manifest: it is being written, or its writer died.
    Unfinished {
        /// The manifest that is not there.
        object: String,
    },
    /// Its writer died and its parts are being removed.
    Abandoned {
        /// The manifest, which says so.
        object: String,
    },
    /// Bytes are not what they were when they were written.
    Damaged {
        /// The object, with its place.
        object: String,
        /// Where the checked bytes begin.
        offset: u64,
        /// How many they are.
        bytes: u64,
        /// By the checksum that stands there.
        promised: Sum,
        /// Computed.
        computed: Sum,
    },
    /// Bytes that cannot have been written so.
    Shape {
        /// The object, with its place.
        object: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// It has the changes since another one, which is needed too and cannot be used.
    Base {
        /// The manifest that names it.
        object: String,
        /// The other one.
        base: CheckpointNumber,
        /// What is wrong with it.
        why: Box<Broken>,
    },
    /// A newer gradwire wrote it.
    Newer {
        /// The object, with its place.
        object: String,
        /// Its format.
        format: u32,
    },
    /// A number that is not this checkpoint's: a file was moved or copied here.
    OtherNumber {
        /// The object, with its place.
        object: String,
        /// By the name of its folder.
        expected: CheckpointNumber,
        /// By its bytes.
        found: CheckpointNumber,
    },
    /// Another shard's part: two files were swapped.
    OtherShard {
        /// The object, with its place.
        object: String,
        /// By the manifest.
        expected: ShardId,
        /// By its bytes.
        found: ShardId,
    },
    /// Another cluster's checkpoint.
    OtherCluster {
        /// The object, with its place.
        object: String,
        /// The cluster that asks, or the manifest's.
        expected: ClusterId,
        /// By its bytes.
        found: ClusterId,
    },
    /// A part that the manifest names is not there.
    PartMissing {
        /// The object, with its place.
        object: String,
    },
    /// A part has another length than by the manifest: it was cut off, or replaced.
    PartLength {
        /// The object, with its place.
        object: String,
        /// By the manifest.
        promised: u64,
        /// In fact.
        bytes: u64,
    },
    /// A whole part, but not the one that the manifest names.
    OtherPart {
        /// The object, with its place.
        object: String,
        /// Root over block sums by the manifest.
        promised: Sum,
        /// Computed.
        computed: Sum,
    },
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Broken {
        Broken::Store(error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Store(error) => error.fmt(f),
            Broken::Unfinished { object } => {
                write!(f, "{object}: not found: the checkpoint was not finished")
            }
            Broken::Abandoned { object } => {
                write!(f, "{object}: the checkpoint was given up and is being removed")
            }
            Broken::Damaged { object, offset, bytes, promised, computed } => write!(
                f,
                "{object}: damaged in the {bytes} bytes from byte {offset}: checksum {promised}, \
                 computed {computed}"
            ),
            Broken::Shape { object, offset, what } => {
                write!(f, "{object}: damaged at byte {offset}: {what}")
            }
            Broken::Base { object, base, why } => {
                write!(f, "{object}: needs {base}, of which it has the changes: {why}")
            }
            Broken::Newer { object, format } => write!(
                f,
                "{object}: format {format} at byte 0, ours {FORMAT}: written by a newer gradwire"
            ),
            Broken::OtherNumber { object, expected, found } => {
                write!(f, "{object}: at byte 0 it says {found}, its place {expected}")
            }
            Broken::OtherShard { object, expected, found } => {
                write!(f, "{object}: at byte 0 it says {found}, the manifest {expected}")
            }
            Broken::OtherCluster { object, expected, found } => {
                write!(f, "{object}: at byte 0 it says {found}, expected {expected}")
            }
            Broken::PartMissing { object } => {
                write!(f, "{object}: not found, though the manifest names it")
            }
            Broken::PartLength { object, promised, bytes } => {
                write!(f, "{object}: ends at byte {bytes}, by the manifest at {promised}")
            }
            Broken::OtherPart { object, promised, computed } => write!(
                f,
                "{object}: from byte 0 not the part that the manifest names: root {computed}, \
                 expected {promised}"
            ),
        }
    }
}

impl std::error::Error for Broken {}

/// Why a checkpoint was not written or not published. The ones before it are as they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The store failed. A part is abandoned: it is begun again by a new plan.
    Store(StoreError),
    /// A message that is longer than any may be. The part goes on without it.
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// This part failed before and takes nothing more.
    Ended {
        /// The object, with its place.
        object: String,
    },
    /// Parts are not one for each shard.
    Shards {
        /// Shards of the cluster.
        shards: u16,
        /// The first shard that has no part, or more than one, or is none of the cluster's.
        shard: ShardId,
        /// How many parts it has.
        parts: usize,
    },
    /// A part is not there in its length: it was removed, or was never finished.
    PartGone {
        /// The object, with its place.
        object: String,
        /// By who wrote it.
        promised: u64,
        /// In fact, if it is there.
        bytes: Option<u64>,
    },
    /// Another writer has published a newer one: this one is of no use any more.
    Superseded {
        /// This one.
        number: CheckpointNumber,
        /// The newer one.
        newer: CheckpointNumber,
    },
    /// There is another manifest of this number.
    Taken {
        /// This one.
        number: CheckpointNumber,
    },
    /// Other writers took each number that was tried for.
    Crowded {
        /// How many were tried.
        tried: usize,
    },
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> WriteError {
        WriteError::Store(error)
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Store(error) => error.fmt(f),
            WriteError::TooLong { bytes } => {
                write!(f, "a message of {bytes} bytes, a block has {BLOCK_BYTES_MAX} at most")
            }
            WriteError::Ended { object } => write!(f, "{object}: failed before, begin it again"),
            WriteError::Shards { shards, shard, parts } => {
                write!(f, "{shard} has {parts} parts, expected one for each of {shards} shards")
            }
            WriteError::PartGone { object, promised, bytes: Some(bytes) } => {
                write!(f, "{object}: {bytes} bytes long, {promised} were written")
            }
            WriteError::PartGone { object, promised, bytes: None } => {
                write!(f, "{object}: not found, {promised} bytes were written")
            }
            WriteError::Superseded { number, newer } => {
                write!(f, "{number} is not published: {newer} is there already")
            }
            WriteError::Taken { number } => {
                write!(f, "{number} is not published: it has another manifest already")
            }
            WriteError::Crowded { tried } => {
                write!(f, "other writers took each of the {tried} numbers that were tried for")
            }
        }
    }
}

impl std::error::Error for WriteError {}

/// Why old checkpoints were not removed, or not all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetainError {
    /// The store failed; what is left is removed the next time.
    Store(StoreError),
    /// So few are not kept: one broken file must not be the end.
    KeepTooFew {
        /// As asked.
        keep: usize,
    },
}

impl From<StoreError> for RetainError {
    fn from(error: StoreError) -> RetainError {
        RetainError::Store(error)
    }
}

impl fmt::Display for RetainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RetainError::Store(error) => error.fmt(f),
            RetainError::KeepTooFew { keep } => {
                write!(f, "{keep} checkpoints to be kept, at least {KEEP_MIN} must be")
            }
        }
    }
}

impl std::error::Error for RetainError {}
