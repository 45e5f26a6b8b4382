//! Seeds: what a cluster promises, under faults drawn from each.
//!
//! A failing run prints its seed. `GRADWIRE_SIM_SEED=N` runs that seed alone.
#![allow(clippy::print_stdout)]

use kernels::Isa;
use shard::Mutation;
use sim::{Defect, Failure, Plan, Report, Setup, run, run_plan};

/// Seeds of the long test.
const SEEDS: u64 = 1000;

/// Seeds whose plans are run without faults.
const QUIET_SEEDS: u64 = 200;

/// Within how many seeds a defect must be found.
const MUTATION_SEEDS: u64 = 50;

/// Names the one seed that the long test runs.
const SEED_VARIABLE: &str = "GRADWIRE_SIM_SEED";

fn setup(seed: u64, mutation: Mutation) -> Setup {
    Setup { seed, isa: Isa::detect(), defect: Defect::Shard(mutation) }
}

fn must_pass(seed: u64) -> Report {
    run(&setup(seed, Mutation::None)).unwrap_or_else(|failure| {
        panic!("{failure}\n{SEED_VARIABLE}={seed}, {:#?}", Plan::from_seed(seed))
    })
}

fn seeds() -> Vec<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => vec![text.parse().expect("a seed is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

/// The first failure that a defect causes. Without it the same seeds find nothing.
fn first_failure(mutation: Mutation) -> Option<Failure> {
    let fails = |seed| Some((seed, run(&setup(seed, mutation)).err()?));
    let (found, failure) = (0..MUTATION_SEEDS).find_map(fails)?;
    println!("{mutation:?}: found by seed {found}: {failure}");
    (0..=found).for_each(|seed| drop(must_pass(seed)));
    Some(failure)
}

#[test]
fn a_thousand_seeds_apply_every_push_exactly_once() {
    let seeds = seeds();
    let reports: Vec<Report> = seeds.iter().map(|&seed| must_pass(seed)).collect();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let counts = [
        ("pushes", sum(|report| report.pushes)),
        ("pulls", sum(|report| report.pulls)),
        ("reconnects", sum(|report| report.reconnects)),
        ("resends", sum(|report| report.sessions.resends)),
        ("duplicates", sum(|report| report.sessions.duplicates)),
        ("damaged answers", sum(|report| report.sessions.damaged)),
        ("sent", sum(|report| report.network.sent)),
        ("lost", sum(|report| report.network.lost)),
        ("walled", sum(|report| report.network.walled)),
        ("duplicated", sum(|report| report.network.duplicated)),
        ("reordered", sum(|report| report.network.reordered)),
        ("corrupted", sum(|report| report.network.corrupted)),
        ("cut", sum(|report| report.network.cut)),
        ("partitions", sum(|report| report.network.partitions)),
        ("workers that died", sum(|report| report.deaths)),
        ("workers taken for dead", sum(|report| report.undead)),
        ("lists unknown", sum(|report| report.sessions.lists_unknown)),
        ("numbers unknown", sum(|report| report.sessions.numbers_unknown)),
    ];
    println!("{} seeds: {counts:?}", seeds.len());
    if seeds.len() == SEEDS as usize {
        for (what, count) in counts {
            assert!(count > 0, "no {what} in any run: the runs prove less than they say");
        }
    }
}

#[test]
fn without_faults_no_server_seems_silent_however_little_room_there_is() {
    for seed in 0..QUIET_SEEDS {
        let plan = Plan::from_seed(seed).without_faults();
        let report = run_plan(&setup(seed, Mutation::None), &plan)
            .unwrap_or_else(|failure| panic!("{failure}\nseed {seed}, {plan:#?}"));
        assert_eq!(report.reconnects, 0, "seed {seed}, {plan:#?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        let first = must_pass(seed);
        assert_eq!(first, must_pass(seed));
        assert_ne!(first.trace_hash, must_pass(seed + 1).trace_hash);
    }
}

#[test]
fn every_instruction_set_gives_the_same_trace() {
    for seed in 0..8 {
        let scalar = Setup { isa: Isa::scalar(), ..setup(seed, Mutation::None) };
        let scalar = run(&scalar).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        assert_eq!(scalar.trace_hash, must_pass(seed).trace_hash, "seed {seed}");
    }
}

#[test]
fn with_the_duplicate_check_broken_a_seed_fails() {
    let failure = first_failure(Mutation::DuplicatesApplied).expect("a count is wrong");
    let wrong = matches!(failure, Failure::Miscounted { .. } | Failure::Invented { .. });
    assert!(wrong, "{failure}");
}

#[test]
fn with_ticks_that_overtake_pushes_a_seed_fails() {
    let failure = first_failure(Mutation::TicksEarly).expect("a pull is stale");
    assert!(matches!(failure, Failure::Stale { .. }), "{failure}");
}

#[test]
fn with_pulls_that_do_not_wait_a_seed_fails() {
    let failure = first_failure(Mutation::ReadsEarly).expect("a pull is stale");
    assert!(matches!(failure, Failure::Stale { .. }), "{failure}");
}

#[test]
fn with_a_worker_whose_next_life_finds_nothing_a_seed_fails() {
    let failure = first_failure(Mutation::LivesForgotten).expect("a push counts twice");
    let wrong = matches!(failure, Failure::Miscounted { .. } | Failure::Invented { .. });
    assert!(wrong, "{failure}");
}

#[test]
fn with_key_lists_mixed_up_a_seed_fails() {
    let failure = first_failure(Mutation::ListsMixedUp).expect("other keys are counted");
    let wrong = matches!(failure, Failure::Session { .. } | Failure::Stale { .. })
        || matches!(failure, Failure::Miscounted { .. } | Failure::Invented { .. });
    assert!(wrong, "{failure}");
}

#[test]
fn with_generations_of_numbers_mixed_up_a_seed_fails() {
    let failure = first_failure(Mutation::GenerationsMixedUp).expect("other keys are counted");
    let wrong = matches!(failure, Failure::Session { .. } | Failure::Stale { .. })
        || matches!(failure, Failure::Miscounted { .. } | Failure::Invented { .. });
    assert!(wrong, "{failure}");
}
