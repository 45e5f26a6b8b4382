//! Receive ring: where one peer's messages land by the lane, and which of them are still held.
//!
//! Owns the bookkeeping of one ring, across all generations of its lane: positions go on, so that
//! a message which is held is never overwritten by a later generation. Where the sender may write
//! is reckoned by [`super::credit`], at both ends alike.
//!
//! Invariant: the records of `held` follow one another and end at `end`; `released` is where the
//! last record ended before which all were given back. A peer that keeps the rules writes from
//! `end` to `released` plus the ring's size, and nowhere else. One that does not can change bytes
//! of a message while it is read, as a peer in shared memory can; no check can stop that, and it
//! reaches no memory but rings.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use super::credit::{Breach, MESSAGES_MAX, place_after};
use super::parts::Part;

/// A ring, of a power of two bytes.
pub(crate) struct RecvRing {
    /// None only while it is being dropped.
    part: Option<Part>,
    state: RefCell<State>,
    home: FreeRings,
}

/// Rings that no peer has, of one size. They are used again.
pub(super) type FreeRings = Rc<RefCell<Vec<Part>>>;

#[derive(Debug, Default)]
struct State {
    end: u64,
    released: u64,
    held: VecDeque<Held>,
    /// Length of all messages not given back.
    held_bytes: usize,
    /// Number of the first of `held`.
    first: u64,
    /// Of `released` and `first`, what the peer was told.
    told: u64,
    told_first: u64,
}

#[derive(Debug)]
struct Held {
    end: u64,
    use_: Use,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Held,
    GivenBack,
}

/// A message in the ring. Dropping it gives its room back.
#[derive(Debug)]
pub(crate) struct RecvRecord {
    ring: Rc<RecvRing>,
    number: u64,
    offset: usize,
    bytes: usize,
}

/// What an offer says of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) position: u64,
    pub(super) released: u64,
    pub(super) messages_held: u32,
}

impl RecvRing {
    /// An empty ring in `part`, which goes to `home` in the end.
    pub(super) fn new(part: Part, home: &FreeRings) -> Rc<RecvRing> {
        assert!(part.len().is_power_of_two() && part.len() as u64 <= wire::LANE_RING_BYTES_MAX);
        let state =
            State { held: VecDeque::with_capacity(MESSAGES_MAX as usize), ..State::default() };
        Rc::new(RecvRing { part: Some(part), state: RefCell::new(state), home: Rc::clone(home) })
    }

    /// Size, in bytes.
    pub(super) fn ring_bytes(&self) -> usize {
        self.part().len()
    }

    /// Its first byte's address, as the peer names it.
    pub(super) fn address(&self) -> u64 {
        self.part().address()
    }

    /// The key that the peer names it by.
    pub(super) fn rkey(&self) -> u32 {
        self.part().rkey()
    }

    /// How it stands; the peer is told by the offer that says so.
    pub(super) fn standing(&self) -> Standing {
        self.tell();
        let state = self.state.borrow();
        Standing {
            position: state.end,
            released: state.released,
            messages_held: state.held.len() as u32,
        }
    }

    /// Takes the message of `bytes` that has come.
    ///
    /// Errors: the sender had no room for it.
    pub(super) fn take(self: &Rc<Self>, bytes: usize) -> Result<RecvRecord, Breach> {
        let ring_bytes = self.ring_bytes() as u64;
        let mut state = self.state.borrow_mut();
        let place = place_after(state.end, bytes, ring_bytes);
        if place.end - state.released > ring_bytes || bytes as u64 > ring_bytes {
            return Err(Breach("it sent more than the ring has room for"));
        }
        if state.held.len() == MESSAGES_MAX as usize {
            return Err(Breach("it sent more messages than it may"));
        }
        state.end = place.end;
        state.held_bytes += bytes;
        let number = state.first + state.held.len() as u64;
        state.held.push_back(Held { end: place.end, use_: Use::Held });
        let offset = (place.start & (ring_bytes - 1)) as usize;
        Ok(RecvRecord { ring: Rc::clone(self), number, offset, bytes })
    }

    /// Up to where it is released; the peer is told by the number that says so.
    pub(super) fn tell(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        (state.told, state.told_first) = (state.released, state.first);
        state.released
    }

    /// Whether something was released that the peer was not told of, and how much.
    pub(super) fn news(&self) -> News {
        let state = self.state.borrow();
        let messages = state.first - state.told_first;
        match state.released - state.told {
            0 => News::None,
            bytes if bytes >= self.ring_bytes() as u64 / 4 => News::Much,
            _ if messages >= u64::from(MESSAGES_MAX) / 4 => News::Much,
            _ => News::Some,
        }
    }

    /// Length of all messages that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.state.borrow().held_bytes
    }

    /// Whether no message of it is held.
    pub(super) fn is_empty(&self) -> bool {
        self.state.borrow().held.is_empty()
    }

    fn give_back(&self, number: u64, bytes: usize) {
        let mut state = self.state.borrow_mut();
        state.held_bytes -= bytes;
        let index = (number - state.first) as usize;
        state.held[index].use_ = Use::GivenBack;
        while let Some(&Held { end, use_: Use::GivenBack }) = state.held.front() {
            state.held.pop_front();
            (state.first, state.released) = (state.first + 1, end);
        }
    }

    fn part(&self) -> &Part {
        self.part.as_ref().expect("only drop takes it")
    }
}

/// How much was released and not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    /// The sender can wait for it.
    Some,
    /// A quarter of what it may have under way.
    Much,
}

impl RecvRecord {
    /// The message.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the peer wrote this record before its completion, which the device orders, and
        // writes there again only when it was told of its release, which `drop` says. The head of
        // this file says what a peer that breaks this can do.
        unsafe { self.ring.part().written_by_peer(self.offset, self.bytes) }
    }
}

impl Drop for RecvRecord {
    fn drop(&mut self) {
        self.ring.give_back(self.number, self.bytes);
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        // The queue pair by which a peer wrote here is destroyed: `Peer` drops it first.
        self.home.borrow_mut().extend(self.part.take());
    }
}

impl fmt::Debug for RecvRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvRing({:?})", self.state)
    }
}
