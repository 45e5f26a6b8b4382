//! Which checkpoint the next one has the changes since.
//!
//! Owns how many of them follow one that has everything. Whether a server knows what has changed is
//! its own affair: one that does not records everything.

use super::{Conductor, Part, PartState, Taking};

/// The checkpoint that the next one may be the changes since: this coordinator's last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    number: u64,
    /// Those before it, up to one that has everything.
    changes: u32,
}

impl Conductor {
    /// What the next one may be the changes since.
    pub(super) fn next_base(&self) -> Option<u64> {
        let base = self.base.filter(|base| base.changes + 1 < self.plan.full_every)?;
        Some(base.number)
    }

    /// One is published.
    pub(super) fn note_base(&mut self, taking: &Taking) {
        let has_changes = |part: &Part| match &part.state {
            PartState::Done(recorded) => recorded.base.is_some(),
            _ => false,
        };
        let before = self.base.map_or(0, |base| base.changes);
        let changes = if taking.parts.iter().any(has_changes) { before + 1 } else { 0 };
        self.base = Some(Base { number: taking.number, changes });
    }
}
