//! Stragglers: what slow workers cost under each bound on clocks, and what a spare worker saves.
//!
//! Owns the cells of the table and their ratio to a calm run. One shard and all workers are threads
//! of this process; a step is some arithmetic, and waiting until a set time is over.
//!
//! Invariant: all cells learn from the same batches, each counted once, and are run in turns.

mod desk;
mod machine;
mod task;

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use launch::{Local, LocalSpec};
use serde::Serialize;
use server::{Hosting, OnClosed, Pinning, ServerSpec, Way};
use shard::rule::{AdaGrad, Rules, table_spec};
use transport::Limits;
use wire::{Epoch, JobId, TableSpec, WorkerId};
use worker::{Join, Staleness, Timeouts};

use self::desk::Desk;
use self::machine::{Floor, Machine};
use crate::error::{BenchError, Doing};
use crate::format::columns;
use crate::stats::Spread;

/// Memory that the table may take, in bytes.
const TABLE_BYTES_MAX: u64 = 256 << 20;

/// The learning rate.
const RATE: f32 = 0.1;

/// What is run.
#[derive(Clone, Debug)]
pub struct StragglerSpec {
    /// Workers of the job.
    pub workers: u32,
    /// Workers that stand by where the mode has them.
    pub spares: u32,
    /// Steps of each worker, if all are equally fast.
    pub steps: u64,
    /// How long a step takes.
    pub step: Duration,
    /// Runs of each cell.
    pub repeats: usize,
    /// Draws the data and who is slow when.
    pub seed: u64,
}

/// What is wrong with the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// Nothing.
    None,
    /// One works at a fifth of the others' speed.
    Permanent,
    /// One of twenty steps takes ten times as long.
    Sporadic,
}

/// How far workers may be apart, and whether somebody stands by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bulk-synchronous.
    Bsp,
    /// Bulk-synchronous; a spare does what is late, and takes over whose it was.
    BspBackup,
    /// So many clocks apart at most.
    Ssp(u64),
    /// As far as it comes.
    Asp,
}

/// A cell of the table.
#[derive(Clone, Debug, Serialize)]
pub struct StragglerRow {
    /// What was wrong.
    pub trouble: Trouble,
    /// Such as `bsp`, `bsp+backup`, `ssp:3`.
    pub mode: String,
    /// From the first step to the end of the last.
    pub seconds: Spread,
    /// As a multiple of bulk-synchronous workers without trouble, in the same turn.
    pub times_calm_bsp: Spread,
    /// On rows that nobody learnt from.
    pub logloss: Spread,
    /// From that of the calm bulk-synchronous run of the same turn, in percent.
    pub logloss_delta_pct: Spread,
    /// Places that a spare took over.
    pub takeovers: Spread,
}

/// What one run gave.
#[derive(Clone, Copy)]
struct Outcome {
    seconds: f64,
    logloss: f64,
    takeovers: u32,
}

/// All cells, the calm bulk-synchronous one first.
const CELLS: [(Trouble, Mode); 18] = {
    const MODES: [Mode; 6] =
        [Mode::Bsp, Mode::BspBackup, Mode::Ssp(1), Mode::Ssp(3), Mode::Ssp(10), Mode::Asp];
    const TROUBLES: [Trouble; 3] = [Trouble::None, Trouble::Permanent, Trouble::Sporadic];
    let mut cells = [(Trouble::None, Mode::Bsp); 18];
    let mut number = 0;
    while number < cells.len() {
        cells[number] = (TROUBLES[number / MODES.len()], MODES[number % MODES.len()]);
        number += 1;
    }
    cells
};

/// Runs all cells in turns.
///
/// - `progress`: is told in words what happens.
///
/// # Errors
///
/// A worker cannot go on.
pub fn run_stragglers(
    spec: &StragglerSpec,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<StragglerRow>, BenchError> {
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); CELLS.len()];
    for repeat in 1..=spec.repeats {
        for (number, (trouble, mode)) in CELLS.into_iter().enumerate() {
            progress(&format!("repeat {repeat} of {}: {trouble:?}, {mode}", spec.repeats));
            outcomes[number].push(run_cell(spec, trouble, mode)?);
        }
    }
    let calm = outcomes[0].clone();
    let row = |((trouble, mode), outcomes): ((Trouble, Mode), &Vec<Outcome>)| {
        let spread = |of: &dyn Fn(&Outcome, &Outcome) -> f64| {
            let figures = outcomes.iter().zip(&calm).map(|(one, calm)| of(one, calm));
            Spread::of(&figures.collect::<Vec<f64>>())
        };
        StragglerRow {
            trouble,
            mode: mode.to_string(),
            seconds: spread(&|one, _| one.seconds),
            times_calm_bsp: spread(&|one, calm| one.seconds / calm.seconds),
            logloss: spread(&|one, _| one.logloss),
            logloss_delta_pct: spread(&|one, calm| (one.logloss / calm.logloss - 1.0) * 100.0),
            takeovers: spread(&|one, _| f64::from(one.takeovers)),
        }
    };
    Ok(CELLS.into_iter().zip(&outcomes).map(row).collect())
}

/// The table, for people.
pub fn render_stragglers(rows: &[StragglerRow]) -> String {
    let head = ["trouble", "mode", "seconds", "times calm bsp", "logloss", "delta %", "takeovers"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        vec![
            format!("{:?}", row.trouble).to_lowercase(),
            row.mode.clone(),
            format!("{:.2}", row.seconds.median),
            format!("{:.2}", row.times_calm_bsp.median),
            format!("{:.4}", row.logloss.median),
            format!("{:+.2}", row.logloss_delta_pct.median),
            format!("{:.0}", row.takeovers.median),
        ]
    }));
    columns(&cells)
}

fn run_cell(spec: &StragglerSpec, trouble: Trouble, mode: Mode) -> Result<Outcome, BenchError> {
    let local = Local::start(local_spec())?;
    let job = JobId::new(spec.seed);
    let join = Join { job, workers: spec.workers, staleness: mode.staleness() };
    let desk = Mutex::new(Desk::new(spec.workers, spec.steps * u64::from(spec.workers)));
    let backs_up = mode == Mode::BspBackup;
    let spares = if backs_up { spec.spares } else { 0 };
    let began = Instant::now();
    let mut floor = Floor { spec, local: &local, join, trouble, backs_up, began, desk };
    // All have joined before the first begins: nobody waits for a thread to start.
    (0..spec.workers).try_for_each(|place| floor.session(WorkerId::new(place), 1).map(drop))?;
    floor.began = Instant::now();
    let floor = &floor;
    std::thread::scope(|scope| {
        let run = |number: u32| {
            let is_spare = number >= spec.workers;
            let session = (!is_spare).then(|| floor.session(WorkerId::new(number), 1));
            Machine::new(floor, number).run(session.transpose()?)
        };
        let machines = (0..spec.workers + spares).map(|number| scope.spawn(move || run(number)));
        let machines: Vec<_> = machines.collect();
        let ends = machines.into_iter().map(|machine| machine.join().expect("errors are values"));
        ends.collect::<Result<Vec<()>, BenchError>>()
    })?;
    let seconds = floor.began.elapsed().as_secs_f64();
    let mut observer = floor.session(WorkerId::OBSERVER, 1)?;
    let keys: Vec<u64> = (0..task::FEATURES).collect();
    let weights = machine::pull(&mut observer, &keys)
        .map_err(|error| BenchError::Worker { doing: Doing::Check, error })?;
    let takeovers = floor.desk.lock().map_or(0, |desk| desk.takeovers());
    Ok(Outcome { seconds, logloss: task::loss(spec.seed, &weights), takeovers })
}

fn table() -> TableSpec {
    table_spec("weights", 1, &AdaGrad { rate: RATE, epsilon: 1e-8 })
}

fn local_spec() -> LocalSpec {
    LocalSpec {
        servers: 1,
        server: ServerSpec {
            hosting: Hosting::OneACore,
            on_closed: OnClosed::AwaitReconnect,
            cores: 1,
            way: Way::Shm,
            limits: Limits::default(),
            pinning: Pinning::Free,
            epoch: Epoch::new(1),
            rules: Rules::builtin(),
            table_bytes_max: TABLE_BYTES_MAX,
            memory_bytes_max: u64::MAX,
            isa: kernels::Isa::detect(),
        },
        timeouts: Timeouts::default(),
    }
}

impl Mode {
    fn staleness(self) -> Staleness {
        match self {
            Mode::Bsp | Mode::BspBackup => Staleness::BSP,
            Mode::Ssp(clocks) => Staleness::ssp(clocks),
            Mode::Asp => Staleness::ASP,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Bsp => f.write_str("bsp"),
            Mode::BspBackup => f.write_str("bsp+backup"),
            Mode::Ssp(clocks) => write!(f, "ssp:{clocks}"),
            Mode::Asp => f.write_str("asp"),
        }
    }
}
