//! Tests of the whole crate: what a reader gets, whatever happened to what a writer wrote.
//!
//! Owns what they share: a small cluster whose messages follow from shard and position.

mod crash;
mod damage;
mod golden;
mod line;
mod objects;
mod round_trip;
mod small_disk;
mod writers;

use std::time::Duration;

use wire::{Clock, Epoch, ShardId, StoredValues};

use crate::{
    Checkpoint, CheckpointNumber, Cluster, ClusterId, Depth, Facts, Found, Manifest, Options,
    PartEnd, PartEntry, PartPlan, Store, TableNote, WriteError, Writer,
};

/// Shards of the small cluster.
const SHARDS: u16 = 3;

/// Attempts at a part.
const ATTEMPTS: usize = 2;

fn options() -> Options {
    Options { limit: Duration::from_secs(60), tries: 1, store: Vec::new() }
}

fn cluster() -> Cluster {
    Cluster { name: "small".to_owned(), id: ClusterId::new(0x5eed) }
}

fn facts() -> Facts {
    Facts {
        epoch: Epoch::new(7),
        clock: Some(Clock::new(120)),
        created_s: 1_700_000_000,
        tables: vec![TableNote { name: "weights".to_owned(), rule: "ftrl".to_owned() }],
    }
}

fn memory() -> Store {
    Store::open("memory:", &options()).expect("memory")
}

/// What a shard's part of checkpoint `number` holds.
fn messages(number: u64, shard: ShardId) -> Vec<Vec<u8>> {
    let shard = u64::from(shard.get());
    (0..2 + shard)
        .map(|index| {
            let seed = number * 31 + shard * 7 + index;
            (0..17 + 5 * index).map(|at| (seed * 13 + at) as u8).collect()
        })
        .collect()
}

fn write_part(store: &Store, plan: PartPlan) -> Result<PartEntry, WriteError> {
    let all = messages(plan.number.get(), plan.shard);
    let mut part = store.write_part(plan)?;
    for message in &all {
        part.append(message)?;
    }
    let rows = all.len() as u64;
    part.finish(PartEnd { rows, position: rows })
}

/// Writes all parts; one that fails is begun again, as a server does it.
fn write_parts(store: &Store, writer: &mut Writer) -> Result<Vec<PartEntry>, WriteError> {
    (0..SHARDS)
        .map(|shard| {
            let mut attempts =
                (0..ATTEMPTS).map(|_| write_part(store, writer.plan(ShardId::new(shard))));
            let first = attempts.next().expect("there are attempts");
            first.or_else(|error| attempts.next().unwrap_or(Err(error)))
        })
        .collect()
}

fn write_checkpoint(store: &Store) -> Result<Manifest, WriteError> {
    let mut writer = store.begin(cluster(), SHARDS)?;
    let parts = write_parts(store, &mut writer)?;
    writer.publish(parts, facts())
}

/// The same, of parts whose numbers may be rounded.
fn write_rounded(store: &Store, base: Option<u64>) -> Result<Manifest, WriteError> {
    let mut writer = store.begin(cluster(), SHARDS)?;
    let parts = (0..SHARDS).map(|shard| {
        let plan = writer.plan(ShardId::new(shard));
        let part = write_part(store, PartPlan { values: StoredValues::Bf16, ..plan })?;
        Ok(PartEntry { base: base.map(CheckpointNumber::new), ..part })
    });
    let parts = parts.collect::<Result<_, WriteError>>()?;
    writer.publish(parts, facts())
}

fn newest(store: &Store) -> Found {
    store.newest_good(Some(cluster().id), Depth::Bytes).expect("one is good")
}

/// Reads all messages and compares them with what was written.
fn assert_as_written(checkpoint: &Checkpoint) {
    let number = checkpoint.manifest().number.get();
    for shard in (0..SHARDS).map(ShardId::new) {
        let mut part = checkpoint.part(shard).expect("a thread");
        let mut read: Vec<Vec<u8>> = Vec::new();
        while let Some(block) = part.next().expect("a good part") {
            read.extend(block.messages().map(<[u8]>::to_vec));
        }
        assert_eq!(read, messages(number, shard), "checkpoint {number}, {shard}");
    }
}
