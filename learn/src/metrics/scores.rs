//! A histogram of margins by label, for the AUC.
//!
//! Owns the bins and their compact form on the wire. Losses are left to `loss`.
//!
//! A bin is a range of floats that share sign, exponent and the first bits of their fraction: 512
//! an octave. So the resolution is relative, and a model whose margins all lie near zero is seen
//! as sharply as one whose margins spread.
//!
//! Invariant: a greater margin is in no lower bin.

use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Margins nearer to zero than 2^-20 count as zero, and those from 2^6 on as one.
const EXPONENT_MIN: u32 = 127 - 20;
const EXPONENT_END: u32 = 127 + 6;
const FRACTION_BITS: u32 = 9;
/// Bins of one sign: one for zero, then the octaves.
const SIDE: usize = 1 + ((EXPONENT_END - EXPONENT_MIN) as usize) * (1 << FRACTION_BITS);
/// Count of bins.
pub const BINS: usize = 2 * SIDE;

/// Weights of labels 0 and 1 by margin.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreHistogram {
    /// `[BINS]`: weight of label 0, weight of label 1.
    bins: Vec<[f64; 2]>,
}

impl Default for ScoreHistogram {
    fn default() -> ScoreHistogram {
        ScoreHistogram { bins: vec![[0.0; 2]; BINS] }
    }
}

impl ScoreHistogram {
    /// Adds one margin with its label, 0.0 or 1.0, and weight. NaN counts as the least margin.
    #[inline]
    pub fn add(&mut self, margin: f32, label: f32, weight: f32) {
        self.bins[bin_of(margin)][usize::from(label > 0.5)] += f64::from(weight);
    }

    /// Adds margins with their labels, all of weight 1.
    pub fn add_all(&mut self, margins: &[f32], labels: &[f32]) {
        for (&margin, &label) in margins.iter().zip(labels) {
            self.add(margin, label, 1.0);
        }
    }

    /// Adds the weights of `other`.
    pub fn merge(&mut self, other: &ScoreHistogram) {
        for (bin, other) in self.bins.iter_mut().zip(&other.bins) {
            bin[0] += other[0];
            bin[1] += other[1];
        }
    }

    /// Area under the ROC curve; margins in one bin count as ties. NaN without both labels.
    pub fn auc(&self) -> f64 {
        let (mut negative, mut positive, mut area) = (0.0, 0.0, 0.0);
        for [zeros, ones] in &self.bins {
            area += ones * (negative + zeros / 2.0);
            negative += zeros;
            positive += ones;
        }
        area / (negative * positive)
    }
}

/// The bin of `margin`: the lowest for NaN.
#[inline]
fn bin_of(margin: f32) -> usize {
    const SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - FRACTION_BITS;
    const FIRST: u32 = EXPONENT_MIN << FRACTION_BITS;
    let magnitude = (margin.to_bits() & !(1 << 31)) >> SHIFT;
    let step = (magnitude + 1).saturating_sub(FIRST).min(SIDE as u32 - 1) as usize;
    // One comparison that NaN fails too.
    if margin >= 0.0 { SIDE + step } else { SIDE - 1 - step }
}

/// A list of `[bins since the one before, weight of label 0, weight of label 1]`, bins without
/// weight left out. Whole weights are written without a point.
impl Serialize for ScoreHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.bins.iter().enumerate().filter(|(_, bin)| **bin != [0.0; 2]);
        let mut list = serializer.serialize_seq(Some(filled.clone().count()))?;
        let mut before = 0;
        for (index, &[zeros, ones]) in filled {
            list.serialize_element(&(index - before, Weight(zeros), Weight(ones)))?;
            before = index;
        }
        list.end()
    }
}

struct Weight(f64);

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = self.0 as u64;
        if whole as f64 == self.0 {
            serializer.serialize_u64(whole)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for ScoreHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ScoreHistogram, D::Error> {
        deserializer.deserialize_seq(Bins)
    }
}

struct Bins;

impl<'de> Visitor<'de> for Bins {
    type Value = ScoreHistogram;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of steps and weights")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ScoreHistogram, A::Error> {
        let mut histogram = ScoreHistogram::default();
        let mut index = 0usize;
        while let Some((step, zeros, ones)) = list.next_element::<(usize, f64, f64)>()? {
            index = index.saturating_add(step);
            let Some(bin) = histogram.bins.get_mut(index) else {
                let message = format!("expected a bin below {BINS}, found {index}");
                return Err(A::Error::custom(message));
            };
            *bin = [zeros, ones];
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_ascend_with_margins_to_both_ends() {
        let margins = [
            f32::NEG_INFINITY,
            -64.0,
            -63.9,
            -2.0,
            -1.999,
            -1e-6,
            -1e-7,
            0.0,
            1e-6,
            0.5,
            0.501,
            63.9,
            64.0,
            f32::MAX,
        ];
        let bins: Vec<usize> = margins.iter().map(|&margin| bin_of(margin)).collect();
        assert!(bins.is_sorted(), "{bins:?}");
        assert_eq!((bins[0], bin_of(f32::NAN), bins[13]), (0, 0, BINS - 1));
        const { assert!(BINS >= 16_384) };
    }

    #[test]
    fn a_bin_out_of_range_is_refused() {
        let error = serde_json::from_str::<ScoreHistogram>("[[99999,1,1]]").unwrap_err();
        assert!(error.to_string().contains("expected a bin below 26626, found 99999"), "{error}");
    }
}
