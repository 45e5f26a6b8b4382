//! Room for a batch, made before its first row changes.
//!
//! Owns the decision between a row's place, an old row's place, and a refusal. Memory is left to
//! `index` and `rows`, which rows are old to `aging`.
//!
//! Invariant: what is refused has changed no row that anybody could read.

use kernels::MISSING;
use kernels::lines::Layout;
use wire::TableSize;

use super::aging::{Aging, Moment, stored, stored_mut};
use super::index::Index;
use super::rows::RowArena;
use super::{BLOCK_KEYS, Full, Table};

impl Table {
    /// What it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let rows_bytes = self.rows.as_ref().map_or(0, RowArena::bytes);
        (self.index.bytes() + rows_bytes + self.newcomers.bytes()) as u64
    }

    pub(crate) fn size(&self) -> TableSize {
        TableSize {
            rows: self.index.keys() as u64,
            bytes: self.bytes(),
            rows_admitted: self.counts.rows_admitted,
            deltas_dropped: self.counts.deltas_dropped,
            rows_expired: self.aging.as_ref().map_or(0, Aging::expired),
        }
    }

    /// Reserves what a batch may need: cheaply as if all its keys were new, exactly if that is
    /// more than the table may have. Keys that will not be admitted count as new: who they are is
    /// known too late.
    pub(super) fn make_room(
        &mut self,
        keys: &[u64],
        stamp: u32,
        moment: Moment,
    ) -> Result<(), Full> {
        let rows = self.index.keys();
        let mut more = keys.len();
        if rows + more > self.rows_max || self.index.exceeds_allowance(more) {
            more = self.count_missing(keys, moment.slowest);
            if rows + more > self.rows_max {
                return self.make_old_rows_go(keys, more, stamp, moment);
            }
        }
        self.reserve(more)
    }

    /// Whether a push of these keys may take more memory than so many bytes.
    pub(crate) fn lacks_room(&self, bytes_max: u64, keys: &[u64], clock: u32) -> bool {
        let lacks = |more: usize| self.growth_bytes(more) > bytes_max;
        lacks(keys.len()) && lacks(self.count_missing(keys, clock))
    }

    /// What so many more rows would add.
    fn growth_bytes(&self, more: usize) -> u64 {
        let rows = self.rows.as_ref().map_or(0, |rows| rows.growth_bytes(more));
        self.index.growth_bytes(more) + rows as u64
    }

    /// Allows it to take so many bytes more before this is said again; a push that adds no row may
    /// otherwise have the index grow, so that keys are found sooner.
    pub(crate) fn allow_growth(&mut self, bytes: u64) {
        self.index.allow_growth(bytes);
    }

    /// Makes room for `more` rows, which there is not, by rows that are too old or are not among
    /// those used last.
    #[cold]
    fn make_old_rows_go(
        &mut self,
        keys: &[u64],
        more: usize,
        stamp: u32,
        moment: Moment,
    ) -> Result<(), Full> {
        let rows = self.index.keys();
        let full = Full { rows: rows as u64 };
        let mut aging = self.aging.take().ok_or(full)?;
        let (index, arena) = (&mut self.index, &mut self.rows);
        let done = if aging.makes_room() {
            self.make_least_recent_go((&mut aging, stamp), keys, more)
        } else if rows - aging.count_old(index, arena, moment.slowest) + more <= self.rows_max {
            aging.sweep_all(index, arena, moment.slowest);
            if index.keys() + more > self.rows_max {
                aging.sweep_all(index, arena, moment.slowest); // Strays move when one goes.
            }
            if index.keys() + more > self.rows_max { Err(full) } else { self.reserve(more) }
        } else {
            Err(full)
        };
        self.aging = Some(aging);
        done
    }

    /// Takes out as many rows as there is no room for, none of them of these keys.
    fn make_least_recent_go(
        &mut self,
        (aging, stamp): (&mut Aging, u32),
        keys: &[u64],
        more: usize,
    ) -> Result<(), Full> {
        let rows = self.index.keys();
        let full = Full { rows: rows as u64 };
        if keys.len() > self.rows_max {
            return Err(full);
        }
        // While a refusal changes nothing yet. Rows that go leave their room to new ones.
        self.reserve(self.rows_max - rows)?;
        let mut at = [0; BLOCK_KEYS];
        for keys in keys.chunks(BLOCK_KEYS) {
            let at = &mut at[..keys.len()];
            self.find(keys, at);
            for (&key, &row) in keys.iter().zip(&*at).filter(|&(_, &row)| row != MISSING) {
                self.index.keep(&[key], &[row], &self.rows);
            }
            if let Some(touched) = self.index.touched_mut() {
                at.iter().filter(|&&row| row != MISSING).for_each(|&row| touched.touch(&[row]));
            }
            let mut stored = stored_mut(&mut self.index, &mut self.rows);
            let found = at.iter().filter(|&&row| row != MISSING);
            found.for_each(|&row| aging.renew(&mut stored, row, stamp));
        }
        let count = rows + more - self.rows_max;
        let gone = aging.evict(&mut self.index, &mut self.rows, stamp, count);
        if gone == count { Ok(()) } else { Err(full) }
    }

    pub(super) fn reserve(&mut self, more: usize) -> Result<(), Full> {
        let full = Full { rows: self.index.keys() as u64 };
        self.index.reserve(more).map_err(|_| full)?;
        self.rows.as_mut().map_or(Ok(()), |rows| rows.reserve(more)).map_err(|_| full)
    }

    /// How many of these keys have no row, or one that is too old.
    #[cold]
    pub(super) fn count_missing(&self, keys: &[u64], clock: u32) -> usize {
        let mut at = [0; BLOCK_KEYS];
        let count = |keys: &[u64]| {
            let at = &mut at[..keys.len()];
            self.find(keys, at);
            if let Some(aging) = &self.aging {
                aging.hide(&stored(&self.index, &self.rows), at, clock);
            }
            at.iter().filter(|&&row| row == MISSING).count()
        };
        keys.chunks(BLOCK_KEYS).map(count).sum()
    }
}

/// How many rows fit in so many bytes with their index, at least one.
pub(super) fn rows_within(layout: Layout, row_bytes: usize, bytes_max: u64) -> usize {
    const LINE_BYTES: u64 = 64;
    // The bytes of a hundred lines, and the rows that they index.
    let rows = Index::keys_of(layout, 100) as u64;
    let bytes = 100 * LINE_BYTES + rows * row_bytes as u64;
    let rows = u128::from(bytes_max) * u128::from(rows) / u128::from(bytes);
    rows.clamp(1, u128::from(MISSING - 1)) as usize
}
