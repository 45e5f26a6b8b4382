//! What a run can find.
//!
//! Owns the broken promises, with the numbers that disagree.

use std::fmt;

use shard::chain::Notice;
use wire::{Epoch, ServerId, ShardId};
use worker::WorkerError;

/// Why a run failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// In the end a counter does not hold the pushes that named it.
    Miscounted {
        /// The counter.
        key: u64,
        /// Pushes that named it.
        pushed: u64,
        /// What it holds.
        found: f32,
    },
    /// In the end there are other rows than keys that were pushed.
    Rows {
        /// Rows there are, on all shards together.
        rows: u64,
        /// Keys that were pushed.
        named: u64,
    },
    /// A pull did not see what all workers had to finish first.
    Stale {
        /// Who pulled.
        worker: u32,
        /// At which clock.
        clock: u64,
        /// The counter.
        key: u64,
        /// The least that the pull had to see.
        floor: u64,
        /// What it saw.
        found: f32,
    },
    /// A pull saw more than was pushed so far.
    Invented {
        /// Who pulled.
        worker: u32,
        /// The counter.
        key: u64,
        /// Pushes that named it so far.
        pushed: u64,
        /// What the pull saw.
        found: f32,
    },
    /// A pull saw less than an earlier pull of the same worker.
    WentBack {
        /// Who pulled.
        worker: u32,
        /// The counter.
        key: u64,
        /// What the earlier pull saw.
        before: f32,
        /// What this one saw.
        found: f32,
    },
    /// A pull saw less than another worker's had seen before it was asked.
    Overtaken {
        /// Who pulled.
        worker: u32,
        /// The counter.
        key: u64,
        /// What the other pull saw.
        seen: f32,
        /// What this one saw.
        found: f32,
    },
    /// A shard has a worker at a clock that it has not come to.
    Ahead {
        /// Which worker.
        worker: u32,
        /// Where it is, as a shard says.
        clock: u64,
        /// The steps that it has begun.
        begun: u64,
    },
    /// The job does not end.
    Stuck {
        /// World time in seconds.
        seconds: f64,
        /// What each worker was about.
        members: Vec<String>,
    },
    /// More happens than in any run that ends.
    Unending(Unending),
    /// In the end two replicas of a shard do not hold the same, or one is not there.
    Differs {
        /// The shard.
        shard: ShardId,
        /// One server.
        one: ServerId,
        /// The other.
        other: ServerId,
    },
    /// A server could not do what its predecessor did, or its successor could not be served.
    Unfit {
        /// Which server said so.
        server: ServerId,
        /// Of which shard.
        shard: ShardId,
        /// What it said.
        notice: Notice,
    },
    /// A pull did not see what was acknowledged before it was asked for.
    Lost {
        /// The watch of who pulled.
        watch: usize,
        /// The counter.
        key: u64,
        /// Pushes of it that were acknowledged.
        acknowledged: u64,
        /// What the pull saw.
        found: f32,
    },
    /// A server's replica is in an earlier epoch than before.
    EpochWentBack {
        /// Which life of which server.
        life: u64,
        /// The shard.
        shard: ShardId,
        /// In which epoch it was.
        before: Epoch,
        /// In which one it is.
        after: Epoch,
    },
    /// A server answered a worker though it knew that another one is the head.
    FencedAnswered {
        /// Which server.
        server: ServerId,
        /// Of which shard.
        shard: ShardId,
        /// In which epoch the answer was made.
        epoch: Epoch,
        /// Which epoch it knew of.
        known: Epoch,
    },
    /// A checkpoint that was published is not whole, or is gone.
    CheckpointBroken {
        /// Its number.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A checkpoint does not hold what had to be in it.
    CheckpointWrong {
        /// Its number.
        number: u64,
        /// The counter.
        key: u64,
        /// The least that it may hold.
        least: u64,
        /// The most.
        most: u64,
        /// What it holds.
        found: f32,
    },
    /// The store took two placements of one epoch.
    RecordedTwice {
        /// Which epoch.
        epoch: Epoch,
    },
    /// Somebody was told a placement that the store does not hold.
    ToldUnrecorded {
        /// Of which epoch.
        epoch: Epoch,
    },
    /// Two servers were given one number.
    NumberTwice {
        /// Which.
        server: ServerId,
    },
    /// A coordinator was about to record what no placement may be.
    Unplaceable {
        /// Why not.
        what: String,
    },
    /// A coordinator gave a shard up of which a replica lives.
    ShardLost {
        /// Which.
        shard: ShardId,
        /// Why, as the coordinator says.
        cause: String,
    },
    /// Nothing goes wrong any more, and the cluster does not become whole.
    NotWhole {
        /// World time in seconds.
        seconds: f64,
        /// Who holds what, and knows what.
        state: String,
    },
    /// A session failed in a way that no fault of the network explains.
    Session {
        /// Whose.
        worker: u32,
        /// How.
        error: WorkerError,
    },
}

/// A run that does not end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unending {
    /// World time in seconds.
    pub seconds: f64,
    /// What happens.
    pub event: Event,
    /// How often it did.
    pub count: u64,
}

impl fmt::Display for Unending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unending { seconds, event, count } = self;
        write!(f, "no end at {seconds:.1} s, after {count} {event}")
    }
}

/// What happens without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The world goes on to its next moment, or stays at this one.
    Step,
    /// The same, and time does not go on.
    StepAtOnce,
    /// A core finds more to do, and time does not go on.
    TurnAtOnce,
    /// Something befalls servers or coordinators, and time does not go on.
    HappeningAtOnce,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Step => "steps",
            Event::StepAtOnce => "steps at one moment",
            Event::TurnAtOnce => "turns of a core at one moment",
            Event::HappeningAtOnce => "happenings at one moment",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Miscounted { key, pushed, found } => {
                write!(f, "key {key} was pushed {pushed} times and holds {found}")
            }
            Failure::Rows { rows, named } => {
                write!(f, "{named} keys were pushed, and the shards have {rows} rows")
            }
            Failure::Stale { worker, clock, key, floor, found } => write!(
                f,
                "worker {worker} at clock {clock} had to see at least {floor} of key {key}, \
                 and saw {found}"
            ),
            Failure::Invented { worker, key, pushed, found } => write!(
                f,
                "worker {worker} saw {found} of key {key}, which was pushed {pushed} times so far"
            ),
            Failure::WentBack { worker, key, before, found } => {
                write!(f, "worker {worker} saw {found} of key {key}, after {before}")
            }
            Failure::Overtaken { worker, key, seen, found } => {
                write!(f, "worker {worker} saw {found} of key {key}, after another had seen {seen}")
            }
            Failure::Ahead { worker, clock, begun } => {
                write!(f, "worker {worker} is at clock {clock}, and has begun {begun} steps")
            }
            Failure::Stuck { seconds, members } => {
                write!(f, "no end after {seconds:.1} s: {}", members.join(", "))
            }
            Failure::Unending(unending) => unending.fmt(f),
            Failure::Differs { shard, one, other } => {
                write!(f, "{shard} is not the same on {one} and {other}")
            }
            Failure::Unfit { server, shard, notice } => {
                write!(f, "{server} says of {shard}: {notice:?}")
            }
            Failure::Lost { watch, key, acknowledged, found } => write!(
                f,
                "session {watch} saw {found} of key {key}, of which {acknowledged} pushes were \
                 acknowledged before"
            ),
            Failure::EpochWentBack { life, shard, before, after } => {
                write!(f, "{shard} on the server of life {life} went from {before} to {after}")
            }
            Failure::FencedAnswered { server, shard, epoch, known } => write!(
                f,
                "{server} answered for {shard} at {epoch}, and knew that another one is the head \
                 at {known}"
            ),
            Failure::CheckpointBroken { number, why } => {
                write!(f, "checkpoint {number} was published and is not whole: {why}")
            }
            Failure::CheckpointWrong { number, key, least, most, found } => write!(
                f,
                "checkpoint {number} holds {found} of key {key}, and must hold {least} to {most}"
            ),
            Failure::RecordedTwice { epoch } => write!(f, "two placements of {epoch} are stored"),
            Failure::ToldUnrecorded { epoch } => {
                write!(f, "a placement of {epoch} was told that the store does not hold")
            }
            Failure::NumberTwice { server } => write!(f, "two servers were told to be {server}"),
            Failure::Unplaceable { what } => write!(f, "a placement was to be recorded: {what}"),
            Failure::ShardLost { shard, cause } => {
                write!(f, "{shard} was given up though a replica lives: {cause}")
            }
            Failure::NotWhole { seconds, state } => write!(f, "not whole, {seconds:.1} s: {state}"),
            Failure::Session { worker, error } => write!(f, "worker {worker}: {error}"),
        }
    }
}

impl std::error::Error for Failure {}
