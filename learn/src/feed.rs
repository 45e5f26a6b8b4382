//! Batches for workers: one pass over the data after the other.
//!
//! Owns the batches of the first epoch while they are few enough to be kept for the later ones, and
//! opening the source again for each epoch where they are not. Reading and parsing are left to
//! `data`.
//!
//! Invariant: a batch of a later epoch is given out only after all of the one before, and each
//! epoch gives the same batches in the same order.

use std::sync::{Arc, Mutex, PoisonError};

use crate::data::{
    Claim, ClaimSplit, ColumnSpec, Csr, DataError, Delivered, Source, SourceSpec, Splits,
};
use crate::mark::Position;

/// Where a worker takes its batches from.
pub trait Feed {
    /// The next batch; none at the end. One without rows says that nothing comes for a while.
    fn next(&self) -> Result<Option<Csr>, DataError>;

    /// Gives a batch's buffers back.
    fn recycle(&self, batch: Csr);
}

/// Says which batch of an epoch, from 0, is this reader's next: see [`Claim`].
pub type ClaimInEpoch = Arc<Mutex<dyn FnMut(u32) -> Result<u64, DataError> + Send>>;

/// Says which split of an epoch, from 0, is this reader's next, if there is one left. It is told
/// which splits of that epoch were given out: see [`ClaimSplit`].
pub type ClaimSplitInEpoch =
    Arc<Mutex<dyn FnMut(u32, &Delivered) -> Result<Option<u64>, DataError> + Send>>;

/// How readers share an epoch.
enum Share {
    /// There is one.
    Alone,
    /// They read all and claim batches.
    Batches(ClaimInEpoch),
    /// They claim splits, and pass over what was done in a life before.
    Splits { splits: Arc<Splits>, claim: ClaimSplitInEpoch, after: Option<Position> },
}

/// What kept batches may take, in bytes: with more of them, each epoch reads the source anew.
const KEPT_BYTES_MAX: usize = 1 << 30;

/// Buffers of batches that wait to be used again.
const SPARES_MAX: usize = 16;

/// A source, read so many times. Several threads may take batches from it.
pub struct Epochs {
    spec: SourceSpec,
    epochs: u32,
    share: Share,
    kept_bytes_max: usize,
    /// Held while a batch is taken from the source, so that batches are kept in its order.
    keeping: Mutex<Keeping>,
    state: Mutex<State>,
    spares: Mutex<Vec<Csr>>,
}

/// The batches of the first epoch.
enum Keeping {
    /// So far, and what they take in bytes.
    SoFar(Vec<Csr>, usize),
    /// They are too many, or handed over, or not wanted.
    Nothing,
}

struct State {
    source: Arc<Source>,
    epoch: u32,
    rows_before: u64,
    bytes_before: u64,
    /// All batches of an epoch, from the second epoch on, if they were kept.
    kept: Option<Arc<Vec<Csr>>>,
    /// How many of these this epoch has given out, and their rows.
    given: usize,
    rows_given: u64,
}

/// How far a feed is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FeedProgress {
    /// Rows delivered, over all epochs.
    pub rows: u64,
    /// Rows that were left out because they were broken, in this epoch.
    pub bad_rows: u64,
    /// Part of all that is to be read, 0 to 1.
    pub fraction: f64,
    /// Bytes read from disk, packed as they lie there, over all epochs.
    pub bytes_read: u64,
}

impl Epochs {
    /// Opens the source for the first of `epochs` passes.
    pub fn open(spec: SourceSpec, epochs: u32) -> Result<Epochs, DataError> {
        Epochs::with_share(spec, epochs, Share::Alone, 0)
    }

    /// The same, for one of several readers that share the batches of each epoch.
    ///
    /// - `first`: the epoch to begin with, from 0.
    pub fn open_shared(
        spec: SourceSpec,
        epochs: u32,
        claim: ClaimInEpoch,
        first: u32,
    ) -> Result<Epochs, DataError> {
        Epochs::with_share(spec, epochs, Share::Batches(claim), first)
    }

    /// The same, for one of several readers that share the splits of each epoch: it reads those
    /// that it claims, and nothing else.
    ///
    /// - `after`: it begins behind this batch.
    pub fn open_splits(
        spec: SourceSpec,
        epochs: u32,
        splits: Arc<Splits>,
        claim: ClaimSplitInEpoch,
        after: Option<Position>,
    ) -> Result<Epochs, DataError> {
        let first = after.map_or(0, |after| after.epoch);
        Epochs::with_share(spec, epochs, Share::Splits { splits, claim, after }, first)
    }

    fn with_share(
        spec: SourceSpec,
        epochs: u32,
        share: Share,
        epoch: u32,
    ) -> Result<Epochs, DataError> {
        let source = Arc::new(open_epoch(&spec, &share, epoch)?);
        let (kept, given, rows_given) = (None, 0, 0);
        let (rows_before, bytes_before) = (0, 0);
        let state = State { source, epoch, rows_before, bytes_before, kept, given, rows_given };
        // Which batches a reader claims differs from epoch to epoch.
        let keeping = match (&share, epochs) {
            (Share::Alone, 2..) => Keeping::SoFar(Vec::new(), 0),
            _ => Keeping::Nothing,
        };
        Ok(Epochs {
            spec,
            epochs,
            share,
            kept_bytes_max: KEPT_BYTES_MAX,
            keeping: Mutex::new(keeping),
            state: Mutex::new(state),
            spares: Mutex::default(),
        })
    }

    /// What the columns were found to mean.
    pub fn columns(&self) -> Option<ColumnSpec> {
        self.source().0.columns().cloned()
    }

    /// How far it is.
    pub fn progress(&self) -> FeedProgress {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = state.source.progress();
        let (rows, fraction) = match &state.kept {
            Some(kept) => (state.rows_given, state.given as f64 / kept.len().max(1) as f64),
            None => (pass.rows, pass.fraction()),
        };
        FeedProgress {
            rows: state.rows_before + rows,
            bad_rows: pass.bad_rows,
            fraction: (f64::from(state.epoch) + fraction) / f64::from(self.epochs.max(1)),
            bytes_read: state.bytes_before + pass.bytes_read,
        }
    }

    /// The next batch of the source, kept if there is room. None at its end: then the batches that
    /// were kept, all of them, are handed over.
    fn read(&self, source: &Source) -> Result<Option<Csr>, DataError> {
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let Keeping::SoFar(batches, bytes) = &mut *keeping else {
            drop(keeping);
            return source.next();
        };
        let Some(batch) = source.next()? else {
            let kept = Arc::new(std::mem::take(batches));
            *keeping = Keeping::Nothing;
            self.state.lock().unwrap_or_else(PoisonError::into_inner).kept = Some(kept);
            return Ok(None);
        };
        *bytes += batch.bytes();
        if *bytes > self.kept_bytes_max {
            *keeping = Keeping::Nothing;
        } else {
            batches.push(batch.clone());
        }
        Ok(Some(batch))
    }

    /// What comes next: one look at the state, since other threads may end the epoch meanwhile.
    fn find_next(&self) -> Next {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = state.epoch;
        let Some(kept) = state.kept.clone().filter(|_| epoch > 0) else {
            return Next::Read { source: Arc::clone(&state.source), epoch };
        };
        let number = state.given;
        let Some(batch) = kept.get(number) else { return Next::End { epoch } };
        state.given += 1;
        state.rows_given += batch.rows() as u64;
        drop(state);
        Next::Kept { kept, number, epoch }
    }

    fn source(&self) -> (Arc<Source>, u32) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&state.source), state.epoch)
    }

    /// Opens the next pass, unless another thread has. Whether there is one.
    fn advance(&self, ended: u32) -> Result<bool, DataError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.epoch == ended {
            if ended + 1 >= self.epochs {
                return Ok(false);
            }
            let rows = match state.epoch {
                1.. if state.kept.is_some() => state.rows_given,
                _ => state.source.progress().rows,
            };
            if state.kept.is_none() {
                let bytes = state.source.progress().bytes_read;
                state.source = Arc::new(open_epoch(&self.spec, &self.share, ended + 1)?);
                state.bytes_before += bytes;
            }
            state.rows_before += rows;
            state.epoch += 1;
            (state.given, state.rows_given) = (0, 0);
        }
        Ok(true)
    }
}

impl Feed for Epochs {
    fn next(&self) -> Result<Option<Csr>, DataError> {
        loop {
            let ended = match self.find_next() {
                Next::Kept { kept, number, epoch } => {
                    let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let mut batch = spare.unwrap_or_default();
                    batch.copy_from(&kept[number]);
                    batch.epoch = epoch;
                    return Ok(Some(batch));
                }
                Next::End { epoch } => epoch,
                Next::Read { source, epoch } => {
                    if let Some(mut batch) = self.read(&source)? {
                        batch.epoch = epoch;
                        return Ok(Some(batch));
                    }
                    epoch
                }
            };
            if !self.advance(ended)? {
                return Ok(None);
            }
        }
    }

    fn recycle(&self, batch: Csr) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.kept.is_none() {
            return state.source.recycle(batch);
        }
        drop(state);
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES_MAX {
            spares.push(batch);
        }
    }
}

/// Where the next batch comes from.
enum Next {
    Read { source: Arc<Source>, epoch: u32 },
    Kept { kept: Arc<Vec<Csr>>, number: usize, epoch: u32 },
    End { epoch: u32 },
}

fn open_epoch(spec: &SourceSpec, share: &Share, epoch: u32) -> Result<Source, DataError> {
    match share {
        Share::Alone => Source::open(spec),
        Share::Batches(claim) => {
            let claim = Arc::clone(claim);
            let claim: Claim =
                Box::new(move || claim.lock().unwrap_or_else(PoisonError::into_inner)(epoch));
            Source::open_shared(spec, claim)
        }
        Share::Splits { splits, claim, after } => {
            let claim = Arc::clone(claim);
            let claim: ClaimSplit = Box::new(move |delivered| {
                claim.lock().unwrap_or_else(PoisonError::into_inner)(epoch, delivered)
            });
            let after = after.filter(|after| after.epoch == epoch).map(|after| after.batch);
            Source::open_splits(spec, Arc::clone(splits), claim, after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Labels;

    fn epochs(kept_bytes_max: usize) -> Epochs {
        let inputs = vec!["gen:criteo?rows=1000".to_owned()];
        let spec = SourceSpec {
            inputs,
            batch_rows: 96,
            labels: Labels::Optional,
            ..SourceSpec::default()
        };
        Epochs { kept_bytes_max, ..Epochs::open(spec, 3).expect("a generator") }
    }

    #[test]
    fn kept_batches_and_those_that_are_read_again_are_the_same() {
        let all = |feed: &Epochs| {
            let mut batches = Vec::new();
            while let Some(batch) = feed.next().expect("made-up rows are good") {
                batches.push(batch.clone());
                feed.recycle(batch);
            }
            batches
        };
        let (kept, read) = (epochs(KEPT_BYTES_MAX), epochs(50_000));
        let (kept_batches, read_batches) = (all(&kept), all(&read));
        assert_eq!(kept_batches.len(), 33);
        assert!(kept_batches == read_batches, "each epoch gives the same batches");
        assert_eq!(kept.progress(), read.progress());
        assert_eq!((kept.progress().rows, kept.progress().fraction), (3000, 1.0));
    }

    #[test]
    fn several_threads_get_each_batch_of_each_epoch_once() {
        let feed = &epochs(KEPT_BYTES_MAX);
        let rows: u64 = std::thread::scope(|scope| {
            let take = || {
                let mut rows = 0;
                while let Some(batch) = feed.next().expect("made-up rows are good") {
                    rows += batch.rows() as u64;
                    feed.recycle(batch);
                }
                rows
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(rows, 3000);
    }
}
