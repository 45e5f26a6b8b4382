//! Pulls that a replica answers which is not the head: what it waits for, and when it says no.

use wire::{Epoch, Flags, Header, Holds, Kind, Refusal, Status};

use super::tests::{EPOCH, Letter, Pair, Way, keyed, pair_with_a_row, push, spec, station, way};
use super::{Outcome, Replica, Taken};
use crate::engine::Mutation;

/// A pull of key 5 that any replica may answer.
///
/// - `clock`: of its sender, in a job without slack.
/// - `pushed`: the sender's last push before it.
fn pull(clock: u64, pushed: u16) -> Letter {
    let flags = Flags::ANY_REPLICA.get();
    let pull =
        Header { sequence: 1 << 63, clock, flags, credit: pushed, ..Header::new(Kind::Pull) };
    keyed(pull, &[5], &[])
}

fn ask(replica: &mut Replica<Letter>, pair_now: wire::Time, letter: &Letter) -> (Outcome, Way) {
    let mut answers = way();
    let outcome = replica.handle(pair_now, letter.bytes(), &mut answers);
    (outcome, answers)
}

/// The first value of an answer.
fn value(answers: &Way) -> f32 {
    let answer = answers.letters.front().expect("an answer");
    assert_eq!(answer.header().kind(), Kind::Values, "{:?}", answer.header().status());
    let bytes = answer.bytes()[wire::HEADER_BYTES..][..4].try_into().expect("four bytes");
    f32::from_le_bytes(bytes)
}

/// Hands what is under way to the tail.
fn follow(pair: &mut Pair) {
    pair.head.forward(pair.now, &mut pair.down);
    for letter in pair.down.letters.drain(..) {
        assert_eq!(pair.tail.follow(letter.bytes()), Taken::Done);
    }
}

#[test]
fn a_replica_answers_a_pull_once_its_own_clocks_permit_it() {
    for mutation in [Mutation::None, Mutation::ReplicasReadEarly] {
        let mut pair = pair_with_a_row(mutation);
        let now = pair.now;
        pair.ask(&push(2, 0, 0, &[5], Flags::TICK));
        // The head has ended clock 0, the tail has not heard of it.
        let (outcome, _) = ask(&mut pair.tail, now, &pull(1, 1));
        let early = mutation == Mutation::ReplicasReadEarly;
        assert_eq!(outcome, if early { Outcome::Answered } else { Outcome::Waiting });
        pair.tail.shard_mut().take_progress();
        follow(&mut pair);
        assert!(pair.tail.shard_mut().take_progress(), "who waits is asked again");
        let (outcome, answers) = ask(&mut pair.tail, now, &pull(1, 1));
        assert_eq!((outcome, value(&answers)), (Outcome::Answered, 3.0));
    }
}

#[test]
fn a_replica_answers_a_pull_once_it_has_what_its_sender_pushed_before() {
    for mutation in [Mutation::None, Mutation::OwnPushesMissed] {
        let mut pair = pair_with_a_row(mutation);
        let now = pair.now;
        pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
        let (outcome, _) = ask(&mut pair.tail, now, &pull(0, 2));
        let early = mutation == Mutation::OwnPushesMissed;
        assert_eq!(outcome, if early { Outcome::Answered } else { Outcome::Waiting });
        // A pull that was sent before the push does not wait for it.
        let (outcome, answers) = ask(&mut pair.tail, now, &pull(0, 1));
        assert_eq!((outcome, value(&answers)), (Outcome::Answered, 1.0));
        pair.tail.shard_mut().take_progress();
        follow(&mut pair);
        assert_eq!(pair.tail.shard_mut().take_progress(), !early, "who waits is asked again");
        let (outcome, answers) = ask(&mut pair.tail, now, &pull(0, 2));
        assert_eq!((outcome, value(&answers)), (Outcome::Answered, 3.0));
    }
}

#[test]
fn a_replica_in_the_middle_shows_nothing_that_the_tail_lacks() {
    for mutation in [Mutation::None, Mutation::AnswersNotHeld] {
        let mut pair = pair_with_a_row(mutation);
        let now = pair.now;
        pair.lengthen();
        pair.ask(&push(2, 0, 0, &[5], Flags::NONE));
        follow(&mut pair);
        let asked = pull(0, 2);
        let header = Header { epoch: pair.epoch.get(), ..asked.header() };
        let asked = keyed(header, &[5], &[]);
        let (outcome, answers) = ask(&mut pair.tail, now, &asked);
        assert_eq!(outcome, Outcome::Answered);
        let at_once = answers.letters.len();
        assert_eq!(at_once, usize::from(mutation == Mutation::AnswersNotHeld));
        let mut released = way();
        pair.tail.release(now, |slot| released.letters.push_back(slot));
        assert!(released.letters.is_empty(), "nobody behind it has acknowledged");
    }
}

#[test]
fn who_is_being_filled_or_is_of_another_epoch_or_is_asked_for_more_than_a_pull_says_no() {
    let mut pair = pair_with_a_row(Mutation::None);
    let now = pair.now;
    let refused = |answers: &Way| {
        let status = answers.letters.front().map(|answer| answer.header().status());
        matches!(status, Some(Ok(Status::Refused(Refusal::EpochMismatch { .. }))))
    };
    let plain = keyed(Header { sequence: 1 << 63, ..Header::new(Kind::Pull) }, &[5], &[]);
    for letter in [plain, push(2, 0, 0, &[5], Flags::ANY_REPLICA)] {
        assert!(refused(&ask(&mut pair.tail, now, &letter).1), "{:?}", letter.header());
    }
    pair.tail.fence(Epoch::new(9));
    assert!(refused(&ask(&mut pair.tail, now, &pull(0, 1)).1), "its chain has gone on");
    let at = station(1, Holds::Part, None);
    let made_of = spec(2, 1 << 20, Mutation::None);
    let mut joining = Replica::placed(made_of, 1 << 20, EPOCH, at);
    assert!(refused(&ask(&mut joining, now, &pull(0, 0)).1));
}
