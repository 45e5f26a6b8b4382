//! Completion queues: which work requests are over, and how they ended.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::device::Device;
use super::error::VerbsError;

/// Completions that one [`CompletionQueue::poll`] takes at most.
pub(crate) const POLL_MAX: usize = 32;

/// A work request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// What the request was posted with.
    pub(crate) wr_id: u64,
    /// The queue pair's number. It may have been destroyed since.
    pub(crate) qp_number: u32,
    /// How it ended.
    pub(crate) outcome: Result<Done, Failure>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) opcode: Opcode,
    /// How much came, in bytes; of a receive or read alone.
    pub(crate) bytes: u32,
    /// The number that came with it, of a receive alone.
    pub(crate) imm: Option<u32>,
}

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Send,
    Write,
    Read,
    /// A receive that a send filled.
    Recv,
    /// A receive that a write with a number used up.
    RecvOfWrite,
    Other(u32),
}

/// Why a request failed. Its queue pair takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    /// What the vendor's manual explains.
    pub(crate) vendor_code: u32,
}

/// How a request failed, by the library's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u32);

impl Status {
    /// The queue pair was in error already: this request was not worked on.
    pub(crate) const FLUSHED: Status = Status(5);
}

/// A completion queue with a channel to sleep on. Used by the thread that made it.
pub(crate) struct CompletionQueue(Rc<Inner>);

pub(super) struct Inner {
    null: std::fs::File,
}

impl CompletionQueue {
    /// A queue of at least `entries`.
    pub(crate) fn new(device: &Device, entries: u32) -> Result<CompletionQueue, VerbsError> {
        let _ = (device, entries);
        Err(VerbsError::Unwritten("CompletionQueue::new"))
    }

    /// Entries that it has.
    pub(crate) fn entries(&self) -> u32 {
        0
    }

    /// Makes it have at least `entries`. It is as it was if that fails.
    pub(crate) fn resize(&mut self, entries: u32) -> Result<(), VerbsError> {
        let _ = entries;
        Err(VerbsError::Unwritten("CompletionQueue::resize"))
    }

    /// Puts what is over at the front of `out`, at most [`POLL_MAX`], and says how many. Never
    /// waits.
    pub(crate) fn poll(&mut self, out: &mut [Completion; POLL_MAX]) -> Result<usize, VerbsError> {
        let _ = out;
        Err(VerbsError::Unwritten("CompletionQueue::poll"))
    }

    /// Has the next completion make [`CompletionQueue::fd`] readable. Poll once more after it.
    pub(crate) fn arm(&mut self) -> Result<(), VerbsError> {
        Err(VerbsError::Unwritten("CompletionQueue::arm"))
    }

    /// Readable after an armed queue got a completion, until [`CompletionQueue::clear_events`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.null.as_fd()
    }

    /// Takes what made the descriptor readable, and says how many events there were. Never waits.
    pub(crate) fn clear_events(&mut self) -> Result<usize, VerbsError> {
        Err(VerbsError::Unwritten("CompletionQueue::clear_events"))
    }
}

impl Completion {
    /// One of nothing, to fill an array with.
    pub(crate) const EMPTY: Completion = Completion {
        wr_id: 0,
        qp_number: 0,
        outcome: Ok(Done { opcode: Opcode::Other(0), bytes: 0, imm: None }),
    };
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (vendor's code {:#x})", self.status, self.vendor_code)
    }
}
