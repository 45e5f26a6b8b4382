//! Slots of the transport as a shard sees them: one that came from a peer, and the way back to it.
//!
//! Owns nothing: slots are the transport's.

use shard::Outbox;
use shard::chain::Received;
use transport::{Integrity, PeerId, RecvSlot, SendSlot, Transport};
use wire::{HEADER_BYTES, Seal};

/// What answers over a transport need.
pub(crate) fn seal_of(transport: &dyn Transport) -> Seal {
    match transport.integrity() {
        Integrity::NeedsChecksum => Seal::Body,
        Integrity::Memory => Seal::HeaderOnly,
    }
}

/// A message that came. It goes back to the transport where it is dropped.
#[derive(Debug)]
pub(crate) struct Kept(pub(crate) RecvSlot);

impl Received for Kept {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
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
