//! Recordings beside a job that goes on, and the shards that are made of them.

use std::collections::BTreeSet;

use kernels::Isa;
use kernels::crc32c::crc32c;
use proptest::prelude::*;
use wire::{
    Announced, Clock, Define, Flags, HEADER_BYTES, Header, Holds, JobId, Join, Kind, Malformed,
    Refusal, RowLife, Staleness, Status, WorkerId,
};
use zerocopy::IntoBytes;

use super::tests::{EPOCH, LIVES, Letter, Pair, keyed, message, push, spec, station, way};
use super::*;
use crate::rule::{Sum, table_spec};
use crate::{Mutation, Outcome};

/// What recordings had, and the shard at their cuts.
pub(super) struct Recorded {
    /// Of the last recording.
    pub(super) tapes: Vec<Tape>,
    /// Of those before it, each with the changes since the one before.
    pub(super) bases: Vec<Vec<Tape>>,
    /// As the shard was at the cut of the last recording; none if it has not come there.
    pub(super) at_cut: Option<Image>,
}

/// A chain whose head is asked for what a step says.
struct Changing {
    pair: Pair,
    holds: Option<Holds>,
    sequence: u64,
    clock: u64,
}

impl Changing {
    fn new(holds: Option<Holds>, message_bytes_max: usize, mutation: Mutation) -> Changing {
        let whole = holds.unwrap_or(Holds::Everything);
        let mut pair = Pair::new(whole, message_bytes_max, mutation);
        match holds {
            Some(Holds::Everything) => pair.link(),
            Some(Holds::Part) => {}
            None => {
                let alone = Some(station(0, Holds::Everything, None));
                assert!(pair.head.place(Epoch::new(4), alone));
            }
        }
        pair.epoch = pair.head.epoch();
        let lives: Vec<_> = LIVES.iter().zip([false, true].into_iter().cycle()).collect();
        pair.join(&lives.iter().map(|&(&life, is_wide)| (life, is_wide)).collect::<Vec<_>>());
        Changing { pair, holds, sequence: 0, clock: 0 }
    }

    fn step(&mut self, (seed, count, table): (u64, u64, u16)) {
        let draw = |at: u64| kernels::hash::mix(seed ^ at << 32) % 5000;
        let keys: BTreeSet<u64> = (0..count).map(draw).collect();
        let keys: Vec<u64> = keys.into_iter().collect();
        let ticks = seed.is_multiple_of(5);
        match seed % 16 {
            0 => self.pair.ask(&keyed(Header { table, ..Header::new(Kind::Remove) }, &keys, &[])),
            1 => {
                let width = if table.is_multiple_of(2) { 2 } else { 11 };
                let rows = vec![seed as f32; keys.len() * width];
                self.pair.ask(&keyed(Header { table, ..Header::new(Kind::Load) }, &keys, &rows));
            }
            _ => {
                self.sequence += 1;
                let flags = if ticks { Flags::TICK } else { Flags::NONE };
                self.pair.ask(&push(self.sequence, self.clock, table, &keys, flags));
                self.clock += u64::from(ticks);
            }
        }
    }

    /// Who records: the tail, or the head of a chain of one.
    fn recorder(&mut self) -> &mut Replica<Letter> {
        if self.holds.is_some() { &mut self.pair.tail } else { &mut self.pair.head }
    }
}

/// As [`record_line_amid_changes`], with one recording, from step `before` on.
fn record_amid_changes(
    steps: &[(u64, u64, u16)],
    before: usize,
    holds: Option<Holds>,
    mutation: Mutation,
) -> Recorded {
    record_line_amid_changes(steps, &[before], (holds, None), mutation)
}

/// A random job on a chain, whose tail begins a recording with each step that is named; each step
/// adds a page.
///
/// - `ahead`: clocks until the cut of the last recording; none: it is cut as it begins, as all
///   others are.
pub(super) fn record_line_amid_changes(
    steps: &[(u64, u64, u16)],
    begins: &[usize],
    (holds, ahead): (Option<Holds>, Option<u64>),
    mutation: Mutation,
) -> Recorded {
    // Short messages, so that the tail is sent long ones in pieces.
    let mut changing = Changing::new(holds, 512, mutation);
    let (mut tapes, mut bases, mut at_cut) = (Vec::new(), Vec::new(), None);
    let mut cut = None;
    for (number, &step) in steps.iter().enumerate() {
        // Each but the last ends half way to the next one: what is gone then only that one names.
        let ends = begins.windows(2).any(|pair| number == pair[0].midpoint(pair[1]));
        if ends && number > begins[0] {
            bases.push(finish(changing.recorder(), std::mem::take(&mut tapes)));
            changing.recorder().end_recording();
        }
        if begins.contains(&number) {
            let is_last = begins.last() == Some(&number);
            let number = bases.len() as u64;
            cut = ahead.filter(|_| is_last).map(|ahead| Clock::new(changing.clock + ahead));
            let tail = changing.recorder();
            let purpose = Purpose { number, base: number.checked_sub(1), is_base: true };
            tail.begin_recording(purpose).expect("it is the tail");
            tail.cut_recording(cut);
            at_cut = cut.is_none().then(|| tail.shard_mut().image());
        }
        changing.step(step);
        changing.pair.settle();
        let clock = changing.clock;
        let tail = changing.recorder();
        if at_cut.is_none() && cut.is_some_and(|cut| cut.get() == clock) {
            at_cut = Some(tail.shard_mut().image());
        }
        tail.shard_mut().tend();
        tail.record_page();
        while let Some(tape) = tail.take_tape().expect("it goes on") {
            tapes.push(tape);
        }
    }
    let tapes = finish(changing.recorder(), tapes);
    Recorded { tapes, bases, at_cut }
}

/// All that is left of a recording, behind what was taken of it.
pub(super) fn finish(tail: &mut Replica<Letter>, mut tapes: Vec<Tape>) -> Vec<Tape> {
    while tail.wants_page() {
        tail.record_page();
    }
    while let Some(tape) = tail.take_tape().expect("it goes on") {
        tapes.push(tape);
    }
    tapes
}

fn restored(tapes: &[Tape], until: Option<Clock>) -> Result<Shard, RestoreError> {
    restored_over(&[], tapes, until)
}

/// Of recordings of changes, each over the one before.
pub(super) fn restored_over(
    bases: &[Vec<Tape>],
    tapes: &[Tape],
    until: Option<Clock>,
) -> Result<Shard, RestoreError> {
    let first = if bases.is_empty() { until } else { None };
    let mut restoring = Restoring::new(spec(77, 1 << 20, Mutation::None), first);
    for base in bases {
        base.iter().flat_map(Tape::messages).try_for_each(|message| restoring.take(message))?;
        restoring.go_on(None)?;
    }
    tapes.iter().flat_map(Tape::messages).try_for_each(|message| restoring.take(message))?;
    Ok(restoring.finish()?.into_shard())
}

/// The image of a restored shard, as if it had not been restored.
pub(super) fn image(mut shard: Shard) -> Image {
    shard.rests = crate::engine::Rests::No;
    shard.image()
}

pub(super) fn steps() -> impl Strategy<Value = Vec<(u64, u64, u16)>> {
    proptest::collection::vec((any::<u64>(), 1_u64..120, 0_u16..4), 60..160)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_recording_amid_changes_makes_the_shard_that_was_there_at_its_cut(
        steps in steps(), before in 0_usize..60, is_tail: bool, ahead in 0_u64..8,
    ) {
        let holds = is_tail.then_some(Holds::Everything);
        let when = (holds, ahead.checked_sub(1).map(|ahead| 1 + ahead));
        let recorded = record_line_amid_changes(&steps, &[before], when, Mutation::None);
        match (recorded.at_cut, restored(&recorded.tapes, None)) {
            (Some(was), Ok(shard)) => prop_assert_eq!(image(shard), was),
            (None, Err(RestoreError::CutOff)) => {} // It has not come to that clock.
            (was, made) => prop_assert!(false, "{} {:?}", was.is_some(), made.err()),
        }
    }

    #[test]
    fn recordings_of_changes_over_each_other_make_the_shard_that_was_there(
        steps in steps(), begins in [0_usize..8, 10_usize..23, 25_usize..38, 40_usize..60],
        is_tail: bool,
    ) {
        let holds = is_tail.then_some(Holds::Everything);
        let recorded = record_line_amid_changes(&steps, &begins, (holds, None), Mutation::None);
        let whole = recorded.bases.iter().chain([&recorded.tapes]);
        let bases: Vec<_> = whole.map(|tapes| tapes.last().expect("some").reached.base).collect();
        prop_assert_eq!(bases, [None, Some(0), Some(1), Some(2)]);
        let shard = restored_over(&recorded.bases, &recorded.tapes, None);
        prop_assert_eq!(Some(image(shard.expect("it is whole"))), recorded.at_cut);
    }

    #[test]
    fn a_recording_of_before_with_operations_in_it_is_cut_at_the_clock_that_is_named(
        steps in steps(), before in 0_usize..30,
    ) {
        let (messages, marked, at_clock) = old_recording(&steps, before);
        let last = at_clock.len() as u64 - 1;
        for clock in marked + 1..=last {
            let shard = made_of(&messages, Some(Clock::new(clock)));
            let was = &at_clock[clock as usize];
            prop_assert_eq!(&image(shard.expect("it is whole")), was, "clock {}", clock);
        }
        let until = Clock::new(last + 1);
        let short = RestoreError::Short { clock: Clock::new(last), until };
        prop_assert_eq!(made_of(&messages, Some(until)).err(), Some(short));
    }
}

/// What fills a server from step `before` on: recordings were that. With it the clock at which it
/// had all rows, and images by clock.
fn old_recording(steps: &[(u64, u64, u16)], before: usize) -> (Vec<Letter>, u64, Vec<Image>) {
    let mut changing = Changing::new(Some(Holds::Part), 1 << 20, Mutation::None);
    let (mut messages, mut marked, mut at_clock) = (Vec::new(), None, Vec::new());
    for (number, &step) in steps.iter().enumerate() {
        if number == before {
            changing.pair.link();
        }
        changing.step(step);
        for letter in changing.pair.pass() {
            let kind = letter.header().kind();
            if kind == Kind::Filled {
                marked = Some(changing.clock);
            }
            if kind != Kind::Nothing {
                messages.push(letter);
            }
        }
        while at_clock.len() <= changing.clock as usize {
            at_clock.push(changing.pair.head.shard_mut().image());
        }
    }
    (messages, marked.expect("it is filled"), at_clock)
}

fn made_of(messages: &[Letter], until: Option<Clock>) -> Result<Shard, RestoreError> {
    let mut restoring = Restoring::new(spec(77, 1 << 20, Mutation::None), until);
    messages.iter().try_for_each(|message| restoring.take(message.bytes()))?;
    Ok(restoring.finish()?.into_shard())
}

#[test]
fn what_changes_while_a_shard_is_recorded_is_missed_if_it_is_not_copied_before() {
    let steps: Vec<_> = (0..300).map(|n| (kernels::hash::mix(n) | 2, 100, 0)).collect();
    for mutation in [Mutation::None, Mutation::CopiesMissed] {
        let recorded = record_amid_changes(&steps, 200, Some(Holds::Everything), mutation);
        let shard = restored(&recorded.tapes, None).expect("whole");
        let same = Some(image(shard)) == recorded.at_cut;
        assert_eq!(same, mutation == Mutation::None, "{mutation:?}");
    }
}

#[test]
fn a_cut_that_a_shard_is_beyond_is_refused() {
    for (mutation, refuses) in [(Mutation::None, true), (Mutation::CutPassed, false)] {
        let mut changing = Changing::new(None, 1 << 20, mutation);
        [5, 10].into_iter().for_each(|seed| changing.step((seed, 3, 0)));
        let head = &mut changing.pair.head;
        head.begin_recording(Purpose::default()).expect("it is alone");
        let first = head.take_tape().expect("it goes on").expect("what it has come to");
        assert_eq!((first.reached.clock, first.count()), (Clock::new(2), 0));
        head.cut_recording(Some(Clock::new(2)));
        let refusal = RecordingEnd::Passed { cut: Clock::new(2), clock: Clock::new(2) };
        assert_eq!(head.take_tape().err(), refuses.then_some(refusal));
        assert_eq!(head.is_recording(), !refuses);
    }
}

#[test]
fn changes_are_fewer_than_everything_and_make_no_shard_alone() {
    // Many rows first, and then few that change, of one table.
    let many = (0..60).map(|n| (kernels::hash::mix(n) & !15 | 3, 119, 2));
    let few = (60..90).map(|n| (kernels::hash::mix(n) & !15 | 3, 2, 2));
    let steps: Vec<_> = many.chain(few).collect();
    let recorded = record_line_amid_changes(&steps, &[59, 75], (None, None), Mutation::None);
    let bytes = |tapes: &[Tape]| tapes.iter().map(Tape::bytes).sum::<usize>();
    let (base, changes) = (bytes(&recorded.bases[0]), bytes(&recorded.tapes));
    assert!(changes * 4 < base, "{changes} of {base} bytes");
    let over = restored_over(&recorded.bases, &recorded.tapes, None).expect("whole");
    assert_eq!(Some(image(over)), recorded.at_cut);
    let unfit = RestoreError::Unfit { kind: Kind::State };
    assert_eq!(restored(&recorded.tapes, None).err(), Some(unfit));
    // And everything is not what has changed.
    let twice = restored_over(&recorded.bases, &recorded.bases[0], None);
    assert_eq!(twice.err(), Some(unfit));
}

#[test]
fn who_has_not_recorded_the_base_records_everything() {
    let mut pair = Pair::new(Holds::Everything, 1 << 20, Mutation::None);
    assert!(pair.head.place(Epoch::new(4), Some(station(0, Holds::Everything, None))));
    pair.epoch = Epoch::new(4);
    pair.join(&[(RowLife::default(), false)]);
    let mut base_of = |number, base, is_base| {
        let purpose = Purpose { number, base, is_base };
        pair.head.begin_recording(purpose).expect("it is alone");
        pair.head.cut_recording(None);
        let tapes = finish(&mut pair.head, Vec::new());
        pair.head.end_recording();
        tapes[1].reached.base
    };
    assert_eq!(base_of(1, Some(0), true), None, "it has recorded nothing");
    assert_eq!(base_of(2, Some(1), true), Some(1));
    assert_eq!(base_of(4, Some(1), true), None, "the second one may have failed");
    assert_eq!(base_of(5, Some(4), false), Some(4));
    assert_eq!(base_of(6, Some(5), true), None, "nobody noted what changed");
}

/// A chain of one with a row, as `restored` makes it of its recording.
fn small() -> (Vec<Tape>, Image) {
    let steps = [(2, 3, 0), (5, 4, 1), (2, 5, 2), (10, 6, 3), (2, 1, 0)];
    let recorded = record_amid_changes(&steps, 4, None, Mutation::None);
    (recorded.tapes, recorded.at_cut.expect("its beginning"))
}

#[test]
fn a_recording_that_is_cut_off_or_mixed_up_makes_no_shard() {
    let (tapes, _) = small();
    let messages: Vec<&[u8]> = tapes.iter().flat_map(Tape::messages).collect();
    let try_with = |messages: &[&[u8]]| {
        let mut restoring = Restoring::new(spec(1, 1 << 20, Mutation::None), None);
        messages.iter().try_for_each(|message| restoring.take(message))?;
        restoring.finish().map(drop)
    };
    assert_eq!(try_with(&messages), Ok(()));
    assert_eq!(try_with(&[]), Err(RestoreError::CutOff));
    assert_eq!(try_with(&messages[..1]), Err(RestoreError::CutOff));
    let no_state = RestoreError::Unexpected { kind: Kind::Page };
    assert_eq!(try_with(&messages[1..2]), Err(no_state));
    let twice = RestoreError::Unexpected { kind: Kind::State };
    assert_eq!(try_with(&[messages[0], messages[0]]), Err(twice));
    let mut torn = messages[0].to_vec();
    torn[20] ^= 1;
    let (words, _) = torn.as_chunks();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let torn = words.as_bytes();
    assert!(matches!(try_with(&[torn]), Err(RestoreError::Malformed(_))));
}

/// A message as a build of another version would have recorded it, and zeros to a whole word.
fn of_version(message: &[u8], version: u16) -> Vec<u64> {
    let mut words = vec![0; message.len().div_ceil(8)];
    let head = words.as_mut_bytes();
    head[..message.len()].copy_from_slice(message);
    head[4..6].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c(Isa::detect(), 0, &head[..HEADER_BYTES - 4]);
    head[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    words
}

#[test]
fn recordings_of_earlier_versions_are_read_as_far_back_as_they_have_the_same_bytes() {
    let (tapes, _) = small();
    let read = |version: u16| {
        let mut restoring = Restoring::new(spec(1, 1 << 20, Mutation::None), None);
        for message in tapes.iter().flat_map(Tape::messages) {
            restoring.take(&of_version(message, version).as_bytes()[..message.len()])?;
        }
        restoring.finish().map(drop)
    };
    for version in wire::RECORDED_SINCE..=wire::VERSION {
        assert_eq!(read(version), Ok(()));
    }
    for found in [wire::RECORDED_SINCE - 1, wire::VERSION + 1] {
        let other = Malformed::Version { found, ours: wire::VERSION };
        assert_eq!(read(found), Err(RestoreError::Malformed(other)));
    }
}

fn join(job: u64) -> Letter {
    let join = Join { job: JobId::new(job), workers: 1, staleness: Staleness::BSP };
    message(Header::new(Kind::Join), &join.to_bytes())
}

fn status(shard: &mut Shard, letter: &Letter) -> Status {
    let mut answers = way();
    assert_eq!(shard.handle(letter.bytes(), &mut answers), Outcome::Answered);
    answers.letters[0].header().status().expect("a status")
}

#[test]
fn a_restored_shard_keeps_its_rows_for_whichever_job_changes_them_first() {
    let (tapes, was) = small();
    let mut shard = restored(&tapes, None).expect("whole");
    let observer = Header { worker: WorkerId::OBSERVER.get(), ..join(7).header() };
    let observer = message(observer, &join(7).bytes()[HEADER_BYTES..]);
    assert_eq!(status(&mut shard, &observer), Status::Done, "who reads keeps nobody away");
    for job in [8, 9] {
        // The first of them ended before it had done anything.
        assert_eq!(status(&mut shard, &join(job)), Status::Done);
        assert_eq!(shard.image().rows, was.rows);
        let busy = Status::Refused(Refusal::JobMismatch);
        assert_eq!(status(&mut shard, &join(job + 10)), busy, "its worker is there");
        assert_eq!(status(&mut shard, &message(Header::new(Kind::Leave), &[])), Status::Done);
    }
    assert_eq!(status(&mut shard, &join(10)), Status::Done);
    assert_eq!(status(&mut shard, &push(1, 0, 0, &[1], Flags::NONE)), Status::Done);
    assert_eq!(status(&mut shard, &message(Header::new(Kind::Leave), &[])), Status::Done);
    assert_eq!(status(&mut shard, &join(11)), Status::Done);
    assert_eq!(shard.image().rows, [], "as any job's rows go with the next one");
}

#[test]
fn a_restored_shard_knows_the_pushes_of_its_job() {
    let (tapes, was) = small();
    let mut shard = restored(&tapes, None).expect("whole");
    let again = push(3, 1, 3, &[5], Flags::NONE);
    assert_eq!(status(&mut shard, &join(7)), Status::Done);
    assert_eq!(status(&mut shard, &again), Status::Duplicate);
    assert_eq!(shard.image().rows, was.rows);
}

#[test]
fn a_fill_ends_a_recording_and_a_server_with_others_behind_it_begins_none() {
    let mut pair = Pair::new(Holds::Part, 1 << 20, Mutation::None);
    assert_eq!(pair.head.begin_recording(Purpose::default()), Err(RecordError::Filling));
    assert_eq!(pair.tail.begin_recording(Purpose::default()), Err(RecordError::NotHeld));
    let mut pair = Pair::new(Holds::Everything, 1 << 20, Mutation::None);
    assert_eq!(pair.head.begin_recording(Purpose::default()), Err(RecordError::NotTail));
    assert_eq!(pair.tail.begin_recording(Purpose::default()), Ok(()));
    assert_eq!(pair.tail.begin_recording(Purpose::default()), Err(RecordError::Recording));
    pair.tail.place(Epoch::new(4), Some(station(0, Holds::Everything, Some(Holds::Part))));
    assert!(pair.tail.take_tape().is_ok(), "a place in a chain ends none");
    pair.tail.begin_filling();
    assert_eq!(pair.tail.take_tape().err(), Some(RecordingEnd::Filling));
    assert!(!pair.tail.is_recording(), "said once");
}

#[test]
fn a_recording_that_nobody_takes_ends_and_holds_nobody_up() {
    let at_head = station(0, Holds::Everything, None);
    let roomy = spec(1, 256 << 20, Mutation::None);
    let mut head: Replica<Letter> = Replica::placed(roomy, 1 << 20, EPOCH, at_head);
    let mut answers = way();
    let now = Time::from_nanos(1 << 40);
    let mut done = |head: &mut Replica<Letter>, letter: &Letter| {
        assert_eq!(head.handle(now, letter.bytes(), &mut answers), Outcome::Answered);
        let answer = answers.letters.pop_back().expect("an answer").header();
        assert!(answer.kind() == Kind::Joined || answer.status() == Ok(Status::Done));
    };
    done(&mut head, &join(7));
    let table = table_spec("wide", 1024, &Sum);
    let define = Define::new(&table, Announced::default()).expect("short names");
    done(&mut head, &message(Header::new(Kind::Define), define.as_bytes()));
    let mut sequence = 0;
    let mut push_all = |head: &mut Replica<Letter>| {
        for first in (0..40_000).step_by(100) {
            sequence += 1;
            let keys: Vec<u64> = (first..first + 100).collect();
            let deltas = vec![1.0; 1024 * keys.len()];
            let push = Header { sequence, ..Header::new(Kind::Push) };
            done(head, &keyed(push, &keys, &deltas));
            head.record_copies();
        }
    };
    push_all(&mut head);
    head.begin_recording(Purpose::default()).expect("it is alone");
    head.cut_recording(None);
    push_all(&mut head);
    assert!(matches!(take_end(&mut head), RecordingEnd::TooSlow { .. }));
    push_all(&mut head);
    // With less memory it ends sooner, and what waits is held.
    let bytes_max = 8 << 20;
    head.begin_recording(Purpose::default()).expect("it is alone");
    head.bound_recording(bytes_max);
    head.cut_recording(None);
    let (held, mut waited) = (head.held_bytes() - head.recorded_bytes() as u64, 0);
    while head.wants_page() {
        head.record_page();
        waited = waited.max(head.recorded_bytes());
        assert_eq!(head.held_bytes(), held + head.recorded_bytes() as u64);
    }
    assert!((bytes_max / 2..=bytes_max).contains(&waited), "{waited} bytes waited");
    assert!(matches!(take_end(&mut head), RecordingEnd::TooSlow { bytes_max: 8_388_608, .. }));
}

/// Why a recording has ended by itself.
fn take_end(head: &mut Replica<Letter>) -> RecordingEnd {
    head.take_tape().expect_err("it has ended")
}
