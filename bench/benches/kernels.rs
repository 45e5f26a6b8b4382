//! Every kernel in a group with its roof, for watching one of them while it is changed:
//! `cargo bench -p gradwire-bench --bench kernels -- adam`.
//!
//! Owns the measuring by Criterion alone; the passes are those of `gradwire bench kernel`, whose
//! interleaved medians are what a claim is made of.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use gradwire_bench::roofs::{Stores, Triad};
use gradwire_bench::{Arrays, Case, Code, Form, kernel_cases};
use kernels::Isa;

/// Bytes of the dense form's arrays, and of the triad's: past the cache that one core gets of most
/// processors. `gradwire bench kernel` takes a gigabyte.
const DENSE_BYTES: usize = 512 << 20;

/// Least that Criterion takes.
const SAMPLES: usize = 10;

/// Of each function.
const SECONDS: f64 = 0.3;

fn kernels(criterion: &mut Criterion) {
    let mut arrays = Arrays::new(DENSE_BYTES).expect("memory for the arrays");
    let mut triad = Triad::of_bytes(DENSE_BYTES).expect("memory for the triad");
    for case in kernel_cases() {
        arrays.prepare(&case);
        let mut group = criterion.benchmark_group(case.name());
        let phase = Duration::from_secs_f64(SECONDS);
        group.sample_size(SAMPLES).warm_up_time(phase / 3).measurement_time(phase);
        match case.form() {
            Form::Dense => roof(&mut group, triad.bytes(), || triad.pass(Stores::PastCache)),
            Form::Cache | Form::Sparse => {
                roof(&mut group, Arrays::COPY_BYTES, || arrays.copy());
                arrays.prepare(&case);
            }
        }
        for isa in Isa::available() {
            for &code in case.codes() {
                measure(&mut group, &mut arrays, &case, isa, code);
            }
        }
        group.finish();
    }
}

fn roof(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize, mut pass: impl FnMut()) {
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("roof", |bencher| bencher.iter(&mut pass));
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    arrays: &mut Arrays,
    case: &Case,
    isa: Isa,
    code: Code,
) {
    let name = match code {
        Code::Kernel => isa.level().to_string(),
        Code::Plain => format!("{} plain", isa.level()),
    };
    group.throughput(Throughput::Bytes(arrays.bytes(case) as u64));
    group.bench_function(name, |bencher| bencher.iter(|| arrays.pass(case, isa, code)));
}

criterion_group!(benches, kernels);
criterion_main!(benches);
