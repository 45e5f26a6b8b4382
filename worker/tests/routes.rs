//! A session that follows shards: what moves, or loses its link, is asked over another one.
//!
//! The shards are stand-ins, see `fake`; who finds them is scripted here.

mod fake;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fake::Rig;
use gradwire_worker::{Refusal, Route, RouteTo, Routes, TableId, Then, WorkerError};
use transport::simulated::World;
use transport::{Link, Transport};
use wire::{Epoch, Kind, ServerId, ShardId};

const TABLE: TableId = TableId::new(3);
const PATIENCE: Duration = Duration::from_secs(10);

/// What a session asked for, and what it will get.
#[derive(Default)]
struct Script {
    wanted: Vec<(ShardId, Epoch)>,
    /// Epochs of the routes that are given out, one for each that was wanted; none are left out.
    answers: VecDeque<Option<Epoch>>,
}

struct Scripted {
    script: Rc<RefCell<Script>>,
    world: World,
    shards: Vec<Rc<RefCell<fake::FakeShard>>>,
    ready: VecDeque<Route>,
}

impl Scripted {
    /// The rig's session follows this script from here on.
    fn follow(rig: &mut Rig, answers: &[Option<u64>]) -> Rc<RefCell<Script>> {
        let answers = answers.iter().map(|epoch| epoch.map(Epoch::new)).collect();
        let script = Rc::new(RefCell::new(Script { wanted: Vec::new(), answers }));
        let (world, shards) = (rig.world.clone(), rig.shards.clone());
        let routes = Scripted { script: Rc::clone(&script), world, shards, ready: VecDeque::new() };
        rig.session.follow(Box::new(routes), PATIENCE);
        script
    }
}

impl Routes for Scripted {
    fn poll(&mut self) -> Option<Route> {
        self.ready.pop_front()
    }

    fn want(&mut self, shard: ShardId, epoch: Epoch) {
        let mut script = self.script.borrow_mut();
        script.wanted.push((shard, epoch));
        let Some(Some(epoch)) = script.answers.pop_front() else { return };
        let (ours, theirs) = self.world.link();
        let endpoint = &mut self.shards[shard.index()].borrow_mut().endpoint;
        endpoint.adopt(Link::Simulated(theirs)).expect("it is of this world");
        let (server, link) = (format!("host at {epoch}"), Link::Simulated(ours));
        let (to, host) = (RouteTo::Head, ServerId::new(1));
        self.ready.push_back(Route { shard, epoch, to, host, server, link });
    }

    fn want_replicas(&mut self, _: ShardId, _: Option<ServerId>) {}
}

fn push_ones(rig: &mut Rig, keys: &[u64]) {
    let split = rig.session.split(keys).expect("sorted");
    let ones = Rc::new(vec![1.0; keys.len()]);
    rig.session.push(TABLE, &split, ones, 1, Then::Tick).expect("there is room");
}

#[test]
fn a_shard_that_has_moved_is_asked_at_its_new_epoch_and_each_push_counts_once() {
    let mut rig = Rig::quiet(2, 1);
    let script = Scripted::follow(&mut rig, &[Some(9)]);
    let moved = Some((Kind::Push, Refusal::EpochMismatch { shard: Epoch::new(9) }));
    rig.shards[1].borrow_mut().refuses = moved;
    let keys: Vec<u64> = (0..50).collect();
    push_ones(&mut rig, &keys);
    rig.session.poll().expect("it waits for a route");
    while script.borrow().wanted.is_empty() {
        let soon = rig.session.now() + Duration::from_millis(1);
        rig.session.park(soon);
        rig.session.poll().expect("it waits for a route");
    }
    rig.shards[1].borrow_mut().refuses = None;
    rig.session.wait_pushes(0, rig.after_s(5)).expect("the new link carries it");
    assert_eq!(script.borrow().wanted, [(ShardId::new(1), Epoch::new(4))]);
    let expected: BTreeMap<u64, Vec<f32>> = keys.iter().map(|&key| (key, vec![1.0])).collect();
    assert_eq!(rig.rows(), expected);
    assert_eq!(rig.shards[1].borrow().epochs_seen, [4, 9], "requests carry the link's epoch");
    assert_eq!(rig.session.counts().reconnects, 1);
}

#[test]
fn a_shard_that_is_lost_again_is_asked_for_again_and_pulls_go_on_too() {
    let mut rig = Rig::quiet(1, 1);
    let script = Scripted::follow(&mut rig, &[Some(4), Some(7)]);
    push_ones(&mut rig, &[1, 2]);
    rig.session.wait_pushes(0, rig.after_s(1)).expect("all is well");
    let split = rig.session.split(&[1, 2]).expect("sorted");
    for epoch in [4, 7] {
        rig.shards[0].borrow_mut().stopped = true;
        let ticket = rig.session.pull(TABLE, &split, 1).expect("there is room");
        rig.session.flush();
        let peer = transport::PeerId::new(if epoch == 4 { 0 } else { 1 });
        rig.shards[0].borrow_mut().endpoint.close(peer);
        rig.shards[0].borrow_mut().stopped = false;
        let values = rig.session.wait_pull(ticket, rig.after_s(5)).expect("over the new link");
        assert_eq!(values.as_slice(), [1.0, 1.0]);
        rig.session.recycle(values);
    }
    let wanted = [(ShardId::new(0), Epoch::new(4)), (ShardId::new(0), Epoch::new(4))];
    assert_eq!(script.borrow().wanted, wanted);
}

#[test]
fn a_shard_that_nobody_finds_is_an_error_once_patience_is_over() {
    let mut rig = Rig::quiet(1, 1);
    Scripted::follow(&mut rig, &[None]);
    rig.session.tick().expect("there is room");
    rig.session.flush();
    rig.shards[0].borrow_mut().endpoint.close(transport::PeerId::new(0));
    let lost_at = rig.session.now();
    let error = rig.session.wait_pushes(0, rig.after_s(60)).expect_err("nobody finds it");
    assert!(matches!(error, WorkerError::ServerLost { .. }), "{error}");
    assert!(rig.session.now() - lost_at >= PATIENCE, "it waited");
}

#[test]
fn a_route_of_an_older_epoch_is_not_taken() {
    let mut rig = Rig::quiet(1, 1);
    Scripted::follow(&mut rig, &[Some(3)]);
    rig.session.tick().expect("there is room");
    rig.session.flush();
    rig.shards[0].borrow_mut().endpoint.close(transport::PeerId::new(0));
    let error = rig.session.wait_pushes(0, rig.after_s(60)).expect_err("it is of the past");
    assert!(matches!(error, WorkerError::ServerLost { .. }), "{error}");
    assert_eq!(rig.session.counts().reconnects, 0);
}

#[test]
fn without_routes_a_moved_shard_is_an_error_with_both_epochs() {
    let mut rig = Rig::quiet(1, 1);
    let moved = Some((Kind::Push, Refusal::EpochMismatch { shard: Epoch::new(9) }));
    rig.shards[0].borrow_mut().refuses = moved;
    rig.session.tick().expect("there is room");
    let error = rig.session.wait_pushes(0, rig.after_s(60)).expect_err("it has moved");
    assert_eq!(error.to_string(), "server host0:7000 is at epoch 9, this worker at epoch 4");
}
