//! `gradwire bench elastic`: servers join and leave while workers push.
//!
//! Owns the order of a run: as many servers again join, and later leave. What each of them is given
//! is the coordinator's to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::ClusterLoad;
use clap::Args;
use serde::Serialize;
use wire::{Ask, Chain, Placement, ServerId, ToCoordinator};

use crate::cluster::order;
use crate::cluster_bench::{ClusterBenchArgs, Rig, RigSpec, check};
use crate::failure::Failure;
use crate::output::{complain, count, exactly_once, json, pairs_of, table};
use crate::push_pull::{COMMIT, command};

/// How often the acknowledged keys are read.
const SAMPLE: Duration = Duration::from_millis(100);

/// How long servers may take to be given their shares, or to hand them over.
const MOVE_MAX: Duration = Duration::from_secs(300);

/// A placement that stands for so long is the last one of a change.
const SETTLED: Duration = Duration::from_secs(1);

/// How often somebody looks at the newest placement.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Below this share of the speed before, throughput has dipped.
const DIPPED: f64 = 0.8;

/// Tenths of a second before a change that its speed is set against.
const BEFORE_TENTHS: usize = 20;

/// Tenths of a second in one.
const SECOND_TENTHS: usize = 10;

/// What the cluster is called.
const ELASTIC: &str = "elastic";

/// The flags of `gradwire bench elastic`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ElasticArgs {
    #[command(flatten)]
    rig: ClusterBenchArgs,
    /// Servers at first; as many again join and leave.
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=64))]
    servers: u16,
    /// Replicas of each shard.
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=8))]
    replicas: u8,
    /// Speed of the load, as a share of what was reached at full speed just before.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pace: f64,
}

/// What a change of the servers did to the load.
#[derive(Clone, Debug, Serialize)]
struct Change {
    /// Servers after it.
    servers: u16,
    seconds: f64,
    /// Replicas that were filled on another server.
    moved_replicas: u64,
    /// Their keys and rows.
    moved_bytes: u64,
    /// In the seconds before.
    keys_per_s_before: f64,
    keys_per_s_meanwhile: f64,
    /// Of any second; of all the time if that is shorter.
    keys_per_s_least: f64,
    /// Time in which throughput was below 0.8 of that before, tenth by tenth of a second.
    dipped_s: f64,
    /// The longest time without one tenth of a second above it.
    dipped_s_longest: f64,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
struct ElasticReport {
    commit: &'static str,
    command: String,
    keys_per_s_full: f64,
    keys_per_s_wanted: f64,
    grown: Change,
    shrunk: Change,
    pushes: u64,
    lost: u64,
    doubled: u64,
    /// Acknowledged keys of each tenth of a second, from the beginning of the paced load.
    keys_by_tenth: Vec<u64>,
}

/// Runs the command.
pub(crate) fn run(arguments: &ElasticArgs) -> Result<(), Failure> {
    if !(arguments.pace > 0.0 && arguments.pace <= 1.0) {
        return Err(Failure::usage("--pace: expected a share above 0 and up to 1"));
    }
    if u16::from(arguments.replicas) > arguments.servers {
        let why = format!("--replicas: {} servers cannot hold so many", arguments.servers);
        return Err(Failure::usage(why));
    }
    let (replicas, servers) = (arguments.replicas, arguments.servers);
    let spec = RigSpec { name: ELASTIC, replicas, servers, arguments: &arguments.rig };
    let mut rig = Rig::start(&spec)?;
    complain("gradwire: creating rows");
    let mut load = rig.load()?;
    let (began, keys) = (Instant::now(), AtomicU64::new(0));
    let phase = rig.phase();
    load.push_while(None, &keys, || began.elapsed() < phase).map_err(Failure::failed)?;
    let full = keys.into_inner() as f64 / began.elapsed().as_secs_f64();
    let wanted = full * arguments.pace;
    let observed = observe(&mut rig, arguments, &mut load, wanted)?;
    let [grown, shrunk] = observed.changes;
    let tally = check(load)?;
    let report = ElasticReport {
        commit: COMMIT,
        command: command(),
        keys_per_s_full: full,
        keys_per_s_wanted: wanted,
        grown,
        shrunk,
        pushes: tally.pushes,
        lost: tally.lost,
        doubled: tally.doubled,
        keys_by_tenth: observed.keys_by_tenth,
    };
    if arguments.rig.json {
        json(&report)?;
    } else {
        table(&report.pairs())?;
    }
    exactly_once(report.lost, report.doubled)
}

/// What was seen of the paced load.
struct Observed {
    changes: [Change; 2],
    keys_by_tenth: Vec<u64>,
}

/// Pushes at this speed while servers join and leave.
fn observe(
    rig: &mut Rig,
    arguments: &ElasticArgs,
    load: &mut ClusterLoad,
    wanted: f64,
) -> Result<Observed, Failure> {
    let (keys, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (keys, over) = (&keys, &over);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(move || sample(keys, over));
        let director = scope.spawn(move || {
            let spans = change_twice(rig, arguments, over);
            over.store(true, Ordering::Relaxed);
            spans
        });
        let pushed = load.push_while(Some(wanted), keys, || !over.load(Ordering::Relaxed));
        over.store(true, Ordering::Relaxed);
        let keys_by_tenth = sampler.join().expect("it only adds");
        let spans = director.join().expect("its failures are values");
        pushed.map_err(Failure::failed)?;
        let changes = spans?.map(|span| span.judged(&keys_by_tenth));
        Ok(Observed { changes, keys_by_tenth })
    })
}

/// Acknowledged keys of each tenth of a second.
fn sample(keys: &AtomicU64, over: &AtomicBool) -> Vec<u64> {
    let (began, mut samples, mut before) = (Instant::now(), Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let due = SAMPLE * (samples.len() as u32 + 1);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let now = keys.load(Ordering::Relaxed);
        samples.push(now - before);
        before = now;
    }
    samples
}

/// When servers changed, since the beginning of the paced load, and what moved.
struct Span {
    servers: u16,
    from: Duration,
    until: Duration,
    moved_replicas: u64,
    moved_bytes: u64,
}

/// As many servers again join, and leave.
fn change_twice(
    rig: &mut Rig,
    arguments: &ElasticArgs,
    over: &AtomicBool,
) -> Result<[Span; 2], Failure> {
    let (began, phase) = (Instant::now(), rig.phase());
    let resident_bytes = arguments.rig.resident.0 as u64 * row_bytes(&arguments.rig);
    let shard_bytes = resident_bytes / u64::from(arguments.rig.shards);
    let span = |servers, from, moved_replicas| Span {
        servers,
        from,
        until: began.elapsed(),
        moved_replicas,
        moved_bytes: moved_replicas * shard_bytes,
    };
    std::thread::sleep(phase);
    let (from, before) = (began.elapsed(), newest(rig)?);
    let first: Vec<ServerId> = before.servers.iter().map(|member| member.server).collect();
    complain("gradwire: servers join");
    for _ in 0..arguments.servers {
        rig.cluster.start_server()?;
    }
    let doubled = 2 * usize::from(arguments.servers);
    let after = settled(rig, over, |placement| {
        let share = placement.chains.len() * usize::from(arguments.replicas) / doubled;
        placement.servers.len() == doubled
            && placement.servers.iter().all(|one| held(placement, one.server) >= share)
    })?;
    let grown = span(2 * arguments.servers, from, moved(&before, &after));
    std::thread::sleep(phase);
    let from = began.elapsed();
    complain("gradwire: they leave");
    let joined = |server: &ServerId| !first.contains(server);
    let leaving = after.servers.iter().map(|member| member.server).filter(joined);
    let leaving: Vec<ServerId> = leaving.collect();
    for &server in &leaving {
        let drain = ToCoordinator::Ask(Ask::Drain { server });
        order::tell(&rig.cluster.addresses, ELASTIC, &drain)?;
    }
    let last =
        settled(rig, over, |placement| leaving.iter().all(|&one| held(placement, one) == 0))?;
    let shrunk = span(arguments.servers, from, moved(&after, &last));
    std::thread::sleep(phase);
    Ok([grown, shrunk])
}

/// A key and its values.
fn row_bytes(arguments: &ClusterBenchArgs) -> u64 {
    (size_of::<u64>() + usize::from(arguments.dim) * size_of::<f32>()) as u64
}

fn newest(rig: &Rig) -> Result<Arc<Placement>, Failure> {
    rig.placements.newest().ok_or_else(|| Failure::failed("there is no placement"))
}

/// The first placement that is as wanted, without anybody to fill, for a while.
fn settled(
    rig: &Rig,
    over: &AtomicBool,
    is_wanted: impl Fn(&Placement) -> bool,
) -> Result<Arc<Placement>, Failure> {
    let until = Instant::now() + MOVE_MAX;
    let (mut seen, mut since) = (newest(rig)?, Instant::now());
    while Instant::now() < until && !over.load(Ordering::Relaxed) {
        let now = newest(rig)?;
        if now.epoch != seen.epoch {
            (seen, since) = (now, Instant::now());
        }
        let is_whole = seen.chains.iter().all(|chain| chain.joining.is_none());
        if is_whole && is_wanted(&seen) && since.elapsed() >= SETTLED {
            return Ok(seen);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let waited_s = since.elapsed().as_secs();
    Err(Failure::failed(format!("no shard has moved for {waited_s} s, and not all are in place")))
}

/// Replicas that a server has.
fn held(placement: &Placement, server: ServerId) -> usize {
    placement.chains.iter().filter(|chain| chain.replicas.contains(&server)).count()
}

/// Replicas that are where none was.
fn moved(before: &Placement, after: &Placement) -> u64 {
    let chains = before.chains.iter().zip(&after.chains);
    let new = |(before, after): (&Chain, &Chain)| {
        after.replicas.iter().filter(|server| !before.replicas.contains(server)).count() as u64
    };
    chains.map(new).sum()
}

impl Span {
    /// What the load was meanwhile. The settling at its end is no part of it.
    fn judged(&self, keys_by_tenth: &[u64]) -> Change {
        let place = |at: Duration| {
            let tenths = (at.as_secs_f64() / SAMPLE.as_secs_f64()) as usize;
            tenths.min(keys_by_tenth.len())
        };
        let until = self.until.saturating_sub(SETTLED);
        let (from, until) = (place(self.from), place(until));
        let per_s = |tenths: &[u64]| {
            let seconds = tenths.len().max(1) as f64 * SAMPLE.as_secs_f64();
            tenths.iter().sum::<u64>() as f64 / seconds
        };
        let before = &keys_by_tenth[from.saturating_sub(BEFORE_TENTHS)..from];
        let meanwhile = &keys_by_tenth[from..until.max(from)];
        let keys_per_s_before = per_s(before);
        let dip = DIPPED * keys_per_s_before * SAMPLE.as_secs_f64();
        let is_dip = |&keys: &u64| (keys as f64) < dip;
        let tenths_s = |tenths: usize| tenths as f64 * SAMPLE.as_secs_f64();
        let seconds = meanwhile.windows(SECOND_TENTHS);
        let longest = meanwhile.split(|keys| !is_dip(keys)).map(<[u64]>::len).max();
        Change {
            servers: self.servers,
            seconds: tenths_s(meanwhile.len()),
            moved_replicas: self.moved_replicas,
            moved_bytes: self.moved_bytes,
            keys_per_s_before,
            keys_per_s_meanwhile: per_s(meanwhile),
            keys_per_s_least: seconds.map(per_s).fold(per_s(meanwhile), f64::min),
            dipped_s: tenths_s(meanwhile.iter().filter(|&keys| is_dip(keys)).count()),
            dipped_s_longest: tenths_s(longest.unwrap_or(0)),
        }
    }
}

impl ElasticReport {
    fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = pairs_of([
            ("keys/s at full speed", count(self.keys_per_s_full as u64)),
            ("keys/s wanted", count(self.keys_per_s_wanted as u64)),
        ]);
        for change in [&self.grown, &self.shrunk] {
            let name = |what: &str| format!("to {} servers: {what}", change.servers);
            let whole = |value: f64| count(value as u64);
            pairs.extend([
                (name("seconds"), format!("{:.1}", change.seconds)),
                (name("moved replicas"), count(change.moved_replicas)),
                (name("moved bytes"), count(change.moved_bytes)),
                (name("keys/s before"), whole(change.keys_per_s_before)),
                (name("keys/s meanwhile"), whole(change.keys_per_s_meanwhile)),
                (name("keys/s, least second"), whole(change.keys_per_s_least)),
                (name("seconds below 0.8 of before"), format!("{:.1}", change.dipped_s)),
                (name("longest of them"), format!("{:.1}", change.dipped_s_longest)),
            ]);
        }
        pairs.extend(pairs_of([
            ("pushes checked", count(self.pushes)),
            ("lost", count(self.lost)),
            ("doubled", count(self.doubled)),
        ]));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dip_is_counted_by_tenths_of_a_second_below_the_speed_before() {
        let mut keys = vec![100; 60];
        keys[35..40].fill(70);
        keys[45] = 0;
        let span = Span {
            servers: 4,
            from: Duration::from_secs(3),
            until: Duration::from_secs(6),
            moved_replicas: 2,
            moved_bytes: 80,
        };
        let change = span.judged(&keys);
        assert_eq!(change.keys_per_s_before, 1000.0);
        assert_eq!(change.seconds, 2.0);
        assert!((change.dipped_s - 0.6).abs() < 1e-9, "{}", change.dipped_s);
        assert!((change.dipped_s_longest - 0.5).abs() < 1e-9, "{}", change.dipped_s_longest);
        assert_eq!(change.keys_per_s_least, 780.0);
        let short = Span { until: Duration::from_millis(4500), ..span };
        assert_eq!(short.judged(&keys).keys_per_s_least, 1000.0, "of half a second");
    }
}
