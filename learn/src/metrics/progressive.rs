//! The loss as training went: each row's loss before the row was learned from.
//!
//! Owns a curve of bounded length. Computing losses is left to `Metrics`.
//!
//! Invariant: point `i` covers the rows from `i · window_rows` on; there are at most `POINTS_MAX`.

use serde::{Deserialize, Serialize};

use super::{BatchLoss, null_is_nan};

/// Most points of a curve. When they are used up, two become one and each covers twice the rows.
pub const POINTS_MAX: usize = 256;
/// Rows that a point covers at first.
pub const WINDOW_ROWS_MIN: u64 = 1000;

/// A curve of the mean loss over rows seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressiveLoss {
    window_rows: u64,
    points: Vec<Sums>,
    rows: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    rows: u64,
    weight: f64,
    #[serde(deserialize_with = "null_is_nan")]
    loss: f64,
}

/// One point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Rows seen up to the point's end.
    pub rows: u64,
    /// Weighted mean loss of the point's own rows, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Weighted mean loss of all rows up to the point's end, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_so_far: f64,
}

impl Default for ProgressiveLoss {
    fn default() -> ProgressiveLoss {
        ProgressiveLoss { window_rows: WINDOW_ROWS_MIN, points: Vec::new(), rows: 0 }
    }
}

impl ProgressiveLoss {
    /// Adds a batch. It counts for the point in which its first row lies.
    pub fn add(&mut self, batch: BatchLoss) {
        while self.index() >= POINTS_MAX {
            self.halve();
        }
        let index = self.index();
        if self.points.len() <= index {
            self.points.resize(index + 1, Sums::default());
        }
        self.points[index].add(Sums { rows: batch.rows, weight: batch.weight, loss: batch.loss });
        self.rows += batch.rows;
    }

    /// Adds the curve of another worker that ran beside this one, point by point.
    pub fn merge(&mut self, other: &ProgressiveLoss) {
        let mut other = other.clone();
        while self.window_rows < other.window_rows {
            self.halve();
        }
        while other.window_rows < self.window_rows {
            other.halve();
        }
        let points = self.points.len().max(other.points.len());
        self.points.resize(points, Sums::default());
        for (point, other) in self.points.iter_mut().zip(&other.points) {
            point.add(*other);
        }
        self.rows = self.rows.max(other.rows);
    }

    /// The points that hold rows, in order.
    pub fn curve(&self) -> Vec<LossPoint> {
        let mut so_far = Sums::default();
        let filled = self.points.iter().filter(|point| point.rows > 0);
        let point = |point: &Sums| {
            so_far.add(*point);
            let mean = |sums: Sums| sums.loss / sums.weight;
            LossPoint { rows: so_far.rows, loss: mean(*point), loss_so_far: mean(so_far) }
        };
        filled.map(point).collect()
    }

    /// Weighted mean loss of all rows, in nats. NaN without rows.
    pub fn mean(&self) -> f64 {
        self.curve().last().map_or(f64::NAN, |point| point.loss_so_far)
    }

    fn index(&self) -> usize {
        (self.rows / self.window_rows) as usize
    }

    fn halve(&mut self) {
        for index in 0..self.points.len().div_ceil(2) {
            let mut sums = self.points[2 * index];
            sums.add(self.points.get(2 * index + 1).copied().unwrap_or_default());
            self.points[index] = sums;
        }
        self.points.truncate(self.points.len().div_ceil(2));
        self.window_rows = self.window_rows.saturating_mul(2);
    }
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.loss += other.loss;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(batches: u64) -> ProgressiveLoss {
        let mut progressive = ProgressiveLoss::default();
        for batch in 0..batches {
            let loss = if batch < batches / 2 { 700.0 } else { 300.0 };
            progressive.add(BatchLoss { rows: 1000, weight: 1000.0, loss });
        }
        progressive
    }

    #[test]
    fn a_long_run_keeps_its_shape_in_a_bounded_count_of_points() {
        let progressive = run(100_000);
        let curve = progressive.curve();
        assert!((POINTS_MAX / 2..=POINTS_MAX).contains(&curve.len()), "{}", curve.len());
        assert_eq!((curve[0].loss, curve.last().unwrap().loss), (0.7, 0.3));
        assert_eq!(curve.last().unwrap().rows, 100_000_000);
        assert!((progressive.mean() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn workers_of_unequal_length_merge_to_the_sum_of_their_rows() {
        let mut merged = run(10);
        merged.merge(&run(1000));
        assert_eq!(merged.curve().last().unwrap().rows, 1_010_000);
        assert!((merged.mean() - 0.5).abs() < 1e-9);
        let mut other_way = run(1000);
        other_way.merge(&run(10));
        assert_eq!(merged, other_way);
    }

    #[test]
    fn a_batch_of_very_many_rows_does_not_lengthen_the_curve() {
        let mut progressive = run(1);
        progressive.add(BatchLoss { rows: u64::MAX / 2, weight: 1.0, loss: 0.5 });
        progressive.add(BatchLoss { rows: 1, weight: 1.0, loss: 0.5 });
        assert!(progressive.points.len() <= POINTS_MAX);
        assert!(ProgressiveLoss::default().mean().is_nan());
    }
}
