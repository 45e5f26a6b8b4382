//! Rails of a core: which there are now, saying so to a peer, and the choice of one.
//!
//! Owns asking the devices and opening them. The order of rails is left to [`super::rails`], the
//! rest of a lane's life to [`super::steps`].
//!
//! Invariant: a device is open only while a lane over it is wanted, or had and not given up.

use std::hash::{BuildHasher, Hasher, RandomState};

use wire::{LaneMessage, LaneRail, LaneRails, Time};

use super::device::DeviceInfo;
use super::error::VerbsError;
use super::gid::{Choice as Port, Gid, choices};
use super::lane::Choice;
use super::peer::Peer;
use super::rails::{self, By, Guess, PairOfGids, Rail, choose};
use super::shown::subnet_bits;
use super::station::{Health, Station, wish};
use super::transport::{RailCount, Verbs};

/// The rails of a lane, chosen.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) rail: Rail,
    /// Its index, or that of the peer's, among those named by the side that did not choose.
    pub(super) index: u8,
    /// What is to be remembered if the lane fails, by the side that chose.
    pub(super) pair: Option<PairOfGids>,
}

impl Verbs {
    /// The rails for this peer, and what it is to be told of them. None if there is none now.
    pub(super) fn rails_for(
        &mut self,
        number: u32,
        generation: u32,
        now: Time,
    ) -> Option<(Vec<Rail>, LaneRails)> {
        let ends = self.peers[number as usize].as_ref()?.ends;
        let infos = self.infos(now);
        let wish = wish(ends.local, &self.settings);
        let ports = choices(&infos, &wish);
        self.note_down(&ports, now);
        let ports = ports.into_iter().filter(|port| self.may_use(&port.device, now));
        let own = rails::nearest(ports.map(|port| self.rail(port)).collect());
        let words: Vec<LaneRail> = own.iter().map(Rail::word).collect();
        // Who has more peers has more lanes to spread over its rails, and chooses.
        let peers = self.peers.iter().flatten().count() as u64;
        let lot = peers << 32 | RandomState::new().build_hasher().finish() >> 32;
        let told = LaneRails::new(generation, lot, &words)?;
        Some((own, told))
    }

    /// The rails of this generation, by whoever chooses. None if no pair reaches.
    pub(super) fn chosen_rails(&self, number: u32, by: &Choice, now: Time) -> Option<Chosen> {
        let peer = self.peers[number as usize].as_deref()?;
        match by {
            Choice::Ours(theirs) => self.choose_rails(peer, theirs, now),
            Choice::Theirs { rail: index } => {
                let rail = peer.told.get(usize::from(*index))?.clone();
                Some(Chosen { rail, index: *index, pair: None })
            }
        }
    }

    fn choose_rails(&self, peer: &Peer, theirs: &LaneRails, now: Time) -> Option<Chosen> {
        let guess = match self.settings.rails.is_empty() {
            true => Guess::Forbidden,
            false => Guess::Allowed,
        };
        // Others may have got lanes since the peer was told.
        let as_now = |rail: &Rail| {
            let lanes = self.lanes_over(&rail.choice.device, rail.choice.port);
            Rail { lanes, ..rail.clone() }
        };
        let own: Vec<Rail> = peer.told.iter().map(as_now).collect();
        let turn = self.first_turn + peer.id.index();
        let by = By { ends: peer.ends, guess, failures: &peer.failures, turn, now };
        let (at, index) = choose(&own, theirs.as_slice(), by)?;
        let rail = own[at].clone();
        let pair = PairOfGids { own: rail.choice.gid, theirs: Gid(theirs.as_slice()[index].gid) };
        Some(Chosen { rail, index: index as u8, pair: Some(pair) })
    }

    /// What the devices of this host show: those that are open as they are now.
    fn infos(&mut self, now: Time) -> Vec<DeviceInfo> {
        let shown = self.shown.look(now).map(<[DeviceInfo]>::to_vec).unwrap_or_else(|error| {
            tracing::debug!(%error, "no RDMA for now");
            Vec::new()
        });
        let as_now = |info: DeviceInfo| match self.station_of(&info.name) {
            None => Some(info),
            Some(station) => station.device.info().ok(),
        };
        shown.into_iter().filter_map(as_now).collect()
    }

    fn station_of(&self, device: &str) -> Option<&Station> {
        self.stations.iter().flatten().find(|station| station.device.name() == device)
    }

    /// Whether lanes may be had over this device: it is not being given up, and has memory.
    fn may_use(&self, device: &str, now: Time) -> bool {
        let is_good =
            |station: &Station| station.health == Health::Good && station.full_until <= now;
        self.station_of(device).is_none_or(is_good)
    }

    /// Notes which open devices have no port that could carry a lane.
    fn note_down(&mut self, ports: &[Port], now: Time) {
        for station in self.stations.iter_mut().flatten() {
            if ports.iter().any(|port| port.device == station.device.name()) {
                station.down_since = None;
            } else {
                station.down_since.get_or_insert(now);
            }
        }
    }

    fn rail(&self, choice: Port) -> Rail {
        let netdev = choice.netdev.as_deref();
        let subnet_bits = netdev.map_or(0, |netdev| subnet_bits(netdev, choice.gid.address()));
        let distance = self.shown.distance(&choice.device);
        let lanes = self.lanes_over(&choice.device, choice.port);
        Rail { choice, subnet_bits, distance, lanes }
    }

    /// Queue pairs of this core on this port.
    pub(super) fn lanes_over(&self, device: &str, port: u8) -> u32 {
        let is_over = |peer: &Peer| {
            let station = peer.station.and_then(|at| self.stations[at].as_ref());
            peer.pair.as_ref().is_some_and(|pair| pair.path.port == port)
                && station.is_some_and(|station| station.device.name() == device)
        };
        self.peers.iter().flatten().filter(|peer| is_over(peer)).count() as u32
    }

    /// The station of this rail, which is opened if need be.
    pub(super) fn station_at(&mut self, rail: &Rail) -> Result<usize, VerbsError> {
        let name = &rail.choice.device;
        let is_it = |station: &Option<Station>| {
            station.as_ref().is_some_and(|station| station.device.name() == name)
        };
        if let Some(at) = self.stations.iter().position(is_it) {
            let health = self.stations[at].as_ref().map(|station| station.health);
            // One that is given up is opened anew after.
            return if health == Some(Health::Good) { Ok(at) } else { Err(VerbsError::NoDevice) };
        }
        let station = Station::open(name, &self.limits, &self.settings);
        let station = station.inspect_err(|_| self.shown.forget())?;
        self.watch_station(&station)?;
        let at = self.stations.iter().position(Option::is_none).unwrap_or(self.stations.len());
        if at == self.stations.len() {
            self.stations.push(None);
        }
        self.stations[at] = Some(station);
        Ok(at)
    }

    /// The place in the counts of this rail.
    pub(super) fn count_of(&mut self, rail: &Rail) -> usize {
        let (device, port) = (&rail.choice.device, rail.choice.port);
        let known = |count: &RailCount| count.device == *device && count.port == port;
        self.rail_counts.iter().position(known).unwrap_or_else(|| {
            let device = device.clone();
            self.rail_counts.push(RailCount { device, port, lanes: 0, messages_sent: 0 });
            self.rail_counts.len() - 1
        })
    }

    /// Says what the rails are.
    pub(super) fn call(&mut self, number: u32, generation: u32, now: Time) {
        let Some((own, told)) = self.rails_for(number, generation, now) else {
            if let Some(peer) = self.open_peer(number) {
                peer.lane.cannot_call(now);
            }
            return;
        };
        self.say(number, LaneMessage::Rails(told));
        if let Some(peer) = self.open_peer(number) {
            peer.told = own;
            peer.lane.called(told.lot);
        }
    }
}
