//! The store: what checkpoints there are, and who may begin the next.
//!
//! Owns the way in. Writing is left to `writer` and `part_writer`, checking to `check`, removing to
//! `retain`.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{self, Backend, Folder, New, Options, Timed};
use crate::check::read_manifest;
use crate::error::{Broken, StoreError, WriteError};
use crate::layout::{CheckpointNumber, MANIFEST};
use crate::manifest::{Cluster, Manifest};
use crate::part_writer::{PartPlan, PartWriter};
use crate::writer::Writer;

/// Numbers that are tried for, each of which another writer may take just before.
const CLAIMS_MAX: usize = 64;

/// A place for checkpoints. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) limit: Duration,
}

/// A checkpoint as a listing shows it: parts were not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub number: CheckpointNumber,
    /// Length of all that lies in its folder, in bytes.
    pub bytes: u64,
    /// What it is.
    pub state: State,
}

/// What a folder of the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A manifest that holds, and parts of the right lengths.
    Published(Box<Manifest>),
    /// One that is being written, or whose writer died.
    Unfinished,
    /// One that cannot be used.
    Broken(Broken),
}

impl Store {
    /// Opens the store at `place`: a directory or `file:///path`, `memory:`, or a URL of an object
    /// store that this build knows. No call is made yet; a directory need not exist.
    ///
    /// - Errors: the place is none.
    pub fn open(place: &str, options: &Options) -> Result<Store, StoreError> {
        Ok(Store::over(backend::open(place, options)?, options))
    }

    pub(crate) fn over(backend: Arc<dyn Backend>, options: &Options) -> Store {
        let limit = options.limit;
        Store { backend: Arc::new(Timed::new(backend, limit)), limit }
    }

    /// What people call it.
    pub fn place(&self) -> &str {
        self.backend.place()
    }

    /// All checkpoints, by number. Manifests are read, of parts only the lengths.
    ///
    /// - Errors: the store cannot be listed; [`StoreError::Absent`] if there is no such directory.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let folders = self.backend.list()?;
        Ok(folders.iter().map(|folder| self.listed(folder)).collect())
    }

    fn listed(&self, folder: &Folder) -> Listed {
        let bytes = folder.files.iter().map(|stored| stored.bytes).sum();
        let manifest = read_manifest(&*self.backend, folder, None);
        // One without what it has the changes since is of no use.
        let manifest = manifest.and_then(|manifest| self.bases(&manifest).map(|_| manifest));
        let state = match manifest {
            Ok(manifest) => State::Published(Box::new(manifest)),
            Err(Broken::Unfinished { .. } | Broken::Abandoned { .. }) => State::Unfinished,
            Err(broken) => State::Broken(broken),
        };
        Listed { number: folder.number, bytes, state }
    }

    /// Begins the next checkpoint of a cluster of `shards` shards. Its number is this writer's
    /// alone.
    ///
    /// - Errors: the store fails, or other writers are always faster.
    /// - Panics: there are no clusters without shards.
    pub fn begin(&self, cluster: Cluster, shards: u16) -> Result<Writer, WriteError> {
        assert!(shards > 0, "a cluster without shards");
        let folders = match self.backend.list() {
            Err(StoreError::Absent { .. }) => Vec::new(),
            folders => folders?,
        };
        let last = folders.last().map_or(CheckpointNumber::new(0), |folder| folder.number);
        let mut number = last.next();
        for _ in 0..CLAIMS_MAX {
            if self.backend.claim(number)? == New::Made {
                return Ok(Writer::new(self.clone(), number, cluster, shards));
            }
            number = number.next();
        }
        Err(WriteError::Crowded { tried: CLAIMS_MAX })
    }

    /// Begins a part of a checkpoint that was begun here or in another process.
    ///
    /// - Errors: the store fails.
    pub fn write_part(&self, plan: PartPlan) -> Result<PartWriter, WriteError> {
        PartWriter::begin(&self.backend, self.limit, plan)
    }
}

/// Whether this folder has a manifest, or a mark in its place.
pub(crate) fn has_manifest(folder: &Folder) -> bool {
    folder.files.iter().any(|stored| stored.file == MANIFEST)
}
