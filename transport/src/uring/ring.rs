//! The ring itself: submissions in, completions out, and the table of registered sockets.
//!
//! Owns the io_uring instance. What an operation is for is left to the parent; whether its memory
//! stays put is the promise of [`Ring::push`]'s caller.
//!
//! The ring defers its work to this thread (`DEFER_TASKRUN`) and tells by a flag in shared memory
//! that there is some (`TASKRUN_FLAG`), so that a poll which finds nothing makes no system call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use rustix::io::Errno;

use super::PEERS_MAX;

/// Entries of the submission queue. When it is full, it is submitted.
const SUBMISSIONS_MAX: u32 = 256;
/// Entries of the completion queue: a receive and a send for each peer, the waker, what is watched.
const COMPLETIONS_MAX: u32 = 2 * PEERS_MAX + 3;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Recv,
    Send,
    Wake,
    Watched,
}

/// Who an operation was for, as it travels through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) op: Op,
    /// Number of the peer.
    pub(super) peer: u32,
}

/// An operation that is over: its memory is ours again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) tag: Tag,
    pub(super) result: Result<usize, Errno>,
    pub(super) stage: Stage,
    pub(super) socket: Socket,
}

/// What the kernel saw in the socket when a receive was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    HasBytes,
    LooksEmpty,
}

/// Whether an operation has more completions to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    More,
    Last,
}

/// Why there is no ring.
#[derive(Debug)]
pub(super) struct SetupError {
    pub(super) call: &'static str,
    pub(super) error: io::Error,
}

/// One io_uring instance, used by the thread that made it.
pub(super) struct Ring {
    io: IoUring,
}

impl Tag {
    fn to_user_data(self) -> u64 {
        u64::from(self.peer) << 8 | self.op as u64
    }

    fn from_user_data(raw: u64) -> Tag {
        let op = match raw & 0xff {
            0 => Op::Recv,
            1 => Op::Send,
            2 => Op::Wake,
            _ => Op::Watched,
        };
        Tag { op, peer: (raw >> 8) as u32 }
    }
}

impl Ring {
    /// A ring with an empty table for `sockets_max` sockets, at most `PEERS_MAX`.
    pub(super) fn new(sockets_max: u32) -> Result<Ring, SetupError> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS_MAX.next_power_of_two())
            .dontfork()
            .build(SUBMISSIONS_MAX)
            .map_err(|error| SetupError { call: "io_uring_setup", error })?;
        let registered = io.submitter().register_files_sparse(sockets_max);
        registered.map_err(|error| SetupError { call: "io_uring_register", error })?;
        Ok(Ring { io })
    }

    /// Puts a socket into the table.
    pub(super) fn register(&self, place: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.set_place(place, socket.as_raw_fd())
    }

    /// Takes a socket out of the table.
    pub(super) fn unregister(&self, place: u32) -> io::Result<()> {
        const NONE: RawFd = -1;
        self.set_place(place, NONE)
    }

    /// Queues an operation; it reaches the kernel with the next `enter` or `sleep`.
    ///
    /// Errors: the queue was full and the kernel did not take it. The operation is not queued.
    ///
    /// # Safety
    ///
    /// The memory that `entry` names stays allocated, and nobody else's, until [`Ring::pop`] has
    /// given its last completion, or for good.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry, tag: Tag) -> Result<(), Errno> {
        let entry = entry.user_data(tag.to_user_data());
        if self.io.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: the memory lives as long as the operation by this function's own contract.
        let pushed = unsafe { self.io.submission().push(&entry) };
        pushed.map_err(|_| Errno::BUSY)
    }

    /// Submits what is queued and runs the work that the kernel left to this thread. No system
    /// call where there is neither.
    pub(super) fn enter(&mut self) -> Result<(), Errno> {
        let submission = self.io.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if idle { Ok(()) } else { self.submit() }
    }

    /// Whether [`Ring::pop`] has something.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty()
    }

    /// The next completion.
    pub(super) fn pop(&mut self) -> Option<Completion> {
        let entry = self.io.completion().next()?;
        let result = usize::try_from(entry.result())
            .map_err(|_| Errno::from_raw_os_error(entry.result().saturating_neg()));
        let (tag, flags) = (Tag::from_user_data(entry.user_data()), entry.flags());
        let stage = if cqueue::more(flags) { Stage::More } else { Stage::Last };
        let has_bytes = cqueue::sock_nonempty(flags);
        let socket = if has_bytes { Socket::HasBytes } else { Socket::LooksEmpty };
        Some(Completion { tag, result, stage, socket })
    }

    /// Submits what is queued and waits for a completion, at most `timeout`.
    pub(super) fn sleep(&mut self, timeout: Duration) -> Result<(), Errno> {
        let timeout = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timeout);
        let slept = self.io.submitter().submit_with_args(1, &arguments);
        slept.map(drop).or_else(|error| harmless(&error))
    }

    fn submit(&mut self) -> Result<(), Errno> {
        self.io.submit().map(drop).or_else(|error| harmless(&error))
    }

    fn set_place(&self, place: u32, fd: RawFd) -> io::Result<()> {
        self.io.submitter().register_files_update(place, &[fd]).map(drop)
    }
}

/// Passes over what only says "later": a signal, a timeout, completions that wait to be popped.
fn harmless(error: &io::Error) -> Result<(), Errno> {
    match Errno::from_io_error(error) {
        Some(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY) => Ok(()),
        Some(errno) => Err(errno),
        None => Err(Errno::IO),
    }
}
