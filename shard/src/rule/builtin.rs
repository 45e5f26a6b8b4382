//! The rules that every build has.
//!
//! Owns their settings, the range of each, and which kernel does the arithmetic.

use std::sync::Arc;

use kernels::{Isa, adagrad, adam, ftrl, rows as row_kernels, sgd, sum};

use super::{PARAMETERS_MAX, Rows, Rule, Widths};

/// `w -= rate · g`. Row `[w]`, delta `[g]`, value `[w]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate, positive.
    pub rate: f32,
}

/// `accum += g²`, `w -= rate · g / (√accum + epsilon)`. Row `[w | accum]`, delta `[g]`, value
/// `[w]`. Source: Duchi, Hazan, Singer, JMLR 12 (2011).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaGrad {
    /// Learning rate, positive.
    pub rate: f32,
    /// Keeps the divisor from zero, positive.
    pub epsilon: f32,
}

/// Adam with bias correction. Row `[w | m | v | beta1^t | beta2^t]`, delta `[g]`, value `[w]`.
/// Source: Kingma, Ba, ICLR 2015.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate, positive.
    pub rate: f32,
    /// Decay of the mean, from 0 to below 1.
    pub beta1: f32,
    /// Decay of the mean square, from 0 to below 1.
    pub beta2: f32,
    /// Keeps the divisor from zero, positive.
    pub epsilon: f32,
}

/// FTRL-Proximal. Row `[z | n]`, delta `[Σg | Σg²]`, value `[w | alpha / (beta + √n)]`: the
/// second half is the step that an example's gradient would take, so that a worker can walk
/// through its batch row by row. Source: McMahan et al., KDD 2013.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ftrl {
    /// Scale of the step, positive.
    pub alpha: f32,
    /// Damps the first steps, positive or zero.
    pub beta: f32,
    /// Weights whose |z| does not exceed this are zero.
    pub l1: f32,
    /// Pulls weights towards zero.
    pub l2: f32,
}

/// `w += delta`. Row `[w]`, delta `[d]`, value `[w]`: counters and accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum;

impl Sgd {
    pub(super) const NAME: &str = "sgd";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [rate, ..] = *parameters;
        positive(rate).then(|| Arc::new(Sgd { rate }) as Arc<dyn Rule>)
    }
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        Sgd::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([self.rate])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: dim, value: dim }
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let step = sgd::Step { rate: self.rate };
        sgd::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl AdaGrad {
    pub(super) const NAME: &str = "adagrad";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [rate, epsilon, ..] = *parameters;
        (positive(rate) && positive(epsilon))
            .then(|| Arc::new(AdaGrad { rate, epsilon }) as Arc<dyn Rule>)
    }
}

impl Rule for AdaGrad {
    fn name(&self) -> &'static str {
        AdaGrad::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([self.rate, self.epsilon])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: 2 * dim, value: dim }
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let step = adagrad::Step { rate: self.rate, epsilon: self.epsilon };
        adagrad::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl Adam {
    pub(super) const NAME: &str = "adam";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [rate, beta1, beta2, epsilon, ..] = *parameters;
        let decay = |beta: f32| (0.0..1.0).contains(&beta);
        (positive(rate) && decay(beta1) && decay(beta2) && positive(epsilon))
            .then(|| Arc::new(Adam { rate, beta1, beta2, epsilon }) as Arc<dyn Rule>)
    }
}

impl Rule for Adam {
    fn name(&self) -> &'static str {
        Adam::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([self.rate, self.beta1, self.beta2, self.epsilon])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: 3 * dim + 2, value: dim }
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let Adam { rate, beta1, beta2, epsilon } = *self;
        let step = adam::Step { rate, beta1, beta2, epsilon };
        adam::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl Ftrl {
    pub(super) const NAME: &str = "ftrl";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [alpha, beta, l1, l2, ..] = *parameters;
        let not_negative = |value: f32| value.is_finite() && value >= 0.0;
        // With neither beta nor l2, a row of zeros would have no step.
        let defined = beta > 0.0 || l2 > 0.0;
        (positive(alpha) && not_negative(beta) && not_negative(l1) && not_negative(l2) && defined)
            .then(|| Arc::new(Ftrl { alpha, beta, l1, l2 }) as Arc<dyn Rule>)
    }

    fn step(&self) -> ftrl::Step {
        let Ftrl { alpha, beta, l1, l2 } = *self;
        ftrl::Step { alpha, beta, l1, l2 }
    }
}

impl Rule for Ftrl {
    fn name(&self) -> &'static str {
        Ftrl::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([self.alpha, self.beta, self.l1, self.l2])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: 2 * dim, row: 2 * dim, value: 2 * dim }
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        ftrl::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &self.step());
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        ftrl::read_rows(isa, rows.floats, rows.stride, rows.dim, at, values, &self.step());
    }
}

impl Sum {
    pub(super) const NAME: &str = "sum";

    pub(super) fn make(_: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        Some(Arc::new(Sum))
    }
}

impl Rule for Sum {
    fn name(&self) -> &'static str {
        Sum::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: dim, value: dim }
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        sum::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &sum::Step {});
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

fn positive(value: f32) -> bool {
    value.is_finite() && value > 0.0
}

fn pad<const N: usize>(parameters: [f32; N]) -> [f32; PARAMETERS_MAX] {
    let mut padded = [0.0; PARAMETERS_MAX];
    padded[..N].copy_from_slice(&parameters);
    padded
}
