//! The loop of a worker: next batch, pull ahead, step, push, tick.
//!
//! Owns the pipeline of batches whose values are under way, and the waits, each with its
//! deadline. What a batch means is left to the learner.
//!
//! Invariant: one batch is one clock. The pull of a batch carries the clock at which it will be
//! its turn, so that pulling ahead never reads older values than the job allows.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use worker::{Refusal, Session, Then, WorkerError};

use crate::data::{Csr, DataError};
use crate::feed::Feed;
use crate::journal::{JOURNAL_STEPS, Journal, JournalError, ReplayError};
use crate::learner::{Ask, Asked, Io, Learner, Opened, Table, width};
use crate::mark::Position;
use crate::metrics::Metrics;

/// Batches whose values are under way, the one that is worked on included.
pub const PIPELINE_BATCHES: usize = 2;

/// How long a worker waits for values unless its job says otherwise: other workers may be slow, but
/// not for ever.
pub const VALUES_MAX: Duration = Duration::from_secs(120);

/// How long a worker waits for its pushes to be acknowledged.
pub const PUSHES_MAX: Duration = Duration::from_secs(30);

/// Messages of pushes that may be unacknowledged while the worker goes on.
const PUSHES_OUTSTANDING_MAX: usize = 64;

/// Why a worker ends before its data does.
#[derive(Clone, Debug, PartialEq)]
pub enum RunError {
    /// The data.
    Data(DataError),
    /// The servers, or the way to them.
    Worker(WorkerError),
    /// What is kept for a later life of this worker.
    Journal(JournalError),
}

impl RunError {
    /// Whether all that is wrong is that another worker has gone.
    pub(crate) fn misses_worker(&self) -> bool {
        let RunError::Worker(WorkerError::Refused { refusal, .. }) = self else { return false };
        matches!(refusal, Refusal::WorkerLost { .. })
    }
}

impl From<DataError> for RunError {
    fn from(error: DataError) -> RunError {
        RunError::Data(error)
    }
}

impl From<WorkerError> for RunError {
    fn from(error: WorkerError) -> RunError {
        RunError::Worker(error)
    }
}

impl From<JournalError> for RunError {
    fn from(error: JournalError) -> RunError {
        RunError::Journal(error)
    }
}

impl From<ReplayError> for RunError {
    fn from(error: ReplayError) -> RunError {
        match error {
            ReplayError::Journal(error) => RunError::Journal(error),
            ReplayError::Worker(error) => RunError::Worker(error),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Data(error) => error.fmt(f),
            RunError::Worker(error) => error.fmt(f),
            RunError::Journal(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

/// A batch whose values are under way.
struct Ahead {
    batch: Csr,
    asked: Vec<Asked>,
}

/// Learns from all batches of `feed`, then waits until every push is acknowledged.
///
/// - `journal`: where each step is kept before it is pushed. Steps that lives before have left
///   there and some shard lacks are pushed first, and what was counted until then is counted.
/// - `metrics`: predictions made before each batch was learned from.
/// - `after_step`: called after each batch with what has been counted; [`Continue::No`] ends the
///   run after this batch, as if the data ended there.
/// - `values_max`: how long it waits for the values of a batch.
/// - Errors: [`RunError`]; batches before it have been pushed.
pub fn learn<L: Learner<Batch = Csr>>(
    session: &mut Session,
    learner: &mut L,
    feed: &dyn Feed,
    mut journal: Option<&mut Journal>,
    metrics: &mut Metrics,
    after_step: &mut dyn FnMut(&Metrics) -> Continue,
    values_max: Duration,
) -> Result<(), RunError> {
    if let Some(journal) = &mut journal {
        metrics.merge(&journal.replay(session)?);
        pass_over(journal, session, feed)?;
    }
    let mut pipeline = VecDeque::with_capacity(PIPELINE_BATCHES);
    let mut spare = Vec::new();
    let mut opened = Vec::new();
    let mut more = true;
    loop {
        while more && pipeline.len() < PIPELINE_BATCHES {
            let Some(batch) = feed.next()? else {
                more = false;
                break;
            };
            if batch.rows() == 0 {
                // What is here does not wait for more to come.
                feed.recycle(batch);
                if !pipeline.is_empty() {
                    break;
                }
                // Then all of it is known to be done, this split included.
                settle(journal.as_deref_mut(), session, 0)?;
                continue;
            }
            let mut asked: Vec<Asked> = spare.pop().unwrap_or_default();
            let ahead = pipeline.len() as u64;
            learner.wants(&batch, &mut Ask { session, ahead, asked: &mut asked })?;
            session.flush();
            pipeline.push_back(Ahead { batch, asked });
        }
        let Some(Ahead { batch, mut asked }) = pipeline.pop_front() else { break };
        for one in asked.drain(..) {
            opened.push(open(session, one, values_max)?);
        }
        spare.push(asked);
        learner.step(&batch, &mut Io { opened: &mut opened });
        if let Some(journal) = &mut journal {
            learner.score(&batch, metrics);
            settle(Some(journal), session, JOURNAL_STEPS - 1)?;
            let position = Position { epoch: batch.epoch, batch: batch.batch };
            journal.write(session.clock().get(), position, metrics, &opened)?;
            push(session, &mut opened)?;
        } else {
            push(session, &mut opened)?;
            learner.score(&batch, metrics); // While the shards work.
        }
        feed.recycle(batch);
        if after_step(metrics) == Continue::No {
            more = false;
            for ahead in pipeline.drain(..) {
                ahead.asked.into_iter().for_each(|one| session.cancel(one.ticket));
            }
        }
    }
    let deadline = session.now() + PUSHES_MAX;
    session.wait_pushes(0, deadline)?;
    Ok(())
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    /// With the next batch.
    Yes,
    /// It ends here.
    No,
}

/// Waits for the values of one table and makes room for its deltas.
fn open(session: &mut Session, asked: Asked, values_max: Duration) -> Result<Opened, WorkerError> {
    let Asked { table, split, ticket } = asked;
    let deadline = session.now() + values_max;
    let values = session.wait_pull(ticket, deadline)?;
    let mut deltas = session.deltas_buffer(split.keys_count() * table.widths().delta);
    std::rc::Rc::get_mut(&mut deltas).expect("a fresh buffer is nobody else's").fill(0.0);
    Ok(Opened { table, split, values, deltas })
}

/// Passes over the batches of steps that every shard has from lives whose journal is not here.
fn pass_over(journal: &mut Journal, session: &Session, feed: &dyn Feed) -> Result<(), RunError> {
    while journal.steps() < session.clock().get() {
        let Some(batch) = feed.next()? else { break };
        if batch.rows() > 0 {
            journal.pass_over(Position { epoch: batch.epoch, batch: batch.batch });
        }
        feed.recycle(batch);
    }
    Ok(())
}

/// Waits until at most so many steps are not on every shard; the journal may then do without the
/// others.
fn settle(
    journal: Option<&mut Journal>,
    session: &mut Session,
    outstanding_max: u64,
) -> Result<(), RunError> {
    let Some(journal) = journal else { return Ok(()) };
    let deadline = session.now() + PUSHES_MAX;
    session.wait_clocks(outstanding_max, deadline)?;
    journal.settle(session.clock().get() - session.clocks_outstanding());
    Ok(())
}

/// Pushes the deltas of a step; the last push ticks.
fn push(session: &mut Session, opened: &mut Vec<Opened>) -> Result<(), WorkerError> {
    let deadline = session.now() + PUSHES_MAX;
    session.wait_pushes(PUSHES_OUTSTANDING_MAX, deadline)?;
    if opened.is_empty() {
        session.tick()?;
    }
    let last = opened.len().saturating_sub(1);
    for (number, one) in opened.drain(..).enumerate() {
        let Opened { table, split, values, deltas } = one;
        session.recycle(values);
        let then = if number == last { Then::Tick } else { Then::More };
        session.push(table.id, &split, deltas, width(table.widths().delta), then)?;
    }
    session.flush();
    Ok(())
}

/// Reads values for all batches of `feed` and hands them to `score`: a pass that changes nothing.
///
/// - `score`: gets the batch and `[keys, widths.value]` values of its keys.
pub fn read(
    session: &mut Session,
    table: Table,
    feed: &dyn Feed,
    score: &mut dyn FnMut(&Csr, &[f32]) -> Continue,
) -> Result<(), RunError> {
    let mut pipeline = VecDeque::with_capacity(PIPELINE_BATCHES);
    let mut more = true;
    loop {
        while more && pipeline.len() < PIPELINE_BATCHES {
            let Some(batch) = feed.next()? else {
                more = false;
                break;
            };
            let split = session.split(&batch.keys).map_err(RunError::Worker)?;
            let ticket = session.pull(table.id, &split, width(table.widths().value))?;
            session.flush();
            pipeline.push_back((batch, ticket));
        }
        let Some((batch, ticket)) = pipeline.pop_front() else { return Ok(()) };
        let deadline = session.now() + VALUES_MAX;
        let values = session.wait_pull(ticket, deadline)?;
        let go_on = score(&batch, values.as_slice());
        session.recycle(values);
        feed.recycle(batch);
        if go_on == Continue::No {
            for (_, ticket) in pipeline.drain(..) {
                session.cancel(ticket);
            }
            return Ok(());
        }
    }
}
