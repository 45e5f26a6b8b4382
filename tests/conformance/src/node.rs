//! Nodes: a transport with what its polls have found, as the laws look at it.
//!
//! Owns the turn (flush, poll, a short park) and the deadline of every wait.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use transport::{Event, Fault, Limits, PeerId, RecvSlot, SendRefusal, Transport};
use wire::Time;

use crate::message;
use crate::rig::Rig;

/// How long a law waits for what must happen, before it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The limits of most laws: small, so that they are met.
pub const LIMITS: Limits = Limits {
    message_bytes_max: 64 << 10,
    send_bytes_max: 256 << 10,
    recv_bytes_max: 256 << 10,
    spin_ns: 0,
};

/// How long a node parks when it has nothing to do and another of its thread may have.
const REST: Duration = Duration::from_micros(20);

/// Turns after which what could have happened has: for laws of what must not happen.
const TURNS_ENOUGH: usize = 200;

/// A transport and what it has polled so far.
pub struct Node {
    /// The transport.
    pub transport: Box<dyn Transport>,
    /// Received and not released, oldest first.
    pub received: VecDeque<(PeerId, RecvSlot)>,
    /// Connections that ended.
    pub closed: Vec<(PeerId, Fault)>,
    events: Vec<Event>,
}

impl Node {
    /// A node of this transport.
    pub fn new(transport: Box<dyn Transport>) -> Node {
        let (received, closed, events) = (VecDeque::new(), Vec::new(), Vec::new());
        Node { transport, received, closed, events }
    }

    /// Flushes and polls once.
    pub fn turn(&mut self) {
        self.transport.flush();
        self.transport.poll(&mut self.events);
        for event in self.events.drain(..) {
            match event {
                Event::Received { peer, slot } => {
                    assert_eq!(slot.peer(), peer);
                    self.received.push_back((peer, slot));
                }
                Event::Closed { peer, fault } => self.closed.push((peer, fault)),
            }
        }
    }

    /// Parks for a moment.
    pub fn rest(&mut self) {
        self.transport.park(self.after(REST));
    }

    /// The moment so long from now, by the transport's clock.
    pub fn after(&self, wait: Duration) -> Time {
        self.transport.now() + wait
    }

    /// Posts the message of this number and length, if there is a slot.
    pub fn send(&mut self, peer: PeerId, number: u64, bytes: usize) -> Result<(), SendRefusal> {
        let mut slot = self.transport.acquire(peer, bytes)?;
        message::fill(slot.bytes_mut(), number);
        self.transport.post(slot);
        Ok(())
    }

    /// Takes the oldest received message, checks every byte of it and releases it. Returns its
    /// sender and its number.
    pub fn next_number(&mut self) -> Option<(PeerId, u64)> {
        let (peer, slot) = self.received.pop_front()?;
        let number = message::number_of(slot.bytes());
        self.transport.release(slot);
        Some((peer, number))
    }

    /// Gives all received messages back, unread.
    pub fn release_all(&mut self) {
        for (_, slot) in self.received.drain(..) {
            self.transport.release(slot);
        }
    }
}

/// Two nodes of one rig, joined. `peers[0]` is how `nodes[0]` calls `nodes[1]`.
pub fn joined(rig: &dyn Rig, limits: Limits) -> ([Node; 2], [PeerId; 2]) {
    let mut nodes = [Node::new(rig.open(limits)), Node::new(rig.open(limits))];
    let [one, other] = &mut nodes;
    let peers = rig.join(&mut *one.transport, &mut *other.transport);
    (nodes, peers)
}

/// A hub joined to two nodes. Returns the hub first, then each of its joints: how the hub calls
/// the node and how the node calls the hub.
pub fn star(rig: &dyn Rig, limits: Limits) -> ([Node; 3], [[PeerId; 2]; 2]) {
    let mut nodes = [(); 3].map(|()| Node::new(rig.open(limits)));
    let [hub, one, other] = &mut nodes;
    let joints = [one, other].map(|node| rig.join(&mut *hub.transport, &mut *node.transport));
    (nodes, joints)
}

/// Turns all nodes until `reached` finds what it looks for.
///
/// Panics: after [`PATIENCE`], naming the `goal`.
pub fn until<const N: usize, T>(
    nodes: &mut [Node; N],
    goal: &str,
    mut reached: impl FnMut(&mut [Node; N]) -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        for node in nodes.iter_mut() {
            node.turn();
        }
        if let Some(found) = reached(nodes) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "no {goal} after {PATIENCE:?}");
        for node in nodes.iter_mut() {
            node.rest();
        }
    }
}

/// Turns all nodes until this one has the message of this number next, and takes it.
pub fn expect_number<const N: usize>(nodes: &mut [Node; N], node: usize, number: u64) {
    let got = until(nodes, "message", |nodes| nodes[node].next_number());
    assert_eq!(got.1, number, "the number of the next message");
}

/// Turns all nodes until this one has seen a connection end. Returns its end.
pub fn expect_closed<const N: usize>(nodes: &mut [Node; N], node: usize) -> (PeerId, Fault) {
    until(nodes, "closed event", |nodes| nodes[node].closed.pop())
}

/// Turns all nodes for so long that whatever could come has.
pub fn settle<const N: usize>(nodes: &mut [Node; N]) {
    for _ in 0..TURNS_ENOUGH {
        for node in nodes.iter_mut() {
            node.turn();
            node.rest();
        }
    }
}
