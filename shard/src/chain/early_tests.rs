//! Pushes of a table that the head acknowledges: what waits for the tail all the same.

use wire::{
    Acknowledge, Announced, Define, Flags, HEADER_BYTES, Header, Kind, RowLife, Status, TableSpec,
};

use super::tests::{Letter, Pair, keyed, message, pair_with_a_row, push};
use super::{LEASE, Mutation};
use crate::rule::{Sum, table_spec};

/// The table that the tail acknowledges; its first row is there, pushed under number 1.
const AT_TAIL: u16 = 0;
/// The one that the head does.
const AT_HEAD: u16 = 2;

/// A chain of two whose job has both tables.
fn pair(mutation: Mutation) -> Pair {
    let mut pair = pair_with_a_row(mutation);
    let spec = |name, acknowledge| TableSpec { acknowledge, ..table_spec(name, 2, &Sum) };
    let specs =
        [(1, spec("other", Acknowledge::Tail)), (AT_HEAD, spec("early", Acknowledge::Head))];
    for (table, spec) in specs {
        let define = Define::new(&spec, Announced::default()).expect("short names");
        let header = Header { table, ..Header::new(Kind::Define) };
        pair.done(&message(header, define.as_bytes()));
    }
    assert_eq!(pair.head.shard_mut().tables.all()[2].spec().life, RowLife::default());
    pair
}

fn pull(table: u16) -> Letter {
    keyed(Header { sequence: 1 << 63, table, ..Header::new(Kind::Pull) }, &[5], &[])
}

/// How many answers this brings before the tail has heard of it.
fn answers_at_once(pair: &mut Pair, letter: &Letter) -> usize {
    let before = pair.answers.letters.len();
    pair.ask(letter);
    pair.answers.letters.len() - before
}

/// The first value of the last answer.
fn value(pair: &mut Pair) -> f32 {
    let answer = pair.answers.letters.pop_back().expect("an answer");
    assert_eq!(answer.header().kind(), Kind::Values, "{:?}", answer.header().status());
    let bytes = answer.bytes()[HEADER_BYTES..][..4].try_into().expect("four bytes");
    f32::from_le_bytes(bytes)
}

#[test]
fn the_head_acknowledges_before_its_successor_has_it_and_the_chain_gets_it_all_the_same() {
    let mut pair = pair(Mutation::None);
    assert_eq!(answers_at_once(&mut pair, &push(2, 0, AT_TAIL, &[5], Flags::NONE)), 0);
    pair.settle();
    assert_eq!(pair.answers.letters.len(), 1, "the other table's waits for the tail");
    assert_eq!(answers_at_once(&mut pair, &push(3, 0, AT_HEAD, &[5], Flags::NONE)), 1);
    let tail = pair.tail.shard_mut().image();
    assert!(tail.rows[usize::from(AT_HEAD)].is_empty(), "the tail has it: this proves nothing");
    pair.settle();
    assert_eq!(pair.answers.letters.len(), 2);
    assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
}

#[test]
fn what_ends_a_clock_waits_for_the_tail_in_whatever_order_it_comes() {
    for mutation in [Mutation::None, Mutation::ClocksEndEarly] {
        let mut pair = pair(mutation);
        let early = usize::from(mutation == Mutation::ClocksEndEarly);
        let tick = push(2, 0, AT_HEAD, &[5], Flags::TICK);
        assert_eq!(answers_at_once(&mut pair, &tick), early);
        pair.settle();
        // A tick that has come before an earlier push: that one ends the clock.
        pair.ask(&push(4, 1, AT_HEAD, &[5], Flags::TICK));
        pair.settle();
        assert_eq!(pair.answers.letters.len(), 2);
        let missing = push(3, 1, AT_HEAD, &[5], Flags::NONE);
        assert_eq!(answers_at_once(&mut pair, &missing), early);
        pair.settle();
        assert_eq!(pair.answers.letters.len(), 3);
    }
    let mut pair = pair(Mutation::None);
    let empty = push(2, 0, AT_HEAD, &[], Flags::TICK);
    assert_eq!(answers_at_once(&mut pair, &empty), 0, "without keys it is no table's");
}

#[test]
fn reads_wait_for_what_the_tail_acknowledges_and_for_nothing_else() {
    let mut pair = pair(Mutation::None);
    pair.ask(&push(2, 0, AT_HEAD, &[5], Flags::NONE));
    assert_eq!(answers_at_once(&mut pair, &pull(AT_HEAD)), 1);
    assert_eq!(value(&mut pair), 2.0, "it shows what could still be lost");
    assert_eq!(answers_at_once(&mut pair, &pull(AT_TAIL)), 1);
    pair.ask(&push(3, 0, AT_TAIL, &[5], Flags::NONE));
    assert_eq!(answers_at_once(&mut pair, &pull(AT_HEAD)), 0, "a push before it waits");
    // What an answer says of clocks, the tail has as well.
    assert_eq!(answers_at_once(&mut pair, &push(4, 0, AT_HEAD, &[5], Flags::NONE)), 0);
    pair.settle();
    pair.answers.letters.retain(|answer| answer.header().kind() == Kind::Values);
    assert_eq!(value(&mut pair), 2.0);
}

#[test]
fn who_asks_again_or_asks_for_the_tails_word_waits_for_it() {
    let mut pair = pair(Mutation::None);
    let early = push(2, 0, AT_HEAD, &[5], Flags::NONE);
    assert_eq!(answers_at_once(&mut pair, &early), 1);
    assert_eq!(answers_at_once(&mut pair, &early), 0, "it is taken that the tail has it");
    pair.settle();
    let again = pair.answers.letters.pop_back().expect("an answer");
    assert_eq!(again.header().status(), Ok(Status::Duplicate));
    assert_eq!(answers_at_once(&mut pair, &push(3, 0, AT_HEAD, &[5], Flags::AT_TAIL)), 0);
    pair.settle();
    assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
}

#[test]
fn a_head_that_its_chain_has_not_heard_of_for_long_acknowledges_nothing_alone() {
    let mut pair = pair(Mutation::None);
    pair.now = pair.now + LEASE;
    assert_eq!(answers_at_once(&mut pair, &push(2, 0, AT_HEAD, &[5], Flags::NONE)), 0);
    pair.settle();
    assert_eq!(pair.answers.letters.len(), 1);
}

#[test]
fn a_push_that_the_next_head_lacks_counts_there_once_and_so_does_the_clock_behind_it() {
    let mut pair = pair(Mutation::None);
    let early = push(2, 0, AT_HEAD, &[5], Flags::NONE);
    assert_eq!(answers_at_once(&mut pair, &early), 1);
    let next = wire::Epoch::new(4);
    let at = super::tests::station(0, wire::Holds::Everything, None);
    assert!(pair.tail.place(next, Some(at)));
    std::mem::swap(&mut pair.head, &mut pair.tail);
    (pair.epoch, pair.now) = (next, pair.now + 2 * super::PROMISE);
    pair.answers.letters.clear();
    pair.ask(&push(3, 0, AT_HEAD, &[5], Flags::TICK));
    assert_eq!(pair.head.shard().clocks().map(|(slowest, _)| slowest.get()), Some(0));
    for expected in [Status::Done, Status::Duplicate] {
        pair.ask(&early);
        let answer = pair.answers.letters.pop_back().expect("a chain of one answers at once");
        assert_eq!(answer.header().status(), Ok(expected));
    }
    assert_eq!(pair.head.shard().clocks().map(|(slowest, _)| slowest.get()), Some(1));
    pair.ask(&pull(AT_HEAD));
    assert_eq!(value(&mut pair), 5.0);
}
