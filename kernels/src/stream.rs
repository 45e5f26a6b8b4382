//! The triad `a[i] = b[i] + factor · c[i]` whose stores go past the cache.
//!
//! Owns the fastest known way to read two arrays from memory and write a third: a store past the
//! cache does not fetch the line that it overwrites, so every byte that moves is one that counts.
//! It is the roof that kernels from memory are measured against. Sizes and clock are left to the
//! measurer; copies for another core to `copy`.
//!
//! Invariant: every element is written once, with the bits of the scalar reference.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use crate::lanes::CACHE_LINE_BYTES;

/// Numbers in a line of the cache.
const LINE: usize = CACHE_LINE_BYTES / size_of::<f32>();

/// Writes `b[i] + factor · c[i]` to `a[i]`, past the cache where the level has such stores.
///
/// - `a`, `b`, `c`: the same length, unitless, anywhere.
/// - Result: the same bits on every `isa`: product and sum are never fused. The level `scalar` and
///   processors other than x86-64 store through the cache.
/// - Panics: if the lengths differ.
/// - Source: McCalpin, Memory bandwidth and machine balance, 1995 (STREAM).
pub fn triad(isa: Isa, a: &mut [f32], b: &[f32], c: &[f32], factor: f32) {
    assert!(a.len() == b.len() && a.len() == c.len(), "triad of arrays that differ in length");
    let head = a.as_ptr().align_offset(CACHE_LINE_BYTES).min(a.len());
    let (a_head, a) = a.split_at_mut(head);
    let ((b_head, b), (c_head, c)) = (b.split_at(head), c.split_at(head));
    scalar(a_head, b_head, c_head, factor);
    let (a, a_tail) = a.as_chunks_mut::<LINE>();
    let ((b, b_tail), (c, c_tail)) = (b.as_chunks::<LINE>(), c.as_chunks::<LINE>());
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(a, b, c, factor) },
        // SAFETY: the same for `Avx2`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(a, b, c, factor) },
        _ => scalar(a.as_flattened_mut(), b.as_flattened(), c.as_flattened(), factor),
    }
    scalar(a_tail, b_tail, c_tail, factor);
}

fn scalar(a: &mut [f32], b: &[f32], c: &[f32], factor: f32) {
    for (a, (b, c)) in a.iter_mut().zip(b.iter().zip(c)) {
        *a = b + factor * c;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(a: &mut [[f32; LINE]], b: &[[f32; LINE]], c: &[[f32; LINE]], factor: f32) {
    use crate::lanes::{load_f32_avx512 as load, stream_f32_avx512};
    use std::arch::x86_64::{_mm512_add_ps as add, _mm512_mul_ps as mul, _mm512_set1_ps};

    let factor = _mm512_set1_ps(factor);
    let lines = b.iter().zip(c).map(|(b, c)| add(load(b), mul(factor, load(c))));
    stream_f32_avx512(lines, a);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(a: &mut [[f32; LINE]], b: &[[f32; LINE]], c: &[[f32; LINE]], factor: f32) {
    use crate::lanes::{load_f32_avx2 as load, stream_f32_avx2};
    use std::arch::x86_64::{_mm256_add_ps as add, _mm256_mul_ps as mul, _mm256_set1_ps};

    let factor = _mm256_set1_ps(factor);
    let (b, _) = b.as_flattened().as_chunks();
    let (c, _) = c.as_flattened().as_chunks();
    let halves = b.iter().zip(c).map(|(b, c)| add(load(b), mul(factor, load(c))));
    stream_f32_avx2(halves, a);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_level_writes_the_reference_bits_and_nothing_around_them(
            seed: u64, offset in 0..2 * LINE,
        ) {
            for len in LENGTHS {
                let (b, c) = (floats(seed, len), floats(!seed, len));
                let mut expected = vec![0.0; len];
                scalar(&mut expected, &b, &c, 0.3);
                for isa in Isa::available() {
                    let mut place = vec![7.0; offset + len + LINE];
                    triad(isa, &mut place[offset..][..len], &b, &c, 0.3);
                    prop_assert_eq!(bits(&place[offset..][..len]), bits(&expected));
                    let mut around = place[..offset].iter().chain(&place[offset + len..]);
                    prop_assert!(around.all(|&number| number == 7.0));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn arrays_of_different_lengths_are_a_broken_promise() {
        triad(Isa::scalar(), &mut [0.0; 3], &[0.0; 3], &[0.0; 2], 1.0);
    }
}
