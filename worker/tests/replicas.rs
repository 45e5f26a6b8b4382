//! A session that reads from a replica behind the head: which pulls go there, and which come back.
//!
//! Head and replica are stand-ins, see `fake`: the second one has the place of a second shard, and
//! here it is a replica of the first.

mod fake;

use std::collections::VecDeque;
use std::rc::Rc;

use fake::{FakeShard, Rig};
use gradwire_worker::{Reading, Refusal, Route, RouteTo, Routes, Split, TableId, Then};
use transport::simulated::World;
use transport::{Link, PeerId, Transport};
use wire::{Epoch, Flags, Key, Kind, ServerId, ShardId};

const TABLE: TableId = TableId::new(3);
const HEAD: ShardId = ShardId::new(0);
const REPLICA: ServerId = ServerId::new(9);
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// What rows of the replica have, and those of the head have not.
const MARK: f32 = 100.0;

/// Finds the replica whenever it is wanted.
struct Found {
    world: World,
    replica: Rc<std::cell::RefCell<FakeShard>>,
    epoch: Epoch,
    ready: VecDeque<Route>,
}

impl Routes for Found {
    fn poll(&mut self) -> Option<Route> {
        self.ready.pop_front()
    }

    fn want(&mut self, _: ShardId, _: Epoch) {}

    fn want_replicas(&mut self, shard: ShardId, lost: Option<ServerId>) {
        if shard != HEAD || lost.is_some() {
            return;
        }
        let (ours, theirs) = self.world.link();
        let endpoint = &mut self.replica.borrow_mut().endpoint;
        endpoint.adopt(Link::Simulated(theirs)).expect("it is of this world");
        let (epoch, to, host) = (self.epoch, RouteTo::Replica, REPLICA);
        let (server, link) = ("the replica".to_owned(), Link::Simulated(ours));
        self.ready.push_back(Route { shard, epoch, to, host, server, link });
    }
}

/// A session with a head and its replica, and keys of the head.
struct Pair {
    rig: Rig,
    split: Rc<Split>,
}

impl Pair {
    fn new(reading: Reading, epoch: u64) -> Pair {
        let mut rig = Rig::quiet(2, 1);
        let (world, replica) = (rig.world.clone(), Rc::clone(&rig.shards[1]));
        let epoch = Epoch::new(epoch);
        let found = Found { world, replica, epoch, ready: VecDeque::new() };
        rig.session.follow(Box::new(found), PATIENCE);
        rig.session.read_from(reading);
        let is_heads = |&key: &u64| rig.session.routing().shard_of(Key::new(key)) == HEAD;
        let keys: Vec<u64> = (0..40).filter(is_heads).collect();
        for &key in &keys {
            rig.shards[0].borrow_mut().rows.insert(key, vec![1.0]);
            rig.shards[1].borrow_mut().rows.insert(key, vec![1.0 + MARK]);
        }
        let split = rig.session.split(&keys).expect("sorted");
        (0..4).for_each(|_| rig.session.poll().expect("all is well"));
        Pair { rig, split }
    }

    /// One pull. Whether the replica answered it.
    fn pull(&mut self) -> bool {
        let ticket = self.rig.session.pull(TABLE, &self.split, 1).expect("there is room");
        let until = self.rig.after_s(5);
        let values = self.rig.session.wait_pull(ticket, until).expect("somebody answers");
        let first = values[0];
        assert!(values.iter().all(|&value| value == first), "{:?}", values.as_slice());
        self.rig.session.recycle(values);
        first > MARK
    }

    fn handed_over(&self) -> u64 {
        self.rig.session.counts().pulls_handed_over
    }
}

#[test]
fn pulls_go_to_whom_was_asked_for_less_and_say_what_was_pushed_before() {
    let mut pair = Pair::new(Reading::Replicas, 4);
    let answered: Vec<bool> = (0..6).map(|_| pair.pull()).collect();
    assert_eq!(answered.iter().filter(|&&by_replica| by_replica).count(), 3, "{answered:?}");
    let ones = Rc::new(vec![1.0; pair.split.keys_count()]);
    for _ in 0..2 {
        let pushed = pair.rig.session.push(TABLE, &pair.split, Rc::clone(&ones), 1, Then::More);
        pushed.expect("there is room");
    }
    while !pair.pull() {}
    let seen = pair.rig.shards[1].borrow().pulls_seen.clone();
    let any = Flags::ANY_REPLICA.get();
    assert_eq!((seen[0], seen.last()), ((any, 0), Some(&(any, 2))));
    let at_head = pair.rig.shards[0].borrow().pulls_seen.clone();
    assert!(at_head.iter().all(|&pull| pull == (0, 0)), "{at_head:?}");
    let keys = pair.split.keys_count() as u64;
    let asked: u64 = pair.rig.session.keys_by_server().map(|(_, keys)| keys).sum();
    assert_eq!(asked, keys * (seen.len() + at_head.len()) as u64);
}

#[test]
fn heads_answer_all_where_nothing_is_hot_or_nobody_wants_it_otherwise() {
    for reading in [Reading::Heads, Reading::Auto] {
        let mut pair = Pair::new(reading, 4);
        assert!((0..4).all(|_| !pair.pull()), "{reading:?}");
        assert!(pair.rig.shards[1].borrow().kinds.is_empty(), "{reading:?}");
    }
}

#[test]
fn where_a_shard_says_that_it_is_hot_its_replicas_answer_until_it_is_not() {
    let mut pair = Pair::new(Reading::Auto, 4);
    pair.rig.shards[0].borrow_mut().hot = true;
    let answered: Vec<bool> = (0..20).map(|_| pair.pull()).collect();
    let by_replica = answered.iter().filter(|&&by_replica| by_replica).count();
    assert!((5..=10).contains(&by_replica), "{answered:?}");
    pair.rig.shards[0].borrow_mut().hot = false;
    while pair.pull() {}
    assert!((0..20).all(|_| !pair.pull()), "it has cooled");
}

#[test]
fn a_replica_of_another_epoch_is_not_asked() {
    for epoch in [3, 5] {
        let mut pair = Pair::new(Reading::Replicas, epoch);
        assert!((0..4).all(|_| !pair.pull()), "epoch {epoch}");
    }
}

#[test]
fn what_a_replica_refuses_the_head_answers() {
    let mut pair = Pair::new(Reading::Replicas, 4);
    pair.rig.shards[1].borrow_mut().refuses = Some((Kind::Pull, Refusal::NotJoined));
    assert!((0..4).all(|_| !pair.pull()));
    // What goes to both is asked of both.
    assert_eq!(pair.handed_over(), 3, "it is asked again and again");
    let moved = Refusal::EpochMismatch { shard: Epoch::new(9) };
    pair.rig.shards[1].borrow_mut().refuses = Some((Kind::Pull, moved));
    assert!((0..6).all(|_| !pair.pull()));
    assert_eq!(pair.handed_over(), 4, "who has gone on to another epoch is asked no more");
}

#[test]
fn what_a_replica_is_late_with_the_head_answers_and_then_it_is_left_alone() {
    let mut pair = Pair::new(Reading::Replicas, 4);
    pair.rig.shards[1].borrow_mut().stopped = true;
    assert!((0..6).all(|_| !pair.pull()));
    assert_eq!(pair.handed_over(), 1);
    pair.rig.shards[1].borrow_mut().stopped = false;
    let later = pair.rig.after_s(2);
    while pair.rig.session.now() < later {
        pair.rig.session.poll().expect("all is well");
        pair.rig.session.park(later);
    }
    assert!((0..6).any(|_| pair.pull()), "it has rested");
}

#[test]
fn what_a_replica_that_is_gone_was_asked_for_the_head_answers() {
    let mut pair = Pair::new(Reading::Replicas, 4);
    pair.rig.shards[1].borrow_mut().stopped = true;
    let head_first = pair.rig.session.pull(TABLE, &pair.split, 1).expect("there is room");
    let second = pair.rig.session.pull(TABLE, &pair.split, 1).expect("there is room");
    pair.rig.session.flush();
    // The link behind those of the two shards.
    pair.rig.shards[1].borrow_mut().endpoint.close(PeerId::new(1));
    for ticket in [head_first, second] {
        let until = pair.rig.after_s(5);
        let values = pair.rig.session.wait_pull(ticket, until).expect("the head answers");
        assert_eq!(values[0], 1.0);
        pair.rig.session.recycle(values);
    }
    assert_eq!(pair.handed_over(), 1);
}
