//! Memory at random, twice a row: a line that says which row, then the row.
//!
//! Owns the roof of a look-up in a table: lines in random order, each holding the number of a row,
//! without keys that are compared, chains that are followed or rules.
//!
//! Invariant: each pass follows every number in a line to its row once, in an order that is no
//! pattern, and the rows that they name have no pattern either.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::lines::Line;
use kernels::{Isa, rows, sum};
use memory::Arena;

use super::{RoofError, arena};
use crate::random::Random;

/// Rows between two looks at the clock.
const ROWS_PER_CLOCK: usize = 10_000;

/// Rows whose lines are read before the first row is touched.
const BLOCK_ROWS: usize = 256;

/// Keys to a line, as a table's index has at most: a little over four of its five lanes.
const KEYS_PER_LINE: usize = 4;

/// Lines, rows and the order in which they are touched.
#[derive(Debug)]
pub struct TwoLines {
    isa: Isa,
    lines: Arena<Line>,
    floats: Arena<f32>,
    /// Words of lines that name a row.
    order: Vec<u32>,
    /// What is added, or where rows are read to: `[ROWS_PER_CLOCK, width]`.
    message: Vec<f32>,
    width: usize,
    next: usize,
}

impl TwoLines {
    /// `count` rows of `width` f32, and as many lines as an index of so many keys has.
    ///
    /// - Errors: the kernel gives no memory.
    /// - Panics: if there is no row, or more than 32 bits count.
    pub fn new(count: usize, width: usize, seed: u64) -> Result<TwoLines, RoofError> {
        assert!(count > 0 && width > 0, "{count} rows of {width} values");
        let lines_count = count.div_ceil(KEYS_PER_LINE);
        let mut lines = Arena::<Line>::reserve(lines_count).map_err(RoofError::Map)?;
        lines.grow_to(lines_count).map_err(RoofError::Grow)?;
        let mut floats = arena(count * width)?;
        floats.as_mut_slice().fill(1.0);
        let mut random = Random::new(seed);
        let shuffled = |random: &mut Random| {
            let mut numbers: Vec<u32> =
                (0..u32::try_from(count).expect("32 bits count the rows")).collect();
            random.shuffle(&mut numbers);
            numbers
        };
        let (mut order, named) = (shuffled(&mut random), shuffled(&mut random));
        for (number, &row) in order.iter_mut().zip(&named) {
            *number = place(*number, lines_count);
            lines.as_mut_slice().as_flattened_mut()[*number as usize] = u64::from(row);
        }
        let message = vec![1.0; ROWS_PER_CLOCK * width];
        Ok(TwoLines { isa: Isa::detect(), lines, floats, order, message, width, next: 0 })
    }

    /// Copies rows into one place after another for `duration`. In rows a second.
    pub fn reads_per_s(&mut self, duration: Duration) -> f64 {
        self.rows_per_s(duration, |roof, at, part| {
            let floats = roof.floats.as_slice();
            rows::gather(roof.isa, floats, roof.width, roof.width, at, part);
        })
    }

    /// Reads, changes and writes rows for `duration`. In rows a second.
    pub fn updates_per_s(&mut self, duration: Duration) -> f64 {
        self.rows_per_s(duration, |roof, at, part| {
            let floats = roof.floats.as_mut_slice();
            sum::apply_rows(roof.isa, floats, roof.width, roof.width, at, part, &sum::Step);
        })
    }

    fn rows_per_s(
        &mut self,
        duration: Duration,
        work: impl Fn(&mut TwoLines, &[u32], &mut [f32]),
    ) -> f64 {
        let mut message = std::mem::take(&mut self.message);
        let (start, mut rows) = (Instant::now(), 0_usize);
        let rate = loop {
            rows += self.some(&mut message, &work);
            let elapsed = start.elapsed();
            if elapsed >= duration {
                break rows as f64 / elapsed.as_secs_f64();
            }
        };
        self.message = message;
        rate
    }

    /// Goes on with the pass. How many rows that was.
    fn some(
        &mut self,
        message: &mut [f32],
        work: &impl Fn(&mut TwoLines, &[u32], &mut [f32]),
    ) -> usize {
        let start = self.next;
        let end = (start + ROWS_PER_CLOCK).min(self.order.len());
        self.next = if end == self.order.len() { 0 } else { end };
        let mut found = [0_u32; BLOCK_ROWS];
        for (block, part) in
            (start..end).step_by(BLOCK_ROWS).zip(message.chunks_mut(BLOCK_ROWS * self.width))
        {
            let numbers = &self.order[block..end.min(block + BLOCK_ROWS)];
            let found = &mut found[..numbers.len()];
            let (index, floats) = (self.lines.as_slice().as_flattened(), self.floats.as_slice());
            let mut touched = 0.0;
            for (found, &number) in found.iter_mut().zip(numbers) {
                *found = index[number as usize] as u32;
                // The row is on its way while further lines are.
                touched += floats[*found as usize * self.width];
            }
            black_box(touched);
            work(self, found, &mut part[..found.len() * self.width]);
        }
        black_box(&message);
        end - start
    }
}

/// The word of a number, counted from the first line on: neighbours are in different lines.
fn place(number: u32, lines: usize) -> u32 {
    let (line, lane) = (number as usize % lines, number as usize / lines);
    (line * size_of::<Line>() / size_of::<u64>() + lane) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_changes_every_row_once() {
        let count = 2 * ROWS_PER_CLOCK + 7;
        let mut roof = TwoLines::new(count, 3, 1).expect("a small arena");
        for _ in 0..3 {
            roof.updates_per_s(Duration::ZERO);
        }
        assert_eq!(roof.next, 0, "three steps make a pass");
        assert!(roof.floats.as_slice().iter().all(|&value| value == 2.0));
        roof.reads_per_s(Duration::ZERO);
        assert!(roof.floats.as_slice().iter().all(|&value| value == 2.0));
    }
}
