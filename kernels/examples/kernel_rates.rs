//! Prints how fast the kernels of the data path run on this machine, level by level.
//!
//! Owns the loads and the clock: each figure is the median of [`REPEATS`] runs on one core. What
//! the figures should be is left to `BENCHMARKS.md`.
//!
//! Run: `cargo run --release -p gradwire-kernels --example kernel_rates`.

use std::alloc::{Layout, alloc};
use std::hint::black_box;
use std::slice;
use std::time::Instant;

use gradwire_kernels::{Isa, adagrad, adam, crc32c, ftrl, hash, logistic, probe, rows, sgd};

/// Runs whose median is printed.
const REPEATS: usize = 31;
/// Keys in a batch: about what one request asks one shard for.
const BATCH: usize = 10_000;
const LINES: usize = 1 << 19;
/// Keys in the index: full to a part of 0.60, as full as a shard lets it become.
const KEYS: usize = 1_572_000;
/// Rows of the arena whose rates are those "in cache": 8 f32 each make 512 KiB.
const ROWS_IN_CACHE: usize = 16_384;
const MESSAGE_BYTES: usize = 400 << 10;

#[expect(clippy::print_stdout, reason = "results of a program go to stdout")]
fn main() {
    println!("kernel               load                              level    rate_median  unit");
    for isa in Isa::available() {
        let level = isa.level();
        let print = |kernel: &str, load: &str, rate: f64, unit: &str| {
            println!("{kernel:<19}  {load:<32}  {level:<7}  {rate:>11.1}  {unit}");
        };
        checksums(isa, print);
        optimizers(isa, print);
        probes(isa, print);
    }
}

/// The median of work per microsecond, which is millions a second.
fn rate(work: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut rates: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            run();
            work as f64 / (start.elapsed().as_secs_f64() * 1e6)
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[REPEATS / 2]
}

fn checksums(isa: Isa, print: impl Fn(&str, &str, f64, &str)) {
    let bytes = vec![0x5A_u8; MESSAGE_BYTES];
    let whole = rate(100 * MESSAGE_BYTES, || {
        for _ in 0..100 {
            black_box(crc32c::crc32c(isa, 0, black_box(&bytes)));
        }
    });
    print("crc32c", "400 KiB", whole / 1e3, "GB/s");
    let short = rate(10_000 * 256, || {
        for _ in 0..10_000 {
            black_box(crc32c::crc32c(isa, 0, black_box(&bytes[..256])));
        }
    });
    print("crc32c", "256 B", short / 1e3, "GB/s");
    let mut margins = vec![0.5_f32; BATCH];
    let sigmoids = rate(BATCH, || logistic::sigmoid(isa, black_box(&mut margins)));
    print("logistic::sigmoid", "10 k", sigmoids, "M/s");
}

fn optimizers(isa: Isa, print: impl Fn(&str, &str, f64, &str)) {
    let mut order: Vec<u32> = (0..ROWS_IN_CACHE as u32).collect();
    order.sort_by_key(|&row| hash::mix(u64::from(row)));
    let at = &order[..BATCH];
    let mut arena = vec![0.1_f32; ROWS_IN_CACHE * adam::row_width(8)];
    let deltas = vec![1e-3_f32; BATCH * 16];
    let mut values = vec![0.0_f32; BATCH * 16];
    let sgd = sgd::Step { rate: 0.1 };
    for dim in [1, 8, 64] {
        let rows_at = &at[..BATCH / dim.max(8) * 8];
        let at: Vec<u32> = rows_at.iter().map(|row| row % (arena.len() / dim) as u32).collect();
        let deltas = &deltas[..at.len() * dim];
        let run = || sgd::apply_rows(isa, &mut arena, dim, dim, &at, deltas, &sgd);
        print("sgd::apply_rows", &format!("dim {dim}, in cache"), rate(at.len(), run), "M rows/s");
    }
    let adagrad = adagrad::Step { rate: 0.1, epsilon: 1e-8 };
    let adam = adam::Step { rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    let ftrl = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 1.0, l2: 0.1 };
    for dim in [1, 8] {
        let load = format!("dim {dim}, in cache");
        let (one, two) = (&deltas[..BATCH * dim], &deltas[..BATCH * 2 * dim]);
        let run = || adagrad::apply_rows(isa, &mut arena, 2 * dim, dim, at, one, &adagrad);
        print("adagrad::apply_rows", &load, rate(BATCH, run), "M rows/s");
        let run = || ftrl::apply_rows(isa, &mut arena, 2 * dim, dim, at, two, &ftrl);
        print("ftrl::apply_rows", &load, rate(BATCH, run), "M rows/s");
        let values = &mut values[..BATCH * 2 * dim];
        let run = || ftrl::read_rows(isa, &arena, 2 * dim, dim, at, black_box(values), &ftrl);
        print("ftrl::read_rows", &load, rate(BATCH, run), "M rows/s");
        arena.fill(0.0);
        let width = adam::row_width(dim);
        let run = || adam::apply_rows(isa, &mut arena, width, dim, at, one, &adam);
        print("adam::apply_rows", &load, rate(BATCH, run), "M rows/s");
        let values = &mut values[..BATCH * dim];
        let run = || rows::gather(isa, &arena, dim, dim, at, black_box(values));
        print("rows::gather", &load, rate(BATCH, run), "M rows/s");
    }
}

/// Finds among [`KEYS`] keys, and a whole push: find, then SGD on the rows found.
fn probes(isa: Isa, print: impl Fn(&str, &str, f64, &str)) {
    let lines = on_huge_pages(&vec![probe::EMPTY_LINE; LINES]);
    for row in 0..KEYS as u32 {
        probe::insert(lines, hash::mix(u64::from(row)), row);
    }
    let data = on_huge_pages(&vec![0.1_f32; KEYS * 8]);
    let batches: Vec<Vec<u64>> = (0..REPEATS as u64 + 1)
        .map(|batch| {
            let draw = |index: u64| hash::mix(hash::mix((batch << 32) | index) % KEYS as u64);
            let mut wanted: Vec<u64> = (0..BATCH as u64).map(draw).collect();
            wanted.sort_unstable();
            wanted.dedup();
            wanted
        })
        .collect();
    let deltas = vec![1e-3_f32; BATCH * 8];
    let mut found = vec![0; BATCH];
    let mut turn = batches.iter();
    let load = format!(
        "{:.1} M keys, load {:.2}",
        KEYS as f64 / 1e6,
        KEYS as f64 / (LINES * probe::LANES) as f64
    );
    let finds = rate(BATCH, || {
        let wanted = turn.next().expect("a batch a run");
        let found = &mut found[..wanted.len()];
        probe::find(isa, lines, wanted, black_box(found), data, 8);
    });
    print("probe::find", &load, finds, "M keys/s");
    let mut turn = batches.iter();
    let pushes = rate(BATCH, || {
        let wanted = turn.next().expect("a batch a run");
        let found = &mut found[..wanted.len()];
        probe::find(isa, lines, wanted, found, data, 8);
        let deltas = &deltas[..found.len() * 8];
        sgd::apply_rows(isa, data, 8, 8, found, deltas, &sgd::Step { rate: 0.1 });
    });
    print("find + sgd dim 8", &load, pushes, "M keys/s");
}

/// A copy of the items where `memory` would put them: on pages of 2 MiB, as far as the system has
/// any, the first at a page's start. Never freed: the process ends with the measurement.
fn on_huge_pages<T: Copy>(items: &[T]) -> &'static mut [T] {
    const PAGE_BYTES: usize = 2 << 20;
    const MADV_HUGEPAGE: i32 = 14;
    #[cfg(target_os = "linux")]
    unsafe extern "C" {
        fn madvise(address: *mut std::ffi::c_void, bytes: usize, advice: i32) -> i32;
    }
    let bytes = size_of_val(items).max(1);
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("a size that fits");
    // SAFETY: `bytes` is above 0.
    let start = unsafe { alloc(layout) };
    assert!(!start.is_null(), "no memory for {bytes} bytes");
    // SAFETY: the range is the allocation; this advice changes no content, and a refusal leaves
    // the pages as they are.
    #[cfg(target_os = "linux")]
    let _refused = unsafe { madvise(start.cast(), bytes, MADV_HUGEPAGE) };
    // SAFETY: the allocation is new, so it overlaps no other, and as large as `items`.
    unsafe { start.copy_from_nonoverlapping(items.as_ptr().cast(), size_of_val(items)) };
    // SAFETY: `items.len()` items were copied to `start`, which is aligned to a page, is never
    // freed and is known to no one else.
    unsafe { slice::from_raw_parts_mut(start.cast(), items.len()) }
}
