//! Which rows come to lines that a walk over a table has left behind, which change, and what lines
//! held before.
//!
//! Owns where the walk of a fill stands, the keys of those rows, and who hears of changes. What
//! they are for is left to `fill`, `touched` and `snapshot`.

use kernels::lines::{LINE_WORDS, Line, Moves};

use super::index::Index;
use super::snapshot::Snapshot;
use super::touched::Touched;

/// Where an entry comes from that lay in no line.
pub(super) const NO_LINE: usize = usize::MAX;

/// A walk over all lines, and the keys that it has missed.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The line at which the walk goes on; 0 without one, and the highest number behind its end.
    front: usize,
    keys: Vec<u64>,
    /// None where nobody wants to know what changes.
    touched: Option<Box<Touched>>,
    /// None where nobody wants the table as it was.
    pub(super) snapshot: Option<Box<Snapshot>>,
}

impl Moves for Watch {
    #[inline(always)]
    fn moved(&mut self, key: u64, from: usize, to: usize) {
        if let Some(touched) = &mut self.touched {
            match from {
                NO_LINE => touched.added(to),
                from => touched.moved(from, to),
            }
        }
        if to < self.front && from >= self.front {
            self.keys.push(key);
        }
    }

    #[inline(always)]
    fn changes(&mut self, line: usize, held: &Line) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.line_changes(line, held);
        }
    }
}

impl Index {
    /// A walk over all lines has come to this one: keys that move from there on to lines before it
    /// are noted, and keys that are added there. 0 ends that, and forgets what was noted.
    pub(crate) fn walked_to(&mut self, line: usize) {
        self.watch.front = line;
        if line == 0 {
            self.watch.keys.clear();
        }
    }

    /// Notes a key whose row is another one than it was, if a walk is under way.
    pub(crate) fn note(&mut self, key: u64) {
        if self.watch.front > 0 {
            self.watch.keys.push(key);
        }
    }

    /// The keys that were noted, to be taken.
    pub(crate) fn noted(&mut self) -> &mut Vec<u64> {
        &mut self.watch.keys
    }

    /// What has changed, if that is known.
    pub(super) fn touched(&self) -> Option<&Touched> {
        self.watch.touched.as_deref()
    }

    /// The same, to be told.
    #[inline]
    pub(super) fn touched_mut(&mut self) -> Option<&mut Touched> {
        self.watch.touched.as_deref_mut()
    }

    /// From now on it is known what changes; or not any more.
    pub(super) fn set_touched(&mut self, is_known: bool) {
        let shift = match self.layout.holds() {
            kernels::lines::Holds::Row => LINE_WORDS.ilog2(),
            kernels::lines::Holds::Number => 0,
        };
        self.watch.touched = is_known.then(|| Box::new(Touched::new(shift)));
    }
}
