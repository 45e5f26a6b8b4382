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

use checkpoint::{Broken, CheckpointNumber, Manifest, Options, PartReader, Store, StoreError};
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
        let line = checkpoint.line(shard);
        // Rows come in the order of the lines that they go to, which the cache likes.
        let seed = line[0].parts[shard.index()].seed.unwrap_or(spec.seed);
        let mut restoring = Restoring::new(ShardSpec { seed, ..spec.clone() }, line[0].clock);
        let mut bytes = 0;
        for (number, manifest) in line.iter().enumerate() {
            let object = || object(manifest, &self.from.place, shard);
            if number > 0 {
                let (block, message) = (0, 0);
                restoring.go_on(manifest.clock).map_err(|error| NotLoaded::Restore {
                    object: object(),
                    block,
                    message,
                    error,
                })?;
            }
            let reader = checkpoint.part_of(manifest, shard).map_err(NotLoaded::Broken)?;
            bytes += read(reader, &mut restoring, object, load)?;
        }
        let last = line[line.len() - 1];
        let restored = restoring.finish().map_err(|error| NotLoaded::Restore {
            object: object(last, &self.from.place, shard),
            block: last.parts[shard.index()].blocks,
            message: last.parts[shard.index()].messages,
            error,
        })?;
        Ok((restored, bytes))
    }
}

/// Does what a part says. Its bytes.
fn read(
    mut reader: PartReader,
    restoring: &mut Restoring,
    object: impl Fn() -> String,
    load: &Load,
) -> Result<u64, NotLoaded> {
    let (mut bytes, mut block, mut message) = (0, 0, 0);
    while let Some(next) = reader.next().map_err(NotLoaded::Broken)? {
        if load.is_cancelled.load(Ordering::Relaxed) {
            return Err(NotLoaded::Cancelled);
        }
        for text in next.messages() {
            restoring.take(text).map_err(|error| NotLoaded::Restore {
                object: object(),
                block,
                message,
                error,
            })?;
            message += 1;
        }
        bytes += next.payload_bytes() as u64;
        block += 1;
    }
    Ok(bytes)
}

fn object(manifest: &Manifest, place: &str, shard: ShardId) -> String {
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
