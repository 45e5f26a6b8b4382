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
//! reaches no memory but its own ring, or all rings of the core where the device has no windows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use super::credit::{Breach, MESSAGES_MAX, place_after};
use super::error::VerbsError;
use super::memory::Access;
use super::parts::Part;
use super::window::MemoryWindow;

/// A ring, of a power of two bytes.
pub(crate) struct RecvRing {
    /// None only while it is being dropped.
    part: Option<Part>,
    book: RefCell<Book>,
    home: FreeRings,
}

/// Rings that no peer has, of one size. They are used again.
pub(super) type FreeRings = Rc<RefCell<Vec<Part>>>;

/// Which messages of a ring are held: its bookkeeping, without its bytes.
#[derive(Debug)]
struct Book {
    ring_bytes: u64,
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
        let book = RefCell::new(Book::new(part.len() as u64));
        Rc::new(RecvRing { part: Some(part), book, home: Rc::clone(home) })
    }

    /// Size, in bytes.
    pub(super) fn ring_bytes(&self) -> usize {
        self.part().len()
    }

    /// Its first byte's address, as the peer names it.
    pub(super) fn address(&self) -> u64 {
        self.part().address()
    }

    /// What opens it to one peer's queue pair, where it has windows.
    ///
    /// Errors: as [`MemoryWindow::new`].
    pub(super) fn window(&self) -> Result<Option<MemoryWindow>, VerbsError> {
        match self.part().access() {
            Access::Windows => self.part().window().map(Some),
            _ => Ok(None),
        }
    }

    /// The key of the region that it is part of: what the peer names it by if there is no window.
    pub(super) fn region_rkey(&self) -> u32 {
        self.part().rkey()
    }

    /// What peers may do there.
    pub(super) fn access(&self) -> Access {
        self.part().access()
    }

    /// How it stands; the peer is told by the offer that says so.
    pub(super) fn standing(&self) -> Standing {
        let mut book = self.book.borrow_mut();
        book.tell();
        Standing {
            position: book.end,
            released: book.released,
            messages_held: book.held.len() as u32,
        }
    }

    /// Takes the message of `bytes` that has come.
    ///
    /// Errors: the sender had no room for it.
    pub(super) fn take(self: &Rc<Self>, bytes: usize) -> Result<RecvRecord, Breach> {
        let (number, start) = self.book.borrow_mut().take(bytes)?;
        let offset = start as usize & (self.ring_bytes() - 1);
        Ok(RecvRecord { ring: Rc::clone(self), number, offset, bytes })
    }

    /// Up to where it is released; the peer is told by the number that says so.
    pub(super) fn tell(&self) -> u64 {
        self.book.borrow_mut().tell()
    }

    /// Whether something was released that the peer was not told of, and how much.
    pub(super) fn news(&self) -> News {
        self.book.borrow().news()
    }

    /// Length of all messages that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.book.borrow().held_bytes
    }

    /// Whether no message of it is held.
    pub(super) fn is_empty(&self) -> bool {
        self.book.borrow().held.is_empty()
    }

    fn part(&self) -> &Part {
        self.part.as_ref().expect("only drop takes it")
    }
}

impl Book {
    fn new(ring_bytes: u64) -> Book {
        Book {
            ring_bytes,
            end: 0,
            released: 0,
            held: VecDeque::with_capacity(MESSAGES_MAX as usize),
            held_bytes: 0,
            first: 0,
            told: 0,
            told_first: 0,
        }
    }

    /// Its number, and where it begins.
    fn take(&mut self, bytes: usize) -> Result<(u64, u64), Breach> {
        let place = place_after(self.end, bytes, self.ring_bytes);
        if bytes as u64 > self.ring_bytes || place.end - self.released > self.ring_bytes {
            return Err(Breach("it sent more than the ring has room for"));
        }
        if self.held.len() == MESSAGES_MAX as usize {
            return Err(Breach("it sent more messages than it may"));
        }
        self.end = place.end;
        self.held_bytes += bytes;
        self.held.push_back(Held { end: place.end, use_: Use::Held });
        Ok((self.first + self.held.len() as u64 - 1, place.start))
    }

    fn give_back(&mut self, number: u64, bytes: usize) {
        self.held_bytes -= bytes;
        self.held[(number - self.first) as usize].use_ = Use::GivenBack;
        while let Some(&Held { end, use_: Use::GivenBack }) = self.held.front() {
            self.held.pop_front();
            (self.first, self.released) = (self.first + 1, end);
        }
    }

    fn tell(&mut self) -> u64 {
        (self.told, self.told_first) = (self.released, self.first);
        self.released
    }

    fn news(&self) -> News {
        let messages = self.first - self.told_first;
        match self.released - self.told {
            0 => News::None,
            bytes if bytes >= self.ring_bytes / 4 => News::Much,
            _ if messages >= u64::from(MESSAGES_MAX) / 4 => News::Much,
            _ => News::Some,
        }
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
        self.ring.book.borrow_mut().give_back(self.number, self.bytes);
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        // The window and queue pair by which a peer wrote here are gone: `Peer` drops them first.
        self.home.borrow_mut().extend(self.part.take());
    }
}

impl fmt::Debug for RecvRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvRing({:?})", self.book)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::LaneOffer;

    use super::*;
    use crate::verbs::credit::{Imm, SendWindow};

    const RING_BYTES: u64 = 4096;

    fn window(book: &Book) -> SendWindow {
        SendWindow::new(&LaneOffer {
            generation: 1,
            rail: 0,
            qp_number: 1,
            psn: 1,
            lid: 0,
            gid: [0; 16],
            mtu_code: 1,
            messages_max: MESSAGES_MAX,
            messages_held: book.held.len() as u32,
            ring_address: 0,
            ring_bytes: RING_BYTES,
            position: book.end,
            released: book.released,
        })
    }

    proptest! {
        #[test]
        fn both_ends_reckon_the_same_places_and_no_held_message_is_written_over(
            acts in prop::collection::vec(
                (0_u8..8, 1_usize..2048, any::<prop::sample::Index>()),
                1..400,
            ),
        ) {
            let mut book = Book::new(RING_BYTES);
            let mut sender = window(&book);
            let mut held: Vec<(u64, u64, usize)> = Vec::new();
            for (what, bytes, pick) in acts {
                match what {
                    0..=3 => {
                        let Some(place) = sender.place(bytes) else { continue };
                        // A lap later, the same bytes.
                        let covers = |&(_, start, bytes): &(u64, u64, usize)| {
                            place.start < start + bytes as u64 + RING_BYTES
                                && place.end > start + RING_BYTES
                        };
                        prop_assert!(!held.iter().any(covers), "{place:?} over one of {held:?}");
                        sender.sent(place);
                        let (number, start) = book.take(bytes).expect("the sender had room");
                        prop_assert_eq!(start, place.start);
                        held.push((number, start, bytes));
                    }
                    4..=5 if !held.is_empty() => {
                        let (number, _, bytes) = held.swap_remove(pick.index(held.len()));
                        book.give_back(number, bytes);
                    }
                    6 => {
                        sender.released(Imm::note(book.tell())).expect("it was sent that");
                    }
                    // The lane broke: the next generation goes on where this one was.
                    7 => sender = window(&book),
                    _ => {}
                }
            }
            for (number, _, bytes) in held {
                book.give_back(number, bytes);
            }
            prop_assert_eq!((book.released, book.held_bytes), (book.end, 0));
        }
    }

    #[test]
    fn a_sender_that_has_no_room_or_too_many_messages_breaks_the_rules() {
        let mut book = Book::new(RING_BYTES);
        assert!(book.take(RING_BYTES as usize + 1).is_err());
        book.take(4000).expect("it is empty");
        assert!(book.take(65).is_err());
        let mut book = Book::new(1 << 20);
        for _ in 0..MESSAGES_MAX {
            book.take(64).expect("there is room");
        }
        assert!(book.take(64).is_err());
    }

    #[test]
    fn much_is_a_quarter_of_the_ring_or_of_the_messages() {
        let mut book = Book::new(1 << 20);
        let (small, _) = book.take(64).expect("there is room");
        book.give_back(small, 64);
        assert_eq!(book.news(), News::Some);
        let (large, _) = book.take(1 << 18).expect("there is room");
        book.give_back(large, 1 << 18);
        assert_eq!(book.news(), News::Much);
        book.tell();
        assert_eq!(book.news(), News::None);
        for _ in 0..MESSAGES_MAX / 4 {
            let (number, _) = book.take(64).expect("there is room");
            book.give_back(number, 64);
        }
        assert_eq!(book.news(), News::Much);
    }
}
