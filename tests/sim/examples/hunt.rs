//! Runs many seeds and prints those that fail:
//! `hunt FIRST COUNT [chains|storm|checkpoints|deaths|head|sums]`. `chains`: plans with servers in
//! chains, and all that may befall them; `storm`: much befalls servers, and nothing the network;
//! `checkpoints`: the same with checkpoints all the time; `deaths`: servers die, and nothing else
//! goes wrong, which shows how long reads wait for it; `head`: a storm over a table whose pushes
//! heads acknowledge; `sums`: one over a table whose pushes they add up.
//!
//! Exits 1 if one failed. Each line names a seed for `GRADWIRE_SIM_SEED`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use kernels::Isa;
use sim::{Defect, Plan, Report, ServerCounts, Setup, run_plan};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        let kinds = "[chains|storm|checkpoints|deaths|head|sums]";
        println!("expected the first seed and how many: hunt FIRST COUNT {kinds}");
        return ExitCode::from(2);
    };
    let kind = std::env::args().nth(3).unwrap_or_default();
    let (mut failed, mut reads_ns, mut took_s, mut published) = (0, Vec::new(), 0.0, 0);
    // World time in seconds and steps, each with its seed.
    let mut longest = [(0, 0); 2];
    for seed in first..first + count {
        let setup = Setup { seed, isa: Isa::detect(), defect: Defect::None };
        let plan = match kind.as_str() {
            "chains" => Plan::chained_from_seed(seed),
            "storm" => Plan::storm_from_seed(seed),
            "checkpoints" => Plan::checkpointed_from_seed(seed),
            "deaths" => Plan::deaths_from_seed(seed),
            "head" => Plan { pushes_max: 4, ..Plan::storm_from_seed(seed).at_head() },
            "sums" => Plan::storm_from_seed(seed).aggregated(),
            _ => Plan::from_seed(seed),
        };
        match run_plan(&setup, &plan) {
            Ok(Report { reads_ns: reads, took, steps, servers, checkpoints, .. }) => {
                let run = [(took.nanos() / 1_000_000_000, seed), (steps, seed)];
                longest = [longest[0].max(run[0]), longest[1].max(run[1])];
                published += checkpoints.published;
                took_s += took.nanos() as f64 * 1e-9;
                let slowest_ms = reads.iter().max().map_or(0, |ns| ns / 1_000_000);
                if kind == "deaths" && slowest_ms >= 500 {
                    println!("seed {seed}: a read took {slowest_ms} ms");
                }
                reads_ns.extend(reads);
                if count == 1 {
                    println!("{plan:?}");
                    let ServerCounts { .. } = servers;
                    println!("{servers:?} {checkpoints:?}");
                }
            }
            Err(failure) => {
                failed += 1;
                println!("seed {seed}: {failure}");
            }
        }
    }
    reads_ns.sort_unstable();
    let at = |share: f64| {
        let at = (reads_ns.len() as f64 * share) as usize;
        reads_ns.get(at.min(reads_ns.len().saturating_sub(1))).map_or(0.0, |&ns| ns as f64 * 1e-6)
    };
    println!(
        "{} reads, ms: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, p99.99 {:.2}, max {:.2}",
        reads_ns.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
    println!(
        "{failed} of {count} seeds failed; {took_s:.0} s of world time; {published} checkpoints"
    );
    let [(longest_s, slowest), (steps_max, busiest)] = longest;
    println!("longest: {longest_s} s (seed {slowest}), {steps_max} steps (seed {busiest})");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
