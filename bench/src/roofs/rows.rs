//! Memory at random: rows in random order, changed or read, without keys, index or rule.
//!
//! Owns the roof of a shard's work on rows: `row += delta`, the deltas in order, the rows not.
//! It is the flat one: a table must first find out where a row lies, and cannot reach it.
//! A block of rows is fetched before its first one is changed, which took less than half the time
//! of changing them at once on the machine where both were tried: a roof is the best known way.
//!
//! Invariant: each pass touches every row once, in an order that is no pattern.

use std::hint::black_box;
use std::time::{Duration, Instant};

use memory::Arena;

use super::{RoofError, arena};
use crate::random::Random;

/// Rows between two looks at the clock; their deltas stay in the cache as a message's do.
const ROWS_PER_CLOCK: usize = 10_000;

/// Rows that are fetched before the first of them is changed; they fit the first-level cache.
const BLOCK_ROWS: usize = 256;

/// Rows, and the order in which they are touched.
#[derive(Debug)]
pub struct Rows {
    floats: Arena<f32>,
    order: Vec<u32>,
    /// What is added, or where rows are read to: `[ROWS_PER_CLOCK, dim]`.
    message: Vec<f32>,
    dim: usize,
    next: usize,
}

/// What is done to each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Update,
    Read,
}

impl Rows {
    /// `count` rows of `dim` f32, which lie one behind another.
    ///
    /// - Errors: the kernel gives no memory.
    /// - Panics: if there is no row, or more than 32 bits count.
    pub fn new(count: usize, dim: usize, seed: u64) -> Result<Rows, RoofError> {
        assert!(count > 0 && dim > 0, "{count} rows of {dim} values");
        let mut floats = arena(count * dim)?;
        floats.as_mut_slice().fill(1.0);
        let count = u32::try_from(count).expect("32 bits count the rows");
        let mut order: Vec<u32> = (0..count).collect();
        Random::new(seed).shuffle(&mut order);
        Ok(Rows { floats, order, message: vec![1.0; ROWS_PER_CLOCK * dim], dim, next: 0 })
    }

    /// Reads, changes and writes rows for `duration`. In rows a second.
    pub fn updates_per_s(&mut self, duration: Duration) -> f64 {
        self.rows_per_s(duration, Work::Update)
    }

    /// Copies rows into one place after another for `duration`. In rows a second.
    pub fn reads_per_s(&mut self, duration: Duration) -> f64 {
        self.rows_per_s(duration, Work::Read)
    }

    fn rows_per_s(&mut self, duration: Duration, work: Work) -> f64 {
        let (start, mut rows) = (Instant::now(), 0_usize);
        loop {
            rows += match self.dim {
                1 => self.some::<1>(work),
                2 => self.some::<2>(work),
                4 => self.some::<4>(work),
                8 => self.some::<8>(work),
                16 => self.some::<16>(work),
                32 => self.some::<32>(work),
                64 => self.some::<64>(work),
                _ => self.some_of_any_dim(work),
            };
            let elapsed = start.elapsed();
            if elapsed >= duration {
                return rows as f64 / elapsed.as_secs_f64();
            }
        }
    }

    /// Goes on with the pass. How many rows that was.
    fn some<const DIM: usize>(&mut self, work: Work) -> usize {
        let at = advance(&self.order, &mut self.next);
        let (rows, _) = self.floats.as_mut_slice().as_chunks_mut::<DIM>();
        let (message, _) = self.message.as_chunks_mut::<DIM>();
        match work {
            Work::Update => {
                for (at, deltas) in at.chunks(BLOCK_ROWS).zip(message.chunks(BLOCK_ROWS)) {
                    black_box(at.iter().map(|&at| rows[at as usize][0]).sum::<f32>());
                    for (&at, delta) in at.iter().zip(deltas) {
                        for (value, delta) in rows[at as usize].iter_mut().zip(delta) {
                            *value += delta;
                        }
                    }
                }
            }
            Work::Read => {
                for (&at, out) in at.iter().zip(message) {
                    *out = rows[at as usize];
                }
            }
        }
        black_box(&self.message);
        at.len()
    }

    fn some_of_any_dim(&mut self, work: Work) -> usize {
        let (at, dim) = (advance(&self.order, &mut self.next), self.dim);
        let floats = self.floats.as_mut_slice();
        let parts = self.message.chunks_mut(BLOCK_ROWS * dim);
        for (at, part) in at.chunks(BLOCK_ROWS).zip(parts) {
            black_box(at.iter().map(|&at| floats[at as usize * dim]).sum::<f32>());
            for (&at, part) in at.iter().zip(part.chunks_exact_mut(dim)) {
                let row = &mut floats[at as usize * dim..][..dim];
                match work {
                    Work::Update => {
                        for (value, delta) in row.iter_mut().zip(part) {
                            *value += *delta;
                        }
                    }
                    Work::Read => part.copy_from_slice(row),
                }
            }
        }
        black_box(&self.message);
        at.len()
    }
}

/// The next rows of the order, from its start again after its end.
fn advance<'a>(order: &'a [u32], next: &mut usize) -> &'a [u32] {
    let start = *next;
    let end = (start + ROWS_PER_CLOCK).min(order.len());
    *next = if end == order.len() { 0 } else { end };
    &order[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_changes_every_row_once_for_every_dim() {
        for dim in [1, 3, 8] {
            let mut rows = Rows::new(2 * ROWS_PER_CLOCK + 7, dim, 1).expect("a small arena");
            for _ in 0..3 {
                rows.updates_per_s(Duration::ZERO);
            }
            assert_eq!(rows.next, 0, "three steps make a pass");
            assert!(rows.floats.as_slice().iter().all(|&value| value == 2.0), "dim {dim}");
        }
    }

    #[test]
    fn reading_leaves_the_rows_as_they_are() {
        let mut rows = Rows::new(100, 8, 1).expect("a small arena");
        rows.message.fill(0.0);
        rows.reads_per_s(Duration::ZERO);
        assert!(rows.floats.as_slice().iter().all(|&value| value == 1.0));
        assert!(rows.message[..800].iter().all(|&value| value == 1.0));
    }
}
