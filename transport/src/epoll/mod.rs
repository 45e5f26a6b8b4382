//! TCP by epoll: non-blocking sockets, told of once by each change (edge-triggered).
//!
//! Owns the epoll instance. For kernels without io_uring, and for machines that forbid it; framing
//! is left to `stream`, what is kept of all peers to `desk`.
//!
//! Invariant: a peer whose socket is readable has been read until it was empty, or is `stalled`;
//! one whose socket is writable has nothing flushed left.

mod peer;

use std::net::{Shutdown, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use wire::Time;

use self::peer::{Found, Peer};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Transport, Waker,
};
use crate::desk::{Beneath, Desk, Lanes, Rung, prepare};
use crate::slot::{RecvSlot, SendSlot};
use crate::stream::Assembly;
use crate::tcp::{OpenError, os_fault};
use crate::wake::{Wake, Woken};

/// The back end's name.
const NAME: &str = "epoll";
/// Connections at a time.
const PEERS_MAX: usize = 4096;
/// Changes that one poll is told of; the rest comes with the next.
const CHANGES_MAX: usize = 256;
/// What epoll says when it is the waker, and no peer.
const WAKER: u64 = u64::MAX;
/// What epoll says when it is what the transport above watches.
const WATCHED: u64 = u64::MAX - 1;

/// TCP by epoll.
pub(crate) struct Epoll {
    desk: Desk<Peer>,
    peers_open: usize,
    epoll: OwnedFd,
    changes: Vec<epoll::Event>,
    wake: Wake,
}

impl Epoll {
    /// No peers yet.
    pub(crate) fn new(limits: Limits) -> Result<Epoll, OpenError> {
        let os =
            |call| move |errno: Errno| OpenError::Os { transport: NAME, call, error: errno.into() };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(os("epoll_create1"))?;
        let wake = Wake::new().map_err(os("eventfd"))?;
        // Level-triggered: told of until it is cleared.
        let added = epoll::add(&epoll, wake.fd(), EventData::new_u64(WAKER), EventFlags::IN);
        added.map_err(os("epoll_ctl"))?;
        let (desk, changes) = (Desk::new(limits)?, Vec::with_capacity(CHANGES_MAX));
        Ok(Epoll { desk, peers_open: 0, epoll, changes, wake })
    }

    /// Asks epoll what has changed and deals with it.
    fn take_changes(&mut self, events: &mut Vec<Event>) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear();
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let room = rustix::buffer::spare_capacity(&mut changes);
        match epoll::wait(&self.epoll, room, Some(&NOW)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => self.fail_all("epoll_wait", errno),
        }
        for change in &changes {
            match change.data.u64() {
                WAKER => {
                    self.wake.clear();
                    self.desk.woken = Woken::Yes;
                }
                WATCHED => self.desk.rung = Rung::Yes,
                number => self.changed(number as u32, change.flags, events),
            }
        }
        self.changes = changes;
    }

    fn changed(&mut self, number: u32, flags: EventFlags, events: &mut Vec<Event>) {
        let Some(peer) = self.desk.open_peer(PeerId::new(number)) else { return };
        peer.note(flags);
        if let Err(fault) = peer.write() {
            return self.fail(number, fault);
        }
        // A stalled peer is read when slots have come back, and is on that list already.
        if !self.desk.stalled.contains(&number) {
            self.read(number, events);
        }
    }

    fn read(&mut self, number: u32, events: &mut Vec<Event>) {
        let peer = PeerId::new(number);
        loop {
            let Some(open) = self.desk.peers[number as usize].as_deref_mut() else { return };
            match open.read(&self.desk.recvs, &self.desk.limits) {
                Ok(Found::Message(slot)) if self.desk.declines(peer, slot.bytes()) => {}
                Ok(Found::Message(slot)) => events.push(Event::Received { peer, slot }),
                Ok(Found::Empty) => return,
                Ok(Found::Stalled) => return self.desk.stalled.push_back(number),
                Err(fault) => return self.fail(number, fault),
            }
        }
    }

    /// Ends a peer, if it is open.
    fn fail(&mut self, number: u32, fault: Fault) {
        let entry = self.desk.peers.get_mut(number as usize).and_then(Option::take);
        let Some(peer) = entry else { return };
        let _ = peer.socket.shutdown(Shutdown::Both); // It fails when the peer has reset it.
        self.peers_open -= 1;
        self.desk.closed.push(Event::Closed { peer: PeerId::new(number), fault });
    }

    /// Ends all: epoll itself does not work any more.
    fn fail_all(&mut self, call: &'static str, errno: Errno) {
        for number in 0..self.desk.peers.len() as u32 {
            self.fail(number, os_fault(call, errno));
        }
    }

    /// Waits until epoll has a change to tell, at most `timeout`.
    fn wait(&mut self, timeout: Duration) -> Readable {
        let timeout = Timespec::try_from(timeout).ok(); // None, for ever, only past 2^63 s.
        let mut polled = [PollFd::new(&self.epoll, PollFlags::IN)];
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Readable::No,
            Ok(_) => Readable::Yes,
            Err(errno) => {
                self.fail_all("ppoll", errno);
                Readable::No
            }
        }
    }

    fn watch_socket(&self, socket: &TcpStream, number: u32) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(number.into()), flags)
    }
}

/// Whether epoll has something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readable {
    Yes,
    No,
}

impl Beneath for Epoll {
    fn give_out_lane_messages(&mut self) {
        self.desk.lanes = Lanes::GivenOut;
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // Level-triggered: told of until it is unreadable.
        epoll::add(&self.epoll, fd, EventData::new_u64(WATCHED), EventFlags::IN)
    }

    fn take_rung(&mut self) -> Rung {
        std::mem::replace(&mut self.desk.rung, Rung::No)
    }

    fn has_news(&mut self) -> bool {
        self.desk.woken == Woken::Yes
            || self.desk.has_work()
            || self.desk.has_fed()
            || self.wait(Duration::ZERO) == Readable::Yes
    }

    fn sleep(&mut self, deadline: Time) {
        let now = self.now();
        if now < deadline {
            self.wait(deadline - now);
        }
    }

    fn forget_wakers(&mut self) {
        self.desk.woken = Woken::No;
    }
}

impl Transport for Epoll {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        self.desk.limits
    }

    fn integrity(&self) -> Integrity {
        Integrity::NeedsChecksum
    }

    fn now(&self) -> Time {
        self.desk.now()
    }

    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError> {
        let Link::Tcp(socket) = link else {
            return Err(AdoptError::WrongKind { transport: NAME });
        };
        let full = AdoptError::Full { peers_max: PEERS_MAX };
        let Ok(number) = u32::try_from(self.desk.peers.len()) else { return Err(full) };
        if self.peers_open == PEERS_MAX {
            return Err(full);
        }
        let os = |call| move |error| AdoptError::Os { call, error };
        prepare(&socket)?;
        socket.set_nonblocking(true).map_err(os("fcntl"))?;
        let Some(inbox) = Assembly::new(&self.desk.recvs) else { return Err(full) };
        self.watch_socket(&socket, number).map_err(|errno| os("epoll_ctl")(errno.into()))?;
        let id = PeerId::new(number);
        self.desk.peers.push(Some(Box::new(Peer::new(id, socket, inbox))));
        self.peers_open += 1;
        Ok(id)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.desk.stalled.len() {
            let Some(number) = self.desk.stalled.pop_front() else { break };
            self.read(number, events);
        }
        self.take_changes(events);
        for number in self.desk.late_peers() {
            self.fail(number, Fault::MessageLate);
        }
        events.append(&mut self.desk.closed);
    }

    fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        self.desk.acquire(peer, bytes)
    }

    fn post(&mut self, slot: SendSlot) {
        self.desk.post(slot);
    }

    fn flush(&mut self) {
        self.desk.count_unflushed();
        while let Some(number) = self.desk.next_flushed() {
            let Some(peer) = self.desk.open_peer(PeerId::new(number)) else { continue };
            if let Err(fault) = peer.write() {
                self.fail(number, fault);
            }
        }
    }

    fn release(&mut self, slot: RecvSlot) {
        drop(slot); // It finds its way back, and the next poll goes on with a stalled peer.
    }

    fn park(&mut self, deadline: Time) {
        let spin_until = deadline.min(self.now() + Duration::from_nanos(self.desk.limits.spin_ns));
        while self.desk.woken == Woken::No && !self.desk.has_work() && !self.desk.has_fed() {
            let now = self.now();
            if now >= deadline {
                break;
            }
            let asleep = now >= spin_until && self.desk.limits.spin_ns != u64::MAX;
            let timeout = if asleep { deadline - now } else { Duration::ZERO };
            if asleep | (self.wait(timeout) == Readable::Yes) {
                break;
            }
        }
        self.desk.woken = Woken::No;
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn close(&mut self, peer: PeerId) {
        self.fail(peer.index() as u32, Fault::ClosedHere);
    }

    fn held_bytes(&self) -> u64 {
        self.desk.held_bytes()
    }

    fn bytes_sent(&self) -> u64 {
        self.desk.bytes_sent()
    }
}

#[cfg(test)]
mod tests {
    use super::Epoll;

    impl Epoll {
        /// Has the next polls look for late messages.
        pub(crate) fn let_look(&mut self) {
            self.desk.let_look();
        }
    }
}
