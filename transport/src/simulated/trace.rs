//! A running hash of all that arrived: two runs are the same if their hashes are.
//!
//! Owns the hash. It guards against accidents, not against anyone who forges it.

use super::endpoint::EndpointId;

/// Odd, so that multiplying loses nothing. Source: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        Trace(seed)
    }

    pub(super) fn hash(self) -> u64 {
        self.0
    }

    /// Adds one delivery.
    pub(super) fn delivery(
        &mut self,
        at_ns: u64,
        from: Option<EndpointId>,
        to: Option<EndpointId>,
        bytes: &[u8],
    ) {
        let number =
            |endpoint: Option<EndpointId>| endpoint.map_or(u64::MAX, |id| id.index() as u64);
        self.add(at_ns);
        self.add(number(from));
        self.add(number(to));
        self.add(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        for &byte in rest {
            self.add(u64::from(byte));
        }
    }

    fn add(&mut self, word: u64) {
        let mixed = (self.0.rotate_left(25) ^ word).wrapping_mul(FACTOR);
        self.0 = mixed ^ (mixed >> 32);
    }
}
