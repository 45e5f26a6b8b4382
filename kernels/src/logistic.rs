//! The logistic function and its loss, and the products of vectors that go with them.
//!
//! Owns an exponential of its own, because the system's differs between hosts. The gradient is
//! left to `learn`: for a label of 0 or 1 it is `sigmoid(margin) - label`.
//!
//! Invariant: `sigmoid` returns the bits of `sigmoid_one`, and `dot` adds in one fixed order.

use crate::isa::{Isa, Portable};

/// Margins beyond this read as if they were it: `e^87` and its inverse are normal numbers.
const MARGIN_MAX: f32 = 87.0;
/// Lanes that `dot` adds apart, on every level.
const DOT_LANES: usize = 16;

/// Replaces each margin by `1 / (1 + e^-margin)`, in place.
///
/// - `margins`: any length, unitless.
/// - Result: the bits of [`sigmoid_one`] on every `isa`.
pub fn sigmoid(isa: Isa, margins: &mut [f32]) {
    isa.run(Sigmoid { margins });
}

struct Sigmoid<'a> {
    margins: &'a mut [f32],
}

impl Portable for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        for margin in self.margins {
            *margin = sigmoid_one(*margin);
        }
    }
}

/// `1 / (1 + e^-margin)`, within 3 ulps for margins in `[-87, 87]`; beyond, the value there.
#[inline(always)]
#[must_use]
pub fn sigmoid_one(margin: f32) -> f32 {
    1.0 / (1.0 + exp(-margin.clamp(-MARGIN_MAX, MARGIN_MAX)))
}

/// `e^x` for `|x| <= MARGIN_MAX`: `2^n · e^r` with `n` whole and `|r| <= ln 2 / 2`.
///
/// `e^r` is its Taylor polynomial of degree 7, whose first term left out is below `6e-9`, a tenth
/// of an ulp. `ln 2` is subtracted in two parts; the first has 9 bits, so `n` times it is exact.
/// Source: Cody, Waite, Software Manual for the Elementary Functions (1980), chapter 6.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// `1.5 · 2^23`: added to a number below `2^22`, it leaves the nearest whole number in the
    /// low bits. Works on every level, where rounding to whole numbers is a call on some.
    const ROUNDER: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    sum * f32::from_bits(exponent << 23)
}

/// The loss of one example in nats: `ln(1 + e^margin) - label · margin`, without overflow.
///
/// - `margin`: unitless. `label`: 0 or 1, or a probability between them.
/// - Result: at least 0 for such a label. Computed in f64 by the system's `exp` and `ln_1p`, so
///   hosts may differ in the last bit: it is for people to read and goes into no row.
#[must_use]
pub fn logloss_one(margin: f32, label: f32) -> f32 {
    let (margin, label) = (f64::from(margin), f64::from(label));
    let softplus = margin.max(0.0) + (-margin.abs()).exp().ln_1p();
    (softplus - label * margin) as f32
}

/// The product `Σ a[i] · b[i]`, added in one order on every level: element `i` to lane `i mod 16`,
/// then lane `j` and lane `j + 8`, `j + 4`, `j + 2`, `j + 1`.
///
/// - `a`, `b`: the same length, unitless.
/// - Panics: if the lengths differ.
#[must_use]
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot of vectors that differ in length");
    isa.run(Dot { a, b })
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Portable for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn scalar(self) -> f32 {
        let (a, a_tail) = self.a.as_chunks::<DOT_LANES>();
        let (b, b_tail) = self.b.as_chunks::<DOT_LANES>();
        let mut lanes = [0.0; DOT_LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..DOT_LANES {
                lanes[lane] += a[lane] * b[lane];
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
            *lane += a * b;
        }
        let mut half = DOT_LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// Adds `scale · x` to `y`, in place; product and sum are never fused.
///
/// - `x`, `y`: the same length, unitless.
/// - Panics: if the lengths differ.
pub fn axpy(isa: Isa, scale: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy of vectors that differ in length");
    isa.run(Axpy { scale, x, y });
}

struct Axpy<'a> {
    scale: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Portable for Axpy<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y += self.scale * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{LENGTHS, bits, floats};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_level_returns_the_reference_bits(seed: u64) {
            for len in LENGTHS {
                let (a, b) = (floats(seed, len), floats(!seed, len));
                let expected: Vec<f32> = a.iter().map(|&margin| sigmoid_one(margin)).collect();
                let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| b + 0.7 * a).collect();
                let product = dot(Isa::scalar(), &a, &b);
                for isa in Isa::available() {
                    let (mut margins, mut y) = (a.clone(), b.clone());
                    sigmoid(isa, &mut margins);
                    axpy(isa, 0.7, &a, &mut y);
                    prop_assert_eq!(bits(&margins), bits(&expected));
                    prop_assert_eq!(bits(&y), bits(&sum));
                    prop_assert_eq!(dot(isa, &a, &b).to_bits(), product.to_bits());
                }
            }
        }

        #[test]
        fn dot_is_the_sum_of_products_within_rounding(seed: u64, len in LENGTHS) {
            let (a, b) = (floats(seed, len), floats(!seed, len));
            let products = || a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (exact, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let found = f64::from(dot(Isa::detect(), &a, &b));
            // Products near zero are rounded by steps of the least number that there is.
            let rounding = 1e-6 * size + len as f64 * f64::from(f32::from_bits(1));
            prop_assert!((found - exact).abs() <= rounding, "{found} against {exact}");
        }
    }

    #[test]
    fn sigmoid_is_within_3_ulps_of_the_exact_value() {
        let steps = 2_000_000_i32;
        let worst = (-steps..=steps).map(|step| {
            let margin = MARGIN_MAX * (step as f32 / steps as f32);
            let exact = 1.0 / (1.0 + (-f64::from(margin)).exp());
            let nearest = exact as f32;
            let ulp = f64::from(nearest.next_up()) - f64::from(nearest);
            (f64::from(sigmoid_one(margin)) - exact).abs() / ulp
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst <= 3.0, "{worst} ulps");
    }

    #[test]
    fn sigmoid_of_any_margin_is_a_probability_and_of_nan_is_nan() {
        for margin in [f32::NEG_INFINITY, -1e30, -87.0, -0.0, 0.0, 87.0, 1e30, f32::INFINITY] {
            assert!((0.0..=1.0).contains(&sigmoid_one(margin)), "{margin}");
        }
        assert_eq!(sigmoid_one(0.0), 0.5);
        assert!(sigmoid_one(f32::NAN).is_nan());
    }

    #[test]
    fn logloss_is_stable_far_from_0() {
        assert_eq!(logloss_one(1e4, 1.0), 0.0);
        assert_eq!(logloss_one(-1e4, 1.0), 1e4);
        assert!((logloss_one(0.0, 1.0) - std::f32::consts::LN_2).abs() < 1e-7);
    }
}
