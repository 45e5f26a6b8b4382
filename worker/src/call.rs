//! Calls: what is asked of shards outside the clock, and waited for at once.
//!
//! Owns join, define, scan, load, measure and leave. Each may be asked twice without harm, so a
//! lost answer costs a time-out and nothing else.
//!
//! Invariant: one call is under way at most, and an answer to an earlier one is dropped.

use transport::RecvSlot;
use wire::{
    Define, HEADER_BYTES, Header, Join, Kind, ScanCursor, ShardId, TableId, TableSize, TableSpec,
    Time,
};
use zerocopy::FromBytes;

use crate::codec::CodecChoice;
use crate::error::{Awaited, WorkerError};
use crate::request::{Body, Origin};
use crate::session::Session;
use crate::turn::Waited;

/// The call under way.
#[derive(Default)]
pub(crate) struct Call {
    /// Counts calls, so that a late answer is not taken for another's.
    number: u64,
    missing: usize,
    answer: Option<RecvSlot>,
    refused: Option<WorkerError>,
}

/// Some whole rows of a table, as one shard holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanPage {
    /// Distinct keys, in no order.
    pub keys: Vec<u64>,
    /// `[keys, width]` f32: values, then the rule's state.
    pub rows: Vec<f32>,
    /// f32 a row.
    pub width: u16,
    /// Where the scan goes on; [`ScanCursor::END`] if no row is left.
    pub next: ScanCursor,
}

impl Call {
    /// Takes in an answer; returns its slot unless it is kept for the caller to read.
    pub(crate) fn arrive(&mut self, number: u64, slot: RecvSlot) -> Option<RecvSlot> {
        if number != self.number {
            return Some(slot);
        }
        self.missing -= 1;
        self.answer.replace(slot)
    }

    /// Notes that a shard refused.
    pub(crate) fn refuse(&mut self, number: u64, error: WorkerError) {
        if number == self.number {
            self.missing -= 1;
            self.refused.get_or_insert(error);
        }
    }
}

impl Session {
    /// Takes part in a job, on every shard, before anything is pushed.
    ///
    /// A worker's place outlives its life. Where an earlier life has worked, this session's clock
    /// is then the least that any shard has finished of it, and it has to push from there on what
    /// the earlier life pushed at each clock: the same keys to the same tables in the same order.
    /// A shard that is ahead is sent nothing, and another one adds only what it lacks, whatever the
    /// deltas.
    ///
    /// - Errors: a shard refuses, [`WorkerError::TimedOut`], or as [`Session::poll`].
    pub fn join(&mut self, join: Join, deadline: Time) -> Result<(), WorkerError> {
        let bytes = join.to_bytes();
        let header = self.header(Kind::Join, TableId::new(0), 0, 0);
        self.call_all(header, || Body::Bytes(bytes.into()), deadline)?;
        self.resume_clock();
        Ok(())
    }

    /// Creates a table on every shard, or checks that it is the same there.
    ///
    /// - `table`: its number: tables are numbered from 0 in the order of definition, the same in
    ///   every worker of a job.
    /// - Errors: [`WorkerError::Spec`], a shard refuses, [`WorkerError::TimedOut`], or as
    ///   [`Session::poll`].
    pub fn define(
        &mut self,
        table: TableId,
        spec: &TableSpec,
        deadline: Time,
    ) -> Result<(), WorkerError> {
        self.define_coded(table, spec, CodecChoice::RAW, deadline)
    }

    /// As [`Session::define`], and from here on this session writes its pushes and pulls of the
    /// table in this codec. Other sessions may use others.
    ///
    /// - Errors: as [`Session::define`]; a server that does not know the codec refuses.
    /// - Panics: if a selection's share is not above 0 and at most 1, or its threshold not a
    ///   number of at least 0.
    pub fn define_coded(
        &mut self,
        table: TableId,
        spec: &TableSpec,
        choice: CodecChoice,
        deadline: Time,
    ) -> Result<(), WorkerError> {
        let choice = match choice {
            CodecChoice::Auto(_) if !self.port.may_damage() => CodecChoice::RAW,
            choice => choice,
        };
        let codec = choice.announced();
        codec.check();
        let define = Define::new(spec, codec.announced()).map_err(WorkerError::Spec)?;
        let header = self.header(Kind::Define, table, 0, 0);
        self.call_all(header, || Body::Bytes(define.as_bytes().as_slice().into()), deadline)?;
        self.codecs.set(table, choice, spec.dim);
        self.note_acknowledged(table, spec.acknowledge);
        Ok(())
    }

    /// Ends this worker's part in the job: nobody waits for its clock again.
    ///
    /// - Errors: as [`Session::join`].
    pub fn leave(&mut self, deadline: Time) -> Result<(), WorkerError> {
        let header = self.header(Kind::Leave, TableId::new(0), 0, 0);
        self.call_all(header, || Body::Nothing, deadline)
    }

    /// Reads some whole rows of one shard's part of a table.
    ///
    /// - `cursor`: [`ScanCursor::START`], then each page's `next`.
    /// - Errors: a shard refuses, [`WorkerError::TimedOut`], or as [`Session::poll`].
    pub fn scan(
        &mut self,
        shard: ShardId,
        table: TableId,
        cursor: ScanCursor,
        deadline: Time,
    ) -> Result<ScanPage, WorkerError> {
        let header = Header { clock: cursor.get(), ..self.header(Kind::Scan, table, 0, 0) };
        let slot = self.call_one(shard, header, Body::Nothing, deadline)?;
        let page = read_page(&slot);
        self.port.transport.release(slot);
        Ok(page)
    }

    /// How large one shard's part of a table is.
    ///
    /// - Errors: as [`Session::scan`].
    pub fn measure(
        &mut self,
        shard: ShardId,
        table: TableId,
        deadline: Time,
    ) -> Result<TableSize, WorkerError> {
        let header = self.header(Kind::Measure, table, 0, 0);
        let slot = self.call_one(shard, header, Body::Nothing, deadline)?;
        let size = TableSize::read_from_bytes(&slot.bytes()[HEADER_BYTES..])
            .expect("`wire::open` checked the length");
        self.port.transport.release(slot);
        Ok(size)
    }

    /// Writes whole rows, as a scan read them, to the shards that own their keys.
    ///
    /// - `keys`: distinct, in any order. `rows`: `[keys, width]` f32.
    /// - Errors: [`WorkerError::WidthTooLarge`], a shard refuses, [`WorkerError::TimedOut`], or
    ///   as [`Session::poll`]. Rows of the messages before are written.
    /// - Panics: if `rows` has another length.
    pub fn load(
        &mut self,
        table: TableId,
        keys: &[u64],
        rows: &[f32],
        width: u16,
        deadline: Time,
    ) -> Result<(), WorkerError> {
        self.call_with_rows(Kind::Load, table, (keys, rows), width, deadline)
    }

    /// Takes rows out of a table, on the shards that own their keys. An absent key is none of them.
    /// Pushes to these keys that are still under way may create their rows again.
    ///
    /// - `keys`: in any order.
    /// - Errors: as [`Session::load`]. Rows of the messages before are taken out.
    pub fn remove(
        &mut self,
        table: TableId,
        keys: &[u64],
        deadline: Time,
    ) -> Result<(), WorkerError> {
        self.call_with_rows(Kind::Remove, table, (keys, &[]), 0, deadline)
    }

    /// Sends keys, each with a row of `width` f32, to the shards that own them.
    fn call_with_rows(
        &mut self,
        kind: Kind,
        table: TableId,
        (keys, rows): (&[u64], &[f32]),
        width: u16,
        deadline: Time,
    ) -> Result<(), WorkerError> {
        let row_len = usize::from(width);
        assert_eq!(rows.len(), keys.len() * row_len, "{} keys of width {width}", keys.len());
        let keys_max = self.port.push_keys_max(row_len)?;
        for shard in 0..self.shards() {
            let owned = |&at: &usize| {
                let key = wire::Key::new(keys[at]);
                self.routing().shard_of(key).index() == shard
            };
            let places: Vec<usize> = (0..keys.len()).filter(owned).collect();
            for places in places.chunks(keys_max) {
                let body = Body::Rows {
                    keys: places.iter().map(|&at| keys[at]).collect(),
                    rows: places
                        .iter()
                        .flat_map(|&at| &rows[at * row_len..][..row_len])
                        .copied()
                        .collect(),
                };
                let header = self.header(kind, table, places.len(), width);
                let slot = self.call_shard(shard, header, body, deadline)?;
                self.port.transport.release(slot);
            }
        }
        Ok(())
    }
}

impl Session {
    /// Asks every shard the same, and waits for all.
    fn call_all(
        &mut self,
        header: Header,
        body: impl Fn() -> Body,
        deadline: Time,
    ) -> Result<(), WorkerError> {
        let origin = self.begin_call(self.shards())?;
        for shard in 0..self.shards() {
            self.admit(shard, header, body(), origin);
        }
        let slot = self.finish_call(origin, header.kind(), deadline)?;
        self.port.transport.release(slot);
        Ok(())
    }

    /// Asks the shard that a person or a scan named.
    fn call_one(
        &mut self,
        shard: ShardId,
        header: Header,
        body: Body,
        deadline: Time,
    ) -> Result<RecvSlot, WorkerError> {
        let shards = self.shards();
        assert!(shard.index() < shards, "{shard} of {shards} shards");
        self.call_shard(shard.index(), header, body, deadline)
    }

    fn call_shard(
        &mut self,
        shard: usize,
        header: Header,
        body: Body,
        deadline: Time,
    ) -> Result<RecvSlot, WorkerError> {
        let origin = self.begin_call(1)?;
        self.admit(shard, header, body, origin);
        self.finish_call(origin, header.kind(), deadline)
    }

    fn begin_call(&mut self, shards: usize) -> Result<Origin, WorkerError> {
        self.check()?;
        self.check_room(1)?;
        let number = self.call.number + 1;
        self.call = Call { number, missing: shards, answer: None, refused: None };
        Ok(Origin::Call(number))
    }

    /// Waits for the answers to a call and returns the last one.
    fn finish_call(
        &mut self,
        origin: Origin,
        kind: Kind,
        deadline: Time,
    ) -> Result<RecvSlot, WorkerError> {
        let is_over =
            |session: &Session| session.call.missing == 0 || session.call.refused.is_some();
        let outcome = match self.wait_until(deadline, is_over) {
            Ok(Waited::Done) => self.call.refused.take().map_or(Ok(()), Err),
            Ok(Waited::Late { since }) => Err(self.timed_out(origin, Awaited::Answer(kind), since)),
            Err(error) => Err(error),
        };
        let answer = self.call.answer.take();
        match outcome {
            Ok(()) => Ok(answer.expect("a call that nobody refused has an answer")),
            Err(error) => {
                for link in &mut self.links {
                    link.forget(origin);
                }
                if let Some(slot) = answer {
                    self.port.transport.release(slot);
                }
                Err(error)
            }
        }
    }
}

/// Copies the rows out of an answer to a scan that was opened.
fn read_page(slot: &RecvSlot) -> ScanPage {
    let (head, body) = slot.bytes().split_first_chunk().expect("`wire::open` found a whole header");
    let header = Header::peek(head).expect("`wire::open` read it");
    let (keys, rows) = <[u64]>::ref_from_prefix_with_elems(body, header.keys as usize)
        .expect("`wire::open` checked the shape, and a slot is aligned");
    let rows = <[f32]>::ref_from_bytes(rows).expect("rows are a multiple of 4 bytes");
    ScanPage {
        keys: keys.to_vec(),
        rows: rows.to_vec(),
        width: header.width,
        next: ScanCursor::new(header.clock),
    }
}
