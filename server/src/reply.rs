//! Reply: the way back to one peer, as a shard writes to it.
//!
//! Owns nothing: slots are the transport's.

use shard::Outbox;
use transport::{Integrity, PeerId, SendSlot, Transport};
use wire::{HEADER_BYTES, Seal};

/// What answers over a transport need.
pub(crate) fn seal_of(transport: &dyn Transport) -> Seal {
    match transport.integrity() {
        Integrity::NeedsChecksum => Seal::Body,
        Integrity::Memory => Seal::HeaderOnly,
    }
}

/// The way back to one peer.
pub(crate) struct Reply<'a> {
    pub(crate) transport: &'a mut dyn Transport,
    pub(crate) peer: PeerId,
    pub(crate) bytes_max: usize,
    /// The length of an answer that found no room; 0 if all did.
    pub(crate) lacking_bytes: usize,
}

impl Outbox for Reply<'_> {
    type Slot = SendSlot;

    fn bytes_max(&self) -> usize {
        self.bytes_max.min(self.transport.limits().message_bytes_max).max(HEADER_BYTES)
    }

    fn seal(&self) -> Seal {
        seal_of(self.transport)
    }

    fn acquire(&mut self, bytes: usize) -> Option<SendSlot> {
        let slot = self.transport.acquire(self.peer, bytes).ok();
        if slot.is_none() {
            self.lacking_bytes = bytes;
        }
        slot
    }

    fn bytes_mut(slot: &mut SendSlot) -> &mut [u8] {
        slot.bytes_mut()
    }

    fn post(&mut self, slot: SendSlot) {
        self.transport.post(slot);
    }
}
