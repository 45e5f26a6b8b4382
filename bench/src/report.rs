//! The report of a run: medians, spreads, roofs of the same run, and the shares of them.
//!
//! Owns the fields' names, which are the same in JSON and in the table.
//!
//! Invariant: a share is the median of each repeat's own ratio, never a ratio of medians.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bystander::Precedence;
use crate::format::{columns, grouped};
use crate::machine::Machine;
use crate::roofs::Pings;
use crate::spec::PushPullSpec;
use crate::stats::Spread;

/// What one repeat measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repeat {
    pub(crate) push_keys_per_s: f64,
    pub(crate) pull_keys_per_s: f64,
    pub(crate) push_bytes_per_key: f64,
    pub(crate) values_bytes_per_key: f64,
    /// Median and 99th percentile.
    pub(crate) pull_rtt_us: [f64; 2],
    /// Median and 99th percentile.
    pub(crate) push_rtt_us: [f64; 2],
    /// Median and 99th percentile.
    pub(crate) pull_under_push_us: [f64; 2],
    pub(crate) push_beside_keys_per_s: f64,
    pub(crate) precedence: Precedence,
    pub(crate) triad_gb_per_s: f64,
    pub(crate) row_updates_per_s: f64,
    pub(crate) row_reads_per_s: f64,
    pub(crate) two_line_updates_per_s: f64,
    pub(crate) two_line_reads_per_s: f64,
    pub(crate) stream_gb_per_s: f64,
    pub(crate) ping: Pings,
    /// Median and 99th percentile.
    pub(crate) ping_beside_us: [f64; 2],
    pub(crate) raw_ping: Pings,
}

impl Repeat {
    fn link_bytes_per_s(&self) -> f64 {
        self.stream_gb_per_s * 1e9
    }

    /// What a push can reach, in keys a second: the lower of both roofs.
    fn push_roof(&self) -> f64 {
        self.two_line_updates_per_s.min(self.link_bytes_per_s() / self.push_bytes_per_key)
    }

    /// What a pull can reach, in keys a second. Its answer is the longer of its messages.
    fn pull_roof(&self) -> f64 {
        self.two_line_reads_per_s.min(self.link_bytes_per_s() / self.values_bytes_per_key)
    }
}

/// What a run gives. Medians stand at the top; all else is below.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushPullReport {
    /// Keys pushed a second, median over repeats.
    pub push_keys_per_s: f64,
    /// Keys pulled a second, median over repeats.
    pub pull_keys_per_s: f64,
    /// A pull of one key with no other request under way, in microseconds: half took no longer.
    pub pull_rtt_us_p50: f64,
    /// The same: all but one of a hundred took no longer.
    pub pull_rtt_us_p99: f64,
    /// A push of one key until its answer, in microseconds: half took no longer.
    pub push_rtt_us_p50: f64,
    /// The same: all but one of a hundred took no longer.
    pub push_rtt_us_p99: f64,
    /// A pull of one key while another worker pushes at full speed, open loop, from when it was due
    /// until its values were there, in microseconds: all but one of a hundred took no longer.
    pub pull_rtt_us_p99_under_push: f64,
    /// A bare ping of the same transport that is due in the same way, of a thread that does nothing
    /// but answer, beside one that does nothing but run: what of the figure before is this
    /// machine's own.
    pub ping_us_p99_beside_runner: f64,
    /// Bytes of a pull of one key and of its answer, there and back between two bare sockets that
    /// are polled; over shared memory, the bare transport's ping. In microseconds.
    pub raw_ping_us_p50: f64,
    /// Roof of look-ups: random lines, each naming a row that is read, as many as the table has.
    pub roof_rows_per_s: f64,
    /// Roof of the link: messages as long as a push, one way.
    pub roof_link_bytes_per_s: f64,
    /// Bytes that travel for a pushed key, header included, as they were counted.
    pub wire_bytes_per_key: f64,
    /// Bytes that travel back for a pulled key, header included, as they were counted.
    pub values_bytes_per_key: f64,
    /// How the worker writes keys and values.
    pub codec: String,
    /// How far repeats lie apart.
    pub spreads: Spreads,
    /// What the machine does with the bare work.
    pub roofs: Roofs,
    /// The figures as parts of their roofs.
    pub shares: Shares,
    /// How requests follow each other.
    pub load: String,
    /// What was run, where, and by which program.
    pub run: Run,
}

/// Each figure over all repeats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spreads {
    /// Keys a second.
    pub push_keys_per_s: Spread,
    /// Keys a second.
    pub pull_keys_per_s: Spread,
    /// Pulls of one key.
    pub pull_rtt_us: Latencies,
    /// Pushes of one key.
    pub push_rtt_us: Latencies,
    /// Pulls of one key while another worker pushes.
    pub pull_rtt_us_under_push: Latencies,
    /// What that worker pushes meanwhile.
    pub push_keys_per_s_beside_pulls: Spread,
}

/// Percentiles, each over all repeats, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// The median of a repeat.
    pub p50: Spread,
    /// The 99th percentile of a repeat.
    pub p99: Spread,
}

/// Roofs, measured between the repeats on the same processors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Roofs {
    /// STREAM's triad on one core, plain stores, 12 bytes an element.
    pub triad_gb_per_s: Spread,
    /// As many rows as are resident, changed in random order, without keys or index.
    pub row_updates_per_s: Spread,
    /// The same, read.
    pub row_reads_per_s: Spread,
    /// As many lines and rows as the table has, in random order: a line, then the row that it
    /// names, changed.
    pub two_line_updates_per_s: Spread,
    /// The same, read.
    pub two_line_reads_per_s: Spread,
    /// Messages as long as a push, one way, over the same transport, without checksums.
    pub stream_gb_per_s: Spread,
    /// 64 bytes there and back over the same transport, busy polling.
    pub ping_us: Latencies,
    /// The same, due as single pulls beside pushes are, while another thread does nothing but run.
    pub ping_us_beside_runner: Latencies,
    /// Between two bare sockets, as long as a pull of one key and its answer.
    pub raw_ping_us: Latencies,
}

/// Figures as parts of roofs; 1 would be the roof itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Pushed keys of what is lower: rows found and changed, or the link by bytes a key.
    pub push_of_roof: Spread,
    /// Pulled keys of what is lower: rows found and read, or the link by bytes of values.
    pub pull_of_roof: Spread,
    /// A pull's round trip as a multiple of the raw ping, medians of each.
    pub pull_rtt_per_raw_ping: Spread,
    /// Pushed keys of rows changed.
    pub push_of_row_updates: Spread,
    /// Bytes of pushes of the transport's stream.
    pub push_of_stream: Spread,
    /// Pulled keys of rows read.
    pub pull_of_row_reads: Spread,
    /// Bytes of pulled values of the transport's stream.
    pub pull_of_stream: Spread,
    /// The bare ping of a pull's round trip, medians of each.
    pub ping_of_pull_rtt: Spread,
    /// The bare ping of a push's round trip, medians of each.
    pub ping_of_push_rtt: Spread,
}

/// What was run, where, and by which program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The program's commit, as the caller tells it.
    pub commit: String,
    /// The command line, as the caller tells it.
    pub command: String,
    /// The transport that moved the bytes.
    pub transport: String,
    /// Keys whose values were compared with their pushes, bit by bit: where pulls are rounded, with
    /// what the codec makes of them.
    pub checked_keys: usize,
    /// Requests that were sent twice, since no answer came in time.
    pub resends: u64,
    /// Whether the thread that pulls beside pushes was preferred on the processor of both.
    pub precedence: Precedence,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub spec: PushPullSpec,
}

impl PushPullReport {
    /// Panics: if there is no repeat.
    pub(crate) fn new(run: Run, repeats: &[Repeat]) -> PushPullReport {
        let (spreads, roofs) = (Spreads::of(repeats), Roofs::of(repeats));
        PushPullReport {
            push_keys_per_s: spreads.push_keys_per_s.median,
            pull_keys_per_s: spreads.pull_keys_per_s.median,
            pull_rtt_us_p50: spreads.pull_rtt_us.p50.median,
            pull_rtt_us_p99: spreads.pull_rtt_us.p99.median,
            push_rtt_us_p50: spreads.push_rtt_us.p50.median,
            push_rtt_us_p99: spreads.push_rtt_us.p99.median,
            pull_rtt_us_p99_under_push: spreads.pull_rtt_us_under_push.p99.median,
            ping_us_p99_beside_runner: roofs.ping_us_beside_runner.p99.median,
            raw_ping_us_p50: roofs.raw_ping_us.p50.median,
            roof_rows_per_s: roofs.two_line_reads_per_s.median,
            roof_link_bytes_per_s: roofs.stream_gb_per_s.median * 1e9,
            wire_bytes_per_key: spread(repeats, |one| one.push_bytes_per_key).median,
            values_bytes_per_key: spread(repeats, |one| one.values_bytes_per_key).median,
            codec: run.spec.codec.to_string(),
            spreads,
            roofs,
            shares: Shares::of(repeats),
            load: format!("closed loop, window {}", run.spec.in_flight),
            run,
        }
    }

    /// The report as tables for people, with the names and units of the JSON.
    pub fn render_table(&self) -> String {
        let parts = [self.heading(), self.rates(), self.round_trips(), self.bare(), self.footing()];
        parts.join("\n")
    }

    fn heading(&self) -> String {
        let Run { commit, machine, spec, transport, .. } = &self.run;
        format!(
            "gradwire bench push-pull   commit {commit}   {transport}   {}   {}   dim {} f32   \
             {} keys a request   {} resident   zipf {}   {} s x {} runs\n\
             {}, {} cores, Linux {}   1 worker core, 1 server core   {}\n",
            self.codec,
            spec.optimizer,
            spec.dim,
            grouped(spec.keys_per_request as f64),
            grouped(spec.resident_keys as f64),
            spec.zipf_exponent,
            spec.seconds,
            spec.repeats,
            machine.cpu,
            machine.cores,
            machine.kernel,
            self.load,
        )
    }

    fn rates(&self) -> String {
        let Spreads { push_keys_per_s: push, pull_keys_per_s: pull, .. } = &self.spreads;
        let shares = &self.shares;
        let row = |name, rate: &Spread, of: [&Spread; 3]| {
            let rates = [rate.median, rate.min, rate.max].map(grouped);
            [vec![String::from(name)], rates.to_vec(), of.map(percent).to_vec()].concat()
        };
        let head = ["", "keys_per_s", "_min", "_max", "of_roof", "of_random_rows", "of_stream"];
        let of_push = [&shares.push_of_roof, &shares.push_of_row_updates, &shares.push_of_stream];
        let of_pull = [&shares.pull_of_roof, &shares.pull_of_row_reads, &shares.pull_of_stream];
        columns(&[
            head.map(str::to_owned).to_vec(),
            row("push", push, of_push),
            row("pull", pull, of_pull),
        ])
    }

    fn round_trips(&self) -> String {
        let row = |name, latencies: &Latencies, ping: Option<&Spread>| {
            let Latencies { p50, p99 } = latencies;
            let figures = [p50.median, p50.min, p50.max, p99.median].map(|us| format!("{us:.2}"));
            let ping = ping.map_or_else(String::new, percent);
            [vec![String::from(name)], figures.to_vec(), vec![ping]].concat()
        };
        let head = ["", "rtt_us_p50", "_min", "_max", "rtt_us_p99", "ping_of_it"];
        let Spreads { pull_rtt_us, push_rtt_us, pull_rtt_us_under_push, .. } = &self.spreads;
        columns(&[
            head.map(str::to_owned).to_vec(),
            row("pull of 1 key", pull_rtt_us, Some(&self.shares.ping_of_pull_rtt)),
            row("push of 1 key", push_rtt_us, Some(&self.shares.ping_of_push_rtt)),
            row("pull of 1 key, under push", pull_rtt_us_under_push, None),
            row("roof: bare ping, 64 B", &self.roofs.ping_us, None),
            row("the same, due, beside runner", &self.roofs.ping_us_beside_runner, None),
            row("roof: raw socket ping", &self.roofs.raw_ping_us, None),
        ])
    }

    fn bare(&self) -> String {
        let row = |name: &str, spread: &Spread, text: fn(f64) -> String| {
            let figures = [spread.median, spread.min, spread.max].map(text);
            [vec![name.to_owned()], figures.to_vec()].concat()
        };
        let gb = |gb_per_s: f64| format!("{gb_per_s:.2}");
        let roofs = &self.roofs;
        columns(&[
            ["roof", "median", "_min", "_max"].map(str::to_owned).to_vec(),
            row("two lines, update, rows_per_s", &roofs.two_line_updates_per_s, grouped),
            row("two lines, read, rows_per_s", &roofs.two_line_reads_per_s, grouped),
            row("random rows, update, rows_per_s", &roofs.row_updates_per_s, grouped),
            row("random rows, read, rows_per_s", &roofs.row_reads_per_s, grouped),
            row("bare stream, GB_per_s", &roofs.stream_gb_per_s, gb),
            row("STREAM triad, 1 core, GB_per_s", &roofs.triad_gb_per_s, gb),
        ])
    }

    fn footing(&self) -> String {
        let Run { checked_keys, resends, command, precedence, .. } = &self.run;
        let beside = grouped(self.spreads.push_keys_per_s_beside_pulls.median);
        format!(
            "wire_bytes_per_key {:.2}   values_bytes_per_key {:.2}   \
             pushed beside single pulls: {beside} keys_per_s, \
             precedence of the pulls {precedence:?}\n\
             rows checked bit by bit: {checked_keys}   requests sent twice: {resends}   \
             command: {command}\n",
            self.wire_bytes_per_key, self.values_bytes_per_key,
        )
    }
}

impl Spreads {
    fn of(repeats: &[Repeat]) -> Spreads {
        Spreads {
            push_keys_per_s: spread(repeats, |one| one.push_keys_per_s),
            pull_keys_per_s: spread(repeats, |one| one.pull_keys_per_s),
            pull_rtt_us: latencies(repeats, |one| one.pull_rtt_us),
            push_rtt_us: latencies(repeats, |one| one.push_rtt_us),
            pull_rtt_us_under_push: latencies(repeats, |one| one.pull_under_push_us),
            push_keys_per_s_beside_pulls: spread(repeats, |one| one.push_beside_keys_per_s),
        }
    }
}

impl Roofs {
    fn of(repeats: &[Repeat]) -> Roofs {
        let pings = |ping: Pings| [ping.us_p50, ping.us_p99];
        Roofs {
            triad_gb_per_s: spread(repeats, |one| one.triad_gb_per_s),
            row_updates_per_s: spread(repeats, |one| one.row_updates_per_s),
            row_reads_per_s: spread(repeats, |one| one.row_reads_per_s),
            two_line_updates_per_s: spread(repeats, |one| one.two_line_updates_per_s),
            two_line_reads_per_s: spread(repeats, |one| one.two_line_reads_per_s),
            stream_gb_per_s: spread(repeats, |one| one.stream_gb_per_s),
            ping_us: latencies(repeats, |one| pings(one.ping)),
            ping_us_beside_runner: latencies(repeats, |one| one.ping_beside_us),
            raw_ping_us: latencies(repeats, |one| pings(one.raw_ping)),
        }
    }
}

impl Shares {
    fn of(repeats: &[Repeat]) -> Shares {
        let of_link = |keys_per_s: f64, key_bytes: f64, one: &Repeat| {
            keys_per_s * key_bytes / one.link_bytes_per_s()
        };
        Shares {
            push_of_roof: spread(repeats, |one| one.push_keys_per_s / one.push_roof()),
            pull_of_roof: spread(repeats, |one| one.pull_keys_per_s / one.pull_roof()),
            pull_rtt_per_raw_ping: spread(repeats, |one| one.pull_rtt_us[0] / one.raw_ping.us_p50),
            push_of_row_updates: spread(repeats, |one| one.push_keys_per_s / one.row_updates_per_s),
            push_of_stream: spread(repeats, |one| {
                of_link(one.push_keys_per_s, one.push_bytes_per_key, one)
            }),
            pull_of_row_reads: spread(repeats, |one| one.pull_keys_per_s / one.row_reads_per_s),
            pull_of_stream: spread(repeats, |one| {
                of_link(one.pull_keys_per_s, one.values_bytes_per_key, one)
            }),
            ping_of_pull_rtt: spread(repeats, |one| one.ping.us_p50 / one.pull_rtt_us[0]),
            ping_of_push_rtt: spread(repeats, |one| one.ping.us_p50 / one.push_rtt_us[0]),
        }
    }
}

fn spread(repeats: &[Repeat], figure: impl Fn(&Repeat) -> f64) -> Spread {
    Spread::of(&repeats.iter().map(figure).collect::<Vec<f64>>())
}

fn latencies(repeats: &[Repeat], figures: impl Fn(&Repeat) -> [f64; 2]) -> Latencies {
    Latencies {
        p50: spread(repeats, |one| figures(one)[0]),
        p99: spread(repeats, |one| figures(one)[1]),
    }
}

fn percent(share: &Spread) -> String {
    format!("{:.1} %", 100.0 * share.median)
}

impl fmt::Display for PushPullReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render_table())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> PushPullReport {
        let spec = PushPullSpec { keys_per_request: 1000, ..PushPullSpec::default() };
        let run = Run {
            commit: "0123456789abcdef".to_owned(),
            command: "gradwire bench push-pull".to_owned(),
            transport: "shm".to_owned(),
            checked_keys: 10,
            resends: 0,
            precedence: Precedence::Given,
            machine: Machine::default(),
            spec,
        };
        let repeat = |scale: f64| Repeat {
            push_keys_per_s: 10e6 * scale,
            pull_keys_per_s: 20e6 * scale,
            pull_rtt_us: [10.0, 20.0],
            push_rtt_us: [8.0, 16.0],
            triad_gb_per_s: 12.0,
            row_updates_per_s: 40e6 * scale,
            row_reads_per_s: 80e6,
            two_line_updates_per_s: 80e6,
            two_line_reads_per_s: 90e6,
            push_bytes_per_key: 40.0,
            values_bytes_per_key: 32.0,
            stream_gb_per_s: 2.0,
            ping: Pings { us_p50: 4.0, us_p99: 5.0 },
            ping_beside_us: [4.5, 250.0],
            raw_ping: Pings { us_p50: 2.5, us_p99: 3.0 },
            pull_under_push_us: [100.0, 300.0],
            push_beside_keys_per_s: 9e6 * scale,
            precedence: Precedence::Given,
        };
        PushPullReport::new(run, &[repeat(1.0), repeat(2.0), repeat(3.0)])
    }

    #[test]
    fn a_share_is_taken_within_each_repeat() {
        let shares = report().shares;
        assert_eq!(shares.push_of_row_updates, Spread { median: 0.25, min: 0.25, max: 0.25 });
        assert_eq!(shares.pull_of_row_reads.max, 0.75);
        assert_eq!(shares.ping_of_push_rtt.median, 0.5);
        assert_eq!(shares.push_of_stream.median, 20e6 * 40.0 / 2e9);
        assert_eq!(shares.pull_rtt_per_raw_ping.median, 4.0);
    }

    #[test]
    fn the_roof_is_the_link_where_that_is_lower_than_the_rows() {
        let shares = report().shares;
        assert_eq!(shares.push_of_roof.median, 20e6 / (2e9 / 40.0), "50 M keys/s of 40 bytes");
        assert_eq!(shares.pull_of_roof.median, 40e6 / (2e9 / 32.0), "62.5 M keys/s of 32 bytes");
        let json = serde_json::to_value(report()).expect("numbers and strings");
        assert_eq!(json["roof_link_bytes_per_s"], 2e9);
        assert_eq!(json["roof_rows_per_s"], 90e6);
        assert_eq!(json["pull_rtt_us_p99_under_push"], 300.0);
        assert_eq!(json["ping_us_p99_beside_runner"], 250.0);
    }

    #[test]
    fn the_medians_stand_at_the_top_of_the_json_and_are_read_back() {
        let json = serde_json::to_value(report()).expect("numbers and strings");
        assert_eq!(json["push_keys_per_s"], 20e6);
        assert_eq!(json["pull_keys_per_s"], 40e6);
        assert_eq!(json["pull_rtt_us_p50"], 10.0);
        let back: PushPullReport = serde_json::from_value(json).expect("its own fields");
        assert_eq!(back, report());
    }

    #[test]
    fn the_table_shows_rates_with_their_spread_and_shares() {
        let table = report().render_table();
        let push = "push  20 000 000  10 000 000  30 000 000   40.0 %          25.0 %     40.0 %";
        assert!(table.contains(push), "{table}");
        assert!(table.contains("closed loop, window 8"), "{table}");
    }
}
