//! A shard's table alone: rows gathered and updated, beside what memory at random gives.
//!
//! Owns the phases of a run and their report. Driving the shard is left to `table_load`, the
//! limits to `roofs`.
//!
//! Invariant: a share is the median of each repeat's own ratio, and rows are compared with their
//! pushes before there is a report.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shard::Upkeep;
use worker::ValueCodec;

use crate::error::{BenchError, Doing, SpecError};
use crate::format::{columns, grouped};
use crate::keys::KeySet;
use crate::machine::{Machine, Places};
use crate::random::Random;
use crate::roofs::{Rows, TwoLines};
use crate::spec::{Optimizer, PushPullSpec};
use crate::stats::Spread;
use crate::table_load::TableLoad;
use crate::turns::{INSERTED_KEYS, Turns, TurnsLog};
use crate::verify::{Agreement, Tally, expected_values};

/// Exponent of the skewed load.
const ZIPF_EXPONENT: f64 = 1.05;

/// Of so many keys of a load with misses, one is resident: 80 % are absent.
const MISS_KEYS_PER_RESIDENT: usize = 5;

/// Requests of the load with misses.
const MISS_BATCHES: usize = 64;

/// Space that the table may take, as a multiple of its rows' own: rows are padded to lines.
const TABLE_BYTES_FACTOR: usize = 32;

/// Keys whose values are checked at the end.
const CHECKED_KEYS: usize = 512;

/// What is measured, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableBenchSpec {
    /// Keys in the table.
    pub keys: usize,
    /// Values a key.
    pub dim: usize,
    /// The table's rule.
    pub optimizer: Optimizer,
    /// Keys a request, distinct.
    pub keys_per_request: usize,
    /// How long each figure is measured in each repeat, in seconds.
    pub seconds: f64,
    /// Repeats, interleaved with the limits.
    pub repeats: usize,
    /// Decides the keys.
    pub seed: u64,
}

/// Rates of all loads, each as `T`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRates<T> {
    /// Rows pulled, all resident, every row once before any again.
    pub gather_rows_per_s: T,
    /// Rows pushed, likewise.
    pub update_rows_per_s: T,
    /// Keys pulled of which 80 % are absent.
    pub miss_gather_rows_per_s: T,
    /// Rows pulled by Zipf's law of exponent 1.05.
    pub zipf_gather_rows_per_s: T,
    /// Rows pushed, likewise.
    pub zipf_update_rows_per_s: T,
    /// Limit: random rows read, their places known.
    pub limit_flat_rows_per_s: T,
    /// Limit: a random line read, then the row that it names.
    pub limit_two_line_rows_per_s: T,
    /// Limit: random rows changed, their places known.
    pub limit_flat_update_rows_per_s: T,
    /// Limit: a random line read, then the row that it names changed.
    pub limit_two_line_update_rows_per_s: T,
}

/// Rates as parts of limits; 1 would be the limit itself. The two-line limit is plain loads, which
/// asking the cache ahead can pass by a little.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableShares {
    /// Gathered rows of the flat limit.
    pub gather_of_flat: Spread,
    /// Gathered rows of the two-line limit.
    pub gather_of_two_line: Spread,
    /// Updated rows of the flat limit.
    pub update_of_flat: Spread,
    /// Updated rows of the two-line limit.
    pub update_of_two_line: Spread,
}

/// What a run gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// Medians over repeats.
    #[serde(flatten)]
    pub rates: TableRates<f64>,
    /// Memory of the table a key, index included, in bytes.
    pub bytes_per_key: f64,
    /// How long the requests took that created the rows.
    #[serde(flatten)]
    pub turns: Turns,
    /// How far repeats lie apart.
    pub spreads: TableRates<Spread>,
    /// The figures as parts of their limits.
    pub shares: TableShares,
    /// Keys whose values were compared with their pushes: bit by bit, or nearly where the rule
    /// rounds by chance.
    pub checked_keys: usize,
    /// The program's commit, as the caller tells it.
    pub commit: String,
    /// The command line, as the caller tells it.
    pub command: String,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub spec: TableBenchSpec,
}

impl TableBenchSpec {
    /// Whether this can be measured.
    ///
    /// - Errors: the first field that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        self.load(0.0).check()
    }

    /// The same as a load that keys are drawn for.
    fn load(&self, zipf_exponent: f64) -> PushPullSpec {
        PushPullSpec {
            keys_per_request: self.keys_per_request,
            dim: self.dim,
            resident_keys: self.keys,
            optimizer: self.optimizer,
            zipf_exponent,
            seconds: self.seconds,
            repeats: self.repeats,
            seed: self.seed,
            ..PushPullSpec::default()
        }
    }
}

/// Measures a shard's table and its limits in turns, in this thread.
///
/// - `commit`, `command`: what the report says of the program.
/// - `progress`: is told in words what happens.
/// - Errors: [`BenchError`]; there is no report of a run whose rows are wrong.
pub fn run_table(
    spec: &TableBenchSpec,
    commit: &str,
    command: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<TableReport, BenchError> {
    spec.check()?;
    let machine = Machine::detect(); // Before this thread is pinned, which hides the other cores.
    memory::start_filling(); // Before, too: it is to run on another core.
    let _pinned = Places::find().pin_worker();
    progress("drawing keys");
    let mut bench = Bench::new(spec)?;
    let width = spec.load(0.0).rule().widths(spec.dim).row;
    let mut flat = Rows::new(spec.keys, width, spec.seed)?;
    let mut two_lines = TwoLines::new(spec.keys, width, spec.seed)?;
    progress("warming up");
    let phase = Duration::from_secs_f64(spec.seconds);
    bench.repeat(phase / 4, &mut flat, &mut two_lines)?;
    let mut repeats = Vec::with_capacity(spec.repeats);
    for number in 1..=spec.repeats {
        progress(&format!("repeat {number} of {}", spec.repeats));
        repeats.push(bench.repeat(phase, &mut flat, &mut two_lines)?);
    }
    progress("checking the rows");
    let checked_keys = bench.check()?;
    let size = bench.table.size()?;
    let spreads = TableRates::spreads(&repeats);
    Ok(TableReport {
        rates: spreads.map(|spread| spread.median),
        bytes_per_key: size.bytes as f64 / size.rows as f64,
        turns: bench.turns.clone(),
        spreads,
        shares: TableShares::of(&repeats),
        checked_keys,
        commit: commit.to_owned(),
        command: command.to_owned(),
        machine,
        spec: spec.clone(),
    })
}

/// The table and its loads.
struct Bench<'a> {
    spec: &'a TableBenchSpec,
    table: TableLoad,
    uniform: Stream,
    zipf: Stream,
    missing: Vec<Vec<u64>>,
    turns: Turns,
}

/// Batches that requests are made of, in turn.
struct Stream {
    keys: KeySet,
    tally: Tally,
    next: usize,
}

impl Stream {
    fn draw(spec: &PushPullSpec) -> Stream {
        let keys = KeySet::draw(spec);
        Stream { tally: Tally::new(keys.batches.len(), 0), keys, next: 0 }
    }

    fn advance(&mut self) -> usize {
        let batch = self.next % self.keys.batches.len();
        self.next += 1;
        batch
    }
}

impl<'a> Bench<'a> {
    /// Draws keys and creates every row by its first push.
    fn new(spec: &'a TableBenchSpec) -> Result<Bench<'a>, BenchError> {
        let uniform = Stream::draw(&spec.load(0.0));
        let zipf = Stream::draw(&spec.load(ZIPF_EXPONENT));
        let missing = missing(&uniform.keys.batches, spec.seed);
        let rule = spec.load(0.0).rule();
        let row_bytes = rule.widths(spec.dim).row * size_of::<f32>();
        let bytes_max = (TABLE_BYTES_FACTOR * row_bytes * spec.keys) as u64;
        let mut table = TableLoad::new(spec.dim, &*rule, bytes_max)?;
        let mut turns = TurnsLog::new();
        for keys in uniform.keys.load.iter().flat_map(|keys| keys.chunks(INSERTED_KEYS)) {
            turns.request(|| table.push(keys, Doing::Load))?;
            while table.upkeep() == Upkeep::Owed {
                turns.growth(|| table.tend());
            }
        }
        // What is measured is a table at rest, as it is when a server had a moment for it.
        while table.tend() != Upkeep::None {}
        let turns = turns.turns();
        Ok(Bench { spec, table, uniform, zipf, missing, turns })
    }

    /// One turn of all figures.
    fn repeat(
        &mut self,
        phase: Duration,
        flat: &mut Rows,
        two_lines: &mut TwoLines,
    ) -> Result<TableRates<f64>, BenchError> {
        let Bench { table, uniform, zipf, missing, .. } = self;
        let mut turn = missing.iter().cycle();
        Ok(TableRates {
            gather_rows_per_s: gather(table, uniform, phase)?,
            limit_flat_rows_per_s: flat.reads_per_s(phase),
            limit_two_line_rows_per_s: two_lines.reads_per_s(phase),
            update_rows_per_s: update(table, uniform, phase)?,
            limit_flat_update_rows_per_s: flat.updates_per_s(phase),
            limit_two_line_update_rows_per_s: two_lines.updates_per_s(phase),
            miss_gather_rows_per_s: rows_per_s(phase, || {
                let keys = turn.next().expect("a load with misses has requests");
                Ok((keys.len(), table.pull(keys, Doing::Pull)?))
            })?,
            zipf_gather_rows_per_s: gather(table, zipf, phase)?,
            zipf_update_rows_per_s: update(table, zipf, phase)?,
        })
    }

    /// Compares some rows with what their pushes make of them, and absent keys with zeros. How many
    /// rows that was.
    fn check(&mut self) -> Result<usize, BenchError> {
        let rule = self.spec.load(0.0).rule();
        let agreement = Agreement::of(self.spec.optimizer, ValueCodec::F32);
        let batches = self.uniform.keys.load.iter().chain(&self.zipf.keys.batches);
        let every = batches.clone().map(Vec::len).sum::<usize>();
        let step = every.div_ceil(CHECKED_KEYS).max(1);
        let wanted: Vec<u64> = batches.flatten().copied().step_by(step).collect();
        let mut known: Vec<(u64, Vec<f32>)> = Vec::new();
        for &key in &wanted {
            let [even, skewed] = [&self.uniform, &self.zipf]
                .map(|stream| stream.tally.pushes_of(key, &stream.keys, &[]));
            let pushes = even + skewed - 1; // Each counts the push that created the row.
            let at = known.iter().position(|&(count, _)| count == pushes).unwrap_or_else(|| {
                known.push((pushes, expected_values(&*rule, self.spec.dim, pushes)));
                known.len() - 1
            });
            self.table.pull(&[key], Doing::Check)?;
            compare(agreement, (key, pushes), self.table.values(), &known[at].1)?;
        }
        let absent = expected_values(&*rule, self.spec.dim, 0);
        self.table.pull(&self.missing[0], Doing::Check)?;
        let rows = self.table.values().chunks_exact(absent.len());
        for (key, row) in self.missing[0].iter().zip(rows) {
            if self.uniform.keys.batches[0].binary_search(key).is_err() {
                compare(Agreement::Bits, (*key, 0), row, &absent)?;
            }
        }
        let resident = self.table.size()?.rows;
        assert_eq!(resident, self.spec.keys as u64, "a pull of absent keys adds no rows");
        Ok(wanted.len())
    }
}

fn gather(table: &mut TableLoad, load: &mut Stream, phase: Duration) -> Result<f64, BenchError> {
    rows_per_s(phase, || {
        let batch = load.advance();
        let keys = &load.keys.batches[batch];
        Ok((keys.len(), table.pull(keys, Doing::Pull)?))
    })
}

fn update(table: &mut TableLoad, load: &mut Stream, phase: Duration) -> Result<f64, BenchError> {
    rows_per_s(phase, || update_once(table, load))
}

fn update_once(table: &mut TableLoad, load: &mut Stream) -> Result<(usize, Duration), BenchError> {
    let batch = load.advance();
    load.tally.batch(batch);
    let keys = &load.keys.batches[batch];
    Ok((keys.len(), table.push(keys, Doing::Push)?))
}

/// Requests until the shard has worked for `phase`; each gives its rows and its time.
fn rows_per_s(
    phase: Duration,
    mut request: impl FnMut() -> Result<(usize, Duration), BenchError>,
) -> Result<f64, BenchError> {
    let (mut rows, mut elapsed) = (0, Duration::ZERO);
    while elapsed < phase {
        let (more, took) = request()?;
        rows += more;
        elapsed += took;
    }
    Ok(rows as f64 / elapsed.as_secs_f64())
}

/// Of a key that was pushed so often: what was pulled against what that makes of its row.
fn compare(
    agreement: Agreement,
    (key, pushes): (u64, u64),
    found: &[f32],
    expected: &[f32],
) -> Result<(), BenchError> {
    for (&found, &expected) in found.iter().zip(expected) {
        if !agreement.holds(found, expected) {
            return Err(BenchError::WrongValue { key, found, expected, pushes });
        }
    }
    Ok(())
}

/// Requests as long as `batches`, of which one key of five is resident. The others are drawn from
/// 64 bits, where resident ones are too few to be met.
fn missing(batches: &[Vec<u64>], seed: u64) -> Vec<Vec<u64>> {
    let mut random = Random::new(!seed);
    let with_misses = |batch: &Vec<u64>| {
        let mut keys: Vec<u64> = batch.iter().copied().step_by(MISS_KEYS_PER_RESIDENT).collect();
        keys.extend((keys.len()..batch.len()).map(|_| random.bits() >> 1));
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    batches.iter().take(MISS_BATCHES).map(with_misses).collect()
}

impl<T: Copy> TableRates<T> {
    fn map<U>(self, of: impl Fn(T) -> U) -> TableRates<U> {
        TableRates {
            gather_rows_per_s: of(self.gather_rows_per_s),
            update_rows_per_s: of(self.update_rows_per_s),
            miss_gather_rows_per_s: of(self.miss_gather_rows_per_s),
            zipf_gather_rows_per_s: of(self.zipf_gather_rows_per_s),
            zipf_update_rows_per_s: of(self.zipf_update_rows_per_s),
            limit_flat_rows_per_s: of(self.limit_flat_rows_per_s),
            limit_two_line_rows_per_s: of(self.limit_two_line_rows_per_s),
            limit_flat_update_rows_per_s: of(self.limit_flat_update_rows_per_s),
            limit_two_line_update_rows_per_s: of(self.limit_two_line_update_rows_per_s),
        }
    }

    /// In the order of the fields, with their names.
    fn named(self) -> [(&'static str, T); 9] {
        [
            ("gather", self.gather_rows_per_s),
            ("update", self.update_rows_per_s),
            ("gather, 80 % absent", self.miss_gather_rows_per_s),
            ("gather, zipf 1.05", self.zipf_gather_rows_per_s),
            ("update, zipf 1.05", self.zipf_update_rows_per_s),
            ("limit: flat, read", self.limit_flat_rows_per_s),
            ("limit: two lines, read", self.limit_two_line_rows_per_s),
            ("limit: flat, update", self.limit_flat_update_rows_per_s),
            ("limit: two lines, update", self.limit_two_line_update_rows_per_s),
        ]
    }
}

impl TableRates<Spread> {
    fn spreads(repeats: &[TableRates<f64>]) -> TableRates<Spread> {
        let all: Vec<[f64; 9]> =
            repeats.iter().map(|one| one.named().map(|(_, rate)| rate)).collect();
        let mut at = 0;
        let names = repeats[0].named();
        let spreads = names.map(|_| {
            at += 1;
            Spread::of(&all.iter().map(|rates| rates[at - 1]).collect::<Vec<f64>>())
        });
        let [gather, update, miss, zipf_gather, zipf_update, flat, two, flat_up, two_up] = spreads;
        TableRates {
            gather_rows_per_s: gather,
            update_rows_per_s: update,
            miss_gather_rows_per_s: miss,
            zipf_gather_rows_per_s: zipf_gather,
            zipf_update_rows_per_s: zipf_update,
            limit_flat_rows_per_s: flat,
            limit_two_line_rows_per_s: two,
            limit_flat_update_rows_per_s: flat_up,
            limit_two_line_update_rows_per_s: two_up,
        }
    }
}

impl TableShares {
    fn of(repeats: &[TableRates<f64>]) -> TableShares {
        let spread = |share: &dyn Fn(&TableRates<f64>) -> f64| {
            Spread::of(&repeats.iter().map(share).collect::<Vec<f64>>())
        };
        TableShares {
            gather_of_flat: spread(&|one| one.gather_rows_per_s / one.limit_flat_rows_per_s),
            gather_of_two_line: spread(&|one| {
                one.gather_rows_per_s / one.limit_two_line_rows_per_s
            }),
            update_of_flat: spread(&|one| one.update_rows_per_s / one.limit_flat_update_rows_per_s),
            update_of_two_line: spread(&|one| {
                one.update_rows_per_s / one.limit_two_line_update_rows_per_s
            }),
        }
    }
}

impl TableReport {
    /// The report as a table for people.
    pub fn render_table(&self) -> String {
        let TableReport { spec, machine, shares, bytes_per_key, turns, .. } = self;
        let mut rows = vec![
            ["", "rows_per_s", "_min", "_max", "of_flat", "of_two_lines"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (name, spread) in self.spreads.named() {
            let rates = [spread.median, spread.min, spread.max].map(grouped);
            let shares = match name {
                "gather" => [shares.gather_of_flat, shares.gather_of_two_line].map(percent),
                "update" => [shares.update_of_flat, shares.update_of_two_line].map(percent),
                _ => [String::new(), String::new()],
            };
            rows.push([vec![name.to_owned()], rates.to_vec(), shares.to_vec()].concat());
        }
        format!(
            "gradwire bench table   commit {}   {}   dim {} f32   {} keys   {} keys a request   \
             {} s x {} runs\n{}, {} cores, Linux {}   1 core\n\n{}\n\
             bytes_per_key: {bytes_per_key:.1}   rows checked {}: {}   command: {}\n\
             {INSERTED_KEYS} new keys a request, us: p50 {:.0}   p99 {:.0}   p99.9 {:.0}   \
             longest {:.0}\n\
             longest part of a growth {:.0}   longest turn without any {:.0}\n\n{}\n",
            self.commit,
            spec.optimizer,
            spec.dim,
            grouped(spec.keys as f64),
            grouped(spec.keys_per_request as f64),
            spec.seconds,
            spec.repeats,
            machine.cpu,
            machine.cores,
            machine.kernel,
            columns(&rows),
            Agreement::of(spec.optimizer, ValueCodec::F32).words(),
            self.checked_keys,
            self.command,
            turns.turn_us_p50,
            turns.turn_us_p99,
            turns.turn_us_p999,
            turns.turn_us_max,
            turns.turn_us_max_growth,
            turns.turn_us_max_noise,
            turns.render_table(),
        )
    }
}

fn percent(share: Spread) -> String {
    format!("{:.1} %", 100.0 * share.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_every_optimizer_holds_what_its_pushes_make() {
        for optimizer in Optimizer::ALL {
            let spec = TableBenchSpec {
                keys: 3_000,
                dim: 3,
                optimizer,
                keys_per_request: 100,
                seconds: 0.002,
                repeats: 5,
                seed: 1,
            };
            let report = run_table(&spec, "none", "test", &mut |_| {});
            let report = report.unwrap_or_else(|error| panic!("{optimizer}: {error}"));
            assert!(report.checked_keys > 100, "{optimizer}");
            assert!(report.bytes_per_key > 12.0, "{optimizer}: {}", report.bytes_per_key);
            let json = serde_json::to_value(&report).expect("numbers and strings");
            assert_eq!(json["gather_rows_per_s"], report.rates.gather_rows_per_s);
            let table = report.render_table();
            assert!(table.contains("limit: two lines, read"), "{table}");
        }
    }

    #[test]
    fn four_of_five_keys_of_the_load_with_misses_are_absent() {
        let batch: Vec<u64> = (0..100).map(|number| number << 57).collect();
        let keys = missing(std::slice::from_ref(&batch), 1);
        assert_eq!(keys[0].len(), 100);
        assert_eq!(keys[0].iter().filter(|key| batch.contains(key)).count(), 20);
        assert!(keys[0].is_sorted_by(|one, next| one < next));
    }
}
