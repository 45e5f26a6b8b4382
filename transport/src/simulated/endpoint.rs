//! One host's side of the simulated network: the transport that a worker or a shard polls.
//!
//! Owns the peers of one endpoint and their outboxes. What befalls a flushed message is left to
//! `network`.
//!
//! Invariant: an outbox hands its messages to the network in the order in which their slots were
//! acquired, and none before a flush.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wire::Time;

use super::frame::{Account, Buffer, Charge, RecvFrame, SendFrame};
use super::link::End;
use super::network::{Clock, Network, Port, Taken};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Transport, Waker,
};
use crate::slot::{RecvMemory, RecvSlot, SendMemory, SendSlot};
use crate::starved::Starved;

/// An endpoint of a world, as the world numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(usize);

impl EndpointId {
    pub(super) fn new(index: usize) -> EndpointId {
        EndpointId(index)
    }

    /// Its number, from 0 in the order in which the endpoints were made.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The transport of one simulated host. Dropping it closes its connections, as the end of a
/// process does.
pub struct Simulated {
    network: Rc<RefCell<Network>>,
    id: EndpointId,
    clock: Clock,
    limits: Limits,
    /// By `PeerId`; none once its `Closed` was polled.
    peers: Vec<Option<Peer>>,
    /// Numbers of those whose `Closed` was not polled, ascending.
    open: Vec<u32>,
    woken: Arc<AtomicBool>,
    starved: Starved,
    bytes_sent: u64,
}

struct Peer {
    port: Port,
    outbox: Outbox,
    /// What is under way to it: acquired, posted or sent.
    sent: Account,
    /// Whether this side has closed it, and only the event is still to come.
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Here,
}

/// The slots of one peer that the network does not have yet, in the order of acquisition.
#[derive(Default)]
struct Outbox {
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
}

enum Place {
    /// Its slot is out; if the weak one is dead, it was dropped.
    Held(Weak<()>),
    Posted(Buffer, Charge),
}

impl Simulated {
    pub(super) fn new(network: Rc<RefCell<Network>>, limits: Limits) -> Simulated {
        let woken = Arc::new(AtomicBool::new(false));
        let id = network.borrow_mut().add_station(Arc::clone(&woken));
        let clock = network.borrow().clock(id);
        Simulated {
            network,
            id,
            clock,
            limits,
            peers: Vec::new(),
            open: Vec::new(),
            woken,
            starved: Starved::default(),
            bytes_sent: 0,
        }
    }

    /// How the world calls this endpoint.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Takes over an end. Panics: if it is of another world.
    pub(super) fn take_over(&mut self, end: &End) -> PeerId {
        assert_eq!(end.world, Rc::as_ptr(&self.network).addr(), "an end of another world");
        let port = Port { wire: end.wire, side: end.side };
        self.network.borrow_mut().adopt(port, self.id);
        let (outbox, sent) = (Outbox::default(), Account::default());
        self.peers.push(Some(Peer { port, outbox, sent, ended: Ended::No }));
        let number = u32::try_from(self.peers.len() - 1).expect("fewer than 2^32 connections");
        self.open.push(number);
        PeerId::new(number)
    }

    fn open_peer(&mut self, peer: PeerId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(peer.index())?.as_mut()?;
        (peer.ended == Ended::No).then_some(peer)
    }

    /// How many peers have credit again that `acquire` refused. Each is told of once.
    fn take_fed(&mut self) -> usize {
        let Simulated { peers, starved, limits, .. } = self;
        starved.take_fed(|peer, bytes| match &peers[peer as usize] {
            Some(peer) => peer.sent.has_room(bytes, limits.send_bytes_max),
            None => true,
        })
    }

    fn is_ready(&self) -> bool {
        let network = self.network.borrow();
        let mut open = self.open.iter().filter_map(|&at| self.peers[at as usize].as_ref());
        open.any(|peer| network.is_ready(peer.port, &self.limits))
    }
}

impl Transport for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn integrity(&self) -> Integrity {
        Integrity::NeedsChecksum
    }

    fn now(&self) -> Time {
        Time::from_nanos(self.clock.shows_ns(self.network.borrow().now_ns))
    }

    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError> {
        match link {
            Link::Simulated(end) => Ok(self.take_over(&end)),
            Link::Tcp(_) | Link::Shm(_) => Err(AdoptError::WrongKind { transport: self.name() }),
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        let mut network = self.network.borrow_mut();
        let Simulated { peers, open, .. } = self;
        open.retain(|&number| {
            let place = &mut peers[number as usize];
            let Some(port) = place.as_ref().map(|peer| peer.port) else { return false };
            let peer = PeerId::new(number);
            loop {
                match network.take(port, &self.limits) {
                    Taken::Nothing => return true,
                    Taken::Message { buffer, held } => {
                        let bytes = buffer.bytes().len();
                        let memory = RecvMemory::Frame(RecvFrame { buffer, _held: held });
                        let slot = RecvSlot { peer, bytes, memory };
                        events.push(Event::Received { peer, slot });
                    }
                    Taken::Over(fault) => {
                        events.push(Event::Closed { peer, fault });
                        *place = None;
                        return false;
                    }
                }
            }
        });
    }

    fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        let Limits { message_bytes_max, send_bytes_max, .. } = self.limits;
        let known = self.open_peer(peer).ok_or(SendRefusal::NoSuchPeer)?;
        if bytes > message_bytes_max {
            return Err(SendRefusal::TooLarge { bytes, bytes_max: message_bytes_max });
        }
        if !known.sent.has_room(bytes, send_bytes_max) {
            self.starved.note(peer.index() as u32, bytes);
            return Err(SendRefusal::NoCredit);
        }
        let alive = Rc::new(());
        let place = known.outbox.hold(Rc::downgrade(&alive));
        let charge = known.sent.charge(bytes);
        let frame = SendFrame { buffer: Buffer::stale(bytes), charge, place, _alive: alive };
        Ok(SendSlot { peer, bytes, memory: SendMemory::Frame(frame) })
    }

    fn post(&mut self, slot: SendSlot) {
        let SendSlot { peer, bytes, memory: SendMemory::Frame(frame) } = slot else {
            panic!("a slot of another transport")
        };
        self.bytes_sent += bytes as u64;
        if let Some(peer) = self.open_peer(peer) {
            let SendFrame { mut buffer, charge, place, .. } = frame;
            buffer.truncate(bytes);
            peer.outbox.fill(place, buffer, charge);
        }
    }

    fn flush(&mut self) {
        let mut network = self.network.borrow_mut();
        for &number in &self.open {
            let Some(peer) = &mut self.peers[number as usize] else { continue };
            while let Some((buffer, charge)) = peer.outbox.pop_ready() {
                network.send(peer.port, buffer, charge);
            }
        }
    }

    fn release(&mut self, slot: RecvSlot) {
        drop(slot);
    }

    fn park(&mut self, deadline: Time) {
        let woken = self.woken.swap(false, Ordering::Acquire);
        let fed = self.take_fed() > 0;
        let deadline_ns = match deadline {
            _ if woken || fed || self.is_ready() => 0,
            Time::NEVER => u64::MAX,
            _ => self.clock.world_ns(deadline.nanos()),
        };
        self.network.borrow_mut().park(self.id, deadline_ns);
    }

    fn waker(&self) -> Waker {
        let woken = Arc::clone(&self.woken);
        Waker::new(move || woken.store(true, Ordering::Release))
    }

    fn close(&mut self, peer: PeerId) {
        if let Some(known) = self.open_peer(peer) {
            known.ended = Ended::Here;
            known.outbox = Outbox::default();
            let port = known.port;
            self.network.borrow_mut().close(port, Fault::ClosedHere);
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let mut network = self.network.borrow_mut();
        for peer in self.peers.iter().flatten() {
            network.leave(peer.port);
        }
        network.ring_at(self.id, u64::MAX);
    }
}

impl Outbox {
    /// Adds a place for a slot that is out. Returns its number.
    fn hold(&mut self, alive: Weak<()>) -> u64 {
        self.places.push_back(Place::Held(alive));
        self.first + self.places.len() as u64 - 1
    }

    fn fill(&mut self, place: u64, buffer: Buffer, charge: Charge) {
        // A place leaves the front only when it was posted or its slot is gone: this one is here.
        self.places[(place - self.first) as usize] = Place::Posted(buffer, charge);
    }

    /// The next message that no slot still out goes before.
    fn pop_ready(&mut self) -> Option<(Buffer, Charge)> {
        loop {
            match self.places.front()? {
                Place::Held(alive) if alive.strong_count() > 0 => return None,
                Place::Held(_) | Place::Posted(..) => {}
            }
            self.first += 1;
            if let Some(Place::Posted(buffer, charge)) = self.places.pop_front() {
                return Some((buffer, charge));
            }
        }
    }
}
