//! The cluster: cores with their shards, and the network that joins workers to them.
//!
//! Owns the cores and the world's time. What workers do is left to `member`.
//!
//! Invariant: no thread and no clock of the machine: whoever parks, or the driver, moves the
//! world on, and the cores have their turns in the order of their numbers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kernels::Isa;
use server::{Core, OnClosed, Who};
use shard::rule::Rules;
use shard::{Shard, ShardSpec};
use transport::simulated::{Counts, Parking, Simulated, World};
use transport::{Event, Limits, Link, Transport, passes_on};
use wire::{Epoch, Incarnation, Routing, ShardId, Time, WorkerId};
use worker::{Session, SessionSpec};

use crate::failure::Failure;
use crate::fleet::{Fleet, FleetSpec};
use crate::pace::{Pace, turn_out};
use crate::plan::Plan;
use crate::random::Random;
use crate::run::Defect;

const EPOCH: Epoch = Epoch::new(1);
/// Sets the stream of a cluster's stops apart from the workers', which are numbered from 0.
const STOPS_STREAM: u64 = u64::MAX - 1;
/// The same for what befalls servers in chains.
const SERVERS_STREAM: u64 = u64::MAX - 3;
/// The same for clocks of sessions, by endpoint.
const CLOCKS_STREAM: u64 = u64::MAX - 8;

/// How many polls there are to a jump of a session's clock.
const POLLS_A_JUMP: u64 = 2000;
/// By how much it jumps ahead at most, in nanoseconds: an hour.
const JUMP_NS_MAX: u64 = 3_600_000_000_000;

/// What the rows of one shard may take, in bytes.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// How long a call that found no server waits before it is made again.
const NEWS_WAIT: Duration = Duration::from_millis(1);

/// How far the world moves where nothing is to come, in nanoseconds.
const IDLE_STEP_NS: u64 = 1_000_000;

/// Steps without time between them, after which time goes on by itself: somebody has a deadline
/// that is past.
const STALLS_MAX: u32 = 64;
/// By how much, in nanoseconds.
const STALL_NS: u64 = 10_000;

/// How far the world moves once the run has failed: beyond the deadline of any call, so that who
/// waits in one hears of it.
const LEAP: Duration = Duration::from_secs(120);

/// How long the first placement may take.
const BEGIN_MAX: Duration = Duration::from_secs(20);

/// Who has a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    /// Which watch tells it where shards are.
    pub(crate) watch: usize,
    pub(crate) id: WorkerId,
    /// Which life of it.
    pub(crate) life: Incarnation,
}

/// Who moves the world on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// The run's loop, once all workers have had their turn.
    Loop,
    /// The one worker that waits in a call.
    Caller,
}

/// All servers, and the world they share with the workers.
pub(crate) struct Cluster {
    world: World,
    cores: Rc<RefCell<Cores>>,
    driver: Rc<Cell<Driver>>,
    limits: Limits,
    isa: Isa,
}

/// The cores, and which of them are stopped.
struct Cores {
    /// Servers in chains, if there are such.
    fleet: Option<Fleet>,
    stalls: u32,
    pace: Pace,
    failed: Option<Failure>,
    /// Shards that are alone.
    cores: Vec<Core>,
    /// By core: it has no turn before.
    stopped_until: Vec<Time>,
    stops_per_mille: u64,
    stop_ns_max: u64,
    random: Random,
}

impl Cores {
    /// Every core turns until it has nothing left to do, but those that are stopped, like a process
    /// by a signal.
    fn turn(&mut self, now: Time) {
        if let Some(fleet) = &mut self.fleet {
            return fleet.turn(now);
        }
        if self.random.below(1000) < self.stops_per_mille {
            let core = self.random.below(self.cores.len() as u64) as usize;
            let stop_ns = self.random.below(self.stop_ns_max);
            self.stopped_until[core] = now + Duration::from_nanos(stop_ns);
        }
        for (core, &until) in self.cores.iter_mut().zip(&self.stopped_until) {
            if now >= until
                && let Err(failure) = turn_out(core, now)
            {
                self.failed.get_or_insert(failure);
            }
        }
    }

    /// What has gone wrong, if anything has.
    fn failed(&self) -> Option<&Failure> {
        self.failed.as_ref().or_else(|| self.fleet.as_ref()?.failed())
    }

    /// Goes on to the next moment at which something happens that concerns a core or a worker.
    fn step(&mut self, world: &World) {
        if self.failed().is_some() {
            return world.advance_to(world.now() + LEAP);
        }
        self.go_on(world);
        if let Err(failure) = self.pace.note_step(world.now()) {
            self.failed.get_or_insert(failure);
        }
    }

    fn go_on(&mut self, world: &World) {
        let begun = world.now();
        let Some(fleet) = &mut self.fleet else { return step(world) };
        while world.now().nanos() <= begun.nanos() + IDLE_STEP_NS {
            let now = world.now();
            let idle = now + Duration::from_nanos(IDLE_STEP_NS);
            let (message, other) = (world.next_at(), fleet.next_at());
            let is_message = message.is_some_and(|at| other.is_none_or(|other| at <= other));
            let mut next = message.into_iter().chain(other).min().unwrap_or(idle).max(now);
            if next > begun {
                self.stalls = 0;
            } else {
                self.stalls += 1;
                if self.stalls > STALLS_MAX {
                    next = now + Duration::from_nanos(STALL_NS);
                }
            }
            world.advance_to(next);
            if is_message || fleet.run_due(next) {
                return;
            }
        }
    }
}

impl Cluster {
    /// The servers of a plan. Endpoints are numbered from the shards on.
    ///
    /// - Errors: servers in chains were not placed.
    pub(crate) fn new(
        seed: u64,
        plan: &Plan,
        isa: Isa,
        defect: Defect,
    ) -> Result<Cluster, Failure> {
        let world = World::new(seed, plan.faults.clone());
        world.set_parking(Parking::NotesDeadline);
        let spec = ShardSpec {
            isa,
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: TABLE_BYTES_MAX,
            seed,
            credit: plan.credit,
            mutation: defect.shard(),
        };
        let fleet = plan.chains.map(|chains| {
            let fleet = FleetSpec {
                limits: plan.limits,
                shard: spec.clone(),
                plan: chains,
                shards: plan.shards,
                watches: plan.workers as usize + plan.readers,
                coordinator_defect: defect.coordinator(),
                store_defect: defect.store(),
                vault_defect: defect.vault(),
            };
            Fleet::new(&world, fleet, Random::new(seed, SERVERS_STREAM))
        });
        let core = |shard: usize| {
            let endpoint = Box::new(world.endpoint(plan.limits));
            let shard = (ShardId::new(shard as u16), Shard::new(spec.clone()));
            Core::with_on_closed(endpoint, OnClosed::AwaitReconnect, [shard])
        };
        let alone = if fleet.is_some() { 0 } else { plan.shards };
        let cores = Cores {
            fleet,
            stalls: 0,
            pace: Pace::default(),
            failed: None,
            cores: (0..alone).map(core).collect(),
            stopped_until: vec![Time::default(); plan.shards],
            stops_per_mille: plan.stops_per_mille,
            stop_ns_max: 2 * plan.timeouts.give_up.as_nanos() as u64,
            random: Random::new(seed, STOPS_STREAM),
        };
        let cores = Rc::new(RefCell::new(cores));
        let driver = Rc::new(Cell::new(Driver::Loop));
        let cluster = Cluster { world, cores, driver, limits: plan.limits, isa };
        cluster.begin()?;
        Ok(cluster)
    }

    /// Lets time go by until servers in chains are placed and everybody knows.
    fn begin(&self) -> Result<(), Failure> {
        while self.with_fleet(|fleet| !fleet.has_begun()).unwrap_or(false) {
            self.turn();
            self.check()?;
            if self.now() > Time::default() + BEGIN_MAX {
                let seconds = BEGIN_MAX.as_secs_f64();
                let state = self.with_fleet(|fleet| fleet.describe()).unwrap_or_default();
                return Err(Failure::NotWhole { seconds, state });
            }
            self.step();
        }
        self.with_fleet(Fleet::begin_strikes);
        Ok(())
    }

    /// A session with every shard.
    pub(crate) fn session(&self, guest: Guest, plan: &Plan) -> Session {
        let inner = self.world.endpoint(self.limits);
        let endpoint = inner.id();
        self.with_fleet(|fleet| fleet.seat_guest(guest.watch, endpoint));
        let mut transport = Driven {
            inner,
            world: self.world.clone(),
            cores: Rc::clone(&self.cores),
            driver: Rc::clone(&self.driver),
            random: Random::new(endpoint.index() as u64, CLOCKS_STREAM),
            jumps_left: plan.clock_jumps_max,
            ahead: Duration::ZERO,
        };
        let peers = (0..plan.shards)
            .map(|shard| {
                let (ours, _) = self.link(shard, guest);
                transport.adopt(ours).expect("an end of its own world")
            })
            .collect();
        Session::new(SessionSpec {
            transport: Box::new(transport),
            peers,
            servers: (0..plan.shards).map(server_name).collect(),
            routing: Routing::new(EPOCH, plan.shards).expect("a plan has few shards"),
            worker: guest.id,
            incarnation: guest.life,
            isa: self.isa,
            timeouts: plan.timeouts,
        })
    }

    /// Gives a session a new link to a shard, by the shard's name.
    pub(crate) fn relink(&self, session: &mut Session, guest: Guest, server: &str) {
        let shard = (0..session.shards()).position(|shard| server_name(shard) == server);
        let shard = shard.expect("an error names one of the session's servers");
        self.relink_shard(session, guest, shard);
    }

    /// Gives a session links to the shards that it has heard to be elsewhere.
    pub(crate) fn follow(&self, session: &mut Session, guest: Guest, epochs: &mut Vec<Epoch>) {
        let known = match &self.cores.borrow().fleet {
            Some(fleet) => {
                let chains = &fleet.known[guest.watch].chains;
                chains.iter().map(|chain| chain.epoch).collect::<Vec<_>>()
            }
            None => return,
        };
        epochs.resize(known.len(), EPOCH);
        for (shard, &epoch) in known.iter().enumerate() {
            if epoch > epochs[shard] {
                epochs[shard] = epoch;
                self.relink_shard(session, guest, shard);
            }
        }
    }

    fn relink_shard(&self, session: &mut Session, guest: Guest, shard: usize) {
        let (ours, epoch) = self.link(shard, guest);
        let peer = session.transport_mut().adopt(ours).expect("an end of its own world");
        session.reconnect(ShardId::new(shard as u16), peer, epoch);
    }

    /// What servers in chains say; none where there are none.
    pub(crate) fn with_fleet<T>(&self, ask: impl FnOnce(&mut Fleet) -> T) -> Option<T> {
        self.cores.borrow_mut().fleet.as_mut().map(ask)
    }

    /// Whether all has gone well so far.
    ///
    /// - Errors: what has not.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.cores.borrow().failed().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Every core has one turn.
    pub(crate) fn turn(&self) {
        self.cores.borrow_mut().turn(self.world.now());
    }

    /// Goes on to the next moment at which something happens.
    pub(crate) fn step(&self) {
        self.cores.borrow_mut().step(&self.world);
    }

    /// Lets some time go by in which servers in chains may hear news; none where there are none.
    pub(crate) fn wait_for_news(&self) {
        let until = self.now() + NEWS_WAIT;
        while self.now() < until && self.cores.borrow().fleet.is_some() {
            self.step();
            self.turn();
        }
    }

    /// Lets one worker wait in a call: the cores turn and the world moves while it parks.
    pub(crate) fn let_wait<T>(&self, call: impl FnOnce() -> T) -> T {
        self.driver.set(Driver::Caller);
        let result = call();
        self.driver.set(Driver::Loop);
        result
    }

    pub(crate) fn now(&self) -> Time {
        self.world.now()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.world.counts()
    }

    /// Steps of the world so far.
    pub(crate) fn steps(&self) -> u64 {
        self.cores.borrow().pace.steps()
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.world.trace_hash()
    }

    /// A new connection of a worker to a shard, of which the shard has its end already.
    fn link(&self, shard: usize, guest: Guest) -> (Link, Epoch) {
        if let Some(fleet) = &mut self.cores.borrow_mut().fleet {
            return fleet.link(guest, ShardId::new(shard as u16));
        }
        let (ours, theirs) = self.world.link();
        let who = Who {
            shard: ShardId::new(shard as u16),
            epoch: EPOCH,
            worker: guest.id,
            incarnation: guest.life,
            message_bytes_max: self.limits.message_bytes_max,
        };
        let adopted = self.cores.borrow_mut().cores[shard].adopt(Link::Simulated(theirs), who);
        adopted.expect("an end of its own world");
        (Link::Simulated(ours), EPOCH)
    }
}

fn server_name(shard: usize) -> String {
    format!("shard {shard}")
}

fn step(world: &World) {
    if !world.step() {
        world.advance_to(Time::from_nanos(world.now().nanos() + IDLE_STEP_NS));
    }
}

/// A worker's transport. While its worker waits in a call, parking moves the world on.
struct Driven {
    inner: Simulated,
    world: World,
    cores: Rc<RefCell<Cores>>,
    driver: Rc<Cell<Driver>>,
    /// When its clock jumps, and by how much.
    random: Random,
    jumps_left: u64,
    /// By how much it has jumped ahead.
    ahead: Duration,
}

impl Transport for Driven {
    passes_on!(
        inner: name, limits, integrity, adopt, acquire, post, cancel, flush, release, waker, close,
        set_standing, held_bytes, bytes_sent
    );

    fn now(&self) -> Time {
        self.inner.now() + self.ahead
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        if self.jumps_left > 0 && self.random.below(POLLS_A_JUMP) == 0 {
            self.jumps_left -= 1;
            self.ahead += Duration::from_nanos(self.random.below(JUMP_NS_MAX));
        }
        self.inner.poll(events);
    }

    fn park(&mut self, deadline: Time) {
        let ahead_ns = self.ahead.as_nanos() as u64;
        self.inner.park(match deadline {
            Time::NEVER => deadline,
            deadline => Time::from_nanos(deadline.nanos().saturating_sub(ahead_ns)),
        });
        if self.driver.get() == Driver::Caller {
            self.cores.borrow_mut().step(&self.world);
            self.cores.borrow_mut().turn(self.world.now());
        }
    }
}
