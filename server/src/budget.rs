//! Budget: what all that peers can make a server hold may take together.
//!
//! Owns the sum over cores and its bound. Each core says now and then what it holds, and is told
//! its part of what is left; what a shard does with that is `shard`'s.
//!
//! Invariant: the parts that cores are told between two of their words come to no more than what
//! was left.

use std::sync::atomic::{AtomicU64, Ordering};

use shard::Room;
use wire::Refusal;

/// What one more connection may take before anything is sent over it, in bytes: where its first
/// bytes go, and what the kernel and this process note of it.
const CONNECTION_BYTES: u64 = 64 << 10;

/// A server's memory.
#[derive(Debug)]
pub(crate) struct Budget {
    bound_bytes: u64,
    /// By core.
    held_bytes: Box<[AtomicU64]>,
}

impl Budget {
    /// Nothing is held yet.
    pub(crate) fn new(bound_bytes: u64, cores: usize) -> Budget {
        Budget { bound_bytes, held_bytes: (0..cores).map(|_| AtomicU64::new(0)).collect() }
    }

    /// What may be held, in bytes.
    pub(crate) fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    /// What all cores hold, in bytes, as they said last.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.iter().map(|one| one.load(Ordering::Relaxed)).sum()
    }

    /// A core holds so many bytes. What it may add until it says so again.
    pub(crate) fn note(&self, core: usize, bytes: u64) -> Room {
        self.held_bytes[core].store(bytes, Ordering::Relaxed);
        let room = self.room();
        Room { bytes: room.bytes / self.held_bytes.len() as u64, ..room }
    }

    /// Whether one more connection may come.
    pub(crate) fn admits(&self) -> Result<(), Refusal> {
        let room = self.room();
        if room.bytes >= CONNECTION_BYTES { Ok(()) } else { Err(room.busy()) }
    }

    fn room(&self) -> Room {
        let (used_bytes, bound_bytes) = (self.held_bytes(), self.bound_bytes);
        Room { bytes: bound_bytes.saturating_sub(used_bytes), used_bytes, bound_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_what_is_left_and_connections_need_some_of_it() {
        let budget = Budget::new(10 << 20, 2);
        assert_eq!(budget.note(0, 4 << 20).bytes, 3 << 20);
        assert_eq!(budget.note(1, 2 << 20).bytes, 2 << 20);
        assert_eq!(budget.admits(), Ok(()));
        assert_eq!(budget.note(0, 9 << 20).bytes, 0);
        let busy = budget.admits().expect_err("it holds more than it may");
        assert!(matches!(busy, Refusal::Busy { used_mib: 11, bound_mib: 10, .. }), "{busy}");
    }
}
