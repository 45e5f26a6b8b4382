//! Runs many seeds and prints those that fail: `hunt FIRST COUNT`, or `hunt FIRST COUNT chains` for
//! plans with servers in chains.
//!
//! Exits 1 if one failed. Each line names a seed for `GRADWIRE_SIM_SEED`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use kernels::Isa;
use shard::Mutation;
use sim::{Plan, Setup, run_plan};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        println!("expected the first seed and how many: hunt FIRST COUNT");
        return ExitCode::from(2);
    };
    let chained = std::env::args().nth(3).is_some_and(|word| word == "chains");
    let mut failed = 0;
    for seed in first..first + count {
        let setup = Setup { seed, isa: Isa::detect(), mutation: Mutation::None };
        let plan = if chained { Plan::chained_from_seed(seed) } else { Plan::from_seed(seed) };
        if let Err(failure) = run_plan(&setup, &plan) {
            failed += 1;
            println!("seed {seed}: {failure}");
        }
    }
    println!("{failed} of {count} seeds failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
