//! Which rows have changed since a moment: what a recording of changes is made of.
//!
//! Owns a bit for each line of the index where rows lie in lines, else for each row of the arena,
//! and the keys that were taken out. When a moment begins, and what is made of it, is left to
//! `fill` and `chain`.
//!
//! A bit of a line goes with a row that moves to another one, and is never taken away: more rows
//! than have changed may seem so, fewer never.
//!
//! Invariant: of a row that is not what it was at the moment the bit is set, or its key is named as
//! gone; or [`Touched::is_whole`] says no.

/// Keys of a table that may be named as gone, 8 MiB; beyond it changes are not known any more.
const GONE_MAX: usize = 1 << 20;

use super::bits::Bits;

/// What has changed in one table.
#[derive(Debug)]
pub(super) struct Touched {
    /// A place of the table, shifted by this, is the number of its bit.
    shift: u32,
    /// Since the moment.
    since: Bits,
    gone: Vec<u64>,
    /// More are gone than are named.
    is_lost: bool,
}

impl Touched {
    /// Nothing has changed yet.
    ///
    /// - `shift`: of places. 0: numbers of rows.
    pub(super) fn new(shift: u32) -> Touched {
        let (since, gone) = (Bits::default(), Vec::new());
        Touched { shift, since, gone, is_lost: false }
    }

    /// Whether it is known what has changed.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_lost
    }

    /// A moment begins. What has changed until now, and the keys that are gone.
    pub(super) fn begin(&mut self) -> (Bits, Vec<u64>) {
        self.is_lost = false;
        (self.since.take(), std::mem::take(&mut self.gone))
    }

    /// Rows at these places change.
    #[inline]
    pub(super) fn touch(&mut self, at: &[u32]) {
        at.iter().for_each(|&place| self.since.set(place as usize >> self.shift));
    }

    /// A row has come from one line to another.
    pub(super) fn moved(&mut self, from: usize, to: usize) {
        if self.is_by_line() && self.since.has(from) {
            self.since.set(to);
        }
    }

    /// A row has come to a line that lay in none.
    pub(super) fn added(&mut self, line: usize) {
        if self.is_by_line() {
            self.since.set(line);
        }
    }

    /// A key was taken out.
    pub(super) fn removed(&mut self, key: u64) {
        if self.gone.len() < GONE_MAX {
            self.gone.push(key);
        } else {
            self.is_lost = true;
        }
    }

    fn is_by_line(&self) -> bool {
        self.shift > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of words of a line.
    const SHIFT: u32 = 4;

    #[test]
    fn what_moves_takes_its_bit_along_and_a_moment_begins_without_any() {
        let mut touched = Touched::new(SHIFT);
        touched.touch(&[3 << SHIFT, (700 << SHIFT) + 5]);
        touched.moved(3, 9);
        touched.moved(4, 5);
        touched.added(90_000);
        let (since, gone) = touched.begin();
        let has = |bits: &Bits| [3, 9, 700, 5, 90_000].map(|line| bits.has(line));
        assert_eq!(has(&since), [true, true, true, false, true]);
        assert!(gone.is_empty());
        touched.moved(3, 5);
        assert_eq!(has(&touched.begin().0), [false; 5]);
    }

    #[test]
    fn more_keys_that_are_gone_than_are_named_are_known_to_be_missing() {
        let mut touched = Touched::new(0);
        (0..GONE_MAX as u64).for_each(|key| touched.removed(key));
        assert!(touched.is_whole());
        touched.removed(7);
        assert!(!touched.is_whole());
        assert_eq!(touched.begin().1.len(), GONE_MAX);
        assert!(touched.is_whole());
    }
}
