//! Hosts: a place, and the server process that runs there, if one does.
//!
//! Owns one life of a server: its core, what it was told, and which links it wants to successors,
//! by the rules of `server::Server` and its thread of links. When anything happens is left to
//! `fleet`.
//!
//! Invariant: a process acts on placements whose epochs go up, under the number it was given last.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use server::{Core, OnClosed, Redial, Share, Tried};
use shard::ShardSpec;
use transport::Limits;
use transport::simulated::{EndpointId, World};
use wire::{Candidate, Epoch, Holds, Placement, Refusal, ServerId, ShardId, Time};

use super::caller::Caller;
use super::recording::Recording;
use super::witness::{Seen, Witness};
use crate::failure::Failure;

const ALL: Share = Share { core: 0, cores: 1 };

/// A server's process.
pub(crate) struct Process {
    /// Which life; never used twice.
    pub(crate) life: u64,
    pub(crate) core: Core,
    pub(crate) endpoint: EndpointId,
    pub(crate) caller: Caller,
    /// Its number, once it is a member.
    pub(crate) ours: Option<ServerId>,
    /// What it was told last, and under which number.
    pub(crate) placed: Option<(ServerId, Placement)>,
    pub(crate) stopped_until: Time,
    /// Until when it may be put out of chains though it lives.
    pub(crate) troubled_until: Time,
    pub(crate) power: Power,
    /// Links to successors.
    pub(crate) wanted: BTreeMap<ShardId, Wanted>,
    /// By shard: the epoch that it was seen in last.
    epochs: BTreeMap<ShardId, Epoch>,
    /// By shard: the epoch that it was heard to be over for.
    fenced: BTreeMap<ShardId, Epoch>,
    /// Shards that are being recorded for a checkpoint.
    pub(crate) recordings: BTreeMap<ShardId, Recording>,
    /// By shard: the last checkpoint, and the attempt, that it was recorded for.
    pub(crate) recorded: BTreeMap<ShardId, (u64, u32)>,
    /// What it answers workers.
    pub(crate) seen: Rc<RefCell<Seen>>,
}

/// Whether it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    /// It is gone, and nobody was told.
    Off,
}

/// A link that shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) epoch: Epoch,
    pub(crate) server: ServerId,
    /// At which host.
    pub(crate) host: usize,
    pub(crate) redial: Redial,
    /// Which try is under way or due; earlier ones are void.
    pub(crate) tries: u64,
}

impl Process {
    /// A process that begins, with nothing.
    pub(crate) fn new(world: &World, limits: Limits, host: usize, life: u64) -> Process {
        let endpoint = world.endpoint(limits);
        let endpoint_id = endpoint.id();
        let seen = Rc::new(RefCell::new(Seen::default()));
        let witness = Box::new(Witness::new(endpoint, Rc::clone(&seen)));
        let candidate = Candidate {
            life: None,
            name: format!("s{life}"),
            place: host.to_string(),
            host: format!("h{host}"),
            memory_mib: 1024,
            cores: 1,
        };
        Process {
            life,
            core: Core::with_on_closed(witness, OnClosed::AwaitReconnect, []),
            endpoint: endpoint_id,
            caller: Caller::new(life, Some(candidate)),
            ours: None,
            placed: None,
            stopped_until: Time::default(),
            troubled_until: Time::default(),
            power: Power::On,
            wanted: BTreeMap::new(),
            epochs: BTreeMap::new(),
            fenced: BTreeMap::new(),
            recordings: BTreeMap::new(),
            recorded: BTreeMap::new(),
            seen,
        }
    }

    /// Whether it does anything now.
    pub(crate) fn runs(&self, now: Time) -> bool {
        self.power == Power::On && now >= self.stopped_until
    }

    /// Whether it lives and nothing speaks for putting it out of a chain.
    pub(crate) fn is_well(&self, now: Time) -> bool {
        self.power == Power::On && now >= self.troubled_until
    }

    /// Acts on a placement. Which links are to be made now.
    pub(crate) fn place(&mut self, placement: Placement, spec: &ShardSpec) -> Vec<(ShardId, u64)> {
        let known = self.placed.as_ref().map(|(_, placement)| placement.epoch);
        let Some(ours) = self.ours.filter(|_| known < Some(placement.epoch)) else {
            return Vec::new();
        };
        self.core.place(ours, &placement, ALL, spec);
        let mut before = std::mem::take(&mut self.wanted);
        let mut due = Vec::new();
        for (shard, chain) in placement.shards() {
            let station = chain.station(ours);
            let Some((server, _)) = station.and_then(|station| station.downstream) else {
                continue;
            };
            let known = before.remove(&shard);
            let tries = known.map_or(0, |known| known.tries) + 1;
            if let Some(known) = known.filter(|known| known.epoch == chain.epoch) {
                self.wanted.insert(shard, known);
                continue;
            }
            let host = host_of(&placement, server);
            let wanted =
                Wanted { epoch: chain.epoch, server, host, redial: Redial::default(), tries };
            self.wanted.insert(shard, wanted);
            due.push((shard, tries));
        }
        self.placed = Some((ours, placement));
        due
    }

    /// Whether a predecessor of this epoch of a shard's chain may speak to it.
    pub(crate) fn admits_predecessor(&self, shard: ShardId, epoch: Epoch) -> Result<(), Tried> {
        let (ours, placement) = self.placed.as_ref().ok_or(Tried::Unheard)?;
        let chain = placement.chain(shard).ok_or(Tried::Failed)?;
        let has_upstream = chain.station(*ours).is_some_and(|station| station.upstream.is_some());
        match chain.epoch == epoch && has_upstream {
            true => Ok(()),
            false => Err(Tried::OtherEpoch(chain.epoch)),
        }
    }

    /// Whether workers may speak to it of a shard.
    pub(crate) fn admits_worker(&self, shard: ShardId) -> Result<(), Refusal> {
        let none = Refusal::NotHead { shard: Epoch::default() };
        let (ours, placement) = self.placed.as_ref().ok_or(none)?;
        let chain = placement.chain(shard).ok_or(none)?;
        let is_head = |place, holds| place == 0 && holds == Holds::Everything;
        match chain.station(*ours) {
            Some(station) if is_head(station.place, station.holds) => Ok(()),
            _ => Err(Refusal::NotHead { shard: chain.epoch }),
        }
    }

    /// A try to link a shard's successor has ended. When to try again, and whom to tell of.
    pub(crate) fn tried(
        &mut self,
        now: Time,
        shard: ShardId,
        tried: Tried,
    ) -> (Option<Duration>, Option<ServerId>) {
        let wanted = self.wanted.get_mut(&shard).expect("only what is wanted is tried");
        let again = wanted.redial.tried(now, tried);
        let (epoch, lost) = (wanted.epoch, wanted.server);
        if let Tried::OtherEpoch(other) = tried
            && other > epoch
        {
            self.core.fence(shard, other);
            self.fenced.insert(shard, other);
        }
        (again.after, again.is_lost.then_some(lost))
    }

    /// Looks whether it has answered workers since the last time though it knew that another server
    /// is the head.
    pub(crate) fn check_answers(&mut self) -> Result<(), Failure> {
        let answers = self.seen.borrow_mut().take_answers();
        for (shard, epoch) in answers {
            let placed = self.placed.as_ref();
            let Some((ours, chain)) =
                placed.and_then(|(ours, placement)| Some((*ours, placement.chain(shard)?)))
            else {
                continue;
            };
            let fenced = self.fenced.get(&shard).copied().unwrap_or_default();
            let known = chain.epoch.max(fenced);
            let station = chain.station(ours);
            let is_head = station.is_some_and(|it| it.place == 0 && it.holds == Holds::Everything);
            if !is_head || fenced > chain.epoch {
                return Err(Failure::FencedAnswered { server: ours, shard, epoch, known });
            }
        }
        Ok(())
    }

    /// Looks whether the epochs of its shards have gone on.
    pub(crate) fn check_epochs(&mut self, shards: usize) -> Result<(), Failure> {
        for shard in (0..shards as u16).map(ShardId::new) {
            let Some(replica) = self.core.replica_mut(shard) else { continue };
            let (epoch, life) = (replica.epoch(), self.life);
            let before = self.epochs.insert(shard, epoch).unwrap_or_default();
            if epoch < before {
                return Err(Failure::EpochWentBack { life, shard, before, after: epoch });
            }
        }
        Ok(())
    }
}

/// The host at which a server listens.
pub(crate) fn host_of(placement: &Placement, server: ServerId) -> usize {
    let member = placement.member(server).expect("a placement lists whom it names");
    member.place.parse().expect("places are the numbers of hosts")
}
