//! `gradwire bench table` and `gradwire bench kernel`: flags in, figures of one core out. Measuring
//! is left to the crate `bench`.

use bench::{KernelSpec, TableBenchSpec};

use crate::cli::{KernelArgs, TableArgs};
use crate::failure::Failure;
use crate::output::{complain, json, result};
use crate::push_pull::{COMMIT, command, optimizer};

/// What the flag for a length of memory counts.
const BYTES_A_MEGABYTE: usize = 1 << 20;

/// Runs `bench table`.
pub(crate) fn table(arguments: &TableArgs) -> Result<(), Failure> {
    let spec = TableBenchSpec {
        keys: arguments.keys.0,
        dim: arguments.dim as usize,
        optimizer: optimizer(&arguments.optimizer),
        keys_per_request: arguments.request_keys.0,
        seconds: arguments.taking.seconds,
        repeats: arguments.taking.repeats,
        seed: arguments.seed,
    };
    spec.check().map_err(Failure::usage)?;
    let report = bench::run_table(&spec, COMMIT, &command(), &mut |step| complain(step));
    let report = report.map_err(Failure::failed)?;
    if arguments.taking.json { json(&report) } else { result(&report.render_table()) }
}

/// Runs `bench kernel`.
pub(crate) fn kernel(arguments: &KernelArgs) -> Result<(), Failure> {
    let spec = KernelSpec {
        bytes: arguments.megabytes.saturating_mul(BYTES_A_MEGABYTE),
        seconds: arguments.taking.seconds,
        repeats: arguments.taking.repeats,
        only: arguments.only.clone(),
    };
    spec.check().map_err(Failure::usage)?;
    let rows = bench::run_kernels(&spec, &mut |step| complain(step)).map_err(Failure::failed)?;
    if arguments.taking.json { json(&rows) } else { result(&bench::render_kernels(&rows)) }
}
