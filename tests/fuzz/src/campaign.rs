//! A campaign: one target fed until it breaks or the budget is spent.
//!
//! Owns the corpus, the loop and the shortening of what broke. Inputs that the code under test
//! answers in a new way join the corpus, so that later ones begin where it got further.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::mutate::mutate;
use crate::random::Random;
use crate::targets::{Target, target};

/// The most inputs that are kept.
const CORPUS_MAX: usize = 512;

/// How many shorter inputs are tried.
const SHORTENINGS_MAX: usize = 2000;

/// Runs between two looks at the clock.
const RUNS_A_LOOK: u64 = 256;

/// How long a campaign goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many runs.
    Runs(u64),
    /// About so long.
    Time(Duration),
}

/// One target and its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// The target's name, one of [`crate::NAMES`].
    pub name: &'static str,
    /// What all inputs follow from.
    pub seed: u64,
}

/// A campaign that nothing broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survived {
    /// Inputs that were fed.
    pub runs: u64,
    /// How many different answers they got.
    pub answers: usize,
    /// How long it took.
    pub took: Duration,
}

/// An input that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Its number in the campaign, from 0.
    pub run: u64,
    /// The input, shortened if a fresh target breaks on it alone.
    pub input: Vec<u8>,
    /// Whether it does.
    pub alone: Alone,
}

/// Whether an input needs those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// A fresh target breaks on it.
    Yes,
    /// Only after the inputs before it: run the campaign again with its seed.
    No,
}

impl Campaign {
    /// Feeds the target.
    ///
    /// - Errors: the first input that broke a promise. The panic's message is on stderr.
    /// - Panics: if there is no such target.
    pub fn run(&self, budget: Budget) -> Result<Survived, Box<Crash>> {
        let began = Instant::now();
        let mut random = Random::new(self.seed);
        let mut fed = self.fresh();
        let mut corpus = fed.inputs();
        let mut answers = BTreeSet::new();
        let mut runs = 0;
        while !is_spent(budget, runs, began) {
            let mut input = corpus[random.index(corpus.len())].clone();
            let other = &corpus[random.index(corpus.len())];
            mutate(&mut input, other, fed.tokens(), &mut random);
            fed.mend(&mut input, &mut random);
            let Some(answer) = feed(&mut *fed, &input) else {
                return Err(Box::new(self.shorten(runs, input)));
            };
            if answers.insert(answer) && corpus.len() < CORPUS_MAX {
                corpus.push(input);
            }
            runs += 1;
        }
        Ok(Survived { runs, answers: answers.len(), took: began.elapsed() })
    }

    fn fresh(&self) -> Box<dyn Target> {
        target(self.name).unwrap_or_else(|| panic!("no target is named {}", self.name))
    }

    fn breaks(&self, input: &[u8]) -> bool {
        feed(&mut *self.fresh(), input).is_none()
    }

    /// Leaves parts out, long ones first, for as long as it still breaks.
    fn shorten(&self, run: u64, mut input: Vec<u8>) -> Crash {
        if !self.breaks(&input) {
            return Crash { run, input, alone: Alone::No };
        }
        let (mut part, mut tries) = (input.len() / 2, 0);
        while part > 0 && tries < SHORTENINGS_MAX {
            let mut start = 0;
            while start + part <= input.len() && tries < SHORTENINGS_MAX {
                let mut shorter = input.clone();
                shorter.drain(start..start + part);
                tries += 1;
                if self.breaks(&shorter) {
                    input = shorter;
                } else {
                    start += part;
                }
            }
            part /= 2;
        }
        Crash { run, input, alone: Alone::Yes }
    }
}

fn is_spent(budget: Budget, runs: u64, began: Instant) -> bool {
    match budget {
        Budget::Runs(runs_max) => runs >= runs_max,
        Budget::Time(time) => runs.is_multiple_of(RUNS_A_LOOK) && began.elapsed() >= time,
    }
}

/// How the target answers; none if it panics.
fn feed(fed: &mut dyn Target, input: &[u8]) -> Option<u64> {
    catch_unwind(AssertUnwindSafe(|| fed.feed(input))).ok()
}
