//! Filling another server's copy of a table, row by row, while the table goes on changing.
//!
//! Owns the walk over a table's rows and counts, and how a copy takes them in. When pages are sent
//! is left to `chain`.
//!
//! A copy is sent pages of whole rows as they are, and between them, in their order, the changes
//! that the table takes meanwhile. It changes the rows that it has and makes none. So it is exact
//! if each row reaches it in some page after which every change of that row is sent: those that
//! were there when the walk came by, and those that came to a line behind the walk, moved, added,
//! or begun afresh, which the index notes by key. Counts of absent keys are lines that never move:
//! those that have counted since they were sent are sent again.
//!
//! Invariant: once a walk is over and nothing is noted or unsent, the copy has the table's rows,
//! but for those that are too old to be read.

use std::collections::BTreeMap;

use kernels::MISSING;
use kernels::lines::Payload;
use wire::{COUNT_LINE_WIDTH, RowsView};
use zerocopy::{FromBytes, IntoBytes};

use super::aging::{Aging, stored, stored_mut};
use super::newcomers::Sketch;
use super::touched::Touched;
use super::{Full, Table};

/// Keys that may be noted; beyond it the walk begins again.
const NOTED_MAX: usize = 1 << 20;

/// Lines that one part of the walk looks at, most of them empty or not.
const LINES_WALKED: usize = 4096;

/// Keys of a page for which there is room before the first of them is looked for.
const PAGE_BLOCK_KEYS: usize = 64;

/// A copy has room for one row more in so many than it is to have: lines that are all but full are
/// slow to fill, and the first new keys would have to wait until they are moved to more of them.
const MARGIN_PART: usize = 16;

/// Keys between the one that is put in and the one whose lines the cache is asked for.
const KEYS_AHEAD: usize = 12;

/// How much of a table's rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All.
    Whole,
    /// Those that were sent so far.
    Some,
}

/// Where the walk over one table stands, and what is sent next.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    line: usize,
    walk_over: bool,
    /// Keys or numbers of lines.
    pub(crate) keys: Vec<u64>,
    /// `[keys, width]`.
    pub(crate) rows: Vec<f32>,
}

impl Fill {
    /// Lines of the table that the walk has passed.
    pub(crate) fn lines_walked(&self) -> usize {
        self.line
    }
}

/// What a part of the walk has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Rows, of this width.
    Rows(usize),
    /// Lines of counts.
    Counts,
    /// Nothing yet.
    Nothing,
    /// Nothing is left: the copy is the table's.
    All,
}

impl Table {
    /// Keys whose rows made room for the last push or load.
    pub(crate) fn gone(&self) -> &[u64] {
        self.aging.as_ref().map_or(&[], |aging| aging.gone())
    }

    /// Numbers that a copy needs beside the rows: uses, rows admitted, deltas dropped, rows
    /// expired.
    pub(crate) fn numbers(&self) -> [u64; 4] {
        let (uses, expired) = self.aging.as_ref().map_or((0, 0), |it| (it.uses(), it.expired()));
        [u64::from(uses), self.counts.rows_admitted, self.counts.deltas_dropped, expired]
    }

    /// The numbers of the table that this is a copy of.
    pub(crate) fn set_numbers(&mut self, numbers: [u64; 4]) {
        let [uses, rows_admitted, deltas_dropped, expired] = numbers;
        (self.counts.rows_admitted, self.counts.deltas_dropped) = (rows_admitted, deltas_dropped);
        if let Some(aging) = &mut self.aging {
            aging.resume(uses as u32, expired);
        }
    }

    /// From now on this is a copy that is filled: about so many rows come by pages.
    pub(crate) fn begin_being_filled(&mut self, rows: u64) {
        self.part = Part::Some;
        // Made at once, lines need not be moved time and again. Where there is no room for all,
        // the page that has none says so.
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let rows = rows.saturating_add(rows / MARGIN_PART).min(self.rows_max);
        if self.reserve(rows.saturating_sub(self.index.keys())).is_ok() {
            self.index.fill_all();
        }
    }

    /// A copy that has been filled is sent all counts anew.
    pub(crate) fn forget_counts(&mut self) {
        self.newcomers.sketch().into_iter().for_each(Sketch::clear);
    }

    /// It has all rows.
    pub(crate) fn end_being_filled(&mut self) {
        self.part = Part::Whole;
    }

    /// Begins to fill a copy.
    pub(crate) fn begin_filling(&mut self) -> Fill {
        self.index.walked_to(0);
        if let Some(sketch) = self.newcomers.sketch() {
            sketch.begin_sending();
        }
        Fill::default()
    }

    /// From now on it is known what changes, or not any more.
    pub(crate) fn set_tracked(&mut self, is_tracked: bool) {
        self.index.set_touched(is_tracked);
    }

    /// Whether all is known that has changed since it was asked for last; of a table that is new
    /// since then, that is everything.
    pub(crate) fn knows_changes(&self) -> bool {
        self.index.touched().is_none_or(Touched::is_whole)
    }

    /// Forgets which rows came to where the walk had been: a defect, for tests.
    pub(crate) fn forget_noted(&mut self) {
        self.index.noted().clear();
    }

    /// Ends it, done or not.
    pub(crate) fn end_filling(&mut self) {
        self.index.walked_to(0);
        if let Some(sketch) = self.newcomers.sketch() {
            sketch.end_sending();
        }
    }

    /// Takes the next rows or counts for a copy: what was noted first.
    ///
    /// - `bytes_max`: of keys and rows together; one line of the index may pass it.
    /// - `clock`: rows that are too old by it are not sent.
    pub(crate) fn fill(&mut self, fill: &mut Fill, bytes_max: usize, clock: u32) -> Filled {
        let width = self.page_width();
        let rows_max = (bytes_max / (8 + 4 * width)).max(1);
        fill.keys.clear();
        fill.rows.clear();
        if self.index.noted().len() > NOTED_MAX {
            self.index.walked_to(0);
            (fill.line, fill.walk_over) = (0, false);
        }
        if !self.index.noted().is_empty() {
            self.take_noted(fill, rows_max, width);
            return if fill.keys.is_empty() { Filled::Nothing } else { Filled::Rows(width) };
        }
        if !fill.walk_over {
            self.walk(fill, rows_max, (width, clock));
            return if fill.keys.is_empty() { Filled::Nothing } else { Filled::Rows(width) };
        }
        let Some(sketch) = self.newcomers.sketch().filter(|sketch| !sketch.is_sent()) else {
            return Filled::All;
        };
        sketch.send((bytes_max / (8 + 4 * COUNT_LINE_WIDTH)).max(1), |number, line| {
            fill.keys.push(number);
            let line = <[f32; COUNT_LINE_WIDTH]>::read_from_bytes(line).expect("64 bytes");
            fill.rows.extend_from_slice(&line);
        });
        if fill.keys.is_empty() { Filled::Nothing } else { Filled::Counts }
    }

    fn take_noted(&mut self, fill: &mut Fill, rows_max: usize, width: usize) {
        let noted = self.index.noted();
        let keys = noted.split_off(noted.len().saturating_sub(rows_max));
        for key in keys {
            let mut at = [MISSING];
            self.find(&[key], &mut at);
            if at[0] != MISSING {
                let stored = stored(&self.index, &self.rows);
                let start = at[0] as usize * stored.stride;
                fill.keys.push(key);
                fill.rows.extend_from_slice(&stored.floats[start..start + width]);
            }
        }
    }

    fn walk(&mut self, fill: &mut Fill, rows_max: usize, (width, clock): (usize, u32)) {
        let stored = stored(&self.index, &self.rows);
        let lines = self.index.lines();
        let end = lines.min(fill.line + LINES_WALKED);
        while fill.line < end && fill.keys.len() < rows_max {
            let entries = || self.index.line(fill.line).map(|(key, row)| (key, row as usize));
            if !fill.keys.is_empty() && fill.keys.len() + entries().count() > rows_max {
                break;
            }
            for (key, row) in entries() {
                let start = row * stored.stride;
                let is_old = |aging: &Aging| aging.is_old(stored.floats, start, clock);
                if !self.aging.as_ref().is_some_and(is_old) {
                    fill.keys.push(key);
                    fill.rows.extend_from_slice(&stored.floats[start..start + width]);
                }
            }
            fill.line += 1;
        }
        fill.walk_over = fill.line >= lines;
        self.index.walked_to(if fill.walk_over { usize::MAX } else { fill.line });
    }

    /// All rows that are not too old, with their stamps, as bits.
    pub(crate) fn rows_by_key(&self, clock: u32) -> BTreeMap<u64, Vec<u32>> {
        let stored = stored(&self.index, &self.rows);
        let entries = (0..self.index.lines()).flat_map(|line| self.index.line(line));
        let rows = entries.filter_map(|(key, row)| {
            let start = row as usize * stored.stride;
            let is_old = |aging: &Aging| aging.is_old(stored.floats, start, clock);
            let row = &stored.floats[start..start + self.page_width()];
            let is_there = !self.aging.as_ref().is_some_and(is_old);
            is_there.then(|| (key, row.iter().map(|value| value.to_bits()).collect()))
        });
        rows.collect()
    }

    /// All lines of counts that are not zero.
    pub(crate) fn counts_by_line(&mut self) -> BTreeMap<u64, Vec<u8>> {
        let sketch = self.newcomers.sketch();
        sketch.map_or_else(BTreeMap::new, |sketch| sketch.counted().collect())
    }

    /// Takes in a page of rows with their stamps: what is there is overwritten.
    ///
    /// - `clock`: rows that are too old by it make room.
    /// - Errors: [`Full`]. Some rows may have been taken in.
    pub(crate) fn take_page(&mut self, page: RowsView<'_>, clock: u32) -> Result<(), Full> {
        let width = self.page_width();
        page.keys.iter().take(KEYS_AHEAD).for_each(|&key| self.index.prefetch(key));
        for (at, (&key, row)) in page.keys.iter().zip(page.rows.chunks_exact(width)).enumerate() {
            if at.is_multiple_of(PAGE_BLOCK_KEYS) {
                let block = &page.keys[at..];
                self.make_place(&block[..block.len().min(PAGE_BLOCK_KEYS)], clock)?;
            }
            if let Some(&ahead) = page.keys.get(at + KEYS_AHEAD) {
                self.index.prefetch(ahead);
            }
            self.put_row(key, row);
        }
        Ok(())
    }

    /// Makes room for a block of a page.
    fn make_place(&mut self, block: &[u64], clock: u32) -> Result<(), Full> {
        let mut more = block.len();
        let fits = |table: &Table, more| table.index.keys() + more <= table.rows_max;
        if !fits(self, more) || !self.index.has_room(more) {
            // Only as much as it takes: those that are there, and stay if old rows make room, need
            // none.
            more = self.count_missing(block, clock);
        }
        if !fits(self, more)
            && let Some(aging) = &mut self.aging
        {
            // Rows that the other table has swept already.
            aging.sweep_all(&mut self.index, &mut self.rows, clock);
        }
        if fits(self, more) {
            self.reserve(more)
        } else {
            Err(Full { rows: self.index.keys() as u64 })
        }
    }

    /// Writes a row of a page, stamp and all, after [`Table::make_place`].
    fn put_row(&mut self, key: u64, row: &[f32]) {
        let mut payload = Payload::default();
        if let Some(rows) = &self.rows {
            payload[0] = rows.next();
        } else {
            payload.iter_mut().zip(row).for_each(|(word, value)| *word = value.to_bits());
        }
        let (at, was_there) = self.index.find_or_insert(key, &payload);
        match &mut self.rows {
            Some(rows) if !was_there => {
                let added = rows.add();
                debug_assert_eq!(added, at, "the one that was to be next");
            }
            None if !was_there => return, // The row went in with its key.
            _ => {}
        }
        let stored = stored_mut(&mut self.index, &mut self.rows);
        let start = at as usize * stored.stride;
        stored.floats[start..start + row.len()].copy_from_slice(row);
    }

    /// Numbers that a page's rows begin with and that a checkpoint may round.
    pub(crate) fn roundable(&self) -> usize {
        self.rule.roundable(self.spec.dim as usize).min(self.widths.row)
    }

    /// Width of a page's rows.
    pub(crate) fn page_width(&self) -> usize {
        self.widths.row + usize::from(self.aging.is_some())
    }

    /// Takes in lines of counts. Whether there are such lines.
    pub(crate) fn take_counts(&mut self, page: RowsView<'_>) -> bool {
        let Some(sketch) = self.newcomers.sketch() else { return false };
        let mut lines = page.keys.iter().zip(page.rows.chunks_exact(COUNT_LINE_WIDTH));
        lines.all(|(&number, line)| {
            let line = line.as_bytes().try_into().expect("64 bytes");
            sketch.overwrite(number, line)
        })
    }
}
