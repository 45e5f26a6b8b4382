//! Where checkpoints lie: what a directory and an object store have in common.
//!
//! Owns the few operations that all of this crate is built on, and the deadline of each. How they
//! are carried out is left to `local` and `objects`.
//!
//! Invariant: what a [`Sink`] has finished and what `put_new` has made is on stable storage, whole,
//! under its name; before that, nothing is there under that name.

#[cfg(feature = "cloud")]
mod cloud;
mod disk;
mod local;
mod objects;
mod place;
mod timed;

use std::time::Duration;

use crate::error::StoreError;
use crate::layout::{CheckpointNumber, Object};

pub(crate) use disk::{Disk, DiskEntry, DiskEntryKind, DiskFile};
pub(crate) use local::Local;
pub(crate) use objects::Objects;
pub(crate) use place::open;
pub(crate) use timed::Timed;

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each call of the store may take.
    pub limit: Duration,
    /// How often a call of an object store that can be repeated is made, all within its limit.
    pub tries: u32,
    /// Settings of an object store, such as `aws_region`.
    pub store: Vec<StoreOption>,
}

impl Default for Options {
    fn default() -> Options {
        Options { limit: Duration::from_secs(30), tries: 4, store: Vec::new() }
    }
}

/// A setting of an object store, by the names that the crate `object_store` has for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOption {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A checkpoint's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) number: CheckpointNumber,
    pub(crate) files: Vec<Stored>,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) file: String,
    pub(crate) bytes: u64,
}

/// Whether something was made that must not have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum New {
    Made,
    Exists,
}

/// A place for checkpoints.
pub(crate) trait Backend: Send + Sync {
    /// What people call it.
    fn place(&self) -> &str;

    /// All checkpoints, by number. Absent: there is no such directory.
    fn list(&self) -> Result<Vec<Folder>, StoreError>;

    /// The objects of one; none if it is not there.
    fn files(&self, number: CheckpointNumber) -> Result<Vec<Stored>, StoreError>;

    /// Takes a number, for one of all writers.
    fn claim(&self, number: CheckpointNumber) -> Result<New, StoreError>;

    /// Begins an object, which is not there until it is finished.
    fn create(&self, object: &Object) -> Result<Box<dyn Sink>, StoreError>;

    /// Makes a small object, if there is none of this name.
    fn put_new(&self, object: &Object, bytes: &[u8]) -> Result<New, StoreError>;

    /// Opens an object for reading from its start.
    fn open(&self, object: &Object) -> Result<Box<dyn Source>, StoreError>;

    /// Removes an object; that it is not there is fine.
    fn remove(&self, object: &Object) -> Result<(), StoreError>;

    /// Removes what is left of a checkpoint whose objects were removed.
    fn remove_folder(&self, number: CheckpointNumber) -> Result<(), StoreError>;

    /// An object's name for people.
    fn name(&self, object: &Object) -> String {
        format!("{}/{}", self.place(), object.path())
    }

    /// Reads an object whole. What is longer than `bytes_max` is cut off there.
    fn get(&self, object: &Object, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let mut source = self.open(object)?;
        let mut bytes = vec![0; source.bytes().min(bytes_max) as usize];
        let read = source.read(&mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// An object that is being written.
pub(crate) trait Sink: Send {
    /// Appends. All but the last call have a whole piece (`crate::piece`).
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes it durable and gives it its name.
    fn finish(self: Box<Self>) -> Result<(), StoreError>;

    /// Removes what was written, as far as that goes.
    fn abandon(self: Box<Self>);
}

/// An object that is being read.
pub(crate) trait Source: Send {
    /// Its length.
    fn bytes(&self) -> u64;

    /// Reads on until `into` is full or the object ends. Returns how much was read.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, StoreError>;
}
