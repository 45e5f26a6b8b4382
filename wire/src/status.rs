//! What an answer says: done, done before, or a refusal.
//!
//! Owns the refusals' numbers on the wire and their words. A refusal changed nothing on the shard;
//! each variant says what the sender does next. The shard's side of a disagreement travels in the
//! answer's `clock` field; the sender knows its own side.

use std::fmt;

use crate::frame::Malformed;
use crate::header::Header;
use crate::ids::{Epoch, Incarnation, Sequence, WorkerId};

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Done,
    /// This push was applied before; it was not applied again.
    Duplicate,
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a shard changes nothing. The numbers are the shard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The sender's epoch is not the shard's. Fetch the routing table and retry.
    EpochMismatch {
        /// The shard's.
        shard: Epoch,
    },
    /// The worker has not joined the job on this shard. Join first.
    NotJoined,
    /// A later incarnation of the same worker is known. The sender must stop.
    Fenced {
        /// The incarnation that the shard knows.
        known: Incarnation,
    },
    /// The sequence is further ahead of the applied ones than the shard can remember. Wait for
    /// answers and retry.
    SequenceTooNew {
        /// The newest that could be taken.
        newest: Sequence,
    },
    /// No table has this number. Define it first.
    NoSuchTable {
        /// How many tables there are.
        tables: u16,
    },
    /// The table exists with another name, rule, dim, parameters, layout, admission or expiry. Use
    /// the same binary and settings, or another server.
    TableMismatch,
    /// The server has no rule of this name. Run the server with the binary that has it.
    NoSuchRule,
    /// The rule refuses its parameters.
    BadParameters,
    /// The message's width is not the table's.
    WidthMismatch {
        /// The table's.
        table: u16,
    },
    /// The shard's memory budget or row number is used up. Use more servers.
    TableFull {
        /// Rows in the table.
        rows: u64,
    },
    /// The body was not what its kind promises.
    Malformed,
    /// A worker of this job has died. The job ends.
    WorkerLost {
        /// Who.
        worker: WorkerId,
    },
    /// The shard serves another job, or this job with other settings. Use another server.
    JobMismatch,
    /// The server has no shard of this number.
    NoSuchShard {
        /// How many it has.
        shards: u16,
    },
    /// The answer would be longer than a message can be. Ask for fewer keys.
    TooLarge {
        /// The longest answer in bytes.
        bytes_max: u32,
    },
    /// The table has changed its shape since the scan began. Begin again.
    CursorStale,
    /// The peer speaks another version of the wire. Run the same gradwire on both sides.
    VersionMismatch {
        /// The version of the side that answers.
        version: u16,
    },
    /// The shard does not have the key list that the message names: it keeps few. Send the keys.
    ListUnknown {
        /// How many lists it has of this worker.
        lists: u16,
    },
    /// The message uses numbers of keys that the shard has not learned, or from a dictionary that
    /// is over. Send the keys, and begin a new dictionary.
    NumbersUnknown {
        /// How many numbers it has learned from this worker.
        numbers: u32,
    },
    /// The server does not know an encoding that the definition announces. Use another codec, or
    /// the same gradwire on both sides.
    NoSuchCodec {
        /// How many value codecs it knows.
        codecs: u8,
    },
    /// The server is not the head of the shard's chain. Wait for a newer placement and ask its
    /// head.
    NotHead {
        /// The epoch of the chain as the server knows it.
        shard: Epoch,
    },
    /// The server may take no more memory: a push would add rows, or a connection is one too many.
    /// Wait, and try again.
    Busy {
        /// What the server's memory holds, in MiB; at most [`BUSY_MIB_MAX`].
        used_mib: u32,
        /// What it may hold, in MiB; likewise.
        bound_mib: u32,
        /// After which time to try again, in milliseconds.
        retry_ms: u16,
    },
}

/// The most memory that [`Refusal::Busy`] can name, in MiB: 16 TiB. More is cut to this.
pub const BUSY_MIB_MAX: u32 = (1 << 24) - 1;

/// Codes below this are no refusals.
const FIRST_REFUSAL: u8 = 16;

impl Refusal {
    /// The refusal's number on the wire, and the shard's side of the disagreement.
    fn code_and_number(self) -> (u8, u64) {
        match self {
            Refusal::EpochMismatch { shard } => (FIRST_REFUSAL, shard.get()),
            Refusal::NotJoined => (17, 0),
            Refusal::Fenced { known } => (18, known.get().into()),
            Refusal::SequenceTooNew { newest } => (19, newest.get()),
            Refusal::NoSuchTable { tables } => (20, tables.into()),
            Refusal::TableMismatch => (21, 0),
            Refusal::NoSuchRule => (22, 0),
            Refusal::BadParameters => (23, 0),
            Refusal::WidthMismatch { table } => (24, table.into()),
            Refusal::TableFull { rows } => (25, rows),
            Refusal::Malformed => (26, 0),
            Refusal::WorkerLost { worker } => (27, worker.get().into()),
            Refusal::JobMismatch => (28, 0),
            Refusal::NoSuchShard { shards } => (29, shards.into()),
            Refusal::TooLarge { bytes_max } => (30, bytes_max.into()),
            Refusal::CursorStale => (31, 0),
            Refusal::VersionMismatch { version } => (32, version.into()),
            Refusal::ListUnknown { lists } => (33, lists.into()),
            Refusal::NumbersUnknown { numbers } => (34, numbers.into()),
            Refusal::NoSuchCodec { codecs } => (35, codecs.into()),
            Refusal::NotHead { shard } => (36, shard.get()),
            Refusal::Busy { used_mib, bound_mib, retry_ms } => {
                let (used, bound) = (used_mib.min(BUSY_MIB_MAX), bound_mib.min(BUSY_MIB_MAX));
                (40, u64::from(used) << 40 | u64::from(bound) << 16 | u64::from(retry_ms))
            }
        }
    }

    /// How many numbers there are for refusals, used or not.
    pub const COUNT: usize = 48;

    /// Its number, from 0; below [`Refusal::COUNT`].
    pub fn index(self) -> usize {
        usize::from(self.code_and_number().0 - FIRST_REFUSAL)
    }

    /// The refusal of this [`Refusal::index`], without its numbers.
    pub fn from_index(index: usize) -> Option<Refusal> {
        let code = u8::try_from(index).ok()?.checked_add(FIRST_REFUSAL)?;
        Refusal::from_code(code, 0)
    }

    /// Its name in figures, as `table_full`.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::EpochMismatch { .. } => "epoch_mismatch",
            Refusal::NotJoined => "not_joined",
            Refusal::Fenced { .. } => "fenced",
            Refusal::SequenceTooNew { .. } => "sequence_too_new",
            Refusal::NoSuchTable { .. } => "no_such_table",
            Refusal::TableMismatch => "table_mismatch",
            Refusal::NoSuchRule => "no_such_rule",
            Refusal::BadParameters => "bad_parameters",
            Refusal::WidthMismatch { .. } => "width_mismatch",
            Refusal::TableFull { .. } => "table_full",
            Refusal::Malformed => "malformed",
            Refusal::WorkerLost { .. } => "worker_lost",
            Refusal::JobMismatch => "job_mismatch",
            Refusal::NoSuchShard { .. } => "no_such_shard",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::CursorStale => "cursor_stale",
            Refusal::VersionMismatch { .. } => "version_mismatch",
            Refusal::ListUnknown { .. } => "list_unknown",
            Refusal::NumbersUnknown { .. } => "numbers_unknown",
            Refusal::NoSuchCodec { .. } => "no_such_codec",
            Refusal::NotHead { .. } => "not_head",
            Refusal::Busy { .. } => "busy",
        }
    }

    /// The refusal with this code and number. A number out of range is cut to the field's width:
    /// it is only ever shown.
    #[allow(clippy::cast_possible_truncation)]
    fn from_code(code: u8, number: u64) -> Option<Refusal> {
        Some(match code {
            FIRST_REFUSAL => Refusal::EpochMismatch { shard: Epoch::new(number) },
            17 => Refusal::NotJoined,
            18 => Refusal::Fenced { known: Incarnation::new(number as u32) },
            19 => Refusal::SequenceTooNew { newest: Sequence::new(number) },
            20 => Refusal::NoSuchTable { tables: number as u16 },
            21 => Refusal::TableMismatch,
            22 => Refusal::NoSuchRule,
            23 => Refusal::BadParameters,
            24 => Refusal::WidthMismatch { table: number as u16 },
            25 => Refusal::TableFull { rows: number },
            26 => Refusal::Malformed,
            27 => Refusal::WorkerLost { worker: WorkerId::new(number as u32) },
            28 => Refusal::JobMismatch,
            29 => Refusal::NoSuchShard { shards: number as u16 },
            30 => Refusal::TooLarge { bytes_max: number as u32 },
            31 => Refusal::CursorStale,
            32 => Refusal::VersionMismatch { version: number as u16 },
            33 => Refusal::ListUnknown { lists: number as u16 },
            34 => Refusal::NumbersUnknown { numbers: number as u32 },
            35 => Refusal::NoSuchCodec { codecs: number as u8 },
            36 => Refusal::NotHead { shard: Epoch::new(number) },
            40 => Refusal::Busy {
                used_mib: (number >> 40) as u32,
                bound_mib: (number >> 16) as u32 & BUSY_MIB_MAX,
                retry_ms: number as u16,
            },
            _ => return None,
        })
    }
}

impl Status {
    /// Writes the status into an answer's header. A refusal takes the `clock` field too.
    pub fn write(self, header: &mut Header) {
        match self {
            Status::Done => header.status = 0,
            Status::Duplicate => header.status = 1,
            Status::Refused(refusal) => {
                let (code, number) = refusal.code_and_number();
                header.status = code;
                header.clock = number;
            }
        }
    }

    /// Reads what [`Status::write`] wrote.
    pub(crate) fn read(header: &Header) -> Result<Status, Malformed> {
        match header.status {
            0 => Ok(Status::Done),
            1 => Ok(Status::Duplicate),
            code => Refusal::from_code(code, header.clock)
                .map(Status::Refused)
                .ok_or(Malformed::Field { name: "status" }),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::EpochMismatch { shard } => write!(f, "the shard is at {shard}"),
            Refusal::NotJoined => write!(f, "the worker has not joined the job there"),
            Refusal::Fenced { known } => {
                write!(f, "a later life of this worker is known there, {known}")
            }
            Refusal::SequenceTooNew { newest } => {
                write!(f, "the shard takes none beyond {newest} yet")
            }
            Refusal::NoSuchTable { tables } => write!(f, "the shard has {tables} tables"),
            Refusal::TableMismatch => write!(
                f,
                "the table is there with another name, rule, dim, parameters, admission or expiry: \
                 use the settings it was made with, or a fresh server"
            ),
            Refusal::NoSuchRule => {
                write!(f, "the server has no such rule: run it with the binary that has it")
            }
            Refusal::BadParameters => write!(f, "the rule refuses its dim or parameters"),
            Refusal::WidthMismatch { table } => {
                write!(f, "the table there has {table} values a key")
            }
            Refusal::TableFull { rows } => {
                write!(f, "the table is full with {rows} rows: use more servers")
            }
            Refusal::Malformed => write!(f, "the message's body is not what its kind promises"),
            Refusal::WorkerLost { worker } => write!(f, "{worker} of this job has died"),
            Refusal::JobMismatch => write!(
                f,
                "the server is busy with another job, or with this one under other settings: \
                 wait for it to end (a minute, if its workers were killed), or use another one"
            ),
            Refusal::NoSuchShard { shards } => write!(f, "the server has {shards} shards"),
            Refusal::TooLarge { bytes_max } => {
                write!(f, "the answer would exceed a message's {bytes_max} bytes")
            }
            Refusal::CursorStale => write!(f, "the table changed during the scan"),
            Refusal::VersionMismatch { version } => write!(
                f,
                "the other side speaks wire version {version}: run the same gradwire on both sides"
            ),
            Refusal::ListUnknown { lists } => {
                write!(f, "the shard keeps {lists} key lists of this worker, and not the one named")
            }
            Refusal::NumbersUnknown { numbers } => {
                write!(f, "the shard has learned {numbers} numbers of keys, and not those used")
            }
            Refusal::NoSuchCodec { codecs } => write!(
                f,
                "the server knows {codecs} value codecs, and not the one announced: use another \
                 codec, or run the same gradwire on both sides"
            ),
            Refusal::NotHead { shard } => {
                write!(f, "the server is not the head of the shard's chain at {shard}")
            }
            Refusal::Busy { used_mib, bound_mib, retry_ms } => write!(
                f,
                "the server's memory is used up: {used_mib} MiB of {bound_mib} MiB; it may be \
                 asked again after {retry_ms} ms"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Kind;

    #[test]
    fn each_code_reads_back_as_the_refusal_that_wrote_it() {
        let mut known = 0;
        for code in 0..=u8::MAX {
            let Some(refusal) = Refusal::from_code(code, 7) else { continue };
            known += 1;
            let mut header = Header::new(Kind::Reply);
            Status::Refused(refusal).write(&mut header);
            assert_eq!(header.status, code);
            assert_eq!(header.status(), Ok(Status::Refused(refusal)));
            assert!(refusal.index() < Refusal::COUNT, "{}", refusal.name());
            let same = Refusal::from_index(refusal.index()).map(Refusal::name);
            assert_eq!(same, Some(refusal.name()));
        }
        assert_eq!(known, 22);
    }

    #[test]
    fn all_three_numbers_of_a_busy_server_come_back() {
        let busy =
            Refusal::Busy { used_mib: BUSY_MIB_MAX, bound_mib: 12_345_678, retry_ms: 65_000 };
        let mut header = Header::new(Kind::Reply);
        Status::Refused(busy).write(&mut header);
        assert_eq!(header.status(), Ok(Status::Refused(busy)));
        let more = Refusal::Busy { used_mib: u32::MAX, bound_mib: 1, retry_ms: 1 };
        Status::Refused(more).write(&mut header);
        let cut = Refusal::Busy { used_mib: BUSY_MIB_MAX, bound_mib: 1, retry_ms: 1 };
        assert_eq!(header.status(), Ok(Status::Refused(cut)));
    }

    #[test]
    fn a_status_that_this_version_does_not_know_is_malformed() {
        let mut header = Header::new(Kind::Reply);
        header.status = 200;
        assert_eq!(header.status(), Err(Malformed::Field { name: "status" }));
    }
}
