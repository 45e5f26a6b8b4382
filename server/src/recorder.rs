//! Recorders: threads that write what a shard records as parts of checkpoints.
//!
//! Owns one part from the order to stable storage, and what the coordinator hears of it. What is on
//! the tapes is left to `shard`, the format and the store to `checkpoint`.
//!
//! Invariant: a part ends in one report that says so, by its deadline at the latest, whatever the
//! shard, the store or the coordinator does.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::{
    BLOCK_HEAD_BYTES, Block, CheckpointNumber, ClusterId, Options, PartEnd, PartEntry, PartPlan,
    PartWriter, Store, StoreError, WriteError,
};
use shard::chain::{PageWriter, Purpose, Reached, TAPE_HEAD_BYTES, Tape};
use wire::{Clock, RecordOrder, RecordedPart, ShardId, StoreReport, StoreState};

use crate::core_thread::{Command, CoreHandle};
use crate::recordings::Tap;
use crate::report::Report;

/// Recordings of a server at once; each has two threads and some 16 MiB of buffers.
pub(crate) const RECORDINGS_MAX: usize = 256;

/// Tapes between a core and a recorder, of some 1 MiB.
const TAPES_MAX: usize = 8;

/// A tape with so many bytes of messages is a block of its own; what is shorter is copied into one
/// with others, since a disk is slow with short ones.
const BLOCK_BYTES_MIN: usize = 256 << 10;

// A tape's memory becomes a block's.
const _: () = assert!(TAPE_HEAD_BYTES == BLOCK_HEAD_BYTES);

/// How soon a recorder notices a cut, its deadline, or that it is of no use.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often the coordinator hears how far a recording is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Which moment of its shard a recording has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Where the slowest clock becomes this one; none: where it is then.
    At(Option<Clock>),
    /// It is of no use.
    Never,
}

/// A recording that somebody writes.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) number: u64,
    pub(crate) attempt: u32,
    pub(crate) cut: Arc<Mutex<Option<Cut>>>,
    thread: std::thread::JoinHandle<()>,
}

/// What a recorder's thread works with.
pub(crate) struct Job {
    pub(crate) order: RecordOrder,
    pub(crate) options: Options,
    pub(crate) cores: Arc<[CoreHandle]>,
    pub(crate) report: SyncSender<Report>,
}

/// Why there is no part.
#[derive(Debug)]
enum Lost {
    Store(StoreError),
    Write(WriteError),
    /// The core's words.
    Core(String),
    Deadline(Duration),
    /// Nobody wants it any more.
    Unwanted,
}

impl Recorder {
    /// Starts a thread that records a shard.
    ///
    /// - Errors: there is no thread left.
    pub(crate) fn start(job: Job) -> std::io::Result<Recorder> {
        let (number, attempt) = (job.order.number, job.order.attempt);
        let cut = Arc::new(Mutex::new(None));
        let asked = Arc::clone(&cut);
        let name = format!("recorder-{}", job.order.shard.get());
        let thread = std::thread::Builder::new().name(name).spawn(move || job.run(&asked))?;
        Ok(Recorder { number, attempt, cut, thread })
    }

    /// Says where it ends.
    pub(crate) fn cut(&self, cut: Cut) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Job {
    fn run(&self, cut: &Mutex<Option<Cut>>) {
        checkpoint::yield_to_others();
        let RecordOrder { number, shard, .. } = self.order;
        let state = match self.record(cut) {
            Ok(part) => StoreState::Recorded(part),
            Err(lost) => {
                tracing::warn!(number, %shard, %lost, "a part of a checkpoint is not written");
                StoreState::NotRecorded { reason: lost.to_string() }
            }
        };
        // Without room, the recording ends when its tap is gone.
        let _ = self.core().tell(Command::EndRecording(shard, number));
        self.tell(state);
    }

    fn core(&self) -> &CoreHandle {
        &self.cores[self.order.shard.index() % self.cores.len()]
    }

    fn tell(&self, state: StoreState) {
        let RecordOrder { number, shard, attempt, .. } = self.order;
        // Whoever takes reports is gone only with the server.
        let _ = self.report.send(Report::Stored(StoreReport { shard, number, attempt, state }));
    }

    /// Records from the beginning to the cut.
    fn record(&self, cut: &Mutex<Option<Cut>>) -> Result<RecordedPart, Lost> {
        let order = &self.order;
        let limit = Duration::from_millis(order.limit_ms);
        let until = Instant::now() + limit;
        let store = Store::open(&order.place, &self.options).map_err(Lost::Store)?;
        let mut part = store.write_part(part_plan(order)).map_err(Lost::Write)?;
        let (tapes, inbox) = sync_channel(TAPES_MAX);
        let (spares, spare) = sync_channel(TAPES_MAX);
        let end = Arc::new(OnceLock::new());
        let a_core = |mib: u32| (u64::from(mib) << 20) / self.cores.len() as u64;
        let bytes_per_s = order.rate_mib_s.map(a_core);
        let RecordOrder { number, base, is_base, .. } = *order;
        let purpose = Purpose { number, base, is_base };
        let tap = Tap { purpose, tapes, spare, end: Arc::clone(&end), bytes_per_s };
        // Without room, the tap is dropped, and the recording ends.
        let _ = self.core().tell(Command::Record(order.shard, tap));
        let mut way = Way { inbox, spares, end, pages: PageWriter::new(order.values) };
        let (mut progress, mut told) = (Progress::new(), None);
        while !progress.reached.is_whole {
            let asked = *cut.lock().unwrap_or_else(PoisonError::into_inner);
            match asked {
                Some(Cut::Never) => return Err(Lost::Unwanted),
                Some(Cut::At(clock)) if told != asked => {
                    let tells = Command::CutRecording(order.shard, number, clock);
                    told = self.core().tell(tells).ok().and(asked);
                }
                Some(Cut::At(_)) | None => {}
            }
            if Instant::now() >= until {
                return Err(Lost::Deadline(limit));
            }
            if way.take(&mut part, &mut progress)? {
                self.core().wake(); // It may have waited for room.
            }
            if let Some(state) = progress.news() {
                self.tell(state);
            }
        }
        let Progress { reached, tables, .. } = progress;
        let Reached { rows, position, .. } = reached;
        drop(way); // The core records no longer.
        let entry = part.finish(PartEnd { rows, position }).map_err(Lost::Write)?;
        Ok(recorded_part(entry, tables, reached))
    }
}

/// The way from the core.
struct Way {
    inbox: Receiver<Tape>,
    spares: SyncSender<Vec<u64>>,
    end: Arc<OnceLock<String>>,
    /// How rows are written: here and not by the core, which has others to serve.
    pages: PageWriter,
}

impl Way {
    /// Writes the next tape, if one comes soon. Whether one came.
    fn take(&mut self, part: &mut PartWriter, progress: &mut Progress) -> Result<bool, Lost> {
        let mut tape = match self.inbox.recv_timeout(LOOK_EVERY) {
            Ok(tape) => tape,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                let none = || "the shard's core ended it".to_owned();
                return Err(Lost::Core(self.end.get().cloned().unwrap_or_else(none)));
            }
        };
        if progress.bytes == 0 {
            tape.messages().next().into_iter().for_each(|first| progress.note(first));
        }
        tape.write_page(&mut self.pages);
        let (bytes, count) = (tape.bytes(), tape.count());
        progress.bytes += bytes as u64;
        (progress.reached, progress.is_asked) = (tape.reached, count == 0);
        let spare = if bytes < BLOCK_BYTES_MIN {
            tape.messages().try_for_each(|it| part.append(it)).map_err(Lost::Write)?;
            tape.into_words()
        } else {
            let mut block = Block::of(tape.into_words(), bytes, count);
            part.append_block(&mut block).map_err(Lost::Write)?;
            block.into_words()
        };
        let _ = self.spares.try_send(spare);
        Ok(true)
    }
}

/// How far a recording is.
struct Progress {
    reached: Reached,
    bytes: u64,
    /// Names of tables and of their rules.
    tables: Vec<(String, String)>,
    /// Whether the shard's core has said what the shard has come to, and the coordinator not heard.
    is_asked: bool,
    /// The clock that it was told last.
    told: Option<Clock>,
    told_at: Instant,
}

impl Progress {
    fn new() -> Progress {
        let (reached, tables) = (Reached::default(), Vec::new());
        let (bytes, is_asked, told, told_at) = (0, false, None, Instant::now());
        Progress { reached, bytes, tables, is_asked, told, told_at }
    }

    fn note(&mut self, message: &[u8]) {
        if let Some(tables) = shard::chain::tables_of_state(message) {
            self.tables = tables;
        }
    }

    /// What the coordinator should hear now.
    fn news(&mut self) -> Option<StoreState> {
        if std::mem::take(&mut self.is_asked) {
            self.told = Some(self.reached.clock);
        } else if self.bytes == 0 || self.told_at.elapsed() < TELL_EVERY {
            return None;
        }
        self.told_at = Instant::now();
        self.told.map(|clock| StoreState::Marked { clock, bytes: self.bytes })
    }
}

/// The part that an order wants written.
pub fn part_plan(order: &RecordOrder) -> PartPlan {
    PartPlan {
        number: CheckpointNumber::new(order.number),
        cluster: ClusterId::new(order.cluster_id),
        shard: order.shard,
        attempt: order.attempt,
        values: order.values,
    }
}

/// What the coordinator hears of a part that is written.
///
/// - `tables`: names of tables and of their rules.
/// - `reached`: of the last tape in it.
pub fn recorded_part(
    entry: PartEntry,
    tables: Vec<(String, String)>,
    reached: Reached,
) -> RecordedPart {
    RecordedPart {
        object: entry.object,
        bytes: entry.bytes,
        blocks: entry.blocks,
        messages: entry.messages,
        root: entry.root.to_string(),
        rows: entry.rows,
        position: entry.position,
        tables,
        base: reached.base,
        seed: Some(reached.seed),
        values: entry.values,
    }
}

/// The recordings of a server, by shard.
pub(crate) type Recorders = std::collections::BTreeMap<ShardId, Recorder>;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Store(error) => error.fmt(f),
            Lost::Write(error) => error.fmt(f),
            Lost::Core(why) => f.write_str(why),
            Lost::Deadline(limit) => write!(f, "not done after {} s", limit.as_secs()),
            Lost::Unwanted => f.write_str("the checkpoint was given up"),
        }
    }
}
