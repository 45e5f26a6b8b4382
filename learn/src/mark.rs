//! How far a worker is: steps that are in its journal, and steps that every shard has.
//!
//! Owns what other threads may see of that. Writing steps down is left to `journal`.
//!
//! Invariant: what is settled is in order and never goes back within a life; of the steps in the
//! journal, those behind it are the unsettled ones.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Which batch of the data: ordered as a reader takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Counted from 0.
    pub epoch: u32,
    /// Its number in the epoch.
    pub batch: u64,
}

/// How far a worker is. A step is a batch with rows, and a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Progress {
    /// Steps of all of its lives.
    pub steps: u64,
    /// The last batch up to which all are done, by so many steps; none: before the first.
    pub position: Option<Position>,
}

/// How far a worker is, for other threads to see.
#[derive(Clone, Debug, Default)]
pub struct Mark(Arc<Mutex<Marked>>);

#[derive(Debug, Default)]
struct Marked {
    kept: Progress,
    settled: Option<Progress>,
    /// How far it was after each step that some shard may lack.
    unsettled: VecDeque<Progress>,
}

impl Mark {
    /// Up to the newest step in the journal.
    pub fn kept(&self) -> Progress {
        self.marked().kept
    }

    /// Up to the newest step that every shard is known to have; none: not known yet.
    pub fn settled(&self) -> Option<Progress> {
        self.marked().settled
    }

    /// It is known to have come so far, all of it on every shard.
    pub(crate) fn begin(&self, known: Progress) {
        *self.marked() = Marked { kept: known, settled: Some(known), unsettled: VecDeque::new() };
    }

    /// A step is in the journal.
    pub(crate) fn keep(&self, now: Progress) {
        let mut marked = self.marked();
        marked.kept = now;
        marked.unsettled.push_back(now);
    }

    /// Every shard has so many steps.
    pub(crate) fn settle(&self, steps: u64) {
        let mut marked = self.marked();
        while marked.unsettled.front().is_some_and(|next| next.steps <= steps) {
            marked.settled = marked.unsettled.pop_front();
        }
    }

    fn marked(&self) -> MutexGuard<'_, Marked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: u64) -> Progress {
        Progress { steps, position: Some(Position { epoch: 0, batch: 10 * steps }) }
    }

    #[test]
    fn what_is_settled_is_the_newest_step_that_every_shard_has() {
        let mark = Mark::default();
        assert_eq!((mark.kept(), mark.settled()), (Progress::default(), None));
        (3..7).for_each(|steps| mark.keep(after(steps)));
        mark.settle(2);
        assert_eq!((mark.kept(), mark.settled()), (after(6), None), "that step is not here");
        mark.settle(4);
        assert_eq!(mark.settled(), Some(after(4)));
        mark.settle(3);
        assert_eq!(mark.settled(), Some(after(4)), "never back");
        mark.settle(9);
        assert_eq!(mark.settled(), Some(after(6)));
        mark.begin(after(2));
        assert_eq!((mark.kept(), mark.settled()), (after(2), Some(after(2))));
    }
}
