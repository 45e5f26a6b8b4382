//! Scratch of a pull, kept from one to the next.
//!
//! Owns how much there is. What is written there is left to `table`.
//!
//! Invariant: nothing is read that the same pull did not write.

use kernels::lines::PAYLOAD_WORDS_MAX;

use super::BLOCK_KEYS;

/// Values on their way into an answer that another core reads: gathered here, then copied past
/// the cache. 16 KiB, half of a first-level cache.
pub(super) const GATHERED_FLOATS: usize = 4096;

/// Rows that lie one behind another.
pub(super) const IN_ORDER: [u32; BLOCK_KEYS] = {
    let (mut numbers, mut number) = ([0; BLOCK_KEYS], 0);
    while number < BLOCK_KEYS {
        numbers[number] = number as u32;
        number += 1;
    }
    numbers
};

/// What a pull writes before it reads it. Kept from pull to pull: a pull of one key is not to zero
/// 34 KiB first.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Where a block's rows lie.
    pub(super) at: Vec<u32>,
    /// Rows of a block, copied from their lines.
    pub(super) copied: Vec<f32>,
    /// Values on their way into an answer that another core reads.
    pub(super) gathered: Vec<f32>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch {
            at: vec![0; BLOCK_KEYS],
            copied: vec![0.0; BLOCK_KEYS * PAYLOAD_WORDS_MAX],
            gathered: vec![0.0; GATHERED_FLOATS],
        }
    }
}
