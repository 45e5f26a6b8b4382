//! A worker's lives: its place on the shards outlives each of them.
//!
//! Owns what a session knows of the lives before it, and how far every shard has followed this one.
//! Where a life stands on one shard is `link`'s.
//!
//! Invariant: nothing is sent to a shard of a clock that an earlier life has finished there.

use wire::Time;

use crate::error::{Awaited, WorkerError};
use crate::link::Link;
use crate::request::Origin;
use crate::session::Session;
use crate::turn::Waited;

impl Session {
    /// Clocks that this worker has finished and some shard has not confirmed yet.
    pub fn clocks_outstanding(&self) -> u64 {
        let oldest = self.links.iter().filter_map(Link::clock_unanswered).min();
        oldest.map_or(0, |clock| self.clock.get() - clock.get())
    }

    /// Waits until at most `outstanding_max` of this worker's clocks are not known to be finished
    /// on every shard; 0 waits for all pushes.
    ///
    /// - Errors: as [`Session::wait_pushes`].
    pub fn wait_clocks(&mut self, outstanding_max: u64, deadline: Time) -> Result<(), WorkerError> {
        let done = |session: &Session| session.clocks_outstanding() <= outstanding_max;
        match self.wait_until(deadline, done)? {
            Waited::Done => Ok(()),
            Waited::Late { since } => {
                let outstanding = self.clocks_outstanding();
                let awaited = Awaited::Clocks { outstanding, outstanding_max };
                Err(self.timed_out(Origin::Push, awaited, since))
            }
        }
    }

    /// Whether an earlier life of this worker has finished the clock on this shard.
    pub(crate) fn is_done_by_earlier_life(&self, shard: usize) -> bool {
        self.links[shard].clock_joined() > self.clock
    }

    /// Goes on from the clock that an earlier life has finished on every shard.
    pub(crate) fn resume_clock(&mut self) {
        let finished = self.links.iter().map(Link::clock_joined).min();
        self.clock = self.clock.max(finished.expect("a routing table has a shard"));
    }
}
