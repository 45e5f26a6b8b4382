//! A table: keys, rows and the rule that changes them.
//!
//! Owns the walk of a batch: find the rows, add the missing ones, hand their places to the rule.
//! Searching is left to `index`, rows that lie apart to `rows`, room for them to `room`, arithmetic
//! to the rule, which keys get a row to `newcomers`, which rows go away to `aging`.
//!
//! A narrow row lies in one line of the cache with its key, a wider one in an arena of rows. Where
//! rows age, a stamp lies behind each.
//!
//! Invariant: room for a batch is made before its first row changes, so a push is applied whole
//! or not at all.

mod aging;
mod arrivals;
mod bits;
mod copies;
mod counts;
mod fill;
mod growth;
mod index;
mod newcomers;
mod places;
mod room;
mod rows;
mod scratch;
mod snapshot;
mod touched;
mod watch;

use std::sync::Arc;

use kernels::copy::for_other_core;
use kernels::lines::{Holds, Layout, PAYLOAD_WORDS_MAX, Payload};
use kernels::probe::Elsewhere;
use kernels::{Isa, MISSING};
use wire::{Seal, TableSpec};
use zerocopy::IntoBytes;

pub(crate) use self::aging::Moment;
use self::aging::{Aging, Stored, stored, stored_mut};
pub(crate) use self::copies::{Page, Paper};
use self::fill::Part;
pub(crate) use self::fill::{Fill, Filled};
use self::index::Index;
use self::newcomers::Newcomers;
pub(crate) use self::places::{Places, ScanGoesOn};
use self::rows::RowArena;
use self::scratch::{GATHERED_FLOATS, IN_ORDER, Scratch};
pub(crate) use self::snapshot::{Piece, SnapshotOf};
use crate::rule::{Pulled, Rows, Rule, Widths};

/// Keys that are searched together and then applied, so that their rows are still in the cache.
const BLOCK_KEYS: usize = 512;

/// Pushes during which rows stay where they are after a part of a scan, which would have to begin
/// again; unless a table grows, or is full.
const SCAN_PAUSE_PUSHES: u32 = 1024;

/// Lines that one part of the upkeep moves or sweeps: some 30 us.
const LINES_TENDED: usize = 256;

/// Why a table does not take more rows. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// How many it has.
    pub(crate) rows: u64,
}

/// Work on a table that no request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upkeep {
    /// There is none.
    None,
    /// It is for when there is nothing else to do.
    MayWait,
    /// It comes before further long requests, which would make it more than can be done in parts.
    Owed,
}

/// One table of one shard.
#[derive(Debug)]
pub(crate) struct Table {
    spec: TableSpec,
    rule: Arc<dyn Rule>,
    widths: Widths,
    rows_max: usize,
    index: Index,
    /// The rows, where they do not lie in the index's lines.
    rows: Option<RowArena>,
    newcomers: Newcomers,
    aging: Option<Aging>,
    /// Pushes during which rows stay where they are: see [`SCAN_PAUSE_PUSHES`].
    scan_pause: u32,
    counts: Counts,
    part: Part,
    /// Deltas of admitted keys, where others of their block are dropped.
    kept: Vec<f32>,
    scratch: Scratch,
    isa: Isa,
}

/// What became of keys that pushes named for the first time.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rows_admitted: u64,
    deltas_dropped: u64,
}

impl Table {
    /// An empty table.
    ///
    /// - `bytes_max`: what it may take, index included. `seed`: the order of keys in its lines.
    /// - Errors: [`Full`], if the kernel gives no memory even for an empty one.
    pub(crate) fn new(
        isa: Isa,
        spec: TableSpec,
        rule: Arc<dyn Rule>,
        bytes_max: u64,
        seed: u64,
    ) -> Result<Table, Full> {
        const FULL: Full = Full { rows: 0 };
        let widths = rule.widths(spec.dim as usize);
        let aging = Aging::new(spec.life.expiry, widths.row);
        let row_width = widths.row + usize::from(aging.is_some());
        let within = row_width <= PAYLOAD_WORDS_MAX;
        let layout =
            if within { Layout::new(Holds::Row, row_width) } else { Layout::new(Holds::Number, 1) };
        let layout = layout.expect("a row has a number, and a narrow one fits a line");
        let row_bytes = if within { 0 } else { rows::stride(row_width) * size_of::<f32>() };
        let newcomers = Newcomers::new(spec.life.admission, bytes_max).map_err(|_| FULL)?;
        // A small table may have less than counting takes at least.
        let bytes_max = bytes_max - (newcomers.bytes() as u64).min(bytes_max / 2);
        let rows_max = room::rows_within(layout, row_bytes, bytes_max);
        let lines_max = Index::lines_for(layout, rows_max);
        let index = Index::new(layout, lines_max, seed).map_err(|_| FULL)?;
        let rows = (!within).then(|| RowArena::new(row_width, rows_max));
        let rows = rows.transpose().map_err(|_| FULL)?;
        let rows_max = rows.as_ref().map_or(rows_max, |rows| rows_max.min(rows.rows_max()));
        let rows_max = rows_max.min(index.keys_max());
        let (counts, kept) = (Counts::default(), Vec::new());
        Ok(Table {
            spec,
            rule,
            widths,
            rows_max,
            index,
            rows,
            newcomers,
            aging,
            scan_pause: 0,
            counts,
            part: Part::Whole,
            kept,
            scratch: Scratch::new(),
            isa,
        })
    }

    pub(crate) fn spec(&self) -> &TableSpec {
        &self.spec
    }

    pub(crate) fn widths(&self) -> Widths {
        self.widths
    }

    /// Applies `[keys, widths.delta]` deltas to the rows of distinct keys, adding the missing rows
    /// that are admitted.
    ///
    /// - `places`: of these keys, if a pull has found them.
    pub(crate) fn push(
        &mut self,
        keys: &[u64],
        deltas: &[f32],
        moment: Moment,
        places: Option<Places<'_>>,
    ) -> Result<(), Full> {
        let stamp = self.aging.as_mut().map_or(0, |aging| aging.stamp(moment));
        if self.part == Part::Whole {
            self.make_room(keys, stamp, moment)?;
        }
        let all_stay = self.aging.is_none()
            && self.part == Part::Whole
            && matches!(self.newcomers, Newcomers::All);
        let rows = self.index.keys();
        let mut at = [0; BLOCK_KEYS];
        let delta_blocks = deltas.chunks(BLOCK_KEYS * self.widths.delta);
        for (block, deltas) in (0..keys.len()).step_by(BLOCK_KEYS).zip(delta_blocks) {
            let keys = &keys[block..];
            let at = &mut at[..keys.len().min(BLOCK_KEYS)];
            match places.and_then(|places| self.known_at(places, block, at.len())) {
                Some(known) => at.copy_from_slice(known),
                None => self.find(keys, at),
            }
            if all_stay {
                self.add_missing(keys, at, stamp);
                self.index.keep(keys, at, &self.rows);
                self.apply(at, deltas, moment.rounding_seed);
            } else {
                self.push_selected(keys, at, deltas, (stamp, moment));
            }
        }
        self.counts.rows_admitted += (self.index.keys() - rows) as u64;
        if let Some(aging) = &mut self.aging {
            aging.advance(moment.slowest);
            if self.scan_pause == 0 {
                aging.sweep(&mut self.index, &mut self.rows, keys.len());
            }
        }
        self.scan_pause = self.scan_pause.saturating_sub(1);
        Ok(())
    }

    /// Applies the deltas of a block but those of keys that are not admitted, and begins afresh
    /// what is too old.
    ///
    /// - `at`: where its keys were found.
    fn push_selected(
        &mut self,
        keys: &[u64],
        at: &mut [u32],
        deltas: &[f32],
        (stamp, moment): (u32, Moment),
    ) {
        let (mut kept_keys, mut kept_from) = ([0; BLOCK_KEYS], [0; BLOCK_KEYS]);
        let (mut kept, mut begins_afresh) = (0, false);
        let found = stored(&self.index, &self.rows);
        for (from, &key) in keys[..at.len()].iter().enumerate() {
            let row = at[from];
            let is_old = |aging: &Aging| {
                aging.is_old(found.floats, row as usize * found.stride, moment.clock)
            };
            let is_there = row != MISSING && !self.aging.as_ref().is_some_and(is_old);
            let admits = |newcomers: &mut Newcomers| newcomers.admits(key, moment.coin_seed);
            if is_there || self.part == Part::Whole && admits(&mut self.newcomers) {
                (kept_keys[kept], kept_from[kept], at[kept]) = (key, from, row);
                kept += 1;
                begins_afresh |= !is_there && row != MISSING;
            }
        }
        self.counts.deltas_dropped += (at.len() - kept) as u64;
        let all = at.len();
        let at = &mut at[..kept];
        if begins_afresh {
            // Whoever is being filled cannot know: see `fill`.
            let found = kept_keys.iter().zip(&*at).filter(|&(_, &row)| row != MISSING);
            found.for_each(|(&key, _)| self.index.note(key));
        }
        self.add_missing(&kept_keys[..kept], at, stamp);
        self.index.keep(&kept_keys[..kept], at, &self.rows);
        if let Some(aging) = &mut self.aging {
            let stored = stored_mut(&mut self.index, &mut self.rows);
            self.counts.rows_admitted += aging.touch(stored, at, stamp, moment.clock);
        }
        if kept == all {
            return self.apply(at, deltas, moment.rounding_seed);
        }
        let width = self.widths.delta;
        let mut kept_deltas = std::mem::take(&mut self.kept);
        kept_deltas.clear();
        for &from in &kept_from[..kept] {
            kept_deltas.extend_from_slice(&deltas[from * width..(from + 1) * width]);
        }
        self.apply(at, &kept_deltas, moment.rounding_seed);
        self.kept = kept_deltas;
    }

    fn apply(&mut self, at: &[u32], deltas: &[f32], seed: u64) {
        if let Some(touched) = self.index.touched_mut() {
            touched.touch(at);
        }
        let Stored { floats, stride } = stored_mut(&mut self.index, &mut self.rows);
        let rows = Rows { floats, stride, dim: self.spec.dim as usize };
        self.rule.apply_seeded(self.isa, rows, at, deltas, seed);
    }

    /// Writes `[keys, widths.value]` values; an absent key reads as a row of zeros and stays
    /// absent.
    ///
    /// - `seal`: of the answer; where the way is this host's memory, another core reads `values`.
    /// - `clock`: what is too old by it is absent.
    /// - `places`: if given, is overwritten with where the rows lie, those that are too old too.
    pub(crate) fn pull(
        &mut self,
        keys: &[u64],
        values: &mut [f32],
        seal: Seal,
        clock: u32,
        mut places: Option<&mut Vec<u32>>,
    ) {
        if let Some(places) = &mut places {
            places.clear();
        } else if self.rows.is_none() && self.aging.is_none() && self.rule.pulled() == Pulled::Row {
            if seal == Seal::Body {
                return self.index.read(self.isa, keys, values);
            }
            if self.index.read_past_cache(self.isa, keys, values).is_some() {
                return;
            }
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let Scratch { at, copied, gathered } = &mut scratch;
        let value_blocks = values.chunks_mut(BLOCK_KEYS * self.widths.value);
        for (block, values) in (0..keys.len()).step_by(BLOCK_KEYS).zip(value_blocks) {
            let (keys, count) = (&keys[block..], (keys.len() - block).min(BLOCK_KEYS));
            if self.rows.is_some() || places.is_some() {
                let at = &mut at[..count];
                self.find(keys, at);
                if let Some(places) = &mut places {
                    places.extend_from_slice(at);
                }
                if let Some(aging) = &self.aging {
                    aging.hide(&stored(&self.index, &self.rows), at, clock);
                }
                self.read(self.all_rows(), at, values, (seal, gathered));
            } else {
                let stride = self.widths.row + usize::from(self.aging.is_some());
                let copied = &mut copied[..count * stride];
                self.index.read(self.isa, keys, copied);
                if let Some(aging) = &self.aging {
                    aging.hide_copies(copied, stride, clock);
                }
                let rows = Rows { floats: &*copied, stride, dim: self.spec.dim as usize };
                self.read(rows, &IN_ORDER[..count], values, (seal, gathered));
            }
        }
        self.scratch = scratch;
    }

    /// Hands rows to the rule, and what it makes of them on to where `values` are read.
    fn read(
        &self,
        rows: Rows<&[f32]>,
        at: &[u32],
        values: &mut [f32],
        (seal, gathered): (Seal, &mut [f32]),
    ) {
        let width = self.widths.value;
        let rows_at_once = GATHERED_FLOATS / width;
        if seal == Seal::Body || rows_at_once == 0 {
            return self.rule.read(self.isa, rows, at, values);
        }
        for (at, values) in at.chunks(rows_at_once).zip(values.chunks_mut(rows_at_once * width)) {
            let gathered = &mut gathered[..values.len()];
            self.rule.read(self.isa, rows, at, gathered);
            for_other_core(self.isa, gathered.as_bytes(), values.as_mut_bytes());
        }
    }

    /// Writes whole rows, `[keys, widths.row]`. Of equal keys the last one stays.
    pub(crate) fn load(&mut self, keys: &[u64], rows: &[f32], moment: Moment) -> Result<(), Full> {
        let stamp = self.aging.as_mut().map_or(0, |aging| aging.stamp(moment));
        if self.part == Part::Whole {
            self.make_room(keys, stamp, moment)?;
        }
        for (key, row) in keys.iter().zip(rows.chunks_exact(self.widths.row)) {
            let (key, mut at) = (std::slice::from_ref(key), [0]);
            self.find(key, &mut at);
            if self.part == Part::Some && at[0] == MISSING {
                continue;
            }
            if at[0] != MISSING
                && let Some(aging) = &self.aging
                && let found = stored(&self.index, &self.rows)
                && aging.is_old(found.floats, at[0] as usize * found.stride, moment.clock)
            {
                // Whoever is being filled was not sent it: see `fill`.
                self.index.note(key[0]);
            }
            self.add_missing(key, &mut at, stamp);
            self.index.keep(key, &at, &self.rows);
            if let Some(touched) = self.index.touched_mut() {
                touched.touch(&at);
            }
            let mut stored = stored_mut(&mut self.index, &mut self.rows);
            let start = at[0] as usize * stored.stride;
            stored.floats[start..start + row.len()].copy_from_slice(row);
            if let Some(aging) = &self.aging {
                aging.renew(&mut stored, at[0], stamp);
            }
        }
        Ok(())
    }

    /// Takes rows out. An absent key is none of them.
    pub(crate) fn remove(&mut self, keys: &[u64]) {
        keys.iter().for_each(|&key| aging::remove(&mut self.index, &mut self.rows, key));
    }

    /// Does a part of the upkeep. What is left.
    pub(crate) fn tend(&mut self) -> Upkeep {
        match &mut self.aging {
            Some(aging) if self.index.upkeep() == Upkeep::None && aging.is_due() => {
                aging.tend(&mut self.index, &mut self.rows, LINES_TENDED);
            }
            _ => {
                self.index.tend(LINES_TENDED);
            }
        }
        self.upkeep()
    }

    /// What upkeep there is. None that may wait, while a scan goes on.
    pub(crate) fn upkeep(&self) -> Upkeep {
        let is_due = self.aging.as_ref().is_some_and(Aging::is_due);
        match self.index.upkeep() {
            Upkeep::Owed => Upkeep::Owed,
            _ if self.scan_pause > 0 => Upkeep::None,
            Upkeep::None if is_due => Upkeep::MayWait,
            upkeep => upkeep,
        }
    }

    /// Count of lines of the index; see [`Table::line`].
    pub(crate) fn lines(&self) -> usize {
        self.index.lines()
    }

    /// Differs once a row may have moved to another line; see [`Table::line`].
    pub(crate) fn changes(&self) -> u64 {
        self.index.changes()
    }

    /// The keys and whole rows of one line of the index, but those that are too old by `clock`.
    pub(crate) fn line(&self, line: usize, clock: u32) -> impl Iterator<Item = (u64, &[f32])> {
        let Rows { floats, stride, .. } = self.all_rows();
        let starts = self.index.line(line).map(move |(key, row)| (key, row as usize * stride));
        let is_there = move |&(_, start): &(u64, usize)| {
            !self.aging.as_ref().is_some_and(|aging| aging.is_old(floats, start, clock))
        };
        let rows = starts.filter(is_there);
        rows.map(move |(key, start)| (key, &floats[start..start + self.widths.row]))
    }

    /// A scan has read some lines: rows stay for a while, so that it need not begin again.
    pub(crate) fn scanned(&mut self, goes_on: ScanGoesOn) {
        self.scan_pause = match goes_on {
            ScanGoesOn::Later => SCAN_PAUSE_PUSHES,
            ScanGoesOn::No => 0,
        };
    }

    /// All rows, to read.
    fn all_rows(&self) -> Rows<&[f32]> {
        let Stored { floats, stride } = stored(&self.index, &self.rows);
        Rows { floats, stride, dim: self.spec.dim as usize }
    }

    /// The places of a block's rows, if they are still known and no row is missing.
    fn known_at<'a>(&self, places: Places<'a>, block: usize, count: usize) -> Option<&'a [u32]> {
        let at = &places.at[block..block + count];
        (places.changes == self.index.changes() && !at.contains(&MISSING)).then_some(at)
    }

    fn find(&self, keys: &[u64], at: &mut [u32]) {
        let elsewhere = match &self.rows {
            Some(rows) => Elsewhere { data: rows.floats(), stride: rows.stride() },
            None => Elsewhere { data: &[], stride: 1 },
        };
        self.index.find(self.isa, keys, at, elsewhere);
    }

    /// Adds the rows of a block that were not found, after [`Table::make_room`]. Keys are distinct,
    /// or come one by one; those past `at` are searched next.
    fn add_missing(&mut self, keys: &[u64], at: &mut [u32], stamp: u32) {
        let changes = self.index.changes();
        for (&key, row) in keys.iter().zip(at.iter_mut()) {
            if *row == MISSING {
                *row = self.add(key, stamp);
            }
        }
        if self.rows.is_none() && self.index.changes() != changes {
            self.find(keys, at);
        }
    }

    fn add(&mut self, key: u64, stamp: u32) -> u32 {
        let mut payload = Payload::default();
        if let Some(rows) = &mut self.rows {
            let row = rows.add();
            payload[0] = row;
            self.index.row_is_new(row);
            if let Some(aging) = &self.aging {
                let stride = rows.stride();
                aging.renew(&mut Stored { floats: rows.floats_mut(), stride }, row, stamp);
            }
        } else if let Some(aging) = &self.aging {
            payload[aging.stamp_at()] = stamp;
        }
        self.index.insert(key, &payload)
    }
}

#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod snapshot_tests;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rule::{Adam, Sum, table_spec};

    const NOW: Moment = Moment { clock: 0, slowest: 0, coin_seed: 0, rounding_seed: 0 };

    #[test]
    fn a_table_without_room_takes_what_its_lines_hold_and_no_more_memory() {
        let mut table = sums(1 << 30);
        let push = |table: &mut Table, first: u64, count: u64| {
            let keys: Vec<u64> = (first..first + count).collect();
            table.push(&keys, &vec![1.0; 2 * keys.len()], NOW, None).expect("there is room");
        };
        push(&mut table, 0, 100_000);
        table.allow_growth(0);
        let (bytes, mut first) = (table.bytes(), 1_000_000);
        while !table.lacks_room(0, &(first..first + 16).collect::<Vec<u64>>(), 0) {
            push(&mut table, first, 16);
            table.tend();
            first += 16;
            assert_eq!(table.bytes(), bytes, "at key {first}");
        }
        assert!(!table.lacks_room(0, &[1, 2, 3], 0), "these have their rows");
        push(&mut table, 0, 100_000);
        assert_eq!(table.bytes(), bytes);
        table.allow_growth(u64::MAX);
        push(&mut table, first, 16);
        assert!(table.bytes() > bytes, "it grows where it may");
    }

    fn sums(bytes_max: u64) -> Table {
        let spec = table_spec("counts", 2, &Sum);
        Table::new(Isa::detect(), spec, Arc::new(Sum), bytes_max, 0).expect("a small table")
    }

    #[test]
    fn a_push_that_does_not_fit_changes_nothing() {
        let mut table = sums(19 * 3);
        table.push(&[1, 2], &[1.0; 4], NOW, None).expect("two of three rows");
        assert_eq!(table.push(&[1, 2, 3, 4], &[1.0; 8], NOW, None), Err(Full { rows: 2 }));
        table.push(&[1, 2, 3], &[1.0; 6], NOW, None).expect("one more row");
        let mut values = [9.0; 8];
        table.pull(&[1, 2, 3, 4], &mut values, Seal::HeaderOnly, 0, None);
        assert_eq!(values, [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(table.size().rows, 3);
    }

    #[test]
    fn rows_that_were_scanned_load_into_the_same_table() {
        let rule = Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
        let spec = table_spec("weights", 3, &rule);
        let make = |seed| Table::new(Isa::detect(), spec.clone(), Arc::new(rule), 1 << 20, seed);
        // Of one seed, so that rows come in the order of the lines that they are loaded to.
        let (mut first, mut second) = (make(3).expect("small"), make(3).expect("small"));
        let keys: Vec<u64> = (0..700).map(|n| n * 977).collect();
        first.push(&keys, &vec![0.25; 2100], NOW, None).expect("room");
        for line in 0..first.lines() {
            for (key, row) in first.line(line, 0) {
                second.load(&[key], row, NOW).expect("room");
            }
        }
        first.push(&keys, &vec![-0.5; 2100], NOW, None).expect("room");
        second.push(&keys, &vec![-0.5; 2100], NOW, None).expect("room");
        let (mut one, mut two) = (vec![0.0; 2100], vec![0.0; 2100]);
        first.pull(&keys, &mut one, Seal::HeaderOnly, 0, None);
        second.pull(&keys, &mut two, Seal::HeaderOnly, 0, None);
        assert_eq!(one, two);
    }

    #[test]
    fn a_scan_is_not_made_stale_by_upkeep_that_may_wait() {
        let mut table = sums(1 << 24);
        let keys: Vec<u64> = (0..30_000).map(|n| n * 977).collect();
        for keys in keys.chunks(300) {
            table.push(keys, &[1.0; 600][..2 * keys.len()], NOW, None).expect("room");
            while table.upkeep() == Upkeep::Owed {
                table.tend();
            }
        }
        assert_eq!(table.upkeep(), Upkeep::MayWait);
        table.scanned(ScanGoesOn::Later);
        assert_eq!(table.upkeep(), Upkeep::None);
        table.scanned(ScanGoesOn::No);
        assert_eq!(table.upkeep(), Upkeep::MayWait);
        while table.tend() != Upkeep::None {}
    }

    #[test]
    fn a_push_to_known_places_and_one_after_rows_have_moved_change_the_same_rows() {
        let keys: Vec<u64> = (1..300).map(|n| n * 977).collect();
        let more: Vec<u64> = (1..3000).map(|n| n * 991 + (1 << 40)).collect();
        let (mut table, mut places) = (sums(1 << 20), Vec::new());
        let mut values = vec![0.0; 2 * keys.len()];
        let ones = vec![1.0; 2 * keys.len()];
        for round in 0..4 {
            table.pull(&keys, &mut values, Seal::Body, 0, Some(&mut places));
            assert!(values.iter().all(|&value| value == round as f32), "round {round}");
            let changes = table.changes();
            if round == 2 {
                table.push(&more, &vec![1.0; 2 * more.len()], NOW, None).expect("room");
                assert_ne!(table.changes(), changes, "an index that grew has moved rows");
            }
            let known = Places { at: &places, changes };
            table.push(&keys, &ones, NOW, Some(known)).expect("room");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn pushes_loads_and_removals_of_any_dim_read_as_an_ordinary_map_would(
            dim in 1_u32..10, seed: u64,
            steps in proptest::collection::vec(
                (0_u8..4, proptest::collection::btree_set(0_u64..3000, 0..900)), 1..12),
        ) {
            let spec = table_spec("counts", dim, &Sum);
            let mut table = Table::new(Isa::detect(), spec, Arc::new(Sum), 1 << 24, seed)
                .expect("a small table");
            let (width, mut oracle) = (dim as usize, BTreeMap::<u64, f32>::new());
            let rows_of = |keys: &[u64], value: f32| vec![value; keys.len() * width];
            for (kind, keys) in &steps {
                let keys: Vec<u64> = keys.iter().copied().collect();
                match kind {
                    0 => {
                        table.remove(&keys);
                        oracle.retain(|key, _| keys.binary_search(key).is_err());
                    }
                    1 => {
                        table.load(&keys, &rows_of(&keys, 5.0), NOW).expect("room");
                        oracle.extend(keys.iter().map(|&key| (key, 5.0)));
                    }
                    _ => {
                        table.push(&keys, &rows_of(&keys, 2.0), NOW, None).expect("room");
                        keys.iter().for_each(|&key| *oracle.entry(key).or_default() += 2.0);
                    }
                }
                prop_assert_eq!(table.size().rows, oracle.len() as u64);
            }
            let keys: Vec<u64> = (0..3000).collect();
            for seal in [Seal::Body, Seal::HeaderOnly] {
                let mut values = vec![f32::NAN; keys.len() * width];
                table.pull(&keys, &mut values, seal, 0, None);
                for (key, row) in keys.iter().zip(values.chunks_exact(width)) {
                    let sum = oracle.get(key).copied().unwrap_or(0.0);
                    prop_assert!(row.iter().all(|&value| value == sum), "{} {:?}", key, row);
                }
            }
            let scanned: BTreeMap<u64, f32> = (0..table.lines())
                .flat_map(|line| table.line(line, 0).map(|(key, row)| (key, row[0])))
                .collect();
            prop_assert_eq!(scanned, oracle);
        }

        #[test]
        fn pushes_of_sums_read_as_an_ordinary_map_would(
            batches in proptest::collection::vec(
                proptest::collection::btree_map(0_u64..1000, -8_i8..8, 0..600), 0..8),
        ) {
            let mut table = sums(1 << 20);
            let mut oracle: BTreeMap<u64, f32> = BTreeMap::new();
            for batch in &batches {
                let keys: Vec<u64> = batch.keys().copied().collect();
                let deltas: Vec<f32> =
                    batch.values().flat_map(|&d| [f32::from(d), -f32::from(d)]).collect();
                table.push(&keys, &deltas, NOW, None).expect("room");
                for (key, delta) in batch {
                    *oracle.entry(*key).or_default() += f32::from(*delta);
                }
            }
            prop_assert_eq!(table.size().rows, oracle.len() as u64);
            let keys: Vec<u64> = (0..1000).collect();
            let mut values = vec![0.0; 2000];
            table.pull(&keys, &mut values, Seal::HeaderOnly, 0, None);
            for (key, value) in keys.iter().zip(values.chunks_exact(2)) {
                let sum = oracle.get(key).copied().unwrap_or(0.0);
                prop_assert_eq!(value, &[sum, -sum]);
            }
        }
    }
}
