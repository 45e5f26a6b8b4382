//! Checkpoints: what is in them, while servers and coordinators come and go and the disk that they
//! lie on fails and loses its power.
//!
//! A failing run prints its seed; `cargo run -p gradwire-sim --example hunt -- SEED 1 checkpoints`
//! runs it.
#![allow(clippy::print_stdout)]

use kernels::Isa;
use shard::Mutation;
use sim::{Defect, Failure, Plan, Report, Setup, VaultDefect, run_plan};

/// Seeds of the long test.
const SEEDS: u64 = 40;

/// Within how many seeds a defect must be found.
const DEFECT_SEEDS: u64 = 20;

fn run(seed: u64, defect: Defect) -> Result<Report, Failure> {
    let setup = Setup { seed, isa: Isa::detect(), defect };
    run_plan(&setup, &Plan::checkpointed_from_seed(seed))
}

fn must_pass(seed: u64) -> Report {
    run(seed, Defect::None).unwrap_or_else(|failure| panic!("{failure}\nseed {seed}"))
}

/// The first failure that a defect causes. Without it the same seeds find nothing.
fn first_failure(defect: Defect) -> Failure {
    let found = (0..DEFECT_SEEDS).find_map(|seed| Some((seed, run(seed, defect).err()?)));
    let (found, failure) = found.expect("some seed finds it");
    println!("{defect:?}: found by seed {found}: {failure}");
    (0..=found).for_each(|seed| drop(must_pass(seed)));
    failure
}

#[test]
fn a_checkpoint_that_is_cut_at_a_clock_has_the_pushes_of_the_clocks_before_and_no_other() {
    let reports: Vec<Report> = (0..SEEDS).map(must_pass).collect();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let counts = [
        ("published", sum(|report| report.checkpoints.published)),
        ("cut at a clock", sum(|report| report.checkpoints.at_a_clock)),
        ("calls of the disk that failed", sum(|report| report.checkpoints.failures)),
        ("power cuts", sum(|report| report.checkpoints.power_cuts)),
        ("failovers", sum(|report| report.servers.failovers)),
        ("coordinators that died", sum(|report| report.servers.coordinators_died)),
    ];
    println!("{SEEDS} seeds: {counts:?}");
    for (what, count) in counts {
        assert!(count > 0, "no {what} in any run: the runs prove less than they say");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_with_checkpoints() {
    for seed in 0..3 {
        assert_eq!(must_pass(seed), must_pass(seed));
    }
}

#[test]
fn a_recording_that_misses_what_changes_meanwhile_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::CopiesMissed));
    let is_of_checkpoints =
        matches!(failure, Failure::CheckpointBroken { .. } | Failure::CheckpointWrong { .. });
    assert!(is_of_checkpoints, "{failure}");
}

#[test]
fn a_shard_that_is_recorded_beyond_the_cut_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::CutPassed));
    assert!(matches!(failure, Failure::CheckpointWrong { .. }), "{failure}");
}

#[test]
fn a_disk_that_says_it_has_synced_and_has_not_is_found() {
    let failure = first_failure(Defect::Vault(VaultDefect::NotSynced));
    assert!(matches!(failure, Failure::CheckpointBroken { .. }), "{failure}");
}
