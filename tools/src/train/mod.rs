//! `gradwire train`: from files of examples to a model and its figures.
//!
//! Owns the order of a run: check, start, learn, test, save, tell. Each step has its own file.

mod backups;
mod board;
pub(crate) mod child;
pub(crate) mod cluster;
mod dealer;
pub(crate) mod job;
pub(crate) mod keep;
mod lives;
pub(crate) mod plan;
mod result;
pub(crate) mod workers;

use launch::Children;
use learn::data::{DataError, Source, SourceSpec};
use learn::metrics::Metrics;
use learn::{CALL_MAX, Continue, Epochs, INCARNATION, Job, Table, margins, read};
use worker::{Incarnation, Servers, Session, TableSize, WorkerId};

use crate::cli::TrainArgs;
use crate::failure::Failure;
use crate::metrics::Endpoint;
use crate::metrics::training::TrainingFigures;
use crate::output::complain;
use crate::reach::own_job;
use crate::signals::Stop;
use board::Board;
use cluster::Cluster;
use keep::DataManifest;
use lives::run_processes;
pub(crate) use plan::Plan;
use plan::{ServersWanted, StartedAs};
use result::{TrainResult, tell};
use workers::{Done, regression, run_threads};

/// A life that does nothing but leave: none comes after it.
const LAST_LIFE: Incarnation = Incarnation::new(u32::MAX);

/// Runs the command.
pub(crate) fn run(arguments: TrainArgs) -> Result<(), Failure> {
    let plan = Plan::new(arguments)?;
    let stop = Stop::on_signals()?;
    if let Some(part) = &plan.job {
        return job::run(&plan, part, &stop);
    }
    let (result, board) = carry_out(&plan, &stop)?;
    tell(&plan, &result, &board)?;
    if stop.asked() {
        return Err(Failure::failed("interrupted: what was learned until then is above"));
    }
    Ok(())
}

/// Learns, tests and saves as the plan says. Once `stop` is asked, only what was learned until
/// then is told.
pub(crate) fn carry_out(plan: &Plan, stop: &Stop) -> Result<(TrainResult, Board), Failure> {
    check_data(plan)?;
    let mut children = Children::new();
    let cluster = Cluster::start(plan, &mut children)?;
    let mut observer = cluster.session(WorkerId::OBSERVER, INCARNATION)?;
    let id = own_job();
    let staleness = plan.clock.staleness();
    let (job, weights) = regression(id, plan.workers, staleness, &plan.optimizer, plan.life);
    let job = job.acknowledged_at(plan.acknowledge).aggregated(plan.aggregate);
    prepare(plan, &job, weights, &mut observer)?;

    let figures = TrainingFigures::default();
    let _shown = Endpoint::start(plan.metrics.as_deref(), figures.clone())?;
    let mut board = Board::new(plan.workers, figures)?;
    let trained = match (plan.started_as, &cluster) {
        (StartedAs::Processes, Cluster::Remote(remote)) => {
            let contact = (id, &remote.contact);
            run_processes(plan, contact, None, &mut children, stop, &mut board)
        }
        _ => {
            let feed = Epochs::open(plan.train.clone(), plan.epochs).map_err(Failure::failed)?;
            run_threads(plan, (&job, weights), &cluster, &feed, stop, &mut board)
        }
    };
    let seconds = board.finish();
    let trained = trained.inspect_err(|_| give_back(plan, &job, &cluster))?;

    let trained = Done::sum(&trained);
    let result = finish(plan, &trained, (&job, weights), &mut observer, seconds, stop)?;
    Ok((result, board))
}

/// Tests, measures and saves what was learned.
///
/// - `trained`: what all workers have done together.
fn finish(
    plan: &Plan,
    trained: &Done,
    (job, weights): (&Job, Table),
    observer: &mut Session,
    seconds: f64,
    stop: &Stop,
) -> Result<TrainResult, Failure> {
    let tested = if stop.asked() {
        None
    } else {
        check_labels(&trained.metrics)?;
        test(plan, weights, trained, observer, stop)?
    };
    let interrupted = stop.asked();
    let tested = tested.filter(|_| !interrupted); // Of a part of the rows it would mean little.
    let size = measure(weights, observer)?;
    let result = TrainResult::new(plan, trained, tested.as_ref(), size, seconds, observer);
    if let Some(dir) = &plan.save {
        let data = DataManifest {
            format: plan.train.format,
            columns: read_alike(&plan.train, trained).columns,
            intercept: plan.train.intercept,
        };
        keep::save(dir, observer, (job, weights), &data, result.trained()?)?;
    }
    Ok(result)
}

/// Opens the data once, so that a wrong name costs nothing.
fn check_data(plan: &Plan) -> Result<(), Failure> {
    for spec in [&plan.train, &plan.test] {
        Source::open(spec).map(drop).map_err(Failure::failed)?;
    }
    Ok(())
}

/// Begins the job on the servers: the table, and what is in it at first.
fn prepare(plan: &Plan, job: &Job, weights: Table, observer: &mut Session) -> Result<(), Failure> {
    job.begin(observer).map_err(Failure::failed)?;
    match &plan.resume {
        Some(dir) => keep::load(dir, observer, (job, weights)),
        None => Ok(()),
    }
}

/// Ends each worker's part in a job that has failed, where the servers outlive it: they refuse
/// other jobs while a worker takes part. A worker that still runs is fenced.
fn give_back(plan: &Plan, job: &Job, cluster: &Cluster) {
    if !matches!(plan.servers, ServersWanted::Coordinated(_)) {
        return;
    }
    for worker in (0..plan.workers).map(WorkerId::new) {
        let ended = cluster.session(worker, LAST_LIFE).and_then(|mut session| {
            job.begin(&mut session).map_err(Failure::failed)?;
            let deadline = session.now() + CALL_MAX;
            session.leave(deadline).map_err(Failure::failed)
        });
        if let Err(failure) = ended {
            complain(&format!("gradwire: {worker} keeps its place on the servers: {failure}"));
            return;
        }
    }
}

/// Readers that share the data cannot tell alone whether it has both classes.
fn check_labels(all: &Metrics) -> Result<(), Failure> {
    match (all.rows(), all.mean_label()) {
        (0, _) => Err(Failure::failed(DataError::NoRows)),
        (rows, label) if label == 0.0 || label == 1.0 => {
            Err(Failure::failed(DataError::OneClass { label: label as u8, rows }))
        }
        _ => Ok(()),
    }
}

/// Predicts the test rows; none if the data has none.
fn test(
    plan: &Plan,
    weights: Table,
    trained: &Done,
    observer: &mut Session,
    stop: &Stop,
) -> Result<Option<Metrics>, Failure> {
    let feed = Epochs::open(read_alike(&plan.test, trained), 1).map_err(Failure::failed)?;
    let mut metrics = Metrics::default();
    let mut scores = Vec::new();
    read(observer, weights, &feed, &mut |batch, values| {
        margins(batch, values, weights.widths().value, &mut scores);
        metrics.add_batch(&scores, &batch.labels, &batch.importance);
        if stop.asked() { Continue::No } else { Continue::Yes }
    })
    .map_err(Failure::failed)?;
    Ok((metrics.rows() > 0).then_some(metrics))
}

/// The test files, read with the columns that the training files were found to have.
fn read_alike(test: &SourceSpec, trained: &Done) -> SourceSpec {
    let columns = trained.columns.as_ref().unwrap_or(&test.columns).clone();
    SourceSpec { columns, ..test.clone() }
}

fn measure(weights: Table, observer: &mut Session) -> Result<TableSize, Failure> {
    let mut all = TableSize::default();
    for shard in observer.shard_ids() {
        let deadline = observer.now() + CALL_MAX;
        let size = observer.measure(shard, weights.id(), deadline).map_err(Failure::failed)?;
        all = all.plus(size);
    }
    Ok(all)
}
