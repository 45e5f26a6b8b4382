//! Messages that are kept as they were received: until when, and that what goes on is the same.

use std::cell::Cell;
use std::rc::Rc;

use wire::{Flags, HEADER_BYTES, Header, Kind};

use super::log::KEPT_BYTES_MAX;
use super::tests::{Letter, Pair, message, pair_with_a_row, push};
use super::{Mutation, Outcome, Received, Taken};

/// A message that is counted as long as it lives.
#[derive(Debug)]
struct Counted {
    letter: Letter,
    alive: Rc<Cell<usize>>,
}

impl Received for Counted {
    fn bytes(&self) -> &[u8] {
        self.letter.bytes()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

/// Counts messages.
#[derive(Debug, Default)]
struct Count(Rc<Cell<usize>>);

impl Count {
    fn of(&self, letter: Letter) -> Counted {
        self.0.set(self.0.get() + 1);
        Counted { letter, alive: Rc::clone(&self.0) }
    }

    fn alive(&self) -> usize {
        self.0.get()
    }

    /// Has the head handle a push of these keys. Whether it is kept.
    fn push(&self, pair: &mut Pair, sequence: u64, keys: std::ops::Range<u64>) -> bool {
        let keys: Vec<u64> = keys.collect();
        let message = self.of(push(sequence, 0, 0, &keys, Flags::NONE));
        let (outcome, left) = pair.head.handle_received(pair.now, message, &mut pair.answers);
        assert_eq!(outcome, Outcome::Answered);
        left.is_none()
    }
}

fn images_are_alike(pair: &mut Pair) {
    let (head, tail) = (pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    assert!(head.rows[0].len() > 1, "there is something to compare");
    assert_eq!(head, tail);
}

#[test]
fn a_push_is_kept_until_the_tail_has_it_and_one_that_changes_nothing_is_not() {
    let mut pair = pair_with_a_row(Mutation::None);
    let count = Count::default();
    assert!(count.push(&mut pair, 2, 0..100));
    assert!(count.push(&mut pair, 3, 50..150));
    assert!(!count.push(&mut pair, 3, 50..150), "it was done before");
    assert_eq!(count.alive(), 2);
    pair.head.forward(pair.now, &mut pair.down);
    assert_eq!(count.alive(), 2, "sent is not acknowledged");
    pair.settle();
    assert_eq!(count.alive(), 0);
    images_are_alike(&mut pair);
}

#[test]
fn what_is_kept_is_given_back_when_the_link_ends_and_sent_over_the_next_one() {
    let mut pair = pair_with_a_row(Mutation::None);
    let count = Count::default();
    assert!(count.push(&mut pair, 2, 0..100));
    pair.head.forward(pair.now, &mut pair.down);
    pair.down.letters.clear(); // Lost on the way.
    pair.head.successor_gone();
    assert_eq!(count.alive(), 0);
    assert!(!count.push(&mut pair, 3, 100..200), "there is no link");
    pair.link();
    pair.settle();
    images_are_alike(&mut pair);
}

#[test]
fn no_more_is_kept_than_leaves_its_senders_room() {
    let mut pair = pair_with_a_row(Mutation::None);
    let count = Count::default();
    // Of 16 bytes a key, and a header.
    let keys = (KEPT_BYTES_MAX / 8 - HEADER_BYTES) as u64 / 16;
    let kept = (0..24).filter(|&number| count.push(&mut pair, 2 + number, 0..keys)).count();
    assert_eq!((kept, count.alive()), (8, 8));
    pair.settle();
    assert_eq!(count.alive(), 0);
    assert!(count.push(&mut pair, 30, 0..keys), "there is room again");
    pair.settle();
    images_are_alike(&mut pair);
}

#[test]
fn who_has_a_successor_of_his_own_keeps_what_his_predecessor_sent() {
    let mut pair = pair_with_a_row(Mutation::None);
    let (now, count) = (pair.now, Count::default());
    let push_on = |pair: &mut Pair, sequence: u64, count: &Count| {
        pair.ask(&push(sequence, 0, 0, &[5, 6, 7], Flags::NONE));
        pair.head.forward(now, &mut pair.down);
        let message = count.of(pair.down.letters.pop_back().expect("a push"));
        let (taken, left) = pair.tail.follow_received(message);
        assert_eq!(taken, Taken::Done);
        left.is_none()
    };
    assert!(!push_on(&mut pair, 2, &count), "nobody is behind it");
    pair.lengthen();
    pair.tail.successor_linked(now);
    let epoch = pair.epoch.get();
    let says = |position: u64| {
        let (sequence, clock) = (position, position);
        message(Header { sequence, clock, epoch, ..Header::new(Kind::Applied) }, &[])
    };
    let has = pair.tail.position();
    assert!(pair.tail.hear_successor(now, says(has).bytes()));
    assert!(push_on(&mut pair, 3, &count));
    assert_eq!(count.alive(), 1);
    pair.tail.forward(now, &mut pair.down);
    assert!(pair.tail.hear_successor(now, says(has + 1).bytes()));
    assert_eq!(count.alive(), 0);
}
