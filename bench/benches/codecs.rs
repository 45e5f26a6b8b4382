//! Codecs under criterion, each group with a copy of the same raw bytes as its roof.
//!
//! Owns no result: `gradwire bench codec` measures what is reported. These are for work on a codec:
//! `cargo bench -p gradwire-bench --bench codecs -- int8`.
#![forbid(unsafe_code)]
// The macro that makes the groups documents nothing.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use kernels::Isa;
use kernels::codec::{
    Rounding, RowShape, ValueCodec, bitmap_words, compress_rows, decode_values, encode_values,
    encode_with_feedback, encoded_values_bytes_max, expand_rows, join_columns, keep_above,
    keep_top, pack_keys, packed_keys_bytes_max, split_columns, unpack_keys,
};
use kernels::hash::mix;

/// Keys of a list: 64 KiB, so that it stays in a second-level cache.
const KEYS: usize = 8 << 10;
/// Values of a stream: 128 KiB.
const VALUES: usize = 32 << 10;
/// Values of what is selected from: 16 MiB, beyond a second-level cache.
const SELECTED: usize = 4 << 20;

fn keys(criterion: &mut Criterion) {
    let sorted = |key: fn(u64) -> u64| {
        let mut keys: Vec<u64> = (0..KEYS as u64).map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    let lists = [
        ("hashes", sorted(mix)),
        ("ids", sorted(|number| mix(number) % 1_000_000)),
        ("dense", sorted(|number| number + number / 3)),
    ];
    for (name, keys) in lists {
        let mut group = criterion.benchmark_group(format!("keys {name}"));
        group.throughput(Throughput::Bytes((keys.len() * size_of::<u64>()) as u64));
        let mut packed = vec![0; packed_keys_bytes_max(keys.len())];
        let mut back = keys.clone();
        group.bench_function("copy", |bencher| {
            bencher.iter(|| back.copy_from_slice(black_box(&keys)));
        });
        for isa in Isa::available() {
            group.bench_function(format!("pack {}", isa.level()), |bencher| {
                bencher.iter(|| pack_keys(isa, black_box(&keys), &mut packed));
            });
            group.bench_function(format!("unpack {}", isa.level()), |bencher| {
                bencher.iter(|| unpack_keys(isa, black_box(&packed), &mut back));
            });
        }
        group.finish();
    }
}

/// Numbers spread over some orders of magnitude, as gradients are.
fn gradients(count: usize) -> Vec<f32> {
    let unit = |bits: u64| (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..count as u64).map(|index| unit(mix(index)) * unit(mix(!index)).powi(4)).collect()
}

fn group_of<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    floats: usize,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes((floats * size_of::<f32>()) as u64));
    group
}

fn values(criterion: &mut Criterion) {
    let (values, mut back) = (gradients(VALUES), vec![0.0; VALUES]);
    for codec in ValueCodec::ALL {
        let mut group = group_of(criterion, &codec.to_string(), VALUES);
        let mut bytes = vec![0; encoded_values_bytes_max(codec, VALUES)];
        group.bench_function("copy", |bencher| {
            bencher.iter(|| back.copy_from_slice(black_box(&values)));
        });
        for isa in Isa::available() {
            for (name, rounding) in
                [("nearest", Rounding::Nearest), ("stochastic", Rounding::Stochastic { seed: 1 })]
            {
                group.bench_function(format!("encode {name} {}", isa.level()), |bencher| {
                    bencher.iter(|| {
                        encode_values(isa, codec, black_box(&values), rounding, &mut bytes)
                    });
                });
            }
            group.bench_function(format!("decode {}", isa.level()), |bencher| {
                bencher.iter(|| decode_values(isa, codec, black_box(&bytes), &mut back));
            });
        }
        let mut residual = vec![0.0; VALUES];
        group.bench_function("encode with feedback", |bencher| {
            let isa = Isa::detect();
            bencher.iter(|| {
                let given = black_box(&values);
                encode_with_feedback(
                    isa,
                    codec,
                    given,
                    &mut residual,
                    Rounding::Nearest,
                    &mut bytes,
                )
            });
        });
        group.finish();
    }
}

fn columns(criterion: &mut Criterion) {
    let (rows, mut streams) = (gradients(VALUES), vec![0.0; VALUES]);
    for shape in [RowShape { columns: 2, dim: 1 }, RowShape { columns: 2, dim: 8 }] {
        let name = format!("columns {} of {}", shape.columns, shape.dim);
        let mut group = group_of(criterion, &name, VALUES);
        group.bench_function("copy", |bencher| {
            bencher.iter(|| streams.copy_from_slice(black_box(&rows)));
        });
        for isa in Isa::available() {
            group.bench_function(format!("split {}", isa.level()), |bencher| {
                bencher.iter(|| split_columns(isa, black_box(&rows), shape, &mut streams));
            });
            group.bench_function(format!("join {}", isa.level()), |bencher| {
                bencher.iter(|| join_columns(isa, black_box(&rows), shape, &mut streams));
            });
        }
        group.finish();
    }
}

fn select(criterion: &mut Criterion) {
    let rows = gradients(SELECTED);
    let (mut bitmap, mut back) = (vec![0; bitmap_words(SELECTED)], vec![0.0; SELECTED]);
    let mut group = group_of(criterion, "select", SELECTED);
    group.bench_function("copy", |bencher| {
        bencher.iter(|| back.copy_from_slice(black_box(&rows)));
    });
    for isa in Isa::available() {
        let level = isa.level();
        group.bench_function(format!("above {level}"), |bencher| {
            bencher.iter(|| keep_above(isa, black_box(&rows), 1, 0.1, &mut bitmap));
        });
        group.bench_function(format!("top 1 % {level}"), |bencher| {
            bencher.iter(|| keep_top(isa, black_box(&rows), 1, SELECTED / 100, &mut bitmap));
        });
        let kept = keep_top(isa, &rows, 1, SELECTED / 10, &mut bitmap);
        let mut packed = vec![0.0; kept];
        group.bench_function(format!("compress 10 % {level}"), |bencher| {
            bencher.iter(|| compress_rows(isa, black_box(&rows), 1, &bitmap, &mut packed));
        });
        group.bench_function(format!("expand 10 % {level}"), |bencher| {
            bencher.iter(|| expand_rows(isa, black_box(&packed), 1, &bitmap, &mut back));
        });
    }
    group.finish();
}

criterion_group!(codecs, keys, values, columns, select);
criterion_main!(codecs);
