//! The engine: one message in, at most one answer out.
//!
//! Owns the order of the checks and what each kind of message does. Tables, members and sequences
//! are left to their own files.
//!
//! Invariant: the slot for an answer is taken before anything changes, so `NoSlot` and `Waiting`
//! leave rows and clocks as they were and the same bytes can be handled again. Only what is known
//! of a worker's keys may have grown by then, which changes no message's meaning.

use kernels::Isa;
use kernels::codec::ValueCodec;
use kernels::crc32c::crc32c;
use wire::{
    Announced, Carried, Clock, Coded, Encoding, Epoch, Flags, HEADER_BYTES, Header, Incarnation,
    Join, KeyForm, Keyed, Keys, Kind, Malformed, Message, Refusal, RowsView, ScanCursor, Seal,
    Status, TableSpec, VALUES_BY_COLUMN, WorkerId,
};
use zerocopy::IntoBytes;

use crate::admission::Verdict;
use crate::answer::{Outbox, REPLY_BYTES, Stamp};
use crate::cursor::{read_cursor, write_cursor};
use crate::decode::{CODECS, Decoded, Decoder, Encoder, answer_bytes, row_shape};
use crate::job::{Job, WORKERS_MAX};
use crate::known_keys::KnownKeys;
use crate::rule::Rules;
use crate::table::{Moment, Places, ScanGoesOn, Upkeep};
use crate::tables::Tables;

/// What a shard is made of.
#[derive(Clone, Debug)]
pub struct ShardSpec {
    /// The instruction set of its kernels.
    pub isa: Isa,
    /// The generation of the routing table that it serves.
    pub epoch: Epoch,
    /// The rules it knows.
    pub rules: Rules,
    /// What one table may take, index included, in bytes.
    pub table_bytes_max: u64,
    /// The order of keys in tables: another one in each shard, or rows that are read from one come
    /// to the other in the order of its lines and crowd the first of them.
    pub seed: u64,
    /// Requests that a worker may have in flight here.
    pub credit: u16,
    /// A defect put in on purpose, so that a test can show that it would be found.
    pub mutation: Mutation,
}

/// A defect put in on purpose. No server sets one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// None.
    #[default]
    None,
    /// A push that was applied before is applied again.
    DuplicatesApplied,
    /// A tick counts when it comes, whether or not the pushes before it have.
    TicksEarly,
    /// A pull is answered at once, however far the slowest worker is behind.
    ReadsEarly,
    /// Whichever key list a push names, it gets the newest one.
    ListsMixedUp,
    /// Numbers of keys are read by the dictionary that is there, whichever they are from.
    GenerationsMixedUp,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It must wait for the clock to advance. Nothing changed; handle it again when
    /// [`Shard::take_progress`] says so.
    Waiting,
    /// There is no room for the answer. Nothing changed; handle it again later.
    NoSlot,
    /// It is no message for a shard, and has no answer. Nothing changed.
    Malformed(Malformed),
}

/// Why a request is not done.
enum Stop {
    Refused(Refusal),
    Waiting,
    NoSlot,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    isa: Isa,
    epoch: Epoch,
    credit: u16,
    mutation: Mutation,
    job: Option<Job>,
    tables: Tables,
    decoder: Decoder,
    encoder: Encoder,
    /// Of the rows of a pull.
    places: Vec<u32>,
    progress: bool,
}

impl Shard {
    /// A shard without tables that serves no job yet.
    pub fn new(spec: ShardSpec) -> Shard {
        let ShardSpec { isa, epoch, rules, table_bytes_max, seed, credit, mutation } = spec;
        let tables = Tables::new(isa, rules, table_bytes_max, seed);
        let (decoder, encoder) = (Decoder::new(isa, mutation), Encoder::new(isa));
        let (job, places, progress) = (None, Vec::new(), false);
        Shard { isa, epoch, credit, mutation, job, tables, decoder, encoder, places, progress }
    }

    /// Does what a message asks for.
    ///
    /// - `bytes`: the whole message, 8-byte aligned.
    /// - `outbox`: the way back to its sender.
    pub fn handle<O: Outbox>(&mut self, bytes: &[u8], outbox: &mut O) -> Outcome {
        let isa = self.isa;
        let (header, message) = match wire::open(bytes, |bytes| crc32c(isa, 0, bytes)) {
            Ok(opened) => opened,
            Err(malformed) => return Outcome::Malformed(malformed),
        };
        let done = match message {
            Message::Pull(keys) => self.pull(&header, Pulled::Plain(keys), outbox),
            Message::CodedPull(coded) => self.pull(&header, Pulled::Coded(coded), outbox),
            Message::Scan => self.scan(&header, outbox),
            Message::Measure => self.measure(&header, outbox),
            Message::Push(keyed) => {
                self.replied(&header, outbox, |shard| shard.push(&header, Pushed::Plain(keyed)))
            }
            Message::CodedPush(coded) => {
                self.replied(&header, outbox, |shard| shard.push(&header, Pushed::Coded(coded)))
            }
            Message::Join(join) => self.replied(&header, outbox, |shard| shard.join(&header, join)),
            Message::Define(spec, announced) => {
                self.replied(&header, outbox, |shard| shard.define(&header, spec, announced))
            }
            Message::Load(rows) => self.replied(&header, outbox, |shard| shard.load(&header, rows)),
            Message::Remove(keys) => {
                self.replied(&header, outbox, |shard| shard.remove(&header, keys))
            }
            Message::Leave => self.replied(&header, outbox, |shard| shard.leave(&header)),
            Message::Hello | Message::Welcome | Message::Values(_) | Message::Reply => {
                return Outcome::Malformed(Malformed::Field { name: "kind" });
            }
            Message::Applied | Message::Nothing | Message::State(_) | Message::Page(_) => {
                return Outcome::Malformed(Malformed::Field { name: "kind" });
            }
            Message::Counts(_) | Message::Filled(_) | Message::Part(_) => {
                return Outcome::Malformed(Malformed::Field { name: "kind" });
            }
            Message::Rows(_) | Message::Size(_) | Message::CodedValues(_) | Message::Lane(_) => {
                return Outcome::Malformed(Malformed::Field { name: "kind" });
            }
        };
        match done {
            Ok(()) => Outcome::Answered,
            Err(Stop::Waiting) => Outcome::Waiting,
            Err(Stop::NoSlot) => Outcome::NoSlot,
            Err(Stop::Refused(refusal)) => {
                let Some(slot) = outbox.acquire(REPLY_BYTES) else { return Outcome::NoSlot };
                self.stamp().reply(outbox, slot, &header, Status::Refused(refusal));
                Outcome::Answered
            }
        }
    }

    /// A worker's connection is gone. If the worker took part in the job, the job has ended:
    /// every member's next request, and every waiting one, is refused with its name.
    pub fn worker_lost(&mut self, worker: WorkerId, incarnation: Incarnation) {
        let lost = self.job.as_mut().is_some_and(|job| job.lose(worker, incarnation));
        self.progress |= lost;
    }

    /// Whether requests that wait should be handled again, since the last time this was asked.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Does a part of the upkeep of tables, some tens of microseconds: whoever turns the shard
    /// calls this while it is [`Upkeep::Owed`] before it handles further long requests, and when
    /// there is nothing else to do. Answers do not depend on it. What is left.
    pub fn tend(&mut self) -> Upkeep {
        self.tables.tend()
    }

    /// What upkeep of tables there is.
    pub fn upkeep(&self) -> Upkeep {
        self.tables.upkeep()
    }

    fn stamp(&self) -> Stamp {
        let slowest = self.job.as_ref().map_or(Clock::default(), Job::slowest);
        Stamp { isa: self.isa, epoch: self.epoch, slowest, credit: self.credit }
    }

    /// Does a request that is answered by a reply: first the slot, then the work.
    fn replied<O: Outbox>(
        &mut self,
        header: &Header,
        outbox: &mut O,
        work: impl FnOnce(&mut Shard) -> Result<Status, Refusal>,
    ) -> Result<(), Stop> {
        let slot = outbox.acquire(REPLY_BYTES).ok_or(Stop::NoSlot)?;
        let status = work(self).unwrap_or_else(Status::Refused);
        self.stamp().reply(outbox, slot, header, status);
        Ok(())
    }

    fn check_epoch(&self, header: &Header) -> Result<(), Refusal> {
        if header.epoch() == self.epoch {
            Ok(())
        } else {
            Err(Refusal::EpochMismatch { shard: self.epoch })
        }
    }

    /// The job, if the sender of this message may speak in it: a member, or an observer.
    fn member_job(&mut self, header: &Header) -> Result<&mut Job, Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        if header.worker() != WorkerId::OBSERVER {
            job.member(header.worker(), header.incarnation())?;
        }
        Ok(job)
    }

    fn join(&mut self, header: &Header, join: Join) -> Result<Status, Refusal> {
        self.check_epoch(header)?;
        let worker = header.worker();
        let is_one = worker == WorkerId::OBSERVER || worker.get() < join.workers;
        if join.workers > WORKERS_MAX || !is_one {
            return Err(Refusal::Malformed);
        }
        let other = |job: &Job| job.id() != join.job;
        if self.job.as_ref().is_some_and(|job| other(job) && job.is_active()) {
            return Err(Refusal::JobMismatch);
        }
        if self.job.as_ref().is_none_or(other) {
            self.tables.clear();
            self.job = Some(Job::new(join));
        }
        let job = self.job.as_mut().expect("it was made above if there was none");
        job.join(worker, header.incarnation(), join)?;
        Ok(Status::Done)
    }

    fn leave(&mut self, header: &Header) -> Result<Status, Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        self.progress |= job.leave(header.worker(), header.incarnation())?;
        Ok(Status::Done)
    }

    fn define(
        &mut self,
        header: &Header,
        spec: TableSpec,
        announced: Announced,
    ) -> Result<Status, Refusal> {
        self.member_job(header)?;
        check_known(announced)?;
        self.tables.define(header.table(), spec)?;
        Ok(Status::Done)
    }

    /// Applies a push exactly once. A push without keys only ticks.
    fn push(&mut self, header: &Header, pushed: Pushed<'_>) -> Result<Status, Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        let moment = job.moment(header);
        let member = job.member(header.worker(), header.incarnation())?;
        match member.admission.verdict(header.sequence()) {
            Verdict::Fresh => {}
            Verdict::Duplicate if self.mutation == Mutation::DuplicatesApplied => {
                let to = (&mut self.tables, moment);
                apply(to, &mut self.decoder, &mut member.known, header, pushed).ok();
                return Ok(Status::Duplicate);
            }
            Verdict::Duplicate => return Ok(Status::Duplicate),
            Verdict::TooNew { newest } => return Err(Refusal::SequenceTooNew { newest }),
        }
        if header.keys > 0 {
            let to = (&mut self.tables, moment);
            apply(to, &mut self.decoder, &mut member.known, header, pushed)?;
        }
        let tick = header.flags().has(Flags::TICK).then(|| header.clock().next());
        let finished = match (member.admission.applied(header.sequence(), tick), self.mutation) {
            (_, Mutation::TicksEarly) => tick,
            (finished, _) => finished,
        };
        if let Some(clock) = finished {
            self.progress |= job.tick(header.worker(), clock);
        }
        Ok(Status::Done)
    }

    fn pull<O: Outbox>(
        &mut self,
        header: &Header,
        pulled: Pulled<'_>,
        outbox: &mut O,
    ) -> Result<(), Stop> {
        let waits = header.worker() != WorkerId::OBSERVER && self.mutation != Mutation::ReadsEarly;
        let stamp = self.stamp();
        self.member_job(header)?;
        let job = self.job.as_mut().expect("the sender is of it");
        let may_read = !waits || job.may_read(header.clock());
        let clock = job.moment(header).clock;
        // Before the wait: messages that come meanwhile may use what this one tells of keys.
        let keys = match pulled {
            Pulled::Plain(keys) => keys.as_slice(),
            Pulled::Coded(coded) => {
                let member = job.member(header.worker(), header.incarnation());
                let known = member.ok().map(|member| &mut member.known);
                self.decoder.pull_keys(header, coded, known)?
            }
        };
        if !may_read {
            return Err(Stop::Waiting);
        }
        let table = self.tables.get(header.table())?;
        let shape = row_shape(table.widths().value, table.spec().dim as usize);
        let codec = answer_codec(header)?;
        let body_bytes = answer_bytes(codec, shape, keys.len());
        check_length(outbox, HEADER_BYTES + body_bytes)?;
        let seal = outbox.seal();
        let mut slot = outbox.acquire(HEADER_BYTES + body_bytes).ok_or(Stop::NoSlot)?;
        let body = &mut O::bytes_mut(&mut slot)[HEADER_BYTES..];
        let mut places = matches!(pulled, Pulled::Coded(_)).then_some(&mut self.places);
        if codec == ValueCodec::F32 {
            table.pull(keys, floats_mut(body), seal, clock, places.as_deref_mut());
        } else {
            let rows = self.encoder.rows_mut(keys.len() * shape.width());
            table.pull(keys, rows, Seal::Body, clock, places.as_deref_mut());
            self.encoder.encode(codec, shape, body);
        }
        if let (Some(at), Ok(member)) = (places, job.member(header.worker(), header.incarnation()))
        {
            let places = Places { at, changes: table.changes() };
            member.known.note_places(header.sequence(), header.table(), places);
        }
        let answer = stamp.header(header, Kind::Values);
        let encoding = Encoding::new(KeyForm::Plain, codec.to_u8(), Carried::All).get();
        let width = shape.width() as u16;
        stamp.send(outbox, slot, Header { keys: header.keys, width, encoding, ..answer });
        Ok(())
    }

    /// Answers whole rows from the cursor on, as many whole lines of the index as a message
    /// holds. Rows that are added meanwhile may be missing.
    fn scan<O: Outbox>(&mut self, header: &Header, outbox: &mut O) -> Result<(), Stop> {
        let now = self.member_job(header)?.now().clock;
        let stamp = self.stamp();
        let table = self.tables.get(header.table())?;
        let (width, lines, changes) = (table.widths().row, table.lines(), table.changes());
        let start = read_cursor(ScanCursor::new(header.clock), lines, changes)?;
        let (mut end, mut rows) = (start, 0);
        while end < lines {
            let more = rows + table.line(end, now).count();
            if Keyed::message_bytes(more, width) > outbox.bytes_max() {
                break;
            }
            (end, rows) = (end + 1, more);
        }
        if end == start && end < lines {
            let bytes_max = outbox.bytes_max() as u32;
            return Err(Stop::Refused(Refusal::TooLarge { bytes_max }));
        }
        let bytes = Keyed::message_bytes(rows, width);
        let mut slot = outbox.acquire(bytes).ok_or(Stop::NoSlot)?;
        let (keys_out, rows_out) = Keyed::body_mut(O::bytes_mut(&mut slot), rows);
        let found = (start..end).flat_map(|line| table.line(line, now));
        for ((key, row), (key_out, row_out)) in
            found.zip(keys_out.iter_mut().zip(rows_out.chunks_exact_mut(width)))
        {
            *key_out = key;
            row_out.copy_from_slice(row);
        }
        table.scanned(if end < lines { ScanGoesOn::Later } else { ScanGoesOn::No });
        let answer = Header {
            keys: rows as u32,
            width: width as u16,
            clock: write_cursor(end, lines, changes).get(),
            ..stamp.header(header, Kind::Rows)
        };
        stamp.send(outbox, slot, answer);
        Ok(())
    }

    fn load(&mut self, header: &Header, rows: RowsView<'_>) -> Result<Status, Refusal> {
        let moment = self.member_job(header)?.now();
        let table = self.tables.get(header.table())?;
        check_width(header, table.widths().row)?;
        let loaded = table.load(rows.keys, rows.rows, moment);
        loaded.map_err(|full| Refusal::TableFull { rows: full.rows })?;
        Ok(Status::Done)
    }

    fn remove(&mut self, header: &Header, keys: &[u64]) -> Result<Status, Refusal> {
        self.member_job(header)?;
        self.tables.get(header.table())?.remove(keys);
        Ok(Status::Done)
    }

    fn measure<O: Outbox>(&mut self, header: &Header, outbox: &mut O) -> Result<(), Stop> {
        self.member_job(header)?;
        let stamp = self.stamp();
        let size = self.tables.get(header.table())?.size();
        let bytes = HEADER_BYTES + wire::SIZE_BODY_BYTES;
        let mut slot = outbox.acquire(bytes).ok_or(Stop::NoSlot)?;
        O::bytes_mut(&mut slot)[HEADER_BYTES..].copy_from_slice(size.as_bytes());
        stamp.send(outbox, slot, stamp.header(header, Kind::Size));
        Ok(())
    }
}

/// A pull's keys, as they came.
#[derive(Clone, Copy)]
enum Pulled<'a> {
    Plain(Keys<'a>),
    Coded(Coded<'a>),
}

/// A push's keys and deltas, as they came.
#[derive(Clone, Copy)]
enum Pushed<'a> {
    Plain(Keyed<'a>),
    Coded(Coded<'a>),
}

/// Adds the deltas of a push to its table.
fn apply(
    (tables, moment): (&mut Tables, Moment),
    decoder: &mut Decoder,
    known: &mut KnownKeys,
    header: &Header,
    pushed: Pushed<'_>,
) -> Result<(), Refusal> {
    let table = tables.get(header.table())?;
    let width = table.widths().delta;
    check_width(header, width)?;
    let Decoded { keys, deltas, places } = match pushed {
        Pushed::Plain(keyed) => {
            let (keys, deltas) = (keyed.keys.as_slice(), keyed.values);
            Decoded { keys, deltas, places: None }
        }
        Pushed::Coded(coded) => {
            decoder.push(header, coded, row_shape(width, table.spec().dim as usize), known)?
        }
    };
    table.push(keys, deltas, moment, places).map_err(|full| Refusal::TableFull { rows: full.rows })
}

/// The codec that a pull's answer shall have.
fn answer_codec(header: &Header) -> Result<ValueCodec, Refusal> {
    let encoding = Encoding::from_u8(header.encoding).expect("`wire::open` checked it");
    ValueCodec::from_u8(encoding.values()).ok_or(Refusal::Malformed)
}

/// Whether this build knows the encodings that a worker will use.
fn check_known(announced: Announced) -> Result<(), Refusal> {
    let known = |raw: u8, by_column: Option<u8>| {
        let values = Encoding::from_u8(raw).map(Encoding::values);
        values.is_some_and(|values| values < CODECS || Some(values) == by_column)
    };
    if known(announced.push, Some(VALUES_BY_COLUMN)) && known(announced.pull, None) {
        Ok(())
    } else {
        Err(Refusal::NoSuchCodec { codecs: CODECS })
    }
}

fn check_width(header: &Header, width: usize) -> Result<(), Refusal> {
    if usize::from(header.width) == width {
        Ok(())
    } else {
        Err(Refusal::WidthMismatch { table: width as u16 })
    }
}

fn check_length<O: Outbox>(outbox: &O, bytes: usize) -> Result<(), Refusal> {
    let bytes_max = outbox.bytes_max();
    if bytes <= bytes_max { Ok(()) } else { Err(Refusal::TooLarge { bytes_max: bytes_max as u32 }) }
}

fn floats_mut(bytes: &mut [u8]) -> &mut [f32] {
    zerocopy::FromBytes::mut_from_bytes(bytes).expect("an answer's slot is 8-byte aligned")
}
