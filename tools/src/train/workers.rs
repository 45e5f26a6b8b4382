//! The workers of a run, as threads or as processes, and what they report.
//!
//! Owns what a worker is told, running threads, gathering reports, and finding out who ended the
//! run. Processes are left to `lives`; what a worker does is `learn::Job::work` in both cases.
//!
//! Invariant: a run has succeeded when every worker has said so; else its error names the first
//! cause, and a process that was killed is the cause before those who missed it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use learn::data::{ColumnSpec, SourceSpec, Splits};
use learn::metrics::{BatchLoss, Metrics};
use learn::{
    Continue, Epochs, INCARNATION, Job, LogisticRegression, Optimizer, Position, Progress, Table,
    VALUES_MAX, Watch, Worked,
};
use serde::{Deserialize, Serialize};
use worker::{Counts, JobId, RowLife, Staleness, WorkerId};

use super::board::Board;
use super::cluster::{Cluster, Contact};
use super::plan::Plan;
use crate::failure::Failure;
use crate::flags::{AcknowledgeFlag, AdmissionFlag, CodecFlag, ExpiryFlag};
use crate::signals::Stop;

/// How often a worker reports.
const REPORT_EVERY: Duration = Duration::from_millis(25);

/// Reports of threads that nobody has taken yet; then the threads wait.
const REPORTS_MAX: usize = 1024;

/// After a first failure, how long others may still tell a better cause.
pub(super) const CAUSE_WAIT: Duration = Duration::from_millis(500);

/// What one worker needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerPlan {
    pub(crate) job: u64,
    pub(crate) worker: u32,
    pub(crate) workers: u32,
    pub(crate) staleness_clocks: u64,
    pub(crate) optimizer: Optimizer,
    pub(crate) source: SourceSpec,
    pub(crate) epochs: u32,
    /// Of which it is dealt some, in a job of several hosts.
    pub(crate) splits: Option<Splits>,
    /// How it reaches the servers.
    pub(crate) contact: Contact,
    pub(crate) codec: CodecFlag,
    pub(crate) admission: AdmissionFlag,
    pub(crate) expiry: ExpiryFlag,
    pub(crate) acknowledge: AcknowledgeFlag,
    pub(crate) aggregate: bool,
    /// Which of its lives this is, from 1.
    pub(crate) life: u32,
    /// Where it keeps its steps for a later one.
    pub(crate) journal: Option<PathBuf>,
    /// The journal of the life before, if that may still be at work: this one is its backup.
    pub(crate) takes_over: Option<PathBuf>,
    /// How far its place was known to be, if the journals of its lives before may be out of reach.
    pub(crate) known: Option<Progress>,
    /// Whether it says how far it is after each step.
    pub(crate) says_steps: bool,
    /// How long it sleeps after each step.
    pub(crate) pace_ms: u64,
    /// How long another host of its job may be gone, for which it waits.
    pub(crate) patience_ms: u64,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// So far.
    Going {
        /// Sums over its rows.
        sums: BatchLoss,
        /// Part of its data that is read.
        fraction: f64,
    },
    /// It asks which batch or split of this epoch is its next; a [`Dealt`] answers.
    ///
    /// [`Dealt`]: super::dealer::Dealt
    Claim {
        /// Counted from 0.
        epoch: u32,
        /// How far it is.
        reached: Reached,
    },
    /// It waits for what it has asked for, and has come this far.
    Reached(Reached),
    /// It has worked out so many steps, those of its earlier lives included.
    Stepped {
        /// How many.
        steps: u64,
    },
    /// It has fenced the life before, and goes on from here.
    TookOver {
        /// Steps that were worked out before.
        steps: u64,
    },
    /// It has finished.
    Done(Box<Done>),
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// The batch of the newest step in its journal, or one up to which all are done.
    pub(crate) done: Option<Position>,
    /// Up to where all of it is on every shard, as far as is known.
    pub(crate) settled: Option<Progress>,
}

/// What a worker has done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) metrics: Metrics,
    pub(crate) bytes_sent: u64,
    pub(crate) resends: u64,
    pub(crate) traffic: Traffic,
    /// Unreadable rows of the batches that only this worker read.
    pub(crate) bad_rows: u64,
    /// Bytes that it read of the data, packed as they lie there.
    #[serde(default)]
    pub(crate) bytes_read: u64,
    pub(crate) columns: Option<ColumnSpec>,
    /// How often it was started again. All but `metrics` is of its last life alone.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// How often a spare took its place over, since it was late.
    #[serde(default)]
    pub(crate) backups: u32,
    /// Steps, or somewhat more, whose figures are on a host that is gone.
    #[serde(default)]
    pub(crate) steps_untold: u64,
}

/// What a worker's pushes and pulls came to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Pairs of key and delta that were pushed.
    pub(crate) pairs_pushed: u64,
    /// Those of them that messages carried.
    pub(crate) pairs_carried: u64,
    /// Bytes of pushes, headers included.
    pub(crate) push_bytes: u64,
    pub(crate) keys_pulled: u64,
    /// Of them, those that replicas behind heads were asked for.
    #[serde(default)]
    pub(crate) keys_from_replicas: u64,
    /// Bytes of pulls, headers included.
    pub(crate) pull_bytes: u64,
    /// Bytes of the answers to pulls, headers included.
    pub(crate) values_bytes: u64,
}

impl Traffic {
    fn new(counts: &Counts) -> Traffic {
        Traffic {
            pairs_pushed: counts.pairs_pushed,
            pairs_carried: counts.pairs_carried,
            push_bytes: counts.push_bytes,
            keys_pulled: counts.keys_pulled,
            keys_from_replicas: counts.keys_from_replicas,
            pull_bytes: counts.pull_bytes,
            values_bytes: counts.values_bytes,
        }
    }

    /// What several workers came to together.
    pub(crate) fn sum(all: impl Iterator<Item = Traffic>) -> Traffic {
        all.fold(Traffic::default(), |sum, one| Traffic {
            pairs_pushed: sum.pairs_pushed + one.pairs_pushed,
            pairs_carried: sum.pairs_carried + one.pairs_carried,
            push_bytes: sum.push_bytes + one.push_bytes,
            keys_pulled: sum.keys_pulled + one.keys_pulled,
            keys_from_replicas: sum.keys_from_replicas + one.keys_from_replicas,
            pull_bytes: sum.pull_bytes + one.pull_bytes,
            values_bytes: sum.values_bytes + one.values_bytes,
        })
    }
}

impl WorkerPlan {
    /// What a worker is told at the beginning of its first life.
    pub(crate) fn new(plan: &Plan, job: JobId, worker: u32, contact: &Contact) -> WorkerPlan {
        WorkerPlan {
            job: job.get(),
            worker,
            workers: plan.workers,
            staleness_clocks: plan.clock.staleness().clocks_max(),
            optimizer: plan.optimizer,
            source: plan.train.clone(),
            epochs: plan.epochs,
            splits: None,
            contact: contact.clone(),
            codec: plan.codec,
            admission: AdmissionFlag(plan.life.admission),
            expiry: ExpiryFlag(plan.life.expiry),
            acknowledge: AcknowledgeFlag(plan.acknowledge),
            aggregate: plan.aggregate,
            life: INCARNATION.get(),
            journal: None,
            takes_over: None,
            known: None,
            says_steps: plan.backup > 0,
            pace_ms: plan.drill.as_ref().map_or(0, |drill| drill.pace.as_millis() as u64),
            patience_ms: 0,
        }
    }

    pub(crate) fn who(&self) -> WorkerId {
        WorkerId::new(self.worker)
    }

    /// The job that it takes part in, and the table of the weights.
    pub(crate) fn job(&self) -> (Job, Table) {
        let staleness = Staleness::ssp(self.staleness_clocks);
        let id = JobId::new(self.job);
        let life = RowLife { admission: self.admission.0, expiry: self.expiry.0 };
        let (job, weights) = regression(id, self.workers, staleness, &self.optimizer, life);
        let job = job.with_codec(self.codec.0).acknowledged_at(self.acknowledge.0);
        // Whoever was gone has to read, too, before the others get values.
        let values_max = VALUES_MAX + Duration::from_millis(self.patience_ms);
        (job.aggregated(self.aggregate).waiting(values_max), weights)
    }
}

/// The job of a logistic regression, and its only table.
pub(crate) fn regression(
    id: JobId,
    workers: u32,
    staleness: Staleness,
    optimizer: &Optimizer,
    life: RowLife,
) -> (Job, Table) {
    let mut job = Job::new(id, workers, staleness);
    let weights = job.table_with_life("weights", 1, &*optimizer.rule(), life);
    (job, weights)
}

impl Done {
    /// What several workers have done, as one.
    pub(crate) fn sum(all: &[Done]) -> Done {
        let mut metrics = Metrics::default();
        all.iter().for_each(|done| metrics.merge(&done.metrics));
        Done {
            metrics,
            bytes_sent: all.iter().map(|done| done.bytes_sent).sum(),
            resends: all.iter().map(|done| done.resends).sum(),
            traffic: Traffic::sum(all.iter().map(|done| done.traffic)),
            bad_rows: all.iter().map(|done| done.bad_rows).sum(),
            bytes_read: all.iter().map(|done| done.bytes_read).sum(),
            columns: all.iter().find_map(|done| done.columns.clone()),
            restarts: all.iter().map(|done| done.restarts).sum(),
            backups: all.iter().map(|done| done.backups).sum(),
            steps_untold: all.iter().map(|done| done.steps_untold).sum(),
        }
    }

    pub(crate) fn new(worked: Worked, feed: &Epochs) -> Done {
        Done {
            metrics: worked.metrics,
            bytes_sent: worked.bytes_sent,
            resends: worked.counts.resends,
            traffic: Traffic::new(&worked.counts),
            bad_rows: feed.progress().bad_rows,
            bytes_read: feed.progress().bytes_read,
            columns: feed.columns(),
            restarts: 0,
            backups: 0,
            steps_untold: 0,
        }
    }
}

/// Reports a worker's sums every [`REPORT_EVERY`], and looks whether it should stop.
pub(crate) fn watch<'a>(
    feed: &'a Epochs,
    stop: &'a Stop,
    mut report: impl FnMut(Report) + 'a,
) -> Watch<'a> {
    let mut reported = Instant::now();
    Box::new(move |metrics| {
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            report(Report::Going { sums: metrics.sums(), fraction: feed.progress().fraction });
        }
        if stop.asked() { Continue::No } else { Continue::Yes }
    })
}

/// Runs the workers as threads that share one reader.
pub(crate) fn run_threads(
    plan: &Plan,
    (job, weights): (&Job, Table),
    cluster: &Cluster,
    feed: &Epochs,
    stop: &Stop,
    board: &mut Board,
) -> Result<Vec<Done>, Failure> {
    // Whoever only observes reads plain values: what is tested is what the servers hold.
    let job = &job.clone().with_codec(plan.codec.0);
    let (sender, reports) = sync_channel(REPORTS_MAX);
    let learner = |worker| {
        cluster.place(worker);
        LogisticRegression::new(weights, &plan.optimizer)
    };
    let watch = move |worker: WorkerId| {
        let sender = sender.clone();
        watch(feed, stop, move |report| {
            let _ = sender.send((worker, report));
        })
    };
    std::thread::scope(|scope| {
        let job = scope.spawn(move || job.launch(cluster, feed, &learner, &watch));
        // The senders go with the last worker, and the reports end.
        while !job.is_finished() {
            if let Ok((worker, Report::Going { sums, fraction })) =
                reports.recv_timeout(REPORT_EVERY)
            {
                board.note(worker.get() as usize, sums, fraction);
            }
            board.show();
        }
        let worked = job.join().map_err(|_| Failure::failed("the job ended by a panic"))?;
        let worked = worked.map_err(Failure::failed)?;
        for (worker, one) in worked.iter().enumerate() {
            board.note(worker, one.metrics.sums(), 1.0);
        }
        let mut done: Vec<Done> = worked.into_iter().map(|one| Done::new(one, feed)).collect();
        // They share one reader: what it has read is counted once.
        done.iter_mut().skip(1).for_each(|one| (one.bad_rows, one.bytes_read) = (0, 0));
        Ok(done)
    })
}

/// What [`gather`] hears.
pub(super) enum Heard {
    Report(usize, Report),
    /// Somebody ended without a word; the text names who.
    Death(String),
    Nothing,
}

/// Listens until every worker is done, or somebody cannot go on.
///
/// - `places`: the workers' numbers in their job; reports go by their order.
pub(super) fn gather(
    places: Range<u32>,
    board: &mut Board,
    stop: &Stop,
    mut hear: impl FnMut(Duration) -> Heard,
) -> Result<Vec<Done>, Failure> {
    let mut done: Vec<Option<Done>> = places.clone().map(|_| None).collect();
    while done.iter().any(Option::is_none) {
        match hear(REPORT_EVERY) {
            Heard::Report(worker, Report::Going { sums, fraction }) => {
                board.note(worker, sums, fraction);
            }
            Heard::Report(worker, Report::Done(report)) => {
                board.note(worker, report.metrics.sums(), 1.0);
                done[worker] = Some(*report);
            }
            Heard::Report(worker, Report::Failed { why }) => {
                stop.ask();
                let first = format!("worker {}: {why}", places.start + worker as u32);
                return Err(Failure::failed(cause(first, &mut hear)));
            }
            Heard::Death(who) => {
                stop.ask();
                return Err(Failure::failed(who));
            }
            Heard::Report(_, Report::Claim { .. } | Report::Reached { .. })
            | Heard::Report(_, Report::Stepped { .. } | Report::TookOver { .. })
            | Heard::Nothing => {}
        }
        board.show();
    }
    Ok(done.into_iter().flatten().collect())
}

/// A worker that failed may only have missed somebody who died: that one is the cause.
fn cause(first: String, hear: &mut impl FnMut(Duration) -> Heard) -> String {
    let until = Instant::now() + CAUSE_WAIT;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match hear(left) {
            Heard::Death(who) if who.contains(" died: ") => return format!("{who}; {first}"),
            Heard::Death(_) => break,
            _ => {}
        }
    }
    first
}
