//! Recordings beside a job that goes on, and the shards that are made of them.

use std::collections::BTreeSet;

use kernels::Isa;
use kernels::crc32c::crc32c;
use proptest::prelude::*;
use wire::{
    Clock, Flags, HEADER_BYTES, Header, Holds, JobId, Join, Kind, Malformed, Refusal, RowLife,
    Staleness, Status, WorkerId,
};
use zerocopy::IntoBytes;

use super::tests::{LIVES, Letter, Pair, keyed, message, push, spec, station, way};
use super::*;
use crate::{Mutation, Outcome};

/// What recordings had, and the shard at the moments that a cut may mean.
struct Recorded {
    /// Of the last recording.
    tapes: Vec<Tape>,
    /// Of those before it, each with the changes since the one before.
    bases: Vec<Vec<Tape>>,
    /// Images by clock: as the shard was when its slowest clock became that.
    at_clock: Vec<Image>,
    last: Image,
}

/// As [`record_line_amid_changes`], with one recording, from step `before` on.
fn record_amid_changes(
    steps: &[(u64, u64, u16)],
    before: usize,
    holds: Option<Holds>,
    mutation: Mutation,
) -> Recorded {
    record_line_amid_changes(steps, &[before], holds, mutation)
}

/// A random job on a chain, whose tail begins a recording with each step that is named; each step
/// adds a page.
fn record_line_amid_changes(
    steps: &[(u64, u64, u16)],
    begins: &[usize],
    holds: Option<Holds>,
    mutation: Mutation,
) -> Recorded {
    // Short messages, so that the tail is sent long ones in pieces.
    let mut pair = Pair::new(holds.unwrap_or(Holds::Everything), 512, mutation);
    match holds {
        Some(_) => pair.link(),
        None => assert!(pair.head.place(Epoch::new(4), Some(station(0, Holds::Everything, None)))),
    }
    pair.epoch = pair.head.epoch();
    let lives: Vec<_> = LIVES.iter().zip([false, true].into_iter().cycle()).collect();
    pair.join(&lives.iter().map(|&(&life, is_wide)| (life, is_wide)).collect::<Vec<_>>());
    let (mut sequence, mut clock) = (0, 0);
    let (mut tapes, mut bases, mut at_clock) = (Vec::new(), Vec::new(), Vec::new());
    for (number, &(seed, count, table)) in steps.iter().enumerate() {
        // Each but the last ends half way to the next one: what is gone then only that one names.
        let ends = begins.windows(2).any(|pair| number == pair[0].midpoint(pair[1]));
        if ends && number > begins[0] {
            let tail = recorder(&mut pair, holds);
            bases.push(finish(tail, std::mem::take(&mut tapes)));
            tail.end_recording();
        }
        if begins.contains(&number) {
            let tail = recorder(&mut pair, holds);
            let number = bases.len() as u64;
            let purpose = Purpose { number, base: number.checked_sub(1), is_base: true };
            tail.begin_recording(purpose).expect("it is the tail");
        }
        let draw = |at: u64| kernels::hash::mix(seed ^ at << 32) % 5000;
        let keys: BTreeSet<u64> = (0..count).map(draw).collect();
        let keys: Vec<u64> = keys.into_iter().collect();
        let ticks = seed.is_multiple_of(5);
        match seed % 16 {
            0 => pair.ask(&keyed(Header { table, ..Header::new(Kind::Remove) }, &keys, &[])),
            1 => {
                let width = if table.is_multiple_of(2) { 2 } else { 11 };
                let rows = vec![seed as f32; keys.len() * width];
                pair.ask(&keyed(Header { table, ..Header::new(Kind::Load) }, &keys, &rows));
            }
            _ => {
                sequence += 1;
                let flags = if ticks { Flags::TICK } else { Flags::NONE };
                pair.ask(&push(sequence, clock, table, &keys, flags));
                clock += u64::from(ticks);
            }
        }
        pair.settle();
        let tail = recorder(&mut pair, holds);
        tail.shard_mut().tend();
        tail.record_page();
        while let Some(tape) = tail.take_tape().expect("it goes on") {
            tapes.push(tape);
        }
        while at_clock.len() <= clock as usize {
            at_clock.push(tail.shard_mut().image());
        }
    }
    let tail = recorder(&mut pair, holds);
    let tapes = finish(tail, tapes);
    let last = tail.shard_mut().image();
    Recorded { tapes, bases, at_clock, last }
}

/// All that is left of a recording, behind what was taken of it.
fn finish(tail: &mut Replica<Letter>, mut tapes: Vec<Tape>) -> Vec<Tape> {
    while tail.wants_page() {
        tail.record_page();
    }
    while let Some(tape) = tail.take_tape().expect("it goes on") {
        tapes.push(tape);
    }
    tapes
}

/// Who records: the tail, or the head of a chain of one.
fn recorder(pair: &mut Pair, holds: Option<Holds>) -> &mut Replica<Letter> {
    if holds.is_some() { &mut pair.tail } else { &mut pair.head }
}

fn restored(tapes: &[Tape], until: Option<Clock>) -> Result<Shard, RestoreError> {
    restored_over(&[], tapes, until)
}

/// Of recordings of changes, each over the one before.
fn restored_over(
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
fn image(mut shard: Shard) -> Image {
    shard.rests = crate::engine::Rests::No;
    shard.image()
}

fn steps() -> impl Strategy<Value = Vec<(u64, u64, u16)>> {
    proptest::collection::vec((any::<u64>(), 1_u64..120, 0_u16..4), 60..160)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_recording_amid_changes_makes_the_same_shard_at_its_end(
        steps in steps(), before in 0_usize..60, is_tail: bool,
    ) {
        let holds = is_tail.then_some(Holds::Everything);
        let recorded = record_amid_changes(&steps, before, holds, Mutation::None);
        let shard = restored(&recorded.tapes, None);
        prop_assert_eq!(image(shard.expect("it is whole")), recorded.last);
    }

    #[test]
    fn recordings_of_changes_over_each_other_make_the_same_shard(
        steps in steps(), begins in [0_usize..8, 10_usize..23, 25_usize..38, 40_usize..60],
        is_tail: bool,
    ) {
        let holds = is_tail.then_some(Holds::Everything);
        let recorded = record_line_amid_changes(&steps, &begins, holds, Mutation::None);
        let whole = recorded.bases.iter().chain([&recorded.tapes]);
        let bases: Vec<Option<u64>> = whole.map(|tapes| tapes[0].reached.base).collect();
        prop_assert_eq!(bases, [None, Some(0), Some(1), Some(2)]);
        let shard = restored_over(&recorded.bases, &recorded.tapes, None);
        prop_assert_eq!(image(shard.expect("it is whole")), recorded.last);
    }

    #[test]
    fn a_recording_is_cut_where_the_slowest_clock_becomes_the_one_that_is_named(
        steps in steps(), before in 0_usize..30,
    ) {
        let holds = Some(Holds::Everything);
        let recorded = record_amid_changes(&steps, before, holds, Mutation::None);
        let marked = recorded.tapes.iter().find(|tape| tape.reached.is_marked);
        let marked = marked.expect("there is a marker").reached.clock.get();
        let last = recorded.at_clock.len() as u64 - 1;
        for clock in marked + 1..=last {
            let shard = restored(&recorded.tapes, Some(Clock::new(clock)));
            let was = &recorded.at_clock[clock as usize];
            prop_assert_eq!(&image(shard.expect("it is whole")), was, "clock {}", clock);
        }
        let until = Clock::new(last + 1);
        let short = RestoreError::Short { clock: Clock::new(last), until };
        prop_assert_eq!(restored(&recorded.tapes, Some(until)).err(), Some(short));
    }
}

#[test]
fn what_moves_while_a_shard_is_recorded_is_missed_if_it_is_not_noted() {
    let steps: Vec<_> = (0..300).map(|n| (kernels::hash::mix(n) | 2, 100, 0)).collect();
    for mutation in [Mutation::None, Mutation::MovedRowsMissed] {
        let recorded = record_amid_changes(&steps, 20, Some(Holds::Everything), mutation);
        let same = image(restored(&recorded.tapes, None).expect("whole")) == recorded.last;
        assert_eq!(same, mutation == Mutation::None, "{mutation:?}");
    }
}

#[test]
fn changes_are_fewer_than_everything_and_make_no_shard_alone() {
    // Many rows first, and then few that change, of one table.
    let many = (0..60).map(|n| (kernels::hash::mix(n) & !15 | 3, 119, 2));
    let few = (60..90).map(|n| (kernels::hash::mix(n) & !15 | 3, 2, 2));
    let steps: Vec<_> = many.chain(few).collect();
    let recorded = record_line_amid_changes(&steps, &[59, 75], None, Mutation::None);
    let bytes = |tapes: &[Tape]| tapes.iter().map(Tape::bytes).sum::<usize>();
    let (base, changes) = (bytes(&recorded.bases[0]), bytes(&recorded.tapes));
    assert!(changes * 4 < base, "{changes} of {base} bytes");
    let over = restored_over(&recorded.bases, &recorded.tapes, None).expect("whole");
    assert_eq!(image(over), recorded.last);
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
        let tapes = finish(&mut pair.head, Vec::new());
        pair.head.end_recording();
        tapes[0].reached.base
    };
    assert_eq!(base_of(1, Some(0), true), None, "it has recorded nothing");
    assert_eq!(base_of(2, Some(1), true), Some(1));
    assert_eq!(base_of(4, Some(1), true), None, "the second one may have failed");
    assert_eq!(base_of(5, Some(4), false), Some(4));
    assert_eq!(base_of(6, Some(5), true), None, "nobody noted what changed");
}

/// A chain of one with a row, as `restored` makes it of its recording.
fn small() -> (Vec<Tape>, Image) {
    let steps = [(2, 3, 0), (5, 4, 1), (2, 5, 2), (10, 6, 3)];
    let recorded = record_amid_changes(&steps, 1, None, Mutation::None);
    (recorded.tapes, recorded.last)
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
    let no_state = RestoreError::Unexpected { kind: Kind::Push };
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
    let mut pair = Pair::new(Holds::Everything, 1 << 20, Mutation::None);
    assert!(pair.head.place(Epoch::new(4), Some(station(0, Holds::Everything, None))));
    pair.epoch = Epoch::new(4);
    pair.join(&[(RowLife::default(), false)]);
    pair.head.begin_recording(Purpose::default()).expect("it is alone");
    let keys: Vec<u64> = (0..10_000).collect();
    let mut sequence = 0;
    while pair.head.is_recording() && pair.head.recording_end.is_none() {
        sequence += 1;
        assert!(sequence < 4000, "it goes on without end");
        pair.done(&push(sequence, 0, 0, &keys, Flags::NONE));
    }
    assert!(matches!(pair.head.take_tape(), Err(RecordingEnd::TooSlow { .. })));
    pair.done(&push(sequence + 1, 0, 0, &keys, Flags::NONE));
}
