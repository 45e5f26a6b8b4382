//! Good messages of every kind, and how a broken one is sealed again.
//!
//! Owns their bytes. Who handles them is left to the targets.

use kernels::Isa;
use kernels::codec::{
    Rounding, ValueCodec, encode_values, encoded_values_bytes_max, pack_keys, packed_keys_bytes_max,
};
use kernels::crc32c::crc32c;
use shard::rule::{Adam, Sum, table_spec};
use wire::{
    Acknowledge, Announced, Carried, Define, Encoding, Epoch, Expiry, Flags, HEADER_BYTES, Header,
    Incarnation, JobId, Join, KeyAdmission, KeyForm, Keyed, Kind, LANE_BODY_BYTES, LaneFabric,
    LaneMessage, LaneOffer, LaneRail, LaneRails, ListHead, NumbersHead, PART_BYTES, RowLife,
    ScanCursor, Seal, Staleness, TableSpec, WorkerId,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::random::Random;

pub(super) const EPOCH: Epoch = Epoch::new(1);
pub(super) const WORKER: WorkerId = WorkerId::new(0);
pub(super) const INCARNATION: Incarnation = Incarnation::new(7);
const JOB: JobId = JobId::new(9);
const WORKERS: u32 = 2;

/// Bytes at a boundary of 8, as a slot has them.
pub(super) struct Aligned {
    words: Vec<u64>,
    bytes: usize,
}

impl Aligned {
    pub(super) fn zeros(bytes: usize) -> Aligned {
        Aligned { words: vec![0; bytes.div_ceil(8)], bytes }
    }

    pub(super) fn copied(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned::zeros(bytes.len());
        aligned.bytes_mut().copy_from_slice(bytes);
        aligned
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.bytes]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.bytes]
    }
}

pub(super) fn crc(bytes: &[u8]) -> u32 {
    crc32c(Isa::detect(), 0, bytes)
}

/// The tables that the target's shard has, by number: one of one column, one with state, and two
/// whose rows come and go.
pub(super) fn tables() -> [TableSpec; 4] {
    let adam = Adam { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
    let life = |admission, expiry| RowLife { admission, expiry };
    [
        table_spec("counts", 1, &Sum),
        table_spec("weights", 3, &adam),
        TableSpec {
            life: life(KeyAdmission::Count(2), Expiry::Clocks(1)),
            ..table_spec("old", 1, &Sum)
        },
        TableSpec {
            life: life(KeyAdmission::Probability(0.5), Expiry::Recent),
            acknowledge: Acknowledge::Head,
            aggregate: false,
            ..table_spec("recent", 1, &Sum)
        },
    ]
}

/// Good messages of this kind, in an order in which a shard takes them.
pub(super) fn of_kind(kind: Kind) -> Vec<Vec<u8>> {
    let keys: &[u64] = &[1, 5, 9, 1 << 40];
    match kind {
        Kind::Join => {
            let join = Join { job: JOB, workers: WORKERS, staleness: Staleness::ssp(1) };
            vec![sealed(header(kind, 0), &join.to_bytes())]
        }
        Kind::Define => {
            let define = |(table, spec): (usize, TableSpec)| {
                let define = Define::new(&spec, Announced::default()).expect("a short name");
                sealed(header(kind, table as u16), define.as_bytes())
            };
            tables().into_iter().enumerate().map(define).collect()
        }
        Kind::Push => vec![
            keyed(Header { sequence: 1, ..header(kind, 0) }, keys, 1),
            keyed(Header { sequence: 2, ..header(kind, 1) }, keys, 3),
            keyed(Header { sequence: 4, flags: Flags::TICK.get(), ..header(kind, 0) }, keys, 1),
            sealed(Header { sequence: 3, flags: Flags::TICK.get(), ..header(kind, 0) }, &[]),
            keyed(Header { sequence: 9, ..header(kind, 2) }, keys, 1),
            keyed(Header { sequence: 10, flags: Flags::TICK.get(), ..header(kind, 2) }, keys, 1),
            keyed(Header { sequence: 11, clock: 1, ..header(kind, 3) }, keys, 1),
            coded(5, KeyForm::Packed, ValueCodec::F32, keys),
            coded(6, KeyForm::Packed, ValueCodec::Int8, keys),
            coded(7, KeyForm::Numbered, ValueCodec::Float4, keys),
            coded(8, KeyForm::List, ValueCodec::Bf16, keys),
        ],
        Kind::Pull => vec![
            keyed(header(kind, 0), keys, 0),
            keyed(header(kind, 1), &keys[..2], 0),
            keyed(Header { clock: 3, ..header(kind, 0) }, keys, 0),
            coded(LISTED, KeyForm::Packed, ValueCodec::F16, keys),
            coded(LISTED + 1, KeyForm::Numbered, ValueCodec::F32, keys),
        ],
        Kind::State | Kind::Filled => vec![sealed(header(kind, 0), &[7; 64])],
        Kind::Counts => vec![keyed(header(kind, 0), keys, wire::COUNT_LINE_WIDTH as u16)],
        Kind::Part => vec![sealed(header(kind, 0), &[7; 61])],
        Kind::Load | Kind::Rows | Kind::Page => {
            let of = |table, width| keyed(header(kind, table), keys, width);
            vec![of(0, 1), of(1, 11), of(2, 1), of(3, 1)]
        }
        Kind::Remove => vec![keyed(header(kind, 0), keys, 0), keyed(header(kind, 1), &[], 0)],
        Kind::Values => {
            let header = Header { keys: 4, width: 1, ..header(kind, 0) };
            vec![sealed(header, &[0; 16])]
        }
        Kind::Scan => {
            let cursor = ScanCursor::new(1 << 48);
            let middle = Header { clock: cursor.get(), ..header(kind, 0) };
            vec![sealed(header(kind, 0), &[]), sealed(middle, &[])]
        }
        Kind::Size => vec![sealed(header(kind, 0), &[0; wire::SIZE_BODY_BYTES])],
        Kind::Joined => vec![sealed(header(kind, 0), &[1; wire::JOINED_BODY_BYTES])],
        Kind::Lane => lane_words().iter().map(|word| sealed(header(kind, 0), word)).collect(),
        Kind::Hello | Kind::Welcome | Kind::Reply | Kind::Leave | Kind::Measure => {
            vec![sealed(header(kind, 0), &[])]
        }
        Kind::Applied | Kind::Nothing => vec![sealed(header(kind, 0), &[])],
        Kind::Merged => {
            let name = wire::PushName::of(&Header { sequence: 1, ..header(Kind::Push, 0) });
            let sums = keyed(header(kind, 0), keys, 1);
            let body = [name.as_bytes(), &sums[HEADER_BYTES..]].concat();
            let merged = |width| Header { keys: keys.len() as u32, width, ..header(kind, 0) };
            vec![sealed(merged(1), &body), sealed(merged(2), &body)]
        }
    }
}

/// What two transports say of a lane.
fn lane_words() -> [[u8; LANE_BODY_BYTES]; 6] {
    let offer = LaneOffer {
        generation: 1,
        rail: 1,
        qp_number: 17,
        psn: 99,
        lid: 0,
        gid: [7; 16],
        mtu_code: 3,
        messages_max: 256,
        messages_held: 1,
        ring_address: 1 << 40,
        ring_bytes: 4 << 20,
        position: 128,
        released: 64,
    };
    let rail = LaneRail { gid: [7; 16], distance: 10, subnet_bits: 24, fabric: LaneFabric::RoceV2 };
    let rails = LaneRails::new(1, 5, &[rail; 3]).expect("there are some");
    let words = [
        LaneMessage::Rails(rails),
        LaneMessage::Offer(offer),
        LaneMessage::Ready { generation: 1, rkey: 9 },
        LaneMessage::Switch { generation: 1 },
        LaneMessage::Broken { generation: 1, delivered: 3, reason: 2 },
        LaneMessage::None { reason: 1 },
    ];
    words.map(|word| word.to_bytes())
}

/// Good messages of every kind.
pub(super) fn of_every_kind() -> Vec<Vec<u8>> {
    (0..=u8::MAX).filter_map(Kind::from_u8).flat_map(of_kind).collect()
}

/// A header of the one worker that has joined.
pub(super) fn header(kind: Kind, table: u16) -> Header {
    Header {
        epoch: EPOCH.get(),
        worker: WORKER.get(),
        incarnation: INCARNATION.get(),
        table,
        ..Header::new(kind)
    }
}

pub(super) fn sealed(header: Header, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES];
    message.extend_from_slice(body);
    wire::seal(&mut message, header, Seal::Body, crc);
    message
}

fn keyed(header: Header, keys: &[u64], width: u16) -> Vec<u8> {
    let mut message = Aligned::zeros(Keyed::message_bytes(keys.len(), width.into()));
    let (to_keys, to_values) = Keyed::body_mut(message.bytes_mut(), keys.len());
    to_keys.copy_from_slice(keys);
    to_values.fill(0.5);
    let header = Header { keys: keys.len() as u32, width, ..header };
    wire::seal(message.bytes_mut(), header, Seal::Body, crc);
    message.bytes().to_vec()
}

/// The pull whose keys a coded push names.
const LISTED: u64 = 1 << 63;

/// A pull if the sequence is one of theirs, else a push of ones, of table 0.
fn coded(sequence: u64, form: KeyForm, codec: ValueCodec, keys: &[u64]) -> Vec<u8> {
    let isa = Isa::detect();
    let packed = |keys: &[u64]| {
        let mut bytes = vec![0; packed_keys_bytes_max(keys.len())];
        let end = pack_keys(isa, keys, &mut bytes);
        bytes.truncate(end);
        bytes
    };
    let mut body = match form {
        KeyForm::Plain => keys.as_bytes().to_vec(),
        KeyForm::Packed => packed(keys),
        KeyForm::List => ListHead { pull: LISTED, first: 0, reserved: 0 }.as_bytes().to_vec(),
        KeyForm::Numbered => {
            let head = NumbersHead { generation: 1, base: 0, known: 0, reserved: 0 };
            [head.as_bytes(), &packed(&[]), &packed(keys)].concat()
        }
    };
    body.resize(body.len().next_multiple_of(PART_BYTES), 0);
    let kind = if sequence >= LISTED { Kind::Pull } else { Kind::Push };
    let width = u16::from(kind == Kind::Push);
    if kind == Kind::Push {
        let start = body.len();
        body.resize(start + encoded_values_bytes_max(codec, keys.len()), 0);
        let ones = vec![1.0; keys.len()];
        encode_values(isa, codec, &ones, Rounding::Nearest, &mut body[start..]);
    }
    let encoding = Encoding::new(form, codec.to_u8(), Carried::All).get();
    let count = keys.len() as u32;
    sealed(Header { sequence, encoding, keys: count, width, ..header(kind, 0) }, &body)
}

/// Mostly seals a broken message again, with a field of its header changed or not, so that what is
/// broken inside is reached; sometimes leaves it as it is.
pub(super) fn mend(message: &mut Vec<u8>, random: &mut Random) {
    if message.len() < HEADER_BYTES || random.below(8) == 0 {
        return;
    }
    let known = Header::new(Kind::Push);
    let mut header = Header::read_from_bytes(&message[..HEADER_BYTES]).expect("as long as one");
    (header.magic, header.version) = (known.magic, known.version);
    if Kind::from_u8(header.kind).is_none() {
        header.kind = 1 + random.below(16) as u8;
    }
    if random.below(4) > 0 {
        (header.epoch, header.worker) = (EPOCH.get(), WORKER.get());
        header.incarnation = INCARNATION.get();
    }
    if random.below(2) == 0 {
        change_field(&mut header, random);
    }
    if random.below(2) == 0 {
        make_shape(&mut header, message, random);
    }
    header.flags &= !Flags::BODY_CHECKED.get();
    let seal = random.choose(&[Seal::Body, Seal::HeaderOnly]);
    wire::seal(message, header, seal, crc);
}

/// Puts a number at an edge of its range, or near what stands there, into one field.
fn change_field(header: &mut Header, random: &mut Random) {
    let field = random.below(9);
    let now = [
        header.sequence,
        header.clock,
        header.table.into(),
        header.keys.into(),
        header.width.into(),
        header.flags.into(),
        header.worker.into(),
        header.incarnation.into(),
        header.encoding.into(),
    ][field as usize];
    let number = match random.below(3) {
        0 => now.wrapping_add(random.below(5)).wrapping_sub(2),
        1 => random.choose(&[0, 1, 255, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX - 1, u64::MAX]),
        _ => random.below(2048),
    };
    match field {
        0 => header.sequence = number,
        1 => header.clock = number,
        2 => header.table = number as u16,
        3 => header.keys = number as u32,
        4 => header.width = number as u16,
        5 => header.flags = number as u8,
        6 => header.worker = number as u32,
        7 => header.incarnation = number as u32,
        _ => header.encoding = number as u8,
    }
}

/// Makes keys and width fit the body's length; mostly puts the keys in order.
fn make_shape(header: &mut Header, message: &mut Vec<u8>, random: &mut Random) {
    let value_bytes =
        if header.kind == Kind::Pull as u8 { 0 } else { 4 * usize::from(header.width) };
    let keys = (message.len() - HEADER_BYTES) / (8 + value_bytes);
    message.truncate(HEADER_BYTES + keys * (8 + value_bytes));
    header.keys = keys as u32;
    if random.below(4) > 0 {
        let (words, _) = message[HEADER_BYTES..HEADER_BYTES + 8 * keys].as_chunks_mut::<8>();
        words.sort_unstable_by_key(|word| u64::from_le_bytes(*word));
    }
}
