//! Push and pull through the whole path: one worker's core, one server's core, one transport.
//!
//! Owns the load and its phases. The loop is closed: a fixed number of requests is under way, and
//! the next one is posted when the oldest was answered. Timed are splitting, encoding, sending,
//! applying, answering, and reading what was pulled; drawing keys is not. In one phase `bystander`
//! pulls single keys meanwhile.
//!
//! Invariant: what was posted in a phase is answered before the phase's clock stops.

use std::collections::VecDeque;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use launch::{Local, LocalSpec};
use server::{Hosting, OnClosed, Pinning, ServerSpec};
use shard::rule::{Rule, Rules, table_spec};
use transport::Limits;
use transport::tcp::TcpBackend;
use wire::{Epoch, Incarnation, JobId, TableId, Time, WorkerId};
use worker::{Join, PullTicket, Servers, Session, Staleness, Then, Timeouts, Values, WorkerError};

use crate::bystander::{Bystander, SinglePulls};
use crate::error::{BenchError, Doing};
use crate::keys::KeySet;
use crate::machine::{Machine, Places};
use crate::report::{PushPullReport, Repeat, Run};
use crate::roofs::{PingSizes, Rows, Sockets, Triad, TwoLines, Wire};
use crate::spec::{Carrier, PushPullSpec};
use crate::stats::LatencyLog;
use crate::verify::{Agreement, GRADIENT, Tally, as_pulled, expected_values};

/// The table of every run.
const TABLE: TableId = TableId::new(0);

/// How long any one wait may take.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A side that has nothing to do polls for so long before it sleeps: longer than any gap within a
/// phase, so that phases are busy polling, and short enough that an idle server leaves its
/// processor to the roofs.
const SPIN_NS: u64 = 2_000_000;

/// A round trip's and a roof's part of the time that a repeat pushes.
const SIDE_PHASE_PART: u32 = 4;

/// Keys that round trips ask for in turn.
const SINGLES: usize = 1024;

/// Keys whose values are checked at the end.
const CHECKED_KEYS: usize = 512;

/// Space that a table may take, as a multiple of its rows' own: rows are padded to lines.
const TABLE_BYTES_FACTOR: u64 = 32;

/// Least space that a table may take, in bytes.
const TABLE_BYTES_MIN: u64 = 256 << 20;

/// f32 in a cache line.
const LINE_FLOATS: usize = 16;

/// Measures pushes, pulls, their round trips and the roofs above them, all in turns.
///
/// - `commit`, `command`: what the report says of the program.
/// - `progress`: is told in words what happens.
/// - Errors: [`BenchError`]; there is no report of a run whose rows are wrong.
pub fn run(
    spec: &PushPullSpec,
    commit: &str,
    command: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<PushPullReport, BenchError> {
    spec.check()?;
    progress("drawing keys");
    let keys = KeySet::draw(spec);
    let (machine, places) = (Machine::detect(), Places::find());
    let limits = limits(spec, places);
    // Before this thread is pinned: threads that it starts may run where it may.
    let local = Local::start(local_spec(spec, limits))?;
    let _pinned = places.pin_worker();
    let mut roofs = RoofSet::new(spec, limits, places)?;
    progress(&format!("creating {} rows", spec.resident_keys));
    let mut load = Load::begin(spec, &local, &keys)?;
    load.create_rows()?;
    progress("warming up");
    load.repeat(spec.phase() / SIDE_PHASE_PART)?;
    let mut repeats = Vec::with_capacity(spec.repeats);
    for number in 1..=spec.repeats {
        progress(&format!("repeat {number} of {}", spec.repeats));
        let mut repeat = load.repeat(spec.phase())?;
        load.push_beside_bystander(&local, spec.phase(), &mut repeat)?;
        roofs.measure(spec, &mut repeat)?;
        repeats.push(repeat);
    }
    progress("checking the rows");
    let checked_keys = load.check()?;
    let run = Run {
        commit: commit.to_owned(),
        command: command.to_owned(),
        transport: load.session.transport().name().to_owned(),
        checked_keys,
        resends: load.session.counts().resends,
        precedence: repeats[0].precedence,
        machine,
        spec: spec.clone(),
    };
    load.session.leave(deadline(&load.session)).map_err(failed(Doing::Check))?;
    Ok(PushPullReport::new(run, &repeats))
}

fn limits(spec: &PushPullSpec, places: Places) -> Limits {
    let usual = Limits::default();
    let message_bytes = spec.push_bytes().max(spec.values_bytes(spec.keys_per_request));
    // One more than is under way: the next one is encoded while the oldest is still read.
    let window_bytes = message_bytes * (spec.in_flight + 1);
    Limits {
        message_bytes_max: usual.message_bytes_max.max(message_bytes),
        send_bytes_max: usual.send_bytes_max.max(window_bytes),
        // A session keeps values where they landed in at most half of this.
        recv_bytes_max: usual.recv_bytes_max.max(2 * window_bytes),
        spin_ns: if places == Places::Shared { usual.spin_ns } else { SPIN_NS },
    }
}

fn local_spec(spec: &PushPullSpec, limits: Limits) -> LocalSpec {
    let row_bytes = (spec.rule().widths(spec.dim).row * size_of::<f32>()) as u64;
    let rows_bytes = row_bytes * spec.resident_keys as u64;
    LocalSpec {
        servers: 1,
        server: ServerSpec {
            hosting: Hosting::OneACore,
            on_closed: OnClosed::LoseWorker,
            cores: 1,
            way: spec.transport.way(spec.verbs),
            limits,
            pinning: Pinning::Pinned { first: 0 },
            epoch: Epoch::new(1),
            rules: Rules::builtin(),
            table_bytes_max: TABLE_BYTES_MIN.max(TABLE_BYTES_FACTOR * rows_bytes),
            memory_bytes_max: u64::MAX,
            isa: kernels::Isa::detect(),
        },
        timeouts: Timeouts::default(),
    }
}

/// The roofs of one run, which are measured once a repeat.
struct RoofSet {
    triad: Triad,
    rows: Rows,
    two_lines: TwoLines,
    limits: Limits,
    places: Places,
}

impl RoofSet {
    fn new(spec: &PushPullSpec, limits: Limits, places: Places) -> Result<RoofSet, BenchError> {
        let rows = Rows::new(spec.resident_keys, spec.dim, spec.seed)?;
        let two_lines = TwoLines::new(spec.resident_keys, spec.dim, spec.seed)?;
        Ok(RoofSet { triad: Triad::new()?, rows, two_lines, limits, places })
    }

    fn measure(&mut self, spec: &PushPullSpec, repeat: &mut Repeat) -> Result<(), BenchError> {
        let backend = spec.transport.backend(spec.verbs);
        repeat.ping_beside_us = ping_beside(backend, self.limits, self.places, spec.phase())?;
        let phase = spec.phase() / SIDE_PHASE_PART;
        repeat.triad_gb_per_s = self.triad.gb_per_s(phase);
        repeat.row_updates_per_s = self.rows.updates_per_s(phase);
        repeat.row_reads_per_s = self.rows.reads_per_s(phase);
        repeat.two_line_updates_per_s = self.two_lines.updates_per_s(phase);
        repeat.two_line_reads_per_s = self.two_lines.reads_per_s(phase);
        let mut wire = Wire::between(backend, self.limits, self.places)?;
        wire.pings(phase / SIDE_PHASE_PART)?; // Warms both ends.
        repeat.stream_gb_per_s = wire.stream_gb_per_s(spec.push_bytes(), phase)?;
        repeat.ping = wire.pings(phase)?;
        drop(wire);
        repeat.raw_ping = match spec.transport {
            // There is nothing below: a message is written where it is read.
            Carrier::Shm => repeat.ping,
            Carrier::Uring | Carrier::Epoll | Carrier::Verbs => {
                let sizes = PingSizes {
                    question_bytes: spec.pull_bytes(1),
                    answer_bytes: spec.values_bytes(1),
                };
                let mut sockets = Sockets::between(sizes, self.places)?;
                sockets.pings(phase / SIDE_PHASE_PART)?;
                sockets.pings(phase)?
            }
        };
        Ok(())
    }
}

/// Pings that are due as single pulls beside pushes are, while this thread does nothing but run, as
/// the one that pushes: median and 99th percentile in microseconds.
fn ping_beside(
    backend: Option<TcpBackend>,
    limits: Limits,
    places: Places,
    phase: Duration,
) -> Result<[f64; 2], BenchError> {
    std::thread::scope(|scope| {
        let bystander = Bystander::pinging(scope, backend, limits, places);
        let start = Instant::now();
        while start.elapsed() < phase {
            std::hint::spin_loop();
        }
        Ok(bystander.finish()?.rtt_us)
    })
}

/// A worker's session and what it asks for.
struct Load<'a> {
    session: Session,
    spec: &'a PushPullSpec,
    rule: std::sync::Arc<dyn Rule>,
    keys: &'a KeySet,
    singles: Vec<u64>,
    /// Gradients that were computed before: one buffer a request under way, so that what is
    /// encoded is not what was encoded just before.
    deltas: Vec<Rc<Vec<f32>>>,
    delta_single: Rc<Vec<f32>>,
    tally: Tally,
    /// Requests so far, which decide the next batch.
    requests: usize,
}

impl<'a> Load<'a> {
    /// Joins and defines the table.
    fn begin(
        spec: &'a PushPullSpec,
        local: &Local,
        keys: &'a KeySet,
    ) -> Result<Load<'a>, BenchError> {
        let mut session = local.session(WorkerId::new(0), Incarnation::new(1))?;
        let rule = spec.rule();
        let join = Join { job: JobId::new(spec.seed), workers: 1, staleness: Staleness::ASP };
        let until = deadline(&session);
        session.join(join, until).map_err(failed(Doing::Begin))?;
        let table = table_spec("bench", spec.dim as u32, &*rule);
        session.define_coded(TABLE, &table, spec.codec, until).map_err(failed(Doing::Begin))?;
        let width = rule.widths(spec.dim).delta;
        let deltas = || Rc::new(vec![GRADIENT; spec.keys_per_request * width]);
        let singles: Vec<u64> =
            keys.batches.concat().into_iter().step_by(97).take(SINGLES).collect();
        Ok(Load {
            session,
            spec,
            keys,
            tally: Tally::new(keys.batches.len(), singles.len()),
            singles,
            deltas: (0..=spec.in_flight).map(|_| deltas()).collect(),
            delta_single: Rc::new(vec![GRADIENT; width]),
            rule,
            requests: 0,
        })
    }

    /// Pushes every resident key once.
    fn create_rows(&mut self) -> Result<(), BenchError> {
        let width = self.delta_width();
        for keys in &self.keys.load {
            let deltas = Rc::new(vec![GRADIENT; keys.len() * usize::from(width)]);
            self.push(keys, deltas, self.spec.in_flight - 1).map_err(failed(Doing::Load))?;
        }
        self.wait_pushes(0).map_err(failed(Doing::Load))
    }

    /// One turn of all phases.
    fn repeat(&mut self, phase: Duration) -> Result<Repeat, BenchError> {
        let side_phase = phase / SIDE_PHASE_PART;
        let pushed = self.push_for(phase).map_err(failed(Doing::Push))?;
        let pulled = self.pull_for(phase).map_err(failed(Doing::Pull))?;
        Ok(Repeat {
            push_keys_per_s: pushed.keys_per_s,
            push_bytes_per_key: pushed.bytes_per_key,
            pull_keys_per_s: pulled.keys_per_s,
            values_bytes_per_key: pulled.bytes_per_key,
            pull_rtt_us: self.pull_singles(side_phase).map_err(failed(Doing::RoundTrip))?,
            push_rtt_us: self.push_singles(side_phase).map_err(failed(Doing::RoundTrip))?,
            ..Repeat::default()
        })
    }

    /// Pushes batches while somebody else pulls single keys.
    fn push_beside_bystander(
        &mut self,
        local: &Local,
        phase: Duration,
        repeat: &mut Repeat,
    ) -> Result<(), BenchError> {
        let singles = self.singles.clone();
        let width = self.rule.widths(self.spec.dim).value as u16;
        let pulls = SinglePulls { table: TABLE, keys: &singles, width };
        std::thread::scope(|scope| {
            let bystander = Bystander::pulling(scope, local, pulls);
            let pushed = self.push_for(phase).map_err(failed(Doing::UnderPush));
            let seen = bystander.finish()?;
            repeat.push_beside_keys_per_s = pushed?.keys_per_s;
            repeat.pull_under_push_us = seen.rtt_us;
            repeat.precedence = seen.precedence;
            Ok(())
        })
    }

    /// Pushes batches.
    fn push_for(&mut self, phase: Duration) -> Result<Moved, WorkerError> {
        let bytes_before = self.session.transport().bytes_sent();
        let (start, mut keys_count, keys) = (Instant::now(), 0, self.keys);
        while start.elapsed() < phase {
            let number = self.requests % keys.batches.len();
            let deltas = Rc::clone(&self.deltas[self.requests % self.deltas.len()]);
            self.push(&keys.batches[number], deltas, self.spec.in_flight - 1)?;
            self.tally.batch(number);
            self.requests += 1;
            keys_count += self.spec.keys_per_request;
        }
        self.wait_pushes(0)?;
        let keys_per_s = keys_count as f64 / start.elapsed().as_secs_f64();
        let bytes = self.session.transport().bytes_sent() - bytes_before;
        Ok(Moved { keys_per_s, bytes_per_key: bytes as f64 / keys_count as f64 })
    }

    /// Pulls batches and reads them.
    fn pull_for(&mut self, phase: Duration) -> Result<Moved, WorkerError> {
        let bytes_before = self.session.counts().values_bytes;
        let (start, mut keys_count, keys) = (Instant::now(), 0, self.keys);
        let mut window = VecDeque::with_capacity(self.spec.in_flight);
        while start.elapsed() < phase {
            if window.len() == self.spec.in_flight {
                self.finish_oldest(&mut window)?;
            }
            let batch = &keys.batches[self.requests % keys.batches.len()];
            window.push_back(self.pull(batch)?);
            self.session.flush();
            self.requests += 1;
            keys_count += self.spec.keys_per_request;
        }
        while !window.is_empty() {
            self.finish_oldest(&mut window)?;
        }
        let keys_per_s = keys_count as f64 / start.elapsed().as_secs_f64();
        let bytes = self.session.counts().values_bytes - bytes_before;
        Ok(Moved { keys_per_s, bytes_per_key: bytes as f64 / keys_count as f64 })
    }

    fn finish_oldest(&mut self, window: &mut VecDeque<PullTicket>) -> Result<(), WorkerError> {
        let Some(ticket) = window.pop_front() else { return Ok(()) };
        let values = self.session.wait_pull(ticket, deadline(&self.session))?;
        read_lines(&values);
        self.session.recycle(values);
        Ok(())
    }

    /// Pulls one key after another; p50 and p99 in microseconds.
    fn pull_singles(&mut self, phase: Duration) -> Result<[f64; 2], WorkerError> {
        let (start, mut log, mut number) = (Instant::now(), LatencyLog::new(), 0);
        while start.elapsed() < phase {
            let key = self.singles[number % self.singles.len()];
            let asked_at = Instant::now();
            let ticket = self.pull(&[key])?;
            let values = self.session.wait_pull(ticket, deadline(&self.session))?;
            read_lines(&values);
            log.record(asked_at.elapsed());
            self.session.recycle(values);
            number += 1;
        }
        Ok(log.p50_p99_us())
    }

    /// Pushes one key after another, each until it is answered; p50 and p99 in microseconds.
    fn push_singles(&mut self, phase: Duration) -> Result<[f64; 2], WorkerError> {
        let (start, mut log, mut number) = (Instant::now(), LatencyLog::new(), 0);
        while start.elapsed() < phase {
            let single = number % self.singles.len();
            let key = self.singles[single];
            let asked_at = Instant::now();
            self.push(&[key], Rc::clone(&self.delta_single), 0)?;
            log.record(asked_at.elapsed());
            self.tally.single(single);
            number += 1;
        }
        Ok(log.p50_p99_us())
    }

    /// Compares some rows with what their pushes make of them. How many.
    fn check(&mut self) -> Result<usize, BenchError> {
        let (keys, pull_codec) = (self.keys, self.spec.table_codec().pull);
        let everywhere = keys.load.iter().chain(&keys.batches).flatten().copied();
        let step = (self.spec.resident_keys * 2 / CHECKED_KEYS).max(1);
        let mut wanted: Vec<u64> = everywhere.step_by(step).take(CHECKED_KEYS).collect();
        wanted.extend(&self.singles[..self.singles.len().min(4)]);
        wanted.sort_unstable();
        wanted.dedup();
        // Few keys of one spec differ in their count, and a count may be large.
        let mut known: Vec<(u64, [Vec<f32>; 2])> = Vec::new();
        for &key in &wanted {
            let pushes = self.tally.pushes_of(key, keys, &self.singles);
            if !known.iter().any(|&(count, _)| count == pushes) {
                let values = expected_values(&*self.rule, self.spec.dim, pushes);
                // `auto` may settle for either.
                let rounded = as_pulled(pull_codec, self.spec.dim, &values);
                known.push((pushes, [values, rounded]));
            }
            let expected = known.iter().find(|&&(count, _)| count == pushes);
            let [plain, rounded] = &expected.expect("it was just added").1;
            let ticket = self.pull(&[key]).map_err(failed(Doing::Check))?;
            let until = deadline(&self.session);
            let values = self.session.wait_pull(ticket, until).map_err(failed(Doing::Check))?;
            let push_codec = self.spec.table_codec().push_first;
            let agreement = Agreement::of(self.spec.optimizer, push_codec);
            let holds = |(&found, &expected)| agreement.holds(found, expected);
            let is_plain = values.iter().zip(plain).all(holds);
            let expected = if is_plain { plain } else { rounded };
            for (&found, &expected) in values.row(0).iter().zip(expected) {
                if !agreement.holds(found, expected) {
                    return Err(BenchError::WrongValue { key, found, expected, pushes });
                }
            }
            self.session.recycle(values);
        }
        Ok(wanted.len())
    }

    /// Posts one push, then waits until at most `outstanding_max` are unanswered.
    fn push(
        &mut self,
        keys: &[u64],
        deltas: Rc<Vec<f32>>,
        outstanding_max: usize,
    ) -> Result<(), WorkerError> {
        let split = self.session.split(keys)?;
        self.session.push(TABLE, &split, deltas, self.delta_width(), Then::More)?;
        self.wait_pushes(outstanding_max)
    }

    fn pull(&mut self, keys: &[u64]) -> Result<PullTicket, WorkerError> {
        let split = self.session.split(keys)?;
        let width = self.rule.widths(self.spec.dim).value;
        self.session.pull(TABLE, &split, width as u16)
    }

    fn wait_pushes(&mut self, outstanding_max: usize) -> Result<(), WorkerError> {
        self.session.wait_pushes(outstanding_max, deadline(&self.session))
    }

    fn delta_width(&self) -> u16 {
        self.rule.widths(self.spec.dim).delta as u16
    }
}

/// What pushing or pulling for a while gave.
struct Moved {
    keys_per_s: f64,
    /// Of pushes, or of answers to pulls; headers included.
    bytes_per_key: f64,
}

fn failed(doing: Doing) -> impl FnOnce(WorkerError) -> BenchError {
    move |error| BenchError::Worker { doing, error }
}

fn deadline(session: &Session) -> Time {
    session.now() + WAIT_MAX
}

/// Reads one value of each cache line, so that what was pulled really came.
fn read_lines(values: &Values) {
    black_box(values.iter().step_by(LINE_FLOATS).sum::<f32>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Carrier, Optimizer};

    fn small(optimizer: Optimizer, transport: Carrier) -> PushPullSpec {
        PushPullSpec {
            keys_per_request: 100,
            resident_keys: 5_000,
            seconds: 0.02,
            repeats: 5,
            optimizer,
            transport,
            ..PushPullSpec::default()
        }
    }

    #[test]
    fn a_run_of_every_optimizer_leaves_the_rows_that_its_pushes_make() {
        for optimizer in Optimizer::ALL {
            let report = run(&small(optimizer, Carrier::Shm), "none", "test", &mut |_| {});
            let report = report.unwrap_or_else(|error| panic!("{optimizer}: {error}"));
            assert!(report.push_keys_per_s > 0.0 && report.pull_keys_per_s > 0.0, "{optimizer}");
            assert!(report.run.checked_keys > 100, "{optimizer}");
            assert!(report.pull_rtt_us_p99_under_push > 0.0, "{optimizer}");
        }
    }

    #[test]
    fn a_coded_run_leaves_the_rows_that_its_pushes_make_and_tells_the_bytes_it_sent() {
        // Plain are 72 bytes: a key and two columns of 8 values.
        for (codec, bytes_max) in
            [("nonzero", 68.0), ("f16", 36.0), ("int8", 17.0), ("int4", 13.0), ("one-bit", 10.0)]
        {
            let codec = codec.parse().expect("it is one's name");
            let spec = PushPullSpec { codec, ..small(Optimizer::Ftrl, Carrier::Shm) };
            let report = run(&spec, "none", "test", &mut |_| {});
            let report = report.unwrap_or_else(|error| panic!("{codec}: {error}"));
            assert_eq!(report.codec, codec.to_string());
            let bytes = report.wire_bytes_per_key;
            assert!(bytes < bytes_max, "{codec}: {bytes} bytes a key");
        }
    }

    #[test]
    fn a_run_by_tcp_names_the_transport_that_it_used() {
        let spec = PushPullSpec { zipf_exponent: 0.99, ..small(Optimizer::Sgd, Carrier::Epoll) };
        let report = run(&spec, "none", "test", &mut |_| {}).expect("loop-back is always there");
        assert_eq!(report.run.transport, "epoll");
    }
}
