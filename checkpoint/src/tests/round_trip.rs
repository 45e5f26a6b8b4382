//! Round trips: what was appended is what is read, in order, aligned, block by block.

use proptest::prelude::*;
use wire::ShardId;

use super::{assert_as_written, cluster, facts, memory, newest, options, write_checkpoint};
use crate::{BLOCK_BYTES, Checkpoint, PartEnd, Store, WriteError};

/// Writes one part of these messages.
fn written(store: &Store, messages: &[Vec<u8>]) -> Checkpoint {
    let mut writer = store.begin(cluster(), 1).expect("a number");
    let mut part = store.write_part(writer.plan(ShardId::new(0))).expect("begun");
    for message in messages {
        part.append(message).expect("room");
    }
    let entry = part.finish(PartEnd { rows: 5, position: 9 }).expect("finished");
    assert_eq!(entry.messages, messages.len() as u64);
    let number = writer.publish(vec![entry], facts()).expect("published").number;
    store.checkpoint(number, Some(cluster().id)).expect("whole")
}

/// The messages of each block.
fn read(checkpoint: &Checkpoint) -> Vec<Vec<Vec<u8>>> {
    let mut part = checkpoint.part(ShardId::new(0)).expect("a thread");
    let mut blocks = Vec::new();
    while let Some(block) = part.next().expect("good") {
        for message in block.messages() {
            assert!(message.as_ptr().addr().is_multiple_of(8), "messages are read in place");
        }
        blocks.push(block.messages().map(<[u8]>::to_vec).collect());
    }
    assert!(part.next().expect("good to the end").is_none());
    blocks
}

#[test]
fn a_checkpoint_in_a_directory_and_in_memory_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a directory");
    let place = format!("file://{}/deep/er", folder.path().display());
    for store in [Store::open(&place, &options()).expect("a directory"), memory()] {
        for number in 1..4 {
            let manifest = write_checkpoint(&store).expect("written");
            assert_eq!(manifest.number.get(), number);
            let checkpoint = newest(&store).checkpoint.expect("the newest");
            assert_eq!(*checkpoint.manifest(), manifest);
            assert_as_written(&checkpoint);
        }
    }
}

#[test]
fn blocks_end_between_messages_and_a_long_message_is_a_block_of_its_own() {
    let store = memory();
    let long = wire::FRAME_BYTES_MAX;
    let lengths = [10, BLOCK_BYTES / 2, BLOCK_BYTES / 2, 8, long, 0, BLOCK_BYTES - 16, 1];
    let messages: Vec<Vec<u8>> =
        lengths.iter().enumerate().map(|(index, &bytes)| vec![index as u8; bytes]).collect();
    let blocks = read(&written(&store, &messages));
    let shape: Vec<Vec<usize>> =
        blocks.iter().map(|block| block.iter().map(Vec::len).collect()).collect();
    let half = BLOCK_BYTES / 2;
    assert_eq!(
        shape,
        [vec![10, half], vec![half, 8], vec![long], vec![0, BLOCK_BYTES - 16], vec![1]]
    );
    assert_eq!(blocks.concat(), messages);
}

#[test]
fn a_message_that_is_too_long_is_left_out_and_the_part_goes_on() {
    let store = memory();
    let mut writer = store.begin(cluster(), 1).expect("a number");
    let mut part = store.write_part(writer.plan(ShardId::new(0))).expect("begun");
    let bytes = wire::FRAME_BYTES_MAX + 1;
    assert_eq!(part.append(&vec![0; bytes]), Err(WriteError::TooLong { bytes }));
    part.append(b"short").expect("room");
    let entry = part.finish(PartEnd { rows: 0, position: 0 }).expect("finished");
    assert_eq!(entry.messages, 1);
}

#[test]
fn a_part_without_messages_is_a_header() {
    let checkpoint = written(&memory(), &[]);
    assert_eq!(checkpoint.manifest().parts[0].bytes, 64);
    assert_eq!(read(&checkpoint), [[[0; 0]; 0]; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_messages_are_read_as_they_were_written(
        lengths in prop::collection::vec((0usize..3_000_000, any::<u8>()), 0..12),
    ) {
        let messages: Vec<Vec<u8>> =
            lengths.into_iter().map(|(bytes, fill)| vec![fill; bytes >> (fill % 16)]).collect();
        prop_assert_eq!(read(&written(&memory(), &messages)).concat(), messages);
    }
}
