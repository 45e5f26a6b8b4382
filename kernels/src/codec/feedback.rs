//! Error feedback: what an encoding lost is added to what is sent next.
//!
//! Owns one step on residuals that the caller keeps. Which key a residual belongs to, and for how
//! long it is kept, is left to the caller.
//!
//! Invariant: after a step, `residual + sent` is what `residual + delta` was before, but for the
//! rounding of those two additions; so what was sent in all never strays from what was given in all
//! by more than one residual.
//!
//! Source: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019.

use super::Damaged;
use super::draw::Rounding;
use super::values::{
    VALUES_BLOCK, ValueCodec, decode_values, encode_values, encoded_values_bytes_max,
};
use crate::isa::{Isa, Portable};

/// Encodes `residual + delta`, and leaves in `residual` what the bytes do not say of it.
///
/// - `delta`, `residual`: the same length: of one column, the values of this push and what those
///   before it left. A residual that is no finite number afterwards, because a value was none,
///   becomes 0: its loss is told by what was sent, and not again each time.
/// - `rounding`: [`Rounding::Nearest`] leaves the smallest residuals.
/// - `out`, result and panics: as [`encode_values`], and if the lengths differ.
pub fn encode_with_feedback(
    isa: Isa,
    codec: ValueCodec,
    delta: &[f32],
    residual: &mut [f32],
    rounding: Rounding,
    out: &mut [u8],
) -> usize {
    assert_eq!(delta.len(), residual.len(), "values against their residuals");
    isa.run(Add { delta, residual });
    let bytes = encode_values(isa, codec, residual, rounding, out);
    keep_lost(isa, codec, &out[..bytes], residual).expect("bytes that were just encoded");
    bytes
}

/// Takes from `residual` what the bytes say of it, block by block.
fn keep_lost(
    isa: Isa,
    codec: ValueCodec,
    bytes: &[u8],
    residual: &mut [f32],
) -> Result<(), Damaged> {
    let mut sent = [0.0; VALUES_BLOCK];
    let mut rest = bytes;
    for residual in residual.chunks_mut(VALUES_BLOCK) {
        let (bytes, after) = rest.split_at(encoded_values_bytes_max(codec, residual.len()));
        let sent = &mut sent[..residual.len()];
        decode_values(isa, codec, bytes, sent)?;
        isa.run(TakeOff { sent, residual });
        rest = after;
    }
    Ok(())
}

struct Add<'a> {
    delta: &'a [f32],
    residual: &'a mut [f32],
}

impl Portable for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        for (residual, delta) in self.residual.iter_mut().zip(self.delta) {
            *residual += delta;
        }
    }
}

struct TakeOff<'a> {
    sent: &'a [f32],
    residual: &'a mut [f32],
}

impl Portable for TakeOff<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        for (residual, sent) in self.residual.iter_mut().zip(self.sent) {
            let lost = *residual - sent;
            *residual = if lost.is_finite() { lost } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{bits, floats};

    const COUNT: usize = 300;
    const STEPS: u64 = 1000;

    /// Gives `STEPS` deltas; returns what was given and sent in all, and the largest residual.
    fn run(codec: ValueCodec, rounding: fn(u64) -> Rounding) -> (Vec<f64>, Vec<f64>, f64) {
        let (mut given, mut sent) = (vec![0.0; COUNT], vec![0.0; COUNT]);
        let mut residual = vec![0.0; COUNT];
        let mut most: f64 = 0.0;
        for step in 0..STEPS {
            // Of every magnitude, most below the step of the block's largest.
            let delta: Vec<f32> = floats(step, COUNT).iter().map(|v| v.clamp(-2.0, 2.0)).collect();
            let mut bytes = vec![0; encoded_values_bytes_max(codec, COUNT)];
            let mut decoded = vec![0.0; COUNT];
            let isa = Isa::detect();
            encode_with_feedback(isa, codec, &delta, &mut residual, rounding(step), &mut bytes);
            decode_values(isa, codec, &bytes, &mut decoded).expect("own bytes");
            for index in 0..COUNT {
                given[index] += f64::from(delta[index]);
                sent[index] += f64::from(decoded[index]);
                most = most.max(f64::from(residual[index].abs()));
            }
        }
        (given, sent, most)
    }

    #[test]
    fn what_was_sent_in_a_thousand_steps_is_what_was_given_but_for_one_step_of_a_block() {
        // The largest number that is encoded is a delta of 2 and a residual.
        for (codec, step) in [
            (ValueCodec::F32, 0.0),
            (ValueCodec::Bf16, 2.1 / 128.0),
            (ValueCodec::F16, 2.1 / 1024.0),
            (ValueCodec::Int8, 2.1 / 127.0),
            (ValueCodec::Int4, 2.4 / 7.0),
            (ValueCodec::Float8, 2.2 / 8.0),
            (ValueCodec::Float4, 4.0),
        ] {
            for rounding in [|_| Rounding::Nearest, |seed| Rounding::Stochastic { seed }] {
                let (given, sent, most) = run(codec, rounding);
                assert!(most <= step, "{codec}: a residual of {most}, step {step}");
                for (given, sent) in given.iter().zip(sent) {
                    // Additions round to 2^-24 of numbers near 1.
                    let rounding = STEPS as f64 * 2.0_f64.powi(-23);
                    assert!((given - sent).abs() <= step + rounding, "{codec}: {given} {sent}");
                }
            }
        }
    }

    #[test]
    fn one_bit_a_value_keeps_the_sums_too() {
        let (given, sent, most) = run(ValueCodec::OneBit, |_| Rounding::Nearest);
        let errors = given.iter().zip(&sent).map(|(given, sent)| (given - sent).abs());
        let worst = errors.fold(0.0, f64::max);
        // A thousand deltas of up to 2 went by; without feedback the sums differ by hundreds.
        assert!(most < 20.0 && worst < 20.0, "residuals to {most}, sums off by {worst}");
    }

    #[test]
    fn every_level_leaves_the_same_residuals() {
        for codec in ValueCodec::ALL {
            let mut expected = None;
            for isa in Isa::available() {
                let mut residual = floats(1, COUNT);
                let mut bytes = vec![0; encoded_values_bytes_max(codec, COUNT)];
                let (delta, rounding) = (floats(2, COUNT), Rounding::Stochastic { seed: 3 });
                encode_with_feedback(isa, codec, &delta, &mut residual, rounding, &mut bytes);
                let got = (bytes, bits(&residual));
                assert_eq!(expected.get_or_insert_with(|| got.clone()), &got, "{codec}");
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_leaves_no_residual() {
        for codec in ValueCodec::ALL {
            let mut residual = [1.0, 1.0, 1.0];
            let delta = [f32::NAN, f32::INFINITY, 0.0];
            let mut bytes = vec![0; encoded_values_bytes_max(codec, 3)];
            let isa = Isa::detect();
            encode_with_feedback(isa, codec, &delta, &mut residual, Rounding::Nearest, &mut bytes);
            assert_eq!(residual[..2], [0.0, 0.0], "{codec}");
        }
    }
}
