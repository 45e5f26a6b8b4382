//! Several writers at once, slow ones, and what is kept.

use std::thread;

use wire::ShardId;

use super::{
    SHARDS, assert_as_written, cluster, facts, memory, newest, options, write_checkpoint,
    write_parts,
};
use crate::{
    Broken, CheckpointNumber, Cluster, ClusterId, PartEnd, RetainError, State, Store, WriteError,
};

/// Writers at once.
const WRITERS: usize = 6;

fn stores() -> (tempfile::TempDir, [Store; 2]) {
    let folder = tempfile::tempdir().expect("a directory");
    let place = folder.path().to_str().expect("its name").to_owned();
    (folder, [Store::open(&place, &options()).expect("a directory"), memory()])
}

fn numbers(store: &Store) -> Vec<u64> {
    store.list().expect("it").iter().map(|listed| listed.number.get()).collect()
}

#[test]
fn writers_at_once_have_a_number_each_and_each_published_one_is_whole() {
    let (_folder, stores) = stores();
    for store in &stores {
        let mut published: Vec<u64> = thread::scope(|scope| {
            let writers: Vec<_> =
                (0..WRITERS).map(|_| scope.spawn(|| write_checkpoint(store))).collect();
            let ended = writers.into_iter().map(|writer| writer.join().expect("no panic"));
            ended
                .filter_map(|written| match written {
                    Ok(manifest) => Some(manifest.number.get()),
                    Err(WriteError::Superseded { .. }) => None,
                    Err(error) => panic!("{error}"),
                })
                .collect()
        });
        published.sort_unstable();
        assert_eq!(numbers(store), Vec::from_iter(1..=WRITERS as u64));
        for listed in store.list().expect("it") {
            let whole = published.contains(&listed.number.get());
            assert_eq!(matches!(listed.state, State::Published(_)), whole, "{listed:?}");
            if whole {
                assert_as_written(&store.checkpoint(listed.number, None).expect("whole"));
            }
        }
    }
}

#[test]
fn a_writer_that_is_overtaken_publishes_nothing() {
    let (_folder, stores) = stores();
    for store in &stores {
        let mut slow = store.begin(cluster(), SHARDS).expect("begun");
        let parts = write_parts(store, &mut slow).expect("written");
        write_checkpoint(store).expect("published");
        let number = CheckpointNumber::new(1);
        let newer = CheckpointNumber::new(2);
        let error = slow.publish(parts, facts()).expect_err("overtaken");
        assert_eq!(error, WriteError::Superseded { number, newer });
    }
}

#[test]
fn a_writer_that_was_taken_for_dead_publishes_nothing_and_its_parts_are_removed() {
    let (_folder, stores) = stores();
    for store in &stores {
        let mut slow = store.begin(cluster(), SHARDS).expect("begun");
        let parts = write_parts(store, &mut slow).expect("written");
        write_checkpoint(store).expect("published");
        assert_eq!(store.retain(2).expect("it").numbers, [CheckpointNumber::new(1)]);
        slow.publish(parts, facts()).expect_err("its parts are gone");
        assert_eq!(numbers(store), [2]);
        // A part that it begins all the same comes to nothing, and goes with the next removal.
        let mut slow = store.begin(cluster(), SHARDS).expect("begun");
        let plan = slow.plan(ShardId::new(0));
        write_checkpoint(store).expect("published");
        store.retain(2).expect("it");
        if let Ok(part) = store.write_part(plan) {
            let _ = part.finish(PartEnd { rows: 0, position: 0 });
        }
        store.retain(2).expect("it");
        assert_eq!(numbers(store), [2, 4]);
    }
}

#[test]
fn the_manifest_of_a_number_is_made_once() {
    let (_folder, stores) = stores();
    for store in &stores {
        let mut writer = store.begin(cluster(), SHARDS).expect("begun");
        let parts = write_parts(store, &mut writer).expect("written");
        let number = writer.number();
        let twin = crate::Writer::new(store.clone(), number, cluster(), SHARDS);
        let other = crate::Facts { created_s: 1, ..facts() };
        writer.publish(parts.clone(), facts()).expect("the first");
        assert_eq!(twin.publish(parts, other), Err(WriteError::Taken { number }));
        assert_as_written(&newest(store).checkpoint.expect("the first one's"));
    }
}

#[test]
fn a_number_that_was_given_up_is_not_given_again() {
    let (_folder, stores) = stores();
    for store in &stores {
        let mut writer = store.begin(cluster(), SHARDS).expect("begun");
        write_parts(store, &mut writer).expect("written");
        writer.abandon().expect("removed");
        assert_eq!(store.list().expect("it")[0].state, State::Unfinished);
        let object = format!("{}/ckpt-0000000001/manifest", store.place());
        let why = store.checkpoint(CheckpointNumber::new(1), None).expect_err("given up");
        assert_eq!(why, Broken::Abandoned { object });
        assert_eq!(write_checkpoint(store).expect("published").number.get(), 2);
        store.retain(2).expect("it");
        assert_eq!(numbers(store), [2]);
    }
}

#[test]
fn a_checkpoint_without_all_parts_is_not_published() {
    let store = memory();
    let mut writer = store.begin(cluster(), SHARDS).expect("begun");
    let mut parts = write_parts(&store, &mut writer).expect("written");
    parts.remove(1);
    let (shards, shard) = (SHARDS, ShardId::new(1));
    let error = writer.publish(parts, facts()).expect_err("a part is missing");
    assert_eq!(error, WriteError::Shards { shards, shard, parts: 0 });

    let mut writer = store.begin(cluster(), SHARDS).expect("begun");
    let mut parts = write_parts(&store, &mut writer).expect("written");
    parts[2].bytes += 1;
    let error = writer.publish(parts, facts()).expect_err("a part is shorter");
    assert!(matches!(error, WriteError::PartGone { bytes: Some(_), .. }), "{error}");
}

#[test]
fn the_newest_are_kept_and_unfinished_ones_before_them_are_removed() {
    let (_folder, stores) = stores();
    for store in &stores {
        for number in 1..=6 {
            let mut writer = store.begin(cluster(), SHARDS).expect("begun");
            let parts = write_parts(store, &mut writer).expect("written");
            if number != 2 && number != 6 {
                writer.publish(parts, facts()).expect("published");
            }
        }
        assert_eq!(store.retain(1), Err(RetainError::KeepTooFew { keep: 1 }));
        let removed: Vec<u64> =
            store.retain(2).expect("it").numbers.iter().map(|number| number.get()).collect();
        assert_eq!(removed, [1, 2, 3]);
        assert_eq!(numbers(store), [4, 5, 6]);
        assert_as_written(&newest(store).checkpoint.expect("the fifth"));
        assert_eq!(store.retain(2).expect("it").numbers, []);
    }
}

#[test]
fn another_clusters_checkpoints_are_left_alone() {
    let store = memory();
    let other = Cluster { name: "other".to_owned(), id: ClusterId::new(1) };
    let mut writer = store.begin(other, SHARDS).expect("begun");
    let parts = write_parts(&store, &mut writer).expect("written");
    writer.publish(parts, facts()).expect("published");
    for _ in 0..3 {
        write_checkpoint(&store).expect("published");
    }
    store.retain(2).expect("it");
    assert_eq!(numbers(&store), [1, 3, 4]);
}
