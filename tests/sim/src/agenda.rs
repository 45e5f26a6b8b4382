//! Agenda: what is to happen, and when.
//!
//! Owns the order. What happens is the owner's.
//!
//! Invariant: what is due at one moment happens in the order in which it was planned.

use std::collections::BTreeMap;

use wire::Time;

/// What is to happen.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    entries: BTreeMap<(Time, u64), T>,
    planned: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Agenda<T> {
        Agenda { entries: BTreeMap::new(), planned: 0 }
    }
}

impl<T> Agenda<T> {
    /// Plans something.
    pub(crate) fn at(&mut self, when: Time, what: T) {
        self.planned += 1;
        self.entries.insert((when, self.planned), what);
    }

    /// When the next thing is due.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.entries.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The next thing that is due, with its number.
    pub(crate) fn take_due(&mut self, now: Time) -> Option<(u64, T)> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((_, number), what) = entry.remove_entry();
        Some((number, what))
    }

    /// Plans something for later that was due already; it keeps its number, and so its place among
    /// others that are put off to the same moment.
    pub(crate) fn put_off(&mut self, until: Time, number: u64, what: T) {
        self.entries.insert((until, number), what);
    }
}
