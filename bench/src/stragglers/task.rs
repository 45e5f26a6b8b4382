//! The task that stragglers hold up: logistic regression on rows drawn from known weights.
//!
//! Owns the rows, which follow from their number, and the arithmetic between weights and deltas.
//!
//! Invariant: who computes a batch, and when, changes nothing of its rows.

use kernels::logistic::sigmoid_one;

use crate::random::{Random, mix};

/// Features, and so weights.
pub(super) const FEATURES: u64 = 4096;

/// Features of a row.
const ROW_FEATURES: usize = 16;

/// Rows of a batch.
const BATCH_ROWS: u64 = 128;

/// Rows that the loss is measured on; their numbers lie behind those of all batches.
const TEST_ROWS: u64 = 8192;
const TEST_FIRST: u64 = 1 << 40;

/// Keeps the logarithm finite.
const PROBABILITY_MIN: f32 = 1e-6;

/// A row: its features, ascending, and its label.
struct Row {
    features: Vec<u64>,
    label: f32,
}

/// The features of a batch, ascending.
pub(super) fn keys_of(seed: u64, batch: u64) -> Vec<u64> {
    let mut keys: Vec<u64> = rows(seed, batch).flat_map(|row| row.features).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The mean gradient of a batch.
///
/// - `keys`, `weights`: of the batch, and one weight each.
pub(super) fn gradient(seed: u64, batch: u64, keys: &[u64], weights: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0; keys.len()];
    for row in rows(seed, batch) {
        let places: Vec<usize> =
            row.features.iter().filter_map(|key| keys.binary_search(key).ok()).collect();
        let margin: f32 = places.iter().map(|&place| weights[place]).sum();
        let error = (sigmoid_one(margin) - row.label) / BATCH_ROWS as f32;
        places.iter().for_each(|&place| sums[place] += error);
    }
    sums
}

/// The mean log loss over rows that nobody learns from.
///
/// - `weights`: one a feature.
pub(super) fn loss(seed: u64, weights: &[f32]) -> f64 {
    let losses = (TEST_FIRST..TEST_FIRST + TEST_ROWS).map(|number| {
        let row = row(seed, number);
        let margin = row.features.iter().map(|&feature| weights[feature as usize]).sum();
        let right = match row.label > 0.5 {
            true => sigmoid_one(margin),
            false => 1.0 - sigmoid_one(margin),
        };
        -f64::from(right.max(PROBABILITY_MIN)).ln()
    });
    losses.sum::<f64>() / TEST_ROWS as f64
}

fn rows(seed: u64, batch: u64) -> impl Iterator<Item = Row> {
    (batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS).map(move |number| row(seed, number))
}

fn row(seed: u64, number: u64) -> Row {
    let mut random = Random::new(mix(seed ^ number));
    // Few features are frequent, as in clicks.
    let feature = |_| (random.unit().powi(3) * FEATURES as f64) as u64;
    let mut features: Vec<u64> = (0..ROW_FEATURES).map(feature).collect();
    features.sort_unstable();
    features.dedup();
    let margin: f32 = features.iter().map(|&feature| true_weight(seed, feature)).sum();
    let label = f32::from(random.unit() < f64::from(sigmoid_one(margin)));
    Row { features, label }
}

/// From -1 to 1.
fn true_weight(seed: u64, feature: u64) -> f32 {
    (Random::new(mix(seed) ^ feature).unit() * 2.0 - 1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_along_the_gradient_lower_the_loss_towards_that_of_the_true_weights() {
        let mut weights = vec![0.0; FEATURES as usize];
        let (untrained, seed) = (loss(1, &weights), 1);
        for batch in 0..200 {
            let keys = keys_of(seed, batch);
            let known: Vec<f32> = keys.iter().map(|&key| weights[key as usize]).collect();
            for (key, delta) in keys.iter().zip(gradient(seed, batch, &keys, &known)) {
                weights[*key as usize] -= 20.0 * delta;
            }
        }
        let truth: Vec<f32> = (0..FEATURES).map(|feature| true_weight(seed, feature)).collect();
        let (trained, best) = (loss(seed, &weights), loss(seed, &truth));
        assert!(best < trained && trained < untrained, "{best} {trained} {untrained}");
    }
}
