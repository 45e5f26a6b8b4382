//! Jobs whose portions are splits, under random histories.
//!
//! Owns a model of launchers whose workers read splits from their beginnings and pass over what
//! their journals have; how many batches a split has, the coordinator never learns.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wire::{
    BatchAt, JobAnswer, JobBid, JobNews, JobVerb, PORTIONS_OPEN_MAX, PlaceNews, Portion,
    SPLIT_BATCHES,
};

use super::{Desk, ask, bid, idle, refused};
use crate::coordinator::event::ConnectionId;

const EPOCHS: u32 = 2;

/// A launcher with one worker, whose journal outlives both.
#[derive(Clone, Debug, Default)]
struct Launcher {
    generation: u32,
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
    done: BTreeMap<BatchAt, u32>,
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

    /// What it tells of its worker: a split that it has read to its end is done, with or without a
    /// batch of it in the journal.
    fn news(&self, place: u32) -> JobNews {
        let done = self.done.max(self.ended.last().copied());
        let wants = Some(self.epoch).filter(|&it| it < EPOCHS && self.split().is_none());
        let one = PlaceNews { place, done, portion: self.portion, wants };
        JobNews { places: vec![one], ..idle(self.generation) }
    }
}

impl World {
    fn new(hosts: usize, sizes: Vec<u64>) -> World {
        let mut world = World {
            desk: Desk::new(),
            launchers: vec![Launcher::default(); hosts],
            done: BTreeMap::new(),
            sizes,
        };
        (0..hosts).for_each(|at| world.kill_launcher(at));
        let generation = world.launchers[0].generation;
        world.desk.attend(1, JobNews { is_prepared: true, ..idle(generation) });
        world
    }

    /// A launcher says what it knows, and hears the answer unless that is lost.
    fn attend(&mut self, at: usize, is_lost: bool) {
        let state = self.desk.attend(at as u64 + 1, self.launchers[at].news(at as u32));
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
        *self.done.entry(next).or_default() += 1;
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
        let JobAnswer::Enrolled(enrolled) = self.desk.ask(ask(at as u64 + 1, enrol)) else {
            panic!("it takes part");
        };
        assert_eq!(enrolled.splits, splits);
        self.kill_worker(at);
        let launcher = &mut self.launchers[at];
        let held = &enrolled.places[0];
        (launcher.portion, launcher.open) = (held.portion, held.open.clone());
        (launcher.generation, launcher.epochs_dealt) = (enrolled.generation, 0);
    }

    /// The ask arrives, and the coordinator dies before the store has what it leads to.
    fn attend_in_vain(&mut self, at: usize) {
        let attend = ask(at as u64 + 1, JobVerb::Attend(self.launchers[at].news(at as u32)));
        let _ = self.desk.jobs.asked(ConnectionId(2), attend, self.desk.now);
        self.desk.restart();
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.launchers.iter().all(|launcher| launcher.epoch >= EPOCHS) {
                return;
            }
            for at in 0..self.launchers.len() {
                self.attend(at, false);
                self.work(at);
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
        happenings in proptest::collection::vec((0_u8..20, 0_usize..4), 0..400),
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
                5..=9 => world.attend(at, false),
                _ => world.work(at),
            }
        }
        world.finish();
        prop_assert_eq!(&world.done, &world.expected());
        let record = &world.desk.stored["ctr"];
        prop_assert_eq!(record.check("ctr"), Ok(()));
    }
}
