//! Which rows come to lines that a walk over a table has left behind.
//!
//! Owns where the walk stands, and the keys of those rows. What they are for is left to `fill`.

use kernels::lines::Moves;

use super::index::Index;

/// Where an entry comes from that lay in no line.
pub(super) const NO_LINE: usize = usize::MAX;

/// A walk over all lines, and the keys that it has missed.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The line at which the walk goes on; 0 without one, and the highest number behind its end.
    front: usize,
    keys: Vec<u64>,
}

impl Moves for Watch {
    #[inline(always)]
    fn moved(&mut self, key: u64, from: usize, to: usize) {
        if to < self.front && from >= self.front {
            self.keys.push(key);
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

    /// Notes a key, if a walk is under way.
    pub(crate) fn note(&mut self, key: u64) {
        self.watch.moved(key, NO_LINE, 0);
    }

    /// The keys that were noted, to be taken.
    pub(crate) fn noted(&mut self) -> &mut Vec<u64> {
        &mut self.watch.keys
    }
}
