//! Checkpoints of changes: what they stand for, what they need, and what is kept for them.

use std::fs;

use wire::{ShardId, StoredValues};

use super::{
    SHARDS, cluster, facts, newest, options, write_checkpoint, write_parts, write_rounded,
};
use crate::{Broken, CheckpointNumber, Content, Depth, Manifest, State, Store};

/// Publishes one whose parts but the first are the changes since another.
fn write_changes(store: &Store, base: u64) -> Manifest {
    let mut writer = store.begin(cluster(), SHARDS).expect("a number");
    let mut parts = write_parts(store, &mut writer).expect("written");
    parts[1..].iter_mut().for_each(|part| part.base = Some(CheckpointNumber::new(base)));
    writer.publish(parts, facts()).expect("published")
}

fn numbers(manifests: &[&Manifest]) -> Vec<u64> {
    manifests.iter().map(|manifest| manifest.number.get()).collect()
}

/// A full one, two with changes, in a directory.
fn three() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Store::open(folder.path().to_str().expect("its name"), &options());
    let store = store.expect("a directory");
    write_checkpoint(&store).expect("written");
    write_changes(&store, 1);
    write_changes(&store, 2);
    (folder, store)
}

#[test]
fn one_with_changes_names_all_that_has_to_be_read_before_it_by_shard() {
    let (_folder, store) = three();
    let found = newest(&store).checkpoint.expect("the newest");
    let content = Content::ChangesSince(CheckpointNumber::new(2));
    assert_eq!((found.manifest().format, found.manifest().content), (2, content));
    assert_eq!(found.bases()[0].format, 1, "who knows no changes reads one that has everything");
    assert_eq!(numbers(&found.line(ShardId::new(0))), [3]);
    assert_eq!(numbers(&found.line(ShardId::new(1))), [1, 2, 3]);
    assert_eq!(found.check(), Ok(()));
}

#[test]
fn without_what_it_needs_it_is_named_and_passed_over_for_the_newest_whole_one() {
    for (file, is_missing) in
        [("ckpt-0000000002/manifest", true), ("ckpt-0000000002/part-00001", false)]
    {
        let (folder, store) = three();
        let path = folder.path().join(file);
        if is_missing {
            fs::remove_file(&path).expect("it is there");
        } else {
            let mut bytes = fs::read(&path).expect("it is there");
            bytes[100] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
        let found = store.newest_good(Some(cluster().id), Depth::Bytes).expect("one is good");
        assert_eq!(found.checkpoint.expect("the full one").manifest().number.get(), 1);
        let why: Vec<String> = found.passed_over.iter().map(ToString::to_string).collect();
        assert!(why[0].contains("checkpoint 3") && why[0].contains(file), "{why:?}");
        if is_missing {
            let opened = store.checkpoint(CheckpointNumber::new(3), None);
            let base = CheckpointNumber::new(2);
            assert!(matches!(opened, Err(Broken::Base { base: it, .. }) if it == base));
            let listed = store.list().expect("it");
            assert!(matches!(listed[2].state, State::Broken(Broken::Base { .. })));
        }
    }
}

#[test]
fn what_is_kept_keeps_what_it_needs() {
    let (_folder, store) = three();
    write_changes(&store, 3);
    assert_eq!(store.retain(2).expect("it goes").numbers, [], "the first ones are needed");
    write_checkpoint(&store).expect("written");
    assert_eq!(store.retain(2).expect("it goes").numbers, []);
    write_checkpoint(&store).expect("written");
    let removed = store.retain(2).expect("it goes").numbers;
    assert_eq!(removed, [1, 2, 3, 4].map(CheckpointNumber::new), "nobody needs them any more");
    assert_eq!(newest(&store).checkpoint.expect("the newest").manifest().number.get(), 6);
}

#[test]
fn one_with_changes_since_itself_or_a_later_one_is_damaged() {
    for base in [4, 9] {
        let (_folder, store) = three();
        write_changes(&store, base);
        let opened = store.checkpoint(CheckpointNumber::new(4), None);
        assert!(matches!(opened, Err(Broken::Shape { .. })), "{opened:?}");
    }
}

#[test]
fn rounded_numbers_make_a_checkpoint_of_a_newer_format_whatever_it_has() {
    let (_folder, store) = three();
    let changes = write_rounded(&store, Some(3)).expect("published");
    let content = Content::ChangesSince(CheckpointNumber::new(3));
    assert_eq!((changes.format, changes.content), (3, content));
    let whole = write_rounded(&store, None).expect("published");
    assert_eq!((whole.format, whole.content), (3, Content::Full));
    assert_eq!(whole.values(), StoredValues::Bf16);
    let found = newest(&store).checkpoint.expect("the newest");
    assert_eq!((found.manifest().number.get(), found.check()), (5, Ok(())));
}
