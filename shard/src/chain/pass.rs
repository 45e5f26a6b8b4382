//! What becomes of an answer and of a change while a chain's member handles a request.
//!
//! Owns no state: an answer is caught, a change goes on to the log.

use wire::{Header, Seal};

use super::log::{Log, Part};
use crate::answer::Outbox;
use crate::change::Sink;

/// Keeps an answer instead of sending it.
pub(super) struct Catching<'a, O: Outbox> {
    pub(super) outbox: &'a mut O,
    pub(super) caught: Option<O::Slot>,
}

impl<O: Outbox> Outbox for Catching<'_, O> {
    type Slot = O::Slot;

    fn bytes_max(&self) -> usize {
        self.outbox.bytes_max()
    }

    fn seal(&self) -> Seal {
        self.outbox.seal()
    }

    fn acquire(&mut self, bytes: usize) -> Option<O::Slot> {
        self.outbox.acquire(bytes)
    }

    fn bytes_mut(slot: &mut O::Slot) -> &mut [u8] {
        O::bytes_mut(slot)
    }

    fn post(&mut self, slot: O::Slot) {
        self.caught = Some(slot);
    }
}

/// Passes on what was done to a successor, if there is one.
pub(super) struct Passing<'a> {
    pub(super) log: &'a mut Log,
    pub(super) position: &'a mut u64,
    pub(super) logs: bool,
}

impl Sink for Passing<'_> {
    fn done(&mut self, header: Header, body: [&[u8]; 2]) {
        *self.position += match self.logs {
            true => self.log.append(header, body, Part::Operation),
            false => 1,
        };
    }
}
