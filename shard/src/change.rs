//! What changes a shard, exactly once and in one order: here, and on the servers behind it in its
//! chain.
//!
//! Owns what each kind of change does, and the form in which a change that was done goes on. Where
//! it goes is left to the [`Sink`].
//!
//! Invariant: what a sink is given, in its order, makes another shard that began alike the same.

use wire::{
    Announced, Clock, Coded, Encoding, Flags, Header, Join, Keyed, Kind, Message, Refusal,
    RowsView, Status, TableSpec, VALUES_BY_COLUMN, WorkerId,
};
use zerocopy::IntoBytes;

use crate::admission::Verdict;
use crate::decode::{CODECS, Decoded, Decoder, row_shape};
use crate::engine::{Mutation, Rests, Shard};
use crate::job::{Job, WORKERS_MAX};
use crate::known_keys::KnownKeys;
use crate::table::{Moment, Table};
use crate::tables::Tables;

/// Where changes go on to that were done.
pub(crate) trait Sink {
    /// A change, as its header and the parts of its body.
    fn done(&mut self, header: Header, body: [&[u8]; 2]);
}

/// They go nowhere: no other server has this shard.
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    #[inline(always)]
    fn done(&mut self, _: Header, _: [&[u8]; 2]) {}
}

/// Whether a request that is done has changed something: what is asked again often has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    Something,
    Nothing,
}

/// Whether a message may change a shard.
pub(crate) fn is_change(message: &Message<'_>) -> bool {
    use Message::{CodedPush, Define, Join, Leave, Load, Merged, Push, Remove};
    matches!(message, Push(_) | CodedPush(_) | Merged(_) | Join(_) | Define(..))
        || matches!(message, Load(_) | Remove(_) | Leave)
}

impl Shard {
    /// Does what changes the shard, and passes it on if it was done.
    ///
    /// - `body`: of the message.
    pub(crate) fn change(
        &mut self,
        header: &Header,
        message: Message<'_>,
        body: &[u8],
        sink: &mut impl Sink,
    ) -> Result<Status, Refusal> {
        let changes = match message {
            Message::Push(keyed) => return self.push(header, Pushed::Plain(keyed), sink),
            Message::CodedPush(coded) => return self.push(header, Pushed::Coded(coded), sink),
            Message::Merged(merged) => {
                self.push_merged(header, &merged, [body, &[]], sink)?;
                return Ok(Status::Done);
            }
            Message::Join(join) => self.join(header, join),
            Message::Define(spec, announced) => self.define(header, spec, announced),
            Message::Load(rows) => self.load(header, rows, sink),
            Message::Remove(keys) => self.remove(header, keys),
            Message::Leave => self.leave(header),
            _ => Err(Refusal::Malformed),
        }?;
        if changes == Changes::Something {
            sink.done(*header, [body, &[]]);
        }
        Ok(Status::Done)
    }

    fn join(&mut self, header: &Header, join: Join) -> Result<Changes, Refusal> {
        self.check_epoch(header)?;
        let worker = header.worker();
        let is_one = worker == WorkerId::OBSERVER || worker.get() < join.workers;
        if join.workers > WORKERS_MAX || !is_one {
            return Err(Refusal::Malformed);
        }
        let other = |job: &Job| job.id() != join.job;
        let is_served = self.rests != Rests::Job && self.job.as_ref().is_some_and(Job::is_active);
        if is_served && self.job.as_ref().is_some_and(other) {
            return Err(Refusal::JobMismatch);
        }
        let is_new = self.job.as_ref().is_none_or(other);
        if is_new {
            if self.rests == Rests::No {
                self.tables.clear();
            }
            self.job = Some(Job::new(join));
        }
        let job = self.job.as_mut().expect("it was made above if there was none");
        let joined = job.join(worker, header.incarnation(), join)?;
        if joined == Changes::Something && self.mutation == Mutation::LivesForgotten {
            job.forget_pushes_of(worker);
        }
        // An observer does not tell whether the workers of the job that was restored live.
        let rested = self.rests == Rests::Job && (is_new || worker != WorkerId::OBSERVER);
        if rested {
            self.rests = Rests::Rows;
        }
        Ok(if is_new || rested { Changes::Something } else { joined })
    }

    fn leave(&mut self, header: &Header) -> Result<Changes, Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        let (changes, progress) = job.leave(header.worker(), header.incarnation())?;
        self.progress |= progress;
        Ok(changes)
    }

    fn define(
        &mut self,
        header: &Header,
        spec: TableSpec,
        announced: Announced,
    ) -> Result<Changes, Refusal> {
        self.member_job(header)?;
        check_known(announced)?;
        self.tables.define(header.table(), spec)
    }

    /// Applies a push exactly once. A push without keys only ticks.
    fn push(
        &mut self,
        header: &Header,
        pushed: Pushed<'_>,
        sink: &mut impl Sink,
    ) -> Result<Status, Refusal> {
        self.check_epoch(header)?;
        let job = self.job.as_mut().ok_or(Refusal::NotJoined)?;
        let moment = job.moment(header);
        let member = job.member(header.worker(), header.incarnation())?;
        match member.admission.verdict(header.sequence()) {
            Verdict::Fresh => {}
            Verdict::Duplicate if self.mutation == Mutation::DuplicatesApplied => {
                let to = (&mut self.tables, moment);
                apply(to, &mut self.decoder, &mut member.known, header, pushed, sink).ok();
                return Ok(Status::Duplicate);
            }
            Verdict::Duplicate => return Ok(Status::Duplicate),
            Verdict::TooNew { newest } => return Err(Refusal::SequenceTooNew { newest }),
        }
        if header.keys > 0 {
            let to = (&mut self.tables, moment);
            apply(to, &mut self.decoder, &mut member.known, header, pushed, sink)?;
            self.rests = Rests::No;
        } else {
            sink.done(*header, [&[], &[]]);
        }
        let tick = header.flags().has(Flags::TICK).then(|| header.clock().next());
        let finished = member.admission.applied(header.sequence(), tick);
        self.note_pushed(header.worker(), tick, finished);
        Ok(Status::Done)
    }

    /// A push of this worker was applied.
    ///
    /// - `tick`: the clock that it ends.
    /// - `finished`: the newest clock of which all was applied, if this made it so.
    pub(crate) fn note_pushed(
        &mut self,
        worker: WorkerId,
        tick: Option<Clock>,
        finished: Option<Clock>,
    ) {
        let finished = match (finished, self.mutation) {
            (_, Mutation::TicksEarly) => tick,
            (Some(clock), Mutation::TicksTwice) => Some(clock.next()),
            (finished, _) => finished,
        };
        let Some(job) = &mut self.job else { return };
        self.progress |= job.note_pushed(worker);
        if let Some(clock) = finished {
            self.progress |= job.tick(worker, clock);
        }
    }

    fn load(
        &mut self,
        header: &Header,
        rows: RowsView<'_>,
        sink: &mut impl Sink,
    ) -> Result<Changes, Refusal> {
        let moment = self.member_job(header)?.now();
        let table = self.tables.get(header.table())?;
        check_width(header, table.widths().row)?;
        let loaded = table.load(rows.keys, rows.rows, moment);
        pass_on_gone(table, header, sink);
        loaded.map_err(|full| Refusal::TableFull { rows: full.rows })?;
        self.rests = Rests::No;
        Ok(Changes::Something)
    }

    fn remove(&mut self, header: &Header, keys: &[u64]) -> Result<Changes, Refusal> {
        self.member_job(header)?;
        self.tables.get(header.table())?.remove(keys);
        self.rests = Rests::No;
        Ok(Changes::Something)
    }
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
    sink: &mut impl Sink,
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
    add((tables, moment), header, Decoded { keys, deltas, places }, sink)?;
    let plain = Header { keys: keys.len() as u32, encoding: 0, ..*header };
    sink.done(plain, [keys.as_bytes(), deltas.as_bytes()]);
    Ok(())
}

/// Adds deltas of these keys to the table of this header.
pub(crate) fn add(
    (tables, moment): (&mut Tables, Moment),
    header: &Header,
    Decoded { keys, deltas, places }: Decoded<'_>,
    sink: &mut impl Sink,
) -> Result<(), Refusal> {
    if keys.is_empty() {
        return Ok(());
    }
    tables.check_room(header.table(), keys, moment.slowest)?;
    let table = tables.get(header.table())?;
    let bytes_before = table.bytes();
    let done = table.push(keys, deltas, moment, places);
    pass_on_gone(table, header, sink);
    let added = table.bytes().saturating_sub(bytes_before);
    tables.take_room(added);
    done.map_err(|full| Refusal::TableFull { rows: full.rows })
}

/// Which rows made room depends on the order of lines, which is each server's own: it is told.
fn pass_on_gone(table: &Table, header: &Header, sink: &mut impl Sink) {
    let gone = table.gone();
    if !gone.is_empty() {
        let remove = Header {
            kind: Kind::Remove as u8,
            flags: 0,
            encoding: 0,
            keys: gone.len() as u32,
            width: 0,
            ..*header
        };
        sink.done(remove, [gone.as_bytes(), &[]]);
    }
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

pub(crate) fn check_width(header: &Header, width: usize) -> Result<(), Refusal> {
    if usize::from(header.width) == width {
        Ok(())
    } else {
        Err(Refusal::WidthMismatch { table: width as u16 })
    }
}
