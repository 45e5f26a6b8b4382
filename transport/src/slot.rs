//! Slots: a message's bytes with one owner, wherever they lie.
//!
//! Owns the two types that go through [`crate::Transport`]. The memory behind them is left to
//! `shm`, `pool`, `verbs` and `simulated`.
//!
//! Invariant: a slot's bytes are 64-byte aligned and nobody else's while the slot lives.

use wire::{HEADER_BYTES, Malformed};

use crate::api::PeerId;
use crate::pool::PoolSlot;
use crate::shm::{RecvRecord, SendRecord};
use crate::simulated::{RecvFrame, SendFrame};
use crate::verbs::RecvRecord as LaneRecord;

/// Bytes to fill and to post towards one peer.
#[derive(Debug)]
#[must_use = "a slot that is dropped is not sent"]
pub struct SendSlot {
    pub(crate) peer: PeerId,
    pub(crate) bytes: usize,
    pub(crate) memory: SendMemory,
}

/// Bytes that a peer sent.
#[derive(Debug)]
#[must_use = "a slot that is dropped keeps its sender waiting until it is"]
pub struct RecvSlot {
    pub(crate) peer: PeerId,
    pub(crate) bytes: usize,
    pub(crate) memory: RecvMemory,
}

#[derive(Debug)]
pub(crate) enum SendMemory {
    Ring(SendRecord),
    Pool(PoolSlot),
    Lane(PoolSlot),
    Frame(SendFrame),
}

#[derive(Debug)]
pub(crate) enum RecvMemory {
    Ring(RecvRecord),
    Pool(PoolSlot),
    Lane(LaneRecord),
    Frame(RecvFrame),
}

impl SendSlot {
    /// Towards whom.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The message to be, as long as it was acquired or cut.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.memory {
            SendMemory::Ring(record) => record.bytes_mut(),
            SendMemory::Pool(slot) | SendMemory::Lane(slot) => slot.bytes_mut(),
            SendMemory::Frame(frame) => frame.bytes_mut(),
        };
        &mut bytes[..self.bytes]
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Cuts the message to its first `bytes` bytes.
    ///
    /// Panics: if it is shorter.
    pub fn truncate(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "cut {} bytes to {bytes}", self.bytes);
        self.bytes = bytes;
    }
}

impl RecvSlot {
    /// From whom.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The whole message.
    pub fn bytes(&self) -> &[u8] {
        let bytes = match &self.memory {
            RecvMemory::Ring(record) => record.bytes(),
            RecvMemory::Pool(slot) => slot.bytes(),
            RecvMemory::Lane(record) => record.bytes(),
            RecvMemory::Frame(frame) => frame.bytes(),
        };
        &bytes[..self.bytes]
    }
}

/// What every back end promises of a received slot: ours, within the limit, and whole.
pub(crate) fn check_message(bytes: &[u8], message_bytes_max: usize) -> Result<(), Malformed> {
    let head = bytes.first_chunk().ok_or(Malformed::TooShort { bytes: bytes.len() })?;
    let promised = wire::framed_bytes(head)?;
    if promised != bytes.len() {
        return Err(Malformed::Length { promised, bytes: bytes.len() });
    }
    if promised > message_bytes_max {
        return Err(Malformed::TooLong { body_bytes: (promised - HEADER_BYTES) as u32 });
    }
    Ok(())
}
