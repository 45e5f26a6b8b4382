//! Strikes: what befalls servers, coordinators, their store and the ways between them.
//!
//! Owns the choice, and its limit: no strike may take the last good replica of a shard, which no
//! cluster survives.
//!
//! Invariant: who was struck counts as bad until whatever was decided upon it must be done.

use std::ops::RangeInclusive;
use std::time::Duration;

use transport::simulated::Faults;
use wire::{
    Applicant, Apply, Ask, Chain, Epoch, Placement, ServerId, ShardId, Time, ToCoordinator,
};

use super::control::{Farewell, Listens, Node};
use super::council::DiesAt;
use super::host::Power;
use super::store::Writer;
use super::vault::Vault;
use super::{CLUSTER, Calm, Fleet, Happening, SEATS, Stirred};
use crate::plan::Strikes;

/// How long a message takes where nothing goes wrong any more, in nanoseconds.
const DELAY_NS: RangeInclusive<u64> = 10_000..=200_000;

const MILLISECOND_NS: u64 = 1_000_000;
/// How long a server is frozen, shut off or away at most, in nanoseconds.
pub(super) const AWAY_NS_MAX: u64 = 900 * MILLISECOND_NS;
/// How long a server does not reach a coordinator at most, in nanoseconds.
pub(super) const CUT_NS_MAX: u64 = 2000 * MILLISECOND_NS;
/// How long a coordinator is away or frozen at most, in nanoseconds.
const LEADERLESS_NS_MAX: u64 = 1500 * MILLISECOND_NS;
/// By how much a coordinator's clock jumps ahead at most, in nanoseconds: an hour.
const CLOCK_JUMP_NS_MAX: u64 = 3_600_000 * MILLISECOND_NS;
/// How long the last words of a server that dies are lost at most, in nanoseconds.
const LAST_WORDS_NS_MAX: u64 = 30 * MILLISECOND_NS;
/// For how long after a strike is over somebody may still be put out for it: the longest patience
/// of a detector, links that are tried three times, and messages that wait.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What a strike must leave of each chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Struck {
    /// What the server holds is gone.
    Dies,
    /// It may be put out where there is another.
    MayBePutOut,
}

impl Fleet {
    /// Something befalls somebody.
    pub(super) fn strike(&mut self, now: Time) {
        let host = self.random.below(self.hosts.len() as u64) as usize;
        match self.plan.strikes {
            Strikes::All => {}
            Strikes::ServersDie => return self.crash(now, host),
            Strikes::Silence => return self.go_out(now, host),
            Strikes::Apart if self.random.below(2) == 0 => return self.split_head(now),
            Strikes::Apart => return self.cut_off(now, host),
            Strikes::Parted => return self.part(now),
        }
        match self.random.below(19) {
            0..=2 => self.crash(now, host),
            3 => self.go_out(now, host),
            4 | 5 => self.freeze(now, host),
            6 => self.lose_last_words(now, host),
            7 | 8 => self.split_head(now),
            9 | 10 => self.cut_off(now, host),
            11 | 12 => self.strike_coordinator(now),
            13 => self.double_coordinator(now),
            14 => {
                self.counts.illnesses += 1;
                let until = self.within(now, CUT_NS_MAX);
                self.store.fall_ill(until);
            }
            15 => {
                self.counts.resets += 1;
                self.control.reset_some(now);
            }
            16 | 17 => self.part(now),
            _ => self.order_move(now),
        }
    }

    pub(super) fn within(&mut self, now: Time, ns_max: u64) -> Time {
        now + Duration::from_nanos(self.random.below(ns_max))
    }

    /// Every placement that holds, or will if the store takes what is on its way.
    fn placements(&self) -> impl Iterator<Item = &Placement> {
        let seats = self.seats.iter().flatten();
        let proposed = seats.filter_map(|it| it.machine.proposed()).map(|entry| &entry.placement);
        self.store.placement().into_iter().chain(proposed)
    }

    /// Whether a strike leaves each chain of the server at this host a good replica.
    pub(super) fn may_strike(&self, now: Time, host: usize, struck: Struck) -> bool {
        let Some(process) = self.hosts[host].as_ref().filter(|it| it.power == Power::On) else {
            return false;
        };
        if now < self.doubled_until {
            return false; // Servers that speak to the other coordinator are silent to this one.
        }
        let Some(ours) = process.ours else { return true };
        let is_well = |server: ServerId| {
            let mut processes = self.hosts.iter().flatten();
            processes.any(|it| it.ours == Some(server) && it.is_well(now))
        };
        let survives = |chain: &Chain| {
            let others = chain.replicas.iter().filter(|&&other| other != ours);
            let is_alone = chain.replicas.len() == 1 && struck == Struck::MayBePutOut;
            // One of those that are well may leave as soon as the joining one is filled.
            let moves = chain.joining.is_some() && chain.replicas.len() >= self.plan.replicas;
            let wanted = if moves { 2 } else { 1 };
            let well = others.filter(|&&other| is_well(other)).count();
            chain.station(ours).is_none() || is_alone || well >= wanted
        };
        self.placements().all(|placement| placement.chains.iter().all(survives))
    }

    pub(super) fn trouble(&mut self, host: usize, until: Time) {
        if let Some(process) = &mut self.hosts[host] {
            process.troubled_until = process.troubled_until.max(until + AFTERMATH);
        }
    }

    /// A process dies, and its kernel says so.
    fn crash(&mut self, now: Time, host: usize) {
        if !self.may_strike(now, host, Struck::Dies) {
            return;
        }
        self.counts.crashes += 1;
        self.control.leave(now, Node::Host(host), Farewell::Said);
        self.hosts[host] = None;
        self.stirred = Stirred::Yes;
        let back = self.within(now, AWAY_NS_MAX);
        self.agenda.at(back, Happening::Returns(host));
    }

    /// A host loses its power.
    fn go_out(&mut self, now: Time, host: usize) {
        if !self.may_strike(now, host, Struck::Dies) {
            return;
        }
        self.counts.outages += 1;
        self.control.leave(now, Node::Host(host), Farewell::None);
        if let Some(process) = &mut self.hosts[host] {
            process.power = Power::Off;
        }
        if self.plan.strikes != Strikes::Silence {
            let back = self.within(now, 2 * AWAY_NS_MAX);
            self.agenda.at(back, Happening::Returns(host));
        }
    }

    /// Another process begins at a host.
    pub(super) fn returns(&mut self, now: Time, host: usize) {
        if self.hosts[host].as_ref().is_none_or(|it| it.power == Power::Off) {
            self.start_server(now, host);
        }
    }

    fn freeze(&mut self, now: Time, host: usize) {
        if !self.may_strike(now, host, Struck::MayBePutOut) {
            return;
        }
        self.counts.freezes += 1;
        let until = self.within(now, AWAY_NS_MAX);
        if let Some(process) = &mut self.hosts[host] {
            process.stopped_until = until;
        }
        self.trouble(host, until);
        self.agenda.at(until, Happening::Wakes);
    }

    /// What a server sends is lost for a moment, and then it dies.
    fn lose_last_words(&mut self, now: Time, host: usize) {
        if !self.may_strike(now, host, Struck::Dies) {
            return;
        }
        let Some(process) = &self.hosts[host] else { return };
        let (life, from) = (process.life, process.endpoint);
        for to in self.hosts.iter().flatten().map(|it| it.endpoint).filter(|&to| to != from) {
            self.world.block(from, to);
        }
        let until = self.within(now, LAST_WORDS_NS_MAX);
        self.trouble(host, until);
        self.agenda.at(until, Happening::Dies(host, life));
    }

    pub(super) fn dies(&mut self, now: Time, host: usize, life: u64) {
        let Some(process) = self.hosts[host].as_ref().filter(|it| it.life == life) else { return };
        let from = process.endpoint;
        if self.calm == Calm::NotYet && self.may_strike(now, host, Struck::Dies) {
            return self.crash(now, host);
        }
        for to in self.hosts.iter().flatten().map(|it| it.endpoint) {
            self.world.unblock(from, to);
        }
    }

    /// A head and its successor lose each other; mostly the head loses the coordinators, too.
    fn split_head(&mut self, now: Time) {
        let shard = ShardId::new(self.random.below(self.shards as u64) as u16);
        let chain = self.store.placement().and_then(|placement| placement.chain(shard));
        let Some(&[one, other, ..]) = chain.map(|chain| chain.replicas.as_slice()) else { return };
        let (Some(one), Some(other)) = (self.host_with(one), self.host_with(other)) else { return };
        let may = |host| self.may_strike(now, host, Struck::MayBePutOut);
        let endpoint = |host: usize| self.hosts[host].as_ref().map(|it| it.endpoint);
        let (Some(from), Some(to)) = (endpoint(one), endpoint(other)) else { return };
        if !may(one) || !may(other) {
            return;
        }
        self.counts.splits += 1;
        let until = self.within(now, AWAY_NS_MAX);
        self.shut.retain(|&(.., until)| until > now);
        self.shut.push((one, other, until));
        for (from, to) in [(from, to), (to, from)] {
            self.world.block(from, to);
            self.agenda.at(until, Happening::Reunite(from, to));
        }
        self.trouble(one, until);
        self.trouble(other, until);
        if self.random.below(4) > 0 {
            self.shut_off(now, one);
        }
    }

    /// A server loses the coordinators, one way or both, and some who watch with it.
    fn cut_off(&mut self, now: Time, host: usize) {
        if self.may_strike(now, host, Struck::MayBePutOut) {
            self.shut_off(now, host);
        }
    }

    fn shut_off(&mut self, now: Time, host: usize) {
        self.counts.cuts += 1;
        let until = self.within(now, CUT_NS_MAX);
        self.cut_off.retain(|&(.., until)| until > now);
        let which = self.random.below(3);
        for seat in (0..SEATS).map(Node::Seat) {
            let ways = [(seat, Node::Host(host)), (Node::Host(host), seat)];
            let shut = match which {
                0 => &ways[..1],
                1 => &ways[1..],
                _ => &ways[..],
            };
            for &(from, to) in shut {
                self.control.shut(from, to, until);
            }
            self.cut_off.push((seat, Node::Host(host), until));
        }
        self.trouble(host, until);
        for watch in 0..self.watches.len() {
            if self.random.below(2) == 0 {
                let until = self.within(until, AWAY_NS_MAX);
                for seat in (0..SEATS).map(Node::Seat) {
                    self.control.shut(seat, Node::Worker(watch), until);
                }
            }
        }
    }

    /// A coordinator dies, now or as it records, or stands still.
    fn strike_coordinator(&mut self, now: Time) {
        let seat = self.random.below(SEATS as u64) as usize;
        let until = self.within(now, LEADERLESS_NS_MAX);
        let (kind, jump) = (self.random.below(6), self.random.below(CLOCK_JUMP_NS_MAX));
        let may_jump = self.are_well(now);
        let Some(coordinator) = &mut self.seats[seat] else { return };
        match kind {
            0 => {
                self.counts.freezes += 1;
                coordinator.stopped_until = until;
                self.agenda.at(until, Happening::Wakes);
            }
            1 => coordinator.dies_at = Some(DiesAt::Recording),
            2 => coordinator.dies_at = Some(DiesAt::Recorded),
            3 => coordinator.dies_at = Some(DiesAt::Telling),
            4 if may_jump => {
                // Its grace and all patience are over at once.
                self.counts.clock_jumps += 1;
                coordinator.jumped += Duration::from_nanos(jump);
                self.doubled_until = now + AFTERMATH;
            }
            4 => {}
            _ => {
                let writer = coordinator.writer;
                self.coordinator_dies(now, seat, writer);
            }
        }
    }

    pub(super) fn coordinator_dies(&mut self, now: Time, seat: usize, writer: Writer) {
        if self.seats[seat].as_ref().is_some_and(|it| it.writer == writer) {
            self.counts.coordinators_died += 1;
            self.end_coordinator(now, seat);
            self.return_coordinator(now);
        }
    }

    /// A coordinator will begin in a while, unless another runs by then.
    pub(super) fn return_coordinator(&mut self, now: Time) {
        let ns_max = if self.calm == Calm::Yes { MILLISECOND_NS } else { LEADERLESS_NS_MAX };
        let (at, seat) = (self.within(now, ns_max), self.random.below(SEATS as u64) as usize);
        self.agenda.at(at, Happening::CoordinatorReturns(seat));
    }

    pub(super) fn coordinator_returns(&mut self, now: Time, seat: usize) {
        if self.seats.iter().all(Option::is_none) {
            self.start_coordinator(now, seat);
        }
    }

    /// A coordinator begins while another runs.
    fn double_coordinator(&mut self, now: Time) {
        let vacant = self.seats.iter().position(Option::is_none);
        if !self.are_well(now) {
            return;
        }
        if let Some(seat) = vacant.filter(|_| self.seats.iter().any(Option::is_some)) {
            self.counts.coordinators_doubled += 1;
            self.start_coordinator(now, seat);
        }
    }

    /// Whether each host has a server that nothing ails.
    fn are_well(&self, now: Time) -> bool {
        self.hosts.iter().all(|it| it.as_ref().is_some_and(|it| it.is_well(now)))
    }

    /// Notes that two coordinators run.
    pub(super) fn note_doubled(&mut self, now: Time) {
        if self.seats.iter().all(Option::is_some) {
            self.doubled_until = now + AFTERMATH;
        }
    }

    /// A person has a replica moved.
    fn order_move(&mut self, now: Time) {
        let Some(seat) = self.seats.iter().position(Option::is_some) else { return };
        let Some(placement) = self.store.placement() else { return };
        let shard = ShardId::new(self.random.below(self.shards as u64) as u16);
        let Some(chain) = placement.chain(shard) else { return };
        let free: Vec<ServerId> = placement
            .servers
            .iter()
            .map(|member| member.server)
            .filter(|&server| chain.station(server).is_none())
            .collect();
        let replicas = chain.replicas.clone();
        if free.is_empty() || replicas.is_empty() {
            return;
        }
        let (from, to) = (self.random.choose(&replicas), self.random.choose(&free));
        let Ok(id) = self.control.connect(now, Node::Person, seat, Listens::Yes) else { return };
        self.counts.moves += 1;
        let apply = Apply::new(CLUSTER, Epoch::default(), Applicant::Person);
        self.control.say(now, id, ToCoordinator::Apply(apply));
        self.control.say(now, id, ToCoordinator::Ask(Ask::Move { shard, from, to }));
        self.control.hang_up(now, id);
    }

    /// The host whose process has this number.
    pub(super) fn host_with(&self, server: ServerId) -> Option<usize> {
        self.hosts.iter().position(|process| {
            process.as_ref().is_some_and(|it| it.ours == Some(server) && it.power == Power::On)
        })
    }

    /// Nothing befalls anybody from now on, what did is over, and one coordinator runs.
    pub(crate) fn calm(&mut self, now: Time) {
        self.calm = Calm::Yes;
        self.events_left = 0;
        self.shut.clear();
        self.parted.clear();
        self.cut_off.clear();
        self.control.calm();
        self.vault.iter_mut().for_each(Vault::calm);
        self.world.heal();
        // A long fill, sent anew and anew, would meet a fault each time.
        self.world.set_faults(Faults { delay_ns: DELAY_NS, ..Faults::NONE });
        self.store.fall_ill(now);
        let newest = self.seats.iter().flatten().map(|it| it.writer.0).max();
        for seat in 0..SEATS {
            if self.seats[seat].as_ref().is_some_and(|it| Some(it.writer.0) != newest) {
                self.end_coordinator(now, seat);
            }
            if let Some(coordinator) = &mut self.seats[seat] {
                (coordinator.stopped_until, coordinator.dies_at) = (now, None);
            }
        }
        if newest.is_none() {
            self.start_coordinator(now, 0);
        }
        for host in 0..self.hosts.len() {
            if let Some(process) = &mut self.hosts[host] {
                process.stopped_until = now;
            }
            self.returns(now, host);
        }
        self.stirred = Stirred::Yes;
    }
}
