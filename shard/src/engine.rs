//! The engine: one message in, at most one answer out.
//!
//! Owns the order of the checks, and who may speak. What a message changes is left to `change`,
//! what it reads to `read`; tables, members and sequences to their own files.
//!
//! Invariant: the slot for an answer is taken before anything changes, so `NoSlot` and `Waiting`
//! leave rows and clocks as they were and the same bytes can be handled again. Only what is known
//! of a worker's keys may have grown by then, which changes no message's meaning.

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{
    Clock, Epoch, HEADER_BYTES, Header, Incarnation, JOINED_BODY_BYTES, JobId, Join, Kind,
    Malformed, Message, Refusal, Status, TableSize, WorkerId,
};
use zerocopy::IntoBytes;

use crate::answer::{Outbox, REPLY_BYTES, Stamp};
use crate::change::{Nowhere, Sink, is_change};
use crate::decode::{Decoder, Encoder};
use crate::hot::{HOT_KEYS_MAX, HotKey, HotKeys};
use crate::job::Job;
use crate::read::Pulled;
use crate::room::Room;
use crate::rule::Rules;
use crate::table::Upkeep;
use crate::tables::Tables;
use crate::tally::Tally;

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
    /// In a chain, what was applied here counts as acknowledged by the tail.
    AcksEarly,
    /// A new head does not know the pushes that the one before has applied.
    PushesForgotten,
    /// Servers do not compare the epochs of their chain: a successor takes operations of one that
    /// is over, and who sent them its word.
    StaleEpochsTaken,
    /// A replica answers a pull that its own clocks do not permit yet.
    ReplicasReadEarly,
    /// A replica answers a pull without the pushes that its sender sent before.
    OwnPushesMissed,
    /// A head answers before the tail has what the answer shows.
    AnswersNotHeld,
    /// A head answers pulls however long ago its chain last heard of it, and a new one at once.
    PromisesBroken,
    /// Rows that move or are added while a replica is filled are not sent.
    MovedRowsMissed,
    /// Who is filled is told that it has all after the first page.
    FilledEarly,
    /// Operations that a successor may lack are forgotten when the chain changes.
    LogDropped,
    /// A tick ends two clocks.
    TicksTwice,
    /// A head that was replaced goes on as if it were alone.
    HeadsForever,
    /// What was copied for a checkpoint because it was about to change is left out.
    CopiesMissed,
    /// A shard that is beyond the cut of a checkpoint when it hears of it is recorded as it is.
    CutPassed,
    /// A worker's later life does not find the pushes of those before.
    LivesForgotten,
    /// Where the head acknowledges pushes, it acknowledges ends of clocks, too.
    ClocksEndEarly,
    /// Where a head adds up pushes, it does not tell the others one of them.
    NamesForgotten,
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
pub(crate) enum Stop {
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
    pub(crate) isa: Isa,
    pub(crate) epoch: Epoch,
    pub(crate) credit: u16,
    pub(crate) mutation: Mutation,
    pub(crate) job: Option<Job>,
    pub(crate) tables: Tables,
    pub(crate) decoder: Decoder,
    pub(crate) encoder: Encoder,
    /// Of the rows of a pull.
    pub(crate) places: Vec<u32>,
    pub(crate) progress: bool,
    pub(crate) tally: Tally,
    pub(crate) hot: HotKeys,
    pub(crate) rests: Rests,
}

/// What has become of a shard since it was made of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rests {
    /// Its rows are its job's; or it was never restored.
    #[default]
    No,
    /// Nobody has changed a row yet: they are those of whichever job does so first.
    Rows,
    /// Nobody has joined yet either: of its job's members it is not known who still lives.
    Job,
}

impl Shard {
    /// A shard without tables that serves no job yet.
    pub fn new(spec: ShardSpec) -> Shard {
        let ShardSpec { isa, epoch, rules, table_bytes_max, seed, credit, mutation } = spec;
        let tables = Tables::new(isa, rules, table_bytes_max, seed);
        let (decoder, encoder) = (Decoder::new(isa, mutation), Encoder::new(isa));
        let (places, tally) = (Vec::new(), Tally::default());
        Shard {
            isa,
            epoch,
            credit,
            mutation,
            job: None,
            tables,
            decoder,
            encoder,
            places,
            progress: false,
            tally,
            hot: HotKeys::default(),
            rests: Rests::No,
        }
    }

    /// Does what a message asks for.
    ///
    /// - `bytes`: the whole message, 8-byte aligned.
    /// - `outbox`: the way back to its sender.
    pub fn handle<O: Outbox>(&mut self, bytes: &[u8], outbox: &mut O) -> Outcome {
        self.handle_into(bytes, outbox, &mut Nowhere)
    }

    /// As [`Shard::handle`]; what changed the shard goes on to `sink`.
    pub(crate) fn handle_into<O: Outbox>(
        &mut self,
        bytes: &[u8],
        outbox: &mut O,
        sink: &mut impl Sink,
    ) -> Outcome {
        let isa = self.isa;
        let (header, message) = match wire::open(bytes, |bytes| crc32c(isa, 0, bytes)) {
            Ok(opened) => opened,
            Err(malformed) => return Outcome::Malformed(malformed),
        };
        let body = &bytes[HEADER_BYTES..];
        let done = match message {
            Message::Pull(keys) => self.pull(&header, Pulled::Plain(keys), outbox),
            Message::CodedPull(coded) => self.pull(&header, Pulled::Coded(coded), outbox),
            Message::Scan => self.scan(&header, outbox),
            Message::Measure => self.measure(&header, outbox),
            Message::Join(join) => self.answer_join(&header, join, body, outbox, sink),
            // Servers say so to each other.
            Message::Merged(_) => return Outcome::Malformed(Malformed::Field { name: "kind" }),
            message if is_change(&message) => {
                self.replied(&header, outbox, |shard| shard.change(&header, message, body, sink))
            }
            _ => return Outcome::Malformed(Malformed::Field { name: "kind" }),
        };
        match done {
            Ok(()) => {
                self.tally.answered(&header);
                Outcome::Answered
            }
            Err(Stop::Waiting) => Outcome::Waiting,
            Err(Stop::NoSlot) => Outcome::NoSlot,
            Err(Stop::Refused(refusal)) => {
                let Some(slot) = outbox.acquire(REPLY_BYTES) else { return Outcome::NoSlot };
                self.stamp().reply(outbox, slot, &header, Status::Refused(refusal));
                self.tally.answered(&header);
                self.tally.refused(refusal);
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

    /// Whether this life of a worker takes part in the job; nobody says so of an observer.
    pub fn has_member(&self, worker: WorkerId, incarnation: Incarnation) -> bool {
        self.job.as_ref().is_some_and(|job| job.has_member(worker, incarnation))
    }

    /// The job whose workers have not all left; another one's join is refused.
    pub(crate) fn job_served(&self) -> Option<JobId> {
        self.job.as_ref().filter(|job| job.is_active()).map(Job::id)
    }

    /// The workers that take part in the job, and their lives.
    pub(crate) fn joined(&self) -> Vec<(WorkerId, Incarnation)> {
        self.job.as_ref().map_or_else(Vec::new, Job::joined)
    }

    /// The job that whoever sent the last join was taken into; once.
    pub fn take_joined(&mut self) -> Option<JobId> {
        self.job.as_mut().and_then(|job| job.take_newcomer().then(|| job.id()))
    }

    /// What was done since this was asked last.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The slowest worker's clock and the furthest one's; none without a job.
    pub fn clocks(&self) -> Option<(Clock, Clock)> {
        self.job.as_ref().map(|job| (job.slowest(), job.furthest()))
    }

    /// This worker's clock; 0 of one that takes no part.
    pub(crate) fn clock_of(&self, worker: WorkerId) -> Clock {
        self.job.as_ref().map_or(Clock::default(), |job| job.clock_of(worker))
    }

    /// The keys that it is asked for most, the hottest first.
    pub fn hot_keys(&self) -> [HotKey; HOT_KEYS_MAX] {
        self.hot.top()
    }

    /// Says what its tables may still take; `None` bounds them no more.
    pub fn set_room(&mut self, room: Option<Room>) {
        self.tables.set_room(room);
    }

    /// What it holds for its job, in bytes: tables, and the keys that workers have told.
    pub fn held_bytes(&self) -> u64 {
        self.size().bytes + self.job.as_ref().map_or(0, Job::known_bytes)
    }

    /// The sizes of all tables together.
    pub fn size(&self) -> TableSize {
        self.tables.all().iter().fold(TableSize::default(), |sum, table| sum.plus(table.size()))
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

    pub(crate) fn stamp(&self) -> Stamp {
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
        match status {
            Status::Done => self.tally.moved(header),
            Status::Duplicate => {}
            Status::Refused(refusal) => self.tally.refused(refusal),
        }
        self.stamp().reply(outbox, slot, header, status);
        Ok(())
    }

    /// Does a join, which is answered by where the worker stands.
    fn answer_join<O: Outbox>(
        &mut self,
        header: &Header,
        join: Join,
        body: &[u8],
        outbox: &mut O,
        sink: &mut impl Sink,
    ) -> Result<(), Stop> {
        let mut slot = outbox.acquire(HEADER_BYTES + JOINED_BODY_BYTES).ok_or(Stop::NoSlot)?;
        self.change(header, Message::Join(join), body, sink)?;
        let job = self.job.as_ref().expect("it has just been joined");
        let joined = job.standing(header.worker());
        O::bytes_mut(&mut slot)[HEADER_BYTES..].copy_from_slice(joined.as_bytes());
        let stamp = self.stamp();
        stamp.send(outbox, slot, stamp.header(header, Kind::Joined));
        Ok(())
    }

    pub(crate) fn check_epoch(&self, header: &Header) -> Result<(), Refusal> {
        if header.epoch() == self.epoch {
            Ok(())
        } else {
            Err(Refusal::EpochMismatch { shard: self.epoch })
        }
    }

    /// The job, if the sender of this message may speak in it: a member, or an observer.
    pub(crate) fn member_job(&mut self, header: &Header) -> Result<&mut Job, Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        if header.worker() != WorkerId::OBSERVER {
            job.member(header.worker(), header.incarnation())?;
        }
        Ok(job)
    }
}
