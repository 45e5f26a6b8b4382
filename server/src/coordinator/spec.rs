//! What a person wants a cluster to be.
//!
//! Owns the numbers and their ranges. Whether they fit the cluster's past is checked here too.

use std::fmt;

use wire::{REPLICAS_MAX, SERVERS_MAX, SHARDS_MAX};

use super::assign::Spread;
use super::store::Entry;

/// What a cluster shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// Its shards, for all its life.
    pub shards: u16,
    /// Replicas that each shard shall have.
    pub replicas: u8,
    /// Servers that must have applied for the first placement.
    pub servers_min: usize,
    /// What replicas of a shard may not share.
    pub spread: Spread,
}

/// What is wrong with a wish for a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// A number out of its range.
    Range {
        /// Of what.
        what: &'static str,
        /// The number.
        count: usize,
        /// The least it may be.
        count_min: usize,
        /// The most it may be.
        count_max: usize,
    },
    /// The cluster has another number of shards, and that never changes.
    Shards {
        /// What was asked for.
        asked: u16,
        /// What the cluster has.
        has: usize,
    },
}

impl ClusterSpec {
    /// Checks the numbers, also against the cluster's newest entry.
    ///
    /// # Errors
    ///
    /// The first number that cannot be.
    pub fn check(&self, newest: Option<&Entry>) -> Result<(), SpecError> {
        let ranges = [
            ("shards", usize::from(self.shards), SHARDS_MAX),
            ("replicas", usize::from(self.replicas), REPLICAS_MAX),
            ("servers at least", self.servers_min, SERVERS_MAX),
        ];
        for (what, count, count_max) in ranges {
            if count < 1 || count > count_max {
                return Err(SpecError::Range { what, count, count_min: 1, count_max });
            }
        }
        match newest.map(|entry| entry.placement.chains.len()) {
            Some(has) if has != usize::from(self.shards) => {
                Err(SpecError::Shards { asked: self.shards, has })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Range { what, count, count_min, count_max } => {
                write!(f, "{count} {what}; there may be {count_min} to {count_max}")
            }
            SpecError::Shards { asked, has } => write!(
                f,
                "{asked} shards were asked for, the cluster has {has}; that never changes"
            ),
        }
    }
}

impl std::error::Error for SpecError {}
