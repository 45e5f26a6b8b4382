//! What comes: over TCP from the back end beneath, and by lanes from the devices.
//!
//! Owns taking it, in the order in which it was sent. What the words of a peer's lane mean is left
//! to [`super::lane`], a peer's ring to [`super::peer`].
//!
//! Invariant: news from beneath is taken before completions, and a peer's word before what it sent
//! after it.

use wire::{LaneMessage, Malformed, Time};

use super::completion::{Completion, POLL_MAX, Status};
use super::lane::{Arrived, Reason};
use super::peer::{Came, Life, Tag, TagOf, Wrong};
use super::transport::Verbs;
use crate::api::{Event, PeerId};
use crate::control;
use crate::slot::RecvSlot;

impl Verbs {
    /// Deals with what the TCP links brought.
    pub(super) fn take_news(&mut self, events: &mut Vec<Event>) {
        let mut news = std::mem::take(&mut self.news);
        self.beneath.poll(&mut news);
        for event in news.drain(..) {
            match event {
                Event::Received { peer, slot } if control::is_lane_message(slot.bytes()) => {
                    let word = control::read(slot.bytes());
                    self.beneath.release(slot);
                    match word {
                        Ok(word) => self.hear(peer, &word, events),
                        Err(malformed) => self.fail_peer(peer.index() as u32, malformed),
                    }
                }
                Event::Received { peer, slot } => self.pass_of_tcp(peer, slot, events),
                Event::Closed { peer, fault } => self.closed.push((peer, fault)),
            }
        }
        self.news = news;
    }

    fn pass_of_tcp(&mut self, id: PeerId, slot: RecvSlot, events: &mut Vec<Event>) {
        let Some(peer) = self.peers[id.index()].as_deref_mut() else { return };
        if let Some(slot) = peer.early.pass_of_tcp(slot, &peer.lane) {
            events.push(Event::Received { peer: id, slot });
        }
    }

    fn hear(&mut self, id: PeerId, word: &LaneMessage, events: &mut Vec<Event>) {
        let (number, now) = (id.index() as u32, self.now_here());
        let Some(peer) = self.open_peer(number) else { return };
        tracing::debug!(peer = number, ?word, "a peer says");
        if let Err(breach) = peer.lane.hear(word, now) {
            tracing::warn!(peer = number, breach = breach.0, "the peer breaks the rules of lanes");
            return self.fail_peer(number, Malformed::Field { name: "lane" });
        }
        self.give_out_early_of(number, events);
        self.to_step.add(number);
        self.to_pump.add(number);
    }

    /// Gives out what waits, as far as it may be now.
    pub(super) fn give_out_early(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.early.len() {
            let number = self.early.get(0);
            self.early.swap_remove(0);
            self.give_out_early_of(number, events);
        }
    }

    fn give_out_early_of(&mut self, number: u32, events: &mut Vec<Event>) {
        let limits = self.limits;
        let Some(peer) = self.open_peer(number) else { return };
        while peer.may_give(&limits) {
            let Some(slot) = peer.early.give() else { break };
            events.push(Event::Received { peer: peer.id, slot });
        }
        if !peer.early.is_empty() {
            self.early.add(number);
        }
    }

    /// Whether something that waits may be given out.
    pub(super) fn could_give_out(&self) -> bool {
        let limits = self.limits;
        let could = |number: u32| {
            self.peers[number as usize].as_ref().is_some_and(|peer| peer.may_give(&limits))
        };
        (0..self.early.len()).any(|index| could(self.early.get(index)))
    }

    /// Deals with all requests that are over.
    pub(super) fn take_completions(&mut self) {
        for at in 0..self.stations.len() {
            self.take_completions_of(at);
        }
    }

    /// The same of one device. What a park has found comes first: it is older.
    pub(super) fn take_completions_of(&mut self, at: usize) {
        while let Some(completion) = self.landed.pop_front() {
            let now = self.now_here();
            self.complete(completion, now);
        }
        let mut completions = [Completion::EMPTY; POLL_MAX];
        loop {
            let Some(station) = &mut self.stations[at] else { return };
            match station.cq.poll(&mut completions) {
                Ok(0) => return,
                Ok(count) => {
                    let now = self.now_here();
                    for &completion in &completions[..count] {
                        self.complete(completion, now);
                    }
                    if count < POLL_MAX {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(device = station.device.name(), %error, "a device is given up");
                    let now = self.now_here();
                    return self.lose_station(at, Reason::Device, now);
                }
            }
        }
    }

    fn complete(&mut self, completion: Completion, now: Time) {
        let tag = Tag::from_u64(completion.wr_id);
        let limits = self.limits;
        let peer = self.peers.get_mut(tag.peer as usize).and_then(Option::as_deref_mut);
        let Some(peer) = peer else { return };
        // What is of an earlier generation comes too late: its end was told.
        let Some(pair) = peer.pair.as_mut().filter(|pair| pair.is_of(tag)) else { return };
        let done = match completion.outcome {
            Ok(done) => done,
            Err(failure) => {
                if peer.lane.is_up() {
                    tracing::info!(peer = tag.peer, %failure, "a request of a lane failed");
                }
                peer.lane.failed(reason_of(failure.status), now);
                if failure.status == Status::NOT_BOUND {
                    self.windows_refused(tag.peer);
                }
                return self.to_step.add(tag.peer);
            }
        };
        let came = match tag.of {
            TagOf::Send { number } => {
                pair.completed(number, now);
                if peer.lane.arrived() == Arrived::Awaited {
                    self.to_step.add(tag.peer);
                }
                Ok(Came::Nothing)
            }
            TagOf::Recv => {
                self.to_repost.add(tag.peer);
                peer.received(done, &limits)
            }
        };
        if peer.outbox.next_bytes().is_some() {
            self.to_pump.add(tag.peer); // There may be room now.
        }
        match came {
            Ok(Came::Message) if peer.life == Life::Open => {
                self.counts.messages_received += 1;
                self.receiving.add(tag.peer);
                self.early.add(tag.peer);
            }
            Ok(_) => {}
            Err(wrong) => self.wrong(tag.peer, wrong),
        }
    }

    fn wrong(&mut self, number: u32, wrong: Wrong) {
        match wrong {
            Wrong::Malformed(malformed) => self.fail_peer(number, malformed),
            Wrong::Breach(breach) => {
                let now = self.now_here();
                tracing::warn!(peer = number, breach = breach.0, "the peer breaks a lane's rules");
                if let Some(peer) = self.open_peer(number) {
                    peer.lane.failed(Reason::Rules, now);
                }
                self.to_step.add(number);
            }
        }
    }
}

fn reason_of(status: Status) -> Reason {
    match status {
        Status::REMOTE_ACCESS => Reason::Access,
        Status::RETRIES_EXCEEDED => Reason::Unanswered,
        Status::NO_RECEIVE => Reason::NoReceive,
        // What failed the queue pair is told by another completion, or by an event.
        Status::FLUSHED => Reason::QueuePair,
        _ => Reason::Request,
    }
}
