//! Where a checkpoint is cut: so far ahead that all shards hear of it in time.
//!
//! Owns the choice of the clock. What becomes of a checkpoint whose cut a shard was beyond is left
//! to `conduct`.

use std::time::Duration;

use wire::{Clock, Time};

use super::{PartState, Taking};

/// How long clocks go by before they are asked for again: much longer than asking takes, so that
/// those that come every few milliseconds are seen.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long it is waited for clocks that were asked for again: servers of before say them once.
pub(super) const AGAIN_PATIENCE: Duration = Duration::from_millis(250);

/// How far ahead the cut is at least, where clocks go by: what telling it may take on busy
/// machines.
const AHEAD: Duration = Duration::from_millis(100);

/// What the clocks were at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    /// The highest of all shards.
    clock: Clock,
    at: Time,
    /// Since when they are asked for again.
    pub(super) asked_again: Option<Time>,
}

impl First {
    pub(super) fn new(clock: Clock, at: Time) -> First {
        First { clock, at, asked_again: None }
    }

    /// Has clocks asked for again once that is due.
    pub(super) fn go_on(&mut self, now: Time) -> First {
        if now - self.at >= ASK_AGAIN_AFTER {
            self.asked_again.get_or_insert(now);
        }
        *self
    }

    /// Whether it is waited no longer for who was asked again.
    pub(super) fn is_too_long_ago(&self, now: Time) -> bool {
        self.asked_again.is_some_and(|since| now - since > AGAIN_PATIENCE)
    }

    /// A clock that no shard has when it hears of it, as far as can be told; none where all workers
    /// have left, and there is no clock to come.
    ///
    /// - `highest`: of all shards now. As many clocks as go by in [`AHEAD`] are left out, twice as
    ///   many with each attempt.
    pub(super) fn cut(&self, highest: Clock, now: Time, attempts: u32) -> Option<Clock> {
        let went_by = highest.get().saturating_sub(self.clock.get()) as f64;
        let before = (now - self.at).max(ASK_AGAIN_AFTER);
        let ahead = AHEAD * (1 << attempts.min(8));
        let ahead = (went_by * ahead.as_secs_f64() / before.as_secs_f64()).ceil() as u64;
        let ahead = ahead.max(attempts.into());
        let cut = || Clock::new(highest.next().get().saturating_add(ahead));
        (highest < Clock::new(u64::MAX)).then(cut)
    }
}

impl Taking {
    /// Whether each has said its clock twice.
    pub(super) fn has_all_again(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.state, PartState::Marked { again: true, .. }))
    }

    /// The highest clock of all shards, once each has said where it is.
    pub(super) fn highest(&self) -> Option<Clock> {
        let clocks = self.parts.iter().map(|part| match part.state {
            PartState::Marked { clock, .. } => Some(clock),
            _ => None,
        });
        clocks.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_as_far_ahead_as_clocks_go_by_while_it_is_told() {
        let cut = |went_by: u64, ms, attempts| {
            let first = First::new(Clock::new(1000 - went_by), Time::default());
            let now = Time::default() + Duration::from_millis(ms);
            first.cut(Clock::new(1000), now, attempts).map(Clock::get)
        };
        assert_eq!([cut(0, 100, 0), cut(0, 100, 2)], [Some(1001), Some(1003)]);
        assert_eq!([cut(100, 100, 0), cut(100, 100, 1)], [Some(1101), Some(1201)]);
        assert_eq!(cut(10, 200, 0), Some(1006), "asking took long");
        let nobody = Clock::new(u64::MAX);
        assert_eq!(First::new(nobody, Time::default()).cut(nobody, Time::default(), 0), None);
    }

    #[test]
    fn clocks_are_asked_for_again_after_a_while_and_waited_for_not_much_longer() {
        let at = |ms| Time::default() + Duration::from_millis(ms);
        let mut first = First::new(Clock::new(3), at(0));
        assert_eq!(first.go_on(at(49)).asked_again, None);
        assert_eq!(first.go_on(at(50)).asked_again, Some(at(50)));
        assert_eq!(first.go_on(at(90)).asked_again, Some(at(50)));
        assert!(!first.is_too_long_ago(at(300)) && first.is_too_long_ago(at(301)));
    }
}
