//! `gradwire bench stragglers`: flags in, the table out. Measuring is left to the crate `bench`.

use std::time::Duration;

use bench::StragglerSpec;
use clap::Args;

use crate::failure::Failure;
use crate::output::{complain, json, result};

/// The flags of `gradwire bench stragglers`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StragglerArgs {
    /// Workers of the job.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=256))]
    workers: u32,
    /// Workers that stand by, where the mode has them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    spares: u32,
    /// Steps of each worker.
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: u64,
    /// Milliseconds of a step.
    #[arg(long, value_name = "MS", default_value_t = 10)]
    step_ms: u64,
    /// Runs of each cell, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Draws the data, and who is slow when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &StragglerArgs) -> Result<(), Failure> {
    let spec = StragglerSpec {
        workers: arguments.workers,
        spares: arguments.spares,
        steps: arguments.steps,
        step: Duration::from_millis(arguments.step_ms),
        repeats: arguments.repeats as usize,
        seed: arguments.seed,
    };
    let rows = bench::run_stragglers(&spec, &mut |step| complain(step)).map_err(Failure::failed)?;
    if arguments.json { json(&rows) } else { result(&bench::render_stragglers(&rows)) }
}
