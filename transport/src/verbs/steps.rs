//! The steps of a lane's life, done: queue pairs made and destroyed, words said over TCP.
//!
//! Owns what each [`Step`] does to the device and the peer. Which one comes is left to
//! [`super::lane`], messages to [`super::peer`].
//!
//! Invariant: the word that a lane is broken is said after its last completion was taken and its
//! queue pair destroyed: nothing is taken from it later.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;

use wire::{LaneMessage, LaneOffer, Time};

use super::call::Chosen;
use super::credit::{MESSAGES_MAX, RECVS_MAX, SendWindow};
use super::error::VerbsError;
use super::gid::Gid;
use super::lane::{Choice, Reason, Step, Way};
use super::peer::{Hungry, Life, Pair, Peer, Tag, TagOf, WORDS_MAX};
use super::queue_pair::{QpSpec, QueuePair, Remote};
use super::reroute::{Progress, Reroute};
use super::settings::Breakage;
use super::station::{Ready, SENDS_MAX, mtu_of, path};
use super::transport::{Posted, Tcp, Verbs};
use crate::api::SendRefusal;
use crate::control;

/// Payload that a request carries in itself, in bytes: short requests and answers fit.
const INLINE_BYTES: u32 = 128;
/// Packets are numbered by so many bits.
const PSN_MASK: u32 = 0xFF_FFFF;

/// Whether a step was done, or waits for credit of the TCP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    Waits,
}

impl Verbs {
    /// Does what is due for a peer, as far as the TCP link has credit for its words.
    pub(super) fn step(&mut self, number: u32) {
        self.tcp = Tcp::Awaited;
        loop {
            let now = self.now_here();
            if self.say_words(number) == Done::Waits {
                return self.hungry.add(number);
            }
            self.go_on_rerouting(number);
            let Some(peer) = self.open_peer(number) else { return };
            let Some(step) = peer.lane.step(now) else {
                if peer.hungry == Hungry::Yes {
                    self.hungry.add(number);
                }
                return;
            };
            let done = match step {
                Step::Call { generation } => {
                    self.call(number, generation, now);
                    Done::Yes
                }
                Step::Offer { generation, by } => self.offer(number, generation, &by, now),
                Step::Connect(offer) => self.connect(number, &offer, now),
                Step::Ready => self.ready(number),
                Step::Try { rkey } => self.try_out(number, rkey, now),
                Step::Switch => self.switch(number, now),
                Step::Break { generation, reason } => {
                    self.break_off(number, generation, reason, now)
                }
                Step::Reroute { delivered } => self.reroute(number, delivered, now),
                Step::Quit => {
                    self.destroy_pair(number);
                    self.drop_ring(number);
                    self.with(number, |peer| peer.lane.quitted())
                }
            };
            if done == Done::Waits {
                return self.hungry.add(number);
            }
        }
    }

    fn offer(&mut self, number: u32, generation: u32, by: &Choice, now: Time) -> Done {
        let Some(chosen) = self.chosen_rails(number, by, now) else {
            if generation == 1 {
                tracing::info!(peer = number, "no rail reaches one of its: messages go over TCP");
            }
            return self.with(number, |peer| peer.lane.failed(Reason::NoRail, now));
        };
        let offer = self.make_offer(number, generation, &chosen, now);
        self.with(number, |peer| peer.chosen = chosen.pair);
        match offer {
            Ok(offer) => {
                self.say(number, LaneMessage::Offer(offer));
                self.with(number, |peer| peer.lane.offered())
            }
            Err(error) => {
                let device = &chosen.rail.choice.device;
                tracing::debug!(peer = number, device, %error, "no lane for now");
                self.with(number, |peer| peer.lane.failed(Reason::Setup, now))
            }
        }
    }

    /// Makes a queue pair on the rail that was chosen, as it is now.
    fn make_offer(
        &mut self,
        number: u32,
        generation: u32,
        chosen: &Chosen,
        now: Time,
    ) -> Result<LaneOffer, VerbsError> {
        let at = self.station_at(&chosen.rail)?;
        let station = self.stations[at].as_ref().expect("it was just found");
        let ready = station.ready(&chosen.rail.choice, &self.settings)?;
        let offer = self.make_pair(number, generation, chosen, (at, &ready));
        if let (Err(_), Some(station)) = (&offer, &mut self.stations[at]) {
            station.is_full(now);
        }
        offer
    }

    /// Makes a queue pair with its receives posted, and a ring if there is none.
    fn make_pair(
        &mut self,
        number: u32,
        generation: u32,
        chosen: &Chosen,
        (at, ready): (usize, &Ready),
    ) -> Result<LaneOffer, VerbsError> {
        let (limits, settings) = (self.limits, self.settings);
        let choice = &chosen.rail.choice;
        let rail = self.count_of(&chosen.rail);
        let station = self.stations[at].as_mut().expect("it is there");
        let peer = self.peers[number as usize].as_mut().expect("it is stepped");
        let ring = match (&peer.ring, peer.station) {
            (Some(ring), Some(known)) if known == at && station.suits(ring) => Rc::clone(ring),
            _ => station.ring(&limits)?,
        };
        station.reserve()?;
        let spec =
            QpSpec { sends_max: SENDS_MAX, recvs_max: RECVS_MAX, inline_bytes: INLINE_BYTES };
        let psn = RandomState::new().build_hasher().finish() as u32 & PSN_MASK;
        let path = path(choice, ready, &settings, psn);
        let recvs = match settings.breakage {
            Breakage::FewReceives => 2,
            _ => RECVS_MAX as usize,
        };
        let tag = Tag::new(TagOf::Recv, peer.id, generation).to_u64();
        let made = QueuePair::new(&station.device, &station.cq, spec).and_then(|mut qp| {
            qp.init(&path)?;
            qp.post_recvs(recvs, tag).map_err(|error| {
                let (call, on) = ("ibv_post_recv", station.device.name().to_owned());
                VerbsError::Call { call, on, errno: error.errno }
            })?;
            Ok((qp, ring.window()?))
        });
        let (qp, opening) = made.inspect_err(|_| station.unreserve())?;
        let standing = ring.standing();
        let offer = LaneOffer {
            generation,
            rail: chosen.index,
            qp_number: qp.number(),
            psn,
            lid: ready.port.lid,
            gid: choice.gid.0,
            mtu_code: ready.mtu as u8,
            messages_max: MESSAGES_MAX,
            messages_held: standing.messages_held,
            ring_address: ring.address(),
            ring_bytes: ring.ring_bytes() as u64,
            position: standing.position,
            released: standing.released,
        };
        (peer.ring, peer.station, peer.rail) = (Some(ring), Some(at), rail);
        peer.pair = Some(Pair {
            opening,
            qp,
            path,
            gid: choice.gid,
            lid: ready.port.lid,
            generation,
            window: None,
            posted: 0,
            completed: 0,
            progress_at: Time::from_nanos(0),
            recvs_due: 0,
            taken: 0,
        });
        Ok(offer)
    }

    fn connect(&mut self, number: u32, offer: &LaneOffer, now: Time) -> Done {
        let message_bytes_max = self.limits.message_bytes_max as u64;
        if offer.ring_bytes < 2 * message_bytes_max.next_multiple_of(64) {
            let reason = Reason::RingTooShort;
            tracing::info!(peer = number, ring_bytes = offer.ring_bytes, %reason, "TCP only");
            self.say(number, LaneMessage::None { reason: reason as u8 });
            return self.with(number, |peer| peer.lane.refuse());
        }
        let Some(peer) = self.open_peer(number) else { return Done::Yes };
        let Some(pair) = &mut peer.pair else { return Done::Yes };
        pair.path.mtu = pair.path.mtu.min(mtu_of(offer.mtu_code));
        let gid = Gid(offer.gid);
        let remote = Remote { qp_number: offer.qp_number, psn: offer.psn, lid: offer.lid, gid };
        match pair.qp.connect(&pair.path, &remote) {
            Ok(()) => {
                pair.window = Some(SendWindow::new(offer));
                peer.lane.connected();
                if let Err(error) = peer.open_ring(now) {
                    tracing::debug!(peer = number, errno = error.errno, "a ring is not opened");
                    self.windows_refused(number);
                }
            }
            Err(error) => {
                tracing::warn!(peer = number, %error, "a lane cannot be connected");
                peer.lane.failed(Reason::Setup, now);
            }
        }
        Done::Yes
    }

    fn ready(&mut self, number: u32) -> Done {
        let wrong = u32::from(self.settings.breakage == Breakage::WrongRkey);
        let Some(peer) = self.open_peer(number) else { return Done::Yes };
        let rkey = peer.ring_rkey().expect("a ring that was opened is there");
        let (at, generation) = (peer.station, peer.lane.generation());
        let by_window = peer.pair.as_ref().is_some_and(|pair| pair.opening.is_some());
        peer.lane.ready();
        if by_window && let Some(station) = at.and_then(|at| self.stations[at].as_mut()) {
            station.window_bound();
            self.counts.windows += 1;
        }
        self.say(number, LaneMessage::Ready { generation, rkey: rkey ^ wrong });
        Done::Yes
    }

    /// A window was not bound, of a device that has them as it says.
    pub(super) fn windows_refused(&mut self, number: u32) {
        let at = self.peers[number as usize].as_deref().and_then(|peer| peer.station);
        let limits = self.limits;
        if let Some(station) = at.and_then(|at| self.stations[at].as_mut()) {
            station.windows_refused(&limits);
        }
    }

    fn try_out(&mut self, number: u32, rkey: u32, now: Time) -> Done {
        self.with(number, |peer| {
            if let Some(window) = peer.pair.as_mut().and_then(|pair| pair.window.as_mut()) {
                window.open(rkey);
            }
            peer.lane.tried();
            peer.send_try(now);
        })
    }

    /// All that was acquired before goes before the word over TCP, all later by the lane.
    fn switch(&mut self, number: u32, now: Time) -> Done {
        let Some(peer) = self.open_peer(number) else { return Done::Yes };
        if peer.hungry == Hungry::Yes {
            return Done::Waits; // What an earlier lane left goes before.
        }
        let (generation, port) =
            (peer.lane.generation(), peer.pair.as_ref().map_or(0, |pair| pair.path.port));
        self.say(number, LaneMessage::Switch { generation });
        if self.say_words(number) == Done::Waits {
            // It is said by the next try, and nothing is acquired meanwhile: see `Hungry`.
            self.with(number, |peer| {
                peer.words.pop_back();
            });
            return Done::Waits;
        }
        self.counts.switches += 1;
        let device = self.device_name(number);
        tracing::info!(peer = number, device, port, generation, "messages go by RDMA");
        self.with(number, |peer| peer.lane.switched(now))
    }

    fn break_off(&mut self, number: u32, generation: u32, reason: Reason, now: Time) -> Done {
        let device = self.device_name(number);
        let taken = self.destroy_pair(number);
        let Some(peer) = self.open_peer(number) else { return Done::Yes };
        if peer.lane.way() != Way::Tcp {
            self.counts.breaks += 1;
            tracing::warn!(peer = number, device, %reason, "a lane broke: messages go over TCP");
        }
        self.with(number, |peer| {
            let failed = peer.chosen.take().filter(|_| reason != Reason::Stranger);
            if let Some(pair) = failed {
                peer.failures.note(pair, now); // The next lane takes another way, if there is one.
            }
        });
        let reason = reason as u8;
        self.say(number, LaneMessage::Broken { generation, delivered: taken, reason });
        self.with(number, |peer| peer.lane.broken(now))
    }

    /// Takes what has come by the lane, and destroys this end. How many messages were taken.
    pub(super) fn destroy_pair(&mut self, number: u32) -> u64 {
        let Some(peer) = self.peers[number as usize].as_deref_mut() else { return 0 };
        let Some(pair) = &mut peer.pair else { return 0 };
        if let Err(error) = pair.qp.fail() {
            tracing::debug!(peer = number, %error, "a queue pair is failed already");
        }
        let at = peer.station.expect("a pair is on a station");
        self.take_completions_of(at);
        let peer = self.peers[number as usize].as_deref_mut();
        let taken = peer.and_then(|peer| peer.pair.take()).map_or(0, |pair| pair.taken);
        if let Some(station) = &mut self.stations[at] {
            station.unreserve();
        }
        self.give_up_lost(at);
        taken
    }

    /// Forgets the peer's ring: its lane never comes again, or on another device.
    pub(super) fn drop_ring(&mut self, number: u32) {
        if let Some(peer) = self.peers[number as usize].as_deref_mut() {
            assert!(peer.pair.is_none(), "a ring goes after the queue pair that writes to it");
            (peer.ring, peer.station) = (None, None);
        }
    }

    fn reroute(&mut self, number: u32, delivered: u64, now: Time) -> Done {
        let Some(peer) = self.open_peer(number) else { return Done::Yes };
        let outbox = std::mem::take(&mut peer.outbox);
        // Those that were told as released were delivered; the others begin at this number.
        let first = peer.lane_sent - peer.in_flight.len() as u64;
        if delivered < first || delivered > peer.lane_sent {
            self.fail_peer(number, wire::Malformed::Field { name: "delivered" });
            return Done::Yes;
        }
        let taken = (delivered - first) as usize;
        let sent = std::mem::take(&mut peer.in_flight).into_iter().skip(taken);
        peer.reroutes.push(Reroute::new(sent, outbox));
        peer.lane_sent = 0;
        peer.lane.rerouted(now);
        Done::Yes
    }

    /// Goes on with what broken lanes left. Nothing else is given a place on the link meanwhile.
    fn go_on_rerouting(&mut self, number: u32) {
        let Some(peer) = self.peers[number as usize].as_deref_mut() else { return };
        let (id, mut hungry) = (peer.id, Hungry::No);
        for reroute in &mut peer.reroutes {
            if hungry == Hungry::No && reroute.go_on(id, &mut *self.beneath) == Progress::Waits {
                hungry = Hungry::Yes;
            }
        }
        if !peer.reroutes.is_empty() {
            self.beneath_posted = Posted::Yes;
        }
        peer.hungry = hungry;
        peer.reroutes.retain(|reroute| !reroute.is_over());
    }

    pub(super) fn say(&mut self, number: u32, word: LaneMessage) {
        if let Some(peer) = self.open_peer(number) {
            assert!(peer.words.len() < WORDS_MAX, "a step is done while words wait");
            peer.words.push_back(word);
        }
    }

    /// Posts the words for a peer on the TCP link.
    fn say_words(&mut self, number: u32) -> Done {
        let Some(peer) = self.peers[number as usize].as_deref_mut() else { return Done::Yes };
        if peer.life == Life::Closing {
            return Done::Yes;
        }
        while let Some(word) = peer.words.front() {
            match self.beneath.acquire(peer.id, control::MESSAGE_BYTES) {
                Ok(mut slot) => {
                    control::write(slot.bytes_mut(), word);
                    self.beneath.post(slot);
                    self.beneath_posted = Posted::Yes;
                    peer.words.pop_front();
                }
                Err(SendRefusal::NoCredit) => {
                    peer.hungry = Hungry::Yes;
                    return Done::Waits;
                }
                Err(SendRefusal::NoSuchPeer | SendRefusal::TooLarge { .. }) => {
                    peer.words.clear(); // The connection is over, and its event on the way.
                }
            }
        }
        peer.hungry = Hungry::No;
        Done::Yes
    }

    /// Runs `change` on an open peer.
    fn with(&mut self, number: u32, change: impl FnOnce(&mut Peer)) -> Done {
        if let Some(peer) = self.open_peer(number) {
            change(peer);
        }
        Done::Yes
    }

    fn device_name(&self, number: u32) -> String {
        let peer = self.peers[number as usize].as_deref();
        let at = peer.and_then(|peer| peer.station);
        let station = at.and_then(|at| self.stations[at].as_ref());
        station.map_or_else(String::new, |station| station.device.name().to_owned())
    }
}
