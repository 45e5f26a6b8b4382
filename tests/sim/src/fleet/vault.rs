//! The vault: the store of checkpoints, on a disk that fails.
//!
//! Owns the disk, and what befalls each piece of work in it: a call that fails, or the power that
//! goes at one, so that what was not synced is lost or torn. What is written there, and when, is
//! the coordinators' and the servers'.
//!
//! Invariant: what somebody was told to be published is whole from then on, or was removed for what
//! is newer; each is read back, by the code that restores a shard.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use checkpoint::simulated::{Fault, Left, SimDisk, Syncs};
use checkpoint::{
    Broken, CheckpointNumber, ClusterId, Depth, KEEP_MIN, Options, PartEnd, PartEntry, WriteError,
};
use server::coordinator::{CheckpointSpec, Hands, StoreNews, StoreTask};
use server::{part_plan, recorded_part};
use shard::chain::{Reached, Restoring, Tape};
use shard::{ShardSpec, chain};
use wire::{Clock, RecordOrder, RecordedPart, ShardId, StoredValues};

use super::{CLUSTER, CLUSTER_ID};
use crate::failure::Failure;
use crate::random::Random;

/// Where checkpoints lie on the disk.
const DIRECTORY: &str = "/checkpoints";
/// How many pieces of work of a hundred meet a call that fails.
const CALL_FAILS_PERCENT: u64 = 8;
/// And how many a power cut.
const POWER_FAILS_PERCENT: u64 = 6;
/// The call at which that happens, at most; a piece of work that makes fewer is spared.
const CALLS_MAX: u64 = 40;
/// How long a piece of work takes at most, in nanoseconds.
const WORK_NS_MAX: u64 = 5_000_000;
/// The same where the disk is slow.
const WORK_NS_MAX_SLOW: u64 = 800_000_000;
/// How many pieces of work of a hundred the disk is slow for.
const SLOW_PERCENT: u64 = 5;

/// What is wrong with the disk on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VaultDefect {
    /// Nothing.
    #[default]
    None,
    /// A sync is answered and not done.
    NotSynced,
}

/// The store.
pub(crate) struct Vault {
    disk: SimDisk,
    random: Random,
    shard: ShardSpec,
    every: Duration,
    is_calm: bool,
    /// The newest number that somebody was told to be published.
    published: u64,
    /// Checkpoints that were begun since the last look, by number.
    begun: Vec<u64>,
    /// And those that were published.
    fresh: Vec<Published>,
    pub(crate) counts: VaultCounts,
    pub(crate) failed: Option<Failure>,
}

/// What has happened to checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VaultCounts {
    /// Checkpoints that were published, and read back.
    pub published: u64,
    /// Of those, the ones that were cut at a clock.
    pub at_a_clock: u64,
    /// Calls of the disk that failed.
    pub failures: u64,
    /// Power cuts of the disk.
    pub power_cuts: u64,
}

/// A checkpoint that was published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) number: u64,
    /// Where it was cut.
    pub(crate) clock: Option<Clock>,
    /// What it holds.
    pub(crate) rows: BTreeMap<u64, f32>,
}

impl Vault {
    /// An empty one.
    ///
    /// - `every`: how often a checkpoint is taken.
    pub(crate) fn new(
        random: Random,
        shard: ShardSpec,
        every: Duration,
        defect: VaultDefect,
    ) -> Vault {
        let syncs = if defect == VaultDefect::NotSynced { Syncs::Lie } else { Syncs::Do };
        Vault {
            disk: SimDisk::new(syncs),
            random,
            shard,
            every,
            is_calm: false,
            published: 0,
            begun: Vec::new(),
            fresh: Vec::new(),
            counts: VaultCounts::default(),
            failed: None,
        }
    }

    /// How a coordinator uses it.
    pub(crate) fn spec(&self) -> CheckpointSpec {
        CheckpointSpec {
            place: DIRECTORY.to_owned(),
            options: Options::default(),
            every: Some(self.every),
            keep: KEEP_MIN,
            rate_mib_s: None,
            full_every: 1,
            values: StoredValues::F32,
        }
    }

    /// The hands of a coordinator that begins.
    pub(crate) fn hands(&self) -> Hands {
        let store = self.disk.store(DIRECTORY, &Options::default());
        Hands::new(store, KEEP_MIN, CLUSTER, CLUSTER_ID)
    }

    /// How long a piece of work takes.
    pub(crate) fn way(&mut self) -> Duration {
        let is_slow = !self.is_calm && self.random.below(100) < SLOW_PERCENT;
        let ns_max = if is_slow { WORK_NS_MAX_SLOW } else { WORK_NS_MAX };
        Duration::from_nanos(self.random.below(ns_max))
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
    }

    /// Has a coordinator's task done, at this time of the world's day.
    pub(crate) fn perform(
        &mut self,
        hands: &mut Hands,
        task: StoreTask,
        now_s: u64,
    ) -> Option<StoreNews> {
        let news = self.with_faults(|_| hands.perform(task, now_s));
        match &news {
            Some(StoreNews::Begun { number }) => self.begun.push(*number),
            Some(StoreNews::Published { number, .. }) => {
                self.counts.published += 1;
                self.published = self.published.max(*number);
                match self.read_back(*number) {
                    Ok(published) => {
                        self.counts.at_a_clock += u64::from(published.clock.is_some());
                        self.fresh.push(published);
                    }
                    Err(why) => self.broken(*number, why),
                }
            }
            _ => {}
        }
        if let Some(StoreNews::Published { .. }) = &news {
            self.with_faults(|_| hands.retain());
        }
        news
    }

    /// Writes a part of a checkpoint.
    pub(crate) fn write_part(
        &mut self,
        order: &RecordOrder,
        tapes: &[Tape],
        reached: Reached,
    ) -> Result<RecordedPart, String> {
        let entry = self.with_faults(|disk| write(disk, order, tapes, reached));
        let entry = entry.map_err(|error| error.to_string())?;
        let messages = tapes.iter().flat_map(Tape::messages);
        let tables = messages.filter_map(chain::tables_of_state).next().unwrap_or_default();
        Ok(recorded_part(entry, tables, reached))
    }

    /// The numbers of checkpoints that were begun since the last time.
    pub(crate) fn take_begun(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.begun)
    }

    /// The checkpoints that were published since the last time.
    pub(crate) fn take_published(&mut self) -> Vec<Published> {
        std::mem::take(&mut self.fresh)
    }

    /// Does a piece of work on the disk, which may fail at any of its calls.
    fn with_faults<T>(&mut self, work: impl FnOnce(&SimDisk) -> T) -> T {
        let kind = if self.is_calm { 100 } else { self.random.below(100) };
        let (call, seed) = (1 + self.random.below(CALLS_MAX), self.random.below(u64::MAX));
        let power_fails = kind < POWER_FAILS_PERCENT;
        self.disk.set_fault(match kind {
            _ if power_fails => Fault::Power(call),
            kind if kind < POWER_FAILS_PERCENT + CALL_FAILS_PERCENT => {
                let errors = [ErrorKind::StorageFull, ErrorKind::Other];
                Fault::Once(call, errors[(seed % 2) as usize])
            }
            _ => Fault::None,
        });
        let done = work(&self.disk);
        self.counts.failures += u64::from(self.disk.fired());
        if power_fails {
            self.counts.power_cuts += 1;
            self.disk.cut_power(Left::Some(seed));
            self.check_newest();
        } else {
            self.disk.set_fault(Fault::None);
        }
        done
    }

    /// After a power cut what was published is there, and nothing that is broken.
    fn check_newest(&mut self) {
        if self.published == 0 {
            return; // Not even the directory need be there.
        }
        let store = self.disk.store(DIRECTORY, &Options::default());
        let found = store.newest_good(Some(ClusterId::new(CLUSTER_ID)), Depth::Bytes);
        let why = match found {
            Err(error) => error.to_string(),
            Ok(found) => match (found.passed_over.first(), found.checkpoint) {
                (Some(passed_over), _) => passed_over.to_string(),
                (None, Some(it)) if it.manifest().number.get() >= self.published => return,
                (None, Some(it)) => {
                    format!("after a power cut {} is the newest", it.manifest().number)
                }
                (None, None) => "after a power cut there is none".to_owned(),
            },
        };
        self.broken(self.published, why);
    }

    /// Makes the shards of a checkpoint again.
    fn read_back(&self, number: u64) -> Result<Published, String> {
        let store = self.disk.store(DIRECTORY, &Options::default());
        let cluster = Some(ClusterId::new(CLUSTER_ID));
        let text = |broken: Broken| broken.to_string();
        let checkpoint = store.checkpoint(CheckpointNumber::new(number), cluster).map_err(text)?;
        let manifest = checkpoint.manifest();
        let mut rows = BTreeMap::new();
        for shard in (0..manifest.shards).map(ShardId::new) {
            let mut restoring = Restoring::new(self.shard.clone(), manifest.clock);
            let mut reader = checkpoint.part(shard).map_err(text)?;
            while let Some(block) = reader.next().map_err(text)? {
                for message in block.messages() {
                    let taken = restoring.take(message);
                    taken.map_err(|error| format!("{shard}: {error}"))?;
                }
            }
            let restored = restoring.finish().map_err(|error| format!("{shard}: {error}"))?;
            let image = restored.into_shard().image();
            let values = image.rows.into_iter().flatten();
            rows.extend(values.map(|(key, row)| (key, f32::from_bits(row[0]))));
        }
        Ok(Published { number, clock: manifest.clock, rows })
    }

    fn broken(&mut self, number: u64, why: String) {
        self.failed.get_or_insert(Failure::CheckpointBroken { number, why });
    }
}

fn write(
    disk: &SimDisk,
    order: &RecordOrder,
    tapes: &[Tape],
    reached: Reached,
) -> Result<PartEntry, WriteError> {
    let mut part = disk.store(DIRECTORY, &Options::default()).write_part(part_plan(order))?;
    for message in tapes.iter().flat_map(Tape::messages) {
        part.append(message)?;
    }
    let Reached { rows, position, .. } = reached;
    part.finish(PartEnd { rows, position })
}
