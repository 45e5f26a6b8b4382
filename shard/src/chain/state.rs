//! What fills a server besides rows: the job, the definitions, the numbers of tables.
//!
//! Owns how a shard is words, and is made of them again. Rows are left to `table`.
//!
//! Invariant: words that are no shard's make none; they never panic.

use std::collections::BTreeMap;

use wire::{Announced, DEFINE_BODY_BYTES, Define, Header, RowsView, TableId, TableSpec};
use zerocopy::{FromBytes, IntoBytes};

use crate::engine::{Rests, Shard};
use crate::job::Job;
use crate::tables::TABLES_MAX;
use crate::words::Words;

/// All of a shard that a later answer can depend on, to compare servers by. Which keys workers have
/// told is left out: a worker tells them anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The job, its members with their clocks and windows, and the tables' definitions.
    pub state: Vec<u64>,
    /// By table: rows that are not too old, with their stamps, by key.
    pub rows: Vec<BTreeMap<u64, Vec<u32>>>,
    /// By table: lines of counts that are not all zero, by number.
    pub counts: Vec<BTreeMap<u64, Vec<u8>>>,
}

/// In the first word: what follows are changes, for a shard that has all before them.
pub(super) const CHANGES: u64 = 8;

const DEFINE_WORDS: usize = DEFINE_BODY_BYTES / 8;
const NUMBERS: usize = 4;
/// A table's definition, how many rows it has, and its numbers.
const TABLE_WORDS: usize = DEFINE_WORDS + 1 + NUMBERS;

impl Shard {
    /// All that a later answer can depend on.
    pub fn image(&mut self) -> Image {
        let mut state = Vec::new();
        self.write_state(&mut state);
        // How many rows have expired, and are there, depends on when each table looked for them.
        let tables = self.tables.all().len();
        let first = state.len() - tables * TABLE_WORDS;
        for table in state[first..].chunks_exact_mut(TABLE_WORDS) {
            (table[DEFINE_WORDS], table[TABLE_WORDS - 1]) = (0, 0);
        }
        let clock = self.job.as_ref().map_or(0, |job| job.now().clock);
        let tables = self.tables.all_mut();
        let rows = tables.iter().map(|table| table.rows_by_key(clock)).collect();
        let counts = tables.iter_mut().map(|table| table.counts_by_line()).collect();
        Image { state, rows, counts }
    }

    /// Writes the job and the tables without their rows.
    pub(super) fn write_state(&self, words: &mut Vec<u64>) {
        words.clear();
        let rests = match self.rests {
            Rests::No => 0,
            Rests::Rows => 2,
            Rests::Job => 4,
        };
        words.push(u64::from(self.job.is_some()) + rests);
        if let Some(job) = &self.job {
            job.write(words);
        }
        let tables = self.tables.all();
        words.push(tables.len() as u64);
        for table in tables {
            let define = Define::new(table.spec(), Announced::default());
            let define = define.expect("it was read from one");
            let define = <[u64; DEFINE_WORDS]>::read_from_bytes(define.as_bytes());
            words.extend_from_slice(&define.expect("a multiple of 8 bytes"));
            words.push(table.size().rows);
            words.extend_from_slice(&table.numbers());
        }
    }

    /// Becomes what [`Shard::write_state`] wrote, with tables that are filled from now on. If
    /// changes follow, the tables that are there keep their rows.
    ///
    /// - `expected`: 0, or [`CHANGES`] if the shard has all before them.
    pub(super) fn read_state(&mut self, words: &[u64], expected: u64) -> Option<()> {
        let mut words = Words::new(words);
        let first = words.next().filter(|first| first & CHANGES == expected)?;
        self.rests = match (first & !CHANGES) >> 1 {
            0 => Rests::No,
            1 => Rests::Rows,
            2 => Rests::Job,
            _ => return None,
        };
        self.job = if first & 1 == 1 { Some(Job::read(&mut words)?) } else { None };
        let known = self.tables.all().len() as u64;
        let counts = known..=TABLES_MAX as u64;
        let count = words.next().filter(|count| counts.contains(count))?;
        for number in 0..count as u16 {
            let define = words.take(DEFINE_WORDS)?.as_bytes();
            let (spec, _) = TableSpec::from_bytes(define).ok()?;
            // One that is there must be the same.
            self.tables.define(TableId::new(number), spec).ok()?;
            let table = &mut self.tables.all_mut()[usize::from(number)];
            if u64::from(number) < known {
                table.forget_counts();
            }
            table.begin_being_filled(words.next()?);
            table.set_numbers(words.take(NUMBERS)?.try_into().ok()?);
        }
        words.is_over().then_some(())
    }

    /// Takes in the last numbers of the tables that were filled. How many operations that is after.
    pub(super) fn read_numbers(&mut self, words: &[u64]) -> Option<u64> {
        let mut words = Words::new(words);
        let (position, count) = (words.next()?, words.next()?);
        let tables = self.tables.all_mut();
        let tables = tables.get_mut(..usize::try_from(count).ok()?)?;
        for table in tables {
            table.set_numbers(words.take(NUMBERS)?.try_into().ok()?);
            table.end_being_filled();
        }
        // Operations count on from there and must not overflow.
        (words.is_over() && position <= u64::MAX / 2).then_some(position)
    }

    /// Takes in a page of rows; one without values names keys that are gone.
    pub(super) fn take_page(&mut self, header: &Header, page: RowsView<'_>) -> Option<()> {
        let clock = self.job.as_ref().map_or(0, |job| job.now().clock);
        let table = self.tables.get(header.table()).ok()?;
        if header.width == 0 {
            table.remove(page.keys);
            return Some(());
        }
        let fits = usize::from(header.width) == table.page_width();
        fits.then(|| table.take_page(page, clock).ok())?
    }

    /// Takes in lines of counts.
    pub(super) fn take_counts(&mut self, header: &Header, lines: RowsView<'_>) -> Option<()> {
        self.tables.get(header.table()).ok()?.take_counts(lines).then_some(())
    }

    /// Forgets which pushes were applied: a defect, for tests.
    pub(super) fn forget_pushes(&mut self) {
        self.job.iter_mut().for_each(Job::forget_pushes);
    }
}

/// Names of the tables and of their rules in the words that [`Shard::write_state`] wrote.
pub(super) fn tables_of(body: &[u8]) -> Option<Vec<(String, String)>> {
    let words = <[u64]>::ref_from_bytes(body).ok()?;
    let mut words = Words::new(words);
    if words.next()? & 1 == 1 {
        Job::read(&mut words)?;
    }
    let count = words.next().filter(|&count| count <= TABLES_MAX as u64)?;
    let table = |_| {
        let (spec, _) = TableSpec::from_bytes(words.take(DEFINE_WORDS)?.as_bytes()).ok()?;
        words.take(1 + NUMBERS)?;
        Some((spec.name, spec.rule))
    };
    (0..count).map(table).collect()
}
