//! Pushes to a cluster: batches of keys, at full or at a given speed, checked to the last count.
//!
//! Owns what was pushed. What happens to the servers meanwhile, and what is measured of them, is
//! left to the caller.
//!
//! Invariant: each push adds one to each value of its keys, so once everything is acknowledged a
//! row holds exactly what was pushed to it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use learn::INCARNATION;
use shard::rule::{Sum, table_spec};
use wire::{Acknowledge, ServerId, TableSpec, Time};
use worker::{
    ClusterSpec, Counts, JobId, Join, Reading, Session, Staleness, TableId, Then, WorkerError,
    WorkerId, connect_cluster,
};

use crate::error::SpecError;
use crate::keys::KeySet;
use crate::soak::{SoakError, SoakTally};
use crate::spec::PushPullSpec;
use crate::stats::LatencyLog;

const TABLE: TableId = TableId::new(0);
/// Whose pushes are timed and not compared.
const TIMED_AT_TAIL: TableId = TableId::new(1);
const TIMED_AT_HEAD: TableId = TableId::new(2);

/// How long anything may take before the load has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A load with a speed that was held up for longer does not make up for it.
const BEHIND_MAX: Duration = Duration::from_millis(100);

/// What a load is made of.
#[derive(Clone)]
pub struct ClusterLoadSpec {
    /// How the servers are reached; who does, is filled in.
    pub cluster: ClusterSpec,
    /// The job, which has this one worker.
    pub job: JobId,
    /// Keys that the table holds.
    pub resident_keys: usize,
    /// Sorted keys of a push.
    pub keys_per_request: usize,
    /// Values a key.
    pub dim: u16,
    /// Pushes that are under way.
    pub in_flight: usize,
    /// 0 draws all keys alike; 0.99 is the usual skew.
    pub zipf_exponent: f64,
    /// Draws the keys.
    pub seed: u64,
}

/// A worker's session, and what it has pushed.
pub struct ClusterLoad {
    spec: ClusterLoadSpec,
    session: Session,
    keys: KeySet,
    ones: Rc<Vec<f32>>,
    /// By batch.
    pushes: Vec<u64>,
    requests: usize,
}

/// Pulls that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// How many.
    pub pulls: u64,
    /// Values that lack what was pushed before.
    pub wrong: u64,
}

impl ClusterLoadSpec {
    /// Whether it can be drawn.
    ///
    /// # Errors
    ///
    /// Names what is out of its range.
    pub fn check(&self) -> Result<(), SpecError> {
        self.drawn().check()
    }

    pub(crate) fn drawn(&self) -> PushPullSpec {
        PushPullSpec {
            keys_per_request: self.keys_per_request,
            resident_keys: self.resident_keys,
            dim: usize::from(self.dim),
            in_flight: self.in_flight,
            zipf_exponent: self.zipf_exponent,
            seed: self.seed,
            ..PushPullSpec::default()
        }
    }
}

impl ClusterLoad {
    /// Joins, defines the table and pushes each key once.
    ///
    /// # Errors
    ///
    /// There is no session with the cluster, or it cannot go on.
    pub fn begin(spec: ClusterLoadSpec) -> Result<ClusterLoad, SoakError> {
        let mut cluster = spec.cluster.clone();
        cluster.dial.worker = WorkerId::new(0);
        cluster.dial.incarnation = INCARNATION;
        let mut session = connect_cluster(&cluster)?;
        let join = Join { job: spec.job, workers: 1, staleness: Staleness::ASP };
        let until = deadline(&session);
        session.join(join, until)?;
        session.define(TABLE, &table_spec("counters", u32::from(spec.dim), &Sum), until)?;
        let keys = KeySet::draw(&spec.drawn());
        let ones = Rc::new(vec![1.0; spec.keys_per_request * usize::from(spec.dim)]);
        let pushes = vec![0; keys.batches.len()];
        let mut load = ClusterLoad { spec, session, keys, ones, pushes, requests: 0 };
        for number in 0..load.keys.load.len() {
            let batch = std::mem::take(&mut load.keys.load[number]);
            let pushed = load.push(&batch);
            load.keys.load[number] = batch;
            pushed?;
        }
        load.session.wait_pushes(0, deadline(&load.session))?;
        Ok(load)
    }

    /// Pushes one batch after another while `goes_on` says so, and waits for all answers.
    ///
    /// - `keys_per_s`: the speed; none: as fast as answers come.
    /// - `acknowledged`: counts keys, those too of the pushes that may be under way.
    ///
    /// # Errors
    ///
    /// The session cannot go on.
    pub fn push_while(
        &mut self,
        keys_per_s: Option<f64>,
        acknowledged: &AtomicU64,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<(), SoakError> {
        let pause = keys_per_s.map(|rate| self.spec.keys_per_request as f64 / rate);
        let pause = pause.map(Duration::from_secs_f64);
        let mut due = Instant::now();
        while goes_on() {
            if let Some(pause) = pause {
                self.wait_for(due)?;
                due = (due + pause).max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due));
            }
            let number = self.requests % self.keys.batches.len();
            let batch = std::mem::take(&mut self.keys.batches[number]);
            let pushed = self.push(&batch);
            self.keys.batches[number] = batch;
            pushed?;
            self.pushes[number] += 1;
            self.requests += 1;
            acknowledged.fetch_add(self.spec.keys_per_request as u64, Ordering::Relaxed);
        }
        Ok(self.session.wait_pushes(0, deadline(&self.session))?)
    }

    /// Pushes one batch after another, each once the one before is answered, to a table that is
    /// acknowledged there; its rows are compared with nothing. The median and the 99th percentile
    /// of how long an answer took, in microseconds.
    ///
    /// # Errors
    ///
    /// The session cannot go on.
    pub fn time_pushes(
        &mut self,
        at: Acknowledge,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<[f64; 2], SoakError> {
        let until = deadline(&self.session);
        let both = [(TIMED_AT_TAIL, Acknowledge::Tail), (TIMED_AT_HEAD, Acknowledge::Head)];
        for (number, acknowledge) in both {
            let spec = table_spec("timed", u32::from(self.spec.dim), &Sum);
            self.session.define(number, &TableSpec { acknowledge, ..spec }, until)?;
        }
        let table = if at == Acknowledge::Head { TIMED_AT_HEAD } else { TIMED_AT_TAIL };
        let (mut latencies, mut number) = (LatencyLog::new(), 0);
        while goes_on() {
            let split = self.session.split(&self.keys.batches[number])?;
            let (ones, width) = (Rc::clone(&self.ones), self.spec.dim);
            let began = Instant::now();
            self.session.push(table, &split, ones, width, Then::More)?;
            self.session.wait_pushes(0, deadline(&self.session))?;
            latencies.record(began.elapsed());
            number = (number + 1) % self.keys.batches.len();
        }
        self.session.tick()?;
        self.session.wait_pushes(0, deadline(&self.session))?;
        Ok(latencies.p50_p99_us())
    }

    /// Whether pulls go to replicas that are not the head, from here on.
    pub fn read_from(&mut self, reading: Reading) {
        self.session.read_from(reading);
    }

    /// Keys of pulls that each server was asked for so far.
    pub fn keys_by_server(&self) -> HashMap<ServerId, u64> {
        self.session.keys_by_server().collect()
    }

    /// What the session has counted.
    pub fn counts(&self) -> Counts {
        self.session.counts()
    }

    /// Pulls one batch after another while `goes_on` says so, several at a time, and compares what
    /// comes with what was pushed. How many.
    ///
    /// # Errors
    ///
    /// The session cannot go on.
    pub fn pull_while(&mut self, mut goes_on: impl FnMut() -> bool) -> Result<Pulled, SoakError> {
        let mut under_way = VecDeque::new();
        let (mut pulled, mut next) = (Pulled::default(), 0);
        loop {
            let more = goes_on();
            if more {
                let number = next % self.keys.batches.len();
                let split = self.session.split(&self.keys.batches[number])?;
                let ticket = self.session.pull(TABLE, &split, self.spec.dim)?;
                under_way.push_back((number, ticket));
                next += 1;
            }
            if under_way.len() < self.spec.in_flight && more {
                continue;
            }
            let Some((number, ticket)) = under_way.pop_front() else { return Ok(pulled) };
            let until = deadline(&self.session);
            let values = self.session.wait_pull(ticket, until)?;
            // Each key was pushed once before, and in each push of its batch; it may be in others.
            let pushed_min = (1 + self.pushes[number]) as f32;
            pulled.wrong += values.iter().filter(|&&value| value < pushed_min).count() as u64;
            pulled.pulls += 1;
            self.session.recycle(values);
        }
    }

    /// Compares every row with what was pushed to it, and leaves the job.
    ///
    /// # Errors
    ///
    /// The session cannot go on.
    pub fn check(mut self) -> Result<SoakTally, SoakError> {
        let mut expected: HashMap<u64, u64> = HashMap::with_capacity(self.spec.resident_keys);
        self.keys.load.iter().flatten().for_each(|&key| *expected.entry(key).or_default() += 1);
        for (batch, pushes) in self.keys.batches.iter().zip(&self.pushes) {
            batch.iter().for_each(|&key| *expected.entry(key).or_default() += pushes);
        }
        let mut tally = SoakTally { pushes: self.requests as u64, ..SoakTally::default() };
        for keys in &self.keys.load {
            let split = self.session.split(keys)?;
            let ticket = self.session.pull(TABLE, &split, self.spec.dim)?;
            let until = deadline(&self.session);
            let values = self.session.wait_pull(ticket, until)?;
            for (row, key) in keys.iter().enumerate() {
                for &found in values.row(row) {
                    let (found, pushed) = (found as u64, expected[key]);
                    tally.lost += pushed.saturating_sub(found);
                    tally.doubled += found.saturating_sub(pushed);
                }
            }
            self.session.recycle(values);
        }
        let counts = self.session.counts();
        (tally.reconnects, tally.duplicates) = (counts.reconnects, counts.duplicates);
        self.session.leave(deadline(&self.session))?;
        Ok(tally)
    }

    /// Posts a push and waits until there is room for another one.
    fn push(&mut self, keys: &[u64]) -> Result<(), WorkerError> {
        let split = self.session.split(keys)?;
        let values = keys.len() * usize::from(self.spec.dim);
        let ones = match values == self.ones.len() {
            true => Rc::clone(&self.ones),
            false => Rc::new(vec![1.0; values]),
        };
        self.session.push(TABLE, &split, ones, self.spec.dim, Then::Tick)?;
        let outstanding_max = (self.spec.in_flight - 1) * self.session.shards();
        self.session.wait_pushes(outstanding_max, deadline(&self.session))
    }

    /// Takes in answers until it is time for the next push.
    fn wait_for(&mut self, due: Instant) -> Result<(), WorkerError> {
        loop {
            self.session.poll()?;
            self.session.flush();
            let Some(left) = due.checked_duration_since(Instant::now()) else { return Ok(()) };
            self.session.park(after(&self.session, left));
        }
    }
}

fn deadline(session: &Session) -> Time {
    after(session, WAIT_MAX)
}

fn after(session: &Session, wait: Duration) -> Time {
    session.now() + wait
}
