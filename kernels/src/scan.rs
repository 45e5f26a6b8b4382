//! Marking bytes of text: where lines end, and where names do.
//!
//! Owns which bytes stop what. What stands between two marks is left to `learn`.
//!
//! Invariant: bit `i % 64` of word `i / 64` is set exactly if byte `i` is one that stops.

use crate::isa::{Isa, Level};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{load_bytes_avx2, load_bytes_avx512};

/// Bytes whose marks share a word.
pub const BLOCK_BYTES: usize = 64;

/// Which bytes are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// Newlines.
    Lines,
    /// What ends a name or a number in text of Vowpal Wabbit: a blank, which is any byte up to
    /// `' '`, a colon or a bar.
    Names,
}

impl Stops {
    const fn has(self, byte: u8) -> bool {
        match self {
            Self::Lines => byte == b'\n',
            Self::Names => byte <= b' ' || byte == b':' || byte == b'|',
        }
    }
}

/// Marks the bytes of `text` that stop.
///
/// - `marks`: overwritten; `[text.len() / 64, rounded up]` words. Bits beyond the text are zero.
/// - Result: the same on every `isa`.
pub fn mark(isa: Isa, text: &[u8], stops: Stops, marks: &mut Vec<u64>) {
    marks.resize(text.len().div_ceil(BLOCK_BYTES), 0);
    let (blocks, rest) = text.as_chunks();
    let (whole, last) = marks.split_at_mut(blocks.len());
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(blocks, stops, whole) },
        // SAFETY: the same for `Avx2`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(blocks, stops, whole) },
        _ => scalar(blocks, stops, whole),
    }
    if let [last] = last {
        *last = bits(rest, stops);
    }
}

/// The reference.
fn scalar(blocks: &[[u8; BLOCK_BYTES]], stops: Stops, marks: &mut [u64]) {
    for (marks, block) in marks.iter_mut().zip(blocks) {
        *marks = bits(block, stops);
    }
}

/// The marks of up to 64 bytes.
fn bits(bytes: &[u8], stops: Stops) -> u64 {
    let flags = bytes.iter().enumerate().map(|(at, &byte)| u64::from(stops.has(byte)) << at);
    flags.fold(0, |marks, flag| marks | flag)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(blocks: &[[u8; BLOCK_BYTES]], stops: Stops, marks: &mut [u64]) {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set1_epi8,
    };
    let equal =
        |half: __m256i, byte: u8| _mm256_cmpeq_epi8(half, _mm256_set1_epi8(byte.cast_signed()));
    for (marks, block) in marks.iter_mut().zip(blocks) {
        let (halves, _) = block.as_chunks();
        let [low, high] = [&halves[0], &halves[1]].map(|half| {
            let half = load_bytes_avx2(half);
            let flags = match stops {
                Stops::Lines => equal(half, b'\n'),
                Stops::Names => {
                    // There is no unsigned comparison: a byte is up to a bound if it is the least.
                    let least = _mm256_min_epu8(half, _mm256_set1_epi8(b' '.cast_signed()));
                    let blank = _mm256_cmpeq_epi8(half, least);
                    let sign = _mm256_or_si256(equal(half, b':'), equal(half, b'|'));
                    _mm256_or_si256(blank, sign)
                }
            };
            u64::from(_mm256_movemask_epi8(flags).cast_unsigned())
        });
        *marks = low | high << 32;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512(blocks: &[[u8; BLOCK_BYTES]], stops: Stops, marks: &mut [u64]) {
    use std::arch::x86_64::{_mm512_cmpeq_epi8_mask, _mm512_cmple_epu8_mask, _mm512_set1_epi8};
    for (marks, block) in marks.iter_mut().zip(blocks) {
        let block = load_bytes_avx512(block);
        let equal = |byte: u8| _mm512_cmpeq_epi8_mask(block, _mm512_set1_epi8(byte.cast_signed()));
        *marks = match stops {
            Stops::Lines => equal(b'\n'),
            Stops::Names => {
                let space = _mm512_set1_epi8(b' '.cast_signed());
                _mm512_cmple_epu8_mask(block, space) | equal(b':') | equal(b'|')
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8]) {
        for stops in [Stops::Lines, Stops::Names] {
            for isa in Isa::available() {
                let mut marks = vec![u64::MAX; 3]; // What was there before is overwritten.
                mark(isa, text, stops, &mut marks);
                assert_eq!(marks.len(), text.len().div_ceil(BLOCK_BYTES));
                for at in 0..marks.len() * BLOCK_BYTES {
                    let marked = marks[at / BLOCK_BYTES] >> (at % BLOCK_BYTES) & 1 == 1;
                    let stops_there = text.get(at).is_some_and(|&byte| stops.has(byte));
                    assert_eq!(marked, stops_there, "{stops:?} at {at} on {}", isa.level());
                }
            }
        }
    }

    #[test]
    fn every_value_of_a_byte_is_marked_alike_on_every_level() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        for shift in 0..BLOCK_BYTES {
            check(&bytes[shift..]);
        }
    }

    proptest! {
        #[test]
        fn exactly_the_bytes_that_stop_are_marked_on_every_level(
            text in proptest::collection::vec(prop_oneof![any::<u8>(), 9_u8..14], 0..200)
        ) {
            check(&text);
        }
    }
}
