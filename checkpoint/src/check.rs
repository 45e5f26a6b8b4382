//! Opening and checking: which checkpoint is the newest good one.
//!
//! Owns what "good" means, in two depths. Reading a part and checking its bytes is left to
//! `part_reader`.

use std::fmt;

use wire::ShardId;

use crate::backend::{Backend, Folder};
use crate::error::{Broken, StoreError};
use crate::layout::{CheckpointNumber, Object};
use crate::manifest::{ClusterId, LINE_MAX, MANIFEST_BYTES_MAX, Manifest, PartEntry};
use crate::part_reader::PartReader;
use crate::store::{Store, has_manifest};

/// How much of a checkpoint is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The manifest, and which parts there are, in which lengths.
    Lengths,
    /// Each byte.
    Bytes,
}

/// A published checkpoint: its manifest holds, its parts are there in their lengths.
pub struct Checkpoint {
    store: Store,
    manifest: Manifest,
    /// Those that it has the changes since, the one that has everything first.
    bases: Vec<Manifest>,
}

/// What looking for the newest good checkpoint has found.
#[derive(Debug)]
pub struct Found {
    /// The newest good one; none if nothing was ever published here.
    pub checkpoint: Option<Checkpoint>,
    /// The newer ones that are broken, the newest first. Those that are unfinished are not named.
    pub passed_over: Vec<PassedOver>,
}

/// A checkpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Its number.
    pub number: CheckpointNumber,
    /// What is wrong with it.
    pub why: Broken,
}

/// Why there is no newest good checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewestError {
    /// The store cannot be listed, or does not answer.
    Store(StoreError),
    /// There were checkpoints, and all are broken. To begin anew would be to lose them: a person
    /// decides.
    AllBroken(Vec<PassedOver>),
}

impl Store {
    /// Opens a published checkpoint.
    ///
    /// - `cluster`: whose it must be, if that is known.
    /// - Errors: it is not there, broken as far as can be told without reading its parts, or
    ///   another cluster's.
    pub fn checkpoint(
        &self,
        number: CheckpointNumber,
        cluster: Option<ClusterId>,
    ) -> Result<Checkpoint, Broken> {
        let files = self.backend.files(number)?;
        self.checkpoint_in(&Folder { number, files }, cluster)
    }

    fn checkpoint_in(
        &self,
        folder: &Folder,
        cluster: Option<ClusterId>,
    ) -> Result<Checkpoint, Broken> {
        let manifest = read_manifest(&*self.backend, folder, cluster)?;
        let bases = self.bases(&manifest)?;
        Ok(Checkpoint { store: self.clone(), manifest, bases })
    }

    /// What has to be read before a checkpoint, the one that has everything first.
    ///
    /// - Errors: one of them is not there or broken, as far as can be told without reading parts.
    pub(crate) fn bases(&self, manifest: &Manifest) -> Result<Vec<Manifest>, Broken> {
        let object = self.backend.name(&Object::manifest(manifest.number));
        let (mut bases, mut next) = (Vec::new(), manifest.base());
        while let Some(base) = next {
            if bases.len() + 1 == LINE_MAX as usize {
                let what = "it stands for too many others";
                return Err(Broken::Shape { object, offset: 0, what });
            }
            let found = self.backend.files(base).map_err(Broken::Store).and_then(|files| {
                let folder = Folder { number: base, files };
                read_manifest(&*self.backend, &folder, Some(manifest.cluster.id))
            });
            let wrong = |why| Broken::Base { object: object.clone(), base, why: Box::new(why) };
            let found = found.map_err(wrong)?;
            if found.shards != manifest.shards {
                let what = "it has changes since one of other shards";
                return Err(Broken::Shape { object, offset: 0, what });
            }
            next = found.base();
            bases.push(found);
        }
        bases.reverse();
        Ok(bases)
    }

    /// The newest checkpoint that is good, by `depth`, and what is wrong with the newer ones.
    ///
    /// - `cluster`: whose it must be, if that is known.
    /// - Errors: the store does not answer, or there are checkpoints and none is good.
    pub fn newest_good(
        &self,
        cluster: Option<ClusterId>,
        depth: Depth,
    ) -> Result<Found, NewestError> {
        let folders = self.backend.list().map_err(NewestError::Store)?;
        let mut passed_over = Vec::new();
        for folder in folders.iter().rev() {
            let checked = self.checkpoint_in(folder, cluster).and_then(|checkpoint| {
                if depth == Depth::Bytes {
                    checkpoint.check()?;
                }
                Ok(checkpoint)
            });
            match checked {
                Ok(checkpoint) => return Ok(Found { checkpoint: Some(checkpoint), passed_over }),
                Err(Broken::Unfinished { .. } | Broken::Abandoned { .. }) => {}
                // It is away, not broken: older ones are no better.
                Err(Broken::Store(error @ StoreError::TimedOut { .. })) => {
                    return Err(NewestError::Store(error));
                }
                Err(why) => passed_over.push(PassedOver { number: folder.number, why }),
            }
        }
        match passed_over.is_empty() {
            true => Ok(Found { checkpoint: None, passed_over }),
            false => Err(NewestError::AllBroken(passed_over)),
        }
    }
}

impl Checkpoint {
    /// What it is made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Those that have to be read before it, the one that has everything first.
    pub fn bases(&self) -> &[Manifest] {
        &self.bases
    }

    /// The checkpoints whose parts of a shard make it, one after another: the last one that has
    /// everything of it, and the changes since.
    ///
    /// - Panics: the cluster has no such shard.
    pub fn line(&self, shard: ShardId) -> Vec<&Manifest> {
        let all: Vec<&Manifest> = self.bases.iter().chain([&self.manifest]).collect();
        let has_all = |manifest: &&Manifest| manifest.parts[shard.index()].base.is_none();
        let first = all.iter().rposition(has_all).unwrap_or(0);
        all[first..].to_vec()
    }

    /// Begins to read a shard's part.
    ///
    /// - Errors: no thread for it. What is wrong with the part is said by the reader.
    /// - Panics: the cluster has no such shard.
    pub fn part(&self, shard: ShardId) -> Result<PartReader, Broken> {
        self.part_of(&self.manifest, shard)
    }

    /// As [`Checkpoint::part`], of this one or of one that has to be read before.
    pub fn part_of(&self, manifest: &Manifest, shard: ShardId) -> Result<PartReader, Broken> {
        let part = &manifest.parts[shard.index()];
        PartReader::begin(&self.store.backend, self.store.limit, manifest, part)
    }

    /// Reads and checks each byte of each part that is needed.
    ///
    /// - Errors: the first that is broken.
    pub fn check(&self) -> Result<(), Broken> {
        for part in &self.manifest.parts {
            for manifest in self.line(part.shard) {
                let mut reader = self.part_of(manifest, part.shard)?;
                while reader.next()?.is_some() {}
            }
        }
        Ok(())
    }
}

/// How a part differs from what the manifest says.
pub(crate) struct Odd<'a> {
    pub(crate) part: &'a PartEntry,
    /// Its length, if it is there.
    pub(crate) bytes: Option<u64>,
}

/// Whether each part that the manifest names is there in its length.
pub(crate) fn presence<'a>(folder: &Folder, manifest: &'a Manifest) -> Result<(), Odd<'a>> {
    let mut files: Vec<_> =
        folder.files.iter().map(|stored| (stored.file.as_str(), stored.bytes)).collect();
    files.sort_unstable();
    manifest.parts.iter().try_for_each(|part| {
        let at = files.binary_search_by_key(&part.object.as_str(), |&(file, _)| file);
        match at.map(|at| files[at].1) {
            Err(_) => Err(Odd { part, bytes: None }),
            Ok(bytes) if bytes != part.bytes => Err(Odd { part, bytes: Some(bytes) }),
            Ok(_) => Ok(()),
        }
    })
}

/// Reads and checks the manifest of a folder, and the lengths of the parts.
pub(crate) fn read_manifest(
    backend: &dyn Backend,
    folder: &Folder,
    cluster: Option<ClusterId>,
) -> Result<Manifest, Broken> {
    let object = Object::manifest(folder.number);
    let name = || backend.name(&object);
    if !has_manifest(folder) {
        return Err(Broken::Unfinished { object: name() });
    }
    let text = match backend.get(&object, MANIFEST_BYTES_MAX) {
        // Removed since the listing.
        Err(StoreError::Absent { object }) => return Err(Broken::Unfinished { object }),
        text => text?,
    };
    let manifest = Manifest::from_text(&text, folder.number, name)?;
    if let Some(expected) = cluster.filter(|&cluster| cluster != manifest.cluster.id) {
        let found = manifest.cluster.id;
        return Err(Broken::OtherCluster { object: name(), expected, found });
    }
    presence(folder, &manifest).map_err(|Odd { part, bytes }| {
        let object = backend.name(&manifest.object(part));
        match bytes {
            Some(bytes) => Broken::PartLength { object, promised: part.bytes, bytes },
            None => Broken::PartMissing { object },
        }
    })?;
    Ok(manifest)
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is passed over: {}", self.number, self.why)
    }
}

impl fmt::Display for NewestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewestError::Store(error) => error.fmt(f),
            NewestError::AllBroken(all) => {
                write!(f, "none of {} checkpoints is good", all.len())?;
                all.iter().try_for_each(|one| write!(f, "; {}: {}", one.number, one.why))
            }
        }
    }
}

impl std::error::Error for NewestError {}
