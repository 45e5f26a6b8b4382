//! One ring: messages written where they will be read, handed over by one word each.
//!
//! Owns the records and who may touch one. Waking a sleeper is left to `bell`, what a message is
//! to `transport`.
//!
//! A record is a header of 64 bytes and a message, both 64-byte aligned; it never wraps: where one
//! does not fit before the end of the ring, a `PAD` record fills the rest. The header's first word
//! is `position | kind`. The sender writes `OPEN` at a position before it publishes the record in
//! front, so the receiver, who walks the records in order, never takes what an earlier lap left
//! there for a state. It ends with `FREE`, which the receiver writes and the sender waits for.
//!
//! Invariant: a record's bytes are touched by its `SendRecord` until the state is `READY`, by its
//! `RecvRecord` until it is `FREE`, and by nobody else; both windows hold no two records that
//! overlap. The first half rests on the peer's keeping the protocol: another process that may map
//! this memory can write it at any time, and no check can stop that. What a broken peer writes
//! into a *header* is checked and never leads out of the ring; who may connect at all is a matter
//! of the socket's permissions, and both processes run as one user.

use std::fmt;
use std::mem;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::{Shared, Side};
use super::window::{HEAD_BYTES, Oldest, RECORD_ALIGN_BYTES, Spans, Window};

/// The peer broke the rules of the ring; these words say how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The low bits of a state; the others are the record's position, a multiple of 64.
const KIND_MASK: u64 = RECORD_ALIGN_BYTES as u64 - 1;

/// Not handed over yet. Zero, since that is what stands in a new ring at position 0.
const OPEN: u64 = 0;

/// Holds a message.
const READY: u64 = 1;

/// Was acquired and given back unused.
const SKIP: u64 = 2;

/// Fills the ring up to its end.
const PAD: u64 = 3;

/// Released by the receiver.
const FREE: u64 = 4;

/// What begins a record.
#[repr(C, align(64))]
struct Head {
    /// `position | kind`.
    state: AtomicU64,
    /// `span_bytes << 32 | message_bytes`; the span is the whole record's, header included.
    lengths: AtomicU64,
}

const _: () = assert!(size_of::<Head>() == HEAD_BYTES);

/// A ring, as one end sees it: what its window and the slots over its records share.
struct Lane {
    shared: Arc<Shared>,
    filler: Side,
    spans: Arc<Spans>,
}

impl Lane {
    /// The header at `position`, which must be that of a record in this end's window, or the
    /// window's end.
    fn head(&self, position: u64) -> &Head {
        let offset = self.offset(position);
        assert!(offset.is_multiple_of(RECORD_ALIGN_BYTES));
        let first = self.shared.ring_at(self.filler, offset, HEAD_BYTES);
        // SAFETY:
        // - In bounds: `ring_at` asserts it. Aligned: rings are, and the line above asserts it.
        // - Initialised: the memory begins as zeros, and any bits are an `AtomicU64`.
        // - Unaliased: all that is ever made of a header's bytes in this process is `&Head`. A
        //   message of this lane overlaps no header: `SendRecord` and `RecvRecord` are over
        //   records of a window, which do not overlap (`Window::push` asserts `fits`), nor
        //   reach the header at the window's end, for which `fits` keeps room; callers (all
        //   in this file) pass `window.first()`, `window.end()` or a pushed position.
        // - Alive: `shared` is unmapped after the last owner of this lane is gone.
        unsafe { &*first.cast::<Head>() }
    }

    fn message_at(&self, position: u64, bytes: usize) -> *mut u8 {
        self.shared.ring_at(self.filler, self.offset(position) + HEAD_BYTES, bytes)
    }

    fn offset(&self, position: u64) -> usize {
        position as usize & (self.shared.ring_bytes() - 1)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({:?})", self.filler)
    }
}

/// The end of a ring that fills it.
#[derive(Debug)]
pub(super) struct Sender {
    lane: Arc<Lane>,
    window: Window,
    under_way_bytes_max: usize,
}

/// The end of a ring that empties it.
#[derive(Debug)]
pub(super) struct Receiver {
    lane: Arc<Lane>,
    window: Window,
    held_bytes_max: usize,
    /// Up to where the sender was told that records are free.
    told: u64,
}

/// A record of the ring towards the peer, under way. One that is dropped is skipped.
#[derive(Debug)]
pub(crate) struct SendRecord {
    lane: Arc<Lane>,
    position: u64,
    index: usize,
    span_bytes: usize,
    message_bytes: usize,
    kind: u64,
}

/// A record of the ring from the peer. Dropping it gives its room back.
#[derive(Debug)]
pub(crate) struct RecvRecord {
    lane: Arc<Lane>,
    position: u64,
    index: usize,
    span_bytes: usize,
    message_bytes: usize,
}

/// What a receiver found.
#[derive(Debug)]
pub(super) enum Take {
    /// Nothing was handed over.
    Empty,
    /// There is a record, but as many bytes as allowed are out already.
    Held,
    /// A record without a message; there may be more behind it.
    Passed,
    /// A message.
    Message(RecvRecord),
}

impl Sender {
    /// The sender of the ring that `filler` fills. At most one exists for a mapping and a side.
    ///
    /// - `under_way_bytes_max`: bytes acquired and not yet released by the peer, unless it is one
    ///   record alone.
    pub(super) fn new(shared: &Arc<Shared>, filler: Side, under_way_bytes_max: usize) -> Sender {
        let (lane, window) = lane(shared, filler);
        Sender { lane, window, under_way_bytes_max }
    }

    /// The longest message, in bytes: with its header half the ring, so that beside a `PAD` it
    /// fits an empty ring wherever that stands.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.lane.shared.ring_bytes() / 2 - HEAD_BYTES
    }

    /// A record for a message of `bytes`, or none while the peer holds too many.
    ///
    /// - Errors: the peer wrote no state into a record's header that one can be in.
    /// - Panics: if `bytes` is over [`Sender::message_bytes_max`].
    pub(super) fn acquire(&mut self, bytes: usize) -> Result<Option<SendRecord>, Broken> {
        assert!(bytes <= self.message_bytes_max());
        let span_bytes = HEAD_BYTES + bytes.next_multiple_of(RECORD_ALIGN_BYTES);
        let end_bytes = self.lane.shared.ring_bytes() - self.lane.offset(self.window.end());
        let pad_bytes = if span_bytes <= end_bytes { 0 } else { end_bytes };
        while !self.has_room(pad_bytes + span_bytes) {
            // As few as are needed, since each costs a cache line that the peer wrote last.
            if !self.reclaim()? {
                return Ok(None);
            }
        }
        if pad_bytes > 0 {
            let mut pad = self.lay_out(pad_bytes, 0);
            pad.kind = PAD;
        }
        Ok(Some(self.lay_out(span_bytes, bytes)))
    }

    /// Whether the peer has released the oldest record, so that a refused `acquire` may succeed.
    pub(super) fn may_reclaim(&self) -> bool {
        let first = self.window.first();
        self.window.oldest() == Oldest::Settled
            && self.lane.head(first).state.load(Ordering::Acquire) == first | FREE
    }

    /// Whether a `PAD` and a record of so many bytes together may be laid out.
    fn has_room(&self, bytes: usize) -> bool {
        let under_way_bytes = self.window.bytes();
        self.window.fits(2, bytes)
            && (under_way_bytes == 0 || under_way_bytes + bytes <= self.under_way_bytes_max)
    }

    /// Takes the oldest record back, if both this end and the peer are done with it.
    fn reclaim(&mut self) -> Result<bool, Broken> {
        if self.window.oldest() != Oldest::Settled {
            return Ok(false);
        }
        let first = self.window.first();
        // Acquire: the receiver's last read of the record comes before it is written again.
        let state = self.lane.head(first).state.load(Ordering::Acquire);
        match (state & !KIND_MASK == first, state & KIND_MASK) {
            (true, FREE) => {
                self.window.pop();
                Ok(true)
            }
            (true, READY | SKIP | PAD) => Ok(false),
            _ => Err(Broken("the state of a record that was sent is none of its states")),
        }
    }

    /// Adds a record, and opens the one behind it. Nothing is published.
    fn lay_out(&mut self, span_bytes: usize, message_bytes: usize) -> SendRecord {
        let (position, index) = self.window.push(span_bytes);
        let next = self.window.end();
        // Relaxed: the receiver comes here only after it acquired the state of the record before,
        // which `SendRecord::drop` releases after this.
        self.lane.head(next).state.store(next | OPEN, Ordering::Relaxed);
        let lane = Arc::clone(&self.lane);
        SendRecord { lane, position, index, span_bytes, message_bytes, kind: SKIP }
    }
}

impl SendRecord {
    /// The message to be. Its bytes are what they last were, at first zeros.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let first = self.lane.message_at(self.position, self.message_bytes);
        // SAFETY:
        // - In bounds: `message_at` asserts it.
        // - Initialised: the memory begins as zeros.
        // - Unaliased here: `lay_out` makes one record of a place that `Window::push` gave out;
        //   `push` gives none out again before `settle`, which only `drop` says. `&mut self`.
        // - Unaliased there: the peer reads no record that is `OPEN`, as it is until `drop`. A
        //   peer that breaks this is the case that the head of this file speaks of.
        // - Alive: `lane` owns a share of the mapping.
        unsafe { slice::from_raw_parts_mut(first, self.message_bytes) }
    }

    /// Hands the first `bytes` bytes over as a message.
    ///
    /// Panics: if there are fewer.
    pub(super) fn post(mut self, bytes: usize) {
        assert!(bytes <= self.message_bytes);
        self.message_bytes = bytes;
        self.kind = READY;
    }
}

impl Drop for SendRecord {
    /// Publishes the record: `SKIP`, unless `post` or `acquire` said otherwise.
    fn drop(&mut self) {
        let head = self.lane.head(self.position);
        let lengths = (self.span_bytes as u64) << 32 | self.message_bytes as u64;
        head.lengths.store(lengths, Ordering::Relaxed);
        // Release: message and lengths come before the state that hands them over.
        head.state.store(self.position | self.kind, Ordering::Release);
        self.lane.spans.settle(self.index, self.span_bytes);
    }
}

/// What stands at the receiver's next position.
enum Next {
    Empty,
    Held,
    Record { kind: u64, span_bytes: usize, message_bytes: usize },
}

impl Receiver {
    /// The receiver of the ring that `filler` fills. At most one exists for a mapping and a side.
    ///
    /// - `held_bytes_max`: bytes taken and not released, oldest to newest, unless it is one record.
    pub(super) fn new(shared: &Arc<Shared>, filler: Side, held_bytes_max: usize) -> Receiver {
        let (lane, window) = lane(shared, filler);
        Receiver { lane, window, held_bytes_max, told: 0 }
    }

    /// Takes the next record.
    ///
    /// - Errors: what stands there is no record; the ring cannot be read any further.
    pub(super) fn take(&mut self) -> Result<Take, Broken> {
        let (kind, span_bytes, message_bytes) = match self.next()? {
            Next::Empty => return Ok(Take::Empty),
            Next::Held => return Ok(Take::Held),
            Next::Record { kind, span_bytes, message_bytes } => (kind, span_bytes, message_bytes),
        };
        let (position, index) = self.window.push(span_bytes);
        let lane = Arc::clone(&self.lane);
        let record = RecvRecord { lane, position, index, span_bytes, message_bytes };
        Ok(if kind == READY { Take::Message(record) } else { Take::Passed })
    }

    /// Whether `take` would bring something: a record, or the news that the ring is broken.
    pub(super) fn may_take(&mut self) -> bool {
        !matches!(self.next(), Ok(Next::Empty | Next::Held))
    }

    /// Whether there is a record that `take` withholds until others are released.
    pub(super) fn is_held(&mut self) -> bool {
        matches!(self.next(), Ok(Next::Held))
    }

    /// Whether records were released, in order, since the last call.
    pub(super) fn has_released(&mut self) -> bool {
        self.forget_released();
        let first = self.window.first();
        first != mem::replace(&mut self.told, first)
    }

    /// Looks at the next position, and trusts nothing there.
    fn next(&mut self) -> Result<Next, Broken> {
        let position = self.window.end();
        let head = self.lane.head(position);
        // Acquire: with the sender's release, lengths and message are read as it wrote them.
        let state = head.state.load(Ordering::Acquire);
        let lengths = head.lengths.load(Ordering::Relaxed);
        if state == position | OPEN {
            return Ok(Next::Empty);
        }
        if state & !KIND_MASK != position {
            return Err(Broken("a state names another position than its own"));
        }
        let kind = state & KIND_MASK;
        let (span_bytes, message_bytes) = ((lengths >> 32) as usize, lengths as u32 as usize);
        self.check(kind, span_bytes, message_bytes)?;
        self.forget_released();
        let held_bytes = self.window.bytes();
        let over = held_bytes > 0 && held_bytes + span_bytes > self.held_bytes_max;
        // A sender that keeps the rules reuses only what is free, so `fits` holds, but for the
        // moment in which another thread drops a record: free already, not settled yet.
        if (over && kind == READY) || !self.window.fits(1, span_bytes) {
            return match held_bytes {
                0 => Err(Broken("a record leaves no room for the header behind it")),
                _ => Ok(Next::Held),
            };
        }
        Ok(Next::Record { kind, span_bytes, message_bytes })
    }

    /// Whether a record of these lengths can stand at the next position.
    fn check(&self, kind: u64, span_bytes: usize, message_bytes: usize) -> Result<(), Broken> {
        let end_bytes = self.lane.shared.ring_bytes() - self.lane.offset(self.window.end());
        if !matches!(kind, READY | SKIP | PAD) {
            return Err(Broken("a state's kind is unknown"));
        }
        if span_bytes < HEAD_BYTES || !span_bytes.is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err(Broken("a record's length is no multiple of 64 bytes"));
        }
        if span_bytes > end_bytes {
            return Err(Broken("a record reaches over the end of the ring"));
        }
        if message_bytes > span_bytes - HEAD_BYTES {
            return Err(Broken("a message is longer than its record"));
        }
        Ok(())
    }

    fn forget_released(&mut self) {
        while self.window.oldest() == Oldest::Settled {
            self.window.pop();
        }
    }
}

impl RecvRecord {
    /// The message.
    pub(crate) fn bytes(&self) -> &[u8] {
        let first = self.lane.message_at(self.position, self.message_bytes);
        // SAFETY:
        // - In bounds: `message_at` asserts it; the length was read once and is kept here.
        // - Initialised: the memory begins as zeros.
        // - Unaliased here: this end makes no `&mut` of a ring that the peer fills, and `take`
        //   pushed the record to a window, whose headers lie elsewhere.
        // - Unwritten there: the peer writes a record again only when it is `FREE`, which only
        //   `drop` says. A peer that breaks this is the case the head of this file speaks of.
        // - Alive: `lane` owns a share of the mapping.
        unsafe { slice::from_raw_parts(first, self.message_bytes) }
    }
}

impl Drop for RecvRecord {
    fn drop(&mut self) {
        let state = &self.lane.head(self.position).state;
        // Release: this end's reads come before the sender's next writes.
        state.store(self.position | FREE, Ordering::Release);
        self.lane.spans.settle(self.index, self.span_bytes);
    }
}

fn lane(shared: &Arc<Shared>, filler: Side) -> (Arc<Lane>, Window) {
    let window = Window::new(shared.ring_bytes());
    let lane = Lane { shared: Arc::clone(shared), filler, spans: window.spans() };
    (Arc::new(lane), window)
}

#[cfg(test)]
mod tests;
