//! A job: its tables, its clock bound, and the workers that take part.
//!
//! Owns what all workers of a job must agree on, and running them as threads of this process.
//! Bringing servers up is left to whoever implements [`Servers`], each worker's loop to `run`.
//!
//! Invariant: every session of a job joins with the same words and defines the same tables in the
//! same order.

use std::fmt;
use std::thread;
use std::time::Duration;

use shard::rule::{Rule, TableSpec, table_spec};
use worker::{
    Acknowledge, CodecChoice, Counts, Incarnation, JobId, Join, RowLife, Servers, Session,
    Staleness, TableId, WorkerError, WorkerId,
};

use crate::data::Csr;
use crate::feed::Feed;
use crate::journal::Journal;
use crate::learner::{Learner, Table};
use crate::metrics::Metrics;
use crate::run::{Continue, RunError, VALUES_MAX, learn};

/// How long joining, defining and leaving may take.
pub const CALL_MAX: Duration = Duration::from_secs(10);

/// The first life of every worker, and the only one where a job ends with a worker.
pub const INCARNATION: Incarnation = Incarnation::new(1);

/// What all workers of a job agree on.
///
/// ```no_run
/// use gradwire_learn::{Continue, Epochs, Job, LogisticRegression, Optimizer};
/// use gradwire_learn::data::SourceSpec;
/// use worker::{JobId, Servers, Staleness};
///
/// fn train(servers: &impl Servers) -> Result<(), Box<dyn std::error::Error>> {
///     let optimizer = Optimizer::Ftrl { alpha: 0.2, beta: 1.0, l1: 0.0, l2: 0.0 };
///     let mut job = Job::new(JobId::new(7), 2, Staleness::ssp(3));
///     let weights = job.table("weights", 1, &*optimizer.rule());
///     let source = SourceSpec { inputs: vec!["day_*.svm".into()], ..SourceSpec::default() };
///     let feed = Epochs::open(source, 1)?;
///     let learner = |_| LogisticRegression::new(weights, &optimizer);
///     job.launch(servers, &feed, &learner, &|_| Box::new(|_| Continue::Yes))?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Job {
    join: Join,
    tables: Vec<TableSpec>,
    codec: CodecChoice,
    values_max: Duration,
}

/// Looks at what one worker has counted, after each of its steps.
pub type Watch<'a> = Box<dyn FnMut(&Metrics) -> Continue + 'a>;

/// What one worker has done.
#[derive(Clone, Debug)]
pub struct Worked {
    /// Predictions made before each batch was learned from.
    pub metrics: Metrics,
    /// Bytes of its requests, headers included.
    pub bytes_sent: u64,
    /// What its session has counted.
    pub counts: Counts,
    /// The transport that moved them.
    pub transport: &'static str,
}

/// Why a job ends before its data does.
#[derive(Clone, Debug, PartialEq)]
pub enum JobError {
    /// A worker has no session.
    NoSession {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A worker cannot go on.
    Run {
        /// Who.
        worker: WorkerId,
        /// Why.
        error: RunError,
    },
    /// A worker's thread could not be started, or ended by a panic.
    Thread {
        /// Who.
        worker: WorkerId,
    },
}

impl Job {
    /// A job without tables. Every worker says the same three things.
    ///
    /// - `id`: names the job on servers that run: another job's tables are dropped.
    /// - `workers`: how many take part, at least 1.
    pub fn new(id: JobId, workers: u32, staleness: Staleness) -> Job {
        let join = Join { job: id, workers, staleness };
        Job { join, tables: Vec::new(), codec: CodecChoice::RAW, values_max: VALUES_MAX }
    }

    /// How all workers write their messages; plain unless this says otherwise.
    #[must_use]
    pub fn with_codec(self, codec: CodecChoice) -> Job {
        Job { codec, ..self }
    }

    /// How long a worker waits for values, which others may hold up; [`VALUES_MAX`] unless this
    /// says otherwise.
    #[must_use]
    pub fn waiting(self, values_max: Duration) -> Job {
        Job { values_max, ..self }
    }

    /// Has the pushes of its tables, those that it has by now, acknowledged there.
    #[must_use]
    pub fn acknowledged_at(mut self, acknowledge: Acknowledge) -> Job {
        self.tables.iter_mut().for_each(|table| table.acknowledge = acknowledge);
        self
    }

    /// Has heads of chains add up the pushes of different workers to its tables, those that it has
    /// by now, or not.
    #[must_use]
    pub fn aggregated(mut self, aggregate: bool) -> Job {
        self.tables.iter_mut().for_each(|table| table.aggregate = aggregate);
        self
    }

    /// Adds a table of `dim` values a key under `rule`, in which every key gets a row and keeps it.
    ///
    /// - Panics: beyond 65,535 tables; a shard refuses far fewer.
    pub fn table(&mut self, name: &str, dim: u32, rule: &dyn Rule) -> Table {
        self.table_with_life(name, dim, rule, RowLife::default())
    }

    /// Adds a table of `dim` values a key under `rule`, whose rows come and go by `life`.
    ///
    /// - Panics: as [`Job::table`].
    pub fn table_with_life(
        &mut self,
        name: &str,
        dim: u32,
        rule: &dyn Rule,
        life: RowLife,
    ) -> Table {
        let number = u16::try_from(self.tables.len()).expect("tables are numbered by 16 bits");
        self.tables.push(TableSpec { life, ..table_spec(name, dim, rule) });
        Table::new(TableId::new(number), rule.widths(dim as usize))
    }

    /// The definitions of its tables, by number.
    pub fn tables(&self) -> &[TableSpec] {
        &self.tables
    }

    /// How many workers take part.
    pub fn workers(&self) -> u32 {
        self.join.workers
    }

    /// Takes part, as a worker or as an observer, and defines the tables.
    ///
    /// - Errors: a shard serves another job or knows another table, or the session has failed.
    pub fn begin(&self, session: &mut Session) -> Result<(), WorkerError> {
        let deadline = session.now() + CALL_MAX;
        session.join(self.join, deadline)?;
        for (number, spec) in self.tables.iter().enumerate() {
            session.define_coded(TableId::new(number as u16), spec, self.codec, deadline)?;
        }
        Ok(())
    }

    /// What one worker does from its first to its last batch: begins, learns, leaves.
    ///
    /// - `journal`: where steps are kept for a later life of this worker, and found by it: see
    ///   [`learn`].
    /// - Errors: [`RunError`]; the shards then miss this worker once its session is dropped.
    pub fn work<L: Learner<Batch = Csr>>(
        &self,
        session: &mut Session,
        learner: &mut L,
        feed: &dyn Feed,
        journal: Option<&mut Journal>,
        watch: &mut dyn FnMut(&Metrics) -> Continue,
    ) -> Result<Worked, RunError> {
        self.begin(session)?;
        let mut metrics = Metrics::default();
        learn(session, learner, feed, journal, &mut metrics, watch, self.values_max)?;
        let deadline = session.now() + CALL_MAX;
        session.leave(deadline)?;
        Ok(Worked {
            metrics,
            bytes_sent: session.transport().bytes_sent(),
            counts: session.counts(),
            transport: session.transport().name(),
        })
    }

    /// Runs all workers as threads of this process, which share `feed`.
    ///
    /// - `learner`: makes each worker's learner, on its thread.
    /// - `watch`: makes what looks at each worker's progress.
    /// - Errors: the first cause: a worker that only misses another one is not it.
    pub fn launch<'w, S: Servers, L: Learner<Batch = Csr>>(
        &self,
        servers: &S,
        feed: &(dyn Feed + Sync),
        learner: &(dyn Fn(WorkerId) -> L + Sync),
        watch: &(dyn Fn(WorkerId) -> Watch<'w> + Sync),
    ) -> Result<Vec<Worked>, JobError> {
        let run = &|worker: WorkerId| {
            let mut session = servers
                .session(worker, INCARNATION)
                .map_err(|error| JobError::NoSession { worker, reason: error.to_string() })?;
            self.work(&mut session, &mut learner(worker), feed, None, &mut watch(worker))
                .map_err(|error| JobError::Run { worker, error })
        };
        let ended: Vec<Result<Worked, JobError>> = thread::scope(|scope| {
            let start = |number: u32| {
                let worker = WorkerId::new(number);
                let name = format!("worker-{number}");
                let thread =
                    thread::Builder::new().name(name).spawn_scoped(scope, move || run(worker));
                (worker, thread)
            };
            let threads: Vec<_> = (0..self.workers()).map(start).collect();
            let end = |(worker, thread): (_, std::io::Result<thread::ScopedJoinHandle<'_, _>>)| {
                let lost = JobError::Thread { worker };
                match thread.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(ended)) => ended,
                    _ => Err(lost),
                }
            };
            threads.into_iter().map(end).collect()
        });
        match ended.iter().filter_map(|one| one.as_ref().err()).min_by_key(|one| one.is_effect()) {
            Some(cause) => Err(cause.clone()),
            None => Ok(ended.into_iter().flatten().collect()),
        }
    }
}

impl JobError {
    /// Whether this is only what another worker's end has caused.
    fn is_effect(&self) -> bool {
        matches!(self, JobError::Run { error, .. } if error.misses_worker())
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::NoSession { worker, reason } => write!(f, "{worker}: {reason}"),
            JobError::Run { worker, error } => write!(f, "{worker}: {error}"),
            JobError::Thread { worker } => {
                write!(f, "{worker}: its thread did not start, or ended by a panic")
            }
        }
    }
}

impl std::error::Error for JobError {}
