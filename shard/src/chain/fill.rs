//! Filling a successor: the job first, then rows, with the operations that happen meanwhile.
//!
//! Owns the pace and the end of it. How a table is copied while it changes is left to `table`.
//!
//! Invariant: from the message on that says that all is sent, nothing counts as acknowledged that
//! the successor lacks; so once it has that message, it may become a replica.

use wire::{COUNT_LINE_WIDTH, FRAME_BYTES_MAX, HEADER_BYTES, Header, Holds, Kind};
use zerocopy::IntoBytes;

use super::log::Part;
use super::record::Recording;
use super::{Notice, Progress, RecordingEnd, Replica};
use crate::engine::{Mutation, Shard};
use crate::job::Job;
use crate::table::{Fill, Filled};

/// Keys and rows of a page, in bytes.
pub(super) const PAGE_BYTES_MAX: usize = 256 << 10;

/// Pages of a turn: some 0.1 ms.
const PAGES_A_TURN: usize = 4;

/// Bytes that the successor has not said to have, before it is sent more pages.
const UNACKNOWLEDGED_BYTES_MAX: usize = 4 << 20;

/// The same, in messages of the longest kind.
const UNACKNOWLEDGED_MESSAGES_MAX: usize = 16;

/// Where filling the successor stands.
#[derive(Debug)]
pub(super) struct Filling {
    /// By table, of those that there were at its start. Later ones are filled by operations alone.
    tables: Vec<Fill>,
    /// How often tables had been dropped at its start.
    dropped: u64,
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
}

impl<S> Replica<S> {
    /// Begins to fill the successor, whatever it has. Whether that can be.
    pub(super) fn begin_filling(&mut self) -> bool {
        self.end_filling();
        if self.recording.as_ref().is_some_and(Recording::wants_rows) {
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
        self.filling = Some(Filling { tables, dropped, marker: None });
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

    /// Adds some pages for the successor. Whether there are more.
    pub(super) fn fill(&mut self) -> bool {
        let Some(filling) = &self.filling else { return false };
        if filling.is_marked() {
            return false;
        }
        if filling.dropped != self.shard.tables.dropped() {
            self.end_filling(); // Another job has begun: all is sent anew, over another link.
            self.notices.push(Notice::SuccessorSilent);
            return false;
        }
        let messages_bytes = UNACKNOWLEDGED_MESSAGES_MAX * self.log.message_bytes_max();
        let unacknowledged_bytes_max = UNACKNOWLEDGED_BYTES_MAX.min(messages_bytes);
        for _ in 0..PAGES_A_TURN {
            if self.log.bytes() >= unacknowledged_bytes_max || self.log.is_full() {
                return false;
            }
            if !self.add_page() || self.mutation == Mutation::FilledEarly {
                self.mark();
                return false;
            }
        }
        true
    }

    /// Adds a page of the first table that has one. Whether any had.
    fn add_page(&mut self) -> bool {
        let Some(filling) = &mut self.filling else { return false };
        let bytes_max = PAGE_BYTES_MAX.min(self.log.message_bytes_max() - HEADER_BYTES);
        match next_page(&mut self.shard, &mut filling.tables, bytes_max) {
            Next::Over => return false,
            Next::Nothing => {}
            Next::Page(header, body) => {
                self.log.append(header, body, Part::Fill);
            }
        }
        true
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
            Filled::Gone => (Kind::Page, 0),
            Filled::Counts => (Kind::Counts, COUNT_LINE_WIDTH),
        };
        let header = Header {
            table: number as u16,
            keys: fill.keys.len() as u32,
            width: width as u16,
            ..Header::new(kind)
        };
        return Next::Page(header, [fill.keys.as_bytes(), fill.rows.as_bytes()]);
    }
    Next::Over
}

/// What says that a copy has been sent all of the first `tables` tables.
pub(super) fn marker_words(shard: &Shard, position: u64, tables: usize) -> Vec<u64> {
    let mut words = vec![position, tables as u64];
    words.extend(shard.tables.all().iter().take(tables).flat_map(|table| table.numbers()));
    words
}
