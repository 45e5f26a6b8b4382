//! Aging: when rows were last used, and which of them go away.
//!
//! Owns a stamp of 32 bits behind each row, and the walk over lines that takes rows out, a few
//! with each push. What a row is used for is left to `table`.
//!
//! Under `clocks:N` a stamp is the job's clock at the last push or load. A row that is older than
//! N reads as absent from then on, and a push to it begins it afresh, so no result depends on when
//! the walk comes by. Under `recent` a stamp counts pushes and loads, and the walk is a hand that
//! goes round when there is no room: of the rows of a few lines it takes out the quarter that was
//! not used for longest. That is nearly least recent use: what was used lately is never in a
//! quarter, unless most of the table was. Ages are exact for 2^31 pushes.
//!
//! Invariant: the walk takes out no row that any later request could still read as present.

use kernels::MISSING;
use wire::Expiry;

use super::index::Index;
use super::rows::RowArena;

/// One line is looked at for so many keys of a push: fewer rows are added than are come by.
const KEYS_A_SWEPT_LINE: usize = 2;
/// Least lines that one push looks at.
const SWEPT_LINES_MIN: usize = 4;
/// Most lines that one push looks at: some 0.1 ms.
const SWEPT_LINES_MAX: usize = 2048;

/// Lines whose rows are compared, to take out the oldest of them.
const COMPARED_LINES: usize = 8;
/// Of the compared rows, one in so many is taken out at most.
const COMPARED_ROWS_A_VICTIM: usize = 4;

/// When a push or load happens, on the clocks by which rows age.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// The clock of the worker that speaks, within what the job allows.
    pub(crate) clock: u32,
    /// The clock that no later request is behind.
    pub(crate) slowest: u32,
    /// What coins of admission are drawn from: the same for all requests of this worker's clock.
    pub(crate) coin_seed: u64,
    /// What rules that round by chance draw from. Neither changes when the request is sent again.
    pub(crate) rounding_seed: u64,
}

/// Rows that lie somewhere, and from one to the next in f32.
pub(super) struct Stored<F> {
    pub(super) floats: F,
    pub(super) stride: usize,
}

/// The stamps of a table, and where its walk stands.
#[derive(Debug)]
pub(super) struct Aging {
    /// Clocks that a row may be old; none where only room counts.
    clocks_max: Option<u32>,
    /// Where a row's stamp lies, in f32 from its start.
    stamp_at: usize,
    /// Pushes and loads so far: the stamps of [`Expiry::Recent`].
    uses: u32,
    /// The line at which the walk goes on.
    line: usize,
    /// The oldest stamp that this walk has left.
    oldest: u32,
    /// The clock before which no row can be too old, and no walk begins.
    due: u32,
    /// The slowest clock that a push has told.
    slowest: u32,
    /// Rows that were taken out or begun afresh.
    expired: u64,
    /// Keys that are taken out next: of a few lines.
    doomed: Vec<(u32, u64)>,
    /// Keys that the last push or load took out to make room.
    gone: Vec<u64>,
}

/// Rows that are too old by some clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooOld {
    stamp_at: usize,
    clocks_max: u32,
    clock: u32,
}

impl TooOld {
    /// Whether this row is one of them.
    pub(super) fn has(self, row: &[f32]) -> bool {
        age(row[self.stamp_at].to_bits(), self.clock) > self.clocks_max
    }
}

impl Aging {
    /// No row yet.
    ///
    /// - `row_width`: f32 of a row without its stamp.
    /// - Result: `None` if rows do not age.
    pub(super) fn new(expiry: Expiry, row_width: usize) -> Option<Aging> {
        let clocks_max = match expiry {
            Expiry::Never => return None,
            Expiry::Clocks(clocks) => Some(clocks),
            Expiry::Recent => None,
        };
        Some(Aging {
            clocks_max,
            stamp_at: row_width,
            uses: 0,
            line: 0,
            oldest: 0,
            due: clocks_max.map_or(0, |clocks| clocks + 1),
            slowest: 0,
            expired: 0,
            doomed: Vec::new(),
            gone: Vec::new(),
        })
    }

    /// Rows that were taken out or begun afresh.
    pub(super) fn expired(&self) -> u64 {
        self.expired
    }

    /// Keys that made room for the last push or load. Those that were too old are none of them:
    /// nobody could read them.
    pub(super) fn gone(&self) -> &[u64] {
        &self.gone
    }

    /// Pushes and loads so far, by which [`Expiry::Recent`] stamps.
    pub(super) fn uses(&self) -> u32 {
        self.uses
    }

    /// Goes on as one that has seen so many uses, and let so many rows go.
    pub(super) fn resume(&mut self, uses: u32, expired: u64) {
        (self.uses, self.expired) = (uses, expired);
    }

    /// Whether rows go when there is no room, and not by their age.
    pub(super) fn makes_room(&self) -> bool {
        self.clocks_max.is_none()
    }

    /// The stamp of what is used now.
    pub(super) fn stamp(&mut self, moment: Moment) -> u32 {
        self.gone.clear();
        if self.clocks_max.is_some() {
            return moment.clock;
        }
        self.uses = self.uses.wrapping_add(1);
        self.uses
    }

    /// Whether the row that begins at `start` is too old to be there.
    #[inline]
    pub(super) fn is_old(&self, floats: &[f32], start: usize, clock: u32) -> bool {
        self.clocks_max.is_some_and(|max| age(floats[start + self.stamp_at].to_bits(), clock) > max)
    }

    /// What is too old by this clock; none, if nothing ever is.
    pub(super) fn too_old_at(&self, clock: u32) -> Option<TooOld> {
        let stamp_at = self.stamp_at;
        self.clocks_max.map(|clocks_max| TooOld { stamp_at, clocks_max, clock })
    }

    /// Puts [`MISSING`] in place of rows that are too old.
    pub(super) fn hide(&self, stored: &Stored<&[f32]>, at: &mut [u32], clock: u32) {
        if self.clocks_max.is_none() {
            return;
        }
        for row in at.iter_mut().filter(|row| **row != MISSING) {
            if self.is_old(stored.floats, *row as usize * stored.stride, clock) {
                *row = MISSING;
            }
        }
    }

    /// Puts zeros in place of copied rows that are too old.
    pub(super) fn hide_copies(&self, copies: &mut [f32], stride: usize, clock: u32) {
        if self.clocks_max.is_none() {
            return;
        }
        for row in copies.chunks_exact_mut(stride) {
            if self.is_old(row, 0, clock) {
                row.fill(0.0);
            }
        }
    }

    /// Stamps rows that are used now; one that is too old begins again as zeros.
    ///
    /// - Result: how many began again.
    pub(super) fn touch(
        &mut self,
        stored: Stored<&mut [f32]>,
        at: &[u32],
        stamp: u32,
        clock: u32,
    ) -> u64 {
        let Stored { floats, stride } = stored;
        let mut afresh = 0;
        for &row in at {
            let start = row as usize * stride;
            let end = start + self.stamp_at;
            if self.is_old(floats, start, clock) {
                floats[start..end].fill(0.0);
                afresh += 1;
            }
            // A worker behind the one before makes no row older.
            if !is_ahead(floats[end].to_bits(), stamp) {
                floats[end] = f32::from_bits(stamp);
            }
        }
        self.expired += afresh;
        afresh
    }

    /// Stamps a row whatever stood there.
    pub(super) fn renew(&self, stored: &mut Stored<&mut [f32]>, row: u32, stamp: u32) {
        stored.floats[row as usize * stored.stride + self.stamp_at] = f32::from_bits(stamp);
    }

    /// Where a row's stamp lies, in f32 from its start.
    pub(super) fn stamp_at(&self) -> usize {
        self.stamp_at
    }

    /// The slowest clock, as a push tells it.
    pub(super) fn advance(&mut self, slowest: u32) {
        self.slowest = slowest;
    }

    /// After a push of so many keys: looks at a few lines and takes out what is too old.
    pub(super) fn sweep(&mut self, index: &mut Index, rows: &mut Option<RowArena>, keys: usize) {
        let lines = (keys / KEYS_A_SWEPT_LINE).clamp(SWEPT_LINES_MIN, SWEPT_LINES_MAX);
        self.sweep_lines(index, rows, self.slowest, lines);
    }

    /// Whether rows may be too old that are still there.
    pub(super) fn is_due(&self) -> bool {
        self.clocks_max.is_some() && !is_ahead(self.due, self.slowest)
    }

    /// Goes on with the walk between requests.
    pub(super) fn tend(&mut self, index: &mut Index, rows: &mut Option<RowArena>, lines: usize) {
        self.sweep_lines(index, rows, self.slowest, lines);
    }

    /// Looks at all lines and takes out what is too old: for a push that has no room else.
    pub(super) fn sweep_all(
        &mut self,
        index: &mut Index,
        rows: &mut Option<RowArena>,
        slowest: u32,
    ) {
        (self.line, self.due) = (0, slowest);
        self.sweep_lines(index, rows, slowest, index.lines());
    }

    fn sweep_lines(
        &mut self,
        index: &mut Index,
        rows: &mut Option<RowArena>,
        slowest: u32,
        lines: usize,
    ) {
        let Some(clocks_max) = self.clocks_max else { return };
        if is_ahead(self.due, slowest) {
            return;
        }
        if self.line == 0 {
            self.oldest = slowest;
        }
        let end = index.lines().min(self.line + lines);
        let mut doomed = std::mem::take(&mut self.doomed);
        let mut line = self.line;
        while line < end {
            let stored = stored(index, rows);
            for (key, row) in index.line(line) {
                let stamp = self.stamp_of(&stored, row);
                if age(stamp, slowest) > clocks_max {
                    doomed.push((stamp, key));
                } else if age(stamp, self.oldest) > 0 {
                    self.oldest = stamp;
                }
            }
            // A row that has its home here may come back to it, and be as old.
            line += usize::from(doomed.is_empty());
            self.remove(index, rows, &mut doomed);
        }
        self.doomed = doomed;
        self.line = end;
        if end >= index.lines() {
            // A row that moved to where the walk had been is found by the next one.
            self.line = 0;
            self.due = self.oldest.wrapping_add(clocks_max + 1);
        }
    }

    /// Takes out so many rows that were not used for long, but none with the stamp of now.
    ///
    /// - Result: how many it took: fewer, if no others are left.
    pub(super) fn evict(
        &mut self,
        index: &mut Index,
        rows: &mut Option<RowArena>,
        stamp: u32,
        count: usize,
    ) -> usize {
        let (mut left, mut lines_in_vain) = (count, 0);
        let mut doomed = std::mem::take(&mut self.doomed);
        while left > 0 && lines_in_vain < index.lines() {
            if self.line >= index.lines() {
                self.line = 0;
            }
            let end = index.lines().min(self.line + COMPARED_LINES);
            let stored = stored(index, rows);
            for (key, row) in (self.line..end).flat_map(|line| index.line(line)) {
                let found = self.stamp_of(&stored, row);
                if found != stamp {
                    doomed.push((age(found, stamp), key));
                }
            }
            let victims = doomed.len().div_ceil(COMPARED_ROWS_A_VICTIM).min(left);
            if victims < doomed.len() {
                doomed.select_nth_unstable_by(victims, |one, other| other.cmp(one));
                doomed.truncate(victims);
            }
            self.gone.extend(doomed.iter().map(|&(_, key)| key));
            lines_in_vain = if victims > 0 { 0 } else { lines_in_vain + end - self.line };
            self.remove(index, rows, &mut doomed);
            self.line = end;
            left -= victims;
        }
        self.doomed = doomed;
        count - left
    }

    /// How many rows are too old.
    pub(super) fn count_old(&self, index: &Index, rows: &Option<RowArena>, clock: u32) -> usize {
        let stored = stored(index, rows);
        let rows = (0..index.lines()).flat_map(|line| index.line(line));
        rows.filter(|&(_, row)| self.is_old(stored.floats, row as usize * stored.stride, clock))
            .count()
    }

    fn remove(
        &mut self,
        index: &mut Index,
        rows: &mut Option<RowArena>,
        doomed: &mut Vec<(u32, u64)>,
    ) {
        self.expired += doomed.len() as u64;
        doomed.drain(..).for_each(|(_, key)| remove(index, rows, key));
    }

    fn stamp_of(&self, stored: &Stored<&[f32]>, row: u32) -> u32 {
        stored.floats[row as usize * stored.stride + self.stamp_at].to_bits()
    }
}

/// Where rows lie: in their own arena, or in the lines of the index.
pub(super) fn stored<'a>(index: &'a Index, rows: &'a Option<RowArena>) -> Stored<&'a [f32]> {
    match rows {
        Some(rows) => Stored { floats: rows.floats(), stride: rows.stride() },
        None => Stored { floats: index.floats(), stride: 1 },
    }
}

/// The same, to change.
pub(super) fn stored_mut<'a>(
    index: &'a mut Index,
    rows: &'a mut Option<RowArena>,
) -> Stored<&'a mut [f32]> {
    match rows {
        Some(rows) => {
            let stride = rows.stride();
            Stored { floats: rows.floats_mut(), stride }
        }
        None => Stored { floats: index.floats_mut(), stride: 1 },
    }
}

/// Takes a row out. An absent key is none.
pub(super) fn remove(index: &mut Index, rows: &mut Option<RowArena>, key: u64) {
    if let (Some(payload), Some(arena)) = (index.remove(key), rows.as_mut()) {
        let row = payload[0];
        index.keep_row(key, row, arena);
        arena.free(row);
    }
}

/// How long before `clock` a stamp is; 0 for one that is not. Both count on past their end, from 0
/// again.
const fn age(stamp: u32, clock: u32) -> u32 {
    let age = clock.wrapping_sub(stamp);
    if age > i32::MAX as u32 { 0 } else { age }
}

/// Whether a stamp is of after `clock`.
const fn is_ahead(stamp: u32, clock: u32) -> bool {
    stamp != clock && age(stamp, clock) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_count_past_the_end_of_their_bits_and_the_future_is_not_old() {
        assert_eq!(age(3, 10), 7);
        assert_eq!(age(10, 3), 0);
        assert_eq!(age(u32::MAX - 1, 3), 5);
        assert_eq!(age(3, u32::MAX - 1), 0);
        assert!(is_ahead(3, u32::MAX - 1) && !is_ahead(u32::MAX - 1, 3) && !is_ahead(3, 3));
    }
}
