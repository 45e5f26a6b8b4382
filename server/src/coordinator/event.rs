//! Events and actions: what the machine is told, and what it wants done.
//!
//! Owns the types. What an event leads to is left to `machine`, doing what is wanted to `service`.

use std::sync::Arc;
use std::time::Duration;

use wire::{Epoch, Placement, ServerId, ToCoordinator, ToMember};

use super::census::Probe;
use super::checkpointer::{StoreNews, StoreTask};
use super::jobs::JobWrite;
use super::store::Entry;

/// A link to the coordinator; numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What happens to the machine.
#[derive(Debug)]
pub enum Event {
    /// A message has come.
    Said {
        /// From whom.
        connection: ConnectionId,
        /// What.
        message: ToCoordinator,
    },
    /// A link is over.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// [`Action::Probe`] has found something out.
    Probed {
        /// Of which server.
        server: ServerId,
        /// What.
        answer: Probe,
    },
    /// The store holds the entry that was to be recorded.
    Recorded {
        /// How long the store took.
        took: Duration,
    },
    /// It does not yet; it is tried again.
    NotRecorded {
        /// Why, for people.
        why: String,
        /// How long the store took to say so.
        took: Duration,
    },
    /// The store holds the record of [`Action::KeepJob`].
    JobKept,
    /// The store of checkpoints has done something, or has not.
    Store(StoreNews),
    /// Whoever runs this coordinator wants a checkpoint.
    TakeCheckpoint,
    /// Time has gone by.
    Tick,
}

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Say something.
    Send {
        /// To whom.
        connection: ConnectionId,
        /// What.
        message: ToMember,
    },
    /// The same message to many: encoded once.
    Publish {
        /// To whom.
        connections: Vec<ConnectionId>,
        /// What.
        placement: Arc<Placement>,
    },
    /// End a link, after what was sent has left.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Find out whether somebody listens at a place; [`Event::Probed`] answers.
    Probe {
        /// Whose place.
        server: ServerId,
        /// Where.
        place: String,
    },
    /// Append an entry to the store; [`Event::Recorded`] answers.
    Record(Arc<Entry>),
    /// Keep a job's record in the store, until that is done; [`Event::JobKept`] answers.
    KeepJob(Arc<JobWrite>),
    /// See whether the store's newest entry is a later one: this coordinator is over then.
    Look {
        /// The newest that this coordinator knows.
        ours: Epoch,
    },
    /// Something in the store of checkpoints.
    Store(StoreTask),
}

/// A defect put in on purpose, so that a test can show that it would be found. No coordinator that
/// serves has one: only [`super::Machine::with_defect`] puts it in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defect {
    /// None.
    #[default]
    None,
    /// No silence is ever too long.
    NeverSuspects,
    /// Whoever is being filled counts as a replica at once.
    FilledUnasked,
    /// Placements are told before the store holds them.
    ToldEarly,
}
