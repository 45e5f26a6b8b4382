//! Control bells: how a thread that waits for a control link's messages is told to look up.
//!
//! Owns nothing but the name: it is a transport's wake-up for who has no transport. What there is
//! to say is left to who rings and who waits.

use std::io;
use std::os::fd::BorrowedFd;

use crate::api::Waker;
use crate::wake::Wake;

/// The sleeper's side: [`ControlLink::receive_or_rung`](crate::ControlLink::receive_or_rung) ends
/// when it is rung, the next one if none is under way.
#[derive(Debug)]
pub struct ControlBell(Wake);

impl ControlBell {
    /// A bell that nobody has rung.
    ///
    /// # Errors
    ///
    /// There are no files left.
    pub fn new() -> io::Result<ControlBell> {
        Ok(ControlBell(Wake::new()?))
    }

    /// What rings it, from any thread, without waiting.
    pub fn waker(&self) -> Waker {
        self.0.waker()
    }

    /// What becomes readable when it is rung.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    /// Whoever rings from now on, rings anew.
    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}
