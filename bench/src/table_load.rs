//! One shard and its table, driven in this thread: requests in memory, answers in memory.
//!
//! Owns the messages and the clock around `Shard::handle`. Encoding a request is not timed, and
//! nothing moves between cores; checking the message, admission, the index and the rule are timed.
//!
//! Invariant: a push has the sequence after the last one, so each is applied once.

use std::time::{Duration, Instant};

use kernels::Isa;
use kernels::crc32c::crc32c;
use memory::Arena;
use shard::rule::{Rule, Rules, Widths, table_spec};
use shard::{Mutation, Outbox, Outcome, Shard, ShardSpec, Upkeep};
use wire::{
    Announced, Define, Epoch, FRAME_BYTES_MAX, HEADER_BYTES, Header, JobId, Join, Keyed, Kind,
    Message, ScanCursor, Seal, Staleness, Status, TableSize, open, seal,
};

use crate::error::{BenchError, Doing};
use crate::roofs::RoofError;
use crate::verify::GRADIENT;

/// The generation that the shard and the requests agree on.
const EPOCH: Epoch = Epoch::new(1);

/// Requests that the shard lets be in flight: there is but one.
const CREDIT: u16 = 1;

/// A shard with one table, and no other thread or socket about it.
pub struct TableLoad {
    isa: Isa,
    shard: Shard,
    widths: Widths,
    request: Arena<u8>,
    answer: Answer,
    sequence: u64,
    cursor: ScanCursor,
}

impl TableLoad {
    /// An empty table under `rule`.
    ///
    /// - `dim`: values a key. `bytes_max`: what it may take.
    /// - Errors: the kernel gives no memory, or the shard refuses such a table.
    pub fn new(dim: usize, rule: &dyn Rule, bytes_max: u64) -> Result<Self, BenchError> {
        let isa = Isa::detect();
        let shard = Shard::new(ShardSpec {
            isa,
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: bytes_max,
            seed: 1,
            credit: CREDIT,
            mutation: Mutation::None,
        });
        let (request, answer) = (message_memory()?, Answer::new()?);
        let widths = rule.widths(dim);
        let cursor = ScanCursor::START;
        let mut load = TableLoad { isa, shard, widths, request, answer, sequence: 0, cursor };
        let join = Join { job: JobId::new(1), workers: 1, staleness: Staleness::ASP };
        load.ask_with(Kind::Join, &join.to_bytes())?;
        let define = Define::new(&table_spec("bench", dim as u32, rule), Announced::default())
            .expect("a short name");
        load.ask_with(Kind::Define, define.as_bytes())?;
        Ok(load)
    }

    /// Pushes 1 to every value of ascending keys. How long the shard took.
    ///
    /// - Errors: the shard refuses it, as when the table is full.
    pub fn push(&mut self, keys: &[u64], doing: Doing) -> Result<Duration, BenchError> {
        let bytes = Keyed::message_bytes(keys.len(), self.widths.delta);
        let message = &mut self.request.as_mut_slice()[..bytes];
        let (keys_out, deltas_out) = Keyed::body_mut(message, keys.len());
        keys_out.copy_from_slice(keys);
        deltas_out.fill(GRADIENT);
        self.sequence += 1;
        let header = Header {
            sequence: self.sequence,
            keys: keys.len() as u32,
            width: self.widths.delta as u16,
            ..request(Kind::Push)
        };
        self.ask(bytes, header, doing)
    }

    /// Pulls the rows of ascending keys; the load keeps them. How long the shard took.
    ///
    /// - Errors: the shard refuses it.
    pub fn pull(&mut self, keys: &[u64], doing: Doing) -> Result<Duration, BenchError> {
        let bytes = Keyed::message_bytes(keys.len(), 0);
        let message = &mut self.request.as_mut_slice()[..bytes];
        Keyed::body_mut(message, keys.len()).0.copy_from_slice(keys);
        let header = Header { keys: keys.len() as u32, ..request(Kind::Pull) };
        self.ask(bytes, header, doing)
    }

    /// Takes the rows of these keys out. How long the shard took.
    ///
    /// - Errors: the shard refuses it.
    pub fn remove(&mut self, keys: &[u64]) -> Result<Duration, BenchError> {
        let bytes = Keyed::message_bytes(keys.len(), 0);
        let message = &mut self.request.as_mut_slice()[..bytes];
        Keyed::body_mut(message, keys.len()).0.copy_from_slice(keys);
        let header = Header { keys: keys.len() as u32, ..request(Kind::Remove) };
        self.ask(bytes, header, Doing::Push)
    }

    /// Reads whole rows, as many as an answer holds, from where the last scan ended; after the last
    /// row from the first one. How many rows there were, and how long the shard took.
    ///
    /// - Errors: the shard refuses it, as when rows were moved since the last scan.
    pub fn scan(&mut self) -> Result<(usize, Duration), BenchError> {
        let header = Header { clock: self.cursor.get(), ..request(Kind::Scan) };
        let took = self.ask(HEADER_BYTES, header, Doing::Pull)?;
        let (header, _) = self.answer.open(self.isa);
        self.cursor = match ScanCursor::new(header.clock) {
            ScanCursor::END => ScanCursor::START,
            further => further,
        };
        Ok((header.keys as usize, took))
    }

    /// Whether the next scan begins with the first row.
    pub fn is_scanned(&self) -> bool {
        self.cursor == ScanCursor::START
    }

    /// What the last pull gave, `[keys, widths.value]`.
    pub(crate) fn values(&self) -> &[f32] {
        let (_, message) = self.answer.open(self.isa);
        let Message::Values(values) = message else { panic!("a pull gave {message:?}") };
        values
    }

    /// Does a part of the table's upkeep, as a server does between requests. What is left.
    pub(crate) fn tend(&mut self) -> Upkeep {
        self.shard.tend()
    }

    /// What upkeep there is.
    pub(crate) fn upkeep(&self) -> Upkeep {
        self.shard.upkeep()
    }

    /// How large the table is.
    pub(crate) fn size(&mut self) -> Result<TableSize, BenchError> {
        self.ask(HEADER_BYTES, request(Kind::Measure), Doing::Check)?;
        let (_, message) = self.answer.open(self.isa);
        let Message::Size(size) = message else { panic!("a measure gave {message:?}") };
        Ok(size)
    }

    fn ask_with(&mut self, kind: Kind, body: &[u8]) -> Result<Duration, BenchError> {
        let bytes = HEADER_BYTES + body.len();
        self.request.as_mut_slice()[HEADER_BYTES..bytes].copy_from_slice(body);
        self.ask(bytes, request(kind), Doing::Begin)
    }

    /// Has the shard handle the request, whose body stands. How long that took.
    ///
    /// - Errors: the shard refuses it.
    fn ask(&mut self, bytes: usize, header: Header, doing: Doing) -> Result<Duration, BenchError> {
        let message = &mut self.request.as_mut_slice()[..bytes];
        seal(message, header, Seal::HeaderOnly, |bytes| crc32c(self.isa, 0, bytes));
        let start = Instant::now();
        let outcome = self.shard.handle(message, &mut self.answer);
        let elapsed = start.elapsed();
        assert_eq!(outcome, Outcome::Answered, "a well-formed request of an ASP job");
        match self.answer.open(self.isa).0.status() {
            Ok(Status::Refused(refusal)) => Err(BenchError::Refused { doing, refusal }),
            _ => Ok(elapsed),
        }
    }
}

fn request(kind: Kind) -> Header {
    Header { epoch: EPOCH.get(), incarnation: 1, ..Header::new(kind) }
}

/// Room for the longest message, aligned as a slot is.
fn message_memory() -> Result<Arena<u8>, BenchError> {
    let map = |error| BenchError::Roof(RoofError::Map(error));
    let mut bytes = Arena::reserve(FRAME_BYTES_MAX).map_err(map)?;
    bytes.grow_to(FRAME_BYTES_MAX).map_err(|error| BenchError::Roof(RoofError::Grow(error)))?;
    Ok(bytes)
}

/// The way back: memory that the next answer overwrites.
struct Answer {
    memory: Option<Arena<u8>>,
    bytes: usize,
}

/// The memory while an answer is written.
struct AnswerSlot {
    memory: Arena<u8>,
    bytes: usize,
}

impl Answer {
    fn new() -> Result<Answer, BenchError> {
        Ok(Answer { memory: Some(message_memory()?), bytes: 0 })
    }

    /// The last answer.
    fn open(&self, isa: Isa) -> (Header, Message<'_>) {
        let memory = self.memory.as_ref().expect("an answer that was begun was posted");
        let bytes = &memory.as_slice()[..self.bytes];
        open(bytes, |bytes| crc32c(isa, 0, bytes)).expect("a shard's answer is sealed")
    }
}

impl Outbox for Answer {
    type Slot = AnswerSlot;

    fn bytes_max(&self) -> usize {
        FRAME_BYTES_MAX
    }

    fn seal(&self) -> Seal {
        Seal::HeaderOnly
    }

    fn acquire(&mut self, bytes: usize) -> Option<AnswerSlot> {
        self.memory.take().map(|memory| AnswerSlot { memory, bytes })
    }

    fn bytes_mut(slot: &mut AnswerSlot) -> &mut [u8] {
        &mut slot.memory.as_mut_slice()[..slot.bytes]
    }

    fn post(&mut self, slot: AnswerSlot) {
        self.bytes = slot.bytes;
        self.memory = Some(slot.memory);
    }
}

#[cfg(test)]
mod tests {
    use shard::rule::Sum;

    use super::*;

    #[test]
    fn a_table_keeps_its_pushes_and_says_nothing_of_absent_keys() {
        let mut load = TableLoad::new(2, &Sum, 1 << 20).expect("a small table");
        for _ in 0..3 {
            load.push(&[1, 5], Doing::Push).expect("room");
        }
        load.pull(&[1, 4, 5], Doing::Pull).expect("a table that is there");
        let three = 3.0 * GRADIENT;
        assert_eq!(load.values(), [three, three, 0.0, 0.0, three, three]);
        assert_eq!(load.size().expect("a table that is there").rows, 2);
    }

    #[test]
    fn a_scan_gives_every_row_once_and_none_that_was_removed() {
        let mut load = TableLoad::new(1, &Sum, 1 << 20).expect("a small table");
        let keys: Vec<u64> = (0..1000).collect();
        load.push(&keys, Doing::Load).expect("room");
        load.remove(&keys[..400]).expect("a table that is there");
        let mut rows = 0;
        loop {
            rows += load.scan().expect("rows that stay where they are").0;
            if load.is_scanned() {
                break;
            }
        }
        assert_eq!(rows, 600);
    }

    #[test]
    fn a_table_that_is_full_says_so() {
        let mut load = TableLoad::new(2, &Sum, 16).expect("a small table");
        let refused = load.push(&[1, 2, 3], Doing::Load).expect_err("two rows fit");
        assert!(matches!(refused, BenchError::Refused { doing: Doing::Load, .. }), "{refused}");
    }
}
