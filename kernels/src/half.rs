//! Numbers in half the bytes: f32 to and from bf16 and f16, as their bits in `u16`.
//!
//! Owns the rounding and what becomes of numbers that the smaller format lacks. Who stores or sends
//! halves is left to the caller; arithmetic is done in f32.
//!
//! Invariant: for every input, NaN and subnormal numbers too, every level of `Isa` returns the same
//! bits. The processor's own conversion to bf16 is not used: it reads subnormal numbers as zero.

#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use crate::isa::{Isa, Portable};

/// Rounds each number to the nearest bf16, of two that are as near to the one that ends in 0.
///
/// - `from`, `to`: the same length. `to` gets the upper 16 bits of an f32.
/// - Result: numbers from `3.3961775e38` on become infinite; subnormal numbers are rounded as all
///   others; a NaN keeps its sign and upper payload and is quiet. The same bits on every `isa`.
/// - Panics: if the lengths differ.
/// - Source: IEEE 754-2019, roundTiesToEven.
pub fn to_bf16(isa: Isa, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len(), "numbers against their halves");
    isa.run(Each { from, to, convert: to_bf16_one });
}

/// Widens each bf16, which is exact: NaN keeps its bits too.
///
/// - `from`, `to`: the same length.
/// - Panics: if the lengths differ.
pub fn from_bf16(isa: Isa, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "halves against their numbers");
    isa.run(Each { from, to, convert: from_bf16_one });
}

/// Rounds each number to the nearest f16, of two that are as near to the one that ends in 0.
///
/// - `from`, `to`: the same length. `to` gets the bits of an IEEE binary16.
/// - Result: numbers from 65520 on become infinite; those below `2^-14` become subnormal, those up
///   to `2^-25` zero; a NaN keeps its sign and upper payload and is quiet. The same bits on every
///   `isa`.
/// - Panics: if the lengths differ.
/// - Source: IEEE 754-2019, roundTiesToEven.
pub fn to_f16(isa: Isa, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len(), "numbers against their halves");
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { to_f16_avx512(from, to) },
        // SAFETY: the same for `Avx2`, which F16C belongs to.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { to_f16_avx2(from, to) },
        _ => to_f16_scalar(from, to),
    }
}

/// Widens each f16, which is exact; a NaN keeps its sign and payload and becomes quiet.
///
/// - `from`, `to`: the same length.
/// - Panics: if the lengths differ.
pub fn from_f16(isa: Isa, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "halves against their numbers");
    match isa.level() {
        // SAFETY: only `Isa::detect` makes an `Isa` of level `Avx512`, after CPUID reported it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { from_f16_avx512(from, to) },
        // SAFETY: the same for `Avx2`, which F16C belongs to.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { from_f16_avx2(from, to) },
        _ => from_f16_scalar(from, to),
    }
}

/// A conversion number by number, which the compiler vectorises.
struct Each<'a, A, B, F> {
    from: &'a [A],
    to: &'a mut [B],
    convert: F,
}

impl<A: Copy, B, F: Fn(A) -> B> Portable for Each<'_, A, B, F> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        for (to, &from) in self.to.iter_mut().zip(self.from) {
            *to = (self.convert)(from);
        }
    }
}

#[inline(always)]
fn to_bf16_one(number: f32) -> u16 {
    const QUIET: u32 = 0x0040_0000;
    let bits = number.to_bits();
    let is_odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7fff + is_odd);
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    ((if is_nan { bits | QUIET } else { rounded }) >> 16) as u16
}

#[inline(always)]
fn from_bf16_one(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

fn to_f16_scalar(from: &[f32], to: &mut [u16]) {
    Each { from, to, convert: to_f16_one }.scalar();
}

fn from_f16_scalar(from: &[u16], to: &mut [f32]) {
    Each { from, to, convert: from_f16_one }.scalar();
}

/// Between the exponents' zeros of the two formats, in f32's place for an exponent.
const BIAS_GAP: u32 = (127 - 15) << 23;

#[inline(always)]
fn to_f16_one(number: f32) -> u16 {
    /// `2^16`, at and beyond which all is infinite.
    const INFINITE: u32 = 0x4780_0000;
    /// `2^-14`, below which numbers are subnormal.
    const NORMAL_MIN: u32 = 0x3880_0000;
    let bits = number.to_bits();
    let (sign, size) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
    let clamped = size.min(INFINITE);
    let is_odd = (clamped >> 13) & 1;
    let normal = clamped.wrapping_add(0xfff + is_odd).wrapping_sub(BIAS_GAP) >> 13;
    // The last bit of a sum with a half is worth 2^-24, the unit of the subnormal numbers.
    let subnormal = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    let finite = if size < NORMAL_MIN { subnormal } else { normal };
    let nan = 0x7e00 | ((size >> 13) & 0x3ff);
    (sign | if size > 0x7f80_0000 { nan } else { finite }) as u16
}

#[inline(always)]
fn from_f16_one(half: u16) -> f32 {
    /// `2^-14` in f32, whose last bits are worth the unit of f16's subnormal numbers.
    const NORMAL_MIN: u32 = 0x3880_0000;
    const QUIET: u32 = 0x0040_0000;
    let (sign, size) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff));
    let shifted = size << 13;
    let subnormal = (f32::from_bits(shifted + NORMAL_MIN) - f32::from_bits(NORMAL_MIN)).to_bits();
    let infinite = shifted + 2 * BIAS_GAP;
    let nan = infinite | QUIET;
    let normal = shifted + BIAS_GAP;
    let finite = if size < 0x400 { subnormal } else { normal };
    let other = if size > 0x7c00 { nan } else { infinite };
    f32::from_bits(sign | if size < 0x7c00 { finite } else { other })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,f16c")]
fn to_f16_avx512(from: &[f32], to: &mut [u16]) {
    use crate::lanes::{load_f32_avx512, store_u16x16};
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm512_cvtps_ph};

    let (from, from_tail) = from.as_chunks();
    let (to, to_tail) = to.as_chunks_mut();
    for (from, to) in from.iter().zip(to) {
        store_u16x16(to, _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32_avx512(from)));
    }
    to_f16_avx2(from_tail, to_tail);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn to_f16_avx2(from: &[f32], to: &mut [u16]) {
    use crate::lanes::{load_f32_avx2, store_u16x8};
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm256_cvtps_ph};

    let (from, from_tail) = from.as_chunks();
    let (to, to_tail) = to.as_chunks_mut();
    for (from, to) in from.iter().zip(to) {
        store_u16x8(to, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32_avx2(from)));
    }
    to_f16_scalar(from_tail, to_tail);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,f16c")]
fn from_f16_avx512(from: &[u16], to: &mut [f32]) {
    use crate::lanes::{load_u16x16, store_f32_avx512};
    use std::arch::x86_64::_mm512_cvtph_ps;

    let (from, from_tail) = from.as_chunks();
    let (to, to_tail) = to.as_chunks_mut();
    for (from, to) in from.iter().zip(to) {
        store_f32_avx512(to, _mm512_cvtph_ps(load_u16x16(from)));
    }
    from_f16_avx2(from_tail, to_tail);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn from_f16_avx2(from: &[u16], to: &mut [f32]) {
    use crate::lanes::{load_u16x8, store_f32_avx2};
    use std::arch::x86_64::_mm256_cvtph_ps;

    let (from, from_tail) = from.as_chunks();
    let (to, to_tail) = to.as_chunks_mut();
    for (from, to) in from.iter().zip(to) {
        store_f32_avx2(to, _mm256_cvtph_ps(load_u16x8(from)));
    }
    from_f16_scalar(from_tail, to_tail);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use crate::oracle::{LENGTHS, bits};
    use proptest::prelude::*;

    /// A format of halves: bits of its fraction, and the largest exponent of its numbers.
    #[derive(Clone, Copy)]
    struct Format {
        fraction_bits: u32,
        exponent_max: i32,
        to: fn(Isa, &[f32], &mut [u16]),
        from: fn(Isa, &[u16], &mut [f32]),
    }

    const BF16: Format =
        Format { fraction_bits: 7, exponent_max: 127, to: to_bf16, from: from_bf16 };
    const F16: Format = Format { fraction_bits: 10, exponent_max: 15, to: to_f16, from: from_f16 };

    impl Format {
        /// The number that positive, finite bits stand for, by the definition of the format.
        fn value(self, half: u16) -> f64 {
            let fraction = f64::from(half & ((1 << self.fraction_bits) - 1));
            let unit = (-f64::from(self.fraction_bits)).exp2();
            let least = 1 - self.exponent_max;
            match i32::from(half >> self.fraction_bits) {
                0 => fraction * unit * f64::from(least).exp2(),
                exponent => (1.0 + fraction * unit) * f64::from(exponent + least - 1).exp2(),
            }
        }

        fn infinite(self) -> u16 {
            ((2 * self.exponent_max + 1) as u16) << self.fraction_bits
        }

        /// The nearest half, found by search among all; infinite stands one step behind the last.
        fn nearest(self, number: f32) -> u16 {
            let sign = u16::from(number.is_sign_negative()) << 15;
            let size = f64::from(number.abs());
            let (mut below, mut above) = (0, self.infinite());
            if size >= self.value(above) {
                return sign | above;
            }
            while above - below > 1 {
                let middle = below.midpoint(above);
                if self.value(middle) <= size { below = middle } else { above = middle }
            }
            let (down, up) = (size - self.value(below), self.value(above) - size);
            let is_up = up < down || (up == down && below % 2 == 1);
            sign | if is_up { above } else { below }
        }

        fn rounded(self, isa: Isa, numbers: &[f32]) -> Vec<u16> {
            let mut halves = vec![0; numbers.len()];
            (self.to)(isa, numbers, &mut halves);
            halves
        }

        fn widened(self, isa: Isa, halves: &[u16]) -> Vec<f32> {
            let mut numbers = vec![0.0; halves.len()];
            (self.from)(isa, halves, &mut numbers);
            numbers
        }
    }

    /// Bits of every kind: all exponents, fractions random or near a tie.
    fn draw(seed: u64, len: usize) -> Vec<f32> {
        let tie = [0, 0x1000, 0x0fff, 0x1001, 0x8000, 0x7fff, 0x8001, 0x3000, 0x1_8000];
        let draws = (0..len as u64).map(|index| mix(seed ^ mix(index)));
        draws
            .map(|draw| {
                let bits = draw as u32;
                let kind = (draw >> 32) as usize % (2 * tie.len());
                let low = tie.get(kind).map(|low| (bits & !0x1_ffff) | low);
                f32::from_bits(low.unwrap_or(bits))
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_level_rounds_to_the_nearest_half(seed: u64) {
            let numbers = draw(seed, 1024);
            for format in [BF16, F16] {
                for isa in Isa::available() {
                    for (number, half) in numbers.iter().zip(format.rounded(isa, &numbers)) {
                        if number.is_nan() {
                            let [back] = format.widened(isa, &[half])[..] else { panic!() };
                            prop_assert!(back.is_nan());
                            let payload = number.to_bits() >> (23 - format.fraction_bits);
                            let quiet = 1 << (format.fraction_bits - 1);
                            let fraction = (1 << format.fraction_bits) - 1;
                            prop_assert_eq!(half & fraction, payload as u16 & fraction | quiet);
                            prop_assert_eq!(half >> 15, (number.to_bits() >> 31) as u16);
                        } else {
                            let nearest = format.nearest(*number);
                            prop_assert_eq!(half, nearest, "{:e}", number);
                        }
                    }
                }
            }
        }

        #[test]
        fn every_length_is_converted_whole(seed: u64) {
            for len in LENGTHS {
                let numbers = draw(seed, len);
                for format in [BF16, F16] {
                    let halves = format.rounded(Isa::scalar(), &numbers);
                    let back = format.widened(Isa::scalar(), &halves);
                    for isa in Isa::available() {
                        prop_assert_eq!(&format.rounded(isa, &numbers), &halves);
                        prop_assert_eq!(bits(&format.widened(isa, &halves)), bits(&back));
                    }
                }
            }
        }
    }

    #[test]
    fn every_half_widens_to_its_value_and_rounds_back_to_itself() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        for format in [BF16, F16] {
            for isa in Isa::available() {
                let numbers = format.widened(isa, &halves);
                let back = format.rounded(isa, &numbers);
                for ((&half, number), back) in halves.iter().zip(numbers).zip(back) {
                    let size = half & 0x7fff;
                    assert_eq!(number.is_sign_negative(), half >> 15 == 1, "{half:x}");
                    if size > format.infinite() {
                        let quiet = half | 1 << (format.fraction_bits - 1);
                        assert!(number.is_nan() && back == quiet, "{half:x} and {back:x}");
                        continue;
                    }
                    assert_eq!(back, half);
                    if size == format.infinite() {
                        assert!(number.is_infinite(), "{half:x}");
                    } else {
                        assert_eq!(f64::from(number.abs()), format.value(size), "{half:x}");
                    }
                }
            }
        }
    }
}
