//! Where a checkpoint is cut: so far ahead that all shards hear of it in time.
//!
//! Owns the choice of the clock. What becomes of a checkpoint whose cut a shard was beyond is left
//! to `conduct`.

use std::time::Duration;

use wire::{Clock, Time};

use super::{Conductor, PartState, Stage, Taking};

/// How long clocks go by before they are asked for again: longer than asking takes.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How long they go by where too few did so at first: those that come every few tens of
/// milliseconds are to be seen.
pub(super) const ASK_LATER_AFTER: Duration = Duration::from_millis(50);

/// So many clocks tell how fast they go by.
const CLOCKS_ENOUGH: u64 = 4;

/// How long it is waited for clocks that were asked for again: servers of before say them once.
pub(super) const AGAIN_PATIENCE: Duration = Duration::from_millis(250);

/// How far ahead the cut is, where clocks go by: in times of what asking again took just now, since
/// the cut is told on the same way.
const AHEAD_BY_ASKING: u32 = 4;

/// How far ahead it is at least.
const AHEAD_MIN: Duration = Duration::from_millis(20);

/// With each attempt it is so many times as far ahead.
const AHEAD_BY_ATTEMPT: u32 = 4;

/// Further attempts are as far ahead as this one.
const ATTEMPTS_COUNTED_MAX: u32 = 4;

/// What the clocks were at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    /// The highest of all shards.
    clock: Clock,
    at: Time,
    /// How long after that they are asked for again.
    wait: Duration,
    /// Since when they are asked for again.
    pub(super) asked_again: Option<Time>,
}

impl First {
    pub(super) fn new(clock: Clock, at: Time) -> First {
        First { clock, at, wait: ASK_AGAIN_AFTER, asked_again: None }
    }

    /// Has clocks asked for again once that is due.
    pub(super) fn go_on(&mut self, now: Time) -> First {
        if now - self.at >= self.wait {
            self.asked_again.get_or_insert(now);
        }
        *self
    }

    /// Whether it is not seen yet how fast clocks go by. Then they are asked for once more, later.
    ///
    /// - `highest`: of all shards now.
    pub(super) fn wants_later(&mut self, highest: Clock) -> bool {
        let went_by = highest.get().saturating_sub(self.clock.get());
        let is_soon = self.wait < ASK_LATER_AFTER;
        let wants = is_soon && went_by < CLOCKS_ENOUGH && highest < Clock::new(u64::MAX);
        if wants {
            (self.wait, self.asked_again) = (ASK_LATER_AFTER, None);
        }
        wants
    }

    /// Whether it is waited no longer for who was asked again.
    pub(super) fn is_too_long_ago(&self, now: Time) -> bool {
        self.asked_again.is_some_and(|since| now - since > AGAIN_PATIENCE)
    }

    /// A clock that no shard has when it hears of it, as far as can be told; none where all workers
    /// have left, and there is no clock to come.
    ///
    /// - `highest`: of all shards now. As many clocks as go by while the cut is told are left out,
    ///   four times as many with each attempt.
    pub(super) fn cut(&self, highest: Clock, now: Time, attempts: u32) -> Option<Clock> {
        let went_by = highest.get().saturating_sub(self.clock.get()) as f64;
        let before = (now - self.at).max(ASK_AGAIN_AFTER);
        let asking = self.asked_again.map_or(Duration::ZERO, |since| now - since);
        let ahead = (asking * AHEAD_BY_ASKING).max(AHEAD_MIN);
        let ahead = ahead * AHEAD_BY_ATTEMPT.pow(attempts.min(ATTEMPTS_COUNTED_MAX));
        let ahead = (went_by * ahead.as_secs_f64() / before.as_secs_f64()).ceil() as u64;
        let ahead = ahead.max(attempts.into());
        let cut = || Clock::new(highest.next().get().saturating_add(ahead));
        (highest < Clock::new(u64::MAX)).then(cut)
    }
}

impl Conductor {
    /// Whether each part has said what the next step of the recording waits for.
    pub(in super::super) fn awaits_no_part(&self) -> bool {
        let Stage::Recording(taking) = &self.stage else { return false };
        let is_asked_again = taking.first.is_some_and(|first| first.asked_again.is_some());
        taking.parts.iter().all(|part| match part.state {
            PartState::Marked { again, .. } => taking.cut.is_none() && (again || !is_asked_again),
            PartState::Done(_) => taking.cut.is_some(),
            PartState::Wanted { .. } | PartState::Asked { .. } => false,
        })
    }
}

impl Taking {
    /// Whether each has said its clock twice.
    pub(super) fn has_all_again(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.state, PartState::Marked { again: true, .. }))
    }

    /// Each is to say its clock once more.
    pub(super) fn forget_again(&mut self) {
        for part in &mut self.parts {
            if let PartState::Marked { again, .. } = &mut part.state {
                *again = false;
            }
        }
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

    fn at(ms: u64) -> Time {
        Time::default() + Duration::from_millis(ms)
    }

    #[test]
    fn a_cut_is_as_far_ahead_as_clocks_go_by_while_it_is_told() {
        let cut = |went_by: u64, ms: u64, asking_ms: u64, attempts| {
            let asked_again = Some(at(ms - asking_ms));
            let first = First { asked_again, ..First::new(Clock::new(1000 - went_by), at(0)) };
            first.cut(Clock::new(1000), at(ms), attempts).map(Clock::get)
        };
        assert_eq!([cut(0, 100, 1, 0), cut(0, 100, 1, 2)], [Some(1001), Some(1003)]);
        assert_eq!([cut(100, 100, 1, 0), cut(100, 100, 5, 0)], [Some(1021); 2], "soon told");
        assert_eq!([cut(100, 100, 50, 0), cut(100, 100, 50, 1)], [Some(1201), Some(1801)]);
        assert_eq!(cut(10, 200, 25, 0), Some(1006), "asking took long");
        let nobody = Clock::new(u64::MAX);
        assert_eq!(First::new(nobody, at(0)).cut(nobody, at(0), 0), None);
    }

    #[test]
    fn clocks_are_asked_for_again_after_a_while_and_waited_for_not_much_longer() {
        let mut first = First::new(Clock::new(3), at(0));
        assert_eq!(first.go_on(at(9)).asked_again, None);
        assert_eq!(first.go_on(at(10)).asked_again, Some(at(10)));
        assert_eq!(first.go_on(at(90)).asked_again, Some(at(10)));
        assert!(!first.is_too_long_ago(at(260)) && first.is_too_long_ago(at(261)));
    }

    #[test]
    fn clocks_that_go_by_slowly_are_asked_for_once_more_and_no_oftener() {
        let mut first = First::new(Clock::new(3), at(0));
        first.go_on(at(10));
        assert!(!first.wants_later(Clock::new(7)), "four have gone by");
        assert!(!First::new(Clock::new(3), at(0)).wants_later(Clock::new(u64::MAX)), "nobody");
        assert!(first.wants_later(Clock::new(6)));
        assert_eq!(first.go_on(at(49)).asked_again, None);
        assert_eq!(first.go_on(at(50)).asked_again, Some(at(50)));
        assert!(!first.wants_later(Clock::new(3)));
    }
}
