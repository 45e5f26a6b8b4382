//! The load of a soak: workers that count in keys of their own, and one that measures.
//!
//! Owns what was pushed, so that what the servers hold can be compared with it. What befalls the
//! servers and the workers meanwhile is left to the caller.
//!
//! Invariant: a key belongs to one worker, and each push adds one to it; so once everything is
//! acknowledged a key holds exactly what its worker has pushed, and before that something between
//! what was acknowledged and what was pushed. Which keys a worker's n-th push has, its number, the
//! seed and n alone decide, and so does which of its clocks the push belongs to: a later life of it
//! knows what the lives before have pushed.

use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kernels::hash::mix;
use learn::INCARNATION;
use serde::{Deserialize, Serialize};
use shard::rule::{Sum, table_spec};
use wire::TableSpec;
use worker::{
    Acknowledge, ClusterError, ClusterSpec, Incarnation, JobId, Join, Session, Staleness, TableId,
    Then, WorkerError, WorkerId, connect_cluster,
};

use crate::random::Random;

/// Keys of one push of a worker.
const PUSH_KEYS: usize = 256;

/// Messages of pushes that a worker leaves unanswered.
const PUSHES_OUTSTANDING_MAX: usize = 64;

/// Pushes of a worker's clock whose table is acknowledged at the head: all but the one that ends
/// the clock are answered there.
const HEAD_PUSHES_A_CLOCK: u64 = 8;

/// Pushes of a worker between two looks at what it has pushed.
const LOOK_EVERY_PUSHES: u64 = 64;

/// Pushes of a life before its first look: some shards may be ahead of it by as many as were
/// unanswered when the one before ended.
const UNLOOKED_PUSHES: u64 = 4 * LOOK_EVERY_PUSHES;

/// Digits that a probe's time is kept to.
const PROBE_DIGITS: u8 = 3;

/// How long anything may take before the soak has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Counters are exact as long as an f32 can count.
const COUNT_MAX: u64 = 1 << 24;

const TABLE: TableId = TableId::new(0);

/// What all workers of a soak share.
pub struct SoakLoad {
    /// How each of them reaches the servers; who it is, is filled in.
    pub cluster: ClusterSpec,
    /// The job that they take part in.
    pub job: JobId,
    /// How many workers, the one that measures too.
    pub workers: u32,
    /// Keys of each worker.
    pub keys: u64,
    /// Draws the keys of pushes.
    pub seed: u64,
    /// Where pushes are acknowledged.
    pub acknowledge: Acknowledge,
    /// Whether heads add up the pushes of different workers.
    pub aggregate: bool,
    /// When the load began.
    pub started: Instant,
    /// Set once they shall finish: they wait for every answer, and compare.
    pub over: AtomicBool,
    /// What the worker that measures has seen.
    pub probes: Mutex<Probes>,
}

/// What a worker saw that pushes to all shards, one push after another.
#[derive(Debug)]
pub struct Probes {
    /// From the beginning of each probe to its acknowledgement, in microseconds.
    pub took_us: Histogram<u64>,
    /// From each fault to the end of the first probe that began after it, in milliseconds.
    pub recoveries_ms: Vec<f64>,
    /// When faults came that no probe has outlived yet.
    open: Vec<Instant>,
}

/// What one worker found in the end, and on the way; but for `pushes`, in its last life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoakTally {
    /// Pushes of all of its lives, each of some keys; all were acknowledged.
    pub pushes: u64,
    /// Additions that were acknowledged and are not there.
    pub lost: u64,
    /// Additions that are there and were not made.
    pub doubled: u64,
    /// Reads that saw less than was acknowledged, or more than was pushed.
    pub violations: u64,
    /// Links that were replaced.
    pub reconnects: u64,
    /// Pushes that a server had applied before a copy came.
    pub duplicates: u64,
}

/// Why a worker of a soak cannot go on.
#[derive(Debug)]
pub enum SoakError {
    /// There is no session with the cluster.
    Cluster(ClusterError),
    /// The session cannot go on.
    Worker(WorkerError),
}

/// A worker's session, and what it knows to be in its keys.
struct Counter {
    session: Session,
    keys: Vec<u64>,
    /// By key.
    pushed: Vec<u64>,
    /// By key, when everything was acknowledged last.
    acknowledged: Vec<u64>,
    /// Of what all of its lives push.
    seed: u64,
    /// Of what it looks at.
    random: Random,
    /// Pushes of each of its clocks, the last one ends it.
    pushes_a_clock: u64,
    /// Those of the clock that goes on.
    pushes_of_clock: u64,
    tally: SoakTally,
}

/// Pushes at full speed until the soak is over, and then compares. A read that breaks a promise
/// ends it at once.
///
/// - `life`: the worker goes on where the lives before it ended.
/// - `joined`: called once it has begun.
pub fn soak_work(
    load: &SoakLoad,
    worker: u32,
    life: Incarnation,
    joined: impl FnOnce(),
) -> Result<SoakTally, SoakError> {
    let mut counter = Counter::join(load, worker, life)?;
    joined();
    let mut pushes: u64 = 0;
    while !load.over.load(Ordering::Relaxed) {
        counter.push(PUSH_KEYS)?;
        counter.wait(PUSHES_OUTSTANDING_MAX)?;
        pushes += 1;
        if pushes >= UNLOOKED_PUSHES && pushes.is_multiple_of(LOOK_EVERY_PUSHES) {
            counter.wait(0)?;
            counter.look()?;
            if counter.tally.violations > 0 {
                return Ok(counter.tally);
            }
        }
    }
    counter.finish()
}

/// Pushes to all shards, one push after another, until the soak is over: what is seen of a fault.
pub fn soak_probe(load: &SoakLoad, worker: u32) -> Result<SoakTally, SoakError> {
    let mut counter = Counter::join(load, worker, INCARNATION)?;
    while !load.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        counter.push(PUSH_KEYS)?;
        counter.wait(0)?;
        load.probes().note(began, Instant::now());
    }
    counter.finish()
}

impl Default for Probes {
    fn default() -> Probes {
        let took_us = Histogram::new(PROBE_DIGITS).expect("a constant that it takes");
        Probes { took_us, recoveries_ms: Vec::new(), open: Vec::new() }
    }
}

impl Probes {
    fn note(&mut self, began: Instant, ended: Instant) {
        let took_us = u64::try_from((ended - began).as_micros()).unwrap_or(u64::MAX);
        // Of a constant's digits and without a bound, it takes every value.
        let _ = self.took_us.record(took_us);
        let over = self.open.extract_if(.., |at| *at <= began);
        self.recoveries_ms.extend(over.map(|at| (ended - at).as_secs_f64() * 1e3));
    }
}

impl SoakLoad {
    /// Somebody is harmed now.
    pub fn note_fault(&self) {
        self.probes().open.push(Instant::now());
    }

    /// What was measured so far.
    pub fn probes(&self) -> MutexGuard<'_, Probes> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    fn join(load: &SoakLoad, worker: u32, life: Incarnation) -> Result<Counter, SoakError> {
        let mut cluster = load.cluster.clone();
        cluster.dial.worker = WorkerId::new(worker);
        cluster.dial.incarnation = life;
        let mut session = connect_cluster(&cluster)?;
        let deadline = session.now() + WAIT_MAX;
        let join = Join { job: load.job, workers: load.workers, staleness: Staleness::ASP };
        let spec = table_spec("counters", 1, &Sum);
        let SoakLoad { acknowledge, aggregate, .. } = *load;
        let spec = TableSpec { acknowledge, aggregate, ..spec };
        session.join(join, deadline)?;
        session.define(TABLE, &spec, deadline)?;
        let first = u64::from(worker) * load.keys;
        let keys: Vec<u64> = (first..first + load.keys).collect();
        let none = vec![0; keys.len()];
        let seed = load.seed ^ u64::from(worker) << 32;
        let mut counter = Counter {
            session,
            keys,
            pushed: none.clone(),
            acknowledged: none,
            seed,
            random: Random::new(seed),
            pushes_a_clock: match load.acknowledge {
                Acknowledge::Tail => 1,
                Acknowledge::Head => HEAD_PUSHES_A_CLOCK,
            },
            pushes_of_clock: 0,
            tally: SoakTally::default(),
        };
        for step in 0..counter.session.clock().get() * counter.pushes_a_clock {
            let named = counter.draw(step, PUSH_KEYS);
            counter.note_pushed(&named);
        }
        counter.acknowledged.copy_from_slice(&counter.pushed);
        Ok(counter)
    }

    /// Which of its keys this push has, by their places.
    fn draw(&self, step: u64, count: usize) -> Vec<usize> {
        let mut random = Random::new(mix(self.seed ^ mix(step)));
        let stride = (self.keys.len() / count).max(1) as u64;
        let mut at = random.below(stride);
        let mut named = Vec::with_capacity(count);
        while (at as usize) < self.keys.len() && named.len() < count {
            named.push(at as usize);
            at += 1 + random.below((2 * stride - 1).max(1));
        }
        named.retain(|&place| self.pushed[place] < COUNT_MAX);
        named
    }

    fn note_pushed(&mut self, named: &[usize]) {
        named.iter().for_each(|&place| self.pushed[place] += 1);
        self.tally.pushes += 1;
    }

    /// Adds one to so many of its keys.
    fn push(&mut self, count: usize) -> Result<(), SoakError> {
        let step = self.session.clock().get() * self.pushes_a_clock + self.pushes_of_clock;
        let named = self.draw(step, count);
        let keys: Vec<u64> = named.iter().map(|&place| self.keys[place]).collect();
        let split = self.session.split(&keys)?;
        let ones = Rc::new(vec![1.0; keys.len()]);
        self.pushes_of_clock = (self.pushes_of_clock + 1) % self.pushes_a_clock;
        let then = if self.pushes_of_clock == 0 { Then::Tick } else { Then::More };
        self.session.push(TABLE, &split, ones, 1, then)?;
        self.note_pushed(&named);
        Ok(())
    }

    /// Waits until so few messages of pushes are unanswered.
    fn wait(&mut self, outstanding_max: usize) -> Result<(), SoakError> {
        let deadline = self.session.now() + WAIT_MAX;
        self.session.wait_pushes(outstanding_max, deadline)?;
        if outstanding_max == 0 {
            self.acknowledged.copy_from_slice(&self.pushed);
        }
        Ok(())
    }

    /// Reads some of its keys and compares.
    fn look(&mut self) -> Result<(), SoakError> {
        let len = PUSH_KEYS.min(self.keys.len());
        let start = self.random.below((self.keys.len() - len + 1) as u64) as usize;
        let found = self.read(start, len)?;
        for (place, found) in (start..).zip(found) {
            let right = self.acknowledged[place] <= found && found <= self.pushed[place];
            self.tally.violations += u64::from(!right);
        }
        Ok(())
    }

    fn read(&mut self, start: usize, len: usize) -> Result<Vec<u64>, WorkerError> {
        let deadline = self.session.now() + WAIT_MAX;
        let split = self.session.split(&self.keys[start..start + len])?;
        let ticket = self.session.pull(TABLE, &split, 1)?;
        let values = self.session.wait_pull(ticket, deadline)?;
        let found = values.as_slice().iter().map(|&value| value as u64).collect();
        self.session.recycle(values);
        Ok(found)
    }

    /// Waits for everything, and compares every key.
    fn finish(mut self) -> Result<SoakTally, SoakError> {
        if self.pushes_of_clock > 0 {
            self.session.tick()?; // What is answered from here on, all replicas have.
        }
        self.wait(0)?;
        for start in (0..self.keys.len()).step_by(PUSH_KEYS) {
            let len = PUSH_KEYS.min(self.keys.len() - start);
            let found = self.read(start, len)?;
            for (&pushed, found) in self.pushed[start..].iter().zip(found) {
                self.tally.lost += pushed.saturating_sub(found);
                self.tally.doubled += found.saturating_sub(pushed);
            }
        }
        let counts = self.session.counts();
        (self.tally.reconnects, self.tally.duplicates) = (counts.reconnects, counts.duplicates);
        let deadline = self.session.now() + WAIT_MAX;
        self.session.leave(deadline)?;
        Ok(self.tally)
    }
}

impl From<ClusterError> for SoakError {
    fn from(error: ClusterError) -> SoakError {
        SoakError::Cluster(error)
    }
}

impl From<WorkerError> for SoakError {
    fn from(error: WorkerError) -> SoakError {
        SoakError::Worker(error)
    }
}

impl fmt::Display for SoakError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SoakError::Cluster(error) => error.fmt(f),
            SoakError::Worker(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SoakError {}
