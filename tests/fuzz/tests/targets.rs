//! Every target for a moment, with a fixed seed.

use fuzz_tests::{Budget, Campaign};

const SEED: u64 = 1;

/// Runs a target without a break, and sees that its inputs are not all answered alike.
fn survives(name: &'static str, runs: u64) {
    let survived = Campaign { name, seed: SEED }.run(Budget::Runs(runs));
    let survived = survived.unwrap_or_else(|crash| panic!("{name}, seed {SEED}: {crash:?}"));
    assert!(survived.answers > 3, "{name} answers in {} ways only", survived.answers);
}

#[test]
fn a_header_of_any_bytes_is_read_or_refused() {
    survives("header", 100_000);
}

#[test]
fn a_message_of_any_bytes_is_opened_or_refused() {
    survives("open", 50_000);
}

#[test]
fn packed_keys_of_any_bytes_ascend_or_are_damaged() {
    survives("keys", 50_000);
}

#[test]
fn encoded_values_of_any_bytes_are_finite_or_damaged() {
    survives("values", 20_000);
}

#[test]
fn a_push_of_any_bytes_is_applied_or_changes_nothing() {
    survives("push", 10_000);
}

#[test]
fn a_pull_of_any_bytes_is_answered_and_changes_nothing() {
    survives("pull", 10_000);
}

#[test]
fn a_call_of_any_bytes_is_done_or_changes_nothing() {
    survives("call", 10_000);
}

#[test]
fn libsvm_of_any_bytes_is_a_batch_or_an_error() {
    survives("libsvm", 10_000);
}

#[test]
fn vw_of_any_bytes_is_a_batch_or_an_error() {
    survives("vw", 10_000);
}

#[test]
fn csv_of_any_bytes_is_a_batch_or_an_error() {
    survives("csv", 10_000);
}

#[test]
fn criteo_of_any_bytes_is_a_batch_or_an_error() {
    survives("criteo", 10_000);
}
