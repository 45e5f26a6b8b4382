//! The handshake of a new connection, before a core sees it.
//!
//! Owns the server's side: a hello names the shard and the worker, a welcome says how many shards
//! there are and how long a message may be. Moving the bytes is left to `door`; the client's side
//! is `transport::dial`.

use std::fmt;
use std::io;

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{
    HEADER_BYTES, Header, Kind, Malformed, Refusal, Seal, ShardId, Status, VERSION, WorkerId,
    read_header, seal,
};

use crate::guest::Who;

/// The shard number of a hello that only asks how many shards there are.
pub(crate) const ASK: u16 = u16::MAX;

/// What a hello asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// How many shards there are.
    Asked,
    /// This shard.
    Wants(Who),
}

/// Why a connection does not get in.
#[derive(Debug)]
pub(crate) enum TurnedAway {
    Io(io::Error),
    Malformed(Malformed),
    NotHello,
    Refused(Refusal),
}

/// What a server says of itself in a welcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct House {
    /// How many shards there are.
    pub(crate) shards: u16,
    /// The longest message, in bytes.
    pub(crate) message_bytes_max: usize,
}

/// An answer to a hello; none to what is none.
pub(crate) type Answer = Option<[u8; HEADER_BYTES]>;

/// Reads a hello. What it is answered, and what becomes of the connection.
///
/// - `admits`: whether the sender may speak to the shard that it wants.
pub(crate) fn read_hello(
    bytes: &[u8; HEADER_BYTES],
    house: House,
    admits: impl Fn(&Header) -> Result<(), Refusal>,
) -> (Answer, Result<Guest, TurnedAway>) {
    let isa = Isa::detect();
    let hello = match read_header(bytes, |bytes| crc32c(isa, 0, bytes)) {
        Ok(hello) => hello,
        Err(malformed) => {
            let refusal = Refusal::VersionMismatch { version: VERSION };
            let is_version = matches!(malformed, Malformed::Version { .. });
            let refused = || answer(Header::new(Kind::Welcome), Status::Refused(refusal));
            return (is_version.then(refused), Err(TurnedAway::Malformed(malformed)));
        }
    };
    if hello.kind() != Kind::Hello {
        return (None, Err(TurnedAway::NotHello));
    }
    let welcome = Header {
        worker: hello.worker,
        incarnation: hello.incarnation,
        table: hello.table,
        keys: u32::from(house.shards),
        sequence: house.message_bytes_max as u64,
        ..Header::new(Kind::Welcome)
    };
    if hello.table == ASK {
        return (Some(answer(welcome, Status::Done)), Ok(Guest::Asked));
    }
    if let Err(refusal) = admits(&hello) {
        let said = answer(welcome, Status::Refused(refusal));
        return (Some(said), Err(TurnedAway::Refused(refusal)));
    }
    let who = Who {
        shard: ShardId::new(hello.table),
        epoch: hello.epoch(),
        worker: WorkerId::new(hello.worker),
        incarnation: hello.incarnation(),
        message_bytes_max: usize::try_from(hello.sequence).unwrap_or(usize::MAX),
    };
    (Some(answer(welcome, Status::Done)), Ok(Guest::Wants(who)))
}

fn answer(mut header: Header, status: Status) -> [u8; HEADER_BYTES] {
    status.write(&mut header);
    let isa = Isa::detect();
    let mut bytes = [0; HEADER_BYTES];
    seal(&mut bytes, header, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
    bytes
}

impl fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TurnedAway::Io(error) => write!(f, "the handshake broke off: {error}"),
            TurnedAway::Malformed(malformed) => malformed.fmt(f),
            TurnedAway::NotHello => f.write_str("the first message is no hello"),
            TurnedAway::Refused(refusal) => refusal.fmt(f),
        }
    }
}
