//! Writing one checkpoint: plans for its parts, and the manifest that makes it one.
//!
//! Owns the order of publishing. Writing parts is left to `part_writer`, also in other processes.
//!
//! Invariant: a manifest is made only where there is none, once each part that it names is there in
//! its length, and no newer checkpoint is. Of two writers one at most publishes a number.

use wire::{Clock, Epoch, ShardId, StoredValues};

use crate::backend::{Folder, New};
use crate::check::{Odd, presence};
use crate::error::{StoreError, WriteError};
use crate::layout::{CheckpointNumber, Object};
use crate::manifest::{
    Cluster, Content, FORMAT, FORMAT_CHANGES, FORMAT_FULL, MANIFEST_BYTES_MAX, Manifest, PartEntry,
    TableNote,
};
use crate::part_writer::PartPlan;
use crate::retain::bar;
use crate::store::{Store, has_manifest};

/// A checkpoint that is being written. One that is dropped is unfinished for ever, and is removed
/// once a newer one is published.
pub struct Writer {
    store: Store,
    number: CheckpointNumber,
    cluster: Cluster,
    /// By shard: how many plans were made.
    attempts: Vec<u32>,
}

/// What is said of a checkpoint when it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The cluster's epoch.
    pub epoch: Epoch,
    /// The job's slowest clock, if it counts clocks.
    pub clock: Option<Clock>,
    /// Seconds since 1970, by the caller's clock.
    pub created_s: u64,
    /// The tables.
    pub tables: Vec<TableNote>,
}

impl Writer {
    pub(crate) fn new(
        store: Store,
        number: CheckpointNumber,
        cluster: Cluster,
        shards: u16,
    ) -> Writer {
        Writer { store, number, cluster, attempts: vec![0; usize::from(shards)] }
    }

    /// Its number.
    pub fn number(&self) -> CheckpointNumber {
        self.number
    }

    /// Plans a part whose numbers are as they are, each time under a new name. For
    /// [`Store::write_part`], here or in another process.
    ///
    /// - Panics: the cluster has no such shard.
    pub fn plan(&mut self, shard: ShardId) -> PartPlan {
        let attempts = &mut self.attempts[shard.index()];
        let attempt = *attempts;
        *attempts += 1;
        let (number, cluster, values) = (self.number, self.cluster.id, StoredValues::F32);
        PartPlan { number, cluster, shard, attempt, values }
    }

    /// Makes it a checkpoint: writes the manifest, if all parts are there and it is the newest.
    ///
    /// - Returns the manifest; from now on the checkpoint is whole, whatever happens.
    /// - Errors: parts are missing, another writer was faster, or the store failed. After a
    ///   [`WriteError::Store`] it may be there all the same, whole: the next one gets another
    ///   number.
    pub fn publish(self, parts: Vec<PartEntry>, facts: Facts) -> Result<Manifest, WriteError> {
        let manifest = self.manifest(parts, facts)?;
        let backend = &self.store.backend;
        self.check_newest()?;
        self.check_parts(&manifest)?;
        let object = Object::manifest(self.number);
        let text = manifest.to_text();
        if backend.put_new(&object, text.as_bytes())? == New::Exists {
            // A request that was repeated finds what it made the first time.
            let found = backend.get(&object, MANIFEST_BYTES_MAX)?;
            if found != text.as_bytes() {
                return Err(WriteError::Taken { number: self.number });
            }
        }
        // A newer writer that took this one for dead has barred this number before it removed a
        // part. Had it taken the bar away again before the manifest was made, parts are gone now.
        if let Err(error) = self.check_parts(&manifest) {
            backend.remove(&object)?;
            return Err(error);
        }
        Ok(manifest)
    }

    /// Gives it up and removes what was written. Its number is not given again.
    ///
    /// - Errors: the store failed; what is left is removed once a newer one is published.
    pub fn abandon(self) -> Result<(), StoreError> {
        bar(&*self.store.backend, self.number).map(drop)
    }

    fn manifest(&self, mut parts: Vec<PartEntry>, facts: Facts) -> Result<Manifest, WriteError> {
        let shards = self.attempts.len() as u16;
        parts.sort_by_key(|part| part.shard);
        let count = |shard| parts.iter().filter(|part| part.shard == shard).count();
        let own = (0..shards).map(ShardId::new);
        let odd = own
            .chain(parts.iter().map(|part| part.shard))
            .find(|&shard| shard.index() >= self.attempts.len() || count(shard) != 1);
        if let Some(shard) = odd {
            return Err(WriteError::Shards { shards, shard, parts: count(shard) });
        }
        let base = parts.iter().filter_map(|part| part.base).max();
        let (format, content) = match base {
            None => (FORMAT_FULL, Content::Full),
            Some(base) => (FORMAT_CHANGES, Content::ChangesSince(base)),
        };
        let is_exact = parts.iter().all(|part| part.values.is_exact());
        let format = if is_exact { format } else { FORMAT };
        Ok(Manifest {
            format,
            gradwire: env!("CARGO_PKG_VERSION").to_owned(),
            number: self.number,
            cluster: self.cluster.clone(),
            content,
            epoch: facts.epoch,
            clock: facts.clock,
            created_s: facts.created_s,
            shards,
            parts,
            tables: facts.tables,
        })
    }

    fn check_newest(&self) -> Result<(), WriteError> {
        let folders = self.store.backend.list()?;
        let newer = folders.iter().rev().take_while(|folder| folder.number > self.number);
        match newer.filter(|folder| has_manifest(folder)).last() {
            Some(folder) => {
                let (number, newer) = (self.number, folder.number);
                Err(WriteError::Superseded { number, newer })
            }
            None => Ok(()),
        }
    }

    fn check_parts(&self, manifest: &Manifest) -> Result<(), WriteError> {
        let files = self.store.backend.files(self.number)?;
        let folder = Folder { number: self.number, files };
        let object = |part| self.store.backend.name(&manifest.object(part));
        presence(&folder, manifest).map_err(|Odd { part, bytes }| WriteError::PartGone {
            object: object(part),
            promised: part.bytes,
            bytes,
        })
    }
}
