//! Messages that are kept as they were received, until the tail has what they say: no copy of them
//! is made but that to the successor.
//!
//! Owns when one may be. What is kept of it is left to `entry`, how much to `log`.
//!
//! Whoever sent it has the less room for others meanwhile. So none is kept without a link over
//! which it goes at once, and all are given back when that ends.

use wire::Time;

use super::entry::Received;
use super::{Replica, Taken};
use crate::answer::Outbox;
use crate::engine::Outcome;

impl<S> Replica<S> {
    /// As [`Replica::handle`], but the message may be kept until the tail has it.
    ///
    /// - Result: the message as well, unless it is kept; one that was not answered is never.
    pub fn handle_received<O: Outbox<Slot = S>, M: Received + 'static>(
        &mut self,
        now: Time,
        message: M,
        outbox: &mut O,
    ) -> (Outcome, Option<M>) {
        self.lend(message.bytes());
        let outcome = self.handle(now, message.bytes(), outbox);
        let may_keep = matches!(outcome, Outcome::Answered);
        (outcome, self.log.end_loan(message, may_keep))
    }

    /// As [`Replica::follow`], but the message may be kept until the tail has it.
    ///
    /// - Result: the message as well, unless it is kept; one that found no room is never.
    pub fn follow_received<M: Received + 'static>(&mut self, message: M) -> (Taken, Option<M>) {
        self.lend(message.bytes());
        let taken = self.follow(message.bytes());
        (taken, self.log.end_loan(message, taken == Taken::Done))
    }

    fn lend(&mut self, message: &[u8]) {
        if self.is_successor_there() {
            self.log.lend(message);
        }
    }
}
