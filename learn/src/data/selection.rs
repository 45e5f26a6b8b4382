//! Which rows of a source belong to a pass.
//!
//! Owns the draw for each row: by a hash of its number alone, so that each process, each pass and
//! each count of threads draws alike. Numbering the rows is left to the readers.
//!
//! Invariant: every row is in exactly one of `Part::Train` and `Part::Test` of one holdout.

use super::error::DataError;
use super::hash::mix;
use super::spec::{Part, SourceSpec};

/// The draws for holdout and portion are independent of each other.
const HOLDOUT_SEED: u64 = 0x686f_6c64_6f75_7400; // "holdout"
const PORTION_SEED: u64 = 0x706f_7274_696f_6e00; // "portion"

/// The rule by which rows are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    part: Part,
    holdout: f64,
    portion: f64,
}

impl Selection {
    pub(crate) fn new(spec: &SourceSpec) -> Result<Selection, DataError> {
        for (name, value) in [("holdout", spec.holdout), ("portion", spec.portion)] {
            if !(0.0..=1.0).contains(&value) {
                let message = format!("expected a fraction from 0 to 1, found {value}");
                return Err(DataError::Setting { name, message });
            }
        }
        Ok(Selection { part: spec.part, holdout: spec.holdout, portion: spec.portion })
    }

    /// Whether row number `row` of the source belongs to the pass.
    #[inline]
    pub(crate) fn keeps(&self, row: u64) -> bool {
        let in_part = match self.part {
            Part::All => true,
            Part::Train => draw(HOLDOUT_SEED, row) >= self.holdout,
            Part::Test => draw(HOLDOUT_SEED, row) < self.holdout,
        };
        in_part && (self.portion >= 1.0 || draw(PORTION_SEED, row) < self.portion)
    }
}

/// A number in [0, 1), uniform over rows.
#[inline]
fn draw(seed: u64, row: u64) -> f64 {
    const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS;
    (mix(mix(row ^ seed)) >> (u64::BITS - MANTISSA_BITS)) as f64 / (1u64 << MANTISSA_BITS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(part: Part, holdout: f64, portion: f64) -> Selection {
        let spec = SourceSpec { part, holdout, portion, ..SourceSpec::default() };
        Selection::new(&spec).unwrap()
    }

    #[test]
    fn train_and_test_are_complementary_and_of_the_size_asked_for() {
        let (train, test) = (selection(Part::Train, 0.2, 1.0), selection(Part::Test, 0.2, 1.0));
        assert!((0..100_000).all(|row| train.keeps(row) != test.keeps(row)));
        let held_out = (0..100_000).filter(|&row| test.keeps(row)).count();
        assert!((19_000..21_000).contains(&held_out), "{held_out}");
    }

    #[test]
    fn a_portion_is_drawn_independently_of_the_holdout() {
        let test = selection(Part::Test, 0.5, 0.1);
        let kept = (0..100_000).filter(|&row| test.keeps(row)).count();
        assert!((4_500..5_500).contains(&kept), "{kept}");
    }

    #[test]
    fn the_ends_of_the_range_keep_all_or_nothing() {
        assert!((0..1000).all(|row| selection(Part::Train, 0.0, 1.0).keeps(row)));
        assert!((0..1000).all(|row| selection(Part::Test, 1.0, 1.0).keeps(row)));
        assert!((0..1000).all(|row| !selection(Part::All, 0.1, 0.0).keeps(row)));
    }

    #[test]
    fn a_fraction_outside_the_range_is_refused() {
        let spec = SourceSpec { portion: f64::NAN, ..SourceSpec::default() };
        let error = Selection::new(&spec).unwrap_err();
        assert_eq!(error.to_string(), "portion: expected a fraction from 0 to 1, found NaN");
    }
}
