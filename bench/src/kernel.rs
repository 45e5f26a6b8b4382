//! Kernels alone: every kernel on every instruction set of this machine, beside its roof.
//!
//! Owns the loads and their clock. Roofs are STREAM's triad for what comes from memory and a copy
//! for what stays in the cache, both counted in bytes read and written and measured in each repeat.
//!
//! Invariant: a row's share is the median of each repeat's own ratio to the roof of that repeat.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::hash::mix_all;
use kernels::logistic::{axpy, dot, sigmoid};
use kernels::{Isa, adagrad, adam, crc32c, ftrl, rows, sgd, sum};
use memory::Arena;
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, SpecError};
use crate::format::columns;
use crate::machine::Places;
use crate::random::Random;
use crate::roofs::{RoofError, Triad, arena};
use crate::spec::{REPEATS_MAX, REPEATS_MIN, SECONDS_MAX, check, check_real};
use crate::stats::Spread;

/// Least length of an array: what the loads in the cache take of it.
const FLOATS_MIN: usize = CACHE_FLOATS;

/// Longest array, in f32.
const FLOATS_MAX: usize = 1 << 30;

/// Length of an array that stays in a second-level cache, in f32: 128 KiB.
const CACHE_FLOATS: usize = 32 << 10;

/// Dims of the sparse form.
const DIMS: [usize; 3] = [1, 8, 64];

/// What is measured, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// Length of each array of the dense form, in f32; to be beyond the last-level cache.
    pub floats: usize,
    /// How long each figure is measured in each repeat, in seconds, and at least one pass.
    pub seconds: f64,
    /// Repeats, interleaved with the roofs.
    pub repeats: usize,
}

/// One kernel in one form on one instruction set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRow {
    /// The kernel's name.
    pub kernel: String,
    /// What it worked on: `dense`, from memory; `cache`; or `sparse dim N`, rows in the cache.
    pub form: String,
    /// The instruction set.
    pub isa: String,
    /// Median over repeats, in `unit`.
    pub rate: f64,
    /// `GB_per_s`, bytes read and written; or `M_rows_per_s`.
    pub unit: String,
    /// Median of what the same bytes take at the roof, in `unit`.
    pub roof: f64,
    /// Median of each repeat's rate as a part of its roof.
    pub share: f64,
    /// The lowest repeat's rate.
    pub min: f64,
    /// The highest repeat's rate.
    pub max: f64,
}

impl KernelSpec {
    /// Whether this can be measured.
    ///
    /// - Errors: the first field that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        check("floats", self.floats, FLOATS_MIN, FLOATS_MAX)?;
        check("repeats", self.repeats, REPEATS_MIN, REPEATS_MAX)?;
        check_real("seconds", self.seconds, f64::MIN_POSITIVE, SECONDS_MAX)
    }
}

/// Measures all kernels and their roofs in turns, on one core.
///
/// - `progress`: is told in words what happens.
/// - Errors: [`BenchError`].
pub fn run_kernels(
    spec: &KernelSpec,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<KernelRow>, BenchError> {
    spec.check()?;
    let _pinned = Places::find().pin_worker();
    progress("filling arrays");
    let mut load = Load::new(spec.floats)?;
    let mut triad = Triad::new()?;
    let (cases, phase) = (cases(spec.floats), Duration::from_secs_f64(spec.seconds));
    let isas = Isa::available();
    // A figure and its roof a repeat, for each case on each instruction set.
    let mut figures = vec![Vec::with_capacity(spec.repeats); cases.len() * isas.len()];
    for number in 1..=spec.repeats {
        progress(&format!("repeat {number} of {}", spec.repeats));
        let roofs = [triad.gb_per_s(phase), load.copy_gb_per_s(phase)];
        let runs = cases.iter().flat_map(|case| isas.iter().map(move |&isa| (case, isa)));
        for ((case, isa), figures) in runs.zip(&mut figures) {
            let gb_per_s = case.gb_per_s(&mut load, isa, phase);
            let roof = if case.form == Form::Dense { roofs[0] } else { roofs[1] };
            figures.push([gb_per_s * case.per_gb(), roof * case.per_gb()]);
        }
    }
    let runs = cases.iter().flat_map(|case| isas.iter().map(move |&isa| (case, isa)));
    Ok(runs.zip(&figures).map(|((case, isa), figures)| case.row(isa, figures)).collect())
}

/// The rows as a table for people.
pub fn render_kernels(rows: &[KernelRow]) -> String {
    let head = ["kernel", "form", "isa", "rate", "_min", "_max", "roof", "share", "unit"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let figures = [row.rate, row.min, row.max, row.roof].map(|figure| format!("{figure:.1}"));
        let names = [&row.kernel, &row.form, &row.isa].map(String::clone);
        let last = [format!("{:.1} %", 100.0 * row.share), row.unit.clone()];
        [names.to_vec(), figures.to_vec(), last.to_vec()].concat()
    }));
    columns(&cells)
}

/// What a kernel works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Arrays that no cache holds.
    Dense,
    /// Arrays that a cache holds.
    Cache,
    /// Rows of this dim in random order, which a cache holds.
    Sparse(usize),
}

/// One pass of a kernel over `count` numbers, or over all rows of so many numbers a row.
type Pass = Box<dyn Fn(&mut Load, Isa)>;

/// A kernel in one form.
struct Case {
    kernel: &'static str,
    form: Form,
    /// Bytes that a pass reads and writes.
    bytes: usize,
    /// Rows that a pass goes over, in the sparse form.
    rows: usize,
    pass: Pass,
}

impl Case {
    fn gb_per_s(&self, load: &mut Load, isa: Isa, phase: Duration) -> f64 {
        if let Form::Sparse(_) = self.form {
            load.rows.as_mut_slice().fill(0.0); // Rows of another kernel mean nothing to this one.
        }
        (self.pass)(load, isa);
        let (start, mut passes) = (Instant::now(), 0);
        loop {
            (self.pass)(load, isa);
            passes += 1;
            let elapsed = start.elapsed();
            if elapsed >= phase {
                return (passes * self.bytes) as f64 / elapsed.as_secs_f64() / 1e9;
            }
        }
    }

    /// In the case's unit, what a GB/s is.
    fn per_gb(&self) -> f64 {
        match self.form {
            Form::Sparse(_) => 1e3 * self.rows as f64 / self.bytes as f64,
            Form::Dense | Form::Cache => 1.0,
        }
    }

    fn row(&self, isa: Isa, figures: &[[f64; 2]]) -> KernelRow {
        let spread =
            |of: fn(&[f64; 2]) -> f64| Spread::of(&figures.iter().map(of).collect::<Vec<f64>>());
        let rate = spread(|[rate, _]| *rate);
        let (form, unit) = match self.form {
            Form::Dense => (String::from("dense"), "GB_per_s"),
            Form::Cache => (String::from("cache"), "GB_per_s"),
            Form::Sparse(dim) => (format!("sparse dim {dim}"), "M_rows_per_s"),
        };
        KernelRow {
            kernel: self.kernel.to_owned(),
            form,
            isa: isa.level().to_string(),
            rate: rate.median,
            unit: unit.to_owned(),
            roof: spread(|[_, roof]| *roof).median,
            share: spread(|[rate, roof]| rate / roof).median,
            min: rate.min,
            max: rate.max,
        }
    }
}

/// The arrays.
struct Load {
    /// A row's columns: values, and the optimizer's state.
    state: [Arena<f32>; 3],
    /// Gradients and their squares; all above 0.
    deltas: [Arena<f32>; 2],
    keys: Arena<u64>,
    mixed: Arena<u64>,
    bytes: Arena<u8>,
    /// Rows of the sparse form, which the numbers of rows, shuffled, point in.
    rows: Arena<f32>,
    at: Vec<u32>,
    powers: [f32; adam::POWERS],
}

impl Load {
    fn new(floats: usize) -> Result<Load, RoofError> {
        let filled = |value: f32| -> Result<Arena<f32>, RoofError> {
            let mut array = arena(floats)?;
            array.as_mut_slice().fill(value);
            Ok(array)
        };
        let mut at: Vec<u32> = (0..CACHE_FLOATS as u32).collect();
        Random::new(1).shuffle(&mut at);
        let mut keys = array(floats / 2)?;
        keys.as_mut_slice().iter_mut().zip(0..).for_each(|(key, number)| *key = number);
        Ok(Load {
            state: [filled(0.5)?, filled(0.5)?, filled(0.5)?],
            deltas: [filled(1e-3)?, filled(1e-6)?],
            keys,
            mixed: array(floats / 2)?,
            bytes: array(floats * size_of::<f32>())?,
            rows: arena(CACHE_FLOATS)?,
            at,
            powers: [0.0; adam::POWERS],
        })
    }

    /// Bytes read and written by copies of an array within the cache.
    fn copy_gb_per_s(&mut self, phase: Duration) -> f64 {
        let copy = Case {
            kernel: "copy",
            form: Form::Cache,
            bytes: 2 * CACHE_FLOATS * size_of::<f32>(),
            rows: 0,
            pass: Box::new(|load, _| {
                let [to, from, _] = &mut load.state;
                let from = black_box(&from.as_slice()[..CACHE_FLOATS]);
                to.as_mut_slice()[..CACHE_FLOATS].copy_from_slice(from);
                black_box(to.as_slice());
            }),
        };
        copy.gb_per_s(self, Isa::detect(), phase)
    }
}

/// Zeroed memory.
fn array<T: zerocopy::FromZeros + Copy>(items: usize) -> Result<Arena<T>, RoofError> {
    let mut array = Arena::reserve(items).map_err(RoofError::Map)?;
    array.grow_to(items).map_err(RoofError::Grow)?;
    Ok(array)
}

const SGD: sgd::Step = sgd::Step { rate: 1e-3 };
const ADAGRAD: adagrad::Step = adagrad::Step { rate: 1e-3, epsilon: 1e-8 };
const ADAM: adam::Step = adam::Step { rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
const FTRL: ftrl::Step = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 1.0, l2: 0.1 };

fn cases(floats: usize) -> Vec<Case> {
    let mut cases = optimizers(floats);
    for (form, count) in [(Form::Dense, floats), (Form::Cache, CACHE_FLOATS)] {
        cases.extend(vectors(form, count));
    }
    for dim in DIMS {
        cases.extend(sparse(dim));
    }
    cases
}

/// Optimizers over whole columns, from memory.
fn optimizers(count: usize) -> Vec<Case> {
    let case = |kernel, columns: usize, pass: Pass| {
        let bytes = columns * count * size_of::<f32>();
        Case { kernel, form: Form::Dense, bytes, rows: 0, pass }
    };
    vec![
        case(
            "sgd",
            3,
            Box::new(|load, isa| {
                sgd::apply(isa, load.state[0].as_mut_slice(), load.deltas[0].as_slice(), &SGD);
            }),
        ),
        case(
            "adagrad",
            5,
            Box::new(|load, isa| {
                let [row, accum, _] = load.state.each_mut().map(Arena::as_mut_slice);
                adagrad::apply(isa, row, accum, load.deltas[0].as_slice(), &ADAGRAD);
            }),
        ),
        case(
            "adam",
            7,
            Box::new(|load, isa| {
                let state = load.state.each_mut().map(Arena::as_mut_slice);
                adam::apply(isa, state, &mut load.powers, load.deltas[0].as_slice(), &ADAM);
            }),
        ),
        case(
            "ftrl",
            6,
            Box::new(|load, isa| {
                let [z, n, _] = load.state.each_mut().map(Arena::as_mut_slice);
                let [grad, grad_squared] = load.deltas.each_ref().map(Arena::as_slice);
                ftrl::apply(isa, z, n, grad, grad_squared, &FTRL);
            }),
        ),
        case(
            "sum",
            3,
            Box::new(|load, isa| {
                sum::apply(
                    isa,
                    load.state[0].as_mut_slice(),
                    load.deltas[0].as_slice(),
                    &sum::Step,
                );
            }),
        ),
    ]
}

/// Kernels on vectors as long as `count` f32.
fn vectors(form: Form, count: usize) -> Vec<Case> {
    let case = |kernel, columns: usize, pass: Pass| Case {
        kernel,
        form,
        bytes: columns * count * size_of::<f32>(),
        rows: 0,
        pass,
    };
    vec![
        case(
            "dot",
            2,
            Box::new(move |load, isa| {
                let [a, b] = load.deltas.each_ref().map(|array| &array.as_slice()[..count]);
                black_box(dot(isa, black_box(a), b));
            }),
        ),
        case(
            "axpy",
            3,
            Box::new(move |load, isa| {
                let x = &load.deltas[0].as_slice()[..count];
                axpy(isa, 1e-3, x, &mut load.state[0].as_mut_slice()[..count]);
            }),
        ),
        case(
            "sigmoid",
            2,
            Box::new(move |load, isa| {
                sigmoid(isa, &mut load.state[0].as_mut_slice()[..count]);
            }),
        ),
        case(
            "hash",
            2,
            Box::new(move |load, isa| {
                let keys = &load.keys.as_slice()[..count / 2];
                mix_all(isa, keys, &mut load.mixed.as_mut_slice()[..count / 2]);
            }),
        ),
        case(
            "crc32c",
            1,
            Box::new(move |load, isa| {
                let bytes = &load.bytes.as_slice()[..count * size_of::<f32>()];
                black_box(crc32c::crc32c(isa, 0, black_box(bytes)));
            }),
        ),
    ]
}

/// Kernels on rows in random order.
fn sparse(dim: usize) -> Vec<Case> {
    // A row is read and written, its delta is read; a gathered row is read, its copy written.
    let case = |kernel, stride: usize, floats_a_row: usize, pass: fn(&mut Sparse<'_>)| {
        let rows = CACHE_FLOATS / stride;
        // Those of the shuffled numbers that are rows here, still in their order.
        let numbers = std::cell::OnceCell::<Vec<u32>>::new();
        let whole: Pass = Box::new(move |load, isa| {
            let at = numbers.get_or_init(|| {
                load.at.iter().copied().filter(|&row| (row as usize) < rows).collect()
            });
            let [deltas, _] = load.deltas.each_ref().map(Arena::as_slice);
            let values = load.state[0].as_mut_slice();
            pass(&mut Sparse { isa, rows: load.rows.as_mut_slice(), dim, at, deltas, values });
        });
        let bytes = rows * floats_a_row * size_of::<f32>();
        Case { kernel, form: Form::Sparse(dim), bytes, rows, pass: whole }
    };
    let adam_width = adam::row_width(dim);
    vec![
        case("sgd", dim, 3 * dim, |s| {
            sgd::apply_rows(s.isa, s.rows, s.dim, s.dim, s.at, s.delta(s.dim), &SGD);
        }),
        case("adagrad", 2 * dim, 5 * dim, |s| {
            adagrad::apply_rows(s.isa, s.rows, 2 * s.dim, s.dim, s.at, s.delta(s.dim), &ADAGRAD);
        }),
        case("adam", adam_width, 2 * adam_width + dim, |s| {
            let stride = adam::row_width(s.dim);
            adam::apply_rows(s.isa, s.rows, stride, s.dim, s.at, s.delta(s.dim), &ADAM);
        }),
        case("ftrl", 2 * dim, 6 * dim, |s| {
            ftrl::apply_rows(s.isa, s.rows, 2 * s.dim, s.dim, s.at, s.delta(2 * s.dim), &FTRL);
        }),
        case("sum", dim, 3 * dim, |s| {
            sum::apply_rows(s.isa, s.rows, s.dim, s.dim, s.at, s.delta(s.dim), &sum::Step);
        }),
        case("gather", dim, 2 * dim, |s| {
            let values = &mut s.values[..s.at.len() * s.dim];
            rows::gather(s.isa, s.rows, s.dim, s.dim, s.at, black_box(values));
        }),
    ]
}

/// What a pass over rows works on.
struct Sparse<'a> {
    isa: Isa,
    rows: &'a mut [f32],
    dim: usize,
    at: &'a [u32],
    deltas: &'a [f32],
    values: &'a mut [f32],
}

impl<'a> Sparse<'a> {
    /// Deltas of `width` f32 a row.
    fn delta(&self, width: usize) -> &'a [f32] {
        &self.deltas[..self.at.len() * width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_row_for_each_form_and_instruction_set() {
        let spec = KernelSpec { floats: FLOATS_MIN, seconds: 1e-6, repeats: REPEATS_MIN };
        let rows = run_kernels(&spec, &mut |_| {}).expect("small arrays");
        let per_isa = 5 + 2 * 5 + DIMS.len() * 6;
        assert_eq!(rows.len(), per_isa * Isa::available().len());
        for row in &rows {
            assert!(row.rate > 0.0 && row.share > 0.0 && row.roof > 0.0, "{row:?}");
            assert!(row.min <= row.rate && row.rate <= row.max, "{row:?}");
        }
        assert!(render_kernels(&rows).contains("sparse dim 64"));
        let json = serde_json::to_string(&rows).expect("numbers and strings");
        let back: Vec<KernelRow> = serde_json::from_str(&json).expect("its own fields");
        assert_eq!(back.len(), rows.len());
    }

    #[test]
    fn a_spec_whose_arrays_are_too_short_is_refused() {
        let spec = KernelSpec { floats: 1, seconds: 1.0, repeats: REPEATS_MIN };
        assert!(matches!(spec.check(), Err(SpecError::OutOfRange { name: "floats", .. })));
    }
}
