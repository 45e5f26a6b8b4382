//! gradwire's own turns: the transport alone, the whole path, and a shard's table alone.

use std::time::Duration;

use bench::roofs::Wire;
use bench::{Carrier, PushPullSpec, TableBenchSpec};
use transport::Limits;

use crate::work::{
    DIM, Figures, IN_FLIGHT, MESSAGE_BYTES, REQUEST_KEYS, RESIDENT_KEYS, pin, processors,
};

/// Longer than any gap: both ends poll.
const SPIN_NS: u64 = 2_000_000;

/// Repeats within one turn: the least that a run has.
const REPEATS: usize = bench::REPEATS_MIN;

/// Transport and whole path by io_uring over loop-back.
pub(crate) fn over_tcp(phase: Duration) -> Result<Figures, String> {
    // The run pins its threads itself, from whatever this one may use.
    let alone = std::thread::scope(|scope| scope.spawn(|| transport_alone(phase)).join());
    let mut figures = alone.map_err(|_| "a thread panicked".to_owned())??;
    let spec = PushPullSpec {
        keys_per_request: REQUEST_KEYS,
        dim: DIM,
        resident_keys: RESIDENT_KEYS,
        transport: Carrier::Uring,
        in_flight: IN_FLIGHT,
        seconds: phase.as_secs_f64() / REPEATS as f64,
        repeats: REPEATS,
        ..PushPullSpec::default()
    };
    let report = bench::run(&spec, "", "", &mut |_| {}).map_err(|error| error.to_string())?;
    figures.push(("push over TCP, M keys_per_s", report.push_keys_per_s / 1e6));
    figures.push(("pull over TCP, M keys_per_s", report.pull_keys_per_s / 1e6));
    Ok(figures)
}

fn transport_alone(phase: Duration) -> Result<Figures, String> {
    let limits = Limits { spin_ns: SPIN_NS, ..Limits::default() };
    // Its other end stays on the first processor.
    let mut wire = Wire::new(Carrier::Uring, limits).map_err(|error| error.to_string())?;
    pin(processors().1);
    let pings = wire.pings(phase).map_err(|error| error.to_string())?;
    let stream = wire.stream_gb_per_s(MESSAGE_BYTES, phase).map_err(|error| error.to_string())?;
    Ok(vec![
        ("echo of 64 B, us_p50", pings.us_p50),
        ("echo of 64 B, us_p99", pings.us_p99),
        ("stream of 400 kB, GB_per_s", stream),
    ])
}

/// A shard's table: messages in memory, checked and admitted.
pub(crate) fn table(phase: Duration) -> Result<Figures, String> {
    let spec = TableBenchSpec {
        keys: RESIDENT_KEYS,
        dim: DIM,
        optimizer: "sgd".parse().expect("a rule of its own"),
        keys_per_request: REQUEST_KEYS,
        seconds: phase.as_secs_f64() / REPEATS as f64,
        repeats: REPEATS,
        seed: 1,
    };
    let report = bench::run_table(&spec, "", "", &mut |_| {}).map_err(|error| error.to_string())?;
    Ok(vec![
        ("table, update, M rows_per_s", report.rates.update_rows_per_s / 1e6),
        ("table, gather, M rows_per_s", report.rates.gather_rows_per_s / 1e6),
    ])
}
