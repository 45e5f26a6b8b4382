//! TCP by io_uring: a receive and a send under way for each peer, all on one ring.
//!
//! Owns the ring. Framing is left to `stream`, what is kept of all peers to `desk`.
//!
//! A ring saves system calls where there is much to do; where one short message answers another, it
//! adds a third to the round trip. So a few peers that have just been heard are asked by a plain
//! call, and a lone short message leaves by one. Long messages, many peers and sleep are its own.
//!
//! Invariant: memory that the kernel was given outlives its operation: a closed peer stays until
//! its last completion has come, and one whose completion does not come is leaked.

mod peer;
mod ring;

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use wire::Time;

use self::peer::{Life, Peer};
use self::ring::{Completion, Op, Ring, Stage, Tag};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Transport, Waker,
};
use crate::desk::{Beneath, Desk, Lanes, Rung, prepare};
use crate::slot::{RecvMemory, RecvSlot, SendSlot};
use crate::stream::{Assembly, Step};
use crate::tcp::{OpenError, os_fault};
use crate::wake::{Wake, Woken};

/// The back end's name.
const NAME: &str = "uring";
/// Connections at a time; each costs a place in the ring's tables, some kilobytes here and a file.
const PEERS_MAX: u32 = 4096;
/// Peers that are served by plain calls at a time; each costs a system call in every poll.
const HOT_MAX: usize = 4;
/// Calls in a row that may find nothing before a peer is left to the ring: some 20 us of spinning.
const HOT_MISSES_MAX: u32 = 64;
/// Looks for news between two looks at the clock, while `park` spins.
const SPINS_PER_CLOCK: u32 = 16;
/// How long a drop waits for the kernel to give memory back, before it is leaked.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long one wait of a drop lasts at most.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// TCP by io_uring.
pub(crate) struct Uring {
    // Before the ring: a peer that is dropped here has nothing in the kernel.
    desk: Desk<Peer>,
    peers_max: usize,
    /// Free places in the ring's table of sockets.
    places: Vec<u32>,
    ring: Ring,
    wake: Wake,
    /// What the transport above watches, which keeps it open.
    watched: Option<RawFd>,
    /// Peers whose next bytes are asked for by a call of this thread, and not by the ring.
    hot: Vec<Hot>,
    /// Completions that a flush has found, for the next poll.
    landed: VecDeque<Completion>,
}

/// A peer that has just sent something short: more is likely to come at once.
#[derive(Clone, Copy, Debug)]
struct Hot {
    peer: u32,
    /// Calls in a row that found nothing.
    misses: u32,
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
            desk: Desk::new(limits)?,
            peers_max: peers_max as usize,
            places: (0..peers_max).rev().collect(),
            ring,
            wake: Wake::new().map_err(|errno| os("eventfd")(errno.into()))?,
            watched: None,
            hot: Vec::with_capacity(HOT_MAX),
            landed: VecDeque::new(),
        };
        let armed = uring.arm_waker().and_then(|()| uring.ring.enter());
        armed.map_err(|errno| os("io_uring_enter")(errno.into()))?;
        Ok(uring)
    }

    /// Asks to be told whenever the eventfd becomes readable.
    fn arm_waker(&mut self) -> Result<(), Errno> {
        self.arm(self.wake.fd().as_raw_fd(), Op::Wake)
    }

    /// The same of what the transport above watches.
    fn arm_watched(&mut self) -> Result<(), Errno> {
        self.watched.map_or(Ok(()), |fd| self.arm(fd, Op::Watched))
    }

    fn arm(&mut self, fd: RawFd, op: Op) -> Result<(), Errno> {
        let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(true).build();
        // SAFETY: a poll names no memory.
        unsafe { self.ring.push(entry, Tag { op, peer: 0 }) }
    }

    fn complete(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Completion { tag, result, stage, .. } = completion;
        match tag.op {
            Op::Recv => self.received(completion, events),
            Op::Send => self.sent(tag.peer, result),
            Op::Wake => {
                self.wake.clear();
                self.desk.woken = Woken::Yes;
                if stage == Stage::Last
                    && let Err(errno) = self.arm_waker()
                {
                    self.fail_all(errno);
                }
            }
            Op::Watched => {
                self.desk.rung = Rung::Yes;
                if stage == Stage::Last
                    && let Err(errno) = self.arm_watched()
                {
                    self.fail_all(errno);
                }
            }
        }
    }

    fn received(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Completion { tag: Tag { peer: number, .. }, result, socket, .. } = completion;
        let peer = self.desk.peers[number as usize].as_deref_mut();
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
        let peer = self.desk.peers[number as usize].as_deref_mut();
        let peer = peer.expect("a peer stays until its last completion");
        peer.send_landed(result.unwrap_or(0));
        if peer.life == Life::Closed {
            return self.retire(number);
        }
        self.go_on_sending(number, result.map(drop));
    }

    /// Sends what is ready of a peer, after its last send ended so.
    fn go_on_sending(&mut self, number: u32, last: Result<(), Errno>) {
        let Some(peer) = self.desk.open_peer(PeerId::new(number)) else { return };
        match last {
            Ok(()) | Err(Errno::INTR | Errno::AGAIN) => {
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
                Op::Recv | Op::Wake | Op::Watched => self.landed.push_back(completion),
            }
        }
    }

    /// Gives out the whole messages of a peer and receives on, if it may.
    fn advance(&mut self, number: u32, events: &mut Vec<Event>) {
        let id = PeerId::new(number);
        let fault = loop {
            let Some(peer) = self.desk.peers[number as usize].as_deref_mut() else { return };
            match peer.inbox.next(&self.desk.recvs, &self.desk.limits) {
                Ok(Step::Message { slot, bytes }) => {
                    let memory = RecvMemory::Pool(slot);
                    let slot = RecvSlot { peer: id, bytes, memory };
                    if !self.desk.declines(id, slot.bytes()) {
                        events.push(Event::Received { peer: id, slot });
                    }
                }
                Ok(Step::Stalled) => return self.desk.stalled.push_back(number),
                Ok(Step::Starved) if peer.is_between_messages() && self.hot.len() < HOT_MAX => {
                    return self.hot.push(Hot { peer: number, misses: 0 });
                }
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
        for _ in 0..self.desk.stalled.len() {
            let Some(number) = self.desk.stalled.pop_front() else { return };
            if self.desk.open_peer(PeerId::new(number)).is_some() {
                self.advance(number, events);
            }
        }
    }

    /// Ends an open peer. Its operations end soon, since the socket is shut down.
    fn fail(&mut self, number: u32, fault: Fault) {
        let Some(peer) = self.desk.open_peer(PeerId::new(number)) else { return };
        peer.life = Life::Closed;
        let _ = peer.socket.shutdown(Shutdown::Both); // It fails when the peer has reset it.
        let peer = peer.id;
        self.desk.closed.push(Event::Closed { peer, fault });
        self.retire(number);
    }

    /// Ends all: the ring itself does not work any more.
    fn fail_all(&mut self, errno: Errno) {
        for number in 0..self.desk.peers.len() as u32 {
            self.fail(number, os_fault("io_uring_enter", errno));
        }
    }

    /// Forgets a closed peer, once the kernel has none of its memory.
    fn retire(&mut self, number: u32) {
        let retired = self.desk.peers[number as usize].take_if(|peer| !peer.in_kernel());
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

    /// Asks the sockets of hot peers. What came is for `advance_stalled` to take up; a peer that
    /// has been silent for a while is left to the ring.
    fn try_hot(&mut self) {
        for at in (0..self.hot.len()).rev() {
            let number = self.hot[at].peer;
            let received = self.desk.open_peer(PeerId::new(number)).map(Peer::try_recv);
            if matches!(received, Some(Err(Errno::AGAIN | Errno::INTR))) {
                self.hot[at].misses += 1;
                if self.hot[at].misses == HOT_MISSES_MAX {
                    self.hot.swap_remove(at);
                    self.hand_to_ring(number);
                }
                continue;
            }
            self.hot.swap_remove(at);
            match received {
                Some(Ok(bytes)) if bytes > 0 => self.desk.stalled.push_back(number),
                Some(Ok(_) | Err(Errno::CONNRESET | Errno::PIPE)) => {
                    self.fail(number, Fault::PeerClosed);
                }
                Some(Err(errno)) => self.fail(number, os_fault("recv", errno)),
                None => {} // Closed meanwhile.
            }
        }
    }

    /// Leaves all receives to the ring, which alone can wake this thread.
    fn cool(&mut self) {
        while let Some(Hot { peer, .. }) = self.hot.pop() {
            self.hand_to_ring(peer);
        }
    }

    fn hand_to_ring(&mut self, number: u32) {
        if let Some(peer) = self.desk.open_peer(PeerId::new(number))
            && let Err(errno) = peer.start_recv(&mut self.ring)
        {
            self.fail(number, os_fault("io_uring_enter", errno));
        }
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
            if self.now() >= until {
                return false;
            }
        }
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

impl Beneath for Uring {
    fn give_out_lane_messages(&mut self) {
        self.desk.lanes = Lanes::GivenOut;
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.watched = Some(fd.as_raw_fd());
        self.arm_watched()?;
        self.ring.enter()
    }

    fn take_rung(&mut self) -> Rung {
        std::mem::replace(&mut self.desk.rung, Rung::No)
    }

    fn has_news(&mut self) -> bool {
        self.enter();
        self.try_hot();
        self.desk.woken == Woken::Yes
            || self.ring.has_completions()
            || !self.landed.is_empty()
            || self.desk.has_work()
            || self.desk.has_fed()
    }

    fn sleep(&mut self, deadline: Time) {
        self.cool();
        let now = self.now();
        if now >= deadline {
            return;
        }
        // What a hot peer sent since it was asked last completes its receive at once.
        if let Err(errno) = self.ring.sleep(deadline - now) {
            self.fail_all(errno);
        }
    }

    fn forget_wakers(&mut self) {
        self.desk.woken = Woken::No;
    }
}

impl Transport for Uring {
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
        let full = AdoptError::Full { peers_max: self.peers_max };
        let Ok(number) = u32::try_from(self.desk.peers.len()) else { return Err(full) };
        let os = |call| move |error| AdoptError::Os { call, error };
        prepare(&socket)?;
        // On a non-blocking socket the ring would fail an operation instead of waiting.
        socket.set_nonblocking(false).map_err(os("fcntl"))?;
        let Some(inbox) = Assembly::new(&self.desk.recvs) else { return Err(full) };
        let place = self.place(&socket)?;
        let id = PeerId::new(number);
        let mut peer = Box::new(Peer::new(id, socket, place, inbox));
        if let Err(errno) = peer.start_recv(&mut self.ring) {
            let _ = self.ring.unregister(place);
            return Err(AdoptError::Os { call: "io_uring_enter", error: errno.into() });
        }
        self.desk.peers.push(Some(peer));
        Ok(id)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        self.try_hot();
        self.advance_stalled(events);
        self.enter();
        while let Some(completion) = self.landed.pop_front().or_else(|| self.ring.pop()) {
            self.complete(completion, events);
        }
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
        let unflushed = self.desk.count_unflushed();
        self.land_sends();
        while let Some(number) = self.desk.next_flushed() {
            let Some(peer) = self.desk.open_peer(PeerId::new(number)) else { continue };
            let sent = if unflushed <= HOT_MAX { peer.try_send() } else { Ok(()) };
            self.go_on_sending(number, sent);
        }
        self.enter();
    }

    fn release(&mut self, slot: RecvSlot) {
        drop(slot); // It finds its way back, and the next poll goes on with a stalled peer.
    }

    fn park(&mut self, deadline: Time) {
        let spin_until = match self.desk.limits.spin_ns {
            u64::MAX => deadline,
            spin_ns => deadline.min(self.now() + Duration::from_nanos(spin_ns)),
        };
        if !self.spin(spin_until) && spin_until < deadline {
            self.sleep(deadline);
        }
        self.forget_wakers();
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

impl Drop for Uring {
    /// Shuts all connections down and waits for the kernel to give their memory back. What it
    /// does not give back within `DRAIN_MAX` is leaked: the kernel may still write there.
    fn drop(&mut self) {
        for peer in self.desk.peers.iter().flatten() {
            let _ = peer.socket.shutdown(Shutdown::Both);
        }
        (0..self.desk.peers.len() as u32).for_each(|number| self.fail(number, Fault::ClosedHere));
        let (mut ignored, deadline) = (Vec::new(), Instant::now() + DRAIN_MAX);
        while self.desk.peers.iter().any(Option::is_some) && Instant::now() < deadline {
            if self.ring.sleep(DRAIN_STEP).is_err() {
                break;
            }
            while let Some(completion) = self.landed.pop_front().or_else(|| self.ring.pop()) {
                self.complete(completion, &mut ignored);
            }
        }
        let leaked = self.desk.peers.drain(..).flatten().map(Box::leak).count();
        if leaked > 0 {
            tracing::warn!(peers = leaked, "the kernel kept memory of closed connections; leaked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Uring;

    impl Uring {
        /// Has the next polls look for late messages.
        pub(crate) fn let_look(&mut self) {
            self.desk.let_look();
        }
    }
}
