//! Dismissal: workers that are gone for good leave their job, so that another one can begin.
//!
//! Owns doing it on all replicas alike. Whether they are gone is left to who sees connections.

use kernels::crc32c::crc32c;
use wire::{HEADER_BYTES, Header, JobId, Kind, Message};

use super::pass::Passing;
use super::{Replica, Role};

impl<S> Replica<S> {
    /// The job that keeps another one from beginning here: it has workers that have not left.
    pub fn job_served(&self) -> Option<JobId> {
        self.shard.job_served()
    }

    /// The job that a message of a worker would join; none where it is no join, or was damaged on
    /// its way.
    pub fn job_of_join(&self, bytes: &[u8]) -> Option<JobId> {
        let head = bytes.first_chunk::<HEADER_BYTES>()?;
        if !Header::peek(head).is_ok_and(|header| header.kind() == Kind::Join) {
            return None; // Others are opened once, by who does what they ask for.
        }
        match wire::open(bytes, |bytes| crc32c(self.shard.isa, 0, bytes)) {
            Ok((_, Message::Join(join))) => Some(join.job),
            _ => None,
        }
    }

    /// Lets all workers of the job leave it, as if each had said so: on the head of the chain,
    /// which passes it on, and nowhere else. Its rows stay until another job begins.
    ///
    /// A worker that comes back after all is refused as one that has left.
    pub fn dismiss(&mut self) {
        if !matches!(self.role, Role::Alone | Role::Head) || self.is_log_full() {
            return;
        }
        self.gathering.clear(); // Who pushed it is gone.
        for (worker, incarnation) in self.shard.joined() {
            let leave = Header {
                epoch: self.shard.epoch.get(),
                worker: worker.get(),
                incarnation: incarnation.get(),
                ..Header::new(Kind::Leave)
            };
            let logs = self.logs();
            let mut sink = Passing { log: &mut self.log, position: &mut self.position, logs };
            let left = self.shard.change(&leave, Message::Leave, &[], &mut sink);
            debug_assert!(left.is_ok(), "it takes part: {left:?}");
        }
        self.needed = self.position;
        self.note_reached();
        self.acknowledge_own();
    }
}
