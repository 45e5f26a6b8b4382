//! A machine: a thread that has a worker's place, or is a spare.
//!
//! Owns its conversation with the shard and how slow it is. Which batch is whose is left to `desk`.
//!
//! Invariant: a batch counts once, whoever computes it: who takes a place over pushes under the
//! numbers of the life before, which is fenced.

use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use launch::Local;
use wire::{Incarnation, Refusal, TableId, Time, WorkerId};
use worker::{Join, Servers, Session, Then, WorkerError};

use super::desk::{Desk, Handover, Late};
use super::{StragglerSpec, Trouble, table, task};
use crate::error::{BenchError, Doing};
use crate::random::{Random, mix};

pub(super) const TABLE: TableId = TableId::new(0);

/// Values a key.
const WIDTH: u16 = 1;

/// How long any one wait may take.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How often a spare looks whether somebody is late.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// How much slower the permanent straggler is, and a step that is slow by chance.
const PERMANENT_FACTOR: f64 = 5.0;
const SPORADIC_FACTOR: f64 = 10.0;

/// Of how many steps one is slow by chance.
const SPORADIC_ONE_OF: u64 = 20;

/// What all machines of a run share.
pub(super) struct Floor<'a> {
    pub(super) spec: &'a StragglerSpec,
    pub(super) local: &'a Local,
    pub(super) join: Join,
    pub(super) trouble: Trouble,
    /// Whether who has nothing to do is a spare.
    pub(super) backs_up: bool,
    pub(super) began: Instant,
    pub(super) desk: Mutex<Desk>,
}

/// A place that a machine has; without one it is a spare.
struct Held {
    place: u32,
    incarnation: u32,
    session: Session,
}

/// How a worker's part ended.
enum Parting {
    /// There is no batch left.
    Through,
    /// Somebody else has its place.
    Replaced,
}

impl Floor<'_> {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// A session that has joined.
    pub(super) fn session(&self, worker: WorkerId, life: u32) -> Result<Session, BenchError> {
        let mut session = self.local.session(worker, Incarnation::new(life))?;
        let until = deadline(&session);
        session.join(self.join, until).map_err(failed(Doing::Begin))?;
        session.define(TABLE, &table(), until).map_err(failed(Doing::Begin))?;
        Ok(session)
    }
}

/// A machine of the floor, by its number: those behind the places are spares at first.
pub(super) struct Machine<'a> {
    floor: &'a Floor<'a>,
    number: u32,
    random: Random,
}

impl<'a> Machine<'a> {
    pub(super) fn new(floor: &'a Floor<'a>, number: u32) -> Machine<'a> {
        let random = Random::new(mix(floor.spec.seed ^ u64::from(number) << 32));
        Machine { floor, number, random }
    }

    /// Works until all places have left.
    ///
    /// - `session`: of the place that it has at first; none: it is a spare.
    pub(super) fn run(mut self, session: Option<Session>) -> Result<(), BenchError> {
        let (place, incarnation) = (self.number, 1);
        let mut held = session.map(|session| Held { place, incarnation, session });
        loop {
            held = match held {
                Some(held) => match self.work(held)? {
                    Parting::Through if !self.floor.backs_up => return Ok(()),
                    Parting::Through | Parting::Replaced => None,
                },
                None => match self.wait_for_late()? {
                    Some(held) => Some(held),
                    None => return Ok(()),
                },
            };
        }
    }

    /// Does the batches of a place.
    fn work(&mut self, held: Held) -> Result<Parting, BenchError> {
        let Held { place, incarnation, mut session } = held;
        loop {
            let dealt = self.floor.desk().deal(place, incarnation);
            let Some(batch) = dealt else { break };
            match self.step(place, incarnation, batch, &mut session) {
                Ok(()) => {}
                Err(WorkerError::Refused { refusal: Refusal::Fenced { .. }, .. }) => {
                    return Ok(Parting::Replaced);
                }
                Err(error) => return Err(BenchError::Worker { doing: Doing::Push, error }),
            }
            if !self.floor.desk().finish(place, incarnation, self.floor.now()) {
                return Ok(Parting::Replaced);
            }
        }
        if !self.floor.desk().leave(place, incarnation) {
            return Ok(Parting::Replaced);
        }
        session.leave(deadline(&session)).map_err(failed(Doing::Push))?;
        Ok(Parting::Through)
    }

    fn step(
        &mut self,
        place: u32,
        incarnation: u32,
        batch: u64,
        session: &mut Session,
    ) -> Result<(), WorkerError> {
        let keys = task::keys_of(self.floor.spec.seed, batch);
        let weights = pull(session, &keys)?;
        self.floor.desk().computes(place, incarnation, self.floor.now());
        let deltas = self.compute(batch, &keys, &weights);
        push(session, &keys, deltas)
    }

    /// Computes a batch, in the time that this machine takes.
    fn compute(&mut self, batch: u64, keys: &[u64], weights: &[f32]) -> Vec<f32> {
        let begun = Instant::now();
        let factor = match self.floor.trouble {
            Trouble::Permanent if self.number == 0 => PERMANENT_FACTOR,
            Trouble::Sporadic if self.random.below(SPORADIC_ONE_OF) == 0 => SPORADIC_FACTOR,
            _ => 1.0,
        };
        let deltas = task::gradient(self.floor.spec.seed, batch, keys, weights);
        let wanted = self.floor.spec.step.mul_f64(factor);
        sleep(wanted.saturating_sub(begun.elapsed()));
        deltas
    }

    /// Waits until somebody is late, does its batch, and takes its place over. None: all is over.
    fn wait_for_late(&mut self) -> Result<Option<Held>, BenchError> {
        let mut observer = self.floor.session(WorkerId::OBSERVER, 1)?;
        loop {
            if self.floor.desk().is_over() {
                return Ok(None);
            }
            let late = self.floor.desk().late(self.floor.now());
            let Some(late) = late else {
                sleep(LOOK_EVERY);
                continue;
            };
            let keys = task::keys_of(self.floor.spec.seed, late.batch);
            let weights = pull(&mut observer, &keys).map_err(failed(Doing::Pull))?;
            let deltas = self.compute(late.batch, &keys, &weights);
            let handover = self.floor.desk().take_over(late);
            if let Some(handover) = handover {
                return self.take_over(late, handover, &keys, deltas).map(Some);
            }
        }
    }

    fn take_over(
        &mut self,
        late: Late,
        handover: Handover,
        keys: &[u64],
        deltas: Vec<f32>,
    ) -> Result<Held, BenchError> {
        let (place, incarnation) = (late.place, handover.incarnation);
        let mut session = self.floor.session(WorkerId::new(place), incarnation)?;
        // The life before may have pushed in the last moment.
        if session.clock().get() == handover.step {
            push(&mut session, keys, deltas).map_err(failed(Doing::Push))?;
        }
        self.floor.desk().finish(place, incarnation, self.floor.now());
        Ok(Held { place, incarnation, session })
    }
}

pub(super) fn pull(session: &mut Session, keys: &[u64]) -> Result<Vec<f32>, WorkerError> {
    let split = session.split(keys)?;
    let ticket = session.pull(TABLE, &split, WIDTH)?;
    let values = session.wait_pull(ticket, deadline(session))?;
    let weights = values.as_slice().to_vec();
    session.recycle(values);
    Ok(weights)
}

fn push(session: &mut Session, keys: &[u64], deltas: Vec<f32>) -> Result<(), WorkerError> {
    let split = session.split(keys)?;
    session.push(TABLE, &split, Rc::new(deltas), WIDTH, Then::Tick)?;
    session.wait_pushes(0, deadline(session))
}

fn deadline(session: &Session) -> Time {
    session.now() + WAIT_MAX
}

fn failed(doing: Doing) -> impl Fn(WorkerError) -> BenchError {
    move |error| BenchError::Worker { doing, error }
}
