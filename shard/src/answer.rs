//! Answers: where they are written, and the header they have in common.
//!
//! Owns the [`Outbox`] that a shard writes to and the sealing of an answer. Sending is left to
//! whoever implements it.

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{Clock, Epoch, HEADER_BYTES, Header, Kind, Seal, Status};

/// The way back to whoever sent the message under work.
pub trait Outbox {
    /// A place for one answer.
    type Slot;

    /// The longest answer, in bytes.
    fn bytes_max(&self) -> usize;

    /// Whether the way back needs a checksum of the body.
    fn seal(&self) -> Seal;

    /// A place for an answer of `bytes` bytes, 8-byte aligned; none if there is no room now.
    fn acquire(&mut self, bytes: usize) -> Option<Self::Slot>;

    /// Its bytes.
    fn bytes_mut(slot: &mut Self::Slot) -> &mut [u8];

    /// Sends it.
    fn post(&mut self, slot: Self::Slot);
}

/// What every answer of a shard says about the shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) isa: Isa,
    pub(crate) epoch: Epoch,
    pub(crate) slowest: Clock,
    pub(crate) credit: u16,
}

impl Stamp {
    /// The header of an answer to `request`.
    pub(crate) fn header(&self, request: &Header, kind: Kind) -> Header {
        Header {
            epoch: self.epoch.get(),
            worker: request.worker,
            incarnation: request.incarnation,
            sequence: request.sequence,
            clock: self.slowest.get(),
            table: request.table,
            credit: self.credit,
            ..Header::new(kind)
        }
    }

    /// Seals a filled slot and sends it.
    pub(crate) fn send<O: Outbox>(&self, outbox: &mut O, mut slot: O::Slot, header: Header) {
        let seal = outbox.seal();
        wire::seal(O::bytes_mut(&mut slot), header, seal, |bytes| crc32c(self.isa, 0, bytes));
        outbox.post(slot);
    }

    /// Sends a reply without a body into a slot of [`HEADER_BYTES`].
    pub(crate) fn reply<O: Outbox>(
        &self,
        outbox: &mut O,
        mut slot: O::Slot,
        request: &Header,
        status: Status,
    ) {
        self.write_reply::<O>(&mut slot, outbox.seal(), request, status);
        outbox.post(slot);
    }

    /// Writes one into such a slot, for whoever sends it later.
    pub(crate) fn write_reply<O: Outbox>(
        &self,
        slot: &mut O::Slot,
        seal: Seal,
        request: &Header,
        status: Status,
    ) {
        let mut header = self.header(request, Kind::Reply);
        status.write(&mut header);
        wire::seal(O::bytes_mut(slot), header, seal, |bytes| crc32c(self.isa, 0, bytes));
    }
}

/// Length of a reply in bytes.
pub(crate) const REPLY_BYTES: usize = HEADER_BYTES;
