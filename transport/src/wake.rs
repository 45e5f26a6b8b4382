//! The eventfd by which other threads end a `park`.
//!
//! Owns it, and whether a wake is under way, so that waking twice costs one system call.
//!
//! Invariant: whoever sets `pending` writes the eventfd, and only [`Wake::clear`], called when the
//! eventfd is readable, resets it; so a set `pending` always has a readable eventfd to come.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::api::Waker;

/// The sleeper's side.
#[derive(Debug)]
pub(crate) struct Wake(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    eventfd: OwnedFd,
    pending: AtomicBool,
}

/// Whether somebody woke since the last park.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Yes,
    No,
}

impl Wake {
    pub(crate) fn new() -> Result<Wake, Errno> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake(Arc::new(Shared { eventfd, pending: AtomicBool::new(false) })))
    }

    /// What becomes readable when somebody wakes.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }

    /// The wakers' side.
    pub(crate) fn waker(&self) -> Waker {
        let shared = Arc::clone(&self.0);
        Waker::new(move || {
            if !shared.pending.swap(true, Ordering::AcqRel) {
                // It fails only when the counter is at its end: then it is readable anyway.
                let _ = rustix::io::write(&shared.eventfd, &1_u64.to_ne_bytes());
            }
        })
    }

    /// Makes the eventfd unreadable again. The caller takes itself as woken: a wake that comes
    /// between the two lines writes nothing.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0.eventfd, &mut [0_u8; 8]);
        self.0.pending.swap(false, Ordering::AcqRel);
    }
}
