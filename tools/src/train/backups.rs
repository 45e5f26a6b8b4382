//! Backups: which worker is late with its step, so that a spare shall do it, too.
//!
//! Owns how far each worker is, and since when it could work on its next step: one that has to wait
//! for a slower worker is not late. No clock: times are arguments, in seconds. Spares and processes
//! are left to `lives`.
//!
//! Invariant: of each step of a worker, one spare is asked at most.

use learn::Lateness;

/// No step is late before, in seconds: a spare first has to find its place in the data.
const LATE_MIN_SECONDS: f64 = 0.5;

/// How far the workers are.
#[derive(Debug)]
pub(crate) struct Backups {
    lateness: Lateness,
    /// How many clocks a worker may be ahead of the slowest one.
    ahead_max: u64,
    paces: Vec<Pace>,
}

/// One worker.
#[derive(Clone, Debug, Default)]
struct Pace {
    /// Steps that are worked out.
    steps: u64,
    /// Since when it could work on the next one; none while it waits for others, or its life has
    /// not begun.
    since: Option<f64>,
    has_begun: bool,
    has_ended: bool,
    /// With how many steps it was when a spare was asked last.
    backed_up_at: Option<u64>,
}

impl Backups {
    /// So many workers, which may be so many clocks apart.
    pub(crate) fn new(workers: u32, ahead_max: u64) -> Backups {
        let paces = vec![Pace::default(); workers as usize];
        Backups { lateness: Lateness::default(), ahead_max, paces }
    }

    /// A worker has worked out so many steps.
    pub(crate) fn stepped(&mut self, worker: usize, steps: u64, now: f64) {
        let pace = &mut self.paces[worker];
        if let Some(since) = pace.since.take() {
            self.lateness.note(now - since);
        }
        self.is_at(worker, steps, now);
    }

    /// A spare has a worker's place, which has so many steps in its journal.
    pub(crate) fn took_over(&mut self, worker: usize, steps: u64, now: f64) {
        self.is_at(worker, steps, now);
    }

    /// A worker's life is over: nothing is late before its next one begins.
    pub(crate) fn life_over(&mut self, worker: usize) {
        let pace = &mut self.paces[worker];
        (pace.has_begun, pace.since) = (false, None);
    }

    /// A worker has finished.
    pub(crate) fn ended(&mut self, worker: usize, now: f64) {
        self.paces[worker].has_ended = true;
        self.look(now);
    }

    /// A worker that is late and whose step nobody else does. A spare has to be asked then.
    pub(crate) fn late(&mut self, now: f64) -> Option<usize> {
        let limit = self.lateness.limit_seconds()?.max(LATE_MIN_SECONDS);
        let is_late = |pace: &Pace| {
            let has_spare = pace.backed_up_at == Some(pace.steps);
            !pace.has_ended && !has_spare && pace.since.is_some_and(|since| now - since > limit)
        };
        let worker = self.paces.iter().position(is_late)?;
        self.paces[worker].backed_up_at = Some(self.paces[worker].steps);
        self.life_over(worker);
        Some(worker)
    }

    fn is_at(&mut self, worker: usize, steps: u64, now: f64) {
        let pace = &mut self.paces[worker];
        (pace.steps, pace.has_begun, pace.since) = (steps, true, None);
        self.look(now);
    }

    /// Looks who may work now, and who waits for others.
    fn look(&mut self, now: f64) {
        let at_work = self.paces.iter().filter(|pace| !pace.has_ended);
        let slowest = at_work.map(|pace| pace.steps).min().unwrap_or(u64::MAX);
        for pace in &mut self.paces {
            let may_work = pace.steps <= slowest.saturating_add(self.ahead_max);
            pace.since = pace.since.or(Some(now)).filter(|_| may_work && pace.has_begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough to tell who is late.
    const STEPS: u64 = 20;

    /// Two workers that took a second for each of some steps.
    fn two(ahead_max: u64) -> Backups {
        let mut backups = Backups::new(2, ahead_max);
        for step in 0..=STEPS {
            (0..2).for_each(|worker| backups.stepped(worker, step, step as f64));
        }
        backups
    }

    #[test]
    fn who_is_late_is_said_once_a_step_and_who_waits_for_it_is_not() {
        let mut backups = two(0);
        let begun = STEPS as f64;
        backups.stepped(1, STEPS + 1, begun + 1.0);
        assert_eq!(backups.late(begun + 1.4), None);
        assert_eq!(backups.late(begun + 100.0), Some(0), "worker 1 waits for worker 0");
        assert_eq!(backups.late(begun + 200.0), None);
        backups.took_over(0, STEPS, begun + 201.0);
        assert_eq!(backups.late(begun + 300.0), None, "the step has had its spare");
        backups.stepped(0, STEPS + 1, begun + 301.0);
        // From here on both may work.
        assert_eq!(backups.late(begun + 302.0), None);
        assert_eq!(backups.late(begun + 900.0), Some(0));
        assert_eq!(backups.late(begun + 900.0), Some(1));
    }

    #[test]
    fn who_has_finished_is_not_late_and_holds_nobody_up() {
        let mut backups = two(0);
        let begun = STEPS as f64;
        backups.stepped(1, STEPS + 1, begun + 1.0);
        backups.ended(0, begun + 1.0);
        assert_eq!(backups.late(begun + 100.0), Some(1));
        assert_eq!(backups.late(begun + 100.0), None);
    }

    #[test]
    fn short_steps_are_not_late_at_once() {
        let mut backups = Backups::new(1, 0);
        (0..=STEPS).for_each(|step| backups.stepped(0, step, step as f64 / 1e3));
        let begun = STEPS as f64 / 1e3;
        assert_eq!(backups.late(begun + 0.9 * LATE_MIN_SECONDS), None);
        assert_eq!(backups.late(begun + 1.1 * LATE_MIN_SECONDS), Some(0));
    }
}
