//! Batches for workers: one pass over the data after the other.
//!
//! Owns opening the source again for each epoch. Reading and parsing are left to `data`.
//!
//! Invariant: a batch of a later epoch is given out only after all of the one before.

use std::sync::{Arc, Mutex, PoisonError};

use crate::data::{Claim, ColumnSpec, Csr, DataError, Source, SourceSpec};

/// Where a worker takes its batches from.
pub trait Feed {
    /// The next batch; none at the end.
    fn next(&self) -> Result<Option<Csr>, DataError>;

    /// Gives a batch's buffers back.
    fn recycle(&self, batch: Csr);
}

/// Says which batch of an epoch, from 0, is this reader's next: see [`Claim`].
pub type ClaimInEpoch = Arc<Mutex<dyn FnMut(u32) -> Result<u64, DataError> + Send>>;

/// A source, read so many times. Several threads may take batches from it.
pub struct Epochs {
    spec: SourceSpec,
    epochs: u32,
    claim: Option<ClaimInEpoch>,
    state: Mutex<State>,
}

struct State {
    source: Arc<Source>,
    epoch: u32,
    rows_before: u64,
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
}

impl Epochs {
    /// Opens the source for the first of `epochs` passes.
    pub fn open(spec: SourceSpec, epochs: u32) -> Result<Epochs, DataError> {
        Epochs::with_claim(spec, epochs, None)
    }

    /// The same, for one of several readers that share the batches of each epoch.
    pub fn open_shared(
        spec: SourceSpec,
        epochs: u32,
        claim: ClaimInEpoch,
    ) -> Result<Epochs, DataError> {
        Epochs::with_claim(spec, epochs, Some(claim))
    }

    fn with_claim(
        spec: SourceSpec,
        epochs: u32,
        claim: Option<ClaimInEpoch>,
    ) -> Result<Epochs, DataError> {
        let source = Arc::new(open_epoch(&spec, claim.as_ref(), 0)?);
        let state = State { source, epoch: 0, rows_before: 0 };
        Ok(Epochs { spec, epochs, claim, state: Mutex::new(state) })
    }

    /// What the columns were found to mean.
    pub fn columns(&self) -> Option<ColumnSpec> {
        self.source().0.columns().cloned()
    }

    /// How far it is.
    pub fn progress(&self) -> FeedProgress {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = state.source.progress();
        FeedProgress {
            rows: state.rows_before + pass.rows,
            bad_rows: pass.bad_rows,
            fraction: (f64::from(state.epoch) + pass.fraction()) / f64::from(self.epochs.max(1)),
        }
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
            let source = Arc::new(open_epoch(&self.spec, self.claim.as_ref(), ended + 1)?);
            state.rows_before += state.source.progress().rows;
            state.source = source;
            state.epoch += 1;
        }
        Ok(true)
    }
}

impl Feed for Epochs {
    fn next(&self) -> Result<Option<Csr>, DataError> {
        loop {
            let (source, epoch) = self.source();
            if let Some(batch) = source.next()? {
                return Ok(Some(batch));
            }
            if !self.advance(epoch)? {
                return Ok(None);
            }
        }
    }

    fn recycle(&self, batch: Csr) {
        self.source().0.recycle(batch);
    }
}

fn open_epoch(
    spec: &SourceSpec,
    claim: Option<&ClaimInEpoch>,
    epoch: u32,
) -> Result<Source, DataError> {
    let Some(claim) = claim.cloned() else { return Source::open(spec) };
    let claim: Claim =
        Box::new(move || claim.lock().unwrap_or_else(PoisonError::into_inner)(epoch));
    Source::open_shared(spec, claim)
}
