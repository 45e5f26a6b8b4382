//! The journal: what a worker is about to push, kept where its death does not reach.
//!
//! Owns a few files of one worker, each with one step: the deltas as they were worked out, which
//! batch they are of, and what was counted until then. A later life pushes them again as they are;
//! worked out anew they would differ, since some shards may have applied their part of the step
//! already. Which shards lack what is left to [`Session::join`].
//!
//! Invariant: a step is in the journal before any of it is pushed, and stays there until every
//! shard has finished it. A step that was cut off while it was written was never pushed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kernels::Isa;
use kernels::crc32c::crc32c;
use worker::{JobId, Session, TableId, Then, WorkerError, WorkerId};

use crate::learner::{Opened, width};
use crate::mark::{Mark, Position, Progress};
use crate::metrics::{METRICS_WORDS, Metrics};

/// Steps that a journal holds: so many may be unfinished on some shard.
pub const JOURNAL_STEPS: u64 = 8;

/// What names in a directory of journals begin with.
pub const JOURNAL_START: &str = "worker-";

/// Begins each record: `GRDWJRNL`.
const MAGIC: u64 = u64::from_le_bytes(*b"GRDWJRNL");

/// Words of a record before its parts: magic, job, step, epoch, batch, sums, parts, words in all.
const HEAD_WORDS: usize = 7 + METRICS_WORDS;

/// The longest record, in bytes: far beyond any batch.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// The steps of one worker, in files of its own.
#[derive(Debug)]
pub struct Journal {
    job: JobId,
    isa: Isa,
    slots: Vec<(PathBuf, File)>,
    /// What lives before have left, by step.
    past: Vec<Entry>,
    /// Whether lives before have kept their steps elsewhere, where nobody finds them.
    stands_in: bool,
    mark: Mark,
    words: Vec<u64>,
}

/// Why a journal does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalError {
    /// A file cannot be opened, read or written.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Shards lack a step that is not here: it is lost, and with it the job.
    Missing {
        /// The first step that some shard lacks.
        step: u64,
        /// The newest step that is here.
        newest: Option<u64>,
    },
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    step: u64,
    position: Position,
    metrics: Metrics,
    parts: Vec<Part>,
}

/// The deltas of one table.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    table: u16,
    width: u16,
    keys: Vec<u64>,
    deltas: Vec<f32>,
}

impl Journal {
    /// Opens a worker's journal in `dir`, with what its lives before have left there.
    pub fn open(dir: &Path, job: JobId, worker: WorkerId) -> Result<Journal, JournalError> {
        let mut journal = Journal {
            job,
            isa: Isa::detect(),
            slots: Vec::new(),
            past: Vec::new(),
            stands_in: false,
            mark: Mark::default(),
            words: Vec::new(),
        };
        for slot in 0..JOURNAL_STEPS {
            let path = slot_path(dir, worker, slot);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(|error| failed(&path, &error))?;
            let entry = journal.read(&path, &file)?;
            journal.past.extend(entry);
            journal.slots.push((path, file));
        }
        journal.past.sort_by_key(|entry| entry.step);
        journal.past.iter().for_each(|entry| journal.mark.keep(entry.progress()));
        Ok(journal)
    }

    /// Opens a worker's journal in `dir`, as one whose lives before may have kept their steps on a
    /// host that is gone.
    ///
    /// - `known`: how far it was known to be, all of it on every shard. What shards have beyond it
    ///   is passed over; what was not on all of them is worked out anew.
    pub fn stand_in(
        dir: &Path,
        job: JobId,
        worker: WorkerId,
        known: Progress,
    ) -> Result<Journal, JournalError> {
        let mut journal = Journal::open(dir, job, worker)?;
        if journal.past.is_empty() {
            journal.stands_in = true;
            journal.mark.begin(known);
        }
        Ok(journal)
    }

    /// Opens a worker's journal in `dir`, with what the life before has left in another directory;
    /// that one may go on writing there. Its shards must have fenced it: what it writes from then
    /// on, it cannot push.
    pub fn take_over(
        before: &Path,
        dir: &Path,
        job: JobId,
        worker: WorkerId,
    ) -> Result<Journal, JournalError> {
        std::fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
        for slot in 0..JOURNAL_STEPS {
            let from = slot_path(before, worker, slot);
            match std::fs::copy(&from, slot_path(dir, worker, slot)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&from, &error)),
            }
        }
        Journal::open(dir, job, worker)
    }

    /// How far its worker is, now and later.
    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// Pushes again, as they were, the steps that some shard lacks. What was counted until then.
    ///
    /// - `session`: has joined, and its clock is the first step that some shard lacks.
    pub(crate) fn replay(&mut self, session: &mut Session) -> Result<Metrics, ReplayError> {
        let past = std::mem::take(&mut self.past);
        let (known, finished) = (self.mark.kept(), session.clock().get());
        let kept = known.steps;
        match kept {
            0 if finished == 0 => self.mark.begin(known),
            _ => self.mark.settle(finished),
        }
        let mut metrics = Metrics::default();
        for entry in past {
            metrics = entry.metrics;
            if entry.step != session.clock().get() {
                continue;
            }
            if entry.parts.is_empty() {
                session.tick()?;
            }
            let last = entry.parts.len().saturating_sub(1);
            for (number, part) in entry.parts.into_iter().enumerate() {
                let split = session.split(&part.keys)?;
                let then = if number == last { Then::Tick } else { Then::More };
                let (table, deltas) = (TableId::new(part.table), Rc::new(part.deltas));
                session.push(table, &split, deltas, part.width, then)?;
            }
        }
        let step = session.clock().get();
        let is_whole = if self.stands_in { kept <= step } else { kept == step };
        if !is_whole {
            return Err(JournalError::Missing { step, newest: kept.checked_sub(1) }.into());
        }
        session.flush();
        Ok(metrics)
    }

    /// How many steps its worker has made, as far as is known here.
    pub(crate) fn steps(&self) -> u64 {
        self.mark.kept().steps
    }

    /// Every shard has the step after those that are known here, and this is its batch.
    pub(crate) fn pass_over(&mut self, position: Position) {
        let steps = self.steps() + 1;
        self.mark.begin(Progress { steps, position: Some(position) });
    }

    /// Every shard has so many steps.
    pub(crate) fn settle(&mut self, steps: u64) {
        self.mark.settle(steps);
    }

    /// Writes a step, over one that every shard has finished.
    pub(crate) fn write(
        &mut self,
        step: u64,
        position: Position,
        metrics: &Metrics,
        opened: &[Opened],
    ) -> Result<(), JournalError> {
        let words = &mut self.words;
        words.clear();
        let (epoch, parts) = (u64::from(position.epoch), opened.len() as u64);
        words.extend([MAGIC, self.job.get(), step, epoch, position.batch]);
        words.extend(metrics.to_words());
        words.extend([parts, 0]);
        for one in opened {
            let width = u64::from(width(one.table.widths().delta));
            let keys = one.split.keys_count();
            words.extend([u64::from(one.table.id().get()) << 32 | width, keys as u64]);
            let start = words.len();
            words.resize(start + keys, 0);
            one.split.copy_keys(&mut words[start..]);
            let (pairs, last) = one.deltas.as_chunks::<2>();
            words.extend(pairs.iter().map(|&[low, high]| pair(low, high)));
            words.extend(last.iter().map(|&low| pair(low, 0.0)));
        }
        words[HEAD_WORDS - 1] = words.len() as u64 + 1;
        let sum = crc32c(self.isa, 0, bytes_of(words));
        words.push(u64::from(sum));
        let (path, file) = &self.slots[(step % JOURNAL_STEPS) as usize];
        file.write_all_at(bytes_of(words), 0).map_err(|error| failed(path, &error))?;
        self.mark.keep(Progress { steps: step + 1, position: Some(position) });
        Ok(())
    }

    /// The step in a file, if there is a whole one of this job.
    fn read(&self, path: &Path, file: &File) -> Result<Option<Entry>, JournalError> {
        let failed = |error: io::Error| failed(path, &error);
        let bytes = file.metadata().map_err(failed)?.len().min(RECORD_BYTES_MAX);
        let mut content = vec![0; bytes as usize];
        file.read_exact_at(&mut content, 0).map_err(failed)?;
        let (words, _) = content.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let count = words.get(HEAD_WORDS - 1).map_or(0, |&count| count as usize);
        // A shorter record than the one before leaves the end of that one behind it.
        let Some((&sum, words)) = words.get(..count).and_then(<[u64]>::split_last) else {
            return Ok(None);
        };
        let is_whole = sum == u64::from(crc32c(self.isa, 0, bytes_of(words)));
        Ok(is_whole.then(|| entry(words, self.job)).flatten())
    }
}

impl Entry {
    /// How far the worker was with it.
    fn progress(&self) -> Progress {
        Progress { steps: self.step + 1, position: Some(self.position) }
    }
}

fn slot_path(dir: &Path, worker: WorkerId, slot: u64) -> PathBuf {
    dir.join(format!("{JOURNAL_START}{}-{slot}", worker.get()))
}

/// A step from the words of a record.
fn entry(words: &[u64], job: JobId) -> Option<Entry> {
    let (head, mut rest) = words.split_at_checked(HEAD_WORDS)?;
    if (head[0], head[1]) != (MAGIC, job.get()) {
        return None;
    }
    let position = Position { epoch: head[3] as u32, batch: head[4] };
    let metrics = Metrics::from_words(head[5..].first_chunk()?);
    let mut parts = Vec::new();
    for _ in 0..head[5 + METRICS_WORDS] {
        let (&[names, keys], after) = rest.split_first_chunk()?;
        let (table, width) = ((names >> 32) as u16, names as u16);
        let (keys, after) = after.split_at_checked(usize::try_from(keys).ok()?)?;
        let count = keys.len().checked_mul(usize::from(width))?;
        let (pairs, after) = after.split_at_checked(count.div_ceil(2))?;
        let halves = pairs.iter().flat_map(|&pair| [pair as u32, (pair >> 32) as u32]);
        let deltas = halves.map(f32::from_bits).take(count).collect();
        parts.push(Part { table, width, keys: keys.to_vec(), deltas });
        rest = after;
    }
    rest.is_empty().then_some(Entry { step: head[2], position, metrics, parts })
}

fn pair(low: f32, high: f32) -> u64 {
    u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
}

/// Words as they lie in memory: hosts of the other order do not build.
fn bytes_of(words: &[u64]) -> &[u8] {
    zerocopy::IntoBytes::as_bytes(words)
}

fn failed(path: &Path, error: &io::Error) -> JournalError {
    JournalError::File { path: path.to_owned(), why: error.to_string() }
}

/// Why steps could not be pushed again.
#[derive(Debug)]
pub(crate) enum ReplayError {
    Journal(JournalError),
    Worker(WorkerError),
}

impl From<JournalError> for ReplayError {
    fn from(error: JournalError) -> ReplayError {
        ReplayError::Journal(error)
    }
}

impl From<WorkerError> for ReplayError {
    fn from(error: WorkerError) -> ReplayError {
        ReplayError::Worker(error)
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::File { path, why } => write!(f, "{}: {why}", path.display()),
            JournalError::Missing { step, newest } => {
                write!(f, "shards lack step {step} of this worker, ")?;
                match newest {
                    Some(newest) => write!(f, "and its journal ends with step {newest}"),
                    None => write!(f, "and its journal is empty"),
                }
            }
        }
    }
}

impl std::error::Error for JournalError {}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId::new(5);
    const WORKER: WorkerId = WorkerId::new(3);

    fn write(journal: &mut Journal, step: u64, batch: u64) {
        let mut metrics = Metrics::default();
        metrics.add(0.5, 1.0, step as f32 + 1.0);
        let position = Position { epoch: 1, batch };
        journal.write(step, position, &metrics, &[]).expect("a file");
    }

    #[test]
    fn a_later_life_finds_the_last_steps_and_what_was_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(dir.path(), JOB, WORKER).expect("new");
        assert_eq!(journal.mark().kept().position, None);
        (0..20).for_each(|step| write(&mut journal, step, 3 * step));
        let later = Journal::open(dir.path(), JOB, WORKER).expect("there");
        let steps: Vec<u64> = later.past.iter().map(|entry| entry.step).collect();
        assert_eq!(steps, (12..20).collect::<Vec<_>>());
        assert_eq!(later.mark().kept().position, Some(Position { epoch: 1, batch: 57 }));
        let metrics = &later.past[7].metrics;
        assert_eq!((metrics.rows(), metrics.sums().weight), (1, 20.0));
        let other = Journal::open(dir.path(), JobId::new(6), WORKER).expect("there");
        assert!(other.past.is_empty(), "another job's");
    }

    #[test]
    fn who_takes_over_finds_the_steps_until_then_and_not_what_is_written_behind_its_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&first).expect("a new one");
        let mut journal = Journal::open(&first, JOB, WORKER).expect("new");
        (0..3).for_each(|step| write(&mut journal, step, step));
        let mut later = Journal::take_over(&first, &second, JOB, WORKER).expect("a copy");
        assert_eq!((later.steps(), journal.steps()), (3, 3));
        write(&mut journal, 3, 30);
        write(&mut later, 3, 40);
        let last = Journal::open(&second, JOB, WORKER).expect("there");
        assert_eq!(last.mark().kept().position, Some(Position { epoch: 1, batch: 40 }));
    }

    #[test]
    fn a_step_that_was_cut_off_while_it_was_written_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(dir.path(), JOB, WORKER).expect("new");
        (0..3).for_each(|step| write(&mut journal, step, step));
        let whole = std::fs::read(dir.path().join("worker-3-2")).expect("written");
        for bytes in 0..whole.len() {
            std::fs::write(dir.path().join("worker-3-2"), &whole[..bytes]).expect("written");
            let later = Journal::open(dir.path(), JOB, WORKER).expect("there");
            assert_eq!(later.past.len(), 2, "{bytes} of {} bytes", whole.len());
        }
    }
}
