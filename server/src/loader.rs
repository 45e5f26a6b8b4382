//! Loaders: threads that make shards of the parts of a checkpoint.
//!
//! Owns reading a part into a shard, and who hears of it. What a message does is left to
//! `shard::chain`, checking bytes to `checkpoint`.
//!
//! Invariant: a shard that is handed to its core was read whole, every sum checked. Until then the
//! server answers nobody for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use checkpoint::{Broken, Checkpoint, CheckpointNumber, Options, Store, StoreError};
use shard::ShardSpec;
use shard::chain::{RestoreError, Restored, Restoring};
use wire::{RestoredFrom, ShardId, StoreReport, StoreState};

use crate::pinning::{Pinning, pin};
use crate::report::Report;

/// How often a part is read from its start while the store does not answer as it should.
const TRIES: u32 = 3;

/// A shard that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Nobody wants it any more.
    pub(crate) is_cancelled: Arc<AtomicBool>,
}

/// What a loader's thread works with.
pub(crate) struct Loader {
    pub(crate) from: RestoredFrom,
    /// Shards of the cluster.
    pub(crate) shards: u16,
    pub(crate) options: Options,
    pub(crate) pinning: Pinning,
    /// The core whose shards these are, and the shards with what each is made of.
    pub(crate) core: usize,
    pub(crate) wanted: Vec<(ShardId, ShardSpec, Load)>,
    pub(crate) report: SyncSender<Report>,
}

/// Why there is no shard.
#[derive(Debug)]
enum NotLoaded {
    Store(StoreError),
    Broken(Broken),
    /// The checkpoint is of a cluster with other shards.
    Shards {
        theirs: u16,
        ours: u16,
        place: String,
        number: CheckpointNumber,
    },
    /// The part says what cannot be done here.
    Restore {
        object: String,
        block: u64,
        message: u64,
        error: RestoreError,
    },
    Cancelled,
}

impl Loader {
    /// Makes all shards, one after another. `done` has each that is whole.
    pub(crate) fn run(mut self, mut done: impl FnMut(ShardId, Restored)) {
        if let Pinning::Pinned { first } = self.pinning {
            pin(first + self.core); // Where the shard's memory is to lie.
        }
        for (shard, spec, load) in std::mem::take(&mut self.wanted) {
            self.tell(shard, StoreState::Loading);
            let begun = Instant::now();
            match self.load_again(shard, &spec, &load) {
                Ok((restored, bytes)) => {
                    let seconds = begun.elapsed().as_secs_f64();
                    tracing::info!(%shard, bytes, seconds, "a shard is restored");
                    done(shard, restored);
                    self.tell(shard, StoreState::Loaded);
                }
                Err(NotLoaded::Cancelled) => {}
                Err(why) => {
                    tracing::error!(%shard, %why, "a shard is not restored");
                    self.tell(shard, StoreState::NotLoaded { reason: why.to_string() });
                }
            }
        }
    }

    fn tell(&self, shard: ShardId, state: StoreState) {
        let (number, attempt) = (self.from.number, 0);
        let _ = self.report.send(Report::Stored(StoreReport { shard, number, attempt, state }));
    }

    fn load_again(
        &self,
        shard: ShardId,
        spec: &ShardSpec,
        load: &Load,
    ) -> Result<(Restored, u64), NotLoaded> {
        let mut tries = 1;
        loop {
            match self.load(shard, spec, load) {
                Err(NotLoaded::Broken(Broken::Store(error))) if tries < TRIES => {
                    tracing::warn!(%shard, %error, "a part is read again");
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Makes a shard of its part.
    fn load(
        &self,
        shard: ShardId,
        spec: &ShardSpec,
        load: &Load,
    ) -> Result<(Restored, u64), NotLoaded> {
        let store = Store::open(&self.from.place, &self.options).map_err(NotLoaded::Store)?;
        let number = CheckpointNumber::new(self.from.number);
        let checkpoint = store.checkpoint(number, None).map_err(NotLoaded::Broken)?;
        let (theirs, ours) = (checkpoint.manifest().shards, self.shards);
        if theirs != ours {
            let place = self.from.place.clone();
            return Err(NotLoaded::Shards { theirs, ours, place, number });
        }
        let mut reader = checkpoint.part(shard).map_err(NotLoaded::Broken)?;
        let mut restoring = Restoring::new(spec.clone(), checkpoint.manifest().clock);
        let (mut bytes, mut blocks, mut messages) = (0, 0, 0);
        let at = |block, message, error| {
            let object = object(&checkpoint, &self.from.place, shard);
            NotLoaded::Restore { object, block, message, error }
        };
        while let Some(block) = reader.next().map_err(NotLoaded::Broken)? {
            if load.is_cancelled.load(Ordering::Relaxed) {
                return Err(NotLoaded::Cancelled);
            }
            for message in block.messages() {
                restoring.take(message).map_err(|error| at(blocks, messages, error))?;
                messages += 1;
            }
            bytes += block.payload_bytes() as u64;
            blocks += 1;
        }
        let restored = restoring.finish().map_err(|error| at(blocks, messages, error))?;
        Ok((restored, bytes))
    }
}

fn object(checkpoint: &Checkpoint, place: &str, shard: ShardId) -> String {
    let manifest = checkpoint.manifest();
    let number = manifest.number.get();
    format!("{place}/ckpt-{number:010}/{}", manifest.parts[shard.index()].object)
}

impl fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotLoaded::Store(error) => error.fmt(f),
            NotLoaded::Broken(error) => error.fmt(f),
            NotLoaded::Shards { theirs, ours, place, number } => {
                write!(f, "{place}: {number} has {theirs} shards, this cluster {ours}")
            }
            NotLoaded::Restore { object, block, message, error } => {
                write!(f, "{object}: block {block}, message {message}: {error}")
            }
            NotLoaded::Cancelled => f.write_str("nobody wants it any more"),
        }
    }
}
