//! Removing checkpoints that are not needed any more.
//!
//! Owns which ones those are, and the order of removal: of a published one the manifest first, so
//! that what is left is no checkpoint; of an unfinished one nothing before its number is barred, so
//! that a writer that was taken for dead cannot publish what is being removed.

use std::collections::BTreeSet;

use crate::backend::{Backend, New};
use crate::check::read_manifest;
use crate::error::{Broken, RetainError, StoreError};
use crate::layout::{CLAIM, CheckpointNumber, MANIFEST, Object};
use crate::manifest::abandoned_text;
use crate::store::Store;

/// The fewest checkpoints that can be kept: if the newest turns out to be broken there is another.
pub const KEEP_MIN: usize = 2;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// By number: checkpoints, published and unfinished ones.
    pub numbers: Vec<CheckpointNumber>,
}

impl Store {
    /// Removes published checkpoints but the newest `keep` and those that they have the changes
    /// since, and unfinished ones that are older than
    /// the newest published one. Broken ones are removed once they are older than all that is kept;
    /// what cannot be read, is of a newer format or another cluster's does not count and is left
    /// alone. Parts are not read: `Checkpoint::check` does that.
    ///
    /// - Errors: `keep` is below [`KEEP_MIN`]; or the store failed, and the rest is removed the
    ///   next time.
    pub fn retain(&self, keep: usize) -> Result<Removed, RetainError> {
        if keep < KEEP_MIN {
            return Err(RetainError::KeepTooFew { keep });
        }
        let backend = &*self.backend;
        let folders = backend.list()?;
        let mut removed = Removed::default();
        let (mut published, mut cluster) = (0, None);
        let mut needed = BTreeSet::new();
        for folder in folders.iter().rev() {
            let fate = match read_manifest(backend, folder, cluster) {
                Ok(manifest) => {
                    // The newest one says whose place this is.
                    cluster = Some(manifest.cluster.id);
                    published += 1;
                    if published <= keep || needed.contains(&folder.number) {
                        needed.extend(manifest.base());
                        Fate::Leave
                    } else {
                        Fate::Remove
                    }
                }
                Err(Broken::Unfinished { .. } | Broken::Abandoned { .. }) if published > 0 => {
                    Fate::Bar
                }
                Err(
                    Broken::Unfinished { .. }
                    | Broken::Abandoned { .. }
                    | Broken::Store(_)
                    | Broken::Newer { .. }
                    | Broken::OtherCluster { .. },
                ) => Fate::Leave,
                Err(_) => {
                    if published >= keep && !needed.contains(&folder.number) {
                        Fate::Remove
                    } else {
                        Fate::Leave
                    }
                }
            };
            if fate == Fate::Remove {
                backend.remove(&Object::manifest(folder.number))?;
            }
            if fate != Fate::Leave && remove_unpublished(backend, folder.number)? == Barred::Yes {
                removed.numbers.push(folder.number);
            }
        }
        removed.numbers.reverse();
        Ok(removed)
    }
}

/// What is done with a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Leave,
    /// It is unfinished: removed, if nobody publishes it first.
    Bar,
    /// It was published.
    Remove,
}

/// Whether a number is barred: no manifest of it can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    Yes,
    /// It was published just now.
    No,
}

/// Removes what is left of a checkpoint without a manifest.
fn remove_unpublished(
    backend: &dyn Backend,
    number: CheckpointNumber,
) -> Result<Barred, StoreError> {
    if bar(backend, number)? == Barred::No {
        return Ok(Barred::No);
    }
    backend.remove(&Object::manifest(number))?;
    backend.remove_folder(number)?;
    Ok(Barred::Yes)
}

/// Bars a number and removes its parts. The mark stays: the number is not given again.
pub(crate) fn bar(backend: &dyn Backend, number: CheckpointNumber) -> Result<Barred, StoreError> {
    let mark = Object::manifest(number);
    let text = abandoned_text(number);
    if backend.put_new(&mark, text.as_bytes())? == New::Exists
        && backend.get(&mark, text.len() as u64 + 1)? != text.as_bytes()
    {
        return Ok(Barred::No);
    }
    // Listed now and not before: parts may have come since.
    for stored in backend.files(number)? {
        if stored.file != MANIFEST && stored.file != CLAIM {
            backend.remove(&Object { number, file: stored.file })?;
        }
    }
    Ok(Barred::Yes)
}
