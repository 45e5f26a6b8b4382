//! RDMA beside TCP: a back end whose every peer is a TCP link, and has a lane where both ends have
//! a device.
//!
//! Owns the back end beneath, the devices and the peers, and moves messages by whichever way is
//! theirs. A lane's life is left to [`super::lane`], what is done in it to [`super::steps`], what
//! happens by itself to [`super::watch`].
//!
//! Invariant: a peer lives as long as its TCP link; the slots of one peer arrive in the order in
//! which they were acquired, whichever way each goes.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use wire::{Malformed, Time};

use super::bell::Bell;
use super::completion::Completion;
use super::error::VerbsError;
use super::gid::check;
use super::lane::Way;
use super::peer::{Hungry, Life, Patience, Peer, Receiving};
use super::rails::Ends;
use super::roll::Roll;
use super::settings::VerbsSettings;
use super::shown::Shown;
use super::station::{Station, wish};
use crate::api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Standing, Transport,
    Waker,
};
use crate::desk::{Beneath, Rung};
use crate::pool::PoolSlot;
use crate::slot::{RecvMemory, RecvSlot, SendMemory, SendSlot};
use crate::starved::Starved;
use crate::tcp::{self, OpenError};

/// The back end's name.
pub(super) const NAME: &str = "verbs";
/// Polls between two looks at the clock; a power of two.
const POLLS_PER_CLOCK: u32 = 32;
const _: () = assert!(POLLS_PER_CLOCK.is_power_of_two());

/// TCP with RDMA beside it.
pub struct Verbs {
    pub(super) peers: Vec<Option<Box<Peer>>>,
    pub(super) stations: Vec<Option<Station>>,
    pub(super) beneath: Box<dyn Beneath>,
    pub(super) settings: VerbsSettings,
    pub(super) limits: Limits,
    pub(super) counts: LaneCounts,
    pub(super) rail_counts: Vec<RailCount>,
    pub(super) shown: Shown,
    /// Which of equally near rails the first peer gets: another one for each core.
    pub(super) first_turn: usize,
    /// Whether something was posted beneath and not flushed.
    pub(super) beneath_posted: Posted,
    pub(super) tcp: Tcp,
    /// Peers whose lane may have a step to do.
    pub(super) to_step: Roll,
    /// Peers whose step waits for credit of the TCP link; the back end beneath wakes for it.
    pub(super) hungry: Roll,
    /// When requests and devices are looked at next.
    pub(super) look_at: Time,
    bell: Bell,
    pub(super) news: Vec<Event>,
    pub(super) closed: Vec<(PeerId, Fault)>,
    /// Completions that a park has found, for the next poll.
    pub(super) landed: VecDeque<Completion>,
    /// Peers with posted slots that are not flushed, with room that came, with receives used up.
    pub(super) to_flush: Roll,
    pub(super) to_pump: Roll,
    pub(super) to_repost: Roll,
    /// Peers of whose messages some are held, or their release is untold.
    pub(super) receiving: Roll,
    /// Peers with messages that came by the lane and are not given out.
    pub(super) early: Roll,
    pub(super) starved: Starved,
    bytes_sent: u64,
    polls: u32,
}

/// What lanes did so far, for reports and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Messages that were sent by a lane, those included that went again over TCP.
    pub messages_sent: u64,
    /// Messages that came by a lane.
    pub messages_received: u64,
    /// How often a peer's messages began to go by a lane.
    pub switches: u64,
    /// How often a lane in use broke.
    pub breaks: u64,
    /// How often a ring was opened to its peer's queue pair alone, by a memory window.
    pub windows: u64,
    /// Memory registrations that there are now, of all devices.
    pub registrations: u64,
}

/// What one port has carried for one core, for reports and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RailCount {
    /// The device, as `rdma link` shows it.
    pub device: String,
    /// Its port, from 1.
    pub port: u8,
    /// Peers whose messages go over it now.
    pub lanes: u32,
    /// Messages that were sent over it, those included that went again over TCP.
    pub messages_sent: u64,
}

/// Whether anything but words about lanes can come or go over TCP. Asking the back end beneath
/// costs system calls, which lanes are there to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tcp {
    /// It can, or nobody has looked yet: TCP is polled each time.
    Awaited,
    /// All messages of all peers go by lanes: TCP is polled with each look.
    Quiet,
}

/// Whether something waits for a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    Yes,
    No,
}

impl Verbs {
    /// No peers yet. The thread that calls is the one that polls.
    ///
    /// Errors: there is no device with an active port that fits the settings, or no TCP.
    pub fn open(settings: VerbsSettings, limits: Limits) -> Result<Verbs, OpenError> {
        let mut shown = Shown::new();
        let start = Time::from_nanos(0); // Of the clock beneath, which begins when that is opened.
        let devices = shown.look(start).map_err(OpenError::Verbs)?;
        check(devices, &wish(Ends::LOOP_BACK.local, &settings)).map_err(OpenError::Verbs)?;
        let os = |call| {
            move |error: rustix::io::Errno| OpenError::Os {
                transport: NAME,
                call,
                error: error.into(),
            }
        };
        let mut beneath = tcp::open_beneath(limits)?;
        let bell = Bell::new().map_err(os("epoll_create1"))?;
        beneath.watch(bell.fd()).map_err(os("epoll_ctl"))?;
        beneath.give_out_lane_messages();
        Ok(Verbs {
            peers: Vec::new(),
            stations: Vec::new(),
            look_at: beneath.now(),
            beneath,
            settings,
            limits,
            counts: LaneCounts::default(),
            rail_counts: Vec::new(),
            shown,
            first_turn: rustix::thread::sched_getcpu(),
            beneath_posted: Posted::No,
            tcp: Tcp::Awaited,
            to_step: Roll::default(),
            hungry: Roll::default(),
            bell,
            news: Vec::new(),
            closed: Vec::new(),
            landed: VecDeque::new(),
            to_flush: Roll::default(),
            to_pump: Roll::default(),
            to_repost: Roll::default(),
            receiving: Roll::default(),
            early: Roll::default(),
            starved: Starved::default(),
            bytes_sent: 0,
            polls: 0,
        })
    }

    /// What lanes did so far.
    pub fn lane_counts(&self) -> LaneCounts {
        let registrations =
            self.stations.iter().flatten().map(Station::registrations).sum::<usize>();
        LaneCounts { registrations: registrations as u64, ..self.counts }
    }

    /// What each rail has carried that lanes were made over, in the order of the first of each.
    pub fn rail_counts(&self) -> Vec<RailCount> {
        let mut counts = self.rail_counts.clone();
        let peers = self.peers.iter().flatten();
        for peer in peers.filter(|peer| peer.lane.way() == Way::Lane) {
            counts[peer.rail].lanes += 1;
        }
        counts
    }

    /// Whether what is acquired for this peer now goes by its lane.
    pub fn goes_by_lane(&self, peer: PeerId) -> bool {
        let peer = self.peers.get(peer.index()).and_then(Option::as_deref);
        peer.is_some_and(|peer| peer.lane.way() == Way::Lane)
    }

    pub(super) fn now_here(&self) -> Time {
        self.beneath.now()
    }

    pub(super) fn open_peer(&mut self, number: u32) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(number as usize)?.as_deref_mut()?;
        (peer.life == Life::Open).then_some(peer)
    }

    /// Has the sleeps of this transport end when a device has something.
    pub(super) fn watch_station(&self, station: &Station) -> Result<(), VerbsError> {
        let added = self.bell.add(station.cq.fd());
        let added = added.and_then(|()| self.bell.add(station.device.async_fd()));
        added.map_err(|errno| VerbsError::Call {
            call: "epoll_ctl",
            on: station.device.name().to_owned(),
            errno: errno.raw_os_error(),
        })
    }

    /// Ends a connection whose peer sends what makes no sense.
    pub(super) fn fail_peer(&mut self, number: u32, malformed: Malformed) {
        let Some(peer) = self.open_peer(number) else { return };
        peer.fault = Some(Fault::Malformed(malformed));
        peer.life = Life::Closing;
        let id = peer.id;
        self.tcp = Tcp::Awaited;
        self.beneath.close(id);
    }

    /// Posts receives again, sends what has room now, and tells what was released.
    pub(super) fn move_on(&mut self, patience: Patience) {
        if self.to_repost.is_empty() && self.to_pump.is_empty() && self.receiving.is_empty() {
            return;
        }
        let now = self.now_here();
        while let Some(number) = self.to_repost.pop() {
            self.each(number, |peer| peer.post_recvs(now));
        }
        while let Some(number) = self.to_pump.pop() {
            self.pump(number, now);
        }
        let mut index = 0;
        while index < self.receiving.len() {
            let number = self.receiving.get(index);
            let peer = self.peers[number as usize].as_deref_mut();
            match peer.map_or(Receiving::No, |peer| peer.tell(patience, now)) {
                Receiving::Yes => index += 1,
                Receiving::No => self.receiving.swap_remove(index),
            }
        }
    }

    fn pump(&mut self, number: u32, now: Time) {
        let Some(peer) = self.open_peer(number) else { return };
        let sent = peer.pump(now);
        let (failed, rail) = (peer.lane.way() == Way::Closed, peer.rail);
        if sent > 0 {
            self.counts.messages_sent += sent;
            self.rail_counts[rail].messages_sent += sent;
        }
        if failed {
            self.to_step.add(number);
        }
    }

    /// Does something for a peer, whatever comes of it for its lane.
    fn each(&mut self, number: u32, act: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers[number as usize].as_deref_mut() {
            act(peer);
            if !peer.lane.is_up() {
                self.to_step.add(number);
            }
        }
    }

    /// Ends the peers whose link is over, after the last message of their lanes.
    fn end_closed(&mut self, events: &mut Vec<Event>) {
        for index in 0..self.closed.len() {
            let (peer, fault) = self.closed[index].clone();
            let number = peer.index() as u32;
            self.destroy_pair(number);
            self.give_out_early(events);
            let mut ended = self.peers[peer.index()].take();
            if let Some(ended) = ended.as_deref_mut().filter(|ended| ended.life == Life::Open) {
                let rest = std::iter::from_fn(|| ended.early.give_open(&ended.lane));
                events.extend(rest.map(|slot| Event::Received { peer, slot }));
            }
            let fault = ended.and_then(|ended| ended.fault).unwrap_or(fault);
            events.push(Event::Closed { peer, fault });
        }
        self.closed.clear();
    }

    fn post_by_lane(&mut self, peer: PeerId, slot: PoolSlot, bytes: usize) {
        let Some(entry) = self.open_peer(peer.index() as u32) else { return };
        if entry.outbox.is_of(&slot) {
            entry.outbox.post(slot, bytes);
            return self.to_flush.add(peer.index() as u32);
        }
        let Verbs { peers, beneath, .. } = self;
        let entry = peers[peer.index()].as_deref_mut().expect("it is open");
        let reroute = entry.reroutes.iter_mut().find(|reroute| reroute.has(&slot));
        let reroute = reroute.expect("a slot of another transport was posted");
        reroute.post(slot, bytes, &mut **beneath);
        self.beneath_posted = Posted::Yes;
        self.to_step.add(peer.index() as u32);
    }

    /// Lists the peers of whose slots some were dropped: others may have waited behind them.
    fn list_unused(&mut self) {
        let dropped: usize =
            self.stations.iter().flatten().map(|station| station.sends.take_unused()).sum();
        if dropped == 0 {
            return;
        }
        for number in 0..self.peers.len() as u32 {
            let Some(peer) = self.open_peer(number) else { continue };
            let (of_lane, of_before) = (peer.outbox.has_unused(), peer.has_unused());
            if of_lane {
                self.to_flush.add(number);
            }
            if of_before {
                self.to_step.add(number);
            }
        }
    }
}

impl Transport for Verbs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn integrity(&self) -> Integrity {
        Integrity::NeedsChecksum
    }

    fn now(&self) -> Time {
        self.beneath.now()
    }

    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError> {
        let Link::Tcp(socket) = link else {
            return Err(AdoptError::WrongKind { transport: NAME });
        };
        let ends = ends_of(&socket);
        let id = self.beneath.adopt(Link::Tcp(socket))?;
        assert_eq!(id.index(), self.peers.len(), "peers are numbered as beneath");
        self.peers.push(Some(Box::new(Peer::new(id, ends, self.beneath.now()))));
        self.tcp = Tcp::Awaited;
        self.to_step.add(id.index() as u32);
        Ok(id)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        self.polls = self.polls.wrapping_add(1);
        let is_due = self.polls.is_multiple_of(POLLS_PER_CLOCK) && self.now_here() >= self.look_at;
        if is_due || self.tcp == Tcp::Awaited {
            self.take_news(events);
            if self.beneath.take_rung() == Rung::Yes {
                let now = self.now_here();
                self.answer_bell(now);
            }
        }
        self.take_completions();
        if is_due {
            let now = self.now_here();
            self.look(now);
        }
        self.step_all();
        self.give_out_early(events);
        self.move_on(Patience::Some);
        self.end_closed(events);
        if std::mem::replace(&mut self.beneath_posted, Posted::No) == Posted::Yes {
            self.beneath.flush();
        }
    }

    fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        let limits = self.limits;
        let entry = self.peers.get_mut(peer.index()).and_then(Option::as_deref_mut);
        let entry = entry.filter(|entry| entry.life == Life::Open);
        let entry = entry.ok_or(SendRefusal::NoSuchPeer)?;
        let station = entry.station.and_then(|at| self.stations[at].as_ref());
        let slot = match (entry.lane.way(), station) {
            (Way::Tcp, _) if entry.hungry == Hungry::No => {
                self.tcp = Tcp::Awaited;
                return self.beneath.acquire(peer, bytes);
            }
            (Way::Lane, Some(station)) => entry.acquire(bytes, &station.sends, &limits),
            _ if bytes > limits.message_bytes_max => {
                Err(SendRefusal::TooLarge { bytes, bytes_max: limits.message_bytes_max })
            }
            _ => Err(SendRefusal::NoCredit),
        };
        if matches!(slot, Err(SendRefusal::NoCredit)) {
            self.starved.note(peer.index() as u32, bytes);
        }
        slot
    }

    fn post(&mut self, slot: SendSlot) {
        self.bytes_sent += slot.bytes as u64;
        match slot.memory {
            SendMemory::Lane(memory) => self.post_by_lane(slot.peer, memory, slot.bytes),
            memory => {
                self.beneath_posted = Posted::Yes;
                self.beneath.post(SendSlot { memory, ..slot });
            }
        }
    }

    fn flush(&mut self) {
        let posted = std::mem::replace(&mut self.beneath_posted, Posted::No);
        if posted == Posted::Yes || self.tcp == Tcp::Awaited {
            self.beneath.flush();
        }
        self.list_unused();
        if self.to_flush.is_empty() {
            return;
        }
        let now = self.now_here();
        while let Some(number) = self.to_flush.pop() {
            if let Some(peer) = self.open_peer(number) {
                peer.outbox.flush();
                self.pump(number, now);
            }
        }
    }

    fn release(&mut self, slot: RecvSlot) {
        match slot.memory {
            RecvMemory::Lane(record) => drop(record), // Told by the next message, note or offer.
            _ => self.beneath.release(slot),
        }
    }

    fn park(&mut self, deadline: Time) {
        self.spin_then_sleep(deadline);
        self.polls |= POLLS_PER_CLOCK - 1; // The next poll looks at the clock.
        self.beneath.forget_wakers();
    }

    fn waker(&self) -> Waker {
        self.beneath.waker()
    }

    fn close(&mut self, peer: PeerId) {
        if let Some(entry) = self.open_peer(peer.index() as u32) {
            entry.life = Life::Closing;
        }
        self.tcp = Tcp::Awaited;
        self.beneath.close(peer);
    }

    fn set_standing(&mut self, peer: PeerId, standing: Standing) {
        let (number, now) = (peer.index() as u32, self.now_here());
        if let Some(entry) = self.open_peer(number) {
            entry.lane.set_standing(standing, now);
            self.to_step.add(number);
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

/// The addresses of a link, as far as the kernel tells.
fn ends_of(socket: &TcpStream) -> Ends {
    Ends {
        local: socket.local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |at| at.ip()),
        peer: socket.peer_addr().ok().map(|at| at.ip()),
    }
}
