//! What a learner is: which keys a batch needs, and what to do with their values.
//!
//! Owns the trait and the two views that the runtime hands to it. The loop, and with it every
//! pull, push and tick, is left to `run`.
//!
//! Invariant: a learner does no I/O, so that the runtime may ask for the next batch's values
//! while a step is under way.

use std::rc::Rc;

use shard::rule::Widths;
use worker::{PullTicket, Session, Split, TableId, Values, WorkerError};

use crate::metrics::Metrics;

/// A table of the job, as a learner names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) id: TableId,
    pub(crate) widths: Widths,
}

impl Table {
    /// The table of this number, whose rule has these widths.
    pub const fn new(id: TableId, widths: Widths) -> Table {
        Table { id, widths }
    }

    /// Its number in the job.
    pub const fn id(self) -> TableId {
        self.id
    }

    /// How many f32 a key has in a delta, a row and a value.
    pub const fn widths(self) -> Widths {
        self.widths
    }
}

/// Learns from one batch after the other.
pub trait Learner {
    /// What it learns from.
    type Batch;

    /// Says which keys of which tables a batch needs. Pure: it may be called long before
    /// [`Learner::step`].
    fn wants(&self, batch: &Self::Batch, ask: &mut Ask<'_>) -> Result<(), WorkerError>;

    /// Reads the values it asked for and writes the deltas.
    fn step(&mut self, batch: &Self::Batch, io: &mut Io<'_>);

    /// Counts the predictions that the step on this batch made before it learned from each row.
    /// Called once the deltas are under way, so that the shards work meanwhile.
    fn score(&self, batch: &Self::Batch, metrics: &mut Metrics);
}

/// Where a learner says what it wants.
pub struct Ask<'a> {
    pub(crate) session: &'a mut Session,
    /// Clocks between the worker's own and the one at which the batch will be its turn.
    pub(crate) ahead: u64,
    pub(crate) asked: &'a mut Vec<Asked>,
}

/// Keys of one table, under way.
pub(crate) struct Asked {
    pub(crate) table: Table,
    pub(crate) split: Rc<Split>,
    pub(crate) ticket: PullTicket,
}

impl Ask<'_> {
    /// Asks for the values of strictly ascending keys.
    ///
    /// - Errors: keys out of order, or the session has failed.
    pub fn keys(&mut self, table: Table, keys: &[u64]) -> Result<(), WorkerError> {
        let split = self.session.split(keys)?;
        let ticket =
            self.session.pull_ahead(table.id, &split, width(table.widths.value), self.ahead)?;
        self.asked.push(Asked { table, split, ticket });
        Ok(())
    }
}

/// What a step reads and writes.
pub struct Io<'a> {
    pub(crate) opened: &'a mut [Opened],
}

/// One table's part of a step.
pub(crate) struct Opened {
    pub(crate) table: Table,
    pub(crate) split: Rc<Split>,
    pub(crate) values: Values,
    pub(crate) deltas: Rc<Vec<f32>>,
}

impl Io<'_> {
    /// The values of the keys that were asked for, `[keys, widths.value]`, and their deltas,
    /// `[keys, widths.delta]`, which are zeros at first.
    ///
    /// Panics: if the learner did not ask for this table.
    pub fn open(&mut self, table: Table) -> (&[f32], &mut [f32]) {
        let opened = self.opened.iter_mut().find(|one| one.table == table);
        let opened = opened.expect("a step opens what it asked for");
        let deltas = Rc::get_mut(&mut opened.deltas).expect("nobody else holds the deltas yet");
        (opened.values.as_slice(), deltas)
    }
}

pub(crate) fn width(width: usize) -> u16 {
    u16::try_from(width).expect("a shard refuses tables with wider rows")
}
