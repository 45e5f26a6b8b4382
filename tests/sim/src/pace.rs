//! Pace: how much a run may do before it counts as one that does not end.
//!
//! Owns the bounds on events at one moment and in all. The bound on world time is `run`'s.
//!
//! Invariant: whatever the seed, a run ends: what does not is a failure with its seed, and no hang.

use server::Core;
use wire::Time;

use crate::failure::{Event, Failure, Unending};

/// Steps of the world in a run: more than twice what the longest takes of the seeds of chains below
/// 20 000.
const STEPS_MAX: u64 = 10_000_000;

/// Steps of the world at one moment.
const STEPS_AT_ONCE_MAX: u64 = 100_000;

/// Turns that one core takes before it has nothing left to do, at one moment.
const TURNS_AT_ONCE_MAX: u64 = 100_000;

/// What happens to servers and coordinators at one moment.
pub(crate) const HAPPENINGS_AT_ONCE_MAX: u64 = 100_000;

/// The steps of a run.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    steps: u64,
    steps_at_once: u64,
    at: Time,
}

impl Pace {
    /// A step of the world is over, which brought it to this moment.
    ///
    /// - Errors: it was one too many.
    pub(crate) fn note_step(&mut self, now: Time) -> Result<(), Failure> {
        let steps_before = if now > self.at { 0 } else { self.steps_at_once };
        (self.at, self.steps_at_once) = (now, steps_before + 1);
        self.steps += 1;
        if self.steps_at_once >= STEPS_AT_ONCE_MAX {
            return Err(unending(now, Event::StepAtOnce, self.steps_at_once));
        }
        if self.steps >= STEPS_MAX {
            return Err(unending(now, Event::Step, self.steps));
        }
        Ok(())
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}

/// A core turns until it has nothing left to do.
///
/// - Errors: it always has.
pub(crate) fn turn_out(core: &mut Core, now: Time) -> Result<(), Failure> {
    for _ in 0..TURNS_AT_ONCE_MAX {
        if !core.turn() {
            return Ok(());
        }
    }
    Err(unending(now, Event::TurnAtOnce, TURNS_AT_ONCE_MAX))
}

/// The failure of a run in which this happened so often up to this moment.
pub(crate) fn unending(now: Time, event: Event, count: u64) -> Failure {
    Failure::Unending(Unending { seconds: now.nanos() as f64 * 1e-9, event, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_at_one_moment_and_in_all_and_not_before() {
        let (mut pace, now) = (Pace::default(), Time::from_nanos(7));
        for _ in 1..STEPS_AT_ONCE_MAX {
            assert_eq!(pace.note_step(now), Ok(()));
        }
        let at_once = unending(now, Event::StepAtOnce, STEPS_AT_ONCE_MAX);
        assert_eq!(pace.note_step(now), Err(at_once));
        let mut pace = Pace::default();
        for at_ns in 1..STEPS_MAX {
            assert_eq!(pace.note_step(Time::from_nanos(at_ns)), Ok(()));
        }
        let last = Time::from_nanos(STEPS_MAX);
        assert_eq!(pace.note_step(last), Err(unending(last, Event::Step, STEPS_MAX)));
        assert_eq!(pace.steps(), STEPS_MAX);
    }
}
