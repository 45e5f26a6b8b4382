//! `gradwire bench checkpoint`: what a checkpoint costs a job, and how fast it goes beside files.
//!
//! Owns a coordinator and a server in this process, a load of pushes, and a probe that pulls one
//! key after another. What a checkpoint is made of is left to `server` and `checkpoint`.
//!
//! Each repeat takes its figures in turns: the load alone, the load beside a checkpoint, a
//! checkpoint beside a job that all but sleeps, a plain file of the same bytes with its sync. What
//! is read is dropped from the page cache before.

mod plain;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bench::{Random, Spread};
use clap::Args;
use serde::Serialize;
use server::coordinator::{CheckpointSpec, ClusterSpec, Coordinator, RedbStore, Stored};
use server::{AgentSpec, Door, Exposure, Hosting, Membership, OnClosed, Pinning, Server, Way};
use shard::rule::{Sum, table_spec};
use transport::tcp::TcpBackend;
use wire::{
    Ask, Candidate, CheckpointStatus, ClusterStatus, RestoredFrom, ToCoordinator, ToMember,
};
use worker::{JobId, Join, Session, Staleness, TableId, Then, WorkerId, connect_cluster};

use self::plain::{forget, read_plain, write_plain};
use crate::cluster::{Caller, CoordinatorArgs, unexpected};
use crate::failure::Failure;
use crate::flags::Count;
use crate::output::{complain, count, json, pairs_of, table};
use crate::push_pull::{COMMIT, command};
use crate::reach::{cluster_of, watch};
use crate::train::cluster::server_spec;
use crate::train::plan::isa;

const CLUSTER: &str = "bench";
const TABLE: TableId = TableId::new(0);
/// Rows of a push.
const PUSH_KEYS: u64 = 10_000;
/// Messages of pushes that are not answered yet.
const OUTSTANDING_MAX: usize = 8;
const WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Between two probes, and two pushes of a job that all but sleeps.
const PAUSE: Duration = Duration::from_millis(1);

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
    /// What the server may write, in MiB/s [default: as fast as it goes].
    #[arg(long, value_name = "MIB")]
    rate: Option<u32>,
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

/// All figures are medians but for the longest times.
#[derive(Debug, Serialize)]
struct Report {
    commit: &'static str,
    command: String,
    rows: u64,
    bytes: u64,
    push_rows_per_s_alone: f64,
    push_rows_per_s_beside: f64,
    /// Of each pair, the second by the first.
    push_share: f64,
    probe_us_p99_alone: f64,
    probe_us_p99_beside: f64,
    probe_us_max_alone: f64,
    probe_us_max_beside: f64,
    beside_write_mib_per_s: f64,
    write_mib_per_s: f64,
    plain_write_mib_per_s: f64,
    write_share: f64,
    restore_mib_per_s: f64,
    plain_read_mib_per_s: f64,
    restore_share: f64,
}

/// Figures of all repeats.
#[derive(Debug, Default)]
struct Figures {
    alone: Vec<f64>,
    beside: Vec<f64>,
    push_share: Vec<f64>,
    /// p99 and longest, alone and beside.
    probes: [Vec<f64>; 4],
    beside_write: Vec<f64>,
    write: Vec<f64>,
    plain_write: Vec<f64>,
    write_share: Vec<f64>,
    restore: Vec<f64>,
    plain_read: Vec<f64>,
    restore_share: Vec<f64>,
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
    let report = Report::of(arguments.rows.0 as u64, bytes, &figures);
    if arguments.json { json(&report) } else { table(&report.pairs()) }
}

/// Removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A coordinator and a server, as threads.
struct Running {
    coordinator: Coordinator,
    /// Dropped in this order: the door and the membership hold the server.
    _membership: Membership,
    _door: Door,
}

impl Running {
    fn start(
        arguments: &CheckpointBenchArgs,
        data: &Path,
        stored: Stored,
    ) -> Result<Running, Failure> {
        let spec = ClusterSpec {
            name: CLUSTER.to_owned(),
            shards: arguments.shards,
            replicas: 1,
            servers_min: 1,
            spread: server::coordinator::Spread::DistinctServers,
        };
        let log = RedbStore::open(data, CLUSTER).map_err(Failure::failed)?;
        let (listen, exposure) = ("127.0.0.1:0", Exposure::Loopback);
        let coordinator = Coordinator::start_stored(spec, Box::new(log), listen, exposure, stored);
        let coordinator = coordinator.map_err(Failure::failed)?;
        let mut spec = server_spec(Way::Tcp(TcpBackend::Uring), 1, isa(None)?, Pinning::Free);
        (spec.hosting, spec.on_closed) = (Hosting::ByPlacement, OnClosed::AwaitReconnect);
        let server = Arc::new(Server::start(&spec).map_err(Failure::failed)?);
        let door = Door::tcp(Arc::clone(&server), listen, exposure).map_err(Failure::failed)?;
        let place = door.address().map(|address| address.to_string()).unwrap_or_default();
        let (name, host) = (CLUSTER.to_owned(), CLUSTER.to_owned());
        let candidate = Candidate { life: None, name, place, host, memory_mib: 1024, cores: 1 };
        let coordinators = vec![coordinator.address().to_string()];
        let agent = AgentSpec { coordinators, cluster: CLUSTER.to_owned(), server: candidate };
        let membership = Membership::start(server, agent).map_err(Failure::failed)?;
        Ok(Running { coordinator, _membership: membership, _door: door })
    }

    fn session(&self, worker: WorkerId, dim: u16) -> Result<Session, Failure> {
        let address = self.coordinator.address().to_string();
        let placements = watch(&[address], CLUSTER)?;
        let mut spec = cluster_of(&placements, worker);
        spec.patience = WAIT_MAX;
        let mut session = connect_cluster(&spec).map_err(Failure::failed)?;
        let deadline = session.now() + WAIT_MAX;
        let join = Join { job: JobId::new(1), workers: 1, staleness: Staleness::ASP };
        session.join(join, deadline).map_err(Failure::failed)?;
        let spec = table_spec("sums", u32::from(dim), &Sum);
        session.define(TABLE, &spec, deadline).map_err(Failure::failed)?;
        Ok(session)
    }

    /// Has a checkpoint taken. How long it took, and its bytes.
    fn checkpoint(&self) -> Result<(Duration, u64), Failure> {
        let status = || self.coordinator.checkpoints().unwrap_or_default();
        let (before, begun) = (status().ended, Instant::now());
        self.coordinator.take_checkpoint();
        while status().ended == before {
            if begun.elapsed() > WAIT_MAX {
                return Err(Failure::failed("a checkpoint does not end"));
            }
            thread::sleep(LOOK_EVERY);
        }
        let took = begun.elapsed();
        match status() {
            CheckpointStatus { failure: Some(why), .. } => Err(Failure::failed(why)),
            CheckpointStatus { last, .. } => Ok((took, last.map_or(0, |last| last.bytes))),
        }
    }

    fn status(&self) -> Result<ClusterStatus, Failure> {
        let coordinator = vec![self.coordinator.address().to_string()];
        let at = CoordinatorArgs { coordinator, cluster: CLUSTER.to_owned() };
        match Caller::connect(&at.coordinator, &at.cluster)?
            .say(&ToCoordinator::Ask(Ask::Status))?
        {
            ToMember::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }
}

/// What the threads of the load share.
#[derive(Debug, Default)]
struct Load {
    filled: AtomicBool,
    sleeps: AtomicBool,
    over: AtomicBool,
    rows_pushed: AtomicU64,
    probes_us: Mutex<Vec<f64>>,
}

impl Load {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Makes all rows, and then pushes to rows all over the table.
    fn push(&self, session: &mut Session, rows: u64, dim: u16) -> Result<(), Failure> {
        let mut random = Random::new(1);
        let stride = (rows / PUSH_KEYS).max(1);
        let (mut made, mut pushes) = (0, 0);
        while !self.is_over() {
            let sleeps = self.sleeps.load(Ordering::Relaxed);
            let wanted = if sleeps { 1 } else { PUSH_KEYS };
            let first = if made < rows { made / PUSH_KEYS } else { random.below(stride) };
            let keys: Vec<u64> = (0..wanted).map(|at| first + at * stride).collect();
            let split = session.split(&keys).map_err(Failure::failed)?;
            let deltas = Rc::new(vec![1.0; keys.len() * usize::from(dim)]);
            session.push(TABLE, &split, deltas, dim, Then::Tick).map_err(Failure::failed)?;
            let deadline = session.now() + WAIT_MAX;
            session.wait_pushes(OUTSTANDING_MAX, deadline).map_err(Failure::failed)?;
            self.rows_pushed.fetch_add(wanted, Ordering::Relaxed);
            made += wanted;
            pushes += 1;
            self.filled.store(made >= rows, Ordering::Relaxed);
            if sleeps {
                thread::sleep(PAUSE);
            }
        }
        tracing::debug!(pushes, "the load is over");
        Ok(())
    }

    /// Pulls one key, time and again.
    fn probe(&self, session: &mut Session, rows: u64, dim: u16) -> Result<(), Failure> {
        let mut random = Random::new(2);
        while !self.is_over() {
            let begun = Instant::now();
            let split = session.split(&[random.below(rows)]).map_err(Failure::failed)?;
            let ticket = session.pull(TABLE, &split, dim).map_err(Failure::failed)?;
            let deadline = session.now() + WAIT_MAX;
            let values = session.wait_pull(ticket, deadline).map_err(Failure::failed)?;
            session.recycle(values);
            let took_us = begun.elapsed().as_secs_f64() * 1e6;
            self.probes_us.lock().unwrap_or_else(PoisonError::into_inner).push(took_us);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Rows a second while something is done, and of its probes the p99 and the longest.
    fn beside<T>(
        &self,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<(T, f64, [f64; 2]), Failure> {
        let take =
            || std::mem::take(&mut *self.probes_us.lock().unwrap_or_else(PoisonError::into_inner));
        take();
        let (begun, before) = (Instant::now(), self.rows_pushed.load(Ordering::Relaxed));
        let done = work()?;
        let pushed = self.rows_pushed.load(Ordering::Relaxed) - before;
        let rate = pushed as f64 / begun.elapsed().as_secs_f64();
        let mut probes = take();
        probes.sort_by(f64::total_cmp);
        let at = |share: f64| probes.get((probes.len() as f64 * share) as usize).copied();
        let longest = probes.last().copied().unwrap_or(0.0);
        Ok((done, rate, [at(0.99).unwrap_or(longest), longest]))
    }
}

/// Takes checkpoints, under load and not. Bytes of one.
fn take(
    arguments: &CheckpointBenchArgs,
    folder: &Path,
    figures: &mut Figures,
) -> Result<u64, Failure> {
    let place = folder.join("checkpoints").display().to_string();
    let options = checkpoint::Options::default();
    let (keep, rate_mib_s) = (checkpoint::KEEP_MIN, arguments.rate);
    let checkpoints = Some(CheckpointSpec { place, options, every: None, keep, rate_mib_s });
    let stored = Stored { checkpoints, restore: None };
    let running = Running::start(arguments, &folder.join("data"), stored)?;
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
        let measured = (0..=arguments.repeats).try_fold(0, |_, repeat| {
            let mut first = Figures::default();
            // The first one finds caches and disk in another state.
            let figures = if repeat == 0 { &mut first } else { &mut *figures };
            measure(arguments, folder, (running, load), figures)
        });
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
    let ((), alone, probes_alone) = load.beside(|| {
        thread::sleep(seconds);
        Ok(())
    })?;
    let ((took, bytes), beside, probes_beside) = load.beside(|| running.checkpoint())?;
    load.sleeps.store(true, Ordering::Relaxed);
    thread::sleep(seconds / 4);
    let (quiet_took, quiet_bytes) = running.checkpoint()?;
    let plain_took = write_plain(&folder.join("plain"), quiet_bytes)?;
    figures.alone.push(alone);
    figures.beside.push(beside);
    figures.push_share.push(beside / alone);
    let probes = probes_alone.into_iter().chain(probes_beside);
    figures.probes.iter_mut().zip(probes).for_each(|(all, one)| all.push(one));
    figures.beside_write.push(mib(bytes, took));
    let (write, plain) = (mib(quiet_bytes, quiet_took), mib(quiet_bytes, plain_took));
    figures.write.push(write);
    figures.plain_write.push(plain);
    figures.write_share.push(write / plain);
    complain(&format!(
        "gradwire: pushes {alone:.3e} rows/s alone, {beside:.3e} beside a checkpoint; written at \
         {write:.0} MiB/s, a plain file at {plain:.0}"
    ));
    Ok(quiet_bytes)
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
        parts.iter().try_for_each(|part| forget(part))?;
        let begun = Instant::now();
        parts.iter().try_for_each(|part| read_plain(part))?;
        let plain = begun.elapsed();
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

impl Report {
    fn of(rows: u64, bytes: u64, figures: &Figures) -> Report {
        let middle = |all: &[f64]| Spread::of(all).median;
        let longest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
        let [p99_alone, max_alone, p99_beside, max_beside] = &figures.probes;
        Report {
            commit: COMMIT,
            command: command(),
            rows,
            bytes,
            push_rows_per_s_alone: middle(&figures.alone),
            push_rows_per_s_beside: middle(&figures.beside),
            push_share: middle(&figures.push_share),
            probe_us_p99_alone: middle(p99_alone),
            probe_us_p99_beside: middle(p99_beside),
            probe_us_max_alone: longest(max_alone),
            probe_us_max_beside: longest(max_beside),
            beside_write_mib_per_s: middle(&figures.beside_write),
            write_mib_per_s: middle(&figures.write),
            plain_write_mib_per_s: middle(&figures.plain_write),
            write_share: middle(&figures.write_share),
            restore_mib_per_s: middle(&figures.restore),
            plain_read_mib_per_s: middle(&figures.plain_read),
            restore_share: middle(&figures.restore_share),
        }
    }

    fn pairs(&self) -> Vec<(String, String)> {
        pairs_of([
            ("rows", count(self.rows)),
            ("bytes of a checkpoint", count(self.bytes)),
            ("pushed rows/s, alone", count(self.push_rows_per_s_alone as u64)),
            ("pushed rows/s, beside one", count(self.push_rows_per_s_beside as u64)),
            ("share", format!("{:.3}", self.push_share)),
            ("pull of a key, p99 us, alone", format!("{:.0}", self.probe_us_p99_alone)),
            ("pull of a key, p99 us, beside one", format!("{:.0}", self.probe_us_p99_beside)),
            ("pull of a key, longest us, alone", format!("{:.0}", self.probe_us_max_alone)),
            ("pull of a key, longest us, beside one", format!("{:.0}", self.probe_us_max_beside)),
            ("written beside a load, MiB/s", format!("{:.0}", self.beside_write_mib_per_s)),
            ("written, MiB/s", format!("{:.0}", self.write_mib_per_s)),
            ("plain file, MiB/s", format!("{:.0}", self.plain_write_mib_per_s)),
            ("share", format!("{:.2}", self.write_share)),
            ("restored, MiB/s", format!("{:.0}", self.restore_mib_per_s)),
            ("plain files read, MiB/s", format!("{:.0}", self.plain_read_mib_per_s)),
            ("share", format!("{:.2}", self.restore_share)),
        ])
    }
}
