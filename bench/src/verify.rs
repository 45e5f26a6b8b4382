//! Whether the work was done: rows must hold what their pushes make of them, bit by bit; where a
//! rule rounds by chance, nearly.
//!
//! Owns the count of pushes and the expected row. An empty handler would be fast.
//!
//! Invariant: a push is counted where it is posted, and the session posts it exactly once.

use kernels::Isa;
use kernels::codec::{Rounding, decode_values, encode_values, encoded_values_bytes_max};
use shard::rule::{Rows, Rule};
use worker::ValueCodec;

use crate::keys::KeySet;
use crate::spec::Optimizer;

/// What every push adds: the same for all keys, so that a row follows from its count alone. A
/// number that every codec but float8 keeps: 255 steps of 1, or 15 of 17, and of 8 bits itself.
pub(crate) const GRADIENT: f32 = 255.0;

/// How often each batch was pushed.
#[derive(Debug)]
pub(crate) struct Tally {
    batches: Vec<u64>,
    singles: Vec<u64>,
}

impl Tally {
    /// - `singles`: keys that are pushed one by one.
    pub(crate) fn new(batches: usize, singles: usize) -> Tally {
        Tally { batches: vec![0; batches], singles: vec![0; singles] }
    }

    pub(crate) fn batch(&mut self, number: usize) {
        self.batches[number] += 1;
    }

    pub(crate) fn single(&mut self, number: usize) {
        self.singles[number] += 1;
    }

    /// How often this key was pushed, since its row was created by its first push.
    pub(crate) fn pushes_of(&self, key: u64, keys: &KeySet, singles: &[u64]) -> u64 {
        let batches = self.batches.iter().zip(&keys.batches);
        let in_batches = batches
            .filter(|&(&count, batch)| count > 0 && batch.binary_search(&key).is_ok())
            .map(|(&count, _)| count);
        let alone = self.singles.iter().zip(singles).filter(|&(_, &one)| one == key);
        1 + in_batches.sum::<u64>() + alone.map(|(&count, _)| count).sum::<u64>()
    }
}

/// How near a row must be to what its pushes make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// The same bits.
    Bits,
    /// Within [`QUARTER`]: the rule rounds by chance.
    Quarter,
    /// Within [`SIXTEENTH`]: pushes are rounded by chance.
    Sixteenth,
}

/// Six standard deviations of what chance makes of a value under `ftrl-compact`: its sum of squares
/// strays by 7.5 %, so rates and weights by half that.
const QUARTER: f32 = 0.25;

/// What float8 may make of a value by chance, as a share of it: two steps of five bits.
const SIXTEENTH: f32 = 1.0 / 16.0;

impl Agreement {
    /// What rows under this rule, from pushes by this codec, can be asked for.
    pub(crate) fn of(optimizer: Optimizer, push_codec: ValueCodec) -> Agreement {
        match (optimizer, push_codec) {
            (Optimizer::FtrlCompact, _) => Agreement::Quarter,
            (_, ValueCodec::Float8) => Agreement::Sixteenth,
            _ => Agreement::Bits,
        }
    }

    pub(crate) fn holds(self, found: f32, expected: f32) -> bool {
        let share = match self {
            Agreement::Bits => return found.to_bits() == expected.to_bits(),
            Agreement::Quarter => QUARTER,
            Agreement::Sixteenth => SIXTEENTH,
        };
        let is_near = (found - expected).abs() <= share * expected.abs();
        is_near || found.to_bits() == expected.to_bits()
    }

    /// How rows were checked, for people.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Agreement::Bits => "bit by bit",
            Agreement::Quarter => "within a quarter",
            Agreement::Sixteenth => "within a sixteenth",
        }
    }
}

/// The values of a row after so many pushes, by the rule on a row of its own.
pub(crate) fn expected_values(rule: &dyn Rule, dim: usize, pushes: u64) -> Vec<f32> {
    let (isa, widths) = (Isa::detect(), rule.widths(dim));
    let (mut row, deltas) = (vec![0.0; widths.row], vec![GRADIENT; widths.delta]);
    let stride = widths.row;
    for push in 0..pushes {
        let rows = Rows { floats: &mut row[..], stride, dim };
        rule.apply_seeded(isa, rows, &[0], &deltas, push);
    }
    let mut values = vec![0.0; widths.value];
    rule.read(isa, Rows { floats: &row[..], stride, dim }, &[0], &mut values);
    values
}

/// A row's values as a pull by this codec returns them: rounded to the nearest that it can say.
///
/// - `dim`: values of one column.
pub(crate) fn as_pulled(codec: ValueCodec, dim: usize, values: &[f32]) -> Vec<f32> {
    let isa = Isa::detect();
    let (mut pulled, mut bytes) = (vec![0.0; values.len()], Vec::new());
    for (column, pulled) in values.chunks(dim).zip(pulled.chunks_mut(dim)) {
        bytes.resize(encoded_values_bytes_max(codec, column.len()), 0);
        encode_values(isa, codec, column, Rounding::Nearest, &mut bytes);
        decode_values(isa, codec, &bytes, pulled).expect("it was just encoded");
    }
    pulled
}

#[cfg(test)]
mod tests {
    use shard::rule::{Sgd, Sum};

    use super::*;
    use crate::spec::PushPullSpec;

    #[test]
    fn a_row_under_sgd_is_minus_rate_times_its_pushes() {
        let values = expected_values(&Sgd { rate: 0.25 }, 3, 10);
        assert_eq!(values, vec![-2.5 * GRADIENT; 3]);
        assert_eq!(expected_values(&Sum, 2, 7), vec![7.0 * GRADIENT; 2]);
    }

    #[test]
    fn a_value_that_lacks_its_pushes_agrees_in_no_way() {
        for optimizer in [Optimizer::Sgd, Optimizer::FtrlCompact] {
            let agreement = Agreement::of(optimizer, ValueCodec::F32);
            assert!(agreement.holds(-0.5, -0.5) && !agreement.holds(0.0, -0.5));
            assert!(!agreement.holds(f32::NAN, -0.5) && agreement.holds(0.0, 0.0));
        }
        assert!(!Agreement::Bits.holds(0.501, 0.5) && Agreement::Quarter.holds(0.501, 0.5));
    }

    #[test]
    fn every_codec_that_a_push_may_have_keeps_a_row_of_gradients_as_it_is() {
        for codec in ValueCodec::ALL {
            let kept = as_pulled(codec, 300, &[GRADIENT; 300]);
            let agreement = Agreement::of(Optimizer::Sgd, codec);
            let holds = kept.iter().all(|&kept| agreement.holds(kept, GRADIENT));
            assert!(holds, "{codec}: {kept:?}");
        }
        assert!(!Agreement::of(Optimizer::Sgd, ValueCodec::Int8).holds(10.001, 10.0));
        assert!(!Agreement::of(Optimizer::Sgd, ValueCodec::Float8).holds(11.0, 10.0));
        assert_eq!(as_pulled(ValueCodec::Bf16, 2, &[1.001, 2.0]), [1.0, 2.0]);
    }

    #[test]
    fn a_push_counts_for_the_keys_of_its_batch_and_no_other() {
        let spec =
            PushPullSpec { keys_per_request: 10, resident_keys: 100, ..PushPullSpec::default() };
        let keys = KeySet::draw(&spec);
        let singles = [keys.batches[0][0]];
        let mut tally = Tally::new(keys.batches.len(), singles.len());
        tally.batch(0);
        tally.batch(0);
        tally.single(0);
        assert_eq!(tally.pushes_of(keys.batches[0][0], &keys, &singles), 4);
        assert_eq!(tally.pushes_of(keys.batches[0][1], &keys, &singles), 3);
        assert_eq!(tally.pushes_of(keys.batches[1][0], &keys, &singles), 1);
    }
}
