//! The one interface of every back end: polled by one thread, never blocking but in `park`.
//!
//! Owns the trait and its vocabulary. How bytes move is left to the back ends, what they mean to
//! `wire`.
//!
//! Invariant: no method but [`Transport::park`] waits, and that one has a deadline.

use std::fmt;
use std::net::TcpStream;
use std::sync::Arc;

use wire::Time;

use crate::shm;
use crate::simulated;
use crate::slot::{RecvSlot, SendSlot};

/// One end of a connection, as the transport that holds it numbers it. Never used again after its
/// `Closed` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u32);

impl PeerId {
    /// The peer of this number.
    pub const fn new(number: u32) -> PeerId {
        PeerId(number)
    }

    /// Its number, as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a poll found.
#[derive(Debug)]
pub enum Event {
    /// A whole message lies in the slot. The receiver reads it and gives the slot back by
    /// [`Transport::release`].
    Received {
        /// Who sent it.
        peer: PeerId,
        /// Where it lies.
        slot: RecvSlot,
    },
    /// The connection is over; nothing more comes from this peer, and nothing reaches it.
    Closed {
        /// Who it was.
        peer: PeerId,
        /// Why.
        fault: Fault,
    },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer closed it, or its process ended.
    PeerClosed,
    /// This side closed it.
    ClosedHere,
    /// The peer sent what is no message: the first bytes of its header are wrong, or the length
    /// is over `Limits::message_bytes_max`.
    Malformed(wire::Malformed),
    /// The peer began a message and did not end it in time.
    MessageLate,
    /// The peer broke the rules of the shared ring.
    RingBroken {
        /// What was found.
        what: &'static str,
    },
    /// The operating system failed the link, with this error number.
    Os {
        /// What was tried.
        call: &'static str,
        /// `errno`.
        errno: i32,
    },
}

/// Why no send slot is given. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendRefusal {
    /// Too many bytes are under way to this peer already. Flush, poll, and try again; `park`
    /// returns when that may succeed.
    NoCredit,
    /// Longer than `bytes_max`, the limit of this transport.
    TooLarge {
        /// What was asked.
        bytes: usize,
        /// What is possible.
        bytes_max: usize,
    },
    /// The connection is over.
    NoSuchPeer,
}

/// Whether the way itself can change bytes, so that messages travel with checksums of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// A network: bodies are checked.
    NeedsChecksum,
    /// This host's memory: the header's checksum is enough.
    Memory,
}

/// Bounds of one transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message, in bytes; at most `wire::FRAME_BYTES_MAX`.
    pub message_bytes_max: usize,
    /// Bytes under way to one peer, before `acquire` answers [`SendRefusal::NoCredit`].
    pub send_bytes_max: usize,
    /// Bytes received from one peer and not yet released, before no more are taken from it.
    pub recv_bytes_max: usize,
    /// How long `park` polls before it sleeps, in nanoseconds. `u64::MAX` never sleeps.
    pub spin_ns: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 1 << 20,
            send_bytes_max: 4 << 20,
            recv_bytes_max: 4 << 20,
            spin_ns: 20_000,
        }
    }
}

/// A connection that a transport may adopt.
#[derive(Debug)]
pub enum Link {
    /// A connected socket whose handshake is over.
    Tcp(TcpStream),
    /// One end of a pair of rings in shared memory.
    Shm(shm::End),
    /// One end of a simulated connection.
    Simulated(simulated::End),
}

/// Why a transport does not take a link.
#[derive(Debug)]
pub enum AdoptError {
    /// The back end moves bytes another way.
    WrongKind {
        /// The back end.
        transport: &'static str,
    },
    /// As many peers as it can hold.
    Full {
        /// How many that is.
        peers_max: usize,
    },
    /// The operating system said no.
    Os {
        /// What was tried.
        call: &'static str,
        /// What it said.
        error: std::io::Error,
    },
}

/// Ends another thread's `park`.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`, which must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Waker {
        Waker(Arc::new(wake))
    }

    /// Ends the park under way, or the next one.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// What a peer is to whoever polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It may have a faster way beside its link, where the back end has one.
    #[default]
    Member,
    /// It may not: nobody has said yet that it takes part.
    Stranger,
}

/// Moves whole messages, each at most `limits().message_bytes_max` long, in order per peer.
///
/// A message starts with `wire`'s header, whose length field is all that a back end reads.
/// One thread polls a transport. What is posted is sure to go only with the next `flush`.
pub trait Transport {
    /// The back end's name: `shm`, `uring`, `epoll`, `verbs`, `simulated`.
    fn name(&self) -> &'static str;

    /// Its bounds.
    fn limits(&self) -> Limits;

    /// Whether the way can change bytes.
    fn integrity(&self) -> Integrity;

    /// Time since some start of its own, never backwards.
    fn now(&self) -> Time;

    /// Takes over a connection.
    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError>;

    /// Appends what has happened since the last poll. Does not wait.
    fn poll(&mut self, events: &mut Vec<Event>);

    /// A slot of exactly `bytes` bytes towards `peer`, 64-byte aligned, content undefined but
    /// initialised. It is given back by `post` or by `cancel`; a slot that is dropped is cancelled.
    fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal>;

    /// Hands a filled slot over, cut to its message's length if that is less. Slots of one peer
    /// arrive in the order in which they were *acquired*.
    fn post(&mut self, slot: SendSlot);

    /// Gives an unused send slot back.
    fn cancel(&mut self, slot: SendSlot) {
        drop(slot);
    }

    /// Rings the doorbell once for everything posted since the last flush, and for what waited
    /// behind slots that were given back since.
    fn flush(&mut self);

    /// Gives a received slot back, in any order, as dropping it does. Its bytes may be overwritten
    /// from now on.
    fn release(&mut self, slot: RecvSlot);

    /// Waits until there may be something to poll, an `acquire` that found no credit may succeed,
    /// a waker wakes, or `deadline` has come: first by polling for `spin_ns`, then asleep. May
    /// return early.
    fn park(&mut self, deadline: Time);

    /// A waker of this transport, for other threads.
    fn waker(&self) -> Waker;

    /// Ends a connection. What was posted before may or may not arrive. Its `Closed` event comes
    /// from the next poll, once; slots received before stay readable.
    fn close(&mut self, peer: PeerId);

    /// Says what a peer is; a new one is a member. A faster way that it has is ended when it
    /// becomes a stranger, and set up when it becomes a member; its link stays.
    fn set_standing(&mut self, _peer: PeerId, _standing: Standing) {}

    /// What it keeps for its peers, in bytes: slots, whoever holds them. What lies with peers is
    /// theirs.
    fn held_bytes(&self) -> u64 {
        0
    }

    /// Bytes posted so far, headers included.
    fn bytes_sent(&self) -> u64;
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::PeerClosed => f.write_str("the peer closed the connection"),
            Fault::ClosedHere => f.write_str("the connection was closed on this side"),
            Fault::Malformed(malformed) => write!(f, "the peer sent no message: {malformed}"),
            Fault::MessageLate => {
                f.write_str("the peer began a message and did not end it in time")
            }
            Fault::RingBroken { what } => write!(f, "the peer broke the shared ring: {what}"),
            Fault::Os { call, errno } => {
                write!(f, "{call}: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl fmt::Display for SendRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendRefusal::NoCredit => f.write_str("too many bytes are under way to the peer"),
            SendRefusal::TooLarge { bytes, bytes_max } => {
                write!(f, "a message of {bytes} bytes, where {bytes_max} is the most")
            }
            SendRefusal::NoSuchPeer => f.write_str("the connection is over"),
        }
    }
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdoptError::WrongKind { transport } => {
                write!(f, "the {transport} transport does not take this kind of link")
            }
            AdoptError::Full { peers_max } => write!(f, "{peers_max} peers are connected already"),
            AdoptError::Os { call, error } => write!(f, "{call}: {error}"),
        }
    }
}

impl std::error::Error for AdoptError {}
impl std::error::Error for SendRefusal {}
