//! One connection under epoll: a non-blocking socket, read and written until it would wait.
//!
//! Owns the socket, both halves of the stream, and what is known of the socket's readiness. When
//! to call is left to the parent.
//!
//! Invariant: [`Readiness::Waits`] is only set when the kernel is sure to tell of the change.

use std::io::IoSlice;
use std::net::TcpStream;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::api::{Fault, Limits, PeerId};
use crate::desk::{Connection, Flushing};
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::slot::{RecvMemory, RecvSlot};
use crate::stream::{Assembly, Step};
use crate::tcp::os_fault;

/// Slots that one send gathers.
const PARTS_MAX: usize = 32;

/// A connection.
#[derive(Debug)]
pub(super) struct Peer {
    id: PeerId,
    pub(super) socket: TcpStream,
    inbox: Assembly,
    outbox: Outbox,
    flushing: Flushing,
    readable: Readiness,
    writable: Readiness,
    ending: Ending,
}

/// What reading came to, when nothing is wrong.
#[derive(Debug)]
pub(super) enum Found {
    /// A message; there may be more.
    Message(RecvSlot),
    /// The socket is empty; the kernel tells when that changes.
    Empty,
    /// The peer is over its limit: go on when slots have come back.
    Stalled,
}

/// Whether a call is worth trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    /// The last one would have waited.
    Waits,
    /// There is no use any more.
    Over,
}

/// Whether the peer has been seen to end its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    Seen,
}

impl Connection for Peer {
    fn is_open(&self) -> bool {
        true // One that is not is dropped at once.
    }

    fn inbox(&self) -> &Assembly {
        &self.inbox
    }

    fn inbox_mut(&mut self) -> &mut Assembly {
        &mut self.inbox
    }

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn sending(&mut self) -> (&mut Outbox, &mut Flushing) {
        (&mut self.outbox, &mut self.flushing)
    }
}

impl Peer {
    pub(super) fn new(id: PeerId, socket: TcpStream, inbox: Assembly) -> Peer {
        Peer {
            id,
            socket,
            inbox,
            outbox: Outbox::default(),
            flushing: Flushing::Unlisted,
            readable: Readiness::Ready,
            writable: Readiness::Ready,
            ending: Ending::No,
        }
    }

    /// Notes what epoll told.
    pub(super) fn note(&mut self, flags: EventFlags) {
        let over = EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR;
        if flags.intersects(EventFlags::IN | over) {
            self.readable = Readiness::Ready;
        }
        if flags.intersects(over) {
            self.ending = Ending::Seen;
        }
        if flags.contains(EventFlags::OUT) && self.writable == Readiness::Waits {
            self.writable = Readiness::Ready;
        }
    }

    /// Receives until there is a whole message, the socket is empty, or the peer is over its limit.
    pub(super) fn read(&mut self, pool: &Pool, limits: &Limits) -> Result<Found, Fault> {
        loop {
            match self.inbox.next(pool, limits).map_err(Fault::Malformed)? {
                Step::Message { slot, bytes } => {
                    let memory = RecvMemory::Pool(slot);
                    return Ok(Found::Message(RecvSlot { peer: self.id, bytes, memory }));
                }
                Step::Stalled => return Ok(Found::Stalled),
                Step::Starved if self.readable != Readiness::Ready => return Ok(Found::Empty),
                Step::Starved => self.fill()?,
            }
        }
    }

    /// Sends what is ready, until there is no more or the socket is full.
    pub(super) fn write(&mut self) -> Result<(), Fault> {
        while self.writable == Readiness::Ready {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let mut count = 0;
            for (part, bytes) in parts.iter_mut().zip(self.outbox.ready()) {
                *part = IoSlice::new(bytes);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            let mut control = SendAncillaryBuffer::default();
            let flags = SendFlags::NOSIGNAL;
            match net::sendmsg(&self.socket, &parts[..count], &mut control, flags) {
                Ok(bytes) => self.outbox.sent(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = Readiness::Waits,
                // What the peer sent before it went is still to be read; after it comes the end.
                Err(Errno::PIPE | Errno::CONNRESET) => self.writable = Readiness::Over,
                Err(errno) => return Err(os_fault("sendmsg", errno)),
            }
        }
        Ok(())
    }

    /// One receive into the inbox's window.
    fn fill(&mut self) -> Result<(), Fault> {
        let window = self.inbox.window();
        let room_bytes = window.bytes.len();
        match net::recv(&self.socket, window.bytes, RecvFlags::empty()) {
            Ok((_, 0)) | Err(Errno::CONNRESET | Errno::PIPE) => return Err(Fault::PeerClosed),
            Ok((_, bytes)) => {
                self.inbox.filled(bytes);
                // Less than asked for: the socket is empty, and says so itself when it is not.
                // Only the end has been told of already.
                if bytes < room_bytes && self.ending == Ending::No {
                    self.readable = Readiness::Waits;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => self.readable = Readiness::Waits,
            Err(errno) => return Err(os_fault("recv", errno)),
        }
        Ok(())
    }
}
