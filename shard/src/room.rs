//! Room: what a shard's tables may still take of the server's memory.
//!
//! Owns the refusal of a push that would take more. How much there is, is told by whoever knows
//! what the server holds; what a table may take at most is its own bound.
//!
//! Invariant: between two times that it is told, a shard takes no more than it was given.

use wire::Refusal;

/// After which time a push that found no room may be sent again, in milliseconds.
const RETRY_MS: u16 = 100;

/// What may still be taken, and why no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What tables of this shard may take, in bytes.
    pub bytes: u64,
    /// What the server holds, in bytes.
    pub used_bytes: u64,
    /// What it may hold, in bytes.
    pub bound_bytes: u64,
}

impl Room {
    /// What is said where there is none.
    pub fn busy(&self) -> Refusal {
        let mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let (used_mib, bound_mib) = (mib(self.used_bytes), mib(self.bound_bytes));
        Refusal::Busy { used_mib, bound_mib, retry_ms: RETRY_MS }
    }
}
