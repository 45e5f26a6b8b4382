//! The engine from outside: bytes in, answers out.

use gradwire_shard::rule::{Ftrl, FtrlCompact, Rule, Rules, Sum, table_spec};
use gradwire_shard::{Mutation, Outbox, Outcome, Shard, ShardSpec};
use kernels::Isa;
use kernels::codec::{
    Rounding, ValueCodec, encode_values, encoded_values_bytes_max, pack_keys, packed_keys_bytes_max,
};
use kernels::crc32c::crc32c;
use wire::{
    Announced, Carried, Clock, Define, Encoding, Epoch, Expiry, Flags, HEADER_BYTES, Header, JobId,
    Join, KeyAdmission, KeyForm, Keyed, Kind, ListHead, Message, NumbersHead, Refusal, RowLife,
    ScanCursor, Seal, Staleness, Status, TableSpec, VALUES_BY_COLUMN, WorkerId,
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
        Rig::joined_under(&Sum, workers, staleness)
    }

    fn joined_under(rule: &dyn Rule, workers: u32, staleness: Staleness) -> Rig {
        let mut rig = Rig::new();
        for worker in 0..workers {
            assert_eq!(rig.status(join(worker, 7, workers, staleness)), Status::Done);
        }
        let spec = table_spec("counts", 1, rule);
        assert_eq!(rig.status(define(&spec)), Status::Done);
        rig
    }

    /// A shard with one table whose rows come and go, that so many workers have joined.
    fn living(workers: u32, staleness: Staleness, life: RowLife) -> Rig {
        let mut rig = Rig::new();
        for worker in 0..workers {
            assert_eq!(rig.status(join(worker, 7, workers, staleness)), Status::Done);
        }
        assert_eq!(rig.status(define(&counts(life))), Status::Done);
        rig
    }

    /// Rows that an observer's scan sees.
    fn scanned(&mut self) -> usize {
        let answer = self.answer(&letter(&[], request(Kind::Scan, WorkerId::OBSERVER.get())));
        let (_, message) = wire::open(answer.bytes(), crc).expect("a sealed answer");
        let Message::Rows(rows) = message else { panic!("{message:?}") };
        rows.keys.len()
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

/// The definition of counters whose rows come and go.
fn counts(life: RowLife) -> TableSpec {
    TableSpec { life, ..table_spec("counts", 1, &Sum) }
}

fn define(spec: &TableSpec) -> Letter {
    let define = Define::new(spec, Announced::default()).expect("a short name");
    letter(define.as_bytes(), request(Kind::Define, 0))
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

/// Packed keys, filled up to eight bytes.
fn packed(keys: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; packed_keys_bytes_max(keys.len())];
    let end = pack_keys(Isa::detect(), keys, &mut bytes);
    bytes.truncate(end);
    bytes
}

fn filled_up(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn numbered(generation: u32, base: u32, known: &[u64], new: &[u64]) -> Vec<u8> {
    let head = NumbersHead { generation, base, known: known.len() as u32, reserved: 0 };
    filled_up([head.as_bytes(), &packed(known), &packed(new)].concat())
}

fn coded_pull(sequence: u64, form: KeyForm, clock: u64, count: usize, body: &[u8]) -> Letter {
    let encoding = Encoding::new(form, 0, Carried::All).get();
    let header = Header { encoding, sequence, clock, ..request(Kind::Pull, 0) };
    letter(body, Header { keys: count as u32, ..header })
}

fn coded_push(sequence: u64, encoding: Encoding, count: usize, body: &[u8]) -> Letter {
    let header = Header { encoding: encoding.get(), sequence, ..request(Kind::Push, 0) };
    letter(body, Header { keys: count as u32, width: 1, ..header })
}

fn list_push(sequence: u64, pull: u64, first: u32, count: usize) -> Letter {
    let head = ListHead { pull, first, reserved: 0 };
    let body = [head.as_bytes(), vec![1.0_f32; count].as_bytes()].concat();
    coded_push(sequence, Encoding::new(KeyForm::List, 0, Carried::All), count, &body)
}

#[test]
fn a_push_may_name_the_keys_of_a_pull_and_changes_nothing_if_they_are_not_known() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let refused = Status::Refused(Refusal::ListUnknown { lists: 0 });
    assert_eq!(rig.status(list_push(1, 1 << 63, 0, 3)), refused);
    let keys = [5, 9, 70, 800];
    rig.answer(&coded_pull(1 << 63, KeyForm::Packed, 0, 4, &filled_up(packed(&keys))));
    assert_eq!(rig.status(list_push(1, 1 << 63, 1, 3)), Status::Done);
    assert_eq!(rig.status(list_push(1, 1 << 63, 1, 3)), Status::Duplicate);
    assert_eq!([5, 9, 70, 800].map(|key| rig.count(key)), [0.0, 1.0, 1.0, 1.0]);
    let beyond = rig.status(list_push(2, 1 << 63, 2, 3));
    assert_eq!(beyond, Status::Refused(Refusal::Malformed));
}

#[test]
fn numbers_stand_for_the_keys_that_they_were_given_to_whatever_their_order() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let encoding = Encoding::new(KeyForm::Numbered, 0, Carried::All);
    let push = |sequence, keys: Vec<u8>, deltas: &[f32]| {
        let body = [&keys[..], deltas.as_bytes()].concat();
        coded_push(sequence, encoding, deltas.len(), &body)
    };
    let first = push(1, numbered(1, 0, &[], &[50, 90]), &[1.0, 2.0]);
    assert_eq!(rig.status(first), Status::Done);
    let gap = push(2, numbered(1, 3, &[0], &[]), &[1.0]);
    let unknown = Status::Refused(Refusal::NumbersUnknown { numbers: 2 });
    assert_eq!(rig.status(gap), unknown);
    let second = push(2, numbered(1, 2, &[1], &[20, 95]), &[10.0, 20.0, 30.0]);
    assert_eq!(rig.status(second), Status::Done, "deltas are in the order of keys");
    assert_eq!([20, 50, 90, 95].map(|key| rig.count(key)), [10.0, 1.0, 22.0, 30.0]);
    let twice = push(3, numbered(1, 4, &[0], &[50]), &[1.0, 1.0]);
    assert_eq!(rig.status(twice), Status::Refused(Refusal::Malformed), "a key is new or known");
}

#[test]
fn a_pull_that_waits_is_known_by_then_and_reads_the_same_when_it_is_tried_again() {
    let mut rig = Rig::joined(2, Staleness::BSP);
    let waiting = coded_pull(1 << 63, KeyForm::Numbered, 1, 2, &numbered(1, 0, &[], &[5, 9]));
    assert_eq!(rig.handle(&waiting), Outcome::Waiting);
    let body = [numbered(1, 2, &[1], &[]).as_slice(), 4.0_f32.as_bytes()].concat();
    let encoding = Encoding::new(KeyForm::Numbered, 0, Carried::All);
    let header = Header { encoding: encoding.get(), ..request(Kind::Push, 0) };
    let header = Header { keys: 1, width: 1, sequence: 1, flags: Flags::TICK.get(), ..header };
    assert_eq!(rig.status(letter(&body, header)), Status::Done);
    assert_eq!(rig.status(push(1, 1, &[], Flags::TICK, 0)), Status::Done);
    let answer = rig.answer(&waiting);
    let (_, message) = wire::open(answer.bytes(), crc).expect("a sealed answer");
    assert_eq!(message, Message::Values(&[0.0, 4.0]));
}

#[test]
fn only_the_rows_of_a_bitmap_are_pushed_and_coded_values_are_decoded() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let keys: Vec<u64> = (0..70).collect();
    let isa = Isa::detect();
    let mut values = vec![0; encoded_values_bytes_max(ValueCodec::Bf16, 2)];
    encode_values(isa, ValueCodec::Bf16, &[2.0, 0.5], Rounding::Nearest, &mut values);
    let bitmap = [1_u64 << 3, 1 << 5];
    let body = [&filled_up(packed(&keys)), bitmap.as_bytes(), &values].concat();
    let encoding = Encoding::new(KeyForm::Packed, ValueCodec::Bf16.to_u8(), Carried::Some);
    assert_eq!(rig.status(coded_push(1, encoding, 70, &body)), Status::Done);
    assert_eq!([2, 3, 4, 69].map(|key| rig.count(key)), [0.0, 2.0, 0.0, 0.5]);
    for end in [8, 16, body.len() - 1] {
        let cut = coded_push(2, encoding, 70, &body[..end]);
        assert_eq!(rig.status(cut), Status::Refused(Refusal::Malformed), "{end} bytes");
    }
    let unknown = Encoding::new(KeyForm::Packed, 14, Carried::Some);
    let refused = rig.status(coded_push(2, unknown, 70, &body));
    assert_eq!(refused, Status::Refused(Refusal::Malformed));
}

#[test]
fn a_codec_that_a_shard_does_not_know_is_refused_with_the_tables_definition() {
    let mut rig = Rig::joined(1, Staleness::BSP);
    let spec = table_spec("counts", 1, &Sum);
    let mut define = |push, pull| {
        let define = Define::new(&spec, Announced { push, pull }).expect("a short name");
        rig.status(letter(define.as_bytes(), request(Kind::Define, 0)))
    };
    let encoding = |values| Encoding::new(KeyForm::Numbered, values, Carried::All).get();
    assert_eq!(define(encoding(VALUES_BY_COLUMN), encoding(7)), Status::Done);
    let refused = Status::Refused(Refusal::NoSuchCodec { codecs: 8 });
    assert_eq!(define(encoding(8), encoding(0)), refused);
    assert_eq!(define(encoding(0), encoding(VALUES_BY_COLUMN)), refused);
    assert_eq!(define(0x80, 0), refused);
}

/// A push of `[grad, grad²]` that are the same for each of these keys.
fn push_pairs(sequence: u64, keys: &[u64], pair: [f32; 2]) -> Letter {
    let pairs: Vec<f32> = keys.iter().flat_map(|_| pair).collect();
    let body = [keys.as_bytes(), pairs.as_bytes()].concat();
    let of = request(Kind::Push, 0);
    letter(&body, Header { sequence, keys: keys.len() as u32, width: 2, ..of })
}

#[test]
fn a_rule_that_rounds_by_chance_draws_anew_with_each_push_and_alike_on_each_shard() {
    const PUSHES: u64 = 800;
    let rule = FtrlCompact(Ftrl { alpha: 1.0, beta: 1.0, l1: 0.0, l2: 0.0 });
    let values = |requests: &[&[u64]]| -> Vec<[f32; 2]> {
        let mut shards: Vec<Rig> =
            requests.iter().map(|_| Rig::joined_under(&rule, 1, Staleness::ASP)).collect();
        for (rig, keys) in shards.iter_mut().zip(requests) {
            assert_eq!(rig.status(push_pairs(1, keys, [0.5, 1000.0])), Status::Done);
            for sequence in 2..2 + PUSHES {
                assert_eq!(rig.status(push_pairs(sequence, keys, [0.0, 0.5])), Status::Done);
            }
        }
        let all = shards.iter_mut().zip(requests).flat_map(|(rig, keys)| {
            let answer = rig.answer(&pull(WorkerId::OBSERVER.get(), 0, keys));
            let (_, message) = wire::open(answer.bytes(), crc).expect("a sealed answer");
            let Message::Values(values) = message else { panic!("{message:?}") };
            values.chunks(2).map(|pair| [pair[0], pair[1]]).collect::<Vec<_>>()
        });
        all.collect()
    };
    let together = values(&[&[3, 4, 9]]);
    assert_eq!(together, values(&[&[4], &[3, 9]]));
    // `n` has units of 8 to 16 there and `z` rests: equal draws would leave the row where it was.
    let n = (1.0 / together[0][1] - 1.0).powi(2);
    assert!((1200.0..1600.0).contains(&n), "1000 and 800 halves make {n}");
}

#[test]
fn a_table_defined_again_must_let_rows_come_and_go_alike() {
    let life = RowLife { admission: KeyAdmission::Count(2), expiry: Expiry::Clocks(3) };
    let mut rig = Rig::living(1, Staleness::BSP, life);
    assert_eq!(rig.status(define(&counts(life))), Status::Done);
    for other in [
        RowLife::default(),
        RowLife { admission: KeyAdmission::Count(3), ..life },
        RowLife { expiry: Expiry::Recent, ..life },
    ] {
        assert_eq!(rig.status(define(&counts(other))), Status::Refused(Refusal::TableMismatch));
    }
}

#[test]
fn a_push_sent_twice_counts_once_towards_admission_too() {
    let life = RowLife { admission: KeyAdmission::Count(3), expiry: Expiry::Never };
    let mut rig = Rig::living(1, Staleness::BSP, life);
    for sequence in 1..=2 {
        let letter = push(0, sequence, &[5], Flags::NONE, 0);
        assert_eq!(rig.status(letter.clone()), Status::Done);
        assert_eq!(rig.status(letter), Status::Duplicate);
    }
    assert_eq!(rig.count(5), 0.0);
    rig.status(push(0, 3, &[5], Flags::NONE, 0));
    assert_eq!(rig.count(5), 1.0);
}

#[test]
fn rows_age_by_the_slowest_worker_and_no_further_once_all_have_left() {
    let life = RowLife { admission: KeyAdmission::All, expiry: Expiry::Clocks(2) };
    let mut rig = Rig::living(2, Staleness::ssp(1), life);
    rig.status(push(0, 1, &[5], Flags::NONE, 0));
    for clock in 0..3 {
        rig.status(push(0, 2 + clock, &[], Flags::TICK, clock));
    }
    assert_eq!(rig.count(5), 1.0, "the other worker is at clock 0");
    for clock in 0..2 {
        rig.status(push(1, 1 + clock, &[], Flags::TICK, clock));
    }
    assert_eq!((rig.count(5), rig.scanned()), (1.0, 1), "at clock 2 it is as old as may be");
    rig.status(push(1, 3, &[9], Flags::TICK, 2));
    assert_eq!((rig.count(5), rig.scanned()), (0.0, 1), "at clock 3 it is older");
    for worker in 0..2 {
        assert_eq!(rig.status(letter(&[], request(Kind::Leave, worker))), Status::Done);
    }
    assert_eq!((rig.count(9), rig.scanned()), (1.0, 1), "clocks have ended");
}

#[test]
fn without_a_common_clock_rows_age_by_the_mean_of_all() {
    let life = RowLife { admission: KeyAdmission::All, expiry: Expiry::Clocks(2) };
    let mut rig = Rig::living(2, Staleness::ASP, life);
    rig.status(push(0, 1, &[5], Flags::NONE, 0));
    for clock in 0..5 {
        rig.status(push(0, 2 + clock, &[], Flags::TICK, clock));
    }
    assert_eq!(rig.count(5), 1.0, "five clocks of two workers are two of each");
    rig.status(push(0, 7, &[], Flags::TICK, 5));
    assert_eq!(rig.count(5), 0.0);
}

#[test]
fn a_worker_far_ahead_of_what_its_job_allows_makes_nobodys_rows_old() {
    let life = RowLife { admission: KeyAdmission::All, expiry: Expiry::Clocks(2) };
    let mut rig = Rig::living(2, Staleness::ssp(1), life);
    rig.status(push(0, 1, &[5], Flags::NONE, 0));
    rig.status(push(1, 1, &[5, 6], Flags::NONE, u64::MAX));
    assert_eq!((rig.count(5), rig.count(6)), (2.0, 1.0));
}
