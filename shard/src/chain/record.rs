//! Recording a shard for a store of checkpoints: the stream that would fill another server.
//!
//! Owns what is recorded and the bound of what waits to be taken. Where it goes, and when it is
//! enough, is left to `server`; making a shard of it again to `restore`.
//!
//! What is recorded is the state, pages of rows with the operations that happen meanwhile, a
//! marker, and the operations after it. So a recording may be cut anywhere behind its marker; the
//! cut that makes shards fit together is made where it is read, by the job's clock.
//!
//! Invariant: a recording has every operation since its state, in the order in which they were
//! done, or it has ended. It never makes a request wait.

use std::collections::VecDeque;
use std::fmt;

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{Clock, FRAME_BYTES_MAX, Flags, HEADER_BYTES, Header, Holds, Kind, Seal};
use zerocopy::IntoBytes;

use super::fill::{Next, marker_words, next_page};
use super::state::CHANGES;
use super::{Replica, Role};
use crate::change::Sink;
use crate::engine::{Rests, Shard};
use crate::job::Job;
use crate::table::{Fill, Table};

/// Keys and rows of a page, in bytes.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// What may wait to be taken, in bytes; beyond it the recording ends.
const WAITING_BYTES_MAX: usize = 128 << 20;

/// What may wait while pages are added, in bytes: the rest is for operations.
const PAGES_WAITING_BYTES_MAX: usize = 4 << 20;

/// A tape is full at so many bytes; one message may pass it.
const TAPE_BYTES: usize = 1 << 20;

/// Room in front of a tape's messages, for whoever writes it down, in bytes.
pub const TAPE_HEAD_BYTES: usize = 32;

/// The same in words.
const HEAD_WORDS: usize = TAPE_HEAD_BYTES / LENGTH_BYTES;

/// Buffers that are kept for further tapes.
const SPARE_MAX: usize = 16;

/// Bytes of a message's length on a tape.
const LENGTH_BYTES: usize = size_of::<u64>();

/// Whole messages of a recording, in their order, each behind its length in bytes and filled up
/// with zeros to a multiple of 8; in front of the first there is room, [`TAPE_HEAD_BYTES`].
#[derive(Debug, Default)]
pub struct Tape {
    /// Lengths and messages, each at a multiple of 8 bytes; then what is left of earlier ones.
    words: Vec<u64>,
    /// Words in use, the room in front included.
    used: usize,
    count: u32,
    /// What the shard had come to after the last operation on it.
    pub reached: Reached,
}

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

/// What a shard has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The slowest worker's clock; the highest there is where nobody takes part.
    pub clock: Clock,
    /// How many rows it has.
    pub rows: u64,
    /// How many operations it has applied.
    pub position: u64,
    /// Whether the recording has a marker: all rows are in it, and it may be cut.
    pub is_marked: bool,
    /// The checkpoint since which it has the changes; none: it has everything.
    pub base: Option<u64>,
    /// The order in which rows are recorded: a shard with the same one takes them in fastest.
    pub seed: u64,
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
    /// The state does not fit a message.
    StateTooLong {
        /// Its length.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
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
    },
    /// This server holds the shard no longer.
    Gone,
}

/// A recording that is under way.
#[derive(Debug)]
pub(super) struct Recording {
    isa: Isa,
    /// By table, of those that there were at its start.
    tables: Vec<Fill>,
    /// How often tables had been dropped at its start.
    dropped: u64,
    /// The tape that is being written.
    current: Tape,
    full: VecDeque<Tape>,
    spare: Vec<Vec<u64>>,
    /// Of all tapes.
    bytes: usize,
    reached: Reached,
    /// Whether something did not find room.
    is_over: bool,
}

/// The messages of a tape; see [`Tape::messages`].
#[derive(Clone, Debug)]
pub struct TapeMessages<'a> {
    rest: &'a [u8],
}

impl Tape {
    /// Its messages, each at a multiple of 8 bytes.
    pub fn messages(&self) -> TapeMessages<'_> {
        TapeMessages { rest: self.words[HEAD_WORDS.min(self.used)..self.used].as_bytes() }
    }

    /// What its messages take with their lengths, in bytes.
    pub fn bytes(&self) -> usize {
        self.used.saturating_sub(HEAD_WORDS) * LENGTH_BYTES
    }

    /// How many messages it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its memory: [`TAPE_HEAD_BYTES`] of room, [`Tape::bytes`] of messages, and what nobody reads.
    pub fn into_words(self) -> Vec<u64> {
        self.words
    }

    /// Whether a message of so many words, its length included, still belongs here.
    fn has_room(&self, words: usize) -> bool {
        self.count == 0 || (self.used + words) * LENGTH_BYTES <= TAPE_BYTES
    }

    /// Room for a message of so many bytes at its end.
    fn add(&mut self, bytes: usize) -> &mut [u8] {
        let begin = self.used.max(HEAD_WORDS);
        let end = begin + 1 + bytes.div_ceil(LENGTH_BYTES);
        if end > self.words.len() {
            self.words.resize(end.max(TAPE_BYTES / LENGTH_BYTES), 0);
        }
        self.words[end - 1] = 0; // What fills the message up.
        self.words[begin] = bytes as u64;
        (self.used, self.count) = (end, self.count + 1);
        &mut self.words[begin + 1..end].as_mut_bytes()[..bytes]
    }
}

impl<'a> Iterator for TapeMessages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<LENGTH_BYTES>()?;
        let bytes = u64::from_ne_bytes(*length) as usize;
        let (message, rest) = rest.split_at(bytes.next_multiple_of(LENGTH_BYTES));
        self.rest = rest;
        Some(&message[..bytes])
    }
}

impl<S> Replica<S> {
    /// Begins to record the shard: what [`Replica::take_tape`] gives from now on.
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
        let mut words = Vec::new();
        self.shard.write_state(&mut words);
        let (bytes, bytes_max) = (HEADER_BYTES + words.len() * 8, FRAME_BYTES_MAX);
        if bytes > bytes_max {
            return Err(RecordError::StateTooLong { bytes, bytes_max });
        }
        let dropped = self.shard.tables.dropped();
        let base = purpose.base.filter(|&number| {
            let is_known = self.tracked == Some(Tracked { number, dropped });
            is_known && self.shard.tables.all().iter().all(Table::knows_changes)
        });
        words[0] |= if base.is_some() { CHANGES } else { 0 };
        let begin = |table: &mut Table| {
            if base.is_some() {
                return table.begin_filling_changes();
            }
            table.set_tracked(purpose.is_base);
            table.begin_filling()
        };
        let tables = self.shard.tables.all_mut().iter_mut().map(begin).collect();
        self.tracked = purpose.is_base.then_some(Tracked { number: purpose.number, dropped });
        let mut recording = Recording {
            isa: self.shard.isa,
            tables,
            dropped,
            current: Tape::default(),
            full: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            reached: Reached { base, ..Reached::default() },
            is_over: false,
        };
        recording.append(Header::new(Kind::State), [words.as_bytes(), &[]]);
        (self.recording, self.recording_end) = (Some(recording), None);
        self.note_reached();
        Ok(())
    }

    /// Ends the recording, done or not; what was not taken is dropped.
    pub fn end_recording(&mut self) {
        self.recording_end = None;
        let recording = self.recording.take();
        if recording.as_ref().is_some_and(Recording::wants_rows) {
            self.shard.tables.all_mut().iter_mut().for_each(|table| table.end_filling());
        }
    }

    /// Whether a page of rows may be added now: there are more, and what waits leaves room.
    pub fn wants_page(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| {
            recording.wants_rows() && recording.bytes < PAGES_WAITING_BYTES_MAX
        })
    }

    /// Adds a page of rows to the recording, or its marker once all are in it. Bytes that were
    /// added.
    pub fn record_page(&mut self) -> usize {
        let Some(recording) = self.recording.as_mut().filter(|it| !it.reached.is_marked) else {
            return 0;
        };
        if recording.dropped != self.shard.tables.dropped() {
            self.abort_recording(RecordingEnd::JobChanged);
            return 0;
        }
        let before = recording.bytes;
        let mut fills = std::mem::take(&mut recording.tables);
        match next_page(&mut self.shard, &mut fills, PAGE_BYTES_MAX) {
            Next::Page(header, body) => recording.append(header, body),
            Next::Nothing => {}
            Next::Over => {
                let words = marker_words(&self.shard, self.position, fills.len());
                recording.append(Header::new(Kind::Filled), [words.as_bytes(), &[]]);
                recording.reached.is_marked = true;
            }
        }
        recording.tables = fills;
        let (added, is_marked) = (recording.bytes - before, recording.reached.is_marked);
        if is_marked {
            self.shard.tables.all_mut().iter_mut().for_each(|table| table.end_filling());
        }
        self.note_reached();
        added
    }

    /// The next tape of the recording, if there is anything on it.
    ///
    /// - Errors: why the recording has ended; said once.
    pub fn take_tape(&mut self) -> Result<Option<Tape>, RecordingEnd> {
        if let Some(end) = self.recording_end.take() {
            return Err(end);
        }
        let Some(recording) = &mut self.recording else { return Ok(None) };
        if recording.full.is_empty() {
            recording.close();
        }
        let tape = recording.full.pop_front();
        recording.bytes -= tape.as_ref().map_or(0, Tape::bytes);
        Ok(tape)
    }

    /// Gives back a tape that there was no room for: it is the next one again.
    pub fn untake_tape(&mut self, tape: Tape) {
        if let Some(recording) = &mut self.recording {
            recording.bytes += tape.bytes();
            recording.full.push_front(tape);
        }
    }

    /// Gives a tape's memory to further ones.
    pub fn reuse_tape(&mut self, words: Vec<u64>) {
        if let Some(recording) = &mut self.recording
            && recording.spare.len() < SPARE_MAX
            && size_of_val(words.as_slice()) <= 2 * TAPE_BYTES
        {
            recording.spare.push(words);
        }
    }

    /// Whether a recording is under way, or the end of one was not taken yet.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some() || self.recording_end.is_some()
    }

    /// Notes what the shard has come to, once an operation is done; ends a recording that missed
    /// something.
    #[inline]
    pub(super) fn note_reached(&mut self) {
        let Some(recording) = &mut self.recording else { return };
        let Reached { is_marked, base, .. } = recording.reached;
        recording.reached = Reached { is_marked, base, ..self.shard.reached(self.position) };
        if recording.is_over {
            let bytes = recording.bytes;
            self.abort_recording(RecordingEnd::TooSlow { bytes });
        } else if recording.dropped != self.shard.tables.dropped() {
            self.abort_recording(RecordingEnd::JobChanged);
        }
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
    /// What this shard has come to after so many operations.
    pub(super) fn reached(&self, position: u64) -> Reached {
        let counts = self.job.as_ref().filter(|_| self.rests != Rests::Job).map(Job::slowest);
        let rows = self.tables.all().iter().map(|table| table.size().rows).sum();
        let clock = counts.unwrap_or(Clock::new(u64::MAX));
        let seed = self.tables.seed();
        Reached { clock, rows, position, seed, ..Reached::default() }
    }
}

impl Recording {
    /// Whether not all rows are in it: tables are walked over.
    pub(super) fn wants_rows(&self) -> bool {
        !self.reached.is_marked
    }

    /// Adds a whole message, if there is room.
    fn append(&mut self, header: Header, body: [&[u8]; 2]) {
        // Of flags the tick alone is the message's own; the others are its way's.
        let tick = if header.flags().has(Flags::TICK) { Flags::TICK } else { Flags::NONE };
        let header = Header { flags: tick.get(), body_crc: 0, credit: 0, ..header };
        let bytes = HEADER_BYTES + body[0].len() + body[1].len();
        let words = 1 + bytes.div_ceil(LENGTH_BYTES);
        if self.is_over || self.bytes + words * LENGTH_BYTES > WAITING_BYTES_MAX {
            self.is_over = true;
            return;
        }
        if !self.current.has_room(words) {
            self.close();
        }
        let message = self.current.add(bytes);
        let (first, second) = message[HEADER_BYTES..].split_at_mut(body[0].len());
        first.copy_from_slice(body[0]);
        second.copy_from_slice(body[1]);
        let isa = self.isa;
        wire::seal(message, header, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
        self.bytes += words * LENGTH_BYTES;
    }

    /// The tape that is being written is full, as far as there is anything on it.
    fn close(&mut self) {
        if self.current.count > 0 {
            let next = Tape { words: self.spare.pop().unwrap_or_default(), ..Tape::default() };
            let full = std::mem::replace(&mut self.current, next);
            self.full.push_back(Tape { reached: self.reached, ..full });
        }
    }
}

impl Sink for Recording {
    fn done(&mut self, header: Header, body: [&[u8]; 2]) {
        self.append(header, body);
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::NotHeld => f.write_str("this server does not hold the whole shard"),
            RecordError::NotTail => f.write_str("another server is behind this one in the chain"),
            RecordError::Filling => f.write_str("the server behind this one is being filled"),
            RecordError::Recording => f.write_str("the shard is being recorded already"),
            RecordError::StateTooLong { bytes, bytes_max } => {
                write!(f, "the job's state has {bytes} bytes, a message at most {bytes_max}")
            }
        }
    }
}

impl std::error::Error for RecordError {}

impl fmt::Display for RecordingEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordingEnd::Filling => f.write_str("another server had to be filled"),
            RecordingEnd::JobChanged => f.write_str("another job began, and dropped the tables"),
            RecordingEnd::TooSlow { bytes } => write!(
                f,
                "the store was too slow: {bytes} bytes waited for it, of {WAITING_BYTES_MAX} that \
                 may"
            ),
            RecordingEnd::Gone => f.write_str("the server holds the shard no longer"),
        }
    }
}

impl std::error::Error for RecordingEnd {}

/// Names of the tables and of their rules, if this is the message that a recording begins with.
pub fn tables_of_state(message: &[u8]) -> Option<Vec<(String, String)>> {
    let is_state = message.get(..HEADER_BYTES).is_some_and(|head| {
        let header = head.first_chunk().map(Header::peek);
        matches!(header, Some(Ok(header)) if header.kind() == Kind::State)
    });
    is_state.then(|| super::state::tables_of(&message[HEADER_BYTES..]))?
}
