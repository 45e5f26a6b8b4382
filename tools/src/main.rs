//! The `gradwire` command line.
//!
//! Owns dispatch, exit codes and logging. Each command has its own file.
//!
//! Invariant: results go to stdout and everything else to stderr; a run that failed ends with one
//! line that says what and why.
#![forbid(unsafe_code)]

mod aggregation;
mod bench_alone;
mod bench_checkpoint;
mod checkpoint;
mod cli;
mod cluster;
mod cluster_bench;
mod codec;
mod crowd;
mod doctor;
mod elastic;
mod failure;
mod files;
mod flags;
mod handing_over;
mod hot;
mod job_success;
mod link;
mod memory_here;
mod metrics;
mod model;
mod output;
mod predict;
mod processes;
mod push_pull;
mod rdma;
mod reach;
mod replication;
mod report;
mod serve;
mod signals;
mod soak;
mod stragglers;
mod train;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use cli::{BenchCommand, Cli, Command, ModelCommand};
use failure::Failure;
use flags::LogFormat;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are fine; the rest is usage.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * failure::EXIT_USAGE);
        }
    };
    let level: LevelFilter = cli.log.into();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
    match cli.log_format {
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&format!("gradwire: {failure}"));
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Train(arguments) => train::run(*arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Coordinate(arguments) => cluster::coordinate::run(&arguments),
        Command::Status(arguments) => cluster::status::run(&arguments),
        Command::Cluster(command) => cluster::order::run(&command),
        Command::Model(ModelCommand::Inspect(arguments)) => model::inspect(&arguments),
        Command::Model(ModelCommand::Export(arguments)) => model::export(&arguments),
        Command::Checkpoint(command) => checkpoint::run(&command),
        Command::Bench(BenchCommand::PushPull(arguments)) => push_pull::run(&arguments),
        Command::Bench(BenchCommand::Table(arguments)) => bench_alone::table(&arguments),
        Command::Bench(BenchCommand::Kernel(arguments)) => bench_alone::kernel(&arguments),
        Command::Bench(BenchCommand::Codec(arguments)) => codec::run(&arguments),
        Command::Bench(BenchCommand::Checkpoint(arguments)) => bench_checkpoint::run(&arguments),
        Command::Bench(BenchCommand::Transport(arguments)) => link::run(&arguments),
        Command::Bench(BenchCommand::Replication(arguments)) => replication::run(&arguments),
        Command::Bench(BenchCommand::Hot(arguments)) => hot::run(&arguments),
        Command::Bench(BenchCommand::Stragglers(arguments)) => stragglers::run(&arguments),
        Command::Bench(BenchCommand::Elastic(arguments)) => elastic::run(&arguments),
        Command::Bench(BenchCommand::JobSuccess(arguments)) => job_success::run(&arguments),
        Command::Bench(BenchCommand::Crowd(arguments)) => crowd::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Soak(arguments) => soak::run(arguments),
        Command::Worker => train::child::run(),
        Command::SoakWorker => soak::workers::run_child(),
    }
}
