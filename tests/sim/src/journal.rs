//! The journal: what a worker pushes in each step, written down before any of it is pushed.
//!
//! Owns the steps, which outlive the worker's lives. What of them some shard lacks is the
//! session's to find out.
//!
//! Invariant: a step stays as it was written, so that each life gives its pushes the same numbers.

use std::rc::Rc;

use worker::Split;

/// All steps of a worker, by clock.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    steps: Vec<Step>,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) pushes: Vec<Pushed>,
    pub(crate) ends: Ends,
    /// Pushes that some life has asked its session for.
    pub(crate) noted: usize,
}

/// The keys of one push.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) keys: Vec<u64>,
    /// That of the pull that had the same keys; none in a later life.
    pub(crate) split: Option<Rc<Split>>,
}

/// How a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Its last push ticks.
    WithPush,
    /// A tick follows.
    Apart,
}

impl Journal {
    /// How many steps are written down.
    pub(crate) fn clocks(&self) -> u64 {
        self.steps.len() as u64
    }

    /// Writes the next step down.
    pub(crate) fn write(&mut self, pushes: Vec<Pushed>, ends: Ends) {
        self.steps.push(Step { pushes, ends, noted: 0 });
    }

    /// The step of this clock, if it is written down.
    pub(crate) fn step(&mut self, clock: u64) -> Option<&mut Step> {
        self.steps.get_mut(usize::try_from(clock).ok()?)
    }

    /// Another life begins: splits were the session's.
    pub(crate) fn begin_life(&mut self) {
        let pushes = self.steps.iter_mut().flat_map(|step| &mut step.pushes);
        pushes.for_each(|push| push.split = None);
    }
}
