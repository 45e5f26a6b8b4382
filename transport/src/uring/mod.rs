//! TCP by io_uring: a receive and a send under way for each peer, all on one ring.
//!
//! Owns the ring and the peers. Framing is left to `stream`, order and credit to `outbox`.
//!
//! Invariant: memory that the kernel was given outlives its operation: a closed peer stays until
//! its last completion has come, and one whose completion does not come is leaked.

mod peer;
mod ring;

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use wire::Time;

use self::peer::{Flushing, Life, Peer};
use self::ring::{Completion, Op, Ring, Stage, Tag};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Transport, Waker,
};
use crate::pool::Pool;
use crate::slot::{RecvMemory, RecvSlot, SendMemory, SendSlot};
use crate::starved::Starved;
use crate::stream::{self, Assembly, Step};
use crate::tcp::{OpenError, os_fault};
use crate::wake::{Wake, Woken};

/// The back end's name.
const NAME: &str = "uring";
/// Connections at a time.
const PEERS_MAX: u32 = 1024;
/// How long a drop waits for the kernel to give memory back, before it is leaked.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long one wait of a drop lasts at most.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// TCP by io_uring.
pub(crate) struct Uring {
    // Before the ring: a peer that is dropped here has nothing in the kernel.
    peers: Vec<Option<Box<Peer>>>,
    peers_max: usize,
    /// Free places in the ring's table of sockets.
    places: Vec<u32>,
    ring: Ring,
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
    /// Completions that a flush has found, for the next poll.
    landed: VecDeque<Completion>,
    /// Peers that were refused a slot.
    starved: Starved,
    /// `Closed` events for the next poll.
    closed: Vec<Event>,
    start: Instant,
    bytes_sent: u64,
}

impl Uring {
    /// No peers yet. The thread that calls is the one that polls.
    pub(crate) fn new(limits: Limits) -> Result<Uring, OpenError> {
        let os = |call| move |error| OpenError::Os { transport: NAME, call, error };
        // The kernel allows no larger table than files may be open.
        let files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let peers_max = u32::try_from(files_max).unwrap_or(u32::MAX).min(PEERS_MAX);
        let ring = Ring::new(peers_max).map_err(|setup| os(setup.call)(setup.error))?;
        let mut uring = Uring {
            peers: Vec::new(),
            peers_max: peers_max as usize,
            places: (0..peers_max).rev().collect(),
            ring,
            wake: Wake::new().map_err(|errno| os("eventfd")(errno.into()))?,
            woken: Woken::No,
            sends: Pool::new(&limits).map_err(OpenError::Memory)?,
            recvs: stream::recv_pool(&limits).map_err(OpenError::Memory)?,
            limits,
            unflushed: Vec::new(),
            stalled: VecDeque::new(),
            landed: VecDeque::new(),
            starved: Starved::default(),
            closed: Vec::new(),
            start: Instant::now(),
            bytes_sent: 0,
        };
        let armed = uring.arm_waker().and_then(|()| uring.ring.enter());
        armed.map_err(|errno| os("io_uring_enter")(errno.into()))?;
        Ok(uring)
    }

    /// Asks to be told whenever the eventfd becomes readable.
    fn arm_waker(&mut self) -> Result<(), Errno> {
        let eventfd = types::Fd(self.wake.fd().as_raw_fd());
        let entry = opcode::PollAdd::new(eventfd, libc::POLLIN as u32).multi(true).build();
        // SAFETY: a poll names no memory.
        unsafe { self.ring.push(entry, Tag { op: Op::Wake, peer: 0 }) }
    }

    fn open_peer(&mut self, peer: PeerId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(peer.index())?.as_deref_mut()?;
        (peer.life == Life::Open).then_some(peer)
    }

    fn complete(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Completion { tag, result, stage, .. } = completion;
        match tag.op {
            Op::Recv => self.received(completion, events),
            Op::Send => self.sent(tag.peer, result),
            Op::Wake => {
                self.wake.clear();
                self.woken = Woken::Yes;
                if stage == Stage::Last
                    && let Err(errno) = self.arm_waker()
                {
                    self.fail_all(errno);
                }
            }
        }
    }

    fn received(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Completion { tag: Tag { peer: number, .. }, result, socket, .. } = completion;
        let peer = self.peers[number as usize].as_deref_mut();
        let peer = peer.expect("a peer stays until its last completion");
        peer.recv_landed(socket);
        if peer.life == Life::Closed {
            return self.retire(number);
        }
        match result {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE) => self.fail(number, Fault::PeerClosed),
            Ok(bytes) => {
                peer.inbox.filled(bytes);
                self.advance(number, events);
            }
            Err(Errno::INTR | Errno::AGAIN) => self.advance(number, events),
            Err(errno) => self.fail(number, os_fault("recv", errno)),
        }
    }

    fn sent(&mut self, number: u32, result: Result<usize, Errno>) {
        let peer = self.peers[number as usize].as_deref_mut();
        let peer = peer.expect("a peer stays until its last completion");
        peer.send_landed(result.unwrap_or(0));
        if peer.life == Life::Closed {
            return self.retire(number);
        }
        match result {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {
                if let Err(errno) = peer.start_send(&mut self.ring) {
                    self.fail(number, os_fault("io_uring_enter", errno));
                }
            }
            // What the peer sent before it went is still to be received; after it comes the end.
            Err(Errno::CONNRESET | Errno::PIPE) => peer.end_sends(),
            Err(errno) => self.fail(number, os_fault("send", errno)),
        }
    }

    /// Takes note of the sends that are over, so that a flush may start the next; all else waits
    /// for a poll.
    fn land_sends(&mut self) {
        while let Some(completion) = self.ring.pop() {
            match completion.tag.op {
                Op::Send => self.sent(completion.tag.peer, completion.result),
                Op::Recv | Op::Wake => self.landed.push_back(completion),
            }
        }
    }

    /// Gives out the whole messages of a peer and receives on, if it may.
    fn advance(&mut self, number: u32, events: &mut Vec<Event>) {
        let Some(peer) = self.peers[number as usize].as_deref_mut() else { return };
        let id = peer.id;
        let fault = loop {
            match peer.inbox.next(&self.recvs, &self.limits) {
                Ok(Step::Message { slot, bytes }) => {
                    let memory = RecvMemory::Pool(slot);
                    let slot = RecvSlot { peer: id, bytes, memory };
                    events.push(Event::Received { peer: id, slot });
                }
                Ok(Step::Stalled) => return self.stalled.push_back(number),
                Ok(Step::Starved) => match peer.start_recv(&mut self.ring) {
                    Ok(()) => return,
                    Err(errno) => break os_fault("io_uring_enter", errno),
                },
                Err(malformed) => break Fault::Malformed(malformed),
            }
        };
        self.fail(number, fault);
    }

    fn advance_stalled(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.stalled.len() {
            let Some(number) = self.stalled.pop_front() else { return };
            if self.open_peer(PeerId::new(number)).is_some() {
                self.advance(number, events);
            }
        }
    }

    /// Ends an open peer. Its operations end soon, since the socket is shut down.
    fn fail(&mut self, number: u32, fault: Fault) {
        let Some(peer) = self.open_peer(PeerId::new(number)) else { return };
        peer.life = Life::Closed;
        let _ = peer.socket.shutdown(Shutdown::Both); // It fails when the peer has reset it.
        let peer = peer.id;
        self.closed.push(Event::Closed { peer, fault });
        self.retire(number);
    }

    /// Ends all: the ring itself does not work any more.
    fn fail_all(&mut self, errno: Errno) {
        for number in 0..self.peers.len() as u32 {
            self.fail(number, os_fault("io_uring_enter", errno));
        }
    }

    /// Forgets a closed peer, once the kernel has none of its memory.
    fn retire(&mut self, number: u32) {
        let retired = self.peers[number as usize].take_if(|peer| !peer.in_kernel());
        if let Some(peer) = retired
            && self.ring.unregister(peer.place).is_ok()
        {
            self.places.push(peer.place);
        }
    }

    fn enter(&mut self) {
        if let Err(errno) = self.ring.enter() {
            self.fail_all(errno);
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

    /// Whether the next poll has something to do.
    fn has_work(&mut self) -> bool {
        self.enter();
        let resumable = |&number: &u32| match &self.peers[number as usize] {
            Some(peer) => peer.inbox.could_resume(&self.recvs, &self.limits),
            None => true,
        };
        self.ring.has_completions()
            || !self.landed.is_empty()
            || !self.closed.is_empty()
            || self.stalled.iter().any(resumable)
    }

    fn place(&mut self, socket: &TcpStream) -> Result<u32, AdoptError> {
        let full = AdoptError::Full { peers_max: self.peers_max };
        let place = self.places.pop().ok_or(full)?;
        if let Err(error) = self.ring.register(place, socket.as_fd()) {
            self.places.push(place);
            return Err(AdoptError::Os { call: "io_uring_register", error });
        }
        Ok(place)
    }
}

impl Transport for Uring {
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
        let full = AdoptError::Full { peers_max: self.peers_max };
        let Ok(number) = u32::try_from(self.peers.len()) else { return Err(full) };
        let os = |call| move |error| AdoptError::Os { call, error };
        socket.set_nodelay(true).map_err(os("setsockopt"))?;
        // On a non-blocking socket the ring would fail an operation instead of waiting.
        socket.set_nonblocking(false).map_err(os("fcntl"))?;
        let Some(inbox) = Assembly::new(&self.recvs) else { return Err(full) };
        let place = self.place(&socket)?;
        let id = PeerId::new(number);
        let mut peer = Box::new(Peer::new(id, socket, place, inbox));
        if let Err(errno) = peer.start_recv(&mut self.ring) {
            let _ = self.ring.unregister(place);
            return Err(AdoptError::Os { call: "io_uring_enter", error: errno.into() });
        }
        self.peers.push(Some(peer));
        Ok(id)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        self.advance_stalled(events);
        self.enter();
        while let Some(completion) = self.landed.pop_front().or_else(|| self.ring.pop()) {
            self.complete(completion, events);
        }
        events.append(&mut self.closed);
    }

    fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        let entry = self.peers.get_mut(peer.index()).and_then(Option::as_deref_mut);
        let entry = entry.filter(|entry| entry.life == Life::Open);
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
        self.land_sends();
        while let Some(number) = self.unflushed.pop() {
            let Some(peer) = self.peers[number as usize].as_deref_mut() else { continue };
            peer.flushing = Flushing::Unlisted;
            peer.outbox.flush();
            if peer.life == Life::Open
                && let Err(errno) = peer.start_send(&mut self.ring)
            {
                self.fail(number, os_fault("io_uring_enter", errno));
            }
        }
        self.enter();
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
            if now >= spin_until && self.limits.spin_ns != u64::MAX {
                if let Err(errno) = self.ring.sleep(deadline - now) {
                    self.fail_all(errno);
                }
                break;
            }
            std::hint::spin_loop();
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

impl Drop for Uring {
    /// Shuts all connections down and waits for the kernel to give their memory back. What it
    /// does not give back within `DRAIN_MAX` is leaked: the kernel may still write there.
    fn drop(&mut self) {
        for peer in self.peers.iter().flatten() {
            let _ = peer.socket.shutdown(Shutdown::Both);
        }
        let mut ignored = Vec::new();
        for number in 0..self.peers.len() as u32 {
            self.fail(number, Fault::ClosedHere);
        }
        let deadline = Instant::now() + DRAIN_MAX;
        while self.peers.iter().any(Option::is_some) && Instant::now() < deadline {
            if self.ring.sleep(DRAIN_STEP).is_err() {
                break;
            }
            while let Some(completion) = self.landed.pop_front().or_else(|| self.ring.pop()) {
                self.complete(completion, &mut ignored);
            }
        }
        let leaked = self.peers.drain(..).flatten().map(Box::leak).count();
        if leaked > 0 {
            tracing::warn!(peers = leaked, "the kernel kept memory of closed connections; leaked");
        }
    }
}
