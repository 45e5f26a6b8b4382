//! TCP by epoll: non-blocking sockets, told of once by each change (edge-triggered).
//!
//! Owns the epoll instance and the peers. For kernels without io_uring, and for machines that
//! forbid it; framing is left to `stream`, order and credit to `outbox`.
//!
//! Invariant: a peer whose socket is readable has been read until it was empty, or is `stalled`;
//! one whose socket is writable has nothing flushed left.

mod peer;

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use wire::Time;

use self::peer::{Flushing, Pause, Peer};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Transport, Waker,
};
use crate::pool::Pool;
use crate::slot::{RecvSlot, SendMemory, SendSlot};
use crate::starved::Starved;
use crate::stream::{self, Assembly};
use crate::tcp::{OpenError, os_fault};
use crate::wake::{Wake, Woken};

/// The back end's name.
const NAME: &str = "epoll";
/// Connections at a time.
const PEERS_MAX: usize = 1024;
/// Changes that one poll is told of; the rest comes with the next.
const CHANGES_MAX: usize = 256;
/// What epoll says when it is the waker, and no peer.
const WAKER: u64 = u64::MAX;

/// TCP by epoll.
pub(crate) struct Epoll {
    peers: Vec<Option<Box<Peer>>>,
    peers_open: usize,
    epoll: OwnedFd,
    changes: Vec<epoll::Event>,
    wake: Wake,
    /// Whether somebody woke since the last park.
    woken: Woken,
    sends: Pool,
    recvs: Pool,
    limits: Limits,
    /// Peers with posted slots that are not flushed.
    unflushed: Vec<u32>,
    /// Peers that wait for slots to be released.
    stalled: VecDeque<u32>,
    /// Peers that were refused a slot.
    starved: Starved,
    /// `Closed` events for the next poll.
    closed: Vec<Event>,
    start: Instant,
    bytes_sent: u64,
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
        Ok(Epoll {
            peers: Vec::new(),
            peers_open: 0,
            epoll,
            changes: Vec::with_capacity(CHANGES_MAX),
            wake,
            woken: Woken::No,
            sends: Pool::new(&limits).map_err(OpenError::Memory)?,
            recvs: stream::recv_pool(&limits).map_err(OpenError::Memory)?,
            limits,
            unflushed: Vec::new(),
            stalled: VecDeque::new(),
            starved: Starved::default(),
            closed: Vec::new(),
            start: Instant::now(),
            bytes_sent: 0,
        })
    }

    fn open_peer(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(peer.index())?.as_deref_mut()
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
                    self.woken = Woken::Yes;
                }
                number => self.changed(number as u32, change.flags, events),
            }
        }
        self.changes = changes;
    }

    fn changed(&mut self, number: u32, flags: EventFlags, events: &mut Vec<Event>) {
        let Some(peer) = self.open_peer(PeerId::new(number)) else { return };
        peer.note(flags);
        if let Err(fault) = peer.write() {
            return self.fail(number, fault);
        }
        // A stalled peer is read when slots have come back, and is on that list already.
        if !self.stalled.contains(&number) {
            self.read(number, events);
        }
    }

    fn read(&mut self, number: u32, events: &mut Vec<Event>) {
        let Some(peer) = self.peers[number as usize].as_deref_mut() else { return };
        match peer.read(&self.recvs, &self.limits, events) {
            Ok(Pause::Empty) => {}
            Ok(Pause::Stalled) => self.stalled.push_back(number),
            Err(fault) => self.fail(number, fault),
        }
    }

    /// Ends a peer, if it is open.
    fn fail(&mut self, number: u32, fault: Fault) {
        let entry = self.peers.get_mut(number as usize).and_then(Option::take);
        let Some(peer) = entry else { return };
        let _ = peer.socket.shutdown(Shutdown::Both); // It fails when the peer has reset it.
        self.peers_open -= 1;
        self.closed.push(Event::Closed { peer: PeerId::new(number), fault });
    }

    /// Ends all: epoll itself does not work any more.
    fn fail_all(&mut self, call: &'static str, errno: Errno) {
        for number in 0..self.peers.len() as u32 {
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

    /// Lists the peers for the flush whose posted slots may have waited behind dropped ones.
    fn list_unblocked(&mut self) {
        if self.sends.take_unused() == 0 {
            return;
        }
        for (number, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            if peer.flushing == Flushing::Unlisted && peer.outbox.has_unused() {
                peer.flushing = Flushing::Listed;
                self.unflushed.push(number as u32);
            }
        }
    }

    /// Whether a peer that was refused a slot would get it now; each is told of once.
    fn has_fed(&mut self) -> bool {
        let (peers, sends, limits) = (&self.peers, &self.sends, &self.limits);
        let has_credit = |number: u32, bytes| match &peers[number as usize] {
            Some(peer) => peer.outbox.has_credit(bytes, limits) && sends.take(bytes).is_some(),
            None => true,
        };
        self.starved.take_fed(has_credit) > 0
    }

    /// Whether the next poll has something to do, whatever epoll says.
    fn has_work(&self) -> bool {
        let resumable = |&number: &u32| match &self.peers[number as usize] {
            Some(peer) => peer.inbox.could_resume(&self.recvs, &self.limits),
            None => true,
        };
        !self.closed.is_empty() || self.stalled.iter().any(resumable)
    }

    fn watch(&self, socket: &TcpStream, number: u32) -> Result<(), Errno> {
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

impl Transport for Epoll {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn integrity(&self) -> Integrity {
        Integrity::NeedsChecksum
    }

    fn now(&self) -> Time {
        Time::from_nanos(0) + self.start.elapsed()
    }

    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError> {
        let Link::Tcp(socket) = link else {
            return Err(AdoptError::WrongKind { transport: NAME });
        };
        let full = AdoptError::Full { peers_max: PEERS_MAX };
        let Ok(number) = u32::try_from(self.peers.len()) else { return Err(full) };
        if self.peers_open == PEERS_MAX {
            return Err(full);
        }
        let os = |call| move |error| AdoptError::Os { call, error };
        socket.set_nodelay(true).map_err(os("setsockopt"))?;
        socket.set_nonblocking(true).map_err(os("fcntl"))?;
        let Some(inbox) = Assembly::new(&self.recvs) else { return Err(full) };
        self.watch(&socket, number).map_err(|errno| os("epoll_ctl")(errno.into()))?;
        let id = PeerId::new(number);
        self.peers.push(Some(Box::new(Peer::new(id, socket, inbox))));
        self.peers_open += 1;
        Ok(id)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.stalled.len() {
            let Some(number) = self.stalled.pop_front() else { break };
            self.read(number, events);
        }
        self.take_changes(events);
        events.append(&mut self.closed);
    }

    fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        let entry = self.peers.get_mut(peer.index()).and_then(Option::as_deref_mut);
        let entry = entry.ok_or(SendRefusal::NoSuchPeer)?;
        let slot = entry.outbox.acquire(bytes, &self.sends, &self.limits);
        if matches!(slot, Err(SendRefusal::NoCredit)) {
            self.starved.note(peer.index() as u32, bytes);
        }
        Ok(SendSlot { peer, bytes, memory: SendMemory::Pool(slot?) })
    }

    fn post(&mut self, slot: SendSlot) {
        let SendSlot { peer, bytes, memory: SendMemory::Pool(memory) } = slot else {
            panic!("a slot of another transport was posted");
        };
        self.bytes_sent += bytes as u64;
        let Some(entry) = self.open_peer(peer) else { return };
        entry.outbox.post(memory, bytes);
        if entry.flushing == Flushing::Unlisted {
            entry.flushing = Flushing::Listed;
            self.unflushed.push(peer.index() as u32);
        }
    }

    fn flush(&mut self) {
        self.list_unblocked();
        while let Some(number) = self.unflushed.pop() {
            let Some(peer) = self.open_peer(PeerId::new(number)) else { continue };
            peer.flushing = Flushing::Unlisted;
            peer.outbox.flush();
            if let Err(fault) = peer.write() {
                self.fail(number, fault);
            }
        }
    }

    fn release(&mut self, slot: RecvSlot) {
        drop(slot); // It finds its way back, and the next poll goes on with a stalled peer.
    }

    fn park(&mut self, deadline: Time) {
        let spin_until = deadline.min(self.now() + Duration::from_nanos(self.limits.spin_ns));
        while self.woken == Woken::No && !self.has_work() && !self.has_fed() {
            let now = self.now();
            if now >= deadline {
                break;
            }
            let asleep = now >= spin_until && self.limits.spin_ns != u64::MAX;
            let timeout = if asleep { deadline - now } else { Duration::ZERO };
            if asleep | (self.wait(timeout) == Readable::Yes) {
                break;
            }
        }
        self.woken = Woken::No;
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn close(&mut self, peer: PeerId) {
        self.fail(peer.index() as u32, Fault::ClosedHere);
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}
