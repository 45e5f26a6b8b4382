//! Dismissal: workers that are gone for good leave their job, so that another one can begin.
//!
//! Owns doing it on all replicas alike. Whether they are gone is left to who sees connections.

use wire::{Header, JobId, Kind, Message};

use super::pass::Passing;
use super::{Replica, Role};

impl<S> Replica<S> {
    /// The job that keeps another one from beginning here: it has workers that have not left.
    pub fn job_served(&self) -> Option<JobId> {
        self.shard.job_served()
    }

    /// Lets all workers of the job leave it, as if each had said so: on the head of the chain,
    /// which passes it on, and nowhere else. Its rows stay until another job begins.
    ///
    /// A worker that comes back after all is refused as one that has left.
    pub fn dismiss(&mut self) {
        if !matches!(self.role, Role::Alone | Role::Head) || self.is_log_full() {
            return;
        }
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
