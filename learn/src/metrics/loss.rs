//! The logarithmic loss of margins.
//!
//! Owns its arithmetic, for one row and for slices. Weights and means are left to `Metrics`.
//!
//! Invariant: slices give what their rows give, to 1e-9 of the sum.

/// Sums over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Loss {
    /// Of losses, in nats.
    pub(super) loss: f64,
    /// Of predicted probabilities.
    pub(super) predicted: f64,
    /// Of labels.
    pub(super) positive: f64,
}

/// Rows whose factors are multiplied before one logarithm is taken: each is at most 2.
const LANES: usize = 16;

/// The loss of one row.
pub(super) fn row_loss(margin: f32, label: f32) -> Loss {
    let (linear, factor, predicted) = parts(margin, label);
    Loss { loss: linear + factor.ln(), predicted, positive: f64::from(label) }
}

/// The summed losses of rows. The slices are of one length.
pub(super) fn sum(margins: &[f32], labels: &[f32]) -> Loss {
    let mut total = Loss::default();
    let (margins, margins_rest) = margins.as_chunks::<LANES>();
    let (labels, labels_rest) = labels.as_chunks::<LANES>();
    for (margins, labels) in margins.iter().zip(labels) {
        let mut linear = [0.0; LANES];
        let mut factors = [0.0; LANES];
        let mut predicted = [0.0; LANES];
        for lane in 0..LANES {
            (linear[lane], factors[lane], predicted[lane]) = parts(margins[lane], labels[lane]);
        }
        total.loss += linear.iter().sum::<f64>() + factors.iter().product::<f64>().ln();
        total.predicted += predicted.iter().sum::<f64>();
        total.positive += f64::from(labels.iter().sum::<f32>());
    }
    for (&margin, &label) in margins_rest.iter().zip(labels_rest) {
        let row = row_loss(margin, label);
        total.loss += row.loss;
        total.predicted += row.predicted;
        total.positive += row.positive;
    }
    total
}

/// The loss `ln(1 + e^m) - label · m` as `linear + ln(factor)`, with `factor` in [1, 2], and the
/// predicted probability.
#[inline(always)]
fn parts(margin: f32, label: f32) -> (f64, f64, f64) {
    let margin = f64::from(margin);
    let tail = exp_of_negative(-margin.abs());
    let factor = 1.0 + tail;
    let share = 1.0 / factor;
    let predicted = if margin > 0.0 { share } else { tail * share };
    // As a choice and not as `max(m, 0) - label · m`, which is NaN for an infinite margin.
    let wrong = if label == 0.0 { margin } else { -margin };
    let linear = if wrong < 0.0 { 0.0 } else { wrong };
    (linear, factor, predicted)
}

/// e^`x` for `x` up to 0, to 1e-10 of itself; NaN for NaN. Without calls and branches, so that
/// the compiler takes several rows at a time.
#[inline(always)]
fn exp_of_negative(x: f64) -> f64 {
    /// Below this the result is 0 to all purposes, and its exponent would leave f64.
    const LEAST: f64 = -700.0;
    /// 1.5 · 2^52: added to a small number, it leaves the nearest whole one in the lowest bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    const EXPONENT_BIAS: u64 = 1023;
    const MANTISSA_BITS: u32 = 52;
    let clamped = if x < LEAST { LEAST } else { x };
    let rounded = clamped * std::f64::consts::LOG2_E + ROUNDER;
    let power = rounded - ROUNDER;
    let r = clamped - power * std::f64::consts::LN_2; // Within half of ln 2 of 0.
    // Taylor's series to the ninth power: the tenth is 0.35^10 / 10! = 8e-12.
    const TERMS: [f64; 9] = [
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let mut series = 1.0 / 362_880.0;
    for term in TERMS {
        series = series * r + term;
    }
    let exponent = rounded.to_bits().wrapping_add(EXPONENT_BIAS) << MANTISSA_BITS;
    series * f64::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_near_the_librarys() {
        for step in 0..70_000 {
            let x = -f64::from(step) / 100.0;
            let off = exp_of_negative(x) / x.exp() - 1.0;
            assert!(off.abs() < 1e-10, "{x}: {off}");
        }
        assert!(exp_of_negative(-1e30) < 1e-300 && exp_of_negative(f64::NAN).is_nan());
    }
}
