//! The rules that every build has, but for compact FTRL.
//!
//! Owns their settings, the range of each, and which kernel does the arithmetic.

use std::sync::Arc;

use kernels::{
    Isa, adagrad, adam, adamw, ftrl, ftrl_group, momentum, rmsprop, rows as row_kernels, sgd, sum,
};

use super::{PARAMETERS_MAX, Pulled, Rows, Rule, Widths};

/// `w -= rate · g`. Row `[w]`, delta `[g]`, value `[w]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate, positive.
    pub rate: f32,
}

/// `v = momentum · v + g`, `w -= rate · v`. Row `[w | v]`, delta `[g]`, value `[w]`. Source:
/// Polyak, USSR Comput. Math. Math. Phys. 4 (1964).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// Learning rate, positive.
    pub rate: f32,
    /// Share of the velocity that the next step keeps, from 0 to below 1.
    pub momentum: f32,
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

/// `s = decay · s + (1-decay) · g²`, `w -= rate · g / (√s + epsilon)`. Row `[w | s]`, delta `[g]`,
/// value `[w]`. Source: Tieleman, Hinton, Neural Networks for Machine Learning (2012), lecture 6.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    /// Learning rate, positive.
    pub rate: f32,
    /// Decay of the mean square, from 0 to below 1.
    pub decay: f32,
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

/// `w -= rate · weight_decay · w`, then Adam's step, on Adam's row. A key that is not pushed does
/// not decay. Source: Loshchilov, Hutter, ICLR 2019.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Adam's own parameters.
    pub adam: Adam,
    /// Pulls weights towards zero: zero or positive, and below 1 when multiplied by the rate.
    pub weight_decay: f32,
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

/// FTRL-Proximal with a group lasso, under which a key's row is kept or zero as one. Row, delta and
/// value are those of [`Ftrl`]. In a table of dim 1 it is [`Ftrl`] with `l1 + l21`. Source: Yue et
/// al., ECML PKDD 2021.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FtrlGroup {
    /// FTRL's own parameters. Its `l1` acts on each value alone.
    pub ftrl: Ftrl,
    /// A row whose `‖z - clamp(z, -l1, l1)‖` does not exceed `l21 · √dim` is zero. Not negative.
    pub l21: f32,
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

    fn roundable(&self, dim: usize) -> usize {
        dim
    }

    fn pulled(&self) -> Pulled {
        Pulled::Row
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let step = sgd::Step { rate: self.rate };
        sgd::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl Momentum {
    pub(super) const NAME: &str = "momentum";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [rate, momentum, ..] = *parameters;
        (positive(rate) && decays(momentum))
            .then(|| Arc::new(Momentum { rate, momentum }) as Arc<dyn Rule>)
    }
}

impl Rule for Momentum {
    fn name(&self) -> &'static str {
        Momentum::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([self.rate, self.momentum])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: 2 * dim, value: dim }
    }

    fn roundable(&self, dim: usize) -> usize {
        2 * dim
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let step = momentum::Step { rate: self.rate, momentum: self.momentum };
        momentum::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
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

    fn roundable(&self, dim: usize) -> usize {
        2 * dim
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let step = adagrad::Step { rate: self.rate, epsilon: self.epsilon };
        adagrad::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl RmsProp {
    pub(super) const NAME: &str = "rmsprop";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [rate, decay, epsilon, ..] = *parameters;
        (positive(rate) && decays(decay) && positive(epsilon))
            .then(|| Arc::new(RmsProp { rate, decay, epsilon }) as Arc<dyn Rule>)
    }
}

impl Rule for RmsProp {
    fn name(&self) -> &'static str {
        RmsProp::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        pad([self.rate, self.decay, self.epsilon])
    }

    fn widths(&self, dim: usize) -> Widths {
        Widths { delta: dim, row: 2 * dim, value: dim }
    }

    fn roundable(&self, dim: usize) -> usize {
        2 * dim
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let RmsProp { rate, decay, epsilon } = *self;
        let step = rmsprop::Step { rate, decay, epsilon };
        rmsprop::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl Adam {
    pub(super) const NAME: &str = "adam";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        Adam::of(parameters).map(|adam| Arc::new(adam) as Arc<dyn Rule>)
    }

    fn of(parameters: &[f32; PARAMETERS_MAX]) -> Option<Adam> {
        let [rate, beta1, beta2, epsilon, ..] = *parameters;
        (positive(rate) && decays(beta1) && decays(beta2) && positive(epsilon)).then_some(Adam {
            rate,
            beta1,
            beta2,
            epsilon,
        })
    }

    fn step(&self) -> adam::Step {
        let Adam { rate, beta1, beta2, epsilon } = *self;
        adam::Step { rate, beta1, beta2, epsilon }
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
        Widths { delta: dim, row: adam::row_width(dim), value: dim }
    }

    /// But for the powers: one minus a number just below one has few of its bits left.
    fn roundable(&self, dim: usize) -> usize {
        3 * dim
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        adam::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &self.step());
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        row_kernels::gather(isa, rows.floats, rows.stride, rows.dim, at, values);
    }
}

impl AdamW {
    pub(super) const NAME: &str = "adamw";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [_, _, _, _, weight_decay, ..] = *parameters;
        let adam = Adam::of(parameters)?;
        (not_negative(weight_decay) && adam.rate * weight_decay < 1.0)
            .then(|| Arc::new(AdamW { adam, weight_decay }) as Arc<dyn Rule>)
    }
}

impl Rule for AdamW {
    fn name(&self) -> &'static str {
        AdamW::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        let Adam { rate, beta1, beta2, epsilon } = self.adam;
        pad([rate, beta1, beta2, epsilon, self.weight_decay])
    }

    fn widths(&self, dim: usize) -> Widths {
        self.adam.widths(dim)
    }

    fn roundable(&self, dim: usize) -> usize {
        self.adam.roundable(dim)
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let step = adamw::Step { adam: self.adam.step(), weight_decay: self.weight_decay };
        adamw::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &step);
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        self.adam.read(isa, rows, at, values);
    }
}

impl Ftrl {
    pub(super) const NAME: &str = "ftrl";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        Ftrl::of(parameters).map(|ftrl| Arc::new(ftrl) as Arc<dyn Rule>)
    }

    pub(super) fn of(parameters: &[f32; PARAMETERS_MAX]) -> Option<Ftrl> {
        let [alpha, beta, l1, l2, ..] = *parameters;
        // With neither beta nor l2, a row of zeros would have no step.
        let defined = beta > 0.0 || l2 > 0.0;
        (positive(alpha) && not_negative(beta) && not_negative(l1) && not_negative(l2) && defined)
            .then_some(Ftrl { alpha, beta, l1, l2 })
    }

    pub(super) fn step(&self) -> ftrl::Step {
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

    fn roundable(&self, dim: usize) -> usize {
        2 * dim
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        ftrl::apply_rows(isa, rows.floats, rows.stride, rows.dim, at, deltas, &self.step());
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        ftrl::read_rows(isa, rows.floats, rows.stride, rows.dim, at, values, &self.step());
    }
}

impl FtrlGroup {
    pub(super) const NAME: &str = "ftrl-group";

    pub(super) fn make(parameters: &[f32; PARAMETERS_MAX]) -> Option<Arc<dyn Rule>> {
        let [_, _, _, _, l21, ..] = *parameters;
        let ftrl = Ftrl::of(parameters)?;
        not_negative(l21).then(|| Arc::new(FtrlGroup { ftrl, l21 }) as Arc<dyn Rule>)
    }

    fn step(&self) -> ftrl_group::Step {
        ftrl_group::Step { ftrl: self.ftrl.step(), l21: self.l21 }
    }
}

impl Rule for FtrlGroup {
    fn name(&self) -> &'static str {
        FtrlGroup::NAME
    }

    fn parameters(&self) -> [f32; PARAMETERS_MAX] {
        let Ftrl { alpha, beta, l1, l2 } = self.ftrl;
        pad([alpha, beta, l1, l2, self.l21])
    }

    fn widths(&self, dim: usize) -> Widths {
        self.ftrl.widths(dim)
    }

    fn roundable(&self, dim: usize) -> usize {
        self.ftrl.roundable(dim)
    }

    fn apply(&self, isa: Isa, rows: Rows<&mut [f32]>, at: &[u32], deltas: &[f32]) {
        let Rows { floats, stride, dim } = rows;
        ftrl_group::apply_rows(isa, floats, stride, dim, at, deltas, &self.step());
    }

    fn read(&self, isa: Isa, rows: Rows<&[f32]>, at: &[u32], values: &mut [f32]) {
        let Rows { floats, stride, dim } = rows;
        ftrl_group::read_rows(isa, floats, stride, dim, at, values, &self.step());
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

    fn pulled(&self) -> Pulled {
        Pulled::Row
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

fn not_negative(value: f32) -> bool {
    value.is_finite() && value >= 0.0
}

/// Whether a power of it goes to zero, from 0 to below 1.
fn decays(value: f32) -> bool {
    (0.0..1.0).contains(&value)
}

fn pad<const N: usize>(parameters: [f32; N]) -> [f32; PARAMETERS_MAX] {
    let mut padded = [0.0; PARAMETERS_MAX];
    padded[..N].copy_from_slice(&parameters);
    padded
}
