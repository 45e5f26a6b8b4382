//! Floats of sixteen bits, from f32 and back.
//!
//! Owns the arithmetic on one number's bits. Which rounding, and the numbers' order, is the
//! caller's.
//!
//! Invariant: infinities and NaN stay what they are, and a finite number stays finite: beyond the
//! largest one of the narrow format it becomes that one.

use super::draw::{Round, whole};

/// Everything but the sign.
const MAGNITUDE: u32 = 0x7FFF_FFFF;
/// The magnitude of an infinity; NaN's are above.
const INFINITY: u32 = 0x7F80_0000;

/// Mantissa bits that bf16 has less than f32.
const BF16_DROPPED: u32 = 16;
const BF16_LARGEST: u32 = 0x7F7F;
/// What makes a NaN quiet, so that one whose upper bits are zero does not become an infinity.
const BF16_QUIET: u32 = 0x0040;

/// Mantissa bits that f16 has less than f32.
const F16_DROPPED: u32 = 13;
const F16_LARGEST: u32 = 0x7BFF;
const F16_INFINITY: u32 = 0x7C00;
const F16_NAN: u32 = 0x7E00;
/// The difference of the exponents' biases, where f16 has its exponent.
const F16_BIAS: u32 = (127 - 15) << 10;
/// f32's bits of 2^-14, the least number that f16 has with a whole mantissa.
const F16_NORMAL: u32 = (127 - 14) << 23;
/// 2^-24, the distance of two f16 below that.
const F16_STEP: f32 = f32::from_bits((127 - 24) << 23);
/// Bits after the point of a magnitude below 2^-14 counted in such distances: below 2^30 in all.
const F16_FRACTION_BITS: u32 = 20;
const F16_FIXED: f32 = f32::from_bits((127 + 24 + F16_FRACTION_BITS) << 23);

/// Writes two bytes a value.
#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8], narrow: impl Fn(u32, u32) -> u16) {
    let (out, _) = out.as_chunks_mut();
    for (index, (bytes, value)) in out.iter_mut().zip(values).enumerate() {
        *bytes = narrow(value.to_bits(), index as u32).to_le_bytes();
    }
}

/// Reads two bytes a value.
#[inline(always)]
pub(super) fn decode(bytes: &[u8], values: &mut [f32], widen: impl Fn(u16) -> f32) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = widen(u16::from_le_bytes(*bytes));
    }
}

#[inline(always)]
pub(super) fn to_bf16(bits: u32, round: impl Round, index: u32) -> u16 {
    let magnitude = bits & MAGNITUDE;
    let finite = round.off(magnitude, BF16_DROPPED, index).min(BF16_LARGEST);
    let quiet = if magnitude > INFINITY { BF16_QUIET } else { 0 };
    let special = magnitude >> BF16_DROPPED | quiet;
    let narrow = if magnitude < INFINITY { finite } else { special };
    (bits >> 16 & 0x8000 | narrow) as u16
}

#[inline(always)]
pub(super) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << BF16_DROPPED)
}

#[inline(always)]
pub(super) fn to_f16(bits: u32, round: impl Round, index: u32) -> u16 {
    let magnitude = bits & MAGNITUDE;
    let normal = round.off(magnitude, F16_DROPPED, index).wrapping_sub(F16_BIAS).min(F16_LARGEST);
    // What is not below 2^-14 is cut short here and not used.
    let fixed = whole(f32::from_bits(magnitude) * F16_FIXED);
    let tiny = round.off(fixed, F16_FRACTION_BITS, index);
    let finite = if magnitude < F16_NORMAL { tiny } else { normal };
    let special = if magnitude > INFINITY { F16_NAN } else { F16_INFINITY };
    let narrow = if magnitude < INFINITY { finite } else { special };
    (bits >> 16 & 0x8000 | narrow) as u16
}

#[inline(always)]
pub(super) fn from_f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = bits & 0x7FFF;
    let tiny = (magnitude.cast_signed() as f32 * F16_STEP).to_bits();
    let normal = (magnitude + F16_BIAS) << F16_DROPPED;
    let finite = if magnitude < 1 << 10 { tiny } else { normal };
    let special = INFINITY | magnitude << F16_DROPPED;
    let wide = if magnitude < F16_INFINITY { finite } else { special };
    f32::from_bits((bits & 0x8000) << 16 | wide)
}

#[cfg(test)]
mod tests {
    use super::super::draw::{Nearest, Stochastic};
    use super::*;

    #[test]
    fn every_half_float_comes_back_from_its_f32_however_it_is_rounded() {
        let round = Stochastic::new(1);
        for bits in 0..=u16::MAX {
            let (bf16, f16) = (from_bf16(bits), from_f16(bits));
            for narrow in [to_bf16(bf16.to_bits(), Nearest, 0), to_bf16(bf16.to_bits(), round, 7)] {
                assert_eq!(narrow | quiet(bf16, 0x40), bits | quiet(bf16, 0x40));
            }
            for narrow in [to_f16(f16.to_bits(), Nearest, 0), to_f16(f16.to_bits(), round, 7)] {
                let nan = quiet(f16, 0x3FF);
                assert_eq!(narrow | nan, bits | nan, "{f16}");
            }
        }
    }

    /// The bits that two NaN may differ in.
    fn quiet(value: f32, bits: u16) -> u16 {
        if value.is_nan() { bits } else { 0 }
    }

    #[test]
    fn the_nearest_half_float_is_taken_and_of_two_the_even_one() {
        let f16 = |value: f32| from_f16(to_f16(value.to_bits(), Nearest, 0));
        let bf16 = |value: f32| from_bf16(to_bf16(value.to_bits(), Nearest, 0));
        let step = 2.0_f32.powi(-24);
        for (value, nearest) in [
            (2049.0, 2048.0),
            (2051.0, 2052.0),
            (0.5 * step, 0.0),
            (0.51 * step, step),
            (-1.5 * step, -2.0 * step),
            (2.0_f32.powi(-14) - 0.25 * step, 2.0_f32.powi(-14)),
            (65519.0, 65504.0),
        ] {
            assert_eq!(f16(value), nearest, "{value}");
        }
        assert_eq!([257.0, 259.0, -1.0].map(bf16), [256.0, 260.0, -1.0]);
    }

    #[test]
    fn the_finite_stay_finite_and_others_what_they_are() {
        for round in [Stochastic::new(3), Stochastic::new(4)] {
            let f16 = |value: f32| from_f16(to_f16(value.to_bits(), round, 0));
            let bf16 = |value: f32| from_bf16(to_bf16(value.to_bits(), round, 0));
            assert_eq!(
                [65520.0, 1e30, f32::MAX, -f32::MAX].map(f16),
                [65504.0, 65504.0, 65504.0, -65504.0]
            );
            assert!(bf16(f32::MAX).is_finite() && bf16(-f32::MAX).is_finite());
            for infinite in [f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!((f16(infinite), bf16(infinite)), (infinite, infinite));
            }
            for nan in [f32::NAN, f32::from_bits(INFINITY + 1), f32::from_bits(u32::MAX)] {
                assert!(f16(nan).is_nan() && bf16(nan).is_nan());
            }
        }
    }
}
