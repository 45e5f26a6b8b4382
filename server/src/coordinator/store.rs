//! The coordinator's store: the log of placements, records of jobs, and the rule that only one
//! writer goes on.
//!
//! Owns the interface and its errors. Where the log lies is left to `store_redb` and
//! `store_etcd`.
//!
//! Invariant: entries count up by one; an entry that was appended is never changed, and nothing is
//! appended after an entry that the writer does not know.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wire::{Epoch, Placement, ServerId};

use super::assign::Move;
use super::jobs::{JobRecord, JobWrite};

/// Entries that a store keeps; older ones are dropped.
pub const HISTORY_MAX: u64 = 256;

/// One entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The placement; its epoch is the entry's number.
    pub placement: Placement,
    /// How many servers have been given a number until now, so that none is given twice.
    pub numbers_given: u32,
    /// What was ordered and is not done.
    #[serde(default, skip_serializing_if = "Orders::is_empty")]
    pub orders: Orders,
}

/// Orders that are being carried out, so that the next coordinator goes on with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Servers that give their shards away.
    #[serde(default)]
    pub leaving: Vec<ServerId>,
    /// Replicas that go from one server to another.
    #[serde(default)]
    pub moves: Vec<Move>,
}

impl Orders {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty() && self.moves.is_empty()
    }

    /// Whether all of them are among others.
    pub(super) fn are_among(&self, others: &Orders) -> bool {
        self.leaving.iter().all(|one| others.leaving.contains(one))
            && self.moves.iter().all(|one| others.moves.contains(one))
    }
}

/// A log of placements of one cluster, and the records of its jobs.
pub trait Store: Send {
    /// The cluster's own number, drawn when the store was made.
    fn cluster_id(&self) -> u64;

    /// The newest entry; none: nothing was placed yet.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or holds what is no entry.
    fn newest(&mut self) -> Result<Option<Entry>, StoreError>;

    /// Appends an entry, durably, if the newest is the one before it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] and [`StoreError::Fenced`]: somebody else has appended, or leads;
    /// the caller steps down. Others: nothing is known to be written, and the caller may try again.
    fn append(&mut self, entry: &Entry) -> Result<(), StoreError>;

    /// The newest `count_max` epochs and why they came, the newest first.
    ///
    /// # Errors
    ///
    /// As [`Store::newest`].
    fn history(&mut self, count_max: usize) -> Result<Vec<(Epoch, String)>, StoreError>;

    /// The newest records of all training jobs of several hosts.
    ///
    /// # Errors
    ///
    /// As [`Store::newest`].
    fn jobs(&mut self) -> Result<Vec<JobRecord>, StoreError>;

    /// Keeps a job's record, durably, if the store has the one that the writer knows.
    ///
    /// # Errors
    ///
    /// [`StoreError::JobConflict`] and [`StoreError::Fenced`]: somebody else has written, or leads;
    /// the caller steps down. Others: nothing is known to be written, and the caller may try again.
    fn keep_job(&mut self, write: &JobWrite) -> Result<(), StoreError>;
}

/// Why a store does not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another coordinator has appended: this one is over.
    Conflict {
        /// The newest entry that this coordinator knows.
        ours: Epoch,
        /// The newest that the store holds.
        theirs: Epoch,
    },
    /// Another coordinator has written a job's record: this one is over.
    JobConflict {
        /// The job's name.
        job: String,
        /// The newest version that this coordinator knows.
        ours: u64,
        /// The newest that the store holds.
        theirs: u64,
    },
    /// Another coordinator leads: this one's term is over. Nothing was written.
    Fenced {
        /// The term of the one who asked.
        ours: u64,
        /// The newest term.
        theirs: u64,
    },
    /// The store is another cluster's.
    OtherCluster {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        theirs: String,
        /// Who asked.
        ours: String,
    },
    /// A later build has written the store.
    NewerFormat {
        /// Where it lies.
        path: PathBuf,
        /// Its format.
        theirs: u32,
        /// The newest that this build reads.
        ours: u32,
    },
    /// Another process has it open.
    InUse {
        /// Where it lies.
        path: PathBuf,
    },
    /// It holds what no coordinator has written.
    Damaged {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk, or the store's own server, says no.
    Disk {
        /// Where the store lies.
        path: PathBuf,
        /// What it says.
        what: String,
    },
    /// What the store holds is not what the coordinator was started for.
    Unfit {
        /// Both sides.
        what: String,
    },
    /// The store's servers do not answer.
    Unreachable {
        /// What was tried.
        what: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Conflict { ours, theirs } => write!(
                f,
                "the store is at {theirs}, this coordinator at {ours}: another one is active, and \
                 this one steps down"
            ),
            StoreError::JobConflict { job, ours, theirs } => write!(
                f,
                "the store has version {theirs} of job {job}, this coordinator {ours}: another one \
                 is active, and this one steps down"
            ),
            StoreError::Fenced { ours, theirs } => write!(
                f,
                "another coordinator leads: the store is in term {theirs}, this one led in {ours}"
            ),
            StoreError::OtherCluster { path, theirs, ours } => write!(
                f,
                "{} holds cluster {theirs:?}; this is the coordinator of {ours:?}",
                path.display()
            ),
            StoreError::NewerFormat { path, theirs, ours } => write!(
                f,
                "{} has format {theirs}; this build reads formats up to {ours}",
                path.display()
            ),
            StoreError::InUse { path } => {
                write!(f, "{} is open in another process: its coordinator runs", path.display())
            }
            StoreError::Damaged { path, what } => write!(
                f,
                "{} is damaged: {what}; restore it from a copy, or begin a new cluster elsewhere",
                path.display()
            ),
            StoreError::Unfit { what } => write!(f, "this coordinator cannot lead: {what}"),
            StoreError::Unreachable { what } => write!(f, "the store does not answer: {what}"),
            StoreError::Disk { path, what } => write!(f, "{}: {what}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}
