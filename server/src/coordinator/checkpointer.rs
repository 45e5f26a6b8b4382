//! The checkpointer: the coordinator's hands in the store of checkpoints, on a thread of its own.
//!
//! Owns the store and the one checkpoint that is being written. Deciding is left to `conduct`.
//!
//! Invariant: each task is answered by one piece of news, but for giving up, which has no answer.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use checkpoint::{
    CheckpointNumber, Cluster, ClusterId, Facts, Manifest, Options, PartEntry, State, Store,
    StoreError, Sum, TableNote, Writer,
};
use wire::{CheckpointTaken, Clock, Epoch, RecordedPart, ShardId, StoredValues, Time};

use super::conduct::{Conduct, Conductor};
use super::event::Event;
use super::helpers::Bell;
use super::machine::Machine;

/// What a coordinator does about checkpoints.
#[derive(Clone, Debug)]
pub struct CheckpointSpec {
    /// Where they lie: a directory that all servers share under this path, or a URL.
    pub place: String,
    /// How the store is used.
    pub options: Options,
    /// How often one is taken of its own accord.
    pub every: Option<Duration>,
    /// How many are kept, at least [`checkpoint::KEEP_MIN`].
    pub keep: usize,
    /// As [`wire::RecordOrder::rate_mib_s`].
    pub rate_mib_s: Option<u32>,
    /// One in so many has everything, the others what has changed since the one before; 1: all
    /// have everything. At most [`checkpoint::LINE_MAX`].
    pub full_every: u32,
    /// How numbers of rows are written that their rule lets be rounded.
    pub values: StoredValues,
}

impl CheckpointSpec {
    /// What the machine has to know of it.
    pub(super) fn conduct(&self) -> Conduct {
        let CheckpointSpec { place, every, rate_mib_s, full_every, values, .. } = self;
        Conduct {
            place: Some(place.clone()),
            every: *every,
            rate_mib_s: *rate_mib_s,
            full_every: *full_every,
            values: *values,
        }
    }
}

/// What is to be done in the store.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreTask {
    /// Take the next number.
    Begin {
        /// How many parts there will be.
        shards: u16,
    },
    /// Write the manifest.
    Publish(Box<Parts>),
    /// It is given up.
    Abandon {
        /// Why, for people.
        why: String,
    },
}

/// What a manifest is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Of the placement when the last part was recorded.
    pub epoch: Epoch,
    /// At which the parts are cut; none: each where its shard was.
    pub clock: Option<Clock>,
    /// By shard.
    pub parts: Vec<RecordedPart>,
}

/// What has become of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreNews {
    /// What lies in the store already.
    Found {
        /// The newest one.
        taken: CheckpointTaken,
    },
    /// A number is taken.
    Begun {
        /// Which.
        number: u64,
    },
    /// The manifest is there.
    Published {
        /// Of which checkpoint.
        number: u64,
        /// Of all parts.
        bytes: u64,
        /// Of all parts.
        rows: u64,
        /// At which the parts are cut.
        clock: Option<Clock>,
    },
    /// It is not.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// The thread.
#[derive(Debug)]
pub(super) struct Checkpointer {
    tasks: Option<Sender<StoreTask>>,
    thread: Option<JoinHandle<()>>,
}

/// A coordinator's hands in the store: the thread's own, or a simulation's.
pub struct Hands {
    store: Store,
    keep: usize,
    cluster: Cluster,
    writer: Option<Writer>,
}

impl Machine {
    /// The same with a place for checkpoints.
    #[must_use]
    pub fn with_checkpoints(mut self, spec: &CheckpointSpec, now: Time) -> Machine {
        self.conductor = Conductor::new(spec.conduct(), now);
        self
    }
}

impl Checkpointer {
    /// Starts it.
    ///
    /// - Errors: there are no threads left, or the place is none.
    pub(super) fn start(
        spec: &CheckpointSpec,
        (name, id): (&str, u64),
        bell: &Bell,
    ) -> io::Result<Checkpointer> {
        let store = Store::open(&spec.place, &spec.options);
        let store = store.map_err(|error| io::Error::other(error.to_string()))?;
        let (tasks, inbox) = channel();
        let (hands, bell) = (Hands::new(store, spec.keep, name, id), bell.another()?);
        let work = move || hands.run(&inbox, &bell);
        let thread = Some(Builder::new().name("checkpointer".to_owned()).spawn(work)?);
        Ok(Checkpointer { tasks: Some(tasks), thread })
    }

    /// Has a task done; the answer comes by the bell.
    pub(super) fn ask(&self, task: StoreTask) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Hands {
    /// Hands of the cluster `name` with the number `id`, which begin with no checkpoint.
    ///
    /// - `keep`: how many are kept, at least [`checkpoint::KEEP_MIN`].
    pub fn new(store: Store, keep: usize, name: &str, id: u64) -> Hands {
        let cluster = Cluster { name: name.to_owned(), id: ClusterId::new(id) };
        Hands { store, keep, cluster, writer: None }
    }

    fn run(mut self, tasks: &Receiver<StoreTask>, bell: &Bell) {
        let tell = |news| bell.happened(Event::Store(news));
        if let Some(taken) = self.newest(now_s()) {
            tell(StoreNews::Found { taken });
        }
        while let Ok(task) = tasks.recv() {
            let news = self.perform(task, now_s());
            let is_published = matches!(news, Some(StoreNews::Published { .. }));
            news.into_iter().for_each(tell);
            if is_published {
                self.retain(); // Which takes long, and nobody is to wait for it.
            }
        }
    }

    /// Does a task, which takes as long as the store does. What has become of it; none: it has no
    /// answer.
    ///
    /// - `now_s`: the time of day, in seconds since 1970.
    pub fn perform(&mut self, task: StoreTask, now_s: u64) -> Option<StoreNews> {
        let news = match task {
            StoreTask::Begin { shards } => self.begin(shards),
            StoreTask::Publish(parts) => self.publish(*parts, now_s),
            StoreTask::Abandon { why } => {
                self.abandon(&why);
                return None;
            }
        };
        Some(news.unwrap_or_else(|why| StoreNews::Failed { why }))
    }

    /// What this cluster has published before.
    ///
    /// - `now_s`: the time of day, in seconds since 1970.
    pub fn newest(&self, now_s: u64) -> Option<CheckpointTaken> {
        let listed = match self.store.list() {
            Ok(listed) => listed,
            Err(StoreError::Absent { .. }) => return None,
            Err(error) => {
                tracing::warn!(%error, "checkpoints are not listed");
                return None;
            }
        };
        let mut manifests = listed.into_iter().rev().filter_map(|one| match one.state {
            State::Published(manifest) => Some(manifest),
            State::Unfinished | State::Broken(_) => None,
        });
        let manifest = manifests.find(|manifest| manifest.cluster.id == self.cluster.id)?;
        let Manifest { number, clock, created_s, .. } = *manifest;
        Some(CheckpointTaken {
            number: number.get(),
            bytes: manifest.part_bytes(),
            rows: manifest.rows(),
            clock,
            ago_ms: now_s.saturating_sub(created_s).saturating_mul(1000),
            took_ms: None,
        })
    }

    fn begin(&mut self, shards: u16) -> Result<StoreNews, String> {
        let writer = self.store.begin(self.cluster.clone(), shards);
        let writer = writer.map_err(|error| error.to_string())?;
        let number = writer.number().get();
        self.writer = Some(writer);
        tracing::info!(number, shards, "a checkpoint is begun");
        Ok(StoreNews::Begun { number })
    }

    fn publish(&mut self, parts: Parts, now_s: u64) -> Result<StoreNews, String> {
        let writer = self.writer.take().ok_or("no checkpoint is begun")?;
        let Parts { epoch, clock, parts } = parts;
        let tables = parts.first().map(|part| part.tables.clone()).unwrap_or_default();
        let note = |(name, rule)| TableNote { name, rule };
        let tables = tables.into_iter().map(note).collect();
        let entries = (0..).map(ShardId::new).zip(parts).map(|(shard, part)| {
            let root = Sum::from_text(&part.root);
            Ok(PartEntry {
                shard,
                root: root.ok_or_else(|| format!("{shard}: '{}' is no checksum", part.root))?,
                object: part.object,
                bytes: part.bytes,
                blocks: part.blocks,
                messages: part.messages,
                rows: part.rows,
                position: part.position,
                base: part.base.map(CheckpointNumber::new),
                seed: part.seed,
                values: part.values,
            })
        });
        let entries = entries.collect::<Result<Vec<_>, String>>()?;
        let facts = Facts { epoch, clock, created_s: now_s, tables };
        let manifest = writer.publish(entries, facts).map_err(|error| error.to_string())?;
        let (number, bytes, rows) = (manifest.number.get(), manifest.part_bytes(), manifest.rows());
        tracing::info!(number, bytes, rows, ?clock, "a checkpoint is published");
        Ok(StoreNews::Published { number, bytes, rows, clock })
    }

    /// Removes what is not kept; to be called once a checkpoint is published. What is left over is
    /// removed the next time.
    pub fn retain(&self) {
        match self.store.retain(self.keep) {
            Ok(removed) => tracing::debug!(?removed, "checkpoints are removed"),
            Err(error) => tracing::warn!(%error, "old checkpoints are not removed"),
        }
    }

    fn abandon(&mut self, why: &str) {
        tracing::error!(why, "a checkpoint failed; the job goes on");
        if let Some(Err(error)) = self.writer.take().map(Writer::abandon) {
            tracing::warn!(%error, "what was written of it is removed later");
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
