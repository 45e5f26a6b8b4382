//! Tables whose rows come and go, beside an ordinary map.
//!
//! Owns the histories of pushes, loads, removals and clocks that the two are compared over.

use std::collections::{BTreeMap, BTreeSet};

use kernels::hash::mix;
use proptest::prelude::*;
use wire::{Expiry, KeyAdmission, RowLife};

use super::*;
use crate::rule::{Sum, table_spec};

const ADMISSIONS: [KeyAdmission; 3] =
    [KeyAdmission::All, KeyAdmission::Probability(0.5), KeyAdmission::Count(2)];

/// With their stamps: rows that share their lines, rows alone in a line, and rows apart.
const DIMS: [u32; 5] = [1, 3, 7, 8, 20];

/// Clocks after which rows of these tests are too old.
const CLOCKS_MAX: u32 = 4;

fn table(dim: u32, life: RowLife, bytes_max: u64, seed: u64) -> Table {
    let spec = TableSpec { life, ..table_spec("counts", dim, &Sum) };
    Table::new(Isa::detect(), spec, Arc::new(Sum), bytes_max, seed).expect("a small table")
}

fn at(clock: u32) -> Moment {
    Moment { clock, slowest: clock, coin_seed: u64::from(clock), rounding_seed: 0 }
}

/// A table and what it should hold: of each key its sum and the clock of its last use.
struct History {
    table: Table,
    dim: usize,
    expiry: Expiry,
    /// Decides like the table's own.
    newcomers: Newcomers,
    rows: BTreeMap<u64, (f32, u32)>,
    clock: u32,
    seed: u64,
    draws: u64,
}

impl History {
    fn new(dim: u32, life: RowLife, bytes_max: u64, seed: u64) -> History {
        History {
            table: table(dim, life, bytes_max, seed),
            dim: dim as usize,
            expiry: life.expiry,
            newcomers: Newcomers::new(life.admission, bytes_max).expect("a small sketch"),
            rows: BTreeMap::new(),
            clock: 0,
            seed,
            draws: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        mix(self.seed ^ mix(self.draws)) % below
    }

    /// Keys of a range that goes on with time, so that old ones are left behind.
    fn draw_keys(&mut self, count: u64) -> Vec<u64> {
        let first = self.draws / 8;
        (0..count)
            .map(|_| mix(first + self.draw(3000)))
            .collect::<BTreeSet<u64>>()
            .into_iter()
            .collect()
    }

    fn is_old(&self, used: u32) -> bool {
        matches!(self.expiry, Expiry::Clocks(max) if self.clock - used > max)
    }

    /// What is there of a key.
    fn sum(&self, key: u64) -> Option<f32> {
        self.rows.get(&key).filter(|(_, used)| !self.is_old(*used)).map(|&(sum, _)| sum)
    }

    fn push(&mut self, keys: &[u64]) {
        let delta = 1.0 + self.draw(3) as f32;
        let moment = at(self.clock);
        let rows_before = self.table.size().rows;
        let deltas = vec![delta; keys.len() * self.dim];
        self.table.push(keys, &deltas, moment, None).expect("room, or rows that make some");
        for &key in keys {
            let sum = self.sum(key);
            if sum.is_some() || self.newcomers.admits(key, moment.coin_seed) {
                self.rows.insert(key, (sum.unwrap_or(0.0) + delta, self.clock));
            }
        }
        if self.expiry == Expiry::Recent {
            self.forget_evicted(keys, rows_before);
        }
    }

    fn load(&mut self, keys: &[u64]) {
        let rows_before = self.table.size().rows;
        self.table.load(keys, &vec![7.0; keys.len() * self.dim], at(self.clock)).expect("room");
        self.rows.extend(keys.iter().map(|&key| (key, (7.0, self.clock))));
        if self.expiry == Expiry::Recent {
            self.forget_evicted(keys, rows_before);
        }
    }

    /// Rows that are gone must have made room, and none of these keys is among them.
    fn forget_evicted(&mut self, used: &[u64], rows_before: u64) {
        let lines = 0..self.table.lines();
        let keys = lines.flat_map(|line| self.table.line(line, self.clock).map(|(key, _)| key));
        let mut there: Vec<u64> = keys.collect();
        there.sort_unstable();
        let evicted: Vec<u64> =
            self.rows.keys().copied().filter(|key| there.binary_search(key).is_err()).collect();
        assert!(evicted.iter().all(|key| used.binary_search(key).is_err()), "{}", self.seed);
        assert!(there.len() <= self.table.rows_max, "{}", self.seed);
        let most = rows_before as usize + used.len();
        assert!(evicted.is_empty() || most > self.table.rows_max, "{}", self.seed);
        assert!(evicted.len() <= most.saturating_sub(self.table.rows_max), "{}", self.seed);
        self.rows.retain(|key, _| evicted.binary_search(key).is_err());
    }

    fn remove(&mut self, keys: &[u64]) {
        self.table.remove(keys);
        self.rows.retain(|key, _| keys.binary_search(key).is_err());
    }

    fn scan(&self) -> BTreeMap<u64, f32> {
        let lines = 0..self.table.lines();
        lines
            .flat_map(|line| self.table.line(line, self.clock).map(|(k, row)| (k, row[0])))
            .collect()
    }

    /// All that is there, and some keys that are not, read as the map says.
    fn check(&mut self) {
        let absent = self.draw_keys(50);
        let keys: BTreeSet<u64> = self.rows.keys().copied().chain(absent).collect();
        let keys: Vec<u64> = keys.into_iter().collect();
        let mut values = vec![f32::NAN; keys.len() * self.dim];
        self.table.pull(&keys, &mut values, Seal::HeaderOnly, self.clock, None);
        for (&key, row) in keys.iter().zip(values.chunks_exact(self.dim)) {
            let sum = self.sum(key).unwrap_or(0.0);
            assert!(row.iter().all(|&value| value == sum), "{}: {key} {sum} {row:?}", self.seed);
        }
        let there = |(&key, _): (&u64, _)| self.sum(key).map(|sum| (key, sum));
        let there: BTreeMap<u64, f32> = self.rows.iter().filter_map(there).collect();
        assert_eq!(self.scan(), there, "{}", self.seed);
        assert!(self.table.size().rows >= there.len() as u64);
    }

    /// So many operations on keys: mostly pushes, some loads, removals and clocks.
    fn go_on(&mut self, operations: usize) {
        let (mut done, mut round) = (0, 0);
        while done < operations {
            let count = 1 + self.draw(700);
            let keys = self.draw_keys(count);
            match self.draw(16) {
                0 => self.load(&keys),
                1 | 2 => self.remove(&keys),
                3 => self.clock += 1 + self.draw(3) as u32,
                _ => self.push(&keys),
            }
            (done, round) = (done + keys.len(), round + 1);
            if round % 100 == 0 {
                self.check();
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 0, ..Default::default() })]
    #[test]
    fn a_million_uses_of_keys_read_as_an_ordinary_map_would_whichever_rows_come_and_go(seed: u64) {
        for (case, dim) in DIMS.into_iter().enumerate() {
            for (expiry, room) in [
                (Expiry::Clocks(CLOCKS_MAX), 1 << 24),
                (Expiry::Recent, (1 << 18) + 1500 * (16 + 8 * u64::from(dim))),
            ] {
                let admission = ADMISSIONS[(case + usize::from(expiry == Expiry::Recent)) % 3];
                let life = RowLife { admission, expiry };
                let mut history = History::new(dim, life, room, seed);
                history.go_on(1_000_000);
                let size = history.table.size();
                assert!(size.rows_expired > 10_000, "{size:?}");
                assert!((size.deltas_dropped > 0) == (admission != KeyAdmission::All));
            }
        }
    }
}

#[test]
fn rows_that_are_too_old_are_taken_out_a_few_lines_with_each_push() {
    for dim in DIMS {
        let life = RowLife { expiry: Expiry::Clocks(CLOCKS_MAX), ..RowLife::default() };
        let mut table = table(dim, life, 1 << 24, 1);
        let keys: Vec<u64> = (0..20_000).collect();
        table.push(&keys, &vec![1.0; keys.len() * dim as usize], at(0), None).expect("room");
        let one = vec![1.0; dim as usize];
        let mut rows_before = table.size().rows;
        for clock in 1..=CLOCKS_MAX {
            table.push(&[5], &one, at(clock), None).expect("room");
            assert_eq!(table.size().rows, 20_000, "none is too old yet");
        }
        for clock in CLOCKS_MAX + 1..20_000 {
            table.push(&[5], &one, at(clock), None).expect("room");
            let rows = table.size().rows;
            assert!(rows_before - rows <= 5 * 4, "four lines of five keys at most");
            rows_before = rows;
        }
        let size = table.size();
        assert_eq!((size.rows, size.rows_expired), (1, 19_999));
        let mut values = vec![0.0; dim as usize];
        table.pull(&[5], &mut values, Seal::HeaderOnly, 20_000, None);
        assert_eq!(values, vec![20_000.0; dim as usize]);
    }
}

#[test]
fn a_row_that_was_too_old_begins_afresh_whether_or_not_it_was_taken_out() {
    for dim in DIMS {
        let life = RowLife { admission: KeyAdmission::Count(2), expiry: Expiry::Clocks(2) };
        let mut table = table(dim, life, 1 << 24, 1);
        let ones = vec![1.0; dim as usize];
        let read = |table: &mut Table, clock| {
            let mut values = vec![0.0; dim as usize];
            table.pull(&[5], &mut values, Seal::HeaderOnly, clock, None);
            values[0]
        };
        for (clock, sum) in [(0, 0.0), (0, 1.0), (1, 2.0), (3, 3.0), (6, 1.0), (8, 2.0)] {
            table.push(&[5], &ones, at(clock), None).expect("room");
            assert_eq!(read(&mut table, clock), sum, "clock {clock}");
        }
        assert_eq!(read(&mut table, 10), 2.0);
        assert_eq!(read(&mut table, 11), 0.0, "too old");
        assert_eq!(table.line(0, 11).count(), 0);
        assert_eq!(table.size().deltas_dropped, 1);
    }
}

#[test]
fn a_table_with_nothing_else_to_do_takes_out_what_is_too_old_and_rests() {
    for dim in DIMS {
        let life = RowLife { expiry: Expiry::Clocks(2), ..RowLife::default() };
        let mut table = table(dim, life, 1 << 24, 1);
        let keys: Vec<u64> = (0..20_000).collect();
        table.push(&keys, &vec![1.0; keys.len() * dim as usize], at(0), None).expect("room");
        while table.tend() != Upkeep::None {}
        table.push(&[5], &vec![1.0; dim as usize], at(3), None).expect("room");
        assert!(table.size().rows > 19_000);
        let (mut parts, changes) = (1, table.changes());
        while table.tend() != Upkeep::None {
            parts += 1;
        }
        assert!(parts > 10 && table.changes() > changes, "{parts} parts");
        // Growth may have moved some to the four lines that the push had looked at.
        assert!(table.size().rows <= 1 + 4 * 5, "{:?}", table.size());
        table.push(&[5], &vec![1.0; dim as usize], at(6), None).expect("room");
        while table.tend() != Upkeep::None {}
        assert_eq!(table.size().rows, 1);
    }
}

#[test]
fn a_worker_that_is_behind_makes_no_row_older() {
    let life = RowLife { expiry: Expiry::Clocks(2), ..RowLife::default() };
    let mut table = table(1, life, 1 << 20, 1);
    table
        .push(&[5], &[1.0], Moment { clock: 9, slowest: 6, coin_seed: 0, rounding_seed: 0 }, None)
        .expect("room");
    table
        .push(&[5], &[1.0], Moment { clock: 6, slowest: 6, coin_seed: 0, rounding_seed: 0 }, None)
        .expect("room");
    let mut values = [0.0];
    table.pull(&[5], &mut values, Seal::HeaderOnly, 11, None);
    assert_eq!(values, [2.0]);
}

#[test]
fn a_scan_is_not_made_stale_by_rows_that_are_too_old() {
    let life = RowLife { expiry: Expiry::Clocks(2), ..RowLife::default() };
    let mut table = table(1, life, 1 << 20, 1);
    let keys: Vec<u64> = (0..3000).collect();
    table.push(&keys, &[1.0; 3000], at(0), None).expect("room");
    table.push(&keys[..10], &[1.0; 10], at(9), None).expect("room");
    table.scanned(ScanGoesOn::Later);
    let rows = table.size().rows;
    (10..100).for_each(|clock| table.push(&keys[..1], &[1.0], at(clock), None).expect("room"));
    assert_eq!(table.size().rows, rows);
    table.scanned(ScanGoesOn::No);
    table.push(&keys[..1], &[1.0], at(100), None).expect("room");
    assert!(table.size().rows < rows);
}

#[test]
fn a_full_table_takes_out_what_is_too_old_before_it_refuses_and_changes_nothing_if_it_does() {
    for dim in DIMS {
        let life = RowLife { expiry: Expiry::Clocks(2), ..RowLife::default() };
        let mut table = table(dim, life, 1000 * (24 + 8 * u64::from(dim)), 1);
        let (max, width) = (table.rows_max as u64, dim as usize);
        let push = |table: &mut Table, first: u64, count: u64, clock| {
            let keys: Vec<u64> = (first..first + count).collect();
            table.push(&keys, &vec![1.0; keys.len() * width], at(clock), None)
        };
        push(&mut table, 0, max, 0).expect("all there is room for");
        push(&mut table, 0, 10, 1).expect("they are there");
        let before = table.size();
        assert_eq!(push(&mut table, max, 1, 2), Err(Full { rows: max }), "none is too old");
        assert_eq!(push(&mut table, max, max - 9, 3), Err(Full { rows: max }), "ten are not");
        assert_eq!(table.size(), before);
        push(&mut table, max, max - 10, 3).expect("room for all but ten");
        assert_eq!(table.size().rows, max);
        assert_eq!(table.size().rows_expired, max - 10);
    }
}

#[test]
fn for_ever_new_keys_find_room_and_what_is_used_often_stays() {
    for (case, dim) in DIMS.into_iter().enumerate() {
        let life = RowLife { admission: ADMISSIONS[case % 3], expiry: Expiry::Recent };
        let bytes_max = (1 << 18) + 4000 * (24 + 8 * u64::from(dim));
        let mut table = table(dim, life, bytes_max, 1);
        let width = dim as usize;
        let often: Vec<u64> = (0..500).map(|id| mix(id) >> 1).collect();
        let mut rounds = 0_u64;
        while table.size().rows_expired < 40_000 {
            let new = (0..400).map(|id| mix(rounds / 2 * 400 + id) >> 1 | 1 << 63);
            let mut keys: Vec<u64> = often.iter().copied().chain(new).collect();
            keys.sort_unstable();
            table
                .push(&keys, &vec![1.0; keys.len() * width], at(rounds as u32), None)
                .expect("old rows go");
            let size = table.size();
            assert!(size.rows as usize <= table.rows_max && size.bytes < 2 * bytes_max, "{size:?}");
            rounds += 1;
        }
        let mut values = vec![0.0; often.len() * width];
        table.pull(&often, &mut values, Seal::HeaderOnly, 0, None);
        // Coins let some in late.
        assert!(values.iter().all(|&sum| sum > rounds as f32 - 20.0), "{rounds} rounds");
        let too_many: Vec<u64> = (0..=table.rows_max as u64).collect();
        let rows = table.size().rows;
        let refused = table.push(&too_many, &vec![1.0; too_many.len() * width], at(0), None);
        assert_eq!((refused, table.size().rows), (Err(Full { rows }), rows));
    }
}
