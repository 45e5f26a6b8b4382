//! The coordinators: each place where one may run, and what a running one does.
//!
//! Owns the loop around `server::coordinator::Machine`, as `server::Coordinator` has it with
//! threads and sockets: ticks, the one attempt to record that is under way, and places that are
//! asked.
//!
//! Invariant: a coordinator whose entry did not follow the newest ends.

use std::sync::Arc;
use std::time::Duration;

use server::coordinator::{
    APPEND_AGAIN_AFTER, Action, ClusterSpec, ConnectionId, Entry, Event, Hands, Machine, PROBE_MAX,
    Probe, Spread, StoreNews, StoreTask, TICK_EVERY,
};
use wire::{Epoch, ServerId, Time, ToMember};

use super::control::{Farewell, Listens, Node};
use super::host::Power;
use super::store::{Appended, Writer};
use super::vault::Vault;
use super::{CLUSTER, CLUSTER_ID, Fleet, Happening};
use crate::failure::Failure;

/// How far a coordinator's clock may run off, in millionths.
const DRIFT_PPM_MAX: u64 = 10_000;
const WHOLE_PPM: u64 = 1_000_000;

/// A coordinator's process.
pub(crate) struct Coordinator {
    pub(crate) writer: Writer,
    pub(crate) machine: Machine,
    /// In the store of checkpoints, if there is one.
    hands: Option<Hands>,
    began: Time,
    rate_ppm: u64,
    /// By how much its clock has jumped ahead.
    pub(crate) jumped: Duration,
    pub(crate) stopped_until: Time,
    /// It dies as it records next.
    pub(crate) dies_at: Option<DiesAt>,
}

/// The moment at which a coordinator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiesAt {
    /// Before anything reaches the store.
    Recording,
    /// When the store has the entry, and before it knows.
    Recorded,
    /// When it knows, and has told nobody.
    Telling,
}

impl Coordinator {
    /// What its clock shows.
    fn local(&self, now: Time) -> Time {
        let gone = u128::from((now - self.began).as_nanos() as u64) * u128::from(self.rate_ppm);
        Time::from_nanos((gone / u128::from(WHOLE_PPM)) as u64) + self.jumped
    }
}

impl Fleet {
    /// A coordinator begins at this place, unless one runs there.
    pub(super) fn start_coordinator(&mut self, now: Time, seat: usize) {
        if self.seats[seat].is_some() {
            return;
        }
        self.lives += 1;
        let writer = Writer(self.lives);
        let spec = ClusterSpec {
            name: CLUSTER.to_owned(),
            shards: self.shards as u16,
            replicas: self.plan.replicas as u8,
            servers_min: self.plan.servers,
            spread: Spread::DistinctHosts,
        };
        let (newest, past) = (self.store.read(), Vec::new());
        let machine = Machine::new(spec, CLUSTER_ID, newest, past, Time::default());
        let machine = machine.with_defect(self.coordinator_defect);
        let machine = match &self.vault {
            Some(vault) => machine.with_checkpoints(&vault.spec(), Time::default()),
            None => machine,
        };
        let hands = self.vault.as_ref().map(Vault::hands);
        if let Some(taken) = hands.as_ref().and_then(|hands| hands.newest(seconds(now))) {
            let found = StoreNews::Found { taken };
            self.agenda.at(now, Happening::Answered(seat, writer, found));
        }
        let rate_ppm = WHOLE_PPM - DRIFT_PPM_MAX + self.random.below(2 * DRIFT_PPM_MAX);
        self.seats[seat] = Some(Coordinator {
            writer,
            machine,
            hands,
            began: now,
            rate_ppm,
            jumped: Duration::ZERO,
            stopped_until: now,
            dies_at: None,
        });
        self.agenda.at(now, Happening::Tick(seat, writer));
    }

    /// A coordinator's process ends.
    pub(super) fn end_coordinator(&mut self, now: Time, seat: usize) {
        if self.seats[seat].take().is_some() {
            self.control.leave(now, Node::Seat(seat), Farewell::Said);
            self.store.lose_unsynced();
        }
    }

    /// Whether somebody listens at a coordinator's place; a process that stands still does.
    pub(super) fn listens(&self, seat: usize) -> Listens {
        if self.seats[seat].is_some() { Listens::Yes } else { Listens::No }
    }

    pub(super) fn tick(&mut self, now: Time, seat: usize, writer: Writer) {
        let Some(coordinator) = self.running(seat, writer) else { return };
        let until = coordinator.stopped_until;
        if until > now {
            return self.agenda.at(until, Happening::Tick(seat, writer));
        }
        self.agenda.at(now + TICK_EVERY, Happening::Tick(seat, writer));
        self.coordinate(now, seat, Event::Tick);
    }

    fn running(&mut self, seat: usize, writer: Writer) -> Option<&mut Coordinator> {
        self.seats[seat].as_mut().filter(|coordinator| coordinator.writer == writer)
    }

    /// Hands an event to a coordinator and does what it wants.
    pub(super) fn coordinate(&mut self, now: Time, seat: usize, event: Event) {
        let Some(coordinator) = &mut self.seats[seat] else { return };
        let local = coordinator.local(now);
        let writer = coordinator.writer;
        for action in coordinator.machine.handle(event, local) {
            match action {
                Action::Send { connection, message } => {
                    if let ToMember::Welcome(welcome) = &message {
                        self.counts.welcomes += u64::from(welcome.life.is_some());
                    }
                    self.control.tell(now, connection, message);
                }
                Action::Publish { connections, placement } => {
                    for connection in connections {
                        let message = ToMember::Placement((*placement).clone());
                        self.control.tell(now, connection, message);
                    }
                }
                Action::Close { connection } => self.control.turn_away(now, connection),
                Action::Probe { server, place } => {
                    let host = place.parse().expect("places are the numbers of hosts");
                    let (answer, after) = self.probe(now, seat, host);
                    let asked = Happening::Probed { seat, writer, server, answer };
                    self.agenda.at(now + after, asked);
                }
                Action::Record(entry) => self.attempt(now, seat, writer, &entry),
                Action::KeepJob(_) => unreachable!("no job of several hosts runs here"),
                Action::Store(task) => self.plan_task(now, seat, writer, task),
                Action::Look { ours } => {
                    let at = now + self.store.way(now);
                    self.agenda.at(at, Happening::Look(seat, writer, ours));
                }
            }
        }
    }

    /// A coordinator's task in the vault is done in a while.
    fn plan_task(&mut self, now: Time, seat: usize, writer: Writer, task: StoreTask) {
        let vault = self.vault.as_mut().expect("only with a place for checkpoints");
        self.agenda.at(now + vault.way(), Happening::Tasked(seat, writer, task));
    }

    /// A coordinator's task in the vault is done, if it still runs.
    pub(super) fn tasked(&mut self, now: Time, seat: usize, writer: Writer, task: StoreTask) {
        let coordinator = self.seats[seat].as_mut().filter(|it| it.writer == writer);
        let (Some(coordinator), Some(vault)) = (coordinator, &mut self.vault) else { return };
        if coordinator.stopped_until > now {
            let again = Happening::Tasked(seat, writer, task);
            return self.agenda.at(coordinator.stopped_until, again);
        }
        let hands = coordinator.hands.as_mut().expect("it has a place for checkpoints");
        if let Some(news) = vault.perform(hands, task, seconds(now)) {
            let way = vault.way();
            self.agenda.at(now + way, Happening::Answered(seat, writer, news));
        }
    }

    /// A coordinator hears what has become of its task.
    pub(super) fn answered(&mut self, now: Time, seat: usize, writer: Writer, news: StoreNews) {
        let Some(coordinator) = self.running(seat, writer) else { return };
        let until = coordinator.stopped_until;
        match until > now {
            true => self.agenda.at(until, Happening::Answered(seat, writer, news)),
            false => self.coordinate(now, seat, Event::Store(news)),
        }
    }

    /// What a place answers, and when.
    fn probe(&mut self, now: Time, seat: usize, host: usize) -> (Probe, Duration) {
        let is_shut = self.cut_off.iter().any(|&(one, other, until)| {
            until > now && one == Node::Seat(seat) && other == Node::Host(host)
        });
        let soon = Duration::from_nanos(self.random.below(1_000_000));
        match &self.hosts[host] {
            _ if is_shut => (Probe::Unknown, PROBE_MAX),
            Some(process) if process.power == Power::Off => (Probe::Unknown, PROBE_MAX),
            Some(_) => (Probe::Open, soon),
            None => (Probe::Refused, soon),
        }
    }

    pub(super) fn probed(
        &mut self,
        now: Time,
        (seat, writer): (usize, Writer),
        server: ServerId,
        answer: Probe,
    ) {
        let Some(coordinator) = self.running(seat, writer) else { return };
        let until = coordinator.stopped_until;
        match until > now {
            true => self.agenda.at(until, Happening::Probed { seat, writer, server, answer }),
            false => self.coordinate(now, seat, Event::Probed { server, answer }),
        }
    }

    /// Tries to append an entry.
    fn attempt(&mut self, now: Time, seat: usize, writer: Writer, entry: &Arc<Entry>) {
        self.check_entry(entry);
        let way = self.store.way(now);
        if self.seats[seat].as_ref().is_some_and(|it| it.dies_at == Some(DiesAt::Recording)) {
            return self.agenda.at(now, Happening::CoordinatorDies(seat, writer));
        }
        self.agenda.at(now + way, Happening::Append(seat, writer, Arc::clone(entry)));
    }

    /// An attempt reaches the store, whether or not its coordinator still runs.
    pub(super) fn append(&mut self, now: Time, seat: usize, writer: Writer, entry: Arc<Entry>) {
        let before = self.store.placement().map(|placement| placement.chains.clone());
        let appended = self.store.append(now, writer, &entry);
        self.counts.epochs += u64::from(appended == Appended::Yes);
        let chains = before.iter().flatten().zip(&entry.placement.chains);
        let failovers =
            chains.filter(|(one, other)| one.replicas.first() != other.replicas.first());
        self.counts.failovers += failovers.count() as u64;
        let dies_at = self.running(seat, writer).and_then(|coordinator| coordinator.dies_at);
        if appended != Appended::Conflict && dies_at == Some(DiesAt::Recorded) {
            return self.agenda.at(now, Happening::CoordinatorDies(seat, writer));
        }
        let way = self.store.way(now);
        self.agenda.at(now + way, Happening::Appended(seat, writer, entry, appended));
    }

    /// The store is looked at: has another coordinator been there? Its own next entry, which a real
    /// one appends after it has looked, may have been faster here.
    pub(super) fn look(&mut self, now: Time, seat: usize, writer: Writer, ours: Epoch) {
        let is_theirs =
            self.store.newest_by().is_some_and(|(by, newest)| by != writer && newest > ours);
        if is_theirs && self.running(seat, writer).is_some() {
            self.step_down(now, seat);
        }
    }

    fn step_down(&mut self, now: Time, seat: usize) {
        self.counts.fenced += 1;
        self.end_coordinator(now, seat);
        self.return_coordinator(now);
    }

    /// A coordinator hears of its attempt.
    pub(super) fn appended(
        &mut self,
        now: Time,
        (seat, writer): (usize, Writer),
        entry: Arc<Entry>,
        appended: Appended,
    ) {
        let Some(coordinator) = self.running(seat, writer) else { return };
        let (until, dies_at) = (coordinator.stopped_until, coordinator.dies_at);
        if until > now {
            let later = Happening::Appended(seat, writer, entry, appended);
            return self.agenda.at(until, later);
        }
        match appended {
            Appended::Yes if dies_at == Some(DiesAt::Telling) => {
                self.agenda.at(now, Happening::CoordinatorDies(seat, writer));
            }
            Appended::Yes => self.coordinate(now, seat, Event::Recorded { took: Duration::ZERO }),
            Appended::Conflict => self.step_down(now, seat),
            Appended::Unknown => {
                let why = "the store does not answer".to_owned();
                self.coordinate(now, seat, Event::NotRecorded { why, took: Duration::ZERO });
                let way = self.store.way(now);
                let again = Happening::Append(seat, writer, entry);
                self.agenda.at(now + APPEND_AGAIN_AFTER + way, again);
            }
        }
    }

    /// An entry that is about to be recorded takes nobody's shard away.
    fn check_entry(&mut self, entry: &Entry) {
        if let Err(error) = entry.placement.check() {
            self.failed.get_or_insert(Failure::Unplaceable { what: error.to_string() });
        }
        let lost = entry.placement.shards().find(|(_, chain)| chain.replicas.is_empty());
        if let Some((shard, _)) = lost {
            let cause = entry.placement.cause.clone();
            self.failed.get_or_insert(Failure::ShardLost { shard, cause });
        }
    }

    pub(super) fn said(&mut self, now: Time, seat: usize, id: ConnectionId, event: Heard) {
        let event = match event {
            Heard::Message(message) => Event::Said { connection: id, message },
            Heard::Closed => Event::Closed { connection: id },
        };
        self.coordinate(now, seat, event);
    }
}

/// What comes to a coordinator over a link.
#[derive(Debug)]
pub(super) enum Heard {
    Message(wire::ToCoordinator),
    Closed,
}

/// The time of the world's day, in whole seconds.
fn seconds(now: Time) -> u64 {
    now.nanos() / 1_000_000_000
}
