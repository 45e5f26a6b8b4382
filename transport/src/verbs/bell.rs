//! What ends a sleep besides TCP: completions of an armed queue, and news of a device.
//!
//! Owns one epoll instance over all such descriptors, so that the back end beneath watches one,
//! however devices come and go. Taking what they have is left to [`super::station`].
//!
//! Invariant: it is readable exactly while one of them is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Descriptors that end a sleep.
pub(super) struct Bell(OwnedFd);

impl Bell {
    /// Over none yet.
    pub(super) fn new() -> Result<Bell, Errno> {
        epoll::create(CreateFlags::CLOEXEC).map(Bell)
    }

    /// Adds one. It is taken off when it is closed.
    pub(super) fn add(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(0), EventFlags::IN)
    }

    /// Readable while one of them is.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
