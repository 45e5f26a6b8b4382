//! How good predictions are: logarithmic loss, AUC, calibration, and the loss as it went.
//!
//! Owns sums over predictions that can be added up across threads and processes, which send them
//! as JSON. Making predictions is left to the learners.
//!
//! Invariant: merging sums of two halves gives the sums of the whole, up to rounding.

mod loss;
mod progressive;
mod scores;

use serde::{Deserialize, Deserializer, Serialize};

pub use progressive::{LossPoint, POINTS_MAX, ProgressiveLoss, WINDOW_ROWS_MIN};
pub use scores::{BINS, ScoreHistogram};

use loss::{Loss, row_loss};

/// Sums over predictions and their labels.
///
/// A prediction is a margin: the log of the odds that the label is 1. A diverged model's margin,
/// infinite or NaN, makes the loss infinite or NaN: it is not hidden.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    rows: u64,
    weight: f64,
    weight_positive: f64,
    #[serde(deserialize_with = "null_is_nan")]
    loss: f64,
    #[serde(deserialize_with = "null_is_nan")]
    predicted: f64,
    scores: ScoreHistogram,
}

/// Words of [`Metrics::to_words`].
pub(crate) const METRICS_WORDS: usize = 5;

impl Metrics {
    /// The sums as words; [`Metrics::from_words`] reads them. The histogram of scores stays behind.
    pub(crate) fn to_words(&self) -> [u64; METRICS_WORDS] {
        let sums = [self.weight, self.weight_positive, self.loss, self.predicted];
        let [weight, positive, loss, predicted] = sums.map(f64::to_bits);
        [self.rows, weight, positive, loss, predicted]
    }

    /// The sums that [`Metrics::to_words`] wrote; the AUC is of what is added from here on.
    pub(crate) fn from_words(words: &[u64; METRICS_WORDS]) -> Metrics {
        let [rows, sums @ ..] = *words;
        let [weight, weight_positive, loss, predicted] = sums.map(f64::from_bits);
        let scores = ScoreHistogram::default();
        Metrics { rows, weight, weight_positive, loss, predicted, scores }
    }

    /// The same without the histogram of scores, which is long: all that a mean asks for. Its AUC
    /// is that of no prediction.
    #[must_use]
    pub fn without_scores(&self) -> Metrics {
        Metrics::from_words(&self.to_words())
    }

    /// Adds one prediction.
    ///
    /// - `margin`: log-odds. `label`: 0.0 or 1.0; NaN, for a row without label, adds nothing.
    /// - `weight`: the example's importance, above 0.
    /// - Returns what it added.
    pub fn add(&mut self, margin: f32, label: f32, weight: f32) -> BatchLoss {
        if label.is_nan() {
            return BatchLoss::default();
        }
        self.scores.add(margin, label, weight);
        let weight = f64::from(weight);
        let Loss { loss, predicted, positive } = row_loss(margin, label);
        let batch = BatchLoss { rows: 1, weight, loss: weight * loss };
        self.add_sums(batch, weight * positive, weight * predicted);
        batch
    }

    /// Adds many predictions: the same as `add` for each.
    ///
    /// - `margins`, `labels`: `[rows]`, as `add` takes them.
    /// - `importance`: `[rows]` weights above 0, or empty when all are 1.0.
    /// - Returns the sum of the weighted losses and of the weights, for a `ProgressiveLoss`.
    /// - Panics: if the lengths differ.
    pub fn add_batch(&mut self, margins: &[f32], labels: &[f32], importance: &[f32]) -> BatchLoss {
        assert_eq!(margins.len(), labels.len(), "one margin a label");
        assert!(importance.is_empty() || importance.len() == labels.len(), "one weight a label");
        let unweighted = importance.is_empty() && !labels.iter().any(|label| label.is_nan());
        if !unweighted {
            let weight = |row: usize| importance.get(row).copied().unwrap_or(1.0);
            let rows = margins.iter().zip(labels).enumerate();
            let mut batch = BatchLoss::default();
            for (row, (&margin, &label)) in rows {
                batch.add(self.add(margin, label, weight(row)));
            }
            return batch;
        }
        let Loss { loss, predicted, positive } = loss::sum(margins, labels);
        let batch = BatchLoss { rows: labels.len() as u64, weight: labels.len() as f64, loss };
        self.add_sums(batch, positive, predicted);
        self.scores.add_all(margins, labels);
        batch
    }

    /// Adds the sums of `other`.
    pub fn merge(&mut self, other: &Metrics) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.weight_positive += other.weight_positive;
        self.loss += other.loss;
        self.predicted += other.predicted;
        self.scores.merge(&other.scores);
    }

    /// What has been added so far, for a [`ProgressiveLoss`] that takes differences.
    pub fn sums(&self) -> BatchLoss {
        BatchLoss { rows: self.rows, weight: self.weight, loss: self.loss }
    }

    /// Count of predictions.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Weighted mean of the logarithmic loss, in nats. NaN without rows.
    pub fn logloss(&self) -> f64 {
        self.loss / self.weight
    }

    /// The logarithmic loss that predicting the mean label for every row would have, in nats: what
    /// a model has to beat. NaN without rows.
    pub fn logloss_of_mean(&self) -> f64 {
        let mean = self.mean_label();
        let term = |share: f64| if share > 0.0 { -share * share.ln() } else { share * 0.0 };
        term(mean) + term(1.0 - mean)
    }

    /// Area under the ROC curve: the chance that a row of label 1 has a greater margin than one of
    /// label 0, ties counted half. NaN without both labels.
    pub fn auc(&self) -> f64 {
        self.scores.auc()
    }

    /// Mean predicted probability over mean label: above 1 the model predicts too much. NaN
    /// without rows, infinite without a label 1.
    pub fn calibration(&self) -> f64 {
        self.predicted / self.weight_positive
    }

    /// Weighted mean of the labels. NaN without rows.
    pub fn mean_label(&self) -> f64 {
        self.weight_positive / self.weight
    }

    /// Weighted mean of the predicted probabilities. NaN without rows.
    pub fn mean_predicted(&self) -> f64 {
        self.predicted / self.weight
    }

    fn add_sums(&mut self, batch: BatchLoss, positive: f64, predicted: f64) {
        self.rows += batch.rows;
        self.weight += batch.weight;
        self.weight_positive += positive;
        self.loss += batch.loss;
        self.predicted += predicted;
    }
}

/// What one batch added to a [`Metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchLoss {
    /// Count of predictions.
    pub rows: u64,
    /// Sum of the weights.
    pub weight: f64,
    /// Sum of weight times loss, in nats.
    pub loss: f64,
}

impl BatchLoss {
    fn add(&mut self, other: BatchLoss) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.loss += other.loss;
    }
}

/// JSON has no NaN and no infinity and writes both as null: this reads null as NaN, so that a
/// diverged model's sums still arrive.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(rows: &[(f32, f32, f32)]) -> Metrics {
        let mut metrics = Metrics::default();
        for &(margin, label, weight) in rows {
            metrics.add(margin, label, weight);
        }
        metrics
    }

    #[test]
    fn loss_auc_and_calibration_of_a_small_case_are_those_of_the_formulas() {
        let metrics =
            filled(&[(2.0, 1.0, 1.0), (-1.0, 0.0, 2.0), (0.5, 0.0, 1.0), (0.0, 1.0, 1.0)]);
        let p = |margin: f64| 1.0 / (1.0 + (-margin).exp());
        let loss = -(p(2.0).ln() + 2.0 * p(1.0).ln() + p(-0.5).ln() + p(0.0).ln()) / 5.0;
        assert!((metrics.logloss() - loss).abs() < 1e-9, "{} {loss}", metrics.logloss());
        assert!((metrics.auc() - (3.0 + 2.0) / 6.0).abs() < 1e-12, "{}", metrics.auc());
        let predicted = p(2.0) + 2.0 * p(-1.0) + p(0.5) + p(0.0);
        assert!((metrics.calibration() - predicted / 2.0).abs() < 1e-7);
        assert_eq!((metrics.rows(), metrics.mean_label()), (4, 0.4));
    }

    #[test]
    fn rows_without_label_add_nothing() {
        let mut metrics = filled(&[(1.0, f32::NAN, 1.0)]);
        let added = metrics.add_batch(&[1.0, 2.0], &[f32::NAN, 1.0], &[]);
        assert_eq!((metrics.rows(), added.rows, added.weight), (1, 1, 1.0));
    }

    #[test]
    fn a_diverged_model_shows_in_its_loss() {
        let loss = |margin| {
            let mut metrics = Metrics::default();
            metrics.add_batch(&[0.0, margin], &[1.0, 0.0], &[]);
            metrics.logloss()
        };
        assert!(loss(f32::NAN).is_nan());
        assert_eq!(loss(f32::INFINITY), f64::INFINITY);
        assert!(loss(f32::MAX) > 1e30 && loss(f32::NEG_INFINITY) < 1.0);
    }

    #[test]
    fn a_diverged_models_sums_still_travel() {
        let mut metrics = Metrics::default();
        let mut progressive = ProgressiveLoss::default();
        progressive.add(metrics.add_batch(&[f32::NAN], &[1.0], &[]));
        progressive.add(metrics.add_batch(&[0.0; 1000], &[1.0; 1000], &[]));
        let json = serde_json::to_string(&(&metrics, &progressive)).unwrap();
        let (metrics, progressive): (Metrics, ProgressiveLoss) =
            serde_json::from_str(&json).unwrap();
        assert!(metrics.logloss().is_nan() && metrics.rows() == 1001);
        assert!(progressive.mean().is_nan());
    }

    #[test]
    fn nothing_added_gives_no_number() {
        let metrics = Metrics::default();
        assert!(metrics.logloss().is_nan() && metrics.auc().is_nan());
        assert!(metrics.logloss_of_mean().is_nan() && metrics.calibration().is_nan());
    }

    #[test]
    fn metrics_travel_through_json_unchanged_and_small() {
        let rows = (0..1000u16).map(|row| (f32::from(row) / 250.0 - 2.0, f32::from(row % 2), 1.0));
        let metrics = filled(&rows.collect::<Vec<_>>());
        let json = serde_json::to_string(&metrics).unwrap();
        assert!(json.len() < 12_000, "{}", json.len());
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
    }

    proptest! {
        #[test]
        fn a_batch_adds_what_its_rows_add_one_by_one_and_halves_merge_to_the_whole(
            rows in prop::collection::vec((-90f32..90.0, prop::bool::ANY), 0..100),
            cut in 0usize..100,
        ) {
            let rows: Vec<(f32, f32)> =
                rows.into_iter().map(|(margin, label)| (margin, f32::from(label))).collect();
            let cut = cut.min(rows.len());
            let (margins, labels): (Vec<f32>, Vec<f32>) = rows.iter().copied().unzip();
            let mut one_by_one = Metrics::default();
            for &(margin, label) in &rows {
                one_by_one.add(margin, label, 1.0);
            }
            let mut halves = Metrics::default();
            halves.add_batch(&margins[..cut], &labels[..cut], &[]);
            let mut second = Metrics::default();
            second.add_batch(&margins[cut..], &labels[cut..], &[]);
            halves.merge(&second);
            prop_assert_eq!(&halves.scores, &one_by_one.scores);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + a.abs());
            prop_assert!(near(halves.loss, one_by_one.loss));
            prop_assert!(near(halves.predicted, one_by_one.predicted));
        }

        #[test]
        fn the_auc_is_that_of_all_pairs_to_one_in_ten_thousand(
            seed: u64, scale in prop::sample::select(vec![1e-3f32, 0.1, 1.0, 3.0]),
        ) {
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1 << 24) as f32
            };
            let mut rows: Vec<(f32, f32, f32)> = (0..2000).map(|_| {
                let margin = (draw() + draw() + draw() - 1.5) * 2.0;
                let label = f32::from(draw() < 1.0 / (1.0 + (-margin).exp()));
                (margin * scale, label, 1.0)
            }).collect();
            let auc = filled(&rows).auc();
            rows.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (mut below, mut pairs, mut positive) = (0.0, 0.0, 0.0);
            for &(_, label, _) in &rows {
                if label == 1.0 { pairs += below; positive += 1.0 } else { below += 1.0 }
            }
            prop_assert!((auc - pairs / (positive * below)).abs() < 1e-4);
        }
    }
}
