//! Chains of two servers in one thread: what is held, promised, fenced and filled.

use std::collections::VecDeque;

use kernels::Isa;
use proptest::prelude::*;
use wire::{
    Announced, Define, Expiry, Flags, HEADER_BYTES, Header, Incarnation, JobId, Join, KeyAdmission,
    Keyed, Kind, Refusal, RowLife, Seal, ServerId, Staleness, Status, TableSpec,
};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::rule::{Adam, Rules, Sum, table_spec};

pub(super) const EPOCH: Epoch = Epoch::new(3);
const INCARNATION: Incarnation = Incarnation::new(1);
const OTHER: ServerId = ServerId::new(9);

/// A message, at a boundary of 8 bytes.
#[derive(Debug)]
pub(super) struct Letter {
    words: Vec<u64>,
    bytes: usize,
}

/// A way to somebody: what was posted, in order.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) letters: VecDeque<Letter>,
    bytes_max: usize,
}

impl Letter {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.bytes]
    }

    pub(super) fn header(&self) -> Header {
        Header::read_from_prefix(self.bytes()).expect("64 bytes").0
    }
}

impl Received for Letter {
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }
}

impl Outbox for Way {
    type Slot = Letter;

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn seal(&self) -> Seal {
        Seal::Body
    }

    fn acquire(&mut self, bytes: usize) -> Option<Letter> {
        Some(Letter { words: vec![0; bytes.div_ceil(8)], bytes })
    }

    fn bytes_mut(slot: &mut Letter) -> &mut [u8] {
        &mut slot.words.as_mut_bytes()[..slot.bytes]
    }

    fn post(&mut self, slot: Letter) {
        self.letters.push_back(slot);
    }
}

pub(super) fn way() -> Way {
    Way { letters: VecDeque::new(), bytes_max: 1 << 20 }
}

pub(super) fn spec(seed: u64, table_bytes_max: u64, mutation: Mutation) -> ShardSpec {
    let (isa, rules) = (Isa::detect(), Rules::builtin());
    ShardSpec { isa, epoch: EPOCH, rules, table_bytes_max, seed, credit: 8, mutation }
}

pub(super) fn station(place: usize, holds: Holds, downstream: Option<Holds>) -> Station {
    let upstream = (place > 0).then_some(OTHER);
    Station { place, holds, upstream, downstream: downstream.map(|holds| (OTHER, holds)) }
}

pub(super) fn message(header: Header, body: &[u8]) -> Letter {
    let epoch = if header.epoch == 0 { EPOCH.get() } else { header.epoch };
    let header = Header { epoch, incarnation: INCARNATION.get(), ..header };
    let bytes = HEADER_BYTES + body.len();
    let mut words = vec![0; bytes.div_ceil(8)];
    let out = &mut words.as_mut_bytes()[..bytes];
    out[HEADER_BYTES..].copy_from_slice(body);
    wire::seal(out, header, Seal::Body, |bytes| crc32c(Isa::detect(), 0, bytes));
    Letter { words, bytes }
}

pub(super) fn keyed(header: Header, keys: &[u64], values: &[f32]) -> Letter {
    let width = (values.len() / keys.len().max(1)) as u16;
    let body = [keys.as_bytes(), values.as_bytes()].concat();
    assert_eq!(HEADER_BYTES + body.len(), Keyed::message_bytes(keys.len(), width.into()));
    message(Header { keys: keys.len() as u32, width, ..header }, &body)
}

/// Two servers, and the way between them.
pub(super) struct Pair {
    pub(super) now: Time,
    /// What requests are stamped with.
    pub(super) epoch: Epoch,
    pub(super) head: Replica<Letter>,
    pub(super) tail: Replica<Letter>,
    pub(super) answers: Way,
    pub(super) down: Way,
    up: Way,
}

impl Pair {
    pub(super) fn new(tail_holds: Holds, message_bytes_max: usize, mutation: Mutation) -> Pair {
        let at_head = station(0, Holds::Everything, Some(tail_holds));
        let at_tail = station(1, tail_holds, None);
        let make = |seed, station| {
            Replica::placed(spec(seed, 1 << 20, mutation), message_bytes_max, EPOCH, station)
        };
        let now = Time::from_nanos(1 << 40);
        let (head, tail) = (make(1, at_head), make(2, at_tail));
        Pair { now, epoch: EPOCH, head, tail, answers: way(), down: way(), up: way() }
    }

    pub(super) fn link(&mut self) {
        assert!(self.tail.predecessor_linked(EPOCH));
        self.head.successor_linked(self.now);
    }

    pub(super) fn ask(&mut self, letter: &Letter) {
        let header = Header { epoch: self.epoch.get(), ..letter.header() };
        let letter = message(header, &letter.bytes()[HEADER_BYTES..]);
        let (outcome, _) = self.head.handle_received(self.now, letter, &mut self.answers);
        assert!(matches!(outcome, Outcome::Answered | Outcome::Waiting), "{outcome:?}");
    }

    /// Asks, and takes the answer of a chain that has all.
    pub(super) fn done(&mut self, letter: &Letter) {
        self.ask(letter);
        self.settle();
        let answer = self.answers.letters.pop_back().expect("an answer");
        assert_eq!(answer.header().status(), Ok(Status::Done));
    }

    /// Puts another server behind the tail, which is in the middle from now on, in the epoch after.
    pub(super) fn lengthen(&mut self) {
        let (later, whole) = (Epoch::new(self.epoch.get() + 1), Some(Holds::Everything));
        assert!(self.head.place(later, Some(station(0, Holds::Everything, whole))));
        assert!(self.tail.place(later, Some(station(1, Holds::Everything, whole))));
        assert!(self.tail.predecessor_linked(later));
        self.head.successor_linked(self.now);
        self.epoch = later;
        self.tail.word(self.now, &mut self.down);
        let word = self.down.letters.pop_front().expect("it says where it stands");
        assert!(self.head.hear_successor(self.now, word.bytes()));
    }

    /// One turn of each; whether anything moved.
    fn turn(&mut self) -> bool {
        self.turn_seen().0
    }

    /// The same, and what was sent to the tail.
    fn turn_seen(&mut self) -> (bool, Vec<Letter>) {
        let more = self.head.forward(self.now, &mut self.down);
        let sent: Vec<Letter> = self.down.letters.drain(..).collect();
        for letter in &sent {
            assert_eq!(self.tail.follow(letter.bytes()), Taken::Done, "{:?}", letter.header());
        }
        self.tail.word(self.now, &mut self.up);
        for letter in self.up.letters.drain(..) {
            assert!(self.head.hear_successor(self.now, letter.bytes()));
        }
        self.head.release(self.now, |slot| self.answers.letters.push_back(slot));
        (more || !sent.is_empty(), sent)
    }

    pub(super) fn settle(&mut self) {
        while self.turn() {}
        self.turn();
    }

    /// One turn of the head, one of the tail. What the tail was sent.
    pub(super) fn pass(&mut self) -> Vec<Letter> {
        self.turn_seen().1
    }

    pub(super) fn join(&mut self, lives: &[(RowLife, bool)]) {
        let join = Join { job: JobId::new(7), workers: 1, staleness: Staleness::BSP };
        self.done(&message(Header::new(Kind::Join), &join.to_bytes()));
        for (number, &(life, is_wide)) in lives.iter().enumerate() {
            let adam = Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
            let wide = table_spec("wide", 3, &adam);
            let spec = if is_wide { wide } else { table_spec("narrow", 2, &Sum) };
            let define = Define::new(&TableSpec { life, ..spec }, Announced::default());
            let header = Header { table: number as u16, ..Header::new(Kind::Define) };
            self.done(&message(header, define.expect("short names").as_bytes()));
        }
    }
}

pub(super) fn push(sequence: u64, clock: u64, table: u16, keys: &[u64], flags: Flags) -> Letter {
    let width = if table.is_multiple_of(2) { 2 } else { 3 };
    let deltas: Vec<f32> =
        (0..keys.len() * width).map(|at| (sequence + at as u64) as f32).collect();
    let flags = flags.get();
    keyed(Header { sequence, clock, table, flags, ..Header::new(Kind::Push) }, keys, &deltas)
}

fn pull(keys: &[u64]) -> Letter {
    keyed(Header { sequence: 1 << 63, ..Header::new(Kind::Pull) }, keys, &[])
}

pub(super) const LIVES: [RowLife; 4] = [
    RowLife { admission: KeyAdmission::All, expiry: Expiry::Never },
    RowLife { admission: KeyAdmission::Count(2), expiry: Expiry::Clocks(6) },
    RowLife { admission: KeyAdmission::All, expiry: Expiry::Recent },
    RowLife { admission: KeyAdmission::Count(3), expiry: Expiry::Recent },
];

/// A job of random pushes, loads and removals while a server is filled, from a table with rows in
/// it. The images at the end, and how often rows were noted.
fn fill_amid_changes(
    steps: &[(u64, u64, u16)],
    before: usize,
    message_bytes_max: usize,
    mutation: Mutation,
) -> (Image, Image) {
    let mut pair = Pair::new(Holds::Part, message_bytes_max, mutation);
    let lives: Vec<_> = LIVES.iter().zip([false, true].into_iter().cycle()).collect();
    pair.join(&lives.iter().map(|&(&life, is_wide)| (life, is_wide)).collect::<Vec<_>>());
    let (mut sequence, mut clock) = (0, 0);
    for (number, &(seed, count, table)) in steps.iter().enumerate() {
        if number == before {
            pair.link();
        }
        let draw = |at: u64| kernels::hash::mix(seed ^ at << 32) % 5000;
        let keys: std::collections::BTreeSet<u64> = (0..count).map(draw).collect();
        let keys: Vec<u64> = keys.into_iter().collect();
        let kind = seed % 16;
        if kind == 0 {
            pair.ask(&keyed(Header { table, ..Header::new(Kind::Remove) }, &keys, &[]));
        } else if kind == 1 {
            let width = if table.is_multiple_of(2) { 2 } else { 11 };
            let rows = vec![seed as f32; keys.len() * width];
            pair.ask(&keyed(Header { table, ..Header::new(Kind::Load) }, &keys, &rows));
        } else {
            sequence += 1;
            let flags = if seed.is_multiple_of(5) { Flags::TICK } else { Flags::NONE };
            pair.ask(&push(sequence, clock, table, &keys, flags));
            clock += u64::from(seed.is_multiple_of(5));
        }
        pair.head.shard_mut().tend();
        if seed.is_multiple_of(3) {
            pair.tail.shard_mut().tend();
        }
        pair.turn();
    }
    pair.settle();
    assert_eq!(pair.head.notices().as_slice(), [Notice::Filled]);
    assert_eq!(pair.tail.notices().as_slice(), []);
    (pair.head.shard_mut().image(), pair.tail.shard_mut().image())
}

fn steps() -> impl Strategy<Value = Vec<(u64, u64, u16)>> {
    proptest::collection::vec((any::<u64>(), 1_u64..120, 0_u16..4), 60..160)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_server_that_is_filled_amid_changes_holds_the_same_at_the_end(
        steps in steps(), before in 0_usize..60, long: bool,
    ) {
        let message_bytes_max = if long { 1 << 20 } else { 512 };
        let (head, tail) = fill_amid_changes(&steps, before, message_bytes_max, Mutation::None);
        prop_assert!(head.rows.iter().any(|rows| rows.len() > 100));
        prop_assert_eq!(head, tail);
    }
}

/// A chain of two whose job has a table with a row in it.
pub(super) fn pair_with_a_row(mutation: Mutation) -> Pair {
    let mut pair = Pair::new(Holds::Everything, 1 << 20, mutation);
    pair.link();
    pair.settle();
    pair.join(&[(RowLife::default(), false)]);
    pair.done(&push(1, 0, 0, &[5], Flags::NONE));
    pair
}

#[test]
fn a_row_that_was_too_old_to_be_sent_and_is_loaded_again_reaches_who_is_filled() {
    let mut pair = Pair::new(Holds::Part, 512, Mutation::None);
    let short = RowLife { expiry: Expiry::Clocks(1), ..RowLife::default() };
    pair.join(&[(short, false), (RowLife::default(), true)]);
    pair.ask(&push(1, 0, 0, &[5, 6], Flags::NONE));
    // Ticks by the other table's pushes, so that nothing sweeps the first.
    let many: Vec<u64> = (0..1000).collect();
    (0..5).for_each(|clock| pair.ask(&push(2 + clock, clock, 1, &many, Flags::TICK)));
    pair.link();
    for _ in 0..8 {
        pair.turn();
    }
    assert!(pair.head.notices().is_empty(), "it is filled already: this proves nothing");
    pair.ask(&keyed(Header::new(Kind::Load), &[5], &[1.0, 2.0]));
    pair.settle();
    let (head, tail) = (pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    assert!(head.rows[0].contains_key(&5), "a load makes a row young");
    assert_eq!(head, tail);
}

#[test]
fn what_moves_while_a_server_is_filled_is_missed_if_it_is_not_noted() {
    let steps: Vec<_> = (0..300).map(|n| (kernels::hash::mix(n) | 2, 100, 0)).collect();
    let (head, tail) = fill_amid_changes(&steps, 20, 512, Mutation::None);
    assert_eq!(head, tail);
    let (head, tail) = fill_amid_changes(&steps, 20, 512, Mutation::MovedRowsMissed);
    assert_ne!(head, tail, "the walk alone finds all: this proves nothing");
}

#[test]
fn a_push_is_answered_once_the_tail_has_it_and_no_earlier() {
    let mut pair = pair_with_a_row(Mutation::None);
    pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
    assert!(pair.answers.letters.is_empty());
    pair.settle();
    assert_eq!(pair.answers.letters.len(), 1);
    let (head, tail) = (pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    assert_eq!(head, tail);
}

#[test]
fn a_head_that_its_chain_has_not_heard_of_for_long_waits_with_a_pull() {
    for mutation in [Mutation::None, Mutation::PromisesBroken] {
        let mut pair = pair_with_a_row(mutation);
        pair.ask(&pull(&[5]));
        assert_eq!(pair.answers.letters.len(), 1, "it was heard of just now");
        pair.settle();
        pair.answers.letters.clear();
        pair.now = pair.now + LEASE;
        pair.ask(&pull(&[5]));
        let at_once = pair.answers.letters.len();
        assert_eq!(at_once, usize::from(mutation == Mutation::PromisesBroken));
        pair.settle();
        assert_eq!(pair.answers.letters.len(), 1, "an operation without effect went through");
    }
}

#[test]
fn a_new_head_answers_nobody_before_its_promise_is_over() {
    let mut pair = pair_with_a_row(Mutation::None);
    assert!(pair.tail.place(Epoch::new(4), Some(station(0, Holds::Everything, None))));
    let again = push(1, 0, 0, &[5], Flags::NONE);
    let again = message(Header { epoch: 4, ..again.header() }, &again.bytes()[HEADER_BYTES..]);
    let mut answers = way();
    assert_eq!(pair.tail.handle(pair.now, again.bytes(), &mut answers), Outcome::Answered);
    pair.tail.release(pair.now + LEASE, |slot| answers.letters.push_back(slot));
    assert!(answers.letters.is_empty(), "the head before may answer yet");
    assert!(pair.tail.deadline().is_some());
    pair.tail.release(pair.now + PROMISE, |slot| answers.letters.push_back(slot));
    assert_eq!(answers.letters[0].header().status(), Ok(Status::Duplicate));
}

#[test]
fn a_successor_at_a_later_epoch_takes_nothing_of_the_one_before() {
    for mutation in [Mutation::None, Mutation::StaleEpochsTaken] {
        let mut pair = pair_with_a_row(mutation);
        pair.tail.place(Epoch::new(4), Some(station(0, Holds::Everything, None)));
        let linked = pair.tail.predecessor_linked(EPOCH);
        assert_eq!(linked, mutation == Mutation::StaleEpochsTaken);
        pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
        pair.head.forward(pair.now, &mut pair.down);
        let operation = pair.down.letters.pop_front().expect("the push goes on");
        let taken = pair.tail.follow(operation.bytes());
        assert_eq!(taken == Taken::Done, mutation == Mutation::StaleEpochsTaken);
        pair.head.release(pair.now, |slot| pair.answers.letters.push_back(slot));
        assert!(pair.answers.letters.is_empty(), "no acknowledgement came");
        pair.head.fence(Epoch::new(4));
        pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
        let refusal = Refusal::EpochMismatch { shard: Epoch::new(4) };
        let status = pair.answers.letters[0].header().status();
        assert_eq!(status, Ok(Status::Refused(refusal)));
    }
}

#[test]
fn a_head_that_has_heard_of_a_later_epoch_stays_fenced_in_the_epochs_before() {
    let mut pair = pair_with_a_row(Mutation::None);
    let head = |epoch| (Epoch::new(epoch), Some(station(0, Holds::Everything, None)));
    pair.head.fence(Epoch::new(5));
    let (epoch, station) = head(4);
    assert!(pair.head.place(epoch, station));
    pair.epoch = epoch;
    pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
    let refusal = Refusal::EpochMismatch { shard: Epoch::new(5) };
    let answer = pair.answers.letters.pop_back().expect("an answer");
    assert_eq!(answer.header().status(), Ok(Status::Refused(refusal)));
    let (epoch, station) = head(5);
    assert!(pair.head.place(epoch, station));
    pair.epoch = epoch;
    pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
    let answer = pair.answers.letters.pop_back().expect("an answer");
    assert_eq!(answer.header().status(), Ok(Status::Done));
}

#[test]
fn a_cursor_of_another_epochs_head_is_stale_though_as_many_rows_have_moved() {
    let mut pair = Pair::new(Holds::Everything, 1 << 20, Mutation::None);
    pair.link();
    pair.join(&[(RowLife::default(), false)]);
    let keys: Vec<u64> = (0..600).collect();
    pair.done(&push(1, 0, 0, &keys, Flags::NONE));
    pair.answers.bytes_max = 4096;
    let scan = |cursor, epoch| {
        let header = Header { sequence: 1 << 63, clock: cursor, ..Header::new(Kind::Scan) };
        message(Header { epoch, ..header }, &[])
    };
    pair.ask(&scan(wire::ScanCursor::START.get(), EPOCH.get()));
    pair.settle();
    let page = pair.answers.letters.pop_back().expect("an answer").header();
    assert_eq!((page.kind(), page.keys > 0), (Kind::Rows, true));
    let next = Epoch::new(EPOCH.get() + 1);
    pair.tail.place(next, Some(station(0, Holds::Everything, None)));
    let after_promises = pair.now + 2 * PROMISE;
    let mut answers = way();
    let asked = scan(page.clock, next.get());
    let outcome = pair.tail.handle(after_promises, asked.bytes(), &mut answers);
    assert_eq!(outcome, Outcome::Answered);
    pair.tail.release(after_promises, |slot| answers.letters.push_back(slot));
    let answer = answers.letters.pop_back().expect("an answer").header();
    assert_eq!(answer.status(), Ok(Status::Refused(Refusal::CursorStale)));
}

#[test]
fn answers_wait_for_a_server_that_is_filled_only_once_it_has_the_pages() {
    let mut pair = Pair::new(Holds::Part, 1 << 20, Mutation::None);
    pair.join(&[(RowLife::default(), false)]);
    let keys: Vec<u64> = (0..6000).collect();
    pair.done(&push(1, 0, 0, &keys, Flags::NONE));
    pair.link();
    pair.tail.word(pair.now, &mut pair.up);
    let word = pair.up.letters.pop_front().expect("a successor speaks first");
    assert!(pair.head.hear_successor(pair.now, word.bytes()));
    while pair.head.forward(pair.now, &mut pair.down) {}
    assert!(pair.down.letters.len() > 3, "the job and some pages are under way");
    pair.ask(&push(2, 0, 0, &keys[..5], Flags::NONE));
    assert_eq!(pair.answers.letters.len(), 1, "nobody waits for pages that are under way");
    pair.settle();
    assert_eq!(*pair.head.notices(), [Notice::Filled]);
    assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    pair.ask(&push(3, 0, 0, &keys[..5], Flags::NONE));
    assert_eq!(pair.answers.letters.len(), 1, "it has all, and is waited for");
    pair.settle();
    assert_eq!(pair.answers.letters.len(), 2);
}

/// Bits that flipped on the way made another job's join of one, and the job that was served left.
#[test]
fn a_damaged_join_joins_no_job() {
    let pair = pair_with_a_row(Mutation::None);
    let join = Join { job: JobId::new(8), workers: 1, staleness: Staleness::BSP };
    let mut letter = message(Header::new(Kind::Join), &join.to_bytes());
    for bit in 0..8 * letter.bytes {
        letter.words.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(pair.head.job_of_join(letter.bytes()), None, "bit {bit}");
        letter.words.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(pair.head.job_of_join(letter.bytes()), Some(JobId::new(8)));
    assert_eq!(pair.head.job_of_join(push(1, 0, 0, &[5], Flags::NONE).bytes()), None);
}

#[test]
fn workers_that_are_dismissed_have_left_on_every_replica_and_are_refused_when_they_come_back() {
    let mut pair = pair_with_a_row(Mutation::None);
    pair.head.dismiss();
    pair.settle();
    assert_eq!((pair.head.job_served(), pair.tail.job_served()), (None, None));
    assert_eq!(pair.head.shard_mut().image(), pair.tail.shard_mut().image());
    pair.ask(&push(2, 1, 0, &[5], Flags::NONE));
    pair.settle();
    let answer = pair.answers.letters.pop_back().expect("an answer");
    assert_eq!(answer.header().status(), Ok(Status::Refused(Refusal::NotJoined)));
    let join = Join { job: JobId::new(8), workers: 1, staleness: Staleness::BSP };
    pair.done(&message(Header::new(Kind::Join), &join.to_bytes()));
    assert_eq!(pair.tail.job_served(), Some(JobId::new(8)));
}
