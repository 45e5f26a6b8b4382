//! The fixed header: 64 bytes at the start of every message.
//!
//! Owns its layout. `docs/wire.md` draws it and keeps a hash of the lines between the two markers
//! below; `cargo xtask tidy` compares.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::frame::{HEADER_BYTES, Malformed, check_ours};
use crate::ids::{Clock, Epoch, Incarnation, Sequence, TableId, WorkerId};
use crate::status::Status;

/// The first four bytes of every message: `GRDW`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"GRDW");

/// The version of the wire that this build speaks.
pub const VERSION: u16 = 9;

/// The oldest version whose recorded messages are read: what checkpoints hold has had the same
/// bytes since. A change of a job's state, of pages, counts or operations makes this [`VERSION`].
pub const RECORDED_SINCE: u16 = 6;

// layout-begin
/// The header as it stands on the wire. Little-endian, no padding, 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u16,
    /// A [`Kind`], as a number.
    pub kind: u8,
    /// [`Flags`].
    pub flags: u8,
    /// Epoch of the sender; in a refusal, of the shard.
    pub epoch: u64,
    /// Who asks; in an answer, who asked; in `PEER_LOST`, who died.
    pub worker: u32,
    /// The asking worker's incarnation.
    pub incarnation: u32,
    /// The request's number; an answer repeats it.
    pub sequence: u64,
    /// Request: the worker's clock. Answer: the slowest worker's. In a scan, the cursor.
    pub clock: u64,
    /// The table; in a hello, the shard wanted.
    pub table: u16,
    /// A [`Status`], as a number; 0 in a request.
    pub status: u8,
    /// How the body is written: an [`Encoding`](crate::Encoding), as a number.
    pub encoding: u8,
    /// How many keys the body has; in a welcome, how many shards the server has.
    pub keys: u32,
    /// Length of the body in bytes.
    pub body_bytes: u32,
    /// How many f32 a key has in the body.
    pub width: u16,
    /// Answer: requests that the worker may have in flight on this shard. In a pull that any
    /// replica may answer, the low bits of the number of the worker's last push before it.
    pub credit: u16,
    /// CRC32C of the body, if the flag `BODY_CHECKED` is set, else 0.
    pub body_crc: u32,
    /// CRC32C of the 60 bytes before this one.
    pub header_crc: u32,
}
// layout-end

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// What a message is. The number stands in [`Header::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Opens a connection: which shard, which worker. No body.
    Hello = 1,
    /// Answers a hello. No body.
    Welcome = 2,
    /// A worker takes part in a job. Body: [`crate::Join`].
    Join = 3,
    /// Creates a table, or checks that it is the same. Body: [`crate::Define`].
    Define = 4,
    /// Asks for values. Body: keys.
    Pull = 5,
    /// Answers a pull. Body: values in the order of the asked keys.
    Values = 6,
    /// Adds deltas, ticks, or both. Body: keys, then deltas.
    Push = 7,
    /// Answers all that has no answer of its own; also every refusal. No body.
    Reply = 8,
    /// The worker has finished: nobody waits for its clock any more. No body.
    Leave = 9,
    /// Asks for whole rows from a cursor on. No body.
    Scan = 10,
    /// Answers a scan. Body: keys, then whole rows.
    Rows = 11,
    /// Writes whole rows. Body: keys, then whole rows.
    Load = 12,
    /// Asks how large a table is. No body.
    Measure = 13,
    /// Answers a measure. Body: [`crate::TableSize`].
    Size = 14,
    /// Takes rows out. Body: keys.
    Remove = 15,
    /// What two transports say of a faster way beside their link. Body: [`crate::LaneMessage`].
    Lane = 16,
    /// What a successor in a chain has received, and what the chain's tail has. No body.
    Applied = 17,
    /// A place in a chain's order that changes nothing. No body.
    Nothing = 18,
    /// Begins to fill a successor: the job and the tables. Body: 64-bit words.
    State = 19,
    /// Rows for a successor that is filled. Body: keys, then whole rows with their stamps.
    Page = 20,
    /// Counts of absent keys, for a successor that is filled. Body: numbers of lines, then lines.
    Counts = 21,
    /// Ends filling a successor. Body: 64-bit words.
    Filled = 22,
    /// A piece of a message that is longer than the way between two servers takes. Body: bytes.
    Part = 23,
    /// Answers a join. Body: [`crate::Joined`].
    Joined = 24,
    /// Pushes of several workers that a chain's head has made one. Body: their names, then keys,
    /// then sums of deltas.
    Merged = 25,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(raw: u8) -> Option<Kind> {
        Some(match raw {
            1 => Kind::Hello,
            2 => Kind::Welcome,
            3 => Kind::Join,
            4 => Kind::Define,
            5 => Kind::Pull,
            6 => Kind::Values,
            7 => Kind::Push,
            8 => Kind::Reply,
            9 => Kind::Leave,
            10 => Kind::Scan,
            11 => Kind::Rows,
            12 => Kind::Load,
            13 => Kind::Measure,
            14 => Kind::Size,
            15 => Kind::Remove,
            16 => Kind::Lane,
            17 => Kind::Applied,
            18 => Kind::Nothing,
            19 => Kind::State,
            20 => Kind::Page,
            21 => Kind::Counts,
            22 => Kind::Filled,
            23 => Kind::Part,
            24 => Kind::Joined,
            25 => Kind::Merged,
            _ => return None,
        })
    }
}

/// Bits of [`Header::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// No bit set.
    pub const NONE: Flags = Flags(0);
    /// This push is the worker's last one of its clock on this shard.
    pub const TICK: Flags = Flags(1);
    /// `body_crc` is the body's checksum.
    pub const BODY_CHECKED: Flags = Flags(2);
    /// This piece of a message is not its last one.
    pub const MORE: Flags = Flags(4);
    /// This piece of a message is not its first one.
    pub const CONTINUES: Flags = Flags(8);
    /// Any replica of the chain may answer this pull; in a hello, the sender will send only such.
    pub const ANY_REPLICA: Flags = Flags(16);
    /// A few keys of this shard are a good part of what is pulled from it: other replicas may be
    /// asked, too.
    pub const HOT: Flags = Flags(32);
    /// This push is answered once the tail of its chain has it, whatever its table says.
    pub const AT_TAIL: Flags = Flags(64);

    /// Both sets of bits.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether each bit of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits, as they stand on the wire.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Header {
    /// A header of this kind with every other field zero.
    pub const fn new(kind: Kind) -> Header {
        Header {
            magic: MAGIC,
            version: VERSION,
            kind: kind as u8,
            flags: 0,
            epoch: 0,
            worker: 0,
            incarnation: 0,
            sequence: 0,
            clock: 0,
            table: 0,
            status: 0,
            encoding: 0,
            keys: 0,
            body_bytes: 0,
            width: 0,
            credit: 0,
            body_crc: 0,
            header_crc: 0,
        }
    }

    /// Reads a header whose magic, version and kind are ours. The checksum is not looked at.
    pub fn peek(head: &[u8; HEADER_BYTES]) -> Result<Header, Malformed> {
        Header::peek_since(head, VERSION)
    }

    /// The same, of this version or a later one up to ours.
    pub(crate) fn peek_since(head: &[u8; HEADER_BYTES], oldest: u16) -> Result<Header, Malformed> {
        let header: Header = zerocopy::transmute!(*head);
        check_ours(header.magic, header.version, oldest)?;
        match Kind::from_u8(header.kind) {
            Some(_) => Ok(header),
            None => Err(Malformed::Kind { found: header.kind }),
        }
    }

    /// What the message is. Panics if the header was not read by [`Header::peek`] or made by
    /// [`Header::new`], the only ways to have one.
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.kind).expect("peek and new let no other kind pass")
    }

    /// The flags.
    pub const fn flags(&self) -> Flags {
        Flags(self.flags)
    }

    /// The status of an answer.
    ///
    /// - Errors: the number is no status that this version knows.
    pub fn status(&self) -> Result<Status, Malformed> {
        Status::read(self)
    }

    /// The sender's epoch; in a refusal, the shard's.
    pub const fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }

    /// Who asks, or who asked.
    pub const fn worker(&self) -> WorkerId {
        WorkerId::new(self.worker)
    }

    /// The asking worker's incarnation.
    pub const fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.incarnation)
    }

    /// The request's number.
    pub const fn sequence(&self) -> Sequence {
        Sequence::new(self.sequence)
    }

    /// The worker's clock, or the slowest one's.
    pub const fn clock(&self) -> Clock {
        Clock::new(self.clock)
    }

    /// The table.
    pub const fn table(&self) -> TableId {
        TableId::new(self.table)
    }
}
