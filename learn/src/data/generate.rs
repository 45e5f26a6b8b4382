//! Made-up rows in the shape of Criteo's, for runs without data.
//!
//! Owns the generator `gen:criteo`: each row is a function of the seed and the row's number, so any
//! row can be made by any thread. The label is drawn from a hidden logistic model over the keys,
//! so that learning shows; the model does not depend on the seed.
//!
//! Invariant: equal settings and row numbers give equal rows.

use std::sync::Arc;

use super::csr::Builder;
use super::error::DataError;
use super::hash::{hash_word, key_of, mix, namespace_seed};
use super::plan::bucket_key;

/// What the name of a generated input starts with.
pub(crate) const PREFIX: &str = "gen:";

/// Distinct values of the 26 category columns of the Criteo Kaggle data set, as DLRM's
/// preprocessing counts them (Naumov et al., 2019).
const CATEGORIES: [u64; 26] = [
    1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194, 27,
    14_992, 5_461_306, 10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
];
/// Upper ends of the 13 integer columns, of the magnitudes that the same data set has.
const INTEGERS: [u64; 13] =
    [650, 10_000, 2000, 50, 500_000, 20_000, 3000, 100, 10_000, 10, 200, 100, 1000];

/// Chosen so that one row in four is positive, as in the original.
const MODEL_BIAS: f64 = -2.1;
const MODEL_WEIGHT_MAX: f64 = 0.35;
const MODEL_SEED: u64 = 0x6869_6464_656e_2e2e; // "hidden.."
/// Steps a counter to inputs of `mix` that have nothing in common.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const ROWS_DEFAULT: u64 = 1_000_000;
const ROWS_MAX: u64 = 1 << 40;
const ZIPF_DEFAULT: f64 = 1.05;
const ZIPF_MAX: f64 = 4.0;

/// The generator's settings and tables.
#[derive(Clone, Debug)]
pub(crate) struct Criteo {
    pub(crate) rows: u64,
    seed: u64,
    columns: Arc<[Column]>,
}

#[derive(Debug)]
struct Column {
    namespace: u64,
    zipf: Zipf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Integer,
    Category,
}

impl Criteo {
    /// The generator that `input` names: `gen:criteo?rows=N&seed=S&zipf=E`, each setting optional.
    pub(crate) fn parse(input: &str) -> Result<Criteo, DataError> {
        let bad = |message| DataError::Setting { name: "input", message };
        let name = input.strip_prefix(PREFIX).unwrap_or(input);
        let (name, settings) = name.split_once('?').unwrap_or((name, ""));
        if name != "criteo" {
            return Err(bad(format!("expected the generator 'criteo', found '{name}'")));
        }
        let (mut rows, mut seed, mut zipf) = (ROWS_DEFAULT, 0, ZIPF_DEFAULT);
        for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let known = match key {
                "rows" => value.parse().map(|value| rows = value).is_ok(),
                "seed" => value.parse().map(|value| seed = value).is_ok(),
                "zipf" => value.parse().map(|value| zipf = value).is_ok(),
                _ => {
                    return Err(bad(format!("expected rows, seed or zipf, found '{key}'")));
                }
            };
            if !known {
                return Err(bad(format!("{key}: expected a number, found '{value}'")));
            }
        }
        if !(1..=ROWS_MAX).contains(&rows) {
            return Err(bad(format!("rows: expected 1 to {ROWS_MAX}, found {rows}")));
        }
        if !(0.0..=ZIPF_MAX).contains(&zipf) {
            return Err(bad(format!("zipf: expected 0 to {ZIPF_MAX}, found {zipf}")));
        }
        Ok(Criteo { rows, seed: mix(seed), columns: columns(zipf) })
    }

    /// Adds row number `row`.
    pub(crate) fn row(&self, row: u64, builder: &mut Builder) {
        let mut counter = mix(row ^ self.seed);
        let mut draw = || {
            counter = counter.wrapping_add(STEP);
            mix(counter)
        };
        let mut margin = MODEL_BIAS;
        for column in self.columns.iter() {
            let rank = column.zipf.rank(draw());
            let key = match column.kind {
                Kind::Integer => bucket_key(column.namespace, rank as i64),
                Kind::Category => key_of(hash_word(column.namespace, rank)),
            };
            margin += MODEL_WEIGHT_MAX * (2.0 * unit(mix(key ^ MODEL_SEED)) - 1.0);
            builder.one(key);
        }
        let probability = 1.0 / (1.0 + (-margin).exp());
        builder.end_row(f32::from(unit(draw()) < probability), 1.0);
    }
}

fn columns(exponent: f64) -> Arc<[Column]> {
    let column = |(index, &size, kind): (usize, &u64, Kind)| {
        let letter = if matches!(kind, Kind::Integer) { 'i' } else { 'c' };
        let name = format!("{letter}{}", index + 1);
        let zipf = Zipf::new(size, exponent);
        Column { namespace: namespace_seed(name.as_bytes()), zipf, kind }
    };
    let integers = INTEGERS.iter().enumerate().map(|(index, size)| (index, size, Kind::Integer));
    let categories =
        CATEGORIES.iter().enumerate().map(|(index, size)| (index, size, Kind::Category));
    integers.chain(categories).map(column).collect()
}

/// A number in [0, 1).
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Draws ranks from 0 whose weight is `1 / (rank + 1)^exponent`.
///
/// Ranks are put into spans that grow with them, 16 an octave, even inside; which span is drawn by
/// Walker's alias method (1974). So one draw costs the same for ten ranks and ten million.
#[derive(Debug)]
struct Zipf {
    spans: Vec<RankSpan>,
}

#[derive(Clone, Debug)]
struct RankSpan {
    first: u64,
    size: u64,
    /// Of 2^32 draws of this span, as many stay; the others go to `alias`.
    stays: u64,
    alias: usize,
}

const SPANS_PER_OCTAVE: u64 = 16;

impl Zipf {
    fn new(ranks: u64, exponent: f64) -> Zipf {
        let (mut spans, mut weights, mut first) = (Vec::new(), Vec::new(), 0u64);
        while first < ranks {
            let octave = (first + 1).ilog2();
            let size = ((1u64 << octave) / SPANS_PER_OCTAVE).clamp(1, ranks - first);
            let middle = first as f64 + (size as f64 + 1.0) / 2.0;
            weights.push(size as f64 * middle.powf(-exponent));
            spans.push(RankSpan { first, size, stays: 0, alias: 0 });
            first += size;
        }
        fill_aliases(&mut spans, &weights);
        Zipf { spans }
    }

    #[inline]
    fn rank(&self, bits: u64) -> u64 {
        let (high, low) = (bits >> 32, bits & u64::from(u32::MAX));
        let scaled = high * self.spans.len() as u64;
        let drawn = &self.spans[(scaled >> 32) as usize];
        let stays = scaled & u64::from(u32::MAX) < drawn.stays;
        let span = if stays { drawn } else { &self.spans[drawn.alias] };
        span.first + ((low * span.size) >> 32)
    }
}

/// Vose's way to build the aliases (1991).
fn fill_aliases(spans: &mut [RankSpan], weights: &[f64]) {
    const WHOLE: f64 = (1u64 << 32) as f64;
    let total: f64 = weights.iter().sum();
    let mut shares: Vec<f64> =
        weights.iter().map(|weight| weight / total * weights.len() as f64).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..shares.len()).partition(|&index| shares[index] < 1.0);
    while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
        spans[less].stays = (shares[less] * WHOLE) as u64;
        spans[less].alias = more;
        shares[more] -= 1.0 - shares[less];
        small.pop();
        if shares[more] < 1.0 {
            small.push(more);
            large.pop();
        }
    }
    for index in small.into_iter().chain(large) {
        spans[index].stays = WHOLE as u64;
        spans[index].alias = index;
    }
}

#[cfg(test)]
mod tests {
    use super::super::csr::{Csr, Intercept, Place};
    use super::*;

    fn batch(generator: &Criteo, rows: std::ops::Range<u64>) -> Csr {
        let mut builder = Builder::new(Intercept::None);
        builder.start(Csr::default(), Place::default());
        rows.for_each(|row| generator.row(row, &mut builder));
        builder.finish()
    }

    #[test]
    fn a_row_is_the_same_wherever_it_is_made_and_another_under_another_seed() {
        let generator = Criteo::parse("gen:criteo?rows=100&seed=7").unwrap();
        let (all, one) = (batch(&generator, 0..10), batch(&generator, 9..10));
        let keys = |csr: &Csr, row| -> Vec<u64> {
            csr.columns[csr.row(row)].iter().map(|&column| csr.keys[column as usize]).collect()
        };
        assert_eq!(keys(&all, 9), keys(&one, 0));
        assert_eq!((one.columns.len(), all.labels[9]), (39, one.labels[0]));
        let other = Criteo::parse("gen:criteo?rows=100&seed=8").unwrap();
        assert_ne!(keys(&batch(&other, 9..10), 0), keys(&one, 0));
    }

    #[test]
    fn about_one_row_in_four_is_positive() {
        let csr = batch(&Criteo::parse("gen:criteo").unwrap(), 0..20_000);
        let positive = csr.labels.iter().sum::<f32>() / csr.rows() as f32;
        assert!((0.2..0.3).contains(&positive), "{positive}");
    }

    #[test]
    fn ranks_have_the_weights_of_their_exponent() {
        const RANKS: u64 = 1000;
        const DRAWS: u64 = 1 << 20;
        let zipf = Zipf::new(RANKS, 1.0);
        let mut counts = vec![0u64; RANKS as usize];
        (0..DRAWS).for_each(|draw| counts[zipf.rank(mix(draw)) as usize] += 1);
        let total: f64 = (1..=RANKS).map(|rank| 1.0 / rank as f64).sum();
        for rank in [0, 1, 9, 99] {
            let expected = DRAWS as f64 / total / (rank + 1) as f64;
            let off = counts[rank] as f64 / expected - 1.0;
            assert!(off.abs() < 0.1, "rank {rank}: {} of {expected}", counts[rank]);
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let message = |input| Criteo::parse(input).unwrap_err().to_string();
        assert_eq!(message("gen:avazu"), "input: expected the generator 'criteo', found 'avazu'");
        assert_eq!(message("gen:criteo?row=1"), "input: expected rows, seed or zipf, found 'row'");
        assert_eq!(message("gen:criteo?rows=x"), "input: rows: expected a number, found 'x'");
        assert_eq!(
            message("gen:criteo?rows=0"),
            "input: rows: expected 1 to 1099511627776, found 0"
        );
        assert_eq!(message("gen:criteo?zipf=-1"), "input: zipf: expected 0 to 4, found -1");
    }
}
