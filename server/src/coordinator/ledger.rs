//! Ledger: what epochs were for, and how long the store took for them, since the coordinator began.
//!
//! Owns the figures. Nothing is decided by them.

use std::time::Duration;

use wire::{Epoch, EpochCounts, Placement, ServerId, StoreCounts};

/// The figures.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) epochs: EpochCounts,
    pub(super) store: StoreCounts,
}

impl Ledger {
    /// The store has taken an epoch.
    pub(super) fn recorded(&mut self, took: Duration) {
        self.store.appends += 1;
        self.took(took);
    }

    /// It has not.
    pub(super) fn not_recorded(&mut self, took: Duration) {
        self.store.failures += 1;
        self.took(took);
    }

    fn took(&mut self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.store.last_append_us = took_us;
        self.store.append_us = self.store.append_us.saturating_add(took_us);
    }

    /// Counts what differs in `new`.
    ///
    /// - `has_left`: whether a server that is not there any more wanted it so.
    pub(super) fn placed(
        &mut self,
        old: &Placement,
        new: &Placement,
        has_left: impl Fn(ServerId) -> bool,
    ) {
        if old.epoch == Epoch::new(0) {
            self.epochs.first += 1;
            return;
        }
        let is_missing = |server: ServerId, there: &Placement| there.member(server).is_none();
        let missing = || old.servers.iter().filter(|one| is_missing(one.server, new));
        let chains = || old.chains.iter().zip(&new.chains);
        let differences = [
            (new.servers.iter().any(|one| is_missing(one.server, old)), &mut self.epochs.joined),
            (missing().any(|one| has_left(one.server)), &mut self.epochs.left),
            (missing().any(|one| !has_left(one.server)), &mut self.epochs.gone),
            (
                chains().any(|(old, new)| old.joining.is_some_and(|it| new.replicas.contains(&it))),
                &mut self.epochs.filled,
            ),
            (
                chains().any(|(old, new)| new.joining.is_some() && new.joining != old.joining),
                &mut self.epochs.fill_begun,
            ),
            (
                chains().any(|(old, chain)| {
                    let is_dropped = |one: &&ServerId| !chain.replicas.contains(one);
                    old.replicas.iter().filter(is_dropped).any(|&one| !is_missing(one, new))
                }),
                &mut self.epochs.dropped,
            ),
            (
                chains().any(|(old, new)| new.replicas.is_empty() && !old.replicas.is_empty()),
                &mut self.epochs.lost,
            ),
        ];
        differences.into_iter().for_each(|(differs, count)| *count += u64::from(differs));
    }
}
