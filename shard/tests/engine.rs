//! The engine from outside: bytes in, answers out.

use gradwire_shard::rule::{Rules, Sum, table_spec};
use gradwire_shard::{Mutation, Outbox, Outcome, Shard, ShardSpec};
use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{
    Clock, Define, Epoch, Flags, HEADER_BYTES, Header, JobId, Join, Keyed, Kind, Message, Refusal,
    ScanCursor, Seal, Staleness, Status, WorkerId,
};
use zerocopy::{FromBytes, IntoBytes};

const EPOCH: Epoch = Epoch::new(1);

/// A message in memory that is aligned as a slot is.
#[derive(Clone)]
struct Letter {
    words: Vec<u64>,
    bytes: usize,
}

impl Letter {
    fn new(bytes: usize) -> Letter {
        Letter { words: vec![0; bytes.div_ceil(8)], bytes }
    }

    fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.bytes]
    }

    fn sealed(mut self, header: Header) -> Letter {
        wire::seal(self.bytes_mut(), header, Seal::Body, crc);
        self
    }
}

fn crc(bytes: &[u8]) -> u32 {
    crc32c(Isa::detect(), 0, bytes)
}

/// Keeps answers; has room for `room` more.
struct Letters {
    sent: Vec<Letter>,
    room: usize,
    bytes_max: usize,
}

impl Outbox for Letters {
    type Slot = Letter;

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn seal(&self) -> Seal {
        Seal::Body
    }

    fn acquire(&mut self, bytes: usize) -> Option<Letter> {
        (self.room > 0).then(|| Letter::new(bytes))
    }

    fn bytes_mut(slot: &mut Letter) -> &mut [u8] {
        slot.bytes_mut()
    }

    fn post(&mut self, slot: Letter) {
        self.room -= 1;
        self.sent.push(slot);
    }
}

struct Rig {
    shard: Shard,
    letters: Letters,
}

impl Rig {
    /// A shard with a table of counters that so many workers have joined.
    fn joined(workers: u32, staleness: Staleness) -> Rig {
        let mut rig = Rig::new();
        for worker in 0..workers {
            assert_eq!(rig.status(join(worker, 7, workers, staleness)), Status::Done);
        }
        let define = Define::new(&table_spec("counts", 1, &Sum)).expect("a short name");
        let letter = letter(define.as_bytes(), request(Kind::Define, 0));
        assert_eq!(rig.status(letter), Status::Done);
        rig
    }

    fn new() -> Rig {
        let spec = ShardSpec {
            isa: Isa::detect(),
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: 1 << 20,
            seed: 1,
            credit: 8,
            mutation: Mutation::None,
        };
        let letters = Letters { sent: Vec::new(), room: usize::MAX, bytes_max: 1 << 16 };
        Rig { shard: Shard::new(spec), letters }
    }

    fn handle(&mut self, letter: &Letter) -> Outcome {
        self.shard.handle(letter.bytes(), &mut self.letters)
    }

    fn answer(&mut self, letter: &Letter) -> Letter {
        assert_eq!(self.handle(letter), Outcome::Answered);
        self.letters.sent.pop().expect("answered")
    }

    #[allow(clippy::needless_pass_by_value)] // A letter is sent once.
    fn status(&mut self, letter: Letter) -> Status {
        let answer = self.answer(&letter);
        let (header, _) = wire::open(answer.bytes(), crc).expect("a sealed answer");
        header.status().expect("a known status")
    }

    fn count(&mut self, key: u64) -> f32 {
        let answer = self.answer(&pull(WorkerId::OBSERVER.get(), 0, &[key]));
        let (_, message) = wire::open(answer.bytes(), crc).expect("a sealed answer");
        let Message::Values(values) = message else { panic!("{message:?}") };
        values[0]
    }
}

fn request(kind: Kind, worker: u32) -> Header {
    Header { epoch: EPOCH.get(), worker, incarnation: 1, ..Header::new(kind) }
}

fn letter(body: &[u8], header: Header) -> Letter {
    let mut letter = Letter::new(HEADER_BYTES + body.len());
    letter.bytes_mut()[HEADER_BYTES..].copy_from_slice(body);
    letter.sealed(header)
}

fn join(worker: u32, job: u64, workers: u32, staleness: Staleness) -> Letter {
    let join = Join { job: JobId::new(job), workers, staleness };
    letter(&join.to_bytes(), request(Kind::Join, worker))
}

fn pull(worker: u32, clock: u64, keys: &[u64]) -> Letter {
    let header = Header { clock, keys: keys.len() as u32, ..request(Kind::Pull, worker) };
    letter(keys.as_bytes(), header)
}

fn push(worker: u32, sequence: u64, keys: &[u64], flags: Flags, clock: u64) -> Letter {
    let mut letter = Letter::new(Keyed::message_bytes(keys.len(), 1));
    let (to_keys, to_values) = Keyed::body_mut(letter.bytes_mut(), keys.len());
    to_keys.copy_from_slice(keys);
    to_values.fill(1.0);
    letter.sealed(Header {
        sequence,
        clock,
        keys: keys.len() as u32,
        width: 1,
        flags: flags.get(),
        ..request(Kind::Push, worker)
    })
}

#[test]
fn a_push_sent_twice_is_applied_once() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let letter = push(0, 1, &[5, 9], Flags::NONE, 0);
    assert_eq!(rig.status(letter.clone()), Status::Done);
    assert_eq!(rig.status(letter), Status::Duplicate);
    assert_eq!(rig.count(9), 1.0);
}

#[test]
fn without_room_for_the_answer_nothing_is_applied() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let letter = push(0, 1, &[5], Flags::NONE, 0);
    rig.letters.room = 0;
    assert_eq!(rig.handle(&letter), Outcome::NoSlot);
    rig.letters.room = usize::MAX;
    assert_eq!(rig.count(5), 0.0);
    assert_eq!(rig.status(letter), Status::Done);
    assert_eq!(rig.count(5), 1.0);
}

#[test]
fn a_pull_waits_until_the_slowest_worker_has_ticked() {
    let mut rig = Rig::joined(2, Staleness::BSP);
    assert_eq!(rig.status(push(0, 1, &[5], Flags::TICK, 0)), Status::Done);
    rig.shard.take_progress();
    assert_eq!(rig.handle(&pull(0, 1, &[5])), Outcome::Waiting);
    assert!(!rig.shard.take_progress());
    assert_eq!(rig.status(push(1, 1, &[5], Flags::TICK, 0)), Status::Done);
    assert!(rig.shard.take_progress());
    let answer = rig.answer(&pull(0, 1, &[5]));
    let (header, message) = wire::open(answer.bytes(), crc).expect("sealed");
    assert_eq!((header.clock(), message), (Clock::new(1), Message::Values(&[2.0])));
}

#[test]
fn a_lost_worker_ends_the_wait_of_the_others_with_its_name() {
    let mut rig = Rig::joined(2, Staleness::BSP);
    rig.status(push(0, 1, &[], Flags::TICK, 0));
    assert_eq!(rig.handle(&pull(0, 1, &[5])), Outcome::Waiting);
    rig.shard.take_progress();
    rig.shard.worker_lost(WorkerId::new(1), wire::Incarnation::new(1));
    assert!(rig.shard.take_progress());
    let lost = Refusal::WorkerLost { worker: WorkerId::new(1) };
    assert_eq!(rig.status(pull(0, 1, &[5])), Status::Refused(lost));
}

#[test]
fn another_job_waits_for_this_one_to_end_and_then_finds_no_table() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let other = || join(0, 8, 1, Staleness::BSP);
    assert_eq!(rig.status(other()), Status::Refused(Refusal::JobMismatch));
    let foreign = join(0, 7, 1, Staleness::ASP);
    assert_eq!(rig.status(foreign), Status::Refused(Refusal::JobMismatch));
    assert_eq!(rig.status(letter(&[], request(Kind::Leave, 0))), Status::Done);
    assert_eq!(rig.status(other()), Status::Done);
    let none = Refusal::NoSuchTable { tables: 0 };
    assert_eq!(rig.status(pull(0, 0, &[1])), Status::Refused(none));
}

#[test]
fn strangers_old_epochs_and_wrong_widths_are_refused_and_change_nothing() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let stranger = push(3, 1, &[5], Flags::NONE, 0);
    assert_eq!(rig.status(stranger), Status::Refused(Refusal::NotJoined));
    let old = letter(&[], Header { epoch: 0, ..request(Kind::Scan, 0) });
    let mismatch = Refusal::EpochMismatch { shard: EPOCH };
    assert_eq!(rig.status(old), Status::Refused(mismatch));
    let wide = Header { keys: 1, width: 2, sequence: 1, ..request(Kind::Push, 0) };
    let wide = letter(&[0; 16], wide);
    let width = Refusal::WidthMismatch { table: 1 };
    assert_eq!(rig.status(wide), Status::Refused(width));
    let large: Vec<u64> = (0..20_000).collect();
    let too_large = Refusal::TooLarge { bytes_max: 1 << 16 };
    assert_eq!(rig.status(pull(0, 0, &large)), Status::Refused(too_large));
    assert_eq!(rig.count(0), 0.0);
}

#[test]
fn a_broken_message_has_no_answer() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let mut broken = push(0, 1, &[5, 9], Flags::NONE, 0);
    broken.bytes_mut()[70] ^= 1;
    assert!(matches!(rig.handle(&broken), Outcome::Malformed(_)));
    assert!(matches!(rig.handle(&letter(&[], request(Kind::Reply, 0))), Outcome::Malformed(_)));
}

#[test]
fn a_scan_in_pieces_finds_every_row_once() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    rig.letters.bytes_max = 4096;
    let keys: Vec<u64> = (0..300).map(|n| n * 31).collect();
    rig.status(push(0, 1, &keys, Flags::NONE, 0));
    let mut cursor = ScanCursor::START;
    let mut found = Vec::new();
    while cursor != ScanCursor::END {
        let scan = Header { clock: cursor.get(), ..request(Kind::Scan, 0) };
        let answer = rig.answer(&letter(&[], scan));
        let (header, message) = wire::open(answer.bytes(), crc).expect("sealed");
        let Message::Rows(rows) = message else { panic!("{message:?}") };
        assert!(rows.rows.iter().all(|&count| count == 1.0));
        found.extend_from_slice(rows.keys);
        cursor = ScanCursor::new(header.clock);
    }
    found.sort_unstable();
    assert_eq!(found, keys);
}

#[test]
fn a_cursor_of_a_table_that_has_grown_since_is_stale() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    rig.letters.bytes_max = 4096;
    let keys: Vec<u64> = (0..300).collect();
    rig.status(push(0, 1, &keys, Flags::NONE, 0));
    let answer = rig.answer(&letter(&[], request(Kind::Scan, 0)));
    let (header, _) = wire::open(answer.bytes(), crc).expect("sealed");
    for more in 1..40 {
        let keys: Vec<u64> = (0..300).map(|n| n + more * 300).collect();
        rig.status(push(0, more + 1, &keys, Flags::NONE, 0));
    }
    let scan = Header { clock: header.clock, ..request(Kind::Scan, 0) };
    assert_eq!(rig.status(letter(&[], scan)), Status::Refused(Refusal::CursorStale));
}

#[test]
fn a_measure_counts_rows() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    rig.status(push(0, 1, &[1, 2, 3], Flags::NONE, 0));
    let answer = rig.answer(&letter(&[], request(Kind::Measure, 0)));
    let size = wire::TableSize::read_from_bytes(&answer.bytes()[HEADER_BYTES..]).expect("a size");
    assert_eq!(size.rows, 3);
    assert!(size.bytes > 0);
}

#[test]
fn a_join_that_is_refused_leaves_the_rows_of_the_job_before() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    rig.status(push(0, 1, &[5], Flags::NONE, 0));
    assert_eq!(rig.status(letter(&[], request(Kind::Leave, 0))), Status::Done);
    let nobody = join(50, 8, 7, Staleness::BSP);
    assert_eq!(rig.status(nobody), Status::Refused(Refusal::Malformed));
    assert_eq!(rig.count(5), 1.0);
}

#[test]
fn a_tick_of_the_last_clock_there_is_does_no_harm() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    assert_eq!(rig.status(push(0, 1, &[5], Flags::TICK, u64::MAX)), Status::Done);
    assert_eq!(rig.count(5), 1.0);
}
