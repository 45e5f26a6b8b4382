//! The coordinator's rules under random histories: servers that die, freeze, come back, fill and
//! refuse, stores that are slow, coordinators that begin anew.
//!
//! Owns a model of the world outside: processes, their links, and who truly holds a shard. Each
//! placement that is recorded is checked against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use wire::{
    Applicant, Apply, Ask, Beat, Candidate, ChainReport, ChainState, Denial, Epoch, Life,
    Observation, Placement, ServerId, ServerState, ShardId, Time, ToCoordinator, ToMember,
};

use super::assign::{Crew, FILLS_MAX_PER_SERVER, Seat, Spread, Standing};
use super::census::Probe;
use super::event::{Action, ConnectionId, Event};
use super::machine::Machine;
use super::spec::ClusterSpec;
use super::store::Entry;

const TICK: Duration = Duration::from_millis(10);
const SLOTS: usize = 7;
const CLUSTER_ID: u64 = 77;

/// A process that may run at a place.
#[derive(Clone, Debug, Default)]
struct Process {
    runs: bool,
    frozen: bool,
    connection: Option<ConnectionId>,
    life: Option<Life>,
    epoch: Epoch,
    released: bool,
    denied: Vec<Denial>,
    retry_at: Time,
}

struct World {
    spec: ClusterSpec,
    hosts: usize,
    now: Time,
    machine: Machine,
    stored: Vec<Entry>,
    store_is_slow: bool,
    to_record: Option<Arc<Entry>>,
    slots: Vec<Process>,
    connections: u64,
    probes: Vec<ServerId>,
    /// By shard: lives that hold everything.
    holders: BTreeMap<ShardId, BTreeSet<ServerId>>,
    fills_go_on: bool,
    /// Lives that a person wanted to leave.
    drained: BTreeSet<ServerId>,
}

impl World {
    fn new(shards: u16, replicas: u8, servers_min: usize, hosts: usize) -> World {
        let spec = ClusterSpec {
            name: "ctr".into(),
            shards,
            replicas,
            servers_min,
            spread: Spread::DistinctHosts,
        };
        let now = Time::from_nanos(1);
        let machine = Machine::new(spec.clone(), CLUSTER_ID, Entry::default(), Vec::new(), now);
        World {
            spec,
            hosts,
            now,
            machine,
            stored: Vec::new(),
            store_is_slow: false,
            to_record: None,
            slots: vec![Process::default(); SLOTS],
            connections: 0,
            probes: Vec::new(),
            holders: BTreeMap::new(),
            fills_go_on: false,
            drained: BTreeSet::new(),
        }
    }

    /// A cluster whose first placement is made.
    fn started(shards: u16, replicas: u8, servers: usize) -> World {
        let mut world = World::new(shards, replicas, servers, SLOTS);
        (0..servers).for_each(|slot| world.start(slot));
        world.run_ms(100);
        assert_eq!(world.placement().epoch, Epoch::new(1));
        world
    }

    fn placement(&self) -> Arc<Placement> {
        Arc::clone(&self.machine.placement)
    }

    fn number(&self, slot: usize) -> ServerId {
        self.slots[slot].life.expect("welcome").server
    }

    fn start(&mut self, slot: usize) {
        if !self.slots[slot].runs {
            self.slots[slot] = Process { runs: true, ..Process::default() };
        }
    }

    fn kill(&mut self, slot: usize) {
        let ended = std::mem::take(&mut self.slots[slot]);
        if let Some(life) = ended.life {
            self.bury(life.server);
        }
        if let Some(connection) = ended.connection {
            self.handle(Event::Closed { connection });
        }
    }

    /// Whether no process claims this life: it has ended, or was never told of it.
    fn is_over(&self, server: ServerId) -> bool {
        let claims = |slot: &Process| slot.life.is_some_and(|life| life.server == server);
        !self.slots.iter().any(|slot| slot.runs && claims(slot))
    }

    fn bury(&mut self, server: ServerId) {
        self.holders.values_mut().for_each(|holders| {
            holders.remove(&server);
        });
    }

    fn restart_coordinator(&mut self) {
        let newest = self.stored.last().cloned().unwrap_or_default();
        let past = self.stored.iter().rev();
        let past = past.map(|one| (one.placement.epoch, one.placement.cause.clone())).collect();
        self.machine = Machine::new(self.spec.clone(), CLUSTER_ID, newest, past, self.now);
        self.to_record = None;
        self.probes.clear();
        self.slots.iter_mut().for_each(|slot| slot.connection = None);
    }

    /// The slot of a connection; none: its process has let it go.
    fn slot_of(&self, connection: ConnectionId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.connection == Some(connection))
    }

    fn handle(&mut self, event: Event) {
        let actions = self.machine.handle(event, self.now);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { connection, message } => {
                if let Some(slot) = self.slot_of(connection) {
                    self.hear(slot, message);
                }
            }
            Action::Publish { connections, placement } => {
                assert_eq!(Some(&*placement), self.stored.last().map(|one| &one.placement));
                for slot in
                    connections.into_iter().filter_map(|one| self.slot_of(one)).collect::<Vec<_>>()
                {
                    self.slots[slot].epoch = placement.epoch;
                }
            }
            Action::Close { connection } => {
                if let Some(slot) = self.slot_of(connection) {
                    self.slots[slot].connection = None;
                }
            }
            Action::Probe { server, .. } => self.probes.push(server),
            Action::Look { ours } => {
                let newest = self.stored.last().map(|one| one.placement.epoch);
                assert!(newest.unwrap_or_default() <= ours, "no other coordinator runs here");
            }
            Action::KeepJob(_) => unreachable!("no job of several hosts runs here"),
            Action::Store(task) => unreachable!("it has no place for checkpoints: {task:?}"),
            Action::Record(entry) => {
                assert!(self.to_record.is_none(), "one entry at a time");
                self.to_record = Some(entry);
            }
        }
    }

    fn hear(&mut self, slot: usize, message: ToMember) {
        let process = &mut self.slots[slot];
        match message {
            ToMember::Welcome(welcome) => process.life = welcome.life,
            ToMember::Released => {
                process.released = true;
                process.runs = false;
            }
            ToMember::Denied(denial) => {
                process.retry_at = self.now + Duration::from_millis(100);
                let removed = matches!(denial, Denial::Removed { .. });
                process.denied.push(denial);
                if removed && let Some(life) = process.life.take() {
                    process.epoch = Epoch::new(0);
                    self.bury(life.server);
                }
            }
            _ => {}
        }
    }

    /// One tick: links are made, servers beat, places answer, the store records.
    fn tick(&mut self) {
        self.now = self.now + TICK;
        for slot in 0..SLOTS {
            let process = &self.slots[slot];
            if !process.runs || process.frozen || process.released {
                continue;
            }
            if process.connection.is_none() && self.now >= process.retry_at {
                self.apply(slot);
            }
            self.beat(slot, Vec::new());
        }
        for server in std::mem::take(&mut self.probes) {
            let runs = |process: &Process| {
                process.runs && process.life.is_some_and(|life| life.server == server)
            };
            let place_is_open = self.machine.census.get(server).is_some_and(|known| {
                let slot: usize = known.member.place.parse().expect("a slot");
                self.slots[slot].runs
            });
            let open = place_is_open || self.slots.iter().any(runs);
            let answer = if open { Probe::Open } else { Probe::Refused };
            self.handle(Event::Probed { server, answer });
        }
        if !self.store_is_slow
            && let Some(entry) = self.to_record.take()
        {
            self.check(&entry);
            self.stored.push((*entry).clone());
            self.handle(Event::Recorded { took: Duration::ZERO });
        }
        if self.fills_go_on {
            self.fill_all();
        }
        self.handle(Event::Tick);
    }

    fn run_ms(&mut self, ms: u64) {
        (0..ms / 10).for_each(|_| self.tick());
    }

    fn apply(&mut self, slot: usize) {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let process = &mut self.slots[slot];
        process.connection = Some(connection);
        let candidate = Candidate {
            life: process.life,
            name: format!("s{slot}"),
            place: slot.to_string(),
            host: format!("h{}", slot % self.hosts),
            memory_mib: 1024,
            cores: 2,
        };
        let apply = Apply::new("ctr", process.epoch, Applicant::Server(candidate));
        self.handle(Event::Said { connection, message: ToCoordinator::Apply(apply) });
    }

    fn beat(&mut self, slot: usize, seen: Vec<Observation>) {
        let process = &self.slots[slot];
        let Some(connection) = process.connection else { return };
        let beat = Beat { sent_ns: self.now.nanos(), epoch: process.epoch, seen, work: None };
        self.handle(Event::Said { connection, message: ToCoordinator::Beat(beat) });
    }

    /// The process of a life that runs, is linked and knows the newest placement.
    fn acting(&self, server: ServerId) -> Option<usize> {
        let epoch = self.machine.placement.epoch;
        self.slots.iter().position(|slot| {
            slot.life.is_some_and(|life| life.server == server)
                && slot.runs
                && !slot.frozen
                && slot.connection.is_some()
                && slot.epoch == epoch
        })
    }

    /// The tail of a shard says what it sees.
    fn report(&mut self, shard: ShardId, report: ChainReport) {
        let placement = self.placement();
        let Some(chain) = placement.chain(shard) else { return };
        let Some(slot) = chain.replicas.last().and_then(|&tail| self.acting(tail)) else { return };
        self.beat(slot, vec![Observation { shard, chain: chain.epoch, report }]);
    }

    /// A fill ends, if its tail and its joining one are there.
    fn fill(&mut self, shard: ShardId) {
        let placement = self.placement();
        let Some(chain) = placement.chain(shard) else { return };
        let (Some(&tail), Some(joining)) = (chain.replicas.last(), chain.joining) else { return };
        if self.acting(tail).is_some() && self.acting(joining).is_some() {
            self.holders.entry(shard).or_default().insert(joining);
            self.report(shard, ChainReport::Filled);
        }
    }

    fn fill_all(&mut self) {
        (0..self.spec.shards).for_each(|shard| self.fill(ShardId::new(shard)));
    }

    /// Checks an entry against the one before it and against the world.
    fn check(&mut self, entry: &Entry) {
        let new = &entry.placement;
        let before = self.stored.last().cloned().unwrap_or_default();
        let old = &before.placement;
        assert_eq!(new.epoch.get(), old.epoch.get() + 1, "epochs count up by one");
        assert_eq!(new.check(), Ok(()));
        assert!(entry.numbers_given >= before.numbers_given);
        assert!(new.servers.iter().all(|one| one.server.get() <= entry.numbers_given));
        let newcomers = new.servers.iter().filter(|one| old.member(one.server).is_none());
        for one in newcomers {
            assert!(one.server.get() > before.numbers_given, "a number is never given twice");
        }
        for one in &new.servers {
            let fills = new.chains.iter().filter(|chain| chain.joining == Some(one.server));
            assert!(
                fills.count() <= FILLS_MAX_PER_SERVER,
                "{} is filled with too much",
                one.server
            );
        }
        for (shard, chain) in new.shards() {
            if old.chains.is_empty() {
                self.holders.insert(shard, chain.replicas.iter().copied().collect());
            } else {
                self.check_chain(shard, old, new);
            }
            self.check_hosts(shard, new);
        }
    }

    fn check_chain(&self, shard: ShardId, old: &Placement, new: &Placement) {
        let before = old.chain(shard).expect("shards stay");
        let after = new.chain(shard).expect("shards stay");
        let holders = &self.holders[&shard];
        if before == after {
            return;
        }
        assert_eq!(after.epoch, new.epoch, "a chain that changed says when");
        let mut could: Vec<ServerId> = before.replicas.clone();
        could.extend(before.joining);
        let places = after.replicas.iter().map(|one| could.iter().position(|had| had == one));
        assert!(places.clone().all(|place| place.is_some()), "{shard}: made from nothing");
        assert!(places.is_sorted(), "{shard}: those who stay keep their order");
        for server in &after.replicas {
            let holds = holders.contains(server) || self.is_over(*server);
            assert!(holds, "{shard}: {server} does not hold everything");
        }
        if after.replicas.is_empty() {
            assert_eq!(after.joining, None);
            let gone = before.replicas.iter().all(|one| self.is_over(*one));
            assert!(gone, "{shard}: given up while one that holds it lives: {before:?}");
        }
    }

    fn check_hosts(&self, shard: ShardId, new: &Placement) {
        let chain = new.chain(shard).expect("a shard");
        let host = |server: &ServerId| new.member(*server).expect("listed").host.clone();
        let stay: Vec<ServerId> =
            chain.replicas.iter().copied().filter(|one| !self.leaves(*one)).collect();
        let hosts: BTreeSet<String> = stay.iter().map(host).collect();
        // Later, two may share one for a while: when others are lost just as a fill ends that was
        // to take the place of one on its host. A copy too many is better than one too few.
        if new.epoch == Epoch::new(1) {
            assert_eq!(hosts.len(), stay.len(), "{shard}: replicas share a host");
        }
        if let Some(joining) = &chain.joining {
            // It may take the place of one of its own host, who leaves when it is filled.
            let is_move = chain.replicas.len() == usize::from(self.spec.replicas);
            assert!(!hosts.contains(&host(joining)) || is_move, "{shard}: {chain:?}");
        }
    }

    /// Whether it was to leave; a coordinator that begins anew does not know of it.
    fn leaves(&self, server: ServerId) -> bool {
        self.drained.contains(&server)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    Kill(usize),
    Freeze(usize),
    Thaw(usize),
    CutLink(usize),
    Fill(u16),
    Stale(u16),
    Refuse(u16),
    LoseSuccessor(u16),
    Move(u16, usize, usize),
    Drain(usize),
    SlowStore,
    FastStore,
    Restart,
    Run(u64),
}

fn step(shards: u16) -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    prop_oneof![
        4 => slot().prop_map(Step::Start),
        2 => slot().prop_map(Step::Kill),
        1 => slot().prop_map(Step::Freeze),
        2 => slot().prop_map(Step::Thaw),
        1 => slot().prop_map(Step::CutLink),
        6 => (0..shards).prop_map(Step::Fill),
        1 => (0..shards).prop_map(Step::Stale),
        1 => (0..shards).prop_map(Step::Refuse),
        1 => (0..shards).prop_map(Step::LoseSuccessor),
        1 => (0..shards, slot(), slot()).prop_map(|(shard, from, to)| Step::Move(shard, from, to)),
        1 => slot().prop_map(Step::Drain),
        1 => Just(Step::SlowStore),
        2 => Just(Step::FastStore),
        1 => Just(Step::Restart),
        6 => (10_u64..1500).prop_map(Step::Run),
    ]
}

impl World {
    fn take(&mut self, step: Step) {
        match step {
            Step::Start(slot) => self.start(slot),
            Step::Kill(slot) => self.kill(slot),
            Step::Freeze(slot) => self.slots[slot].frozen = true,
            Step::Thaw(slot) => self.slots[slot].frozen = false,
            Step::CutLink(slot) => {
                if let Some(connection) = self.slots[slot].connection.take() {
                    self.handle(Event::Closed { connection });
                }
            }
            Step::Fill(shard) => self.fill(ShardId::new(shard)),
            Step::Stale(shard) => self.say_stale(ShardId::new(shard)),
            Step::Refuse(shard) => {
                let reason = "the table is full".to_owned();
                self.report(ShardId::new(shard), ChainReport::Refused { reason });
            }
            Step::LoseSuccessor(shard) => {
                self.report(ShardId::new(shard), ChainReport::SuccessorLost);
            }
            Step::Move(shard, from, to) => {
                if let (Some(from), Some(to)) = (self.slots[from].life, self.slots[to].life) {
                    let shard = ShardId::new(shard);
                    self.ask(Ask::Move { shard, from: from.server, to: to.server });
                }
            }
            Step::Drain(slot) => {
                if let Some(life) = self.slots[slot].life {
                    self.drained.insert(life.server);
                    self.ask(Ask::Drain { server: life.server });
                }
            }
            Step::SlowStore => self.store_is_slow = true,
            Step::FastStore => self.store_is_slow = false,
            Step::Restart => self.restart_coordinator(),
            Step::Run(ms) => self.run_ms(ms),
        }
    }

    /// A person connects and asks.
    fn ask(&mut self, ask: Ask) {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let apply = Apply::new("ctr", Epoch::new(0), Applicant::Person);
        self.handle(Event::Said { connection, message: ToCoordinator::Apply(apply) });
        self.handle(Event::Said { connection, message: ToCoordinator::Ask(ask) });
        self.handle(Event::Closed { connection });
    }

    /// Everybody says that everything is filled, of epochs that are over and to come.
    fn say_stale(&mut self, shard: ShardId) {
        let placement = self.placement();
        let Some(chain) = placement.chain(shard) else { return };
        let epochs = [chain.epoch.get().wrapping_sub(1), chain.epoch.get() + 1];
        for slot in 0..SLOTS {
            let seen = epochs.map(|epoch| {
                let (chain, report) = (Epoch::new(epoch), ChainReport::Filled);
                Observation { shard, chain, report }
            });
            self.beat(slot, seen.to_vec());
        }
    }

    /// Nothing happens any more, and what was begun is brought to its end.
    fn come_to_rest(&mut self) {
        self.store_is_slow = false;
        self.fills_go_on = true;
        self.slots.iter_mut().for_each(|slot| slot.frozen = false);
        // Longer than any patience: what was refused or separated may be tried again.
        self.run_ms(100_000);
    }

    fn check_rest(&mut self) {
        let placement = self.placement();
        if placement.chains.is_empty() {
            return;
        }
        let fit: BTreeSet<usize> = (0..SLOTS)
            .filter(|&slot| {
                let server =
                    self.slots[slot].life.and_then(|life| self.machine.census.get(life.server));
                server.is_some_and(|server| server.wish == super::census::Wish::Stay)
            })
            .map(|slot| slot % self.hosts)
            .collect();
        let wanted = fit.len().min(usize::from(self.spec.replicas));
        for (shard, chain) in placement.shards().filter(|(_, chain)| !chain.replicas.is_empty()) {
            assert!(chain.replicas.len() >= wanted, "{shard}: {chain:?}, {wanted} wanted");
            assert_eq!(chain.joining, None, "{shard}");
            let host = |one: &ServerId| placement.member(*one).expect("listed").host.clone();
            let hosts: BTreeSet<String> = chain.replicas.iter().map(host).collect();
            assert!(hosts.len() >= wanted, "{shard}: {chain:?} on {hosts:?}");
        }
        let epoch = placement.epoch;
        self.run_ms(2000);
        assert_eq!(self.placement().epoch, epoch, "it does not come to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_no_shard_is_given_to_who_does_not_hold_it_and_chains_heal(
        replicas in 1_u8..4,
        servers_min in 1_usize..4,
        hosts in 3_usize..=SLOTS,
        steps in proptest::collection::vec(step(5), 1..80),
    ) {
        let mut world = World::new(5, replicas, servers_min, hosts);
        for step in steps {
            world.take(step);
        }
        world.come_to_rest();
        world.check_rest();
    }

    #[test]
    fn one_server_more_moves_little_more_than_its_share_and_evens_the_load(
        shards in 8_u16..60,
        replicas in 1_u8..4,
        servers in 3_usize..SLOTS,
    ) {
        let mut world = World::started(shards, replicas, servers);
        let loads = |world: &World| {
            let mut loads: BTreeMap<ServerId, usize> = BTreeMap::new();
            for chain in &world.placement().chains {
                chain.replicas.iter().for_each(|one| *loads.entry(*one).or_default() += 1);
            }
            loads
        };
        let first: Vec<_> = loads(&world).into_values().collect();
        prop_assert!(first.iter().max().unwrap() - first.iter().min().unwrap() <= 1, "{first:?}");
        let before = world.placement();
        let mut heads: BTreeMap<ServerId, usize> = BTreeMap::new();
        before.chains.iter().for_each(|one| *heads.entry(one.replicas[0]).or_default() += 1);
        let heads: Vec<_> = heads.into_values().collect();
        prop_assert!(heads.iter().max().unwrap() - heads.iter().min().unwrap() <= 2, "{heads:?}");
        world.fills_go_on = true;
        world.start(servers);
        world.run_ms(20_000);
        let after = world.placement();
        let moved: usize = before.chains.iter().zip(&after.chains)
            .map(|(old, new)| new.replicas.iter().filter(|one| !old.replicas.contains(one)).count())
            .sum();
        let all = usize::from(shards) * usize::from(replicas);
        prop_assert!(moved as f64 <= 1.15 * all as f64 / servers as f64, "{moved} of {all}");
        let even: Vec<_> = loads(&world).into_values().collect();
        prop_assert_eq!(even.len(), servers + 1);
        prop_assert!(even.iter().max().unwrap() - even.iter().min().unwrap() <= 1, "{even:?}");
    }
}

#[test]
fn a_killed_head_is_replaced_in_the_next_epoch_by_the_one_behind_it() {
    let mut world = World::started(3, 2, 3);
    let before = world.placement();
    let head = before.chains[0].replicas[0];
    let slot = (0..SLOTS).find(|&slot| world.number(slot) == head).expect("a slot");
    world.kill(slot);
    world.run_ms(30); // A probe, the store, the announcement.
    let after = world.placement();
    assert_eq!(after.epoch, Epoch::new(2));
    assert_eq!(after.chains[0].replicas, before.chains[0].replicas[1..]);
    assert!(after.cause.contains("its place refuses"), "{}", after.cause);
}

#[test]
fn a_server_that_stands_still_for_100_ms_keeps_its_shards() {
    let mut world = World::started(4, 2, 3);
    for _ in 0..10 {
        world.slots[0].frozen = true;
        world.run_ms(100);
        world.slots[0].frozen = false;
        world.run_ms(200);
    }
    assert_eq!(world.placement().epoch, Epoch::new(1));
}

#[test]
fn a_server_that_was_silent_for_long_is_told_that_it_is_none_any_more() {
    let mut world = World::started(4, 2, 3);
    let before = world.number(0);
    world.slots[0].frozen = true;
    world.run_ms(500);
    assert_eq!(world.placement().member(before), None);
    world.slots[0].frozen = false;
    world.run_ms(500);
    assert!(world.slots[0].denied.contains(&Denial::Removed { server: before }));
    assert!(world.number(0) > before, "it is a new member");
}

#[test]
fn a_server_that_alone_holds_a_shard_keeps_it_through_any_silence() {
    let mut world = World::started(4, 1, 2);
    let before = world.placement();
    world.slots[0].frozen = true;
    world.run_ms(60_000);
    let status = world.machine.status(world.now);
    assert!(status.troubled.iter().all(|one| one.state == ChainState::Away));
    assert_eq!(status.troubled.len(), 2);
    world.slots[0].frozen = false;
    world.run_ms(500);
    assert_eq!(world.placement().chains, before.chains);
}

#[test]
fn a_shard_whose_holders_are_all_killed_is_lost_and_given_to_nobody() {
    let mut world = World::started(4, 2, 2);
    world.start(2);
    world.kill(0);
    world.kill(1);
    world.fills_go_on = true;
    world.run_ms(20_000);
    let placement = world.placement();
    assert!(placement.chains.iter().all(|chain| chain.replicas.is_empty()));
    let status = world.machine.status(world.now);
    assert!(status.troubled.iter().all(|one| one.state == ChainState::Lost));
}

#[test]
fn a_restarted_coordinator_goes_on_and_replaces_nobody_who_comes_back() {
    let mut world = World::started(4, 2, 3);
    let before = world.placement();
    world.restart_coordinator();
    world.run_ms(6000);
    assert_eq!(world.placement(), before);
    assert!(world.slots[..3].iter().all(|slot| slot.denied.is_empty()));
}

#[test]
fn a_server_that_died_while_the_coordinator_was_away_is_replaced_at_once() {
    let mut world = World::started(4, 2, 3);
    let gone = world.number(1);
    world.kill(1);
    world.restart_coordinator();
    world.run_ms(50);
    assert_eq!(world.placement().member(gone), None);
}

#[test]
fn a_coordinator_whose_store_is_older_than_its_servers_denies_them() {
    let mut world = World::started(4, 2, 3);
    world.kill(1);
    world.run_ms(100);
    world.stored.truncate(1);
    world.restart_coordinator();
    world.run_ms(20);
    let denied = Denial::Behind { ours: Epoch::new(1), theirs: Epoch::new(2) };
    assert!(world.slots[0].denied.contains(&denied), "{:?}", world.slots[0].denied);
}

#[test]
fn nobody_is_told_of_a_placement_that_the_store_has_not_taken() {
    let mut world = World::started(4, 2, 3);
    world.store_is_slow = true;
    world.kill(1);
    world.run_ms(1000);
    assert_eq!(world.slots[0].epoch, Epoch::new(1));
    let status = world.machine.status(world.now);
    assert!(status.store_waits_ms.is_some_and(|ms| ms > 900), "{:?}", status.store_waits_ms);
    world.store_is_slow = false;
    world.run_ms(50);
    assert!(world.slots[0].epoch >= Epoch::new(2));
}

#[test]
fn a_drained_server_is_released_once_others_hold_its_shards() {
    let mut world = World::started(6, 2, 4);
    let leaver = world.number(2);
    world.ask(Ask::Drain { server: leaver });
    world.run_ms(500);
    assert!(!world.slots[2].released, "its shards are not filled elsewhere yet");
    let leaving = world.machine.status(world.now);
    let state = leaving.servers.iter().find(|one| one.member.server == leaver).map(|one| one.state);
    assert_eq!(state, Some(ServerState::Leaving));
    world.fills_go_on = true;
    world.run_ms(20_000);
    assert!(world.slots[2].released);
    assert!(world.placement().chains.iter().all(|chain| chain.replicas.len() == 2));
}

#[test]
fn orders_are_in_the_log_and_the_next_coordinator_goes_on_with_them() {
    let mut world = World::started(6, 2, 4);
    let leaver = world.number(2);
    let placement = world.placement();
    let mut others = placement.shards().filter(|(_, chain)| !chain.replicas.contains(&leaver));
    let (shard, chain) = others.next().expect("a shard that it does not hold");
    let is_new = |one: &ServerId| *one != leaver && !chain.replicas.contains(one);
    let to = (0..4).map(|slot| world.number(slot)).find(is_new).expect("one of four");
    let from = chain.replicas[0];
    world.ask(Ask::Move { shard, from, to });
    world.ask(Ask::Drain { server: leaver });
    world.run_ms(100);
    let orders = world.stored.last().expect("recorded").orders.clone();
    assert_eq!((orders.leaving, orders.moves.len()), (vec![leaver], 1));
    world.restart_coordinator();
    world.run_ms(500);
    assert!(!world.slots[2].released);
    world.fills_go_on = true;
    world.run_ms(20_000);
    assert!(world.slots[2].released);
    assert!(!world.placement().chains[shard.index()].replicas.contains(&from));
    assert!(world.stored.last().expect("recorded").orders.is_empty());
}

#[test]
fn nobody_is_told_that_an_order_is_taken_before_the_log_has_it() {
    let mut world = World::started(6, 2, 4);
    let (connection, server, now) = (ConnectionId(u64::MAX), world.number(2), world.now);
    let apply = Apply::new("ctr", Epoch::new(0), Applicant::Person);
    world.machine.handle(Event::Said { connection, message: ToCoordinator::Apply(apply) }, now);
    let message = ToCoordinator::Ask(Ask::Drain { server });
    let said = world.machine.handle(Event::Said { connection, message }, now);
    assert!(matches!(said[..], [Action::Record(_)]), "{said:?}");
    let done = Action::Send { connection, message: ToMember::Done };
    let said = world.machine.handle(Event::Recorded { took: TICK }, now);
    assert!(said.contains(&done), "{said:?}");
    // Said again, there is nothing to record.
    let message = ToCoordinator::Ask(Ask::Drain { server });
    let said = world.machine.handle(Event::Said { connection, message }, now);
    assert!(said.contains(&done), "{said:?}");
}

#[test]
fn a_move_fills_the_new_one_before_the_old_one_goes() {
    let mut world = World::started(3, 2, 4);
    let chain = world.placement().chains[1].clone();
    let from = chain.replicas[0];
    let to = (0..4).map(|slot| world.number(slot)).find(|one| !chain.replicas.contains(one));
    let (shard, to) = (ShardId::new(1), to.expect("one of four"));
    world.ask(Ask::Move { shard, from, to });
    world.run_ms(50);
    let moving = world.placement().chains[1].clone();
    assert_eq!((moving.replicas, moving.joining), (chain.replicas.clone(), Some(to)));
    world.fill(shard);
    world.run_ms(50);
    assert_eq!(world.placement().chains[1].replicas, [chain.replicas[1], to]);
}

#[test]
fn a_successor_that_is_not_reached_for_long_leaves_the_chain() {
    let mut world = World::started(1, 3, 4);
    let chain = world.placement().chains[0].clone();
    let middle = chain.replicas[1];
    let slot = (0..4).find(|&slot| world.number(slot) == middle).expect("a slot");
    let (shard, report) = (ShardId::new(0), ChainReport::SuccessorLost);
    world.beat(slot, vec![Observation { shard, chain: chain.epoch, report }]);
    world.run_ms(400);
    assert_eq!(world.placement().chains[0], chain);
    world.run_ms(400);
    assert!(!world.placement().chains[0].replicas.contains(&chain.replicas[2]));
}

#[test]
fn who_misses_more_neighbours_is_the_one_that_is_cut_off() {
    let mut world = World::started(6, 2, 3);
    let placement = world.placement();
    let cut_off = world.number(0);
    let headed = placement.shards().filter(|(_, chain)| chain.replicas[0] == cut_off);
    let seen: Vec<Observation> = headed
        .map(|(shard, chain)| Observation {
            shard,
            chain: chain.epoch,
            report: ChainReport::SuccessorLost,
        })
        .collect();
    let partners: BTreeSet<_> =
        seen.iter().map(|one| placement.chains[one.shard.index()].replicas[1]).collect();
    assert_eq!(partners.len(), 2);
    world.beat(0, seen.clone());
    world.run_ms(800);
    for one in seen {
        let after = &world.placement().chains[one.shard.index()].replicas;
        assert!(!after.contains(&cut_off), "{after:?}");
    }
}

#[test]
fn a_server_with_more_memory_holds_more() {
    let seat = |number: u32, weight| Seat {
        server: ServerId::new(number),
        host: format!("h{number}"),
        weight,
        standing: Standing::Fit,
    };
    let seats = vec![seat(1, 1000), seat(2, 1000), seat(3, 2000), seat(4, 4000)];
    let crew = Crew::new(seats, 1, Spread::DistinctHosts);
    let chains = crew.first(80);
    let held = |number| {
        let server = ServerId::new(number);
        chains.iter().filter(|chain| chain.replicas.contains(&server)).count()
    };
    assert_eq!([1, 2, 3, 4].map(held), [10, 10, 20, 40]);
}

#[test]
fn a_suspicion_has_the_place_asked_once_at_a_time() {
    let mut world = World::started(2, 2, 2);
    let (server, epoch) = (world.number(0), Epoch::new(1));
    let watcher = ConnectionId(1000);
    let apply = Apply::new("ctr", epoch, Applicant::Watcher);
    let now = world.now;
    let said = |message| Event::Said { connection: watcher, message };
    world.machine.handle(said(ToCoordinator::Apply(apply)), now);
    let suspect = || said(ToCoordinator::Suspect { server, epoch });
    let place = "0".to_owned();
    assert_eq!(world.machine.handle(suspect(), now), [Action::Probe { server, place }]);
    assert_eq!(world.machine.handle(suspect(), now), []);
}

#[test]
fn a_head_whose_server_fails_leaves_its_shards_to_all_others() {
    let mut world = World::started(12, 2, 4);
    let before = world.placement();
    let gone = world.number(0);
    let headed: Vec<_> = before.chains.iter().map(|chain| chain.replicas[0] == gone).collect();
    world.kill(0);
    world.run_ms(50);
    let after = world.placement();
    let heirs: BTreeSet<ServerId> = after
        .chains
        .iter()
        .zip(headed)
        .filter_map(|(chain, was_headed)| was_headed.then_some(chain.replicas[0]))
        .collect();
    assert_eq!(heirs.len(), 3, "{heirs:?}");
}

#[test]
fn what_is_said_of_another_epoch_of_a_chain_changes_nothing() {
    let mut world = World::started(3, 3, 4);
    let before = world.placement();
    let reason = "late".to_owned();
    let reports =
        [ChainReport::Filled, ChainReport::Refused { reason }, ChainReport::SuccessorLost];
    for (epoch, slot) in
        [0, 2, u64::MAX].into_iter().flat_map(|one| [0, 1, 2, 3].map(|at| (one, at)))
    {
        let shards = (0..3).map(ShardId::new);
        let seen = shards.flat_map(|shard| {
            let chain = Epoch::new(epoch);
            reports.clone().map(|report| Observation { shard, chain, report })
        });
        let seen = seen.collect();
        world.beat(slot, seen);
    }
    world.run_ms(2000);
    assert_eq!(world.placement(), before);
}
