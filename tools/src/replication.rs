//! `gradwire bench replication`: what a second copy of each shard costs its servers, and how much
//! later a push is acknowledged for it.
//!
//! Owns two clusters of as many processes, with and without replicas, under the same load in turns.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bench::{ClusterLoad, Spread};
use clap::Args;
use serde::Serialize;
use worker::Acknowledge;

use crate::aggregation::{self, AggregationSpec};
use crate::cluster_bench::{ClusterBenchArgs, Rig, RigSpec, check};
use crate::failure::Failure;
use crate::flags::ClockBound;
use crate::output::{complain, count, exactly_once, json, pairs_of, table};
use crate::push_pull::{COMMIT, command};

/// Replicas of the cluster that has some.
const REPLICAS: u8 = 2;

/// The flags of `gradwire bench replication`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReplicationArgs {
    #[command(flatten)]
    rig: ClusterBenchArgs,
    /// Repeats, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Workers that push to the same keys. With 2 or more, what is compared is a chain whose head
    /// applies each push by itself and one whose head adds them up.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// How far those workers may be apart.
    #[arg(long, value_name = "bsp|ssp:N|asp", default_value = "asp")]
    clock: ClockBound,
    /// The law of Zipf that their keys are drawn by; 0 draws all alike.
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.0)]
    zipf: f64,
}

/// What a copy costs.
#[derive(Clone, Debug, Serialize)]
struct ReplicationReport {
    commit: &'static str,
    command: String,
    /// Processor time of all servers for each pushed key.
    server_ns_per_key_alone: Spread,
    server_ns_per_key_replicated: Spread,
    /// Of the two, within each repeat.
    server_cost_ratio: Spread,
    push_keys_per_s_alone: Spread,
    push_keys_per_s_replicated: Spread,
    /// One push at a time, answered for the tail, and by the head alone.
    push_at_tail_us_p50: Spread,
    push_at_tail_us_p99: Spread,
    push_at_head_us_p50: Spread,
    push_at_head_us_p99: Spread,
    pushes: u64,
    lost: u64,
    doubled: u64,
}

/// What one phase took.
#[derive(Clone, Copy)]
struct Phase {
    server_ns_per_key: f64,
    keys_per_s: f64,
}

/// Of single pushes, in microseconds: the median and the 99th percentile.
type Latency = [f64; 2];

/// Runs the command.
pub(crate) fn run(arguments: &ReplicationArgs) -> Result<(), Failure> {
    if arguments.workers > 1 {
        return aggregation::run(&AggregationSpec {
            rig: &arguments.rig,
            workers: arguments.workers,
            clock: arguments.clock,
            zipf_exponent: arguments.zipf,
            replicas: REPLICAS,
            repeats: arguments.repeats,
        });
    }
    // As many servers both times: they disturb each other alike.
    let servers = u16::from(REPLICAS);
    let rig = |replicas: u8| {
        Rig::start(&RigSpec { name: "replication", replicas, servers, arguments: &arguments.rig })
    };
    let (mut alone, mut replicated) = (rig(1)?, rig(REPLICAS)?);
    complain("gradwire: creating rows, alone and replicated");
    let (mut load_alone, mut load_replicated) = (alone.load()?, replicated.load()?);
    let phase = alone.phase();
    measure(&mut alone, &mut load_alone, phase / 4)?;
    measure(&mut replicated, &mut load_replicated, phase / 4)?;
    let (mut phases, mut latencies) = (Vec::new(), Vec::new());
    for repeat in 1..=arguments.repeats {
        complain(&format!("gradwire: repeat {repeat} of {}", arguments.repeats));
        let one = measure(&mut alone, &mut load_alone, phase)?;
        phases.push([one, measure(&mut replicated, &mut load_replicated, phase)?]);
        let at_tail = time(&mut load_replicated, Acknowledge::Tail, phase / 4)?;
        latencies.push([at_tail, time(&mut load_replicated, Acknowledge::Head, phase / 4)?]);
    }
    let tallies = [check(load_alone)?, check(load_replicated)?];
    let spread =
        |of: &dyn Fn(&[Phase; 2]) -> f64| Spread::of(&phases.iter().map(of).collect::<Vec<f64>>());
    let late = |of: &dyn Fn(&[Latency; 2]) -> f64| {
        Spread::of(&latencies.iter().map(of).collect::<Vec<f64>>())
    };
    let report = ReplicationReport {
        commit: COMMIT,
        command: command(),
        server_ns_per_key_alone: spread(&|[alone, _]| alone.server_ns_per_key),
        server_ns_per_key_replicated: spread(&|[_, chained]| chained.server_ns_per_key),
        server_cost_ratio: spread(&|[one, two]| two.server_ns_per_key / one.server_ns_per_key),
        push_keys_per_s_alone: spread(&|[alone, _]| alone.keys_per_s),
        push_keys_per_s_replicated: spread(&|[_, chained]| chained.keys_per_s),
        push_at_tail_us_p50: late(&|[tail, _]| tail[0]),
        push_at_tail_us_p99: late(&|[tail, _]| tail[1]),
        push_at_head_us_p50: late(&|[_, head]| head[0]),
        push_at_head_us_p99: late(&|[_, head]| head[1]),
        pushes: tallies.iter().map(|tally| tally.pushes).sum(),
        lost: tallies.iter().map(|tally| tally.lost).sum(),
        doubled: tallies.iter().map(|tally| tally.doubled).sum(),
    };
    if arguments.rig.json {
        json(&report)?;
    } else {
        table(&report.pairs())?;
    }
    exactly_once(report.lost, report.doubled)
}

/// Pushes for so long, and sees what the servers took for it.
fn measure(rig: &mut Rig, load: &mut ClusterLoad, phase: Duration) -> Result<Phase, Failure> {
    let (before, began, keys) = (rig.servers_time()?, Instant::now(), AtomicU64::new(0));
    load.push_while(None, &keys, || began.elapsed() < phase).map_err(Failure::failed)?;
    let (took, keys) = (began.elapsed(), keys.into_inner() as f64);
    let busy = rig.servers_time()?.saturating_sub(before);
    let server_ns_per_key = busy.as_nanos() as f64 / keys;
    Ok(Phase { server_ns_per_key, keys_per_s: keys / took.as_secs_f64() })
}

/// How long single pushes take until they are acknowledged there.
fn time(load: &mut ClusterLoad, at: Acknowledge, phase: Duration) -> Result<Latency, Failure> {
    let began = Instant::now();
    load.time_pushes(at, || began.elapsed() < phase).map_err(Failure::failed)
}

impl ReplicationReport {
    fn pairs(&self) -> Vec<(String, String)> {
        let tenths = |spread: Spread| {
            format!("{:.1} ({:.1} to {:.1})", spread.median, spread.min, spread.max)
        };
        let ratio = self.server_cost_ratio;
        let ratio = format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max);
        let whole = |spread: Spread| count(spread.median as u64);
        pairs_of([
            ("server ns/key alone", tenths(self.server_ns_per_key_alone)),
            ("server ns/key replicated", tenths(self.server_ns_per_key_replicated)),
            ("replicated over alone", ratio),
            ("keys/s alone", whole(self.push_keys_per_s_alone)),
            ("keys/s replicated", whole(self.push_keys_per_s_replicated)),
            ("push at tail p50 us", tenths(self.push_at_tail_us_p50)),
            ("push at tail p99 us", tenths(self.push_at_tail_us_p99)),
            ("push at head p50 us", tenths(self.push_at_head_us_p50)),
            ("push at head p99 us", tenths(self.push_at_head_us_p99)),
            ("pushes checked", count(self.pushes)),
            ("lost", count(self.lost)),
            ("doubled", count(self.doubled)),
        ])
    }
}
