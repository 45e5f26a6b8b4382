//! One worker as a process of its own: `gradwire worker`.
//!
//! Owns reading the plan, telling the parent how it goes, and ending when the parent is gone.

use std::io::{self, BufRead};
use std::time::Duration;

use learn::Epochs;

use super::workers::{INCARNATION, Report, WorkerPlan, work};
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
    let none = || Failure::usage("the plan says no servers");
    let contact = plan.contact.as_ref().ok_or_else(none)?;
    let feed = Epochs::open(plan.source.clone(), plan.epochs).map_err(Failure::failed)?;
    let session = contact.session(plan.who(), INCARNATION)?;
    let mut lost = false;
    work(session, plan, &feed, stop, &mut |report| {
        lost |= output::json(&report).is_err();
        if lost {
            stop.ask();
        }
    })
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
