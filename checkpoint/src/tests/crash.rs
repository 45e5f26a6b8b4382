//! Power cuts and failing calls, at each call that a save and a removal make.

use std::io::ErrorKind;

use super::{assert_as_written, newest, options, write_checkpoint};
use crate::simulated::{Fault, Left, SimDisk, Syncs};
use crate::{Manifest, RetainError, State, Store, WriteError};

/// Ways in which what was not synced is left, for each power cut.
const SEEDS: u64 = 12;

/// More calls than a save and a removal make.
const CALLS_MAX: u64 = 1000;

/// What one save has said.
#[derive(Debug)]
enum Said {
    Saved,
    NotSaved,
}

fn store(disk: &SimDisk) -> Store {
    disk.store("/data/checkpoints", &options())
}

/// A disk on which two checkpoints were saved, after a power cut.
fn disk_with_two() -> SimDisk {
    let disk = SimDisk::new(Syncs::Do);
    for _ in 0..2 {
        write_checkpoint(&store(&disk)).expect("a disk without faults");
    }
    disk.after_power_cut(Left::Nothing)
}

fn save_and_retain(store: &Store) -> Said {
    let saved: Result<Manifest, WriteError> = write_checkpoint(store);
    if saved.is_err() {
        return Said::NotSaved;
    }
    match store.retain(2) {
        Ok(_) | Err(RetainError::Store(_)) => Said::Saved,
        Err(error) => panic!("{error}"),
    }
}

/// Checks what is there: the second or the third checkpoint, and nothing that is broken.
fn assert_old_or_new(disk: &SimDisk, said: &Said, context: &str) {
    let store = store(disk);
    let found = newest(&store);
    assert_eq!(found.passed_over, [], "{context}");
    for listed in store.list().expect("a disk without faults") {
        assert!(!matches!(listed.state, State::Broken(_)), "{context}: {listed:?}");
    }
    let checkpoint = found.checkpoint.expect("the second was published");
    assert_as_written(&checkpoint);
    let number = checkpoint.manifest().number.get();
    match said {
        Said::Saved => assert_eq!(number, 3, "{context}"),
        Said::NotSaved => assert!(number == 2 || number == 3, "{context}"),
    }
    write_checkpoint(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
    store.retain(2).unwrap_or_else(|error| panic!("{context}: {error}"));
    let listed = store.list().expect("a disk without faults");
    assert_eq!(listed.len(), 2, "{context}: {listed:?}");
}

#[test]
fn after_a_power_cut_at_any_call_the_old_checkpoint_is_whole_or_the_new_one_is() {
    let two = disk_with_two();
    for call in 1..CALLS_MAX {
        let disk = two.with_fault(Fault::Power(call));
        let said = save_and_retain(&store(&disk));
        if !disk.fired() {
            assert!(call > 60, "a save and a removal make more calls than {call}");
            return;
        }
        let left = [Left::Nothing, Left::Everything].into_iter();
        for left in left.chain((0..SEEDS).map(Left::Some)) {
            let context = format!("power cut at call {call}, {left:?}, {said:?}");
            assert_old_or_new(&disk.after_power_cut(left), &said, &context);
        }
    }
    panic!("more than {CALLS_MAX} calls");
}

#[test]
fn a_call_that_fails_costs_at_most_the_new_checkpoint_and_no_sync_is_trusted_after_one_failed() {
    let two = disk_with_two();
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        for call in 1..CALLS_MAX {
            let disk = two.with_fault(Fault::Once(call, kind));
            let said = save_and_retain(&store(&disk));
            if !disk.fired() {
                break;
            }
            let context = format!("{kind} at call {call}, {said:?}");
            for left in [Left::Nothing, Left::Everything, Left::Some(call)] {
                let context = format!("{context}, then a power cut, {left:?}");
                assert_old_or_new(&disk.after_power_cut(left), &said, &context);
            }
            assert_old_or_new(&disk.with_fault(Fault::None), &said, &context);
        }
    }
}

#[test]
fn the_first_checkpoint_survives_a_power_cut_whatever_call_had_failed_before_it() {
    for call in 1..CALLS_MAX {
        let disk = SimDisk::new(Syncs::Do).with_fault(Fault::Once(call, ErrorKind::Other));
        let said = write_checkpoint(&store(&disk)).is_ok();
        if !disk.fired() {
            assert!(call > 10, "a save makes more calls than {call}");
            return;
        }
        let disk = disk.with_fault(Fault::None);
        write_checkpoint(&store(&disk)).unwrap_or_else(|error| panic!("call {call}: {error}"));
        let found = newest(&store(&disk.after_power_cut(Left::Nothing)));
        let context = format!("call {call}, which the first save survived: {said}");
        assert_eq!(found.passed_over, [], "{context}");
        assert_as_written(&found.checkpoint.expect(&context));
    }
    panic!("more than {CALLS_MAX} calls");
}

#[test]
fn while_the_power_is_gone_each_call_says_so_and_names_its_file() {
    let disk = disk_with_two().with_fault(Fault::Power(12));
    let error = write_checkpoint(&store(&disk)).expect_err("no power");
    let text = error.to_string();
    assert!(text.starts_with("/data/checkpoints/ckpt-0000000003"), "{text}");
    assert!(text.ends_with("the power is gone"), "{text}");
}
