//! Training jobs of several hosts: their places, and which batches each is dealt.
//!
//! Owns how the machine hears launchers and has records written. What a job is lies in `record`,
//! all of them in `registry`; what a batch is, and running workers, is left to the launchers.

mod record;
mod registry;
#[cfg(test)]
mod tests;

use wire::{JobAsk, Time, ToMember};

use super::event::{Action, ConnectionId};
use super::machine::Machine;

pub use record::{HOST_PATIENCE, JobRecord};
pub use registry::JobWrite;
pub(super) use registry::Jobs;

impl Machine {
    /// The same with the jobs that the store has.
    #[must_use]
    pub fn with_jobs(mut self, records: Vec<JobRecord>, now: Time) -> Machine {
        self.jobs = Jobs::recover(records, now);
        self
    }

    /// A launcher asks.
    pub(super) fn job_asked(&mut self, connection: ConnectionId, ask: JobAsk, now: Time) {
        if let Some((connection, answer)) = self.jobs.asked(connection, ask, now) {
            self.send(connection, ToMember::Job(Box::new(answer)));
        }
        self.keep_jobs();
    }

    /// The store has the record that was under way.
    pub(super) fn job_kept(&mut self) {
        for (connection, answer) in self.jobs.kept() {
            self.send(connection, ToMember::Job(Box::new(answer)));
        }
        self.keep_jobs();
    }

    /// Time has gone by.
    pub(super) fn look_at_jobs(&mut self, now: Time) {
        self.jobs.look(now);
        self.keep_jobs();
    }

    fn keep_jobs(&mut self) {
        if let Some(write) = self.jobs.next_write() {
            self.actions.push(Action::KeepJob(write));
        }
    }
}
