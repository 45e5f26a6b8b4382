//! Runs many seeds and prints those that fail: `hunt FIRST COUNT`.
//!
//! Exits 1 if one failed. Each line names a seed for `GRADWIRE_SIM_SEED`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use kernels::Isa;
use shard::Mutation;
use sim::{Setup, run};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        println!("expected the first seed and how many: hunt FIRST COUNT");
        return ExitCode::from(2);
    };
    let mut failed = 0;
    for seed in first..first + count {
        let setup = Setup { seed, isa: Isa::detect(), mutation: Mutation::None };
        if let Err(failure) = run(&setup) {
            failed += 1;
            println!("seed {seed}: {failure}");
        }
    }
    println!("{failed} of {count} seeds failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
