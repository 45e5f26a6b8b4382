//! The coordinators' store: a log that takes an entry if it follows the newest one.
//!
//! Owns the entries, and what may befall an attempt: it may be slow, fail, or fail though it was
//! taken. When an attempt is made again is left to `council`.
//!
//! Invariant: without a defect an entry that was taken stays as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use server::coordinator::Entry;
use wire::{Epoch, Placement, Time};

use crate::failure::Failure;
use crate::random::Random;

/// How long a way to the store takes at most, in nanoseconds.
const WAY_NS_MAX: u64 = 3_000_000;
/// The same while it is slow.
const WAY_NS_MAX_SLOW: u64 = 1_500_000_000;
/// How many attempts of a thousand fail while it is ill.
const FAILS_PER_MILLE: u64 = 600;

/// What is wrong with a store on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreDefect {
    /// Nothing.
    #[default]
    None,
    /// It takes an entry whatever the newest is.
    Uncompared,
    /// What it took last is lost with the coordinator's process: it was never written out.
    Unsynced,
    /// A coordinator that begins finds nothing in it.
    Forgetful,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    random: Random,
    defect: StoreDefect,
    /// By epoch, from 1.
    entries: Vec<(Writer, Arc<Entry>)>,
    /// All that was ever taken.
    taken: BTreeMap<Epoch, Arc<Entry>>,
    ill_until: Time,
    pub(crate) failed: Option<Failure>,
}

/// A coordinator's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer(pub(crate) u64);

/// What an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    Yes,
    /// Nothing is known to be written.
    Unknown,
    /// Another writer has been there.
    Conflict,
}

impl Store {
    pub(crate) fn new(random: Random, defect: StoreDefect) -> Store {
        let (entries, taken) = (Vec::new(), BTreeMap::new());
        Store { random, defect, entries, taken, ill_until: Time::default(), failed: None }
    }

    /// The newest entry, as a coordinator that begins reads it.
    pub(crate) fn read(&self) -> Entry {
        match self.defect {
            StoreDefect::Forgetful => Entry::default(),
            _ => self.entries.last().map(|(_, entry)| (**entry).clone()).unwrap_or_default(),
        }
    }

    /// The newest placement.
    pub(crate) fn placement(&self) -> Option<&Placement> {
        self.entries.last().map(|(_, entry)| &entry.placement)
    }

    /// Who wrote the newest entry, and its epoch.
    pub(crate) fn newest_by(&self) -> Option<(Writer, Epoch)> {
        self.entries.last().map(|(writer, entry)| (*writer, entry.placement.epoch))
    }

    /// Whether it holds this placement.
    pub(crate) fn holds(&self, placement: &Placement) -> bool {
        let at = placement.epoch.get().checked_sub(1);
        let entry = at.and_then(|at| self.entries.get(at as usize));
        entry.is_some_and(|(_, entry)| entry.placement == *placement)
    }

    /// How long a way to it, or back, takes now.
    pub(crate) fn way(&mut self, now: Time) -> Duration {
        let slow = now < self.ill_until && self.random.below(2) == 0;
        let ns_max = if slow { WAY_NS_MAX_SLOW } else { WAY_NS_MAX };
        Duration::from_nanos(self.random.below(ns_max))
    }

    /// Takes an entry, or not.
    pub(crate) fn append(&mut self, now: Time, writer: Writer, entry: &Arc<Entry>) -> Appended {
        let fails =
            |random: &mut Random, until| now < until && random.below(1000) < FAILS_PER_MILLE;
        if fails(&mut self.random, self.ill_until) {
            return Appended::Unknown;
        }
        let done = self.compare_and_append(writer, entry);
        match fails(&mut self.random, self.ill_until) {
            true => Appended::Unknown, // The answer is lost.
            false => done,
        }
    }

    fn compare_and_append(&mut self, writer: Writer, entry: &Arc<Entry>) -> Appended {
        let epoch = entry.placement.epoch;
        let before = epoch.get() as usize - 1;
        if self.entries.get(before) == Some(&(writer, Arc::clone(entry))) {
            return Appended::Yes; // An earlier attempt, whose answer was lost.
        }
        if self.defect == StoreDefect::Uncompared {
            self.entries.truncate(before);
        }
        if self.entries.len() != before {
            return Appended::Conflict;
        }
        self.entries.push((writer, Arc::clone(entry)));
        let first = self.taken.entry(epoch).or_insert_with(|| Arc::clone(entry));
        if first != entry {
            self.failed.get_or_insert(Failure::RecordedTwice { epoch });
        }
        Appended::Yes
    }

    /// A coordinator's process has died.
    pub(crate) fn lose_unsynced(&mut self) {
        if self.defect == StoreDefect::Unsynced {
            self.entries.pop();
        }
    }

    /// It does badly for a while.
    pub(crate) fn fall_ill(&mut self, until: Time) {
        self.ill_until = until;
    }
}
