//! What happens by itself: time passes, ports go down, devices go away.
//!
//! Owns the looks at clocks and devices between polls. What a failure leads to is left to
//! [`super::lane`].
//!
//! Invariant: every request under way is looked at within `LOOK_INTERVAL` of its deadline while
//! the transport is polled or parked.

use std::time::Duration;

use wire::Time;

use super::device::{AsyncEvent, PortState};
use super::lane::Reason;
use super::peer::{Pair, Peer};
use super::station::Health;
use super::transport::{Posted, Tcp, Verbs};

/// From one look at requests, pauses and devices to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a device is kept without lanes while a port is down: a flap takes less, and a driver
/// that is to go waits until the device is closed.
const DOWN_MAX: Duration = Duration::from_secs(3);
/// Events of one device that one look takes at most; the rest comes with the next.
const EVENTS_PER_LOOK_MAX: usize = 64;

impl Verbs {
    /// Looks at what may have happened, if it is time to.
    pub(super) fn look(&mut self, now: Time) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_INTERVAL;
        for at in 0..self.stations.len() {
            self.take_device_events(at, now);
            let waits = |down: &Time| now > *down + DOWN_MAX;
            if let Some(station) = &self.stations[at]
                && station.pairs() == 0
                && station.down_since.as_ref().is_some_and(waits)
            {
                tracing::info!(device = station.device.name(), "a device that is down is closed");
                self.lose_station(at, Reason::Port, now);
            }
        }
        for number in 0..self.peers.len() as u32 {
            let operation_max = self.settings.operation_max;
            let Some(peer) = self.open_peer(number) else { continue };
            if let Some(pair) = &peer.pair
                && pair.under_way() > 0
                && now > pair.progress_at + operation_max
            {
                peer.lane.failed(Reason::Deadline, now);
            }
            if peer.lane.step(now).is_some() || peer.has_unused() {
                self.to_step.add(number);
            }
        }
        self.tcp = self.tcp_now();
        self.beneath_posted = Posted::Yes; // A slot may have been dropped that others wait behind.
    }

    /// Whether TCP is to be polled each time until the next look. A link whose last bytes before
    /// the switch have not left yet is served with the looks.
    fn tcp_now(&self) -> Tcp {
        let mut peers = self.peers.iter().flatten().peekable();
        let are_all_by_lane = peers.peek().is_some() && peers.all(|peer| peer.is_by_lane_alone());
        if are_all_by_lane { Tcp::Quiet } else { Tcp::Awaited }
    }

    /// When something is due that no descriptor tells of, if there is anything.
    pub(super) fn due(&self) -> Option<Time> {
        let of_peer = |peer: &Peer| {
            let request = peer.pair.as_ref().filter(|pair| pair.under_way() > 0);
            let deadline = request.map(|pair| pair.progress_at + self.settings.operation_max);
            [peer.lane.due(), deadline].into_iter().flatten().min()
        };
        self.peers.iter().flatten().filter_map(|peer| of_peer(peer)).min()
    }

    /// Takes what made the bell ring.
    pub(super) fn answer_bell(&mut self, now: Time) {
        for at in 0..self.stations.len() {
            if let Some(station) = &mut self.stations[at]
                && let Err(error) = station.cq.clear_events()
            {
                tracing::warn!(device = station.device.name(), %error, "a device is given up");
                self.lose_station(at, Reason::Device, now);
            }
            self.take_device_events(at, now);
        }
    }

    fn take_device_events(&mut self, at: usize, now: Time) {
        for _ in 0..EVENTS_PER_LOOK_MAX {
            let Some(station) = &self.stations[at] else { return };
            match station.device.async_event() {
                Ok(None) => return,
                Ok(Some(event)) => self.device_event(at, event, now),
                Err(error) => {
                    tracing::warn!(device = station.device.name(), %error, "a device is given up");
                    return self.lose_station(at, Reason::Device, now);
                }
            }
        }
    }

    fn device_event(&mut self, at: usize, event: AsyncEvent, now: Time) {
        let device = self.stations[at].as_ref().map_or("", |station| station.device.name());
        tracing::debug!(device, ?event, "a device reports");
        match event {
            AsyncEvent::QpFailed { qp_number, .. } => {
                self.fail_lanes(at, Reason::QueuePair, now, |pair| pair.qp.number() == qp_number);
            }
            AsyncEvent::PortError { port } => {
                if let Some(station) = &mut self.stations[at] {
                    station.down_since = Some(now);
                }
                self.fail_lanes(at, Reason::Port, now, |pair| pair.path.port == port);
            }
            AsyncEvent::PortChanged { port, .. } => self.port_changed(at, port, now),
            AsyncEvent::PortActive { .. } => {
                if let Some(station) = &mut self.stations[at] {
                    station.down_since = None;
                }
                for number in 0..self.peers.len() as u32 {
                    if let Some(peer) = self.open_peer(number) {
                        peer.lane.hurry(now);
                        self.to_step.add(number);
                    }
                }
            }
            AsyncEvent::CqOverrun | AsyncEvent::DeviceFatal => {
                self.lose_station(at, Reason::Device, now);
            }
            AsyncEvent::QpNews { .. } | AsyncEvent::Other { .. } => {}
        }
    }

    /// Fails the lanes whose port no longer is what they were made with.
    fn port_changed(&mut self, at: usize, port: u8, now: Time) {
        let Some(station) = &self.stations[at] else { return };
        let known = station.device.port(port);
        self.fail_lanes(at, Reason::Port, now, |pair| {
            pair.path.port == port
                && !known.as_ref().is_ok_and(|known| {
                    let index = u32::from(pair.path.gid_index);
                    known.state == PortState::Active
                        && known.lid == pair.lid
                        && known.gids.iter().any(|gid| gid.index == index && gid.gid == pair.gid)
                })
        });
    }

    /// Gives a device up: its lanes fail, and it is closed when they are gone.
    pub(super) fn lose_station(&mut self, at: usize, reason: Reason, now: Time) {
        if let Some(station) = &mut self.stations[at] {
            station.health = Health::Lost;
        }
        self.fail_lanes(at, reason, now, |_| true);
        self.give_up_lost(at);
    }

    /// Closes a device that is lost, once it has no queue pairs. Rings with messages that are still
    /// held keep its memory.
    pub(super) fn give_up_lost(&mut self, at: usize) {
        let lost = self.stations[at]
            .take_if(|station| station.health == Health::Lost && station.pairs() == 0);
        if lost.is_some() {
            for peer in self.peers.iter_mut().flatten().filter(|peer| peer.station == Some(at)) {
                (peer.ring, peer.station) = (None, None);
            }
        }
    }

    fn fail_lanes(&mut self, at: usize, reason: Reason, now: Time, hit: impl Fn(&Pair) -> bool) {
        for number in 0..self.peers.len() as u32 {
            let Some(peer) = self.peers[number as usize].as_deref_mut() else { continue };
            if peer.station == Some(at) && peer.pair.as_ref().is_some_and(&hit) {
                peer.lane.failed(reason, now);
                self.to_step.add(number);
            }
        }
    }

    /// Does the steps that are due.
    pub(super) fn step_all(&mut self) {
        while let Some(number) = self.hungry.pop() {
            self.to_step.add(number); // There may be credit now.
        }
        for _ in 0..self.to_step.len() {
            let Some(number) = self.to_step.pop() else { return };
            self.step(number);
        }
    }
}
