//! Reports: what the coordinator must hear of this server's shards.
//!
//! Owns the type. Who carries it there is left to whoever takes [`crate::Server::reports`].

use std::fmt;

use wire::{Epoch, ServerId, ShardId, StoreReport};

/// Reports that wait to be taken; what finds no room is said later, or when it is asked for again.
pub(crate) const REPORTS_MAX: usize = 1024;

/// What has become of a shard here. The epochs are those of its chain: a report of an epoch that
/// is over means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The server that was being filled holds everything: it may become the tail.
    Filled {
        /// Of which shard.
        shard: ShardId,
        /// In which epoch of the chain.
        epoch: Epoch,
    },
    /// This server could not do what its predecessor did, or was sent what cannot be: it holds the
    /// shard no longer, and the chain waits until it is taken out.
    Refused {
        /// Which shard.
        shard: ShardId,
        /// In which epoch of the chain.
        epoch: Epoch,
    },
    /// The successor cannot be reached, time and again, or says no.
    SuccessorLost {
        /// In whose chain.
        shard: ShardId,
        /// In which epoch of the chain.
        epoch: Epoch,
        /// Which server.
        server: ServerId,
    },
    /// A successor that was said to be lost has spoken again.
    SuccessorBack {
        /// In whose chain.
        shard: ShardId,
        /// In which epoch of the chain.
        epoch: Epoch,
    },
    /// How far a recording or a load is.
    Stored(StoreReport),
}

impl Report {
    /// Whose it is.
    pub(crate) fn shard(&self) -> ShardId {
        match self {
            Report::Filled { shard, .. }
            | Report::Refused { shard, .. }
            | Report::SuccessorLost { shard, .. }
            | Report::SuccessorBack { shard, .. }
            | Report::Stored(StoreReport { shard, .. }) => *shard,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Filled { shard, epoch } => {
                write!(f, "the successor is filled: {shard}, {epoch}")
            }
            Report::Refused { shard, epoch } => {
                write!(f, "this server differs from its predecessor and stops: {shard}, {epoch}")
            }
            Report::SuccessorLost { shard, epoch, server } => {
                write!(f, "the successor {server} is out of reach: {shard}, {epoch}")
            }
            Report::SuccessorBack { shard, epoch } => {
                write!(f, "the successor is back: {shard}, {epoch}")
            }
            Report::Stored(StoreReport { shard, number, attempt, state }) => {
                write!(f, "checkpoint {number}, {shard}, attempt {attempt}: {state:?}")
            }
        }
    }
}
