//! Work requests: what a queue pair is asked to do.
//!
//! Owns the words. How they are written down for a device is left to [`super::queue_pair`].

use super::memory::Local;

/// Whether a request that succeeds has a completion. One that fails always has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Completes,
    Silent,
}

/// What a request sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    /// Nothing.
    Empty,
    /// Registered memory, left as it is until the request is over.
    Registered(Local),
    /// Bytes that posting copies; at most [`QueuePair::inline_bytes_max`].
    Inline(&'a [u8]),
}

/// A write into the peer's memory that uses up one of its receives and gives it a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteImm<'a> {
    pub(crate) wr_id: u64,
    pub(crate) payload: Payload<'a>,
    pub(crate) remote_address: u64,
    pub(crate) rkey: u32,
    pub(crate) imm: u32,
    pub(crate) signal: Signal,
}

/// Any request that sends or reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) wr_id: u64,
    pub(crate) operation: Operation,
    /// What is sent; of a read, where it goes: [`Payload::Registered`].
    pub(crate) payload: Payload<'a>,
    pub(crate) signal: Signal,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Fills the peer's next receive.
    Send,
    /// Writes into the peer's memory, unseen by it.
    Write { remote_address: u64, rkey: u32 },
    /// As [`WriteImm`].
    WriteImm { remote_address: u64, rkey: u32, imm: u32 },
    /// Reads the peer's memory.
    Read { remote_address: u64, rkey: u32 },
}

/// Why requests were not posted. Those before were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PostError {
    /// How many of the requests were posted.
    pub(crate) posted: usize,
    /// `errno`: `ENOMEM` says that the queue is full.
    pub(crate) errno: i32,
}

impl<'a> WriteImm<'a> {
    /// One of nothing, to fill an array with.
    pub(super) const EMPTY: WriteImm<'a> = WriteImm {
        wr_id: 0,
        payload: Payload::Empty,
        remote_address: 0,
        rkey: 0,
        imm: 0,
        signal: Signal::Silent,
    };

    pub(super) fn request(&self) -> Request<'a> {
        let WriteImm { wr_id, payload, remote_address, rkey, imm, signal } = *self;
        let operation = Operation::WriteImm { remote_address, rkey, imm };
        Request { wr_id, operation, payload, signal }
    }
}
