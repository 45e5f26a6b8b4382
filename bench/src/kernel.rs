//! Kernels alone: every kernel on every instruction set of this machine, beside its roof.
//!
//! Owns what a figure is and how it is taken; what a kernel works on is left to `work`. Roofs are
//! STREAM's triad, stores past the cache, for what comes from memory, and a copy for what stays in
//! the cache. Both count bytes read and written and are measured right before what they stand
//! beside, in each repeat.
//!
//! Invariant: a row's share is the median of each repeat's own ratio to the roof of that repeat.

pub(crate) mod work;

use std::time::{Duration, Instant};

use kernels::Isa;
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, SpecError};
use crate::format::columns;
use crate::machine::Places;
use crate::roofs::{Stores, Triad};
use crate::spec::{REPEATS_MAX, REPEATS_MIN, SECONDS_MAX, check, check_real};
use crate::stats::Spread;
use work::Work;

pub use work::{Arrays, Code, KERNEL_NAMES};

/// Fewest bytes of the dense form.
const BYTES_MIN: usize = 1 << 16;

/// Most bytes of the dense form.
const BYTES_MAX: usize = 1 << 36;

/// Dims of the sparse form.
pub(crate) const DIMS: [usize; 7] = [1, 4, 8, 16, 32, 64, 128];

/// What is measured, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// Bytes of the dense form's arrays together; to be beyond the last-level cache.
    pub bytes: usize,
    /// How long each figure is measured in each repeat, in seconds, and at least one pass.
    pub seconds: f64,
    /// Repeats, interleaved with the roofs.
    pub repeats: usize,
    /// The kernels to measure, by [`KERNEL_NAMES`]; none means all.
    pub only: Vec<String>,
}

/// One kernel in one form on one instruction set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRow {
    /// The kernel's name.
    pub kernel: String,
    /// What it worked on.
    pub form: Form,
    /// Coordinates a row, in the sparse form.
    pub dim: Option<usize>,
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
    /// Dense: the median of the triad whose stores go through the cache, in `unit`.
    pub roof_through_cache: Option<f64>,
    /// Optimizers: the median of the plain loop, compiled for the same instructions, in `unit`.
    pub plain: Option<f64>,
    /// Optimizers: median of each repeat's rate as a part of its plain loop's.
    pub of_plain: Option<f64>,
    /// The lowest repeat's rate.
    pub min: f64,
    /// The highest repeat's rate.
    pub max: f64,
}

/// What a kernel works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Arrays that no cache holds.
    Dense,
    /// Arrays that a cache holds.
    Cache,
    /// Rows in random order, which a cache holds.
    Sparse,
}

impl KernelSpec {
    /// Whether this can be measured.
    ///
    /// - Errors: the first field that is out of range, or the first name that no kernel has.
    pub fn check(&self) -> Result<(), SpecError> {
        check("bytes", self.bytes, BYTES_MIN, BYTES_MAX)?;
        check("repeats", self.repeats, REPEATS_MIN, REPEATS_MAX)?;
        check_real("seconds", self.seconds, f64::MIN_POSITIVE, SECONDS_MAX)?;
        let unknown = self.only.iter().find(|name| !KERNEL_NAMES.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| Err(SpecError::NoKernel { name: name.clone() }))
    }

    fn wants(&self, work: Work) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == work.name())
    }
}

/// Measures the kernels and their roofs in turns, on one core.
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
    let mut bench = Bench {
        arrays: Arrays::new(spec.bytes)?,
        triad: Triad::of_bytes(spec.bytes)?,
        phase: Duration::from_secs_f64(spec.seconds),
        isas: Isa::available(),
    };
    let cases: Vec<Case> =
        kernel_cases().into_iter().filter(|case| spec.wants(case.work)).collect();
    let mut figures: Vec<Figures> = vec![Figures::default(); cases.len() * bench.isas.len()];
    for number in 1..=spec.repeats {
        progress(&format!("repeat {number} of {}", spec.repeats));
        for (case, figures) in cases.iter().zip(figures.chunks_mut(bench.isas.len())) {
            bench.repeat(case, figures);
        }
    }
    let runs = cases.iter().flat_map(|case| bench.isas.iter().map(move |isa| (case, isa)));
    Ok(runs.zip(&figures).map(|((case, isa), figures)| figures.row(case, *isa)).collect())
}

/// The rows as a table for people.
pub fn render_kernels(rows: &[KernelRow]) -> String {
    let head = [
        "kernel",
        "form",
        "dim",
        "isa",
        "rate",
        "_min",
        "_max",
        "roof",
        "share",
        "cached roof",
        "plain",
        "of plain",
        "unit",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let real = |figure: f64| format!("{figure:.1}");
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| String::from("-"));
        vec![
            row.kernel.clone(),
            row.form.name().to_owned(),
            or_dash(row.dim.map(|dim| dim.to_string())),
            row.isa.clone(),
            real(row.rate),
            real(row.min),
            real(row.max),
            real(row.roof),
            percent(row.share),
            or_dash(row.roof_through_cache.map(real)),
            or_dash(row.plain.map(real)),
            or_dash(row.of_plain.map(percent)),
            row.unit.clone(),
        ]
    }));
    columns(&cells)
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Form::Dense => "dense",
            Form::Cache => "cache",
            Form::Sparse => "sparse",
        }
    }
}

/// A kernel in one form.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub(crate) work: Work,
    pub(crate) form: Form,
    /// Coordinates a row, in the sparse form.
    pub(crate) dim: usize,
}

impl Case {
    /// `kernel, form`, and the dim of rows.
    pub fn name(&self) -> String {
        let (kernel, form) = (self.work.name(), self.form.name());
        match self.form {
            Form::Sparse => format!("{kernel}, {form}, dim {}", self.dim),
            Form::Dense | Form::Cache => format!("{kernel}, {form}"),
        }
    }

    /// What it works on.
    pub fn form(&self) -> Form {
        self.form
    }

    /// What can do its work: the kernel, and the plain loop where there is one.
    pub fn codes(&self) -> &'static [Code] {
        if self.work.has_plain() { &[Code::Kernel, Code::Plain] } else { &[Code::Kernel] }
    }
}

/// Every kernel in every form that it has.
pub fn kernel_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for form in [Form::Dense, Form::Cache, Form::Sparse] {
        for work in Work::ALL.into_iter().filter(|work| work.has(form)) {
            let dims = if form == Form::Sparse { &DIMS[..] } else { &[1] };
            cases.extend(dims.iter().map(|&dim| Case { work, form, dim }));
        }
    }
    cases
}

/// What is measured on, and how long.
struct Bench {
    arrays: Arrays,
    triad: Triad,
    phase: Duration,
    isas: Vec<Isa>,
}

impl Bench {
    /// Measures one case on every instruction set, and its roof.
    fn repeat(&mut self, case: &Case, figures: &mut [Figures]) {
        self.arrays.prepare(case);
        let (roof, through_cache) = match case.form {
            Form::Dense => {
                let past = self.triad.gb_per_s(self.phase);
                (past, Some(self.triad.gb_per_s_by(Stores::ThroughCache, self.phase)))
            }
            Form::Cache | Form::Sparse => (self.arrays.copy_gb_per_s(self.phase), None),
        };
        for (isa, figures) in self.isas.clone().into_iter().zip(figures) {
            let plain = case.work.has_plain().then(|| self.rate(case, isa, Code::Plain));
            let rate = self.rate(case, isa, Code::Kernel);
            let per_gb = self.arrays.per_gb(case);
            figures.push(Figure {
                rate,
                roof: roof * per_gb,
                through_cache: through_cache.map(|roof| roof * per_gb),
                plain,
            });
        }
    }

    /// In the case's unit.
    fn rate(&mut self, case: &Case, isa: Isa, code: Code) -> f64 {
        let (bytes, arrays) = (self.arrays.bytes(case), &mut self.arrays);
        let gb_per_s = gb_per_s(bytes, self.phase, case.form, || arrays.pass(case, isa, code));
        gb_per_s * self.arrays.per_gb(case)
    }
}

/// How many GB a second passes over so many bytes go through, for at least `phase`. What a cache is
/// to hold goes through it once before.
pub(crate) fn gb_per_s(bytes: usize, phase: Duration, form: Form, mut pass: impl FnMut()) -> f64 {
    if form != Form::Dense {
        pass();
    }
    let (start, mut passes) = (Instant::now(), 0);
    loop {
        pass();
        passes += 1;
        let elapsed = start.elapsed();
        if elapsed >= phase {
            return (passes * bytes) as f64 / elapsed.as_secs_f64() / 1e9;
        }
    }
}

/// One repeat of a case on one instruction set, in the case's unit.
#[derive(Clone, Copy, Debug)]
struct Figure {
    rate: f64,
    roof: f64,
    through_cache: Option<f64>,
    plain: Option<f64>,
}

/// All repeats of a case on one instruction set.
#[derive(Clone, Debug, Default)]
struct Figures(Vec<Figure>);

impl Figures {
    fn push(&mut self, figure: Figure) {
        self.0.push(figure);
    }

    fn row(&self, case: &Case, isa: Isa) -> KernelRow {
        let spread =
            |of: fn(&Figure) -> f64| Spread::of(&self.0.iter().map(of).collect::<Vec<f64>>());
        let median = |of: fn(&Figure) -> Option<f64>| {
            let figures: Option<Vec<f64>> = self.0.iter().map(of).collect();
            figures.map(|figures| Spread::of(&figures).median)
        };
        let rate = spread(|figure| figure.rate);
        let is_sparse = case.form == Form::Sparse;
        KernelRow {
            kernel: case.work.name().to_owned(),
            form: case.form,
            dim: is_sparse.then_some(case.dim),
            isa: isa.level().to_string(),
            rate: rate.median,
            unit: String::from(if is_sparse { "M_rows_per_s" } else { "GB_per_s" }),
            roof: spread(|figure| figure.roof).median,
            share: spread(|figure| figure.rate / figure.roof).median,
            roof_through_cache: median(|figure| figure.through_cache),
            plain: median(|figure| figure.plain),
            of_plain: median(|figure| figure.plain.map(|plain| figure.rate / plain)),
            min: rate.min,
            max: rate.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> KernelSpec {
        KernelSpec { bytes: BYTES_MIN, seconds: 1e-6, repeats: REPEATS_MIN, only: Vec::new() }
    }

    #[test]
    fn every_kernel_has_a_row_for_each_form_and_instruction_set() {
        let rows = run_kernels(&small(), &mut |_| {}).expect("small arrays");
        let (optimizers, vectors) = (10, 9);
        let per_isa = optimizers + 2 * vectors + DIMS.len() * (optimizers + 1);
        assert_eq!(rows.len(), per_isa * Isa::available().len());
        for row in &rows {
            assert!(row.rate > 0.0 && row.share > 0.0 && row.roof > 0.0, "{row:?}");
            assert!(row.min <= row.rate && row.rate <= row.max, "{row:?}");
            assert_eq!(row.dim.is_some(), row.form == Form::Sparse);
            assert_eq!(row.roof_through_cache.is_some(), row.form == Form::Dense);
        }
        assert!(render_kernels(&rows).contains("ftrl-group"));
        let json = serde_json::to_string(&rows).expect("numbers and strings");
        let back: Vec<KernelRow> = serde_json::from_str(&json).expect("its own fields");
        assert_eq!(back.len(), rows.len());
    }

    #[test]
    fn a_spec_names_the_kernels_that_it_wants() {
        let spec = KernelSpec { only: vec![String::from("adam")], ..small() };
        let rows = run_kernels(&spec, &mut |_| {}).expect("small arrays");
        assert!(!rows.is_empty() && rows.iter().all(|row| row.kernel == "adam"));
        let spec = KernelSpec { only: vec![String::from("eve")], ..small() };
        assert!(matches!(spec.check(), Err(SpecError::NoKernel { name }) if name == "eve"));
    }

    #[test]
    fn a_spec_whose_arrays_are_too_short_is_refused() {
        let spec = KernelSpec { bytes: 1, ..small() };
        assert!(matches!(spec.check(), Err(SpecError::OutOfRange { name: "bytes", .. })));
    }
}
