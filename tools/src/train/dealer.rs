//! The dealer: which batch is a worker process's next, however often the process dies.
//!
//! Owns the counter of each epoch, what was dealt to each worker and is not in its journal yet, and
//! how often each was started. Processes and pipes are left to `lives`.
//!
//! Invariant: a batch is dealt to one worker, and to a later life of it again until its journal has
//! it; a worker is dealt its batches in ascending order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use learn::Position;

/// Batches that a worker may have been dealt and not finished: far more than readers take ahead.
const DEALT_MAX: usize = 4096;

/// Deals batches to workers.
#[derive(Debug)]
pub(crate) struct Dealer {
    /// By epoch: the next batch that nobody has.
    next: BTreeMap<u32, u64>,
    hands: Vec<Hand>,
    restarts_max: u32,
}

/// What one worker has.
#[derive(Debug, Default)]
struct Hand {
    /// Dealt and not known to be in its journal, in order.
    dealt: VecDeque<Position>,
    /// How many of them this life was dealt.
    taken: usize,
    restarts: u32,
    /// How often a spare took the place over.
    handovers: u32,
}

/// Why there is nothing to deal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DealError {
    /// The worker takes batches and finishes none.
    TooMany {
        /// How many it has.
        dealt: usize,
    },
}

/// What becomes of a worker that died.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterDeath {
    /// It begins its next life, counting lives from 1.
    Restart {
        /// Which.
        life: u32,
    },
    /// It has had all of its lives.
    Over {
        /// So many.
        lives: u32,
    },
}

impl Dealer {
    /// A dealer for so many workers, each of which may be started again so often.
    pub(crate) fn new(workers: u32, restarts_max: u32) -> Dealer {
        let hands = (0..workers).map(|_| Hand::default()).collect();
        Dealer { next: BTreeMap::new(), hands, restarts_max }
    }

    /// A worker asks for its next batch of an epoch, and tells which is the last in its journal.
    pub(crate) fn claim(
        &mut self,
        worker: usize,
        epoch: u32,
        done: Option<Position>,
    ) -> Result<Position, DealError> {
        let hand = &mut self.hands[worker];
        hand.note_done(done);
        // What it was dealt of an epoch before and did not take lies beyond that epoch's end.
        while hand.dealt.get(hand.taken).is_some_and(|next| next.epoch < epoch) {
            hand.dealt.remove(hand.taken);
        }
        if let Some(&again) = hand.dealt.get(hand.taken).filter(|next| next.epoch == epoch) {
            hand.taken += 1;
            return Ok(again);
        }
        if hand.dealt.len() >= DEALT_MAX {
            return Err(DealError::TooMany { dealt: hand.dealt.len() });
        }
        let next = self.next.entry(epoch).or_default();
        let new = Position { epoch, batch: *next };
        *next += 1;
        hand.dealt.insert(hand.taken, new);
        hand.taken += 1;
        Ok(new)
    }

    /// A worker died without a last word. Its next life tells with its first claim where its
    /// journal ends, and is dealt what comes after.
    pub(crate) fn died(&mut self, worker: usize) -> AfterDeath {
        let hand = &mut self.hands[worker];
        hand.taken = 0;
        if hand.restarts == self.restarts_max {
            return AfterDeath::Over { lives: hand.life() };
        }
        hand.restarts += 1;
        AfterDeath::Restart { life: hand.life() }
    }

    /// A spare gets a worker's place: which of its lives it is, counting from 1. It is dealt what
    /// comes after its journal's end, as after a death; the life before is dealt nothing any more.
    pub(crate) fn hand_over(&mut self, worker: usize) -> u32 {
        let hand = &mut self.hands[worker];
        hand.taken = 0;
        hand.handovers += 1;
        hand.life()
    }

    /// How often a spare took a worker's place over.
    pub(crate) fn handovers(&self, worker: usize) -> u32 {
        self.hands[worker].handovers
    }

    /// How often a worker was started again.
    pub(crate) fn restarts(&self, worker: usize) -> u32 {
        self.hands[worker].restarts
    }
}

impl Hand {
    /// Which life has it, counting from 1.
    fn life(&self) -> u32 {
        1 + self.restarts + self.handovers
    }

    /// Forgets what will not be dealt again.
    fn note_done(&mut self, done: Option<Position>) {
        while self.dealt.front().is_some_and(|front| Some(*front) <= done) {
            self.dealt.pop_front();
            self.taken = self.taken.saturating_sub(1);
        }
    }
}

impl fmt::Display for DealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DealError::TooMany { dealt } = self;
        write!(f, "it has taken {dealt} batches and finished none of them, {DEALT_MAX} is the most")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u32, batch: u64) -> Position {
        Position { epoch, batch }
    }

    fn claim(dealer: &mut Dealer, worker: usize, done: Option<Position>) -> u64 {
        dealer.claim(worker, 0, done).expect("few are dealt").batch
    }

    #[test]
    fn a_later_life_is_dealt_what_its_journal_lacks_in_order_and_then_new_batches() {
        let mut dealer = Dealer::new(2, 1);
        let first: Vec<u64> = (0..4).map(|turn| claim(&mut dealer, turn % 2, None)).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        assert_eq!(claim(&mut dealer, 0, Some(at(0, 0))), 4);
        assert_eq!(dealer.died(0), AfterDeath::Restart { life: 2 });
        let later: Vec<u64> = (0..3).map(|_| claim(&mut dealer, 0, Some(at(0, 2)))).collect();
        assert_eq!(later, [4, 5, 6]);
        assert_eq!(dealer.died(0), AfterDeath::Over { lives: 2 });
        assert_eq!((dealer.restarts(0), dealer.restarts(1)), (1, 0));
    }

    #[test]
    fn a_life_that_dies_before_anything_is_in_its_journal_leaves_all_to_the_next() {
        let mut dealer = Dealer::new(1, 9);
        for life in 2..5 {
            assert_eq!(claim(&mut dealer, 0, None), 0);
            assert_eq!(claim(&mut dealer, 0, None), 1);
            assert_eq!(dealer.died(0), AfterDeath::Restart { life });
        }
    }

    #[test]
    fn a_spare_is_dealt_what_the_journal_lacks_and_its_life_is_a_later_one() {
        let mut dealer = Dealer::new(1, 1);
        let first: Vec<u64> = (0..3).map(|_| claim(&mut dealer, 0, None)).collect();
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(dealer.hand_over(0), 2);
        let by_spare: Vec<u64> = (0..3).map(|_| claim(&mut dealer, 0, Some(at(0, 0)))).collect();
        assert_eq!(by_spare, [1, 2, 3]);
        assert_eq!(dealer.died(0), AfterDeath::Restart { life: 3 });
        assert_eq!(dealer.hand_over(0), 4);
        assert_eq!((dealer.handovers(0), dealer.restarts(0)), (2, 1));
    }

    #[test]
    fn what_lay_beyond_the_end_of_an_epoch_is_not_dealt_in_the_next() {
        let mut dealer = Dealer::new(1, 1);
        (0..4).for_each(|_| _ = claim(&mut dealer, 0, None));
        // The epoch has two batches; the life ends in the second epoch's first one.
        assert_eq!(dealer.claim(0, 1, Some(at(0, 1))), Ok(at(1, 0)));
        dealer.died(0);
        // It begins where its journal ends, and finds the end of the epoch again.
        assert_eq!(claim(&mut dealer, 0, Some(at(0, 1))), 2);
        assert_eq!(dealer.claim(0, 1, Some(at(0, 1))), Ok(at(1, 0)));
        assert_eq!(dealer.claim(0, 1, Some(at(1, 0))), Ok(at(1, 1)));
    }

    #[test]
    fn a_worker_that_finishes_nothing_is_stopped() {
        let mut dealer = Dealer::new(1, 1);
        (0..DEALT_MAX).for_each(|_| _ = claim(&mut dealer, 0, None));
        let dealt = DEALT_MAX;
        assert_eq!(dealer.claim(0, 0, None), Err(DealError::TooMany { dealt }));
    }
}
