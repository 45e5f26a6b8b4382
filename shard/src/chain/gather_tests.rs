//! Pushes of different workers that wait for each other, and what they are made.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::{
    Announced, Clock, Define, Flags, Header, Holds, JobId, Join, Kind, MERGED_PUSHES_MAX, Seal,
    Staleness, Status, TableSpec,
};

use super::tests::{Letter, Pair, Way, keyed, message, station, way};
use super::*;
use crate::rule::{Sum, table_spec};

const WIDTH: usize = 2;

/// A chain of two with a table whose pushes are aggregated, and one whose are not.
fn chain(workers: u32, staleness: Staleness, mutation: Mutation) -> Pair {
    let mut pair = Pair::new(Holds::Everything, 1 << 20, mutation);
    pair.link();
    pair.settle();
    let join = Join { job: JobId::new(7), workers, staleness };
    for worker in 0..workers {
        pair.done(&message(Header { worker, ..Header::new(Kind::Join) }, &join.to_bytes()));
    }
    for (table, aggregate) in [(0, true), (1, false), (2, true)] {
        let spec = TableSpec { aggregate, ..table_spec("sums", WIDTH as u32, &Sum) };
        let define = Define::new(&spec, Announced::default()).expect("a short name");
        pair.done(&message(Header { table, ..Header::new(Kind::Define) }, define.as_bytes()));
    }
    pair
}

/// A push of ones.
fn push(worker: u32, sequence: u64, clock: u64, keys: &[u64], flags: Flags) -> Letter {
    let flags = flags.get();
    let header = Header { worker, sequence, clock, flags, ..Header::new(Kind::Push) };
    keyed(header, keys, &vec![1.0; keys.len() * WIDTH])
}

fn pull(worker: u32, clock: u64, keys: &[u64]) -> Letter {
    let (sequence, width) = (1 << 63, 0);
    keyed(Header { worker, sequence, clock, width, ..Header::new(Kind::Pull) }, keys, &[])
}

/// Operations that a request brings at once.
fn brings(pair: &mut Pair, letter: &Letter) -> u64 {
    let before = pair.head.position();
    pair.ask(letter);
    pair.head.position() - before
}

/// After so long, in a turn that finds nothing else to do, or does. Whether what waited is applied.
fn wait(pair: &mut Pair, time: Duration, is_idle: bool) -> bool {
    pair.now = pair.now + time;
    pair.head.end_waits::<Way>(pair.now, is_idle, Seal::Body)
}

fn waiting(pair: &Pair) -> bool {
    pair.head.gathering.deadline().is_some()
}

/// The first value of these keys, as anybody at this server sees them.
fn rows(replica: &mut Replica<Letter>) -> BTreeMap<u64, f32> {
    let image = replica.shard_mut().image();
    image.rows[0].iter().map(|(&key, row)| (key, f32::from_bits(row[0]))).collect()
}

fn statuses(pair: &mut Pair) -> Vec<(u32, Status)> {
    let answers = pair.answers.letters.drain(..);
    let of = |letter: Letter| (letter.header().worker, letter.header().status().expect("one"));
    answers.map(of).collect()
}

#[test]
fn pushes_of_all_workers_are_one_operation_and_each_is_answered_once_the_tail_has_it() {
    let mut pair = chain(3, Staleness::ASP, Mutation::None);
    assert_eq!(brings(&mut pair, &push(2, 1, 0, &[5, 9], Flags::NONE)), 0);
    assert_eq!(brings(&mut pair, &push(0, 1, 0, &[1, 5], Flags::TICK)), 0);
    assert!(rows(&mut pair.head).is_empty() && pair.answers.letters.is_empty());
    assert_eq!(brings(&mut pair, &push(1, 1, 0, &[5], Flags::NONE)), 1, "all are here");
    assert!(pair.answers.letters.is_empty(), "the tail lacks it");
    pair.settle();
    assert_eq!(statuses(&mut pair), [(2, Status::Done), (0, Status::Done), (1, Status::Done)]);
    let sums = BTreeMap::from([(1, 1.0), (5, 3.0), (9, 1.0)]);
    assert_eq!(rows(&mut pair.head), sums);
    assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    let tally = pair.head.shard_mut().take_tally();
    assert_eq!((tally.merges, tally.pushes_merged, tally.keys_pushed), (1, 3, 5));
    // Sent again, to the head or to the one after it, each is known.
    for worker in 0..3 {
        pair.ask(&push(worker, 1, 0, &[5], Flags::NONE));
    }
    pair.settle();
    assert!(statuses(&mut pair).iter().all(|&(_, status)| status == Status::Duplicate));
    assert_eq!(rows(&mut pair.tail), sums);
}

#[test]
fn a_rule_sees_the_sum() {
    let mut pair = chain(2, Staleness::ASP, Mutation::None);
    let adam = crate::rule::Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
    let spec = TableSpec { aggregate: true, ..table_spec("adam", 1, &adam) };
    let define = Define::new(&spec, Announced::default()).expect("a short name");
    pair.done(&message(Header { table: 3, ..Header::new(Kind::Define) }, define.as_bytes()));
    let gradient = |worker, value: f32| {
        let header = Header { worker, sequence: 1, table: 3, ..Header::new(Kind::Push) };
        keyed(header, &[4], &[value])
    };
    pair.ask(&gradient(0, 0.75));
    pair.ask(&gradient(1, -0.5));
    pair.settle();
    let mut alone = chain(1, Staleness::ASP, Mutation::None);
    alone.done(&message(Header { table: 3, ..Header::new(Kind::Define) }, define.as_bytes()));
    alone.ask(&gradient(0, 0.25));
    let image = |replica: &mut Replica<Letter>| replica.shard_mut().image().rows.remove(3);
    assert_eq!(image(&mut pair.tail), image(&mut alone.head));
}

#[test]
fn a_push_waits_for_a_turn_without_work_and_no_longer() {
    let mut pair = chain(3, Staleness::ASP, Mutation::None);
    let one = push(0, 1, 0, &[5], Flags::TICK);
    assert_eq!(brings(&mut pair, &one), 0);
    assert!(pair.head.deadline() <= Some(pair.now + WAIT_MAX));
    assert!(!wait(&mut pair, WAIT_MAX / 2, false));
    assert!(wait(&mut pair, Duration::ZERO, true));
    assert!(!waiting(&pair));
    pair.settle();
    assert_eq!(statuses(&mut pair), [(0, Status::Done)]);
    assert_eq!(brings(&mut pair, &push(0, 2, 0, &[5], Flags::TICK)), 0);
    assert!(wait(&mut pair, WAIT_MAX, false));
}

#[test]
fn where_workers_wait_for_the_slowest_an_end_of_a_clock_waits_until_that_can_go_on() {
    let mut pair = chain(3, Staleness::BSP, Mutation::None);
    pair.ask(&push(0, 1, 0, &[5], Flags::TICK));
    assert!(!wait(&mut pair, WAIT_MAX, true), "others are bound to come");
    pair.ask(&push(1, 1, 0, &[5], Flags::TICK));
    // Their pulls of the next clock cannot be answered, whatever is applied.
    assert_eq!(brings(&mut pair, &pull(0, 1, &[5])), 0);
    assert!(waiting(&pair));
    assert!(wait(&mut pair, CLOCK_WAIT_MAX, true));
    pair.settle();
    // The slowest worker's push waits for nobody: all others are here already.
    assert_eq!(brings(&mut pair, &push(2, 1, 0, &[5], Flags::TICK)), 1);
    pair.settle();
    assert_eq!(statuses(&mut pair).len(), 3);
    assert_eq!(pair.tail.shard().clocks(), Some((Clock::new(1), Clock::new(1))));
    // What ends no clock has nothing to wait for.
    pair.ask(&push(0, 2, 1, &[5], Flags::NONE));
    assert!(wait(&mut pair, Duration::ZERO, true));
}

#[test]
fn whatever_has_to_see_a_push_has_it_applied_first_and_nothing_else_does() {
    let mut pair = chain(4, Staleness::ASP, Mutation::None);
    let mut sequence = 0;
    let mut again = |pair: &mut Pair| {
        sequence += 1;
        assert_eq!(brings(pair, &push(0, sequence, 0, &[5], Flags::NONE)), 0);
        sequence
    };
    again(&mut pair);
    assert_eq!(brings(&mut pair, &pull(1, 0, &[5])), 0, "another one's pull");
    assert_eq!(brings(&mut pair, &pull(0, 0, &[5])), 1, "its own");
    let header = |kind| Header { worker: 1, ..Header::new(kind) };
    let other_table =
        keyed(Header { table: 2, sequence: 1, ..header(Kind::Push) }, &[3], &[1.0; 2]);
    let not_aggregated =
        keyed(Header { table: 1, sequence: 2, ..header(Kind::Push) }, &[3], &[1.0; 2]);
    let empty = keyed(Header { sequence: 3, ..header(Kind::Push) }, &[], &[]);
    let load = keyed(header(Kind::Load), &[8], &[1.0; 2]);
    let remove = keyed(header(Kind::Remove), &[8], &[]);
    let measure = message(header(Kind::Measure), &[]);
    let scan = message(header(Kind::Scan), &[]);
    let leave = message(header(Kind::Leave), &[]);
    // With what waited, and what it does itself.
    let all = [
        (&other_table, 1), // It waits in turn.
        (&not_aggregated, 2),
        (&empty, 2),
        (&load, 2),
        (&remove, 2),
        (&measure, 1),
        (&scan, 1),
        (&leave, 2),
    ];
    for (letter, expected) in all {
        again(&mut pair);
        assert_eq!(brings(&mut pair, letter), expected, "{:?}", letter.header());
        wait(&mut pair, Duration::ZERO, true);
    }
    let last = again(&mut pair);
    let second = push(0, last + 1, 0, &[5], Flags::NONE);
    assert_eq!(brings(&mut pair, &second), 1, "a second push of the same worker");
    wait(&mut pair, Duration::ZERO, true);
    pair.settle();
    assert!(statuses(&mut pair).iter().all(|&(_, status)| status == Status::Done));
    assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
}

#[test]
fn a_push_that_is_sent_again_while_it_waits_counts_once() {
    let mut pair = chain(3, Staleness::ASP, Mutation::None);
    let one = push(0, 1, 0, &[5], Flags::NONE);
    assert_eq!(brings(&mut pair, &one), 0);
    assert_eq!(brings(&mut pair, &one), 1);
    pair.settle();
    assert_eq!(statuses(&mut pair), [(0, Status::Done), (0, Status::Duplicate)]);
    assert_eq!(rows(&mut pair.tail), BTreeMap::from([(5, 1.0)]));
}

#[test]
fn so_many_pushes_wait_and_so_many_bytes() {
    let mut pair = chain(MERGED_PUSHES_MAX as u32 + 9, Staleness::ASP, Mutation::None);
    let position = pair.head.position();
    for worker in 0..MERGED_PUSHES_MAX as u32 {
        assert_eq!(pair.head.position(), position);
        pair.ask(&push(worker, 1, 0, &[u64::from(worker)], Flags::NONE));
    }
    assert_eq!(pair.head.position(), position + 1);
    pair.settle();
    assert_eq!(statuses(&mut pair).len(), MERGED_PUSHES_MAX);
    let keys = |count: u64| (0..count).collect::<Vec<u64>>();
    let row_bytes = 8 + 4 * WIDTH as u64;
    let half = GATHERED_BYTES_MAX as u64 / row_bytes / 2;
    let of = |worker, count| push(worker, 2, 0, &keys(count), Flags::NONE);
    pair.ask(&of(0, half));
    pair.ask(&of(1, half));
    pair.settle();
    assert!(statuses(&mut pair).is_empty());
    pair.ask(&push(2, 2, 0, &[1], Flags::NONE));
    pair.settle();
    let answered: Vec<u32> = statuses(&mut pair).iter().map(|&(worker, _)| worker).collect();
    assert_eq!(answered, [0, 1], "it would be one row too many");
    let held = pair.head.gathering.held_bytes();
    assert!(held <= 4 * GATHERED_BYTES_MAX, "{held} bytes");
}

#[test]
fn a_push_that_is_too_long_to_wait_is_applied_alone() {
    let mut pair = chain(2, Staleness::ASP, Mutation::None);
    let count = GATHERED_BYTES_MAX as u64 / (8 + 4 * WIDTH as u64) + 1;
    let keys: Vec<u64> = (0..count).collect();
    pair.ask(&push(0, 1, 0, &keys, Flags::NONE));
    assert!(!waiting(&pair));
    pair.settle();
    assert_eq!(pair.answers.letters.len(), 1, "the table has no such room, which it says at once");
}

#[test]
fn what_the_table_takes_alone_is_not_refused_for_what_it_waited_with() {
    let mut pair = chain(2, Staleness::ASP, Mutation::None);
    // 1 MiB holds fewer rows than this.
    let many: Vec<u64> = (10..80_000).collect();
    pair.ask(&push(0, 1, 0, &many, Flags::NONE));
    pair.ask(&push(1, 1, 0, &[3], Flags::NONE));
    pair.settle();
    let found = statuses(&mut pair);
    assert!(matches!(found[0], (0, Status::Refused(wire::Refusal::TableFull { .. }))), "{found:?}");
    assert_eq!(found[1], (1, Status::Done));
    assert_eq!(rows(&mut pair.tail), BTreeMap::from([(3, 1.0)]));
}

#[test]
fn a_head_that_is_replaced_drops_what_waits_and_the_next_one_takes_it() {
    let mut pair = chain(3, Staleness::ASP, Mutation::None);
    let (one, two) = (push(0, 1, 0, &[5], Flags::NONE), push(1, 1, 0, &[5], Flags::NONE));
    pair.ask(&one);
    pair.head.fence(Epoch::new(4));
    assert!(!waiting(&pair));
    assert!(pair.tail.place(Epoch::new(4), Some(station(0, Holds::Everything, None))));
    std::mem::swap(&mut pair.head, &mut pair.tail);
    (pair.epoch, pair.now) = (Epoch::new(4), pair.now + 2 * PROMISE);
    pair.ask(&one);
    pair.ask(&two);
    assert!(wait(&mut pair, Duration::ZERO, true));
    pair.head.release(pair.now, |slot| pair.answers.letters.push_back(slot));
    assert_eq!(statuses(&mut pair), [(0, Status::Done), (1, Status::Done)]);
    assert_eq!(rows(&mut pair.head), BTreeMap::from([(5, 2.0)]));
}

#[test]
fn a_head_that_stays_one_keeps_what_waits_and_answers_it_in_the_next_epoch() {
    let mut pair = chain(3, Staleness::ASP, Mutation::None);
    pair.ask(&push(0, 1, 0, &[5], Flags::NONE));
    let next = Epoch::new(4);
    assert!(pair.head.place(next, Some(station(0, Holds::Everything, None))));
    assert!(wait(&mut pair, Duration::ZERO, true));
    pair.head.release(pair.now, |slot| pair.answers.letters.push_back(slot));
    let answer = pair.answers.letters.pop_back().expect("a chain of one answers");
    assert_eq!((answer.header().epoch(), answer.header().status()), (next, Ok(Status::Done)));
}

#[test]
fn workers_do_not_say_what_servers_say_to_each_other() {
    let mut pair = chain(2, Staleness::ASP, Mutation::None);
    pair.ask(&push(0, 1, 0, &[5], Flags::NONE));
    pair.ask(&push(1, 1, 0, &[5], Flags::NONE));
    pair.head.forward(pair.now, &mut pair.down);
    let operation = pair.down.letters.pop_back().expect("it goes on");
    assert_eq!(operation.header().kind(), Kind::Merged);
    let mut answers = way();
    let outcome = pair.head.handle(pair.now, operation.bytes(), &mut answers);
    assert!(matches!(outcome, Outcome::Malformed(_)), "{outcome:?}");
}

/// What a worker does next: push and perhaps tick, pull, or ask again.
type Step = (u32, u64, u8);

/// A chain on which workers do as the steps say, and what was pushed.
fn storm(steps: &[Step], staleness: Staleness, mutation: Mutation) -> (Pair, BTreeMap<u64, f32>) {
    const WORKERS: usize = 3;
    let mut pair = chain(WORKERS as u32, staleness, mutation);
    let (mut sequences, mut clocks) = ([0; WORKERS], [0; WORKERS]);
    let mut last: [Option<Letter>; WORKERS] = Default::default();
    let mut pushed: BTreeMap<u64, f32> = BTreeMap::new();
    for &(worker, seed, what) in steps {
        let at = worker as usize % WORKERS;
        let worker = at as u32;
        let keys: std::collections::BTreeSet<u64> =
            (0..1 + seed % 6).map(|n| kernels::hash::mix(seed ^ n << 40) % 12).collect();
        let keys: Vec<u64> = keys.into_iter().collect();
        match what % 8 {
            0 => pair.ask(&pull(worker, clocks[at], &keys)),
            1 => last[at].as_ref().into_iter().for_each(|letter| pair.ask(letter)),
            2 => drop(wait(&mut pair, Duration::ZERO, true)),
            3 => pair.settle(),
            _ => {
                sequences[at] += 1;
                let flags = if what.is_multiple_of(2) { Flags::TICK } else { Flags::NONE };
                let letter = push(worker, sequences[at], clocks[at], &keys, flags);
                clocks[at] += u64::from(flags == Flags::TICK);
                keys.iter().for_each(|&key| *pushed.entry(key).or_default() += 1.0);
                pair.ask(&letter);
                last[at] = Some(letter);
            }
        }
    }
    wait(&mut pair, CLOCK_WAIT_MAX, true);
    pair.settle();
    (pair, pushed)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0_u32..3, any::<u64>(), any::<u8>()), 1..80)
}

proptest! {
    #[test]
    fn whatever_the_order_rows_are_the_sums_and_replicas_are_the_same(
        steps in steps(), bound in 0_usize..3,
    ) {
        let staleness = [Staleness::BSP, Staleness::ssp(1), Staleness::ASP][bound];
        let (mut pair, pushed) = storm(&steps, staleness, Mutation::None);
        prop_assert_eq!(rows(&mut pair.head), pushed);
        prop_assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    }
}

#[test]
fn a_push_whose_name_does_not_go_on_with_the_sum_is_doubled_by_the_next_head() {
    let mut pair = chain(2, Staleness::ASP, Mutation::NamesForgotten);
    let one = push(0, 1, 0, &[5], Flags::NONE);
    pair.ask(&one);
    pair.ask(&push(1, 1, 0, &[5], Flags::NONE));
    pair.settle();
    assert!(pair.tail.place(Epoch::new(4), Some(station(0, Holds::Everything, None))));
    std::mem::swap(&mut pair.head, &mut pair.tail);
    (pair.epoch, pair.now) = (Epoch::new(4), pair.now + 2 * PROMISE);
    pair.ask(&one);
    wait(&mut pair, Duration::ZERO, true);
    assert_eq!(rows(&mut pair.head), BTreeMap::from([(5, 3.0)]));
}
