//! Filling a successor: the job first, then rows, with the operations that happen meanwhile.
//!
//! Owns the pace and the end of it. How a table is copied while it changes is left to `table`.
//!
//! Who pushes meanwhile must not feel it. So a turn sends one short page of what has not changed,
//! and a successor that is slow has few of them before it. That all is sent is said only once the
//! successor has the pages: from then on each answer waits for it, and would wait for them.
//!
//! Invariant: from the message on that says that all is sent, nothing counts as acknowledged that
//! the successor lacks; so once it has that message, it may become a replica.

use std::collections::VecDeque;

use wire::{COUNT_LINE_WIDTH, FRAME_BYTES_MAX, HEADER_BYTES, Header, Holds, Kind};
use zerocopy::IntoBytes;

use super::log::Part;
use super::record::Recording;
use super::{Notice, Progress, RecordingEnd, Replica};
use crate::engine::{Mutation, Shard};
use crate::job::Job;
use crate::table::{Fill, Filled};

/// Keys and rows of a page, in bytes: some 0.05 ms of the one who takes it in.
const PAGE_BYTES_MAX: usize = 32 << 10;

/// Pages of a turn where all are of what has changed: more than a turn can change.
const PAGES_A_TURN: usize = 32;

/// Bytes of pages that the successor has not said to have, before it is sent more.
const UNACKNOWLEDGED_BYTES_MAX: usize = 512 << 10;

/// The same, in messages of the longest kind.
const UNACKNOWLEDGED_MESSAGES_MAX: usize = 16;

/// Where filling the successor stands.
#[derive(Debug)]
pub(super) struct Filling {
    /// By table, of those that there were at its start. Later ones are filled by operations alone.
    tables: Vec<Fill>,
    /// How often tables had been dropped at its start.
    dropped: u64,
    /// Pages that the successor has not said to have: the number of each, and its bytes.
    unacknowledged: VecDeque<(u64, usize)>,
    unacknowledged_bytes: usize,
    /// Once there was no page left for the first time: the message before. The last pages follow
    /// when the successor has that one.
    caught_up: Option<u64>,
    /// The message that said that all is sent, and the operations before it.
    marker: Option<Marker>,
}

#[derive(Clone, Copy, Debug)]
struct Marker {
    number: u64,
    position: u64,
    told: bool,
}

impl Filling {
    pub(super) fn is_marked(&self) -> bool {
        self.marker.is_some()
    }

    /// Lines that the walks over all tables have passed.
    fn lines_walked(&self) -> usize {
        self.tables.iter().map(Fill::lines_walked).sum()
    }

    /// The successor has the messages up to this one.
    fn note_received(&mut self, received: u64) {
        while let Some(&(number, bytes)) = self.unacknowledged.front()
            && number <= received
        {
            self.unacknowledged.pop_front();
            self.unacknowledged_bytes -= bytes;
        }
    }

    /// There is no page left. Whether the successor has those that there were the first time.
    ///
    /// - `sent`: the last message.
    /// - `received`: the last one that the successor has.
    fn has_caught_up(&mut self, sent: u64, received: u64) -> bool {
        *self.caught_up.get_or_insert(sent) <= received
    }
}

impl<S> Replica<S> {
    /// Begins to fill the successor, whatever it has. Whether that can be.
    pub(super) fn begin_filling(&mut self) -> bool {
        self.end_filling();
        if self.recording.as_ref().is_some_and(Recording::is_under_way) {
            self.abort_recording(RecordingEnd::Filling);
        }
        let mut words = Vec::new();
        self.shard.write_state(&mut words);
        if HEADER_BYTES + words.len() * 8 > FRAME_BYTES_MAX {
            self.notices.push(Notice::SuccessorUnfit);
            return false;
        }
        let tables = self.shard.tables.all_mut();
        let tables = tables.iter_mut().map(|table| table.begin_filling()).collect();
        let dropped = self.shard.tables.dropped();
        self.filling = Some(Filling {
            tables,
            dropped,
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            caught_up: None,
            marker: None,
        });
        self.log.restart(self.position + 1);
        self.log.append(Header::new(Kind::State), [words.as_bytes(), &[]], Part::Fill);
        true
    }

    /// How far filling the successor is, if that is under way.
    pub(super) fn progress(&self) -> Option<Progress> {
        let filling = self.filling.as_ref()?;
        let tables = self.shard.tables.all().iter().zip(&filling.tables);
        let nothing = Progress { lines_sent: 0, lines: 0 };
        Some(tables.fold(nothing, |sum, (table, fill)| Progress {
            lines_sent: sum.lines_sent + fill.lines_walked() as u64,
            lines: sum.lines + table.lines() as u64,
        }))
    }

    /// Ends it, done or not.
    pub(super) fn end_filling(&mut self) {
        if self.filling.take().is_some() {
            self.shard.tables.all_mut().iter_mut().for_each(|table| table.end_filling());
        }
    }

    /// Adds some pages for the successor: all of what has changed where the walk was, and one of
    /// the walk. Whether there are more.
    pub(super) fn fill(&mut self) -> bool {
        let received = self.successor_received();
        let Some(filling) = &mut self.filling else { return false };
        if filling.is_marked() {
            return false;
        }
        if filling.dropped != self.shard.tables.dropped() {
            self.end_filling(); // Another job has begun: all is sent anew, over another link.
            self.notices.push(Notice::SuccessorSilent);
            return false;
        }
        filling.note_received(received);
        for _ in 0..PAGES_A_TURN {
            if self.is_far_ahead() {
                return false;
            }
            match self.add_page() {
                _ if self.mutation == Mutation::FilledEarly => {
                    self.mark();
                    return false;
                }
                Added::Changed => {}
                Added::Walked => return true,
                Added::Nothing => {
                    let sent = self.log.last();
                    let filling = self.filling.as_mut();
                    if filling.is_some_and(|filling| filling.has_caught_up(sent, received)) {
                        self.mark();
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Whether the successor has enough to do with what it was sent.
    fn is_far_ahead(&self) -> bool {
        let messages_bytes = UNACKNOWLEDGED_MESSAGES_MAX * self.log.message_bytes_max();
        let bytes_max = UNACKNOWLEDGED_BYTES_MAX.min(messages_bytes);
        let bytes = self.filling.as_ref().map_or(0, |filling| filling.unacknowledged_bytes);
        bytes >= bytes_max || self.log.is_full()
    }

    /// Adds a page of the first table that has one.
    fn add_page(&mut self) -> Added {
        let Some(filling) = &mut self.filling else { return Added::Nothing };
        let walked_before = filling.lines_walked();
        let bytes_max = PAGE_BYTES_MAX.min(self.log.message_bytes_max() - HEADER_BYTES);
        match next_page(&mut self.shard, &mut filling.tables, bytes_max) {
            Next::Over => return Added::Nothing,
            Next::Nothing => {}
            Next::Page(header, body) => {
                let bytes = body[0].len() + body[1].len();
                self.log.append(header, body, Part::Fill);
                filling.unacknowledged.push_back((self.log.last(), bytes));
                filling.unacknowledged_bytes += bytes;
            }
        }
        if filling.lines_walked() == walked_before { Added::Changed } else { Added::Walked }
    }

    /// All is sent: says so.
    fn mark(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        let words = marker_words(&self.shard, self.position, filling.tables.len());
        self.log.append(Header::new(Kind::Filled), [words.as_bytes(), &[]], Part::Fill);
        let (number, position) = (self.log.last(), self.position);
        filling.marker = Some(Marker { number, position, told: false });
    }

    /// How many operations the successor has, once it has all.
    pub(super) fn filled_upto(&mut self, received: u64) -> u64 {
        let marker = self.filling.as_mut().and_then(|filling| filling.marker.as_mut());
        let Some(marker) = marker else { return self.acknowledged };
        let Some(since) = received.checked_sub(marker.number) else { return self.acknowledged };
        if !std::mem::replace(&mut marker.told, true) {
            self.notices.push(Notice::Filled);
        }
        marker.position + since
    }

    /// Whether the successor is to be filled, and nobody has begun.
    pub(super) fn owes_filling(&self) -> bool {
        let holds = self.successor.as_ref().map(|successor| successor.holds);
        holds == Some(Holds::Part) && self.filling.is_none()
    }
}

/// What was added to what the successor is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    /// Rows or counts that have changed where the walk was, if they still are there.
    Changed,
    /// What lies in the next lines, if anything does.
    Walked,
    /// Nothing: it was sent all.
    Nothing,
}

/// What a copy is sent next.
pub(super) enum Next<'a> {
    /// A page of rows, or lines of counts.
    Page(Header, [&'a [u8]; 2]),
    /// Nothing yet: the walk goes on.
    Nothing,
    /// Nothing any more: the copy has all.
    Over,
}

/// Takes a page of the first table that has one.
///
/// - `bytes_max`: of keys and rows together.
pub(super) fn next_page<'a>(
    shard: &mut Shard,
    fills: &'a mut [Fill],
    bytes_max: usize,
) -> Next<'a> {
    let clock = shard.job.as_ref().map_or(0, |job: &Job| job.now().clock);
    let misses_moved = shard.mutation == Mutation::MovedRowsMissed;
    let tables = shard.tables.all_mut().iter_mut().zip(fills);
    for (number, (table, fill)) in tables.enumerate() {
        if misses_moved {
            table.forget_noted();
        }
        let (kind, width) = match table.fill(fill, bytes_max, clock) {
            Filled::All => continue,
            Filled::Nothing => return Next::Nothing,
            Filled::Rows(width) => (Kind::Page, width),
            Filled::Counts => (Kind::Counts, COUNT_LINE_WIDTH),
        };
        let header = page_header(kind, number, fill.keys.len(), width);
        return Next::Page(header, [fill.keys.as_bytes(), fill.rows.as_bytes()]);
    }
    Next::Over
}

/// The header of a page of so many keys, of the table of this number.
pub(super) fn page_header(kind: Kind, table: usize, keys: usize, width: usize) -> Header {
    let (table, keys, width) = (table as u16, keys as u32, width as u16);
    Header { table, keys, width, ..Header::new(kind) }
}

/// What says that a copy has been sent all of the first `tables` tables.
pub(super) fn marker_words(shard: &Shard, position: u64, tables: usize) -> Vec<u64> {
    let mut words = vec![position, tables as u64];
    words.extend(shard.tables.all().iter().take(tables).flat_map(|table| table.numbers()));
    words
}
