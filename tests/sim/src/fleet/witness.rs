//! Witness: what a server's process answers to workers, and whether it may.
//!
//! Owns the wrapper around a process's endpoint that sees each answer, and the one rule that needs
//! no truth to compare with: who knows that another server is the head answers nobody.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use transport::simulated::Simulated;
use transport::{PeerId, SendSlot, Transport, passes_on};
use wire::{Epoch, HEADER_BYTES, Header, Kind, ShardId, Status};

/// What was seen of one process.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By number of the peer: the shard that a worker's link is to.
    workers: BTreeMap<usize, ShardId>,
    /// Answers that said no refusal, with the epoch that they were made in; to be taken.
    answers: Vec<(ShardId, Epoch)>,
}

impl Seen {
    /// Notes a worker's link.
    pub(crate) fn note_worker(&mut self, peer: PeerId, shard: ShardId) {
        self.workers.insert(peer.index(), shard);
    }

    /// The answers since the last time.
    pub(crate) fn take_answers(&mut self) -> Vec<(ShardId, Epoch)> {
        std::mem::take(&mut self.answers)
    }
}

/// A process's endpoint.
pub(crate) struct Witness {
    inner: Simulated,
    seen: Rc<RefCell<Seen>>,
}

impl Witness {
    /// Sees what goes out of this endpoint.
    pub(crate) fn new(inner: Simulated, seen: Rc<RefCell<Seen>>) -> Witness {
        Witness { inner, seen }
    }
}

/// Whether a message to a worker is an answer that shows something of the shard.
fn shows(bytes: &[u8]) -> bool {
    let head = bytes.get(..HEADER_BYTES).and_then(<[u8]>::first_chunk);
    match head.map(Header::peek) {
        Some(Ok(header)) if header.kind() == Kind::Reply => {
            !matches!(header.status(), Ok(Status::Refused(_)))
        }
        Some(Ok(_)) => true,
        _ => false,
    }
}

/// The epoch that an answer was made in.
fn epoch_of(bytes: &[u8]) -> Epoch {
    let head = bytes.get(..HEADER_BYTES).and_then(<[u8]>::first_chunk);
    let header = head.and_then(|head| Header::peek(head).ok());
    header.map_or(Epoch::default(), |header| header.epoch())
}

impl Transport for Witness {
    passes_on!(
        inner: name, limits, integrity, now, adopt, poll, acquire, cancel, flush, release, park,
        waker, close, set_standing, held_bytes, bytes_sent
    );

    fn post(&mut self, mut slot: SendSlot) {
        let mut seen = self.seen.borrow_mut();
        let shard = seen.workers.get(&slot.peer().index()).copied();
        if let Some(shard) = shard.filter(|_| shows(slot.bytes_mut())) {
            let epoch = epoch_of(slot.bytes_mut());
            seen.answers.push((shard, epoch));
        }
        self.inner.post(slot);
    }
}
