//! A shard's table under criterion: rows gathered, updated, inserted, removed and scanned, each in
//! a group with its roofs: `cargo bench -p gradwire-bench --bench table -- "gather ftrl"`.
//!
//! Owns no result: `gradwire bench table` measures what is reported. Only the shard's own time
//! counts; writing a request and reading its answer do not.
#![forbid(unsafe_code)]
// The macro that makes the groups documents nothing.
#![allow(missing_docs)]

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use gradwire_bench::roofs::{Rows, Stores, Triad, TwoLines};
use gradwire_bench::{BenchError, Doing, Optimizer, TableLoad};
use kernels::hash::mix;

/// Rows of a table: at four bytes each already more than a core's caches with their keys.
const ROWS: usize = 2_000_000;

/// Keys of a request, and rows that a roof touches between two looks at the clock.
const REQUEST_KEYS: usize = 10_000;

/// Space of a table, as a multiple of its rows and keys.
const BYTES_FACTOR: usize = 16;

/// What is measured: rows in half the memory, rows with their keys, rows of half a line and of two.
const TABLES: [(Optimizer, usize); 4] =
    [(Optimizer::Ftrl, 1), (Optimizer::FtrlCompact, 1), (Optimizer::Sgd, 8), (Optimizer::Sgd, 32)];

/// Least that Criterion takes.
const SAMPLES: usize = 10;

/// Of each function.
const SECONDS: f64 = 0.3;

/// A table that is full, and its keys in requests that have nothing to do with the order in which
/// their rows were made.
struct Full {
    name: String,
    load: TableLoad,
    requests: Vec<Vec<u64>>,
    next: usize,
    row_width: usize,
}

impl Full {
    fn new(optimizer: Optimizer, dim: usize) -> Result<Full, BenchError> {
        let rule = optimizer.rule();
        let row_width = rule.widths(dim).row;
        let row_bytes = size_of::<u64>() + row_width * size_of::<f32>();
        let mut load = TableLoad::new(dim, &*rule, (BYTES_FACTOR * row_bytes * ROWS) as u64)?;
        let mut keys: Vec<u64> = (0..ROWS as u64).map(mix).collect();
        for keys in requests_of(&keys) {
            load.push(&keys, Doing::Load)?;
        }
        keys.sort_unstable_by_key(|&key| mix(!key));
        let requests = requests_of(&keys);
        // Twice: with each push an index that has grown comes a little to rest.
        for keys in requests.iter().chain(&requests) {
            load.push(keys, Doing::Load)?;
        }
        let name = format!("{optimizer} dim {dim}");
        Ok(Full { name, load, requests, next: 0, row_width })
    }

    fn advance(&mut self) -> &[u64] {
        self.next += 1;
        &self.requests[self.next % self.requests.len()]
    }

    fn pull(&mut self) -> Result<Duration, BenchError> {
        let keys = self.advance().to_vec();
        self.load.pull(&keys, Doing::Pull)
    }

    fn push(&mut self) -> Result<Duration, BenchError> {
        let keys = self.advance().to_vec();
        self.load.push(&keys, Doing::Push)
    }

    /// Adds rows and takes them out. How long each took.
    fn add_and_remove(&mut self) -> Result<[Duration; 2], BenchError> {
        self.next += 1;
        let first = (ROWS + self.next * REQUEST_KEYS) as u64;
        let mut keys: Vec<u64> = (first..first + REQUEST_KEYS as u64).map(mix).collect();
        keys.sort_unstable();
        Ok([self.load.push(&keys, Doing::Push)?, self.load.remove(&keys)?])
    }

    /// Reads every row.
    fn scan(&mut self) -> Result<Duration, BenchError> {
        let mut took = Duration::ZERO;
        loop {
            took += self.load.scan()?.1;
            if self.load.is_scanned() {
                return Ok(took);
            }
        }
    }
}

fn requests_of(keys: &[u64]) -> Vec<Vec<u64>> {
    let sorted = |keys: &[u64]| {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys
    };
    keys.chunks(REQUEST_KEYS).map(sorted).collect()
}

fn table(criterion: &mut Criterion) {
    for (optimizer, dim) in TABLES {
        let mut full = Full::new(optimizer, dim).expect("memory for the table");
        let mut flat = Rows::new(ROWS, full.row_width, 1).expect("memory for the rows");
        let mut two = TwoLines::new(ROWS, full.row_width, 1).expect("memory for lines and rows");
        let rows = Throughput::Elements(REQUEST_KEYS as u64);
        for (what, request) in
            [("gather", Full::pull as fn(&mut Full) -> _), ("update", Full::push)]
        {
            let mut group = group_of(criterion, format!("{what} {}", full.name), rows.clone());
            timed(&mut group, "table", || request(&mut full).expect("a shard that takes it"));
            let is_gather = what == "gather";
            timed(&mut group, "flat", || {
                time_of(if is_gather {
                    flat.reads_per_s(Duration::ZERO)
                } else {
                    flat.updates_per_s(Duration::ZERO)
                })
            });
            timed(&mut group, "two lines", || {
                time_of(if is_gather {
                    two.reads_per_s(Duration::ZERO)
                } else {
                    two.updates_per_s(Duration::ZERO)
                })
            });
            group.finish();
        }
        for (at, what) in ["insert", "remove"].into_iter().enumerate() {
            let mut group = group_of(criterion, format!("{what} {}", full.name), rows.clone());
            timed(&mut group, "table", || full.add_and_remove().expect("room")[at]);
            timed(&mut group, "two lines", || time_of(two.updates_per_s(Duration::ZERO)));
            group.finish();
        }
        scan(criterion, &mut full);
    }
}

/// All rows in order, beside as many bytes that are read and written in order.
fn scan(criterion: &mut Criterion, full: &mut Full) {
    let bytes = ROWS * (size_of::<u64>() + full.row_width * size_of::<f32>());
    let mut group =
        group_of(criterion, format!("scan {}", full.name), Throughput::Bytes(bytes as u64));
    timed(&mut group, "table", || full.scan().expect("rows that stay where they are"));
    let mut triad = Triad::of_bytes(bytes).expect("memory for the triad");
    group.throughput(Throughput::Bytes(triad.bytes() as u64));
    group.bench_function("triad", |bencher| bencher.iter(|| triad.pass(Stores::PastCache)));
    group.finish();
}

/// How long a roof took for a request's rows, by the rate of that one step.
fn time_of(rows_per_s: f64) -> Duration {
    Duration::from_secs_f64(REQUEST_KEYS as f64 / rows_per_s)
}

/// A function that says itself how long it took.
fn timed(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut step: impl FnMut() -> Duration) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| step()).sum());
    });
}

fn group_of(
    criterion: &mut Criterion,
    name: String,
    throughput: Throughput,
) -> BenchmarkGroup<'_, WallTime> {
    let phase = Duration::from_secs_f64(SECONDS);
    let mut group = criterion.benchmark_group(name);
    group.sample_size(SAMPLES).warm_up_time(phase / 3).measurement_time(phase);
    group.throughput(throughput);
    group
}

criterion_group!(benches, table);
criterion_main!(benches);
