//! The network between the endpoints: virtual time, connections, and what is under way.
//!
//! Owns every message from its flush to its poll, and rolls the dice over it. Slots, outboxes and
//! the trait are left to `endpoint`, driving it to `world`.
//!
//! Invariant: `now_ns` never goes back, and what is due at one moment happens in the order in
//! which it was sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use wire::{HEADER_BYTES, Malformed, framed_bytes};

use super::dice::Dice;
use super::endpoint::EndpointId;
use super::faults::Faults;
use super::frame::{Account, Buffer, Charge};
use super::link::Side;
use super::trace::Trace;
use crate::api::{Fault, Limits};
use crate::tcp::LINK_SILENCE_MAX;

/// What `park` of an endpoint does to the world's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parking {
    /// It goes on to the next delivery or to the deadline: whoever parks drives the world.
    AdvancesTime,
    /// It notes the deadline and returns: `World::step` goes on to the next delivery or to the
    /// earliest deadline noted, so that no endpoint sleeps past another's timer.
    NotesDeadline,
}

/// What has happened to messages so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages flushed into the network.
    pub sent: u64,
    /// Messages that arrived at an open end, copies included.
    pub delivered: u64,
    /// Messages lost by chance.
    pub lost: u64,
    /// Messages lost since the way was shut.
    pub walled: u64,
    /// Messages that got a copy.
    pub duplicated: u64,
    /// Messages held back so that others could overtake.
    pub reordered: u64,
    /// Messages with a bit flipped.
    pub corrupted: u64,
    /// Connections broken.
    pub cut: u64,
    /// Partitions begun by chance.
    pub partitions: u64,
}

/// One end of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) wire: usize,
    pub(super) side: Side,
}

/// What a poll of a port found.
pub(super) enum Taken {
    Nothing,
    Message { buffer: Buffer, held: Charge },
    Over(Fault),
}

/// The whole network.
pub(super) struct Network {
    pub(super) now_ns: u64,
    pub(super) faults: Faults,
    pub(super) parking: Parking,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    dice: Dice,
    /// What happens, by when and by which number.
    agenda: BTreeMap<(u64, u64), Due>,
    scheduled: u64,
    stations: Vec<Station>,
    wires: Vec<[WireEnd; 2]>,
    orphans: Vec<(Port, Weak<()>)>,
    walls: Vec<Wall>,
}

/// What happens at a port.
enum Due {
    Message { to: Port, inbound: Inbound },
    PeerClosed { to: Port },
}

/// A message under way. Its sender is charged for it until it is taken or gone; a copy is free.
struct Inbound {
    buffer: Buffer,
    _charge: Option<Charge>,
}

/// A clock that begins somewhere and runs at a rate of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    ahead_ns: u64,
    /// Its nanoseconds in a million of the world's.
    rate_ppm: u64,
}

const WHOLE_PPM: u64 = 1_000_000;

impl Clock {
    /// What it shows at a moment of the world.
    pub(super) fn shows_ns(self, world_ns: u64) -> u64 {
        let gone_ns = u128::from(world_ns) * u128::from(self.rate_ppm) / u128::from(WHOLE_PPM);
        u64::try_from(gone_ns).unwrap_or(u64::MAX).saturating_add(self.ahead_ns)
    }

    /// The first moment of the world at which it shows this much.
    pub(super) fn world_ns(self, shown_ns: u64) -> u64 {
        let gone_ns = u128::from(shown_ns.saturating_sub(self.ahead_ns)) * u128::from(WHOLE_PPM);
        u64::try_from(gone_ns.div_ceil(u128::from(self.rate_ppm))).unwrap_or(u64::MAX)
    }
}

/// What the network knows of an endpoint.
struct Station {
    clock: Clock,
    alarm_ns: Option<u64>,
    woken: Arc<AtomicBool>,
}

/// One end of a connection.
#[derive(Default)]
struct WireEnd {
    owner: Option<EndpointId>,
    phase: Phase,
    inbox: VecDeque<Inbound>,
    /// When the last message that keeps the order arrives here.
    ordered_ns: u64,
    /// What this end's reader has taken and not released.
    held: Account,
}

#[derive(Default)]
enum Phase {
    #[default]
    Open,
    /// Nothing more arrives; what did is polled before the fault.
    Ending(Fault),
    /// Its fault was polled.
    Over,
}

/// A way that is shut, in one direction.
struct Wall {
    from: EndpointId,
    to: EndpointId,
    until_ns: u64,
}

impl Network {
    pub(super) fn new(seed: u64, faults: Faults) -> Network {
        Network {
            now_ns: 0,
            faults,
            parking: Parking::AdvancesTime,
            counts: Counts::default(),
            trace: Trace::new(seed),
            dice: Dice::new(seed),
            agenda: BTreeMap::new(),
            scheduled: 0,
            stations: Vec::new(),
            wires: Vec::new(),
            orphans: Vec::new(),
            walls: Vec::new(),
        }
    }

    pub(super) fn add_station(&mut self, woken: Arc<AtomicBool>) -> EndpointId {
        let ahead_ns = self.dice.within(&(0..=self.faults.clock_ahead_ns_max));
        let drift_ppm_max = self.faults.clock_drift_ppm_max;
        let rate_ppm = WHOLE_PPM - drift_ppm_max + self.dice.within(&(0..=2 * drift_ppm_max));
        let clock = Clock { ahead_ns, rate_ppm };
        self.stations.push(Station { clock, alarm_ns: None, woken });
        EndpointId::new(self.stations.len() - 1)
    }

    /// An endpoint's clock.
    pub(super) fn clock(&self, endpoint: EndpointId) -> Clock {
        self.stations[endpoint.index()].clock
    }

    /// Adds a connection whose ends wait to be adopted while `alive` has strong ones.
    pub(super) fn add_wire(&mut self, alive: [Weak<()>; 2]) -> [Port; 2] {
        self.wires.push([WireEnd::default(), WireEnd::default()]);
        let wire = self.wires.len() - 1;
        let ports = [Side::Left, Side::Right].map(|side| Port { wire, side });
        self.orphans.extend(ports.into_iter().zip(alive));
        ports
    }

    pub(super) fn adopt(&mut self, port: Port, owner: EndpointId) {
        self.orphans.retain(|(orphan, _)| *orphan != port);
        self.end_mut(port).owner = Some(owner);
    }

    /// Sends a message on its way, or does to it what the dice say.
    pub(super) fn send(&mut self, from: Port, mut buffer: Buffer, charge: Charge) {
        self.counts.sent += 1;
        let to = from.across();
        if self.dice.strikes(self.faults.cut_per_mille) {
            self.counts.cut += 1;
            return self.cut(from.wire);
        }
        // What is sent into a wall makes no other: all that is sent again there would keep it up.
        if self.dice.strikes(self.faults.partition_per_mille) && !self.is_walled(from, to) {
            let shut_ns = self.dice.within(&self.faults.partition_ns);
            self.counts.partitions += 1;
            self.wall_between(from, to, self.now_ns.saturating_add(shut_ns));
        }
        if self.is_walled(from, to) {
            self.counts.walled += 1;
            return;
        }
        if self.dice.strikes(self.faults.loss_per_mille) {
            self.counts.lost += 1;
            return;
        }
        if self.dice.strikes(self.faults.corrupt_per_mille) && !buffer.bytes().is_empty() {
            self.counts.corrupted += 1;
            let bit = self.dice.below(buffer.bytes().len() as u64 * 8);
            buffer.bytes_mut()[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        let copy = self.dice.strikes(self.faults.duplicate_per_mille);
        let copy = copy.then(|| Buffer::copied(buffer.bytes()));
        let at_ns = self.arrival_ns(to);
        let inbound = Inbound { buffer, _charge: Some(charge) };
        self.schedule(at_ns, Due::Message { to, inbound });
        if let Some(buffer) = copy {
            self.counts.duplicated += 1;
            let later_ns = self.dice.within(&self.faults.reorder_ns);
            let inbound = Inbound { buffer, _charge: None };
            self.schedule(at_ns + later_ns, Due::Message { to, inbound });
        }
    }

    /// When a message sent now arrives at `to`.
    fn arrival_ns(&mut self, to: Port) -> u64 {
        let at_ns = self.now_ns + self.dice.within(&self.faults.delay_ns);
        if self.dice.strikes(self.faults.reorder_per_mille) {
            self.counts.reordered += 1;
            return at_ns + self.dice.within(&self.faults.reorder_ns);
        }
        let end = self.end_mut(to);
        end.ordered_ns = end.ordered_ns.max(at_ns);
        end.ordered_ns
    }

    fn schedule(&mut self, at_ns: u64, due: Due) {
        self.scheduled += 1;
        self.agenda.insert((at_ns, self.scheduled), due);
    }

    /// Takes what a port's reader may have next, in the order of arrival.
    pub(super) fn take(&mut self, port: Port, limits: &Limits) -> Taken {
        let end = self.end_mut(port);
        if let Some(next) = end.inbox.front() {
            let bytes = next.buffer.bytes().len();
            if !end.held.has_room(bytes, limits.recv_bytes_max) {
                return Taken::Nothing;
            }
            return match check_framing(next.buffer.bytes(), limits.message_bytes_max) {
                Ok(()) => {
                    let held = end.held.charge(bytes);
                    let Inbound { buffer, .. } = end.inbox.pop_front().expect("front is some");
                    Taken::Message { buffer, held }
                }
                Err(malformed) => {
                    self.leave(port);
                    Taken::Over(Fault::Malformed(malformed))
                }
            };
        }
        if matches!(end.phase, Phase::Ending(_))
            && let Phase::Ending(fault) = std::mem::replace(&mut end.phase, Phase::Over)
        {
            return Taken::Over(fault);
        }
        Taken::Nothing
    }

    /// Whether `take` would find something.
    pub(super) fn is_ready(&self, port: Port, limits: &Limits) -> bool {
        let end = &self.wires[port.wire][port.side.index()];
        match end.inbox.front() {
            Some(next) => end.held.has_room(next.buffer.bytes().len(), limits.recv_bytes_max),
            None => matches!(end.phase, Phase::Ending(_)),
        }
    }

    /// Ends a connection from one side: what it had not polled is gone, and the other side hears
    /// of it after what was sent before.
    pub(super) fn close(&mut self, port: Port, fault: Fault) {
        let end = self.end_mut(port);
        if let Phase::Over = end.phase {
            return;
        }
        end.inbox.clear();
        end.phase = Phase::Ending(fault);
        self.notify(port);
    }

    /// Ends a connection whose endpoint is gone: nobody polls this side any more.
    pub(super) fn leave(&mut self, port: Port) {
        self.close(port, Fault::ClosedHere);
        self.end_mut(port).phase = Phase::Over;
    }

    /// Tells the other side of `from` that this one is closed. Behind a wall it finds out late.
    fn notify(&mut self, from: Port) {
        let to = from.across();
        let at_ns = match self.is_walled(from, to) {
            true => self.now_ns + LINK_SILENCE_MAX.as_nanos() as u64, // As a kernel's probes do.
            false => {
                let delay_ns = self.dice.within(&self.faults.delay_ns);
                self.end_mut(to).ordered_ns.max(self.now_ns + delay_ns)
            }
        };
        self.schedule(at_ns, Due::PeerClosed { to });
    }

    /// Breaks a connection: both ends lose what they had not polled.
    fn cut(&mut self, wire: usize) {
        let fault = Fault::Os { call: "simulated link", errno: libc::ECONNRESET };
        for end in &mut self.wires[wire] {
            if let Phase::Open = end.phase {
                end.inbox.clear();
                end.phase = Phase::Ending(fault.clone());
            }
        }
    }

    /// Breaks every connection between two endpoints.
    pub(super) fn cut_between(&mut self, one: EndpointId, other: EndpointId) {
        for wire in 0..self.wires.len() {
            let owners = [self.wires[wire][0].owner, self.wires[wire][1].owner];
            if owners == [Some(one), Some(other)] || owners == [Some(other), Some(one)] {
                self.cut(wire);
            }
        }
    }

    fn wall_between(&mut self, from: Port, to: Port, until_ns: u64) {
        if let (Some(from), Some(to)) = (self.end_mut(from).owner, self.end_mut(to).owner) {
            self.raise_wall(from, to, until_ns);
        }
    }

    /// Shuts the way from one endpoint to another until then.
    pub(super) fn raise_wall(&mut self, from: EndpointId, to: EndpointId, until_ns: u64) {
        let now_ns = self.now_ns;
        self.walls.retain(|wall| wall.until_ns > now_ns);
        self.walls.push(Wall { from, to, until_ns });
    }

    /// Opens the way from one endpoint to another.
    pub(super) fn tear_wall(&mut self, from: EndpointId, to: EndpointId) {
        self.walls.retain(|wall| (wall.from, wall.to) != (from, to));
    }

    /// Opens all ways.
    pub(super) fn tear_walls(&mut self) {
        self.walls.clear();
    }

    fn is_walled(&self, from: Port, to: Port) -> bool {
        let owner = |port: Port| self.wires[port.wire][port.side.index()].owner;
        let (from, to) = (owner(from), owner(to));
        let shut = |wall: &Wall| Some(wall.from) == from && Some(wall.to) == to;
        self.walls.iter().any(|wall| shut(wall) && wall.until_ns > self.now_ns)
    }

    /// What `Transport::park` does, for an endpoint that has nothing to poll.
    pub(super) fn park(&mut self, endpoint: EndpointId, deadline_ns: u64) {
        match self.parking {
            Parking::NotesDeadline => self.ring_at(endpoint, deadline_ns),
            Parking::AdvancesTime => {
                self.close_orphans();
                let next_ns = self.agenda.first_key_value().map(|(&(at_ns, _), _)| at_ns);
                match next_ns.map_or(deadline_ns, |next_ns| next_ns.min(deadline_ns)) {
                    u64::MAX => {} // Nothing will ever happen: a park may return early.
                    then_ns => self.advance_to(then_ns),
                }
            }
        }
    }

    /// Notes that an endpoint wants to run at that moment. `u64::MAX` takes the note back.
    pub(super) fn ring_at(&mut self, endpoint: EndpointId, at_ns: u64) {
        self.stations[endpoint.index()].alarm_ns = Some(at_ns).filter(|&at_ns| at_ns != u64::MAX);
    }

    /// When something happens next, if anything does.
    pub(super) fn next_ns(&mut self) -> Option<u64> {
        let mut woken = false;
        for station in &self.stations {
            woken |= station.woken.swap(false, Ordering::Relaxed);
        }
        self.close_orphans();
        let delivery_ns = self.agenda.first_key_value().map(|(&(at_ns, _), _)| at_ns);
        let alarm_ns = self.stations.iter().filter_map(|station| station.alarm_ns).min();
        let wake_ns = woken.then_some(self.now_ns);
        [delivery_ns, alarm_ns, wake_ns].into_iter().flatten().min()
    }

    /// Goes on to the next moment at which something happens, if there is one.
    pub(super) fn step(&mut self) -> bool {
        let next_ns = self.next_ns();
        next_ns.into_iter().for_each(|next_ns| self.advance_to(next_ns));
        next_ns.is_some()
    }

    /// Goes on to that moment, or stays if it is past, and lets all happen that is due.
    pub(super) fn advance_to(&mut self, then_ns: u64) {
        self.close_orphans();
        let then_ns = then_ns.max(self.now_ns);
        while let Some(entry) = self.agenda.first_entry().filter(|due| due.key().0 <= then_ns) {
            let ((at_ns, _), due) = entry.remove_entry();
            self.now_ns = self.now_ns.max(at_ns);
            match due {
                Due::Message { to, inbound } => self.arrive(to, inbound),
                Due::PeerClosed { to } => self.hear_of_close(to),
            }
        }
        self.now_ns = then_ns;
        for station in &mut self.stations {
            station.alarm_ns = station.alarm_ns.filter(|&alarm_ns| alarm_ns > then_ns);
        }
    }

    fn arrive(&mut self, to: Port, inbound: Inbound) {
        let from = to.across();
        let (from_owner, to_owner) = (self.end_mut(from).owner, self.end_mut(to).owner);
        self.trace.delivery(self.now_ns, from_owner, to_owner, inbound.buffer.bytes());
        match self.end_mut(to).phase {
            Phase::Open => {
                self.end_mut(to).inbox.push_back(inbound);
                self.counts.delivered += 1;
            }
            // As a host without the socket answers: the sender learns what it may have missed.
            Phase::Over => self.notify(to),
            Phase::Ending(_) => {}
        }
    }

    fn hear_of_close(&mut self, to: Port) {
        let owners = (self.end_mut(to.across()).owner, self.end_mut(to).owner);
        self.trace.delivery(self.now_ns, owners.0, owners.1, b"closed");
        let end = self.end_mut(to);
        if let Phase::Open = end.phase {
            end.phase = Phase::Ending(Fault::PeerClosed);
        }
    }

    /// Closes the ends that were dropped and not adopted.
    fn close_orphans(&mut self) {
        let gone = |orphan: &mut (Port, Weak<()>)| orphan.1.strong_count() == 0;
        let gone: Vec<_> = self.orphans.extract_if(.., gone).collect();
        for (port, _) in gone {
            self.leave(port);
        }
    }

    fn end_mut(&mut self, port: Port) -> &mut WireEnd {
        &mut self.wires[port.wire][port.side.index()]
    }
}

impl Port {
    /// The other end of the same connection.
    pub(super) fn across(self) -> Port {
        Port { wire: self.wire, side: self.side.across() }
    }
}

/// What a byte stream's reader checks of a header before it takes a message.
fn check_framing(bytes: &[u8], message_bytes_max: usize) -> Result<(), Malformed> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(Malformed::TooShort { bytes: bytes.len() });
    };
    let promised = framed_bytes(head)?;
    if promised > message_bytes_max {
        return Err(Malformed::TooLong { body_bytes: (promised - HEADER_BYTES) as u32 });
    }
    if promised != bytes.len() {
        return Err(Malformed::Length { promised, bytes: bytes.len() });
    }
    Ok(())
}
