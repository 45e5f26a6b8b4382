//! What the kernels of `bench kernel` work on: one pass of each, and the bytes that it moves.
//!
//! Owns the arrays. One allocation serves the dense form of all kernels, cut into as many arrays as
//! a kernel has, so that each walks the same bytes. Figures are left to `kernel`.
//!
//! Invariant: before a case is measured, its arrays hold numbers that its kernel can go on from
//! for as many passes as are made: none becomes infinite, NaN or subnormal.

use std::hint::black_box;
use std::time::Duration;

use kernels::plain::{self, Optimizer};
use kernels::{
    Isa, adagrad, adam, adamw, crc32c, ftrl, ftrl_compact, ftrl_group, half, hash, logistic,
    momentum, rmsprop, rows, sgd, sum,
};
use memory::Arena;
use zerocopy::{FromBytes, IntoBytes};

use super::{Case, Form, gb_per_s};
use crate::random::Random;
use crate::roofs::{LINE_FLOATS, RoofError, arena, lines_apart};

/// Length of an array that stays in a second-level cache, in f32: 128 KiB.
const CACHE_FLOATS: usize = 32 << 10;

/// What columns of state and of deltas begin with, in turn: weights, means of squares and
/// gradients within a few orders of 1, all above 0.
const STATE_VALUE: f32 = 0.5;
const DELTA_VALUE: f32 = 1e-3;

/// Names of what is measured.
pub const KERNEL_NAMES: [&str; 20] = [
    "sgd",
    "momentum",
    "adagrad",
    "rmsprop",
    "adam",
    "adamw",
    "ftrl",
    "ftrl-compact",
    "ftrl-group",
    "sum",
    "dot",
    "axpy",
    "sigmoid",
    "hash",
    "crc32c",
    "to bf16",
    "from bf16",
    "to f16",
    "from f16",
    "gather",
];

const ADAM: adam::Step = adam::Step { rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
const FTRL: ftrl::Step = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 0.1, l2: 0.1 };

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    Optimizer(Optimizer),
    Dot,
    Axpy,
    Sigmoid,
    Hash,
    Crc32c,
    ToBf16,
    FromBf16,
    ToF16,
    FromF16,
    Gather,
}

/// Which code does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The kernel.
    Kernel,
    /// The plain loop.
    Plain,
}

impl Work {
    pub(crate) const ALL: [Work; KERNEL_NAMES.len()] = [
        Work::Optimizer(Optimizer::Sgd(sgd::Step { rate: 1e-3 })),
        Work::Optimizer(Optimizer::Momentum(momentum::Step { rate: 1e-3, momentum: 0.9 })),
        Work::Optimizer(Optimizer::AdaGrad(adagrad::Step { rate: 1e-3, epsilon: 1e-8 })),
        Work::Optimizer(Optimizer::RmsProp(rmsprop::Step {
            rate: 1e-3,
            decay: 0.99,
            epsilon: 1e-8,
        })),
        Work::Optimizer(Optimizer::Adam(ADAM)),
        Work::Optimizer(Optimizer::AdamW(adamw::Step { adam: ADAM, weight_decay: 0.01 })),
        Work::Optimizer(Optimizer::Ftrl(FTRL)),
        Work::Optimizer(Optimizer::FtrlCompact(ftrl_compact::Step { ftrl: FTRL, seed: 1 })),
        Work::Optimizer(Optimizer::FtrlGroup(ftrl_group::Step { ftrl: FTRL, l21: 0.1 })),
        Work::Optimizer(Optimizer::Sum),
        Work::Dot,
        Work::Axpy,
        Work::Sigmoid,
        Work::Hash,
        Work::Crc32c,
        Work::ToBf16,
        Work::FromBf16,
        Work::ToF16,
        Work::FromF16,
        Work::Gather,
    ];

    pub(crate) fn name(self) -> &'static str {
        let place = Work::ALL.iter().position(|&work| work == self);
        KERNEL_NAMES[place.expect("all work is listed")]
    }

    pub(crate) fn has(self, form: Form) -> bool {
        match self {
            Work::Optimizer(_) => form != Form::Cache,
            Work::Gather => form == Form::Sparse,
            _ => form != Form::Sparse,
        }
    }

    /// Whether there is a plain loop to compare with. The other kernels are one, or cannot be.
    pub(crate) fn has_plain(self) -> bool {
        matches!(self, Work::Optimizer(_))
    }

    /// Columns of a row and of its delta, and numbers that a row has behind its columns.
    fn shape(self) -> (usize, usize, usize) {
        match self {
            Work::Optimizer(Optimizer::Sgd(_) | Optimizer::Sum) => (1, 1, 0),
            Work::Optimizer(Optimizer::Adam(_) | Optimizer::AdamW(_)) => (3, 1, adam::POWERS),
            Work::Optimizer(Optimizer::Ftrl(_) | Optimizer::FtrlGroup(_)) => (2, 2, 0),
            Work::Optimizer(Optimizer::FtrlCompact(_)) => (1, 2, 0),
            Work::Optimizer(_) => (2, 1, 0),
            _ => (1, 0, 0),
        }
    }
}

/// What all kernels work on.
#[derive(Debug)]
pub struct Arrays {
    /// The dense form.
    dense: Arena<f32>,
    /// Rows, or what stays in the cache.
    rows: Arena<f32>,
    /// Deltas of the rows, values read of them, or the other array that stays in the cache.
    others: Arena<f32>,
    /// Numbers of all rows that there can be, shuffled.
    shuffled: Vec<u32>,
    /// Those of them that are rows of the case at hand, still in their order.
    at: Vec<u32>,
}

impl Arrays {
    /// Arrays for all cases; those of the dense form have so many bytes together.
    ///
    /// - Errors: the kernel gives no memory.
    pub fn new(bytes: usize) -> Result<Arrays, RoofError> {
        let mut shuffled: Vec<u32> = (0..CACHE_FLOATS as u32).collect();
        Random::new(1).shuffle(&mut shuffled);
        Ok(Arrays {
            dense: arena(bytes / size_of::<f32>())?,
            rows: arena(CACHE_FLOATS)?,
            others: arena(2 * CACHE_FLOATS)?,
            shuffled,
            at: Vec::new(),
        })
    }

    /// Lays out what the case works on; to be called before its first pass.
    pub fn prepare(&mut self, case: &Case) {
        let (state, delta, behind) = case.work.shape();
        match case.form {
            Form::Dense => {
                let dim = self.dense_dim(case.work);
                let (rows, deltas) = self.dense.as_mut_slice().split_at_mut(state * dim + behind);
                rows.fill(STATE_VALUE);
                let count = delta * dim;
                deltas[..count].fill(DELTA_VALUE);
            }
            Form::Cache => {
                self.rows.as_mut_slice().fill(STATE_VALUE);
                self.others.as_mut_slice().fill(DELTA_VALUE);
            }
            Form::Sparse => {
                let rows = CACHE_FLOATS / (state * case.dim + behind);
                let is_row = |row: &u32| (*row as usize) < rows;
                self.at = self.shuffled.iter().copied().filter(is_row).collect();
                self.rows.as_mut_slice().fill(0.0);
                self.others.as_mut_slice().fill(DELTA_VALUE);
            }
        }
    }

    /// Length of each of the columns that the dense form is cut into.
    fn dense_dim(&self, work: Work) -> usize {
        let (state, delta, behind) = work.shape();
        let arrays = state + delta;
        if arrays == 1 {
            return self.dense.len();
        }
        lines_apart((self.dense.len() - behind) / arrays / LINE_FLOATS, arrays) * LINE_FLOATS
    }

    /// Length of the first of the two vectors that the dense form is cut into.
    fn dense_first(&self, work: Work) -> usize {
        let thirds_of_two = match work {
            Work::ToBf16 | Work::FromBf16 | Work::ToF16 | Work::FromF16 => 4,
            _ => 3,
        };
        lines_apart(self.dense.len() * thirds_of_two / 6 / LINE_FLOATS, 2) * LINE_FLOATS
    }

    /// Bytes that a pass reads and writes.
    pub fn bytes(&self, case: &Case) -> usize {
        let (state, delta, behind) = case.work.shape();
        let first = match case.form {
            Form::Dense => self.dense_first(case.work),
            Form::Cache | Form::Sparse => CACHE_FLOATS,
        };
        let floats = match (case.work, case.form) {
            (Work::Optimizer(optimizer), Form::Dense) => {
                // The group lasso reads a column before it steps it.
                let again = usize::from(matches!(optimizer, Optimizer::FtrlGroup(_)));
                (2 * state + delta + again) * self.dense_dim(case.work)
            }
            (Work::Optimizer(_), _) => {
                self.at.len() * ((2 * state + delta) * case.dim + 2 * behind)
            }
            (Work::Gather, _) => self.at.len() * 2 * case.dim,
            (Work::Sigmoid, _) => 4 * first,
            (Work::Axpy, _) => 3 * first,
            (Work::Dot | Work::Hash | Work::Crc32c, _) => 2 * first,
            (Work::ToBf16 | Work::FromBf16 | Work::ToF16 | Work::FromF16, _) => first + first / 2,
        };
        floats * size_of::<f32>()
    }

    /// In the case's unit, what a GB/s is.
    pub(crate) fn per_gb(&self, case: &Case) -> f64 {
        match case.form {
            Form::Sparse => 1e3 * self.at.len() as f64 / self.bytes(case) as f64,
            Form::Dense | Form::Cache => 1.0,
        }
    }

    /// One pass over all arrays, or all rows.
    pub fn pass(&mut self, case: &Case, isa: Isa, code: Code) {
        match (case.work, case.form) {
            (Work::Optimizer(optimizer), Form::Sparse) => {
                self.optimize_rows(case, optimizer, isa, code);
            }
            (Work::Optimizer(optimizer), _) => self.optimize(case, optimizer, isa, code),
            (Work::Gather, _) => {
                let values = &mut self.others.as_mut_slice()[..self.at.len() * case.dim];
                let (rows, at) = (self.rows.as_slice(), &self.at);
                rows::gather(isa, rows, case.dim, case.dim, at, black_box(values));
            }
            (work, Form::Dense) => {
                let first = self.dense_first(work);
                let (a, b) = self.dense.as_mut_slice().split_at_mut(first);
                let second = first.min(b.len());
                vectors(work, isa, a, &mut b[..second]);
            }
            (work, _) => {
                let others = &mut self.others.as_mut_slice()[..CACHE_FLOATS];
                vectors(work, isa, self.rows.as_mut_slice(), others);
            }
        }
    }

    fn optimize_rows(&mut self, case: &Case, optimizer: Optimizer, isa: Isa, code: Code) {
        let (state, delta, behind) = case.work.shape();
        let (dim, stride) = (case.dim, state * case.dim + behind);
        let (rows, at) = (self.rows.as_mut_slice(), &self.at[..]);
        let deltas = &self.others.as_slice()[..at.len() * delta * dim];
        match (code, optimizer) {
            (Code::Plain, _) => plain::apply_rows(isa, optimizer, rows, stride, dim, at, deltas),
            (_, Optimizer::Sgd(s)) => sgd::apply_rows(isa, rows, stride, dim, at, deltas, &s),
            (_, Optimizer::Momentum(s)) => {
                momentum::apply_rows(isa, rows, stride, dim, at, deltas, &s);
            }
            (_, Optimizer::AdaGrad(s)) => {
                adagrad::apply_rows(isa, rows, stride, dim, at, deltas, &s);
            }
            (_, Optimizer::RmsProp(s)) => {
                rmsprop::apply_rows(isa, rows, stride, dim, at, deltas, &s);
            }
            (_, Optimizer::Adam(s)) => adam::apply_rows(isa, rows, stride, dim, at, deltas, &s),
            (_, Optimizer::AdamW(s)) => adamw::apply_rows(isa, rows, stride, dim, at, deltas, &s),
            (_, Optimizer::Ftrl(s)) => ftrl::apply_rows(isa, rows, stride, dim, at, deltas, &s),
            (_, Optimizer::FtrlCompact(s)) => {
                ftrl_compact::apply_rows(isa, rows, stride, dim, at, deltas, &s);
            }
            (_, Optimizer::FtrlGroup(s)) => {
                ftrl_group::apply_rows(isa, rows, stride, dim, at, deltas, &s);
            }
            (_, Optimizer::Sum) => {
                sum::apply_rows(isa, rows, stride, dim, at, deltas, &sum::Step);
            }
        }
    }

    fn optimize(&mut self, case: &Case, optimizer: Optimizer, isa: Isa, code: Code) {
        let (state, delta, behind) = case.work.shape();
        let dim = self.dense_dim(case.work);
        let (row, deltas) = self.dense.as_mut_slice().split_at_mut(state * dim + behind);
        let deltas = &deltas[..delta * dim];
        if code == Code::Plain {
            let stride = row.len();
            return plain::apply_rows(isa, optimizer, row, stride, dim, &[0], deltas);
        }
        let (w, rest) = row.split_at_mut(dim);
        match optimizer {
            Optimizer::Sgd(step) => sgd::apply(isa, w, deltas, &step),
            Optimizer::Momentum(step) => momentum::apply(isa, w, rest, deltas, &step),
            Optimizer::AdaGrad(step) => adagrad::apply(isa, w, rest, deltas, &step),
            Optimizer::RmsProp(step) => rmsprop::apply(isa, w, rest, deltas, &step),
            Optimizer::Adam(_) | Optimizer::AdamW(_) => {
                let (m, rest) = rest.split_at_mut(dim);
                let (v, powers) = rest.split_at_mut(dim);
                let powers = powers.first_chunk_mut().expect("powers lie behind the columns");
                match optimizer {
                    Optimizer::AdamW(step) => adamw::apply(isa, [w, m, v], powers, deltas, &step),
                    _ => adam::apply(isa, [w, m, v], powers, deltas, &ADAM),
                }
            }
            Optimizer::Ftrl(step) => {
                let (grad, squared) = deltas.split_at(dim);
                ftrl::apply(isa, w, rest, grad, squared, &step);
            }
            Optimizer::FtrlCompact(step) => {
                let (grad, squared) = deltas.split_at(dim);
                ftrl_compact::apply(isa, w, grad, squared, &step);
            }
            Optimizer::FtrlGroup(step) => {
                let (grad, squared) = deltas.split_at(dim);
                ftrl_group::apply(isa, w, rest, grad, squared, &step);
            }
            Optimizer::Sum => sum::apply(isa, w, deltas, &sum::Step),
        }
    }

    /// Bytes read and written by copies of an array within the cache.
    pub(crate) fn copy_gb_per_s(&mut self, phase: Duration) -> f64 {
        gb_per_s(Arrays::COPY_BYTES, phase, Form::Cache, || self.copy())
    }

    /// Bytes that [`Arrays::copy`] reads and writes.
    pub const COPY_BYTES: usize = 2 * CACHE_FLOATS * size_of::<f32>();

    /// The roof of what stays in the cache: copies an array there.
    pub fn copy(&mut self) {
        let (from, to) = self.others.as_mut_slice().split_at_mut(CACHE_FLOATS);
        to.copy_from_slice(black_box(&*from));
        black_box(&*to);
    }
}

/// A kernel on two vectors: of one length, or the second one for as many halves.
fn vectors(work: Work, isa: Isa, a: &mut [f32], b: &mut [f32]) {
    let halves = a.len();
    match work {
        Work::Dot => _ = black_box(logistic::dot(isa, black_box(a), b)),
        Work::Axpy => logistic::axpy(isa, 1e-3, a, b),
        Work::Sigmoid => [a, b].into_iter().for_each(|margins| logistic::sigmoid(isa, margins)),
        Work::Hash => hash::mix_all(isa, words(a), words(b)),
        Work::Crc32c => {
            let first = crc32c::crc32c(isa, 0, black_box(a.as_bytes()));
            black_box(crc32c::crc32c(isa, first, black_box(b.as_bytes())));
        }
        Work::ToBf16 => half::to_bf16(isa, a, &mut words(b)[..halves]),
        Work::FromBf16 => half::from_bf16(isa, &words(b)[..halves], a),
        Work::ToF16 => half::to_f16(isa, a, &mut words(b)[..halves]),
        Work::FromF16 => half::from_f16(isa, &words(b)[..halves], a),
        Work::Optimizer(_) | Work::Gather => unreachable!("these work on columns and rows"),
    }
}

/// The numbers' bytes as words of another width.
fn words<W: FromBytes + IntoBytes + zerocopy::Immutable>(numbers: &mut [f32]) -> &mut [W] {
    <[W]>::mut_from_bytes(numbers.as_mut_bytes()).expect("whole words from the start of a page")
}
