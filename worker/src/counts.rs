//! What a session counts.
//!
//! Owns the figures and which message adds to which. Printing them is left to the caller.
//!
//! Invariant: a figure never goes back.

use wire::{Header, Kind};

/// What a session has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were sent again.
    pub resends: u64,
    /// Pushes that the shard had applied before this copy came.
    pub duplicates: u64,
    /// Answers to what is answered already or no longer wanted.
    pub answers_late: u64,
    /// Messages that were damaged on the way.
    pub damaged: u64,
    /// Key lists that a shard no longer had, so that the keys were sent.
    pub lists_unknown: u64,
    /// Numbers of keys that a shard had not learned, so that the keys were sent.
    pub numbers_unknown: u64,
    /// Links to shards that were replaced, since the shard moved or the link broke.
    pub reconnects: u64,
    /// Pushes that a head had answered for, and that were sent to another one.
    pub pushes_again: u64,
    /// Pushes that a shard had no memory for when they came.
    pub busy: u64,
    /// Pairs of key and delta that were pushed, each once.
    pub pairs_pushed: u64,
    /// Those of them that a message carried; the others were held back by a selection.
    pub pairs_carried: u64,
    /// Bytes of pushes, headers and whatever was sent again included.
    pub push_bytes: u64,
    /// Keys whose values were asked for, each time they were.
    pub keys_pulled: u64,
    /// Those of them that replicas behind heads were asked for.
    pub keys_from_replicas: u64,
    /// Pulls that such replicas refused, lost or were late with.
    pub pulls_handed_over: u64,
    /// Bytes of pulls, headers and whatever was sent again included.
    pub pull_bytes: u64,
    /// Bytes of the values that came, headers included.
    pub values_bytes: u64,
}

impl Counts {
    /// Counts the bytes of a message that is posted now.
    pub(crate) fn note_sent(&mut self, header: &Header, bytes: usize) {
        match header.kind() {
            Kind::Push => self.push_bytes += bytes as u64,
            Kind::Pull => self.pull_bytes += bytes as u64,
            _ => {}
        }
    }
}
