//! Damage: what bytes that changed, moved or are gone look like to a reader.

use std::fs;
use std::path::{Path, PathBuf};

use wire::ShardId;

use super::{SHARDS, assert_as_written, cluster, messages, newest, options};
use super::{write_checkpoint, write_rounded};
use crate::manifest::Manifest;
use crate::part::PartHead;
use crate::{
    Broken, CheckpointNumber, ClusterId, Depth, Found, NewestError, State, Store, StoreError, Sum,
    WriteError,
};

/// A directory with two checkpoints.
fn two() -> (tempfile::TempDir, Store) {
    two_with(write_checkpoint)
}

/// The same, the second of them written so.
fn two_with(write: fn(&Store) -> Result<Manifest, WriteError>) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Store::open(folder.path().to_str().expect("its name"), &options()).expect("it");
    write_checkpoint(&store).expect("written");
    write(&store).expect("written");
    (folder, store)
}

fn files_of(folder: &Path, number: u64) -> Vec<PathBuf> {
    let folder = folder.join(format!("ckpt-{number:010}"));
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("it").map(|entry| entry.expect("one").path()).collect();
    files.sort();
    files
}

/// The first checkpoint is found, and why the second is not.
fn passed_over(store: &Store) -> Broken {
    let Found { checkpoint, passed_over } = newest(store);
    let checkpoint = checkpoint.expect("the first is whole");
    assert_eq!(checkpoint.manifest().number.get(), 1, "{passed_over:?}");
    assert_as_written(&checkpoint);
    assert_eq!(passed_over.len(), 1);
    assert_eq!(passed_over[0].number.get(), 2);
    passed_over[0].why.clone()
}

#[test]
fn each_flipped_byte_is_found_with_its_file_and_place_and_the_checkpoint_before_is_taken() {
    each_flipped_byte_is_found(write_checkpoint);
    each_flipped_byte_is_found(|store| write_rounded(store, None));
}

fn each_flipped_byte_is_found(write: fn(&Store) -> Result<Manifest, WriteError>) {
    let (folder, store) = two_with(write);
    let files = files_of(folder.path(), 2);
    assert_eq!(files.len(), 1 + usize::from(SHARDS));
    for file in &files {
        let whole = fs::read(file).expect("written");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= [0x20, 0x01, 0xff, 0x80][at % 4];
            fs::write(file, &flipped).expect("a file of ours");
            let broken = passed_over(&store);
            let (object, begin, bytes) = match &broken {
                Broken::Damaged { object, offset, bytes, .. } => (object, *offset, *bytes),
                Broken::Shape { object, offset, .. } => (object, *offset, u64::MAX - offset),
                other => panic!("byte {at} of {}: {other}", file.display()),
            };
            assert_eq!(object, file.to_str().expect("its name"), "byte {at}");
            let place = begin..begin + bytes;
            assert!(place.contains(&(at as u64)) || is_line_end(&whole, at), "{at}: {broken}");
        }
        fs::write(file, &whole).expect("a file of ours");
    }
    assert_eq!(newest(&store).passed_over, []);
}

/// The manifest's first newline: where the second line is looked for moves with it.
fn is_line_end(whole: &[u8], at: usize) -> bool {
    whole.iter().position(|&byte| byte == b'\n') == Some(at)
}

#[test]
fn a_file_that_was_cut_off_anywhere_is_found() {
    let (folder, store) = two();
    for file in files_of(folder.path(), 2) {
        let whole = fs::read(&file).expect("written");
        for bytes in 0..whole.len() {
            fs::write(&file, &whole[..bytes]).expect("a file of ours");
            let text = passed_over(&store).to_string();
            assert!(text.contains(file.to_str().expect("its name")), "{text}");
        }
        fs::write(&file, &whole).expect("a file of ours");
    }
}

#[test]
fn bytes_behind_the_end_are_found() {
    let (folder, store) = two();
    for file in files_of(folder.path(), 2) {
        let whole = fs::read(&file).expect("written");
        fs::write(&file, [&whole[..], b"\n"].concat()).expect("a file of ours");
        passed_over(&store);
        fs::write(&file, &whole).expect("a file of ours");
    }
}

#[test]
fn two_parts_that_were_swapped_are_found() {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Store::open(folder.path().to_str().expect("its name"), &options()).expect("it");
    write_checkpoint(&store).expect("written");
    let mut writer = store.begin(cluster(), 2).expect("begun");
    let parts = (0..2).map(|shard| {
        // Of equal lengths.
        let mut part = store.write_part(writer.plan(ShardId::new(shard))).expect("begun");
        part.append(&[shard as u8; 100]).expect("room");
        part.finish(crate::PartEnd { rows: 1, position: 1 }).expect("a disk")
    });
    let parts = parts.collect();
    writer.publish(parts, super::facts()).expect("published");
    let files = files_of(folder.path(), 2);
    let (one, other) = (fs::read(&files[1]).expect("it"), fs::read(&files[2]).expect("it"));
    fs::write(&files[1], other).expect("it");
    fs::write(&files[2], one).expect("it");
    let (expected, found) = (ShardId::new(0), ShardId::new(1));
    let object = files[1].to_str().expect("its name").to_owned();
    assert_eq!(passed_over(&store), Broken::OtherShard { object, expected, found });
}

#[test]
fn an_older_checkpoints_part_or_manifest_under_this_ones_name_is_found() {
    let (folder, store) = two();
    for (old, new) in files_of(folder.path(), 1).into_iter().zip(files_of(folder.path(), 2)) {
        let whole = fs::read(&new).expect("written");
        fs::copy(&old, &new).expect("a file of ours");
        let (expected, found) = (CheckpointNumber::new(2), CheckpointNumber::new(1));
        let object = new.to_str().expect("its name").to_owned();
        assert_eq!(passed_over(&store), Broken::OtherNumber { object, expected, found });
        fs::write(&new, &whole).expect("a file of ours");
    }
}

#[test]
fn a_block_of_another_part_does_not_hold_in_this_one() {
    let (folder, store) = two();
    let (old, new) = (&files_of(folder.path(), 1)[1], &files_of(folder.path(), 2)[1]);
    let (old, whole) = (fs::read(old).expect("it"), fs::read(new).expect("it"));
    // This part's header, the other one's block.
    fs::write(new, [&whole[..64], &old[64..]].concat()).expect("a file of ours");
    assert!(matches!(passed_over(&store), Broken::Damaged { offset: 64, .. }));
}

#[test]
fn a_whole_part_that_the_manifest_does_not_mean_is_found() {
    let (folder, store) = two();
    let mut writer = store.begin(cluster(), SHARDS).expect("begun");
    // What another attempt at the same part of checkpoint 2 might have written: as long, not same.
    let plan = crate::PartPlan { number: CheckpointNumber::new(2), ..writer.plan(ShardId::new(0)) };
    let mut part = store.write_part(crate::PartPlan { attempt: 9, ..plan }).expect("begun");
    for message in messages(2, ShardId::new(0)) {
        part.append(&vec![0; message.len()]).expect("room");
    }
    part.finish(crate::PartEnd { rows: 2, position: 2 }).expect("a disk");
    let folder = folder.path().join("ckpt-0000000002");
    fs::rename(folder.join("part-00000.9"), folder.join("part-00000")).expect("it");
    assert!(matches!(passed_over(&store), Broken::OtherPart { .. }));
}

#[test]
fn a_manifest_without_its_part_is_found_by_lengths_alone() {
    let (folder, store) = two();
    let file = &files_of(folder.path(), 2)[2];
    fs::remove_file(file).expect("it");
    let object = file.to_str().expect("its name").to_owned();
    assert_eq!(passed_over(&store), Broken::PartMissing { object });
    let found = store.newest_good(None, Depth::Lengths).expect("the first");
    assert_eq!(found.checkpoint.expect("it").manifest().number.get(), 1);
}

#[test]
fn parts_without_a_manifest_are_no_checkpoint_and_not_broken() {
    let (folder, store) = two();
    fs::remove_file(&files_of(folder.path(), 2)[0]).expect("it");
    let found = newest(&store);
    assert_eq!(found.passed_over, []);
    assert_eq!(found.checkpoint.expect("the first").manifest().number.get(), 1);
    assert_eq!(store.list().expect("it")[1].state, State::Unfinished);
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let (folder, store) = two();
    let files = files_of(folder.path(), 2);
    let manifest = fs::read_to_string(&files[0]).expect("it");
    let json = manifest.lines().next().expect("a line").replace("\"format\":1", "\"format\":4");
    let newer = format!("{json}\nxxh3-128 {}\n", Sum::of(format!("{json}\n").as_bytes()));
    fs::write(&files[0], newer).expect("it");
    assert!(matches!(passed_over(&store), Broken::Newer { format: 4, .. }));
    assert!(passed_over(&store).to_string().ends_with("written by a newer gradwire"));
    fs::write(&files[0], manifest).expect("it");

    let head = PartHead {
        number: CheckpointNumber::new(2),
        cluster: cluster().id,
        shard: ShardId::new(0),
    };
    let mut part = fs::read(&files[1]).expect("it");
    part[..64].copy_from_slice(&head.to_bytes_of_format(4));
    fs::write(&files[1], part).expect("it");
    assert!(matches!(passed_over(&store), Broken::Newer { format: 4, .. }));
}

#[test]
fn another_clusters_checkpoint_is_refused_and_no_reason_to_begin_anew() {
    let (_folder, store) = two();
    let error = store.newest_good(Some(ClusterId::new(1)), Depth::Bytes).expect_err("another's");
    let NewestError::AllBroken(all) = &error else { panic!("{error}") };
    assert_eq!(all.len(), 2);
    assert!(matches!(all[0].why, Broken::OtherCluster { .. }), "{error}");
}

#[test]
fn a_store_that_is_not_there_is_told_from_an_empty_one() {
    let folder = tempfile::tempdir().expect("a directory");
    let place = folder.path().join("none");
    let store = Store::open(place.to_str().expect("its name"), &options()).expect("a path");
    let error = store.newest_good(None, Depth::Bytes).expect_err("not there");
    assert!(matches!(error, NewestError::Store(StoreError::Absent { .. })), "{error}");
    let found = super::memory().newest_good(None, Depth::Bytes).expect("empty");
    assert!(found.checkpoint.is_none() && found.passed_over.is_empty());
}

proptest::proptest! {
    #[test]
    fn any_bytes_as_a_manifest_are_read_or_refused(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
    ) {
        let number = CheckpointNumber::new(1);
        let _ = Manifest::from_text(&bytes, number, || "manifest".to_owned());
        let json = [&bytes[..], b"\n"].concat();
        let closed = format!("xxh3-128 {}\n", Sum::of(&json));
        let text = [&json[..], closed.as_bytes()].concat();
        let _ = Manifest::from_text(&text, number, || "manifest".to_owned());
    }
}
