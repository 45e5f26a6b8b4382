//! A source: one thread that reads, several that parse, and batches in order.
//!
//! Owns the threads, the queues between them, and the counts of a pass. Reading is left to `feed`,
//! parsing to `parse`.
//!
//! The reader makes a receipt for each block before it hands the block to the parsers, and `next`
//! takes the receipts in their order. So order costs no search, and how far the parsers can be
//! ahead of `next` is the length of the receipts' queue.
//!
//! Invariant: after an end or an error, every call of `next` gives that end or error again. No wait
//! outlives the thread that it waits for: a thread that dies drops what it owes, and that is seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::getpid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::claim::{Claim, ClaimSplit, Deal, Delivered};
use super::csr::{Csr, Place};
use super::error::DataError;
use super::feed::{Feed, Opened, open, open_splits};
use super::input::InputFile;
use super::parse::{Block, Parsed, Parser};
use super::spec::{ColumnSpec, Draw, Labels, Part, SourceSpec};
use super::splits::{SPLIT_BATCH_BITS, Splits, split_batch, split_of};

/// Blocks that wait for a parser, per parser.
const BLOCKS_WAITING_PER_PARSER: usize = 1;
/// Batches that wait for `next`, per parser.
const BATCHES_READY_PER_PARSER: usize = 2;
/// Buffers of batches and of blocks that wait to be used again, each, per parser.
const SPARES_PER_PARSER: usize = 4;

/// A pass over data that is under way. Dropping it stops its threads; one that is inside a read
/// from a pipe stops when that read returns.
#[derive(Debug)]
pub struct Source {
    delivery: Mutex<Delivery>,
    spares: Sender<Csr>,
    counts: Arc<Counts>,
    columns: Option<ColumnSpec>,
    bytes_total: u64,
    rows_total: Option<u64>,
    /// How many splits there are, if splits are read.
    splits: Option<u64>,
    threads: Vec<JoinHandle<()>>,
}

/// How far a source has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read from disk, packed as they lie there. Runs ahead of `rows`.
    pub bytes_read: u64,
    /// Bytes of all files on disk; 0 for a generator.
    pub bytes_total: u64,
    /// Rows delivered, over all batches of this reader.
    pub rows: u64,
    /// Of these, how many have the label 1.
    pub rows_positive: u64,
    /// Bad rows that were left out.
    pub bad_rows: u64,
    /// Rows of the source up to the last batch delivered, over all parts and readers.
    pub source_rows: u64,
    /// Rows of the whole source, over all parts and readers, if that is known.
    pub rows_total: Option<u64>,
    /// The split of the last batch delivered, and how many there are, if splits are read.
    pub splits: Option<(u64, u64)>,
}

impl Progress {
    /// Part of the pass that lies behind, 0 to 1. For text it is by bytes, which run ahead of what
    /// was delivered by what waits in the queues. Readers of splits take them in their order, all
    /// together, so the split that one is at tells how far all are.
    pub fn fraction(&self) -> f64 {
        let (done, all) = match (self.splits, self.rows_total) {
            (Some(splits), _) => splits,
            (None, Some(rows_total)) => (self.source_rows, rows_total),
            (None, None) => (self.bytes_read, self.bytes_total),
        };
        if all == 0 { 0.0 } else { (done as f64 / all as f64).min(1.0) }
    }
}

#[derive(Debug)]
struct Delivery {
    /// None once the source is being dropped.
    receipts: Option<Receiver<Receipt>>,
    end: Option<Result<(), DataError>>,
    bad_rows_allowed: u64,
    whole_train_pass: bool,
    /// Whether a row of the split under way was delivered.
    has_rows: bool,
}

/// What comes next from the reader.
enum Taken {
    Batch(Parsed),
    SplitEnd(u64),
    End,
}

/// What the reader promises to `next`.
#[derive(Debug)]
enum Receipt {
    /// What a parser makes of one block.
    Batch(Receiver<Parsed>),
    /// All batches of this split were delivered.
    SplitEnd(u64),
    End,
    Failed(DataError),
}

/// A block, and where what it gives is owed.
type Job = (Block, Sender<Parsed>);

#[derive(Debug, Default)]
struct Counts {
    bytes_read: Arc<AtomicU64>,
    rows: AtomicU64,
    rows_positive: AtomicU64,
    bad_rows: AtomicU64,
    source_rows: AtomicU64,
    /// The split of the last batch delivered.
    split: AtomicU64,
    splits: Delivered,
    stop: AtomicBool,
}

impl Source {
    /// Opens the inputs of `spec` and starts reading them. Files that are missing, empty, of an
    /// unknown format or without the named columns are found here; all else is found by `next`.
    pub fn open(spec: &SourceSpec) -> Result<Source, DataError> {
        let counts = Arc::new(Counts::default());
        let opened = open(spec, &counts.bytes_read)?;
        Source::run(spec, opened, Deal::All, counts)
    }

    /// The same, for one of several readers that share the batches: this one delivers the batches
    /// that it claims. Each reads the inputs whole and parses its own batches only.
    pub fn open_shared(spec: &SourceSpec, claim: Claim) -> Result<Source, DataError> {
        let counts = Arc::new(Counts::default());
        let opened = open(spec, &counts.bytes_read)?;
        Source::run(spec, opened, Deal::claimed(claim), counts)
    }

    /// The same, for one of several readers that share the splits of a source: this one reads the
    /// splits that it claims, and nothing else. A batch's number counts batches within its split;
    /// above [`SPLIT_BATCH_BITS`] bits stands the split's.
    ///
    /// - `after`: batches up to this one are passed over.
    pub fn open_splits(
        spec: &SourceSpec,
        splits: Arc<Splits>,
        claim: ClaimSplit,
        after: Option<u64>,
    ) -> Result<Source, DataError> {
        let counts = Arc::new(Counts::default());
        // Nobody knows a row's number who has not read what comes before.
        let spec = SourceSpec { draw: Draw::Place, ..spec.clone() };
        let opened = open_splits(&spec, &splits, &counts.bytes_read)?;
        Source::run(&spec, opened, Deal::Splits { splits, claim, after }, counts)
    }

    fn run(
        spec: &SourceSpec,
        opened: Opened,
        deal: Deal,
        counts: Arc<Counts>,
    ) -> Result<Source, DataError> {
        let Opened { feed, rows, columns, bytes_total, rows_total } = opened;
        let parsers = spec.parsers;
        let (spares, spares_taken) = bounded(parsers * SPARES_PER_PARSER);
        let (freed, free) = bounded(parsers * SPARES_PER_PARSER);
        let (blocks, blocks_taken) = bounded(parsers * BLOCKS_WAITING_PER_PARSER);
        let (receipts, receipts_taken) = bounded(parsers * BATCHES_READY_PER_PARSER);
        let mut source = Source {
            delivery: Mutex::new(Delivery {
                receipts: Some(receipts_taken),
                end: None,
                bad_rows_allowed: spec.bad_rows.allowed(),
                whole_train_pass: spec.part == Part::Train
                    && spec.labels == Labels::Required
                    && matches!(deal, Deal::All),
                has_rows: false,
            }),
            spares,
            counts: counts.clone(),
            columns,
            bytes_total,
            rows_total,
            splits: match &deal {
                Deal::Splits { splits, .. } => Some(splits.count()),
                Deal::All | Deal::Claimed { .. } => None,
            },
            threads: Vec::new(),
        };
        for _ in 0..parsers {
            let thread = ParserThread {
                parser: Parser::new(spec, rows.clone())?,
                blocks: blocks_taken.clone(),
                freed: freed.clone(),
                spares: spares_taken.clone(),
            };
            source.start("parser", move || thread.run())?;
        }
        let reader = ReaderThread { feed, deal, counts, free, blocks, receipts };
        source.start("reader", move || reader.run())?;
        Ok(source)
    }

    /// The next batch, or none at the end of the pass. Several threads may call at once: each gets
    /// the next batch in order. Batches without rows are passed over; a split that has no others
    /// gives one batch without rows, so that whoever waits sees that nothing comes for a while.
    ///
    /// Waits as long as the reader needs; it ends when the reader does, by whatever cause.
    pub fn next(&self) -> Result<Option<Csr>, DataError> {
        let mut delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(end) = &delivery.end {
                return end.clone().map(|()| None);
            }
            match delivery.take().and_then(|taken| self.count(taken, &mut delivery)) {
                Ok(Some(csr)) => return Ok(Some(csr)),
                Ok(None) => {}
                Err(error) => delivery.end = Some(Err(error)),
            }
        }
    }

    /// Gives the buffers of a batch back, so that the next ones need no memory.
    pub fn recycle(&self, csr: Csr) {
        // With the queue full there are spares enough: this one is freed.
        let _ = self.spares.try_send(csr);
    }

    /// How far the pass has come. Waits for nothing.
    pub fn progress(&self) -> Progress {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Progress {
            bytes_read: count(&self.counts.bytes_read),
            bytes_total: self.bytes_total,
            rows: count(&self.counts.rows),
            rows_positive: count(&self.counts.rows_positive),
            bad_rows: count(&self.counts.bad_rows),
            source_rows: count(&self.counts.source_rows),
            rows_total: self.rows_total,
            splits: self.splits.map(|all| (count(&self.counts.split), all)),
        }
    }

    /// What was decided for each column, if the inputs have columns. A source that is opened with
    /// these reads other files alike.
    pub fn columns(&self) -> Option<&ColumnSpec> {
        self.columns.as_ref()
    }

    fn start(
        &mut self,
        thread: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), DataError> {
        let builder = std::thread::Builder::new().name(format!("data-{thread}"));
        let handle = builder.spawn(move || {
            roam();
            run();
        });
        let handle = handle.map_err(|error| {
            let message = format!("cannot start the {thread} thread: {error}");
            DataError::Setting { name: "parsers", message }
        })?;
        self.threads.push(handle);
        Ok(())
    }

    /// Counts what was taken: what of it is to be delivered.
    fn count(&self, taken: Taken, delivery: &mut Delivery) -> Result<Option<Csr>, DataError> {
        match taken {
            Taken::Batch(parsed) => {
                let csr = self.count_batch(parsed, delivery.bad_rows_allowed)?;
                if csr.rows() == 0 {
                    self.recycle(csr);
                    return Ok(None);
                }
                delivery.has_rows = true;
                Ok(Some(csr))
            }
            Taken::SplitEnd(split) => {
                self.counts.splits.note(split);
                let had_rows = std::mem::take(&mut delivery.has_rows);
                let batch = split_batch(split + 1) - 1;
                Ok((!had_rows).then(|| Csr { batch, row_starts: vec![0], ..Csr::default() }))
            }
            Taken::End => {
                delivery.end = Some(self.check_pass(delivery));
                Ok(None)
            }
        }
    }

    /// Counts a batch, and decides whether its bad rows are too many.
    fn count_batch(&self, parsed: Parsed, allowed: u64) -> Result<Csr, DataError> {
        let Parsed { csr, mut bad } = parsed;
        let positive = csr.labels.iter().filter(|&&label| label == 1.0).count();
        self.counts.rows_positive.fetch_add(positive as u64, Ordering::Relaxed);
        self.counts.rows.fetch_add(csr.rows() as u64, Ordering::Relaxed);
        let source_rows = csr.first_row + u64::from(csr.source_rows);
        self.counts.source_rows.store(source_rows, Ordering::Relaxed);
        self.counts.split.store(split_of(csr.batch), Ordering::Relaxed);
        if bad.is_empty() {
            return Ok(csr);
        }
        let before = self.counts.bad_rows.fetch_add(bad.len() as u64, Ordering::Relaxed);
        if before + bad.len() as u64 > allowed {
            let row = bad.swap_remove((allowed - before) as usize);
            let strict = allowed == 0;
            return Err(if strict {
                DataError::Row(row)
            } else {
                DataError::TooManyBadRows { allowed, row }
            });
        }
        if before == 0 {
            tracing::warn!(allowed, "left out a bad row, the first: {}", bad[0]);
        }
        Ok(csr)
    }

    /// Whether there was anything to learn from in a whole pass for training.
    fn check_pass(&self, delivery: &Delivery) -> Result<(), DataError> {
        let Progress { rows, rows_positive, .. } = self.progress();
        if !delivery.whole_train_pass {
            return Ok(());
        }
        match rows_positive {
            _ if rows == 0 => Err(DataError::NoRows),
            0 => Err(DataError::OneClass { label: 0, rows }),
            positive if positive == rows => Err(DataError::OneClass { label: 1, rows }),
            _ => Ok(()),
        }
    }
}

/// Lets the calling thread run wherever this process may: it was started by whoever opened the
/// source, which may be kept on one processor. A kernel that says no leaves it there.
fn roam() {
    if let Ok(allowed) = sched_getaffinity(Some(getpid())) {
        let _ = sched_setaffinity(None, &allowed);
    }
}

impl Delivery {
    /// What comes next.
    fn take(&self) -> Result<Taken, DataError> {
        let receipts = self.receipts.as_ref().expect("only dropping the source takes it away");
        match receipts.recv() {
            Ok(Receipt::Batch(parsed)) => {
                let died = |_| DataError::ThreadDied { thread: "parser" };
                parsed.recv().map(Taken::Batch).map_err(died)
            }
            Ok(Receipt::SplitEnd(split)) => Ok(Taken::SplitEnd(split)),
            Ok(Receipt::End) => Ok(Taken::End),
            Ok(Receipt::Failed(error)) => Err(error),
            Err(_) => Err(DataError::ThreadDied { thread: "reader" }),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        // The reader sees that nobody takes its receipts and ends, and then the parsers run dry.
        self.delivery.get_mut().unwrap_or_else(PoisonError::into_inner).receipts = None;
        for thread in self.threads.drain(..) {
            // That it died was seen by `next`, if anybody asked.
            let _ = thread.join();
        }
    }
}

/// Why a reader ends before its data does.
enum Dropped {
    /// Nobody takes what it reads: the source is being dropped.
    Yes,
    /// It cannot go on.
    No(DataError),
}

impl From<DataError> for Dropped {
    fn from(error: DataError) -> Dropped {
        Dropped::No(error)
    }
}

/// The thread that reads, unpacks and cuts.
struct ReaderThread {
    feed: Feed,
    deal: Deal,
    counts: Arc<Counts>,
    free: Receiver<Block>,
    blocks: Sender<Job>,
    receipts: Sender<Receipt>,
}

impl ReaderThread {
    /// Reads to the end, or until the source is dropped.
    fn run(mut self) {
        let read = match &self.deal {
            Deal::All | Deal::Claimed { .. } => self.read(0, 0),
            Deal::Splits { splits, .. } => {
                let splits = Arc::clone(splits);
                self.read_splits(&splits)
            }
        };
        match read {
            Ok(()) => self.finish(Receipt::End),
            Err(Dropped::No(error)) => self.finish(Receipt::Failed(error)),
            Err(Dropped::Yes) => {}
        }
    }

    /// Reads split after split until there is none left to claim.
    fn read_splits(&mut self, splits: &Splits) -> Result<(), Dropped> {
        let files: Vec<InputFile> = splits.files(&self.counts.bytes_read);
        while let Deal::Splits { claim, .. } = &mut self.deal {
            let Some(number) = claim(&self.counts.splits)? else { break };
            let Some(split) = splits.get(number) else {
                let reason = format!("of {} splits, number {number}", splits.count());
                return Err(DataError::NoClaim { reason }.into());
            };
            self.feed.enter(split, &files);
            self.read(split_batch(number), split.first_row)?;
            let told = self.receipts.send(Receipt::SplitEnd(number));
            told.map_err(|_| Dropped::Yes)?;
        }
        Ok(())
    }

    /// Reads to the end of what the feed has.
    ///
    /// - `batch`, `first_row`: numbers of the first batch and row.
    fn read(&mut self, mut batch: u64, mut first_row: u64) -> Result<(), Dropped> {
        let batches_end = match &self.deal {
            Deal::All | Deal::Claimed { .. } => u64::MAX,
            Deal::Splits { .. } => split_batch(split_of(batch) + 1),
        };
        while !self.counts.stop.load(Ordering::Relaxed) {
            let mut block = self.free.try_recv().unwrap_or_default();
            let rows = self.feed.read(&mut block.content)?;
            if rows == 0 {
                return Ok(());
            }
            if batch == batches_end {
                let most = 1_u64 << SPLIT_BATCH_BITS;
                let message = format!("a split has more than {most} batches; make them larger");
                return Err(DataError::Setting { name: "batch_rows", message }.into());
            }
            block.place = Place { batch, first_row, source_rows: rows as u32 };
            if self.deal.has(batch)? {
                let (owed, parsed) = bounded(1);
                let taken = self.receipts.send(Receipt::Batch(parsed)).is_ok();
                if !taken || self.blocks.send((block, owed)).is_err() {
                    return Err(Dropped::Yes);
                }
            }
            (batch, first_row) = (batch + 1, first_row + rows);
        }
        Err(Dropped::Yes)
    }

    fn finish(&self, last: Receipt) {
        // Nobody to take it: the source is being dropped.
        let _ = self.receipts.send(last);
    }
}

/// A thread that parses.
struct ParserThread {
    parser: Parser,
    blocks: Receiver<Job>,
    freed: Sender<Block>,
    spares: Receiver<Csr>,
}

impl ParserThread {
    /// Parses until the reader has ended.
    fn run(mut self) {
        while let Ok((block, owed)) = self.blocks.recv() {
            let spare = self.spares.try_recv().unwrap_or_default();
            // The queue has room for the one that is owed. Nobody to take it: being dropped.
            let _ = owed.send(self.parser.parse(&block, spare));
            let _ = self.freed.try_send(block); // Full: there are spares enough.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::feed::Feed;
    use super::super::parse::Rows;
    use super::*;

    #[test]
    fn a_parser_that_dies_ends_the_source_with_an_error_and_without_waiting() {
        let spec = SourceSpec { parsers: 2, batch_rows: 10, ..SourceSpec::default() };
        // Rows that no parser for tables can make.
        let opened = Opened {
            feed: Feed::Generated { rows_left: u64::MAX, rows_per_block: 10 },
            rows: Rows::Table,
            columns: None,
            bytes_total: 0,
            rows_total: None,
        };
        let source = Source::run(&spec, opened, Deal::All, Arc::default()).unwrap();
        for _ in 0..3 {
            assert_eq!(source.next(), Err(DataError::ThreadDied { thread: "parser" }));
        }
    }
}
