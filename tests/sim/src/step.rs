//! Steps: what a worker pushes in each clock.
//!
//! Owns the choice, and the order of a step's pushes and its tick. That a later life pushes the
//! same is the `journal`'s.

use std::rc::Rc;

use worker::{Split, Then, WorkerError};

use crate::failure::Failure;
use crate::journal::{Ends, Pushed};
use crate::ledger::Ledger;
use crate::member::{Member, Phase, TABLE, When};
use crate::plan::Plan;

impl Member {
    /// Draws what the next step pushes, and writes it down.
    pub(crate) fn write_step(&mut self, plan: &Plan, ledger: &Ledger) {
        let pushes = 1 + self.random.below(plan.pushes_max);
        let clock_key_at = self.random.below(pushes);
        let draw = |number| {
            if self.random.below(2) == 0 && !self.pulled.is_empty() {
                let at = self.random.below(self.pulled.len() as u64) as usize;
                let (split, keys) = self.pulled[at].clone();
                return Pushed { keys, split: Some(split) };
            }
            let mut keys = self.some_counters(plan);
            if number == clock_key_at {
                keys.insert(ledger.clock_key(self.worker));
            }
            Pushed { keys: keys.into_iter().collect(), split: None }
        };
        let pushes = (0..pushes).map(draw).collect();
        let ends = if self.random.below(3) == 0 { Ends::Apart } else { Ends::WithPush };
        self.journal.write(pushes, ends);
    }

    /// Makes one push of the step that its clock is at, and ends the clock with the last one.
    pub(crate) fn push(&mut self, ledger: &mut Ledger, number: usize) -> Result<Phase, Failure> {
        let clock = self.session.clock().get();
        let (worker, begun) = (self.worker, self.journal.clocks());
        let ahead = Failure::Ahead { worker, clock, begun };
        let step = self.journal.step(clock).ok_or(ahead)?;
        let Pushed { keys, split } = step.pushes[number].clone();
        let (is_last, ends) = (number + 1 == step.pushes.len(), step.ends);
        if number == step.noted {
            step.noted += 1;
            ledger.push(clock, &keys);
            keys.iter().for_each(|&key| self.pushed[key as usize] += 1);
            self.unanswered.extend(&keys);
        }
        let split = match split {
            Some(split) => split,
            None => self.session.split(&keys).map_err(|error| self.failed(error))?,
        };
        let then = if is_last && ends == Ends::WithPush { Then::Tick } else { Then::More };
        self.tally.pushes += 1;
        let pushed = self.push_ones(&split, then);
        let pushed = match is_last && ends == Ends::Apart {
            true => pushed.and_then(|()| self.session.tick()),
            false => pushed,
        };
        pushed.map_err(|error| self.failed(error))?;
        Ok(match is_last {
            false => Phase::Pushing { number: number + 1 },
            // An earlier life has come further.
            true if self.session.clock().get() < self.journal.clocks() => {
                Phase::Pushing { number: 0 }
            }
            true => {
                let when = [When::AtOnce, When::AtOnce, When::OncePushesAreAnswered];
                Phase::Asking(self.random.choose(&when))
            }
        })
    }

    fn push_ones(&mut self, split: &Rc<Split>, then: Then) -> Result<(), WorkerError> {
        let mut deltas = self.session.deltas_buffer(split.keys_count());
        Rc::get_mut(&mut deltas).expect("a fresh buffer is nobody else's").fill(1.0);
        self.session.push(TABLE, split, deltas, 1, then)
    }
}
