//! Which batches a reader delivers, where several readers of the same inputs share them.
//!
//! Owns the decision, batch by batch. Who deals the numbers out is left to the caller.
//!
//! Invariant: numbers are claimed only when the one before has been delivered, so readers that
//! claim from one counter stay together, and a slow one claims less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::DataError;
use super::splits::Splits;

/// Says which batch of the pass is this reader's next: a number above the one before.
pub type Claim = Box<dyn FnMut() -> Result<u64, DataError> + Send>;

/// Says which split is this reader's next, in ascending order, or that there is none left.
///
/// It is told which splits have been delivered, now and while it waits.
pub type ClaimSplit = Box<dyn FnMut(&Delivered) -> Result<Option<u64>, DataError> + Send>;

/// Which splits have been delivered to their end.
#[derive(Debug, Default)]
pub struct Delivered(AtomicU64);

impl Delivered {
    /// The last one, if there is any.
    pub fn last(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(crate) fn note(&self, split: u64) {
        self.0.store(split + 1, Ordering::Relaxed);
    }
}

/// The batches that one reader delivers.
pub(crate) enum Deal {
    /// All of them.
    All,
    /// Those whose numbers it claims.
    Claimed {
        /// The claimed batch that is still to come.
        next: Option<u64>,
        claim: Claim,
    },
    /// Those of the splits that it claims.
    Splits {
        splits: Arc<Splits>,
        claim: ClaimSplit,
        /// The last batch that is not delivered any more: it was, in a life before.
        after: Option<u64>,
    },
}

impl Deal {
    /// The batches of `claim`.
    pub(crate) fn claimed(claim: Claim) -> Deal {
        Deal::Claimed { next: None, claim }
    }

    /// Whether to deliver this batch. Asked for each batch in order.
    pub(crate) fn has(&mut self, batch: u64) -> Result<bool, DataError> {
        let (next, claim) = match self {
            Deal::All => return Ok(true),
            Deal::Splits { after, .. } => return Ok(Some(batch) > *after),
            Deal::Claimed { next, claim } => (next, claim),
        };
        if next.is_none() {
            *next = Some(claim()?);
        }
        let is_mine = *next == Some(batch);
        if is_mine {
            *next = None;
        }
        Ok(is_mine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_batches_are_delivered_and_others_passed_over() {
        let mut numbers = [1, 2, 5].into_iter();
        let reason = "the counter is gone".to_owned();
        let none = DataError::NoClaim { reason };
        let end = none.clone();
        let claim = move || numbers.next().ok_or_else(|| none.clone());
        let mut deal = Deal::claimed(Box::new(claim));
        let mine: Vec<bool> = (0..6).map(|batch| deal.has(batch).unwrap()).collect();
        assert_eq!(mine, [false, true, true, false, false, true]);
        assert_eq!(deal.has(6), Err(end));
    }
}
