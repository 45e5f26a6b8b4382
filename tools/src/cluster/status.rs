//! `gradwire status`: a cluster at a glance.
//!
//! Owns the tables. What they say is the coordinator's view, and no server's own.

use std::time::Duration;

use wire::{
    Ask, Chain, ChainState, CheckpointStatus, CheckpointTaken, ClusterStatus, EpochCause,
    JobStatus, RestoreStatus, ServerId, ServerState, ServerStatus, ToCoordinator, ToMember,
};

use super::{Caller, StatusArgs, unexpected};
use crate::failure::Failure;
use crate::output::{count, json, result};
use crate::signals::Stop;

/// How often `--watch` prints.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How often it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Epochs that are listed; `--json` has all that the coordinator tells.
const EPOCHS_SHOWN_MAX: usize = 8;

/// Bytes of one.
const GIB: f64 = (1u64 << 30) as f64;

/// Shards in trouble that are listed.
const SHARDS_SHOWN_MAX: usize = 32;

/// Runs the command.
pub(crate) fn run(arguments: &StatusArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    let mut caller = Caller::connect(&arguments.at.coordinator, &arguments.at.cluster)?;
    loop {
        let status = match caller.say(&ToCoordinator::Ask(Ask::Status))? {
            ToMember::Status(status) => *status,
            other => return Err(unexpected(&other)),
        };
        match arguments.json {
            true => json(&status)?,
            false => lines(&status, arguments.shards).iter().try_for_each(|line| result(line))?,
        }
        if !arguments.watch {
            return Ok(());
        }
        let looks = WATCH_EVERY.as_millis() / LOOK_EVERY.as_millis();
        for _ in 0..looks {
            if stop.asked() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if !arguments.json {
            result("")?;
        }
    }
}

/// The whole status as lines of text.
///
/// - `all_shards`: those without trouble are listed, too.
fn lines(status: &ClusterStatus, all_shards: bool) -> Vec<String> {
    let mut lines = vec![headline(status), verdict(status), String::new()];
    if let Some(error) = &status.store_error {
        let waited = ago(status.store_waits_ms.unwrap_or(0));
        lines.insert(2, format!("the store does not take the next epoch, for {waited}: {error}"));
    }
    lines.extend(stored(status));
    let mut servers = vec![words(
        "server name place host state heads replicas filling rows GiB of pushed/s pulled/s hot_% \
         beat_ms patience_ms epoch",
    )];
    servers.extend(status.servers.iter().map(server_row));
    lines.extend(columns(&servers, &[1, 2, 3, 4]));
    if !status.jobs.is_empty() {
        let mut jobs =
            vec![words("job state workers of hosts standby epoch of portions unfinished")];
        jobs.extend(status.jobs.iter().map(job_row));
        lines.push(String::new());
        lines.extend(columns(&jobs, &[0, 1]));
    }
    lines.extend(shards(status, all_shards));
    if !status.history.is_empty() {
        let mut epochs = vec![words("epoch ago cause")];
        epochs.extend(status.history.iter().take(EPOCHS_SHOWN_MAX).map(epoch_row));
        lines.push(String::new());
        lines.extend(columns(&epochs, &[2]));
    }
    lines
}

/// Shards in trouble, or all: an empty line, and a table. Nothing where there are none.
fn shards(status: &ClusterStatus, all: bool) -> Vec<String> {
    let troubled = |shard: u16| status.troubled.iter().find(|one| one.shard.get() == shard);
    let rows: Vec<Vec<String>> = match all {
        true => (0..)
            .zip(&status.chains)
            .map(|(shard, chain)| {
                let state = troubled(shard).map_or("whole".to_owned(), |one| state(&one.state));
                shard_row(shard, state, chain)
            })
            .collect(),
        false => status
            .troubled
            .iter()
            .map(|one| shard_row(one.shard.get(), state(&one.state), &one.chain))
            .collect(),
    };
    if rows.is_empty() {
        return Vec::new();
    }
    let shown_max = if all { rows.len() } else { SHARDS_SHOWN_MAX };
    let more = rows.len().saturating_sub(shown_max);
    let mut table = vec![words("shard state held_by filling")];
    table.extend(rows.into_iter().take(shown_max));
    let mut lines = vec![String::new()];
    lines.extend(columns(&table, &[1, 2]));
    if more > 0 {
        lines.push(format!("and {more} more: --shards lists all"));
    }
    lines
}

fn headline(status: &ClusterStatus) -> String {
    let ClusterStatus { cluster, epoch, shards, replicas, watchers, .. } = status;
    let term = match (status.term, &status.leader) {
        (0, _) => String::new(),
        (term, None) => format!(" in term {term}"),
        (term, Some(leader)) => format!(" by {leader} in term {term}"),
    };
    format!(
        "cluster {cluster}: {epoch}, {shards} shards on {replicas} servers each, {} servers, \
         {watchers} watchers; coordinated for {}{term}",
        status.servers.len(),
        ago(status.up_ms)
    )
}

/// What there is to say of checkpoints, a line each, and an empty one.
fn stored(status: &ClusterStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(RestoreStatus { from, loading, failed }) = &status.restore {
        let is_there = match loading {
            0 => String::new(),
            loading => format!("; {loading} replicas are still being loaded"),
        };
        lines.push(format!("restored from checkpoint {} of {}{is_there}", from.number, from.place));
        lines.extend(failed.iter().map(|why| format!("NOT RESTORED: {why}")));
    }
    if let Some(CheckpointStatus { place, last, under_way, failure, .. }) = &status.checkpoints {
        let last = match last {
            None => "none yet".to_owned(),
            Some(CheckpointTaken { number, bytes, ago_ms, .. }) => {
                format!("the last one is {number}, {} bytes, {} ago", count(*bytes), ago(*ago_ms))
            }
        };
        lines.push(format!("checkpoints in {place}: {last}"));
        if let Some(it) = under_way {
            let number = it.number.map_or("the next one".to_owned(), |it| it.to_string());
            lines.push(format!(
                "being taken: {number}, {} of {} parts written, {} bytes, for {}",
                it.parts_done,
                it.parts,
                count(it.bytes),
                ago(it.since_ms)
            ));
        }
        lines.extend(failure.iter().map(|why| format!("THE LAST ONE FAILED: {why}")));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

/// How the shards are, in a line.
fn verdict(status: &ClusterStatus) -> String {
    if status.epoch.get() == 0 {
        let (has, needs) = (status.servers.len(), status.servers_min);
        return format!("nothing is placed yet: {has} of {needs} servers are there");
    }
    let count = |is_it: fn(&ChainState) -> bool| {
        status.troubled.iter().filter(|one| is_it(&one.state)).count()
    };
    let counts = [
        (count(|state| *state == ChainState::Lost), "LOST"),
        (count(|state| *state == ChainState::Away), "held by none who is there"),
        (count(|state| *state == ChainState::Short), "short of replicas"),
        (count(|state| matches!(state, ChainState::Filling { .. })), "being filled"),
    ];
    let said: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match said.is_empty() {
        true => "all shards are whole".to_owned(),
        false => format!("shards: {}", said.join(", ")),
    }
}

fn server_row(server: &ServerStatus) -> Vec<String> {
    let state = match server.state {
        ServerState::Applied => "applied",
        ServerState::Fit => "fit",
        ServerState::Leaving => "leaving",
        ServerState::Expected => "expected",
        ServerState::Away => "AWAY",
        ServerState::Lost => "LOST",
    };
    let member = &server.member;
    vec![
        member.server.get().to_string(),
        member.name.clone(),
        member.place.clone(),
        member.host.clone(),
        state.to_owned(),
        server.heads.to_string(),
        server.replicas.to_string(),
        server.filling.to_string(),
        shown(server.work, |work| count(work.rows)),
        shown(server.work, |work| format!("{:.1}", work.held_bytes as f64 / GIB)),
        format!("{:.1}", member.memory_mib as f64 / 1024.0),
        shown(server.work.and_then(|work| work.keys_pushed_per_s), rate),
        shown(server.work.and_then(|work| work.keys_pulled_per_s), rate),
        shown(server.work, |work| format!("{:.0}", 100.0 * work.hottest_ratio)),
        server.beat_ago_ms.to_string(),
        format!("{:.0}", server.suspected_after_ms),
        server.epoch.get().to_string(),
    ]
}

/// What is known; a stroke where nothing is.
fn shown<T>(known: Option<T>, say: impl Fn(T) -> String) -> String {
    known.map_or_else(|| "-".to_owned(), say)
}

/// Keys a second.
fn rate(keys_per_s: f64) -> String {
    count(keys_per_s.round() as u64)
}

fn state(state: &ChainState) -> String {
    match *state {
        ChainState::Filling { rows: Some((sent, all)) } if all > 0 => {
            format!("filling {} %", sent.min(all) * 100 / all)
        }
        ChainState::Filling { .. } => "filling".to_owned(),
        ChainState::Short => "short".to_owned(),
        ChainState::Away => "AWAY".to_owned(),
        ChainState::Lost => "LOST".to_owned(),
    }
}

fn shard_row(shard: u16, state: String, chain: &Chain) -> Vec<String> {
    let number = |server: &ServerId| server.get().to_string();
    let held_by: Vec<String> = chain.replicas.iter().map(number).collect();
    let joining = chain.joining.as_ref().map_or("-".to_owned(), number);
    let held_by = if held_by.is_empty() { "-".to_owned() } else { held_by.join(" ") };
    vec![shard.to_string(), state, held_by, joining]
}

fn job_row(job: &JobStatus) -> Vec<String> {
    vec![
        job.name.clone(),
        job.state.clone(),
        job.present.to_string(),
        job.workers.to_string(),
        job.hosts.to_string(),
        job.standbys.to_string(),
        job.epoch.to_string(),
        job.epochs.to_string(),
        count(job.portions),
        count(job.open),
    ]
}

fn epoch_row(past: &EpochCause) -> Vec<String> {
    let when = past.ago_ms.map_or("before".to_owned(), ago);
    vec![past.epoch.get().to_string(), when, past.cause.clone()]
}

/// A time in its two largest units: `3 min 7 s`.
fn ago(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let Some(at) = UNITS.iter().position(|(unit_ms, _)| ms >= *unit_ms) else {
        return format!("{ms} ms");
    };
    let (unit_ms, unit) = UNITS[at];
    let whole = format!("{} {unit}", ms / unit_ms);
    match UNITS.get(at + 1) {
        Some((next_ms, next)) => format!("{whole} {} {next}", ms % unit_ms / next_ms),
        None => whole,
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(|word| word.replace('_', " ")).collect()
}

/// Rows in aligned columns, two spaces apart; those of `left` begin at their left.
fn columns(rows: &[Vec<String>], left: &[usize]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            match left.contains(&column) {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use wire::{ChainStatus, Epoch, Member, ShardId, WorkStatus};

    use super::*;

    fn job() -> JobStatus {
        JobStatus {
            name: "nightly".into(),
            workers: 12,
            present: 8,
            hosts: 3,
            standbys: 1,
            state: "runs".into(),
            epochs: 2,
            epoch: 1,
            portions: 1234,
            open: 15,
        }
    }

    #[test]
    fn a_status_is_a_table_that_says_first_what_is_wrong() {
        let server = ServerId::new(3);
        let member = Member {
            server,
            name: "a".into(),
            place: "h1:7077".into(),
            host: "h1".into(),
            memory_mib: 1536,
        };
        let server_status = ServerStatus {
            member,
            cores: 2,
            state: ServerState::Fit,
            beat_ago_ms: 4,
            beat_gap_ms: 20.0,
            suspected_after_ms: 200.0,
            epoch: Epoch::new(9),
            heads: 1,
            replicas: 2,
            filling: 0,
            work: Some(WorkStatus {
                held_bytes: 1 << 29,
                rows: 12_345,
                keys_pushed_per_s: Some(6789.4),
                keys_pulled_per_s: None,
                hottest_ratio: 0.251,
            }),
        };
        let chain = Chain { epoch: Epoch::new(9), replicas: vec![server], joining: None };
        let state = ChainState::Filling { rows: Some((50, 200)) };
        let status = ClusterStatus {
            cluster: "ctr".into(),
            epoch: Epoch::new(9),
            shards: 2,
            replicas: 2,
            up_ms: 61_000,
            servers: vec![server_status],
            chains: vec![chain.clone(); 2],
            troubled: vec![ChainStatus { shard: ShardId::new(1), chain, state }],
            history: vec![EpochCause { epoch: Epoch::new(9), cause: "why".into(), ago_ms: None }],
            jobs: vec![job()],
            ..ClusterStatus::default()
        };
        let text = lines(&status, false).join("\n");
        let expected = "\
cluster ctr: epoch 9, 2 shards on 2 servers each, 1 servers, 0 watchers; coordinated for 1 min 1 s
shards: 1 being filled

server  name  place    host  state  heads  replicas  filling    rows  GiB   of  pushed/s  \
pulled/s  hot %  beat ms  patience ms  epoch
     3  a     h1:7077  h1    fit        1         2        0  12 345  0.5  1.5     6 789         \
-     25        4          200      9

job      state  workers  of  hosts  standby  epoch  of  portions  unfinished
nightly  runs         8  12      3        1      1   2     1 234          15

shard  state         held by  filling
    1  filling 25 %  3              -

epoch     ago  cause
    9  before  why";
        assert_eq!(text, expected, "\n{text}");
        let all = "
shard  state         held by  filling
    0  whole         3              -
    1  filling 25 %  3              -
";
        let text = lines(&status, true).join("\n");
        assert!(text.contains(all), "\n{text}");
    }

    #[test]
    fn times_have_two_units() {
        let times = [0, 999, 61_000, 3_600_000, 90_061_000].map(ago);
        assert_eq!(times, ["0 ms", "999 ms", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
