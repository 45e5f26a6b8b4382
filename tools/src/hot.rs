//! `gradwire bench hot`: who answers pulls where a few keys are asked for most.
//!
//! Owns one cluster of processes and one session, which reads from heads alone, from replicas where
//! a shard is hot, and from all replicas, in turns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bench::{ClusterLoad, Spread};
use clap::Args;
use serde::Serialize;

use crate::cluster_bench::{ClusterBenchArgs, Rig, RigSpec, check};
use crate::failure::Failure;
use crate::flags::ReadFlag;
use crate::output::{complain, exactly_once, json, result};
use crate::push_pull::{COMMIT, command};

/// Who reads, in each turn.
const READS: [ReadFlag; 3] = [ReadFlag::Heads, ReadFlag::Auto, ReadFlag::Replicas];

/// The flags of `gradwire bench hot`.
#[derive(Clone, Debug, Args)]
pub(crate) struct HotArgs {
    #[command(flatten)]
    rig: ClusterBenchArgs,
    /// Servers.
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=16))]
    servers: u16,
    /// Replicas of each shard.
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(2..=8))]
    replicas: u8,
    /// The law of Zipf that keys are drawn by; 0 draws all alike.
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.99)]
    zipf: f64,
    /// Repeats, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
struct HotReport {
    commit: &'static str,
    command: String,
    servers: u16,
    replicas: u8,
    zipf_exponent: f64,
    rows: Vec<HotRow>,
    /// Values that lacked what was pushed before.
    wrong: u64,
    lost: u64,
    doubled: u64,
}

/// One way to read.
#[derive(Clone, Debug, Serialize)]
struct HotRow {
    read: ReadFlag,
    pulls_per_s: Spread,
    keys_per_s: Spread,
    /// Of the keys that were pulled, those of the server that had most of them.
    busiest_keys_ratio: Spread,
    /// Of the servers' processor time, that of the server that took most.
    busiest_time_ratio: Spread,
    /// Of the keys that were pulled, those that went to no head.
    from_replicas_ratio: Spread,
    /// Pulls that went back to the head, in all repeats.
    handed_over: u64,
}

/// One phase.
#[derive(Clone, Copy, Default)]
struct Phase {
    pulls_per_s: f64,
    keys_per_s: f64,
    busiest_keys_ratio: f64,
    busiest_time_ratio: f64,
    from_replicas_ratio: f64,
    handed_over: u64,
    wrong: u64,
}

/// Runs the command.
pub(crate) fn run(arguments: &HotArgs) -> Result<(), Failure> {
    let (servers, replicas) = (arguments.servers, arguments.replicas);
    if u16::from(replicas) > servers {
        return Err(Failure::usage(format!("{servers} servers cannot hold {replicas} replicas")));
    }
    let spec = RigSpec { name: "hot", replicas, servers, arguments: &arguments.rig };
    let mut rig = Rig::start(&spec)?;
    complain("gradwire: creating rows");
    let mut load = rig.load_by(arguments.zipf)?;
    let phase = rig.phase();
    for read in READS {
        measure(&mut rig, &mut load, read, phase / 4)?;
    }
    let mut phases: [Vec<Phase>; READS.len()] = Default::default();
    for repeat in 1..=arguments.repeats {
        complain(&format!("gradwire: repeat {repeat} of {}", arguments.repeats));
        for (read, phases) in READS.into_iter().zip(&mut phases) {
            phases.push(measure(&mut rig, &mut load, read, phase)?);
        }
    }
    let wrong = phases.iter().flatten().map(|phase| phase.wrong).sum();
    load.read_from(ReadFlag::Heads.reading());
    let tally = check(load)?;
    let report = HotReport {
        commit: COMMIT,
        command: command(),
        servers,
        replicas,
        zipf_exponent: arguments.zipf,
        rows: READS.into_iter().zip(&phases).map(|(read, all)| HotRow::of(read, all)).collect(),
        wrong,
        lost: tally.lost,
        doubled: tally.doubled,
    };
    if arguments.rig.json {
        json(&report)?;
    } else {
        result(&report.lines())?;
    }
    match wrong {
        0 => exactly_once(report.lost, report.doubled),
        wrong => Err(Failure::verdict(format!("{wrong} values lack what was pushed before"))),
    }
}

/// Pulls for so long, and sees who answered.
fn measure(
    rig: &mut Rig,
    load: &mut ClusterLoad,
    read: ReadFlag,
    phase: Duration,
) -> Result<Phase, Failure> {
    load.read_from(read.reading());
    let (times, keys, counts) = (rig.time_by_server()?, load.keys_by_server(), load.counts());
    let began = Instant::now();
    let pulled = load.pull_while(|| began.elapsed() < phase).map_err(Failure::failed)?;
    let seconds = began.elapsed().as_secs_f64();
    let before = |(server, now): (_, u64)| now - keys.get(&server).copied().unwrap_or_default();
    let keys: HashMap<_, u64> = load.keys_by_server();
    let asked: Vec<f64> = keys.into_iter().map(|one| before(one) as f64).collect();
    let busy = rig.time_by_server()?.into_iter().zip(times);
    let busy: Vec<f64> = busy.map(|(now, before)| (now - before).as_secs_f64()).collect();
    let after = load.counts();
    let keys_pulled = (after.keys_pulled - counts.keys_pulled) as f64;
    let from_replicas = (after.keys_from_replicas - counts.keys_from_replicas) as f64;
    Ok(Phase {
        pulls_per_s: pulled.pulls as f64 / seconds,
        keys_per_s: keys_pulled / seconds,
        busiest_keys_ratio: largest_part(&asked),
        busiest_time_ratio: largest_part(&busy),
        from_replicas_ratio: from_replicas / keys_pulled,
        handed_over: after.pulls_handed_over - counts.pulls_handed_over,
        wrong: pulled.wrong,
    })
}

/// The largest figure's part of all.
fn largest_part(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max) / figures.iter().sum::<f64>()
}

impl HotRow {
    fn of(read: ReadFlag, phases: &[Phase]) -> HotRow {
        let spread = |of: fn(&Phase) -> f64| Spread::of(&phases.iter().map(of).collect::<Vec<_>>());
        HotRow {
            read,
            pulls_per_s: spread(|phase| phase.pulls_per_s),
            keys_per_s: spread(|phase| phase.keys_per_s),
            busiest_keys_ratio: spread(|phase| phase.busiest_keys_ratio),
            busiest_time_ratio: spread(|phase| phase.busiest_time_ratio),
            from_replicas_ratio: spread(|phase| phase.from_replicas_ratio),
            handed_over: phases.iter().map(|phase| phase.handed_over).sum(),
        }
    }
}

impl HotReport {
    /// The table, for people.
    fn lines(&self) -> String {
        let head = ["read", "pulls/s", "keys/s", "busiest keys", "busiest time", "from replicas"];
        let mut lines = vec![format!(
            "{:<10}{:>10}{:>12}{:>14}{:>14}{:>15}",
            head[0], head[1], head[2], head[3], head[4], head[5]
        )];
        lines.extend(self.rows.iter().map(|row| {
            format!(
                "{:<10}{:>10.0}{:>12.0}{:>14.3}{:>14.3}{:>15.3}",
                format!("{:?}", row.read).to_lowercase(),
                row.pulls_per_s.median,
                row.keys_per_s.median,
                row.busiest_keys_ratio.median,
                row.busiest_time_ratio.median,
                row.from_replicas_ratio.median,
            )
        }));
        lines.join("\n")
    }
}
