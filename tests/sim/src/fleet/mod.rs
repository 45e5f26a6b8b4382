//! The fleet: servers in chains and the coordinators that place them, and all that befalls them.
//!
//! Owns who lives, every timer, and the checks that can be made at any moment. The coordinator is
//! the real one, `server::coordinator::Machine`, the chains and cores are; what carries messages
//! between them is `control` and the world's network, what keeps placements is `store`. What
//! befalls whom is left to `strikes`.
//!
//! Invariant: of each chain that is placed, or is about to be, one replica lives and is well, so
//! that whatever is lost is a defect.

mod caller;
mod check;
mod control;
mod council;
mod host;
mod links;
mod parting;
mod recording;
mod store;
mod strikes;
mod vault;
mod witness;

use std::collections::BTreeMap;
use std::sync::Arc;

use server::coordinator::{self, ConnectionId, Entry, Probe, StoreNews, StoreTask};
use shard::ShardSpec;
use transport::simulated::{EndpointId, World};
use transport::{Limits, Link};
use wire::{Epoch, Placement, ServerId, ShardId, StoreReport, Time};

use self::caller::{Caller, Told};
use self::control::{Control, Delivery, Node};
use self::council::{Coordinator, Heard};
use self::host::{Power, Process};
pub use self::store::StoreDefect;
use self::store::{Appended, Store, Writer};
pub(crate) use self::vault::Published;
use self::vault::Vault;
pub use self::vault::{VaultCounts, VaultDefect};
use crate::agenda::Agenda;
use crate::failure::{Event, Failure};
use crate::pace::{HAPPENINGS_AT_ONCE_MAX, turn_out, unending};
use crate::plan::{ChainPlan, Strikes};
use crate::random::Random;

const CLUSTER: &str = "counters";
const CLUSTER_ID: u64 = 77;
/// Places where a coordinator may listen.
const SEATS: usize = 2;

/// How many links of a thousand messages break, of the control network.
const RESETS_PER_MILLE: u64 = 1;

/// What a fleet is made of.
pub(crate) struct FleetSpec {
    pub(crate) limits: Limits,
    pub(crate) shard: ShardSpec,
    pub(crate) plan: ChainPlan,
    pub(crate) shards: usize,
    /// Workers and readers, each with a watch.
    pub(crate) watches: usize,
    pub(crate) coordinator_defect: coordinator::Defect,
    pub(crate) store_defect: StoreDefect,
    pub(crate) vault_defect: VaultDefect,
}

/// All servers and coordinators, and what happens to them.
pub(crate) struct Fleet {
    world: World,
    limits: Limits,
    shard: ShardSpec,
    plan: ChainPlan,
    shards: usize,
    coordinator_defect: coordinator::Defect,
    random: Random,
    control: Control,
    store: Store,
    /// Where checkpoints lie, if any are taken.
    pub(crate) vault: Option<Vault>,
    seats: [Option<Coordinator>; SEATS],
    hosts: Vec<Option<Process>>,
    watches: Vec<Caller>,
    agenda: Agenda<Happening>,
    /// Lives of processes so far.
    lives: u64,
    /// By number of a server: which life has it.
    numbers: BTreeMap<ServerId, u64>,
    events_left: u64,
    /// By worker: what it was told.
    pub(crate) known: Vec<Placement>,
    pub(crate) counts: Counts,
    failed: Option<Failure>,
    /// Who hears nothing of whom until then, of the control network.
    cut_off: Vec<(Node, Node, Time)>,
    /// Hosts that do not reach each other until then.
    shut: Vec<(usize, usize, Time)>,
    /// Hosts and watches whose sessions do not reach each other until then.
    parted: Vec<(usize, usize, Time)>,
    /// By watch: the endpoint of its session.
    guests: Vec<Option<EndpointId>>,
    /// Until when servers may be put out since two coordinators run, or did, or a clock jumped.
    doubled_until: Time,
    /// By watch and shard: when it was last linked, and in which epoch.
    linked: BTreeMap<(usize, ShardId), (Time, Epoch)>,
    /// Links that nobody answers, until they are given up.
    unanswered: Vec<(Time, Link)>,
    checked_at: Time,
    /// Whether cores or workers have something new to do.
    stirred: Stirred,
    calm: Calm,
}

/// Whether something has happened that cores or workers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stirred {
    Yes,
    No,
}

/// Whether anything may still go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calm {
    Yes,
    NotYet,
}

/// What has happened to servers and coordinators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Servers that died and said so.
    pub crashes: u64,
    /// Servers that were gone without a word.
    pub outages: u64,
    /// Processes that stood still for a while.
    pub freezes: u64,
    /// Pairs of servers that lost each other.
    pub splits: u64,
    /// Heads that lost everybody but some who ask them.
    pub partings: u64,
    /// Servers that lost the coordinators, or were lost by them.
    pub cuts: u64,
    /// Coordinators whose clocks jumped ahead.
    pub clock_jumps: u64,
    /// Coordinators that died.
    pub coordinators_died: u64,
    /// Coordinators that began while another ran.
    pub coordinators_doubled: u64,
    /// Coordinators that found another's entry in the store, and ended.
    pub fenced: u64,
    /// Times in which the store did badly.
    pub illnesses: u64,
    /// Links of the control network that were broken.
    pub resets: u64,
    /// Orders to move a replica.
    pub moves: u64,
    /// Entries that the store took.
    pub epochs: u64,
    /// Servers that were told that they are members.
    pub welcomes: u64,
    /// Servers that were filled.
    pub fills: u64,
    /// Heads that were replaced.
    pub failovers: u64,
    /// How often heads applied pushes of several workers as one, as far as was seen.
    pub merges: u64,
}

#[derive(Debug)]
enum Happening {
    Tick(usize, Writer),
    Append(usize, Writer, Arc<Entry>),
    Appended(usize, Writer, Arc<Entry>, Appended),
    Look(usize, Writer, Epoch),
    Probed {
        seat: usize,
        writer: Writer,
        server: ServerId,
        answer: Probe,
    },
    CoordinatorDies(usize, Writer),
    CoordinatorReturns(usize),
    /// A caller tries to reach a coordinator.
    Call(Node, u64),
    /// It beats, on the link of this try.
    Beat(Node, u64, u64),
    /// A server tries to link a successor: its host and life, the shard, which try, since when.
    Dial(usize, u64, ShardId, u64, Time),
    Dies(usize, u64),
    /// A coordinator's task in the vault is done, and what has become of it.
    Tasked(usize, Writer, StoreTask),
    Answered(usize, Writer, StoreNews),
    /// A part of a checkpoint is written, or is not.
    Stored(usize, u64, StoreReport),
    Returns(usize),
    /// Somebody has something to do.
    Wakes,
    Reunite(EndpointId, EndpointId),
}

impl Fleet {
    /// A fleet whose processes have all just begun.
    pub(crate) fn new(world: &World, spec: FleetSpec, mut random: Random) -> Fleet {
        let FleetSpec { limits, shard, plan, shards, watches, .. } = spec;
        let now = world.now();
        let control = Control::new(random.fork());
        let store = Store::new(random.fork(), spec.store_defect);
        let vault = plan
            .checkpoint_every
            .map(|every| Vault::new(random.fork(), shard.clone(), every, spec.vault_defect));
        let mut fleet = Fleet {
            world: world.clone(),
            limits,
            shard,
            plan,
            shards,
            coordinator_defect: spec.coordinator_defect,
            random,
            control,
            store,
            vault,
            seats: [const { None }; SEATS],
            hosts: (0..plan.servers).map(|_| None).collect(),
            watches: Vec::new(),
            agenda: Agenda::default(),
            lives: 0,
            numbers: BTreeMap::new(),
            events_left: 0,
            known: vec![Placement::default(); watches],
            counts: Counts::default(),
            failed: None,
            cut_off: Vec::new(),
            shut: Vec::new(),
            parted: Vec::new(),
            guests: vec![None; watches],
            doubled_until: now,
            linked: BTreeMap::new(),
            unanswered: Vec::new(),
            checked_at: now,
            stirred: Stirred::Yes,
            calm: Calm::NotYet,
        };
        fleet.start_coordinator(now, 0);
        (0..plan.servers).for_each(|host| fleet.start_server(now, host));
        for worker in 0..watches {
            let caller = Caller::new(0, None);
            fleet.watches.push(caller);
            fleet.agenda.at(now, Happening::Call(Node::Worker(worker), 0));
        }
        fleet
    }

    /// Whether everybody knows the first placement. A server of it whose welcome was lost would
    /// apply as another one, and shards that it alone was to hold would be gone before they began.
    pub(crate) fn has_begun(&self) -> bool {
        let knows =
            |process: &Option<Process>| process.as_ref().is_some_and(|it| it.placed.is_some());
        self.known.iter().all(|placement| placement.epoch > Epoch::default())
            && self.hosts.iter().all(knows)
    }

    /// From now on things go wrong.
    pub(crate) fn begin_strikes(&mut self) {
        self.events_left = self.plan.events;
        if self.plan.strikes == Strikes::All && self.plan.events > 0 {
            self.control.begin_resets(RESETS_PER_MILLE);
        }
    }

    /// When something happens next that no message of the world's network brings.
    pub(crate) fn next_at(&self) -> Option<Time> {
        [self.agenda.next_at(), self.control.next_at()].into_iter().flatten().min()
    }

    /// What is due happens; whether cores or workers have something to do after it.
    pub(crate) fn run_due(&mut self, now: Time) -> bool {
        let mut happened = 0;
        loop {
            happened += 1;
            if happened > HAPPENINGS_AT_ONCE_MAX {
                let failure = unending(now, Event::HappeningAtOnce, happened);
                self.failed.get_or_insert(failure);
                break;
            }
            let (seats, hosts) = (&self.seats, &self.hosts);
            // First what has come, then what time brings, as who wakes up does.
            let came = self.control.take_due(now, |node| awake_at(seats, hosts, node));
            let Some(delivery) = came else {
                let Some((_, happening)) = self.agenda.take_due(now) else { break };
                self.happen(now, happening);
                continue;
            };
            match delivery {
                Delivery::Said(seat, id, message) => {
                    self.said(now, seat, id, Heard::Message(message));
                }
                Delivery::Gone(seat, id) => self.said(now, seat, id, Heard::Closed),
                Delivery::Heard(node, id, message) => self.hear(now, node, id, message),
                Delivery::Over(node, id) => self.link_over(now, node, id),
            }
        }
        self.unanswered.retain(|&(until, _)| until > now);
        std::mem::replace(&mut self.stirred, Stirred::No) == Stirred::Yes
    }

    /// What happens now happens; then each server that runs has a turn.
    pub(crate) fn turn(&mut self, now: Time) {
        self.note_doubled(now);
        if self.events_left > 0 && self.random.below(1000) < self.plan.events_per_mille {
            self.events_left -= 1;
            self.strike(now);
        }
        self.run_due(now);
        let (mut news, mut ran) = (Vec::new(), Vec::new());
        for (host, process) in self.hosts.iter_mut().enumerate() {
            let Some(process) = process.as_mut().filter(|process| process.runs(now)) else {
                continue;
            };
            let turned = turn_out(&mut process.core, now);
            if let Err(failure) = turned.and_then(|()| process.check_answers()) {
                self.failed.get_or_insert(failure);
            }
            process.core.park(process.core.now() + PARK_MAX);
            ran.push(host);
            let said = process.core.news().drain(..);
            news.extend(said.map(|news| (host, process.life, news)));
        }
        ran.into_iter().for_each(|host| self.keep_recordings(now, host));
        for (host, life, news) in news {
            self.take_news(now, host, life, news);
        }
        self.check_now_and_then(now);
    }

    /// A server's process begins, as nobody's successor.
    fn start_server(&mut self, now: Time, host: usize) {
        self.lives += 1;
        let process = Process::new(&self.world, self.limits, host, self.lives);
        self.hosts[host] = Some(process);
        self.agenda.at(now, Happening::Call(Node::Host(host), self.lives));
        self.stirred = Stirred::Yes;
    }

    fn happen(&mut self, now: Time, happening: Happening) {
        match happening {
            Happening::Tick(seat, writer) => self.tick(now, seat, writer),
            Happening::Append(seat, writer, entry) => self.append(now, seat, writer, entry),
            Happening::Appended(seat, writer, entry, appended) => {
                self.appended(now, (seat, writer), entry, appended);
            }
            Happening::Look(seat, writer, ours) => self.look(now, seat, writer, ours),
            Happening::Probed { seat, writer, server, answer } => {
                self.probed(now, (seat, writer), server, answer);
            }
            Happening::CoordinatorDies(seat, writer) => self.coordinator_dies(now, seat, writer),
            Happening::CoordinatorReturns(seat) => self.coordinator_returns(now, seat),
            Happening::Call(node, process) => self.call(now, node, process),
            Happening::Beat(node, process, tries) => self.beat(now, node, process, tries),
            Happening::Dial(host, life, shard, tries, since) => {
                self.dial(now, (host, life), shard, tries, since);
            }
            Happening::Dies(host, life) => self.dies(now, host, life),
            Happening::Tasked(seat, writer, task) => self.tasked(now, seat, writer, task),
            Happening::Answered(seat, writer, news) => self.answered(now, seat, writer, news),
            Happening::Stored(host, life, report) => self.stored(host, life, report),
            Happening::Returns(host) => self.returns(now, host),
            Happening::Wakes => self.stirred = Stirred::Yes,
            Happening::Reunite(from, to) => self.world.unblock(from, to),
        }
    }

    /// A caller tries the next coordinator.
    fn call(&mut self, now: Time, node: Node, process: u64) {
        let until = awake_at(&self.seats, &self.hosts, node);
        let listens = [0, 1].map(|seat| self.listens(seat));
        let Some(caller) = caller_at(&mut self.hosts, &mut self.watches, node) else { return };
        if caller.process != process || caller.link.is_some() {
            return;
        }
        if until > now {
            return self.agenda.at(until, Happening::Call(node, process));
        }
        let seat = caller.begin_try(now, SEATS);
        let tries = caller.tries;
        let first_beat =
            if matches!(node, Node::Host(_)) { now } else { now + caller.beat_every() };
        match self.control.connect(now, node, seat, listens[seat]) {
            Ok(id) => {
                caller.begin_link(now, id, &mut self.control);
                self.agenda.at(first_beat, Happening::Beat(node, process, tries));
            }
            Err(at) => {
                let pause = caller.end_link(at);
                self.agenda.at(at + pause, Happening::Call(node, process));
            }
        }
    }

    fn beat(&mut self, now: Time, node: Node, process: u64, tries: u64) {
        let until = awake_at(&self.seats, &self.hosts, node);
        let Some(caller) = caller_at(&mut self.hosts, &mut self.watches, node) else { return };
        if (caller.process, caller.tries) != (process, tries) {
            return;
        }
        if until > now {
            return self.agenda.at(until, Happening::Beat(node, process, tries));
        }
        let Some(id) = caller.link else { return };
        if caller.is_silent(now) {
            self.control.hang_up(now, id);
            return self.link_over(now, node, id);
        }
        let next = now + caller.beat_every();
        caller.beat(now, &mut self.control);
        self.agenda.at(next, Happening::Beat(node, process, tries));
    }

    fn link_over(&mut self, now: Time, node: Node, id: ConnectionId) {
        let caller = caller_at(&mut self.hosts, &mut self.watches, node);
        let Some(caller) = caller.filter(|caller| caller.link == Some(id)) else { return };
        let (pause, process) = (caller.end_link(now), caller.process);
        self.agenda.at(now + pause, Happening::Call(node, process));
    }

    /// A server or a watch hears a coordinator.
    fn hear(&mut self, now: Time, node: Node, id: ConnectionId, message: wire::ToMember) {
        let caller = caller_at(&mut self.hosts, &mut self.watches, node);
        let Some(caller) = caller.filter(|caller| caller.link == Some(id)) else { return };
        match caller.take(now, message) {
            Told::Welcome(life) => {
                let Node::Host(host) = node else { return };
                let process = self.hosts[host].as_mut().expect("its caller was there");
                process.ours = Some(life.server);
                let owner = *self.numbers.entry(life.server).or_insert(process.life);
                if owner != process.life {
                    self.failed.get_or_insert(Failure::NumberTwice { server: life.server });
                }
            }
            Told::Placement(placement) => self.hear_placement(now, node, placement),
            Told::Removed | Told::Denied => {
                if let Node::Host(host) = node {
                    let process = self.hosts[host].as_mut().expect("its caller was there");
                    process.ours = process.ours.filter(|_| process.caller.is_member());
                }
                self.control.hang_up(now, id);
                self.link_over(now, node, id);
            }
            Told::Ordered(order) => self.ordered(node, order),
            Told::Nothing => {}
        }
    }

    fn hear_placement(&mut self, now: Time, node: Node, placement: Placement) {
        if !self.store.holds(&placement) {
            let epoch = placement.epoch;
            self.failed.get_or_insert(Failure::ToldUnrecorded { epoch });
        }
        self.stirred = Stirred::Yes;
        match node {
            Node::Host(host) => self.place(now, host, placement),
            Node::Worker(worker) => self.known[worker] = placement,
            Node::Seat(_) | Node::Person => {}
        }
    }
}

/// How long a core sleeps at most before it looks around.
const PARK_MAX: std::time::Duration = std::time::Duration::from_millis(100);

/// Who calls from a node of the control network.
fn caller_at<'a>(
    hosts: &'a mut [Option<Process>],
    watches: &'a mut [Caller],
    node: Node,
) -> Option<&'a mut Caller> {
    match node {
        Node::Host(host) => {
            let process = hosts[host].as_mut().filter(|it| it.power == Power::On);
            process.map(|process| &mut process.caller)
        }
        Node::Worker(worker) => watches.get_mut(worker),
        Node::Seat(_) | Node::Person => None,
    }
}

/// When who is at a node of the control network goes on.
fn awake_at(seats: &[Option<Coordinator>; SEATS], hosts: &[Option<Process>], node: Node) -> Time {
    let until = match node {
        Node::Seat(seat) => seats[seat].as_ref().map(|it| it.stopped_until),
        Node::Host(host) => hosts[host].as_ref().map(|it| it.stopped_until),
        Node::Worker(_) | Node::Person => None,
    };
    until.unwrap_or_default()
}
