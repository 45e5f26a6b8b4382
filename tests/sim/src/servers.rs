//! Servers in chains, and a coordinator that follows a script: they crash, freeze, lose each other,
//! come back empty, are filled, and are moved.
//!
//! Owns which server lives, what each was told, and the links between them. What the network does
//! to messages is the world's; what a server does, `server::Core`'s.
//!
//! Invariant: of every chain in the coordinator's placement one replica lives. A server that was
//! put out of a chain is never one of its replicas again, but under another number.

use std::collections::BTreeMap;
use std::time::Duration;

use server::{Core, OnClosed, Share, Who};
use shard::ShardSpec;
use shard::chain::{Image, Notice};
use transport::simulated::{EndpointId, World};
use transport::{Limits, Link};
use wire::{
    Chain, Epoch, Holds, Incarnation, Member, Placement, ServerId, ShardId, Time, WorkerId,
};

use crate::failure::Failure;
use crate::plan::ChainPlan;
use crate::random::Random;

const ALL: Share = Share { core: 0, cores: 1 };
const MILLISECOND_NS: u64 = 1_000_000;

/// How long news of a placement takes mostly, in nanoseconds.
const NEWS_NS_MAX: u64 = 20 * MILLISECOND_NS;
/// How long a link takes to be made again at most, in nanoseconds.
const RELINK_NS_MAX: u64 = 10 * MILLISECOND_NS;
/// How long it takes at most until a server that is silent is put out, in nanoseconds.
const SUSPICION_NS_MAX: u64 = 200 * MILLISECOND_NS;
/// How long a server is frozen, shut off or away at most, in nanoseconds.
const AWAY_NS_MAX: u64 = 600 * MILLISECOND_NS;

/// How long the last words of a server that dies are lost at most, in nanoseconds.
const LAST_WORDS_NS_MAX: u64 = 30 * MILLISECOND_NS;

/// All servers, and what happens to them.
pub(crate) struct Servers {
    world: World,
    limits: Limits,
    spec: ShardSpec,
    plan: ChainPlan,
    random: Random,
    servers: BTreeMap<ServerId, Server>,
    next_id: u32,
    placement: Placement,
    /// By when and number: what will happen.
    agenda: BTreeMap<(Time, u64), Happening>,
    scheduled: u64,
    events_left: u64,
    /// By worker: what it was told.
    pub(crate) known: Vec<Placement>,
    pub(crate) counts: Counts,
    failed: Option<Failure>,
    /// Who hears nothing of the coordinator until then.
    deaf_server: Option<(ServerId, Time)>,
    deaf_worker: Option<(usize, Time)>,
    /// Pairs of servers that cannot make links until then.
    shut: Vec<(ServerId, ServerId, Time)>,
}

/// What has happened to servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Servers that died.
    pub crashes: u64,
    /// Servers that stopped for a while.
    pub freezes: u64,
    /// Pairs of servers that lost each other.
    pub splits: u64,
    /// Servers that were filled.
    pub fills: u64,
    /// Heads that were replaced.
    pub failovers: u64,
}

struct Server {
    core: Core,
    endpoint: EndpointId,
    /// What it was told last.
    placed: Placement,
    stopped_until: Time,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// Its process is gone, and nobody is told.
    Silent,
}

#[derive(Clone, Debug)]
enum Happening {
    Tell(ServerId, Placement),
    TellWorker(usize, Placement),
    Relink(ServerId, ShardId, Epoch),
    Crash(ServerId),
    Suspect(ServerId),
    Return,
    Repair,
    Reunite(EndpointId, EndpointId),
}

impl Servers {
    /// The servers of a plan, at their first placement, which everybody knows.
    pub(crate) fn new(
        world: &World,
        limits: Limits,
        spec: ShardSpec,
        (plan, shards, workers): (ChainPlan, usize, u32),
        random: Random,
    ) -> Servers {
        let mut servers = Servers {
            world: world.clone(),
            limits,
            spec,
            plan,
            random,
            servers: BTreeMap::new(),
            next_id: 1,
            placement: Placement::default(),
            agenda: BTreeMap::new(),
            scheduled: 0,
            events_left: plan.events,
            known: Vec::new(),
            counts: Counts::default(),
            failed: None,
            deaf_server: None,
            deaf_worker: None,
            shut: Vec::new(),
        };
        let ids: Vec<ServerId> = (0..plan.servers).map(|_| servers.add_server()).collect();
        let replicas = plan.replicas.min(plan.servers);
        let chain = |shard: usize| Chain {
            epoch: Epoch::new(1),
            replicas: (0..replicas).map(|place| ids[(shard + place) % ids.len()]).collect(),
            joining: None,
        };
        servers.placement.chains = (0..shards).map(chain).collect();
        servers.placement.epoch = Epoch::new(1);
        servers.placement.check().expect("a placement of its own making");
        let placement = servers.placement.clone();
        servers.known = vec![placement.clone(); workers as usize];
        for id in ids {
            servers.tell(id, placement.clone());
        }
        servers
    }

    /// What happens now happens; then each server that runs has a turn.
    pub(crate) fn turn(&mut self, now: Time) {
        if self.events_left > 0 && self.random.below(1000) < self.plan.events_per_mille {
            self.events_left -= 1;
            self.strike(now);
        }
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= now
        {
            let happening = entry.remove();
            self.happen(now, happening);
        }
        let mut news = Vec::new();
        for (&id, server) in &mut self.servers {
            if server.life == Life::Alive && now >= server.stopped_until {
                while server.core.turn() {}
                news.extend(server.core.news().drain(..).map(|news| (id, news)));
            }
        }
        for (id, news) in news {
            self.hear(now, id, news.shard, (news.epoch, news.notice));
        }
    }

    /// A link of a worker to a shard's head, as the worker knows it, with the chain's epoch. If
    /// that server is gone or says no, the link is over already.
    pub(crate) fn link(&mut self, worker: u32, shard: ShardId) -> (Link, Epoch) {
        let (ours, theirs) = self.world.link();
        let known = &self.known[worker as usize];
        let chain = known.chain(shard).expect("a placement names all shards");
        let (head, epoch) = (chain.replicas[0], chain.epoch);
        let there = self.servers.get_mut(&head).filter(|server| server.life == Life::Alive);
        if let Some(server) = there {
            let station = server.placed.chain(shard).and_then(|chain| chain.station(head));
            let is_head = |place, holds| place == 0 && holds == Holds::Everything;
            if station.is_some_and(|station| is_head(station.place, station.holds)) {
                let who = Who {
                    shard,
                    worker: WorkerId::new(worker),
                    incarnation: Incarnation::new(1),
                    epoch,
                    message_bytes_max: self.limits.message_bytes_max,
                };
                server.core.adopt(Link::Simulated(theirs), who).expect("an end of its own world");
            }
        }
        (Link::Simulated(ours), epoch)
    }

    /// Nothing befalls the servers from now on, and what did is over.
    pub(crate) fn calm(&mut self, now: Time) {
        self.events_left = 0;
        self.shut.clear();
        (self.deaf_server, self.deaf_worker) = (None, None);
        self.world.heal();
        self.servers.values_mut().for_each(|server| server.stopped_until = now);
    }

    /// The first thing that a server said and no server should.
    pub(crate) fn failed(&mut self) -> Option<Failure> {
        self.failed.take()
    }

    /// Whether all replicas of each shard hold the same, and all that was planned has happened.
    ///
    /// - Errors: a shard whose replicas differ.
    pub(crate) fn check_replicas(&mut self) -> Result<(), Failure> {
        for (shard, chain) in self.placement.shards() {
            let mut first: Option<(ServerId, Image)> = None;
            for &id in &chain.replicas {
                let differs = |other| Failure::Differs { shard, one: id, other };
                let server = self.servers.get_mut(&id).ok_or(differs(id))?;
                let replica = server.core.replica_mut(shard).ok_or(differs(id))?;
                if replica.epoch() != chain.epoch {
                    return Err(differs(id));
                }
                let image = replica.shard_mut().image();
                match &first {
                    Some((other, known)) if *known != image => return Err(differs(*other)),
                    Some(_) => {}
                    None => first = Some((id, image)),
                }
            }
        }
        Ok(())
    }

    /// Whether every chain is as long as it shall be.
    pub(crate) fn is_whole(&self) -> bool {
        let replicas = self.plan.replicas.min(self.plan.servers);
        let is_whole = |chain: &Chain| chain.replicas.len() >= replicas && chain.joining.is_none();
        let mut agenda = self.agenda.values();
        let only_links = agenda.all(|one| matches!(one, Happening::Relink(..)));
        self.placement.chains.iter().all(is_whole) && only_links
    }

    fn at(&mut self, when: Time, happening: Happening) {
        self.scheduled += 1;
        self.agenda.insert((when, self.scheduled), happening);
    }

    fn within(&mut self, now: Time, ns_max: u64) -> Time {
        now + Duration::from_nanos(self.random.below(ns_max))
    }

    fn add_server(&mut self) -> ServerId {
        let id = ServerId::new(self.next_id);
        self.next_id += 1;
        let endpoint = self.world.endpoint(self.limits);
        let endpoint_id = endpoint.id();
        let core = Core::with_on_closed(Box::new(endpoint), OnClosed::AwaitReconnect, []);
        let (placed, stopped_until, life) = (Placement::default(), Time::default(), Life::Alive);
        let server = Server { core, endpoint: endpoint_id, placed, stopped_until, life };
        self.servers.insert(id, server);
        self.placement.servers.push(Member {
            server: id,
            name: id.to_string(),
            place: String::new(),
            host: id.to_string(),
            memory_mib: 1,
        });
        id
    }

    /// Something befalls a server.
    fn strike(&mut self, now: Time) {
        let alive: Vec<ServerId> = self.placement.servers.iter().map(|one| one.server).collect();
        if alive.is_empty() {
            return;
        }
        let one = self.random.choose(&alive);
        match self.random.below(5) {
            0 | 1 if self.can_lose(one) => self.crash(now, one),
            0..=2 => {
                self.counts.freezes += 1;
                let until = self.within(now, AWAY_NS_MAX);
                if let Some(server) = self.servers.get_mut(&one) {
                    server.stopped_until = until;
                }
                self.maybe_suspect(now, one);
            }
            3 if self.can_lose(one) => {
                // What it sends is lost for a moment, and then it dies.
                let from = self.servers.get(&one).map(|server| server.endpoint);
                let others = self.servers.iter().filter(|&(&id, _)| id != one);
                let others: Vec<EndpointId> = others.map(|(_, other)| other.endpoint).collect();
                let until = self.within(now, LAST_WORDS_NS_MAX);
                for to in others {
                    from.into_iter().for_each(|from| self.world.block(from, to));
                }
                self.at(until, Happening::Crash(one));
            }
            _ => self.split_head(now),
        }
    }

    /// A head and its successor lose each other, and the head, with a worker, the coordinator.
    fn split_head(&mut self, now: Time) {
        let shard = self.random.below(self.placement.chains.len() as u64) as usize;
        let &[one, other, ..] = self.placement.chains[shard].replicas.as_slice() else { return };
        let endpoint = |id| self.servers.get(&id).map(|server| server.endpoint);
        let (Some(from), Some(to)) = (endpoint(one), endpoint(other)) else { return };
        self.counts.splits += 1;
        let until = self.within(now, AWAY_NS_MAX);
        self.shut.extend([(one, other, until), (other, one, until)]);
        for (from, to) in [(from, to), (to, from)] {
            self.world.block(from, to);
            self.at(until, Happening::Reunite(from, to));
        }
        let deaf_until = self.within(until, AWAY_NS_MAX);
        let worker = self.random.below(self.known.len() as u64) as usize;
        self.deaf_server = Some((one, deaf_until));
        self.deaf_worker = Some((worker, deaf_until));
        self.maybe_suspect(now, one);
    }

    fn maybe_suspect(&mut self, now: Time, id: ServerId) {
        if self.random.below(2) == 0 {
            let when = self.within(now, SUSPICION_NS_MAX);
            self.at(when, Happening::Suspect(id));
        }
    }

    fn crash(&mut self, now: Time, id: ServerId) {
        self.counts.crashes += 1;
        if self.random.below(2) == 0 {
            self.servers.remove(&id);
        } else if let Some(server) = self.servers.get_mut(&id) {
            server.life = Life::Silent;
        }
        let when = self.within(now, SUSPICION_NS_MAX);
        self.at(when, Happening::Suspect(id));
    }

    /// A server that was to die must not any more: what it says is heard again.
    fn spare(&mut self, id: ServerId) {
        let Some(from) = self.servers.get(&id).map(|server| server.endpoint) else { return };
        for to in self.servers.values().map(|server| server.endpoint) {
            self.world.unblock(from, to);
        }
    }

    fn lives(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|server| server.life == Life::Alive)
    }

    /// Whether each chain of this server has another replica that lives.
    fn can_lose(&self, id: ServerId) -> bool {
        let survives = |chain: &Chain| {
            let others = chain.replicas.iter().filter(|&&other| other != id);
            !chain.replicas.contains(&id) || others.copied().any(|other| self.lives(other))
        };
        self.placement.chains.iter().all(survives)
    }

    fn happen(&mut self, now: Time, happening: Happening) {
        match happening {
            Happening::Tell(id, placement) => {
                let stopped = self.servers.get(&id).map(|server| server.stopped_until);
                let deaf = self.deaf_server.filter(|&(deaf, _)| deaf == id).map(|(_, until)| until);
                let until = stopped.max(deaf);
                match until {
                    // Who wakes up does some things before it hears what it has missed.
                    Some(until) if until > now => {
                        let when = self.within(until, NEWS_NS_MAX);
                        self.at(when, Happening::Tell(id, placement));
                    }
                    _ => self.tell(id, placement),
                }
            }
            Happening::TellWorker(worker, placement) => {
                let deaf = self.deaf_worker.filter(|&(deaf, until)| deaf == worker && until > now);
                if let Some((_, until)) = deaf {
                    self.at(until, Happening::TellWorker(worker, placement));
                } else if placement.epoch > self.known[worker].epoch {
                    self.known[worker] = placement;
                }
            }
            Happening::Relink(id, shard, epoch) => self.link_successor(now, id, shard, epoch),
            Happening::Crash(id) if self.can_lose(id) && self.lives(id) => self.crash(now, id),
            Happening::Crash(id) => self.spare(id),
            Happening::Suspect(id) => self.put_out(now, id),
            Happening::Return => {
                let id = self.add_server();
                self.commit(now, "a server is new");
                let placement = self.placement.clone();
                self.tell(id, placement);
                self.repair_later(now);
            }
            Happening::Repair => self.repair(now),
            Happening::Reunite(from, to) => self.world.unblock(from, to),
        }
    }

    /// A server hears a placement, and wants links to its successors.
    fn tell(&mut self, id: ServerId, placement: Placement) {
        let now = self.world.now();
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.life != Life::Alive || placement.epoch <= server.placed.epoch {
            return;
        }
        server.core.place(id, &placement, ALL, &self.spec);
        let changed: Vec<(ShardId, Epoch)> = placement
            .shards()
            .filter(|&(shard, chain)| {
                let before = server.placed.chain(shard);
                before.is_none_or(|before| before.epoch != chain.epoch)
            })
            .filter(|(_, chain)| chain.station(id).is_some_and(|it| it.downstream.is_some()))
            .map(|(shard, chain)| (shard, chain.epoch))
            .collect();
        server.placed = placement;
        for (shard, epoch) in changed {
            let when = self.within(now, RELINK_NS_MAX);
            self.at(when, Happening::Relink(id, shard, epoch));
        }
    }

    /// A server makes the link to its successor, if it still wants one of this epoch.
    fn link_successor(&mut self, now: Time, id: ServerId, shard: ShardId, epoch: Epoch) {
        let Some(server) = self.servers.get(&id).filter(|it| it.life == Life::Alive) else {
            return;
        };
        let chain = server.placed.chain(shard).filter(|chain| chain.epoch == epoch);
        let Some((next, _)) = chain.and_then(|chain| chain.station(id)?.downstream) else { return };
        let stopped_until = server.stopped_until;
        let there = self.servers.get(&next).filter(|it| it.life == Life::Alive);
        let theirs = there.map(|server| (server.placed.chain(shard), server.stopped_until));
        let known = theirs.and_then(|(chain, _)| chain).map(|chain| chain.epoch);
        self.shut.retain(|&(.., until)| until > now);
        let is_shut = self.shut.iter().any(|&(one, other, _)| (one, other) == (id, next));
        let is_away = is_shut || stopped_until > now || theirs.is_none_or(|(_, until)| until > now);
        let stale_is_taken = self.spec.mutation == shard::Mutation::StaleEpochsTaken;
        if !is_away && known.is_some_and(|known| known > epoch) && !stale_is_taken {
            if let Some(server) = self.servers.get_mut(&id) {
                server.core.fence(shard, known.unwrap_or(epoch));
            }
            return;
        }
        if is_away || known.is_none_or(|known| known < epoch) {
            let when = self.within(now, RELINK_NS_MAX) + Duration::from_nanos(MILLISECOND_NS);
            return self.at(when, Happening::Relink(id, shard, epoch));
        }
        let (ours, theirs) = self.world.link();
        let who = Who {
            shard,
            worker: WorkerId::PREDECESSOR,
            incarnation: Incarnation::default(),
            epoch,
            message_bytes_max: self.limits.message_bytes_max,
        };
        let next = self.servers.get_mut(&next).expect("it was just looked at");
        next.core.adopt(Link::Simulated(theirs), who).expect("an end of its own world");
        let server = self.servers.get_mut(&id).expect("it was just looked at");
        let linked = server.core.adopt_successor(shard, epoch, Link::Simulated(ours));
        linked.expect("an end of its own world");
    }

    /// The coordinator, or whoever makes links, hears from a server.
    fn hear(&mut self, now: Time, id: ServerId, shard: ShardId, (epoch, notice): (Epoch, Notice)) {
        match notice {
            Notice::SuccessorSilent => {
                let when = self.within(now, RELINK_NS_MAX) + Duration::from_nanos(MILLISECOND_NS);
                self.at(when, Happening::Relink(id, shard, epoch));
            }
            Notice::Filled => {
                let chain = &mut self.placement.chains[shard.index()];
                let Some(joining) = chain.joining.filter(|_| chain.epoch == epoch) else { return };
                self.counts.fills += 1;
                chain.joining = None;
                chain.replicas.push(joining);
                if chain.replicas.len() > self.plan.replicas {
                    self.counts.failovers += 1;
                    chain.replicas.remove(0); // A planned move of the head.
                }
                self.commit_chain(now, shard, "a server is filled");
                self.repair_later(now);
            }
            Notice::Refused | Notice::SuccessorUnfit => {
                self.failed.get_or_insert(Failure::Unfit { server: id, shard, notice });
            }
        }
    }

    /// A server is put out of all chains that have another one, and comes back as a new one.
    fn put_out(&mut self, now: Time, id: ServerId) {
        if self.placement.member(id).is_none() || !self.can_lose(id) {
            return;
        }
        let shards = self.placement.chains.len() as u16;
        for shard in (0..shards).map(ShardId::new) {
            let chain = &mut self.placement.chains[shard.index()];
            let named = chain.replicas.contains(&id) || chain.joining == Some(id);
            if named {
                self.counts.failovers += u64::from(chain.replicas.first() == Some(&id));
                chain.replicas.retain(|&other| other != id);
                chain.joining = chain.joining.filter(|&joining| joining != id);
                chain.epoch = Epoch::new(self.placement.epoch.get() + 1);
            }
        }
        self.placement.servers.retain(|member| member.server != id);
        self.commit(now, "a server is silent");
        let when = self.within(now, AWAY_NS_MAX);
        self.at(when, Happening::Return);
        self.repair_later(now);
    }

    fn repair_later(&mut self, now: Time) {
        let when = self.within(now, NEWS_NS_MAX);
        self.at(when, Happening::Repair);
    }

    /// Chains that are too short get a server to fill; at times a whole one does, to move it.
    fn repair(&mut self, now: Time) {
        let members: Vec<ServerId> = self.placement.servers.iter().map(|it| it.server).collect();
        for shard in (0..self.placement.chains.len() as u16).map(ShardId::new) {
            let moves = self.events_left > 0 && self.random.below(8) == 0;
            let chain = &self.placement.chains[shard.index()];
            let is_short = chain.replicas.len() < self.plan.replicas.min(self.plan.servers);
            let free = members.iter().filter(|&id| !chain.replicas.contains(id));
            let free: Vec<ServerId> = free.copied().collect();
            if chain.joining.is_none() && (is_short || moves) && !free.is_empty() {
                let joining = self.random.choose(&free);
                self.placement.chains[shard.index()].joining = Some(joining);
                self.commit_chain(now, shard, "a server is to be filled");
            }
        }
    }

    fn commit_chain(&mut self, now: Time, shard: ShardId, cause: &str) {
        let epoch = Epoch::new(self.placement.epoch.get() + 1);
        self.placement.chains[shard.index()].epoch = epoch;
        self.commit(now, cause);
    }

    /// When news arrives: mostly soon, at times late.
    fn news_time(&mut self, now: Time) -> Time {
        let ns_max = self.random.choose(&[NEWS_NS_MAX, NEWS_NS_MAX, NEWS_NS_MAX, AWAY_NS_MAX]);
        self.within(now, ns_max)
    }

    /// The placement is another one: everybody hears of it in some time.
    fn commit(&mut self, now: Time, cause: &str) {
        self.placement.epoch = Epoch::new(self.placement.epoch.get() + 1);
        cause.clone_into(&mut self.placement.cause);
        self.placement.check().expect("a placement of its own making");
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        for id in ids {
            let when = self.news_time(now);
            self.at(when, Happening::Tell(id, self.placement.clone()));
        }
        for worker in 0..self.known.len() {
            let when = self.news_time(now);
            self.at(when, Happening::TellWorker(worker, self.placement.clone()));
        }
    }
}
