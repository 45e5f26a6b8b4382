//! The handshake of a new connection, before a core sees it.
//!
//! Owns the server's side: a hello names the shard and the worker, a welcome says how many shards
//! there are and how long a message may be. The client's side is `worker::connect`.

use std::fmt;
use std::io::{self, Read, Write};

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{
    HEADER_BYTES, Header, Kind, Malformed, Refusal, Seal, ShardId, Status, VERSION, WorkerId,
    read_header, seal,
};

use crate::turn::Who;

/// The shard number of a hello that only asks how many shards there are.
pub(crate) const ASK: u16 = u16::MAX;

/// What a hello asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// How many shards there are; it has been told.
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

/// Reads a hello and answers it. The stream has its deadline set.
///
/// - `admits`: whether the sender may speak to the shard that it wants.
pub(crate) fn receive(
    stream: &mut (impl Read + Write),
    shards: u16,
    message_bytes_max: usize,
    admits: impl Fn(&Header) -> Result<(), Refusal>,
) -> Result<Guest, TurnedAway> {
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).map_err(TurnedAway::Io)?;
    let isa = Isa::detect();
    let crc = |bytes: &[u8]| crc32c(isa, 0, bytes);
    let hello = match read_header(&bytes, crc) {
        Ok(hello) => hello,
        Err(malformed) => {
            if matches!(malformed, Malformed::Version { .. }) {
                let refusal = Refusal::VersionMismatch { version: VERSION };
                answer(stream, Header::new(Kind::Welcome), Status::Refused(refusal))?;
            }
            return Err(TurnedAway::Malformed(malformed));
        }
    };
    if hello.kind() != Kind::Hello {
        return Err(TurnedAway::NotHello);
    }
    let welcome = Header {
        worker: hello.worker,
        incarnation: hello.incarnation,
        table: hello.table,
        keys: u32::from(shards),
        sequence: message_bytes_max as u64,
        ..Header::new(Kind::Welcome)
    };
    if hello.table != ASK
        && let Err(refusal) = admits(&hello)
    {
        answer(stream, welcome, Status::Refused(refusal))?;
        return Err(TurnedAway::Refused(refusal));
    }
    answer(stream, welcome, Status::Done)?;
    if hello.table == ASK {
        return Ok(Guest::Asked);
    }
    let who = Who {
        shard: ShardId::new(hello.table),
        epoch: hello.epoch(),
        worker: WorkerId::new(hello.worker),
        incarnation: hello.incarnation(),
        message_bytes_max: usize::try_from(hello.sequence).unwrap_or(usize::MAX),
    };
    Ok(Guest::Wants(who))
}

fn answer(stream: &mut impl Write, mut header: Header, status: Status) -> Result<(), TurnedAway> {
    status.write(&mut header);
    let isa = Isa::detect();
    let mut bytes = [0; HEADER_BYTES];
    seal(&mut bytes, header, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
    stream.write_all(&bytes).and_then(|()| stream.flush()).map_err(TurnedAway::Io)
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
