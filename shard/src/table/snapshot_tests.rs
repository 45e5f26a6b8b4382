//! Snapshots of tables that go on changing, beside what the tables were at their moments.
//!
//! Owns the histories: pushes, loads, removals, clocks and upkeep, drawn at random, with a part of
//! the walk now and then between them.

use std::collections::{BTreeMap, BTreeSet};

use kernels::hash::mix;
use proptest::prelude::*;
use wire::{Expiry, KeyAdmission, RowLife, RowsView};

use super::*;
use crate::rule::{Adam, Ftrl, FtrlCompact, Sum, table_spec};

const LIVES: [RowLife; 4] = [
    RowLife { admission: KeyAdmission::All, expiry: Expiry::Never },
    RowLife { admission: KeyAdmission::Count(2), expiry: Expiry::Clocks(4) },
    RowLife { admission: KeyAdmission::All, expiry: Expiry::Recent },
    RowLife { admission: KeyAdmission::Count(3), expiry: Expiry::Recent },
];

/// Layouts: rows that share a line, from five to two, rows alone in one, rows apart, and compact
/// ones.
const LAYOUTS: usize = 7;

/// Some keys a page, so that a walk takes long.
const PAPER: Paper = Paper { head_words: 2, bytes: 700 };

/// What a table had at a moment: rows that are not too old by key, and counts by line.
type Was = (BTreeMap<u64, Vec<u32>>, BTreeMap<u64, Vec<u8>>);

fn was(table: &mut Table, clock: u32) -> Was {
    (table.rows_by_key(clock), table.counts_by_line())
}

fn make(layout: usize, life: RowLife, bytes_max: u64, seed: u64) -> Table {
    let ftrl = Ftrl { alpha: 0.2, beta: 1.0, l1: 0.1, l2: 0.1 };
    let adam = Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
    let (spec, rule): (_, Arc<dyn Rule>) = match layout {
        0 => (table_spec("compact", 1, &FtrlCompact(ftrl)), Arc::new(FtrlCompact(ftrl))),
        1 => (table_spec("apart", 3, &adam), Arc::new(adam)),
        2 => (table_spec("alone", 7, &Sum), Arc::new(Sum)),
        3 => (table_spec("apart or alone", 8, &Sum), Arc::new(Sum)),
        dim => (table_spec("shared", dim as u32 - 3, &Sum), Arc::new(Sum)),
    };
    let spec = TableSpec { life, ..spec };
    Table::new(Isa::detect(), spec, rule, bytes_max, seed).expect("a small table")
}

/// A table, and the copy that is made of its snapshots.
struct History {
    table: Table,
    copy: Table,
    clock: u32,
    draws: u64,
    seed: u64,
}

impl History {
    fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        mix(self.seed ^ mix(self.draws)) % below
    }

    /// One random change.
    fn step(&mut self) {
        let first = self.draws / 8; // Old keys are left behind.
        let count = 1 + self.draw(150);
        let keys: BTreeSet<u64> = (0..count).map(|_| mix(first + self.draw(3000))).collect();
        let keys: Vec<u64> = keys.into_iter().collect();
        let slowest = self.clock;
        let moment = Moment { clock: slowest, slowest, coin_seed: self.draws, rounding_seed: 3 };
        match self.draw(12) {
            0 => self.table.remove(&keys),
            1 => {
                let row = vec![self.draws as f32; keys.len() * self.table.widths().row];
                let _ = self.table.load(&keys, &row, moment);
            }
            2 => self.clock += 1,
            3 => _ = self.table.tend(),
            _ => {
                let deltas = vec![self.draws as f32; keys.len() * self.table.widths().delta];
                let _ = self.table.push(&keys, &deltas, moment, None);
            }
        }
    }

    /// Takes a piece into the copy. Whether there was one, or may be later.
    fn take(&mut self, piece: Option<Piece>) -> bool {
        fn view(page: &Page) -> RowsView<'_> {
            RowsView { keys: page.keys(), rows: page.values() }
        }
        match piece {
            None | Some(Piece::Over) => return false,
            Some(Piece::Nothing) => {}
            Some(Piece::Rows(page)) if page.width() == 0 => self.copy.remove(page.keys()),
            Some(Piece::Rows(page)) => self.copy.take_page(view(&page), 0).expect("room"),
            Some(Piece::Counts(page)) => assert!(self.copy.take_counts(view(&page))),
        }
        true
    }

    /// Goes on to change while a snapshot is taken. What it was at the moment, and what was copied.
    fn snapshot(&mut self, of: SnapshotOf, misses: bool) -> (Was, Was) {
        let clock = self.clock;
        let expected = was(&mut self.table, clock);
        self.copy.begin_being_filled(100);
        self.copy.forget_counts();
        self.table.begin_snapshot(of, PAPER);
        loop {
            (0..self.draw(3)).for_each(|_| self.step());
            if misses {
                self.table.forget_copies();
            }
            let piece = match self.draw(3) {
                0 => Some(self.table.take_piece()),
                1 => {
                    self.table.pass_copied();
                    Some(Piece::Nothing)
                }
                _ => self.table.take_copies().or(Some(Piece::Nothing)),
            };
            if !self.take(piece) {
                break;
            }
        }
        self.table.end_snapshot();
        self.copy.end_being_filled();
        (expected, was(&mut self.copy, clock))
    }
}

fn history(layout: usize, life: RowLife, is_full: bool, seed: u64) -> History {
    let bytes_max = if is_full { 20_000 } else { 1 << 20 };
    let table = make(layout, life, bytes_max, seed);
    // Of a copy that is never full, so that nothing makes room there.
    let copy = make(layout, life, 1 << 20, seed ^ 1);
    History { table, copy, clock: 0, draws: 0, seed }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_snapshot_has_each_row_and_count_as_it_was_at_its_moment(
        seed: u64, before in 0_usize..60, is_full: bool,
    ) {
        for (layout, life) in (0..LAYOUTS).flat_map(|it| LIVES.map(|life| (it, life))) {
            let mut history = history(layout, life, is_full, seed);
            (0..before).for_each(|_| history.step());
            let of = SnapshotOf::Everything { clock: history.clock };
            let (expected, copied) = history.snapshot(of, false);
            prop_assert_eq!(expected, copied, "layout {} {:?}", layout, life);
        }
    }

    #[test]
    fn snapshots_of_changes_over_each_other_have_each_row_as_it_was(
        seed: u64, befores in proptest::collection::vec(0_usize..30, 2..5), is_full: bool,
    ) {
        for (layout, life) in (0..LAYOUTS).flat_map(|it| LIVES.map(|life| (it, life))) {
            let mut history = history(layout, life, is_full, seed);
            for (number, &before) in befores.iter().enumerate() {
                (0..before).for_each(|_| history.step());
                let clock = history.clock;
                let of = if number == 0 {
                    history.table.set_tracked(true);
                    SnapshotOf::Everything { clock }
                } else {
                    SnapshotOf::Changes
                };
                let (expected, copied) = history.snapshot(of, false);
                prop_assert_eq!(expected, copied, "layout {} {:?}, {}", layout, life, number);
            }
        }
    }
}

#[test]
fn a_snapshot_that_leaves_out_what_changes_is_found_to_differ() {
    for layout in 0..LAYOUTS {
        let differs = |misses| {
            let mut history = history(layout, LIVES[0], false, 5);
            (0..40).for_each(|_| history.step());
            let of = SnapshotOf::Everything { clock: history.clock };
            let (expected, copied) = history.snapshot(of, misses);
            expected != copied
        };
        assert_eq!([differs(false), differs(true)], [false, true], "layout {layout}");
    }
}

/// Of a large table that waits for its store, each push would be looked at for as long as it waits.
#[test]
fn a_snapshot_of_which_all_has_changed_is_over_without_its_walk() {
    for layout in 0..LAYOUTS {
        let mut table = make(layout, LIVES[0], 1 << 20, 5);
        let keys: Vec<u64> = (0..2000).map(mix).collect::<BTreeSet<u64>>().into_iter().collect();
        let deltas = vec![1.0; keys.len() * table.widths().delta];
        let mut push = |table: &mut Table, keys: &[u64]| {
            let deltas = &deltas[..keys.len() * table.widths().delta];
            table.push(keys, deltas, Moment::default(), None).expect("room");
        };
        push(&mut table, &keys);
        while table.upkeep() != Upkeep::None {
            table.tend();
        }
        table.begin_snapshot(SnapshotOf::Everything { clock: 0 }, PAPER);
        let mut pass = |table: &mut Table| {
            while table.pass_copied() {}
            table.is_walked()
        };
        assert!(!pass(&mut table), "layout {layout}");
        push(&mut table, &keys[..1]);
        assert!(!pass(&mut table), "layout {layout}");
        push(&mut table, &keys[1..]);
        assert!(pass(&mut table), "layout {layout}");
    }
}
