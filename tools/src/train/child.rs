//! One worker as a process of its own: `gradwire worker`.
//!
//! Owns reading the plan, telling the parent how it goes, and ending when the parent is gone.

use std::io::{self, BufRead};
use std::time::Duration;

use learn::{Epochs, INCARNATION, LogisticRegression};

use super::workers::{Done, Report, WorkerPlan, watch};
use crate::failure::Failure;
use crate::output;
use crate::signals::Stop;

/// How long a worker may take to end in good order once its parent is gone.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Works as the plan on standard input says.
pub(crate) fn run() -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::failed)?;
    let plan: WorkerPlan = serde_json::from_str(&line)
        .map_err(|error| Failure::usage(format!("the plan on standard input: {error}")))?;
    watch_parent(stop.clone())?;
    match go(&plan, &stop) {
        Ok(()) => Ok(()),
        Err(failure) => output::json(&Report::Failed { why: failure.to_string() }),
    }
}

fn go(plan: &WorkerPlan, stop: &Stop) -> Result<(), Failure> {
    let feed = Epochs::open(plan.source.clone(), plan.epochs).map_err(Failure::failed)?;
    let mut session = plan.contact.session(plan.who(), INCARNATION)?;
    let (job, weights) = plan.job();
    let mut learner = LogisticRegression::new(weights, &plan.optimizer);
    let mut watch = watch(&feed, stop, |report| {
        if output::json(&report).is_err() {
            stop.ask(); // Nobody listens any more.
        }
    });
    let worked = job.work(&mut session, &mut learner, &feed, &mut watch);
    drop(watch);
    output::json(&Report::Done(Box::new(Done::new(worked.map_err(Failure::failed)?, &feed))))
}

/// Asks this process to stop when the parent says so, by any line, or is gone: then standard
/// input ends.
pub(crate) fn watch_parent(stop: Stop) -> Result<(), Failure> {
    let watch = move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            stop.ask();
        }
        stop.ask();
        std::thread::sleep(FAREWELL_MAX);
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("parent".to_owned()).spawn(watch);
    thread.map(drop).map_err(Failure::failed)
}
