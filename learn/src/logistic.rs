//! Sparse logistic regression, on any optimizer.
//!
//! Owns the walk through a batch: margins, gradients, and what the optimizer's delta is made of.
//! What the shard does with a delta is left to its rule.
//!
//! Under FTRL and SGD the worker walks row by row and applies each row's step to its own copy of
//! the weights before the next row: gradients of correlated features that are all taken at the
//! same weights overshoot together. The shard gets sums of g and of g², so its rule sees every
//! example. Under every other optimizer the gradient is that of the whole batch. Evidence:
//! `docs/decisions/0004-ftrl-deltas-and-local-steps.md`.

use serde::{Deserialize, Serialize};
use shard::rule::{AdaGrad, Adam, AdamW, Ftrl, FtrlCompact, Momentum, RmsProp, Rule, Sgd};

use crate::data::Csr;
use crate::learner::{Ask, Io, Learner, Table};
use crate::metrics::Metrics;
use kernels::logistic::sigmoid_one;
use worker::WorkerError;

/// How weights are learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "name")]
pub enum Optimizer {
    /// FTRL-Proximal.
    Ftrl {
        /// Scale of the step.
        alpha: f32,
        /// Damps the first steps.
        beta: f32,
        /// Keeps small weights at zero.
        l1: f32,
        /// Pulls weights towards zero.
        l2: f32,
    },
    /// FTRL-Proximal in half the memory.
    #[serde(rename = "ftrl-compact")]
    FtrlCompact {
        /// Scale of the step.
        alpha: f32,
        /// Damps the first steps.
        beta: f32,
        /// Keeps small weights at zero.
        l1: f32,
        /// Pulls weights towards zero.
        l2: f32,
    },
    /// AdaGrad.
    AdaGrad {
        /// Learning rate.
        rate: f32,
    },
    /// RMSProp.
    RmsProp {
        /// Learning rate.
        rate: f32,
        /// Decay of the mean of squared gradients.
        decay: f32,
    },
    /// Adam.
    Adam {
        /// Learning rate.
        rate: f32,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Learning rate.
        rate: f32,
        /// Pulls weights towards zero.
        weight_decay: f32,
    },
    /// Plain gradient descent.
    Sgd {
        /// Learning rate.
        rate: f32,
    },
    /// Gradient descent along a velocity.
    Momentum {
        /// Learning rate.
        rate: f32,
        /// Share of the velocity that the next step keeps.
        momentum: f32,
    },
}

/// Keeps divisors from zero.
const EPSILON: f32 = 1e-8;

impl Optimizer {
    /// The rule that the table gets.
    pub fn rule(&self) -> Box<dyn Rule> {
        match *self {
            Optimizer::Ftrl { alpha, beta, l1, l2 } => Box::new(Ftrl { alpha, beta, l1, l2 }),
            Optimizer::FtrlCompact { alpha, beta, l1, l2 } => {
                Box::new(FtrlCompact(Ftrl { alpha, beta, l1, l2 }))
            }
            Optimizer::AdaGrad { rate } => Box::new(AdaGrad { rate, epsilon: EPSILON }),
            Optimizer::RmsProp { rate, decay } => {
                Box::new(RmsProp { rate, decay, epsilon: EPSILON })
            }
            Optimizer::Adam { rate } => Box::new(adam(rate)),
            Optimizer::AdamW { rate, weight_decay } => {
                Box::new(AdamW { adam: adam(rate), weight_decay })
            }
            Optimizer::Sgd { rate } => Box::new(Sgd { rate }),
            Optimizer::Momentum { rate, momentum } => Box::new(Momentum { rate, momentum }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Optimizer::Ftrl { .. } => "ftrl",
            Optimizer::FtrlCompact { .. } => "ftrl-compact",
            Optimizer::AdaGrad { .. } => "adagrad",
            Optimizer::RmsProp { .. } => "rmsprop",
            Optimizer::Adam { .. } => "adam",
            Optimizer::AdamW { .. } => "adamw",
            Optimizer::Sgd { .. } => "sgd",
            Optimizer::Momentum { .. } => "momentum",
        }
    }
}

/// Adam with the decays of its paper.
fn adam(rate: f32) -> Adam {
    Adam { rate, beta1: 0.9, beta2: 0.999, epsilon: EPSILON }
}

/// Learns one weight a key.
#[derive(Debug)]
pub struct LogisticRegression {
    weights: Table,
    walk: Walk,
    cells: Vec<Cell>,
    margins: Vec<f32>,
}

/// How a batch is walked through.
#[derive(Clone, Copy, Debug)]
enum Walk {
    /// Row by row; each value is `[weight | step]`, each delta `[Σg | Σg²]`.
    Stepping,
    /// Row by row with one step for all keys; each value is `[weight]`, each delta `[Σg]`.
    Constant { step: f32 },
    /// All rows at the same weights; each value is `[weight]`, each delta `[Σg]`.
    Whole,
}

/// What a row reads and writes of one key: together, so that it is one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(16))]
struct Cell {
    weight: f32,
    step: f32,
    sum: f32,
    sum_squares: f32,
}

impl LogisticRegression {
    /// A learner of the weights in `weights`, a table of dim 1 under `optimizer`'s rule.
    pub fn new(weights: Table, optimizer: &Optimizer) -> LogisticRegression {
        let walk = match *optimizer {
            Optimizer::Ftrl { .. } | Optimizer::FtrlCompact { .. } => Walk::Stepping,
            Optimizer::Sgd { rate } => Walk::Constant { step: rate },
            Optimizer::AdaGrad { .. }
            | Optimizer::RmsProp { .. }
            | Optimizer::Adam { .. }
            | Optimizer::AdamW { .. }
            | Optimizer::Momentum { .. } => Walk::Whole,
        };
        LogisticRegression { weights, walk, cells: Vec::new(), margins: Vec::new() }
    }

    fn fill_cells(&mut self, values: &[f32], value_width: usize) {
        let walk = self.walk;
        let cell = |value: &[f32]| {
            let step = match walk {
                Walk::Stepping => value[1],
                Walk::Constant { step } => step,
                Walk::Whole => 0.0,
            };
            Cell { weight: value[0], step, ..Cell::default() }
        };
        self.cells.clear();
        self.cells.extend(values.chunks_exact(value_width).map(cell));
    }

    fn walk(&mut self, batch: &Csr) {
        self.margins.clear();
        for (row, &label) in batch.labels.iter().enumerate() {
            let range = batch.row(row);
            let columns = &batch.columns[range.clone()];
            let importance = batch.importance.get(row).copied().unwrap_or(1.0);
            let margin = if batch.values.is_empty() {
                walk_ones(&mut self.cells, columns, label, importance)
            } else {
                let values = &batch.values[range];
                walk_values(&mut self.cells, columns, values, label, importance)
            };
            self.margins.push(margin);
        }
    }
}

impl Learner for LogisticRegression {
    type Batch = Csr;

    fn wants(&self, batch: &Csr, ask: &mut Ask<'_>) -> Result<(), WorkerError> {
        ask.keys(self.weights, &batch.keys)
    }

    fn step(&mut self, batch: &Csr, io: &mut Io<'_>) {
        let weights = self.weights;
        self.fill_cells(io.open(weights).0, weights.widths().value);
        self.walk(batch);
        let (_, deltas) = io.open(weights);
        if let Walk::Stepping = self.walk {
            for (cell, delta) in self.cells.iter().zip(deltas.chunks_exact_mut(2)) {
                delta.copy_from_slice(&[cell.sum, cell.sum_squares]);
            }
        } else {
            for (cell, delta) in self.cells.iter().zip(deltas) {
                *delta = cell.sum;
            }
        }
    }

    fn score(&self, batch: &Csr, metrics: &mut Metrics) {
        metrics.add_batch(&self.margins, &batch.labels, &batch.importance);
    }
}

/// Walks over a row whose values are all 1. Returns its margin before.
fn walk_ones(cells: &mut [Cell], columns: &[u32], label: f32, importance: f32) -> f32 {
    let margin = columns.iter().map(|&column| cells[column as usize].weight).sum();
    let gradient = (sigmoid_one(margin) - label) * importance;
    let square = gradient * gradient;
    for &column in columns {
        let cell = &mut cells[column as usize];
        cell.sum += gradient;
        cell.sum_squares += square;
        cell.weight -= cell.step * gradient;
    }
    margin
}

/// Walks over any row. Returns its margin before.
fn walk_values(
    cells: &mut [Cell],
    columns: &[u32],
    values: &[f32],
    label: f32,
    importance: f32,
) -> f32 {
    let product = |(&column, &value): (&u32, &f32)| cells[column as usize].weight * value;
    let margin = columns.iter().zip(values).map(product).sum();
    let gradient = (sigmoid_one(margin) - label) * importance;
    for (&column, &value) in columns.iter().zip(values) {
        let cell = &mut cells[column as usize];
        let gradient = gradient * value;
        cell.sum += gradient;
        cell.sum_squares += gradient * gradient;
        cell.weight -= cell.step * gradient;
    }
    margin
}

/// Margins of a batch, from values as the table's rule returns them.
///
/// - `values`: `[keys, value_width]` f32 whose first column is the weight.
/// - `margins`: emptied, then `[rows]`.
pub fn margins(batch: &Csr, values: &[f32], value_width: usize, margins: &mut Vec<f32>) {
    let weight = |column: u32| values[column as usize * value_width];
    margins.clear();
    margins.extend((0..batch.rows()).map(|row| {
        let range = batch.row(row);
        let columns = &batch.columns[range.clone()];
        if batch.values.is_empty() {
            columns.iter().map(|&column| weight(column)).sum::<f32>()
        } else {
            let product = |(&column, &value): (&u32, &f32)| weight(column) * value;
            columns.iter().zip(&batch.values[range]).map(product).sum()
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Csr {
        Csr {
            labels: vec![1.0, 0.0],
            row_starts: vec![0, 2, 3],
            keys: vec![5, 9],
            columns: vec![0, 1, 0],
            ..Csr::default()
        }
    }

    #[test]
    fn the_second_row_sees_the_step_that_the_first_one_took() {
        let mut cells = vec![Cell { step: 0.5, ..Cell::default() }; 2];
        let first = walk_ones(&mut cells, &[0, 1], 1.0, 1.0);
        assert_eq!((first, cells[0].weight, cells[0].sum), (0.0, 0.25, -0.5));
        assert_eq!(walk_ones(&mut cells, &[0], 0.0, 1.0), 0.25);
        assert_eq!(cells[1].sum_squares, 0.25);
    }

    #[test]
    fn values_of_one_walk_like_no_values_at_all() {
        let cells = vec![Cell { weight: 0.3, step: 0.1, ..Cell::default() }; 2];
        let (mut ones, mut values) = (cells.clone(), cells);
        let margin = walk_ones(&mut ones, &[0, 1], 1.0, 2.0);
        assert_eq!(walk_values(&mut values, &[0, 1], &[1.0, 1.0], 1.0, 2.0), margin);
        assert_eq!(format!("{ones:?}"), format!("{values:?}"));
    }

    #[test]
    fn margins_are_the_weighted_sums_of_each_row() {
        let (mut out, mut batch) = (Vec::new(), batch());
        margins(&batch, &[1.0, 7.0, 2.0, 7.0], 2, &mut out);
        assert_eq!(out, [3.0, 1.0]);
        batch.values = vec![2.0, 0.5, -1.0];
        margins(&batch, &[1.0, 2.0], 1, &mut out);
        assert_eq!(out, [3.0, -1.0]);
    }
}
