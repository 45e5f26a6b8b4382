//! What need not wait for the tail: pushes of tables that the head acknowledges.
//!
//! Owns which operations an answer may show that the tail lacks. Keeping such a push until the tail
//! has it, and sending it again to another head, is left to `worker`.
//!
//! Whatever ends a clock waits, the push that was missing for an earlier tick included. So a worker
//! that has seen a clock's answers knows that the tail has all of that clock, and that a later life
//! of it finds the clock at any head.
//!
//! Invariant: what an answer shows, the tail has, but for such pushes; the answer to another push,
//! or to one that was applied before, waits until the tail has that push.

use wire::{Acknowledge, Clock, Flags, Header, Kind};

use super::Replica;
use crate::engine::Mutation;

/// Where a shard stood before it handled a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    position: u64,
    /// The sender's clock, if the request is a push that the head may acknowledge.
    clock: Option<Clock>,
}

impl<S> Replica<S> {
    /// Where the shard stands before it handles this request.
    pub(super) fn before(&mut self, header: &Header) -> Before {
        let is_early = self.may_be_early(header);
        let clock = is_early.then(|| self.shard.clock_of(header.worker()));
        Before { position: self.position, clock }
    }

    /// Takes note of what the request has done. How many operations the tail must have before it is
    /// answered.
    pub(super) fn note_done(&mut self, header: &Header, before: Before) -> u64 {
        let ends_clock = self.mutation != Mutation::ClocksEndEarly
            && before.clock.is_some_and(|clock| clock < self.shard.clock_of(header.worker()));
        if self.position == before.position {
            // Whoever asks again takes it that the tail has what was done the first time.
            return if header.kind() == Kind::Push { self.position } else { self.needed };
        }
        if before.clock.is_none() || ends_clock {
            self.needed = self.position;
        }
        self.needed
    }

    /// Whether this is a push that the head may acknowledge, if it ends no clock.
    fn may_be_early(&mut self, header: &Header) -> bool {
        let flags = header.flags();
        let ticks = flags.has(Flags::TICK) && self.mutation != Mutation::ClocksEndEarly;
        let is_push = header.kind() == Kind::Push && header.keys > 0;
        is_push && !ticks && !flags.has(Flags::AT_TAIL) && {
            let table = self.shard.tables.get(header.table());
            table.is_ok_and(|table| table.spec().acknowledge == Acknowledge::Head)
        }
    }
}
