//! Storing: a server's recordings and loads, between its cores and the store of checkpoints.
//!
//! Owns which of them are under way. Writing a part is left to `recorder`, making a shard of one
//! to `loader`, when either is wanted to the coordinator.
//!
//! Invariant: a shard that is to be restored is on no core before it is whole, and nobody is
//! admitted to it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use checkpoint::Options;
use shard::ShardSpec;
use wire::{
    Clock, Holds, Placement, RecordOrder, RestoredFrom, ServerId, ShardId, StoreReport, StoreState,
};

use crate::chains::seeded;
use crate::core_thread::{Command, CoreHandle, Server};
use crate::loader::{Load, Loader};
use crate::pinning::Pinning;
use crate::recorder::{Cut, Job, RECORDINGS_MAX, Recorder, Recorders};
use crate::report::Report;

/// What a server has to do with checkpoints.
#[derive(Debug)]
pub(crate) struct Storing {
    options: Mutex<Options>,
    recorders: Mutex<Recorders>,
    /// Shards that this server is to hold and does not yet, or cannot.
    loads: Arc<Mutex<Loads>>,
    /// What shards are made of; the order of keys is each one's own.
    made_of: ShardSpec,
    pinning: Pinning,
    report: SyncSender<Report>,
}

/// Loads that have not ended well, by shard.
pub(crate) type Loads = BTreeMap<ShardId, Load>;

impl Storing {
    pub(crate) fn new(made_of: ShardSpec, pinning: Pinning, report: SyncSender<Report>) -> Storing {
        let (options, recorders, loads) = Default::default();
        Storing { options, recorders, loads, made_of, pinning, report }
    }

    /// The loads, to be held while cores are told of a placement.
    pub(crate) fn loads(&self) -> MutexGuard<'_, Loads> {
        lock(&self.loads)
    }

    /// Notes which shards a placement wants to be loaded, and which no more. Those that are new.
    ///
    /// - `is_first`: whether the server hears of a placement for the first time under its number.
    pub(crate) fn note(
        &self,
        loads: &mut Loads,
        (ours, placement): (ServerId, &Placement),
        is_first: bool,
    ) -> Vec<ShardId> {
        let holds = |shard: ShardId| placement.chain(shard)?.station(ours).map(|it| it.holds);
        loads.retain(|&shard, load| {
            let stays = !is_first && holds(shard) == Some(Holds::Everything);
            load.is_cancelled.fetch_or(!stays, Ordering::Relaxed);
            stays
        });
        if !is_first || placement.restored_from.is_none() {
            return Vec::new();
        }
        let whole = |&(shard, _): &(ShardId, _)| holds(shard) == Some(Holds::Everything);
        let wanted: Vec<ShardId> = placement.shards().filter(whole).map(|(it, _)| it).collect();
        let load = || Load { is_cancelled: Arc::new(AtomicBool::new(false)) };
        loads.extend(wanted.iter().map(|&shard| (shard, load())));
        wanted
    }

    /// Starts to load shards: a thread for each core that is to have some, and more where cores are
    /// fewer than processors.
    pub(crate) fn load(
        &self,
        from: &RestoredFrom,
        shards: u16,
        wanted: &[ShardId],
        cores: &Arc<[CoreHandle]>,
    ) {
        let threads = match self.pinning {
            Pinning::Pinned { .. } => 1, // All would have one processor.
            Pinning::Free => available_parallelism().map_or(1, NonZero::get).div_ceil(cores.len()),
        };
        for (core, thread) in (0..cores.len()).flat_map(|it| (0..threads).map(move |at| (it, at))) {
            let loads = self.loads();
            let its = wanted.iter().filter(|shard| shard.index() % cores.len() == core);
            let its = its.skip(thread).step_by(threads).filter_map(|&shard| {
                Some((shard, seeded(&self.made_of, shard), loads.get(&shard)?.clone()))
            });
            let its: Vec<_> = its.collect();
            drop(loads);
            if its.is_empty() {
                continue;
            }
            let failed: Vec<ShardId> = its.iter().map(|&(shard, ..)| shard).collect();
            let loader = Loader {
                from: from.clone(),
                shards,
                options: lock(&self.options).clone(),
                pinning: self.pinning,
                core,
                wanted: its,
                report: self.report.clone(),
            };
            let (loads, cores) = (Arc::clone(&self.loads), Arc::clone(cores));
            let run = move || {
                loader.run(|shard, restored| {
                    let mut loads = lock(&loads);
                    let is_wanted = loads
                        .get(&shard)
                        .is_some_and(|it| !it.is_cancelled.load(Ordering::Relaxed));
                    if is_wanted {
                        // Its core hears of the shard before anybody is admitted to it.
                        let _ = cores[core].send(Command::Restored(shard, Box::new(restored)));
                        loads.remove(&shard);
                    }
                });
            };
            let started = std::thread::Builder::new().name(format!("loader-{core}")).spawn(run);
            if let Err(error) = started {
                for shard in failed {
                    let state = StoreState::NotLoaded { reason: format!("no thread: {error}") };
                    self.tell(StoreReport { shard, number: from.number, attempt: 0, state });
                }
            }
        }
    }

    fn tell(&self, report: StoreReport) {
        let _ = self.report.try_send(Report::Stored(report));
    }
}

impl Server {
    /// How the store of checkpoints is used. Until it is said, by defaults.
    pub fn set_store_options(&self, options: Options) {
        *lock(&self.storing.options) = options;
    }

    /// Records a shard, as ordered, on a thread of its own; [`Report::Stored`] says how it goes.
    pub fn record(&self, order: RecordOrder) {
        let storing = &self.storing;
        let RecordOrder { number, shard, attempt, .. } = order;
        let mut recorders = lock(&storing.recorders);
        if let Some(known) = recorders.get(&shard) {
            if (known.number, known.attempt) >= (number, attempt) {
                // Said again: how far the shard is now is wanted.
                let core = &self.cores[shard.index() % self.cores.len()];
                // Without room, it is asked again.
                let _ = core.tell(Command::TellReached(shard, number));
                return;
            }
            known.cut(Cut::Never);
        }
        let refused = |reason: String| {
            let state = StoreState::NotRecorded { reason };
            storing.tell(StoreReport { shard, number, attempt, state });
        };
        if recorders.values().filter(|known| !known.is_over()).count() >= RECORDINGS_MAX {
            return refused(format!("{RECORDINGS_MAX} shards are recorded already"));
        }
        let options = lock(&storing.options).clone();
        let (cores, report) = (Arc::clone(&self.cores), storing.report.clone());
        match Recorder::start(Job { order, options, cores, report }) {
            Ok(recorder) => drop(recorders.insert(shard, recorder)),
            Err(error) => refused(format!("no thread: {error}")),
        }
    }

    /// All recordings of this checkpoint end where the slowest clock becomes this one; none: where
    /// they are.
    pub fn cut_recordings(&self, number: u64, clock: Option<Clock>) {
        let recorders = lock(&self.storing.recorders);
        for (&shard, _) in recorders.iter().filter(|(_, it)| it.number == number) {
            // At once: clocks go by. Its recorder says it again.
            let core = &self.cores[shard.index() % self.cores.len()];
            let _ = core.tell(Command::CutRecording(shard, number, clock));
        }
        drop(recorders);
        self.cut_all(number, Cut::At(clock));
    }

    /// The recordings of this checkpoint are of no use any more.
    pub fn end_recordings(&self, number: u64) {
        self.cut_all(number, Cut::Never);
    }

    fn cut_all(&self, number: u64, cut: Cut) {
        let recorders = lock(&self.storing.recorders);
        recorders.values().filter(|it| it.number == number).for_each(|it| it.cut(cut));
    }

    /// Shards that this server is to hold and that are not restored yet.
    pub(crate) fn is_loading(&self, shard: ShardId) -> bool {
        self.storing.loads().contains_key(&shard)
    }
}

/// The shards that no core has yet.
pub(crate) fn shards_of(loads: &Loads) -> BTreeSet<ShardId> {
    loads.keys().copied().collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
