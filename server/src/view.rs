//! View: what a server shows to people who watch.
//!
//! Owns the figures, and how a core's thread gives them to another: a core counts in fields of its
//! own and copies them out now and then, and never waits for whoever reads. What the figures are
//! called outside is left to whoever shows them.
//!
//! Invariant: nothing is decided by a view.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shard::Tally;
use shard::chain::View as ReplicaView;
use transport::Fault;
use wire::{Refusal, ServerWork, ShardId, Time};

/// How often a core that is busy shows itself. One that sleeps does when it looks around.
pub(crate) const SHOW_EVERY: Duration = Duration::from_millis(20);

/// Upper ends of the ranges by which turns are told apart, in nanoseconds; beyond the last is one
/// range more.
pub const TURN_BOUNDS_NS: [u64; 14] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
];

/// A core at one moment, and what it has done since its start.
#[derive(Clone, Debug, Default)]
pub struct CoreView {
    /// What its shards have done, together; also those that are not here any more.
    pub tally: Tally,
    /// Messages.
    pub traffic: Traffic,
    /// Its turns.
    pub turns: Turns,
    /// What recordings for checkpoints took of each turn that had one.
    pub recording: Turns,
    /// The same, but only the time that the core's thread ran.
    pub recording_own: Turns,
    /// Connections, by what is at the other end.
    pub peers: Peers,
    /// Requests that were received and are not handled yet.
    pub requests_queued: usize,
    /// Pulls that wait for slower workers.
    pub pulls_waiting: usize,
    /// What it holds for its peers: tables, logs of chains, slots; in bytes.
    pub held_bytes: u64,
    /// Its shards.
    pub shards: Vec<(ShardId, ReplicaView)>,
}

/// What has come and gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of messages received, headers included.
    pub received_bytes: u64,
    /// Bytes of messages sent, headers included.
    pub sent_bytes: u64,
    /// Connections that ended, by [`Ending`] as a number.
    pub endings: [u64; Ending::ALL.len()],
    /// Messages that are none, which were dropped.
    pub malformed: u64,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed it.
    PeerClosed,
    /// This side closed it.
    ClosedHere,
    /// The peer sent what is no message.
    Malformed,
    /// The peer began a message and did not end it in time.
    MessageLate,
    /// The peer broke the rules of the shared ring.
    RingBroken,
    /// The operating system failed it.
    System,
}

/// Turns of a core that found something to do, or what one kind of work took of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// How many took so long: up to each of [`TURN_BOUNDS_NS`], and longer.
    pub counts: [u64; TURN_BOUNDS_NS.len() + 1],
    /// How long all took together.
    pub total: Duration,
    /// How long the longest took.
    pub longest: Duration,
}

/// Connections, by what is at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Workers.
    pub workers: usize,
    /// Observers.
    pub observers: usize,
    /// Servers before in chains.
    pub predecessors: usize,
    /// Servers behind in chains.
    pub successors: usize,
}

/// What has come to the door since its start.
#[derive(Clone, Debug, Default)]
pub struct DoorView {
    /// Connections that were given to cores.
    pub admitted: u64,
    /// Connections that only asked how many shards there are.
    pub asked: u64,
    /// Those that were turned away.
    pub turned_away: TurnedAwayCounts,
    /// Handshakes under way.
    pub under_way: usize,
}

/// Connections that did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAwayCounts {
    /// The handshake broke off, or took too long.
    pub broken_off: u64,
    /// What came is no hello.
    pub no_hello: u64,
    /// There were too many handshakes under way.
    pub crowded: u64,
    /// This process had no files or threads left.
    pub no_resources: u64,
    /// Refused, by [`Refusal::index`].
    pub refused: [u64; Refusal::COUNT],
}

impl Default for TurnedAwayCounts {
    fn default() -> TurnedAwayCounts {
        TurnedAwayCounts {
            broken_off: 0,
            no_hello: 0,
            crowded: 0,
            no_resources: 0,
            refused: [0; Refusal::COUNT],
        }
    }
}

impl Ending {
    /// All, in the order of their numbers.
    pub const ALL: [Ending; 6] = [
        Ending::PeerClosed,
        Ending::ClosedHere,
        Ending::Malformed,
        Ending::MessageLate,
        Ending::RingBroken,
        Ending::System,
    ];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Ending::PeerClosed => "peer_closed",
            Ending::ClosedHere => "closed_here",
            Ending::Malformed => "malformed",
            Ending::MessageLate => "message_late",
            Ending::RingBroken => "ring_broken",
            Ending::System => "system",
        }
    }

    pub(crate) fn of(fault: &Fault) -> Ending {
        match fault {
            Fault::PeerClosed => Ending::PeerClosed,
            Fault::ClosedHere => Ending::ClosedHere,
            Fault::Malformed(_) => Ending::Malformed,
            Fault::MessageLate => Ending::MessageLate,
            Fault::RingBroken { .. } => Ending::RingBroken,
            Fault::Os { .. } => Ending::System,
        }
    }
}

impl Turns {
    /// A turn that found something to do has ended.
    pub(crate) fn note(&mut self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[TURN_BOUNDS_NS.partition_point(|&bound_ns| bound_ns < took_ns)] += 1;
        self.total += took;
        self.longest = self.longest.max(took);
    }

    /// These and those of another core.
    #[must_use]
    pub fn and(mut self, other: &Turns) -> Turns {
        self.counts.iter_mut().zip(other.counts).for_each(|(ours, theirs)| *ours += theirs);
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
        self
    }
}

/// What the cores of a server hold and have done, together.
pub(crate) fn work(cores: &[CoreView], held_bytes: u64) -> ServerWork {
    let mut work = ServerWork { held_bytes, ..ServerWork::default() };
    for core in cores {
        work.keys_pushed += core.tally.keys_pushed;
        work.keys_pulled += core.tally.keys_pulled;
        for (_, replica) in &core.shards {
            work.rows += replica.size.rows;
            let hottest = replica.hot.iter().map(|hot| hot.share_ppm).max();
            work.hottest_ppm = work.hottest_ppm.max(hottest.unwrap_or(0));
        }
    }
    work
}

/// Where a core shows itself.
#[derive(Debug, Default)]
pub(crate) struct Stand {
    shown: Arc<Mutex<CoreView>>,
    due: Time,
    turns: Turns,
}

impl Stand {
    pub(crate) fn new(shown: Arc<Mutex<CoreView>>) -> Stand {
        Stand { shown, ..Stand::default() }
    }

    /// A turn has ended at `now`, that began at `began`; every now and then the core shows itself,
    /// unless somebody looks at this very moment.
    pub(crate) fn turned(&mut self, began: Time, now: Time, look: impl FnOnce(&mut CoreView)) {
        self.turns.note(now - began);
        self.show(now, look);
    }

    /// Shows the core if it is time.
    pub(crate) fn show(&mut self, now: Time, look: impl FnOnce(&mut CoreView)) {
        if now < self.due {
            return;
        }
        if let Ok(mut shown) = self.shown.try_lock() {
            self.due = now + SHOW_EVERY;
            shown.turns = self.turns;
            look(&mut shown);
        }
    }
}

/// What a core showed last.
pub(crate) fn seen(shown: &Mutex<CoreView>) -> CoreView {
    shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_counts_in_the_range_that_ends_with_its_time_or_above() {
        let mut turns = Turns::default();
        for ns in [0, 1_000, 1_001, 100_000_000, 100_000_001] {
            turns.note(Duration::from_nanos(ns));
        }
        assert_eq!((turns.counts[0], turns.counts[1]), (2, 1));
        assert_eq!((turns.counts[13], turns.counts[14]), (1, 1));
        assert_eq!(turns.total, Duration::from_nanos(200_002_002));
        assert_eq!(turns.longest, Duration::from_nanos(100_000_001));
    }
}
