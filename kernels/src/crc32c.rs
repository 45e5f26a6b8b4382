//! CRC-32C: the checksum of every message on TCP and of every block of a checkpoint.
//!
//! Owns three ways to the same number: by tables, by the processor's CRC instruction on three
//! parts side by side, and by carry-less products that fold 256 bytes at a time.
//!
//! Invariant: a remainder is a polynomial over two elements modulo the Castagnoli polynomial, its
//! highest power in the lowest bit. A message is `first · x^(8 · bytes after it) + second`, so a
//! part's remainder moves past later bytes by one product with a power of x known in advance.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;

/// The Castagnoli polynomial without `x^32`, highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Continues the CRC-32C of a message with more of its bytes.
///
/// - `crc`: 0 at a message's start, then what the call on its earlier bytes returned.
/// - Result: the same on every `isa`; `123456789` gives `0xE306_9283`.
/// - Source: Castagnoli, Braeuer, Herrmann, IEEE Trans. Commun. 41 (1993); RFC 3720, B.4.
#[must_use]
pub fn crc32c(isa: Isa, crc: u32, bytes: &[u8]) -> u32 {
    let remainder = match isa.level() {
        // SAFETY: `Isa::detect` sets `has_wide_carryless` after CPUID reported VPCLMULQDQ, and
        // only together with `Avx512`; `at_most` clears it when it lowers the level.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if isa.has_wide_carryless() => unsafe { avx512(!crc, bytes) },
        // SAFETY: both levels are made by `Isa::detect` only, after CPUID reported SSE4.2 and
        // PCLMULQDQ.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => unsafe { avx2(!crc, bytes) },
        _ => scalar(!crc, bytes),
    };
    !remainder
}

/// `TABLES[i][b]`: the remainder of byte `b` with `i` zero bytes after it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut table = 0;
        while table < 8 {
            let mut bit = 0;
            while bit < 8 {
                remainder = times_x(remainder);
                bit += 1;
            }
            tables[table][byte] = remainder;
            table += 1;
        }
        byte += 1;
    }
    tables
}

/// `x · remainder`, modulo the polynomial.
const fn times_x(remainder: u32) -> u32 {
    if remainder & 1 == 1 { (remainder >> 1) ^ POLYNOMIAL } else { remainder >> 1 }
}

/// The reference: eight tables, so that eight bytes are looked up side by side.
/// Source: Kounavis, Berry, ISCC 2005 (slicing by 8).
fn scalar(mut remainder: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = (u64::from_le_bytes(*word) ^ u64::from(remainder)).to_le_bytes();
        let looked_up = word.iter().zip(TABLES.iter().rev());
        remainder = looked_up.fold(0, |sum, (&byte, table)| sum ^ table[usize::from(byte)]);
    }
    for byte in rest {
        remainder = (remainder >> 8) ^ TABLES[0][(remainder as u8 ^ byte) as usize];
    }
    remainder
}

#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512i, _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi64_si128,
        _mm_cvtsi128_si64, _mm512_clmulepi64_epi128, _mm512_set4_epi64, _mm512_ternarylogic_epi64,
        _mm512_xor_si512, _mm512_zextsi128_si512,
    };

    use super::times_x;
    use crate::lanes::{load_bytes_avx512, store_bytes_avx512};

    /// Words in each of the three parts that are taken side by side: the instruction takes three
    /// cycles and starts every cycle. Long parts for long messages, short ones for their ends.
    const LONG_WORDS: usize = 512;
    const SHORT_WORDS: usize = 32;
    /// Bytes that a pass of the folding takes: four registers, so that one's products are ready
    /// when its turn comes again.
    const FOLD_BYTES: usize = 256;
    /// Messages shorter than this have too few passes to pay for the end of the folding.
    const FOLD_BYTES_MIN: usize = 512;

    /// `x^exponent` modulo the polynomial.
    const fn power(exponent: usize) -> u32 {
        let mut remainder = 1 << 31;
        let mut step = 0;
        while step < exponent {
            remainder = times_x(remainder);
            step += 1;
        }
        remainder
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn avx2(remainder: u32, bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks::<8>();
        let (remainder, words) = three_ways::<LONG_WORDS>(u64::from(remainder), words);
        let (remainder, words) = three_ways::<SHORT_WORDS>(remainder, words);
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let remainder = words.fold(remainder, |sum, word| _mm_crc32_u64(sum, word)) as u32;
        rest.iter().fold(remainder, |sum, &byte| _mm_crc32_u8(sum, byte))
    }

    /// Takes as many blocks of three parts of `WORDS` as there are; gives back the words left.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn three_ways<const WORDS: usize>(remainder: u64, words: &[[u8; 8]]) -> (u64, &[[u8; 8]]) {
        let mut blocks = words.chunks_exact(3 * WORDS);
        let mut remainder = remainder;
        for block in &mut blocks {
            let (first, rest) = block.split_at(WORDS);
            let (second, third) = rest.split_at(WORDS);
            let mut parts = [remainder, 0, 0];
            for ((first, second), third) in first.iter().zip(second).zip(third) {
                parts[0] = _mm_crc32_u64(parts[0], u64::from_le_bytes(*first));
                parts[1] = _mm_crc32_u64(parts[1], u64::from_le_bytes(*second));
                parts[2] = _mm_crc32_u64(parts[2], u64::from_le_bytes(*third));
            }
            // A product of two 32-bit remainders lies one bit low in its 64, and the instruction
            // that reduces it multiplies by x^32: hence 33 less than the bits to move past.
            let past_two = product(parts[0], const { power(2 * WORDS * 64 - 33) });
            let past_one = product(parts[1], const { power(WORDS * 64 - 33) });
            remainder = parts[2] ^ _mm_crc32_u64(0, past_two ^ past_one);
        }
        (remainder, blocks.remainder())
    }

    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn product(remainder: u64, power: u32) -> u64 {
        let remainder = _mm_cvtsi64_si128(remainder.cast_signed());
        let power = _mm_cvtsi64_si128(i64::from(power));
        _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0>(remainder, power)).cast_unsigned()
    }

    /// Folds 256 bytes over the next 256 until there are no more, then 64 over 64, and takes the
    /// last 64, which have the remainder of all before them, with the CRC instruction.
    /// Source: Gopal et al., Fast CRC Computation Using PCLMULQDQ, Intel (2009), four times wider.
    #[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,sse4.2,pclmulqdq")]
    pub(super) fn avx512(remainder: u32, bytes: &[u8]) -> u32 {
        let (passes, rest) = bytes.as_chunks::<FOLD_BYTES>();
        let Some((first, passes)) = passes.split_first() else {
            return avx2(remainder, bytes);
        };
        if bytes.len() < FOLD_BYTES_MIN {
            return avx2(remainder, bytes);
        }
        let mut folded = load_pass(first);
        let start = _mm512_zextsi128_si512(_mm_cvtsi64_si128(i64::from(remainder)));
        folded[0] = _mm512_xor_si512(folded[0], start);
        for pass in passes {
            let next = load_pass(pass);
            for (folded, next) in folded.iter_mut().zip(next) {
                *folded = fold::<FOLD_BYTES>(*folded, next);
            }
        }
        let [first, second, third, fourth] = folded;
        let last = fold::<192>(first, fold::<128>(second, fold::<64>(third, fourth)));
        let mut last_bytes = [0; 64];
        store_bytes_avx512(&mut last_bytes, last);
        avx2(avx2(0, &last_bytes), rest)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_pass(pass: &[u8; FOLD_BYTES]) -> [__m512i; 4] {
        let (registers, _) = pass.as_chunks::<64>();
        [0, 1, 2, 3].map(|index| load_bytes_avx512(&registers[index]))
    }

    /// Each 128-bit lane of `lanes` times `x^(8 · DISTANCE)`, plus `next`.
    ///
    /// A lane's low half holds the higher powers, 64 above the high half's. A product lies in the
    /// lane 32 above its value, since the power is shifted by one: hence 32 more and 32 less.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn fold<const DISTANCE: usize>(lanes: __m512i, next: __m512i) -> __m512i {
        let low = const { (power(8 * DISTANCE + 32) as i64) << 1 };
        let high = const { (power(8 * DISTANCE - 32) as i64) << 1 };
        let powers = _mm512_set4_epi64(high, low, high, low);
        let low = _mm512_clmulepi64_epi128::<0x00>(lanes, powers);
        let high = _mm512_clmulepi64_epi128::<0x11>(lanes, powers);
        _mm512_ternarylogic_epi64::<0x96>(low, high, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: one bit at a time.
    fn bit_by_bit(crc: u32, bytes: &[u8]) -> u32 {
        let byte = |sum: u32, &byte: &u8| (0..8).fold(sum ^ u32::from(byte), |s, _| times_x(s));
        !bytes.iter().fold(!crc, byte)
    }

    fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|index| crate::hash::mix(seed ^ index) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_level_returns_the_definitions_remainder(
            seed: u64, crc: u32, len in 0_usize..30_000, start in 0_usize..64,
        ) {
            let bytes = &bytes_of(seed, start + len)[start..];
            for isa in Isa::available() {
                prop_assert_eq!(crc32c(isa, crc, bytes), bit_by_bit(crc, bytes));
            }
        }

        #[test]
        fn a_message_in_two_parts_has_the_crc_of_the_whole(
            seed: u64, len in 0_usize..3000, cut in 0_usize..3000,
        ) {
            let bytes = bytes_of(seed, len);
            let (first, second) = bytes.split_at(cut.min(len));
            for isa in Isa::available() {
                let parts = crc32c(isa, crc32c(isa, 0, first), second);
                prop_assert_eq!(parts, crc32c(isa, 0, &bytes));
            }
        }
    }

    #[test]
    fn every_level_takes_every_length_up_to_two_passes_and_a_tail() {
        let bytes = bytes_of(1, 1700);
        for len in 0..bytes.len() {
            let expected = bit_by_bit(9, &bytes[..len]);
            for isa in Isa::available() {
                assert_eq!(crc32c(isa, 9, &bytes[..len]), expected, "{len} bytes, {isa:?}");
            }
        }
    }

    #[test]
    fn the_published_check_values_hold() {
        for isa in Isa::available() {
            assert_eq!(crc32c(isa, 0, b""), 0);
            assert_eq!(crc32c(isa, 0, b"123456789"), 0xE306_9283);
            assert_eq!(crc32c(isa, 0, &[0; 32]), 0x8A91_36AA);
            assert_eq!(crc32c(isa, 0, &[0xFF; 32]), 0x62A8_AB43);
        }
    }

    #[test]
    fn avx512_without_the_wide_product_returns_the_same() {
        let bytes = bytes_of(2, 40_000);
        for isa in Isa::available() {
            assert_eq!(crc32c(isa, 0, &bytes), crc32c(isa.without_wide_carryless(), 0, &bytes));
        }
    }
}
