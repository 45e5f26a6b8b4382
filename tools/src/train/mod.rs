//! `gradwire train`: from files of examples to a model and its figures.
//!
//! Owns the order of a run: check, start, learn, test, save, tell. Each step has its own file.

mod board;
pub(crate) mod child;
pub(crate) mod cluster;
pub(crate) mod keep;
pub(crate) mod plan;
mod result;
pub(crate) mod workers;

use std::hash::{BuildHasher, Hasher, RandomState};

use launch::Children;
use learn::data::{Source, SourceSpec};
use learn::metrics::Metrics;
use learn::{Continue, Epochs, margins, read};
use worker::{JobId, Session, ShardId, TableSize, WorkerId};

use crate::cli::TrainArgs;
use crate::failure::Failure;
use crate::signals::Stop;
use board::Board;
use cluster::Cluster;
use keep::DataManifest;
use plan::{Plan, StartedAs};
use result::{TrainResult, tell};
use workers::{
    CALL_MAX, Done, INCARNATION, WEIGHTS, join, run_processes, run_threads, weights_spec,
    weights_table,
};

/// Runs the command.
pub(crate) fn run(arguments: TrainArgs) -> Result<(), Failure> {
    let plan = Plan::new(arguments)?;
    let stop = Stop::on_signals()?;
    check_data(&plan)?;
    let mut children = Children::new();
    let cluster = Cluster::start(&plan, &mut children)?;
    let mut observer = cluster.session(WorkerId::OBSERVER, INCARNATION)?;
    let job = prepare(&plan, &mut observer)?;

    let mut board = Board::new(plan.workers)?;
    let trained = learn_all(&plan, job, &cluster, &mut children, &stop, &mut board);
    let seconds = board.finish();
    let trained = trained?;

    let interrupted = stop.asked();
    let tested = if interrupted { None } else { test(&plan, &trained, &mut observer, &stop)? };
    let size = measure(&mut observer)?;
    let result = TrainResult::new(&plan, &trained, tested.as_ref(), size, seconds, &observer);
    if let Some(dir) = &plan.save {
        save(dir, &plan, &trained, &result, &mut observer)?;
    }
    tell(&plan, &result, &board)?;
    if interrupted {
        return Err(Failure::failed("interrupted: what was learned until then is above"));
    }
    Ok(())
}

/// Opens the data once, so that a wrong name costs nothing.
fn check_data(plan: &Plan) -> Result<(), Failure> {
    for spec in [&plan.train, &plan.test] {
        Source::open(spec).map(drop).map_err(Failure::failed)?;
    }
    Ok(())
}

/// Begins the job on the servers: the table, and what is in it at first.
fn prepare(plan: &Plan, observer: &mut Session) -> Result<JobId, Failure> {
    let job = JobId::new(RandomState::new().build_hasher().finish());
    let deadline = observer.now() + CALL_MAX;
    observer
        .join(join(job, plan.workers, plan.clock.staleness()), deadline)
        .map_err(Failure::failed)?;
    let spec = weights_spec(&plan.optimizer);
    observer.define(WEIGHTS, &spec, deadline).map_err(Failure::failed)?;
    if let Some(dir) = &plan.resume {
        keep::load(dir, observer, &spec)?;
    }
    Ok(job)
}

fn learn_all(
    plan: &Plan,
    job: JobId,
    cluster: &Cluster,
    children: &mut Children,
    stop: &Stop,
    board: &mut Board,
) -> Result<Vec<Done>, Failure> {
    match (plan.started_as, cluster) {
        (StartedAs::Processes, Cluster::Remote(remote)) => {
            run_processes(plan, job, &remote.contact, children, stop, board)
        }
        _ => {
            let feed = Epochs::open(plan.train.clone(), plan.epochs).map_err(Failure::failed)?;
            run_threads(plan, job, cluster, &feed, stop, board)
        }
    }
}

/// Predicts the test rows; none if the data has none.
fn test(
    plan: &Plan,
    trained: &[Done],
    observer: &mut Session,
    stop: &Stop,
) -> Result<Option<Metrics>, Failure> {
    let feed = Epochs::open(read_alike(&plan.test, trained), 1).map_err(Failure::failed)?;
    let table = weights_table(&plan.optimizer);
    let mut metrics = Metrics::default();
    let mut scores = Vec::new();
    read(observer, table, &feed, &mut |batch, values| {
        margins(batch, values, table.widths().value, &mut scores);
        metrics.add_batch(&scores, &batch.labels, &batch.importance);
        if stop.asked() { Continue::No } else { Continue::Yes }
    })
    .map_err(Failure::failed)?;
    Ok((metrics.rows() > 0).then_some(metrics))
}

/// The test files, read with the columns that the training files were found to have.
fn read_alike(test: &SourceSpec, trained: &[Done]) -> SourceSpec {
    let columns = trained.iter().find_map(|done| done.columns.clone());
    SourceSpec { columns: columns.unwrap_or_else(|| test.columns.clone()), ..test.clone() }
}

fn measure(observer: &mut Session) -> Result<TableSize, Failure> {
    let mut all = TableSize::default();
    for shard in 0..observer.shards() {
        let shard = ShardId::new(u16::try_from(shard).expect("shards are numbered by 16 bits"));
        let deadline = observer.now() + CALL_MAX;
        let size = observer.measure(shard, WEIGHTS, deadline).map_err(Failure::failed)?;
        all.rows += size.rows;
        all.bytes += size.bytes;
    }
    Ok(all)
}

fn save(
    dir: &std::path::Path,
    plan: &Plan,
    trained: &[Done],
    result: &TrainResult,
    observer: &mut Session,
) -> Result<(), Failure> {
    let data = DataManifest {
        format: plan.train.format,
        columns: read_alike(&plan.train, trained).columns,
        intercept: plan.train.intercept,
    };
    let spec = weights_spec(&plan.optimizer);
    let row_width = u32::try_from(weights_table(&plan.optimizer).widths().row)
        .expect("a row of dim 1 is short");
    keep::save(dir, observer, &spec, row_width, &data, result.trained()?)
}
