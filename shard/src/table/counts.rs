//! Counts of absent keys as they were at one moment, while pushes go on counting.
//!
//! Owns which lines of counts were copied, and the walk over the others: as `snapshot` does for
//! rows, but lines of counts never move. What a line says is left to `newcomers`.
//!
//! Invariant: each line that had counted by the moment is copied once, as it was.

use wire::COUNT_LINE_WIDTH;
use zerocopy::FromBytes;

use super::bits::Bits;
use super::copies::{Copies, Paper};
use super::newcomers::CountLine;
use super::snapshot::Piece;

/// What is copied of the counts of a moment.
#[derive(Debug)]
pub(super) struct CountsSnapshot {
    /// The line at which the walk goes on.
    front: usize,
    /// Lines that were copied ahead of the walk.
    done: Bits,
    copies: Copies,
}

impl CountsSnapshot {
    /// Nothing is copied yet of so many lines.
    pub(super) fn new(lines: usize, paper: Paper) -> CountsSnapshot {
        let (done, copies) = (Bits::zeros(lines), Copies::new(paper, COUNT_LINE_WIDTH));
        CountsSnapshot { front: 0, done, copies }
    }

    /// A line is about to count.
    #[inline]
    pub(super) fn line_changes(&mut self, line: usize, held: &CountLine) {
        if line >= self.front && !self.done.has(line) {
            self.done.set(line);
            self.copy(line, held);
        }
    }

    fn copy(&mut self, line: usize, held: &CountLine) {
        if *held != [0; 64] {
            let counts = <[f32; COUNT_LINE_WIDTH]>::read_from_bytes(held).expect("64 bytes");
            self.copies.add(line as u64, &counts);
        }
    }

    /// Looks at so many lines at most. Whether there were any left.
    pub(super) fn walk(&mut self, held: &[CountLine], lines_max: usize) -> bool {
        let end = held.len().min(self.front + lines_max);
        for (line, held) in (self.front..end).zip(&held[self.front..end]) {
            if !self.done.has(line) {
                self.copy(line, held);
            }
        }
        std::mem::replace(&mut self.front, end) < end
    }

    /// Takes a full page of copies.
    pub(super) fn take(&mut self) -> Option<Piece> {
        self.copies.take().map(Piece::Counts)
    }

    /// All is copied: what there is can be taken.
    pub(super) fn close(&mut self) {
        self.copies.close();
    }
}
