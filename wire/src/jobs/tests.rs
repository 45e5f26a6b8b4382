//! Asks that are refused by what they say, and those that pass.

use super::*;
use crate::control::{ToCoordinator, ToMember};
use crate::control_frame::{CONTROL_BYTES_MAX, CONTROL_REQUEST_BYTES_MAX, control_frame};

fn bid() -> JobBid {
    let setting = JobSetting { name: "--train".into(), value: "a.svm".into() };
    let (workers, wanted) = (12, 4);
    let (host, settings) = ("a".into(), vec![setting]);
    JobBid { host, id: 7, wanted, workers, epochs: 2, settings, ..JobBid::default() }
}

fn enrol(job: &str, bid: JobBid) -> JobAsk {
    JobAsk { job: job.to_owned(), holder: 9, verb: JobVerb::Enrol(bid) }
}

#[test]
fn an_ask_out_of_bounds_is_refused_with_what_it_is() {
    assert_eq!(enrol("ctr-2.b_1", bid()).check(), Ok(()));
    let long = "n".repeat(JOB_NAME_BYTES_MAX + 1);
    let setting = JobSetting { name: "t".into(), value: "v".repeat(JOB_SETTING_BYTES_MAX + 1) };
    let wrong = [
        enrol("", bid()),
        enrol(&long, bid()),
        enrol("a/b", bid()),
        enrol("a", JobBid { workers: 0, ..bid() }),
        enrol("a", JobBid { workers: JOB_WORKERS_MAX + 1, ..bid() }),
        enrol("a", JobBid { wanted: 0, ..bid() }),
        enrol("a", JobBid { epochs: JOB_EPOCHS_MAX + 1, ..bid() }),
        enrol("a", JobBid { patience_ms: JOB_PATIENCE_MS_MIN - 1, ..bid() }),
        enrol("a", JobBid { patience_ms: JOB_PATIENCE_MS_MAX + 1, ..bid() }),
        enrol("a", JobBid { splits: JOB_SPLITS_MAX + 1, ..bid() }),
        enrol("a", JobBid { settings: vec![setting], ..bid() }),
        enrol("a", JobBid { settings: vec![bid().settings[0].clone(); 33], ..bid() }),
        enrol("a", JobBid { host: String::new(), ..bid() }),
    ];
    for ask in wrong {
        let refused = ask.check().expect_err("out of bounds");
        assert!(matches!(refused, JobRefusal::Unfit { .. }), "{refused}");
    }
    let result = Some("r".repeat(JOB_RESULT_BYTES_MAX + 1));
    let verb = JobVerb::Attend(JobNews { result, ..JobNews::default() });
    let ask = JobAsk { job: "a".into(), holder: 1, verb };
    assert!(ask.check().is_err());
}

#[test]
fn the_greatest_ask_and_answers_fit_into_a_frame() {
    let end = Some(JobEnd::Failed { why: "\u{1}".repeat(JOB_REASON_BYTES_MAX) });
    let done = Some(BatchAt { epoch: u32::MAX, batch: u64::MAX });
    let news = |place| {
        let (steps, portion) = (Some(u64::MAX), u64::MAX);
        PlaceNews { place, done, steps, portion, wants: Some(u32::MAX) }
    };
    let places: Vec<PlaceNews> = (0..JOB_WORKERS_MAX).map(|place| news(u32::MAX - place)).collect();
    let result = "\u{1}".repeat(JOB_RESULT_BYTES_MAX);
    let verb = JobVerb::Attend(JobNews {
        generation: u32::MAX,
        places,
        is_prepared: true,
        result: Some(result.clone()),
        results_seen: vec![u32::MAX; JOB_WORKERS_MAX as usize],
        end: end.clone(),
    });
    let ask = ToCoordinator::Job(JobAsk { job: "j".repeat(64), holder: u64::MAX, verb });
    let framed = control_frame(&ask, CONTROL_REQUEST_BYTES_MAX);
    assert!(framed.is_ok(), "{:?}", framed.err());
    let portion = Portion { number: u64::MAX, epoch: u32::MAX, first: u64::MAX, batches: u32::MAX };
    let all = JOB_WORKERS_MAX as usize * PORTIONS_OPEN_MAX;
    // Results travel as people's programs write them: quotes are two bytes each.
    let plain = "\"".repeat(JOB_RESULT_BYTES_MAX);
    let state = JobState {
        dealt: vec![(u32::MAX, portion); all],
        results: vec![(u32::MAX, plain); JOB_RESULTS_AT_ONCE_MAX],
        end,
        ..JobState::default()
    };
    let open = vec![portion; PORTIONS_OPEN_MAX];
    let done = Some(portion.last());
    let (steps, untold) = (u64::MAX, Some(u64::MAX));
    let place = PlaceHeld { place: u32::MAX, portion: u64::MAX, open, done, steps, untold };
    let places = vec![place; JOB_WORKERS_MAX as usize];
    let (id, splits) = (u64::MAX, u64::MAX);
    let enrolled = Enrolled { id, generation: u32::MAX, places, splits };
    for answer in [JobAnswer::State(state), JobAnswer::Enrolled(enrolled)] {
        let framed = control_frame(&ToMember::Job(Box::new(answer)), CONTROL_BYTES_MAX);
        assert!(framed.is_ok(), "{:?}", framed.err());
    }
}

#[test]
fn what_builds_of_before_say_of_no_splits_is_read_as_none() {
    let mut bid = serde_json::to_value(JobBid { splits: 7, ..bid() }).expect("plain values");
    let splits = |value: &serde_json::Value| {
        serde_json::from_value::<JobBid>(value.clone()).expect("a bid").splits
    };
    assert_eq!(splits(&bid), 7);
    bid.as_object_mut().expect("fields").remove("splits");
    assert_eq!(splits(&bid), 0);
    let enrolled = r#"{"id":1,"generation":1,"places":[]}"#;
    assert_eq!(serde_json::from_str::<Enrolled>(enrolled).expect("of before").splits, 0);
    let state = r#"{"taken":1,"is_prepared":true,"has_result":false,"hosts":1}"#;
    assert_eq!(serde_json::from_str::<JobState>(state).expect("of before").epochs_dealt, 0);
}
