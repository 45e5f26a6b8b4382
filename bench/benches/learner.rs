//! The learner's side under criterion: parsing, merging and the logistic walk, each group with a
//! copy or a scan of the same bytes as its roof.
//!
//! Owns no result: `gradwire train` measures what is reported. These are for work on one step:
//! `cargo bench -p gradwire-bench --bench learner -- parse`.
#![forbid(unsafe_code)]
// The macro that makes the groups documents nothing.
#![allow(missing_docs)]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kernels::Isa;
use kernels::hash::mix;
use kernels::logistic::sigmoid;
use kernels::scan::{Stops, mark};
use learn::data::{Csr, Format, SourceSpec, parse_block};
use learn::margins;
use learn::metrics::Metrics;
use worker::Merger;

/// Rows of a batch, as `gradwire train` cuts them.
const ROWS: u64 = 1000;
/// Names of a row, and how many each of them is drawn from, least and most.
const NAMES: u64 = 15;
const FEW: u64 = 4;
const MANY: u64 = 60_000;
/// Margins whose sigmoid is taken: 128 KiB, so that they stay in a second-level cache.
const MARGINS: usize = 32 << 10;

/// Feature `name` of a row: columns of few values and of many, as logs of clicks have them.
fn feature(row: u64, name: u64) -> u64 {
    let values = FEW + (MANY - FEW) * name * name / (NAMES * NAMES);
    let draw = mix(row * NAMES + name) % values;
    name * MANY + draw * draw / values // Low ones are frequent.
}

/// A batch in text of Vowpal Wabbit.
fn vw_text() -> String {
    let mut text = String::new();
    for row in 0..ROWS {
        let label = if mix(row).is_multiple_of(4) { "1" } else { "-1" };
        write!(text, "{label} |f").expect("a string takes all");
        for name in 0..NAMES {
            write!(text, " {}", feature(row, name)).expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

/// The same in text of LibSVM.
fn libsvm_text() -> String {
    let mut text = String::new();
    for row in 0..ROWS {
        write!(text, "{}", mix(row) % 2).expect("a string takes all");
        for name in 0..NAMES {
            write!(text, " {}:1", feature(row, name)).expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

fn batch(format: Format, text: &str) -> Csr {
    parse_block(format, &SourceSpec::default(), text.as_bytes()).expect("the text is good")
}

fn parse(criterion: &mut Criterion) {
    for (format, text) in [(Format::Vw, vw_text()), (Format::LibSvm, libsvm_text())] {
        let mut group = criterion.benchmark_group(format!("parse {}", format.name()));
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut copy = text.clone().into_bytes();
        group.bench_function("copy", |bencher| {
            bencher.iter(|| copy.copy_from_slice(black_box(text.as_bytes())));
        });
        group.bench_function("scan for newlines", |bencher| {
            bencher.iter(|| memchr::memchr_iter(b'\n', black_box(text.as_bytes())).count());
        });
        let mut marks = Vec::new();
        for isa in Isa::available() {
            group.bench_function(format!("mark {}", isa.level()), |bencher| {
                bencher.iter(|| mark(isa, black_box(text.as_bytes()), Stops::Names, &mut marks));
            });
        }
        group.bench_function("rows and distinct keys", |bencher| {
            bencher.iter(|| batch(format, black_box(&text)));
        });
        group.finish();
    }
}

fn merge(criterion: &mut Criterion) {
    let keys: Vec<u64> =
        (0..ROWS).flat_map(|row| (0..NAMES).map(move |name| mix(feature(row, name)))).collect();
    let deltas = vec![0.5; keys.len()];
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(keys.len() as u64));
    let mut copy = keys.clone();
    group.bench_function("copy", |bencher| {
        bencher.iter(|| copy.copy_from_slice(black_box(&keys)));
    });
    let mut merger = Merger::new();
    group.bench_function("sort and add up", |bencher| {
        let input = || (keys.clone(), deltas.clone());
        bencher.iter_batched_ref(
            input,
            |(keys, deltas)| merger.merge(keys, deltas, 1),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn logistic(criterion: &mut Criterion) {
    let batch = batch(Format::Vw, &vw_text());
    let mut group = criterion.benchmark_group("margins");
    group.throughput(Throughput::Elements(batch.columns.len() as u64));
    let weights: Vec<f32> = batch.keys.iter().map(|&key| (key >> 40) as f32 * 1e-8).collect();
    let (mut copy, mut found) = (batch.columns.clone(), Vec::new());
    group.bench_function("copy", |bencher| {
        bencher.iter(|| copy.copy_from_slice(black_box(&batch.columns)));
    });
    group.bench_function("sums of weights", |bencher| {
        bencher.iter(|| margins(&batch, black_box(&weights), 1, &mut found));
    });
    let mut metrics = Metrics::default();
    group.bench_function("scores of the rows", |bencher| {
        bencher.iter(|| metrics.add_batch(black_box(&found), &batch.labels, &[]));
    });
    group.finish();

    let mut group = criterion.benchmark_group("sigmoid");
    group.throughput(Throughput::Elements(MARGINS as u64));
    let margins: Vec<f32> = (0..MARGINS as u64).map(|at| (mix(at) >> 60) as f32 - 8.0).collect();
    let mut out = margins.clone();
    group.bench_function("copy", |bencher| {
        bencher.iter(|| out.copy_from_slice(black_box(&margins)));
    });
    for isa in Isa::available() {
        group.bench_function(isa.level().to_string(), |bencher| {
            bencher.iter(|| sigmoid(isa, black_box(&mut out)));
        });
    }
    group.finish();
}

criterion_group!(learner, parse, merge, logistic);
criterion_main!(learner);
