//! Jobs under random histories: launchers that claim in any order, workers and launchers that die,
//! answers that are lost, coordinators that begin anew from what the store has.
//!
//! Owns a model of the launchers and of what each batch came to; it knows no rule of dealing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use wire::{
    BatchAt, JobAnswer, JobAsk, JobBid, JobEnd, JobNews, JobRefusal, JobSetting, JobState, JobVerb,
    PORTION_BATCHES, PlaceNews, Portion, Time,
};

use super::record::{HOST_PATIENCE, JobRecord};
use super::registry::{JobWrite, Jobs};
use crate::coordinator::event::ConnectionId;

mod splits;
mod standbys;

const EPOCHS: u32 = 2;
/// Batches of an epoch: no multiple of a portion's.
const BATCHES: u64 = 45;

fn bid(wanted: u32, workers: u32) -> JobBid {
    let setting = JobSetting { name: "--clock".into(), value: "bsp".into() };
    let (host, settings) = ("h".into(), vec![setting]);
    let id = 7;
    JobBid { host, id, wanted, workers, epochs: EPOCHS, settings, ..JobBid::default() }
}

/// A place that has done nothing yet and wants more.
fn wants(place: u32, portion: u64) -> PlaceNews {
    PlaceNews { place, done: None, steps: None, portion, wants: Some(0) }
}

fn ask(holder: u64, verb: JobVerb) -> JobAsk {
    JobAsk { job: "ctr".into(), holder, verb }
}

/// The coordinator with its store.
struct Desk {
    jobs: Jobs,
    stored: BTreeMap<String, JobRecord>,
    /// What is on its way into the store.
    writing: Option<Arc<JobWrite>>,
    now: Time,
}

impl Desk {
    fn new() -> Desk {
        let (jobs, now) = (Jobs::default(), Time::from_nanos(1));
        Desk { jobs, stored: BTreeMap::new(), writing: None, now }
    }

    fn restart(&mut self) {
        self.writing = None;
        self.jobs = Jobs::recover(self.stored.values().cloned().collect(), self.now);
    }

    fn begin_write(&mut self) {
        if self.writing.is_none() {
            self.writing = self.jobs.next_write();
        }
    }

    /// The store has what was on its way.
    fn store(&mut self) {
        let Some(write) = self.writing.take() else { return };
        let there = self.stored.get(&write.record.name).map_or(0, |record| record.version);
        assert_eq!(there, write.after, "the writer knows the newest");
        self.stored.insert(write.record.name.clone(), write.record.clone());
        write.forgotten.iter().for_each(|name| drop(self.stored.remove(name)));
    }

    /// Asks, and has the store take whatever is to be written.
    fn ask(&mut self, ask: JobAsk) -> JobAnswer {
        let mut answers: Vec<_> =
            self.jobs.asked(ConnectionId(1), ask, self.now).into_iter().collect();
        loop {
            self.begin_write();
            if self.writing.is_none() {
                break;
            }
            self.store();
            answers.extend(self.jobs.kept());
        }
        assert_eq!(answers.len(), 1, "one answer each: {answers:?}");
        answers.remove(0).1
    }

    fn enrol(&mut self, holder: u64, wanted: u32, workers: u32) -> JobAnswer {
        self.ask(ask(holder, JobVerb::Enrol(bid(wanted, workers))))
    }

    fn attend(&mut self, holder: u64, news: JobNews) -> JobState {
        match self.ask(ask(holder, JobVerb::Attend(news))) {
            JobAnswer::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// A job of `hosts` with one worker each, all of them there.
    fn running(hosts: u64) -> Desk {
        let mut desk = Desk::new();
        for holder in 1..=hosts {
            let enrolled = desk.enrol(holder, 1, hosts as u32);
            assert!(matches!(enrolled, JobAnswer::Enrolled(_)), "{enrolled:?}");
        }
        let prepared = JobNews { generation: 1, is_prepared: true, ..JobNews::default() };
        desk.attend(1, prepared);
        desk
    }
}

fn refused(answer: JobAnswer) -> JobRefusal {
    match answer {
        JobAnswer::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn idle(generation: u32) -> JobNews {
    JobNews { generation, ..JobNews::default() }
}

#[test]
fn places_are_given_until_all_are_taken_and_the_next_one_is_told_who_has_them() {
    let mut desk = Desk::new();
    let JobAnswer::Enrolled(first) = desk.enrol(1, 4, 6) else { panic!("there is room") };
    let places: Vec<u32> = first.places.iter().map(|place| place.place).collect();
    assert_eq!((places, first.generation, first.id), (vec![0, 1, 2, 3], 1, 7));
    let JobAnswer::Enrolled(second) = desk.enrol(2, 4, 6) else { panic!("there is room") };
    let places: Vec<u32> = second.places.iter().map(|place| place.place).collect();
    assert_eq!(places, [4, 5], "no more than there are");
    let refusal = refused(desk.enrol(3, 4, 6));
    assert!(matches!(&refusal, JobRefusal::Taken { workers: 6, .. }), "{refusal}");
    assert!(!desk.attend(2, idle(1)).is_prepared);
    desk.attend(2, JobNews { is_prepared: true, ..idle(1) });
    assert!(!desk.attend(2, idle(1)).is_prepared, "the host of place 0 alone prepares");
}

#[test]
fn a_job_that_differs_is_refused_by_what_it_differs_in() {
    let mut desk = Desk::new();
    desk.enrol(1, 1, 2);
    let setting = JobSetting { name: "--clock".into(), value: "asp".into() };
    let others = [
        (bid(1, 3), "--job-workers"),
        (JobBid { epochs: 1, ..bid(1, 2) }, "--epochs"),
        (JobBid { splits: 9, ..bid(1, 2) }, "the count of splits of the data"),
        (JobBid { settings: vec![setting], ..bid(1, 2) }, "--clock"),
        (JobBid { settings: Vec::new(), ..bid(1, 2) }, "--clock"),
    ];
    for (other, expected) in others {
        let refusal = refused(desk.ask(ask(2, JobVerb::Enrol(other))));
        assert!(matches!(&refusal, JobRefusal::Differs { setting, .. } if setting == expected));
    }
    assert!(matches!(desk.enrol(2, 1, 2), JobAnswer::Enrolled(_)), "nothing was changed");
}

#[test]
fn nobody_is_told_of_a_portion_before_the_store_has_it() {
    let mut desk = Desk::running(1);
    let wants = wants(0, 0);
    let attend = ask(1, JobVerb::Attend(JobNews { places: vec![wants], ..idle(1) }));
    assert!(desk.jobs.asked(ConnectionId(5), attend, desk.now).is_none(), "it waits");
    desk.begin_write();
    let before = desk.stored["ctr"].clone();
    assert!(desk.jobs.next_write().is_none(), "one write at a time");
    // A coordinator that begins now knows of no portion: nobody else does either.
    let again = Jobs::recover(vec![before], desk.now);
    assert_eq!(again.status(desk.now)[0].portions, 0);
    desk.store();
    let said = desk.jobs.kept();
    let [(ConnectionId(5), JobAnswer::State(state))] = &said[..] else { panic!("{said:?}") };
    assert_eq!(state.dealt.len(), 1);
}

#[test]
fn an_answer_that_was_lost_is_given_again_and_nothing_is_dealt_twice() {
    let mut desk = Desk::running(2);
    let news = |place, portion| JobNews { places: vec![wants(place, portion)], ..idle(1) };
    let first = desk.attend(1, news(0, 0)).dealt;
    assert_eq!(desk.attend(1, news(0, 0)).dealt, first);
    assert_eq!(first[0].1, Portion { number: 1, epoch: 0, first: 0, batches: PORTION_BATCHES });
    let other = desk.attend(2, news(1, 0)).dealt;
    assert_eq!(other[0].1.first, u64::from(PORTION_BATCHES));
    let refusal = refused(desk.ask(ask(2, JobVerb::Attend(news(0, 1)))));
    assert!(matches!(refusal, JobRefusal::Unfit { .. }), "{refusal}: it is another host's place");
}

#[test]
fn a_launcher_that_begins_again_has_its_places_and_what_they_were_dealt() {
    let mut desk = Desk::running(2);
    let wants = wants(1, 0);
    let dealt = desk.attend(2, JobNews { places: vec![wants], ..idle(1) }).dealt;
    desk.restart();
    let JobAnswer::Enrolled(again) = desk.enrol(2, 9, 2) else { panic!("it takes part") };
    assert_eq!((again.generation, again.places.len()), (2, 1));
    assert_eq!((again.places[0].portion, again.places[0].open[0]), (1, dealt[0].1));
    let refusal = refused(desk.ask(ask(2, JobVerb::Attend(idle(1)))));
    assert_eq!(refusal, JobRefusal::Replaced);
}

#[test]
fn a_host_that_is_not_heard_of_ends_the_job_and_one_that_stays_is_told_to_clear_up() {
    let mut desk = Desk::running(2);
    desk.now = desk.now + HOST_PATIENCE;
    assert_eq!(desk.attend(1, idle(1)).away[0].first, 1);
    desk.jobs.look(desk.now);
    assert_eq!(desk.attend(1, idle(1)).end, None, "not yet");
    // A coordinator that stood still itself has missed nobody.
    desk.now = desk.now + Duration::from_secs(9);
    desk.jobs.forgive(Duration::from_secs(9));
    desk.jobs.look(desk.now);
    assert_eq!(desk.attend(1, idle(1)).end, None);
    desk.now = desk.now + Duration::from_millis(1);
    desk.jobs.look(desk.now);
    let state = desk.attend(1, idle(1));
    let Some(JobEnd::Failed { why }) = &state.end else { panic!("{state:?}") };
    assert!(why.contains("worker 1") && why.contains("60 s"), "{why}");
    assert!(state.sweeps);
    let late = refused(desk.enrol(2, 1, 2));
    assert!(matches!(late, JobRefusal::Ended { .. }), "{late}");
    assert!(matches!(desk.enrol(3, 1, 2), JobAnswer::Enrolled(_)), "another run of that name");
}

#[test]
fn who_wants_the_job_to_stop_is_told_to_all_and_nothing_more_is_dealt() {
    let mut desk = Desk::running(2);
    let stop = || Some(JobEnd::Stopped { why: "Ctrl-C".into() });
    desk.attend(2, JobNews { end: stop(), ..idle(1) });
    let wants = wants(0, 0);
    let state = desk.attend(1, JobNews { places: vec![wants], ..idle(1) });
    assert_eq!((state.stopped.as_deref(), state.dealt.len()), (Some("Ctrl-C"), 0));
    let result = Some("r".to_owned());
    assert!(desk.attend(2, JobNews { result, ..idle(1) }).has_result);
    let state = desk.attend(1, JobNews { end: Some(JobEnd::Done), ..idle(1) });
    assert_eq!(state.results, [(1, "r".to_owned())]);
    assert_eq!(state.end, stop());
    assert_eq!(desk.attend(2, idle(1)).end, stop());
}

#[test]
fn jobs_that_have_ended_are_forgotten_in_time_and_their_names_may_be_used_again() {
    let mut desk = Desk::new();
    for number in 0..20 {
        let job = format!("job-{number}");
        let enrol = JobAsk { job: job.clone(), holder: 1, verb: JobVerb::Enrol(bid(1, 1)) };
        desk.ask(enrol);
        let end = JobVerb::Attend(JobNews { end: Some(JobEnd::Done), ..idle(1) });
        desk.ask(JobAsk { job, holder: 1, verb: end });
        desk.jobs.look(desk.now);
    }
    assert_eq!(desk.jobs.status(desk.now).len(), 16);
    assert!(desk.stored.len() <= 17, "{}", desk.stored.len());
    let enrol = JobAsk { job: "job-0".into(), holder: 1, verb: JobVerb::Enrol(bid(1, 1)) };
    assert!(matches!(desk.ask(enrol), JobAnswer::Enrolled(_)));
    desk.restart();
    let begun = desk.jobs.status(desk.now).into_iter().find(|job| job.name == "job-0");
    assert_eq!(begun.expect("stored").state, "prepares");
}

/// A worker with its journal, which outlives it.
#[derive(Clone, Debug, Default)]
struct Worker {
    done: Option<BatchAt>,
    /// The epoch that it is at.
    epoch: u32,
    /// Portions that its launcher has of it.
    open: Vec<Portion>,
    portion: u64,
}

/// A launcher with one worker.
#[derive(Clone, Debug, Default)]
struct Launcher {
    worker: Worker,
    generation: u32,
}

/// Launchers of one worker each, and how often each batch was done.
struct World {
    desk: Desk,
    launchers: Vec<Launcher>,
    done: BTreeMap<BatchAt, u32>,
}

impl World {
    fn new(hosts: usize) -> World {
        let desk = Desk::running(hosts as u64);
        let launcher = Launcher { generation: 1, ..Launcher::default() };
        World { desk, launchers: vec![launcher; hosts], done: BTreeMap::new() }
    }

    /// A launcher says what it knows, and hears the answer unless that is lost.
    fn attend(&mut self, at: usize, is_lost: bool) {
        let Launcher { worker, generation } = &self.launchers[at];
        let (done, portion) = (worker.done, worker.portion);
        let wants = Some(worker.epoch).filter(|&epoch| epoch < EPOCHS);
        let one = PlaceNews { wants, done, ..self::wants(at as u32, portion) };
        let news = JobNews { places: vec![one], ..idle(*generation) };
        let state = self.desk.attend(at as u64 + 1, news);
        if !is_lost {
            let worker = &mut self.launchers[at].worker;
            for (place, portion) in state.dealt {
                assert_eq!((place, portion.number), (at as u32, worker.portion + 1), "in order");
                worker.portion = portion.number;
                worker.open.push(portion);
            }
        }
    }

    /// A worker does a batch: its lowest that is not done, in the epoch that it is at. Where it
    /// has none of those that there are, it goes on to the next epoch.
    fn work(&mut self, at: usize) {
        let worker = &mut self.launchers[at].worker;
        let batches = worker.open.iter().flat_map(|portion| {
            let Portion { epoch, first, batches, .. } = *portion;
            (first..first + u64::from(batches)).map(move |batch| BatchAt { epoch, batch })
        });
        let own = batches.filter(|one| one.epoch == worker.epoch && Some(*one) > worker.done);
        let Some(next) = own.min() else { return };
        if next.batch >= BATCHES {
            worker.epoch += 1;
            return;
        }
        worker.done = Some(next);
        *self.done.entry(next).or_default() += 1;
    }

    /// A worker dies: its next life begins where the journal ends.
    fn kill_worker(&mut self, at: usize) {
        let worker = &mut self.launchers[at].worker;
        worker.epoch = worker.done.map_or(0, |done| done.epoch);
    }

    /// A launcher dies, its worker with it, and both begin again.
    fn kill_launcher(&mut self, at: usize) {
        let enrolled = self.desk.enrol(at as u64 + 1, 1, self.launchers.len() as u32);
        let JobAnswer::Enrolled(enrolled) = enrolled else { panic!("{enrolled:?}") };
        self.kill_worker(at);
        let launcher = &mut self.launchers[at];
        launcher.generation = enrolled.generation;
        let held = &enrolled.places[0];
        (launcher.worker.portion, launcher.worker.open) = (held.portion, held.open.clone());
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.launchers.iter().all(|launcher| launcher.worker.epoch >= EPOCHS) {
                return;
            }
            for at in 0..self.launchers.len() {
                self.attend(at, false);
                self.work(at);
            }
        }
        panic!("it does not end: {:?}", self.launchers);
    }
}

proptest! {
    #[test]
    fn each_batch_is_done_once_however_launchers_workers_and_coordinators_die(
        hosts in 1_usize..5,
        happenings in proptest::collection::vec((0_u8..20, 0_usize..4), 0..400),
    ) {
        let mut world = World::new(hosts);
        for (what, at) in happenings {
            let at = at % hosts;
            match what {
                0 => world.kill_worker(at),
                1 => world.kill_launcher(at),
                2 => world.desk.restart(),
                3 => world.attend(at, true),
                4 => {
                    // The ask arrives, and the coordinator dies before the store has it.
                    let wants = Some(world.launchers[at].worker.epoch).filter(|&it| it < EPOCHS);
                    let Launcher { worker, generation } = &world.launchers[at];
                    let (done, portion) = (worker.done, worker.portion);
                    let one = PlaceNews { wants, done, ..self::wants(at as u32, portion) };
                    let news = JobNews { places: vec![one], ..idle(*generation) };
                    let attend = ask(at as u64 + 1, JobVerb::Attend(news));
                    let _ = world.desk.jobs.asked(ConnectionId(2), attend, world.desk.now);
                    world.desk.restart();
                }
                5..=9 => world.attend(at, false),
                _ => world.work(at),
            }
        }
        world.finish();
        let of = |epoch| (0..BATCHES).map(move |batch| BatchAt { epoch, batch });
        let all = (0..EPOCHS).flat_map(of);
        let expected: BTreeMap<BatchAt, u32> = all.map(|batch| (batch, 1)).collect();
        prop_assert_eq!(world.done, expected);
    }

    #[test]
    fn what_the_store_has_is_read_back(hosts in 1_usize..5, turns in 0_usize..60) {
        let mut world = World::new(hosts);
        for turn in 0..turns {
            world.attend(turn % hosts, false);
            world.work(turn * 7 % hosts);
        }
        let record = &world.desk.stored["ctr"];
        let json = serde_json::to_vec(record).expect("plain values");
        let read: JobRecord = serde_json::from_slice(&json).expect("as it was written");
        prop_assert_eq!(&read, record);
        prop_assert_eq!(read.check("ctr"), Ok(()));
        prop_assert!(read.check("ads").is_err());
    }

    #[test]
    fn whatever_a_launcher_says_is_answered_and_what_the_store_has_is_fit(
        asks in proptest::collection::vec(any_ask(), 0..60),
    ) {
        let mut desk = Desk::running(2);
        for one in asks {
            let _ = desk.ask(one);
            desk.jobs.look(desk.now);
            for (name, record) in &desk.stored {
                prop_assert_eq!(record.check(name), Ok(()));
            }
        }
        desk.restart();
    }
}

/// An ask that a launcher of this build would not say, or would.
fn any_ask() -> impl Strategy<Value = JobAsk> {
    let number = || prop_oneof![0_u32..4, any::<u32>()];
    let batch = || {
        let at = (number(), any::<u64>()).prop_map(|(epoch, batch)| BatchAt { epoch, batch });
        proptest::option::of(at)
    };
    let portion = || prop_oneof![0_u64..4, any::<u64>()];
    let steps = proptest::option::of(any::<u64>());
    let place = (number(), batch(), portion(), proptest::option::of(number()), steps);
    let place = place.prop_map(|(place, done, portion, wants, steps)| PlaceNews {
        place,
        done,
        steps,
        portion,
        wants,
    });
    let end = prop_oneof![
        Just(None),
        Just(Some(JobEnd::Done)),
        Just(Some(JobEnd::Stopped { why: "s".into() })),
        Just(Some(JobEnd::Failed { why: "f".into() })),
    ];
    let places = proptest::collection::vec(place, 0..5);
    let news = (number(), places, any::<bool>(), proptest::option::of(".{0,9}"), end);
    let attend = news.prop_map(|(generation, places, is_prepared, result, end)| {
        let results_seen = Vec::new();
        JobVerb::Attend(JobNews { generation, places, is_prepared, result, results_seen, end })
    });
    let enrol = (".{0,4}", number(), number(), number(), portion(), any::<bool>()).prop_map(
        |(host, wanted, workers, epochs, splits, stands_by)| {
            let bid = bid(1, 2);
            JobVerb::Enrol(JobBid { host, wanted, workers, epochs, splits, stands_by, ..bid })
        },
    );
    let job = prop_oneof![Just("ctr".to_owned()), "[a-z/]{0,3}"];
    (job, 0_u64..4, prop_oneof![attend, enrol]).prop_map(|(job, holder, verb)| JobAsk {
        job,
        holder,
        verb,
    })
}
