//! Names: the number of a checkpoint, its folder, and the objects in it.
//!
//! Owns how they are written and read back: `ckpt-0000000012/part-00003`. A part that is begun
//! again gets a new name, `part-00003.1`: what failed once is not trusted again.

use std::fmt;

use serde::{Deserialize, Serialize};
use wire::ShardId;

/// Name of the object that makes a checkpoint one.
pub(crate) const MANIFEST: &str = "manifest";

/// Name of the object by which a writer has its number to itself, where folders cannot be made.
pub(crate) const CLAIM: &str = "claim";

const FOLDER: &str = "ckpt-";
const NUMBER_DIGITS: usize = 10;

/// A checkpoint's number in its store, from 1; a later one has a larger one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckpointNumber(u64);

impl CheckpointNumber {
    /// Names the checkpoint with this number.
    pub const fn new(raw: u64) -> CheckpointNumber {
        CheckpointNumber(raw)
    }

    /// The number, as it stands in a part.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number after this one.
    pub(crate) const fn next(self) -> CheckpointNumber {
        CheckpointNumber(self.0.saturating_add(1))
    }
}

impl fmt::Display for CheckpointNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checkpoint {}", self.0)
    }
}

impl fmt::Debug for CheckpointNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One object of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Whose.
    pub(crate) number: CheckpointNumber,
    /// Its name in the folder.
    pub(crate) file: String,
}

impl Object {
    /// The manifest of a checkpoint.
    pub(crate) fn manifest(number: CheckpointNumber) -> Object {
        Object { number, file: MANIFEST.to_owned() }
    }

    /// Its name below the place of the store.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", folder(self.number), self.file)
    }
}

/// The folder of a checkpoint.
pub(crate) fn folder(number: CheckpointNumber) -> String {
    format!("{FOLDER}{:0NUMBER_DIGITS$}", number.0)
}

/// The checkpoint whose folder this is, if it is one.
pub(crate) fn number_of(name: &str) -> Option<CheckpointNumber> {
    let number = CheckpointNumber(name.strip_prefix(FOLDER)?.parse().ok()?);
    (folder(number) == name).then_some(number)
}

/// Name of a shard's part, at this attempt to write it.
pub(crate) fn part_file(shard: ShardId, attempt: u32) -> String {
    match attempt {
        0 => format!("part-{:05}", shard.get()),
        _ => format!("part-{:05}.{attempt}", shard.get()),
    }
}

/// Whether this is a name of this shard's part, at any attempt.
pub(crate) fn is_part_file(file: &str, shard: ShardId) -> bool {
    let attempt = file.split_once('.').map_or(Some(0), |(_, attempt)| attempt.parse().ok());
    attempt.is_some_and(|attempt| part_file(shard, attempt) == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not() {
        for number in [1, 12, 9_999_999_999, 10_000_000_000, u64::MAX] {
            let number = CheckpointNumber::new(number);
            assert_eq!(number_of(&folder(number)), Some(number));
        }
        for name in ["ckpt-12", "ckpt-+000000012", "ckpt-00000000012", "part-00001", "ckpt-"] {
            assert_eq!(number_of(name), None, "{name}");
        }
        let shard = ShardId::new(3);
        for file in ["part-00003", "part-00003.1"] {
            assert!(is_part_file(file, shard), "{file}");
        }
        for file in ["part-00004", "part-00003.0", "part-00003.+1", "../part-00003", "part-00003."]
        {
            assert!(!is_part_file(file, shard), "{file}");
        }
    }
}
