//! Jobs whose portions are splits, under random histories.
//!
//! Owns a model of launchers whose workers read splits from their beginnings and pass over what
//! their journals have, and of shards that have what was pushed; hosts may go for good, with their
//! journals. How many batches a split has, the coordinator never learns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use wire::{
    BatchAt, JobAnswer, JobBid, JobNews, JobRefusal, JobVerb, PORTIONS_OPEN_MAX, PlaceNews,
    Portion, SPLIT_BATCHES,
};

use super::{Desk, HOST_PATIENCE, ask, bid, idle, refused};
use crate::coordinator::event::ConnectionId;

const EPOCHS: u32 = 2;

/// A launcher with one worker, whose journal outlives both.
#[derive(Clone, Debug, Default)]
struct Launcher {
    holder: u64,
    generation: u32,
    /// Of the worker: steps that are in its journal and on no shard.
    unpushed: VecDeque<BatchAt>,
    /// How many steps it knows to be on every shard.
    settled: usize,
    /// Of the worker: the newest batch in its journal.
    done: Option<BatchAt>,
    /// The epoch that it is at.
    epoch: u32,
    /// Splits whose end this life has reached.
    ended: BTreeSet<BatchAt>,
    /// Splits that the launcher has of it.
    open: Vec<Portion>,
    portion: u64,
    /// Of so many epochs there is nothing left to come.
    epochs_dealt: u32,
}

/// Launchers of one worker each, and how often each batch was done.
struct World {
    desk: Desk,
    /// Batches of each split.
    sizes: Vec<u64>,
    launchers: Vec<Launcher>,
    /// By place: the steps that shards have, in order.
    pushed: Vec<Vec<BatchAt>>,
    done: BTreeMap<BatchAt, u32>,
    holders: u64,
}

impl Launcher {
    /// The split that it reads: the lowest of its epoch that is not behind it.
    fn split(&self) -> Option<Portion> {
        let is_ahead = |portion: &&Portion| {
            let is_ended = self.ended.contains(&portion.last());
            portion.epoch == self.epoch && !is_ended && Some(portion.last()) > self.done
        };
        self.open.iter().filter(is_ahead).min_by_key(|portion| portion.first).copied()
    }

    /// What it tells of its worker: how far it is on every shard. A split that it has read to its
    /// end is done if all before it is settled, with or without a batch of it.
    ///
    /// - `pushed`: the steps that shards have.
    fn news(&self, place: u32, pushed: &[BatchAt]) -> JobNews {
        let is_settled = self.unpushed.is_empty() && self.settled == pushed.len();
        let last = self.settled.checked_sub(1).map(|last| pushed[last]);
        let done = if is_settled { self.done.max(self.ended.last().copied()) } else { last };
        let wants = Some(self.epoch).filter(|&it| it < EPOCHS && self.split().is_none());
        let steps = Some(self.settled as u64);
        let one = PlaceNews { place, done, steps, portion: self.portion, wants };
        JobNews { places: vec![one], ..idle(self.generation) }
    }
}

impl World {
    fn new(hosts: usize, sizes: Vec<u64>) -> World {
        let mut world = World {
            desk: Desk::new(),
            launchers: (1..=hosts as u64)
                .map(|holder| Launcher { holder, ..Launcher::default() })
                .collect(),
            pushed: vec![Vec::new(); hosts],
            done: BTreeMap::new(),
            sizes,
            holders: hosts as u64,
        };
        (0..hosts).for_each(|at| world.kill_launcher(at));
        let generation = world.launchers[0].generation;
        world.desk.attend(1, JobNews { is_prepared: true, ..idle(generation) });
        world
    }

    fn news(&self, at: usize) -> JobNews {
        self.launchers[at].news(at as u32, &self.pushed[at])
    }

    /// A launcher says what it knows, and hears the answer unless that is lost.
    fn attend(&mut self, at: usize, is_lost: bool) {
        let news = self.news(at);
        let state = self.desk.attend(self.launchers[at].holder, news);
        if is_lost {
            return;
        }
        let launcher = &mut self.launchers[at];
        for (place, portion) in state.dealt {
            assert_eq!((place, portion.number), (at as u32, launcher.portion + 1), "in order");
            assert_eq!(portion.batches, SPLIT_BATCHES);
            launcher.portion = portion.number;
            launcher.open.push(portion);
        }
        launcher.epochs_dealt = state.epochs_dealt;
    }

    /// A worker does a batch, or finds the end of its split, or of its epoch.
    fn work(&mut self, at: usize) {
        let launcher = &mut self.launchers[at];
        let Some(split) = launcher.split() else {
            if launcher.epoch < launcher.epochs_dealt {
                launcher.epoch += 1;
            }
            return;
        };
        let Portion { epoch, first, .. } = split;
        let after = launcher.done.filter(|done| done.epoch == epoch).map_or(0, |it| it.batch + 1);
        let next = BatchAt { epoch, batch: after.max(first) };
        let size = self.sizes[(first / u64::from(SPLIT_BATCHES)) as usize];
        if next.batch >= first + size {
            launcher.ended.insert(split.last());
            return;
        }
        launcher.done = Some(next);
        launcher.unpushed.push_back(next);
    }

    /// A step reaches the shards, if there is one.
    fn push(&mut self, at: usize) {
        if let Some(step) = self.launchers[at].unpushed.pop_front() {
            self.pushed[at].push(step);
            *self.done.entry(step).or_default() += 1;
        }
    }

    /// A worker hears which of its steps shards have.
    fn settle(&mut self, at: usize) {
        self.launchers[at].settled = self.pushed[at].len();
    }

    /// A worker dies: its next life begins where the journal ends.
    fn kill_worker(&mut self, at: usize) {
        let launcher = &mut self.launchers[at];
        launcher.epoch = launcher.done.map_or(0, |done| done.epoch);
        launcher.ended.clear();
    }

    /// A launcher dies, its worker with it, and both begin again.
    fn kill_launcher(&mut self, at: usize) {
        let hosts = self.launchers.len() as u32;
        let splits = self.sizes.len() as u64;
        let enrol = JobVerb::Enrol(JobBid { splits, ..bid(1, hosts) });
        let JobAnswer::Enrolled(enrolled) = self.desk.ask(ask(self.launchers[at].holder, enrol))
        else {
            panic!("it takes part");
        };
        assert_eq!(enrolled.splits, splits);
        self.kill_worker(at);
        let launcher = &mut self.launchers[at];
        let held = &enrolled.places[0];
        (launcher.portion, launcher.open) = (held.portion, held.open.clone());
        (launcher.generation, launcher.epochs_dealt) = (enrolled.generation, 0);
    }

    /// A host is gone for good, and what its journal has and no shard does. Another one, which
    /// stood by, passes over what shards have.
    fn replace(&mut self, at: usize) {
        self.desk.now = self.desk.now + HOST_PATIENCE + Duration::from_millis(1);
        (0..self.launchers.len()).filter(|&other| other != at).for_each(|other| {
            self.attend(other, false);
        });
        self.holders += 1;
        let (hosts, splits) = (self.launchers.len() as u32, self.sizes.len() as u64);
        let stand_by = JobBid { splits, stands_by: true, ..bid(1, hosts) };
        let stand_by = ask(self.holders, JobVerb::Enrol(stand_by));
        let waits = self.desk.ask(stand_by.clone());
        assert!(matches!(waits, JobAnswer::StandsBy { .. }), "{waits:?}");
        self.desk.jobs.look(self.desk.now);
        let JobAnswer::Enrolled(enrolled) = self.desk.ask(stand_by) else { panic!("it is gone") };
        let late = ask(self.launchers[at].holder, JobVerb::Attend(self.news(at)));
        assert_eq!(refused(self.desk.ask(late)), JobRefusal::Replaced);

        let (held, pushed) = (&enrolled.places[0], &self.pushed[at]);
        let mut open = held.open.clone();
        open.sort_by_key(|portion| (portion.epoch, portion.first));
        let batches = open.iter().flat_map(|&Portion { epoch, first, .. }| {
            let size = self.sizes[(first / u64::from(SPLIT_BATCHES)) as usize];
            (first..first + size).map(move |batch| BatchAt { epoch, batch })
        });
        let ahead = batches.filter(|batch| Some(*batch) > held.done);
        let known = held.steps as usize;
        let passed: Vec<BatchAt> = ahead.take(pushed.len() - known).collect();
        assert_eq!(passed, pushed[known..], "from {held:?}");
        assert!(held.untold.is_some_and(|untold| untold <= held.steps), "{held:?}");
        let done = passed.last().copied().or(held.done);
        self.launchers[at] = Launcher {
            holder: self.holders,
            generation: enrolled.generation,
            settled: pushed.len(),
            done,
            epoch: done.map_or(0, |done| done.epoch),
            open: held.open.clone(),
            portion: held.portion,
            ..Launcher::default()
        };
    }

    /// The ask arrives, and the coordinator dies before the store has what it leads to.
    fn attend_in_vain(&mut self, at: usize) {
        let attend = ask(self.launchers[at].holder, JobVerb::Attend(self.news(at)));
        let _ = self.desk.jobs.asked(ConnectionId(2), attend, self.desk.now);
        self.desk.restart();
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            let is_done = |one: &Launcher| one.epoch >= EPOCHS && one.unpushed.is_empty();
            if self.launchers.iter().all(is_done) {
                return;
            }
            for at in 0..self.launchers.len() {
                self.attend(at, false);
                self.work(at);
                self.push(at);
                self.settle(at);
            }
        }
        panic!("it does not end: {:?}", self.launchers);
    }

    /// Each batch of each split, once an epoch.
    fn expected(&self) -> BTreeMap<BatchAt, u32> {
        let firsts = (0..).step_by(SPLIT_BATCHES as usize).zip(&self.sizes);
        let batches = firsts.flat_map(|(first, size)| first..first + size);
        let all = batches.flat_map(|batch| (0..EPOCHS).map(move |epoch| BatchAt { epoch, batch }));
        all.map(|batch| (batch, 1)).collect()
    }
}

#[test]
fn splits_are_dealt_in_order_and_once_all_are_everybody_is_told() {
    let mut world = World::new(2, vec![1, 1, 1]);
    world.attend(0, false);
    world.attend(1, false);
    let firsts: Vec<u64> = world.launchers.iter().map(|one| one.open[0].first).collect();
    assert_eq!(firsts, [0, u64::from(SPLIT_BATCHES)]);
    world.work(0);
    world.work(0);
    world.attend(0, false);
    assert_eq!(world.launchers[0].open[1].first, 2 * u64::from(SPLIT_BATCHES));
    assert_eq!(world.launchers[0].epochs_dealt, 1);
    assert_eq!(world.launchers[1].epochs_dealt, 0, "it has not heard yet");
    world.attend(1, true);
    world.attend(1, false);
    assert_eq!(world.launchers[1].epochs_dealt, 1);
    assert_eq!(world.desk.jobs.status(world.desk.now)[0].portions, 3);
}

#[test]
fn a_launcher_that_knows_of_no_splits_is_refused_and_so_is_one_with_others() {
    let mut world = World::new(1, vec![1; 4]);
    for splits in [0, 3] {
        let other = JobVerb::Enrol(JobBid { splits, ..bid(1, 1) });
        let refusal = refused(world.desk.ask(ask(9, other))).to_string();
        assert!(refusal.contains("splits of the data \"4\""), "{refusal}");
    }
}

#[test]
fn more_splits_without_a_batch_than_a_place_may_have_open_hold_nobody_up() {
    let mut sizes = vec![0; 2 * PORTIONS_OPEN_MAX];
    sizes.push(1);
    let mut world = World::new(1, sizes);
    world.finish();
    assert_eq!(world.done, world.expected());
}

proptest! {
    #[test]
    fn each_batch_of_each_split_is_done_once_whoever_dies(
        hosts in 1_usize..5,
        sizes in proptest::collection::vec(0_u64..6, 1..12),
        happenings in proptest::collection::vec((0_u8..28, 0_usize..4), 0..400),
    ) {
        let mut world = World::new(hosts, sizes);
        for (what, at) in happenings {
            let at = at % hosts;
            match what {
                0 => world.kill_worker(at),
                1 => world.kill_launcher(at),
                2 => world.desk.restart(),
                3 => world.attend(at, true),
                4 => world.attend_in_vain(at),
                5 => world.replace(at),
                6..=10 => world.attend(at, false),
                11..=16 => world.push(at),
                17..=18 => world.settle(at),
                _ => world.work(at),
            }
        }
        world.finish();
        prop_assert_eq!(&world.done, &world.expected());
        let record = &world.desk.stored["ctr"];
        prop_assert_eq!(record.check("ctr"), Ok(()));
    }
}
