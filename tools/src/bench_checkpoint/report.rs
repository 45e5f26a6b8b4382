//! The figures of `gradwire bench checkpoint`, and how they are printed.
//!
//! Owns medians and names. Taking figures is left to the command.

use bench::Spread;
use serde::Serialize;

use super::CheckpointBenchArgs;
use crate::output::{count, pairs_of};
use crate::push_pull::{COMMIT, command};

/// All figures are medians but for the longest times.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    commit: &'static str,
    command: String,
    rows: u64,
    /// Of the server.
    cores: u16,
    bytes: u64,
    push_rows_per_s_alone: f64,
    push_rows_per_s_beside: f64,
    /// Of each pair, the second by the first.
    push_share: f64,
    probe_us_p99_alone: f64,
    probe_us_p99_beside: f64,
    probe_us_max_alone: f64,
    probe_us_max_beside: f64,
    /// The range of turns that the longest is in: its upper end, in us.
    turn_us_max_alone: f64,
    turn_us_max_beside: f64,
    /// Turns of more than 2 ms, in ten thousand.
    long_turns_alone: f64,
    long_turns_beside: f64,
    /// The most that recording took of a turn.
    recording_turn_us_max: f64,
    /// The same, but only the time that the core's thread ran.
    recording_turn_own_us_max: f64,
    /// As `--rate` has it.
    paced_rate: String,
    paced_push_share: f64,
    paced_ms: f64,
    /// A checkpoint of what a job that all but sleeps has changed since the one before.
    changes_bytes: u64,
    changes_ms: f64,
    /// Pushed rows/s while it is noted what changes, by those before.
    noting_share: f64,
    beside_write_mib_per_s: f64,
    write_mib_per_s: f64,
    plain_write_mib_per_s: f64,
    /// Past the kernel's cache.
    direct_write_mib_per_s: f64,
    /// Of the faster plain file.
    write_share: f64,
    restore_mib_per_s: f64,
    /// By the kernel's cache or past it, whichever was faster.
    plain_read_mib_per_s: f64,
    restore_share: f64,
}

/// Figures of all repeats.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) alone: Vec<f64>,
    pub(super) beside: Vec<f64>,
    pub(super) push_share: Vec<f64>,
    /// p99 and longest, alone and beside.
    pub(super) probes: [Vec<f64>; 4],
    /// Of turns, as the report has them.
    pub(super) turns: [Vec<f64>; 4],
    pub(super) recording_turn: Vec<f64>,
    pub(super) recording_turn_own: Vec<f64>,
    pub(super) paced_share: Vec<f64>,
    pub(super) paced_ms: Vec<f64>,
    pub(super) changes: Vec<[f64; 3]>,
    pub(super) direct_write: Vec<f64>,
    pub(super) beside_write: Vec<f64>,
    pub(super) write: Vec<f64>,
    pub(super) plain_write: Vec<f64>,
    pub(super) write_share: Vec<f64>,
    pub(super) restore: Vec<f64>,
    pub(super) plain_read: Vec<f64>,
    pub(super) restore_share: Vec<f64>,
}

impl Report {
    pub(super) fn of(arguments: &CheckpointBenchArgs, bytes: u64, figures: &Figures) -> Report {
        let middle = |all: &[f64]| Spread::of(all).median;
        let longest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
        let turns = &figures.turns;
        let changes =
            |at: usize| middle(&figures.changes.iter().map(|it| it[at]).collect::<Vec<_>>());
        let [p99_alone, max_alone, p99_beside, max_beside] = &figures.probes;
        Report {
            commit: COMMIT,
            command: command(),
            rows: arguments.rows.0 as u64,
            cores: arguments.cores,
            bytes,
            push_rows_per_s_alone: middle(&figures.alone),
            push_rows_per_s_beside: middle(&figures.beside),
            push_share: middle(&figures.push_share),
            probe_us_p99_alone: middle(p99_alone),
            probe_us_p99_beside: middle(p99_beside),
            probe_us_max_alone: longest(max_alone),
            probe_us_max_beside: longest(max_beside),
            turn_us_max_alone: longest(&turns[0]),
            turn_us_max_beside: longest(&turns[1]),
            long_turns_alone: middle(&turns[2]),
            long_turns_beside: middle(&turns[3]),
            recording_turn_us_max: longest(&figures.recording_turn),
            recording_turn_own_us_max: longest(&figures.recording_turn_own),
            paced_rate: arguments.rate.to_string(),
            paced_push_share: middle(&figures.paced_share),
            paced_ms: middle(&figures.paced_ms),
            changes_bytes: changes(0) as u64,
            changes_ms: changes(1),
            noting_share: changes(2),
            beside_write_mib_per_s: middle(&figures.beside_write),
            write_mib_per_s: middle(&figures.write),
            plain_write_mib_per_s: middle(&figures.plain_write),
            direct_write_mib_per_s: middle(&figures.direct_write),
            write_share: middle(&figures.write_share),
            restore_mib_per_s: middle(&figures.restore),
            plain_read_mib_per_s: middle(&figures.plain_read),
            restore_share: middle(&figures.restore_share),
        }
    }

    pub(super) fn pairs(&self) -> Vec<(String, String)> {
        pairs_of([
            ("rows", count(self.rows)),
            ("cores of the server", self.cores.to_string()),
            ("bytes of a checkpoint", count(self.bytes)),
            ("pushed rows/s, alone", count(self.push_rows_per_s_alone as u64)),
            ("pushed rows/s, beside one", count(self.push_rows_per_s_beside as u64)),
            ("share", format!("{:.3}", self.push_share)),
            ("pull of a key, p99 us, alone", format!("{:.0}", self.probe_us_p99_alone)),
            ("pull of a key, p99 us, beside one", format!("{:.0}", self.probe_us_p99_beside)),
            ("pull of a key, longest us, alone", format!("{:.0}", self.probe_us_max_alone)),
            ("pull of a key, longest us, beside one", format!("{:.0}", self.probe_us_max_beside)),
            ("turn, longest us (range), alone", format!("{:.0}", self.turn_us_max_alone)),
            ("turn, longest us (range), beside one", format!("{:.0}", self.turn_us_max_beside)),
            ("turns over 2 ms of 10 000, alone", format!("{:.2}", self.long_turns_alone)),
            ("turns over 2 ms of 10 000, beside one", format!("{:.2}", self.long_turns_beside)),
            ("recording, most of a turn, us: wall", format!("{:.0}", self.recording_turn_us_max)),
            (
                "recording, most of a turn, us: own",
                format!("{:.0}", self.recording_turn_own_us_max),
            ),
            ("paced, at", self.paced_rate.clone()),
            ("paced, share of pushes beside one", format!("{:.3}", self.paced_push_share)),
            ("paced, ms of one", format!("{:.0}", self.paced_ms)),
            ("changes of a sleepy job, bytes", count(self.changes_bytes)),
            ("changes of a sleepy job, ms", format!("{:.0}", self.changes_ms)),
            ("pushes while changes are noted, share", format!("{:.3}", self.noting_share)),
            ("written beside a load, MiB/s", format!("{:.0}", self.beside_write_mib_per_s)),
            ("written, MiB/s", format!("{:.0}", self.write_mib_per_s)),
            ("plain file, MiB/s", format!("{:.0}", self.plain_write_mib_per_s)),
            ("plain file past the cache, MiB/s", format!("{:.0}", self.direct_write_mib_per_s)),
            ("share of the faster", format!("{:.2}", self.write_share)),
            ("restored, MiB/s", format!("{:.0}", self.restore_mib_per_s)),
            (
                "plain files read, the faster way, MiB/s",
                format!("{:.0}", self.plain_read_mib_per_s),
            ),
            ("share", format!("{:.2}", self.restore_share)),
        ])
    }
}
