//! `gradwire bench checkpoint`: what a checkpoint costs a job, and how fast it goes beside files.
//!
//! Owns the order in which figures are taken. What a checkpoint is made of is left to `server` and
//! `checkpoint`.
//!
//! Each repeat takes its figures in turns: the load alone, the load beside a checkpoint, a
//! checkpoint beside a job that all but sleeps, plain files of the same bytes with their sync. What
//! is read is dropped from the page cache before. Then come restores, checkpoints that are paced,
//! and checkpoints of changes.

mod load;
mod plain;
mod report;
mod running;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use server::coordinator::{CheckpointSpec, Stored};
use server::{TURN_BOUNDS_NS, Turns};
use wire::RestoredFrom;
use worker::{TableId, WorkerId};

use self::load::Load;
use self::plain::{Way, forget, read_plain, write_plain};
use self::report::{Figures, Report};
use self::running::{Folder, Running};
use crate::cluster::ValuesFlag;
use crate::failure::Failure;
use crate::flags::{Count, RateFlag};
use crate::output::{complain, json, table};

const CLUSTER: &str = "bench";
const TABLE: TableId = TableId::new(0);
/// Rows of a push.
const PUSH_KEYS: u64 = 10_000;
const WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Turns that take longer are counted.
const LONG_TURN_NS: u64 = 2_000_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct CheckpointBenchArgs {
    /// Where checkpoints and plain files go; what is written is removed [default: the directory
    /// for temporary files].
    #[arg(long, value_name = "DIR")]
    place: Option<PathBuf>,
    /// Rows of the table, such as 8M.
    #[arg(long, value_name = "N", default_value = "8M")]
    rows: Count,
    /// Values a row.
    #[arg(long, value_name = "N", default_value_t = 8)]
    dim: u16,
    /// Shards.
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: u16,
    /// Cores of the server that has them, a thread each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    cores: u16,
    /// What the server may write in the paced checkpoints, as of `coordinate --checkpoint-rate`.
    #[arg(long, value_name = "auto|max|MIB", default_value = "auto")]
    rate: RateFlag,
    /// How numbers of rows are written.
    #[arg(long, value_enum, default_value = "f32", value_name = "VALUES")]
    values: ValuesFlag,
    /// Repeats, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Seconds of the load alone in each.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &CheckpointBenchArgs) -> Result<(), Failure> {
    if arguments.repeats == 0 || arguments.rows.0 < PUSH_KEYS as usize || arguments.dim == 0 {
        return Err(Failure::usage(format!("--rows: at least {PUSH_KEYS}; --repeats, --dim: 1")));
    }
    let place = arguments.place.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder(place.join(format!("gradwire-bench-{}", std::process::id())));
    fs::create_dir_all(&folder.0).map_err(Failure::failed)?;
    let mut figures = Figures::default();
    let bytes = take(arguments, &folder.0, &mut figures)?;
    restore(arguments, &folder.0, &mut figures)?;
    take_paced(arguments, &folder.0, &mut figures)?;
    take_changes(arguments, &folder.0, &mut figures)?;
    let report = Report::of(arguments, bytes, &figures);
    if arguments.json { json(&report) } else { table(&report.pairs()) }
}

/// Takes checkpoints, under load and not. Bytes of one.
fn take(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    figures: &mut Figures,
) -> Result<u64, Failure> {
    with_load(arguments, folder, ("checkpoints", RateFlag::MAX, 1), |running, load| {
        (0..=arguments.repeats).try_fold(0, |_, repeat| {
            let mut first = Figures::default();
            // The first one finds caches and disk in another state.
            let figures = if repeat == 0 { &mut first } else { &mut *figures };
            measure(arguments, folder, (running, load), figures)
        })
    })
}

/// Takes checkpoints under load, with what is recorded of rows bounded.
fn take_paced(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let seconds = Duration::from_secs_f64(arguments.seconds);
    with_load(arguments, folder, ("paced", arguments.rate, 1), |running, load| {
        for _ in 0..arguments.repeats {
            thread::sleep(seconds / 4);
            let ((), alone, _) = load.beside(|| sleep(seconds))?;
            let ((took, _), beside, _) = load.beside(|| running.checkpoint())?;
            // It takes long: what the load alone does may be something else by now.
            let ((), after, _) = load.beside(|| sleep(seconds))?;
            let alone = alone.midpoint(after);
            figures.paced_share.push(beside / alone);
            figures.paced_ms.push(took.as_secs_f64() * 1e3);
            complain(&format!(
                "gradwire: paced, {beside:.3e} of {alone:.3e} rows/s beside one of {:.2} s",
                took.as_secs_f64()
            ));
        }
        Ok(())
    })
}

/// Takes checkpoints of changes, and has it noted what changes.
fn take_changes(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let seconds = Duration::from_secs_f64(arguments.seconds);
    let full_every = checkpoint::LINE_MAX;
    with_load(arguments, folder, ("changes", RateFlag::MAX, full_every), |running, load| {
        thread::sleep(seconds / 4);
        let ((), before, _) = load.beside(|| sleep(seconds))?;
        running.checkpoint()?;
        let ((), noting, _) = load.beside(|| sleep(seconds))?;
        load.sleeps.store(true, Ordering::Relaxed);
        thread::sleep(seconds / 4);
        running.checkpoint()?; // All that the load has changed.
        for _ in 0..arguments.repeats {
            thread::sleep(seconds);
            let (took, bytes) = running.checkpoint()?;
            let ms = took.as_secs_f64() * 1e3;
            figures.changes.push([bytes as f64, ms, noting / before]);
            complain(&format!("gradwire: {bytes} bytes of changes in {ms:.0} ms"));
        }
        Ok(())
    })
}

fn sleep(time: Duration) -> Result<(), Failure> {
    thread::sleep(time);
    Ok(())
}

/// Has a cluster under load measured.
///
/// - `how`: the folder of its checkpoints, their rate, and how many to one that has everything.
fn with_load<T>(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    (name, RateFlag(rate_mib_s), full_every): (&str, RateFlag, u32),
    measured: impl FnOnce(&Running, &Load) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let place = folder.join(name).display().to_string();
    let (options, keep) = (checkpoint::Options::default(), checkpoint::KEEP_MIN);
    let values = arguments.values.into();
    let spec = CheckpointSpec { place, options, every: None, keep, rate_mib_s, full_every, values };
    let stored = Stored { checkpoints: Some(spec), restore: None };
    let running = Running::start(arguments, &folder.join(format!("{name}-data")), stored)?;
    let (rows, dim, load) = (arguments.rows.0 as u64, arguments.dim, Load::default());
    thread::scope(|scope| {
        let (load, running) = (&load, &running);
        let ended = |outcome: Result<(), Failure>| {
            load.over.store(true, Ordering::Relaxed);
            outcome
        };
        let pushes = scope.spawn(move || {
            let session = running.session(WorkerId::new(0), dim);
            ended(session.and_then(|mut session| load.push(&mut session, rows, dim)))
        });
        while !load.filled.load(Ordering::Relaxed) && !load.is_over() {
            thread::sleep(LOOK_EVERY);
        }
        let probes = scope.spawn(move || {
            let session = running.session(WorkerId::OBSERVER, dim);
            ended(session.and_then(|mut session| load.probe(&mut session, rows, dim)))
        });
        let measured = measured(running, load);
        load.over.store(true, Ordering::Relaxed);
        for thread in [pushes, probes] {
            thread.join().expect("a failure is a value")?;
        }
        measured
    })
}

/// One repeat.
fn measure(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    (running, load): (&Running, &Load),
    figures: &mut Figures,
) -> Result<u64, Failure> {
    let mib = |bytes: u64, took: Duration| bytes as f64 / (1 << 20) as f64 / took.as_secs_f64();
    let seconds = Duration::from_secs_f64(arguments.seconds);
    load.sleeps.store(false, Ordering::Relaxed);
    thread::sleep(seconds / 4);
    let [begun, ..] = running.turns();
    let ((), alone, probes_alone) = load.beside(|| sleep(seconds))?;
    let [between, ..] = running.turns();
    let ((took, bytes), beside, probes_beside) = load.beside(|| running.checkpoint())?;
    let [ended, recording, own] = running.turns();
    let turns = [long_turns(&begun, &between), long_turns(&between, &ended)];
    let turns = [turns[0].0, turns[1].0, turns[0].1, turns[1].1];
    figures.turns.iter_mut().zip(turns).for_each(|(all, one)| all.push(one));
    figures.recording_turn.push(recording.longest.as_secs_f64() * 1e6);
    figures.recording_turn_own.push(own.longest.as_secs_f64() * 1e6);
    load.sleeps.store(true, Ordering::Relaxed);
    thread::sleep(seconds / 4);
    let (quiet_took, quiet_bytes) = running.checkpoint()?;
    thread::sleep(seconds / 4); // Older ones are being removed.
    let plain_took = write_plain(&folder.join("plain"), quiet_bytes, Way::Cached)?;
    let direct_took = write_plain(&folder.join("plain"), quiet_bytes, Way::Direct)?;
    figures.alone.push(alone);
    figures.beside.push(beside);
    figures.push_share.push(beside / alone);
    let probes = probes_alone.into_iter().chain(probes_beside);
    figures.probes.iter_mut().zip(probes).for_each(|(all, one)| all.push(one));
    figures.beside_write.push(mib(bytes, took));
    let (write, plain) = (mib(quiet_bytes, quiet_took), mib(quiet_bytes, plain_took));
    figures.write.push(write);
    figures.plain_write.push(plain);
    let direct = mib(quiet_bytes, direct_took);
    figures.direct_write.push(direct);
    figures.write_share.push(write / plain.max(direct));
    complain(&format!(
        "gradwire: pushes {alone:.3e} rows/s alone, {beside:.3e} beside a checkpoint; written at \
         {write:.0} MiB/s, a plain file at {plain:.0}, past the cache at {direct:.0}"
    ));
    Ok(quiet_bytes)
}

/// Of the turns between two moments: the upper end of the range of the longest, in us, and how many
/// of ten thousand took more than 2 ms.
fn long_turns(before: &Turns, after: &Turns) -> (f64, f64) {
    let counts = before.counts.iter().zip(&after.counts).map(|(before, after)| after - before);
    let counts: Vec<u64> = counts.collect();
    let last = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    // Beyond the last bound there is no end.
    let longest_ns = TURN_BOUNDS_NS.get(last).map_or(f64::INFINITY, |&ns| ns as f64);
    let first = TURN_BOUNDS_NS.partition_point(|&bound_ns| bound_ns <= LONG_TURN_NS);
    let long: u64 = counts[first..].iter().sum();
    let all: u64 = counts.iter().sum();
    (longest_ns / 1e3, long as f64 * 1e4 / all.max(1) as f64)
}

/// Begins clusters from the last checkpoint.
fn restore(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let place = folder.join("checkpoints").display().to_string();
    let options = checkpoint::Options::default();
    let store = checkpoint::Store::open(&place, &options).map_err(Failure::failed)?;
    let found = store.newest_good(None, checkpoint::Depth::Lengths).map_err(Failure::failed)?;
    let found = found.checkpoint.ok_or_else(|| Failure::failed("no checkpoint"))?;
    let (number, bytes) = (found.manifest().number.get(), found.manifest().part_bytes());
    let parts = found.manifest().parts.iter();
    let home = Path::new(&place).join(format!("ckpt-{number:010}"));
    let parts: Vec<PathBuf> = parts.map(|part| home.join(&part.object)).collect();
    for repeat in 0..arguments.repeats {
        let [cached, direct] = [Way::Cached, Way::Direct].map(|way| read_plain(&parts, way));
        let plain = cached?.min(direct?);
        parts.iter().try_for_each(|part| forget(part))?;
        let restore = Some(RestoredFrom { place: place.clone(), number });
        let begun = Instant::now();
        let data = folder.join(format!("data-{repeat}"));
        let running = Running::start(arguments, &data, Stored { checkpoints: None, restore })?;
        loop {
            let status = running.status()?;
            let loading = status.restore.map_or(0, |restore| restore.loading);
            if status.epoch.get() > 0 && loading == 0 {
                break;
            }
            if begun.elapsed() > WAIT_MAX {
                return Err(Failure::failed("a cluster is not restored"));
            }
            thread::sleep(LOOK_EVERY);
        }
        let took = begun.elapsed();
        let mib = |took: Duration| bytes as f64 / (1 << 20) as f64 / took.as_secs_f64();
        figures.plain_read.push(mib(plain));
        figures.restore.push(mib(took));
        figures.restore_share.push(mib(took) / mib(plain));
        complain(&format!(
            "gradwire: restored at {:.0} MiB/s, plain files read at {:.0}",
            mib(took),
            mib(plain)
        ));
    }
    Ok(())
}
