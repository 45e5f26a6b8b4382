//! One peer: its lane's queue pair, what is under way on it both ways, and what a broken lane left.
//!
//! Owns the sending and receiving of messages by one lane. Which step of its life comes next is
//! left to [`super::lane`], doing it to [`super::steps`], and the TCP link to the back end beneath.
//!
//! Invariant: a message that was sent by the lane is in `in_flight`, with its slot, until the peer
//! has told its release, or what it took at the lane's end.

use std::collections::VecDeque;
use std::rc::Rc;

use wire::{LaneMessage, Malformed, Time};

use super::completion::Done;
use super::credit::{Breach, Imm, ImmOf, MESSAGES_MAX, Place, SendWindow};
use super::early::Early;
use super::gid::Gid;
use super::lane::{Lane, Reason, Way};
use super::queue_pair::{Path, Payload, PostError, QueuePair, Signal, WriteImm};
use super::rails::{Ends, Failures, PairOfGids, Rail};
use super::reroute::Reroute;
use super::ring::{News, RecvRing};
use super::station::SENDS_MAX;
use super::window::MemoryWindow;
use crate::api::{Fault, Limits, PeerId, SendRefusal};
use crate::outbox::Outbox;
use crate::pool::{Pool, PoolSlot};
use crate::slot::{RecvMemory, RecvSlot, SendMemory, SendSlot, check_message};

/// Requests that one doorbell posts. The last one of each has a completion.
const CHAIN_MAX: usize = 16;
/// Of a queue pair's requests, these are kept for notes, so that credit never waits for credit.
const NOTES_MAX: u32 = SENDS_MAX - MESSAGES_MAX;
/// Words that wait for credit: a step says one at most, the switch of a lane one more, and while
/// one waits no step is done.
pub(super) const WORDS_MAX: usize = 2;
/// Polls in a row after which a release is told though no message goes that way.
const IDLE_POLLS_MAX: u32 = 32;

/// One peer, as lanes see it.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) lane: Lane,
    /// Addresses of the TCP link.
    pub(super) ends: Ends,
    /// The rails that the peer was told of in this generation.
    pub(super) told: Vec<Rail>,
    /// The pair of rails that this side chose for this generation.
    pub(super) chosen: Option<PairOfGids>,
    /// The pairs that lanes to this peer failed over.
    pub(super) failures: Failures,
    /// Place of the lane's rail in the counts.
    pub(super) rail: usize,
    /// The lane's end here, while there is one. Before the ring: it is destroyed first.
    pub(super) pair: Option<Pair>,
    pub(super) ring: Option<Rc<RecvRing>>,
    /// Which device the ring is on.
    pub(super) station: Option<usize>,
    pub(super) outbox: Outbox,
    pub(super) in_flight: VecDeque<(PoolSlot, usize)>,
    /// Messages sent by the lane in this generation.
    pub(super) lane_sent: u64,
    /// What the lanes before left.
    pub(super) reroutes: Vec<Reroute>,
    /// For the peer, over TCP, as soon as there is credit; at most [`WORDS_MAX`].
    pub(super) words: VecDeque<LaneMessage>,
    /// Came, and is not given out yet.
    pub(super) early: Early,
    /// Why this side closed the connection, if lanes did.
    pub(super) fault: Option<Fault>,
    pub(super) life: Life,
    /// Whether its word waits for credit of the TCP link, which nobody else gets meanwhile.
    pub(super) hungry: Hungry,
    /// Polls since the last message, while a release is untold.
    idle_polls: u32,
}

/// Whether the connection is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// Its `Closed` event is on its way.
    Closing,
}

/// Whether a word waits for credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hungry {
    Yes,
    No,
}

/// This end of one generation of a lane.
pub(super) struct Pair {
    /// What opens the ring to this queue pair, where the device can. Before it: it goes first.
    pub(super) opening: Option<MemoryWindow>,
    pub(super) qp: QueuePair,
    pub(super) path: Path,
    /// Of the port, as they were when it was made.
    pub(super) gid: Gid,
    pub(super) lid: u16,
    pub(super) generation: u32,
    /// The peer's ring, once it is connected.
    pub(super) window: Option<SendWindow>,
    /// Requests posted and over, modulo 2^24.
    pub(super) posted: u32,
    pub(super) completed: u32,
    /// When a request was last over, or the first of those under way posted.
    pub(super) progress_at: Time,
    /// Receives used up and not posted again.
    pub(super) recvs_due: usize,
    /// Messages taken.
    pub(super) taken: u64,
}

/// Whether the ring is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opened {
    /// By its region's key.
    Already,
    /// When the request for it is over.
    Later,
}

/// What came by the lane.
#[derive(Clone, Copy, Debug)]
pub(super) enum Came {
    /// A message; it is `early` now.
    Message,
    /// None.
    Nothing,
}

/// What is wrong with what came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wrong {
    /// The lane is over.
    Breach(Breach),
    /// The connection is: the peer sends what is no message.
    Malformed(Malformed),
}

/// What a request was for, as it travels through the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) of: TagOf,
    pub(super) peer: u32,
    /// The low bits.
    pub(super) generation: u8,
}

/// Which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TagOf {
    Recv,
    /// The sends up to this one, modulo 2^24.
    Send {
        number: u32,
    },
}

/// Numbers of sends have so many bits, those of generations so many.
const NUMBER_BITS: u32 = 24;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;
const GENERATION_MASK: u32 = 0x7F;
const SEND: u64 = 1 << 63;

impl Tag {
    pub(super) fn new(of: TagOf, peer: PeerId, generation: u32) -> Tag {
        Tag { of, peer: peer.index() as u32, generation: (generation & GENERATION_MASK) as u8 }
    }

    pub(super) fn to_u64(self) -> u64 {
        let low = u64::from(self.generation) << 56 | u64::from(self.peer);
        match self.of {
            TagOf::Recv => low,
            TagOf::Send { number } => SEND | low | u64::from(number) << 32,
        }
    }

    pub(super) fn from_u64(raw: u64) -> Tag {
        let number = (raw >> 32) as u32 & NUMBER_MASK;
        let of = if raw & SEND != 0 { TagOf::Send { number } } else { TagOf::Recv };
        Tag { of, peer: raw as u32, generation: (raw >> 56) as u8 & GENERATION_MASK as u8 }
    }
}

impl Pair {
    /// Whether a completion is of this generation.
    pub(super) fn is_of(&self, tag: Tag) -> bool {
        self.generation & GENERATION_MASK == u32::from(tag.generation)
    }

    /// Requests under way.
    pub(super) fn under_way(&self) -> u32 {
        self.posted.wrapping_sub(self.completed) & NUMBER_MASK
    }

    /// All requests up to this one are over.
    pub(super) fn completed(&mut self, number: u32, now: Time) {
        self.completed = number;
        self.progress_at = now;
    }

    /// Has the ring open to this queue pair alone.
    fn open_ring(&mut self, peer: PeerId, now: Time) -> Result<Opened, PostError> {
        let Some(window) = &self.opening else { return Ok(Opened::Already) };
        self.progress_at = now;
        let number = self.posted.wrapping_add(1) & NUMBER_MASK;
        let tag = Tag::new(TagOf::Send { number }, peer, self.generation);
        self.qp.post_bind(tag.to_u64(), window)?;
        self.posted = number;
        Ok(Opened::Later)
    }

    /// Posts writes and counts them.
    fn post(
        &mut self,
        writes: &mut [WriteImm<'_>],
        peer: PeerId,
        now: Time,
    ) -> Result<(), PostError> {
        if self.under_way() == 0 {
            self.progress_at = now;
        }
        let first = self.posted;
        for (write, number) in writes.iter_mut().zip(first.wrapping_add(1)..) {
            let of = TagOf::Send { number: number & NUMBER_MASK };
            write.wr_id = Tag::new(of, peer, self.generation).to_u64();
        }
        if let Some(last) = writes.last_mut() {
            last.signal = Signal::Completes;
        }
        self.qp.post_writes(writes)?;
        self.posted = first.wrapping_add(writes.len() as u32) & NUMBER_MASK;
        Ok(())
    }
}

impl Peer {
    pub(super) fn new(id: PeerId, ends: Ends, now: Time) -> Peer {
        Peer {
            id,
            lane: Lane::new(now),
            ends,
            told: Vec::new(),
            chosen: None,
            failures: Failures::default(),
            rail: 0,
            pair: None,
            ring: None,
            station: None,
            outbox: Outbox::default(),
            in_flight: VecDeque::with_capacity(MESSAGES_MAX as usize),
            lane_sent: 0,
            reroutes: Vec::new(),
            words: VecDeque::with_capacity(WORDS_MAX),
            early: Early::default(),
            fault: None,
            life: Life::Open,
            hungry: Hungry::No,
            idle_polls: 0,
        }
    }

    /// Whether messages go and come by the lane alone, and nothing is left to be said over TCP.
    pub(super) fn is_by_lane_alone(&self) -> bool {
        self.life == Life::Open
            && self.lane.way() == Way::Lane
            && self.lane.peer_has_switched()
            && self.hungry == Hungry::No
            && self.words.is_empty()
            && self.reroutes.is_empty()
    }

    /// Opens the ring to the peer's end, which was just connected.
    ///
    /// Errors: the device does not do that; the lane failed.
    pub(super) fn open_ring(&mut self, now: Time) -> Result<(), PostError> {
        let Some(pair) = self.pair.as_mut() else { return Ok(()) };
        match pair.open_ring(self.id, now) {
            Ok(Opened::Already) => _ = self.lane.arrived(),
            Ok(Opened::Later) => {}
            Err(error) => {
                self.lane.failed(Reason::Setup, now);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The key that the peer writes to the ring by.
    pub(super) fn ring_rkey(&self) -> Option<u32> {
        let (pair, ring) = (self.pair.as_ref()?, self.ring.as_ref()?);
        Some(pair.opening.as_ref().map_or(ring.region_rkey(), MemoryWindow::rkey))
    }

    /// A slot of the lane. The lane must be the way.
    pub(super) fn acquire(
        &mut self,
        bytes: usize,
        sends: &Pool,
        limits: &Limits,
    ) -> Result<SendSlot, SendRefusal> {
        let memory = SendMemory::Lane(self.outbox.acquire(bytes, sends, limits)?);
        Ok(SendSlot { peer: self.id, bytes, memory })
    }

    /// Sends what is flushed, as far as the peer's ring and the queue have room. How many messages.
    pub(super) fn pump(&mut self, now: Time) -> u64 {
        if self.lane.way() != Way::Lane {
            return 0;
        }
        let mut sent = 0;
        loop {
            match self.send_chain(now) {
                Ok(0) => return sent,
                Ok(messages) => sent += messages,
                Err(error) => {
                    tracing::warn!(peer = self.id.index(), errno = error.errno, "a lane's post");
                    self.lane.failed(Reason::Request, now);
                    return sent;
                }
            }
        }
    }

    fn send_chain(&mut self, now: Time) -> Result<u64, PostError> {
        let (Some(pair), Some(ring)) = (self.pair.as_mut(), &self.ring) else { return Ok(0) };
        let room = (SENDS_MAX - NOTES_MAX).saturating_sub(pair.under_way()) as usize;
        let Some(window) = pair.window.as_mut() else { return Ok(0) };
        let mut places = [Place { start: 0, end: 0 }; CHAIN_MAX];
        let (first, mut count) = (self.in_flight.len(), 0);
        while count < room.min(CHAIN_MAX)
            && let Some(bytes) = self.outbox.next_bytes()
            && let Some(place) = window.place(bytes)
        {
            window.sent(place);
            self.in_flight.push_back(self.outbox.take_next());
            places[count] = place;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let (released, inline_bytes_max) = (ring.tell(), pair.qp.inline_bytes_max());
        let mut writes = [WriteImm::EMPTY; CHAIN_MAX];
        for (index, (slot, bytes)) in self.in_flight.range(first..).enumerate() {
            let payload = if *bytes <= inline_bytes_max {
                Payload::Inline(&slot.bytes()[..*bytes])
            } else {
                Payload::Registered(slot.part().local(*bytes))
            };
            writes[index] = WriteImm {
                payload,
                remote_address: window.address(places[index]),
                rkey: window.rkey(),
                imm: Imm::message(self.lane_sent, released).to_u32(),
                ..WriteImm::EMPTY
            };
            self.lane_sent += 1;
        }
        self.idle_polls = 0;
        pair.post(&mut writes[..count], self.id, now)?;
        Ok(count as u64)
    }

    /// Tells the peer up to where its messages are released.
    pub(super) fn send_note(&mut self, now: Time) {
        self.send_without_message(Payload::Empty, now);
    }

    /// Writes a byte where the next message will lie, so that address and key are tried too.
    pub(super) fn send_try(&mut self, now: Time) {
        let room = self.pair.as_ref().and_then(|pair| pair.window.as_ref()?.place(1));
        // With a ring full of messages from before, the way alone is tried.
        self.send_without_message(room.map_or(Payload::Empty, |_| Payload::Inline(&[0])), now);
    }

    fn send_without_message(&mut self, payload: Payload<'_>, now: Time) {
        let (Some(pair), Some(ring)) = (self.pair.as_mut(), &self.ring) else { return };
        if pair.under_way() >= SENDS_MAX {
            return; // The next poll tries again.
        }
        let Some(window) = &pair.window else { return };
        let mut note = [WriteImm {
            payload,
            remote_address: window.place(1).map_or(0, |place| window.address(place)),
            rkey: window.rkey(),
            imm: Imm::note(ring.tell()).to_u32(),
            ..WriteImm::EMPTY
        }];
        self.idle_polls = 0;
        if pair.post(&mut note, self.id, now).is_err() {
            self.lane.failed(Reason::Request, now);
        }
    }

    /// Tells what was released, if it is much or has waited for long. Whether the peer still holds
    /// something, or something is untold.
    pub(super) fn tell(&mut self, patience: Patience, now: Time) -> Receiving {
        let (Some(ring), Some(_)) = (&self.ring, &self.pair) else {
            return Receiving::No; // The next offer says it.
        };
        if !self.lane.may_write() {
            return Receiving::Yes;
        }
        match ring.news() {
            News::None if ring.is_empty() => return Receiving::No,
            News::None => {}
            News::Some if patience == Patience::Some && self.idle_polls < IDLE_POLLS_MAX => {
                self.idle_polls += 1;
            }
            News::Some | News::Much => self.send_note(now),
        }
        Receiving::Yes
    }

    /// A receive was used up: by a message, or by a note. How many of this side's messages the
    /// peer is done with, their slots are free.
    pub(super) fn received(&mut self, done: Done, limits: &Limits) -> Result<Came, Wrong> {
        let (Some(pair), Some(ring)) = (self.pair.as_mut(), &self.ring) else {
            return Ok(Came::Nothing);
        };
        pair.recvs_due += 1;
        let breach = |what| Err(Wrong::Breach(Breach(what)));
        let (Some(imm), Some(window)) = (done.imm, pair.window.as_mut()) else {
            return breach("it wrote without a number, or before it was connected");
        };
        let imm = Imm::from_u32(imm);
        let released = window.released(imm).map_err(Wrong::Breach)?;
        self.in_flight.drain(..released.min(self.in_flight.len()));
        if imm.of == ImmOf::Note {
            return Ok(Came::Nothing);
        }
        if !imm.is_of(pair.taken) {
            return breach("a message is not the next one");
        }
        let bytes = done.bytes as usize;
        let record = ring.take(bytes).map_err(Wrong::Breach)?;
        pair.taken += 1;
        check_message(record.bytes(), limits.message_bytes_max).map_err(Wrong::Malformed)?;
        let slot = RecvSlot { peer: self.id, bytes, memory: RecvMemory::Lane(record) };
        let generation = pair.generation;
        self.early.push_of_lane(slot, generation);
        Ok(Came::Message)
    }

    /// Whether the next message that came may be given out.
    pub(super) fn may_give(&self, limits: &Limits) -> bool {
        let by_lane = self.ring.as_ref().map_or(0, |ring| ring.held_bytes());
        self.early.may_give(&self.lane, by_lane, limits.recv_bytes_max)
    }

    /// Whether slots of broken lanes were dropped that others may wait behind.
    pub(super) fn has_unused(&self) -> bool {
        self.reroutes.iter().any(Reroute::has_unused)
    }

    /// Posts the receives again that were used up.
    pub(super) fn post_recvs(&mut self, now: Time) {
        let Some(pair) = self.pair.as_mut() else { return };
        let count = std::mem::take(&mut pair.recvs_due);
        let tag = Tag::new(TagOf::Recv, self.id, pair.generation).to_u64();
        if count > 0 && pair.qp.post_recvs(count, tag).is_err() {
            self.lane.failed(Reason::Request, now);
        }
    }
}

/// Whether a release that is not told yet may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Some,
    None,
}

/// Whether messages of the peer are held, or their release untold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_reads_as_it_was_written() {
        for of in [TagOf::Recv, TagOf::Send { number: 0 }, TagOf::Send { number: NUMBER_MASK }] {
            for (peer, generation) in [(0, 0), (u32::MAX, 127), (7, 1)] {
                let tag = Tag { of, peer, generation };
                assert_eq!(Tag::from_u64(tag.to_u64()), tag);
            }
        }
    }
}
