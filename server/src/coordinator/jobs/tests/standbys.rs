//! Launchers that stand by: whom they are told to wait for, and when they take part.
//!
//! That nothing is done twice or left out by them is seen to in `splits`, under random histories.

use std::time::Duration;

use wire::{JobAnswer, JobBid, JobEnd, JobNews, JobRefusal, JobSetting, JobVerb, PlaceNews};

use super::{Desk, HOST_PATIENCE, ask, bid, idle, refused, wants};

/// As [`bid`], of one that stands by.
fn stand_by(workers: u32) -> JobVerb {
    JobVerb::Enrol(JobBid { stands_by: true, ..bid(1, workers) })
}

impl Desk {
    /// Time goes by in which this host alone is heard of, and who stands by.
    fn miss_others(&mut self, heard: u64, standbys: &[u64], workers: u32) {
        self.now = self.now + HOST_PATIENCE + Duration::from_millis(1);
        self.attend(heard, idle(1));
        standbys.iter().for_each(|&holder| drop(self.ask(ask(holder, stand_by(workers)))));
        self.jobs.look(self.now);
    }
}

#[test]
fn who_stands_by_waits_and_has_the_places_of_a_host_that_is_gone() {
    let mut desk = Desk::running(2);
    assert_eq!(desk.ask(ask(8, stand_by(2))), JobAnswer::StandsBy { hosts: 2 });
    assert_eq!(desk.jobs.status(desk.now)[0].standbys, 1);
    let settled = PlaceNews { steps: Some(5), ..wants(1, 0) };
    desk.attend(2, JobNews { places: vec![settled], ..idle(1) });
    desk.miss_others(1, &[8, 9], 2);
    let JobAnswer::Enrolled(enrolled) = desk.ask(ask(8, stand_by(2))) else { panic!("its turn") };
    let place = &enrolled.places[0];
    assert_eq!((enrolled.generation, place.place, place.steps), (2, 1, 5));
    assert_eq!((place.untold, place.open.len()), (Some(5), 1));
    assert_eq!(desk.ask(ask(9, stand_by(2))), JobAnswer::StandsBy { hosts: 2 });
    assert_eq!(desk.jobs.status(desk.now)[0].standbys, 1, "the other one");
    // Who was gone comes back, or begins again.
    assert_eq!(refused(desk.ask(ask(2, JobVerb::Attend(idle(1))))), JobRefusal::Replaced);
    assert_eq!(refused(desk.enrol(2, 1, 2)), JobRefusal::Replaced);
    desk.restart();
    assert_eq!(refused(desk.ask(ask(2, stand_by(2)))), JobRefusal::Replaced);
    assert_eq!(desk.attend(8, idle(2)).end, None, "the job goes on");
}

#[test]
fn who_has_stopped_asking_does_not_stand_by() {
    let mut desk = Desk::running(2);
    desk.ask(ask(8, stand_by(2)));
    desk.miss_others(1, &[], 2);
    let end = desk.attend(1, idle(1)).end;
    assert!(matches!(&end, Some(JobEnd::Failed { why }) if why.contains("--stand-by")), "{end:?}");
    let refusal = refused(desk.ask(ask(8, stand_by(2))));
    assert!(matches!(refusal, JobRefusal::Ended { .. }), "{refusal}");
}

#[test]
fn a_launcher_of_before_whose_steps_nobody_knows_is_not_replaced() {
    let mut desk = Desk::running(2);
    desk.attend(2, JobNews { places: vec![wants(1, 0)], ..idle(1) });
    desk.miss_others(1, &[8], 2);
    assert!(matches!(desk.attend(1, idle(1)).end, Some(JobEnd::Failed { .. })));
}

#[test]
fn a_host_that_is_there_is_replaced_by_order_if_another_one_stands_by() {
    let mut desk = Desk::running(2);
    let order = |worker| ask(0, JobVerb::Replace { worker });
    let none = refused(desk.ask(order(1))).to_string();
    assert!(none.contains("--stand-by"), "{none}");
    desk.ask(ask(8, stand_by(2)));
    let nobody = refused(desk.ask(order(2))).to_string();
    assert!(nobody.contains("no host has worker 2"), "{nobody}");
    let (gone, by) = ("h".to_owned(), "h".to_owned());
    assert_eq!(desk.ask(order(1)), JobAnswer::Replaced { gone, by });
    assert_eq!(refused(desk.ask(ask(2, JobVerb::Attend(idle(1))))), JobRefusal::Replaced);
    let JobAnswer::Enrolled(enrolled) = desk.ask(ask(8, stand_by(2))) else { panic!("its turn") };
    assert_eq!(enrolled.places[0].place, 1);
}

#[test]
fn who_would_stand_by_for_another_job_or_for_none_is_told_so() {
    let mut desk = Desk::new();
    assert_eq!(refused(desk.ask(ask(8, stand_by(2)))), JobRefusal::Unknown);
    let mut desk = Desk::running(2);
    let setting = JobSetting { name: "--clock".into(), value: "asp".into() };
    let other = JobBid { settings: vec![setting], stands_by: true, ..bid(1, 2) };
    let refusal = refused(desk.ask(ask(8, JobVerb::Enrol(other))));
    assert!(matches!(refusal, JobRefusal::Differs { .. }), "{refusal}");
    (0..64).for_each(|holder| drop(desk.ask(ask(100 + holder, stand_by(2)))));
    let refusal = refused(desk.ask(ask(8, stand_by(2))));
    assert!(matches!(refusal, JobRefusal::Full { count_max: 64, .. }), "{refusal}");
}
