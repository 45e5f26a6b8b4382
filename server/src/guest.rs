//! Guest: a peer of a core, and what is known of its requests before they are handled.
//!
//! Owns who it is, what it has sent and nobody has handled, and how long a request is. Whose turn
//! it is, is left to `turn`.

use std::collections::VecDeque;

use transport::{PeerId, RecvSlot, Standing};
use wire::{Epoch, Header, Incarnation, JobId, Kind, ShardId, WorkerId};

use crate::turn::{Core, LONG_KEYS_PER_TURN};
use crate::view::Peers;

/// Keys up to which a request is short: some 10 us of work.
const SHORT_KEYS_MAX: usize = 512;

/// What a request costs besides its keys, as a number of them.
const REQUEST_KEYS: usize = 16;

/// Who is at the other end of a connection, by its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The shard it wants.
    pub shard: ShardId,
    /// The worker, [`WorkerId::OBSERVER`], or [`WorkerId::PREDECESSOR`].
    pub worker: WorkerId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The chain's epoch, of a predecessor's hello; a worker's says nothing.
    pub epoch: Epoch,
    /// The longest message it takes, in bytes.
    pub message_bytes_max: usize,
}

/// A peer.
pub(crate) struct Guest {
    pub(crate) peer: PeerId,
    pub(crate) party: Party,
    /// Which of [`Core::hosted`] it is here for.
    pub(crate) at: usize,
    pub(crate) who: Who,
    /// It asked to join another job than its shard's, so that its number and life are not those of
    /// a worker here.
    pub(crate) is_of_other_job: bool,
    /// What it has sent and nobody has handled, in order.
    pub(crate) inbox: VecDeque<RecvSlot>,
    pub(crate) way_back: WayBack,
}

/// What a peer is to a shard here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// It asks.
    Worker,
    /// It says what was done.
    Predecessor,
    /// It says what it has.
    Successor,
}

/// Whether a peer's next message may be tried in this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayBack {
    /// It may.
    Open,
    /// Something here is in the way, for this turn.
    Shut,
    /// There was no room for its answer, of this length; not before there is.
    Full { bytes: usize },
}

/// A message that cannot be handled yet.
pub(crate) struct Blocked {
    pub(crate) slot: RecvSlot,
    /// Of the answer that found no room, if that is why; else 0.
    pub(crate) lacking_bytes: usize,
}

/// Whether a request is handled before long ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    Long,
}

impl Guest {
    /// Where those like it are counted.
    pub(crate) fn kind<'a>(&self, present: &'a mut Peers) -> &'a mut usize {
        match self.party {
            Party::Worker if self.who.worker == WorkerId::OBSERVER => &mut present.observers,
            Party::Worker => &mut present.workers,
            Party::Predecessor => &mut present.predecessors,
            Party::Successor => &mut present.successors,
        }
    }
}

impl Core {
    /// A peer has joined this job of a shard. All who have not are strangers: those of the job
    /// before, too.
    pub(crate) fn admit_member(&mut self, at: usize, peer: PeerId, job: JobId) {
        if self.hosted[at].job.replace(job) != Some(job) {
            let is_other = |guest: &&Guest| {
                guest.at == at && guest.party == Party::Worker && guest.peer != peer
            };
            for other in self.peers.iter().flatten().map(Box::as_ref).filter(is_other) {
                self.transport.set_standing(other.peer, Standing::Stranger);
            }
        }
        self.transport.set_standing(peer, Standing::Member);
    }
}

/// What a request costs, and whether it is short. What cannot be read costs little.
pub(crate) fn cost(slot: &RecvSlot) -> (usize, Length) {
    let header = slot.bytes().first_chunk().map(Header::peek);
    let Some(Ok(header)) = header else { return (REQUEST_KEYS, Length::Short) };
    match (header.kind(), header.keys as usize) {
        // Its answer has as many rows as fit a message.
        (Kind::Scan, _) => (LONG_KEYS_PER_TURN, Length::Long),
        (_, keys) if keys <= SHORT_KEYS_MAX => (REQUEST_KEYS + keys, Length::Short),
        (_, keys) => (REQUEST_KEYS + keys, Length::Long),
    }
}
