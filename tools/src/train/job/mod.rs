//! A job of several hosts: what one of its launchers does from its start to its end.
//!
//! Owns the order: take a seat, prepare or wait, run the workers, bring the results together. The
//! host of place 0 prepares the tables, and tests, saves and tells what all have come to; the
//! others tell their own part.
//!
//! Invariant: a launcher that ends says so, or the coordinator misses it; either way the others'
//! waits end.

mod args;
mod dir;
mod line;
mod seat;
mod standby;

use std::time::{Duration, Instant};

use launch::Children;
use learn::data::Splits;
use learn::metrics::Metrics;
use learn::{INCARNATION, Job, Table};
use serde::Serialize;
use wire::{JOB_REASON_BYTES_MAX, JOB_RESULT_BYTES_MAX, JobBid, JobEnd, JobRefusal, worker_words};
use worker::{Servers, Session, WorkerId};

use self::args::{beginning, settings};
use self::dir::JobDir;
use self::line::Refused;
use self::seat::host_name;
use super::board::Board;
use super::cluster::Cluster;
use super::lives::run_processes;
use super::plan::{Plan, ServersWanted};
use super::result::{TrainResult, tell, untold};
use super::workers::{Done, regression};
use super::{check_data, finish, give_back, prepare};
use crate::failure::Failure;
use crate::metrics::Endpoint;
use crate::metrics::training::TrainingFigures;
use crate::output::{self, complain, count};
use crate::reach::own_job;
use crate::signals::Stop;

pub(crate) use args::{JobArgs, JobPlan, job_plan};
pub(super) use seat::{Course, Seat};

/// How long a job waits for all of its hosts: people start them one after the other.
const GATHER_MAX: Duration = Duration::from_secs(600);

/// How long the coordinator may take to hear a launcher's last word.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// How often what was heard is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a launcher has to tell at its end.
enum Outcome {
    /// All of the job.
    Whole(Box<TrainResult>, Board),
    /// What its own workers have come to.
    Part(PartResult),
}

/// What the workers of one host have come to.
#[derive(Clone, Debug, Serialize)]
struct PartResult {
    job: String,
    /// The first of this host's workers.
    first_worker: u32,
    workers: u32,
    /// Of all of the job.
    job_workers: u32,
    rows: u64,
    seconds: f64,
    rows_per_s: f64,
    train_logloss: f64,
    bad_rows: u64,
    /// Of the data, by the last life of each worker.
    bytes_read: u64,
    bytes_sent: u64,
    resends: u64,
    worker_restarts: u32,
    /// Steps, or somewhat more, whose rows and loss are on a host that is gone and not counted.
    steps_untold: u64,
}

/// Takes part in the job that the plan names, to its end.
pub(super) fn run(plan: &Plan, part: &JobPlan, stop: &Stop) -> Result<(), Failure> {
    check_data(plan)?;
    let Some((seat, dir)) = sit_down(plan, part, stop)? else { return Ok(()) };
    let cluster = Cluster::start(plan, &mut Children::new())?;
    let staleness = plan.clock.staleness();
    let of_job = regression(seat.id(), plan.workers, staleness, &plan.optimizer, plan.life);
    let job = of_job.0.acknowledged_at(plan.acknowledge).aggregated(plan.aggregate);
    let of_job = (job, of_job.1);
    let ended = carry_out(plan, &seat, &cluster, (&of_job.0, of_job.1), stop);
    let ended =
        ended.map_err(|failure| break_off(plan, &seat, &dir, (&cluster, &of_job.0), failure));
    if ended.is_ok() {
        dir.forget();
    }
    let interrupted = match seat.course() {
        Course::Stopped(why) => Some(why),
        Course::On | Course::Over(_) => None,
    };
    match ended? {
        Outcome::Whole(result, board) => tell(plan, &result, &board)?,
        Outcome::Part(part) => part.tell(plan.json)?,
    }
    match interrupted {
        Some(why) => Err(Failure::failed(format!("{why}: what was learned until then is above"))),
        None => Ok(()),
    }
}

/// Takes a seat in the job. None: this host stood by, and the job is done without it.
fn sit_down(plan: &Plan, part: &JobPlan, stop: &Stop) -> Result<Option<(Seat, JobDir)>, Failure> {
    let ServersWanted::Coordinated(coordinated) = &plan.servers else {
        return Err(Failure::usage("--job is for --coordinator, which deals its batches"));
    };
    let dir = JobDir::open(part.dir.as_deref(), &coordinated.cluster, &part.name)?;
    let splits = Splits::of(&plan.train, plan.workers).map_err(Failure::failed)?;
    if splits.count() < u64::from(plan.workers) {
        complain(&format!(
            "gradwire: job {}: the data has fewer splits ({}) than the job workers ({}), and some \
             will have nothing to do; more files, more row groups or unpacked text make more",
            part.name,
            splits.count(),
            plan.workers
        ));
    }
    let bid = JobBid {
        host: host_name(),
        id: own_job().get(),
        wanted: part.wanted,
        workers: plan.workers,
        epochs: plan.epochs,
        patience_ms: part.patience_ms,
        splits: splits.count(),
        stands_by: part.stands_by,
        settings: settings(plan, part, &splits)?,
    };
    let (name, holder, journals) = (&part.name, dir.holder(), dir.journals());
    let seat = match Seat::take(coordinated, name, holder, bid, journals, splits, stop) {
        Ok(Some(seat)) => seat,
        Ok(None) => {
            complain(&format!("gradwire: job {name}: it is done, and this host was not needed"));
            dir.forget();
            return Ok(None);
        }
        Err(Refused::ByJob(refusal)) => {
            // Whoever was told that it is over takes part in another one next time.
            if matches!(refusal, JobRefusal::Ended { .. } | JobRefusal::Replaced) {
                dir.forget();
            }
            return Err(Failure::failed(format!("job {name}: {refusal}")));
        }
        Err(Refused::Failed(why)) => return Err(Failure::failed(format!("job {name}: {why}"))),
    };
    if dir.is_new() || seat.generation() == 1 {
        dir.begin()?;
    }
    let again = match (seat.generation(), dir.is_new()) {
        (1, _) => "",
        (_, true) => ", in place of a host that is gone",
        (_, false) => " again",
    };
    let workers = worker_words(seat.first(), seat.places());
    complain(&format!("gradwire: job {name}: this host has {workers} of {}{again}", plan.workers));
    Ok(Some((seat, dir)))
}

fn carry_out(
    plan: &Plan,
    seat: &Seat,
    cluster: &Cluster,
    (job, weights): (&Job, Table),
    stop: &Stop,
) -> Result<Outcome, Failure> {
    let leads = seat.first() == 0;
    let mut observer = None;
    if leads {
        observer = Some(prepare_once(plan, seat, cluster, (job, weights))?);
    }
    wait_for_all(plan, seat, stop)?;

    let figures = TrainingFigures::default();
    let _shown = Endpoint::start(plan.metrics.as_deref(), figures.clone())?;
    let mut board = Board::new(seat.places(), figures)?;
    let mut children = Children::new();
    let Cluster::Remote(remote) = cluster else {
        return Err(Failure::failed("a job of several hosts needs a running cluster"));
    };
    let contact = (seat.id(), &remote.contact);
    let trained = run_processes(plan, contact, Some(seat), &mut children, stop, &mut board);
    let seconds = board.finish();
    let mut own = Done::sum(&trained?);
    deliver(seat, &mut own)?;
    let Some(mut observer) = observer else {
        wait_for_end(seat)?;
        return Ok(Outcome::Part(PartResult::new(plan, seat, &own, seconds)));
    };
    let mut all = wait_for_results(seat)?;
    all.insert(0, own);
    let result = finish(plan, &Done::sum(&all), (job, weights), &mut observer, seconds, stop)?;
    seat.say(|news| news.end = Some(JobEnd::Done));
    let until = Instant::now() + FAREWELL_MAX;
    while seat.state().end.is_none() {
        if Instant::now() >= until || seat.is_lost() {
            complain("gradwire: the coordinator was not told that the job is done");
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(Outcome::Whole(Box::new(result), board))
}

/// Makes the tables, and fills them unless a life before has.
fn prepare_once(
    plan: &Plan,
    seat: &Seat,
    cluster: &Cluster,
    (job, weights): (&Job, Table),
) -> Result<Session, Failure> {
    let mut observer = cluster.session(WorkerId::OBSERVER, INCARNATION)?;
    // What is not heard yet may be that it is prepared: filling it again would undo what was
    // learned.
    heard(seat)?;
    if seat.state().is_prepared {
        job.begin(&mut observer).map_err(Failure::failed)?;
    } else {
        prepare(plan, job, weights, &mut observer)?;
        seat.say(|news| news.is_prepared = true);
    }
    Ok(observer)
}

/// Waits until the coordinator has said how the job is; that has a deadline of its own.
fn heard(seat: &Seat) -> Result<(), Failure> {
    while !seat.has_heard() {
        if let Course::Over(why) = seat.course() {
            return Err(Failure::failed(why));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Waits until all workers of the job have a host, and its tables are prepared.
fn wait_for_all(plan: &Plan, seat: &Seat, stop: &Stop) -> Result<(), Failure> {
    heard(seat)?;
    let until = Instant::now() + GATHER_MAX;
    let mut told = None;
    loop {
        let state = seat.state();
        if stop.asked() {
            seat.stop();
        }
        match seat.course() {
            Course::On => {}
            // All others are there already: the run begins, and stops in good order.
            Course::Stopped(_) if state.end.is_none() => stop.ask(),
            Course::Stopped(why) | Course::Over(why) => return Err(Failure::failed(why)),
        }
        let missing = plan.workers.saturating_sub(state.taken);
        if missing == 0 && state.is_prepared {
            return Ok(());
        }
        if missing > 0 && told != Some(missing) {
            told = Some(missing);
            complain(&format!(
                "gradwire: job {}: {missing} of {} workers have no host yet; start the same \
                 command on others",
                seat.job, plan.workers
            ));
        }
        if Instant::now() >= until {
            let seconds = GATHER_MAX.as_secs();
            let why = format!("it was not complete after {seconds} s: {missing} workers missing");
            return Err(Failure::failed(why));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Tells the coordinator what this host's workers have come to.
fn deliver(seat: &Seat, own: &mut Done) -> Result<(), Failure> {
    // Nobody asks for the AUC of what was predicted before each step.
    own.metrics = own.metrics.without_scores();
    own.steps_untold = seat.steps_untold();
    let text = serde_json::to_string(&own).map_err(Failure::failed)?;
    if text.len() > JOB_RESULT_BYTES_MAX {
        let bytes = text.len();
        let why = format!("a result of {bytes} bytes; it may have {JOB_RESULT_BYTES_MAX}");
        return Err(Failure::failed(why));
    }
    seat.say(|news| news.result = Some(text));
    Ok(())
}

/// Waits for what all other hosts have come to.
fn wait_for_results(seat: &Seat) -> Result<Vec<Done>, Failure> {
    loop {
        let results = seat.results();
        if results.len() + 1 >= seat.state().hosts as usize {
            let read = |text: &String| serde_json::from_str(text).map_err(Failure::failed);
            return results.values().map(read).collect();
        }
        if let Course::Over(why) = seat.course() {
            return Err(Failure::failed(why));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until the host of place 0 has brought everything together.
fn wait_for_end(seat: &Seat) -> Result<(), Failure> {
    while seat.state().end.is_none() {
        if let Course::Over(why) = seat.course() {
            return Err(Failure::failed(why));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    match seat.course() {
        Course::Over(why) => Err(Failure::failed(why)),
        Course::On | Course::Stopped(_) => Ok(()),
    }
}

/// The job cannot go on here: the coordinator is told, and one launcher ends the workers' parts on
/// the servers. Where the coordinator does not answer, all stays as it is for a later life. Returns
/// why the job has ended: what went wrong here may be what another host's end has caused.
fn break_off(
    plan: &Plan,
    seat: &Seat,
    dir: &JobDir,
    (cluster, job): (&Cluster, &Job),
    failure: Failure,
) -> Failure {
    let own = format!("on {}: {failure}", seat.host);
    let own = beginning(&own, JOB_REASON_BYTES_MAX).to_owned();
    let why = own.clone();
    seat.say(|news| {
        news.end = Some(JobEnd::Failed { why });
    });
    let until = Instant::now() + FAREWELL_MAX;
    while seat.state().end.is_none() && !seat.is_lost() && Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
    }
    let state = seat.state();
    if state.sweeps {
        give_back(plan, job, cluster);
    }
    if state.end.is_some() {
        dir.forget();
    }
    match state.end {
        Some(JobEnd::Failed { why }) if why != own => {
            Failure::failed(format!("job {} has failed: {why}", seat.job))
        }
        _ => failure,
    }
}

impl PartResult {
    fn new(plan: &Plan, seat: &Seat, own: &Done, seconds: f64) -> PartResult {
        let metrics: &Metrics = &own.metrics;
        PartResult {
            job: seat.job.clone(),
            first_worker: seat.first(),
            workers: seat.places(),
            job_workers: plan.workers,
            rows: metrics.rows(),
            seconds,
            rows_per_s: metrics.rows() as f64 / seconds,
            train_logloss: metrics.logloss(),
            bad_rows: own.bad_rows,
            bytes_read: own.bytes_read,
            bytes_sent: own.bytes_sent,
            resends: own.resends,
            worker_restarts: own.restarts,
            steps_untold: own.steps_untold,
        }
    }

    /// Prints it.
    fn tell(&self, as_json: bool) -> Result<(), Failure> {
        if as_json {
            return output::json(self);
        }
        let pair = |name: &str, value: String| (name.to_owned(), value);
        let workers = worker_words(self.first_worker, self.workers);
        let mut pairs = vec![
            pair("part", format!("{workers} of job {}, {} in all", self.job, self.job_workers)),
            pair("rows", count(self.rows)),
            pair("seconds", format!("{:.2}", self.seconds)),
            pair("rows/s", count(self.rows_per_s as u64)),
            pair("train logloss (before each step)", format!("{:.4}", self.train_logloss)),
            pair("bytes read by workers", count(self.bytes_read)),
            pair("bytes sent by workers", count(self.bytes_sent)),
            pair("unreadable rows", count(self.bad_rows)),
            pair("the whole", "is told by the host of worker 0".to_owned()),
        ];
        pairs.extend(untold(self.steps_untold));
        output::table(&pairs)
    }
}
