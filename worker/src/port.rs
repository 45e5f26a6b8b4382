//! The way out: a transport, and how messages over it are sealed and opened.
//!
//! Owns the transport and turns a request into a posted slot. When a request is sent is left to
//! `turn`.

use std::time::Duration;

use kernels::{Isa, crc32c::crc32c};
use transport::{Integrity, PeerId, RecvSlot, SendRefusal, Transport};
use wire::{FRAME_BYTES_MAX, HEADER_BYTES, Header, Malformed, Seal, Time};

use crate::error::WorkerError;
use crate::request::{Pen, Request};

/// A transport and what is known of it.
pub(crate) struct Port {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) recv_bytes_max: usize,
    /// Bytes that may be in flight to one shard of what may wait there. The shard's transport has
    /// bounds like this one's, and what waits keeps its room there: a push that it waits for must
    /// find some.
    pub(crate) pulls_bytes_max: usize,
    isa: Isa,
    integrity: Integrity,
    message_bytes_max: usize,
}

impl Port {
    pub(crate) fn new(transport: Box<dyn Transport>, isa: Isa) -> Port {
        let limits = transport.limits();
        let integrity = transport.integrity();
        // Pulls get half of what may be under way, and a push has to fit the other half.
        let pulls_bytes_max = limits.send_bytes_max.min(limits.recv_bytes_max) / 2;
        let message_bytes_max = limits.message_bytes_max.min(pulls_bytes_max).min(FRAME_BYTES_MAX);
        let recv_bytes_max = limits.recv_bytes_max;
        Port { transport, recv_bytes_max, pulls_bytes_max, isa, integrity, message_bytes_max }
    }

    pub(crate) fn now(&self) -> Time {
        self.transport.now()
    }

    /// The most keys of a pull, so that neither it nor its answer exceeds a message.
    pub(crate) fn pull_keys_max(&self, width: usize) -> Result<usize, WorkerError> {
        self.keys_max(width, (4 * width).max(8))
    }

    /// The most keys of a push or load.
    pub(crate) fn push_keys_max(&self, width: usize) -> Result<usize, WorkerError> {
        self.keys_max(width, 8 + 4 * width)
    }

    fn keys_max(&self, width: usize, key_bytes: usize) -> Result<usize, WorkerError> {
        let message_bytes_max = self.message_bytes_max;
        match message_bytes_max.saturating_sub(HEADER_BYTES) / key_bytes {
            0 => Err(WorkerError::WidthTooLarge { width, message_bytes_max }),
            keys_max => Ok(keys_max),
        }
    }

    /// Whether a message can be damaged on its way, so that whoever finds it so drops it and the
    /// request is sent again. Memory loses nothing: there a request is sent once on each link, and
    /// a server that is slow is not made slower.
    pub(crate) fn may_damage(&self) -> bool {
        self.integrity == Integrity::NeedsChecksum
    }

    /// When a request that is sent now is sent again.
    pub(crate) fn due_at(&self, now: Time, patience: Duration) -> Time {
        if self.may_damage() { now + patience } else { Time::NEVER }
    }

    /// Posts `request`, the same bytes each time; it leaves with the next flush.
    pub(crate) fn post(&mut self, peer: PeerId, request: &Request) -> Result<(), SendRefusal> {
        let seal = match self.integrity {
            Integrity::NeedsChecksum => Seal::Body,
            Integrity::Memory => Seal::HeaderOnly,
        };
        let mut slot = self.transport.acquire(peer, request.message_bytes())?;
        let message = slot.bytes_mut();
        request.write_body(Pen { isa: self.isa, seal }, message);
        wire::seal(message, request.header, seal, |bytes| crc32c(self.isa, 0, bytes));
        self.transport.post(slot);
        Ok(())
    }

    /// Checks a received message and returns its header.
    pub(crate) fn open(&self, slot: &RecvSlot) -> Result<Header, Malformed> {
        let (header, _) = wire::open(slot.bytes(), |bytes| crc32c(self.isa, 0, bytes))?;
        header.status()?;
        Ok(header)
    }
}
