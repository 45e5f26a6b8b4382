//! Tally: what a shard has done, for people who watch.
//!
//! Owns the figures and which request adds to which. Nothing is decided by them.

use wire::{Header, Kind, Refusal};

/// Kinds of messages that are counted apart; numbers from here on count as the last.
pub const KINDS_MAX: usize = 32;

/// What a shard has done since it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were answered, refused ones included, by [`Kind`] as a number.
    pub requests: [u64; KINDS_MAX],
    /// Pairs of key and delta of pushes that were applied: duplicates and refused ones are none.
    pub keys_pushed: u64,
    /// Keys whose values were given out.
    pub keys_pulled: u64,
    /// Pushes that were applied together with those of other workers.
    pub pushes_merged: u64,
    /// How often that was done.
    pub merges: u64,
    /// Requests that were refused, by [`Refusal::index`].
    pub refusals: [u64; Refusal::COUNT],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            requests: [0; KINDS_MAX],
            keys_pushed: 0,
            keys_pulled: 0,
            pushes_merged: 0,
            merges: 0,
            refusals: [0; Refusal::COUNT],
        }
    }
}

impl Tally {
    /// A request was answered.
    pub(crate) fn answered(&mut self, request: &Header) {
        self.requests[usize::from(request.kind).min(KINDS_MAX - 1)] += 1;
    }

    /// It was refused.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refusals[refusal.index()] += 1;
    }

    /// Its keys were pushed or pulled.
    pub(crate) fn moved(&mut self, request: &Header) {
        match request.kind() {
            Kind::Push => self.keys_pushed += u64::from(request.keys),
            Kind::Pull => self.keys_pulled += u64::from(request.keys),
            _ => {}
        }
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Tally) {
        let pairs = self.requests.iter_mut().zip(other.requests);
        pairs.for_each(|(mine, more)| *mine += more);
        let pairs = self.refusals.iter_mut().zip(other.refusals);
        pairs.for_each(|(mine, more)| *mine += more);
        self.keys_pushed += other.keys_pushed;
        self.keys_pulled += other.keys_pulled;
        self.pushes_merged += other.pushes_merged;
        self.merges += other.merges;
    }
}
