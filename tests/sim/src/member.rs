//! One worker of the job: pulls, checks what it sees, pushes, ticks, and mends its links.
//!
//! Owns a session and what this worker has read so far. Which reads are true is left to `ledger`,
//! what it pushes to `step`, how it dies and comes back to `lives`.
//!
//! Invariant: a pull is asked only after the answer to the one before was checked, but for one
//! ahead of its clock, which is asked before the pushes that it waits for.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use shard::rule::{Sum, table_spec};
use worker::{
    Counts, Epoch, Incarnation, JobId, Join, PullTicket, Session, Split, TableId, TableSpec, Time,
    WorkerError, WorkerId,
};

use crate::cluster::{Cluster, Guest};
use crate::failure::Failure;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::lives::Lives;
use crate::plan::Plan;
use crate::random::Random;

pub(crate) const TABLE: TableId = TableId::new(0);
const JOB: JobId = JobId::new(7);

/// How long one call may take, in world time, before it is made again.
const CALL_MAX: Duration = Duration::from_secs(60);

/// How long a worker computes at most, in time-outs of a request.
const THINKING_REQUESTS_MAX: u64 = 8;

/// How often a session that listens is polled at least, in polls a time-out of a request.
const POLLS_A_REQUEST: u32 = 16;

/// How often a look at the links is tried again at once.
const TRIES_MAX: usize = 1000;

/// How often a call is made again.
const CALLS_MAX: usize = 100_000;

/// A worker in the middle of its job.
pub(crate) struct Member {
    pub(crate) worker: u32,
    pub(crate) session: Session,
    /// By shard: the epoch that it was last linked at.
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) random: Random,
    pub(crate) phase: Phase,
    /// The pull for the clock after this one, if it is asked already.
    pub(crate) next: Option<Asked>,
    pub(crate) journal: Journal,
    pub(crate) lives: Lives,
    /// By key: what this worker has pushed.
    pub(crate) pushed: Vec<u64>,
    /// Keys of pushes whose answers nobody has seen yet.
    pub(crate) unanswered: Vec<u64>,
    /// By key: the most this worker has seen.
    seen: Vec<f32>,
    /// Pulls whose keys are pushed at times.
    pub(crate) pulled: Vec<(Rc<Split>, Vec<u64>)>,
    pub(crate) tally: Tally,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) pushes: u64,
    pub(crate) pulls: u64,
    pub(crate) reconnects: u64,
    /// Lives that ended too early.
    pub(crate) deaths: u64,
    /// Of those, the ones that went on sending for a while.
    pub(crate) undead: u64,
}

/// Where a worker is in its loop.
pub(crate) enum Phase {
    /// Dead until then.
    Dead { until: Time },
    /// About to pull, at once or when all of its pushes are answered.
    Asking(When),
    /// Waiting for values.
    Pulling(Asked),
    /// Computing until that moment, listening or not.
    Thinking { until: Time, listening: Listening },
    /// About to push, of the step of this clock the push of this number.
    Pushing { number: usize },
    /// All clocks are ticked, not all is answered.
    Draining,
    /// Done: everything that it pushed is answered.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    AtOnce,
    OncePushesAreAnswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    Yes,
    No,
}

/// A pull under way.
pub(crate) struct Asked {
    ticket: PullTicket,
    split: Rc<Split>,
    keys: Vec<u64>,
    clock: u64,
    /// By index of its key: what this worker itself, or another, knew to be there already.
    own: Vec<u64>,
    /// By index of its key: the most that any worker had seen when it was asked.
    seen: Vec<f32>,
}

impl Member {
    /// A worker that has joined and defined the table.
    pub(crate) fn join(
        cluster: &Cluster,
        seed: u64,
        plan: &Plan,
        worker: u32,
        keys: usize,
    ) -> Result<Member, Failure> {
        let mut member = Member {
            worker,
            session: cluster.session(guest(worker, FIRST_LIFE), plan),
            epochs: Vec::new(),
            random: Random::new(seed, u64::from(worker)),
            journal: Journal::default(),
            lives: Lives::new(seed, worker),
            phase: Phase::Asking(When::AtOnce),
            next: None,
            pushed: vec![0; keys],
            unanswered: Vec::new(),
            seen: vec![0.0; keys],
            pulled: Vec::new(),
            tally: Tally::default(),
        };
        member.take_part(cluster, plan)?;
        Ok(member)
    }

    /// Joins the job and defines the table.
    pub(crate) fn take_part(&mut self, cluster: &Cluster, plan: &Plan) -> Result<(), Failure> {
        let join = Join { job: JOB, workers: plan.workers, staleness: plan.staleness };
        self.call(cluster, |session, deadline| session.join(join, deadline))?;
        let spec = table(plan);
        self.call(cluster, |session, deadline| {
            session.define_coded(TABLE, &spec, plan.codec, deadline)
        })
    }

    /// Takes part for as long as it can without waiting.
    pub(crate) fn act(
        &mut self,
        cluster: &Cluster,
        plan: &Plan,
        ledger: &mut Ledger,
    ) -> Result<(), Failure> {
        let now = cluster.now();
        self.turn_undead(now);
        match self.phase {
            Phase::Dead { until } if now < until => return Ok(()),
            Phase::Dead { .. } => self.begin_life(cluster, plan)?,
            _ => {
                if !self.is_over() && self.dies_in_turn(plan) {
                    self.die(cluster, plan);
                    return Ok(());
                }
            }
        }
        match self.phase {
            Phase::Thinking { until, listening: Listening::No } if now < until => return Ok(()),
            _ => self.listen(cluster)?,
        }
        self.note_answers(ledger);
        loop {
            self.phase = match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Asking(_) if self.session.clock().get() == plan.clocks => Phase::Draining,
                Phase::Asking(when)
                    if when == When::AtOnce || self.session.pushes_outstanding() == 0 =>
                {
                    match self.next.take() {
                        Some(asked) => Phase::Pulling(asked),
                        None => Phase::Pulling(self.ask(plan, ledger, 0)?),
                    }
                }
                Phase::Pulling(asked) if self.session.is_over(&asked.ticket) => {
                    self.check(asked, ledger)?;
                    self.look_ahead(plan, ledger)?;
                    self.think(plan, now)
                }
                Phase::Thinking { until, .. } if now >= until => {
                    self.write_step(plan, ledger);
                    Phase::Pushing { number: 0 }
                }
                Phase::Pushing { number } if self.dies_before_push(plan) => {
                    self.phase = Phase::Pushing { number };
                    self.die(cluster, plan);
                    return Ok(());
                }
                Phase::Pushing { number } => self.push(ledger, number)?,
                Phase::Draining if self.session.pushes_outstanding() == 0 => return Ok(()),
                waits => {
                    self.phase = waits;
                    return Ok(());
                }
            };
        }
    }

    /// Tells the ledger what was acknowledged.
    fn note_answers(&mut self, ledger: &mut Ledger) {
        if self.is_all_answered() {
            ledger.acknowledge(self.unanswered.drain(..));
        }
    }

    /// Whether all that any life of it has pushed is answered.
    fn is_all_answered(&self) -> bool {
        let is_all_pushed = self.session.clock().get() == self.journal.clocks();
        is_all_pushed && self.session.pushes_outstanding() == 0
    }

    /// Whether everything that it pushed is answered.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Lets the world know when it wants to run again. Who does not listen does not park either:
    /// the world finds out in its own time.
    pub(crate) fn park(&mut self, plan: &Plan) {
        let is_deaf = matches!(self.phase, Phase::Thinking { listening: Listening::No, .. });
        if !is_deaf && !matches!(self.phase, Phase::Dead { .. }) {
            // The park returns before time goes on. A session that is polled too seldom takes it
            // that nobody was listening, and would never find a server silent.
            let deadline = self.session.now() + plan.timeouts.request / POLLS_A_REQUEST;
            self.session.park(deadline);
        }
    }

    /// What all keys hold in the end, once every worker is over.
    pub(crate) fn read_all(
        &mut self,
        cluster: &Cluster,
        keys: &[u64],
    ) -> Result<Vec<f32>, Failure> {
        let split = self.session.split(keys).map_err(|error| self.failed(error))?;
        let mut read = Vec::new();
        self.call(cluster, |session, deadline| {
            let ticket = session.pull(TABLE, &split, 1)?;
            let values = session.wait_pull(ticket, deadline)?;
            read = values.to_vec();
            session.recycle(values);
            Ok(())
        })?;
        Ok(read)
    }

    /// How many rows there are, on all shards together.
    pub(crate) fn rows(&mut self, cluster: &Cluster) -> Result<u64, Failure> {
        let mut rows = 0;
        for shard in 0..self.session.shards() {
            let shard = worker::ShardId::new(shard as u16);
            self.call(cluster, |session, deadline| {
                rows += session.measure(shard, TABLE, deadline)?.rows;
                Ok(())
            })?;
        }
        Ok(rows)
    }

    /// Ends its part in the job.
    pub(crate) fn leave(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.call(cluster, Session::leave)
    }

    /// What its session has counted.
    pub(crate) fn counts(&self) -> Counts {
        self.session.counts()
    }

    /// What it is about, for a report.
    pub(crate) fn describe(&self) -> String {
        let phase = match &self.phase {
            Phase::Dead { until } => format!("dead until {} ns", until.nanos()),
            Phase::Asking(_) => "about to pull".to_owned(),
            Phase::Thinking { until, .. } => format!("thinking until {} ns", until.nanos()),
            Phase::Pulling(asked) => format!("pulling for clock {}", asked.clock),
            Phase::Pushing { number } => format!("about to make push {number} of its step"),
            Phase::Draining => "finishing".to_owned(),
            Phase::Over => "over".to_owned(),
        };
        let (owed, links) = (self.session.pushes_outstanding(), self.tally.reconnects);
        format!(
            "worker {} at {}, {phase} (pushes unanswered: {owed}, new links: {links})",
            self.worker,
            self.session.clock()
        )
    }

    /// Takes in what has come, over new links where the old ones broke.
    fn listen(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        cluster.follow(&mut self.session, self.lives.guest(self.worker), &mut self.epochs);
        for _ in 0..TRIES_MAX {
            match self.session.poll() {
                Ok(()) => return Ok(()),
                Err(error) => self.mend(cluster, error)?,
            }
        }
        Err(self.stuck(cluster))
    }

    /// Waits for a call, which is made again where a link broke.
    fn call(
        &mut self,
        cluster: &Cluster,
        mut call: impl FnMut(&mut Session, Time) -> Result<(), WorkerError>,
    ) -> Result<(), Failure> {
        for _ in 0..CALLS_MAX {
            cluster.check()?;
            cluster.follow(&mut self.session, self.lives.guest(self.worker), &mut self.epochs);
            let session = &mut self.session;
            let deadline = session.now() + CALL_MAX;
            match cluster.let_wait(|| call(session, deadline)) {
                Ok(()) => return Ok(()),
                Err(WorkerError::TimedOut { .. }) => {}
                Err(error) => {
                    self.mend(cluster, error)?;
                    cluster.wait_for_news();
                }
            }
        }
        Err(self.stuck(cluster))
    }

    fn mend(&mut self, cluster: &Cluster, error: WorkerError) -> Result<(), Failure> {
        match error {
            WorkerError::ServerLost { server, .. }
            | WorkerError::Silent { server, .. }
            | WorkerError::Moved { server, .. } => {
                self.tally.reconnects += 1;
                cluster.relink(&mut self.session, self.lives.guest(self.worker), &server);
                Ok(())
            }
            error => Err(self.failed(error)),
        }
    }

    /// Often asks for the next clock's values already.
    fn look_ahead(&mut self, plan: &Plan, ledger: &Ledger) -> Result<(), Failure> {
        let goes_on = self.session.clock().get() + 1 < plan.clocks;
        if goes_on && self.random.below(3) == 0 {
            self.next = Some(self.ask(plan, ledger, 1)?);
        }
        Ok(())
    }

    /// Mostly computes for no time at all, sometimes for a few time-outs.
    fn think(&mut self, plan: &Plan, now: Time) -> Phase {
        let request_ns = plan.timeouts.request.as_nanos() as u64;
        let thinks_ns = match self.random.below(1000) < plan.thinks_per_mille {
            true => self.random.below(THINKING_REQUESTS_MAX * request_ns),
            false => 0,
        };
        let until = now + Duration::from_nanos(thinks_ns);
        Phase::Thinking { until, listening: self.random.choose(&[Listening::Yes, Listening::No]) }
    }

    /// Pulls some counters and everybody's clock.
    fn ask(&mut self, plan: &Plan, ledger: &Ledger, ahead: u64) -> Result<Asked, Failure> {
        let mut keys = match plan.pulls_all() {
            true => (0..plan.counters).collect(),
            false => self.some_counters(plan),
        };
        keys.extend(ledger.clock_keys());
        let keys: Vec<u64> = keys.into_iter().collect();
        let split = self.session.split(&keys).map_err(|error| self.failed(error))?;
        let ticket = self.session.pull_ahead(TABLE, &split, 1, ahead);
        let ticket = ticket.map_err(|error| self.failed(error))?;
        self.tally.pulls += 1;
        let all_answered = self.is_all_answered();
        let own = |&key: &u64| match all_answered {
            true => ledger.applied(self.pushed[key as usize]).max(ledger.acknowledged(key)),
            false => ledger.acknowledged(key),
        };
        let own = keys.iter().map(own).collect();
        let seen = keys.iter().map(|&key| ledger.seen(key)).collect();
        Ok(Asked { ticket, split, keys, clock: self.session.clock().get() + ahead, own, seen })
    }

    pub(crate) fn some_counters(&mut self, plan: &Plan) -> BTreeSet<u64> {
        let count = self.random.below(plan.keys_max + 1);
        (0..count).map(|_| self.random.below(plan.counters)).collect()
    }

    /// Checks what a pull that is over has seen.
    fn check(&mut self, asked: Asked, ledger: &mut Ledger) -> Result<(), Failure> {
        let Asked { ticket, split, keys, clock, own, seen } = asked;
        let (worker, now) = (self.worker, self.session.now());
        let values = self.session.wait_pull(ticket, now).map_err(|error| self.failed(error))?;
        let known = own.iter().zip(&seen);
        for ((&key, (&own, &seen)), &found) in keys.iter().zip(known).zip(values.as_slice()) {
            let (floor, pushed) = (ledger.floor(key, clock).max(own), ledger.total(key));
            let before = std::mem::replace(&mut self.seen[key as usize], found);
            if found > pushed as f32 {
                return Err(Failure::Invented { worker, key, pushed, found });
            }
            if found < floor as f32 {
                return Err(Failure::Stale { worker, clock, key, floor, found });
            }
            if found < seen {
                return Err(Failure::Overtaken { worker, key, seen, found });
            }
            ledger.see(key, found);
            if found < before && !ledger.reads_go_back() {
                return Err(Failure::WentBack { worker, key, before, found });
            }
        }
        self.session.recycle(values);
        self.pulled.push((split, keys));
        Ok(())
    }

    pub(crate) fn failed(&self, error: WorkerError) -> Failure {
        Failure::Session { worker: self.worker, error }
    }

    fn stuck(&self, cluster: &Cluster) -> Failure {
        let seconds = cluster.now().nanos() as f64 * 1e-9;
        let state = cluster.with_fleet(|fleet| fleet.describe());
        Failure::Stuck { seconds, members: [self.describe()].into_iter().chain(state).collect() }
    }
}

/// The first life of each worker.
pub(crate) const FIRST_LIFE: Incarnation = Incarnation::new(1);

/// How the cluster knows a worker.
pub(crate) fn guest(worker: u32, life: Incarnation) -> Guest {
    Guest { watch: worker as usize, id: WorkerId::new(worker), life }
}

/// The one table of the job.
pub(crate) fn table(plan: &Plan) -> TableSpec {
    let Plan { life, acknowledge, aggregate, .. } = *plan;
    TableSpec { life, acknowledge, aggregate, ..table_spec("counts", 1, &Sum) }
}
