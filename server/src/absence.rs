//! Absence: a job whose workers are all gone gives way to another one, after a while.
//!
//! Owns since when nobody of a job has been connected to a shard. What becomes of the places of its
//! workers is left to the shard.

use std::time::Duration;

use transport::{PeerId, RecvSlot};

use crate::guest::{Guest, Party};
use crate::turn::Core;

/// How long the places of workers that are all gone are kept from another job: longer than a
/// session tries to come back.
pub(crate) const PLACES_KEPT: Duration = Duration::from_secs(45);

impl Core {
    /// A connection is over: its worker, if it took part, may be gone for good.
    pub(crate) fn note_absence(&mut self, guest: &Guest) {
        if self.is_present(guest) {
            self.hosted[guest.at].absent_since = Some(self.transport.now());
        }
    }

    /// Before a message is handled: where it is another job's join, and nobody of the shard's own
    /// job has been connected for long, the workers of that leave it.
    pub(crate) fn dismiss_absent(&mut self, at: usize, slot: &RecvSlot) {
        let Some(joined) = self.hosted[at].replica.job_of_join(slot.bytes()) else { return };
        let mut served = self.hosted[at].replica.job_served();
        if served.is_some_and(|job| job != joined) && self.is_deserted(at, slot.peer()) {
            let shard = self.hosted[at].number.get();
            tracing::warn!(shard, "a job whose workers are all gone gives way to another one");
            self.hosted[at].replica.dismiss();
            self.hosted[at].absent_since = None;
            served = self.hosted[at].replica.job_served();
        }
        if let Some(guest) = &mut self.peers[slot.peer().index()] {
            guest.is_of_other_job = served.is_some_and(|job| job != joined);
        }
    }

    /// Whether nobody of a shard's job, but for this peer, has been connected for long.
    fn is_deserted(&mut self, at: usize, but: PeerId) -> bool {
        let mut others = self.peers.iter().flatten().filter(|guest| guest.peer != but);
        if others.any(|guest| guest.at == at && self.is_present(guest)) {
            return false;
        }
        let now = self.transport.now();
        // A head that is new has seen no worker go: it counts from here.
        now >= *self.hosted[at].absent_since.get_or_insert(now) + PLACES_KEPT
    }

    /// Whether a peer is a worker that takes part in its shard's job.
    fn is_present(&self, guest: &Guest) -> bool {
        let shard = self.hosted[guest.at].replica.shard();
        guest.party == Party::Worker
            && !guest.is_of_other_job
            && shard.has_member(guest.who.worker, guest.who.incarnation)
    }
}
