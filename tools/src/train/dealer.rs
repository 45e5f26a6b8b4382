//! The dealer: which batch is a worker process's next, however often the process dies.
//!
//! Owns the counter of each epoch, what was dealt to each worker and is not in its journal yet, and
//! how often each was started. In a job of several hosts workers are dealt splits, by their first
//! batches, and new ones come from the coordinator; a worker that has read its own waits. Processes
//! and pipes are left to `lives`.
//!
//! Invariant: a batch or split is dealt to one worker, and to a later life of it again until its
//! journal has all of it; a worker is dealt its own in ascending order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use learn::Position;
use serde::{Deserialize, Serialize};
use wire::{Portion, SPLIT_BATCHES};

/// Batches that a worker may have been dealt and not finished: far more than readers take ahead.
const DEALT_MAX: usize = 4096;

/// Deals batches to workers.
#[derive(Debug)]
pub(crate) struct Dealer {
    numbers: Numbers,
    hands: Vec<Hand>,
    restarts_max: u32,
}

/// Where new batches come from.
#[derive(Debug)]
enum Numbers {
    /// From here; by epoch, the next batch that nobody has.
    Own(BTreeMap<u32, u64>),
    /// Splits, from the coordinator; of so many epochs, from the first one on, it has none left.
    Splits { epochs_dealt: u32 },
}

/// What a worker is told that has asked for more of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dealt {
    /// This batch is its next; of a split, the first one.
    Next(Position),
    /// There is none left for it in this epoch.
    Over(u32),
}

/// What one worker has.
#[derive(Debug, Default)]
struct Hand {
    /// The epoch that it asked for last; none: it has asked for nothing.
    epoch: Option<u32>,
    /// How much of that epoch it has asked for and not been dealt.
    owed: u32,
    /// The last batch in its journal.
    done: Option<Position>,
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
        Dealer { numbers: Numbers::Own(BTreeMap::new()), hands, restarts_max }
    }

    /// A dealer of splits, for some workers of a job of several hosts.
    pub(crate) fn of_splits(workers: u32, restarts_max: u32) -> Dealer {
        let numbers = Numbers::Splits { epochs_dealt: 0 };
        Dealer { numbers, ..Dealer::new(workers, restarts_max) }
    }

    /// A worker asks for its next batch or split of an epoch, and tells which batch is the last in
    /// its journal; [`Dealer::deal`] has the answer.
    pub(crate) fn claim(&mut self, worker: usize, epoch: u32, done: Option<Position>) {
        let hand = &mut self.hands[worker];
        hand.note_done(done, self.numbers.batches());
        if hand.epoch != Some(epoch) {
            (hand.epoch, hand.owed) = (Some(epoch), 0);
        }
        hand.owed += 1;
        // What it was dealt of an epoch before and did not take lies beyond that epoch's end.
        while hand.dealt.get(hand.taken).is_some_and(|next| next.epoch < epoch) {
            hand.dealt.remove(hand.taken);
        }
    }

    /// A worker that waits tells how far its journal is.
    pub(crate) fn note_reached(&mut self, worker: usize, done: Option<Position>) {
        self.hands[worker].note_done(done, self.numbers.batches());
    }

    /// What to tell a worker that has asked for more; none: it has not, or has to wait.
    pub(crate) fn deal(&mut self, worker: usize) -> Result<Option<Dealt>, DealError> {
        let hand = &mut self.hands[worker];
        let Some(epoch) = hand.epoch.filter(|_| hand.owed > 0) else { return Ok(None) };
        if let Some(&again) = hand.dealt.get(hand.taken).filter(|next| next.epoch == epoch) {
            hand.taken += 1;
            hand.owed -= 1;
            return Ok(Some(Dealt::Next(again)));
        }
        let next = match &mut self.numbers {
            Numbers::Own(next) => next,
            Numbers::Splits { epochs_dealt } if epoch < *epochs_dealt => {
                hand.owed -= 1;
                return Ok(Some(Dealt::Over(epoch)));
            }
            Numbers::Splits { .. } => return Ok(None),
        };
        if hand.dealt.len() >= DEALT_MAX {
            return Err(DealError::TooMany { dealt: hand.dealt.len() });
        }
        let next = next.entry(epoch).or_default();
        let new = Position { epoch, batch: *next };
        *next += 1;
        hand.dealt.insert(hand.taken, new);
        hand.taken += 1;
        hand.owed -= 1;
        Ok(Some(Dealt::Next(new)))
    }

    /// The coordinator has dealt a split to a worker, in this life of the launcher or before.
    pub(crate) fn give(&mut self, worker: usize, portion: Portion) {
        let hand = &mut self.hands[worker];
        let Portion { epoch, first: batch, .. } = portion;
        let split = Position { epoch, batch };
        // It takes splits in order; what it has taken comes before anything new.
        let at = hand.dealt.partition_point(|dealt| *dealt < split).max(hand.taken);
        hand.dealt.insert(at, split);
        let current = hand.epoch;
        while hand.dealt.get(hand.taken).is_some_and(|next| Some(next.epoch) < current) {
            hand.dealt.remove(hand.taken);
        }
    }

    /// The coordinator has dealt all splits of so many epochs, from the first one on, and the
    /// workers were given their own of them.
    pub(crate) fn note_epochs_dealt(&mut self, count: u32) {
        if let Numbers::Splits { epochs_dealt } = &mut self.numbers {
            *epochs_dealt = count.max(*epochs_dealt);
        }
    }

    /// The epoch of which a worker waits for a split; none: it waits for none.
    pub(crate) fn wants(&self, worker: usize) -> Option<u32> {
        let hand = &self.hands[worker];
        hand.epoch.filter(|_| hand.owed > 0)
    }

    /// Whether somebody waits for a batch.
    pub(crate) fn owes(&self) -> bool {
        self.hands.iter().any(|hand| hand.owed > 0)
    }

    /// A worker died without a last word. Its next life tells with its first claim where its
    /// journal ends, and is dealt what comes after.
    pub(crate) fn died(&mut self, worker: usize) -> AfterDeath {
        let hand = &mut self.hands[worker];
        (hand.taken, hand.owed) = (0, 0);
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
        (hand.taken, hand.owed) = (0, 0);
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

impl Numbers {
    /// How many batches are dealt at a time.
    fn batches(&self) -> u64 {
        match self {
            Numbers::Own(_) => 1,
            Numbers::Splits { .. } => u64::from(SPLIT_BATCHES),
        }
    }
}

impl Hand {
    /// Which life has it, counting from 1.
    fn life(&self) -> u32 {
        1 + self.restarts + self.handovers
    }

    /// Forgets what will not be dealt again.
    ///
    /// - `batches`: how many were dealt at a time.
    fn note_done(&mut self, done: Option<Position>, batches: u64) {
        self.done = self.done.max(done);
        let last = |&Position { epoch, batch }: &Position| {
            Some(Position { epoch, batch: batch.saturating_add(batches - 1) })
        };
        while self.dealt.front().is_some_and(|front| last(front) <= done) {
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

    fn next(
        dealer: &mut Dealer,
        worker: usize,
        epoch: u32,
        done: Option<Position>,
    ) -> Result<Position, DealError> {
        dealer.claim(worker, epoch, done);
        dealer.deal(worker).map(|dealt| match dealt {
            Some(Dealt::Next(next)) => next,
            other => panic!("it deals by itself: {other:?}"),
        })
    }

    fn claim(dealer: &mut Dealer, worker: usize, done: Option<Position>) -> u64 {
        next(dealer, worker, 0, done).expect("few are dealt").batch
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
        assert_eq!(next(&mut dealer, 0, 1, Some(at(0, 1))), Ok(at(1, 0)));
        dealer.died(0);
        // It begins where its journal ends, and finds the end of the epoch again.
        assert_eq!(claim(&mut dealer, 0, Some(at(0, 1))), 2);
        assert_eq!(next(&mut dealer, 0, 1, Some(at(0, 1))), Ok(at(1, 0)));
        assert_eq!(next(&mut dealer, 0, 1, Some(at(1, 0))), Ok(at(1, 1)));
    }

    #[test]
    fn a_worker_that_finishes_nothing_is_stopped() {
        let mut dealer = Dealer::new(1, 1);
        (0..DEALT_MAX).for_each(|_| _ = claim(&mut dealer, 0, None));
        let dealt = DEALT_MAX;
        assert_eq!(next(&mut dealer, 0, 0, None), Err(DealError::TooMany { dealt }));
    }

    #[test]
    fn in_a_job_of_several_hosts_a_worker_waits_until_the_coordinator_has_dealt() {
        let mut dealer = Dealer::of_splits(2, 1);
        assert_eq!(dealer.wants(0), None, "it has not asked yet");
        dealer.claim(0, 0, None);
        assert_eq!((dealer.deal(0), dealer.wants(0), dealer.owes()), (Ok(None), Some(0), true));
        dealer.give(0, split(0, 3));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 3))));
        assert_eq!((dealer.deal(0), dealer.wants(0), dealer.owes()), (Ok(None), None, false));
        dealer.claim(0, 0, Some(within(0, 3, 40)));
        dealer.note_epochs_dealt(0);
        assert_eq!((dealer.deal(0), dealer.wants(0), dealer.wants(1)), (Ok(None), Some(0), None));
        dealer.note_epochs_dealt(1);
        assert_eq!((dealer.deal(0), dealer.wants(0)), (Ok(Some(Dealt::Over(0))), None));
        dealer.claim(0, 1, Some(within(0, 3, 60)));
        assert_eq!((dealer.deal(0), dealer.wants(0)), (Ok(None), Some(1)), "the next epoch");
    }

    #[test]
    fn a_split_is_dealt_to_later_lives_until_a_batch_of_a_later_one_is_in_the_journal() {
        let mut dealer = Dealer::of_splits(1, 9);
        dealer.claim(0, 0, None);
        dealer.give(0, split(0, 2));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 2))));
        dealer.claim(0, 0, Some(within(0, 2, 7)));
        dealer.give(0, split(0, 5));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 5))));
        dealer.died(0);
        dealer.claim(0, 0, Some(within(0, 2, 9)));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 2))));
        dealer.claim(0, 0, Some(within(0, 5, 0)));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 5))));
        dealer.died(0);
        dealer.claim(0, 0, Some(within(0, 5, 1)));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 5))));
    }

    #[test]
    fn a_life_that_goes_back_an_epoch_takes_that_ones_splits_first() {
        let mut dealer = Dealer::of_splits(1, 1);
        dealer.claim(0, 0, None);
        dealer.give(0, split(0, 0));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 0))));
        dealer.claim(0, 0, Some(within(0, 0, 2)));
        dealer.note_epochs_dealt(1);
        assert_eq!(dealer.deal(0), Ok(Some(Dealt::Over(0))));
        dealer.claim(0, 1, Some(within(0, 0, 2)));
        dealer.give(0, split(1, 0));
        assert_eq!(dealer.deal(0), Ok(Some(first(1, 0))));
        dealer.died(0);
        dealer.claim(0, 0, Some(within(0, 0, 2)));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 0))));
        dealer.claim(0, 0, Some(within(0, 0, 2)));
        assert_eq!(dealer.deal(0), Ok(Some(Dealt::Over(0))));
    }

    #[test]
    fn a_launcher_that_begins_again_deals_what_its_places_had() {
        let mut dealer = Dealer::of_splits(1, 1);
        dealer.give(0, split(1, 1));
        dealer.give(0, split(0, 6));
        dealer.note_epochs_dealt(1);
        dealer.claim(0, 0, Some(within(0, 6, 45)));
        assert_eq!(dealer.deal(0), Ok(Some(first(0, 6))));
        dealer.claim(0, 0, Some(within(0, 6, 45)));
        assert_eq!(dealer.deal(0), Ok(Some(Dealt::Over(0))));
        dealer.claim(0, 1, Some(within(0, 6, 50)));
        assert_eq!(dealer.deal(0), Ok(Some(first(1, 1))));
    }

    fn within(epoch: u32, split: u64, batch: u64) -> Position {
        at(epoch, split * u64::from(SPLIT_BATCHES) + batch)
    }

    fn first(epoch: u32, split: u64) -> Dealt {
        Dealt::Next(within(epoch, split, 0))
    }

    fn split(epoch: u32, split: u64) -> Portion {
        let first = within(epoch, split, 0).batch;
        Portion { number: 1, epoch, first, batches: SPLIT_BATCHES }
    }
}
