//! Growth: how many lines an index has after it grew, and when it grows unasked.
//!
//! Owns these numbers and their bound by what the server's memory allows. Moving lines is left to
//! `index`.

use super::index::{CROWDED_LINES_FACTOR, Index, STRAYS_MAX, growth_part};

/// What a line takes, in bytes.
const LINE_BYTES: u64 = 64;

impl Index {
    /// Allows it to take so many bytes more before this is said again.
    pub(super) fn allow_growth(&mut self, bytes: u64) {
        let lines = usize::try_from(bytes / LINE_BYTES).unwrap_or(usize::MAX);
        self.lines_allowed = self.shape.lines().saturating_add(lines);
    }

    /// What reserving so many more keys would add, in bytes.
    pub(super) fn growth_bytes(&self, more: usize) -> u64 {
        let (now, wanted) = (self.shape.lines(), self.taken + more);
        if wanted <= Index::keys_of(self.layout, now) {
            return 0;
        }
        let least = Index::lines_for(self.layout, wanted);
        (self.lines_after(now).max(least) - now) as u64 * LINE_BYTES
    }

    /// Whether so many more keys need more lines than it is allowed.
    pub(super) fn exceeds_allowance(&self, more: usize) -> bool {
        let wanted = self.taken + more;
        wanted > Index::keys_of(self.layout, self.shape.lines())
            && Index::lines_for(self.layout, wanted) > self.lines_allowed
    }

    /// How many lines there are after the next growth.
    pub(super) fn lines_after(&self, now: usize) -> usize {
        let after = now + now / growth_part(self.layout);
        after.min(self.lines_max).min(self.lines_allowed.max(now))
    }

    /// Whether strays are many, few enough lanes are taken that more lines may help, and there may
    /// be more.
    pub(super) fn is_crowded(&self) -> bool {
        let lines = self.shape.lines();
        let helps = lines < CROWDED_LINES_FACTOR * Index::lines_for(self.layout, self.taken);
        let after = (lines + lines / growth_part(self.layout)).min(self.lines_max);
        self.strays.len() > STRAYS_MAX
            && helps
            && lines < self.lines_max
            && after <= self.lines_allowed
    }
}
