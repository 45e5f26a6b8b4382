//! The dealer: which batch is a worker process's next, however often the process dies.
//!
//! Owns the counter of each epoch, what was dealt to each worker and is not in its journal yet, and
//! how often each was started. In a job of several hosts new batches come from the coordinator, in
//! portions; a worker that has used its own up waits. Processes and pipes are left to `lives`.
//!
//! Invariant: a batch is dealt to one worker, and to a later life of it again until its journal has
//! it; a worker is dealt its batches in ascending order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use learn::Position;
use wire::{PORTION_BATCHES, Portion};

/// Batches that a worker may have been dealt and not finished: far more than readers take ahead.
const DEALT_MAX: usize = 4096;

/// Batches that a worker has for itself and has not asked for, below which more are wanted: while
/// the coordinator answers, it goes on with these.
const LEFT_MIN: usize = PORTION_BATCHES as usize / 2;

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
    /// From the coordinator.
    Portions,
}

/// What one worker has.
#[derive(Debug, Default)]
struct Hand {
    /// The epoch that it asked for last; none: it has asked for nothing.
    epoch: Option<u32>,
    /// Batches of that epoch that it has asked for and not been dealt.
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

    /// The same for some workers of a job of several hosts.
    pub(crate) fn of_portions(workers: u32, restarts_max: u32) -> Dealer {
        Dealer { numbers: Numbers::Portions, ..Dealer::new(workers, restarts_max) }
    }

    /// A worker asks for its next batch of an epoch, and tells which is the last in its journal;
    /// [`Dealer::deal`] has the answer.
    pub(crate) fn claim(&mut self, worker: usize, epoch: u32, done: Option<Position>) {
        let hand = &mut self.hands[worker];
        hand.note_done(done);
        if hand.epoch != Some(epoch) {
            (hand.epoch, hand.owed) = (Some(epoch), 0);
        }
        hand.owed += 1;
        // What it was dealt of an epoch before and did not take lies beyond that epoch's end.
        while hand.dealt.get(hand.taken).is_some_and(|next| next.epoch < epoch) {
            hand.dealt.remove(hand.taken);
        }
    }

    /// The next batch of a worker that has asked for one; none: it has not, or has to wait.
    pub(crate) fn deal(&mut self, worker: usize) -> Result<Option<Position>, DealError> {
        let hand = &mut self.hands[worker];
        let Some(epoch) = hand.epoch.filter(|_| hand.owed > 0) else { return Ok(None) };
        if let Some(&again) = hand.dealt.get(hand.taken).filter(|next| next.epoch == epoch) {
            hand.taken += 1;
            hand.owed -= 1;
            return Ok(Some(again));
        }
        let Numbers::Own(next) = &mut self.numbers else { return Ok(None) };
        if hand.dealt.len() >= DEALT_MAX {
            return Err(DealError::TooMany { dealt: hand.dealt.len() });
        }
        let next = next.entry(epoch).or_default();
        let new = Position { epoch, batch: *next };
        *next += 1;
        hand.dealt.insert(hand.taken, new);
        hand.taken += 1;
        hand.owed -= 1;
        Ok(Some(new))
    }

    /// The coordinator has dealt a portion to a worker, in this life of the launcher or before.
    pub(crate) fn give(&mut self, worker: usize, portion: Portion) {
        let hand = &mut self.hands[worker];
        let Portion { epoch, first, batches, .. } = portion;
        let from = Position { epoch, batch: first };
        // It takes batches in order; what it has taken comes before anything new.
        let at = hand.dealt.partition_point(|dealt| *dealt < from).max(hand.taken);
        for (place, batch) in (first..first.saturating_add(u64::from(batches))).enumerate() {
            hand.dealt.insert(at + place, Position { epoch, batch });
        }
        let current = hand.epoch;
        while hand.dealt.get(hand.taken).is_some_and(|next| Some(next.epoch) < current) {
            hand.dealt.remove(hand.taken);
        }
    }

    /// The epoch of which a worker will soon have to be dealt more; none: it has enough.
    pub(crate) fn wants(&self, worker: usize) -> Option<u32> {
        let hand = &self.hands[worker];
        let epoch = hand.epoch?;
        let left = hand.dealt.iter().skip(hand.taken).filter(|next| next.epoch == epoch);
        (left.take(LEFT_MIN).count() < LEFT_MIN).then_some(epoch)
    }

    /// The last batch that is known to be in a worker's journal.
    pub(crate) fn done(&self, worker: usize) -> Option<Position> {
        self.hands[worker].done
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

impl Hand {
    /// Which life has it, counting from 1.
    fn life(&self) -> u32 {
        1 + self.restarts + self.handovers
    }

    /// Forgets what will not be dealt again.
    fn note_done(&mut self, done: Option<Position>) {
        self.done = self.done.max(done);
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

    fn next(
        dealer: &mut Dealer,
        worker: usize,
        epoch: u32,
        done: Option<Position>,
    ) -> Result<Position, DealError> {
        dealer.claim(worker, epoch, done);
        dealer.deal(worker).map(|dealt| dealt.expect("it deals by itself"))
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
        let mut dealer = Dealer::of_portions(2, 1);
        assert_eq!(dealer.wants(0), None, "it has not asked yet");
        dealer.claim(0, 0, None);
        assert_eq!((dealer.deal(0), dealer.wants(0), dealer.owes()), (Ok(None), Some(0), true));
        dealer.give(0, portion(0, 16));
        assert_eq!(dealer.deal(0), Ok(Some(at(0, 16))));
        assert_eq!((dealer.deal(0), dealer.wants(0), dealer.owes()), (Ok(None), None, false));
        let took = |dealer: &mut Dealer| {
            dealer.claim(0, 0, Some(at(0, 16)));
            dealer.deal(0)
        };
        let rest: Vec<_> = (0..8).map_while(|_| took(&mut dealer).expect("few")).collect();
        assert_eq!(rest.last(), Some(&at(0, 23)));
        assert_eq!((dealer.wants(0), dealer.owes()), (Some(0), true));
        assert_eq!(dealer.wants(1), None);
    }

    #[test]
    fn a_life_that_goes_back_an_epoch_takes_that_ones_batches_first() {
        let mut dealer = Dealer::of_portions(1, 1);
        dealer.claim(0, 0, None);
        dealer.give(0, portion(0, 0));
        (0..8).for_each(|_| _ = (dealer.deal(0), dealer.claim(0, 0, Some(at(0, 2)))));
        dealer.claim(0, 1, Some(at(0, 2)));
        dealer.give(0, portion(1, 0));
        assert_eq!(dealer.deal(0), Ok(Some(at(1, 0))));
        dealer.died(0);
        dealer.claim(0, 0, Some(at(0, 2)));
        assert_eq!(dealer.deal(0), Ok(Some(at(0, 3))));
    }

    #[test]
    fn a_launcher_that_begins_again_deals_what_its_places_had() {
        let mut dealer = Dealer::of_portions(1, 1);
        dealer.give(0, portion(1, 8));
        dealer.give(0, portion(0, 40));
        dealer.claim(0, 0, Some(at(0, 45)));
        assert_eq!(dealer.deal(0), Ok(Some(at(0, 46))));
        dealer.claim(0, 1, Some(at(0, 45)));
        assert_eq!(dealer.deal(0), Ok(Some(at(1, 8))));
    }

    fn portion(epoch: u32, first: u64) -> Portion {
        Portion { number: 1, epoch, first, batches: 8 }
    }
}
