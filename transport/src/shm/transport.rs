//! The shared-memory back end: many pairs of rings, polled and slept on by one thread.
//!
//! Owns the peers and the order of things: look, tell, sleep. Records are left to `ring`, bells to
//! `bell`.
//!
//! Invariant: a peer is in `live` exactly while its entry of `peers` is there; each peer leaves
//! with one `Closed` event, and its number is not used again.

use std::mem;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use wire::{FRAME_BYTES_MAX, Time};

use super::bell::{Doors, Sleeper};
use super::ring::{Broken, Receiver, Sender, Take};
use super::{End, ShmError};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Transport, Waker,
};
use crate::slot::{RecvMemory, RecvSlot, SendMemory, SendSlot, check_message};

/// Most peers at a time: each poll looks at a cache line or two of every one.
pub const PEERS_MAX: usize = 4096;

/// Most records taken from one peer in one poll, so that no peer keeps the others waiting.
const RECORDS_PER_POLL: usize = 64;

/// How often the ends of processes are looked for while this thread never sleeps, in nanoseconds.
const LIVENESS_NS: u64 = 10_000_000;

/// Polls between two looks at the clock, for the sake of [`LIVENESS_NS`].
const POLLS_PER_CLOCK: u32 = 256;

/// Looks at the rings between two looks at the clock, while `park` spins.
const SPINS_PER_CLOCK: u32 = 16;

/// The transport over rings in shared memory.
#[derive(Debug)]
pub struct Shm {
    limits: Limits,
    start: Instant,
    peers: Vec<Option<Box<Peer>>>,
    live: Vec<PeerId>,
    /// Peers with posts that nobody was woken for yet.
    posted: Vec<PeerId>,
    /// Peers that may wait for what was released; used within `ring_bells` only.
    released: Vec<PeerId>,
    /// Peers found to be over in the midst of a walk over `live`.
    failing: Vec<(PeerId, Fault)>,
    /// Peers that are gone, and whose event is still to be told.
    closed: Vec<(PeerId, Fault)>,
    sleeper: Sleeper,
    polls: u32,
    liveness_seen: Time,
    bytes_sent: u64,
}

/// What is kept of one peer.
#[derive(Debug)]
struct Peer {
    doors: Doors,
    sender: Sender,
    receiver: Receiver,
    process: Option<UnixStream>,
    /// The kernel has said that the peer's process is gone.
    is_hung_up: bool,
    /// Is in `Shm::posted`.
    is_posted: bool,
    /// The last `acquire` found no room, and the peer knows.
    is_starved: bool,
}

impl Shm {
    /// A transport without peers.
    ///
    /// - Errors: the message limit is above the wire's, or the kernel gives no epoll or eventfd.
    pub fn new(limits: Limits) -> Result<Shm, ShmError> {
        if limits.message_bytes_max > FRAME_BYTES_MAX {
            let message_bytes = limits.message_bytes_max;
            return Err(ShmError::MessageBytes {
                message_bytes,
                message_bytes_max: FRAME_BYTES_MAX,
            });
        }
        Ok(Shm {
            limits,
            start: Instant::now(),
            peers: Vec::new(),
            live: Vec::new(),
            posted: Vec::new(),
            released: Vec::new(),
            failing: Vec::new(),
            closed: Vec::new(),
            sleeper: Sleeper::new()?,
            polls: 0,
            liveness_seen: Time::default(),
            bytes_sent: 0,
        })
    }

    fn peer(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.index())?.as_deref_mut()
    }

    /// Ends a connection. Slots over its records keep the memory.
    fn bury(&mut self, id: PeerId, fault: Fault) {
        let Some(peer) = self.peers.get_mut(id.index()).and_then(Option::take) else { return };
        self.sleeper.forget(&peer.doors.bell);
        if let Some(process) = &peer.process {
            self.sleeper.forget(process);
        }
        self.live.retain(|&other| other != id);
        self.posted.retain(|&other| other != id);
        self.closed.push((id, fault));
    }

    fn bury_failing(&mut self) {
        while let Some((id, fault)) = self.failing.pop() {
            self.bury(id, fault);
        }
    }

    /// Wakes the peers that wait for records which were released since the last call, and those
    /// that sleep over records which were posted.
    fn ring_bells(&mut self) {
        for &id in &self.live {
            let Some(peer) = self.peers[id.index()].as_deref_mut() else { continue };
            if peer.receiver.has_released() {
                self.released.push(id);
            }
        }
        if self.released.is_empty() && self.posted.is_empty() {
            return;
        }
        // Before the flags of sleepers are read, what was released and posted is visible to them.
        fence(Ordering::SeqCst);
        for id in self.released.drain(..) {
            let Some(peer) = self.peers[id.index()].as_deref_mut() else { continue };
            if let Err(errno) = peer.doors.ring_if_starved() {
                self.failing.push((id, bell_fault(errno)));
            }
        }
        for id in self.posted.drain(..) {
            let Some(peer) = self.peers[id.index()].as_deref_mut() else { continue };
            peer.is_posted = false;
            if let Err(errno) = peer.doors.ring_if_asleep() {
                self.failing.push((id, bell_fault(errno)));
            }
        }
        self.bury_failing();
    }

    fn see_hang_ups(&mut self) {
        for &index in self.sleeper.hang_ups() {
            if let Some(Some(peer)) = self.peers.get_mut(index) {
                peer.is_hung_up = true;
            }
        }
    }

    /// Looks for ended processes, if the last look is `LIVENESS_NS` ago.
    fn see_hang_ups_at(&mut self, now: Time) {
        if now - self.liveness_seen >= Duration::from_nanos(LIVENESS_NS) {
            self.liveness_seen = now;
            self.see_hang_ups();
        }
    }

    /// Whether a poll would find something, a refused `acquire` may succeed, or a waker woke.
    fn has_news(&mut self) -> bool {
        let mut peers = self.live.iter().copied();
        !self.closed.is_empty()
            || self.sleeper.is_woken()
            || peers.any(|id| self.peers[id.index()].as_deref_mut().is_some_and(Peer::has_news))
    }

    /// Spins until there is news, which is true, or until `until` has come.
    fn spin(&mut self, until: Time) -> bool {
        loop {
            for _ in 0..SPINS_PER_CLOCK {
                if self.has_news() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = self.now();
            self.see_hang_ups_at(now);
            if now >= until {
                return false;
            }
        }
    }

    /// Sleeps until a bell rings or `deadline` has come, unless there is news already.
    fn sleep(&mut self, deadline: Time) {
        self.each_door(Doors::fall_asleep);
        self.sleeper.fall_asleep();
        // Between the flags and the look: see the invariant of `bell`.
        fence(Ordering::SeqCst);
        if !self.has_news() {
            self.sleeper.sleep(deadline - self.now());
        }
        self.sleeper.wake_up();
        self.each_door(Doors::wake_up);
        self.see_hang_ups();
    }

    fn each_door(&self, act: impl Fn(&Doors)) {
        for id in &self.live {
            if let Some(peer) = &self.peers[id.index()] {
                act(&peer.doors);
            }
        }
    }
}

impl Transport for Shm {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn integrity(&self) -> Integrity {
        Integrity::Memory
    }

    fn now(&self) -> Time {
        Time::default() + self.start.elapsed()
    }

    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError> {
        let Link::Shm(End { doors, process }) = link else {
            return Err(AdoptError::WrongKind { transport: self.name() });
        };
        let number = u32::try_from(self.peers.len()).ok();
        let (Some(number), true) = (number, self.live.len() < PEERS_MAX) else {
            return Err(AdoptError::Full { peers_max: PEERS_MAX });
        };
        let id = PeerId::new(number);
        let no_watch = |errno: Errno| AdoptError::Os { call: "epoll_ctl", error: errno.into() };
        self.sleeper.watch_bell(id.index(), &doors.bell).map_err(no_watch)?;
        if let Some(process) = &process
            && let Err(errno) = self.sleeper.watch_process(id.index(), process)
        {
            self.sleeper.forget(&doors.bell);
            return Err(no_watch(errno));
        }
        let sender = Sender::new(&doors.shared, doors.side, self.limits.send_bytes_max);
        let receiver = Receiver::new(&doors.shared, doors.side.other(), self.limits.recv_bytes_max);
        let (is_hung_up, is_posted, is_starved) = (false, false, false);
        let peer = Peer { doors, sender, receiver, process, is_hung_up, is_posted, is_starved };
        self.peers.push(Some(Box::new(peer)));
        self.live.push(id);
        Ok(id)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS_PER_CLOCK) {
            self.see_hang_ups_at(self.now());
        }
        for &id in &self.live {
            let Some(peer) = self.peers[id.index()].as_deref_mut() else { continue };
            if let Err(fault) = peer.drain(id, self.limits.message_bytes_max, events) {
                self.failing.push((id, fault));
            }
        }
        self.bury_failing();
        self.ring_bells();
        let closed = self.closed.drain(..);
        events.extend(closed.map(|(peer, fault)| Event::Closed { peer, fault }));
    }

    fn acquire(&mut self, id: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        let limit_bytes = self.limits.message_bytes_max;
        let peer = self.peer(id).ok_or(SendRefusal::NoSuchPeer)?;
        let bytes_max = limit_bytes.min(peer.sender.message_bytes_max());
        if bytes > bytes_max {
            return Err(SendRefusal::TooLarge { bytes, bytes_max });
        }
        match peer.acquire(bytes) {
            Ok(memory) => Ok(SendSlot { peer: id, bytes, memory: memory? }),
            Err(Broken(what)) => {
                self.bury(id, Fault::RingBroken { what });
                Err(SendRefusal::NoSuchPeer)
            }
        }
    }

    /// Panics: if the slot is another back end's.
    fn post(&mut self, slot: SendSlot) {
        let SendSlot { peer: id, bytes, memory } = slot;
        let SendMemory::Ring(mut record) = memory else {
            panic!("a slot of another back end was posted to shm");
        };
        let Some(peer) = self.peer(id) else { return };
        let bytes = message_bytes(&record.bytes_mut()[..bytes]);
        record.post(bytes);
        if !mem::replace(&mut peer.is_posted, true) {
            self.posted.push(id);
        }
        self.bytes_sent += bytes as u64;
    }

    fn flush(&mut self) {
        self.ring_bells();
    }

    fn release(&mut self, slot: RecvSlot) {
        drop(slot); // `ring_bells` finds it.
    }

    fn park(&mut self, deadline: Time) {
        self.ring_bells();
        let spin_until = match self.limits.spin_ns {
            u64::MAX => deadline,
            spin_ns => deadline.min(self.now() + Duration::from_nanos(spin_ns)),
        };
        if !self.spin(spin_until) && spin_until < deadline {
            self.sleep(deadline);
        }
        self.sleeper.clear_woken();
    }

    fn waker(&self) -> Waker {
        self.sleeper.waker()
    }

    fn close(&mut self, peer: PeerId) {
        self.bury(peer, Fault::ClosedHere);
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

impl Peer {
    /// Takes what was posted, up to `RECORDS_PER_POLL` records.
    ///
    /// - Errors: why the connection is over, after everything posted before was taken.
    fn drain(
        &mut self,
        id: PeerId,
        message_bytes_max: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        // Asked first: what the peer posted before it left is in the ring by now.
        let is_over = self.is_over();
        for _ in 0..RECORDS_PER_POLL {
            let taken = self.receiver.take();
            match taken.map_err(|Broken(what)| Fault::RingBroken { what })? {
                Take::Message(record) => {
                    check_message(record.bytes(), message_bytes_max).map_err(Fault::Malformed)?;
                    let bytes = record.bytes().len();
                    let slot = RecvSlot { peer: id, bytes, memory: RecvMemory::Ring(record) };
                    events.push(Event::Received { peer: id, slot });
                }
                Take::Passed => {}
                Take::Empty if is_over => return Err(Fault::PeerClosed),
                Take::Empty | Take::Held => break,
            }
        }
        Ok(())
    }

    fn acquire(&mut self, bytes: usize) -> Result<Result<SendMemory, SendRefusal>, Broken> {
        let record = self.sender.acquire(bytes)?;
        match (&record, self.is_starved) {
            (Some(_), true) => self.doors.have_space(),
            (None, false) => self.doors.want_space(),
            _ => {}
        }
        self.is_starved = record.is_none();
        Ok(record.map(SendMemory::Ring).ok_or(SendRefusal::NoCredit))
    }

    fn is_over(&self) -> bool {
        self.is_hung_up || self.doors.is_closed_by_peer()
    }

    fn has_news(&mut self) -> bool {
        self.receiver.may_take()
            || self.has_space_again()
            || (self.is_over() && !self.receiver.is_held())
    }

    /// Whether a refused `acquire` may succeed now. True once for each refusal, so that a caller
    /// who has given up can sleep again.
    fn has_space_again(&mut self) -> bool {
        if !self.is_starved || !self.sender.may_reclaim() {
            return false;
        }
        self.is_starved = false;
        self.doors.have_space();
        true
    }
}

/// How much of a slot is its message: what its header says, if it says less than all.
fn message_bytes(bytes: &[u8]) -> usize {
    let framed = bytes.first_chunk().map(wire::framed_bytes);
    match framed {
        Some(Ok(framed)) => framed.min(bytes.len()),
        _ => bytes.len(), // The receiver refuses it, with the reason.
    }
}

fn bell_fault(errno: Errno) -> Fault {
    Fault::Os { call: "write to a bell", errno: errno.raw_os_error() }
}

#[cfg(test)]
mod tests;
