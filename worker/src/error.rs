//! Why a session cannot go on, or did not do what was asked.
//!
//! Owns the one error of this crate. Each line that it prints names the server and both sides'
//! numbers; what to do next is said at each variant.

use std::fmt;
use std::time::Duration;

use kernels::codec::Damaged;
use transport::Fault;
use wire::{Clock, Epoch, Header, Incarnation, Kind, Malformed, Refusal, Sequence, TableSpecError};

/// Why a session did not do what was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerError {
    /// The link to a server is over while something is wanted from it. Nothing is lost yet: after
    /// `Session::reconnect` over a new link everything unanswered is sent again.
    ServerLost {
        /// The server.
        server: String,
        /// What ended the link.
        fault: Fault,
    },
    /// The shard is at another epoch there: other servers hold it by now, or this side knows of a
    /// change before the server does. Nothing is lost: as with [`WorkerError::ServerLost`].
    Moved {
        /// The server.
        server: String,
        /// This side's epoch of the shard.
        ours: Epoch,
        /// The server's.
        theirs: Epoch,
    },
    /// A server that owes an answer has sent nothing at all for so long, although it was asked
    /// again. The link is closed; as with [`WorkerError::ServerLost`].
    Silent {
        /// The server.
        server: String,
        /// What it owes an answer to.
        asked: Asked,
        /// How long it has been silent.
        silence: Duration,
    },
    /// The caller's deadline came first. The session goes on; what was waited for is still under
    /// way, but for a pull or a call, whose answer is no longer wanted.
    TimedOut {
        /// The first server that still owes an answer, or `all servers`.
        server: String,
        /// What was waited for.
        awaited: Awaited,
        /// How long.
        waited: Duration,
    },
    /// A shard changed nothing, and says why. A refused push leaves the session failed, since its
    /// clock cannot be finished any more; any other refusal ends only what was asked.
    Refused {
        /// The server.
        server: String,
        /// What it was asked, with this side's numbers.
        asked: Asked,
        /// Its answer, with that side's numbers.
        refusal: Refusal,
    },
    /// A server sent a message that answers nothing that was asked, or with another shape than
    /// was asked for. The session stays failed.
    Unexpected {
        /// The server.
        server: String,
        /// Kind of the message.
        kind: Kind,
        /// Keys and width in it.
        found: (u32, u16),
        /// Keys and width that were asked for; `None` if a worker never gets such a message.
        expected: Option<(u32, u16)>,
    },
    /// A server sent values whose bytes pass every checksum and mean nothing. The session stays
    /// failed.
    Undecodable {
        /// The server.
        server: String,
        /// What is wrong with them.
        damaged: Damaged,
    },
    /// The keys are not strictly ascending. Nothing was sent.
    Keys(Malformed),
    /// A table's definition that no message can carry. Nothing was sent.
    Spec(TableSpecError),
    /// One key's values alone would not fit a message. Nothing was sent.
    WidthTooLarge {
        /// Values a key.
        width: usize,
        /// The longest message of this transport, in bytes.
        message_bytes_max: usize,
    },
    /// Too much of one thing is under way. Nothing was sent; wait for some of it, then try again.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there would be.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
}

/// A request in this side's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it is.
    pub kind: Kind,
    /// The table's number.
    pub table: u16,
    /// The session's epoch.
    pub epoch: Epoch,
    /// The session's incarnation.
    pub incarnation: Incarnation,
    /// The request's number; that of a push counts from 1, others' have the highest bit set.
    pub sequence: Sequence,
    /// The worker's clock when it asked.
    pub clock: Clock,
    /// How many keys.
    pub keys: u32,
    /// Values a key.
    pub width: u16,
}

/// What a caller waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The values of a pull.
    Values {
        /// The table's number.
        table: u16,
        /// The clock at which it was asked.
        clock: Clock,
        /// The slowest worker's clock, as far as the servers told.
        clock_slowest: Clock,
    },
    /// That no more than `outstanding_max` pushes are unanswered.
    Pushes {
        /// How many are, in messages.
        outstanding: usize,
        /// How many the caller allows.
        outstanding_max: usize,
    },
    /// That no more than `outstanding_max` clocks are unfinished on some shard.
    Clocks {
        /// How many are.
        outstanding: u64,
        /// How many the caller allows.
        outstanding_max: u64,
    },
    /// The answer to a call of this kind.
    Answer(Kind),
}

impl Asked {
    pub(crate) fn from_header(header: &Header) -> Asked {
        Asked {
            kind: header.kind(),
            table: header.table,
            epoch: header.epoch(),
            incarnation: header.incarnation(),
            sequence: header.sequence(),
            clock: header.clock(),
            keys: header.keys,
            width: header.width,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked { table, keys, clock, .. } = self;
        match self.kind {
            Kind::Pull => write!(f, "a pull of {keys} keys of table {table} at {clock}"),
            Kind::Push => {
                let sequence = self.sequence.get();
                write!(f, "push {sequence} with {keys} keys of table {table} at {clock}")
            }
            Kind::Define => write!(f, "the definition of table {table}"),
            Kind::Scan => write!(f, "a scan of table {table}"),
            Kind::Load => write!(f, "a load of {keys} rows of table {table}"),
            Kind::Remove => write!(f, "the removal of {keys} rows of table {table}"),
            Kind::Join => write!(f, "to join the job"),
            Kind::Leave => write!(f, "to leave the job"),
            kind => write!(f, "{kind:?}"),
        }
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Awaited::Values { table, clock, clock_slowest } => write!(
                f,
                "values of table {table} at {clock} (the slowest worker is at {clock_slowest})"
            ),
            Awaited::Pushes { outstanding, outstanding_max } => write!(
                f,
                "answers to pushes: {outstanding} are outstanding, {outstanding_max} allowed"
            ),
            Awaited::Clocks { outstanding, outstanding_max } => write!(
                f,
                "clocks to be finished: {outstanding} are outstanding, {outstanding_max} allowed"
            ),
            Awaited::Answer(kind) => write!(f, "the answer to a {kind:?}"),
        }
    }
}

/// The sender's side of what a refusal's words say about the shard's.
fn own_side(f: &mut fmt::Formatter<'_>, asked: &Asked, refusal: &Refusal) -> fmt::Result {
    match refusal {
        Refusal::Fenced { .. } => write!(f, "this worker is {}, ", asked.incarnation),
        Refusal::WidthMismatch { .. } => write!(f, "asked with {} values a key, ", asked.width),
        Refusal::NoSuchTable { .. } => write!(f, "asked for table {}, ", asked.table),
        _ => Ok(()),
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::ServerLost { server, fault } => {
                write!(f, "server {server} is lost: {fault}")
            }
            WorkerError::Moved { server, ours, theirs } => {
                write!(f, "server {server} is at {theirs}, this worker at {ours}")
            }
            WorkerError::Silent { server, asked, silence } => write!(
                f,
                "server {server} has been silent for {:.1} s and owes an answer to {asked}",
                silence.as_secs_f64()
            ),
            WorkerError::TimedOut { server, awaited, waited } => {
                write!(f, "waited {:.1} s on server {server} for {awaited}", waited.as_secs_f64())
            }
            WorkerError::Refused { server, asked, refusal } => {
                write!(f, "server {server} refused {asked}: ")?;
                own_side(f, asked, refusal)?;
                write!(f, "{refusal}")
            }
            WorkerError::Unexpected { server, kind, found, expected: Some(expected) } => write!(
                f,
                "server {server} answered with {kind:?} of {} keys by {} values; \
                 asked were {} by {}",
                found.0, found.1, expected.0, expected.1
            ),
            WorkerError::Unexpected { server, kind, .. } => {
                write!(f, "server {server} sent a {kind:?}, which answers nothing a worker asks")
            }
            WorkerError::Undecodable { server, damaged } => {
                write!(f, "server {server} sent values that mean nothing: {damaged}")
            }
            WorkerError::Keys(malformed) => write!(f, "keys to split: {malformed}"),
            WorkerError::Spec(error) => error.fmt(f),
            WorkerError::WidthTooLarge { width, message_bytes_max } => write!(
                f,
                "one key with {width} values does not fit a message, which has at most \
                 {message_bytes_max} bytes on this transport"
            ),
            WorkerError::TooMany { what, count, count_max } => {
                write!(f, "{count} {what} would be under way, {count_max} is the most")
            }
        }
    }
}

impl std::error::Error for WorkerError {}
