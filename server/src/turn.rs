//! The data path on one screen: poll, handle, answer, flush.
//!
//! Owns one turn of a core's loop, and the messages that cannot be answered yet. What a message
//! does is left to `shard`.
//!
//! Invariant: the messages of one peer are handled in the order they came, except pulls that wait
//! for a clock: those step aside, so that the push they wait for can pass. What waits is bounded
//! by what the transport lets each peer send.

use std::collections::VecDeque;

use shard::{Outbox, Outcome, Shard};
use transport::{AdoptError, Event, Integrity, Link, PeerId, RecvSlot, SendSlot, Transport, Waker};
use wire::{HEADER_BYTES, Incarnation, Seal, Time, WorkerId};

/// Who is at the other end of a connection, by its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The worker, or [`WorkerId::OBSERVER`].
    pub worker: WorkerId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The longest message it takes, in bytes.
    pub message_bytes_max: usize,
}

/// What the end of a worker's connection means for its job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClosed {
    /// The worker is lost, which ends the job: the others are told by name.
    #[default]
    LoseWorker,
    /// The worker may come back over another connection and go on where it was. Its place is kept
    /// meanwhile, however long, and the others wait for its clock as before.
    AwaitReconnect,
}

/// One core: a transport and a shard. A thread turns it; a simulation turns many.
pub struct Core {
    transport: Box<dyn Transport>,
    shard: Shard,
    on_closed: OnClosed,
    /// By peer; none where the connection is over.
    peers: Vec<Option<Who>>,
    /// Pulls ahead of the slowest worker, in the order they came.
    waiting: Vec<RecvSlot>,
    /// Messages whose answer had no room, and those behind them, in order.
    blocked: VecDeque<RecvSlot>,
    events: Vec<Event>,
    aside: Vec<RecvSlot>,
}

impl Core {
    /// A core without peers, which loses a worker with its connection.
    pub fn new(transport: Box<dyn Transport>, shard: Shard) -> Core {
        Core::with_on_closed(transport, shard, OnClosed::default())
    }

    /// A core without peers.
    pub fn with_on_closed(
        transport: Box<dyn Transport>,
        shard: Shard,
        on_closed: OnClosed,
    ) -> Core {
        Core {
            transport,
            shard,
            on_closed,
            peers: Vec::new(),
            waiting: Vec::new(),
            blocked: VecDeque::new(),
            events: Vec::new(),
            aside: Vec::new(),
        }
    }

    /// Takes over a connection whose handshake is over.
    pub fn adopt(&mut self, link: Link, who: Who) -> Result<PeerId, AdoptError> {
        let peer = self.transport.adopt(link)?;
        if self.peers.len() <= peer.index() {
            self.peers.resize(peer.index() + 1, None);
        }
        self.peers[peer.index()] = Some(who);
        Ok(peer)
    }

    /// One pass: whatever has come is handled, answers are sent. Whether anything had come.
    pub fn turn(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        self.transport.poll(&mut events);
        let busy = !events.is_empty();
        self.unblock();
        for event in events.drain(..) {
            match event {
                Event::Received { slot, .. } => self.receive(slot),
                Event::Closed { peer, fault } => {
                    tracing::debug!(peer = peer.index(), %fault, "connection over");
                    self.forget(peer);
                }
            }
        }
        while self.shard.take_progress() {
            self.wake_waiting();
        }
        self.transport.flush();
        self.events = events;
        busy
    }

    /// Sleeps until there may be something to do, `deadline` at the latest.
    pub fn park(&mut self, deadline: Time) {
        self.transport.park(deadline);
    }

    /// The transport's clock.
    pub fn now(&self) -> Time {
        self.transport.now()
    }

    /// Ends a [`Core::park`] from another thread.
    pub fn waker(&self) -> Waker {
        self.transport.waker()
    }

    /// The shard.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// A message has come: it is handled now, unless one before it is blocked.
    fn receive(&mut self, slot: RecvSlot) {
        if !self.blocked.is_empty() && self.blocked.iter().any(|one| one.peer() == slot.peer()) {
            self.blocked.push_back(slot);
        } else {
            self.handle(slot);
        }
    }

    /// Handles one message. Whether there was room for its answer.
    fn handle(&mut self, slot: RecvSlot) -> bool {
        let Some(Some(who)) = self.peers.get(slot.peer().index()) else {
            self.transport.release(slot);
            return true;
        };
        let mut reply = Reply {
            transport: &mut *self.transport,
            peer: slot.peer(),
            bytes_max: who.message_bytes_max,
        };
        match self.shard.handle(slot.bytes(), &mut reply) {
            Outcome::Answered => self.transport.release(slot),
            Outcome::Waiting => self.wait(slot),
            Outcome::NoSlot => {
                self.blocked.push_back(slot);
                return false;
            }
            Outcome::Malformed(malformed) => {
                let peer = slot.peer();
                tracing::warn!(peer = peer.index(), %malformed, "a message is dropped");
                self.transport.release(slot);
                // Over a network that checks nothing itself, a changed message is sent again.
                if self.transport.integrity() == Integrity::Memory {
                    self.transport.close(peer);
                }
            }
        }
        true
    }

    /// Keeps a pull until the clock advances, unless it is a copy of one that waits already: the
    /// room that copies took would be missing for the push that the pull waits for.
    fn wait(&mut self, slot: RecvSlot) {
        let head = &slot.bytes()[..HEADER_BYTES];
        let is_copy =
            |one: &RecvSlot| one.peer() == slot.peer() && one.bytes()[..HEADER_BYTES] == *head;
        if self.waiting.iter().any(is_copy) {
            self.transport.release(slot);
        } else {
            self.waiting.push(slot);
        }
    }

    /// Tries what had no room, in order; a peer that still has none keeps the rest of its own.
    fn unblock(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(slot) = self.blocked.pop_front() else { return };
            // What is in front and blocked again went to the back: it stands among the last.
            let behind = self.aside.iter().any(|one| one.peer() == slot.peer());
            if behind {
                self.aside.push(slot);
            } else {
                let before = self.blocked.len();
                if !self.handle(slot) {
                    let again = self.blocked.remove(before).expect("handle pushed it back");
                    self.aside.push(again);
                }
            }
        }
        self.blocked.extend(self.aside.drain(..));
    }

    /// The clock has advanced: pulls that waited are tried again.
    fn wake_waiting(&mut self) {
        std::mem::swap(&mut self.waiting, &mut self.aside);
        let mut tried = std::mem::take(&mut self.aside);
        for slot in tried.drain(..) {
            self.receive(slot);
        }
        self.aside = tried; // Keeps the room it has.
    }

    /// A connection is over: its messages go, and its worker is missed or waited for.
    fn forget(&mut self, peer: PeerId) {
        let Some(who) = self.peers.get_mut(peer.index()).and_then(Option::take) else { return };
        if self.on_closed == OnClosed::LoseWorker {
            self.shard.worker_lost(who.worker, who.incarnation);
        }
        let transport = &mut self.transport;
        let gone = |slot: &RecvSlot| slot.peer() == peer;
        for slot in self.waiting.extract_if(.., |slot| gone(slot)) {
            transport.release(slot);
        }
        for _ in 0..self.blocked.len() {
            match self.blocked.pop_front() {
                Some(slot) if gone(&slot) => transport.release(slot),
                Some(slot) => self.blocked.push_back(slot),
                None => break,
            }
        }
    }
}

/// The way back to one peer.
struct Reply<'a> {
    transport: &'a mut dyn Transport,
    peer: PeerId,
    bytes_max: usize,
}

impl Outbox for Reply<'_> {
    type Slot = SendSlot;

    fn bytes_max(&self) -> usize {
        self.bytes_max.min(self.transport.limits().message_bytes_max).max(HEADER_BYTES)
    }

    fn seal(&self) -> Seal {
        match self.transport.integrity() {
            Integrity::NeedsChecksum => Seal::Body,
            Integrity::Memory => Seal::HeaderOnly,
        }
    }

    fn acquire(&mut self, bytes: usize) -> Option<SendSlot> {
        self.transport.acquire(self.peer, bytes).ok()
    }

    fn bytes_mut(slot: &mut SendSlot) -> &mut [u8] {
        slot.bytes_mut()
    }

    fn post(&mut self, slot: SendSlot) {
        self.transport.post(slot);
    }
}
