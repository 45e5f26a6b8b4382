//! `gradwire bench job-success`: jobs whose workers die, with later lives and without.
//!
//! Owns the draws, the order of runs and the figures. A run is `train`'s own; its workers keep a
//! pace, so that it takes some seconds however fast the machine is, and die by arrangement.

use std::time::Duration;

use bench::Random;
use clap::Args;
use serde::Serialize;

use crate::cli::{DataArgs, TrainArgs};
use crate::failure::Failure;
use crate::flags::ClockBound;
use crate::output::{complain, json, pairs_of, table};
use crate::push_pull::{COMMIT, command};
use crate::signals::Stop;
use crate::train::plan::{Death, Drill};
use crate::train::{Plan, carry_out};

/// Rows of a batch: little work, so that the pace and not the machine sets the time.
const BATCH_ROWS: u64 = 16;

/// Replicas of each shard, and servers.
const REPLICAS: u8 = 2;

/// Rows that each run's model is tested on: as few as say anything.
const TEST_ROWS: &str = "gen:criteo?rows=1000&seed=2";

#[derive(Clone, Debug, Args)]
pub(crate) struct JobSuccessArgs {
    /// Worker processes of a job.
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) workers: u32,
    /// How likely each worker is to be killed in a run, at a moment drawn evenly from it.
    #[arg(long, value_name = "PROBABILITY", default_value_t = 0.019)]
    pub(crate) death: f64,
    /// Runs of each mode.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) runs: u32,
    /// Every so many runs of each mode one without deaths, for comparison.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) calm_every: u32,
    /// Steps of each worker.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) steps: u64,
    /// How long a worker sleeps after each step, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(crate) pace_ms: u64,
    /// How far workers may be apart.
    #[arg(long, value_name = "bsp|ssp:N|asp", default_value = "bsp")]
    pub(crate) clock: ClockBound,
    /// Draws who dies and when.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What becomes of a worker that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Its job ends.
    FailStop,
    /// It has later lives.
    Restart,
}

/// What the runs came to.
#[derive(Debug, Serialize)]
struct JobSuccess {
    commit: &'static str,
    command: String,
    workers: u32,
    death_probability: f64,
    runs: u32,
    /// Runs in which somebody died, and all who did.
    runs_with_deaths: u32,
    deaths: u64,
    fail_stop_ended_well: u32,
    restart_ended_well: u32,
    /// Workers that were started again, in all runs.
    restarts: u64,
    /// Of runs without deaths.
    calm_seconds_median: f64,
    /// Of runs with restarts, whether or not somebody died.
    restart_seconds_median: f64,
    restart_seconds_max: f64,
    /// The median over the median of runs without deaths.
    restart_time_ratio: f64,
    /// The same of those runs in which somebody died.
    restart_time_ratio_with_deaths: Option<f64>,
    /// Runs with restarts that learnt from another number of rows than the calm ones.
    rows_wrong: u32,
}

/// Runs the command.
pub(crate) fn run(arguments: &JobSuccessArgs) -> Result<(), Failure> {
    if !(0.0..=1.0).contains(&arguments.death) || arguments.runs == 0 || arguments.calm_every == 0 {
        return Err(Failure::usage("expected --death of 0 to 1, and --runs and --calm-every of 1"));
    }
    let report = measure(arguments)?;
    if arguments.json { json(&report) } else { table(&report.pairs()) }
}

fn measure(arguments: &JobSuccessArgs) -> Result<JobSuccess, Failure> {
    let first = one(arguments, Mode::FailStop, Vec::new())?;
    let (mut calm, rows) = (vec![first.seconds], first.rows);
    let mut random = Random::new(arguments.seed);
    let (mut fail_stop, mut ended_well, mut restarts, mut rows_wrong) = (0, 0, 0, 0);
    let (mut all, mut with_deaths, mut deaths_sum) = (Vec::new(), Vec::new(), 0);
    let mut runs_with_deaths = 0;
    for run in 0..arguments.runs {
        if run > 0 && run.is_multiple_of(arguments.calm_every) {
            calm.push(one(arguments, Mode::FailStop, Vec::new())?.seconds);
        }
        let deaths = draw(arguments, &mut random, first.seconds);
        deaths_sum += deaths.len() as u64;
        runs_with_deaths += u32::from(!deaths.is_empty());
        let mut modes = [Mode::FailStop, Mode::Restart];
        if run % 2 == 1 {
            modes.reverse();
        }
        for mode in modes {
            let ended = one(arguments, mode, deaths.clone());
            complain(&line(run, mode, deaths.len(), &ended));
            match (mode, ended) {
                (Mode::FailStop, ended) => fail_stop += u32::from(ended.is_ok()),
                (Mode::Restart, Ok(ended)) => {
                    ended_well += 1;
                    restarts += ended.restarts;
                    rows_wrong += u32::from(ended.rows != rows);
                    all.push(ended.seconds);
                    with_deaths.extend((!deaths.is_empty()).then_some(ended.seconds));
                }
                (Mode::Restart, Err(_)) => {}
            }
        }
    }
    let calm_seconds = median(&calm);
    let ratio = |seconds: &[f64]| median(seconds) / calm_seconds;
    Ok(JobSuccess {
        commit: COMMIT,
        command: command(),
        workers: arguments.workers,
        death_probability: arguments.death,
        runs: arguments.runs,
        runs_with_deaths,
        deaths: deaths_sum,
        fail_stop_ended_well: fail_stop,
        restart_ended_well: ended_well,
        restarts,
        calm_seconds_median: calm_seconds,
        restart_seconds_median: median(&all),
        restart_seconds_max: all.iter().copied().fold(0.0, f64::max),
        restart_time_ratio: ratio(&all),
        restart_time_ratio_with_deaths: (!with_deaths.is_empty()).then(|| ratio(&with_deaths)),
        rows_wrong,
    })
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
struct Ended {
    seconds: f64,
    rows: u64,
    restarts: u64,
}

/// One run, on servers of its own.
fn one(arguments: &JobSuccessArgs, mode: Mode, deaths: Vec<Death>) -> Result<Ended, Failure> {
    let rows = u64::from(arguments.workers) * arguments.steps * BATCH_ROWS;
    let mut plan = Plan::new(TrainArgs {
        train: vec![format!("gen:criteo?rows={rows}&seed=1")],
        test: vec![TEST_ROWS.to_owned()],
        data: DataArgs { parsers: Some(1), ..DataArgs::default() },
        batch_rows: Some(BATCH_ROWS as usize),
        workers: Some(arguments.workers),
        replicas: Some(REPLICAS),
        processes: Some(true),
        clock: Some(arguments.clock),
        restarts: (mode == Mode::FailStop).then_some(0),
        ..TrainArgs::default()
    })?;
    plan.drill = Some(Drill { pace: Duration::from_millis(arguments.pace_ms), deaths });
    let (result, _) = carry_out(&plan, &Stop::default())?;
    let (rows, restarts) = (result.rows, result.worker_restarts);
    Ok(Ended { seconds: result.seconds, rows, restarts })
}

/// Who dies in a run, and when.
fn draw(arguments: &JobSuccessArgs, random: &mut Random, seconds: f64) -> Vec<Death> {
    let mut deaths = Vec::new();
    for worker in 0..arguments.workers {
        let (dies, at) = (random.unit() < arguments.death, random.unit() * seconds);
        deaths.extend(dies.then_some(Death { worker, at: Duration::from_secs_f64(at) }));
    }
    deaths
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn line(run: u32, mode: Mode, deaths: usize, ended: &Result<Ended, Failure>) -> String {
    let end = match ended {
        Ok(Ended { seconds, .. }) => format!("ended well after {seconds:.2} s"),
        Err(failure) => failure.to_string(),
    };
    format!("run {run:3}  {mode:?}  {deaths} deaths  {end}")
}

impl JobSuccess {
    fn pairs(&self) -> Vec<(String, String)> {
        pairs_of([
            ("workers", self.workers.to_string()),
            ("probability of a death", self.death_probability.to_string()),
            ("runs of each mode", self.runs.to_string()),
            ("runs with deaths", self.runs_with_deaths.to_string()),
            ("deaths", self.deaths.to_string()),
            ("ended well, fail-stop", self.fail_stop_ended_well.to_string()),
            ("ended well, with restarts", self.restart_ended_well.to_string()),
            ("workers started again", self.restarts.to_string()),
            ("calm s", format!("{:.2}", self.calm_seconds_median)),
            ("with restarts s", format!("{:.2}", self.restart_seconds_median)),
            ("with restarts max s", format!("{:.2}", self.restart_seconds_max)),
            ("with restarts / calm", format!("{:.3}", self.restart_time_ratio)),
            ("runs with wrong rows", self.rows_wrong.to_string()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_die_as_the_probability_says_at_moments_of_the_run() {
        let arguments = JobSuccessArgs {
            workers: 256,
            death: 0.25,
            runs: 1,
            calm_every: 1,
            steps: 1,
            pace_ms: 1,
            clock: ClockBound::Bsp,
            seed: 1,
            json: false,
        };
        let mut random = Random::new(1);
        let deaths: Vec<Death> = (0..40).flat_map(|_| draw(&arguments, &mut random, 5.0)).collect();
        assert!((2300..2820).contains(&deaths.len()), "{} of 10240", deaths.len());
        assert!(deaths.iter().all(|death| death.at < Duration::from_secs(5)));
        let early = deaths.iter().filter(|death| death.at < Duration::from_millis(2500)).count();
        assert!(early.abs_diff(deaths.len() / 2) < 160, "{early} of {}", deaths.len());
    }
}
