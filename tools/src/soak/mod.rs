//! `gradwire soak`: a cluster of processes under load and faults, checked to the last count.
//!
//! Owns the order of a run and its verdict. The load is left to the crate
//! `bench`, the faults to `faults`.

mod args;
mod faults;
mod leader;
pub(crate) mod workers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::{SoakError, SoakLoad, SoakTally, soak_probe, soak_work};
use kernels::Isa;
use serde::Serialize;
use wire::AggregateError;
use worker::{Acknowledge, JobId, WorkerId};

pub(crate) use self::args::SoakArgs;
pub(crate) use self::faults::FaultFlag;
use self::faults::{Caused, Saboteur};
use self::workers::{SoakWorkerPlan, SoakWorkers};
use crate::failure::Failure;
use crate::flags::TransportFlag;
use crate::output::{complain, count, json, pairs_of, table};
use crate::processes::{ClusterProcesses, ClusterProcessesSpec, ServerChildren};
use crate::push_pull::{COMMIT, command};
use crate::rdma::RdmaArgs;
use crate::reach::{cluster_of, own_job, watch};
use crate::signals::Stop;

/// What the cluster of a soak is called; in an etcd, with a number behind it.
const CLUSTER: &str = "soak";

/// How often the run looks whether somebody wants it to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a soak found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SoakReport {
    commit: &'static str,
    command: String,
    seconds: f64,
    faults: Vec<FaultFlag>,
    /// Where pushes are acknowledged.
    acknowledge: String,
    /// Whether heads add up pushes of different workers.
    aggregate: bool,
    /// Coordinators that stand by.
    standbys: u16,
    /// Faults of any kind that were caused.
    kills: u64,
    /// The same by kind.
    caused: BTreeMap<FaultFlag, u64>,
    /// Faults after which another coordinator led than before.
    takeovers: u64,
    /// From a leader's death until the other one was seen to lead.
    takeover_ms_p50: Option<f64>,
    takeover_ms_max: Option<f64>,
    /// Pushes that were acknowledged.
    acknowledged: u64,
    pushes_per_s: f64,
    /// Additions that were acknowledged and are not there.
    lost: u64,
    /// Additions that are there and were not made.
    doubled: u64,
    /// From a fault to the first acknowledged push to all shards that began after it.
    recovery_ms_p50: Option<f64>,
    recovery_ms_p99: Option<f64>,
    recovery_ms_max: Option<f64>,
    /// From the beginning of a push to all shards to its acknowledgement.
    probe_ms_p50: f64,
    probe_ms_p99: f64,
    probe_ms_max: f64,
    /// From a fault until every shard had all of its replicas again.
    whole_ms_p50: Option<f64>,
    whole_ms_max: Option<f64>,
    reconnects: u64,
    duplicates: u64,
    /// Reads that saw less than was acknowledged or more than was pushed; lost and doubled too.
    violations: u64,
}

/// Runs the command.
pub(crate) fn run(arguments: SoakArgs) -> Result<(), Failure> {
    let plan = checked(arguments)?;
    let stop = Stop::on_signals()?;
    let data = std::env::temp_dir().join(format!("gradwire-soak-{}", std::process::id()));
    let report = soak(&plan, &data, &stop)?;
    if plan.json {
        json(&report)?;
    } else {
        table(&report.pairs())?;
    }
    match report.violations {
        0 => Ok(()),
        violations => Err(Failure::verdict(format!("{violations} promises were broken"))),
    }
}

/// What was asked for, if it can be done: a cluster that runs already is not harmed.
fn checked(mut arguments: SoakArgs) -> Result<SoakArgs, Failure> {
    if !arguments.coordinator.is_empty() {
        arguments.faults.clear();
    }
    let (servers, replicas) = (arguments.servers(), arguments.replicas);
    if servers < u16::from(replicas) {
        let why = format!("--servers: {servers} servers cannot hold {replicas} replicas apart");
        return Err(Failure::usage(why));
    }
    let kills = arguments.faults.iter().any(|fault| fault.harms_servers());
    if kills && replicas < 2 {
        return Err(Failure::usage("--replicas: with 1 a dead server takes its shards along"));
    }
    if arguments.workers == 0 || arguments.keys == 0 {
        return Err(Failure::usage("--workers and --keys: expected 1 or more"));
    }
    if arguments.aggregate && arguments.acknowledge.0 == Acknowledge::Head {
        return Err(Failure::usage(format!("--aggregate: {}", AggregateError::AtHead)));
    }
    Ok(arguments)
}

/// Starts everything, disturbs it, and compares.
fn soak(plan: &SoakArgs, data: &Path, stop: &Stop) -> Result<SoakReport, Failure> {
    let (mut saboteur, placements) = match &plan.coordinator[..] {
        [] => {
            let cluster = start(plan, data)?;
            let placements = watch(&cluster.addresses, cluster.name())?;
            cluster.wait_whole(&placements, 0)?;
            (Some(Saboteur { plan, cluster, workers: None }), placements)
        }
        addresses => (None, watch(addresses, &plan.cluster)?),
    };
    let job = own_job();
    let mut threads = plan.workers;
    if let Some(saboteur) = &mut saboteur
        && plan.faults.contains(&FaultFlag::KillWorker)
    {
        threads = 0;
        let told = worker_plan(plan, job, &saboteur.cluster);
        saboteur.workers = Some(SoakWorkers::start(told, plan.workers)?);
    }
    let load = SoakLoad {
        cluster: cluster_of(&placements, WorkerId::OBSERVER),
        job,
        workers: plan.workers + 1,
        keys: plan.keys,
        seed: plan.seed,
        acknowledge: plan.acknowledge.0,
        aggregate: plan.aggregate,
        started: Instant::now(),
        over: AtomicBool::new(false),
        probes: Mutex::default(),
    };
    let (caused, tallies) = std::thread::scope(|scope| {
        let load = &load;
        let work = |worker| soak_work(load, worker, learn::INCARNATION, || {});
        let workers: Vec<_> = (0..threads)
            .map(|worker| scope.spawn(move || ended(load, work(worker))))
            .chain([scope.spawn(move || ended(load, soak_probe(load, plan.workers)))])
            .collect();
        scope.spawn(move || end_when_asked(load, stop));
        let told = |one: &Caused| complain(&line(one));
        let caused = match &mut saboteur {
            Some(saboteur) => saboteur.disturb(load, &placements, told),
            None => Ok(wait_out(load, plan.duration.0)),
        };
        load.over.store(true, Ordering::Relaxed);
        let tallies: Vec<_> = workers
            .into_iter()
            .map(|thread| thread.join().expect("a worker's failure is a value"))
            .collect();
        (caused, tallies)
    });
    let tallies = tallies.into_iter().collect::<Result<Vec<SoakTally>, SoakError>>();
    let mut tallies = tallies.map_err(Failure::failed)?;
    let caused = caused?;
    if let Some(workers) = saboteur.as_mut().and_then(|saboteur| saboteur.workers.take()) {
        tallies.extend(workers.finish()?);
    }
    Ok(report(plan, &load, &caused, &tallies))
}

/// What workers are told that are processes.
fn worker_plan(plan: &SoakArgs, job: JobId, cluster: &ClusterProcesses) -> SoakWorkerPlan {
    SoakWorkerPlan {
        coordinators: cluster.addresses.clone(),
        cluster: cluster.name().to_owned(),
        job: job.get(),
        workers: plan.workers + 1,
        keys: plan.keys,
        seed: plan.seed,
        acknowledge: plan.acknowledge.to_string(),
        aggregate: plan.aggregate,
        worker: 0,
        life: learn::INCARNATION.get(),
    }
}

/// Starts a cluster of processes.
fn start(plan: &SoakArgs, data: &Path) -> Result<ClusterProcesses, Failure> {
    // An etcd may have seen soaks before, whose servers are gone.
    let cluster = match plan.etcd.is_empty() {
        true => CLUSTER.to_owned(),
        false => format!("{CLUSTER}-{:016x}", own_job().get()),
    };
    ClusterProcesses::start(ClusterProcessesSpec {
        cluster,
        data: data.to_owned(),
        shards: plan.shards,
        replicas: plan.replicas,
        servers: plan.servers(),
        etcd: plan.etcd.clone(),
        standbys: plan.standbys(),
        children: ServerChildren {
            transport: TransportFlag::Auto,
            rdma: RdmaArgs::default(),
            isa: Isa::detect(),
            table_mib: None,
            cores: 1,
        },
    })
}

/// Somebody else causes the faults, if there are any.
fn wait_out(load: &SoakLoad, duration: Duration) -> Vec<Caused> {
    while load.started.elapsed() < duration && !load.over.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
    }
    Vec::new()
}

/// Ends the load when somebody wants it to end; returns when it has ended.
fn end_when_asked(load: &SoakLoad, stop: &Stop) {
    while !load.over.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
        if stop.asked() {
            load.over.store(true, Ordering::Relaxed);
        }
    }
}

/// A worker that cannot go on ends the soak for all.
fn ended(load: &SoakLoad, outcome: Result<SoakTally, SoakError>) -> Result<SoakTally, SoakError> {
    if outcome.is_err() {
        load.over.store(true, Ordering::Relaxed);
    }
    outcome
}

fn line(one: &Caused) -> String {
    let (at, whole) = (one.at.as_secs_f64(), one.whole_after.as_secs_f64() * 1e3);
    format!("{at:8.3} s  {:?}; whole again after {whole:.0} ms", one.fault)
}

fn report(
    plan: &SoakArgs,
    load: &SoakLoad,
    caused: &[Caused],
    tallies: &[SoakTally],
) -> SoakReport {
    let seconds = load.started.elapsed().as_secs_f64();
    let probes = load.probes();
    let recoveries = &probes.recoveries_ms;
    let probe_ms = |share| probes.took_us.value_at_quantile(share) as f64 * 1e-3;
    let mut kinds = BTreeMap::new();
    caused.iter().for_each(|one| *kinds.entry(one.fault).or_default() += 1);
    let led = caused.iter().filter_map(|one| one.led_after);
    let led: Vec<f64> = led.map(|after| after.as_secs_f64() * 1e3).collect();
    let whole: Vec<f64> = caused.iter().map(|one| one.whole_after.as_secs_f64() * 1e3).collect();
    let sum = |of: fn(&SoakTally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (lost, doubled) = (sum(|one| one.lost), sum(|one| one.doubled));
    let acknowledged = sum(|one| one.pushes);
    SoakReport {
        commit: COMMIT,
        command: command(),
        seconds,
        faults: plan.faults.clone(),
        acknowledge: plan.acknowledge.to_string(),
        aggregate: plan.aggregate,
        standbys: plan.standbys(),
        kills: caused.len() as u64,
        caused: kinds,
        takeovers: caused.iter().filter(|one| one.is_takeover).count() as u64,
        takeover_ms_p50: quantile(&led, 0.5),
        takeover_ms_max: quantile(&led, 1.0),
        acknowledged,
        pushes_per_s: acknowledged as f64 / seconds,
        lost,
        doubled,
        recovery_ms_p50: quantile(recoveries, 0.5),
        recovery_ms_p99: quantile(recoveries, 0.99),
        recovery_ms_max: quantile(recoveries, 1.0),
        probe_ms_p50: probe_ms(0.5),
        probe_ms_p99: probe_ms(0.99),
        probe_ms_max: probe_ms(1.0),
        whole_ms_p50: quantile(&whole, 0.5),
        whole_ms_max: quantile(&whole, 1.0),
        reconnects: sum(|one| one.reconnects),
        duplicates: sum(|one| one.duplicates),
        violations: sum(|one| one.violations) + lost + doubled,
    }
}

/// The least of the values that so many of them do not exceed; none of no values.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

impl SoakReport {
    fn pairs(&self) -> Vec<(String, String)> {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        pairs_of([
            ("seconds", format!("{:.1}", self.seconds)),
            ("faults caused", count(self.kills)),
            ("takeovers", count(self.takeovers)),
            ("takeover max ms", ms(self.takeover_ms_max)),
            ("pushes acknowledged", count(self.acknowledged)),
            ("pushes/s", count(self.pushes_per_s as u64)),
            ("lost", count(self.lost)),
            ("doubled", count(self.doubled)),
            ("recovery p50 ms", ms(self.recovery_ms_p50)),
            ("recovery p99 ms", ms(self.recovery_ms_p99)),
            ("recovery max ms", ms(self.recovery_ms_max)),
            ("probe p50 ms", ms(Some(self.probe_ms_p50))),
            ("probe p99 ms", ms(Some(self.probe_ms_p99))),
            ("probe max ms", ms(Some(self.probe_ms_max))),
            ("whole again p50 ms", ms(self.whole_ms_p50)),
            ("whole again max ms", ms(self.whole_ms_max)),
            ("links replaced", count(self.reconnects)),
            ("duplicates refused", count(self.duplicates)),
            ("violations", count(self.violations)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_least_value_that_so_many_do_not_exceed() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.5), Some(2.0));
        assert_eq!(quantile(&values, 0.99), Some(4.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
