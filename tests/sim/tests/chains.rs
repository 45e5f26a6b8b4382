//! Chains: what a cluster promises whose servers crash, freeze, lose each other, and are replaced.
//!
//! A failing run prints its seed; `cargo run -p gradwire-sim --example hunt -- SEED 1 chains` runs
//! it.

use kernels::Isa;
use shard::Mutation;
use sim::{ChainPlan, Failure, Plan, Report, Setup, run_plan};
use transport::simulated::Faults;
use worker::Staleness;

/// Seeds of the long test.
const SEEDS: u64 = 600;

/// Within how many seeds a defect must be found.
const MUTATION_SEEDS: u64 = 200;

fn setup(seed: u64, mutation: Mutation) -> Setup {
    Setup { seed, isa: Isa::detect(), mutation }
}

fn must_pass(seed: u64) -> Report {
    let plan = Plan::chained_from_seed(seed);
    run_plan(&setup(seed, Mutation::None), &plan)
        .unwrap_or_else(|failure| panic!("{failure}\nseed {seed}, {plan:#?}"))
}

/// The first failure that a defect causes, on a network that does nothing wrong of itself.
fn first_failure(mutation: Mutation) -> Option<Failure> {
    (0..MUTATION_SEEDS).find_map(|seed| {
        let chains = ChainPlan { servers: 4, replicas: 3, events: 40, events_per_mille: 20 };
        let chained = Plan::chained_from_seed(seed);
        let plan = Plan {
            shards: 4,
            workers: 3,
            staleness: Staleness::ASP,
            clocks: 100,
            pushes_max: 2,
            thinks_per_mille: 100,
            faults: Faults { delay_ns: 10_000..=500_000, ..Faults::NONE },
            chains: Some(chains),
            ..chained
        };
        run_plan(&setup(seed, mutation), &plan).err()
    })
}

/// A plan whose fills take many turns.
fn few_bytes(seed: u64) -> Plan {
    Plan { counters: 2000, keys_max: 30, ..Plan::chained_from_seed(seed) }
}

#[test]
fn no_acknowledged_push_is_lost_or_doubled_and_replicas_agree_whatever_server_dies() {
    let reports: Vec<Report> = (0..SEEDS).map(must_pass).collect();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let counts = [
        ("pushes", sum(|report| report.pushes)),
        ("crashes", sum(|report| report.servers.crashes)),
        ("freezes", sum(|report| report.servers.freezes)),
        ("splits", sum(|report| report.servers.splits)),
        ("fills", sum(|report| report.servers.fills)),
        ("failovers", sum(|report| report.servers.failovers)),
        ("duplicates", sum(|report| report.sessions.duplicates)),
        ("lost", sum(|report| report.network.lost)),
        ("cut", sum(|report| report.network.cut)),
    ];
    println!("{SEEDS} seeds: {counts:?}");
    for (what, count) in counts {
        assert!(count > 0, "no {what} in any run: the runs prove less than they say");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_with_chains() {
    for seed in 0..8 {
        assert_eq!(must_pass(seed), must_pass(seed));
    }
}

#[test]
fn with_acknowledgements_before_the_tail_has_it_a_seed_fails() {
    let failure = first_failure(Mutation::AcksEarly);
    assert!(failure.is_some(), "an acknowledged push is lost");
}

#[test]
fn with_pushes_forgotten_by_a_new_head_a_seed_fails() {
    let failure = first_failure(Mutation::PushesForgotten);
    assert!(failure.is_some(), "a push counts twice");
}

#[test]
fn with_answers_that_are_not_held_a_seed_fails() {
    let failure = first_failure(Mutation::AnswersNotHeld);
    assert!(failure.is_some(), "an answered push is lost");
}

#[test]
fn with_moved_rows_missing_from_a_fill_a_seed_fails() {
    let chained = |seed| run_plan(&setup(seed, Mutation::MovedRowsMissed), &few_bytes(seed));
    let failure = (0..MUTATION_SEEDS).find_map(|seed| chained(seed).err());
    assert!(failure.is_some(), "replicas differ");
}
