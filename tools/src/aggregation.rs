//! `gradwire bench replication --workers N`: what heads save, or spend, by adding up pushes.
//!
//! Owns the order of the phases and the report. The load is left to the crate `bench`.

use std::time::Instant;

use bench::{Applied, Crew, Spread};
use serde::Serialize;

use crate::cluster_bench::{ClusterBenchArgs, Rig, RigSpec};
use crate::failure::Failure;
use crate::flags::ClockBound;
use crate::output::{complain, count, exactly_once, json, pairs_of, table};
use crate::push_pull::{COMMIT, command};

/// What is compared.
pub(crate) struct AggregationSpec<'a> {
    pub(crate) rig: &'a ClusterBenchArgs,
    pub(crate) workers: u32,
    pub(crate) clock: ClockBound,
    pub(crate) zipf_exponent: f64,
    pub(crate) replicas: u8,
    pub(crate) repeats: u32,
}

/// What adding up costs.
#[derive(Clone, Debug, Serialize)]
struct AggregationReport {
    commit: &'static str,
    command: String,
    workers: u32,
    clock: String,
    zipf_exponent: f64,
    replicas: u8,
    /// Processor time of all servers for each push that a worker made of a batch.
    server_us_per_push: Spread,
    server_us_per_push_aggregated: Spread,
    /// Of the two, within each repeat.
    server_cost_ratio: Spread,
    pushes_per_s: Spread,
    pushes_per_s_aggregated: Spread,
    pushes: u64,
    lost: u64,
    doubled: u64,
}

/// What one phase took.
#[derive(Clone, Copy)]
struct Phase {
    server_us_per_push: f64,
    pushes_per_s: f64,
}

/// Runs it.
pub(crate) fn run(spec: &AggregationSpec<'_>) -> Result<(), Failure> {
    let AggregationSpec { rig, workers, clock, zipf_exponent, replicas, repeats } = *spec;
    let arguments = rig;
    let servers = u16::from(replicas);
    let mut rig = Rig::start(&RigSpec { name: "aggregation", replicas, servers, arguments })?;
    complain("gradwire: creating rows");
    let load = rig.load_spec(zipf_exponent)?;
    let mut crew = Crew::begin(&load, workers, clock.staleness()).map_err(Failure::failed)?;
    for table in [Applied::Alone, Applied::Together] {
        measure(&mut rig, &mut crew, table, 0.25)?;
    }
    let mut phases = Vec::new();
    for repeat in 1..=repeats {
        complain(&format!("gradwire: repeat {repeat} of {repeats}"));
        let alone = measure(&mut rig, &mut crew, Applied::Alone, 1.0)?;
        phases.push([alone, measure(&mut rig, &mut crew, Applied::Together, 1.0)?]);
    }
    let tally = crew.check().map_err(Failure::failed)?;
    let spread =
        |of: &dyn Fn(&[Phase; 2]) -> f64| Spread::of(&phases.iter().map(of).collect::<Vec<f64>>());
    let report = AggregationReport {
        commit: COMMIT,
        command: command(),
        workers,
        clock: clock.to_string(),
        zipf_exponent,
        replicas,
        server_us_per_push: spread(&|[alone, _]| alone.server_us_per_push),
        server_us_per_push_aggregated: spread(&|[_, summed]| summed.server_us_per_push),
        server_cost_ratio: spread(&|[one, two]| two.server_us_per_push / one.server_us_per_push),
        pushes_per_s: spread(&|[alone, _]| alone.pushes_per_s),
        pushes_per_s_aggregated: spread(&|[_, summed]| summed.pushes_per_s),
        pushes: tally.pushes,
        lost: tally.lost,
        doubled: tally.doubled,
    };
    if arguments.json {
        json(&report)?;
    } else {
        table(&report.pairs())?;
    }
    exactly_once(report.lost, report.doubled)
}

/// All push to that table for this part of a phase, and what the servers took for it.
fn measure(rig: &mut Rig, crew: &mut Crew, table: Applied, part: f64) -> Result<Phase, Failure> {
    let (before, began) = (rig.servers_time()?, Instant::now());
    let pushes = crew.push_for(table, rig.phase().mul_f64(part)).map_err(Failure::failed)? as f64;
    let took = began.elapsed().as_secs_f64();
    let busy = rig.servers_time()?.saturating_sub(before);
    let server_us_per_push = busy.as_secs_f64() * 1e6 / pushes;
    Ok(Phase { server_us_per_push, pushes_per_s: pushes / took })
}

impl AggregationReport {
    fn pairs(&self) -> Vec<(String, String)> {
        let two = |spread: Spread| {
            format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max)
        };
        let whole = |spread: Spread| count(spread.median as u64);
        pairs_of([
            ("workers", count(u64::from(self.workers))),
            ("clock", self.clock.clone()),
            ("zipf", self.zipf_exponent.to_string()),
            ("server us/push", two(self.server_us_per_push)),
            ("server us/push aggregated", two(self.server_us_per_push_aggregated)),
            ("aggregated over not", two(self.server_cost_ratio)),
            ("pushes/s", whole(self.pushes_per_s)),
            ("pushes/s aggregated", whole(self.pushes_per_s_aggregated)),
            ("pushes checked", count(self.pushes)),
            ("lost", count(self.lost)),
            ("doubled", count(self.doubled)),
        ])
    }
}
