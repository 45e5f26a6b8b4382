//! What a server behind the head says to a worker: values, if any replica may, or where to go.
//!
//! Owns when such a server may answer a pull. What a pull reads is left to [`crate::Shard`].
//!
//! A follower has done some of what its head did, in the same order, clocks included. So its own
//! clocks tell whether a pull's bound is kept, and its own memory of pushes whether it has those of
//! the pull's sender. An answer waits until the tail has what it shows, like a head's. It needs no
//! right to answer: a follower that is cut off has clocks that stand, and lacks its sender's newest
//! pushes.
//!
//! Invariant: an answer shows nothing that the tail lacks, all that the job's bound asks for, and
//! all that its receiver had pushed when it asked; it may be older than what somebody has seen
//! elsewhere.

use wire::{Flags, Header, Kind, Refusal, Status};

use super::pass::Catching;
use super::{Held, Replica, Role};
use crate::answer::{Outbox, REPLY_BYTES};
use crate::change::Nowhere;
use crate::engine::{Mutation, Outcome};

impl<S> Replica<S> {
    /// Does what a worker asks of a server that is not the head.
    pub(super) fn handle_behind_head<O: Outbox<Slot = S>>(
        &mut self,
        header: &Header,
        bytes: &[u8],
        outbox: &mut O,
    ) -> Outcome {
        if !self.may_read(header) {
            return self.send_away(header, outbox);
        }
        let mut catching = Catching { outbox, caught: None };
        let outcome = self.shard.handle_into(bytes, &mut catching, &mut Nowhere);
        if let Some(slot) = catching.caught {
            let is_acknowledged = self.acknowledged >= self.position && self.held.is_empty();
            if is_acknowledged || self.mutation == Mutation::AnswersNotHeld {
                outbox.post(slot);
            } else {
                self.held.push_back(Held { position: self.position, proof: None, slot });
            }
        }
        outcome
    }

    /// Whether a message is a pull that this server may answer. Who is being filled has not all.
    fn may_read(&self, header: &Header) -> bool {
        let epoch = self.shard.epoch;
        let is_spread = header.kind() == Kind::Pull && header.flags().has(Flags::ANY_REPLICA);
        let is_whole = self.role == Role::Follower && self.fenced_by <= epoch;
        is_spread && is_whole && header.epoch() == epoch
    }

    /// Tells a worker that another server is the head.
    fn send_away<O: Outbox>(&self, header: &Header, outbox: &mut O) -> Outcome {
        let Some(slot) = outbox.acquire(REPLY_BYTES) else { return Outcome::NoSlot };
        let shard = self.shard.epoch;
        let refusal = Refusal::EpochMismatch { shard: self.fenced_by.max(shard) };
        self.shard.stamp().reply(outbox, slot, header, Status::Refused(refusal));
        Outcome::Answered
    }
}
