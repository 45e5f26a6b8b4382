//! Credit: how much a sender may have in the peer's ring, and the number that comes with a message.
//!
//! Owns the sender's picture of the peer's ring, and the arithmetic that both ends share. The ring
//! itself is left to [`super::ring`].
//!
//! A message lies in one piece: where it does not fit before the ring's end it begins at the ring's
//! start. Both ends reckon where, from the lengths alone; the number that comes with each message
//! says which one it is, and up to where the sender of it has released *its* ring.
//!
//! Why a receive is always posted for what comes (`rnr_retry` is 0: a broken rule shows as an
//! error). Each message and each note that comes uses up a receive, until this side polls it and
//! posts another.
//! - Messages: a peer sends at most [`MESSAGES_MAX`] whose release it has not been told. What is
//!   released was polled, and its receive posted again, before.
//! - Notes: one is sent only when it tells that at least one more message was released than was
//!   told before (`RecvRing::take_news`). The notes that this side has not polled tell of different
//!   messages of this side, none of which it knows to be released: at most [`MESSAGES_MAX`].
//! - One probe a generation.
//!
//! Together [`RECVS_MAX`].
//!
//! Invariant: `first <= end <= first + ring_bytes`; a message is in `in_flight` until its release
//! was told.

use std::collections::VecDeque;

use wire::LaneOffer;

/// Messages sent to one peer and not told to be released. Whoever holds as many stops its sender.
pub(super) const MESSAGES_MAX: u32 = 128;
/// Receives posted for one peer: see above.
pub(super) const RECVS_MAX: u32 = 2 * MESSAGES_MAX + 1;
/// Positions are multiples of this, in bytes: a cache line.
pub(super) const UNIT_BYTES: u64 = 64;

/// Bits of a position, in units, that travel.
const POSITION_BITS: u32 = 21;
const POSITION_MASK: u32 = (1 << POSITION_BITS) - 1;
/// Bits of a message's number that travel.
const SEQUENCE_BITS: u32 = 10;
const SEQUENCE_MASK: u32 = (1 << SEQUENCE_BITS) - 1;
/// Set in a number that comes without a message.
const NOTE: u32 = 1 << 31;

const _: () = assert!(SEQUENCE_BITS + POSITION_BITS == 31 && MESSAGES_MAX < 1 << SEQUENCE_BITS);
// A position and one that is a whole ring further are told apart.
const _: () = assert!(wire::LANE_RING_BYTES_MAX / UNIT_BYTES < 1 << POSITION_BITS);

/// The number that comes with each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Imm {
    pub(super) of: ImmOf,
    /// Up to where the sender of this released its own ring, in units, the low bits.
    released_units: u32,
}

/// What came with the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImmOf {
    /// The message of this number, the low bits.
    Message { sequence: u32 },
    /// Nothing.
    Note,
}

/// The peer broke the lane's rules; these words say how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Breach(pub(super) &'static str);

impl Imm {
    /// With message number `sequence` of this generation.
    pub(super) fn message(sequence: u64, released: u64) -> Imm {
        let sequence = sequence as u32 & SEQUENCE_MASK;
        Imm { of: ImmOf::Message { sequence }, released_units: units(released) }
    }

    /// Without a message.
    pub(super) fn note(released: u64) -> Imm {
        Imm { of: ImmOf::Note, released_units: units(released) }
    }

    /// As it travels.
    pub(super) fn to_u32(self) -> u32 {
        match self.of {
            ImmOf::Message { sequence } => sequence << POSITION_BITS | self.released_units,
            ImmOf::Note => NOTE | self.released_units,
        }
    }

    /// As it came: any number is one.
    pub(super) fn from_u32(raw: u32) -> Imm {
        let sequence = raw >> POSITION_BITS & SEQUENCE_MASK;
        let of = if raw & NOTE != 0 { ImmOf::Note } else { ImmOf::Message { sequence } };
        Imm { of, released_units: raw & POSITION_MASK }
    }

    /// Whether it came with the message of this number.
    pub(super) fn is_of(self, sequence: u64) -> bool {
        self.of == (ImmOf::Message { sequence: sequence as u32 & SEQUENCE_MASK })
    }
}

fn units(position: u64) -> u32 {
    (position / UNIT_BYTES) as u32 & POSITION_MASK
}

/// A message's place in a ring, in bytes since the ring was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Where a message of `bytes` lies that follows `end`.
pub(super) fn place_after(end: u64, bytes: usize, ring_bytes: u64) -> Place {
    let span_bytes = (bytes as u64).next_multiple_of(UNIT_BYTES);
    let offset = end & (ring_bytes - 1);
    let start = if offset + span_bytes <= ring_bytes { end } else { end - offset + ring_bytes };
    Place { start, end: start + span_bytes }
}

/// The peer's ring, as its sender knows it.
#[derive(Debug)]
pub(super) struct SendWindow {
    ring_address: u64,
    ring_bytes: u64,
    rkey: u32,
    messages_max: u32,
    first: u64,
    end: u64,
    /// Ends of the messages sent, oldest first.
    in_flight: VecDeque<u64>,
    /// Messages of earlier generations, of which all is known to be released or nothing.
    held: u32,
    held_end: u64,
}

impl SendWindow {
    /// The ring of this offer, which is within `wire`'s ranges. Its key is not known yet.
    pub(super) fn new(offer: &LaneOffer) -> SendWindow {
        SendWindow {
            ring_address: offer.ring_address,
            ring_bytes: offer.ring_bytes,
            rkey: 0,
            messages_max: offer.messages_max.min(MESSAGES_MAX),
            first: offer.released,
            end: offer.position,
            in_flight: VecDeque::with_capacity(MESSAGES_MAX as usize),
            held: offer.messages_held,
            held_end: offer.position,
        }
    }

    /// Where a message of `bytes` goes, if the ring has room for it now.
    pub(super) fn place(&self, bytes: usize) -> Option<Place> {
        let place = place_after(self.end, bytes, self.ring_bytes);
        let held = if self.first < self.held_end { self.held } else { 0 };
        let fits = place.end - self.first <= self.ring_bytes
            && held.saturating_add(self.in_flight.len() as u32) < self.messages_max;
        fits.then_some(place)
    }

    /// A message goes there, as [`SendWindow::place`] said.
    pub(super) fn sent(&mut self, place: Place) {
        self.end = place.end;
        self.in_flight.push_back(place.end);
    }

    /// The peer's address of a place.
    pub(super) fn address(&self, place: Place) -> u64 {
        self.ring_address + (place.start & (self.ring_bytes - 1))
    }

    /// The peer has said the key.
    pub(super) fn open(&mut self, rkey: u32) {
        self.rkey = rkey;
    }

    /// The key that the ring is written by.
    pub(super) fn rkey(&self) -> u32 {
        self.rkey
    }

    /// Takes note of what the peer told. How many messages it is done with.
    pub(super) fn released(&mut self, imm: Imm) -> Result<usize, Breach> {
        let units = imm.released_units.wrapping_sub(units(self.first)) & POSITION_MASK;
        let first = self.first + u64::from(units) * UNIT_BYTES;
        if first > self.end {
            return Err(Breach("it released what it was not sent"));
        }
        self.first = first;
        let mut messages = 0;
        while self.in_flight.front().is_some_and(|&end| end <= first) {
            self.in_flight.pop_front();
            messages += 1;
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer(ring_bytes: u64, position: u64) -> LaneOffer {
        LaneOffer {
            generation: 1,
            rail: 0,
            qp_number: 1,
            psn: 1,
            lid: 0,
            gid: [0; 16],
            mtu_code: 1,
            messages_max: MESSAGES_MAX,
            messages_held: 0,
            ring_address: 1 << 20,
            ring_bytes,
            position,
            released: position,
        }
    }

    #[test]
    fn a_number_reads_as_it_was_written_and_says_which_message_it_came_with() {
        for imm in [Imm::message(1025, 64 * 7), Imm::note(u64::MAX - 63)] {
            assert_eq!(Imm::from_u32(imm.to_u32()), imm);
        }
        let imm = Imm::message(1025, 0);
        assert!(imm.is_of(1025) && imm.is_of(1) && !imm.is_of(1024));
        assert!(!Imm::note(0).is_of(0));
    }

    #[test]
    fn a_message_that_does_not_fit_before_the_end_begins_at_the_start() {
        let place = |end, bytes| place_after(end, bytes, 4096);
        assert_eq!(place(0, 100), Place { start: 0, end: 128 });
        assert_eq!(place(4096 + 3968, 128), Place { start: 8064, end: 8192 });
        assert_eq!(place(4096 + 3968, 129), Place { start: 8192, end: 8384 });
    }

    #[test]
    fn no_more_messages_are_sent_than_the_peer_posts_receives_for() {
        let mut window = SendWindow::new(&offer(1 << 20, 0));
        let mut sent = 0;
        while let Some(place) = window.place(64) {
            window.sent(place);
            sent += 1;
        }
        assert_eq!(sent, MESSAGES_MAX);
        assert_eq!(window.released(Imm::note(3 * 64)), Ok(3));
        assert!(window.place(64).is_some());
    }

    #[test]
    fn messages_held_from_before_count_until_they_are_all_released() {
        let mut held = offer(4096, 8192);
        (held.messages_held, held.released) = (MESSAGES_MAX, 8192 - 2048);
        let mut window = SendWindow::new(&held);
        assert_eq!(window.place(64), None);
        assert_eq!(window.released(Imm::note(8192 - 64)), Ok(0));
        assert_eq!(window.place(64), None);
        assert_eq!(window.released(Imm::note(8192)), Ok(0));
        assert_eq!(window.place(64), Some(Place { start: 8192, end: 8256 }));
    }

    #[test]
    fn a_release_of_what_was_not_sent_is_a_breach() {
        let mut window = SendWindow::new(&offer(4096, 0));
        assert!(window.released(Imm::note(64)).is_err());
        assert_eq!(window.released(Imm::note(0)), Ok(0));
    }

    proptest! {
        #[test]
        fn messages_in_flight_never_overlap_and_a_ring_that_is_released_takes_any_half(
            position in 0_u64..1 << 30,
            sizes in prop::collection::vec(1_usize..2048, 1..200),
            keep in prop::collection::vec(0_usize..6, 1..20),
        ) {
            const RING_BYTES: u64 = 4096;
            let mut window = SendWindow::new(&offer(RING_BYTES, position * UNIT_BYTES));
            let (mut places, mut keep) = (VecDeque::<Place>::new(), keep.iter().cycle());
            for bytes in sizes {
                while window.place(bytes).is_none() || places.len() > *keep.next().unwrap() {
                    let oldest = places.pop_front().expect("an empty ring takes half of itself");
                    prop_assert_eq!(window.released(Imm::note(oldest.end)), Ok(1));
                }
                let place = window.place(bytes).unwrap();
                let lap = |at: u64| at / RING_BYTES;
                prop_assert_eq!(lap(place.start), lap(place.end - 1), "in one piece");
                for other in &places {
                    prop_assert!(other.end <= place.start && place.end <= other.start + RING_BYTES);
                }
                window.sent(place);
                places.push_back(place);
            }
        }
    }
}
