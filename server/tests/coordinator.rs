//! The coordinator over loop-back: agents, watchers and stores as they are, servers that hold
//! nothing.
//!
//! Owns the fake servers: a listener at a place and an agent. Waits are long, since what they wait
//! for is certain; no time is a condition.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gradwire_server::coordinator::{
    Claim, Claims, ClusterSpec, Coordinator, Duty, Entry, JobRecord, JobWrite, RedbStore, Spread,
    Store, StoreError, Stored,
};
use gradwire_server::{Agent, AgentEvent, AgentSpec, Exposure};
use transport::ControlLink;
use wire::{
    Applicant, Apply, Ask, Candidate, ChainReport, ClusterStatus, Denial, Epoch, Observation,
    Placement, ServerId, ShardId, ToCoordinator, ToMember,
};
use worker::{Watch, WatchError};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec(shards: u16, replicas: u8, servers_min: usize) -> ClusterSpec {
    let (name, spread) = ("ctr".to_owned(), Spread::DistinctHosts);
    ClusterSpec { name, shards, replicas, servers_min, spread }
}

fn coordinate(spec: ClusterSpec, directory: &Path, listen: &str) -> Coordinator {
    let store = Box::new(RedbStore::open(directory, &spec.name).expect("a store"));
    Coordinator::start(spec, store, listen, Exposure::Loopback).expect("a coordinator")
}

/// A server that holds nothing: a place where somebody listens, and an agent.
struct Fake {
    /// Before the agent, so that the place is closed when the link is.
    place: TcpListener,
    agent: Agent,
    events: Receiver<AgentEvent>,
}

impl Fake {
    fn start(name: &str, coordinator: SocketAddr, cluster: &str) -> Fake {
        Fake::start_among(name, vec![coordinator.to_string()], cluster)
    }

    fn start_among(name: &str, coordinators: Vec<String>, cluster: &str) -> Fake {
        let place = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Candidate {
            life: None,
            name: name.to_owned(),
            place: place.local_addr().expect("an address").to_string(),
            host: name.to_owned(),
            memory_mib: 1024,
            cores: 2,
        };
        let spec = AgentSpec { coordinators, cluster: cluster.to_owned(), server };
        let (tell, events) = channel();
        let agent = Agent::start(spec, move |event| {
            let _ = tell.send(event);
        });
        Fake { place, agent: agent.expect("an agent"), events }
    }

    /// The next event that is wanted; others are passed over.
    fn wait<T>(&self, wanted: impl Fn(AgentEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("an event in time");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn wait_welcome(&self) -> ServerId {
        self.wait(|event| match event {
            AgentEvent::Welcome { life, .. } => Some(life.server),
            _ => None,
        })
    }

    fn wait_placement(&self, is_it: impl Fn(&Placement) -> bool) -> Arc<Placement> {
        self.wait(|event| match event {
            AgentEvent::Placement(placement) if is_it(&placement) => Some(placement),
            _ => None,
        })
    }

    /// As a process that is killed: nobody listens any more, and its links are closed.
    fn kill(self) {
        drop(self.place);
        drop(self.agent);
    }
}

fn wait_for(watch: &Watch, is_it: impl Fn(&Placement) -> bool) -> Arc<Placement> {
    let deadline = Instant::now() + PATIENCE;
    let mut epoch = Epoch::new(0);
    loop {
        let placement = watch.wait_newer(epoch, deadline).expect("a placement in time");
        if is_it(&placement) {
            return placement;
        }
        epoch = placement.epoch;
    }
}

fn person(address: SocketAddr) -> ControlLink {
    let mut link = ControlLink::connect(&address.to_string(), PATIENCE).expect("connects");
    let apply = Apply::new("ctr", Epoch::new(0), Applicant::Person);
    link.writer().send(&ToCoordinator::Apply(apply)).expect("sent");
    let welcome = link.receive::<ToMember>(Instant::now() + PATIENCE).expect("open");
    assert!(matches!(welcome, Some(ToMember::Welcome(_))), "{welcome:?}");
    link
}

fn status(link: &mut ControlLink) -> ClusterStatus {
    link.writer().send(&ToCoordinator::Ask(Ask::Status)).expect("sent");
    match link.receive::<ToMember>(Instant::now() + PATIENCE).expect("open") {
        Some(ToMember::Status(status)) => *status,
        other => panic!("a status was expected: {other:?}"),
    }
}

#[test]
fn a_killed_server_is_replaced_and_what_was_filled_becomes_the_tail() {
    let directory = tempfile::tempdir().expect("a directory");
    let coordinator = coordinate(spec(4, 2, 3), directory.path(), "127.0.0.1:0");
    let address = coordinator.address();
    let watch = Watch::start(&[address.to_string()], "ctr").expect("a watch");
    let fakes = ["a", "b", "c"].map(|name| Fake::start(name, address, "ctr"));
    let numbers = fakes.each_ref().map(Fake::wait_welcome);
    let first = wait_for(&watch, |_| true);
    assert_eq!(first.servers.len(), 3);
    let [a, b, c] = fakes;
    a.kill();
    let gone = numbers[0];
    let second = wait_for(&watch, |placement| placement.member(gone).is_none());
    for (before, after) in first.chains.iter().zip(&second.chains) {
        let stay: Vec<_> = before.replicas.iter().copied().filter(|one| *one != gone).collect();
        assert_eq!(after.replicas, stay);
    }
    // Those who are left fill each other's shards.
    let is_whole =
        |placement: &Placement| placement.chains.iter().all(|one| one.replicas.len() == 2);
    let deadline = Instant::now() + PATIENCE;
    let whole = loop {
        let newest = watch.newest().expect("one");
        if is_whole(&newest) {
            break newest;
        }
        assert!(Instant::now() < deadline, "{newest:?}");
        for (shard, chain) in newest.shards().filter(|(_, chain)| chain.joining.is_some()) {
            let tail = chain.replicas.last().expect("somebody fills");
            let (fake, _) = [(&b, numbers[1]), (&c, numbers[2])]
                .into_iter()
                .find(|(_, number)| number == tail)
                .expect("one of two");
            let (chain, report) = (chain.epoch, ChainReport::Filled);
            fake.agent.reporter().report(Observation { shard, chain, report });
        }
        let _ = watch.wait_newer(newest.epoch, Instant::now() + Duration::from_millis(100));
    };
    assert!(whole.epoch > second.epoch);
    let seen = b.wait_placement(|placement| placement.epoch == whole.epoch);
    assert_eq!(seen, whole);
    assert_eq!(coordinator.stop(), Ok(()));
}

#[test]
fn a_restarted_coordinator_goes_on_with_its_epochs_and_its_members() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = coordinate(spec(4, 2, 2), directory.path(), "127.0.0.1:0");
    let address = first.address();
    let watch = Watch::start(&[address.to_string()], "ctr").expect("a watch");
    let (a, b) = (Fake::start("a", address, "ctr"), Fake::start("b", address, "ctr"));
    let numbers = [a.wait_welcome(), b.wait_welcome()];
    let before = wait_for(&watch, |placement| placement.servers.len() == 2);
    assert_eq!(first.stop(), Ok(()));
    let second = coordinate(spec(4, 2, 2), directory.path(), &address.to_string());
    assert_eq!([a.wait_welcome(), b.wait_welcome()], numbers, "they are who they were");
    let c = Fake::start("c", address, "ctr");
    let newcomer = c.wait_welcome();
    assert!(!numbers.contains(&newcomer));
    let after = wait_for(&watch, |placement| placement.member(newcomer).is_some());
    assert_eq!(after.epoch.get(), before.epoch.get() + 1);
    assert!(numbers.iter().all(|number| after.member(*number).is_some()));
    let shown = status(&mut person(address));
    assert_eq!(shown.servers.len(), 3);
    assert!(shown.history.iter().any(|one| one.epoch == before.epoch && one.ago_ms.is_none()));
    drop(second);
}

#[test]
fn a_server_that_wants_to_leave_is_released_and_nobody_suspects_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let coordinator = coordinate(spec(2, 1, 1), directory.path(), "127.0.0.1:0");
    let a = Fake::start("a", coordinator.address(), "ctr");
    a.wait_welcome();
    let b = Fake::start("b", coordinator.address(), "ctr");
    let number = b.wait_welcome();
    b.agent.leave();
    // It may be filled already: then it has to give that away first.
    let reporter = a.agent.reporter();
    let released = b.wait(|event| match event {
        AgentEvent::Released => Some(true),
        AgentEvent::Placement(placement) => {
            for (shard, chain) in placement.shards().filter(|(_, one)| one.joining.is_some()) {
                let (chain, report) = (chain.epoch, ChainReport::Filled);
                reporter.report(Observation { shard, chain, report });
                b.agent.reporter().report(Observation {
                    shard,
                    chain,
                    report: ChainReport::Filled,
                });
            }
            None
        }
        _ => None,
    });
    assert!(released);
    let last = a.wait_placement(|placement| placement.member(number).is_none());
    assert!(last.chains.iter().all(|chain| chain.replicas.len() == 1));
}

#[test]
fn who_asks_for_another_cluster_is_denied_with_both_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let coordinator = coordinate(spec(1, 1, 1), directory.path(), "127.0.0.1:0");
    let denial = Denial::Cluster { ours: "ctr".to_owned(), theirs: "ads".to_owned() };
    let fake = Fake::start("a", coordinator.address(), "ads");
    let told = fake.wait(|event| match event {
        AgentEvent::Denied(denial) => Some(denial),
        _ => None,
    });
    assert_eq!(told, denial);
    let watch = Watch::start(&[coordinator.address().to_string()], "ads").expect("a watch");
    let waited = watch.wait_newer(Epoch::new(0), Instant::now() + PATIENCE);
    assert_eq!(waited, Err(WatchError::Denied(denial)));
}

#[test]
fn a_peer_that_talks_out_of_turn_or_nonsense_is_closed_and_others_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let coordinator = coordinate(spec(1, 1, 1), directory.path(), "127.0.0.1:0");
    let address = coordinator.address();
    let mut link = ControlLink::connect(&address.to_string(), PATIENCE).expect("connects");
    link.writer().send(&ToCoordinator::Leave).expect("sent");
    let answer = link.receive::<ToMember>(Instant::now() + PATIENCE).expect("open");
    assert!(matches!(answer, Some(ToMember::Denied(Denial::Unexpected { .. }))), "{answer:?}");
    assert!(link.receive::<ToMember>(Instant::now() + PATIENCE).is_err(), "closed");
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    std::io::Write::write_all(&mut stream, &[0xFF; 64]).expect("written");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let ended = std::io::Read::read(&mut stream, &mut [0; 1]);
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
    assert_eq!(status(&mut person(address)).cluster, "ctr");
}

#[test]
fn a_move_is_carried_out_and_an_impossible_one_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let coordinator = coordinate(spec(1, 1, 2), directory.path(), "127.0.0.1:0");
    let address = coordinator.address();
    let fakes = ["a", "b"].map(|name| Fake::start(name, address, "ctr"));
    let numbers = fakes.each_ref().map(Fake::wait_welcome);
    let placement = fakes[0].wait_placement(|_| true);
    let (shard, from) = (ShardId::new(0), placement.chains[0].replicas[0]);
    let (at, to) = match numbers[0] == from {
        true => (0, numbers[1]),
        false => (1, numbers[0]),
    };
    let mut link = person(address);
    let mut order = |ask| {
        link.writer().send(&ToCoordinator::Ask(ask)).expect("sent");
        link.receive::<ToMember>(Instant::now() + PATIENCE).expect("open").expect("an answer")
    };
    let answer = order(Ask::Move { shard, from: to, to: from });
    assert!(matches!(answer, ToMember::Denied(Denial::Impossible { .. })), "{answer:?}");
    assert_eq!(order(Ask::Move { shard, from, to }), ToMember::Done);
    let moving = fakes[at].wait_placement(|placement| placement.chains[0].joining == Some(to));
    let (chain, report) = (moving.chains[0].epoch, ChainReport::Filled);
    fakes[at].agent.reporter().report(Observation { shard, chain, report });
    let moved = fakes[at].wait_placement(|placement| placement.chains[0].joining.is_none());
    assert_eq!(moved.chains[0].replicas, [to]);
}

/// A store that two coordinators can have at once.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<Entry>>>);

impl Store for Shared {
    fn cluster_id(&self) -> u64 {
        7
    }

    fn newest(&mut self) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.lock().expect("whole").last().cloned())
    }

    fn append(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let mut entries = self.0.lock().expect("whole");
        let theirs = entries.last().map_or(Epoch::new(0), |one| one.placement.epoch);
        let ours = Epoch::new(entry.placement.epoch.get() - 1);
        if ours != theirs {
            return Err(StoreError::Conflict { ours, theirs });
        }
        entries.push(entry.clone());
        Ok(())
    }

    fn history(&mut self, _: usize) -> Result<Vec<(Epoch, String)>, StoreError> {
        Ok(Vec::new())
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>, StoreError> {
        Ok(Vec::new())
    }

    fn keep_job(&mut self, _: &JobWrite) -> Result<(), StoreError> {
        unreachable!("no job of several hosts runs here")
    }
}

#[test]
fn a_coordinator_that_finds_another_one_active_steps_down() {
    let store = Shared::default();
    let start = || {
        let store = Box::new(store.clone());
        Coordinator::start(spec(1, 1, 1), store, "127.0.0.1:0", Exposure::Loopback)
    };
    let (first, second) = (start().expect("starts"), start().expect("starts"));
    let a = Fake::start("a", first.address(), "ctr");
    a.wait_welcome();
    let _b = Fake::start("b", second.address(), "ctr");
    let deadline = Instant::now() + PATIENCE;
    while !second.has_ended() {
        assert!(Instant::now() < deadline, "the second goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (ours, theirs) = (Epoch::new(0), Epoch::new(1));
    assert_eq!(second.stop(), Err(StoreError::Conflict { ours, theirs }));
    assert!(!first.has_ended());
}

/// What several coordinators have in common.
#[derive(Clone, Default)]
struct Ground(Arc<Mutex<Common>>);

#[derive(Default)]
struct Common {
    entries: Vec<Entry>,
    claim: Option<Claim>,
    /// Changes with each claim.
    revision: u64,
    /// Who is not answered.
    parted: Vec<u64>,
}

/// One coordinator's view of it, in a term if it leads.
struct View {
    ground: Ground,
    writer: u64,
    revision: u64,
    term: Option<u64>,
}

impl Ground {
    fn coordinate(&self, writer: u64) -> Coordinator {
        let claims = View { ground: self.clone(), writer, revision: 0, term: None };
        let places = ("127.0.0.1:0", None);
        let exposure = Exposure::Loopback;
        Coordinator::start_among(
            spec(4, 2, 2),
            Box::new(claims),
            places,
            exposure,
            Stored::default(),
        )
        .expect("a coordinator")
    }

    fn part(&self, writers: &[u64]) {
        self.0.lock().expect("whole").parted = writers.to_vec();
    }

    fn term(&self) -> u64 {
        self.0.lock().expect("whole").claim.as_ref().map_or(0, |claim| claim.term)
    }
}

impl View {
    fn common(&self) -> Result<std::sync::MutexGuard<'_, Common>, StoreError> {
        let common = self.ground.0.lock().expect("whole");
        match common.parted.contains(&self.writer) {
            true => Err(StoreError::Unreachable { what: "parted".to_owned() }),
            false => Ok(common),
        }
    }
}

impl Claims for View {
    fn cluster_id(&self) -> u64 {
        7
    }

    fn writer(&self) -> u64 {
        self.writer
    }

    fn newest(&mut self) -> Result<Option<Claim>, StoreError> {
        let (revision, claim) = {
            let common = self.common()?;
            (common.revision, common.claim.clone())
        };
        self.revision = revision;
        Ok(claim)
    }

    fn replace(&mut self, next: &Claim) -> Result<Option<Claim>, StoreError> {
        let mut common = self.common()?;
        if common.revision == self.revision {
            common.revision += 1;
            common.claim = Some(next.clone());
        }
        let (revision, claim) = (common.revision, common.claim.clone());
        drop(common);
        self.revision = revision;
        Ok(claim)
    }

    fn log(&self, term: u64) -> Box<dyn Store> {
        let (ground, writer) = (self.ground.clone(), self.writer);
        Box::new(View { ground, writer, revision: 0, term: Some(term) })
    }
}

impl Store for View {
    fn cluster_id(&self) -> u64 {
        7
    }

    fn newest(&mut self) -> Result<Option<Entry>, StoreError> {
        Ok(self.common()?.entries.last().cloned())
    }

    fn append(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let mut common = self.common()?;
        let (ours, theirs) =
            (self.term.unwrap_or(0), common.claim.as_ref().map_or(0, |claim| claim.term));
        if ours != theirs {
            return Err(StoreError::Fenced { ours, theirs });
        }
        let newest = common.entries.last().map_or(0, |one| one.placement.epoch.get());
        assert_eq!(entry.placement.epoch.get(), newest + 1, "who leads knows the newest");
        common.entries.push(entry.clone());
        Ok(())
    }

    fn history(&mut self, _: usize) -> Result<Vec<(Epoch, String)>, StoreError> {
        Ok(Vec::new())
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>, StoreError> {
        Ok(Vec::new())
    }

    fn keep_job(&mut self, _: &JobWrite) -> Result<(), StoreError> {
        unreachable!("no job of several hosts runs here")
    }
}

/// Waits until one of two leads: which one, and in which term.
fn wait_leader(pair: &[Coordinator], may: impl Fn(usize) -> bool) -> (usize, u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (number, one) in pair.iter().enumerate().filter(|(number, _)| may(*number)) {
            if let Duty::Leads { term } = one.duty() {
                return (number, term);
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn another_coordinator_goes_on_where_one_ended_and_servers_stay_who_they_are() {
    let ground = Ground::default();
    let mut pair = vec![ground.coordinate(1), ground.coordinate(2)];
    let places: Vec<_> = pair.iter().map(|one| one.address().to_string()).collect();
    let (old, first) = wait_leader(&pair, |_| true);
    let fakes = ["a", "b"].map(|name| Fake::start_among(name, places.clone(), "ctr"));
    let numbers = fakes.each_ref().map(Fake::wait_welcome);
    let watch = Watch::start(&places, "ctr").expect("a watch");
    let before = wait_for(&watch, |placement| placement.servers.len() == 2);
    // Who stands by names the one that leads.
    let mut link = ControlLink::connect(&places[1 - old], PATIENCE).expect("connects");
    let apply = Apply::new("ctr", Epoch::new(0), Applicant::Person);
    link.writer().send(&ToCoordinator::Apply(apply)).expect("sent");
    let told = link.receive::<ToMember>(Instant::now() + PATIENCE).expect("open");
    let leader = Some(places[old].clone());
    assert_eq!(told, Some(ToMember::Denied(Denial::NotLeading { leader, why: None })));
    assert_eq!(pair.remove(old).stop(), Ok(()));
    let (_, second) = wait_leader(&pair, |_| true);
    assert_eq!(second, first + 1);
    assert_eq!(fakes.each_ref().map(Fake::wait_welcome), numbers);
    let newcomer = Fake::start_among("c", places, "ctr");
    let number = newcomer.wait_welcome();
    let after = wait_for(&watch, |placement| placement.member(number).is_some());
    assert_eq!(after.epoch.get(), before.epoch.get() + 1);
    assert!(numbers.iter().all(|number| after.member(*number).is_some()));
    let shown = status(&mut person(pair[0].address()));
    assert_eq!((shown.term, shown.leader), (second, Some(pair[0].address().to_string())));
}

#[test]
fn a_coordinator_that_its_store_does_not_hear_is_followed_and_stands_by() {
    let ground = Ground::default();
    let pair = [ground.coordinate(1), ground.coordinate(2)];
    let places: Vec<_> = pair.iter().map(|one| one.address().to_string()).collect();
    let (old, first) = wait_leader(&pair, |_| true);
    let fakes = ["a", "b"].map(|name| Fake::start_among(name, places.clone(), "ctr"));
    let numbers = fakes.each_ref().map(Fake::wait_welcome);
    ground.part(&[old as u64 + 1]);
    let (new, second) = wait_leader(&pair, |number| number != old);
    assert_eq!(second, first + 1);
    assert_eq!(fakes.each_ref().map(Fake::wait_welcome), numbers);
    let deadline = Instant::now() + PATIENCE;
    while matches!(pair[old].duty(), Duty::Leads { .. }) {
        assert!(Instant::now() < deadline, "it does not notice");
        std::thread::sleep(Duration::from_millis(10));
    }
    ground.part(&[]);
    let leader = Some(pair[new].address().to_string());
    let stands_by = Duty::StandsBy { leader, why: None };
    while pair[old].duty() != stands_by {
        assert!(Instant::now() < deadline, "{:?}", pair[old].duty());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ground.term(), second);
}

#[test]
fn while_the_store_hears_nobody_none_leads_and_a_worker_may_still_begin() {
    let ground = Ground::default();
    let pair = [ground.coordinate(1), ground.coordinate(2)];
    let places: Vec<_> = pair.iter().map(|one| one.address().to_string()).collect();
    wait_leader(&pair, |_| true);
    let fakes = ["a", "b"].map(|name| Fake::start_among(name, places.clone(), "ctr"));
    let numbers = fakes.each_ref().map(Fake::wait_welcome);
    let watch = Watch::start(&places, "ctr").expect("a watch");
    let before = wait_for(&watch, |placement| placement.servers.len() == 2);
    ground.part(&[1, 2]);
    let deadline = Instant::now() + PATIENCE;
    let leads = |one: &Coordinator| matches!(one.duty(), Duty::Leads { .. });
    while pair.iter().any(leads) {
        assert!(Instant::now() < deadline, "somebody leads without its store");
        std::thread::sleep(Duration::from_millis(10));
    }
    let late = Watch::start(&places, "ctr").expect("a watch");
    assert_eq!(wait_for(&late, |_| true), before);
    ground.part(&[]);
    wait_leader(&pair, |_| true);
    assert_eq!(fakes.each_ref().map(Fake::wait_welcome), numbers);
}
