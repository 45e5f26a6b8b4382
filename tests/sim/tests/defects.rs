//! Defects: each is put in on purpose, and some seed must find it.
//!
//! Owns the kinds of failures that each may show itself by: a defect that is found by another check
//! than the one that is there for it would hide behind a second one.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use kernels::Isa;
use server::coordinator;
use shard::Mutation;
use sim::{Defect, Failure, Plan, Setup, StoreDefect, Strikes, run_plan};
use worker::{Staleness, Timeouts};

/// Within how many seeds a defect must be found.
const SEEDS: u64 = 200;

fn storm(seed: u64) -> Plan {
    Plan::storm_from_seed(seed)
}

/// Fills that take many turns.
fn long_fills(seed: u64) -> Plan {
    Plan { counters: 2000, keys_max: 30, ..Plan::chained_from_seed(seed) }
}

/// The first failure that a defect causes. Without it the same seeds find nothing.
fn first_failure(defect: Defect, plan: impl Fn(u64) -> Plan) -> Failure {
    let run = |seed, defect| run_plan(&Setup { seed, isa: Isa::detect(), defect }, &plan(seed));
    let found = (0..SEEDS).find_map(|seed| Some((seed, run(seed, defect).err()?)));
    let (found, failure) = found.expect("some seed finds it");
    println!("{defect:?}: found by seed {found}: {failure}");
    for seed in 0..=found {
        let done = run(seed, Defect::None);
        done.unwrap_or_else(|failure| panic!("without {defect:?}: {failure}\nseed {seed}"));
    }
    failure
}

/// What workers and readers see is wrong, in a pull or in the end, or a shard does not know one
/// that was told that it has joined.
fn is_wrong_value(failure: &Failure) -> bool {
    use Failure::{Ahead, Invented, Lost, Miscounted, Overtaken, Rows, Session, Stale, WentBack};
    matches!(
        failure,
        Ahead { .. }
            | Invented { .. }
            | Lost { .. }
            | Miscounted { .. }
            | Overtaken { .. }
            | Rows { .. }
            | Session { .. }
            | Stale { .. }
            | WentBack { .. }
    )
}

/// Or replicas differ, or one says that it cannot go on.
fn is_wrong_replica(failure: &Failure) -> bool {
    is_wrong_value(failure) || matches!(failure, Failure::Differs { .. } | Failure::Unfit { .. })
}

/// Or it does not go on.
fn is_stuck(failure: &Failure) -> bool {
    matches!(failure, Failure::NotWhole { .. } | Failure::Stuck { .. })
}

#[test]
fn without_a_defect_nothing_is_found() {
    for seed in 0..SEEDS {
        let setup = Setup { seed, isa: Isa::detect(), defect: Defect::None };
        let plan = storm(seed);
        let done = run_plan(&setup, &plan);
        done.unwrap_or_else(|failure| panic!("{failure}\nseed {seed}, {plan:#?}"));
    }
}

#[test]
fn an_acknowledgement_before_the_tail_has_it_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::AcksEarly), storm);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn a_new_head_that_has_forgotten_pushes_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::PushesForgotten), storm);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn a_successor_that_takes_operations_of_an_epoch_that_is_over_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::StaleEpochsTaken), parted);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn answers_that_are_not_held_are_found() {
    let failure = first_failure(Defect::Shard(Mutation::AnswersNotHeld), storm);
    assert!(is_wrong_value(&failure), "{failure}");
}

#[test]
fn a_broken_promise_not_to_answer_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::PromisesBroken), parted_quietly);
    assert!(is_wrong_value(&failure), "{failure}");
}

#[test]
fn moved_rows_that_a_fill_misses_are_found() {
    let failure = first_failure(Defect::Shard(Mutation::MovedRowsMissed), long_fills);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn a_fill_that_says_too_early_that_it_is_done_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::FilledEarly), long_fills);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn a_log_that_is_dropped_when_the_chain_changes_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::LogDropped), storm);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn a_tick_that_counts_twice_is_found() {
    let bulk = |seed| Plan { staleness: Staleness::BSP, ..storm(seed) };
    let failure = first_failure(Defect::Shard(Mutation::TicksTwice), bulk);
    assert!(is_wrong_value(&failure), "{failure}");
}

#[test]
fn ends_of_clocks_that_a_head_acknowledges_alone_are_found() {
    let at_head = |seed| Plan { pushes_max: 4, ..storm(seed).at_head() };
    let failure = first_failure(Defect::Shard(Mutation::ClocksEndEarly), at_head);
    assert!(is_wrong_replica(&failure) || is_stuck(&failure), "{failure}");
}

#[test]
fn a_push_whose_name_does_not_go_on_with_the_sum_is_found() {
    let sums = |seed| storm(seed).aggregated();
    let failure = first_failure(Defect::Shard(Mutation::NamesForgotten), sums);
    assert!(is_wrong_replica(&failure) || is_stuck(&failure), "{failure}");
}

#[test]
fn a_replaced_head_that_goes_on_answering_is_found() {
    let failure = first_failure(Defect::Shard(Mutation::HeadsForever), storm);
    let is_fenced = matches!(failure, Failure::FencedAnswered { .. });
    assert!(is_fenced || is_wrong_value(&failure) || is_stuck(&failure), "{failure}");
}

#[test]
fn a_detector_that_never_suspects_is_found() {
    let defect = Defect::Coordinator(coordinator::Defect::NeverSuspects);
    let failure = first_failure(defect, only_silence);
    assert!(is_stuck(&failure), "{failure}");
}

#[test]
fn a_replica_that_counts_before_it_is_filled_is_found() {
    let defect = Defect::Coordinator(coordinator::Defect::FilledUnasked);
    let failure = first_failure(defect, storm);
    assert!(is_wrong_replica(&failure), "{failure}");
}

#[test]
fn a_placement_that_is_told_before_it_is_recorded_is_found() {
    let defect = Defect::Coordinator(coordinator::Defect::ToldEarly);
    let failure = first_failure(defect, storm);
    assert!(matches!(failure, Failure::ToldUnrecorded { .. }), "{failure}");
}

#[test]
fn a_store_that_takes_entries_whatever_the_newest_is_is_found() {
    let failure = first_failure(Defect::Store(StoreDefect::Uncompared), storm);
    let is_fork = matches!(failure, Failure::RecordedTwice { .. } | Failure::ToldUnrecorded { .. });
    assert!(is_fork, "{failure}");
}

#[test]
fn a_store_that_answers_before_it_has_synced_is_found() {
    let failure = first_failure(Defect::Store(StoreDefect::Unsynced), storm);
    let is_fork = matches!(failure, Failure::RecordedTwice { .. } | Failure::ToldUnrecorded { .. });
    assert!(is_fork, "{failure}");
}

#[test]
fn a_coordinator_that_forgets_all_epochs_when_it_begins_anew_is_found() {
    let failure = first_failure(Defect::Store(StoreDefect::Forgetful), storm);
    let is_fork = matches!(failure, Failure::RecordedTwice { .. });
    assert!(is_fork || is_stuck(&failure), "{failure}");
}

/// Heads are put out though they live, and some go on asking them.
fn parted(seed: u64) -> Plan {
    parts(storm(seed))
}

/// The same while workers push seldom: a head that was put out has nothing that waits for its
/// chain, and answers who reads there.
fn parted_quietly(seed: u64) -> Plan {
    let request = Duration::from_millis(20);
    parts(Plan {
        workers: 2,
        readers: 3,
        pushes_max: 1,
        thinks_per_mille: 900,
        timeouts: Timeouts { request, give_up: request * 5 },
        ..storm(seed)
    })
}

fn parts(mut plan: Plan) -> Plan {
    plan.chains.iter_mut().for_each(|chains| {
        (chains.strikes, chains.events_per_mille) = (Strikes::Parted, 5);
    });
    plan
}

/// Servers are gone without a word and stay away: only silence tells.
fn only_silence(seed: u64) -> Plan {
    let mut plan = storm(seed);
    plan.chains.iter_mut().for_each(|chains| chains.strikes = Strikes::Silence);
    plan
}
