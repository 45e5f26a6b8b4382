//! Making a shard of a recording again.
//!
//! Owns the order of a recording's messages, and its end: by the job's clock, if one is named. What
//! each message does is what it does to a server that is filled.
//!
//! The clock makes recordings of all shards fit together. Where workers wait for the slowest, a
//! push of step C to a shard comes after a pull at clock C from it, which that shard answers once
//! its slowest worker has finished step C - 1. So what a shard has done when its slowest clock
//! becomes C is every push of the steps below C, and nothing else.
//!
//! Invariant: a shard that is given out has the rows of its recording up to the cut, each operation
//! applied once.

use std::fmt;

use kernels::crc32c::crc32c;
use wire::{Clock, Epoch, HEADER_BYTES, Header, Kind, Malformed, Message, Station};

use super::Replica;
use super::coded::PageReader;
use super::state::CHANGES;
use crate::change::is_change;
use crate::engine::{Rests, Shard, ShardSpec};

/// A shard that is being made.
#[derive(Debug)]
pub struct Restoring {
    shard: Shard,
    spec: ShardSpec,
    until: Option<Clock>,
    stage: Stage,
    position: u64,
    /// What the first word of its state has to say.
    expected: u64,
    pages: PageReader,
}

/// A shard that was made of a recording.
#[derive(Debug)]
pub struct Restored {
    shard: Shard,
    spec: ShardSpec,
    position: u64,
}

/// Why a recording makes no shard. What was made of it so far is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// It has something in it that is no message.
    Malformed(Malformed),
    /// A message of this kind does not come here.
    Unexpected {
        /// Its kind.
        kind: Kind,
    },
    /// The shard could not do what was recorded: its tables have less room than those that were
    /// recorded, or this build has no such rule.
    Unfit {
        /// The kind of the message.
        kind: Kind,
    },
    /// It ends before all rows are there.
    CutOff,
    /// It ends before the clock at which it is to be cut.
    Short {
        /// The slowest clock at its end.
        clock: Clock,
        /// The cut.
        until: Clock,
    },
}

/// How far a recording is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its state is next.
    Begun,
    /// Rows come.
    Filling,
    /// All rows are there.
    Filled,
    /// It has reached the cut: what follows is left out.
    Over,
}

impl Restoring {
    /// An empty shard.
    ///
    /// - `until`: where the recording is cut; none: at its end.
    pub fn new(spec: ShardSpec, until: Option<Clock>) -> Restoring {
        let shard = Shard::new(spec.clone());
        let (stage, pages) = (Stage::Begun, PageReader::default());
        Restoring { shard, spec, until, stage, position: 0, expected: 0, pages }
    }

    /// The recording is over, and one of the changes since it follows.
    ///
    /// - `until`: where that one is cut.
    /// - Errors: the one before was not whole.
    pub fn go_on(&mut self, until: Option<Clock>) -> Result<(), RestoreError> {
        self.check_over()?;
        (self.until, self.stage, self.expected) = (until, Stage::Begun, CHANGES);
        Ok(())
    }

    /// Does what the next message of the recording says.
    ///
    /// - `bytes`: the whole message, 8-byte aligned.
    /// - Errors: [`RestoreError`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        if self.stage == Stage::Over {
            return Ok(());
        }
        let isa = self.shard.isa;
        let opened = wire::open_recorded(bytes, |bytes| crc32c(isa, 0, bytes));
        let (header, message) = opened.map_err(RestoreError::Malformed)?;
        let header = Header { epoch: self.shard.epoch.get(), ..header };
        let kind = header.kind();
        let unfit = RestoreError::Unfit { kind };
        match (self.stage, message) {
            (Stage::Begun, Message::State(words)) => {
                self.shard.read_state(words, self.expected).ok_or(unfit)?;
                self.stage = Stage::Filling;
            }
            (Stage::Filling, Message::Page(rows)) => {
                self.shard.take_page(&header, rows).ok_or(unfit)?;
            }
            (Stage::Filling, Message::CodedPage(coded)) => {
                let rows = self.pages.read(isa, &header, coded).map_err(RestoreError::Malformed)?;
                self.shard.take_page(&header, rows).ok_or(unfit)?;
            }
            (Stage::Filling, Message::Counts(lines)) => {
                self.shard.take_counts(&header, lines).ok_or(unfit)?;
            }
            (Stage::Filling, Message::Filled(words)) => {
                self.position = self.shard.read_numbers(words).ok_or(unfit)?;
                self.stage = Stage::Filled;
            }
            (Stage::Filling | Stage::Filled, message) if is_change(&message) => {
                let done = self.shard.follow(&header, message, &bytes[HEADER_BYTES..]);
                done.map_err(|_| unfit)?;
                self.position += u64::from(self.stage == Stage::Filled);
            }
            _ => return Err(RestoreError::Unexpected { kind }),
        }
        if self.stage == Stage::Filled && self.until.is_some_and(|cut| self.clock() >= cut) {
            self.stage = Stage::Over;
        }
        Ok(())
    }

    /// The shard, once the recording is over. It rests until somebody joins: a worker of the
    /// recorded job goes on in it, any other one finds its rows.
    ///
    /// - Errors: the recording was not whole.
    pub fn finish(mut self) -> Result<Restored, RestoreError> {
        self.check_over()?;
        self.shard.rests = Rests::Job;
        let Restoring { shard, spec, position, .. } = self;
        Ok(Restored { shard, spec, position })
    }

    fn check_over(&self) -> Result<(), RestoreError> {
        match (self.stage, self.until) {
            (Stage::Begun | Stage::Filling, _) => Err(RestoreError::CutOff),
            (Stage::Filled, Some(until)) => Err(RestoreError::Short { clock: self.clock(), until }),
            (Stage::Filled, None) | (Stage::Over, _) => Ok(()),
        }
    }

    fn clock(&self) -> Clock {
        self.shard.reached(self.position).clock
    }
}

impl Restored {
    /// The shard without a place in a chain.
    pub fn into_shard(self) -> Shard {
        self.shard
    }
}

impl<S> Replica<S> {
    /// A shard that was restored, with its place in a chain.
    ///
    /// - `message_bytes_max`: the longest message that servers of the chain take.
    pub fn restored(
        restored: Restored,
        message_bytes_max: usize,
        epoch: Epoch,
        station: Station,
    ) -> Replica<S> {
        let Restored { mut shard, spec, position } = restored;
        shard.epoch = epoch;
        let mut replica = Replica::alone(shard, message_bytes_max);
        replica.spec = Some(ShardSpec { epoch, ..spec });
        (replica.position, replica.acknowledged) = (position, position);
        replica.log.restart(position + 1);
        replica.take_station(Some(station));
        replica
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Malformed(malformed) => write!(f, "no message: {malformed}"),
            RestoreError::Unexpected { kind } => write!(f, "a message {kind:?} does not come here"),
            RestoreError::Unfit { kind } => write!(
                f,
                "the shard cannot take what message {kind:?} says: its tables have less room than \
                 those that were recorded, or this build has not their rules"
            ),
            RestoreError::CutOff => f.write_str("it ends before all rows are there"),
            RestoreError::Short { clock, until } => {
                write!(f, "it ends at {clock}, before the checkpoint's {until}")
            }
        }
    }
}

impl std::error::Error for RestoreError {}
