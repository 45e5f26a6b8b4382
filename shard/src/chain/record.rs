//! Recording a shard for a store of checkpoints: what it was at one moment, the cut.
//!
//! Owns when that is, and the order of what is recorded: the state, pieces of all tables as they
//! were, and a marker, by whose numbers the recording is known to be whole. What a table was is
//! left to `table`, where tapes go to `server`, making a shard of them again to `restore`.
//!
//! A recording that was asked for waits for its cut: a clock of the slowest worker that is to come,
//! the same on all shards. Right after the operation that brings the shard there the state is
//! written; nothing that is done from then on is in the recording.
//!
//! Invariant: a recording has the shard as it was at its cut, or it has ended. It never makes a
//! request wait.

use std::fmt;

use wire::{Clock, FRAME_BYTES_MAX, HEADER_BYTES, Header, Holds, Kind};
use zerocopy::IntoBytes;

use super::fill::{marker_words, page_header};
use super::state::CHANGES;
use super::tape::{PAPER, Reached, Tape, Tapes};
use super::{Replica, Role};
use crate::engine::{Mutation, Rests, Shard};
use crate::job::Job;
use crate::table::{Piece, SnapshotOf, Table};

/// What a recording is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purpose {
    /// The checkpoint's number.
    pub number: u64,
    /// What has changed since this checkpoint is enough, if that is known here.
    pub base: Option<u64>,
    /// Whether a later recording may have this one as its base: from now on it is noted what
    /// changes.
    pub is_base: bool,
}

/// Since when it is noted what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    /// The checkpoint whose recording began then.
    number: u64,
    /// How often tables had been dropped.
    dropped: u64,
}

/// Why no recording begins. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// This server does not hold the shard, or not all of it.
    NotHeld,
    /// Another server is behind this one in the chain: it is to record.
    NotTail,
    /// The successor is being filled.
    Filling,
    /// A recording is under way.
    Recording,
}

/// Why a recording has ended by itself. It is of no use; another one may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingEnd {
    /// The successor is to be filled: repair goes first.
    Filling,
    /// Another job has begun, and tables were dropped.
    JobChanged,
    /// Nobody took what was recorded, and requests do not wait for it.
    TooSlow {
        /// Bytes that had waited.
        bytes: usize,
        /// How many may.
        bytes_max: usize,
    },
    /// The shard was beyond the cut when that came.
    Passed {
        /// The cut.
        cut: Clock,
        /// The slowest worker's clock.
        clock: Clock,
    },
    /// The state does not fit a message.
    StateTooLong {
        /// Its length.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// This server holds the shard no longer.
    Gone,
}

/// A recording that is under way.
#[derive(Debug)]
pub(super) struct Recording {
    purpose: Purpose,
    stage: Stage,
    tapes: Tapes,
}

/// How far a recording is.
#[derive(Debug)]
enum Stage {
    /// It waits for this clock; none: for hearing of one.
    Waiting(Option<Clock>),
    /// Its cut is behind it.
    Cut(Frozen),
    /// All is on its tapes.
    Whole,
}

/// What the shard was at the cut.
#[derive(Debug)]
struct Frozen {
    /// How many tables there were. What is defined later is not recorded.
    tables: usize,
    /// How often tables had been dropped.
    dropped: u64,
    /// The numbers that come last.
    marker: Vec<u64>,
}

impl Recording {
    /// Whether it is not whole yet.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Whole)
    }
}

impl<S> Replica<S> {
    /// Begins to record the shard: it waits for its cut, and [`Replica::take_tape`] gives what it
    /// has come to until then.
    ///
    /// - Errors: [`RecordError`]; only the tail of a chain records, and not while it fills another.
    pub fn begin_recording(&mut self, purpose: Purpose) -> Result<(), RecordError> {
        if matches!(self.role, Role::Out | Role::Joining) {
            return Err(RecordError::NotHeld);
        }
        if self.recording.is_some() {
            return Err(RecordError::Recording);
        }
        match self.successor.as_ref().map(|successor| successor.holds) {
            Some(Holds::Everything) => return Err(RecordError::NotTail),
            Some(Holds::Part) => return Err(RecordError::Filling),
            None => {}
        }
        let tapes = Tapes::new(self.shard.isa, self.shard.reached(self.position));
        self.recording = Some(Recording { purpose, stage: Stage::Waiting(None), tapes });
        self.recording_end = None;
        Ok(())
    }

    /// Says again what the shard has come to, by a tape without messages, while it waits for its
    /// cut.
    pub fn tell_reached(&mut self) {
        if let Some(Recording { stage: Stage::Waiting(_), tapes, .. }) = &mut self.recording {
            tapes.tell(self.shard.reached(self.position));
        }
    }

    /// Says where the recording is cut: right after the operation with which the slowest worker's
    /// clock becomes this one. `None`: now. A cut that is behind it stays.
    pub fn cut_recording(&mut self, cut: Option<Clock>) {
        let Some(recording) = &mut self.recording else { return };
        if !matches!(recording.stage, Stage::Waiting(_)) {
            return;
        }
        let clock = self.shard.reached(self.position).clock;
        match cut {
            None => self.freeze(),
            // Clocks without workers are no clocks that anybody has passed.
            Some(cut) if clock < cut || self.mutation == Mutation::CutPassed => {
                recording.stage = Stage::Waiting(Some(cut));
                self.note_reached();
            }
            Some(cut) => self.abort_recording(RecordingEnd::Passed { cut, clock }),
        }
    }

    /// Cuts the recording, if an operation has brought the shard to where that is to be.
    #[inline]
    pub(super) fn note_reached(&mut self) {
        if let Some(Recording { stage: Stage::Waiting(Some(cut)), .. }) = &self.recording
            && self.shard.slowest() >= *cut
        {
            self.freeze();
        }
    }

    /// The cut is here: the state is recorded, and tables keep what they are.
    fn freeze(&mut self) {
        let mut words = Vec::new();
        self.shard.write_state(&mut words);
        let (bytes, bytes_max) = (HEADER_BYTES + words.len() * 8, FRAME_BYTES_MAX);
        if bytes > bytes_max {
            return self.abort_recording(RecordingEnd::StateTooLong { bytes, bytes_max });
        }
        let Some(recording) = &mut self.recording else { return };
        let Purpose { number, base, is_base } = recording.purpose;
        let dropped = self.shard.tables.dropped();
        let base = base.filter(|&number| {
            let is_known = self.tracked == Some(Tracked { number, dropped });
            is_known && self.shard.tables.all().iter().all(Table::knows_changes)
        });
        words[0] |= if base.is_some() { CHANGES } else { 0 };
        let clock = self.shard.job.as_ref().map_or(0, |job: &Job| job.now().clock);
        let of =
            if base.is_some() { SnapshotOf::Changes } else { SnapshotOf::Everything { clock } };
        for table in self.shard.tables.all_mut() {
            if base.is_none() {
                table.set_tracked(is_base);
            }
            table.begin_snapshot(of, PAPER);
        }
        self.tracked = is_base.then_some(Tracked { number, dropped });
        let tables = self.shard.tables.all().len();
        let marker = marker_words(&self.shard, self.position, tables);
        recording.stage = Stage::Cut(Frozen { tables, dropped, marker });
        recording.tapes.reached = Reached { base, ..self.shard.reached(self.position) };
        recording.tapes.append(Header::new(Kind::State), [words.as_bytes(), &[]]);
    }

    /// Ends the recording, done or not; what was not taken is dropped.
    pub fn end_recording(&mut self) {
        self.recording_end = None;
        if self.recording.take().is_some() {
            self.shard.tables.all_mut().iter_mut().for_each(Table::end_snapshot);
        }
    }

    /// Whether there are more pages to add.
    pub fn wants_page(&self) -> bool {
        self.recording.as_ref().is_some_and(|it| matches!(it.stage, Stage::Cut(_)))
    }

    /// What waits to be taken, in bytes.
    pub fn recorded_bytes(&self) -> usize {
        self.recording.as_ref().map_or(0, |recording| recording.tapes.bytes())
    }

    /// Says how many bytes of it may wait to be taken, as the memory that is left has it. A
    /// recording that needs more ends; none has more than 512 MiB.
    pub fn bound_recording(&mut self, bytes_max: usize) {
        if let Some(recording) = &mut self.recording {
            recording.tapes.set_bytes_max(bytes_max);
        }
    }

    /// Adds what was copied because it changed. Whoever turns the shard does so each time.
    pub fn record_copies(&mut self) {
        while self.record_piece(Table::take_copies) {}
    }

    /// Adds a page of what nothing has changed, or the marker once all is recorded.
    pub fn record_page(&mut self) {
        let next = |table: &mut Table| match table.take_piece() {
            Piece::Over => None,
            piece => Some(piece),
        };
        if !self.record_piece(next) {
            self.finish_recording();
        }
    }

    /// Goes on over what was copied because it changed, and adds nothing. Whether there was any;
    /// not, once [`Replica::record_page`] has nothing to copy.
    pub fn pass_copied(&mut self) -> bool {
        let Some(Recording { stage: Stage::Cut(frozen), .. }) = &self.recording else {
            return false;
        };
        self.shard.tables.all_mut().iter_mut().take(frozen.tables).any(Table::pass_copied)
    }

    /// Whether all is copied, and only the end of it is to be added.
    pub fn is_copied(&self) -> bool {
        self.recording.is_some() && self.shard.tables.all().iter().all(Table::is_walked)
    }

    /// Adds a piece of the first table that has one. Whether any had; not, if the recording has no
    /// moment or has ended.
    fn record_piece(&mut self, mut take: impl FnMut(&mut Table) -> Option<Piece>) -> bool {
        let Some(Recording { stage: Stage::Cut(frozen), tapes, .. }) = &mut self.recording else {
            return false;
        };
        if frozen.dropped != self.shard.tables.dropped() {
            self.abort_recording(RecordingEnd::JobChanged);
            return false;
        }
        let mut found = false;
        for (number, table) in self.shard.tables.all_mut()[..frozen.tables].iter_mut().enumerate() {
            if self.mutation == Mutation::CopiesMissed {
                table.forget_copies();
            }
            let Some(piece) = take(table) else { continue };
            found = true;
            let (kind, page, roundable) = match piece {
                Piece::Nothing | Piece::Over => break,
                Piece::Rows(page) => {
                    // Keys that are gone have no values.
                    let roundable = table.roundable().min(page.width());
                    (Kind::Page, page, roundable)
                }
                Piece::Counts(page) => (Kind::Counts, page, 0),
            };
            let header = page_header(kind, number, page.keys().len(), page.width());
            tapes.append_page(header, page, roundable);
            break;
        }
        if tapes.is_over() {
            let (bytes, bytes_max) = (tapes.bytes(), tapes.bytes_max());
            self.abort_recording(RecordingEnd::TooSlow { bytes, bytes_max });
            return false;
        }
        found
    }

    /// All pieces are recorded: says so.
    fn finish_recording(&mut self) {
        let Some(recording) = &mut self.recording else { return };
        let Stage::Cut(frozen) = &recording.stage else { return };
        let words = frozen.marker.as_bytes();
        recording.tapes.append(Header::new(Kind::Filled), [words, &[]]);
        recording.tapes.reached.is_whole = true;
        recording.stage = Stage::Whole;
        self.shard.tables.all_mut().iter_mut().for_each(Table::end_snapshot);
    }

    /// The next tape of the recording, once it is full or the last. The first one has no message
    /// and says what the shard had come to when the recording was asked for.
    ///
    /// - Errors: why the recording has ended; said once.
    pub fn take_tape(&mut self) -> Result<Option<Tape>, RecordingEnd> {
        if let Some(end) = self.recording_end.take() {
            return Err(end);
        }
        Ok(self.recording.as_mut().and_then(|recording| recording.tapes.take()))
    }

    /// Gives back a tape that there was no room for: it is the next one again.
    pub fn untake_tape(&mut self, tape: Tape) {
        if let Some(recording) = &mut self.recording {
            recording.tapes.untake(tape);
        }
    }

    /// Gives a tape's memory to further ones, if they need some: if not, it is given back.
    pub fn reuse_tape(&mut self, words: Vec<u64>) -> Option<Vec<u64>> {
        let mut tables = self.shard.tables.all_mut().iter_mut();
        tables.try_fold(words, |words, table| table.reuse_page(words))
    }

    /// Whether a recording is under way, or the end of one was not taken yet.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some() || self.recording_end.is_some()
    }

    /// Ends a recording that cannot go on.
    pub(super) fn abort_recording(&mut self, end: RecordingEnd) {
        if self.recording.is_some() {
            self.end_recording();
            self.recording_end = Some(end);
        }
    }
}

impl Shard {
    /// The slowest worker's clock; the highest there is where nobody takes part.
    fn slowest(&self) -> Clock {
        let job = self.job.as_ref().filter(|_| self.rests != Rests::Job);
        job.map_or(Clock::new(u64::MAX), Job::slowest)
    }

    /// What this shard has come to after so many operations.
    pub(super) fn reached(&self, position: u64) -> Reached {
        let rows = self.tables.all().iter().map(|table| table.size().rows).sum();
        let (clock, seed) = (self.slowest(), self.tables.seed());
        Reached { clock, rows, position, seed, ..Reached::default() }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::NotHeld => f.write_str("this server does not hold the whole shard"),
            RecordError::NotTail => f.write_str("another server is behind this one in the chain"),
            RecordError::Filling => f.write_str("the server behind this one is being filled"),
            RecordError::Recording => f.write_str("the shard is being recorded already"),
        }
    }
}

impl std::error::Error for RecordError {}

impl fmt::Display for RecordingEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordingEnd::Filling => f.write_str("another server had to be filled"),
            RecordingEnd::JobChanged => f.write_str("another job began, and dropped the tables"),
            RecordingEnd::TooSlow { bytes, bytes_max } => write!(
                f,
                "the store was too slow: {bytes} bytes waited for it, and {bytes_max} may by the \
                 memory that is left"
            ),
            RecordingEnd::Passed { cut, clock } => {
                write!(f, "the shard was at {clock} when it heard of the cut at {cut}")
            }
            RecordingEnd::StateTooLong { bytes, bytes_max } => {
                write!(f, "the job's state has {bytes} bytes, a message at most {bytes_max}")
            }
            RecordingEnd::Gone => f.write_str("the server holds the shard no longer"),
        }
    }
}

impl std::error::Error for RecordingEnd {}
