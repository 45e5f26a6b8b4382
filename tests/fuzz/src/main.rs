//! Feeds targets from the command line:
//! `gradwire-fuzz-tests [--seconds N] [--target NAME] [--seed N]`.
//!
//! Owns the arguments and the output: one line a target on stdout. An input that broke something
//! is written to a file in the working directory. Exits 1 then, and 2 on wrong arguments.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuzz_tests::{Budget, Campaign, Crash, NAMES};

const USAGE: &str = "gradwire-fuzz-tests [--seconds N] [--target NAME] [--seed N]";

/// Seconds that all targets get together, unless told otherwise.
const SECONDS_DEFAULT: u64 = 20;

/// Bytes of an input that are printed.
const SHOWN_BYTES: usize = 96;

struct Arguments {
    seconds: u64,
    names: Vec<&'static str>,
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\nusage: {USAGE}\ntargets: {}", NAMES.join(" "));
            return ExitCode::from(2);
        }
    };
    let Arguments { seconds, names, seed } = arguments;
    let budget = Budget::Time(Duration::from_secs(seconds) / names.len() as u32);
    println!("target          runs     runs_per_s  answers  seed");
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let campaign = Campaign { name, seed };
        match campaign.run(budget) {
            Ok(survived) => {
                let rate = survived.runs as f64 / survived.took.as_secs_f64();
                let (runs, answers) = (survived.runs, survived.answers);
                println!("{name:8} {runs:>11} {rate:>14.0} {answers:>8}  {seed}");
            }
            Err(crash) => {
                report(&campaign, &crash);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut arguments = Arguments {
        seconds: SECONDS_DEFAULT,
        names: NAMES.to_vec(),
        seed: since.as_nanos() as u64,
    };
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} has no value"))?;
        let number = value.parse::<u64>().map_err(|_| format!("{flag}: '{value}' is no number"));
        match flag.as_str() {
            "--seconds" => arguments.seconds = number?,
            "--seed" => arguments.seed = number?,
            "--target" => {
                let known = NAMES.iter().find(|&&name| name == value);
                arguments.names = vec![*known.ok_or_else(|| format!("no target '{value}'"))?];
            }
            _ => return Err(format!("'{flag}' is no argument")),
        }
    }
    Ok(arguments)
}

fn report(campaign: &Campaign, crash: &Crash) {
    let Campaign { name, seed } = campaign;
    let Crash { run, input, alone } = crash;
    let path = format!("fuzz-{name}-{seed}.bin");
    let hex: String = input.iter().take(SHOWN_BYTES).map(|byte| format!("{byte:02x}")).collect();
    let rest = if input.len() > SHOWN_BYTES { "..." } else { "" };
    println!("{name:8} BROKEN at run {run}, seed {seed}, alone: {alone:?}");
    println!("  {} bytes: {hex}{rest}", input.len());
    match std::fs::write(&path, input) {
        Ok(()) => println!("  written to {path}"),
        Err(error) => eprintln!("{path}: {error}"),
    }
}
