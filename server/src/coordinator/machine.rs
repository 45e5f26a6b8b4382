//! The coordinator as a state machine: an event and the time in, actions out.
//!
//! Owns who may speak and what each message does, and the one placement that is being recorded at
//! a time. Who is there is left to `census`, what servers say to `gossip`, who holds what to
//! `assign`; sockets, the clock and the store to `service`.
//!
//! Invariant: nobody is told of a placement, or given a number, before the store holds it; epochs
//! count up by one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use wire::{
    Applicant, Apply, Candidate, Denial, Epoch, Life, Placement, SERVERS_MAX, ServerId, Time,
    ToCoordinator, ToMember, Welcome,
};

use super::assign::{Crew, Leavers};
use super::cause::cause;
use super::census::{Census, Changed, Health, Told, Why, Wish};
use super::conduct::Conductor;
use super::detector::BEAT_EVERY;
use super::event::{Action, ConnectionId, Defect, Event};
use super::gossip::Gossip;
use super::jobs::Jobs;
use super::ledger::Ledger;
use super::orders::Desk;
use super::restoring::Restoring;
use super::spec::ClusterSpec;
use super::store::Entry;
use super::view::{Past, Proposal};

/// Epochs whose cause a status tells.
pub(super) const HISTORY_SHOWN_MAX: usize = 32;

/// How often everything is looked at again, since patience runs out without an event.
const RECONSIDER_EVERY: Duration = Duration::from_millis(100);

/// How often the store is looked at: another coordinator may have been there, which one that has
/// nothing to record would not find out, and its watchers would stay in the past with it.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Between two events there is a tick at most; a longer pause is the coordinator's own standstill.
const STANDSTILL: Duration = Duration::from_millis(50);

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Server(ServerId),
    Watcher,
    Person,
}

/// The coordinator's whole state. `Coordinator` drives it by sockets and threads, a simulation by
/// its own.
#[derive(Debug)]
pub struct Machine {
    pub(super) defect: Defect,
    pub(super) spec: ClusterSpec,
    pub(super) cluster_id: u64,
    /// In which term it leads, and where it is reached; 0: it is the only one.
    pub(super) lead: (u64, Option<String>),
    pub(super) placement: Arc<Placement>,
    numbers_given: u32,
    /// Of those, the ones that the store knows of.
    numbers_recorded: u32,
    pub(super) proposal: Option<Proposal>,
    pub(super) census: Census,
    pub(super) gossip: Gossip,
    pub(super) callers: BTreeMap<ConnectionId, Caller>,
    pub(super) desk: Desk,
    leavers: Leavers,
    pub(super) history: VecDeque<Past>,
    pub(super) ledger: Ledger,
    pub(super) began_at: Time,
    last_at: Time,
    reconsider_at: Time,
    look_again_at: Time,
    pub(super) changed: Changed,
    pub(super) conductor: Conductor,
    pub(super) restoring: Restoring,
    pub(super) jobs: Jobs,
    pub(super) actions: Vec<Action>,
}

impl Machine {
    /// A coordinator that goes on from the newest entry; `past` are epochs and causes, the newest
    /// first. `spec` has passed [`ClusterSpec::check`].
    pub fn new(
        spec: ClusterSpec,
        cluster_id: u64,
        newest: Entry,
        past: Vec<(Epoch, String)>,
        now: Time,
    ) -> Machine {
        let mut census = Census::recover(&newest.placement, now);
        let desk = Desk::resumed(&newest, &mut census);
        let past = past.into_iter().map(|(epoch, cause)| Past { epoch, cause, at: None });
        Machine {
            defect: Defect::None,
            spec,
            cluster_id,
            lead: (0, None),
            placement: Arc::new(newest.placement),
            numbers_given: newest.numbers_given,
            numbers_recorded: newest.numbers_given,
            proposal: None,
            census,
            gossip: Gossip::default(),
            callers: BTreeMap::new(),
            desk,
            leavers: Leavers::new(),
            history: past.take(HISTORY_SHOWN_MAX).collect(),
            ledger: Ledger::default(),
            began_at: now,
            last_at: now,
            reconsider_at: now,
            look_again_at: now,
            changed: Changed::Yes,
            conductor: Conductor::default(),
            restoring: Restoring::default(),
            jobs: Jobs::default(),
            actions: Vec::new(),
        }
    }

    /// The same with a defect, for tests.
    #[must_use]
    pub fn with_defect(self, defect: Defect) -> Machine {
        Machine { defect, ..self }
    }

    /// The newest placement that the store is known to hold.
    pub fn placement(&self) -> &Arc<Placement> {
        &self.placement
    }

    /// The entry that is on its way into the store, if one is.
    pub fn proposed(&self) -> Option<&Arc<Entry>> {
        self.proposal.as_ref().map(|proposal| &proposal.entry)
    }

    /// Takes an event. `now` never goes back.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let paused = now - self.last_at;
        if paused > STANDSTILL || self.defect == Defect::NeverSuspects {
            self.census.forgive(paused);
            self.jobs.forgive(paused);
        }
        self.last_at = now;
        let is_beat = matches!(event, Event::Said { message: ToCoordinator::Beat(_), .. });
        match event {
            Event::Said { connection, message } => self.said(connection, message, now),
            Event::Closed { connection } => self.closed(connection, now),
            Event::Probed { server, answer } => {
                let changed = self.census.probed(server, answer, now);
                self.note(changed);
            }
            Event::Recorded { took } => {
                self.ledger.recorded(took);
                self.recorded(now);
            }
            Event::NotRecorded { why, took } => {
                self.ledger.not_recorded(took);
                if let Some(proposal) = &mut self.proposal {
                    proposal.error = Some(why);
                }
            }
            Event::Store(news) => {
                self.hear_of_store(news, now);
                self.conduct(now);
            }
            Event::TakeCheckpoint => {
                // That one is under way already is as good; that none can be, the status says.
                let _ = self.wish_for_checkpoint();
                self.conduct(now);
            }
            Event::JobKept => self.job_kept(),
            Event::Tick => {
                self.conduct(now);
                self.look_at_jobs(now);
            }
        }
        // Beats are many, and mostly say nothing; ticks see to what time has changed.
        if !is_beat || self.changed == Changed::Yes {
            self.look(now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Links whose other end watches placements.
    pub(super) fn watchers(&self) -> usize {
        self.callers.values().filter(|caller| **caller == Caller::Watcher).count()
    }

    pub(super) fn note(&mut self, changed: Changed) {
        if changed == Changed::Yes {
            self.changed = Changed::Yes;
        }
    }

    pub(super) fn send(&mut self, connection: ConnectionId, message: ToMember) {
        self.actions.push(Action::Send { connection, message });
    }

    /// Says no and ends the link.
    pub(super) fn deny(&mut self, connection: ConnectionId, denial: Denial) {
        self.send(connection, ToMember::Denied(denial));
        self.callers.remove(&connection);
        self.actions.push(Action::Close { connection });
    }

    fn said(&mut self, connection: ConnectionId, message: ToCoordinator, now: Time) {
        let caller = self.callers.get(&connection).copied();
        match (caller, message) {
            (None, ToCoordinator::Apply(apply)) => self.apply(connection, apply, now),
            (None, _) | (Some(_), ToCoordinator::Apply(_)) => {
                let expected = "one application, as the first message".to_owned();
                self.deny(connection, Denial::Unexpected { expected });
            }
            (Some(caller), ToCoordinator::Beat(beat)) => self.beat(connection, caller, &beat, now),
            (Some(_), ToCoordinator::Suspect { server, epoch: _ }) => self.probe(server),
            (Some(Caller::Server(server)), ToCoordinator::Leave) => {
                let _ = self.wish_to_leave(server);
            }
            (Some(Caller::Person), ToCoordinator::Ask(ask)) => self.asked(connection, ask, now),
            (Some(Caller::Person), ToCoordinator::Job(ask)) => self.job_asked(connection, ask, now),
            (Some(Caller::Server(server)), ToCoordinator::Stored(report)) => {
                self.hear_of_load(server, &report, now);
                self.hear_of_part(server, report, now);
                if self.conductor.awaits_no_part() {
                    self.conduct(now);
                }
            }
            (Some(_), _) => {
                let expected = "a server's wish to leave, or a person's question".to_owned();
                self.deny(connection, Denial::Unexpected { expected });
            }
        }
    }

    fn apply(&mut self, connection: ConnectionId, apply: Apply, now: Time) {
        if let Err(denial) = apply.check(&self.spec.name) {
            return self.deny(connection, denial);
        }
        let ours = self.placement.epoch;
        if apply.epoch > ours {
            self.look_at_store(now);
            return self.deny(connection, Denial::Behind { ours, theirs: apply.epoch });
        }
        match apply.applicant {
            Applicant::Server(candidate) => self.apply_server(connection, candidate, now),
            Applicant::Watcher => self.welcome(connection, Caller::Watcher),
            Applicant::Person => self.welcome(connection, Caller::Person),
        }
    }

    /// Whether another coordinator has recorded something is to be seen, so that this one is over;
    /// an append that is under way will tell as well.
    fn look_at_store(&mut self, now: Time) {
        if self.proposal.is_none() && now >= self.look_again_at {
            self.look_again_at = now + LOOK_AGAIN_EVERY;
            self.actions.push(Action::Look { ours: self.placement.epoch });
        }
    }

    fn apply_server(&mut self, connection: ConnectionId, candidate: Candidate, now: Time) {
        if let Some(life) = candidate.life {
            return self.apply_again(connection, life, &candidate, now);
        }
        match self.census.vacate(&candidate.place, now) {
            Err(server) => {
                let place = candidate.place;
                return self.deny(connection, Denial::PlaceTaken { place, server });
            }
            Ok(Some(untold)) => return self.attach(connection, untold, candidate.cores, now),
            Ok(None) => {}
        }
        if self.census.len() >= SERVERS_MAX || self.numbers_given == u32::MAX {
            let full = Denial::Full { what: "servers".to_owned(), count_max: SERVERS_MAX };
            return self.deny(connection, full);
        }
        self.numbers_given += 1;
        let server = ServerId::new(self.numbers_given);
        self.census.add(server, candidate, connection, now);
        // The welcome follows when the store holds the number.
        self.callers.insert(connection, Caller::Server(server));
        self.changed = Changed::Yes;
    }

    /// A member's link was gone, or this coordinator is another process than the one it knew.
    fn apply_again(
        &mut self,
        connection: ConnectionId,
        life: Life,
        candidate: &Candidate,
        now: Time,
    ) {
        let is_ours = life.cluster_id == self.cluster_id;
        if is_ours && life.server.get() > self.numbers_recorded {
            // Another coordinator gave it that number, in an epoch that this one does not know.
            self.look_at_store(now);
            let ours = self.placement.epoch;
            let theirs = Epoch::new(ours.get() + 1);
            return self.deny(connection, Denial::Behind { ours, theirs });
        }
        let member = self.placement.member(life.server);
        let is_same = member.is_some_and(|member| member.place == candidate.place);
        let server = self.census.get(life.server);
        let is_lost = server.is_none_or(|server| matches!(server.health, Health::Lost(_)));
        if is_lost || !is_same || !is_ours {
            return self.deny(connection, Denial::Removed { server: life.server });
        }
        self.attach(connection, life.server, candidate.cores, now);
    }

    /// Gives a server that is known a new link.
    fn attach(&mut self, connection: ConnectionId, number: ServerId, cores: u16, now: Time) {
        let Some(server) = self.census.get_mut(number) else { return };
        server.cores = cores;
        let before = server.connection;
        server.attach(connection, now);
        self.changed = Changed::Yes;
        if let Some(before) = before {
            self.callers.remove(&before);
            self.actions.push(Action::Close { connection: before });
        }
        if self.placement.member(number).is_some() {
            self.welcome(connection, Caller::Server(number));
        } else {
            self.callers.insert(connection, Caller::Server(number));
        }
    }

    fn welcome(&mut self, connection: ConnectionId, caller: Caller) {
        self.callers.insert(connection, caller);
        let life = match caller {
            Caller::Server(server) => {
                if let Some(known) = self.census.get_mut(server) {
                    known.told = Told::Yes;
                }
                Some(Life { server, cluster_id: self.cluster_id })
            }
            Caller::Watcher | Caller::Person => None,
        };
        let welcome = Welcome {
            life,
            beat_every_ms: BEAT_EVERY.as_millis() as u32,
            shards: self.spec.shards,
            replicas: self.spec.replicas,
        };
        self.send(connection, ToMember::Welcome(welcome));
        if caller != Caller::Person && self.placement.epoch > Epoch::new(0) {
            let placement = Arc::clone(&self.placement);
            self.actions.push(Action::Publish { connections: vec![connection], placement });
        }
    }

    /// Looks at what time has changed, and proposes a placement if another one shall be.
    fn look(&mut self, now: Time) {
        let (probes, changed) = self.census.look(now);
        self.note(changed);
        for number in probes {
            let Some(server) = self.census.get(number) else { continue };
            let place = server.member.place.clone();
            self.actions.push(Action::Probe { server: number, place });
        }
        if self.proposal.is_some() || (self.changed == Changed::No && now < self.reconsider_at) {
            return;
        }
        self.changed = Changed::No;
        self.reconsider_at = now + RECONSIDER_EVERY;
        self.dismiss_strangers();
        self.look_at_store(now);
        let next = self.next_placement(now).or_else(|| self.placement_for_orders());
        self.await_record(next.is_some());
        if let Some(placement) = next {
            debug_assert_eq!(placement.check(), Ok(()));
            let orders = self.orders(&placement);
            let numbers_given = self.numbers_given;
            let entry = Arc::new(Entry { placement, numbers_given, orders });
            self.actions.push(Action::Record(Arc::clone(&entry)));
            if self.defect == Defect::ToldEarly {
                let (placement, all) = (entry.placement.clone().into(), self.callers.keys());
                let connections = all.copied().collect();
                self.actions.push(Action::Publish { connections, placement });
            }
            self.proposal = Some(Proposal { entry, since: now, error: None });
        }
    }

    /// The placement that shall follow; none if all is as it shall be.
    fn next_placement(&mut self, now: Time) -> Option<Placement> {
        let seats: Vec<_> = self.census.iter().map(|server| server.seat()).collect();
        let crew = Crew::new(seats, usize::from(self.spec.replicas), self.spec.spread);
        let old = Arc::clone(&self.placement);
        let mut chains = if old.chains.is_empty() {
            let fit = self.census.iter().filter(|one| one.health == Health::Fit).count();
            if fit < self.spec.servers_min {
                return None;
            }
            crew.first(self.spec.shards)
        } else {
            let census = &self.census;
            let is_heard = |server| census.get(server).is_some_and(|it| it.health == Health::Fit);
            let mut news = self.gossip.news(now, is_heard);
            news.moves.clone_from(&self.desk.moves);
            if self.defect == Defect::FilledUnasked {
                news.filled.extend(old.shards().map(|(shard, chain)| (shard, chain.epoch)));
            }
            crew.next(&old.chains, &news, &mut self.leavers)
        };
        let named: BTreeSet<ServerId> =
            chains.iter().flat_map(|one| one.replicas.iter().copied().chain(one.joining)).collect();
        let stays = self.census.iter().filter(|server| {
            let is_there = matches!(server.health, Health::Fit | Health::Expected);
            (is_there && server.wish == Wish::Stay) || named.contains(&server.member.server)
        });
        let servers: Vec<_> = stays.map(|server| server.member.clone()).collect();
        if chains == old.chains && servers == old.servers {
            return None;
        }
        let epoch = Epoch::new(old.epoch.get() + 1);
        for (index, chain) in chains.iter_mut().enumerate() {
            if old.chains.get(index) != Some(chain) {
                chain.epoch = epoch;
            }
        }
        let restored_from = match old.chains.is_empty() {
            true => self.restoring.from.clone(),
            false => old.restored_from.clone(),
        };
        let mut next = Placement { epoch, cause: String::new(), servers, chains, restored_from };
        let reasons = self.census.iter().filter_map(|server| match &server.health {
            Health::Away(why) | Health::Lost(why) => Some((server.member.server, why.to_string())),
            Health::Fit | Health::Expected => None,
        });
        next.cause = cause(&old, &next, &reasons.collect());
        Some(next)
    }

    /// The store holds the proposal: it is the placement.
    fn recorded(&mut self, now: Time) {
        let Some(Proposal { entry, .. }) = self.proposal.take() else { return };
        self.numbers_recorded = entry.numbers_given;
        let placement = Arc::new(entry.placement.clone());
        let old = std::mem::replace(&mut self.placement, Arc::clone(&placement));
        let census = &self.census;
        let has_left = |server| census.get(server).is_some_and(|one| one.wish == Wish::Leave);
        self.ledger.placed(&old, &placement, has_left);
        self.changed = Changed::Yes;
        self.gossip.prune(&placement);
        self.answer_orders(&entry.orders, &placement);
        match old.chains.is_empty() {
            true => self.begin_restoring(),
            false => self.prune_loads(),
        }
        let (epoch, cause) = (placement.epoch, placement.cause.clone());
        self.history.push_front(Past { epoch, cause, at: Some(now) });
        self.history.truncate(HISTORY_SHOWN_MAX);
        for member in old.servers.iter().filter(|one| placement.member(one.server).is_none()) {
            // Should it have come back in the meantime, it comes as another one.
            if let Some(server) = self.census.get_mut(member.server) {
                server.health = Health::Lost(Why::Removed);
            }
        }
        let mut told = Vec::new();
        for (&connection, &caller) in &self.callers {
            match caller {
                Caller::Server(server) if old.member(server).is_some() => told.push(connection),
                Caller::Watcher => told.push(connection),
                Caller::Server(_) | Caller::Person => {}
            }
        }
        self.actions.push(Action::Publish { connections: told, placement: Arc::clone(&placement) });
        let news = placement.servers.iter().filter(|member| old.member(member.server).is_none());
        for member in news {
            let server = self.census.get(member.server);
            if let Some(connection) = server.and_then(|server| server.connection) {
                self.welcome(connection, Caller::Server(member.server));
            }
        }
    }
}
