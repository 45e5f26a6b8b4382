//! The workers of a run, as threads or as processes, and what they report.
//!
//! Owns starting them, gathering their reports, and finding out who ended the run. What a worker
//! does is [`work`], the same in both cases.
//!
//! Invariant: a run has succeeded when every worker has said so; else its error names the first
//! cause, and a process that was killed is the cause before those who missed it.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use launch::{ChildEvent, Children};
use learn::data::{ColumnSpec, Share, SourceSpec};
use learn::metrics::{BatchLoss, Metrics};
use learn::{Continue, Epochs, LogisticRegression, Optimizer, Table, learn};
use serde::{Deserialize, Serialize};
use shard::rule::table_spec;
use worker::{Incarnation, JobId, Join, Session, Staleness, TableId, TableSpec, WorkerId};

use super::board::Board;
use super::cluster::{Cluster, Contact};
use super::plan::Plan;
use crate::failure::Failure;
use crate::signals::Stop;

/// How often a worker reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How long one call to the servers may take.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(10);

/// After a first failure, how long others may still tell a better cause.
const CAUSE_WAIT: Duration = Duration::from_millis(500);

/// The only life of a worker so far: a worker that dies ends the job.
pub(crate) const INCARNATION: Incarnation = Incarnation::new(1);

/// The table of the weights.
pub(crate) const WEIGHTS: TableId = TableId::new(0);

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
    /// How a process reaches the servers; a thread is given its session.
    pub(crate) contact: Option<Contact>,
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
    /// It has finished.
    Done(Box<Done>),
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a worker has done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) metrics: Metrics,
    pub(crate) bytes_sent: u64,
    pub(crate) resends: u64,
    pub(crate) bad_rows: u64,
    pub(crate) columns: Option<ColumnSpec>,
    pub(crate) transport: String,
}

impl WorkerPlan {
    /// The plan of worker number `worker`; each reads its share of the batches if it is a process.
    pub(crate) fn new(
        plan: &Plan,
        job: JobId,
        worker: u32,
        contact: Option<Contact>,
    ) -> WorkerPlan {
        let mut source = plan.train.clone();
        if contact.is_some() {
            source.share = Share { index: worker, count: plan.workers };
        }
        WorkerPlan {
            job: job.get(),
            worker,
            workers: plan.workers,
            staleness_clocks: plan.clock.staleness().clocks_max(),
            optimizer: plan.optimizer,
            source,
            epochs: plan.epochs,
            contact,
        }
    }

    pub(crate) fn who(&self) -> WorkerId {
        WorkerId::new(self.worker)
    }

    fn join(&self) -> Join {
        join(JobId::new(self.job), self.workers, Staleness::ssp(self.staleness_clocks))
    }
}

/// The body of everybody's join.
pub(crate) fn join(job: JobId, workers: u32, staleness: Staleness) -> Join {
    Join { job, workers, staleness }
}

/// The definition of the weights' table.
pub(crate) fn weights_spec(optimizer: &Optimizer) -> TableSpec {
    table_spec("weights", 1, &*optimizer.rule())
}

/// The weights' table, as a learner names it.
pub(crate) fn weights_table(optimizer: &Optimizer) -> Table {
    Table::new(WEIGHTS, optimizer.rule().widths(1))
}

/// What one worker does from its first to its last batch.
pub(crate) fn work(
    mut session: Session,
    plan: &WorkerPlan,
    feed: &Epochs,
    stop: &Stop,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let deadline = session.now() + CALL_MAX;
    session.join(plan.join(), deadline).map_err(Failure::failed)?;
    session.define(WEIGHTS, &weights_spec(&plan.optimizer), deadline).map_err(Failure::failed)?;
    let mut learner = LogisticRegression::new(weights_table(&plan.optimizer), &plan.optimizer);
    let mut metrics = Metrics::default();
    let mut reported = Instant::now();
    learn(&mut session, &mut learner, feed, &mut metrics, &mut |metrics| {
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            report(Report::Going { sums: metrics.sums(), fraction: feed.progress().fraction });
        }
        if stop.asked() { Continue::No } else { Continue::Yes }
    })
    .map_err(Failure::failed)?;
    let deadline = session.now() + CALL_MAX;
    session.leave(deadline).map_err(Failure::failed)?;
    let counts = session.counts();
    report(Report::Done(Box::new(Done {
        metrics,
        bytes_sent: session.transport().bytes_sent(),
        resends: counts.resends,
        bad_rows: feed.progress().bad_rows,
        columns: feed.columns(),
        transport: session.transport().name().to_owned(),
    })));
    Ok(())
}

/// Runs the workers as threads that share one reader.
pub(crate) fn run_threads(
    plan: &Plan,
    job: JobId,
    cluster: &Cluster,
    feed: &Epochs,
    stop: &Stop,
    board: &mut Board,
) -> Result<Vec<Done>, Failure> {
    let (sender, reports) = channel();
    std::thread::scope(|scope| {
        for worker in 0..plan.workers {
            let sender: Sender<(usize, Report)> = sender.clone();
            let plan = WorkerPlan::new(plan, job, worker, None);
            let run = move || {
                let mut report = |report| {
                    let _ = sender.send((worker as usize, report));
                };
                let done = cluster
                    .session(plan.who(), INCARNATION)
                    .and_then(|session| work(session, &plan, feed, stop, &mut report));
                if let Err(failure) = done {
                    report(Report::Failed { why: failure.to_string() });
                }
            };
            let name = format!("worker-{worker}");
            std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, run)
                .map_err(|error| Failure::failed(format!("no thread for a worker: {error}")))?;
        }
        drop(sender);
        gather(plan, board, stop, |wait| match reports.recv_timeout(wait) {
            Ok((worker, report)) => Heard::Report(worker, report),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                Heard::Death("a worker's thread ended by a panic".to_owned())
            }
        })
    })
}

/// Runs the workers as processes.
pub(crate) fn run_processes(
    plan: &Plan,
    job: JobId,
    contact: &Contact,
    children: &mut Children,
    stop: &Stop,
    board: &mut Board,
) -> Result<Vec<Done>, Failure> {
    let mut numbers = Vec::new();
    for worker in 0..plan.workers {
        let plan = WorkerPlan::new(plan, job, worker, Some(contact.clone()));
        let line = serde_json::to_string(&plan).map_err(Failure::failed)? + "\n";
        let name = format!("worker {worker}");
        let number = children.spawn(&name, &["worker".to_owned()], &line);
        numbers.push(number.map_err(Failure::failed)?);
    }
    let mut finished = vec![false; numbers.len()];
    let mut told = false;
    gather(plan, board, stop, |wait| {
        if stop.asked() && !told {
            told = true;
            numbers.iter().for_each(|&number| children.child(number).tell("stop\n"));
        }
        let Some((number, event)) = children.next(wait) else { return Heard::Nothing };
        let worker = numbers.iter().position(|&known| known == number);
        match (worker, event) {
            (Some(worker), ChildEvent::Line(line)) => match serde_json::from_str(&line) {
                Ok(report) => {
                    finished[worker] |= matches!(report, Report::Done(_));
                    Heard::Report(worker, report)
                }
                Err(error) => Heard::Death(format!("worker {worker} speaks no JSON: {error}")),
            },
            (Some(worker), ChildEvent::Ended) if finished[worker] => Heard::Nothing,
            (_, ChildEvent::Ended) => Heard::Death(obituary(children, number)),
            (None, ChildEvent::Line(_)) => Heard::Nothing,
        }
    })
}

/// How a child ended, with its name.
fn obituary(children: &mut Children, number: usize) -> String {
    let child = children.child(number);
    match child.ended(CAUSE_WAIT) {
        Some(status) => format!("{} died: {status}", child.name()),
        None => format!("{} closed its output", child.name()),
    }
}

/// What [`gather`] hears.
enum Heard {
    Report(usize, Report),
    /// Somebody ended without a word; the text names who.
    Death(String),
    Nothing,
}

/// Listens until every worker is done, or somebody cannot go on.
fn gather(
    plan: &Plan,
    board: &mut Board,
    stop: &Stop,
    mut hear: impl FnMut(Duration) -> Heard,
) -> Result<Vec<Done>, Failure> {
    let mut done: Vec<Option<Done>> = (0..plan.workers).map(|_| None).collect();
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
                let first = format!("worker {worker}: {why}");
                return Err(Failure::failed(cause(first, &mut hear)));
            }
            Heard::Death(who) => {
                stop.ask();
                return Err(Failure::failed(who));
            }
            Heard::Nothing => {}
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
